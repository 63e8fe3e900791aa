"""The network between one client and one device, as bytes and times; it does no I/O and has no clock.

Who moves the bytes, sockets or a network in memory, asks a `Link` what becomes of them:

- before a connection is made, `Link.admit`;
- for every piece of bytes that one end has written, `Pipe.send`; each `Parcel` it returns is to be delivered
  at its time, to the other end or, where it says ``back``, to the end that wrote;
- when an end writes no more, `Pipe.finish`.  When the client closes its connection altogether, what is still
  under way in either direction is dropped first, and then ``up.finish`` tells what the device's end sees.

Rules of this file: the parcels of one pipe are delivered in order, as TCP does it: none is due before the one
before it.  Before bench time 0 there are no faults and no delays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, cast

import numpy as np

from .effects.link import (
    ACTS,
    HEADER_BYTES,
    IN_CONDITIONS,
    Memory,
    Passage,
    answering_row,
    deadens,
    ends_connections,
    meets_frames,
    turned_away,
)
from .effects.messages import Conditions, conditions_of
from .faults import Event
from .messages import COMMANDS, LOST, TELEMETRY, Dice, delay_ns
from .streams import stream

if TYPE_CHECKING:
    from .world import Comms

End = Literal["", "eof", "reset"]
"""How a stream ends: not yet, because the other end writes no more, or by a reset at both ends."""

Admission = Literal["accept", "refuse", "reset", "hang"]
"""What a client meets that wants to connect: a connection, a refusal, a connection that is reset at once, or
nothing at all until it gives up."""


class Parcel(NamedTuple):
    """Bytes that arrive together, and what the receiver sees behind them.

    Attributes
    ----------
    due_ns : int
        When they arrive [ns].
    data : bytes
        May be empty.
    end : "", "eof" or "reset"
        Behind the bytes: nothing; the end of what the other end writes; or a reset, which both ends see and
        which drops everything that is still under way.
    back : bool
        They arrive at the end that has just written, and not at the other one.
    """

    due_ns: int
    data: bytes
    end: End = ""
    back: bool = False


class Pipe(Protocol):
    """One direction of a connection."""

    def send(self, now_ns: int, data: bytes) -> Sequence[Parcel]:
        """Return what becomes of bytes written now; nothing when they are lost or held."""

    def finish(self, now_ns: int, end: End) -> Sequence[Parcel]:
        """Return what becomes of the end of the stream (``eof``) or of a reset; nothing if nobody sees it."""


class Link(Protocol):
    """One connection from a client to a device.

    Attributes
    ----------
    up, down : Pipe
        From the client to the device, and from the device to the client.
    """

    @property
    def up(self) -> Pipe:
        """What the client writes."""

    @property
    def down(self) -> Pipe:
        """What the device writes."""

    def admit(self, now_ns: int) -> Admission:
        """Return what the client meets that wants to connect now; asked once, before the device is."""

    def device(self, now_ns: int) -> int:
        """Return the row of the device that answers at this address now; -1 when none does."""


_BLOCK: Final = 512
_WRITES: Final = frozenset({5, 6, 15, 16, 22, 23})
_FRAME_BYTES_MAX: Final = 260


class Frames:
    """Cuts a byte stream at the frame borders that the Modbus/TCP length gives."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes; a stream out of step is passed on as it comes."""
        if not self._held and len(data) > HEADER_BYTES and 6 + (data[4] << 8 | data[5]) == len(data):
            return [data]
        held, frames = self._held + data, []
        while len(held) > HEADER_BYTES:
            size = 6 + int.from_bytes(held[4:6])
            if not HEADER_BYTES < size <= _FRAME_BYTES_MAX:
                size = len(held)
            if len(held) < size:
                break
            frames.append(held[:size])
            held = held[size:]
        self._held = held
        return frames


class SerialFrames:
    """Takes each piece of bytes for one frame, as silence ends a frame on a serial line."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes."""
        return [data] if len(data) > 1 else []


class _Fates:
    """Loss and delay of the messages of one direction, in order; the draws are those of `messages.Fates`."""

    def __init__(self, seed: int, name: str, direction: str) -> None:
        self._stream = stream(seed, f"{name}/comms/{direction}")
        self._direction = direction
        self._block = np.empty((2, _BLOCK))
        self._fates: list[int] = []
        self._of: Conditions | None = None
        self._next = _BLOCK

    def draw(self, conditions: Conditions) -> int:
        """Return the delay of one message, or `LOST` [ns]."""
        if self._next == _BLOCK:
            self._block, self._next, self._of = self._stream.random((2, _BLOCK)), 0, None
        if self._of is not conditions:
            self._of = conditions
            late_ns = delay_ns(self._block[1], conditions.latency_ns_mean, conditions.latency_ns_p99)
            cut = conditions.cut_commands if self._direction == COMMANDS else conditions.cut_telemetry
            lost = cut | (self._block[0] < conditions.loss_frac)
            self._fates = np.where(lost, LOST, late_ns.astype(np.int64)).tolist()
        self._next += 1
        return self._fates[self._next - 1]


class Route:
    """The network between one client and one device; it outlives connections.

    Parameters
    ----------
    seed : int
        Of the run.
    names : sequence of str
        Of all devices of the pool.
    row : int
        Of this device.
    comms : Comms
        The network without faults.
    events : callable
        Given an instant, the events in force; the same object as before while they are the same.
    serial : bool
        Frames are those of Modbus RTU, each in a piece of its own.

    Attributes
    ----------
    touched_ns : int
        When the network last did what a client can take for a failure; -1: never [ns].
    """

    def __init__(
        self,
        seed: int,
        names: Sequence[str],
        row: int,
        comms: Comms,
        events: Callable[[int], Sequence[Event]],
        *,
        serial: bool = False,
    ) -> None:
        self.row, self.n, self.serial = row, len(names), serial
        self.memory = Memory(Dice(seed, names[row]))
        self.fates = tuple(_Fates(seed, names[row], each) for each in (TELEMETRY, COMMANDS))
        self.events, self.timeout_ns = events, comms.timeout_ns
        self._comms = comms
        self.seen: Sequence[Event] | None = None
        self.touched_ns = -1
        self.conditions: Conditions | None = None
        self.mine: tuple[Event, ...] = ()
        self.meets: tuple[Event, ...] = ()
        self.turn: Turn | None = None
        self.answering = row
        """Row of the device that answers at this address; -1 when none does."""

    def link(self) -> Connection:
        """Return a connection that is about to be made."""
        return Connection(self)

    def begin(self, is_command: bool) -> None:
        """Let all that passes until the next call be one message: loss, delay and the like meet it once.

        Without a call every request of a write and every reply to a read is a message of its own, as a client
        that nobody knows has it.
        """
        self.turn = Turn(is_command)
        self.memory.decided.clear()

    def look(self, now_ns: int) -> None:
        """See which events are in force."""
        if now_ns < 0:
            self.seen, self.conditions, self.mine, self.meets = None, None, (), ()
            self.answering = self.row
            return
        events = self.events(now_ns)
        if events is not self.seen:
            self._take(now_ns, events)

    def _take(self, now_ns: int, events: Sequence[Event]) -> None:
        """Let these events be in force."""
        self.seen = events
        self.mine = tuple(event for event in events if self.row in event.targets and event.fault in ACTS)
        self.meets = tuple(event for event in self.mine if meets_frames(event))
        others = [answering_row(event, self.row, self.n) for event in self.mine]
        self.answering = next((row for row in others if row != self.row), self.row)
        alike = [replace(event, targets=(0,)) for event in self.mine if event.fault in IN_CONDITIONS]
        self.conditions = conditions_of(alike, 1, self._comms)
        self.memory.let_go(now_ns, frozenset(event.number for event in self.mine))


class Turn:
    """One message of several frames: a whole poll, or a whole command with its reading back.

    Parameters
    ----------
    is_command : bool

    Attributes
    ----------
    is_open : bool
        Chance has not decided about its way yet.
    is_lost : bool
        It has, and nothing of the message arrives any more.
    """

    def __init__(self, is_command: bool) -> None:
        self.is_command = is_command
        self.is_open = True
        self.is_lost = False
        self._met = [False, False]

    def takes(self, up: bool) -> bool:
        """Whether chance decides now about its way: with the first write of a command or reply to a poll."""
        takes = self.is_open and up == self.is_command
        self.is_open = self.is_open and not takes
        return takes

    def counts(self, *, up: bool, is_write: bool) -> bool:
        """Whether chance is asked about a frame.

        It is about the first request and the first reply of a poll, and about the first write of a command
        and all replies from there on.
        """
        if self.is_command and not up:
            return self._met[True]
        counts = not self._met[up] and (is_write or not self.is_command)
        self._met[up] = self._met[up] or counts
        return counts


class Connection:
    """One connection on a route; a `Link`."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.up = _Pipe(self, up=True)
        self.down = _Pipe(self, up=False)
        self.row = route.row
        self.made_ns = -1
        self.dead = False
        self.ghosts: list[bytes] = []
        """Transaction ids of requests that are the network's own; on a serial line, one empty for each."""

    def admit(self, now_ns: int) -> Admission:
        """Return what the client meets that wants to connect now."""
        route = self.route
        self.made_ns = now_ns
        route.look(now_ns)
        self.row = route.answering
        met = next(filter(None, map(turned_away, route.mine)), "")
        if not met and (self.is_dead() or self.row < 0):
            met = "hang"  # nobody answers the call
        if met:
            route.touched_ns = now_ns
        return cast("Admission", met or "accept")

    def device(self, now_ns: int) -> int:
        """Return the row of the device that answers at this address now; -1 when none does."""
        self.route.look(now_ns)
        return self.route.answering

    def is_dead(self) -> bool:
        """Whether it has died without a sign; it does not come back to life."""
        self.dead = self.dead or any(deadens(event, self.made_ns) for event in self.route.mine)
        return self.dead

    def is_ended(self) -> bool:
        """Whether what is at the other end has ended it, or is another device by now."""
        return self.route.answering != self.row or any(map(ends_connections, self.route.mine))

    def dead_until_ns(self, now_ns: int) -> int:
        """Return when the device's end of a dead connection learns of it [ns]."""
        return max([now_ns, *(event.end_ns for event in self.route.mine if deadens(event, self.made_ns))])


class _Pipe:
    """One direction of a connection; a `Pipe`."""

    def __init__(self, link: Connection, *, up: bool) -> None:
        self._link, self._up = link, up
        self._route = link.route
        self._frames = SerialFrames() if link.route.serial else Frames()
        self._place = 1 if link.route.serial else HEADER_BYTES
        self._fates = link.route.fates[up]
        self._held = link.route.memory.held
        self.last_due_ns = -(2**63)
        """When the last parcel of this direction is due [ns]."""

    def send(self, now_ns: int, data: bytes) -> Sequence[Parcel]:
        """Return what becomes of bytes written now."""
        route, link = self._route, self._link
        if now_ns < 0 or route.events(now_ns) is not route.seen:
            route.look(now_ns)
        if route.mine or self._held or link.ghosts or link.dead or link.row != route.answering:
            return self._send_in_weather(now_ns, data)
        conditions, up, place = route.conditions, self._up, self._place
        out = []
        for frame in self._frames.feed(data):
            due_ns = now_ns
            if conditions is not None and ((frame[place] & 0x7F) in _WRITES) == up:
                fate_ns = self._fate_ns(conditions, route.turn)
                if fate_ns == LOST or fate_ns > route.timeout_ns:
                    route.touched_ns = now_ns
                if fate_ns == LOST:
                    continue
                due_ns += fate_ns
            if due_ns < self.last_due_ns:
                due_ns = self.last_due_ns
            self.last_due_ns = due_ns
            out.append(Parcel(due_ns, frame))
        return out

    def _fate_ns(self, conditions: Conditions, turn: Turn | None) -> int:
        """Return the delay of a request to write or a reply to a read, or `LOST` [ns]."""
        up = self._up
        if turn is None or turn.takes(up):
            fate_ns = self._fates.draw(conditions)
            if turn is not None and fate_ns == LOST:
                turn.is_lost = True
            return fate_ns
        cut = conditions.cut_commands if up else conditions.cut_telemetry
        return LOST if turn.is_lost or cut[0] else 0

    def _send_in_weather(self, now_ns: int, data: bytes) -> Sequence[Parcel]:
        """Return what becomes of bytes that meet more than the weather of all messages."""
        route, link = self._route, self._link
        dead = link.is_dead()
        if dead or (self._up and link.is_ended()):
            route.touched_ns = now_ns
            return () if dead else (Parcel(now_ns, b"", "reset"),)
        out: list[Parcel] = []
        frames = self._frames.feed(data)
        if self._up and frames:
            out += self._release(now_ns, frames[0])
        for k, frame in enumerate(frames):
            if self._up or not self._is_ghost(frame):
                out += self._pass(now_ns, frame, follows=k > 0)
        return out

    def finish(self, now_ns: int, end: End) -> Sequence[Parcel]:
        """Return what becomes of the end of the stream, or of a reset."""
        link = self._link
        link.route.look(now_ns)
        if not link.is_dead():
            return (Parcel(self.in_turn(now_ns), b"", end),)
        if not self._up:
            return ()
        return (Parcel(link.dead_until_ns(now_ns), b"", "reset"),)

    def in_turn(self, due_ns: int) -> int:
        """Return when a parcel arrives: bytes of one connection cannot overtake each other [ns]."""
        self.last_due_ns = max(self.last_due_ns, due_ns)
        return self.last_due_ns

    def _pass(self, now_ns: int, frame: bytes, *, follows: bool) -> Iterator[Parcel]:
        """Let one frame meet the weather and the events in force, in their order."""
        route = self._route
        is_write = (frame[self._place] & 0x7F) in _WRITES
        is_message, turn = is_write == self._up, route.turn
        is_first = is_message and (turn is None or (turn.is_open and turn.is_command == self._up))
        passage = Passage(frame, now_ns, self._up, is_write, route.serial, is_first)
        passage.follows = follows
        passage.counts = turn is None or turn.counts(up=self._up, is_write=is_write)
        if route.conditions is not None and is_message:
            passage.delay_ns = self._fate_ns(route.conditions, turn)
            passage.lost = passage.delay_ns == LOST
        for event in route.meets:
            if not passage.lost:
                ACTS[event.fault](event, passage, route.memory)
        if not self._up:
            route.memory.last_reply = frame
        if passage.lost or passage.frame != frame or passage.delay_ns > route.timeout_ns:
            route.touched_ns = now_ns
        due_ns = now_ns + max(passage.delay_ns, 0)
        if passage.answer:
            yield Parcel(self._link.down.in_turn(due_ns), passage.answer, back=True)
        if not passage.lost:
            yield from self._pieces(due_ns, passage)
        elif passage.end:
            yield Parcel(self.in_turn(due_ns), b"", cast("End", passage.end))

    def _pieces(self, due_ns: int, passage: Passage) -> Iterator[Parcel]:
        """Cut a frame that goes on, as it is asked."""
        frame, size = passage.frame, passage.piece_bytes or len(passage.frame)
        for k in range(0, len(frame), size):
            end = passage.end if k + size >= len(frame) else ""
            due_ns = self.in_turn(due_ns + (passage.pause_ns if k else 0))
            yield Parcel(due_ns, frame[k : k + size], cast("End", end))

    def _release(self, now_ns: int, first: bytes) -> Iterator[Parcel]:
        """Send what the network has kept and is due, in front of the client's own frames."""
        route = self._route
        if route.conditions is not None and route.conditions.cut_commands[0]:
            return
        for k, frame in enumerate(route.memory.due(now_ns)):
            ghost = b""
            if not route.serial:
                ghost = ((int.from_bytes(first[:2]) + 0x8000 + k) % 0x10000).to_bytes(2)
                frame = ghost + frame[2:]
            self._link.ghosts.append(ghost)
            yield Parcel(self.in_turn(now_ns), frame)

    def _is_ghost(self, frame: bytes) -> bool:
        """Whether a reply is one to the network itself."""
        ghosts = self._link.ghosts
        ghost = b"" if self._route.serial else frame[:2]
        if ghost not in ghosts:
            return False
        ghosts.remove(ghost)
        return True
