"""Pass bands of the type tests, after IEEE 1547.1-2020, with the accuracies of IEEE 1547-2018, table 3.

Duty: one `Check` per measured value, with the band it must lie in; and the step test of a function with an
open loop response.  A band is widened by 1.5 times the minimum accuracy, as 1547.1 does.

Rule of this file: expectations come from `witness` and the numbers of the standard, never from settings in
the form the emulator computes with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tests.conformance.der_bench import TICK_S, Played
from tests.conformance.witness import RATED, Curve

ACCURACY_W: Final = 0.05 * RATED
ACCURACY_VAR: Final = 0.05 * RATED
ACCURACY_PU: Final = 0.01
ACCURACY_HZ: Final = 0.01
WIDER: Final = 1.5

Function = Callable[[float], float]


@dataclass(frozen=True)
class Check:
    """One measured value and its band."""

    what: str
    value: float
    low: float
    high: float

    @property
    def held(self) -> bool:
        """Whether the value lies in its band."""
        return self.low - 1e-9 <= self.value <= self.high + 1e-9

    @property
    def used(self) -> float:
        """Distance from the middle, of half the band [1]; 1 is the edge."""
        half = 0.5 * (self.high - self.low)
        off = abs(self.value - 0.5 * (self.high + self.low))
        return off / half if half > 0.0 else (0.0 if off <= 1e-9 else float("inf"))


def failed(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that did not hold; there must be something to check."""
    assert checks, "nothing was checked"
    return [check for check in checks if not check.held]


def accuracy_s(seconds: float) -> float:
    """Return the accuracy of a time: two cycles, or 1 % from 5 s on (table 3)."""
    return 0.01 * seconds if seconds >= 5.0 else 2.0 / 60.0


@dataclass(frozen=True)
class StepTest:
    """Levels of one quantity that are held in turn, and what another must be.

    Attributes
    ----------
    levels : sequence of float
        The first is where the device rests; each later one begins `dwell_s` after the one before.
    target : Function
        What is asked at a level, at rest.
    response_s : float
        Open loop response time [s].
    accuracy_x, accuracy_y : float
        Accuracies of the two quantities.
    free : callable
        Levels at which the function leaves the device alone: to be there sooner is not wrong.
    """

    levels: Sequence[float]
    target: Function
    response_s: float
    dwell_s: float
    accuracy_x: float
    accuracy_y: float = ACCURACY_VAR
    free: Callable[[float], bool] = lambda _: False

    @property
    def times_s(self) -> list[float]:
        """When each level begins."""
        return [k * self.dwell_s for k in range(len(self.levels))]

    @property
    def samples_s(self) -> list[float]:
        """When something is measured."""
        return [t + d for t in self.times_s for d in (self.response_s, self.dwell_s)]

    def checks(self, played: Played, name: str, d: int, label: str) -> list[Check]:
        """Return the checks of one device: on the way, at the response time; and at rest.

        On the way: ``y(T) = y0 + (f(x) - y0)(1 - 10^(-T/Tr))`` at Tr, give or take 1.5 times the accuracies
        of time and y, from the measured y0.  At rest: f at x, give or take 1.5 times both accuracies.
        """
        found = []
        for k, x in list(enumerate(self.levels))[1:]:
            begin = self.times_s[k]
            y0, y1 = played.at(name, d, begin), self.target(x)
            late = WIDER * accuracy_s(self.response_s)
            ways = [
                y0 + (y1 - y0) * (1.0 - 10.0 ** (-t / self.response_s))
                for t in (self.response_s - late, self.response_s, self.response_s + late)
            ]
            if self.free(x):
                ways.append(y1)
            span = WIDER * self.accuracy_y
            after = played.at(name, d, begin + self.response_s)
            what = f"{label}, step {k} to {x:.4g}"
            found.append(Check(f"{what}, at Tr", after, min(ways) - span, max(ways) + span))
            rests = [self.target(x + e * WIDER * self.accuracy_x) for e in np.linspace(-1.0, 1.0, 9)]
            rest = played.at(name, d, begin + self.dwell_s)
            found.append(Check(f"{what}, at rest", rest, min(rests) - span, max(rests) + span))
        return found


def volt_var_levels(curve: Curve, *, low: float = 0.88, high: float = 1.10) -> list[float]:
    """Return the voltages of the volt-var test (5.14.4): every knee from both sides, both directions.

    The whole steps at the end are ours: between the knees a response three times too slow stays in the band.
    """
    (v1, _), (v2, _), (v3, _), (v4, _) = curve
    e = WIDER * ACCURACY_PU
    up = [v3 - e, v3 + e, 0.5 * (v3 + v4), v4 - e, v4 + e, high]
    down = [v2 + e, v2 - e, 0.5 * (v1 + v2), v1 + e, v1 - e, low]
    walk = [1.0, *up, *reversed(up[:-1]), 1.0, *down, *reversed(down[:-1]), 1.0, high, low, 1.0]
    return [min(max(v, low), high) for v in walk]


def volt_watt_levels(curve: Curve, *, low: float = 0.88, high: float = 1.10) -> list[float]:
    """Return the voltages of the volt-watt test (5.14.9)."""
    (v1, _), (v2, _) = curve
    e = WIDER * ACCURACY_PU
    up = [low + e, v1 - e, v1 + e, 0.5 * (v1 + v2), v2 - e, v2 + e, high]
    return [min(max(v, low), high) for v in (1.0, *up, *reversed(up[:-1]))]


def droop_levels(dead_hz: float, small_hz: float, end_hz: float) -> list[float]:
    """Return the frequencies of the droop tests (5.15.2, 5.15.3), towards `end_hz`."""
    side = 1.0 if end_hz > 60.0 else -1.0
    e = WIDER * ACCURACY_HZ
    edge = 60.0 + side * dead_hz
    out = [edge - side * e, edge + side * e, edge + side * small_hz, end_hz - side * e]
    return [60.0, *out, end_hz - side * small_hz, edge + side * e, edge - side * e, 60.0]


def on_ticks(times_s: Sequence[float]) -> np.ndarray:
    """Return times in order, each once, on the emulator's grid of 20 ms."""
    return np.array(sorted({round(t / TICK_S) for t in times_s}), dtype=np.float64) * TICK_S
