"""Trades on price and ignores the reserve.  Unsafe on purpose: the bench must catch it."""

from __future__ import annotations

import numpy as np

from .contract import Commands, Pool, Telemetry
from .market import wish_w


class Greedy:
    """Discharge whenever the price is high, whatever was promised."""

    period_s = 60.0
    validity_s = 900.0

    def enroll(self, pool: Pool) -> None:
        """Take note of the ratings; the commitments are not looked at."""
        self._pool = pool

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Follow the price."""
        power_w = wish_w(self._pool.capabilities, telemetry.prices)
        given = ~np.isnan(power_w)
        nothing = np.full(len(power_w), np.nan)
        return Commands(power_w, np.where(given, self.validity_s, np.nan), nothing)
