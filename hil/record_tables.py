"""The columns of a record's tables.

Rule of this file: data only.  A new column needs a new format version, and a word on what
records without it read as.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    # One row is one device over (t_ns - dt_ns, t_ns].
    "truth": {
        "t_ns": "i8",
        "dt_ns": "i8",
        "device": "i2",  # position in run.json's devices
        "status": "i1",  # at the end; position in run.json's status_names
        "grid_good": "i1",  # during the whole interval
        "energy_wh": "f8",  # at the end
        "energy_wh_low": "f8",
        "energy_wh_high": "f8",
        "power_w": "f4",  # mean, as all powers without a qualifier
        "power_w_low": "f4",
        "power_w_high": "f4",
        "slew_w_per_s_high": "f4",
        "import_w": "f4",
        "dead_import_w_high": "f4",  # greatest |import| while the grid was not good
        "pv_w": "f4",
        "load_w": "f4",
        "backup_load_w": "f4",  # demand of the backup panel, constant in the interval
        "backup_served_w": "f4",
        "voltage_pu": "f4",  # at the end, of the grid at the meter
        "reactive_var": "f4",  # at the end, of the device, injected positive
    },
    "commands": {
        "t_ns": "i8",  # decided
        "arrival_ns": "i8",  # -1: lost
        "device": "i2",
        "power_w": "f8",  # NaN: left alone
        "validity_s": "f8",
        "reserve_soc_frac": "f8",  # NaN: left alone
        "outcome": "i1",  # position in OUTCOMES
    },
    "telemetry": {
        "received_ns": "i8",
        "measured_ns": "i8",
        "device": "i2",
        "soc_frac": "f8",
        "power_w": "f8",
        "import_w": "f8",
        "grid_good": "f4",
    },
    # One row is the feeder at one instant; only where the scenario has one.
    "feeder": {
        "t_ns": "i8",
        "transformer_va": "f8",
        "transformer_frac": "f8",  # of its rating
        "heat_frac": "f8",  # a lasting full load leads to 1
        "branch_frac_max": "f8",  # greatest current over ampacity of all cables
        "overload_s": "f8",  # time above the rating since the start
    },
}
"""Columns of each table, in order, with their NumPy types (stored little-endian)."""

OUTCOMES: Final = ("delivered", "lost", "refused")
"""What became of a command; its number is kept in the column `outcome`."""

REASONS: Final = ("completed", "interrupted", "controller failed")
"""Why a record ended."""

UNKNOWN_TO_1: Final[Mapping[str, frozenset[str]]] = {
    "truth": frozenset({"voltage_pu", "reactive_var"}),
    "feeder": frozenset(TABLES["feeder"]),
}
"""Columns that records of format version 1 do not have; they read as not a number, the feeder as no rows."""
