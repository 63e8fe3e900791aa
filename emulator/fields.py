"""Names and order of everything a Plant keeps per device.

Rule of this file: names only, no imports, no values.  `setup.py` turns these tuples into the C enumerations
of `_fields.h`, so the compiled kernel, the NumPy reference and the register image cannot disagree on where a
quantity lies.  To add a quantity, add its name here.

Every array is float64 with shape (tiles, fields, LANES): devices are packed eight to a tile, so that one
field of one tile is one cache line.  Discrete values (status, flags, ticks) are whole numbers held exactly in
float64; masks are 0.0 and 1.0.  Units are in the names: `_w` W, `_var` var, `_j` J, `_s` s, `_hz` Hz, `_pu`
of the nominal voltage, `_c` degrees Celsius, `_ticks` of 20 ms, `_frac` 1.  `_gain` and `_gain_fine` are the
shares of a first-order lag's way made in a coarse step and in one of 20 ms.  Power is positive out of the
device; reactive power is positive when injected (over-excited).
"""

LANES = 8
"""Devices per tile."""

TICKS_PER_S = 50
"""Kernel ticks per second: one tick is 20 ms."""

SLOW_TICKS = 3000
"""Temperature, open-circuit voltage and the drift of the SoC estimate move on once a minute, or once in a
coarse step that is longer."""

STATUS = (
    "on_grid",  # transfer switch closed, inverter follows the grid
    "enter",  # switch closed, inverter ceased, waiting for the enter-service delay
    "transfer",  # grid lost: switch opens, inverter forms; the home is dark
    "island",  # switch open, inverter forms and serves the backup panel
    "overload",  # switch open, inverter tripped on overload, waiting to restart
    "empty",  # switch open, battery at its floor, backup panel shed
    "rejoin",  # switch opened for a moment before it closes onto the grid: the home is dark
    "member",  # switch closed onto a community island, inverter shares its load
)
"""Operating states; the number kept in `status` is the position in this tuple."""

RIDE = ("continuous", "ride_through", "cessation")
"""What voltage and frequency ask of a device on the grid; the number kept in `ride` is the position."""

REVERT = ("idle", "self_consumption", "recharge")
"""What a device does when no remote command is in force; the number in `revert_mode` is the position."""

PV_KIND = ("commanded", "droop", "trips")
"""How an island curtails its PV: told what to give; by frequency droop; by tripping it."""

COMMUNITY = {"collapsed": -1, "none": 0, "joined": 1, "returned": 2}
"""What a community island is to a home; the numbers in `community`."""

CHEMISTRY = ("lfp", "nmc")
"""Cell types with a table in cells.py; the number in `chemistry` is the position."""

PARAM = (
    "power_w_discharge_max",  # continuous AC rating, on grid and in island
    "power_w_charge_max",
    "power_w_surge",  # islanded: apparent power above this trips it at once
    "surge_ticks",  # islanded: how long power may exceed the continuous rating
    "ramp_w_per_s",
    "apparent_va_max",  # S rating
    "var_max_inject",
    "var_max_absorb",
    "var_power_w_none",  # no reactive capability is promised up to this active power
    "var_per_w",  # 1 / (power of full reactive capability - var_power_w_none)
    "capacity_j",  # faded: nominal times state of health
    "energy_j_min",
    "energy_j_max",
    "energy_j_restart",  # an empty island serves its panel again from here
    "loss_a_per_w",  # converter loss is a·P² + b·P + c
    "loss_b_frac",
    "loss_c_w",
    "charge_w_start",  # least AC power that reaches the cells
    "standby_w",
    "taper_j",  # charging is held back from here
    "taper_per_j",
    "taper_frac_min",
    "chemistry",
    "ohm_per_w",  # ohmic loss of the cells per squared DC power, at mean open-circuit voltage
    "c_rate_limited",  # 1: the cells' temperature limits charging and discharging
    "charge_w_per_c_rate",  # power of one C, times the product's own share of the usual limit
    "thermal_k_per_w",  # steady rise of the cells above ambient
    "thermal_gain",  # of one slow step
    "self_discharge_per_s",
    "soc_drift_per_s",  # of the estimate
    "soc_error_frac_max",
    "imbalance_frac",  # of capacity: the weakest cell is empty this much early
    "can_island",
    "detect_ticks",  # an island held up by matched load is noticed after this
    "transfer_ticks",
    "sync_ticks",  # resynchronising, after the grid has been good for the delay
    "break_ticks",  # break before make on return; 0 closes without a break
    "restart_ticks",  # wait after the first overload trip
    "restart_growth",  # each further wait is longer by this factor
    "restart_ticks_max",
    "pv_return_ticks",  # PV inverter's own enter-service delay on a live bus
    "pv_kind",
    "pv_trip_hz",  # above nominal
    "shift_hz",  # above nominal: how far an island raises its frequency
    "shift_j_on",  # PV that can only trip is shifted off from here
    "shift_j_off",
    "droop_hz_per_w",  # of the island's frequency; 0 is isochronous
    "droop_pu_per_var",  # of the island's voltage
    "load_var_per_w",  # reactive demand of the home's load
    "shed_frac_1",  # share of the backup panel that is shed first
    "shed_frac_2",
    "shed_frac_3",
    "shed_j_1",  # below this energy
    "shed_j_2",
    "shed_j_3",
    "shed_j_band",  # a tier comes back this far above
    "shed_ticks",  # overload lasts this long before a tier is shed
    "unshed_ticks",  # between one tier coming back and the next
    "events_max",  # disturbances ridden through in a row; one more trips
    "events_ticks",  # calm of this length ends the row
    "rocof_hz_per_s_max",  # faster changes of frequency trip
    "restore_ticks",  # after momentary cessation
    "hz_nominal",
    "revert_mode",
    "power_w_recharge",  # power of the local recharge to the reserve
    "recharge_band_frac",  # hysteresis of that recharge, of capacity
    "has_reserve",  # 1: on grid the device itself refuses to discharge below its reserve
    "cancels_grants",  # 1: remote power commands end when an island begins
    "backup_frac",  # share of the home's load behind the backup panel
)
"""Constants of one device in one scenario; ageing lowers `capacity_j` and what hangs on it."""

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
    "bms_open",  # 1: the battery's contactors are open
    # Constant power factor (704.PFWInj, 704.PFWAbs): reactive power per watt injected, and per watt absorbed.
    "pf_ena",
    "pf_var_per_w",
    "pf_abs_ena",
    "pf_abs_var_per_w",
    # Constant reactive power (704.VarSet).
    "var_ena",
    "var_var",
    # Volt-var (705): reactive power q1 up to v1, then three slopes over widths d1, d2, d3 of voltage.
    "volt_var_ena",
    "volt_var_v1_pu",
    "volt_var_v2_pu",
    "volt_var_v3_pu",
    "volt_var_d1_pu",
    "volt_var_d2_pu",
    "volt_var_d3_pu",
    "volt_var_q1_var",
    "volt_var_s1",
    "volt_var_s2",
    "volt_var_s3",
    "volt_var_gain",
    "volt_var_gain_fine",
    "volt_var_ref_pu",
    "volt_var_auto",  # 1: the reference follows the voltage
    "volt_var_auto_gain",
    "volt_var_auto_gain_fine",
    # Volt-watt (706): limit p1 up to v1, falling over a width.
    "volt_watt_ena",
    "volt_watt_v1_pu",
    "volt_watt_d_pu",
    "volt_watt_p1_w",
    "volt_watt_s",
    "volt_watt_gain",
    "volt_watt_gain_fine",
    # Watt-var (712): reactive power q1 up to p1, then two slopes; generating and absorbing side.
    "watt_var_ena",
    "watt_var_p1_w",
    "watt_var_p2_w",
    "watt_var_d1_w",
    "watt_var_d2_w",
    "watt_var_q1_var",
    "watt_var_s1",
    "watt_var_s2",
    "watt_var_abs_p1_w",
    "watt_var_abs_p2_w",
    "watt_var_abs_d1_w",
    "watt_var_abs_d2_w",
    "watt_var_abs_q1_var",
    "watt_var_abs_s1",
    "watt_var_abs_s2",
    # Frequency droop (711).
    "droop_ena",
    "droop_over_hz",  # edges of the dead band, absolute
    "droop_under_hz",
    "droop_over_w_per_hz",
    "droop_under_w_per_hz",
    "droop_low_w",  # over-frequency brings active power no lower than this
    "droop_gain",
    "droop_gain_fine",
    # Must-trip (707 to 710) and cessation.
    "over_v1_pu",
    "over_v1_ticks",
    "over_v2_pu",
    "over_v2_ticks",
    "under_v1_pu",
    "under_v1_ticks",
    "under_v2_pu",
    "under_v2_ticks",
    "over_f1_hz",
    "over_f1_ticks",
    "over_f2_hz",
    "over_f2_ticks",
    "under_f1_hz",
    "under_f1_ticks",
    "under_f2_hz",
    "under_f2_ticks",
    "cease_low_pu",
    "cease_high_pu",
    "calm_low_pu",  # no trip, cessation or ride-through can begin between these four
    "calm_high_pu",
    "calm_low_hz",
    "calm_high_hz",
    # Enter service (703).
    "enter_low_pu",
    "enter_high_pu",
    "enter_low_hz",
    "enter_high_hz",
    "enter_delay_ticks",  # random part included
    "enter_ramp_ticks",
    "enter_ramp_per_tick",  # 1 / enter_ramp_ticks
)
"""Settings that remote writes change, in the form the step needs; some the step itself reverts."""

INPUT = (
    "grid_good",  # 1: the utility is connected; 0: lost
    "grid_held",  # 1: the lost section is held up by generation that matches its load
    "community",  # whether the home is in a community island, see COMMUNITY
    "share_w",  # what a member gives to the community island
    "share_var",
    "share_load_w",  # what a member's backup panel takes
    "share_pv_frac",  # of its possible PV that a member delivers; -1: the PV has tripped
    "share_pu",  # of the community island's bus
    "share_hz",
    "voltage_pu",  # of the grid at the home's point of connection
    "frequency_hz",
    "load_w",  # whole home
    "pv_w_available",
    "ambient_c",  # around the battery
)
"""What the world does to a device, held during one step."""

STATE = (
    "status",
    "energy_j",
    "power_w",  # at the AC terminals, standby taken from the AC side included
    "reactive_var",
    "battery_w",  # DC, at the terminals of the cells
    "loss_w",  # of the converter
    "ohm_w",  # of the cells
    "standby_w_dc",
    "standby_w_ac",
    "import_w",  # at the meter; 0 when the transfer switch is open
    "import_var",
    "load_w_served",  # whole home
    "backup_w_served",  # of the backup panel
    "pv_w",
    "bus_pu",  # the home's bus, behind the switch
    "bus_hz",
    "ramp_ticks",  # enter-service ramp: allowed power is ramp_ticks / enter_ramp_ticks of the ratings
    "timer_ticks",  # in the present status
    "good_ticks",  # grid good while the switch is open
    "pv_ticks",  # home bus live for the PV inverter
    "surge_ticks_used",
    "restart_ticks_now",
    "recharging",  # local recharge to the reserve is on
    "shifting",  # frequency is raised to keep PV off
    "shed_tiers",  # tiers shed now
    "shed_ticks_used",  # of overload, or since the last tier came back
    # Protection.
    "ride",
    "held_ticks",  # of an unnoticed island
    "restore_ticks_left",
    "power_w_before",  # when momentary cessation began
    "event_count",
    "event_ticks",  # calm since the last disturbance
    "frequency_hz_before",
    "rocof_ticks",  # since that frequency was taken
    "over_v1_ticks_used",
    "over_v2_ticks_used",
    "under_v1_ticks_used",
    "under_v2_ticks_used",
    "over_f1_ticks_used",
    "over_f2_ticks_used",
    "under_f1_ticks_used",
    "under_f2_ticks_used",
    # Grid support.
    "volt_var_var",  # after its lag
    "volt_var_ref_pu_now",
    "volt_watt_w",  # limit after its lag
    "droop_w",  # adjustment after its lag
    "droop_base_w",  # power it acts on, taken when the dead band was left
    "droop_on",
    # Cells.
    "temp_c",
    "ocv_frac",  # open-circuit voltage over its mean
    "ohm_per_w_now",
    "charge_w_limit",
    "discharge_w_limit",
    "heat_j",  # since the last slow step
    "soc_error_frac",  # estimate less truth
    # Meters: energies since the start, each never decreasing.
    "import_j",
    "export_j",
    "charge_j",
    "discharge_j",
    "pv_j",
    "curtailed_j",
    "loss_j",
    "ohm_j",
    "self_j",  # self-discharge
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

CALM = {
    "state": {"status": 0.0, "restore_ticks_left": 0.0},
    "input": {"grid_good": 1.0, "grid_held": 0.0, "community": 0.0},
    "control": {
        "permit": 1.0,
        "bms_open": 0.0,
        "permit_rvrt_ticks": 0.0,
        "window_rvrt_ticks": 0.0,
        "limit_rvrt_ticks": 0.0,
    },
}
"""What is true of a device in ordinary grid operation; its step is then compiled without the rest."""
