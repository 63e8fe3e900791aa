"""The verbs around a run that goes on or is over: ``inject``, ``clear``, ``bench`` and ``replay``.

Rules of this file: as in cli.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table
from ridethrough.emulator.errors import ScenarioError

from .cli_device import FormatOption
from .remote import ask, find_bench
from .show import console
from .yamltree import parse_yaml

if TYPE_CHECKING:
    from .bench import Run
    from .mqtt.address import Address
    from .mqtt.standing import Mqtt
    from .replay import Replay
    from .world import World

EMBEDDED = "embedded"
"""Stands for a broker of our own, where a broker's address can be given."""

BenchOption = Annotated[
    str | None, typer.Option("--bench", help="Name of the running bench, or its file; not needed if alone.")
]


def inject(
    fault: Annotated[str, typer.Argument(help="Name of a fault, see ridethrough list faults.")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="all, a group, a device or its number; may be repeated."),
    ] = None,
    length: Annotated[
        str | None, typer.Option("--for", help="How long, in bench time, such as 10min; default: open.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", help="NAME=VALUE of the fault; may be repeated.")
    ] = None,
    bench: BenchOption = None,
    form: FormatOption = "table",
) -> None:
    """Let a fault begin now in a bench that runs; it ends after --for, or with ridethrough clear."""
    request: dict[str, Any] = {"verb": "inject", "fault": fault, "params": _params(param or [])}
    if target:
        request["target"] = _target(target)
    if length is not None:
        request["for"] = length
    event = ask(find_bench(bench), request)["event"]
    if form == "json":
        print(json.dumps(event, indent=2))
    else:
        print(_sentence(event))


def clear(
    number: Annotated[str, typer.Argument(help="Number of an event, or all that are in force.")],
    bench: BenchOption = None,
    form: FormatOption = "table",
) -> None:
    """Let a fault end now in a bench that runs, whether it was injected or stands in the scenario."""
    if number != "all" and not (number.isascii() and number.isdigit()):
        raise ScenarioError(f"found {number!r}; allowed the number of an event, or all")
    which = number if number == "all" else int(number)
    events = ask(find_bench(bench), {"verb": "clear", "number": which})["events"]
    _tell(events, form, "no fault was in force")


def bench_now(
    what: Annotated[
        Literal["state", "faults", "stop"],
        typer.Argument(help="Show where it stands, show faults in force and to come, or end it in order."),
    ] = "state",
    bench: BenchOption = None,
    form: FormatOption = "table",
) -> None:
    """Look at a bench that runs, or stop it: its record is then finished and judged as far as it went."""
    answer = ask(find_bench(bench), {"verb": what})
    if what == "faults":
        _tell(answer["events"], form, "no fault is in force or to come")
    elif what == "stop":
        print(json.dumps({"stopped": True}) if form == "json" else "it ends")
    elif form == "json":
        print(json.dumps(answer["state"], indent=2))
    else:
        state = answer["state"]
        numbers = ", ".join(map(str, state["in_force"])) or "none"
        print(
            f"{state['scenario']} at {state['clock']}, ends {state['end_clock']}, speed {state['speed']:g}, "
            f"{len(state['devices'])} devices; events in force: {numbers}"
        )


def replay_record(
    record: Annotated[Path, typer.Argument(help="Folder of the record.")],
    level: Annotated[
        Literal["mil", "sil"], typer.Option(help="Model, or registers in virtual time.")
    ] = "mil",
    controller: Annotated[
        str | None, typer.Option(help="Instead of the recorded one, where that was a program.")
    ] = None,
    files: Annotated[Path | None, typer.Option(help="Folder of the scenario, where it names files.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the new record; default a new one beside the old.")
    ] = None,
    form: FormatOption = "table",
) -> None:
    """Run a record again in virtual time, injected faults included, and compare the verdicts.

    Exit code 0: they agree; 1: they do not; 3: one of them is inconclusive.
    """
    from . import bench
    from .replay import replay  # with the record and its Parquet

    old = record.resolve()
    folder = out if out is not None else bench.free_folder(old.parent, f"{old.name}-replay-{level}")
    done = replay(old, folder, level=level, controller=controller, files=files)
    if form == "json":
        print(json.dumps(done.to_dict(), indent=2))
    else:
        _print_replay(done, level)
    raise typer.Exit(done.exit_code)


def check_external(
    external: str | None, mqtt: str | None, level: str, *, isolate: bool, control: bool
) -> None:
    """Refuse options of ``run`` that do not go together.

    Raises
    ------
    ScenarioError
    """
    given = " and ".join(
        name for name, value in (("--external", external), ("--mqtt", mqtt)) if value is not None
    )
    if control and level != "hil":
        raise ScenarioError(f"--control at level {level}: allowed at level hil")
    if given and level != "hil":
        raise ScenarioError(f"{given} at level {level}: allowed at level hil")
    if given and isolate:
        raise ScenarioError(f"--isolate with {given}: allowed without; it is a process of its own")


def play_external(
    world: World, command: str | None, mqtt: Mqtt | None, folder: Path, *, control: bool, **how: Any
) -> Run:
    """Run a world against an external program, over Modbus or MQTT, see `external.run_external`.

    Raises
    ------
    ScenarioError
        The broker's address, or what else was given, cannot be used.
    """
    from .external import run_external  # with the record and its Parquet

    return run_external(world, command or "", folder, mqtt=mqtt, opened=opened(control), **how)


def opened(control: bool) -> Callable[[Path], None] | None:
    """Return what tells where ``inject`` and ``clear`` reach a bench; None when they are not to."""
    from .live_serve import tell_control

    return tell_control if control else None


def mqtt_of(text: str, *, ca: Path | None = None, port: int = 0, home_assistant: bool = False) -> Mqtt:
    """Return what an option ``--mqtt`` means: ``embedded``, or the address of a broker.

    Raises
    ------
    ScenarioError
        It is neither.
    """
    from .mqtt.address import parse_address
    from .mqtt.standing import Mqtt

    if text == EMBEDDED and ca is not None:
        raise ScenarioError("--mqtt-ca: allowed with --mqtt mqtts://HOST; the embedded broker is on loopback")
    address = None if text == EMBEDDED else parse_address(text, environment=os.environ, ca=ca)
    return Mqtt(address, port, home_assistant, tell_broker)


def mqtt_option(
    text: str | None, ca: Path | None, port: int = 0, *, home_assistant: bool = False
) -> Mqtt | None:
    """Return the gateway that the options of a verb ask for; None when they ask for none.

    Raises
    ------
    ScenarioError
        An option without the one it belongs to.
    """
    if text is not None:
        return mqtt_of(text, ca=ca, port=port, home_assistant=home_assistant)
    if ca is not None or port or home_assistant:
        raise ScenarioError("--mqtt-ca, --mqtt-port, --home-assistant: allowed with --mqtt")
    return None


def tell_broker(address: Address) -> None:
    """Say on standard error where the broker is."""
    print(f"mqtt: {address}", file=sys.stderr, flush=True)


def _print_replay(done: Replay, level: str) -> None:
    from .replay import broken

    out = console()
    said = {"same": "the verdict agrees", "different": "the verdict differs", "inconclusive": "inconclusive"}
    out.print(
        f"{done.outcome.upper()}: {said[done.outcome]}; recorded {done.recorded.outcome}, "
        f"replayed at {level} {done.run.verdict.outcome}; {done.injected} injected faults"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("home", "recorded", "replayed", ""):
        table.add_column(name, no_wrap=True)
    for pair in done.homes:
        cells = [" ".join((home.outcome, *broken(home))) for home in (pair.recorded, pair.replayed)]
        table.add_row(escape(pair.recorded.name), *cells, "" if pair.agree else "differs")
    out.print(table)
    for who, verdict in (("recorded", done.recorded), ("replayed", done.run.verdict)):
        for reason in verdict.reasons:
            out.print(f"  {who}: {escape(reason)}", soft_wrap=True)
    out.print(f"record of the replay in {escape(str(done.run.folder))}", soft_wrap=True)


def _tell(events: Sequence[Mapping[str, Any]], form: str, none: str) -> None:
    if form == "json":
        print(json.dumps(events, indent=2))
        return
    print("\n".join(map(_sentence, events)) or none)


def _sentence(event: Mapping[str, Any]) -> str:
    devices = event["devices"]
    shown = ", ".join(devices[:4]) + (f" and {len(devices) - 4} more" if len(devices) > 4 else "")
    where = f" on {shown}" if devices else ""
    return f"event {event['number']}: {event['fault']}{where} from {event['from']} until {event['until']}"


def _target(given: Sequence[str]) -> str | list[str | int]:
    """Return a target as a scenario has it: a name, or a list of names and numbers."""
    items = [part.strip() for text in given for part in text.split(",")]
    if len(items) == 1 and not items[0].isdigit():
        return items[0]
    return [int(item) if item.isascii() and item.isdigit() else item for item in items]


def _params(given: Sequence[str]) -> dict[str, Any]:
    """Return parameters of a fault, read as a scenario file reads them.

    Raises
    ------
    ScenarioError
        One is not NAME=VALUE, or occurs twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals or name in found:
            raise ScenarioError(f"--param {text!r}: allowed NAME=VALUE, each name once")
        tree, whole = parse_yaml(f"value: {value}")
        if not whole or tree.findings or not isinstance(tree.root, dict) or set(tree.root) != {"value"}:
            raise ScenarioError(f"--param {text!r}: found no value; allowed a word, a number or a quantity")
        found[name] = tree.root["value"]
    return found
