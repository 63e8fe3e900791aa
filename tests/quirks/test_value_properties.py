"""What holds for any wrong value: reads of one instant agree, and reading changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.image import units_of
from ridethrough.emulator.layout import compile_layout
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.points import Point
from ridethrough.emulator.quirks.schedule import DAY_S, Schedule, Strict, When
from ridethrough.emulator.quirks.values import rescaled, scaled_by
from ridethrough.hil.files import load_quirk, quirk_names

from tests.emulator.register_bench import FULL, HOME, Client, witness_points
from tests.quirks.wire import build, bundled, made

LAYOUT = compile_layout(FULL)
NAMES = st.lists(
    st.sampled_from(
        ["101.W", "101.WH", "124.ChaState", "160.module[1].DCW", "701.TotWhInj", "713.SoC", "1.SN"]
    ),
    min_size=1,
    max_size=3,
)
WHEN: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"chance": 0.5}),
    st.just({"every_s": 4, "for_s": 2}),
    st.just({"start_s": 3, "end_s": 6}),
    st.just({"daily_start": "00:00:04", "daily_end": "00:00:08"}),
)
VALUES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "fixed": st.lists(
            st.builds(
                lambda points, value, when: {"points": points, "value": value, "when": when},
                st.lists(st.sampled_from(["101.W", "713.SoC", "715.DERHb"]), min_size=1),
                st.floats(-1e6, 1e6),
                WHEN,
            ),
            max_size=2,
        ),
        "counters": st.just([{"points": ["101.WH"], "reset_at_s": [2, 5], "dip": 3.0}]),
        "signs": st.lists(
            st.builds(
                lambda when: {"points": ["101.W", "701.W"], "when": when},
                WHEN,
            ),
            max_size=1,
        ),
        "scales": st.lists(
            st.builds(
                lambda shift, values, when: {
                    "factors": ["101.W_SF", "701.W_SF", "160.DCW_SF"],
                    "shift": shift,
                    "values": values,
                    "when": when,
                },
                st.sampled_from([-2, -1, 1, 3]),
                st.sampled_from(["encoded", "kept", "wrapped"]),
                WHEN,
            ),
            max_size=2,
        ),
        "blanks": st.lists(
            st.builds(
                lambda points, pattern, when: {"points": points, "pattern": pattern, "when": when},
                NAMES,
                st.sampled_from(["of-type", "ffff", "8000"]),
                WHEN,
            ),
            max_size=2,
        ),
        "null_frames": st.lists(
            st.builds(lambda when: {"models": [101, 701], "when": when}, WHEN), max_size=1
        ),
        "restarts": st.just([{"at_s": [4], "blank_s": 2, "zero_s": 2}]),
    },
)


@settings(max_examples=60, deadline=None)
@given(VALUES.filter(bool), st.integers(0, 12), st.data())
def test_every_cut_of_a_read_shows_the_same(knobs: dict[str, Any], seconds: int, data: st.DataObject) -> None:
    plant, units = build(FULL, [made(values=knobs)])
    plant.advance(seconds * TICKS_PER_S)
    unit = units[1]
    unit.step()
    whole = unit.read(LAYOUT.base_address, LAYOUT.count)
    assert isinstance(whole, bytes)
    first = data.draw(st.integers(0, LAYOUT.count - 1))
    count = data.draw(st.integers(1, min(125, LAYOUT.count - first)))
    assert unit.read(LAYOUT.base_address + first, count) == whole[2 * first : 2 * (first + count)]
    assert unit.read(LAYOUT.base_address + LAYOUT.count - 1, 2) == 2


@settings(max_examples=40, deadline=None)
@given(VALUES.filter(bool))
def test_points_that_no_knob_names_are_as_they_were(knobs: dict[str, Any]) -> None:
    units = build(FULL, [made(values=knobs)])[1]
    named = {name for section in knobs.values() for entry in section for name in entry.get("points", ())}
    named |= {f"{point.model}.{point.name}" for point in moved_by(knobs)}
    models = {1} if "restarts" in knobs else set()
    for point in LAYOUT.points:
        if f"{point.model}.{point.name}" in named or (models and point.model not in models):
            continue
        if "null_frames" in knobs and point.model in (101, 701):
            continue
        true = units[1].image.read(point.address, point.size)
        assert units[1].read(point.address, point.size) == true, str(point)


def moved_by(knobs: dict[str, Any]) -> list[Point]:
    """Return the scale factors and values that knobs move."""
    moved = []
    for entry in knobs.get("scales", ()):
        for name in entry["factors"]:
            model, _, factor = name.partition(".")
            moved += [LAYOUT.point(int(model), factor), *scaled_by(LAYOUT, LAYOUT.point(int(model), factor))]
    return moved


@settings(max_examples=40, deadline=None)
@given(VALUES.filter(bool), st.lists(st.integers(0, 5), min_size=10, max_size=10))
def test_the_number_of_reads_changes_nothing(knobs: dict[str, Any], reads: list[int]) -> None:
    seen = []
    for counts in ([0] * 10, reads):
        plant, units = build(FULL, [made(values=knobs)])
        history = []
        for count in counts:
            plant.advance(TICKS_PER_S)
            for _ in range(1 + count):
                units[1].step()
            for _ in range(count):
                units[1].read(40070, 100)
            history.append(units[1].read(LAYOUT.base_address, LAYOUT.count))
        seen.append(history)
    assert seen[0] == seen[1]


def test_which_scale_factor_scales_a_point_as_pysunspec2_has_it() -> None:
    plant = Plant([FULL])
    models = Client(units_of(plant, 0)[1]).models
    for model in FULL.face.models[1:]:
        points = witness_points(models[model][0])
        theirs = {name: point.pdef["sf"] for name, point in points if isinstance(point.pdef.get("sf"), str)}
        factors = [p for p in LAYOUT.points if p.model == model and p.type == "sunssf"]
        ours = {point.name: factor.name for factor in factors for point in scaled_by(LAYOUT, factor)}
        assert ours == theirs


@given(st.integers(-3, 3), st.floats(-3e4, 3e4))
def test_a_rescaled_point_holds_the_same_value_to_its_resolution(shift: int, value: float) -> None:
    point = LAYOUT.point(701, "W")
    moved = rescaled(point, shift)
    decoded = moved.decode(moved.encode(value))
    resolution = 10.0**moved.scale
    if abs(round(value / resolution)) <= 32_767:
        assert decoded == pytest.approx(value, abs=0.51 * resolution)
    else:
        assert decoded is None


class Knob(Strict):
    """Any knob."""

    name: str


@given(
    st.integers(0, 3 * DAY_S), st.integers(0, DAY_S - 1), st.integers(0, DAY_S - 1), st.integers(0, DAY_S - 1)
)
def test_daily_windows_repeat_and_may_pass_midnight(now_s: int, start: int, end: int, midnight: int) -> None:
    class Clock:
        elapsed_ticks = now_s * TICKS_PER_S

    schedule = Schedule(Clock(), 1, midnight)  # type: ignore[arg-type]  # only its ticks are used
    when = When(daily_start=text(start), daily_end=text(end))
    time_s = (now_s + midnight) % DAY_S
    expected = start <= time_s < end if start < end else time_s >= start or time_s < end
    assert schedule.active(when, Knob(name="x")) is expected


def text(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def test_chance_is_as_often_as_it_says_and_differs_between_knobs_and_devices() -> None:
    class Clock:
        elapsed_ticks = 0

    clock = Clock()
    one, other = Schedule(clock, 1), Schedule(clock, 2)  # type: ignore[arg-type]  # only its ticks are used
    when = When(chance=0.1)
    lists: list[list[bool]] = [[], [], []]
    for second in range(20_000):
        clock.elapsed_ticks = second * TICKS_PER_S
        for seen, schedule, name in zip(lists, (one, one, other), ("a", "b", "a"), strict=True):
            seen.append(schedule.active(when, Knob(name=name)))
    for seen in lists:
        assert sum(seen) == pytest.approx(2000, abs=5 * 43)  # five standard deviations
    for first, second_list in ((lists[0], lists[1]), (lists[0], lists[2])):
        both = sum(a and b for a, b in zip(first, second_list, strict=True))
        assert both == pytest.approx(200, abs=5 * 15)


def test_two_devices_with_the_same_quirk_have_their_own_luck() -> None:
    seen = []
    for seed in (1, 2, 1):
        plant, units = build(HOME, [bundled("null-frames")], seed=seed)
        zeros = []
        for _ in range(300):
            plant.advance(TICKS_PER_S)
            units[1].step()
            zeros.append(units[1].read(40086, 1) == b"\0\0")
        seen.append(zeros)
    assert seen[0] == seen[2] != seen[1]


def test_all_bundled_value_quirks_go_together() -> None:
    quirks = [quirk for quirk in map(load_quirk, quirk_names()) if quirk.values is not None]
    plant, units = build(FULL, quirks, start_of_day_s=DAY_S - 30)
    plain = units_of(plant, 1)[1]
    for _ in range(100):
        plant.advance(TICKS_PER_S)
        units[1].step()
        whole = units[1].read(LAYOUT.base_address, LAYOUT.count)
        assert isinstance(whole, bytes)
        assert len(whole) == 2 * LAYOUT.count
        for model in LAYOUT.models:
            header = LAYOUT.point(model, "ID").address
            assert units[1].read(header, 2) == plain.read(header, 2)
    assert whole != plain.read(LAYOUT.base_address, LAYOUT.count)
