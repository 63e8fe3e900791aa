"""Outside clients, not ours, on the serial line: pymodbus, minimalmodbus, mbpoll, libmodbus, pysunspec2."""

from __future__ import annotations

import asyncio
import ctypes
import shutil
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import pytest
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.serial_line import serve_serial
from sunspec2.modbus import client as sunspec_client
from sunspec2.modbus.modbus import ModbusClientTimeout

from tests.emulator.loops import run
from tests.emulator.register_bench import HOME, UPS, witness_points
from tests.emulator.serial_bench import FAST, WAIT_S, Memory
from tests.witness import libmodbus

Framing = Literal["rtu", "ascii"]
FRAMINGS: tuple[Framing, ...] = ("rtu", "ascii")
Result = TypeVar("Result")

BROADCAST_S = 0.1
"""The standard's turnaround delay, before which nobody may speak after a broadcast."""


def talk(units: dict[int, Any], job: Callable[[str], Result], framing: Framing = "rtu") -> Result:
    """Serve units on a pseudo terminal, and let a blocking client do its job with it in a thread."""
    results = []

    async def main() -> None:
        async with await serve_serial(units, "pty", FAST, parity="N", stopbits=1, framing=framing) as line:
            results.append(await asyncio.to_thread(job, line.path))
            assert line.counts.replies > 0
            assert line.counts.foreign_speed_bytes == 0

    run(main())
    return results[0]


def cells(memory: Memory, first: int, count: int) -> list[int]:
    """Return what a unit's registers hold."""
    return [int.from_bytes(memory.cells[2 * k : 2 * k + 2], "big") for k in range(first, first + count)]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_pymodbus_client(framing: Framing) -> None:
    async def main() -> None:
        memories = {1: Memory(), 7: Memory()}
        async with await serve_serial(memories, "pty", FAST, framing=framing) as line:
            client = AsyncModbusSerialClient(
                line.path, framer=FramerType(framing), baudrate=FAST, timeout=WAIT_S, retries=0
            )
            assert await client.connect()
            read = await client.read_holding_registers(10, count=125, device_id=1)
            assert read.registers == [0x1000 + k for k in range(10, 135)]
            assert not (await client.write_register(3, 0xBEEF, device_id=7)).isError()
            assert not (await client.write_registers(4, [1, 2, 3], device_id=7)).isError()
            read = await client.read_holding_registers(3, count=4, device_id=7)
            assert read.registers == [0xBEEF, 1, 2, 3]
            for answer, code in (
                (await client.read_holding_registers(199, count=2, device_id=1), 2),
                (await client.write_registers(198, [7, 7, 7], device_id=1), 2),
                (await client.read_coils(0, device_id=1), 1),
            ):
                assert answer.isError()
                assert answer.exception_code == code
            await client.write_register(9, 0xCAFE, device_id=0, no_response_expected=True)
            await asyncio.sleep(BROADCAST_S)
            for unit_id in memories:
                read = await client.read_holding_registers(9, device_id=unit_id)
                assert read.registers == [0xCAFE]
            assert cells(memories[1], 3, 1) == [0x1003]
            client.close()
            await asyncio.sleep(0.05)  # its transport closes on a later turn of the loop

    run(main())


@pytest.mark.parametrize("framing", FRAMINGS)
def test_minimalmodbus_client(framing: Framing) -> None:
    minimalmodbus = pytest.importorskip("minimalmodbus", reason="minimalmodbus is not installed")
    memories = {1: Memory(), 7: Memory()}

    def job(path: str) -> None:
        one = minimalmodbus.Instrument(path, 1, mode=framing)
        one.serial.baudrate = FAST
        one.serial.timeout = WAIT_S
        try:
            assert one.read_registers(10, 50) == [0x1000 + k for k in range(10, 60)]
            one.write_register(3, 0xBEEF, functioncode=6)
            one.write_registers(4, [1, 2, 3])
            assert one.read_registers(3, 4) == [0xBEEF, 1, 2, 3]
            one.serial.timeout = 1.0  # it waits this long for the bytes that an exception has not
            with pytest.raises(minimalmodbus.IllegalRequestError, match="data address"):
                one.read_registers(199, 2)
            one.serial.timeout = WAIT_S
            one.address = 0
            one.write_register(9, 0xCAFE, functioncode=6)
            for one.address in memories:
                assert one.read_register(9) == 0xCAFE
        finally:
            one.serial.close()

    talk(memories, job, framing)
    assert cells(memories[7], 3, 4) == [0x1003, 0x1004, 0x1005, 0x1006]


@pytest.mark.skipif(shutil.which("mbpoll") is None, reason="mbpoll is not installed")
def test_mbpoll_client() -> None:
    async def poll(path: str, *arguments: str, values: tuple[str, ...] = ()) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *("mbpoll", "-m", "rtu", "-b", str(FAST), "-P", "none", "-0", "-1", "-o", "10", "-t", "4:hex"),
            *(*arguments, path, *values),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
        return process.returncode, output.decode()

    async def main() -> None:
        async with await serve_serial({1: Memory(), 7: Memory()}, "pty", FAST) as line:
            code, output = await poll(line.path, "-a", "7", "-r", "5", "-c", "2")
            assert code == 0, output
            assert "0x1005" in output
            assert "0x1006" in output
            assert (await poll(line.path, "-a", "7", "-r", "5", values=("0xBEEF",)))[0] == 0
            assert (await poll(line.path, "-a", "7", "-r", "6", values=("0x0102", "0x0304")))[0] == 0
            output = (await poll(line.path, "-a", "7", "-r", "5", "-c", "3"))[1]
            assert all(value in output for value in ("0xBEEF", "0x0102", "0x0304")), output
            assert "0x1005" in (await poll(line.path, "-a", "1", "-r", "5"))[1]
            code, output = await poll(line.path, "-a", "1", "-r", "199", "-c", "2")
            assert code != 0
            assert "Illegal data address" in output

    run(main())


@pytest.mark.skipif(libmodbus.NAME is None, reason="libmodbus is not installed")
def test_libmodbus_client() -> None:
    memories = {1: Memory(), 7: Memory()}

    def job(path: str) -> None:
        client = libmodbus.Libmodbus.rtu(path, FAST, WAIT_S)
        try:
            client.call("set_slave", 7)
            assert client.read(10, 125) == [0x1000 + k for k in range(10, 135)]
            assert client.call("write_register", 3, 0xBEEF) == 1
            assert client.call("write_registers", 4, 3, (ctypes.c_uint16 * 3)(1, 2, 3)) == 3
            assert client.read(3, 4) == [0xBEEF, 1, 2, 3]
            with pytest.raises(OSError, match="Illegal data address"):
                client.read(199, 2)
            with pytest.raises(OSError, match="Illegal function"):
                client.call("read_bits", 0, 1, (ctypes.c_uint8 * 1)())
            for _ in range(20):  # at once after each reply
                assert client.read(3, 1) == [0xBEEF]
        finally:
            client.close()

    talk(memories, job)
    assert memories[1].calls == []
    assert cells(memories[1], 3, 1) == [0x1003]


Device = sunspec_client.SunSpecModbusClientDeviceRTU


def sunspec_job(unit_id: int, job: Callable[[Any], Result]) -> Callable[[str], Result]:
    """Let pysunspec2 scan a unit, and then do a job with it."""

    def work(path: str) -> Result:
        device = Device(slave_id=unit_id, name=path, baudrate=FAST, timeout=WAIT_S)
        try:
            device.scan()
            return job(device)
        finally:
            device.close()

    return work


def shown(device: Any) -> dict[str, Any]:
    """Return every value of a scanned device by model and point."""
    models = [model for key, found in device.models.items() if isinstance(key, int) for model in found]
    return {f"{m.model_id}.{name}": point.cvalue for m in models for name, point in witness_points(m)}


def two_devices() -> dict[int, DeviceImage]:
    """Return the units of two unlike devices on one line: inverters 1 and 2, and their meters."""
    plant = Plant([HOME, UPS], soc_frac=0.61803)
    plant.advance(50 * 60)
    units = units_of(plant, 0, 1) | units_of(plant, 1, 2)
    assert len(units) == 4
    return units


def test_pysunspec2_scans_real_devices_that_share_a_line() -> None:
    units = two_devices()
    for unit_id, profile in ((1, HOME), (2, UPS)):
        models, values = talk(units, sunspec_job(unit_id, lambda d: ([*d.models], shown(d))))
        assert [model for model in models if isinstance(model, int)] == list(profile.face.models)
        assert values["1.Mn"] == profile.face.manufacturer
        assert values["713.SoC"] == pytest.approx(61.8, abs=0.3)
    meter_id = max(units)
    assert talk(units, sunspec_job(meter_id, lambda d: [*d.models]))[:2] == [1, "common"]


def test_a_broadcast_write_reaches_every_device_and_can_be_read_back() -> None:
    """SunSpec requires of an RTU device that it takes broadcasts; 704.WMaxLimPct is at one place here."""
    units = two_devices()
    places = {units[unit_id].layout.point(704, "WMaxLimPct").address for unit_id in (1, 2)}

    def job(path: str) -> list[float]:
        found = []
        for unit_id in (1, 2):
            device = Device(slave_id=unit_id, name=path, baudrate=FAST, timeout=WAIT_S)
            device.scan()
            point = device.models[704][0].points["WMaxLimPct"]
            if unit_id == 1:
                assert point.cvalue != 57
                raw = round(57 / 10 ** (device.models[704][0].points["WMaxLimPct_SF"].value or 0))
                device.client.serial.timeout = 0.2
                for address in places:
                    with pytest.raises(ModbusClientTimeout):  # it waits for an answer to a broadcast
                        device.client.write(0, address, raw.to_bytes(2, "big"))
                device.client.serial.timeout = WAIT_S
                point.read()
            found.append(point.cvalue)
            device.close()
        return found

    assert talk(units, job) == [57, 57]
