"""Writes that fall on several pieces of a bent map."""

from __future__ import annotations

import pytest
from ridethrough.emulator.layout import compile_layout, compile_meter_layout
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.quirks.maps import MapKnobs, MapLayer
from ridethrough.emulator.quirks.schedule import Schedule

from tests.emulator.register_bench import HOME

LAYOUTS = compile_layout(HOME), compile_meter_layout(HOME)


class Paper:
    """A unit that takes every write down and refuses none."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, bytes]] = []

    def read(self, address: int, count: int) -> bytes | int:
        return b"".join((address + k).to_bytes(2, "big") for k in range(count))

    def write(self, address: int, data: bytes) -> int:
        self.taken.append((address, data))
        return 0


def layer_with(**knobs: object) -> tuple[MapLayer, Paper, Paper]:
    inverter, meter = Paper(), Paper()
    schedule = Schedule(Plant([HOME]), 1)
    shown = 2 if knobs.get("meter") == "same-map" else 1
    layer = MapLayer([inverter, meter][:shown], LAYOUTS[:shown], MapKnobs.model_validate(knobs), schedule)
    return layer, inverter, meter


def test_a_write_across_a_hole_goes_down_as_one() -> None:
    hole = LAYOUTS[0].point(123, "VArMaxPct").address
    layer, inverter, _ = layer_with(holes=[{"points": ["123.VArMaxPct"]}])
    assert layer.read(hole, 1) == 2
    assert layer.write(hole - 1, b"abcdef") == 0
    assert inverter.taken == [(hole - 1, b"abcdef")]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_write_across_a_model_that_is_gone_is_refused_whole(count: int) -> None:
    layer, inverter, _ = layer_with(hidden=[{"models": [120]}])
    last = LAYOUTS[0].point(120, "ID").address - 1
    assert layer.read(last, 2) == last.to_bytes(2, "big") + (last + 1 + 28).to_bytes(2, "big")
    assert layer.write(last, bytes(2 * count)) == 2
    assert inverter.taken == []
    assert layer.write(last, b"ab") == 0
    assert inverter.taken == [(last, b"ab")]


def test_a_write_across_two_units_is_refused_whole() -> None:
    layer, inverter, meter = layer_with(meter="same-map")
    end = LAYOUTS[0].base_address + LAYOUTS[0].count - 2
    assert layer.read(end, 1) == (40002).to_bytes(2, "big")
    assert layer.write(end - 1, b"abcd") == 2
    assert layer.write(end, b"ab") == 0
    assert (inverter.taken, meter.taken) == ([], [(40002, b"ab")])


def test_constants_and_what_is_outside_take_no_write() -> None:
    layer, inverter, _ = layer_with(common_length=65, end="id-only")
    last = layer.segments()[-1]
    for address in (39999, 40000, 40002, 40003, last.first, last.first + 1, 65535):
        assert layer.write(address, b"ab") == 2
    assert layer.write(40004, b"") == 2
    assert inverter.taken == []
