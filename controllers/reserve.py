"""Trades on price with what is above the reserve, by the guard rule: the reference discipline."""

from __future__ import annotations

import numpy as np

from .contract import Commands, Pool, Telemetry
from .guard import Guard
from .market import wish_w


class Reserve:
    """Discharge when dear and charge when cheap, never below what each home was promised.

    Notes
    -----
    Every grant carries a validity that becomes the device's revert timer; the guard rule (properties of the
    commitment, docs/judge.md) reserves the energy that a grant can cost if no later message arrives.
    """

    period_s = 60.0
    validity_s = 180.0

    def enroll(self, pool: Pool) -> None:
        """Take note of the pool."""
        self._pool = pool
        self._guard = Guard(pool, self.validity_s)

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Trade within the guard rule."""
        self._guard.observe(now_ns, telemetry)
        wanted_w = wish_w(self._pool.capabilities, telemetry.prices)
        full = telemetry.soc_frac >= self._pool.capabilities.soc_frac_max - 0.005
        return self._guard.commands(np.where((wanted_w < 0.0) & full, np.nan, wanted_w))
