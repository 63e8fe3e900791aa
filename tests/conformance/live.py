"""More cases, for which OpenDER is run in the test itself.

Duty: the functions and protections that the stored traces leave out, in steps that both can make.  What
OpenDER gets wrong is not here but in test_opender_defects.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ridethrough.emulator.grid_settings import GridSettings

from tests.conformance.cases import (
    VV_B,
    Case,
    by_droop,
    by_own_reference,
    by_volt_watt,
    entering,
    nearly_full,
    same,
    tripping,
)
from tests.conformance.der_bench import TICK_S, ask
from tests.conformance.witness import RATED

BAD_V: Final = 0.85
"""Out of range for entering service, in range for staying."""
_DELAYS: Final = {"ES_DELAY": 6.0, "ES_RAMP_RATE": 10.0}
_CELLS_WH: Final = 13_500.0
_CATEGORY_II: Final[dict[str, Any]] = {
    "NP_ABNORMAL_OP_CAT": "CAT_II",
    "UV1_TRIP_V": 0.70,
    "UV1_TRIP_T": 10.0,
    "UV2_TRIP_V": 0.45,
    "UV2_TRIP_T": 0.16,
    "OV1_TRIP_T": 2.0,
}
_SECTIONS_II: Final = {"grid": {"abnormal": "II"}}


def _watt_var(settings: GridSettings) -> GridSettings:
    return replace(settings, watt_var=replace(settings.watt_var, enabled=True))


def _constant_var(settings: GridSettings) -> GridSettings:
    return replace(settings, var=replace(settings.var, enabled=True, var_var=0.3 * RATED))


def _own_reference(settings: GridSettings) -> GridSettings:
    return replace(settings, volt_var=replace(settings.volt_var, enabled=True, auto=True))


def _volt_watt_to_charge(settings: GridSettings) -> GridSettings:
    curve = replace(settings.volt_watt, enabled=True, points=((1.06, 1.0), (1.10, -0.5)))
    return replace(settings, volt_watt=curve)


FUNCTIONS: Final = (
    Case(
        "volt-var, own reference",
        "the reference follows 1.03 pu with 300 s",
        "BESS",
        ((0.0, 1.0, 60.0, 0.5), (5.0, 1.03, 60.0, 0.5)),
        605.0,
        1.0,
        by_own_reference(300.0, VV_B, 5.0),
        opender={"QV_MODE_ENABLE": True, "QV_VREF_AUTO_MODE": True},
        settings=_own_reference,
    ),
    Case(
        "droop, 59.3 Hz with headroom",
        "limited to 0.6, rises above the limit: droop outranks it",
        "BESS",
        ((0.0, 1.0, 60.0, 1.0), (1.0, 1.0, 59.3, 1.0), (21.0, 1.0, 60.0, 1.0)),
        41.0,
        TICK_S,
        by_droop(0.6 * RATED),
        opender={"AP_LIMIT_ENABLE": True, "AP_LIMIT": 0.6},
        events=((0.0, ask(0.6)), (0.0, {"limit_ena": 1.0, "limit_frac": 0.6})),
    ),
    Case(
        "droop, 61.1 Hz into charging",
        "0.2 discharging becomes charging",
        "BESS",
        ((0.0, 1.0, 60.0, 0.2), (1.0, 1.0, 61.1, 0.2), (21.0, 1.0, 60.0, 0.2)),
        41.0,
        TICK_S,
        by_droop(0.2 * RATED),
    ),
    Case(
        "watt-var",
        "both directions, without a lag of OpenDER's own",
        "BESS",
        tuple((float(k), 1.0, 60.0, p) for k, p in enumerate((0.3, 0.6, 0.85, 0.35, -0.3, -0.6, -0.85, 0.0))),
        8.0,
        TICK_S,
        same,
        opender={"QP_MODE_ENABLE": True, "QP_RT": 0.0},
        settings=_watt_var,
    ),
    Case(
        "constant reactive power",
        "0.3 injected; full active power gives way",
        "BESS",
        tuple((float(k), 1.0, 60.0, p) for k, p in enumerate((0.5, 1.0, 0.0, -1.0, 0.8))),
        5.0,
        TICK_S,
        same,
        opender={"CONST_Q_MODE_ENABLE": True, "CONST_Q": 0.3, "CONST_Q_RT": 0.0},
        settings=_constant_var,
    ),
    Case(
        "volt-watt into charging",
        "P2 is -0.5 at 1.10 pu",
        "BESS",
        ((0.0, 1.0, 60.0, 0.8), (1.0, 1.08, 60.0, 0.8), (21.0, 1.10, 60.0, 0.8), (41.0, 1.0, 60.0, 0.8)),
        61.0,
        TICK_S,
        by_volt_watt(((1.06, 1.0), (1.10, -0.5)), 10.0),
        opender={"PV_MODE_ENABLE": True, "PV_CURVE_P2": -0.5},
        settings=_volt_watt_to_charge,
    ),
    Case(
        "charging tapers",
        "from 0.9 of full, in a line to 0.05 of the rating",
        "BESS",
        ((0.0, 1.0, 60.0, -0.5),),
        2600.0,
        1.0,
        nearly_full(2288.0, 0.05 * 500.0),
        opender={
            "NP_BESS_CAPACITY": _CELLS_WH,
            "SOC_INIT": 0.85,
            "NP_EFFICIENCY": 0.95,
            "P_DISCHARGE_MAX_PU": "1,1",
            "SOC_P_DISCHARGE_MAX": "0,1",
            "P_CHARGE_MAX_PU": "1,1,0.05",
            "SOC_P_CHARGE_MAX": "0,0.9,1",
        },
        sections={
            "battery": {"energy_wh": _CELLS_WH, "taper_soc_frac": 0.9, "taper_frac_min": 0.05},
            "inverter": {"loss_b_w": 0.05 * RATED},
        },
        soc_frac=0.85,
    ),
)


def _pulse(name: str, v: float, seconds: float, **rest: Any) -> Case:
    """Return a case of one voltage pulse at 1 s; seen for as long again, and a second more."""
    segments = ((0.0, 1.0, 60.0, 0.8), (1.0, v, 60.0, 0.8), (1.0 + seconds, 1.0, 60.0, 0.8))
    return Case(name, f"{v} pu for {seconds} s", "BESS", segments, 2.0 + seconds + 1.0, TICK_S, same, **rest)


def _frequency(name: str, f: float, seconds: float, step_s: float, **rest: Any) -> Case:
    """Return a case of one frequency step at 1 s that lasts until it trips."""
    segments = ((0.0, 1.0, 60.0, 0.5), (1.0, 1.0, f, 0.5))
    return Case(name, f"{f} Hz", "BESS", segments, seconds + 3.0, step_s, by_droop(0.5 * RATED), **rest)


PROTECTION: Final = (
    _pulse("momentary cessation, low", 0.30, 0.60),
    _pulse("momentary cessation, high", 1.15, 2.00),
    _pulse("mandatory operation", 0.75, 5.00),
    _pulse("mandatory operation, current limit", 0.60, 5.00),
    _pulse("permissive operation II", 0.50, 0.30, opender=_CATEGORY_II, sections=_SECTIONS_II),
    _pulse("trip UV1 III", 0.80, 23.0),
    _pulse("trip UV1 II", 0.68, 12.0, opender=_CATEGORY_II, sections=_SECTIONS_II),
    _pulse("trip UV2 III", 0.40, 3.00),
    _pulse("trip UV2 II", 0.40, 1.00, opender=_CATEGORY_II, sections=_SECTIONS_II),
    _pulse("trip OV1 III", 1.15, 14.0),
    _pulse("trip OV2 III", 1.25, 1.00),
    _frequency(
        "trip OF1",
        61.5,
        180.0,
        0.1,
        opender={"OF1_TRIP_T": 180.0},
        settings=tripping("over_frequency", 1, 180.0),
    ),
    _frequency("trip OF2", 62.5, 0.16, TICK_S),
    _frequency(
        "trip UF1",
        58.2,
        180.0,
        0.1,
        opender={"UF1_TRIP_T": 180.0},
        settings=tripping("under_frequency", 1, 180.0),
    ),
    _frequency("trip UF2", 56.0, 0.16, TICK_S),
)

_COLD = ((0.0, {"permit": 0.0}), (TICK_S, {"permit": 1.0}))
SERVICE: Final = (
    Case(
        "enter service, interrupted",
        "good for 4 of 6 s, out of range for 1 s, good",
        "BESS",
        ((0.0, BAD_V, 60.0, 0.8), (0.5, 1.0, 60.0, 0.8), (4.5, BAD_V, 60.0, 0.8), (5.5, 1.0, 60.0, 0.8)),
        25.0,
        TICK_S,
        same,
        opender={"STATUS_INIT": False, **_DELAYS},
        settings=entering(6.0, 10.0),
        events=_COLD,
        moving_w_per_s=RATED / 10.0,
    ),
    Case(
        "permit service, withdrawn",
        "from 2 s to 4 s",
        "BESS",
        ((0.0, 1.0, 60.0, 0.8),),
        22.0,
        TICK_S,
        same,
        opender=_DELAYS,
        commands=((2.0, "ES_PERMIT_SERVICE", False), (4.0, "ES_PERMIT_SERVICE", True)),
        settings=entering(6.0, 10.0),
        events=((2.0, {"permit": 0.0}), (4.0, {"permit": 1.0})),
        moving_w_per_s=RATED / 10.0,
    ),
)

LIVE: Final = (*FUNCTIONS, *PROTECTION, *SERVICE)
