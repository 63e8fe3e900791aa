"""Cells: open-circuit voltage, resistance, warmth and limits by chemistry.

Rules of this file: data with its source, and one way to evaluate it.  Every curve is a sum of clamped lines,
``y = start + Σ slope·clamp(x − knot, 0, width)``: plain arithmetic without a search, so that the kernel can
evaluate it for a whole tile at once and with the same bits.  NumPy's `interp` is not used: its compiled loop
may fuse a multiplication with an addition on some processors.

Voltages are per cell, rates in C: power over nominal energy per hour.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import InvariantError

Floats = NDArray[np.float64]

PIECES_MAX: Final = 8
"""Most clamped lines of a curve that the kernel evaluates."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """A continuous curve as a sum of clamped lines, flat outside its knots.

    Attributes
    ----------
    start : float
        Value at and before the first knot.
    knots, widths, slopes : tuple of float, same length
        Where each line begins, how far it runs, and how steeply.
    """

    start: float
    knots: tuple[float, ...]
    widths: tuple[float, ...]
    slopes: tuple[float, ...]

    def at(self, x: Floats) -> Floats:
        """Return the curve at `x`, any shape; the lines are added in order."""
        total = np.full(np.shape(x), self.start)
        for knot, width, slope in zip(self.knots, self.widths, self.slopes, strict=True):
            total = total + slope * np.minimum(np.maximum(x - knot, 0.0), width)
        return total

    def padded(self, count: int = PIECES_MAX) -> tuple[Floats, Floats, Floats]:
        """Return knots, widths and slopes as arrays of shape (count,), filled up with lines of no effect.

        Raises
        ------
        InvariantError
            If the curve has more than `count` lines.
        """
        spare = count - len(self.knots)
        if spare < 0:
            raise InvariantError(f"a curve of {len(self.knots)} lines does not fit into {count}")
        knots, widths, slopes = (
            np.array(values + (0.0,) * spare) for values in (self.knots, self.widths, self.slopes)
        )
        return knots, widths, slopes


def pieces_through(points: Sequence[tuple[float, float]]) -> Pieces:
    """Return the curve of straight lines through points, without its level lines.

    Parameters
    ----------
    points : sequence of (float, float), at least two
        Finite x and y, x rising.

    Raises
    ------
    InvariantError
        If the points are too few, not finite or not in order.
    """
    if len(points) < 2 or not all(math.isfinite(x) and math.isfinite(y) for x, y in points):
        raise InvariantError(f"a curve needs two or more finite points, found {points}")
    lines = []
    for (x, y), (x_next, y_next) in itertools.pairwise(points):
        if x_next <= x:
            raise InvariantError(f"the points of a curve must go up in x, found {x} before {x_next}")
        if y_next != y:
            lines.append((x, x_next - x, (y_next - y) / (x_next - x)))
    return Pieces(
        start=points[0][1],
        knots=tuple(line[0] for line in lines),
        widths=tuple(line[1] for line in lines),
        slopes=tuple(line[2] for line in lines),
    )


@dataclass(frozen=True, slots=True)
class Chemistry:
    """What one kind of cell is.

    Attributes
    ----------
    name : str
        As in device profiles.
    ocv_table : tuple of (float, float)
        State of charge [1] and open-circuit voltage [V per cell], measured points.
    ocv : Pieces
        Straight lines through the table.
    ocv_compact : Pieces
        At most `PIECES_MAX` lines fitted to the full curve, for the kernel.
    ocv_v_mean : float
        Mean over the state of charge [V per cell].
    ohmic_frac_per_c : float
        Share of the power at the terminals that the cells turn into heat, per C of rate, mid SoC [1].
    charge_limit_c, discharge_limit_c : Pieces
        Greatest rate [C] by cell temperature [°C].
    """

    name: str
    ocv_table: tuple[tuple[float, float], ...]
    ocv: Pieces
    ocv_compact: Pieces
    ocv_v_mean: float
    ohmic_frac_per_c: float
    charge_limit_c: Pieces
    discharge_limit_c: Pieces


_SOC_FRAC: Final = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_LFP_V: Final = (
    *(2.000, 2.265, 2.785, 2.978, 3.168, 3.206, 3.252, 3.266),
    *(3.269, 3.274, 3.310, 3.314, 3.316, 3.415, 3.600),
)
_NMC_V: Final = (
    *(2.500, 2.711, 3.109, 3.296, 3.485, 3.581, 3.667, 3.751),
    *(3.841, 3.948, 4.042, 4.097, 4.124, 4.182, 4.200),
)

_LFP_TABLE: Final = tuple(zip(_SOC_FRAC, _LFP_V, strict=True))
_NMC_TABLE: Final = tuple(zip(_SOC_FRAC, _NMC_V, strict=True))

# Eight lines with the least greatest deviation from the same curves at 111 points (ocv_*.csv), never falling.
_LFP_COMPACT: Final = (
    *((0.0, 2.0119), (0.015, 2.3790), (0.035, 2.6711), (0.06, 2.8551), (0.16, 3.1370)),
    *((0.34, 3.2355), (0.97, 3.3209), (0.99, 3.4032), (1.0, 3.5881)),
)
_NMC_COMPACT: Final = (
    *((0.0, 2.4903), (0.01, 2.7211), (0.025, 2.9186), (0.045, 3.0901), (0.1, 3.3015)),
    *((0.15, 3.4369), (0.84, 4.0690), (0.93, 4.1015), (1.0, 4.1903)),
)

CHARGE_LIMIT_C: Final = pieces_through(
    ((0.0, 0.0), (10.0, 0.2), (15.0, 0.5), (45.0, 0.5), (55.0, 0.2), (60.0, 0.0))
)
"""Greatest charge rate [C] by cell temperature [°C]: none below 0 and above 60.

The steps of the manual of an LFP module (APL48-50LFP: 0.1 C to 5 °C, 0.2 C to 10 °C, 0.5 C from 25 to 50 °C)
and of an LFP cell sheet (0.5 C from 15 to 45 °C), made continuous.
"""

DISCHARGE_LIMIT_C: Final = pieces_through(
    ((-20.0, 0.0), (-15.0, 0.2), (0.0, 0.2), (5.0, 1.0), (55.0, 1.0), (60.0, 0.0))
)
"""Greatest discharge rate [C] by cell temperature [°C]: none below -20 and above 60.

The same two sources: at most 0.2 C (cell sheet) from -20 to 0 °C, 1 C (module, fast) from 0 to 60 °C.  The
slopes between the levels are assumed, on the safe side of each step.
"""

CHARGE_TAPER_FRAC: Final = pieces_through(((0.0, 1.0), (0.90, 1.0), (1.0, 0.05)))
"""Share of the charge limit that remains by state of charge [1].  Assumed."""

LFP: Final = Chemistry(
    name="lfp",
    ocv_table=_LFP_TABLE,
    ocv=pieces_through(_LFP_TABLE),
    ocv_compact=pieces_through(_LFP_COMPACT),
    ocv_v_mean=3.195,
    ohmic_frac_per_c=0.023,
    charge_limit_c=CHARGE_LIMIT_C,
    discharge_limit_c=DISCHARGE_LIMIT_C,
)
"""Lithium iron phosphate and graphite: parameter set Prada2013, computed with PyBaMM 26.10.

`ohmic_frac_per_c` is from a 10 s pulse at 1 C: 31 to 43 mΩ in a cell of 2.3 Ah.
"""

NMC: Final = Chemistry(
    name="nmc",
    ocv_table=_NMC_TABLE,
    ocv=pieces_through(_NMC_TABLE),
    ocv_compact=pieces_through(_NMC_COMPACT),
    ocv_v_mean=3.722,
    ohmic_frac_per_c=0.040,
    charge_limit_c=CHARGE_LIMIT_C,
    discharge_limit_c=DISCHARGE_LIMIT_C,
)
"""Nickel manganese cobalt oxide and graphite-silicon: parameter set Chen2020, computed with PyBaMM 26.10.

`ohmic_frac_per_c` is from a 10 s pulse at 1 C: 29 to 30 mΩ in a cell of 5 Ah.  No source for its limits by
temperature was found: those of LFP are assumed.
"""

CHEMISTRIES: Final = {chemistry.name: chemistry for chemistry in (LFP, NMC)}
"""By the name in device profiles."""


def ocv_v(chemistry: Chemistry, soc_frac: Floats) -> Floats:
    """Return the open-circuit voltage of one cell by the 15-point table.

    Parameters
    ----------
    chemistry : Chemistry
        `LFP` or `NMC`.
    soc_frac : ndarray of float64
        State of charge [1], any shape; below 0 and above 1 the voltage stays at the end of the table.

    Returns
    -------
    ndarray of float64
        Voltage [V], same shape.

    Notes
    -----
    Between its points the table is up to 78 mV (LFP) and 62 mV (NMC) off the curve at 111 points, near empty
    and near full; `ocv_compact`, fitted to that curve, is at most 12 mV and 10 mV off.  Hysteresis and the
    change of the curve with temperature and age are not modelled.
    """
    return chemistry.ocv.at(soc_frac)
