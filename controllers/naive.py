"""Controllers that make the mistakes of public incidents.  Unsafe on purpose: each trusts one thing too much.

Each keeps its promises as long as what it trusts deserves it; docs/incidents.md tells which incident shows
that it does not.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .contract import Commands, Floats, Pool, Telemetry
from .guard import drain_w_max, drained_w, reserve_wh

MARGIN_FRAC: Final = 0.02
"""Of the capacity, kept above the reserve [1]."""

FULL_FRAC: Final = 0.8
"""A battery that is shown above this is full enough to sell from [1]."""


def _commands(power_w: Floats, validity_s: float, reserve_frac: Floats | None = None) -> Commands:
    given = ~np.isnan(power_w)
    nothing = np.full(power_w.size, np.nan)
    return Commands(
        power_w, np.where(given, validity_s, np.nan), nothing if reserve_frac is None else reserve_frac
    )


class Seller:
    """Sell at full power while the shown charge covers it: trusts each single reading, whatever it says.

    Notes
    -----
    Every grant is covered by what is shown above the reserve, for all of its validity.
    """

    period_s = 10.0
    validity_s = 600.0

    def enroll(self, pool: Pool) -> None:
        """Work out what must be shown before a grant is given."""
        device = pool.capabilities
        self._full_w = device.power_w_discharge_max
        cost_wh = drained_w(device, self._full_w) * (self.validity_s + pool.delay_s_max) / 3600.0
        floor_wh = reserve_wh(device, pool.commitments)
        self._needed_frac = (floor_wh + cost_wh) / device.energy_wh + MARGIN_FRAC + device.soc_frac_error_max

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Sell where enough is shown."""
        sells = (telemetry.grid_good == 1.0) & (telemetry.soc_frac >= self._needed_frac)
        return _commands(np.where(sells, self._full_w, np.nan), self.validity_s)


class HoldOnce:
    """Hold every battery at nothing, once, for a day: trusts that a command lasts as long as it says."""

    period_s = 60.0
    validity_s = 86400.0

    def enroll(self, pool: Pool) -> None:
        """Nothing has been written yet."""
        self._held = np.zeros(len(pool.names), dtype=np.bool_)

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Write where there is a reading and nothing has been written yet."""
        first = ~self._held & ~np.isnan(telemetry.soc_frac)
        self._held |= first
        return _commands(np.where(first, 0.0, np.nan), self.validity_s)


class FillByReserve:
    """Raise the reserve to 99 % so that batteries fill from the grid: trusts that it counts there only."""

    period_s = 60.0
    target_frac = 0.99

    def enroll(self, pool: Pool) -> None:
        """Take note of who has a reserve of its own."""
        self._target_frac = np.where(pool.capabilities.has_reserve, self.target_frac, np.nan)
        self._asked = np.zeros(len(pool.names), dtype=np.bool_)

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Write the reserve once."""
        first = ~self._asked & ~np.isnan(telemetry.soc_frac)
        self._asked |= first
        nothing = np.full(first.size, np.nan)
        return Commands(nothing, nothing, np.where(first, self._target_frac, np.nan))


class WhenFull:
    """Sell 2 kW for two hours each time a battery becomes full: trusts that what it sees happens."""

    period_s = 60.0
    power_w = 2000.0
    validity_s = 7200.0

    def enroll(self, pool: Pool) -> None:
        """No battery has been seen yet."""
        self._was_full = np.zeros(len(pool.names), dtype=np.bool_)

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Sell where a battery is full and was not."""
        known = ~np.isnan(telemetry.soc_frac)
        full = telemetry.soc_frac >= FULL_FRAC
        begins = known & full & ~self._was_full & (telemetry.grid_good == 1.0)
        self._was_full = np.where(known, full, self._was_full)
        return _commands(np.where(begins, self.power_w, np.nan), self.validity_s)


class HalfHourly:
    """Recharge what is below the reserve, each command for half an hour: trusts that it lasts that long."""

    period_s = 1800.0
    validity_s = 1860.0

    def enroll(self, pool: Pool) -> None:
        """Work out below which reading a battery is recharged."""
        device = pool.capabilities
        floor_wh = reserve_wh(device, pool.commitments)
        idle_wh = drain_w_max(device, np.zeros_like(floor_wh)) * self.period_s / 3600.0
        self._needed_frac = (floor_wh + idle_wh) / device.energy_wh + MARGIN_FRAC + device.soc_frac_error_max
        self._charge_w = -device.power_w_charge_max

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Charge where less than the reserve is shown, and hold where not."""
        grid = telemetry.grid_good == 1.0
        power_w = np.where(telemetry.soc_frac < self._needed_frac, self._charge_w, 0.0)
        return _commands(np.where(grid & ~np.isnan(telemetry.soc_frac), power_w, np.nan), self.validity_s)
