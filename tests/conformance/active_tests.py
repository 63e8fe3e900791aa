"""Type tests of the active power functions (IEEE 1547.1-2020, 5.13, 5.14.9, 5.15, 5.16).

Duty: run each test on the emulated device and return its checks.  `wrong` lets a device in that is not what
the test was told: its settings are changed behind the test's back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from ridethrough.emulator.grid_settings import GridSettings, default_settings

from tests.conformance.criteria import (
    ACCURACY_HZ,
    ACCURACY_PU,
    ACCURACY_VAR,
    ACCURACY_W,
    WIDER,
    Check,
    StepTest,
    droop_levels,
    on_ticks,
    volt_watt_levels,
)
from tests.conformance.der_bench import TICK_S, Event, ask, device, lane, play
from tests.conformance.reactive_tests import POWERS, RESOLVED, Change, right
from tests.conformance.witness import RATED, Curve, along
from tests.conformance.witness import droop as droop_share

SPAN_W: Final = WIDER * ACCURACY_W
DROOP: Final = {1: (0.036, 0.05, 5.0), 2: (0.017, 0.03, 0.2)}
"""Dead band [Hz], droop and response time [s] of characteristics 1 and 2 (tables 34 to 37)."""


def volt_watt_curve(number: int) -> tuple[Curve, float]:
    """Return curve and response time of characteristics 1 to 3 (tables 31 to 33).

    The tables give 90 s for the second, outside the range of table 10 of IEEE 1547: 60 s are taken.
    """
    curves: dict[int, tuple[Curve, float]] = {
        1: (((1.06, 1.0), (1.10, 0.0)), 10.0),
        2: (((1.05, 1.0), (1.10, -1.0)), 60.0),
        3: (((1.09, 1.0), (1.10, -1.0)), 0.5),
    }
    return curves[number]


def volt_watt(number: int, step_s: float, wrong: Change = right) -> list[Check]:
    """Return the checks of one characteristic at three powers (5.14.9)."""
    curve, response_s = volt_watt_curve(number)
    base = default_settings(device())
    on = replace(base.volt_watt, enabled=True, points=tuple(curve), response_s=response_s)
    dwell_s = max(4.0 * response_s, 4.0)
    # A whole step each way is ours, and only at full power: the response is that of the limit, which a lesser
    # power meets later than a tenth of its way on.
    levels = volt_watt_levels(curve)

    def tested(p: float) -> StepTest:
        def limit(v: float) -> float:
            return float(along(curve, np.array([v]))[0])

        return StepTest(
            [*levels, 1.10, 0.88] if p == 1.0 else levels,
            lambda v: RATED * min(p, limit(v)),
            response_s,
            dwell_s,
            ACCURACY_PU,
            ACCURACY_W,
            free=lambda v: p < limit(v),
        )

    tests = [tested(p) for p in POWERS]
    lanes = []
    for p, test in zip(POWERS, tests, strict=True):
        events: list[Event] = [(t, {"voltage_pu": v}) for t, v in zip(test.times_s, test.levels, strict=True)]
        lanes.append(lane([(0.0, ask(p)), *events], settings=wrong(replace(base, volt_watt=on))))
    played = play(lanes, on_ticks(tests[-1].samples_s), step_s=step_s)
    return [
        check
        for d, (p, test) in enumerate(zip(POWERS, tests, strict=True))
        for check in test.checks(played, "power_w", d, f"volt-watt {number}, {p:.0%}")
    ]


def droop(number: int, end_hz: float, step_s: float, wrong: Change = right) -> list[Check]:
    """Return the checks of one characteristic towards one end of frequency (5.15.2, 5.15.3)."""
    dead_hz, k, response_s = DROOP[number]
    base = default_settings(device())
    on = replace(
        base.droop,
        dead_hz_over=dead_hz,
        dead_hz_under=dead_hz,
        droop_frac_over=k,
        droop_frac_under=k,
        response_s=response_s,
    )
    levels = droop_levels(dead_hz, 0.05 * 60.0 * k, end_hz)
    powers = (0.20, 0.66, 1.00) if end_hz > 60.0 else (-0.50, 0.20, 0.66)

    def tested(p: float) -> StepTest:
        def target(f: float) -> float:
            share = p + float(droop_share(np.array([f]), dead_hz=dead_hz, k=k)[0])
            return RATED * min(max(share, -1.0), 1.0)

        dwell_s = max(4.0 * response_s, 4.0)
        return StepTest(levels, target, response_s, dwell_s, ACCURACY_HZ, ACCURACY_W)

    tests = [tested(p) for p in powers]
    events: list[Event] = [(t, {"frequency_hz": f}) for t, f in zip(tests[0].times_s, levels, strict=True)]
    settings = wrong(replace(base, droop=on))
    lanes = [lane([(0.0, ask(p)), *events], settings=settings) for p in powers]
    played = play(lanes, on_ticks(tests[0].samples_s), step_s=step_s)
    return [
        check
        for d, (p, test) in enumerate(zip(powers, tests, strict=True))
        for check in test.checks(played, "power_w", d, f"droop {number} to {end_hz} Hz, {p:.0%}")
    ]


def limit_active_power(step_s: float, *, late_s: float = 0.0, ramp_s: float = 15.0) -> list[Check]:
    """Return the checks of the limit of active power (5.13), three times over; `late_s` plants a slow one.

    The device takes limits on with a ramp, as real ones do; 30 s are allowed.
    """
    profile = device(inverter={"ramp_w_per_s": RATED / ramp_s})
    base = default_settings(profile)
    settings = replace(base, volt_watt=replace(base.volt_watt, enabled=True))
    events: list[Event] = [(0.0, ask(1.0))]
    expected: list[tuple[float, str, float]] = []
    now = 20.0
    for repeat in range(3):
        for limit in (0.66, 0.33, 0.0, 0.66):
            events.append((now + late_s, {"limit_ena": 1.0, "limit_frac": limit}))
            expected.append((now + 30.0, f"limit {limit}, {repeat + 1}", limit))
            now += 60.0
    # At 66 %: droop outranks the limit, volt-watt does not give way to it.
    grid = ((60.0, 1.0, 0.66), (59.0, 1.0, 0.66), (60.0, 1.0, 0.66), (61.0, 1.0, 0.66), (60.0, 1.08, 0.66))
    for f, v, limit in grid:
        events.append((now, {"frequency_hz": f, "voltage_pu": v}))
        share = limit + float(droop_share(np.array([f]))[0])
        share = min(share, 1.0, float(along(((1.06, 1.0), (1.10, 0.0)), np.array([v]))[0]))
        expected.append((now + 59.0, f"limit {limit}, {f} Hz, {v} pu", share))
        now += 60.0
    played = play(
        [lane(events, profile=profile, settings=settings)],
        on_ticks([t for t, _, _ in expected]),
        step_s=step_s,
    )
    return [
        Check(what, played.at("power_w", 0, t), RATED * share - SPAN_W, RATED * share + SPAN_W)
        for t, what, share in expected
    ]


PRIORITY: Final = (
    (1.00, 60.00, 0.5),
    (1.09, 60.00, 0.4),
    (1.09, 60.33, 0.3),
    (1.09, 60.00, 0.4),
    (1.09, 59.36, 0.4),
    (1.00, 59.36, 0.6),
    (1.00, 60.00, 0.5),
    (1.00, 59.36, 0.7),
)
"""Voltage, frequency, active power expected (5.16): limit 50 %, volt-watt to 20 % at 1.10 pu, droop."""


def _priority_modes(base: GridSettings) -> dict[str, GridSettings]:
    volt_watt = replace(base.volt_watt, enabled=True, points=((1.06, 1.0), (1.10, 0.2)))
    common = replace(base, volt_watt=volt_watt)
    under = replace(base.pf.inject, enabled=True, factor=0.9, excitation="under")
    return {
        "volt-var": replace(common, volt_var=replace(base.volt_var, enabled=True)),
        "constant var": replace(common, var=replace(base.var, enabled=True, var_var=0.44 * RATED)),
        "power factor": replace(common, pf=replace(base.pf, inject=under)),
        "watt-var": replace(common, watt_var=replace(base.watt_var, enabled=True)),
    }


def _priority_var(mode: str, v: float, power_frac: float) -> float:
    if mode == "volt-var":
        curve = ((0.92, 0.44), (0.98, 0.0), (1.02, 0.0), (1.08, -0.44))
        return RATED * float(along(curve, np.array([v]))[0])
    if mode == "constant var":
        return 0.44 * RATED
    if mode == "power factor":
        return -RATED * power_frac * float(np.sqrt(1.0 / 0.81 - 1.0))
    return RATED * float(along(((0.2, 0.0), (0.5, 0.0), (1.0, -0.44)), np.array([power_frac]))[0])


def priority(step_s: float, wrong: Change = right) -> list[Check]:
    """Return the checks of the priority of responses (5.16), under each reactive power function."""
    modes = _priority_modes(default_settings(device()))
    hold_s = 60.0
    events: list[Event] = [(0.0, {**ask(1.0), "limit_ena": 1.0, "limit_frac": 0.5})]
    events += [(hold_s * k, {"voltage_pu": v, "frequency_hz": f}) for k, (v, f, _) in enumerate(PRIORITY)]
    lanes = [lane(events, settings=wrong(settings)) for settings in modes.values()]
    times = [hold_s * (k + 1) for k in range(len(PRIORITY))]
    played = play(lanes, on_ticks(times), step_s=step_s)
    found = []
    for d, mode in enumerate(modes):
        for t, (v, f, share) in zip(times, PRIORITY, strict=True):
            what = f"priority, {mode}, {v} pu, {f} Hz"
            power_w, span = played.at("power_w", d, t), WIDER * ACCURACY_VAR
            found.append(Check(f"{what}: P", power_w, RATED * share - SPAN_W, RATED * share + SPAN_W))
            asked = _priority_var(mode, v, power_w / RATED)
            given = played.at("reactive_var", d, t)
            found.append(Check(f"{what}: Q", given, asked - span, asked + span))
    return found


def all_checks(step_s: float = TICK_S) -> dict[str, Sequence[Check]]:
    """Return every test of this file that steps of this length can show, by name."""
    found: dict[str, Sequence[Check]] = {}
    for number in (1, 2, 3):
        if volt_watt_curve(number)[1] < RESOLVED * step_s:
            continue
        found[f"volt-watt {number} (5.14.9)"] = volt_watt(number, step_s)
    for number, (_, _, response_s) in DROOP.items():
        if response_s < RESOLVED * step_s:
            continue
        found[f"droop {number}, over (5.15.2)"] = droop(number, 61.8, step_s)
        found[f"droop {number}, under (5.15.3)"] = droop(number, 57.0, step_s)
    found["limit active power (5.13)"] = limit_active_power(step_s)
    found["priority of responses (5.16)"] = priority(step_s)
    return found
