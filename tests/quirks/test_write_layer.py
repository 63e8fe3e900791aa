"""What holds for every write quirk and any traffic; and knobs that cannot be turned on a device."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.image import DeviceImage
from ridethrough.emulator.layout import compile_layout
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.points import Point
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.quirks.requests import forward
from ridethrough.emulator.quirks.writes import WriteKnobs, WriteLayer

from tests.emulator.register_bench import LEGACY
from tests.quirks.wire import bundled
from tests.quirks.writing import PLAIN

LAYOUT = compile_layout(PLAIN)
ENTRIES = sorted(entry.name for entry in (files("ridethrough.fixtures") / "quirks").iterdir())
WRITE_QUIRKS = [
    name.removesuffix(".yaml") for name in ENTRIES if bundled(name.removesuffix(".yaml")).writes is not None
]

Write = tuple[int, bytes]
Knobs = dict[str, Any]


def lay(profile: DeviceProfile, knobs: WriteKnobs, seed: int = 3) -> tuple[Plant, DeviceImage, WriteLayer]:
    """Return a plant of one device, its registers, and the layer on them."""
    plant = Plant([profile], soc_frac=0.6)
    plant.advance(TICKS_PER_S)
    image = DeviceImage(plant, 0, compile_layout(profile))
    rng = np.random.Generator(np.random.Philox(key=seed))
    return plant, image, WriteLayer(image, image, plant, 0, knobs, rng)


def dump(unit: DeviceImage | WriteLayer) -> bytes:
    """Return the whole map."""
    data = unit.read(LAYOUT.base_address, LAYOUT.count)
    assert isinstance(data, bytes)
    return data


def numbers(point: Point) -> st.SearchStrategy[int]:
    """Return numbers for a point: allowed ones mostly, "not implemented", and anything."""
    anything = st.integers(0, (1 << 16 * point.size) - 1)
    allowed = st.integers(max(point.low, -10_000), min(point.high, 10_000))
    return st.one_of(allowed, allowed, st.just(point.blank), anything)


RUNS: list[list[Point]] = [[]]
for before, after in pairwise(LAYOUT.points):
    if before.writable and before.model in (123, 124, 703, 704, 715, 802):
        RUNS[-1].append(before)
        if not after.writable:
            RUNS.append([])
RUNS = [run for run in RUNS if run]


@st.composite
def writes(draw: st.DrawFn) -> Write:
    """Draw a write of adjacent points, sometimes of some registers or other."""
    if draw(st.integers(0, 9)) == 0:
        address = draw(st.integers(LAYOUT.base_address - 2, LAYOUT.base_address + LAYOUT.count))
        return address, draw(st.binary(min_size=2, max_size=20).map(lambda data: data[: len(data) // 2 * 2]))
    run = draw(st.sampled_from(RUNS))
    first = draw(st.integers(0, len(run) - 1))
    chosen = run[first : draw(st.integers(first + 1, len(run)))]
    parts = [draw(numbers(point)) & ((1 << 16 * point.size) - 1) for point in chosen]
    data = b"".join(n.to_bytes(2 * p.size, "big") for n, p in zip(parts, chosen, strict=True))
    return chosen[0].address, data


TRAFFIC = st.lists(st.tuples(writes(), st.integers(0, 20)), max_size=12)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"overrides": [{"when": {"start_s": 1e9}, "power_w": 0}]},
        {"ends": {}},
        {"timers": [{"seconds_max": 86_400, "functions": ["permit"]}]},  # 16 bits hold less
    ],
    ids=["none", "an override that never comes", "limits that are never reached", "a long timer"],
)
@settings(deadline=None, max_examples=40)
@given(traffic=TRAFFIC)
def test_quirks_that_do_not_show_change_nothing(knobs: Knobs, traffic: list[tuple[Write, int]]) -> None:
    plant, image, layer = lay(PLAIN, WriteKnobs.model_validate(knobs))
    plain_plant, plain, _ = lay(PLAIN, WriteKnobs())
    for (address, data), seconds in traffic:
        assert layer.write(address, data) == plain.write(address, data)
        for one in (plant, plain_plant):
            one.advance(seconds * TICKS_PER_S)
        layer.step()
        assert dump(layer) == dump(plain)
        assert dump(image) == dump(plain)
        assert np.array_equal(plant.state, plain_plant.state)


@settings(deadline=None, max_examples=40)
@given(traffic=TRAFFIC)
def test_a_delay_of_0_is_a_step(traffic: list[tuple[Write, int]]) -> None:
    plant, _, layer = lay(PLAIN, WriteKnobs.model_validate({"delay": {"low_s": 0, "high_s": 0}}))
    plain_plant, plain, _ = lay(PLAIN, WriteKnobs())
    for (address, data), seconds in traffic:
        assert layer.write(address, data) == plain.write(address, data)
        layer.step()
        for one in (plant, plain_plant):
            one.advance(seconds * TICKS_PER_S)
        layer.step()
        assert dump(layer) == dump(plain)
        assert np.array_equal(plant.state, plain_plant.state)


SERVED_BY_PLAIN = [name for name in WRITE_QUIRKS if name not in {"hangs-when-written-fast"}]


@settings(deadline=None, max_examples=150)
@given(name=st.sampled_from(SERVED_BY_PLAIN), traffic=TRAFFIC, cut=st.integers(1, LAYOUT.count - 1))
def test_writes_are_whole_or_refused_and_reads_are_one_instant(
    name: str, traffic: list[tuple[Write, int]], cut: int
) -> None:
    """The device that hangs is left out: it cannot be looked at."""
    knobs = bundled(name).writes
    assert knobs is not None
    plant, _, layer = lay(PLAIN, knobs)
    for (address, data), seconds in traffic:
        before, control = dump(layer), plant.control.copy()
        if layer.write(address, data):
            assert dump(layer) == before
            assert np.array_equal(plant.control, control)
        plant.advance(seconds * TICKS_PER_S)
        layer.step()
    whole = dump(layer)
    pieces = (
        layer.read(LAYOUT.base_address, cut),
        layer.read(LAYOUT.base_address + cut, LAYOUT.count - cut),
    )
    assert whole == b"".join(piece for piece in pieces if isinstance(piece, bytes))


@pytest.mark.parametrize("name", ["ack-discard-sometimes", "write-corrupted-to-zero"])
def test_chance_is_that_of_the_generator_handed_in(name: str) -> None:
    knobs = bundled(name).writes
    assert knobs is not None
    address = LAYOUT.point(704, "WSet").address

    def outcome(seed: int, reads: int) -> list[bytes | int]:
        _, _, layer = lay(PLAIN, knobs, seed)
        found = []
        for watts in range(1, 60):
            assert layer.write(address, watts.to_bytes(4, "big")) == 0
            for _ in range(reads):
                layer.read(address, 2)
            found.append(layer.read(address, 2))
        return found

    assert outcome(1, 0) == outcome(1, 5)
    assert outcome(1, 0) != outcome(2, 0)


def test_several_requests_are_looked_at_before_the_first_is_made() -> None:
    _, image, _ = lay(PLAIN, WriteKnobs())
    good, bad = LAYOUT.point(124, "MinRsvPct"), LAYOUT.point(124, "OutWRte")
    before = dump(image)
    assert forward(image, {good: 500, bad: 10_001}) == 3
    assert forward(image, {good: 500, LAYOUT.point(124, "ChaState"): 1}) == 2
    assert dump(image) == before
    assert forward(image, {good: 500, bad: 9_999}) == 0
    assert dump(image) != before


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"discard": [{"points": ["999.W", "802.SoCRsvMin"]}]},
            "writes.discard: found 999.W, 802.SoCRsvMin, and device home-11kwh-6kw-legacy has no such point; "
            "allowed are points of its models 1, 101, 120, 121, 122, 123, 124",
        ),
        ({"store": ["704.*"]}, "writes.store: found 704.*, and device"),
        ({"invert": ["704.WSetPct"]}, "writes.invert: found 704.WSetPct"),
        ({"locked": {"points": ["704.WSet"]}}, "writes.locked: found 704.WSet"),
        ({"resets": [{"by": "704.WSet", "points": ["124.OutWRte"]}]}, "writes.resets: found 704.WSet"),
        (
            {"order": [{"function": "set", "rule": "enable-first"}]},
            "writes.order: found set, and device home-11kwh-6kw-legacy has no such function; allowed are",
        ),
        (
            {"timers": [{"functions": ["set", "limit"], "absent": True}]},
            "writes.timers.functions: found set, limit, and device home-11kwh-6kw-legacy has none of them",
        ),
        (
            {"presets": [{"point": "124.OutWRte", "value": 101}]},
            "writes.presets: found 124.OutWRte 101, which the device refuses (exception 3); "
            "allowed -100 to 100 of a point that can be written",
        ),
        (
            {"quantise": [{"points": ["124.StorCtl_Mod"], "step": 1, "unit": "watts"}]},
            "writes.quantise: found unit watts for 124.StorCtl_Mod (register 40259), which is in no unit; "
            "allowed are points in W or per cent of a power",
        ),
    ],
)
def test_knobs_that_a_device_does_not_have_are_refused(knobs: Knobs, message: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(message)):
        lay(LEGACY, WriteKnobs.model_validate(knobs))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"quantise": [{"points": ["704.WSet"]}]}, "at least one of step, low and high"),
        ({"quantise": [{"points": ["704.WSet"], "low": 2, "high": 1}]}, "high at least low"),
        ({"delay": {"low_s": 2, "high_s": 1}}, "high_s at least low_s"),
        ({"overrides": [{"when": {}}]}, "one of power_w and power_w_max"),
        ({"overrides": [{"when": {}, "power_w": 0, "power_w_max": 0}]}, "one of power_w and power_w_max"),
        ({"locked": {"code": 3}}, "Input should be 1, 2 or 4"),
        ({"refuse_functions": [3]}, "Input should be 6 or 16"),
        ({"discard": [{"points": ["WSet"]}]}, "String should match pattern"),
        ({"discard": [{"points": []}]}, "at least 1 item"),
        ({"discard": [{"points": ["704.WSet"], "probability": 0}]}, "greater than 0"),
        ({"corrupted": []}, "Extra inputs are not permitted"),
        ({"flash": {"writes_max": -1}}, "greater than or equal to 0"),
        ({"timers": [{"functions": []}]}, "at least 1 item"),
    ],
)
def test_knobs_that_mean_nothing_are_refused(knobs: Knobs, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WriteKnobs.model_validate(knobs)


def test_every_bundled_write_quirk_is_shown_by_a_test() -> None:
    text = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_write_[!l]*.py"))
    assert len(WRITE_QUIRKS) > 40
    assert [name for name in WRITE_QUIRKS if f'"{name}"' not in text] == []


@pytest.mark.parametrize("name", WRITE_QUIRKS)
def test_every_bundled_write_quirk_fits_a_device_with_both_families(name: str) -> None:
    quirk = bundled(name)
    assert quirk.quirk == name
    assert quirk.writes is not None
    lay(PLAIN, quirk.writes)
