"""Values of one stored set of a curve model, and the settings they stand for.

Duty: for each of SunSpec 705 to 712, what the read-only set 1 shows (`show`), what adopting a set makes of
the settings (`take`), and the enable point.  Values are quantities by point name inside the set: percent are
fractions.  Shapes of trip and watt-var curves are grid_curves' business, ranges are `grid_check.check`'s.

What a device does not have is refused with `SettingError`: other bases of a curve than the ratings
(DeptRef VAR_AVAL_PCT), fewer active points than a curve has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from .grid_curves import (
    POINTS,
    TRIP_MODELS,
    cease_limit,
    cease_points,
    trip_levels,
    trip_points,
    watt_var_points,
    watt_var_sides,
)
from .grid_settings import GridSettings, Point, SettingError, Trip, VarBase

Values = Mapping[str, float]
"""By point name; a point that is blank is not there."""

_DEPT_REF: Final[dict[VarBase, float]] = {"w_max": 0.0, "var_max": 1.0, "va_max": 3.0}
_BASE_OF: Final = {number: base for base, number in _DEPT_REF.items()}
_REACTIVE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve model.

    Attributes
    ----------
    show : callable
        Values of the set that stands for settings.
    take : callable
        Settings with the set's values in force; SettingError when they are no curve.
    enabled, enable : callable
        The enable point of settings, read and changed; SettingError when it cannot be.
    alone : frozenset of str
        Points whose range hangs on no other point of the set.
    """

    show: Callable[[GridSettings], dict[str, float]]
    take: Callable[[GridSettings, Values], GridSettings]
    enabled: Callable[[GridSettings], bool]
    enable: Callable[[GridSettings, bool], GridSettings]
    alone: frozenset[str] = frozenset()


def _needed(values: Values, name: str) -> float:
    """Return a value that a set cannot do without."""
    if name not in values:
        raise SettingError(f"{name}: found no value; allowed is a curve that is written whole")
    return values[name]


def _points(values: Values, x: str, y: str, prefix: str = "") -> tuple[Point, ...]:
    """Return the active points of a curve."""
    count = int(_needed(values, f"{prefix}ActPt"))
    return tuple(
        (_needed(values, f"{prefix}Pt[{k}].{x}"), _needed(values, f"{prefix}Pt[{k}].{y}"))
        for k in range(1, count + 1)
    )


def _whole(points: tuple[Point, ...], model: int) -> tuple[Point, ...]:
    if len(points) != POINTS[model]:
        raise SettingError(f"model {model}, ActPt: found {len(points)}; allowed is {POINTS[model]}")
    return points


def _shown(points: tuple[Point, ...], x: str, y: str, prefix: str = "") -> dict[str, float]:
    """Return the values of a curve; points that are not active are left out."""
    values = {f"{prefix}ActPt": float(len(points))}
    for k, (place, asked) in enumerate(points, 1):
        values[f"{prefix}Pt[{k}].{x}"], values[f"{prefix}Pt[{k}].{y}"] = place, asked
    return values


def _base(values: Values) -> VarBase:
    number = _needed(values, "DeptRef")
    if number not in _BASE_OF:
        raise SettingError(f"DeptRef: found {number:g}; allowed are 0, 1 and 3")
    return _BASE_OF[number]


# ---- 705 ---------------------------------------------------------------------------------------------------


def _show_volt_var(settings: GridSettings) -> dict[str, float]:
    curve = settings.volt_var
    return {
        **_shown(curve.points, "V", "Var"),
        "DeptRef": _DEPT_REF[curve.var_base],
        "Pri": _REACTIVE,
        "VRef": curve.ref_pu,
        "VRefAutoEna": float(curve.auto),
        "VRefAutoTms": curve.auto_s,
        "RspTms": curve.response_s,
    }


def _take_volt_var(settings: GridSettings, values: Values) -> GridSettings:
    curve = replace(
        settings.volt_var,
        points=_whole(_points(values, "V", "Var"), 705),
        var_base=_base(values),
        ref_pu=_needed(values, "VRef"),
        auto=_needed(values, "VRefAutoEna") != 0.0,
        auto_s=_needed(values, "VRefAutoTms"),
        response_s=_needed(values, "RspTms"),
    )
    return replace(settings, volt_var=curve)


# ---- 706 ---------------------------------------------------------------------------------------------------


def _show_volt_watt(settings: GridSettings) -> dict[str, float]:
    curve = settings.volt_watt
    return {**_shown(curve.points, "V", "W"), "DeptRef": 0.0, "RspTms": curve.response_s}


def _take_volt_watt(settings: GridSettings, values: Values) -> GridSettings:
    curve = replace(
        settings.volt_watt,
        points=_whole(_points(values, "V", "W"), 706),
        response_s=_needed(values, "RspTms"),
    )
    return replace(settings, volt_watt=curve)


# ---- 712 ---------------------------------------------------------------------------------------------------


def _show_watt_var(settings: GridSettings) -> dict[str, float]:
    curve = settings.watt_var
    points = watt_var_points(curve)
    return {**_shown(points, "W", "Var"), "DeptRef": _DEPT_REF[curve.var_base], "Pri": _REACTIVE}


def _take_watt_var(settings: GridSettings, values: Values) -> GridSettings:
    generate, absorb = watt_var_sides(_points(values, "W", "Var"))
    curve = replace(settings.watt_var, generate=generate, absorb=absorb, var_base=_base(values))
    return replace(settings, watt_var=curve)


# ---- 711 ---------------------------------------------------------------------------------------------------

_DROOP: Final = {
    "DbOf": "dead_hz_over",
    "DbUf": "dead_hz_under",
    "KOf": "droop_frac_over",
    "KUf": "droop_frac_under",
    "RspTms": "response_s",
    "PMin": "power_frac_min",
}


def _show_droop(settings: GridSettings) -> dict[str, float]:
    return {point: getattr(settings.droop, name) for point, name in _DROOP.items()}


def _take_droop(settings: GridSettings, values: Values) -> GridSettings:
    changes: dict[str, Any] = {name: _needed(values, point) for point, name in _DROOP.items()}
    return replace(settings, droop=replace(settings.droop, **changes))


# ---- 707 to 710 --------------------------------------------------------------------------------------------


def _always(settings: GridSettings) -> bool:
    return True


def _keep_enabled(settings: GridSettings, enabled: bool) -> GridSettings:
    if not enabled:
        raise SettingError(
            "trip, Ena: found 0; allowed is 1 (IEEE 1547-2018, 6.4.1, 6.5.1: tripping is mandatory)"
        )
    return settings


def _trip(model: int) -> Curve:
    side = TRIP_MODELS[model]
    x = "V" if side.endswith("voltage") else "Hz"

    def show(settings: GridSettings) -> dict[str, float]:
        trip: Trip = getattr(settings, side)
        return {
            **_shown(trip_points(trip.must, side), x, "Tms", "MustTrip."),
            **_shown(trip_points(trip.may, side), x, "Tms", "MayTrip."),
            **_shown(cease_points(trip, side), x, "Tms", "MomCess."),
        }

    def take(settings: GridSettings, values: Values) -> GridSettings:
        must = trip_levels(_points(values, x, "Tms", "MustTrip."), side)
        may = trip_levels(_points(values, x, "Tms", "MayTrip."), side, "MayTrip")
        cease = cease_limit(_points(values, x, "Tms", "MomCess."), must, side)
        changes: dict[str, Any] = {side: Trip(must, may, cease)}
        return replace(settings, **changes)

    return Curve(show, take, _always, _keep_enabled)


def _function(
    name: str,
    show: Callable[[GridSettings], dict[str, float]],
    take: Callable[[GridSettings, Values], GridSettings],
    *alone: str,
) -> Curve:
    """Return a curve whose part of the settings has an `enabled` of its own."""

    def enabled(settings: GridSettings) -> bool:
        return bool(getattr(settings, name).enabled)

    def enable(settings: GridSettings, on: bool) -> GridSettings:
        return replace(settings, **{name: replace(getattr(settings, name), enabled=on)})

    return Curve(show, take, enabled, enable, frozenset(alone))


CURVES: Final[dict[int, Curve]] = {
    705: _function("volt_var", _show_volt_var, _take_volt_var, "VRef", "VRefAutoTms", "RspTms"),
    706: _function("volt_watt", _show_volt_watt, _take_volt_watt, "RspTms"),
    **{model: _trip(model) for model in TRIP_MODELS},
    711: _function("droop", _show_droop, _take_droop, *_DROOP),
    712: _function("watt_var", _show_watt_var, _take_watt_var),
}
"""By model."""
