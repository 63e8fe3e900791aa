"""All that a candidate controller may see, and all it may say.

Rule of this file: plain data and one protocol.  A controller is given a `Pool` once and a `Telemetry` at
every decision, and answers with `Commands`.  Arrays have one row per device, shape (n,), always in the order
of `Pool.names`.  NaN means unknown in telemetry and "leave this row alone" in commands.

Signs: power is positive out of the device; discharging is positive, charging negative.  Loads are ≥ 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Flags = NDArray[np.bool_]

RevertState = Literal["idle", "self_consumption", "recharge"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What each device can do, as its nameplate and its registers state it.

    Attributes
    ----------
    energy_wh : Floats, shape (n,)
        Capacity now, faded [Wh].  SoC counts from 0 to 1 of this.
    soc_frac_min, soc_frac_max : Floats, shape (n,)
        Window the device keeps its battery in [1].
    soc_frac_floor : Floats, shape (n,)
        Below it an outage is not served in full: the weakest cell is empty, or parts of the panel are shed;
        at least `soc_frac_min` [1].
    soc_frac_step : Floats, shape (n,)
        Resolution of the reported SoC, which is rounded down [1].
    soc_frac_error_max : Floats, shape (n,)
        The reported SoC is an estimate, off the truth by this at most, either way; rounding comes on top [1].
    power_w_discharge_max, power_w_charge_max : Floats, shape (n,)
        Continuous ratings at the AC terminals, both positive [W].
    power_w_nominal : Floats, shape (n,)
        Reference power of the loss polynomial [W].
    loss_a_w, loss_b_w, loss_c_w : Floats, shape (n,)
        Conversion loss ``a·p² + b·p + c`` at ``p = |power| / power_w_nominal``, while converting [W].
    standby_w : Floats, shape (n,)
        Own consumption, always [W].
    ohm_per_w_max : Floats, shape (n,)
        Ohmic loss of the cells over their squared DC power, at most [1/W].
    self_discharge_frac_per_h : Floats, shape (n,)
        Share of the stored energy that the cells lose by themselves [1/h].
    has_reserve : Flags, shape (n,)
        The device itself can refuse grid-tied discharge below a reserve that is written to it.
    revert_state : tuple of str, length n
        What a device does when a command's validity has run out.
    import_w_max, export_w_max : Floats, shape (n,)
        Agreed limits at the home's meter; infinite where there is no agreement [W ≥ 0].
    """

    energy_wh: Floats
    soc_frac_min: Floats
    soc_frac_max: Floats
    soc_frac_floor: Floats
    soc_frac_step: Floats
    soc_frac_error_max: Floats
    power_w_discharge_max: Floats
    power_w_charge_max: Floats
    power_w_nominal: Floats
    loss_a_w: Floats
    loss_b_w: Floats
    loss_c_w: Floats
    standby_w: Floats
    ohm_per_w_max: Floats
    self_discharge_frac_per_h: Floats
    has_reserve: Flags
    revert_state: tuple[RevertState, ...]
    import_w_max: Floats
    export_w_max: Floats


@dataclass(frozen=True, slots=True)
class Commitments:
    """What each home was promised.

    Attributes
    ----------
    hours_h : Floats, shape (n,)
        Hours of backup from the start of an outage [h].
    load_w : Floats, shape (n,)
        Cap of the promised load: ``min(load, load_w)`` is served [W].
    transfer_s : Floats, shape (n,)
        Longest dark time when the grid is lost [s].
    recovery_s : Floats, shape (n,)
        After the device can act again, how long the operator may take to begin restoring the reserve [s].
    """

    hours_h: Floats
    load_w: Floats
    transfer_s: Floats
    recovery_s: Floats


@dataclass(frozen=True, slots=True)
class Pool:
    """The devices a controller dispatches; handed over once.

    Attributes
    ----------
    names : tuple of str, length n
        Device names, unique.
    capabilities : Capabilities
    commitments : Commitments
    poll_s : float
        Telemetry is taken this often [s].
    delay_s_max : float
        A message that takes longer than this each way is abandoned [s].
    """

    names: tuple[str, ...]
    capabilities: Capabilities
    commitments: Commitments
    poll_s: float
    delay_s_max: float


@dataclass(frozen=True, slots=True)
class Prices:
    """Market prices as far as published.

    Attributes
    ----------
    now_usd_per_mwh : float
        Real-time price of the present interval; NaN when unknown [$/MWh].
    ahead_usd_per_mwh : Floats, shape (k,)
        Day-ahead prices from the present interval on, as far as published; may be empty [$/MWh].
    step_s : float
        Length of one interval of `ahead_usd_per_mwh` [s].
    """

    now_usd_per_mwh: float
    ahead_usd_per_mwh: Floats
    step_s: float


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The newest reading of each device.

    Attributes
    ----------
    measured_ns, received_ns : Times, shape (n,)
        When the reading was taken, and when it arrived, on the bench's clock; −1 before the first one [ns].
    soc_frac : Floats, shape (n,)
        State of charge of the faded capacity, as the device estimates it [1].
    power_w : Floats, shape (n,)
        At the device's AC terminals [W].
    import_w : Floats, shape (n,)
        At the home's meter, import positive [W].
    grid_good : Floats, shape (n,)
        1 following the grid, 0 islanded, without grid or waiting to reconnect, NaN unknown.
    prices : Prices
    """

    measured_ns: Times
    received_ns: Times
    soc_frac: Floats
    power_w: Floats
    import_w: Floats
    grid_good: Floats
    prices: Prices


@dataclass(frozen=True, slots=True)
class Commands:
    """What the controller wants; NaN leaves a row alone.

    Attributes
    ----------
    power_w : Floats, shape (n,)
        Set-point at the AC terminals [W].
    validity_s : Floats, shape (n,)
        How long the set-point holds; becomes the device's revert timer, written before the set-point.
        At least 1 s wherever `power_w` is given [s].
    reserve_soc_frac : Floats, shape (n,)
        Device-side reserve, of faded capacity, for devices that have one [1].
    """

    power_w: Floats
    validity_s: Floats
    reserve_soc_frac: Floats

    @classmethod
    def none(cls, n: int) -> Commands:
        """Return commands that leave all `n` rows alone."""
        return cls(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))


@runtime_checkable
class Controller(Protocol):
    """A candidate under test."""

    period_s: float
    """Time between decisions [s]."""

    def enroll(self, pool: Pool) -> None:
        """Take note of the pool; called once before the first decision."""

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Answer one decision, at bench time `now_ns` [ns]."""
