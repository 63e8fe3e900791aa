"""Witnesses of the network's faults: whether a record shows one acting.

Rules of this file: as the matrix test says.  The probe commands +2 kW in even minutes and -2 kW in odd ones;
polls are every 10 s.  A fault of the network shows in what arrives and when, and, where it brings old
commands, in the power of the device.  At the hardware level all of it is late, and what the network has kept
goes on with the next request, at most one poll later.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from ridethrough.hil.faults import Event
from ridethrough.hil.record import OUTCOMES, Record

from tests.faults.probe import POWER_W, commanded_w

Witness = Callable[[Record, int, Event], str | None]

S = 10**9
MINUTE_NS = 60 * S
POLL_NS = 10 * S
LATE_NS = 25 * S
"""What was kept has reached the device, and the device its power, this long after it was due."""


def readings(record: Record, d: int, begin_ns: int, end_ns: int) -> float:
    """Return how many readings arrived per poll in a time."""
    mine = record.telemetry["received_ns"][record.telemetry["device"] == d]
    return float(((mine >= begin_ns) & (mine < end_ns)).sum()) * POLL_NS / (end_ns - begin_ns)


def age_s(record: Record, d: int, begin_ns: int, end_ns: int) -> float:
    """Return the median time that readings of a time were on their way [s]."""
    table = record.telemetry
    mine = (table["device"] == d) & (table["measured_ns"] >= begin_ns) & (table["measured_ns"] < end_ns)
    late_ns = (table["received_ns"] - table["measured_ns"])[mine]
    return float(np.median(late_ns)) / S if late_ns.size else float("nan")


def outcomes(record: Record, d: int, begin_ns: int, end_ns: int) -> list[str]:
    """Return what became of the commands decided in a time."""
    table = record.commands
    mine = (table["device"] == d) & (table["t_ns"] >= begin_ns) & (table["t_ns"] < end_ns)
    return [OUTCOMES[k] for k in table["outcome"][mine].tolist()]


def power_w(record: Record, d: int, begin_ns: int, end_ns: int) -> float:
    """Return the mean power of a device in a time [W]."""
    table = record.truth
    mine = (table["device"] == d) & (table["t_ns"] > begin_ns) & (table["t_ns"] <= end_ns)
    return float(np.average(table["power_w"][mine], weights=table["dt_ns"][mine]))


def during(event: Event) -> tuple[int, int]:
    """Return the time in which an event shows: from one poll after its start."""
    return event.start_ns + POLL_NS + 5 * S, event.end_ns - S


def sound_before(record: Record, d: int, event: Event) -> str | None:
    """Object unless commands and readings arrived before the event."""
    share = readings(record, d, MINUTE_NS, event.start_ns)
    if share < 0.5:
        return f"{share:.0%} of the readings arrived before the fault already"
    told = outcomes(record, d, MINUTE_NS, event.start_ns - S)
    if told.count("delivered") < 0.5 * len(told) or not told:
        return f"commands before the fault were {told}"
    return None


def no_readings(record: Record, d: int, event: Event) -> str | None:
    share = readings(record, d, *during(event))
    return f"{share:.0%} of the readings arrived during the fault" if share > 0.2 else None


def readings_go_on(record: Record, d: int, event: Event) -> str | None:
    share = readings(record, d, *during(event))
    return f"only {share:.0%} of the readings arrived during the fault" if share < 0.5 else None


def commands_fail(record: Record, d: int, event: Event, *, how: tuple[str, ...]) -> str | None:
    told = outcomes(record, d, event.start_ns + POLL_NS, event.end_ns - S)
    if not told or any(outcome not in how for outcome in told):
        return f"commands during the fault were {told} instead of {' or '.join(how)}"
    return None


def first(*objections: str | None) -> str | None:
    return next((objection for objection in objections if objection is not None), None)


def silence(record: Record, d: int, event: Event) -> str | None:
    """See neither readings nor commands pass."""
    return first(
        sound_before(record, d, event),
        no_readings(record, d, event),
        commands_fail(record, d, event, how=("lost", "refused")),
    )


def commands_alone(record: Record, d: int, event: Event, *, how: str) -> str | None:
    """See readings pass and no commands."""
    return first(
        sound_before(record, d, event),
        readings_go_on(record, d, event),
        commands_fail(record, d, event, how=(how,)),
    )


def some_lost(record: Record, d: int, event: Event) -> str | None:
    """See fewer readings arrive than before."""
    before = readings(record, d, MINUTE_NS, event.start_ns)
    share = readings(record, d, *during(event))
    if share > 0.7 * before:
        return f"{share:.0%} of the readings arrived during the fault, {before:.0%} before"
    return sound_before(record, d, event)


def slow(record: Record, d: int, event: Event, *, added_s: float) -> str | None:
    """See readings take longer than before."""
    before_s = age_s(record, d, MINUTE_NS, event.start_ns)
    late_s = age_s(record, d, *during(event))
    if not late_s - before_s > 0.6 * added_s:
        return f"readings took {late_s:.2f} s during the fault, {before_s:.2f} s before"
    return sound_before(record, d, event)


def obeys(record: Record, d: int, minute: int, obeyed: int, begin_ns: int) -> str | None:
    """Object unless the device does in a minute, from `begin_ns` on, what another one's command said."""
    found_w = power_w(record, d, begin_ns, (minute + 1) * MINUTE_NS - 2 * S)
    if not abs(found_w - commanded_w(obeyed * MINUTE_NS)) < 0.5 * POWER_W:
        return f"{found_w:.0f} W in minute {minute} instead of what minute {obeyed} commanded"
    return None


def old_one_back(record: Record, d: int, event: Event) -> str | None:
    """See the command of the fault's first minute come after that of the next one."""
    first_minute = event.start_ns // MINUTE_NS
    come_ns = event.start_ns + 70 * S + LATE_NS
    return first(
        sound_before(record, d, event),
        obeys(record, d, first_minute + 1, first_minute, come_ns),
        obeys(record, d, first_minute - 1, first_minute - 1, event.start_ns - 30 * S),
    )


def duplicate(record: Record, d: int, event: Event) -> str | None:
    told = outcomes(record, d, event.start_ns - S, event.end_ns - S)
    if told.count("delivered") < 0.5 * len(told) or not told:
        return f"commands during the fault were {told} instead of delivered"
    return old_one_back(record, d, event)


def reorder(record: Record, d: int, event: Event) -> str | None:
    told = outcomes(record, d, event.start_ns - S, event.start_ns + MINUTE_NS // 2)
    if told != ["refused"]:
        return f"the command that was held is {told} instead of refused"
    return old_one_back(record, d, event)


def queued(record: Record, d: int, event: Event) -> str | None:
    """See the last of the kept commands replace the first one after the fault."""
    last = event.end_ns // MINUTE_NS - 1
    return first(
        commands_alone(record, d, event, how="refused"),
        obeys(record, d, last + 1, last, event.end_ns + 20 * S + LATE_NS - 10 * S),
    )


WITNESSES: dict[str, Witness] = {
    "comms.latency-fixed": partial(slow, added_s=3.0),
    "comms.latency": partial(slow, added_s=2.0),
    "comms.loss": some_lost,
    "comms.duplicate": duplicate,
    "comms.reorder": reorder,
    "comms.partition": silence,
    "comms.partition-one-way": partial(commands_alone, how="lost"),
    "comms.half-open": silence,
    "comms.slow-loris": partial(slow, added_s=2.0),
    "comms.reset": silence,
    "comms.truncated-frame": silence,
    "comms.wrong-transaction-id": silence,
    "comms.wrong-unit-id": silence,
    "comms.checksum-error": silence,
    "comms.late-reply": silence,
    "comms.exception": partial(commands_alone, how="refused"),
    "comms.connection-limit": silence,
    "comms.address-change": silence,
    "comms.coalesced": partial(commands_alone, how="lost"),
    "comms.queued-commands": queued,
}
