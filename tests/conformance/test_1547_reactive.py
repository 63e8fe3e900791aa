"""Type tests of the reactive power functions: the emulated device passes, planted wrong ones do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ridethrough.emulator.grid_settings import GridSettings

from tests.conformance import reactive_tests as tests
from tests.conformance.criteria import failed
from tests.conformance.der_bench import TICK_S
from tests.conformance.witness import RATED

Change = Callable[[GridSettings], GridSettings]
STEPS_S = (TICK_S, 1.0)
CATEGORIES: tuple[tests.Category, ...] = ("A", "B")


# The second responds within 1 s, which a step of 1 s does not resolve.
@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize(("number", "step_s"), [(1, TICK_S), (1, 1.0), (2, TICK_S), (3, TICK_S), (3, 1.0)])
def test_volt_var(number: int, category: tests.Category, step_s: float) -> None:
    assert failed(tests.volt_var(number, category, step_s)) == []


@pytest.mark.parametrize(("time_s", "step_s"), [(300.0, TICK_S), (300.0, 1.0), (5000.0, 1.0)])
def test_own_reference(time_s: float, step_s: float) -> None:
    assert failed(tests.own_reference(time_s, step_s)) == []


@pytest.mark.parametrize("step_s", STEPS_S)
def test_constant_power_factor(step_s: float) -> None:
    assert failed(tests.constant_power_factor(step_s)) == []


@pytest.mark.parametrize("step_s", STEPS_S)
def test_constant_var(step_s: float) -> None:
    assert failed(tests.constant_var(step_s)) == []


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_watt_var(number: int, step_s: float) -> None:
    assert failed(tests.watt_var(number, step_s)) == []


# Planted devices: each is what the test was not told, and its own criterion must say so.


def _volt_var(**changes: object) -> Change:
    return lambda settings: replace(settings, volt_var=replace(settings.volt_var, **changes))  # type: ignore[arg-type]


def _shifted(settings: GridSettings) -> GridSettings:
    return replace(settings, volt_var=replace(settings.volt_var, ref_pu=1.04))


def _half_as_steep(settings: GridSettings) -> GridSettings:
    points = tuple((v, 0.5 * q) for v, q in settings.volt_var.points)
    return replace(settings, volt_var=replace(settings.volt_var, points=points))


@pytest.mark.parametrize(
    "wrong",
    [
        _volt_var(response_s=15.0),
        _volt_var(response_s=1.5),
        _volt_var(enabled=False),
        _shifted,
        _half_as_steep,
    ],
    ids=["slow", "hasty", "off", "shifted", "half"],
)
def test_wrong_volt_var_fails(wrong: Change) -> None:
    assert failed(tests.volt_var(1, "B", 1.0, wrong))


def test_fixed_reference_fails() -> None:
    assert failed(tests.own_reference(300.0, 1.0, _volt_var(auto=False)))


def test_slow_reference_fails() -> None:
    assert failed(tests.own_reference(300.0, 1.0, _volt_var(auto_s=2000.0)))


def _wrong_sign(settings: GridSettings) -> GridSettings:
    side = settings.pf.inject
    other = replace(side, excitation="under" if side.excitation == "over" else "over")
    return replace(settings, pf=replace(settings.pf, inject=other, absorb=other))


def _wrong_factor(settings: GridSettings) -> GridSettings:
    side = replace(settings.pf.inject, factor=1.0)
    return replace(settings, pf=replace(settings.pf, inject=side, absorb=side))


@pytest.mark.parametrize("wrong", [_wrong_sign, _wrong_factor])
def test_wrong_power_factor_fails(wrong: Change) -> None:
    assert failed(tests.constant_power_factor(1.0, wrong))


def test_wrong_constant_var_fails() -> None:
    def wrong(settings: GridSettings) -> GridSettings:
        less_var = settings.var.var_var - 0.06 * RATED
        return replace(settings, var=replace(settings.var, var_var=max(less_var, -0.44 * RATED)))

    assert failed(tests.constant_var(1.0, wrong))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_wrong_watt_var_fails(number: int) -> None:
    def off(settings: GridSettings) -> GridSettings:
        return replace(settings, watt_var=replace(settings.watt_var, enabled=False))

    assert failed(tests.watt_var(number, 1.0, off))


def test_watt_var_of_another_curve_fails() -> None:
    def other(settings: GridSettings) -> GridSettings:
        generate = tuple(tests.watt_var_curve(3))
        return replace(settings, watt_var=replace(settings.watt_var, generate=generate))

    assert failed(tests.watt_var(1, 1.0, other))
