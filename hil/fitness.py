"""Whether a run in real time is fit to be judged: how late the bench was, and what broke that no fault broke.

Rules of this file: it takes note and judges nothing.  What the scenario did to a message is the scenario's;
what this machine did is the bench's, and then the verdict is inconclusive: neither a pass nor a fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

HELD_FRAC_MAX: Final = 0.5
"""A bench that had to hold its clock for more than this share of the run is not fit to judge."""

_SHOWN: Final = 3
"""Broken links that are told one by one."""


class Fitness:
    """What the bench itself did to one run.

    Parameters
    ----------
    names : sequence of str
        Of the devices.
    clock : callable
        Tells bench time [ns] as a clock shows it.
    late_ns_max : int
        The controller was promised that no message takes longer; a bench later than that broke it [ns].
    duration_ns : int
        Of the run [ns].
    speed : float
        Bench seconds per real second.

    Attributes
    ----------
    held_ns : int
        For how long the world had to stand still because this machine could not keep up [ns].
    late_ns : int
        How late the bench was at most [ns].
    """

    def __init__(
        self,
        names: Sequence[str],
        clock: Callable[[int], str],
        *,
        late_ns_max: int,
        duration_ns: int,
        speed: float,
    ) -> None:
        self._names, self._clock = tuple(names), clock
        self._late_ns_max, self._duration_ns, self._speed = late_ns_max, duration_ns, speed
        self.held_ns = self.late_ns = 0
        self._late_at_ns, self._late_times, self._late_doing = 0, 0, ""
        self._broken: list[str] = []

    def late(self, now_ns: int, by_ns: int, doing: str) -> None:
        """Note that something was done later than it should have been.

        Parameters
        ----------
        now_ns : int
            [ns].
        by_ns : int
            [ns].
        doing : str
            What was being done.
        """
        self._late_times += by_ns > self._late_ns_max
        if by_ns > self.late_ns:
            self.late_ns, self._late_at_ns, self._late_doing = by_ns, now_ns, doing

    def hold(self, by_ns: int) -> None:
        """Note that the world stood still [ns]."""
        self.held_ns += by_ns

    def broke(self, now_ns: int, d: int, error: Exception) -> None:
        """Note that an exchange with device `d` failed, and no fault of the scenario had touched it."""
        self._broken.append(f"{self._names[d]} at {self._clock(now_ns)}: {error}")

    @property
    def fault(self) -> str:
        """What makes the bench unfit to judge, with the evidence; empty when nothing does."""
        found = []
        if self.held_ns > HELD_FRAC_MAX * self._duration_ns:
            found.append(
                f"this machine held the world still for {self.held_ns / 1e9:.0f} s of bench time in a run of "
                f"{self._duration_ns / 1e9:.0f} s; run it at a lower --speed than {self._speed:g}"
            )
        if self._late_times:
            found.append(
                f"the bench was late {self._late_times} times, at most by {self.late_ns / 1e9:.1f} s at "
                f"{self._clock(self._late_at_ns)} ({self._late_doing}); allowed "
                f"{self._late_ns_max / 1e9:g} s of bench time; run it at a lower --speed than {self._speed:g}"
            )
        if self._broken:
            more = len(self._broken) - _SHOWN
            rest = f"; and {more} more" if more > 0 else ""
            found.append(
                f"{len(self._broken)} exchanges failed that no fault of the scenario had touched: "
                f"{'; '.join(self._broken[:_SHOWN])}{rest}"
            )
        return "; ".join(found)

    @property
    def detail(self) -> str:
        """What is worth knowing of a run that is fit; empty when nothing is."""
        if not self.held_ns:
            return ""
        return f"the world stood still for {self.held_ns / 1e9:.1f} s because this machine could not keep up"
