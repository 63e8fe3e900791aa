"""The fault catalogue: what its files must say, and how events are read against it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil import fault_files
from ridethrough.hil.cli_list import list_bundled
from ridethrough.hil.effects import table
from ridethrough.hil.fault_files import CLASSES, FaultKind, fault_names, load_fault, read_fault
from ridethrough.hil.fault_params import check_latency
from ridethrough.hil.faults import Event, EventSpec, catalogue, event_schema, read_event, write_event
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.mistakes import Finding
from ridethrough.hil.scenario import scenario_schema
from ridethrough.hil.world import build_world

BASE: dict[str, Any] = {"at": "17:30", "for": "10min", "target": "all"}
ROWS = {"C": 20, "T": 12, "D": 17, "G": 12, "K": 9, "B": 9}
"""Rows of the fault survey, by letter."""
OLD: dict[str, tuple[dict[str, Any], dict[str, float | str]]] = {
    "grid.outage": ({}, {}),
    "comms.latency": ({"mean": "400ms", "p99": "3s"}, {"latency_s_mean": 0.4, "latency_s_p99": 3.0}),
    "comms.loss": ({"probability": "5%"}, {"loss_frac": 0.05}),
    "comms.partition": ({}, {"direction": "both"}),
    "telemetry.frozen": ({}, {"stamp": "frozen"}),
}
"""Faults of the first day: what users wrote then, and what the bench was given."""

FILE = """\
fault: comms.test
row: C1
what: What the bench does from the start to the end, and what a controller sees.
seen:
  - {where: "https://example.org/1", what: "somebody saw it"}
at_risk: [RDY, ECO]
mitigation: something
acts_on: devices
params:
  length: {kind: duration, key: length_s, min: 1s, max: 10min, default: 5s, what: "a length"}
  most: {kind: duration, key: most_s, min: 1s, max: 1h, times: {of: length, min: 1, max: 3}, what: "most"}
  share: {kind: ratio, key: share_frac, min: 1%, max: 50%, default: 0.1, what: "a share"}
  factor: {kind: number, key: factor, min: -2.5, max: 1000, default: 7, what: "a factor [1]"}
  times: {kind: count, key: times, min: 1, max: 9, default: 2, what: "how often"}
  power: {kind: power, key: power_w, min: -20kW, max: 20kW, default: 2kW, what: "a power"}
  energy: {kind: energy, key: energy_wh, min: 0Wh, max: 20kWh, default: 500Wh, what: "an energy"}
  word: {kind: choice, key: word, of: [one, other], default: one, what: "a word"}
  flag: {kind: flag, key: flag, default: false, what: "yes or no"}
example: {for: 5min, most: 9s}
"""


def kind_of(text: str = FILE) -> FaultKind:
    return read_fault(text, "comms.test")


def spec(fault: str, **params: Any) -> EventSpec:
    event, findings = read_event(BASE | {"fault": fault} | params)
    assert event is not None, findings
    return event


def example_of(kind: FaultKind) -> dict[str, Any]:
    """Return the example of a fault as an event."""
    target = {"target": "all"} if kind.acts_on == "devices" else {}
    return {"at": "00:04", "fault": kind.fault, "for": "4min", **target, **kind.example}


def document(*events: dict[str, Any]) -> dict[str, Any]:
    group = {"device": "home-13kwh-5kw", "commitment": {"hours": 2, "load_w": 500}, "load": "synthetic-home"}
    return {"name": "all-faults", "duration": "7d", "pool": [group], "events": list(events)}


def unlisted(kinds: list[FaultKind]) -> Iterator[str]:
    """Object to rows of the survey that no fault, or more than one, stands for."""
    found = Counter(kind.row for kind in kinds)
    wanted = {f"{letter}{k}" for letter, count in ROWS.items() for k in range(1, count + 1)}
    yield from (f"{row} has no file" for row in sorted(wanted - set(found)))
    yield from (f"{row} is none" for row in sorted(set(found) - wanted))
    yield from (f"{row} has {count} files" for row, count in sorted(found.items()) if count > 1)


# The catalogue.


def test_every_row_of_the_survey_has_one_fault() -> None:
    kinds = list(catalogue().values())
    assert list(unlisted(kinds)) == []
    assert len(kinds) == 79


def test_the_checker_of_rows_objects() -> None:
    kinds = list(catalogue().values())
    first = kinds[0]
    assert f"{first.row} has no file" in unlisted(kinds[1:])
    assert f"{first.row} has 2 files" in unlisted([*kinds, first])
    assert "C21 is none" in unlisted([*kinds, first.model_copy(update={"row": "C21"})])


@pytest.mark.parametrize("name", fault_names())
def test_a_fault_says_what_it_is(name: str) -> None:
    kind = load_fault(name)
    assert kind.fault == name
    assert kind.what.rstrip().endswith(".")
    assert not kind.mitigation.endswith(".")
    assert all(sight.where.startswith("https://") or " " in sight.where for sight in kind.seen)


@pytest.mark.parametrize("name", fault_names())
def test_a_fault_acts_somewhere(name: str) -> None:
    assert table.levels(name), f"{name} stands in no table of hil/effects"


def test_every_table_names_faults_of_the_catalogue() -> None:
    assert set(table.places()) <= set(fault_names())


def test_every_example_is_an_event_that_reads_back() -> None:
    scenario = scenario_from_dict(document(*(example_of(kind) for kind in catalogue().values())))
    again = scenario_from_dict(scenario.to_dict())
    assert again == scenario
    for event, resolved in zip(scenario.events, build_world(scenario).events, strict=True):
        kind = load_fault(event.fault)
        assert sorted(resolved.params) == sorted(param.key for param in kind.params.values())
        assert resolved.targets == ((0,) if kind.acts_on == "devices" else ())


def test_the_schema_for_editors_lists_every_fault_with_its_parameters() -> None:
    schema = scenario_schema()
    listed = {entry["$ref"].rpartition("/")[2] for entry in schema["properties"]["events"]["items"]["oneOf"]}
    assert listed == set(fault_names())
    for kind in catalogue().values():
        entry = schema["$defs"][kind.fault]
        assert set(kind.params) < set(entry["properties"])
        assert set(entry["required"]) <= set(example_of(kind))
        assert entry["properties"]["fault"]["const"] == kind.fault


def test_a_scenario_reads_the_files_of_its_own_faults_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(text: str, name: str) -> FaultKind:
        asked.append(name)
        return read_fault(text, name)

    monkeypatch.setattr(fault_files, "read_fault", noted)
    load_fault.cache_clear()
    scenario_from_dict(document({**BASE, "fault": "grid.outage"}, {**BASE, "fault": "comms.partition"}))
    with pytest.raises(ScenarioError, match=r"did you mean 'grid\.outage'"):
        scenario_from_dict(document({**BASE, "fault": "grid.outrage"}))
    assert asked == ["grid.outage", "comms.partition"]


# Files of the catalogue that are wrong.


def test_the_file_of_the_tests_is_sound() -> None:
    kind = kind_of()
    findings: list[Finding] = []
    event = kind.read({"most": "9s"}, findings)
    assert findings == []
    assert {p.key: p.in_event(event[name]) for name, p in kind.params.items()} == {
        "length_s": 5.0,
        "most_s": 9.0,
        "share_frac": 0.1,
        "factor": 7.0,
        "times": 2,
        "power_w": 2000.0,
        "energy_wh": 500.0,
        "word": "one",
        "flag": False,
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("row: C1", "row: D1", "2: row: found 'D1' of 'comms.test'; allowed C for comms, T for"),
        ("row: C1", "row: C0", "2: row: found 'C0'; allowed a text matching"),
        ("fault: comms.test", "fault: comms.tset", " fault: found 'comms.tset'; allowed comms.test, as"),
        ("fault: comms.test", "fault: test", "1: fault: found 'test'; allowed a text matching"),
        ("[RDY, ECO]", "[RDX]", "6: at_risk[0]: found 'RDX' (did you mean 'RDY'?); allowed RDY, DEL"),
        ("[RDY, ECO]", "[]", "6: at_risk: found an empty list; allowed a list with at least one entry"),
        ("acts_on: devices", "acts_on: device", "8: acts_on: found 'device' (did you mean 'devices'?)"),
        ("mitigation: some", "mitigate: some", "7: mitigate: found unknown key 'mitigate' (did you mean"),
        ("kind: duration, key: length_s", "kind: time, key: length_s", "10: params.length.kind: found 'time"),
        ("  length:", "  at:", "10: params.at: found 'at'; allowed a lower-case word that is none of at,"),
        ("key: length_s,", "key: most_s,", "10: params.length.key: found 'most_s' more than once; allowed"),
        ("min: 1s, max: 10min", "min: 1, max: 10min", "10: params.length.min: found 1; allowed a duration"),
        ("min: 1s, max: 10min", "max: 10min", "10: params.length.min: found nothing; allowed min of a dur"),
        ("min: 1s, max: 10min", "min: 1h, max: 10min", "10: params.length.max: found '10min'; allowed a max"),
        ("default: 5s", "default: 1h", "10: params.length.default: found '1h'; allowed 1s to 10min"),
        ("of: length, min", "of: lenght, min", "11: params.most.times.of: found 'lenght'; allowed another"),
        ("of: length, min", "of: most, min", "11: params.most.times.of: found 'most'; allowed another"),
        ("min: 1%, max: 50%", "min: 1%, max: 50", "12: params.share.max: found 50; allowed a share from"),
        ("min: -2.5", "min: low", "13: params.factor.min: found 'low'; allowed a number"),
        ("min: 1, max: 9", "min: 0.5, max: 9", "14: params.times.min: found 0.5; allowed a whole number"),
        ("min: -20kW", "min: 20 horses", "15: params.power.min: found '20 horses'; allowed a power such as"),
        ("max: 20kWh", "max: 20kW", "16: params.energy.max: found '20kW'; allowed an energy such as"),
        ("of: [one, other], ", "", "17: params.word.of: found nothing; allowed of of a choice"),
        ("[one, other]", "[one, one]", "17: params.word.of: found one, one; allowed words that differ"),
        ("[one, other], def", "[one, other], min: 1, def", "17: params.word.min: found 1; allowed: no min"),
        ("default: one", "default: neither", "17: params.word.default: found 'neither'; allowed one, other"),
        ("default: false", "default: 0", "18: params.flag.default: found 0; allowed true or false"),
        ("for: 5min, most", "for: 5, most", "19: example.for: found 5; allowed a duration such as"),
        ("most: 9s", "most: 2h", "19: example.most: found '2h'; allowed 1s to 1h"),
        ("most: 9s", "most: 16s", "19: example: found length 5s, most 16s; allowed most from 1 to 3 times"),
        ("most: 9s", "mots: 9s", "19: example.mots: found unknown key 'mots' (did you mean 'most'?);"),
        ("{for: 5min, most: 9s}", "{for: 5min}", "19: example.most: found nothing; allowed a duration such"),
    ],
)
def test_a_wrong_file_is_refused_with_line_found_and_allowed(old: str, new: str, message: str) -> None:
    assert FILE.count(old) == 1
    with pytest.raises(ScenarioError) as caught:
        kind_of(FILE.replace(old, new))
    assert any(f"faults/comms.test.yaml:{message}" in line for line in str(caught.value).splitlines())


# Events.


@pytest.mark.parametrize("fault", sorted(OLD))
def test_the_first_faults_are_spelled_as_ever(fault: str) -> None:
    written, params = OLD[fault]
    event = spec(fault, **written)
    assert event.params | params == event.params
    assert (event.at, event.for_) == (63_000 * 10**9, 600 * 10**9)
    assert read_event(write_event(event)) == (event, [])
    assert set(write_event(event)) == {"at", "fault", "for", "target", *load_fault(fault).params}


@pytest.mark.parametrize(
    ("fault", "params", "place", "text"),
    [
        ("comms.latency", {"mean": "1s", "p99": "900ms"}, (), "found mean 1s, p99 900ms; allowed p99 from 1"),
        ("comms.latency", {"mean": "100ms", "p99": "2s"}, (), "found mean 100ms, p99 2s; allowed p99 from"),
        ("comms.latency", {"mean": "11min", "p99": "20min"}, ("mean",), "found '11min'; allowed 0s to 10min"),
        ("comms.latency", {"mean": "100ms"}, ("p99",), "found nothing; allowed a duration such as"),
        ("comms.latency", {"maen": "1s", "mean": "1s", "p99": "2s"}, ("maen",), "(did you mean 'mean'?)"),
        ("comms.loss", {"probability": 1.5}, ("probability",), "found 1.5; allowed a share from 0 to 1"),
        ("comms.loss", {}, ("probability",), "found nothing; allowed a share, from 0% to 100%"),
        ("comms.partition", {"direction": "up"}, ("direction",), "found 'up'; allowed both, commands, tele"),
        ("telemetry.frozen", {"stamp": True}, ("stamp",), "found true; allowed frozen, fresh"),
        ("grid.outage", {"for": "30ms"}, ("for",), "found '30ms'; allowed multiples of 20ms"),
        ("grid.outage", {"depth": 0.5}, ("depth",), "unknown key 'depth'; allowed at, fault, for, target"),
        ("grid.outage", {"target": [1.5]}, ("target",), "found a list; allowed all, the name"),
        ("grid.outage", {"target": [True]}, ("target",), "found a list; allowed all, the name"),
        ("grid.outage", {"target": ""}, ("target",), "found ''; allowed all, the name"),
        ("grid.outrage", {}, ("fault",), "found 'grid.outrage' (did you mean 'grid.outage'?); allowed grid."),
        ("outage", {}, ("fault",), "allowed comms.latency, comms.partition, grid.outage, telemetry.frozen"),
        (7, {}, ("fault",), "found 7; allowed comms.latency"),
    ],
)
def test_an_event_out_of_range_is_refused(
    fault: Any, params: dict[str, Any], place: tuple[str, ...], text: str
) -> None:
    event, findings = read_event(BASE | {"fault": fault} | params)
    assert event is None
    ((found_at, said),) = findings
    assert found_at == place
    assert text in said


def test_all_mistakes_of_an_event_are_told_at_once() -> None:
    wrong = {"at": "25:00", "fault": "comms.latency", "mean": "x", "men": 1}
    _, findings = read_event(wrong)
    assert [place for place, _ in findings] == [("at",), ("for",), ("target",), ("men",), ("mean",), ("p99",)]
    assert read_event(None)[1] == [((), "found nothing; allowed a mapping with at, for, fault, target")]


def test_a_fault_of_the_controller_has_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    text = FILE.replace("comms.test", "controller.test").replace("row: C1", "row: K1")
    kind = read_fault(text.replace("acts_on: devices", "acts_on: controller"), "controller.test")
    monkeypatch.setattr("ridethrough.hil.faults.fault_names", lambda: ("controller.test",))
    monkeypatch.setattr("ridethrough.hil.faults.load_fault", lambda name: kind)
    data = BASE | {"fault": "controller.test", "most": "9s"}
    assert read_event(data)[1][0][1].startswith("found unknown key 'target'; allowed at, energy, factor")
    del data["target"]
    event, findings = read_event(data)
    assert findings == []
    assert event is not None
    assert event.target is None
    assert "target" not in write_event(event)
    assert "target" not in event_schema(kind)["properties"]


def test_every_kind_of_parameter_reads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = kind_of()
    monkeypatch.setattr("ridethrough.hil.faults.fault_names", lambda: ("comms.test",))
    monkeypatch.setattr("ridethrough.hil.faults.load_fault", lambda name: kind)
    given = {"most": "1min", "length": "45.5s", "share": "7.5%", "factor": -2, "times": 3, "power": "-1.5kW"}
    given |= {"energy": "1.25kWh", "word": "other", "flag": True}
    event = spec("comms.test", **given)
    assert event.params == {
        "length_s": 45.5,
        "most_s": 60.0,
        "share_frac": 0.075,
        "factor": -2.0,
        "times": 3,
        "power_w": -1500.0,
        "energy_wh": 1250.0,
        "word": "other",
        "flag": True,
    }
    assert read_event(write_event(event)) == (event, [])
    assert hash(event) == hash(spec("comms.test", **given))


def test_latency_bounds_admit_every_log_normal_but_the_last_sliver() -> None:
    check_latency(100, 100)
    check_latency(100, 1400)
    check_latency(0, 0)
    with pytest.raises(ValueError, match="allowed p99 from 1 to 14 times"):
        check_latency(100, 1401)


# Levels.


def happening(number: int, fault: str) -> Event:
    return Event(number, fault, (0,), 0, 10**9, {})


def test_levels_follow_from_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        table, "places", lambda: {"a.data": ("readings",), "a.wire": ("link",), "a.both": ("link", "plant")}
    )
    assert table.levels("a.data") == ("mil",)
    assert table.levels("a.wire") == ("sil", "hil")
    assert table.levels("a.both") == ("mil", "sil", "hil")
    assert table.levels("a.none") == ()
    events = [happening(1, "a.data"), happening(2, "a.both"), happening(3, "a.none")]
    table.check_level(events[:2], "mil")
    with pytest.raises(ScenarioError) as caught:
        table.check_level(events, "hil")
    assert str(caught.value).splitlines() == [
        "event 1: found a.data at level hil; allowed at mil",
        "event 3: found a.none at level hil; allowed at no level",
    ]
    with pytest.raises(ScenarioError, match="and 2 more"):
        table.check_level([happening(k, "a.wire") for k in range(1, 8)], "mil")


def test_the_classes_are_those_of_the_survey() -> None:
    assert set(CLASSES.values()) == set(ROWS)
    assert sum(ROWS.values()) == 79


def test_a_list_says_row_levels_and_what_and_to_a_program_all_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    list_bundled("faults")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(fault_names())
    (outage,) = (line for line in lines if line.startswith("grid.outage "))
    assert outage.split()[1:5] == ["G2", "mil", "sil", "hil"]
    list_bundled("faults", "json")
    facts = json.loads(capsys.readouterr().out)["faults"]
    assert set(facts) == set(fault_names())
    assert facts["grid.outage"].keys() == {
        *("levels", "row", "what", "seen", "at_risk", "mitigation", "acts_on", "params", "example")
    }
    assert facts["comms.latency"]["params"]["p99"]["times"] == {"of": "mean", "min": 1.0, "max": 14.0}
