"""The verb ``list``: what is bundled.

Rule of this file: only what is asked for is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

import typer

from .candidate import BUNDLED, load_controller
from .cli_device import FormatOption
from .fault_files import FaultKind
from .faults import catalogue
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


def _faults() -> dict[str, dict[str, Any]]:
    """Return all that is known of each fault, as plain data."""
    from .effects.table import levels  # with the plant, the relay and all else that a fault acts on

    return {name: {"levels": list(levels(name)), **_facts(kind)} for name, kind in catalogue().items()}


def _facts(kind: FaultKind) -> dict[str, Any]:
    facts = kind.model_dump(mode="json", exclude_none=True)
    del facts["fault"]  # it is the name
    return facts


LISTS: Final[Mapping[str, Callable[[], Mapping[str, Any]]]] = {
    "devices": lambda: {name: load_profile(name).description for name in profile_names()},
    "families": lambda: {name: load_family(name).description for name in family_names()},
    "quirks": lambda: {name: load_quirk(name).description for name in quirk_names()},
    "feeders": lambda: {name: load_feeder(name, 1, None).description for name in feeder_names()},
    "scenarios": lambda: {name: load_scenario(name).description for name in scenario_names()},
    "controllers": lambda: {name: load_controller(name).__doc__ or "" for name in BUNDLED},
    "faults": _faults,
}
"""What can be listed: a sentence by name, or facts by name."""


def list_bundled(
    what: Annotated[
        Literal["all", "devices", "families", "quirks", "feeders", "scenarios", "controllers", "faults"],
        typer.Argument(help="Which list."),
    ] = "all",
    form: FormatOption = "table",
) -> None:
    """List what is bundled: devices, product families, quirks, feeders, scenarios, controllers, faults."""
    chosen = {title: make() for title, make in LISTS.items() if what in ("all", title)}
    if form == "json":
        print(json.dumps(chosen, indent=2, allow_nan=False))
        return
    for title, entries in chosen.items():
        if what == "all":
            print(f"{title}:")
        width = max(map(len, entries), default=0)
        for name, facts in entries.items():
            print(f"{'  ' if what == 'all' else ''}{name:<{width}}  {_line(facts)}")


def _line(facts: str | Mapping[str, Any]) -> str:
    """Return the first sentence of what is known of an entry; of a fault, row and levels before it."""
    if isinstance(facts, str):
        return facts.splitlines()[0].split(". ")[0].rstrip(".") if facts else ""
    return f"{facts['row']:<3}  {' '.join(facts['levels']):<11}  {_line(facts['what'])}"
