"""The judge on what devices do besides: breaks on the way back, trips, growing waits, leaks, voltages."""

from __future__ import annotations

import pytest

from tests.hil.battery import Walk
from tests.hil.verdicts import R, after_outage, assert_broken, finding, outage, verdict

# A home that breaks before it makes, or is a member of a community island.


@pytest.mark.parametrize(("dark_s", "held"), [(1.0, True), (1.02, False)])
def test_del_allows_one_break_on_the_way_back(dark_s: float, held: bool) -> None:
    """As long as the promised transfer time, and only from serving the panel."""
    back = outage().island(100).island(300, good=True).dark(dark_s, dt_s=0.02, good=True, status="rejoin")
    found = finding(verdict(back.go(60)), "DEL")
    assert found.held is held
    if not held:
        assert_broken(found, 10 + 401 + 1.02, -500 * 0.02 / 3600 / 1000)


def test_del_a_break_within_a_row_counts_by_what_it_left_unserved() -> None:
    whole = outage().island(100).island(300, good=True).go(10, dt_s=10, served_w=500.0 * 0.9).go(60)
    assert finding(verdict(whole), "DEL").held
    longer = outage().island(100).island(300, good=True).go(10, dt_s=10, served_w=500.0 * 0.89).go(60)
    assert not finding(verdict(longer), "DEL").held


def test_del_a_break_excuses_nobody_who_was_dark_before() -> None:
    walk = outage().island(100).dark(1, status="empty").dark(1, good=True, status="rejoin").go(60)
    assert_broken(finding(verdict(walk), "DEL"), 10 + 102, -2 * 500 / 3600 / 1000)


def test_a_member_of_a_community_island_is_served() -> None:
    walk = outage().island(100).go(1000, good=False, status="member").island(60).island(300, good=True).go(10)
    assert finding(verdict(walk), "DEL").held
    dark = outage().island(100).go(1000, good=False, status="member", served_w=0.0).island(60)
    found = finding(verdict(dark), "DEL")
    assert_broken(found, 10 + 102, -1000 * 500 / 3600 / 1000)
    assert "while in a community island" in verdict(dark).first_breach


def test_a_device_that_trips_on_a_grid_that_is_there_is_in_an_outage() -> None:
    """A voltage that trips it opens its switch; the panel is owed, the reserve may be used."""
    tripped = Walk(R).go(10).dark(1, good=True).island(600, good=True, to_wh=R - 100.0).go(10)
    assert finding(verdict(tripped), "DEL", alone=False).held
    assert verdict(tripped).homes[0].findings["RDY"].held
    dark = Walk(R).go(10).dark(60, good=True).island(600, good=True).go(10)
    assert not verdict(dark).homes[0].findings["DEL"].held


@pytest.mark.parametrize(
    ("growth", "down_s", "held"), [(1.0, 62, False), (2.0, 120, True), (2.0, 240, True), (2.0, 182, True)]
)
def test_del_overload_waits_that_grow(growth: float, down_s: int, held: bool) -> None:
    """Down for a minute under too much load: the next wait is 120 s at most where each doubles."""
    walk = outage().island(1800, dt_s=10)
    walk.dark(60, status="overload", load_w=8000.0).dark(min(down_s, 120), status="overload").island(60)
    v = verdict(walk, restart_growth=growth, restart_s_max=7200.0)
    assert finding(v, "DEL").held is held
    late = outage().island(1800, dt_s=10)
    late.dark(60, status="overload", load_w=8000.0).dark(122, status="overload").island(60)
    assert not finding(verdict(late, restart_growth=growth, restart_s_max=7200.0), "DEL").held


@pytest.mark.parametrize(("voltage_pu", "held"), [(1.04, False), (1.06, True)])
def test_rec_waits_while_the_voltage_lets_nobody_return(voltage_pu: float, held: bool) -> None:
    """477 Wh short, never restored; with 1.06 pu from 300 s on the device may not enter service."""
    walk = outage().island(3599, dt_s=1, to_wh=R - 477.0).island(200, good=True)
    walk.island(2000, good=True, voltage_pu=voltage_pu)
    assert verdict(walk).homes[0].findings["REC"].held is held


def test_rec_counts_synchronising_and_the_break() -> None:
    """Due after 660.63 s; 30 s and 5 s more before it can act."""
    walk = after_outage(300, 362)
    assert not verdict(walk).homes[0].findings["REC"].held
    low = R - 477.0
    later = outage().island(3599, dt_s=1, to_wh=low).island(330, good=True)
    later.dark(5, good=True, status="rejoin").go(300, to_wh=low - 10 * 300 / 3600).go(361, to_wh=R).go(60)
    v = verdict(later, sync_s=30.0, break_s=5.0, transfer_s=6.0)
    assert finding(v, "REC").held


def test_rec_is_not_due_where_cold_cells_take_nothing() -> None:
    walk = outage().island(3599, dt_s=1, to_wh=R - 477.0).island(300, good=True).go(20_000, dt_s=10)
    assert not verdict(walk).homes[0].findings["REC"].held
    v = verdict(walk, power_w_charge_sure=0.0)
    assert v.outcome == "held"
    assert v.homes[0].findings["RDY"].excused_h > 5.0


@pytest.mark.parametrize(("leak_frac_per_h", "held"), [(1e-3, True), (4e-4, False)])
def test_dev_a_floor_may_leak_and_do_no_more(leak_frac_per_h: float, held: bool) -> None:
    """Ten hours at rest on an empty battery: 5 Wh of 1000 Wh are half a thousandth per hour."""
    walk = outage().island(3600, to_wh=1000.0, load_w=8000.0)
    walk.dark(36_000, status="empty", to_wh=995.0, load_w=8000.0, dt_s=60)
    v = verdict(walk, self_discharge_frac_per_h=leak_frac_per_h)
    assert v.homes[0].findings["DEV"].held is held


@pytest.mark.parametrize(("second_s", "held"), [(121, True), (123, False), (1000, False)])
def test_del_a_second_overload_may_take_the_second_wait(second_s: int, held: bool) -> None:
    """One second of overload and its wait of 60 s, an hour later the same with twice the wait."""
    walk = outage().island(600, dt_s=10)
    for down_s in (60, second_s):
        walk.dark(1, status="overload", load_w=8000.0).dark(down_s - 1, status="overload").island(
            3600, dt_s=10
        )
    v = verdict(walk, restart_growth=2.0, restart_s_max=7200.0)
    assert finding(v, "DEL").held is held
