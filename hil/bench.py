"""One run from beginning to end: assemble, run at a level, record, judge.

Rule of this file: the only place that knows all the rooms.  Data flows one way: world, bench, record,
verdict.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .assembly import make_header, make_plant, make_pool
from .candidate import Candidate, load_controller
from .judge import Verdict, judge
from .live import TIMEOUT_S_MIN, LiveBench
from .mil import run_mil
from .pacer import check_speed
from .record import PartInfo, RecordWriter, describe_folder, read_record, write_verdict
from .world import World

Level = Literal["mil", "hil"]


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
    progress: Callable[[int], None] | None = None,
    on_part: Callable[[PartInfo], None] | None = None,
) -> Run:
    """Run a world against a controller, record it, and judge the record.

    Parameters
    ----------
    world : World
    controller : str
        Name or ``module:Class``, see `candidate.load_controller`.
    folder : Path
        Of the record; must not hold anything.
    level : {"mil", "hil"}
    speed : float
        At HIL, bench seconds per real second.
    progress : callable, optional
        Called often with the bench time [ns].
    on_part : callable, optional
        Called when a part of the record is safely on the disk.

    Raises
    ------
    ScenarioError
        The controller, the speed or the folder cannot be used.
    RidethroughError
        The disk refused the record, or a device could not be reached.
    """
    check_speed(speed)
    plant = make_plant(world)
    pool = make_pool(world, plant)
    if level == "hil":
        pool = replace(pool, delay_s_max=max(pool.delay_s_max, TIMEOUT_S_MIN * speed))
    candidate = Candidate(load_controller(controller), pool)
    header = make_header(
        world, pool, plant, level=level, controller=controller, speed=speed if level == "hil" else None
    )
    started_s = time.perf_counter()
    writer = RecordWriter(folder, header, on_part=on_part)
    candidate.enroll()
    bench_fault = detail = ""
    try:
        if level == "mil":
            run_mil(world, plant, candidate, writer, progress)
        else:
            live = LiveBench(world, plant, pool, candidate, writer, speed=speed, progress=progress)
            asyncio.run(live.run())
            bench_fault = live.bench_fault
            if live.held_ns:
                held_s = live.held_ns / 1e9
                detail = f"the world stood still for {held_s:.1f} s because this machine could not keep up"
    except KeyboardInterrupt:
        writer.close("interrupted")
        raise
    reason = "completed" if candidate.fault is None else "controller failed"
    writer.close(reason, detail=candidate.fault or detail, bench_fault=bench_fault)
    ended_s = time.perf_counter()
    verdict = judge(read_record(folder))
    write_verdict(folder, verdict.to_dict())
    return Run(folder, verdict, ended_s - started_s, time.perf_counter() - ended_s)
