"""What a device should do, written without the emulator: curves by interpolation, lags by formula.

Duty: targets of the IEEE 1547 functions, and the two discretisations of their open loop response whose
difference is the band in which a trace of OpenDER and the emulator may lie apart.

Rule of this file: nothing of ridethrough is imported here.

The lag of both is first order and makes 90 % of a step in the open loop response time Tr.  With h the step:

- emulator: ``y[k] = y[k-1] + (1 - 10^(-h/Tr)) (u[k] - y[k-1])``, exact for an input held during a step;
- OpenDER: bilinear with T = Tr/1.15, ``y[k] = h/(h+T) (u[k] + u[k-1]) + (T-h)/(T+h) y[k-1]``; an input that
  is held from step k on counts by half in step k, so the response comes half a step late.

For a step of size 1 at k = 0 the first leaves 10^(-(k+1)h/Tr) of the way after step k, the second
T/(T+h) ((T-h)/(T+h))^k.  The difference is greatest at k = 0 and about h/T: 2 % at h = 0.1 s, Tr = 5 s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Segment = tuple[float, float, float, float]
"""Held from a time on: time [s], voltage [pu], frequency [Hz], power asked [of rating]."""
Curve = Sequence[tuple[float, float]]

RATED = 10_000.0
"""Rating of every device here, in W and in VA."""


def along(curve: Curve, x: Floats) -> Floats:
    """Return a piecewise linear curve, flat beyond its ends."""
    return np.interp(x, [a for a, _ in curve], [b for _, b in curve])


def droop(f: Floats, *, dead_hz: float = 0.036, k: float = 0.05, nominal_hz: float = 60.0) -> Floats:
    """Return what frequency adds to active power, of rating (IEEE 1547-2018, 6.5.2.7)."""
    over = np.maximum(f - nominal_hz - dead_hz, 0.0)
    under = np.maximum(nominal_hz - dead_hz - f, 0.0)
    return (under - over) / (nominal_hz * k)


def exact(u: Floats, response_s: float, step_s: float) -> Floats:
    """Return the lag that is exact for an input held during a step, at rest at first."""
    gain = 1.0 - 10.0 ** (-step_s / response_s)
    return _recursive(u, lambda now, _before, y: y + gain * (now - y))


def bilinear(u: Floats, response_s: float, step_s: float) -> Floats:
    """Return the lag as OpenDER discretises it; shorter ones than 1.15 steps pass their input through."""
    if response_s < 1.15 * step_s:
        return u.copy()
    h, t = step_s, response_s / 1.15
    return _recursive(u, lambda now, before, y: h / (h + t) * (now + before) + (t - h) / (t + h) * y)


def _recursive(u: Floats, move: Callable[[float, float, float], float]) -> Floats:
    y = np.empty_like(u)
    before = held = float(u[0])
    for k, now in enumerate(u):
        held = move(float(now), before, held)
        before = float(now)
        y[k] = held
    return y


def apart(u: Floats, response_s: float, step_s: float) -> Floats:
    """Return how far the two discretisations lie apart, step by step."""
    return np.abs(exact(u, response_s, step_s) - bilinear(u, response_s, step_s))


def steps(segments: Sequence[Segment], step_s: float, end_s: float) -> tuple[Floats, Floats]:
    """Return the ends of the steps, shape (m,), and what is held during each: v, f, p, shape (m, 3)."""
    ends = np.round(np.arange(1, round(end_s / step_s) + 1) * step_s, 6)
    begins = np.array([segment[0] for segment in segments])
    held = np.array([segment[1:] for segment in segments], dtype=np.float64)
    return ends, held[np.searchsorted(begins, ends - 0.5 * step_s) - 1]
