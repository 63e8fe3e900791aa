"""Feeder and connection agreements: what is told of them, on hand-made records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.hil.judge import Verdict, judge
from ridethrough.hil.record import Record

from tests.hil.battery import NS, Walk, device, record
from tests.hil.verdicts import verdict

FEEDER = {"name": "street", "rating_va": 100_000.0}


def carried(*loads: tuple[float, float], step_s: float = 10.0, cable: float = 0.5) -> Record:
    """Return the record of a feeder: pairs of loading and heat, each for one step."""
    rows, over_s = [], 0.0
    for k, (frac, heat) in enumerate(loads, 1):
        over_s += step_s if frac > 1.0 else 0.0
        rows.append(
            {
                "t_ns": k * step_s * NS,
                "transformer_va": 100_000.0 * frac,
                "transformer_frac": frac,
                "heat_frac": heat,
                "branch_frac_max": cable,
                "overload_s": over_s,
            }
        )
    return record([Walk(9000.0).go(step_s * len(loads))], feeder=rows, feeder_facts=FEEDER)


def feeder_of(found: Verdict) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps(found.to_dict(), allow_nan=False))["observations"]["feeder"]
    return told


def test_a_feeder_is_told_by_its_peaks_and_times() -> None:
    v = judge(carried((0.5, 0.1), (1.1, 0.2), (1.5, 0.4), (1.3, 0.5), (0.2, 0.45), (1.2, 0.44)))
    assert v.outcome == "held"
    told = feeder_of(v)
    assert told["transformer_max"] == {"frac": 1.5, "at": "18:00:30", "at_ns": 30 * NS}
    assert told["heat_max"] == {"frac": 0.5, "at": "18:00:40", "at_ns": 40 * NS}
    assert told["over_100_percent_s"] == 40.0
    assert told["over_120_percent_s"] == 20.0  # exactly 120 % is not above
    assert told["over_100_percent_first_at"] == "18:00:20"
    assert v.observations.sentences(v.start_of_day_ns) == [
        "street: transformer of 100 kVA at most 150% loaded, at 18:00:30; above 100 % for 40 s, above 120 % "
        "for 20 s; heat at most 0.50 of what a lasting full load leads to"
    ]


def test_a_feeder_within_its_rating_is_told_in_few_words() -> None:
    v = judge(carried((0.5, 0.1), (1.0, 0.2)))
    assert v.observations.sentences(0) == ["street: transformer of 100 kVA at most 100% loaded, at 00:00:20"]
    told = feeder_of(v)
    assert (told["over_100_percent_s"], told["over_100_percent_first_at"]) == (0.0, None)


def test_a_cable_beyond_its_ampacity_is_told() -> None:
    (sentence,) = judge(carried((0.5, 0.1), cable=1.25)).observations.sentences(0)
    assert sentence.endswith("; a cable at 125% of its ampacity at 00:00:10")


def test_without_a_feeder_nothing_is_told() -> None:
    v = verdict(Walk(9000.0).go(60))
    assert v.observations.feeder is None
    assert v.observations.sentences(0) == []
    assert v.to_dict()["observations"] == {"feeder": None, "connection_agreements": []}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 3), min_size=1, max_size=30))
def test_times_above_are_those_of_the_rows_above(fracs: list[float]) -> None:
    told = feeder_of(judge(carried(*((frac, 0.0) for frac in fracs))))
    assert told["over_100_percent_s"] == pytest.approx(10.0 * sum(frac > 1.0 for frac in fracs))
    assert told["over_120_percent_s"] == pytest.approx(10.0 * sum(frac > 1.2 for frac in fracs))
    assert told["transformer_max"]["frac"] == max(fracs)


# Connection agreements.


def test_an_export_beyond_the_agreement_is_told_and_breaks_no_promise() -> None:
    walk = Walk(9000.0).go(10, import_w=500.0).go(5, import_w=-4200.0).go(5, import_w=-4000.0)
    walk.go(10, import_w=-4700.0).go(30, import_w=0.0)
    v = verdict(walk, export_w_max=4000.0, import_w_max=500.0)
    assert v.outcome == "held"
    (excess,) = v.observations.excesses
    assert (excess.kind, excess.count, excess.lasted_s, excess.first_ns) == ("export", 2, 15.0, 11 * NS)
    assert (excess.excess.value, excess.excess.t_ns) == (700.0, 21 * NS)
    assert v.observations.sentences(v.start_of_day_ns) == [
        "home-01: export limit of 4.0 kW exceeded by up to 700 W, at 18:00:21; for 15 s in all"
    ]
    told = v.to_dict()["observations"]["connection_agreements"]
    assert told[0]["excess_max"] == {"power_w": 700.0, "at": "18:00:21", "at_ns": 21 * NS}
    assert told[0]["times"] == 2


@pytest.mark.parametrize(("import_w", "told"), [(8000.0, 0), (8000.9, 0), (8002.0, 1)])
def test_an_import_at_the_border(import_w: float, told: int) -> None:
    v = verdict(Walk(9000.0).go(10, import_w=import_w), import_w_max=8000.0)
    assert len(v.observations.excesses) == told
    assert verdict(Walk(9000.0).go(10, import_w=import_w)).observations.excesses == ()


def test_the_greatest_excess_comes_first() -> None:
    homes = [device(f"home-{k}", export_w_max=1000.0 * k) for k in (1, 2, 3)]
    made = record([Walk(9000.0).go(10, import_w=-3500.0) for _ in homes], homes)
    told = [sentence.split(":")[0] for sentence in judge(made).observations.sentences(0)]
    assert told == ["home-1", "home-2", "home-3"]
