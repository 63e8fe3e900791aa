"""Faults into a run that goes on: what is refused, when they act, what the record holds, and the replay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ridethrough.emulator.errors import RidethroughError, ScenarioError
from ridethrough.hil import injection
from ridethrough.hil.assembly import make_header, make_plant, make_pool
from ridethrough.hil.bench import run
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.injection import Injector, event_of, read_wish
from ridethrough.hil.judge import judge
from ridethrough.hil.pacer import RealClock
from ridethrough.hil.record import RecordWriter, read_record
from ridethrough.hil.replay import controller_of, replay, world_of
from ridethrough.hil.scene import Scene
from ridethrough.hil.stage import CLIENTS, Stage
from ridethrough.hil.world import World, build_world

from tests.hil.battery import HEADER, block

S = 10**9

DOCUMENT: dict[str, Any] = {
    "name": "injected",
    "start": "18:00",
    "duration": "10min",
    "pool": [
        {"device": "home-13kwh-5kw", "commitment": {"hours": 8, "load_w": 900}, "load": "synthetic-home"}
        | {"count": 3}
    ],
    "prices": {"constant": 50},
    "comms": {
        "poll": "10s",
        "timeout": "4min",
    },  # patient: a machine with a lot to do is no fault of the bench
    "events": [{"at": "18:08", "fault": "grid.outage", "target": "home-01", "for": "1min"}],
}


def world() -> World:
    return build_world(scenario_from_dict(DOCUMENT))


@pytest.fixture(autouse=True)
def own_runtime_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the benches of this test apart from those of the machine."""
    folder = tmp_path_factory.mktemp("runtime")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder / "ridethrough"


# What is asked.


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            {"fault": "grid.outag", "target": "all"},
            r"^fault: found 'grid.outag' \(did you mean 'grid.outage'",
        ),
        ({"target": "all"}, "^fault: found "),
        ({"fault": "grid.outage"}, "^target: found nothing"),
        ({"fault": "grid.outage", "target": "home-04"}, r"target: found 'home-04'.*allowed"),
        ({"fault": "grid.outage", "target": [7]}, "target.*found device number 7; allowed 1 to 3"),
        ({"fault": "grid.outage", "target": "all", "for": "5"}, "found '5'; allowed a duration"),
        (
            {"fault": "grid.outage", "target": "all", "for": "5ms"},
            "for: found '5ms'; allowed multiples of 20ms",
        ),
        ({"fault": "grid.outage", "target": "all", "for": "400d"}, "for: found '400d'; allowed 20ms to 366d"),
        ({"fault": "grid.outage", "target": "all", "depth": 1}, "^depth: found a key nobody knows"),
        (
            {"fault": "comms.loss", "target": "all", "params": {"probability": "500%"}},
            "^probability: found '500%'",
        ),
        ({"fault": "comms.loss", "target": "all"}, "^probability: "),
        ({"fault": "comms.loss", "target": "all", "params": {"probabilty": 1}}, "probabilty"),
        ({"fault": "comms.loss", "target": "all", "params": [1]}, "^params: found a list"),
        (
            {"fault": "grid.outage", "params": {"target": "all"}},
            "^params: found target; allowed only as a statement",
        ),
    ],
)
def test_wishes_are_refused_in_the_words_of_a_scenario(request_: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        read_wish(DOCUMENT, request_)


def test_a_wish_is_read_as_an_event_of_a_scenario_is() -> None:
    request_ = {
        "fault": "comms.loss",
        "target": [2, "home-03"],
        "for": "90s",
        "params": {"probability": "5%"},
    }
    wish = read_wish(DOCUMENT, request_)
    assert (wish.fault, wish.targets, wish.length_ns) == ("comms.loss", (1, 2), 90 * S)
    assert wish.params["loss_frac"] == 0.05
    assert read_wish(DOCUMENT, {"fault": "grid.outage", "target": "home"}).length_ns is None


# What becomes of it.


class Still:
    """A run that stands at one instant."""

    def __init__(self, next_ns: int) -> None:
        self.world = world()
        self.scene = Scene(self.world)
        self.next_ns = next_ns
        self.acts: list[Mapping[str, Any]] = []
        self.stopped = False
        self.full = False

    def refuse(self, fault: str) -> str:
        return "not here" if fault.startswith("controller.") else ""

    def note_act(self, act: Mapping[str, Any]) -> None:
        if self.full:
            raise RidethroughError("no space left on device")
        self.acts.append(act)

    def stop(self) -> None:
        self.stopped = True


def test_a_fault_begins_at_the_next_instant_and_is_noted_before_it_acts() -> None:
    live = Still(100 * S)
    told = Injector(live, {}).inject({"fault": "grid.outage", "target": [2], "for": "1min"})
    assert (told["number"], told["start_ns"], told["end_ns"]) == (2, 100 * S, 160 * S)
    assert (told["from"], told["until"], told["devices"]) == ("18:01:40", "18:02:40", ["home-02"])
    assert [event.number for event in live.scene.events(100 * S)] == [2]
    assert not live.scene.events(99 * S)
    (act,) = live.acts
    assert (act["act"], act["t_ns"]) == ("inject", 100 * S)
    assert event_of(act["event"]) == live.scene.all_events[-1]


def test_a_fault_that_cannot_be_noted_does_not_act() -> None:
    live = Still(100 * S)
    injector = Injector(live, {})
    live.full = True
    with pytest.raises(RidethroughError, match="no space left"):
        injector.inject({"fault": "grid.outage", "target": "all"})
    assert len(live.scene.all_events) == 1
    live.full = False
    assert injector.inject({"fault": "grid.outage", "target": "all"})["number"] == 2


def test_an_open_end_is_the_end_of_the_run_and_can_be_cleared() -> None:
    live = Still(100 * S)
    injector = Injector(live, {})
    assert injector.inject({"fault": "grid.outage", "target": "all"})["end_ns"] == 600 * S
    injector.inject({"fault": "telemetry.frozen", "target": "all"})
    live.next_ns = 130 * S
    (ended,) = injector.clear(2)
    assert ended["end_ns"] == 130 * S
    assert live.acts[-1] == {"act": "clear", "t_ns": 130 * S, "number": 2}
    assert [fault["number"] for fault in injector.faults()] == [1, 3]
    assert [fault["in_force"] for fault in injector.faults()] == [False, True]
    assert [each["number"] for each in injector.clear(None)] == [3]  # what is still to come stays
    assert [fault["number"] for fault in injector.faults()] == [1]
    with pytest.raises(ScenarioError, match="event 3 found; allowed 1"):
        injector.clear(3)
    assert injector.clear(1)[0]["end_ns"] == 480 * S  # cleared before it began
    with pytest.raises(ScenarioError, match="allowed none: no fault is in force or to come"):
        injector.clear(1)
    assert injector.clear(None) == []


def test_what_cannot_act_here_comes_too_late_or_too_often_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Still(100 * S)
    injector = Injector(live, {})
    monkeypatch.setattr(injection, "INJECTED_MAX", 1)
    injector.inject({"fault": "grid.outage", "target": "all", "for": "1h"})
    assert live.scene.all_events[-1].end_ns == 600 * S
    with pytest.raises(ScenarioError, match="1 faults have been injected"):
        injector.inject({"fault": "grid.outage", "target": "all"})
    live.next_ns = 600 * S
    with pytest.raises(ScenarioError, match="the run is at its end"):
        Injector(live, {}).inject({"fault": "grid.outage", "target": "all"})


# The record.


def acts_folder(tmp_path: Path, *, close: bool = True, stopped: bool = False) -> Path:
    header = {**HEADER, "events": [], "duration_ns": 100 * S}
    writer = RecordWriter(tmp_path / "r", header)
    writer.append_truth(block("truth", 0, 5))
    event = {"number": 1, "fault": "grid.outage", "targets": [0], "start_ns": 3, "end_ns": 90, "params": {}}
    writer.note_act({"act": "inject", "t_ns": 3, "event": event})
    writer.note_act({"act": "clear", "t_ns": 50, "number": 1})
    if close:
        writer.close("completed", stopped=stopped)
    return tmp_path / "r"


@pytest.mark.parametrize("close", [True, False])
def test_a_record_has_its_events_as_they_became_whether_it_was_finished_or_not(
    close: bool, tmp_path: Path
) -> None:
    (event,) = read_record(acts_folder(tmp_path, close=close)).header["events"]
    assert (event["start_ns"], event["end_ns"], event["injected"]) == (3, 50, True)


def test_a_missing_or_damaged_act_is_named(tmp_path: Path) -> None:
    folder = acts_folder(tmp_path)
    (folder / "acts-00002.json").rename(folder / "acts-00002.json.tmp")
    with pytest.raises(ScenarioError, match=r"acts-00002.json: cannot be read"):
        read_record(folder)
    (folder / "acts-00002.json").write_text('{"act": "explode", "t_ns": 1}')
    with pytest.raises(ScenarioError, match=r"acts-00002.json: damaged: .*neither inject nor clear"):
        read_record(folder)
    (folder / "acts-00002.json").write_text('{"act": "inject", "t_ns": 1, "event": {"number": 2}}')
    with pytest.raises(ScenarioError, match=r"acts-00002.json: damaged: event.fault: found nothing"):
        read_record(folder)


def test_a_run_that_was_stopped_ends_where_it_stopped(tmp_path: Path) -> None:
    record = read_record(acts_folder(tmp_path, stopped=True))
    assert record.header["duration_ns"] == record.truth["t_ns"][-1]
    assert record.header["duration_ns_planned"] == 100 * S


# A world that goes on.


def recorded(
    tmp_path: Path, plan: Mapping[int, Callable[[Injector], object]], stop_s: int | None = None
) -> Path:
    """Record a world of three homes without clients; `plan` says what is done at which bench second."""
    the_world = world()
    plant = make_plant(the_world)
    pool = make_pool(the_world, plant)
    header = make_header(the_world, pool, plant, level="hil", controller="hold", speed=300.0)
    writer = RecordWriter(tmp_path / "r", header)

    stage = Stage(the_world, plant, speed=300.0, late_ns_max=240 * S, writer=writer)
    injector = Injector(stage, {"level": "hil"})

    async def plant_reaches(t_ns: int) -> None:
        while stage.next_ns < t_ns:  # not the clock: on a machine that stalls the plant is behind it
            await asyncio.sleep(0.001)

    async def act() -> None:
        for second, what in plan.items():
            await plant_reaches(second * S)
            what(injector)
            await plant_reaches(stage.next_ns + 1)  # what follows does not fall into the same instant
        if stop_s is not None:
            await plant_reaches(stop_s * S)
            injector.stop()

    async def go() -> None:
        stage.start(RealClock(300.0))
        await asyncio.gather(stage.run(), act())

    asyncio.run(go())
    writer.close("completed", stopped=stage.stopped)  # however slow this machine was
    return tmp_path / "r"


def test_truth_changes_at_the_very_instant_that_the_record_states(tmp_path: Path) -> None:
    plan: dict[int, Callable[[Injector], object]] = {
        63: lambda i: i.inject({"fault": "grid.outage", "target": [2], "for": "5min"}),
        81: lambda i: i.inject({"fault": "grid.outage", "target": [3]}),
        94: lambda i: i.clear(None),
    }
    record = read_record(recorded(tmp_path, plan))
    events = {event["number"]: event for event in record.header["events"]}
    assert set(events) == {1, 2, 3}
    assert events[2]["start_ns"] >= 63 * S
    assert events[2]["end_ns"] == events[3]["end_ns"] >= 94 * S  # both were in force and were cleared
    truth = record.truth
    for number, row in ((2, 1), (3, 2)):
        dark = (truth["device"] == row) & (truth["grid_good"] == 0)
        begins_ns = int((truth["t_ns"] - truth["dt_ns"])[dark].min())
        assert (begins_ns, int(truth["t_ns"][dark].max())) == (
            events[number]["start_ns"],
            events[number]["end_ns"],
        )
    assert not ((truth["device"] == 0) & (truth["grid_good"] == 0) & (truth["t_ns"] < 470 * S)).any()
    assert judge(record).outcome == "held"


def test_a_stopped_world_is_judged_as_far_as_it_went(tmp_path: Path) -> None:
    record = read_record(recorded(tmp_path, {}, stop_s=100))
    assert record.header["duration_ns"] < 200 * S
    verdict = judge(record)
    assert verdict.outcome == "held", verdict.reasons


def test_faults_act_where_there_is_something_to_act_on() -> None:
    the_world = world()
    stage = Stage(the_world, make_plant(the_world), speed=1.0, late_ns_max=S)
    assert stage.refuse("grid.outage") == ""
    assert stage.refuse("telemetry.frozen") == ""
    assert "--network puts one there" in stage.refuse("comms.loss")
    assert "nothing that is here" in stage.refuse("no.such")
    stage = Stage(the_world, make_plant(the_world), speed=1.0, late_ns_max=S, reach=frozenset({"link"}))
    assert stage.refuse("comms.loss") == ""


def test_a_stage_that_is_late_says_so() -> None:
    the_world = world().window(0, 60 * S)
    stage = Stage(the_world, make_plant(the_world), speed=300.0, late_ns_max=-1)

    async def go() -> None:
        stage.start(RealClock(300.0))
        asyncio.get_running_loop().call_later(0.1, stage.stop)
        await stage.run()

    asyncio.run(go())
    assert "the bench was late" in stage.fitness.fault


# The replay.


def test_a_live_session_with_three_injected_faults_replays_to_the_same_verdict(tmp_path: Path) -> None:
    plan: dict[int, Callable[[Injector], object]] = {
        63: lambda i: i.inject({"fault": "grid.outage", "target": "all", "for": "2min"}),
        81: lambda i: i.inject({"fault": "telemetry.frozen", "target": [3]}),
        300: lambda i: i.inject({"fault": "grid.outage", "target": [1], "for": "1min"}),
        360: lambda i: i.clear(3),
    }
    folder = recorded(tmp_path, plan)
    done = replay(folder, tmp_path / "again")
    assert done.outcome == "same"
    assert done.injected == 3
    assert {pair.recorded.outcome for pair in done.homes} == {"held"}
    old, new = read_record(folder), read_record(tmp_path / "again")
    assert [event["start_ns"] for event in new.header["events"]] == [
        e["start_ns"] for e in old.header["events"]
    ]
    for row in range(3):  # the same homes were dark for the same time
        dark_ns = [
            int(each.truth["dt_ns"][(each.truth["grid_good"] == 0) & (each.truth["device"] == row)].sum())
            for each in (old, new)
        ]
        assert dark_ns[0] == dark_ns[1] > 0


def test_a_replay_of_the_model_gives_the_same_truth_and_a_replay_of_another_verdict_differs(
    tmp_path: Path,
) -> None:
    run(world(), "hold", tmp_path / "a")
    assert replay(tmp_path / "a", tmp_path / "b").outcome == "same"
    a, b = read_record(tmp_path / "a"), read_record(tmp_path / "b")
    for name, column in a.truth.items():
        np.testing.assert_array_equal(column, b.truth[name])
    thin = {**DOCUMENT, "pool": [{**DOCUMENT["pool"][0], "soc": "64%"}], "prices": "synthetic-ercot-tight"}
    run(build_world(scenario_from_dict(thin)), "greedy", tmp_path / "c")
    done = replay(tmp_path / "c", tmp_path / "d", controller="hold")
    assert (done.outcome, done.exit_code) == ("different", 1)
    assert [pair.agree for pair in done.homes] == [False] * 3


def test_a_world_that_cannot_be_rebuilt_is_refused(tmp_path: Path) -> None:
    run(world(), "hold", tmp_path / "a")
    record = read_record(tmp_path / "a")
    odd = replace(record, header={**record.header, "world_digest": "0" * 64})
    with pytest.raises(ScenarioError, match="its fingerprint differs"):
        world_of(odd)
    bare = {key: value for key, value in record.header.items() if key != "scenario_document"}
    with pytest.raises(ScenarioError, match="does not say its scenario_document"):
        world_of(replace(record, header=bare))
    with pytest.raises(ScenarioError, match="commanded by other programs"):
        controller_of(replace(record, header={**record.header, "controller": CLIENTS}))


def test_a_window_of_a_scenario_is_replayed_as_that_window(tmp_path: Path) -> None:
    run(world().window(60 * S, 500 * S), "hold", tmp_path / "a")
    assert replay(tmp_path / "a", tmp_path / "b").outcome == "same"


def test_an_event_that_was_cleared_before_it_began_did_not_happen(tmp_path: Path) -> None:
    folder = recorded(tmp_path, {20: lambda i: i.clear(1)})
    assert read_record(folder).header["events"] == []
    assert not (read_record(folder).truth["grid_good"] == 0).any()
