"""Faults into a run that goes on: what may be asked, and what becomes of it.

Duty: check what somebody asks, turn it into an `Event` that begins at the next instant still open, put it
into the record, and only then let it act.
Rules: no socket here (`remote`); a request is checked as an event of a scenario is; a fault begins and ends
at an instant of the plant, which the record holds exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from ridethrough.emulator.errors import ScenarioError

from .faults import Event
from .files import scenario_from_dict
from .header import clock_text
from .scenario import Scenario, roster
from .scene import Scene
from .units import SECOND_NS, TICK_NS, duration_text, parse_duration, shown
from .world import World

INJECTED_MAX: Final = 1000
"""So many faults are taken in one run."""

_KEYS: Final = frozenset({"fault", "target", "for", "params"})
_STATED: Final = frozenset({"at", "fault", "target", "for"})
_ANY_DEVICE: Final = "home-13kwh-5kw"
"""Stands in the place of every device where only names and faults are checked."""


class Live(Protocol):
    """A run that goes on, as far as this file needs it."""

    world: World
    scene: Scene

    @property
    def next_ns(self) -> int:
        """The first instant that has not begun for the plant [ns]."""

    def refuse(self, fault: str) -> str:
        """Return why this fault cannot act here; empty when it can."""

    def note_act(self, act: Mapping[str, Any]) -> None:
        """Put what is about to be done into the record, if there is one."""

    def stop(self) -> None:
        """End the run in good order, soon."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A fault that is asked for, checked; `length_ns` is None for an open end."""

    fault: str
    targets: tuple[int, ...]
    length_ns: int | None
    params: dict[str, float | str]


def event_dict(event: Event) -> dict[str, Any]:
    """Return an event as records have it."""
    return {
        "number": event.number,
        "fault": event.fault,
        "targets": list(event.targets),
        "start_ns": event.start_ns,
        "end_ns": event.end_ns,
        "params": dict(event.params),
    }


def event_of(entry: Mapping[str, Any]) -> Event:
    """Return an event from what records have of it."""
    targets, params = tuple(entry["targets"]), dict(entry.get("params") or {})
    return Event(entry["number"], entry["fault"], targets, entry["start_ns"], entry["end_ns"], params)


def read_wish(document: Mapping[str, Any], request: Mapping[str, Any]) -> Wish:
    """Check a request to inject, as an event of the scenario would be.

    Parameters
    ----------
    document : mapping
        The scenario, in the form users write.
    request : mapping
        ``fault``, and where they apply ``target``, ``for`` and ``params``, all as in a scenario's event.

    Raises
    ------
    ScenarioError
        What is wrong, what was found, what is allowed.
    """
    odd = sorted(map(str, request.keys() - _KEYS))
    if odd:
        raise ScenarioError(f"{odd[0]}: found a key nobody knows; allowed {', '.join(sorted(_KEYS))}")
    params = request.get("params", {})
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise ScenarioError(f"params: found {shown(params)}; allowed names with values")
    if twice := sorted(_STATED & params.keys()):
        raise ScenarioError(f"params: found {twice[0]}; allowed only as a statement of its own")
    length = request.get("for")
    length_ns = None if length is None else parse_duration(length)
    if length_ns is not None and (length_ns < TICK_NS or length_ns % TICK_NS):
        raise ScenarioError(f"for: found {shown(length)}; allowed multiples of {duration_text(TICK_NS)}")
    event = {**params, "fault": request.get("fault"), "for": duration_text(length_ns or TICK_NS)}
    if request.get("target") is not None:
        event["target"] = request["target"]
    scenario = _checked(document, event)
    (spec,) = scenario.events
    targets = getattr(spec, "target", None)
    rows = () if targets is None else roster(scenario).rows(targets)
    return Wish(spec.fault, rows, length_ns, dict(spec.params))


def _checked(document: Mapping[str, Any], event: dict[str, Any]) -> Scenario:
    """Return a scenario with these names and this one event.

    Only the names of the pool are kept: devices and data may lie in files that are not at hand.
    """
    start = str(document.get("start", "00:00"))
    pool = [
        {"device": _ANY_DEVICE, "commitment": {"hours": 1, "load_w": 1}, "load": "synthetic-home"}
        | {key: group[key] for key in ("count", "name") if key in group}
        for group in document["pool"]
    ]
    small = {
        "name": document["name"],
        "start": start,
        "duration": duration_text(max(parse_duration(event["for"]), SECOND_NS)),
        "pool": pool,
        "prices": {"constant": 0},
        "events": [{**event, "at": start[11:] if "-" in start else start}],
    }
    try:
        return scenario_from_dict(small)
    except ScenarioError as error:
        lines = str(error).splitlines()
        raise ScenarioError(
            "\n".join(line.removeprefix("scenario: ").removeprefix("events[0].") for line in lines)
        ) from None


class Injector:
    """Acts on a run that goes on.

    Parameters
    ----------
    live : Live
    facts : mapping
        Of the run, shown with its state: level, speed, record.
    """

    def __init__(self, live: Live, facts: Mapping[str, Any]) -> None:
        self._live = live
        self._facts = dict(facts)
        self._taken = 0
        listed = live.world.document.get("events") or ()
        self._number = max([len(listed), *(event.number for event in live.scene.all_events)])

    def state(self) -> dict[str, Any]:
        """Return what runs, where it stands, and which faults are in force."""
        live, now_ns = self._live, self._live.next_ns
        world = live.world
        return {
            "scenario": world.scenario_name,
            **self._facts,
            "devices": list(world.names),
            "clock": self._clock(now_ns),
            "now_s": now_ns / 1e9,
            "end_clock": self._clock(world.duration_ns),
            "in_force": [event.number for event in live.scene.events(now_ns)],
        }

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults in force and those still to come, in the order of their numbers."""
        now_ns = self._live.next_ns
        events = self._not_over(now_ns)
        return [self._told(event, now_ns) for event in sorted(events, key=lambda event: event.number)]

    def inject(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Let a fault begin at the next instant; returns it.

        Raises
        ------
        ScenarioError
            It is not a fault, cannot act here, or there have been too many.
        """
        live = self._live
        wish = read_wish(live.world.document, request)
        if why := live.refuse(wish.fault):
            raise ScenarioError(f"fault: {wish.fault} found; allowed those that act here: {why}")
        if self._taken >= INJECTED_MAX:
            raise ScenarioError(f"{INJECTED_MAX} faults have been injected; allowed no more in one run")
        start_ns, last_ns = live.next_ns, live.scene.world.duration_ns
        if start_ns >= last_ns:
            raise ScenarioError("the run is at its end; allowed before it")
        end_ns = last_ns if wish.length_ns is None else min(start_ns + wish.length_ns, last_ns)
        event = Event(self._number + 1, wish.fault, wish.targets, start_ns, end_ns, wish.params)
        live.note_act({"act": "inject", "t_ns": start_ns, "event": event_dict(event)})
        self._number += 1
        self._taken += 1
        live.scene.add(event)
        return self._told(event, start_ns)

    def clear(self, number: int | None) -> list[dict[str, Any]]:
        """Let one event end now, or with None every one in force; returns what has ended.

        Raises
        ------
        ScenarioError
            There is none of that number, or it has ended.
        """
        live, now_ns = self._live, self._live.next_ns
        events = self._not_over(now_ns)
        if number is not None and all(event.number != number for event in events):
            known = (
                ", ".join(str(event.number) for event in events) or "none: no fault is in force or to come"
            )
            raise ScenarioError(f"event {number} found; allowed {known}")
        ended = [
            event
            for event in events
            if event.number == number or (number is None and event.start_ns <= now_ns)
        ]
        for event in ended:
            live.note_act({"act": "clear", "t_ns": now_ns, "number": event.number})
            live.scene.end(event.number, now_ns)
        return [self._told(replace(event, end_ns=max(event.start_ns, now_ns)), now_ns) for event in ended]

    def stop(self) -> None:
        """End the run in good order, soon."""
        self._live.stop()

    def _not_over(self, now_ns: int) -> list[Event]:
        """Return the events in force or to come; one that was cleared before it began is neither."""
        events = self._live.scene.all_events
        return [event for event in events if event.end_ns > max(now_ns, event.start_ns)]

    def _told(self, event: Event, now_ns: int) -> dict[str, Any]:
        names = self._live.world.names
        return {
            **event_dict(event),
            "devices": [names[row] for row in event.targets],
            "from": self._clock(event.start_ns),
            "until": self._clock(event.end_ns),
            "in_force": event.start_ns <= now_ns < event.end_ns,
        }

    def _clock(self, t_ns: int) -> str:
        return clock_text(t_ns, self._live.world.start_of_day_ns)
