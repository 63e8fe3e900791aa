"""Fate of one message: lost, or how late.

Rules of this file: chance comes from one named stream per device and direction, drawn in blocks, so that a
fault on one home moves no other home's draws; no transcendental function, so that every machine gives the
same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .scene import Conditions
from .streams import stream

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

LOST: Final = -1
"""Delay of a message that never arrives [ns]."""

_BLOCK: Final = 512
_TAIL: Final = 3.0
"""Greatest delay, of the 99th percentile."""


def delay_ns(chance: Floats, mean_ns: Floats, p99_ns: Floats) -> Floats:
    """Turn uniform draws into one-way delays.

    Parameters
    ----------
    chance : Floats
        Uniform in [0, 1).
    mean_ns, p99_ns : Floats
        Mean and 99th percentile [ns]; p99 from 1 to 14 times the mean.

    Returns
    -------
    Floats
        Delays [ns]: 98 % uniform about a typical delay, then a tail through p99 that ends at three times p99.

    Notes
    -----
    Piecewise linear in the draw.  The typical delay is chosen so that the mean is right.
    """
    body_ns = (mean_ns - 0.005 * p99_ns - 0.01 * (1.0 + _TAIL) / 2.0 * p99_ns) / 0.985
    body_ns = np.where(body_ns > 0.0, body_ns, 0.0)
    half_ns = np.where(
        1.5 * body_ns <= p99_ns, 0.5 * body_ns, np.where(p99_ns > body_ns, p99_ns - body_ns, 0.0)
    )
    top_ns = body_ns + half_ns
    body = body_ns + half_ns * (chance / 0.49 - 1.0)
    rise = top_ns + (p99_ns - top_ns) * (chance - 0.98) / 0.01
    tail = p99_ns + (_TAIL - 1.0) * p99_ns * (chance - 0.99) / 0.01
    return np.where(chance < 0.98, body, np.where(chance < 0.99, rise, tail))


class Fates:
    """Draws the fate of messages in one direction.

    Parameters
    ----------
    seed : int
    names : sequence of str, length n
        Device names: one stream each.
    direction : str
        ``commands`` or ``telemetry``; part of the stream's name.
    timeout_ns : int
        A message later than this is abandoned by its sender, so it counts as lost [ns].
    """

    def __init__(self, seed: int, names: Sequence[str], direction: str, timeout_ns: int) -> None:
        self._streams = [stream(seed, f"{name}/comms/{direction}") for name in names]
        self._direction = direction
        self._timeout_ns = timeout_ns
        self._draws = np.empty((len(names), 2, _BLOCK))
        self._delays_ns = np.empty((len(names), _BLOCK))
        self._delays_of: Conditions | None = None
        self._next = _BLOCK

    def draw(self, conditions: Conditions) -> Times:
        """Draw one message per device: its delay [ns], or `LOST`, shape (n,)."""
        if self._next == _BLOCK:
            for row, generator in zip(self._draws, self._streams, strict=True):
                row[:] = generator.random((2, _BLOCK))
            self._next = 0
            self._delays_of = None
        if self._delays_of is not conditions:
            mean_ns, p99_ns = conditions.latency_ns_mean[:, None], conditions.latency_ns_p99[:, None]
            self._delays_ns = delay_ns(self._draws[:, 1], mean_ns, p99_ns)
            self._delays_of = conditions
        loss, delay = self._draws[:, 0, self._next], self._delays_ns[:, self._next]
        self._next += 1
        cut = conditions.cut_commands if self._direction == "commands" else conditions.cut_telemetry
        lost = cut | (loss < conditions.loss_frac) | (delay > self._timeout_ns)
        return np.where(lost, LOST, delay.astype(np.int64))
