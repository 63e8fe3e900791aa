"""Type tests of the reactive power functions (IEEE 1547.1-2020, 5.14).

Duty: run each test on the emulated device and return its checks.  `wrong` lets a device in that is not what
the test was told: its settings are changed behind the test's back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal

import numpy as np
from ridethrough.emulator.grid_settings import GridSettings, default_settings

from tests.conformance.criteria import (
    ACCURACY_PU,
    ACCURACY_VAR,
    ACCURACY_W,
    WIDER,
    Check,
    StepTest,
    on_ticks,
    volt_var_levels,
)
from tests.conformance.der_bench import TICK_S, Event, Played, ask, device, lane, play
from tests.conformance.witness import RATED, Curve, along

Change = Callable[[GridSettings], GridSettings]
POWERS: Final = (0.20, 0.66, 1.00)
Category = Literal["A", "B"]
RESOLVED: Final = 1.0
"""A response shorter than this many steps is over before the first sample: there is nothing to see of it."""


def right(settings: GridSettings) -> GridSettings:
    """Change nothing."""
    return settings


def volt_var_curve(number: int, category: Category) -> tuple[Curve, float, float]:
    """Return curve, reference voltage and response time of characteristics 1 to 3 (tables 25 to 27)."""
    absorb = 0.25 if category == "A" else 0.44
    if number == 1 and category == "A":
        return ((0.90, 0.25), (1.00, 0.0), (1.00, 0.0), (1.10, -0.25)), 1.0, 10.0
    if number == 1:
        return ((0.92, 0.44), (0.98, 0.0), (1.02, 0.0), (1.08, -0.44)), 1.0, 5.0
    if number == 2:
        return ((0.88, 0.44), (1.04, 0.22), (1.07, 0.22), (1.10, -absorb)), 1.05, 1.0
    return ((0.90, 0.44), (0.93, -0.5 * absorb), (0.96, -0.5 * absorb), (1.10, -absorb)), 0.95, 90.0


def volt_var(number: int, category: Category, step_s: float, wrong: Change = right) -> list[Check]:
    """Return the checks of one characteristic at three powers (5.14.4)."""
    curve, reference, response_s = volt_var_curve(number, category)
    profile = device(
        grid={"normal": category},
        inverter={"var_frac_absorb": 0.25 if category == "A" else 0.44, "var_at_no_power": False},
    )
    base = default_settings(profile)
    at_one = tuple((v + 1.0 - reference, q) for v, q in curve)
    on = replace(base.volt_var, enabled=True, points=at_one, ref_pu=reference, response_s=response_s)
    test = StepTest(
        volt_var_levels(curve),
        lambda v: RATED * float(along(curve, np.array([v]))[0]),
        response_s,
        dwell_s=4.0 * response_s,
        accuracy_x=ACCURACY_PU,
    )
    events: list[Event] = [(t, {"voltage_pu": v}) for t, v in zip(test.times_s, test.levels, strict=True)]
    lanes = [
        lane([(0.0, ask(p)), *events], profile=profile, settings=wrong(replace(base, volt_var=on)))
        for p in POWERS
    ]
    played = play(lanes, on_ticks(test.samples_s), step_s=step_s)
    return [
        check
        for d, p in enumerate(POWERS)
        for check in test.checks(played, "reactive_var", d, f"volt-var {number}{category}, {p:.0%}")
    ]


def own_reference(time_s: float, step_s: float, wrong: Change = right) -> list[Check]:
    """Return the checks of a reference that follows the voltage (5.14.5).

    A step to the middle of the slope is answered by the curve, and all but 10 % of the reactive rating of it
    is gone after four time constants.
    """
    base = default_settings(device())
    on = replace(base.volt_var, enabled=True, auto=True, auto_s=time_s)
    found = []
    steps = (1.05, 0.95)
    settings = wrong(replace(base, volt_var=on))
    lanes = [lane([(0.0, ask(0.66)), (10.0, {"voltage_pu": v})], settings=settings) for v in steps]
    response_s, later_s = 10.0 + on.response_s, 10.0 + 4.0 * time_s
    played = play(lanes, on_ticks([response_s, later_s]), step_s=step_s)
    for d, v in enumerate(steps):
        asked = -0.22 * RATED if v > 1.0 else 0.22 * RATED
        at_once = played.at("reactive_var", d, response_s)
        span = WIDER * ACCURACY_VAR
        # The reference has moved a little on the way: 0.05 pu (1 - e^(-5/300)), of slope 7.3, is in the band.
        found.append(Check(f"own reference, {v} pu, at Tr", at_once, 0.9 * asked - span, 0.9 * asked + span))
        gone = played.at("reactive_var", d, later_s)
        found.append(Check(f"own reference, {v} pu, after 4 Tref", gone, -0.044 * RATED, 0.044 * RATED))
    return found


def constant_power_factor(step_s: float, wrong: Change = right) -> list[Check]:
    """Return the checks of constant power factor (5.14.3): steps of power, excitations, directions."""
    powers = (0.20, 0.66, 1.00, 0.20, -0.20, -0.66, -1.00, 0.20)
    base = default_settings(device())
    cases: list[tuple[float, Literal["over", "under"]]] = [
        (f, e) for f in (0.90, 0.95) for e in ("over", "under")
    ]
    lanes = []
    for factor, excitation in cases:
        side = replace(base.pf.inject, enabled=True, factor=factor, excitation=excitation)
        settings = wrong(replace(base, pf=replace(base.pf, inject=side, absorb=side)))
        lanes.append(lane([(12.0 * k, ask(p)) for k, p in enumerate(powers)], settings=settings))
    times = [12.0 * k + 10.0 for k in range(len(powers))]
    played = play(lanes, on_ticks(times), step_s=step_s)
    found = []
    for d, (factor, excitation) in enumerate(cases):
        ratio = np.sqrt(1.0 / factor**2 - 1.0) * (1.0 if excitation == "over" else -1.0)
        for t, p in zip(times, powers, strict=True):
            found.append(_along_power(played, d, t, partial(_ratio, ratio), f"PF {factor} {excitation}, {p}"))
    return found


def _ratio(ratio: float, power_w: float) -> float:
    return float(np.clip(ratio * abs(power_w), -0.44 * RATED, 0.44 * RATED))


def _along_power(played: Played, d: int, time_s: float, target: Callable[[float], float], what: str) -> Check:
    """Return the check of a reactive power that follows the measured active power."""
    power_w = played.at("power_w", d, time_s)
    asked = [target(power_w + e * WIDER * ACCURACY_W) for e in np.linspace(-1.0, 1.0, 9)]
    span = WIDER * ACCURACY_VAR
    return Check(what, played.at("reactive_var", d, time_s), min(asked) - span, max(asked) + span)


def constant_var(step_s: float, wrong: Change = right) -> list[Check]:
    """Return the checks of constant reactive power (5.14.8): 90 % within 10 s, then within the accuracy."""
    base = default_settings(device())
    shares = (0.44, 0.22, -0.22, -0.44)
    voltages = (1.00, 0.90, 1.08, 1.00)
    lanes, found = [], []
    for p in POWERS:
        events: list[Event] = [(0.0, ask(p))]
        for k, q in enumerate(shares):
            on = replace(base.var, enabled=True, var_var=q * RATED)
            events.append((60.0 * k + 1.0, wrong(replace(base, var=on))))
            events += [(60.0 * k + 15.0 * n + 1.0, {"voltage_pu": v}) for n, v in enumerate(voltages)]
        lanes.append(lane(events))
    times = [60.0 * k + 15.0 * n + 11.0 for k in range(len(shares)) for n in range(len(voltages))]
    played = play(lanes, on_ticks([*times, *(60.0 * k + 1.0 for k in range(len(shares)))]), step_s=step_s)
    for d, p in enumerate(POWERS):
        for k, q in enumerate(shares):
            for n, v in enumerate(voltages):
                value = played.at("reactive_var", d, 60.0 * k + 15.0 * n + 11.0)
                low, high = q * RATED - ACCURACY_VAR, q * RATED + ACCURACY_VAR
                found.append(Check(f"constant var {q}, {p:.0%}, {v} pu", value, low, high))
    return found


def watt_var_curve(number: int) -> Curve:
    """Return the generating side of characteristics 1 to 3 (tables 28 to 30); the other side mirrors it."""
    q1, q2 = {1: (0.0, 0.0), 2: (-0.22, -0.22), 3: (0.0, -0.44)}[number]
    return ((0.2, q1), (0.5, q2), (1.0, -0.44))


def watt_var(number: int, step_s: float, wrong: Change = right) -> list[Check]:
    """Return the checks of one characteristic over generating and absorbing (5.14.7)."""
    curve = watt_var_curve(number)
    base = default_settings(device())
    mirror = tuple((-p, -q) for p, q in curve)
    on = replace(base.watt_var, enabled=True, generate=tuple(curve), absorb=mirror)
    powers = (0.10, 0.20, 0.35, 0.50, 0.66, 0.75, 0.90, 1.00, 0.50, 0.10, -0.10, -0.35, -0.66, -0.90, -1.00)
    events: list[Event] = [(12.0 * k, ask(p)) for k, p in enumerate(powers)]
    times = [12.0 * k + 10.0 for k in range(len(powers))]
    settings = wrong(replace(base, watt_var=on))
    played = play([lane(events, settings=settings)], on_ticks(times), step_s=step_s)

    def target(power_w: float) -> float:
        q = RATED * float(along(curve, np.array([abs(power_w) / RATED]))[0])
        return q if power_w > 0.0 else -q

    return [
        _along_power(played, 0, t, target, f"watt-var {number}, {p}")
        for t, p in zip(times, powers, strict=True)
    ]


def all_checks(step_s: float = TICK_S) -> dict[str, Sequence[Check]]:
    """Return every test of this file that steps of this length can show, by name."""
    found: dict[str, Sequence[Check]] = {}
    categories: tuple[Category, ...] = ("A", "B")
    for category in categories:
        for number in (1, 2, 3):
            if volt_var_curve(number, category)[2] < RESOLVED * step_s:
                continue
            found[f"volt-var {number}, category {category} (5.14.4)"] = volt_var(number, category, step_s)
    found["own reference, 300 s (5.14.5)"] = own_reference(300.0, step_s)
    found["constant power factor (5.14.3)"] = constant_power_factor(step_s)
    found["constant reactive power (5.14.8)"] = constant_var(step_s)
    for number in (1, 2, 3):
        found[f"watt-var {number} (5.14.7)"] = watt_var(number, step_s)
    return found
