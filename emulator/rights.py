"""Who may read and write which register, by the roles of Secure SunSpec Modbus.

Rule of this file: names and tables only; where a role comes from is the business of tls.py, and what a write
then does is the unit's.

All four roles may read everything: discovery needs ID and L of every model, and the map withholds no other
point.  Who may write a point is in `WRITERS` and `WRITERS_BY_POINT`; a point that the standard does not give
write access to is written by nobody.  A write is allowed if the role may write every register that it
touches.  Registers that are no point (the marker, the end model, whatever lies outside the map) are in no
table, so they are left to the role that may do everything; the unit then answers it.  So are coils.

References
----------
SunSpec, roles-to-rights maps of Secure SunSpec Modbus, github.com/dersecure/rbac (Apache-2.0), at dc05ef6 of
2025-09-25: a file per model that lists the reading and writing roles of each point.  The tables below say the
same by model, for the models served here.  The files spell the last role ``SuperAdministratorSpec``; their
README and the certificates in use have ``SuperAdministratorSunSpec``, which counts here.

MODBUS/TCP Security V3.6: a request that the role does not allow is answered with exception 01.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final, Protocol

from .errors import ScenarioError
from .layout import Layout
from .points import Point
from .sunspec_definitions import Definition, model_group

READ_ONLY: Final = "ReadOnlySunSpec"
GRID_SERVICE: Final = "GridServiceSunSpec"
NETWORK_ADMINISTRATOR: Final = "NetworkAdministratorSunSpec"
SUPER_ADMINISTRATOR: Final = "SuperAdministratorSunSpec"

ROLES: Final = (READ_ONLY, GRID_SERVICE, NETWORK_ADMINISTRATOR, SUPER_ADMINISTRATOR)

_NOBODY: Final = frozenset[str]()
_SUPER: Final = frozenset({SUPER_ADMINISTRATOR})
_NETWORK: Final = frozenset({NETWORK_ADMINISTRATOR, SUPER_ADMINISTRATOR})
_GRID: Final = frozenset({GRID_SERVICE, SUPER_ADMINISTRATOR})

WRITERS: Final[Mapping[int, frozenset[str]]] = {
    1: _NETWORK,  # its one point is the Modbus address
    **dict.fromkeys((121, 123, 124), _GRID),
    **dict.fromkeys((702, 703, 704, 705, 706, 711, 712), _GRID),
    **dict.fromkeys((707, 708, 709, 710), _SUPER),  # trip settings: protection
    715: _SUPER,
    **dict.fromkeys((802, 803, 804), _GRID),
}
"""By model: who may write the points that the standard gives write access to."""

WRITERS_BY_POINT: Final[Mapping[tuple[int, str], frozenset[str]]] = dict.fromkeys(
    ((702, "VNom"), (702, "VMax"), (702, "VMin")), _SUPER
)
"""Where a point differs from the rest of its model."""

_ALWAYS: Final = frozenset({1, 2, 3, 4, 8, 43})
"""Function codes that change nothing."""
_COILS: Final = frozenset({5, 15})
_REGISTERS: Final = frozenset({6, 16, 22, 23})


class PointMap(Protocol):
    """Where the points of one unit lie, as a client sees it."""

    def point_at(self, address: int, /) -> Point | None:
        """Return the point that a register belongs to, None if it belongs to none."""


class LayoutMap:
    """The points of a unit that shows its layout as it is.

    Parameters
    ----------
    layout : Layout
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def point_at(self, address: int) -> Point | None:
        """Return the point that a register belongs to."""
        place = address - self._layout.base_address
        return self._layout.point_at[place] if 0 <= place < self._layout.count else None


def point_map(unit: object) -> PointMap:
    """Return where the points of a unit lie: its own `point_at`, or that of its layout.

    Raises
    ------
    ScenarioError
        The unit has neither, so nobody can tell who may write what.
    """
    own = getattr(unit, "point_at", None)
    if callable(own):
        found: PointMap = unit  # type: ignore[assignment]  # it has what the protocol asks for
        return found
    layout = getattr(unit, "layout", None)
    if isinstance(layout, Layout):
        return LayoutMap(layout)
    raise ScenarioError(
        f"units: a {type(unit).__name__} found, which does not say where its points lie; "
        "allowed behind TLS are units with a layout or with point_at"
    )


def _writable(group: Definition, prefix: str = "") -> Iterator[str]:
    for point in group.get("points", ()):
        if point.get("access") == "RW":
            yield prefix + point["name"]
    for inner in group.get("groups", ()):
        yield from _writable(inner, f"{prefix}{inner['name']}.")


@cache
def _points_to_write(model: int) -> frozenset[str]:
    """Return the points of a model that the standard gives write access to, without the numbers of groups."""
    return frozenset(_writable(model_group(model)))


@cache
def writers(model: int, name: str) -> frozenset[str]:
    """Return the roles that may write a point.

    Parameters
    ----------
    model : int
    name : str
        As `Point.name`, such as ``"WSet"`` or ``"Crv[1].Pt[2].V"``.
    """
    plain = re.sub(r"\[\d+\]", "", name)
    if model not in WRITERS or plain not in _points_to_write(model):
        return _NOBODY
    return WRITERS_BY_POINT.get((model, plain), WRITERS[model])


class Rights:
    """What one client may do; asked by the core of `_pdu` before a unit is.

    Parameters
    ----------
    role : str or None
        From the client's certificate.  Without one, or with one that is not in `ROLES`, nothing is allowed.
    maps : Mapping[int, PointMap]
        By unit id, in the order of the units: the first one also stands for the server itself, as there.
    """

    def __init__(self, role: str | None, maps: Mapping[int, PointMap]) -> None:
        self.role = role
        self._maps = maps
        self._first = next(iter(maps.values()))

    def allows(self, unit_id: int, function: int, address: int, count: int) -> bool:
        """Tell whether the client may carry out a request; of function 23, what concerns its write."""
        if self.role not in ROLES:
            return False
        if function in _ALWAYS:
            return True
        if function in _COILS:
            return self.role in _SUPER
        if function not in _REGISTERS:
            return False
        points = self._maps.get(unit_id, self._first)
        return all(self._may_write(points.point_at(address + k)) for k in range(count))

    def _may_write(self, point: Point | None) -> bool:
        return self.role in (_SUPER if point is None else writers(point.model, point.name))
