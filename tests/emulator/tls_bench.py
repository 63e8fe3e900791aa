"""What the tests of TLS share: certificates good and bad, a server of one device behind TLS, a client."""

from __future__ import annotations

import asyncio
import atexit
import ssl
import tempfile
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.rights import ROLES
from ridethrough.emulator.server import DEFAULT_LIMITS, Limits, TcpServer, serve_tcp
from ridethrough.emulator.tls import ROLE_OID, TlsServerSettings, TlsUnits, server_context
from ridethrough.hil.pki import Authority, Issued, role_extension

from tests.emulator.register_bench import FULL

WAIT_S = 20.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

NO_ROLE = {
    "no role": None,
    "two roles": role_extension("GridServiceSunSpec", "SuperAdministratorSunSpec"),
    "one role twice": role_extension("SuperAdministratorSunSpec", "SuperAdministratorSunSpec"),
    "unknown role": role_extension("Operator"),
    "role as the map spells it": role_extension("SuperAdministratorSpec"),
    "lower case": role_extension("superadministratorsunspec"),
    "empty role": role_extension(""),
}


def raw_role(value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(ROLE_OID), value)


NO_ROLE |= {
    "IA5String": raw_role(b"\x16\x12GridServiceSunSpec"),
    "PrintableString": raw_role(b"\x13\x12GridServiceSunSpec"),
    "sequence of one": raw_role(b"\x30\x14\x0c\x12GridServiceSunSpec"),
    "no ASN.1": raw_role(b"GridServiceSunSpec"),
    "no UTF-8": raw_role(b"\x0c\x02\xff\xfe"),
    "cut short": raw_role(b"\x0c\x13GridServiceSunSpec"),
    "nothing": raw_role(b""),
}
"""Certificates of our CA whose owner may do nothing."""


@dataclass(frozen=True, slots=True)
class Files:
    cert: Path
    key: Path


@dataclass(slots=True)
class Certificates:
    """Files of all certificates, by name; the CA signed all but those that say otherwise."""

    folder: Path
    ca: Path
    clients: dict[str, Files] = field(default_factory=dict)

    def keep(self, name: str, issued: Issued) -> Files:
        place = self.folder / name.replace(" ", "-")
        files = Files(place.with_suffix(".crt"), place.with_suffix(".key"))
        files.cert.write_bytes(issued.cert_pem())
        files.key.write_bytes(issued.key_pem())
        self.clients[name] = files
        return files


@cache
def certificates() -> Certificates:
    folder = tempfile.TemporaryDirectory(prefix="ridethrough-tls-")
    atexit.register(folder.cleanup)
    now, day = datetime.now(UTC), timedelta(days=1)
    authority = Authority("test CA", now - day, now + day)
    made = Certificates(Path(folder.name), Path(folder.name) / "ca.pem")
    made.ca.write_bytes(Issued(authority.cert, authority._key).cert_pem())
    made.keep("server", authority.issue("server", hosts=("localhost", "127.0.0.1")))
    for role in ROLES:
        made.keep(role, authority.issue(role, role=role_extension(role)))
    for name, value in NO_ROLE.items():
        made.keep(name, authority.issue(name, role=value))
    grid = role_extension("GridServiceSunSpec")
    foreign = Authority("foreign CA", now - day, now + day)
    made.keep("foreign CA", foreign.issue("foreign", role=grid))
    # Named like the right CA, so that only the signature tells.
    impostor = Authority("test CA", now - day, now + day)
    made.keep("impostor CA", impostor.issue("impostor", role=grid))
    made.keep("self-signed", authority.issue("self-signed", role=grid, self_signed=True))
    made.keep("expired", authority.issue("expired", role=grid, valid_until=now - day / 2))
    made.keep("not yet valid", authority.issue("early", role=grid, valid_from=now + day / 2))
    made.keep("for a server", authority.issue("server", role=grid, purpose=ExtendedKeyUsageOID.SERVER_AUTH))
    return made


def client_context(name: str | None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return the context of a client that shows the certificate of that name, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates().ca)
    if version is not None:
        with warnings.catch_warnings():  # the old versions are deprecated, which is the point
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
    if name is not None:
        files = certificates().clients[name]
        context.load_cert_chain(files.cert, files.key)
    return context


def server_files() -> TlsServerSettings:
    server = certificates().clients["server"]
    return TlsServerSettings(server.cert, server.key, certificates().ca)


@dataclass(slots=True)
class Behind:
    """A server of one device with all models, behind TLS."""

    server: TcpServer
    units: dict[int, DeviceImage]
    secured: TlsUnits
    told: list[str]
    surprises: list[str]  # what would have been printed for the user to see


def device() -> dict[int, DeviceImage]:
    return units_of(Plant([FULL]), 0)


@asynccontextmanager
async def behind_tls(
    limits: Limits = DEFAULT_LIMITS, own: TlsServerSettings | None = None
) -> AsyncIterator[Behind]:
    units, told, surprises = device(), list[str](), list[str]()
    secured = TlsUnits(units, server_context(own or server_files()), report=told.append)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: surprises.append(str(context)))
    async with await serve_tcp(units, limits=limits, core=secured) as server:
        yield Behind(server, units, secured, told, surprises)
    assert surprises == []
    assert server.connections == 0


@asynccontextmanager
async def dial(
    server: TcpServer, name: str | None, version: ssl.TLSVersion | None = None
) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=client_context(name, version), server_hostname="localhost"
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            writer.transport.abort()


def frame(pdu: bytes, unit_id: int = 1, number: int = 7) -> bytes:
    return number.to_bytes(2, "big") + b"\0\0" + (len(pdu) + 1).to_bytes(2, "big") + bytes((unit_id,)) + pdu


async def reply_of(reader: asyncio.StreamReader) -> bytes:
    """Return the PDU of the next reply."""
    async with asyncio.timeout(WAIT_S):
        header = await reader.readexactly(7)
        return await reader.readexactly(int.from_bytes(header[4:6], "big") - 1)


async def ask(streams: Streams, pdu: bytes, unit_id: int = 1) -> bytes:
    """Return the PDU of the reply."""
    streams[1].write(frame(pdu, unit_id))
    return await reply_of(streams[0])


def read(address: int, count: int, function: int = 3) -> bytes:
    return bytes((function,)) + address.to_bytes(2, "big") + count.to_bytes(2, "big")


def write(address: int, data: bytes) -> bytes:
    return read(address, len(data) // 2, 16) + bytes((len(data),)) + data


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def nothing_left(behind: Behind) -> None:
    await until(lambda: behind.server.connections == 0)


async def turned_away(behind: Behind, name: str | None, version: ssl.TLSVersion | None) -> None:
    """Make sure that a client is not served.  In TLS 1.3 it learns that with its first reply."""
    async with asyncio.timeout(WAIT_S):
        try:
            async with dial(behind.server, name, version) as (reader, writer):
                writer.write(frame(read(40_000, 4)))
                assert await reader.read(100) == b""
        except (ssl.SSLError, ConnectionError):
            pass


def hello(version: int) -> bytes:
    """Return a ClientHello of TLS 1.2 or older that offers that version at most, and suites of its time."""
    suites = bytes.fromhex("c009 c00a c013 c014 c02b c02f 002f 0035")
    groups = bytes.fromhex("000a 0004 0002 0017 000b 0002 0100 000d 0006 0004 0403 0401")
    body = version.to_bytes(2, "big") + bytes(range(32)) + b"\0"
    body += len(suites).to_bytes(2, "big") + suites + b"\1\0" + len(groups).to_bytes(2, "big") + groups
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message
