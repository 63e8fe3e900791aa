"""Registers of the grid-support settings of one device: SunSpec 703, 705 to 712, and 123 and 704 in part.

Duty: keep these registers, say which writes are allowed, and turn writes into `GridSettings` of the plant.
They change with settings alone, so they lie in the image as bytes and cost a read nothing.

A write is taken whole or refused whole (exception 3), and the settings stay as they were.  What is in force
is always in the plant; set 1 of a curve model, the enable points, 703 and the set-points of 704 show it,
whoever has changed it.  (A change behind the registers' back that alters no number of the step, such as a
may-trip curve of a device that does not take it, shows with the next one that does.)  The other registers are
this file's own: stored sets, reversion points, results.

Stored sets (705 to 712) and their adoption:

- Set 1 shows what is in force and is read-only; the others can be written at any time, and do nothing.
- A write to a stored set is refused for a value that no curve could have: another enumeration, more points
  than there are, a number far outside; and for a value outside its adjustable range where that hangs on no
  other point: VRef, VRefAutoTms, RspTms, all of 711.  Points of curves are not looked at: "Internal curve
  conformance checks should be conducted when AdptCrvReq is set to 1, not on point writes" (705.Crv.Pt.V and
  its like).
- AdptCrvReq n puts set n in force at once; AdptCrvRslt is 1 (COMPLETED) with the answer to that write.  A set
  that is no curve, is outside the adjustable ranges, or has points missing is not adopted: AdptCrvRslt is 2
  (FAILED), what was in force stays.  So it is when the set that the reversion would go back to could not be
  adopted.  A number that is no set is refused.  AdptCrvReq 1 changes nothing.
- Before the first request AdptCrvReq is 0 and AdptCrvRslt 1; stored sets begin with the factory's settings.
- Ena and AdptCrvReq in one write: Ena is taken first, and stays taken when the adoption fails.
- The enable points of 707 to 710 are 1 and take nothing else: tripping is mandatory.

Revert timers follow image.py's rules.  Points of a function are its enable, set-point and reversion points,
or Ena, the request, RvrtTms and RvrtCrv; stored sets are not among them.  A timer that runs out takes the
reversion values, or set RvrtCrv, as they were when it was started; RvrtCrv 1 changes nothing.  A reversion
does not happen when the function is off by then, which only the bench can do without stopping the timer; nor
when it is not allowed any more, because another reactive function has been enabled.

704.VarSet and VarSetPct are kept apart, as written; VarSetMod says which is in force, and of what the
percentage is.  VAR_AVAIL_PCT is refused: what is available changes from step to step.  123 is a second view
of constant power factor and reactive power; see image_old.py.

References
----------
SunSpec DER Information Model Specification V1.2.1, quoted second-hand; details of the model definitions.
IEEE 1547-2018, 5.3.1 (one reactive power function at a time).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

from . import image_old
from ._registers import RegisterImage
from .fields import TICKS_PER_S
from .grid_settings import (
    ConstantVar,
    Excitation,
    GridSettings,
    PowerFactor,
    SettingError,
    check,
    default_settings,
    ratings,
)
from .image_curves import CURVES as CURVE_OF
from .image_old import VAR_BASE, VARS
from .layout import Layout
from .plant import Plant
from .profile import DeviceProfile
from .sunspec_grid import CURVE_MODELS, CURVES, FACTORY_CURVE, set_points, settings_points

Values = dict[str, float]
Change = Callable[[GridSettings], GridSettings]
Question = Callable[[GridSettings], bool]

COMPLETED: Final = 1.0
FAILED: Final = 2.0

_ENTER: Final = {
    "ESVHi": "voltage_pu_max",
    "ESVLo": "voltage_pu_min",
    "ESHzHi": "frequency_hz_max",
    "ESHzLo": "frequency_hz_min",
    "ESDlyTms": "delay_s",
    "ESRndTms": "random_s",
    "ESRmpTms": "ramp_s",
}
_SIDES: Final = {"PFWInj": "inject", "PFWAbs": "absorb"}
_EXCITATION: Final[tuple[Excitation, ...]] = ("over", "under")
_FACTORY_704: Final = {"VarSetMod": VARS, "VarSetPri": 1.0, "PFWInjRvrt.PF": 1.0, "PFWAbsRvrt.PF": 1.0}


def _in_force(settings: GridSettings, model: int) -> dict[str, float | None]:
    """Return what the registers of one model show of settings; None where they are blank.

    Those of 123 hang on 704's, see `image_old.shown`.
    """
    if model == 123:
        return {}
    if model == 703:
        return {point: getattr(settings.enter, name) for point, name in _ENTER.items()}
    if model == 704:
        shown: dict[str, float | None] = {"VarSetEna": float(settings.var.enabled)}
        for point, name in _SIDES.items():
            side: PowerFactor = getattr(settings.pf, name)
            shown[f"{point}Ena"] = float(side.enabled)
            shown[f"{point}.PF"] = side.factor
            shown[f"{point}.Ext"] = float(_EXCITATION.index(side.excitation))
        return shown
    group, values = CURVE_MODELS[model].group, CURVE_OF[model].show(settings)
    first = {f"{group}[1].{name}": values.get(name) for name in set_points(model)}
    return {"Ena": float(CURVE_OF[model].enabled(settings)), **first}


def _factory_points(settings: GridSettings, model: int, names: list[str]) -> dict[str, float | None]:
    """Return every point of one model as it is from the factory."""
    points: dict[str, float | None] = dict.fromkeys(names, 0.0)
    if model == 704:
        points |= {**_FACTORY_704, "VarSet": settings.var.var_var}
    shown = _in_force(settings, model)
    points |= shown
    if model in CURVE_MODELS:
        group, back = CURVE_MODELS[model].group, CURVE_MODELS[model].back
        points[CURVE_MODELS[model].result] = COMPLETED
        if back is not None:
            points[back] = float(FACTORY_CURVE)
        for k in range(2, CURVES + 1):
            points |= {f"{group}[{k}].{name}": shown[f"{group}[1].{name}"] for name in set_points(model)}
    return points


class Factory(NamedTuple):
    """What all units of one layout begin with.

    Attributes
    ----------
    initial : bytes
        The whole map.
    settings : GridSettings
    models : tuple of int
        Models that have settings.
    hidden : dict of str to (float or None)
        Points of 704 where 123 is served without it.
    """

    initial: bytes
    settings: GridSettings
    models: tuple[int, ...]
    hidden: dict[str, float | None]


@lru_cache(maxsize=256)
def factory(layout: Layout) -> Factory:
    """Return what the units of a layout are from the factory."""
    settings, image = default_settings(layout.profile), bytearray(layout.initial)
    served = () if layout.meter else layout.models
    names_of = {model: list(settings_points(layout.profile, model)) for model in served}
    models = tuple(model for model, names in names_of.items() if names)
    begins = {model: _factory_points(settings, model, names_of[model]) for model in models}
    hidden: dict[str, float | None] = {}
    if 123 in models:
        new = begins.get(704)
        if new is None:
            new = hidden = _factory_points(settings, 704, list(settings_points(layout.profile, 704)))
        begins[123] |= image_old.shown(settings, ratings(layout.profile), lambda name: new[name] or 0.0, 1.0)
    for model, points in begins.items():
        for name, value in points.items():
            point = layout.point(model, name)
            first = 2 * (point.address - layout.base_address)
            image[first : first + 2 * point.size] = point.encode(float("nan") if value is None else value)
    return Factory(bytes(image), settings, models, hidden)


@dataclass(frozen=True, slots=True)
class _Timer:
    """A revert timer: how long it runs, 0 to stop it; whether its function is on; what it changes."""

    seconds: float
    enabled: Question
    change: Change


@dataclass(slots=True)
class _Draft:
    """A write that is being looked at: settings and registers it would leave, timers it starts."""

    model: int
    settings: GridSettings
    written: Values
    timers: dict[str, _Timer] = field(default_factory=dict)


class GridRegisters:
    """The settings registers of one unit.

    Parameters
    ----------
    image : RegisterImage
        Where the bytes lie; it begins as `factory` has it.
    layout : Layout
    plant : Plant
    device : int
        Position in the plant.
    """

    def __init__(self, image: RegisterImage, layout: Layout, plant: Plant, device: int) -> None:
        self._image = image
        self._layout = layout
        self._plant = plant
        self._device = device
        self._profile: DeviceProfile = layout.profile
        made = factory(layout)
        self._models, self._seen = made.models, made.settings
        self._hidden = dict(made.hidden)
        self._running: dict[str, Question] = {}

    def follow(self, moved: bool) -> None:
        """Show what is left of running timers; and what is in force now, when it has moved."""
        if not self._models:
            self._image.watching = False
            return
        left = {key: self._plant.scheduled_ticks(self._device, key) for key in self._running}
        if moved or 0 in left.values():
            self._show(self._plant.settings(self._device))
        for key, ticks in left.items():
            model, _, function = key.partition(".")
            shown = ticks if self._running[key](self._seen) else 0
            self._put(int(model), f"{function}RvrtRem", float(-(-shown // TICKS_PER_S)))
            if ticks == 0:
                del self._running[key]
        self._image.watching = bool(self._running)

    def write(self, model: int, values: Values) -> bool:
        """Take what was written to one model, by point name; False: refused, and nothing has changed."""
        before = self._plant.settings(self._device)
        draft = _Draft(model, before, dict(values))
        beside: Values = {}
        try:
            if model == 123:
                beside = self._immediate(draft)
            elif model == 703:
                changes: dict[str, Any] = {_ENTER[point]: value for point, value in values.items()}
                draft.settings = replace(before, enter=replace(before.enter, **changes))
            elif model == 704:
                for point in _SIDES:
                    self._power_factor(draft, point)
                self._constant_var(draft)
            else:
                self._curve(draft)
            check(draft.settings, self._profile)
        except SettingError:
            return False
        for name, value in draft.written.items():
            self._put(model, name, value)
        for name, value in beside.items():
            self._put(704, name, value)
        if draft.settings != before:
            self._plant.set_settings(self._device, draft.settings)
            self._show(draft.settings)
        self._show_old()
        for key, timer in draft.timers.items():
            self._start(key, timer)
        self._image.expire()
        return True

    # ---- registers

    def _put(self, model: int, name: str, value: float | None) -> None:
        if model == 704 and self._hidden:
            self._hidden[name] = value
            return
        point = self._layout.point(model, name)
        data = point.encode(float("nan") if value is None else value)
        self._image.poke(2 * (point.address - self._layout.base_address), data)

    def _get(self, draft: _Draft, name: str) -> float | None:
        """Return a point as the write would leave it."""
        if name in draft.written:
            return draft.written[name]
        if draft.model == 704 and self._hidden:
            return self._hidden[name]
        point = self._layout.point(draft.model, name)
        data = self._image.peek(2 * (point.address - self._layout.base_address), 2 * point.size)
        return point.decode(data)

    def _number(self, draft: _Draft, name: str) -> float:
        value = self._get(draft, name)
        if value is None:
            raise SettingError(
                f"{draft.model}.{name}: found no value; allowed is any that the point can hold"
            )
        return value

    def _show(self, settings: GridSettings) -> None:
        """Show settings that are in force."""
        if settings == self._seen:
            return
        self._seen = settings
        models = (*self._models, 704) if self._hidden else self._models
        for model in models:
            for name, value in _in_force(settings, model).items():
                self._put(model, name, value)
        if 704 in models:
            draft = _Draft(704, settings, {})
            mode, var = self._number(draft, "VarSetMod"), settings.var.var_var
            if mode == VARS:
                self._put(704, "VarSet", var)
            else:
                base_var = ratings(self._profile).var_base(VAR_BASE[mode], absorbs=var < 0.0)
                self._put(704, "VarSetPct", var / base_var if base_var else 0.0)
            self._show_old()

    def _show_old(self) -> None:
        """Show in 123 what is in force and what 704 holds."""
        if 123 not in self._models:
            return
        new, old = _Draft(704, self._seen, {}), _Draft(123, self._seen, {})
        before = self._number(old, "OutPFSet")
        rated = ratings(self._profile)
        shown = image_old.shown(self._seen, rated, lambda point: self._number(new, point), before)
        for name, value in shown.items():
            self._put(123, name, value)

    # ---- timers

    def _start(self, key: str, timer: _Timer) -> None:
        """Start a revert timer anew, or stop it."""
        model, _, function = key.partition(".")
        if timer.seconds == 0.0:
            self._plant.unschedule(self._device, key)
            self._running.pop(key, None)
            self._put(int(model), f"{function}RvrtRem", 0.0)
            return

        def revert(now: GridSettings) -> GridSettings:
            if not timer.enabled(now):
                return now
            try:
                later = timer.change(now)
                check(later, self._profile)
            except SettingError:
                return now
            if key == "704.VarSet":  # the set-point that is not in force reverts with the other
                for end in ("", "Pct"):
                    self._put(704, f"VarSet{end}", self._get(_Draft(704, now, {}), f"VarSet{end}Rvrt"))
            return later

        self._plant.schedule(self._device, key, round(timer.seconds * TICKS_PER_S), revert)
        self._running[key] = timer.enabled
        self._image.watching = True

    # ---- 123 and 704

    def _immediate(self, draft: _Draft) -> Values:
        """123.OutPFSet* and VArPct*, as a write to 704; return what it writes there."""
        new = _Draft(704, draft.settings, {})
        mode, var = self._number(new, "VarSetMod"), draft.settings.var.var_var
        new.written = image_old.asked(draft.written, lambda point: self._number(draft, point), mode, var)
        self._power_factor(new, "PFWInj")
        self._constant_var(new)
        draft.settings, draft.timers = new.settings, new.timers
        return new.written

    def _power_factor(self, draft: _Draft, point: str) -> None:
        """704.PFWInj* or PFWAbs*."""
        if not any(name.startswith(point) for name in draft.written):
            return
        written, name = draft.written, _SIDES[point]
        side: PowerFactor = getattr(draft.settings.pf, name)
        side = PowerFactor(
            bool(written.get(f"{point}Ena", side.enabled)),
            written.get(f"{point}.PF", side.factor),
            _EXCITATION[int(written[f"{point}.Ext"])] if f"{point}.Ext" in written else side.excitation,
        )
        back = PowerFactor(
            self._number(draft, f"{point}EnaRvrt") != 0.0,
            self._number(draft, f"{point}Rvrt.PF"),
            _EXCITATION[int(self._number(draft, f"{point}Rvrt.Ext"))],
        )

        def change(now: GridSettings, to: PowerFactor = back) -> GridSettings:
            return replace(now, pf=replace(now.pf, **{name: to}))

        check(change(draft.settings, replace(back, enabled=False)), self._profile)
        draft.settings = change(draft.settings, side)
        seconds = self._number(draft, f"{point}RvrtTms") if side.enabled else 0.0
        draft.timers[f"704.{point}"] = _Timer(
            seconds, lambda now: bool(getattr(now.pf, name).enabled), change
        )

    def _constant_var(self, draft: _Draft) -> None:
        """704.VarSet*."""
        if not any(name.startswith("VarSet") for name in draft.written):
            return
        written, mode = draft.written, self._number(draft, "VarSetMod")
        if mode != VARS and mode not in VAR_BASE:
            raise SettingError(f"704.VarSetMod: found {mode:g}; allowed are 0, 1, 3 and 4")
        end = "" if mode == VARS else "Pct"
        now = draft.settings.var
        enabled = bool(written.get("VarSetEna", now.enabled))
        moved = "VarSetMod" in written or f"VarSet{end}" in written
        var = self._vars(mode, self._number(draft, f"VarSet{end}")) if moved else now.var_var
        back = ConstantVar(
            self._number(draft, "VarSetEnaRvrt") != 0.0,
            self._vars(mode, self._number(draft, f"VarSet{end}Rvrt")),
        )
        check(replace(draft.settings, var=replace(back, enabled=False)), self._profile)
        draft.settings = replace(draft.settings, var=ConstantVar(enabled, var))
        seconds = self._number(draft, "VarSetRvrtTms") if enabled else 0.0
        draft.timers["704.VarSet"] = _Timer(
            seconds, lambda now: now.var.enabled, lambda now: replace(now, var=back)
        )

    def _vars(self, mode: float, value: float) -> float:
        """Return a set-point in the unit of its mode as reactive power [var]."""
        return value if mode == VARS else ratings(self._profile).reactive_var(value, VAR_BASE[mode])

    # ---- 705 to 712

    def _curve(self, draft: _Draft) -> None:
        """Stored sets, enable, adoption and reversion of one curve model."""
        names, curve, written = CURVE_MODELS[draft.model], CURVE_OF[draft.model], draft.written
        for name, value in written.items():
            self._alone(draft, name, value)
        if "Ena" in written:
            draft.settings = curve.enable(draft.settings, written["Ena"] != 0.0)
            check(draft.settings, self._profile)
        if names.request in written:
            try:
                settings = self._adopted(draft, int(written[names.request]))
                timers = self._timer(draft, settings)
            except SettingError:
                written[names.result] = FAILED
            else:
                written[names.result] = COMPLETED
                draft.settings, draft.timers = settings, timers
        elif written.keys() & {"Ena", "RvrtTms", names.back}:
            draft.timers = self._timer(draft, draft.settings)

    def _alone(self, draft: _Draft, name: str, value: float) -> None:
        """Refuse a value of a stored set that no other point can make right."""
        inner = name.partition(".")[2]
        curve = CURVE_OF[draft.model]
        if inner == "DeptRef" or inner in curve.alone:
            changed = curve.take(draft.settings, {**curve.show(draft.settings), inner: value})
            if inner in curve.alone:
                check(changed, self._profile)

    def _set_values(self, draft: _Draft, number: int) -> Values:
        """Return the values of a set as the write would leave it, blank points left out."""
        group = CURVE_MODELS[draft.model].group
        found = {name: self._get(draft, f"{group}[{number}].{name}") for name in set_points(draft.model)}
        return {name: value for name, value in found.items() if value is not None}

    def _adopted(self, draft: _Draft, number: int) -> GridSettings:
        """Return the settings with one set in force."""
        if number == 1:
            return draft.settings
        settings = CURVE_OF[draft.model].take(draft.settings, self._set_values(draft, number))
        check(settings, self._profile)
        return settings

    def _timer(self, draft: _Draft, settings: GridSettings) -> dict[str, _Timer]:
        """Return the timer that a write starts or stops."""
        curve, back = CURVE_OF[draft.model], CURVE_MODELS[draft.model].back
        if back is None:
            return {}
        seconds = self._number(draft, "RvrtTms") if curve.enabled(settings) else 0.0
        number = int(self._number(draft, back))
        values = self._set_values(draft, number)

        def change(now: GridSettings) -> GridSettings:
            return now if number == 1 else curve.take(now, values)

        if seconds:
            check(change(settings), self._profile)
        return {f"{draft.model}.": _Timer(seconds, curve.enabled, change)}
