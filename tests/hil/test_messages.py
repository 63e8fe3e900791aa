"""Fate of messages: distributions are what was asked for, streams are apart, each fault does its part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.hil.effects.messages import Conditions, MessageFaults, Met, conditions_of
from ridethrough.hil.faults import Event
from ridethrough.hil.messages import COMMANDS, LOST, TELEMETRY, Dice, Fates, delay_ns, pareto_ns
from ridethrough.hil.world import Comms

S = 10**9
NAMES = ("a", "b", "c")
EVERY = np.ones(3, dtype=np.bool_)
ALL = np.ones(3, dtype=np.bool_)
AT_ONCE = np.zeros(3, dtype=np.int64)
TIMEOUT_NS = 5 * S


def calm(**changes: object) -> Conditions:
    no = np.zeros(3, dtype=np.bool_)
    base = Conditions(no, no, np.zeros(3), np.full(3, 80e6), np.full(3, 900e6))
    return replace(base, **changes)  # type: ignore[arg-type]  # the tests name existing fields


def event(fault: str, *, number: int = 1, end_s: float = 1000, **params: Any) -> Event:
    return Event(number, f"comms.{fault}", (0,), 0, round(end_s * S), params)


def faults(direction: str, seed: int = 7) -> MessageFaults:
    return MessageFaults(seed, NAMES, direction, TIMEOUT_NS)


def met(direction: str, *events: Event, now_ns: int = 0) -> Met:
    return faults(direction).meet(now_ns, events, AT_ONCE, ALL)


@given(mean_ms=st.floats(1, 5000), ratio=st.floats(1.0, 14.0), pareto=st.booleans())
def test_delays_have_the_mean_and_the_99th_percentile_asked_for(
    mean_ms: float, ratio: float, pareto: bool
) -> None:
    chance = (np.arange(200_000) + 0.5) / 200_000
    p99_ms = mean_ms * ratio
    delays = (
        pareto_ns(chance, mean_ms, p99_ms)
        if pareto
        else delay_ns(chance, np.array(mean_ms), np.array(p99_ms))
    )
    assert delays.min() >= 0.0
    assert np.mean(delays) == pytest.approx(mean_ms, rel=0.06)
    assert np.quantile(delays, 0.99) == pytest.approx(p99_ms, rel=0.02)
    assert (np.diff(delays) >= -1e-9).all()


def test_a_fault_on_one_device_moves_no_draw_of_another() -> None:
    plain, faulty = (Fates(1, NAMES, COMMANDS) for _ in range(2))
    cut = calm(cut_commands=np.array([False, True, False]), loss_frac=np.array([0.0, 0.9, 0.0]))
    for _ in range(1200):
        without, with_fault = plain.draw(calm(), EVERY), faulty.draw(cut, EVERY)
        assert (without[[0, 2]] == with_fault[[0, 2]]).all()
        assert with_fault[1] == LOST


def test_directions_and_seeds_have_streams_of_their_own() -> None:
    draws = {
        (seed, direction): tuple(Fates(seed, NAMES, direction).draw(calm(), EVERY))
        for seed in (1, 2)
        for direction in (COMMANDS, TELEMETRY)
    }
    assert len(set(draws.values())) == 4


def test_one_faults_chance_moves_no_other_ones() -> None:
    alone, beside = Dice(1, "a"), Dice(1, "a")
    for _ in range(50):
        beside.draw("comms.loss", COMMANDS)
        assert beside.draw("comms.reset", COMMANDS) == alone.draw("comms.reset", COMMANDS)


def test_a_message_later_than_the_time_out_is_lost() -> None:
    late = np.array([TIMEOUT_NS, TIMEOUT_NS + 1, LOST])
    assert faults(TELEMETRY).meet(0, (), late, ALL).delay_ns.tolist() == [TIMEOUT_NS, LOST, LOST]
    slow = event("latency-fixed", latency_s=4.0)
    assert met(COMMANDS, slow, replace(slow, number=2)).delay_ns.tolist() == [LOST, 0, 0]


def test_loss_has_its_probability() -> None:
    fates = Fates(3, NAMES, TELEMETRY)
    lost = np.array([fates.draw(calm(loss_frac=np.full(3, 0.3)), EVERY) == LOST for _ in range(3000)])
    assert lost.mean() == pytest.approx(0.3, abs=0.02)


def test_events_of_a_kind_add_up_and_meet_their_targets_only() -> None:
    events = [
        event("latency", latency_s_mean=1.0, latency_s_p99=2.0),
        event("latency", latency_s_mean=1.0, latency_s_p99=2.0, tail="log-normal"),
        event("latency", latency_s_mean=9.0, latency_s_p99=9.0, tail="pareto"),
        event("loss", loss_frac=0.5),
        event("loss", loss_frac=0.5, shows="silence", burst_messages=1.0),
        event("loss", loss_frac=0.9, burst_messages=4.0),
        event("partition-one-way", direction="telemetry"),
    ]
    found = conditions_of(events, 2, Comms(S, 2 * S, 0.0, TIMEOUT_NS))
    assert found.latency_ns_mean.tolist() == [3 * S, S]
    assert found.loss_frac.tolist() == [0.75, 0.0]
    assert (found.cut_telemetry.tolist(), found.cut_commands.tolist()) == ([True, False], [False, False])


def test_others_are_never_touched() -> None:
    one = met(COMMANDS, event("exception", code=4, requests="all"))
    assert one.delay_ns.tolist() == [LOST, 0, 0]
    assert one.refused.tolist() == [True, False, False]
    unsent = faults(COMMANDS).meet(0, (event("reset"),), AT_ONCE, np.zeros(3, dtype=np.bool_))
    assert unsent.delay_ns.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("fault", "params", "command", "reading"),
    [
        ("latency-fixed", {"latency_s": 2.0, "bandwidth_bps": 152.0}, "3", "lost"),
        ("slow-loris", {"clients": 5, "stall_s": 0.4}, "2", "2"),
        ("reset", {}, "lost", "lost"),
        ("truncated-frame", {}, "lost", "lost"),
        ("wrong-transaction-id", {}, "lost", "lost"),
        ("wrong-unit-id", {}, "lost", "lost"),
        ("checksum-error", {}, "lost", "lost"),
        ("late-reply", {}, "lost", "lost"),
        ("exception", {"code": 4, "requests": "writes"}, "refused", "0"),
        ("exception", {"code": 4, "requests": "all"}, "refused", "lost"),
        ("address-change", {}, "refused", "0"),  # the reading is cut by the conditions
        ("half-open", {"anew": "works"}, "lost", "lost"),
        ("coalesced", {"mode": "joined"}, "lost", "0"),
        ("coalesced", {"mode": "cut", "piece_bytes": 20, "pause_s": 0.2}, "0.4", "3.8"),
        ("loss", {"loss_frac": 1.0, "shows": "stall", "stall_s": 3.0}, "3", "3"),
        ("loss", {"loss_frac": 1.0, "shows": "reset"}, "lost", "lost"),
        ("duplicate", {"after_s": 70.0}, "0 and 70", "0"),
        ("reorder", {"by_s": 70.0}, "refused 70", "0"),
        ("queued-commands", {"after_s": 20.0}, "refused 1020", "0"),
    ],
)
def test_each_fault_does_its_part(fault: str, params: dict[str, Any], command: str, reading: str) -> None:
    assert told(met(COMMANDS, event(fault, **params))) == command
    assert told(met(TELEMETRY, event(fault, **params))) == reading


def told(one: Met) -> str:
    """Return what became of the first device's message, in words."""
    late_ns, refused = int(one.delay_ns[0]), bool(one.refused[0])
    late = "" if late_ns == LOST else f"{late_ns / S:g}"
    words = ["refused"] if refused else [] if late else ["lost"]
    again = [f"and {delay_ns / S:g}" for _, delay_ns in one.copies]
    return " ".join([*words, *([late] if late else []), *again])


def test_a_reply_that_is_lost_late_in_a_command_leaves_its_sender_without_knowledge() -> None:
    fault, network = event("reset", share_frac=0.3), faults(COMMANDS)
    rows = [network.meet(k, (fault,), AT_ONCE, ALL) for k in range(3000)]
    lost = np.mean([one.delay_ns[0] == LOST for one in rows])
    unheard = np.mean([one.unheard[0] for one in rows])
    assert lost == pytest.approx(0.3, abs=0.03)
    assert unheard == pytest.approx(0.7 * (1 - 0.7**2), abs=0.03)


def test_a_held_command_is_overtaken_by_the_next_and_a_late_reply_spoils_all_that_follow() -> None:
    network, fault = faults(COMMANDS), event("reorder", by_s=70.0)
    late = [network.meet(k * 60 * S, (fault,), AT_ONCE, ALL).delay_ns[0] for k in range(4)]
    assert late == [70 * S, 0, 70 * S, 0]
    network, fault = faults(TELEMETRY), event("late-reply", share_frac=0.2)
    lost = [network.meet(k, (fault,), AT_ONCE, ALL).delay_ns[0] == LOST for k in range(50)]
    assert lost == sorted(lost)
    assert lost[-1]
    assert not lost[0]


def test_beside_a_half_open_connection_only_one_message_is_lost_if_new_ones_work() -> None:
    network, fault = faults(TELEMETRY), event("half-open", anew="works")
    assert [network.meet(k, (fault,), AT_ONCE, ALL).delay_ns[0] for k in range(3)] == [LOST, 0, 0]


def test_who_is_not_asked_draws_nothing() -> None:
    alone, together = Fates(1, NAMES, COMMANDS), Fates(1, NAMES, COMMANDS)
    only = np.array([True, False, False])
    for _ in range(700):  # past the end of a block
        alone.draw(calm(), only)
    delays = [(alone.draw(calm(), EVERY), together.draw(calm(), EVERY)) for _ in range(600)]
    assert all((a[1:] == b[1:]).all() for a, b in delays)
    assert any(a[0] != b[0] for a, b in delays)
