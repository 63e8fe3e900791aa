"""The reports of this package on a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.markup import escape
from rich.table import Table

from ..show import console
from .capability import CapabilityReport
from .results import Report

_COLUMNS = ("point", "register", "write", "kept", "effect", "delay", "reverts", "sign", "step")
_STYLES = {"pass": "green", "fail": "bold red", "not applicable": "dim", "not run": "yellow"}


def show_conformance(report: Report, *, everything: bool) -> None:
    """Print a conformance report: one line per procedure, and what failed in it.

    Parameters
    ----------
    report : Report
    everything : bool
        Print every step.
    """
    out = console()
    out.print(escape(f"{report.target}: {report.device or 'no identity'}"), soft_wrap=True)
    for result in report.results:
        style = _STYLES[result.verdict]
        why = f"  {result.reason}" if result.reason else ""
        out.print(
            f"{result.id:<6} [{style}]{result.verdict:<14}[/] {result.title}{escape(why)}", soft_wrap=True
        )
        for step in result.steps:
            if step.good is False:
                out.print(f"       [red]fail[/] {escape(step.sentence())}", soft_wrap=True)
            elif everything:
                mark = "note" if step.good is None else "pass"
                out.print(f"       {mark} {escape(step.sentence())}", soft_wrap=True)
    _show_left(report.left, out.print)


def show_capabilities(report: CapabilityReport, *, everything: bool) -> None:
    """Print what a device does with its control points; `everything` shows those it does not have, too."""
    out = console()
    out.print(escape(f"{report.target}: {report.device}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    notes: dict[str, list[str]] = {}
    for point in report.points:
        if point.implemented != "yes":
            continue
        delay = "" if point.delay_s is None else f"{point.delay_s:g} s"
        wrote = (point.point, str(point.register), _short(point.accepts), _short(point.keeps))
        done = (_short(point.effect), delay, _short(point.reverts), point.sign, point.step)
        table.add_row(*map(escape, (*wrote, *done)))
        for said in dict.fromkeys((point.accepts, point.keeps, point.effect, point.reverts)):
            if _short(said) != said:
                notes.setdefault(said, []).append(point.point)
        if point.percent_of:
            notes.setdefault(f"percent of {point.percent_of}", []).append(point.point)
    out.print(table)
    for said, names in notes.items():
        out.print(escape(f"{', '.join(names)}: {said}"), soft_wrap=True)
    missing = [point.point for point in report.points if point.implemented != "yes"]
    if everything and missing:
        out.print(f"not implemented: {', '.join(missing)}", soft_wrap=True)
    _show_left(report.left, out.print)


def _show_left(left: tuple[str, ...], say: Callable[..., None]) -> None:
    for text in left:
        say(f"[bold red]not put back:[/] {escape(text)}", soft_wrap=True)


def _short(text: str) -> str:
    """Return what is said before the reason."""
    return text.partition(":")[0]
