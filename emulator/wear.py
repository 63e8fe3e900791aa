"""What a plant's batteries have lost: feeds the ageing equations once an hour of simulated time.

Rules of this file: reads what an hour has done to each battery, keeps the counters that must outlast the
hour, returns new states of health.  The equations are in `ageing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import ageing
from .profile import DeviceProfile

Floats = NDArray[np.float64]

HOURS_PER_DAY = 24


class Wear:
    """Losses of every battery of a plant.

    Parameters
    ----------
    profiles : sequence of DeviceProfile, length n
    soh_frac : Floats, shape (n,)
        State of health at the start [1]; what is missing counts as lost with time.
    energy_j : Floats, shape (n,)
        Energy at the start [J].

    Attributes
    ----------
    q_cal, q_cyc : Floats, shape (n,)
        Capacity lost with time and with use, of nominal [1].
    efc : Floats, shape (n,)
        Equivalent full cycles since the start [1].
    """

    def __init__(self, profiles: Sequence[DeviceProfile], soh_frac: Floats, energy_j: Floats) -> None:
        n = len(profiles)
        self.kinds = np.array([ageing.KIND.index(profile.battery.ageing) for profile in profiles])
        self.q_cal = 1.0 - soh_frac
        self.q_cyc, self.efc = np.zeros(n), np.zeros(n)
        self._nominal_j = np.array([profile.battery.energy_wh * 3600.0 for profile in profiles])
        self._moved_j = np.zeros(n)
        self._soc_frac = energy_j / (self._nominal_j * soh_frac)
        self._today = self._soc_frac.copy(), self._soc_frac.copy()
        self._day_before = self._today
        self._hours = 0

    def hour(
        self, dt_s: float, energy_j: Floats, capacity_j: Floats, moved_j: Floats, temp_c: Floats
    ) -> Floats:
        """Return the states of health after another hour, shape (n,) [1].

        Parameters
        ----------
        dt_s : float
            Its length [s].
        energy_j, capacity_j, temp_c : Floats, shape (n,)
            Energy, faded capacity and cell temperature at its end [J, J, °C].
        moved_j : Floats, shape (n,)
            Charged plus discharged since the start of the plant [J].

        Notes
        -----
        The mean state of charge is that of both ends; the depth of cycles is the range of today, sampled by
        the hour, or that of the day before if it is wider.
        """
        soc_frac = energy_j / capacity_j
        throughput = (moved_j - self._moved_j) / (2.0 * self._nominal_j)
        low, high = np.minimum(self._today[0], soc_frac), np.maximum(self._today[1], soc_frac)
        depth = np.maximum(high - low, self._day_before[1] - self._day_before[0])
        self.q_cal, self.q_cyc, self.efc, soh_frac = ageing.advance(
            self.kinds,
            self.q_cal,
            self.q_cyc,
            self.efc,
            dt_s=dt_s,
            soc_frac=0.5 * (self._soc_frac + soc_frac),
            temp_c=temp_c,
            throughput_frac=throughput,
            dod_frac=depth,
            c_rate=2.0 * throughput * 3600.0 / dt_s,
        )
        self._soc_frac, self._moved_j, self._today = soc_frac, moved_j, (low, high)
        self._hours += 1
        if self._hours % HOURS_PER_DAY == 0:
            self._day_before, self._today = self._today, (soc_frac.copy(), soc_frac.copy())
        return soh_frac
