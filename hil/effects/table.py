"""At which levels each fault can be injected, as the tables of this package have it.

Rule of this file: nothing is listed by hand; a fault that no table names acts nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Final

from ridethrough.emulator.errors import ScenarioError

from ..faults import Event

LEVELS: Final = ("mil", "sil", "hil")

PLACES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "grid": LEVELS,
        "plant": LEVELS,
        "orders": LEVELS,
        "candidate": LEVELS,
        "readings": ("mil",),
        "messages": ("mil",),
        "registers": ("sil", "hil"),
        "link": ("sil", "hil"),
    }
)
"""Modules of this package, and the levels at which what they do is in the way of a run."""


@cache
def places() -> Mapping[str, tuple[str, ...]]:
    """Return, for each fault, the places where it acts, ascending."""
    # Late: listing and checking levels needs all places, reading a scenario needs none of them.
    found: dict[str, list[str]] = {}
    for place in PLACES:
        for fault in import_module(f".{place}", __package__).ACTS:
            found.setdefault(fault, []).append(place)
    return MappingProxyType({fault: tuple(where) for fault, where in sorted(found.items())})


def levels(fault: str) -> tuple[str, ...]:
    """Return the levels at which a fault acts, in the order of `LEVELS`."""
    reached = {level for place in places().get(fault, ()) for level in PLACES[place]}
    return tuple(level for level in LEVELS if level in reached)


def check_level(events: Iterable[Event], level: str) -> None:
    """Refuse events that would do nothing at a level.

    Parameters
    ----------
    events : iterable of Event
    level : {"mil", "sil", "hil"}

    Raises
    ------
    ScenarioError
        Naming each of the first five, and where it does act.
    """
    idle = [event for event in events if level not in levels(event.fault)]
    lines = [
        f"event {event.number}: found {event.fault} at level {level}; "
        f"allowed at {', '.join(levels(event.fault)) or 'no level'}"
        for event in idle[:5]
    ]
    if len(idle) > 5:
        lines.append(f"and {len(idle) - 5} more")
    if lines:
        raise ScenarioError("\n".join(lines))
