"""The process a controller runs in, and the one that watches over it.

Started by `candidate_process` as ``python -m ridethrough.hil.candidate_worker SETTINGS``.  It splits at once:

- the *keeper* runs nothing of the controller's.  It waits for the bench to let go of a pipe, or to die, and
  for the worker to end, or to have too many threads and processes.  Then it ends every process that came
  of the worker, wherever it has hidden, and says how the worker ended.
- the *worker* puts on its limits, then imports the controller and answers the bench.

Rules of this file: the keeper knows the standard library only, so that it starts fast and stays small; the
worker judges nothing, the bench does.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from .candidate_frames import Values

LOST: Final = 86
"""Exit code of a worker that cannot reach the bench any more."""

WATCH_MS: Final = 200
"""Threads and processes are counted this often [ms]."""

_SUBREAPER, _DEATH_SIGNAL = 36, 1  # <linux/prctl.h>: PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # <linux/sched.h>: CLONE_NEWUSER, CLONE_NEWNET


@dataclass(frozen=True, slots=True)
class Settings:
    """What the bench tells the process when it starts it.

    Attributes
    ----------
    questions, answers : int
        Pipe ends of the worker.
    status, lifeline : int
        Pipe ends of the keeper: it reports on one, and ends when the other is closed.
    memory_bytes, cpu_s, files, tasks : int
        Limits of the worker; tasks are threads and processes together.
    network : bool
        Whether the worker keeps the machine's network.
    """

    questions: int
    answers: int
    status: int
    lifeline: int
    memory_bytes: int
    cpu_s: int
    files: int
    tasks: int
    network: bool

    def to_text(self) -> str:
        """Return it as one word of a command line."""
        return json.dumps(asdict(self))


def main() -> None:
    """Split into keeper and worker."""
    settings = Settings(**json.loads(sys.argv[1]))
    # Whatever the worker leaves behind becomes the keeper's child, even after setsid and a double fork.
    _prctl(_SUBREAPER, 1)
    keeper = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.close(settings.status)
        os.close(settings.lifeline)
        _work(settings, keeper)
    os.close(settings.questions)
    os.close(settings.answers)
    _keep(settings, worker)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")


# The keeper.


def _keep(settings: Settings, worker: int) -> None:
    """Wait until the worker has to end or has ended; end all that came of it, and report."""
    _report(settings, {"pid": worker})
    ended = os.pidfd_open(worker)
    waiting = select.poll()
    for fd in (settings.lifeline, ended):
        waiting.register(fd, select.POLLIN)
    why: dict[str, int] = {}
    while not waiting.poll(WATCH_MS):
        _reap(worker)
        tasks = sum(_descendants().values())
        if tasks > settings.tasks:
            why = {"tasks": tasks}
            break
    how = _end_all(worker)
    with suppress(BrokenPipeError):  # the bench may be gone
        _report(settings, why or how)


def _report(settings: Settings, said: dict[str, int]) -> None:
    os.write(settings.status, json.dumps(said).encode() + b"\n")


def _reap(worker: int) -> None:
    """Take leave of orphans that have ended; the worker's own end is for `_end_all` to see."""
    with suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid == worker:
                return
            os.waitpid(found.si_pid, 0)


def _end_all(worker: int) -> dict[str, int]:
    """Kill every descendant until there is none; return how the worker ended."""
    how: dict[str, int] = {}
    while True:
        with suppress(ChildProcessError, ProcessLookupError):
            pid, status = os.waitpid(-1, os.WNOHANG)
            while pid:
                if pid == worker:
                    code = os.waitstatus_to_exitcode(status)
                    how = {"exit": code} if code >= 0 else {"signal": -code}
                pid, status = os.waitpid(-1, os.WNOHANG)
        if not (left := _descendants()):
            return how
        with suppress(ProcessLookupError):
            os.killpg(worker, signal.SIGKILL)  # a group dies at once, however fast it forks
        for each in left:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        select.select([], [], [], 0.002)


def _descendants() -> dict[int, int]:
    """Return the keeper's descendants with their numbers of threads; ended ones not yet reaped included."""
    children: dict[int, list[tuple[int, int]]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  # pathlib would cost more than the reading
        if entry.isdigit():
            with suppress(OSError, IndexError), open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                # A process can name itself what it wants, brackets and spaces too.
                values = file.read().rpartition(b")")[2].split()
                children.setdefault(int(values[1]), []).append((int(entry), int(values[17])))
    found: dict[int, int] = {}
    pending = [os.getpid()]
    while pending:
        for child, threads in children.get(pending.pop(), ()):
            found[child] = threads
            pending.append(child)
    return found


# The worker.


def _work(settings: Settings, keeper: int) -> NoReturn:
    """Answer the bench until it hangs up; never returns into the keeper's code."""
    code = 1
    try:
        os.setsid()
        if not settings.network:
            _leave_network()
        _prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() == keeper:
            _limit(settings)
            _serve(settings.questions, settings.answers)
            code = 0
    except OSError:
        code = LOST
    except Exception:
        sys.excepthook(*sys.exc_info())  # for the bench's report; nobody else would see it
    finally:
        os._exit(code)


def _leave_network() -> None:
    """Move into a network of its own that has no way out, where the system lets us."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NET) != 0:
        libc.unshare(_NEW_USER | _NEW_NET)


def _limit(settings: Settings) -> None:
    """Put on the limits; a hard limit cannot be raised again but by root."""
    import resource  # not on every system this file is imported on

    for kind, value in (
        (resource.RLIMIT_AS, settings.memory_bytes),
        (resource.RLIMIT_NOFILE, settings.files),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    # The soft limit's signal says what happened; a controller that ignores it is killed a second later.
    resource.setrlimit(resource.RLIMIT_CPU, (settings.cpu_s, settings.cpu_s + 1))


def _serve(questions: int, answers: int) -> None:
    """Make the controller the bench names, and ask it what the bench asks."""
    from . import candidate_frames as frames  # with NumPy: not for the keeper

    def read() -> tuple[str, Values] | None:
        head = _read(questions, frames.HEAD.size)
        if head is None:
            return None
        text, raw = frames.sizes(head)
        return frames.unpack(_read(questions, text) or b"", _read(questions, raw) or b"")

    def write(kind: str, values: Values) -> None:
        left = memoryview(frames.pack(kind, values))
        while left:
            left = left[os.write(answers, left) :]

    answering: Callable[[str, Values], tuple[str, Values]] = _Answering()
    while (asked := read()) is not None:
        kind, values = asked
        said, answer = answering(kind, values)
        write(said, {**answer, "number": values["number"]})


def _read(fd: int, size: int) -> bytes | None:
    """Return exactly so many bytes; None when the other side has hung up."""
    found = b""
    while len(found) < size:
        more = os.read(fd, size - len(found))
        if not more:
            return None
        found += more
    return found


class _Answering:
    """The controller, and what each question does with it."""

    def __init__(self) -> None:
        self._controller: Any = None
        self._n = 0

    def __call__(self, kind: str, values: Values) -> tuple[str, Values]:
        """Answer one question: kind and values of the answer."""
        from ridethrough.emulator.errors import ScenarioError

        from .candidate import told

        try:
            return {"make": self._make, "enroll": self._enroll, "decide": self._decide}[kind](values)
        except ScenarioError as error:
            return "refused", {"text": str(error)}
        except SystemExit as error:
            return "failed", {"text": f"{kind} called exit({error.code!r})"}
        except BaseException as error:
            # What a controller raises is its failure, of whatever kind.
            return "failed", {"text": f"{kind} raised {told(error)}"}

    def _make(self, values: Values) -> tuple[str, Values]:
        from .candidate import load_controller

        sys.path[:] = values["path"]
        self._controller = load_controller(values["name"])
        return "made", {"period_s": float(self._controller.period_s)}

    def _enroll(self, values: Values) -> tuple[str, Values]:
        from .candidate_frames import pool_of

        pool = pool_of(values)
        self._n = len(pool.names)
        self._controller.enroll(pool)
        return "enrolled", {}

    def _decide(self, values: Values) -> tuple[str, Values]:
        import numpy as np
        from ridethrough.controllers.contract import Commands

        from .candidate import complaint
        from .candidate_frames import commands_values, telemetry_of

        answer = self._controller.decide(*telemetry_of(values))
        found = commands_values(answer) if isinstance(answer, Commands) else {"": None}
        if all(
            isinstance(each, np.ndarray) and each.dtype == np.float64 and each.shape == (self._n,)
            for each in found.values()
        ):
            return "commands", found
        # What cannot travel as numbers is described; the bench would say the same of it.
        return "nonsense", {"text": str(complaint(answer, self._n))}


if __name__ == "__main__":
    main()
