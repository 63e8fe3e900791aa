"""One poll of one device in as few requests as possible: what to read is worked out once, at discovery.

Rules of this file:

- A value and its scale factor come from one request: devices change their scale factors while running.  Only
  where a device refuses registers between the two are they read apart, and that is noted.
- Every poll reads the header of each of its models, which is checked: a changed map is an error.  A frame
  with nothing in it is read once more; then it is an error.
- What a device does not tell is NaN; nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from . import sunspec_points as points
from ._decode import Decoder
from .discovery import ModelImage, check_header, gone, is_empty, note_empty
from .modbus_link import ILLEGAL_ADDRESS, ILLEGAL_VALUE, READ_REGISTERS_MAX, TargetError, Unit

INVERTER_MODELS: Final = (701, 101, 102, 103, 111, 112, 113)
METER_MODELS: Final = (201, 202, 203, 204, 211, 212, 213, 214)

SOURCES: Final = {
    "soc": ((713, "SoC"), (124, "ChaState"), (802, "SoC")),
    "power": tuple((model, "W") for model in INVERTER_MODELS),
    "heartbeat": ((715, "DERHb"), (802, "Hb")),
    "connected": ((701, "ConnSt"), (122, "ECPConn")),
    "mode": ((701, "DERMode"),),
    "state": tuple((model, "St") for model in INVERTER_MODELS[1:]),
    "events": ((701, "Alrm"), *((model, "Evt1") for model in INVERTER_MODELS[1:])),
}
"""Where each quantity is read, best first; the first that the device implements is taken."""

NEEDED: Final = {"soc": "state of charge", "power": "power of the device"}
"""Quantities that no controller can do without."""

MODELS: Final = tuple(dict.fromkeys(model for places in SOURCES.values() for model, _ in places))
"""Models that a poll may need."""

_PERCENT: Final = frozenset({"soc"})
_FOLLOWING, _FORMING = 0b01, 0b10  # 701.DERMode
_GRID_DISCONNECT: Final = 1 << 4  # 701.Alrm and 10x.Evt1 alike
_RUNNING: Final = (4.0, 5.0)  # 10x.St: MPPT, THROTTLED


@dataclass(frozen=True, slots=True)
class Reading:
    """What one poll told.

    Attributes
    ----------
    soc_frac : float
        State of charge [1].
    power_w : float
        At the device's AC terminals, positive out of the device [W].
    import_w : float
        At the home's meter, import positive [W].
    grid_good : float
        1 grid-tied, 0 islanded or without grid.
    heartbeat : float
        A counter that the device increments while it lives; NaN where it has none or leaves it at 0.

    Notes
    -----
    NaN means unknown.
    """

    soc_frac: float
    power_w: float
    import_w: float
    grid_good: float
    heartbeat: float


@dataclass(frozen=True, slots=True)
class _Field:
    """One quantity within a span of registers."""

    name: str
    point: points.Point
    shift: int
    """Register of its model's id within the span."""

    @property
    def first(self) -> int:
        """Its first register within the span."""
        return self.shift + self.point.offset

    @property
    def last(self) -> int:
        """The register behind its last one."""
        return self.first + self.point.size

    @property
    def scale_at(self) -> int | None:
        """Register of its scale factor."""
        return None if self.point.scale_offset is None else self.shift + self.point.scale_offset

    @property
    def row(self) -> tuple[int, int, int, int, int, int]:
        """Its row in the table of a decoder: fractions instead of percent."""
        return points.row_of(self.point, self.shift, -2 if self.name in _PERCENT else 0)


@dataclass(frozen=True, slots=True)
class _Constants:
    """Where an empty frame shows: registers of one model that were not all zero, and cannot all become so."""

    first: int
    last: int
    state_at: int | None
    """The model's state, which devices fill in even then."""

    def are_gone(self, words: points.Registers) -> bool:
        """Whether every register but the state is zero."""
        return not any(words[k] for k in range(self.first, self.last) if k != self.state_at)


@dataclass(frozen=True, slots=True)
class Span:
    """A run of registers that a poll reads, in one request unless the device refuses parts of it.

    Attributes
    ----------
    unit : Unit
    address, count : int
    images : tuple of ModelImage
        The models in it, whose headers are checked.
    fields : tuple
    runs : tuple of (int, int)
        The requests, from and to a register within the span.
    constants : tuple
    decoder : Decoder
        Of the fields.
    scales : dict
        What each scale factor's register held at the last poll.
    """

    unit: Unit
    address: int
    count: int
    images: tuple[ModelImage, ...]
    fields: tuple[_Field, ...]
    runs: tuple[tuple[int, int], ...]
    constants: tuple[_Constants, ...]
    decoder: Decoder
    scales: dict[int, int | None] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether one request reads it."""
        return self.runs == ((0, self.count),)


def plan(
    unit: Unit, images: Mapping[int, ModelImage], meter: tuple[Unit, ModelImage] | None
) -> tuple[Span, ...]:
    """Return the requests of one poll.

    Parameters
    ----------
    unit : Unit
    images : mapping of int to ModelImage
        The device's models by id, as they were just read.
    meter : (Unit, ModelImage) or None
        The meter's unit and model.
    """
    chosen: dict[int, dict[str, str]] = {}
    for name, places in SOURCES.items():
        if name == "state" and any({"connected", "mode"} & names.keys() for names in chosen.values()):
            continue  # says nothing more about the grid, and may cost a request
        for model, point in places:
            if model in images and images[model].value(point) is not None:
                chosen.setdefault(model, {})[name] = point
                break
        else:
            blank = [place for place in places if place[0] in images and place[1] in images[place[0]].points]
            if name in NEEDED and blank:  # it may come: some devices blank it for minutes
                chosen.setdefault(blank[0][0], {})[name] = blank[0][1]
    spans = [_span(unit, images[model], names) for model, names in chosen.items()]
    spans = _joined(sorted(spans, key=lambda span: span.address))
    if meter is not None:
        spans.append(_span(meter[0], meter[1], {"import": "W"}))
    return tuple(spans)


def untold(spans: Sequence[Span]) -> list[str]:
    """Return which of the quantities that are needed a device does not serve at all."""
    told = {one.name for span in spans for one in span.fields}
    return [
        f"no {what} is served ({', '.join(f'{model}.{point}' for model, point in SOURCES[name])})"
        for name, what in NEEDED.items()
        if name not in told
    ]


def _span(unit: Unit, image: ModelImage, names: Mapping[str, str]) -> Span:
    """Return the registers from a model's header to the last one that is needed."""
    fields = tuple(_Field(name, image.points[point], 0) for name, point in names.items())
    needed = {0, 1}
    for one in fields:
        needed |= {*range(one.first, one.last), *(() if one.scale_at is None else (one.scale_at,))}
    last = max(needed) + 1
    known = unit.runs.get((image.entry.address, image.entry.count), ((0, last),))
    runs = tuple((a, min(b, last)) for a, b in known if not needed.isdisjoint(range(a, b)))
    for one in fields:
        if one.scale_at is not None and not any(
            a <= one.scale_at < b and a <= one.first < b for a, b in runs
        ):
            unit.note(
                f"apart {one.point}",
                f"{one.point} (register {image.address(one.point.name)}) and its scale factor cannot be read "
                "in one request: if the device changes the one between the two requests, the value is wrong",
            )
    return _made(unit, image.entry.address, last, (image,), fields, runs, _constants(image, last))


def _made(
    unit: Unit,
    address: int,
    count: int,
    images: tuple[ModelImage, ...],
    fields: tuple[_Field, ...],
    runs: tuple[tuple[int, int], ...],
    constants: tuple[_Constants, ...],
) -> Span:
    decoder = Decoder([one.row for one in fields])
    return Span(unit, address, count, images, fields, runs, constants, decoder)


def _constants(image: ModelImage, last: int) -> tuple[_Constants, ...]:
    """Return what tells an empty frame of a measuring model from one that measures nothing."""
    if image.entry.id not in (*INVERTER_MODELS, *METER_MODELS):
        return ()
    for name, point in image.points.items():
        if not 2 <= point.offset < last or point.type in points.COUNTERS or not image.registers[point.offset]:
            continue
        if point.type == "sunssf" or image.value(name) is None:
            state = image.points.get("St") if image.entry.id != 701 else None
            return (_Constants(2, last, None if state is None else state.offset),)
    return ()


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Join requests for models that follow each other in the map and fit into one request."""
    joined: list[Span] = []
    for span in spans:
        before = joined[-1] if joined else None
        shift = span.address - before.address if before else 0
        if (
            before is None
            or shift + span.count > READ_REGISTERS_MAX
            or not (_adjacent(before, span) and before.whole and span.whole)
        ):
            joined.append(span)
            continue
        count = shift + span.count
        moved = tuple(replace(one, shift=one.shift + shift) for one in span.fields)
        constants = tuple(
            _Constants(c.first + shift, c.last + shift, None if c.state_at is None else c.state_at + shift)
            for c in span.constants
        )
        joined[-1] = _made(
            before.unit,
            before.address,
            count,
            before.images + span.images,
            before.fields + moved,
            ((0, count),),
            before.constants + constants,
        )
    return joined


def _adjacent(before: Span, span: Span) -> bool:
    entry = before.images[-1].entry
    return entry.address + entry.count == span.address


async def take(spans: Sequence[Span]) -> Reading:
    """Do one poll.

    Raises
    ------
    TargetError
        No answer, a wrong one, or another map than the spans were made for.
    """
    values: dict[str, float] = {}
    for span in spans:
        words = await _full(span)
        names = (one.name for one in span.fields)
        values.update(zip(names, span.decoder.decode_words(words), strict=True))
        _note_scales(span, words)
    unknown = math.nan
    return Reading(
        soc_frac=values.get("soc", unknown),
        power_w=values.get("power", unknown),
        import_w=values.get("import", unknown),
        grid_good=grid_good(values),
        heartbeat=values.get("heartbeat", unknown) or unknown,
    )


async def _full(span: Span) -> points.Registers:
    """Read a span, once more if the frame had nothing in it, and check its headers."""
    words = await _read(span)
    heads = [image.entry.address - span.address for image in span.images]
    empty = any(is_empty(words[at : at + 2]) for at in heads) or any(
        c.are_gone(words) for c in span.constants
    )
    if empty:
        note_empty(span.unit, span.address, span.count)
        words = await _read(span)
    for at, image in zip(heads, span.images, strict=True):
        check_header(span.unit, image.entry, words[at : at + 2])
    if empty and any(c.are_gone(words) for c in span.constants):
        raise span.unit.fault(
            f"an empty frame in place of model {span.images[0].entry.id} (registers {span.address} to "
            f"{span.address + span.count - 1} hold zeros), twice: the device answers, but has no values at "
            "the moment",
            refused=True,
        )
    return words


async def _read(span: Span) -> points.Registers:
    """Read a span as it is, None where the device refuses registers."""
    try:
        if span.whole:
            return await span.unit.read(span.address, span.count, "telemetry")
        words: list[int | None] = [None] * span.count
        for first, last in span.runs:
            words[first:last] = await span.unit.read(span.address + first, last - first, "telemetry")
        return words
    except TargetError as error:
        if error.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE):
            raise
        refusal = error
    # Models that vanish and registers that are refused answer alike; the headers tell which it is.
    for image in span.images:
        entry = image.entry
        try:
            header = await span.unit.read(entry.address, 2, f"the header of model {entry.id}")
        except TargetError as error:
            if error.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE):
                raise
            raise gone(span.unit, entry, f"exception {error.code} at register {entry.address}") from None
        check_header(span.unit, entry, header)
    raise span.unit.fault(
        f"registers {span.address} to {span.address + span.count - 1} were readable and are refused now "
        f"(exception {refusal.code}), although their models are there: they will be read around",
        refused=True,
        code=refusal.code,
        changed=True,
    )


def _note_scales(span: Span, words: points.Registers) -> None:
    """Note scale factors that change, and those that spoil a value."""
    for one in span.fields:
        if one.scale_at is None:
            continue
        now, place = words[one.scale_at], f"{one.point} (register {span.address + one.first})"
        before = span.scales.setdefault(one.scale_at, now)
        if now != before and now is not None and before is not None:
            was, new = (points.number_of((word,), signed=True) for word in (before, now))
            span.unit.note(
                f"scale {one.point}",
                f"{place}: its scale factor changed from {was} to {new} while running; each value is read "
                "together with its own",
            )
        span.scales[one.scale_at] = now
        own = [word for word in words[one.first : one.last] if word is not None]
        if now is not None and points.scale_from(now) is None and len(own) == one.point.size:
            raw = points.number_of(own, signed=one.point.type in points.SIGNED)
            if raw != points.blank_of(one.point.type, one.point.size):
                span.unit.note(
                    f"no scale {one.point}",
                    f"{place}: its value is implemented ({raw}) and its scale factor is not: no value",
                )


def grid_good(values: Mapping[str, float]) -> float:
    """Return 1 for grid-tied, 0 for islanded or without grid, NaN for unknown.

    Notes
    -----
    SunSpec has no single point for this.  A device that forms a grid, reports GRID_DISCONNECT or says it is
    not connected is not grid-tied.  122.ECPConn is taken as devices use it, 0 or 1, although its definition
    calls it a bit field.
    """
    mode, connected, events, state = (
        values.get(name, math.nan) for name in ("mode", "connected", "events", "state")
    )
    if not math.isnan(mode) and int(mode) & _FORMING:
        return 0.0
    if not math.isnan(events) and int(events) & _GRID_DISCONNECT:
        return 0.0
    if not math.isnan(connected):
        return float(connected != 0.0)
    if not math.isnan(mode) and int(mode) & _FOLLOWING:
        return 1.0
    if not math.isnan(events) and state in _RUNNING:
        return 1.0
    return math.nan
