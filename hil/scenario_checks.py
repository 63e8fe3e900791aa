"""The rules between the parts of a scenario: what no single field can check.

Duty: times inside the run, targets that exist, names that differ, devices that are known, sizes that fit in
memory.
Rule: works on the file's raw content, so that its findings stand beside those of pydantic in one message
however broken the file is.  A part that is itself malformed is passed over here: pydantic reports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from ridethrough.emulator.errors import InvariantError, ScenarioError
from ridethrough.emulator.feeder import Feeder
from ridethrough.emulator.profile import DeviceProfile

from .fault_files import FOR
from .faults import AT, TARGET
from .mistakes import Finding
from .scenario import (
    CELLS_MAX,
    DEVICES_MAX,
    START_DEFAULT,
    Count,
    Group,
    Roster,
    Scenario,
    TransformerSpec,
    mapping,
    start_of_day_ns,
)
from .units import DAY_NS, MINUTE_NS, Written, instant_text, parse_date_time, parse_zone, shown, utc_ns
from .yamltree import Place


def _read(annotation: Any, value: object) -> Any:
    """Return `value` read as `annotation`, or None when it cannot be."""
    try:
        return TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        return None


def _field(model: type[BaseModel], name: str, value: object) -> Any:
    field = model.model_fields[name]
    if field.metadata and isinstance(field.metadata[0], Written):
        return _read(Annotated[Any, field.metadata[0]], value)
    return _read(field.annotation, value)


def check_scenario(
    data: object,
    load_device: Callable[[str], DeviceProfile],
    load_feeder: Callable[[str | TransformerSpec, int], Feeder],
) -> Iterator[Finding]:
    """Check what no single field can: between the parts of a scenario, and against the profiles it names.

    Parameters
    ----------
    data : object
        The file's content as plain data; parts of it may be wrong in any way.
    load_device : callable
        Returns the profile a device name stands for, or raises ScenarioError.
    load_feeder : callable
        Returns a feeder for so many devices, or raises ScenarioError.

    Yields
    ------
    Finding
        Place, and what was found and is allowed.
    """
    raw = mapping(data)
    groups = raw.get("pool")
    groups = [mapping(group) for group in groups] if isinstance(groups, list | tuple) else []
    yield from _check_devices(groups, load_device)
    yield from _check_files(raw, groups)
    known = _known_groups(groups)
    length_ns = _field(Scenario, "duration", raw.get("duration"))
    if known is not None:
        total = sum(count for count, _ in known)
        if total > DEVICES_MAX:
            yield ("pool",), f"found {total} devices; allowed at most {DEVICES_MAX}"
            return
        if length_ns is not None and total * -(-length_ns // MINUTE_NS) > CELLS_MAX:
            yield (
                ("duration",),
                f"found {total} devices for {shown(raw['duration'])}; allowed at most {CELLS_MAX} "
                "load values (devices times minutes)",
            )
    people = Roster(known) if known else None
    if people is not None and (twice := people.duplicates()):
        yield ("pool",), f"found {', '.join(twice[:5])} as a name more than once; allowed names that differ"
    yield from _check_feeder(raw, people, load_feeder)
    yield from _check_community(raw, groups, people, load_device)
    yield from _check_events(raw, length_ns, people)
    yield from _check_storm(mapping(raw.get("storm")), raw, length_ns, people)


def _known_groups(groups: Sequence[Mapping[str, Any]]) -> list[tuple[int, str | None]] | None:
    """Return (count, name) of each group, or None when one of them cannot be known."""
    result = []
    for group in groups:
        count, name = _read(Count, group.get("count", 1)), group.get("name")
        misspelt = set(group) - set(Group.model_fields)
        if (
            count is None
            or not isinstance(name, str | None)
            or (misspelt and not {"count", "name"} <= set(group))
        ):
            return None
        result.append((count, name))
    return result


def _check_devices(
    groups: Sequence[Mapping[str, Any]], load_device: Callable[[str], DeviceProfile]
) -> Iterator[Finding]:
    for number, group in enumerate(groups):
        device = group.get("device")
        if not isinstance(device, str) or not device:
            continue
        try:
            profile = load_device(device)
        except ScenarioError as error:
            yield ("pool", number, "device"), str(error)
            continue
        low, high = profile.battery.soc_frac_min, profile.battery.soc_frac_max
        soc = _field(Group, "soc", group.get("soc", 0.9))
        if soc is not None and not low <= soc <= high:
            place = ("pool", number, "soc") if "soc" in group else ("pool", number)
            yield place, f"found initial soc {soc:g}; allowed {low:g} to {high:g} for {device}"


def _check_files(raw: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Check that data with dates meets a scenario with a date, and that the start exists in its zone."""
    places: list[tuple[Place, object, int | None]] = [(("prices",), raw.get("prices"), None)]
    for number, group in enumerate(groups):
        count = _read(Count, group.get("count", 1))
        places.append((("pool", number, "load"), group.get("load"), count))
        source = mapping(group.get("pv")).get("source")
        places.append((("pool", number, "pv", "source"), source, count))
    start = _field(Scenario, "start", raw.get("start", START_DEFAULT))
    zone = _field(Scenario, "time_zone", raw.get("time_zone", "UTC"))
    dated = start is not None and "-" in start
    if dated and zone is not None:
        try:
            utc_ns(parse_date_time(start), parse_zone(zone))
        except ScenarioError as error:
            yield ("start",), str(error)
    for path, series, count in places:
        if not isinstance(series, Mapping) or "file" not in series:
            continue
        if start is not None and not dated:
            text = (
                f"found a data file but start {shown(start)}; allowed a start with a date: '2024-08-01 06:00'"
            )
            yield path, text
        column = series.get("column")
        if isinstance(column, list | tuple) and count is not None and len(column) != count:
            yield (
                (*path, "column"),
                f"found {len(column)} columns; allowed one for each of the group's {count} devices",
            )


def _check_feeder(
    raw: Mapping[str, Any],
    people: Roster | None,
    load_feeder: Callable[[str | TransformerSpec, int], Feeder],
) -> Iterator[Finding]:
    """Check that a feeder that is named exists, is sound, and has a place for every device."""
    name = raw.get("feeder")
    if not isinstance(name, str) or not name:
        return
    try:
        load_feeder(name, 1 if people is None else len(people.names))
    except ScenarioError as error:
        yield ("feeder",), str(error)


def _check_community(
    raw: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    people: Roster | None,
    load_device: Callable[[str], DeviceProfile],
) -> Iterator[Finding]:
    """Check that a community island has one master, and members that can run beside it."""
    spec = raw.get("community")
    if spec is None:
        for number, group in enumerate(groups):
            if group.get("community", "own") in ("support", "served"):
                text = f"found {shown(group['community'])} without a community island"
                yield (
                    ("pool", number, "community"),
                    f"{text}; allowed own, or a top-level community: {{master: ...}}",
                )
        return
    master = mapping(spec).get("master")
    if people is None or not isinstance(master, str):
        return
    try:
        rows = people.rows(master)
    except ScenarioError as error:
        yield ("community", "master"), str(error)
        return
    if len(rows) != 1:
        text = f"found {shown(master)}, which is {len(rows)} devices; allowed the name of one device"
        yield ("community", "master"), text
        return
    profiles = _profiles(groups, load_device)
    leader = profiles[_group_of(groups, rows[0])]
    if leader is None:
        return
    if not leader.island.capable:
        text = f"found {shown(master)}, a {leader.profile}, which cannot island; allowed a device that can"
        yield ("community", "master"), text
    for number, (group, profile) in enumerate(zip(groups, profiles, strict=True)):
        if profile is None or group.get("community", "own") == "own":
            continue
        if profile.face.frequency_hz != leader.face.frequency_hz:
            text = f"found a device for {profile.face.frequency_hz} Hz; allowed {leader.face.frequency_hz} Hz"
            yield ("pool", number, "community"), f"{text} as the master's, or community: own"


def _profiles(
    groups: Sequence[Mapping[str, Any]], load_device: Callable[[str], DeviceProfile]
) -> list[DeviceProfile | None]:
    """Return the profile of each group; None where it cannot be had, which is told elsewhere."""
    found: list[DeviceProfile | None] = []
    for group in groups:
        try:
            found.append(load_device(str(group.get("device"))))
        except ScenarioError:
            found.append(None)
    return found


def _group_of(groups: Sequence[Mapping[str, Any]], row: int) -> int:
    """Return which group a device is in."""
    for number, group in enumerate(groups):
        row -= int(group.get("count", 1))
        if row < 0:
            return number
    raise InvariantError(f"no group holds device {row}")


def _check_events(raw: Mapping[str, Any], length_ns: int | None, people: Roster | None) -> Iterator[Finding]:
    events = raw.get("events")
    if not isinstance(events, list | tuple):
        return
    start = _field(Scenario, "start", raw.get("start", START_DEFAULT))
    begin_ns = start_of_day_ns(start) if start is not None else None
    for number, event in enumerate(mapping(event) for event in events):
        at_ns = _read(Annotated[Any, AT], event.get("at"))
        for_ns = _read(Annotated[Any, FOR], event.get("for"))
        target = _read(Annotated[Any, TARGET], event.get("target"))
        if at_ns is not None and begin_ns is not None and length_ns is not None:
            yield from _check_time(number, at_ns, for_ns, begin_ns, length_ns)
        if target is not None and people is not None:
            try:
                people.rows(target)
            except ScenarioError as error:
                yield ("events", number, "target"), str(error)


def _check_storm(
    storm: Mapping[str, Any], raw: Mapping[str, Any], length_ns: int | None, people: Roster | None
) -> Iterator[Finding]:
    """Check that a storm ends inside the run, and that its core is in the pool and not all of it."""
    until_ns = _read(Annotated[Any, AT], storm.get("until"))
    start = _field(Scenario, "start", raw.get("start", START_DEFAULT))
    if until_ns is not None and start is not None and length_ns is not None:
        begin_ns = start_of_day_ns(start)
        if not begin_ns < until_ns < begin_ns + length_ns:
            span = f"{instant_text(begin_ns)} to {instant_text(begin_ns + length_ns)}"
            yield (
                ("storm", "until"),
                f"found {instant_text(until_ns)}; allowed times between start and end of the run: {span}",
            )
    core = _read(Annotated[Any, TARGET], storm.get("core"))
    if core is None or people is None:
        return
    try:
        rows = people.rows(core)
    except ScenarioError as error:
        yield ("storm", "core"), str(error)
        return
    if len(rows) == len(people.names) and storm.get("permanent"):
        yield ("storm", "core"), f"found all {len(rows)} devices; allowed one less, to have a permanent fault"


def _check_time(
    number: int, at_ns: int, for_ns: int | None, begin_ns: int, length_ns: int
) -> Iterator[Finding]:
    end_ns = begin_ns + length_ns
    span = f"the run lasts from {instant_text(begin_ns)} to {instant_text(end_ns)}"
    if at_ns < begin_ns:
        nearest = f"; the next day's is '{instant_text(at_ns + DAY_NS)}'" if at_ns + DAY_NS < end_ns else ""
        text = f"found {instant_text(at_ns)}, before the start; allowed times inside the run: {span}{nearest}"
        yield ("events", number, "at"), text
    elif at_ns >= end_ns:
        text = f"found {instant_text(at_ns)}, after the end; allowed times inside the run: {span}"
        yield ("events", number, "at"), text
    elif for_ns is not None and at_ns + for_ns > end_ns:
        text = f"found an end at {instant_text(at_ns + for_ns)}; allowed an end inside the run: {span}"
        yield ("events", number, "for"), text
