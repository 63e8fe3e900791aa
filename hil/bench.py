"""One run from beginning to end: assemble, run at a level, record, judge.

Rule of this file: the only place that knows all the rooms.  Data flows one way: world, bench, record,
verdict.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from .assembly import make_header, make_plant, make_pool
from .candidate_process import Limits, open_candidate
from .effects.candidate import CandidateFaults
from .effects.table import check_level
from .judge import Verdict, judge
from .live import LiveBench, Network
from .mil import run_mil
from .pacer import check_speed
from .record import PartInfo, RecordWriter, describe_folder, read_record, write_verdict
from .sil import Memory
from .sockets import TIMEOUT_S_MIN, Sockets
from .virtual.loop import VirtualLoop
from .world import World

Level = Literal["mil", "sil", "hil"]

CONTROLLER_LOG: Final = "controller.log"
"""What a controller has printed, beside its record; only where it was caught and there is any."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run came to.

    Attributes
    ----------
    folder : Path
        The record.
    verdict : Verdict
    run_s, judge_s : float
        Real time the run and its judging took [s].
    """

    folder: Path
    verdict: Verdict
    run_s: float
    judge_s: float


def free_folder(parent: Path, stem: str) -> Path:
    """Return the first of ``parent/stem-001``, ``-002`` and so on that does not exist."""
    number = 1
    while (parent / f"{stem}-{number:03d}").exists():
        number += 1
    return parent / f"{stem}-{number:03d}"


def unfinished_records(parent: Path) -> list[str]:
    """Describe each record under `parent` whose run never finished."""
    if not parent.is_dir():
        return []
    states = [(folder, describe_folder(folder)) for folder in sorted(parent.iterdir()) if folder.is_dir()]
    return [f"{folder} holds {state.text}" for folder, state in states if state.kind == "unfinished"]


def run(
    world: World,
    controller: str,
    folder: Path,
    *,
    level: Level = "mil",
    speed: float = 1.0,
    isolate: bool = False,
    limits: Limits | None = None,
    progress: Callable[[int], None] | None = None,
    on_part: Callable[[PartInfo], None] | None = None,
    opened: Callable[[Path], None] | None = None,
) -> Run:
    """Run a world against a controller, record it, and judge the record.

    Parameters
    ----------
    world : World
    controller : str
        Name or ``module:Class``, see `candidate.load_controller`.
    folder : Path
        Of the record; must not hold anything.
    level : {"mil", "sil", "hil"}
    speed : float
        At HIL, bench seconds per real second.
    isolate, limits : bool, Limits
        Run the controller in a process of its own, within these limits.
    progress : callable, optional
        Called often with the bench time [ns].
    on_part : callable, optional
        Called when a part of the record is safely on the disk.
    opened : callable, optional
        At HIL: faults can be injected while it runs; called with the bench's file, see `remote`.

    Raises
    ------
    ScenarioError
        The controller, the speed or the folder cannot be used.
    RidethroughError
        The disk refused the record, or a device could not be reached.
    """
    check_speed(speed)
    check_level(world.events, level)
    plant = make_plant(world)
    pool = make_pool(world, plant)
    if level == "hil":
        pool = replace(pool, delay_s_max=max(pool.delay_s_max, TIMEOUT_S_MIN * speed))
    real = speed if level == "hil" else None
    header = make_header(world, pool, plant, level=level, controller=controller, speed=real)
    started_s = time.perf_counter()
    candidate = CandidateFaults(lambda: open_candidate(controller, pool, isolate=isolate, limits=limits))
    with closing(candidate):
        writer = RecordWriter(folder, header, on_part=on_part)
        candidate.enroll()
        end = _End()
        try:
            if level == "mil":
                run_mil(world, plant, candidate, writer, progress)
            else:
                network = _network(world, level, speed, apart=isolate)
                live = LiveBench(world, plant, pool, candidate, writer, network, progress, opened)
                end = _play(live, level)
        except KeyboardInterrupt:
            writer.close("interrupted")
            raise
    _close(writer, candidate, end)
    ended_s = time.perf_counter()
    verdict = judge(read_record(folder))
    write_verdict(folder, verdict.to_dict())
    return Run(folder, verdict, ended_s - started_s, time.perf_counter() - ended_s)


@dataclass(frozen=True, slots=True)
class _End:
    """How a bench came to its end: what makes it unfit to judge, what else is told, and a stop."""

    bench_fault: str = ""
    detail: str = ""
    stopped: bool = False


def _network(world: World, level: Level, speed: float, *, apart: bool) -> Network:
    """Return what leads to the devices at a level."""
    timeout_ns = world.comms.timeout_ns
    return Memory(timeout_ns) if level == "sil" else Sockets(speed, timeout_ns, apart=apart)


def _play(live: LiveBench, level: Level) -> _End:
    """Run a bench on the loop of its level."""
    with asyncio.Runner(loop_factory=VirtualLoop if level == "sil" else None) as runner:
        runner.run(live.run())
    fitness = live.stage.fitness
    return _End(fitness.fault, fitness.detail, live.stage.stopped)


def _close(writer: RecordWriter, candidate: CandidateFaults, end: _End) -> None:
    """Finish the record, and keep what the controller has printed."""
    reason = "completed" if candidate.fault is None else "controller failed"
    detail = candidate.fault or end.detail
    writer.close(reason, detail=detail, bench_fault=end.bench_fault, stopped=end.stopped)
    if candidate.output:
        log = writer.folder / CONTROLLER_LOG
        log.write_text(candidate.output, encoding="utf-8", errors="replace")
