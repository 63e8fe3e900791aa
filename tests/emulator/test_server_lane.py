"""The short way of requests (_peer.pyx): joined, left and shared without a client noticing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator._peer import Lane, Peer
from ridethrough.emulator.errors import InvariantError
from ridethrough.emulator.server import Limits, open_lane, serve_tcp

from tests.emulator.loops import either_loop, run
from tests.emulator.test_modbus_table import GOOD, GOOD_REPLY, Memory
from tests.emulator.test_server import HAS_LANES, WAIT_S, ask, dial, exactly, to_the_end, until

pytestmark = pytest.mark.usefixtures(either_loop.__name__)

needs_lanes = pytest.mark.skipif(not HAS_LANES, reason="lanes need epoll, which is Linux's")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def descriptors_of_the_loop() -> int:
    """Return how many there are once the loop has opened what it keeps for itself."""
    async with await serve_tcp({1: Memory()}) as server, dial(server) as streams:
        await ask(streams)
    await asyncio.sleep(0.05)
    return open_descriptors()


@pytest.mark.parametrize(
    "rubbish", [b"\x00" * 300_000, b"GET / HTTP/1.1\r\n" * 10_000], ids=["zeros", "http"]
)
def test_replies_before_rubbish_are_not_lost_to_a_reset(rubbish: bytes) -> None:
    """Closing a socket with unread input resets it, and the client's system drops what it had received."""

    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server, dial(server) as (reader, writer):
            writer.write(100 * GOOD + rubbish)
            assert await exactly(reader, 100 * len(GOOD_REPLY)) == 100 * GOOD_REPLY

    run(main())


@needs_lanes
def test_client_that_reads_late_leaves_the_lane_and_misses_nothing() -> None:
    async def main() -> None:
        lane = open_lane()
        async with await serve_tcp({1: Memory()}, lane=lane) as server, dial(server) as (reader, writer):
            await ask((reader, writer))
            (peer,) = server._peers
            joined = peer._lane is not None
            reader._transport.pause_reading()  # type: ignore[attr-defined]  # what stalls the server
            count = 60_000
            writer.write(count * (GOOD[:-1] + b"\x7d"))
            await until(lambda: peer._stalled)
            assert peer._lane is None
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            size = 9 + 2 * 125
            got = bytearray()
            while len(got) < count * size:
                got += await asyncio.wait_for(reader.read(1 << 20), WAIT_S)
            assert bytes(got) == count * bytes(got[:size])
            await ask((reader, writer))
            assert joined == (lane is not None)
        if lane is not None:
            lane.close()

    run(main())


class BrokenCore:
    """Raises where a core must not."""

    last_error: Exception | None = None
    closed = False
    pending = 0
    frames = 0

    def receive(self, data: bytes) -> bytes:
        raise ZeroDivisionError("bug of a core")


def test_core_that_raises_costs_its_connection_and_surfaces() -> None:
    seen: list[Mapping[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        server = await serve_tcp({1: Memory()}, core=lambda transport: BrokenCore())
        async with dial(server) as (reader, writer):
            writer.write(GOOD)
            with suppress(ConnectionResetError):
                assert await to_the_end(reader) == b""
            await until(lambda: server.connections == 0)
        with pytest.raises(InvariantError, match="bug of a core"):
            await server.close()

    run(main())
    assert any(isinstance(context["exception"], ZeroDivisionError) for context in seen)


def test_core_is_made_for_each_connection_with_its_transport() -> None:
    peers: list[object] = []

    def make(transport: asyncio.Transport) -> Connection:
        peers.append(transport.get_extra_info("peername")[1])
        return Connection({1: Memory()})

    async def main() -> None:
        async with await serve_tcp({1: Memory()}, core=make) as server:
            for _ in range(2):
                async with dial(server) as streams:
                    await ask(streams)
                    assert peers[-1] == streams[1].get_extra_info("sockname")[1]
        assert len(set(peers)) == 2

    run(main())


@needs_lanes
def test_shared_lane_outlives_the_servers_that_share_it() -> None:
    async def main() -> None:
        before = await descriptors_of_the_loop()
        lane = open_lane()
        first = await serve_tcp({1: Memory()}, lane=lane)
        async with await serve_tcp({1: Memory()}, lane=lane) as second, dial(second) as streams:
            async with dial(first) as others:
                await ask(others)
                await ask(streams)
                await first.close()
                assert await to_the_end(others[0]) == b""
            await ask(streams)
        if lane is not None:
            lane.close()
            lane.close()
        await until(lambda: open_descriptors() == before)

    run(main())


@needs_lanes
def test_server_leaves_no_descriptor_behind() -> None:
    async def main() -> None:
        before = await descriptors_of_the_loop()
        for _ in range(3):
            async with await serve_tcp({1: Memory()}) as server, dial(server) as streams:
                await ask(streams)
        await until(lambda: open_descriptors() == before)

    run(main())


@needs_lanes
def test_many_connections_take_turns() -> None:
    """More are ready at once than one look takes."""

    async def main() -> None:
        async with await serve_tcp({1: Memory()}, limits=Limits(connections_max=400)) as server:
            clients = [socket.create_connection((server.host, server.port), WAIT_S) for _ in range(300)]
            await until(lambda: server.connections == 300)
            await asyncio.sleep(0.05)
            for client in clients:
                client.sendall(2 * GOOD)
            loop = asyncio.get_running_loop()
            for client in clients:
                client.setblocking(False)
                got = b""
                while len(got) < 2 * len(GOOD_REPLY):
                    got += await asyncio.wait_for(loop.sock_recv(client, 4096), WAIT_S)
                assert got == 2 * GOOD_REPLY
                client.close()
            await until(lambda: server.connections == 0)

    run(main())


class LoopWithoutReaders:
    """A loop that watches no descriptors, as one of virtual time may."""

    def time(self) -> float:
        return 0.0

    def add_reader(self, fd: int, call: object) -> None:
        raise NotImplementedError


@needs_lanes
def test_loop_that_watches_no_descriptor_has_no_lane() -> None:
    before = open_descriptors()
    with pytest.raises(NotImplementedError):
        Lane(LoopWithoutReaders())  # type: ignore[arg-type]  # what is tested
    assert open_descriptors() == before


@needs_lanes
def test_lane_refuses_what_cannot_be_watched() -> None:
    async def main() -> None:
        lane = Lane(asyncio.get_running_loop())
        assert not lane.add(-1, Peer())
        assert not lane.add(1 << 20, Peer())
        lane.remove(7)
        lane.close()
        assert not lane.add(0, Peer())

    run(main())
