"""Faults of the grid: what each puts on the homes it names, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.fields import STATUS, TICKS_PER_S
from ridethrough.hil.assembly import make_header, make_plant, make_pool
from ridethrough.hil.effects.grid import ACTS, EDGES, FLICKERS_MAX, GridFaults, Inputs
from ridethrough.hil.faults import Event
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.scene import Scene
from ridethrough.hil.units import TICK_NS
from ridethrough.hil.world import World, build_world

from tests.hil.fault_rig import NS, Rig, event

HOURS_H = np.array([2.0, 0.5, 1.0])
STATEFUL = ("grid.outage-in-charge", "grid.outage-in-export")
SAMPLED = ("grid.frequency",)
"""Its course is sampled at the edges; between them it holds."""


def status(rig: Rig) -> str:
    return STATUS[int(rig.state("status"))]


def blank(n: int = 3) -> Inputs:
    names = ("load_w", "pv_w_available", "grid_good", "grid_held", "voltage_pu", "frequency_hz")
    values = {"grid_good": 1.0, "voltage_pu": 1.0, "frequency_hz": 60.0}
    return Inputs(**{name: np.full(n, values.get(name, 0.0)) for name in names})


def at(faults: GridFaults, one: Event, now_ns: int, rig: Rig) -> Inputs:
    inputs = blank()
    faults.act([one], inputs, rig.plant, now_ns)
    return inputs


def flat(inputs: Inputs) -> list[list[float]]:
    return [
        getattr(inputs, name).tolist()
        for name in ("load_w", "pv_w_available", "grid_good", "grid_held", "voltage_pu", "frequency_hz")
    ]


THREE = Rig(profiles=[Rig().plant.profiles[0]] * 3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(set(ACTS) - set(STATEFUL) - set(SAMPLED))),
    st.integers(0, 500),
    st.integers(1, 3000),
    st.sampled_from([(0,), (1,), (0, 2)]),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8),
)
def test_inputs_change_at_edges_only_and_of_targets_only(
    fault: str, start_s: int, length_s: int, targets: tuple[int, ...], places: list[float]
) -> None:
    faults = GridFaults(7, HOURS_H)
    one = event(fault, start_s, start_s + length_s, targets)
    edges = [one.start_ns, *faults.edges_ns(one), one.end_ns]
    assert edges == sorted(set(edges))
    assert all(edge % TICK_NS == 0 for edge in edges)
    for place in places:
        now_ns = min(one.start_ns + round(place * length_s * NS / TICK_NS) * TICK_NS, one.end_ns - TICK_NS)
        last = max(edge for edge in edges if edge <= now_ns)
        found = flat(at(faults, one, now_ns, THREE))
        assert found == flat(at(faults, one, last, THREE))
        for d in set(range(3)) - set(targets):
            assert [column[d] for column in found] == [column[d] for column in flat(blank())]


def test_every_fault_that_changes_within_its_event_is_one_that_acts() -> None:
    assert set(EDGES) <= set(ACTS)


def test_a_flicker_is_a_series_of_bursts_from_the_seed() -> None:
    one = event("grid.flicker", 100, 100 + 6 * 3600, rate=20, again="70%", gap="10s", outage="3s")
    outages = GridFaults(1, HOURS_H).flickers_ns(one)
    assert outages == GridFaults(1, HOURS_H).flickers_ns(one)
    assert outages != GridFaults(2, HOURS_H).flickers_ns(one)
    assert outages[0][0] == one.start_ns
    begins, ends = (np.array(column) / NS for column in zip(*outages, strict=True))
    assert (begins[1:] > ends[:-1]).all()
    gaps_s = begins[1:] - ends[:-1]
    # A burst begins every 180 s or so and has 1 / (1 - 0.7) outages; the mean gap mixes 10 s and 180 s.
    assert np.mean(ends - begins) == pytest.approx(3.0, rel=0.3)
    assert np.mean(gaps_s) == pytest.approx(0.7 * 10 + 0.3 * 180, rel=0.3)
    assert 0.5 < np.mean(gaps_s < 40.0) < 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4000), st.integers(1, 4000))
def test_a_flicker_that_ends_early_is_the_beginning_of_the_same(seed: int, short_s: int, long_s: int) -> None:
    faults = GridFaults(seed, HOURS_H)
    short_s, long_s = sorted((short_s, long_s))
    short, long = (
        faults.flickers_ns(event("grid.flicker", 10, 10 + length_s, number=k))
        for k, length_s in enumerate((short_s, long_s))
    )
    end_ns = (10 + short_s) * NS
    assert short == [(begin, min(end, end_ns)) for begin, end in long if begin < end_ns]


def test_a_flicker_has_an_end() -> None:
    one = event("grid.flicker", 0, 86_400 * 60, rate=120, again="90%", gap="1s", outage="20ms")
    assert len(GridFaults(1, HOURS_H).flickers_ns(one)) == FLICKERS_MAX


def test_a_flickering_grid_is_lost_and_back() -> None:
    rig = Rig(event("grid.flicker", 10, 250, outage="5s"))
    good = []
    for _ in range(300):
        rig.step()
        good.append(rig.plant.inputs("grid_good")[0])
    lost = np.flatnonzero(np.array(good) == 0.0)
    assert lost[0] == 10
    assert lost[-1] < 250
    assert 0 < len(lost) < 120


@pytest.mark.parametrize(
    ("fault", "command_w", "begins"),
    [
        ("grid.outage-in-charge", -2000.0, True),
        ("grid.outage-in-charge", 2000.0, False),
        ("grid.outage-in-charge", -300.0, False),
        ("grid.outage-in-export", 2000.0, True),
        ("grid.outage-in-export", 900.0, False),
        ("grid.outage-in-export", -2000.0, False),
    ],
)
def test_an_outage_waits_for_its_moment(fault: str, command_w: float, begins: bool) -> None:
    rig = Rig(event(fault, 10, 300, outage="30s"))
    rig.until(40)
    assert rig.plant.inputs("grid_good")[0] == 1.0
    rig.command(command_w, 600.0)
    good = []
    for _ in range(100):
        rig.step()
        good.append(bool(rig.plant.inputs("grid_good")[0]))
    expected = [True] * 1 + [False] * 30 + [True] * 69 if begins else [True] * 100
    assert good == expected


def test_an_outage_that_waits_begins_once_for_each_target_and_ends_with_its_event() -> None:
    profiles = Rig().plant.profiles * 2
    rig = Rig(event("grid.outage-in-charge", 10, 60, (0, 1), outage="10min"), profiles=profiles)
    rig.until(20)
    rig.plant.command(
        np.array([False, True]), np.full(2, -2000.0), np.full(2, 50_000, dtype=np.int64), np.full(2, np.nan)
    )
    rig.until(40)
    assert rig.plant.inputs("grid_good").tolist() == [1.0, 0.0]
    rig.until(61)
    assert rig.plant.inputs("grid_good").tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("deviation", "rate"), [(0.8, 0.5), (-2.0, 4.0), (3.0, 0.01)])
def test_a_frequency_excursion_goes_and_returns_at_its_rate(deviation: float, rate: float) -> None:
    faults = GridFaults(1, HOURS_H)
    one = event("grid.frequency", 10, 130, deviation=deviation, rate=rate)
    edges = [one.start_ns, *faults.edges_ns(one)]
    course = [at(faults, one, edge, THREE).frequency_hz[0] - 60.0 for edge in edges]
    top = min(abs(deviation), rate * 60.0)
    assert max(abs(hz) for hz in course) == pytest.approx(top)
    assert all(hz * deviation >= 0.0 for hz in course)
    for (before_ns, before), (now_ns, now) in zip(
        zip(edges, course, strict=True), zip(edges[1:], course[1:], strict=True), strict=False
    ):
        assert abs(now - before) <= rate * (now_ns - before_ns) / NS + 1e-9
    assert abs(course[-1]) <= max(0.2, top / 100) * max(rate, 1.0)
    assert len(edges) < 450


def test_droop_answers_an_excursion() -> None:
    rig = Rig(event("grid.frequency", 30, 90, deviation=0.8))
    rig.command(2000.0, 600.0)
    rig.until(60)
    # 5 % droop beyond 36 mHz, of 5 kW
    assert rig.state("power_w") == pytest.approx(2000.0 - 5000.0 * (0.8 - 0.036) / (60.0 * 0.05), rel=1e-3)
    rig.until(120)
    assert rig.state("power_w") == pytest.approx(2000.0)
    assert rig.state("status") == 0.0


def test_an_outage_lasts_by_the_promise_of_each_home() -> None:
    faults = GridFaults(1, HOURS_H)
    one = event("grid.outage-beyond-promise", 0, 2 * 3600, (0, 1, 2), factor=1.5)
    good = {
        hours: at(faults, one, round(hours * 3600) * NS, THREE).grid_good.tolist()
        for hours in (0.0, 0.74, 0.76, 1.49, 1.51)
    }
    assert good == {
        0.0: [0.0, 0.0, 0.0],
        0.74: [0.0, 0.0, 0.0],
        0.76: [0.0, 1.0, 0.0],
        1.49: [0.0, 1.0, 0.0],
        1.51: [0.0, 1.0, 1.0],
    }


@pytest.mark.parametrize(("share", "count"), [("1%", 1), ("10%", 2), ("50%", 10), ("55%", 11), ("100%", 20)])
def test_a_partial_outage_takes_a_share_of_its_targets(share: str, count: int) -> None:
    one = event("grid.partial-outage", 0, 60, tuple(range(20)), share=share)
    chosen = set()
    for seed in range(3):
        inputs = blank(24)
        GridFaults(seed, np.ones(24)).act([one], inputs, THREE.plant, 0)
        out = np.flatnonzero(inputs.grid_good == 0.0)
        assert len(out) == count
        assert out.max() < 20
        chosen.add(tuple(out.tolist()))
    assert len(chosen) == (1 if share == "100%" else 3)


def test_a_phase_jump_holds_an_island_that_would_have_returned() -> None:
    jump, plain = (
        Rig(one) for one in (event("grid.phase-jump", 10, 700, dead="10s"), event("grid.outage", 10, 20))
    )
    for rig in (jump, plain):
        rig.until(330)
        assert rig.plant.inputs("grid_good")[0] == 1.0
    assert (status(jump), status(plain)) == ("island", "on_grid")
    assert status(jump.until(699)) == "island"
    assert status(jump.until(703)) == "on_grid"


def test_an_unintentional_island_is_noticed_by_the_device() -> None:
    """For 2 s it goes on exchanging power with a section that is lost; `held` may end that earlier."""
    for held, seen_ticks in (("1min", 100), ("0.5s", 25)):
        rig = Rig(event("grid.unintentional-island", 5, 60, held=held))
        rig.command(2000.0, 600.0)
        rig.until(5)
        ticks = 0
        for _ in range(200):
            inputs = blank(1)
            rig.grid.act(rig.in_force(), inputs, rig.plant, 5 * NS + ticks * TICK_NS)
            rig.plant.set_input("grid_good", inputs.grid_good)
            rig.plant.set_input("grid_held", inputs.grid_held)
            rig.plant.advance(1)
            if STATUS[int(rig.state("status"))] != "on_grid":
                break
            assert rig.state("import_w") == pytest.approx(900.0 - 2000.0)
            ticks += 1
        assert ticks == seen_ticks
        assert rig.state("dead_import_w_high") == pytest.approx(1100.0)


def document(*events: dict[str, Any], **changes: Any) -> World:
    source = {
        "name": "grid",
        "seed": 5,
        "start": "00:00",
        "duration": "30min",
        "pool": [
            {
                "count": 3,
                "device": "home-13kwh-5kw",
                "commitment": {"hours": 1, "load_w": 500},
                "load": "synthetic-home",
                "soc": 0.6,
            }
        ],
        "prices": {"constant": 50},
        "events": list(events),
        **changes,
    }
    return build_world(scenario_from_dict(source))


def voltages(world: World, seconds: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the voltage at each home in each second, as the bench's levels make it."""
    plant, scene, found = make_plant(world), Scene(world), []
    for second in range(seconds):
        scene.set_inputs(plant, second * NS)
        plant.advance(TICKS_PER_S)
        found.append(plant.inputs("voltage_pu"))
    return np.array(found)


SAG = {"at": "00:05", "fault": "grid.sag", "target": [2], "for": "1min", "voltage": "80%"}


@pytest.mark.parametrize("feeder", [None, {"transformer_kva": 50}], ids=["no feeder", "feeder"])
def test_a_sag_takes_its_share_of_the_voltage_wherever_that_comes_from(feeder: object) -> None:
    changes: dict[str, Any] = {} if feeder is None else {"feeder": feeder}
    free = voltages(document(source_voltage_pu=1.02, **changes), 400)
    sagged = voltages(document(SAG, source_voltage_pu=1.02, **changes), 400)
    inside = slice(300, 360)
    assert sagged[:300].tolist() == free[:300].tolist()
    # The sagging home draws other powers, which moves the feeder a little; no sag upon a sag.
    assert sagged[inside, 1] == pytest.approx(0.8 * free[inside, 1], rel=2e-3)
    assert sagged[inside][:, [0, 2]] == pytest.approx(free[inside][:, [0, 2]], rel=2e-3)
    assert sagged[361:] == pytest.approx(free[361:], rel=2e-3)


def test_a_device_rides_through_a_short_sag_and_leaves_in_a_long_one() -> None:
    rig = Rig(event("grid.sag", 10, 15, voltage="70%"), event("grid.sag", 100, 160, voltage="70%", number=2))
    rig.until(40)
    assert status(rig) == "on_grid"
    rig.until(150)
    assert status(rig) == "island"
    assert rig.state("backup_w_served") == 900.0


def test_an_announcement_is_in_the_record_and_the_outage_is_one(tmp_path: Path) -> None:
    planned = {"at": "00:05", "fault": "grid.planned-outage", "target": "all", "for": "5min", "notice": "2h"}
    world = document(planned)
    plant = make_plant(world)
    pool = make_pool(world, plant)
    header = make_header(world, pool, plant, level="mil", controller="hold", speed=None)
    assert header["events"][0]["params"] == {"notice_s": 7200.0}
    scene = Scene(world)
    scene.set_inputs(plant, 300 * NS)
    assert plant.inputs("grid_good").tolist() == [0.0, 0.0, 0.0]


def test_a_scene_looks_again_at_every_edge_of_a_fault() -> None:
    flicker = {"at": "00:05", "fault": "grid.flicker", "target": "all", "for": "10min", "outage": "2s"}
    world = document(flicker)
    scene, plant = Scene(world), make_plant(world)
    outages = GridFaults(world.seed, HOURS_H).flickers_ns(world.events[0])
    now_ns, seen = 0, []
    while now_ns < world.duration_ns:
        scene.set_inputs(plant, now_ns)
        if plant.inputs("grid_good")[0] == 0.0:
            seen.append(now_ns)
        now_ns = min(scene.next_edge_ns(now_ns), (now_ns // world.load_step_ns + 1) * world.load_step_ns)
    assert set(seen) >= {begin_ns for begin_ns, _ in outages}
    assert not set(seen) & {end_ns for _, end_ns in outages}
