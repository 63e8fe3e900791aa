"""Witnesses of the broker's faults: whether a record shows one acting.

Rules of this file: as the matrix test says.  The probe commands each device once a minute, so a command
between two minutes, or a minute without one, is the broker's doing.  At the hardware level a command leaves a
little after its instant, and that of the very start of an event may still pass.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from ridethrough.hil.faults import Event
from ridethrough.hil.record import Record

Witness = Callable[[Record, int, Event], str | None]
Sent = list[tuple[float, float, float]]

LATE_S = 12.0
"""A command may leave this late, on a machine that is busy [s]."""
MINUTE_S = 60.0
VALIDITY_S = 90.0


def sent(record: Record, d: int) -> Sent:
    """Return what left the broker for a device: time [s], power [W] and validity [s], in order of time."""
    mine = record.commands["device"] == d
    rows = (record.commands[name][mine].tolist() for name in ("t_ns", "power_w", "validity_s"))
    return sorted((t_ns / 1e9, power_w, validity_s) for t_ns, power_w, validity_s in zip(*rows, strict=True))


def between(commands: Sent, begin_s: float, end_s: float) -> Sent:
    return [command for command in commands if begin_s <= command[0] < end_s]


def span_s(event: Event) -> tuple[float, float]:
    return event.start_ns / 1e9, event.end_ns / 1e9


def before_is_plain(record: Record, d: int, event: Event) -> str | None:
    """Object unless the device was commanded once a minute before the event."""
    start_s, _ = span_s(event)
    times = [t_s for t_s, _, _ in between(sent(record, d), 0.0, start_s - 1.0)]
    if len(times) != round(start_s / MINUTE_S):
        return f"{len(times)} commands before the fault instead of one a minute"
    odd = [t_s for t_s in times if t_s % MINUTE_S > LATE_S]
    return f"commands between the minutes before the fault, at {odd}" if odd else None


def silence(record: Record, d: int, event: Event) -> str | None:
    start_s, end_s = span_s(event)
    inside = between(sent(record, d), start_s + LATE_S, end_s - 1.0)
    if inside:
        return (
            f"{len(inside)} commands reached the device during the fault, the first at {inside[0][0]:.0f} s"
        )
    if not between(sent(record, d), end_s - 1.0, np.inf):
        return "no command came through after the fault either"
    return before_is_plain(record, d, event)


def instants(event: Event, first: int = 0) -> list[float]:
    """Return when something happens every period of an event, and no command of the probe is due [s]."""
    start_s, end_s = span_s(event)
    period_s = float(event.params["period_s"])
    count = int(np.ceil((end_s - start_s) / period_s))
    return [start_s + k * period_s for k in range(first, count) if (k * period_s) % MINUTE_S > LATE_S]


def retained(record: Record, d: int, event: Event) -> str | None:
    commands = sent(record, d)
    # The command of the very start may be the one that is kept.
    kept = {power_w for _, power_w, _ in between(commands, 0.0, span_s(event)[0] + LATE_S)[-2:]}
    for t_s in instants(event):
        again = [power_w for _, power_w, _ in between(commands, t_s - 1.0, t_s + LATE_S)]
        kept &= set(again)
        if len(again) != 1 or not kept:
            return f"at {t_s:.0f} s the last command of before did not come again: {again}"
    return before_is_plain(record, d, event)


def stale(record: Record, d: int, event: Event) -> str | None:
    start_s, _ = span_s(event)
    period_ns = round(float(event.params["period_s"]) * 1e9)
    mine = record.telemetry["device"] == d
    columns = {name: column[mine] for name, column in record.telemetry.items()}
    known: NDArray[np.bool_] = columns["received_ns"] < event.start_ns
    for t_ns in range(event.start_ns, event.end_ns, period_ns):
        again = (columns["received_ns"] == t_ns) & (columns["measured_ns"] == t_ns)
        if not again.any():
            return f"no old reading came again at {t_ns / 1e9:.0f} s"
        same = known.copy()
        for name in ("soc_frac", "power_w", "import_w"):
            same &= columns[name] == columns[name][again][0]
        if not same.any():
            return f"what came at {t_ns / 1e9:.0f} s was not a reading of before {start_s:.0f} s"
    before = (columns["received_ns"] < event.start_ns) & (columns["received_ns"] % period_ns == 0)
    return "readings arrive at such instants anyway" if before.sum() > 1 else None


def queue(record: Record, d: int, event: Event) -> str | None:
    start_s, end_s = span_s(event)
    back_s = start_s + float(event.params["offline_s"])
    commands = sent(record, d)
    inside = between(commands, start_s + LATE_S, back_s - 1.0)
    if inside:
        return f"a command came through at {inside[0][0]:.0f} s, while the device was away"
    late = between(commands, back_s - 1.0, end_s)
    if {power_w > 0.0 for _, power_w, _ in late if power_w} != {True, False}:
        return f"old commands of both signs did not come from {back_s:.0f} s on: {late}"
    if not any(t_s % MINUTE_S > LATE_S for t_s, _, _ in late):
        return "what came, came in time"
    return before_is_plain(record, d, event)


def duplicate(record: Record, d: int, event: Event) -> str | None:
    start_s, end_s = span_s(event)
    delay_s = float(event.params["delay_s"])
    commands = sent(record, d)
    for minute_s in np.arange(start_s + MINUTE_S, end_s - delay_s - LATE_S, MINUTE_S).tolist():
        first = between(commands, minute_s, minute_s + LATE_S)
        again = between(commands, minute_s + delay_s, minute_s + delay_s + LATE_S)
        if len(first) != 1 or [c[1:] for c in again] != [c[1:] for c in first]:
            return f"the command of {minute_s:.0f} s did not come again: {first}, then {again}"
    return before_is_plain(record, d, event)


def reorder(record: Record, d: int, event: Event) -> str | None:
    start_s, end_s = span_s(event)
    gap_s = float(event.params["gap_s"])
    inside = between(sent(record, d), start_s + LATE_S, end_s - 1.0)
    for second, first in pairwise(inside):
        follows = 0.5 * gap_s <= first[0] - second[0] <= gap_s + LATE_S
        held = not between(inside, second[0] - MINUTE_S - 1.0, second[0] - 1.0)
        if follows and held and first[1] == -second[1]:
            return before_is_plain(record, d, event)
    return f"no command came right after the one that followed it: {inside}"


def takeover(record: Record, d: int, event: Event) -> str | None:
    sign = -1.0 if event.params["aim"] == "charge" else 1.0
    validity_s = float(event.params["validity_s"])
    commands = sent(record, d)
    for t_s in instants(event):
        forged = [c for c in between(commands, t_s - 1.0, t_s + LATE_S) if c[2] == validity_s]
        if [c for c in forged if sign * c[1] > 0.0] == []:
            return f"nobody else commanded it at {t_s:.0f} s"
    return before_is_plain(record, d, event)


WITNESSES: dict[str, Witness] = {
    "broker.restart": silence,
    "broker.retained-command": retained,
    "broker.stale-state": stale,
    "broker.session-queue": queue,
    "broker.lost-subscription": silence,
    "broker.duplicate": duplicate,
    "broker.reorder": reorder,
    "broker.false-success": silence,
    "broker.takeover": takeover,
}
NEEDS: dict[str, str] = {}
OUTAGE: frozenset[str] = frozenset()
