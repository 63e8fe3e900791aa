"""Settings of the grid-support functions, written and adopted by pysunspec2's own client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ridethrough.emulator.grid_settings import default_settings

from tests.emulator.grid_bench import (
    MODELS,
    TRIPS,
    WRITERS,
    Desk,
    active_points,
    close,
    expected,
    fill,
    plain,
    volt_var,
    wrong_volt_var,
)
from tests.emulator.register_bench import ADDRESS, DEVICE, FULL, OK, VALUE, RefusedError

# ---- adoption ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_curve_is_written_adopted_and_in_force(model: int) -> None:
    desk = Desk()
    before = desk.settings
    WRITERS[model](desk.sets(model)[1])
    assert desk.settings is before, "a stored set does nothing by itself"
    assert desk.adopt(model, 2) == 1
    assert close(desk.settings, expected(model))
    assert not close(desk.settings, before)
    shown, stored, third = map(plain, desk.sets(model))
    assert shown != third
    if model in TRIPS:  # two points come back as five
        for part in ("MustTrip", "MayTrip", "MomCess"):
            active, written = (active_points(one[part]) for one in (shown, stored))
            assert written <= active, part
    else:
        assert shown == stored


@pytest.mark.parametrize("model", TRIPS)
def test_trip_curves_show_the_steps_an_engineer_recognises(model: int) -> None:
    """Five points of the SunSpec 1547 profile: far, level 2 twice, level 1 twice."""
    desk = Desk()
    must = desk.sets(model)[0].MustTrip
    points = [tuple(point.cvalue for point in one.points.values()) for one in must.Pt]
    assert must.ActPt.value == 5
    assert (
        points
        == {
            707: [(0, 2), (50, 2), (50, 21), (88, 21), (88, 2000)],
            708: [(140, 0.16), (120, 0.16), (120, 13), (110, 13), (110, 2000)],
            709: [(40, 0.16), (56.5, 0.16), (56.5, 300), (58.5, 300), (58.5, 2000)],
            710: [(75, 0.16), (62, 0.16), (62, 300), (61.2, 300), (61.2, 2000)],
        }[model]
    )
    cease = desk.sets(model)[0].MomCess
    assert cease.ActPt.value == (2 if model < 709 else 0)
    blank = [point.value for one in cease.Pt[cease.ActPt.value :] for point in one.points.values()]
    assert set(blank) == {None}, "points that are not active hold nothing"


def half_volt_var(crv: Any) -> None:
    fill(crv, Pt=[(90, 40), (97, 0)])


def steep_volt_watt(crv: Any) -> None:
    fill(crv, Pt=[(106, 100), (106.5, 20)])


def rising_volt_watt(crv: Any) -> None:
    fill(crv, Pt=[(106, 50), (110, 60)])


def early_trip(crv: Any) -> None:
    fill(crv, MustTrip=[(50, 1), (89, 20)])


def slanted_trip(crv: Any) -> None:
    fill(crv, MustTrip=[(0, 2), (50, 2), (50, 15), (88, 21), (88, 2000)])


def three_trip_points(crv: Any) -> None:
    fill(crv, MustTrip=[(0, 2), (50, 2), (88, 21)])


def no_trip(crv: Any) -> None:
    fill(crv, MustTrip=[])


def late_over_voltage(crv: Any) -> None:
    fill(crv, MustTrip=[(120, 0.16), (110, 14)])


def ceasing_frequency(crv: Any) -> None:
    fill(crv, MustTrip=[(62, 0.16), (61.2, 300)], MomCess=[(61.5, 0)])


def near_under_frequency(crv: Any) -> None:
    fill(crv, MustTrip=[(57.5, 0.16), (58.5, 300)])


def disordered_watt_var(crv: Any) -> None:
    fill(crv, Pt=[(-90, 0), (-50, 0), (-20, 0), (60, 0), (50, 0), (95, 0)])


def too_much_var(crv: Any) -> None:
    fill(crv, Pt=[(-90, 0), (-50, 0), (-20, 0), (20, 0), (50, 0), (95, -60)], DeptRef=3)


WRONG = {
    "volt-var too steep": (705, wrong_volt_var),
    "half a volt-var curve": (705, half_volt_var),
    "volt-watt too steep": (706, steep_volt_watt),
    "volt-watt that rises": (706, rising_volt_watt),
    "under-voltage trips too near": (707, early_trip),
    "slanted limits": (707, slanted_trip),
    "three points": (707, three_trip_points),
    "no limit at all": (707, no_trip),
    "over-voltage trips too late": (708, late_over_voltage),
    "under-frequency too near": (709, near_under_frequency),
    "cessation by frequency": (710, ceasing_frequency),
    "watt-var out of order": (712, disordered_watt_var),
    "watt-var beyond the rating": (712, too_much_var),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_curve_may_be_written_and_is_not_adopted(case: str) -> None:
    model, write = WRONG[case]
    desk = Desk()
    before, control, shown = desk.settings, desk.bench.control(), desk.sets(model)[0].get_dict()
    write(desk.sets(model)[1])
    assert desk.adopt(model, 2) == 2
    assert (desk.settings, desk.bench.control()) == (before, control)
    assert desk.sets(model)[0].get_dict() == shown
    assert desk.adopt(model, 3) == 1, "the factory's curve can still be adopted"


def test_a_curve_with_a_hole_is_not_adopted() -> None:
    """The factory's may-trip set of a device with none is blank behind its active points."""
    desk = Desk()
    cease = desk.sets(709)[1].MomCess
    cease.ActPt.value = 2  # its points hold nothing
    cease.write()
    before = desk.settings
    assert desk.adopt(709, 2) == 2
    assert desk.settings is before


# ---- what the write itself refuses -----------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_set_1_cannot_be_written(model: int) -> None:
    desk = Desk()
    before = desk.bench.dump(), desk.settings
    with pytest.raises(RefusedError) as caught:
        WRITERS[model](desk.sets(model)[0])
    assert caught.value.args == (ADDRESS,)
    group = "Ctl" if model == 711 else "Crv"
    for point in desk.bench.layout.points:
        if point.model == model and point.name.startswith(f"{group}[1]."):
            assert desk.bench.unit.write(point.address, bytes(2 * point.size)) == ADDRESS, str(point)
    assert (desk.bench.dump(), desk.settings) == before


ALONE = {
    "reference low": (705, "Crv[2].VRef", 0.94),
    "reference high": (705, "Crv[2].VRef", 1.06),
    "autonomous reference too quick": (705, "Crv[2].VRefAutoTms", 299),
    "volt-var too quick": (705, "Crv[2].RspTms", 0.9),
    "volt-var too slow": (705, "Crv[3].RspTms", 90.5),
    "available vars": (705, "Crv[2].DeptRef", 2),
    "active power first": (705, "Crv[2].Pri", 0),
    "five of four points": (705, "Crv[2].ActPt", 5),
    "300 % of nominal": (705, "Crv[2].Pt[1].V", 3.0),
    "volt-watt too slow": (706, "Crv[2].RspTms", 60.5),
    "share of available power": (706, "Crv[2].DeptRef", 1),
    "200 Hz": (709, "Crv[2].MustTrip.Pt[1].Hz", 200),
    "six of five points": (708, "Crv[2].MayTrip.ActPt", 6),
    "dead band too narrow": (711, "Ctl[2].DbOf", 0.016),
    "dead band too wide": (711, "Ctl[2].DbUf", 1.01),
    "droop too steep": (711, "Ctl[2].KOf", 0.019),
    "droop too flat": (711, "Ctl[3].KUf", 0.051),
    "droop too quick": (711, "Ctl[2].RspTms", 0.1),
    "least power beyond the rating": (711, "Ctl[2].PMin", -1.01),
    "watt-var of available vars": (712, "Crv[2].DeptRef", 2),
    "no such set": (705, "AdptCrvReq", 4),
    "set 0": (705, "AdptCrvReq", 0),
    "no active control": (711, "AdptCtlReq", 0),
    "no such set to go back to": (712, "RvrtCrv", 4),
    "under-voltage trip off": (707, "Ena", 0),
    "over-voltage trip off": (708, "Ena", 0),
    "under-frequency trip off": (709, "Ena", 0),
    "over-frequency trip off": (710, "Ena", 0),
    "enable 2": (706, "Ena", 2),
    "enter service: high voltage too low": (703, "ESVHi", 1.04),
    "high voltage too high": (703, "ESVHi", 1.07),
    "low voltage too low": (703, "ESVLo", 0.87),
    "low voltage too high": (703, "ESVLo", 0.96),
    "high frequency": (703, "ESHzHi", 61.1),
    "low frequency": (703, "ESHzLo", 58.9),
    "delay": (703, "ESDlyTms", 601),
    "random delay": (703, "ESRndTms", 1001),
    "ramp": (703, "ESRmpTms", 1001),
    "power factor 0": (704, "PFWInj.PF", 0.0),
    "power factor above 1": (704, "PFWInj.PF", 1.001),
    "power factor to go back to": (704, "PFWAbsRvrt.PF", 0.005),
    "excitation": (704, "PFWAbs.Ext", 2),
    "vars beyond the rating": (704, "VarSet", 2201),
    "vars of what is available": (704, "VarSetMod", 2),
    "active power has no priority": (704, "VarSetPri", 0),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_value_out_of_range_is_refused_and_nothing_changes(case: str) -> None:
    model, name, value = ALONE[case]
    desk = Desk()
    before = desk.bench.dump(), desk.settings, desk.bench.control()
    assert desk.bench.write(model, (name, value)) == VALUE
    assert (desk.bench.dump(), desk.settings, desk.bench.control()) == before


def test_one_bad_point_refuses_the_whole_write() -> None:
    desk = Desk()
    before = desk.bench.dump(), desk.settings
    good = ("ESVHi", 1.06), ("ESVLo", 0.9)
    assert desk.bench.write(703, ("ES", 0), *good, ("ESHzHi", 62)) == VALUE
    assert (desk.bench.dump(), desk.settings) == before, "not even the permit has changed"
    assert desk.bench.write(703, ("ES", 0), *good, ("ESHzHi", 60.5)) == OK
    assert desk.bench.control()["permit"] == 0.0
    assert desk.settings.enter.voltage_pu_max == pytest.approx(1.06)


def test_an_adoption_that_alters_no_number_of_the_step_shows() -> None:
    """This device rides through and does not take the permission to trip."""
    desk = Desk()
    control = desk.bench.control()
    crv = desk.sets(709)[1]
    fill(crv, MayTrip=[])
    assert desk.adopt(709, 2) == 1
    assert (desk.settings.under_frequency.may, desk.bench.control()) == ((), control)
    assert desk.sets(709)[0].MayTrip.ActPt.value == 0


# ---- enabling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "field"), [(705, "volt_var"), (706, "volt_watt"), (711, "droop"), (712, "watt_var")]
)
def test_enable_points(model: int, field: str) -> None:
    desk = Desk()
    for enabled in (1, 0, 1):
        desk.put(model, Ena=enabled)
        assert desk.get(model, "Ena") == [enabled]
        assert getattr(desk.settings, field).enabled == bool(enabled)
        assert desk.bench.control()[f"{field}_ena"] == enabled


def test_two_reactive_functions_at_once_are_refused() -> None:
    """IEEE 1547-2018, 5.3.1; power factor 1 asks for nothing and does not count."""
    desk = Desk()
    assert desk.get(704, "PFWInjEna", "PFWAbsEna") == [1, 1]
    desk.put(705, Ena=1)
    for model, point in ((712, "Ena"), (704, "VarSetEna")):
        assert desk.bench.write(model, (point, 1)) == VALUE
    assert desk.bench.write(704, ("PFWInj.PF", 0.9)) == VALUE
    desk.put(705, Ena=0)
    assert desk.bench.write(704, ("PFWInj.PF", 0.9)) == OK
    assert desk.bench.write(705, ("Ena", 1)) == VALUE
    assert desk.get(705, "Ena") == [0]


def test_enable_and_adopt_in_one_write() -> None:
    desk = Desk()
    wrong_volt_var(desk.sets(705)[1])
    assert desk.bench.write(705, ("Ena", 1), ("AdptCrvReq", 2)) == OK
    assert desk.get(705, "Ena", "AdptCrvRslt") == [1, 2]
    assert desk.settings.volt_var == replace(default_settings(FULL).volt_var, enabled=True)
    volt_var(desk.sets(705)[1])
    assert desk.bench.write(705, ("Ena", 1), ("AdptCrvReq", 2)) == OK
    assert desk.get(705, "Ena", "AdptCrvRslt") == [1, 1]
    assert close(desk.settings.volt_var.points, expected(705).volt_var.points)


def test_adopting_set_1_changes_nothing_not_even_the_last_digit() -> None:
    desk = Desk()
    odd = replace(desk.settings, volt_var=replace(desk.settings.volt_var, ref_pu=1.0123456789))
    desk.bench.plant.set_settings(DEVICE, odd)
    assert desk.adopt(705, 1) == 1
    assert desk.settings is odd
