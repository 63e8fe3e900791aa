"""Modbus server on a serial line, RTU or ASCII: asyncio around `serial_frames` and the core of `_modbus`.

Rule of this file: characters, their times and the port only; what is a frame is decided in `serial_frames`,
what a request means in the core.  Time comes from the loop alone.

The line is half-duplex: what comes while a reply waits or is being sent is an echo or a collision, and is
thrown away and counted.

Line speed.  A UART paces by itself.  A pseudo terminal hands bytes over at once, whatever speed its client
has set, so we emulate it: a request has arrived when its characters' time has passed, and no byte of a reply
is readable before its own time.  The other way round, a client of our own pseudo terminal (path "pty") that
has set another speed is not understood, as on a wire.  What a pseudo terminal has not is parity and framing
errors.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

from ._modbus import SerialServer
from .errors import InvariantError, ScenarioError
from .serial_frames import NS_PER_S, Arrivals, AsciiReceiver, Receiver, RtuReceiver, Timing
from .serial_port import Port, open_port, open_pty

if TYPE_CHECKING:
    from ._modbus import Unit

BAUD_MIN: Final = 300
BAUD_MAX: Final = 4_000_000
PARITIES: Final = ("N", "E", "O")
UART_LATENCY_NS: Final = 20_000_000
"""A UART's FIFO holds its last characters back for four more, a USB adapter for up to 16 ms."""
LAG_NS_MAX: Final = NS_PER_S
"""A client that writes faster than the line is read up to here only; it waits, as at a UART's buffer."""
STEP_NS: Final = 2_000_000
"""A reply is sent in pieces of about this time; the loop's timers are good to 1 ms."""
PIECE_BYTES: Final = 1024


@dataclass(slots=True)
class LineCounts:
    """What has happened on one line.

    Attributes
    ----------
    frames : int
        Frames given to the core, broken ones and those for others included.
    replies : int
        Replies sent to the end.
    collision_bytes : int
        Bytes thrown away because they came while we were answering.
    foreign_speed_bytes : int
        Bytes thrown away because their sender had set another speed than ours.
    unsent_bytes : int
        Bytes of replies lost because the client of a pseudo terminal does not read.
    """

    frames: int = 0
    replies: int = 0
    collision_bytes: int = 0
    foreign_speed_bytes: int = 0
    unsent_bytes: int = 0


class SerialLine:
    """A serial line being served; made by `serve_serial`.

    Attributes
    ----------
    timing : Timing
    emulate_speed : bool
        Whether the line's speed is emulated.
    counts : LineCounts
    """

    def __init__(
        self,
        core: SerialServer,
        port: Port,
        timing: Timing,
        *,
        ascii_: bool,
        emulate: bool,
        turnaround_ns: int,
    ) -> None:
        self.timing = timing
        self.emulate_speed = emulate
        self.counts = LineCounts()
        self._loop = asyncio.get_running_loop()
        self._core = core
        self._execute = core.ascii if ascii_ else core.rtu
        self._port: Port | None = port
        self._path = port.path
        self._turnaround_ns = turnaround_ns
        # A client of a UART gets our last characters late enough by itself to keep the silence.
        self._rest_ns = timing.silence_ns if emulate and not ascii_ else 0
        opened_ns = None if port.is_pty else self._now_ns()
        self._receiver: Receiver = AsciiReceiver(timing) if ascii_ else RtuReceiver(timing, opened_ns)
        self._arrivals = Arrivals(timing, emulate)
        self._arrivals.free_ns = self._now_ns()
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._reply = b""  # waiting or being sent; empty: we listen
        self._sent = 0
        self._began_ns = self._ended_ns = 0  # of the reply under way; of the last one
        self._error: Exception | None = None
        self._gone = asyncio.Event()
        self._loop.add_reader(port.fd, self._tick)
        self._rest()

    @property
    def path(self) -> str:
        """Where clients open the line if it is a pseudo terminal of ours, else the port served."""
        return self._path

    @property
    def baud(self) -> int:
        """Line speed [bit/s]."""
        return self.timing.baud

    @property
    def discarded(self) -> int:
        """Frames dropped because of a gap, their size or an ASCII frame that began anew."""
        return self._receiver.discarded

    async def wait_closed(self) -> None:
        """Wait until the line is closed, by us or because its port is gone."""
        await self._gone.wait()

    async def close(self) -> None:
        """Close the port; a reply under way is cut off, and nothing is left running.

        Raises
        ------
        ScenarioError
            The port had disappeared.
        InvariantError
            A unit raised while it was being served; the first such exception is the cause.
        """
        self._shut()
        error, self._error = self._error, None
        if isinstance(error, ScenarioError):
            raise error
        if error is not None:
            raise InvariantError(f"a unit raised while it was being served: {error!r}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _now_ns(self) -> int:
        return int(self._loop.time() * NS_PER_S)

    def _shut(self) -> None:
        if self._port is None:
            return
        self._loop.remove_reader(self._port.fd)
        if self._timer is not None:
            self._timer.cancel()
        self._port.close()
        self._port = None
        self._gone.set()

    def _lose(self, error: OSError | None) -> None:
        """Give up a port that does not work any more."""
        reason = "it ended" if error is None else error.strerror
        lost = ScenarioError(
            f"{self._path}: the serial port has disappeared ({reason}); plug it in again, or restart what "
            "holds its other end, then serve anew"
        )
        self._error = lost
        self._shut()
        self._loop.call_exception_handler({"message": str(lost), "exception": lost})

    def _tick(self) -> None:
        """Take what has come and answer what is complete; called by the port and by the timer."""
        self._listen()
        if self._reply:
            return
        now_ns = self._now_ns()
        while self._port is not None and not self._reply:
            frame = self._receiver.take(now_ns)
            if frame is None:
                break
            self._answer(frame)
        self._rest()

    def _listen(self) -> None:
        """Read the port and place its characters on the line."""
        if self._port is None or self._paused_still():
            return
        looked_ns = self._now_ns()
        try:
            data = os.read(self._port.fd, PIECE_BYTES)
        except BlockingIOError:
            self._arrivals.found_nothing(looked_ns)
            return
        except OSError as error:
            self._lose(error)
            return
        if not data:
            self._lose(None)
        elif self._port.foreign_speed():
            self.counts.foreign_speed_bytes += len(data)
        elif self._reply or self._is_echo(len(data)):
            self.counts.collision_bytes += len(data)
        else:
            gap_ns = self._receiver.gap_ns if self._receiver.open else None
            start_ns, end_ns = self._arrivals.place(len(data), self._now_ns(), gap_ns)
            self._receiver.receive(data, start_ns, end_ns)

    def _is_echo(self, count: int) -> bool:
        """Return whether what a UART hands over now was on the line while we were sending."""
        began_ns = self._now_ns() - self.timing.characters_ns(count)
        return not self.emulate_speed and not self._receiver.open and began_ns < self._ended_ns

    def _paused_still(self) -> bool:
        """Return whether reading must wait because the characters read so far keep the line busy."""
        assert self._port is not None
        lags = self._arrivals.free_ns - self._now_ns() > LAG_NS_MAX
        if lags and not self._paused:
            self._loop.remove_reader(self._port.fd)
        elif self._paused and not lags:
            self._loop.add_reader(self._port.fd, self._tick)
        self._paused = lags
        return lags

    def _rest(self) -> None:
        """Sleep until a frame may be complete, a gap must be looked at or reading goes on."""
        if self._port is None or self._reply:
            return
        arrivals, receiver = self._arrivals, self._receiver
        times_ns = (
            receiver.due_ns,
            arrivals.look_ns(receiver.gap_ns) if receiver.open else None,
            arrivals.free_ns - LAG_NS_MAX if self._paused else None,
        )
        self._wake(min((time_ns for time_ns in times_ns if time_ns is not None), default=None), self._tick)

    def _wake(self, time_ns: int | None, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # A microsecond more than needed: the loop's float of a time may be a little less than the time.
        self._timer = None if time_ns is None else self._loop.call_at(time_ns / NS_PER_S + 1e-6, call)

    def _answer(self, frame: bytes) -> None:
        self.counts.frames += 1
        reply = self._execute(frame)
        if self._core.last_error is not None:
            self._report(self._core.last_error)
            self._core.last_error = None
        if not reply:
            return
        self.counts.collision_bytes += self._receiver.reset()
        self._reply, self._sent = reply, 0
        self._began_ns = self._now_ns() + self._turnaround_ns
        self._wake(self._began_ns, self._send)

    def _report(self, error: Exception) -> None:
        """Surface a unit's exception: now by the loop's exception handler, and when the line closes."""
        if self._error is None:
            self._error = error
        self._loop.call_exception_handler(
            {"message": "a unit raised; its Modbus client was answered exception 04", "exception": error}
        )

    def _send(self) -> None:
        """Write what is due of the reply, and come back for the rest."""
        self._listen()  # what came before the last byte went is a collision
        if self._port is None:
            return
        now_ns, size = self._now_ns(), len(self._reply)
        if self.emulate_speed:
            due = min(size, self.timing.characters_within(now_ns - self._began_ns))
        else:
            due = size
            if self._sent == 0:
                self._began_ns = now_ns
        if self._sent < due and not self._write(self._reply[self._sent : due]):
            return
        end_ns = self._began_ns + self.timing.characters_ns(size)
        if self._sent == size and now_ns >= end_ns:
            self.counts.replies += 1
            self._reply = b""
            self._ended_ns = now_ns
            self._arrivals.free_ns = now_ns + self._rest_ns
            self._rest()
        elif not self.emulate_speed:
            self._wake(end_ns if self._sent == size else now_ns + self.timing.characters_ns(1), self._send)
        else:
            step = max(1, self.timing.characters_within(STEP_NS))
            upto = min(size, self._sent + step)
            self._wake(self._began_ns + self.timing.characters_ns(upto), self._send)

    def _write(self, data: bytes) -> bool:
        """Write some of the reply; False if the port was lost over it."""
        assert self._port is not None
        try:
            written = os.write(self._port.fd, data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._lose(error)
            return False
        if self.emulate_speed:  # a line does not wait for its reader
            self.counts.unsent_bytes += len(data) - written
            written = len(data)
        self._sent += written
        return True


def _seconds(name: str, value: float) -> int:
    """Return a time that an option gives in seconds as ns."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:
        raise ScenarioError(f"{name}: {value!r} found; allowed are 0 to 10 [s]")
    return round(value * NS_PER_S)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if isinstance(value, bool) or value not in allowed:
        raise ScenarioError(f"{name}: {value!r} found; allowed are {', '.join(map(repr, allowed))}")


async def serve_serial(
    units: Mapping[int, Unit],
    path: str,
    baud: int,
    *,
    parity: str = "E",
    stopbits: int = 1,
    bytesize: int | None = None,
    framing: Literal["rtu", "ascii"] = "rtu",
    turnaround_s: float = 0.0,
    latency_s: float | None = None,
    emulate_speed: bool | None = None,
) -> SerialLine:
    """Serve units on a serial line until the returned line is closed.

    Parameters
    ----------
    units : Mapping[int, Unit]
        The units on this line by address, 1..247; broadcasts reach all, other addresses get no answer.
    path : str
        The port, such as /dev/ttyUSB0; "pty" makes a pseudo terminal, and `SerialLine.path` tells clients
        which.
    baud : int
        Line speed [bit/s].
    parity : {"E", "N", "O"}
        The standard's default is even; without parity it wants two stop bits.
    stopbits : int
        1 or 2.
    bytesize : int, optional
        Data bits: 8 for RTU; for ASCII 7 unless told 8.
    framing : {"rtu", "ascii"}
    turnaround_s : float
        How long a request is worked on before the reply begins, besides the silence that ends it [s].
    latency_s : float, optional
        How late the port may hand over characters [s]: gaps shorter than that are not the line's.  By default
        0 for a pseudo terminal and 20 ms for a UART, which has a FIFO or hangs on USB.
    emulate_speed : bool, optional
        Whether the line speed is emulated.  By default it is when the port is a pseudo terminal, which is
        told by the name of its device: /dev/pts/N, on macOS /dev/ttysN.

    Raises
    ------
    ScenarioError
        An argument cannot be used, or the port cannot be opened; the message says why and what can.
    """
    if type(baud) is not int or not BAUD_MIN <= baud <= BAUD_MAX:
        raise ScenarioError(f"baud: {baud!r} found; allowed are whole numbers {BAUD_MIN}..{BAUD_MAX}")
    _one_of("parity", parity, PARITIES)
    _one_of("stopbits", stopbits, (1, 2))
    _one_of("framing", framing, ("rtu", "ascii"))
    ascii_ = framing == "ascii"
    bytesize = (7 if ascii_ else 8) if bytesize is None else bytesize
    _one_of("bytesize", bytesize, (7, 8) if ascii_ else (8,))
    turnaround_ns = _seconds("turnaround_s", turnaround_s)
    latency_ns = None if latency_s is None else _seconds("latency_s", latency_s)
    core = SerialServer(units)
    port = open_pty(baud) if path == "pty" else open_port(path, baud, bytesize, parity, stopbits)
    if latency_ns is None:
        latency_ns = 0 if port.is_pty else UART_LATENCY_NS
    timing = Timing(baud, 1 + bytesize + (parity != "N") + stopbits, latency_ns)
    emulate = port.is_pty if emulate_speed is None else emulate_speed
    return SerialLine(core, port, timing, ascii_=ascii_, emulate=emulate, turnaround_ns=turnaround_ns)
