"""One device behind Modbus, emulated or physical: what it is, what it measures, what it shall do.

Rules of this file:

- It only puts together what the files beside it do: the connection (modbus_link), the map (discovery), values
  (sunspec_points), polls (readings) and commands (control).
- A map that no longer fits is discovered again by the next use, as long as the same device answers; another
  one is taken only by `discover`.  A map that breaks while it is read again leaves the last one in use: every
  poll checks the headers of what it reads.  Models that have vanished are looked for at every poll.

What goes wrong is a `TargetError`, which is a `DeviceError`; only a target that cannot be understood is a
`ScenarioError`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from . import control, leftovers, readings, sunspec_points, writing
from .control import DeviceCapabilities, SetPointControl, WindowControl
from .discovery import BASES, EMPTY, END, DeviceMap, ModelEntry, ModelImage, changes, discover, read_image
from .doubts import Doubts
from .identity import Identity
from .modbus_link import ILLEGAL_ADDRESS, ILLEGAL_VALUE, Link, TargetError, Unit
from .modbus_transport import TlsFiles
from .readings import INVERTER_MODELS, METER_MODELS, Reading
from .sunspec_points import Point, Value
from .target import Target, parse_target
from .writing import Written

METER_OFFSET = 100
"""A meter is looked for at the device's unit id plus this."""

UNIT_MAX = 255

Result = TypeVar("Result")


class Device:
    """One device; use it as ``async with Device("tcp:192.0.2.7:502/1") as device``.

    It connects when it is first used.  After a lost answer it connects again by itself; after the map has
    changed, the next poll discovers it again.

    Parameters
    ----------
    target : str or Target
        Where it answers; see `parse_target`.
    timeout_s : float
        A connect and an answer may take this long each [s].
    meter_unit : int, optional
        Unit id of the home's meter behind the same connection.  It must answer.
    meter_units : sequence of int, optional
        Unit ids at which the meter may answer, in the order to try; the default is the device's plus 100.
    tls : TlsFiles, optional
        Certificate, key and CA, for a ``tls:`` target.
    reread : bool
        A read that finds an idle connection dead is asked once more on a new one.
    bases : tuple of int
        Where to look for the map, in this order; one alone for a device that punishes a wrong guess.

    Raises
    ------
    ScenarioError
        The target cannot be understood, the time-out is not positive, or the TLS files cannot be used.

    Notes
    -----
    One task may poll while another commands.  A silent unit id costs one time-out at discovery.
    """

    def __init__(
        self,
        target: str | Target,
        timeout_s: float = 5.0,
        *,
        meter_unit: int | None = None,
        meter_units: Sequence[int] | None = None,
        tls: TlsFiles | None = None,
        reread: bool = True,
        bases: tuple[int, ...] = BASES,
    ) -> None:
        self.target = parse_target(target) if isinstance(target, str) else target
        self._link = Link(self.target, timeout_s, tls=tls, reread=reread)
        self._unit = Unit(self._link, self.target.unit)
        self._bases, self._doubts = bases, Doubts(self._unit)
        self._meter_unit = meter_unit
        self._meter_units = (self.target.unit + METER_OFFSET,) if meter_units is None else tuple(meter_units)
        self._map: DeviceMap | None = None
        self._stale = False  # the map must be read again before it is used
        self._seen: dict[int, ModelEntry] = {}  # models that the device had, by id
        self._commanded_once = False
        self._meter: tuple[Unit, ModelEntry] | None = None
        self._meter_identity: Identity | None = None  # of a meter with a unit id of its own
        self._images: dict[int, ModelImage] = {}
        self._spans: tuple[readings.Span, ...] = ()
        self._control: SetPointControl | WindowControl | None = None
        self._capabilities: DeviceCapabilities | None = None
        self._command = asyncio.Lock()
        self._reserve_frac = math.nan  # as we have set it

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()

    @property
    def met(self) -> list[str]:
        """What was odd so far and yet no failure, each phenomenon once, in plain words."""
        return self._link.met

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return self._link.requests

    async def discover(self) -> DeviceMap:
        """Find the device's models, its meter and how it is commanded; whichever device answers is taken.

        Raises
        ------
        TargetError
            No answer, no SunSpec map, or a chain of models that breaks.
        """
        found = await discover(self._unit, self._bases)
        self._meter_identity = None
        if self._map is not None and not found.identity.is_same(self._map.identity):
            self._map, self._meter, self._control = None, None, None
            self._seen, self._commanded_once = {}, False
            self._doubts, self._reserve_frac = Doubts(self._unit), math.nan
        return await self._take_in(found)

    async def _take_in(self, found: DeviceMap) -> DeviceMap:
        """Make a map that was just read the one in use."""
        self._stale = True  # until all of it is done
        no_meter = await self._find_meter(found)
        unreadable = await self._look(found)
        left = readings.untold(self._spans) + control.contradictions(self._images)
        left += changes(found, self._seen)
        left += [] if self._commanded_once else leftovers.leftovers(self._images)
        self._map = replace(found, warnings=(*found.warnings, *unreadable, *no_meter, *left))
        self._seen |= {entry.id: entry for entry in found.models if entry.part == 0}
        self._stale = False
        for text in (*found.warnings, *unreadable, *left):
            self._unit.note(text, text)
        return self._map

    async def capabilities(self) -> DeviceCapabilities:
        """Return what the device can do, read anew.

        Raises
        ------
        TargetError
            It could not be read.
        """
        await self._look(await self._known_map())
        assert self._capabilities is not None
        return self._capabilities

    async def telemetry(self) -> Reading:
        """Poll the device and its meter once.

        Raises
        ------
        TargetError
            No answer, a wrong one, or the map has changed; then the next call discovers it again.
        """
        await self._known_map()
        await self._look_for_models()
        self._refuse_vanished(INVERTER_MODELS, self._measures_power)
        reading = await self._watched(readings.take(self._spans))
        assert self._capabilities is not None
        self._doubts.look(reading, self._capabilities)
        return reading

    async def read_model(self, model: int, index: int = 0) -> dict[str, Value | None]:
        """Return the values of every point of a model by name, None where the device has none.

        Parameters
        ----------
        model : int
            Its id.
        index : int
            Which, where the map has several of them.

        Raises
        ------
        TargetError
            The device has no such model, or it could not be read.
        """
        image = await self._image(model, index)
        return {name: image.value(name) for name in image.points}

    async def read_point(self, name: str, index: int = 0) -> Value | None:
        """Return the value of a point such as ``713.SoC``, None where the device has none.

        Raises
        ------
        TargetError
            The device has no such point, or it could not be read.
        """
        image, point = await self._point(name, index)
        return image.value(point.name)

    async def write_point(self, name: str, value: Value, index: int = 0) -> Written:
        """Write one point such as ``704.WSet`` and return what the device holds then.

        Parameters
        ----------
        name : str
        value : int, float or str
            In the point's units; for an enumeration also the name of a value.
        index : int
            Which model, where the map has several of them.

        Raises
        ------
        TargetError
            There is no such point, it cannot be written, the value does not fit, or the device refused.
        """
        async with self._command:
            image, point = await self._point(name, index)
            place = f"{point} (register {image.address(point.name)})"
            if not point.writable:
                raise self._unit.fault(f"{place}: can only be read, by its definition", refused=True)
            scale = sunspec_points.scale_of(point, image.registers)
            try:
                words = sunspec_points.encode(point, value, scale)
            except ValueError as error:
                raise self._unit.fault(f"{place}: {error}", refused=True) from None
            before = image.value(point.name)
            await writing.write(self._unit, image.address(point.name), words, str(point))
            self._commanded_once = True
            now = await self._watched(read_image(self._unit, image.entry))
            held = now.value(point.name)
            sent = sunspec_points.decode(point, words, scale)
            finding = writing.finding(sent, before, held)
            if finding:
                self._unit.note(f"write {point}", f"{place}: {finding}")
            return Written(str(point), image.address(point.name), value, sent, held, finding)

    async def set_power(self, power_w: float, validity_s: float) -> float:
        """Command a power for a time; the device's own timer ends it.

        Parameters
        ----------
        power_w : float
            At the AC terminals, positive out of the device [W].
        validity_s : float
            At least 1; counted in whole seconds, rounded down [s].

        Returns
        -------
        float
            The power that was written: the nearest towards zero that the registers can say [W].

        Raises
        ------
        TargetError
            Beyond a rating, no end possible, refused, not held afterwards, or no answer.
        """
        async with self._command:
            target = await self._commanded()
            can = self._capabilities
            assert can is not None
            low, high = -can.power_w_charge_max, can.power_w_discharge_max
            if not math.isfinite(power_w) or power_w < low * (1 + 1e-9) or power_w > high * (1 + 1e-9):
                raise self._unit.fault(
                    f"power_w {power_w:g} found; allowed {low:g} to {high:g} W, the ratings", refused=True
                )
            if not 1.0 <= validity_s < 2**32 - 1:
                raise self._unit.fault(f"validity_s {validity_s:g} found; allowed from 1 s", refused=True)
            if not can.has_revert_timer:
                raise self._unit.fault("it has no revert timer: the command would have no end", refused=True)
            self._commanded_once = True
            self._doubts.released()
            held_w = await self._watched(target.set_power(power_w, math.floor(validity_s)))
            self._doubts.commanded(held_w, math.floor(validity_s))
            control.see_reserve(target, self._reserve_frac)
            return held_w

    async def set_reserve(self, soc_frac: float) -> float:
        """Write the device's own reserve.

        Parameters
        ----------
        soc_frac : float
            0 to 1 [1].

        Returns
        -------
        float
            The reserve that was written: the next one up that the register can say [1].

        Raises
        ------
        TargetError
            The device has no reserve, the value is out of range, refused, not held afterwards, or no answer.
        """
        async with self._command:
            await self._known_map()
            can = self._capabilities
            if can is None or not can.has_reserve:
                can = await self.capabilities()
            self._refuse_vanished((802, 124), can.has_reserve)
            if not can.has_reserve:
                raise self._unit.fault(
                    "it has no reserve of its own (802.SoCRsvMin, 124.MinRsvPct)", refused=True
                )
            if not 0.0 <= soc_frac <= 1.0:
                raise self._unit.fault(f"soc_frac {soc_frac:g} found; allowed 0 to 1", refused=True)
            model, _, name = can.reserve_point.partition(".")
            image = self._images[int(model)]
            self._reserve_frac = await self._watched(control.set_reserve(self._unit, image, name, soc_frac))
            return self._reserve_frac

    async def release(self) -> None:
        """End every power command, and leave no timer of ours behind.  A reserve stays: it is a setting.

        Raises
        ------
        TargetError
            Refused, not held afterwards, or no answer.
        """
        async with self._command:
            target = await self._commanded()
            self._doubts.released()
            await self._watched(target.release())
            control.see_reserve(target, self._reserve_frac)

    async def _known_map(self) -> DeviceMap:
        if self._map is None:
            return await self.discover()
        if self._stale:
            try:
                await self._take_in(await discover(self._unit, self._bases, known=self._map.identity))
            except TargetError as error:
                if not error.changed:
                    raise
                self._unit.note("kept", f"the map cannot be read again, the last one stays in use: {error}")
        return self._map

    @property
    def _measures_power(self) -> bool:
        return any(field.name == "power" for span in self._spans for field in span.fields)

    @property
    def _vanished(self) -> list[ModelEntry]:
        """Models that the device had and has no longer, unless another one took their place."""
        assert self._map is not None
        places = {entry.address for entry in self._map.models}
        ids = {entry.id for entry in self._map.models if entry.part == 0}
        return [e for e in self._seen.values() if e.id not in ids and e.address not in places]

    async def _look_for_models(self) -> None:
        """See whether models that have vanished, or that never were there, have come; then discover again."""
        assert self._map is not None
        vanished = self._vanished
        if not vanished and self._measures_power:
            return
        last = self._map.models[-1]
        address = vanished[0].address if vanished else last.address + last.count
        try:
            header = await self._unit.read(address, 2, "whether models have come back")
        except TargetError as error:
            if not error.silent and error.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE):
                raise
            return
        if header[0] not in (0, END) and (header[0], header[1]) not in EMPTY:
            self._stale = True
            await self._known_map()

    def _refuse_vanished(self, models: Sequence[int], there: bool) -> None:
        """Say which model has vanished, where it is needed and none like it is there.

        Raises
        ------
        TargetError
            One has.
        """
        lost = next((entry for entry in self._vanished if entry.id in models), None)
        if lost is not None and not there:
            raise self._unit.fault(
                f"model {lost.id} is gone (register {lost.address}): the device does not serve it at the "
                "moment; it is looked for at every poll",
                refused=True,
            )

    async def _look(self, found: DeviceMap) -> list[str]:
        """Read what polls and commands rest on, and prepare them; returns what could not be read."""
        wanted = dict.fromkeys((*readings.MODELS, *control.MODELS, *leftovers.MODELS))
        images, unreadable = {}, []
        for entry in filter(None, map(found.own, wanted)):
            if not entry.known:
                continue
            try:
                images[entry.id] = await read_image(self._unit, entry)
            except TargetError as error:
                served = error.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE)
                if served and not (error.silent and await self._answers(entry)):
                    raise
                unreadable.append(f"model {entry.id} cannot be read: {error}")
        meter = None if self._meter is None else (self._meter[0], await read_image(*self._meter))
        self._spans = readings.plan(self._unit, images, meter)
        self._images = images
        self._capabilities = control.capabilities_of(images)
        before, self._control = self._control, None
        if self._capabilities.family == "704":
            self._control = SetPointControl(self._unit, images)
        elif self._capabilities.family == "124":
            self._control = WindowControl(self._unit, images)
            self._control.opened = isinstance(before, WindowControl) and before.opened
        return unreadable

    async def _answers(self, entry: ModelEntry) -> bool:
        """Whether a device that is silent to a model's registers answers to its header."""
        try:
            return await self._unit.read(entry.address, 2, "a model's id and length") == [
                entry.id,
                entry.length,
            ]
        except TargetError:
            return False

    async def _find_meter(self, found: DeviceMap) -> list[str]:
        """Look for the home's meter in the device's own map and beside it; returns why there is none."""
        # A meter that was there before is not given up because one answer was lost.
        needed = self._meter_unit if self._meter is None else self._meter[0].number
        inside = next((entry for entry in found.models if entry.id in METER_MODELS), None)
        if inside is not None and needed in (None, self._unit.number):
            self._meter = self._unit, inside
            return []
        reasons = []
        for number in self._meter_units if needed is None else (needed,):
            if not 0 <= number <= UNIT_MAX or number == self._unit.number:
                continue
            unit = Unit(self._link, number)
            try:
                beside = await discover(unit, (found.base,), known=self._meter_identity)
            except TargetError as error:
                if needed is not None or not (error.refused or error.silent):
                    raise
                reasons.append(str(error))
                continue
            for entry in beside.models:
                if entry.id in METER_MODELS:
                    self._meter, self._meter_identity = (unit, entry), beside.identity
                    return []
            if beside.identity.serial and beside.identity.is_same(found.identity):
                reasons.append(f"unit {number} answers as the same device, {found.identity}")
            else:
                reasons.append(f"unit {number} has no meter model")
        if needed is not None:
            raise self._unit.fault(f"unit {needed} has no meter model (201 to 204, 211 to 214)", refused=True)
        return [f"no meter found: {'; '.join(reasons) or 'no unit id to look at'}"]

    async def _commanded(self) -> SetPointControl | WindowControl:
        await self._known_map()
        self._refuse_vanished((704, 124), self._control is not None)
        if self._control is None:  # it may have been blank when it was last looked at
            await self.capabilities()
        if self._control is None:
            text = "it implements neither 704.WSet nor 124: it cannot be commanded"
            raise self._unit.fault(text, refused=True)
        return self._control

    async def _image(self, model: int, index: int) -> ModelImage:
        found = await self._known_map()
        entry = found.find(model, index)
        if entry is None:
            present = ", ".join(dict.fromkeys(str(entry.id) for entry in found.models))
            raise self._unit.fault(f"no model {model} with index {index}; it has {present}", refused=True)
        return await self._watched(read_image(self._unit, entry))

    async def _watched(self, work: Awaitable[Result]) -> Result:
        """Do something with the map, and let it be read again by the next use if it proves wrong."""
        try:
            return await work
        except TargetError as error:
            self._stale = self._stale or error.changed
            raise

    async def _point(self, name: str, index: int) -> tuple[ModelImage, Point]:
        model, _, inner = name.partition(".")
        if not model.isascii() or not model.isdigit() or not inner:
            raise self._unit.fault(f"point {name!r} found; allowed MODEL.POINT such as 713.SoC", refused=True)
        image = await self._image(int(model), index)
        if inner not in image.points:
            known = ", ".join(image.points) or "none: the model is not one of SunSpec's"
            raise self._unit.fault(f"model {model} has no point {inner!r}; its points: {known}", refused=True)
        return image, image.points[inner]
