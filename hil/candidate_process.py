"""A controller in a process of its own: it may do there what it likes, and the bench goes on.

Duty: start the process, ask it within a deadline, catch what it prints, and leave nothing of it behind.
Rules: nothing that comes from there is believed before it is checked, and none of it is ever run.  Whatever
goes wrong there is the controller's failure, with a reason in plain words.

The deadline is real time, whatever the bench's clock is: it bounds the wait, it is no part of the model.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ridethrough.controllers.contract import Commands, Pool, Telemetry
from ridethrough.emulator.errors import ScenarioError

from . import candidate_frames as frames
from .candidate import (
    BUNDLED,
    DEADLINE_S,
    PERIOD_S_MAX,
    PERIOD_S_MIN,
    TOLD_CHARS_MAX,
    Candidate,
    complaint,
    load_controller,
)
from .candidate_worker import LOST, Settings

KEPT_BYTES: Final = 1 << 16
"""Of what a controller prints so much is kept, the beginning; the rest is counted and dropped."""

END_S_MAX: Final = 5.0
"""The keeper is given this long to end everything, then it is ended too [s]."""

_CHUNK: Final = 1 << 20
_PIPE_BYTES: Final = 1 << 20

_DEFAULTS: Final = {
    "PYTHONHASHSEED": "0",  # sets of words in the same order every time
    "OPENBLAS_NUM_THREADS": "1",  # each thread of NumPy's would take from the address space
    "MALLOC_ARENA_MAX": "2",  # so would each arena of the C library
}
"""Environment of the process, unless the user has set it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a controller in a process of its own may use.

    Attributes
    ----------
    deadline_s : float
        Longest real time one call may take [s].
    start_s : float
        Longest real time starting Python, importing the controller and making it may take [s].
    memory_bytes : int
        Address space of each of its processes [B].
    cpu_s : int
        Processor time of each of its processes, over the whole run [s].
    files : int
        Open files of each of its processes.
    tasks : int
        Its threads and processes together.
    network : bool
        Whether it may use the machine's network.  Without it, the process gets an empty network of its
        own where the system allows that: as root, or where users may make namespaces.
    """

    deadline_s: float = DEADLINE_S
    start_s: float = 60.0
    memory_bytes: int = 4 << 30
    cpu_s: int = 3600
    files: int = 256
    tasks: int = 256
    network: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("deadline_s", 0.05, 3600.0),
            ("start_s", 0.5, 3600.0),
            ("memory_bytes", 1 << 28, 1 << 44),
            ("cpu_s", 1, 10_000_000),
            ("files", 16, 1 << 20),
            ("tasks", 1, 1 << 20),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ScenarioError(f"limit {name}: found {value!r}; allowed {low:g} to {high:g}")


def open_candidate(
    name: str, pool: Pool, *, isolate: bool = False, limits: Limits | None = None
) -> Candidate | ProcessCandidate:
    """Make the controller called `name`, here or in a process of its own; it is not enrolled yet.

    Parameters
    ----------
    name : str
        See `candidate.load_controller`.
    pool : Pool
    isolate : bool
        In a process of its own.
    limits : Limits, optional
        Of that process.

    Raises
    ------
    ScenarioError
        There is none of that name, it cannot be made, or this system cannot isolate.
    """
    if isolate:
        return ProcessCandidate(name, pool, limits or Limits())
    return Candidate(load_controller(name), pool)


class ProcessCandidate:
    """Asks one controller in a process of its own; the manners are those of `Candidate`.

    Parameters
    ----------
    name : str
    pool : Pool
    limits : Limits

    Attributes
    ----------
    period_ns : int
        [ns].
    fault : str or None
    fault_ns : int
        See `candidate.Asked`.

    Raises
    ------
    ScenarioError
        The controller cannot be had, or this system cannot isolate.
    """

    def __init__(self, name: str, pool: Pool, limits: Limits) -> None:
        self._pool, self._limits = pool, limits
        self.fault: str | None = None
        self.fault_ns = -1
        self._process = _Process(limits)
        question = {"name": BUNDLED.get(name, name), "path": [str(entry) for entry in sys.path]}
        try:
            kind, made = self._process.ask("make", question, limits.start_s)
            period_s = made.get("period_s")
        except _ProcessError as failure:
            self.close()
            raise ScenarioError(f"controller {name!r}: making it {failure}{self._printed()}") from None
        except BaseException:
            self.close()
            raise
        if kind != "made" or not isinstance(period_s, float) or not PERIOD_S_MIN <= period_s <= PERIOD_S_MAX:
            self.close()
            raise ScenarioError(_text(made) or f"controller {name!r}: its process answered {kind!r}")
        self.period_ns = round(period_s * 1e9)

    @property
    def output(self) -> str:
        """The beginning of what it has printed, and how much was dropped."""
        return self._process.output

    def enroll(self, now_ns: int = 0) -> None:
        """Hand over the pool."""
        answer = self._ask(now_ns, "enroll", frames.pool_values(self._pool))
        if answer is not None and answer[0] != "enrolled":
            self._fail(now_ns, f"enroll answered {answer[0]!r}")

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Return the controller's checked commands; none after it failed."""
        n = len(self._pool.names)
        answer = self._ask(now_ns, "decide", frames.telemetry_values(now_ns, telemetry))
        if answer is None:
            return Commands.none(n)
        kind, values = answer
        problem: str | None = _text(values) if kind == "nonsense" else f"it answered {kind!r}"
        if kind == "commands":
            try:
                commands = Commands(**values)
            except TypeError:
                problem = "commands without their parts"
            else:
                problem = complaint(commands, n)
                if problem is None:
                    return commands
        self._fail(now_ns, f"decide answered nonsense: {problem}")
        return Commands.none(n)

    def close(self) -> None:
        """End the process and all that came of it; it gets no chance to do more."""
        self._process.end()

    def _ask(self, now_ns: int, doing: str, values: frames.Values) -> tuple[str, frames.Values] | None:
        """Return the answer; None when it has failed."""
        if self.fault is not None:
            return None
        try:
            kind, answer = self._process.ask(doing, values, self._limits.deadline_s)
        except _ProcessError as failure:
            self._fail(now_ns, f"{doing} {failure}")
            return None
        if kind in ("failed", "refused"):
            self._fail(now_ns, _text(answer))
            return None
        return kind, answer

    def _fail(self, now_ns: int, fault: str) -> None:
        self.fault, self.fault_ns = fault, now_ns
        self.close()

    def _printed(self) -> str:
        """Return the last line it printed, for a controller that could not be made."""
        lines = self.output.strip().splitlines()
        return f"; it printed: {lines[-1][:TOLD_CHARS_MAX]}" if lines else ""


def _text(values: Mapping[str, object]) -> str:
    """Return the words in an answer, bounded and on one line."""
    text = " ".join(str(values.get("text", "")).split())
    return text[: 2 * TOLD_CHARS_MAX]


class _ProcessError(Exception):
    """The process did not answer; the message goes on after what it was asked."""


class _Process:
    """Keeper and worker of one controller, and the pipes to them."""

    def __init__(self, limits: Limits) -> None:
        if not sys.platform.startswith("linux"):
            raise ScenarioError(f"a controller in a process of its own: found {sys.platform}; needs Linux")
        self._limits = limits
        self._number = 0
        self._kept = bytearray()
        self._printed = 0
        self._status_text = b""
        self._fds: list[int] = []
        theirs: list[int] = []
        try:
            questions, self._questions = self._pipe(theirs, ours_writes=True)
            self._answers, answers = self._pipe(theirs, ours_writes=False)
            self._status, status = self._pipe(theirs, ours_writes=False)
            lifeline, self._lifeline = self._pipe(theirs, ours_writes=True)
            self._output, output = self._pipe(theirs, ours_writes=False)
            with suppress(OSError):
                _enlarge(self._output)
            settings = Settings(
                questions=questions,
                answers=answers,
                status=status,
                lifeline=lifeline,
                memory_bytes=limits.memory_bytes,
                cpu_s=limits.cpu_s,
                files=limits.files,
                tasks=limits.tasks,
                network=limits.network,
            )
            self._popen = subprocess.Popen(
                [sys.executable, "-u", "-m", "ridethrough.hil.candidate_worker", settings.to_text()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(questions, answers, status, lifeline),
                env={**_DEFAULTS, **os.environ},
                start_new_session=True,  # Ctrl-C is for the bench
            )
        except BaseException:
            self._close(self._fds)
            raise
        finally:
            self._close(theirs)

    def _pipe(self, theirs: list[int], *, ours_writes: bool) -> tuple[int, int]:
        """Return reading and writing end of a new pipe; ours does not block."""
        reading, writing = os.pipe()
        ours, other = (writing, reading) if ours_writes else (reading, writing)
        os.set_blocking(ours, False)
        self._fds.append(ours)
        theirs.append(other)
        return reading, writing

    @staticmethod
    def _close(fds: list[int]) -> None:
        while fds:
            os.close(fds.pop())

    @property
    def output(self) -> str:
        """What was printed, as far as it was kept."""
        text = self._kept.decode("utf-8", "replace")
        dropped = self._printed - len(self._kept)
        return f"{text}\n[{dropped} bytes more]\n" if dropped else text

    def ask(self, kind: str, values: Mapping[str, object], within_s: float) -> tuple[str, frames.Values]:
        """Return the answer to one question.

        Raises
        ------
        _ProcessError
            There is none in time, or it is no answer.
        """
        self._number += 1
        question = frames.pack(kind, {**values, "number": self._number})
        try:
            said, answer = self._exchange(memoryview(question), time.monotonic() + within_s)
        except frames.FrameError as error:
            raise _ProcessError(f"answered nonsense on its pipe: {error}") from None
        except TimeoutError:
            raise _ProcessError(f"took longer than {within_s:g} s{self._state()}") from None
        if answer.pop("number", None) != self._number:
            raise _ProcessError("answered nonsense on its pipe: an answer to another question")
        return said, answer

    def _exchange(self, question: memoryview, until_s: float) -> tuple[str, frames.Values]:
        """Write the question and read the answer, whatever is printed meanwhile."""
        waiting = select.poll()
        waiting.register(self._answers, select.POLLIN)
        waiting.register(self._output, select.POLLIN)
        waiting.register(self._questions, select.POLLOUT)
        found = bytearray()
        while True:
            left_s = until_s - time.monotonic()
            if left_s <= 0.0:
                raise TimeoutError
            ready = dict(waiting.poll(left_s * 1e3 + 1.0))
            if self._output in ready and not self._drain():
                waiting.unregister(self._output)
            if self._questions in ready:
                question = self._write(question)
                if not question:
                    waiting.unregister(self._questions)
            if self._answers in ready:
                more = os.read(self._answers, _CHUNK)
                if not more:
                    raise _ProcessError(self._ended())
                found += more
                if (whole := _whole(found)) is not None:
                    return whole

    def _write(self, question: memoryview) -> memoryview:
        """Write what the pipe takes; return the rest."""
        try:
            return question[os.write(self._questions, question) :]
        except BlockingIOError:
            return question
        except BrokenPipeError:  # the end of the other pipe will say why
            return question[len(question) :]

    def _drain(self) -> bool:
        """Take in what was printed, once; False when nobody can print any more."""
        try:
            printed = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return True
        self._printed += len(printed)
        self._kept += printed[: max(0, KEPT_BYTES - len(self._kept))]
        return bool(printed)

    def _ended(self) -> str:
        """Return how the worker ended, after its answers have."""
        report = self._reports(2.0)
        match report:
            case {"tasks": int(tasks)}:
                return f"had {tasks} threads and processes; allowed {self._limits.tasks}"
            case {"signal": signal.SIGXCPU}:
                return f"used more than {self._limits.cpu_s} s of processor time"
            case {"signal": int(number)}:
                return f"ended its process by signal {_signal_name(number)}"
            case {"exit": code} if code == LOST:
                return "closed the pipes to the bench"
            case {"exit": int(code)}:
                return f"ended its process with exit code {code}"
        return "closed the pipes to the bench"

    def _reports(self, within_s: float) -> dict[str, object]:
        """Return all that the keeper has said, waiting until it has said how the worker ended."""
        until_s = time.monotonic() + within_s
        said: dict[str, object] = {}
        waiting = select.poll()
        waiting.register(self._status, select.POLLIN)
        while len(self._status_text) < KEPT_BYTES:
            more = b""
            if waiting.poll(max(0.0, until_s - time.monotonic()) * 1e3):
                more = os.read(self._status, 4096)
            self._status_text += more
            for line in self._status_text.splitlines():
                with suppress(ValueError, TypeError):
                    said = {**json.loads(line), **said}  # the keeper speaks first, and once of each
            if not more or said.keys() - {"pid"}:
                break
        return said

    def _state(self) -> str:
        """Say when the worker stands still because it was stopped."""
        worker = self._reports(0.0).get("pid")
        with suppress(OSError), open(f"/proc/{worker}/stat", "rb") as file:  # noqa: PTH123
            if file.read().rpartition(b")")[2].split()[0] in (b"T", b"t"):
                return "; its process was stopped"
        return ""

    def end(self) -> None:
        """End keeper, worker and all that came of it, and give back every pipe.

        Notes
        -----
        A worker that kills its keeper dies with it, and so does its group; what it had hidden in other
        sessions before is then out of reach.
        """
        if not self._fds:
            return
        self._fds.remove(self._lifeline)
        os.close(self._lifeline)
        try:
            self._popen.wait(END_S_MAX)
        except subprocess.TimeoutExpired:  # the worker has stopped its keeper
            self._popen.kill()
            self._popen.wait()
        said = self._reports(0.0)
        worker = said.get("pid")
        if isinstance(worker, int) and said.keys() == {"pid"}:  # its keeper could not end it
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(worker, signal.SIGKILL)
        while self._printed < _PIPE_BYTES and self._more_printed():
            pass
        self._close(self._fds)

    def _more_printed(self) -> bool:
        waiting = select.poll()
        waiting.register(self._output, select.POLLIN)
        return bool(waiting.poll(0)) and self._drain()


def _whole(found: bytearray) -> tuple[str, frames.Values] | None:
    """Return the frame that has been read, or None when more is to come."""
    size = frames.HEAD.size
    if len(found) < size:
        return None
    text, raw = frames.sizes(found)
    if len(found) < size + text + raw:
        return None
    if len(found) > size + text + raw:
        raise frames.FrameError("found more than one answer")
    return frames.unpack(bytes(found[size : size + text]), bytes(found[size + text :]))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _enlarge(fd: int) -> None:
    """Give a pipe room, so that a flood of words needs fewer turns."""
    import fcntl  # not on every system this file is imported on

    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
