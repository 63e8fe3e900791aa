"""Faults of telemetry as data: each does what its file says, to its targets and readings, nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.hil.effects.readings import ReadingFaults, Times, Values
from ridethrough.hil.effects.shapes import OF
from ridethrough.hil.faults import Event

from tests.hil.telemetry_faults import HOUR_NS, SECOND_NS, event, events, in_force

NAMES = ("home-01", "home-02", "home-03")
POLL_NS = 10 * SECOND_NS
TOUCHES = {
    "telemetry.bms-frozen": {"soc_frac"},
    "telemetry.soc-knee": {"soc_frac"},
    "telemetry.soc-drift": {"soc_frac"},
    "telemetry.stuck-full": {"soc_frac"},
    "telemetry.clock-skew": {"measured_ns"},
    "telemetry.frozen": {"measured_ns", *OF["all"]},
}
"""Readings that a fault may change; of the others its parameters say it."""


def sound(k: int) -> Values:
    """Return what three sound devices report at poll `k`: falling charge, power that changes its sign."""
    sign = 1.0 if k // 6 % 2 == 0 else -1.0
    each = np.array([0.0, 1.0, 2.0])
    return {
        "soc_frac": 0.60 - 0.0007 * k - 0.05 * each,
        "power_w": sign * (2000.0 + k + each),
        "import_w": 900.0 - sign * (2000.0 + k + each),
        "grid_good": np.ones(3),
    }


def polls(faults: ReadingFaults, some: list[Event], count: int, first: int = 0) -> list[tuple[Values, Times]]:
    """Poll in time."""
    taken = []
    for k in range(first, count):
        now_ns = k * POLL_NS
        stamps = np.full(3, now_ns, dtype=np.int64)
        taken.append(faults.take(now_ns, in_force(some, now_ns), sound(k), stamps))
    return taken


def series(some: list[Event], count: int, name: str, row: int = 0, seed: int = 1) -> list[float]:
    """Return one reading of one device, poll by poll."""
    return [float(values[name][row]) for values, _ in polls(ReadingFaults(seed, NAMES), some, count)]


def true(count: int, name: str, row: int = 0) -> list[float]:
    return [float(sound(k)[name][row]) for k in range(count)]


def touched(one: Event) -> set[str]:
    named = TOUCHES.get(one.fault) or set(OF[str(one.params["of"])])
    torn = one.params.get("form") == "torn"
    return {"power_w", "import_w"} if torn else named


def test_without_a_fault_of_telemetry_the_very_arrays_pass() -> None:
    faults = ReadingFaults(1, NAMES, np.full(3, 1e-4))
    outage = Event(1, "grid.outage", (0, 1, 2), 0, HOUR_NS, {})
    for k in range(5):
        values, stamps = sound(k), np.full(3, k, dtype=np.int64)
        taken, taken_ns = faults.take(k * POLL_NS, [outage], values, stamps)
        assert taken is values
        assert taken_ns is stamps


@settings(max_examples=40)
@given(st.data())
def test_a_fault_touches_its_targets_and_its_readings_only_and_ends_when_it_ends(data: st.DataObject) -> None:
    one = data.draw(events(rows=3))
    for k, (values, stamps) in enumerate(polls(ReadingFaults(7, NAMES), [one], 70)):
        inside = one.start_ns <= k * POLL_NS < one.end_ns
        shown: dict[str, Any] = {**values, "measured_ns": stamps}
        plain: dict[str, Any] = {**sound(k), "measured_ns": np.full(3, k * POLL_NS)}
        for name, value in shown.items():
            rows = [r for r in range(3) if not np.array_equal(value[r], plain[name][r])]
            allowed = one.targets if inside and name in touched(one) else ()
            assert set(rows) <= set(allowed), (k, name, rows)


@settings(max_examples=40)
@given(st.data())
def test_the_same_seed_gives_the_same_whoever_else_is_a_target_and_whatever_else_happens(
    data: st.DataObject,
) -> None:
    one = data.draw(events(rows=1))
    wide = Event(4, one.fault, (0, 1, 2), one.start_ns, one.end_ns, one.params)
    other = data.draw(events(rows=1, number=9))
    beside = Event(9, other.fault, (1, 2), other.start_ns, other.end_ns, other.params)
    alone = polls(ReadingFaults(3, NAMES), [one], 40)
    crowd = polls(ReadingFaults(3, NAMES), [beside, wide], 40)
    for (values, stamps), (among, among_ns) in zip(alone, crowd, strict=True):
        assert stamps[0] == among_ns[0]
        for name, value in values.items():
            assert np.array_equal(value[0], among[name][0], equal_nan=True), name


@settings(max_examples=40)
@given(st.data())
def test_what_was_given_is_never_written_to(data: st.DataObject) -> None:
    some = [data.draw(events(rows=3, number=k)) for k in range(3)]
    faults = ReadingFaults(1, NAMES)
    for k in range(20):
        values, stamps = sound(k), np.full(3, k * POLL_NS, dtype=np.int64)
        faults.take(k * POLL_NS, in_force(some, k * POLL_NS), values, stamps)
        assert all(np.array_equal(values[name], sound(k)[name]) for name in values)
        assert (stamps == k * POLL_NS).all()


def test_a_frozen_reading_repeats_the_last_one_and_its_stamp_stands_or_lies() -> None:
    stopped = event("frozen", 0, at_s=100, for_s=100)
    lying = event("frozen", 1, at_s=100, for_s=100, number=2, stamp="fresh")
    taken = polls(ReadingFaults(1, NAMES), [stopped, lying], 25)
    for k in range(10, 20):
        values, stamps = taken[k]
        assert all(values[name][0] == sound(9)[name][0] for name in values)
        assert all(values[name][1] == sound(9)[name][1] for name in values)
        assert stamps.tolist() == [9 * POLL_NS, k * POLL_NS, k * POLL_NS]
    assert taken[20][0]["power_w"].tolist() == sound(20)["power_w"].tolist()


def test_a_frozen_bms_holds_the_charge_while_the_power_goes_on() -> None:
    some = [event("bms-frozen", 0, at_s=100, for_s=200)]
    assert series(some, 35, "soc_frac")[10:30] == [true(35, "soc_frac")[10]] * 20
    assert series(some, 35, "soc_frac")[30:] == true(35, "soc_frac")[30:]
    assert series(some, 35, "power_w") == true(35, "power_w")


def test_stuck_at_full() -> None:
    assert series([event("stuck-full")], 20, "soc_frac") == [1.0] * 20
    assert series([event("stuck-full", shown="80%")], 2, "soc_frac") == [0.8, 0.8]


def test_a_drift_grows_with_its_slope_up_to_its_bound() -> None:
    rising = event("soc-drift", for_s=7200, slope=0.36, wander="0%", bound="20%")
    shown = np.array(series([rising], 400, "soc_frac")) - true(400, "soc_frac")
    assert shown[100] == pytest.approx(0.1)  # 1000 s at 0.36/h
    assert shown[250:] == pytest.approx(0.2)
    assert np.all(np.diff(shown[:200]) > 0.0)


def test_a_wandering_drift_is_a_walk_of_its_own_for_each_device_and_has_its_size() -> None:
    names = tuple(f"home-{k:03d}" for k in range(400))
    walk = event("soc-drift", *range(400), wander="6%", bound="100%")
    faults = ReadingFaults(5, names)
    half = {name: np.full(400, 0.5) for name in OF["all"]}
    before = np.full(400, 0.5)
    for k in range(0, 361, 36):
        now_ns = k * POLL_NS
        values, _ = faults.take(now_ns, [walk], dict(half), np.zeros(400, dtype=np.int64))
        assert (values["soc_frac"] != before).sum() > 390 or k == 0
        before = values["soc_frac"]
    error_frac = before - 0.5
    assert 0.052 < np.sqrt(np.mean(error_frac**2)) < 0.068
    assert abs(np.mean(error_frac)) < 0.01


def test_a_drift_is_the_same_however_often_it_is_read() -> None:
    walk = event("soc-drift", wander="20%")
    often, seldom = ReadingFaults(2, NAMES), ReadingFaults(2, NAMES)
    last = polls(often, [walk], 31)[-1][0]["soc_frac"][0]
    assert polls(seldom, [walk], 31, first=30)[0][0]["soc_frac"][0] == last


def test_a_knee_shows_too_much_above_it_and_the_truth_below() -> None:
    some = [event("soc-knee", shown="50%", knee="14%")]
    faults = ReadingFaults(1, NAMES)
    values = {**sound(0), "soc_frac": np.array([1.0, 0.1401, 0.1399])}
    knee = [Event(1, some[0].fault, (0, 1, 2), 0, HOUR_NS, some[0].params)]
    shown = faults.take(0, knee, values, np.zeros(3, dtype=np.int64))[0]["soc_frac"]
    assert shown == pytest.approx([1.0, 0.5, 0.1399], abs=1e-4)


@pytest.mark.parametrize(("of", "readings"), [(of, OF[of]) for of in ("soc", "power", "meter", "all")])
def test_not_a_number(of: str, readings: tuple[str, ...]) -> None:
    values, _ = polls(ReadingFaults(1, NAMES), [event("not-a-number", 1, of=of)], 1)[0]
    assert {name for name in values if np.isnan(values[name][1])} == set(readings)


def test_a_scale_factor_that_moves_is_wrong_for_one_poll_each_time() -> None:
    some = [event("scale-factor-moved", at_s=60, for_s=100, every="30s")]
    factors = np.array(series(some, 20, "soc_frac")) / true(20, "soc_frac")
    assert factors == pytest.approx([1.0] * 6 + [10.0, 1, 1, 0.1, 1, 1, 10.0, 1, 1, 0.1] + [1.0] * 4)
    down = [event("scale-factor-moved", at_s=60, for_s=100, every="30s", move="down")]
    assert series(down, 7, "soc_frac")[6] == pytest.approx(true(7, "soc_frac")[6] / 10.0)
    whole = [event("scale-factor-moved", at_s=60, for_s=100, every="30s", pair="whole")]
    assert series(whole, 20, "soc_frac") == true(20, "soc_frac")


def test_a_mistaken_unit_and_a_wrong_sign() -> None:
    assert series([event("unit-flip")], 9, "power_w") == [1000.0 * w for w in true(9, "power_w")]
    tenth = [event("unit-flip", of="soc", factor="tenth")]
    assert series(tenth, 9, "soc_frac") == [soc / 10.0 for soc in true(9, "soc_frac")]
    assert series([event("sign-flip", of="both")], 9, "import_w") == [-w for w in true(9, "import_w")]
    assert series([event("sign-flip")], 9, "import_w") == true(9, "import_w")


def test_spikes_hit_the_stated_share_both_ways() -> None:
    some = [event("spike", for_s=3600, share="30%", height="20kW")]
    off = np.array(series(some, 360, "power_w")) - true(360, "power_w")
    assert set(np.round(off).tolist()) == {-20000.0, 0.0, 20000.0}
    assert 0.2 < np.mean(off != 0.0) < 0.4


def test_a_torn_number_has_the_high_half_of_the_reading_before() -> None:
    some = [event("spike", form="torn", share="100%")]
    shown = series(some, 12, "power_w")
    # Poll 5 is at 2005 W, poll 6 at -2006 W: 0x0000 of the one before 0xF82A of the other.
    assert shown[:6] == true(6, "power_w")
    assert shown[6] == 0xF82A
    assert shown[7:] == true(12, "power_w")[7:]
    assert series(some, 12, "soc_frac") == true(12, "soc_frac")


def test_a_skewed_clock_is_off_and_runs_on_at_its_rate_and_never_stamps_before_the_run() -> None:
    some = [event("clock-skew", 0, at_s=100, offset="60s", side="ahead", rate=0.1)]
    some += [event("clock-skew", 1, at_s=100, offset="10min", side="behind", number=2)]
    taken = polls(ReadingFaults(1, NAMES), some, 80)
    assert [int(taken[k][1][0]) for k in (9, 10, 20)] == [90 * SECOND_NS, 160 * SECOND_NS, 270 * SECOND_NS]
    assert [int(taken[k][1][1]) for k in (9, 10, 70)] == [90 * SECOND_NS, 0, 100 * SECOND_NS]
    assert all(taken[k][1][2] == k * POLL_NS for k in range(80))


def test_faults_act_in_their_order_however_they_are_listed() -> None:
    full, tenfold = event("stuck-full"), event("unit-flip", of="soc", factor="tenfold", number=2)
    skew, frozen = event("clock-skew", number=3), event("frozen", number=4, at_s=50)
    forward = polls(ReadingFaults(1, NAMES), [full, tenfold, skew, frozen], 20)
    backward = polls(ReadingFaults(1, NAMES), [frozen, skew, tenfold, full], 20)
    assert [float(values["soc_frac"][0]) for values, _ in forward] == [10.0] * 20
    assert [int(stamps[0]) // SECOND_NS for _, stamps in forward] == [600, 610, 620, 630, 640] + [640] * 15
    for (one, one_ns), (two, two_ns) in zip(forward, backward, strict=True):
        assert one["soc_frac"].tolist() == two["soc_frac"].tolist()
        assert one_ns.tolist() == two_ns.tolist()


def test_a_bent_charge_has_the_resolution_of_the_register() -> None:
    faults = ReadingFaults(1, NAMES, np.full(3, 0.01))
    values, _ = faults.take(
        100 * SECOND_NS, [event("soc-drift", slope=0.37)], sound(0), np.zeros(3, np.int64)
    )
    assert values["soc_frac"][0] == 0.61  # 0.6 and 1.03 %, rounded down
    assert values["soc_frac"][1:].tolist() == sound(0)["soc_frac"][1:].tolist()
