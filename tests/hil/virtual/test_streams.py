"""Streams in memory: order, flow control, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.hil.link import Parcel
from ridethrough.hil.virtual.transport import WINDOW_BYTES, MemoryTransport

from tests.hil.virtual.memory_bench import Path, Way, Witness, here, pair, run

# ---- bytes


CUTS = st.lists(st.tuples(st.sampled_from("uds"), st.binary(max_size=40)), max_size=30)


@settings(deadline=None, max_examples=60)
@given(CUTS, st.integers(0, 3), st.integers(0, 5), st.booleans())
def test_bytes_arrive_unchanged_and_in_order(
    script: list[tuple[str, bytes]], delay: int, piece: int, with_link: bool
) -> None:
    async def main() -> None:
        way = Way(Path(delay, piece), Path(delay, piece)) if with_link else None
        near, far, server = await pair(way)
        up = down = b""
        for what, data in script:
            if what == "u":
                near.transport.write(data)
                up += data
            elif what == "d":
                far.transport.writelines([data, b"", bytearray(data)])
                down += data + data
            else:
                await asyncio.sleep(len(data) * 1e-9)
        near.transport.write_eof()
        await asyncio.sleep(1)
        assert (far.data, near.data) == (up, down)
        # A client that has closed altogether loses what is under way, so it only half-closes here.
        assert far.names[-2:] == ["eof", "lost"]
        assert near.names[-1] == "lost"
        server.close()
        await server.wait_closed()

    run(main())


def test_what_is_written_in_one_turn_is_one_delivery() -> None:
    async def main() -> None:
        near, far, _ = await pair()
        for piece in (b"a", memoryview(b"b"), bytearray(b"c")):
            near.transport.write(piece)
        assert far.data == b""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert far.events[1:] == [("data", b"abc")]
        assert here().now_ns == 0
        with pytest.raises(TypeError, match="str found"):
            near.transport.write(cast("bytes", "text"))

    run(main())


def test_a_link_cuts_and_delays() -> None:
    async def main() -> None:
        way = Way(Path(80_000_000, 2), Path(5))
        near, far, _ = await pair(way)
        await asyncio.sleep(1)
        near.transport.write(b"abcde")
        await asyncio.sleep(0.0799)
        assert far.data == b""
        await asyncio.sleep(0.0002)
        assert far.events[1:] == [("data", b"ab"), ("data", b"cd"), ("data", b"e")]
        far.transport.write(b"x")
        await asyncio.sleep(5e-9)
        await asyncio.sleep(0)
        assert near.data == b"x"
        assert way.up.times_ns == [10**9]

    run(main())


def test_parcels_of_a_pipe_do_not_overtake_each_other() -> None:
    class Jitter(Path):
        def send(self, now_ns: int, data: bytes) -> Sequence[Parcel]:
            return [Parcel(now_ns + 100 - 10 * data[0], data)]

    async def main() -> None:
        near, far, _ = await pair(Way(Jitter()))
        for k in range(10):
            near.transport.write(bytes((k,)))
        await asyncio.sleep(1e-6)
        assert far.data == bytes(range(10))

    run(main())


def test_a_link_may_answer_by_itself_and_reset() -> None:
    class Angry(Path):
        def send(self, now_ns: int, data: bytes) -> Sequence[Parcel]:
            answer = Parcel(now_ns + 5, b"no", back=True)
            return [answer, Parcel(now_ns + 9, data, "reset" if data == b"2" else "")]

    async def main() -> None:
        near, far, server = await pair(Way(Angry()))
        near.transport.write(b"1")
        await asyncio.sleep(1)
        near.transport.write(b"2")
        await asyncio.sleep(1)
        lost = ("lost", ConnectionResetError)
        assert near.events[1:] == [("data", b"no"), ("data", b"no"), lost]
        assert far.events[1:] == [("data", b"1"), ("data", b"2"), lost]
        server.close()
        await server.wait_closed()

    run(main())


def test_links_live_by_the_time_of_the_world() -> None:
    async def main() -> None:
        way = Way(Path(7))
        here().network.origin_ns = 2**62
        near, far, _ = await pair(way)
        near.transport.write(b"early")
        await asyncio.sleep(3)
        here().network.origin_ns = here().now_ns
        near.transport.write(b"late")
        await asyncio.sleep(7e-9)
        await asyncio.sleep(0)
        assert far.data == b"earlylate"
        assert way.up.times_ns == [-(2**62), 0]

    run(main())


# ---- flow control


def test_a_reader_that_pauses_stops_the_writer() -> None:
    async def main() -> None:
        near, far, _ = await pair()
        near.transport.set_write_buffer_limits(high=1000, low=100)
        assert near.transport.get_write_buffer_limits() == (100, 1000)
        far.transport.pause_reading()
        assert not far.transport.is_reading()
        near.transport.write(bytes(WINDOW_BYTES))
        assert near.transport.get_write_buffer_size() == 0
        near.transport.write(bytes(1000))
        assert "pause" not in near.names
        near.transport.write(b"x")
        assert near.names[-1] == "pause"
        assert near.transport.get_write_buffer_size() == 1001
        await asyncio.sleep(1)
        assert far.data == b""
        far.transport.resume_reading()
        await asyncio.sleep(1)
        assert near.names[-1] == "resume"
        assert len(far.data) == WINDOW_BYTES + 1001
        with pytest.raises(ValueError, match="high >= low"):
            near.transport.set_write_buffer_limits(high=1, low=2)

    run(main())


def test_a_slow_link_stops_the_writer_too() -> None:
    async def main() -> None:
        near, far, _ = await pair(Way(Path(10**9)))
        near.transport.write(bytes(WINDOW_BYTES + 65_537))
        assert near.names[-1] == "pause"
        await asyncio.sleep(1.5)
        assert near.names[-1] == "resume"
        assert len(far.data) == WINDOW_BYTES + 65_537

    run(main())


def test_streams_with_a_drain_keep_memory_bounded() -> None:
    async def main() -> None:
        most = 0

        async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal most
            while await reader.read(10_000):
                held = writer.transport
                assert isinstance(held, MemoryTransport)
                most = max(most, held.held)
                await asyncio.sleep(0.01)
            writer.close()

        server = await asyncio.start_server(read, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        for _ in range(300):
            writer.write(bytes(10_000))
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert WINDOW_BYTES < most <= 2 * WINDOW_BYTES + 10_000
        assert here().time() > 1.0

    run(main())


def test_a_protocol_with_a_buffer_of_its_own_is_fed() -> None:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer, self.data = bytearray(3), b""

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.data += self.buffer[:nbytes]

    async def main() -> None:
        near, far, _ = await pair()
        buffered = Buffered()
        far.transport.set_protocol(buffered)
        assert far.transport.get_protocol() is buffered
        near.transport.write(b"0123456789")
        await asyncio.sleep(0.1)
        assert buffered.data == b"0123456789"

    run(main())


# ---- ends


def test_half_closed_the_other_direction_goes_on() -> None:
    async def main() -> None:
        near, far, server = await pair(stays=True)
        near.transport.write(b"question")
        assert near.transport.can_write_eof()
        near.transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            near.transport.write(b"more")
        await asyncio.sleep(1)
        assert far.names == ["made", "data", "eof"]
        far.transport.write(b"answer")
        far.transport.close()
        await asyncio.sleep(1)
        assert near.names == ["made", "data", "eof"]
        near.transport.close()
        await asyncio.sleep(1)
        assert near.events[-1] == far.events[-1] == ("lost", type(None))
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("through", [None, Way(Path(10), Path(10))])
def test_abort_resets(through: Way | None) -> None:
    async def main() -> None:
        near, far, server = await pair(through)
        far.transport.abort()
        assert far.transport.is_closing()
        await asyncio.sleep(1)
        assert near.events[-1] == ("lost", ConnectionResetError)
        assert far.events[-1] == ("lost", type(None))
        near.transport.write(b"into the void")
        near.transport.close()
        near.transport.abort()
        await asyncio.sleep(1)
        assert near.names.count("lost") == far.names.count("lost") == 1
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("through", [None, Way(Path(10), Path(10))])
def test_who_writes_to_a_closed_end_is_reset(through: Way | None) -> None:
    async def main() -> None:
        near, far, _ = await pair(through, stays=True)
        near.transport.close()
        await asyncio.sleep(1)
        assert far.names == ["made", "eof"]
        far.transport.write(b"still there?")
        await asyncio.sleep(1)
        assert far.events[-1] == ("lost", ConnectionResetError)
        assert near.data == b""

    run(main())


def test_who_closes_without_having_read_resets() -> None:
    async def main() -> None:
        near, far, _ = await pair()
        far.transport.pause_reading()
        near.transport.write(b"unread")
        await asyncio.sleep(1)
        far.transport.close()
        await asyncio.sleep(1)
        assert near.events[-1] == ("lost", ConnectionResetError)

    run(main())


def test_a_close_waits_for_what_is_not_sent() -> None:
    async def main() -> None:
        near, far, _ = await pair()
        far.transport.pause_reading()
        near.transport.write(bytes(WINDOW_BYTES + 10))
        near.transport.close()
        await asyncio.sleep(1)
        assert "lost" not in near.names
        far.transport.resume_reading()
        await asyncio.sleep(1)
        assert near.events[-1] == ("lost", type(None))
        assert len(far.data) == WINDOW_BYTES + 10
        assert far.names[-2:] == ["eof", "lost"]

    run(main())


def test_a_client_that_leaves_loses_what_is_under_way() -> None:
    async def main() -> None:
        way = Way(Path(50, told=False), Path(50))
        near, far, _ = await pair(way)
        near.transport.write(b"lost")
        far.transport.write(b"lost")
        near.transport.close()
        await asyncio.sleep(1)
        assert far.names == ["made"]  # the link has kept the end to itself: half-open
        assert near.names == ["made", "lost"]
        assert way.up.ends == ["eof"]

    run(main())


def test_a_failing_protocol_loses_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Witness):
        def data_received(self, data: bytes) -> None:
            raise LookupError("cannot")

    async def main() -> None:
        near, far, server = await pair()
        failing = Failing()
        far.transport.set_protocol(failing)
        near.transport.write(b"x")
        await asyncio.sleep(1)
        assert failing.events == [("lost", LookupError)]
        assert near.events[-1] == ("lost", ConnectionResetError)
        server.close()

    run(main())
    assert "data_received() call failed" in caplog.text
