"""Each fault of the broker: what it does to one command or one reading that comes by.

Rules of this file: a fault knows nothing of the controller but what came through the broker, and of the
devices but their ratings; it holds what it holds by itself, and says when it wants to be asked again.  How
messages reach the faults and leave them is in `orders`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from ridethrough.controllers.contract import Telemetry

from ..faults import Event

Limits = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""``power_w_charge_max``, ``power_w_discharge_max`` [W] and ``has_reserve`` of the devices, shape (n,)."""

_SHOWN: Final = ("soc_frac", "power_w", "import_w", "grid_good")

Told = Callable[[Mapping[str, NDArray[Any]]], None]
"""Takes rows of the record's telemetry: readings that reached the controller and that no poll took."""


@dataclass(frozen=True, slots=True)
class Message:
    """One command to one device.

    Attributes
    ----------
    d : int
        The device's row.
    issued_ns : int
        When the controller sent it; of forged ones, when they were forged [ns].
    power_w, validity_s, reserve_soc_frac : float
        As in `Commands`.
    """

    d: int
    issued_ns: int
    power_w: float
    validity_s: float
    reserve_soc_frac: float


@dataclass(frozen=True, slots=True)
class Start:
    """What a fault may know when it begins.

    Attributes
    ----------
    now_ns : int
        [ns].
    last : dict of int to Message
        The last command with a power to each device before it.
    seen : Telemetry or None
        What the controller was last shown before it; None when it was shown nothing yet.
    draws : dict of int to Generator
        A stream of chance for each target.
    limits : Limits or None
    tell : callable
        See `Told`.
    """

    now_ns: int
    last: Mapping[int, Message]
    seen: Telemetry | None
    draws: Mapping[int, np.random.Generator]
    limits: Limits | None
    tell: Told


class Act(Protocol):
    """One fault in force."""

    def take(self, now_ns: int, message: Message) -> list[Message]:
        """Return what passes at once when a command comes by."""

    def due(self, now_ns: int) -> list[Message]:
        """Return what leaves it now."""

    def end(self) -> list[Message]:
        """Return what it still holds, in order."""

    def next_ns(self) -> int | None:
        """Return when it next lets something go by itself [ns]."""

    def see(self, now_ns: int, telemetry: Telemetry) -> Telemetry:
        """Return what it makes of what the controller is shown."""


class _Passing:
    """A fault that changes nothing: what a fault does not override passes."""

    def __init__(self, event: Event, start: Start) -> None:
        self._event, self._start = event, start
        self._rows = list(event.targets)

    def take(self, now_ns: int, message: Message) -> list[Message]:
        return [message]

    def due(self, now_ns: int) -> list[Message]:
        return []

    def end(self) -> list[Message]:
        return []

    def next_ns(self) -> int | None:
        return None

    def see(self, now_ns: int, telemetry: Telemetry) -> Telemetry:
        return telemetry

    def _seconds_ns(self, key: str) -> int:
        return round(float(self._event.params[key]) * 1e9)

    def _held(self, telemetry: Telemetry) -> Telemetry:
        """Return the readings of before the fault in place of the targets' own."""
        return _with_rows(telemetry, self._rows, self._start.seen)


class _Turns:
    """Instants at every period from an event's start on."""

    def __init__(self, start_ns: int, period_ns: int, now_ns: int) -> None:
        self.period_ns = max(period_ns, 1)
        late_ns = max(0, now_ns - start_ns)
        # One whose beginning was missed by less than a period is made up for.
        skipped = 0 if late_ns < self.period_ns else -(-late_ns // self.period_ns)
        self.next_ns = start_ns + skipped * self.period_ns

    def come(self, now_ns: int) -> int | None:
        """Return the instant that has come, if one has; those missed are not made up for."""
        if now_ns < self.next_ns:
            return None
        came_ns = self.next_ns
        self.next_ns += ((now_ns - came_ns) // self.period_ns + 1) * self.period_ns
        return came_ns


class _Restart(_Passing):
    """B1: nothing passes until the broker is back; then the commands that were not lost."""

    def __init__(self, event: Event, start: Start) -> None:
        super().__init__(event, start)
        self._queue: list[Message] = []

    def take(self, now_ns: int, message: Message) -> list[Message]:
        if self._event.params["commands"] == "queued":
            self._queue.append(message)
        return []

    def end(self) -> list[Message]:
        return self._queue

    def see(self, now_ns: int, telemetry: Telemetry) -> Telemetry:
        return self._held(telemetry)


class _Retained(_Passing):
    """B2: at each reconnect the broker hands out the command that it has kept."""

    def __init__(self, event: Event, start: Start) -> None:
        super().__init__(event, start)
        self._turns = _Turns(event.start_ns, self._seconds_ns("period_s"), start.now_ns)

    def due(self, now_ns: int) -> list[Message]:
        if self._turns.come(now_ns) is None or self._event.params["receiver"] == "guarded":
            return []
        if self._event.params["of"] == "last":
            return [self._start.last[d] for d in self._rows if d in self._start.last]
        power_w, validity_s = float(self._event.params["power_w"]), float(self._event.params["validity_s"])
        return [Message(d, self._event.start_ns, power_w, validity_s, np.nan) for d in self._rows]

    def next_ns(self) -> int | None:
        return self._turns.next_ns


class _StaleState(_Passing):
    """B3: at each reconnect the reading of before the fault is published again, and believed for a while."""

    def __init__(self, event: Event, start: Start) -> None:
        super().__init__(event, start)
        self._turns = _Turns(event.start_ns, self._seconds_ns("period_s"), start.now_ns)
        self._came_ns = -1

    def due(self, now_ns: int) -> list[Message]:
        came_ns = self._turns.come(now_ns)
        if came_ns is not None and self._start.seen is not None:
            self._came_ns = came_ns
            again = self._again(self._start.seen)
            rows = [d for d in self._rows if again.received_ns[d] >= 0]
            self._start.tell(
                {
                    "received_ns": again.received_ns[rows],
                    "measured_ns": again.measured_ns[rows],
                    "device": np.array(rows, dtype=np.int64),
                    **{name: getattr(again, name)[rows] for name in _SHOWN},
                }
            )
        return []

    def _again(self, seen: Telemetry) -> Telemetry:
        """Return the old readings as they come again at the last reconnect."""
        fresh = self._event.params["stamp"] == "fresh"
        known = seen.received_ns >= 0
        return replace(
            seen,
            received_ns=np.where(known, self._came_ns, seen.received_ns),
            measured_ns=np.where(known & fresh, self._came_ns, seen.measured_ns),
        )

    def next_ns(self) -> int | None:
        return self._turns.next_ns

    def see(self, now_ns: int, telemetry: Telemetry) -> Telemetry:
        self.due(now_ns)  # a reconnect at this very instant comes first
        if self._came_ns < 0 or self._start.seen is None:
            return telemetry
        if now_ns >= self._came_ns + self._seconds_ns("lasts_s"):
            return telemetry
        return _with_rows(telemetry, self._rows, self._again(self._start.seen))


class _Queue(_Passing):
    """B4: the receiver is away; when it comes back it is handed what has come meanwhile, one by one."""

    def __init__(self, event: Event, start: Start) -> None:
        super().__init__(event, start)
        self._queues: dict[int, list[Message]] = {d: [] for d in self._rows}
        self._next_ns = event.start_ns + self._seconds_ns("offline_s")

    def take(self, now_ns: int, message: Message) -> list[Message]:
        queue = self._queues[message.d]
        if now_ns >= self._next_ns and not queue:
            return [message]
        queue.append(message)
        del queue[: -round(float(self._event.params["depth"]))]
        return []

    def due(self, now_ns: int) -> list[Message]:
        if now_ns < self._next_ns:
            return []
        waiting = any(self._queues.values())
        out = [queue.pop(0) for queue in self._queues.values() if queue]
        if waiting:
            self._next_ns = now_ns + self._seconds_ns("spacing_s")
        return out

    def end(self) -> list[Message]:
        return [message for queue in self._queues.values() for message in queue]

    def next_ns(self) -> int | None:
        return self._next_ns if any(self._queues.values()) else None


class _Deaf(_Passing):
    """B5: a subscription is gone, and what was subscribed to no longer arrives."""

    def take(self, now_ns: int, message: Message) -> list[Message]:
        return [message] if self._event.params["direction"] == "telemetry" else []

    def see(self, now_ns: int, telemetry: Telemetry) -> Telemetry:
        return telemetry if self._event.params["direction"] == "commands" else self._held(telemetry)


class _Duplicate(_Passing):
    """B6: a command comes again."""

    def __init__(self, event: Event, start: Start) -> None:
        super().__init__(event, start)
        self._later: list[tuple[int, Message]] = []

    def take(self, now_ns: int, message: Message) -> list[Message]:
        if self._start.draws[message.d].random() < float(self._event.params["share_frac"]):
            delay_ns = self._seconds_ns("delay_s")
            copies = round(float(self._event.params["copies"]))
            self._later += [(now_ns + k * delay_ns, message) for k in range(1, copies + 1)]
            self._later.sort(key=lambda entry: entry[0])
        return [message]

    def due(self, now_ns: int) -> list[Message]:
        out = [message for due_ns, message in self._later if due_ns <= now_ns]
        self._later = [entry for entry in self._later if entry[0] > now_ns]
        return out

    def next_ns(self) -> int | None:
        return self._later[0][0] if self._later else None


class _Reorder(_Passing):
    """B7: the first of two commands is caught in a broken connection, and comes after the second."""

    def __init__(self, event: Event, start: Start) -> None:
        super().__init__(event, start)
        self._first: dict[int, Message] = {}
        self._later: list[tuple[int, Message]] = []

    def take(self, now_ns: int, message: Message) -> list[Message]:
        first = self._first.pop(message.d, None)
        if first is None:
            self._first[message.d] = message
            return []
        self._later.append((now_ns + self._seconds_ns("gap_s"), first))
        return [message]

    def due(self, now_ns: int) -> list[Message]:
        out = [message for due_ns, message in self._later if due_ns <= now_ns]
        self._later = [entry for entry in self._later if entry[0] > now_ns]
        return out

    def end(self) -> list[Message]:
        return [message for _, message in self._later] + list(self._first.values())

    def next_ns(self) -> int | None:
        return self._later[0][0] if self._later else None


class _Swallowed(_Passing):
    """B8: the command is answered with success, and goes nowhere."""

    def take(self, now_ns: int, message: Message) -> list[Message]:
        share_frac = float(self._event.params["share_frac"])
        return [] if self._start.draws[message.d].random() < share_frac else [message]


class _Takeover(_Passing):
    """B9: somebody else commands the devices, as badly as they allow."""

    def __init__(self, event: Event, start: Start) -> None:
        super().__init__(event, start)
        self._turns = _Turns(event.start_ns, self._seconds_ns("period_s"), start.now_ns)

    def take(self, now_ns: int, message: Message) -> list[Message]:
        return [] if self._event.params["owner"] == "locked-out" else [message]

    def due(self, now_ns: int) -> list[Message]:
        came_ns = self._turns.come(now_ns)
        if came_ns is None:
            return []
        return [self._forged(d, came_ns) for d in self._rows]

    def _forged(self, d: int, now_ns: int) -> Message:
        params = self._event.params
        power_w, reserve_frac = float(params["power_w"]), np.nan
        charges = params["aim"] == "charge"
        if self._start.limits is not None:
            charge_w, discharge_w, has_reserve = self._start.limits
            power_w = min(power_w, float((charge_w if charges else discharge_w)[d]))
            reserve_frac = 0.0 if has_reserve[d] else np.nan
        return Message(d, now_ns, -power_w if charges else power_w, float(params["validity_s"]), reserve_frac)

    def next_ns(self) -> int | None:
        return self._turns.next_ns


def _with_rows(telemetry: Telemetry, rows: list[int], other: Telemetry | None) -> Telemetry:
    """Return telemetry with some rows of another one, or with nothing known where there is none."""
    changed: dict[str, Any] = {}
    for name in ("measured_ns", "received_ns", *_SHOWN):
        column = getattr(telemetry, name).copy()
        unknown = -1 if column.dtype.kind == "i" else np.nan
        column[rows] = unknown if other is None else getattr(other, name)[rows]
        changed[name] = column
    return replace(telemetry, **changed)


ACTS: Final[Mapping[str, Callable[[Event, Start], Act]]] = {
    "broker.restart": _Restart,
    "broker.retained-command": _Retained,
    "broker.stale-state": _StaleState,
    "broker.session-queue": _Queue,
    "broker.lost-subscription": _Deaf,
    "broker.duplicate": _Duplicate,
    "broker.reorder": _Reorder,
    "broker.false-success": _Swallowed,
    "broker.takeover": _Takeover,
}
"""What each fault of the broker does."""
