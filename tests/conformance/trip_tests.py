"""Type tests of tripping by voltage and frequency (IEEE 1547.1-2020, 5.4.2, 5.5.1, 5.5.2).

Duty: magnitude and time of each of the eight limits, categories I to III, and at the ends of the adjustable
times.  A trip is seen in the operating state: momentary cessation takes the power away before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from ridethrough.emulator.grid_settings import GridSettings, default_settings

from tests.conformance.criteria import ACCURACY_HZ, ACCURACY_PU, Check, accuracy_s, on_ticks
from tests.conformance.der_bench import (
    ENTER,
    TICK_S,
    Event,
    Played,
    ask,
    device,
    lane,
    must_trip,
    play,
    regular,
    with_must_trip,
)

Category = Literal["I", "II", "III"]
Planted = Callable[[float], float]
CATEGORIES: Final[tuple[Category, ...]] = ("I", "II", "III")


def as_set(seconds: float) -> float:
    """Return the time that is set: the device under test trips by it."""
    return seconds


@dataclass(frozen=True)
class Limit:
    """One trip limit of the standard.

    Attributes
    ----------
    side, level
        Where the setting is.
    at : float
        The limit [pu or Hz].
    seconds : tuple of float
        Clearing times to test: from the factory, and an end of the adjustable range.
    beyond : float
        Where the time is tested: past this limit and not past the next.
    """

    name: str
    side: str
    level: int
    at: float
    seconds: tuple[float, ...]
    beyond: float

    @property
    def quantity(self) -> str:
        """The input that the limit watches."""
        return "frequency_hz" if "frequency" in self.side else "voltage_pu"

    @property
    def field(self) -> str:
        """Stem of the limit's fields in CONTROL."""
        return f"{self.side.split('_')[0]}_{self.side.split('_')[1][0]}{self.level}"

    @property
    def nominal(self) -> float:
        """The input's nominal value."""
        return 60.0 if "frequency" in self.side else 1.0


def limits(category: Category) -> list[Limit]:
    """Return the limits of a category: tables 11 to 13 and 18, times as 1547a-2020 allows them."""
    uv1 = {"I": (0.70, (2.0, 21.0)), "II": (0.70, (10.0, 2.0)), "III": (0.88, (21.0, 2.0))}[category]
    uv2 = {"I": (0.45, (0.16, 2.0)), "II": (0.45, (0.16, 2.0)), "III": (0.50, (2.0, 0.16))}[category]
    ov1 = {"I": (2.0, 1.0), "II": (2.0, 13.0), "III": (13.0, 1.0)}[category]
    return [
        Limit("OV1", "over_voltage", 1, 1.10, ov1, 1.15),
        Limit("OV2", "over_voltage", 2, 1.20, (0.16,), 1.25),
        Limit("UV1", "under_voltage", 1, uv1[0], uv1[1], uv1[0] - 0.08),
        Limit("UV2", "under_voltage", 2, uv2[0], uv2[1], 0.20),
        Limit("OF1", "over_frequency", 1, 61.2, (300.0, 180.0), 61.6),
        Limit("OF2", "over_frequency", 2, 62.0, (0.16, 5.0), 63.0),
        Limit("UF1", "under_frequency", 1, 58.5, (300.0, 180.0), 57.5),
        Limit("UF2", "under_frequency", 2, 56.5, (0.16, 5.0), 55.5),
    ]


def _with_time(settings: GridSettings, limit: Limit, seconds: float) -> GridSettings:
    must = list(must_trip(settings, limit.side))
    must[limit.level - 1] = (must[limit.level - 1][0], seconds)
    if limit.level == 2 and seconds > must[0][1]:
        must[0] = (must[0][0], seconds)
    return with_must_trip(settings, limit.side, must)


def times(category: Category, step_s: float, planted_s: Planted = as_set) -> list[Check]:
    """Return the checks of every clearing time of a category; `planted_s` says the times of a wrong device.

    A stay of half the time beyond the limit must not count towards the one that follows after half a second.
    No later than the setting; no earlier than the setting less the accuracy of times.
    """
    profile = device(grid={"abnormal": category})
    base = default_settings(profile)
    cases = [(x, seconds) for x in limits(category) for seconds in x.seconds]
    found = []
    for long in (False, True):
        some = [(x, s) for x, s in cases if (s >= 100.0) is long]
        lanes, begins = [], []
        for x, seconds in some:
            begins.append(1.5 + 0.5 * seconds)
            moves = ((1.0, x.beyond), (1.0 + 0.5 * seconds, x.nominal), (begins[-1], x.beyond))
            own = {f"{x.field}_ticks": float(round(planted_s(seconds) / TICK_S))}
            events: list[Event] = [(0.0, {**ask(0.6), **own})]
            events += [(t, {x.quantity: value}) for t, value in moves]
            lanes.append(
                lane(
                    events,
                    profile=profile,
                    settings=_with_time(_other_limits_away(base, x), x, seconds),
                )
            )
        ends = [begin + seconds for begin, (_, seconds) in zip(begins, some, strict=True)]
        edges = [np.arange(end - 2.0, end + 2.0, TICK_S) for end in set(ends)]
        whole = regular(step_s, max(ends) + 3.0)
        sample_s = on_ticks([t for t in np.concatenate([whole, *edges]) if t > 0.0])
        played = play(lanes, sample_s, step_s=step_s)
        for d, ((x, seconds), begin) in enumerate(zip(some, begins, strict=True)):
            lasted_s = _on_until(played, d) - begin
            found.append(
                Check(f"{x.name} {category}, {seconds} s", lasted_s, seconds - accuracy_s(seconds), seconds)
            )
    return found


def _on_until(played: Played, d: int) -> float:
    """Return the end of the last sample before a device went off; far away when it did not."""
    off = np.flatnonzero(played.of("status", d) == ENTER)
    return float(played.time_s[off[0] - 1]) if off.size and off[0] > 0 else 1e6


def magnitudes(category: Category, shift: float = 0.0) -> list[Check]:
    """Return the checks of every limit of a category: a staircase up to it, each stair held past the time.

    The stair on which the device trips is the limit it has.  `shift`, in accuracies and away from nominal,
    plants a wrong device.
    """
    profile = device(grid={"abnormal": category})
    base = default_settings(profile)
    found = []
    for x in limits(category):
        accuracy = ACCURACY_HZ if x.nominal == 60.0 else ACCURACY_PU
        sign = 1.0 if x.side.startswith("over") else -1.0
        seconds = min(x.seconds)
        hold_s = seconds + max(0.5, 0.05 * seconds)
        stairs = [x.at + sign * accuracy * (k / 4.0 - 2.875) for k in range(24)]
        unit = "hz" if x.nominal == 60.0 else "pu"
        planted = x.at + sign * shift * accuracy
        own = {f"{x.field}_{unit}": planted}
        if sign > 0.0:
            # The step looks for trips only beyond what follows from the settings: here, too, the planted one.
            own[f"calm_high_{unit}"] = min(planted, 1.02 * 60.0 if unit == "hz" else 1.10)
        events: list[Event] = [(0.0, {**ask(0.6), **own})]
        events += [(1.0 + hold_s * k, {x.quantity: value}) for k, value in enumerate(stairs)]
        settings = _with_time(_other_limits_away(base, x), x, seconds)
        lanes = [lane(events, profile=profile, settings=settings)]
        sample_s = np.round(1.0 + hold_s * np.arange(1, len(stairs) + 1), 2)
        played = play(lanes, sample_s)
        stair = round((_on_until(played, 0) - 1.0) / hold_s)
        value = stairs[stair] if 0 <= stair < len(stairs) else float("nan")
        found.append(Check(f"{x.name} {category}, magnitude", value, x.at - accuracy, x.at + accuracy))
    return found


def _other_limits_away(settings: GridSettings, x: Limit) -> GridSettings:
    """Return settings whose other level on the same side cannot trip during the staircase."""
    if x.level == 1:
        return settings
    first, second = must_trip(settings, x.side)
    longest = {"over_voltage": 13.0, "under_voltage": 21.0}.get(x.side, 1000.0)
    return with_must_trip(settings, x.side, [(first[0], longest), second])


def all_checks(step_s: float = TICK_S) -> dict[str, Sequence[Check]]:
    """Return every test of this file, by name."""
    found: dict[str, Sequence[Check]] = {}
    for category in CATEGORIES:
        found[f"trip times, category {category} (5.4.2, 5.5)"] = times(category, step_s)
        found[f"trip magnitudes, category {category} (5.4.2, 5.5)"] = magnitudes(category)
    return found
