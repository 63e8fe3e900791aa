"""How SunSpec curves show settings, and what of them is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import settings as pace
from hypothesis import strategies as st
from ridethrough.emulator.grid_curves import (
    POINTS,
    TRIP_MODELS,
    TripSide,
    cease_limit,
    cease_points,
    trip_levels,
    trip_points,
    watt_var_points,
    watt_var_sides,
)
from ridethrough.emulator.grid_settings import (
    GridSettings,
    Point,
    SettingError,
    Trip,
    default_settings,
)
from ridethrough.emulator.profile import DeviceProfile

from tests.emulator.grid_strategies import cases, device

UNHURRIED = pace(deadline=None, max_examples=60)
SIDES: tuple[TripSide, ...] = tuple(TRIP_MODELS.values())


@UNHURRIED
@given(cases(), st.sampled_from(SIDES))
def test_trip_curves_round_trip(case: tuple[DeviceProfile, GridSettings], side: TripSide) -> None:
    trip: Trip = getattr(case[1], side)
    must, may = trip_points(trip.must, side), trip_points(trip.may, side)
    assert len(must) == POINTS[707]
    assert trip_levels(must, side) == trip.must
    assert trip_levels((trip.must[1], trip.must[0]), side) == trip.must
    assert trip_levels(may, side, "MayTrip") == trip.may
    assert cease_limit(cease_points(trip, side), trip.must, side) == trip.cease
    far = [place for place, _ in must]
    assert far == sorted(far, reverse=side.startswith("over"))
    times = [seconds for _, seconds in must]
    assert times == sorted(times)


def test_five_points_of_the_standard_defaults() -> None:
    settings = default_settings(device())
    under, over = settings.under_voltage, settings.over_voltage
    assert trip_points(under.must, "under_voltage") == (
        (0.0, 2.0),
        (0.5, 2.0),
        (0.5, 21.0),
        (0.88, 21.0),
        (0.88, 2000.0),
    )
    assert cease_points(under, "under_voltage") == ((0.5, 0.0), (0.5, 2.0))
    assert cease_points(over, "over_voltage") == ((1.1, 0.0), (1.1, 13.0))
    assert cease_limit(((0.4, 0.0),), under.must, "under_voltage") == 0.4


STEPS = ((0.0, 2.0), (0.5, 2.0), (0.5, 21.0), (0.88, 21.0), (0.88, 2000.0))


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ((), "found 0 active points; allowed are 5"),
        (STEPS[:3], "found 3 active points"),
        (((0.88, 21.0), (0.5, 2.0)), "found level 2 at 0.88 nearer to nominal than level 1 at 0.5"),
        ((STEPS[0], (0.5, 3.0), *STEPS[2:]), "found Tms 2 in point 1; allowed is 3 as in point 2"),
        ((*STEPS[:2], (0.6, 21.0), *STEPS[3:]), "found place 0.6 in point 3; allowed is 0.5 as in point 2"),
        ((*STEPS[:2], (0.5, 10.0), *STEPS[3:]), "found Tms 10 in point 3; allowed is 21 as in point 4"),
        ((*STEPS[:4], (0.9, 2000.0)), "found place 0.9 in point 5; allowed is 0.88"),
        ((*STEPS[:4], (0.88, 1.0)), "found Tms 1 in point 5; allowed is 21"),
        (((0.6, 2.0), *STEPS[1:]), "found point 1 at 0.6; allowed is 0.5"),
        ((*STEPS[:1], (math.nan, 2.0), *STEPS[2:]), "found place 0.5 in point 3; allowed is nan"),
    ],
)
def test_other_shapes_of_trip_curves_are_refused(points: tuple[Point, ...], says: str) -> None:
    with pytest.raises(SettingError, match=f"under-voltage trip, MustTrip: {says}"):
        trip_levels(points, "under_voltage")


@pytest.mark.parametrize(
    ("points", "side", "says"),
    [
        (((57.0, 0.0),), "under_frequency", "found 1 active points; allowed is 0"),
        (((0.5, 0.0), (0.5, 1.0), (0.5, 2.0)), "under_voltage", "found 3 active points"),
        (((0.5, 0.1),), "under_voltage", "found Tms 0.1 in point 1; allowed is 0"),
        (((0.5, 0.0), (0.6, 2.0)), "under_voltage", "found point 2 at 0.6; allowed is 0.5"),
        (((0.5, 0.0), (0.5, 1.0)), "under_voltage", "found Tms 1 in point 2; allowed is 2"),
    ],
)
def test_other_shapes_of_cessation_are_refused(points: tuple[Point, ...], side: TripSide, says: str) -> None:
    with pytest.raises(SettingError, match=f"MomCess: {says}"):
        cease_limit(points, ((0.88, 21.0), (0.5, 2.0)), side)


@UNHURRIED
@given(cases())
def test_watt_var_points_round_trip(case: tuple[DeviceProfile, GridSettings]) -> None:
    curve = case[1].watt_var
    points = watt_var_points(curve)
    assert watt_var_sides(points) == (curve.generate, curve.absorb)
    powers = [power for power, _ in points]
    assert powers == sorted(powers)
    with pytest.raises(SettingError, match="found 5 active points; allowed is 6"):
        watt_var_sides(points[1:])
