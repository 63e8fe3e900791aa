"""What a device can be relied on for: what its profile and its surroundings come to for a promise.

Rules of this file: bounds, not equations: each holds whatever the plant does within the scenario.  The judge
does not use this file: it reads the numbers in run.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from ridethrough.emulator.cells import CHARGE_LIMIT_C, CHEMISTRIES, DISCHARGE_LIMIT_C, Pieces
from ridethrough.emulator.params import J_PER_WH
from ridethrough.emulator.profile import DeviceProfile

HOURS_PER_MONTH: Final = 720.0
"""A month of self-discharge is 30 days."""

RESTING_SOC_FRAC: Final = 0.001
"""Self-discharge may take a resting battery this far below its window within a scenario [1]."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """Bounds on one device.

    Attributes
    ----------
    soc_frac_floor : float
        Below it a promise cannot be served in full: the weakest cell is empty, or parts of the panel are
        shed [1].
    ohm_per_w_max : float
        Ohmic loss of the cells over their squared DC power, at the lowest voltage of the window [1/W].
    self_discharge_frac_per_h : float
        Of what is stored [1/h].
    power_w_discharge_sure, power_w_charge_sure : float
        What remains of the ratings at this warmth, with the most reactive power, and in an island with the
        reactive demand of the load; the taper near full comes on top [W].
    """

    soc_frac_floor: float
    ohm_per_w_max: float
    self_discharge_frac_per_h: float
    power_w_discharge_sure: float
    power_w_charge_sure: float


def abilities(profile: DeviceProfile, *, ambient_c: float, load_var_per_w: float) -> Abilities:
    """Return what a device can be relied on for.

    Parameters
    ----------
    profile : DeviceProfile
    ambient_c : float
        Around the battery, all the time [°C].
    load_var_per_w : float
        Reactive demand of the home's load [var/W].
    """
    battery, inverter = profile.battery, profile.inverter
    tiers_frac = [tier.soc_frac for tier in profile.island.shed]
    ohm_per_w_max = _ohm_per_w_max(profile)
    warmest_c = ambient_c + _rise_k(profile, ohm_per_w_max)
    island_w = inverter.power_w_surge / math.hypot(1.0, load_var_per_w)
    discharge_w, charge_w = inverter.power_w_discharge_max, inverter.power_w_charge_max
    return Abilities(
        soc_frac_floor=max(battery.soc_frac_min + battery.imbalance_frac, *tiers_frac, 0.0),
        ohm_per_w_max=ohm_per_w_max,
        self_discharge_frac_per_h=battery.self_discharge_frac_per_month / HOURS_PER_MONTH,
        power_w_discharge_sure=min(
            discharge_w, island_w, _warmth_w(profile, DISCHARGE_LIMIT_C, ambient_c, warmest_c)
        ),
        power_w_charge_sure=min(
            charge_w, _beside_var_w(profile), _warmth_w(profile, CHARGE_LIMIT_C, ambient_c, warmest_c)
        ),
    )


def _ohm_per_w_max(profile: DeviceProfile) -> float:
    """Loss goes with the inverse square of the voltage, which only falls with the state of charge."""
    battery = profile.battery
    cells = CHEMISTRIES[battery.chemistry]
    lowest = np.array([max(battery.soc_frac_min - RESTING_SOC_FRAC, 0.0)])
    ocv_frac = float(cells.ocv_compact.at(lowest)[0]) / cells.ocv_v_mean
    return battery.ohmic_frac_per_c / battery.energy_wh / (ocv_frac * ocv_frac)


def _rise_k(profile: DeviceProfile, ohm_per_w_max: float) -> float:
    """Return the greatest rise of the cells above ambient [K].

    What a battery comes to that is emptied and filled at its ratings, without cooling, or what the rating
    comes to in the long run with it, whichever is less.  Who cycles a battery harder warms it more; surges
    are too short to.
    """
    battery, inverter = profile.battery, profile.inverter
    lost_w = inverter.loss_a_w + inverter.loss_b_w + inverter.loss_c_w + inverter.standby_w
    battery_w = max(inverter.power_w_discharge_max + lost_w, inverter.power_w_charge_max)
    heat_j = 2.0 * ohm_per_w_max * battery_w * battery.energy_wh * J_PER_WH
    lasting_k = ohm_per_w_max * battery_w * battery_w / battery.cooling_w_per_k
    return min(heat_j / battery.heat_capacity_j_per_k, lasting_k)


def _warmth_w(profile: DeviceProfile, limit: Pieces, coldest_c: float, warmest_c: float) -> float:
    """Return what the cells take or give anywhere between two temperatures [W].

    The curves rise, are level and fall, so that the least value lies at an end.
    """
    battery = profile.battery
    if not battery.temperature_limits:
        return math.inf
    least_c_rate = float(limit.at(np.array([coldest_c, warmest_c])).min())
    return max(least_c_rate, 0.0) * battery.energy_wh * battery.c_rate_share


def _beside_var_w(profile: DeviceProfile) -> float:
    """Return the active power that the circle of apparent power leaves beside the most reactive power [W]."""
    inverter = profile.inverter
    apparent_va = inverter.apparent_va_max or max(inverter.power_w_discharge_max, inverter.power_w_charge_max)
    acts = profile.grid.function != "power_factor"
    var_frac = max(inverter.var_frac_inject, inverter.var_frac_absorb) if acts else 0.0
    return apparent_va * math.sqrt(max(1.0 - var_frac * var_frac, 0.0))
