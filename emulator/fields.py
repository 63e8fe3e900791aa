"""Names and order of everything a Plant keeps per device.

Rule of this file: names only, no imports, no values.  `setup.py` turns these tuples into the C enumerations
of `_fields.h`, so the compiled kernel, the NumPy reference and the register image cannot disagree on where a
quantity lies.  To add a quantity, add its name here.

Every array is float64 with shape (tiles, fields, LANES): devices are packed eight to a tile, so that one
field of one tile is one vector register wide.  Discrete values (status, flags, ticks) are whole numbers held
exactly in float64; masks are 0.0 and 1.0.  Units are in the names: `_w` W, `_j` J, `_s` s, `_ticks` of 20 ms,
`_frac` 1.  Power is positive out of the device.
"""

LANES = 8
"""Devices per tile."""

TICKS_PER_S = 50
"""Kernel ticks per second: one tick is 20 ms."""

STATUS = (
    "on_grid",  # transfer switch closed, inverter follows the grid
    "enter",  # switch closed, inverter ceased, waiting for the enter-service delay
    "transfer",  # grid lost: switch opens, inverter forms; the home is dark
    "island",  # switch open, inverter forms and serves the backup panel
    "overload",  # switch open, inverter tripped on overload, waiting to restart
    "empty",  # switch open, battery at its floor, backup panel shed
)
"""Operating states; the number kept in `status` is the position in this tuple."""

REVERT = ("idle", "self_consumption", "recharge")
"""What a device does when no remote command is in force; the number in `revert_mode` is the position."""

PARAM = (
    "power_w_discharge_max",  # continuous AC rating, on grid and in island
    "power_w_charge_max",
    "power_w_surge",  # islanded: above this it trips at once
    "surge_ticks",  # islanded: how long power may exceed the continuous rating
    "power_w_nominal",  # reference of the loss polynomial
    "ramp_w_per_s",
    "capacity_j",  # faded: nominal times state of health
    "energy_j_min",
    "energy_j_max",
    "energy_j_restart",  # an empty island serves its panel again from here
    "loss_a_w",
    "loss_b_w",
    "loss_c_w",
    "standby_w",
    "transfer_ticks",
    "enter_delay_ticks",
    "enter_ramp_ticks",
    "restart_ticks",  # wait after an overload trip
    "pv_return_ticks",  # PV inverter's own enter-service delay on a live bus
    "revert_mode",
    "power_w_recharge",  # power of the local recharge to the reserve
    "recharge_band_frac",  # hysteresis of that recharge, of capacity
    "has_reserve",  # 1: on grid the device itself refuses to discharge below its reserve
    "cancels_grants",  # 1: remote power commands end when an island begins
    "backup_frac",  # share of the home's load behind the backup panel
)
"""Constants of one device in one scenario."""

CONTROL = (
    "permit",  # permit service; 0 ceases to energise (703.ES, 123.Conn)
    "permit_rvrt_ticks",  # then permit := 1
    "set_ena",  # active power set-point in force (704.WSetEna)
    "set_w",
    "set_rvrt_ena",
    "set_rvrt_w",
    "set_rvrt_ticks",  # then set_ena, set_w := set_rvrt_ena, set_rvrt_w; 0 means no timer
    "limit_ena",  # limit of active power output (704.WMaxLimPct, 123.WMaxLimPct)
    "limit_frac",  # of power_w_discharge_max
    "limit_rvrt_ena",
    "limit_rvrt_frac",
    "limit_rvrt_ticks",
    "window_in_ena",  # storage window (124.StorCtl_Mod bit 0: charge limit in force)
    "window_out_ena",  # (bit 1: discharge limit in force)
    "window_in_frac",  # most charging, of power_w_charge_max; negative forces discharge (124.InWRte)
    "window_out_frac",  # most discharging, of power_w_charge_max; negative forces charge (124.OutWRte)
    "window_rvrt_ticks",  # then both limits end and the fractions return to 1
    "reserve_frac",  # device-side reserve, of capacity (802.SoCRsvMin, 124.MinRsvPct)
)
"""Settings that remote writes change and that the kernel reverts."""

INPUT = (
    "grid_good",  # 1: the grid at this home is within its normal range
    "voltage_pu",
    "frequency_hz",
    "load_w",  # whole home
    "pv_w_available",
)
"""What the world does to a device, held during one step."""

STATE = (
    "status",
    "energy_j",
    "power_w",  # at the AC terminals, standby taken from the AC side included
    "battery_w",  # DC, out of the cells
    "loss_w",
    "standby_w_dc",
    "standby_w_ac",
    "import_w",  # at the meter; 0 when the transfer switch is open
    "load_w_served",  # whole home
    "backup_w_served",  # of the backup panel
    "pv_w",
    "ramp_ticks",  # enter-service ramp: allowed power is ramp_ticks / enter_ramp_ticks of the ratings
    "timer_ticks",  # in the present status
    "good_ticks",  # grid good while the switch is open
    "pv_ticks",  # home bus live for the PV inverter
    "surge_ticks_used",
    "recharging",  # local recharge to the reserve is on
    # Meters: energies since the start, each never decreasing.
    "import_j",
    "export_j",
    "charge_j",
    "discharge_j",
    "pv_j",
    "curtailed_j",
    "loss_j",
    "standby_j",
    "served_j",
    "backup_served_j",
    "backup_short_j",  # demand of the backup panel that was not served
    "elapsed_ticks",
    # Extremes since the last Plant.mark(), which relies on this order.
    "energy_j_low",
    "energy_j_high",
    "power_w_low",
    "power_w_high",
    "slew_w_per_s_high",  # of power_w while following the grid
    "dead_import_w_high",  # greatest |import_w| while the grid was not good
)
"""What the kernel computes."""
