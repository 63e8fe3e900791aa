"""A write request as points, and back to registers.

Duty: what every write quirk needs: which whole points a request holds, what becomes of each, and the requests
that carry the rest further down.

Rules of this file: a register number is the integer that the registers hold, before any scale factor.  A
point written with its "not implemented" value counts as not written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from .. import _registers
from ..errors import ScenarioError
from ..layout import Layout
from ..points import Point
from .schedule import Strict

if TYPE_CHECKING:
    from .._modbus import Unit

ILLEGAL_ADDRESS: Final = 2
ILLEGAL_VALUE: Final = 3

Pattern = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}\.(\*|[A-Za-z][A-Za-z0-9_.\[\]]{0,62})$")]
"""Model and point, such as ``704.WSet``; ``123.*`` for every point of a model that a client may write."""
Patterns = Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=100)]


class Rule(Strict):
    """A knob that acts on single points."""

    points: Patterns


def matched(layout: Layout, knob: str, patterns: Iterable[str]) -> frozenset[Point]:
    """Return the points of a map that patterns name.

    Raises
    ------
    ScenarioError
        When there is none: the quirk could not show on this device.
    """
    wanted = tuple(patterns)
    found: set[Point] = set()
    for pattern in wanted:
        model, _, name = pattern.partition(".")
        if name == "*":
            found.update(point for point in layout.points if point.model == int(model) and point.writable)
        elif (int(model), name) in layout.by_name:
            found.add(layout.by_name[int(model), name])
    if not found:
        raise ScenarioError(
            f"writes.{knob}: found {', '.join(wanted)}, and device {layout.profile.profile} has no such "
            f"point; allowed are points of its models {', '.join(map(str, layout.models))}"
        )
    return frozenset(found)


@dataclass(slots=True)
class Draft:
    """A write request on its way through the quirks.

    Attributes
    ----------
    asked : dict of Point to int
        Register number of every point that is written.
    passed : dict of Point to (int or None)
        What goes further down; None keeps a point of the request from being written.
    shown : dict of Point to (int or None)
        What the points show once the request is accepted; None for what lies below.
    waiting : dict of Point to (int or None)
        Numbers that act later; None for one that acts with this request.
    refused : bool
        A number that is kept is none that the point takes: the request is refused.
    """

    asked: dict[Point, int]
    passed: dict[Point, int | None]
    shown: dict[Point, int | None] = field(default_factory=dict)
    waiting: dict[Point, int | None] = field(default_factory=dict)
    refused: bool = False

    def drop(self, point: Point) -> None:
        """Lose what was written to a point; what it shows stays."""
        self.passed[point] = None
        self.shown.pop(point, None)

    def keep(self, point: Point, register: int) -> None:
        """Show what was written to a point, and pass nothing on."""
        self.passed[point] = None
        self.shown[point] = register
        self.refused |= point.writable and not point.low <= register <= point.high


def draft_of(layout: Layout, address: int, data: bytes) -> Draft | None:
    """Return a request as points; None when it does not consist of whole points."""
    first, count = address - layout.base_address, len(data) // 2
    if len(data) != 2 * count or count == 0 or first < 0 or first + count > layout.count:
        return None
    asked: dict[Point, int] = {}
    passed: dict[Point, int | None] = {}
    for point in dict.fromkeys(layout.point_at[first : first + count]):
        if point is None or point.address < address or point.address + point.size > address + count:
            return None
        begin = 2 * (point.address - address)
        register = (
            _registers.decode(data[begin : begin + 2 * point.size], point.signed)
            if point.type not in ("string", "pad")
            else point.blank
        )
        if register == point.blank:
            passed[point] = None if point.writable else register  # refused further down
        else:
            asked[point] = passed[point] = register
    return Draft(asked, passed, dict.fromkeys(asked))


def encoded(point: Point, register: int) -> bytes:
    """Return the registers that hold a number."""
    return (register & ((1 << 16 * point.size) - 1)).to_bytes(2 * point.size, "big")


def read_point(unit: Unit, point: Point) -> int:
    """Return the number in a point's registers, its "not implemented" value where they cannot be read."""
    data = unit.read(point.address, point.size)
    return _registers.decode(data, point.signed) if isinstance(data, bytes) else point.blank


def forward(unit: Unit, passed: Mapping[Point, int | None]) -> int:
    """Write points in as few requests as possible; return 0 or the exception code of the first refusal.

    A point that is kept back is written with its "not implemented" value, which leaves it alone, or left out
    where nobody may write it.  Several requests are looked at before the first is made, so that a refusal by
    address or range leaves nothing half written.
    """
    runs: list[list[tuple[Point, int | None]]] = []
    end = -1
    for point in sorted(passed, key=lambda point: point.address):
        if passed[point] is None and not point.writable:
            continue
        if point.address != end:
            runs.append([])
        runs[-1].append((point, passed[point]))
        end = point.address + point.size
    runs = [run for run in runs if any(register is not None for _, register in run)]
    if len(runs) > 1:
        for point, register in (pair for run in runs for pair in run):
            if not point.writable:
                return ILLEGAL_ADDRESS
            if register is not None and not point.low <= register <= point.high:
                return ILLEGAL_VALUE
    for run in runs:
        data = b"".join(encoded(point, point.blank if number is None else number) for point, number in run)
        code = unit.write(run[0][0].address, data)
        if code:
            return code
    return 0


def overlaid(address: int, data: bytes, registers: Mapping[Point, int]) -> bytes:
    """Return what was read, with some points showing other numbers; a read may cut a point."""
    count, out = len(data) // 2, bytearray(data)
    for point, register in registers.items():
        low, high = max(point.address, address), min(point.address + point.size, address + count)
        if low < high:
            whole = encoded(point, register)
            begin = 2 * (low - point.address)
            out[2 * (low - address) : 2 * (high - address)] = whole[begin : begin + 2 * (high - low)]
    return bytes(out)
