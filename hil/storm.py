"""Storms: random faults out of the catalogue, then a time to heal.

Duty: draw a schedule of faults for a scenario, as events a user could have written.
Rules of this file:

- Two phases.  In the storm, faults begin and end; from the heal instant on none is in force but for the
  permanent ones, which never act on the protected core.
- Everything is drawn by name: which minute by class, which fault by class, minute and fault, so that a class,
  a fault or, at the end of the pool, a device more does not move what the others get.
- Swarm: each seed leaves out each class with probability 1/2, because a fault that is always there hides what
  happens without it.
- A drawn value is around that of the fault's example, in its range, and as round as somebody would write it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from numpy.random import Generator
from ridethrough.emulator.errors import ScenarioError

from .effects.table import LEVELS, levels
from .fault_files import FOR, FaultKind
from .fault_params import Param, Value
from .faults import Event, EventSpec, catalogue
from .scenario import Scenario, StormSpec, roster, start_of_day_ns
from .streams import stream
from .units import HOUR_NS, MINUTE_NS, SECOND_NS, TICK_NS, instant_text

EVENTS_MAX: Final = 10_000
FOR_NS: Final = 10 * MINUTE_NS
"""Length of a fault whose example has none [ns]."""

SPREAD_LOW, SPREAD_HIGH = 0.5, 2.0
"""A quantity is drawn between these times that of the example."""

ONE_FRAC, ALL_FRAC = 0.5, 0.25
"""Shares of faults that meet one device, and all; the rest meets each device with `SOME_FRAC`."""
SOME_FRAC = 0.25

_DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class _Draw:
    """What all faults of one storm are drawn from.

    Attributes
    ----------
    spec : StormSpec
    seed : int
    names : tuple of str, length n
        Devices.
    loose : tuple of int
        Devices outside the core.
    begin_ns, heal_ns, end_ns : int
        Start of the run, end of the storm, end of the run, from midnight of the start day [ns].
    """

    spec: StormSpec
    seed: int
    names: tuple[str, ...]
    loose: tuple[int, ...]
    begin_ns: int
    heal_ns: int
    end_ns: int

    def chance(self, name: str) -> Generator:
        """Return the storm's stream of this name."""
        return stream(self.seed, f"storm/{name}")


def heal_ns(scenario: Scenario) -> int | None:
    """Return when the storm of a scenario ends, on the bench's clock [ns]; None when it has no storm."""
    if scenario.storm is None:
        return None
    if scenario.storm.until is not None:
        return scenario.storm.until - start_of_day_ns(scenario.start)
    return scenario.duration * 3 // 4 // TICK_NS * TICK_NS


def storm(scenario: Scenario) -> tuple[EventSpec, ...]:
    """Return the faults of a scenario's storm, in order of time; none when it has no storm.

    Parameters
    ----------
    scenario : Scenario
        Its seed, pool, times and `storm` matter.

    Raises
    ------
    ScenarioError
        When there would be more than about `EVENTS_MAX`.
    """
    until_ns, spec = heal_ns(scenario), scenario.storm
    if until_ns is None or spec is None:
        return ()
    count = (spec.faults_per_hour * until_ns / HOUR_NS + spec.permanent) * len(spec.classes)
    if count > EVENTS_MAX:
        raise ScenarioError(
            f"storm: found about {count:.0f} faults ({spec.faults_per_hour:g} per hour of each of "
            f"{len(spec.classes)} classes); allowed {EVENTS_MAX}"
        )
    people, begin_ns = roster(scenario), start_of_day_ns(scenario.start)
    core = people.rows(spec.core) if spec.core else ()
    draw = _Draw(
        spec,
        scenario.seed,
        people.names,
        tuple(row for row in range(len(people.names)) if row not in set(core)),
        begin_ns,
        begin_ns + until_ns,
        begin_ns + scenario.duration,
    )
    found: list[EventSpec] = []
    for group, kinds in _classes(draw).items():
        found += _passing(draw, group, kinds)
        found += _permanent(draw, group, kinds)
    return tuple(sorted(found, key=lambda event: (event.at, event.fault)))


def _classes(draw: _Draw) -> dict[str, list[FaultKind]]:
    """Return the faults of each class that takes part under this seed."""
    # One storm for every level: what acts at some of them only would have to be left out elsewhere.
    kinds = [kind for kind in catalogue().values() if levels(kind.fault) == LEVELS]
    return {
        group: [kind for kind in kinds if kind.group == group]
        for group in sorted(draw.spec.classes)
        if not draw.spec.swarm or draw.chance(f"{group}/swarm").random() >= 0.5
    }


def _passing(draw: _Draw, group: str, kinds: Sequence[FaultKind]) -> Iterator[EventSpec]:
    """Draw the faults of one class that end before the heal phase begins."""
    minutes = -(-(draw.heal_ns - draw.begin_ns) // MINUTE_NS)
    share = draw.spec.faults_per_hour * MINUTE_NS / HOUR_NS
    for minute, chance in enumerate(draw.chance(group).random(minutes).tolist()):
        if chance >= share or not kinds:
            continue
        name = f"{group}/{minute}"
        when, how_long = draw.chance(f"{name}/time").random(2).tolist()
        at_ns = draw.begin_ns + minute * MINUTE_NS + int(when * (MINUTE_NS // SECOND_NS)) * SECOND_NS
        kind = _first(draw, name, kinds)
        length_ns = FOR.parse(kind.example["for"]) if "for" in kind.example else FOR_NS
        spread = SPREAD_LOW + (SPREAD_HIGH - SPREAD_LOW) * how_long
        length_ns = _round(min(int(length_ns * spread), draw.heal_ns - at_ns))
        if length_ns > 0:
            rows = _rows(draw.chance(f"{name}/target"), len(draw.names))
            yield _event(draw, name, kind, (at_ns, length_ns), rows)


def _permanent(draw: _Draw, group: str, kinds: Sequence[FaultKind]) -> Iterator[EventSpec]:
    """Draw the faults of one class that last to the end of the run, each on one device outside the core."""
    able = [kind for kind in kinds if kind.acts_on == "devices"]
    for k in range(draw.spec.permanent if able and draw.loose else 0):
        name = f"{group}/permanent/{k}"
        when, *who = draw.chance(name).random(1 + len(draw.names)).tolist()
        at_ns = draw.begin_ns + _round(int(when * (draw.heal_ns - draw.begin_ns)))
        row = _highest(who, draw.loose)
        yield _event(draw, name, _first(draw, name, able), (at_ns, draw.end_ns - at_ns), [row])


def _round(length_ns: int) -> int:
    """Return a length cut to whole seconds, short ones to whole ticks [ns]."""
    step_ns = SECOND_NS if length_ns >= 10 * SECOND_NS else TICK_NS
    return length_ns // step_ns * step_ns


def _first(draw: _Draw, name: str, kinds: Sequence[FaultKind]) -> FaultKind:
    """Return one of `kinds`, each as likely; one more among them changes nothing unless it is the one."""
    return max(kinds, key=lambda kind: draw.chance(f"{name}/{kind.fault}").random())


def _rows(chance: Generator, n: int) -> list[int]:
    """Return the devices a fault meets: one, some or all."""
    how = float(chance.random())
    each = chance.random(n).tolist()
    if how < ONE_FRAC:
        return [_highest(each, range(n))]
    if how < ONE_FRAC + ALL_FRAC:
        return list(range(n))
    return [row for row in range(n) if each[row] < SOME_FRAC] or [_highest(each, range(n))]


def _highest(each: Sequence[float], rows: Iterable[int]) -> int:
    """Return one row, each as likely; one more at the end changes nothing unless it is the one."""
    return max(rows, key=lambda row: each[row])


def _event(
    draw: _Draw, name: str, kind: FaultKind, when_ns: tuple[int, int], rows: Sequence[int]
) -> EventSpec:
    target: Any = "all" if len(rows) == len(draw.names) else tuple(draw.names[row] for row in rows)
    given = _drawn(kind, draw, f"{name}/{kind.fault}")
    return EventSpec(kind.fault, *when_ns, target if kind.acts_on == "devices" else None, given)


def _drawn(kind: FaultKind, draw: _Draw, name: str) -> Mapping[str, Value]:
    """Return parameters for a fault, around its example and inside its ranges."""
    usual = kind.read({key: value for key, value in kind.example.items() if key != "for"}, [])
    values: dict[str, Any] = {
        key: _value(param, usual[key], float(draw.chance(f"{name}/{key}").random()))
        for key, param in kind.params.items()
    }
    for key, param in kind.params.items():
        if param.times is not None:
            other = values[param.times.of]
            low, high = param.times.min * other, param.times.max * other
            if isinstance(other, int):
                low, high = math.ceil(low), math.floor(high)
            values[key] = min(max(values[key], low, param.low), high, param.high)
    return values


def _value(param: Param, usual: Any, chance: float) -> Value:
    """Return one value: a word or flag of equal chance, a quantity around its usual value."""
    if param.of is not None:
        return param.of[int(chance * len(param.of))]
    if isinstance(usual, bool):
        return chance < 0.5
    value = usual * (SPREAD_LOW + (SPREAD_HIGH - SPREAD_LOW) * chance)
    # By way of text, which rounds alike on every machine.
    round_value = float(f"{value:.{_DIGITS}g}")
    whole = round(round_value) if isinstance(usual, int) else round_value
    inside: int | float = min(max(whole, param.low), param.high)
    return int(inside) if isinstance(usual, int) else float(inside)


def storm_note(scenario: Scenario, events: Sequence[Event]) -> str | None:
    """Say what the storm of a scenario comes to; None when it has none.

    Parameters
    ----------
    scenario : Scenario
    events : sequence of Event
        Of its world: the listed ones, then the storm's.
    """
    ends_ns = heal_ns(scenario)
    if ends_ns is None:
        return None
    begin_ns = start_of_day_ns(scenario.start)
    faults = events[len(scenario.events) :]
    kept = sum(event.end_ns > ends_ns for event in faults)
    classes = Counter(event.fault.partition(".")[0] for event in faults)
    told = ", ".join(f"{count} of {group}" for group, count in sorted(classes.items()))
    text = (
        f"storm: {len(faults)} faults{f' ({told})' if told else ''} until {instant_text(begin_ns + ends_ns)}"
    )
    return f"{text}, {kept} of them to the end" if kept else text
