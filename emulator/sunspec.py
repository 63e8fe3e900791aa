"""Which SunSpec points a device serves, and from what.

Duty: tables that say, model by model, which point shows which quantity.  A point that is not named here or in
sunspec_grid.py is served as "not implemented".

Rules of this file: no addresses, no bytes, no scale factors (layout.py finds those), no numbers
(sunspec_values.py has them).  A name stands for one quantity in one unit everywhere; what SunSpec gives in
percent is a fraction here.  A name is a constant of the profile (`sunspec_values.constants`), a dynamic
quantity (`_registers.quantity_names`), or a setting of sunspec_grid.py, never two of these.

Choices that a client may notice:

- The float models 111, 113, 211 and 213 show what 101, 103, 201 and 203 show, of the same quantities; a
  profile may serve either or both.  Split-phase models (102, 112, 202, 212) are not served.
- Power factor has the sign of the active power; it is 1 where there is no power at all.
- Every state of charge is the estimate of the battery's own management, not the truth of the cells.
- 715.OpCtl: STOP and ENTER_STANDBY withdraw the permit, START and EXIT_STANDBY give it; no difference else.
- 715.AlarmReset and 802.AlmRst are taken and have no effect: no alarm is latched.  802.AlmRst reads 0, as
  its definition asks for when a reset is complete; 715.AlarmReset reads what was written.
- 802.SetOp DISCONNECT opens the battery's contactors and CONNECT closes them, whoever had opened them; it
  reads how they are.  Open ones show as an alarm, of themselves or on command.
- 802.SetInvState is what the battery is told of its inverter.  Here it knows: a write is kept and has no
  effect.  From the factory it is INVERTER_STARTED.
- TmpCab is the temperature around the battery plus a rise with the converter's loss, 20 K at full power:
  assumed, without heat capacity.
- Power factors of 120 and 123 have the EEI sign: negative where reactive power flows along with the active
  one (quadrants 1 and 3), positive where it flows against it.
- A battery is one string of one module, and its cells are alike: 803 and 804 show one temperature and one
  cell voltage.  What a single cell does is not modelled.
- PV strings share the home's PV equally; their voltages and currents are not modelled.
- Energies of the battery's DC port are not metered.
- 704.AntiIslEna is read-only and on: detecting islands is type-approved protection.
- Ratings that SunSpec lets a client change (702.WMax, 124.WChaMax, 121.*) are served, but read-only.
- Window and ramp times of 123 and 124 are 0 and accept only 0: a setting takes effect at once.
- 124.ChaGriSet is GRID and accepts only GRID: charging from PV alone is not modelled.
- 704.WSet* keeps watts and percent apart, as written; WSetMod says which of the two is in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .profile import DeviceProfile
from .sunspec_grid import CURVE_MODELS, constant_points, settings_points

Names = Mapping[str, str]

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
    "VAr": "reactive_var",
    "PF": "power_factor",
    "WH": "discharge_wh",
    "DCW": "battery_w",
    "TmpCab": "cabinet_c",
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
    "VAR": "import_var",
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

_METER_LINE_FLOAT: Final = {"PhVphAB": "PPVphAB", "PhVphBC": "PPVphBC", "PhVphCA": "PPVphCA"}
"""How 213 spells points of 203."""

_DER_PHASE: Final[Mapping[int, Names]] = {
    k: {
        f"WL{k}": "power_w_phase",
        f"VAL{k}": "apparent_va_phase",
        f"VarL{k}": "reactive_var_phase",
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
    "Var": "reactive_var",
    "PF": "power_factor",
    "A": "current_a",
    "LNV": "voltage_v",
    "Hz": "frequency_hz",
    "TotWhInj": "discharge_wh",
    "TotWhAbs": "charge_wh",
    "ThrotSrc": "throttle_sources",
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
    "VArRtgQ1": "var_max_inject",
    "VArRtgQ2": "var_max_inject",
    "VArRtgQ3": "var_absorb_negative",
    "VArRtgQ4": "var_absorb_negative",
    "ARtg": "current_a_max",
    "PFRtgQ1": "power_factor_over_negative",
    "PFRtgQ2": "power_factor_over",
    "PFRtgQ3": "power_factor_under_negative",
    "PFRtgQ4": "power_factor_under",
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
    "WOvrExtRtg": "power_w_over",
    "WOvrExtRtgPF": "power_factor_over",
    "WUndExtRtg": "power_w_under",
    "WUndExtRtgPF": "power_factor_under",
    "VAMaxRtg": "apparent_va_max",
    "VarMaxInjRtg": "var_max_inject",
    "VarMaxAbsRtg": "var_max_absorb",
    "WChaRteMaxRtg": "power_w_charge_max",
    "WDisChaRteMaxRtg": "power_w_discharge_max",
    "VAChaRteMaxRtg": "apparent_va_max",
    "VADisChaRteMaxRtg": "apparent_va_max",
    "VNomRtg": "voltage_v_nominal",
    "VMaxRtg": "voltage_v_max",
    "VMinRtg": "voltage_v_min",
    "AMaxRtg": "current_a_max",
    "NorOpCatRtg": "normal_category",
    "AbnOpCatRtg": "abnormal_category",
    "CtrlModes": "control_modes",
    "IntIslandCatRtg": "island_categories",
    "WMax": "power_w_discharge_max",
    "WMaxOvrExt": "power_w_over",
    "WOvrExtPF": "power_factor_over",
    "WMaxUndExt": "power_w_under",
    "WUndExtPF": "power_factor_under",
    "VAMax": "apparent_va_max",
    "VarMaxInj": "var_max_inject",
    "VarMaxAbs": "var_max_absorb",
    "WChaRteMax": "power_w_charge_max",
    "WDisChaRteMax": "power_w_discharge_max",
    "VAChaRteMax": "apparent_va_max",
    "VADisChaRteMax": "apparent_va_max",
    "VNom": "voltage_v_nominal",
    "VMax": "voltage_v_max",
    "VMin": "voltage_v_min",
    "AMax": "current_a_max",
    "IntIslandCat": "island_categories",
}

_ENTER_SERVICE: Final[Names] = {"ES": "permit", "ESDlyRemTms": "enter_delay_s_left"}

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
    "AlarmReset": "alarm_reset",
    "OpCtl": "operation",
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
    "AlmRst": "battery_alarm_reset",
    "Typ": "battery_type",
    "State": "bank_state",
    "Evt1": "bank_events",
    **dict.fromkeys(("Evt2", "EvtVnd1", "EvtVnd2"), "zero"),
    "DisChaRte": "self_discharge_frac_per_day",
    "V": "battery_v",
    "A": "battery_a",
    "AChaMax": "charge_a_max",
    "ADisChaMax": "discharge_a_max",
    "W": "battery_w",
    "SetOp": "battery_operation",
    "SetInvState": "battery_inverter_state",
    **dict.fromkeys(("CellVMax", "CellVMin", "CellVAvg"), "cell_v"),
}

_STRINGS: Final[Names] = {
    "NStr": "number_1",
    "NStrCon": "strings_connected",
    **dict.fromkeys(("ModTmpMax", "ModTmpMin", "ModTmpAvg"), "cell_c"),
    **dict.fromkeys(("StrVMax", "StrVMin", "StrVAvg"), "battery_v"),
    **dict.fromkeys(("StrAMax", "StrAMin", "StrAAvg"), "battery_a"),
    "string[1].StrNMod": "number_1",
    "string[1].StrSt": "string_status",
    "string[1].StrSoC": "soc_frac",
    "string[1].StrSoH": "soh_frac",
    "string[1].StrA": "battery_a",
    **dict.fromkeys([f"string[1].StrCellV{end}" for end in ("Max", "Min", "Avg")], "cell_v"),
    **dict.fromkeys([f"string[1].StrModTmp{end}" for end in ("Max", "Min", "Avg")], "cell_c"),
    "string[1].StrConSt": "string_contactors",
    "string[1].StrEvt1": "bank_events",
}

_STRING: Final[Names] = {
    "Idx": "number_1",
    "NMod": "number_1",
    "St": "string_status",
    "SoC": "soc_frac",
    "SoH": "soh_frac",
    "A": "battery_a",
    "V": "battery_v",
    **dict.fromkeys(("CellVMax", "CellVMin", "CellVAvg"), "cell_v"),
    **dict.fromkeys(("ModTmpMax", "ModTmpMin", "ModTmpAvg"), "cell_c"),
    **dict.fromkeys(("CellVMaxMod", "CellVMinMod", "ModTmpMaxMod", "ModTmpMinMod"), "number_1"),
    "ConSt": "string_contactors",
    "Evt1": "bank_events",
    **{
        f"lithium_ion_string_module[1].{name}": quantity
        for name, quantity in {
            "ModNCell": "cells",
            "ModSoC": "soc_frac",
            "ModSoH": "soh_frac",
            **dict.fromkeys(("ModCellVMax", "ModCellVMin", "ModCellVAvg"), "cell_v"),
            **dict.fromkeys(("ModCellTmpMax", "ModCellTmpMin", "ModCellTmpAvg"), "cell_c"),
        }.items()
    },
}

_BATTERY_PORT: Final[Names] = {
    "PrtAlrms": "ports_alarmed",
    "NPrt": "ports",
    "DCW": "ports_w",
    "Prt[1].PrtTyp": "number_1",  # ESS
    "Prt[1].ID": "number_1",
    "Prt[1].IDStr": "battery_name",
    "Prt[1].DCA": "battery_a",
    "Prt[1].DCV": "battery_v",
    "Prt[1].DCW": "battery_w",
    "Prt[1].DCSta": "battery_port_status",
    "Prt[1].DCAlrm": "battery_port_alarms",
}


def _pv_port(k: int) -> Names:
    """Port k + 1 of model 714: PV string k."""
    return {
        f"Prt[{k + 1}].{name}": quantity
        for name, quantity in {
            "PrtTyp": "number_0",  # PV
            "ID": f"number_{k + 1}",
            "IDStr": f"pv_name_{k}",
            "DCW": "pv_string_w",
            "DCWhInj": "pv_string_wh",
            "DCWhAbs": "zero",
            "DCSta": "pv_port_status",
            "DCAlrm": "zero",
        }.items()
    }


def _pv_string(k: int) -> Names:
    """Module k of model 160."""
    return {
        f"module[{k}].{name}": quantity
        for name, quantity in {
            "ID": f"number_{k}",
            "IDStr": f"pv_name_{k}",
            "DCW": "pv_string_w",
            "DCWH": "pv_string_wh",
            "DCSt": "pv_string_state",
            "DCEvt": "zero",
        }.items()
    }


INVERTER_MODELS: Final[Mapping[int, Names]] = {
    1: _COMMON,
    101: _INVERTER,
    103: {**_INVERTER, **_INVERTER_3},
    111: _INVERTER,
    113: {**_INVERTER, **_INVERTER_3},
    120: _NAMEPLATE,
    121: _SETTINGS,
    122: _STATUS,
    123: _IMMEDIATE,
    124: _STORAGE,
    160: {"Evt": "zero", "N": "pv_strings"},
    701: _DER_MEASURED,
    702: _CAPACITY,
    703: _ENTER_SERVICE,
    704: _AC_CONTROL,
    705: {"Crv[1].VRefAuto": "volt_var_ref_pu"},
    **{model: {} for model in CURVE_MODELS if model != 705},
    713: _STORAGE_CAPACITY,
    714: _BATTERY_PORT,
    715: _DER_CONTROL,
    802: _BATTERY,
    803: _STRINGS,
    804: _STRING,
}
"""Models of the inverter unit: point name to quantity, settings of sunspec_grid.py apart."""

METER_MODELS: Final[Mapping[int, Names]] = {
    1: _COMMON,
    201: _METER,
    203: {**_METER, **_METER_3},
    211: _METER,
    213: {**_METER, **{_METER_LINE_FLOAT.get(name, name): quantity for name, quantity in _METER_3.items()}},
}
"""Models of the meter unit."""

PHASES: Final = frozenset({101, 103, 111, 113, 201, 203, 211, 213})
"""Models that come for one phase and for three; the last digit says for how many."""

FAMILY_MODELS: Final[Mapping[str, tuple[int, ...]]] = {"704": (701, 702, 704, 713), "124": (120, 121, 124)}
"""What a client needs, at least, to use a control family."""


def points_of(profile: DeviceProfile, model: int, meter: bool) -> Names:
    """Return the served points of one model, by SunSpec point name."""
    points = dict((METER_MODELS if meter else INVERTER_MODELS)[model])
    if model == 701 and profile.face.phases == 3:
        points.update(_DER_MEASURED_3)
    if not meter:
        points.update(constant_points(model))
        points.update({name: f"{model}.{name}" for name in settings_points(profile, model)})
    strings = range(1, profile.face.pv_strings + 1)
    if model == 160:
        points.update({name: q for k in strings for name, q in _pv_string(k).items()})
    if model == 714:
        points.update({name: q for k in strings for name, q in _pv_port(k).items()})
    if not profile.control.has_reserve:
        points = {point: name for point, name in points.items() if name != "reserve_frac"}
    return points
