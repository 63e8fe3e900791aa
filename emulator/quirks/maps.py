"""Map quirks: the right registers at the wrong place, or not there at all.

Duty: an outer map that a client sees, cut out of the inner, standard one.  It is a list of segments; each is
a range of inner registers or constant bytes, and may be unreadable.

Rules of this file: no value of a point is made here; what a register holds is the business of the layers
inside.  A read is answered from one instant, into however many pieces it falls.  A write that is not one
unbroken range of inner registers is refused whole.  Where models vanish, those behind them move up, so that
the chain stays whole: a client that keeps old addresses then reads, and writes, another model.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field, model_validator

from ..layout import READ_COUNT_MAX, Layout
from ..points import NUMBER_TYPES
from .schedule import ALWAYS, ModelId, PointName, Schedule, Strict, When, points_in

if TYPE_CHECKING:
    from .._modbus import Unit

ILLEGAL_ADDRESS: Final = 2
COMMON: Final = 1
COMMON_SHORT: Final = 65
"""Length of the common model in old maps, without its pad register."""
HEADER: Final = 2
MARKER: Final = b"SunS"
END_ID: Final = b"\xff\xff"
PAD: Final = b"\x80\x00"
FLOAT_OF: Final = {101: 111, 102: 112, 103: 113}
"""The float model that says the same as an integer one."""

Code = Annotated[int, Field(ge=1, le=11)]
UnitId = Annotated[int, Field(ge=1, le=247)]
Family = Literal["int", "float", "both"]


class Hole(Strict):
    """Registers inside a model that cannot be read; a block that touches one is refused."""

    points: Annotated[tuple[PointName, ...], Field(min_length=1)]
    code: Code = ILLEGAL_ADDRESS


class Hidden(Strict):
    """Models that are not there for a time."""

    models: Annotated[tuple[ModelId, ...], Field(min_length=1)]
    when: When = ALWAYS


class Relabel(Strict):
    """A model under another model's id and length; what is missing to the length reads 0xFFFF."""

    model: ModelId
    shown_id: ModelId
    shown_length: Annotated[int, Field(ge=1, le=1000)] | None = None


class Shrunk(Strict):
    """A model that is shorter for a time, and holds nothing but 0xFFFF."""

    model: ModelId
    length: Annotated[int, Field(ge=1, le=1000)]
    when: When = ALWAYS


class MapKnobs(Strict):
    """What is wrong with the register map.

    Attributes
    ----------
    unit_id, meter_unit_id : int
        Unit ids of a device that is served alone, which has 1 otherwise; behind a gateway the next devices
        follow from here.
    meter : str
        Where the meter is: at its own unit id, behind the inverter in the same map without an end between
        them, or nowhere.
    alias_units : bool
        Every unit id answers as this device.
    absent : int
        Exception code for unit ids that are not there, 0 for no answer; for whoever runs the server.
    port : int
        TCP port the product uses; for whoever runs the server.
    base : int
        Address of the marker.
    common_length : int
        L of the common model.
    end : str
        The end model whole, its id without a length, or nothing at all.
    inverter_family : str
        Inverter measurements as integers with scale factors, as floats, or both at once.
    family_switch : When
        Meanwhile it is the other family.
    """

    unit_id: UnitId | None = None
    meter_unit_id: UnitId | None = None
    meter: Literal["own-unit", "same-map", "none"] | None = None
    alias_units: bool = False
    absent: Literal[0, 4, 10, 11] | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    base: Literal[0, 40000, 50000] | None = None
    common_length: Literal[65, 66] | None = None
    end: Literal["whole", "id-only", "none"] = "whole"
    inverter_family: Family | None = None
    family_switch: When | None = None
    hidden: Annotated[tuple[Hidden, ...], Field(max_length=50)] = ()
    relabel: Annotated[tuple[Relabel, ...], Field(max_length=50)] = ()
    shrunk: Annotated[tuple[Shrunk, ...], Field(max_length=50)] = ()
    holes: Annotated[tuple[Hole, ...], Field(max_length=50)] = ()

    @model_validator(mode="after")
    def _fit(self) -> MapKnobs:
        if self.inverter_family == "both" and self.family_switch is not None:
            raise ValueError("family_switch with inverter_family int or float, not both")
        if self.alias_units and self.meter == "own-unit":
            raise ValueError("alias_units with meter same-map or none: no id is left for the meter")
        if self.meter_unit_id is not None and (self.alias_units or self.meter not in (None, "own-unit")):
            raise ValueError("meter_unit_id with meter own-unit and without alias_units")
        return self

    @property
    def both_families(self) -> bool:
        """Whether the inner map must hold integer and float models."""
        return self.inverter_family is not None or self.family_switch is not None


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of outer registers.

    Attributes
    ----------
    first, count : int
        Outer address and number of registers.
    unit : int
        Which of the inner units holds them.
    inner : int
        Address there.
    data : bytes or None
        Constant bytes in place of inner registers.
    code : int
        Exception code of a read that touches them; 0 where they can be read.
    """

    first: int
    count: int
    unit: int = 0
    inner: int = 0
    data: bytes | None = None
    code: int = 0


@dataclass(frozen=True, slots=True)
class _Block:
    """One model of an inner map: where it begins and how long its data is."""

    unit: int
    model: int
    first: int
    length: int


def _blocks(layouts: Sequence[Layout]) -> Iterator[_Block]:
    for unit, layout in enumerate(layouts):
        starts = [layout.point(model, "ID").address for model in layout.models]
        ends = [*starts[1:], layout.base_address + layout.count - HEADER]
        for model, first, end in zip(layout.models, starts, ends, strict=True):
            yield _Block(unit, model, first, end - first - HEADER)


@dataclass(frozen=True, slots=True)
class _Map:
    """An outer map: where its segments begin, the segments, and where data of long models begins and ends."""

    starts: list[int]
    segments: list[Segment]
    bodies: list[tuple[int, int]]


class _Builder:
    """Lays out an outer map from its first register on."""

    def __init__(self, base: int) -> None:
        self.next = base
        self.segments: list[Segment] = []
        self.bodies: list[tuple[int, int]] = []

    def constant(self, data: bytes) -> None:
        if data:
            self._add(Segment(self.next, len(data) // 2, data=data))

    def inner(self, unit: int, address: int, count: int, code: int = 0) -> None:
        if count == 0:
            return
        last = self.segments[-1]  # the marker at least
        joins = last.data is None and (last.unit, last.code) == (unit, code)
        if joins and last.inner + last.count == address:  # one piece again: most reads touch one segment only
            self.segments[-1] = Segment(last.first, last.count + count, unit, last.inner, None, code)
            self.next += count
        else:
            self._add(Segment(self.next, count, unit, address, None, code))

    def _add(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.next += segment.count


class MapLayer:
    """Shows inner units at other places.

    Parameters
    ----------
    inner : sequence of Unit
        The units whose models make up this map, one behind the other.
    layouts : sequence of Layout
        Of these units.
    knobs : MapKnobs
    schedule : Schedule
    """

    def __init__(
        self, inner: Sequence[Unit], layouts: Sequence[Layout], knobs: MapKnobs, schedule: Schedule
    ) -> None:
        self._inner = tuple(inner)
        self._layouts = tuple(layouts)
        self._blocks = tuple(_blocks(layouts))
        self._knobs = knobs
        self._schedule = schedule
        self._built: dict[tuple[object, ...], _Map] = {}
        self._base = knobs.base if knobs.base is not None else layouts[0].base_address
        self._holes = [
            {
                address: hole.code
                for hole in knobs.holes
                for point in points_in(layout, hole.points)
                for address in range(point.address, point.address + point.size)
            }
            for layout in layouts
        ]

    def read(self, address: int, count: int) -> bytes | int:
        """Return registers of the outer map, or the exception code of the first piece that has one."""
        pieces = self._pieces(address, count)
        if pieces is None:
            return ILLEGAL_ADDRESS
        answer = b""
        for segment, first, size in pieces:
            if segment.code:
                return segment.code
            if segment.data is not None:
                part: bytes | int = segment.data[2 * first : 2 * (first + size)]
            else:
                part = self._inner[segment.unit].read(segment.inner + first, size)
            if isinstance(part, int):
                return part
            answer += part
        return answer

    def write(self, address: int, data: bytes) -> int:
        """Write to one unbroken range of inner registers; anything else is refused with exception 2."""
        pieces = self._pieces(address, len(data) // 2)
        if pieces is None or any(segment.data is not None for segment, _, _ in pieces):
            return ILLEGAL_ADDRESS
        segment, first, _ = pieces[0]
        unit, start = segment.unit, segment.inner + first
        expected = start
        for segment, first, size in pieces:
            if segment.unit != unit or segment.inner + first != expected:
                return ILLEGAL_ADDRESS
            expected += size
        return self._inner[unit].write(start, data)

    def segments(self) -> list[Segment]:
        """Return the outer map as it is now."""
        return self._now().segments

    def end_of_snapshot(self, first: int, stop: int) -> int:
        """Return the register up to which a read from `first` to before `stop` must be kept at one instant.

        A model that one read cannot take whole, and a number that the end of a read cuts; as far as it can be
        read.
        """
        now = self._now()
        for begin, end in now.bodies:
            if first <= begin < stop < end:
                holes = [max(stop, s.first) for s in now.segments if s.code and s.first + s.count > stop]
                return min([end, *holes])
        segment = now.segments[bisect_right(now.starts, stop - 1) - 1]
        layout = self._layouts[segment.unit]
        place = segment.inner + stop - segment.first - layout.base_address
        if segment.data is not None or stop >= segment.first + segment.count or place >= layout.count:
            return stop
        before, point = layout.point_at[place - 1], layout.point_at[place]
        if point is None or point is not before or point.type not in NUMBER_TYPES:
            return stop
        return stop + point.address + point.size - (layout.base_address + place)

    def _pieces(self, address: int, count: int) -> list[tuple[Segment, int, int]] | None:
        """Return segments with first register and number of registers in each; None if any is outside."""
        now = self._now()
        segments = now.segments
        place = bisect_right(now.starts, address) - 1
        if place < 0 or count < 1:
            return None
        pieces = []
        while count > 0:
            if place >= len(segments):
                return None
            segment = segments[place]
            first = address - segment.first
            size = min(count, segment.count - first)
            if size <= 0:
                return None
            pieces.append((segment, first, size))
            address, count, place = address + size, count - size, place + 1
        return pieces

    def _now(self) -> _Map:
        """Return the map of this moment; each one is built once."""
        active, knobs = self._schedule.active, self._knobs
        hidden = {model for hide in knobs.hidden if active(hide.when, hide) for model in hide.models}
        shrunk = {entry.model: entry.length for entry in knobs.shrunk if active(entry.when, entry)}
        hidden |= self._other_family()
        key = (tuple(sorted(hidden)), tuple(sorted(shrunk.items())))
        if key not in self._built:
            made = self._build(hidden, shrunk)
            starts = [segment.first for segment in made.segments]
            self._built[key] = _Map(starts, made.segments, made.bodies)
        return self._built[key]

    def _other_family(self) -> set[int]:
        """Return the inverter models of the family that does not show now."""
        if not self._knobs.both_families or self._knobs.inverter_family == "both":
            return set()
        floats = self._knobs.inverter_family == "float"
        switch = self._knobs.family_switch
        if switch is not None and self._schedule.active(switch, switch):
            floats = not floats
        return set(FLOAT_OF) if floats else set(FLOAT_OF.values())

    def _build(self, hidden: set[int], shrunk: dict[int, int]) -> _Builder:
        builder = _Builder(self._base)
        builder.constant(MARKER)
        labels = {relabel.model: relabel for relabel in self._knobs.relabel}
        for block in self._blocks:
            if block.model not in hidden:
                self._block(builder, block, labels.get(block.model), shrunk.get(block.model))
        builder.constant({"whole": END_ID + b"\0\0", "id-only": END_ID, "none": b""}[self._knobs.end])
        return builder

    def _block(self, builder: _Builder, block: _Block, label: Relabel | None, shrunk_to: int | None) -> None:
        """Lay out one model: its header, then its data, cut or filled up to the length in the header."""
        shown_id, length = block.model, block.length
        if label is not None:
            shown_id, length = label.shown_id, label.shown_length or length
        if block.model == COMMON and self._knobs.common_length is not None:
            length = self._knobs.common_length
        if shrunk_to is not None:
            length = shrunk_to
        if (shown_id, length) == (block.model, block.length):
            builder.inner(block.unit, block.first, HEADER)
        else:
            builder.constant(shown_id.to_bytes(2, "big") + length.to_bytes(2, "big"))
        if HEADER + length > READ_COUNT_MAX:
            builder.bodies.append((builder.next, builder.next + length))
        if shrunk_to is not None:
            builder.constant(b"\xff\xff" * length)
            return
        kept = min(length, block.length)
        first, end = block.first + HEADER, block.first + HEADER + kept
        for address, code in sorted(self._holes[block.unit].items()):
            if first <= address < end:
                builder.inner(block.unit, first, address - first)
                builder.inner(block.unit, address, 1, code)
                first = address + 1
        builder.inner(block.unit, first, end - first)
        filler = PAD if block.model == COMMON else b"\xff\xff"
        builder.constant(filler * (length - kept))
