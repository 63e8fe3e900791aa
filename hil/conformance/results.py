"""What a conformance run found: steps with their evidence, a verdict per procedure, the whole report.

Rules of this file: data only, no I/O.  A verdict follows from the steps and is never set by hand: one failed
step fails its procedure; a procedure that has judged nothing says why.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Verdict = Literal["pass", "fail", "not applicable", "not run"]

ALIKE_MAX: Final = 20
"""Failed steps of one kind that are kept with their evidence; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at.

    Attributes
    ----------
    what : str
        In plain words; begins with the point where there is one.
    register : int or None
        Its first register.
    sent, received, allowed : str
        Evidence; empty where it adds nothing.
    good : bool or None
        None for an observation that is not judged.
    """

    what: str
    register: int | None
    sent: str
    received: str
    allowed: str
    good: bool | None

    def sentence(self) -> str:
        """Return the step as one line: place, what was found, what is allowed."""
        place = "" if self.register is None else f" (register {self.register})"
        sent = f"; sent {self.sent}" if self.sent else ""
        received = f"; found {self.received}" if self.received else ""
        allowed = f"; allowed {self.allowed}" if self.allowed else ""
        return f"{self.what}{place}{sent}{received}{allowed}"


@dataclass(frozen=True, slots=True)
class Result:
    """One procedure and what came of it.

    Attributes
    ----------
    id, title : str
    verdict : str
        pass, fail, not applicable or not run.
    reason : str
        Why nothing was judged; empty otherwise.
    steps : tuple of Step
    """

    id: str
    title: str
    verdict: Verdict
    reason: str
    steps: tuple[Step, ...]

    @property
    def failures(self) -> tuple[Step, ...]:
        """The steps that failed."""
        return tuple(step for step in self.steps if step.good is False)


@dataclass(slots=True)
class Trial:
    """The evidence of one procedure while it runs."""

    id: str
    title: str
    steps: list[Step] = field(default_factory=list)
    reason: str = ""
    stopped: Verdict = "not applicable"
    _failed: dict[str, int] = field(default_factory=dict)

    def check(
        self,
        good: bool,
        what: str,
        *,
        register: int | None = None,
        sent: str = "",
        received: str = "",
        allowed: str = "",
    ) -> bool:
        """Judge one thing; returns `good`."""
        self.steps.append(Step(what, register, sent, received, allowed, good))
        return good

    def many(self, kind: str, seen: int, failed: list[Step], allowed: str) -> None:
        """Judge many things of one kind: a step for each that failed, and one for them all."""
        self.steps += failed[:ALIKE_MAX]
        more = f", {len(failed)} of them not as allowed" if failed else ""
        self.steps.append(Step(f"{kind}: {seen} looked at{more}", None, "", "", allowed, not failed))

    def note(self, what: str, *, register: int | None = None, received: str = "") -> None:
        """Keep an observation that is not judged."""
        self.steps.append(Step(what, register, "", received, "", None))

    def skip(self, reason: str, verdict: Verdict = "not applicable") -> None:
        """Say why nothing is judged; what was judged all the same keeps its weight."""
        self.reason, self.stopped = reason, verdict

    def result(self) -> Result:
        """Return what came of it."""
        judged = [step for step in self.steps if step.good is not None]
        if judged:
            verdict: Verdict = "pass" if all(step.good for step in judged) else "fail"
            return Result(self.id, self.title, verdict, "", tuple(self.steps))
        reason = self.reason or "there was nothing to judge"
        return Result(self.id, self.title, self.stopped, reason, tuple(self.steps))


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes
    ----------
    target, device : str
    results : tuple of Result
    left : tuple of str
        What could not be set back to what it was; empty after a clean run.
    """

    target: str
    device: str
    results: tuple[Result, ...]
    left: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 when nothing failed and nothing was left behind, else 1."""
        return int(bool(self.left) or any(result.verdict == "fail" for result in self.results))

    def find(self, number: str) -> Result:
        """Return the result of one procedure by its id."""
        return next(result for result in self.results if result.id == number)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data that JSON can hold."""
        return {**asdict(self), "exit_code": self.exit_code}
