"""How a reading is bent: the courses and the arithmetic that data and registers share.

Duty: for each fault of telemetry that turns one shown value into another, say what is shown instead.
`readings` uses it on the readings of many devices, `registers` on single points, so that both levels tell a
controller the same.

Rules of this file: what is shown follows from the value, the time and the device's own stream of chance
alone, never from how often or by whom it is read.  NaN stands for "not implemented".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..faults import Event
from ..streams import stream
from ..units import SECOND_NS

Floats = NDArray[np.float64]

Bend = Callable[[int, Floats], Floats]
"""Time [ns] and values as they would be shown, one per device, to the values that are shown."""

OF: Final[Mapping[str, tuple[str, ...]]] = {
    "soc": ("soc_frac",),
    "power": ("power_w",),
    "meter": ("import_w",),
    "both": ("power_w", "import_w"),
    "all": ("soc_frac", "power_w", "import_w", "grid_good"),
}
"""Which readings a fault's parameter `of` names."""

FLIPS: Final[Mapping[str, int]] = {"thousandfold": 3, "tenfold": 1, "tenth": -1, "thousandth": -3}
"""Power of ten of each mistaken unit."""

WALK_NS: Final = 10 * SECOND_NS
"""A drifting state of charge takes a step this often [ns]."""

_WALKS_PER_H: Final = 360.0
_BLOCK: Final = 512


class _Chance:
    """Numbered draws of some devices: the k-th is the same whoever asks, and however often.

    Parameters
    ----------
    seed : int
    event : Event
    names : sequence of str, length m
        Of the devices.
    width : int
        Numbers in one draw.
    """

    def __init__(self, seed: int, event: Event, names: Sequence[str], width: int) -> None:
        # By its start and not its number: another event in the list must not move this one's draws.
        self._streams = [stream(seed, f"{name}/{event.fault}/{event.start_ns}") for name in names]
        self._draws = np.empty((len(names), _BLOCK, width))
        self._block = -1

    def draw(self, k: int) -> Floats:
        """Return draw number `k`, shape (m, width); never one of a block before the last one asked for."""
        while self._block < k // _BLOCK:
            for row, generator in zip(self._draws, self._streams, strict=True):
                row[:] = generator.random(row.shape)
            self._block += 1
        return self._draws[:, k % _BLOCK]


class _Drift:
    """A state of charge that is counted wrongly: a steady bias and a random walk, together within a bound."""

    def __init__(self, event: Event, seed: int, names: Sequence[str]) -> None:
        self._start_ns = event.start_ns
        self._slope_frac_per_h = float(event.params["slope_frac_per_h"])
        self._bound_frac = float(event.params["bound_frac"])
        # Uniform steps of ±a have a root mean square of a/√3.
        self._step_frac = float(event.params["wander_frac"]) * float(np.sqrt(3.0 / _WALKS_PER_H))
        self._chance = _Chance(seed, event, names, 1)
        self._walk_frac = np.zeros(len(names))
        self._steps = 0

    def __call__(self, now_ns: int, values: Floats) -> Floats:
        due = (now_ns - self._start_ns) // WALK_NS
        while self._steps < due:
            step = self._step_frac * (2.0 * self._chance.draw(self._steps)[:, 0] - 1.0)
            self._walk_frac = np.clip(self._walk_frac + step, -self._bound_frac, self._bound_frac)
            self._steps += 1
        bias_frac = self._slope_frac_per_h * (now_ns - self._start_ns) / (3600.0 * SECOND_NS)
        error_frac = np.clip(self._walk_frac + bias_frac, -self._bound_frac, self._bound_frac)
        return np.clip(values + error_frac, 0.0, 1.0)


class Slots:
    """Slots of equal length, some of them hit.

    Parameters
    ----------
    event : Event
        With `lasts_s` and `share_frac`.
    seed : int
    names : sequence of str, length m
        Of the devices.
    """

    def __init__(self, event: Event, seed: int, names: Sequence[str]) -> None:
        self._start_ns = event.start_ns
        self._slot_ns = max(1, round(float(event.params["lasts_s"]) * SECOND_NS))
        self._share_frac = float(event.params["share_frac"])
        self._chance = _Chance(seed, event, names, 2)

    def signs(self, now_ns: int) -> Floats:
        """Return 1 or -1 for each device whose present slot is hit, else 0; shape (m,)."""
        hit, sign = self._chance.draw((now_ns - self._start_ns) // self._slot_ns).T
        return np.where(hit < self._share_frac, np.where(sign < 0.5, -1.0, 1.0), 0.0)


def shift_of(event: Event, now_ns: int) -> int:
    """Return by how many powers of ten a scale factor that moves is off its own at an instant."""
    changes = (now_ns - event.start_ns) // max(1, round(float(event.params["every_s"]) * SECOND_NS))
    if changes % 2:
        return 0  # it goes there and back
    return 1 if event.params["move"] == "up" else -1


def skew_ns(event: Event, now_ns: int) -> int:
    """Return by how much a skewed clock is ahead at an instant [ns]."""
    offset_ns = round(float(event.params["offset_s"]) * SECOND_NS)
    if event.params["side"] == "behind":
        offset_ns = -offset_ns
    return offset_ns + round(float(event.params["rate_frac"]) * (now_ns - event.start_ns))


def power_of_ten(values: Floats, power: int) -> Floats:
    """Return values times a power of ten, exactly as far as doubles can."""
    return np.asarray(values * 10.0**power if power >= 0 else values / 10.0**-power)


def _knee(shown_frac: float, knee_frac: float, now_ns: int, values: Floats) -> Floats:
    # The knee is shown as `shown_frac`, full is full, and below the knee the truth comes out at once.
    slope = (1.0 - shown_frac) / (1.0 - knee_frac) if knee_frac < 1.0 else 0.0
    return np.where(values > knee_frac, shown_frac + (values - knee_frac) * slope, values)


def _fixed(shown: float, now_ns: int, values: Floats) -> Floats:
    return np.where(np.isnan(values), values, shown)


def _negated(now_ns: int, values: Floats) -> Floats:
    return -values


def _unknown(now_ns: int, values: Floats) -> Floats:
    return np.full_like(values, np.nan)


def _spiked(slots: Slots, height: float, least: float, now_ns: int, values: Floats) -> Floats:
    return np.maximum(values + height * slots.signs(now_ns), least)


def bends(event: Event, seed: int, names: Sequence[str]) -> dict[str, Bend]:
    """Return what a fault does to each reading it bends, by the reading's name; empty for other faults.

    Parameters
    ----------
    event : Event
    seed : int
    names : sequence of str, length m
        Of the devices whose values will be given.
    """
    params = event.params
    match event.fault:
        case "telemetry.soc-knee":
            return {"soc_frac": partial(_knee, float(params["shown_frac"]), float(params["knee_frac"]))}
        case "telemetry.soc-drift":
            return {"soc_frac": _Drift(event, seed, names)}
        case "telemetry.stuck-full":
            return {"soc_frac": partial(_fixed, float(params["shown_frac"]))}
        case "telemetry.sign-flip":
            return dict.fromkeys(OF[str(params["of"])], _negated)
        case "telemetry.not-a-number":
            return dict.fromkeys(OF[str(params["of"])], _unknown)
        case "telemetry.spike" if params["form"] == "spike":
            is_soc = params["of"] == "soc"
            height = float(params["depth_frac" if is_soc else "height_w"])
            least = 0.0 if is_soc else -np.inf  # no register shows a negative charge
            spiked = partial(_spiked, Slots(event, seed, names), height, least)
            return dict.fromkeys(OF[str(params["of"])], spiked)
    return {}
