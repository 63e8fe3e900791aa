"""Compares a trace of OpenDER with what the emulated device did, and says what was worst.

Duty: one `Found` per case and step length.  Deviation counts against the band at its own step; the worst is
the one that uses most of its band.  Around a change of state, which the two may see a step apart, powers are
not compared; there the times of the change are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tests.conformance.cases import Case
from tests.conformance.der_bench import CESSATION, ENTER, Lane, Played, held, play
from tests.conformance.opender_live import Trace
from tests.conformance.witness import RATED, Floats, steps


@dataclass(frozen=True)
class Worst:
    """Where a quantity used most of its band."""

    deviation: float
    band: float
    time_s: float

    @property
    def used(self) -> float:
        """Share of the band [1]."""
        return self.deviation / self.band


@dataclass(frozen=True)
class Found:
    """What the comparison of one case found."""

    name: str
    step_s: float
    rows: int
    power: Worst
    reactive: Worst
    states: tuple[str, ...]
    states_of_opender: tuple[str, ...]
    shift_s: float
    shift_s_most: float

    @property
    def agrees(self) -> bool:
        """Whether all of it lies within what discretisation allows."""
        return (
            self.power.used <= 1.0
            and self.reactive.used <= 1.0
            and self.states == self.states_of_opender
            and self.shift_s <= self.shift_s_most + 1e-6
        )


def replay(case: Case, trace: Trace, step_s: float) -> Played:
    """Return what the emulated device does with a case, at the times of a trace."""
    events = sorted([*held(case.segments), *case.events], key=lambda event: event[0])
    return play(
        [Lane(tuple(events), case.in_force, case.profile, case.soc_frac)], trace.time_s, step_s=step_s
    )


def compare(case: Case, trace: Trace, played: Played, step_s: float) -> Found:
    """Compare one case."""
    ends, inputs = steps(case.segments, case.step_s, case.end_s)
    bands = case.band(inputs[:, 0], inputs[:, 1], inputs[:, 2] * RATED, case.step_s)
    lead_w = case.moving_w_per_s * (case.step_s + step_s)
    at = np.minimum(np.searchsorted(ends, trace.time_s - 1e-6), ends.size - 1)
    states = states_of(played)
    theirs, ours = _changes(trace.time_s, trace.state), _changes(trace.time_s, states)
    # A step of each; and OpenDER's timers, sums of floats, may need one more (defect 7).
    most_s = 2.0 * case.step_s + step_s
    apart = np.ones(trace.time_s.size, dtype=np.bool_)
    for time_s, _ in (*theirs[1:], *ours[1:]):
        apart &= np.abs(trace.time_s - time_s) > most_s
    shift = max((abs(a - b) for (a, _), (b, _) in zip(theirs, ours, strict=False)), default=0.0)
    return Found(
        case.name,
        step_s,
        int(apart.sum()),
        _worst(played.of("power_w", 0) - trace.power_w, bands[0][at] + lead_w, trace.time_s, apart),
        _worst(played.of("reactive_var", 0) - trace.reactive_var, bands[1][at], trace.time_s, apart),
        tuple(state for _, state in ours),
        tuple(state for _, state in theirs),
        shift,
        max(most_s, trace.time_s[1] - trace.time_s[0]) if len(theirs) > 1 else most_s,
    )


def states_of(played: Played) -> tuple[str, ...]:
    """Return the states of a device as `opender_live.state_of` names them."""
    off, ceased = played.of("status", 0) == ENTER, played.of("ride", 0) == CESSATION
    return tuple("off" if o else "ceased" if c else "on" for o, c in zip(off, ceased, strict=True))


def _changes(time_s: Floats, states: tuple[str, ...]) -> list[tuple[float, str]]:
    """Return each state with the time of the first row that shows it."""
    later = [(float(t), b) for t, (a, b) in zip(time_s[1:], pairwise(states), strict=True) if a != b]
    return [(float(time_s[0]), states[0]), *later]


def _worst(difference: Floats, band: Floats, time_s: Floats, counts: np.ndarray) -> Worst:
    size = np.where(counts, np.abs(difference), 0.0)
    k = int(np.argmax(size / band))
    return Worst(float(size[k]), float(band[k]), float(time_s[k]))
