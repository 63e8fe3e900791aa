"""Faults of the controller: each is seen in the record while it lasts, and in nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.controllers.contract import Commands, Prices, Telemetry
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.bench import run
from ridethrough.hil.effects.candidate import ACTS, BEGINS, ENDS, CandidateFaults
from ridethrough.hil.fault_files import load_fault
from ridethrough.hil.faults import Event
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.record import Record, read_record
from ridethrough.hil.world import World, build_world

from tests.faults.witness_controller import CONTROLLER, OUTAGE, WITNESSES

MINUTE_NS = 60 * 10**9
PERIOD_NS = 30 * 10**9


def world(*events: dict[str, Any]) -> World:
    """Return the matrix test's world, with two homes."""
    home = {"device": "home-13kwh-5kw", "commitment": {"hours": 1, "load_w": 900}, "load": "synthetic-home"}
    source = {
        "name": "controller",
        "duration": "12min",
        "pool": [{**home, "count": 2, "soc": 0.6}],
        "prices": {"constant": 50},
        "comms": {"poll": "10s", "loss": "0%"},
    }
    return build_world(scenario_from_dict({**source, "events": list(events)}))


def event(fault: str, start_ns: int = 4 * MINUTE_NS, end_ns: int = 8 * MINUTE_NS, **params: Any) -> Event:
    """Return an event with the example's parameters of its fault, or these."""
    kind = load_fault(fault)
    told = {name: value for name, value in kind.example.items() if name != "for"}
    read = kind.read({**told, **params}, [])
    values = {kind.params[name].key: kind.params[name].in_event(value) for name, value in read.items()}
    return Event(number=1, fault=fault, targets=(0, 1), start_ns=start_ns, end_ns=end_ns, params=values)


def outage() -> dict[str, Any]:
    return {"at": "00:05", "fault": "grid.outage", "target": "all", "for": "2min"}


def recorded(folder: Path, *events: Event, dark: bool = False, isolate: bool = False) -> Record:
    """Run the echo under some events."""
    plain = world(outage()) if dark else world()
    numbered = (replace(each, number=10 + i) for i, each in enumerate(events))
    run(replace(plain, events=(*plain.events, *numbered)), CONTROLLER, folder, isolate=isolate)
    return read_record(folder)


VARIANTS = [
    ("controller.crash", {}),
    ("controller.crash", {"restart": "never"}),
    ("controller.restart", {}),
    ("controller.restart", {"down": "50s"}),
    ("controller.slow-plan", {}),
    ("controller.slow-plan", {"plan": "none"}),
    ("controller.slow-plan", {"delay": "30s"}),
    ("controller.infeasible", {}),
    ("controller.two-instances", {}),
    ("controller.deadlock", {}),
    ("controller.deadlock", {"answer": "nothing"}),
    ("controller.wrong-default", {}),
    ("controller.bad-forecast", {}),
    ("controller.bad-forecast", {"forecast": "missing"}),
    ("controller.bad-forecast", {"forecast": "nan"}),
    ("controller.ignores-islanding", {}),
    ("telemetry.dst-change", {}),
    ("telemetry.dst-change", {"jump": "back"}),
]


def test_every_fault_has_a_witness_and_a_variant() -> None:
    assert set(ACTS) == set(WITNESSES) == {fault for fault, _ in VARIANTS}
    assert set(BEGINS) | set(ENDS) <= set(ACTS)


@pytest.mark.parametrize(("fault", "params"), VARIANTS, ids=lambda value: str(value))
def test_a_fault_is_seen_while_it_lasts(fault: str, params: dict[str, Any], tmp_path: Path) -> None:
    it = event(fault, **params)
    record = recorded(tmp_path / "with", it, dark=fault in OUTAGE)
    assert record.end is not None
    assert record.end["reason"] == "completed", record.end["detail"]
    if params != {"delay": "30s"}:  # a plan that is ready at the next turn looks like one of that turn
        assert [WITNESSES[fault](record, d, it) for d in (0, 1)] == [None, None]
    else:
        decided_s = sorted(set(record.commands["t_ns"] // 10**9))
        assert [t_s for t_s in decided_s if 230 <= t_s <= 500] == [270, 300, 330, 360, 390, 420, 450, 480]


@pytest.mark.parametrize("dark", [False, True])
def test_without_the_fault_each_witness_objects(dark: bool, tmp_path: Path) -> None:
    record = recorded(tmp_path / "without", dark=dark)
    for fault in WITNESSES:
        assert WITNESSES[fault](record, 0, event(fault)) is not None, fault


def test_an_isolated_controller_has_the_same_faults(tmp_path: Path) -> None:
    for fault in ("controller.restart", "controller.two-instances"):
        it = event(fault)
        folders = [tmp_path / fault / where for where in ("here", "apart")]
        for folder in folders:
            record = recorded(folder, it, isolate=folder.name == "apart")
            assert WITNESSES[fault](record, 0, it) is None
        assert digest(folders[0]) == digest(folders[1])


def digest(folder: Path) -> str:
    files = sorted(folder.iterdir())
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()


class Counts:
    """An instance that commands its decision's number, for many more tests than an assembled run allows."""

    period_ns = PERIOD_NS
    output = "counted\n"

    def __init__(self, log: list[str], fails_at: int = -1) -> None:
        self.log, self.fails_at = log, fails_at
        self.fault: str | None = None
        self.fault_ns = -1
        self.count = 0
        log.append("made")

    def enroll(self, now_ns: int = 0) -> None:
        self.log.append(f"enrolled {now_ns // PERIOD_NS}")

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        if self.fault is not None:
            return Commands.none(2)
        self.count += 1
        if self.count == self.fails_at:
            self.fault, self.fault_ns = "decide raised Boom", now_ns
            return Commands.none(2)
        self.log.append(f"asked {now_ns // PERIOD_NS}")
        return Commands(np.array([float(self.count), np.nan]), np.array([60.0, np.nan]), np.full(2, np.nan))

    def close(self) -> None:
        self.log.append("closed")


def shown(good: float = 1.0) -> Telemetry:
    stamps = np.zeros(2, dtype=np.int64)
    values = np.full(2, 0.5)
    prices = Prices(50.0, np.full(96, 40.0), 900.0)
    return Telemetry(stamps, stamps, values, values, values, np.full(2, good), prices)


def played(seat: CandidateFaults, events: Sequence[Event], turns: int = 24) -> list[tuple[float, float]]:
    """Let a seat play as a desk would; return each command's time in periods and first power."""
    edges = {edge for each in events for edge in (each.start_ns, each.end_ns)}
    instants = sorted(edges | {turn * PERIOD_NS for turn in range(turns)})
    out = []
    now_ns = 0
    while now_ns < turns * PERIOD_NS:
        force = [each for each in events if each.start_ns <= now_ns < each.end_ns]
        found = [seat.decide(now_ns, shown(), force)] if now_ns % PERIOD_NS == 0 else []
        said = [float(commands.power_w[0]) for commands in (*found, *seat.due(now_ns, force))]
        out += [(now_ns / PERIOD_NS, power_w) for power_w in said if not np.isnan(power_w)]
        held_ns = seat.next_ns()
        later = [instant for instant in instants if instant > now_ns]
        now_ns = min([*later, *([held_ns] if held_ns is not None else [])], default=turns * PERIOD_NS)
    return out


def seated(fails_at: int = -1) -> tuple[CandidateFaults, list[str]]:
    log: list[str] = []
    seat = CandidateFaults(lambda: Counts(log, fails_at))
    seat.enroll()
    return seat, log


def test_without_events_the_very_same_commands_come() -> None:
    seat, log = seated()
    assert played(seat, []) == [(float(turn), float(turn + 1)) for turn in range(24)]
    seat.close()
    assert log == ["made", "enrolled 0", *(f"asked {turn}" for turn in range(24)), "closed"]
    assert seat.fault is None


spans = st.tuples(st.integers(0, 20 * PERIOD_NS), st.integers(1, 8 * PERIOD_NS))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(ACTS)), spans), max_size=4))
def test_any_faults_end_when_they_end(drawn: list[tuple[str, tuple[int, int]]]) -> None:
    events = [
        replace(event(fault, start_ns, start_ns + length_ns), number=number)
        for number, (fault, (start_ns, length_ns)) in enumerate(drawn, 1)
    ]
    seat, log = seated()
    out = played(seat, events, turns=32)
    again = played(seated()[0], list(reversed(events)), turns=32)
    last_ns = max((each.end_ns for each in events), default=0)
    late = [(at, power_w) for at, power_w in out if at * PERIOD_NS >= last_ns]
    # From the first turn after the last event on: one command a turn, each one further in one instance.
    turn = -(-last_ns // PERIOD_NS)
    assert [at for at, _ in late] == [float(t) for t in range(turn, 32)]
    assert [b - a for (_, a), (_, b) in pairwise(late)] == [1.0] * (len(late) - 1)
    first = min((each.start_ns for each in events), default=32 * PERIOD_NS)
    before = [(at, power_w) for at, power_w in out if at * PERIOD_NS < first]
    assert before == [(float(t), float(t + 1)) for t in range(len(before))]
    assert seat.fault is None
    seat.close()
    assert log.count("made") == log.count("closed")
    if len({each.fault for each in events}) == len(events):  # the order in the scenario says nothing
        assert again == out


def test_a_crash_between_two_decisions_costs_the_state_all_the_same() -> None:
    brief = event("controller.crash", 5 * PERIOD_NS + 1, 5 * PERIOD_NS + 2)
    seat, log = seated()
    out = played(seat, [brief])
    assert [power_w for _, power_w in out] == [*range(1, 7), *range(1, 19)]
    assert log.count("made") == 2


def test_a_restart_comes_again_each_time_and_is_down_meanwhile() -> None:
    often = event("controller.restart", 2 * PERIOD_NS, 12 * PERIOD_NS, every="2min", down="50s")
    out = played(seated()[0], [often])
    during = [(at, power_w) for at, power_w in out if 2 <= at < 12]
    assert during == [(4.0, 1.0), (5.0, 2.0), (8.0, 1.0), (9.0, 2.0)]


def test_a_late_plan_is_made_of_what_was_known_and_the_solver_is_left_alone_meanwhile() -> None:
    seat, log = seated()
    out = played(seat, [event("controller.slow-plan", 4 * PERIOD_NS, 8 * PERIOD_NS)], 10)
    assert out[4:] == [(5.5, 5.0), (7.5, 6.0), (8.0, 7.0), (9.0, 8.0)]
    assert [word for word in log if word.startswith("asked")] == [
        f"asked {turn}" for turn in (0, 1, 2, 3, 4, 6, 8, 9)
    ]


def test_a_second_instance_sees_what_the_first_was_shown_before() -> None:
    seen: list[tuple[int, float]] = []

    class Sees(Counts):
        def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
            seen.append((id(self), float(telemetry.soc_frac[0])))
            return super().decide(now_ns, telemetry)

    seat = CandidateFaults(lambda: Sees([]))
    seat.enroll()
    force = [event("controller.two-instances")]
    for turn in range(3):
        seat.decide(turn * PERIOD_NS, replace(shown(), soc_frac=np.full(2, float(turn))), force)
        assert seat.next_ns() == turn * PERIOD_NS + PERIOD_NS // 2
        assert len(seat.due(turn * PERIOD_NS + PERIOD_NS // 2, force)) == 1
    first = seen[0][0]
    assert [value for who, value in seen if who == first] == [0.0, 1.0, 2.0]
    assert [value for who, value in seen if who != first] == [0.0, 0.0, 1.0]


def test_what_is_shown_is_bent_and_the_world_s_own_is_not() -> None:
    seen: list[Telemetry] = []

    class Sees(Counts):
        def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
            seen.append(telemetry)
            return super().decide(now_ns, telemetry)

    seat = CandidateFaults(lambda: Sees([]))
    seat.enroll()
    sound = replace(shown(), grid_good=np.array([0.0, np.nan]))
    faults = [event("controller.bad-forecast", factor=2.0, offset=5.0), event("controller.ignores-islanding")]
    seat.decide(0, sound, [replace(each, number=i) for i, each in enumerate(faults)])
    np.testing.assert_array_equal(seen[0].grid_good, [1.0, np.nan])
    np.testing.assert_array_equal(seen[0].prices.ahead_usd_per_mwh, np.full(96, 85.0))
    assert seen[0].prices.now_usd_per_mwh == 50.0
    np.testing.assert_array_equal(sound.grid_good, [0.0, np.nan])
    np.testing.assert_array_equal(sound.prices.ahead_usd_per_mwh, np.full(96, 40.0))


def test_a_failing_instance_is_the_controller_s_failure_and_the_end_of_it() -> None:
    seat, log = seated(fails_at=3)
    out = played(seat, [event("telemetry.dst-change", 0, 24 * PERIOD_NS)])
    assert [power_w for _, power_w in out] == [1.0, 2.0]
    assert seat.fault == "decide raised Boom"
    assert seat.fault_ns == 2 * PERIOD_NS  # by the bench's clock, not by what it was told
    assert len([word for word in log if word.startswith("asked")]) == 2


def test_a_second_instance_that_fails_is_the_controller_s_failure_too() -> None:
    seat, _ = seated(fails_at=9)
    played(seat, [event("controller.two-instances", PERIOD_NS, 20 * PERIOD_NS)])
    assert seat.fault_ns == 8 * PERIOD_NS
    assert seat.fault == "decide raised Boom"


def test_a_new_instance_that_cannot_be_had_is_the_controller_s_failure() -> None:
    made: list[Counts] = []

    def make() -> Counts:
        if made:
            raise ScenarioError("controller 'x': its licence has run out")
        made.append(Counts([]))
        return made[0]

    seat = CandidateFaults(make)
    seat.enroll()
    out = played(seat, [event("controller.restart", 2 * PERIOD_NS, 4 * PERIOD_NS)])
    assert len(out) == 2
    assert seat.fault == "a new instance could not be had: controller 'x': its licence has run out"
    assert seat.fault_ns == 2 * PERIOD_NS
    seat.close()


def test_a_parting_word_is_written_once_as_asked() -> None:
    seat, _ = seated()
    force = [event("controller.wrong-default", write="both", reserve="30%", power="-1kW", validity="2h")]
    assert np.isnan(seat.decide(0, shown(), force).power_w).all()
    (said,) = seat.due(0, force)
    assert (said.power_w.tolist(), said.validity_s.tolist()) == ([-1000.0] * 2, [7200.0] * 2)
    assert said.reserve_soc_frac.tolist() == [0.3, 0.3]
    assert seat.due(PERIOD_NS, force) == []


def test_what_instances_print_is_kept_of_a_few() -> None:
    seat, _ = seated()
    played(seat, [event("controller.restart", 0, 24 * PERIOD_NS, every="30s")])
    seat.close()
    assert seat.output == "counted\n" * 16
