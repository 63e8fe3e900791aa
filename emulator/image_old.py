"""Model 123's view of power factor and reactive power, which model 704 has as well.

Duty: say what a write to 123 asks of 704, and what 123 shows of 704.  image_grid.py does the rest: there is
one setting and one revert timer, whichever model a client uses.  A device without 704 has its points all the
same, out of sight; its reversion values then stay what they are from the factory: off, 1 and 0.

Rules of this file: no bytes, no plant; values are quantities by point name, percent are fractions.

- OutPFSet is the power factor while power is injected, 704.PFWInj.  It has the EEI sign: negative gives
  reactive power (over-excited), positive takes it (under-excited).  -1 and 1 say the same, and each reads
  back as it was written; 704.PFWInj.Ext is then over-excited, as from the factory.
- VArWMaxPct and VArMaxPct are kept apart, as written; VArPct_Mod says which is in force, and that one shows
  the reactive power set-point whoever changes it.
- VArPct_Mod reads 0 (NONE) while 704 holds the set-point in var or in percent of apparent power, as it does
  from the factory.  NONE keeps the set-point in force as it is.
- A timeout of 704 that is too long for 16 bits reads "not implemented" here.
- There is no reversion value: the function goes off, and its set-point goes where 704's reversion points say.

References
----------
SunSpec models 120 and 121 name the EEI sign convention for power factors; 123 names none, and is taken to
follow them.  Devices show -0.85 for quadrant 1 and 0.85 for quadrant 4 with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from .grid_settings import GridSettings, Ratings, VarBase

SAME: Final[Mapping[str, str]] = {
    "OutPFSet_Ena": "PFWInjEna",
    "OutPFSet_RvrtTms": "PFWInjRvrtTms",
    "VArPct_Ena": "VarSetEna",
    "VArPct_RvrtTms": "VarSetRvrtTms",
}
"""Points that 704 has under another name."""

VARS: Final = 4.0
"""704.VarSetMod: the set-point is in var."""

VAR_BASE: Final[Mapping[float, VarBase]] = {0.0: "w_max", 1.0: "var_max", 3.0: "va_max"}
"""Other values of it: the set-point is in percent of this."""

_OVER, _UNDER = 0.0, 1.0  # 704.PFWInj.Ext

_PERCENT: Final[Mapping[float, tuple[str, float]]] = {1.0: ("VArWMaxPct", 0.0), 2.0: ("VArMaxPct", 1.0)}
"""By VArPct_Mod: the point in force, and 704.VarSetMod."""

_MOD: Final[Mapping[float, float]] = {new: old for old, (_, new) in _PERCENT.items()}


def asked(
    written: Mapping[str, float], value: Callable[[str], float], mode: float, var_var: float
) -> dict[str, float]:
    """Return what a write to 123 asks of 704, by point name.

    Parameters
    ----------
    written : mapping of str to float
    value : callable
        A point of 123 as the write would leave it.
    mode : float
        704.VarSetMod before the write.
    var_var : float
        Reactive power set-point in force before the write [var].
    """
    found = {new: written[old] for old, new in SAME.items() if old in written}
    if "OutPFSet" in written:
        factor = written["OutPFSet"]
        found |= {"PFWInj.PF": abs(factor), "PFWInj.Ext": _UNDER if 0.0 < factor < 1.0 else _OVER}
    if not written.keys() & {"VArPct_Mod", "VArWMaxPct", "VArMaxPct"}:
        return found
    modelled = value("VArPct_Mod")
    if modelled in _PERCENT:
        point, new_mode = _PERCENT[modelled]
        if "VArPct_Mod" in written or point in written:
            found |= {"VarSetMod": new_mode, "VarSetPct": value(point)}
    elif mode in _MOD:
        found |= {"VarSetMod": VARS, "VarSet": var_var}
    return found


def shown(
    settings: GridSettings, rated: Ratings, new: Callable[[str], float], before: float
) -> dict[str, float]:
    """Return what 123 shows, by point name; of the percent points the one in force only.

    Parameters
    ----------
    settings : GridSettings
        In force.
    rated : Ratings
    new : callable
        A point of 704.
    before : float
        What OutPFSet has shown until now.
    """
    side, var, mode = settings.pf.inject, settings.var, new("VarSetMod")
    found = {old: new(name) for old, name in SAME.items()}
    if side.factor == 1.0:
        found["OutPFSet"] = -1.0 if before == -1.0 else 1.0
    else:
        found["OutPFSet"] = -side.factor if side.excitation == "over" else side.factor
    found["VArPct_Mod"] = _MOD.get(mode, 0.0)
    if mode in _MOD:
        point, _ = _PERCENT[_MOD[mode]]
        base_var = rated.var_base(VAR_BASE[mode], absorbs=var.var_var < 0.0)
        found[point] = var.var_var / base_var if base_var else 0.0
    return found
