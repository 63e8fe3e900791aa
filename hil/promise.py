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
LEAK_H: Final = 1.0 / 60.0
"""Self-discharge may be booked this late, in one sum [h]."""
TAPER_SLICES: Final = 400


@dataclass(frozen=True, slots=True)
class Home:
    """Facts of one device and its commitment, as run.json states them; units are in the names."""

    name: str
    profile: str
    energy_wh: float
    energy_wh_min: float
    energy_wh_max: float
    energy_wh_floor: float
    """Below it the promise cannot be served in full."""
    energy_wh_step: float
    """One step of the reported SoC."""
    energy_wh_taper: float
    """Charging is held back from here."""
    power_w_discharge_max: float
    power_w_charge_max: float
    power_w_discharge_sure: float
    """What its surroundings leave of the rating."""
    power_w_charge_sure: float
    power_w_surge: float
    power_w_nominal: float
    loss_a_w: float
    loss_b_w: float
    loss_c_w: float
    standby_w: float
    ohm_per_w_max: float
    """Ohmic loss of the cells over their squared DC power, at most."""
    self_discharge_frac_per_h: float
    taper_frac_min: float
    ramp_w_per_s: float
    restart_ns: int
    """Wait after the first overload trip."""
    restart_growth: float
    restart_ns_max: int
    enter_delay_ns: int
    enter_ramp_s: float
    enter_voltage_pu_low: float
    enter_voltage_pu_high: float
    return_ns: int
    """From the end of the enter-service delay until an island is back on the grid, its break included."""
    reserve_writes_per_day_max: float
    promised_ns: int
    """Length of backup promised."""
    promised_w: float
    """Cap of the promised load."""
    dark_ns: int
    """Longest dark time when the grid is lost, and when it is back."""
    recovery_s: float
    import_w_max: float
    """Agreed at the meter; infinite without an agreement."""
    export_w_max: float

    @property
    def tolerance_wh(self) -> float:
        """Numeric tolerance of every statement about energy [Wh]; no engineering tolerance hides in it."""
        return 1e-6 * self.energy_wh_max

    @property
    def idle_w(self) -> float:
        """Greatest drain that does not depend on the load, self-discharge apart [W]."""
        idle_w = self.loss_c_w + self.standby_w
        return idle_w * (1.0 + self.ohm_per_w_max * idle_w)

    @property
    def resting_w(self) -> float:
        """Greatest drain of a device that converts nothing: standby and self-discharge [W]."""
        standby_w = self.standby_w * (1.0 + self.ohm_per_w_max * self.standby_w)
        return standby_w + self.self_discharge_frac_per_h * self.energy_wh_max

    @property
    def leak_wh(self) -> float:
        """Self-discharge of `LEAK_H`, which a plant may book at once [Wh]."""
        return self.self_discharge_frac_per_h * self.energy_wh_max * LEAK_H

    @property
    def reserve_wh(self) -> float:
        """Energy that covers the whole promise whatever the shape of the load, no PV credited [Wh]."""
        load_w = min(self.promised_w, self.power_w_discharge_max)
        drain_w = load_w * drain_per_load(self, self.power_w_discharge_max) + self.idle_w
        hours_h = self.promised_ns / NS_PER_S / S_PER_H
        return (self.energy_wh_floor + drain_w * hours_h) / self.kept_frac(hours_h) + self.energy_wh_step

    def kept_frac(self, hours_h: float) -> float:
        """Return what self-discharge leaves of an energy after some hours, at least [1]."""
        return 1.0 - self.self_discharge_frac_per_h * (hours_h + LEAK_H)


_AS_THEY_ARE: Final = (
    "power_w_discharge_max",
    "power_w_charge_max",
    "power_w_discharge_sure",
    "power_w_charge_sure",
    "power_w_surge",
    "power_w_nominal",
    "loss_a_w",
    "loss_b_w",
    "loss_c_w",
    "standby_w",
    "ohm_per_w_max",
    "self_discharge_frac_per_h",
    "taper_frac_min",
    "ramp_w_per_s",
    "restart_growth",
    "enter_ramp_s",
    "enter_voltage_pu_low",
    "enter_voltage_pu_high",
    "reserve_writes_per_day_max",
)


def home_of(device: Mapping[str, Any]) -> Home:
    """Return the facts in one entry of run.json's `devices`."""
    commitment, energy_wh = device["commitment"], float(device["energy_wh"])
    limits = {key: device.get(key) for key in ("import_w_max", "export_w_max")}
    return Home(
        name=device["name"],
        profile=device["profile"],
        energy_wh=energy_wh,
        energy_wh_min=energy_wh * device["soc_frac_min"],
        energy_wh_max=energy_wh * device["soc_frac_max"],
        energy_wh_floor=energy_wh * device["soc_frac_floor"],
        energy_wh_step=energy_wh * device["soc_frac_step"],
        energy_wh_taper=energy_wh * device["taper_soc_frac"],
        restart_ns=_ns(device["restart_s"]),
        restart_ns_max=_ns(device["restart_s_max"]),
        enter_delay_ns=_ns(device["enter_delay_s"]),
        return_ns=_ns(device["sync_s"] + device["break_s"]),
        promised_ns=_ns(commitment["hours_h"] * S_PER_H),
        promised_w=float(commitment["load_w"]),
        dark_ns=_ns(commitment["transfer_s"]),
        recovery_s=float(commitment["recovery_s"]),
        **{key: float(device[key]) for key in _AS_THEY_ARE},
        **{key: math.inf if limit is None else float(limit) for key, limit in limits.items()},
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
    The converter's loss is ``a·x² + b·x + c`` at ``x = p / p_nominal``.  Because ``p² <= p·p_max``, the DC
    power is at most ``k·p + i`` with idle drain ``i``.  The cells lose ``r`` times its square on top, which
    is convex and so lies under its chord from 0 to ``p_max``.  The sum depends on the energy served only and
    not on its shape.
    """
    per_nominal = home.loss_a_w * (power_w_max / home.power_w_nominal) + home.loss_b_w
    per_load = 1.0 + per_nominal / home.power_w_nominal
    idle_w = home.loss_c_w + home.standby_w
    return per_load * (1.0 + home.ohm_per_w_max * (2.0 * idle_w + per_load * power_w_max))


def restore_s(home: Home, missing_wh: float, ramp_s: float) -> float:
    """Return how long restoring the reserve may take from when the device can act [s].

    The operator may leave the device idle for `recovery_s`; from then on it charges at the greatest power
    that the enter-service ramp allows, which began when the device could act.  Infinite where the cells do
    not take enough to gain at all.

    Parameters
    ----------
    home : Home
    missing_wh : float
        Reserve minus energy when the device can act; negative when there is more than the reserve [Wh].
    ramp_s : float
        Length of the enter-service ramp; 0 when there is none [s].

    Notes
    -----
    Exact for a battery without taper and ohmic loss, else an upper bound: the ramp counts the taper at the
    reserve, and every watt into the cells is charged with the loss of the greatest.

    References
    ----------
    IEEE 1547-2018, 4.10: enter service with a linear ramp.
    """
    missing_j = (missing_wh + home.leak_wh) * S_PER_H
    held_w = home.power_w_charge_sure * _taper(home, home.reserve_wh)
    if _charge_w(home, held_w) <= 0.0:
        return math.inf
    begin_s = max(home.recovery_s, _charges_from_s(home, held_w, ramp_s))
    if _stored_j(home, held_w, begin_s, begin_s, ramp_s) >= missing_j:
        return home.recovery_s
    full_s = max(begin_s, ramp_s)
    at_full_j = _stored_j(home, held_w, begin_s, full_s, ramp_s)
    if at_full_j < missing_j:
        return full_s + _climb_s(home, home.reserve_wh - (missing_j - at_full_j) / S_PER_H)
    low_s, high_s = begin_s, full_s
    while high_s - low_s > 1e-7:  # below a tick by far; what is stored crosses what is missing once
        middle_s = 0.5 * (low_s + high_s)
        if _stored_j(home, held_w, begin_s, middle_s, ramp_s) < missing_j:
            low_s = middle_s
        else:
            high_s = middle_s
    return high_s


def _taper(home: Home, energy_wh: float) -> float:
    """Share of the charging power that is left at an energy [1]."""
    tapered_wh = home.energy_wh - home.energy_wh_taper
    if energy_wh <= home.energy_wh_taper or tapered_wh <= 0.0:
        return 1.0
    lost = (1.0 - home.taper_frac_min) * (energy_wh - home.energy_wh_taper) / tapered_wh
    return max(1.0 - lost, home.taper_frac_min)


def _climb_s(home: Home, from_wh: float) -> float:
    """Return how long full charging takes from an energy to the reserve [s].

    What is gained per second is concave in the power and so in the energy; its reciprocal is convex, and the
    rule of the trapezoid gives no less than the time.
    """
    to_wh = home.reserve_wh
    level_wh = min(max(home.energy_wh_taper, from_wh), to_wh)
    level_w = _gain_w(home, home.power_w_charge_sure)
    if level_w <= 0.0:
        return math.inf
    time_s = (level_wh - from_wh) * S_PER_H / level_w
    if level_wh == to_wh:
        return time_s
    nodes_wh = [level_wh + (to_wh - level_wh) * k / TAPER_SLICES for k in range(TAPER_SLICES + 1)]
    gains_w = [_gain_w(home, home.power_w_charge_sure * _taper(home, node_wh)) for node_wh in nodes_wh]
    if min(gains_w) <= 0.0:
        return math.inf
    inner = math.fsum(1.0 / gain_w for gain_w in gains_w[1:-1])
    mean = (inner + 0.5 / gains_w[0] + 0.5 / gains_w[-1]) / TAPER_SLICES
    return time_s + (to_wh - level_wh) * S_PER_H * mean


def _charge_w(home: Home, power_w: float) -> float:
    """Power into the cells' terminals at a charging power, standby apart [W]."""
    x = power_w / home.power_w_nominal
    return power_w - (home.loss_a_w * x * x + home.loss_b_w * x + home.loss_c_w)


def _ohm_frac(home: Home) -> float:
    """Share of the power into the cells that their resistance takes, at most [1]."""
    return home.ohm_per_w_max * max(_charge_w(home, home.power_w_charge_sure), 0.0)


def _gain_w(home: Home, power_w: float) -> float:
    """What the cells gain at a charging power, at least [W]."""
    return _charge_w(home, power_w) * (1.0 - _ohm_frac(home)) - home.resting_w


def _charges_from_s(home: Home, power_w: float, ramp_s: float) -> float:
    """Time into a ramp to `power_w` from which charging brings more than the converter's loss [s]."""
    a, b, c = home.loss_a_w, home.power_w_nominal - home.loss_b_w, home.loss_c_w
    # Smaller root of a·x² - b·x + c = 0, in the form that stays exact for a = 0.
    x = 2.0 * c / (b + math.sqrt(max(b * b - 4.0 * a * c, 0.0))) if c > 0.0 else 0.0
    return ramp_s * x * home.power_w_nominal / power_w


def _stored_j(home: Home, power_w: float, begin_s: float, until_s: float, ramp_s: float) -> float:
    """Energy gained from time 0 to `until_s`, charging from `begin_s` on, at most until the ramp ends [J]."""
    resting_j = home.resting_w * until_s
    if until_s <= begin_s or ramp_s <= 0.0:
        return -resting_j
    full = power_w / home.power_w_nominal
    first = (until_s**2 - begin_s**2) / (2.0 * ramp_s) * full
    second = (until_s**3 - begin_s**3) / (3.0 * ramp_s**2) * full * full
    linear_w = home.power_w_nominal - home.loss_b_w
    charged_j = linear_w * first - home.loss_a_w * second - home.loss_c_w * (until_s - begin_s)
    return charged_j * (1.0 - _ohm_frac(home)) - resting_j
