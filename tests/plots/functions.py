"""Figures of the grid-support functions: each point is measured on a device of its own, settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from ridethrough.emulator.grid_settings import ConstantPf, GridSettings, PowerFactor, default_settings
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile

from tests.devices import home
from tests.plots.figure import Figure, Floats, Make, Panel, command, follow, line, lines, run

RATING = 5000.0
"""Of the home that is measured, in W and VA."""


def fleet(
    make: Make, kinds: Sequence[tuple[DeviceProfile, Callable[[GridSettings], GridSettings]]], points: int
) -> Plant:
    """Return a plant with `points` devices of each kind, one kind after the other, half full."""
    plant = make([profile for profile, _ in kinds for _ in range(points)], soc_frac=0.5)
    for d in range(plant.n):
        profile, change = kinds[d // points]
        plant.set_settings(d, change(default_settings(profile)))
    return plant


def as_made(settings: GridSettings) -> GridSettings:
    """Return the settings from the factory."""
    return settings


def measured(plant: Plant, name: str, kinds: int) -> Floats:
    """Return a field as share of the rating, one row per kind."""
    return plant.states(name).reshape(kinds, -1) / RATING


def volt_var(make: Make) -> Figure:
    """Reactive power that settles at each voltage; category A, category B, and B with another reference."""
    v_pu = np.linspace(0.885, 1.095, 106)
    kinds = [
        (home(grid={"function": "volt_var", "normal": "A"}), as_made),
        (home(grid={"function": "volt_var"}), as_made),
        (
            home(grid={"function": "volt_var"}),
            lambda s: replace(s, volt_var=replace(s.volt_var, ref_pu=1.03)),
        ),
    ]
    plant = fleet(make, kinds, v_pu.size)
    plant.set_input("voltage_pu", np.tile(v_pu, len(kinds)))
    run(plant, 100.0)
    labels = ("category A", "category B", "category B with VRef 1.03")
    rows = measured(plant, "reactive_var", len(kinds))
    return Figure(
        "Volt-var, settled", "voltage [pu]", (Panel("reactive power [of S]", lines(labels, v_pu, rows.T)),)
    )


def volt_var_step(make: Make) -> Figure:
    """Reactive power after a step of voltage, for three response times and two lengths of step."""
    times_s = (1.0, 5.0, 10.0)

    def stepped(step_s: float, until_s: float) -> tuple[Floats, Floats]:
        profile = home(grid={"function": "volt_var"})
        plant = make([profile] * len(times_s), soc_frac=0.5, step_s=step_s)
        for d, response_s in enumerate(times_s):
            settings = plant.settings(d)
            plant.set_settings(
                d, replace(settings, volt_var=replace(settings.volt_var, response_s=response_s))
            )
        plant.set_input("voltage_pu", 1.08)
        t_s, noted = follow(plant, ["reactive_var"], until_s=until_s, every_s=step_s)
        return t_s, noted["reactive_var"] / (-0.44 * RATING)

    fine_s, fine = stepped(0.1, 20.0)
    coarse_s, coarse = stepped(1.0, 20.0)
    drawn = []
    for d, response_s in enumerate(times_s):
        drawn.append(line(f"response time {response_s:g} s in steps of 0.1 s", fine_s, fine[:, d]))
        drawn.append(line(f"response time {response_s:g} s in steps of 1 s", coarse_s, coarse[:, d], "dots"))
    return Figure(
        "Volt-var after a step from 1.00 to 1.08 pu",
        "time [s]",
        (Panel("share of the way [1]", tuple(drawn)),),
    )


def vref_auto(make: Make) -> Figure:
    """Reactive power and reference after a lasting rise of voltage, with autonomous adjustment."""
    profile = home(grid={"function": "volt_var"})
    plant = make([profile] * 2, soc_frac=0.5, step_s=10.0)
    settings = plant.settings(0)
    plant.set_settings(0, replace(settings, volt_var=replace(settings.volt_var, auto=True)))
    plant.set_input("voltage_pu", 1.04)
    t_s, noted = follow(plant, ["reactive_var", "volt_var_ref_pu_now"], until_s=1800.0, every_s=10.0)
    labels = ("reference follows", "reference fixed")
    var, ref = noted["reactive_var"] / RATING, noted["volt_var_ref_pu_now"]
    return Figure(
        "Volt-var with autonomous reference, voltage 1.04 pu from the start",
        "time [min]",
        (
            Panel("reactive power [of S]", lines(labels, t_s / 60.0, var)),
            Panel("reference [pu]", lines(labels, t_s / 60.0, ref)),
        ),
    )


def volt_watt(make: Make) -> Figure:
    """Active power that settles at each voltage, asked for the rating."""
    v_pu = np.linspace(1.04, 1.10, 61)
    kinds = [
        (home(grid={"volt_watt": True}), as_made),
        (
            home(grid={"volt_watt": True}),
            lambda s: replace(s, volt_watt=replace(s.volt_watt, points=((1.05, 1.0), (1.08, -0.5)))),
        ),
    ]
    plant = fleet(make, kinds, v_pu.size)
    plant.set_input("voltage_pu", np.tile(v_pu, len(kinds)))
    command(plant, RATING)
    run(plant, 100.0)
    labels = ("default: 1.06 to 1.10 pu", "1.05 to 1.08 pu, down to charging at 0.5")
    rows = measured(plant, "power_w", len(kinds)).T
    return Figure(
        "Volt-watt, settled", "voltage [pu]", (Panel("active power [of P]", lines(labels, v_pu, rows)),)
    )


def watt_var(make: Make) -> Figure:
    """Reactive power at each active power."""
    asked = np.linspace(-1.0, 1.0, 101)
    kinds = [(home(grid={"function": "watt_var", "normal": normal}), as_made) for normal in ("A", "B")]
    plant = fleet(make, kinds, asked.size)
    command(plant, np.tile(asked, len(kinds)) * RATING)
    run(plant, 10.0)
    given = measured(plant, "power_w", len(kinds))
    var = measured(plant, "reactive_var", len(kinds))
    drawn = tuple(
        line(label, x, y) for label, x, y in zip(("category A", "category B"), given, var, strict=True)
    )
    return Figure("Watt-var", "active power [of P]", (Panel("reactive power [of S]", drawn),))


def power_factor(make: Make) -> Figure:
    """Operating points reached with constant power factor: the circle of S takes active power away."""
    asked = np.linspace(-1.0, 1.0, 101)

    def with_pf(injecting: float, absorbing: float) -> Callable[[GridSettings], GridSettings]:
        inject = PowerFactor(True, injecting, "under")
        return lambda s: replace(s, pf=ConstantPf(inject, PowerFactor(True, absorbing, "over")))

    sparing = home(inverter={"var_at_no_power": False})
    kinds = [(home(), with_pf(0.9, 0.95)), (sparing, with_pf(0.9, 0.95)), (home(), with_pf(1.0, 1.0))]
    plant = fleet(make, kinds, asked.size)
    command(plant, np.tile(asked, len(kinds)) * RATING)
    run(plant, 10.0)
    given = measured(plant, "power_w", len(kinds))
    var = measured(plant, "reactive_var", len(kinds))
    labels = ("0.9 injecting and 0.95 absorbing", "the same without var below 5 % of P", "power factor 1")
    drawn = tuple(line(label, x, y) for label, x, y in zip(labels, given, var, strict=True))
    return Figure("Constant power factor", "active power [of P]", (Panel("reactive power [of S]", drawn),))


def droop(make: Make) -> Figure:
    """Active power that settles at each frequency, from three powers before."""
    f_hz = np.linspace(58.0, 61.8, 96)
    before = (0.5, 0.0, -0.5)
    kinds = [(home(), as_made)] * len(before)
    plant = fleet(make, kinds, f_hz.size)
    command(plant, np.repeat(before, f_hz.size) * RATING)
    run(plant, 10.0)
    plant.set_input("frequency_hz", np.tile(f_hz, len(before)))
    run(plant, 25.0)
    rows = measured(plant, "power_w", len(before)).T
    labels = tuple(f"{share:g} of P before" for share in before)
    return Figure(
        "Frequency droop, settled",
        "frequency [Hz]",
        (Panel("active power [of P]", lines(labels, f_hz, rows)),),
    )
