"""Modbus/TCP Security over loopback sockets: who gets in, and what a role may do."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess

import pytest
from ridethrough.emulator.rights import (
    GRID_SERVICE,
    NETWORK_ADMINISTRATOR,
    READ_ONLY,
    ROLES,
    SUPER_ADMINISTRATOR,
)
from ridethrough.emulator.server import Limits

from tests.emulator.loops import either_loop, run
from tests.emulator.tls_bench import (
    NO_ROLE,
    WAIT_S,
    Behind,
    ask,
    behind_tls,
    certificates,
    client_context,
    dial,
    frame,
    hello,
    nothing_left,
    read,
    turned_away,
    write,
)

pytestmark = pytest.mark.usefixtures(either_loop.__name__)

REFUSED = 1
"""Exception code of what a role may not do: illegal function."""

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


# Who gets in.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_each_role_reads_everything(role: str, version: ssl.TLSVersion) -> None:
    async def main() -> None:
        async with behind_tls() as behind, dial(behind.server, role, version) as streams:
            secure = streams[1].get_extra_info("ssl_object")
            assert secure.version() == version.name.replace("_", ".")
            assert secure.compression() is None
            for unit_id, unit in behind.units.items():
                base, end = unit.layout.base_address, unit.layout.base_address + unit.layout.count
                for address in range(base, end, 125):
                    count = min(125, end - address)
                    reply = await ask(streams, read(address, count), unit_id)
                    assert reply[:2] == bytes((3, 2 * count))
                first = await ask(streams, read(base, 4), unit_id)
                assert first[2:10] == b"SunS\0\1" + unit.layout.point(1, "L").encode(66)
            assert (behind.secured.handshakes.begun, behind.secured.handshakes.done) == (1, 1)
            assert behind.told == []

    run(main())


@pytest.mark.parametrize("name", NO_ROLE)
def test_a_certificate_without_one_known_role_allows_nothing(name: str) -> None:
    async def main() -> None:
        async with behind_tls() as behind, dial(behind.server, name) as streams:
            unit = behind.units[1]
            limit = unit.layout.point(704, "WMaxLimPct").address
            before = unit.read(limit, 1)
            for pdu in (read(unit.layout.base_address, 4), write(limit, b"\0\0"), b"\x2b\x0e\1\0"):
                assert await ask(streams, pdu) == bytes((pdu[0] | 0x80, REFUSED))
            for pdu in (read(limit, 1), write(limit, b"\0\0")):
                for unit_id in (0, 255, max(behind.units)):
                    assert await ask(streams, pdu, unit_id) == bytes((pdu[0] | 0x80, REFUSED))
            assert unit.read(limit, 1) == before
            assert behind.secured.handshakes.done == 1

    run(main())


BAD = [
    (None, "the client showed no certificate"),
    ("expired", "certificate has expired"),
    ("not yet valid", "certificate is not yet valid"),
    ("self-signed", "self-signed certificate"),
    ("foreign CA", "unable to get local issuer certificate"),
    ("impostor CA", "unable to get local issuer certificate|certificate signature failure"),
    ("for a server", "unsuitable certificate purpose|unsupported certificate purpose"),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "words"), BAD)
def test_a_client_that_shows_no_good_certificate_is_refused(
    name: str | None, words: str, version: ssl.TLSVersion
) -> None:
    async def main() -> None:
        async with behind_tls() as behind:
            await turned_away(behind, name, version)
            await nothing_left(behind)
            (told,) = behind.told
            assert any(part in told for part in words.split("|")), told
            assert behind.secured.handshakes.refused == {told: 1}
            assert behind.secured.handshakes.done == 0
            async with dial(behind.server, READ_ONLY) as streams:
                assert (await ask(streams, read(behind.units[1].layout.base_address, 2)))[2:] == b"SunS"

    run(main())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_a_library_of_old_tls_is_refused(version: ssl.TLSVersion) -> None:
    async def main() -> None:
        context = client_context(SUPER_ADMINISTRATOR, version)
        context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL 3 does not even ask for it
        async with behind_tls() as behind:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(
                    "127.0.0.1", behind.server.port, ssl=context, server_hostname="localhost"
                )
            await nothing_left(behind)
            assert behind.told == ["the client has no TLS 1.2 or newer"]

    run(main())


async def answer_to(behind: Behind, data: bytes) -> bytes:
    """Return all that is answered to bytes on a bare connection until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", behind.server.port)
    writer.write(data)
    async with asyncio.timeout(WAIT_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()


@pytest.mark.parametrize(("version", "alert"), [(0x0300, 40), (0x0301, 70), (0x0302, 70)])
def test_a_hello_of_old_tls_is_refused(version: int, alert: int) -> None:
    """By the fatal alert for the version; OpenSSL calls SSL 3 a failure of the handshake."""

    async def main() -> None:
        async with behind_tls() as behind:
            answer = await answer_to(behind, hello(version))
            assert answer[0] == 0x15  # an alert
            assert answer[5:] == bytes((2, alert))
            assert behind.told == ["the client has no TLS 1.2 or newer"]

    run(main())


def test_the_same_hello_of_tls_1_2_is_answered() -> None:
    """What the test before sends is refused for its version, not for its form."""

    async def main() -> None:
        async with behind_tls(Limits(frame_timeout_s=0.2)) as behind:
            answer = await answer_to(behind, hello(0x0303))
            assert answer[:3] == b"\x16\3\3"  # a ServerHello
            assert answer[5] == 2
            assert behind.told == []

    run(main())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (frame(read(40_000, 4)), "plain Modbus"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP"),
        (bytes(300), "plain Modbus"),
    ],
)
def test_what_is_no_tls_is_met_by_closing(data: bytes, words: str) -> None:
    async def main() -> None:
        async with behind_tls() as behind:
            answer = await answer_to(behind, data)
            assert answer == b"" or answer[0] == 0x15
            await nothing_left(behind)
            (told,) = behind.told
            assert words in told

    run(main())


async def s_client(behind: Behind, said: bytes, *options: str) -> str:
    """Return what the openssl program sees and prints as a client that says `said`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program is not installed")
    files = certificates().clients[READ_ONLY]
    command = [openssl, "s_client", "-connect", f"127.0.0.1:{behind.server.port}", *options]
    command += ["-cert", str(files.cert), "-key", str(files.key), "-CAfile", str(certificates().ca)]
    seen = await asyncio.to_thread(
        subprocess.run, command, input=said, capture_output=True, timeout=WAIT_S, check=False
    )
    return (seen.stdout + seen.stderr).decode(errors="replace")


@pytest.mark.parametrize("options", [(), ("-tls1_2",)])
def test_the_key_exchange_is_on_p_256_with_an_authenticated_cipher(options: tuple[str, ...]) -> None:
    async def main() -> None:
        async with behind_tls() as behind:
            text = await s_client(behind, b"Q\n", *options)
            assert "Verify return code: 0 (ok)" in text
            assert "Server Temp Key: ECDH, prime256v1, 256 bits" in text or "group: secp256r1" in text
            assert "Compression: NONE" in text
            if options:
                assert "Cipher is ECDHE-ECDSA-AES128-GCM-SHA256" in text
                assert "Secure Renegotiation IS supported" in text  # as RFC 5746 wants it, and then refused

    run(main())


def test_a_client_cannot_renegotiate() -> None:
    async def main() -> None:
        async with behind_tls() as behind:
            text = await s_client(behind, b"R\n", "-tls1_2")
            assert "RENEGOTIATING" in text
            assert "no renegotiation" in text
            assert (behind.secured.handshakes.begun, behind.secured.handshakes.done) == (1, 1)
            await nothing_left(behind)

    run(main())


# What a role may do.


WRITES = [
    # model, point, who may write it by the published map
    (704, "WMaxLimPct", {GRID_SERVICE, SUPER_ADMINISTRATOR}),
    (704, "WSet", {GRID_SERVICE, SUPER_ADMINISTRATOR}),
    (124, "MinRsvPct", {GRID_SERVICE, SUPER_ADMINISTRATOR}),
    (124, "StorCtl_Mod", {GRID_SERVICE, SUPER_ADMINISTRATOR}),
    (123, "Conn", {GRID_SERVICE, SUPER_ADMINISTRATOR}),
    (703, "ES", {GRID_SERVICE, SUPER_ADMINISTRATOR}),
    (705, "Crv[2].Pt[1].V", {GRID_SERVICE, SUPER_ADMINISTRATOR}),
    (707, "Crv[2].MustTrip.Pt[1].V", {SUPER_ADMINISTRATOR}),
    (715, "OpCtl", {SUPER_ADMINISTRATOR}),
    (802, "SoCRsvMin", {GRID_SERVICE, SUPER_ADMINISTRATOR}),
    (702, "VNom", {SUPER_ADMINISTRATOR}),
    (1, "DA", {NETWORK_ADMINISTRATOR, SUPER_ADMINISTRATOR}),
    (1, "SN", set()),
    (701, "W", set()),
    (704, "L", set()),
]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_writes_what_the_map_allows_it(role: str) -> None:
    """What is written is what is there, so the device has no objection of its own to a writable point."""

    async def main() -> None:
        async with behind_tls() as behind, dial(behind.server, role) as streams:
            for model, name, who in WRITES:
                point = behind.units[1].layout.point(model, name)
                data = (await ask(streams, read(point.address, point.size)))[2:]
                reply = await ask(streams, write(point.address, data))
                if role not in who:
                    assert reply == bytes((0x90, REFUSED)), (model, name)
                elif point.writable:
                    assert reply == write(point.address, data)[:5], (model, name)
                else:  # this device does not serve the point for writing
                    assert reply == b"\x90\2", (model, name)

    run(main())


def test_what_is_allowed_reaches_the_device_and_nothing_else_does() -> None:
    async def main() -> None:
        async with behind_tls() as behind:
            unit = behind.units[1]
            limit = unit.layout.point(704, "WMaxLimPct").address
            before = unit.read(limit, 1)
            assert before != b"\0\x2a"
            for role in (READ_ONLY, NETWORK_ADMINISTRATOR):
                async with dial(behind.server, role) as streams:
                    assert await ask(streams, write(limit, b"\0\x2a")) == b"\x90\1"
                    assert await ask(streams, read(limit, 42, 6)) == b"\x86\1"
                    assert unit.read(limit, 1) == before
            async with dial(behind.server, GRID_SERVICE) as streams:
                assert await ask(streams, read(limit, 42, 6)) == read(limit, 42, 6)
                assert unit.read(limit, 1) == b"\0\x2a"
            async with dial(behind.server, SUPER_ADMINISTRATOR) as streams:
                assert await ask(streams, write(limit, b"\0\x2b"), 255) == write(limit, b"\0\x2b")[:5]
                assert unit.read(limit, 1) == b"\0\x2b"

    run(main())


def test_a_write_that_touches_one_register_too_many_is_refused_whole() -> None:
    async def main() -> None:
        async with behind_tls() as behind, dial(behind.server, GRID_SERVICE) as streams:
            layout = behind.units[1].layout
            before = layout.point(702, "VADisChaRteMax")
            voltage = layout.point(702, "VNom")
            assert voltage.address == before.address + before.size  # neighbours
            remaining = layout.point(704, "WSetRvrtRem")
            seconds = layout.point(704, "WSetRvrtTms")
            assert remaining.address == seconds.address + seconds.size
            for first, last in ((before, voltage), (seconds, remaining)):
                count = last.address + last.size - first.address
                data = (await ask(streams, read(first.address, count)))[2:]
                whole = behind.units[1].read(layout.base_address, layout.count)
                assert await ask(streams, write(first.address, b"\0\7" * count)) == b"\x90\1"
                assert await ask(streams, write(first.address, data)) == b"\x90\1"
                assert behind.units[1].read(layout.base_address, layout.count) == whole

    run(main())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_resumed_session_has_the_role_of_the_first(version: ssl.TLSVersion) -> None:
    """Resumption sends no certificate; blocking sockets, since asyncio cannot resume."""

    async def main() -> None:
        async with behind_tls() as behind:
            limit = behind.units[1].layout.point(704, "WMaxLimPct").address

            def visit(context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bytes, bool, object]:
                with (
                    socket.create_connection(("127.0.0.1", behind.server.port), WAIT_S) as plain,
                    context.wrap_socket(plain, server_hostname="localhost", session=session) as secure,
                ):
                    secure.sendall(frame(write(limit, b"\0\x2a")))
                    return secure.recv(100)[7:], bool(secure.session_reused), secure.session

            for role, reply in ((READ_ONLY, b"\x90\1"), (GRID_SERVICE, write(limit, b"\0\x2a")[:5])):
                context = client_context(role, version)
                first, reused, session = await asyncio.to_thread(visit, context, None)
                assert (first, reused) == (reply, False)
                assert isinstance(session, ssl.SSLSession)
                again, reused, _ = await asyncio.to_thread(visit, context, session)
                assert (again, reused) == (reply, True)

    run(main())
