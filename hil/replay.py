"""A recorded run, run again: the same world, the same faults at the same instants, and whether it ends alike.

Duty: the world out of a record, injected faults included; the run; the two verdicts side by side.
Rules of this file: the verdict on the record is judged anew, from the record; a world that cannot be rebuilt
as it was is refused, and never replaced by one that is nearly so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ridethrough.emulator.errors import ScenarioError

from .bench import Level, Run, run
from .files import scenario_from_dict
from .injection import event_of
from .judge import HomeVerdict, Verdict, judge
from .record import Record, read_record
from .stage import CLIENTS, EXTERNAL
from .world import World, build_world


@dataclass(frozen=True, slots=True)
class Pair:
    """One home, twice.

    Attributes
    ----------
    recorded, replayed : HomeVerdict
    """

    recorded: HomeVerdict
    replayed: HomeVerdict

    @property
    def agree(self) -> bool:
        """Whether both have the same outcome, and the same invariants broken."""
        return self.recorded.outcome == self.replayed.outcome and broken(self.recorded) == broken(
            self.replayed
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay came to.

    Attributes
    ----------
    recorded : Verdict
        On the record.
    run : Run
        The run that was made of it.
    homes : tuple of Pair
    injected : int
        Faults that somebody had injected into the recorded run.
    """

    recorded: Verdict
    run: Run
    homes: tuple[Pair, ...]
    injected: int

    @property
    def outcome(self) -> str:
        """Same, different, or inconclusive when one of the two is."""
        if "inconclusive" in (self.recorded.outcome, self.run.verdict.outcome):
            return "inconclusive"
        alike = self.recorded.outcome == self.run.verdict.outcome and all(pair.agree for pair in self.homes)
        return "same" if alike else "different"

    @property
    def exit_code(self) -> int:
        """Exit code of the verb."""
        return {"same": 0, "different": 1, "inconclusive": 3}[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "outcome": self.outcome,
            "recorded": self.recorded.outcome,
            "replayed": self.run.verdict.outcome,
            "record": str(self.run.folder),
            "injected": self.injected,
            "homes": [
                {
                    "name": pair.recorded.name,
                    "agree": pair.agree,
                    "recorded": {"outcome": pair.recorded.outcome, "broken": broken(pair.recorded)},
                    "replayed": {"outcome": pair.replayed.outcome, "broken": broken(pair.replayed)},
                }
                for pair in self.homes
            ],
        }


def broken(home: HomeVerdict) -> list[str]:
    """Return the invariants that a home has broken."""
    return [key for key, found in home.findings.items() if not found.held]


def world_of(record: Record, files: Path | None = None) -> World:
    """Return the world of a record: as it was planned, with the faults as they came.

    Parameters
    ----------
    record : Record
    files : Path, optional
        Folder of the scenario, where it names files.

    Raises
    ------
    ScenarioError
        The record does not say enough, or the world cannot be rebuilt as it was.
    """
    header = record.header
    missing = [key for key in ("scenario_document", "world_digest", "window_from_ns") if key not in header]
    if missing:
        raise ScenarioError(f"the record does not say its {missing[0]}; allowed records of `run` and `serve`")
    try:
        world = build_world(scenario_from_dict(header["scenario_document"], files))
    except ScenarioError as error:
        hint = "" if files is not None else "; where the scenario names files, --files names their folder"
        raise ScenarioError(f"the scenario of the record cannot be read{hint}:\n{error}") from None
    from_ns, planned_ns = header["window_from_ns"], header.get("duration_ns_planned", header["duration_ns"])
    if from_ns or planned_ns != world.duration_ns:
        world = world.window(from_ns, planned_ns)
    if world.digest != header["world_digest"]:
        raise ScenarioError(
            "the world of the record cannot be rebuilt: its fingerprint differs; allowed the files and the "
            f"version of the recorded run ({_version(header)})"
        )
    if header["duration_ns"] != planned_ns:
        world = world.window(0, header["duration_ns"])
    return replace(world, events=tuple(event_of(event) for event in header["events"]))


def _version(header: Mapping[str, Any]) -> str:
    versions = header.get("versions")
    return f"ridethrough {versions.get('ridethrough')}" if isinstance(versions, Mapping) else "not recorded"


def controller_of(record: Record) -> str:
    """Return the controller of a record, by its name.

    Raises
    ------
    ScenarioError
        It was no Python controller: nothing in virtual time can be asked in its place.
    """
    name = str(record.header["controller"])
    if name.startswith(EXTERNAL) or name == CLIENTS:
        who = name if name.startswith(EXTERNAL) else "clients of serve"
        raise ScenarioError(
            f"the record's devices were commanded by other programs ({who}), which cannot be asked again in "
            "virtual time; name a controller that meets the same world and faults with --controller"
        )
    return name


def replay(
    folder: Path,
    out: Path,
    *,
    level: Level = "mil",
    controller: str | None = None,
    files: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Replay:
    """Run a record again.

    Parameters
    ----------
    folder : Path
        The record.
    out : Path
        Of the new record; must not hold anything.
    level : str
        Of the new run; one in virtual time.
    controller : str, optional
        Instead of the recorded one.
    files : Path, optional
        Folder of the scenario, where it names files.
    progress : callable, optional
        Called with the bench time now and then [ns].

    Raises
    ------
    ScenarioError
        The record cannot be read or rebuilt, a fault does not act at the level, or `out` is in use.
    """
    record = read_record(folder)
    world = world_of(record, files)
    chosen = controller_of(record) if controller is None else controller
    recorded = judge(record)
    done = run(world, chosen, out, level=level, progress=progress)
    homes = tuple(Pair(*both) for both in zip(recorded.homes, done.verdict.homes, strict=True))
    injected = sum(event.get("injected") is True for event in record.header["events"])
    return Replay(recorded, done, homes, injected)
