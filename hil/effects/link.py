"""Bytes of the connection between a client and a device: faults of the network where there are registers.

Rules of this file:

- What meets a frame is a function in `ACTS`; what meets a connection as a whole is one of the small functions
  below it.  Which events are in force, and when bytes arrive, is the business of `link`.
- A message is the request of a write or the reply to a read; or a whole poll or command, as at the model
  level, where somebody says when these begin.  Faults of the way meet messages, once each; faults of replies
  meet replies.
- Frames keep their framing: a new transaction id or a new checksum where a frame is made or changed, but for
  the faults that spoil just these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from ridethrough.emulator._modbus import crc16

from ..faults import Event
from ..messages import COMMANDS, TELEMETRY, Dice, pareto_ns
from .messages import has_pareto_tail, is_lost, is_plain_loss, may_anew, stall_ns, transit_ns

HEADER_BYTES: Final = 7
"""Of a Modbus/TCP frame, unit id included."""

HELD_FRAMES_MAX: Final = 1000
"""Frames that the network keeps back for one device at most; the oldest are dropped."""

_ECHOED: Final = frozenset({5, 6, 22})
_COUNTED: Final = frozenset({15, 16})
"""Functions whose reply repeats the request, and whose reply repeats its first five bytes."""


def function_of(frame: bytes, serial: bool) -> int:
    """Return the function code of a frame; that of the request, in an exception."""
    return frame[1 if serial else HEADER_BYTES] & 0x7F


def body_of(frame: bytes, serial: bool) -> bytes:
    """Return the function code and what follows it."""
    return frame[1:-2] if serial else frame[HEADER_BYTES:]


def framed(body: bytes, like: bytes, serial: bool) -> bytes:
    """Return a body in a frame with the transaction id and the unit of another one."""
    if serial:
        return sealed(like[:1] + body)
    return b"%b%b%c%b" % (like[:4], (1 + len(body)).to_bytes(2), like[6], body)


def sealed(data: bytes) -> bytes:
    """Return the bytes of a frame on a serial line with their checksum behind them."""
    return data + crc16(data).to_bytes(2, "little")


def acknowledgement(request: bytes, serial: bool) -> bytes:
    """Return what a device answers to a write that it carries out; nothing where that cannot be known."""
    body = body_of(request, serial)
    if body[0] in _ECHOED:
        return framed(body, request, serial)
    return framed(body[:5], request, serial) if body[0] in _COUNTED else b""


@dataclass(slots=True)
class Passage:
    """One frame on its way, to be changed by what it meets.

    Attributes
    ----------
    frame : bytes
    now_ns : int
        When it was sent [ns].
    up : bool
        From the client to the device.
    is_write : bool
        A write, or the reply to one.
    serial : bool
        It has a checksum and no transaction id.
    is_message : bool
        The faults of the way meet it.
    counts : bool
        Chance is asked about it: it does not belong to a message that was decided about before.
    follows : bool
        It came in one piece with a frame before it.
    delay_ns : int
        On the way [ns].
    lost : bool
        It does not arrive.
    end : "", "eof" or "reset"
        How the connection ends behind it.
    answer : bytes
        What its sender gets back from the network.
    piece_bytes, pause_ns : int
        It arrives in pieces of this size, with pauses between them [ns]; 0: whole.
    """

    frame: bytes
    now_ns: int
    up: bool
    is_write: bool
    serial: bool
    is_message: bool
    counts: bool = True
    follows: bool = False
    delay_ns: int = 0
    lost: bool = False
    end: str = ""
    answer: bytes = b""
    piece_bytes: int = 0
    pause_ns: int = 0

    @property
    def direction(self) -> str:
        """Direction of the messages that go this way."""
        return COMMANDS if self.up else TELEMETRY

    @property
    def is_command(self) -> bool:
        """Whether it is the request of a write."""
        return self.up and self.is_write


@dataclass(slots=True)
class Held:
    """A frame that the network keeps, and when it goes on to the device [ns]."""

    due_ns: int
    frame: bytes
    event: Event


class Memory:
    """What the network between a client and a device keeps, across connections.

    Parameters
    ----------
    dice : Dice
        Of the device.

    Attributes
    ----------
    held : list of Held
        In the order in which they are due; always this list.
    groups : dict of int to int
        Commands held back to be overtaken: by event, when they go on [ns].
    open_groups : set of int
        Those that the next write still belongs to.
    late : dict of int to bytes
        The reply that came too late and is next, by event.
    decided : dict of int to bool
        Whether an event meets the message under way; for faults that meet all its requests or none.
    last_reply : bytes
    """

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.held: list[Held] = []
        self.groups: dict[int, int] = {}
        self.open_groups: set[int] = set()
        self.late: dict[int, bytes] = {}
        self.decided: dict[int, bool] = {}
        self.last_reply = b""

    def hold(self, due_ns: int, frame: bytes, event: Event) -> None:
        """Keep a frame until it is due, behind all that are due as early."""
        self.held.append(Held(due_ns, frame, event))
        self.held.sort(key=lambda held: held.due_ns)
        del self.held[:-HELD_FRAMES_MAX]

    def due(self, now_ns: int) -> list[bytes]:
        """Hand out the frames that are due."""
        count = sum(held.due_ns <= now_ns for held in self.held)
        frames = [held.frame for held in self.held[:count]]
        del self.held[:count]
        return frames

    def let_go(self, now_ns: int, numbers: frozenset[int]) -> None:
        """Let no frame wait longer for an event that was ended early; `numbers` are those in force."""
        for held in self.held:
            if held.event.fault == "comms.queued-commands" and held.event.number not in numbers:
                held.due_ns = min(held.due_ns, now_ns + _after_ns(held.event))
        self.held.sort(key=lambda held: held.due_ns)


def _after_ns(event: Event) -> int:
    return round(float(event.params["after_s"]) * 1e9)


Act = Callable[[Event, Passage, Memory], None]


def _elsewhere(event: Event, passage: Passage, memory: Memory) -> None:
    """Do nothing here: it meets the connection, or is in force for all messages alike."""


def _fixed(event: Event, passage: Passage, memory: Memory) -> None:
    if passage.is_message:
        passage.delay_ns += transit_ns(event, len(passage.frame))


def _latency(event: Event, passage: Passage, memory: Memory) -> None:
    if passage.is_message and has_pareto_tail(event):
        chance = np.array(memory.dice.draw(event.fault, passage.direction))
        mean_ns, p99_ns = (float(event.params[f"latency_s_{name}"]) * 1e9 for name in ("mean", "p99"))
        passage.delay_ns += int(pareto_ns(chance, mean_ns, p99_ns))


def _loss(event: Event, passage: Passage, memory: Memory) -> None:
    if not passage.is_message or is_plain_loss(event):
        return
    if is_lost(event, memory.dice, passage.direction):
        if event.params.get("shows") == "stall":
            passage.delay_ns += round(float(event.params["stall_s"]) * 1e9)
        else:
            passage.lost = True
            passage.end = "reset" if event.params.get("shows") == "reset" else ""


def _duplicate(event: Event, passage: Passage, memory: Memory) -> None:
    if passage.is_command and _hits_requests(event, passage, memory):
        memory.hold(passage.now_ns + _after_ns(event), passage.frame, event)


def _hits_requests(event: Event, passage: Passage, memory: Memory) -> bool:
    """Whether an event meets a request: all of a message, or none."""
    if passage.counts:
        memory.decided[event.number] = memory.dice.hits(event, passage.direction)
    return memory.decided.get(event.number, False)


def _reorder(event: Event, passage: Passage, memory: Memory) -> None:
    if not passage.is_command:
        if passage.up:  # what is read back ends a command of several writes
            memory.open_groups.discard(event.number)
        return
    due_ns = memory.groups.get(event.number, 0)
    if event.number not in memory.open_groups:
        if passage.now_ns < due_ns or not _hits_requests(event, passage, memory):
            return  # one is held back already, and this one overtakes it
        due_ns = passage.now_ns + round(float(event.params["by_s"]) * 1e9)
        memory.groups[event.number] = due_ns
        memory.open_groups.add(event.number)
    _keep(passage, memory, event, due_ns)


def _queued(event: Event, passage: Passage, memory: Memory) -> None:
    if passage.is_command:
        _keep(passage, memory, event, event.end_ns + _after_ns(event))


def _keep(passage: Passage, memory: Memory, event: Event, due_ns: int) -> None:
    """Keep a write and tell its sender that it was carried out."""
    memory.hold(due_ns, passage.frame, event)
    passage.lost = True
    passage.answer = acknowledgement(passage.frame, passage.serial)


def _slow_clients(event: Event, passage: Passage, memory: Memory) -> None:
    if passage.is_message:
        passage.delay_ns += stall_ns(event)


def _hits_reply(event: Event, passage: Passage, memory: Memory) -> bool:
    return not passage.up and passage.counts and memory.dice.hits(event, passage.direction)


def _reset(event: Event, passage: Passage, memory: Memory) -> None:
    if _hits_reply(event, passage, memory):
        passage.lost, passage.end = True, "reset"


def _truncated(event: Event, passage: Passage, memory: Memory) -> None:
    if _hits_reply(event, passage, memory):
        passage.frame = passage.frame[: min(int(event.params["kept_bytes"]), len(passage.frame) - 1)]
        passage.end = "" if event.params["end"] == "nothing" else str(event.params["end"])


def _wrong_transaction(event: Event, passage: Passage, memory: Memory) -> None:
    if not _hits_reply(event, passage, memory):
        return
    if passage.serial:  # there is no id that could be wrong: to the client it is no reply at all
        passage.lost = True
        return
    wrong = (int.from_bytes(passage.frame[:2]) + int(event.params["shift"])) % 0x10000
    passage.frame = wrong.to_bytes(2) + passage.frame[2:]


def _wrong_unit(event: Event, passage: Passage, memory: Memory) -> None:
    if not _hits_reply(event, passage, memory):
        return
    if event.params["wrong"] == "client":
        passage.lost, passage.frame = not memory.last_reply, memory.last_reply
        return
    place = 0 if passage.serial else HEADER_BYTES - 1
    frame, wrong = passage.frame, (passage.frame[place] + int(event.params["shift"])) % 0x100
    passage.frame = b"%b%c%b" % (frame[:place], wrong, frame[place + 1 :])
    if passage.serial:
        passage.frame = sealed(passage.frame[:-2])


def _checksum(event: Event, passage: Passage, memory: Memory) -> None:
    if passage.up and not passage.serial:
        return  # to the client, a spoilt request is the same silence as a spoilt reply
    if not passage.counts or not memory.dice.hits(event, passage.direction):
        return
    if not passage.serial:  # the converter between network and line drops what it cannot check
        passage.lost = True
        return
    bit = int(memory.dice.draw(event.fault, passage.direction) * 8 * len(passage.frame))
    spoilt = bytearray(passage.frame)
    if event.params["noise"] == "flip":
        spoilt[bit // 8] ^= 1 << bit % 8
    else:
        del spoilt[bit // 8]
    passage.frame = bytes(spoilt)


def _late_reply(event: Event, passage: Passage, memory: Memory) -> None:
    if passage.up:
        return
    late = memory.late.get(event.number)
    if late is None and not _hits_reply(event, passage, memory):
        return
    # From the first late reply on, every reply is that to the request before.
    memory.late[event.number] = body_of(passage.frame, passage.serial)
    if late is None:
        passage.lost = True
    else:
        passage.frame = framed(late, passage.frame, passage.serial)


def _exception(event: Event, passage: Passage, memory: Memory) -> None:
    if not passage.up or not (passage.is_write or event.params["requests"] == "all"):
        return
    if _hits_requests(event, passage, memory):
        function = function_of(passage.frame, passage.serial)
        body = bytes((function | 0x80, int(event.params["code"])))
        passage.lost, passage.answer = True, framed(body, passage.frame, passage.serial)


def _coalesced(event: Event, passage: Passage, memory: Memory) -> None:
    if event.params["mode"] == "cut":
        passage.piece_bytes = int(event.params["piece_bytes"])
        passage.pause_ns = round(float(event.params["pause_s"]) * 1e9)
    elif passage.follows or (
        passage.is_command and passage.counts and memory.dice.hits(event, passage.direction)
    ):
        passage.lost = passage.up


ACTS: Final[Mapping[str, Act]] = {
    "comms.latency-fixed": _fixed,
    "comms.latency": _latency,
    "comms.loss": _loss,
    "comms.duplicate": _duplicate,
    "comms.reorder": _reorder,
    "comms.partition": _elsewhere,
    "comms.partition-one-way": _elsewhere,
    "comms.half-open": _elsewhere,
    "comms.slow-loris": _slow_clients,
    "comms.reset": _reset,
    "comms.truncated-frame": _truncated,
    "comms.wrong-transaction-id": _wrong_transaction,
    "comms.wrong-unit-id": _wrong_unit,
    "comms.checksum-error": _checksum,
    "comms.late-reply": _late_reply,
    "comms.exception": _exception,
    "comms.connection-limit": _elsewhere,
    "comms.address-change": _elsewhere,
    "comms.coalesced": _coalesced,
    "comms.queued-commands": _queued,
}
"""What each fault of the network does to one frame."""

IN_CONDITIONS: Final = frozenset(
    {"comms.latency", "comms.loss", "comms.partition", "comms.partition-one-way"}
)
"""Faults that meet all messages alike, by `messages.Conditions`."""


def meets_frames(event: Event) -> bool:
    """Whether an event changes single frames."""
    if event.fault in IN_CONDITIONS:
        return (event.fault == "comms.loss" and not is_plain_loss(event)) or (
            event.fault == "comms.latency" and has_pareto_tail(event)
        )
    return ACTS.get(event.fault, _elsewhere) != _elsewhere


def deadens(event: Event, made_ns: int) -> bool:
    """Whether an event lets a connection die without a sign that was made at some time [ns]."""
    return event.fault == "comms.half-open" and (not may_anew(event) or made_ns < event.start_ns)


def turned_away(event: Event) -> str:
    """Return what a client meets that wants to connect: nothing special, or refuse, reset or hang."""
    if event.fault == "comms.connection-limit":
        return str(event.params["refusal"])
    return ""


def ends_connections(event: Event) -> bool:
    """Whether an event ends connections that there were."""
    return event.fault == "comms.connection-limit"


def answering_row(event: Event, row: int, n: int) -> int:
    """Return the row of the device that has the address of another one; -1 when there is none.

    Notes
    -----
    Several targets change their addresses round; a single one gets the next device of the pool in its place.
    """
    if event.fault != "comms.address-change":
        return row
    if len(event.targets) > 1:
        return event.targets[(event.targets.index(row) + 1) % len(event.targets)]
    return (row + 1) % n if n > 1 else -1
