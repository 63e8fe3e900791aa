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
from .candidate import BUNDLED
from .cli_device import INTERRUPTED, FormatOption, read_points, scan_device, write_points
from .cli_list import list_bundled
from .cli_live import (
    bench_now,
    check_external,
    clear,
    inject,
    mqtt_option,
    opened,
    play_external,
    replay_record,
)
from .cli_serve import serve
from .files import load_scenario
from .show import Reporter, print_run
from .storm import storm_note
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
    level: Annotated[
        Literal["mil", "sil", "hil"],
        typer.Option(help="Model; real Modbus in virtual time; or real sockets and clock."),
    ] = "mil",
    isolate: Annotated[
        bool, typer.Option(help="Run the controller in a process of its own, within limits.")
    ] = False,
    external: Annotated[
        str | None,
        typer.Option(help="At hil: a program that speaks Modbus to the devices, instead of --controller."),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(help="At hil: a gateway to MQTT for programs: 'embedded', or mqtt://HOST:PORT."),
    ] = None,
    mqtt_ca: Annotated[
        Path | None, typer.Option(help="With --mqtt mqtts://HOST: whom to trust, as PEM.")
    ] = None,
    control: Annotated[
        bool, typer.Option(help="At hil: let ridethrough inject and clear reach the run.")
    ] = False,
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

    check_external(external, mqtt, level, isolate=isolate, control=control)
    world = _world(scenario, seed, begin, length)
    gateway = mqtt_option(mqtt, mqtt_ca)
    own = external is None and gateway is None
    who = controller if own else "external"
    folder = out if out is not None else _new_folder(world, who, level)
    kind = ("bar" if sys.stderr.isatty() else "none") if progress == "auto" else progress
    try:
        with Reporter(world, kind) as reporter:
            watch: dict[str, Any] = {"progress": reporter.progress, "on_part": reporter.part}
            if own:
                watch |= {"speed": speed, "isolate": isolate, "opened": opened(control)}
                done = bench.run(world, controller, folder, level=level, **watch)
            else:
                watch |= {"speed": speed, "control": control}
                done = play_external(world, external, gateway, folder, **watch)
    except KeyboardInterrupt:
        print(f"ridethrough: interrupted; what was recorded is in {folder}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if form == "json":
        facts = {"record": str(done.folder), "run_s": done.run_s, "judge_s": done.judge_s}
        _print_json({**facts, **done.verdict.to_dict()})
    else:
        print_run(world, done, level, who, everything=everything)
    raise typer.Exit(done.verdict.exit_code)


def _new_folder(world: World, controller: str, level: str) -> Path:
    """Return a fresh folder under runs/, and point out records there that never finished."""
    from . import bench

    runs = Path("runs")
    for text in bench.unfinished_records(runs):
        print(f"ridethrough: note: {text}", file=sys.stderr)
    stem = "-".join((world.scenario_name, controller.replace(":", "."), level, f"seed{world.seed}"))
    return bench.free_folder(runs, stem)


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
            world = build_world(loaded)
            told = storm_note(loaded, world.events)
            notes[file] = [*([told] if told else []), *scenario_notes(loaded)]
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


app.command("list")(list_bundled)
app.command("serve")(serve)
app.command("inject")(inject)
app.command("clear")(clear)
app.command("bench")(bench_now)
app.command("replay")(replay_record)
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
