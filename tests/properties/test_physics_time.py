"""What hours and days keep: balances of the meters, and little change with the length of a step."""

from __future__ import annotations

import numpy as np
import pytest
from ridethrough.emulator.fields import CONTROL, INPUT, STATE, TICKS_PER_S
from ridethrough.emulator.plant import Floats, Plant
from ridethrough.emulator.profile import DeviceProfile

from tests.properties.physics import BALANCE, METERS
from tests.strategies import home, randomize

DEVICES = 48
WORLD = tuple(name for name in INPUT if name not in ("grid_held", "community", "share_w", "share_var"))
CALM = tuple(name for name in (*INPUT, *CONTROL) if name in ("load_w", "pv_w_available", "ambient_c"))
EVENTS = (*WORLD, *CONTROL)
HOUR = 3600 * TICKS_PER_S


def kinds(rng: np.random.Generator, *, ramp_w_per_s: float) -> list[DeviceProfile]:
    """Return 48 homes of all behaviours, with delays of a minute and ramps of this speed or faster."""
    return [
        home(
            battery={
                "chemistry": str(rng.choice(["lfp", "nmc"])),
                "ohmic_frac_per_c": float(rng.uniform(0.0, 0.05)),
                "temperature_limits": bool(rng.integers(2)),
                "c_rate_share": 3.0,
                "self_discharge_frac_per_month": 0.03,
                "taper_soc_frac": float(rng.uniform(0.7, 0.95)),
                "taper_frac_min": 0.1,
                "soc_error_frac": float(rng.uniform(-0.05, 0.05)),
                "soc_drift_frac_per_day": float(rng.uniform(-0.01, 0.01)),
                "soc_error_frac_max": 0.05,
                "imbalance_frac": 0.01,
            },
            inverter={
                "ramp_w_per_s": float(rng.uniform(ramp_w_per_s, 5000.0)),
                "enter_delay_s": 60.0,
                "enter_ramp_s": 60.0,
            },
            island={
                "transfer": str(rng.choice(["ups", "fast", "slow", "dark"])),
                "pv": str(rng.choice(["commanded", "droop", "trips"])),
                "sync_s": 5.0,
                "break_s": float(rng.choice([0.0, 2.0])),
                "restart_growth": 2.0,
                "shed": [{"frac": 0.3, "soc_frac": 0.4}, {"frac": 0.2, "soc_frac": 0.2}],
            },
            control={"revert_state": revert, "has_reserve": bool(rng.integers(2)) or revert == "recharge"},
            grid={
                "function": str(rng.choice(["power_factor", "volt_var", "watt_var"])),
                "volt_watt": bool(rng.integers(2)),
            },
        )
        for revert in ("idle", "self_consumption", "recharge")
        for _ in range(DEVICES // 3)
    ]


def live(
    seed: int,
    *,
    chunk: int = 600 * TICKS_PER_S,
    step_s: float = 1.0,
    seconds: int = 3600,
    span_s: int = 600,
    names: tuple[str, ...] = EVENTS,
    ramp_w_per_s: float = 100.0,
) -> tuple[Plant, Floats]:
    """Live some hours with 48 homes, a new world every span; returns the plant and its first energies.

    Calls of less than a second, `chunk` ticks each, step 20 ms.
    """
    rng = np.random.default_rng(seed)
    plant = Plant(
        kinds(rng, ramp_w_per_s=ramp_w_per_s),
        soc_frac=rng.uniform(0.05, 1.0, DEVICES),
        backup_frac=rng.uniform(0.2, 1.0, DEVICES),
        load_var_per_w=rng.uniform(-0.2, 0.4, DEVICES),
        step_s=step_s,
    )
    energy_j = plant.states("energy_j")
    for _ in range(seconds // span_s):
        randomize(plant, rng, names=names)
        plant.set_input("load_w", np.minimum(plant.inputs("load_w"), 4500.0))
        left = span_s * TICKS_PER_S
        while left:
            plant.advance(min(chunk, left))
            left -= min(chunk, left)
    return plant, energy_j


def residuals_w(plant: Plant, energy_j: Floats) -> tuple[Floats, Floats]:
    """AC and battery balance of the meters since the start, as mean power [W]."""
    flow_j = {name: plant.states(name) for name in METERS}
    out_j = flow_j["discharge_j"] - flow_j["charge_j"]
    ac_j = flow_j["import_j"] - flow_j["export_j"] + flow_j["pv_j"] + out_j - flow_j["served_j"]
    lost_j = flow_j["loss_j"] + flow_j["ohm_j"] + flow_j["self_j"] + flow_j["standby_j"]
    dc_j = energy_j - plant.states("energy_j") - out_j - lost_j
    seconds = plant.states("elapsed_ticks") / TICKS_PER_S
    return ac_j / seconds, dc_j / seconds


@pytest.mark.parametrize("chunk", [600 * TICKS_PER_S, 48], ids=["1s", "20ms"])
@pytest.mark.parametrize("seed", [3, 4])
def test_meters_of_an_hour_balance(seed: int, chunk: int) -> None:
    plant, energy_j = live(seed, chunk=chunk)
    for residual_w in residuals_w(plant, energy_j):
        assert np.all(np.abs(residual_w) <= BALANCE * plant.params("power_w_discharge_max"))
    assert np.all(plant.states("elapsed_ticks") == HOUR)
    assert np.all(plant.states("dead_import_w_high") == 0.0)


@pytest.mark.parametrize(("seed", "step_s", "names"), [(3, 1.0, EVENTS), (4, 60.0, CALM), (5, 900.0, CALM)])
def test_meters_of_a_day_balance(seed: int, step_s: float, names: tuple[str, ...]) -> None:
    plant, energy_j = live(seed, chunk=HOUR, step_s=step_s, seconds=86_400, span_s=3600, names=names)
    for residual_w in residuals_w(plant, energy_j):
        assert np.all(np.abs(residual_w) <= BALANCE * plant.params("power_w_discharge_max"))
    assert np.all(plant.states("ohm_j") >= 0.0)
    assert np.any(plant.states("self_j") > 1000.0)


@pytest.mark.parametrize(
    "meter",
    ["import_j", "export_j", "pv_j", "served_j", "loss_j", "ohm_j", "self_j", "standby_j", "charge_j"],
)
def test_the_hourly_balance_sees_a_meter_that_is_off_by_a_joule(meter: str) -> None:
    plant, energy_j = live(3)
    plant.state[0, STATE.index(meter), 0] += 1.0
    worst = max(float(np.max(np.abs(r))) for r in residuals_w(plant, energy_j))
    assert worst > BALANCE * 5000.0


def apart(a: Plant, b: Plant) -> dict[str, float]:
    """Greatest difference of each meter, of rating times the time that has passed."""
    scale_j = a.params("power_w_discharge_max") * a.states("elapsed_ticks") / TICKS_PER_S
    return {name: float(np.max(np.abs(a.states(name) - b.states(name)) / scale_j)) for name in METERS}


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_hourly_energies_barely_depend_on_the_step(seed: int) -> None:
    coarse, fine = (live(seed, chunk=chunk)[0] for chunk in (600 * TICKS_PER_S, 48))
    difference = apart(coarse, fine)
    assert max(difference.values()) < 1e-3, difference
    assert max(difference.values()) > 0.0  # the two paths are two paths


@pytest.mark.parametrize("seed", [8, 9])
def test_calm_days_barely_depend_on_steps_of_a_minute(seed: int) -> None:
    """A minute cannot show a ramp of seconds; so ramps are fast here.

    Where a battery becomes full or empty within a minute, the minute spreads over itself what seconds show as
    a burst and nothing: each such event may exchange a minute of power with the grid more, or less.
    """

    def day(step_s: float) -> Plant:
        return live(
            seed, chunk=HOUR, step_s=step_s, seconds=86_400, span_s=3600, names=CALM, ramp_w_per_s=2000.0
        )[0]

    minute, second = day(60.0), day(1.0)
    difference = apart(minute, second)
    turnover = {name: difference.pop(name) for name in ("import_j", "export_j")}
    assert max(difference.values()) < 1e-3, difference
    assert 0.0 < max(turnover.values()) < 3e-3, turnover


def test_halving_the_step_halves_the_difference() -> None:
    """First order in the length of the step: what one minute gets wrong, half a minute gets half wrong."""
    second, *others = (
        live(11, chunk=HOUR, step_s=step_s, seconds=4 * 3600, span_s=3600, names=CALM)[0]
        for step_s in (1.0, 15.0, 30.0, 60.0)
    )
    off = [sum(apart(other, second).values()) for other in others]
    assert off[0] < off[1] < off[2]
    assert off[2] / off[0] > 2.0


def test_a_comparison_of_steps_sees_one_watt() -> None:
    a, b = live(5)[0], live(5)[0]
    assert max(apart(a, b).values()) == 0.0
    b.state[0, STATE.index("import_j"), 0] += 3600.0 * 10.0
    assert max(apart(a, b).values()) > 1e-3
