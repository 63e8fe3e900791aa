"""The register map against pysunspec2's definitions, and what a profile may not ask for."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator import layout as layout_module
from ridethrough.emulator import sunspec_definitions
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.layout import (
    QUANTITIES,
    Layout,
    compile_layout,
    compile_meter_layout,
    quantise_soc,
    soc_frac_step,
)
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.sunspec import METER_MODELS, points_of
from ridethrough.emulator.sunspec_grid import CURVE_MODELS, settings_points
from ridethrough.emulator.sunspec_values import bounds, constants, writable
from sunspec2 import device as witness
from sunspec2 import mb

from tests.emulator.register_bench import FOLDER, FULL, HOME, NAMES, PROFILES, load, with_face, witness_points


def chain(layout: Layout) -> list[tuple[int, int, int]]:
    """Walk a map as a client does: (model, address of its id, length) of every block."""
    registers = struct.unpack(f">{layout.count}H", layout.initial)
    assert registers[:2] == (0x5375, 0x6E53)
    blocks, at = [], 2
    while registers[at] != 0xFFFF:
        blocks.append((registers[at], layout.base_address + at, registers[at + 1]))
        at += 2 + registers[at + 1]
    assert registers[at:] == (0xFFFF, 0)
    return blocks


def both(profile: DeviceProfile) -> tuple[Layout, Layout]:
    return compile_layout(profile), compile_meter_layout(profile)


def test_every_bundled_profile_can_be_shown() -> None:
    files = (path.name for path in FOLDER.iterdir())
    names = sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))
    assert set(NAMES) - {FULL.profile} <= set(names)
    assert all(PROFILES[name].profile == name for name in NAMES)
    for name in names:
        profile = load(name)
        assert compile_layout(profile).models == profile.face.models


@pytest.mark.parametrize("name", NAMES)
def test_the_chain_of_models_is_the_profiles(name: str) -> None:
    inverter, meter = both(PROFILES[name])
    assert [model for model, _, _ in chain(inverter)] == list(PROFILES[name].face.models)
    assert [model for model, _, _ in chain(meter)] == [1, 203 if PROFILES[name].face.phases == 3 else 201]


def test_lengths_that_the_standard_fixes() -> None:
    repeating = {*range(705, 713), 714}  # in the test after this one
    lengths = {model: length for model, _, length in chain(compile_layout(HOME)) if model not in repeating}
    assert lengths == {
        1: 66,
        101: 50,
        120: 26,
        121: 30,
        122: 44,
        123: 24,
        124: 24,
        701: 153,
        702: 50,
        703: 17,
        704: 65,
        713: 7,
        715: 7,
        802: 62,
    }


def test_lengths_of_models_that_repeat_groups() -> None:
    """Worked out by hand from the table of the SunSpec notes: three sets of each curve, two PV strings."""
    lengths = {model: length for model, _, length in chain(compile_layout(FULL))}
    assert {model: lengths[model] for model in (160, *range(705, 713), 714, 803, 804)} == {
        160: 8 + 20 * 2,
        705: 13 + 3 * (10 + 4 * 2),
        706: 13 + 3 * (5 + 2 * 2),
        707: 7 + 3 * (1 + 3 * (1 + 5 * 3)),
        708: 7 + 3 * (1 + 3 * (1 + 5 * 3)),
        709: 7 + 3 * (1 + 3 * (1 + 5 * 4)),
        710: 7 + 3 * (1 + 3 * (1 + 5 * 4)),
        711: 12 + 3 * 10,
        712: 12 + 3 * (4 + 6 * 2),
        714: 18 + 25 * 3,
        803: 26 + 32 * 1,
        804: 46 + 16 * 1,
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_point_lies_where_pysunspec2_has_it(name: str) -> None:
    seen = 0
    for layout in both(PROFILES[name]):
        for model, address, length in chain(layout):
            first = 2 * (address - layout.base_address)
            data = layout.initial[first : first + 2 * (length + 2)]
            decoded = witness.Model(model_id=model, model_addr=address, model_len=length, data=data)
            assert decoded.error_info == ""
            for label, theirs in witness_points(decoded):
                ours = layout.point(model, label)
                assert (ours.address, ours.size) == (address + theirs.offset, int(theirs.len)), str(ours)
                assert ours.writable <= (theirs.pdef.get("access") == "RW"), str(ours)
                assert ours.type == theirs.pdef["type"], str(ours)
                seen += 1
        assert sum(point.size for point in layout.points) + 4 == layout.count
    assert seen == sum(len(layout.points) for layout in both(PROFILES[name]))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_served_reads_as_not_implemented(name: str) -> None:
    blank = 0
    for layout in both(PROFILES[name]):
        for point in layout.points:
            if point.quantity is not None or point.type in ("pad", "sunssf") or point.name in ("ID", "L"):
                continue
            first = 2 * (point.address - layout.base_address)
            data = layout.initial[first : first + 2 * point.size]
            assert data == mb.create_unimpl_value(point.type, len=2 * point.size), str(point)
            blank += 1
    assert blank > 50


def test_pad_registers_hold_their_own_pattern() -> None:
    layout = compile_layout(HOME)
    pads = [2 * (point.address - layout.base_address) for point in layout.points if point.type == "pad"]
    assert [layout.initial[at : at + 2] for at in pads] == [b"\x80\0"] * 2
    many = compile_layout(FULL)
    assert sum(point.type == "pad" for point in many.points if point.model in (803, 804)) == 2 + 7


@pytest.mark.parametrize("name", NAMES)
def test_scale_factors_are_in_the_map_and_the_unused_are_blank(name: str) -> None:
    for layout in both(PROFILES[name]):
        for model, address, length in chain(layout):
            first = 2 * (address - layout.base_address)
            data = layout.initial[first : first + 2 * (length + 2)]
            decoded = witness.Model(model_id=model, model_addr=address, model_len=length, data=data)
            for label, theirs in witness_points(decoded):
                ours = layout.point(model, label)
                if theirs.sf and ours.quantity is not None:
                    assert decoded.points[theirs.sf].value == ours.scale, str(ours)


@pytest.mark.parametrize("base", [0, 40000, 50000])
def test_the_map_begins_at_the_base_address(base: int) -> None:
    for layout in both(with_face(HOME, base_address=base)):
        assert layout.base_address == base
        assert layout.point(1, "ID").address == base + 2


def test_tables_name_only_what_there_is() -> None:
    """A name is one of constant, dynamic quantity and setting; every bound and range belongs to one."""
    everything: set[str] = set()
    for profile in PROFILES.values():
        models = [(model, False) for model in profile.face.models] + [(model, True) for model in METER_MODELS]
        shown = {name for model, meter in models for name in points_of(profile, model, meter).values()}
        settings_ = {f"{m}.{name}" for m in profile.face.models for name in settings_points(profile, m)}
        constant, dynamic = set(constants(profile)), set(QUANTITIES)
        assert not constant & dynamic | settings_ & (constant | dynamic)
        assert shown <= constant | dynamic | settings_
        assert settings_ <= shown
        assert set(bounds(profile)) <= dynamic | settings_
        assert set(writable(profile)) <= constant | dynamic | settings_
        everything |= shown
    assert set(QUANTITIES) <= everything, "a quantity nobody can read"


def test_set_1_of_a_curve_model_is_read_only_and_the_others_are_not() -> None:
    layout = compile_layout(FULL)
    for model, names in CURVE_MODELS.items():
        mine = [point for point in layout.points if point.model == model and "[" in point.name]
        first = [point for point in mine if point.name.startswith(f"{names.group}[1].")]
        assert first
        assert not any(point.writable for point in first)
        for point in mine:
            if point not in first and not point.name.endswith((".ReadOnly", ".VRefAuto")):
                assert point.writable, str(point)


@pytest.mark.parametrize("name", NAMES)
def test_resolution_is_good(name: str) -> None:
    layout = compile_layout(PROFILES[name])
    rating = PROFILES[name].inverter.power_w_discharge_max
    ac = 101 if 101 in layout.models else 103
    assert 10.0 ** layout.point(ac, "W").scale <= max(1.0, rating / 20_000)
    assert soc_frac_step(PROFILES[name]) == 1e-4
    for model, point in ((124, "ChaState"), (124, "InWRte"), (123, "WMaxLimPct")):
        assert layout.point(model, point).scale == -2


@given(st.floats(10, 1e7), st.floats(0.1, 3), st.floats(100, 1e8), st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=50)
def test_any_rating_finds_scale_factors(
    rated_w: float, charge_ratio: float, energy_wh: float, phases: int
) -> None:
    charge_w = charge_ratio * rated_w
    data = HOME.model_dump()
    data["battery"].update(energy_wh=energy_wh)
    data["inverter"].update(power_w_discharge_max=rated_w, power_w_surge=rated_w, power_w_charge_max=charge_w)
    data["inverter"].update(ramp_w_per_s=min(rated_w, charge_w))
    data["face"].update(phases=phases, models=[1, 103 if phases == 3 else 101, *HOME.face.models[2:]])
    layout = compile_layout(DeviceProfile.model_validate(data))
    for label, true_w in (("WMaxRtg", rated_w), ("WChaRteMaxRtg", charge_w)):
        point = layout.point(702, label)
        first = 2 * (point.address - layout.base_address)
        shown_w = point.decode(layout.initial[first : first + 2])
        assert shown_w is not None
        assert abs(shown_w - true_w) <= 0.5 * 10.0**point.scale * (1 + 1e-12)
    assert 10.0 ** layout.point(702, "WMaxRtg").scale <= max(1.0, max(rated_w, charge_w) / 6_000)


def test_curves_have_the_resolution_of_their_settings() -> None:
    """Half of the last digit of a default is shown: 91.7 % of nominal, 0.0142 Hz, 0.16 s, 5.0 %, PF 0.001."""
    layout = compile_layout(FULL)
    for model, name, step in (
        (703, "ESVLo", 1e-4),
        (705, "Crv[2].Pt[1].V", 1e-4),
        (705, "Crv[2].Pt[1].Var", 1e-4),
        (707, "Crv[2].MustTrip.Pt[1].Tms", 0.01),
        (709, "Crv[2].MustTrip.Pt[1].Hz", 0.001),
        (711, "Ctl[2].DbOf", 1e-4),
        (711, "Ctl[2].KOf", 1e-4),
        (711, "Ctl[2].RspTms", 0.01),
        (704, "PFWInj.PF", 1e-3),
        (803, "string[1].StrCellVAvg", 1e-3),
        (803, "ModTmpAvg", 0.1),
    ):
        point = layout.point(model, name)
        assert point.divisor / point.factor == pytest.approx(step), str(point)


def test_an_override_is_used() -> None:
    layout = compile_layout(with_face(HOME, scale_factors={"713.Pct_SF": 0, "704.WSet_SF": 1}))
    assert layout.point(713, "SoC").scale == 0
    assert layout.point(704, "WSet").scale == 1
    assert soc_frac_step(with_face(HOME, scale_factors={"713.Pct_SF": 0})) == 0.01


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no model 1": ({"models": [101, 124]}, ["face.models", "begin with model 1"]),
    "nothing": ({"models": []}, ["face.models", "begin with model 1"]),
    "unknown": ({"models": [*HOME.face.models, 64001]}, ["model 64001", "allowed 1, 101"]),
    "twice": ({"models": [*HOME.face.models, 713]}, ["model 713 is named twice"]),
    "phases": ({"phases": 3}, ["model 101 does not fit face.phases 3", "103"]),
    "family": ({"models": [1, 101, 120, 121, 124]}, ["control.families names 704", "701, 702, 704, 713"]),
    "rating": (
        {"scale_factors": {"701.W_SF": -1}},
        ["701.W (register 40290)", "power_w up to 7000", "scale factor -1", "-3276.7 to 3276.7"],
    ),
    "constant": (
        {"scale_factors": {"120.WHRtg_SF": -1}},
        ["120.WHRtg (register", "13500", "uint16", "allowed 0 to 6553.4"],
    ),
    "meter": ({"scale_factors": {"201.W_SF": -1}}, ["201.W (register 40088)", "import_w up to 27000"]),
    "strings": ({"models": [*HOME.face.models, 160]}, ["model 160 shows PV strings", "face.pv_strings is 0"]),
    "no such factor": ({"scale_factors": {"713.PctSF": -2}}, ["713.PctSF", "allowed", "713.Pct_SF"]),
    "unused factor": ({"scale_factors": {"701.Tmp_SF": -1}}, ["no served point uses 701.Tmp_SF"]),
    "long name": ({"model": "é" * 20}, ["1.Md (register 40020)", "40 bytes", "at most 32"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_shown_is_refused_with_its_place(case: str) -> None:
    changes, parts = WRONG[case]
    with pytest.raises(ScenarioError) as caught:
        compile_layout(with_face(HOME, **changes))
    for part in ("home-13kwh-5kw", *parts):
        assert part in str(caught.value)


def test_a_family_that_is_not_named_is_not_served() -> None:
    data = HOME.model_dump()
    data["control"]["families"] = ("124",)
    with pytest.raises(ScenarioError, match="model 704 is served, but"):
        compile_layout(DeviceProfile.model_validate(data))


def test_an_unknown_point_names_what_is_served() -> None:
    with pytest.raises(ScenarioError, match=r"no point 713\.Soc; models served: 1, 101"):
        compile_layout(HOME).point(713, "Soc")


def test_definitions_come_from_the_package_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pysunspec2 itself looks into the working directory first; a stray file must not change a map."""
    before = compile_layout(HOME).initial
    (tmp_path / "model_713.json").write_text('{"id": 713, "group": {"points": []}}')
    monkeypatch.chdir(tmp_path)
    sunspec_definitions.model_group.cache_clear()
    layout_module._compile.cache_clear()
    assert compile_layout(HOME).initial == before


@given(st.floats(0, 1), st.sampled_from([-2, -1, 0, 1]))
def test_a_reported_soc_is_the_greatest_step_not_above_the_truth(soc: float, scale: int) -> None:
    step = 10.0 ** (scale - 2)
    shown = float(quantise_soc(soc, step))
    assert shown <= soc < shown + step * (1 + 1e-9)
    assert float(quantise_soc(shown, step)) == shown
    assert abs(shown / step - round(shown / step)) < 1e-9


def test_rounding_of_the_product_cannot_lift_a_soc() -> None:
    """Just below a step, soc · 10000 can round up to the step itself; just on it, it can fall short."""
    on = np.arange(1, 10_001) / 1e4
    below = np.nextafter(on, 0.0)
    assert (np.floor(below * 1e4) / 1e4 > below).any(), "the trap exists"
    assert (quantise_soc(below, 1e-4) == (np.arange(10_000) / 1e4)).all()
    assert (quantise_soc(on, 1e-4) == on).all()


def test_a_soc_that_is_none_reads_as_unknown() -> None:
    assert np.isnan(quantise_soc([np.nan, -1e-9, 7.0], 1e-4)).all()
    assert quantise_soc([0.0, 1.0, 1.0 + 1e-9], 1e-4).tolist() == [0.0, 1.0, 1.0]


def test_no_soc_point_is_an_error() -> None:
    data = HOME.model_dump()
    data["control"]["families"] = ()
    data["face"]["models"] = (1, 101)
    with pytest.raises(ScenarioError, match="allowed 713, 124, 802"):
        soc_frac_step(DeviceProfile.model_validate(data))


def test_the_documents_list_what_may_be_written_by_its_definition_and_not_here() -> None:
    """The rows of docs/sunspec-conformance.md, each `| model.Point, Point, ... | reason |`."""
    text = (Path(__file__).parents[2] / "docs" / "sunspec-conformance.md").read_text("utf-8")
    listed = set()
    for models, names in re.findall(r"^\| (\d{3})\.([A-Za-z, ]+?) \|", text, re.MULTILINE):
        listed |= {(int(models), name) for name in names.split(", ")}
    found = set()
    for name in NAMES:
        for layout in both(PROFILES[name]):
            for model, address, length in chain(layout):
                first = 2 * (address - layout.base_address)
                data = layout.initial[first : first + 2 * (length + 2)]
                decoded = witness.Model(model_id=model, model_addr=address, model_len=length, data=data)
                for label, theirs in witness_points(decoded):
                    ours = layout.point(model, label)
                    locked = ours.quantity is not None and not ours.writable
                    if theirs.pdef.get("access") == "RW" and locked and "[1]" not in label:
                        found.add((model, label))  # set 1 of a curve says itself that it is read-only
    assert listed == found
