"""The controller itself, its clock and its forecasts.

Rules of this file: it stands between the bench and the candidate and has the same manners as the candidate.
A fault begins and ends when its event does, and bends the decisions that lie between.  Nothing here draws
from chance.

In the bench's own process a new instance shares the module with the one before, and what a module keeps in
its globals survives a crash; in a process of its own nothing does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from ridethrough.controllers.contract import Commands, Telemetry
from ridethrough.emulator.errors import ScenarioError

from ..candidate import Asked
from ..faults import Event

OUTPUTS_MAX: Final = 16
"""What instances have printed is kept of so many of them."""

_S: Final = 1_000_000_000


@dataclass(slots=True)
class Turn:
    """One decision, while the faults in force are bending it.

    Attributes
    ----------
    now_ns : int
        On the bench's clock [ns].
    shown_ns : int
        What the controller is told the time is [ns].
    telemetry : Telemetry
        What it is shown.
    answer : Commands or None
        What is commanded without asking the controller; None to ask it.
    late : tuple of (float, bool) or None
        The controller needs so long [s], and whether it has a plan then.
    """

    now_ns: int
    shown_ns: int
    telemetry: Telemetry
    answer: Commands | None = None
    late: tuple[float, bool] | None = None


@dataclass(slots=True)
class _Twin:
    """A second instance of the controller, and what it is asked next."""

    asked: Asked
    due_ns: int | None = None
    telemetry: Telemetry | None = None


class CandidateFaults:
    """A candidate under the faults of the controller's class.

    Parameters
    ----------
    make : callable
        Makes one instance of the controller, not enrolled yet; see `candidate_process.open_candidate`.

    Attributes
    ----------
    period_ns : int
        [ns].
    fault : str or None
        How the first instance that failed did so; from then on none is asked and nothing is commanded.
    fault_ns : int
        When that was; −1 before [ns].

    Raises
    ------
    ScenarioError
        The controller cannot be had.
    """

    def __init__(self, make: Callable[[], Asked]) -> None:
        self._make = make
        self._instance: Asked | None = make()
        self.period_ns = self._instance.period_ns
        self.fault: str | None = None
        self.fault_ns = -1
        self._n = 0
        self._in_force: dict[int, Event] = {}
        self._outputs: list[str] = []
        self._shown: Telemetry | None = None
        self._last: Commands | None = None
        self._said: list[Commands] = []
        self._plan: tuple[int, Commands] | None = None
        self._busy_until_ns = -1
        self._restarted_ns: dict[int, int] = {}
        self._twins: dict[int, _Twin] = {}

    @property
    def output(self) -> str:
        """What the instances have printed, one after the other; empty for those in this process."""
        live = [self._instance] if self._instance is not None else []
        texts = [*self._outputs, *(each.output for each in (*live, *self._all_twins()))]
        return "".join(texts[:OUTPUTS_MAX])

    def enroll(self) -> None:
        """Hand the pool to the first instance."""
        if self._instance is not None:
            self._instance.enroll(0)
            self._note(self._instance)

    def decide(self, now_ns: int, telemetry: Telemetry, events: Sequence[Event]) -> Commands:
        """Return what is commanded at the controller's turn; see `candidate.Asked.decide`.

        Parameters
        ----------
        now_ns : int
            [ns].
        telemetry : Telemetry
        events : sequence of Event
            In force now; those of other places are passed over.
        """
        self._n = len(telemetry.soc_frac)
        self._follow(now_ns, events)
        turn = Turn(now_ns, now_ns, telemetry)
        for event in self._in_force.values():
            ACTS[event.fault](self, event, turn)
        self._shown = turn.telemetry
        if self.fault is not None:
            turn.answer = self.nothing()
        return self._ask(turn) if turn.answer is None else turn.answer

    def due(self, now_ns: int, events: Sequence[Event]) -> list[Commands]:
        """Return what else is commanded by now: late plans, and what a second instance wants.

        To be asked at `next_ns`, and whenever an event begins or ends.
        """
        self._follow(now_ns, events)
        out, self._said = self._said, []
        if self._plan is not None and self._plan[0] <= now_ns:
            out.append(self._plan[1])
            self._plan = None
        for twin in self._twins.values():
            if twin.due_ns is not None and twin.due_ns <= now_ns and twin.telemetry is not None:
                twin.due_ns = None
                if self.fault is None:
                    out.append(twin.asked.decide(now_ns, twin.telemetry))
                    self._note(twin.asked)
        return out if self.fault is None else []

    def next_ns(self) -> int | None:
        """Return the next instant at which `due` has something [ns]; None when nothing is to come."""
        instants = [twin.due_ns for twin in self._twins.values() if twin.due_ns is not None]
        if self._plan is not None:
            instants.append(self._plan[0])
        return min(instants, default=None)

    def close(self) -> None:
        """Let go of every instance."""
        self.stop()
        for number in list(self._twins):
            self.part(number)

    # What the acts do.

    def nothing(self) -> Commands:
        """Return commands that command nothing."""
        return Commands.none(self._n)

    def say(self, power_w: float, validity_s: float, reserve_soc_frac: float) -> None:
        """Command every device once, without asking the controller; not a number leaves it alone."""
        told = (np.full(self._n, value) for value in (power_w, validity_s, reserve_soc_frac))
        self._said.append(Commands(*told))

    def stop(self) -> None:
        """End the instance in service, if there is one; its state is lost."""
        if self._instance is not None:
            self._retire(self._instance)
            self._instance = None
        self._last = self._plan = None
        self._said = []
        self._busy_until_ns = -1

    def start(self, now_ns: int) -> None:
        """Put a new instance in service, if there is none."""
        if self._instance is None:
            self._instance = self._new(now_ns)

    def restart(self, event: Event, now_ns: int) -> None:
        """End the instance in service; the event's decisions start a new one in time."""
        self.stop()
        self._restarted_ns[event.number] = now_ns

    def restarted_ns(self, event: Event) -> int:
        """Return when an event last restarted the controller [ns]."""
        return self._restarted_ns[event.number]

    def repeat(self) -> Commands:
        """Return what was commanded last of each device."""
        return self.nothing() if self._last is None else self._last

    def join(self, event: Event, now_ns: int) -> None:
        """Put a second instance beside the first."""
        made = self._new(now_ns)
        if made is not None:
            self._twins[event.number] = _Twin(made)

    def appoint(self, event: Event, turn: Turn) -> None:
        """Have the second instance decide later, on what the first was shown at its turn before."""
        twin = self._twins.get(event.number)
        if twin is not None:
            twin.due_ns = turn.now_ns + round(float(event.params["offset_frac"]) * self.period_ns)
            twin.telemetry = self._shown if self._shown is not None else turn.telemetry

    def part(self, number: int) -> None:
        """End the second instance of an event."""
        twin = self._twins.pop(number, None)
        if twin is not None:
            self._retire(twin.asked)

    def drop_plan(self) -> None:
        """Forget the plan that is still being made."""
        self._plan = None
        self._busy_until_ns = -1

    @property
    def is_down(self) -> bool:
        """Whether no instance is in service."""
        return self._instance is None

    # The rest.

    def _follow(self, now_ns: int, events: Sequence[Event]) -> None:
        """Let events begin, and those that are over end; in the order of `ACTS`, whatever the scenario's."""
        mine = [event for event in events if event.fault in ACTS]
        before = self._in_force
        if not mine and not before:
            return
        self._in_force = {event.number: event for event in sorted(mine, key=_rank)}
        for number, event in before.items():
            if number not in self._in_force and event.fault in ENDS:
                ENDS[event.fault](self, event, now_ns)
        for number, event in self._in_force.items():
            if number not in before and event.fault in BEGINS:
                BEGINS[event.fault](self, event, now_ns)

    def _ask(self, turn: Turn) -> Commands:
        """Ask the instance in service; what it says may come later."""
        if self._instance is None or turn.now_ns < self._busy_until_ns:
            return self.nothing()
        commands = self._instance.decide(turn.shown_ns, turn.telemetry)
        self._note(self._instance, turn.now_ns)
        self._last = _last(self._last, commands)
        if turn.late is None or self.fault is not None:
            return commands
        ready = self.nothing() if self._plan is None else self._plan[1]  # it has come at this very instant
        delay_s, has_plan = turn.late
        self._busy_until_ns = turn.now_ns + round(delay_s * _S)
        self._plan = (self._busy_until_ns, commands) if has_plan else None
        return ready

    def _new(self, now_ns: int) -> Asked | None:
        """Return a new instance, enrolled; None when there can be none."""
        if self.fault is not None:
            return None
        try:
            made = self._make()
        except ScenarioError as error:
            self.fault, self.fault_ns = f"a new instance could not be had: {error}", now_ns
            return None
        made.enroll(now_ns)
        self._note(made)
        return made

    def _retire(self, asked: Asked) -> None:
        asked.close()
        if len(self._outputs) < OUTPUTS_MAX:
            self._outputs.append(asked.output)

    def _note(self, asked: Asked, now_ns: int | None = None) -> None:
        """Take note of a failure; it is dated by the bench's clock, whatever the controller was told."""
        if self.fault is None and asked.fault is not None:
            self.fault = asked.fault
            self.fault_ns = asked.fault_ns if now_ns is None else now_ns

    def _all_twins(self) -> list[Asked]:
        return [twin.asked for twin in self._twins.values()]


def _last(before: Commands | None, commands: Commands) -> Commands:
    """Return the last power commanded of each device; reserves are not repeated."""
    power_w, validity_s = commands.power_w, commands.validity_s
    if before is not None:
        old = np.isnan(power_w)
        power_w = np.where(old, before.power_w, power_w)
        validity_s = np.where(old, before.validity_s, validity_s)
    return Commands(power_w, validity_s, np.full(len(power_w), np.nan))


def _rank(event: Event) -> tuple[int, int]:
    """Return a key that sorts events in the order of `ACTS`."""
    return list(ACTS).index(event.fault), event.number


def _crash(seat: CandidateFaults, event: Event, turn: Turn) -> None:
    turn.answer = seat.nothing()


def _crash_begins(seat: CandidateFaults, event: Event, now_ns: int) -> None:
    seat.stop()


def _crash_ends(seat: CandidateFaults, event: Event, now_ns: int) -> None:
    if event.params["restart"] == "end":
        seat.start(now_ns)


def _restart(seat: CandidateFaults, event: Event, turn: Turn) -> None:
    if turn.answer is not None:
        return
    if turn.now_ns - seat.restarted_ns(event) >= float(event.params["every_s"]) * _S:
        seat.restart(event, turn.now_ns)
    if turn.now_ns - seat.restarted_ns(event) < float(event.params["down_s"]) * _S:
        turn.answer = seat.nothing()
    else:
        seat.start(turn.now_ns)


def _restart_begins(seat: CandidateFaults, event: Event, now_ns: int) -> None:
    seat.restart(event, now_ns)


def _restart_ends(seat: CandidateFaults, event: Event, now_ns: int) -> None:
    seat.start(now_ns)


def _wrong_default_begins(seat: CandidateFaults, event: Event, now_ns: int) -> None:
    params, write = event.params, event.params["write"]
    if not seat.is_down:
        seat.say(
            power_w=float(params["power_w"]) if write != "reserve" else np.nan,
            validity_s=float(params["validity_s"]) if write != "reserve" else np.nan,
            reserve_soc_frac=float(params["reserve_frac"]) if write != "power" else np.nan,
        )


def _not_asked(seat: CandidateFaults, event: Event, turn: Turn) -> None:
    if turn.answer is None:
        turn.answer = seat.nothing()


def _deadlock(seat: CandidateFaults, event: Event, turn: Turn) -> None:
    if turn.answer is None:
        turn.answer = seat.repeat() if event.params["answer"] == "last" else seat.nothing()


def _slow_plan(seat: CandidateFaults, event: Event, turn: Turn) -> None:
    turn.late = float(event.params["delay_s"]), event.params["plan"] == "late"


def _slow_plan_ends(seat: CandidateFaults, event: Event, now_ns: int) -> None:
    seat.drop_plan()


def _ignores_islanding(seat: CandidateFaults, event: Event, turn: Turn) -> None:
    known = ~np.isnan(turn.telemetry.grid_good)
    turn.telemetry = replace(turn.telemetry, grid_good=np.where(known, 1.0, np.nan))


def _bad_forecast(seat: CandidateFaults, event: Event, turn: Turn) -> None:
    prices = turn.telemetry.prices
    ahead = prices.ahead_usd_per_mwh
    way = event.params["forecast"]
    if way == "missing":
        ahead = np.empty(0)
    elif way == "nan":
        ahead = np.full(len(ahead), np.nan)
    else:
        ahead = ahead * float(event.params["factor"]) + float(event.params["offset_usd_per_mwh"])
    turn.telemetry = replace(turn.telemetry, prices=replace(prices, ahead_usd_per_mwh=ahead))


def _dst_change(seat: CandidateFaults, event: Event, turn: Turn) -> None:
    turn.shown_ns += 3600 * _S if event.params["jump"] == "forward" else -3600 * _S


def _two_instances(seat: CandidateFaults, event: Event, turn: Turn) -> None:
    seat.appoint(event, turn)


def _two_instances_begin(seat: CandidateFaults, event: Event, now_ns: int) -> None:
    seat.join(event, now_ns)


def _two_instances_end(seat: CandidateFaults, event: Event, now_ns: int) -> None:
    seat.part(event.number)


ACTS: Final[Mapping[str, Callable[[CandidateFaults, Event, Turn], None]]] = {
    "controller.crash": _crash,
    "controller.restart": _restart,
    "controller.wrong-default": _not_asked,
    "controller.infeasible": _not_asked,
    "controller.deadlock": _deadlock,
    "controller.slow-plan": _slow_plan,
    "controller.ignores-islanding": _ignores_islanding,
    "controller.bad-forecast": _bad_forecast,
    "telemetry.dst-change": _dst_change,
    "controller.two-instances": _two_instances,
}
"""What each fault of the controller does to one decision, in this order.

A controller that is down has no say, one that is not asked sees nothing, and the second instance sees what
the first was shown.
"""

Edge = Callable[[CandidateFaults, Event, int], None]

BEGINS: Final[Mapping[str, Edge]] = {
    "controller.crash": _crash_begins,
    "controller.restart": _restart_begins,
    "controller.wrong-default": _wrong_default_begins,
    "controller.two-instances": _two_instances_begin,
}
"""What happens at once when an event begins, besides what becomes of decisions."""

ENDS: Final[Mapping[str, Edge]] = {
    "controller.crash": _crash_ends,
    "controller.restart": _restart_ends,
    "controller.slow-plan": _slow_plan_ends,
    "controller.two-instances": _two_instances_end,
}
"""What the end of an event puts right, where leaving the decisions alone is not enough."""
