"""What the command prints for people: the verdict table, the progress of a run, lists.

Rule of this file: results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from .header import clock_text

if TYPE_CHECKING:  # what is shown; only `run` needs what makes it
    from .bench import Run
    from .judge import HomeVerdict, Verdict
    from .record import PartInfo
    from .world import World

_STYLE: Final = {"held": "green", "broken": "bold red", "inconclusive": "yellow"}
_HELD_ROWS: Final = 5
_BROKEN_ROWS: Final = 12
_SENTENCES: Final = 3
_OBSERVED: Final = 4
_WIDTH_WITH_DEVICE: Final = 105


def console() -> Console:
    """Return the console of standard output; wide when it is not a terminal, so that no cell is cut."""
    return Console(width=None if sys.stdout.isatty() else 150, highlight=False)


def print_run(world: World, run: Run, level: str, controller: str, *, everything: bool) -> None:
    """Print the verdict of one run."""
    out = console()
    verdict = run.verdict
    hours = world.duration_ns / 3.6e12
    length = f"{hours:g} h" if hours >= 1.0 else f"{60.0 * hours:g} min"
    size = f"{len(world.names)} devices · {length} · {level.upper()}"
    out.print(f"{world.scenario_name} · {size} · controller {escape(controller)} · seed {world.seed}")
    out.print(_headline(verdict), style=_STYLE[verdict.outcome])
    for reason in verdict.reasons:
        out.print(f"  {escape(reason)}")
    rows = _chosen(verdict, everything)
    out.print(_table(verdict, rows, out.width))
    rest = len(verdict.homes) - len(rows)
    if rest:
        out.print(f"  and {_outcomes(verdict, rows)} more; --all shows every home")
    told = sorted(pair for home in verdict.homes for pair in home.sentences[:1])
    for _, sentence in told[:_SENTENCES]:
        out.print(f"  {escape(sentence)}", soft_wrap=True)
    _print_observations(out, verdict)
    out.print(f"{verdict.not_judged}", style="dim", soft_wrap=True)
    out.print(
        f"run {run.run_s:.2f} s, judging {run.judge_s:.2f} s; record in {escape(str(run.folder))}",
        soft_wrap=True,
    )


def _print_observations(out: Console, verdict: Verdict) -> None:
    """Print what the feeder and the meters went through, apart from the promises."""
    found = verdict.observations.sentences(verdict.start_of_day_ns)
    if not found:
        return
    out.print("Observed, without effect on the verdict:")
    for sentence in found[:_OBSERVED]:
        out.print(f"  {escape(sentence)}", soft_wrap=True)
    if len(found) > _OBSERVED:
        out.print(f"  and {len(found) - _OBSERVED} more in verdict.json")


def _headline(verdict: Verdict) -> str:
    total = len(verdict.homes)
    held = sum(home.outcome == "held" for home in verdict.homes)
    line = f"{verdict.outcome.upper()}: {held} of {total} promises held"
    if verdict.margin_kwh is not None and verdict.margin_home is not None and verdict.margin_ns is not None:
        kept = verdict.margin_kwh >= 0
        which, side = ("closest", "above") if kept else ("worst", "below")
        when = clock_text(verdict.margin_ns, verdict.start_of_day_ns)
        line += (
            f"; {which} {verdict.margin_home}, {abs(verdict.margin_kwh):.2f} kWh {side} its reserve at {when}"
        )
    return line


def _margin(home: HomeVerdict) -> float:
    margin = home.findings["RDY"].margin_kwh if home.findings else None
    return float("inf") if margin is None else margin


def _chosen(verdict: Verdict, everything: bool) -> list[HomeVerdict]:
    """Return the homes worth a row: all that are not held, else those that came closest."""
    homes = sorted(verdict.homes, key=_margin)
    if everything:
        return list(verdict.homes)
    bad = [home for home in homes if home.outcome != "held"]
    return bad[:_BROKEN_ROWS] if bad else homes[:_HELD_ROWS]


def _outcomes(verdict: Verdict, rows: Sequence[HomeVerdict]) -> str:
    shown = {home.name for home in rows}
    left = [home.outcome for home in verdict.homes if home.name not in shown]
    return ", ".join(f"{left.count(outcome)} {outcome}" for outcome in sorted(set(left)))


def _table(verdict: Verdict, homes: Sequence[HomeVerdict], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = ["home", "verdict", "margin", "reserve", "first breach", "broken"]
    if width >= _WIDTH_WITH_DEVICE:
        names.append("device")
    for name in names:
        table.add_column(name, justify="right" if name in ("reserve", "margin") else "left", no_wrap=True)
    for home in homes:
        margin = _margin(home)
        first_ns = min((t_ns for t_ns, _ in home.sentences), default=None)
        broken = " ".join(key for key, found in home.findings.items() if not found.held)
        cells = (
            escape(home.name),
            f"[{_STYLE[home.outcome]}]{home.outcome}[/]",
            "-" if margin == float("inf") else f"{margin:+.2f} kWh",
            f"{home.reserve_kwh:.2f} kWh",
            "-" if first_ns is None else clock_text(first_ns, verdict.start_of_day_ns),
            f"[bold red]{broken}[/]" if broken else "-",
            escape(home.profile),
        )
        table.add_row(*cells[: len(names)])
    return table


class Reporter:
    """Shows how far a run is, on standard error.

    Parameters
    ----------
    world : World
    kind : str
        ``bar`` on a terminal, ``plain`` lines for what reached the disk, or ``none``.
    """

    def __init__(self, world: World, kind: str) -> None:
        self._world = world
        self._plain = kind == "plain"
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._shown_ns = 0
        if kind == "bar":
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )

    def __enter__(self) -> Reporter:
        """Begin."""
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=self._world.duration_ns)
        return self

    def __exit__(self, *exc: object) -> None:
        """End, whatever happened."""
        if self._bar is not None:
            self._bar.stop()

    @property
    def progress(self) -> Callable[[int], None] | None:
        """What a bench calls with its time, or None when nobody looks."""
        return None if self._bar is None else self._advance

    def _advance(self, now_ns: int) -> None:
        # The bar redraws by itself; telling it of every tick would cost more than the tick.
        if self._bar is not None and now_ns - self._shown_ns > self._world.duration_ns // 200:
            self._shown_ns = now_ns
            clock = clock_text(now_ns, self._world.start_of_day_ns)
            self._bar.update(self._task, completed=now_ns, description=f"{self._world.scenario_name} {clock}")

    def part(self, part: PartInfo) -> None:
        """Note a part that is safely on the disk."""
        if self._plain:
            until = clock_text(part.t_ns_last, self._world.start_of_day_ns)
            print(
                f"recorded {part.table} until {until} ({part.path.name}, {part.rows} rows)",
                file=sys.stderr,
                flush=True,
            )
