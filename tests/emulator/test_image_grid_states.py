"""What 701, 714, 160 and the battery models show of the widened physics, decoded by pysunspec2."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ridethrough.emulator.fields import CONTROL, INPUT, STATE, STATUS
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile

from tests.emulator.register_bench import FULL, Shown, decode, with_face

ON_GRID, ISLAND, MEMBER = (float(STATUS.index(name)) for name in ("on_grid", "island", "member"))


def plant_of(profile: DeviceProfile = FULL, **values: float) -> Plant:
    """Return a plant of one device with these fields set."""
    plant = Plant([profile], soc_frac=0.5)
    put(plant, **values)
    return plant


def put(plant: Plant, **values: float) -> None:
    for name, value in values.items():
        for array, names in ((plant.control, CONTROL), (plant.input, INPUT), (plant.state, STATE)):
            if name in names:
                array[0, names.index(name), 0] = value
                break
        else:
            raise KeyError(name)
    plant.touch()


def shown(plant: Plant) -> Shown:
    return decode(units_of(plant, 0)[1])


def changed(profile: DeviceProfile, part: str, **changes: object) -> DeviceProfile:
    data = profile.model_dump()
    data[part].update(changes)
    return DeviceProfile.model_validate(data)


# ---- alarms and throttling ---------------------------------------------------------------------------------

ALARMS: dict[str, tuple[dict[str, float], set[int]]] = {
    # case: inputs, bits of 701.Alrm
    "nothing": ({}, set()),
    "normal but off": ({"voltage_pu": 1.09, "frequency_hz": 60.5}, set()),
    "over-voltage 1": ({"voltage_pu": 1.11}, {10}),
    "over-voltage 2": ({"voltage_pu": 1.21}, {10}),
    "under-voltage": ({"voltage_pu": 0.87}, {11}),
    "over-frequency": ({"frequency_hz": 61.3}, {8}),
    "under-frequency": ({"frequency_hz": 58.4}, {9}),
    "both": ({"voltage_pu": 0.4, "frequency_hz": 56.0}, {9, 11}),
    "dead grid": ({"voltage_pu": 0.0, "grid_good": 0.0, "frequency_hz": 0.0}, set()),
    "held island": ({"voltage_pu": 1.15, "grid_good": 0.0, "grid_held": 1.0}, {10}),
    "permit off": ({"permit": 0.0}, {6}),
    "battery off": ({"bms_open": 1.0}, {3}),
    "switch open": ({"status": ISLAND}, {4}),
    "community island": ({"status": MEMBER}, {4}),
}


@pytest.mark.parametrize("case", ALARMS)
def test_alarm_bits(case: str) -> None:
    values, bits = ALARMS[case]
    plant = plant_of()
    put(plant, **values)
    got = shown(plant)
    assert got[701, "Alrm"] == got[101, "Evt1"] == sum(1 << bit for bit in bits)


@pytest.mark.parametrize(("celsius", "bit"), [(-25.0, 13), (5.0, None), (25.0, None), (61.0, 7)])
def test_cells_too_cold_or_too_hot_raise_an_alarm(celsius: float, bit: int | None) -> None:
    limited = changed(FULL, "battery", temperature_limits=True)
    plant = plant_of(limited)
    plant.set_input("ambient_c", celsius)
    plant.set_control("set_ena", 0.0)
    put(plant, temp_c=celsius)
    plant.advance(50 * 61)
    assert shown(plant)[701, "Alrm"] == (0 if bit is None else 1 << bit)
    assert shown(plant)[803, "ModTmpAvg"] == pytest.approx(celsius, abs=0.5)


def test_momentary_cessation_and_limits_show_as_throttling() -> None:
    plant = plant_of(set_ena=1.0, set_w=4000.0)
    plant.advance(500)
    assert shown(plant)[701, "ThrotSrc"] == 0
    put(plant, limit_ena=1.0, limit_frac=0.5)
    plant.advance(500)
    assert shown(plant)[701, "ThrotSrc"] == 1 << 0
    put(plant, limit_ena=0.0, frequency_hz=61.0)
    plant.advance(1500)
    assert shown(plant)[701, "ThrotSrc"] == 1 << 5
    put(plant, frequency_hz=60.0, voltage_pu=1.15)
    plant.advance(5)
    assert (shown(plant)[701, "ThrotSrc"] & (1 << 8), shown(plant)[701, "W"]) == (
        1 << 8,
        pytest.approx(0, abs=20),
    )
    put(plant, voltage_pu=0.4)
    plant.advance(5)
    assert shown(plant)[701, "ThrotSrc"] & (1 << 7)


def test_volt_watt_shows_as_throttling() -> None:
    plant = plant_of(changed(FULL, "grid", volt_watt=True), set_ena=1.0, set_w=4000.0)
    plant.set_input("voltage_pu", 1.09)
    plant.advance(50 * 60)
    got = shown(plant)
    assert got[701, "ThrotSrc"] == 1 << 10
    assert got[701, "W"] == pytest.approx(1250, abs=20)
    assert got[122, "StActCtl"] == 1 << 0 | 1 << 4 | 1 << 10


# ---- islands -----------------------------------------------------------------------------------------------


def test_an_islands_droop_shows_in_voltage_and_frequency() -> None:
    plant = Plant(
        [changed(FULL, "island", droop_frac=0.01, voltage_droop_frac=0.05)], soc_frac=0.5, load_var_per_w=0.5
    )
    plant.set_input("load_w", 2500.0)
    plant.set_input("grid_good", 0.0)
    plant.set_input("voltage_pu", 0.0)
    plant.advance(50 * 5)
    got = shown(plant)
    assert (got[701, "DERMode"], got[701, "ConnSt"]) == (2, 0)
    assert got[701, "Hz"] == pytest.approx(60 * (1 - 0.01 * 0.5), abs=0.001)
    assert got[701, "LNV"] == pytest.approx(240 * (1 - 0.05 * 0.25), abs=0.05)
    assert (got[701, "W"], got[701, "Var"]) == (2500, 1250)
    assert got[701, "VA"] == pytest.approx(math.hypot(2500, 1250), abs=0.5)
    assert got[701, "PF"] == pytest.approx(2500 / math.hypot(2500, 1250), abs=0.001)
    meter = decode(units_of(plant, 0)[101])
    assert (meter[201, "W"], meter[201, "VAR"], meter[201, "PhV"]) == (0, 0, 0.0)


def test_the_meter_sees_the_reactive_load() -> None:
    plant = Plant([FULL], soc_frac=0.5, load_var_per_w=0.4)
    plant.set_input("load_w", 3000.0)
    plant.advance(50)
    meter = decode(units_of(plant, 0)[101])
    assert meter[201, "VAR"] == pytest.approx(plant.states("import_var")[0], abs=0.5)
    assert meter[201, "VAR"] == pytest.approx(1200, abs=1)
    assert meter[201, "VA"] == pytest.approx(math.hypot(meter[201, "W"], 1200), abs=2)


def test_a_device_that_cannot_island_says_so() -> None:
    assert shown(plant_of(changed(FULL, "island", capable=False)))[702, "IntIslandCatRtg"] == 1 << 0
    assert shown(plant_of(changed(FULL, "island", droop_frac=0.01)))[702, "IntIslandCatRtg"] == 1 << 1
    assert shown(plant_of())[702, "IntIslandCatRtg"] == 1 << 1 | 1 << 3


# ---- battery -----------------------------------------------------------------------------------------------


def test_a_battery_that_opens_its_contactors_shows_everywhere() -> None:
    names = (
        (701, "Alrm"),
        (713, "Sta"),
        (124, "ChaSt"),
        (122, "StorConn"),
        (714, "PrtAlrms"),
        (714, "Prt[1].DCSta"),
        (714, "Prt[1].DCAlrm"),
        (802, "State"),
        (802, "Evt1"),
        (802, "AChaMax"),
        (803, "NStrCon"),
        (803, "string[1].StrSt"),
        (803, "string[1].StrEvt1"),
        (804, "St"),
        (804, "ConSt"),
    )
    well, broken = shown(plant_of()), shown(plant_of(bms_open=1.0))
    charge_a = round(5000 / float(well[802, "V"]), 2)
    assert [well[name] for name in names] == [0, 0, 6, 7, 0, 1, 0, 3, 0, charge_a, 1, 3, 0, 3, 1]
    other = 1 << 25
    assert [broken[name] for name in names] == [8, 2, 1, 0, 1, 3, 8, 1, other, 0, 0, 1, other, 1, 0]


@pytest.mark.parametrize("watts", [4000.0, -4000.0])
def test_terminal_voltage_and_current_agree_with_power_and_heat(watts: float) -> None:
    """Independent of the code: V·I is the power at the terminals, and I² through the resistance the heat."""
    plant = plant_of(changed(FULL, "battery", ohmic_frac_per_c=0.03), set_ena=1.0, set_w=watts)
    plant.advance(50 * 400)
    got = shown(plant)
    rest_v = 400.0 * plant.states("ocv_frac")[0]
    assert got[802, "V"] * got[802, "A"] == pytest.approx(plant.states("battery_w")[0], rel=3e-3)
    assert (rest_v - got[802, "V"]) * got[802, "A"] == pytest.approx(plant.states("ohm_w")[0], rel=0.1)
    assert np.sign(got[802, "A"]) == np.sign(watts)
    assert (got[802, "V"] < rest_v) == (watts > 0)
    assert got[804, "CellVAvg"] == pytest.approx(got[802, "V"] * 3.195 / 400, abs=1e-3)


def test_every_state_of_charge_is_the_estimate() -> None:
    plant = Plant([changed(FULL, "battery", soc_error_frac=0.04, soc_error_frac_max=0.05)], soc_frac=0.5)
    got = shown(plant)
    points = [(713, "SoC"), (124, "ChaState"), (802, "SoC"), (803, "string[1].StrSoC"), (804, "SoC")]
    assert [got[point] for point in points] == pytest.approx([54.0] * 5, abs=0.0101)
    assert got[713, "WHAvail"] == pytest.approx(0.54 * 13500, abs=1)
    put(plant, soc_error_frac=0.7)
    assert shown(plant)[713, "SoC"] == 100.0
    put(plant, soc_error_frac=-0.7)
    assert (shown(plant)[713, "SoC"], shown(plant)[713, "WHAvail"]) == (0, 0)


def test_charging_current_falls_with_the_taper() -> None:
    tapered = changed(FULL, "battery", taper_soc_frac=0.8, taper_frac_min=0.1)
    half, nearly = (Plant([tapered], soc_frac=soc) for soc in (0.5, 0.9))
    ratio = shown(nearly)[802, "AChaMax"] / shown(half)[802, "AChaMax"]
    volts = shown(half)[802, "V"] / shown(nearly)[802, "V"]
    assert ratio == pytest.approx(0.55 * volts, rel=1e-3)
    assert shown(half)[802, "ADisChaMax"] == shown(half)[802, "AChaMax"]


# ---- PV strings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strings", [1, 2, 4])
def test_pv_strings_share_the_homes_pv(strings: int) -> None:
    plant = Plant([with_face(FULL, pv_strings=strings)], soc_frac=0.5)
    plant.set_input("pv_w_available", 3000.0)
    plant.set_input("load_w", 1000.0)
    plant.advance(50 * 3600)
    got = shown(plant)
    assert (got[160, "N"], got[714, "NPrt"]) == (strings, 1 + strings)
    for k in range(1, strings + 1):
        assert got[160, f"module[{k}].DCW"] == pytest.approx(3000 / strings, abs=0.5)
        assert got[160, f"module[{k}].DCWH"] == pytest.approx(3000 / strings, rel=0.01)
        assert got[160, f"module[{k}].DCSt"] == 4
        assert got[160, f"module[{k}].IDStr"] == got[714, f"Prt[{k + 1}].IDStr"] == f"PV {k}"
        assert (got[714, f"Prt[{k + 1}].PrtTyp"], got[714, f"Prt[{k + 1}].DCSta"]) == (0, 1)
        assert got[714, f"Prt[{k + 1}].DCW"] == got[160, f"module[{k}].DCW"]
        assert got[160, f"module[{k}].DCV"] is None, "not modelled"
    assert got[714, "Prt[1].PrtTyp"] == 1
    assert got[714, "DCW"] == pytest.approx(3000 + plant.states("battery_w")[0], abs=1)


@pytest.mark.parametrize(
    ("available_w", "pv_w", "state"), [(0.0, 0.0, 2), (900.0, 0.0, 8), (900.0, 300.0, 5), (900.0, 900.0, 4)]
)
def test_state_of_a_pv_string(available_w: float, pv_w: float, state: int) -> None:
    """SLEEPING 2, MPPT 4, THROTTLED 5, STANDBY 8."""
    got = shown(plant_of(pv_w_available=available_w, pv_w=pv_w))
    assert got[160, "module[1].DCSt"] == state
    assert got[714, "Prt[2].DCSta"] == (pv_w > 0)


def test_a_battery_without_strings_has_one_port() -> None:
    models = tuple(model for model in FULL.face.models if model != 160)
    plant = Plant([with_face(FULL, pv_strings=0, models=models)], soc_frac=0.5)
    plant.set_input("pv_w_available", 3000.0)
    plant.advance(50)
    got = shown(plant)
    assert got[714, "NPrt"] == 1
    assert got[714, "DCW"] == got[714, "Prt[1].DCW"]


# ---- capacity ----------------------------------------------------------------------------------------------


def test_ratings_and_categories() -> None:
    got = shown(
        plant_of(changed(changed(FULL, "grid", normal="A", abnormal="II"), "inverter", apparent_va_max=6250))
    )
    assert (got[702, "NorOpCatRtg"], got[702, "AbnOpCatRtg"]) == (0, 1)
    assert (got[702, "VAMaxRtg"], got[702, "VarMaxInjRtg"], got[702, "VarMaxAbs"]) == (6250, 2750, 2750)
    left_w = min(5000.0, math.sqrt(6250**2 - 2750**2))
    assert got[702, "WOvrExtRtg"] == round(left_w)
    assert got[702, "WOvrExtRtgPF"] == pytest.approx(left_w / math.hypot(left_w, 2750), abs=1e-3)
    assert got[120, "VArRtgQ1"] == 2750
    assert got[120, "VArRtgQ4"] == -2750
    assert (got[702, "VMaxRtg"], got[702, "VMinRtg"]) == (264.0, 211.2)
    every = {0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13}
    assert got[702, "CtrlModes"] == sum(1 << bit for bit in every)


def test_control_modes_are_those_a_client_finds() -> None:
    models = (1, 101, 120, 121, 122, 123, 124, 701, 702, 703, 704, 705, 713)
    got = shown(Plant([with_face(FULL, models=models)], soc_frac=0.5))
    assert got[702, "CtrlModes"] == 0b11111
