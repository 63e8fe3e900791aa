"""Quantities as users write them, and as the program keeps them.

Duty: turn ``90s``, ``17:30``, ``0.1%`` and ``2kW`` into integer nanoseconds, fractions and watts, and back.
Rules: a duration without a unit is refused, never guessed; arithmetic is exact (decimal in, integer out);
what falls between two ticks of the plant is refused; every error says what was found and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.fields import TICKS_PER_S

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
TICK_NS = SECOND_NS // TICKS_PER_S
"""The plant moves in steps of this length; nothing can happen between two of them [ns]."""

UNIT_NS = {
    "d": DAY_NS,
    "h": HOUR_NS,
    "min": MINUTE_NS,
    "s": SECOND_NS,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
"""Units of duration, longest first [ns]."""

_DURATION = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?) ?(d|h|min|s|ms|us|ns)")
_INSTANT = re.compile(
    r"(?:([0-9]{1,3})d )?([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9](?:\.[0-9]{1,9})?))?"
)
_NUMBER = r"([+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?)"
_PERCENT = re.compile(_NUMBER + r" ?%")
_POWER = re.compile(_NUMBER + r" ?(W|kW|MW)")
_POWER_W = {"W": 1, "kW": 1000, "MW": 1_000_000}
_OFFSET = re.compile(r"([+-])([01][0-9]):([0-5][0-9])")

DURATION_FORM = "a duration such as 90s, 15min, 8h, 1d or 80ms"
INSTANT_FORM = "a time of day such as 17:30 or 17:30:05, or '1d 02:00' for 02:00 on the day after the start"


def shown(value: object, length_max: int = 60) -> str:
    """Return `value` as a user would recognise it from their file, cut to `length_max` characters."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def did_you_mean(word: str, known: list[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` when one of `known` is close to `word`, else an empty string."""
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse_duration(value: object) -> int:
    """Return the length of a duration such as ``90s`` [ns].

    Raises
    ------
    ScenarioError
        When `value` is not a number followed by one known unit, or not a whole number of nanoseconds.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ScenarioError(f"found {shown(value)}; allowed {DURATION_FORM}")
    length_ns = Decimal(match[1]) * UNIT_NS[match[2]]
    if length_ns != int(length_ns) or length_ns > 10**6 * DAY_NS:
        raise ScenarioError(f"found {shown(value)}; allowed whole nanoseconds up to 1000000d")
    return int(length_ns)


def duration_text(length_ns: int) -> str:
    """Return the shortest text that `parse_duration` reads as `length_ns`."""
    for unit, unit_ns in UNIT_NS.items():
        if length_ns and length_ns % unit_ns == 0:
            return f"{length_ns // unit_ns}{unit}"
    return "0s"


def parse_instant(value: object) -> int:
    """Return a time of day, ``17:30`` or ``1d 02:00``, counted from midnight of the start day [ns].

    Raises
    ------
    ScenarioError
        When `value` is not written so.
    """
    match = _INSTANT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ScenarioError(f"found {shown(value)}; allowed {INSTANT_FORM}")
    days, hours, minutes, seconds = (Decimal(part or 0) for part in match.groups())
    return int(days * DAY_NS + hours * HOUR_NS + minutes * MINUTE_NS + seconds * SECOND_NS)


def instant_text(instant_ns: int) -> str:
    """Return ``18:05:00``, or ``1d 02:00:00`` on a later day, for a time counted from midnight [ns]."""
    days, rest_ns = divmod(instant_ns, DAY_NS)
    seconds, fraction_ns = divmod(rest_ns, SECOND_NS)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    if fraction_ns:
        text += f".{fraction_ns:09d}".rstrip("0")
    return f"{days}d {text}" if days else text


def parse_ratio(value: object) -> float:
    """Return a share written as ``5%`` or ``0.05``, from 0 to 1.

    Raises
    ------
    ScenarioError
        When `value` is neither, or lies outside 0 to 1.
    """
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    ratio = float(Decimal(match[1]) / 100) if match else _plain_number(value)
    if ratio is None or not 0.0 <= ratio <= 1.0:
        raise ScenarioError(f"found {shown(value)}; allowed a share from 0 to 1, or from 0% to 100%")
    return ratio


def parse_power_w(value: object) -> float:
    """Return a power written as ``900``, ``900W`` or ``2kW`` [W].

    Raises
    ------
    ScenarioError
        When `value` is not written so.
    """
    match = _POWER.fullmatch(value) if isinstance(value, str) else None
    power_w = float(Decimal(match[1]) * _POWER_W[match[2]]) if match else _plain_number(value)
    if power_w is None:
        raise ScenarioError(f"found {shown(value)}; allowed a power such as 900 (watts), 900W or 2kW")
    return power_w


def _plain_number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def parse_zone(value: object) -> tzinfo:
    """Return a time zone named ``America/Chicago`` or given as a fixed offset ``-06:00``.

    Raises
    ------
    ScenarioError
        When there is no such zone.
    """
    if isinstance(value, str) and (match := _OFFSET.fullmatch(value)):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(-offset if match[1] == "-" else offset)
    try:
        if isinstance(value, str):
            return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass  # a zone name is looked up as a path: a strange one fails in several ways
    hint = did_you_mean(value, sorted(available_timezones())) if isinstance(value, str) else ""
    raise ScenarioError(
        f"found {shown(value)}{hint}; allowed a time zone such as UTC or America/Chicago, "
        "or a fixed offset such as '-06:00'"
    )


def parse_date_time(value: object) -> datetime:
    """Return a date and time without zone, ``2024-08-01 06:00``.

    Raises
    ------
    ScenarioError
        When `value` is not written so.
    """
    for form in ("%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"):
        try:
            if isinstance(value, str):
                return datetime.strptime(value.replace("T", " "), form)
        except ValueError:
            continue
    raise ScenarioError(f"found {shown(value)}; allowed a date and time such as '2024-08-01 06:00'")


def utc_ns(when: datetime, zone: tzinfo, fold: int = 0) -> int:
    """Return a local date and time as nanoseconds since 1970-01-01 UTC.

    Parameters
    ----------
    when : datetime
        Without zone; whole seconds.
    zone : tzinfo
        Its zone.
    fold : int
        1 for the second of two equal local times when clocks go back.

    Raises
    ------
    ScenarioError
        When clocks jumped over this time.
    """
    local = when.replace(tzinfo=zone, fold=fold)
    since = local - datetime(1970, 1, 1, tzinfo=UTC)
    back = (datetime(1970, 1, 1, tzinfo=UTC) + since).astimezone(zone)
    if back.replace(tzinfo=None) != when:
        raise ScenarioError(
            f"found {when:%Y-%m-%d %H:%M}, which does not exist in {zone}: clocks go forward there; allowed "
            "times that exist, or a fixed offset such as '-06:00' as time_zone if the data ignore summer time"
        )
    return (since.days * 86_400 + since.seconds) * SECOND_NS


@dataclass(frozen=True, eq=False)  # compared by identity: typing hashes what stands in Annotated
class Written:
    """Tells pydantic how one quantity is read from a file, written back, and described to editors.

    Attributes
    ----------
    parse : callable
        From what the file holds to what the program keeps; raises ScenarioError.
    write : callable
        Back again, for JSON and YAML.
    schema : dict
        JSON Schema of the written form.
    """

    parse: Callable[[object], Any]
    write: Callable[[Any], Any]
    schema: dict[str, Any]

    def _validate(self, value: object) -> Any:
        try:
            return self.parse(value)
        except ScenarioError as error:
            # The text goes in as a value: braces in what the user wrote must not be read as a template.
            raise PydanticCustomError("quantity", "{text}", {"text": str(error)}) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(self.write, when_used="json"),
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


def duration(low: str, high: str, *, ticks: bool = True) -> Written:
    """Describe a duration from `low` to `high`; with `ticks`, a whole number of the plant's 20 ms steps."""
    low_ns, high_ns = parse_duration(low), parse_duration(high)

    def parse(value: object) -> int:
        length_ns = parse_duration(value)
        if not low_ns <= length_ns <= high_ns:
            raise ScenarioError(f"found {shown(value)}; allowed {low} to {high}")
        if ticks:
            _check_ticks(value, length_ns, duration_text)
        return length_ns

    form = f"{DURATION_FORM}, from {low} to {high}"
    return Written(
        parse, duration_text, {"type": "string", "pattern": _whole(_DURATION), "description": form}
    )


def instant() -> Written:
    """Describe a time of day on a whole number of the plant's 20 ms steps."""

    def parse(value: object) -> int:
        instant_ns = parse_instant(value)
        _check_ticks(value, instant_ns, instant_text)
        return instant_ns

    return Written(
        parse, instant_text, {"type": "string", "pattern": _whole(_INSTANT), "description": INSTANT_FORM}
    )


def _check_ticks(value: object, time_ns: int, text: Callable[[int], str]) -> None:
    below_ns = time_ns // TICK_NS * TICK_NS
    if below_ns == time_ns:
        return
    above_ns = below_ns + TICK_NS
    nearest_ns = below_ns if time_ns - below_ns < above_ns - time_ns and below_ns else above_ns
    raise ScenarioError(
        f"found {shown(value)}; allowed multiples of {duration_text(TICK_NS)}, nearest {text(nearest_ns)}"
    )


def ratio(low: float = 0.0) -> Written:
    """Describe a share from `low` to 1, also written in percent."""

    def parse(value: object) -> float:
        share = parse_ratio(value)
        if share < low:
            raise ScenarioError(f"found {shown(value)}; allowed a share from {low:g} to 1")
        return share

    number = {"type": "number", "minimum": low, "maximum": 1}
    text = {"type": "string", "pattern": _whole(_PERCENT)}
    return Written(parse, float, {"anyOf": [number, text], "description": "a share: 0.05 or 5%"})


def power_w(low: float, high: float) -> Written:
    """Describe a power from `low` to `high` [W]."""

    def parse(value: object) -> float:
        power = parse_power_w(value)
        if not low <= power <= high:
            raise ScenarioError(f"found {shown(value)}; allowed {low:g} W to {high:g} W")
        return power

    number = {"type": "number", "minimum": low, "maximum": high}
    text = {"type": "string", "pattern": _whole(_POWER)}
    return Written(
        parse, float, {"anyOf": [number, text], "description": "a power: 900 (watts), 900W or 2kW"}
    )


def checked_text(check: Callable[[object], object], form: str) -> Written:
    """Describe a text that is kept as written once `check` has accepted it."""

    def parse(value: object) -> str:
        check(value)
        return str(value)

    return Written(parse, str, {"type": "string", "description": form})


def _whole(pattern: re.Pattern[str]) -> str:
    return f"^(?:{pattern.pattern})$"
