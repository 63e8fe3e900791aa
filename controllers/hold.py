"""Keeps every battery at its reserve and trades nothing: the safest candidate, and the baseline of worth."""

from __future__ import annotations

import numpy as np

from .contract import Commands, Pool, Telemetry
from .guard import Guard


class Hold:
    """Write the device-side reserve, recharge what is below it, command nothing else."""

    period_s = 60.0
    validity_s = 180.0

    def enroll(self, pool: Pool) -> None:
        """Take note of the pool."""
        self._guard = Guard(pool, self.validity_s)
        self._nothing = np.full(len(pool.names), np.nan)

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Recharge where the reserve is not certain."""
        self._guard.observe(now_ns, telemetry)
        return self._guard.commands(self._nothing)
