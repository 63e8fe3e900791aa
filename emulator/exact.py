"""Exponentials and logarithms whose bits are the same on every machine and with every NumPy.

Rules of this file: only + - * /, comparisons, selection, rounding to a whole number, and the taking apart and
putting together of exponents.  IEEE 754 fixes the result of each to the last bit; it does not fix exp, log,
pow and tanh, and C libraries and NumPy's vector loops do differ there.  Everything in the physics that is not
plain arithmetic comes from here.

The functions take a float or an array of float64 and give the same kind back, with the same bits either way.
A float has a path of its own: NumPy needs some twenty times as long for a single number.  Results are within
1 ulp for `exp` and `log`, 2 ulp for `power` and 3 ulp for `tanh`.  Zeros, infinities and NaN give what NumPy
gives, without its warnings.
"""

from __future__ import annotations

import math
from typing import Final, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InvariantError

Floats = NDArray[np.float64]
Value = TypeVar("Value", float, Floats)

_LN2_HIGH: Final = float.fromhex("0x1.62e42fefa38p-1")
"""ln 2 cut to 42 bits, so that a product with any exponent is exact."""
_LN2_LOW: Final = float.fromhex("0x1.ef35793c7673p-45")
_LN2_INVERSE: Final = float.fromhex("0x1.71547652b82fep+0")
_LN10: Final = float.fromhex("0x1.26bb1bbb55516p+1")
_SQRT_HALF: Final = float.fromhex("0x1.6a09e667f3bcdp-1")
_THIRD: Final = 1.0 / 3.0
_THIRD_LOW: Final = float.fromhex("0x1.5555555555555p-56")
"""1/3 − _THIRD."""

# Taylor's series of exp from r²/2 on: |r| ≤ ln 2 / 2 leaves less than 2^-57 after r^13.
_EXP_SERIES: Final = tuple(1.0 / math.factorial(n) for n in range(13, 1, -1))
# log(1+f) = 2·atanh(s), s = f/(2+f): |s| ≤ 0.1716 leaves less than 2^-65 after s^23.
_ATANH_SERIES: Final = tuple(1.0 / n for n in range(23, 1, -2))

_EXP_LOWEST: Final = -760.0
"""Below, exp is zero for certain."""
_EXP_HIGHEST: Final = 720.0
"""Above, exp is infinite for certain."""
_TANH_FLAT: Final = 20.0
"""From 19.1 on, 1 is the number nearest to tanh."""
_EXPONENT_MOST: Final = float(1 << 65)
"""A power this high of any number but 1 is zero or infinite."""
_WHOLE_ALWAYS: Final = float(1 << 53)
"""From here on every number is whole, and even."""
_LAG_STEPS_MOST: Final = 300.0
"""After this many response times 10^-300 of the way is left: nothing, to the last bit."""


@overload
def exp(x: float) -> float: ...
@overload
def exp(x: Floats) -> Floats: ...
def exp(x: ArrayLike) -> float | Floats:
    """Return e to the power `x`, within 1 ulp.

    Parameters
    ----------
    x : float or ndarray of float64
        Any value.

    Returns
    -------
    float or ndarray of float64
        Zero below the smallest number, infinite above the largest.
    """
    if isinstance(x, float):
        return _exp_of_float(float(x))
    values = np.asarray(x, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        return _exp_of_sum(values, np.float64(0.0))[()]


@overload
def log(x: float) -> float: ...
@overload
def log(x: Floats) -> Floats: ...
def log(x: ArrayLike) -> float | Floats:
    """Return the natural logarithm of `x`, within 1 ulp.

    Parameters
    ----------
    x : float or ndarray of float64
        Any value.

    Returns
    -------
    float or ndarray of float64
        Minus infinity at zero, NaN below.
    """
    if isinstance(x, float):
        return _log_of_float(float(x))
    values = np.asarray(x, dtype=np.float64)
    usable = (values > 0.0) & (values < np.inf)
    exponent, f = _taken_apart(np.where(usable, values, 1.0))
    return np.where(usable, _log_of_parts(exponent, f), _log_special(values))[()]


@overload
def power(x: float, y: float) -> float: ...
@overload
def power(x: Floats, y: float | Floats) -> Floats: ...
@overload
def power(x: float, y: Floats) -> Floats: ...
def power(x: ArrayLike, y: ArrayLike) -> float | Floats:
    """Return `x` to the power `y`, within 2 ulp.

    Parameters
    ----------
    x, y : float or ndarray of float64
        Any values; arrays are broadcast.

    Returns
    -------
    float or ndarray of float64
        NaN for a negative `x` and a `y` that is not whole; 1 for a `y` of zero or an `x` of one, NaN included
        (C17, F.10.4.4).
    """
    base, raised = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    base, raised = np.broadcast_arrays(base, raised)
    size = np.abs(base)
    usable = (size > 0.0) & (size < np.inf) & (raised == raised)
    high, low = _log_pair(np.where(usable, size, 1.0))
    bounded = np.minimum(np.maximum(np.where(usable, raised, 0.0), -_EXPONENT_MOST), _EXPONENT_MOST)
    with np.errstate(over="ignore", under="ignore"):
        product, error = _product(high, bounded)
        error = np.where(np.abs(product) < 800.0, error + low * bounded, 0.0)
        found = np.where(usable, _exp_of_sum(product, error), _power_special(size, raised))
    whole = np.floor(raised) == raised
    halved = np.where(whole, raised, 0.0) * 0.5
    odd = whole & (np.abs(raised) < _WHOLE_ALWAYS) & (np.floor(halved) != halved)
    found = np.where(odd, np.copysign(found, base), found)
    found = np.where((base < 0.0) & (base > -np.inf) & ~whole & (raised == raised), np.nan, found)
    return np.where((raised == 0.0) | (base == 1.0), 1.0, found)[()]


@overload
def tanh(x: float) -> float: ...
@overload
def tanh(x: Floats) -> Floats: ...
def tanh(x: ArrayLike) -> float | Floats:
    """Return the hyperbolic tangent of `x`, within 3 ulp.

    Parameters
    ----------
    x : float or ndarray of float64
        Any value.

    Returns
    -------
    float or ndarray of float64
        In [-1, 1], odd in `x`.
    """
    if isinstance(x, float):
        grown_float = _expm1_of_float(2.0 * min(abs(float(x)), _TANH_FLAT))
        return math.copysign(grown_float / (grown_float + 2.0), x)
    values = np.asarray(x, dtype=np.float64)
    with np.errstate(under="ignore"):
        grown = _expm1(2.0 * np.minimum(np.abs(values), _TANH_FLAT))
        return np.copysign(grown / (grown + 2.0), values)[()]


@overload
def lag_gain(dt_s: float, response_s: float) -> float: ...
@overload
def lag_gain(dt_s: float, response_s: Floats) -> Floats: ...
def lag_gain(dt_s: float, response_s: ArrayLike) -> float | Floats:
    """Return the share of the way to a held input that a first-order lag goes in one step.

    ``y += lag_gain · (u − y)`` is exact for an input held during the step and has gone 90 % of a step after
    the response time, whatever the length of the steps.

    Parameters
    ----------
    dt_s : float
        Length of the step [s], above 0.
    response_s : float or ndarray of float64
        Open loop response time, to 90 % of a step [s], 0 or more; 0 passes the input through.

    Returns
    -------
    float or ndarray of float64
        ``1 − 10^(−dt_s / response_s)`` in (0, 1] [1].

    Raises
    ------
    InvariantError
        If a time is not finite or out of its range.
    """
    response = np.asarray(response_s, dtype=np.float64)
    if not (math.isfinite(dt_s) and dt_s > 0.0):
        raise InvariantError(f"lag_gain: dt_s must be finite and above 0, found {dt_s}")
    if not bool(np.all((response >= 0.0) & (response < np.inf))):
        raise InvariantError(f"lag_gain: response_s must be finite and 0 or more, found {response}")
    with np.errstate(under="ignore"):
        return _lag_gain(dt_s, response)[()]


def _lag_gain(dt_s: float, response: Floats) -> Floats:
    """Return the gain of `lag_gain` for times that were checked."""
    through = response * _LAG_STEPS_MOST <= dt_s
    steps = np.where(through, dt_s, response)
    return np.where(through, 1.0, -_expm1(-_LN10 * (dt_s / steps)))


def _horner(coefficients: tuple[float, ...], x: Value) -> Value:
    """Return a polynomial of `x`, its coefficients given from the highest down."""
    total = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        total = total * x + coefficient
    return total


def _exp_rest(rest: Value) -> Value:
    """Return exp(rest) − 1 for |rest| ≤ ln 2 / 2."""
    return rest + rest * rest * _horner(_EXP_SERIES, rest)


def _log_of_parts(exponent: Value, f: Value) -> Value:
    """Return log(2^exponent · (1+f))."""
    s = f / (2.0 + f)
    square = s * s
    series = 2.0 * square * _horner(_ATANH_SERIES, square)
    # 2s = f − f²/2 + s·f²/2: f and f²/2 carry fewer rounding errors into the sum than s does.
    half_square = 0.5 * f * f
    correction = s * (half_square + series) + exponent * _LN2_LOW
    return exponent * _LN2_HIGH - ((half_square - correction) - f)


# One number.


def _exp_of_float(x: float) -> float:
    """Return what `_exp_of_sum` does for one number."""
    if x != x:
        return x
    bounded = min(max(x, _EXP_LOWEST), _EXP_HIGHEST)
    exponent = round(bounded * _LN2_INVERSE)
    rest = (bounded - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    first = exponent // 2
    return (1.0 + _exp_rest(rest)) * math.ldexp(1.0, first) * math.ldexp(1.0, exponent - first)


def _expm1_of_float(x: float) -> float:
    """Return what `_expm1` does for one number."""
    if x != x:
        return x
    exponent = round(x * _LN2_INVERSE)
    rest = (x - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    scale = math.ldexp(1.0, exponent)
    return scale * _exp_rest(rest) + (scale - 1.0)


def _log_of_float(x: float) -> float:
    """Return what `log` does for one number."""
    if not 0.0 < x < math.inf:
        return -math.inf if x == 0.0 else x if x > 0.0 else math.nan
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa, exponent = 2.0 * mantissa, exponent - 1
    return _log_of_parts(float(exponent), mantissa - 1.0)


# Arrays.


def _exp_of_sum(high: Floats, low: Floats | np.float64) -> Floats:
    """Return exp(`high` + `low`); `low` is small beside one ulp of the result's logarithm, and finite."""
    is_number = high == high
    bounded = np.minimum(np.maximum(np.where(is_number, high, 0.0), _EXP_LOWEST), _EXP_HIGHEST)
    exponent = np.rint(bounded * _LN2_INVERSE)
    rest = (bounded - exponent * _LN2_HIGH) - (exponent * _LN2_LOW - low)
    # In two factors: 2^1024 and 2^-1075 are not numbers.  Only the second product can be inexact.
    first = np.floor(exponent * 0.5)
    found = (1.0 + _exp_rest(rest)) * _two_to(first) * _two_to(exponent - first)
    return np.where(is_number, found, high)


def _expm1(x: Floats) -> Floats:
    """Return exp(x) − 1 for |x| ≤ 50 or NaN, without loss near zero."""
    is_number = x == x
    bounded = np.where(is_number, x, 0.0)
    exponent = np.rint(bounded * _LN2_INVERSE)
    rest = (bounded - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    scale = _two_to(exponent)
    return np.where(is_number, scale * _exp_rest(rest) + (scale - 1.0), x)


def _two_to(exponent: Floats) -> Floats:
    """Return 2 to a whole power between -1022 and 1023, exactly."""
    # int32: NumPy's ldexp takes a C int or long, and the latter has 32 bits on some systems.
    return np.ldexp(1.0, exponent.astype(np.int32))


def _taken_apart(x: Floats) -> tuple[Floats, Floats]:
    """Return whole k and f with x = 2^k (1+f), 1+f from √½ to √2; `x` is positive and finite."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < _SQRT_HALF
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    return exponent.astype(np.float64) - small, mantissa - 1.0


def _log_special(x: Floats) -> Floats:
    """Return the logarithm of zero, infinity, negative numbers and NaN."""
    return np.where(x == 0.0, -np.inf, np.where(x > 0.0, x, np.nan))


def _power_special(size: Floats, raised: Floats) -> Floats:
    """Return `size` to the power `raised` where one is NaN, or `size` zero or infinite."""
    falls = (size > 1.0) == (raised < 0.0)
    found = np.where(falls, 0.0, np.inf)
    return np.where((size == size) & (raised == raised), found, np.nan)


# Numbers in two parts, high + low with |low| ≤ ulp(high)/2: twice the digits, for `power` alone, where a
# relative error of the logarithm is multiplied by up to 745 (Dekker, Numer. Math. 18, 1971).


def _product(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return a·b and the error of that product, exactly."""
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    product = a * b
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(a: Floats) -> tuple[Floats, Floats]:
    """Return two numbers of 26 bits whose sum is `a`."""
    shifted = a * 134217729.0  # 2^27 + 1
    high = shifted - (shifted - a)
    return high, a - high


def _log_pair(x: Floats) -> tuple[Floats, Floats]:
    """Return the logarithm of a positive finite number in two parts, to a relative 2^-64."""
    exponent, f = _taken_apart(x)
    # s = f/(2+f)
    below = 2.0 + f
    below_low = (2.0 - below) + f
    s = f / below
    back, back_error = _product(s, below)
    s_low = (((f - back) - back_error) - s * below_low) / below
    # q = s²
    q, q_low = _product(s, s)
    q_low = q_low + 2.0 * s * s_low
    # c = 1/3 + q/5 + q²/7 + …
    later = q * _horner(_ATANH_SERIES[:-1], q)
    c = _THIRD + later
    c_low = ((_THIRD - c) + later) + _THIRD_LOW
    # g = 1 + q·c
    w, w_low = _product(q, c)
    w_low = w_low + (q * c_low + q_low * c)
    g = 1.0 + w
    g_low = ((1.0 - g) + w) + w_low
    # log x = k·ln 2 + 2·s·g
    half, half_low = _product(s, g)
    half_low = half_low + (s * g_low + s_low * g)
    a, b = exponent * _LN2_HIGH, 2.0 * half
    high = a + b
    b_found = high - a
    low = (a - (high - b_found)) + (b - b_found)
    return high, low + (2.0 * half_low + exponent * _LN2_LOW)
