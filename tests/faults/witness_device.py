"""Witnesses of the faults of devices: whether the truth in a record shows one acting.

Rules of this file: as the matrix test says.  The probe commands +2 kW in even minutes and -2 kW in odd ones,
for 90 s each, and a sound device follows within seconds; at the hardware level a command may be late.  So
powers are looked at late in a minute, and the two minutes before the fault must be sound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ridethrough.hil.faults import Event
from ridethrough.hil.record import Record

from tests.faults.probe import PERIOD_NS, commanded_w

Witness = Callable[[Record, int, Event], str | None]

NS = 1_000_000_000
LATE_S, END_S = 25.0, 58.0
"""Of a minute: from when the device follows, and until when it is looked at [s]."""
FOLLOWS_W = 150.0
"""A device that is this close to a power gives it, own consumption included [W]."""

OUTAGE: frozenset[str] = frozenset(
    {"device.reserve-off-grid", "device.island-overload", "device.transfer-failure"}
)
"""Seen only in an outage: the matrix adds grid.outage on the same target from minute 5 to minute 7."""

PARTITION: frozenset[str] = frozenset({"device.revert-timer-absent"})
"""Seen only without a controller: the matrix adds comms.partition with direction commands on the same target
from minute 5 to minute 7."""

NEEDS: dict[str, str] = {}
"""No fault needs another device than home-13kwh-5kw."""


class Truth:
    """What really happened to one device.

    Parameters
    ----------
    record : Record
    d : int
        Its row.
    """

    def __init__(self, record: Record, d: int) -> None:
        mine = record.truth["device"] == d
        self.columns = {name: column[mine] for name, column in record.truth.items()}
        self.end_ns = self.columns["t_ns"]
        self.start_ns = self.end_ns - self.columns["dt_ns"]
        self.names: list[str] = record.header["status_names"]

    def mean(self, name: str, begin_ns: float, end_ns: float) -> float:
        """Return the mean of a column over a time, by how long each row lies in it."""
        weight = np.minimum(self.end_ns, end_ns) - np.maximum(self.start_ns, begin_ns)
        weight = np.maximum(weight, 0).astype(np.float64)
        return float((self.columns[name] * weight).sum() / weight.sum())

    def share(self, status: str, begin_ns: float, end_ns: float) -> float:
        """Return for which share of a time, row by row, the device ended in an operating state."""
        inside = (self.start_ns >= begin_ns) & (self.end_ns <= end_ns)
        return float((self.columns["status"][inside] == self.names.index(status)).mean())

    def in_minute(self, minute: int) -> float:
        """Return the mean power late in a minute [W]."""
        begin_ns = minute * PERIOD_NS
        return self.mean("power_w", begin_ns + LATE_S * NS, begin_ns + END_S * NS)

    def lost(self) -> list[tuple[int, int]]:
        """Return begin and end of each time without a grid [ns]."""
        out = self.columns["grid_good"] == 0
        edges = np.flatnonzero(np.diff(np.concatenate([[False], out, [False]]).astype(np.int8)))
        return [
            (int(self.start_ns[a]), int(self.end_ns[b - 1]))
            for a, b in zip(edges[::2], edges[1::2], strict=True)
        ]


def minutes_of(event: Event) -> range:
    """Return the minutes that lie in an event."""
    return range(-(-event.start_ns // PERIOD_NS), event.end_ns // PERIOD_NS)


def followed(minute: int) -> float:
    """Return what a sound device gives late in a minute [W]."""
    return commanded_w(minute * PERIOD_NS)


def unsound_before(truth: Truth, event: Event) -> str | None:
    """Object when the device did not follow its commands in the two minutes before the fault."""
    first = event.start_ns // PERIOD_NS
    for minute in range(first - 2, first):
        power_w = truth.in_minute(minute)
        if abs(power_w - followed(minute)) > FOLLOWS_W:
            return f"gave {power_w:.0f} W in minute {minute}, before the fault"
    return None


def gives(expected: Callable[[int], float], skip: int = 0, near_w: float = FOLLOWS_W) -> Witness:
    """Return a witness that looks for a power in each minute of the fault but the first `skip`."""

    def witness(record: Record, d: int, event: Event) -> str | None:
        truth = Truth(record, d)
        for minute in minutes_of(event)[skip:]:
            power_w = truth.in_minute(minute)
            if abs(power_w - expected(minute)) > near_w:
                return f"gave {power_w:.0f} W in minute {minute} instead of {expected(minute):.0f} W"
        return unsound_before(truth, event)

    return witness


def is_off(record: Record, d: int, event: Event) -> str | None:
    """Look for an inverter that is off, on a grid that is there."""
    truth = Truth(record, d)
    begin_ns, end_ns = event.start_ns + 5 * NS, event.end_ns
    power_w = max(abs(truth.mean("power_w", k, k + 10 * NS)) for k in range(begin_ns, end_ns, 10 * NS))
    if power_w > FOLLOWS_W:
        return f"gave up to {power_w:.0f} W during the fault"
    share = truth.share("enter", begin_ns, end_ns)
    if share < 0.95:
        return f"waited to enter service for {share:.0%} of the fault only"
    return unsound_before(truth, event)


def reverts(record: Record, d: int, event: Event) -> str | None:
    """Look for commands that end long before the next one."""
    truth = Truth(record, d)
    last_s = float(event.params["timer_s"])
    for minute in minutes_of(event):
        begin_ns = minute * PERIOD_NS
        power_w = truth.mean("power_w", begin_ns + (last_s + 30.0) * NS, begin_ns + END_S * NS)
        if abs(power_w) > FOLLOWS_W:
            return f"still gave {power_w:.0f} W late in minute {minute}"
        most_w = truth.mean("power_w", begin_ns, begin_ns + (last_s + 30.0) * NS)
        if most_w * followed(minute) <= 0.0:
            return f"gave {most_w:.0f} W early in minute {minute}: not what was commanded"
    return unsound_before(truth, event)


def goes_on(record: Record, d: int, event: Event) -> str | None:
    """Look for a command that outlives its validity while none reaches the device from minute 5 on."""
    truth, minute = Truth(record, d), minutes_of(event)[2]
    power_w = truth.mean("power_w", (minute * 60.0 + 40.0) * NS, (minute * 60.0 + END_S) * NS)
    if abs(abs(power_w) - abs(followed(minute))) > FOLLOWS_W:
        return f"gave {power_w:.0f} W long after its last command had run out"
    return unsound_before(truth, event)


def wears_out(record: Record, d: int, event: Event) -> str | None:
    """Look for a device that obeys at first and does not at last."""
    truth, minutes = Truth(record, d), minutes_of(event)
    first_w, last_w = truth.in_minute(minutes[0]), truth.in_minute(minutes[-1])
    if abs(first_w - followed(minutes[0])) > FOLLOWS_W:
        return f"gave {first_w:.0f} W in the fault's first minute: worn out at once"
    if abs(last_w) > FOLLOWS_W:
        return f"gave {last_w:.0f} W in the fault's last minute: not worn out"
    return unsound_before(truth, event)


def unserved(begin_s: float, end_s: float) -> Witness:
    """Return a witness that looks for a dark panel between two instants of the outage."""

    def witness(record: Record, d: int, event: Event) -> str | None:
        truth = Truth(record, d)
        outages = [outage for outage in truth.lost() if event.start_ns <= outage[0] < event.end_ns]
        if not outages:
            return "there was no outage during the fault"
        begin_ns, last_ns = outages[0][0] + begin_s * NS, outages[0][0] + end_s * NS
        served_w = truth.mean("backup_served_w", begin_ns, last_ns)
        if served_w > 0.1 * truth.mean("backup_load_w", begin_ns, last_ns):
            return f"served {served_w:.0f} W from {begin_s:g} s to {end_s:g} s of the outage"
        return unsound_before(truth, event)

    return witness


def transfers_late(record: Record, d: int, event: Event) -> str | None:
    """Look for an outage that is dark for as long as the fault says, and served then."""
    dark = unserved(2.0, float(event.params["wait_s"]) - 2.0)(record, d, event)
    if dark is not None:
        return dark
    truth = Truth(record, d)
    begin_ns = truth.lost()[0][0] + (float(event.params["wait_s"]) + 3.0) * NS
    served_w = truth.mean("backup_served_w", begin_ns, begin_ns + 30 * NS)
    return None if served_w > 100.0 else f"served {served_w:.0f} W after the transfer time of the fault"


def _only(sign: float) -> Callable[[int], float]:
    return lambda minute: followed(minute) if followed(minute) * sign > 0.0 else 0.0


def _scaled(power_w: float) -> Callable[[int], float]:
    return lambda minute: power_w if followed(minute) > 0.0 else -power_w


NOTHING = gives(lambda minute: 0.0)

WITNESSES: dict[str, Witness] = {
    "device.trip": is_off,
    "device.derating": gives(_scaled(1000.0)),
    "device.contactor-stuck": NOTHING,
    "device.capacity-cut": gives(_only(1.0)),
    "device.lock": is_off,
    "device.reboot": is_off,
    "device.revert-timer-short": reverts,
    "device.revert-timer-foreign": reverts,
    "device.revert-timer-absent": goes_on,
    "device.write-ignored": gives(lambda minute: 0.0, skip=1),
    "device.write-rounded": gives(_scaled(1500.0)),
    "device.write-zeroed": NOTHING,
    "device.flash-wear": wears_out,
    "device.reserve-off-grid": unserved(10.0, 110.0),
    "device.early-cutoff": gives(_only(-1.0)),
    "device.island-overload": unserved(2.0, 55.0),
    "device.transfer-failure": transfers_late,
}
"""What each fault shows with the parameters of its example."""
