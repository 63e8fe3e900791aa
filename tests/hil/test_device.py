"""A device as the bench sees it: every bundled profile with a real plant, hand-made maps, foreign servers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from ridethrough.emulator.errors import DeviceError, ScenarioError
from ridethrough.emulator.image import units_of
from ridethrough.emulator.layout import quantise_soc, soc_frac_step
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.server import TcpServer, serve_tcp
from ridethrough.hil.device import Device
from ridethrough.hil.device_scan import scan
from ridethrough.hil.files import load_profile, profile_names
from ridethrough.hil.modbus_link import READ_REGISTERS_MAX, TargetError, Unit
from ridethrough.hil.readings import METER_MODELS, grid_good
from ridethrough.hil.sunspec_points import fixed_points
from sunspec2.modbus import client as witness

from tests.hil.device_bench import (
    TIMEOUT_S,
    Registers,
    charging_w,
    der,
    legacy,
    model,
    run,
    serial_line,
    served,
)

NAMES = profile_names()
MINUTE = 3000
"""Ticks."""


@asynccontextmanager
async def bench(
    name: str, soc: float = 0.6172, load_w: float = 700.0
) -> AsyncIterator[tuple[Plant, Device, TcpServer]]:
    """Serve one device of a profile, and connect to it."""
    profile = load_profile(name)
    plant = Plant([profile], soc_frac=[soc], soh_frac=[0.93])
    plant.set_input("load_w", [load_w])
    plant.advance(50)
    async with (
        await serve_tcp(units_of(plant, 0)) as server,
        Device(f"tcp:127.0.0.1:{server.port}/1") as device,
    ):
        yield plant, device, server


def truth(plant: Plant, state: str) -> float:
    return float(plant.states(state)[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_reading_is_the_truth_to_a_registers_step(name: str) -> None:
    async def test() -> None:
        async with bench(name) as (plant, device, _):
            found = await device.discover()
            assert found.warnings == ()
            assert found.identity.manufacturer == "Ridethrough"
            capacity_j = plant.params("capacity_j")[0]
            step = soc_frac_step(plant.profiles[0])
            for power_w in (2000.0, charging_w(plant.profiles[0]), 0.0):
                await device.set_power(power_w, 3600)
                plant.advance(MINUTE)
                reading = await device.telemetry()
                assert abs(reading.power_w - power_w) < 1.0 + 0.001 * abs(power_w)
                assert abs(reading.power_w - truth(plant, "power_w")) <= 0.5 * 10 ** (
                    len(str(int(power_w))) > 6
                )
                assert reading.import_w == pytest.approx(truth(plant, "import_w"), abs=5.0)
                # The device shows its estimate; the same bits as the model level.
                soc = np.clip(
                    truth(plant, "energy_j") / capacity_j + truth(plant, "soc_error_frac"), 0.0, 1.0
                )
                assert reading.soc_frac == quantise_soc(soc, step)
                assert reading.grid_good == 1.0
                beat = not {715, 802}.isdisjoint(entry.id for entry in found.models)
                assert (reading.heartbeat == truth(plant, "elapsed_ticks") // 50) == beat
                assert math.isnan(reading.heartbeat) != beat

    run(test())


@pytest.mark.parametrize("name", NAMES)
def test_an_outage_shows_in_the_reading(name: str) -> None:
    async def test() -> None:
        async with bench(name) as (plant, device, _):
            assert (await device.telemetry()).grid_good == 1.0
            plant.set_input("grid_good", [0.0])
            plant.set_input("voltage_pu", [0.0])
            plant.advance(10)
            assert (await device.telemetry()).grid_good == 0.0
            plant.advance(MINUTE)
            reading = await device.telemetry()
            assert reading.grid_good == 0.0
            assert reading.power_w == pytest.approx(truth(plant, "power_w"), abs=1.0)
            assert (reading.power_w > 0.0) == plant.profiles[0].island.capable
            plant.set_input("grid_good", [1.0])
            plant.set_input("voltage_pu", [1.0])
            plant.advance(10 * MINUTE)
            assert (await device.telemetry()).grid_good == 1.0

    run(test())


@pytest.mark.parametrize("name", NAMES)
def test_a_poll_takes_few_requests_of_allowed_size(name: str) -> None:
    async def test() -> None:
        async with bench(name) as (_, device, _):
            found = await device.discover()
            spans = device._spans
            # Curve models lie between those that are polled, which makes one request more.
            assert len(spans) <= (3 if found.find(701) is not None and found.find(705) is None else 4)
            assert all(2 < span.count <= READ_REGISTERS_MAX for span in spans)
            for span in spans:
                for field in span.fields:
                    assert 2 <= field.first < field.last <= span.count
                    assert field.scale_at is None or 2 <= field.scale_at < span.count

    run(test())


@pytest.mark.parametrize("number", METER_MODELS)
def test_every_meter_model_can_be_polled_in_one_request(number: int) -> None:
    point = fixed_points(number, 200)["W"]
    assert max(point.offset + point.size, (point.scale_offset or 0) + 1) <= READ_REGISTERS_MAX


@pytest.mark.parametrize("name", NAMES)
def test_capabilities_are_those_of_the_profile(name: str) -> None:
    async def test() -> None:
        async with bench(name) as (_, device, _):
            profile = load_profile(name)
            can = await device.capabilities()
            models = profile.face.models
            assert can.family == profile.control.families[0]
            assert can.has_revert_timer
            assert can.has_reserve == profile.control.has_reserve
            assert can.power_w_discharge_max == profile.inverter.power_w_discharge_max
            assert can.power_w_charge_max == profile.inverter.power_w_charge_max
            assert can.soc_frac_step == pytest.approx(soc_frac_step(profile))
            if 713 in models or 802 in models:
                assert can.soh_frac == pytest.approx(0.93)
                assert can.energy_wh == pytest.approx(0.93 * profile.battery.energy_wh)
            else:
                assert math.isnan(can.soh_frac)
                assert can.energy_wh == profile.battery.energy_wh
            if 802 in models:
                assert can.soc_frac_min == profile.battery.soc_frac_min
            else:
                assert math.isnan(can.soc_frac_min)

    run(test())


@pytest.mark.parametrize("name", NAMES)
def test_every_point_reads_as_pysunspec2_reads_it(name: str) -> None:
    """The standard's own client is the witness, point by point, inverter and meter."""

    def read(port: int, unit: int) -> dict[tuple[int, str], object]:
        client = witness.SunSpecModbusClientDeviceTCP(
            slave_id=unit, ipaddr="127.0.0.1", ipport=port, timeout=5
        )
        client.connect()
        try:
            client.scan(connect=False)
            found: dict[tuple[int, str], object] = {}
            for one in client.model_list:
                one.read()
                for point_name, point in one.points.items():
                    found[one.model_id, point_name] = point.cvalue
            return found
        finally:
            client.disconnect()

    async def test() -> None:
        async with bench(name) as (_, device, server):
            await device.discover()
            for unit in (1, 101):
                theirs = await asyncio.to_thread(read, server.port, unit)
                report = await scan(f"tcp:127.0.0.1:{server.port}/{unit}")
                assert report.warnings == ()
                ours = {(m.entry.id, p.name): p.value for m in report.models for p in m.points}
                compared = 0
                for key, value in theirs.items():
                    if key not in ours or isinstance(value, str) or key[1] in ("ID", "L"):
                        continue
                    mine = ours[key]
                    if value is None or mine is None:
                        # pysunspec2 takes a missing scale factor for a power of zero; here it makes no value.
                        assert mine is None, key
                    else:
                        assert mine == pytest.approx(value, rel=1e-12), key
                        compared += 1
                assert compared > 15

    run(test())


def test_points_and_models_are_read_by_name() -> None:
    async def test() -> None:
        async with served(Registers(der())) as device:
            assert await device.read_point("713.SoC") == 50.0
            assert await device.read_point("713.Sta") is None
            assert await device.read_point("1.Mn") == "Maker"
            values = await device.read_model(713)
            assert values == {
                "ID": 713,
                "L": 7,
                "WHRtg": 10000,
                "WHAvail": None,
                "SoC": 50.0,
                "SoH": 90.0,
                "Sta": None,
                "WH_SF": 2,
                "Pct_SF": -1,
            }

    run(test())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("713.Soc", r"model 713 has no point 'Soc'; its points: ID, L, WHRtg, WHAvail, SoC"),
        ("714.DCW", "no model 714 with index 0; it has 1, 701, 702, 704, 713, 715"),
        ("SoC", "allowed MODEL.POINT such as 713.SoC"),
        ("713.", "allowed MODEL.POINT"),
        ("x.y", "allowed MODEL.POINT"),
    ],
)
def test_names_that_are_not_there_are_said_with_what_is(name: str, words: str) -> None:
    async def test() -> None:
        async with served(Registers(der())) as device:
            with pytest.raises(TargetError, match=words):
                await device.read_point(name)
            with pytest.raises(TargetError, match=words):
                await device.write_point(name, 1)

    run(test())


def test_a_repeating_group_is_read_by_its_index() -> None:
    async def test() -> None:
        module = [0] * 9 + [100, 2000, 600] + [0] * 8
        mppt = [160, 8 + 40, 0x8000, 0, 0, 0, 0, 0, 2, 0, *module, *module]
        async with served(Registers([*der(), mppt])) as device:
            values = await device.read_model(160)
            assert (await device.read_point("160.module[2].DCW"), values["module[1].DCV"]) == (600, 2000)
            assert values["module[2].DCA"] is None  # its scale factor is not implemented

    run(test())


@pytest.mark.parametrize(
    ("values", "good"),
    [
        ({}, math.nan),
        ({"connected": 1.0}, 1.0),
        ({"connected": 0.0}, 0.0),
        ({"connected": 1.0, "mode": 1.0}, 1.0),
        ({"connected": 1.0, "mode": 2.0}, 0.0),
        ({"mode": 3.0}, 0.0),
        ({"mode": 1.0}, 1.0),
        ({"mode": 0.0}, math.nan),
        ({"connected": 1.0, "events": 16.0}, 0.0),
        ({"connected": 1.0, "events": 15.0}, 1.0),
        ({"events": 0.0, "state": 4.0}, 1.0),
        ({"events": 0.0, "state": 2.0}, math.nan),
        ({"state": 4.0}, math.nan),
    ],
)
def test_grid_good_by_what_is_known(values: dict[str, float], good: float) -> None:
    assert np.array_equal(grid_good(values), good, equal_nan=True)


def test_what_a_device_does_not_tell_is_nan() -> None:
    async def test() -> None:
        unit = Registers([der()[0], model(701, W=-20, W_SF=1), model(713, SoC=500)])
        async with served(unit, meter_units=()) as device:
            found = await device.discover()
            reading = await device.telemetry()
            assert reading.power_w == -200.0
            for value in (reading.soc_frac, reading.import_w, reading.grid_good, reading.heartbeat):
                assert math.isnan(value)
            assert found.warnings == ("no meter found: no unit id to look at",)

    run(test())


def test_a_value_and_its_scale_factor_come_from_one_request() -> None:
    """A scale factor that jumps while running (Fronius) must not turn 1500 W into 15 kW."""

    async def test() -> None:
        unit = Registers(der())
        async with served(unit) as device:
            await device.discover()
            for watts, factor in ((1500, 0), (150, 1), (15000, 0xFFFF)):
                unit.set(701, "W", watts)
                unit.set(701, "W_SF", factor)
                assert (await device.telemetry()).power_w == 1500.0
            unit.set(701, "W_SF", 0x8000)
            assert math.isnan((await device.telemetry()).power_w)
            unit.set(701, "W_SF", 0)
            unit.set(701, "W", 0x8000)
            assert math.isnan((await device.telemetry()).power_w)
            unit.set(715, "DERHb", 0, 0)
            assert math.isnan((await device.telemetry()).heartbeat)

    run(test())


def test_an_empty_frame_and_a_changed_map_are_errors_and_then_discovered_again() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit) as device:
            await device.discover()
            before = dict(unit.words)
            unit.words = dict.fromkeys(before, 0)
            reads = len(unit.reads)
            for _ in range(2):
                with pytest.raises(DeviceError, match=r"an empty frame in place of model 701 .*, twice"):
                    await device.telemetry()
            assert len(unit.reads) == reads + 4
            unit.words = before
            assert (await device.telemetry()).power_w == 1500.0
            unit.words = Registers(legacy()).words  # integers became another family over night
            with pytest.raises(DeviceError, match="model 701 is gone: register 40070 holds model 103"):
                await device.telemetry()
            assert (await device.telemetry()).power_w == -1500.0

    run(test())


def test_a_meter_is_found_in_the_map_beside_it_or_where_it_is_said_to_be() -> None:
    meter = [der()[0], model(203, W=-321, W_SF=0)]

    async def test() -> None:
        for units, options, watts in (
            ([Registers([*der(), *meter])], {}, -321.0),
            ([Registers(der()), Registers(meter)], {"meter_units": (9, 2)}, -321.0),
            ([Registers(der()), Registers(meter)], {"meter_unit": 2}, -321.0),
            ([Registers(der()), Registers(der())], {"meter_units": (1, 2)}, math.nan),
        ):
            async with served(*units, **options) as device:
                assert np.array_equal((await device.telemetry()).import_w, watts, equal_nan=True)
        async with served(Registers(der()), Registers(der()), meter_unit=2) as device:
            with pytest.raises(TargetError, match="unit 2 has no meter model"):
                await device.discover()
        async with served(Registers(der()), meter_unit=5) as device:
            with pytest.raises(TargetError, match=r", unit 5: reading the SunSpec marker .*exception 11"):
                await device.discover()
        async with served(Registers(der())) as device:
            (warning,) = (await device.discover()).warnings
            assert warning.startswith("no meter found: ")
            assert "unit 101" in warning

    run(test())


def test_floats_are_polled_too() -> None:
    async def test() -> None:
        unit = Registers(
            [der()[0], model(113, W=1234.5, St=4, Evt1=0), model(124, ChaState=77, ChaState_SF=0)]
        )
        meter = Registers([der()[0], model(213, W=-0.25)])
        async with served(unit, meter, meter_unit=2) as device:
            reading = await device.telemetry()
            assert (reading.power_w, reading.import_w, reading.soc_frac) == (1234.5, -0.25, 0.77)
            assert reading.grid_good == 1.0
            unit.set(113, "W", 0x7FC0, 0)
            assert math.isnan((await device.telemetry()).power_w)

    run(test())


def test_one_lost_answer_costs_one_reading() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit, timeout_s=TIMEOUT_S, meter_units=()) as device:
            await device.discover()
            reads = len(unit.reads)
            unit.read_code = 6
            with pytest.raises(DeviceError, match="exception 6, server device busy"):
                await device.telemetry()
            unit.read_code = 0
            assert (await device.telemetry()).power_w == 1500.0
            assert len(unit.reads) == reads + 4 + len(device._spans), "it was discovered again"

    run(test())


def test_a_device_needs_a_target_that_can_be_understood() -> None:
    with pytest.raises(ScenarioError, match="tcp:HOST:PORT/UNIT"):
        Device("192.0.2.7")


def foreign(unit: int = 1) -> SimDevice:
    """Return a hand-made map for the server of pymodbus."""
    words = Registers(der()).words
    block = SimData(40000, values=[words[k] for k in sorted(words)], datatype=DataType.REGISTERS)
    return SimDevice(unit, simdata=[block])


async def command_and_release(device: Device) -> None:
    assert (await device.telemetry()).power_w == 1500.0
    assert await device.set_power(-1250.0, 60) == -1250.0
    assert await device.read_point("704.WSet") == -1250
    assert await device.read_point("704.WSetEna") == 1
    await device.release()
    assert await device.read_point("704.WSetEna") == 0


def test_a_foreign_server_is_a_device_like_any_other() -> None:
    """The server of pymodbus holds a hand-made map: nothing of ours is on the other side."""

    async def test() -> None:
        server = ModbusTcpServer(foreign(), address=("127.0.0.1", 0))
        assert await server.listen()
        try:
            port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # it listens
            async with Device(f"tcp:127.0.0.1:{port}", meter_units=()) as device:
                await command_and_release(device)
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus says no type
            await asyncio.sleep(0)

    run(test())


def test_a_foreign_server_on_a_serial_line_is_a_device_like_any_other() -> None:
    async def test() -> None:
        async with serial_line() as (near, far):
            server = ModbusSerialServer(foreign(7), port=far, baudrate=115200)
            assert await server.listen()
            try:
                async with Device(f"rtu:{near}@115200/7", meter_units=()) as device:
                    found = await device.discover()
                    assert found.identity.serial == "007"
                    await command_and_release(device)
                    with pytest.raises(DeviceError, match=f"rtu:{near}@115200/7: .*exception"):
                        await Unit(device._link, 7).read(1, 1, "what is not there")
                report = await scan(f"rtu:{near}@115200/7")
                assert [m.entry.id for m in report.models] == [1, 701, 702, 704, 713, 715]
            finally:
                await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus says no type
                await asyncio.sleep(0)

    run(test())
