"""Model 123's power factor and reactive power: a second view of 704's settings, or the only one.

Also what else a definition calls mandatory: the cabinet's temperature and the commands to a battery.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.grid_settings import PowerFactor, ratings
from ridethrough.emulator.profile import DeviceProfile

from tests.emulator.register_bench import (
    ADDRESS,
    DEVICE,
    FULL,
    HOME,
    LEGACY,
    NAMES,
    OK,
    PROFILES,
    TOWN,
    VALUE,
    Bench,
    decode,
)

BOTH = pytest.mark.parametrize("profile", [HOME, LEGACY], ids=["with 704", "without 704"])

PF = ("OutPFSet", "OutPFSet_RvrtTms", "OutPFSet_Ena")
VAR = ("VArWMaxPct", "VArMaxPct", "VArPct_RvrtTms", "VArPct_Mod", "VArPct_Ena")


def shown(bench: Bench, *names: str) -> list[float | None]:
    return [bench.read(123, name) for name in names]


def var_of(bench: Bench) -> float:
    return float(bench.plant.states("reactive_var")[DEVICE])


def discharge(bench: Bench, power_w: float) -> None:
    bench.plant.set_control("set_ena", 1.0)
    bench.plant.set_control("set_w", power_w)


# ---- power factor


@BOTH
@pytest.mark.parametrize(("factor", "sign"), [(-0.9, 1.0), (0.9, -1.0), (-0.95, 1.0), (1.0, 0.0)])
def test_negative_gives_reactive_power_and_positive_takes_it(
    profile: DeviceProfile, factor: float, sign: float
) -> None:
    """Quadrant 1, power and reactive power both given, has the negative sign (EEI)."""
    bench = Bench(profile)
    assert bench.write(123, ("OutPFSet", factor)) == OK
    assert bench.write(123, ("OutPFSet_Ena", 1)) == OK
    discharge(bench, 2000.0)
    bench.wait(20)
    power_w = float(bench.plant.states("power_w")[DEVICE])
    expected = sign * power_w * math.tan(math.acos(abs(factor)))
    assert power_w > 1000.0
    assert var_of(bench) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    # The nameplate says the same of the quadrants.
    quadrants = [bench.read(120, f"PFRtgQ{k}") for k in (1, 2, 3, 4)]
    assert [math.copysign(1.0, q or 0.0) for q in quadrants] == [-1.0, 1.0, -1.0, 1.0]


@pytest.mark.parametrize(("factor", "excitation"), [(-0.9, 0.0), (0.85, 1.0), (1.0, 0.0), (-1.0, 0.0)])
def test_123_and_704_show_one_power_factor(factor: float, excitation: float) -> None:
    bench = Bench()
    assert bench.write(123, ("OutPFSet", factor)) == OK
    assert shown(bench, "OutPFSet") == [factor], "read back at once"
    assert (bench.read(704, "PFWInj.PF"), bench.read(704, "PFWInj.Ext")) == (abs(factor), excitation)
    assert bench.write(704, ("PFWInj.PF", 0.8), ("PFWInj.Ext", 1)) == OK
    assert shown(bench, "OutPFSet") == [0.8]
    assert bench.write(704, ("PFWInj.Ext", 0)) == OK
    assert shown(bench, "OutPFSet") == [-0.8]
    assert bench.write(704, ("PFWInjEna", 0)) == OK
    assert shown(bench, "OutPFSet_Ena") == [0.0]


@BOTH
@pytest.mark.parametrize("factor", [0.0, 1.01, -1.01])
def test_what_is_no_power_factor_is_refused(profile: DeviceProfile, factor: float) -> None:
    bench = Bench(profile)
    before = bench.dump()
    assert bench.write(123, ("OutPFSet", factor)) == VALUE
    assert bench.dump() == before


@BOTH
def test_the_power_factor_goes_off_when_its_time_is_up(profile: DeviceProfile) -> None:
    bench = Bench(profile)
    assert bench.write(123, ("OutPFSet", -0.9)) == OK
    assert bench.write(123, ("OutPFSet_RvrtTms", 10)) == OK
    assert bench.write(123, ("OutPFSet_Ena", 1)) == OK
    bench.wait(9.98)
    assert shown(bench, *PF) == [-0.9, 10, 1]
    bench.wait(0.02)
    assert shown(bench, *PF) == [1.0, 10, 0]
    assert bench.plant.settings(DEVICE).pf.inject == PowerFactor(False, 1.0, "over")


@BOTH
def test_any_write_to_the_enabled_function_restarts_its_timer(profile: DeviceProfile) -> None:
    bench = Bench(profile)
    bench.write(123, ("OutPFSet_RvrtTms", 10))
    bench.write(123, ("OutPFSet_Ena", 1))
    bench.wait(8)
    assert bench.write(123, ("OutPFSet", -0.95)) == OK
    assert bench.plant.scheduled_ticks(DEVICE, "704.PFWInj") == 500
    bench.wait(8)
    assert shown(bench, "OutPFSet_Ena") == [1]
    assert bench.write(123, ("VArMaxPct", 0.1)) == OK, "another function's"
    bench.wait(2)
    assert shown(bench, "OutPFSet_Ena") == [0]


def test_one_timer_whichever_model_starts_it() -> None:
    bench = Bench()
    bench.write(123, ("OutPFSet_RvrtTms", 20))
    bench.write(123, ("OutPFSet_Ena", 1))
    bench.wait(5)
    assert (bench.read(704, "PFWInjRvrtTms"), bench.read(704, "PFWInjRvrtRem")) == (20, 15)
    assert bench.write(704, ("PFWInjRvrtTms", 100_000)) == OK
    assert shown(bench, "OutPFSet_RvrtTms") == [None], "it does not fit 16 bits"


# ---- reactive power


@BOTH
@pytest.mark.parametrize(("mode", "point"), [(1, "VArWMaxPct"), (2, "VArMaxPct")])
@pytest.mark.parametrize("frac", [0.2, -0.2])
def test_a_percentage_is_of_what_its_mode_says(
    profile: DeviceProfile, mode: int, point: str, frac: float
) -> None:
    bench, rated = Bench(profile), ratings(profile)
    assert bench.write(123, ("VArPct_Mod", mode)) == OK
    assert bench.write(123, (point, frac)) == OK
    assert bench.write(123, ("VArPct_Ena", 1)) == OK
    assert shown(bench, "VArPct_Mod", point, "VArPct_Ena") == [mode, frac, 1]
    bench.wait(20)
    base_var = rated.discharge_w if mode == 1 else rated.inject_var if frac > 0.0 else rated.absorb_var
    assert var_of(bench) == pytest.approx(frac * base_var, rel=1e-6)


@BOTH
def test_the_percentages_are_kept_apart_and_one_of_them_is_in_force(profile: DeviceProfile) -> None:
    bench = Bench(profile)
    rated = ratings(profile)
    assert shown(bench, "VArPct_Mod") == [0], "from the factory the set-point is in var"
    assert bench.write(123, ("VArWMaxPct", 0.1)) == OK
    assert bench.write(123, ("VArMaxPct", -0.3)) == OK
    assert bench.plant.settings(DEVICE).var.var_var == 0.0, "none is in force"
    assert bench.write(123, ("VArPct_Mod", 2)) == OK
    assert bench.plant.settings(DEVICE).var.var_var == pytest.approx(-0.3 * rated.absorb_var)
    assert bench.write(123, ("VArPct_Mod", 1)) == OK
    assert bench.plant.settings(DEVICE).var.var_var == pytest.approx(0.1 * rated.discharge_w)
    assert shown(bench, "VArWMaxPct", "VArMaxPct") == [0.1, -0.3]
    assert bench.write(123, ("VArPct_Mod", 0)) == OK
    assert bench.plant.settings(DEVICE).var.var_var == pytest.approx(0.1 * rated.discharge_w), "nothing moves"
    assert shown(bench, *VAR) == [0.1, -0.3, 0, 0, 0]


@BOTH
def test_what_the_device_does_not_have_is_refused(profile: DeviceProfile) -> None:
    bench = Bench(profile)
    before = bench.dump()
    assert bench.write(123, ("VArPct_Mod", 3)) == VALUE, "what is available changes from step to step"
    assert bench.write(123, ("VArAvalPct", 0.0)) == ADDRESS
    assert bench.write(123, ("VArPct_WinTms", 0)) == ADDRESS
    assert bench.dump() == before
    assert bench.write(123, ("VArPct_Mod", 1)) == OK
    assert bench.write(123, ("VArWMaxPct", 1.5)) == VALUE, "above the reactive rating"
    assert bench.write(123, ("OutPFSet", -0.9)) == OK
    assert bench.write(123, ("VArPct_Ena", 1)) == VALUE, "one reactive function at a time"


@BOTH
def test_reactive_power_goes_off_when_its_time_is_up(profile: DeviceProfile) -> None:
    bench = Bench(profile)
    for point in (("VArPct_Mod", 2), ("VArMaxPct", 0.25), ("VArPct_RvrtTms", 5), ("VArPct_Ena", 1)):
        assert bench.write(123, point) == OK
    bench.wait(4.98)
    assert shown(bench, *VAR) == [0, 0.25, 5, 2, 1]
    bench.wait(0.02)
    assert shown(bench, *VAR) == [0, 0, 5, 2, 0]
    bench.wait(20)
    assert var_of(bench) == pytest.approx(0.0, abs=1.0)


def test_704_moves_the_percentage_in_force_and_the_mode() -> None:
    bench = Bench()
    assert bench.write(704, ("VarSetMod", 1)) == OK
    assert bench.write(704, ("VarSetPct", 0.12)) == OK
    assert shown(bench, "VArPct_Mod", "VArMaxPct", "VArWMaxPct") == [2, 0.12, 0]
    assert bench.write(704, ("VarSetMod", 3)) == OK
    assert shown(bench, "VArPct_Mod") == [0], "123 has no percent of apparent power"
    assert bench.write(123, ("VArPct_Mod", 0)) == OK
    assert bench.read(704, "VarSetMod") == 3, "what it says already changes nothing"


NAMES_123 = (*PF, *VAR)
WRITE = st.one_of(
    st.tuples(st.just("OutPFSet"), st.sampled_from([-1.0, -0.97, -0.9, 0.0, 0.85, 0.99, 1.0])),
    st.tuples(st.sampled_from(["VArWMaxPct", "VArMaxPct"]), st.sampled_from([-2.0, -0.31, 0.0, 0.07, 0.4])),
    st.tuples(st.just("VArPct_Mod"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["VArPct_RvrtTms", "OutPFSet_RvrtTms"]), st.integers(0, 4)),
    st.tuples(st.sampled_from(["VArPct_Ena", "OutPFSet_Ena"]), st.integers(0, 1)),
)


@given(st.lists(st.one_of(WRITE, WRITE, WRITE, st.integers(1, 5)), min_size=3, max_size=20))
@settings(deadline=None, max_examples=80)
def test_with_or_without_704_model_123_is_the_same(steps: list[int | tuple[str, float]]) -> None:
    """The same client, on a device that has both and on its twin without 704: same answers and registers."""
    models = tuple(m for m in HOME.face.models if not 701 <= m <= 715)
    data = HOME.model_dump()
    data["face"]["models"], data["control"]["families"] = models, ("124",)
    twins = [Bench(HOME), Bench(DeviceProfile.model_validate(data))]
    for step in steps:
        if isinstance(step, int):
            for bench in twins:
                bench.wait(step)
        else:
            before = [bench.dump() for bench in twins]
            codes = [bench.write(123, step) for bench in twins]
            assert codes[0] == codes[1]
            if codes[0] == OK:
                assert all(bench.read(123, step[0]) == step[1] for bench in twins)
            else:
                assert [bench.dump() for bench in twins] == before
        assert shown(twins[0], *NAMES_123) == shown(twins[1], *NAMES_123)
        assert twins[0].plant.settings(DEVICE) == twins[1].plant.settings(DEVICE)


# ---- the cabinet


@pytest.mark.parametrize("name", NAMES)
def test_the_cabinet_is_as_warm_as_its_surroundings_and_warms_with_the_loss(name: str) -> None:
    bench = Bench(PROFILES[name], soc=0.6)
    model = 103 if PROFILES[name].face.phases == 3 else 101
    rated_w = PROFILES[name].inverter.power_w_discharge_max
    bench.plant.set_input("ambient_c", 31.0)
    seen = []
    for power_w in (0.0, 0.3 * rated_w, 0.999 * rated_w):
        discharge(bench, power_w)
        bench.wait(60)
        loss_w = float(bench.plant.states("loss_w")[DEVICE])
        shown_c = bench.read(model, "TmpCab")
        assert shown_c is not None
        seen.append((loss_w, shown_c))
    assert seen == sorted(seen)
    losses, warmths = zip(*seen, strict=True)
    assert warmths[-1] == pytest.approx(51.0, abs=0.5), "20 K at full power"
    for loss_w, shown_c in seen:
        assert shown_c == pytest.approx(31.0 + 20.0 * loss_w / losses[-1], abs=0.3)
    bench.plant.set_input("ambient_c", -12.0)
    assert bench.read(model, "TmpCab") == pytest.approx(warmths[-1] - 43.0, abs=0.11)


# ---- the battery's own commands


def test_disconnecting_opens_the_contactors_and_connecting_closes_them() -> None:
    bench = Bench(FULL)
    discharge(bench, 1500.0)
    bench.wait(5)
    assert bench.read(802, "SetOp") == 1
    assert bench.write(802, ("SetOp", 2)) == OK
    assert (bench.read(802, "SetOp"), bench.read(802, "State")) == (2, 1), "DISCONNECTED"
    bench.wait(5)
    assert bench.plant.states("battery_w")[DEVICE] == 0.0
    assert bench.write(802, ("SetOp", 1)) == OK
    bench.wait(5)
    assert bench.plant.states("battery_w")[DEVICE] > 1400.0
    bench.plant.set_control("bms_open", 1.0)
    assert bench.read(802, "SetOp") == 2, "whoever has opened them"


@pytest.mark.parametrize("value", [0, 3, 7])
def test_other_commands_are_refused(value: int) -> None:
    bench = Bench(FULL)
    before = bench.dump()
    assert bench.write(802, ("SetOp", value)) == VALUE
    assert bench.dump() == before


def test_the_state_of_the_inverter_is_kept_and_does_nothing() -> None:
    bench = Bench(FULL)
    assert bench.read(802, "SetInvState") == 3, "INVERTER_STARTED"
    control = bench.control()
    for state in (1, 2, 3):
        assert bench.write(802, ("SetInvState", state)) == OK
        assert bench.read(802, "SetInvState") == state
    assert [bench.write(802, ("SetInvState", state)) for state in (0, 4)] == [VALUE, VALUE]
    assert bench.control() == control


def test_an_alarm_reset_is_complete_at_once() -> None:
    bench = Bench(FULL)
    assert bench.write(802, ("AlmRst", 1)) == OK
    assert bench.read(802, "AlmRst") == 0
    assert bench.write(802, ("AlmRst", 2)) == VALUE
    assert (bench.read(802, "EvtVnd1"), bench.read(802, "EvtVnd2")) == (0, 0)


def test_the_witness_reads_them_too() -> None:
    got = decode(Bench(TOWN).unit)
    assert (got[103, "TmpCab"], got[123, "OutPFSet"], got[123, "VArPct_Ena"]) == (25.0, 1.0, 0)
    full = decode(Bench(FULL).unit)
    assert (full[802, "SetOp"], full[802, "SetInvState"], full[802, "EvtVnd1"]) == (1, 3, 0)
