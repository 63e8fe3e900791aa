"""Cell curves against their sources and against NumPy's interpolation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator.cells import (
    CHARGE_LIMIT_C,
    CHARGE_TAPER_FRAC,
    CHEMISTRIES,
    DISCHARGE_LIMIT_C,
    LFP,
    NMC,
    PIECES_MAX,
    Chemistry,
    Pieces,
    ocv_v,
    pieces_through,
)
from ridethrough.emulator.errors import InvariantError

Floats = NDArray[np.float64]
DATA = Path(os.environ.get("RIDETHROUGH_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cells"
FILES = {"lfp": "ocv_lfp_Prada2013.csv", "nmc": "ocv_nmc_Chen2020.csv"}

both = pytest.mark.parametrize("chemistry", [LFP, NMC], ids=lambda c: str(c.name))
curves = pytest.mark.parametrize(
    "curve",
    [
        LFP.ocv,
        LFP.ocv_compact,
        NMC.ocv,
        NMC.ocv_compact,
        CHARGE_LIMIT_C,
        DISCHARGE_LIMIT_C,
        CHARGE_TAPER_FRAC,
    ],
)


def measured(chemistry: Chemistry) -> tuple[Floats, Floats]:
    """Return SoC and voltage of the full curve."""
    path = DATA / FILES[chemistry.name]
    if not path.exists():
        pytest.skip(f"{path.name} is not on this machine; it is not part of the repository")
    soc_frac, voltage_v = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 1)).T
    return soc_frac, voltage_v


# Against the sources.


@both
def test_the_table_is_the_curve_at_its_points(chemistry: Chemistry) -> None:
    soc_frac, voltage_v = measured(chemistry)
    table = dict(zip(soc_frac.tolist(), voltage_v.tolist(), strict=True))
    assert [v for _, v in chemistry.ocv_table] == pytest.approx(
        [table[s] for s, _ in chemistry.ocv_table], abs=0.5e-3
    )


@pytest.mark.parametrize(
    ("chemistry", "table_v", "compact_v"), [(LFP, 0.078, 0.012), (NMC, 0.062, 0.010)], ids=["lfp", "nmc"]
)
def test_the_curves_are_as_near_as_they_say(chemistry: Chemistry, table_v: float, compact_v: float) -> None:
    soc_frac, voltage_v = measured(chemistry)
    assert len(soc_frac) == 111
    table = float(np.max(np.abs(ocv_v(chemistry, soc_frac) - voltage_v)))
    compact = float(np.max(np.abs(chemistry.ocv_compact.at(soc_frac) - voltage_v)))
    assert 0.95 * table_v < table <= table_v
    assert 0.95 * compact_v < compact <= compact_v


@both
def test_the_mean_voltage_is_that_of_the_curve(chemistry: Chemistry) -> None:
    soc_frac, voltage_v = measured(chemistry)
    mean_v = float(np.sum((voltage_v[1:] + voltage_v[:-1]) / 2 * np.diff(soc_frac)))
    assert chemistry.ocv_v_mean == pytest.approx(mean_v, abs=0.5e-3)
    fine = (np.arange(100_000) + 0.5) / 100_000
    assert float(np.mean(chemistry.ocv_compact.at(fine))) == pytest.approx(mean_v, abs=3e-3)


@pytest.mark.parametrize(
    ("chemistry", "ohm_low", "ohm_high", "capacity_ah"),
    [(LFP, 0.031, 0.043, 2.3), (NMC, 0.029, 0.030, 5.0)],
    ids=["lfp", "nmc"],
)
def test_ohmic_loss_is_that_of_the_pulse(
    chemistry: Chemistry, ohm_low: float, ohm_high: float, capacity_ah: float
) -> None:
    voltage_v = float(ocv_v(chemistry, np.array(0.5)))
    low, high = (ohm * capacity_ah / voltage_v for ohm in (ohm_low, ohm_high))
    assert low <= chemistry.ohmic_frac_per_c <= high + 5e-4


def test_the_charge_limit_has_the_points_of_its_source() -> None:
    temp_c = np.array([-30.0, -0.01, 0.0, 5.0, 10.0, 15.0, 30.0, 45.0, 50.0, 55.0, 60.0, 80.0])
    want = [0.0, 0.0, 0.0, 0.1, 0.2, 0.5, 0.5, 0.5, 0.35, 0.2, 0.0, 0.0]
    assert CHARGE_LIMIT_C.at(temp_c) == pytest.approx(want, abs=1e-12)


def test_the_discharge_limit_is_never_above_its_sources() -> None:
    temp_c = np.linspace(-40.0, 80.0, 2401)
    sheet = np.select([temp_c < -20.0, temp_c <= 0.0, temp_c <= 60.0], [0.0, 0.2, 1.0], 0.0)
    limit = DISCHARGE_LIMIT_C.at(temp_c)
    assert np.all(limit <= sheet)
    assert limit[(temp_c >= 5.0) & (temp_c <= 55.0)] == pytest.approx(1.0)


@pytest.mark.parametrize("limit", [CHARGE_LIMIT_C, DISCHARGE_LIMIT_C])
def test_limits_are_zero_to_the_bit_outside_of_their_range(limit: Pieces) -> None:
    """A rounding error there would let the charge trickle through a limit of nothing."""
    temp_c = np.array([-273.0, -60.0, -20.0, 60.0, 61.0, 200.0])
    assert limit.at(temp_c).tolist() == [0.0] * 6
    assert float(np.min(limit.at(np.linspace(-60.0, 100.0, 16_001)))) == 0.0


def test_the_taper_leaves_a_little_at_full() -> None:
    assert CHARGE_TAPER_FRAC.at(np.array([0.0, 0.9, 0.95, 1.0])) == pytest.approx([1.0, 1.0, 0.525, 0.05])


def test_chemistries_by_name() -> None:
    assert CHEMISTRIES == {"lfp": LFP, "nmc": NMC}


# Curves as sums of clamped lines.


@curves
def test_a_curve_fits_the_kernel_or_says_so(curve: Pieces) -> None:
    if curve in (LFP.ocv, NMC.ocv):
        with pytest.raises(InvariantError, match="14 lines"):
            curve.padded()
        return
    knots, widths, slopes = curve.padded()
    assert knots.shape == widths.shape == slopes.shape == (PIECES_MAX,)
    x = np.linspace(-30.0, 90.0, 1201)
    total = np.full(len(x), curve.start)
    for knot, width, slope in zip(knots, widths, slopes, strict=True):
        total = total + slope * np.clip(x - knot, 0.0, width)
    assert np.array_equal(total, curve.at(x))


@both
@settings(deadline=None, max_examples=200)
@given(low=st.floats(-0.5, 1.5), step=st.floats(0.0, 0.1))
def test_voltage_never_falls_with_charge(chemistry: Chemistry, low: float, step: float) -> None:
    soc_frac = np.array([low, low + step])
    for curve in (chemistry.ocv, chemistry.ocv_compact):
        below, above = curve.at(soc_frac)
        assert below <= above
        assert min(curve.slopes) > 0.0


points = st.lists(st.tuples(st.floats(0.01, 10.0), st.floats(-100.0, 100.0)), min_size=2, max_size=12).map(
    lambda pairs: [(sum(step for step, _ in pairs[: i + 1]), pairs[i][1]) for i in range(len(pairs))]
)


@settings(deadline=None, max_examples=200)
@given(points=points, x=st.lists(st.floats(-50.0, 150.0), min_size=1, max_size=20))
def test_curves_are_numpys_interpolation(points: list[tuple[float, float]], x: list[float]) -> None:
    want = np.interp(x, [p[0] for p in points], [p[1] for p in points])
    assert pieces_through(points).at(np.array(x)) == pytest.approx(want, abs=1e-9)


def test_level_lines_are_left_out() -> None:
    assert len(pieces_through([(0.0, 1.0), (1.0, 1.0), (2.0, 3.0), (3.0, 3.0)]).knots) == 1
    assert pieces_through([(0.0, 1.0), (1.0, 1.0)]).at(np.array([0.5])).tolist() == [1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        [(0.0, 1.0)],
        [(0.0, 1.0), (0.0, 2.0)],
        [(1.0, 1.0), (0.0, 2.0)],
        [(0.0, 1.0), (float("nan"), 2.0)],
        [(0.0, 1.0), (1.0, float("inf"))],
    ],
)
def test_points_that_make_no_curve_are_refused(wrong: list[tuple[float, float]]) -> None:
    with pytest.raises(InvariantError, match="curve"):
        pieces_through(wrong)
