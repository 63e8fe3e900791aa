"""Ten public incidents, each reproduced: the promise breaks with the fault and is kept without it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from ridethrough.hil.bench import Level, Run, run
from ridethrough.hil.effects.table import levels
from ridethrough.hil.fault_files import load_fault
from ridethrough.hil.faults import Event
from ridethrough.hil.files import incident_names, load_scenario
from ridethrough.hil.record import OUTCOMES, Record, read_record
from ridethrough.hil.world import World, build_world

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "incidents.md"
HOUR_NS = 3600 * 10**9
NAIVE = "ridethrough.controllers.naive:"


def soc(record: Record, at_h: float, d: int = 0) -> float:
    """Return a home's true charge at so many hours."""
    of = record.truth["device"] == d
    row = np.searchsorted(record.truth["t_ns"][of], at_h * HOUR_NS)
    return float(record.truth["energy_wh"][of][row]) / float(record.header["devices"][d]["energy_wh"])


def power_w(record: Record, from_h: float, to_h: float, d: int = 0) -> float:
    """Return a home's mean power over some hours."""
    truth = record.truth
    of = (truth["device"] == d) & (truth["t_ns"] > from_h * HOUR_NS) & (truth["t_ns"] <= to_h * HOUR_NS)
    return float(np.average(truth["power_w"][of], weights=truth["dt_ns"][of]))


def commands(record: Record) -> int:
    return int((record.commands["outcome"] == OUTCOMES.index("delivered")).sum())


def expired_hold(record: Record) -> None:
    assert commands(record) == 1
    assert record.commands["power_w"].tolist() == [0.0]
    assert abs(power_w(record, 0.1, 1.0)) < 1.0
    assert power_w(record, 1.05, 2.0) > 400.0  # exactly an hour after the one command
    assert soc(record, 0.0) == pytest.approx(0.48, abs=0.002)
    assert soc(record, 9.99) == pytest.approx(0.17, abs=0.01)


def locked_reserve(record: Record) -> None:
    assert record.commands["reserve_soc_frac"].tolist() == [0.99]
    assert soc(record, 1.0) > 0.75  # three quarters full, and dark all the same
    dark = (record.truth["grid_good"] == 0) & (record.truth["t_ns"] > 1.01 * HOUR_NS)
    assert (record.truth["backup_load_w"][dark] > 50.0).all()
    assert (record.truth["backup_served_w"][dark] == 0.0).all()


def stale_state(record: Record) -> None:
    sales = record.commands["t_ns"] / HOUR_NS
    assert len(sales) == 2
    assert sales[1] == pytest.approx(5.08, abs=0.1)
    told = record.telemetry["soc_frac"][record.telemetry["received_ns"] < sales[1] * HOUR_NS]
    assert told[-1] < 0.6  # what the device itself had said last, before the old state came again
    assert soc(record, 7.0) == pytest.approx(0.27, abs=0.02)


def retained_set_point(record: Record) -> None:
    """Ten minutes of selling in each half hour, by a command that nobody gave."""
    late_h = [float(t_h) for t_h in record.commands["t_ns"] / HOUR_NS if t_h > 1.4]
    assert len(late_h) == 3
    assert np.diff(late_h) == pytest.approx([0.5] * (len(late_h) - 1), abs=0.02)
    assert power_w(record, late_h[0] + 0.01, late_h[0] + 0.16) > 4000.0


def moved_scale_factor(record: Record) -> None:
    told = record.telemetry["soc_frac"]
    assert (told > 2.0).sum() == 3
    assert ((told > 0.01) & (told < 0.1)).sum() == 3
    assert power_w(record, 2.02, 2.15) > 4900.0  # ten minutes at full power on one reading


def outage_in_grant(record: Record) -> None:
    sales_h = record.commands["t_ns"] / HOUR_NS
    assert not ((sales_h > 1.01) & (sales_h < 3.0)).any()
    assert power_w(record, 2.2, 2.25) > 4500.0  # an hour after the last command


def acknowledged_not_applied(record: Record) -> None:
    late = record.commands["t_ns"] > 8 * HOUR_NS
    assert (record.commands["outcome"][late] == OUTCOMES.index("delivered")).all()
    assert late.sum() > 3000
    assert soc(record, 59.9) == pytest.approx(0.05, abs=0.001)


def short_timer(record: Record) -> None:
    charging_w = [power_w(record, 3.5 + k / 60, 3.5 + (k + 1) / 60) for k in range(30)]
    assert [w < -2000.0 for w in charging_w] == [True] * 5 + [False] * 25


def unnoticed_crash(record: Record) -> None:
    issued_h = record.commands["t_ns"] / HOUR_NS
    assert not ((issued_h > 2.01) & (issued_h < 73.99)).any()
    assert soc(record, 72.0) == pytest.approx(0.05, abs=0.001)
    assert soc(record, 83.9) > 0.9  # the new instance makes up for it, three days late
    assert soc(record, 72.0, d=1) > 0.2  # the other home keeps its reserve by itself


def stuck_at_full(record: Record) -> None:
    told = record.telemetry["soc_frac"]
    assert set(told.tolist()) == {1.0}
    assert soc(record, 2.5) == pytest.approx(0.20, abs=0.01)  # where the device's own reserve ends it


@dataclass(frozen=True)
class Incident:
    """What is expected of one.

    Attributes
    ----------
    controller : str
    broken : str
        The invariant.
    margin : float
        Of its first breach, in its own unit.
    shows : callable
        Asserts on the record what the incident is about.
    """

    controller: str
    broken: str
    margin: float
    shows: Callable[[Record], None]


INCIDENTS = {
    "expired-hold": Incident(f"{NAIVE}HoldOnce", "RDY", -2.50, expired_hold),
    "locked-reserve": Incident(f"{NAIVE}FillByReserve", "DEL", -0.34, locked_reserve),
    "stale-state": Incident(f"{NAIVE}WhenFull", "RDY", -2.69, stale_state),
    "retained-set-point": Incident(f"{NAIVE}Seller", "RDY", -2.64, retained_set_point),
    "moved-scale-factor": Incident(f"{NAIVE}Seller", "RDY", -2.39, moved_scale_factor),
    "outage-in-grant": Incident(f"{NAIVE}Seller", "RDY", -0.21, outage_in_grant),
    "acknowledged-not-applied": Incident("reserve", "RDY", -5.15, acknowledged_not_applied),
    "short-timer": Incident(f"{NAIVE}HalfHourly", "REC", -0.18, short_timer),
    "unnoticed-crash": Incident("reserve", "RDY", -5.15, unnoticed_crash),
    "stuck-at-full": Incident(f"{NAIVE}Seller", "RDY", -1.90, stuck_at_full),
}
LONG = ("acknowledged-not-applied", "unnoticed-crash", "stale-state", "stuck-at-full")
"""Days of bench time, or a decision each ten seconds."""

EACH = [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in INCIDENTS]


def world(name: str) -> World:
    return build_world(load_scenario(name))


def sound(whole: World) -> World:
    """Return the world without its fault, at most 16 h of it: by then every promise is broken with it.

    An outage stays, and what is left of a stale set-point is one.
    """
    left: list[Event] = []
    for event in whole.events:
        if event.fault == "grid.stale-set-point":
            end_ns = event.start_ns + round(float(event.params["outage_s"]) * 1e9)
            left.append(replace(event, fault="grid.outage", end_ns=end_ns, params={}))
        elif event.fault == "grid.outage":
            left.append(event)
    return replace(whole, events=tuple(left), duration_ns=min(whole.duration_ns, 16 * HOUR_NS))


def judged(name: str, whole: World, folder: Path, level: Level = "mil") -> Run:
    return run(whole, INCIDENTS[name].controller, folder, level=level)


def test_every_incident_is_bundled_and_expected() -> None:
    assert set(incident_names()) == set(INCIDENTS)
    for name in INCIDENTS:
        scenario = load_scenario(f"incidents/{name}")
        assert scenario.name == name
        assert load_scenario(name) == scenario


@pytest.mark.parametrize("name", list(INCIDENTS))
def test_an_incident_names_its_source_and_acts_at_every_level(name: str) -> None:
    description = " ".join(load_scenario(name).description.split())
    links = re.findall(r"https://[^\s,]+", description)
    assert links
    faults = [event.fault for event in world(name).events if event.fault != "grid.outage"]
    assert len(faults) == 1
    assert levels(faults[0]) == ("mil", "sil", "hil")
    if "github.com" in links[0]:
        seen = [sight.where for sight in load_fault(faults[0]).seen]
        assert any(link.rstrip(".") in seen for link in links), (links, seen)


@pytest.mark.parametrize("name", EACH)
def test_the_promise_breaks_as_it_did_and_the_document_tells_how(name: str, tmp_path: Path) -> None:
    expected = INCIDENTS[name]
    done = judged(name, world(name), tmp_path / "r")
    assert done.verdict.outcome == "broken"
    home = done.verdict.homes[0]
    assert [key for key, found in home.findings.items() if not found.held] == [expected.broken]
    breach = home.findings[expected.broken].breaches[0]
    in_kwh = breach.margin / 1000.0 if abs(breach.margin) > 20.0 else breach.margin
    assert in_kwh == pytest.approx(expected.margin, abs=0.02)
    assert [other.outcome for other in done.verdict.homes[1:]] == ["held"] * (len(done.verdict.homes) - 1)
    expected.shows(read_record(tmp_path / "r"))
    assert home.sentences[0][1] in " ".join(DOCS.read_text("utf-8").split())


@pytest.mark.parametrize("name", EACH)
def test_without_its_fault_every_promise_holds(name: str, tmp_path: Path) -> None:
    done = judged(name, sound(world(name)), tmp_path / "r")
    assert done.verdict.outcome == "held", done.verdict.first_breach
    if name == "outage-in-grant":
        assert done.verdict.margin_kwh == pytest.approx(0.43, abs=0.01)  # as the document says


def test_over_registers_the_verdict_is_the_same(tmp_path: Path) -> None:
    name = "short-timer"
    both = [judged(name, world(name), tmp_path / level, level) for level in ("mil", "sil")]
    assert [done.verdict.outcome for done in both] == ["broken", "broken"]
    assert both[0].verdict.homes[0].sentences[0][1] == both[1].verdict.homes[0].sentences[0][1]
