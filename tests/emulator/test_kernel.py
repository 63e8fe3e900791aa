"""The compiled kernel against its oracle, and what the packing of devices must not change.

All comparisons are of bits, so that a zero of the other sign or a last digit counts as a difference.
"""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator import _kernel, reference
from ridethrough.emulator.fields import CONTROL, LANES, STATE, TICKS_PER_S
from ridethrough.emulator.plant import Advance, Floats, Plant

from tests.strategies import Fleet, fleets, home, randomize

Bits = NDArray[np.uint64]


def bits(plant: Plant) -> dict[str, Bits]:
    """Every column of state and settings as bits, shape (n,) each."""
    columns = {name: plant.states(name) for name in STATE} | {name: plant.controls(name) for name in CONTROL}
    return {name: np.ascontiguousarray(values).view(np.uint64) for name, values in columns.items()}


def differences(a: Plant, b: Plant, rows: NDArray[np.intp] | None = None) -> list[str]:
    """Names of the columns in which row k of `a` is not bit for bit row rows[k] of `b`."""
    mine, other = bits(a), bits(b)
    take = np.arange(b.n) if rows is None else rows
    return [name for name in mine if not np.array_equal(mine[name], other[name][take])]


def live(plant: Plant, fleet: Fleet) -> Plant:
    for k, ticks in enumerate(fleet.ticks):
        fleet.enter(plant, k)
        plant.advance(ticks)
    return plant


@given(fleet=fleets())
@settings(max_examples=120, deadline=None)
def test_kernel_equals_reference_bit_for_bit(fleet: Fleet) -> None:
    compiled, plain = fleet.plant(), fleet.plant(reference.advance)
    for k, ticks in enumerate(fleet.ticks):
        for plant in (compiled, plain):
            fleet.enter(plant, k)
            plant.advance(ticks)
        assert differences(compiled, plain) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_kernel_equals_reference_on_many_devices_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plants = [bulk_plant(seed, advance=advance) for advance in (_kernel.advance, reference.advance)]
    compiled, plain = plants
    seen: set[float] = set()
    for _ in range(15):
        stream = int(rng.integers(2**32))
        ticks = int(rng.integers(1, 200))
        for plant in plants:
            randomize(plant, np.random.default_rng(stream))
            plant.advance(ticks)
        assert differences(compiled, plain) == []
        seen |= set(compiled.states("status"))
    assert seen == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def bulk_plant(seed: int, *, n: int = 250, advance: Advance = _kernel.advance) -> Plant:
    """Devices of a few random types with short delays."""
    rng = np.random.default_rng(seed)
    types = [
        home(
            battery={"energy_wh": rng.uniform(10.0, 200.0)},
            inverter={
                "enter_delay_s": rng.uniform(0.0, 3.0),
                "enter_ramp_s": rng.uniform(0.0, 3.0),
                "surge_s": rng.uniform(0.0, 1.0),
                "ramp_w_per_s": rng.uniform(200.0, 1e5),
            },
            island={
                "transfer": rng.choice(["ups", "fast", "slow"]),
                "restart_s": rng.uniform(0.0, 2.0),
                "pv_return_s": rng.uniform(0.0, 2.0),
            },
            control={"revert_state": rng.choice(["idle", "self_consumption", "recharge"])},
        )
        for _ in range(12)
    ]
    return Plant(
        [types[k] for k in rng.integers(0, len(types), n)],
        soc_frac=rng.uniform(0.05, 1.0, n),
        soh_frac=rng.uniform(0.6, 1.0, n),
        backup_frac=rng.uniform(0.2, 1.0, n),
        advance=advance,
    )


def test_the_comparison_sees_one_bit_and_the_sign_of_zero() -> None:
    a, b = (Plant([home()] * 3) for _ in range(2))
    b.state[0, STATE.index("energy_j"), 1] = np.nextafter(b.state[0, STATE.index("energy_j"), 1], 0.0)
    assert differences(a, b) == ["energy_j"]
    b = Plant([home()] * 3)
    b.set_control("set_w", -0.0)
    assert differences(a, b) == ["set_w"]


@given(fleet=fleets(n_max=5), order=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_devices_does_not_matter(fleet: Fleet, order: Random) -> None:
    rows = list(range(len(fleet.lives)))
    order.shuffle(rows)
    shuffled = Fleet(fleet.ticks, tuple(fleet.lives[k] for k in rows))
    assert differences(live(shuffled.plant(), shuffled), live(fleet.plant(), fleet), np.array(rows)) == []


@given(fleet=fleets(n_max=2), place=st.integers(0, 36))
@settings(max_examples=40, deadline=None)
def test_a_device_alone_is_the_same_among_37(fleet: Fleet, place: int) -> None:
    first, other = fleet.lives[0], fleet.lives[-1]
    crowd = Fleet(fleet.ticks, tuple(first if k == place else other for k in range(37)))
    alone = Fleet(fleet.ticks, (first,))
    assert differences(live(alone.plant(), alone), live(crowd.plant(), crowd), np.array([place])) == []


@given(fleet=fleets(spans_max=4), whole_s=st.integers(0, 4), rest=st.integers(0, 120))
@settings(max_examples=60, deadline=None)
def test_whole_seconds_can_be_asked_for_in_one_or_two_calls(fleet: Fleet, whole_s: int, rest: int) -> None:
    once, twice = live(fleet.plant(), fleet), live(fleet.plant(), fleet)
    once.advance(whole_s * TICKS_PER_S + rest)
    twice.advance(whole_s * TICKS_PER_S)
    twice.advance(rest)
    assert differences(once, twice) == []


@given(fleet=fleets(), elapsed=st.integers(1, 10**9))
@settings(max_examples=40, deadline=None)
def test_a_later_start_changes_nothing_but_the_elapsed_time(fleet: Fleet, elapsed: int) -> None:
    early, late = fleet.plant(), fleet.plant()
    late.state[:, STATE.index("elapsed_ticks"), :] += float(elapsed)
    live(early, fleet)
    live(late, fleet)
    assert set(differences(early, late)) == {"elapsed_ticks"}


@given(fleet=fleets(n_max=2), calls=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_rows_beyond_the_devices_stay_untouched(fleet: Fleet, calls: int) -> None:
    plant = fleet.plant()
    n = plant.n
    before = plant.state[0, :, n:].copy()
    for _ in range(calls):
        plant.advance(75)
    live(plant, fleet)
    assert n < LANES
    assert np.array_equal(plant.state[0, :, n:], before)


@pytest.mark.parametrize("advance", [_kernel.advance, reference.advance])
def test_no_time_means_no_change(advance: Advance) -> None:
    plant, still = (Plant([home()] * 3, advance=advance) for _ in range(2))
    plant.advance(0)
    assert differences(plant, still) == []


@pytest.mark.parametrize("advance", [_kernel.advance, reference.advance])
@pytest.mark.parametrize(("n", "ticks"), [(-1, 1), (1, -1), (1, -60)])
def test_negative_counts_are_refused(advance: Advance, n: int, ticks: int) -> None:
    plant = Plant([home()])
    with pytest.raises(ValueError, match="must not be negative"):
        advance(plant.param, plant.control, plant.input, plant.state, n, ticks)


@pytest.mark.parametrize("which", range(4))
def test_arrays_of_another_shape_are_refused(which: int) -> None:
    plant = Plant([home()])
    good: list[Floats] = [plant.param, plant.control, plant.input, plant.state]
    fewer_fields, no_tiles = list(good), list(good)
    fewer_fields[which] = np.ascontiguousarray(good[which][:, :-1, :])
    no_tiles[which] = good[which][:0]
    for arrays, message in ((fewer_fields, "disagree on the fields"), (no_tiles, "room for 1 devices")):
        with pytest.raises(ValueError, match=message):
            _kernel.advance(arrays[0], arrays[1], arrays[2], arrays[3], 1, 1)
