"""Type tests of the active power functions: the emulated device passes, planted wrong ones do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ridethrough.emulator.grid_settings import GridSettings

from tests.conformance import active_tests as tests
from tests.conformance.criteria import failed
from tests.conformance.der_bench import TICK_S

Change = Callable[[GridSettings], GridSettings]
STEPS_S = (TICK_S, 1.0)


# The third responds within 0.5 s: steps of 1 s cannot show it.
@pytest.mark.parametrize(("number", "step_s"), [(1, TICK_S), (1, 1.0), (2, TICK_S), (2, 1.0), (3, TICK_S)])
def test_volt_watt(number: int, step_s: float) -> None:
    assert failed(tests.volt_watt(number, step_s)) == []


# The second responds within 0.2 s.
@pytest.mark.parametrize("end_hz", [61.8, 57.0])
@pytest.mark.parametrize(("number", "step_s"), [(1, TICK_S), (1, 1.0), (2, TICK_S)])
def test_droop(number: int, end_hz: float, step_s: float) -> None:
    assert failed(tests.droop(number, end_hz, step_s)) == []


@pytest.mark.parametrize("step_s", STEPS_S)
def test_limit_active_power(step_s: float) -> None:
    assert failed(tests.limit_active_power(step_s)) == []


@pytest.mark.parametrize("step_s", STEPS_S)
def test_priority(step_s: float) -> None:
    assert failed(tests.priority(step_s)) == []


# Planted devices.


def _volt_watt(**changes: object) -> Change:
    return lambda settings: replace(settings, volt_watt=replace(settings.volt_watt, **changes))  # type: ignore[arg-type]


def _droop(**changes: object) -> Change:
    return lambda settings: replace(settings, droop=replace(settings.droop, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        _volt_watt(response_s=30.0),
        _volt_watt(response_s=2.0),
        _volt_watt(enabled=False),
        _volt_watt(points=((1.09, 1.0), (1.10, 0.0))),
        _volt_watt(points=((1.06, 1.0), (1.10, 0.2))),
    ],
    ids=["slow", "hasty", "off", "shifted", "floor"],
)
def test_wrong_volt_watt_fails(wrong: Change) -> None:
    assert failed(tests.volt_watt(1, 1.0, wrong))


@pytest.mark.parametrize("end_hz", [61.8, 57.0])
@pytest.mark.parametrize(
    "wrong",
    [
        _droop(response_s=10.0),
        _droop(enabled=False),
        _droop(dead_hz_over=0.5, dead_hz_under=0.5),
        _droop(droop_frac_over=0.03, droop_frac_under=0.03),
    ],
    ids=["slow", "off", "deaf", "steep"],
)
def test_wrong_droop_fails(wrong: Change, end_hz: float) -> None:
    assert failed(tests.droop(1, end_hz, 1.0, wrong))


def test_hasty_droop_fails() -> None:
    """Only towards 57 Hz: the last tenth of the way to 61.8 Hz is less than the band."""
    assert failed(tests.droop(1, 57.0, 1.0, _droop(response_s=1.0)))


def test_slow_limit_fails() -> None:
    assert failed(tests.limit_active_power(1.0, late_s=29.0))
    assert failed(tests.limit_active_power(1.0, ramp_s=200.0))


def test_wrong_priority_fails() -> None:
    assert failed(tests.priority(1.0, _droop(enabled=False)))
    assert failed(tests.priority(1.0, _volt_watt(enabled=False)))
