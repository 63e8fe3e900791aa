from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil import units
from ridethrough.hil.units import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS, TICK_NS

anything = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
)


@given(st.integers(0, 10**6 * DAY_NS))
def test_durations_read_back_exactly(length_ns: int) -> None:
    assert units.parse_duration(units.duration_text(length_ns)) == length_ns


@given(st.integers(0, 1000 * DAY_NS - 1))
def test_instants_read_back_exactly(instant_ns: int) -> None:
    assert units.parse_instant(units.instant_text(instant_ns)) == instant_ns


@given(st.integers(0, 99_999), st.integers(0, 999), st.sampled_from(sorted(units.UNIT_NS)))
def test_decimal_durations_are_exact(whole: int, thousandths: int, unit: str) -> None:
    expected = Fraction(whole * 1000 + thousandths, 1000) * units.UNIT_NS[unit]
    text = f"{whole}.{thousandths:03d}{unit}"
    if expected.denominator == 1:
        assert units.parse_duration(text) == expected
    else:
        with pytest.raises(ScenarioError, match="whole nanoseconds"):
            units.parse_duration(text)


@given(anything)
def test_no_parser_fails_in_any_other_way_than_a_scenario_error(value: object) -> None:
    parsers = (
        units.parse_duration,
        units.parse_instant,
        units.parse_ratio,
        units.parse_power_w,
        units.parse_zone,
        units.parse_date_time,
    )
    for parse in parsers:
        message = ""
        try:
            assert parse(value) is not None
        except ScenarioError as error:
            message = str(error)
        assert not message or re.match("(?s)found .*; allowed ", message)


@pytest.mark.parametrize(
    ("text", "length_ns"),
    [
        ("90s", 90 * SECOND_NS),
        ("15min", 15 * MINUTE_NS),
        ("8h", 8 * HOUR_NS),
        ("1d", DAY_NS),
        ("80ms", 80_000_000),
        ("1.5h", 90 * MINUTE_NS),
        ("90 s", 90 * SECOND_NS),
        ("0s", 0),
    ],
)
def test_durations(text: str, length_ns: int) -> None:
    assert units.parse_duration(text) == length_ns


@pytest.mark.parametrize(
    "value", [90, 1.5, "90", "90 sec", "s", "-5s", "1e3s", "1_0s", "", None, True, "5m", "٣s"]
)
def test_durations_refused(value: object) -> None:
    with pytest.raises(ScenarioError, match="allowed a duration such as 90s"):
        units.parse_duration(value)


@pytest.mark.parametrize(
    ("text", "instant_ns"),
    [
        ("17:30", 17 * HOUR_NS + 30 * MINUTE_NS),
        ("17:30:05", 17 * HOUR_NS + 30 * MINUTE_NS + 5 * SECOND_NS),
        ("7:05", 7 * HOUR_NS + 5 * MINUTE_NS),
        ("1d 02:00", DAY_NS + 2 * HOUR_NS),
        ("00:00:00.02", TICK_NS),
    ],
)
def test_instants(text: str, instant_ns: int) -> None:
    assert units.parse_instant(text) == instant_ns


@pytest.mark.parametrize("value", ["24:00", "17:60", "17", 63000, "1d02:00", "17:30 ", "-1:00", None])
def test_instants_refused(value: object) -> None:
    with pytest.raises(ScenarioError, match="allowed a time of day"):
        units.parse_instant(value)


@given(st.integers(0, 10**9).map(lambda k: k * 1_000_000))
def test_only_whole_ticks_pass_and_the_nearest_is_offered(length_ns: int) -> None:
    rule = units.duration("0s", "366d")
    text = units.duration_text(length_ns)
    if length_ns % TICK_NS == 0:
        assert rule.parse(text) == length_ns
        return
    with pytest.raises(ScenarioError) as caught:
        rule.parse(text)
    nearest_ns = units.parse_duration(str(caught.value).rsplit("nearest ", 1)[1])
    assert nearest_ns % TICK_NS == 0
    assert abs(nearest_ns - length_ns) <= TICK_NS / 2 or (nearest_ns == TICK_NS and length_ns < TICK_NS)


def test_an_instant_between_ticks_names_the_nearest() -> None:
    with pytest.raises(ScenarioError, match=r"multiples of 20ms, nearest 18:05:00\.04"):
        units.instant().parse("18:05:00.03")


@given(st.integers(0, 1000))
def test_percent_and_fraction_agree(thousandths: int) -> None:
    expected = float(Fraction(thousandths, 1000))
    assert units.parse_ratio(f"{Fraction(thousandths, 10).__float__()}%") == expected
    assert units.parse_ratio(expected) == expected


@pytest.mark.parametrize("value", [5, "5", -0.1, "101%", "-1%", float("nan"), float("inf"), True, "%"])
def test_ratios_refused(value: object) -> None:
    with pytest.raises(ScenarioError, match="allowed a share from 0 to 1, or from 0% to 100%"):
        units.parse_ratio(value)


def test_powers() -> None:
    assert [units.parse_power_w(text) for text in (900, "900W", "2kW", "2.5 kW", "1MW", 0.5)] == [
        900.0,
        900.0,
        2000.0,
        2500.0,
        1e6,
        0.5,
    ]
    for wrong in ("2 kilowatts", "kW", True, None, "2 kWh"):
        with pytest.raises(ScenarioError, match="allowed a power"):
            units.parse_power_w(wrong)
    for value in (-1, float("nan"), float("inf"), "20MW"):
        with pytest.raises(ScenarioError, match="allowed 0 W to"):
            units.power_w(0, 1e7).parse(value)


def test_zones() -> None:
    noon = datetime(2024, 7, 1, 12)
    assert noon.replace(tzinfo=units.parse_zone("America/Chicago")).utcoffset() == timedelta(hours=-5)
    assert noon.replace(tzinfo=units.parse_zone("-06:30")).utcoffset() == timedelta(hours=-6.5)
    for value in ("America/Chicgo", "../etc/passwd", "/etc/passwd", "", 5, None, "a\0b"):
        with pytest.raises(ScenarioError, match="allowed a time zone such as UTC"):
            units.parse_zone(value)
    with pytest.raises(ScenarioError, match="did you mean 'America/Chicago'"):
        units.parse_zone("America/Chicgo")


@given(st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1)).map(lambda t: t.replace(microsecond=0)))
def test_local_times_become_utc_as_the_calendar_says(when: datetime) -> None:
    zone = units.parse_zone("America/Chicago")
    if when.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) != when:
        with pytest.raises(ScenarioError, match="does not exist"):
            units.utc_ns(when, zone)
        return
    assert units.utc_ns(when, zone) == round(when.replace(tzinfo=zone).timestamp()) * SECOND_NS


def test_the_hour_clocks_jump_over_is_refused() -> None:
    with pytest.raises(ScenarioError, match="2025-03-09 02:30, which does not exist in America/Chicago"):
        units.utc_ns(datetime(2025, 3, 9, 2, 30), units.parse_zone("America/Chicago"))


@given(st.text())
def test_braces_in_user_text_are_shown_and_not_expanded(text: str) -> None:
    adapter: TypeAdapter[int] = TypeAdapter(Annotated[int, units.duration("0s", "1d")])
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python("{x}" + text)
    assert "found '{x}" in caught.value.errors()[0]["msg"] or 'found "{x}' in caught.value.errors()[0]["msg"]


def test_values_are_shown_as_in_the_file() -> None:
    assert [units.shown(value) for value in (None, True, {}, {"a": 1}, [], [1], "x", 1.5)] == [
        "nothing",
        "true",
        "an empty mapping",
        "a mapping",
        "an empty list",
        "a list",
        "'x'",
        "1.5",
    ]
    assert len(units.shown("y" * 500)) == 60
