"""What a device reports of itself, as data: faults of telemetry at the model level.

Rules of this file: it bends what is reported and never the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..faults import Event

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Values = dict[str, Floats]

ACTS: Final[Mapping[str, Any]] = {"telemetry.frozen": None}
"""What each fault of telemetry does."""


class ReadingFaults:
    """Faults in what the devices of one run report.

    Parameters
    ----------
    seed : int
    names : sequence of str, length n
        Of the devices: one stream of chance each.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self._seed, self._names = seed, tuple(names)
        self._held: Values = {}
        self._held_ns: Times = np.full(len(self._names), -1, dtype=np.int64)

    def take(
        self, now_ns: int, events: Sequence[Event], values: Values, measured_ns: Times
    ) -> tuple[Values, Times]:
        """Return the readings of one poll as the devices report them.

        Parameters
        ----------
        now_ns : int
            [ns].
        events : sequence of Event
            In force now; those of other places are passed over.
        values : dict of str to Floats, shape (n,)
            soc_frac, power_w, import_w and grid_good as a sound device would report them.
        measured_ns : Times, shape (n,)
            Their time stamps [ns].

        Returns
        -------
        values, measured_ns
            New arrays where anything differs.
        """
        n = len(self._names)
        frozen, fresh = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        for event in events:
            if event.fault == "telemetry.frozen":
                frozen[list(event.targets)] = True
                fresh[list(event.targets)] |= event.params["stamp"] == "fresh"
        if self._held and frozen.any():
            values = {name: np.where(frozen, self._held[name], each) for name, each in values.items()}
            measured_ns = np.where(frozen & ~fresh, self._held_ns, measured_ns)
        self._held, self._held_ns = values, measured_ns
        return values, measured_ns
