"""What holds for any map: reads of one instant agree, and nothing but the asked-for deviation is there."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.image import units_of
from ridethrough.emulator.quirks.knobs import Quirk
from ridethrough.emulator.quirks.maps import MapLayer
from ridethrough.emulator.quirks.unit import QuirkyUnit

from tests.emulator.register_bench import HOME
from tests.quirks.wire import build, made

HOLE = st.builds(
    lambda point, code: {"points": [point], "code": code},
    st.sampled_from(["123.VArMaxPct", "701.W", "704.WSet", "802.SoC", "201.W"]),
    st.sampled_from([2, 4]),
)
LABEL = st.builds(
    lambda model, shown, length: {"model": model, "shown_id": shown, "shown_length": length},
    st.sampled_from([120, 123, 713]),
    st.integers(1, 64_000),
    st.one_of(st.none(), st.integers(1, 80)),
)
MAPS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "meter": st.sampled_from(["own-unit", "same-map", "none"]),
        "base": st.sampled_from([0, 40000, 50000]),
        "common_length": st.sampled_from([65, 66]),
        "end": st.sampled_from(["whole", "id-only", "none"]),
        "inverter_family": st.sampled_from(["int", "float", "both"]),
        "hidden": st.lists(
            st.builds(
                lambda models: {"models": models},
                st.lists(st.sampled_from([101, 123, 701, 704, 714, 802]), min_size=1),
            ),
            max_size=2,
        ),
        "relabel": st.lists(LABEL, max_size=2),
        "shrunk": st.lists(st.just({"model": 714, "length": 18}), max_size=1),
        "holes": st.lists(HOLE, max_size=3),
    },
)


def unit_with(knobs: dict[str, Any]) -> QuirkyUnit:
    quirks: list[Quirk] = [made(map=knobs)] if knobs else []
    return build(HOME, quirks)[1][1]


def words_one_by_one(unit: QuirkyUnit, address: int, count: int) -> list[bytes | int]:
    return [unit.read(address + k, 1) for k in range(count)]


def layer_of(unit: QuirkyUnit) -> MapLayer:
    layer = unit.layers[-1]
    assert isinstance(layer, MapLayer)
    return layer


@settings(max_examples=60, deadline=None)
@given(MAPS.filter(bool), st.data())
def test_a_read_is_what_its_registers_read_alone(knobs: dict[str, Any], data: st.DataObject) -> None:
    unit = unit_with(knobs)
    segments = layer_of(unit).segments()
    base, end = segments[0].first, segments[-1].first + segments[-1].count
    address = data.draw(st.integers(base - 2 if base else 0, end))
    count = data.draw(st.integers(1, 125))
    alone = words_one_by_one(unit, address, count)
    whole = unit.read(address, count)
    codes = [answer for answer in alone if isinstance(answer, int)]
    if codes:
        assert whole in codes
    else:
        assert whole == b"".join(answer for answer in alone if isinstance(answer, bytes))


@settings(max_examples=60, deadline=None)
@given(MAPS.filter(bool))
def test_segments_are_gapless_and_begin_with_the_marker(knobs: dict[str, Any]) -> None:
    unit = unit_with(knobs)
    segments = layer_of(unit).segments()
    for segment, following in pairwise(segments):
        assert segment.first + segment.count == following.first
    assert segments[0].data == b"SunS"
    if segments[0].first:
        assert unit.read(segments[0].first - 1, 1) == 2
    assert unit.read(segments[-1].first + segments[-1].count, 1) == 2


@settings(max_examples=60, deadline=None)
@given(MAPS.filter(bool).map(lambda knobs: {k: v for k, v in knobs.items() if k != "holes"}))
def test_the_chain_leads_to_the_end(knobs: dict[str, Any]) -> None:
    unit = unit_with(knobs | {"end": "whole"})
    address = layer_of(unit).segments()[0].first + 2
    models = []
    while True:
        header = unit.read(address, 2)
        assert isinstance(header, bytes)
        model, length = (int.from_bytes(header[k : k + 2], "big") for k in (0, 2))
        if model == 0xFFFF:
            break
        models.append(model)
        last = unit.read(address + 1 + length, 1)
        assert isinstance(last, bytes)
        address += 2 + length
    assert length == 0
    assert models[0] == 1
    gone = {model for hidden in knobs.get("hidden", ()) for model in hidden["models"]}
    assert not gone & set(models) - {label["shown_id"] for label in knobs.get("relabel", ())}


@settings(max_examples=40, deadline=None)
@given(st.integers(40000, 41500), st.integers(1, 125), st.sampled_from([{}, {"end": "whole"}]))
def test_without_deviation_it_is_the_plain_device(address: int, count: int, knobs: dict[str, Any]) -> None:
    plant, units = build(HOME, [made(map=knobs)] if knobs else [])
    plain = units_of(plant, 1)
    assert list(units) == list(plain)
    for number, unit in units.items():
        assert unit.read(address, count) == plain[number].read(address, count)


@settings(max_examples=40, deadline=None)
@given(MAPS.filter(bool), st.integers(0, 1500), st.integers(1, 10), st.integers(0, 0xFFFF))
def test_a_refused_write_changes_nothing_and_an_accepted_one_is_read_back(
    knobs: dict[str, Any], offset: int, count: int, word: int
) -> None:
    unit = build(HOME, [made(map=knobs)])[1][1]
    address = layer_of(unit).segments()[0].first + offset
    before = unit.image.read(unit.image.base_address, unit.image.count)
    data = word.to_bytes(2, "big") * count
    code = unit.write(address, data)
    if code:
        assert unit.image.read(unit.image.base_address, unit.image.count) == before
    else:
        pieces = layer_of(unit).segments()
        segment = max((s for s in pieces if s.first <= address), key=lambda s: s.first)
        assert segment.data is None
        assert segment.unit == 0


def test_time_decides_and_not_who_asks_when() -> None:
    hidden = {"hidden": [{"models": [704], "when": {"chance": 0.5}}]}
    seen = []
    for busy in (False, True):
        plant, units = build(HOME, [made(map=hidden)])
        ends = []
        for _ in range(40):
            plant.advance(TICKS_PER_S)
            for _ in range(7 if busy else 0):
                units[1].read(40000, 2)
            if busy:
                units[1].step()
            segments = layer_of(units[1]).segments()
            ends.append(segments[-1].first)
        seen.append(ends)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 2
