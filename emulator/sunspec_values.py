"""Numbers behind the SunSpec points: constants of a profile, largest values, and what may be written.

Rules of this file: as sunspec.py; every name here is one that its tables use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from .cells import CHEMISTRIES
from .grid_settings import Ratings, ratings
from .model.ride import CONTINUOUS_PU
from .profile import PV_STRINGS_MAX, DeviceProfile
from .sunspec_grid import U16_MAX, U32_MAX, settings_points

LOAD_W_BESIDE: Final = 20_000.0
"""The meter carries the device's own power and this much more [W]; assumed, the load of a large house."""

PV_W_PER_RATING: Final = 2.0
"""PV of a hybrid over its own rating, at most; assumed, above it the registers read as unknown."""

DAYS_PER_MONTH: Final = 30.0

NUMBERS: Final = 7
"""Plain numbers that points show run from 0 to below this: counts of groups, identifiers, enumerations."""

CONTROL_MODES: Final[Mapping[int, int]] = {
    704: 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3,  # MAX_W, FIXED_W, FIXED_VAR, FIXED_PF
    705: 1 << 4,  # VOLT_VAR
    706: 1 << 10,  # VOLT_WATT
    707: 1 << 7,  # LV_TRIP
    708: 1 << 8,  # HV_TRIP
    709: 1 << 12,  # LF_TRIP
    710: 1 << 13,  # HF_TRIP
    711: 1 << 5,  # FREQ_WATT
    712: 1 << 9,  # WATT_VAR
}
"""Bits of 702.CtrlModes, by the model that serves the function: what a client can find and set."""


def constants(profile: DeviceProfile) -> dict[str, float | str]:
    """Return every constant of a profile by quantity name."""
    battery, inverter, face, rated = profile.battery, profile.inverter, profile.face, ratings(profile)
    rated_w, cell_v = rated.discharge_w, CHEMISTRIES[battery.chemistry].ocv_v_mean
    return {
        "zero": 0.0,
        **{f"number_{k}": float(k) for k in range(NUMBERS)},
        "no_wait_s": 0.0,
        "battery_alarm_reset": 0.0,  # a reset is complete at once
        "manufacturer": face.manufacturer,
        "model_name": face.model,
        "version": "1",
        "serial_number": "",  # the image fills it in, one per device
        "der_type": 82.0,  # PV_STOR; model 120 knows no storage-only type
        "ac_type": 2.0 if face.phases == 3 else 0.0,  # THREE_PHASE, SINGLE_PHASE
        "power_w_discharge_max": rated_w,
        "power_w_charge_max": inverter.power_w_charge_max,
        "apparent_va_max": rated.apparent_va,
        **_reactive(rated),
        "current_a_max": rated.apparent_va / face.voltage_v,
        "energy_wh_rated": battery.energy_wh,
        "charge_ah_rated": battery.energy_wh / battery.voltage_v_nominal,
        "soc_frac_max": battery.soc_frac_max,
        "soc_frac_min": battery.soc_frac_min,
        "self_discharge_frac_per_day": battery.self_discharge_frac_per_month / DAYS_PER_MONTH,
        "cells": float(max(1, round(battery.voltage_v_nominal / cell_v))),
        "ports": 1.0 + face.pv_strings,
        "pv_strings": float(face.pv_strings),
        "battery_name": "Battery",
        **{f"pv_name_{k}": f"PV {k}" for k in range(1, PV_STRINGS_MAX + 1)},
        "battery_type": 4.0,  # LITHIUM_ION
        "voltage_v_nominal": face.voltage_v,
        "voltage_v_max": CONTINUOUS_PU[1] * face.voltage_v,
        "voltage_v_min": CONTINUOUS_PU[0] * face.voltage_v,
        "normal_category": float("AB".index(profile.grid.normal)),
        "abnormal_category": len(profile.grid.abnormal) - 1.0,
        "frequency_hz_nominal": float(face.frequency_hz),
        "ramp_frac_per_s": inverter.ramp_w_per_s / rated_w,
        "charge_ramp_frac_per_s": inverter.ramp_w_per_s / inverter.power_w_charge_max,
        "ramp_reference": 1.0,  # W_MAX
        "anti_islanding": 1.0,
        "charge_from_grid": 1.0,
        "control_modes": float(sum(bits for model, bits in CONTROL_MODES.items() if model in face.models)),
        "island_categories": float(_island_categories(profile)),
    }


def _reactive(rated: Ratings) -> dict[str, float]:
    """Return the reactive ratings, and what is left of the active one beside each (702.WOvrExtRtg)."""
    values = {
        "var_max_inject": rated.inject_var,
        "var_max_absorb": rated.absorb_var,
        "var_absorb_negative": -rated.absorb_var,  # model 120 signs its quadrants
    }
    for side, var in (("over", rated.inject_var), ("under", rated.absorb_var)):
        power_w = min(rated.discharge_w, math.sqrt(rated.apparent_va**2 - var**2))
        factor = power_w / math.hypot(power_w, var) if power_w > 0.0 else 0.0
        values |= {f"power_w_{side}": power_w, f"power_factor_{side}": factor}
        values[f"power_factor_{side}_negative"] = -factor  # model 120 again, by the EEI convention
    return values


def _island_categories(profile: DeviceProfile) -> int:
    """Return the bits of 702.IntIslandCat."""
    if not profile.island.capable:
        return 1 << 0  # UNCATEGORIZED
    # INT_ISL_CAPABLE, and ISOCH_CAPABLE without droop; a black start is not claimed.
    return 1 << 1 | (1 << 3 if profile.island.droop_frac == 0.0 else 0)


def bounds(profile: DeviceProfile) -> dict[str, float]:
    """Return the largest size each dynamic quantity can take; it must fit its register.

    Quantities that are not named are flags, enumerations and counters, which have no scale factor.
    """
    inverter, face, rated = profile.inverter, profile.face, ratings(profile)
    power_w = max(inverter.power_w_surge, inverter.power_w_charge_max)
    apparent_va = max(power_w, rated.apparent_va)
    loss_w = inverter.loss_a_w * (power_w / inverter.power_w_discharge_max) ** 2 + inverter.loss_c_w
    battery_w = power_w + loss_w + inverter.loss_b_w * power_w / inverter.power_w_discharge_max
    battery_w += inverter.standby_w
    battery_v = 2.0 * profile.battery.voltage_v_nominal  # full cells and the rise while they charge
    battery_a = battery_w / (0.5 * profile.battery.voltage_v_nominal)  # empty cells
    pv_w = PV_W_PER_RATING * power_w
    import_w = power_w + LOAD_W_BESIDE
    voltage_v = 1.3 * face.voltage_v  # above the highest must-trip limit, 1.20 pu
    lowest_v = 0.8 * face.voltage_v  # below this a current may not fit, and then reads as unknown
    return {
        "power_w": power_w,
        "power_w_phase": power_w,
        "reactive_var": apparent_va,
        "reactive_var_phase": apparent_va,
        "apparent_va": apparent_va,
        "apparent_va_phase": apparent_va,
        "power_factor": 1.0,
        "cabinet_c": 200.0,
        "current_a": apparent_va / lowest_v,
        "current_a_phase": apparent_va / lowest_v,
        "voltage_v": voltage_v,
        "voltage_v_line": voltage_v * math.sqrt(3.0),
        "frequency_hz": 1.1 * face.frequency_hz,
        "discharge_wh": 4e9,
        "charge_wh": 4e9,
        "battery_w": battery_w,
        "battery_v": battery_v,
        "battery_a": battery_a,
        "charge_a_max": battery_a,
        "discharge_a_max": battery_a,
        "cell_v": 5.0,
        "cell_c": 200.0,
        "ports_w": battery_w + (pv_w if face.pv_strings else 0.0),
        "pv_string_w": pv_w,
        "pv_string_wh": 4e9,
        "volt_var_ref_pu": 2.0,
        "energy_wh": profile.battery.energy_wh,
        "soc_frac": 1.0,
        "soh_frac": 1.0,
        "set_w": max(inverter.power_w_discharge_max, inverter.power_w_charge_max),
        "set_rvrt_w": max(inverter.power_w_discharge_max, inverter.power_w_charge_max),
        "set_frac": max(1.0, inverter.power_w_charge_max / inverter.power_w_discharge_max),
        "set_rvrt_frac": max(1.0, inverter.power_w_charge_max / inverter.power_w_discharge_max),
        "limit_frac": 1.0,
        "limit_rvrt_frac": 1.0,
        "window_in_frac": 1.0,
        "window_out_frac": 1.0,
        "reserve_frac": 1.0,
        "import_w": import_w,
        "import_w_phase": import_w,
        "import_var": import_w,
        "meter_va": import_w,
        "meter_power_factor": 1.0,
        "meter_a": import_w / lowest_v,
        "meter_a_phase": import_w / lowest_v,
        "grid_v": voltage_v,
        "grid_v_line": voltage_v * math.sqrt(3.0),
        "grid_hz": 1.1 * face.frequency_hz,
        "import_wh": 4e9,
        "export_wh": 4e9,
        **{name: max(abs(low), abs(high)) for name, ((low, high), _) in _settings(profile).items()},
    }


def _settings(profile: DeviceProfile) -> dict[str, tuple[tuple[float, float], bool]]:
    """Return the settings of sunspec_grid.py by quantity name."""
    return {
        f"{model}.{name}": spec
        for model in profile.face.models
        for name, spec in settings_points(profile, model).items()
    }


def writable(profile: DeviceProfile) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest value each writable quantity takes."""
    charge_w, rated_w = profile.inverter.power_w_charge_max, profile.inverter.power_w_discharge_max
    return {
        "permit": (0.0, 1.0),
        "permit_old": (0.0, 1.0),
        "permit_rvrt_s": (0.0, U16_MAX),
        "operation": (0.0, 3.0),
        "alarm_reset": (0.0, 1.0),
        "set_ena": (0.0, 1.0),
        "set_mode": (0.0, 1.0),
        "set_w": (-charge_w, rated_w),
        "set_rvrt_w": (-charge_w, rated_w),
        "set_frac": (-charge_w / rated_w, 1.0),
        "set_rvrt_frac": (-charge_w / rated_w, 1.0),
        "set_rvrt_ena": (0.0, 1.0),
        "set_rvrt_s": (0.0, U32_MAX),
        "limit_ena": (0.0, 1.0),
        "limit_frac": (0.0, 1.0),
        "limit_rvrt_ena": (0.0, 1.0),
        "limit_rvrt_frac": (0.0, 1.0),
        "limit_rvrt_s": (0.0, U32_MAX),
        "window_mode": (0.0, 3.0),
        "window_in_frac": (-1.0, 1.0),
        "window_out_frac": (-1.0, 1.0),
        "window_rvrt_s": (0.0, U16_MAX),
        "no_wait_s": (0.0, 0.0),
        "charge_from_grid": (1.0, 1.0),
        "reserve_frac": (0.0, 1.0),
        "controller_heartbeat": (0.0, U32_MAX),
        "battery_controller_heartbeat": (0.0, U16_MAX),
        "battery_alarm_reset": (0.0, 1.0),
        "battery_operation": (1.0, 2.0),
        "battery_inverter_state": (1.0, 3.0),
        **{name: span for name, (span, may_write) in _settings(profile).items() if may_write},
    }
