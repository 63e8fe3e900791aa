"""Which SunSpec points a device serves, and from what.

Duty: tables.  One says, model by model, which point shows which quantity; the others give the constants of a
profile, the largest value a quantity can take, and what may be written.  A point that is not named here is
served as "not implemented".

Rules of this file: no addresses, no bytes, no scale factors (layout.py finds those).  A name stands for one
quantity in one unit everywhere; what SunSpec gives in percent is a fraction here.  A name is either a
constant of the profile (`constants`) or a dynamic quantity (`_registers.quantity_names`), never both.

Choices that a client may notice:

- Power factor is 1 with the sign of the active power; reactive power is 0: the plant has none.
- Ratings that SunSpec lets a client change (702.WMax, 124.WChaMax, 121.*) are served, but read-only.
- Window and ramp times of 123 and 124 are 0 and accept only 0: a setting takes effect at once.
- 124.ChaGriSet is GRID and accepts only GRID: charging from PV alone is not modelled.
- 704.WSet* keeps watts and percent apart, as written; WSetMod says which of the two is in force.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from .profile import DeviceProfile

Names = Mapping[str, str]

U16_MAX: Final = 0xFFFE
U32_MAX: Final = 0xFFFFFFFE
"""Largest values: all ones mean "not implemented"."""

LOAD_W_BESIDE: Final = 20_000.0
"""The meter carries the device's own power and this much more [W]; assumed, the load of a large house."""

_COMMON: Final[Names] = {
    "Mn": "manufacturer",
    "Md": "model_name",
    "Vr": "version",
    "SN": "serial_number",
}

_INVERTER: Final[Names] = {
    "A": "current_a",
    "AphA": "current_a_phase",
    "PhVphA": "voltage_v",
    "W": "power_w",
    "Hz": "frequency_hz",
    "VA": "apparent_va",
    "VAr": "zero",
    "PF": "power_factor",
    "WH": "discharge_wh",
    "DCW": "battery_w",
    "St": "inverter_state_old",
    "Evt1": "alarms",
    "Evt2": "zero",
}

_INVERTER_3: Final[Names] = {
    "AphB": "current_a_phase",
    "AphC": "current_a_phase",
    "PhVphB": "voltage_v",
    "PhVphC": "voltage_v",
    "PPVphAB": "voltage_v_line",
    "PPVphBC": "voltage_v_line",
    "PPVphCA": "voltage_v_line",
}

_METER: Final[Names] = {
    "A": "meter_a",
    "AphA": "meter_a_phase",
    "PhV": "grid_v",
    "PhVphA": "grid_v",
    "Hz": "grid_hz",
    "W": "import_w",
    "WphA": "import_w_phase",
    "VA": "meter_va",
    "VAR": "zero",
    "PF": "meter_power_factor",
    "TotWhExp": "export_wh",
    "TotWhImp": "import_wh",
    "Evt": "meter_events",
}

_METER_3: Final[Names] = {
    "AphB": "meter_a_phase",
    "AphC": "meter_a_phase",
    "PhVphB": "grid_v",
    "PhVphC": "grid_v",
    "PPV": "grid_v_line",
    "PhVphAB": "grid_v_line",
    "PhVphBC": "grid_v_line",
    "PhVphCA": "grid_v_line",
    "WphB": "import_w_phase",
    "WphC": "import_w_phase",
}

_DER_PHASE: Final[Mapping[int, Names]] = {
    k: {
        f"WL{k}": "power_w_phase",
        f"VAL{k}": "apparent_va_phase",
        f"VarL{k}": "zero",
        f"PFL{k}": "power_factor",
        f"AL{k}": "current_a_phase",
        f"VL{k}": "voltage_v",
    }
    for k in (1, 2, 3)
}

_DER_MEASURED: Final[Names] = {
    **_DER_PHASE[1],
    "ACType": "ac_type",
    "St": "operating",
    "InvSt": "inverter_state",
    "ConnSt": "grid_connected",
    "Alrm": "alarms",
    "DERMode": "der_mode",
    "W": "power_w",
    "VA": "apparent_va",
    "Var": "zero",
    "PF": "power_factor",
    "A": "current_a",
    "LNV": "voltage_v",
    "Hz": "frequency_hz",
    "TotWhInj": "discharge_wh",
    "TotWhAbs": "charge_wh",
}

_DER_MEASURED_3: Final[Names] = {
    "LLV": "voltage_v_line",
    "VL1L2": "voltage_v_line",
    "VL2L3": "voltage_v_line",
    "VL3L1": "voltage_v_line",
    **_DER_PHASE[2],
    **_DER_PHASE[3],
}

_NAMEPLATE: Final[Names] = {
    "DERTyp": "der_type",
    "WRtg": "power_w_discharge_max",
    "VARtg": "apparent_va_max",
    "VArRtgQ1": "zero",
    "VArRtgQ2": "zero",
    "VArRtgQ3": "zero",
    "VArRtgQ4": "zero",
    "ARtg": "current_a_max",
    "PFRtgQ1": "unity",
    "PFRtgQ2": "unity",
    "PFRtgQ3": "unity",
    "PFRtgQ4": "unity",
    "WHRtg": "energy_wh_rated",
    "AhrRtg": "charge_ah_rated",
    "MaxChaRte": "power_w_charge_max",
    "MaxDisChaRte": "power_w_discharge_max",
}

_SETTINGS: Final[Names] = {
    "WMax": "power_w_discharge_max",
    "VRef": "voltage_v_nominal",
    "VRefOfs": "zero",
    "VAMax": "apparent_va_max",
    "WGra": "ramp_frac_per_s",
    "ECPNomHz": "frequency_hz_nominal",
}

_STATUS: Final[Names] = {
    "PVConn": "pv_connection",
    "StorConn": "storage_connection",
    "ECPConn": "grid_connected",
    "ActWh": "discharge_wh",
    "StActCtl": "active_controls",
}

_IMMEDIATE: Final[Names] = {
    "Conn_WinTms": "no_wait_s",
    "Conn_RvrtTms": "permit_rvrt_s",
    "Conn": "permit_old",
    "WMaxLimPct": "limit_frac",
    "WMaxLimPct_WinTms": "no_wait_s",
    "WMaxLimPct_RvrtTms": "limit_rvrt_s",
    "WMaxLimPct_RmpTms": "no_wait_s",
    "WMaxLim_Ena": "limit_ena",
}

_STORAGE: Final[Names] = {
    "WChaMax": "power_w_charge_max",
    "WChaGra": "charge_ramp_frac_per_s",
    "WDisChaGra": "charge_ramp_frac_per_s",
    "StorCtl_Mod": "window_mode",
    "MinRsvPct": "reserve_frac",
    "ChaState": "soc_frac",
    "InBatV": "battery_v",
    "ChaSt": "charge_status",
    "OutWRte": "window_out_frac",
    "InWRte": "window_in_frac",
    "InOutWRte_WinTms": "no_wait_s",
    "InOutWRte_RvrtTms": "window_rvrt_s",
    "InOutWRte_RmpTms": "no_wait_s",
    "ChaGriSet": "charge_from_grid",
}

_CAPACITY: Final[Names] = {
    "WMaxRtg": "power_w_discharge_max",
    "VAMaxRtg": "apparent_va_max",
    "VarMaxInjRtg": "zero",
    "VarMaxAbsRtg": "zero",
    "WChaRteMaxRtg": "power_w_charge_max",
    "WDisChaRteMaxRtg": "power_w_discharge_max",
    "VAChaRteMaxRtg": "power_w_charge_max",
    "VADisChaRteMaxRtg": "power_w_discharge_max",
    "VNomRtg": "voltage_v_nominal",
    "AMaxRtg": "current_a_max",
    "CtrlModes": "control_modes",
    "IntIslandCatRtg": "island_categories",
    "WMax": "power_w_discharge_max",
    "VAMax": "apparent_va_max",
    "VarMaxInj": "zero",
    "VarMaxAbs": "zero",
    "WChaRteMax": "power_w_charge_max",
    "WDisChaRteMax": "power_w_discharge_max",
    "VAChaRteMax": "power_w_charge_max",
    "VADisChaRteMax": "power_w_discharge_max",
    "VNom": "voltage_v_nominal",
    "AMax": "current_a_max",
    "IntIslandCat": "island_categories",
}

_ENTER_SERVICE: Final[Names] = {
    "ES": "permit",
    "ESVHi": "enter_voltage_frac_max",
    "ESVLo": "enter_voltage_frac_min",
    "ESHzHi": "enter_hz_max",
    "ESHzLo": "enter_hz_min",
    "ESDlyTms": "enter_delay_s",
    "ESRndTms": "zero",
    "ESRmpTms": "enter_ramp_s",
    "ESDlyRemTms": "enter_delay_s_left",
}

_AC_CONTROL: Final[Names] = {
    "WMaxLimPctEna": "limit_ena",
    "WMaxLimPct": "limit_frac",
    "WMaxLimPctRvrt": "limit_rvrt_frac",
    "WMaxLimPctEnaRvrt": "limit_rvrt_ena",
    "WMaxLimPctRvrtTms": "limit_rvrt_s",
    "WMaxLimPctRvrtRem": "limit_s_left",
    "WSetEna": "set_ena",
    "WSetMod": "set_mode",
    "WSet": "set_w",
    "WSetRvrt": "set_rvrt_w",
    "WSetPct": "set_frac",
    "WSetPctRvrt": "set_rvrt_frac",
    "WSetEnaRvrt": "set_rvrt_ena",
    "WSetRvrtTms": "set_rvrt_s",
    "WSetRvrtRem": "set_s_left",
    "WRmp": "ramp_frac_per_s",
    "WRmpRef": "ramp_reference",
    "AntiIslEna": "anti_islanding",
}

_STORAGE_CAPACITY: Final[Names] = {
    "WHRtg": "energy_wh_rated",
    "WHAvail": "energy_wh",
    "SoC": "soc_frac",
    "SoH": "soh_frac",
    "Sta": "storage_status",
}

_DER_CONTROL: Final[Names] = {
    "LocRemCtl": "zero",
    "DERHb": "heartbeat_s",
    "ControllerHb": "controller_heartbeat",
    "OpCtl": "permit",
}

_BATTERY: Final[Names] = {
    "AHRtg": "charge_ah_rated",
    "WHRtg": "energy_wh_rated",
    "WChaRteMax": "power_w_charge_max",
    "WDisChaRteMax": "power_w_discharge_max",
    "SoCMax": "soc_frac_max",
    "SoCMin": "soc_frac_min",
    "SoCRsvMin": "reserve_frac",
    "SoC": "soc_frac",
    "SoH": "soh_frac",
    "ChaSt": "charge_status",
    "LocRemCtl": "zero",
    "Hb": "heartbeat_s_16",
    "CtrlHb": "battery_controller_heartbeat",
    "Typ": "battery_type",
    "State": "bank_state",
    "Evt1": "bank_events",
    "Evt2": "zero",
    "V": "battery_v",
    "A": "battery_a",
    "W": "battery_w",
}

INVERTER_MODELS: Final[Mapping[int, Names]] = {
    1: _COMMON,
    101: _INVERTER,
    103: {**_INVERTER, **_INVERTER_3},
    120: _NAMEPLATE,
    121: _SETTINGS,
    122: _STATUS,
    123: _IMMEDIATE,
    124: _STORAGE,
    701: _DER_MEASURED,
    702: _CAPACITY,
    703: _ENTER_SERVICE,
    704: _AC_CONTROL,
    713: _STORAGE_CAPACITY,
    715: _DER_CONTROL,
    802: _BATTERY,
}
"""Models of the inverter unit: point name to quantity."""

METER_MODELS: Final[Mapping[int, Names]] = {1: _COMMON, 201: _METER, 203: {**_METER, **_METER_3}}
"""Models of the meter unit."""

FAMILY_MODELS: Final[Mapping[str, tuple[int, ...]]] = {"704": (701, 702, 704, 713), "124": (120, 121, 124)}
"""What a client needs, at least, to use a control family."""


def points_of(profile: DeviceProfile, model: int, meter: bool) -> Names:
    """Return the served points of one model, by SunSpec point name."""
    points = dict((METER_MODELS if meter else INVERTER_MODELS)[model])
    if model == 701 and profile.face.phases == 3:
        points.update(_DER_MEASURED_3)
    if not profile.control.has_reserve:
        points = {point: name for point, name in points.items() if name != "reserve_frac"}
    return points


def constants(profile: DeviceProfile) -> dict[str, float | str]:
    """Return every constant of a profile by quantity name.

    References
    ----------
    Enter-service defaults: IEEE 1547-2018, 4.10 (0.917 to 1.05 pu; −0.5 Hz to +0.1 Hz about nominal).
    """
    battery, inverter, face = profile.battery, profile.inverter, profile.face
    rated_w = inverter.power_w_discharge_max
    largest_w = max(rated_w, inverter.power_w_charge_max)
    return {
        "zero": 0.0,
        "unity": 1.0,
        "no_wait_s": 0.0,
        "manufacturer": face.manufacturer,
        "model_name": face.model,
        "version": "1",
        "serial_number": "",  # the image fills it in, one per device
        "der_type": 82.0,  # PV_STOR; model 120 knows no storage-only type
        "ac_type": 2.0 if face.phases == 3 else 0.0,  # THREE_PHASE, SINGLE_PHASE
        "power_w_discharge_max": rated_w,
        "power_w_charge_max": inverter.power_w_charge_max,
        "apparent_va_max": largest_w,
        "current_a_max": largest_w / face.voltage_v,
        "energy_wh_rated": battery.energy_wh,
        "charge_ah_rated": battery.energy_wh / battery.voltage_v_nominal,
        "soc_frac_max": battery.soc_frac_max,
        "soc_frac_min": battery.soc_frac_min,
        "battery_v": battery.voltage_v_nominal,
        "battery_type": 4.0,  # LITHIUM_ION
        "voltage_v_nominal": face.voltage_v,
        "frequency_hz_nominal": float(face.frequency_hz),
        "ramp_frac_per_s": inverter.ramp_w_per_s / rated_w,
        "charge_ramp_frac_per_s": inverter.ramp_w_per_s / inverter.power_w_charge_max,
        "ramp_reference": 1.0,  # W_MAX
        "anti_islanding": 1.0,
        "charge_from_grid": 1.0,
        "control_modes": 0b11 if 704 in face.models else 0b0,  # MAX_W, FIXED_W
        "island_categories": 0b1010,  # INT_ISL_CAPABLE, ISOCH_CAPABLE
        "enter_voltage_frac_max": 1.05,
        "enter_voltage_frac_min": 0.917,
        "enter_hz_max": face.frequency_hz + 0.1,
        "enter_hz_min": face.frequency_hz - 0.5,
        "enter_delay_s": inverter.enter_delay_s,
        "enter_ramp_s": inverter.enter_ramp_s,
    }


def bounds(profile: DeviceProfile) -> dict[str, float]:
    """Return the largest size each dynamic quantity can take; it must fit its register.

    Quantities that are not named are flags, enumerations and counters, which have no scale factor.
    """
    inverter, face = profile.inverter, profile.face
    power_w = max(inverter.power_w_surge, inverter.power_w_charge_max)
    loss_w = inverter.loss_a_w * (power_w / inverter.power_w_discharge_max) ** 2 + inverter.loss_c_w
    battery_w = power_w + loss_w + inverter.loss_b_w * power_w / inverter.power_w_discharge_max
    battery_w += inverter.standby_w
    import_w = power_w + LOAD_W_BESIDE
    voltage_v = 1.3 * face.voltage_v  # above the highest must-trip limit, 1.20 pu
    lowest_v = 0.8 * face.voltage_v  # below this a current may not fit, and then reads as unknown
    return {
        "power_w": power_w,
        "power_w_phase": power_w,
        "apparent_va": power_w,
        "apparent_va_phase": power_w,
        "power_factor": 1.0,
        "current_a": power_w / lowest_v,
        "current_a_phase": power_w / lowest_v,
        "voltage_v": voltage_v,
        "voltage_v_line": voltage_v * math.sqrt(3.0),
        "frequency_hz": 1.1 * face.frequency_hz,
        "discharge_wh": 4e9,
        "charge_wh": 4e9,
        "battery_w": battery_w,
        "battery_a": battery_w / profile.battery.voltage_v_nominal,
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
        "meter_va": import_w,
        "meter_power_factor": 1.0,
        "meter_a": import_w / lowest_v,
        "meter_a_phase": import_w / lowest_v,
        "grid_v": voltage_v,
        "grid_v_line": voltage_v * math.sqrt(3.0),
        "grid_hz": 1.1 * face.frequency_hz,
        "import_wh": 4e9,
        "export_wh": 4e9,
    }


def writable(profile: DeviceProfile) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest value each writable quantity takes."""
    charge_w, rated_w = profile.inverter.power_w_charge_max, profile.inverter.power_w_discharge_max
    return {
        "permit": (0.0, 1.0),
        "permit_old": (0.0, 1.0),
        "permit_rvrt_s": (0.0, U16_MAX),
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
    }
