"""Write quirks: what a device makes of a write, and what it shows of it.

Duty: refuse, discard, keep, change or delay what a client writes.  The order is fixed, so that quirks combine
in one way only.  A request meets, from outside in: a hung or locked device, points that are refused, worn
flash; then each point: corruption, discarding, order, quantisation, sign, keeping without effect, timers.
What is left goes down, where `effects` may delay or outrank it.

A request is taken whole or refused whole.  The one exception: where the quirks make several requests of one,
and the device refuses a later of them for a reason other than address and range, the earlier ones stay.

Rules of this file: addresses are those of the device's own map.  A read changes nothing and shows one instant
(only `timers.any_traffic_rearms` lets it start timers).  A knob whose points the device does not have is the
user's mistake.  Chance: one number for each write and knob that needs one, from the generator handed in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from ..errors import ScenarioError
from ..fields import TICKS_PER_S
from ..image import DeviceImage
from ..plant import Plant
from ..points import Point
from .effects import Delayed, Steered
from .requests import (
    ILLEGAL_ADDRESS,
    ILLEGAL_VALUE,
    Draft,
    Rule,
    draft_of,
    encoded,
    forward,
    matched,
    overlaid,
    read_point,
)
from .schedule import Schedule
from .timers import Served, Timers, served
from .write_knobs import Flash, Locked, Order, Preset, Quantise, WriteKnobs

if TYPE_CHECKING:
    from numpy.random import Generator

    from .._modbus import Unit

__all__ = ["WriteKnobs", "WriteLayer"]

RuleT = TypeVar("RuleT", bound=Rule)

DEVICE_FAILURE: Final = 4
BUSY: Final = 6
WRITTEN_MAX: Final = 1000
FUNCTIONS_SERVED: Final = frozenset({3, 6, 16})

_OF_CHARGE: Final = frozenset({"OutWRte", "InWRte"})
_OF_DISCHARGE: Final = frozenset({"WSetPct", "WSetPctRvrt", "WMaxLimPct", "WMaxLimPctRvrt"})
"""Points in per cent of the greatest charging, or discharging, power."""


class WriteLayer:
    """A unit with write quirks around another.

    Parameters
    ----------
    inner : Unit
        What is written to in the end.
    image : DeviceImage
        The device's registers; only its layout is used.
    plant : Plant
    device : int
        Position in the plant.
    knobs : WriteKnobs
    rng : numpy.random.Generator
        Chance of this device.
    start_of_day_s : int
        Time of day at bench time 0 [s].

    Attributes
    ----------
    functions : frozenset of int
        Function codes this unit serves.
    locked : bool
        Writing is switched off; set it to False as an installer would, at the device.
    flash_writes : int
        Accepted requests that wrote to flash.
    written : deque of (int, str, int)
        The last accepted writes, point by point: elapsed ticks, point such as ``704.WSet``, register number
        as it came, before any scale factor.

    Raises
    ------
    ScenarioError
        When a knob names points the device does not have, or a preset that it refuses.
    """

    def __init__(
        self,
        inner: Unit,
        image: DeviceImage,
        plant: Plant,
        device: int,
        knobs: WriteKnobs,
        rng: Generator,
        *,
        start_of_day_s: int = 0,
    ) -> None:
        self._layout = layout = image.layout
        self._plant = plant
        self._knobs = knobs
        self._rng = rng
        self._below: Unit = inner
        self._steps: list[Callable[[], None]] = []
        charge_w, off_grid = knobs.reserve_charge_w, knobs.reserve_off_grid
        if knobs.overrides or knobs.ends is not None or charge_w is not None or off_grid:
            steered = Steered(
                *(inner, layout, plant, device),
                overrides=knobs.overrides,
                ends=knobs.ends,
                charge_w=charge_w,
                off_grid=off_grid,
                schedule=Schedule(plant, int(rng.random() * (1 << 53)), start_of_day_s),
            )
            self._below, self._steps = steered, [steered.step]
        if knobs.delay is not None:
            delayed = Delayed(self._below, layout, plant, device, knobs.delay, rng)
            self._below = delayed
            self._steps.append(delayed.step)
        served_now: frozenset[int] = getattr(inner, "functions", FUNCTIONS_SERVED)
        self.functions = served_now - frozenset(knobs.refuse_functions)
        self.locked = knobs.locked is not None
        self.flash_writes = 0
        self.written: deque[tuple[int, str, int]] = deque(maxlen=WRITTEN_MAX)
        self._hung_until = self._written_at = -(1 << 62)  # ticks
        self._shown: dict[Point, int] = {}
        self._timers = [Timers(self._below, layout, plant, device, timer) for timer in knobs.timers]
        self._find_points()
        for preset in knobs.presets:
            self._preset(preset)
        self.flash_writes = 0
        self.written.clear()  # presets are nobody's here

    def _find_points(self) -> None:
        """Turn the names in the knobs into the map's points."""
        layout, knobs = self._layout, self._knobs

        def of(knob: str, rules: Sequence[RuleT]) -> list[tuple[RuleT, frozenset[Point]]]:
            return [(rule, matched(layout, knob, rule.points)) for rule in rules]

        self._reject = of("reject", knobs.reject)
        self._corrupt = of("corrupt", knobs.corrupt)
        self._discard = of("discard", knobs.discard)
        self._quantise = of("quantise", knobs.quantise)
        for limit, points in self._quantise:
            for point in points:
                self._per_unit(limit, point)  # refuses a unit that the point does not have
        self._invert = matched(layout, "invert", knobs.invert) if knobs.invert else frozenset[Point]()
        self._store = matched(layout, "store", knobs.store) if knobs.store else frozenset[Point]()
        self._shown |= {point: read_point(self._below, point) for point in self._store}
        self._masked: dict[Point, int] = {}
        for mask, points in of("write_only", knobs.write_only):
            self._masked |= {point: 0 if mask.reads == "zero" else point.blank for point in points}
        self._resets = [
            (matched(layout, "resets", (rule.by,)), {one: read_point(self._below, one) for one in points})
            for rule, points in of("resets", knobs.resets)
        ]
        self._locks = self._optional("locked", knobs.locked)
        self._flash = self._optional("flash", knobs.flash)
        self._order = [(rule.rule, self._function(rule)) for rule in knobs.order]
        self._waiting: dict[Point, int] = {}  # values that act when their function is enabled again

    def _optional(self, knob: str, rule: Locked | Flash | None) -> frozenset[Point] | None:
        """Return the points of a rule, None for every point."""
        return matched(self._layout, knob, rule.points) if rule is not None and rule.points else None

    def _function(self, rule: Order) -> Served:
        for one in served(self._layout):
            if one.function.name == rule.function:
                return one
        raise ScenarioError(
            f"writes.order: found {rule.function}, and device {self._layout.profile.profile} has no such "
            f"function; allowed are functions of its models {', '.join(map(str, self._layout.models))}"
        )

    def _preset(self, preset: Preset) -> None:
        for point in matched(self._layout, "presets", (preset.point,)):
            register = round(preset.value * 10.0**-point.scale)
            code = self._take(point.address, encoded(point, register))
            if code:
                raise ScenarioError(
                    f"writes.presets: found {preset.point} {preset.value:g}, which the device refuses "
                    f"(exception {code}); allowed {point.low * 10.0**point.scale:g} to "
                    f"{point.high * 10.0**point.scale:g} of a point that can be written"
                )

    @property
    def hung(self) -> bool:
        """Whether the device answers nothing now; `read` and `write` give exception 6 meanwhile.

        A transport that can be silent should be.
        """
        return self._plant.elapsed_ticks < self._hung_until

    def step(self) -> None:
        """Catch up with the plant; call it after each advance."""
        locked = self._knobs.locked
        if locked is not None and locked.until_s is not None:
            self.locked = self.locked and self._plant.elapsed_ticks < locked.until_s * TICKS_PER_S
        for step in self._steps:
            step()

    # ---- reading

    def read(self, address: int, count: int) -> bytes | int:
        """Return registers as the device shows them, or an exception code."""
        if self.hung:
            return BUSY
        for timers in self._timers:
            timers.rearm()
        data = self._below.read(address, count)
        if not isinstance(data, bytes):
            return data
        return overlaid(address, data, self._registers_shown(address, count))

    def _registers_shown(self, address: int, count: int) -> dict[Point, int]:
        """Return the points of a range that show something else than what lies below."""
        shown = {p: -read_point(self._below, p) for p in self._invert if _touches(p, address, count)}
        shown |= self._shown
        for timers in self._timers:
            shown |= timers.shown()
        return shown | self._masked

    # ---- writing

    def write(self, address: int, data: bytes) -> int:
        """Write registers; return 0, or an exception code when nothing was written."""
        if self.hung:
            return BUSY
        for timers in self._timers:
            timers.rearm()
        hang, now = self._knobs.hang, self._plant.elapsed_ticks
        if hang is not None and now - self._written_at < hang.gap_s * TICKS_PER_S:
            self._hung_until = now + math.ceil(hang.hang_s * TICKS_PER_S)
            return BUSY
        code = self._refusal(address, data) or self._take(address, data)
        if code == 0:
            self._written_at = now
        return code

    def _refusal(self, address: int, data: bytes) -> int:
        """Return the exception code of a device that takes no such write now, else 0."""
        locked, flash, count = self._knobs.locked, self._knobs.flash, len(data) // 2

        def meant(points: frozenset[Point] | None) -> bool:
            return points is None or any(_touches(point, address, count) for point in points)

        if locked is not None and self.locked and meant(self._locks):
            return locked.code
        for rule, points in self._reject:
            if meant(points):
                return rule.code
        if any(meant(timers.absent) for timers in self._timers):
            return ILLEGAL_ADDRESS
        if flash is not None and self.flash_writes >= flash.writes_max and meant(self._flash):
            return DEVICE_FAILURE
        return 0

    def _take(self, address: int, data: bytes) -> int:
        """Carry out a write, as far as the device does."""
        draft = draft_of(self._layout, address, data)
        if draft is None:
            return self._below.write(address, data)  # not whole points: refused there
        self._change(draft)
        code = ILLEGAL_VALUE if draft.refused else forward(self._below, draft.passed)
        if code:
            return code
        for held, changes in ((self._shown, draft.shown), (self._waiting, draft.waiting)):
            for point, register in changes.items():
                if register is None:
                    held.pop(point, None)
                else:
                    held[point] = register
        self._accepted(draft)
        return 0

    def _accepted(self, draft: Draft) -> None:
        """Note a request that was taken, and what follows from it."""
        now = self._plant.elapsed_ticks
        self.written.extend((now, f"{p.model}.{p.name}", number) for p, number in draft.asked.items())
        if self._flash is None or not self._flash.isdisjoint(draft.asked):
            self.flash_writes += 1
        for by, points in self._resets:
            if not by.isdisjoint(draft.asked):
                forward(self._below, points)
        for timers in self._timers:
            timers.accepted(draft)

    def _change(self, draft: Draft) -> None:
        """Turn what was asked into what is passed on and shown."""
        for corrupt, points in self._corrupt:
            struck = points & draft.asked.keys()
            if struck and self._happens(corrupt.probability):
                draft.passed |= dict.fromkeys(struck, 0)
        for discard, points in self._discard:
            lost = points & draft.asked.keys()
            if lost and self._happens(discard.probability):
                for point in lost:
                    draft.drop(point)
        for rule, one in self._order:
            self._put_in_order(rule, one, draft)
        for limit, points in self._quantise:
            for point in points:
                self._quantised(limit, point, draft)
        for point in self._invert:
            register = draft.passed.get(point)
            if register is not None:
                draft.passed[point] = -register
        for point in self._store & draft.asked.keys():
            register = draft.passed[point]
            if register is not None:
                draft.keep(point, register)
        for timers in self._timers:
            timers.change(draft)

    def _happens(self, probability: float) -> bool:
        return probability >= 1.0 or bool(self._rng.random() < probability)

    def _put_in_order(self, rule: str, one: Served, draft: Draft) -> None:
        """Apply an order to the points of one function."""
        enabled = read_point(self._below, one.enable) != 0
        if rule == "enable-first":
            for point in sorted(draft.asked, key=lambda point: point.address):
                register = draft.passed[point]
                if point is one.enable and register is not None:
                    enabled = register != 0
                elif point in one.values and not enabled:
                    draft.drop(point)
            return
        enables = draft.passed.get(one.enable) not in (None, 0)
        for point in one.values:
            register = draft.passed.get(point)
            if enables:
                draft.waiting[point] = None
                if register is None and point in self._waiting:
                    draft.passed[point] = self._waiting[point]
                    draft.shown[point] = None
            elif register is not None and enabled:
                draft.keep(point, register)
                draft.waiting[point] = register

    def _per_unit(self, rule: Quantise, point: Point) -> float:
        """Return the register numbers per unit of a rule."""
        own = 10.0**-point.scale
        if rule.unit == "point" or point.units == "W":
            return own
        if point.name not in _OF_CHARGE | _OF_DISCHARGE:
            raise ScenarioError(
                f"writes.quantise: found unit watts for {point}, which is in {point.units or 'no unit'}; "
                "allowed are points in W or per cent of a power"
            )
        rated = self._layout.profile.inverter
        charge = point.name in _OF_CHARGE
        return 100.0 * own / (rated.power_w_charge_max if charge else rated.power_w_discharge_max)

    def _quantised(self, rule: Quantise, point: Point, draft: Draft) -> None:
        """Bring one point of a request to a value that the device takes."""
        register = draft.passed.get(point)
        if register is None:
            return
        per_unit = self._per_unit(rule, point)
        value = register / per_unit
        low = -math.inf if rule.low is None else rule.low
        high = math.inf if rule.high is None else rule.high
        if not low <= value <= high and rule.outside == "ignore":
            draft.drop(point)
            return
        value = min(max(value, low), high)
        if rule.step is not None:
            # A little more than a whole number of steps is a whole number that was rounded on its way.
            value = math.copysign(math.floor(abs(value) / rule.step + 1e-9) * rule.step, value)
        draft.passed[point] = round(value * per_unit)
        if rule.shows == "asked":
            draft.shown[point] = draft.asked[point]


def _touches(point: Point, address: int, count: int) -> bool:
    """Whether a range of registers holds some of a point."""
    return point.address < address + count and address < point.address + point.size
