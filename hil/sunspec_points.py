"""What the registers of a SunSpec model mean: points from the standard's own definitions, values in and out.

Rules of this file: no connection and no device; registers are lists of integers that somebody else has read.
Values are engineering values in the units SunSpec gives (percent stay percent).  What a device does not
implement is None; so is a value whose scale factor is not implemented or out of range: a wrong power of ten
is worse than no value.

This is the reader's side.  It shares no code with the emulator's layout: each is a witness of the other.

References
----------
SunSpec Device Information Model Specification: point types, not-implemented values, scale factors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final

Value = int | float | str

Registers = Sequence[int | None]
"""Registers of one model from its id on; None where one could not be read."""

SIGNED: Final = frozenset({"int16", "int32", "int64", "sunssf"})
FLOATS: Final = {"float32": ">f", "float64": ">d"}
COUNTERS: Final = frozenset({"acc16", "acc32", "acc64"})
ADDRESSES: Final = frozenset({"ipaddr", "ipv6addr", "eui48"})

SCALE_LOW, SCALE_HIGH = -10, 10


@dataclass(frozen=True, slots=True)
class Point:
    """One point of one model.

    Attributes
    ----------
    model : int
    name : str
        As SunSpec spells it; inside a group ``"PFWInj.PF"``, inside a repeating one ``"Crv[1].Pt[2].V"``.
    offset : int
        Of its first register, counted from the register that holds the model's id.
    size : int
        Registers.
    type : str
        SunSpec type.
    units, label : str
        As SunSpec writes them; empty for none.
    writable : bool
    symbols : tuple of (str, int)
        Values of an enumeration, bit numbers of a bit field.
    scale_offset : int or None
        Offset of its scale factor's register.
    scale : int
        Power of ten where there is no such register.
    """

    model: int
    name: str
    offset: int
    size: int
    type: str
    units: str
    label: str
    writable: bool
    symbols: tuple[tuple[str, int], ...]
    scale_offset: int | None
    scale: int

    def __str__(self) -> str:
        return f"{self.model}.{self.name}"


@cache
def definition(model: int) -> Mapping[str, Any] | None:
    """Return the top group of a model's definition as pysunspec2 ships it, None for an unknown model."""
    path = files("sunspec2") / "models" / "json" / f"model_{model}.json"
    if not path.is_file():
        return None
    group: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["group"]
    return group


def label_of(model: int) -> str:
    """Return what SunSpec calls a model; empty for an unknown one."""
    return str((definition(model) or {}).get("label", ""))


@cache
def fixed_length(model: int) -> int | None:
    """Return the length L that a model's definition gives; None when it repeats a group or is not known."""
    group = definition(model)
    if group is None or _repeats(group):
        return None
    return _size(group) - 2


@cache
def models_of_length(length: int) -> tuple[int, ...]:
    """Return the models whose definition gives a length L, smallest id first."""
    folder = files("sunspec2") / "models" / "json"
    ids = sorted(int(f.name[6:-5]) for f in folder.iterdir() if f.name.startswith("model_"))
    return tuple(model for model in ids if fixed_length(model) == length)


def _repeats(group: Mapping[str, Any]) -> bool:
    return any(inner.get("count", 1) != 1 or _repeats(inner) for inner in group.get("groups", ()))


@cache
def least_length(model: int) -> int:
    """Return the length L of a model whose repeating groups are not there; 0 for an unknown one."""
    group = definition(model)
    return 0 if group is None else _size(group, repeating=0) - 2


def _size(group: Mapping[str, Any], repeating: int = 1) -> int:
    """Return the registers of a group, whose repeating parts count once, or not at all."""
    return sum(int(p["size"]) for p in group.get("points", ())) + sum(
        _size(inner, repeating) * (1 if inner.get("count", 1) == 1 else repeating)
        for inner in group.get("groups", ())
    )


class _Expander:
    """Lays one model's points out over its registers."""

    def __init__(self, model: int, length: int, registers: Registers) -> None:
        self.model = model
        self.end = length + 2
        self.registers = registers
        self.points: list[Point] = []
        self.offset = 0

    def group(self, group: Mapping[str, Any], prefix: str, outer: Mapping[str, int]) -> None:
        """Lay out one group; `outer` gives the offsets of the points around it, by name."""
        known = dict(outer)
        offset = self.offset
        for point in group.get("points", ()):
            known[point["name"]] = offset
            offset += int(point["size"])
        for point in group.get("points", ()):
            self.point(point, prefix, known)
        for inner in group.get("groups", ()):
            count = self.count(inner, known)
            repeats = inner.get("count", 1) != 1
            for k in range(1, count + 1):
                if self.offset >= self.end:
                    return
                name = f"{inner['name']}[{k}]" if repeats else inner["name"]
                self.group(inner, f"{prefix}{name}.", known)

    def count(self, group: Mapping[str, Any], known: Mapping[str, int]) -> int:
        """Return how often a group repeats: as a point says, or as often as it fits (0)."""
        count = group.get("count", 1)
        if count == 0:
            return max(0, self.end - self.offset) // max(1, _size(group))
        if isinstance(count, int):
            return count
        at = known.get(str(count))
        stated = self.registers[at] if at is not None and at < len(self.registers) else None
        return 0 if stated is None or stated == 0xFFFF else stated

    def point(self, point: Mapping[str, Any], prefix: str, known: Mapping[str, int]) -> None:
        """Lay out one point; what lies beyond the model's stated length is not there."""
        size, factor = int(point["size"]), point.get("sf")
        scale_offset = known.get(factor) if isinstance(factor, str) else None
        missing = isinstance(factor, str) and (scale_offset is None or scale_offset >= self.end)
        if self.offset + size <= self.end and not missing:
            self.points.append(
                Point(
                    model=self.model,
                    name=prefix + point["name"],
                    offset=self.offset,
                    size=size,
                    type=point["type"],
                    units=str(point.get("units") or "").strip(),
                    label=str(point.get("label") or ""),
                    writable=point.get("access") == "RW",
                    symbols=tuple((s["name"], int(s["value"])) for s in point.get("symbols", ())),
                    scale_offset=scale_offset,
                    scale=factor if isinstance(factor, int) else 0,
                )
            )
        self.offset += size


@lru_cache(maxsize=256)
def fixed_points(model: int, length: int) -> Mapping[str, Point]:
    """Return the points in front of a model's first repeating group, by name; empty for an unknown model."""
    group = definition(model)
    if group is None:
        return {}
    head = dict(group)
    head["groups"] = []
    for inner in group.get("groups", ()):
        if inner.get("count", 1) != 1 or _repeats(inner):
            break
        head["groups"].append(inner)
    expander = _Expander(model, length, ())
    expander.group(head, "", {})
    return {point.name: point for point in expander.points}


def all_points(model: int, length: int, registers: Registers) -> dict[str, Point]:
    """Return every point of a model by name, repeating groups as often as the registers say."""
    group = definition(model)
    if group is None:
        return {}
    expander = _Expander(model, length, registers)
    expander.group(group, "", {})
    return {point.name: point for point in expander.points}


def number_of(words: Sequence[int], *, signed: bool) -> int:
    """Return the integer that big-endian registers hold."""
    number = 0
    for word in words:
        number = number << 16 | word
    top = 1 << (16 * len(words) - 1)
    return number - 2 * top if signed and number & top else number


def blank_of(kind: str, size: int) -> int:
    """Return the number that says "not implemented" for an integer type of `size` registers."""
    if kind in SIGNED:
        return -(1 << (16 * size - 1))
    return 0 if kind in COUNTERS else (1 << 16 * size) - 1


def range_of(kind: str, size: int) -> tuple[int, int]:
    """Return the least and the greatest number an integer type of `size` registers can say."""
    if kind in SIGNED:
        top = 1 << (16 * size - 1)
        return 1 - top, top - 1
    ones = (1 << 16 * size) - 1
    return (1, ones) if kind in COUNTERS else (0, ones - 1)


def scaled(number: float, power: int) -> float:
    """Return ``number · 10^power``, rounded once."""
    ten: int = 10 ** abs(power)
    return number * ten if power >= 0 else number / ten


def scale_of(point: Point, registers: Registers) -> int | None:
    """Return the power of ten of a point's values, None when its scale factor says nothing usable."""
    if point.scale_offset is None:
        return point.scale
    word = registers[point.scale_offset] if point.scale_offset < len(registers) else None
    return None if word is None else scale_from(word)


def scale_from(word: int) -> int | None:
    """Return the power of ten a scale factor's register says, None when it is not implemented or unusable."""
    scale = number_of((word,), signed=True)
    return scale if SCALE_LOW <= scale <= SCALE_HIGH else None


def value_of(point: Point, registers: Registers) -> Value | None:
    """Return a point's value out of the registers of its model, None where there is none."""
    words = registers[point.offset : point.offset + point.size]
    if len(words) < point.size:
        return None
    whole = [word for word in words if word is not None]
    return decode(point, whole, scale_of(point, registers)) if len(whole) == point.size else None


def decode(point: Point, words: Sequence[int], scale: int | None) -> Value | None:
    """Return the value that a point's own registers say at a scale, None for "not implemented"."""
    kind = point.type
    data = struct.pack(f">{len(words)}H", *words)
    if kind == "pad" or scale is None:
        return None
    if kind == "string":
        return data.split(b"\0", 1)[0].decode("utf-8", errors="replace").strip() or None
    if kind in FLOATS:
        number = float(struct.unpack(FLOATS[kind], data)[0])
        return number if math.isfinite(number) else None
    if kind in ADDRESSES:
        blank = not any(data) or data[-6:] == b"\xff" * 6
        return None if blank else data.hex(":" if kind == "eui48" else " ", 1 if kind == "eui48" else 2)
    number = number_of(words, signed=kind in SIGNED)
    if number == blank_of(kind, point.size):
        return None
    return scaled(number, scale) if scale else number


def is_number(point: Point) -> bool:
    """Whether a point's values are numbers, enumerations and bit fields included."""
    return point.type not in ADDRESSES and point.type not in ("string", "pad")


def row_of(point: Point, shift: int = 0, power: int = 0) -> tuple[int, int, int, int, int, int]:
    """Return a point's row in the table of a `Decoder`.

    Parameters
    ----------
    point : Point
        Its values are numbers.
    shift : int
        Register of the model's id within those that will be decoded.
    power : int
        Power of ten on top of the point's own.
    """
    kind = 2 if point.type in FLOATS else int(point.type in SIGNED)
    blank = 0 if kind == 2 else blank_of(point.type, point.size) & ((1 << 16 * point.size) - 1)
    scale_at, own = (-1, point.scale) if point.scale_offset is None else (point.scale_offset + shift, 0)
    return point.offset + shift, point.size, kind, blank, scale_at, own + power


def encode(point: Point, value: Value, scale: int | None) -> list[int]:
    """Return the registers that say `value`.

    Parameters
    ----------
    point : Point
    value : int, float or str
        A number; for an enumeration also the name of one of its values; for a string its text.
    scale : int or None
        From `scale_of`.

    Raises
    ------
    ValueError
        The value cannot be said; the message says what can.
    """
    if scale is None:
        raise ValueError("its scale factor is not implemented, so no value can be written")
    if point.type == "string":
        text = str(value).encode()
        if len(text) > 2 * point.size:
            raise ValueError(f"{value!r} found; allowed are up to {2 * point.size} bytes")
        return list(struct.unpack(f">{point.size}H", text.ljust(2 * point.size, b"\0")))
    if point.type in ADDRESSES or point.type == "pad":
        raise ValueError(f"points of type {point.type} cannot be written here")
    named = dict(point.symbols) if point.type.startswith("enum") else {}
    number = named.get(value) if isinstance(value, str) else value
    if number is None or isinstance(number, bool) or not math.isfinite(number):
        names = f", {', '.join(named)}" if named else ""
        raise ValueError(f"{value!r} found; allowed are numbers{names}")
    if point.type in FLOATS:
        return list(struct.unpack(f">{point.size}H", struct.pack(FLOATS[point.type], float(number))))
    low, high = range_of(point.type, point.size)
    register = round(scaled(number, -scale))
    if not low <= register <= high or (register != number and point.scale_offset is None and not scale):
        kind = "numbers" if scale or point.scale_offset is not None else "whole numbers"
        raise ValueError(
            f"{value!r} found; allowed are {kind} {scaled(low, scale):g} to {scaled(high, scale):g}"
        )
    return words_of(register, point.size)


def words_of(number: int, size: int) -> list[int]:
    """Return the registers that hold an integer, two's complement where it is negative."""
    number &= (1 << 16 * size) - 1
    return [number >> 16 * (size - 1 - k) & 0xFFFF for k in range(size)]
