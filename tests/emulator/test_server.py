"""The Modbus TCP server over loopback sockets: every row of the table, its ends, what it refuses."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ridethrough.emulator.errors import InvariantError, ScenarioError
from ridethrough.emulator.server import Limits, TcpServer, serve_tcp

from tests.emulator.loops import either_loop
from tests.emulator.loops import run as run  # others take it from here
from tests.emulator.test_modbus_table import GOOD, GOOD_REPLY, Case, Memory, each_case

HAS_LANES = sys.platform == "linux"

WAIT_S = 20.0
"""Longest wait for anything in these tests; only reached when something is broken."""

pytestmark = pytest.mark.usefixtures(either_loop.__name__)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def dial(server: TcpServer) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            writer.transport.abort()  # the server cut it, which the test has looked at


async def exactly(reader: asyncio.StreamReader, count: int) -> bytes:
    return await asyncio.wait_for(reader.readexactly(count), WAIT_S)


async def to_the_end(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), WAIT_S)


async def ask(streams: Streams, request: bytes = GOOD, reply: bytes = GOOD_REPLY) -> float:
    """Return how long the right answer took [s]."""
    reader, writer = streams
    began_s = time.perf_counter()
    writer.write(request)
    assert await exactly(reader, len(reply)) == reply
    return time.perf_counter() - began_s


async def until(condition: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def test_the_loop_is_the_one_it_is_said_to_be(either_loop: str) -> None:
    async def main() -> None:
        assert type(asyncio.get_running_loop()).__module__.startswith(either_loop.partition(",")[0])
        async with await serve_tcp({1: Memory()}) as server, dial(server) as streams:
            await ask(streams)
            (peer,) = server._peers
            assert (peer._lane is not None) == (HAS_LANES and "no lane" not in either_loop)

    run(main())


@each_case
def test_table(item: Case) -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server, dial(server) as (reader, writer):
            writer.write(item.sent)
            if item.closed:
                assert await to_the_end(reader) == item.answer
            else:
                writer.write(GOOD)
                assert await exactly(reader, len(item.answer) + len(GOOD_REPLY)) == item.answer + GOOD_REPLY
            async with dial(server) as fresh:
                await ask(fresh)

    run(main())


def test_row_39_one_byte_at_a_time() -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server, dial(server) as (reader, writer):
            for byte in GOOD:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.005)
            assert await exactly(reader, len(GOOD_REPLY)) == GOOD_REPLY

    run(main())


def test_row_40_pause_inside_the_header() -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server, dial(server) as (reader, writer):
            writer.write(GOOD[:3])
            await asyncio.sleep(1.0)
            writer.write(GOOD[3:])
            assert await exactly(reader, len(GOOD_REPLY)) == GOOD_REPLY

    run(main())


@pytest.mark.parametrize("count", [1, 5000])
def test_row_41_half_close(count: int) -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server, dial(server) as (reader, writer):
            writer.write(count * GOOD)
            writer.write_eof()
            assert await to_the_end(reader) == count * GOOD_REPLY
            await until(lambda: server.connections == 0)

    run(main())


def test_half_close_inside_a_frame_closes() -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server, dial(server) as (reader, writer):
            writer.write(GOOD + GOOD[:9])
            writer.write_eof()
            assert await to_the_end(reader) == GOOD_REPLY

    run(main())


def test_eight_pipelined_requests() -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server, dial(server) as (reader, writer):
            asked = [tid.to_bytes(2, "big") + GOOD[2:] for tid in range(8)]
            answers = [tid.to_bytes(2, "big") + GOOD_REPLY[2:] for tid in range(8)]
            writer.write(b"".join(asked))
            assert await exactly(reader, 8 * len(GOOD_REPLY)) == b"".join(answers)

    run(main())


def test_connection_limit() -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}, limits=Limits(connections_max=2)) as server:
            async with dial(server) as first, dial(server) as second:
                await ask(first)
                await ask(second)
                async with dial(server) as (reader, _):
                    assert await to_the_end(reader) == b""
                assert server.connections == 2
                await ask(first)
            await until(lambda: server.connections == 0)
            async with dial(server) as later:
                await ask(later)

    run(main())


class Broken(Memory):
    def read(self, address: int, count: int) -> bytes | int:
        raise ZeroDivisionError("bug")


def test_raising_unit_is_answered_04_and_surfaces_twice() -> None:
    seen: list[Mapping[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        server = await serve_tcp({1: Broken(), 2: Memory()})
        async with dial(server) as streams:
            await ask(streams, GOOD, GOOD[:5] + b"\x03\x01\x83\x04")
            await ask(streams, GOOD[:6] + b"\x02" + GOOD[7:], GOOD_REPLY[:6] + b"\x02" + GOOD_REPLY[7:])
        with pytest.raises(InvariantError, match="bug") as caught:
            await server.close()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        await server.close()  # said once

    run(main())
    assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]
    assert "exception 04" in seen[0]["message"]


def test_close_cuts_everyone_and_frees_the_port() -> None:
    async def main() -> None:
        server = await serve_tcp({1: Memory()})
        port = server.port
        async with dial(server) as first, dial(server) as second:
            await ask(first)
            second[1].write(GOOD[:3])
            await until(lambda: server.connections == 2)
            await server.close()
            assert server.connections == 0
            assert await to_the_end(first[0]) == b""
            assert await to_the_end(second[0]) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        async with await serve_tcp({1: Memory()}, port=port) as again:
            assert again.port == port

    run(main())


@pytest.mark.parametrize("turns", range(6))
def test_close_while_connections_come_in(turns: int) -> None:
    """However far a connection got, no transport is left behind; a leak would be a ResourceWarning."""

    async def main() -> None:
        server = await serve_tcp({1: Memory()})
        clients = [socket.create_connection((server.host, server.port)) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()
        assert server._peers == set()
        for client in clients:
            client.close()

    run(main())


def test_closing_twice_and_unused_is_harmless() -> None:
    async def main() -> None:
        server = await serve_tcp({1: Memory()})
        await server.close()
        await server.close()
        assert server.connections == 0

    run(main())


def test_no_delay_is_set() -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server, dial(server) as streams:
            await ask(streams)
            (peer,) = server._peers
            accepted = peer._transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    run(main())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_remote_host_is_refused_with_the_cure(host: str) -> None:
    with pytest.raises(ScenarioError, match=r"no authentication.*127\.0\.0\.1.*allow_remote"):
        asyncio.run(serve_tcp({1: Memory()}, host))


@pytest.mark.parametrize("host", ["", "example.invalid", "127.0.0.256", "*"])
@pytest.mark.parametrize("allow_remote", [False, True])
def test_host_that_is_no_address_is_refused(host: str, allow_remote: bool) -> None:
    with pytest.raises(ScenarioError, match=r"host: .* found; allowed are an IP address"):
        asyncio.run(serve_tcp({1: Memory()}, host, allow_remote=allow_remote))


def test_allow_remote_gets_past_the_refusal() -> None:
    """192.0.2.1 is kept for documentation (RFC 5737), so the system itself refuses it."""
    with pytest.raises(ScenarioError, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        asyncio.run(serve_tcp({1: Memory()}, "192.0.2.1", allow_remote=True))


def test_localhost_is_the_ipv4_loopback() -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}, "localhost") as server, dial(server) as streams:
            assert server.host == "127.0.0.1"
            await ask(streams)

    run(main())


def test_ipv6_loopback() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback address")

    async def main() -> None:
        async with await serve_tcp({1: Memory()}, "::1") as server, dial(server) as streams:
            assert server.host == "::1"
            await ask(streams)

    run(main())


@pytest.mark.parametrize("port", [-1, 65_536, "502", 1.5, True])
def test_bad_port_is_refused(port: object) -> None:
    with pytest.raises(ScenarioError, match=r"port: .* found; allowed are whole numbers 0\.\.65535"):
        asyncio.run(serve_tcp({1: Memory()}, port=port))  # type: ignore[arg-type]  # what is tested


def test_port_in_use_is_said() -> None:
    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server:
            with pytest.raises(ScenarioError, match=rf"cannot listen on 127\.0\.0\.1 port {server.port}"):
                await serve_tcp({1: Memory()}, port=server.port)

    run(main())


def test_bad_units_are_refused_before_listening() -> None:
    with pytest.raises(ScenarioError, match="units: none found"):
        asyncio.run(serve_tcp({}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_timeout_s": 0.0},
        {"frame_timeout_s": float("inf")},
        {"frame_timeout_s": float("nan")},
        {"frame_timeout_s": None},
        {"idle_timeout_s": -1.0},
        {"connections_max": 0},
        {"connections_max": 2.5},
        {"write_buffer_bytes_max": 0},
    ],
    ids=str,
)
def test_bad_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=f"{next(iter(wrong))}: .* found; allowed are"):
        Limits(**wrong)
