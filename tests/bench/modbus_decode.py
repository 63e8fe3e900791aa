"""What it costs to decode SunSpec model 701 out of its registers: ours beside pysunspec2.

Both decode the same registers of a live device in the same process, in turn; times are medians of rounds of
CPU time.  pysunspec2 is timed as its users have it: `set_mb`, then the scaled value of every point.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ridethrough.emulator.image import DeviceImage
from sunspec2.modbus.client import SunSpecModbusClientModel

from tests.bench.modbus_peers import Unmeasured

MODEL = 701
ROUNDS = 9


@dataclass(frozen=True, slots=True)
class DecodeTimes:
    """Time of one decode of all numbers of the model [µs]; points compared, all of them equal."""

    points: int
    pysunspec2_us: float
    ours_us: float

    def __str__(self) -> str:
        return (
            f"decode of model {MODEL}, {self.points} points compared and equal: pysunspec2 "
            f"{self.pysunspec2_us:.1f} µs, ridethrough {self.ours_us:.3f} µs, "
            f"{self.pysunspec2_us / self.ours_us:.0f} times faster (aim 100)"
        )


def registers_of(unit: DeviceImage, model: int) -> bytes:
    """Return the registers of one model with its header."""
    first = unit.layout.point(model, "ID").address
    last = max(point.address + point.size for point in unit.layout.points if point.model == model)
    cells = b""
    for address in range(first, last, 100):
        block = unit.read(address, min(100, last - address))
        assert isinstance(block, bytes)
        cells += block
    return cells


def cpu_us(call: Callable[[], object], times: int) -> float:
    """Return the CPU time of one call [µs]."""
    began_s = time.process_time()
    for _ in range(times):
        call()
    return 1e6 * (time.process_time() - began_s) / times


def decode_times(unit: DeviceImage) -> DecodeTimes:
    """Decode model 701 of a unit with both, compare, and time."""
    try:
        from ridethrough.hil._decode import Decoder
        from ridethrough.hil.sunspec_points import all_points, is_number, row_of
    except ImportError as missing:
        raise Unmeasured(str(missing)) from None
    cells = registers_of(unit, MODEL)
    words = [int.from_bytes(cells[k : k + 2]) for k in range(0, len(cells), 2)]
    wanted = {
        name: point for name, point in all_points(MODEL, len(words) - 2, words).items() if is_number(point)
    }
    decoder = Decoder([row_of(point) for point in wanted.values()])
    values = np.empty(decoder.count)
    peer = SunSpecModbusClientModel(model_id=MODEL, data=cells, mb_device=None)

    def theirs() -> dict[str, float | None]:
        peer.set_mb(cells)
        return {name: point.cvalue for name, point in peer.points.items()}

    decoder.decode(cells, values)
    ours = dict(zip(wanted, values.tolist(), strict=True))
    told = {
        name: value
        for name, value in theirs().items()
        if name in ours and isinstance(value, int | float) and peer.points[name].pdef["type"] != "sunssf"
    }
    differing = [
        name for name, value in told.items() if not np.isclose(ours[name], value, rtol=1e-12, atol=0.0)
    ]
    if differing or not told:
        raise Unmeasured(f"pysunspec2 decodes {', '.join(differing) or 'everything'} otherwise")
    rounds = [
        (cpu_us(theirs, 200), cpu_us(lambda: decoder.decode(cells, values), 20_000)) for _ in range(ROUNDS)
    ]
    return DecodeTimes(
        len(told), statistics.median(one[0] for one in rounds), statistics.median(one[1] for one in rounds)
    )
