"""Static points: every voltage and power, OpenDER's snapshot against the emulator at rest.

Duty: active and reactive power of both, for each function and category.  Left out are the points at which a
constant power factor or watt-var asks for more than the apparent power: OpenDER then moves along the curve,
the emulator keeps the reactive power and gives the active power that is left (docs/conformance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from ridethrough.emulator.grid_settings import GridSettings, default_settings

from tests.conformance.cases import power_factor, volt_var_on, volt_watt_on
from tests.conformance.der_bench import ask, device, lane, play
from tests.conformance.opender_live import SNAPSHOT_S, Kind, feed, make, step_length
from tests.conformance.witness import RATED, Floats

Category = Literal["A", "B"]
Change = Callable[[GridSettings], GridSettings]
VOLTAGES: Final = (0.88, 0.91, 0.93, 0.96, 0.99, 1.00, 1.01, 1.03, 1.05, 1.07, 1.085, 1.10)
POWERS: Final = (0.0, 0.02, 0.05, 0.08, 0.20, 0.35, 0.50, 0.66, 0.90, 0.95, 1.0)
KINDS: Final[tuple[tuple[Kind, Category], ...]] = (("PV", "A"), ("PV", "B"), ("BESS", "B"))


def _watt_var_on(settings: GridSettings) -> GridSettings:
    return replace(settings, watt_var=replace(settings.watt_var, enabled=True))


def _both_on(settings: GridSettings) -> GridSettings:
    return volt_watt_on(volt_var_on(settings))


def _power_factor_on(settings: GridSettings) -> GridSettings:
    # OpenDER's reactive power changes its sign with the active power's.
    absorb = replace(settings.pf.absorb, enabled=True, factor=0.95, excitation="over")
    injects = power_factor(0.95)(settings)
    return replace(injects, pf=replace(injects.pf, absorb=absorb))


@dataclass(frozen=True)
class Function:
    """One function: what both are told, and up to which power the two agree on what limits it."""

    name: str
    opender: Mapping[str, Any]
    settings: Change
    power_frac_most: float = 1.0


FUNCTIONS: Final = (
    Function("volt-var", {"QV_MODE_ENABLE": True}, volt_var_on),
    Function("volt-watt", {"PV_MODE_ENABLE": True}, volt_watt_on),
    Function("volt-var and volt-watt", {"QV_MODE_ENABLE": True, "PV_MODE_ENABLE": True}, _both_on),
    Function("watt-var", {"QP_MODE_ENABLE": True}, _watt_var_on, 0.90),
    Function(
        "constant power factor",
        {"CONST_PF_MODE_ENABLE": True, "CONST_PF": 0.95, "CONST_PF_EXCITATION": "ABS"},
        _power_factor_on,
        0.95,
    ),
)


def _points(function: Function, kind: Kind) -> list[tuple[float, float]]:
    powers = POWERS if kind == "PV" else (*(-p for p in POWERS[:0:-1]), *POWERS)
    return [(v, p) for v in VOLTAGES for p in powers if abs(p) <= function.power_frac_most]


def compare(
    kind: Kind, category: Category, function: Function, wrong: Change = lambda settings: settings
) -> tuple[int, Floats, Floats]:
    """Return the number of points, and the differences of active and reactive power [W, var], shape (m,)."""
    points = _points(function, kind)
    absorb = 0.25 if category == "A" else 0.44
    settings_of_opender = {
        "NP_NORMAL_OP_CAT": f"CAT_{category}",
        "NP_Q_MAX_ABS": absorb * RATED,
        **function.opender,
    }
    with step_length(SNAPSHOT_S):
        der = make(kind, settings_of_opender)
        theirs = []
        for v, p in points:
            feed(der, kind, v, 60.0, p)
            theirs.append(der.run())
    profile = device(
        grid={"normal": category},
        inverter={"var_frac_absorb": absorb, "var_at_no_power": kind == "BESS"},
    )
    settings = wrong(function.settings(default_settings(profile)))
    lanes = [
        lane([(0.0, {"voltage_pu": v, **ask(p)})], profile=profile, settings=settings) for v, p in points
    ]
    played = play(lanes, np.array([300.0]), step_s=1.0)
    power_w, reactive_var = np.array(theirs, dtype=np.float64).T
    return (
        len(points),
        np.abs(played.columns["power_w"][0] - power_w),
        np.abs(played.columns["reactive_var"][0] - reactive_var),
    )
