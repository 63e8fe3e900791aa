"""The compiled kernel against its oracle, and what packing, processor and threads must not change.

All comparisons are of bits, so that a zero of the other sign or a last digit counts as a difference.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator import _kernel, emit, reference
from ridethrough.emulator.fields import CONTROL, LANES, SLOW_TICKS, STATE, TICKS_PER_S
from ridethrough.emulator.plant import Advance, Floats, Plant

from tests.strategies import Fleet, fleets, home, randomize

Bits = NDArray[np.uint64]
TARGETS = _kernel.targets()
KERNELS: list[Advance] = [partial(_kernel.advance, target=target) for target in TARGETS]


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


def bulk_plant(seed: int, *, n: int = 200, advance: Advance = _kernel.advance, step_s: float = 1.0) -> Plant:
    """Devices of a few random types with short delays, by chance some way into their lives."""
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
    plant = Plant(
        [types[k] for k in rng.integers(0, len(types), n)],
        soc_frac=rng.uniform(0.05, 1.0, n),
        soh_frac=rng.uniform(0.6, 1.0, n),
        backup_frac=rng.uniform(0.2, 1.0, n),
        step_s=step_s,
        advance=advance,
    )
    plant.set_input("load_w", rng.uniform(0.0, 5000.0, n))
    plant.set_input("pv_w_available", rng.uniform(0.0, 5000.0, n))
    return plant


def disturb(plant: Plant, rng: np.random.Generator, *, part: float) -> None:
    """Give new random inputs and settings to some of the devices; the others keep theirs."""
    before = plant.input.copy(), plant.control.copy()
    randomize(plant, rng)
    kept = np.zeros(plant.state.shape[0] * LANES, dtype=np.bool_)
    kept[: plant.n] = rng.uniform(size=plant.n) >= part
    where = kept.reshape(-1, 1, LANES)
    for array, old in zip((plant.input, plant.control), before, strict=True):
        np.copyto(array, old, where=where)


# The oracle.


def test_kernel_was_built_from_the_model_as_it_is_now() -> None:
    assert f'"{_kernel.STEP_DIGEST}"' in emit.this_kernel(), "run `python setup.py build_ext --inplace`"


@given(fleet=fleets())
@settings(max_examples=60, deadline=None)
def test_kernel_equals_reference_bit_for_bit(fleet: Fleet) -> None:
    compiled, plain = [fleet.plant(advance) for advance in KERNELS], fleet.plant(reference.advance)
    for k, ticks in enumerate(fleet.ticks):
        for plant in (*compiled, plain):
            fleet.enter(plant, k)
            plant.advance(ticks)
        assert [differences(plant, plain) for plant in compiled] == [[]] * len(KERNELS)


@pytest.mark.parametrize(("seed", "part"), [(1, 1.0), (2, 0.05), (3, 0.3)])
def test_kernel_equals_reference_on_many_devices_at_once(seed: int, part: float) -> None:
    """A part of the devices is disturbed now and then, so that groups are calm, mixed and wild."""
    rng = np.random.default_rng(seed)
    compiled = [bulk_plant(seed, advance=advance) for advance in KERNELS]
    plain = bulk_plant(seed, advance=reference.advance)
    seen: set[float] = set()
    for _ in range(12):
        stream, ticks = int(rng.integers(2**32)), int(rng.integers(1, 300))
        for plant in (*compiled, plain):
            disturb(plant, np.random.default_rng(stream), part=part)
            plant.advance(ticks)
        assert [differences(plant, plain) for plant in compiled] == [[]] * len(KERNELS)
        seen |= set(plain.states("status"))
    assert len(seen) >= 6


@pytest.mark.parametrize(("step_s", "rounds"), [(0.02, 4), (0.5, 4), (60.0, 1), (75.0, 1)])
def test_kernel_equals_reference_for_every_coarse_step(step_s: float, rounds: int) -> None:
    """75 s is longer than the period of the slow stage, which then takes the step's length."""
    plants = [bulk_plant(4, n=40, advance=a, step_s=step_s) for a in (*KERNELS, reference.advance)]
    for k in range(rounds):
        for plant in plants:
            disturb(plant, np.random.default_rng(k), part=0.04)
            plant.advance(plant.step_ticks + 3)
        assert [differences(plant, plants[-1]) for plant in plants] == [[]] * len(plants)


def test_slow_stage_comes_at_the_multiples_for_each_device() -> None:
    """Also where it falls into the fine steps of some devices, and at other times for each."""
    plants = [bulk_plant(5, n=40, advance=a) for a in (*KERNELS, reference.advance)]
    temperature = plants[0].states("temp_c")
    for plant in plants:
        plant.state[:, STATE.index("elapsed_ticks"), :] = (
            SLOW_TICKS - 60.0 + np.arange(plant.state.shape[0] * LANES).reshape(-1, LANES) % 45
        )
        plant.set_input("ambient_c", 45.0)
        disturb(plant, np.random.default_rng(0), part=0.3)
        plant.advance(70)
    assert [differences(plant, plants[-1]) for plant in plants] == [[]] * len(plants)
    moved = plants[-1].states("temp_c") != temperature
    assert moved.any()
    assert not moved.all()


def test_the_comparison_sees_one_bit_and_the_sign_of_zero() -> None:
    a, b = (Plant([home()] * 3) for _ in range(2))
    b.state[0, STATE.index("energy_j"), 1] = np.nextafter(b.state[0, STATE.index("energy_j"), 1], 0.0)
    assert differences(a, b) == ["energy_j"]
    b = Plant([home()] * 3)
    b.set_control("set_w", -0.0)
    assert differences(a, b) == ["set_w"]


# Packing.


@given(fleet=fleets(n_max=5), order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_of_devices_does_not_matter(fleet: Fleet, order: Random) -> None:
    rows = list(range(len(fleet.lives)))
    order.shuffle(rows)
    shuffled = Fleet(fleet.ticks, tuple(fleet.lives[k] for k in rows))
    assert differences(live(shuffled.plant(), shuffled), live(fleet.plant(), fleet), np.array(rows)) == []


@pytest.mark.parametrize("advance", KERNELS, ids=TARGETS)
def test_order_of_many_devices_does_not_matter(advance: Advance) -> None:
    plant, other = (bulk_plant(6, n=77, advance=advance) for _ in range(2))
    rows = np.random.default_rng(6).permutation(77)
    for k in range(4):
        for each in (plant, other):
            disturb(each, np.random.default_rng(k), part=0.1)
        shuffled = bulk_plant(6, n=77, advance=advance)
        for name in ("param", "control", "input", "state"):
            shuffle(getattr(plant, name), getattr(shuffled, name), rows)
        for each in (plant, shuffled):
            each.advance(120)
        assert differences(shuffled, plant, rows) == []


def shuffle(source: Floats, to: Floats, rows: NDArray[np.intp]) -> None:
    """Put device rows[k] of `source` in place k of `to`."""
    k = np.arange(len(rows))
    to[k // LANES, :, k % LANES] = source[rows // LANES, :, rows % LANES]


@given(fleet=fleets(n_max=2), place=st.integers(0, 36))
@settings(max_examples=30, deadline=None)
def test_a_device_alone_is_the_same_among_37(fleet: Fleet, place: int) -> None:
    first, other = fleet.lives[0], fleet.lives[-1]
    crowd = Fleet(fleet.ticks, tuple(first if k == place else other for k in range(37)))
    alone = Fleet(fleet.ticks, (first,))
    assert differences(live(alone.plant(), alone), live(crowd.plant(), crowd), np.array([place])) == []


@pytest.mark.parametrize("advance", KERNELS, ids=TARGETS)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 17, 31])
def test_rows_beyond_the_devices_stay_untouched(n: int, advance: Advance) -> None:
    plant = bulk_plant(n, n=n, advance=advance)
    beyond = np.arange(plant.state.shape[0] * LANES).reshape(-1, LANES) >= n
    for array in (plant.state, plant.control):
        array.swapaxes(1, 2)[beyond] = np.nan
    for k in range(4):
        disturb(plant, np.random.default_rng(k), part=0.5)
        for array in (plant.state, plant.control):
            array.swapaxes(1, 2)[beyond] = np.nan
        advance(plant.param, plant.control, plant.input, plant.state, n, 130, coarse_ticks=TICKS_PER_S)
        assert np.isnan(plant.state.swapaxes(1, 2)[beyond]).all()
        assert np.isnan(plant.control.swapaxes(1, 2)[beyond]).all()
        assert np.isfinite(plant.states("energy_j")).all()


# Time.


@given(fleet=fleets(spans_max=4), whole_s=st.integers(0, 4), rest=st.integers(0, 120))
@settings(max_examples=40, deadline=None)
def test_whole_seconds_can_be_asked_for_in_one_or_two_calls(fleet: Fleet, whole_s: int, rest: int) -> None:
    once, twice = live(fleet.plant(), fleet), live(fleet.plant(), fleet)
    once.advance(whole_s * TICKS_PER_S + rest)
    twice.advance(whole_s * TICKS_PER_S)
    twice.advance(rest)
    assert differences(once, twice) == []


@pytest.mark.parametrize("advance", KERNELS, ids=TARGETS)
def test_steps_fused_in_one_call_or_one_by_one(advance: Advance) -> None:
    fused, single = (bulk_plant(7, n=50, advance=advance) for _ in range(2))
    for k in range(3):
        for plant in (fused, single):
            disturb(plant, np.random.default_rng(k), part=0.1)
        fused.advance(90 * TICKS_PER_S)
        for _ in range(90):
            single.advance(TICKS_PER_S)
        assert differences(fused, single) == []


@given(fleet=fleets(), elapsed=st.integers(1, 10**9))
@settings(max_examples=30, deadline=None)
def test_a_later_start_changes_nothing_but_the_elapsed_time(fleet: Fleet, elapsed: int) -> None:
    """By whole periods of the slow stage, which counts from the start."""
    early, late = fleet.plant(), fleet.plant()
    late.state[:, STATE.index("elapsed_ticks"), :] += float(elapsed * SLOW_TICKS)
    live(early, fleet)
    live(late, fleet)
    assert set(differences(early, late)) <= {"elapsed_ticks"}


# Threads.


@pytest.mark.parametrize("threads", [1, 2, 3, 100])
@pytest.mark.parametrize("n", [1, 37, 400])
def test_threads_change_no_bit(n: int, threads: int) -> None:
    one = bulk_plant(8, n=n)
    many = bulk_plant(8, n=n, advance=partial(_kernel.advance_threaded, threads=threads))
    for k in range(3):
        for plant in (one, many):
            disturb(plant, np.random.default_rng(k), part=0.2)
            plant.advance(170)
        assert differences(one, many) == []


# What is refused.


@pytest.mark.parametrize("advance", [*KERNELS, reference.advance])
def test_no_time_means_no_change(advance: Advance) -> None:
    plant, still = (Plant([home()] * 3, advance=advance) for _ in range(2))
    plant.advance(0)
    assert differences(plant, still) == []


@pytest.mark.parametrize("advance", [_kernel.advance, reference.advance])
@pytest.mark.parametrize(
    ("n", "ticks", "coarse"), [(-1, 1, 50), (1, -1, 50), (1, -60, 50), (1, 60, 0), (1, 60, -1)]
)
def test_negative_counts_are_refused(advance: Advance, n: int, ticks: int, coarse: int) -> None:
    plant = Plant([home()])
    with pytest.raises(ValueError, match="must not be negative and coarse_ticks at least 1"):
        advance(plant.param, plant.control, plant.input, plant.state, n, ticks, coarse_ticks=coarse)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "z80", "threads": 2}, "target 'z80' is not one this machine has: baseline"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_unknown_processors_and_no_threads_are_refused(options: dict[str, Any], message: str) -> None:
    plant = bulk_plant(9, n=40)
    with pytest.raises(ValueError, match=message):
        _kernel.advance_threaded(plant.param, plant.control, plant.input, plant.state, 40, 1, **options)


def _fewer_fields(array: Floats) -> Any:
    return np.ascontiguousarray(array[:, :-1, :])


def _no_tiles(array: Floats) -> Any:
    return array[:0]


def _fewer_lanes(array: Floats) -> Any:
    return np.ascontiguousarray(array[:, :, :4])


def _single(array: Floats) -> Any:
    return array.astype(np.float32)


def _flat(array: Floats) -> Any:
    return array[0].copy()


def _spread(array: Floats) -> Any:
    return np.repeat(array, 2, axis=1)[:, ::2]


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_fewer_fields, "disagree on the fields"),
        (_no_tiles, "room for 1 devices"),
        (_fewer_lanes, "arrays of float64 of shape"),
        (_single, "arrays of float64 of shape"),
        (_flat, "arrays of float64 of shape"),
        (_spread, "not C-contiguous"),
    ],
)
def test_arrays_of_another_form_are_refused(
    which: int, change: Callable[[Floats], Any], message: str
) -> None:
    plant = Plant([home()])
    arrays: list[Any] = [plant.param, plant.control, plant.input, plant.state]
    arrays[which] = change(arrays[which])
    with pytest.raises(ValueError, match=message):
        _kernel.advance(arrays[0], arrays[1], arrays[2], arrays[3], 1, 1)


@pytest.mark.parametrize("which", [1, 3])
def test_what_would_change_must_be_writable(which: int) -> None:
    plant = Plant([home()])
    arrays = [plant.param, plant.control, plant.input, plant.state]
    arrays[which].flags.writeable = False
    held = [sys.getrefcount(array) for array in arrays]
    for _ in range(10):
        with pytest.raises(ValueError, match="read-only"):
            _kernel.advance(arrays[0], arrays[1], arrays[2], arrays[3], 1, 1)
    assert [sys.getrefcount(array) for array in arrays] == held, "those opened before are let go"


def test_the_least_target_is_always_there() -> None:
    assert TARGETS[0] == "baseline"
    assert len(set(TARGETS)) == len(TARGETS)
