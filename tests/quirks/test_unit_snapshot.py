"""One instant over several reads, through whatever layers: a continuation is latched, and nothing else."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator._pdu import Reader
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.points import NUMBER_TYPES
from ridethrough.emulator.quirks.maps import MapLayer
from ridethrough.emulator.quirks.unit import QuirkyUnit
from sunspec2 import device as witness

from tests.emulator.register_bench import HOME
from tests.quirks.wire import build, made

WALK = {"factors": ["701.W_SF", "701.TotWh_SF"], "shift": 1, "when": {"every_s": 2, "for_s": 1}}
KNOBS: dict[str, dict[str, Any]] = {
    "none": {},
    "base 0": {"map": {"base": 0, "common_length": 65}},
    "meter in the same map": {"map": {"meter": "same-map", "inverter_family": "float"}},
    "a hole in 701": {"map": {"holes": [{"points": ["701.WL2"], "code": 4}]}},
    "signs": {"values": {"signs": [{"points": ["701.W", "701.Var"]}]}},
    "walking": {"values": {"scales": [WALK]}, "map": {"base": 50000}},
    "write only": {"writes": {"write_only": [{"points": ["704.WSet"], "reads": "zero"}]}},
}


def device(name: str) -> tuple[Plant, QuirkyUnit]:
    knobs = KNOBS[name]
    plant, units = build(HOME, [made(**knobs)] if knobs else [])
    plant.set_input("load_w", 3000.0)
    plant.set_control("set_ena", 1.0)
    plant.set_control("var_ena", 1.0)
    move(plant, 1)
    return plant, units[1]


def move(plant: Plant, k: int, ticks: int = 25) -> None:
    """Ask for another power, and let it be given."""
    plant.set_control("set_w", 600.0 + 137.0 * k)
    plant.set_control("var_var", 900.0 - 71.0 * k)
    plant.advance(ticks)


def map_of(unit: QuirkyUnit) -> tuple[int, int]:
    """Return the first register and one behind the last of a unit's map."""
    outer = unit.layers[-1] if unit.layers else None
    if isinstance(outer, MapLayer):
        segments = outer.segments()
        return segments[0].first, segments[-1].first + segments[-1].count
    layout = unit.image.layout
    return layout.base_address, layout.base_address + layout.count


def words(unit: QuirkyUnit) -> list[bytes | int]:
    """Return every register of the map as it is now, each read alone and by nobody in particular."""
    first, end = map_of(unit)
    return [unit.read(address, 1) for address in range(first, end)]


def place_of_701(unit: QuirkyUnit) -> int:
    """Walk the chain, as a client does."""
    address = map_of(unit)[0] + 2
    while True:
        header = unit.read(address, 2)
        assert isinstance(header, bytes)
        model, length = struct.unpack(">HH", header)
        if model == 701:
            return address
        assert model != 0xFFFF
        address += 2 + length


def part(unit: QuirkyUnit, address: int, count: int, reader: Reader | None) -> bytes:
    data = unit.read(address, count, reader)
    assert isinstance(data, bytes), f"exception {data} for {count} registers at {address}"
    return data


def torn(data: bytes) -> bool:
    """Tell whether a model 701 of one phase does not agree with itself; pysunspec2 decodes it."""
    points = witness.Model(701, model_addr=0, model_len=153, data=data).points
    shown = {name: point.value for name, point in points.items()}
    pairs = (("W", "WL1"), ("VA", "VAL1"), ("Var", "VarL1"), ("A", "AL1"))
    return any(abs(shown[whole]) != abs(shown[one]) for whole, one in pairs)


@pytest.mark.parametrize("name", [name for name in KNOBS if name != "a hole in 701"])
@given(cut=st.integers(3, 152), second=st.integers(1, 60))
@settings(deadline=None, max_examples=12)
def test_701_in_parts_is_of_one_instant(name: str, cut: int, second: int) -> None:
    plant, unit = device(name)
    first, reader = place_of_701(unit), Reader()
    whole = part(unit, first, 155, None)
    data = b""
    stops = sorted({0, cut, min(155, cut + second), 155})
    for k, (begin, end) in enumerate(pairwise(stops)):
        data += part(unit, first + begin, end - begin, reader)
        move(plant, 3 + k, 10)
        unit.step()
    assert data == whole
    assert not torn(data)


@pytest.mark.parametrize("name", [name for name in KNOBS if name != "a hole in 701"])
def test_without_a_reader_the_parts_disagree_and_the_check_says_so(name: str) -> None:
    plant, unit = device(name)
    first = place_of_701(unit)
    data = part(unit, first, 40, None)
    move(plant, 9, 50)
    assert torn(data + part(unit, first + 40, 115, None))


def test_a_walking_scale_factor_shows_in_two_reads_of_the_same_registers() -> None:
    """Only a continuation is kept: value and factor of one read belong together, and the next read moves."""
    plant, unit = device("walking")
    first, reader = place_of_701(unit), Reader()
    points = witness.Model(701, model_addr=0, model_len=153, data=part(unit, first, 155, None)).points
    at = 2 * points["W_SF"].offset
    seen = set()
    for _ in range(4):
        data = part(unit, first, 100, reader)
        move(plant, 5, 40)
        data += part(unit, first + 100, 55, reader)
        assert not torn(data)
        seen.add(struct.unpack_from(">h", data, at)[0])
        move(plant, 5, 10)
    assert len(seen) == 2


@dataclass
class Kept:
    """What a reader has in store."""

    words: list[bytes | int]
    first: int
    end: int
    ticks: int
    writes: int


class Oracle:
    """The rule in plain Python, on whole maps of single registers; it finds long models by their chain."""

    def __init__(self, unit: QuirkyUnit) -> None:
        self.unit = unit
        self.kept: dict[int, Kept | None] = {}
        self.writes = 0
        self.base, _ = map_of(unit)
        self.bodies, self.numbers = [], []
        image, at = words(unit), 2
        while (model := image[at]) != b"\xff\xff":
            assert isinstance(model, bytes)
            length = int.from_bytes(part(unit, self.base + at + 1, 1, None), "big")
            if length + 2 > 125:
                self.bodies.append((at + 2, at + 2 + length))
            layout, offset = unit.image.layout, at + 2
            number = int.from_bytes(model, "big")
            if number in layout.models:
                inner = layout.point(number, "ID").address
                for point in layout.points:
                    if point.model == number and point.size > 1 and point.type in NUMBER_TYPES:
                        begin = offset - 2 + point.address - inner
                        self.numbers.append((begin, begin + point.size))
            at += 2 + length

    def end_of_snapshot(self, live: list[bytes | int], first: int, stop: int) -> int:
        ends = [end for begin, end in self.bodies if first <= begin < stop < end]
        ends += [end for begin, end in self.numbers if begin < stop < end]
        end = ends[0] if ends else stop
        return next((k for k in range(stop, end) if isinstance(live[k], int)), end)

    def read(self, reader: int, first: int, count: int, ticks: int) -> bytes | int:
        kept, self.kept[reader] = self.kept.get(reader), None
        live, stop = words(self.unit), first + count
        if first < 0 or stop > len(live):
            return 2
        if kept is not None:
            fresh = ticks - kept.ticks <= TICKS_PER_S and kept.writes == self.writes
            if kept.first == first and fresh:
                live = live[:first] + kept.words[first : kept.end] + live[kept.end :]
                if stop <= kept.end:
                    if stop < kept.end:
                        kept.first = stop
                        self.kept[reader] = kept
                    return self.joined(live[first:stop])
        answer = self.joined(live[first:stop])
        true = words(self.unit)
        end = self.end_of_snapshot(true, first, stop)
        if isinstance(answer, bytes) and end > stop:
            self.kept[reader] = Kept(true, stop, end, ticks, self.writes)
        return answer

    @staticmethod
    def joined(found: list[bytes | int]) -> bytes | int:
        codes = [word for word in found if isinstance(word, int)]
        return codes[0] if codes else b"".join(word for word in found if isinstance(word, bytes))


@pytest.mark.parametrize("name", ["none", "base 0", "a hole in 701", "walking", "write only"])
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_any_reads_of_two_readers_follow_the_rule(name: str, data: st.DataObject) -> None:
    plant, unit = device(name)
    oracle, readers, stops = Oracle(unit), [Reader(), Reader()], [0, 0]
    begin = place_of_701(unit) - oracle.base + 2
    heartbeat = next(a for a, _ in oracle.numbers if a > begin + 155)
    for k in range(data.draw(st.integers(3, 8))):
        who = data.draw(st.integers(0, 1))
        what = data.draw(st.sampled_from(["begin", "begin", "on", "on", "on", "any", "move", "write"]))
        if what == "move":
            move(plant, k, data.draw(st.sampled_from([10, 25, 50, 51])))
            unit.step()
        elif what == "write":
            unit.write(oracle.base + data.draw(st.sampled_from([heartbeat, 0])), bytes(4))
            oracle.writes += 1
        else:
            near = st.sampled_from([begin, begin, begin - 2, begin + 1, *(a for a, _ in oracle.numbers)])
            first = {"on": stops[who]}.get(what, begin if what == "begin" else data.draw(near))
            count = data.draw(st.one_of(st.integers(1, 60), st.integers(1, 125)))
            expected = oracle.read(who, first, count, plant.elapsed_ticks)
            assert unit.read(oracle.base + first, count, readers[who]) == expected
            stops[who] = first + count


def test_the_core_tells_who_reads() -> None:
    plant, unit = device("signs")
    early, late = Connection({1: unit}), Connection({1: unit})
    first, data = place_of_701(unit), {}

    def ask(connection: Connection, address: int, count: int) -> bytes:
        return connection.receive(struct.pack(">HHHBBHH", 7, 0, 6, 1, 3, address, count))[9:]

    for k, connection in enumerate((early, late)):
        data[connection] = ask(connection, first, 40)
        move(plant, 10 * k, 25)
    for connection in (early, late):
        data[connection] += ask(connection, first + 40, 115)
        assert len(data[connection]) == 310
        assert not torn(data[connection])
    assert data[early] != data[late]


def test_a_device_that_hangs_on_a_write_does_not_serve_what_was_kept() -> None:
    quirk = made(writes={"hang": {"gap_s": 5.0, "hang_s": 5.0}})
    plant, units = build(HOME, [quirk])
    unit, reader = units[1], Reader()
    first = place_of_701(unit)
    heartbeat = unit.image.layout.point(715, "ControllerHb").address
    part(unit, first, 40, reader)
    assert unit.write(heartbeat, bytes(4)) == 0
    assert unit.write(heartbeat, bytes(4)) == 6
    assert unit.read(first + 40, 60, reader) == 6
    plant.advance(6 * TICKS_PER_S)
    assert isinstance(unit.read(first + 40, 60, reader), bytes)


def test_a_model_that_vanishes_between_two_reads_is_read_to_its_end() -> None:
    """What a client has begun to read is still there; what it begins anew is not."""
    hidden = {"models": [701], "when": {"start_s": 3.0}}
    plant, units = build(HOME, [made(map={"hidden": [hidden]})])
    unit, reader = units[1], Reader()
    first = place_of_701(unit)
    plant.advance(3 * TICKS_PER_S - plant.elapsed_ticks - 10)
    whole = part(unit, first, 155, None)
    data = part(unit, first, 40, reader)
    plant.advance(20)
    assert data + part(unit, first + 40, 115, reader) == whole
    assert part(unit, first, 2, reader) == struct.pack(">HH", 702, 50)
