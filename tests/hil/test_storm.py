"""Storms: drawn from the seed by name, inside the ranges, over when they must be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.assembly import make_header, make_plant, make_pool
from ridethrough.hil.effects.table import LEVELS
from ridethrough.hil.fault_files import FOR, load_fault
from ridethrough.hil.faults import EventSpec, read_event, write_event
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.scenario import StormSpec
from ridethrough.hil.storm import EVENTS_MAX, heal_ns, storm, storm_note
from ridethrough.hil.units import HOUR_NS
from ridethrough.hil.world import build_world

EVERY = StormSpec().classes


def document(seed: int = 1, devices: int = 4, **spec: Any) -> dict[str, Any]:
    group = {
        "count": devices,
        "device": "home-13kwh-5kw",
        "commitment": {"hours": 2, "load_w": 500},
        "load": "synthetic-home",
    }
    base = {"faults_per_hour": 2, "swarm": False}
    return {
        "name": "stormy",
        "seed": seed,
        "start": "06:00",
        "duration": "12h",
        "pool": [group],
        "storm": base | spec,
    }


def drawn(seed: int = 1, **spec: Any) -> tuple[EventSpec, ...]:
    return storm(scenario_from_dict(document(seed, **spec)))


def group(event: EventSpec) -> str:
    return event.fault.partition(".")[0]


def test_one_seed_gives_the_same_storm_and_another_seed_another() -> None:
    assert drawn(permanent=1) == drawn(permanent=1)
    assert drawn(seed=2) != drawn()
    assert {group(event) for event in drawn()} == {name for name in EVERY if _offered(name)}


def _offered(name: str) -> bool:
    """Tell whether a class has a fault that acts at every level."""
    return bool(drawn(classes=[name], faults_per_hour=4))


def test_the_storm_is_the_same_in_every_process() -> None:
    code = (
        "from ridethrough.hil.files import scenario_from_dict; from ridethrough.hil.storm import storm; "
        f"print(storm(scenario_from_dict({document(permanent=1)!r})))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert texts == {f"{drawn(permanent=1)}\n"}


@pytest.mark.parametrize("name", EVERY)
def test_a_class_more_does_not_move_the_faults_of_the_others(name: str) -> None:
    with_it = drawn(permanent=2, core=[1])
    without = drawn(permanent=2, core=[1], classes=[each for each in EVERY if each != name])
    assert without == tuple(event for event in with_it if group(event) != name)


def test_a_device_more_does_not_move_the_faults_of_the_others() -> None:
    few, more = (storm(scenario_from_dict(document(devices=devices, permanent=1))) for devices in (4, 5))
    assert [(event.at, event.fault, event.given) for event in few] == [
        (event.at, event.fault, event.given) for event in more
    ]
    pairs = zip((event.target for event in few), (event.target for event in more), strict=True)
    moved = [(before, after) for before, after in pairs if after != before]
    assert len(moved) < 0.7 * len(few)
    for before, after in moved:
        assert isinstance(before, tuple)
        assert after == ("home-05",) or after == (*before, "home-05")


def test_a_higher_rate_keeps_the_faults_of_a_lower_one() -> None:
    few, many = drawn(faults_per_hour=1), drawn(faults_per_hour=4)
    assert len(few) > 20
    assert 2 * len(few) < len(many)
    assert [event for event in many if event in few] == list(few)


def test_each_seed_leaves_out_each_class_half_the_time() -> None:
    seeds, offered = 40, [str(name) for name in EVERY if _offered(name)]
    seen: dict[str, int] = dict.fromkeys(offered, 0)
    for seed in range(seeds):
        classes = {group(event) for event in drawn(seed, swarm=True)}
        for name in classes:
            seen[name] += 1
    for name, count in seen.items():
        assert 9 < count < 31, name
    # A class that stays in under a seed has the events it has when none is left out.
    stays = drawn(7, swarm=True)
    assert list(stays) == [event for event in drawn(7) if event in stays]


def test_the_storm_ends_and_only_permanent_faults_stay_outside_the_core() -> None:
    source = document(until="14:00", permanent=2, core=["home-01", 3])
    scenario = scenario_from_dict(source)
    world = build_world(scenario)
    assert heal_ns(scenario) == world.heal_ns == 8 * HOUR_NS
    late = [event for event in world.events if event.end_ns > 8 * HOUR_NS]
    assert late
    for event in late:
        assert event.end_ns == world.duration_ns
        assert event.start_ns < 8 * HOUR_NS
        assert event.targets in ((1,), (3,))
    assert len(world.events) > len(late)
    assert [event.number for event in world.events] == list(range(1, len(world.events) + 1))


def test_without_a_time_the_last_quarter_is_for_healing() -> None:
    world = build_world(scenario_from_dict(document()))
    assert world.heal_ns == 9 * HOUR_NS
    assert max(event.end_ns for event in world.events) <= 9 * HOUR_NS
    assert world.window(2 * HOUR_NS, 10 * HOUR_NS).heal_ns == 7 * HOUR_NS
    assert world.window(10 * HOUR_NS, HOUR_NS).heal_ns == 0


def test_the_heal_instant_is_in_the_head_of_the_record_and_in_the_fingerprint() -> None:
    worlds = [
        build_world(scenario_from_dict(document(faults_per_hour=0, until=at))) for at in ("9:00", "10:00")
    ]
    plant = make_plant(worlds[0])
    pool = make_pool(worlds[0], plant)
    head = make_header(worlds[0], pool, plant, level="mil", controller="hold", speed=None)
    assert head["heal_ns"] == 3 * HOUR_NS
    assert worlds[0].digest != worlds[1].digest


def test_what_is_drawn_can_be_written_down_and_is_in_the_ranges() -> None:
    events = drawn(faults_per_hour=30)
    assert len({event.fault for event in events}) > 10
    for event in events:
        assert read_event(write_event(event)) == (event, [])
    written = [write_event(event) for event in drawn()]
    plain = {**document(), "events": written}
    del plain["storm"]
    assert build_world(scenario_from_dict(plain)).events == build_world(scenario_from_dict(document())).events


def test_values_differ_from_one_fault_to_the_next() -> None:
    events = [
        event for event in drawn(faults_per_hour=60, classes=["comms"]) if event.fault == "comms.latency"
    ]
    assert len(events) > 5
    assert len({event.given["mean"] for event in events}) > 5
    assert len({event.for_ for event in events}) > 5
    assert {event.target == "all" for event in events} == {True, False}


def test_a_fault_that_does_not_act_at_every_level_is_in_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    spec: dict[str, Any] = {"classes": ["comms"], "faults_per_hour": 20}
    some = {event.fault for event in drawn(**spec)}
    assert "comms.loss" in some

    def everywhere_but_one(fault: str) -> tuple[str, ...]:
        return LEVELS[1:] if fault == "comms.loss" else LEVELS

    monkeypatch.setattr("ridethrough.hil.storm.levels", everywhere_but_one)
    assert "comms.loss" not in {event.fault for event in drawn(**spec)}


def test_a_note_says_what_a_storm_comes_to() -> None:
    scenario = scenario_from_dict(document(classes=["grid"], permanent=1))
    world = build_world(scenario)
    count = len(world.events)
    note = f"storm: {count} faults ({count} of grid) until 15:00:00, 1 of them to the end"
    assert storm_note(scenario, world.events) == note
    quiet = scenario_from_dict({key: value for key, value in document().items() if key != "storm"})
    assert storm_note(quiet, ()) is None
    assert storm(quiet) == ()
    assert build_world(quiet).heal_ns is None


def test_a_storm_reads_back() -> None:
    scenario = scenario_from_dict(document(until="14:00", core=["home", 1], permanent=0, classes=["grid"]))
    assert scenario_from_dict(scenario.to_dict()) == scenario
    assert scenario.to_dict()["storm"]["until"] == "14:00:00"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"classes": []}, "storm.classes: found an empty list; allowed a list with at least one entry"),
        ({"classes": ["com"]}, "storm.classes[0]: found 'com' (did you mean 'comms'?); allowed comms, tele"),
        ({"classes": ["grid", "grid"]}, "storm: found grid, grid as classes; allowed each once"),
        (
            {"faults_per_hour": 61},
            "storm.faults_per_hour: found 61; allowed a number at least 0 and at most 60",
        ),
        ({"until": "06:00"}, "storm.until: found 06:00:00; allowed times between start and end of the run"),
        ({"until": "18:00"}, "storm.until: found 18:00:00; allowed times between start and end of the run"),
        ({"until": "later"}, "storm.until: found 'later'; allowed a time of day"),
        ({"core": ["home-9"]}, "storm.core: found 'home-9' (did you mean 'home'?); allowed all, home"),
        ({"core": []}, "storm.core: found an empty list; allowed all, the name of a group"),
        ({"core": "all", "permanent": 1}, "storm.core: found all 4 devices; allowed one less"),
        ({"permanent": -1}, "storm.permanent: found -1; allowed a whole number at least 0"),
        ({"swarm": "no"}, "storm.swarm: found 'no'; allowed true or false"),
        ({"rate": 2}, "storm.rate: found unknown key 'rate'; allowed classes, core, faults_per_hour"),
    ],
)
def test_a_wrong_storm_is_refused_in_words(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario_from_dict(document(**spec))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"scenario: {message}")


def test_a_storm_of_too_many_faults_is_refused() -> None:
    source = document(faults_per_hour=60) | {"duration": "20d"}
    with pytest.raises(ScenarioError, match=f"storm: found about 129600 faults .*; allowed {EVENTS_MAX}"):
        storm(scenario_from_dict(source))


def test_lengths_are_around_those_of_the_examples() -> None:
    whole = [event for event in drawn(faults_per_hour=10) if event.at + event.for_ < 15 * HOUR_NS]
    assert len(whole) > 20
    for event in whole:
        usual_ns = FOR.parse(load_fault(event.fault).example.get("for", "10min"))
        assert 0.49 * usual_ns <= event.for_ <= 2 * usual_ns
