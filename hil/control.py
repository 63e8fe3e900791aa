"""Commands in SunSpec registers: a set-point that ends by itself, a reserve, and letting go.

Rules of this file:

- The reversion is written before the set-point, values before the mode that brings them into force.  If the
  link dies between two writes, nothing is in force without an end.
- Power is rounded towards zero, a validity down to whole seconds, a reserve up: never less safe than asked.
- Everything written is read back; what the device holds instead is an error, but for a power that it rounds a
  little towards zero.  An acknowledged write proves nothing (devices acknowledge and discard), and neither
  does a stored one: whether power follows is for the record to show.
- A reserve that the device holds already is not written again: such registers wear out.
- What exceeds a rating is refused before anything is written.

References
----------
SunSpec models 704 and 124.  704.WSetEnaRvrt is the value of WSetEna after the timer has run out.  124 limits
charging and discharging; a negative limit of one direction forces power in the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from .discovery import ModelImage, read_image
from .modbus_link import TargetError, Unit
from .sunspec_points import number_of, range_of, scaled, words_of
from .writing import DISCARDED, write

MODELS: Final = (704, 124, 702, 120, 121, 713, 802)
"""Models that tell what a device can do."""

_WATTS, _PERCENT = 1, 0  # 704.WSetMod
_CHARGE_LIMIT, _DISCHARGE_LIMIT = 0b01, 0b10  # 124.StorCtl_Mod
_FROM_GRID: Final = 1  # 124.ChaGriSet
_FUZZ: Final = 1e-9
"""Rounding of binary fractions must not cost a whole register step."""

_ROUNDED_FRAC: Final = 0.02
_ROUNDED_W: Final = 10.0
_ROUNDED_PCT: Final = 0.5
"""A power may be rounded towards zero by the device by this much: of itself, in watts or percent."""

Family = Literal["704", "124"]


@dataclass(frozen=True, slots=True)
class DeviceCapabilities:
    """What a device can do, as far as its registers tell; NaN where they do not.

    Attributes
    ----------
    family : "704", "124" or None
        Model that power commands are written to.
    has_revert_timer : bool
        A command can be given an end.
    has_reserve : bool
        The device holds a reserve of its own.
    reserve_point : str
        Where it is written; empty for none.
    power_w_discharge_max, power_w_charge_max : float
        Ratings at the AC terminals, both positive [W].
    energy_wh : float
        Rated energy times state of health, where that is told [Wh].
    soh_frac : float
        State of health [1].
    soc_frac_min, soc_frac_max : float
        Window of the state of charge [1].
    soc_frac_step : float
        Resolution of the reported state of charge [1].
    """

    family: Family | None
    has_revert_timer: bool
    has_reserve: bool
    reserve_point: str
    power_w_discharge_max: float
    power_w_charge_max: float
    energy_wh: float
    soh_frac: float
    soc_frac_min: float
    soc_frac_max: float
    soc_frac_step: float


Images = Mapping[int, ModelImage]

_RATINGS: Final = {
    "discharge": (
        (702, "WDisChaRteMax"),
        (702, "WDisChaRteMaxRtg"),
        (120, "MaxDisChaRte"),
        (702, "WMax"),
        (702, "WMaxRtg"),
        (121, "WMax"),
        (120, "WRtg"),
    ),
    "charge": ((702, "WChaRteMax"), (702, "WChaRteMaxRtg"), (124, "WChaMax"), (120, "MaxChaRte")),
    "percent_base": ((702, "WMax"), (702, "WMaxRtg"), (121, "WMax"), (120, "WRtg")),
    "energy": ((713, "WHRtg"), (802, "WHRtg"), (120, "WHRtg")),
    "soh": ((713, "SoH"), (802, "SoH")),
    "soc_min": ((802, "SoCMin"),),
    "soc_max": ((802, "SoCMax"),),
}
"""Where a rating is read, best first."""

_APART: Final = 8.0
"""Ratings of one device do not differ by more than this factor; scale factors do by ten."""

_RESERVES: Final = ((802, "SoCRsvMin"), (124, "MinRsvPct"))
_SOC: Final = ((713, "SoC"), (124, "ChaState"), (802, "SoC"))


def _first(images: Images, rating: str) -> float:
    """Return the first place of a rating that holds a number."""
    for model, name in _RATINGS[rating]:
        if model in images and not math.isnan(value := images[model].number(name)):
            return value
    return math.nan


def contradictions(images: Images) -> list[str]:
    """Return ratings that no device has together: the power of its inverter, and of charging its battery."""
    charge_w = images[124].number("WChaMax") if 124 in images else math.nan
    found = []
    for model, name in ((702, "WMax"), (121, "WMax"), (120, "WRtg")):
        rated_w = images[model].number(name) if model in images else math.nan
        if charge_w > 0.0 and rated_w > 0.0 and max(charge_w, rated_w) > _APART * min(charge_w, rated_w):
            found.append(
                f"{model}.{name} (register {images[model].address(name)}) is {rated_w:g} W and 124.WChaMax "
                f"(register {images[124].address('WChaMax')}) {charge_w:g} W: the scale factor of one of the "
                "two is probably wrong"
            )
    return found


def _serves(images: Images, model: int, *names: str) -> bool:
    return model in images and all(images[model].value(name) is not None for name in names)


def family_of(images: Images) -> Family | None:
    """Return the control family to use: 704 where it is implemented, else 124."""
    if _serves(images, 704, "WSetEna", "WSetMod") and (
        _serves(images, 704, "WSet") or _serves(images, 704, "WSetPct")
    ):
        return "704"
    if _serves(images, 124, "StorCtl_Mod", "WChaMax", "OutWRte", "InWRte"):
        return "124"
    return None


def capabilities_of(images: Images) -> DeviceCapabilities:
    """Return what the registers tell of a device."""
    family = family_of(images)
    timer = {"704": "WSetRvrtTms", "124": "InOutWRte_RvrtTms"}
    reserve = next((f"{model}.{name}" for model, name in _RESERVES if _serves(images, model, name)), "")
    soh_frac = _first(images, "soh") / 100.0
    step = next((images[m].scale(name) for m, name in _SOC if _serves(images, m, name)), None)
    return DeviceCapabilities(
        family=family,
        has_revert_timer=family is not None and _serves(images, int(family), timer[family]),
        has_reserve=bool(reserve),
        reserve_point=reserve,
        power_w_discharge_max=_first(images, "discharge"),
        power_w_charge_max=_first(images, "charge"),
        energy_wh=_first(images, "energy") * (1.0 if math.isnan(soh_frac) else soh_frac),
        soh_frac=soh_frac,
        soc_frac_min=_first(images, "soc_min") / 100.0,
        soc_frac_max=_first(images, "soc_max") / 100.0,
        soc_frac_step=math.nan if step is None else scaled(1, step - 2),
    )


def towards_zero(number: float) -> int:
    """Return the whole number next to `number` on the side of zero, but `number` itself if it is one."""
    nearest = round(number)
    return nearest if abs(number - nearest) <= _FUZZ * max(1.0, abs(number)) else math.trunc(number)


def upwards(number: float) -> int:
    """Return the whole number next above `number`, but `number` itself if it is one."""
    nearest = round(number)
    return nearest if abs(number - nearest) <= _FUZZ * max(1.0, abs(number)) else math.ceil(number)


class _Model:
    """One model that commands are written to."""

    def __init__(self, unit: Unit, image: ModelImage) -> None:
        self.unit = unit
        self.image = image
        self.seen = image
        """As it was last read."""

    async def write(self, first: str, *words: int, apart: bool = False) -> None:
        """Write registers from point `first` on; `apart`: one by one will do, in this order."""
        what = f"{self.image.entry.id}.{first}"
        await write(self.unit, self.image.address(first), list(words), what, apart=apart)

    def registers(self, name: str, number: int) -> list[int]:
        """Return the registers that hold `number` at a point.

        Raises
        ------
        TargetError
            It does not fit.
        """
        point = self.image.points[name]
        low, high = range_of(point.type, point.size)
        if not low <= number <= high:
            raise self.refuse(name, f"{number} found; the register takes {low} to {high}")
        return words_of(number, point.size)

    def power_of_ten(self, name: str) -> int:
        """Return a point's scale factor.

        Raises
        ------
        TargetError
            It is not implemented: no value can be written.
        """
        scale = self.image.scale(name)
        if scale is None:
            raise self.refuse(name, "its scale factor is not implemented")
        return scale

    async def verify(
        self,
        numbers: Mapping[str, int],
        bases: tuple[str, ...] = (),
        *,
        step: Mapping[str, int] | None = None,
    ) -> dict[str, int]:
        """Read back what was written, and what its meaning rests on.

        Parameters
        ----------
        numbers : mapping of str to int
            What each point was given, unscaled.
        bases : tuple of str
            Points that must hold what they held at discovery.
        step : mapping of str to int, optional
            Points that the device may round towards zero, by how much at least.

        Returns
        -------
        dict
            What each point holds, unscaled.

        Raises
        ------
        TargetError
            The device holds something else.
        """
        now, before = await read_image(self.unit, self.image.entry), self.seen
        self.seen = now
        held = {}
        for name, number in numbers.items():
            point = now.points[name]
            words = now.registers[point.offset : point.offset + point.size]
            held[name] = number
            if list(words) != words_of(number, point.size):
                whole = [word for word in words if word is not None]
                signed = point.type.startswith("int")
                found = number_of(whole, signed=signed) if len(whole) == point.size else None
                same = words == before.registers[point.offset : point.offset + point.size]
                held[name] = self._rounded(name, number, found, (step or {}).get(name), same)
        for name in (*numbers, *bases):
            if now.scale(name) != self.image.scale(name):
                raise self.refuse(name, "its scale factor has changed since discovery; discover again")
        for name in bases:
            if now.value(name) != self.image.value(name):
                raise self.refuse(name, "its value has changed since discovery; discover again")
        return held

    def _rounded(self, name: str, number: int, found: int | None, step: int | None, same: bool) -> int:
        """Return what a point holds instead of what was written, if that is the same but for rounding."""
        if found is None:
            raise self.refuse(name, f"wrote {number}, the device holds nothing readable")
        lost = abs(number) - abs(found)
        if step is not None and found * number >= 0 and 0 < lost <= max(step, _ROUNDED_FRAC * abs(number)):
            text = f"rounded by the device: wrote {number}, it holds {found} (unscaled)"
            self.unit.note(f"rounded {name}", f"{self._place(name)}: {text}")
            return found
        why = DISCARDED if same else "rounded or clipped by the device, or commanded by another client"
        raise self.refuse(name, f"wrote {number}, the device holds {found} (unscaled): {why}")

    def refuse(self, name: str, text: str) -> TargetError:
        """Return an error at one point."""
        return self.unit.fault(f"{self._place(name)}: {text}", refused=True)

    def _place(self, name: str) -> str:
        return f"{self.image.entry.id}.{name} (register {self.image.address(name)})"


class SetPointControl:
    """Power by 704.WSet, in watts, or by WSetPct where watts are not implemented."""

    def __init__(self, unit: Unit, images: Images) -> None:
        self.model = _Model(unit, images[704])
        self._percent_base_w = _first(images, "percent_base")
        self._in_watts = _serves(images, 704, "WSet")
        self._ends_off = _serves(images, 704, "WSetEnaRvrt")

    async def set_power(self, power_w: float, validity_s: int) -> float:
        """Write a set-point that ends; returns the power that was written [W]."""
        model = self.model
        name = "WSet" if self._in_watts else "WSetPct"
        scale = model.power_of_ten(name)
        base_w = 1.0 if self._in_watts else self._percent_base_w / 100.0
        if math.isnan(base_w):
            raise model.refuse(name, "the device does not tell what its percent are of (702.WMax)")
        number = towards_zero(scaled(power_w / base_w, -scale))
        value = model.registers(name, number)
        timer = model.registers("WSetRvrtTms", validity_s)
        wanted = {"WSetRvrtTms": validity_s, name: number, "WSetEna": 1}
        if self._ends_off:
            await model.write("WSetEnaRvrt", 0, *timer)
            wanted["WSetEnaRvrt"] = 0
        else:
            await model.write("WSetRvrtTms", *timer)
        if self._in_watts:
            await model.write("WSetEna", 1, _WATTS, *value)
        else:
            await model.write(name, *value)
            await model.write("WSetEna", 1, _PERCENT)
        wanted["WSetMod"] = _WATTS if self._in_watts else _PERCENT
        step = round(scaled(_ROUNDED_W if self._in_watts else _ROUNDED_PCT, -scale))
        held = await model.verify(wanted, step={name: step})
        return scaled(held[name], scale) * base_w

    async def release(self) -> None:
        """End any set-point, then its timer."""
        model = self.model
        await model.write("WSetEna", 0)
        wanted = {"WSetEna": 0}
        if _serves({704: model.image}, 704, "WSetRvrtTms"):
            await model.write("WSetRvrtTms", 0, 0)
            wanted["WSetRvrtTms"] = 0
        await model.verify(wanted)


class WindowControl:
    """Power by the storage window of model 124.

    Notes
    -----
    A forced discharge is a minimum, not a set-point: a device whose own mode discharges more goes on doing
    so.  The same holds for charging.
    """

    def __init__(self, unit: Unit, images: Images) -> None:
        self.model = _Model(unit, images[124])
        self._base_w = images[124].number("WChaMax")
        self.opened = False
        """We have allowed charging from the grid, which was forbidden."""

    async def set_power(self, power_w: float, validity_s: int) -> float:
        """Write a window that forces a power and ends; returns the power that was written [W]."""
        model = self.model
        scale = model.power_of_ten("OutWRte")
        if not self._base_w > 0.0:
            raise model.refuse("WChaMax", f"{self._base_w:g} W found; percent of it cannot be commanded")
        if abs(power_w) > self._base_w * (1.0 + _FUZZ):
            raise model.refuse(
                "WChaMax", f"{power_w:g} W asked; allowed are {-self._base_w:g} to {self._base_w:g} W"
            )
        full = towards_zero(scaled(100, -scale))
        number = abs(towards_zero(scaled(100.0 * power_w / self._base_w, -scale)))
        if number == 0:
            mode, outward, inward = _CHARGE_LIMIT | _DISCHARGE_LIMIT, 0, 0
        elif power_w > 0.0:
            mode, outward, inward = _CHARGE_LIMIT, full, -number
        else:
            mode, outward, inward = _DISCHARGE_LIMIT, -number, full
        rates = [*model.registers("OutWRte", outward), *model.registers("InWRte", inward)]
        await model.write("InOutWRte_RvrtTms", *model.registers("InOutWRte_RvrtTms", validity_s))
        if mode == _DISCHARGE_LIMIT and model.image.value("ChaGriSet") not in (_FROM_GRID, None):
            await model.write("ChaGriSet", _FROM_GRID)
            self.opened = True
        await model.write("OutWRte", *rates, apart=True)
        await model.write("StorCtl_Mod", mode)
        held = await self._verify(outward, inward, mode, validity_s)
        if number:
            number = abs(held["InWRte" if power_w > 0.0 else "OutWRte"])
        return math.copysign(scaled(number, scale) / 100.0 * self._base_w, power_w)

    async def release(self) -> None:
        """Open the window, then end its timer."""
        model = self.model
        full = towards_zero(scaled(100, -model.power_of_ten("OutWRte")))
        rates = [*model.registers("OutWRte", full), *model.registers("InWRte", full)]
        await model.write("OutWRte", *rates, apart=True)
        await model.write("StorCtl_Mod", 0)
        if self.opened:
            await model.write("ChaGriSet", 1 - _FROM_GRID)
            self.opened = False
        timer_s = None
        if model.image.value("InOutWRte_RvrtTms") is not None:
            await model.write("InOutWRte_RvrtTms", 0)
            timer_s = 0
        await self._verify(full, full, 0, timer_s)

    async def _verify(self, outward: int, inward: int, mode: int, timer_s: int | None) -> dict[str, int]:
        wanted = {"OutWRte": outward, "InWRte": inward, "StorCtl_Mod": mode}
        if timer_s is not None:
            wanted["InOutWRte_RvrtTms"] = timer_s
        step = round(scaled(_ROUNDED_PCT, -self.model.power_of_ten("OutWRte")))
        return await self.model.verify(wanted, bases=("WChaMax",), step={"OutWRte": step, "InWRte": step})


async def set_reserve(unit: Unit, image: ModelImage, name: str, soc_frac: float) -> float:
    """Write the device's own reserve, rounded up to the register's step, and read it back.

    Nothing is written when the device holds it already.

    Returns
    -------
    float
        The reserve that the device holds [1].

    Raises
    ------
    TargetError
        It cannot be written, or the device holds something else.
    """
    model = _Model(unit, await read_image(unit, image.entry))
    scale = model.power_of_ten(name)
    number = upwards(scaled(soc_frac, 2 - scale))
    point = model.image.points[name]
    held = model.image.registers[point.offset : point.offset + point.size]
    if list(held) == model.registers(name, number):
        return scaled(number, scale - 2)
    await model.write(name, *model.registers(name, number))
    await model.verify({name: number})
    return scaled(number, scale - 2)


def see_reserve(target: SetPointControl | WindowControl, soc_frac: float) -> None:
    """Note that a power command has put a reserve back that stands in the model it was written to.

    Parameters
    ----------
    target : SetPointControl or WindowControl
        What has just commanded.
    soc_frac : float
        The reserve that was set; NaN for none [1].
    """
    image = target.model.seen
    held_frac = image.number("MinRsvPct") / 100.0
    if math.isnan(held_frac) or math.isnan(soc_frac) or abs(held_frac - soc_frac) < 1e-6:
        return
    target.model.unit.note(
        "reserve",
        f"124.MinRsvPct (register {image.address('MinRsvPct')}): a reserve of {soc_frac:.1%} was set and is "
        f"{held_frac:.1%} after a power command: the device puts it back with the storage mode, or another "
        "client has changed it; set it after the command",
    )
