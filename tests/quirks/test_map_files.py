"""Quirk files: the schema, what does not go together, and that every bundled one shows on some device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.quirks.knobs import Quirk, combine
from ridethrough.hil.files import load_quirk, profile_names, quirk_names

from tests.emulator.register_bench import FULL, HOME, LEGACY
from tests.quirks.wire import build, bundled, made

HEAD = "quirk: mine\nrow: 16\ndescription: d\ndevice: x\nsource: y\n"


@pytest.mark.parametrize("name", quirk_names())
def test_a_bundled_quirk_is_whole_and_has_the_name_of_its_file(name: str) -> None:
    quirk = load_quirk(name)
    assert quirk.quirk == name
    assert quirk == bundled(name)
    assert all(len(text) >= 3 for text in (quirk.description, quirk.device, quirk.source))


def sections(quirk: Quirk) -> Iterator[str]:
    yield from (section for section in ("map", "values", "writes") if getattr(quirk, section) is not None)


@pytest.mark.parametrize("name", [name for name in quirk_names() if list(sections(load_quirk(name)))])
def test_a_bundled_quirk_shows_on_a_device_with_every_model(name: str) -> None:
    units = build(FULL, [load_quirk(name)])[1]
    unit = next(iter(units.values()))
    kinds = [type(layer).__name__ for layer in unit.layers]
    wanted = {"map": "MapLayer", "values": "ValueLayer", "writes": "WriteLayer"}
    assert set(kinds) == {wanted[section] for section in sections(load_quirk(name))}


def test_rows_of_map_and_values_are_all_there() -> None:
    rows: set[object] = set()
    for name in quirk_names():
        quirk = load_quirk(name)
        if {"map", "values"} & set(sections(quirk)):
            rows |= set(quirk.row) if isinstance(quirk.row, tuple) else {quirk.row}
    assert rows >= {*range(6, 26), 32, 40, 45, 46, 47, 49}


BAD = [
    ("map: {base: 1000}", r":6: map.base: found 1000; allowed 0, 40000, 50000"),
    ("map: {bass: 0}", r":6: map.bass: found unknown key 'bass' \(did you mean 'base'\?\); allowed absent, "),
    (
        "map: {holes: [{points: [701]}]}",
        r":6: map.holes\[0\].points\[0\]: found 701; allowed a text matching",
    ),
    ("map: {holes: []}\nvalues: {}", None),
    (
        "values: {fixed: [{points: [701.W]}]}",
        r":6: values.fixed\[0\]: found a mapping; allowed: one of value",
    ),
    (
        "values: {fixed: [{points: [701.W], quantity: wats}]}",
        r":6: values.fixed\[0\].quantity: found 'wats'; allowed: one of the quantities .*import_w",
    ),
    ("values: {scales: [{factors: [701.W_SF]}]}", r"allowed: one of shift \(not 0\) and missing: true"),
    ("values: {scales: [{factors: [701.W_SF], shift: 11}]}", r"shift: found 11; allowed .* at most 10"),
    (
        "map:\n  hidden:\n    - models: [704]\n      when: {daily_start: '21:00'}",
        r":9: map.hidden\[0\].when: found a mapping; allowed: daily_start and daily_end together, or neither",
    ),
    (
        "map: {hidden: [{models: [704], when: {daily_start: '24:00', daily_end: '06:00'}}]}",
        r"daily_start: found '24:00'; allowed: a time of day from 00:00 to 23:59:59",
    ),
    ("map: {hidden: [{models: [704], when: {chance: 2}}]}", r"when.chance: found 2; allowed .* at most 1"),
    ("map: {hidden: [{models: [704], when: {start_s: 9, end_s: 4}}]}", r"allowed: end_s later than start_s"),
    ("map: {hidden: [{models: [704], when: {every_s: 9, for_s: 9}}]}", r"for_s shorter than every_s"),
    ("map: {hidden: [{models: [704], when: {every_s: 9}}]}", r"every_s and for_s together, or neither"),
    ("values: {counters: [{points: [101.WH]}]}", r"at least one of daily, reset_at_s and dip"),
    ("values: {restarts: [{zero_s: 3}]}", r"at least one of daily and at_s"),
    ("map: {inverter_family: both, family_switch: {start_s: 1}}", r"family_switch with inverter_family int"),
    ("map: {alias_units: true, meter: own-unit}", r"alias_units with meter same-map or none"),
    ("map: {meter: none, meter_unit_id: 200}", r"meter_unit_id with meter own-unit and without alias_units"),
    ("map: {port: '1502'}", r"map.port: found '1502'; allowed a whole number at least 1 and at most 65535"),
    ("nap: {}", r":6: nap: found unknown key 'nap' \(did you mean 'map'\?\)"),
    ("", r"allowed: at least one of the sections"),
]


@pytest.mark.parametrize(("text", "objection"), BAD)
def test_a_mistake_is_named_with_line_found_and_allowed(
    tmp_path: Path, text: str, objection: str | None
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(HEAD + text + "\n")
    if objection is None:
        assert load_quirk(str(file)).quirk == "mine"
        return
    with pytest.raises(ScenarioError, match=objection) as caught:
        load_quirk(str(file))
    assert re.match(rf"{re.escape(str(file))}:[0-9]+: ", str(caught.value))


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(ScenarioError, match=r"found quirk 'base-1' \(did you mean 'base-0'\?\); allowed "):
        load_quirk("base-1")


def named(name: str, **about: Any) -> Quirk:
    return made(**about).model_copy(update={"quirk": name})


def test_quirks_of_different_places_go_together_and_lists_add_up() -> None:
    low = {"fixed": [{"points": ["715.DERHb"], "value": 0}]}
    high = {"fixed": [{"points": ["715.LocRemCtl"], "value": 1}]}
    both = combine([named("a", values=low, map={"base": 0}), named("b", values=high, map={"end": "none"})])
    assert both.names == ("a", "b")
    assert both.values is not None
    assert [entry.value for entry in both.values.fixed] == [0, 1]
    assert both.map is not None
    assert (both.map.base, both.map.end, both.map.port) == (0, "none", None)
    assert both.writes is None


def test_the_same_value_twice_is_no_conflict() -> None:
    both = combine([named("a", map={"base": 0}), named("b", map={"base": 0, "port": 1502})])
    assert both.map is not None
    assert both.map.base == 0


def test_two_values_of_one_knob_do_not_go_together() -> None:
    with pytest.raises(
        ScenarioError, match=r"base-0 and base-50000 do not go together: map.base is 0 in one"
    ):
        combine([bundled("base-0"), bundled("base-50000")])
    with pytest.raises(ScenarioError, match="quirks: found base-0 twice; allowed once"):
        combine([bundled("base-0"), bundled("base-0")])


def test_what_two_quirks_want_together_may_not_be_allowed() -> None:
    own = named("own", map={"meter": "own-unit"})
    with pytest.raises(ScenarioError, match=r"alias-units and own do not go together: map: .*no id is left"):
        combine([bundled("alias-units"), own])


@pytest.mark.parametrize(
    ("profile", "knobs", "objection"),
    [
        (
            LEGACY,
            {"values": {"signs": [{"points": ["701.W"]}]}},
            r"values.signs\[0\]: found nothing .*701\.W",
        ),
        (
            LEGACY,
            {"map": {"hidden": [{"models": [704]}]}},
            r"map.hidden\[0\]: found nothing .*models served: 1, ",
        ),
        (HOME, {"map": {"relabel": [{"model": 160, "shown_id": 5}]}}, r"map.relabel\[0\]: found nothing"),
        (HOME, {"map": {"shrunk": [{"model": 160, "length": 5}]}}, r"map.shrunk\[0\]: found nothing"),
        (HOME, {"map": {"holes": [{"points": ["160.Evt"]}]}}, r"map.holes\[0\]: found nothing"),
        (HOME, {"values": {"null_frames": [{"models": [160]}]}}, r"values.null_frames\[0\]: found nothing"),
        (
            HOME,
            {"values": {"scales": [{"factors": ["701.W", "160.DCW_SF"], "shift": 1}]}},
            r"values.scales\[0\]: found nothing",
        ),
        (
            HOME.model_copy(
                update={
                    "face": HOME.face.model_copy(update={"models": (1, 701, 702, 703, 704, 713)}),
                    "control": HOME.control.model_copy(update={"families": ("704",)}),
                }
            ),
            {"map": {"inverter_family": "float"}},
            r"map.inverter_family needs one of the models 101, 102, 103, 111",
        ),
    ],
)
def test_a_quirk_that_would_not_show_on_a_device_is_refused(
    profile: DeviceProfile, knobs: dict[str, Any], objection: str
) -> None:
    with pytest.raises(ScenarioError, match=objection) as caught:
        build(profile, [made(**knobs)])
    assert f"profile {profile.profile}: quirks made: " in str(caught.value)


def test_several_points_are_named_for_several_devices() -> None:
    knobs = {"signs": [{"points": ["701.W", "101.W"]}]}
    assert build(LEGACY, [made(values=knobs)])[1]
    assert "home-13kwh-5kw" in profile_names()
