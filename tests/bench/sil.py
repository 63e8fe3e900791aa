"""One day of the pilot at SIL: ``python -m tests.bench.sil``.

Prints, asserts nothing about time.  The bundled pilot (37 devices, polls every 10 s, 80 ms mean latency) with
1 % of the messages lost, cut into pieces of an hour of the day; between them, in the same process, pymodbus's
client reads from pymodbus's server over real loopback for a second.  So both see the same machine.
``--hours`` runs fewer of them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ridethrough.hil.bench import run
from ridethrough.hil.files import load_scenario, scenario_from_dict
from ridethrough.hil.modbus_link import Link
from ridethrough.hil.record import read_record
from ridethrough.hil.world import World, build_world

from tests.bench.virtual import REFERENCE, Variant, ask_pymodbus, serve_pymodbus, start

HOUR_NS = 3600 * 10**9


def pilot() -> World:
    """Return the pilot with 1 % loss."""
    document: dict[str, Any] = load_scenario("pilot").to_dict()
    document["comms"] = {**document["comms"], "loss": "1%"}
    return build_world(scenario_from_dict(document))


class Counter:
    """Counts the requests of all links that are closed while it is there."""

    def __init__(self) -> None:
        self.requests = 0

    def __enter__(self) -> Counter:
        self._close = Link.close

        async def close(link: Link) -> None:
            self.requests += link.requests
            await self._close(link)

        Link.close = close  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *_: object) -> None:
        Link.close = self._close  # type: ignore[method-assign]


def hour(world: World, k: int, folder: Path) -> tuple[float, float, int, int]:
    """Run one hour; return real and CPU time [s], requests, readings."""
    with Counter() as counter:
        real_s, cpu_s = time.perf_counter(), time.process_time()
        run(world.window(k * HOUR_NS, HOUR_NS), "reserve", folder, level="sil")
        real_s, cpu_s = time.perf_counter() - real_s, time.process_time() - cpu_s
    return real_s, cpu_s, counter.requests, len(read_record(folder).telemetry["device"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--hours", type=int, default=24, help="of the day, from 06:00 on")
    hours = parser.parse_args().hours
    world = pilot()
    print(f"Python {platform.python_version()}, {platform.machine()}; {hours} h of the pilot at SIL")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        reference: Variant = start(stack, REFERENCE, 1, serve_pymodbus, ask_pymodbus)
        reference.calibrate(1.0)
        parts, ratios = [], []
        for k in range(hours):
            reference.round()
            parts.append(hour(world, k, folder / str(k)))
            real_s, _, requests, _ = parts[-1]
            ratios.append(requests / real_s / reference.rates[-1].per_s)
    real_s, cpu_s, requests, readings = (sum(column) for column in zip(*parts, strict=True))
    rate = statistics.median(each.per_s for each in reference.rates)
    print(f"wall {real_s:.1f} s, CPU {cpu_s:.1f} s, judging and discovery of every hour included")
    print(f"{readings:,} readings, {requests:,} exchanges: {requests / real_s:,.0f} exchanges/s of wall time")
    print(f"{REFERENCE}: {rate:,.0f} exchanges/s; ratio, median of hours: {statistics.median(ratios):.2f}x")


if __name__ == "__main__":
    main()
