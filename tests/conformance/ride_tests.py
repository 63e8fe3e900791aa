"""Type tests of riding through disturbances (IEEE 1547.1-2020, 5.4.4, 5.4.7, 5.5.3, 5.5.4).

Duty: sequences of low and high voltage with their repeats, frequency excursions at the greatest rate of
change; never a trip, the right mode in every part, power back in time.  Phase jumps and unbalance are not
here: the model has one RMS voltage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from ridethrough.emulator.grid_settings import GridSettings, default_settings

from tests.conformance.criteria import ACCURACY_W, WIDER, Check
from tests.conformance.der_bench import (
    CESSATION,
    ON_GRID,
    TICK_S,
    Event,
    Lane,
    Played,
    ask,
    device,
    lane,
    play,
    regular,
    slope,
)
from tests.conformance.reactive_tests import Change, right
from tests.conformance.trip_tests import Category
from tests.conformance.witness import RATED, droop

Mode = Literal["delivers", "ceases", "may"]
Part = tuple[float, float, Mode]
"""Voltage [pu], for how long [s], and what the device does: delivers, ceases, or may do either."""

POWER: Final = 0.6
CEASE_S: Final = 0.083
RESTORE_S: Final = 0.4
CURRENT_PU: Final = 1.2

LOW: Final[dict[Category, tuple[Part, ...]]] = {
    # Table 14; 1547.1 states no sequence for category I that we know: the corners of the region, ours.
    "I": (
        (0.94, 10.0, "delivers"),
        (0.52, 0.16, "may"),
        (0.72, 0.62, "delivers"),
        (0.87, 0.60, "delivers"),
        (0.94, 120.0, "delivers"),
    ),
    "II": (
        (0.94, 10.0, "delivers"),
        (0.28, 0.16, "ceases"),
        (0.43, 0.16, "may"),
        (0.65, 2.68, "delivers"),
        (0.88, 2.0, "delivers"),
        (0.94, 120.0, "delivers"),
    ),
    "III": (
        (0.94, 5.0, "delivers"),
        (0.03, 1.0, "ceases"),
        (0.48, 9.0, "ceases"),
        (0.70, 10.0, "delivers"),
        (0.94, 120.0, "delivers"),
    ),
}
HIGH: Final[dict[Category, tuple[Part, ...]]] = {
    "I": ((1.0, 10.0, "delivers"), (1.18, 0.2, "may"), (1.175, 0.3, "may"), (1.15, 0.5, "may")),
    "II": ((1.0, 10.0, "delivers"), (1.18, 0.2, "may"), (1.175, 0.3, "may"), (1.15, 0.5, "may")),
    "III": ((1.0, 5.0, "delivers"), (1.18, 12.0, "ceases")),
}
REPEATS: Final[dict[Category, int]] = {"I": 2, "II": 2, "III": 3}
BETWEEN_S: Final[dict[Category, float]] = {"I": 20.0, "II": 10.0, "III": 5.0}
"""Table 17: disturbances in a row, and the calm between."""


def longest(settings: GridSettings, category: Category) -> GridSettings:
    """Return settings with the longest adjustable trip times, as the ride-through tests have them."""
    under, over = settings.under_voltage, settings.over_voltage
    slow_s, quick_s = (50.0, 21.0) if category == "III" else (21.0, 2.0)
    (low_1, _), (low_2, _) = under.must
    (high_1, _), high_2 = over.must
    return replace(
        settings,
        under_voltage=replace(under, must=((low_1, slow_s), (low_2, quick_s))),
        over_voltage=replace(over, must=((high_1, 13.0), high_2)),
    )


def voltage(
    category: Category,
    step_s: float = TICK_S,
    *,
    wrong: Change = right,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    planted: Mapping[str, float] | None = None,
) -> list[Check]:
    """Return the checks of both sequences of a category, repeated.

    `wrong`, `sections` and `planted` make another device of it: by settings, by its profile, by fields.
    """
    profile = device(**{"grid": {"abnormal": category}, **(sections or {})})
    settings = wrong(longest(default_settings(profile), category))
    found = []
    lanes, walks = [], []
    for parts in (LOW[category], HIGH[category]):
        # The last two minutes near nominal are for the first round to end in; a repeat follows sooner.
        calm = (0.94, BETWEEN_S[category], "delivers") if parts[-1][1] == 120.0 else None
        once = [*parts[:-1], calm] if calm else [*parts, (1.0, BETWEEN_S[category], "delivers")]
        walk: list[Part] = [*once * REPEATS[category], (1.0, 10.0, "delivers")]
        begins = np.cumsum([0.0, *(seconds for _, seconds, _ in walk[:-1])])
        events: list[Event] = [(0.0, {**ask(POWER), **(planted or {})})]
        events += [(float(t), {"voltage_pu": v}) for t, (v, _, _) in zip(begins, walk, strict=True)]
        lanes.append(lane(events, profile=profile, settings=settings))
        walks.append((walk, begins))
    end_s = max(float(begins[-1]) + walk[-1][1] for walk, begins in walks)
    played = play(lanes, regular(step_s, end_s), step_s=step_s)
    for d, (walk, begins) in enumerate(walks):
        label = f"{'low' if d == 0 else 'high'} voltage {category}"
        stays = float(np.mean(played.of("status", d) == ON_GRID))
        found.append(Check(f"{label}: no trip", stays, 1.0, 1.0))
        for begin, (v, seconds, mode) in zip(begins, walk, strict=True):
            found += _part(played, d, f"{label}, {begin:.2f} s", float(begin), (v, seconds, mode))
    return found


def _part(played: Played, d: int, label: str, begin: float, part: Part) -> list[Check]:
    """Return the checks of one part, from when the device has had the time it is given."""
    v, seconds, mode = part
    if mode == "may":
        return []
    grace_s = CEASE_S if mode == "ceases" else RESTORE_S
    # A sample shows the step that ends at its time: the first one whole after the grace.
    time_s, power_w = played.time_s, played.of("power_w", d)
    inside = (time_s > begin + grace_s + TICK_S - 1e-6) & (time_s < begin + seconds + 1e-6)
    if not inside.any():
        return []
    what = f"{label}, {v} pu"
    if mode == "ceases":
        held = float(np.mean(played.of("ride", d)[inside] == CESSATION))
        worst = float(np.max(np.abs(power_w[inside])))
        return [Check(f"{what}: ceased", held, 1.0, 1.0), Check(f"{what}: power", worst, 0.0, 0.0)]
    before_w = RATED * min(POWER, CURRENT_PU * v)
    least = float(np.min(power_w[inside]))
    return [Check(f"{what}: at least 80 %", least, 0.8 * before_w, RATED)]


def frequency(
    step_s: float = TICK_S,
    *,
    wrong: Change = right,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Check]:
    """Return the checks of 57.0 Hz and 61.8 Hz for 299 s, reached and left at 3 Hz/s (5.5.3, 5.5.4)."""
    profile = device(**(sections or {}))
    settings = wrong(default_settings(profile))
    found = []
    lanes: list[Lane] = []
    ends = (57.0, 61.8)
    for end_hz in ends:
        move_s = abs(end_hz - 60.0) / 3.0
        events: list[Event] = [(0.0, ask(POWER))]
        events += slope("frequency_hz", (5.0, 60.0), (5.0 + move_s, end_hz))
        back = 5.0 + move_s + 299.0 - 2.0 * (2.0 / 3.0)
        events += slope("frequency_hz", (back, end_hz), (back + move_s, 60.0))
        lanes.append(lane(events, profile=profile, settings=settings))
    played = play(lanes, regular(0.1, 340.0), step_s=step_s)
    for d, end_hz in enumerate(ends):
        stays = float(np.mean(played.of("status", d) == ON_GRID))
        found.append(Check(f"{end_hz} Hz for 299 s at 3 Hz/s: no trip", stays, 1.0, 1.0))
        share = float(np.clip(POWER + droop(np.array([end_hz]))[0], -1.0, 1.0))
        span = WIDER * ACCURACY_W
        power_w = played.at("power_w", d, 200.0)
        found.append(Check(f"{end_hz} Hz: droop", power_w, RATED * share - span, RATED * share + span))
        after_w = played.at("power_w", d, 340.0)
        found.append(Check(f"{end_hz} Hz, after", after_w, RATED * POWER - span, RATED * POWER + span))
    return found


def all_checks(step_s: float = TICK_S) -> dict[str, Sequence[Check]]:
    """Return every test of this file, by name."""
    found: dict[str, Sequence[Check]] = {}
    categories: tuple[Category, ...] = ("I", "II", "III")
    for category in categories:
        name = f"voltage ride-through, category {category}, {REPEATS[category]} in a row (5.4.4, 5.4.7)"
        found[name] = voltage(category, step_s)
    found["frequency ride-through, 3 Hz/s (5.5.3, 5.5.4)"] = frequency(step_s)
    return found
