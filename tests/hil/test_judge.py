"""The judge on hand-made records: each invariant held, broken, and exactly at its border."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from ridethrough.hil.judge import INVARIANTS, judge
from ridethrough.hil.promise import home_of

from tests.hil.battery import NS, RESERVE_WH, Walk, device, record
from tests.hil.verdicts import R, after_outage, assert_broken, finding, outage, verdict


def test_reserve_by_hand() -> None:
    assert home_of(device()).reserve_wh == pytest.approx(RESERVE_WH, rel=1e-12)


# RDY


@pytest.mark.parametrize(("off_wh", "held"), [(0.0, True), (-0.0099, True), (-0.0101, False), (1.0, True)])
def test_rdy_at_the_border(off_wh: float, held: bool) -> None:
    found = finding(verdict(Walk(6000.0).go(100, to_wh=R + off_wh).go(60)), "RDY")
    assert found.held is held
    assert found.margin_kwh == pytest.approx(off_wh / 1000.0, abs=1e-9)
    assert found.judged_h == pytest.approx(160 / 3600)


def test_rdy_broken_is_told_with_time_depth_command_and_faults() -> None:
    walk = Walk(6000.0).go(110, to_wh=6000.0).go(20, to_wh=R, power_w=5000.0)
    walk.go(10, to_wh=R - 100.0, power_w=5000.0).go(10, to_wh=R - 60.0).go(50, to_wh=R + 10.0).go(
        10, to_wh=R - 5.0
    )
    commands = [
        {"t_ns": 0, "arrival_ns": 1 * NS, "power_w": 0.0, "validity_s": 1000.0},
        {"t_ns": 100 * NS, "arrival_ns": 110 * NS, "power_w": 5000.0, "validity_s": 300.0},
        {"t_ns": 101 * NS, "arrival_ns": -1, "power_w": 0.0, "validity_s": 300.0, "outcome": 1},
        {"t_ns": 120 * NS, "arrival_ns": 121 * NS, "reserve_soc_frac": 0.5},
    ]
    events = [
        {"number": 3, "fault": "comms.partition", "targets": [0], "start_ns": 90 * NS, "end_ns": 150 * NS},
        {"number": 4, "fault": "comms.loss", "targets": [0], "start_ns": 5 * NS, "end_ns": 10 * NS},
        {"number": 5, "fault": "comms.loss", "targets": [], "start_ns": 0, "end_ns": 999 * NS},
        {"number": 6, "fault": "grid.outage", "targets": [0], "start_ns": 131 * NS, "end_ns": 150 * NS},
    ]
    v = verdict(walk, commands=commands, changes={"events": events})
    assert_broken(finding(v, "RDY"), 131, -0.1, count=2)
    assert v.first_breach == (
        "home-01 fell 100 Wh below its reserve of 5.29 kWh at 18:02:11 (lowest at 18:02:20) while "
        "discharging 5.0 kW on a command issued at 18:01:40; active faults: comms.partition (event 3), "
        "comms.loss (event 4, ended 18:00:10)"
    )
    assert v.margin_kwh == pytest.approx(-0.1)
    assert (v.margin_home, v.margin_ns) == ("home-01", 140 * NS)
    assert v.homes[0].sentences[1][1].startswith("home-01 fell 5 Wh below its reserve of 5.29 kWh at ")


def test_a_lapsed_command_is_not_in_force() -> None:
    commands = [{"t_ns": 0, "arrival_ns": 0, "power_w": 5000.0, "validity_s": 60.0}]
    v = verdict(Walk(6000.0).go(100, to_wh=R).go(10, to_wh=R - 10.0, power_w=-200.0), commands=commands)
    assert "while charging 200 W with no command in force; active faults: none" in v.first_breach


def test_a_reserve_no_battery_holds_is_said() -> None:
    """Nine hours need 10640 Wh: a full home begins below it, and 640 Wh are due after 784 s."""
    v = verdict(Walk(10_000.0).go(900), hours_h=9.0)
    assert_broken(finding(v, "REC"), 784, -0.64)
    assert (
        "its reserve of 10.64 kWh (more than its battery holds) when due at 18:13:04: 640 Wh missing"
        in v.first_breach
    )


# A home that begins below its reserve has 300 s, then charges with 5000 - 220 - 10 W.


@pytest.mark.parametrize(("charge_s", "held"), [(79, True), (80, False)])
def test_a_start_below_reserve_is_a_recovery(charge_s: int, held: bool) -> None:
    """100 Wh and the 300 s of standby (0.833 Wh) take 76.1 s: due at 376.1 s, judged at 377 s."""
    walk = Walk(R - 100.0).go(298, to_wh=R - 100.0 - 10 * 298 / 3600).go(charge_s, to_wh=R).go(60)
    v = verdict(walk)
    found = finding(v, "REC")
    assert found.held is held
    assert v.homes[0].findings["RDY"].excused_h == pytest.approx((377 if held else 378) / 3600)
    if not held:
        assert_broken(found, 377, -(100.0 + 298 / 360.0) / charge_s / 1000.0)
        assert (
            "had not restored its reserve of 5.29 kWh when due at 18:06:17: 1.26 Wh missing while"
            in v.first_breach
        )


def test_a_start_at_the_reserve_is_none() -> None:
    assert_broken(finding(verdict(Walk(R).go(30, to_wh=R - 30.0)), "RDY"), 1, -0.03)


def test_falling_on_the_way_is_broken_even_if_the_deadline_is_kept() -> None:
    wait = Walk(R - 500.0).go(300, to_wh=R - 500.0 - 10 * 300 / 3600)
    held = finding(verdict(wait.go(60, to_wh=R - 450.0).go(60, to_wh=R - 450.0 - 10 * 60 / 3600)), "REC")
    assert held.held
    fallen = Walk(R - 500.0).go(300).go(60, to_wh=R - 450.0).go(60, to_wh=R - 460.0).go(60, to_wh=R)
    v = verdict(fallen)
    # 10 Wh lost, of which the standby of 10 W explains 60 s.
    assert_broken(finding(v, "REC"), 361, -(10.0 - 10 * 60 / 3600) / 1000.0)
    assert "lost 9.83 Wh while restoring its reserve of 5.29 kWh, first at 18:06:01" in v.first_breach


# DEL


@pytest.mark.parametrize(("served_s", "margin_wh"), [(14_399, None), (14_389, -10 * 500 / 3600)])
def test_del_for_exactly_the_promised_hours(served_s: int, margin_wh: float | None) -> None:
    walk = outage().island(19, dt_s=1).island(served_s - 19, dt_s=10, to_wh=6500.0)
    walk.dark(200, status="empty", dt_s=10)
    found = finding(verdict(walk), "DEL")
    assert found.judged_h == pytest.approx(4.0 - 1 / 3600)
    if margin_wh is None:
        assert found.held
        assert found.margin_kwh == 0.0
    else:
        assert_broken(found, 10 + 14_400, margin_wh / 1000.0)
        assert found.margin_kwh == pytest.approx(margin_wh / 1000.0)


@pytest.mark.parametrize(("dark_s", "held"), [(0.02, True), (1.0, True), (1.02, False)])
def test_del_dark_for_exactly_the_transfer_time(dark_s: float, held: bool) -> None:
    walk = Walk(9000.0).go(10).dark(dark_s, dt_s=0.02).island(60)
    found = finding(verdict(walk), "DEL")
    assert found.held is held
    if not held:
        assert_broken(found, 11.02, -500 * 0.02 / 3600 / 1000)


@pytest.mark.parametrize(("served_frac", "held"), [(0.9, True), (0.899, True), (0.898, False)])
def test_del_in_a_row_that_straddles_the_transfer_time(served_frac: float, held: bool) -> None:
    """Nine of ten seconds are owed at 499 W: 0.8982 of the row."""
    walk = Walk(9000.0).go(10).island(10, dt_s=10, served_w=500.0 * served_frac).island(60)
    assert finding(verdict(walk), "DEL").held is held


def test_del_asks_for_the_promised_load_only() -> None:
    assert finding(verdict(outage().island(60, load_w=1500.0, served_w=1000.0)), "DEL").held
    v = verdict(outage().island(60, load_w=1500.0).island(60, load_w=1500.0, served_w=0.0))
    # After 61 s the customer has had 90 kJ; 1000 W since the outage are as much after 90 s.
    found = finding(v, "DEL")
    assert_broken(found, 10 + 91, -31 * 1000 / 3600 / 1000)
    assert found.excused_h == pytest.approx(87 / 3600)  # from 4 s to 90 s after the grid was lost
    assert (
        "left its backup panel without 8.61 Wh of the 8.61 Wh promised from 18:01:41 to 18:02:11"
        in v.first_breach
    )


def test_del_is_excused_for_ever_once_the_reserve_is_used_up() -> None:
    """1900 W for 8000 s is 4222 Wh; at 1.04 and 30 W idle it drains 4458 Wh; 4280 Wh were held for it."""
    walk = Walk(R).go(10).dark(1).island(19, load_w=1900.0).island(7980, load_w=1900.0, dt_s=10, to_wh=1000.0)
    walk.dark(7000, status="empty", dt_s=10, load_w=300.0)
    assert finding(verdict(walk), "DEL").held
    short = (
        Walk(R).go(10).dark(1).island(19, load_w=1900.0).island(7480, load_w=1900.0, dt_s=10, to_wh=1000.0)
    )
    short.dark(7000, status="empty", dt_s=10, load_w=300.0)
    # 1900 W for 7499 s is 3957.8 Wh: overused until the promise catches up, 14248 s into the outage.
    assert_broken(finding(verdict(short), "DEL"), 10 + 14_260, -300 * 150 / 3600 / 1000)


@pytest.mark.parametrize(
    ("load_w", "down_s", "after_w", "held"),
    [
        (8000.0, 300, 8000.0, True),  # the customer's overload, as long as it lasts
        (8000.0, 60, 500.0, True),  # and its restart time
        (8000.0, 62, 500.0, False),
        (4000.0, 60, 500.0, False),  # within the rating: no excuse
    ],
)
def test_del_overload(load_w: float, down_s: int, after_w: float, held: bool) -> None:
    walk = outage().island(1800, dt_s=10)
    walk.dark(1, status="overload", load_w=load_w).dark(down_s, status="overload", load_w=after_w).island(60)
    found = finding(verdict(walk), "DEL")
    assert found.held is held
    if load_w > 5000.0 and not held:
        assert_broken(found, 10 + 1801 + 1 + 61, -2 * 500 / 3600 / 1000)


def test_del_overload_that_trips_and_restarts_within_a_row() -> None:
    walk = outage().island(600, dt_s=10).island(5, load_w=8000.0, served_w=300.0).island(60)
    assert finding(verdict(walk, restart_s=0.1), "DEL").held
    same = outage().island(600, dt_s=10).island(5, load_w=4000.0, served_w=300.0).island(60)
    assert not finding(verdict(same, restart_s=0.1), "DEL").held


def test_del_goes_on_until_the_home_is_energised_again() -> None:
    served = outage().island(100).island(300, good=True).go(10)
    assert finding(verdict(served), "DEL").held
    dark = outage().island(100).island(100, good=True).dark(200, good=True, status="overload").go(10)
    found = finding(verdict(dark), "DEL")
    assert_broken(found, 10 + 1 + 200 + 1, -200 * 500 / 3600 / 1000)


def test_a_grid_that_flickers_before_reclosing_is_one_outage() -> None:
    """The four hours count from the first loss: a battery cannot start afresh without having been charged."""
    walk = outage().island(7199, dt_s=1).island(100, good=True).island(7100, dt_s=10, to_wh=R)
    walk.dark(7000, status="empty", dt_s=10)
    found = finding(verdict(walk), "DEL")
    assert found.held
    assert found.judged_h == pytest.approx(4.0 - 1 / 3600)


def second_outage(recharge_s: int) -> Walk:
    """An outage down to 2000 Wh, a pause without charging, an outage that empties the battery in an hour."""
    walk = outage().island(7199, dt_s=1, to_wh=2000.0, load_w=1000.0).island(300, good=True)
    walk.go(recharge_s).dark(1).island(3599, load_w=950.0, to_wh=1000.0)
    return walk.dark(1800, status="empty", load_w=950.0)


def test_a_second_outage_in_recovery_asks_for_what_there_was() -> None:
    v = verdict(second_outage(200))
    found = finding(v, "DEL")
    assert found.held
    assert found.excused_h == pytest.approx(0.5, abs=0.05)


def test_a_second_outage_after_the_deadline_asks_for_all() -> None:
    v = verdict(second_outage(5000))
    assert_broken(finding(v, "DEL", alone=False), 10 + 7500 + 5000 + 3601, -0.475)
    assert not v.homes[0].findings["REC"].held


def test_a_second_outage_in_recovery_must_not_go_dark_early() -> None:
    walk = outage().island(7199, to_wh=2000.0, load_w=1000.0).island(300, good=True).go(200).dark(1)
    walk.island(599, load_w=950.0).dark(60, status="overload", load_w=950.0)
    assert_broken(finding(verdict(walk), "DEL"), 10 + 7500 + 200 + 601, -60 * 950 / 3600 / 1000)


# REC after an outage: 300 s of delay, 300 s of patience while the ramp runs, then 4770 W into the cells.


@pytest.mark.parametrize(("charge_s", "held"), [(361, True), (362, False)])
def test_rec_is_due_to_the_second(charge_s: int, held: bool) -> None:
    walk = after_outage(300, charge_s)
    v = verdict(walk)
    found = finding(v, "REC")
    assert found.held is held
    if not held:
        assert_broken(found, 10 + 3600 + 300 + 661, -(477.0 + 10 / 12) / charge_s / 1000.0)


def test_rec_passes_on_when_the_next_outage_comes_first() -> None:
    walk = after_outage(300, 100).dark(1)
    walk = outage().island(3599, to_wh=R - 477.0).island(300, good=True).go(659).dark(1).island(60)
    assert finding(verdict(walk), "REC").held
    late = outage().island(3599, to_wh=R - 477.0).island(300, good=True).go(662).dark(1).island(60)
    assert_broken(finding(verdict(late), "REC"), 10 + 3600 + 300 + 661, -0.477)


def test_rec_of_a_home_that_went_empty_waits_twice() -> None:
    """It recloses at once and waits for service with its switch closed: it can act 300 s after reclosing."""
    base = outage().island(3589, to_wh=1000.0, load_w=6000.0).dark(10, status="empty", load_w=6000.0)
    base.go(300, status="enter")
    need_s = 300 + (R - 1000.0 + 10 / 12) / 4770.0 * 3600
    charged = base.go(300, to_wh=1000.0 - 10 / 12)
    v = verdict(charged.go(round(need_s) + 1 - 300, to_wh=R).go(10))
    assert v.homes[0].findings["REC"].held
    assert v.homes[0].findings["RDY"].held
    assert v.homes[0].findings["RDY"].excused_h > need_s / 3600


def test_rec_is_due_even_if_service_is_never_permitted() -> None:
    """Reclosed at 3611 s, can act 300 s later; 300 s of patience and 4290.83 Wh at 4770 W end at 7449.4 s."""
    walk = outage().island(3589, to_wh=1000.0, load_w=6000.0).dark(10, status="empty", load_w=6000.0)
    assert_broken(finding(verdict(walk.go(4000, status="enter")), "REC"), 7450, (1000.0 - R) / 1000.0)


def test_falling_is_seen_from_the_first_row_when_there_is_no_patience() -> None:
    walk = outage().island(3599, to_wh=R - 477.0).island(300, good=True).go(1).go(2, to_wh=R - 480.0).go(5)
    assert_broken(finding(verdict(walk, recovery_s=0.0), "REC"), 3912, -(3.0 - 20 / 3600) / 1000.0)


def test_readiness_is_asked_for_again_after_recovery() -> None:
    walk = after_outage(300, 361).go(60, to_wh=R - 20.0, power_w=1200.0)
    assert_broken(finding(verdict(walk), "RDY"), 10 + 3600 + 300 + 661 + 60 + 1, -0.02)


def test_a_short_outage_above_reserve_allows_the_wait_only() -> None:
    dip = (
        outage()
        .island(60, to_wh=R + 1.0)
        .island(300, good=True)
        .go(290, to_wh=R - 10.0)
        .go(5, to_wh=R)
        .go(100)
    )
    assert finding(verdict(dip), "RDY").held
    late = outage().island(60, to_wh=R + 1.0).island(300, good=True).go(301, to_wh=R - 10.0).go(50)
    assert not verdict(late).homes[0].findings["REC"].held


# DEV


def test_dev_energy_window() -> None:
    assert finding(verdict(Walk(9000.0).go(50, to_wh=10_000.0)), "DEV").held
    assert_broken(finding(verdict(Walk(9999.0).go(10, to_wh=10_009.0)), "DEV"), 2, -0.009)
    low = (
        outage().island(3600, to_wh=1000.0, load_w=8000.0).dark(2, status="empty", to_wh=998.0, load_w=8000.0)
    )
    assert_broken(finding(verdict(low), "DEV"), 3612, -0.002)


@pytest.mark.parametrize(
    ("power_w", "held"), [(5000.0, True), (5001.0, False), (-5010.0, True), (-5011.0, False)]
)
def test_dev_power_on_the_grid(power_w: float, held: bool) -> None:
    found = finding(verdict(Walk(9000.0).go(10).go(1, power_w=power_w)), "DEV")
    assert found.held is held
    if not held:
        assert_broken(found, 11, -0.001)


def test_dev_surge_is_for_islands() -> None:
    assert finding(verdict(outage().island(10, load_w=7000.0, power_w=7000.0)), "DEV").held
    over = finding(verdict(outage().island(10, load_w=7000.0, power_w=7010.0)), "DEV")
    assert_broken(over, 12, -0.01)


@pytest.mark.parametrize(("slew", "held"), [(5000.9, True), (5001.1, False)])
def test_dev_ramp(slew: float, held: bool) -> None:
    assert finding(verdict(Walk(9000.0).go(10).go(1, slew_w_per_s_high=slew)), "DEV").held is held


@pytest.mark.parametrize(("writes", "held"), [(3, True), (4, False)])
def test_dev_writes_of_the_reserve_setting(writes: int, held: bool) -> None:
    """Counted per calendar day, accepted ones only; the run starts at 18:00."""
    midnight_ns = 6 * 3600 * NS
    arrivals = [midnight_ns - k for k in range(1, 4)] + [midnight_ns + k for k in range(writes)]
    commands = [{"arrival_ns": t, "reserve_soc_frac": 0.5} for t in arrivals]
    commands += [{"arrival_ns": midnight_ns, "reserve_soc_frac": 0.5, "outcome": 2}]
    commands += [{"arrival_ns": midnight_ns, "power_w": 1.0, "validity_s": 1.0}] * 9
    walk = Walk(9000.0).go(7 * 3600, dt_s=10)
    v = verdict(walk, commands=commands, reserve_writes_per_day_max=3)
    found = finding(v, "DEV")
    assert found.held is held
    if not held:
        assert found.breaches[0].t_ns == midnight_ns + 3
        assert found.breaches[0].margin == -1.0
        assert (
            "setting written 4 times in one day, 3 allowed; the first too many at 1d 00:00:00"
            in v.first_breach
        )


# EXP


@pytest.mark.parametrize(
    ("level", "flow_w", "held"),
    [("mil", 1e-6, True), ("mil", 1.1e-6, False), ("hil", 1.0, True), ("hil", 1.1, False)],
)
def test_exp(level: str, flow_w: float, held: bool) -> None:
    walk = outage().island(60, dead_import_w_high=flow_w)
    assert finding(verdict(walk, changes={"level": level}), "EXP").held is held


# The record as a whole.


def test_nothing_that_was_not_recorded_is_held() -> None:
    good, bad = Walk(9000.0).go(100), Walk(6000.0).go(100, to_wh=5000.0)
    cases: list[tuple[str, Any, str]] = [
        ("held", record([good]), ""),
        ("inconclusive", record([good], finished=False), "never finished"),
        ("broken", record([bad], finished=False), "never finished"),
        (
            "inconclusive",
            record([good], end={"reason": "interrupted", "detail": "Ctrl-C"}),
            "interrupted: Ctrl-C",
        ),
        ("inconclusive", record([good], duration_s=101), "rows end at 18:01:40, the run ends at 18:01:41"),
        ("inconclusive", record([]), "names no device"),
        ("inconclusive", record([], [device()]), "home-01: no rows"),
        (
            "inconclusive",
            record([good, Walk(9000.0).go(100)], [device()]),
            "100 rows of truth belong to no device",
        ),
        (
            "inconclusive",
            record([bad], end={"bench_fault": "clock lagged 2 s"}),
            "at fault: clock lagged 2 s",
        ),
        (
            "broken",
            record([good], end={"reason": "controller failed", "detail": "ValueError"}),
            "failed: ValueError",
        ),
    ]
    for outcome, judged, reason in cases:
        v = judge(judged)
        assert v.outcome == outcome, reason
        assert reason in "; ".join(v.reasons)
        assert v.exit_code == {"held": 0, "broken": 1, "inconclusive": 3}[outcome]
        assert bool(v.reasons) == bool(reason)


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("t_ns", 61 * NS, "a gap or an overlap in its rows at 18:00:59"),
        ("dt_ns", 0, "a gap or an overlap"),
        ("energy_wh_low", np.nan, "a value that is not a number at 18:00:59"),
        ("backup_served_w", np.inf, "a value that is not a number"),
        ("status", 8, "a status or grid_good nobody knows"),
        ("grid_good", 2, "a status or grid_good nobody knows"),
    ],
)
def test_a_home_is_judged_up_to_its_first_unsound_row(column: str, value: float, why: str) -> None:
    late = record([Walk(9000.0).go(100), Walk(6000.0).go(80).go(20, to_wh=5000.0)])
    early = record([Walk(9000.0).go(100), Walk(6000.0).go(20, to_wh=5000.0).go(80)])
    for made, outcome in ((late, "inconclusive"), (early, "broken")):
        made.truth[column][2 * 59 + 1] = value
        v = judge(made)
        assert [home.outcome for home in v.homes] == ["held", outcome]
        assert v.outcome == outcome
        assert f"home-02: {why}" in v.reasons[0]
        assert v.homes[1].findings["RDY"].judged_h == pytest.approx(59 / 3600)


def test_many_breaches_are_counted_and_the_first_are_listed() -> None:
    walk = Walk(6000.0)
    for _ in range(30):
        walk.go(2, to_wh=5000.0).go(2, to_wh=6000.0).go(2)
    found = finding(verdict(walk), "RDY")
    assert found.count == 30
    assert len(found.breaches) == 20


def test_a_verdict_is_json_and_says_what_it_does_not_say() -> None:
    v = verdict(Walk(6000.0).go(100, to_wh=5000.0))
    text = json.dumps(v.to_dict(), allow_nan=False)
    read = json.loads(text)
    assert read["outcome"] == "broken"
    assert read["first_breach"] == v.first_breach
    assert set(read["homes"][0]["invariants"]) == set(INVARIANTS)
    assert read["homes"][0]["invariants"]["RDY"]["first_at"] == "18:01:12"
    assert read["homes"][0]["invariants"]["DEL"] == {
        "held": True, "breaches": 0, "first_at": None, "first_ns": None,
        "margin_kwh": None, "margin_at": None, "judged_h": 0.0, "excused_h": 0.0,
    }  # fmt: skip
    for word in ("blame", "VAN", "AIS", "FRE", "FAIR", "TRU", "ECO", "LIV"):
        assert word in read["not_judged"]
