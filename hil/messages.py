"""Fate of one message: lost, or how late.

Rules of this file: chance comes from named streams, one per device, purpose and direction, so that a fault on
one home moves no other home's draws; no transcendental function, so that every machine gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from .faults import Event
from .streams import stream

if TYPE_CHECKING:
    from .effects.messages import Conditions

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

LOST: Final = -1
"""Delay of a message that never arrives [ns]."""

COMMANDS: Final = "commands"
TELEMETRY: Final = "telemetry"
"""The two directions, as parts of the names of streams."""

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


def pareto_ns(chance: Floats, mean_ns: float, p99_ns: float) -> Floats:
    """Turn uniform draws into delays with a tail that has no end.

    Parameters
    ----------
    chance : Floats
        Uniform in [0, 1).
    mean_ns, p99_ns : float
        Mean and 99th percentile [ns]; p99 from 1 to 14 times the mean.

    Returns
    -------
    Floats
        Delays [ns]: a least delay, and on top a Pareto delay of the second kind (Lomax) with shape 2, whose
        variance is infinite.  Where p99 is more than nine times the mean, a part of the messages has no delay
        at all.

    Notes
    -----
    The quantile function is ``s (1 / sqrt(1 - u) - 1)``: its mean is s, its 99th percentile 9 s.
    """
    if p99_ns <= 9.0 * mean_ns:
        scale_ns, free_frac = (p99_ns - mean_ns) / 8.0, 0.0
        least_ns = mean_ns - scale_ns
    else:
        # With a part q without delay and w = sqrt(1 - q): mean = w² s and p99 = s (10 w - 1), solved for w.
        ratio = p99_ns / mean_ns if mean_ns > 0.0 else 9.0
        root = (10.0 + np.sqrt(np.maximum(100.0 - 4.0 * ratio, 0.0))) / (2.0 * ratio)
        free_frac, scale_ns, least_ns = 1.0 - root * root, mean_ns / (root * root), 0.0
    left = np.where(chance > free_frac, (1.0 - chance) / (1.0 - free_frac), 1.0)
    return np.asarray(least_ns + scale_ns * (1.0 / np.sqrt(left) - 1.0))


class Dice:
    """Chance for the faults of one device's messages: a stream of its own for each fault and direction.

    Parameters
    ----------
    seed : int
    name : str
        Of the device.
    """

    def __init__(self, seed: int, name: str) -> None:
        self._seed, self._name = seed, name
        self._streams: dict[tuple[str, str], np.random.Generator] = {}
        self._bad: dict[tuple[int, str], bool] = {}

    def draw(self, fault: str, direction: str) -> float:
        """Return the next number in [0, 1) for a fault in a direction."""
        key = fault, direction
        if key not in self._streams:
            self._streams[key] = stream(self._seed, f"{self._name}/{fault}/{direction}")
        return float(self._streams[key].random())

    def hits(self, event: Event, direction: str) -> bool:
        """Whether an event meets this message: it does with the probability ``share_frac``, else always."""
        share = float(event.params.get("share_frac", 1.0))
        return share >= 1.0 or self.draw(event.fault, direction) < share

    def in_burst(self, event: Event, direction: str) -> bool:
        """Whether this message falls into a burst of losses.

        Notes
        -----
        Gilbert and Elliott's chain with two states, good and bad: every message in the bad state is lost.
        The chain begins in the good state with each event and direction.  In the long run the share
        ``loss_frac`` of all messages is lost; a burst has ``burst_messages`` of them on average, more where
        so great a loss needs it.

        References
        ----------
        E. N. Gilbert, "Capacity of a burst-noise channel", Bell System Technical Journal 39, 1960.
        """
        loss = float(event.params["loss_frac"])
        if loss >= 1.0 or loss <= 0.0:
            return loss >= 1.0
        length = max(float(event.params["burst_messages"]), loss / (1.0 - loss))
        key = event.number, direction
        chance = self.draw(event.fault, direction)
        bad = chance >= 1.0 / length if self._bad.get(key, False) else chance < loss / (1.0 - loss) / length
        self._bad[key] = bad
        return bad


class Fates:
    """Draws the fate of messages in one direction.

    Parameters
    ----------
    seed : int
    names : sequence of str, length n
        Device names: one stream each.
    direction : str
        `COMMANDS` or `TELEMETRY`; part of the stream's name.
    """

    def __init__(self, seed: int, names: Sequence[str], direction: str) -> None:
        self._streams = [stream(seed, f"{name}/comms/{direction}") for name in names]
        self._direction = direction
        self._draws = np.empty((len(names), 2, _BLOCK))
        self._delays_ns = np.empty((len(names), _BLOCK))
        self._delays_of: Conditions | None = None
        self._rows = np.arange(len(names))
        self._next = np.full(len(names), _BLOCK)

    def draw(self, conditions: Conditions, asked: NDArray[np.bool_]) -> Times:
        """Draw one message for each device that is asked: its delay [ns], or `LOST`, shape (n,).

        What is returned for the others has no meaning, and they draw nothing.
        """
        ended = self._next == _BLOCK
        if ended.any():
            for row in np.flatnonzero(ended):
                self._draws[row] = self._streams[row].random((2, _BLOCK))
            self._next[ended] = 0
            self._delays_of = None
        if self._delays_of is not conditions:
            mean_ns, p99_ns = conditions.latency_ns_mean[:, None], conditions.latency_ns_p99[:, None]
            self._delays_ns = delay_ns(self._draws[:, 1], mean_ns, p99_ns)
            self._delays_of = conditions
        loss, delay = self._draws[self._rows, 0, self._next], self._delays_ns[self._rows, self._next]
        self._next += asked
        cut = conditions.cut_commands if self._direction == COMMANDS else conditions.cut_telemetry
        return np.where(cut | (loss < conditions.loss_frac), LOST, delay.astype(np.int64))
