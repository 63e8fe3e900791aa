"""One connection inside TLS without a socket: any cut of the stream, and what a certificate says."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.rights import ROLES, SUPER_ADMINISTRATOR
from ridethrough.emulator.tls import (
    Handshakes,
    TlsConnection,
    TlsServerSettings,
    TlsUnits,
    role_of,
    server_context,
)
from ridethrough.hil.pki import role_extension, utf8_string

from tests.emulator.modbus_rows import Memory
from tests.emulator.tls_bench import NO_ROLE, certificates, client_context, device, frame, read, server_files

PIECE = 4096
SERVER = server_context(server_files())


class Client:
    """The other end: what it sends lies in `sent` until it is carried over."""

    def __init__(self, core: TlsConnection, version: ssl.TLSVersion | None = None) -> None:
        self.core = core
        self.sent = ssl.MemoryBIO()
        self._got = ssl.MemoryBIO()
        context = client_context(SUPER_ADMINISTRATOR, version)
        self.tls = context.wrap_bio(self._got, self.sent, server_hostname="localhost")

    def carry(self, cuts: list[int] | None = None) -> None:
        """Give the server what lies there, cut into pieces, and the client the answers."""
        data, place = self.sent.read(), 0
        for cut in [*(cuts or []), PIECE]:
            step = len(data) if cut == PIECE else cut
            for start in range(place, min(place + step, len(data)), PIECE):
                end = min(start + PIECE, place + step, len(data))
                self._got.write(self.core.receive(data[start:end]))
            place += step

    def shake_hands(self, cuts: list[int] | None = None, *, last: bool = True) -> None:
        """Come to the end of the handshake; its last message may be left lying."""
        for _ in range(4):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.carry(cuts)
            else:
                if last:
                    self.carry(cuts)
                return
        raise AssertionError("the handshake does not end")

    def read(self) -> bytes:
        """Return all replies there are."""
        found = b""
        try:
            while data := self.tls.read(65_536):
                found += data
        except ssl.SSLWantReadError:
            pass
        return found


def core() -> tuple[TlsConnection, list[str | None], Handshakes]:
    roles: list[str | None] = []
    handshakes = Handshakes()

    def inside(role: str | None) -> Connection:
        roles.append(role)
        return Connection({1: Memory()})

    return TlsConnection(SERVER, inside, handshakes), roles, handshakes


requests = st.lists(
    st.tuples(st.integers(0, 190), st.integers(1, 125)).map(lambda pair: frame(read(*pair))), max_size=8
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(requests, st.lists(st.integers(0, 60), max_size=20)), min_size=1, max_size=4),
    st.lists(st.integers(0, 200), max_size=8),
    st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]),
)
def test_where_the_stream_is_cut_makes_no_difference(
    talk: list[tuple[list[bytes], list[int]]], cuts: list[int], version: ssl.TLSVersion
) -> None:
    secured, roles, handshakes = core()
    plain = Connection({1: Memory()})
    client = Client(secured, version)
    assert secured.pending
    client.shake_hands(cuts)
    assert roles == [SUPER_ADMINISTRATOR]
    assert (handshakes.begun, handshakes.done, handshakes.unfinished) == (1, 1, 0)
    client.read()  # what TLS itself has to say
    assert not secured.pending
    for frames, pieces in talk:
        if frames:
            client.tls.write(b"".join(frames))
        client.carry(pieces)
        assert client.read() == plain.receive(b"".join(frames))
        assert secured.frames == plain.frames
        assert not secured.pending


@settings(deadline=None)
@given(st.integers(1, 11), st.data())
def test_whatever_is_not_whole_is_pending(size: int, data: st.DataObject) -> None:
    """Part of a record, and part of a frame in whole records."""
    secured, _, _ = core()
    client = Client(secured)
    client.shake_hands()
    asked = frame(read(0, 1))
    client.tls.write(asked)
    record = client.sent.read()
    cut = data.draw(st.integers(1, len(record) - 1))
    assert secured.receive(record[:cut]) == b""
    assert secured.pending
    assert secured.receive(record[cut:])
    assert not secured.pending
    client.tls.write(asked[:size])
    client.carry()
    assert secured.pending == size
    client.tls.write(asked[size:])
    client.carry()
    assert not secured.pending


def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered() -> None:
    secured, _, _ = core()
    client = Client(secured, ssl.TLSVersion.TLSv1_3)
    client.shake_hands(last=False)
    assert secured.pending
    client.tls.write(frame(read(5, 1)))
    client.carry()
    assert client.read() == frame(b"\3\2\x10\5")


def test_many_replies_to_one_piece_are_all_sent() -> None:
    secured, _, _ = core()
    client = Client(secured)
    client.shake_hands()
    client.tls.write(frame(read(0, 125)) * 1300)  # nearly one whole record
    client.carry()
    assert len(client.read()) == 1300 * (9 + 250)


def test_good_bye_is_answered_and_ends_the_connection() -> None:
    secured, _, handshakes = core()
    client = Client(secured)
    client.shake_hands()
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.carry()
    client.tls.unwrap()  # answered, or this would raise
    assert secured.closed
    assert secured.receive(b"anything") == b""
    assert not secured.pending
    assert handshakes.refused == {}


@given(st.binary(min_size=1, max_size=400))
def test_what_is_no_tls_never_raises_and_is_never_served(data: bytes) -> None:
    secured, roles, handshakes = core()
    secured.receive(data)
    assert secured.pending or secured.closed
    assert roles == []
    assert handshakes.done == 0
    assert handshakes.refused.total() == secured.closed


def test_a_stream_that_is_changed_on_its_way_ends() -> None:
    secured, _, _ = core()
    client = Client(secured)
    client.shake_hands()
    client.tls.write(frame(read(0, 1)))
    record = bytearray(client.sent.read())
    record[-1] ^= 1
    alert = secured.receive(bytes(record))
    assert secured.closed
    assert alert[0] in (0x15, 0x17)  # an alert, which TLS 1.3 seals
    assert secured.last_error is None


# The role.


def der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("role", [*ROLES, "unknown role", "role as the map spells it", "lower case"])
def test_the_role_is_read_as_it_is(role: str) -> None:
    written = {
        "unknown role": "Operator",
        "role as the map spells it": "SuperAdministratorSpec",
        "lower case": "superadministratorsunspec",
    }.get(role, role)
    assert role_of(der(certificates().clients[role].cert)) == written


@pytest.mark.parametrize(
    "name", sorted(NO_ROLE.keys() - {"unknown role", "role as the map spells it", "lower case"})
)
def test_what_is_not_one_string_is_no_role(name: str) -> None:
    assert role_of(der(certificates().clients[name].cert)) is None


def test_a_second_role_extension_is_no_role() -> None:
    """No builder makes such a certificate, so a neighbour's id is changed into that of the role."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
    )
    neighbour = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.50316.802.2"), utf8_string("A"))
    for extension in (role_extension("GridServiceSunSpec"), neighbour):
        builder = builder.add_extension(extension, critical=False)
    data = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert role_of(data) == "GridServiceSunSpec"
    ids = [data.index(bytes.fromhex(f"2b06010401 83890c 8622 0{k}")) for k in (1, 2)]
    twice = bytearray(data)
    twice[ids[1] + 10] = 1
    assert role_of(bytes(twice)) is None


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(1, 255), st.integers(0, 40))
def test_a_changed_certificate_never_raises(place: int, change: int, cut: int) -> None:
    data = bytearray(der(certificates().clients["GridServiceSunSpec"].cert))
    data[place % len(data)] ^= change
    role = role_of(bytes(data[: len(data) - cut]))
    assert role is None or isinstance(role, str)
    assert role_of(bytes(data[: len(data) - cut - 1])) is None


@given(st.binary(max_size=60))
def test_bytes_that_are_no_certificate_have_no_role(data: bytes) -> None:
    assert role_of(data) is None
    assert role_of(None) is None


@given(st.text(min_size=1, max_size=31))
def test_a_text_is_encoded_as_asn1_says(text: str) -> None:
    """Witness: `openssl asn1parse` reads what the bench writes; see test_pki.  Here: tag, length, text."""
    data = utf8_string(text)
    assert data[0] == 12
    assert data[1] == len(text.encode())
    assert data[2:].decode() == text


# Settings.


def test_files_that_cannot_be_used_are_the_users_error(tmp_path: Path) -> None:
    good = server_files()
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    other = certificates().clients["GridServiceSunSpec"]
    for wrong, words in (
        (TlsServerSettings(tmp_path / "none.crt", good.key, good.client_ca), "tls cert: .*none.crt' found"),
        (TlsServerSettings(good.cert, tmp_path, good.client_ca), "tls key: .* a PEM file that exists"),
        (TlsServerSettings(good.cert, good.key, text), "tls client_ca: .*text.pem' cannot be used"),
        (TlsServerSettings(text, good.key, good.client_ca), "tls cert, key: .* cannot be used"),
        (TlsServerSettings(good.cert, other.key, good.client_ca), "tls cert, key: .* and its own key"),
    ):
        with pytest.raises(ScenarioError, match=words):
            server_context(wrong)


def test_a_key_with_a_password_is_refused_without_asking(tmp_path: Path) -> None:
    good = server_files()
    key = serialization.load_pem_private_key(Path(good.key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ScenarioError, match="without a password"):
        server_context(TlsServerSettings(good.cert, locked, good.client_ca))


def test_units_that_do_not_say_where_their_points_lie_are_refused() -> None:
    with pytest.raises(ScenarioError, match="a Memory found"):
        TlsUnits({1: Memory()}, SERVER)
    with pytest.raises(ScenarioError, match="unit id 300"):
        TlsUnits({300: device()[1]}, SERVER)


def test_only_suites_with_forward_secrecy_and_authenticated_encryption_are_offered() -> None:
    names = [cipher["name"] for cipher in SERVER.get_ciphers()]
    assert all(name.startswith(("TLS_", "ECDHE-")) for name in names)
    assert all(cipher["aead"] for cipher in SERVER.get_ciphers())
    assert "ECDHE-ECDSA-AES128-GCM-SHA256" in names
    assert SERVER.minimum_version == ssl.TLSVersion.TLSv1_2
    assert SERVER.verify_mode == ssl.CERT_REQUIRED
