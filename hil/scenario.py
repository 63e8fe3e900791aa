"""What users write: the shape of a scenario.

Duty: the pydantic models of a scenario file, its JSON Schema, and who is in its pool.
Rules: a scenario is immutable; nothing is read from disk here; every number has bounds.  The rules between
the parts are in `scenario_checks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag, model_validator
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.profile import TRANSFER_S

from .fault_params import check_latency
from .faults import TARGET, AnyEvent, Target, catalogue, event_schema
from .units import (
    DAY_NS,
    MINUTE_NS,
    SECOND_NS,
    Written,
    checked_text,
    did_you_mean,
    duration,
    instant,
    parse_date_time,
    parse_duration,
    parse_instant,
    parse_zone,
    power_w,
    ratio,
    shown,
    utc_ns,
)

DEVICES_MAX = 10_000
CELLS_MAX = 40_000_000
"""Most load values (devices times minutes) of one world: 320 MB each for load and PV."""
START_DEFAULT = "00:00"
UNNAMED = "home"

Name = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="lower-case letters, digits and -")
]
Count = Annotated[int, Field(ge=1, le=DEVICES_MAX)]
Share = Annotated[float, ratio()]
Contract = Literal["support", "served", "own"]
FaultClass = Literal["comms", "telemetry", "device", "grid", "controller", "broker"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_start(value: object) -> None:
    text = value if isinstance(value, str) else ""
    time = text[11:] if "-" in text else text
    try:
        if "-" in text:
            parse_date_time(value)
        if parse_instant(time) % MINUTE_NS or parse_instant(time) >= DAY_NS:
            raise ScenarioError("not a whole minute of the first day")
    except ScenarioError:
        raise ScenarioError(
            f"found {shown(value)}; allowed a whole minute: a time of day such as '06:00', "
            "or a date and time such as '2024-08-01 06:00'"
        ) from None


Start = Annotated[
    str, checked_text(_check_start, "a time of day '06:00', or a date and time '2024-08-01 06:00'")
]
DateTime = Annotated[str, checked_text(parse_date_time, "a date and time such as '2024-08-01 06:00'")]
Zone = Annotated[str, checked_text(parse_zone, "a time zone such as America/Chicago, or an offset '-06:00'")]


class Regular(_Strict):
    """Times of a file that has no time column: equally spaced from a start."""

    start: DateTime
    step: Annotated[int, duration("1s", "1d", ticks=False)]


def _text_or_mapping(value: object) -> str:
    return "text" if isinstance(value, str) else "mapping"


class Series(_Strict):
    """Numbers read from a CSV or Parquet file beside the scenario.

    A row holds from its time to the time of the next row.
    """

    file: Annotated[str, Field(min_length=1, max_length=1000)]
    unit: str
    time: Annotated[
        Annotated[str, Tag("text")] | Annotated[Regular, Tag("mapping")], Discriminator(_text_or_mapping)
    ]
    """The time column, or start and step of a file without one."""
    time_zone: Zone | None = None
    """Of times without an offset; default: the scenario's."""
    fill: Literal["none", "hold", "zero", "interpolate"] = "none"
    """What stands in for missing values; `none` makes a gap an error."""
    scale: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] = 1.0


class HomeSeries(Series):
    """Numbers for each home of a group."""

    column: Annotated[
        Annotated[str, Tag("text")] | Annotated[tuple[str, ...], Field(min_length=1), Tag("mapping")],
        Discriminator(_text_or_mapping),
    ]
    """One column for all, one for each home, or a pattern with ``{i}``."""
    first: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """What ``{i}`` is for the first home of the group."""

    def columns(self, count: int) -> tuple[str, ...]:
        """Return the column of each of `count` homes; a plain name serves them all.

        Raises
        ------
        ScenarioError
            When a list of columns is not as long as the group.
        """
        if isinstance(self.column, tuple):
            if len(self.column) != count:
                raise ScenarioError(
                    f"found {len(self.column)} columns; allowed one for each of {count} devices"
                )
            return self.column
        return tuple(self.column.replace("{i}", str(self.first + k)) for k in range(count))


class LoadSeries(HomeSeries):
    """Household load from a file."""

    unit: Literal["W", "kW", "kWh/h"]


class PvSeries(HomeSeries):
    """PV generation from a file; ``W_per_kW`` is multiplied by the home's own peak power."""

    unit: Literal["W", "kW", "kWh/h", "W_per_kW"]


class PriceSeries(Series):
    """Market prices from a file."""

    unit: Literal["USD/MWh"]
    column: str
    """Real-time prices."""
    column_ahead: str | None = None
    """Day-ahead prices; without them nothing is published ahead."""


class ConstantPrice(_Strict):
    """One price all the time, known ahead."""

    constant: Annotated[float, Field(ge=-10_000, le=100_000, allow_inf_nan=False)]
    """[$/MWh]."""


def _transfer(value: object) -> float:
    if isinstance(value, str) and value in TRANSFER_S:
        return TRANSFER_S[value]
    try:
        length_ns = parse_duration(value)
    except ScenarioError:
        length_ns = -1
    if not 0 <= length_ns <= 3600 * SECOND_NS:
        raise ScenarioError(
            f"found {shown(value)}; allowed {', '.join(TRANSFER_S)}, or a duration up to 1h such as 200ms"
        )
    return length_ns / SECOND_NS


_TRANSFER = Written(
    _transfer,
    lambda transfer_s: f"{round(transfer_s * 1000)}ms",
    {"type": "string", "description": f"{', '.join(TRANSFER_S)}, or a duration such as 200ms"},
)


class CommitmentSpec(_Strict):
    """What each home of a group was promised."""

    hours: Annotated[float, Field(gt=0, le=168, allow_inf_nan=False)]
    """Hours of backup [h]."""
    load_w: Annotated[float, power_w(0, 1e7)]
    """Cap of the promised load [W]."""
    transfer: Annotated[float, _TRANSFER] | None = None
    """Longest dark time [s]; default: that of the device's class."""
    recovery: Annotated[int, duration("0s", "7d", ticks=False)] = 5 * MINUTE_NS
    """Time to begin restoring the reserve [ns]."""


def _load_kind(value: object) -> str:
    return "name" if isinstance(value, str) else "series"


class PvSpec(_Strict):
    """PV of a group."""

    w_peak: Annotated[float, power_w(0, 1e7)]
    """Peak power of one home [W]."""
    share: Share = 1.0
    """Share of the group's homes that have it, spread evenly."""
    source: Annotated[
        Annotated[Literal["synthetic"], Tag("name")] | Annotated[PvSeries, Tag("series")],
        Discriminator(_load_kind),
    ] = "synthetic"


class Group(_Strict):
    """Devices of one kind with one promise."""

    count: Count = 1
    name: Name | None = None
    device: Annotated[str, Field(min_length=1, max_length=1000)]
    """A bundled profile, or a profile file beside the scenario."""
    commitment: CommitmentSpec
    load: Annotated[
        Annotated[Literal["synthetic-home", "municipal-shelter"], Tag("name")]
        | Annotated[LoadSeries, Tag("series")],
        Discriminator(_load_kind),
    ]
    load_scale: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 1.0
    pv: PvSpec | None = None
    soc: Share = 0.9
    """Initial state of charge, of faded capacity."""
    soh: Annotated[float, ratio(low=0.1)] = 1.0
    """State of health: capacity now, of nominal."""
    backup_share: Share = 1.0
    """Share of the home's load behind the backup panel."""
    load_power_factor: Annotated[float, ratio(low=0.5)] = 1.0
    """Of the load, which takes reactive power."""
    ambient_c: Annotated[float, Field(ge=-40, le=60, allow_inf_nan=False)] = 25.0
    """Around the battery, all the time."""
    import_limit_w: Annotated[float, power_w(0, 1e7)] | None = None
    """Connection agreement at each meter; nothing enforces it, the judge observes it."""
    export_limit_w: Annotated[float, power_w(0, 1e7)] | None = None
    community: Contract = "own"
    """What each home does for a community island: gives and takes, is only served, or stays alone."""


class TransformerSpec(_Strict):
    """A feeder of which no more is known than its transformer; all homes are at its busbar."""

    transformer_kva: Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)]


class CommunitySpec(_Strict):
    """The community island: formed by one device, joined by homes one after another."""

    master: Name
    """The device that forms it."""
    isochronous: bool = False
    """The master holds the nominal frequency until it is at a limit."""
    join: Annotated[int, duration("0s", "1h")] = 60 * SECOND_NS
    """Stable island before anybody may join."""
    stagger: Annotated[int, duration("0s", "1h")] = 22 * SECOND_NS
    """Between one home and the next."""
    retry: Annotated[tuple[Annotated[int, duration("1s", "1d")], ...], Field(min_length=1, max_length=20)] = (
        10 * MINUTE_NS,
        20 * MINUTE_NS,
        40 * MINUTE_NS,
        120 * MINUTE_NS,
    )
    """Waits after each collapse, the last again and again."""


class Latency(_Strict):
    """One-way delay of messages."""

    mean: Annotated[int, duration("0s", "10min", ticks=False)] = 80_000_000
    p99: Annotated[int, duration("0s", "1h", ticks=False)] = 900_000_000

    @model_validator(mode="after")
    def _ordered(self) -> Latency:
        check_latency(self.mean, self.p99)
        return self


class CommsSpec(_Strict):
    """The network between controller and devices when no fault acts on it."""

    poll: Annotated[int, duration("20ms", "1h")] = 10 * SECOND_NS
    latency: Latency = Latency()
    loss: Share = 0.0
    timeout: Annotated[int, duration("20ms", "1h")] = 5 * SECOND_NS


class StormSpec(_Strict):
    """Random faults, drawn from the seed, and then a time to heal."""

    classes: Annotated[tuple[FaultClass, ...], Field(min_length=1)] = get_args(FaultClass)
    """Of the catalogue."""
    faults_per_hour: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 1.0
    """Of each class, on average."""
    until: Annotated[int, instant()] | None = None
    """When the storm ends, from midnight of the start day; default: after three quarters of the run [ns]."""
    core: Annotated[Target, TARGET] | None = None
    """Devices that no permanent fault meets."""
    permanent: Annotated[int, Field(ge=0, le=1000)] = 0
    """Faults of each class that begin in the storm and never end."""
    swarm: bool = True
    """Each seed leaves out each class with probability 1/2."""

    @model_validator(mode="after")
    def _once(self) -> StormSpec:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"found {', '.join(self.classes)} as classes; allowed each once")
        return self


def _price_kind(value: object) -> str:
    if isinstance(value, str):
        return "name"
    return "constant" if isinstance(value, ConstantPrice) or "constant" in mapping(value) else "series"


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value` when it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


class Scenario(_Strict):
    """One pool, its world, its network and its faults."""

    name: Name
    description: Annotated[str, Field(max_length=2000)] = ""
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)] = 1
    start: Start = START_DEFAULT
    time_zone: Zone = "UTC"
    duration: Annotated[int, duration("1s", "366d")]
    """[ns]."""
    pool: Annotated[tuple[Group, ...], Field(min_length=1, max_length=DEVICES_MAX)]
    feeder: (
        Annotated[
            Annotated[str, Field(min_length=1, max_length=1000), Tag("name")]
            | Annotated[TransformerSpec, Tag("series")],
            Discriminator(_load_kind),
        ]
        | None
    ) = None
    """A bundled feeder, a file beside the scenario, or a transformer; homes in the order of the pool."""
    source_voltage_pu: Annotated[float, Field(ge=0.8, le=1.2, allow_inf_nan=False)] | None = None
    """Voltage of the grid, all the time; default: that of the feeder's file, else 1."""
    community: CommunitySpec | None = None
    prices: Annotated[
        Annotated[Literal["synthetic-ercot", "synthetic-ercot-tight"], Tag("name")]
        | Annotated[ConstantPrice, Tag("constant")]
        | Annotated[PriceSeries, Tag("series")],
        Discriminator(_price_kind),
    ] = "synthetic-ercot"
    comms: CommsSpec = CommsSpec()
    events: Annotated[tuple[AnyEvent, ...], Field(max_length=10_000)] = ()
    storm: StormSpec | None = None

    _folder: Path | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        """Keep the folder that paths in this scenario are relative to."""
        if isinstance(context, dict):
            self._folder = context.get("folder")

    @property
    def folder(self) -> Path | None:
        """Where files named in the scenario lie; None when it came from no file."""
        return self._folder

    def to_dict(self) -> dict[str, Any]:
        """Return the scenario as plain data in the form users write; it reads back as an equal scenario."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def scenario_schema() -> dict[str, Any]:
    """Return the JSON Schema of scenario files, for editors."""
    schema = Scenario.model_json_schema(by_alias=True)
    kinds = catalogue()
    schema["$defs"] |= {name: event_schema(kind) for name, kind in kinds.items()}
    schema["properties"]["events"]["items"] = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in kinds]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Ridethrough scenario",
    }


def start_utc_ns(scenario: Scenario) -> int | None:
    """Return when the scenario starts, in nanoseconds since 1970-01-01 UTC, or None when it has no date."""
    if "-" not in scenario.start:
        return None
    return utc_ns(parse_date_time(scenario.start), parse_zone(scenario.time_zone))


def start_of_day_ns(start: str) -> int:
    """Return the time of day of a scenario's `start`, counted from midnight [ns]."""
    return parse_instant(start[11:] if "-" in start else start)


def group_names(groups: Sequence[tuple[int, str | None]]) -> list[tuple[str, ...]]:
    """Return the device names of each group, given as (count, name).

    A named group of one device is called by that name; a larger one gets ``name-01``, ``name-02`` and so on.
    Groups without a name share the name `home` and are numbered through.
    """
    unnamed = 0
    result: list[tuple[str, ...]] = []
    for count, name in groups:
        if name is not None and count == 1:
            result.append((name,))
            continue
        first = 1 if name is not None else unnamed + 1
        unnamed += 0 if name is not None else count
        result.append(tuple(f"{name or UNNAMED}-{k:02d}" for k in range(first, first + count)))
    return result


class Roster:
    """Who is in the pool: the names of devices and groups, and what a target means."""

    def __init__(self, groups: Sequence[tuple[int, str | None]]) -> None:
        parts = group_names(groups)
        self.names = tuple(name for part in parts for name in part)
        self._rows: dict[str, list[int]] = {name: [row] for row, name in enumerate(self.names)}
        self._labels = [*self.names, "all"]
        self._labels += [name for count, name in groups if name is not None and count > 1]
        self._labels += [UNNAMED] if any(name is None for _, name in groups) else []
        start = 0
        for (_, name), part in zip(groups, parts, strict=True):
            if len(part) > 1 or name is None:
                self._rows.setdefault(name or UNNAMED, []).extend(range(start, start + len(part)))
            start += len(part)

    def duplicates(self) -> list[str]:
        """Return the names that mean more than one thing: two devices, two groups, or one of each."""
        return sorted(name for name, count in Counter(self._labels).items() if count > 1)

    def rows(self, target: str | tuple[str | int, ...]) -> tuple[int, ...]:
        """Return the rows a target names, ascending and without repeats.

        Raises
        ------
        ScenarioError
            When it names a device that does not exist.
        """
        if target == "all":
            return tuple(range(len(self.names)))
        items = (target,) if isinstance(target, str) else target
        return tuple(sorted({row for item in items for row in self._item(item)}))

    def _item(self, item: str | int) -> list[int]:
        if isinstance(item, int):
            if not 1 <= item <= len(self.names):
                raise ScenarioError(f"found device number {item}; allowed 1 to {len(self.names)}")
            return [item - 1]
        if item not in self._rows:
            known = [*self._rows, "all"]
            listed = ", ".join(sorted(known)[:12]) + (" ..." if len(known) > 12 else "")
            raise ScenarioError(
                f"found {shown(item)}{did_you_mean(item, known)}; allowed {listed}, or a number"
            )
        return self._rows[item]


def roster(scenario: Scenario) -> Roster:
    """Return who is in the pool of a scenario."""
    return Roster([(group.count, group.name) for group in scenario.pool])
