"""Points of the grid-support settings: SunSpec 703, 705 to 712, and 123 and 704 in part.

Duty: tables of which there are and what may be written to them, as in sunspec.py.  These points change with
settings alone, so they are no quantities of the plant: their registers are bytes that image_grid.py keeps,
and the quantity of a point has its name, as ``"705.Crv[2].Pt[1].V"``.

Rules of this file: a range says what a register may hold at all.  Whether a value, or a curve as a whole, may
be in force is said by `grid_check.check` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from .grid_curves import POINTS, TRIP_MODELS
from .grid_settings import ratings
from .profile import DeviceProfile

U16_MAX: Final = 0xFFFE
U32_MAX: Final = 0xFFFFFFFE
"""Largest values: all ones mean "not implemented"."""

CURVES: Final = 3
"""Sets of each curve model: the active one, which is read-only, and two to write to."""

FACTORY_CURVE: Final = CURVES
"""What a reversion goes back to until a client says otherwise; it begins with the factory's settings."""

TRIP_CURVES: Final = ("MustTrip", "MayTrip", "MomCess")

CURVE_S_MAX: Final = 86_400.0
"""Longest time a stored trip point can say [s]; assumed."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class CurveModel:
    """Names of the points that adopt and revert the stored sets of one model.

    Attributes
    ----------
    group : str
        The repeating group.
    request, result : str
        Which set to adopt, and how that went.
    back : str or None
        Which set a reversion goes back to; None for a model without reversion.
    """

    group: Literal["Crv", "Ctl"]
    request: str
    result: str
    back: str | None


_CURVE: Final = CurveModel("Crv", "AdptCrvReq", "AdptCrvRslt", "RvrtCrv")
_TRIP: Final = CurveModel("Crv", "AdptCrvReq", "AdptCrvRslt", None)
CURVE_MODELS: Final[Mapping[int, CurveModel]] = {
    705: _CURVE,
    706: _CURVE,
    707: _TRIP,
    708: _TRIP,
    709: _TRIP,
    710: _TRIP,
    711: CurveModel("Ctl", "AdptCtlReq", "AdptCtlRslt", "RvrtCtl"),
    712: _CURVE,
}
"""Models with stored sets of settings."""

_PERCENT: Final[Range] = (0.0, 2.0)
_SIGNED: Final[Range] = (-2.0, 2.0)
_FLAG: Final[Range] = (0.0, 1.0)
_HZ: Final[Range] = (0.0, 100.0)
_SECONDS: Final[Range] = (0.0, U32_MAX)
_DEPT_REF: Final[Range] = (0.0, 3.0)
_REACTIVE: Final[Range] = (1.0, 1.0)  # the model gives reactive power its place first


def counts(model: int) -> dict[str, int]:
    """Return how often the groups of a curve model repeat, by the name of the point that says so."""
    if model == 711:
        return {"NCtl": CURVES}
    return {"NPt": POINTS[model], "NCrvSet" if model in TRIP_MODELS else "NCrv": CURVES}


def set_points(model: int) -> dict[str, Range]:
    """Return the points of one stored set of a curve model, and what each may say."""
    if model == 711:
        return {
            **dict.fromkeys(("DbOf", "DbUf"), _HZ),
            **dict.fromkeys(("KOf", "KUf"), _FLAG),
            "RspTms": (0.0, CURVE_S_MAX),
            "PMin": (-1.0, 1.0),
        }
    rows = range(1, POINTS[model] + 1)
    if model in TRIP_MODELS:
        what, span = ("V", _PERCENT) if model in (707, 708) else ("Hz", _HZ)
        found: dict[str, Range] = {}
        for curve in TRIP_CURVES:
            found[f"{curve}.ActPt"] = (0.0, float(POINTS[model]))
            for k in rows:
                found[f"{curve}.Pt[{k}].{what}"] = span
                found[f"{curve}.Pt[{k}].Tms"] = (0.0, CURVE_S_MAX)
        return found
    x, y, head = {
        705: (("V", _PERCENT), ("Var", _SIGNED), _VOLT_VAR),
        706: (("V", _PERCENT), ("W", _SIGNED), {"DeptRef": (0.0, 0.0), "RspTms": (0.0, CURVE_S_MAX)}),
        712: (("W", _SIGNED), ("Var", _SIGNED), {"DeptRef": _DEPT_REF, "Pri": _REACTIVE}),
    }[model]
    points = {f"Pt[{k}].{name}": span for k in rows for name, span in (x, y)}
    return {"ActPt": (0.0, float(POINTS[model])), **head, **points}


_VOLT_VAR: Final[dict[str, Range]] = {
    "DeptRef": _DEPT_REF,
    "Pri": _REACTIVE,
    "VRef": _PERCENT,
    "VRefAutoEna": _FLAG,
    "VRefAutoTms": (0.0, U16_MAX),
    "RspTms": (0.0, CURVE_S_MAX),
}


def _curve_model(model: int) -> dict[str, tuple[Range, bool]]:
    names = CURVE_MODELS[model]
    choice: Range = (1.0, float(CURVES))
    points: dict[str, tuple[Range, bool]] = {
        "Ena": (_FLAG, True),
        names.request: (choice, True),
        names.result: ((0.0, 2.0), False),
    }
    if names.back is not None:
        points |= {"RvrtTms": (_SECONDS, True), "RvrtRem": (_SECONDS, False), names.back: (choice, True)}
    for k in range(1, CURVES + 1):
        for name, span in set_points(model).items():
            points[f"{names.group}[{k}].{name}"] = (span, k > 1)
    return points


def _enter_service(profile: DeviceProfile) -> dict[str, tuple[Range, bool]]:
    # A profile may have what the standard does not allow; its own value must still be shown.
    longest_s = max(1000.0, profile.inverter.enter_delay_s, profile.inverter.enter_ramp_s)
    return {
        **dict.fromkeys(("ESVHi", "ESVLo"), (_PERCENT, True)),
        **dict.fromkeys(("ESHzHi", "ESHzLo"), (_HZ, True)),
        **dict.fromkeys(("ESDlyTms", "ESRndTms", "ESRmpTms"), ((0.0, longest_s), True)),
    }


def _ac_control(profile: DeviceProfile) -> dict[str, tuple[Range, bool]]:
    rated = ratings(profile)
    vars_: Range = (-rated.absorb_var, rated.inject_var)
    points: dict[str, tuple[Range, bool]] = {
        "VarSetEna": (_FLAG, True),
        "VarSetMod": ((0.0, 4.0), True),
        "VarSetPri": (_REACTIVE, True),
        **dict.fromkeys(("VarSet", "VarSetRvrt"), (vars_, True)),
        **dict.fromkeys(("VarSetPct", "VarSetPctRvrt"), (_SIGNED, True)),
        "VarSetEnaRvrt": (_FLAG, True),
        "VarSetRvrtTms": (_SECONDS, True),
        "VarSetRvrtRem": (_SECONDS, False),
    }
    for side in ("PFWInj", "PFWAbs"):
        points |= {
            f"{side}Ena": (_FLAG, True),
            f"{side}EnaRvrt": (_FLAG, True),
            f"{side}RvrtTms": (_SECONDS, True),
            f"{side}RvrtRem": (_SECONDS, False),
        }
        for group in (side, f"{side}Rvrt"):
            points |= {f"{group}.PF": (_FLAG, True), f"{group}.Ext": (_FLAG, True)}
    return points


def _immediate() -> dict[str, tuple[Range, bool]]:
    return {
        "OutPFSet": ((-1.0, 1.0), True),
        "OutPFSet_Ena": (_FLAG, True),
        **dict.fromkeys(("VArWMaxPct", "VArMaxPct"), (_SIGNED, True)),
        "VArPct_Mod": ((0.0, 2.0), True),  # VArAval is refused, as in 704
        "VArPct_Ena": (_FLAG, True),
        **dict.fromkeys(("OutPFSet_RvrtTms", "VArPct_RvrtTms"), ((0.0, U16_MAX), True)),
    }


def settings_points(profile: DeviceProfile, model: int) -> dict[str, tuple[Range, bool]]:
    """Return the points of a model that image_grid.py keeps: what each may say, whether it may be written."""
    if model == 123:
        return _immediate()
    if model == 703:
        return _enter_service(profile)
    if model == 704:
        return _ac_control(profile)
    return _curve_model(model) if model in CURVE_MODELS else {}


def constant_points(model: int) -> dict[str, str]:
    """Return the points of a curve model that never change, and the constants they show."""
    if model not in CURVE_MODELS:
        return {}
    points = {name: f"number_{count}" for name, count in counts(model).items()}
    group = CURVE_MODELS[model].group
    for k in range(1, CURVES + 1):
        points[f"{group}[{k}].ReadOnly"] = "number_1" if k == 1 else "number_0"
    return points
