"""Which points a fault of telemetry bends, and how: its entry in the register map of one device.

Duty: turn each event in force into plans, one for each point concerned; `registers` shows points by them.

Rules of this file: points are chosen by what they show, never by model or address, so that every family of
models and the meter are bent alike.  A setting is never bent, nor a scale factor that a setting shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Final

import numpy as np
from ridethrough.emulator.layout import QUANTITIES, Layout
from ridethrough.emulator.points import Point

from ..faults import Event
from ..units import SECOND_NS
from .shapes import FLIPS, OF, Bend, Floats, Slots, bends, shift_of, skew_ns

_PER_READING: Final[Mapping[str, frozenset[str]]] = {
    "soc_frac": frozenset({"soc_frac"}),
    "power_w": frozenset({"power_w", "power_w_phase"}),
    "import_w": frozenset({"import_w", "import_w_phase"}),
}
"""Quantities of the points that show a reading; all others that are measured go with ``grid_good``."""

_BATTERY: Final = frozenset(
    {
        *("soc_frac", "soh_frac", "energy_wh", "battery_v", "battery_a", "cell_v", "cell_c"),
        *("charge_a_max", "discharge_a_max", "charge_status"),
    }
)
"""What a battery's management tells the inverter, which measures the power of the DC port itself."""

HEARTBEATS: Final = frozenset({"heartbeat_s", "heartbeat_s_16"})


@dataclass(slots=True)
class Scale:
    """What is wrong with one scale factor now.

    Attributes
    ----------
    flip : int
        Powers of ten that the scale factor is off while the values stay as they are.
    moves : list of Event
        That move it together with the values.
    torn : bool
        The first read of a value after a move still has the old form.
    """

    flip: int = 0
    moves: list[Event] = field(default_factory=list)
    torn: bool = False

    def shift(self, now_ns: int) -> int:
        """Return by how many powers of ten the values are encoded higher."""
        return sum(shift_of(event, now_ns) for event in self.moves)


@dataclass(slots=True)
class Plan:
    """What is wrong with one point now.

    Attributes
    ----------
    point : Point
    held : bytes or None
        Its registers since they froze.
    bends : list of Bend
        One after the other.
    flip : int
        Powers of ten of a mistaken unit, where no scale factor can say it.
    scale : Scale or None
        What is wrong with its scale factor; of a scale factor, with itself.
    slots : Slots or None
        When its halves are of two reads.
    shift : int
        How it was encoded at the last read.
    last : bytes
        Its registers at the last read.
    """

    point: Point
    held: bytes | None = None
    bends: list[Bend] = field(default_factory=list)
    flip: int = 0
    scale: Scale | None = None
    slots: Slots | None = None
    shift: int = 0
    last: bytes = b""


Plans = dict[int, Plan]
"""By address of the point."""


def measured(layout: Layout) -> Iterator[Point]:
    """Yield the points that show what a device measures."""
    for point in layout.points:
        if point.quantity in QUANTITIES and not is_setting(point) and point.quantity not in HEARTBEATS:
            yield point


def is_setting(point: Point) -> bool:
    """Tell whether a point reads back what was written, or counts the time left of it."""
    return point.writable or point.name.endswith("RvrtRem")


def showing(layout: Layout, reading: str) -> Iterator[Point]:
    """Yield the points that show one of the readings of `OF`."""
    named = _PER_READING.get(reading)
    others = frozenset().union(*_PER_READING.values())
    for point in measured(layout):
        if point.quantity in named if named is not None else point.quantity not in others:
            yield point


@lru_cache(maxsize=256)
def scale_factors(layout: Layout) -> dict[int, Point]:
    """Return the scale factor of each measured point, by address, where no setting shares it."""
    # Late, because its neighbours take a tenth of a second to import and few runs move a scale factor.
    from ridethrough.emulator.quirks.values import scaled_by

    found = {}
    for factor in layout.points:
        if factor.type == "sunssf" and factor.decode(_initial(layout, factor)) is not None:
            scaled = scaled_by(layout, factor)
            if not any(point.writable for point in scaled):
                found.update({point.address: factor for point in scaled if point.quantity is not None})
    return found


def _initial(layout: Layout, point: Point) -> bytes:
    return layout.initial[2 * (point.address - layout.base_address) :][: 2 * point.size]


@dataclass(frozen=True, slots=True)
class Where:
    """Whose registers an event is about to bend, and when."""

    layout: Layout
    seed: int
    name: str
    now_ns: int
    read: Callable[[Point], bytes | None]
    """The registers of a point as the unit has them."""

    def of(self, event: Event) -> list[Point]:
        """Return the points that an event's parameter `of` names."""
        return [point for name in OF[str(event.params["of"])] for point in showing(self.layout, name)]

    def scaled(self, plans: Plans, point: Point) -> Scale | None:
        """Return what is wrong with a point's scale factor, shared by all it scales; None without one."""
        factors = scale_factors(self.layout)
        factor = factors.get(point.address)
        if factor is None:
            return None
        own = plan_of(plans, factor)
        if own.scale is None:
            own.scale = Scale()
            for sibling in self.layout.points:
                if factors.get(sibling.address) is factor:
                    plan_of(plans, sibling).scale = own.scale
        return own.scale


def plan_of(plans: Plans, point: Point) -> Plan:
    """Return the plan of a point, a new one if it had none."""
    return plans.setdefault(point.address, Plan(point))


Act = Callable[[Event, Where, Plans], None]


def _bend(event: Event, where: Where, plans: Plans) -> None:
    """A fault that bends single values."""
    for reading, bend in bends(event, where.seed, [where.name]).items():
        for point in showing(where.layout, reading):
            plan_of(plans, point).bends.append(bend)


def _spike(event: Event, where: Where, plans: Plans) -> None:
    """Spikes, or numbers of several registers whose halves are of two reads."""
    if event.params["form"] == "spike":
        _bend(event, where, plans)
        return
    slots = Slots(event, where.seed, [where.name])
    for point in measured(where.layout):
        if point.size > 1:
            plan = plan_of(plans, point)
            plan.slots, plan.last = slots, where.read(point) or b""


def _bms_frozen(event: Event, where: Where, plans: Plans) -> None:
    """What the battery's management says stays what it is now."""
    for point in measured(where.layout):
        if point.quantity in _BATTERY:
            plan_of(plans, point).held = where.read(point)


def _unit_flip(event: Event, where: Where, plans: Plans) -> None:
    """A value in another unit than before: the scale factor says the wrong power of ten."""
    power, done = FLIPS[str(event.params["factor"])], []
    for point in where.of(event):
        scale = where.scaled(plans, point)
        if scale is None:
            plan_of(plans, point).flip += power
        elif scale not in done:
            scale.flip += power
            done.append(scale)


def _scale_moved(event: Event, where: Where, plans: Plans) -> None:
    """The scale factor moves while running, and the values with it."""
    for point in where.of(event):
        scale = where.scaled(plans, point)
        if scale is not None and event not in scale.moves:
            scale.moves.append(event)
            scale.torn |= event.params["pair"] == "torn"


def _beat(event: Event, registers: int, now_ns: int, values: Floats) -> Floats:
    # Its registers overflow as a counter's do, and never say "not implemented".
    return np.mod(values + skew_ns(event, now_ns) // SECOND_NS, 2.0 ** (16 * registers) - 1.0)


def _clock_skew(event: Event, where: Where, plans: Plans) -> None:
    """The heartbeat counts another clock's seconds."""
    for point in where.layout.points:
        if point.quantity in HEARTBEATS:
            plan_of(plans, point).bends.append(partial(_beat, event, point.size))


def _frozen(event: Event, where: Where, plans: Plans) -> None:
    """All readings stay what they were: `FaultyUnit` holds the whole map."""


ACTS: Final[Mapping[str, Act]] = {
    "telemetry.bms-frozen": _bms_frozen,
    "telemetry.soc-knee": _bend,
    "telemetry.soc-drift": _bend,
    "telemetry.stuck-full": _bend,
    "telemetry.sign-flip": _bend,
    "telemetry.spike": _spike,
    "telemetry.unit-flip": _unit_flip,
    "telemetry.scale-factor-moved": _scale_moved,
    "telemetry.not-a-number": _bend,
    "telemetry.clock-skew": _clock_skew,
    "telemetry.frozen": _frozen,
}
"""What each fault of telemetry does to the registers, in the order in which they act."""
