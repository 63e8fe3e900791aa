"""The matrix fault x level, run: every fault injected at every level where it acts, each seen by a witness.

Duty: the scenario of the matrix, who its devices are, and what the witnesses of the classes say of its
record.
Rules of this file: each fault on devices has a device of its own, all in one run; each fault of the
controller has a run of its own.  Beside them stand devices, and a run, without any fault, of which every
witness must say that it sees nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from ridethrough.hil.bench import Level, run
from ridethrough.hil.effects.table import levels
from ridethrough.hil.fault_files import CLASSES, load_fault
from ridethrough.hil.faults import Event, catalogue
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.record import Record, read_record
from ridethrough.hil.world import World, build_world

PROBE: Final = "tests.faults.probe:Probe"
PROFILE: Final = "home-13kwh-5kw"
LOAD_W: Final = 900.0
SOC_FRAC: Final = 0.6
MINUTE_NS: Final = 60 * 10**9
SPEEDS: Final = (60.0, 30.0, 15.0)
"""Of the runs over real sockets, bench seconds per second: what a busy machine has not shown at one speed is
tried again at the next."""

START: Final = "18:00"
AT: Final = "18:04"
AT_NS: Final = 4 * MINUTE_NS
LENGTH: Final = "12min"
FOR: Final = "4min"
HELP: Final[Mapping[str, dict[str, Any]]] = {
    "outage": {"at": "18:05", "fault": "grid.outage", "for": "2min"},
    "partition": {"at": "18:05", "fault": "comms.partition", "direction": "commands", "for": "2min"},
}
"""What some faults need beside them to be seen, on the same device."""

Witness = Callable[[Record, int, Event], str | None]
Place = tuple[str, str]
"""A profile, and what happens to the device beside the fault: an entry of `HELP`, or nothing."""
Problems = dict[str, str]
"""What is wrong with the cell of each fault with which anything is."""


@dataclass(frozen=True)
class Witnesses:
    """What the classes say of their faults.

    Attributes
    ----------
    of : dict of str to Witness
    needs : dict of str to str
        Fault, and the profile it must be tried on.
    helps : dict of str to str
        Fault, and the entry of `HELP` without which it is not seen.
    asked : dict of str to str
        Fault of the controller, and the controller it must be tried on instead of the probe.
    """

    of: Mapping[str, Witness]
    needs: Mapping[str, str] = field(default_factory=dict)
    helps: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)

    def place(self, fault: str) -> Place:
        """Return where a fault is tried."""
        return self.needs.get(fault, PROFILE), self.helps.get(fault, "nothing")


@cache
def witnesses() -> Witnesses:
    """Return the witnesses of all classes."""
    of: dict[str, Witness] = {}
    needs: dict[str, str] = {}
    helps: dict[str, str] = {}
    asked: dict[str, str] = {}
    for group in CLASSES:
        module = importlib.import_module(f"tests.faults.witness_{group}")
        of |= module.WITNESSES
        needs |= getattr(module, "NEEDS", {})
        for help_ in HELP:
            helps |= dict.fromkeys(getattr(module, help_.upper(), ()), help_)
        asked |= dict.fromkeys(module.WITNESSES, getattr(module, "CONTROLLER", PROBE))
    return Witnesses(of, needs, helps, asked)


def acting(level: Level) -> list[str]:
    """Return the faults that act at a level."""
    return [fault for fault in catalogue() if level in levels(fault)]


def _event(fault: str, **target: str) -> dict[str, Any]:
    return {"at": AT, "fault": fault, "for": FOR, **target, **load_fault(fault).example}


def _device(name: str, profile: str) -> dict[str, Any]:
    return {
        "name": name,
        "device": profile,
        "commitment": {"hours": 2, "load_w": 500},
        "load": "synthetic-home",
        "soc": SOC_FRAC,
    }


def _world(pool: list[dict[str, Any]], events: list[dict[str, Any]]) -> World:
    """Return the world of the matrix; its homes take the same power all the time."""
    document = {
        "name": "fault-matrix",
        "start": START,
        "duration": LENGTH,
        "pool": pool,
        "prices": {"constant": 50},
        "comms": {"poll": "10s"},
        "events": events,
    }
    world = build_world(scenario_from_dict(document))
    load_w = np.full_like(world.load_w, LOAD_W)
    load_w.flags.writeable = False
    return replace(world, load_w=load_w)


def home(fault: str) -> str:
    """Return the name of the device a fault is tried on."""
    return fault.replace(".", "-")


def control(place: Place) -> str:
    """Return the name of the device that meets no fault."""
    profile, help_ = place
    return f"none-{help_}-{profile}"[:40].rstrip("-")


def _help(place: Place, target: str) -> list[dict[str, Any]]:
    """Return what happens to a device beside the fault it is there for."""
    return [HELP[place[1]] | {"target": target}] if place[1] in HELP else []


def device_world(faults: Iterable[str], said: Witnesses) -> World:
    """Return a world in which each fault has a device of its own, and devices without any."""
    pool, events = [], []
    places = {fault: said.place(fault) for fault in faults}
    for fault, place in places.items():
        pool.append(_device(home(fault), place[0]))
        events += [_event(fault, target=home(fault)), *_help(place, home(fault))]
    for place in dict.fromkeys(places.values()):
        pool.append(_device(control(place), place[0]))
        events += _help(place, control(place))
    return _world(pool, events)


def controller_world(fault: str | None, place: Place) -> World:
    """Return a world of one home whose controller meets a fault, or none."""
    events = [] if fault is None else [_event(fault)]
    return _world([_device("home", place[0])], [*events, *_help(place, "all")])


def _recorded(world: World, level: Level, folder: Path, speed: float, controller: str = PROBE) -> Record:
    run(world, controller, folder, level=level, speed=speed)
    return read_record(folder)


def _ask(
    said: Witnesses, fault: str, event: Event, here: tuple[Record, int], bare: tuple[Record, int]
) -> str | None:
    """Return what is wrong with a cell: not seen, or seen where it is not."""
    witness = said.of[fault]
    objection = witness(*here, event)
    if objection is not None:
        return f"{fault}: not seen: {objection}"
    if witness(*bare, event) is None:
        return f"{fault}: its witness also sees it where it is not"
    return None


def _until_seen(
    faults: Iterable[str],
    level: Level,
    folder: Path,
    attempt: Callable[[Sequence[str], Path, float], Problems],
) -> list[str]:
    """Return what is wrong with the cells of some faults, at HIL after slower and slower attempts."""
    left = list(faults)
    problems: Problems = {}
    for speed in SPEEDS if level == "hil" else SPEEDS[:1]:
        problems = attempt(left, folder / f"{speed:g}", speed) if left else {}
        left = list(problems)
    return list(problems.values())


def on_devices(faults: Iterable[str], level: Level, folder: Path, said: Witnesses) -> list[str]:
    """Run the faults on devices at a level, and return what is wrong with each cell."""

    def attempt(faults: Sequence[str], folder: Path, speed: float) -> Problems:
        world = device_world(faults, said)
        record = _recorded(world, level, folder, speed)
        rows = {name: row for row, name in enumerate(world.names)}
        events = {event.fault: event for event in world.events if event.start_ns == AT_NS}
        asked = {
            fault: _ask(
                said,
                fault,
                events[fault],
                (record, rows[home(fault)]),
                (record, rows[control(said.place(fault))]),
            )
            for fault in faults
        }
        return {fault: problem for fault, problem in asked.items() if problem is not None}

    return _until_seen(faults, level, folder, attempt)


def on_controller(
    faults: Iterable[str], level: Level, folder: Path, said: Witnesses, *, at_once: int = 1
) -> list[str]:
    """Run each fault of the controller at a level, some at once, and return what is wrong with each cell."""

    def attempt(faults: Sequence[str], folder: Path, speed: float) -> Problems:
        wanted = {fault: (said.place(fault), said.asked.get(fault, PROBE)) for fault in faults}
        bare = {key: f"none-{k}" for k, key in enumerate(dict.fromkeys(wanted.values()))}
        worlds = {home(fault): (controller_world(fault, place), by) for fault, (place, by) in wanted.items()}
        worlds |= {name: (controller_world(None, place), by) for (place, by), name in bare.items()}
        with ThreadPoolExecutor(at_once) as pool:
            runs = {
                name: pool.submit(_recorded, world, level, folder / name, speed, by)
                for name, (world, by) in worlds.items()
            }
        records = {name: each.result() for name, each in runs.items()}
        problems: Problems = {}
        for fault, key in wanted.items():
            event = next(event for event in worlds[home(fault)][0].events if event.fault == fault)
            problem = _ask(said, fault, event, (records[home(fault)], 0), (records[bare[key]], 0))
            problems |= {fault: problem} if problem is not None else {}
        return problems

    return _until_seen(faults, level, folder, attempt)


def split(faults: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the faults on devices, and those of the controller."""
    kinds = {fault: load_fault(fault).acts_on for fault in faults}
    return [f for f in kinds if kinds[f] == "devices"], [f for f in kinds if kinds[f] == "controller"]
