"""The broker between the controller and the devices: what becomes of commands and readings on its way.

Rules of this file: messages are passed on whole; without a fault they pass at once and unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ridethrough.controllers.contract import Commands, Telemetry

from ..faults import Event

ACTS: Final[Mapping[str, Any]] = {}
"""What each fault of the broker does."""


class OrderFaults:
    """The broker of one run.

    Parameters
    ----------
    seed : int
    names : sequence of str, length n
        Of the devices: one stream of chance each.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self._seed, self._names = seed, tuple(names)
        self._out: list[Commands] = []

    def see(self, now_ns: int, telemetry: Telemetry, events: Sequence[Event]) -> Telemetry:
        """Return what the controller is shown of what the devices have reported."""
        return telemetry

    def send(self, now_ns: int, commands: Commands, events: Sequence[Event]) -> None:
        """Take what the controller has just commanded."""
        self._out.append(commands)

    def due(self, now_ns: int, events: Sequence[Event]) -> list[Commands]:
        """Return what leaves the broker now, in order; asked whenever `next_ns` or an edge is reached."""
        out, self._out = self._out, []
        return out

    def next_ns(self) -> int | None:
        """Return the next instant at which something held here is due [ns]; None when nothing is held."""
        return None
