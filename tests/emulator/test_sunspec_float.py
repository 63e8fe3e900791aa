"""The float models 111, 113, 211 and 213: the same quantities as the integer ones, as IEEE 754 numbers."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.layout import compile_layouts
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile
from sunspec2 import mb

from tests.emulator.register_bench import HOME, TOWN, Client, decode, dump, load, with_face

THREE = load("home-10kwh-10kw-three-phase")


def replaced(profile: DeviceProfile, **numbers: int) -> tuple[int, ...]:
    """Return the models of a profile with some replaced."""
    return tuple(numbers.get(f"m{model}", model) for model in profile.face.models)


PROFILES = {
    "instead": with_face(HOME, models=replaced(HOME, m101=111), meter_models=(1, 211)),
    "both": with_face(HOME, models=(*HOME.face.models, 111), meter_models=(1, 201, 211)),
    "three phases": with_face(THREE, models=replaced(THREE, m103=113), meter_models=(1, 213)),
    "both, three phases": with_face(TOWN, models=(*TOWN.face.models, 113), meter_models=(1, 213, 203)),
}
FLOAT_MODELS = (111, 113, 211, 213)


def running(profile: DeviceProfile, power_share: float = 0.37, load_w: float = 2345.6) -> list[DeviceImage]:
    """Return the units of a device in the middle of something."""
    plant = Plant([profile], soc_frac=0.61803)
    rated_w = profile.inverter.power_w_discharge_max
    for field, value in (("load_w", load_w), ("pv_w_available", 987.6), ("voltage_pu", 1.013)):
        plant.set_input(field, value)
    for field, value in (("set_ena", 1.0), ("set_w", power_share * rated_w)):
        plant.set_control(field, value)
    plant.advance(50 * 4000)
    return list(units_of(plant, 0).values())


@pytest.mark.parametrize("name", PROFILES)
def test_pysunspec2_reads_the_plants_quantities_as_the_nearest_float32(name: str) -> None:
    checked = 0
    for unit in running(PROFILES[name]):
        shown, quantities = decode(unit), unit.measure()
        for point in unit.layout.points:
            if point.type != "float32" or point.quantity is None:
                continue
            true = quantities[point.quantity] * (100.0 if point.units == "Pct" else 1.0)
            nearest = struct.unpack(">f", struct.pack(">f", true))[0]
            theirs = shown[point.model, point.name]
            assert theirs is None if math.isnan(true) else theirs == nearest, str(point)
            checked += 1
    assert checked >= 20


@pytest.mark.parametrize("name", PROFILES)
def test_every_float_that_is_not_served_is_the_one_nan(name: str) -> None:
    blank = 0
    for unit in running(PROFILES[name]):
        data = dump(unit)
        for point in unit.layout.points:
            if point.model in FLOAT_MODELS and point.type == "float32" and point.quantity is None:
                at = 2 * (point.address - unit.base_address)
                assert data[at : at + 4] == mb.create_unimpl_value("float32") == b"\x7f\xc0\0\0", str(point)
                blank += 1
    assert blank > 30


@pytest.mark.parametrize("name", PROFILES)
def test_pysunspec2s_client_finds_the_float_models_with_their_lengths(name: str) -> None:
    for unit, field in zip(running(PROFILES[name]), ("models", "meter_models"), strict=True):
        client = Client(unit)
        found = {key: model for key, model in client.models.items() if isinstance(key, int)}
        assert list(found) == list(getattr(PROFILES[name].face, field))
        lengths = {key: model[0].model_len for key, model in found.items() if key in FLOAT_MODELS}
        assert lengths == {key: 60 if key < 200 else 124 for key in lengths}
        assert lengths


@given(st.floats(-1, 1), st.floats(0, 12_000))
@settings(deadline=None, max_examples=25)
def test_float_and_integer_models_of_one_unit_agree(power_share: float, load_w: float) -> None:
    """To half a step of the integer; its zero energies read as not implemented."""
    for unit, whole, real in zip(
        running(PROFILES["both"], power_share, load_w), (101, 201), (111, 211), strict=True
    ):
        shown = decode(unit)
        compared = 0
        for point in unit.layout.points:
            if point.model != whole or (real, point.name) not in shown or point.name in ("ID", "L"):
                continue
            integer, number = shown[whole, point.name], shown[real, point.name]
            if integer is None or number is None:
                assert integer == number or (point.type == "acc32" and number < 1.0), str(point)
                continue
            if point.name == "PF" and whole == 201:
                number *= 100.0  # 201.PF is in percent, 211.PF is a number of 1 at most
            step = 10.0**point.scale
            assert abs(integer - number) <= 0.5 * step + 1e-6 * abs(number), str(point)
            compared += 1
        assert compared >= 10


def test_a_dead_bus_has_no_frequency_in_float_either() -> None:
    plant = Plant([PROFILES["both"]], soc_frac=0.5)
    meter = units_of(plant, 0)[101]
    assert decode(meter)[211, "Hz"] == 60.0
    plant.set_input("grid_good", 0.0)
    plant.set_input("voltage_pu", 0.0)
    plant.advance(50)
    assert decode(meter)[211, "Hz"] is None
    point = meter.layout.point(211, "Hz")
    assert meter.read(point.address, 2) == b"\x7f\xc0\0\0"
    assert point.decode(b"\x7f\xc0\0\0") is point.decode(b"\xff\xff\xff\xff") is None


WRONG: dict[str, tuple[DeviceProfile, dict[str, Any], list[str]]] = {
    "phases": (HOME, {"models": (*HOME.face.models, 113)}, ["face.models", "113", "phases 1", "allowed 111"]),
    "meter phases": (
        HOME,
        {"meter_models": (1, 213)},
        ["face.meter_models", "213", "phases 1", "allowed 211"],
    ),
    "other meter phases": (THREE, {"meter_models": (1, 201)}, ["201", "phases 3", "allowed 203"]),
    "no model 1": (HOME, {"meter_models": (201,)}, ["face.meter_models", "begin with model 1"]),
    "no meter": (HOME, {"meter_models": (1,)}, ["face.meter_models", "no model of a meter", "201, 211"]),
    "unknown": (HOME, {"meter_models": (1, 202)}, ["model 202 is not served", "201, 203, 211, 213"]),
    "twice": (HOME, {"meter_models": (1, 201, 201)}, ["model 201 is named twice"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_chain_that_cannot_be_served_is_refused_with_its_place(case: str) -> None:
    profile, changes, parts = WRONG[case]
    with pytest.raises(ScenarioError) as caught:
        compile_layouts(with_face(profile, **changes))
    for part in (profile.profile, *parts):
        assert part in str(caught.value)
