"""Ageing against BLAST-Lite's rates, against a numerical integration, and against what must always hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator.ageing import KIND, LFP, NMC, NONE, SOH_FRAC_MIN, advance
from ridethrough.emulator.errors import InvariantError

Floats = NDArray[np.float64]
HOUR_S = 3600.0
DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
REST: dict[str, Any] = {"throughput_frac": 0.0, "dod_frac": 0.0, "c_rate": 0.0}

# (temp_c, soc_frac, dod_frac, c_rate, k_cal, k_cyc), printed by blast-lite 1.1.0; for NMC per
# (10,000 days)^p and (10,000 cycles)^p, k_cyc at no more than 25 °C.
BLAST = {
    LFP: (
        (10, 0, 0.8, 0, 1.56623351214e-07, 0.000128454899361),
        (10, 0.5, 1, 0.5, 0.000181287830745, 0.000327537136626),
        (17.5, 0.12, 0.9, 0.25, 9.78886081842e-05, 0.000186745642395),
        (25, 0.2, 0.8, 0.2, 0.000249787396181, 0.000139090623494),
        (25, 0.8, 1.0, 1.0, 0.000699631806593, 0.000352063460136),
        (35, 0.65, 0.3, 0.1, 0.00100933014553, 7.96306613212e-05),
        (45, 0.95, 0.5, 0.65, 0.00243967212156, 0.000156905008611),
        (45, 1, 1, 0, 0.00246018091136, 5.78815988219e-05),
    ),
    NMC: (
        (10, 0, 0.8, 0, 0.187879948071, 0.181235015387),
        (10, 0.5, 1, 0.5, 0.279658727059, 0.353221479359),
        (17.5, 0.12, 0.9, 0.25, 0.155384305922, 0.304918183809),
        (25, 0.2, 0.8, 0.2, 0.228407935061, 0.299752144092),
        (25, 0.8, 1.0, 1.0, 0.420356661027, 0.494393905171),
        (35, 0.65, 0.3, 0.1, 0.54601632433, 0.258826985012),
        (45, 0.95, 0.5, 0.65, 0.851120107832, 0.434707725215),
        (45, 1, 1, 0, 0.815715897424, 0.181235015387),
    ),
}


def new(n: int = 1) -> tuple[Floats, Floats, Floats]:
    """Return the losses and cycles of n new batteries."""
    return np.zeros(n), np.zeros(n), np.zeros(n)


def age(kind: int, years: float, dt_s: float, efc_per_day: float = 0.0, **stress: Any) -> tuple[Floats, ...]:
    """Return q_cal, q_cyc, efc, soh_frac of one battery after years of held conditions."""
    state, soh_frac = new(), np.ones(1)
    stress = REST | stress | {"throughput_frac": efc_per_day * dt_s / DAY_S}
    for _ in range(round(years * YEAR_S / dt_s)):
        *kept, soh_frac = advance(kind, *state, dt_s=dt_s, **stress)
        state = (kept[0], kept[1], kept[2])
    return (*state, soh_frac)


# Against others.


@pytest.mark.parametrize("kind", [LFP, NMC])
def test_the_rates_are_those_of_blast(kind: int) -> None:
    unit = 1.0 if kind == LFP else 1e4
    p_cal, p_cyc = (0.526, 0.828) if kind == LFP else (0.651697743905278, 0.441996792536332)
    for temp_c, soc_frac, dod_frac, c_rate, k_cal, k_cyc in BLAST[kind]:
        stress: dict[str, Any] = {
            "soc_frac": soc_frac,
            "temp_c": temp_c,
            "dod_frac": dod_frac,
            "c_rate": c_rate,
        }
        q_cal, q_cyc, efc, _ = advance(kind, *new(), dt_s=2 * DAY_S, throughput_frac=3.0, **stress)
        assert q_cal[0] == pytest.approx(k_cal * (2.0 / unit) ** p_cal, rel=1e-10)
        assert q_cyc[0] == pytest.approx(k_cyc * (3.0 / unit) ** p_cyc, rel=1e-10)
        assert efc[0] == 3.0


@pytest.mark.parametrize(
    ("temp_c", "soc_frac", "loss_percent"),
    [
        *((25.0, 0.2, 1.9), (25.0, 0.5, 3.7), (25.0, 0.8, 5.2), (25.0, 1.0, 5.7)),
        *((35.0, 0.2, 3.5), (35.0, 0.5, 6.8), (35.0, 0.8, 9.6), (35.0, 1.0, 10.5)),
    ],
)
def test_ten_years_on_the_shelf(temp_c: float, soc_frac: float, loss_percent: float) -> None:
    q_cal, q_cyc, _, soh_frac = age(LFP, 10, 30 * DAY_S, temp_c=temp_c, soc_frac=soc_frac)
    assert 100 * q_cal[0] == pytest.approx(loss_percent, abs=0.1)
    assert q_cyc[0] == 0.0
    assert soh_frac[0] == 1.0 - q_cal[0]


def test_ten_years_of_daily_cycles() -> None:
    _, q_cyc, efc, _ = age(LFP, 10, DAY_S, 0.8, temp_c=25.0, soc_frac=0.5, dod_frac=0.8, c_rate=0.2)
    assert 100 * q_cyc[0] == pytest.approx(10.3, abs=0.1)
    assert efc[0] == pytest.approx(2920.0)


def test_full_reserve_costs_half_as_much_again_as_half_reserve() -> None:
    full, half = (age(LFP, 10, 30 * DAY_S, temp_c=25.0, soc_frac=soc)[0][0] for soc in (1.0, 0.5))
    assert full / half == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("kind", [LFP, NMC])
def test_changing_conditions_follow_the_state_equation(kind: int) -> None:
    """Witness: Heun's rule on dq = k·p·(k/q)^((1-p)/p) dx in small steps, k as BLAST printed it."""
    unit = 1.0 if kind == LFP else 1e4
    rows = (*BLAST[kind][3:7], BLAST[kind][1], BLAST[kind][5])
    state = (np.array([0.01]), np.array([0.02]), np.zeros(1))
    q = [0.01, 0.02]
    p = (0.526, 0.828) if kind == LFP else (0.651697743905278, 0.441996792536332)
    for temp_c, soc_frac, dod_frac, c_rate, *k in rows:
        stress: dict[str, Any] = {
            "soc_frac": soc_frac,
            "temp_c": temp_c,
            "dod_frac": dod_frac,
            "c_rate": c_rate,
        }
        *kept, _ = advance(kind, *state, dt_s=40 * DAY_S, throughput_frac=30.0, **stress)
        state = (kept[0], kept[1], kept[2])
        for i, x in enumerate((40.0 / unit, 30.0 / unit)):
            for _ in range(2000):
                dx = x / 2000
                first = k[i] * p[i] * (k[i] / q[i]) ** ((1 - p[i]) / p[i])
                second = k[i] * p[i] * (k[i] / (q[i] + first * dx)) ** ((1 - p[i]) / p[i])
                q[i] += (first + second) / 2 * dx
    assert [state[0][0], state[1][0]] == pytest.approx(q, rel=1e-5)


# Steps and numbers.


@pytest.mark.parametrize("kind", [LFP, NMC])
def test_held_conditions_give_the_same_loss_in_hours_and_in_days(kind: int) -> None:
    stress: dict[str, Any] = {"temp_c": 28.0, "soc_frac": 0.6, "dod_frac": 0.7, "c_rate": 0.3}
    hours = age(kind, 1, HOUR_S, 0.9, **stress)
    days = age(kind, 1, DAY_S, 0.9, **stress)
    once = age(kind, 1, YEAR_S, 0.9, **stress)
    for by_hour, by_day, in_one in zip(hours, days, once, strict=True):
        assert by_hour[0] == pytest.approx(in_one[0], rel=1e-9)
        assert by_day[0] == pytest.approx(in_one[0], rel=1e-9)


stresses = st.fixed_dictionaries(
    {
        "soc_frac": st.floats(-0.1, 1.1),
        "temp_c": st.floats(-30.0, 70.0),
        "throughput_frac": st.just(0.0) | st.floats(1e-9, 0.5),
        "dod_frac": st.floats(0.0, 1.0),
        "c_rate": st.floats(0.0, 2.0),
    }
)
worn = st.tuples(st.floats(0.0, 0.4), st.floats(0.0, 0.4), st.floats(0.0, 1e4))


def columns(rows: list[tuple[tuple[float, ...], dict[str, float]]]) -> tuple[list[Floats], dict[str, Floats]]:
    state = [np.array([row[0][i] for row in rows]) for i in range(3)]
    return state, {name: np.array([row[1][name] for row in rows]) for name in rows[0][1]}


@settings(deadline=None, max_examples=100)
@given(
    kinds=st.lists(st.integers(0, 2), min_size=40, max_size=40),
    rows=st.lists(st.tuples(worn, stresses), min_size=40, max_size=40),
    dt_s=st.floats(60.0, 30 * DAY_S),
)
def test_a_device_ages_alike_alone_and_in_any_company(
    kinds: list[int], rows: list[tuple[tuple[float, ...], dict[str, float]]], dt_s: float
) -> None:
    """Forty devices may go through NumPy, one goes through floats: the bits are the same."""
    state, stress = columns(rows)
    together = advance(kinds, *state, dt_s=dt_s, **stress)
    turned = advance(
        kinds[::-1], *(a[::-1] for a in state), dt_s=dt_s, **{k: v[::-1] for k, v in stress.items()}
    )
    uniform = [advance(kind, *state, dt_s=dt_s, **stress) for kind in range(3)]
    for i, result in enumerate(together):
        assert np.array_equal(result, turned[i][::-1])
        assert np.array_equal(result, np.choose(kinds, [u[i] for u in uniform]))
    for d in (0, 17, 39):
        alone = advance(
            kinds[d], *(a[d : d + 1] for a in state), dt_s=dt_s, **{k: v[d] for k, v in stress.items()}
        )
        assert [a[0] for a in alone] == [t[d] for t in together]


# What must always hold.


@settings(deadline=None, max_examples=200)
@given(kind=st.integers(0, 2), before=worn, stress=stresses, dt_s=st.floats(1.0, 30 * DAY_S))
def test_losses_never_shrink_and_health_stays_in_its_range(
    kind: int, before: tuple[float, float, float], stress: dict[str, Any], dt_s: float
) -> None:
    state = [np.array([value]) for value in before]
    q_cal, q_cyc, efc, soh_frac = (a[0] for a in advance(kind, *state, dt_s=dt_s, **stress))
    assert q_cal >= before[0]
    assert q_cyc >= before[1]
    assert efc == before[2] + stress["throughput_frac"]
    assert soh_frac == max(1.0 - (q_cal + q_cyc), SOH_FRAC_MIN)
    if stress["throughput_frac"] == 0.0:
        assert q_cyc == before[1]
    if kind == NONE:
        assert (q_cal, q_cyc) == before[:2]


@pytest.mark.parametrize("kind", [LFP, NMC])
def test_wear_too_small_to_count_gives_no_capacity_back(kind: int) -> None:
    """Beside a large loss the wear of a moment is less than the rounding of the roots."""
    worn_out = np.linspace(0.01, 0.4, 200)
    at: dict[str, Any] = {"soc_frac": 0.0, "temp_c": 10.0, "dod_frac": 0.0, "c_rate": 0.0}
    after = advance(kind, worn_out, worn_out, np.zeros(200), dt_s=1e-9, throughput_frac=1e-15, **at)
    assert np.all(after[0] >= worn_out)
    assert np.all(after[1] >= worn_out)


@settings(deadline=None, max_examples=100)
@given(before=worn, stress=stresses, more=st.floats(0.01, 0.5), warmer_k=st.floats(1.0, 30.0))
def test_lfp_wears_more_when_fuller_warmer_deeper_and_faster(
    before: tuple[float, float, float], stress: dict[str, Any], more: float, warmer_k: float
) -> None:
    state = [np.array([value]) for value in before]
    changes = {
        "soc_frac": more,
        "temp_c": warmer_k,
        "throughput_frac": more,
        "dod_frac": more,
        "c_rate": more,
    }
    base = advance(LFP, *state, dt_s=DAY_S, **stress)
    for name, change in changes.items():
        harder = advance(LFP, *state, dt_s=DAY_S, **stress | {name: stress[name] + change})
        loss = 0 if name in ("soc_frac", "temp_c") else 1
        assert harder[loss][0] >= base[loss][0] * (1 - 1e-12)


@pytest.mark.parametrize("kind", [LFP, NMC])
def test_outside_of_the_tested_range_it_ages_as_at_the_edge(kind: int) -> None:
    stress: dict[str, Any] = {"throughput_frac": 0.1, "dod_frac": 0.8}

    def aged(**at: float) -> list[float]:
        return [float(a[0]) for a in advance(kind, *new(), dt_s=DAY_S, **stress | at)]

    assert aged(temp_c=-20.0, soc_frac=0.5, c_rate=0.2) == aged(temp_c=10.0, soc_frac=0.5, c_rate=0.2)
    assert aged(temp_c=70.0, soc_frac=0.5, c_rate=0.2) == aged(temp_c=45.0, soc_frac=0.5, c_rate=0.2)
    assert aged(temp_c=25.0, soc_frac=1.2, c_rate=3.0) == aged(temp_c=25.0, soc_frac=1.0, c_rate=1.0)
    assert aged(temp_c=25.0, soc_frac=0.5, c_rate=0.2) != aged(temp_c=26.0, soc_frac=0.5, c_rate=0.2)


def test_a_used_battery_goes_on_at_the_pace_of_its_age() -> None:
    stress: dict[str, Any] = REST | {"temp_c": 25.0, "soc_frac": 0.5}
    young = advance(LFP, *new(), dt_s=YEAR_S, **stress)
    used = advance(LFP, np.array([0.1]), np.zeros(1), np.zeros(1), dt_s=YEAR_S, **stress)
    assert 0.0 < used[0][0] - 0.1 < 0.2 * young[0][0]
    assert used[3][0] == 1.0 - used[0][0]
    bought_used = advance(LFP, *new(), dt_s=YEAR_S, soh_frac_initial=0.9, **stress)
    assert bought_used[3][0] == 0.9 - young[0][0]


def test_twenty_years_of_one_home_look_like_a_home_battery() -> None:
    """A cycle a day from 0.9 to 0.2, cellar winters and garage summers: fade quick at first, then slow."""
    state, yearly = new(), []
    days = np.arange(20 * 365)
    for day in days:
        temp_c = 20.0 - 10.0 * np.cos(2 * np.pi * day / 365)
        *kept, soh_frac = advance(
            LFP,
            *state,
            dt_s=DAY_S,
            soc_frac=0.6,
            temp_c=temp_c,
            throughput_frac=0.7,
            dod_frac=0.7,
            c_rate=0.25,
        )
        state = (kept[0], kept[1], kept[2])
        if day % 365 == 364:
            yearly.append(float(soh_frac[0]))
    steps = -np.diff([1.0, *yearly])
    assert state[2][0] == pytest.approx(20 * 365 * 0.7)
    assert 0.70 < yearly[-1] < yearly[9] < 0.90
    assert np.all(np.diff(steps) < 0.0)


# Wrong input.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dt_s": 0.0}, "dt_s"),
        ({"dt_s": float("nan")}, "dt_s"),
        ({"kind_codes": [0, 3]}, r"device 1 has kind code 3; allowed: 0 \(none\), 1 \(lfp\), 2 \(nmc\)"),
        ({"kind_codes": [0.5, 1]}, "device 0 has kind code 0.5"),
        ({"soc_frac": [0.5, float("nan")]}, "device 1 has soc_frac nan"),
        ({"temp_c": float("inf")}, "device 0 has temp_c inf"),
        (
            {"throughput_frac": [0.0, -0.1]},
            "device 1 has throughput_frac -0.1; allowed: finite numbers from 0",
        ),
        ({"q_cal": np.array([-0.1, 0.0])}, "device 0 has q_cal -0.1"),
        ({"efc": np.array([0.0, -1.0])}, "device 1 has efc -1"),
        ({"soh_frac_initial": float("nan")}, "device 0 has soh_frac_initial nan"),
    ],
)
def test_wrong_input_is_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"kind_codes": [1, 2], "dt_s": HOUR_S, "soc_frac": 0.5, "temp_c": 25.0} | REST
    right |= dict(zip(("q_cal", "q_cyc", "efc"), new(2), strict=True))
    assert advance(**right)[3].shape == (2,)
    with pytest.raises(InvariantError, match=message):
        advance(**right | wrong)


def test_kinds_have_their_codes() -> None:
    assert [KIND[code] for code in (NONE, LFP, NMC)] == ["none", "lfp", "nmc"]
