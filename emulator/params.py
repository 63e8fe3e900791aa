"""What a device profile comes to in the numbers of one step: `fields.PARAM`."""

from __future__ import annotations

import math
from typing import Final

from .errors import InvariantError
from .exact import exp
from .fields import CHEMISTRY, PARAM, PV_KIND, REVERT, TICKS_PER_S
from .profile import Battery, DeviceProfile, Inverter, Island

J_PER_WH: Final = 3600.0
MONTH_S: Final = 30.0 * 86_400.0
DAY_S: Final = 86_400.0
NEVER: Final = 1e30
"""Stands for no limit where a parameter needs a finite number."""
WITH_CAPACITY: Final = tuple(name for name in PARAM if "_j" in name and "_per_j" not in name)
"""Energies: they shrink with the capacity of an ageing battery."""


def ticks(duration_s: float) -> float:
    """Return a duration in whole ticks, the nearest."""
    return float(round(duration_s * TICKS_PER_S))


def params_of(
    profile: DeviceProfile, *, soh_frac: float, backup_frac: float, load_var_per_w: float, slow_s: float
) -> dict[str, float]:
    """Return the value of every field of `fields.PARAM` for one device.

    Parameters
    ----------
    profile : DeviceProfile
    soh_frac : float
        Faded over nominal capacity [1].
    backup_frac : float
        Share of the load behind the backup panel [1].
    load_var_per_w : float
        Reactive demand of the load [var/W].
    slow_s : float
        Period of the slow stage [s].
    """
    control, grid = profile.control, profile.grid
    capacity_j = profile.battery.energy_wh * soh_frac * J_PER_WH
    values = {
        **_battery(profile.battery, capacity_j, slow_s),
        **_inverter(profile.inverter),
        **_island(profile, capacity_j),
        "events_max": NEVER if grid.events_max is None else float(grid.events_max),
        "events_ticks": ticks(grid.events_s),
        "rocof_hz_per_s_max": NEVER if grid.rocof_hz_per_s_max is None else grid.rocof_hz_per_s_max,
        "restore_ticks": ticks(grid.restore_s),
        "hz_nominal": float(profile.face.frequency_hz),
        "revert_mode": float(REVERT.index(control.revert_state)),
        "power_w_recharge": control.power_w_recharge,
        "recharge_band_frac": control.recharge_band_frac,
        "has_reserve": float(control.has_reserve),
        "backup_frac": backup_frac,
        "load_var_per_w": load_var_per_w,
    }
    if set(values) != set(PARAM):
        raise InvariantError(f"parameters and their fields disagree: {set(values) ^ set(PARAM)}")
    return values


def _battery(battery: Battery, capacity_j: float, slow_s: float) -> dict[str, float]:
    energy_wh, taper = battery.energy_wh, battery.taper_soc_frac
    tapered_j = (1.0 - taper) * capacity_j
    return {
        "capacity_j": capacity_j,
        "energy_j_min": capacity_j * battery.soc_frac_min,
        "energy_j_max": capacity_j * battery.soc_frac_max,
        # Above the floor of the weakest cell, or an island would end in its first step, again and again.
        "energy_j_restart": capacity_j
        * min(battery.soc_frac_restart + battery.imbalance_frac, battery.soc_frac_max),
        "taper_j": capacity_j * taper,
        "taper_per_j": (1.0 - battery.taper_frac_min) / tapered_j if tapered_j > 0.0 else 0.0,
        "taper_frac_min": battery.taper_frac_min,
        "chemistry": float(CHEMISTRY.index(battery.chemistry)),
        "ohm_per_w": battery.ohmic_frac_per_c / energy_wh,
        "c_rate_limited": float(battery.temperature_limits),
        "charge_w_per_c_rate": energy_wh * battery.c_rate_share,
        "thermal_k_per_w": 1.0 / battery.cooling_w_per_k,
        "thermal_gain": 1.0 - exp(-slow_s * battery.cooling_w_per_k / battery.heat_capacity_j_per_k),
        "self_discharge_per_s": battery.self_discharge_frac_per_month / MONTH_S,
        "soc_drift_per_s": battery.soc_drift_frac_per_day / DAY_S,
        "soc_error_frac_max": max(battery.soc_error_frac_max, abs(battery.soc_error_frac)),
        "imbalance_frac": battery.imbalance_frac,
    }


def _inverter(inverter: Inverter) -> dict[str, float]:
    nominal_w = inverter.power_w_discharge_max
    apparent_va = inverter.apparent_va_max or max(nominal_w, inverter.power_w_charge_max)
    a, b, c = inverter.loss_a_w / (nominal_w * nominal_w), inverter.loss_b_w / nominal_w, inverter.loss_c_w
    # IEEE 1547-2018, table 7: nothing is promised below 5 % of the rating, everything from 20 %.
    everywhere = inverter.var_at_no_power
    return {
        "power_w_discharge_max": nominal_w,
        "power_w_charge_max": inverter.power_w_charge_max,
        "power_w_surge": inverter.power_w_surge,
        "surge_ticks": ticks(inverter.surge_s),
        "ramp_w_per_s": inverter.ramp_w_per_s,
        "apparent_va_max": apparent_va,
        "var_max_inject": inverter.var_frac_inject * apparent_va,
        "var_max_absorb": inverter.var_frac_absorb * apparent_va,
        "var_power_w_none": -1.0 if everywhere else 0.05 * nominal_w,
        "var_per_w": 1.0 if everywhere else 1.0 / (0.15 * nominal_w),
        "loss_a_per_w": a,
        "loss_b_frac": b,
        "loss_c_w": c,
        "charge_w_start": _charge_w_start(a, b, c),
        "standby_w": inverter.standby_w,
    }


def _charge_w_start(a: float, b: float, c: float) -> float:
    """Return the least power that exceeds its own loss, the lesser root of ``a·P² + (b - 1)·P + c`` [W]."""
    inner = (1.0 - b) * (1.0 - b) - 4.0 * a * c
    if b >= 1.0 or inner < 0.0:
        return NEVER
    return 2.0 * c / ((1.0 - b) + math.sqrt(inner))


def _island(profile: DeviceProfile, capacity_j: float) -> dict[str, float]:
    island: Island = profile.island
    hz, rating_w = float(profile.face.frequency_hz), profile.inverter.power_w_discharge_max
    apparent_va = profile.inverter.apparent_va_max or max(rating_w, profile.inverter.power_w_charge_max)
    tiers = [(tier.frac, tier.soc_frac * capacity_j) for tier in island.shed]
    tiers += [(0.0, 0.0)] * (3 - len(tiers))
    return {
        "can_island": float(island.capable),
        "detect_ticks": ticks(island.detect_s),
        "transfer_ticks": ticks(profile.transfer_s),
        "sync_ticks": ticks(island.sync_s),
        "break_ticks": ticks(island.break_s),
        "restart_ticks": ticks(island.restart_s),
        "restart_growth": island.restart_growth,
        "restart_ticks_max": max(ticks(island.restart_s_max), ticks(island.restart_s)),
        "pv_return_ticks": ticks(island.pv_return_s),
        "pv_kind": float(PV_KIND.index(island.pv)),
        "pv_trip_hz": island.pv_trip_hz_above,
        "shift_hz": island.shift_hz_above,
        "shift_j_on": island.shift_soc_frac_on * capacity_j,
        "shift_j_off": island.shift_soc_frac_off * capacity_j,
        "droop_hz_per_w": island.droop_frac * hz / rating_w,
        "droop_pu_per_var": island.voltage_droop_frac / apparent_va,
        "shed_frac_1": tiers[0][0],
        "shed_frac_2": tiers[1][0],
        "shed_frac_3": tiers[2][0],
        "shed_j_1": tiers[0][1],
        "shed_j_2": tiers[1][1],
        "shed_j_3": tiers[2][1],
        "shed_j_band": 0.05 * capacity_j,
        "shed_ticks": ticks(island.shed_overload_s),
        "unshed_ticks": ticks(island.restore_s),
        "cancels_grants": float(island.cancels_grants),
    }
