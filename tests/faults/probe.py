"""The PROBE controller: a known sequence of commands, whatever it is shown.

Duty: command every device +2 kW in even minutes of the bench's clock and -2 kW in odd ones, once a minute,
valid for 90 s, so that a fault can be seen in what becomes of the commands.
Rule of this file: nothing depends on telemetry; a witness knows from the time alone what was commanded.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from ridethrough.controllers.contract import Commands, Pool, Telemetry

POWER_W: Final = 2000.0
PERIOD_NS: Final = 60_000_000_000
VALIDITY_S: Final = 90.0


def commanded_w(now_ns: int) -> float:
    """Return what the probe commands in the minute of a bench time [W]."""
    return POWER_W if now_ns // PERIOD_NS % 2 == 0 else -POWER_W


class Probe:
    """Alternate between discharging and charging, minute by minute."""

    period_s = PERIOD_NS / 1e9

    def enroll(self, pool: Pool) -> None:
        """Take note of the pool."""
        self._n = len(pool.names)

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        """Command this minute's power for every device."""
        return Commands(
            power_w=self._all(commanded_w(now_ns)),
            validity_s=self._all(VALIDITY_S),
            reserve_soc_frac=self._all(float("nan")),
        )

    def _all(self, value: float) -> NDArray[np.float64]:
        return np.full(self._n, value)
