"""Reversion of grid-support settings, the reactive set-points of 704, and what the physics makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ridethrough.emulator.grid_settings import SettingError, default_settings, ratings
from ridethrough.emulator.image import units_of

from tests.emulator.grid_bench import (
    MODELS,
    REVERTING,
    WRITERS,
    Desk,
    close,
    expected,
    fill,
    plain,
    under_voltage,
    volt_var,
    wrong_volt_var,
)
from tests.emulator.register_bench import DEVICE, FULL, OK, VALUE, decode

# ---- reversion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", REVERTING)
def test_a_curve_reverts_when_its_time_is_over(model: int) -> None:
    desk = Desk()
    default = desk.settings
    desk.put(model, Ena=1)
    enabled = desk.settings
    WRITERS[model](desk.sets(model)[1])
    desk.put(model, RvrtTms=30)
    desk.bench.wait(10)
    assert desk.get(model, "RvrtRem") == [20]
    assert desk.adopt(model, 2) == 1
    assert desk.get(model, "RvrtRem") == [30], "adoption starts the timer anew"
    in_force = desk.settings
    assert not close(in_force, enabled)
    desk.bench.wait(29.98)
    assert (desk.settings, desk.get(model, "RvrtRem")) == (in_force, [1])
    desk.bench.wait(0.02)
    assert close(desk.settings, enabled)
    assert desk.get(model, "RvrtRem", "RvrtTms", "Ena") == [0, 30, 1]
    first, _, third = map(plain, desk.sets(model))
    assert first == third, "set 3 is the factory's until somebody writes to it"
    assert default == default_settings(FULL)


def test_a_timeout_of_a_function_that_is_off_waits_for_its_enabling() -> None:
    desk = Desk()
    desk.put(705, RvrtTms=20)
    assert desk.get(705, "RvrtRem") == [0]
    desk.put(705, Ena=1)
    assert desk.get(705, "RvrtRem") == [20]
    desk.put(705, Ena=0)
    assert desk.get(705, "RvrtRem") == [0]
    desk.bench.wait(30)
    assert desk.get(705, "RvrtRem", "Ena") == [0, 0]


def test_a_reversion_takes_the_set_as_it_was_when_the_timer_started() -> None:
    desk = Desk()
    desk.put(705, Ena=1)
    volt_var(desk.sets(705)[1])
    desk.put(705, RvrtTms=10, RvrtCrv=2)
    fill(desk.sets(705)[1], RspTms=60)
    desk.bench.wait(10)
    assert desk.settings.volt_var.response_s == 2.5
    desk.put(705, RvrtTms=10, RvrtCrv=1)
    desk.bench.wait(10)
    assert desk.settings.volt_var.response_s == 2.5, "set 1 is what is in force"


def test_a_timer_does_not_start_towards_a_set_that_could_not_be_adopted() -> None:
    desk = Desk()
    desk.put(705, Ena=1)
    wrong_volt_var(desk.sets(705)[2])
    assert desk.bench.write(705, ("RvrtTms", 10)) == VALUE
    assert desk.get(705, "RvrtTms", "RvrtRem") == [0, 0]
    desk.put(705, Ena=0)
    desk.put(705, RvrtTms=10)
    assert desk.bench.write(705, ("Ena", 1)) == VALUE
    volt_var(desk.sets(705)[1])
    assert desk.adopt(705, 2) == 1, "no timer runs while the function is off"
    desk.put(705, RvrtCrv=2)
    desk.put(705, Ena=1)
    desk.put(705, RvrtTms=0)
    desk.put(705, RvrtCrv=3)
    assert desk.bench.write(705, ("RvrtTms", 10)) == VALUE
    assert desk.adopt(705, 2) == 1


def test_an_adoption_fails_when_its_reversion_could_not_happen() -> None:
    desk = Desk()
    desk.put(705, Ena=1)
    desk.put(705, RvrtTms=10)
    wrong_volt_var(desk.sets(705)[2])
    volt_var(desk.sets(705)[1])
    before = desk.settings
    assert desk.adopt(705, 2) == 2
    assert desk.settings is before
    assert desk.get(705, "RvrtRem") == [10], "the timer that runs goes on"


def test_a_reversion_that_would_clash_does_not_happen() -> None:
    """Constant power factor 1 does not count as a function; what it reverts to may."""
    desk = Desk()
    assert desk.bench.write(704, ("PFWInjEnaRvrt", 1), ("PFWInjRvrtTms", 10)) == OK
    assert desk.bench.write(704, ("PFWInjRvrt.PF", 0.9)) == OK
    desk.put(705, Ena=1)
    before = desk.settings
    desk.bench.wait(20)
    assert desk.settings is before
    assert desk.get(704, "PFWInjRvrtRem") == [0]


def test_what_the_bench_has_switched_off_is_not_switched_on_by_a_reversion() -> None:
    desk = Desk()
    desk.put(704, VarSetEna=1, VarSet=500, VarSetRvrt=-700, VarSetEnaRvrt=1)
    desk.put(704, VarSetRvrtTms=10)
    now = desk.settings
    off = replace(now, var=replace(now.var, enabled=False))
    desk.bench.plant.set_settings(DEVICE, off)
    assert desk.get(704, "VarSetEna", "VarSetRvrtRem") == [0, 0]
    desk.bench.wait(20)
    assert desk.settings == off
    assert desk.get(704, "VarSetEna", "VarSet") == [0, 500]


# ---- 704 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("point", "side"), [("PFWInj", "inject"), ("PFWAbs", "absorb")])
def test_power_factor_and_its_reversion(point: str, side: str) -> None:
    desk = Desk()
    model = desk.client.one(704)
    for group, factor, excitation in ((point, 0.9, 1), (f"{point}Rvrt", 0.95, 0)):
        model.groups[group].PF.cvalue = factor
        model.groups[group].Ext.value = excitation
        model.groups[group].write()
    desk.put(704, **{f"{point}Ena": 1, f"{point}EnaRvrt": 1, f"{point}RvrtTms": 20})
    now = getattr(desk.settings.pf, side)
    assert (now.enabled, now.factor, now.excitation) == (True, 0.9, "under")
    name = "pf_var_per_w" if side == "inject" else "pf_abs_var_per_w"
    assert desk.bench.control()[name] == pytest.approx(-np.tan(np.arccos(0.9)))
    desk.bench.wait(15)
    assert desk.get(704, f"{point}RvrtRem") == [5]
    desk.bench.wait(5)
    now = getattr(desk.settings.pf, side)
    assert (now.enabled, now.factor, now.excitation) == (True, 0.95, "over")
    assert desk.bench.control()[name] == pytest.approx(np.tan(np.arccos(0.95)))
    shown = desk.client.one(704).groups[point]
    assert (shown.PF.cvalue, shown.Ext.value) == (0.95, 0)
    desk.put(704, **{f"{point}Ena": 0})
    assert not getattr(desk.settings.pf, side).enabled


MODES = {0: ("w_max", 5000.0), 1: ("var_max", 2200.0), 3: ("va_max", 5000.0)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("percent", [30.0, -12.34])
def test_reactive_set_point_in_percent(mode: int, percent: float) -> None:
    desk = Desk()
    base, rating_var = MODES[mode]
    assert base in ("w_max", "var_max", "va_max")
    desk.put(704, VarSet=123)
    desk.put(704, VarSetEna=1, VarSetMod=mode)
    desk.put(704, VarSetPct=percent)
    assert desk.settings.var.var_var == pytest.approx(rating_var * percent / 100.0)
    assert desk.bench.control()["var_var"] == desk.settings.var.var_var
    assert desk.get(704, "VarSet", "VarSetPct") == [123, percent], "kept apart, as written"
    assert desk.bench.write(704, ("VarSetPct", 1.01 if mode == 1 else 0.4401)) == VALUE
    desk.put(704, VarSetMod=4)
    assert desk.settings.var.var_var == 123.0
    desk.bench.wait(30)
    assert desk.bench.plant.states("reactive_var")[DEVICE] == pytest.approx(123.0)
    assert desk.get(701, "Var", "VarL1") == [123, 123]


def test_a_reactive_set_point_to_go_back_to_must_be_within_the_rating() -> None:
    desk = Desk()
    desk.put(704, VarSetMod=3)
    assert desk.bench.write(704, ("VarSetPctRvrt", 0.45)) == VALUE
    assert desk.bench.write(704, ("VarSetPctRvrt", -0.44)) == OK
    assert desk.bench.write(704, ("VarSetMod", 1)) == OK
    assert desk.bench.write(704, ("VarSetPctRvrt", -1.0)) == OK
    assert desk.bench.write(704, ("VarSetMod", 3)) == VALUE, "the same share of another base"


@pytest.mark.parametrize("point", ["PFWInj", "PFWAbs", "VarSet"])
def test_no_timer_runs_while_its_function_is_off(point: str) -> None:
    desk = Desk()
    desk.put(704, **{f"{point}Ena": 0})
    desk.put(704, **{f"{point}EnaRvrt": 1, f"{point}RvrtTms": 5})
    assert desk.get(704, f"{point}RvrtRem") == [0]
    desk.bench.wait(10)
    assert desk.get(704, f"{point}Ena", f"{point}RvrtRem") == [0, 0]
    desk.put(704, **{f"{point}Ena": 1})
    assert desk.get(704, f"{point}RvrtRem") == [5]
    desk.put(704, **{f"{point}Ena": 0})
    assert desk.get(704, f"{point}RvrtRem") == [0]
    assert desk.bench.plant.scheduled_ticks(DEVICE, f"704.{point}") == 0


def test_both_reactive_set_points_revert() -> None:
    desk = Desk()
    desk.put(704, VarSet=1500, VarSetRvrt=-700, VarSetPct=20, VarSetPctRvrt=-10, VarSetEnaRvrt=1)
    desk.put(704, VarSetRvrtTms=10)
    assert desk.get(704, "VarSetRvrtRem") == [0]
    desk.put(704, VarSetEna=1)
    desk.bench.wait(9)
    assert desk.get(704, "VarSetRvrtRem", "VarSet", "VarSetPct") == [1, 1500, 20]
    desk.bench.wait(1)
    names = ("VarSetRvrtRem", "VarSetEna", "VarSet", "VarSetPct")
    assert desk.get(704, *names) == [0, 1, -700, -10]
    assert desk.settings.var.var_var == -700.0
    desk.put(704, VarSetEnaRvrt=0, VarSetRvrtTms=10)
    desk.bench.wait(10)
    assert (desk.settings.var.enabled, desk.get(704, "VarSetEna")) == (False, [0])


def test_reversions_of_704_leave_the_other_settings_alone() -> None:
    desk = Desk()
    desk.put(704, VarSetEna=1, VarSetRvrtTms=20)
    desk.put(703, ESDlyTms=120)
    desk.put(706, Ena=1)
    desk.bench.wait(20)
    assert not desk.settings.var.enabled
    assert desk.settings.enter.delay_s == 120.0
    assert desk.settings.volt_watt.enabled


# ---- what others change, and what the physics does --------------------------------------------------------


def test_settings_changed_by_the_bench_are_what_every_client_reads() -> None:
    desk = Desk()
    other = units_of(desk.bench.plant, DEVICE)[1]
    settings = desk.settings
    for model in MODELS:
        part = {
            705: "volt_var",
            706: "volt_watt",
            707: "under_voltage",
            708: "over_voltage",
            709: "under_frequency",
            710: "over_frequency",
            711: "droop",
            712: "watt_var",
        }[model]
        changes: dict[str, Any] = {part: getattr(expected(model), part)}
        settings = replace(settings, **changes)
    settings = replace(settings, enter=replace(settings.enter, delay_s=77.0))
    desk.bench.plant.set_settings(DEVICE, settings)
    first, second = decode(desk.bench.unit), decode(other)
    assert first == second
    assert (first[703, "ESDlyTms"], first[705, "Crv[1].Pt[4].V"], first[711, "Ctl[1].KUf"]) == (77, 110, 0.03)
    assert (first[707, "Crv[1].MayTrip.ActPt"], first[707, "Crv[1].MayTrip.Pt[1].V"]) == (0, None)
    assert first[705, "Crv[2].Pt[4].V"] == 108, "the stored sets are the client's"


def test_an_adopted_volt_var_curve_is_what_the_device_follows() -> None:
    desk = Desk()
    plant = desk.bench.plant
    volt_var(desk.sets(705)[1])
    assert desk.adopt(705, 2) == 1
    desk.put(705, Ena=1)
    rated_va = ratings(FULL).apparent_va
    for volts in (0.9, 0.94, 1.0, 1.06, 1.095):
        plant.set_input("voltage_pu", volts)
        desk.bench.wait(30)
        share = np.interp(volts, (0.91, 0.98, 1.04, 1.11), (0.4, 0.0, 0.0, -0.35))  # VRef 101 shifts it
        assert desk.get(701, "Var")[0] == pytest.approx(share * rated_va, abs=1.0)


def test_an_adopted_trip_limit_trips() -> None:
    desk = Desk()
    under_voltage(desk.sets(707)[1])
    assert desk.adopt(707, 2) == 1
    desk.bench.plant.set_input("voltage_pu", 0.85)
    desk.bench.wait(60)
    assert desk.get(701, "ConnSt", "Alrm") == [1, 0], "0.85 pu is above the new limit"
    desk.bench.plant.set_input("voltage_pu", 0.79)
    desk.bench.wait(21)
    assert desk.get(701, "ConnSt", "Alrm") == [1, 1 << 11]
    desk.bench.wait(2)
    assert desk.get(701, "ConnSt") == [0]


def test_an_adoption_is_refused_by_the_plant_too() -> None:
    """The registers are not the only guard."""
    desk = Desk()
    bad = replace(desk.settings, droop=replace(desk.settings.droop, droop_frac_over=0.5))
    with pytest.raises(SettingError, match="KOf"):
        desk.bench.plant.set_settings(DEVICE, bad)
