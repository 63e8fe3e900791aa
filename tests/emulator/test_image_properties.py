"""Properties of writes: exactly what should change, or nothing; and the timer as the standard has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator.fields import CONTROL
from ridethrough.emulator.image import DeviceImage
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.points import Point

from tests.emulator.register_bench import ADDRESS, DEVICE, NAMES, OK, PERMIT, PROFILES, Bench, effects


@pytest.mark.parametrize("name", NAMES)
def test_the_writable_points_are_these(name: str) -> None:
    points = Bench(PROFILES[name]).layout.points
    assert {str(p) for p in points if p.writable} == {
        str(p) for p in points if effects(p, PROFILES[name]) is not None
    }


PLAIN = st.integers(0, 3)
REGISTER = st.one_of(PLAIN, PLAIN, st.sampled_from([0xFFFF, 0x8000, 0, 10000, 55536]), st.integers(0, 0xFFFF))


@st.composite
def writes(draw: st.DrawFn, unit: DeviceImage) -> tuple[int, bytes]:
    """Draw a write near a point that can be written, or anywhere."""
    candidates = [point for point in unit.layout.points if point.writable]
    near = draw(st.sampled_from(candidates))
    anywhere = st.integers(unit.base_address - 3, unit.base_address + unit.count + 3)
    offset = st.integers(near.address - 1, near.address + near.size)
    address = draw(st.one_of(st.just(near.address), st.just(near.address), offset, anywhere))
    exact = draw(st.booleans())
    count = near.size if exact else draw(st.integers(1, 14))
    if exact and near.size == 2:
        value = draw(st.one_of(st.integers(-5000, 5000), st.integers(-(2**31), 2**31 - 1)))
        return address, value.to_bytes(4, "big", signed=True)
    return address, b"".join(draw(REGISTER).to_bytes(2, "big") for _ in range(count))


def points_changed(unit: DeviceImage, before: bytes, after: bytes) -> set[Point]:
    changed = {
        unit.layout.point_at[k]
        for k in range(unit.count)
        if before[2 * k : 2 * k + 2] != after[2 * k : 2 * k + 2]
    }
    assert None not in changed
    return {point for point in changed if point is not None}


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_write_changes_what_it_should_or_nothing(name: str, data: st.DataObject) -> None:
    profile = PROFILES[name]
    bench = Bench(profile)
    unit = bench.unit
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()):
            bench.plant.advance(data.draw(st.integers(1, 120)))
        address, written = data.draw(writes(unit))
        before, control, others = bench.dump(), bench.control(), everyone_else(bench.plant)
        code = unit.write(address, written)
        after, now = bench.dump(), bench.control()
        assert np.array_equal(everyone_else(bench.plant), others)
        touched = touched_points(unit, address, len(written) // 2)
        assert (code == ADDRESS) == any(p is None or effects(p, profile) is None for p in touched)
        if code != OK:
            assert (after, now) == (before, control)
            continue
        check_read_back(unit, address, written, before, after)
        allowed = frozenset().union(*(effects(p, profile) or () for p in touched if p is not None))
        assert {field for field in CONTROL if now[field] != control[field]} <= allowed
        for point in points_changed(unit, before, after) - touched:
            own = effects(point, profile)
            linked = own is not None and own & allowed
            shown = point.name in ("StActCtl", "Alrm", "Evt1") or point.name.endswith("RvrtRem")
            # Adoption answers, and set 1 shows what is in force.
            shown |= point.name in ("AdptCrvRslt", "AdptCtlRslt") or "[1]" in point.name
            # A device that waits to enter service shows at once whether it is permitted to.
            shown |= bool(allowed & PERMIT) and point.name in ("St", "InvSt", "ESDlyRemTms")
            assert linked or shown, f"{point} changed by a write to {sorted(map(str, touched))}"


def everyone_else(plant: Plant) -> NDArray[np.float64]:
    control = plant.control.copy()
    control[DEVICE // 8, :, DEVICE % 8] = 0.0
    return control


def touched_points(unit: DeviceImage, address: int, count: int) -> set[Point | None]:
    first = address - unit.base_address
    return {unit.layout.point_at[k] if 0 <= k < unit.count else None for k in range(first, first + count)}


def check_read_back(unit: DeviceImage, address: int, written: bytes, before: bytes, after: bytes) -> None:
    """DIM specification, 6.5: what was written reads back; a sentinel left the point as it was."""
    for point in touched_points(unit, address, len(written) // 2):
        assert point is not None
        here = slice(
            2 * (point.address - unit.base_address), 2 * (point.address + point.size - unit.base_address)
        )
        part = written[2 * (point.address - address) :][: 2 * point.size]
        sentinel = int.from_bytes(part, "big", signed=point.signed) == point.blank
        assert after[here] == (before[here] if sentinel else part), str(point)


class Oracle:
    """The revert timer of 704.WSet in whole seconds, as the standard's sentence says it."""

    def __init__(self) -> None:
        self.ena = self.w = self.rvrt_ena = self.rvrt_w = self.timeout = self.left = 0

    def write(self, **values: int) -> None:
        for name, value in values.items():
            setattr(self, name, value)
        self.left = self.timeout if self.ena else 0

    def second(self) -> None:
        if self.left:
            self.left -= 1
            if not self.left:
                self.ena, self.w = self.rvrt_ena, self.rvrt_w


NAMED = {
    "ena": "WSetEna",
    "w": "WSet",
    "rvrt_w": "WSetRvrt",
    "rvrt_ena": "WSetEnaRvrt",
    "timeout": "WSetRvrtTms",
}
VALUES = {"ena": st.integers(0, 1), "rvrt_ena": st.integers(0, 1), "timeout": st.integers(0, 8)}
STEP = st.one_of(
    st.integers(1, 10),
    st.sampled_from(sorted(NAMED)).flatmap(
        lambda name: st.tuples(st.just(name), VALUES.get(name, st.integers(-5000, 5000)))
    ),
)


@given(st.lists(STEP, min_size=4, max_size=25))
@settings(deadline=None, max_examples=150)
def test_the_timer_follows_the_standards_sentence(steps: list[int | tuple[str, int]]) -> None:
    bench, oracle = Bench(), Oracle()
    for step in steps:
        if isinstance(step, int):
            bench.wait(step)
            for _ in range(step):
                oracle.second()
        else:
            assert bench.write(704, (NAMED[step[0]], step[1])) == OK
            oracle.write(**{step[0]: step[1]})
        shown = [bench.read(704, point) for point in (*NAMED.values(), "WSetRvrtRem")]
        assert shown == [getattr(oracle, name) for name in NAMED] + [oracle.left]


def test_a_waiting_device_shows_at_once_that_service_is_permitted_again() -> None:
    bench = Bench()
    assert bench.write(123, ("Conn", 0)) == OK
    bench.wait(1)
    assert (bench.read(101, "St"), bench.read(701, "InvSt")) == (1.0, 0.0)  # OFF
    assert bench.write(123, ("Conn", 1)) == OK
    assert (bench.read(101, "St"), bench.read(701, "InvSt")) == (3.0, 2.0)  # STARTING
