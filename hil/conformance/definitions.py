"""What SunSpec's own definitions demand of a model: mandatory points, lengths, legal values.

Rules of this file: no I/O; definitions come from `sunspec_points.definition`, registers from the caller.

References
----------
SunSpec Device Information Model Specification: types, not-implemented values, scale factors -10 to 10.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from ..discovery import ModelImage
from ..sunspec_points import (
    ADDRESSES,
    COUNTERS,
    FLOATS,
    SCALE_HIGH,
    SCALE_LOW,
    SIGNED,
    Point,
    Registers,
    blank_of,
    definition,
    number_of,
    range_of,
)

_INDEX: Final = re.compile(r"\[\d+\]")
_SET_POINT: Final = re.compile(r"^(?P<head>.*)Pt\[(?P<row>\d+)\]\.")
_QUIET_NAN: Final = {"float32": b"\x7f\xc0\x00\x00", "float64": b"\x7f\xf8" + bytes(6)}
_BLANK_SCALE: Final = -0x8000


@cache
def entries(model: int) -> Mapping[str, Mapping[str, Any]]:
    """Return the definitions of a model's points by name, without the numbers of repeating groups."""

    def walk(group: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for point in group.get("points", ()):
            yield prefix + point["name"], point
        for inner in group.get("groups", ()):
            yield from walk(inner, f"{prefix}{inner['name']}.")

    return dict(walk(definition(model) or {}, ""))


def is_mandatory(point: Point) -> bool:
    """Tell whether a point must be implemented."""
    return entries(point.model).get(_INDEX.sub("", point.name), {}).get("mandatory") == "M"


def stated_length(model: int, length: int, registers: Registers) -> int | None:
    """Return the length L that a model's own counts demand, None where they say nothing.

    Parameters
    ----------
    model, length : int
        Id and L as the device states them.
    registers : Registers
        From the id on.

    Notes
    -----
    A group that repeats as often as it fits demands a whole number of times.
    """
    top = definition(model)
    if top is None:
        return None
    known: dict[str, int] = {}

    def size(group: Mapping[str, Any], offset: int) -> int:
        total = 0
        for point in group.get("points", ()):
            known[point["name"]] = offset + total
            total += int(point["size"])
        for inner in group.get("groups", ()):
            count = inner.get("count", 1)
            if count == 0:
                one = size(inner, offset + total)
                total += max(0, length + 2 - offset - total) // max(1, one) * one
                continue
            if isinstance(count, str):
                at = known.get(count, -1)
                word = registers[at] if 0 <= at < len(registers) else None
                count = 0 if word in (None, 0xFFFF) else word
            for _ in range(int(count or 0)):
                total += size(inner, offset + total)
                if total > 0xFFFF:
                    return total
        return total

    return size(top, 0) - 2


def words_of_point(image: ModelImage, point: Point) -> list[int] | None:
    """Return a point's registers, None where one could not be read."""
    words = [w for w in image.registers[point.offset : point.offset + point.size] if w is not None]
    return words if len(words) == point.size else None


def is_blank(point: Point, words: list[int]) -> bool:
    """Tell whether registers say "not implemented"."""
    if point.type == "pad":
        return True
    if point.type == "string" or point.type in ADDRESSES:
        return not any(words)
    if point.type in FLOATS:
        return struct.pack(f">{len(words)}H", *words) == _QUIET_NAN[point.type]
    return number_of(words, signed=point.type in SIGNED) == blank_of(point.type, point.size)


def implemented(image: ModelImage, name: str) -> bool:
    """Tell whether a point is there, can be read and is not blank."""
    point = image.points.get(name)
    words = None if point is None else words_of_point(image, point)
    return point is not None and words is not None and not is_blank(point, words)


def raw_of(image: ModelImage, name: str) -> int:
    """Return an integer point's number, unscaled."""
    point = image.points[name]
    return number_of(words_of_point(image, point) or [0], signed=point.type in SIGNED)


def is_active(image: ModelImage, point: Point) -> bool:
    """Tell whether a point of a curve is in use: its row is not above the curve's ActPt."""
    match = _SET_POINT.match(point.name)
    if match is None:
        return True
    active = image.value(f"{match['head']}ActPt")
    return not isinstance(active, int) or int(match["row"]) <= active


def mandatory_missing(image: ModelImage) -> Iterator[tuple[Point, str]]:
    """Yield the mandatory points of a model that are not implemented, and what they hold.

    A counter may stand at 0, which is also its "not implemented".
    """
    for point in image.points.values():
        if not is_mandatory(point) or point.type in COUNTERS or point.type == "pad":
            continue
        if not is_active(image, point):
            continue
        words = words_of_point(image, point)
        if words is None:
            yield point, "it refuses to be read"
        elif is_blank(point, words):
            yield point, f"0x{''.join(f'{w:04X}' for w in words)}, not implemented"


def value_fault(image: ModelImage, point: Point) -> tuple[str, str] | None:
    """Return what a point holds and what is allowed, when it holds what its definition does not allow."""
    words = words_of_point(image, point)
    if words is None:
        return "it refuses to be read", "an answer: points of a model are readable together"
    data = struct.pack(f">{len(words)}H", *words)
    found = f"0x{data.hex().upper()}"
    if point.type == "pad":
        return None if words[0] in (0x8000, 0) else (found, "0x8000 or 0")
    if is_blank(point, words):
        return None
    if point.type == "string":
        text, _, rest = data.partition(b"\0")
        good = not any(rest) and all(0x20 <= c < 0x7F or c >= 0xA0 for c in text)
        return None if good else (repr(data), "printable text, padded with NUL")
    if point.type in FLOATS:
        (number,) = struct.unpack(FLOATS[point.type], data)
        return None if math.isfinite(number) else (found, f"a number or 0x{_QUIET_NAN[point.type].hex()}")
    if point.type in ADDRESSES:
        return None
    return _integer_fault(point, words, found)


def _integer_fault(point: Point, words: list[int], found: str) -> tuple[str, str] | None:
    raw = number_of(words, signed=point.type in SIGNED)
    if point.type == "sunssf":
        if SCALE_LOW <= raw <= SCALE_HIGH:
            return None
        return str(raw), f"{SCALE_LOW} to {SCALE_HIGH}, or 0x8000 for none"
    named = dict(point.symbols)
    vendor = "Vnd" in point.name
    if point.type.startswith("enum") and named and not vendor and raw not in named.values():
        allowed = ", ".join(f"{number} {name}" for name, number in point.symbols)
        return str(raw), allowed
    if point.type.startswith("bitfield") and named and not vendor:
        stray = raw & ~sum(1 << bit for bit in named.values())
        if stray:
            return found, f"bits {', '.join(map(str, sorted(named.values())))}"
    foreign = 1 << 16 * point.size - 1
    if point.size > 1 and point.type not in SIGNED and raw == foreign:
        blank = blank_of(point.type, point.size) % (1 << 16 * point.size)
        return found, f"0x{blank:0{4 * point.size}X} for not implemented: this is the signed types' pattern"
    low, high = range_of(point.type, point.size)
    return None if low <= raw <= high or point.type in COUNTERS else (found, f"{low} to {high}")


def scale_missing(image: ModelImage, point: Point) -> str:
    """Return the name of the scale factor that an implemented point needs and does not have; else empty."""
    words = words_of_point(image, point)
    if point.scale_offset is None or words is None or is_blank(point, words):
        return ""
    word = image.registers[point.scale_offset]
    if word is None or number_of((word,), signed=True) == _BLANK_SCALE:
        return next((p.name for p in image.points.values() if p.offset == point.scale_offset), "its factor")
    return ""
