"""Synthetic homes, weather and prices: plausible, seeded, and the same bytes on every machine.

Duty: load of single homes and of a municipal shelter, PV behind passing clouds, and a Texan electricity
market.
Rules: those of `streams` (draw with ``random`` only; add, subtract, multiply, divide and look up; sum in a
stated order).  Everything is made day by day from the midnight before the start, so that a scenario that
starts later, or runs longer, sees the same afternoon.

Shapes were set beside data: 17 metered homes (CityLearn 2022: mean 1.14 kW, highest hours of 4.4 to 8.8 kW),
100 simulated Texan homes (mean 0.75 kW, highest about 20 h, lowest about 3 h) and ERCOT HB_SOUTH June 2024 to
March 2025 (day-ahead mean 28 $/MWh; real time above 300 $/MWh on 7 days in 100, mostly from 17 h to 20 h, up
to 4,858 $/MWh).  Each number below that is not marked otherwise is an assumption.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .streams import stream
from .units import DAY_NS, MINUTE_NS

Floats = NDArray[np.float64]

DAY_MIN = 1440
QUARTERS = 96
TAIL_MIN = 120
"""An appliance started late runs on this far into the next day."""

_ACTIVE = (
    40,
    28,
    22,
    20,
    22,
    40,
    80,
    105,
    95,
    80,
    78,
    82,
    90,
    84,
    78,
    80,
    95,
    125,
    150,
    160,
    150,
    125,
    90,
    60,
)
"""How busy a home is in each hour, in hundredths of the day's mean; after the mean day of the data above."""

_COOLING = (30, 22, 16, 12, 8, 6, 6, 10, 20, 36, 54, 70, 82, 92, 98, 100, 100, 98, 92, 82, 70, 58, 46, 38)
"""How hard an air conditioner works in each hour of a summer day [%]."""

_SHELTER = (
    62,
    60,
    58,
    58,
    60,
    68,
    84,
    104,
    122,
    132,
    136,
    140,
    142,
    140,
    136,
    130,
    126,
    124,
    120,
    112,
    100,
    88,
    76,
    68,
)
"""A shelter's load in each hour, in hundredths of the day's mean."""

_SUN = (
    *(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    *(0, 16, 74, 148, 231, 316, 402, 483, 559, 627, 688, 739),
    *(779, 806, 820, 820, 806, 779, 739, 688, 627, 559, 483, 402),
    *(316, 231, 148, 74, 16, 0, 0, 0, 0, 0, 0, 0),
)
"""PV under a clear sky at each half hour of the day, in thousandths of peak power (summer, 30° north)."""

_AHEAD = (22, 20, 19, 19, 20, 24, 30, 30, 22, 18, 18, 19, 21, 23, 25, 26, 32, 41, 51, 63, 48, 31, 26, 23)
"""Mean day-ahead price in each hour [$/MWh]; HB_SOUTH, June 2024 to March 2025, from the data above."""

_BELL = 12
"""Uniform numbers summed for one nearly normal one: their sum has mean 6 and variance 1."""


def _interpolated(knots: Floats, per_knot: int) -> Floats:
    """Return straight lines through `knots`: `per_knot` values from each knot but the last to the next."""
    step = np.arange(per_knot, dtype=np.float64) / per_knot
    rise = knots[1:] - knots[:-1]
    return (knots[:-1, None] + rise[:, None] * step[None, :]).ravel()


def _hourly(table: tuple[int, ...]) -> Floats:
    """Return a table of hours as minutes of a day: straight lines through the middle of each hour."""
    day = np.asarray(table, dtype=np.float64)
    lines = _interpolated(np.append(day, day[0]), 60)
    return np.roll(lines, 30)


def _bell(rng: np.random.Generator, count: int) -> Floats:
    """Return nearly normal numbers of mean 0 and variance 1, between -6 and 6."""
    uniform = rng.random((_BELL, count))
    total = np.zeros(count)
    for row in uniform:
        total = total + row
    return total - _BELL / 2


def _cut(day: Callable[[int], Floats], per_day: int, first: int, count: int) -> Floats:
    """Return `count` values from the `first` on, out of days that `day` makes one by one."""
    last = first + count
    days = [day(number) for number in range(first // per_day, -(-last // per_day))]
    start = first // per_day * per_day
    return np.concatenate(days)[first - start : last - start] if days else np.zeros(0)


def _start_minute(start_of_day_ns: int) -> int:
    return start_of_day_ns // MINUTE_NS


def _pick_minute(rng: np.random.Generator, cumulative: NDArray[np.int64]) -> int:
    """Return a minute of the day, the likelier the busier the home is then."""
    return int(np.searchsorted(cumulative, int(rng.random() * int(cumulative[-1])), side="right"))


_ACTIVE_MIN = _hourly(_ACTIVE) / 100
_COOLING_MIN = _hourly(_COOLING) / 100
_SHELTER_MIN = _hourly(_SHELTER) / 100
_SUN_MIN = _interpolated(np.append(np.asarray(_SUN, dtype=np.float64), 0.0), 30) / 1000
_ACTIVE_SUM = np.cumsum(np.repeat(np.asarray(_ACTIVE, dtype=np.int64), 60))

_APPLIANCES = (
    # name, least and most power [W], shortest and longest run [min], runs in a day, share of homes
    ("kettle", 1500.0, 2800.0, 2, 5, 5, 0.8),
    ("hob", 1200.0, 2600.0, 15, 40, 2, 0.9),
    ("oven", 2000.0, 3200.0, 25, 50, 1, 0.5),
    ("washer", 400.0, 2000.0, 20, 60, 1, 0.6),
    ("dryer", 3800.0, 5200.0, 30, 60, 1, 0.35),
)


def home_load_w(seed: int, name: str, start_of_day_ns: int, steps: int) -> Floats:
    """Return the load of one home, minute by minute [W], shape (steps,).

    Parameters
    ----------
    seed : int
        The scenario's seed.
    name : str
        The home's name; each has habits of its own.
    start_of_day_ns : int
        Time of day of the first value, a whole minute [ns].
    steps : int
        Number of minutes.

    Notes ----- Standby and a cycling refrigerator, the residents' small consumers, a few appliances of up to
    5 kW at busy hours, and in three homes of four an air conditioner.  Seasons, weekdays and holidays are not
    modelled.
    """
    habits = _Habits(seed, name)
    tails: dict[int, Floats] = {}

    def day(number: int) -> Floats:
        if number - 1 not in tails:
            tails[number - 1] = habits.day(number - 1)[1]
        load, tails[number] = habits.day(number)
        load[:TAIL_MIN] = load[:TAIL_MIN] + tails[number - 1]
        return load

    return _cut(day, DAY_MIN, _start_minute(start_of_day_ns), steps)


class _Habits:
    """What stays the same in one home from day to day."""

    def __init__(self, seed: int, name: str) -> None:
        self._seed, self._name = seed, name
        draw = stream(seed, f"{name}/habits").random(16).tolist()
        self._standby_w = 50.0 + 90.0 * draw[0]
        self._fridge_w = 90.0 + 80.0 * draw[1]
        self._fridge_period = 40 + int(40 * draw[2])
        self._fridge_on = 12 + int(14 * draw[3])
        self._fridge_phase = int(80 * draw[4])
        self._small_w = 90.0 + 220.0 * draw[5]
        self._cooling_w = 1400.0 + 1600.0 * draw[6] if draw[7] < 0.75 else 0.0
        self._cooling_period = 15 + int(15 * draw[8])
        self._cooling_duty = 0.2 + 0.4 * draw[9]
        self._has = [draw[10 + k] < share for k, (*_, share) in enumerate(_APPLIANCES)]

    def day(self, number: int) -> tuple[Floats, Floats]:
        """Return one day, shape (1440,), and what its last appliances draw in the next, shape (120,) [W]."""
        rng = stream(self._seed, f"{self._name}/load/{number}")
        minute = np.arange(DAY_MIN, dtype=np.int64) + number * DAY_MIN
        knots = np.maximum(1.0 + 0.5 * _bell(rng, 97), 0.2)
        load = self._standby_w + self._small_w * _ACTIVE_MIN * _interpolated(knots, 15)
        fridge_on = (minute + self._fridge_phase) % self._fridge_period < self._fridge_on
        load = load + self._fridge_w * fridge_on
        heat = 0.6 + 0.8 * float(rng.random())
        duty = np.minimum(
            self._cooling_duty * heat * _COOLING_MIN * self._cooling_period, self._cooling_period
        )
        load = load + self._cooling_w * (minute % self._cooling_period < duty)
        long = np.zeros(DAY_MIN + TAIL_MIN)
        for has, (_, low_w, high_w, shortest, longest, runs, _) in zip(self._has, _APPLIANCES, strict=True):
            for _ in range(runs):
                chance, power, length = rng.random(3).tolist()
                at = _pick_minute(rng, _ACTIVE_SUM)
                if has and chance < 0.6:
                    end = at + shortest + int((longest - shortest + 1) * length)
                    long[at:end] = long[at:end] + (low_w + (high_w - low_w) * power)
        return load + long[:DAY_MIN], long[DAY_MIN:]


def municipal_shelter_w(seed: int, name: str, start_of_day_ns: int, steps: int) -> Floats:
    """Return the load of a shelter with kitchen, clinic and pumps, minute by minute [W], shape (steps,).

    Parameters
    ----------
    seed, name, start_of_day_ns, steps
        As for `home_load_w`.
    """
    mean_w = 10_000.0 + 3_000.0 * float(stream(seed, f"{name}/habits").random())

    def day(number: int) -> Floats:
        rng = stream(seed, f"{name}/load/{number}")
        knots = np.maximum(1.0 + 0.06 * _bell(rng, 145), 0.7)
        load = mean_w * _SHELTER_MIN * _interpolated(knots, 10)
        minute = np.arange(DAY_MIN, dtype=np.int64)
        phase = int(45 * rng.random())
        return load + 1500.0 * ((minute + phase) % 45 < 10)

    return _cut(day, DAY_MIN, _start_minute(start_of_day_ns), steps)


def pv_w(seed: int, name: str, w_peak: float, start_of_day_ns: int, steps: int) -> Floats:
    """Return what a home's PV could generate, minute by minute [W], shape (steps,).

    Parameters
    ----------
    seed, name, start_of_day_ns, steps
        As for `home_load_w`.
    w_peak : float
        Peak power of the array [W].

    Notes
    -----
    All homes share the day's weather (clear, broken or overcast); each has its own passing clouds and tilt.
    """
    tilt = 0.92 + 0.08 * float(stream(seed, f"{name}/habits/pv").random())

    def day(number: int) -> Floats:
        kind, depth = stream(seed, f"weather/{number}").random(2).tolist()
        low, high = _sky(kind, depth)
        knots = low + (high - low) * stream(seed, f"{name}/pv/{number}").random(289)
        return w_peak * tilt * (_SUN_MIN * _interpolated(knots, 5))

    return _cut(day, DAY_MIN, _start_minute(start_of_day_ns), steps)


def _sky(kind: float, depth: float) -> tuple[float, float]:
    """Return between which shares of clear-sky generation a day's clouds move it."""
    if kind < 0.5:
        return 0.94, 1.0
    if kind < 0.85:
        return 0.25 + 0.3 * depth, 1.0
    return 0.08, 0.2 + 0.25 * depth


def ercot_prices(
    seed: int, start_of_day_ns: int, steps: int, *, tight: bool = False
) -> tuple[Floats, Floats]:
    """Return day-ahead and real-time prices for each quarter hour [$/MWh], both of shape (steps,).

    Parameters
    ----------
    seed : int
        The scenario's seed.
    start_of_day_ns : int
        Time of day of the first value, a whole quarter hour [ns].
    steps : int
        Number of quarter hours.
    tight : bool
        Scarcity every evening, instead of about one in fourteen.
    """
    first = start_of_day_ns * QUARTERS // DAY_NS
    ahead = _cut(lambda number: _price_day(seed, number, tight)[0], QUARTERS, first, steps)
    real_time = _cut(lambda number: _price_day(seed, number, tight)[1], QUARTERS, first, steps)
    return ahead, real_time


def _price_day(seed: int, number: int, tight: bool) -> tuple[Floats, Floats]:
    rng = stream(seed, f"prices/{number}")
    level, evening, chance, when, length, height = rng.random(6).tolist()
    hours = np.asarray(_AHEAD, dtype=np.float64) * (0.7 + 0.7 * level)
    hours[17:21] = hours[17:21] * (1.0 + 0.6 * evening)
    ahead = np.repeat(hours, 4)
    knots = 0.92 + 0.12 * _bell(rng, 25)
    real_time = ahead * _interpolated(knots, 4) + 1.5 * _bell(rng, QUARTERS)
    if tight or chance < 0.07:
        begin = 67 + int(5 * when)  # between 16:45 and 17:45
        end = begin + 5 + int(7 * length)
        # Most spikes are a few hundred dollars; the square makes thousands rare.
        top = 300.0 + 2400.0 * height * height
        real_time[begin:end] = real_time[begin:end] + top * (0.6 + 0.4 * rng.random(end - begin))
    return ahead, real_time
