"""The relay over real sockets, against our server: what it moves, delays, loses and ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusIOException
from ridethrough.emulator.server import TcpServer, serve_tcp
from ridethrough.hil.faults import Event
from ridethrough.hil.link import Route
from ridethrough.hil.relay import Relay
from ridethrough.hil.slow_clients import SlowClients
from ridethrough.hil.world import Comms

S = 10**9
READ = bytes.fromhex("000100000006 01 03 0000 0001")
WRITE = bytes.fromhex("000200000006 01 06 0000 002a")
CALM = Comms(0, 0, 0.0, 5 * S)


class Memory:
    """A unit of ten registers."""

    def __init__(self) -> None:
        self.data = bytearray(20)

    def read(self, address: int, count: int) -> bytes | int:
        return bytes(self.data[2 * address : 2 * (address + count)]) if address + count <= 10 else 2

    def write(self, address: int, data: bytes) -> int:
        self.data[2 * address : 2 * address + len(data)] = data
        return 0


class Clock:
    """Bench time that runs as fast as real time, from now on."""

    def __init__(self) -> None:
        self._start_s = asyncio.get_running_loop().time()

    def now_ns(self) -> int:
        return round((asyncio.get_running_loop().time() - self._start_s) * S)

    def real_s(self, bench_ns: int) -> float:
        return bench_ns / S


class Field:
    """A device behind a relay, and events that a test begins and ends."""

    def __init__(self, server: TcpServer, other: TcpServer) -> None:
        self.events: tuple[Event, ...] = ()
        self.ports = [server.port, other.port]
        self.route = Route(1, ("a", "b"), 0, CALM, lambda now_ns: self.events)
        self.clock = Clock()
        self.relay = Relay(self.route.link, self.ports.__getitem__, self.clock)

    def begin(self, fault: str, **params: Any) -> None:
        self.events = (Event(1, f"comms.{fault}", (0,), 0, 1000 * S, params),)


Talk = Callable[[Field, Memory], Awaitable[None]]


def field(talk: Talk) -> None:
    """Run a test's talk; nothing may be left running after it."""

    async def main() -> None:
        memory, other = Memory(), Memory()
        other.data[:2] = b"\0\7"
        async with await serve_tcp({1: memory}) as server, await serve_tcp({1: other}) as stranger:
            there = Field(server, stranger)
            await there.relay.start()
            try:
                await talk(there, memory)
            finally:
                async with asyncio.timeout(5):
                    await there.relay.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def client_of(there: Field, timeout_s: float = 2.0) -> AsyncModbusTcpClient:
    return AsyncModbusTcpClient(
        "127.0.0.1", port=there.relay.port, timeout=timeout_s, retries=0, reconnect_delay=0
    )


def through(talk: Callable[[AsyncModbusTcpClient, Field, Memory], Awaitable[None]], timeout_s: float) -> None:
    async def whole(there: Field, memory: Memory) -> None:
        client = client_of(there, timeout_s)
        assert await client.connect()
        try:
            await talk(client, there, memory)
        finally:
            client.close()

    field(whole)


async def raw(there: Field) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", there.relay.port)


def test_without_faults_everything_passes() -> None:
    async def talk(client: AsyncModbusTcpClient, there: Field, memory: Memory) -> None:
        for value in range(50):
            assert not (await client.write_register(3, value, device_id=1)).isError()
            assert (await client.read_holding_registers(3, count=1, device_id=1)).registers == [value]

    through(talk, 2.0)


def test_a_delay_is_met_once_per_exchange() -> None:
    async def talk(client: AsyncModbusTcpClient, there: Field, memory: Memory) -> None:
        there.begin("latency-fixed", latency_s=0.4)
        for exchange in (
            client.read_holding_registers(0, count=1, device_id=1),
            client.write_register(0, 1, device_id=1),
        ):
            begun_s = time.perf_counter()
            await exchange
            assert 0.39 <= time.perf_counter() - begun_s < 0.79  # twice would be 0.8

    through(talk, 5.0)


@pytest.mark.parametrize("direction", ["commands", "telemetry"])
def test_a_lost_message_is_a_time_out_and_a_lost_command_has_no_effect(direction: str) -> None:
    async def talk(client: AsyncModbusTcpClient, there: Field, memory: Memory) -> None:
        there.begin("partition-one-way", direction=direction)
        lost = (
            client.write_register(0, 7, device_id=1)
            if direction == "commands"
            else client.read_holding_registers(0, count=1, device_id=1)
        )
        with pytest.raises(ModbusIOException):
            await lost
        assert bytes(memory.data[:2]) == b"\0\0"

    through(talk, 0.2)


def test_a_delayed_command_dies_with_its_connection() -> None:
    async def talk(there: Field, memory: Memory) -> None:
        there.begin("latency-fixed", latency_s=0.2)
        _, writer = await raw(there)
        writer.write(WRITE)
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.sleep(0.4)
        assert bytes(memory.data[:2]) == b"\0\0"

    field(talk)


def test_what_a_device_sent_before_it_closed_still_arrives() -> None:
    async def talk(there: Field, memory: Memory) -> None:
        there.begin("latency-fixed", latency_s=0.1)
        reader, writer = await raw(there)
        writer.write(READ + b"GET / HTTP/1.1\r\n\r\n")  # the read is answered, and then the device closes
        async with asyncio.timeout(2):
            assert await reader.read() == bytes.fromhex("0001 0000 0005 01 03 02 0000")
        writer.close()

    field(talk)


def test_a_device_that_is_gone_shows_as_a_closed_connection() -> None:
    async def main() -> bytes:
        async with await serve_tcp({1: Memory()}) as server:
            port = server.port
        there = Route(1, ("a",), 0, CALM, lambda now_ns: ())
        relay = Relay(there.link, lambda row: port, Clock())
        await relay.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        async with asyncio.timeout(2):
            answer = await reader.read()
        writer.close()
        await relay.close()
        return answer

    assert asyncio.run(main()) == b""


def test_a_reset_in_the_middle_of_an_exchange_is_one() -> None:
    async def talk(there: Field, memory: Memory) -> None:
        there.begin("reset")
        reader, writer = await raw(there)
        writer.write(WRITE)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert bytes(memory.data[:2]) == b"\0\x2a", "it was carried out"

    field(talk)


def test_an_answer_of_the_network_goes_to_the_client_and_nothing_to_the_device() -> None:
    async def talk(client: AsyncModbusTcpClient, there: Field, memory: Memory) -> None:
        there.begin("exception", code=6, requests="writes")
        assert (await client.write_register(0, 7, device_id=1)).exception_code == 6
        assert bytes(memory.data[:2]) == b"\0\0"

    through(talk, 2.0)


def test_kept_commands_reach_the_device_before_the_next_request() -> None:
    async def talk(client: AsyncModbusTcpClient, there: Field, memory: Memory) -> None:
        there.begin("queued-commands", after_s=0.0)
        assert not (await client.write_register(0, 7, device_id=1)).isError()
        assert (await client.read_holding_registers(0, count=1, device_id=1)).registers == [0]
        there.events = ()
        assert (await client.read_holding_registers(0, count=1, device_id=1)).registers == [7]

    through(talk, 2.0)


def test_a_half_open_connection_is_silent_both_ways_and_a_new_one_hangs() -> None:
    async def talk(client: AsyncModbusTcpClient, there: Field, memory: Memory) -> None:
        await client.read_holding_registers(0, count=1, device_id=1)
        there.begin("half-open", anew="silent")
        with pytest.raises(ModbusIOException):
            await client.read_holding_registers(0, count=1, device_id=1)
        another = client_of(there, 0.2)
        assert await another.connect(), "a listening socket cannot be deaf"
        with pytest.raises(ModbusIOException):
            await another.read_holding_registers(0, count=1, device_id=1)
        another.close()

    through(talk, 0.2)


@pytest.mark.parametrize("refusal", ["reset", "refuse"])
def test_a_client_that_is_turned_away_is_reset(refusal: str) -> None:
    async def talk(there: Field, memory: Memory) -> None:
        there.begin("connection-limit", refusal=refusal)
        reader, writer = await raw(there)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    field(talk)


def test_at_a_changed_address_another_device_answers() -> None:
    async def talk(there: Field, memory: Memory) -> None:
        there.begin("address-change")
        client = client_of(there)
        assert await client.connect()
        assert (await client.read_holding_registers(0, count=1, device_id=1)).registers == [7]
        client.close()

    field(talk)


def test_a_client_that_does_not_read_stops_the_device() -> None:
    async def talk(there: Field, memory: Memory) -> None:
        there.begin("latency-fixed", latency_s=600.0)  # what has been read waits in the relay
        _, writer = await raw(there)
        for _ in range(60):
            writer.write(READ * 500)
            await asyncio.sleep(0)
        await asyncio.sleep(0.3)
        (pair,) = there.relay._pairs
        first = len(pair.near._waiting)
        await asyncio.sleep(0.2)
        assert 256 < len(pair.near._waiting) == first < 100_000
        writer.transport.abort()

    field(talk)


def test_closing_waits_for_calls_to_the_device_that_are_under_way() -> None:
    async def talk(there: Field, memory: Memory) -> None:
        writers = [(await raw(there))[1] for _ in range(20)]
        await there.relay.close()
        assert not there.relay._pairs
        for writer in writers:
            writer.transport.abort()

    field(talk)


def test_slow_clients_hold_connections_while_their_event_lasts_and_a_sound_server_minds_them_not() -> None:
    async def talk(there: Field, memory: Memory) -> None:
        port = there.ports[0]
        slow = SlowClients(lambda row: ("127.0.0.1", port), there.clock, lambda: there.events)
        there.begin("slow-loris", clients=3, every_s=0.05, stall_s=0.0)
        running = asyncio.create_task(slow.run())
        client = client_of(there)
        assert await client.connect()
        await asyncio.sleep(0.1)
        assert slow.count == 3
        assert (await client.read_holding_registers(0, count=1, device_id=1)).registers == [0]
        there.events = ()
        slow.look()
        assert slow.count == 0
        client.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    field(talk)
