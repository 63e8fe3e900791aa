"""Values in registers: pysunspec2, the standard's own code, is the witness; the traps are listed by hand."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.hil import sunspec_points
from ridethrough.hil.sunspec_points import (
    Point,
    Value,
    all_points,
    decode,
    encode,
    fixed_length,
    fixed_points,
    scaled,
    value_of,
)
from sunspec2 import device as witness

from tests.hil.device_bench import model

MODELS = sorted(
    int(path.name.removeprefix("model_").removesuffix(".json"))
    for path in (files("sunspec2") / "models" / "json").iterdir()
    if path.name.startswith("model_")
)

INTEGERS = {
    "int16": (1, -32767, 32767, 0x8000),
    "uint16": (1, 0, 65534, 0xFFFF),
    "enum16": (1, 0, 65534, 0xFFFF),
    "bitfield16": (1, 0, 65534, 0xFFFF),
    "int32": (2, -(2**31) + 1, 2**31 - 1, 0x80000000),
    "uint32": (2, 0, 2**32 - 2, 0xFFFFFFFF),
    "bitfield32": (2, 0, 2**32 - 2, 0xFFFFFFFF),
    "acc32": (2, 1, 2**32 - 1, 0),
    "int64": (4, -(2**63) + 1, 2**63 - 1, 1 << 63),
    "uint64": (4, 0, 2**64 - 2, 2**64 - 1),
    "acc64": (4, 1, 2**64 - 1, 0),
}


def point(kind: str, size: int, **changes: object) -> Point:
    fields = {
        "model": 1,
        "name": "P",
        "offset": 2,
        "size": size,
        "type": kind,
        "units": "",
        "label": "",
        "writable": True,
        "symbols": (),
        "scale_offset": None,
        "scale": 0,
    }
    return Point(**(fields | changes))  # type: ignore[arg-type]  # the table above has the right types


def shown(group: witness.Group, prefix: str = "") -> dict[str, tuple[object, object]]:
    """Return the points of a group as pysunspec2 reads them: raw and computed."""
    found: dict[str, tuple[object, object]] = {}
    for name, one in group.points.items():
        found[prefix + name] = (one.value, one.cvalue)
    for name, inner in group.groups.items():
        for k, each in enumerate(inner if isinstance(inner, list) else [inner], 1):
            found |= shown(each, f"{prefix}{name}[{k}]." if isinstance(inner, list) else f"{prefix}{name}.")
    return found


REPEATS = 2
"""How often every repeating group repeats here."""


def counts_in(group: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the points that say how often a group repeats."""
    for inner in group.get("groups", ()):
        if isinstance(inner.get("count"), str):
            yield inner["count"]
        yield from counts_in(inner)


def size_of(group: Mapping[str, Any]) -> int:
    """Return the registers of a group whose repeating groups repeat `REPEATS` times."""
    size = sum(int(p["size"]) for p in group.get("points", ()))
    for inner in group.get("groups", ()):
        count = inner.get("count", 1)
        size += size_of(inner) * (REPEATS if count == 0 or isinstance(count, str) else count)
    return size


def filled(number: int) -> list[int]:
    """Return random registers of a model, with counts and scale factors that make sense."""
    rng = random.Random(number)
    group = sunspec_points.definition(number)
    assert group is not None
    length = size_of(group) - 2
    counts = set(counts_in(group))
    words = [number, length] + [rng.randrange(0x20, 0x7F) * 0x101 for _ in range(length)]
    for one in fixed_points(number, length).values():
        if one.name in counts:
            words[one.offset] = REPEATS
    for one in all_points(number, length, words).values():
        if one.type == "sunssf":
            words[one.offset] = rng.randrange(-3, 3) & 0xFFFF
    return words


def same(ours: Value | None, theirs: object) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-12)
    return ours == theirs


@pytest.mark.parametrize("number", MODELS)
def test_points_lie_and_read_as_pysunspec2_says(number: int) -> None:
    words = filled(number)
    data = struct.pack(f">{len(words)}H", *words)
    theirs = shown(witness.Model(number, model_len=words[1], data=data))
    ours = all_points(number, words[1], words)
    compared = 0
    for name, one in ours.items():
        if one.type in ("pad", "string", "ipaddr", "ipv6addr", "eui48") or name in ("ID", "L"):
            continue
        raw, computed = theirs[name]
        is_scaled = one.scale_offset is not None or one.scale != 0
        assert same(value_of(one, words), computed if is_scaled else raw), name
        compared += 1
    assert compared or not any(one.type not in ("pad", "string") for one in list(ours.values())[2:])


@pytest.mark.parametrize("number", [n for n in MODELS if fixed_length(n) is not None])
def test_offsets_and_lengths_are_pysunspec2s(number: int) -> None:
    theirs = witness.Model(number)
    length = fixed_length(number)
    assert length is not None
    ours = fixed_points(number, length)
    assert {name: (p.offset, p.size) for name, p in ours.items() if "." not in name} == {
        name: (p.offset, p.len) for name, p in theirs.points.items()
    }
    assert length == theirs.len - 2


@pytest.mark.parametrize("kind", INTEGERS)
def test_sentinels_are_none_and_their_neighbours_are_not(kind: str) -> None:
    size, low, high, blank = INTEGERS[kind]
    one = point(kind, size)
    words = list(struct.unpack(f">{size}H", blank.to_bytes(2 * size)))
    assert decode(one, words, 0) is None
    assert decode(one, words, -2) is None
    for number in (low, high):
        assert decode(one, encode(one, number, 0), 0) == number
    for number in (low - 1, high + 1):
        with pytest.raises(ValueError, match="allowed are whole numbers"):
            encode(one, number, 0)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("float32", [0x7FC0, 0]),
        ("float32", [0x7F80, 0]),
        ("float64", [0x7FF8, 0, 0, 0]),
        ("string", [0, 0]),
        ("pad", [0x8000]),
        ("ipaddr", [0, 0]),
        ("eui48", [0, 0xFFFF, 0xFFFF, 0xFFFF]),
        ("sunssf", [0x8000]),
    ],
)
def test_other_sentinels_are_none(kind: str, words: list[int]) -> None:
    assert decode(point(kind, len(words)), words, 0) is None


def test_texts_and_addresses() -> None:
    assert decode(point("string", 3), [0x4142, 0x4300, 0x5858], 0) == "ABC"
    assert decode(point("string", 1), [0xFF41], 0) == "\ufffdA"
    assert decode(point("ipaddr", 2), [0xC000, 0x0207], 0) == "c000 0207"
    assert decode(point("eui48", 4), [0, 0x0200, 0x5E10, 0x0001], 0) == "00:00:02:00:5e:10:00:01"
    assert encode(point("string", 2), "abc", 0) == [0x6162, 0x6300]
    with pytest.raises(ValueError, match="up to 4 bytes"):
        encode(point("string", 2), "abcde", 0)


@given(st.sampled_from(sorted(INTEGERS)), st.data(), st.integers(-10, 10))
def test_numbers_round_trip_at_every_scale(kind: str, data: st.DataObject, scale: int) -> None:
    size, low, high, _ = INTEGERS[kind]
    number = data.draw(st.integers(max(low, -(2**52)), min(high, 2**52)))
    one = point(kind, size, scale_offset=9)
    words = encode(one, scaled(number, scale), scale)
    assert len(words) == size
    assert decode(one, words, scale) == (scaled(number, scale) if scale else number)


@given(st.integers(0, 0xFFFF))
def test_a_scale_factor_that_is_not_implemented_or_absurd_makes_the_value_unknown(word: int) -> None:
    """Read as a power of zero, 0x8000 would make 5512 out of 55.12 %."""
    registers = model(713, SoC=5512)
    registers[8] = word
    signed = word - 0x10000 if word >= 0x8000 else word
    soc = value_of(fixed_points(713, 7)["SoC"], registers)
    assert (soc is None) == (not -10 <= signed <= 10)
    assert soc is None or soc == pytest.approx(5512 * 10.0**signed)


def test_values_are_scaled_with_one_rounding() -> None:
    assert value_of(fixed_points(713, 7)["SoC"], model(713, SoC=5512, Pct_SF=-2)) == 55.12
    assert value_of(fixed_points(713, 7)["WHRtg"], model(713, WHRtg=135, WH_SF=2)) == 13500
    assert value_of(fixed_points(713, 7)["Sta"], model(713, Sta=1)) == 1


def test_a_model_that_is_cut_short_loses_its_last_points_only() -> None:
    assert "Pad" in fixed_points(1, 66)
    assert fixed_points(1, 65).keys() == fixed_points(1, 66).keys() - {"Pad"}
    # Without its scale factor a point cannot be read, so it is not there.
    assert {"SoC", "SoH"}.isdisjoint(fixed_points(713, 6))
    assert "WHRtg" in fixed_points(713, 6)


@pytest.mark.parametrize("registers", [[0xFFFF] * 100, [60000] * 100, [0] * 100])
def test_absurd_counts_of_groups_are_bounded_by_the_length(registers: list[int]) -> None:
    for number in (705, 707, 803, 804, 160, 1):
        points = all_points(number, 98, registers)
        assert all(p.offset + p.size <= 100 for p in points.values())


def test_unknown_models_have_no_points() -> None:
    assert sunspec_points.definition(64999) is None
    assert all_points(64999, 10, [64999, 10, *range(10)]) == {}
    assert fixed_length(64999) is None


@pytest.mark.parametrize(
    ("kind", "size", "value", "words"),
    [
        ("uint16", 1, math.nan, "nan found; allowed are numbers"),
        ("uint16", 1, math.inf, "inf found"),
        ("uint16", 1, "seven", "'seven' found; allowed are numbers"),
        ("uint16", 1, True, "True found"),
        ("uint16", 1, 1.5, "1.5 found; allowed are whole numbers 0 to 65534"),
        ("uint16", 1, -1, "allowed are whole numbers 0 to 65534"),
        ("eui48", 4, "00:00", "cannot be written"),
    ],
)
def test_values_that_cannot_be_said_are_refused(kind: str, size: int, value: Value, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode(point(kind, size), value, 0)


def test_values_without_a_scale_factor_are_refused() -> None:
    with pytest.raises(ValueError, match="scale factor is not implemented"):
        encode(point("uint16", 1, scale_offset=5), 1, None)


def test_enumerations_take_names() -> None:
    ena = fixed_points(704, 65)["WSetEna"]
    assert encode(ena, "ENABLED", 0) == encode(ena, 1, 0) == [1]
    with pytest.raises(ValueError, match="allowed are numbers, DISABLED, ENABLED"):
        encode(ena, "ON", 0)


def test_the_nearest_step_is_written() -> None:
    soc = point("uint16", 1, scale_offset=9)
    assert encode(soc, 33.333, -1) == [333]
    with pytest.raises(ValueError, match=r"allowed are numbers 0 to 6553\.4"):
        encode(soc, 6554, -1)
