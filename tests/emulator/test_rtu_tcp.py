"""RTU frames in a TCP stream: any cutting, what puts it out of step, and outside clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus import FramerType
from pymodbus.client import AsyncModbusTcpClient
from ridethrough.emulator.errors import InvariantError, ScenarioError
from ridethrough.emulator.rtu_tcp import DROPPED_BYTES_MAX, SILENCE_S, RtuStream, serve_rtu_tcp
from ridethrough.emulator.server import Limits, TcpServer

from tests.emulator.loops import either_loop, run
from tests.emulator.serial_bench import GOOD, GOOD_REPLY, WAIT_S, Memory, rtu, until

ABSENT = rtu("09 03 0000 0001")
BROADCAST = rtu("00 06 0009 cafe")
WRITE = rtu("01 10 0032 0002 04 0001 0002")
PAIRS = [
    (GOOD, GOOD_REPLY),
    (rtu("01 03 0000 007e"), rtu("01 83 03")),
    (rtu("01 06 0064 beef"), rtu("01 06 0064 beef")),
    (WRITE, rtu("01 10 0032 0002")),
    (rtu("01 10 0000 0002 02 0001"), rtu("01 90 03")),
    (rtu("01 04 0000 0001"), rtu("01 84 01")),
    (ABSENT, b""),
    (BROADCAST, b""),
]
WRONG_CRC = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
BROKEN = {
    "wrong CRC": WRONG_CRC,
    "wrong CRC, then a good frame at once": WRONG_CRC + GOOD,
    "unknown function": bytes.fromhex("01 6e 0000") + GOOD,
    "byte count of more than a frame holds": bytes.fromhex("01 10 0000 007d ff") + 10 * GOOD,
    "a byte too many": GOOD + b"\x00" + GOOD,
    "Modbus TCP": bytes.fromhex("0001 0000 0006 01 03 0000 0001"),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def stream(memory: Memory | None = None) -> tuple[RtuStream, Clock]:
    clock = Clock()
    return RtuStream({1: memory or Memory()}, clock), clock


@given(st.lists(st.sampled_from(PAIRS), max_size=8), st.data())
def test_any_cutting_of_the_stream_gives_the_same_replies(
    pairs: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    sent = b"".join(request for request, _ in pairs)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)), max_size=12)) | {0, len(sent)})
    core, clock = stream()
    got = b""
    for first, last in pairwise(cuts):
        got += core.receive(sent[first:last])
        clock.now_s += data.draw(st.floats(0.0, 3 * SILENCE_S))  # a slow network is no end of a frame
        assert core.pending <= 256
    assert got == b"".join(reply for _, reply in pairs)
    assert (core.pending, core.frames, core.closed) == (0, len(pairs), False)


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_out_of_step_until_the_stream_is_silent(what: str, step: int) -> None:
    memory = Memory()
    core, clock = stream(memory)
    broken = BROKEN[what]
    replies = b"".join(core.receive(broken[k : k + step]) for k in range(0, len(broken), step))
    assert replies == (GOOD_REPLY if what == "a byte too many" else b"")
    assert core.pending == 0 or what == "a byte too many"
    clock.now_s += SILENCE_S * 0.9
    assert core.receive(GOOD) == b"", "too soon"
    clock.now_s += SILENCE_S * 1.1
    assert core.receive(GOOD) == GOOD_REPLY
    assert core.receive(GOOD) == GOOD_REPLY
    assert not core.closed


def test_a_client_that_never_stops_sending_garbage_is_cut_off() -> None:
    core, _ = stream()
    sent = 0
    while not core.closed:
        assert core.receive(b"\xff" * 100) == b""
        assert core.pending == 0
        sent += 100
    assert DROPPED_BYTES_MAX < sent <= DROPPED_BYTES_MAX + 100
    assert core.receive(GOOD) == b""


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_garbage_never_writes_and_never_wedges(parts: list[bytes]) -> None:
    memory = Memory()
    core, clock = stream(memory)
    for part in parts:
        core.receive(part)
        assert core.pending <= 256
    clock.now_s += 1.0
    core.receive(b"\xff" * 256)  # ends an incomplete frame, if there is one
    clock.now_s += 1.0
    if not core.closed:
        assert core.receive(GOOD) == GOOD_REPLY
    assert [call for call in memory.calls if call[0] == "write"] == []


@asynccontextmanager
async def dial(server: TcpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            writer.transport.abort()  # the server cut it, which the test has looked at


@pytest.mark.usefixtures(either_loop.__name__)
def test_over_a_socket() -> None:
    async def main() -> None:
        async with await serve_rtu_tcp({1: Memory()}) as server, dial(server) as (reader, writer):
            for request, reply in PAIRS:
                for k in range(len(request)):
                    writer.write(request[k : k + 1])
                assert await asyncio.wait_for(reader.readexactly(len(reply)), WAIT_S) == reply
            writer.write(WRONG_CRC)
            await asyncio.sleep(3 * SILENCE_S)
            writer.write(GOOD)
            assert await asyncio.wait_for(reader.readexactly(len(GOOD_REPLY)), WAIT_S) == GOOD_REPLY

    run(main())


@pytest.mark.usefixtures(either_loop.__name__)
def test_an_incomplete_frame_is_not_waited_for_for_ever() -> None:
    async def main() -> None:
        server = await serve_rtu_tcp({1: Memory()}, limits=Limits(frame_timeout_s=0.1))
        async with server, dial(server) as (reader, writer):
            writer.write(GOOD)
            assert await asyncio.wait_for(reader.readexactly(len(GOOD_REPLY)), WAIT_S) == GOOD_REPLY
            writer.write(GOOD[:5])
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            await until(lambda: server.connections == 0)

    run(main())


class Broken(Memory):
    def read(self, address: int, count: int) -> bytes | int:
        raise KeyError("a defect")


def test_a_unit_that_raises_is_answered_04_and_surfaces() -> None:
    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        server = await serve_rtu_tcp({1: Broken()})
        async with dial(server) as (reader, writer):
            writer.write(GOOD)
            assert await asyncio.wait_for(reader.readexactly(5), WAIT_S) == rtu("01 83 04")
        assert isinstance(told[0]["exception"], KeyError)
        with pytest.raises(InvariantError, match="a defect"):
            await server.close()

    run(main())


@pytest.mark.parametrize("unit_id", [0, 248, 255])
def test_addresses_that_a_line_has_not_are_refused_at_once(unit_id: int) -> None:
    async def main() -> None:
        with pytest.raises(ScenarioError, match=f"unit id {unit_id} found"):
            await serve_rtu_tcp({unit_id: Memory()})

    run(main())


def test_pymodbus_client() -> None:
    async def main() -> None:
        memory = Memory()
        async with await serve_rtu_tcp({1: memory, 7: Memory()}) as server:
            client = AsyncModbusTcpClient(
                server.host, port=server.port, framer=FramerType.RTU, timeout=WAIT_S, retries=0
            )
            assert await client.connect()
            read = await client.read_holding_registers(10, count=125, device_id=1)
            assert read.registers == [0x1000 + k for k in range(10, 135)]
            assert not (await client.write_register(3, 0xBEEF, device_id=1)).isError()
            assert not (await client.write_registers(4, [1, 2, 3], device_id=1)).isError()
            read = await client.read_holding_registers(3, count=4, device_id=1)
            assert read.registers == [0xBEEF, 1, 2, 3]
            assert (await client.read_holding_registers(3, device_id=7)).registers == [0x1003]
            answer = await client.read_holding_registers(199, count=2, device_id=1)
            assert answer.isError()
            assert answer.exception_code == 2
            client.close()

    run(main())
