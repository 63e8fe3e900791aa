"""How cells lose capacity: with time, and with use.

Rules of this file: pure functions of arrays, nothing kept; only plain arithmetic and `exact`, so the bits do
not depend on the machine.  The Plant calls `advance` once per simulated hour.  Once per day, with means, is
too seldom: with a daily cycle from 0.9 to 0.2 SoC it understates the calendar loss of LFP by a fifth.

The equations are those of NREL's BLAST-Lite 1.1.0: two losses that add up,

    q_cal = k_cal · days^p_cal        q_cyc = k_cyc · EFC^p_cyc

with k from temperature, SoC, depth and rate (EFC: equivalent full cycles).  While conditions change the loss
is the state: dq = k·p·(k/q)^((1−p)/p) dx.  In z = q^(1/p) that is dz = k^(1/p) dx, which has no singular
start and is exact over any step of held conditions.  So this file adds to z and never integrates numerically.

Depth and rate stand in for counted cycles (rainflow).  The Plant keeps the least and greatest SoC since
midnight and takes the wider of this range and the day before's.  For the rate ``2·throughput_frac·3600/dt_s``
serves while power is steady within the interval; exact is Σ power²·dt / Σ |power|·dt over the nominal energy.
Depths below 0.8 were not tested: the LFP model goes on there in a straight line, which takes at most 22 % off
its k_cyc; the NMC model does not know depth at all.

Not modelled: growth of the internal resistance (neither BLAST model has it), lithium plating outside the
tested range, spread between cells, and the sudden fall of capacity at the end of life.
"""

from __future__ import annotations

import math
from typing import Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InvariantError
from .exact import exp, log, tanh

Floats = NDArray[np.float64]
Value = TypeVar("Value", float, Floats)

KIND: Final = ("none", "lfp", "nmc")
"""Ageing models; the number in `kind_codes` is the position."""
NONE: Final = KIND.index("none")
LFP: Final = KIND.index("lfp")
NMC: Final = KIND.index("nmc")

SOH_FRAC_MIN: Final = 0.5
"""State of health is not reported below this: no data, and the Plant needs a battery to divide by [1]."""

TEMP_C_MIN: Final = 10.0
TEMP_C_MAX: Final = 45.0
"""Tested range of the LFP model [°C]; warmer and colder cells age as these do."""
NMC_CYCLE_TEMP_C_MAX: Final = 25.0
"""Warmest cycling test of the NMC model [°C]."""
C_RATE_MAX: Final = 1.0
"""Fastest tested discharge of the LFP model; charging was tested to 0.65 C only."""

_KELVIN: Final = 273.15
_S_PER_DAY: Final = 86_400.0
_FEW: Final = 24
"""Up to as many devices of a kind, one number after the other is faster than NumPy."""

_ANY: Final = -math.inf
_INPUTS: Final = (
    # name, least allowed, clamped from, to
    ("q_cal", 0.0, 0.0, math.inf),
    ("q_cyc", 0.0, 0.0, math.inf),
    ("throughput_frac", 0.0, 0.0, math.inf),
    ("soc_frac", _ANY, 0.0, 1.0),
    ("temp_c", _ANY, TEMP_C_MIN, TEMP_C_MAX),
    ("dod_frac", _ANY, 0.0, 1.0),
    ("c_rate", _ANY, 0.0, C_RATE_MAX),
    ("efc", 0.0, 0.0, math.inf),
    ("soh_frac_initial", 0.0, 0.0, math.inf),
    ("kind code", 0.0, 0.0, math.inf),
)
_ALLOWED, _FROM, _TO = (np.array([[row[i]] for row in _INPUTS]) for i in (1, 2, 3))
_LOSSES, _STRESS = slice(0, 2), slice(0, 7)
_THROUGHPUT, _EFC, _INITIAL, _KIND = 2, 7, 8, 9
"""Rows of `_INPUTS`."""


def advance(
    kind_codes: ArrayLike,
    q_cal: Floats,
    q_cyc: Floats,
    efc: Floats,
    *,
    dt_s: float,
    soc_frac: ArrayLike,
    temp_c: ArrayLike,
    throughput_frac: ArrayLike,
    dod_frac: ArrayLike,
    c_rate: ArrayLike,
    soh_frac_initial: ArrayLike = 1.0,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return losses, cycles and state of health after an interval.

    Parameters
    ----------
    kind_codes : array_like of int, shape (n,) or scalar
        Position in `KIND` of each device's model.
    q_cal, q_cyc : ndarray, shape (n,)
        Capacity lost so far with time and with use, of nominal [1]; zero in a new battery.
    efc : ndarray, shape (n,)
        Equivalent full cycles so far [1].
    dt_s : float
        Length of the interval [s], above 0.
    soc_frac : array_like, shape (n,) or scalar
        Mean state of charge in the interval [1].
    temp_c : array_like, shape (n,) or scalar
        Mean cell temperature in the interval [°C]; clamped to 10 … 45.
    throughput_frac : array_like, shape (n,) or scalar
        Energy moved in the interval, charged plus discharged, over twice the *nominal* capacity [1]: the
        equivalent full cycles of the interval.
    dod_frac : array_like, shape (n,) or scalar
        Depth of the cycles, greatest less least SoC of the last day [1].
    c_rate : array_like, shape (n,) or scalar
        Mean rate while energy moves, charge and discharge alike [C of nominal]; clamped to 1.
    soh_frac_initial : array_like, shape (n,) or scalar, optional
        What the losses are taken from [1].  A used battery starts better with its loss in `q_cal`, and 1
        here: then it goes on at the slower pace of its age.

    Returns
    -------
    q_cal, q_cyc, efc, soh_frac : ndarray of float64, shape (n,)
        New arrays; the state of health is not below `SOH_FRAC_MIN`, the losses go on.

    Raises
    ------
    InvariantError
        If a code is unknown, an input is not finite, a counter or the throughput is negative, or `dt_s` is
        not above 0.
    """
    stress = soc_frac, temp_c, dod_frac, c_rate
    rows = _checked_rows(dt_s, q_cal, q_cyc, throughput_frac, *stress, efc, soh_frac_initial, kind_codes)
    # Rounding must neither give capacity back nor wear a battery at rest.
    grown = np.maximum(_grown_rows(dt_s, rows), rows[_LOSSES])
    grown[1] = np.where(rows[_THROUGHPUT] > 0.0, grown[1], rows[1])
    soh_frac = np.maximum(rows[_INITIAL] - (grown[0] + grown[1]), SOH_FRAC_MIN)
    return grown[0], grown[1], rows[_EFC] + rows[_THROUGHPUT], soh_frac


def _checked_rows(dt_s: float, q_cal: Floats, *others: ArrayLike) -> Floats:
    """Return all inputs as rows in the order of `_INPUTS`, checked and clamped."""
    if not (math.isfinite(dt_s) and dt_s > 0.0):
        raise InvariantError(f"ageing: dt_s must be finite and above 0, found {dt_s}")
    rows = np.empty((len(_INPUTS), len(q_cal)))
    for row, values in enumerate((q_cal, *others)):
        rows[row] = values
    good = np.isfinite(rows) & (rows >= _ALLOWED)
    good[_KIND] &= (rows[_KIND] == NONE) | (rows[_KIND] == LFP) | (rows[_KIND] == NMC)
    if not good.all():
        row, d = (int(i) for i in np.argwhere(~good)[0])
        name, least, _, _ = _INPUTS[row]
        allowed = "any finite number" if least == _ANY else "finite numbers from 0 on"
        if row == _KIND:
            allowed = ", ".join(f"{code} ({kind})" for code, kind in enumerate(KIND))
        raise InvariantError(f"ageing: device {d} has {name} {rows[row, d]:g}; allowed: {allowed}")
    clamped: Floats = np.minimum(np.maximum(rows, _FROM), _TO)
    return clamped


def _grown_rows(dt_s: float, rows: Floats) -> Floats:
    """Return q_cal and q_cyc at the end of the interval, shape (2, n), each kind by its model."""
    grown = rows[_LOSSES].copy()
    for code in (LFP, NMC):
        members = np.flatnonzero(rows[_KIND] == code)
        if members.size > _FEW:
            grown[:, members] = _losses(code, dt_s, *rows[_STRESS, members])
        else:
            for d in members.tolist():
                grown[:, d] = _losses(code, dt_s, *rows[_STRESS, d].tolist())
    return grown


def _losses(
    code: int,
    dt_s: float,
    q_cal: Value,
    q_cyc: Value,
    throughput_frac: Value,
    soc_frac: Value,
    temp_c: Value,
    dod_frac: Value,
    c_rate: Value,
) -> tuple[Value, Value]:
    """Return q_cal and q_cyc at the end of the interval, for devices of one kind."""
    if code == LFP:
        log_k_cal, log_k_cyc = _lfp(soc_frac, temp_c, dod_frac, c_rate)
        p_cal, p_cyc = _LFP_P_CAL, _LFP_P_CYC
    else:
        log_k_cal, log_k_cyc = _nmc(soc_frac, temp_c, c_rate)
        p_cal, p_cyc = _NMC_P_CAL, _NMC_P_CYC
    days = dt_s / _S_PER_DAY
    return _grown(q_cal, log_k_cal, p_cal, days), _grown(q_cyc, log_k_cyc, p_cyc, throughput_frac)


def _grown(q: Value, log_k: Value, p: float, dx: float | Value) -> Value:
    """Return (q^(1/p) + k^(1/p)·dx)^p: the loss after dx more on the curve k·x^p through q.

    `exact.power` would be dearer; what exp(p·log z) loses in digits, about 1e-14, is nothing here.
    """
    z = exp(log(q) / p) + exp(log_k / p) * dx
    return exp(p * log(z))


_LFP_P_CAL: Final = 0.526
_LFP_P_CYC: Final = 0.828
_LFP_LOG_K: Final = log(8.37e4)


def _lfp(soc_frac: Value, temp_c: Value, dod_frac: Value, c_rate: Value) -> tuple[Value, Value]:
    """Return the logarithms of k_cal [1/day^p] and k_cyc [1/EFC^p] of LFP and graphite.

    A prismatic cell of 250 Ah: model `lfp_gr_250AhPrismatic_2019` of BLAST-Lite 1.1.0, data in
    doi:10.1016/j.est.2023.109042.  Use wears it *less* when warm: the fit balances the calendar ageing of
    the same cells, so it says nothing outside of the tested 10 to 45 °C.  The published k_cyc also adds
    exp(-1.55e5/T) to exp(2190/T); that is below 1e-200 in this range and changes no bit.
    """
    kelvin = temp_c + _KELVIN
    log_k_cal = _LFP_LOG_K - (5210.0 + 3560.0 * _anode_v(soc_frac)) / kelvin
    log_k_cyc = log(4.38e-8 + 1.55e-8 * dod_frac + 1.68e-7 * c_rate) + 2190.0 / kelvin
    return log_k_cal, log_k_cyc


_NMC_P_CAL: Final = 0.651697743905278
_NMC_P_CYC: Final = 0.441996792536332
_NMC_LOG_UNIT: Final = log(1e4)
"""The model counts in 10,000 days and 10,000 cycles."""
_NMC_LOG_K_CYC: Final = log(0.181235015387132)


def _nmc(soc_frac: Value, temp_c: Value, c_rate: Value) -> tuple[Value, Value]:
    """Return the logarithms of k_cal [1/day^p] and k_cyc [1/EFC^p] of NMC 811 and graphite-silicon.

    A cylindrical cell of 5 Ah (LG M50): model `nmc811_grSi_LGM50_5Ah_2021` of BLAST-Lite 1.1.0, data in
    ieeexplore.ieee.org/document/9617644.  A fit of symbols to tests: the calendar loss does not rise with SoC
    everywhere (least near 0.1, greatest near 0.7 to 0.9).  Cycles were tested at full depth and 0 to 25 °C.
    """
    # Ratios to 35 °C and 0.123 V.  Roots are exp(log/n), which also serves at zero.
    temp = (temp_c + _KELVIN) / 308.15
    temp_cubed = temp * temp * temp
    log_anode = log(_anode_v(soc_frac) / 0.123)
    k_cal = (
        -2.39156628786525
        + 2.44205317834185 * exp(temp_cubed * exp(log_anode / -3.0))
        - 4.45998246136905 * temp_cubed * exp(-0.5 * log_anode)
        + 0.448140062203916 * exp(exp(0.5 * log(soc_frac)) / (temp * temp))
        - 0.185337797906876 * exp(soc_frac * soc_frac * soc_frac)
    )
    cycle_temp = (_at_most(temp_c, NMC_CYCLE_TEMP_C_MAX) + _KELVIN) / 308.15
    rate_root = exp(0.5 * log(c_rate))
    log_k_cyc = (
        _NMC_LOG_K_CYC
        - 0.123779206033993 * (c_rate * c_rate * c_rate)
        + 1.24459541295018 * (cycle_temp * cycle_temp * cycle_temp) * rate_root
    )
    return log(k_cal) - _NMC_P_CAL * _NMC_LOG_UNIT, log_k_cyc - _NMC_P_CYC * _NMC_LOG_UNIT


def _anode_v(soc_frac: Value) -> Value:
    """Return the potential of graphite against lithium [V].

    Curve of Safari and Delacourt, doi:10.1149/1.3567007, with the lithiation of Schimpe et al.,
    doi:10.1149/2.1181714jes; BLAST-Lite uses the same for every cell.
    """
    x = 0.0085 + 0.7715 * soc_frac
    return (
        0.6379
        + 0.5416 * exp(-305.5309 * x)
        + 0.044 * tanh((0.1958 - x) / 0.1088)
        - 0.1978 * tanh((x - 1.0571) / 0.0854)
        - 0.6875 * tanh((x + 0.0117) / 0.0529)
        - 0.0175 * tanh((x - 0.5692) / 0.0875)
    )


def _at_most(x: Value, bound: float) -> Value:
    return min(x, bound) if isinstance(x, float) else np.minimum(x, bound)
