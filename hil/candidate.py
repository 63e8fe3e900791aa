"""The controller under test, held at arm's length.

Duty: find it, ask it, and check its answers.  A controller that raises, hangs or answers nonsense is the
controller's failure in the verdict, never the bench's crash.
Rule of this file: nothing of the truth passes through here.

A controller in the bench's own process is trusted not to harm it: one that catches everything, holds the
interpreter's lock or ends the process takes the bench with it.  `candidate_process` keeps such a one apart.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

import numpy as np
from ridethrough.controllers.contract import Commands, Controller, Pool, Telemetry
from ridethrough.emulator.errors import ScenarioError

BUNDLED: Final = {
    "hold": "ridethrough.controllers.hold:Hold",
    "greedy": "ridethrough.controllers.greedy:Greedy",
    "reserve": "ridethrough.controllers.reserve:Reserve",
}
"""Reference controllers by name."""

DEADLINE_S: Final = 30.0
"""Longest time one call may take [s]."""

VALIDITY_S_MIN, VALIDITY_S_MAX = 1.0, 86_400.0
PERIOD_S_MIN, PERIOD_S_MAX = 0.1, 86_400.0

TOLD_CHARS_MAX: Final = 400
"""An error's own words are kept up to this length: they end up in the verdict."""


class ControllerError(BaseException):
    """The candidate failed; the message says how, in words for the verdict.

    Not an `Exception`: a candidate that catches all of those must not catch its own deadline.
    """


class Asked(Protocol):
    """One instance of a controller as the bench sees it, wherever it runs.

    Attributes
    ----------
    period_ns : int
        Time between its decisions [ns].
    fault : str or None
        How it failed, once it has; from then on it is not asked again and commands nothing.
    fault_ns : int
        When that was, on the bench's clock; −1 before [ns].
    output : str
        What it has printed, where that was caught.
    """

    @property
    def period_ns(self) -> int: ...  # noqa: D102  # the class says it
    @property
    def fault(self) -> str | None: ...  # noqa: D102
    @property
    def fault_ns(self) -> int: ...  # noqa: D102
    @property
    def output(self) -> str: ...  # noqa: D102

    def enroll(self, now_ns: int = 0) -> None:
        """Hand over the pool."""

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Return the controller's checked commands; none after it failed."""

    def close(self) -> None:
        """Let go of it; it is not asked again."""


def load_controller(name: str) -> Controller:
    """Make the controller called `name`.

    Parameters
    ----------
    name : str
        One of `BUNDLED`, or ``module:Class`` found from the current folder or the environment.

    Raises
    ------
    ScenarioError
        When there is none of that name, it cannot be imported or made, or it does not meet the contract.
    """
    path = BUNDLED.get(name, name)
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        allowed = ", ".join(BUNDLED)
        raise ScenarioError(f"controller {name!r}: allowed {allowed}, or module:Class of your own")
    if name not in BUNDLED and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module can fail to import in any way
        raise ScenarioError(f"controller {name!r}: importing {module_name} failed: {told(error)}") from error
    try:
        made = getattr(module, class_name)()
    except Exception as error:
        raise ScenarioError(f"controller {name!r}: making {class_name} failed: {told(error)}") from error
    if not isinstance(made, Controller):
        raise ScenarioError(
            f"controller {name!r}: needs period_s, enroll(pool) and decide(now_ns, telemetry); "
            "see ridethrough.controllers.contract.Controller"
        )
    period_s = made.period_s
    if not isinstance(period_s, int | float) or not PERIOD_S_MIN <= period_s <= PERIOD_S_MAX:
        raise ScenarioError(
            f"controller {name!r}: period_s is {period_s!r}; allowed {PERIOD_S_MIN} to {PERIOD_S_MAX} s"
        )
    return made


def told(error: BaseException) -> str:
    """Return an error in words that fit a verdict, whatever its own text does."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a candidate's error may fail even at saying what it is
        text = ""
    if len(text) > TOLD_CHARS_MAX:
        text = text[:TOLD_CHARS_MAX] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _deadline(doing: str) -> Iterator[None]:
    """Interrupt a call that takes too long; without signals (other threads, systems) it is unbounded."""
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not usable:
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise ControllerError(f"{doing} took longer than {DEADLINE_S:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


class Candidate:
    """Asks one controller and checks what it says.

    Parameters
    ----------
    controller : Controller
    pool : Pool

    Attributes
    ----------
    fault : str or None
        How the controller failed, once it has; from then on it is not asked again and commands nothing.
    fault_ns : int
        When that was, on the bench's clock; −1 before.
    output : str
        Empty: what it prints goes where the bench's own words go.
    """

    output = ""

    def __init__(self, controller: Controller, pool: Pool) -> None:
        self._controller = controller
        self._pool = pool
        self.period_ns = round(float(controller.period_s) * 1e9)
        self.fault: str | None = None
        self.fault_ns = -1

    def enroll(self, now_ns: int = 0) -> None:
        """Hand over the pool."""
        self._ask(now_ns, "enroll", lambda: self._controller.enroll(self._pool))

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Return the controller's checked commands; none after it failed."""
        n = len(self._pool.names)
        answer = self._ask(now_ns, "decide", lambda: self._controller.decide(now_ns, telemetry))
        if self.fault is not None:
            return Commands.none(n)
        problem = complaint(answer, n)
        if problem is None:
            assert isinstance(answer, Commands)
            # Copies: what has been commanded is not the controller's to change any more.
            return Commands(answer.power_w.copy(), answer.validity_s.copy(), answer.reserve_soc_frac.copy())
        self._fail(now_ns, f"decide answered nonsense: {problem}")
        return Commands.none(n)

    def close(self) -> None:
        """Let go of it; in the bench's own process there is nothing to do."""

    def _fail(self, now_ns: int, fault: str) -> None:
        self.fault, self.fault_ns = fault, now_ns

    def _ask(self, now_ns: int, doing: str, call: object) -> object:
        if self.fault is not None:
            return None
        assert callable(call)
        try:
            with _deadline(doing):
                return call()
        except ControllerError as fault:
            self._fail(now_ns, str(fault))
        except Exception as error:  # whatever a candidate raises is its own failure
            self._fail(now_ns, f"{doing} raised {told(error)}")
        except SystemExit as error:
            self._fail(now_ns, f"{doing} called exit({error.code!r})")
        return None


def complaint(answer: object, n: int) -> str | None:
    """Say what is wrong with an answer to `decide`, or None when it is sound."""
    if not isinstance(answer, Commands):
        return f"{type(answer).__name__} instead of Commands"
    for name in ("power_w", "validity_s", "reserve_soc_frac"):
        values = getattr(answer, name)
        if not isinstance(values, np.ndarray) or values.dtype != np.float64 or values.shape != (n,):
            is_array = isinstance(values, np.ndarray)
            found = f"{values.dtype} of shape {values.shape}" if is_array else type(values).__name__
            return f"{name} is {found}; allowed float64 of shape ({n},)"
        if np.isinf(values).any():
            return (
                f"{name} is infinite in row {int(np.flatnonzero(np.isinf(values))[0])}; allowed finite or NaN"
            )
    given = ~np.isnan(answer.power_w)
    validity = answer.validity_s
    bad = given & ~((validity >= VALIDITY_S_MIN) & (validity <= VALIDITY_S_MAX))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        allowed = f"{VALIDITY_S_MIN:g} to {VALIDITY_S_MAX:g} s with a power"
        return f"validity_s is {validity[row]} in row {row}; allowed {allowed}"
    reserve = answer.reserve_soc_frac
    bad = ~np.isnan(reserve) & ~((reserve >= 0.0) & (reserve <= 1.0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        return f"reserve_soc_frac is {reserve[row]} in row {row}; allowed 0 to 1"
    return None
