"""A few devices under faults, without a bench: second by second, as the model level steps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.hil.effects.grid import GridFaults, Inputs
from ridethrough.hil.effects.plant import PlantFaults
from ridethrough.hil.fault_files import load_fault
from ridethrough.hil.faults import Event

from tests.emulator.register_bench import load

NS = 1_000_000_000
HOME = load("home-13kwh-5kw")
LOAD_W = 900.0


def event(
    fault: str, start_s: float, end_s: float, targets: Sequence[int] = (0,), number: int = 1, **given: Any
) -> Event:
    """Return an event of the catalogue, its parameters given as a user writes them."""
    kind, mistakes = load_fault(fault), []  # type: ignore[var-annotated]  # whatever `read` takes
    values = kind.read(given, mistakes)
    assert not mistakes, mistakes
    params = {kind.params[name].key: kind.params[name].in_event(value) for name, value in values.items()}
    return Event(number, fault, tuple(targets), round(start_s * NS), round(end_s * NS), params)


class Rig:
    """Devices with a load of 900 W each, on a grid, under faults of the grid and of their own."""

    def __init__(
        self,
        *events: Event,
        profiles: Sequence[DeviceProfile] = (HOME,),
        seed: int = 1,
        soc_frac: float = 0.6,
        pv_w: float = 0.0,
        **options: Any,
    ) -> None:
        self.plant = Plant(profiles, soc_frac=soc_frac, **options)
        self.plant.set_input("load_w", LOAD_W)
        self.plant.set_input("pv_w_available", pv_w)
        self.events = list(events)
        names = [f"home-{k}" for k in range(self.plant.n)]
        self.devices = PlantFaults(self.plant, seed, names)
        self.grid = GridFaults(seed, np.full(self.plant.n, 2.0))
        self.now_s = 0

    def in_force(self) -> list[Event]:
        return [e for e in self.events if e.start_ns <= self.now_s * NS < e.end_ns]

    def step(self) -> None:
        """Let a second pass."""
        self.settle()
        self.plant.advance(TICKS_PER_S)
        self.now_s += 1

    def settle(self) -> None:
        """Let the events in force act, as before an advance."""
        plant, now_ns = self.plant, self.now_s * NS
        inputs = Inputs(
            load_w=plant.inputs("load_w"),
            pv_w_available=plant.inputs("pv_w_available"),
            grid_good=np.ones(plant.n),
            grid_held=np.zeros(plant.n),
            voltage_pu=np.ones(plant.n),
            frequency_hz=plant.params("hz_nominal"),
        )
        self.grid.act(self.in_force(), inputs, plant, now_ns)
        for name in ("grid_good", "grid_held", "voltage_pu", "frequency_hz"):
            if not np.array_equal(plant.inputs(name), getattr(inputs, name)):
                plant.set_input(name, getattr(inputs, name))
        self.devices.step(now_ns, self.in_force())

    def until(self, end_s: int) -> Rig:
        """Let time pass until then."""
        while self.now_s < end_s:
            self.step()
        return self

    def command(self, power_w: float, validity_s: float = 90.0, reserve: float = np.nan) -> None:
        """Command every device, as the model level does."""
        n = self.plant.n
        ticks: NDArray[np.int64] = np.full(n, round(validity_s * TICKS_PER_S), dtype=np.int64)
        self.plant.command(np.ones(n, dtype=np.bool_), np.full(n, power_w), ticks, np.full(n, reserve))

    def state(self, name: str, d: int = 0) -> float:
        return float(self.plant.states(name)[d])

    def control(self, name: str, d: int = 0) -> float:
        return float(self.plant.controls(name)[d])

    def param(self, name: str, d: int = 0) -> float:
        return float(self.plant.params(name)[d])


def image_of(rig: Rig, d: int = 0) -> DeviceImage:
    """Return a device's registers."""
    return units_of(rig.plant, d)[1]


def write(image: DeviceImage, model: int, **values: float) -> int:
    """Write points of one model, one after the other; returns the first exception code, or 0."""
    for name, value in values.items():
        point = image.layout.point(model, name)
        code = image.write(point.address, point.encode(value))
        if code:
            return code
    return 0


def read(image: DeviceImage, model: int, name: str) -> float | None:
    """Return what a point shows."""
    point = image.layout.point(model, name)
    data = image.read(point.address, point.size)
    assert isinstance(data, bytes)
    return point.decode(data)
