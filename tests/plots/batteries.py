"""Figures of cells, converter, ageing and the feeder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ridethrough.emulator.cells import CHEMISTRIES
from ridethrough.emulator.feeder import BUSBAR, Feeder, FeederSolver
from ridethrough.emulator.plant import Plant
from ridethrough.hil.files import load_profile, load_yaml

from tests.devices import home
from tests.plots.figure import Figure, Floats, Line, Make, Panel, command, follow, line, lines, run

FEEDERS = Path(__file__).resolve().parents[2] / "fixtures" / "feeders"
LIMITED = {"temperature_limits": True, "c_rate_share": 1.0}


def taper(make: Make) -> Figure:
    """Charging power on the way to full, asked for the rating throughout."""
    tapered = {"taper_soc_frac": 0.9, "taper_frac_min": 0.05}
    batteries: tuple[dict[str, Any], ...] = (tapered, {**tapered, **LIMITED, "c_rate_share": 0.5}, {})
    plant = make([home(battery=battery) for battery in batteries], soc_frac=0.6, step_s=60.0)
    command(plant, -5000.0)
    t_s, noted = follow(plant, ["power_w", "energy_j"], until_s=4.0 * 3600.0, every_s=60.0)
    soc = noted["energy_j"] / plant.params("capacity_j")
    labels = ("taper from 0.90 to 0.05", "the same, at most 0.25 C by temperature", "no taper")
    return Figure(
        "Charging to full",
        "time [h]",
        (
            Panel("power out of the device [W]", lines(labels, t_s / 3600.0, noted["power_w"])),
            Panel("state of charge [1]", lines(labels, t_s / 3600.0, soc)),
        ),
    )


def temperature(make: Make) -> Figure:
    """Greatest charging and discharging power at each temperature, after two days at it."""
    ambient_c = np.linspace(-25.0, 65.0, 91)
    rated = {"power_w_discharge_max": 15_000.0, "power_w_charge_max": 15_000.0, "power_w_surge": 15_000.0}
    profile = home(battery={"energy_wh": 10_000.0, **LIMITED}, inverter={**rated, "standby_w": 0.0})
    plant = make([profile] * (2 * ambient_c.size), soc_frac=0.5, step_s=600.0)
    plant.set_input("ambient_c", np.tile(ambient_c, 2))
    run(plant, 48.0 * 3600.0)
    command(plant, np.repeat([-15_000.0, 15_000.0], ambient_c.size))
    # Ten seconds in steps of 20 ms: the command ramps, the temperature stays.
    run(plant, 10.0)
    rows = plant.states("power_w").reshape(2, -1).T / 10_000.0
    labels = ("charging", "discharging")
    return Figure(
        "Limits by cell temperature",
        "cell temperature [°C]",
        (Panel("AC power [C of nominal]", lines(labels, ambient_c, rows)),),
    )


def ocv(make: Make) -> Figure:
    """Open-circuit voltage the plant uses, beside the measured table."""
    soc = np.linspace(0.0, 1.0, 201)
    profiles = [home(battery={"soc_frac_min": 0.0, "chemistry": name}) for name in CHEMISTRIES]
    plant = make([profile for profile in profiles for _ in soc], soc_frac=np.tile(soc, 2))
    found = plant.states("ocv_frac").reshape(2, -1)
    drawn: list[Line] = []
    for (name, chemistry), row in zip(CHEMISTRIES.items(), found, strict=True):
        table = np.array(chemistry.ocv_table)
        drawn.append(line(f"{name.upper()} in the plant", soc, row * chemistry.ocv_v_mean))
        drawn.append(line(f"{name.upper()} table", table[:, 0], table[:, 1], "dots"))
    return Figure(
        "Open-circuit voltage", "state of charge [1]", (Panel("voltage per cell [V]", tuple(drawn)),)
    )


def efficiency(make: Make) -> Figure:
    """Share of the energy that arrives, one way, by power: from the cells' inside to AC and back."""
    names = ("home-13kwh-5kw", "home-10kwh-8kw-shift", "home-9kwh-4kw", "home-14kwh-5kw")
    share = np.concatenate((np.linspace(0.01, 0.1, 19), np.linspace(0.12, 1.0, 45)))
    found = []
    for sign in (1.0, -1.0):
        profiles = [load_profile(name) for name in names]
        plant = make([profile for profile in profiles for _ in share], soc_frac=0.5)
        rated = plant.params("power_w_discharge_max" if sign > 0.0 else "power_w_charge_max")
        command(plant, sign * np.tile(share, len(names)) * rated)
        run(plant, 30.0)
        found.append(_arrives(plant, sign).reshape(len(names), -1).T)
    return Figure(
        "Efficiency at half charge, standby included",
        "power [of rating]",
        (
            Panel("discharging [1]", lines(names, share, found[0])),
            Panel("charging [1]", lines(names, share, found[1])),
        ),
    )


def _arrives(plant: Plant, sign: float) -> Floats:
    """Return what arrives over what is spent; 0 where nothing does."""
    ac_w, cells_w = plant.states("power_w"), plant.states("battery_w") + plant.states("ohm_w")
    spent, gained = (cells_w, ac_w) if sign > 0.0 else (-ac_w, -cells_w)
    return np.where(spent > 0.0, np.maximum(gained, 0.0) / np.where(spent > 0.0, spent, 1.0), 0.0)


DAY = ((10, 0.0), (4, -2800.0), (4, 0.0), (4, 2250.0), (2, 0.0))
"""Hours, and the power through them [W]: filled from the sun, used in the evening."""
LIVES = ("one cycle a day", "rests full", "rests half full")


def ageing(make: Make, years: int = 20) -> Figure:
    """Three lives, each with LFP and with NMC cells; noted five times a year."""
    kinds = tuple(CHEMISTRIES)
    profiles = [
        home(
            battery={"chemistry": kind, "ageing": kind, "soc_frac_max": soc_frac_max},
            control={"has_reserve": False},
            inverter={"standby_w": 0.0},
        )
        for kind in kinds
        for soc_frac_max in (0.9, 1.0, 1.0)
    ]
    plant = make(profiles, soc_frac=np.tile([0.9, 1.0, 0.5], len(kinds)), ages=True, step_s=3600.0)
    health, nominal_j = [np.ones(plant.n)], plant.params("capacity_j")
    for _ in range(5 * years):
        for _ in range(73):
            for hours, power_w in DAY:
                command(plant, np.tile([power_w, 0.0, 0.0], len(kinds)))
                run(plant, hours * 3600.0)
        health.append(plant.params("capacity_j") / nominal_j)
    labels = tuple(f"{kind.upper()} {life}" for kind in kinds for life in LIVES)
    rows = lines(labels, np.arange(5 * years + 1) / 5.0, np.array(health))
    return Figure("Twenty years at 25 °C", "time [years]", (Panel("state of health [1]", rows),))


def feeder(make: Make) -> Figure:
    """Voltage along the semi-urban feeder while every home exports 9 kW, without and with volt-var."""
    model = load_yaml(FEEDERS / "semiurban-41.yaml", Feeder)
    far = {BUSBAR: 0.0}
    for k in model.order:
        far[model.branches[k].to_bus] = far[model.branches[k].from_bus] + model.branches[k].length_m
    away_m = np.array([far[bus] for bus in model.homes])
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("without functions", {}),
        ("volt-var", {"function": "volt_var"}),
    )
    voltages, drawn = [], []
    for label, functions in kinds:
        solver = FeederSolver(model)
        plant = make([home(grid=functions) for _ in model.homes], soc_frac=0.9, feeder=solver)
        plant.set_input("pv_w_available", 4000.0)
        command(plant, 5000.0)
        t_s, noted = follow(plant, ["bus_pu"], until_s=60.0, every_s=1.0)
        voltages.append(line(label, *_by_distance(away_m, noted["bus_pu"][-1]), "dots"))
        drawn.append(line(label, t_s, noted["bus_pu"].max(axis=1)))
    return Figure(
        "Every home exports; functions answer",
        "above: distance from the transformer [m]; below: time [s]",
        (Panel("voltage [pu]", tuple(voltages)), Panel("highest voltage [pu]", tuple(drawn))),
        apart=True,
    )


def _by_distance(away_m: Floats, values: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(away_m, kind="stable")
    return away_m[order], values[order]
