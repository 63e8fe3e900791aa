"""The real clock of a bench, and the plant that keeps up with it.

Rule of this file: the only clock of the bench is the event loop's.  Bench time is the loop's time since the
start, times the speed; the plant follows it in steps of whole ticks.  In virtual time the loop jumps.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import NS_PER_TICK

SECOND_NS: Final = 1_000_000_000

SPEED_MIN: Final = 0.1
SPEED_MAX: Final = 600.0

_FAST: Final = 10.0
_QUANTUM_NS: Final = 5 * NS_PER_TICK


def check_speed(speed: float) -> None:
    """Refuse a speed that no bench runs at.

    Raises
    ------
    ScenarioError
    """
    if not SPEED_MIN <= speed <= SPEED_MAX:
        raise ScenarioError(f"--speed {speed:g}: allowed {SPEED_MIN:g} to {SPEED_MAX:g}")


class RealClock:
    """Bench time on the running event loop.

    Parameters
    ----------
    speed : float
        Bench seconds per real second.
    quantum_ns : int, optional
        How far the plant moves at a time; default 100 ms, or 1 s when the bench runs fast [ns].
    is_real : bool
        The loop's time is real time.
    """

    def __init__(self, speed: float, quantum_ns: int | None = None, *, is_real: bool = True) -> None:
        self.speed, self.is_real = speed, is_real
        self.quantum_ns = quantum_ns or (SECOND_NS if speed >= _FAST else _QUANTUM_NS)
        self._start_s = asyncio.get_running_loop().time()

    def now_ns(self) -> int:
        """Return the bench time [ns]."""
        return round((asyncio.get_running_loop().time() - self._start_s) * self.speed * 1e9)

    def real_s(self, bench_ns: int) -> float:
        """Return the real length of a bench interval [s]."""
        return bench_ns / 1e9 / self.speed

    def hold(self, bench_ns: int) -> None:
        """Set the clock back by `bench_ns`, for which the world stood still."""
        self._start_s += self.real_s(bench_ns)

    async def sleep_until(self, bench_ns: int) -> None:
        """Sleep until the bench time `bench_ns`; when it is past, only let others run."""
        await asyncio.sleep(max(0.0, self.real_s(bench_ns - self.now_ns())))


class ComingClock:
    """A clock that is looked at before it has begun: no fault acts until then.

    Attributes
    ----------
    begun : RealClock or None
    """

    def __init__(self) -> None:
        self.begun: RealClock | None = None

    def now_ns(self) -> int:
        """Return the bench time [ns]; -1 before the world begins."""
        return -1 if self.begun is None else self.begun.now_ns()

    def real_s(self, bench_ns: int, /) -> float:
        """Return the real length of a bench interval [s]."""
        return bench_ns / 1e9 if self.begun is None else self.begun.real_s(bench_ns)
