"""What one device type is: ratings, behaviour and SunSpec face.  The schema of fixtures/devices/*.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveW = Annotated[float, Field(gt=0, le=1e8, allow_inf_nan=False)]
NotNegativeW = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]

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
    """Battery bus [V]; the model keeps it constant, and DC currents are reported with it."""

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

    @model_validator(mode="after")
    def _surge(self) -> Inverter:
        if self.power_w_surge < self.power_w_discharge_max:
            raise ValueError("power_w_surge must be at least power_w_discharge_max")
        return self


class Island(_Strict):
    """Transfer switch and islanded service."""

    transfer: Literal["ups", "fast", "slow", "dark"]
    restart_s: Seconds = 60.0
    pv_return_s: Seconds = 300.0
    cancels_grants: bool = True
    """Remote power commands end when an island begins."""


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
    meter_unit_offset: Annotated[int, Field(ge=1, le=120)] = 100
    """The meter answers at the inverter's unit id plus this."""
    scale_factors: dict[str, Annotated[int, Field(ge=-10, le=10)]] = {}
    """Overrides of scale factors, as ``"713.Pct_SF": -2``."""


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

    @property
    def transfer_s(self) -> float:
        """Dark time when the grid is lost [s]."""
        return TRANSFER_S[self.island.transfer]
