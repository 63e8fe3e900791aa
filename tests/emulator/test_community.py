"""The community island: how a demand is shared, and who is a member when.

The conditions of a right share (one frequency, everybody on its own line or at a limit, nothing left over)
are checked as conditions, not by a second solver.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator.community import (
    F_HIGH_FRAC,
    F_LOW_FRAC,
    Community,
    Contract,
    Offer,
    Outcome,
    Rules,
    Share,
    balance,
    pv_factor,
    share,
)
from ridethrough.emulator.fields import TICKS_PER_S

Floats = NDArray[np.float64]
F0 = 60.0
Members = tuple[Floats, Floats, Floats, Floats]
"""Low, high, set-point, droop."""


@st.composite
def groups(draw: st.DrawFn, firm: bool = True) -> Members:
    """Members of any kind; the first may be isochronous."""
    n = draw(st.integers(1, 8))
    rated = np.array(draw(st.lists(st.floats(1e3, 250e3), min_size=n, max_size=n)))

    def part(low: float, high: float) -> Floats:
        return np.array(draw(st.lists(st.floats(low, high), min_size=n, max_size=n)))

    droop = rated / (draw(st.sampled_from([0.005, 0.01, 0.05])) * F0)
    droop = droop * np.array(draw(st.lists(st.sampled_from([0.0, 1.0, 1.0, 1.0]), min_size=n, max_size=n)))
    if firm and draw(st.booleans()):
        droop[0] = np.inf
    return -rated * part(0, 1), rated * part(0, 1), rated * part(-1, 1), droop


def split(members: Members, place: float, **extra: Any) -> tuple[float, Share]:
    """Share a demand at `place` between all charging (0) and all giving (1)."""
    low, high, set_w, droop = members
    demand_w = float(low.sum() + place * (high.sum() - low.sum()))
    return demand_w, share(demand_w, low, high, set_w, droop, F0, **extra)


def size(members: Members) -> float:
    """Sum of the ratings, as far as the capabilities show them [W]."""
    return max(float(np.maximum(-members[0], members[1]).sum()), 1e3)


anywhere = st.floats(-0.5, 1.5)


@given(members=groups(), place=anywhere, master=st.sampled_from([None, 0]))
@settings(deadline=None, max_examples=300)
def test_powers_sum_to_the_demand_within_capability(
    members: Members, place: float, master: int | None
) -> None:
    demand_w, found = split(members, place, master=master)
    total_w = math.fsum(found.power_w) + found.unserved_w - found.surplus_w
    assert abs(total_w - demand_w) <= 1e-9 * size(members)
    assert (members[0] <= found.power_w).all()
    assert (found.power_w <= members[1]).all()
    assert min(found.unserved_w, found.surplus_w) == 0.0
    assert F_LOW_FRAC * F0 <= found.frequency_hz <= F_HIGH_FRAC * F0


@given(members=groups(), place=anywhere)
@settings(deadline=None, max_examples=300)
def test_all_see_one_frequency_and_those_not_at_a_limit_share_by_droop(
    members: Members, place: float
) -> None:
    low, high, set_w, droop = members
    _, found = split(members, place)
    for k in range(len(low)):
        if np.isinf(droop[k]):
            if found.frequency_hz < F0:
                assert found.power_w[k] == high[k]
            elif found.frequency_hz > F0:
                assert found.power_w[k] == low[k]
        else:
            wanted = set_w[k] + (F0 - found.frequency_hz) * droop[k]
            assert abs(found.power_w[k] - min(max(wanted, low[k]), high[k])) <= 1e-9 * size(members)


@given(members=groups(), place=anywhere)
@settings(deadline=None, max_examples=200)
def test_something_is_unserved_only_when_nobody_can_give_more(members: Members, place: float) -> None:
    low, high, set_w, droop = members
    _, found = split(members, place)
    if found.unserved_w > 0.0:
        reach = (1.0 - F_LOW_FRAC) * F0
        most = np.minimum(np.maximum(set_w + reach * np.where(np.isinf(droop), 0.0, droop), low), high)
        assert np.allclose(found.power_w, np.where(np.isinf(droop), high, most), rtol=0, atol=1e-9)
    if found.surplus_w > 0.0:
        reach = (F_HIGH_FRAC - 1.0) * F0
        least = np.minimum(np.maximum(set_w - reach * np.where(np.isinf(droop), 0.0, droop), low), high)
        assert np.allclose(found.power_w, np.where(np.isinf(droop), low, least), rtol=0, atol=1e-9)


@given(members=groups(), places=st.tuples(anywhere, anywhere))
@settings(deadline=None, max_examples=200)
def test_more_demand_never_raises_the_frequency_nor_lowers_a_power(
    members: Members, places: tuple[float, float]
) -> None:
    less, more = (split(members, place)[1] for place in sorted(places))
    assert more.frequency_hz <= less.frequency_hz
    assert (more.power_w >= less.power_w - 1e-9 * size(members)).all()


@given(members=groups(), place=anywhere, data=st.data())
@settings(deadline=None, max_examples=200)
def test_the_order_of_members_does_not_matter(members: Members, place: float, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(members[0])))))
    demand_w, straight = split(members, place)
    low, high, set_w, droop = (column[order] for column in members)
    turned = share(demand_w, low, high, set_w, droop, F0)
    assert turned.power_w.tobytes() == straight.power_w[order].tobytes()
    assert turned[0] == straight[0]
    assert turned[2:] == straight[2:]


def test_sharing_by_hand() -> None:
    # Two of 10 kW and one of 5 kW, 1 %: 0.6 Hz at full load.  15 kW are 0.6 of each rating: 0.36 Hz.
    rated = np.array([10e3, 10e3, 5e3])
    even = share(15e3, -rated, rated, np.zeros(3), rated / 0.6, F0)
    assert even.frequency_hz == pytest.approx(59.64)
    assert even.power_w == pytest.approx([6e3, 6e3, 3e3])
    # The second is nearly empty: the others give the rest by 2 to 1.
    tired = share(15e3, -rated, np.array([10e3, 1.5e3, 5e3]), np.zeros(3), rated / 0.6, F0)
    assert tired.power_w == pytest.approx([9e3, 1.5e3, 4.5e3])
    assert tired.frequency_hz == pytest.approx(59.46)
    # Isochronous: the first bears all until it is full.
    droop = np.array([np.inf, 10e3 / 0.6, 5e3 / 0.6])
    firm = share(8e3, -rated, rated, np.array([0.0, 1e3, 0.0]), droop, F0)
    assert (firm.frequency_hz, *firm.power_w) == (60.0, 7e3, 1e3, 0.0)
    full = share(14e3, -rated, rated, np.zeros(3), droop, F0)
    assert full.power_w == pytest.approx([10e3, 8e3 / 3, 4e3 / 3])


def test_a_demand_met_at_nominal_frequency_leaves_it_there() -> None:
    # The first is full at 60 Hz, the second moves from 59.7 Hz on only: in between 1 kW comes anyhow.
    low, high, k = np.zeros(2), np.full(2, 1e3), np.full(2, 1e3)
    found = share(1e3, low, high, np.array([1e3, -300.0]), k, F0)
    assert found.frequency_hz == 60.0
    assert found.power_w.tolist() == [1e3, 0.0]


@pytest.mark.parametrize("bad", [[2.0, 0.0], [np.nan, 0.0]])
def test_an_empty_capability_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="p_low_w"):
        share(0.0, np.array(bad), np.ones(2), np.zeros(2), np.ones(2), F0)


@given(rated=st.lists(st.floats(1e3, 1e5), min_size=1, max_size=8))
def test_a_demand_of_exactly_everything_is_served(rated: list[float]) -> None:
    r = np.array(rated)
    found = share(float(np.cumsum(r)[-1]), -r, r, np.zeros(len(r)), r / 0.6, F0)
    assert found.unserved_w == found.surplus_w == 0.0


# PV.


@pytest.mark.parametrize(
    ("frequency_hz", "droop_frac", "wanted"),
    [
        (59.0, 0.05, 1.0),
        (60.036, 0.05, 1.0),
        (61.2, 0.05, 0.61),
        (62.0, 0.05, 0.35),
        (62.01, 0.05, 0.0),
        (61.2, 0.03, 0.35),
        (62.0, 0.03, 0.0),
        (61.2, 0.02, 0.03),
    ],
)
def test_pv_droop_of_the_reference(frequency_hz: float, droop_frac: float, wanted: float) -> None:
    # inverter.md, 4.3, measured with default dead band.
    found = pv_factor(frequency_hz, f_nominal=F0, deadband_hz=0.036, droop_frac=droop_frac, trip_hz=62.0)
    assert found == pytest.approx(wanted, abs=0.005)


def rules(n: int = 3, **changes: Any) -> Rules:
    """A master of 50 kW and homes of 5 kW that support it."""
    homes: list[Contract] = ["support"] * (n - 1)
    base = Rules(0, contract=("own", *homes), power_w_rated=(50e3, *[5e3] * (n - 1)), stagger_s=1.0)
    return replace(base, **changes)


@given(
    pv=st.tuples(st.floats(0, 40e3), st.floats(0, 40e3)),
    load_w=st.floats(0, 60e3),
    charge=st.floats(0, 1),
)
@settings(deadline=None, max_examples=200)
def test_pv_is_part_of_the_balance(pv: tuple[float, float], load_w: float, charge: float) -> None:
    rated = np.array([50e3, 5e3, 5e3])
    found = balance(rules(), load_w, pv, -charge * rated, rated, np.zeros(3), rated / 0.6, 0)
    assert found.share.unserved_w == found.share.surplus_w == 0.0
    assert 0.0 <= found.pv_frac <= 1.0
    legacy_w = 0.0 if found.legacy_pv_tripped else pv[1]
    total_w = math.fsum(found.share.power_w) + found.pv_frac * pv[0] + legacy_w
    assert abs(total_w - load_w) <= 1e-9 * rated.sum()
    on_curve = pv_factor(
        found.share.frequency_hz, f_nominal=F0, deadband_hz=0.036, droop_frac=0.05, trip_hz=62.0
    )
    if pv[0] > 1.0:
        assert found.pv_frac == pytest.approx(0.0 if found.droop_pv_tripped else on_curve, abs=1e-6)
    if not found.legacy_pv_tripped and pv[1] > 0.0:
        assert found.share.frequency_hz <= 60.5
    if not found.droop_pv_tripped and pv[0] > 0.0:
        assert found.share.frequency_hz <= 62.0


def test_surplus_curtails_droop_pv_then_trips_it_and_trips_legacy_pv_first() -> None:
    full = np.zeros(1), np.array([50e3]), np.zeros(1), np.array([50e3 / 0.6])
    half = balance(rules(), 10e3, (20e3, 0.0), *full)
    assert half.pv_frac == pytest.approx(0.5)
    assert half.share.frequency_hz == pytest.approx(61.536)
    assert not half.droop_pv_tripped
    tripped = balance(rules(), 1e3, (20e3, 0.0), *full)  # 5 % would need 62.886 Hz, beyond OF2
    assert tripped.droop_pv_tripped
    assert tripped.share.power_w[0] == pytest.approx(1e3)
    both = balance(rules(), 10e3, (5e3, 9e3), *full)
    assert (both.legacy_pv_tripped, both.droop_pv_tripped, both.pv_frac) == (True, False, 1.0)
    calm = balance(rules(), 10e3, (5e3, 4e3), *full)
    assert (calm.legacy_pv_tripped, calm.droop_pv_tripped, calm.pv_frac) == (False, False, 1.0)


# The life of an island.


def offer(n: int = 3, **changes: Any) -> Offer:
    """Everybody islanded and full, 10 kW at the master, 1 kW at each home."""
    rated = np.array([50e3, *[5e3] * (n - 1)])
    base = Offer(
        ready=np.ones(n, dtype=np.bool_),
        load_w=np.array([10e3, *[1e3] * (n - 1)]),
        pv_w_droop=np.zeros(n),
        pv_w_trip=np.zeros(n),
        power_w_low=-rated,
        power_w_high=rated,
        power_w_set=np.zeros(n),
        spare_j=np.full(n, 1e8),
    )
    return replace(base, **{key: np.asarray(value) for key, value in changes.items()})


def live(community: Community, what: Offer, seconds: int, ticks: int = TICKS_PER_S) -> list[Outcome]:
    return [community.step(ticks, what, grid_back=False) for _ in range(seconds * TICKS_PER_S // ticks)]


def running(n: int = 3, **changes: Any) -> Community:
    community = Community(rules(n, join_s=1.0, **changes))
    live(community, offer(n), 4 * n)
    assert community.phase == "running"
    return community


@pytest.mark.parametrize("ticks", [1, 50])
def test_forming_joining_running_take_their_times(ticks: int) -> None:
    community = Community(rules(join_s=60.0, stagger_s=22.0))
    past = live(community, offer(), 120, ticks)
    changes: dict[tuple[str, int], int] = {}
    for k, outcome in enumerate(past):
        changes.setdefault((outcome.phase, int(outcome.members.sum())), k * ticks)
    assert changes == {
        ("forming", 0): 0,
        ("joining", 1): 60 * 50,
        ("joining", 2): 60 * 50 + ticks,  # the master has shown its headroom
        ("joining", 3): 82 * 50 + ticks,
        ("running", 3): 82 * 50 + 2 * ticks,
    }
    assert sum(outcome.joined.sum() for outcome in past) == 3


def test_a_master_that_is_not_stable_does_not_form() -> None:
    community = Community(rules(join_s=10.0))
    for _ in range(5):
        live(community, offer(), 9)
        live(community, offer(ready=[False, True, True]), 1)
    assert community.phase == "off"
    assert community.attempts == 0


def test_contracts() -> None:
    community = running(4, contract=("own", "support", "served", "own"))
    outcome = live(community, offer(4), 1)[0]
    assert outcome.members.tolist() == [True, True, True, False]
    assert outcome.share_w[2] == outcome.share_w[3] == 0.0
    assert outcome.share_w[1] == pytest.approx(12e3 / 11)
    assert math.fsum(outcome.share_w) == pytest.approx(12e3, abs=1e-6)


def test_a_step_of_load_too_great_for_the_headroom_waits_and_lets_others_pass() -> None:
    community = Community(rules(join_s=1.0))
    big = offer(load_w=[30e3, 7e3, 1e3])  # headroom 20 kW: steps of at most 6 kW
    live(community, big, 20)
    assert community.members.tolist() == [True, False, True]
    assert community.phase == "joining"
    live(community, offer(load_w=[10e3, 7e3, 1e3]), 2)
    assert community.members.all()


def test_the_grid_takes_all_back_together() -> None:
    community = running()
    outcome = community.step(50, offer(), grid_back=True)
    assert outcome.returned
    assert outcome.left.all()
    assert outcome.phase == "off"
    assert not outcome.members.any()
    assert not outcome.share_w.any()
    assert not community.step(50, offer(), grid_back=True).returned


def test_a_home_that_breaks_leaves_and_the_master_takes_all_with_it() -> None:
    community = running()
    outcome = live(community, offer(ready=[True, False, True]), 1)[0]
    assert outcome.left.tolist() == [False, True, False]
    assert not outcome.collapsed
    outcome = live(community, offer(ready=[False, True, True]), 1)[0]
    assert outcome.collapsed
    assert outcome.left.tolist() == [True, False, True]


def test_lockouts_grow_and_the_return_of_the_grid_forgets_them() -> None:
    community = Community(rules(join_s=1.0))
    heavy = offer(load_w=[80e3, 0.0, 0.0])
    times = [k for k in range(18_000) if community.step(50, heavy, grid_back=False).collapsed]
    assert np.diff(times).tolist()[:4] == [602, 1202, 2402, 7202]  # lock-out, the step itself, and join_s
    community.step(50, heavy, grid_back=True)
    assert community.attempts == 0


def test_the_last_lockout_repeats_and_a_long_run_clears_the_count() -> None:
    community = running(retry_s=(5.0, 9.0))
    heavy = offer(load_w=[80e3, 0, 0])
    times = [k for k in range(50) if community.step(50, heavy, grid_back=False).collapsed]
    assert np.diff(times).tolist()[:4] == [7, 11, 11, 11]
    live(community, offer(), 30)
    assert community.attempts == 0


def test_the_master_may_exceed_its_rating_for_the_surge_time_only() -> None:
    high_w = [70e3, 5e3, 5e3]
    community = running(surge_s=10.0)
    strained = offer(load_w=[65e3, 1e3, 1e3], power_w_high=high_w)
    past = live(community, strained, 11)
    assert [outcome.collapsed for outcome in past] == [False] * 10 + [True]
    assert past[0].share_w.tolist() == pytest.approx([57e3, 5e3, 5e3])
    relieved = running(surge_s=10.0)
    for _ in range(5):  # the homes can bear it in between: no overload without a break
        assert not any(outcome.collapsed for outcome in live(relieved, strained, 9))
        easy = live(relieved, offer(load_w=[55e3, 1e3, 1e3], power_w_high=high_w), 1)[0]
        assert easy.share_w[0] <= 50e3
    beyond = live(running(), offer(load_w=[75e3, 3e3, 3e3], power_w_high=high_w), 1)[0]
    assert beyond.collapsed
    assert beyond.unserved_w == pytest.approx(1e3)


def test_reactive_power_lowers_the_voltage_and_is_shared() -> None:
    community = running()
    var: dict[str, Any] = {"load_var": [11e3, 0.0, 0.0], "var_max": [22e3, 2.2e3, 2.2e3]}
    outcome = live(community, offer(**var), 1)[0]
    assert outcome.voltage_pu == pytest.approx(1.0 - 0.05 * 11 / 26.4)
    assert outcome.share_var == pytest.approx(np.array([22.0, 2.2, 2.2]) * 11e3 / 26.4)
    assert live(community, offer(**(var | {"load_var": [30e3, 0, 0]})), 1)[0].collapsed


def test_pv_that_trips_is_named() -> None:
    community = running()
    sun: dict[str, Any] = {"pv_w_droop": [0.0, 4e3, 0.0], "pv_w_trip": [0.0, 0.0, 30e3]}
    outcome = live(community, offer(power_w_low=np.zeros(3), **sun), 1)[0]
    assert outcome.pv_tripped.tolist() == [False, False, True]
    assert outcome.pv_w.tolist() == [0.0, 4e3, 0.0]
    assert not outcome.collapsed


words = st.sampled_from(get_args(Contract))


@st.composite
def offers(draw: st.DrawFn, n: int) -> Offer:
    def part(low: float, high: float) -> Floats:
        return np.array(draw(st.lists(st.floats(low, high), min_size=n, max_size=n)))

    rated = np.array([50e3, *[5e3] * (n - 1)])
    return Offer(
        ready=np.array([True, *draw(st.lists(st.booleans(), min_size=n - 1, max_size=n - 1))]),
        load_w=rated * part(0, 1.2),
        pv_w_droop=np.zeros(n),
        pv_w_trip=np.zeros(n),
        power_w_low=-rated * part(0, 1),
        power_w_high=rated * part(0, 1),
        power_w_set=rated * part(-1, 1),
        spare_j=5e3 * part(-10, 3000),
    )


@given(data=st.data(), n=st.integers(1, 6), isochronous=st.booleans())
@settings(deadline=None, max_examples=150)
def test_any_life_keeps_the_balance_and_the_reserves(data: st.DataObject, n: int, isochronous: bool) -> None:
    contract = ("own", *data.draw(st.lists(words, min_size=n - 1, max_size=n - 1)))
    community = Community(rules(n, contract=contract, join_s=0.02, isochronous=isochronous))
    live(community, offer(n), 3 * n)
    for _ in range(6):
        now = data.draw(offers(n))
        ticks = data.draw(st.sampled_from([1, 50]))
        outcome = community.step(ticks, now, grid_back=data.draw(st.integers(0, 9)) == 0)
        who = outcome.members
        assert who.any() == (outcome.phase in ("joining", "running"))
        assert not outcome.share_w[~who].any()
        assert not (who & ~now.ready).any()
        assert not any(who[k] for k in range(1, n) if contract[k] == "own")
        if not who.any():
            continue
        assert who[0]
        assert abs(math.fsum(outcome.share_w) - math.fsum(now.load_w[who])) <= 1e-9 * 50e3 * n
        assert (outcome.share_w <= now.power_w_high + 1e-9).all()
        for k in range(1, n):
            if contract[k] == "served":
                assert outcome.share_w[k] == 0.0
            others_j = (outcome.share_w[k] - now.load_w[k]) * ticks / TICKS_PER_S
            if who[k] and contract[k] == "support":
                assert others_j <= now.spare_j[k] * (1 + 1e-9) + 1e-6
                assert now.spare_j[k] > 0.0


@given(data=st.data(), n=st.integers(2, 6), isochronous=st.booleans())
@settings(deadline=None, max_examples=200)
def test_it_collapses_when_members_cannot_carry_it_and_only_then(
    data: st.DataObject, n: int, isochronous: bool
) -> None:
    community = running(n, isochronous=isochronous)
    now = replace(data.draw(offers(n)), ready=np.ones(n, dtype=np.bool_), spare_j=np.full(n, 1e12))
    can_w, must_w = math.fsum(now.power_w_high), math.fsum(now.load_w)
    assume(abs(can_w - must_w) > 1e-6)
    outcome = community.step(TICKS_PER_S, now, grid_back=False)
    assert outcome.collapsed == (must_w > can_w)
    if outcome.collapsed:
        assert outcome.unserved_w == pytest.approx(must_w - can_w, rel=1e-9, abs=1e-6)
        assert outcome.phase == "lockout"


def test_a_home_gives_others_its_spare_energy_to_the_last_and_leaves() -> None:
    community = running()
    spare_j, own_w = 40_000.0, 1000.0
    for _ in range(300):
        now = offer(load_w=[45e3, own_w, own_w], spare_j=[1e9, spare_j, 1e9])
        outcome = live(community, now, 1)[0]
        if outcome.left[1]:
            break
        assert outcome.share_w[1] > own_w
        spare_j -= outcome.share_w[1] - own_w
        assert spare_j >= -1e-6
    assert spare_j == pytest.approx(0.0, abs=1e-6)
    assert outcome.left.tolist() == [False, True, False]
    assert not live(community, now, 30)[-1].members[1]  # it comes back with a margin only
    live(community, offer(spare_j=[1e9, 1.6e6, 1e9]), 2)
    assert community.members[1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"master": 3}, "found master 3; allowed 0 to 2"),
        ({"power_w_rated": (1.0, 2.0)}, "3 positive numbers"),
        ({"power_w_rated": (1.0, 2.0, 0.0)}, "3 positive numbers"),
        ({"contract": ("own", "help", "own")}, "found contract .'help'.; allowed support"),
        ({"retry_s": ()}, "retry_s"),
    ],
)
def test_wrong_rules_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        rules(**change)
