from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.files import load_scenario, scenario_from_dict, scenario_names
from ridethrough.hil.scenario import Roster, Scenario, group_names, scenario_schema
from ridethrough.hil.units import MINUTE_NS, SECOND_NS, duration_text, instant_text

GROUP: dict[str, Any] = {
    "device": "home-13kwh-5kw",
    "commitment": {"hours": 8, "load_w": 900},
    "load": "synthetic-home",
}
OUTAGE = {"at": "01:00", "fault": "grid.outage", "target": "all", "for": "10min"}


def document(**changes: Any) -> dict[str, Any]:
    return {"name": "test", "duration": "4h", "pool": [GROUP]} | changes


def mistakes(**changes: Any) -> list[str]:
    """Return the mistakes of a scenario, without the word before them."""
    with pytest.raises(ScenarioError) as caught:
        scenario_from_dict(document(**changes))
    return [line.removeprefix("scenario: ") for line in str(caught.value).splitlines()]


def mistake(**changes: Any) -> str:
    found = mistakes(**changes)
    assert len(found) == 1, found
    return found[0]


durations = st.integers(1, 10**6).map(lambda k: duration_text(k * 20_000_000))


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a valid scenario as users would write it."""
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    pool = [
        GROUP
        | {
            "count": count,
            "soc": draw(st.sampled_from([0.5, "90%", 1.0])),
            "commitment": {
                "hours": draw(st.floats(0.1, 168)),
                "load_w": draw(st.sampled_from([0, 900, "2kW"])),
                "transfer": draw(st.sampled_from(["ups", "200ms", "6s"])),
                "recovery": draw(durations),
            },
            "pv": draw(st.sampled_from([None, {"w_peak": "5kW", "share": "50%"}, {"w_peak": 1.5}])),
            "load_power_factor": draw(st.sampled_from([1, "90%", 0.5])),
            "ambient_c": draw(st.floats(-40, 60)),
            "import_limit_w": draw(st.sampled_from([None, 0, "17kW"])),
            "export_limit_w": draw(st.sampled_from([None, 4600])),
        }
        for count in counts
    ]
    minutes = draw(st.integers(2, 600))
    start = draw(st.integers(0, 1439))
    at = draw(st.integers(0, minutes - 1))
    event = {
        "at": instant_text((start + at) * MINUTE_NS),
        "for": f"{draw(st.integers(1, minutes - at))}min",
        "target": draw(
            st.sampled_from(["all", "home", 1, "home-01", [1, "home-01"]]).filter(lambda t: t != 1)
        ),
    }
    fault = draw(
        st.sampled_from(
            [
                {"fault": "grid.outage"},
                {"fault": "comms.latency", "mean": "80ms", "p99": "1s"},
                {"fault": "comms.loss", "probability": "5%"},
                {"fault": "comms.partition", "direction": "commands"},
                {"fault": "telemetry.frozen", "stamp": "fresh"},
            ]
        )
    )
    return document(
        pool=pool,
        seed=draw(st.integers(0, 2**53 - 1)),
        start=instant_text(start * MINUTE_NS)[:5],
        duration=f"{minutes}min",
        feeder=draw(st.sampled_from([None, "semiurban-41", {"transformer_kva": 100}])),
        source_voltage_pu=draw(st.sampled_from([None, 0.95, 1.1])),
        prices=draw(st.sampled_from(["synthetic-ercot", "synthetic-ercot-tight", {"constant": 30}])),
        comms={
            "poll": duration_text(draw(st.integers(1, 180_000)) * 20_000_000),
            "loss": draw(st.floats(0, 1)),
        }
        if draw(st.booleans())
        else {},
        events=[event | fault],
    )


@settings(deadline=None)
@given(scenarios())
def test_a_scenario_written_out_reads_back_the_same(data: dict[str, Any]) -> None:
    scenario = scenario_from_dict(data)
    again = scenario_from_dict(scenario.to_dict())
    assert again == scenario
    assert again.to_dict() == scenario.to_dict()


def test_the_design_document_s_scenario_reads(tmp_path: Path) -> None:
    file = tmp_path / "design.yaml"
    file.write_text(
        """\
name: pilot
seed: 1
duration: 24h
pool:
  - {count: 36, device: home-13kwh-5kw, commitment: {hours: 8, load_w: 900}, load: synthetic-home,
     pv: {w_peak: 5000, share: 0.5}}
  - {count: 1, name: town-hall, device: municipal-500kwh-250kw, commitment: {hours: 12, load_w: 20000},
     load: municipal-shelter}
feeder: {transformer_kva: 250}
prices: synthetic-ercot
comms: {poll: 10s, latency: {mean: 80ms, p99: 900ms}, loss: 0.1%}
events:
  - {at: 17:30, fault: grid.outage, target: all, for: 3h}
  - {at: 17:29, fault: comms.partition, target: [3, 7], for: 10min}
"""
    )
    scenario = load_scenario(file)
    assert scenario.duration == 24 * 3600 * SECOND_NS
    assert scenario.comms.loss == 0.001
    assert scenario.events[1].target == (3, 7)
    assert scenario.folder == tmp_path


def test_bundled_scenarios_have_no_unknown_to_the_schema() -> None:
    assert {scenario.name for scenario in map(load_scenario, scenario_names())} == set(scenario_names())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, "seed: found -1; allowed a whole number at least 0"),
        ({"seed": 1.5}, "seed: found 1.5; allowed a whole number"),
        ({"name": "My Pilot"}, "name: found 'My Pilot'; allowed lower-case letters, digits and -"),
        ({"duration": "4"}, "duration: found '4'; allowed a duration such as 90s"),
        ({"duration": "400d"}, "duration: found '400d'; allowed 1s to 366d"),
        ({"duration": "90.01s"}, "duration: found '90.01s'; allowed multiples of 20ms, nearest 90020ms"),
        ({"start": "24:00"}, "start: found '24:00'; allowed a whole minute: a time of day such as '06:00'"),
        ({"start": "06:00:30"}, "start: found '06:00:30'; allowed a whole minute"),
        ({"start": "2024-02-30 06:00"}, "start: found '2024-02-30 06:00'; allowed a whole minute"),
        ({"time_zone": "Texas"}, "time_zone: found 'Texas'; allowed a time zone such as UTC"),
        (
            {"start": "2025-03-09 02:30", "time_zone": "America/Chicago"},
            "start: found 2025-03-09 02:30, which does not exist in America/Chicago",
        ),
        ({"pool": [GROUP | {"count": 0}]}, "pool[0].count: found 0; allowed a whole number at least 1"),
        ({"pool": [GROUP | {"count": 10_001}]}, "pool[0].count: found 10001; allowed a whole number"),
        (
            {"pool": [GROUP | {"count": 9000}, GROUP | {"count": 9000}]},
            "pool: found 18000 devices; allowed at most 10000",
        ),
        (
            {"pool": [GROUP | {"count": 10_000}], "duration": "30d"},
            "duration: found 10000 devices for '30d'; allowed at most 40000000 load values",
        ),
        ({"pool": [GROUP | {"soc": 0.01}]}, "pool[0].soc: found initial soc 0.01; allowed 0.05 to 1"),
        ({"pool": [GROUP | {"soc": "110%"}]}, "pool[0].soc: found '110%'; allowed a share from 0 to 1"),
        ({"pool": [GROUP | {"soh": 0}]}, "pool[0].soh: found 0; allowed a share from 0.1 to 1"),
        ({"pool": [GROUP | {"load": "synthetic"}]}, "pool[0].load: found 'synthetic' (did you mean 'synth"),
        ({"pool": [GROUP | {"load": 5}]}, "pool[0].load: found 5; allowed "),
        ({"pool": [GROUP | {"load_scale": -1}]}, "pool[0].load_scale: found -1; allowed a number at least 0"),
        ({"pool": [GROUP | {"commitment": {"hours": 8}}]}, "pool[0].commitment.load_w: found nothing"),
        (
            {"pool": [GROUP | {"commitment": {"hours": "8h", "load_w": 900}}]},
            "pool[0].commitment.hours: found '8h'; allowed a number above 0 and at most 168",
        ),
        (
            {"pool": [GROUP | {"commitment": {"hours": 8, "load_w": 900, "transfer": "quick"}}]},
            "pool[0].commitment.transfer: found 'quick'; allowed ups, fast, slow, dark, or a duration",
        ),
        (
            {"pool": [GROUP | {"name": "home-01"}, GROUP]},
            "pool: found home-01 as a name more than once; allowed names that differ",
        ),
        (
            {"pool": [GROUP | {"name": "a", "count": 2}, GROUP | {"name": "a", "count": 2}]},
            "pool: found a, a-01, a-02 as a name more than once; allowed names that differ",
        ),
        ({"pool": [GROUP | {"name": "all"}]}, "pool: found all as a name more than once; allowed"),
        ({"comms": {"latency": {"mean": "1s"}}}, "comms.latency: found mean 1000ms, p99 900ms; allowed"),
        ({"comms": {"pol": "1s"}}, "comms.pol: found unknown key 'pol' (did you mean 'poll'?)"),
        ({"prices": "ercot"}, "prices: found 'ercot'"),
        ({"prices": {"constant": "30"}}, "prices.constant: found '30'; allowed a number"),
        ({"feeder": {"transformer_kva": 0}}, "feeder.transformer_kva: found 0; allowed a number above 0"),
        ({"feeder": "semiurban"}, "feeder: found feeder 'semiurban' (did you mean 'semiurban-41'?); allo"),
        ({"feeder": ""}, "feeder: found ''; allowed"),
        ({"feeder": 250}, "feeder: found 250; allowed"),
        (
            {"feeder": "us-split-8", "pool": [GROUP | {"count": 9}]},
            "feeder: found a pool of 9 devices; allowed at most 8, the homes of us-split-8",
        ),
        ({"feeder": "mine.yaml"}, "feeder: found file 'mine.yaml' in a scenario without folder; allowed"),
        ({"source_voltage_pu": 0.7}, "source_voltage_pu: found 0.7; allowed a number at least 0.8"),
        ({"pool": [GROUP | {"load_power_factor": 0.4}]}, "pool[0].load_power_factor: found 0.4; allow"),
        ({"pool": [GROUP | {"ambient_c": 80}]}, "pool[0].ambient_c: found 80; allowed a number at least -40"),
        ({"pool": [GROUP | {"import_limit_w": -5}]}, "pool[0].import_limit_w: found -5; allowed 0 W to"),
        ({"pool": [GROUP | {"export_limit_w": "5A"}]}, "pool[0].export_limit_w: found '5A'; allowed a power"),
        (
            {"pool": [GROUP | {"community": "support"}]},
            "pool[0].community: found 'support' without a community island; allowed own, or a top-leve",
        ),
        (
            {"pool": [GROUP | {"community": "maybe"}], "community": {"master": "home-01"}},
            "pool[0].community: found 'maybe'; allowed support, served, own",
        ),
        (
            {"community": {"master": "town-hall"}},
            "community.master: found 'town-hall'; allowed all, home, home-01, or a number",
        ),
        (
            {"pool": [GROUP | {"count": 2}], "community": {"master": "home"}},
            "community.master: found 'home', which is 2 devices; allowed the name of one device",
        ),
        (
            {"pool": [GROUP | {"device": "home-9kwh-5kw-grid-only"}], "community": {"master": "home-01"}},
            "community.master: found 'home-01', a home-9kwh-5kw-grid-only, which cannot island; allowed",
        ),
        (
            {
                "pool": [GROUP, GROUP | {"device": "home-9kwh-4kw", "community": "served"}],
                "community": {"master": "home-01"},
            },
            "pool[1].community: found a device for 50 Hz; allowed 60 Hz as the master's, or community: own",
        ),
        (
            {"community": {"master": "home-01", "retry": []}},
            "community.retry: found an empty list; allowed a list with at least one entry",
        ),
        ({"events": [OUTAGE | {"at": "04:00"}]}, "events[0].at: found 04:00:00, after the end; allowed"),
        ({"events": [OUTAGE | {"at": "03:55"}]}, "events[0].for: found an end at 04:05:00"),
        (
            {"start": "22:00", "events": [OUTAGE]},
            "events[0].at: found 01:00:00, before the start; allowed times inside the run: the run lasts "
            "from 22:00:00 to 1d 02:00:00; the next day's is '1d 01:00:00'",
        ),
        ({"events": [OUTAGE | {"at": 3600}]}, "events[0].at: found 3600; allowed a time of day"),
        ({"events": [OUTAGE | {"for": "0s"}]}, "events[0].for: found '0s'; allowed 20ms to 366d"),
        ({"events": [OUTAGE | {"target": "home-2"}]}, "events[0].target: found 'home-2' (did you mean 'home"),
        ({"events": [OUTAGE | {"target": [2]}]}, "events[0].target: found device number 2; allowed 1 to 1"),
        ({"events": [OUTAGE | {"target": [0]}]}, "events[0].target: found device number 0; allowed 1 to 1"),
        ({"events": [OUTAGE | {"target": []}]}, "events[0].target: found an empty list; allowed all"),
        ({"events": [OUTAGE | {"fault": "grid.outrage"}]}, "events[0].fault: found 'grid.outrage' (did"),
        ({"events": [{"at": "01:00"}]}, "events[0].fault: found nothing; allowed comms.latency"),
        (
            {"events": [OUTAGE | {"stamp": "fresh"}]},
            "events[0].stamp: found unknown key 'stamp'; allowed at, fault, for, target",
        ),
        (
            {
                "start": "2024-06-01 00:00",
                "prices": {"file": "a.csv", "column": "x", "first": 2, "unit": "USD/MWh", "time": "t"},
            },
            "prices.first: found unknown key 'first'; allowed column, column_ahead, ",
        ),
        ({"events": {"a": 1}}, "events: found a mapping; allowed a list"),
    ],
)  # fmt: skip
def test_one_mistake_is_told_once_with_its_place_and_what_is_allowed(
    changes: dict[str, Any], words: str
) -> None:
    assert mistake(**changes).startswith(words)


def test_mistakes_do_not_hide_one_another() -> None:
    found = mistakes(
        duration="4 hours",
        pool=[GROUP | {"device": "home"}, GROUP | {"soc": 0.01, "count": "3"}],
        events=[OUTAGE | {"target": "nobody", "for": "5"}],
        comms={"loss": 3},
    )
    assert sorted(line.split(":")[0] for line in found) == [
        "comms.loss",
        "duration",
        "events[0].for",
        "pool[0].device",
        "pool[1].count",
        "pool[1].soc",
    ]


def test_a_misspelt_count_does_not_make_targets_look_wrong() -> None:
    found = mistake(pool=[GROUP | {"cout": 3}], events=[OUTAGE | {"target": [3]}])
    assert found.startswith("pool[0].cout: found unknown key 'cout' (did you mean 'count'?)")


def test_data_files_need_a_date_and_a_column_for_each_home() -> None:
    series = {"file": "a.csv", "column": ["x"], "unit": "kW", "time": "t"}
    found = mistakes(pool=[GROUP | {"count": 2, "load": series}])
    assert found == [
        "pool[0].load: found a data file but start '00:00'; allowed a start with a date: '2024-08-01 06:00'",
        "pool[0].load.column: found 1 columns; allowed one for each of the group's 2 devices",
    ]
    wrong = series | {"column": "x", "unit": "kWh", "time": {"start": "2024-06-01"}}
    assert mistakes(start="2024-06-01 00:00", pool=[GROUP | {"load": wrong}]) == [
        "pool[0].load.unit: found 'kWh' (did you mean 'kW'?); allowed W, kW, kWh/h",
        "pool[0].load.time.start: found '2024-06-01'; allowed a date and time such as '2024-08-01 06:00'",
        "pool[0].load.time.step: found nothing; allowed a duration such as 90s, 15min, 8h, 1d or 80ms, "
        "from 1s to 1d",
    ]


@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.none() | st.sampled_from(["a", "b", "c"])), min_size=1, max_size=5
    )
)
def test_targets_by_number_and_by_name_are_the_same_devices(groups: list[tuple[int, str | None]]) -> None:
    people = Roster(groups)
    assert people.names == tuple(name for part in group_names(groups) for name in part)
    assert people.rows("all") == tuple(range(sum(count for count, _ in groups)))
    for row, name in enumerate(people.names):
        assert people.rows((row + 1,)) == (row,)
        if not people.duplicates():
            assert people.rows((name,)) == (row,)
            assert people.names[people.rows((name, row + 1, name))[0]] == name


def test_names_number_groups_without_a_name_through() -> None:
    assert group_names([(2, None), (1, "hall"), (1, None), (2, "clinic")]) == [
        ("home-01", "home-02"),
        ("hall",),
        ("home-03",),
        ("clinic-01", "clinic-02"),
    ]
    people = Roster([(2, None), (1, "hall"), (1, None), (2, "clinic")])
    assert people.rows("home") == (0, 1, 3)
    assert people.rows("hall") == (2,)
    assert people.rows(("clinic", "home-01")) == (0, 4, 5)


KEYS = [
    *("name", "pool", "events", "duration", "at", "target", "for", "count"),
    *("device", "start", "load", "column", "file", "pv", "source"),
]
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=20,
)


@given(junk)
def test_no_document_is_met_with_anything_but_words(data: Any) -> None:
    changes = data if isinstance(data, dict) else {"pool": data}
    assert mistakes(**({"pool": []} | changes | {"prices": "none"}))


def test_a_scenario_cannot_be_changed() -> None:
    scenario = scenario_from_dict(document())
    with pytest.raises(ValueError, match="frozen"):
        scenario.seed = 2
    assert scenario.model_copy(update={"seed": 2}).seed == 2


def test_the_schema_describes_what_users_write() -> None:
    schema = scenario_schema()
    assert schema["properties"]["duration"]["type"] == "string"
    assert set(schema["required"]) == {"name", "duration", "pool"}
    assert "for" in schema["$defs"]["grid.outage"]["properties"]
    assert schema["$defs"]["grid.outage"]["additionalProperties"] is False
    assert set(schema["properties"]) == set(Scenario.model_fields)
