"""Witnesses of the faults of the grid: whether the truth in a record shows one acting.

Rules of this file: as the matrix test says, see `witness_device`.
"""

from __future__ import annotations

import numpy as np
from ridethrough.hil.faults import Event
from ridethrough.hil.record import Record

from tests.faults.probe import PERIOD_NS
from tests.faults.witness_device import NS, Truth, Witness, followed, minutes_of, unsound_before

OUTAGE: frozenset[str] = frozenset()
NEEDS: dict[str, str] = {}

SLACK_NS = 2 * NS
"""Rows of truth end this late after an edge, on the hardware level."""


def lost_from(truth: Truth, begin_ns: int, end_ns: int) -> str | None:
    """Object unless the grid was lost in just this time."""
    outages = truth.lost()
    if len(outages) != 1:
        return f"the grid was lost {len(outages)} times instead of once"
    (begun_ns, ended_ns) = outages[0]
    if abs(begun_ns - begin_ns) > SLACK_NS or abs(ended_ns - end_ns) > SLACK_NS:
        return f"the grid was lost from {begun_ns / 1e9:g} s to {ended_ns / 1e9:g} s"
    return None


def out(record: Record, d: int, event: Event) -> str | None:
    truth = Truth(record, d)
    return lost_from(truth, event.start_ns, event.end_ns) or unsound_before(truth, event)


def out_beyond_promise(record: Record, d: int, event: Event) -> str | None:
    truth = Truth(record, d)
    hours_h = record.header["devices"][d]["commitment"]["hours_h"] * float(event.params["factor"])
    end_ns = min(event.end_ns, event.start_ns + round(hours_h * 3600) * NS)
    return lost_from(truth, event.start_ns, end_ns) or unsound_before(truth, event)


def flickers(record: Record, d: int, event: Event) -> str | None:
    truth = Truth(record, d)
    outages = truth.lost()
    if not outages or abs(outages[0][0] - event.start_ns) > SLACK_NS:
        return "the grid was not lost when the fault began"
    if outages[-1][1] > event.end_ns + SLACK_NS:
        return "the grid was lost after the fault"
    total_s = sum(end_ns - begin_ns for begin_ns, end_ns in outages) / 1e9
    if total_s > 0.5 * (event.end_ns - event.start_ns) / 1e9:
        return f"the grid was lost for {total_s:g} s: an outage, no flicker"
    return unsound_before(truth, event)


def out_while(sign: float) -> Witness:
    """Return a witness that looks for an outage in the middle of charging (-1) or discharging (1)."""

    def witness(record: Record, d: int, event: Event) -> str | None:
        truth = Truth(record, d)
        outages = truth.lost()
        if len(outages) != 1:
            return f"the grid was lost {len(outages)} times instead of once"
        begun_ns, ended_ns = outages[0]
        if not event.start_ns <= begun_ns < event.end_ns:
            return f"the grid was lost at {begun_ns / 1e9:g} s"
        expected_ns = min(begun_ns + round(float(event.params["outage_s"]) * NS), event.end_ns)
        if abs(ended_ns - expected_ns) > SLACK_NS:
            return f"the outage lasted {(ended_ns - begun_ns) / 1e9:g} s"
        before = int(np.flatnonzero(truth.end_ns <= begun_ns)[-1])
        high_w, low_w = (float(truth.columns[name][before]) for name in ("power_w_high", "power_w_low"))
        if max(sign * high_w, sign * low_w) < 100.0:
            return f"gave {low_w:.0f} to {high_w:.0f} W when the grid was lost"
        return unsound_before(truth, event)

    return witness


def sags(record: Record, d: int, event: Event) -> str | None:
    truth = Truth(record, d)
    inside = (truth.start_ns >= event.start_ns) & (truth.end_ns <= event.end_ns)
    outside = truth.end_ns <= event.start_ns
    during_pu, before_pu = truth.columns["voltage_pu"][inside], truth.columns["voltage_pu"][outside]
    share = float(event.params["voltage_frac"])
    if abs(during_pu / before_pu.mean() - share).max() > 0.05:
        return f"the voltage went from {during_pu.min():.2f} to {during_pu.max():.2f} pu"
    if truth.lost():
        return "the grid was lost: an outage, no sag"
    return unsound_before(truth, event)


def droops(record: Record, d: int, event: Event) -> str | None:
    """Over-frequency takes some of the power of a device; the record has no frequency.

    A droop acts on the power at which the frequency left its band, so only discharging tells.
    """
    truth = Truth(record, d)
    for minute in minutes_of(event):
        power_w = truth.in_minute(minute)
        if followed(minute) > 0.0 and power_w > followed(minute) - 500.0:
            return f"gave {power_w:.0f} W in minute {minute}: its frequency droop did not act"
    if truth.lost():
        return "the grid was lost: an outage, no excursion"
    return unsound_before(truth, event)


def stays_an_island(record: Record, d: int, event: Event) -> str | None:
    """After a short outage the island goes on beyond the time that a return takes."""
    truth = Truth(record, d)
    ended_ns = event.start_ns + round(float(event.params["dead_s"]) * NS)
    short = lost_from(truth, event.start_ns, ended_ns)
    if short is not None:
        return short
    wait_s = record.header["devices"][d]["enter_delay_s"] + record.header["devices"][d]["sync_s"]
    share = truth.share("island", ended_ns + round((wait_s + 10.0) * NS), event.end_ns)
    if not share > 0.95:
        return f"was an island for {share:.0%} of the rest of the event only"
    return unsound_before(truth, event)


def fires_late(record: Record, d: int, event: Event) -> str | None:
    """A set-point from before the outage acts after the return, in a minute with another command."""
    truth = Truth(record, d)
    outage_s, delay_s = float(event.params["outage_s"]), float(event.params["delay_s"])
    short = lost_from(truth, event.start_ns, event.start_ns + round(outage_s * NS))
    if short is not None:
        return short
    back_ns = event.start_ns + round((outage_s + delay_s) * NS)
    minute = back_ns // PERIOD_NS
    power_w = truth.mean("power_w", back_ns + 10 * NS, back_ns + 22 * NS)
    if truth.share("on_grid", back_ns + 5 * NS, back_ns + 22 * NS) < 0.95:
        return "did not come back after the delay of the fault"
    if power_w * followed(minute) > 0.0 or abs(power_w) < 100.0:
        return f"gave {power_w:.0f} W after its return: not the stale set-point"
    return unsound_before(truth, event)


def unnoticed(record: Record, d: int, event: Event) -> str | None:
    """For a moment a device exchanges power with a section that is lost."""
    truth = Truth(record, d)
    lost = lost_from(truth, event.start_ns, event.end_ns)
    if lost is not None:
        return lost
    dead_w = truth.columns["dead_import_w_high"]
    flows = truth.start_ns[dead_w > 100.0]
    if not len(flows):
        return "exchanged nothing with the lost section"
    if flows.min() < event.start_ns - SLACK_NS or flows.max() > event.start_ns + 6 * NS:
        return f"exchanged power with a lost grid at {flows.max() / 1e9:g} s"
    return unsound_before(truth, event)


WITNESSES: dict[str, Witness] = {
    "grid.planned-outage": out,
    "grid.outage": out,
    "grid.flicker": flickers,
    "grid.outage-in-charge": out_while(-1.0),
    "grid.outage-in-export": out_while(1.0),
    "grid.sag": sags,
    "grid.frequency": droops,
    "grid.phase-jump": stays_an_island,
    "grid.outage-beyond-promise": out_beyond_promise,
    "grid.stale-set-point": fires_late,
    "grid.unintentional-island": unnoticed,
    "grid.partial-outage": out,
}
"""What each fault shows with the parameters of its example."""
