"""Settings from the factory, their ranges, and what the step gets of them.

Witnesses: EPRI OpenDER's settings object for defaults and ranges (skipped where it is not installed), numpy's
interpolation for curves, and the stage functions of the model themselves.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as pace
from ridethrough.emulator.errors import DeviceError
from ridethrough.emulator.fields import CONTROL
from ridethrough.emulator.grid_settings import (
    SettingError,
    check,
    control_values,
    default_settings,
)
from ridethrough.emulator.profile import DeviceProfile

from tests.emulator.grid_strategies import CATEGORIES, device, devices

UNHURRIED = pace(deadline=None, max_examples=60)
DERIVED = {name for name in CONTROL[CONTROL.index("pf_ena") :] if "_rvrt_" not in name}


def opender() -> Any:
    """Return OpenDER's settings of a storage device with the standard's defaults."""
    if importlib.util.find_spec("opender") is None:
        pytest.skip("opender is not installed")
    module = importlib.import_module("opender.common_file_format.common_file_format_BESS")
    return module.DERCommonFileFormatBESS()


# Defaults.


@pytest.mark.parametrize("normal", ["A", "B"])
@pytest.mark.parametrize("abnormal", CATEGORIES)
def test_defaults_are_those_of_opender(normal: str, abnormal: str) -> None:
    witness = opender()
    witness.NP_NORMAL_OP_CAT, witness.NP_ABNORMAL_OP_CAT = f"CAT_{normal}", f"CAT_{abnormal}"
    ours = default_settings(device(grid={"normal": normal, "abnormal": abnormal}))

    def curve(name: str, *, of: str = "Q", suffix: str = "", at: str = "V", n: int) -> tuple[Any, ...]:
        numbers = range(1, n + 1)
        return tuple(
            tuple(getattr(witness, f"{name}_CURVE_{letter}{i}{suffix}") for letter in (at, of))
            for i in numbers
        )

    def trip(side: str, letter: str) -> tuple[Any, ...]:
        return tuple(
            tuple(getattr(witness, f"{side}{i}_TRIP_{letter_}") for letter_ in (letter, "T")) for i in (1, 2)
        )

    pairs = [
        (ours.volt_var.points, curve("QV", n=4)),
        (ours.volt_var.response_s, witness.QV_OLRT),
        (ours.volt_var.ref_pu, witness.QV_VREF),
        (ours.volt_var.auto_s, witness.QV_VREF_TIME),
        (ours.volt_watt.points, curve("PV", of="P", n=2)),
        (ours.volt_watt.response_s, witness.PV_OLRT),
        (ours.watt_var.generate, curve("QP", at="P", suffix="_GEN", n=3)),
        (ours.watt_var.absorb, curve("QP", at="P", suffix="_LOAD", n=3)),
        (ours.droop.dead_hz_over, witness.PF_DBOF),
        (ours.droop.dead_hz_under, witness.PF_DBUF),
        (ours.droop.droop_frac_over, witness.PF_KOF),
        (ours.droop.droop_frac_under, witness.PF_KUF),
        (ours.droop.response_s, witness.PF_OLRT),
        (ours.droop.power_frac_min, witness.NP_P_MIN_PU),
        (ours.over_voltage.must, trip("OV", "V")),
        (ours.under_voltage.must, trip("UV", "V")),
        (ours.over_frequency.must, trip("OF", "F")),
        (ours.under_frequency.must, trip("UF", "F")),
        (ours.enter.voltage_pu_min, witness.ES_V_LOW),
        (ours.enter.voltage_pu_max, witness.ES_V_HIGH),
        (ours.enter.frequency_hz_min, witness.ES_F_LOW),
        (ours.enter.frequency_hz_max, witness.ES_F_HIGH),
        (ours.enter.delay_s, witness.ES_DELAY),
        (ours.enter.ramp_s, witness.ES_RAMP_RATE),
        (ours.enter.random_s, witness.ES_RANDOMIZED_DELAY),
    ]
    assert [mine for mine, _ in pairs] == [theirs for _, theirs in pairs]
    if abnormal == "III":
        assert ours.under_voltage.cease == witness.MC_LVRT_V1
        assert ours.over_voltage.cease == witness.MC_HVRT_V1


@UNHURRIED
@given(devices())
def test_every_device_takes_its_own_defaults(profile: DeviceProfile) -> None:
    settings = default_settings(profile)
    check(settings, profile)
    assert set(control_values(settings, profile, 1.0, 0.0)) == DERIVED


def test_profile_says_what_is_on() -> None:
    for function in ("power_factor", "var", "volt_var", "watt_var"):
        settings = default_settings(
            device(
                grid={"function": function, "volt_watt": True, "droop": False, "enter_random_s": 7.5},
                enter_delay_s=0.5,
                enter_ramp_s=2000.0,
            )
        )
        on = {
            "power_factor": settings.pf.inject.enabled and settings.pf.absorb.enabled,
            "var": settings.var.enabled,
            "volt_var": settings.volt_var.enabled,
            "watt_var": settings.watt_var.enabled,
        }
        assert [name for name, enabled in on.items() if enabled] == [function]
        assert settings.volt_watt.enabled
        assert not settings.droop.enabled
        assert (settings.enter.delay_s, settings.enter.random_s, settings.enter.ramp_s) == (0.5, 7.5, 2000.0)


def test_what_the_profile_says_is_allowed_there_and_nowhere_else() -> None:
    odd = device(grid={"enter_random_s": 0.5}, enter_delay_s=1000.0, enter_ramp_s=2000.0)
    settings = default_settings(odd)
    check(settings, odd)
    with pytest.raises(SettingError, match="ESDlyTms: found 1000 s; allowed is 0 to 600 s"):
        check(settings, device())


def test_default_curves_are_cut_to_the_reactive_rating() -> None:
    settings = default_settings(device(var_frac_inject=0.3, var_frac_absorb=0.1))
    assert [q for _, q in settings.volt_var.points] == [0.3, 0.0, 0.0, -0.1]
    assert settings.watt_var.generate[2] == (1.0, -0.1)
    assert settings.watt_var.absorb[2] == (-1.0, 0.3)


def test_fifty_hertz_keeps_the_shares_of_nominal() -> None:
    at_50, at_60 = (default_settings(device(hz)) for hz in (50, 60))
    for name in ("under_frequency", "over_frequency"):
        for a, b in zip(getattr(at_50, name).must, getattr(at_60, name).must, strict=True):
            assert a[0] / 50.0 == pytest.approx(b[0] / 60.0, abs=0.005 / 50.0)
            assert a[1] == b[1]
    assert at_50.droop.dead_hz_over == 0.03
    assert (at_50.enter.frequency_hz_min, at_50.enter.frequency_hz_max) == (49.58, 50.08)
    assert at_50.under_voltage == at_60.under_voltage


# Ranges.


def put(settings: Any, path: str, value: Any) -> Any:
    """Return settings with one value replaced; a path is names and places in tuples."""
    head, _, rest = path.partition(".")
    if head.isdigit():
        items = list(settings)
        items[int(head)] = put(items[int(head)], rest, value) if rest else value
        return tuple(items)
    return replace(settings, **{head: put(getattr(settings, head), rest, value) if rest else value})


RANGES: list[tuple[str, str, float, float, str]] = [
    ("enter.voltage_pu_min", "ES_V_LOW", 0.88, 0.95, "ESVLo"),
    ("enter.voltage_pu_max", "ES_V_HIGH", 1.05, 1.06, "ESVHi"),
    ("enter.frequency_hz_min", "ES_F_LOW", 59.0, 59.9, "ESHzLo"),
    ("enter.frequency_hz_max", "ES_F_HIGH", 60.1, 61.0, "ESHzHi"),
    ("enter.delay_s", "ES_DELAY", 0.0, 600.0, "ESDlyTms"),
    ("enter.ramp_s", "ES_RAMP_RATE", 1.0, 1000.0, "ESRmpTms"),
    ("volt_var.points.0.0", "QV_CURVE_V1", 0.82, 0.96, r"Pt\[1\].V"),
    ("volt_var.points.1.0", "QV_CURVE_V2", 0.97, 1.0, r"Pt\[2\].V"),
    ("volt_var.points.2.0", "QV_CURVE_V3", 1.0, 1.03, r"Pt\[3\].V"),
    ("volt_var.points.3.0", "", 1.04, 1.18, r"Pt\[4\].V"),  # OpenDER tests V3 against 1.18
    ("volt_var.points.0.1", "QV_CURVE_Q1", 0.0, 0.44, r"Pt\[1\].Var"),
    ("volt_var.points.3.1", "QV_CURVE_Q4", -0.44, 0.0, r"Pt\[4\].Var"),
    ("volt_var.ref_pu", "QV_VREF", 0.95, 1.05, "VRef"),
    ("volt_var.auto_s", "QV_VREF_TIME", 300.0, 5000.0, "VRefAutoTms"),
    ("volt_var.response_s", "QV_OLRT", 1.0, 90.0, "RspTms"),
    ("volt_watt.points.0.0", "PV_CURVE_V1", 1.05, 1.09, r"Pt\[1\].V"),
    ("volt_watt.points.1.0", "", 1.07, 1.10, r"Pt\[2\].V"),  # OpenDER tests V1 against 1.1
    ("volt_watt.points.1.1", "PV_CURVE_P2", -1.0, 1.0, r"Pt\[2\].W"),
    ("volt_watt.response_s", "PV_OLRT", 0.5, 60.0, "RspTms"),
    ("watt_var.generate.0.0", "", 0.0, 0.4, r"Pt\[4\].W"),  # OpenDER: from -1 with storage
    ("watt_var.generate.1.0", "QP_CURVE_P2_GEN", 0.4, 0.8, r"Pt\[5\].W"),
    ("watt_var.generate.2.0", "QP_CURVE_P3_GEN", 0.6, 1.0, r"Pt\[6\].W"),
    ("watt_var.absorb.0.0", "QP_CURVE_P1_LOAD", -0.4, 0.0, r"Pt\[3\].W"),
    ("watt_var.absorb.1.0", "QP_CURVE_P2_LOAD", -0.8, -0.4, r"Pt\[2\].W"),
    ("watt_var.absorb.2.0", "", -1.0, -0.6, r"Pt\[1\].W"),  # OpenDER: up to P'2 + 0.1
    ("droop.dead_hz_over", "PF_DBOF", 0.017, 1.0, "DbOf"),
    ("droop.dead_hz_under", "PF_DBUF", 0.017, 1.0, "DbUf"),
    ("droop.droop_frac_over", "PF_KOF", 0.02, 0.05, "KOf"),
    ("droop.droop_frac_under", "", 0.02, 0.05, "KUf"),  # OpenDER: up to 10
    ("droop.response_s", "PF_OLRT", 0.2, 10.0, "RspTms"),
    ("droop.power_frac_min", "", -1.0, 1.0, "PMin"),
    ("under_voltage.must.0.0", "UV1_TRIP_V", 0.5, 0.88, "level 1 V|level 2"),
    ("under_voltage.must.0.1", "UV1_TRIP_T", 2.0, 50.0, "level 1 Tms"),
    ("under_voltage.must.1.0", "UV2_TRIP_V", 0.0, 0.50, "level 2 V"),
    ("under_voltage.must.1.1", "UV2_TRIP_T", 0.16, 21.0, "level 2 Tms"),
    ("over_voltage.must.0.0", "OV1_TRIP_V", 1.10, 1.20, "level 1 V"),
    ("over_voltage.must.0.1", "OV1_TRIP_T", 1.0, 13.0, "level 1 Tms"),
    ("over_voltage.must.1.0", "OV2_TRIP_V", 1.20, 1.20, "level 2 V"),
    ("over_voltage.must.1.1", "OV2_TRIP_T", 0.16, 0.16, "level 2 Tms"),
    ("under_frequency.must.0.0", "UF1_TRIP_F", 56.5, 59.0, "level 1 Hz|level 2"),
    ("under_frequency.must.0.1", "UF1_TRIP_T", 180.0, 1000.0, "level 1 Tms"),
    ("under_frequency.must.1.0", "UF2_TRIP_F", 50.0, 57.0, "level 2 Hz"),
    ("under_frequency.must.1.1", "UF2_TRIP_T", 0.16, 300.0, "level 2 Tms"),
    ("over_frequency.must.0.0", "OF1_TRIP_F", 61.0, 62.0, "level 1 Hz|level 2"),
    ("over_frequency.must.0.1", "OF1_TRIP_T", 180.0, 1000.0, "level 1 Tms"),
    ("over_frequency.must.1.0", "OF2_TRIP_F", 61.8, 66.0, "level 2 Hz"),
    ("over_frequency.must.1.1", "OF2_TRIP_T", 0.16, 300.0, "level 2 Tms"),
]
"""Path, OpenDER's name, range with the rest at its default in categories B and III, what the message says.
Where our range is narrower because level 2 must not be nearer than level 1, the witness takes more."""

NARROWER = {"UV1_TRIP_V", "UF1_TRIP_F", "OF1_TRIP_F", "UF2_TRIP_T", "OF2_TRIP_T"}


@pytest.mark.parametrize(("path", "theirs", "low", "high", "says"), RANGES, ids=[row[0] for row in RANGES])
def test_ranges(
    path: str, theirs: str, low: float, high: float, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    profile = device()
    settings = default_settings(profile)
    for value in (low, high):
        check(put(settings, path, value), profile)
    outside = (low - 1e-4, high + 1e-4)
    for value in outside:
        with pytest.raises(SettingError, match=says) as caught:
            check(put(settings, path, value), profile)
        assert "found" in str(caught.value)
        assert "allowed" in str(caught.value)
    if not theirs:
        return
    witness = opender()
    caplog.set_level(logging.WARNING)
    inside = (low, high) if low == high else (low + 1e-6, high - 1e-6)
    for value, warns in [(v, False) for v in inside] + [(v, True) for v in outside]:
        if warns and theirs in NARROWER:
            continue
        caplog.clear()
        setattr(witness, theirs, value)
        assert bool(caplog.records) == warns, (value, caplog.text)


def numbers(settings: Any, path: str = "") -> list[str]:
    """Return the paths of all numbers in settings."""
    if isinstance(settings, float):
        return [path]
    if isinstance(settings, tuple):
        return [p for i, item in enumerate(settings) for p in numbers(item, f"{path}.{i}")]
    if dataclasses.is_dataclass(settings):
        found = [numbers(getattr(settings, f.name), f"{path}.{f.name}") for f in dataclasses.fields(settings)]
        return [p for paths in found for p in paths]
    return []


EVERY = [path.lstrip(".") for path in numbers(default_settings(device()))]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e5, -1e5])
@pytest.mark.parametrize("path", EVERY)
def test_no_number_escapes(path: str, wrong: float) -> None:
    profile = device()
    with pytest.raises(SettingError, match=r"found.*allowed"):
        check(put(default_settings(profile), path, wrong), profile)


@pytest.mark.parametrize("abnormal", ["I", "II"])
def test_categories_one_and_two_are_narrower(abnormal: str) -> None:
    profile = device(grid={"abnormal": abnormal})
    settings = default_settings(profile)
    for path, limit, beyond in (
        ("under_voltage.must.0.1", 21.0, 21.1),
        ("under_voltage.must.1.1", 2.0, 2.1),
        ("droop.droop_frac_over", 0.03, 0.029),
        ("droop.response_s", 1.0, 0.9),
    ):
        check(put(settings, path, limit), profile)
        with pytest.raises(SettingError):
            check(put(settings, path, beyond), profile)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            "volt_var.points",
            ((0.92, 0.44), (1.0, 0.0), (1.08, -0.44)),
            "volt-var.*ActPt: found 3 points; allowed is 4",
        ),
        ("volt_watt.points", ((1.06, 1.0),), "volt-watt.*found 1 points; allowed is 2"),
        ("watt_var.absorb", (), "watt-var.*absorbing, ActPt: found 0 points; allowed is 3"),
        ("under_voltage.must", ((0.88, 21.0),), "under-voltage.*MustTrip, ActPt: found 1 points"),
        ("over_voltage.may", ((1.1, 12.0),), "over-voltage.*MayTrip, ActPt: found 1 points"),
        ("volt_var.points.1.1", -0.1, r"Pt\[3\].Var: found 0; allowed is -0.44 to -0.1 .*falling"),
        ("volt_var.var_base", "watts", "DeptRef: found 'watts'; allowed are w_max, var_max, va_max"),
        ("pf.inject.excitation", "none", "PFWInj.Ext: found 'none'; allowed are over, under"),
        ("pf.absorb.factor", 0.0, "PFWAbs.PF: found 0; allowed is 0.01 to 1"),
        ("var.var_var", 2700.0, "VarSet: found 2700 var; allowed is -2640 to 2640 var"),
        ("under_frequency.cease", 57.0, "MomCess: found 57 Hz; allowed is none"),
        ("under_voltage.cease", 0.9, "MomCess, V: found 0.9 pu; allowed is 0 to 0.88 pu"),
        ("over_voltage.may.1.0", 1.05, "MayTrip, level 2 V: found 1.05"),
        ("under_voltage.may.1.1", 20.5, "MayTrip, level 2 Tms: found 20.5 s; allowed is at most 20 s"),
        ("enter.random_s", 0.5, "ESRndTms: found 0.5 s; allowed is 1 to 1000 s"),
    ],
)
def test_refusals_name_point_finding_and_range(path: str, value: Any, says: str) -> None:
    profile = device()
    with pytest.raises(DeviceError, match=says):
        check(put(default_settings(profile), path, value), profile)


def test_two_volt_var_points_at_one_voltage_must_agree() -> None:
    profile = device(grid={"normal": "A"})
    settings = put(default_settings(profile), "volt_var.points.1.1", 0.1)
    with pytest.raises(SettingError, match="no steps"):
        check(settings, profile)
    check(put(settings, "volt_var.points.2.1", 0.1), profile)


def test_big_device_has_no_random_delay() -> None:
    profile = device(apparent_va_max=600e3)
    with pytest.raises(SettingError, match="above 500 kVA"):
        check(put(default_settings(profile), "enter.random_s", 5.0), profile)


def test_one_reactive_function_at_a_time() -> None:
    profile = device()
    settings = default_settings(profile)
    switches = {
        "volt_var.enabled": "volt-var",
        "watt_var.enabled": "watt-var",
        "var.enabled": "constant var",
    }
    for path, name in switches.items():
        on = put(settings, path, True)
        check(on, profile)  # beside the factory's power factor of 1, which asks for nothing
        with pytest.raises(SettingError, match=f"{name}.* and .*power factor"):
            check(put(on, "pf.absorb.factor", 0.9), profile)
        for other in switches.keys() - {path}:
            with pytest.raises(SettingError, match="one function at a time"):
                check(put(on, other, True), profile)
