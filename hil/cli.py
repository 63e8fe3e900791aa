"""The command ``ridethrough``.

Rules of this file: it parses, calls and prints; nothing is decided here.  Facts go to standard output,
progress and complaints to standard error.  Exit codes: 0 all held, 1 something was broken, 2 wrong usage or
file, 3 inconclusive, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from ridethrough.emulator.errors import RidethroughError, ScenarioError

from .advice import scenario_notes
from .candidate import BUNDLED, load_controller
from .cli_device import INTERRUPTED, FormatOption, read_points, scan_device, write_points
from .cli_serve import serve
from .faults import FAULTS
from .files import (
    family_names,
    feeder_names,
    load_family,
    load_feeder,
    load_profile,
    load_quirk,
    load_scenario,
    profile_names,
    quirk_names,
    scenario_names,
)
from .show import Reporter, print_run
from .units import DAY_NS, parse_duration, parse_instant
from .world import World, build_world

app = typer.Typer(
    name="ridethrough",
    help="Does a pooling controller keep every home's backup promise? Emulate, drive, record, judge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_json(facts: Any) -> None:
    print(json.dumps(facts, indent=2, sort_keys=False, allow_nan=False))


def _version(asked: bool) -> None:
    if asked:
        print(version("ridethrough"))
        raise typer.Exit


@app.callback()
def _main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options that every verb shares."""


def _world(scenario: str, seed: int | None, begin: str | None, length: str | None) -> World:
    """Return the world of a scenario, cut to the window asked for."""
    loaded = load_scenario(scenario)
    if seed is not None:
        loaded = loaded.model_copy(update={"seed": seed})
    world = build_world(loaded)
    if begin is None and length is None:
        return world
    from_ns = 0
    if begin is not None:
        from_ns = parse_instant(begin) - world.start_of_day_ns
        if "d " not in begin:  # a bare time of day: the next one after the start
            from_ns %= DAY_NS
    length_ns = world.duration_ns - from_ns if length is None else parse_duration(length)
    return world.window(from_ns, length_ns)


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help="A bundled scenario or a YAML file.")] = "pilot",
    controller: Annotated[
        str, typer.Option(help=f"{', '.join(BUNDLED)}, or module:Class of your own; it runs in this process.")
    ] = "reserve",
    level: Annotated[Literal["mil", "hil"], typer.Option(help="Model, or real sockets and clock.")] = "mil",
    speed: Annotated[float, typer.Option(help="At hil: bench seconds per real second.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the scenario's own.")] = None,
    begin: Annotated[
        str | None, typer.Option("--from", help="Begin at this time of day, such as 18:00.")
    ] = None,
    length: Annotated[str | None, typer.Option("--for", help="Run this long, such as 1h.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the record; default a new one under runs/.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every home.")] = False,
    progress: Annotated[
        Literal["auto", "bar", "plain", "none"], typer.Option(help="What standard error carries.")
    ] = "auto",
    form: FormatOption = "table",
) -> None:
    """Run one scenario against a controller and judge every promise."""
    from . import bench  # with the record and its Parquet, which serving and scanning do without

    world = _world(scenario, seed, begin, length)
    folder = out if out is not None else _new_folder(world, controller, level)
    kind = progress
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "none"
    try:
        with Reporter(world, kind) as reporter:
            done = bench.run(
                world,
                controller,
                folder,
                level=level,
                speed=speed,
                progress=reporter.progress,
                on_part=reporter.part,
            )
    except KeyboardInterrupt:
        print(f"ridethrough: interrupted; what was recorded is in {folder}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if form == "json":
        facts = {"record": str(done.folder), "run_s": done.run_s, "judge_s": done.judge_s}
        _print_json({**facts, **done.verdict.to_dict()})
    else:
        print_run(world, done, level, controller, everything=everything)
    raise typer.Exit(done.verdict.exit_code)


def _new_folder(world: World, controller: str, level: str) -> Path:
    """Return a fresh folder under runs/, and point out records there that never finished."""
    from . import bench

    runs = Path("runs")
    for text in bench.unfinished_records(runs):
        print(f"ridethrough: note: {text}", file=sys.stderr)
    stem = "-".join((world.scenario_name, controller.replace(":", "."), level, f"seed{world.seed}"))
    return bench.free_folder(runs, stem)


@app.command("list")
def list_bundled(
    what: Annotated[
        Literal["all", "devices", "families", "quirks", "feeders", "scenarios", "controllers", "faults"],
        typer.Argument(help="Which list."),
    ] = "all",
    form: FormatOption = "table",
) -> None:
    """List what is bundled: devices, product families, quirks, feeders, scenarios, controllers, faults."""
    lists: dict[str, dict[str, str]] = {
        "devices": {name: load_profile(name).description for name in profile_names()},
        "families": {name: load_family(name).description for name in family_names()},
        "quirks": {name: load_quirk(name).description for name in quirk_names()},
        "feeders": {name: load_feeder(name, 1, None).description for name in feeder_names()},
        "scenarios": {name: load_scenario(name).description for name in scenario_names()},
        "controllers": {name: load_controller(name).__doc__ or "" for name in BUNDLED},
        "faults": {name: kind.what for name, kind in FAULTS.items()},
    }
    chosen = lists if what == "all" else {what: lists[what]}
    if form == "json":
        _print_json(chosen)
        return
    for title, entries in chosen.items():
        if what == "all":
            print(f"{title}:")
        width = max(map(len, entries))
        for name, text in entries.items():
            said = text.splitlines()[0].split(". ")[0].rstrip(".")
            print(f"{'  ' if what == 'all' else ''}{name:<{width}}  {said}")


@app.command()
def validate(
    files: Annotated[list[str], typer.Argument(help="Scenario files or bundled names.")],
    form: FormatOption = "table",
) -> None:
    """Check scenario files; every mistake is named with its place, what was found and what is allowed."""
    found: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    for file in files:
        try:
            loaded = load_scenario(file)
            build_world(loaded)
            notes[file] = list(scenario_notes(loaded))
        except ScenarioError as error:
            found[file] = str(error)
    if form == "json":
        _print_json(
            {
                file: {"errors": found.get(file, "").splitlines(), "notes": notes.get(file, [])}
                for file in files
            }
        )
    else:
        for file in files:
            if file in found:
                print(found[file], file=sys.stderr)
            else:
                print(f"{file}: fine")
                for note in notes[file]:
                    print(f"{file}: note: {note}")
    raise typer.Exit(2 if found else 0)


app.command("serve")(serve)
app.command("scan")(scan_device)
app.command("read")(read_points)
app.command("write")(write_points)


def main() -> None:
    """Run the command; every error on purpose becomes one message and exit code 2."""
    try:
        app()
    except RidethroughError as error:
        print(f"ridethrough: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
