"""The device under test: one connection to it, its models, its power, and what was changed on it.

Rules of this file:

- Whatever is written is first read and kept, and is put back when the block that wrote it ends, however it
  ends: an error, a refusal, ctrl-C.  What could not be put back is kept in `left`, with the register, what it
  holds and what it held.
- Before the first write of a run `announce` is called.
- The waits are in the device's seconds; `speed` shortens them for an emulated device that runs fast.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from ..control import DeviceCapabilities, capabilities_of
from ..discovery import DeviceMap, ModelEntry, ModelImage, discover, read_image
from ..modbus_link import READ_REGISTERS_MAX, Link, TargetError
from ..modbus_transport import TlsFiles
from ..readings import INVERTER_MODELS, METER_MODELS
from ..sunspec_points import SIGNED, encode, number_of, scale_of, words_of
from ..target import Target
from .definitions import implemented
from .wire import RtuWire, TcpWire, WireUnit, make_wire

READ_BACK_S: Final = 1.0
"""A value must be readable this long after its write was answered (SunSpec, review of 2024/25) [s]."""

STEP_FRAC: Final = 0.08
"""Power steps of the procedures: this part of the rating, at most 10 % [1]."""

METER_OFFSET: Final = 100
METER_UNIT_MAX: Final = 247

_RATINGS: Final = (702, 120, 121, 124, 713, 802, 704)
_VAR: Final = {701: "Var", **dict.fromkeys((101, 102, 103, 111, 112, 113), "VAr")}


def no_progress(text: str) -> None:
    """Say nothing."""


@dataclass(slots=True)
class _Kept:
    """Registers that were written, and what they held before."""

    what: str
    address: int
    words: list[int]


@dataclass(slots=True)
class Subject:
    """A device under test.

    Attributes
    ----------
    target : Target
    timeout_s : float
        Longest wait for one answer [s].
    announce : callable
        Called once, before the first write.
    progress : callable
        Called with a line now and then.
    speed : float
        Device seconds per real second.
    timer_s : int
        Length of the revert timers that are tried [s of the device].
    broadcast : bool
        A broadcast may be sent on a serial line: it reaches every device there.
    tls : TlsFiles, optional
        Certificate, key and roots for a ``tls:`` target.
    """

    target: Target
    timeout_s: float = 5.0
    announce: Callable[[], None] = lambda: None
    progress: Callable[[str], None] = no_progress
    speed: float = 1.0
    timer_s: int = 4
    broadcast: bool = False
    tls: TlsFiles | None = None
    map: DeviceMap | None = None
    left: list[str] = field(default_factory=list)
    wire: TcpWire | RtuWire = field(init=False)
    unit: WireUnit = field(init=False)
    _announced: bool = False
    _meter_sought: bool = False
    _meter: tuple[WireUnit, ModelEntry] | None = None
    _export_w_first: float = math.nan

    def __post_init__(self) -> None:
        self.wire = make_wire(self.target, self.timeout_s, self.tls)
        link = Link(self.target, self.timeout_s, tls=self.tls)
        self.unit = WireUnit(link, self.wire, self.target.unit)

    async def close(self) -> None:
        """Close the connection."""
        await self.wire.close()

    async def sleep(self, seconds: float) -> None:
        """Let the device have its time [s of the device]."""
        await asyncio.sleep(seconds / self.speed)

    def now(self) -> float:
        """Return the time [s of the device], from an arbitrary start."""
        return asyncio.get_running_loop().time() * self.speed

    async def discover(self) -> DeviceMap:
        """Return the device's map, read once."""
        if self.map is None:
            self.map = await discover(self.unit)
        return self.map

    def entries(self) -> tuple[ModelEntry, ...]:
        """Return the device's own models that SunSpec defines."""
        return () if self.map is None else tuple(e for e in self.map.models if e.known and e.part == 0)

    def has(self, model: int) -> bool:
        """Tell whether the device has a model."""
        return any(entry.id == model for entry in self.entries())

    async def image(self, model: int) -> ModelImage:
        """Return a model as it is now.

        Raises
        ------
        TargetError
            The device has no such model, or it could not be read.
        """
        entry = next((entry for entry in self.entries() if entry.id == model), None)
        if entry is None:
            raise self.unit.fault(f"it has no model {model}", refused=True)
        return await read_image(self.unit, entry)

    async def words(self, address: int, count: int, what: str) -> list[int]:
        """Return registers, in as many requests as they need."""
        found: list[int] = []
        while len(found) < count:
            part = min(READ_REGISTERS_MAX, count - len(found))
            found += await self.unit.read(address + len(found), part, what)
        return found

    async def raw(self, image: ModelImage, name: str) -> int:
        """Return an integer point's number as it is now, unscaled."""
        point = image.points[name]
        words = await self.words(image.address(name), point.size, str(point))
        return number_of(words, signed=point.type in SIGNED)

    async def value(self, model: int, name: str) -> float:
        """Return a point as a number, read anew with its scale factor; NaN where it has none."""
        return (await self.image(model)).number(name)

    # ---- writes

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[Journal]:
        """Put back what is written inside the block, last write first."""
        if not self._announced:
            self._announced = True
            self.announce()
        journal = Journal(self)
        try:
            yield journal
        finally:
            await journal.restore()

    # ---- measurements

    async def power_w(self) -> float:
        """Return the power at the device's AC terminals, positive out of it [W]; NaN where it has none.

        Without a power of the device's own the home's meter stands in: its change since the first look.
        """
        return await self._measured("W")

    async def reactive_var(self) -> float:
        """Return the reactive power [var]; NaN where the device has none."""
        return await self._measured("VAr")

    async def _measured(self, what: str) -> float:
        for model in INVERTER_MODELS:
            if self.has(model):
                number = await self.value(model, _VAR[model] if what == "VAr" else "W")
                if not math.isnan(number):
                    return number
        return await self._metered(what)

    async def _metered(self, what: str) -> float:
        """Return what the home's meter says, turned round and counted from its first value."""
        if what != "W":
            return math.nan
        if not self._meter_sought:
            self._meter_sought = True
            self._meter = await self._find_meter()
        if self._meter is None:
            return math.nan
        export_w = -(await read_image(*self._meter)).number("W")
        if math.isnan(self._export_w_first):
            self._export_w_first = export_w
        return export_w - self._export_w_first

    async def _find_meter(self) -> tuple[WireUnit, ModelEntry] | None:
        """Look for a meter in the device's own map and at its unit id plus 100."""
        for entry in self.entries():
            if entry.id in METER_MODELS:
                return self.unit, entry
        unit = WireUnit(self.unit.link, self.wire, self.target.unit + METER_OFFSET)
        if unit.number > METER_UNIT_MAX:
            return None
        try:
            beside = await discover(unit)
        except TargetError:
            return None
        return next(((unit, entry) for entry in beside.models if entry.id in METER_MODELS), None)

    async def steady(self, measure: Callable[[], Awaitable[float]], within_s: float = 4.0) -> float:
        """Return a measured value once it stands still, or the last one after `within_s`."""
        seen: list[float] = []
        end_s = self.now() + within_s
        while True:
            seen = [*seen[-2:], await measure()]
            scale = max(1.0, *(abs(x) for x in seen))
            if len(seen) == 3 and max(seen) - min(seen) <= 0.005 * scale + 1.0:
                return seen[-1]
            if self.now() > end_s or math.isnan(seen[-1]):
                return seen[-1]
            await self.sleep(0.4)

    async def ratings(self) -> DeviceCapabilities:
        """Return what the device's ratings say."""
        images = {model: await self.image(model) for model in _RATINGS if self.has(model)}
        return capabilities_of(images)

    async def rating(self, *names: str) -> float:
        """Return the first of some points, such as ``702.WMax``, that holds a number; NaN for none."""
        for name in names:
            model, _, point = name.partition(".")
            if self.has(int(model)) and not math.isnan(value := await self.value(int(model), point)):
                return value
        return math.nan


class Journal:
    """What one procedure wrote; made by `Subject.keeping`."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._kept: list[_Kept] = []
        self._seen: set[int] = set()

    async def keep(self, address: int, count: int, what: str) -> None:
        """Keep what registers hold, before something is written to them."""
        if any(k in self._seen for k in range(address, address + count)):
            return
        words = await self._subject.words(address, count, what)
        self._kept.append(_Kept(what, address, words))
        self._seen |= set(range(address, address + count))

    async def put(self, image: ModelImage, values: Mapping[str, float]) -> None:
        """Write points in their units, one after the other.

        Raises
        ------
        TargetError
            A value cannot be said, or the device refused.
        """
        for name, value in values.items():
            point = image.points[name]
            try:
                words = encode(point, value, scale_of(point, image.registers))
            except ValueError as error:
                raise self._subject.unit.fault(f"{point}: {error}", refused=True) from None
            await self.put_words(image, name, words)

    async def put_raw(self, image: ModelImage, name: str, number: int) -> None:
        """Write a point unscaled."""
        await self.put_words(image, name, words_of(number, image.points[name].size))

    async def put_words(self, image: ModelImage, name: str, words: list[int]) -> None:
        """Write a point's registers."""
        address, what = image.address(name), str(image.points[name])
        await self.keep(address, len(words), what)
        await self._subject.unit.write(address, words, what)

    async def restore(self) -> None:
        """Put everything back, last write first; what does not hold is noted in `Subject.left`."""
        kept, self._kept, self._seen = self._kept[::-1], [], set()
        reasons: dict[int, str] = {}
        for one in kept:
            await self._write_back(one, reasons)
        for one in kept:
            held = await self._held(one)
            if held != one.words:  # another write may have moved it: a second try
                await self._write_back(one, reasons)
                held = await self._held(one)
            if held != one.words:
                said = "nothing readable" if held is None else _hex(held)
                why = reasons.get(one.address, "the write was acknowledged")
                self._subject.left.append(
                    f"{one.what} (register {one.address}): holds {said}, held {_hex(one.words)} before; {why}"
                )

    async def _write_back(self, one: _Kept, reasons: dict[int, str]) -> None:
        try:
            await self._subject.unit.write(one.address, one.words, one.what)
        except TargetError as error:
            reasons[one.address] = str(error)

    async def _held(self, one: _Kept) -> list[int] | None:
        try:
            return await self._subject.words(one.address, len(one.words), one.what)
        except TargetError:
            return None


def _hex(words: list[int]) -> str:
    return "0x" + "".join(f"{word:04X}" for word in words)


def has_points(image: ModelImage, *names: str) -> bool:
    """Tell whether a model implements every one of some points."""
    return all(implemented(image, name) for name in names)
