"""The controller itself, its clock and its forecasts.

Rules of this file: it stands between the bench and the candidate and has the same manners as the candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ridethrough.controllers.contract import Commands, Telemetry

from ..candidate import Candidate
from ..faults import Event

ACTS: Final[Mapping[str, Any]] = {}
"""What each fault of the controller does."""


class CandidateFaults:
    """A candidate under the faults of the controller's class.

    Parameters
    ----------
    candidate : Candidate
        Enrolled.
    """

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def decide(self, now_ns: int, telemetry: Telemetry, events: Sequence[Event]) -> Commands:
        """Return what the controller commands at its turn; see `Candidate.decide`."""
        return self._candidate.decide(now_ns, telemetry)
