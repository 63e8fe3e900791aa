"""One poll of one device in as few requests as possible: what to read is worked out once, at discovery.

Rules of this file:

- A value and its scale factor come from one request: devices change their scale factors while running.
- Every request begins at a model's header, which is checked: a frame of zeros or a changed map is an error.
- What a device does not tell is NaN; nothing is guessed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from . import sunspec_points as points
from .discovery import ModelImage, check_header
from .modbus_link import READ_REGISTERS_MAX, Unit

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
    first: int
    last: int
    kind: str
    blank: int
    power: int
    scale_at: int | None

    def value(self, words: Sequence[int]) -> float:
        own = words[self.first : self.last]
        if self.kind in points.FLOATS:
            number = struct.unpack(points.FLOATS[self.kind], struct.pack(f">{len(own)}H", *own))[0]
            return points.scaled(number, self.power) if math.isfinite(number) else math.nan
        raw = points.number_of(own, signed=self.kind in points.SIGNED)
        power = self.power
        if self.scale_at is not None:
            scale = points.scale_from(words[self.scale_at])
            if scale is None:
                return math.nan
            power += scale
        return math.nan if raw == self.blank else float(points.scaled(raw, power))


@dataclass(frozen=True, slots=True)
class Span:
    """One request of a poll.

    Attributes
    ----------
    unit : Unit
    address, count : int
    images : tuple of ModelImage
        The models in it, whose headers are checked.
    fields : tuple
    """

    unit: Unit
    address: int
    count: int
    images: tuple[ModelImage, ...]
    fields: tuple[_Field, ...]


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
    spans = [_span(unit, images[model], names) for model, names in chosen.items()]
    spans = _joined(sorted(spans, key=lambda span: span.address))
    if meter is not None:
        spans.append(_span(meter[0], meter[1], {"import": "W"}))
    return tuple(spans)


def _span(unit: Unit, image: ModelImage, names: Mapping[str, str]) -> Span:
    """Return the request from a model's header to the last register that is needed."""
    fields = []
    last = 2
    for name, point_name in names.items():
        point = image.points[point_name]
        end = point.offset + point.size
        blank = points.blank_of(point.type, point.size)
        power = point.scale - 2 * (name in _PERCENT)
        fields.append(_Field(name, point.offset, end, point.type, blank, power, point.scale_offset))
        last = max(last, end, 0 if point.scale_offset is None else point.scale_offset + 1)
    return Span(unit, image.entry.address, last, (image,), tuple(fields))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Join requests for models that follow each other in the map and fit into one request."""
    joined: list[Span] = []
    for span in spans:
        before = joined[-1] if joined else None
        shift = span.address - before.address if before else 0
        if before is None or shift + span.count > READ_REGISTERS_MAX or not _adjacent(before, span):
            joined.append(span)
            continue
        moved = tuple(
            _Field(
                f.name,
                f.first + shift,
                f.last + shift,
                f.kind,
                f.blank,
                f.power,
                None if f.scale_at is None else f.scale_at + shift,
            )
            for f in span.fields
        )
        count = shift + span.count
        joined[-1] = Span(
            before.unit, before.address, count, before.images + span.images, before.fields + moved
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
        words = await span.unit.read(span.address, span.count, "telemetry")
        for image in span.images:
            at = image.entry.address - span.address
            check_header(span.unit, image.entry, words[at : at + 2])
        for field in span.fields:
            values[field.name] = field.value(words)
    unknown = math.nan
    return Reading(
        soc_frac=values.get("soc", unknown),
        power_w=values.get("power", unknown),
        import_w=values.get("import", unknown),
        grid_good=grid_good(values),
        heartbeat=values.get("heartbeat", unknown) or unknown,
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
