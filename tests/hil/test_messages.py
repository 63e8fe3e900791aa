"""Fate of messages: the distribution is what was asked for, and the streams are apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.hil.messages import LOST, Fates, delay_ns
from ridethrough.hil.scene import Conditions

NAMES = ("a", "b", "c")


def calm(**changes: object) -> Conditions:
    no = np.zeros(3, dtype=np.bool_)
    base = Conditions(no, no, no, np.zeros(3), np.full(3, 80e6), np.full(3, 900e6), no, no)
    return replace(base, **changes)  # type: ignore[arg-type]  # the tests name existing fields


@given(mean_ms=st.floats(1, 5000), ratio=st.floats(1.0, 14.0))
def test_delays_have_the_mean_and_the_99th_percentile_asked_for(mean_ms: float, ratio: float) -> None:
    chance = (np.arange(200_000) + 0.5) / 200_000
    delays = delay_ns(chance, np.array(mean_ms), np.array(mean_ms * ratio))
    assert delays.min() >= 0.0
    assert np.mean(delays) == pytest.approx(mean_ms, rel=0.06)
    assert np.quantile(delays, 0.99) == pytest.approx(mean_ms * ratio, rel=0.02)
    assert (np.diff(delays) >= -1e-9).all()


def test_a_fault_on_one_device_moves_no_draw_of_another() -> None:
    plain, faulty = (Fates(1, NAMES, "commands", 5 * 10**9) for _ in range(2))
    cut = calm(cut_commands=np.array([False, True, False]), loss_frac=np.array([0.0, 0.9, 0.0]))
    for _ in range(1200):
        without, with_fault = plain.draw(calm()), faulty.draw(cut)
        assert (without[[0, 2]] == with_fault[[0, 2]]).all()
        assert with_fault[1] == LOST


def test_directions_and_seeds_have_streams_of_their_own() -> None:
    draws = {
        (seed, direction): tuple(Fates(seed, NAMES, direction, 10**12).draw(calm()))
        for seed in (1, 2)
        for direction in ("commands", "telemetry")
    }
    assert len(set(draws.values())) == 4


def test_a_message_later_than_the_time_out_is_lost() -> None:
    fates = Fates(1, NAMES, "telemetry", 100_000_000)
    drawn = np.concatenate([fates.draw(calm()) for _ in range(500)])
    assert ((drawn == LOST) | (drawn <= 100_000_000)).all()
    assert 0 < (drawn == LOST).sum() < len(drawn)


def test_loss_has_its_probability() -> None:
    fates = Fates(3, NAMES, "telemetry", 10**12)
    lost = np.array([fates.draw(calm(loss_frac=np.full(3, 0.3))) == LOST for _ in range(3000)])
    assert lost.mean() == pytest.approx(0.3, abs=0.02)
