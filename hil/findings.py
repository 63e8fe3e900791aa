"""What an invariant found, and the words for it.

Rule of this file: values and their wording only; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .timeline import Flags, Floats, Rows, Times

LISTED_MAX: Final = 20
"""Breaches of one invariant at one home that are kept in full; all are counted."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One unbroken stretch of rows that break one invariant.

    Attributes
    ----------
    t_ns, worst_ns : int
        End of the first and of the worst row [ns].
    margin : float
        How far beyond the limit, negative, in `unit`.
    unit : str
    facts : str
        What happened, to follow the home's name in a sentence.
    """

    t_ns: int
    worst_ns: int
    margin: float
    unit: str
    facts: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one invariant says about one home.

    Attributes
    ----------
    count : int
        Breaches found.
    breaches : tuple of Breach
        The first `LISTED_MAX` of them, in order of time.
    judged_h : float
        Hours in which the invariant was judged; 0 means that "held" says nothing [h].
    excused_h : float
        Hours in which the promise was suspended [h].
    margin_kwh : float or None
        Least distance from the limit, negative when broken; None when no energy was judged [kWh].
    margin_ns : int or None
        When that was [ns].
    """

    count: int
    breaches: tuple[Breach, ...]
    judged_h: float
    excused_h: float
    margin_kwh: float | None = None
    margin_ns: int | None = None

    @property
    def held(self) -> bool:
        """Whether no breach was found."""
        return self.count == 0


Facts = Callable[[int, int, int], str]
"""Words for a breach, from its first, its worst and its last row."""


def stretches(bad: Flags) -> list[tuple[int, int]]:
    """Return first and last index of each unbroken run of True."""
    edges = np.flatnonzero(np.diff(bad.astype(np.int8), prepend=0, append=0))
    return [(int(first), int(stop) - 1) for first, stop in zip(edges[::2], edges[1::2], strict=True)]


def breaches_of(rows: Rows, bad: Flags, margin: Floats, unit: str, facts: Facts) -> tuple[int, list[Breach]]:
    """Return how many breaches there are, and the first of them in full.

    Parameters
    ----------
    rows : Rows
    bad : Flags, shape (rows,)
    margin : Floats, shape (rows,)
        Distance from the limit, least where it is worst, in `unit`.
    unit : str
    facts : callable
    """
    found = stretches(bad)
    listed = []
    for first, last in found[:LISTED_MAX]:
        worst = first + int(np.argmin(margin[first : last + 1]))
        t_ns, worst_ns = int(rows.t_ns[first]), int(rows.t_ns[worst])
        listed.append(Breach(t_ns, worst_ns, float(margin[worst]), unit, facts(first, worst, last)))
    return len(found), listed


def finding_of(
    found: Sequence[tuple[int, list[Breach]]],
    judged_h: float,
    excused_h: float,
    margin_wh: Floats,
    t_ns: Times,
) -> Finding:
    """Return a finding from the results of `breaches_of`.

    `margin_wh` and `t_ns` are those of everything judged; empty where no energy was.
    """
    count = sum(n for n, _ in found)
    listed = sorted((breach for _, some in found for breach in some), key=lambda breach: breach.t_ns)
    breaches = tuple(listed[:LISTED_MAX])
    if len(margin_wh) == 0:
        return Finding(count, breaches, judged_h, excused_h)
    k = int(np.argmin(margin_wh))
    return Finding(count, breaches, judged_h, excused_h, float(margin_wh[k]) / 1000.0, int(t_ns[k]))


def energy_text(energy_wh: float) -> str:
    """Return an energy for a sentence: 1.84 kWh, 35 Wh."""
    return f"{energy_wh / 1000.0:.2f} kWh" if abs(energy_wh) >= 1000.0 else f"{energy_wh:.3g} Wh"


def power_text(power_w: float) -> str:
    """Return a power for a sentence: 5.0 kW, 900 W."""
    return f"{power_w / 1000.0:.1f} kW" if abs(power_w) >= 1000.0 else f"{power_w:.3g} W"
