"""The compiled encoding against exact arithmetic, and against pysunspec2's."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ridethrough.emulator import _registers
from ridethrough.emulator.fields import CONTROL, INPUT, LANES, PARAM, STATE
from ridethrough.emulator.layout import quantise_soc
from ridethrough.emulator.points import NUMBER_TYPES, NumberType
from sunspec2 import mb

INTEGERS = sorted(name for name, span in NUMBER_TYPES.items() if not span.real)
FLOATS = {"float32": ">f", "float64": ">d"}
TYPES = [*INTEGERS, *FLOATS]
SCALES = st.integers(-10, 10)


def mask(span: NumberType) -> int:
    return (1 << 16 * span.size) - 1


def encode(name: str, value: float, scale: int = 0, down: bool = False) -> bytes:
    span = NUMBER_TYPES[name]
    factor, divisor = 10.0 ** max(-scale, 0), 10.0 ** max(scale, 0)
    form = _registers.FLOAT if span.real else _registers.DOWN if down else _registers.NEAREST
    return _registers.encode(
        value, 2 * span.size, form, factor, divisor, span.low, span.high, span.blank & mask(span)
    )


def blank(name: str) -> bytes:
    span = NUMBER_TYPES[name]
    return (span.blank & mask(span)).to_bytes(2 * span.size, "big")


@pytest.mark.parametrize("name", TYPES)
def test_not_implemented_is_pysunspec2s_value(name: str) -> None:
    assert blank(name) == mb.create_unimpl_value(name)
    assert NUMBER_TYPES[name].size == mb.point_type_info[name].len


@given(st.sampled_from(INTEGERS), st.data())
def test_whole_numbers_survive_the_round_trip(name: str, data: st.DataObject) -> None:
    span = NUMBER_TYPES[name]
    exact = 1 << 53  # whole numbers that float64 holds
    register = data.draw(st.integers(max(span.low, -exact), min(span.high, exact)))
    encoded = encode(name, float(register))
    assert encoded == mb.point_type_info[name].to_data(register)
    assert _registers.decode(encoded, span.low < 0) == register
    assert mb.point_type_info[name].data_to(encoded) == register


@given(st.sampled_from(INTEGERS), st.floats(-1e12, 1e12), SCALES)
@example("int16", 0.5, 0)
@example("int16", 1.5, 0)
@example("int16", -2.5, 0)
@example("uint16", 65534.5, 0)
@example("uint16", 25.0, 1)
@example("acc16", 0.05, -1)  # a hair above half a step in exact arithmetic, half a step in float64
def test_a_value_is_within_half_a_step_or_unknown(name: str, value: float, scale: int) -> None:
    span, step = NUMBER_TYPES[name], Fraction(10) ** scale
    register = _registers.decode(encode(name, value, scale), span.low < 0)
    exact = Fraction(value) / step
    slack = abs(exact) * Fraction(1, 10**15)  # the scaled value is itself rounded to float64
    if register == span.blank and not (name.startswith("acc") and abs(exact) <= Fraction(1, 2) + slack):
        assert not span.low <= round(exact * (1 - Fraction(1, 10**15))) <= round(exact) <= span.high
        return
    assert abs(register - exact) <= Fraction(1, 2) + slack
    if scale <= 0 and abs(exact - math.floor(exact) - Fraction(1, 2)) == 0 and abs(exact) < 2**50:
        assert register % 2 == 0


def test_every_type_is_tested() -> None:
    assert {*INTEGERS, *FLOATS} == set(NUMBER_TYPES)


@given(st.sampled_from(sorted(FLOATS)), st.floats(-1e30, 1e30))
@example("float32", 0.1)
@example("float32", -0.0)
@example("float32", 1e-45)
def test_floats_are_the_nearest_there_are_as_struct_and_pysunspec2_have_them(name: str, value: float) -> None:
    assert encode(name, value) == struct.pack(FLOATS[name], value)
    assert mb.point_type_info[name].data_to(encode(name, value)) == pytest.approx(value, rel=6e-8, abs=1e-44)


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf, 3.5e38, -3.5e38])
def test_a_float_that_does_not_fit_is_the_one_pattern_for_not_implemented(value: float) -> None:
    assert encode("float32", value) == b"\x7f\xc0\0\0"
    if not math.isfinite(value):
        assert encode("float64", value) == b"\x7f\xf8" + bytes(6)


@pytest.mark.parametrize("form", [-1, 3, _registers.FLOAT])
def test_a_form_that_is_none_is_refused(form: int) -> None:
    with pytest.raises(ValueError, match=f"no such form {form} of 2 bytes"):
        _registers.encode(1.0, 2, form, 1.0, 1.0, 0.0, 9.0, 0)
    with pytest.raises(ValueError, match=f"no such form {form} of 2 bytes"):
        _registers.PointTable([(0, 0, 2, form, 1.0, 1.0, 0.0, 1.0, 65535)])


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_what_is_no_number_or_too_large_reads_as_not_implemented(name: str, value: float) -> None:
    assert encode(name, value) == blank(name)
    assert encode(name, value, down=True) == blank(name)


@pytest.mark.parametrize("name", INTEGERS)
def test_nothing_is_clipped_at_the_ends(name: str) -> None:
    span = NUMBER_TYPES[name]
    assert span.blank not in range(span.low, span.high + 1) or name.startswith("acc")
    assert encode(name, float(span.high)) != blank(name)
    assert encode(name, span.high * 1.001 + 1.0) == blank(name)
    assert encode(name, span.low * 1.001 - 1.0) == blank(name)


@given(st.floats(0, 1.5), st.integers(-2, 0))
@example(0.29, -2)
@example(np.nextafter(0.29, 0), -2)
@example(1.0, -2)
@example(np.nextafter(1.0, 0), -2)
def test_rounding_down_never_shows_more_and_is_what_mil_reports(soc: float, scale: int) -> None:
    """The register and `quantise_soc` give the same bits: MIL and SIL see one state of charge."""
    per_one = 10.0 ** (2 - scale)
    encoded = _registers.encode(soc, 2, True, per_one, 1.0, 0, 65534, 65535)
    shown = _registers.decode(encoded, False) / per_one
    assert shown <= soc < shown + 1 / per_one + 1e-15
    assert shown == float(quantise_soc(soc, 1 / per_one))


def test_rounding_down_is_the_same_in_both_codes_next_to_every_step() -> None:
    on = np.arange(10_001) / 1e4
    for soc in (on, np.nextafter(on[1:], 0.0), np.nextafter(on, 2.0)):
        register = [
            _registers.decode(_registers.encode(x, 2, True, 1e4, 1.0, 0, 65534, 65535), False)
            for x in soc.tolist()
        ]
        assert (np.array(register) / 1e4 == quantise_soc(soc, 1e-4)).all()


@given(st.binary(min_size=1, max_size=8))
def test_decode_is_big_endian_and_takes_whole_registers_only(data: bytes) -> None:
    if len(data) not in (2, 4, 8):
        with pytest.raises(ValueError, match="2, 4 or 8 bytes"):
            _registers.decode(data, False)
        return
    assert _registers.decode(data, False) == int.from_bytes(data, "big")
    assert _registers.decode(data, True) == int.from_bytes(data, "big", signed=True)


ROW = (0, 0, 2, False, 1.0, 1.0, 0.0, 65534.0, 65535)


class Arrays:
    """As much of a Plant as an image needs."""

    def __init__(self) -> None:
        self.n, self.changes = 9, np.zeros(1, np.int64)
        self.param, self.control, self.input, self.state = (
            np.ones((2, len(names), LANES)) for names in (PARAM, CONTROL, INPUT, STATE)
        )


def image(plant: Arrays, **changes: object) -> _registers.RegisterImage:
    given_: dict[str, object] = {
        "device": 0,
        "base_address": 0,
        "initial": bytes(4),
        "table": _registers.PointTable([ROW]),
        "constants": [1.0] * len(_registers.constant_names()),
        "held": np.zeros(len(_registers.setting_names())),
    }
    given_.update(changes)
    return _registers.RegisterImage(plant, **given_)  # type: ignore[arg-type]


def test_an_image_follows_the_version_of_its_plant() -> None:
    plant = Arrays()
    unit = image(plant)
    assert unit.read(0, 1) == b"\0\1"
    plant.state[:] = 7.0
    assert unit.read(0, 1) == b"\0\1"
    plant.changes += 1
    assert unit.read(0, 1) == b"\0\7"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": 9}, "device must be 0 to 8"),
        ({"device": -1}, "device must be 0 to 8"),
        ({"base_address": 65535}, "do not fit behind address 65535"),
        ({"initial": b"\0"}, "the image has 1"),
        ({"initial": b""}, "the image has 0"),
        ({"constants": [1.0]}, "constants"),
        ({"held": np.zeros(1)}, "settings"),
    ],
)
def test_an_image_refuses_what_does_not_fit(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        image(Arrays(), **changes)


def test_an_image_refuses_arrays_of_another_build() -> None:
    plant = Arrays()
    plant.state = np.ones((2, len(STATE) - 1, LANES))
    with pytest.raises(ValueError, match="run python setup"):
        image(plant)
    plant = Arrays()
    plant.n = 17
    with pytest.raises(ValueError, match="17 devices"):
        image(plant)


@pytest.mark.parametrize("row", [(-2, 0, 2), (0, 9999, 2), (0, 0, 3)])
def test_a_table_refuses_impossible_rows(row: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="row 0"):
        _registers.PointTable([(*row, False, 1.0, 1.0, 0.0, 1.0, 65535)])


TWO_ROWS = [(0, 0, 2, False, 1.0, 1.0, 0.0, 65534.0, 65535), (4, 1, 4, False, 1.0, 1.0, -1e9, 1e9, 1 << 31)]


@given(st.integers(0, 5), st.integers(1, 5))
def test_a_read_encodes_exactly_the_points_it_touches(first: int, count: int) -> None:
    """Whatever was read before, any read gives the registers of the whole as they are now."""
    plant = Arrays()
    unit = image(plant, initial=bytes(12), table=_registers.PointTable(TWO_ROWS))
    unit.read(0, 1)
    plant.state[:] = 7.0
    plant.changes += 1
    whole = b"\0\7" + b"\0\0" + b"\0\0\0\7" + b"\0\0" * 2
    end = min(first + count, 6)
    assert unit.read(first, end - first) == whole[2 * first : 2 * end]


@given(st.lists(st.tuples(st.sampled_from(["read", "move", "poke"]), st.integers(0, 5), st.integers(1, 5))))
def test_what_is_encoded_once_is_encoded_again_when_it_has_changed(steps: list[tuple[str, int, int]]) -> None:
    """Against an image that is made anew for every read."""
    plant = Arrays()
    table = _registers.PointTable(TWO_ROWS)
    unit = image(plant, initial=bytes(12), table=table)
    bytes_now = bytearray(12)
    for what, first, count in steps:
        end = min(first + count, 6)
        if what == "move":
            plant.state += float(count)
            plant.changes += 1
        elif what == "poke":
            unit.poke(2 * first, bytes([count] * 2))
            bytes_now[2 * first : 2 * first + 2] = bytes([count] * 2)
        else:
            other = image(plant, initial=bytes(bytes_now), table=table)
            assert unit.read(first, end - first) == other.read(first, end - first)


@pytest.mark.parametrize("spans", [[(2, 2)], [(3, 1)], [(2, 4), (3, 5)], [(-1, 2)]])
def test_spans_that_overlap_or_are_empty_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="is empty or not behind the one before"):
        _registers.PointTable([], spans)
    with pytest.raises(ValueError, match="is empty or not behind the one before"):
        _registers.PointTable([], [], spans)


def test_rows_out_of_map_order_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1: offset 0 is not behind the row before, which ends at 8"):
        _registers.PointTable([TWO_ROWS[1], TWO_ROWS[0]])


def test_bytes_put_into_an_image_are_read_and_stay() -> None:
    plant = Arrays()
    unit = image(plant, initial=bytes(12), table=_registers.PointTable(TWO_ROWS))
    unit.poke(8, b"\1\2\3\4")
    plant.changes += 1
    assert unit.read(4, 2) == unit.peek(8, 4) == b"\1\2\3\4"
    for offset, data in ((9, b"\0" * 4), (-1, b"\0"), (12, b"\0")):
        with pytest.raises(ValueError, match="do not fit an image of 12"):
            unit.poke(offset, data)
    for offset, size in ((9, 4), (-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="do not lie in an image of 12"):
            unit.peek(offset, size)


def test_names_are_unique_and_in_order() -> None:
    for names in (_registers.quantity_names(), _registers.setting_names(), _registers.constant_names()):
        assert len(set(names)) == len(names) > 0
    assert _registers.quantity_names()[0] == "power_w"
