"""Type tests of entering and leaving service (IEEE 1547.1-2020, 5.6.2, 5.10; IEEE 1547-2018, 4.10, 8.1).

Duty: every side of the enter-service window, a delay that is interrupted, the ramp; permit service withdrawn;
an island held up by matched generation, whose detection time is a parameter of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from ridethrough.emulator.grid_settings import GridSettings, default_settings
from ridethrough.emulator.plant import Plant

from tests.conformance.criteria import (
    ACCURACY_HZ,
    ACCURACY_PU,
    WIDER,
    Check,
    accuracy_s,
    on_ticks,
)
from tests.conformance.der_bench import TICK_S, Event, Played, ask, device, lane, play, regular
from tests.conformance.reactive_tests import Change, right
from tests.conformance.witness import RATED

POWER: Final = 0.8
WINDOW: Final = {
    "V low": {"voltage_pu": 0.917 - WIDER * ACCURACY_PU},
    "V high": {"voltage_pu": 1.05 + WIDER * ACCURACY_PU},
    "f low": {"frequency_hz": 59.5 - WIDER * ACCURACY_HZ},
    "f high": {"frequency_hz": 60.1 + WIDER * ACCURACY_HZ},
}
"""Just out of the range of table 4."""
GOOD: Final = {"voltage_pu": 1.0, "frequency_hz": 60.0}
EARLIEST: Final = 1e-6


def _service(settings: GridSettings, delay_s: float, ramp_s: float) -> GridSettings:
    # Droop would answer the frequencies of the window's edge.
    enter = replace(settings.enter, delay_s=delay_s, ramp_s=ramp_s)
    return replace(settings, enter=enter, droop=replace(settings.droop, enabled=False))


def _first(played: Played, d: int) -> float:
    """Return the beginning of the first sample with power; far away when there is none."""
    moving = np.flatnonzero(np.abs(played.of("power_w", d)) > EARLIEST)
    return float(played.time_s[moving[0] - 1]) if moving.size else 1e6


def enter_service(
    delay_s: float = 300.0, ramp_s: float = 300.0, step_s: float = TICK_S, wrong: Change = right
) -> list[Check]:
    """Return the checks of entering service (5.6.2), for each side of the window.

    Out of range for twice the delay: off.  Good for a quarter of the delay, out for 2 s, good again: the
    delay begins anew, power after it and no faster than the ramp.
    """
    settings = wrong(_service(default_settings(device()), delay_s, ramp_s))
    begin = 2.0 * delay_s
    again = begin + 0.25 * delay_s + 2.0
    lanes = []
    for out in WINDOW.values():
        events: list[Event] = [
            (0.0, {**ask(POWER), **GOOD, **out, "permit": 0.0}),
            (1.0, {"permit": 1.0}),
            (begin, GOOD),
            (begin + 0.25 * delay_s, {**GOOD, **out}),
            (again, GOOD),
        ]
        lanes.append(lane(events, settings=settings))
    end_s = again + delay_s + ramp_s + 10.0
    edge = again + delay_s
    sample_s = on_ticks([*regular(1.0, end_s), *np.arange(edge - 1.0, edge + 1.0, TICK_S)])
    played = play(lanes, sample_s, step_s=step_s)
    found = []
    for d, side in enumerate(WINDOW):
        waited_s = _first(played, d) - again
        what = f"enter service, {side}"
        found.append(Check(f"{what}: delay", waited_s, delay_s, delay_s + WIDER * accuracy_s(delay_s)))
        since_s = played.time_s - (again + delay_s)
        power_w = played.of("power_w", d)
        allowed_w = RATED * np.clip(since_s, 0.0, None) / ramp_s
        above = float(np.max(power_w - allowed_w))
        found.append(Check(f"{what}: above the ramp", above, -RATED, 1e-6))
        whole_s = float(played.time_s[np.argmax(power_w >= POWER * RATED - 1e-6)]) - edge
        low, high = POWER * ramp_s, POWER * ramp_s + WIDER * accuracy_s(ramp_s) + 1.0
        found.append(Check(f"{what}: ramp done", whole_s, low, high))
    return found


def random_delay(*, delay_s: float = 10.0) -> list[Check]:
    """Return the checks of the random part of a delay of 10 s: never less than that, never beyond the sum.

    Another `delay_s` plants a device that waits for another time.
    """
    profile = device(inverter={"enter_delay_s": delay_s, "enter_ramp_s": 0.0}, grid={"enter_random_s": 20.0})
    shares = np.array([0.0, 0.25, 0.5, 1.0])
    plant = Plant([profile] * shares.size, soc_frac=0.5, random_share=shares)
    for name, value in {**ask(POWER), "permit": 0.0}.items():
        plant.set_control(name, value)
    plant.advance(50)
    plant.set_control("permit", 1.0)
    waited_s = np.full(shares.size, np.inf)
    for k in range(round(32.0 / TICK_S)):
        plant.advance(1)
        began = (plant.states("power_w") > EARLIEST) & np.isinf(waited_s)
        waited_s[began] = k * TICK_S
    return [
        Check(
            f"random delay, share {share}",
            float(found),
            10.0 + 20.0 * float(share),
            10.0 + 20.0 * float(share) + TICK_S,
        )
        for share, found in zip(shares, waited_s, strict=True)
    ]


def permit(step_s: float = TICK_S, *, late_s: float = 0.0) -> list[Check]:
    """Return the checks of permit service withdrawn: nothing after 2 s; `late_s` plants a slow device."""
    powers = (0.8, -0.8)
    lanes = [lane([(0.0, ask(p)), (10.0 + late_s, {"permit": 0.0})]) for p in powers]
    played = play(lanes, regular(step_s, 16.0), step_s=step_s)
    return [
        Check(f"permit withdrawn at {p:+.0%}", played.last_export_s(d) - 10.0, -step_s, 2.0)
        for d, p in enumerate(powers)
    ]


def islanding(step_s: float = TICK_S, *, detect_s: tuple[float, ...] = (0.1, 1.0, 2.0)) -> list[Check]:
    """Return the checks of an island that matched generation holds up (5.10): no power after 2 s.

    The detection is a parameter; what is checked is that the device acts on it, for any balance of power.
    """
    cases = [(t, p) for t in detect_s for p in (-0.66, 0.33, 1.0)]
    lanes = [
        lane(
            [(0.0, ask(p)), (10.0, {"grid_good": 0.0, "grid_held": 1.0})],
            profile=device(island={"transfer": "fast", "detect_s": t, "capable": False}),
        )
        for t, p in cases
    ]
    played = play(lanes, regular(step_s, 16.0), step_s=step_s)
    return [
        Check(f"island held, {t} s, {p:+.0%}", played.last_export_s(d) - 10.0, t - step_s, 2.0)
        for d, (t, p) in enumerate(cases)
    ]


def all_checks(step_s: float = TICK_S) -> dict[str, Sequence[Check]]:
    """Return every test of this file, by name."""
    return {
        "enter service, 300 s and 300 s (5.6.2)": enter_service(step_s=step_s),
        "enter service, random delay (4.10.3)": random_delay(),
        "permit service withdrawn (4.10.3)": permit(step_s),
        "unintentional island (5.10), detection as a parameter": islanding(step_s),
    }
