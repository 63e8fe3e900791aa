"""What every careful controller needs: reserve, a lower edge of the true energy, and the guard rule.

Rules of this file: only what the contract shows; no clock but the bench's; arrays of shape (n,) in the order
of `Pool.names`.

The guard rule (G): discharging at P is granted for a validity T only if

    E_low − P_dc · X ≥ floor,   X = delay_s_max + T + actuation

because in the worst case the controller vanishes right after the grant, the grant arrives as late as it can,
and the device then stops by itself when its revert timer runs out.  E_low already counts the age of the
reading: it is the last proven energy less all that the device may have spent since.  A reading proves no
more than what it says less `soc_frac_error_max`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from .contract import Capabilities, Commands, Commitments, Floats, Pool, Telemetry

ACTUATION_S: Final = 3.0
"""From a write to full power: dead time 0.6–1.6 s and a ramp of about 1 s [s]."""

BLIND_H: Final = 24.0
"""The floor is still kept after this long without any message: own consumption is provided for [h]."""

REPEAT_FIRST_S: Final = 60.0
"""The first writing of the device-side reserve is repeated after this long, in case it was lost [s]."""

BOOKED_LATE_H: Final = 1.0 / 60.0
"""Self-discharge is so slow that it may be counted this late [h]."""

RESERVE_REPEAT_S: Final = 3600.0
"""The device-side reserve is written again this often; it wears non-volatile memory [s]."""


def loss_w(device: Capabilities, power_w: Floats) -> Floats:
    """Return the conversion loss at an AC power of either sign [W]."""
    x = np.abs(power_w) / device.power_w_nominal
    return device.loss_a_w * x * x + device.loss_b_w * x + device.loss_c_w


def drained_w(device: Capabilities, power_w: Floats) -> Floats:
    """Return what the cells lose at an AC power: conversion, standby, their heat; no self-discharge [W]."""
    battery_w = power_w + loss_w(device, power_w) + device.standby_w
    return battery_w + device.ohm_per_w_max * battery_w * battery_w


def idle_w(device: Capabilities) -> Floats:
    """Return what the cells lose while the converter runs at nothing [W]."""
    return drained_w(device, np.zeros_like(device.energy_wh))


def resting_w(device: Capabilities) -> Floats:
    """Return what the cells lose while nothing is converted: standby, self-discharge when full [W]."""
    standby_w = device.standby_w + device.ohm_per_w_max * device.standby_w * device.standby_w
    return standby_w + device.self_discharge_frac_per_h * device.energy_wh


def drain_w_max(device: Capabilities, mean_w: Floats) -> Floats:
    """Return the greatest loss of the cells behind any load of mean `mean_w` within the rating [W].

    Notes
    -----
    What the cells lose is convex in the power, so it lies under its chord: the same energy drawn in bursts at
    full power is the worst case.  Standby is included, self-discharge is not.
    """
    full_w = device.power_w_discharge_max
    return idle_w(device) + mean_w / full_w * (drained_w(device, full_w) - idle_w(device))


def reserve_wh(device: Capabilities, promise: Commitments) -> Floats:
    """Return the energy each commitment needs now, of the faded capacity [Wh].

    Notes
    -----
    ``R = (E_floor + drain · hours) / kept + one register step``, without PV credit; `kept` is what
    self-discharge leaves.
    """
    load_w = np.minimum(promise.load_w, device.power_w_discharge_max)
    step_wh = device.soc_frac_step * device.energy_wh
    kept_frac = 1.0 - device.self_discharge_frac_per_h * (promise.hours_h + BOOKED_LATE_H)
    served_wh = drain_w_max(device, load_w) * promise.hours_h
    return (device.soc_frac_floor * device.energy_wh + served_wh) / kept_frac + step_wh


class Guard:
    """Keeps the books of one pool: how low the true energy may be, and what may be granted.

    Parameters
    ----------
    pool : Pool
    validity_s : float
        Validity of every power command [s].
    """

    def __init__(self, pool: Pool, validity_s: float) -> None:
        self.pool = pool
        self.validity_s = validity_s
        device = pool.capabilities
        n = len(pool.names)
        self._resting_w = resting_w(device)
        blind_wh = self._resting_w * BLIND_H
        self.reserve_wh = reserve_wh(device, pool.commitments)
        self.floor_wh = self.reserve_wh + blind_wh
        self._recharge_wh = self.reserve_wh + 0.5 * blind_wh
        step = device.soc_frac_step
        # A device that recharges by itself needs no provision for its own consumption in the register.
        itself = np.array([state == "recharge" for state in device.revert_state])
        kept_wh = np.where(itself, self.reserve_wh, self.floor_wh)
        # The device holds its estimate at the reserve, so the truth may lie below it by the error.
        kept_frac = np.ceil(kept_wh / device.energy_wh / step) * step + 2.0 * step
        self.register_frac = np.minimum(kept_frac + device.soc_frac_error_max, 1.0)
        self.exposure_s = pool.delay_s_max + validity_s + ACTUATION_S
        self._soc_frac = np.full(n, np.nan)
        self._changed_ns = np.full(n, -1, dtype=np.int64)
        self._spent_wh = np.zeros(n)
        self._standing_w = np.zeros(n)
        self._standing_until_ns = np.full(n, -1, dtype=np.int64)
        self._recharging = np.zeros(n, dtype=np.bool_)
        self._last_ns = -1
        self._reserve_next_ns = 0
        with np.errstate(divide="ignore"):
            unchanged_s = 2.0 * step * device.energy_wh * 3600.0 / device.standby_w
        # A live reading moves by one step at least this often, because standby alone drains that much.
        self.frozen_after_s = np.where(
            device.standby_w > 0.0, np.maximum(unchanged_s, 4.0 * pool.poll_s), np.inf
        )

    def observe(self, now_ns: int, telemetry: Telemetry) -> None:
        """Take in the newest telemetry and count what may have been spent since the last proven reading."""
        known = ~np.isnan(telemetry.soc_frac) & (telemetry.measured_ns >= 0)
        changed = known & (telemetry.soc_frac != self._soc_frac)
        # What the standing grant may have spent since the measurement, or, when it is not new, since last
        # time.
        since_ns = np.where(changed, telemetry.measured_ns, self._last_ns if self._last_ns >= 0 else now_ns)
        granted_ns = np.clip(np.minimum(now_ns, self._standing_until_ns) - since_ns, 0, None)
        spent_wh = self._standing_w * granted_ns / 3.6e12 + self._resting_w * (now_ns - since_ns) / 3.6e12
        self._spent_wh = np.where(changed, spent_wh, self._spent_wh + spent_wh)
        self._soc_frac = np.where(changed, telemetry.soc_frac, self._soc_frac)
        self._changed_ns = np.where(changed, telemetry.measured_ns, self._changed_ns)
        self._last_ns = now_ns
        self._now_ns = now_ns
        self._telemetry = telemetry
        self.trusted = (
            known
            & (telemetry.grid_good == 1.0)
            & (now_ns - telemetry.measured_ns <= (3.0 * self.pool.poll_s + 2.0 * self.pool.delay_s_max) * 1e9)
            & (now_ns - self._changed_ns <= self.frozen_after_s * 1e9)
        )

    @property
    def energy_wh_low(self) -> Floats:
        """Lower edge of the true energy; NaN before the first reading [Wh]."""
        device = self.pool.capabilities
        return (self._soc_frac - device.soc_frac_error_max) * device.energy_wh - self._spent_wh

    def discharge_w_max(self) -> Floats:
        """Return the greatest discharge that rule G grants now; 0 where a reading cannot be trusted [W]."""
        device = self.pool.capabilities
        spare_w = (self.energy_wh_low - self.floor_wh) * 3600.0 / self.exposure_s
        full_w = device.power_w_discharge_max
        per_load = (drained_w(device, full_w) - idle_w(device)) / full_w
        power_w = (spare_w - idle_w(device) - self._resting_w) / per_load
        power_w = np.clip(power_w, 0.0, device.power_w_discharge_max)
        return np.where(self.trusted & ~np.isnan(power_w), power_w, 0.0)

    def commands(self, wanted_w: Floats) -> Commands:
        """Turn wishes into safe commands: recharge below the floor, discharge within rule G.

        Parameters
        ----------
        wanted_w : Floats, shape (n,)
            Power the market would like; NaN for none [W].

        Returns
        -------
        Commands
            With this pool's validity, and the device-side reserve when it is due.
        """
        device = self.pool.capabilities
        telemetry = self._telemetry
        islanded = telemetry.grid_good == 0.0
        allowed_w = self.discharge_w_max()
        power_w = np.where(wanted_w > 0.0, np.minimum(wanted_w, allowed_w), wanted_w)
        power_w = np.where(
            (wanted_w > 0.0) & (power_w < 0.02 * device.power_w_discharge_max), np.nan, power_w
        )
        # Near the reserve, or not knowing any more: recharge.  Charging needs no guard.
        energy_wh = self.energy_wh_low
        self._recharging &= energy_wh < self.floor_wh
        self._recharging |= energy_wh < self._recharge_wh
        seen = telemetry.measured_ns >= 0
        power_w = np.where(self._recharging | (seen & ~self.trusted), -device.power_w_charge_max, power_w)
        # A device that discharges on its own and has no reserve of its own is held at zero near the floor.
        spend_wh = drain_w_max(device, device.power_w_discharge_max) * self.exposure_s / 3600.0
        restless = np.array([r == "self_consumption" for r in device.revert_state]) & ~device.has_reserve
        held = restless & np.isnan(power_w) & ~(energy_wh - spend_wh >= self.floor_wh)
        power_w = np.where(held, 0.0, power_w)
        power_w = np.where(islanded, np.nan, power_w)
        given = ~np.isnan(power_w)
        self._note(np.where(given, power_w, 0.0), given)
        return Commands(power_w, np.where(given, self.validity_s, np.nan), self._reserve_due())

    def _note(self, power_w: Floats, given: NDArray[np.bool_]) -> None:
        """Remember the worst that the grants standing out there can do."""
        drain_w = np.where(power_w > 0.0, drained_w(self.pool.capabilities, power_w), 0.0)
        until_ns = self._now_ns + round(self.exposure_s * 1e9)
        live = self._standing_until_ns > self._now_ns
        # A command may be lost, so an older and larger grant stays possible until it has run out.
        self._standing_w = np.where(live, np.maximum(self._standing_w, drain_w), drain_w)
        raised = given & (power_w > 0.0)
        self._standing_until_ns = np.where(raised, until_ns, self._standing_until_ns)

    def _reserve_due(self) -> Floats:
        """Return the device-side reserve twice at the start, then every `RESERVE_REPEAT_S`; else NaN."""
        if self._now_ns < self._reserve_next_ns:
            return np.full(len(self.pool.names), np.nan)
        wait_s = REPEAT_FIRST_S if self._reserve_next_ns == 0 else RESERVE_REPEAT_S
        self._reserve_next_ns = self._now_ns + round(wait_s * 1e9)
        return np.where(self.pool.capabilities.has_reserve, self.register_frac, np.nan)
