"""Messages between the controller and the devices, as data: faults of the network at the model level.

Rules of this file:

- A message is one reading or one command of one device.  What is in force for all messages alike stands in
  `Conditions`, in arrays; the rest meets the messages of its targets one by one.
- What reaches a device acts there, whatever the sender hears of it: a command whose acknowledgement is lost
  is carried out and recorded as lost.
- A command is three exchanges on the wire: its end, its power, and reading back.  A fault of replies that
  meets the first leaves nothing in force; one that meets a later one leaves the sender without knowledge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ..faults import Event
from ..messages import COMMANDS, LOST, TELEMETRY, Dice, pareto_ns

if TYPE_CHECKING:
    from ..world import Comms

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Times = NDArray[np.int64]

MESSAGE_BYTES: Final[Mapping[str, int]] = {COMMANDS: 19, TELEMETRY: 243}
"""Size of a message, where a fault asks for it: the first write of a command, the first reply of a poll
[bytes]."""

EXCHANGED_BYTES: Final[Mapping[str, int]] = {COMMANDS: 52, TELEMETRY: 385}
"""What passes both ways until a command is in force, and in a poll [bytes]."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Faults in force at an instant, per device, shape (n,).

    Attributes
    ----------
    cut_commands, cut_telemetry : Mask
        No message passes in that direction.
    loss_frac : Floats
        Probability that a message is lost [1].
    latency_ns_mean, latency_ns_p99 : Floats
        One-way delay, faults included [ns].
    """

    cut_commands: Mask
    cut_telemetry: Mask
    loss_frac: Floats
    latency_ns_mean: Floats
    latency_ns_p99: Floats


def conditions_of(events: Iterable[Event], n: int, comms: Comms) -> Conditions:
    """Return what the events in force do to all messages alike; several of a kind add up.

    Parameters
    ----------
    events : iterable of Event
        In force; those of other places are passed over.
    n : int
        Number of devices.
    comms : Comms
        The network without faults.
    """
    mask = {name: np.zeros(n, dtype=np.bool_) for name in (COMMANDS, TELEMETRY)}
    pass_frac = np.full(n, 1.0 - comms.loss_frac)
    mean, p99 = np.full(n, float(comms.latency_ns_mean)), np.full(n, float(comms.latency_ns_p99))
    for event in events:
        rows, params = list(event.targets), event.params
        for direction in cuts(event):
            mask[direction][rows] = True
        if event.fault == "comms.loss" and is_plain_loss(event):
            pass_frac[rows] *= 1.0 - float(params["loss_frac"])
        elif event.fault == "comms.latency" and not has_pareto_tail(event):
            mean[rows] += float(params["latency_s_mean"]) * 1e9
            p99[rows] += float(params["latency_s_p99"]) * 1e9
    return Conditions(
        cut_commands=mask[COMMANDS],
        cut_telemetry=mask[TELEMETRY],
        loss_frac=1.0 - pass_frac,
        latency_ns_mean=mean,
        latency_ns_p99=p99,
    )


def cuts(event: Event) -> tuple[str, ...]:
    """Return the directions in which an event lets no message pass."""
    if event.fault in ("comms.partition", "comms.partition-one-way"):
        direction = str(event.params["direction"])
        return (COMMANDS, TELEMETRY) if direction == "both" else (direction,)
    if event.fault == "comms.connection-limit" or (event.fault == "comms.half-open" and not may_anew(event)):
        return (COMMANDS, TELEMETRY)
    return (TELEMETRY,) if event.fault == "comms.address-change" else ()


def is_plain_loss(event: Event) -> bool:
    """Whether an event of loss loses each message on its own and for good."""
    return float(event.params.get("burst_messages", 1.0)) <= 1.0 and event.params.get("shows", "") in (
        "",
        "silence",
    )


def has_pareto_tail(event: Event) -> bool:
    """Whether an event of latency has a tail without an end."""
    return event.params.get("tail", "") == "pareto"


def may_anew(event: Event) -> bool:
    """Whether connections made while one is half-open work."""
    return event.params.get("anew", "silent") == "works"


@dataclass(slots=True)
class Message:
    """One message on its way.

    Attributes
    ----------
    delay_ns : int
        On the way [ns]; `LOST` when it never arrives.
    hold_ns : int
        Kept for as long behind the back of its sender, who has given up or been told a lie [ns].
    heard : bool
        The sender of a command hears what became of it.
    refused : bool
        The sender of a command is told no.
    copies_ns : list of int
        Further arrivals, after the first one [ns].
    """

    delay_ns: int
    hold_ns: int = 0
    heard: bool = True
    refused: bool = False
    copies_ns: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Meeting:
    """Where and when a message meets a fault.

    Attributes
    ----------
    now_ns : int
        [ns].
    direction : str
    dice : Dice
        Of the device.
    notes : dict
        What the device's messages of this direction have left behind, by the number of the event.
    """

    now_ns: int
    direction: str
    dice: Dice
    notes: dict[int, int]

    @property
    def is_command(self) -> bool:
        """Whether it is a command."""
        return self.direction == COMMANDS


Act = Callable[[Event, Message, Meeting], None]


def _latency(event: Event, message: Message, at: Meeting) -> None:
    if has_pareto_tail(event):
        chance = np.array(at.dice.draw(event.fault, at.direction))
        mean_ns, p99_ns = (float(event.params[f"latency_s_{name}"]) * 1e9 for name in ("mean", "p99"))
        message.delay_ns += int(pareto_ns(chance, mean_ns, p99_ns))


def _fixed(event: Event, message: Message, at: Meeting) -> None:
    message.delay_ns += transit_ns(event, MESSAGE_BYTES[at.direction])


def transit_ns(event: Event, size_bytes: int) -> int:
    """Return what an event of fixed latency adds to the way of some bytes [ns]."""
    bandwidth_bps = float(event.params.get("bandwidth_bps", 0.0))
    sending_s = 8.0 * size_bytes / bandwidth_bps if bandwidth_bps > 0.0 else 0.0
    return round((float(event.params["latency_s"]) + sending_s) * 1e9)


def _loss(event: Event, message: Message, at: Meeting) -> None:
    if is_plain_loss(event):
        return
    if is_lost(event, at.dice, at.direction):
        if event.params.get("shows") == "stall":
            message.delay_ns += round(float(event.params["stall_s"]) * 1e9)
        else:
            message.delay_ns = LOST


def is_lost(event: Event, dice: Dice, direction: str) -> bool:
    """Whether an event of loss that is not plain meets this message."""
    if float(event.params.get("burst_messages", 1.0)) > 1.0:
        return dice.in_burst(event, direction)
    return dice.draw(event.fault, direction) < float(event.params["loss_frac"])


def _duplicate(event: Event, message: Message, at: Meeting) -> None:
    if at.is_command and at.dice.hits(event, at.direction):
        message.copies_ns.append(round(float(event.params["after_s"]) * 1e9))


def _reorder(event: Event, message: Message, at: Meeting) -> None:
    if not at.is_command or at.now_ns < at.notes.get(event.number, at.now_ns):
        return  # one is held back already, and this one overtakes it
    if at.dice.hits(event, at.direction):
        message.hold_ns += round(float(event.params["by_s"]) * 1e9)
        message.refused = True  # reading back shows that nothing has changed
        at.notes[event.number] = at.now_ns + message.hold_ns


def _queued(event: Event, message: Message, at: Meeting) -> None:
    if at.is_command:
        message.hold_ns += event.end_ns - at.now_ns + round(float(event.params["after_s"]) * 1e9)
        message.refused = True


def _half_open(event: Event, message: Message, at: Meeting) -> None:
    if may_anew(event) and event.number not in at.notes:
        at.notes[event.number] = at.now_ns  # it finds the connection dead, and its sender makes a new one
        message.delay_ns = LOST


def _slow_clients(event: Event, message: Message, at: Meeting) -> None:
    message.delay_ns += stall_ns(event)


def stall_ns(event: Event) -> int:
    """Return for how long slow clients keep a device from answering others [ns]."""
    return round(float(event.params["clients"]) * float(event.params["stall_s"]) * 1e9)


def _bad_reply(event: Event, message: Message, at: Meeting) -> None:
    if at.dice.hits(event, at.direction):
        message.delay_ns = LOST
    elif at.is_command:
        met = [at.dice.hits(event, at.direction) for _ in ("power", "reading back")]
        message.heard = message.heard and not any(met)


def _late_reply(event: Event, message: Message, at: Meeting) -> None:
    # From the first late reply on, every reply is that to the request before.
    if event.number in at.notes or at.dice.hits(event, at.direction):
        at.notes[event.number] = at.now_ns
        message.delay_ns = LOST


def _exception(event: Event, message: Message, at: Meeting) -> None:
    if (at.is_command or event.params["requests"] == "all") and at.dice.hits(event, at.direction):
        message.delay_ns = LOST
        message.refused = at.is_command


def _address_change(event: Event, message: Message, at: Meeting) -> None:
    if at.is_command:  # the device that answers is another one, and the client sees it
        message.delay_ns = LOST
        message.refused = True


def _coalesced(event: Event, message: Message, at: Meeting) -> None:
    if event.params["mode"] == "cut":
        message.delay_ns += pieces_ns(event, EXCHANGED_BYTES[at.direction])
    elif at.is_command and at.dice.hits(event, at.direction):
        message.delay_ns = LOST


def pieces_ns(event: Event, size_bytes: int) -> int:
    """Return how long bytes take that are sent in pieces with pauses [ns]."""
    pieces = -(-size_bytes // int(event.params["piece_bytes"]))
    return (pieces - 1) * round(float(event.params["pause_s"]) * 1e9)


def _in_conditions(event: Event, message: Message, at: Meeting) -> None:
    """Do nothing here: it is in force for all messages alike."""


ACTS: Final[Mapping[str, Act]] = {
    "comms.latency-fixed": _fixed,
    "comms.latency": _latency,
    "comms.loss": _loss,
    "comms.duplicate": _duplicate,
    "comms.reorder": _reorder,
    "comms.partition": _in_conditions,
    "comms.partition-one-way": _in_conditions,
    "comms.half-open": _half_open,
    "comms.slow-loris": _slow_clients,
    "comms.reset": _bad_reply,
    "comms.truncated-frame": _bad_reply,
    "comms.wrong-transaction-id": _bad_reply,
    "comms.wrong-unit-id": _bad_reply,
    "comms.checksum-error": _bad_reply,
    "comms.late-reply": _late_reply,
    "comms.exception": _exception,
    "comms.connection-limit": _in_conditions,
    "comms.address-change": _address_change,
    "comms.coalesced": _coalesced,
    "comms.queued-commands": _queued,
}
"""What each fault of the network does to one message."""


@dataclass(frozen=True, slots=True)
class Met:
    """What became of one message for each device, shape (n,).

    Attributes
    ----------
    delay_ns : Times
        Until it arrives, or `LOST` [ns].
    unheard, refused : Mask
        Of commands: the sender does not hear, or is told no, whatever the device does.
    copies : tuple of (int, int)
        Further arrivals: row and delay [ns].
    """

    delay_ns: Times
    unheard: Mask
    refused: Mask
    copies: tuple[tuple[int, int], ...] = ()


class MessageFaults:
    """Faults of the network of one run, in one direction.

    Parameters
    ----------
    seed : int
    names : sequence of str, length n
        Of the devices: a stream of chance for each fault and each device.
    direction : str
        `COMMANDS` or `TELEMETRY`.
    timeout_ns : int
        A message later than this is abandoned by its sender, so it counts as lost [ns].
    """

    def __init__(self, seed: int, names: Sequence[str], direction: str, timeout_ns: int) -> None:
        self._direction, self._timeout_ns = direction, timeout_ns
        self._dice = [Dice(seed, name) for name in names]
        self._notes: list[dict[int, int]] = [{} for _ in names]
        self._seen: Sequence[Event] = ()
        self._mine: list[Event] = []
        self._none = np.zeros(len(names), dtype=np.bool_)

    def meet(self, now_ns: int, events: Sequence[Event], delay_ns: Times, sent: Mask) -> Met:
        """Return what becomes of one message per device.

        Parameters
        ----------
        now_ns : int
            [ns].
        events : sequence of Event
            In force now; those of other places are passed over.
        delay_ns : Times, shape (n,)
            As `Fates` has drawn them [ns].
        sent : Mask, shape (n,)
            Devices to or from which there is a message.
        """
        if events is not self._seen:
            self._seen = events
            self._mine = [
                event for event in events if ACTS.get(event.fault, _in_conditions) != _in_conditions
            ]
        if not self._mine:
            return Met(self._in_time(delay_ns), self._none, self._none)
        delay_ns, unheard, refused = delay_ns.copy(), self._none.copy(), self._none.copy()
        held_ns = np.zeros_like(delay_ns)
        copies: list[tuple[int, int]] = []
        for row in sorted({row for event in self._mine for row in event.targets}):
            if not sent[row] or delay_ns[row] == LOST:
                continue
            message = self._pass(now_ns, row, int(delay_ns[row]))
            delay_ns[row], held_ns[row] = message.delay_ns, message.hold_ns
            unheard[row], refused[row] = not message.heard, message.refused
            if message.delay_ns != LOST:
                arrival_ns = message.delay_ns + message.hold_ns
                copies += [(row, arrival_ns + later_ns) for later_ns in message.copies_ns]
        delay_ns = self._in_time(delay_ns)
        # Its sender has given up, but what was held back comes all the same.
        return Met(np.where(delay_ns == LOST, LOST, delay_ns + held_ns), unheard, refused, tuple(copies))

    def _pass(self, now_ns: int, row: int, delay_ns: int) -> Message:
        """Let one message meet the events in force on its device, in their order."""
        message = Message(delay_ns)
        for event in self._mine:
            if message.delay_ns == LOST:
                break
            if row in event.targets:
                at = Meeting(now_ns, self._direction, self._dice[row], self._notes[row])
                ACTS[event.fault](event, message, at)
        return message

    def _in_time(self, delay_ns: Times) -> Times:
        return np.where(delay_ns > self._timeout_ns, LOST, delay_ns)
