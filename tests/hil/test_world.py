from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.advice import reserve_wh, scenario_notes
from ridethrough.hil.faults import Event
from ridethrough.hil.files import load_feeder, load_profile, load_scenario, scenario_from_dict, scenario_names
from ridethrough.hil.scenario import TransformerSpec
from ridethrough.hil.units import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS, TICK_NS
from ridethrough.hil.world import World, build_world, pv_homes

GROUP: dict[str, Any] = {
    "device": "home-13kwh-5kw",
    "commitment": {"hours": 8, "load_w": 900},
    "load": "synthetic-home",
}


def build(folder: Path | None = None, **changes: Any) -> World:
    data = {"name": "test", "duration": "4h", "pool": [GROUP]} | changes
    return build_world(scenario_from_dict(data, folder))


@pytest.fixture(scope="module")
def pilot() -> World:
    return build_world(load_scenario("pilot"))


def test_the_pilot_is_what_it_says(pilot: World) -> None:
    n = len(pilot.names)
    assert n == 37
    assert (pilot.names[0], pilot.names[35], pilot.names[36]) == ("home-01", "home-36", "town-hall")
    assert pilot.load_w.shape == pilot.pv_w.shape == (1440, n)
    assert pilot.load_w.dtype == np.float64
    assert (pilot.load_w >= 0).all()
    assert (pilot.pv_w.max(axis=0) > 0).sum() == 19
    assert pilot.prices_usd_per_mwh.shape == (96,)
    assert pilot.prices_ahead_usd_per_mwh.shape == (192,)
    assert pilot.prices_usd_per_mwh.max() > 300
    assert pilot.start_of_day_ns == 6 * HOUR_NS
    assert pilot.clock(0) == "06:00:00"
    assert pilot.clock(20 * HOUR_NS + TICK_NS) == "1d 02:00:00.02"
    outage = pilot.events[4]
    assert (outage.fault, outage.targets) == ("grid.outage", tuple(range(n)))
    assert pilot.clock(outage.start_ns) == "18:05:00"
    assert outage.end_ns - outage.start_ns == 40 * MINUTE_NS
    assert len(pilot.events[5].targets) == 12
    assert pilot.events[3].targets == (2, 6)
    spike = np.flatnonzero(pilot.prices_usd_per_mwh > 200)[0] * 15 * MINUTE_NS
    assert spike < outage.start_ns  # the pool is tempted before the grid fails


def test_the_pilot_s_promises_take_55_to_75_percent_of_each_battery() -> None:
    scenario = load_scenario("pilot")
    shares = [
        reserve_wh(group, load_profile(group.device)) / load_profile(group.device).battery.energy_wh
        for group in scenario.pool
    ]
    assert all(0.55 <= share <= 0.75 for share in shares), shares
    assert scenario_notes(scenario) == ()


def test_a_transformer_that_the_devices_can_overload_gets_a_note() -> None:
    scenario = load_scenario("pilot").model_copy(update={"feeder": TransformerSpec(transformer_kva=250.0)})
    assert scenario_notes(scenario) == tuple(
        f"feeder: all devices together {verb} with up to {power} kW through a transformer of 250 kVA; only "
        "the controller keeps them within it"
        for verb, power in (("charge", 425), ("discharge", 449))
    )


@pytest.mark.parametrize("name", scenario_names())
def test_worlds_are_the_same_in_another_process(name: str) -> None:
    code = (
        "import sys; from ridethrough.hil.files import load_scenario; "
        "from ridethrough.hil.world import build_world; "
        "print(build_world(load_scenario(sys.argv[1])).digest)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, name],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == build_world(load_scenario(name)).digest


def test_the_digest_sees_every_change(pilot: World) -> None:
    event = pilot.events[0]
    load = pilot.load_w.copy()
    load[700, 3] = np.nextafter(load[700, 3], np.inf)
    changed = [
        replace(pilot, load_w=load),
        replace(pilot, seed=2),
        replace(pilot, names=("other", *pilot.names[1:])),
        replace(pilot, profiles=(pilot.profiles[-1], *pilot.profiles[1:])),
        replace(pilot, soc_frac=pilot.soc_frac * 0.5),
        replace(pilot, commitments=replace(pilot.commitments, hours_h=pilot.commitments.hours_h + 1)),
        replace(pilot, events=pilot.events[1:]),
        replace(pilot, events=(replace(event, params={"stamp": "fresh"}), *pilot.events[1:])),
        replace(pilot, comms=replace(pilot.comms, loss_frac=0.5)),
        replace(pilot, poll_ns=SECOND_NS),
        replace(pilot, feeder=None),
        replace(pilot, source_voltage_pu=1.01),
        replace(pilot, ambient_c=pilot.ambient_c - 1.0),
        replace(pilot, load_var_per_w=pilot.load_var_per_w + 0.1),
        replace(pilot, export_w_max=np.full(37, 4000.0)),
        replace(pilot, prices_ahead_usd_per_mwh=pilot.prices_ahead_usd_per_mwh[1:]),
        pilot.window(0, HOUR_NS),
    ]
    digests = {world.digest for world in [pilot, *changed]}
    assert len(digests) == len(changed) + 1
    assert replace(pilot, document={}).digest == pilot.digest


def test_a_seed_changes_the_chance_and_nothing_else() -> None:
    one, other = build(seed=1), build(seed=2)
    assert (one.load_w != other.load_w).any()
    assert (one.soc_frac == other.soc_frac).all()
    assert one.events == other.events


def test_adding_a_fault_or_a_home_leaves_the_others_alone() -> None:
    small = build(pool=[GROUP | {"count": 2, "pv": {"w_peak": 5000}}])
    event = {"at": "01:00", "fault": "comms.loss", "probability": "5%", "target": "all", "for": "1h"}
    large = build(pool=[GROUP | {"count": 4, "pv": {"w_peak": 5000}}], events=[event])
    assert (large.load_w[:, :2] == small.load_w).all()
    assert (large.pv_w[:, :2] == small.pv_w).all()
    assert (large.prices_usd_per_mwh == small.prices_usd_per_mwh).all()


def test_a_later_start_sees_the_same_world() -> None:
    early = build(start="06:00", duration="8h")
    late = build(start="08:07", duration="1h")
    assert (late.load_w == early.load_w[127:187]).all()
    assert late.price_step_ns == MINUTE_NS
    assert (late.prices_usd_per_mwh == np.repeat(early.prices_usd_per_mwh, 15)[127:187]).all()
    assert (
        late.prices_ahead_usd_per_mwh[:60] == np.repeat(early.prices_ahead_usd_per_mwh, 15)[127:187]
    ).all()


@given(st.integers(0, 1439), st.data())
@settings(max_examples=40, deadline=None)
def test_a_window_is_the_same_world_cut(pilot: World, first: int, data: st.DataObject) -> None:
    from_ns = first * MINUTE_NS
    length_ns = TICK_NS * data.draw(st.integers(1, (pilot.duration_ns - from_ns) // TICK_NS))
    cut = pilot.window(from_ns, length_ns)
    assert cut.clock(0) == pilot.clock(from_ns)
    assert (cut.duration_ns, cut.window_from_ns) == (length_ns, from_ns)
    assert (cut.soc_frac == pilot.soc_frac).all()
    assert len(cut.load_w) == -(-length_ns // cut.load_step_ns)
    assert len(cut.prices_usd_per_mwh) == -(-length_ns // cut.price_step_ns)
    for now_ns in data.draw(st.lists(st.integers(0, length_ns - 1), min_size=1, max_size=5)):
        then_ns = from_ns + now_ns
        for name in ("load_w", "pv_w"):
            row = getattr(cut, name)[now_ns // cut.load_step_ns]
            assert (row == getattr(pilot, name)[then_ns // pilot.load_step_ns]).all()
        for name in ("prices_usd_per_mwh", "prices_ahead_usd_per_mwh"):
            price = getattr(cut, name)[now_ns // cut.price_step_ns]
            assert price == getattr(pilot, name)[then_ns // pilot.price_step_ns]
        active = {e.number: e for e in cut.events if e.start_ns <= now_ns < e.end_ns}
        expected = {e.number: e for e in pilot.events if e.start_ns <= then_ns < e.end_ns}
        assert active.keys() == expected.keys()
    assert all(0 <= e.start_ns < e.end_ns <= length_ns for e in cut.events)


def test_windows_of_windows_add_up(pilot: World) -> None:
    twice = pilot.window(2 * HOUR_NS, 12 * HOUR_NS).window(7 * MINUTE_NS, HOUR_NS)
    once = pilot.window(2 * HOUR_NS + 7 * MINUTE_NS, HOUR_NS)
    assert twice.clock(0) == once.clock(0) == "08:07:00"
    assert (twice.load_w == once.load_w).all()
    assert twice.window_from_ns == once.window_from_ns


@pytest.mark.parametrize(
    ("from_ns", "length_ns", "words"),
    [
        (0, 25 * HOUR_NS, "allowed windows in steps of 20ms inside 06:00:00 to 1d 06:00:00"),
        (-HOUR_NS, 2 * HOUR_NS, "found a window from 05:00:00 for 2h"),
        (0, 0, "for 0s"),
        (0, TICK_NS + 1, "in steps of 20ms"),
        (SECOND_NS, HOUR_NS, "found a window from 06:00:01; allowed: from a whole minute"),
    ],
)
def test_windows_outside_are_refused(pilot: World, from_ns: int, length_ns: int, words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        pilot.window(from_ns, length_ns)


def test_worlds_cannot_be_written_to(pilot: World) -> None:
    with pytest.raises(ValueError, match="read-only"):
        pilot.load_w[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        pilot.commitments.hours_h[0] = 1.0


def test_promises_come_out_in_si_units() -> None:
    group = GROUP | {
        "commitment": {"hours": 2.5, "load_w": "1.2kW", "transfer": "slow", "recovery": "10min"},
        "soc": "80%",
        "soh": 0.9,
        "backup_share": "50%",
        "load_scale": 2,
    }
    world = build(pool=[group, GROUP], comms={"poll": "5s", "loss": "1%", "timeout": "3s"})
    assert world.commitments.hours_h.tolist() == [2.5, 8.0]
    assert world.commitments.load_w.tolist() == [1200.0, 900.0]
    assert world.commitments.transfer_s.tolist() == [1.0, load_profile("home-13kwh-5kw").transfer_s]
    assert world.commitments.recovery_s.tolist() == [600.0, 300.0]
    assert [a.tolist() for a in (world.soc_frac, world.soh_frac, world.backup_frac)] == [
        [0.8, 0.9],
        [0.9, 1],
        [0.5, 1],
    ]
    assert (world.load_w[:, 0] == 2 * build().load_w[:, 0]).all()
    assert (world.poll_ns, world.comms.timeout_ns, world.comms.loss_frac) == (
        5 * SECOND_NS,
        3 * SECOND_NS,
        0.01,
    )
    assert (world.comms.latency_ns_mean, world.comms.latency_ns_p99) == (80_000_000, 900_000_000)


@given(st.integers(1, 200), st.floats(0, 1))
def test_a_share_of_the_homes_has_pv_spread_evenly(count: int, share: float) -> None:
    have = pv_homes(count, share)
    assert abs(have.sum() - count * share) < 1 + 1e-6
    running = np.cumsum(have) - np.arange(1, count + 1) * share
    assert (np.abs(running) < 1 + 1e-6).all()


def test_events_are_on_the_bench_s_clock() -> None:
    world = build(
        start="22:00",
        events=[
            {
                "at": "23:30",
                "fault": "comms.partition",
                "direction": "commands",
                "target": ["home-01"],
                "for": "5min",
            },
            {"at": "1d 01:00", "fault": "grid.outage", "target": 1, "for": "1h"} | {"target": [1]},
        ],
    )
    assert world.events == (
        Event(1, "comms.partition", (0,), 90 * MINUTE_NS, 95 * MINUTE_NS, {"direction": "commands"}),
        Event(2, "grid.outage", (0,), 3 * HOUR_NS, 4 * HOUR_NS, {}),
    )


def write_day(folder: Path) -> None:
    rows = [f"2024-06-01 {hour:02d}:00,{hour}.5,{hour},{100 * hour},{20 + hour}" for hour in range(24)]
    (folder / "day.csv").write_text("\n".join(["t,b1,b2,sun,price", *rows]) + "\n")


def test_real_data_take_the_place_of_synthetic_ones(tmp_path: Path) -> None:
    write_day(tmp_path)
    load = {"file": "day.csv", "column": "b{i}", "unit": "kWh/h", "time": "t"}
    sun = {"file": "day.csv", "column": "sun", "unit": "W_per_kW", "time": "t"}
    price = {"file": "day.csv", "column": "price", "unit": "USD/MWh", "time": "t"}
    changes: dict[str, Any] = {
        "start": "2024-06-01 06:00",
        "pool": [GROUP | {"count": 2, "load": load, "pv": {"w_peak": "4kW", "source": sun}}],
    }
    world = build(tmp_path, prices=price | {"column_ahead": "price"}, **changes)
    assert world.load_w[0].tolist() == [6500.0, 6000.0]
    assert world.load_w[-1].tolist() == [9500.0, 9000.0]
    assert world.pv_w[0].tolist() == [2400.0, 2400.0]
    assert world.prices_usd_per_mwh.tolist() == [price for hour in (26, 27, 28, 29) for price in [hour] * 4]
    assert (world.prices_ahead_usd_per_mwh == world.prices_usd_per_mwh).all()
    blind = build(tmp_path, prices=price, **changes)
    assert blind.prices_ahead_usd_per_mwh.shape == (0,)
    assert blind.window(HOUR_NS, HOUR_NS).prices_ahead_usd_per_mwh.shape == (0,)
    # The same instant named in another zone is the same world.
    moved = changes | {"start": "2024-06-01 01:00", "time_zone": "America/Chicago"}
    utc = [changes["pool"][0] | {"load": load | {"time_zone": "UTC"}, "pv": None}]
    assert (build(tmp_path, **moved | {"pool": utc}).load_w == world.load_w).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": "2024-06-01 22:00"}, r"pool\[0\].load: day.csv: found data from .* to 2024-06-02 00:"),
        ({"pool": [{"count": 3}]}, r"pool\[0\].load: day.csv: found no column 'b3'; allowed one of t, b1"),
        ({"load": {"file": "../day.csv"}}, r"pool\[0\].load: found path '../day.csv'; allowed a path inside"),
        ({"load": {"file": "dya.csv"}}, r"pool\[0\].load: .*found no such file"),
        ({"load": {"first": 2}}, r"found no column 'b3'"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write_day(tmp_path)
    load = {"file": "day.csv", "column": "b{i}", "unit": "kWh/h", "time": "t"} | changes.get("load", {})
    group = GROUP | {"count": 2, "load": load} | changes.get("pool", [{}])[0]
    with pytest.raises(ScenarioError, match=words):
        build(tmp_path, start=changes.get("start", "2024-06-01 06:00"), pool=[group])


def test_data_files_need_a_folder() -> None:
    load = {"file": "day.csv", "column": "b", "unit": "W", "time": "t"}
    with pytest.raises(ScenarioError, match="in a scenario without folder; allowed synthetic data"):
        build(start="2024-06-01 06:00", pool=[GROUP | {"load": load}])


def test_notes_warn_of_promises_that_cannot_be_kept() -> None:
    hard = GROUP | {"commitment": {"hours": 24, "load_w": "6kW", "transfer": "ups"}}
    low = GROUP | {"soc": 0.3}
    scenario = scenario_from_dict({"name": "x", "duration": "1h", "pool": [hard, low, GROUP]})
    notes = scenario_notes(scenario)
    assert [note.split(",")[0] for note in notes] == [
        "pool[0]: 6000 W is promised",
        "pool[0]: transfer within 0.02 s is promised",
        notes[2].split(",")[0],
        notes[3],
    ]
    assert matches(
        r"pool\[0\]: the promise needs \d+ Wh at the start of an outage, but the battery holds 13500 Wh",
        notes[2],
    )
    assert matches(r"pool\[1\]: the run starts below the reserve: 4050 Wh of 8\d\d\d Wh", notes[3])


def matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


def test_constant_prices_are_known_ahead() -> None:
    world = build(prices={"constant": 30})
    assert set(world.prices_usd_per_mwh.tolist()) == set(world.prices_ahead_usd_per_mwh.tolist()) == {30.0}
    assert len(world.prices_ahead_usd_per_mwh) == 16 + DAY_NS // (15 * MINUTE_NS)


def test_a_duration_between_minutes_is_covered() -> None:
    world = build(duration="90.02s")
    assert world.load_w.shape == (2, 1)
    assert world.prices_usd_per_mwh.shape == (1,)


def test_surroundings_and_agreements_come_out_in_si_units() -> None:
    group = GROUP | {
        "load_power_factor": 0.8,
        "ambient_c": 5,
        "import_limit_w": "17kW",
        "export_limit_w": 4600,
    }
    world = build(pool=[group, GROUP], source_voltage_pu=1.02)
    assert world.load_var_per_w.tolist() == [pytest.approx(0.75), 0.0]
    assert world.ambient_c.tolist() == [5.0, 25.0]
    assert world.import_w_max.tolist() == [17_000.0, np.inf]
    assert world.export_w_max.tolist() == [4600.0, np.inf]
    assert (world.feeder, world.source_voltage_pu, world.community) == (None, 1.02, None)
    assert build().source_voltage_pu == 1.0


def test_devices_stand_on_a_feeder_in_the_order_of_the_pool() -> None:
    world = build(pool=[GROUP | {"count": 5}], feeder="us-split-8")
    whole = load_feeder("us-split-8", 8, None)
    assert world.feeder is not None
    assert world.feeder.homes == whole.homes[:5]
    assert world.feeder.branches == whole.branches
    assert world.source_voltage_pu == whole.slack_pu
    lifted = build(pool=[GROUP | {"count": 5}], feeder="us-split-8", source_voltage_pu=1.04)
    assert lifted.feeder is not None
    assert (lifted.feeder.slack_pu, lifted.source_voltage_pu) == (1.04, 1.04)
    single = build(pool=[GROUP | {"count": 3}], feeder={"transformer_kva": 100}).feeder
    assert single is not None
    assert (len(single.homes), single.transformer.rating_va) == (3, 100_000.0)


def test_a_feeder_file_lies_beside_the_scenario_and_nowhere_else(tmp_path: Path) -> None:
    inside, outside = tmp_path / "mine", tmp_path / "other.yaml"
    inside.mkdir()
    text = (
        "feeder: two\ndescription: two homes\nsource: assumed\nphases: 1\nvoltage_v: 240\nslack_pu: 1.0\n"
        "transformer: {rating_va: 25000, impedance_frac: 0.02, x_per_r: 1.5}\nhomes: [busbar, busbar]\n"
    )
    (inside / "two.yaml").write_text(text)
    outside.write_text(text)
    feeder = build(inside, feeder="two.yaml", pool=[GROUP | {"count": 2}]).feeder
    assert feeder is not None
    assert feeder.feeder == "two"
    for name, words in (
        ("../other.yaml", r"feeder: found path '../other.yaml'; allowed a path inside"),
        ("three.yaml", "feeder: .*found no such file"),
    ):
        with pytest.raises(ScenarioError, match=words):
            build(inside, feeder=name)
    with pytest.raises(
        ScenarioError, match="feeder: found a pool of 3 devices; allowed at most 2, the homes of"
    ):
        build(inside, feeder="two.yaml", pool=[GROUP | {"count": 3}])
    (inside / "two.yaml").write_text(text.replace("25000", "-1"))
    with pytest.raises(ScenarioError, match=r"two.yaml:7: transformer.rating_va: found -1; allowed"):
        build(inside, feeder="two.yaml")


def test_a_community_island_has_a_master_and_contracts() -> None:
    hall = GROUP | {"name": "hall", "device": "municipal-500kwh-250kw", "load": "municipal-shelter"}
    pool = [GROUP | {"count": 2, "community": "support"}, hall, GROUP | {"community": "served"}, GROUP]
    rules = build(pool=pool, community={"master": "hall", "stagger": "10s", "retry": ["5min"]}).community
    assert rules is not None
    assert rules.master == 2
    assert rules.contract == ("support", "support", "own", "served", "own")
    assert rules.power_w_rated == (5000.0, 5000.0, 250_000.0, 5000.0, 5000.0)
    assert (rules.join_s, rules.stagger_s, rules.retry_s, rules.isochronous) == (60.0, 10.0, (300.0,), False)


def test_notes_warn_of_cold_cells_weak_feeders_and_devices_without_an_island() -> None:
    pool = [
        GROUP | {"device": "home-14kwh-5kw", "ambient_c": -10, "commitment": {"hours": 1, "load_w": 3000}},
        GROUP | {"device": "home-9kwh-5kw-grid-only", "commitment": {"hours": 1, "load_w": 100}},
    ]
    scenario = scenario_from_dict(
        {"name": "x", "duration": "1h", "pool": pool, "feeder": {"transformer_kva": 10.5}}
    )
    assert scenario_notes(scenario) == (
        "pool[0]: 3000 W is promised, but home-14kwh-5kw gives at most 2720 W at -10 °C with this load",
        "pool[0]: home-14kwh-5kw does not charge at -10 °C: its reserve cannot be restored",
        "pool[1]: home-9kwh-5kw-grid-only cannot island: no promise of backup can be kept in an outage",
    )
