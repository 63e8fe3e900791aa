"""The controller's side of the bench: the candidate, and the broker that everything it says goes through.

Rules of this file: the same at every level; it knows no device and no message on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ridethrough.controllers.contract import Commands, Telemetry

from .effects.candidate import CandidateFaults
from .effects.orders import OrderFaults
from .faults import Event


class Desk:
    """Asks the controller in time, and says when it has to be asked again.

    Parameters
    ----------
    candidate : CandidateFaults
        Enrolled.
    broker : OrderFaults
    """

    def __init__(self, candidate: CandidateFaults, broker: OrderFaults) -> None:
        self._candidate, self._broker = candidate, broker
        self._turn_ns = 0

    def turn(
        self, now_ns: int, telemetry: Callable[[], Telemetry], events: Sequence[Event]
    ) -> list[Commands]:
        """Return what goes to the devices now; to be called at `next_ns`, and when an event begins or ends.

        Parameters
        ----------
        now_ns : int
            [ns].
        telemetry : callable
            Returns what the devices have reported; called only if the controller is asked.
        events : sequence of Event
            In force now.
        """
        candidate, broker = self._candidate, self._broker
        if now_ns >= self._turn_ns:
            seen = broker.see(now_ns, telemetry(), events)
            broker.send(now_ns, candidate.decide(now_ns, seen, events), events)
            # The next turn that is still to come, however long this one took.
            self._turn_ns += ((now_ns - self._turn_ns) // candidate.period_ns + 1) * candidate.period_ns
        for commands in candidate.due(now_ns, events):
            broker.send(now_ns, commands, events)
        return broker.due(now_ns, events)

    @property
    def next_ns(self) -> int:
        """The next instant at which somebody has a turn [ns]."""
        waiting = (self._turn_ns, self._candidate.next_ns(), self._broker.next_ns())
        return min(due_ns for due_ns in waiting if due_ns is not None)
