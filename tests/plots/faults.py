"""Pages of docs/faults, made from the catalogue and from the tables of hil/effects: one for each fault.

Rule of this file: nothing is said here of any fault; what is wrong in a page is mended in its file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ridethrough.hil.effects.table import LEVELS, PLACES, levels, places
from ridethrough.hil.fault_files import CLASSES, FaultKind
from ridethrough.hil.fault_params import Param
from ridethrough.hil.faults import catalogue

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "faults"

INVARIANTS: Final = {
    "RDY": "readiness: the reserve is there when an outage begins",
    "DEL": "delivery: the promised load is served in an outage",
    "REC": "recovery: the reserve comes back after an outage",
    "VAN": "vanishing controller: nothing breaks when the controller is gone",
    "FRE": "freshness: old commands and readings are not acted on",
    "DEV": "device limits",
    "EXP": "no export while islanded",
    "AIS": "anti-islanding within 2 s",
    "FAIR": "no home pays for another's promise",
    "TRU": "truthful telemetry",
    "ECO": "economic sanity",
    "LIV": "liveness: what is healed works again",
    "ROB": "robust servers",
}

TITLES: Final = {
    "comms": "Communications",
    "telemetry": "Telemetry",
    "device": "Devices",
    "grid": "Grid",
    "controller": "Controller",
    "broker": "Broker and cloud",
}

ACTS_IN: Final = {
    "grid": "what the world puts on a home",
    "plant": "the device itself",
    "orders": "the broker between controller and devices",
    "candidate": "around the controller",
    "readings": "what a device reports, as data",
    "messages": "messages between controller and device, as data",
    "registers": "what a device reports, in its registers",
    "link": "bytes of the connection",
}


def pages() -> dict[str, str]:
    """Return every page by file name."""
    kinds = catalogue()
    made = {f"{name}.md": page(kind) for name, kind in kinds.items()}
    return {"README.md": index(kinds), **made}


def index(kinds: dict[str, FaultKind]) -> str:
    """Return the list of all faults with the levels at which each can be injected."""
    lines = [
        "# Faults",
        "",
        f"The {len(kinds)} faults a scenario can name, class by class. They are data, in `fixtures/faults/`;",
        "how each acts is in `hil/effects/`, and from the tables there follows at which level it can be",
        "injected. Every marked cell is run, and seen by a witness of its own in `tests/faults/`. How events",
        "are written is in [scenarios.md](../scenarios.md#events).",
        "",
        "These pages are made by `python -m tests.plots faults`.",
    ]
    for group in CLASSES:
        mine = [kind for kind in kinds.values() if kind.group == group]
        if not mine:
            continue
        lines += ["", f"## {TITLES[group]}", "", "| row | fault | MIL | SIL | HIL | at risk |"]
        lines += ["| --- | --- | :-: | :-: | :-: | --- |"]
        for kind in mine:
            marks = " | ".join("x" if level in levels(kind.fault) else "" for level in LEVELS)
            name = f"[{kind.fault}]({kind.fault}.md)"
            lines.append(f"| {kind.row} | {name} | {marks} | {', '.join(kind.at_risk)} |")
    lines += ["", "## What is at risk", "", "| sign | meaning |", "| --- | --- |"]
    lines += [f"| {sign} | {meaning} |" for sign, meaning in INVARIANTS.items()]
    return "\n".join(lines) + "\n"


def page(kind: FaultKind) -> str:
    """Return the page of one fault."""
    who = "devices" if kind.acts_on == "devices" else "the controller, so an event has no `target`"
    lines = [f"# {kind.fault}", "", kind.what.strip(), ""]
    lines += [f"Row {kind.row} of the [catalogue](README.md). Acts on {who}.", "", "## Where it acts", ""]
    lines += list(_where(kind.fault))
    lines += ["", "## Seen", ""]
    lines += [f"- {sight.what}: {_linked(sight.where)}" for sight in kind.seen]
    lines += ["", "## At risk, and what helps", ""]
    lines += [f"- {sign}, {INVARIANTS[sign]}" for sign in kind.at_risk]
    lines += ["", f"What helps: {kind.mitigation}.", "", "## Parameters", ""]
    lines += list(_parameters(kind))
    lines += ["", "## Example", "", "```yaml", "events:", f"  - {_written(kind)}", "```"]
    return "\n".join(lines) + "\n"


def _where(fault: str) -> Iterator[str]:
    yield "| level | place |"
    yield "| --- | --- |"
    for level in LEVELS:
        mine = [place for place in places().get(fault, ()) if level in PLACES[place]]
        told = "; ".join(f"`{place}`, {ACTS_IN[place]}" for place in mine)
        yield f"| {level.upper()} | {told or 'nowhere: such a fault has no meaning there'} |"


def _linked(where: str) -> str:
    if not where.startswith("https://"):
        return where
    short = re.sub(r"^https://(?:www\.)?", "", where)
    return f"[{short}]({where})"


def _parameters(kind: FaultKind) -> Iterator[str]:
    if not kind.params:
        yield (
            "None besides `at` and `for`."
            if kind.acts_on == "controller"
            else ("None besides `at`, `for` and `target`.")
        )
        return
    yield "| name | allowed | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, param in kind.params.items():
        default = "required" if param.required else _shown(param)
        yield f"| `{name}` | {_allowed(param)} | {default} | {param.what.replace('|', '/')} |"


def _allowed(param: Param) -> str:
    if param.of is not None:
        return ", ".join(f"`{word}`" for word in param.of)
    if param.min is None:
        return param.allowed
    bound = (
        ""
        if param.times is None
        else f"; {param.times.min:g} to {param.times.max:g} times `{param.times.of}`"
    )
    return f"{param.range}{bound}"


def _shown(param: Param) -> str:
    return f"`{param.show(param.written.parse(param.default))}`"


def _written(kind: FaultKind) -> str:
    target = {"target": "home-01"} if kind.acts_on == "devices" else {}
    event = {"at": "17:30", "fault": kind.fault, **target, "for": "10min", **kind.example}
    return f"{{{', '.join(f'{key}: {_scalar(value)}' for key, value in event.items())}}}"


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def stale(folder: Path, wanted: dict[str, str]) -> Iterator[str]:
    """Object to pages that are missing, differ from what they must say, or belong to no fault."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    for name in sorted(set(there) | set(wanted)):
        if name not in there:
            yield f"{name} is missing: python -m tests.plots faults"
        elif name not in wanted:
            yield f"{name} is of no fault"
        elif there[name] != wanted[name]:
            yield f"{name} is out of date: python -m tests.plots faults"


def write(folder: Path = FOLDER) -> None:
    """Make all pages, and remove those of faults that are no more."""
    wanted = pages()
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
