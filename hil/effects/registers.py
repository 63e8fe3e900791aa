"""What a device reports of itself, in its registers: faults of telemetry on the wire.

Rules of this file:

- Only what a device measures is bent, as whole points, however a read cuts them.  Settings and the time left
  of their timers always read back as they are, and every write passes.
- Without a fault in force the unit behind is reached directly, with its snapshots over several reads.  With
  one they hold for every point but those that are bent and cut by the end of a read.
- Nothing in SunSpec carries the time of a reading.  A skewed clock moves the heartbeat, and
  `RegisterFaults.stamp_ns` is the time stamp that a gateway with such a clock gives the reading.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ridethrough.emulator._registers import RegisterImage
from ridethrough.emulator.layout import Layout
from ridethrough.emulator.points import NUMBER_TYPES, Point

from ..faults import Event
from .register_acts import ACTS as ACTS
from .register_acts import HEARTBEATS, Plan, Plans, Where, is_setting
from .shapes import skew_ns

if TYPE_CHECKING:
    from ridethrough.emulator._modbus import Unit
    from ridethrough.emulator._pdu import Reader

_SCALE_MAX: Final = 10
"""A scale factor is a power of ten from -10 to 10."""

_READ_MAX: Final = 125

_ORDER: Final = {fault: k for k, fault in enumerate(ACTS)}


class FaultyUnit:
    """A Modbus unit whose readings can be wrong.

    Parameters
    ----------
    unit : Unit
        With the addresses of `layout`.  What else it has, such as function codes, shows through.
    layout : Layout
    seed : int
    name : str
        Of the device: its streams of chance.

    Attributes
    ----------
    read, write : callable
        See `Unit`.  Without a fault in force they are the unit's own.
    asks_reader : bool
        Whether `read` wants to know who reads.
    """

    def __init__(self, unit: Unit, layout: Layout, seed: int, name: str) -> None:
        self._unit, self._layout, self._seed, self._name = unit, layout, seed, name
        # The core asks compiled registers in its own way, and they do know who reads.
        self.asks_reader = bool(getattr(unit, "asks_reader", isinstance(unit, RegisterImage)))
        self._settings, self._beats = _registers_of(layout)
        self._events: tuple[Event, ...] = ()
        self._now_ns = 0
        self._plans: Plans = {}
        self._starts: list[int] = []
        self._held: bytes | None = None
        self._live: frozenset[int] = frozenset()
        self.read: Callable[..., bytes | int] = unit.read
        self.write: Callable[[int, bytes], int] = unit.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unit, name)

    def set(self, events: Sequence[Event], now_ns: int) -> None:
        """Let these events be in force from now on; to be called at every edge.

        Parameters
        ----------
        events : sequence of Event
            In force on this device; those of other places are passed over.
        now_ns : int
            [ns].
        """
        self._now_ns = now_ns
        ours = sorted((each for each in events if each.fault in ACTS), key=lambda each: _ORDER[each.fault])
        frozen = [each for each in ours if each.fault == "telemetry.frozen"]
        if frozen and self._held is None:
            self._held = b"".join(self._whole())  # as it is shown until now
        elif not frozen:
            self._held = None
        fresh = any(each.params["stamp"] == "fresh" for each in frozen)
        self._live = self._settings | self._beats if fresh else self._settings
        known = [(each.number, each.start_ns) for each in self._events]
        if [(each.number, each.start_ns) for each in ours] != known:
            self._plans = self._planned(ours)
            self._starts = sorted(self._plans)
        self._events = tuple(ours)
        self.read = self._bent if ours else self._unit.read

    def step(self, now_ns: int) -> None:
        """Let time pass to `now_ns`; needed only while a fault is in force."""
        self._now_ns = now_ns

    @property
    def faulty(self) -> bool:
        """Whether any fault is in force."""
        return bool(self._events)

    def _planned(self, events: Sequence[Event]) -> Plans:
        where = Where(self._layout, self._seed, self._name, self._now_ns, self._own)
        plans: Plans = {}
        for event in events:
            ACTS[event.fault](event, where, plans)
        for address, plan in plans.items():  # what has begun goes on, whatever else begins or ends
            before = self._plans.get(address)
            if before is not None:
                plan.shift = before.shift
                if plan.held is not None and before.held is not None:
                    plan.held = before.held
        return plans

    def _whole(self) -> Iterator[bytes]:
        first, end = self._layout.base_address, self._layout.base_address + self._layout.count
        for address in range(first, end, _READ_MAX):
            block = self._bent(address, min(_READ_MAX, end - address))
            if isinstance(block, int):
                raise RuntimeError(f"the register map has a hole at {address}: exception {block}")
            yield block

    def _own(self, point: Point) -> bytes | None:
        """Return a point's registers as the unit has them, None where it refuses them."""
        data = self._unit.read(point.address, point.size)
        return data if isinstance(data, bytes) else None

    def _bent(self, address: int, count: int, reader: Reader | None = None) -> bytes | int:
        """Return registers as the faults in force show them, or an exception code."""
        own: Callable[..., bytes | int] = self._unit.read
        data = own(address, count, reader) if self.asks_reader else own(address, count)
        if isinstance(data, int):
            return data
        shown = bytearray(data)
        end = address + count
        # A point has at most four registers, so one that begins up to three before may be cut by the read.
        begin, stop = bisect_left(self._starts, address - 3), bisect_right(self._starts, end - 1)
        for start in self._starts[begin:stop]:
            plan = self._plans[start]
            behind = start + plan.point.size
            if behind <= address:
                continue
            whole = address <= start and behind <= end
            raw = data[2 * (start - address) : 2 * (behind - address)] if whole else self._own(plan.point)
            if raw is not None:
                first, last = max(start, address), min(behind, end)
                instead = self._shown(plan, raw)[2 * (first - start) : 2 * (last - start)]
                shown[2 * (first - address) : 2 * (last - address)] = instead
        if self._held is not None:
            self._overlay(shown, address, self._held)
        return bytes(shown)

    def _overlay(self, shown: bytearray, address: int, held: bytes) -> None:
        """Put held registers over those that do not live on."""
        first = address - self._layout.base_address
        for k in range(len(shown) // 2):
            if address + k not in self._live:
                shown[2 * k : 2 * k + 2] = held[2 * (first + k) : 2 * (first + k) + 2]

    def _shown(self, plan: Plan, raw: bytes) -> bytes:
        """Return what a point shows instead of `raw`."""
        point, now_ns = plan.point, self._now_ns
        if plan.held is not None:
            raw = plan.held
        if plan.slots is not None and plan.last:
            torn, half = plan.slots.signs(now_ns)[0] != 0.0, point.size
            plan.last, raw = raw, plan.last[:half] + raw[half:] if torn else raw
        scale, shift = plan.scale, 0
        if scale is not None:
            moved = scale.shift(now_ns)
            if point.type == "sunssf":
                shown = int(point.decode(raw) or 0) + moved + scale.flip
                return point.encode(float(max(-_SCALE_MAX, min(_SCALE_MAX, shown))))
            shift = plan.shift if scale.torn else moved
            plan.shift = moved
        return _encoded(point, raw, plan, shift, now_ns)


def _encoded(point: Point, raw: bytes, plan: Plan, shift: int, now_ns: int) -> bytes:
    """Return a point's registers with its value bent and its encoding shifted by powers of ten."""
    value = point.decode(raw)
    if value is None or not (plan.bends or plan.flip or shift):
        return raw
    values = np.array([value])
    for bend in plan.bends:
        values = bend(now_ns, values)
    bent = float(values[0])
    if np.isnan(bent):
        return (point.blank & ((1 << 16 * point.size) - 1)).to_bytes(2 * point.size)
    if plan.flip > 0:
        bent *= 10.0**plan.flip
    elif plan.flip < 0:
        bent /= 10.0**-plan.flip
    if shift:
        from ridethrough.emulator.quirks.values import rescaled

        point = rescaled(point, shift)
    if NUMBER_TYPES[point.type].real:
        return point.encode(bent)
    # A spike is as high as the register can show; one that it cannot would read as no value at all.
    unit, span = point.divisor / point.factor, NUMBER_TYPES[point.type]
    return point.encode(min(max(bent, span.low * unit), span.high * unit))


class RegisterFaults:
    """Faults in the registers of all devices of one run.

    Parameters
    ----------
    seed : int
    names : sequence of str, length n
        Of the devices: one stream of chance each.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self._seed, self._names = seed, tuple(names)
        self._units: list[tuple[int, FaultyUnit]] = []
        self._faulty: list[FaultyUnit] = []
        self._events: tuple[Event, ...] = ()

    def wrap(self, row: int, unit: Unit, layout: Layout) -> FaultyUnit:
        """Return a unit of device `row` whose readings can be wrong, to be served in its place."""
        faulty = FaultyUnit(unit, layout, self._seed, self._names[row])
        self._units.append((row, faulty))
        return faulty

    def step(self, now_ns: int, events: Sequence[Event]) -> None:
        """Let the events in force act from `now_ns` on; to be called whenever the plant has moved.

        Parameters
        ----------
        now_ns : int
            [ns].
        events : sequence of Event
            In force now; those of other places are passed over.
        """
        ours = tuple(event for event in events if event.fault in ACTS)
        if ours != self._events:
            self._events = ours
            for row, unit in self._units:
                unit.set([event for event in ours if row in event.targets], now_ns)
            self._faulty = [unit for _, unit in self._units if unit.faulty]
        for unit in self._faulty:
            unit.step(now_ns)

    def stamp_ns(self, row: int, asked_ns: int) -> int:
        """Return the time stamp that a reading of device `row` gets, asked for at `asked_ns` [ns]."""
        if not self._events:
            return asked_ns
        skews = [
            each for each in self._events if each.fault == "telemetry.clock-skew" and row in each.targets
        ]
        return max(0, asked_ns + sum(skew_ns(event, asked_ns) for event in skews))


@lru_cache(maxsize=256)
def _registers_of(layout: Layout) -> tuple[frozenset[int], frozenset[int]]:
    """Return the registers of the settings and of the heartbeats."""
    settings = [point for point in layout.points if is_setting(point)]
    beats = [point for point in layout.points if point.quantity in HEARTBEATS]
    return _addresses(settings), _addresses(beats)


def _addresses(points: Sequence[Point]) -> frozenset[int]:
    return frozenset(k for point in points for k in range(point.address, point.address + point.size))
