"""Whatever clients write and the bench does: settings stay valid; registers, settings and step agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ridethrough.emulator import image_curves
from ridethrough.emulator.grid_settings import (
    GridSettings,
    SettingError,
    check,
    control_values,
    default_settings,
)
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.points import Point

from tests.emulator.grid_bench import MODELS, REVERTING, expected
from tests.emulator.grid_strategies import settings_of
from tests.emulator.register_bench import ADDRESS, DEVICE, FULL, OK, Bench, decode, effects, near

GRID = (123, 703, 704, *MODELS)


def in_force(settings_: GridSettings) -> dict[tuple[int, str], float]:
    """Return what clients must read of settings, in the units SunSpec gives; written down by hand."""
    enter, droop, volt_var = settings_.enter, settings_.droop, settings_.volt_var
    found: dict[tuple[int, str], float] = {
        (703, "ESVHi"): 100 * enter.voltage_pu_max,
        (703, "ESVLo"): 100 * enter.voltage_pu_min,
        (703, "ESHzHi"): enter.frequency_hz_max,
        (703, "ESHzLo"): enter.frequency_hz_min,
        (703, "ESDlyTms"): enter.delay_s,
        (703, "ESRndTms"): enter.random_s,
        (703, "ESRmpTms"): enter.ramp_s,
        (704, "PFWInjEna"): settings_.pf.inject.enabled,
        (704, "PFWAbsEna"): settings_.pf.absorb.enabled,
        (704, "PFWInj.PF"): settings_.pf.inject.factor,
        (704, "PFWAbs.PF"): settings_.pf.absorb.factor,
        (704, "PFWInj.Ext"): settings_.pf.inject.excitation == "under",
        (704, "PFWAbs.Ext"): settings_.pf.absorb.excitation == "under",
        (704, "VarSetEna"): settings_.var.enabled,
        (123, "OutPFSet_Ena"): settings_.pf.inject.enabled,
        (123, "VArPct_Ena"): settings_.var.enabled,
        (705, "Ena"): volt_var.enabled,
        (705, "Crv[1].DeptRef"): {"w_max": 0, "var_max": 1, "va_max": 3}[volt_var.var_base],
        (705, "Crv[1].VRef"): 100 * volt_var.ref_pu,
        (705, "Crv[1].VRefAutoEna"): volt_var.auto,
        (705, "Crv[1].VRefAutoTms"): volt_var.auto_s,
        (705, "Crv[1].RspTms"): volt_var.response_s,
        (706, "Ena"): settings_.volt_watt.enabled,
        (706, "Crv[1].RspTms"): settings_.volt_watt.response_s,
        (711, "Ena"): droop.enabled,
        (711, "Ctl[1].DbOf"): droop.dead_hz_over,
        (711, "Ctl[1].DbUf"): droop.dead_hz_under,
        (711, "Ctl[1].KOf"): droop.droop_frac_over,
        (711, "Ctl[1].KUf"): droop.droop_frac_under,
        (711, "Ctl[1].RspTms"): droop.response_s,
        (711, "Ctl[1].PMin"): 100 * droop.power_frac_min,
        (712, "Ena"): settings_.watt_var.enabled,
    }
    if settings_.pf.inject.factor != 1.0:  # negative: reactive power is given
        sign = -1 if settings_.pf.inject.excitation == "over" else 1
        found[123, "OutPFSet"] = sign * settings_.pf.inject.factor
    for k, (volts, share) in enumerate(volt_var.points, 1):
        found |= {(705, f"Crv[1].Pt[{k}].V"): 100 * volts, (705, f"Crv[1].Pt[{k}].Var"): 100 * share}
    for k, (volts, share) in enumerate(settings_.volt_watt.points, 1):
        found |= {(706, f"Crv[1].Pt[{k}].V"): 100 * volts, (706, f"Crv[1].Pt[{k}].W"): 100 * share}
    watt_var = [*settings_.watt_var.absorb[::-1], *settings_.watt_var.generate]
    for k, (power, share) in enumerate(watt_var, 1):
        found |= {(712, f"Crv[1].Pt[{k}].W"): 100 * power, (712, f"Crv[1].Pt[{k}].Var"): 100 * share}
    sides = (
        settings_.under_voltage,
        settings_.over_voltage,
        settings_.under_frequency,
        settings_.over_frequency,
    )
    for model, trip in zip((707, 708, 709, 710), sides, strict=True):
        name, scale = ("V", 100) if model < 709 else ("Hz", 1)
        found[model, "Ena"] = 1
        for k, (limit, seconds) in ((4, trip.must[0]), (2, trip.must[1])):
            place = f"Crv[1].MustTrip.Pt[{k}]"
            found |= {(model, f"{place}.{name}"): scale * limit, (model, f"{place}.Tms"): seconds}
        found[model, "Crv[1].MayTrip.ActPt"] = 5 if trip.may else 0
        found[model, "Crv[1].MomCess.ActPt"] = 0 if trip.cease is None else 2
        if trip.cease is not None:
            found[model, f"Crv[1].MomCess.Pt[1].{name}"] = scale * trip.cease
    return found


def faults(bench: Bench, unit: DeviceImage) -> list[str]:
    """Return in what registers, settings and the plant's controls disagree, or settings are not valid."""
    found, now = [], bench.plant.settings(DEVICE)
    try:
        check(now, FULL)
    except SettingError as error:
        return [f"settings in force are refused: {error}"]
    control = bench.control()
    for name, value in control_values(now, FULL, 1.0, 0.0).items():
        if control[name] != value:
            found.append(f"the step has {name} {control[name]}, the settings say {value}")
    got = decode(unit)
    for (model, name), true in in_force(now).items():
        point = bench.layout.point(model, name)
        step = (100.0 if "%" in point.units or "Pct" in point.units or point.units == "DeptRef" else 1.0) * (
            point.divisor / point.factor
        )
        if not near(got[model, name], float(true), step):
            found.append(f"{model}.{name} shows {got[model, name]}, the settings say {true}")
    timers = {f"{model}.": (model, "") for model in REVERTING}
    timers |= {f"704.{name}": (704, name) for name in ("PFWInj", "PFWAbs", "VarSet")}
    for key, (model, prefix) in timers.items():
        ticks = bench.plant.scheduled_ticks(DEVICE, key)
        left, length = got[model, f"{prefix}RvrtRem"], got[model, f"{prefix}RvrtTms"]
        if left > length or left != (-(-ticks // 50) if got[model, f"{prefix}Ena"] else 0):
            found.append(f"{model}.{prefix}RvrtRem {left} of {length}, the plant has {ticks} ticks left")
    found += [f"{m} answers {got[m, n]}" for m in MODELS if got[m, n := _result(m)] not in (1, 2)]
    return found


def _result(model: int) -> str:
    return "AdptCtlRslt" if model == 711 else "AdptCrvRslt"


# ---- planted mistakes: the checker must see each -----------------------------------------------------------


def poke(bench: Bench, model: int, name: str, value: float) -> None:
    """Put a wrong number into a register behind everybody's back."""
    point = bench.layout.point(model, name)
    bench.unit.poke(2 * (point.address - bench.layout.base_address), point.encode(value))


def set_control(bench: Bench, name: str) -> None:
    values = bench.plant.controls(name)
    values[DEVICE] += 1.0
    bench.plant.set_control(name, values)


def set_invalid(bench: Bench) -> None:
    now = bench.plant.settings(DEVICE)
    bench.plant._settings[DEVICE] = replace(now, droop=replace(now.droop, droop_frac_over=0.5))


MISTAKES: dict[str, tuple[Callable[[Bench], None], str]] = {
    "set 1 shows another point": (
        lambda b: poke(b, 705, "Crv[1].Pt[2].V", 0.99),
        "705.Crv\\[1\\].Pt\\[2\\].V",
    ),
    "set 1 of droop": (lambda b: poke(b, 711, "Ctl[1].KUf", 0.04), "711.Ctl\\[1\\].KUf"),
    "a trip time": (lambda b: poke(b, 710, "Crv[1].MustTrip.Pt[2].Tms", 0.17), "710.Crv"),
    "an enable point": (lambda b: poke(b, 706, "Ena", 1), "706.Ena shows 1"),
    "a timer": (lambda b: poke(b, 712, "RvrtRem", 3), "712.RvrtRem 3 of 0"),
    "an answer": (lambda b: poke(b, 709, "AdptCrvRslt", 0), "709 answers 0"),
    "the step has another slope": (lambda b: set_control(b, "volt_watt_s"), "volt_watt_s"),
    "the step has another delay": (lambda b: set_control(b, "enter_delay_ticks"), "enter_delay_ticks"),
    "settings that are not allowed": (set_invalid, "refused"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_sees_a_planted_mistake(mistake: str) -> None:
    plant_it, words = MISTAKES[mistake]
    bench = Bench(FULL)
    assert faults(bench, bench.unit) == []
    plant_it(bench)
    with pytest.raises(AssertionError, match=words):
        assert not faults(bench, bench.unit), "; ".join(faults(bench, bench.unit))


def test_the_checker_sees_a_mapping_that_swaps_two_points(monkeypatch: pytest.MonkeyPatch) -> None:
    right = image_curves.CURVES[711]

    def swapped(now: GridSettings) -> dict[str, float]:
        values = right.show(now)
        return {**values, "KOf": values["KUf"], "KUf": values["KOf"]}

    monkeypatch.setitem(image_curves.CURVES, 711, replace(right, show=swapped))
    bench = Bench(FULL)
    now = bench.plant.settings(DEVICE)
    bench.plant.set_settings(DEVICE, replace(now, droop=replace(now.droop, droop_frac_under=0.03)))
    assert len(faults(bench, bench.unit)) == 2


# ---- random clients ---------------------------------------------------------------------------------------


@st.composite
def writes(draw: st.DrawFn, unit: DeviceImage) -> tuple[int, bytes]:
    """Draw a write to settings: a value near what such a point holds, a run of them, or a set copied."""
    points = [point for point in unit.layout.points if point.model in GRID and point.writable]
    first = draw(st.integers(0, len(points) - 1))
    run = [points[first]]
    for point in points[first + 1 : first + draw(st.integers(0, 12))]:
        if point.address != run[-1].address + run[-1].size:
            break
        run.append(point)
    return run[0].address, b"".join(draw(_value(unit, point)) for point in run)


def _value(unit: DeviceImage, point: Point) -> st.SearchStrategy[bytes]:
    now = unit.read(point.address, point.size)
    assert isinstance(now, bytes)
    value = int.from_bytes(now, "big", signed=point.signed)
    low, high = point.low, point.high
    if value == point.blank:
        value = low
    small = st.integers(max(low, value - 3), max(low, min(high, value + 3)))
    scaled = st.sampled_from([0.9, 0.99, 1.01, 1.1, -1.0]).map(
        lambda f: min(high, max(low, round(f * value)))
    )
    anything = st.integers(low, high)
    wrong = st.sampled_from([high + 1, point.blank])
    numbers = st.one_of(
        st.just(value), st.just(value), small, scaled, st.integers(low, min(high, 60)), anything, wrong
    )
    mask = (1 << 16 * point.size) - 1
    return numbers.map(lambda number: (number & mask).to_bytes(2 * point.size, "big"))


PLAUSIBLE: dict[str, st.SearchStrategy[float]] = {
    # quantities, by the end of a point's name; inside the adjustable range and a little outside
    "ESVHi": st.floats(1.04, 1.07),
    "ESVLo": st.floats(0.87, 0.96),
    "ESHzHi": st.floats(60.0, 61.1),
    "ESHzLo": st.floats(58.9, 60.0),
    "ESDlyTms": st.floats(0, 650),
    "ESRndTms": st.floats(0, 1000),
    "ESRmpTms": st.floats(0, 1000),
    "OutPFSet": st.sampled_from([-1.0, -0.9, -0.3, 0.0, 0.8, 1.0]),
    "PF": st.sampled_from([0.0, 0.8, 0.95, 1.0, 1.0]),
    "Pct": st.floats(-0.6, 0.6),
    "PctRvrt": st.floats(-0.6, 0.6),
    "VarSet": st.floats(-2300, 2300),
    "VarSetRvrt": st.floats(-2300, 2300),
    "Mod": st.integers(0, 4),
    "RvrtTms": st.integers(0, 8),
    "Crv": st.integers(0, 4),
    "Ctl": st.integers(0, 4),
    "Req": st.integers(0, 4),
}


def settings_write(unit: DeviceImage) -> st.SearchStrategy[tuple[int, bytes]]:
    """Draw a write of one point that may act at once."""
    points = [p for p in unit.layout.points if p.model in GRID and p.writable and "[" not in p.name]

    def value_of(point: Point) -> st.SearchStrategy[tuple[int, bytes]]:
        ends = [end for end in PLAUSIBLE if point.name.endswith(end)]
        values = PLAUSIBLE[max(ends, key=len)] if ends else st.integers(0, 1)
        mask = (1 << 16 * point.size) - 1
        registers = values.map(lambda value: round(value * point.factor / point.divisor) & mask)
        return registers.map(lambda register: (point.address, register.to_bytes(2 * point.size, "big")))

    return st.sampled_from(points).flatmap(value_of)


def write_curve(bench: Bench, model: int, number: int, source: GridSettings, spoil: float) -> None:
    """Write what stands for settings to a set, all but one number of it right where `spoil` is not 1."""
    group = "Ctl" if model == 711 else "Crv"
    values = image_curves.CURVES[model].show(source)
    spoilt = max(name for name in values if "Pt[2]" in name or name in ("KOf", "MustTrip.Pt[2].V"))
    for name, value in values.items():
        point = bench.layout.point(model, f"{group}[{number}].{name}")
        assert bench.unit.write(point.address, point.encode(value * (spoil if name == spoilt else 1.0))) in (
            0,
            3,
        )


PARTS = {
    705: "volt_var",
    706: "volt_watt",
    707: "under_voltage",
    708: "over_voltage",
    709: "under_frequency",
    710: "over_frequency",
    711: "droop",
    712: "watt_var",
}


def sources() -> list[GridSettings]:
    """Return settings that differ in one function each, and in which reactive function is enabled."""
    found = [default_settings(FULL)]
    for model in MODELS:
        mine = expected(model)
        part = getattr(mine, PARTS[model])
        found.append(mine)
        if model in REVERTING:
            found.append(replace(mine, **{PARTS[model]: replace(part, enabled=not part.enabled)}))
    return found


SOURCES = sources()
ACTIONS = ("setting", "setting", "setting", "timer", "curve", "curve", "anything", "wait", "bench")


def act(bench: Bench, data: st.DataObject) -> str:
    """Let a client, the bench or time do something; return what came of it."""
    action = data.draw(st.sampled_from(ACTIONS))
    before = bench.plant.settings(DEVICE)
    if action == "wait":
        bench.plant.advance(data.draw(st.integers(1, 400)))
    elif action == "bench":
        bench.plant.set_settings(DEVICE, data.draw(st.sampled_from(SOURCES)))
    elif action == "timer":
        model = data.draw(st.sampled_from(REVERTING))
        write_curve(bench, model, 2, expected(model), 1.0)
        codes = [bench.write(model, (name, value)) for name, value in (("Ena", 1), ("RvrtTms", 2))]
        assert set(codes) <= {0, 3}
        assert bench.write(model, ("AdptCtlReq" if model == 711 else "AdptCrvReq", 2)) == OK
    elif action == "curve":
        model, number = data.draw(st.sampled_from(MODELS)), data.draw(st.integers(2, 3))
        spoil = data.draw(st.sampled_from([1.0, 0.5, 2.0]))
        write_curve(bench, model, number, data.draw(st.sampled_from([SOURCES[0], expected(model)])), spoil)
        assert bench.plant.settings(DEVICE) == before, "a stored set does nothing by itself"
        assert bench.write(model, ("AdptCtlReq" if model == 711 else "AdptCrvReq", number)) == OK
        result = bench.read(model, _result(model))
        moved = bench.plant.settings(DEVICE) != before
        assert result == 1 or not moved
        return f"adoption {'completed' if result == 1 else 'failed'}"
    else:
        drawn = settings_write(bench.unit) if action == "setting" else writes(bench.unit)
        if write(bench, *data.draw(drawn)) != OK:
            return "refused"
    return f"{action}, settings {'moved' if bench.plant.settings(DEVICE) != before else 'stayed'}"


OUTCOMES = (
    "adoption completed",
    "adoption failed",
    "refused",
    "setting, settings moved",
    "setting, settings stayed",
    "timer, settings moved",
    "wait, settings moved",
    "bench, settings moved",
)
REACHED_MIN = 5
"""How often each must be reached in some 480 actions, or the test below would be of little worth."""


def test_whatever_happens_registers_settings_and_step_agree() -> None:
    outcomes: Counter[str] = Counter()

    @given(data=st.data())
    @settings(
        deadline=None,
        max_examples=60,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    def run(data: st.DataObject) -> None:
        bench = Bench(FULL)
        for _ in range(8):
            outcomes[act(bench, data)] += 1
            assert faults(bench, bench.unit) == []
        shown, other = decode(bench.unit), decode(units_of(bench.plant, DEVICE)[1])
        for name in in_force(bench.plant.settings(DEVICE)):
            assert shown[name] == other[name], f"two clients read different {name}"

    run()
    rare = [name for name in OUTCOMES if outcomes[name] < REACHED_MIN]
    assert not rare, f"seldom or never reached: {rare} of {dict(outcomes)}"


def write(bench: Bench, address: int, data: bytes) -> int:
    """Write; what is refused changes nothing, what is taken reads back and changes what its points may."""
    before, now, control = bench.dump(), bench.plant.settings(DEVICE), bench.control()
    code = bench.unit.write(address, data)
    assert code != ADDRESS
    if code != OK:
        assert (bench.dump(), bench.plant.settings(DEVICE), bench.control()) == (before, now, control)
        return code
    first = address - bench.layout.base_address
    points = dict.fromkeys(bench.layout.point_at[first : first + len(data) // 2])
    allowed: frozenset[str] = frozenset()
    after = bench.dump()
    for point in points:
        assert point is not None
        allowed |= effects(point, FULL) or frozenset()
        offset = 2 * (point.address - address)
        part = data[offset : offset + 2 * point.size]
        at = 2 * (point.address - bench.layout.base_address)
        left = int.from_bytes(part, "big", signed=point.signed) == point.blank
        assert after[at : at + len(part)] == (before[at : at + len(part)] if left else part), str(point)
    moved = {name for name, value in bench.control().items() if value != control[name]}
    assert moved <= allowed
    return code


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_valid_settings_are_shown_and_can_be_adopted_again(data: st.DataObject) -> None:
    """Set 1 as a client reads it, written to set 2 and adopted, shows the same again."""
    bench = Bench(FULL)
    bench.plant.set_settings(DEVICE, data.draw(settings_of(FULL)))
    assert faults(bench, bench.unit) == []
    model = data.draw(st.sampled_from(MODELS))
    group = "Ctl" if model == 711 else "Crv"
    for point in bench.layout.points:
        if point.model == model and point.writable and point.name.startswith(f"{group}[2]."):
            source = bench.layout.point(model, point.name.replace("[2]", "[1]", 1))
            copied = bench.unit.read(source.address, source.size)
            assert isinstance(copied, bytes)
            assert bench.unit.write(point.address, copied) == OK
    before, now = shown_set(bench, model), bench.plant.settings(DEVICE)
    assert bench.write(model, ("AdptCtlReq" if model == 711 else "AdptCrvReq", 2)) == OK
    if bench.read(model, _result(model)) == 2:  # rounded to registers, points may be too near to each other
        assert bench.plant.settings(DEVICE) == now
    assert shown_set(bench, model) == before
    assert faults(bench, bench.unit) == []


def shown_set(bench: Bench, model: int) -> dict[tuple[int, str], Any]:
    return {key: value for key, value in decode(bench.unit).items() if key[0] == model and "[1]" in key[1]}
