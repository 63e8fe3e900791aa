"""Clients that stall: half a frame, a byte now and then, nothing at all, or never reading."""

from __future__ import annotations

import asyncio
import selectors
import socket
import time

import pytest
from ridethrough.emulator.server import PIECE_BYTES, Limits, TcpServer, serve_tcp

from tests.emulator.loops import either_loop, run
from tests.emulator.test_modbus_table import GOOD, GOOD_REPLY, Memory
from tests.emulator.test_server import WAIT_S, Streams, ask, dial, to_the_end, until

pytestmark = pytest.mark.usefixtures(either_loop.__name__)


def test_row_33_incomplete_frame_is_cut_without_an_answer() -> None:
    async def main() -> None:
        limits = Limits(frame_timeout_s=0.2)
        async with await serve_tcp({1: Memory()}, limits=limits) as server, dial(server) as (reader, writer):
            writer.write(bytes.fromhex("0001 0000 000a 01 03 0000 0001"))
            assert await to_the_end(reader) == b""

    run(main())


def test_half_close_of_a_client_that_never_reads_is_cut() -> None:
    async def main() -> None:
        limits = Limits(frame_timeout_s=0.3, write_buffer_bytes_max=1 << 24)
        async with await serve_tcp({1: Memory()}, limits=limits) as server:
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect((server.host, server.port))
                request = bytes.fromhex("0001 0000 0006 01 03 0000 007d")
                await asyncio.to_thread(deaf.sendall, 40_000 * request)  # 10 MB of replies
                deaf.shutdown(socket.SHUT_WR)
                await until(lambda: server.connections == 1)
                await until(lambda: server.connections == 0)

    run(main())


def test_slow_loris_is_cut_while_a_good_client_is_served() -> None:
    async def drip(streams: Streams) -> None:
        for byte in GOOD[:-1]:
            streams[1].write(bytes([byte]))
            await asyncio.sleep(0.1)

    async def main() -> None:
        limits = Limits(frame_timeout_s=0.4)
        async with (
            await serve_tcp({1: Memory()}, limits=limits) as server,
            dial(server) as silent,
            dial(server) as dripping,
            dial(server) as good,
        ):
            began_s = time.perf_counter()
            silent[1].write(GOOD[:3])
            dripper = asyncio.create_task(drip(dripping))
            waits_s = []
            while server.connections > 1:
                waits_s.append(await ask(good))
                await asyncio.sleep(0.01)
                assert time.perf_counter() - began_s < WAIT_S, "the slow clients were never cut"
            assert time.perf_counter() - began_s >= 0.4
            assert not dripper.done()  # each byte does not buy a new time-out
            assert sorted(waits_s)[len(waits_s) // 2] < 0.1
            assert await to_the_end(silent[0]) == b""
            dripper.cancel()
            await asyncio.gather(dripper, return_exceptions=True)
            await ask(good)

    run(main())


def test_frames_that_straddle_the_segments_are_not_slow() -> None:
    """Something is always pending, but no one frame is pending for long."""

    async def main() -> None:
        limits = Limits(frame_timeout_s=0.6)
        async with await serve_tcp({1: Memory()}, limits=limits) as server, dial(server) as streams:
            streams[1].write(GOOD[:5])
            for _ in range(8):
                await asyncio.sleep(0.15)
                await ask(streams, GOOD[5:] + GOOD[:5])
            await ask(streams, GOOD[5:])

    run(main())


def numbered(first: int, count: int) -> bytes:
    """Return reads of 100 registers whose transaction ids count up."""
    body = bytes.fromhex("0000 0006 01 03 0000 0064")
    return b"".join((number & 0xFFFF).to_bytes(2, "big") + body for number in range(first, first + count))


def test_client_that_never_reads_is_not_read_either() -> None:
    """Memory stays bounded, others are served, and no reply is lost once the client reads."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with await serve_tcp({1: Memory()}) as server:
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
                deaf.setblocking(False)
                await loop.sock_connect(deaf, (server.host, server.port))
                await until(lambda: server.connections == 1)
                sent = await send_until_refused(deaf, server)
                async with dial(server) as good:
                    await ask(good)
                whole = sent // 12
                received = bytearray()
                while len(received) < whole * 209:
                    received += await asyncio.wait_for(loop.sock_recv(deaf, 1 << 16), WAIT_S)
                tids = [int.from_bytes(received[at : at + 2], "big") for at in range(0, len(received), 209)]
                assert tids == [number & 0xFFFF for number in range(whole)]

    run(main())


async def send_until_refused(deaf: socket.socket, server: TcpServer) -> int:
    """Send until there has been no room for 0.2 s, watching the server's memory; return the bytes sent."""
    (peer,) = server._peers
    sent = refused = 0
    unsent = b""
    while refused < 20:
        unsent = unsent or numbered(sent // 12, 500)  # a block was sent whole, so `sent` ends with a frame
        try:
            done = deaf.send(unsent)
        except BlockingIOError:
            refused += 1
            await asyncio.sleep(0.01)
        else:
            sent, unsent, refused = sent + done, unsent[done:], 0
            await asyncio.sleep(0)
        held = peer._transport.get_write_buffer_size() + len(peer._backlog)
        assert held <= 65_536 + PIECE_BYTES // 12 * 259 + 256 * 1024
        assert sent < 100e6, "the server reads without end"
    return sent


def test_idle_timeout_cuts_the_silent_and_the_deaf_only() -> None:
    async def main() -> None:
        limits = Limits(idle_timeout_s=0.5)
        async with (
            await serve_tcp({1: Memory()}, limits=limits) as server,
            dial(server) as active,
            dial(server) as silent,
            dial(server) as deaf,
        ):
            deaf[1].transport.pause_reading()  # type: ignore[attr-defined]  # a WriteTransport in the stubs
            deaf[1].write(60_000 * GOOD[:-1] + b"\x7d")
            await ask(silent)
            began_s = time.perf_counter()
            while server.connections > 1:
                await ask(active)
                await asyncio.sleep(0.05)
                assert time.perf_counter() - began_s < WAIT_S, "the silent clients were never cut"
            assert time.perf_counter() - began_s >= 0.45
            assert await to_the_end(silent[0]) == b""
            await ask(active)

    run(main())


class JumpingSelector(selectors.SelectSelector):
    """Jumps over the time a loop would wait, once the sockets are quiet."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0.02)
        if not ready:
            self.now_s += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.quiet = JumpingSelector()
        super().__init__(self.quiet)

    def time(self) -> float:
        return self.quiet.now_s


def test_time_outs_follow_a_virtual_time_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limits = Limits(frame_timeout_s=3600.0, idle_timeout_s=36_000.0)
        async with (
            await serve_tcp({1: Memory()}, limits=limits) as server,
            dial(server) as slow,
            dial(server) as silent,
        ):
            slow[1].write(GOOD[:3])
            assert await slow[0].read() == b""
            assert loop.time() == pytest.approx(3600.0, abs=1.0)
            assert await silent[0].read() == b""
            assert loop.time() == pytest.approx(36_000.0, abs=1.0)

    began_s = time.perf_counter()
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())
    assert time.perf_counter() - began_s < WAIT_S


class FakeTransport(asyncio.Transport):
    """Delivers although paused, as an in-memory network may; stalls when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.protocol: asyncio.Protocol | None = None
        self.stall = False
        self.aborts = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)
        if self.stall:
            assert self.protocol is not None
            self.protocol.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True
        self.aborts += 1
        if self.protocol is not None:
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
            self.protocol = None


def test_data_and_end_that_come_in_while_stalled_are_answered() -> None:
    async def main() -> None:
        server = TcpServer({1: Memory()})
        transport = FakeTransport()
        transport.protocol = peer = server.accept()
        peer.connection_made(transport)
        transport.stall = True
        peer.data_received(GOOD)
        peer.data_received(1000 * GOOD)
        peer.data_received(GOOD)
        peer.eof_received()
        assert transport.sent == GOOD_REPLY
        assert not transport.closed
        peer.resume_writing()  # stalls again after one piece
        await asyncio.sleep(0)
        assert transport.sent == GOOD_REPLY * (1 + PIECE_BYTES // 12)
        transport.stall = False
        peer.resume_writing()
        await asyncio.sleep(0)
        assert transport.sent == 1002 * GOOD_REPLY
        assert transport.closed
        await server.close()

    run(main())


def test_closing_connection_still_has_its_time_out_after_the_client_read_a_little() -> None:
    async def main() -> None:
        server = TcpServer({1: Memory()}, Limits(frame_timeout_s=0.05))
        transport = FakeTransport()
        transport.protocol = peer = server.accept()
        peer.connection_made(transport)
        peer.pause_writing()
        peer.resume_writing()
        await asyncio.sleep(0)
        peer.data_received(bytes.fromhex("0001 0000 0000"))  # ends the stream
        assert transport.closed
        peer.pause_writing()
        peer.resume_writing()
        await asyncio.sleep(0)
        assert transport.aborts == 0
        await until(lambda: transport.aborts == 1)
        await server.close()

    run(main())


def test_lost_connection_leaves_no_timer() -> None:
    async def main() -> None:
        server = TcpServer({1: Memory()}, Limits(frame_timeout_s=0.05, idle_timeout_s=0.05))
        transport = FakeTransport()
        peer = server.accept()
        peer.connection_made(transport)
        peer.data_received(GOOD[:3])
        peer.connection_lost(None)
        await asyncio.sleep(0.15)
        assert transport.aborts == 0
        await server.close()

    run(main())


def test_a_stream_that_ends_while_its_client_catches_up_is_closed_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        said: list[object] = []
        loop.set_exception_handler(lambda _, context: said.append(context))
        requests = 20_000
        stream = requests * bytes.fromhex("0001 0000 0006 01 03 0000 007d") + 40 * b"\xff"
        async with await serve_tcp({1: Memory()}, limits=Limits(write_buffer_bytes_max=1)) as server:
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.setblocking(False)
                await loop.sock_connect(slow, (server.host, server.port))
                sending = asyncio.create_task(loop.sock_sendall(slow, stream))
                await asyncio.sleep(0.3)
                got = 0
                while data := await loop.sock_recv(slow, 1 << 20):
                    got += len(data)
                assert got == requests * 259
                await sending
        assert said == []

    run(main())
