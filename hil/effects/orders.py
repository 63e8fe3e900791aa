"""The broker between the controller and the devices: what becomes of commands and readings on its way.

Rules of this file:

- Without a fault messages pass at once and unchanged, as the arrays they came in.
- A command to a target of a fault becomes a message of its own, and goes through the faults in force on its
  device in the order of their numbers; what one of them lets go meets the next one.
- A fault knows nothing of the controller but what it has sent and seen through this broker.
- What a fault still holds when it ends leaves at once, in order; afterwards nothing of it is left.

The guards of a receiver that has them are those of the bench's own gateway (`hil.mqtt.guards`): a command
that is too old, that was there before, or that is older than the last one is not carried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from ridethrough.controllers.contract import Commands, Telemetry
from ridethrough.emulator.plant import Plant

from ..faults import Event
from ..streams import stream
from .order_acts import ACTS, Act, Limits, Message, Start, Told

__all__ = ["ACTS", "EXPIRY_NS", "OrderFaults", "limits_of"]

EXPIRY_NS: Final = 30_000_000_000
"""A receiver with guards does not carry out a command that was issued longer ago than this [ns]."""


class OrderFaults:
    """The broker of one run.

    Parameters
    ----------
    seed : int
    names : sequence of str, length n
        Of the devices: one stream of chance each and fault.
    limits : Limits, optional
        What an attacker finds out about the devices.  Without it he commands what the event says.
    tell : callable, optional
        See `Told`.
    """

    def __init__(
        self,
        seed: int,
        names: Sequence[str],
        *,
        limits: Limits | None = None,
        tell: Told | None = None,
    ) -> None:
        self._seed, self._names, self._limits = seed, tuple(names), limits
        self._tell: Told = (lambda rows: None) if tell is None else tell
        self._out: list[Commands | Message] = []
        self._acts: dict[int, tuple[Event, Act]] = {}  # in the order of their events' numbers
        self._last: dict[int, Message] = {}
        self._newest_ns = np.full(len(self._names), -1, dtype=np.int64)
        self._seen: Telemetry | None = None

    def see(self, now_ns: int, telemetry: Telemetry, events: Sequence[Event]) -> Telemetry:
        """Return what the controller is shown of what the devices have reported."""
        self._follow(now_ns, events)
        for _, act in self._acts.values():
            telemetry = act.see(now_ns, telemetry)
        self._seen = telemetry
        return telemetry

    def send(self, now_ns: int, commands: Commands, events: Sequence[Event]) -> None:
        """Take what the controller has just commanded."""
        self._follow(now_ns, events)
        asked = _asked(commands)
        caught = np.zeros(len(self._names), dtype=np.bool_)
        for event, _ in self._acts.values():
            caught[list(event.targets)] = True
        passing = asked & ~caught
        if passing.any():
            self._out.append(_only(commands, passing) if (asked & caught).any() else commands)
        for d in np.flatnonzero(asked).tolist():
            message = Message(
                d,
                now_ns,
                float(commands.power_w[d]),
                float(commands.validity_s[d]),
                float(commands.reserve_soc_frac[d]),
            )
            if caught[d]:
                self._pass_on(now_ns, [message])
            else:
                self._newest_ns[d] = now_ns
            if not np.isnan(message.power_w):
                self._last[d] = message

    def due(self, now_ns: int, events: Sequence[Event]) -> list[Commands]:
        """Return what leaves the broker now, in order; asked whenever `next_ns` or an edge is reached."""
        self._follow(now_ns, events)
        for number, (_, act) in self._acts.items():
            self._pass_on(now_ns, act.due(now_ns), after=number)
        out, self._out = self._out, []
        return self._joined(out)

    def next_ns(self) -> int | None:
        """Return the next instant at which something held here is due [ns]; None when nothing is held."""
        instants = [act.next_ns() for _, act in self._acts.values()]
        return min((instant for instant in instants if instant is not None), default=None)

    def _follow(self, now_ns: int, events: Sequence[Event]) -> None:
        """Let faults begin, and those that are over let go."""
        mine = {event.number: event for event in events if event.fault in ACTS}
        for number in [number for number in self._acts if number not in mine]:
            self._pass_on(now_ns, self._acts[number][1].end(), after=number)
            del self._acts[number]
        begun = mine.keys() - self._acts.keys()
        for number in sorted(begun):
            event = mine[number]
            draws = {d: stream(self._seed, f"{self._names[d]}/{event.fault}/{number}") for d in event.targets}
            start = Start(now_ns, dict(self._last), self._seen, draws, self._limits, self._tell)
            self._acts[number] = event, ACTS[event.fault](event, start)
        if begun:
            self._acts = dict(sorted(self._acts.items()))

    def _pass_on(self, now_ns: int, messages: list[Message], after: int = -1) -> None:
        """Let messages meet the faults behind the one of number `after`, and leave."""
        guarded = set()
        for number, (event, act) in self._acts.items():
            if event.params.get("receiver") == "guarded":
                guarded |= set(event.targets)
            if number > after:
                messages = [
                    passed
                    for message in messages
                    for passed in (act.take(now_ns, message) if message.d in event.targets else [message])
                ]
        for message in messages:
            newest_ns = int(self._newest_ns[message.d])
            stale = message.issued_ns <= newest_ns or now_ns - message.issued_ns > EXPIRY_NS
            if message.d not in guarded or not stale:
                self._newest_ns[message.d] = max(newest_ns, message.issued_ns)
                self._out.append(message)

    def _joined(self, out: list[Commands | Message]) -> list[Commands]:
        """Return messages as arrays, as few as keep the order at each device."""
        joined: list[Commands] = []
        taken = np.ones(len(self._names), dtype=np.bool_)  # rows of the last array that are in use
        for each in out:
            if isinstance(each, Commands):
                joined.append(
                    Commands(each.power_w.copy(), each.validity_s.copy(), each.reserve_soc_frac.copy())
                )
                taken = _asked(each)
                continue
            if taken[each.d]:
                joined.append(Commands.none(len(self._names)))
                taken = np.zeros(len(self._names), dtype=np.bool_)
            taken[each.d] = True
            joined[-1].power_w[each.d] = each.power_w
            joined[-1].validity_s[each.d] = each.validity_s
            joined[-1].reserve_soc_frac[each.d] = each.reserve_soc_frac
        return joined


def limits_of(plant: Plant) -> Limits:
    """Return what an attacker can find out about the devices of a plant."""
    return (
        plant.params("power_w_charge_max"),
        plant.params("power_w_discharge_max"),
        plant.params("has_reserve"),
    )


def _asked(commands: Commands) -> NDArray[np.bool_]:
    """Return which rows a command says anything to."""
    return ~np.isnan(commands.power_w) | ~np.isnan(commands.reserve_soc_frac)


def _only(commands: Commands, rows: NDArray[np.bool_]) -> Commands:
    """Return the commands to some rows, the others left alone."""
    return Commands(
        np.where(rows, commands.power_w, np.nan),
        np.where(rows, commands.validity_s, np.nan),
        np.where(rows, commands.reserve_soc_frac, np.nan),
    )
