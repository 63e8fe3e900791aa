"""exp, log, power, tanh and lag_gain against `decimal`, against NumPy's edge cases, and against themselves.

`decimal` computes to 50 digits by code that shares nothing with ours.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator import exact
from ridethrough.emulator.errors import InvariantError

Floats = NDArray[np.float64]
ROOM = Path(__file__).resolve().parents[2] / "emulator"
EDGES = np.array(
    [
        *(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 20.0, 709.0, 710.0, 745.0, 746.0, 1e5, 2.0**53, 2.0**53 + 2.0, 1e308),
        *(1e-300, 5e-324, 2.2250738585072014e-308, 1.0 - 2.0**-53, 1.0 + 2.0**-52, np.inf, np.nan),
    ]
)
EDGES = np.concatenate([EDGES, -EDGES])

some = settings(deadline=None, max_examples=300)


def ulps(got: float, want: Decimal) -> Decimal:
    """Return the distance of a float from the true value in units of its last place."""
    return abs(Decimal(got) - want) / Decimal(math.ulp(float(want)))


# Accuracy.


@some
@given(st.floats(-745.0, 709.7))
def test_exp_is_within_one_ulp(x: float) -> None:
    with localcontext(prec=50):
        assert ulps(exact.exp(x), Decimal(x).exp()) <= 1


@some
@given(st.floats(5e-324, 1.7e308) | st.floats(0.5, 2.0))
def test_log_is_within_one_ulp(x: float) -> None:
    assume(x != 1.0)
    with localcontext(prec=50):
        assert ulps(exact.log(x), Decimal(x).ln()) <= 1


@some
@given(st.floats(1e-300, 1e300) | st.floats(0.5, 2.0), st.floats(-700.0, 700.0))
def test_power_is_within_two_ulp(x: float, log_result: float) -> None:
    assume(abs(x - 1.0) > 1e-9)
    y = log_result / math.log(x)
    with localcontext(prec=50):
        assert ulps(exact.power(x, y), (Decimal(x).ln() * Decimal(y)).exp()) <= 2


@some
@given(st.floats(-25.0, 25.0) | st.floats(-1e-3, 1e-3))
def test_tanh_is_within_three_ulp(x: float) -> None:
    assume(abs(x) > 1e-20)  # nearer to zero 50 digits do not suffice
    with localcontext(prec=80):
        grown = (2 * Decimal(x)).exp()
        assert ulps(exact.tanh(x), (grown - 1) / (grown + 1)) <= 3


def test_the_measure_sees_what_a_plain_power_loses() -> None:
    x, y = 1.4, 2000.0
    with localcontext(prec=50):
        want = (Decimal(x).ln() * Decimal(y)).exp()
        assert ulps(exact.exp(y * exact.log(x)), want) > 10
        assert ulps(exact.power(x, y), want) <= 2


# Edges.


@pytest.mark.parametrize(
    ("ours", "numpys"), [(exact.exp, np.exp), (exact.log, np.log), (exact.tanh, np.tanh)]
)
def test_edges_are_numpys_without_warnings(
    ours: Callable[[Floats], Floats], numpys: Callable[[Floats], Floats]
) -> None:
    with np.errstate(all="raise"):
        got = ours(EDGES)
    with np.errstate(all="ignore"):
        want = numpys(EDGES)
    np.testing.assert_array_max_ulp(got, want, maxulp=4)
    assert np.array_equal(np.signbit(got) & ~np.isnan(got), np.signbit(want) & ~np.isnan(want))


def test_edges_of_power_are_numpys_without_warnings() -> None:
    x, y = (a.ravel() for a in np.meshgrid(EDGES, EDGES))
    with np.errstate(all="raise"):
        got = exact.power(x, y)
    with np.errstate(all="ignore"):
        want = np.power(x, y)
    np.testing.assert_array_max_ulp(got, want, maxulp=4)
    assert np.array_equal(np.signbit(got) & ~np.isnan(got), np.signbit(want) & ~np.isnan(want))


# The same bits.

any_float = st.floats(width=64)


@pytest.mark.parametrize("function", [exact.exp, exact.log, exact.tanh])
@settings(deadline=None, max_examples=100)
@given(st.lists(any_float | st.floats(-800.0, 800.0), min_size=1, max_size=20))
def test_a_float_gives_the_bits_of_an_array(
    function: Callable[[float | Floats], float | Floats], values: list[float]
) -> None:
    array = np.array(values)
    want = np.asarray(function(array))
    each = np.array([function(value) for value in values])
    strided = np.asarray(function(np.stack([array, array])[:, ::-1]))[0, ::-1]
    for got in (each, strided):
        assert np.array_equal(got, want, equal_nan=True)
        assert np.array_equal(np.signbit(got) & ~np.isnan(got), np.signbit(want) & ~np.isnan(want))


def test_kinds_in_and_out() -> None:
    assert isinstance(exact.exp(1.0), float)
    assert isinstance(exact.log(2.0), float)
    assert isinstance(exact.power(2.0, 0.5), float)
    assert isinstance(exact.tanh(np.float64(0.5)), float)
    assert isinstance(exact.lag_gain(1.0, 5.0), float)
    assert exact.power(np.array([[2.0], [3.0]]), np.array([1.0, 2.0])).tolist() == [[2.0, 4.0], [3.0, 9.0]]
    assert exact.exp(np.empty(0)).shape == (0,)


def test_bits_are_those_of_every_other_machine() -> None:
    """The digests were taken on x86-64 with NumPy 2.4; another machine or NumPy must give the same."""
    x = np.arange(-48_000, 48_000) / 64.0
    positive = np.arange(1, 40_000) / 256.0
    positive = positive * positive * positive
    found = {
        "exp": exact.exp(x),
        "log": exact.log(positive),
        "power": exact.power(positive, np.arange(1, 40_000) / 4096.0 - 4.0),
        "tanh": exact.tanh(x / 32.0),
        "lag_gain": exact.lag_gain(0.02, positive),
    }
    digests = {
        name: hashlib.sha256(np.ascontiguousarray(values, dtype="<f8").tobytes()).hexdigest()[:16]
        for name, values in found.items()
    }
    assert digests == {
        "exp": "d417d20eb10f5614",
        "log": "4a76cbb3c0bf7fd0",
        "power": "4954ddfd3374ecd1",
        "tanh": "a2f77c7f3e5a8833",
        "lag_gain": "ca4c23921fdba659",
    }


# The rule of the file.

NUMPY_MAY = frozenset(
    {
        *(
            "asarray",
            "array",
            "empty",
            "full",
            "shape",
            "broadcast_to",
            "broadcast_arrays",
            "float64",
            "int32",
        ),
        *("where", "minimum", "maximum", "abs", "floor", "rint", "copysign", "frexp", "ldexp", "sqrt"),
        *("isfinite", "all", "any", "flatnonzero", "argwhere", "inf", "nan", "errstate"),
    }
)
MATH_MAY = frozenset({"isfinite", "inf", "nan", "frexp", "ldexp", "copysign", "factorial"})


def inexact(source: str) -> Iterator[str]:
    """Object to powers and to library functions whose last bit IEEE 754 does not fix."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Pow | ast.MatMult):
            yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            allowed = {"np": NUMPY_MAY, "math": MATH_MAY}.get(node.value.id)
            if allowed is not None and node.attr not in allowed:
                yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("name", ["exact", "cells", "ageing"])
def test_only_operations_that_ieee_754_fixes(name: str) -> None:
    assert list(inexact((ROOM / f"{name}.py").read_text(encoding="utf-8"))) == []


def test_the_rule_catches() -> None:
    for bad in (
        "np.exp(x)",
        "x ** 0.5",
        "x **= 2",
        "math.pow(x, y)",
        "np.interp(x, a, b)",
        "a @ b",
        "np.sum(x)",
    ):
        assert len(list(inexact(bad))) == 1


# Lag.


@some
@given(st.floats(0.02, 10.0), st.floats(0.01, 1e6))
def test_lag_gain_is_one_less_a_power_of_ten(dt_s: float, steps: float) -> None:
    response_s = dt_s * steps
    with localcontext(prec=50):
        want = 1 - Decimal(10) ** (-Decimal(dt_s) / Decimal(response_s))
        assert ulps(exact.lag_gain(dt_s, response_s), want) <= 4


@pytest.mark.parametrize("dt_s", [0.02, 0.1, 1.0])
def test_a_lag_has_gone_90_percent_after_its_response_time_at_any_step(dt_s: float) -> None:
    y = 0.0
    for _ in range(round(5.0 / dt_s)):
        y += exact.lag_gain(dt_s, 5.0) * (1.0 - y)
    assert y == pytest.approx(0.9, abs=1e-12)


def test_a_lag_without_a_response_time_passes_its_input_through() -> None:
    gains = exact.lag_gain(1.0, np.array([0.0, 1e-300, 0.5, 1.0, 2.0]))
    assert gains[:2].tolist() == [1.0] * 2
    assert gains[2:] == pytest.approx([0.99, 0.9, 1.0 - 10.0**-0.5], rel=1e-14)


@pytest.mark.parametrize(
    ("dt_s", "response_s", "named"),
    [
        (0.0, 5.0, "dt_s"),
        (-1.0, 5.0, "dt_s"),
        (math.nan, 5.0, "dt_s"),
        (math.inf, 5.0, "dt_s"),
        (1.0, -0.1, "response_s"),
        (1.0, math.nan, "response_s"),
        (1.0, math.inf, "response_s"),
    ],
)
def test_lag_times_out_of_range_are_refused(dt_s: float, response_s: float, named: str) -> None:
    with pytest.raises(InvariantError, match=named):
        exact.lag_gain(dt_s, response_s)
