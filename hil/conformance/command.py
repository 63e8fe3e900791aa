"""What ``ridethrough scan TARGET --conformance`` and ``--capabilities`` do.

Rule of this file: facts go to standard output, progress and the announcement of writes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from ..modbus_transport import TlsFiles
from ..target import RtuTarget, Target, parse_target
from .capability import discover_capabilities
from .runner import WRITES_TEXT, run_procedures
from .show import show_capabilities, show_conformance
from .subject import Subject

INTERRUPTED = 130

TIMER_S = 4
"""Revert timers that are tried on a line that is fast enough to watch them [s]."""

_FAST_BAUD = 9600

CAPABILITY_TEXT = (
    "about to write: every control point, one after the other, with steps of at most a tenth of the rating "
    "for up to half a minute each, under a revert timer.  Everything is put back"
)

Form = Literal["table", "json"]
Outcome = TypeVar("Outcome")


def _say(text: str) -> None:
    print(f"ridethrough: {text}", file=sys.stderr, flush=True)


def _subject(
    target: str, timeout_s: float, text: str, tls: TlsFiles | None, *, broadcast: bool = False
) -> Subject:
    place = parse_target(target)

    def announce() -> None:
        _say(f"{place}: {text}")
        if broadcast:
            _say(f"{place}: about to write to address 0, which reaches every device on the line")

    return Subject(place, timeout_s, announce, _say, timer_s=_timer_s(place), broadcast=broadcast, tls=tls)


def _timer_s(place: Target) -> int:
    """Return how long the revert timers run that are tried: longer where a slow line takes its time [s]."""
    baud = place.baud if isinstance(place, RtuTarget) else _FAST_BAUD
    return math.ceil(TIMER_S * max(1.0, _FAST_BAUD / baud))


def _finish(subject: Subject, work: Callable[[], Awaitable[Outcome]]) -> Outcome | None:
    """Run to the end; None when it was interrupted, after everything was put back."""

    async def whole() -> Outcome:
        return await work()

    try:
        return asyncio.run(whole())
    except KeyboardInterrupt:
        for left in subject.left:
            _say(f"not put back: {left}")
        _say("interrupted; " + ("see above" if subject.left else "nothing that was written is left behind"))
        return None


def conformance_command(
    target: str,
    timeout_s: float,
    form: Form,
    *,
    read_only: bool = False,
    broadcast: bool = False,
    everything: bool = False,
    tls: TlsFiles | None = None,
) -> int:
    """Run SunSpec's procedures against a target, print the report, and return the exit code.

    Raises
    ------
    ScenarioError
        The target cannot be understood, or is of a kind whose bytes cannot be looked at.
    TargetError
        It cannot be reached.
    """
    subject = _subject(target, timeout_s, WRITES_TEXT, tls, broadcast=broadcast)
    report = _finish(subject, lambda: run_procedures(subject, read_only=read_only))
    if report is None:
        return INTERRUPTED
    if form == "json":
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        show_conformance(report, everything=everything)
    return report.exit_code


def capability_command(
    target: str, timeout_s: float, form: Form, *, everything: bool = False, tls: TlsFiles | None = None
) -> int:
    """Find out what each control point of a target does, print it, and return the exit code.

    Raises
    ------
    ScenarioError
        As `conformance_command`.
    TargetError
        It cannot be reached, has no SunSpec map, or stopped answering.
    """
    subject = _subject(target, timeout_s, CAPABILITY_TEXT, tls)
    report = _finish(subject, lambda: discover_capabilities(subject))
    if report is None:
        return INTERRUPTED
    if form == "json":
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        show_capabilities(report, everything=everything)
    return report.exit_code
