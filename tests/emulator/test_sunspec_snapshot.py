"""One instant over several reads: model 701 has 155 registers, and one Modbus request reads 125 of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator._pdu import Reader
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.points import NUMBER_TYPES
from sunspec2 import device as witness

from tests.emulator.register_bench import DEVICE, FULL, HOME, OK, Bench, dump, with_face

SECOND_TICKS = 50
FLOAT_METER = with_face(HOME, meter_models=(1, 211))


def moving_bench() -> Bench:
    """Return a home whose power, reactive power and counters change with every second."""
    bench = Bench()
    bench.plant.set_input("load_w", 3000.0)
    bench.plant.set_control("var_ena", 1.0)
    bench.plant.set_control("var_var", 700.0)
    assert bench.write(704, ("WSetEna", 1)) == OK
    move(bench, 10)
    return bench


def move(bench: Bench, k: int, ticks: int = SECOND_TICKS) -> None:
    """Ask for another power and let it be given."""
    bench.plant.set_control("set_w", 500.0 + 137.0 * k)
    bench.plant.set_control("var_var", 900.0 - 71.0 * k)
    bench.plant.advance(ticks)


def part(unit: DeviceImage, address: int, count: int, reader: Reader | None) -> bytes:
    data = unit.read(address, count, reader)
    assert isinstance(data, bytes)
    return data


def tears(data: bytes) -> list[str]:
    """Return what does not agree in a model 701 of one phase, as pysunspec2 decodes it."""
    points = witness.Model(701, model_addr=0, model_len=153, data=data).points
    shown = {name: point.cvalue for name, point in points.items()}
    found = [
        f"{whole} {shown[whole]} and {one} {shown[one]}"
        for whole, one in (("W", "WL1"), ("VA", "VAL1"), ("Var", "VarL1"), ("A", "AL1"), ("LNV", "VL1"))
        if shown[whole] != shown[one]
    ]
    apparent_va = (shown["W"] ** 2 + shown["Var"] ** 2) ** 0.5
    return found + ([f"VA {shown['VA']}, not {apparent_va}"] if abs(shown["VA"] - apparent_va) > 2 else [])


def read_in_parts(bench: Bench, cuts: list[int], reader: Reader | None, skip: int = 0) -> bytes:
    """Read model 701 in parts within 1 s, the plant moving between them; `skip` registers are left out."""
    first = bench.layout.point(701, "ID").address
    stops = [skip, *sorted(cuts), 155]
    data = bytes(2 * skip)
    for k, (begin, end) in enumerate(pairwise(stops)):
        if begin < end:
            data += part(bench.unit, first + begin, end - begin, reader)
            move(bench, k, SECOND_TICKS // len(cuts))
    return data


@given(st.lists(st.integers(3, 154), min_size=1, max_size=4, unique=True), st.sampled_from([0, 1, 2]))
@settings(deadline=None, max_examples=60)
def test_a_model_read_in_parts_is_of_the_instant_of_the_first(cuts: list[int], skip: int) -> None:
    bench = moving_bench()
    whole = part(bench.unit, bench.layout.point(701, "ID").address, 155, None)
    data = read_in_parts(bench, cuts, Reader(), skip)
    assert data[2 * skip :] == whole[2 * skip :]
    header = struct.pack(">HH", 701, 153)
    assert tears(header + data[4:]) == []


def test_without_a_reader_the_parts_disagree_and_the_check_says_so() -> None:
    bench = moving_bench()
    assert tears(read_in_parts(bench, [40], None))
    assert tears(read_in_parts(bench, [40], Reader())) == []


@dataclass
class Kept:
    """What a reader has in store: the whole map as it was, what is left of it, when, after which write."""

    image: bytes
    first: int
    end: int
    ticks: int
    writes: int


class Oracle:
    """The rule, in plain Python, on whole images; it finds models by walking their chain."""

    def __init__(self, unit: DeviceImage) -> None:
        self.unit = unit
        self.kept: dict[int, Kept | None] = {}
        self.writes = 0
        image = dump(unit)
        self.bodies: list[tuple[int, int]] = []
        at = 2
        while (head := struct.unpack_from(">HH", image, 2 * at))[0] != 0xFFFF:
            if head[1] + 2 > 125:
                self.bodies.append((at + 2, at + 2 + head[1]))
            at += 2 + head[1]

    def end_of_snapshot(self, first: int, stop: int) -> int:
        """Return where what a read has cut ends."""
        for begin, end in self.bodies:
            if first <= begin < stop < end:
                return end
        points = self.unit.layout.point_at
        here = points[stop] if stop < self.unit.count else None
        if here is not None and here is points[stop - 1] and here.type in NUMBER_TYPES:
            return here.address - self.unit.base_address + here.size
        return stop

    def read(self, reader: int, first: int, count: int, ticks: int) -> bytes | int:
        """Return what a read must give."""
        kept, self.kept[reader] = self.kept.get(reader), None
        stop = first + count
        if first < 0 or stop > self.unit.count:
            return 2
        live = dump(self.unit)
        data = live
        if kept is not None and (kept.first, kept.writes) != (first, self.writes):
            kept = None
        if kept is not None and ticks - kept.ticks <= SECOND_TICKS:
            data = live[: 2 * first] + kept.image[2 * first : 2 * kept.end] + live[2 * kept.end :]
            if stop < kept.end:
                kept.first = stop
                self.kept[reader] = kept
            if stop <= kept.end:
                return data[2 * first : 2 * stop]
        end = self.end_of_snapshot(first, stop)
        if end > stop:
            self.kept[reader] = Kept(live, stop, end, ticks, self.writes)
        return data[2 * first : 2 * stop]


@pytest.mark.parametrize(("profile", "unit_id"), [(FULL, 1), (FLOAT_METER, 101)], ids=["full", "float meter"])
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_any_reads_of_two_readers_follow_the_rule(profile: object, unit_id: int, data: st.DataObject) -> None:
    plant = Plant([profile] * (DEVICE + 3), soc_frac=0.5)  # type: ignore[list-item]  # parametrised
    plant.set_input("load_w", 3000.0)
    plant.set_control("set_ena", 1.0)
    units = units_of(plant, DEVICE)
    unit, other = units[unit_id], units[102 - unit_id]
    oracle, readers, stops = Oracle(unit), [Reader(), Reader()], [0, 0]
    begin, _ = oracle.bodies[0]  # 701 or 211: the others hold settings
    starts = st.sampled_from([begin, begin, begin - 2, begin + 1])
    numbers = st.sampled_from([p.address - unit.base_address for p in unit.layout.points if p.size == 2])
    actions = ["begin", "read", *["on"] * 3, *["move"] * 2, *["write"] * (unit_id == 1), "other"]
    for _ in range(data.draw(st.integers(3, 15))):
        who = data.draw(st.integers(0, 1))
        what = data.draw(st.sampled_from(actions))
        if what == "move":
            plant.set_control("set_w", data.draw(st.integers(-20, 20)) * 150.0)
            plant.advance(data.draw(st.sampled_from([1, 10, 25, 40, 50, 51])))
        elif what == "write":
            heartbeat = unit.layout.point(715, "ControllerHb").address
            assert unit.write(heartbeat, data.draw(st.binary(min_size=4, max_size=4))) == OK
            oracle.writes += 1
        elif what == "other":
            other.read(other.base_address, data.draw(st.integers(1, 3)), readers[who])
            oracle.kept[who] = None
        else:
            anywhere = st.one_of(numbers, st.integers(-2, unit.count))
            first = stops[who] if what == "on" else data.draw(starts if what == "begin" else anywhere)
            count = data.draw(st.one_of(st.integers(1, 30), st.integers(1, 125), st.just(125)))
            expected = oracle.read(who, first, count, plant.elapsed_ticks)
            assert unit.read(unit.base_address + first, count, readers[who]) == expected
            stops[who] = first + count


def test_a_float_meter_is_longer_than_a_request_too() -> None:
    """Models 201 to 204 are not, 211 to 214 are: 126 registers with their header."""
    plant = Plant([FLOAT_METER], soc_frac=0.5)
    meter = units_of(plant, 0)[101]
    first = meter.layout.point(211, "ID").address
    before = part(meter, first, 126, None)
    reader = Reader()
    data = part(meter, first, 30, reader)
    plant.set_input("load_w", 9000.0)
    plant.advance(SECOND_TICKS)
    assert data + part(meter, first + 30, 96, reader) == before
    assert part(meter, first, 126, None) != before


@pytest.mark.parametrize(("ticks", "same"), [(SECOND_TICKS, True), (SECOND_TICKS + 1, False)])
def test_what_was_kept_is_dropped_after_a_second(ticks: int, same: bool) -> None:
    bench = moving_bench()
    first, reader = bench.layout.point(701, "ID").address, Reader()
    before = part(bench.unit, first, 155, None)
    part(bench.unit, first, 20, reader)
    bench.plant.set_control("set_w", -2000.0)
    bench.plant.advance(ticks)
    assert (part(bench.unit, first + 20, 135, reader) == before[40:]) == same


def test_a_write_can_be_read_back_at_once_whatever_was_kept() -> None:
    """705 has 69 registers in FULL, 707 has 153: a stored point of its second half is written in between."""
    bench, reader = Bench(FULL), Reader()
    point = bench.layout.point(707, "Crv[2].MustTrip.Pt[1].Tms")
    first = bench.layout.point(707, "ID").address
    part(bench.unit, first, 20, reader)
    assert bench.write(707, ("Crv[2].MustTrip.Pt[1].Tms", 1.5)) == OK
    rest = part(bench.unit, first + 20, 100, reader)
    at = 2 * (point.address - first - 20)
    assert point.decode(rest[at : at + 4]) == 1.5


def test_the_halves_of_a_number_agree_though_a_read_cuts_it() -> None:
    """Row 63: 65,535 s and 65,536 s have other halves; 715 is a short model."""
    plant = Plant([HOME], soc_frac=0.5)
    plant.advance(SECOND_TICKS * 65_535)
    unit, reader = units_of(plant, 0)[1], Reader()
    address = unit.layout.point(715, "DERHb").address
    high = part(unit, address, 1, reader)
    plant.advance(SECOND_TICKS)
    assert high + part(unit, address + 1, 1, reader) == (65_535).to_bytes(4, "big")
    assert part(unit, address, 2, reader) == (65_536).to_bytes(4, "big")


def frame(address: int, count: int) -> bytes:
    return struct.pack(">HHHBBHH", 7, 0, 6, 1, 3, address, count)


def test_two_connections_each_have_their_own_instant() -> None:
    bench = moving_bench()
    early, late = Connection({1: bench.unit}), Connection({1: bench.unit})
    first = bench.layout.point(701, "ID").address
    data = {}
    for connection in (early, late):
        data[connection] = connection.receive(frame(first, 40))[9:]
        bench.plant.set_control("set_w", bench.control()["set_w"] + 400.0)
        bench.plant.advance(25)
    for connection in (early, late):
        data[connection] += connection.receive(frame(first + 40, 115))[9:]
        assert len(data[connection]) == 310
        assert tears(data[connection]) == []
    assert data[early] != data[late]
