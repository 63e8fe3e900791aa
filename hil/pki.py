"""Throw-away certificates for Modbus/TCP Security: one CA, one server, one client per role.

Rule of this file: for the bench alone.  Keys lie beside their certificates without a password, readable by
their owner only; the CA's key is not kept, so nobody can add to what was made.

References
----------
MODBUS/TCP Security V3.6: the role is one ASN.1 UTF8String in the extension 1.3.6.1.4.1.50316.802.1.
Secure SunSpec Modbus, SunSpecTCP-17, -22 and -42 to -44, as pysunspec2 quotes them: P-256, four roles.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.rights import (
    GRID_SERVICE,
    NETWORK_ADMINISTRATOR,
    READ_ONLY,
    SUPER_ADMINISTRATOR,
)
from ridethrough.emulator.tls import ROLE_OID

from .target import TlsTarget

HOSTS: Final = ("localhost", "127.0.0.1", "::1")
DAYS_MAX: Final = 366

SLACK: Final = timedelta(hours=1)
"""Certificates are valid from this long ago: other machines' clocks may be behind."""

_FILE_OF: Final = {
    READ_ONLY: "client-read-only",
    GRID_SERVICE: "client-grid-service",
    NETWORK_ADMINISTRATOR: "client-network-administrator",
    SUPER_ADMINISTRATOR: "client-super-administrator",
}
_CA: Final = "ca"
_SERVER: Final = "server"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Pki:
    """The files of one throw-away PKI.

    Attributes
    ----------
    ca : Path
        Certificate that both sides trust.
    server : Credentials
    clients : Mapping[str, Credentials]
        By role.
    hosts : tuple of str
        Names and addresses that the server's certificate is for.
    """

    ca: Path
    server: Credentials
    clients: Mapping[str, Credentials]
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key."""

    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def cert_pem(self) -> bytes:
        """Return the certificate as PEM."""
        return self.cert.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """Return the key as PEM, without a password."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ridethrough, for tests only"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def utf8_string(text: str) -> bytes:
    """Return a text of at most 127 bytes as an ASN.1 UTF8String, DER encoded."""
    data = text.encode()
    if len(data) > 127:
        raise ScenarioError(f"role: {len(data)} bytes found; allowed are 127")
    return bytes((0x0C, len(data))) + data


def role_extension(*roles: str) -> x509.UnrecognizedExtension:
    """Return the role extension; several roles become one string behind the other, which is not allowed."""
    value = b"".join(utf8_string(role) for role in roles)
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(ROLE_OID), value)


class Authority:
    """A CA that lives as long as this object.

    Parameters
    ----------
    common_name : str
    valid_from, valid_until : datetime
        For its own certificate, and by default for those it issues.
    """

    def __init__(self, common_name: str, valid_from: datetime, valid_until: datetime) -> None:
        self.valid_from, self.valid_until = valid_from, valid_until
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(common_name), self._key, valid_from, valid_until)
        builder = builder.issuer_name(_name(common_name))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(ca=True), critical=True)
        self.cert = builder.sign(self._key, hashes.SHA256())

    @staticmethod
    def _builder(
        name: x509.Name, key: ec.EllipticCurvePrivateKey, valid_from: datetime, valid_until: datetime
    ) -> x509.CertificateBuilder:
        public = key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(valid_from)
            .not_valid_after(valid_until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    def issue(
        self,
        common_name: str,
        *,
        hosts: Iterable[str] = (),
        role: x509.UnrecognizedExtension | None = None,
        purpose: x509.ObjectIdentifier | None = None,
        valid_from: datetime | None = None,
        valid_until: datetime | None = None,
        self_signed: bool = False,
    ) -> Issued:
        """Return a new key and its certificate.

        Parameters
        ----------
        common_name : str
        hosts : iterable of str
            Names and addresses, for a server.
        role : UnrecognizedExtension, optional
            From `role_extension`, for a client.
        purpose : ObjectIdentifier, optional
            What the certificate is for; by default a server with hosts, a client without.
        valid_from, valid_until : datetime, optional
        self_signed : bool
            Signed by its own key instead of the CA's.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name)
        builder = self._builder(
            name, key, valid_from or self.valid_from, valid_until or self.valid_until
        ).issuer_name(name if self_signed else self.cert.subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(ca=False), critical=True)
        names = [_general_name(host) for host in hosts]
        if purpose is None:
            purpose = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if role is not None:
            builder = builder.add_extension(role, critical=False)
        signer = key if self_signed else self._key
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(issuer, critical=False)
        return Issued(builder.sign(signer, hashes.SHA256()), key)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise ScenarioError(
            f"hosts: {host!r} found; allowed are IP addresses, and names in ASCII such as bench.example"
        ) from None


def _write(path: Path, data: bytes) -> Path:
    """Write a new file that only its owner may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    return path


def _write_pair(folder: Path, name: str, issued: Issued) -> Credentials:
    return Credentials(
        _write(folder / f"{name}.crt", issued.cert_pem()), _write(folder / f"{name}.key", issued.key_pem())
    )


def _new_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ScenarioError(
            f"pki: {str(folder)!r} is not empty, and nothing is overwritten; "
            "allowed is an empty folder, or one that is not there yet"
        )


def make_pki(folder: str | Path, hosts: Iterable[str] = HOSTS, days: int = 7) -> Pki:
    """Make a throw-away PKI: a CA, a server's certificate, and a client's for each role.

    Parameters
    ----------
    folder : str or Path
        New or empty.
    hosts : iterable of str
        Names and addresses by which clients reach the server.
    days : int
        How long the certificates are valid, 1 to 366 [d].

    Raises
    ------
    ScenarioError
        The folder is in use or cannot be made, a host is no name, or `days` is out of range.
    """
    folder, hosts = Path(folder), tuple(hosts)
    if type(days) is not int or not 1 <= days <= DAYS_MAX:
        raise ScenarioError(f"pki: {days!r} days found; allowed are whole numbers 1..{DAYS_MAX}")
    if not hosts:
        raise ScenarioError("pki: no hosts found; allowed is at least one name or address of the server")
    now = datetime.now(UTC)
    authority = Authority("Ridethrough throw-away CA", now - SLACK, now + timedelta(days=days))
    server = authority.issue(hosts[0], hosts=hosts)
    clients = {role: authority.issue(role, role=role_extension(role)) for role in _FILE_OF}
    try:
        _new_folder(folder)
        ca = _write(folder / f"{_CA}.crt", authority.cert.public_bytes(serialization.Encoding.PEM))
        return Pki(
            ca,
            _write_pair(folder, _SERVER, server),
            {role: _write_pair(folder, _FILE_OF[role], issued) for role, issued in clients.items()},
            hosts,
        )
    except OSError as error:
        raise ScenarioError(
            f"pki: {str(folder)!r} cannot hold certificates ({error.strerror}); choose another folder"
        ) from error


def load_pki(folder: str | Path) -> Pki:
    """Return the PKI that `make_pki` made in a folder.

    Raises
    ------
    ScenarioError
        A file is missing, the server's certificate cannot be read, or it is no longer valid.
    """
    folder = Path(folder)
    pairs = {
        name: Credentials(folder / f"{name}.crt", folder / f"{name}.key")
        for name in (_SERVER, *_FILE_OF.values())
    }
    ca = folder / f"{_CA}.crt"
    for path in (ca, *(path for pair in pairs.values() for path in (pair.cert, pair.key))):
        if not path.is_file():
            raise ScenarioError(
                f"pki: {str(path)!r} is missing; allowed is a folder that was made here, or an empty one"
            )
    server = pairs.pop(_SERVER)
    try:
        cert = x509.load_pem_x509_certificate(server.cert.read_bytes())
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise ScenarioError(f"pki: {str(server.cert)!r} cannot be used: {error}") from None
    until = cert.not_valid_after_utc
    if until < datetime.now(UTC):
        raise ScenarioError(
            f"pki: the certificates in {str(folder)!r} were valid until {until:%Y-%m-%d %H:%M} UTC; "
            "choose another folder, and new ones are made"
        )
    return Pki(
        ca,
        server,
        {role: pairs[name] for role, name in _FILE_OF.items()},
        tuple(str(name.value) for name in names),
    )


def how_to_connect(pki: Pki, host: str, port: int, unit: int = 1) -> str:
    """Return how clients connect to a server that uses this PKI, as lines to copy.

    Parameters
    ----------
    pki : Pki
    host : str
        Name or address by which clients reach the server.
    port, unit : int

    Raises
    ------
    ScenarioError
        The server's certificate is not for that host, so no client would accept it.
    """
    if host not in pki.hosts:
        raise ScenarioError(
            f"pki: the server's certificate is not for {host!r}; it is for {', '.join(pki.hosts)}"
        )

    def quoted(path: Path) -> str:
        return shlex.quote(str(path))

    target = shlex.quote(str(TlsTarget(host, port, unit)))
    lines = ["Modbus/TCP Security. What a client may do depends on the role in its certificate:"]
    for role, client in pki.clients.items():
        lines.append(
            f"  {role}:\n    ridethrough scan {target} --cert {quoted(client.cert)} "
            f"--key {quoted(client.key)} --ca {quoted(pki.ca)}"
        )
    client = pki.clients[READ_ONLY]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines.append(
        "With pysunspec2:\n"
        "    from sunspec2.modbus.client import SunSpecModbusClientDeviceTCP\n"
        f"    device = SunSpecModbusClientDeviceTCP({unit}, ipaddr={host!r}, ipport={port}, tls=True,\n"
        f"        cafile={str(pki.ca)!r},\n"
        f"        certfile={str(client.cert)!r},\n"
        f"        keyfile={str(client.key)!r})\n"
        "    device.scan()"
    )
    lines.append(
        f"With OpenSSL, to see the handshake:\n    openssl s_client -connect {shlex.quote(address)} "
        f"-cert {quoted(client.cert)} -key {quoted(client.key)} -CAfile {quoted(pki.ca)}"
    )
    return "\n".join(lines)
