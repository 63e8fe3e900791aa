"""The relay over real sockets, against our server: what it loses, delays and passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusIOException
from ridethrough.emulator.server import serve_tcp
from ridethrough.hil.freezing import FreezableUnit
from ridethrough.hil.messages import LOST
from ridethrough.hil.relay import Fate, Frames, Relay

READ = bytes.fromhex("000100000006 01 03 0000 0001")
WRITE = bytes.fromhex("000200000006 01 06 0000 002a")


class Memory:
    """A unit of ten registers."""

    def __init__(self) -> None:
        self.data = bytearray(20)

    def read(self, address: int, count: int) -> bytes | int:
        return bytes(self.data[2 * address : 2 * (address + count)]) if address + count <= 10 else 2

    def write(self, address: int, data: bytes) -> int:
        self.data[2 * address : 2 * address + len(data)] = data
        return 0


@given(st.data())
def test_frames_are_cut_at_their_borders_however_they_arrive(data: st.DataObject) -> None:
    frames = [READ, WRITE, READ]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    cutter, found = Frames(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += cutter.feed(stream[begin:end])
    assert found == frames


def test_a_stream_out_of_step_is_passed_on_not_held_for_ever() -> None:
    assert Frames().feed(b"GET / HTTP/1.1\r\n\r\n") == [b"GET / HTTP/1.1\r\n\r\n"]


def through(
    fate: Fate, talk: Callable[[AsyncModbusTcpClient, Memory], Awaitable[None]], timeout_s: float
) -> None:
    async def main() -> None:
        memory = Memory()
        async with await serve_tcp({1: memory}) as server:
            relay = Relay(server.port, fate)
            await relay.start()
            client = AsyncModbusTcpClient("127.0.0.1", port=relay.port, timeout=timeout_s, retries=0)
            assert await client.connect()
            try:
                await talk(client, memory)
            finally:
                client.close()
                await relay.close()

    asyncio.run(main())


def test_without_faults_everything_passes() -> None:
    async def talk(client: AsyncModbusTcpClient, memory: Memory) -> None:
        for value in range(50):
            assert not (await client.write_register(3, value, device_id=1)).isError()
            assert (await client.read_holding_registers(3, count=1, device_id=1)).registers == [value]

    through(lambda is_command: 0.0, talk, 2.0)


def test_a_delay_is_met_once_per_exchange() -> None:
    async def talk(client: AsyncModbusTcpClient, memory: Memory) -> None:
        for exchange in (
            client.read_holding_registers(0, count=1, device_id=1),
            client.write_register(0, 1, device_id=1),
        ):
            begun_s = time.perf_counter()
            await exchange
            assert 0.4 <= time.perf_counter() - begun_s < 0.79  # twice would be 0.8

    through(lambda is_command: 0.4, talk, 5.0)


@pytest.mark.parametrize("lost_commands", [True, False])
def test_a_lost_message_is_a_time_out_and_a_lost_command_has_no_effect(lost_commands: bool) -> None:
    async def talk(client: AsyncModbusTcpClient, memory: Memory) -> None:
        lost = (
            client.write_register(0, 7, device_id=1)
            if lost_commands
            else client.read_holding_registers(0, count=1, device_id=1)
        )
        with pytest.raises(ModbusIOException):
            await lost
        assert bytes(memory.data[:2]) == b"\0\0"

    through(lambda is_command: LOST if is_command == lost_commands else 0.0, talk, 0.2)


def test_a_delayed_command_dies_with_its_connection() -> None:
    async def main() -> bytes:
        memory = Memory()
        async with await serve_tcp({1: memory}) as server:
            relay = Relay(server.port, lambda is_command: 0.2)
            await relay.start()
            _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(WRITE)
            await asyncio.sleep(0.05)
            writer.close()
            await asyncio.sleep(0.4)
            await relay.close()
        return bytes(memory.data[:2])

    assert asyncio.run(main()) == b"\0\0"


def test_a_device_that_is_gone_shows_as_a_closed_connection() -> None:
    async def main() -> bytes:
        async with await serve_tcp({1: Memory()}) as server:
            port = server.port
        relay = Relay(port, lambda is_command: 0.0)
        await relay.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        async with asyncio.timeout(2):
            answer = await reader.read()
        writer.close()
        await relay.close()
        return answer

    assert asyncio.run(main()) == b""


def test_a_frozen_unit_repeats_itself_except_where_it_lives_on() -> None:
    memory = Memory()
    unit = FreezableUnit(memory, 0, 10, settings=(5,), heartbeat=(4,))
    unit.freeze(fresh=True)
    assert unit.write(3, b"\0\1\0\2\0\3") == 0
    assert unit.read(2, 4) == b"\0\0" + b"\0\0" + b"\0\2" + b"\0\3"
    unit.freeze(fresh=False)
    assert unit.read(4, 2) == b"\0\0" + b"\0\3"
    unit.thaw()
    assert unit.read(3, 3) == b"\0\1\0\2\0\3"
    assert unit.read(9, 2) == 2
