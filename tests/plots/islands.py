"""Figures of homes and communities off the grid."""

from __future__ import annotations

import math

import numpy as np
from ridethrough.emulator.community import Rules
from ridethrough.emulator.fields import STATUS
from ridethrough.emulator.plant import Plant
from ridethrough.hil.files import load_profile

from tests.devices import home
from tests.plots.figure import Event, Figure, Make, Panel, follow, line, lines, run

RATING = 5000.0


def grid(good: float) -> Event:
    """Return an event: the grid goes or comes."""
    return lambda plant: plant.set_input("grid_good", good)


def sets(name: str, value: float) -> Event:
    """Return an event: an input changes for all."""
    return lambda plant: plant.set_input(name, value)


def transfer(make: Make) -> Figure:
    """What reaches the backup panel when the grid goes: the four classes, and a grid held up for 2 s."""
    classes = ("ups", "fast", "slow", "dark")
    plant = make([home(island={"transfer": name}) for name in classes], soc_frac=0.5)
    plant.set_input("load_w", 1000.0)
    run(plant, 1.0)
    t_s, noted = follow(plant, ["backup_w_served"], until_s=8.0, every_s=0.02, events={1.0: grid(0.0)})
    labels = [f"class {name}" for name in classes]
    held = make([home(island={"transfer": "fast"})], soc_frac=0.5)
    held.set_input("load_w", 1000.0)
    held.set_input("grid_held", 1.0)
    run(held, 1.0)
    _, kept = follow(held, ["backup_w_served"], until_s=8.0, every_s=0.02, events={1.0: grid(0.0)})
    rows = np.column_stack((noted["backup_w_served"], kept["backup_w_served"])) / 1000.0
    # Apart, or they would lie on one another.
    rows = rows + 1.5 * np.arange(rows.shape[1])[::-1]
    drawn = lines((*labels, "class fast; matched load holds the bus up"), t_s, rows, "steps")
    return Figure(
        "Loss of the grid at 1 s", "time [s]", (Panel("backup panel served, one above the other", drawn),)
    )


def back(make: Make) -> Figure:
    """Return to the grid with and without a break; delay and ramp cut to 20 s and 30 s."""
    quick = {"enter_delay_s": 20.0, "enter_ramp_s": 30.0}
    profiles = [
        home(inverter=quick, island={"transfer": "fast", "sync_s": 5.0}),
        home(inverter=quick, island={"transfer": "fast", "break_s": 5.0}),
    ]
    plant = make(profiles, soc_frac=0.5)
    plant.set_input("load_w", 1500.0)
    plant.set_input("grid_good", 0.0)
    plant.set_control("set_ena", 1.0)
    run(plant, 20.0)

    def again(plant: Plant) -> None:
        plant.set_input("grid_good", 1.0)
        plant.set_control("set_ena", 1.0)
        plant.set_control("set_w", -3000.0)

    fields = ["backup_w_served", "power_w", "import_w"]
    t_s, noted = follow(plant, fields, until_s=80.0, every_s=1.0, events={10.0: again})
    labels = ("synchronises for 5 s", "breaks for 5 s before it makes")
    titles = ("backup panel served [W]", "power out of the device [W]", "import at the meter [W]")
    return Figure(
        "Grid back at 10 s; a command to charge 3 kW waits",
        "time [s]",
        tuple(
            Panel(title, lines(labels, t_s, noted[name], "steps"))
            for title, name in zip(titles, fields, strict=True)
        ),
    )


def frequency_shift(make: Make) -> Figure:
    """PV of 4 kW on an islanded home of 2 kW: curtailed by command, by droop, by tripping."""
    kinds = ("commanded", "droop", "trips")
    battery = {"energy_wh": 5000.0}
    plant = make([home(battery=battery, island={"pv": kind}) for kind in kinds], soc_frac=0.8, step_s=1.0)
    plant.set_input("load_w", 2000.0)
    plant.set_input("grid_good", 0.0)
    plant.set_input("pv_w_available", 4000.0)
    fields = ["bus_hz", "pv_w", "energy_j"]
    t_s, noted = follow(plant, fields, until_s=5400.0, every_s=15.0)
    t_min, labels = t_s / 60.0, tuple(f"PV {kind}" for kind in kinds)
    soc = noted["energy_j"] / plant.params("capacity_j")
    return Figure(
        "Surplus PV in an island that began at 0",
        "time [min]",
        (
            Panel("bus [Hz]", lines(labels, t_min, np.maximum(noted["bus_hz"], 59.5), "steps")),
            Panel("PV [W]", lines(labels, t_min, noted["pv_w"], "steps")),
            Panel("state of charge [1]", lines(labels, t_min, soc)),
        ),
    )


def shedding(make: Make) -> Figure:
    """Municipal node of 1 MWh that runs down at 400 kW of demand and is filled again by PV."""
    profile = load_profile("municipal-1mwh-500kw")
    plant = make([profile], soc_frac=0.5)
    plant.set_input("load_w", 400_000.0)
    plant.set_input("grid_good", 0.0)
    run(plant, 60.0)
    events = {120.0 * 60.0: sets("pv_w_available", 450_000.0)}
    fields = ["backup_w_served", "energy_j"]
    t_s, noted = follow(plant, fields, until_s=240.0 * 60.0, every_s=30.0, events=events)
    t_min = t_s / 60.0
    soc = noted["energy_j"] / plant.params("capacity_j")
    return Figure(
        "Load shedding by state of charge; PV of 450 kW from 120 min on",
        "time [min]",
        (
            Panel("served [kW]", (line("served", t_min, noted["backup_w_served"][:, 0] / 1000.0, "steps"),)),
            Panel("state of charge [1]", (line("state of charge", t_min, soc[:, 0]),)),
        ),
    )


def black_start(make: Make) -> Figure:
    """Waits between attempts to serve a load beyond the surge rating, which is reduced after four hours."""
    names = ("home-10kwh-4kw-retry", "home-13kwh-5kw")
    plant = make([load_profile(name) for name in names], soc_frac=0.9)
    plant.set_input("load_w", 9000.0)
    plant.set_input("grid_good", 0.0)
    overload = float(STATUS.index("overload"))
    events = {4.0 * 3600.0: sets("load_w", 1000.0)}
    fields = ["status", "restart_ticks_now", "backup_w_served"]
    t_s, noted = follow(plant, fields, until_s=6.5 * 3600.0, every_s=10.0, events=events)
    waiting = noted["status"] == overload
    wait_min = np.where(waiting, noted["restart_ticks_now"] / 3000.0, 0.0)
    return Figure(
        "Restarts after an overload of 9 kW; 1 kW from 4 h on",
        "time [h]",
        (
            Panel("present wait [min]", lines(names, t_s / 3600.0, wait_min, "steps")),
            Panel("served [W]", lines(names, t_s / 3600.0, noted["backup_w_served"], "steps")),
        ),
    )


def community(make: Make) -> Figure:
    """A node of 20 kW and three homes share an outage; more load at 4 min, PV at 6 min."""
    node = home(
        battery={"energy_wh": 60_000.0},
        inverter={
            "power_w_discharge_max": 20_000.0,
            "power_w_charge_max": 20_000.0,
            "power_w_surge": 22_000.0,
        },
    )
    small = home(
        inverter={"power_w_discharge_max": 2500.0, "power_w_charge_max": 2500.0, "power_w_surge": 3000.0},
        island={"pv_return_s": 60.0, "pv": "droop"},
    )
    big = home(island={"pv_return_s": 60.0, "pv": "droop"})
    profiles = [node, big, small, small]
    rated = tuple(profile.inverter.power_w_discharge_max for profile in profiles)
    rules = Rules(master=0, contract=("support",) * 3 + ("served",), power_w_rated=rated)
    plant = make(profiles, soc_frac=np.array([0.6, 0.8, 0.8, 0.8]), community=rules)
    plant.set_input("load_w", np.array([6000.0, 1000.0, 1000.0, 1000.0]))
    plant.set_input("grid_good", 0.0)
    heavy = np.array([16_000.0, 2000.0, 2000.0, 2000.0])
    sunny = np.array([0.0, 9000.0, 9000.0, 9000.0])
    events: dict[float, Event] = {
        240.0: lambda plant: plant.set_input("load_w", heavy),
        360.0: lambda plant: plant.set_input("pv_w_available", sunny),
    }
    t_s, noted = follow(plant, ["power_w", "bus_hz", "pv_w"], until_s=480.0, every_s=1.0, events=events)
    labels = ("node 20 kW", "home 5 kW", "home 2.5 kW", "home 2.5 kW served only")
    share = noted["power_w"] / np.array(rated)
    hz = np.where(noted["bus_hz"] > 0.0, noted["bus_hz"], math.nan)[1:]
    return Figure(
        "Community island by droop",
        "time [s]",
        (
            Panel("power [of rating]", lines(labels, t_s, share, "steps")),
            Panel("frequency at each [Hz]", lines(labels, t_s[1:], hz, "steps")),
            Panel("PV of all [kW]", (line("PV", t_s, noted["pv_w"].sum(axis=1) / 1000.0, "steps"),)),
        ),
    )
