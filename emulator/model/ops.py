"""Helpers of the stage functions; see the rules of the package.

`least` and `most` are selects and not `numpy.minimum`, which orders signed zeros in a way of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Value = Floats
Mask = NDArray[np.bool_]
Number = Value | float


class Columns:
    """Columns under the names of their fields."""

    def __init__(self, columns: dict[str, Value] | None = None) -> None:
        self.__dict__.update(columns or {})

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Value: ...

        def __setattr__(self, name: str, value: Number) -> None: ...


def least(a: Number, b: Number) -> Value:
    """Return the lesser of two values."""
    return np.where(a < b, a, b)


def most(a: Number, b: Number) -> Value:
    """Return the greater of two values."""
    return np.where(a > b, a, b)


def clamp(value: Value, low: Number, high: Number) -> Value:
    """Return `value`, no less than `low` and no more than `high`; `high` wins where they cross."""
    return least(most(value, low), high)


def size(value: Value) -> Value:
    """Return the magnitude."""
    return np.where(value < 0.0, -value, value)


def flag(mask: Mask) -> Value:
    """Return a mask as 0.0 and 1.0."""
    return np.where(mask, 1.0, 0.0)


def assume(mask: Mask) -> Mask:
    """Say that `mask` is true of a device in ordinary grid operation.

    Does nothing here.  The traced fast path takes it for true, and is run only where it is.
    """
    return mask


class Flow:
    """What one stage of a step hands to the next.

    Attributes
    ----------
    dt_s : float
        Length of the step [s].
    per_s : float
        Its reciprocal [1/s].
    before, status : Value
        Operating state in the step before and during this one.
    was_ceased : Mask
        Momentary cessation was in force in the step before.
    lost, tripped, ceased : Mask
        The grid is gone; protection asks to open; momentary cessation holds the output at nothing.
    in_range : Mask
        The grid is within the enter-service range.
    pv_w_possible : Value
        What the PV inverter could deliver now [W].
    demand_w, backup_w : Value
        Demand of the backup panel; what is left of it once tiers are shed [W].
    charge_w_max, discharge_w_max : Value
        What cells and converter can take and give now, energy apart [W].
    convert_w : Value
        AC power of the converter, standby apart [W].
    convert_var : Value
        Its reactive power [var].
    standby_w_dc, standby_w_ac, pv_w, slew_w_per_s : Value
    served_w : Value
        What an island serves of the backup panel [W].
    """

    dt_s: float
    per_s: float
    before: Value
    status: Value
    was_ceased: Mask
    lost: Mask
    tripped: Mask
    ceased: Mask
    in_range: Mask
    pv_w_possible: Value
    demand_w: Value
    backup_w: Value
    charge_w_max: Value
    discharge_w_max: Value
    convert_w: Value
    convert_var: Value
    standby_w_dc: Value
    standby_w_ac: Value
    pv_w: Value
    slew_w_per_s: Value
    served_w: Value
