"""Device-steps per second of the kernel and of its NumPy oracle: ``python -m tests.bench.kernel``.

Prints, asserts nothing.  The variants of one fleet size run in turn, round after round, so that a busy
machine slows all of them; figures are medians of CPU time.  A device-step is one step of one device, of 1 s
while quiet and of 20 ms in transition.
"""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
from ridethrough.emulator import _kernel, reference
from ridethrough.emulator.fields import PARAM, TICKS_PER_S
from ridethrough.emulator.plant import Advance, Plant

from tests.strategies import home

ROUNDS = 7
CPU_S = 0.05
"""CPU time one measurement aims at [s]."""
REFERENCE_DEVICES_MAX = 1000
"""Larger fleets are measured on the kernel alone: the oracle is for checking."""


@dataclass
class Variant:
    """One stepping function in one situation, on a plant of its own."""

    name: str
    plant: Plant
    steps_per_call: int
    calls: int = 1
    rates: list[float] = field(default_factory=list)

    def measure(self) -> float:
        """Advance `calls` times by one second; returns the CPU time [s]."""
        start = time.process_time()
        for _ in range(self.calls):
            self.plant.advance(TICKS_PER_S)
        return time.process_time() - start

    def calibrate(self) -> None:
        """Choose the calls so that one measurement takes about `CPU_S`."""
        while self.measure() < CPU_S and self.calls < 1_000_000:
            self.calls *= 2

    def round(self) -> None:
        """Measure once more."""
        self.rates.append(self.plant.n * self.steps_per_call * self.calls / self.measure())


def plant_of(n: int, advance: Advance, *, quiet: bool) -> Plant:
    """Return `n` homes: quiet ones follow the grid, the others wait in a transfer that does not end."""
    rng = np.random.default_rng(n)
    plant = Plant(
        [home(control={"revert_state": "self_consumption", "has_reserve": True})] * n,
        soc_frac=rng.uniform(0.3, 0.9, n),
        advance=advance,
    )
    plant.set_input("load_w", rng.uniform(200.0, 4000.0, n))
    plant.set_input("pv_w_available", rng.uniform(0.0, 4000.0, n))
    if not quiet:
        plant.set_input("grid_good", 0.0)
        plant.param[:, _TRANSFER_TICKS, :] = 2.0**52
    plant.advance(TICKS_PER_S)
    return plant


_TRANSFER_TICKS = PARAM.index("transfer_ticks")


def main() -> None:
    """Print the table."""
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"{'devices':>8}  {'variant':<24}{'device-steps/s':>16}{'ns/device-step':>16}{'spread':>9}")
    for n in (1, 37, 1000, 100_000):
        variants = []
        for label, advance in (("kernel", _kernel.advance), ("reference", reference.advance)):
            if label == "reference" and n > REFERENCE_DEVICES_MAX:
                continue
            for situation, steps in (("quiet", 1), ("in transition", TICKS_PER_S)):
                plant = plant_of(n, advance, quiet=situation == "quiet")
                variants.append(Variant(f"{label}, {situation}", plant, steps))
        for variant in variants:
            variant.calibrate()
        for _ in range(ROUNDS):
            for variant in variants:
                variant.round()
        for variant in variants:
            rate = statistics.median(variant.rates)
            spread = (max(variant.rates) - min(variant.rates)) / rate
            print(f"{n:>8}  {variant.name:<24}{rate:>16,.0f}{1e9 / rate:>16.1f}{spread:>9.0%}")


if __name__ == "__main__":
    main()
