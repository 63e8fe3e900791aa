"""Revert timers that do not do what the standard says.

Duty: change what a client's timer settings come to, and what the timer's registers show.  The timer itself is
the device's own: it runs, and its function reverts, further down.

Rules of this file: only the functions of active power have such timers here, and 123.Conn; those of power
factor, reactive power and the curves work as they should.

References
----------
SunSpec DER Information Model Specification V1.2.1 on 704, quoted second-hand; sunspec.md 1.6 lists what
devices were seen to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from ..errors import ScenarioError
from ..fields import TICKS_PER_S
from ..layout import Layout
from ..plant import Plant
from ..points import Point
from .requests import Draft, read_point
from .schedule import Strict

if TYPE_CHECKING:
    from .._modbus import Unit

FunctionName = Literal["set", "limit", "limit-old", "window", "permit"]


@dataclass(frozen=True, slots=True)
class Function:
    """The points of one function that can be switched on, by their names in its model."""

    name: FunctionName
    model: int
    enable: str
    values: tuple[str, ...]
    seconds: str
    ticks: str
    """Field of `fields.CONTROL` that counts down."""
    remaining: str | None = None
    enable_after: str | None = None
    after: tuple[str, ...] = ()


FUNCTIONS: Final = (
    Function(
        "set",
        704,
        "WSetEna",
        ("WSetMod", "WSet", "WSetPct"),
        "WSetRvrtTms",
        "set_rvrt_ticks",
        "WSetRvrtRem",
        "WSetEnaRvrt",
        ("WSetRvrt", "WSetPctRvrt"),
    ),
    Function(
        "limit",
        704,
        "WMaxLimPctEna",
        ("WMaxLimPct",),
        "WMaxLimPctRvrtTms",
        "limit_rvrt_ticks",
        "WMaxLimPctRvrtRem",
        "WMaxLimPctEnaRvrt",
        ("WMaxLimPctRvrt",),
    ),
    Function("limit-old", 123, "WMaxLim_Ena", ("WMaxLimPct",), "WMaxLimPct_RvrtTms", "limit_rvrt_ticks"),
    Function("permit", 123, "Conn", (), "Conn_RvrtTms", "permit_rvrt_ticks"),
    Function("window", 124, "StorCtl_Mod", ("OutWRte", "InWRte"), "InOutWRte_RvrtTms", "window_rvrt_ticks"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A function as one map has it."""

    function: Function
    enable: Point
    values: tuple[Point, ...]
    seconds: Point
    remaining: Point | None
    enable_after: Point | None
    after: tuple[Point, ...]

    @property
    def timer_points(self) -> tuple[Point, ...]:
        """Points that have a meaning only with a timer."""
        own = (self.seconds, self.remaining, self.enable_after, *self.after)
        return tuple(point for point in own if point is not None)

    @property
    def points(self) -> tuple[Point, ...]:
        """Every point of the function."""
        return (self.enable, *self.values, *self.timer_points)


def served(layout: Layout) -> tuple[Served, ...]:
    """Return the functions of a map."""

    def make(function: Function) -> Served:
        def point(name: str) -> Point:
            return layout.point(function.model, name)

        return Served(
            function,
            point(function.enable),
            tuple(point(name) for name in function.values),
            point(function.seconds),
            None if function.remaining is None else point(function.remaining),
            None if function.enable_after is None else point(function.enable_after),
            tuple(point(name) for name in function.after),
        )

    return tuple(make(function) for function in FUNCTIONS if function.model in layout.models)


class TimerKnobs(Strict):
    """What is wrong with revert timers.

    Attributes
    ----------
    functions : tuple of str
        Whose timers: ``set`` and ``limit`` of 704, ``limit-old`` and ``permit`` of 123, ``window`` of 124.
    reverts : str
        ``yes``; ``never``: time runs out and nothing happens; ``unseen``: the function reverts, and its
        registers go on showing the command.
    remaining : str
        ``counts``, also where nothing comes of it, or ``zero`` throughout.
    armed_by : str
        ``seconds``: a timeout is enough; ``enable-after``: only with EnaRvrt 1, whose value after expiry is
        taken as 0.
    seconds_max : float
        Longer timeouts are taken, shown as asked, and run out after this [s].
    absent : bool
        There is no timer: its points read "not implemented" and cannot be written.
    any_traffic_rearms : bool
        Every request to the unit, whoever makes it, starts a running timer anew.
    """

    functions: Annotated[tuple[FunctionName, ...], Field(min_length=1)] = (
        "set",
        "limit",
        "limit-old",
        "window",
        "permit",
    )
    reverts: Literal["yes", "never", "unseen"] = "yes"
    remaining: Literal["counts", "zero"] = "counts"
    armed_by: Literal["seconds", "enable-after"] = "seconds"
    seconds_max: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] | None = None
    absent: bool = False
    any_traffic_rearms: bool = False


class Timers:
    """The revert timers of one unit, as a quirk has them.

    Raises
    ------
    ScenarioError
        When the device has none of the functions.
    """

    def __init__(self, below: Unit, layout: Layout, plant: Plant, device: int, knobs: TimerKnobs) -> None:
        self._below = below
        self._plant = plant
        self._device = device
        self._knobs = knobs
        self._served = tuple(one for one in served(layout) if one.function.name in knobs.functions)
        if not self._served:
            raise ScenarioError(
                f"writes.timers.functions: found {', '.join(knobs.functions)}, and device "
                f"{layout.profile.profile} has none of them; allowed are functions of its models "
                f"{', '.join(map(str, layout.models))}"
            )
        self._asked: dict[Point, int] = {}  # timeouts and EnaRvrt as written
        self._due: dict[Point, int] = {}  # by the point that shows it: when a timer that does nothing ends
        self.absent = frozenset(point for one in self._served for point in one.timer_points if knobs.absent)
        """Points that are not there."""

    def shown(self) -> dict[Point, int]:
        """Return what the timers' registers show in place of the truth."""
        if self._knobs.absent:
            return {point: point.blank for point in self.absent}
        counters = [one.remaining for one in self._served if one.remaining is not None]
        if self._knobs.remaining == "zero":
            return dict.fromkeys(counters, 0)
        if self._knobs.reverts != "never":
            return {}
        now = self._plant.elapsed_ticks
        return {point: -(-max(self._due.get(point, now) - now, 0) // TICKS_PER_S) for point in counters}

    def change(self, draft: Draft) -> None:
        """Change what a request comes to."""
        for one in self._served:
            if not self._knobs.absent and not draft.asked.keys().isdisjoint(one.points):
                self._change(one, draft)

    def _change(self, one: Served, draft: Draft) -> None:
        knobs = self._knobs
        if knobs.reverts == "unseen":
            draft.shown |= {p: draft.asked[p] for p in (one.enable, *one.values) if p in draft.asked}
        after = one.enable_after if knobs.armed_by == "enable-after" else None
        if after is not None and after in draft.asked:
            draft.keep(after, draft.asked[after])
        plain = knobs.reverts != "never" and knobs.seconds_max is None and after is None
        if plain or (one.seconds not in draft.asked and (after is None or after not in draft.asked)):
            return
        asked = draft.asked.get(one.seconds, self._asked.get(one.seconds, 0))
        already = draft.passed.get(one.seconds)  # by the knobs before these
        given = 0 if knobs.reverts == "never" else asked if already is None else already
        if knobs.seconds_max is not None:
            given = min(given, int(knobs.seconds_max))
        if after is not None and not draft.asked.get(after, self._asked.get(after, 0)):
            given = 0
        draft.passed[one.seconds] = given
        draft.shown[one.seconds] = asked

    def accepted(self, draft: Draft) -> None:
        """Note a request that was taken."""
        for one in self._served:
            if draft.asked.keys().isdisjoint(one.points):
                continue
            for point in (one.seconds, one.enable_after):
                if point is not None and point in draft.asked:
                    self._asked[point] = draft.asked[point]
            if one.remaining is not None:
                seconds = self._asked.get(one.seconds, 0) if read_point(self._below, one.enable) else 0
                self._due[one.remaining] = self._plant.elapsed_ticks + seconds * TICKS_PER_S

    def rearm(self) -> None:
        """Start running timers anew, if any traffic does that."""
        if not self._knobs.any_traffic_rearms:
            return
        for name, points in self._timeouts().items():
            ticks = self._plant.controls(name)
            seconds = max(read_point(self._below, point) for point in points)
            if ticks[self._device] > 0.0 and ticks[self._device] != seconds * TICKS_PER_S:
                ticks[self._device] = seconds * TICKS_PER_S
                self._plant.set_control(name, ticks)

    def _timeouts(self) -> dict[str, list[Point]]:
        """Return the timeout points of every timer; 123 and 704 show the same one of the limit."""
        found: dict[str, list[Point]] = {}
        for one in self._served:
            found.setdefault(one.function.ticks, []).append(one.seconds)
        return found
