"""When a quirk shows: windows of bench time, times of day and chance, and the words all knobs share.

Rules of this file: time is the plant's, in whole seconds; there is no other clock.  Chance is a function of a
key, the second and the knob itself.  So neither the number of reads, nor the length of the plant's steps, nor
another quirk changes what happens later.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..fields import TICKS_PER_S
from ..layout import Layout
from ..plant import Plant
from ..points import Point

DAY_S: Final = 86_400
_MASK: Final = (1 << 64) - 1


class Strict(BaseModel):
    """A section of a quirk file: nothing unknown, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _is_time_of_day(text: str) -> str:
    hours, minutes, *seconds = (int(part) for part in text.split(":"))
    if hours > 23 or minutes > 59 or (seconds and seconds[0] > 59):
        raise ValueError("a time of day from 00:00 to 23:59:59")
    return text


def time_of_day_s(text: str) -> int:
    """Return a time of day such as ``21:30`` in seconds after midnight [s]."""
    hours, minutes, *seconds = (int(part) for part in text.split(":"))
    return 3600 * hours + 60 * minutes + (seconds[0] if seconds else 0)


Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""Bench time, or a length of it [s]."""
TimeOfDay = Annotated[str, Field(pattern=r"^[0-9]{2}:[0-9]{2}(:[0-9]{2})?$"), AfterValidator(_is_time_of_day)]
"""Such as ``21:30`` or ``21:30:05``."""
Chance = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""Probability in each second of bench time [1]."""
ModelId = Annotated[int, Field(ge=1, le=65_534)]
PointName = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}\.[A-Za-z][A-Za-z0-9_.\[\]]{0,62}$")]
"""Model and point, such as ``701.W`` or ``714.Prt[1].DCW``."""


def points_in(layout: Layout, names: tuple[str, ...]) -> list[Point]:
    """Return those of the named points that a map has."""
    keys = [name.partition(".") for name in names]
    found = [layout.by_name.get((int(model), point)) for model, _, point in keys]
    return [point for point in found if point is not None]


class When(Strict):
    """A part of bench time; where several limits are given, all of them must hold.

    Attributes
    ----------
    start_s, end_s : float
        From here on, and until here, since the start of the bench; no end if there is none [s].
    daily_start, daily_end : str
        Every day between these times of day, past midnight if the end is earlier than the start.
    every_s, for_s : float
        Again and again: the first `for_s` of every `every_s`, counted from `start_s` [s].
    chance : float
        In each second with this probability [1].
    """

    start_s: Seconds = 0.0
    end_s: Seconds | None = None
    daily_start: TimeOfDay | None = None
    daily_end: TimeOfDay | None = None
    every_s: Annotated[float, Field(ge=1, le=1e9)] | None = None
    for_s: Annotated[float, Field(ge=1, le=1e9)] | None = None
    chance: Chance = 1.0

    @model_validator(mode="after")
    def _whole(self) -> When:
        if (self.daily_start is None) != (self.daily_end is None):
            raise ValueError("daily_start and daily_end together, or neither")
        if (self.every_s is None) != (self.for_s is None):
            raise ValueError("every_s and for_s together, or neither")
        if self.every_s is not None and self.for_s is not None and self.for_s >= self.every_s:
            raise ValueError("for_s shorter than every_s")
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError("end_s later than start_s")
        return self


ALWAYS: Final = When()


class Schedule:
    """Bench time of one device, and its chance.

    Parameters
    ----------
    plant : Plant
        Its elapsed ticks are the only clock.
    key : int
        Of chance, 0 to 2**63 - 1; two devices with different keys have independent luck.
    start_of_day_s : int
        Time of day at bench time 0 [s].
    """

    def __init__(self, plant: Plant, key: int, start_of_day_s: int = 0) -> None:
        self._plant = plant
        self._key = key
        self._start_of_day_s = start_of_day_s
        self._own: dict[
            int, tuple[Strict, int]
        ] = {}  # by identity; the knob is kept, so that it stays its own

    @property
    def now_s(self) -> int:
        """Whole seconds since the start of the bench [s]."""
        return self._plant.elapsed_ticks // TICKS_PER_S

    def since_s(self, daily: str) -> int:
        """Return how long ago it was last this time of day, 0 to 86,399 [s]."""
        return (self.now_s + self._start_of_day_s - time_of_day_s(daily)) % DAY_S

    def days(self, daily: str) -> int:
        """Return how often it has been this time of day since the midnight before bench time 0."""
        return (self.now_s + self._start_of_day_s - time_of_day_s(daily)) // DAY_S

    def active(self, when: When, knob: Strict) -> bool:
        """Tell whether now lies in a window; `knob` is whose window, and gives it its own chance."""
        now_s = self.now_s
        if now_s < when.start_s or (when.end_s is not None and now_s >= when.end_s):
            return False
        if when.daily_start is not None and when.daily_end is not None:
            length_s = (time_of_day_s(when.daily_end) - time_of_day_s(when.daily_start)) % DAY_S
            if self.since_s(when.daily_start) >= (length_s or DAY_S):
                return False
        every_s, for_s = when.every_s, when.for_s
        if every_s is not None and for_s is not None and (now_s - when.start_s) % every_s >= for_s:
            return False
        return when.chance >= 1.0 or self._drawn(now_s, knob) < when.chance

    def _drawn(self, now_s: int, knob: Strict) -> float:
        """Return a number from 0 up to 1, the same whenever it is asked for in one second."""
        if id(knob) not in self._own:
            self._own[id(knob)] = knob, zlib.crc32(knob.model_dump_json().encode()) << 32
        word = (self._key + self._own[id(knob)][1] + now_s * 0x9E3779B97F4A7C15) & _MASK
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
            word = ((word ^ (word >> shift)) * factor) & _MASK
        return ((word ^ (word >> 31)) >> 11) / (1 << 53)
