"""The standard's own model definitions, as pysunspec2 ships them: points in map order, units, resolution.

Rules of this file: no profile and no device; what is read is the installed package's data, never the working
directory's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from .errors import InvariantError

Definition = Mapping[str, Any]
"""A point or a group as the JSON has it."""

# The finest resolution worth serving, as a power of ten, by the unit SunSpec gives a point.
_FINEST: Final[Mapping[str, int]] = {
    "V": -1,
    "A": -2,
    "Hz": -3,
    "AH": -2,
    "Ah": -2,
    "%": -2,
    "cos()": -2,
    "Secs": -2,
    "C": -1,
    "": -3,
}

_FINER: Final[Mapping[str, int]] = {"CellV_SF": -3, "Db_SF": -4, "K_SF": -4}
"""The same where the unit is too coarse a guide, by scale factor: cells, dead bands, droop."""

_PERCENT: Final = frozenset({"Pct", "VNomPct", "WMaxPct", "VarPct", "DeptRef"})
"""Units that mean percent beside those that begin with a percent sign."""


@cache
def model_group(model: int) -> Definition:
    """Return the top group of a model, from the installed package only."""
    path = files("sunspec2") / "models" / "json" / f"model_{model}.json"
    group: Definition = json.loads(path.read_text(encoding="utf-8"))["group"]
    return group


def flatten(
    group: Definition, counts: Mapping[str, int], prefix: str = ""
) -> Iterator[tuple[str, Definition]]:
    """Yield the points of a definition in map order; a group inside it prefixes its points' names.

    `counts` says how often a repeating group is there, by the point that holds the number, or by the group's
    own name where the definition names none.
    """
    for point in group.get("points", ()):
        yield prefix + point["name"], point
    for inner in group.get("groups", ()):
        name, count = inner["name"], inner.get("count", 1)
        if count == 1:
            yield from flatten(inner, counts, f"{prefix}{name}.")
            continue
        key = str(count) if count else name
        if key not in counts:
            raise InvariantError(f"group {name} repeats, and nothing says how often")
        for k in range(1, counts[key] + 1):
            yield from flatten(inner, counts, f"{prefix}{name}[{k}].")


def units(definition: Definition) -> str:
    """Return the unit of a point, empty for none."""
    return str(definition.get("units") or "").strip()


def is_percent(definition: Definition) -> bool:
    """Tell whether a point is in percent, and so a fraction as a quantity."""
    return units(definition).startswith("%") or units(definition) in _PERCENT


def finest(definition: Definition) -> int:
    """Return the finest resolution worth serving, as a power of ten."""
    by_unit = _FINEST.get("%" if is_percent(definition) else units(definition), 0)
    return _FINER.get(str(definition.get("sf")), by_unit)
