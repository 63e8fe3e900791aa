"""pysunspec2's own client over TCP: what it scans, reads and writes is what the plant holds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.server import serve_tcp
from sunspec2.modbus import client, modbus

from tests.emulator.register_bench import HOME, NAMES, PROFILES, witness_points

Result = TypeVar("Result")
Job = Callable[[client.SunSpecModbusClientDeviceTCP], Result]


def talk(units: dict[int, DeviceImage], unit_id: int, job: Job[Result]) -> Result:
    """Serve units on a loopback port and let the blocking client do its job with one of them."""

    def connect(port: int) -> Result:
        device = client.SunSpecModbusClientDeviceTCP(
            slave_id=unit_id, ipaddr="127.0.0.1", ipport=port, timeout=10
        )
        try:
            device.scan()
            device.connect()
            return job(device)
        finally:
            device.disconnect()

    async def serve() -> Result:
        async with await serve_tcp(units) as server:
            return await asyncio.to_thread(connect, server.port)

    return asyncio.run(serve())


def running_plant(name: str) -> Plant:
    """Return a plant in the middle of a discharge, with a load and some PV."""
    profile = PROFILES[name]
    plant = Plant([profile], soc_frac=0.61803, soh_frac=0.93)
    for field, value in (("load_w", 2345.6), ("pv_w_available", 987.6), ("voltage_pu", 1.013)):
        plant.set_input(field, value)
    for field, value in (("set_ena", 1.0), ("set_w", 0.37 * profile.inverter.power_w_discharge_max)):
        plant.set_control(field, value)
    plant.advance(50 * 4000)
    return plant


def values_of(models: dict[Any, list[Any]]) -> dict[str, tuple[float, float]]:
    """Return value and step of every number with a scale factor or without, by model and point."""
    found = {}
    for model in (model for key, entries in models.items() if isinstance(key, int) for model in entries):
        for name, point in witness_points(model):
            if isinstance(point.value, int) and name not in ("ID", "L", "Pad"):
                step = 10.0 ** (model.points[point.sf].value or 0) if point.sf else 1.0
                found[f"{model.model_id}.{name}"] = (float(point.cvalue), step)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_scan_finds_every_model_and_every_value(name: str) -> None:
    plant = running_plant(name)
    face = PROFILES[name].face
    for unit_id, unit in units_of(plant, 0).items():
        models, seen = talk({unit_id: unit}, unit_id, lambda d: ([*d.models], values_of(d.models)))
        expected = [1, 203 if face.phases == 3 else 201] if unit_id > 100 else list(face.models)
        assert [key for key in models if isinstance(key, int)] == expected
        quantities = unit.measure()
        checked = 0
        for point in unit.layout.points:
            label = f"{point.model}.{point.name}"
            true = quantities.get(point.quantity or "")
            if true is None or (point.type.startswith("acc") and true < 1.0):
                continue
            if math.isnan(true):
                assert label not in seen
                continue
            shown, step = seen[label]
            percent = 100.0 if point.units.startswith("%") or point.units in ("Pct", "VNomPct") else 1.0
            assert abs(shown - true * percent) <= step * (1 + 1e-9), (label, shown, true)
            checked += 1
        assert checked > (10 if unit_id > 100 else 25)


def test_values_on_the_wire_are_the_plants() -> None:
    """The same, against the plant's arrays and not through our own quantities."""
    plant = running_plant("home-13kwh-5kw")
    inverter, meter = units_of(plant, 0).values()
    seen = talk({1: inverter, 101: meter}, 1, lambda d: values_of(d.models))
    grid = talk({1: inverter, 101: meter}, 101, lambda d: values_of(d.models))
    power_w = float(plant.states("power_w")[0])
    assert power_w == pytest.approx(1850)
    soc = float(plant.states("energy_j")[0] / plant.params("capacity_j")[0])
    for label in ("713.SoC", "802.SoC", "124.ChaState"):
        assert 0 <= 100 * soc - seen[label][0] < 0.01 + 1e-9
    assert seen["713.SoH"][0] == 93.0
    assert seen["701.W"][0] == seen["101.W"][0] == pytest.approx(power_w, abs=0.5)
    assert seen["802.W"][0] == pytest.approx(plant.states("battery_w")[0], abs=0.5)
    assert seen["701.TotWhInj"][0] == pytest.approx(plant.states("discharge_j")[0] / 3600, abs=0.5)
    assert seen["701.LNV"][0] == grid["201.PhV"][0] == pytest.approx(1.013 * 240, abs=0.05)
    assert grid["201.W"][0] == pytest.approx(plant.states("import_w")[0], abs=0.5)
    assert grid["201.W"][0] == pytest.approx(2345.6 - 987.6 - 1850, abs=1)
    assert grid["201.TotWhExp"][0] == pytest.approx(plant.states("export_j")[0] / 3600, abs=0.5)


def command(device: client.SunSpecModbusClientDeviceTCP) -> tuple[Any, ...]:
    """Write a set-point with its timer as a careful client does, and read the function back."""
    control = device.models[704][0]
    control.points["WSetRvrtTms"].cvalue = 90
    control.points["WSetEnaRvrt"].cvalue = 0
    control.write()
    for name, value in (("WSetEna", 1), ("WSetMod", 1), ("WSet", -2500), ("WSetRvrt", 0)):
        control.points[name].cvalue = value
    control.write()
    control.read()
    names = ("WSetEna", "WSetMod", "WSet", "WSetRvrt", "WSetEnaRvrt", "WSetRvrtTms", "WSetRvrtRem")
    return tuple(control.points[name].cvalue for name in names)


def test_a_command_from_pysunspec2_reaches_the_plant() -> None:
    plant = Plant([HOME], soc_frac=0.5)
    units = units_of(plant, 0)
    assert talk(units, 1, command) == (1, 1, -2500, 0, 0, 90, 90)
    assert plant.controls("set_rvrt_ticks").tolist() == [4500]
    plant.advance(50 * 60)
    assert float(plant.states("power_w")[0]) == -2500
    plant.advance(50 * 60)
    assert float(plant.states("power_w")[0]) == 0
    assert talk(units, 1, lambda d: d.models[704][0].points["WSetEna"].value) == 0


def test_a_refused_write_reaches_the_client_as_an_exception() -> None:
    plant = Plant([HOME], soc_frac=0.5)
    before = plant.control.copy()

    def too_much(device: client.SunSpecModbusClientDeviceTCP) -> str:
        device.models[704][0].points["WSet"].cvalue = 6000
        with pytest.raises(modbus.ModbusClientException) as caught:
            device.models[704][0].write()
        return str(caught.value)

    assert talk(units_of(plant, 0), 1, too_much) == "Modbus exception: 3"
    assert (plant.control == before).all()
