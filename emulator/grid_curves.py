"""Points of SunSpec curves and the settings they stand for.

Duty: the mapping between what a Modbus client sees in models 705 to 712 and `GridSettings`, in natural units
(per unit, Hz, seconds, shares); scale factors and registers are the register layer's.  The mapping is that of
the SunSpec Modbus IEEE 1547-2018 profile specification, known to us at second hand.

Trips (707 to 710, `TRIP_MODELS`): the two levels are five points, each pair of neighbours one side of a step:

=====  ============================  =============================
point  place                         seconds
=====  ============================  =============================
1      `FAR`                         of level 2
2      level 2                       of level 2
3      level 2                       of level 1
4      level 1                       of level 1
5      level 1                       `LONG_S`: no trip beyond
=====  ============================  =============================

Two points, level 2 and level 1, say the same and are taken too.  A curve of another shape is refused: the
device has two timers on each side, no slanted limits and no third step.

Momentary cessation (707, 708): two points at its limit, of 0 s and of the must-trip time there; it holds
until the device trips.  None for frequency.

Watt-var (712): six points by rising power, P'3, P'2, P'1, P1, P2, P3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from .grid_types import Point, SettingError, Trip, WattVar

TripSide = Literal["under_voltage", "over_voltage", "under_frequency", "over_frequency"]
TRIP_MODELS: Final[dict[int, TripSide]] = {
    707: "under_voltage",
    708: "over_voltage",
    709: "under_frequency",
    710: "over_frequency",
}
"""The field of `GridSettings` that each trip model shows."""

POINTS: Final = {705: 4, 706: 2, 707: 5, 708: 5, 709: 5, 710: 5, 712: 6}
"""Points a curve of each model needs (NPt)."""

FAR: Final[dict[TripSide, float]] = {
    "under_voltage": 0.0,
    "over_voltage": 1.4,
    "under_frequency": 40.0,
    "over_frequency": 75.0,
}
"""Where curves begin [pu or Hz]; beyond the adjustable range of every level 2."""

LONG_S: Final = 2000.0
"""Time of the last point; the longest adjustable trip time is 1,000 s."""

_SAME: Final = 1e-9


def trip_points(levels: Sequence[Point], side: TripSide) -> tuple[Point, ...]:
    """Return the five points of a must-trip or may-trip curve; none of none."""
    if not levels:
        return ()
    (limit_1, seconds_1), (limit_2, seconds_2) = levels
    return (
        (FAR[side], seconds_2),
        (limit_2, seconds_2),
        (limit_2, seconds_1),
        (limit_1, seconds_1),
        (limit_1, LONG_S),
    )


def trip_levels(points: Sequence[Point], side: TripSide, curve: str = "MustTrip") -> tuple[Point, ...]:
    """Return levels 1 and 2 of the active points of a curve; none of none.

    Raises
    ------
    SettingError
        When the points are not the five or two of the module's docstring.
    """
    if not points and curve != "MustTrip":
        return ()
    name = f"{side.replace('_', '-')} trip, {curve}"
    if len(points) == 2:
        level_2, level_1 = points
    elif len(points) == 5:
        _five(points, side, name)
        level_2, level_1 = points[1], points[3]
    else:
        raise SettingError(
            f"{name}: found {len(points)} active points; allowed are 5, or the 2 that carry the settings, "
            "because the device has two trip levels on each side"
        )
    beyond = _beyond(level_2[0], level_1[0], side)
    if not beyond:
        raise SettingError(
            f"{name}: found level 2 at {level_2[0]:g} nearer to nominal than level 1 at {level_1[0]:g}; "
            "allowed is the far level first"
        )
    return level_1, level_2


def _five(points: Sequence[Point], side: TripSide, name: str) -> None:
    """Refuse five points that are not two steps."""
    (v1, t1), (v2, t2), (v3, t3), (v4, t4), (v5, t5) = points
    for point, found, like, value, what in (
        (1, t1, 2, t2, "Tms"),
        (3, v3, 2, v2, "place"),
        (3, t3, 4, t4, "Tms"),
        (5, v5, 4, v4, "place"),
    ):
        if not abs(found - value) <= _SAME:
            raise SettingError(
                f"{name}: found {what} {found:g} in point {point}; allowed is {value:g} as in point {like}, "
                "because limits are steps: slanted ones are not modelled"
            )
    if not _beyond(v1, v2, side):
        raise SettingError(f"{name}: found point 1 at {v1:g}; allowed is {v2:g}, as point 2, or beyond")
    if not t5 >= t4:
        raise SettingError(f"{name}: found Tms {t5:g} in point 5; allowed is {t4:g}, as in point 4, or more")


def cease_points(trip: Trip, side: TripSide) -> tuple[Point, ...]:
    """Return the points of the momentary cessation curve; none where there is no cessation."""
    if trip.cease is None:
        return ()
    return (trip.cease, 0.0), (trip.cease, _must_s(trip.must, trip.cease, side))


def cease_limit(points: Sequence[Point], must: Sequence[Point], side: TripSide) -> float | None:
    """Return the limit of momentary cessation of the active points of its curve; None of none.

    One point alone is taken for the first of the two.

    Raises
    ------
    SettingError
        When the points are not those of `cease_points`, or there are any for frequency.
    """
    name = f"{side.replace('_', '-')} trip, MomCess"
    if not points:
        return None
    if side.endswith("frequency"):
        raise SettingError(
            f"{name}: found {len(points)} active points; allowed is 0, because the device never ceases "
            "momentarily by frequency"
        )
    if len(points) > 2:
        raise SettingError(f"{name}: found {len(points)} active points; allowed are 0, 1 and 2")
    limit, begin_s = points[0]
    if not abs(begin_s) <= _SAME:
        raise SettingError(f"{name}: found Tms {begin_s:g} in point 1; allowed is 0: cessation is immediate")
    for other, end_s in points[1:]:
        least_s = _must_s(must, limit, side)
        if not abs(other - limit) <= _SAME:
            raise SettingError(
                f"{name}: found point 2 at {other:g}; allowed is {limit:g}, as point 1: slanted limits are "
                "not modelled"
            )
        if not end_s >= least_s - _SAME:
            raise SettingError(
                f"{name}: found Tms {end_s:g} in point 2; allowed is {least_s:g}, the must-trip time there, "
                "or more, because cessation holds until the device trips"
            )
    return limit


def _beyond(place: float, other: float, side: TripSide) -> bool:
    """Whether a place is at least as far from nominal as another; not where either is no number."""
    return place <= other + _SAME if side.startswith("under") else place >= other - _SAME


def _must_s(must: Sequence[Point], limit: float, side: TripSide) -> float:
    """Return the longest stay beyond a limit before the device must trip [s]."""
    (_, seconds_1), (level_2, seconds_2) = must
    return seconds_2 if _beyond(limit, level_2, side) else seconds_1


def watt_var_points(curve: WattVar) -> tuple[Point, ...]:
    """Return the six points of a watt-var curve by rising power."""
    return (*reversed(curve.absorb), *curve.generate)


def watt_var_sides(points: Sequence[Point]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Return the generating and the absorbing side of the active points of a watt-var curve.

    Raises
    ------
    SettingError
        When they are not six.
    """
    if len(points) != POINTS[712]:
        raise SettingError(
            f"watt-var: found {len(points)} active points; allowed is 6, P'3 to P'1 and P1 to P3"
        )
    return tuple(points[3:]), tuple(reversed(points[:3]))
