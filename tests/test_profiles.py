"""Bundled device profiles: every number has a source, and stands comparison with what it was taken from."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ridethrough.emulator.layout import compile_layout, compile_meter_layout, soc_frac_step
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.hil.files import load_profile, profile_names
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "devices"
DATA = Path(os.environ.get("RIDETHROUGH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CELLS = DATA / "cells" / "bslib_database_v0.7_MIT.csv"
NAMES = profile_names()

SECTIONS = {
    "": (
        *("1.2", "1.3", "1.4", "1.5", "1.6", "1.8", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6"),
        *("4.1", "4.2", "4.3", "4.4", "4.6", "5.2"),
    ),
    "SunSpec ": ("1.2", "1.4", "1.5", "1.6", "1.7", "4", "5.1"),
}
"""Sections a comment may cite: of the reference on inverters, and of the notes on SunSpec."""

SOURCE = re.compile(r"(?P<word>assumed|same|no effect|1547)\b|(?P<notes>SunSpec |)(?P<section>\d(\.\d+)?)\b")
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def numbers(node: Node) -> Iterator[ScalarNode]:
    """Every number of a document, in its order."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield from numbers(key)
            yield from numbers(value)
    elif isinstance(node, SequenceNode):
        for item in node.value:
            yield from numbers(item)
    elif isinstance(node, ScalarNode) and node.tag in NUMBERS:
        yield node


def unsourced(text: str) -> Iterator[str]:
    """Object to a line with a number whose comment does not begin with a source."""
    ends = {n.end_mark.line: n.end_mark.column for n in numbers(YAML(typ="safe", pure=True).compose(text))}
    for number, line in enumerate(text.splitlines()):
        if number not in ends:
            continue
        comment = line[ends[number] :].partition("#")[2].strip()
        found = SOURCE.match(comment)
        if not comment:
            yield f"{number + 1}: a number without a comment"
        elif not found:
            yield f"{number + 1}: {comment!r} names no source"
        elif found["section"] and found["section"] not in SECTIONS[found["notes"]]:
            yield f"{number + 1}: there is no section {found['notes']}{found['section']} to cite"
        elif found["word"] == "same" and number - 1 not in ends:
            yield f"{number + 1}: the same as what? The line above has no number"


def round_trip(profile: DeviceProfile) -> float:
    """Energy that comes back over energy put in, at half the discharge rating, standby apart [1]."""
    inverter, battery = profile.inverter, profile.battery
    power_w = min(inverter.power_w_discharge_max / 2, inverter.power_w_charge_max)
    p = power_w / inverter.power_w_discharge_max
    loss_w = inverter.loss_a_w * p**2 + inverter.loss_b_w * p + inverter.loss_c_w
    given_w, taken_w = power_w + loss_w, power_w - loss_w
    heat_per_w2 = battery.ohmic_frac_per_c / battery.energy_wh
    return (taken_w - heat_per_w2 * taken_w**2) / (given_w + heat_per_w2 * given_w**2)


def implausible_inverter(profile: DeviceProfile) -> Iterator[str]:
    """Object to a converter or transfer switch that nobody sells."""
    inverter, island = profile.inverter, profile.island
    rated_w, sound = inverter.power_w_discharge_max, round_trip(profile)
    if not 0.75 <= sound <= 0.98:
        yield f"round trip of {sound:.3f}"
    if not rated_w <= inverter.power_w_surge <= 3.0 * rated_w:
        yield f"surge of {inverter.power_w_surge:g} W"
    if inverter.power_w_surge > rated_w and inverter.surge_s == 0.0:
        yield "a surge of no duration"
    if inverter.standby_w > max(64.0, rated_w / 150.0):  # 64 W: worst of a comparison of home systems (3.2)
        yield f"standby of {inverter.standby_w:g} W"
    if inverter.ramp_w_per_s * 30.0 < rated_w:
        yield "takes more than 30 s to full power"
    if (inverter.apparent_va_max or rated_w) < rated_w:
        yield "apparent power below the active power"
    if profile.grid.enter_random_s > 0.0 and inverter.enter_ramp_s > 0.0:
        yield "a random delay and a ramp exclude each other (1.5)"
    if island.shed and island.shed_overload_s > inverter.surge_s:
        yield "trips on overload before it has shed anything"
    if island.break_s > 0.0 and island.sync_s > 0.0:
        yield "synchronises, and then breaks before it makes"


def implausible_battery(profile: DeviceProfile) -> Iterator[str]:
    """Object to a battery that contradicts its chemistry, its inverter or itself."""
    battery, inverter = profile.battery, profile.inverter
    usable_wh = battery.energy_wh * (battery.soc_frac_max - battery.soc_frac_min)
    if usable_wh < 0.85 * battery.energy_wh:
        yield f"only {usable_wh:g} Wh are usable"
    if not 0.9 <= usable_wh / inverter.power_w_discharge_max <= 4.0:
        yield f"{usable_wh / inverter.power_w_discharge_max:.2f} h at full power"
    if battery.ohmic_frac_per_c not in (0.0, {"lfp": 0.023, "nmc": 0.040}[battery.chemistry]):  # 3.5
        yield f"ohmic loss {battery.ohmic_frac_per_c:g} is not of {battery.chemistry}"
    if battery.ageing not in ("none", battery.chemistry):
        yield f"{battery.chemistry} that ages like {battery.ageing}"
    one_c_w = battery.energy_wh * battery.c_rate_share
    if battery.temperature_limits and inverter.power_w_charge_max > 0.5 * one_c_w:  # 3.4: 0.5 C, 15 to 45 °C
        yield "cannot charge with its rating at any temperature"
    if battery.temperature_limits and inverter.power_w_discharge_max > one_c_w:  # 3.4: 1 C
        yield "cannot discharge with its rating at any temperature"
    if battery.self_discharge_frac_per_month > 0.03:  # 3.3
        yield "leaks more than 3 % a month"
    if (battery.taper_soc_frac < 1.0) != (battery.taper_frac_min < 1.0):
        yield "half a taper"
    drifts = battery.soc_drift_frac_per_day != 0.0
    if abs(battery.soc_error_frac) > battery.soc_error_frac_max or (
        drifts and not battery.soc_error_frac_max
    ):
        yield "an error of the estimate that its own bound takes away"
    if battery.soc_frac_min + battery.imbalance_frac >= battery.soc_frac_restart:
        yield "restarts where its weakest cell is empty"


def implausible_heat(profile: DeviceProfile) -> Iterator[str]:
    """Object to a battery too light or too heavy for its energy, or that cooks itself at its rating."""
    battery = profile.battery
    size = battery.energy_wh / 13_500.0  # 3.5: 1e5 J/K at 13.5 kWh
    if not 0.8 <= battery.heat_capacity_j_per_k / (1e5 * size) <= 1.25:
        yield f"{battery.heat_capacity_j_per_k:g} J/K"
    power_w = max(profile.inverter.power_w_discharge_max, profile.inverter.power_w_charge_max)
    rise_k = battery.ohmic_frac_per_c * power_w**2 / battery.energy_wh / battery.cooling_w_per_k
    if rise_k > 35.0:
        yield f"{rise_k:.0f} K above ambient at full power"


def implausible(profile: DeviceProfile) -> Iterator[str]:
    """Object to a device no engineer would believe in."""
    yield from implausible_inverter(profile)
    yield from implausible_battery(profile)
    if profile.battery.temperature_limits or profile.battery.ohmic_frac_per_c:  # else heat has no effect
        yield from implausible_heat(profile)


def changed(name: str, **sections: dict[str, Any]) -> DeviceProfile:
    """Return a bundled profile with single values replaced, checked by the schema again."""
    plain = load_profile(name).model_dump()
    for section, values in sections.items():
        plain[section] |= values
    return DeviceProfile.model_validate(plain)


# The bundled profiles.


def test_there_are_profiles_of_every_kind() -> None:
    profiles = [load_profile(name) for name in NAMES]
    assert len(profiles) >= 13
    assert {p.island.transfer for p in profiles} == {"ups", "fast", "slow", "dark"}
    assert {p.face.frequency_hz for p in profiles} == {50, 60}
    assert {p.face.phases for p in profiles} == {1, 3}
    assert {p.battery.chemistry for p in profiles} == {"lfp", "nmc"}
    assert {p.island.pv for p in profiles} == {"commanded", "droop", "trips"}
    assert {p.control.families for p in profiles} == {("704",), ("124",), ("704", "124")}
    assert {p.face.base_address for p in profiles} == {0, 40000, 50000}
    assert {p.grid.abnormal for p in profiles} >= {"II", "III"}
    assert [p.profile for p in profiles if not p.island.capable] == ["home-9kwh-5kw-grid-only"]
    assert [p.profile for p in profiles if p.island.shed] == ["municipal-1mwh-500kw"]


def test_names_are_those_of_the_files_and_each_is_told_apart() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NAMES)
    profiles = [load_profile(name) for name in NAMES]
    assert [p.profile for p in profiles] == list(NAMES)
    assert len({p.face.model for p in profiles}) == len(NAMES)
    assert len({p.description for p in profiles}) == len(NAMES)


def test_the_command_lists_them(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "ridethrough.hil.cli", "list", "devices", "--format", "json")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"devices": {name: load_profile(name).description for name in NAMES}}


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    assert list(unsourced(text)) == []
    assert "\n# Sources: " in text


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_is_plausible_and_can_be_shown(name: str) -> None:
    profile = load_profile(name)
    assert list(implausible(profile)) == []
    assert compile_layout(profile).models == profile.face.models
    assert compile_meter_layout(profile).models == (1, 203 if profile.face.phases == 3 else 201)
    assert 0.0 < soc_frac_step(profile) <= 0.01


# Against what the numbers were taken from.


@pytest.mark.parametrize(
    ("name", "energy_wh", "power_w", "surge", "both_ways"),
    [
        ("home-10kwh-4kw-retry", 10_080, 3840, (5700, 10), 0.89),
        ("home-5kwh-4kw", 5000, 3840, (7680, 3), 0.90),
        ("home-10kwh-8kw-shift", 10_000, 8000, None, 0.81),
        ("home-10kwh-5kw", 10_000, 4800, None, 0.835),
        ("home-14kwh-5kw", 13_600, 5000, (10_000, 10), 0.89),
        ("home-10kwh-10kw-three-phase", 10_240, 9822, None, None),
        ("home-9kwh-5kw-grid-only", 9300, 5000, None, None),
    ],
)
def test_ratings_and_round_trip_are_those_of_the_data_sheet(
    name: str, energy_wh: float, power_w: float, surge: tuple[float, float] | None, both_ways: float | None
) -> None:
    """Section 3.1 of the reference; its round trips are from AC to AC."""
    profile = load_profile(name)
    assert profile.battery.energy_wh == energy_wh
    assert profile.inverter.power_w_discharge_max == power_w
    assert (profile.inverter.power_w_surge, profile.inverter.surge_s) == (surge or (power_w, 0))
    if both_ways is not None:
        assert round_trip(profile) == pytest.approx(both_ways, abs=0.015)


@pytest.mark.parametrize(
    ("name", "system", "converter_w"),
    [
        ("home-10kwh-4kw-retry", "S2", 3840),
        ("home-5kwh-4kw", "S2", 3840),
        ("home-14kwh-5kw", "S2", 5000),
        ("home-9kwh-4kw", "S2", 3507),
        ("home-6kwh-3kw", "S3", 3157),
        ("home-10kwh-5kw-break", "S4", 5000),
        ("home-9kwh-5kw-grid-only", "S4", 5000),
        ("home-10kwh-10kw-three-phase", "S5", 9822.6),
        ("home-11kwh-3kw-point", "S5", 9822.6),
    ],
)
def test_losses_are_those_of_the_laboratory(name: str, system: str, converter_w: float) -> None:
    """bslib 0.7: the measured system, scaled to a converter of this size, loses the same at any power."""
    if not CELLS.exists():
        pytest.skip(f"no {CELLS}: the measured systems are not part of the repository")
    with CELLS.open(newline="", encoding="utf-8") as file:
        measured = next(row for row in csv.DictReader(file) if row["ID"] == system)
    measured_w = float(measured["P_BAT2AC_out [W]"])
    a_w, b_w, c_w = (float(measured[f"BAT2AC_{k}_out"]) for k in "abc")
    inverter = load_profile(name).inverter
    for share in (0.05, 0.1, 0.25, 0.5, 1.0):
        power_w = share * inverter.power_w_discharge_max
        x, p = power_w / converter_w, share
        wanted_w = (a_w * x**2 + b_w * x + c_w) * converter_w / measured_w
        loss_w = inverter.loss_a_w * p**2 + inverter.loss_b_w * p + inverter.loss_c_w
        assert loss_w == pytest.approx(wanted_w, rel=2e-3)


def test_special_behaviour_is_that_of_its_class() -> None:
    """Sections 3.1, 4.3 and 4.4 of the reference."""
    retry = load_profile("home-10kwh-4kw-retry").island
    waits_s = [min(retry.restart_s * retry.restart_growth**k, retry.restart_s_max) for k in range(6)]
    assert [s / 60 for s in waits_s] == [10, 20, 40, 80, 120, 120]
    shift = load_profile("home-10kwh-8kw-shift")
    assert shift.face.frequency_hz + shift.island.shift_hz_above == pytest.approx(60.9)
    assert (shift.island.shift_soc_frac_on, shift.island.shift_soc_frac_off) == (0.95, 0.89)
    assert load_profile("home-10kwh-4kw-ups").transfer_s <= 0.02
    assert 5.0 <= load_profile("home-10kwh-5kw-break").transfer_s <= 7.0
    assert 0.1 <= load_profile("home-10kwh-5kw-break").island.break_s <= 10.0
    town = load_profile("municipal-1mwh-500kw").island
    assert [tier.soc_frac for tier in town.shed] == [0.40, 0.25, 0.15]
    assert sum(tier.frac for tier in town.shed) == pytest.approx(0.6)  # the hospital keeps its 0.4
    assert (town.droop_frac, town.voltage_droop_frac) == (0.0, 0.0)  # isochronous


def test_the_first_profiles_keep_cells_without_temper() -> None:
    """Scenarios and figures rest on them; what their cells do beside storing energy is switched on apart."""
    first = ("home-10kwh-4kw", "home-11kwh-6kw-legacy", "home-13kwh-11kw-ups", "home-13kwh-5kw")
    for name in (*first, "municipal-500kwh-250kw"):
        battery = load_profile(name).battery
        assert not battery.temperature_limits
        assert (battery.taper_frac_min, battery.ohmic_frac_per_c, battery.imbalance_frac) == (1.0, 0.0, 0.0)
        assert (battery.soc_error_frac, battery.soc_drift_frac_per_day) == (0.0, 0.0)


# The checkers, shown what they must catch and what they must let pass.


@pytest.mark.parametrize(
    ("text", "objections"),
    [
        ("a: 1  # 3.1, 10 kWh\nb: 2  # same\nc: {d: 1.5}  # assumed\n", 0),
        ("a: 1  # 1547, 4.10\nb: 7.4e+4  # 3.5 [E]\nc: [1, 2]  # SunSpec 1.4: both\n", 0),
        ("name: home 5 kWh\nids: ['124']\non: true\n", 0),
        ("a: 1\n", 1),
        ("a: 1  #\n", 1),
        ("a: 1  # a round number\n", 1),
        ("a: 1  # 9.9, nowhere\n", 1),
        ("a: 1  # SunSpec 3.1\n", 1),
        ("a: 1  # 13.1 kWh\n", 1),
        ("a: 1  # assumedly\n", 1),
        ("b: x\na: 1  # same\n", 1),
        ("a: '# 3.1'\nb: {c: '# 3.1', d: 1}\n", 1),
        ("a:\n  - {b: 1, c: 2}\n  - {b: 1, c: 2}  # assumed\n", 1),
        ("a: [1, 2,\n  3]  # 3.1\n", 1),
    ],
)
def test_source_checker(text: str, objections: int) -> None:
    assert len(list(unsourced(text))) == objections, list(unsourced(text))


@pytest.mark.parametrize("name", NAMES)
def test_source_checker_misses_every_comment_that_is_taken_away(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()
    bare = [line.partition("  #")[0] for line in lines]
    with_number = list(numbers(YAML(typ="safe", pure=True).compose("\n".join(bare))))
    assert len(with_number) > 20
    assert len(list(unsourced("\n".join(bare)))) == len({n.start_mark.line for n in with_number})


@pytest.mark.parametrize(
    ("sections", "objection"),
    [
        ({"inverter": {"loss_b_w": 2000.0}}, "round trip of"),
        ({"inverter": {"loss_a_w": 0.0, "loss_b_w": 0.0, "loss_c_w": 0.0}}, "round trip of"),
        ({"inverter": {"power_w_surge": 20_000.0}}, "surge of 20000 W"),
        ({"inverter": {"surge_s": 0.0}}, "no duration"),
        ({"inverter": {"standby_w": 100.0}}, "standby of 100 W"),
        ({"inverter": {"ramp_w_per_s": 100.0}}, "more than 30 s"),
        ({"inverter": {"apparent_va_max": 4000.0}}, "below the active power"),
        ({"grid": {"enter_random_s": 10.0}}, "exclude each other"),
        (
            {"island": {"shed": ({"frac": 0.5, "soc_frac": 0.2},), "shed_overload_s": 11.0}},
            "before it has shed",
        ),
        ({"island": {"break_s": 1.0}}, "breaks before it makes"),
        ({"battery": {"soc_frac_max": 0.8}}, "usable"),
        ({"battery": {"energy_wh": 40_000.0}}, "h at full power"),
        ({"battery": {"ohmic_frac_per_c": 0.04}}, "is not of lfp"),
        ({"battery": {"ageing": "nmc"}}, "ages like nmc"),
        ({"battery": {"c_rate_share": 0.7}}, "cannot charge"),
        ({"battery": {"c_rate_share": 0.3}}, "cannot discharge"),
        ({"battery": {"self_discharge_frac_per_month": 0.1}}, "leaks"),
        ({"battery": {"taper_frac_min": 1.0}}, "half a taper"),
        ({"battery": {"soc_error_frac": 0.1}}, "takes away"),
        ({"battery": {"soc_error_frac": 0.0, "soc_error_frac_max": 0.0}}, "takes away"),
        ({"battery": {"imbalance_frac": 0.06}}, "weakest cell"),
        ({"battery": {"heat_capacity_j_per_k": 1e4}}, "J/K"),
        ({"battery": {"cooling_w_per_k": 0.5}}, "above ambient"),
    ],
)
def test_plausibility_checker(sections: dict[str, dict[str, Any]], objection: str) -> None:
    found = list(implausible(changed("home-14kwh-5kw", **sections)))
    assert any(objection in text for text in found), found


def test_round_trip_of_a_loss_that_can_be_counted_by_hand() -> None:
    """1000 W with 100 W lost each way: 900 of 1100; the cells' 1 % each way makes it 891 of 1111."""
    plain = {"loss_a_w": 0.0, "loss_b_w": 0.0, "loss_c_w": 100.0, "standby_w": 0.0}
    rating = {"power_w_discharge_max": 2000.0, "power_w_charge_max": 2000.0, "apparent_va_max": None}
    cells = {"energy_wh": 1e5, "ohmic_frac_per_c": 0.0}
    ideal = changed("home-14kwh-5kw", inverter=plain | rating, battery=cells)
    assert round_trip(ideal) == pytest.approx(900 / 1100)
    warm = changed("home-14kwh-5kw", inverter=plain | rating, battery=cells | {"ohmic_frac_per_c": 0.1})
    assert round_trip(warm) == pytest.approx((900 - 0.81) / (1100 + 1.21))
