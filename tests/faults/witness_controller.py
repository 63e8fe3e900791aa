"""Witnesses of the controller's faults: whether a record shows one acting.

Rules of this file: the controller is `Echo`, not the probe, for a fault of the controller shows only in one
that remembers, looks at the clock, the grid and the forecast, and says in its commands what it saw.  At the
hardware level a decision is a little late, and one at the edge of an event may miss it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from ridethrough.controllers.contract import Commands, Pool, Telemetry
from ridethrough.hil.faults import Event
from ridethrough.hil.record import Record

Witness = Callable[[Record, int, Event], str | None]

CONTROLLER: Final = "tests.faults.witness_controller:Echo"
"""Who has to run when these witnesses are asked."""

PERIOD_S = 30.0
LATE_S = 12.0
"""A command may leave this late, on a machine that is busy [s]."""
POWER_W, BLIND_W = 2000.0, 1000.0
VALIDITY_S = 120.0
RESERVE_FRAC = 0.5
BLIND_S = 25.0
"""A change at the device has reached the controller by then [s]."""


class Echo:
    """Alternates between discharging and charging by its own count, and says what it is shown.

    The power is 2000 W and as many watts as the first price ahead is dollars, 1000 W without one; the
    validity is 120 s and as many seconds as the clock has hours.  Each instance writes the reserve once, at
    its first decision.  An islanded home is left alone.
    """

    period_s = PERIOD_S

    def enroll(self, pool: Pool) -> None:
        self._has_reserve = pool.capabilities.has_reserve
        self._count = 0

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        ahead = telemetry.prices.ahead_usd_per_mwh
        known = len(ahead) > 0 and bool(np.isfinite(ahead).all())
        power_w = POWER_W + float(ahead[0]) if known else BLIND_W
        power_w = power_w if self._count % 2 == 0 else -power_w
        first = self._count == 0
        self._count += 1
        islanded = telemetry.grid_good == 0.0
        validity_s = VALIDITY_S + float(now_ns // 3_600_000_000_000)
        return Commands(
            power_w=np.where(islanded, np.nan, power_w),
            validity_s=np.where(islanded, np.nan, validity_s),
            reserve_soc_frac=np.where(self._has_reserve & first, RESERVE_FRAC, np.nan),
        )


class Row(NamedTuple):
    """One command to the device: its time [s], and what it says."""

    t_s: float
    power_w: float
    validity_s: float
    reserve_frac: float

    @property
    def is_new(self) -> bool:
        """Whether it is the first that an instance has commanded."""
        return self.reserve_frac == RESERVE_FRAC

    def is_in_time(self, after_s: float = 0.0) -> bool:
        """Tell whether it left so long after a decision was due."""
        return (self.t_s - after_s) % PERIOD_S <= LATE_S


class Seen(NamedTuple):
    """All commands to the device: before, during and after an event, and at its beginning."""

    before: list[Row]
    during: list[Row]
    after: list[Row]
    at_start: list[Row]


def seen(record: Record, d: int, event: Event) -> Seen:
    mine = record.commands["device"] == d
    names = ("t_ns", "power_w", "validity_s", "reserve_soc_frac")
    columns = (record.commands[name][mine].tolist() for name in names)
    rows = sorted(Row(t_ns / 1e9, *said) for t_ns, *said in zip(*columns, strict=True))
    start_s, end_s = event.start_ns / 1e9, event.end_ns / 1e9
    return Seen(
        before=[row for row in rows if row.t_s < start_s - 1.0],
        during=[row for row in rows if start_s + LATE_S < row.t_s < end_s - 1.0],
        after=[row for row in rows if row.t_s > end_s + LATE_S],
        at_start=[row for row in rows if start_s - 1.0 <= row.t_s <= start_s + LATE_S],
    )


def plain(rows: list[Row], when: str) -> str | None:
    """Object unless these are commands of an undisturbed Echo: in time, alternating, from one instance."""
    if len(rows) < 4:
        return f"only {len(rows)} commands {when} the fault"
    odd = [row for row in rows if not row.is_in_time()]
    if odd:
        return f"a command {when} the fault that nobody's turn explains, at {odd[0].t_s:.0f} s"
    same = [b for a, b in pairwise(rows) if (a.power_w > 0.0) == (b.power_w > 0.0)]
    if len(same) > 1:  # one may have been lost
        return f"commands {when} the fault do not alternate, at {same[0].t_s:.0f} s"
    late = [row for row in rows[1:] if row.is_new]
    return f"a new instance {when} the fault, at {late[0].t_s:.0f} s" if late else None


def crash(record: Record, d: int, event: Event) -> str | None:
    found = seen(record, d, event)
    if found.during:
        return f"a controller that is down commanded at {found.during[0].t_s:.0f} s"
    if event.params["restart"] == "never":
        return plain(found.before, "before") or ("it came back" if found.after else None)
    if not any(row.t_s >= event.end_ns / 1e9 - 1.0 for row in new_rows(record, d)):
        return "no new instance came after the fault"
    return plain(found.before, "before")


def new_rows(record: Record, d: int) -> list[Row]:
    """Return the commands with which an instance began."""
    mine = (record.commands["device"] == d) & (record.commands["reserve_soc_frac"] == RESERVE_FRAC)
    return [Row(t_ns / 1e9, 0.0, 0.0, RESERVE_FRAC) for t_ns in record.commands["t_ns"][mine].tolist()]


def restart(record: Record, d: int, event: Event) -> str | None:
    until_s = event.start_ns / 1e9 + float(event.params["down_s"]) + PERIOD_S + LATE_S
    inside = [row for row in new_rows(record, d) if event.start_ns / 1e9 - 1.0 <= row.t_s <= until_s]
    if not inside:
        return "no new instance commanded after the restart"
    return plain(seen(record, d, event).before, "before")


def slow_plan(record: Record, d: int, event: Event) -> str | None:
    found = seen(record, d, event)
    if event.params["plan"] == "none":
        return f"a plan came at {found.during[0].t_s:.0f} s" if found.during else None
    delay_s = float(event.params["delay_s"])
    odd = [row for row in found.during if not row.is_in_time(delay_s)]
    if odd:
        return f"the command at {odd[0].t_s:.0f} s is not {delay_s:g} s late"
    if len(found.during) < 2:
        return f"only {len(found.during)} late commands"
    return plain(found.before, "before") or plain(found.after, "after")


def infeasible(record: Record, d: int, event: Event) -> str | None:
    found = seen(record, d, event)
    if found.during:
        return f"a controller without a solution commanded at {found.during[0].t_s:.0f} s"
    again = [row for row in found.after if row.is_new]
    if again or not found.after:
        return "the controller did not go on where it had stopped"
    return plain(found.before, "before") or plain(found.after, "after")


def two_instances(record: Record, d: int, event: Event) -> str | None:
    found = seen(record, d, event)
    offset_s = float(event.params["offset_frac"]) * PERIOD_S
    second = [row for row in found.during if row.is_in_time(offset_s)]
    if len(second) < 3:
        return f"{len(second)} commands of a second instance"
    if len(found.during) - len(second) < 3:
        return "the first instance is gone"
    return plain(found.before, "before") or plain(found.after, "after")


def deadlock(record: Record, d: int, event: Event) -> str | None:
    found = seen(record, d, event)
    if event.params["answer"] == "nothing":
        return "it commanded something" if found.during else plain(found.before, "before")
    if len(found.during) < 4:
        return f"only {len(found.during)} commands during the fault"
    if len({row.power_w for row in found.during}) > 1:
        return "commands change during the fault"
    return plain(found.before, "before") or plain(found.after, "after")


def wrong_default(record: Record, d: int, event: Event) -> str | None:
    found = seen(record, d, event)
    reserve_frac = float(event.params["reserve_frac"])
    if not any(row.reserve_frac == reserve_frac and np.isnan(row.power_w) for row in found.at_start):
        return f"no reserve of {reserve_frac:g} was written as the fault began"
    if found.during:
        return f"a controller that had left commanded at {found.during[0].t_s:.0f} s"
    return plain(found.before, "before") or plain(found.after, "after")


def bad_forecast(record: Record, d: int, event: Event) -> str | None:
    found = seen(record, d, event)
    right = {abs(row.power_w) for row in (*found.before, *found.after)}
    wrong = {abs(row.power_w) for row in found.during}
    if len(right) != 1 or len(wrong) != 1 or BLIND_W in right:
        return f"the forecast did not change with the fault alone: {sorted(right)}, {sorted(wrong)}"
    shown = BLIND_W
    if event.params["forecast"] == "biased":
        ahead = right.pop() - POWER_W
        ahead = ahead * float(event.params["factor"]) + float(event.params["offset_usd_per_mwh"])
        shown = POWER_W + ahead
    found_w = wrong.pop()
    return None if abs(found_w - shown) < 1e-6 else f"shown {found_w:g}, not {shown:g}"


def ignores_islanding(record: Record, d: int, event: Event) -> str | None:
    truth = record.truth
    dark = (truth["device"] == d) & (truth["grid_good"] == 0)
    dark &= (truth["t_ns"] > event.start_ns) & (truth["t_ns"] <= event.end_ns)
    if not dark.any():
        return "there was no outage to ignore"
    dark_s = truth["t_ns"][dark] / 1e9
    inside = [row for row in seen(record, d, event).during if dark_s.min() + BLIND_S < row.t_s < dark_s.max()]
    return None if len(inside) >= 2 else "the controller left the islanded home alone"


def dst_change(record: Record, d: int, event: Event) -> str | None:
    found = seen(record, d, event)
    hours = 1.0 if event.params["jump"] == "forward" else -1.0
    if not found.during or {row.validity_s for row in found.during} != {VALIDITY_S + hours}:
        return "the controller's clock did not jump"
    still = {row.validity_s for row in (*found.before, *found.after)}
    return None if still == {VALIDITY_S} else "the controller's clock was wrong without the fault"


WITNESSES: dict[str, Witness] = {
    "controller.crash": crash,
    "controller.restart": restart,
    "controller.slow-plan": slow_plan,
    "controller.infeasible": infeasible,
    "controller.two-instances": two_instances,
    "controller.deadlock": deadlock,
    "controller.wrong-default": wrong_default,
    "controller.bad-forecast": bad_forecast,
    "controller.ignores-islanding": ignores_islanding,
    "telemetry.dst-change": dst_change,
}

OUTAGE = frozenset({"controller.ignores-islanding"})
