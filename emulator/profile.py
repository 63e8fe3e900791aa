"""What one device type is: ratings, behaviour and SunSpec face.  The schema of fixtures/devices/*.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveW = Annotated[float, Field(gt=0, le=1e8, allow_inf_nan=False)]
NotNegativeW = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]

PV_STRINGS_MAX = 4
"""Most PV strings of a hybrid."""

FunctionCode = Literal[1, 2, 3, 4, 5, 6, 8, 15, 16, 22, 23, 43]
"""Modbus function codes a device may serve."""

TRANSFER_S = {"ups": 0.02, "fast": 0.2, "slow": 1.0, "dark": 6.0}
"""Dark time of each transfer class [s]; reference classes after data sheets, see docs/nomenclature.md."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Battery(_Strict):
    """Cells and their window."""

    energy_wh: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    """Nominal capacity [Wh]; SoC counts from 0 to 1 of this times the state of health."""
    soc_frac_min: Fraction = 0.05
    soc_frac_max: Fraction = 1.0
    soc_frac_restart: Fraction = 0.10
    """An island that went dark empty serves its panel again from here."""
    voltage_v_nominal: Annotated[float, Field(ge=10, le=1500, allow_inf_nan=False)] = 400.0
    """Battery bus at the mean open-circuit voltage of its cells [V]."""
    chemistry: Literal["lfp", "nmc"] = "lfp"
    ohmic_frac_per_c: Annotated[float, Field(ge=0, le=0.2, allow_inf_nan=False)] = 0.0
    """Ohmic loss at one C, of that power [1]; 0 where the loss polynomial covers the cells too."""
    temperature_limits: bool = False
    """Charging and discharging are limited by the temperature of the cells."""
    c_rate_share: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    """Limits of this battery by temperature, over the usual ones of `model.battery` [1]."""
    heat_capacity_j_per_k: Annotated[float, Field(gt=0, le=1e10, allow_inf_nan=False)] = 1e5
    cooling_w_per_k: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 8.0
    self_discharge_frac_per_month: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0
    taper_soc_frac: Fraction = 1.0
    """Charging is held back from here, in a line to `taper_frac_min` of the rating at full."""
    taper_frac_min: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    soc_error_frac: Annotated[float, Field(ge=-0.5, le=0.5, allow_inf_nan=False)] = 0.0
    """Estimate less truth at the start [1]."""
    soc_drift_frac_per_day: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = 0.0
    soc_error_frac_max: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0
    """The drift stops here; a full battery resets the estimate."""
    imbalance_frac: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0
    """The weakest cell is empty this share of the capacity early [1]."""
    ageing: Literal["none", "lfp", "nmc"] = "none"

    @model_validator(mode="after")
    def _ordered(self) -> Battery:
        if not self.soc_frac_min < self.soc_frac_restart <= self.soc_frac_max:
            raise ValueError(
                f"soc_frac_min {self.soc_frac_min} < soc_frac_restart {self.soc_frac_restart} "
                f"<= soc_frac_max {self.soc_frac_max} must hold"
            )
        return self


class Inverter(_Strict):
    """Power conversion: ``P_loss = a·p² + b·p + c`` with p = |P| / power_w_discharge_max (as bslib)."""

    power_w_discharge_max: PositiveW
    power_w_charge_max: PositiveW
    power_w_surge: PositiveW
    surge_s: Seconds = 10.0
    ramp_w_per_s: PositiveW
    loss_a_w: NotNegativeW
    loss_b_w: NotNegativeW
    loss_c_w: NotNegativeW
    standby_w: NotNegativeW
    enter_delay_s: Seconds = 300.0
    """IEEE 1547-2018, 4.10: enter service after this long of good grid."""
    enter_ramp_s: Seconds = 300.0
    apparent_va_max: PositiveW | None = None
    """Rating of the apparent power; the greater of the active ratings where none is given."""
    var_frac_inject: Fraction = 0.44
    """Reactive capability, of `apparent_va_max` (IEEE 1547-2018, table 7: category B)."""
    var_frac_absorb: Fraction = 0.44
    var_at_no_power: bool = True
    """Whole reactive capability at any active power; else none below 5 % of the rating, all from 20 %."""

    @model_validator(mode="after")
    def _surge(self) -> Inverter:
        if self.power_w_surge < self.power_w_discharge_max:
            raise ValueError("power_w_surge must be at least power_w_discharge_max")
        return self


class Tier(_Strict):
    """Part of the backup panel that is given up below a state of charge, or on overload."""

    frac: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    soc_frac: Fraction


class Grid(_Strict):
    """Behaviour on the grid: categories of IEEE 1547-2018, and what a lesser device does not stand.

    The defaults of the functions follow from the categories; see `grid_settings`.
    """

    normal: Literal["A", "B"] = "B"
    abnormal: Literal["I", "II", "III"] = "III"
    function: Literal["power_factor", "var", "volt_var", "watt_var"] = "power_factor"
    """Reactive power function in force from the factory; constant power factor 1 is the standard's."""
    volt_watt: bool = False
    droop: bool = True
    takes_may_trip: bool = False
    """Trips as soon as the may-trip curves allow, instead of riding through to must-trip."""
    events_max: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Disturbances ridden through in a row; none: any number."""
    events_s: Seconds = 20.0
    rocof_hz_per_s_max: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    """Faster changes of frequency trip; none: never."""
    restore_s: Annotated[float, Field(ge=0, le=0.4, allow_inf_nan=False)] = 0.0
    """After momentary cessation (6.4.2.7: within 0.4 s)."""
    enter_random_s: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 0.0
    """Longest random part of the enter-service delay."""


class Island(_Strict):
    """Transfer switch and islanded service."""

    transfer: Literal["ups", "fast", "slow", "dark"]
    restart_s: Seconds = 60.0
    pv_return_s: Seconds = 300.0
    cancels_grants: bool = True
    """Remote power commands end when an island begins."""
    capable: bool = True
    """Serves a backup panel; else it only ceases when the grid is lost."""
    detect_s: Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)] = 2.0
    """An island held up by matched generation is noticed after this (IEEE 1547-2018, 8.1: within 2 s)."""
    sync_s: Seconds = 0.0
    """Resynchronising after the enter-service delay."""
    break_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 0.0
    """Break before make on the return to the grid; 0 closes without a break."""
    restart_growth: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 1.0
    """Each further wait after an overload is longer by this factor."""
    restart_s_max: Seconds = 7200.0
    droop_frac: Annotated[float, Field(ge=0, le=0.05, allow_inf_nan=False)] = 0.0
    """Frequency droop at rated power, of nominal; 0 is isochronous."""
    voltage_droop_frac: Annotated[float, Field(ge=0, le=0.2, allow_inf_nan=False)] = 0.0
    pv: Literal["commanded", "droop", "trips"] = "commanded"
    """How the island curtails its PV: told what to give; by frequency droop; by tripping it."""
    pv_trip_hz_above: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 2.0
    shift_hz_above: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 2.0
    """How far the island raises its frequency."""
    shift_soc_frac_on: Fraction = 0.97
    shift_soc_frac_off: Fraction = 0.96
    shed: tuple[Tier, ...] = Field(default=(), max_length=3)
    """Parts of the backup panel that are given up, in this order."""
    shed_overload_s: Seconds = 10.0
    restore_s: Seconds = 22.0
    """Between one part coming back and the next."""

    @model_validator(mode="after")
    def _ordered(self) -> Island:
        if sum(tier.frac for tier in self.shed) > 1.0:
            raise ValueError("the shares of shed must add up to at most 1")
        if any(a.soc_frac < b.soc_frac for a, b in zip(self.shed, self.shed[1:], strict=False)):
            raise ValueError("the soc_frac of shed must not rise: what is given up first has the highest")
        if self.shift_soc_frac_off > self.shift_soc_frac_on:
            raise ValueError("shift_soc_frac_off must be at most shift_soc_frac_on")
        if self.pv != "commanded" and self.pv_trip_hz_above > self.shift_hz_above:
            raise ValueError("shift_hz_above must be at least pv_trip_hz_above, or the PV is never tripped")
        return self


class Control(_Strict):
    """How the device obeys and what it does on its own."""

    revert_state: Literal["idle", "self_consumption", "recharge"]
    has_reserve: bool
    reserve_soc_frac: Fraction = 0.20
    """Factory setting of the device-side reserve."""
    power_w_recharge: PositiveW
    recharge_band_frac: Fraction = 0.005
    families: tuple[Literal["704", "124"], ...] = ("704", "124")
    """Which control models are served: 704 (with 701-703, 713, 715) and the older 124 (with 120-123)."""

    @model_validator(mode="after")
    def _reserve_to_recharge_to(self) -> Control:
        if self.revert_state == "recharge" and not self.has_reserve:
            raise ValueError("revert_state recharge needs has_reserve: true, a reserve to recharge to")
        return self


class Face(_Strict):
    """What a Modbus client sees."""

    manufacturer: Annotated[str, Field(min_length=1, max_length=32)] = "Ridethrough"
    model: Annotated[str, Field(min_length=1, max_length=32)]
    phases: Literal[1, 3] = 1
    voltage_v: Annotated[float, Field(gt=50, le=1000)] = 240.0
    """Phase to neutral [V]."""
    frequency_hz: Literal[50, 60] = 60
    """Nominal frequency, and the one the device forms in an island [Hz]."""
    base_address: Literal[0, 40000, 50000] = 40000
    models: tuple[int, ...]
    """SunSpec model ids of the inverter unit, in map order, model 1 first."""
    meter_models: tuple[int, ...] | None = None
    """SunSpec model ids of the meter unit; none given: 1, and 201 or 203 by the number of phases."""
    pv_strings: Annotated[int, Field(ge=0, le=PV_STRINGS_MAX)] = 0
    """PV strings of a hybrid, shown by models 160 and 714; the home's PV is shared among them equally."""
    meter_unit_offset: Annotated[int, Field(ge=1, le=120)] = 100
    """The meter answers at the inverter's unit id plus this."""
    scale_factors: dict[str, Annotated[int, Field(ge=-10, le=10)]] = {}
    """Overrides of scale factors, as ``"713.Pct_SF": -2``."""
    common_length: Literal[65, 66] = 66
    """Length of model 1: 65 in old maps, which have no pad register."""
    functions: tuple[FunctionCode, ...] = (3, 6, 16, 43)
    """Modbus function codes that are served: 3, and 6 or 16, among them; any other one gets exception 01."""
    connections_max: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Modbus TCP connections served at once; none given: the server's own limit."""
    idle_timeout_s: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] | None = None
    """A connection that is silent for this long is closed; none given: the server's own limit [s]."""

    @model_validator(mode="after")
    def _reads_and_writes(self) -> Face:
        if len(set(self.functions)) != len(self.functions):
            raise ValueError(f"functions {list(self.functions)} names a function code twice")
        if 3 not in self.functions or not {6, 16} & set(self.functions):
            raise ValueError(f"functions {list(self.functions)} must hold 3, and 6 or 16")
        return self


class DeviceProfile(_Strict):
    """One device type.

    Notes
    -----
    Every number in a bundled profile names its source in a comment, or says that it is assumed.
    """

    profile: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    description: str
    battery: Battery
    inverter: Inverter
    island: Island
    control: Control
    face: Face
    grid: Grid = Grid()

    @property
    def transfer_s(self) -> float:
        """Dark time when the grid is lost [s]."""
        return TRANSFER_S[self.island.transfer]
