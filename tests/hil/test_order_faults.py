"""The faults of the broker, one by one, at the place where they act."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.controllers.contract import Commands, Prices, Telemetry
from ridethrough.hil.effects.orders import ACTS, EXPIRY_NS, OrderFaults
from ridethrough.hil.fault_files import load_fault
from ridethrough.hil.faults import Event

S = 1_000_000_000
NAMES = ("a", "b", "c")
START_S, END_S = 240, 480
NAN = float("nan")
Sent = list[tuple[float, dict[int, float]]]


def event(fault: str, *targets: int, number: int = 1, start_s: int = START_S, **params: Any) -> Event:
    """Return an event with the defaults of the catalogue; parameters as the code is given them."""
    kind = load_fault(fault)
    given = {name: value for name, value in kind.example.items() if name != "for"}
    known = kind.params
    read = kind.read(given, [])
    values: dict[str, float | str] = {}
    for name, value in read.items():
        param = known[name]
        values[param.key] = float(value) / 1e9 if param.kind == "duration" else value
    assert params.keys() <= values.keys()
    return Event(number, fault, targets or (1,), start_s * S, END_S * S, {**values, **params})


def commands(*power_w: float, validity_s: float = 90.0) -> Commands:
    power = np.array(power_w)
    return Commands(power, np.where(np.isnan(power), NAN, validity_s), np.full(len(power), NAN))


def probe_w(now_s: int) -> float:
    return 2000.0 if now_s // 60 % 2 == 0 else -2000.0


def telemetry(now_s: int, soc_frac: float) -> Telemetry:
    n = len(NAMES)
    stamp: NDArray[np.int64] = np.full(n, now_s * S, dtype=np.int64)
    flat = np.full(n, soc_frac)
    return Telemetry(stamp, stamp, flat, flat, flat, flat, Prices(50.0, np.array([]), 300.0))


def play(broker: OrderFaults, *events: Event, until_s: int = 720, step_s: int = 60) -> tuple[Sent, Sent]:
    """Drive a broker as the model level does; return what left it, and the SoC that was shown [s]."""
    out: Sent = []
    shown: Sent = []
    edges = {edge // S for each in events for edge in (each.start_ns, each.end_ns)}
    now_s = 0.0
    while now_s < until_s:
        now_ns = round(now_s * S)
        force = tuple(each for each in events if each.start_ns <= now_ns < each.end_ns)
        if now_s % step_s == 0:
            seen = broker.see(now_ns, telemetry(int(now_s), now_s / 1000), force)
            shown.append((now_s, dict(enumerate(seen.soc_frac.tolist()))))
            broker.send(now_ns, commands(*[probe_w(int(now_s))] * len(NAMES)), force)
        for left in broker.due(now_ns, force):
            asked = np.flatnonzero(~np.isnan(left.power_w)).tolist()
            out.append((now_s, {d: float(left.power_w[d]) for d in asked}))
        wanted = broker.next_ns()
        assert wanted is None or wanted > now_ns, "it would be asked at this instant for ever"
        turns = [*(edge for edge in edges if edge > now_s), (now_s // step_s + 1) * step_s]
        now_s = min(*turns, *([] if wanted is None else [wanted / S]), until_s)
    return out, shown


def of(sent: Sent, d: int, begin_s: float = START_S, end_s: float = 720) -> list[tuple[float, float]]:
    return [(t_s, rows[d]) for t_s, rows in sent if d in rows and begin_s <= t_s < end_s]


PLAIN = [(float(t_s), probe_w(t_s)) for t_s in range(START_S, 720, 60)]


def run(*events: Event, seed: int = 1, **given: Any) -> Sent:
    return play(OrderFaults(seed, NAMES, **given), *events)[0]


def test_without_a_fault_what_comes_is_what_leaves() -> None:
    broker = OrderFaults(1, NAMES)
    asked = commands(1.0, NAN, -3.0)
    broker.send(0, asked, ())
    (left,) = broker.due(0, ())
    np.testing.assert_array_equal(left.power_w, asked.power_w)
    np.testing.assert_array_equal(left.validity_s, asked.validity_s)
    broker.send(1, Commands.none(3), ())
    assert broker.due(1, ()) == []
    shown = telemetry(5, 0.5)
    assert broker.see(5 * S, shown, ()) is shown
    assert broker.next_ns() is None


@pytest.mark.parametrize("fault", sorted(ACTS))
def test_a_fault_on_one_home_leaves_the_others_alone_and_ends(fault: str) -> None:
    sent = run(event(fault, 1))
    assert of(sent, 0) == of(sent, 2) == PLAIN
    assert of(sent, 1, 0, START_S) == [(float(t), probe_w(t)) for t in range(0, START_S, 60)]
    assert of(sent, 1, END_S + 1) == [entry for entry in PLAIN if entry[0] > END_S]


@pytest.mark.parametrize("fault", sorted(ACTS.keys() - {"broker.stale-state"}))
def test_each_fault_of_commands_changes_what_the_device_gets(fault: str) -> None:
    assert of(run(event(fault, 1)), 1) != PLAIN


def test_a_restart_holds_everything_and_lets_it_go_in_order() -> None:
    sent, shown = play(OrderFaults(1, NAMES), event("broker.restart", 1))
    assert of(sent, 1, START_S, END_S) == []
    at_end = [power_w for t_s, power_w in of(sent, 1) if t_s == END_S]
    assert at_end == [probe_w(t_s) for t_s in (240, 300, 360, 420, 480)]
    held = [rows[1] for t_s, rows in shown if START_S <= t_s < END_S]
    assert held == [0.18] * 4  # the last reading before
    assert [rows[0] for t_s, rows in shown if START_S <= t_s < END_S] == [0.24, 0.3, 0.36, 0.42]
    lost = run(event("broker.restart", 1, commands="lost"))
    assert of(lost, 1) == [entry for entry in PLAIN if entry[0] >= END_S]


def test_a_guarded_receiver_refuses_what_waited_out_a_restart() -> None:
    sent = run(event("broker.restart", 1, receiver="guarded"))
    assert of(sent, 1) == [entry for entry in PLAIN if entry[0] >= END_S]


def test_a_retained_command_comes_again_at_each_reconnect() -> None:
    sent = of(run(event("broker.retained-command", 1, period_s=45.0)), 1)
    extra = [entry for entry in sent if entry not in PLAIN]
    assert extra == [(t_s, -2000.0) for t_s in (240.0, 285.0, 330.0, 375.0, 465.0)]
    assert sent.count((420.0, -2000.0)) == 2  # one of them is the probe's own
    given = run(event("broker.retained-command", 1, of="given", power_w=777.0, validity_s=5.0))
    assert [t_s for t_s, power_w in of(given, 1) if power_w == 777.0] == [240, 285, 330, 375, 420, 465]
    assert of(run(event("broker.retained-command", 1, receiver="guarded")), 1) == PLAIN


def test_nothing_is_retained_where_nothing_was_sent() -> None:
    broker = OrderFaults(1, NAMES)
    fault = event("broker.retained-command", 1)
    assert broker.due(START_S * S, (fault,)) == []


def test_an_old_state_is_shown_for_a_while_and_told_to_the_record() -> None:
    told: list[dict[str, Any]] = []
    broker = OrderFaults(1, NAMES, tell=lambda rows: told.append(dict(rows)))
    fault = event("broker.stale-state", 1, period_s=60.0, lasts_s=15.0)
    _, shown = play(broker, fault, step_s=10)
    during = {t_s: rows[1] for t_s, rows in shown if START_S <= t_s < END_S}
    stale = [t_s for t_s, soc in during.items() if soc == 0.23]
    assert stale == [t for k in range(240, 480, 60) for t in (k, k + 10)]
    assert all(soc == t_s / 1000 for t_s, soc in during.items() if t_s not in stale)
    assert [rows["received_ns"].tolist() for rows in told] == [[k * S] for k in range(240, 480, 60)]
    assert all(rows["device"].tolist() == [1] and rows["soc_frac"].tolist() == [0.23] for rows in told)
    assert all(rows["measured_ns"].tolist() == rows["received_ns"].tolist() for rows in told)


def test_an_old_state_may_keep_its_own_stamp() -> None:
    told: list[dict[str, Any]] = []
    broker = OrderFaults(1, NAMES, tell=lambda rows: told.append(dict(rows)))
    play(broker, event("broker.stale-state", 1, stamp="own"), step_s=10)
    assert {rows["measured_ns"].tolist()[0] for rows in told} == {230 * S}


def test_a_queue_is_handed_out_late_one_by_one_and_newer_commands_wait_behind() -> None:
    sent = of(run(event("broker.session-queue", 1, offline_s=150.0, spacing_s=40.0)), 1)
    assert sent == [
        (390.0, 2000.0),
        (430.0, -2000.0),
        (470.0, 2000.0),
        (480.0, -2000.0),
        (480.0, 2000.0),
        *PLAIN[5:],
    ]
    short = of(run(event("broker.session-queue", 1, offline_s=150.0, depth=1)), 1)
    assert short[0] == (390.0, 2000.0)
    assert short[1:] == PLAIN[3:]


def test_a_guarded_receiver_refuses_the_queue() -> None:
    sent = of(run(event("broker.session-queue", 1, offline_s=150.0, receiver="guarded")), 1)
    assert sent == PLAIN[3:]
    assert EXPIRY_NS == 30 * S


@pytest.mark.parametrize(
    ("direction", "commands_pass", "readings_pass"),
    [("both", False, False), ("commands", False, True), ("telemetry", True, False)],
)
def test_a_lost_subscription(direction: str, commands_pass: bool, readings_pass: bool) -> None:
    sent, shown = play(OrderFaults(1, NAMES), event("broker.lost-subscription", 1, direction=direction))
    assert (of(sent, 1, START_S, END_S) != []) is commands_pass
    held = {rows[1] for t_s, rows in shown if START_S <= t_s < END_S}
    assert (len(held) > 1) is readings_pass


def test_nothing_known_is_shown_where_nothing_was_seen_before() -> None:
    broker = OrderFaults(1, NAMES)
    seen = broker.see(0, telemetry(0, 0.5), (event("broker.restart", 1, start_s=0),))
    assert math.isnan(seen.soc_frac[1])
    assert seen.received_ns.tolist() == [0, -1, 0]


def test_duplicates_come_after_their_delay() -> None:
    sent = of(run(event("broker.duplicate", 1, copies=2, delay_s=10.0)), 1)
    assert sent[:3] == [(240.0, 2000.0), (250.0, 2000.0), (260.0, 2000.0)]
    assert len(sent) == len(PLAIN) + 8
    assert of(run(event("broker.duplicate", 1, receiver="guarded")), 1) == PLAIN
    assert of(run(event("broker.duplicate", 1, share_frac=0.0)), 1) == PLAIN


def test_the_first_of_two_comes_after_the_second() -> None:
    sent = of(run(event("broker.reorder", 1, gap_s=5.0)), 1)
    assert sent[:4] == [(300.0, -2000.0), (305.0, 2000.0), (420.0, -2000.0), (425.0, 2000.0)]
    guarded = of(run(event("broker.reorder", 1, receiver="guarded")), 1)
    assert guarded[:2] == [(300.0, -2000.0), (420.0, -2000.0)]


def test_a_takeover_takes_what_the_devices_allow() -> None:
    limits = (np.array([1e3, 3e3, 1e3]), np.array([2e3, 4e3, 2e3]), np.array([0.0, 1.0, 0.0]))
    fault = event("broker.takeover", 0, 1, period_s=45.0, owner="locked-out")
    broker = OrderFaults(1, NAMES, limits=limits)
    left = [each for t_s in (240, 285) for each in broker.due(t_s * S, (fault,))]
    assert [each.power_w[:2].tolist() for each in left] == [[2e3, 4e3]] * 2
    assert left[0].validity_s[1] == 86_400.0
    assert left[0].reserve_soc_frac[1] == 0.0
    assert math.isnan(left[0].reserve_soc_frac[0])
    charge = event("broker.takeover", 1, aim="charge")
    assert OrderFaults(1, NAMES, limits=limits).due(START_S * S, (charge,))[0].power_w[1] == -3e3
    broker.send(300 * S, commands(1.0, 1.0, 1.0), (fault,))
    (passed,) = broker.due(300 * S, (fault,))
    assert [math.isnan(power_w) for power_w in passed.power_w.tolist()] == [True, True, False]


def test_chance_is_each_device_s_own_and_the_same_under_the_same_seed() -> None:
    fault = event("broker.false-success", 0, 1, share_frac=0.5)
    alone = event("broker.false-success", 1, share_frac=0.5)
    both, one = run(fault), run(alone)
    assert of(both, 1) == of(one, 1)
    assert both == run(fault)
    assert any(of(run(alone, seed=seed), 1) != of(one, 1) for seed in range(2, 8))


def test_faults_that_overlap_meet_in_the_order_of_their_numbers() -> None:
    doubled = event("broker.duplicate", 1, number=1, delay_s=10.0)
    gone = event("broker.false-success", 1, number=2)
    assert of(run(doubled, gone), 1, START_S, END_S) == []
    late = of(run(event("broker.restart", 1, number=1), event("broker.reorder", 1, number=2)), 1)
    assert late[0][0] == END_S


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(ACTS)), st.sets(st.integers(0, 2), min_size=1), st.integers(0, 450)),
        max_size=4,
    )
)
def test_any_storm_of_them_forges_nothing_and_ends(storm: list[tuple[str, set[int], int]]) -> None:
    events = [
        event(fault, *sorted(rows), number=k, start_s=start_s)
        for k, (fault, rows, start_s) in enumerate(storm, 1)
    ]
    sent = run(*events)
    for d in range(3):
        powers = {power_w for _, power_w in of(sent, d, 0)}
        forged = {1e6} if any(e.fault == "broker.takeover" for e in events) else set()
        assert powers <= {2000.0, -2000.0} | forged
        assert of(sent, d, END_S + 1) == [entry for entry in PLAIN if entry[0] > END_S]
