"""What one home was promised, and what that promise needs of its battery.

Rules of this file: it knows a home only from run.json and shares no formula with the emulator.  Definitions
and their reasons: docs/judge.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

NS_PER_S: Final = 1_000_000_000
S_PER_H: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Home:
    """Facts of one device and its commitment, as run.json states them; units are in the names."""

    name: str
    profile: str
    energy_wh: float
    energy_wh_min: float
    energy_wh_max: float
    energy_wh_step: float
    """One step of the reported SoC."""
    power_w_discharge_max: float
    power_w_charge_max: float
    power_w_surge: float
    power_w_nominal: float
    loss_a_w: float
    loss_b_w: float
    loss_c_w: float
    standby_w: float
    ramp_w_per_s: float
    restart_ns: int
    """Wait after an overload trip."""
    enter_delay_ns: int
    enter_ramp_s: float
    reserve_writes_per_day_max: float
    promised_ns: int
    """Length of backup promised."""
    promised_w: float
    """Cap of the promised load."""
    dark_ns: int
    """Longest dark time when the grid is lost."""
    recovery_s: float

    @property
    def tolerance_wh(self) -> float:
        """Numeric tolerance of every statement about energy [Wh]; no engineering tolerance hides in it."""
        return 1e-6 * self.energy_wh_max

    @property
    def idle_w(self) -> float:
        """Greatest drain that does not depend on the load [W]."""
        return self.loss_c_w + self.standby_w

    @property
    def reserve_wh(self) -> float:
        """Energy that covers the whole promise whatever the shape of the load, no PV credited [Wh]."""
        load_w = min(self.promised_w, self.power_w_discharge_max)
        drain_w = load_w * drain_per_load(self, self.power_w_discharge_max) + self.idle_w
        hours_h = self.promised_ns / NS_PER_S / S_PER_H
        return self.energy_wh_min + drain_w * hours_h + self.energy_wh_step


_AS_THEY_ARE: Final = (
    "power_w_discharge_max",
    "power_w_charge_max",
    "power_w_surge",
    "power_w_nominal",
    "loss_a_w",
    "loss_b_w",
    "loss_c_w",
    "standby_w",
    "ramp_w_per_s",
    "enter_ramp_s",
    "reserve_writes_per_day_max",
)


def home_of(device: Mapping[str, Any]) -> Home:
    """Return the facts in one entry of run.json's `devices`."""
    commitment, energy_wh = device["commitment"], float(device["energy_wh"])
    return Home(
        name=device["name"],
        profile=device["profile"],
        energy_wh=energy_wh,
        energy_wh_min=energy_wh * device["soc_frac_min"],
        energy_wh_max=energy_wh * device["soc_frac_max"],
        energy_wh_step=energy_wh * device["soc_frac_step"],
        restart_ns=_ns(device["restart_s"]),
        enter_delay_ns=_ns(device["enter_delay_s"]),
        promised_ns=_ns(commitment["hours_h"] * S_PER_H),
        promised_w=float(commitment["load_w"]),
        dark_ns=_ns(commitment["transfer_s"]),
        recovery_s=float(commitment["recovery_s"]),
        **{key: float(device[key]) for key in _AS_THEY_ARE},
    )


def _ns(time_s: float) -> int:
    return round(time_s * NS_PER_S)


def drain_per_load(home: Home, power_w_max: float) -> float:
    """Return the most a battery loses per unit of load, the idle drain apart, at powers up to a limit.

    Parameters
    ----------
    home : Home
    power_w_max : float
        Greatest power the load has [W].

    Notes
    -----
    The loss is ``a·x² + b·x + c`` at ``x = p / p_nominal``.  Because ``p² <= p·p_max``, it is at most
    ``p·(a·p_max/p_nominal + b)/p_nominal + c``, which depends on the energy served only and not on its shape.
    """
    per_nominal = home.loss_a_w * (power_w_max / home.power_w_nominal) + home.loss_b_w
    return 1.0 + per_nominal / home.power_w_nominal


def restore_s(home: Home, missing_wh: float, ramp_s: float) -> float:
    """Return how long restoring the reserve may take from when the device can act [s].

    The operator may leave the device idle for `recovery_s`; from then on it charges at the greatest power
    that the enter-service ramp allows, which began when the device could act.

    Parameters
    ----------
    home : Home
    missing_wh : float
        Reserve minus energy when the device can act; negative when there is more than the reserve [Wh].
    ramp_s : float
        Length of the enter-service ramp; 0 when there is none [s].

    References
    ----------
    IEEE 1547-2018, 4.10: enter service with a linear ramp.
    """
    missing_j = missing_wh * S_PER_H
    begin_s = max(home.recovery_s, _charges_from_s(home, ramp_s))
    if _stored_j(home, begin_s, begin_s, ramp_s) >= missing_j:
        return home.recovery_s
    full_s = max(begin_s, ramp_s)
    at_full_j = _stored_j(home, begin_s, full_s, ramp_s)
    if at_full_j < missing_j:
        return full_s + (missing_j - at_full_j) / (_charge_w(home, 1.0) - home.standby_w)
    low_s, high_s = begin_s, full_s
    while high_s - low_s > 1e-7:  # below a tick by far; what is stored crosses what is missing once
        middle_s = 0.5 * (low_s + high_s)
        if _stored_j(home, begin_s, middle_s, ramp_s) < missing_j:
            low_s = middle_s
        else:
            high_s = middle_s
    return high_s


def _charge_w(home: Home, ramp_frac: float) -> float:
    """Power into the cells at this fraction of the charging rating, standby apart [W]."""
    x = ramp_frac * home.power_w_charge_max / home.power_w_nominal
    return home.power_w_nominal * x - (home.loss_a_w * x * x + home.loss_b_w * x + home.loss_c_w)


def _charges_from_s(home: Home, ramp_s: float) -> float:
    """Time into the ramp from which charging brings more than its own loss [s]."""
    a, b, c = home.loss_a_w, home.power_w_nominal - home.loss_b_w, home.loss_c_w
    # Smaller root of a·x² - b·x + c = 0, in the form that stays exact for a = 0.
    x = 2.0 * c / (b + math.sqrt(max(b * b - 4.0 * a * c, 0.0))) if c > 0.0 else 0.0
    return ramp_s * x * home.power_w_nominal / home.power_w_charge_max


def _stored_j(home: Home, begin_s: float, until_s: float, ramp_s: float) -> float:
    """Energy gained from time 0 to `until_s`, charging from `begin_s` on, at most until the ramp ends [J]."""
    idle_j = home.standby_w * until_s
    if until_s <= begin_s or ramp_s <= 0.0:
        return -idle_j
    full = home.power_w_charge_max / home.power_w_nominal
    first = (until_s**2 - begin_s**2) / (2.0 * ramp_s) * full
    second = (until_s**3 - begin_s**3) / (3.0 * ramp_s**2) * full * full
    linear_w = home.power_w_nominal - home.loss_b_w
    return linear_w * first - home.loss_a_w * second - home.loss_c_w * (until_s - begin_s) - idle_j
