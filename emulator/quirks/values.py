"""Value quirks: the right register shows the wrong thing.

Duty: change what a read shows of single points, scale factors and whole models.  The order is fixed, so that
quirks combine in one way only: fixed values, counters, signs, scale factors, blanks, null frames, restarts.

Rules of this file: a value is changed as a whole point, however a read cuts it; what is shown depends on the
plant and its time alone, so two reads of one instant agree.  Writes pass through untouched: a device that
shows a wrong number still knows its own settings.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from ..image import DeviceImage
from ..layout import QUANTITIES, Layout
from ..points import Point
from ..sunspec_definitions import Definition, model_group
from .maps import COMMON
from .schedule import (
    ALWAYS,
    ModelId,
    PointName,
    Schedule,
    Seconds,
    Strict,
    TimeOfDay,
    When,
    points_in,
)

if TYPE_CHECKING:
    from .._modbus import Unit

SCALE_MAX: Final = 10
"""A scale factor is a power of ten from -10 to 10."""
FAULT: Final = 7
"""St of the models 101 to 113."""
STATE_MODELS: Final = (101, 102, 103, 111, 112, 113)

Points = Annotated[tuple[PointName, ...], Field(min_length=1)]


def _is_quantity(name: str) -> str:
    if name not in QUANTITIES:
        raise ValueError(f"one of the quantities {', '.join(sorted(QUANTITIES))}")
    return name


class Fixed(Strict):
    """Points that show something else than they should.

    Attributes
    ----------
    value : float
        Always this, in the unit of the point, before its scale factor; per cent as a fraction.
    quantity : str
        Another quantity of the emulator, such as ``import_w``.
    until_written : bool
        Only as long as no client has written the point.
    """

    points: Points
    value: Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)] | None = None
    quantity: Annotated[str, AfterValidator(_is_quantity)] | None = None
    until_written: bool = False
    when: When = ALWAYS

    @model_validator(mode="after")
    def _one(self) -> Fixed:
        if (self.value is None) == (self.quantity is None):
            raise ValueError("one of value and quantity")
        return self


class Counter(Strict):
    """Counters that do not only count up.

    Attributes
    ----------
    daily : str
        They begin again at this time of every day.
    reset_at_s : tuple of float
        They begin again at these bench times [s].
    dip : float
        They show this much less [unit of the point], never less than 0, while `when` holds.
    """

    points: Points
    daily: TimeOfDay | None = None
    reset_at_s: Annotated[tuple[Seconds, ...], Field(max_length=100)] = ()
    dip: Annotated[float, Field(gt=0, le=1e18, allow_inf_nan=False)] | None = None
    when: When = ALWAYS

    @model_validator(mode="after")
    def _something(self) -> Counter:
        if self.daily is None and not self.reset_at_s and self.dip is None:
            raise ValueError("at least one of daily, reset_at_s and dip")
        return self


class Sign(Strict):
    """Points shown with the other sign."""

    points: Points
    when: When = ALWAYS


class Scale(Strict):
    """Scale factors that move, or are wrong; of several entries for one, the first in force counts.

    Attributes
    ----------
    factors : tuple of str
        Points such as ``160.DCW_SF``.
    shift : int
        Shown scale factor less the true one; -10 to 10 is never left.
    missing : bool
        The scale factor reads "not implemented".
    values : str
        What is done to the values: ``encoded`` for the shown scale factor, so that the pair is right;
        ``kept`` as they were; or ``wrapped``, encoded and cut to the size of their registers.
    above : float
        Only while a value it scales is greater than this, without sign [unit of the point].
    """

    factors: Points
    shift: Annotated[int, Field(ge=-10, le=10)] = 0
    missing: bool = False
    values: Literal["encoded", "kept", "wrapped"] = "encoded"
    above: Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)] | None = None
    when: When = ALWAYS

    @model_validator(mode="after")
    def _something(self) -> Scale:
        if self.missing == (self.shift != 0):
            raise ValueError("one of shift (not 0) and missing: true")
        return self


class Blank(Strict):
    """Points that read "not implemented", each as its type has it, or one pattern for all."""

    points: Points
    pattern: Literal["of-type", "ffff", "8000"] = "of-type"
    when: When = ALWAYS


class NullFrame(Strict):
    """Models whose data is all zero; St of the inverter models says 7, FAULT."""

    models: Annotated[tuple[ModelId, ...], Field(min_length=1)]
    when: When = ALWAYS


class Restart(Strict):
    """All data "not implemented" for `blank_s`, then zero for `zero_s`; the common model stays.

    Attributes
    ----------
    daily : str
        Time of every day at which it begins.
    at_s : tuple of float
        Further bench times [s].
    """

    daily: TimeOfDay | None = None
    at_s: Annotated[tuple[Seconds, ...], Field(max_length=100)] = ()
    blank_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    zero_s: Annotated[float, Field(ge=0, le=3600)] = 40.0

    @model_validator(mode="after")
    def _some_time(self) -> Restart:
        if self.daily is None and not self.at_s:
            raise ValueError("at least one of daily and at_s")
        return self


class ValueKnobs(Strict):
    """What is wrong with the values; entries of several quirks add up."""

    fixed: Annotated[tuple[Fixed, ...], Field(max_length=100)] = ()
    counters: Annotated[tuple[Counter, ...], Field(max_length=100)] = ()
    signs: Annotated[tuple[Sign, ...], Field(max_length=100)] = ()
    scales: Annotated[tuple[Scale, ...], Field(max_length=100)] = ()
    blanks: Annotated[tuple[Blank, ...], Field(max_length=100)] = ()
    null_frames: Annotated[tuple[NullFrame, ...], Field(max_length=100)] = ()
    restarts: Annotated[tuple[Restart, ...], Field(max_length=100)] = ()


class _Frame:
    """The registers of one read, widened to whole points."""

    def __init__(self, address: int, data: bytes, points: Sequence[Point]) -> None:
        self.address = address
        self.data = bytearray(data)
        self.points = points

    def get(self, point: Point) -> bytes:
        first = 2 * (point.address - self.address)
        return bytes(self.data[first : first + 2 * point.size])

    def put(self, point: Point, data: bytes) -> None:
        first = 2 * (point.address - self.address)
        self.data[first : first + 2 * point.size] = data

    def of(self, points: Sequence[Point]) -> Iterator[Point]:
        """Yield those of some points that are in this read."""
        end = self.address + len(self.data) // 2
        return (point for point in points if self.address <= point.address < end)


def _blank(point: Point) -> bytes:
    """Return "not implemented" of a point's type; zeros of a string."""
    if point.type == "pad":
        return b"\x80\x00"
    return (point.blank & ((1 << 16 * point.size) - 1)).to_bytes(2 * point.size, "big")


def _power(factor: float) -> int:
    """Return the exponent of an exact power of ten, 1 or more."""
    return len(str(int(factor))) - 1


def rescaled(point: Point, shift: int) -> Point:
    """Return a point as if its scale factor were higher by `shift`."""
    power = _power(point.factor) - _power(point.divisor) - shift
    return dataclasses.replace(
        point, scale=point.scale + shift, factor=10.0 ** max(power, 0), divisor=10.0 ** max(-power, 0)
    )


def _scale_names(group: Definition, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield point and scale factor of a definition, a repeating group as its one member."""
    for point in group.get("points", ()):
        if "sf" in point:
            yield prefix + point["name"], str(point["sf"])
    for inner in group.get("groups", ()):
        yield from _scale_names(inner, f"{prefix}{inner['name']}.")


def scaled_by(layout: Layout, factor: Point) -> list[Point]:
    """Return the points that a scale factor scales."""
    names = dict(_scale_names(model_group(factor.model)))
    points = [point for point in layout.points if point.model == factor.model]
    return [point for point in points if names.get(re.sub(r"\[[0-9]+\]", "", point.name)) == factor.name]


def wrapped(value: float, point: Point) -> bytes:
    """Return the register bytes of a value, cut to the size of the point as plain software does."""
    register = round(value * point.factor / point.divisor)
    return (register & ((1 << 16 * point.size) - 1)).to_bytes(2 * point.size, "big")


def is_served(layout: Layout, knob: Strict) -> bool:
    """Tell whether a knob changes anything of a map."""
    if isinstance(knob, Scale):
        return bool(_factors(layout, knob))
    if isinstance(knob, NullFrame):
        return any(model in layout.models for model in knob.models)
    if isinstance(knob, Restart):
        return True
    assert isinstance(knob, Fixed | Counter | Sign | Blank)
    return bool(points_in(layout, knob.points))


def _factors(layout: Layout, knob: Scale) -> list[Point]:
    """Return the scale factors of a knob that a map uses."""
    start = layout.base_address
    return [
        point
        for point in points_in(layout, knob.factors)
        if point.type == "sunssf"
        and point.decode(layout.initial[2 * (point.address - start) :][: 2 * point.size]) is not None
    ]


@dataclasses.dataclass(slots=True)
class _Count:
    """A counter that begins again: what it had counted then, and when that was last looked at."""

    knob: Counter
    point: Point
    base: float = 0.0
    resets: int = 0


class ValueLayer:
    """Shows wrong values of an inner unit.

    Parameters
    ----------
    inner : Unit
        At the addresses of the image.
    image : DeviceImage
        Whose map and quantities they are.
    knobs : ValueKnobs
        Entries that change nothing of this map are passed over.
    schedule : Schedule
    """

    def __init__(self, inner: Unit, image: DeviceImage, knobs: ValueKnobs, schedule: Schedule) -> None:
        self._inner = inner
        self._image = image
        self._layout = layout = image.layout
        self._knobs = knobs
        self._schedule = schedule
        self._written: set[Point] = set()
        self._counts = [
            _Count(knob, point) for knob in knobs.counters for point in points_in(layout, knob.points)
        ]
        for count in self._counts:
            count.resets = self._resets(count.knob)
            if count.knob.daily is not None:
                count.base = self._value(count.point)
        self._scales = [
            (knob, factor, int(self._value(factor)), scaled_by(layout, factor))
            for knob in knobs.scales
            for factor in _factors(layout, knob)
        ]
        self._fixed = [(knob, points) for knob in knobs.fixed if (points := points_in(layout, knob.points))]
        self._signs = [(knob, points) for knob in knobs.signs if (points := points_in(layout, knob.points))]
        self._blanks = [(knob, points) for knob in knobs.blanks if (points := points_in(layout, knob.points))]

    def read(self, address: int, count: int) -> bytes | int:
        """Return registers with all that is wrong with them now, or the inner unit's exception code."""
        start = self._layout.base_address
        if count < 1 or not start <= address <= address + count <= start + self._layout.count:
            return self._inner.read(address, count)
        touched = self._layout.point_at[address - start : address - start + count]
        runs = (next(run) for _, run in groupby(touched, key=id))  # comparing points is slow
        points = [point for point in runs if point is not None]
        first, end = address, address + count
        if points:
            first, end = min(first, points[0].address), max(end, points[-1].address + points[-1].size)
        data = self._inner.read(first, end - first)
        if isinstance(data, int):
            return data
        frame = _Frame(first, data, points)
        self._single(frame)
        self._scaled(frame)
        self._models(frame)
        return bytes(frame.data[2 * (address - first) : 2 * (address - first + count)])

    def write(self, address: int, data: bytes) -> int:
        """Pass a write on."""
        code = self._inner.write(address, data)
        if code == 0:
            first = address - self._layout.base_address
            written = self._layout.point_at[first : first + len(data) // 2]
            self._written.update(point for point in written if point is not None)
        return code

    def step(self) -> None:
        """Note where counters stand that begin again now."""
        for count in self._counts:
            resets = self._resets(count.knob)
            if resets != count.resets:
                count.resets, count.base = resets, self._value(count.point)

    def _active(self, when: When, knob: Strict) -> bool:
        return self._schedule.active(when, knob)

    def _resets(self, knob: Counter) -> int:
        """Return how often a counter has begun again; only changes of it matter."""
        resets = sum(at_s <= self._schedule.now_s for at_s in knob.reset_at_s)
        return resets + (self._schedule.days(knob.daily) if knob.daily is not None else 0)

    def _value(self, point: Point) -> float:
        """Return the true value of a point; 0 for nothing.

        From the image: no client is asking, and a layer between may count reads as a client's.
        """
        data = self._image.read(point.address, point.size)
        value = None if isinstance(data, int) else point.decode(data)
        return 0.0 if value is None else value

    def _single(self, frame: _Frame) -> None:
        """Fixed values, counters and signs."""
        for fixed, points in self._fixed:
            if self._active(fixed.when, fixed):
                for point in frame.of(points):
                    if not (fixed.until_written and point in self._written):
                        frame.put(point, point.encode(self._instead(fixed)))
        for count in self._counts:
            for point in frame.of([count.point]):
                shown = point.decode(frame.get(point)) or 0.0
                shown = max(0.0, shown - count.base)
                if count.knob.dip is not None and self._active(count.knob.when, count.knob):
                    shown = max(0.0, shown - count.knob.dip)
                frame.put(point, point.encode(shown))
        for sign, points in self._signs:
            if self._active(sign.when, sign):
                for point in frame.of(points):
                    value = point.decode(frame.get(point))
                    if value is not None:
                        frame.put(point, point.encode(-value))

    def _instead(self, fixed: Fixed) -> float:
        if fixed.quantity is not None:
            return self._image.measure()[fixed.quantity]
        assert fixed.value is not None
        return fixed.value

    def _scaled(self, frame: _Frame) -> None:
        """Scale factors, and the values they scale."""
        moved_already = []
        for knob, factor, true, points in self._scales:
            touched = list(frame.of([factor, *points]))
            if not touched or factor in moved_already or not self._active(knob.when, knob):
                continue
            if knob.above is not None and not any(abs(self._value(p)) > knob.above for p in points):
                continue
            moved_already.append(factor)
            scale = max(-SCALE_MAX, min(SCALE_MAX, true + knob.shift))
            for _ in frame.of([factor]):
                frame.put(factor, _blank(factor) if knob.missing else factor.encode(float(scale)))
            if knob.missing or knob.values == "kept":
                continue
            for point in frame.of(points):
                value = point.decode(frame.get(point))
                if value is not None:
                    moved = rescaled(point, scale - point.scale)
                    whole = knob.values == "encoded"
                    frame.put(point, moved.encode(value) if whole else wrapped(value, moved))

    def _models(self, frame: _Frame) -> None:
        """Blank points, null frames and restarts."""
        for blank, points in self._blanks:
            if self._active(blank.when, blank):
                for point in frame.of(points):
                    own = blank.pattern == "of-type"
                    data = _blank(point) if own else bytes.fromhex(blank.pattern) * point.size
                    frame.put(point, data)
        body = [point for point in frame.points if point.name not in ("ID", "L")]
        for null in self._knobs.null_frames:
            if self._active(null.when, null):
                for point in body:
                    if point.model in null.models:
                        fault = point.name == "St" and point.model in STATE_MODELS
                        frame.put(point, (FAULT if fault else 0).to_bytes(2 * point.size, "big"))
        for restart in self._knobs.restarts:
            phase = self._phase(restart)
            for point in body if phase else ():
                if point.model != COMMON:
                    frame.put(point, _blank(point) if phase == "blank" else bytes(2 * point.size))

    def _phase(self, restart: Restart) -> str:
        """Return where in its restart a device is: blank, zero, or "" when it is up."""
        now_s = self._schedule.now_s
        ages_s = [now_s - at_s for at_s in restart.at_s if at_s <= now_s]
        if restart.daily is not None:
            ages_s.append(self._schedule.since_s(restart.daily))
        age_s = min(ages_s, default=float("inf"))
        if age_s < restart.blank_s:
            return "blank"
        return "zero" if age_s < restart.blank_s + restart.zero_s else ""
