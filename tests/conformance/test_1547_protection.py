"""Type tests of trips, ride-through and entering service: the emulated device passes, planted ones do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ridethrough.emulator.grid_settings import GridSettings

from tests.conformance import enter_tests, ride_tests, trip_tests
from tests.conformance.criteria import accuracy_s, failed
from tests.conformance.der_bench import TICK_S
from tests.conformance.trip_tests import CATEGORIES, Category

Change = Callable[[GridSettings], GridSettings]
STEPS_S = (TICK_S, 1.0)


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("category", CATEGORIES)
def test_trip_times(category: Category, step_s: float) -> None:
    checks = trip_tests.times(category, step_s)
    assert failed(checks) == []
    assert len(checks) == 15


@pytest.mark.parametrize("category", CATEGORIES)
def test_trip_magnitudes(category: Category) -> None:
    checks = trip_tests.magnitudes(category)
    assert failed(checks) == []
    assert len(checks) == 8


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("category", CATEGORIES)
def test_voltage_ride_through(category: Category, step_s: float) -> None:
    assert failed(ride_tests.voltage(category, step_s)) == []


def test_voltage_ride_through_with_the_longest_restoration() -> None:
    sections = {"grid": {"abnormal": "III", "restore_s": 0.4, "events_max": 3}}
    assert failed(ride_tests.voltage("III", sections=sections)) == []


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("rocof_hz_per_s_max", [None, 3.1])
def test_frequency_ride_through(rocof_hz_per_s_max: float | None, step_s: float) -> None:
    sections = {"grid": {"rocof_hz_per_s_max": rocof_hz_per_s_max}}
    assert failed(ride_tests.frequency(step_s, sections=sections)) == []


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize(("delay_s", "ramp_s"), [(300.0, 300.0), (20.0, 10.0), (600.0, 1000.0)])
def test_enter_service(delay_s: float, ramp_s: float, step_s: float) -> None:
    assert failed(enter_tests.enter_service(delay_s, ramp_s, step_s)) == []


def test_random_delay() -> None:
    assert failed(enter_tests.random_delay()) == []


@pytest.mark.parametrize("step_s", STEPS_S)
def test_permit_withdrawn(step_s: float) -> None:
    assert failed(enter_tests.permit(step_s)) == []


@pytest.mark.parametrize("step_s", STEPS_S)
def test_unintentional_island(step_s: float) -> None:
    assert failed(enter_tests.islanding(step_s)) == []


# Planted devices.


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize(
    "planted_s",
    [lambda s: s + 2.0 * TICK_S, lambda s: s - 1.2 * accuracy_s(s) - TICK_S],
    ids=["late", "early"],
)
def test_trip_at_another_time_fails(category: Category, planted_s: trip_tests.Planted) -> None:
    checks = trip_tests.times(category, 1.0, planted_s)
    assert failed(checks) == checks


@pytest.mark.parametrize("shift", [1.3, -1.3])
def test_trip_at_another_limit_fails(shift: float) -> None:
    checks = trip_tests.magnitudes("II", shift)
    assert failed(checks) == checks


@pytest.mark.parametrize("category", CATEGORIES)
def test_device_that_may_trip_does_and_fails(category: Category) -> None:
    """Permission taken at once, as no device may: the curve of 1.4 is crossed before its time."""

    def hasty(settings: GridSettings) -> GridSettings:
        under = settings.under_voltage
        may = ((0.88, 0.5), (0.50, 0.0))
        return replace(settings, under_voltage=replace(under, may=may))

    sections = {"grid": {"abnormal": category, "takes_may_trip": True}}
    assert failed(ride_tests.voltage(category, wrong=hasty, sections=sections))


def test_ceasing_where_it_must_deliver_fails() -> None:
    def shy(settings: GridSettings) -> GridSettings:
        return replace(settings, under_voltage=replace(settings.under_voltage, cease=0.75))

    assert failed(ride_tests.voltage("III", wrong=shy))


def test_delivering_where_it_must_cease_fails() -> None:
    def bold(settings: GridSettings) -> GridSettings:
        return replace(settings, under_voltage=replace(settings.under_voltage, cease=None))

    assert failed(ride_tests.voltage("III", wrong=bold))


def test_one_disturbance_too_many_fails() -> None:
    assert failed(ride_tests.voltage("III", sections={"grid": {"abnormal": "III", "events_max": 2}}))


def test_slow_restoration_fails() -> None:
    assert failed(ride_tests.voltage("III", planted={"restore_ticks": 0.5 / TICK_S}))


def test_device_of_category_ii_trips_by_its_rate_of_change() -> None:
    assert failed(ride_tests.frequency(sections={"grid": {"rocof_hz_per_s_max": 2.0}}))


def _enter(**changes: float) -> Change:
    return lambda settings: replace(settings, enter=replace(settings.enter, **changes))


@pytest.mark.parametrize(
    "wrong",
    [
        _enter(delay_s=18.0),
        _enter(delay_s=22.0),
        _enter(ramp_s=8.0),
        _enter(ramp_s=14.0),
        _enter(voltage_pu_min=0.88),
        _enter(frequency_hz_max=61.0),
    ],
    ids=["early", "late", "steep", "flat", "wide V", "wide f"],
)
def test_wrong_entry_fails(wrong: Change) -> None:
    assert failed(enter_tests.enter_service(20.0, 10.0, 1.0, wrong))


def test_wrong_random_delay_fails() -> None:
    assert len(failed(enter_tests.random_delay(delay_s=9.5))) == 4


def test_slow_obedience_to_permit_fails() -> None:
    assert failed(enter_tests.permit(late_s=2.1))


def test_blind_island_detection_fails() -> None:
    assert failed(enter_tests.islanding(detect_s=(2.5,)))
