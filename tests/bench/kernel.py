"""Device-steps per second of the physics, its limit and its peers: ``python -m tests.bench.kernel``.

Prints, asserts nothing.  The variants of one fleet size run in turn, round after round, so that a busy
machine slows all of them; figures are medians of CPU time.  A device-step is one step of one device: of 1 s
in quiet grid operation, of 20 ms in a transition.  "fused" makes 60 steps in one call, inputs held.  Bytes
are those of the fields that the traced step reads and writes, each once; the limit is a sum of two arrays
far larger than the caches, counted in the same way (a = b + c: 24 bytes an element).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from opender import DER_BESS  # type: ignore[import-untyped]  # publishes no types
from ridethrough.emulator import _kernel, emit, fields, reference
from ridethrough.emulator.fields import LANES, PARAM, TICKS_PER_S
from ridethrough.emulator.model import ops
from ridethrough.emulator.model import step as model
from ridethrough.emulator.plant import Advance, Floats, Plant
from ridethrough.emulator.trace import Graph, trace

from tests.strategies import home

CPU_S = 0.05
"""CPU time one measurement aims at [s]."""
FUSED = 60
"""Coarse steps in one call, as in a bench that changes its inputs once a minute."""
SIZES = (1, 37, 1000, 100_000, 1_000_000)
REFERENCE_DEVICES_MAX = 1000
"""Larger fleets are measured on the kernel alone: the oracle is for checking."""
THREADED_DEVICES_MIN = 20_000
BASE = 1000
"""Larger fleets are this one, repeated."""
SUM_ELEMENTS = 40_000_000
FIELDS = {"param": fields.PARAM, "control": fields.CONTROL, "input": fields.INPUT, "state": fields.STATE}


@dataclass
class Variant:
    """One way of stepping."""

    name: str
    call: Callable[[], None]
    steps_per_call: float
    clock: Callable[[], float] = time.process_time
    calls: int = 1
    rates: list[float] = field(default_factory=list)

    def measure(self) -> float:
        """Call `calls` times; returns the time [s]."""
        start = self.clock()
        for _ in range(self.calls):
            self.call()
        return self.clock() - start

    def calibrate(self) -> None:
        """Choose the calls so that one measurement takes about `CPU_S`."""
        self.call()
        while self.measure() < CPU_S and self.calls < 1_000_000:
            self.calls *= 2

    def round(self) -> None:
        """Measure once more."""
        self.rates.append(self.steps_per_call * self.calls / self.measure())

    @property
    def rate(self) -> float:
        """Median of the rates [1/s]."""
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Homes:
    """Arrays of `n` homes, as a Plant keeps them."""

    n: int
    arrays: tuple[Floats, Floats, Floats, Floats]

    def stepping(self, advance: Advance, ticks: int) -> Callable[[], None]:
        """Return a call that moves the homes on by `ticks`."""
        return partial(advance, *self.arrays, self.n, ticks, coarse_ticks=TICKS_PER_S)


def homes(n: int, *, calm: bool) -> Homes:
    """Return `n` homes: calm ones follow the grid, the others wait in a transfer that does not end."""
    rng = np.random.default_rng(n)
    few = min(n, BASE)
    plant = Plant(
        [home(control={"revert_state": "self_consumption", "has_reserve": True})] * few,
        soc_frac=rng.uniform(0.4, 0.8, few),
    )
    plant.set_input("load_w", rng.uniform(200.0, 4000.0, few))
    plant.set_input("pv_w_available", rng.uniform(0.0, 4000.0, few))
    if not calm:
        plant.set_input("grid_good", 0.0)
        plant.param[:, PARAM.index("transfer_ticks"), :] = 2.0**52
    plant.advance(2 * TICKS_PER_S)
    tiles = -(-n // LANES)
    times = -(-tiles // plant.param.shape[0])
    arrays = (plant.param, plant.control, plant.input, plant.state)
    many = tuple(a if times == 1 else np.tile(a, (times, 1, 1))[:tiles] for a in arrays)
    return Homes(n, (many[0], many[1], many[2], many[3]))


def variants_of(n: int) -> list[Variant]:
    """Return the ways of stepping that are measured for one fleet size; all share one fleet of each kind."""
    calm, waiting = homes(n, calm=True), homes(min(n, 100_000), calm=False)
    found = []
    for target in _kernel.targets():
        advance = partial(_kernel.advance, target=target)
        found += [
            Variant(f"kernel {target}, calm, fused", calm.stepping(advance, FUSED * TICKS_PER_S), n * FUSED),
            Variant(f"kernel {target}, calm", calm.stepping(advance, TICKS_PER_S), n),
        ]
        if n <= waiting.n:
            steps = waiting.n * TICKS_PER_S
            found.append(
                Variant(f"kernel {target}, transition", waiting.stepping(advance, TICKS_PER_S), steps)
            )
    if n >= THREADED_DEVICES_MIN:
        two = partial(_kernel.advance_threaded, threads=2)
        call = calm.stepping(two, FUSED * TICKS_PER_S)
        found.append(Variant("2 threads, calm, fused", call, n * FUSED, time.perf_counter))
    if n <= REFERENCE_DEVICES_MAX:
        slow = waiting.stepping(reference.advance, 5)
        found += [
            Variant("NumPy reference, calm", calm.stepping(reference.advance, TICKS_PER_S), n),
            Variant("NumPy reference, transition", slow, n * 5),
        ]
    return found


def opender_step() -> Variant:
    """EPRI OpenDER: one battery following the grid, steps of 1 s."""
    DER_BESS.t_s = 1.0
    der = DER_BESS()
    der.update_der_input(p_dem_pu=0.5, v_pu=1.0, f=60.0)
    return Variant("EPRI OpenDER, one DER_BESS", der.run, 1.0)


def memory_sum() -> Variant:
    """A sum of arrays far larger than the caches; its steps are bytes."""
    a, b, c = (np.ones(SUM_ELEMENTS) for _ in range(3))

    def add() -> None:
        np.add(b, c, out=a)

    return Variant("memory: a = b + c", add, 24.0 * SUM_ELEMENTS)


def day_of_37() -> list[Variant]:
    """37 homes for 24 h at 1 s; a "step" is the whole day."""
    minute = homes(37, calm=True).stepping(_kernel.advance, 60 * TICKS_PER_S)
    second = homes(37, calm=True).stepping(_kernel.advance, TICKS_PER_S)
    return [
        Variant("37 homes, 24 h, a call a minute", minute, 1 / 1440),
        Variant("37 homes, 24 h, a call a second", second, 1 / 86400),
    ]


def bytes_per_step(graph: Graph) -> tuple[int, int]:
    """Return how many bytes a device-step reads and writes, each field once."""
    used = graph.used([*graph.stores.values(), *graph.guard])
    read = {graph.nodes[n].detail for n in used if graph.nodes[n].op == "field"}
    return 8 * len(read), 8 * len(graph.stores)


def operations(graph: Graph) -> int:
    """Return how many operations a device-step does."""
    used = emit.order(graph, [*graph.stores.values(), *graph.guard])
    return sum(graph.nodes[n].op not in ("field", "constant", "ticks") for n in used)


def calibrated(variants: list[Variant], rounds: int) -> list[Variant]:
    """Measure variants in turn."""
    for variant in variants:
        variant.calibrate()
    for _ in range(rounds):
        for variant in variants:
            variant.round()
    return variants


def report(n: int, variants: list[Variant]) -> None:
    """Print the rates of one fleet size."""
    for variant in variants:
        rate = variant.rate
        spread = (max(variant.rates) - min(variant.rates)) / rate
        print(f"{n:>9,}  {variant.name:<34}{rate / 1e6:>10,.3f} M/s{1e9 / rate:>14,.1f} ns{spread:>7.0%}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--devices-max", type=int, default=SIZES[-1], help="leave out larger fleets")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, found {options.rounds}")
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")
    calm = trace(model.step, FIELDS, "ticks", True, facts=fields.CALM, also=model.quiet, assume=ops.assume)
    whole = trace(model.step, FIELDS, "ticks", False)
    read, written = bytes_per_step(calm)
    print(
        f"operations: {operations(calm)} calm, {operations(whole)} in a transition; "
        f"bytes of a calm step: {read} read, {written} written"
    )
    best, other = _kernel.targets()[-1], calibrated([opender_step(), memory_sum()], options.rounds)
    opender_rate, memory_rate = other[0].rate, other[1].rate
    print(
        f"{other[0].name}: {1e6 / opender_rate:.1f} us a step; {other[1].name}: {memory_rate / 1e9:.1f} GB/s"
    )
    print(f"{'devices':>9}  {'variant':<34}{'device-steps':>14}{'each':>17}{'spread':>7}")
    for n in SIZES:
        if n > options.devices_max:
            continue
        rates = {v.name: v for v in calibrated(variants_of(n), options.rounds)}
        report(n, list(rates.values()))
        fused, single = rates[f"kernel {best}, calm, fused"].rate, rates[f"kernel {best}, calm"].rate
        line = f"{fused / opender_rate:,.0f} x OpenDER; unfused {single * (read + written) / memory_rate:.0%}"
        print(f"{'':>9}  {line} of the memory limit", end="")
        oracle = rates.get("NumPy reference, calm")
        print(f"; {single / oracle.rate:.1f} x the reference" if oracle else "")
    for variant in calibrated(day_of_37(), options.rounds):
        print(f"{variant.name}: {1 / variant.rate:.3f} s")


if __name__ == "__main__":
    main()
