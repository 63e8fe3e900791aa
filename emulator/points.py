"""One SunSpec point: where it lies and how its registers show a quantity.

Rules of this file: types and arithmetic only; no model, no profile.  The encoding itself is compiled, so that
a constant, a dynamic point and a test all use the same code.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from . import _registers

ROUNDED_DOWN: Final = frozenset({"soc_frac", "energy_wh"})
"""A client must never see more charge than there is."""


@dataclass(frozen=True, slots=True)
class NumberType:
    """One SunSpec numeric type.

    Attributes
    ----------
    size : int
        Registers.
    low, high : int
        Least and greatest value.
    blank : int
        The value that says "not implemented"; of a float its bits, which are no number.
    real : bool
        An IEEE 754 float; else an integer.
    """

    size: int
    low: int
    high: int
    blank: int
    real: bool = False


# 64-bit values pass through float64 and int64 on their way: this is the greatest that both hold.
_GREATEST: Final = (1 << 63) - 1024


def _signed(size: int) -> NumberType:
    top = 1 << (16 * size - 1)
    most = min(top - 1, _GREATEST)
    return NumberType(size, -most, most, -top)


def _unsigned(size: int) -> NumberType:
    ones = (1 << 16 * size) - 1
    return NumberType(size, 0, min(ones - 1, _GREATEST), ones)


def _counter(size: int) -> NumberType:
    # "acc" types have no pattern of their own: 0 stands for "not implemented".
    return NumberType(size, 0, min((1 << 16 * size) - 1, _GREATEST), 0)


def _float(size: int, greatest: bytes, blank: int) -> NumberType:
    most = int(struct.unpack(">f" if size == 2 else ">d", greatest)[0])
    return NumberType(size, -most, most, blank, real=True)


NUMBER_TYPES: Final[Mapping[str, NumberType]] = {
    "int16": _signed(1),
    "int32": _signed(2),
    "int64": _signed(4),
    "sunssf": _signed(1),
    "uint16": _unsigned(1),
    "uint32": _unsigned(2),
    "uint64": _unsigned(4),
    "count": _unsigned(1),
    "enum16": _unsigned(1),
    "enum32": _unsigned(2),
    "bitfield16": _unsigned(1),
    "bitfield32": _unsigned(2),
    "acc16": _counter(1),
    "acc32": _counter(2),
    "acc64": _counter(4),
    "float32": _float(2, b"\x7f\x7f" + b"\xff" * 2, 0x7FC0_0000),
    "float64": _float(4, b"\x7f\xef" + b"\xff" * 6, 0x7FF8_0000_0000_0000),
}
"""Every numeric type of the served models."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of one model.

    Attributes
    ----------
    model : int
    name : str
        As SunSpec spells it; ``"PFWInj.PF"`` inside a group, ``"Crv[1].Pt[2].V"`` inside repeating ones.
    address : int
        Absolute address of its first register.
    size : int
        Registers.
    type : str
        SunSpec type.
    units : str
        As SunSpec writes them, ``""`` for none.
    symbols : tuple of (str, int)
        Values of an enumeration, bit numbers of a bit field.
    quantity : str or None
        What it shows: a constant, a dynamic quantity, or ``"705.Ena"`` for a setting that the image keeps;
        None where the point is not implemented, or belongs to the map itself.
    writable : bool
        Whether a client may write it.
    scale : int
        Power of ten of its scale factor; 0 where it has none.
    factor, divisor : float
        ``register = quantity · factor / divisor``; exact powers of ten.  Percent are fractions as quantities.
    low, high : int
        Least and greatest register value; of what may be written, where the point is writable.
    blank : int
        The value that says "not implemented"; of a float its bits, and any other NaN says the same.
    """

    model: int
    name: str
    address: int
    size: int
    type: str
    units: str
    symbols: tuple[tuple[str, int], ...]
    quantity: str | None
    writable: bool
    scale: int
    factor: float
    divisor: float
    low: int
    high: int
    blank: int

    @property
    def signed(self) -> bool:
        """Whether its registers hold a signed integer."""
        return self.type in ("int16", "int32", "int64", "sunssf")

    @property
    def form(self) -> int:
        """How the compiled encoding shows it, one of `NEAREST`, `DOWN` and `FLOAT`."""
        if NUMBER_TYPES[self.type].real:
            return _registers.FLOAT
        return _registers.DOWN if self.quantity in ROUNDED_DOWN else _registers.NEAREST

    def decode(self, data: bytes) -> float | None:
        """Return the quantity that register bytes show, None for "not implemented"."""
        if NUMBER_TYPES[self.type].real:
            real = float(struct.unpack(">f" if self.size == 2 else ">d", data)[0])
            return None if math.isnan(real) else real * self.divisor / self.factor
        register = _registers.decode(data, self.signed)
        return None if register == self.blank else register * self.divisor / self.factor

    def encode(self, value: float) -> bytes:
        """Return the register bytes that show a quantity; "not implemented" when it does not fit."""
        span = NUMBER_TYPES[self.type]
        blank = self.blank & ((1 << 16 * self.size) - 1)
        return _registers.encode(
            value, 2 * self.size, self.form, self.factor, self.divisor, span.low, span.high, blank
        )

    def __str__(self) -> str:
        return f"{self.model}.{self.name} (register {self.address})"
