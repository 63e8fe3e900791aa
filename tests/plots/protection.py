"""Figures of ride-through, cessation, trips and enter service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from ridethrough.emulator.fields import STATUS, TICKS_PER_S
from ridethrough.emulator.grid_settings import default_settings
from ridethrough.emulator.plant import Plant

from tests.devices import home
from tests.plots.figure import Event, Figure, Make, Panel, command, follow, line, lines, run

ON_GRID = float(STATUS.index("on_grid"))
RATING = 5000.0


def volts(pu: float) -> Event:
    """Return an event: the voltage changes."""
    return lambda plant: plant.set_input("voltage_pu", pu)


def permits(allowed: float) -> Event:
    """Return an event: the permit to be in service changes."""
    return lambda plant: plant.set_control("permit", allowed)


def all_of(events: Iterable[Event]) -> Event:
    """Return several events as one."""

    def happen(plant: Plant) -> None:
        for event in events:
            event(plant)

    return happen


def ride_through(make: Make) -> Figure:
    """Power of categories II and III through a dip, a deep dip and a swell, 0.1 s for restoring."""
    categories = ("II", "III")
    plant = make([home(grid={"abnormal": c, "restore_s": 0.1}) for c in categories], soc_frac=0.5)
    command(plant, 4000.0)
    run(plant, 10.0)
    story = {0.5: 0.70, 1.5: 1.0, 2.0: 0.40, 2.1: 1.0, 3.0: 1.15, 3.5: 1.0}
    t_s, noted = follow(
        plant,
        ["power_w", "bus_pu"],
        until_s=4.5,
        every_s=0.02,
        events={at_s: volts(pu) for at_s, pu in story.items()},
    )
    labels = tuple(f"category {c}" for c in categories)
    return Figure(
        "Ride-through and momentary cessation",
        "time [s]",
        (
            Panel("voltage [pu]", (line("voltage", t_s, noted["bus_pu"][:, 0], "steps"),)),
            Panel("active power [W]", lines(labels, t_s, noted["power_w"], "steps")),
        ),
    )


def trips(make: Make) -> Figure:
    """Time to trip at each voltage held from the start; devices that trip as soon as they may, too."""
    v_pu = np.concatenate((np.linspace(0.01, 0.89, 45), np.linspace(1.09, 1.29, 11)))
    kinds = [("category I", "I", False), ("category II", "II", False), ("category III", "III", False)]
    kinds.append(("category III, trips when it may", "III", True))
    profiles = [home(grid={"abnormal": c, "takes_may_trip": may}) for _, c, may in kinds]
    plant = make([profile for profile in profiles for _ in v_pu], soc_frac=0.5)
    run(plant, 1.0)
    plant.set_input("voltage_pu", np.tile(v_pu, len(kinds)))
    left_s = np.full(plant.n, np.nan)
    for tick in range(1, 22 * TICKS_PER_S):
        plant.advance(1)
        gone = (plant.states("status") != ON_GRID) & np.isnan(left_s)
        # A device that is gone after the n-th tick was still connected in the n - 1 before.
        left_s[gone] = (tick - 1) / TICKS_PER_S
    drawn = []
    for (label, _, _), row in zip(kinds, left_s.reshape(len(kinds), -1), strict=True):
        found = ~np.isnan(row)
        drawn.append(line(label, v_pu[found], row[found], "dots"))
    return Figure(
        "Time to trip by voltage, measured", "voltage [pu]", (Panel("time to trip [s]", tuple(drawn)),)
    )


def enter_service(make: Make) -> Figure:
    """Return to service after a withdrawn permit: undisturbed, and with a voltage out of range at 200 s."""
    plant = make([home(), home(), home(grid={"enter_random_s": 120.0})], soc_frac=0.8, random_share=0.5)
    for d in range(plant.n):
        settings = default_settings(plant.profiles[d])
        ramp_s = 0.0 if d == 2 else 300.0
        plant.set_settings(d, replace(settings, enter=replace(settings.enter, ramp_s=ramp_s)))
    command(plant, RATING)
    run(plant, 5.0)
    plant.set_control("permit", 0.0)
    run(plant, 5.0)
    sagging = np.array([1.0, 0.91, 1.0])
    events: dict[float, Event] = {
        0.0: permits(1.0),
        200.0: lambda plant: plant.set_input("voltage_pu", sagging),
        205.0: volts(1.0),
    }
    t_s, noted = follow(plant, ["power_w"], until_s=900.0, every_s=5.0, events=events)
    labels = (
        "delay 300 s and ramp 300 s",
        "the same; 0.91 pu from 200 s to 205 s",
        "delay 300 s and half of 120 s at random; no ramp",
    )
    return Figure(
        "Enter service, permit given at 0",
        "time [s]",
        (Panel("active power [W]", lines(labels, t_s, noted["power_w"])),),
    )
