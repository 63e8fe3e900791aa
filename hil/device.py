"""One device behind Modbus, emulated or physical: what it is, what it measures, what it shall do.

Rule of this file: it only puts together what the files beside it do: the connection (modbus_link), the map
(discovery), values (sunspec_points), polls (readings) and commands (control).

What goes wrong is a `TargetError`, which is a `DeviceError`; only a target that cannot be understood is a
`ScenarioError`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from . import control, readings, sunspec_points
from .control import DeviceCapabilities, SetPointControl, WindowControl
from .discovery import DeviceMap, ModelEntry, ModelImage, discover, read_image
from .modbus_link import ILLEGAL_ADDRESS, ILLEGAL_VALUE, Link, TargetError, Unit
from .readings import METER_MODELS, Reading
from .sunspec_points import Point, Value
from .target import Target, parse_target

METER_OFFSET = 100
"""A meter is looked for at the device's unit id plus this."""

UNIT_MAX = 255


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a written point.

    Attributes
    ----------
    point : str
    register : int
        Its first register.
    asked : int, float or str
        What was to be written.
    sent : int, float, str or None
        The nearest that the registers can say, which was written.
    held : int, float, str or None
        What the device held afterwards.
    """

    point: str
    register: int
    asked: Value
    sent: Value | None
    held: Value | None

    @property
    def differs(self) -> bool:
        """Whether the device holds something else than was written."""
        return self.held != self.sent


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

    Raises
    ------
    ScenarioError
        The target cannot be understood, or the time-out is not positive.

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
    ) -> None:
        self.target = parse_target(target) if isinstance(target, str) else target
        self._link = Link(self.target, timeout_s)
        self._unit = Unit(self._link, self.target.unit)
        self._meter_unit = meter_unit
        self._meter_units = (self.target.unit + METER_OFFSET,) if meter_units is None else tuple(meter_units)
        self._map: DeviceMap | None = None
        self._meter: tuple[Unit, ModelEntry] | None = None
        self._images: dict[int, ModelImage] = {}
        self._spans: tuple[readings.Span, ...] = ()
        self._control: SetPointControl | WindowControl | None = None
        self._capabilities: DeviceCapabilities | None = None
        self._command = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()

    async def discover(self) -> DeviceMap:
        """Find the device's models, its meter and how it is commanded.

        Raises
        ------
        TargetError
            No answer, no SunSpec map, or a chain of models that breaks.
        """
        found = await discover(self._unit)
        no_meter = await self._find_meter(found)
        unreadable = await self._look(found)
        self._map = replace(found, warnings=(*found.warnings, *unreadable, *no_meter))
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
        try:
            return await readings.take(self._spans)
        except TargetError as error:
            if error.refused and error.code in (0, ILLEGAL_ADDRESS):
                self._map = None
            raise

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
            await self._unit.write(image.address(point.name), words, str(point))
            now = await read_image(self._unit, image.entry)
            sent = sunspec_points.decode(point, words, scale)
            return Written(str(point), image.address(point.name), value, sent, now.value(point.name))

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
            return await target.set_power(power_w, math.floor(validity_s))

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
            assert can is not None
            if not can.has_reserve:
                text = "it has no reserve of its own (802.SoCRsvMin, 124.MinRsvPct)"
                raise self._unit.fault(text, refused=True)
            if not 0.0 <= soc_frac <= 1.0:
                raise self._unit.fault(f"soc_frac {soc_frac:g} found; allowed 0 to 1", refused=True)
            model, _, name = can.reserve_point.partition(".")
            return await control.set_reserve(self._unit, self._images[int(model)], name, soc_frac)

    async def release(self) -> None:
        """End every power command, and leave no timer of ours behind.  A reserve stays: it is a setting.

        Raises
        ------
        TargetError
            Refused, not held afterwards, or no answer.
        """
        async with self._command:
            await (await self._commanded()).release()

    async def _known_map(self) -> DeviceMap:
        return self._map if self._map is not None else await self.discover()

    async def _look(self, found: DeviceMap) -> list[str]:
        """Read what polls and commands rest on, and prepare them; returns what could not be read."""
        wanted = dict.fromkeys((*readings.MODELS, *control.MODELS))
        images, unreadable = {}, []
        for entry in filter(None, map(found.own, wanted)):
            try:
                images[entry.id] = await read_image(self._unit, entry)
            except TargetError as error:
                if error.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE):
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
                beside = await discover(unit, (found.base,))
            except TargetError as error:
                if needed is not None or not (error.refused or error.silent):
                    raise
                reasons.append(str(error))
                continue
            for entry in beside.models:
                if entry.id in METER_MODELS:
                    self._meter = unit, entry
                    return []
            reasons.append(f"unit {number} has no meter model")
        if needed is not None:
            raise self._unit.fault(f"unit {needed} has no meter model (201 to 204, 211 to 214)", refused=True)
        return [f"no meter found: {'; '.join(reasons) or 'no unit id to look at'}"]

    async def _commanded(self) -> SetPointControl | WindowControl:
        await self._known_map()
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
        return await read_image(self._unit, entry)

    async def _point(self, name: str, index: int) -> tuple[ModelImage, Point]:
        model, _, inner = name.partition(".")
        if not model.isascii() or not model.isdigit() or not inner:
            raise self._unit.fault(f"point {name!r} found; allowed MODEL.POINT such as 713.SoC", refused=True)
        image = await self._image(int(model), index)
        if inner not in image.points:
            known = ", ".join(image.points) or "none: the model is not one of SunSpec's"
            raise self._unit.fault(f"model {model} has no point {inner!r}; its points: {known}", refused=True)
        return image, image.points[inner]
