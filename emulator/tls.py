"""Modbus/TCP Security: Modbus TCP frames inside TLS, with rights by the role in the client's certificate.

Duty: a core for server.py that takes and gives TLS records, with a `_modbus.Connection` inside, so that all
guards of the plain server hold here too: its limit of connections, its time-outs, its lanes.  Whatever is not
whole counts as an incomplete frame: a handshake, a record, a Modbus frame.  So a handshake may take as long
as a frame may.

Rule of this file: no socket and no loop.  TLS itself is OpenSSL's, and it alone knows the time of day, by
which certificates are valid or not.  A certificate comes from a stranger: nothing in one may raise.

What is refused, and where:

- In the handshake: TLS 1.1 and older, a client without a certificate, a certificate that is self-signed, from
  another CA, not valid yet or any more, or made for other uses than a client's.
- By exception 01 on every request: a certificate without a role, with two, with a role that nobody knows, or
  with one that is not encoded as it must be.  A client can then find out why it may not do anything.

One piece of input can complete one record of 16 KiB that began in earlier pieces, so its replies are five
times what server.py says of a plain connection, at most.

References
----------
MODBUS/TCP Security V3.6 (MB-TCP-Security-v36): TLS 1.2 or newer, certificates on both sides, no compression,
no renegotiation; the role is one ASN.1 UTF8String in the extension 1.3.6.1.4.1.50316.802.1.
Secure SunSpec Modbus, requirements SunSpecTCP-17, -22, -29 to -32 and -42 to -44, as pysunspec2 quotes them:
ECDHE-ECDSA on P-256, the four roles, exactly one of them.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from ._modbus import Connection
from ._pdu import Units
from ._peer import PIECE_BYTES
from .errors import ScenarioError
from .rights import PointMap, Rights, point_map

if TYPE_CHECKING:
    from ._modbus import Unit

ROLE_OID: Final = "1.3.6.1.4.1.50316.802.1"

CURVE: Final = "prime256v1"
"""P-256 by OpenSSL's name.  Every client of TLS 1.3 has it (RFC 8446, 9.1), and Secure SunSpec Modbus asks
for it in TLS 1.2, so offering no other curve turns nobody away who keeps to the standard."""

CIPHERS_TLS12: Final = ":".join(
    f"ECDHE-{key}-{bulk}"
    for key in ("ECDSA", "RSA")  # RSA for a certificate that the user brings
    for bulk in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-CCM")
    if (key, bulk) != ("RSA", "AES128-CCM")  # there is none in OpenSSL
)
"""Forward secrecy and authenticated encryption, in the order of preference; TLS 1.3 has nothing else."""

_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client showed no certificate",
    "WRONG_VERSION_NUMBER": "what came is no TLS; plain Modbus, perhaps",
    "HTTP_REQUEST": "what came is no TLS but HTTP",
    "UNSUPPORTED_PROTOCOL": "the client has no TLS 1.2 or newer",
    "VERSION_TOO_LOW": "the client has no TLS 1.2 or newer",
    "NO_SHARED_CIPHER": "the client has no cipher suite that is allowed here",
    "NO_SHARED_GROUP": "the client has no P-256",
    "NO_SUITABLE_KEY_SHARE": "the client has no P-256",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not know the CA of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not accept our certificate",
}
"""What OpenSSL calls what a tester meets most often."""

_UTF8_STRING: Final = 0x0C
_RECORD_HEADER: Final = 5


@dataclass(frozen=True, slots=True)
class TlsServerSettings:
    """What a server shows and trusts, as PEM files.

    Attributes
    ----------
    cert, key : str or Path
        The server's certificate, with those between it and its root, and its key, without a password.
    client_ca : str or Path
        Roots that clients' certificates may come from.
    """

    cert: str | Path
    key: str | Path
    client_ca: str | Path


def server_context(settings: TlsServerSettings) -> ssl.SSLContext:
    """Return a context of TLS 1.2 and 1.3 that asks every client for a certificate.

    Raises
    ------
    ScenarioError
        A file cannot be read, or certificate and key do not fit each other.
    """
    for name in ("cert", "key", "client_ca"):
        path = Path(getattr(settings, name))
        if not path.is_file():
            raise ScenarioError(f"tls {name}: {str(path)!r} found; allowed is a PEM file that exists")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(CIPHERS_TLS12)
    context.set_ecdh_curve(CURVE)
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(settings.client_ca)
    except (ssl.SSLError, OSError) as error:
        raise ScenarioError(
            f"tls client_ca: {str(settings.client_ca)!r} cannot be used: {error}; allowed is PEM"
        ) from None
    try:
        context.load_cert_chain(settings.cert, settings.key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ScenarioError(
            f"tls cert, key: {str(settings.cert)!r} and {str(settings.key)!r} cannot be used: {error}; "
            "allowed are a certificate and its own key, in PEM, without a password"
        ) from None
    return context


def _no_password() -> str:
    """Nobody can be asked for one here."""
    raise ValueError("the key is locked with a password")


def role_of(der: bytes | None) -> str | None:
    """Return the role that a certificate gives its owner; None where it does not give exactly one.

    Parameters
    ----------
    der : bytes or None
        The certificate, DER encoded.
    """
    if der is None:
        return None
    try:
        # A second extension of the same id, as whatever else is malformed, raises here.
        extensions = x509.load_der_x509_certificate(der).extensions
        values = [found.value for found in extensions if found.oid.dotted_string == ROLE_OID]
        return _utf8_string(values[0].public_bytes()) if values else None
    except Exception:  # whatever a stranger's certificate makes the parser raise
        return None


def _utf8_string(der: bytes) -> str | None:
    """Return the one UTF8String that `der` is, with nothing behind it; None for anything else."""
    # Short form of the length: a text of more than 127 bytes is none of the roles.
    if len(der) < 3 or der[0] != _UTF8_STRING or der[1] > 127 or der[1] != len(der) - 2:
        return None
    return der[2:].decode("utf-8")


@dataclass(slots=True)
class Handshakes:
    """What has become of the handshakes of one server.

    Attributes
    ----------
    begun, done : int
    refused : Counter of str
        How often one failed, by the reason in words.
    """

    begun: int = 0
    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def unfinished(self) -> int:
        """Handshakes under way, given up by the client or cut off by the time-out."""
        return self.begun - self.done - self.refused.total()


class TlsConnection:
    """The server's end of one connection inside TLS; a `server.Core`.

    Parameters
    ----------
    context : ssl.SSLContext
        Of a server.
    inside : callable
        Given the role of the client, or None, once the handshake is over; returns what answers its requests.
    handshakes : Handshakes
        Takes note of this one.
    report : callable, optional
        Told why a handshake was refused.

    Attributes
    ----------
    closed : bool
        No more is answered: the client said good-bye, broke TLS or Modbus, or was refused.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        inside: Callable[[str | None], Connection],
        handshakes: Handshakes,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.closed = False
        self._inside = inside
        self._handshakes = handshakes
        self._report = report
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._connection: Connection | None = None
        self._header = b""  # of a record, while incomplete
        self._missing = 0  # bytes of a record whose header is known
        self._begun = False

    @property
    def pending(self) -> int:
        """Whether something is incomplete: 0 if nothing is."""
        if self.closed:
            return 0
        if self._connection is None:
            return 1
        return self._connection.pending or len(self._header) or self._missing

    @property
    def frames(self) -> int:
        """Modbus frames completed so far."""
        return 0 if self._connection is None else self._connection.frames

    @property
    def last_error(self) -> Exception | None:
        """What a unit last raised or got wrong; may be set back to None."""
        return None if self._connection is None else self._connection.last_error

    @last_error.setter
    def last_error(self, error: Exception | None) -> None:
        if self._connection is not None:
            self._connection.last_error = error

    def receive(self, data: bytes, /) -> bytes:
        """Take the next bytes of the stream and return what is to be sent."""
        if self.closed:
            return b""
        if not self._begun:  # a connection that says nothing, or is one too many, is no handshake
            self._begun = True
            self._handshakes.begun += 1
        self._follow(data)
        self._received.write(data)
        try:
            connection = self._connection or self._shake_hands()
            self._answer(connection)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.closed = True
            if self._connection is None:
                self._refuse(error)
        return self._to_send.read()

    def _shake_hands(self) -> Connection:
        self._tls.do_handshake()
        self._handshakes.done += 1
        # Only now is the certificate known to come from our CA, and its key to be the client's.
        self._connection = self._inside(role_of(self._tls.getpeercert(binary_form=True)))
        return self._connection

    def _refuse(self, error: ssl.SSLError) -> None:
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"the client's certificate is not accepted: {error.verify_message}"
        else:
            reason = _REASONS.get(error.reason) or str(error.reason).lower().replace("_", " ")
        self._handshakes.refused[reason] += 1
        if self._report is not None:
            self._report(reason)

    def _answer(self, connection: Connection) -> None:
        """Answer until the client has to send more, which raises, or nothing more is answered."""
        while not connection.closed:
            data = self._tls.read(PIECE_BYTES)
            if not data:  # the client said good-bye
                break
            replies = connection.receive(data)
            if replies:
                self._tls.write(replies)
        self.closed = True
        with suppress(ssl.SSLError):  # which says that the client has not said good-bye yet
            self._tls.unwrap()

    def _follow(self, data: bytes) -> None:
        """Note whether the stream is inside a record: OpenSSL does not tell."""
        place = 0
        while place < len(data):
            if self._missing:
                step = min(self._missing, len(data) - place)
                self._missing -= step
            else:
                step = _RECORD_HEADER - len(self._header)
                self._header += data[place : place + step]
                if len(self._header) == _RECORD_HEADER:
                    self._missing = int.from_bytes(self._header[3:], "big")
                    self._header = b""
            place += step


class TlsUnits:
    """Units behind TLS: to be given to `serve_tcp` as its `core`, along with the same units.

    Parameters
    ----------
    units : Mapping[int, Unit]
        The units by unit id; each has a `layout` or a `point_at`, so that rights by register can be told.
    context : ssl.SSLContext
        From `server_context`.
    absent : int
        As for `Connection`.
    report : callable, optional
        Told why a handshake was refused, in words.

    Attributes
    ----------
    handshakes : Handshakes

    Raises
    ------
    ScenarioError
        `units` is empty, has a key that is no unit id, or has a unit that does not say where its points lie.
    """

    def __init__(
        self,
        units: Mapping[int, Unit],
        context: ssl.SSLContext,
        *,
        absent: int = 0x0B,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.handshakes = Handshakes()
        self._units = Units(units)
        self._maps: Mapping[int, PointMap] = {unit_id: point_map(unit) for unit_id, unit in units.items()}
        self._context = context
        self._absent = absent
        self._report = report

    def __call__(self, transport: object = None) -> TlsConnection:
        """Return the core of one new connection."""
        return TlsConnection(self._context, self._inside, self.handshakes, self._report)

    def _inside(self, role: str | None) -> Connection:
        return Connection(self._units, absent=self._absent, rights=Rights(role, self._maps))
