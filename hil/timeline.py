"""What happened at one home, in order: its rows, its outages, its recoveries.

Rules of this file: it reads the record and nothing else; it decides which promise holds when, and judges
nothing.  Definitions and their reasons: docs/judge.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .header import clock_text
from .promise import NS_PER_S, S_PER_H, Home, restore_s

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Flags = NDArray[np.bool_]

NEVER_NS: Final = 2**62
"""Later than any record."""

NEVER_S: Final = 1e9
"""Longer than any record."""

_ENERGIES: Final = ("energy_wh", "energy_wh_low", "energy_wh_high")
_POWERS: Final = (
    "power_w",
    "power_w_low",
    "power_w_high",
    "slew_w_per_s_high",
    "dead_import_w_high",
    "backup_load_w",
    "backup_served_w",
)


@dataclass(frozen=True, slots=True)
class Rows:
    """The truth about one home, all arrays of shape (rows,); row k covers ``(start_ns[k], t_ns[k]]``.

    At its end: `closed`, the transfer switch is closed onto the grid; `following`, the inverter also follows
    it; `island`, the panel is served alone or in a community island; `overload`, the inverter has tripped;
    `rejoin`, the home is dark for a moment before it closes.  `enterable`: the grid is good, and its voltage
    within the range in which a device may return.  The other names are the record's.
    """

    start_ns: Times
    t_ns: Times
    grid_good: Flags
    enterable: Flags
    closed: Flags
    following: Flags
    island: Flags
    overload: Flags
    rejoin: Flags
    status: NDArray[Any]
    energy_wh: Floats
    energy_wh_low: Floats
    energy_wh_high: Floats
    power_w: Floats
    power_w_low: Floats
    power_w_high: Floats
    slew_w_per_s_high: Floats
    dead_import_w_high: Floats
    backup_load_w: Floats
    backup_served_w: Floats

    def __len__(self) -> int:
        return len(self.t_ns)


@dataclass(frozen=True, slots=True)
class Episode:
    """From the loss of the grid, or the opening of the switch, until the switch is closed again.

    Attributes
    ----------
    first, last : int
        First row, and the row in which the switch closed or the record ended.
    start_ns : int
    obligation_wh : float
        Energy the home had to have when the grid was lost [Wh].
    """

    first: int
    last: int
    start_ns: int
    obligation_wh: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """From when the device can act until the next outage.

    Attributes
    ----------
    act_ns : int
        When the device can act.
    wait_ns : int
        Until when the operator may leave it idle.
    deadline_ns : int
        When the reserve must be there; `NEVER_NS` when the next outage, or the record's end, comes before
        the device can act.
    shut : int
        First row whose readiness is not judged because of the outage, or because the run began below reserve.
    first, end : int
        Rows of the recovery, `end` exclusive.
    """

    act_ns: int
    wait_ns: int
    deadline_ns: int
    shut: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """Everything the invariants need to know about one home."""

    home: Home
    rows: Rows
    episodes: tuple[Episode, ...]
    recoveries: tuple[Recovery, ...]
    start_of_day_ns: int
    level: str
    status_names: tuple[str, ...]

    def clock(self, t_ns: int) -> str:
        """Return a bench time as clock time."""
        return clock_text(int(t_ns), self.start_of_day_ns)


def rows_of(home: Home, columns: Mapping[str, NDArray[Any]], status_names: list[str]) -> Rows:
    """Return one home's rows from its columns of truth."""
    status = np.asarray(columns["status"])

    def within(*names: str) -> Flags:
        return np.isin(status, [status_names.index(name) for name in names])

    good, voltage_pu = np.asarray(columns["grid_good"]) != 0, columns["voltage_pu"]
    # Not known (records of version 1) counts as within.
    outside = (voltage_pu < home.enter_voltage_pu_low) | (voltage_pu > home.enter_voltage_pu_high)
    floats = {name: columns[name].astype(np.float64) for name in (*_ENERGIES, *_POWERS)}
    t_ns = np.asarray(columns["t_ns"], dtype=np.int64)
    return Rows(
        start_ns=t_ns - columns["dt_ns"],
        t_ns=t_ns,
        grid_good=good,
        enterable=good & ~outside,
        closed=within("on_grid", "enter"),
        following=within("on_grid"),
        island=within("island", "member"),
        overload=within("overload"),
        rejoin=within("rejoin"),
        status=status,
        **floats,
    )


def first_defect(columns: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> tuple[int, str]:
    """Return how many of one home's rows can be judged, and why not more.

    The reason is empty when all rows are sound and cover the run from its start to its end.
    """
    t_ns, dt_ns = columns["t_ns"], columns["dt_ns"]
    if len(t_ns) == 0:
        return 0, "no rows"
    begins = np.concatenate([[0], t_ns[:-1]])
    values = [columns[name] for name in (*_ENERGIES, *_POWERS)]
    finite = np.logical_and.reduce([np.isfinite(value) for value in values])
    status, good = columns["status"], columns["grid_good"]
    known = (status >= 0) & (status < len(header["status_names"])) & ((good == 0) | (good == 1))
    defects = (
        ((t_ns - dt_ns != begins) | (dt_ns <= 0), "a gap or an overlap in its rows"),
        (~finite, "a value that is not a number"),
        (~known, "a status or grid_good nobody knows"),
    )
    firsts = [(int(np.argmax(bad)), why) for bad, why in defects if bad.any()]
    if firsts:
        row, why = min(firsts)
        return row, f"{why} at {clock_text(int(begins[row]), header['start_of_day_ns'])}"
    if t_ns[-1] != header["duration_ns"]:
        found, wanted = (
            clock_text(int(t), header["start_of_day_ns"]) for t in (t_ns[-1], header["duration_ns"])
        )
        return len(t_ns), f"its rows end at {found}, the run ends at {wanted}"
    return len(t_ns), ""


def timeline_of(home: Home, rows: Rows, header: Mapping[str, Any]) -> Timeline:
    """Return a home's outages and recoveries."""
    episodes: list[Episode] = []
    recoveries: list[Recovery] = []
    spans = _outages(rows)
    first_outage = spans[0][0] if spans else len(rows)
    if len(rows) and _starts_below(home, rows):
        recoveries.append(_recovery(home, rows, shut=0, first=0, end=first_outage, act_ns=0, ramp_s=0.0))
    for k, (first, last) in enumerate(spans):
        start_ns = int(rows.start_ns[first])
        recovering = bool(recoveries) and start_ns < recoveries[-1].deadline_ns
        had_wh = rows.energy_wh[first - 1] if first else rows.energy_wh_high[0]
        obligation_wh = min(home.reserve_wh, float(had_wh)) if recovering else home.reserve_wh
        episodes.append(Episode(first, last, start_ns, obligation_wh))
        end = spans[k + 1][0] if k + 1 < len(spans) else len(rows)
        act_ns = _act_ns(home, rows, first, last, end)
        begun = int(np.searchsorted(rows.t_ns, act_ns))
        recoveries.append(
            _recovery(home, rows, shut=first, first=begun, end=end, act_ns=act_ns, ramp_s=home.enter_ramp_s)
        )
    return Timeline(
        home=home,
        rows=rows,
        episodes=tuple(episodes),
        recoveries=tuple(recoveries),
        start_of_day_ns=int(header["start_of_day_ns"]),
        level=header["level"],
        status_names=tuple(header["status_names"]),
    )


def _starts_below(home: Home, rows: Rows) -> bool:
    """Whether the home began the run below its reserve; the record has no row at time 0.

    The first row's low or high is the energy at its start, unless the energy turned within that row.
    """
    below_wh = home.reserve_wh - home.tolerance_wh
    rose = rows.energy_wh[0] > rows.energy_wh_low[0]
    return bool(rows.energy_wh_high[0] < below_wh or (rose and rows.energy_wh_low[0] < below_wh))


def _outages(rows: Rows) -> list[tuple[int, int]]:
    """Return first and last row of each episode; a grid that returns and fails before reclosing is one."""
    lost = np.flatnonzero(~rows.grid_good | ~rows.closed)  # a device may also trip on a grid that is there
    closed = np.flatnonzero(rows.grid_good & rows.closed)
    spans: list[tuple[int, int]] = []
    row = 0
    while (k := int(np.searchsorted(lost, row))) < len(lost):
        first = int(lost[k])
        c = int(np.searchsorted(closed, first))
        last = int(closed[c]) if c < len(closed) else len(rows) - 1
        spans.append((first, last))
        row = last + 1
    return spans


def _act_ns(home: Home, rows: Rows, first: int, last: int, end: int) -> int:
    """Return when the device can act after an episode.

    The grid must be fit to return to for the enter-service delay; an island waits for it with its switch
    open, synchronises, and may be dark for a moment; a home without a live bus recloses at once and waits in
    `enter`.  The record may show that it acted earlier, never that it was allowed to act later.
    """
    if not rows.grid_good[last]:
        return NEVER_NS
    unfit = np.flatnonzero(~rows.enterable[first : last + 1])
    # A device that tripped although the grid was fit counts from the row in which it opened.
    restored_ns = int(rows.t_ns[first + int(unfit[-1])]) if len(unfit) else int(rows.t_ns[first])
    allowed_ns = restored_ns + home.enter_delay_ns + home.return_ns
    if not rows.closed[last]:
        return allowed_ns
    allowed_ns = min(allowed_ns, int(rows.t_ns[last]))
    if rows.following[last]:
        return allowed_ns
    following = np.flatnonzero(rows.following[last:end])
    seen_ns = int(rows.t_ns[last + int(following[0])]) if len(following) else NEVER_NS
    return min(_waited_ns(home, rows, last, end, allowed_ns), seen_ns)


def _waited_ns(home: Home, rows: Rows, last: int, end: int, since_ns: int) -> int:
    """Return when the grid has been fit for the enter-service delay without a break; else `NEVER_NS`."""
    unfit = np.flatnonzero(~rows.enterable[last:end])
    begins_ns = np.concatenate([[since_ns], np.maximum(rows.t_ns[last + unfit], since_ns)])
    breaks_ns = np.concatenate([rows.start_ns[last + unfit], [NEVER_NS]])
    long = np.flatnonzero(breaks_ns - begins_ns >= home.enter_delay_ns)
    return int(begins_ns[long[0]]) + home.enter_delay_ns


def _recovery(
    home: Home, rows: Rows, *, shut: int, first: int, end: int, act_ns: int, ramp_s: float
) -> Recovery:
    """Return the recovery whose device can act at `act_ns`, which is in row `first`."""
    if first >= end:
        return Recovery(act_ns, NEVER_NS, NEVER_NS, shut, end, end)
    # Low, not mean: the row may begin before the device can act.
    missing_wh = home.reserve_wh - float(rows.energy_wh_low[first])
    needed_s = restore_s(home, missing_wh, ramp_s)
    deadline_ns = act_ns + int(np.ceil(needed_s * NS_PER_S)) if needed_s < NEVER_S else NEVER_NS
    wait_ns = act_ns + round(home.recovery_s * NS_PER_S)
    return Recovery(act_ns, wait_ns, deadline_ns, shut, first, end)


def hours_of(rows: Rows, mask: Flags | slice) -> float:
    """Return how long the rows of a mask last together [h]."""
    return float(np.sum(rows.t_ns[mask] - rows.start_ns[mask])) / NS_PER_S / S_PER_H
