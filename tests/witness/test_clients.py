"""Clients that others have written, against our servers: one procedure through each, over each transport.

Scans by pysunspec2 of every profile are in test_image_wire.py and test_serial_clients.py, where also are
broadcasts and the framings of plain registers.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import pytest
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.serial_line import serve_serial
from ridethrough.emulator.server import serve_tcp

from tests.emulator.loops import run
from tests.emulator.modbus_rows import Device
from tests.emulator.register_bench import HOME, dump
from tests.witness.clients import (
    ASCII,
    BAUD,
    RTU,
    TCP,
    Client,
    Libmodbus,
    Place,
    PyModbusTcp,
    RefusedError,
)

BLOCK = 125
INVERTER = 1
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
WAYS = [
    *((name, "tcp") for name in TCP),
    *((name, "rtu") for name in RTU),
    *((name, "ascii") for name in ASCII),
]
MAKERS = {"tcp": TCP, "rtu": RTU, "ascii": ASCII}


def serve(units: Mapping[int, DeviceImage | Device], way: str, job: Callable[[Place], None]) -> None:
    """Serve units, and let a client that blocks do its job in a thread."""

    async def main() -> None:
        if way == "tcp":
            async with await serve_tcp(units) as server:
                await asyncio.to_thread(job, Place(server.host, server.port))
        else:
            framing: Literal["rtu", "ascii"] = "ascii" if way == "ascii" else "rtu"
            async with await serve_serial(
                units, "pty", BAUD, parity="N", stopbits=1, framing=framing
            ) as line:
                await asyncio.to_thread(job, Place(path=line.path, framing=framing))
                assert line.counts.replies > 0

    run(main())


def walked(client: Client, unit: int, base: int) -> Iterator[int]:
    """Find the models of a unit by their headers."""
    assert client.read(unit, base, 2) == [0x5375, 0x6E53]
    at = base + 2
    while True:
        model, length = client.read(unit, at, 2)
        if model == 0xFFFF:
            assert length == 0
            return
        yield model
        at += 2 + length


def whole(client: Client, unit: int, base: int, count: int) -> bytes:
    values = []
    for first in range(0, count, BLOCK):
        values += client.read(unit, base + first, min(BLOCK, count - first))
    return b"".join(value.to_bytes(2) for value in values)


def refusal(call: Callable[..., object], *arguments: object) -> int:
    with pytest.raises(RefusedError) as caught:
        call(*arguments)
    return caught.value.code


def reads_all(client: Client, units: dict[int, DeviceImage]) -> None:
    for unit_id, unit in units.items():
        assert list(walked(client, unit_id, unit.base_address)) == list(unit.layout.models)
        assert whole(client, unit_id, unit.base_address, unit.count) == dump(unit)


def commands(client: Client, unit: DeviceImage, plant: Plant) -> None:
    """Limit the power to 37 %, then to 53 % with two registers in one request."""
    enable, limit = (unit.layout.point(704, name).address for name in ("WMaxLimPctEna", "WMaxLimPct"))
    assert limit == enable + 1
    per_percent = round(unit.layout.point(704, "WMaxLimPct").factor) // 100

    def in_force() -> tuple[float, float]:
        return float(plant.controls("limit_ena")[0]), float(plant.controls("limit_frac")[0])

    assert in_force()[0] == 0.0
    client.write_one(INVERTER, limit, 37 * per_percent)
    assert client.read(INVERTER, enable, 2) == [0, 37 * per_percent]
    client.write_many(INVERTER, enable, [1, 53 * per_percent])
    assert client.read(INVERTER, enable, 2) == [1, 53 * per_percent]
    assert in_force() == (1.0, 0.53)


def is_refused(client: Client, units: dict[int, DeviceImage]) -> None:
    """What must not be done is refused with the right code, and changes nothing."""
    before = {unit_id: dump(unit) for unit_id, unit in units.items()}
    unit = units[INVERTER]
    set_point, power = unit.layout.point(704, "WSet"), unit.layout.point(701, "W")
    assert set_point.size == 2
    end = unit.base_address + unit.count
    assert refusal(client.read, INVERTER, end - 1, 2) == ILLEGAL_ADDRESS
    assert refusal(client.read, INVERTER, unit.base_address - 1, 2) == ILLEGAL_ADDRESS
    assert refusal(client.write_one, INVERTER, power.address, 1) == ILLEGAL_ADDRESS
    assert refusal(client.write_many, INVERTER, power.address, [1, 2]) == ILLEGAL_ADDRESS
    assert refusal(client.write_one, INVERTER, set_point.address, 0) == ILLEGAL_VALUE
    for unit_id in units.keys() - {INVERTER}:
        assert refusal(client.write_one, unit_id, units[unit_id].base_address + 4, 1) == ILLEGAL_ADDRESS
    assert {unit_id: dump(unit) for unit_id, unit in units.items()} == before


@pytest.mark.parametrize(("name", "way"), WAYS, ids=[f"{name} {way}" for name, way in WAYS])
def test_client_reads_and_commands_a_device(name: str, way: str) -> None:
    plant = Plant([HOME], soc_frac=0.61803)
    plant.set_input("load_w", 1234.5)
    plant.advance(50 * 60)
    units = units_of(plant, 0)
    assert len(units) == 2, "an inverter and its meter"

    def job(place: Place) -> None:
        client = MAKERS[way][name](place)
        try:
            reads_all(client, units)
            is_refused(client, units)
            commands(client, units[INVERTER], plant)
        finally:
            client.close()

    serve(units, way, job)


@pytest.mark.parametrize("way", ["tcp", "rtu"])
def test_libmodbus_uses_every_function(way: str) -> None:
    device = Device()

    def job(place: Place) -> None:
        client = Libmodbus(place)
        try:
            bits, words = (ctypes.c_uint8 * 9)(), (ctypes.c_uint16 * 2)()
            client.call(1, "read_bits", 1, 9, bits)
            assert [bool(bit) for bit in bits] == device.coils[1:10]
            client.call(1, "read_input_bits", 0, 6, bits)
            assert [bool(bit) for bit in bits[:6]] == device.inputs[:6]
            client.call(1, "read_input_registers", 7, 2, words)
            assert list(words) == [0x1007, 0x1008]
            client.call(1, "write_bit", 1, 1)
            client.call(1, "write_bits", 4, 9, (ctypes.c_uint8 * 9)(*[1] * 9))
            assert device.coils[:14] == [i % 3 == 0 or i == 1 or 4 <= i < 13 for i in range(14)]
            client.call(1, "mask_write_register", 3, ctypes.c_uint16(0xFF), ctypes.c_uint16(0xAB00))
            new = (ctypes.c_uint16 * 1)(0xCAFE)
            client.call(1, "write_and_read_registers", 4, 1, new, 3, 2, words)
            assert list(words) == [0xAB03, 0xCAFE]
            assert refusal(client.call, 1, "report_slave_id", 9, bits) == ILLEGAL_FUNCTION
            assert refusal(client.call, 1, "read_bits", 195, 9, bits) == ILLEGAL_ADDRESS
            assert client.read(1, 3, 2) == [0xAB03, 0xCAFE]
        finally:
            client.close()

    serve({1: device}, way, job)


def test_pymodbustcp_uses_every_function() -> None:
    device = Device()

    def job(place: Place) -> None:
        witness = PyModbusTcp(place)
        client = witness.client
        assert client.read_coils(1, 9) == device.coils[1:10]
        assert client.read_discrete_inputs(0, 6) == device.inputs[:6]
        assert client.read_input_registers(7, 2) == [0x1007, 0x1008]
        assert client.write_single_coil(1, True)
        assert client.write_multiple_coils(4, [True] * 9)
        assert device.coils[:14] == [i % 3 == 0 or i == 1 or 4 <= i < 13 for i in range(14)]
        assert client.write_read_multiple_registers(4, [0xCAFE], 3, 2) == [0x1003, 0xCAFE]
        found = client.read_device_identification(read_code=3)
        assert found.objects_by_id == device.objects
        assert refusal(witness.checked, client.read_coils(195, 9)) == ILLEGAL_ADDRESS
        witness.close()

    serve({1: device}, "tcp", job)


def test_refusal_is_told_from_success() -> None:
    """The test of the tests: what is not refused is no refusal, and what is refused is not read."""
    with pytest.raises(pytest.fail.Exception):
        refusal(lambda: None)

    class Deaf(Device):
        def read(self, address: int, count: int) -> bytes | int:
            return ILLEGAL_FUNCTION

    def job(place: Place) -> None:
        for make in TCP.values():
            client = make(place)
            assert refusal(client.read, 1, 0, 2) == ILLEGAL_FUNCTION
            client.close()

    serve({1: Deaf()}, "tcp", job)
