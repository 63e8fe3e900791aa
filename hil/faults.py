"""The fault catalogue: what can be done to a pool, as data.

Duty: say for each kind of fault what a user writes, within which ranges, and what it endangers.
Rules: a fault is never code; it has a start, an end, targets and parameters, all fixed before the run.  How
it acts is the business of the plant and of the network; here is only what it means.  The sources' numbers
(C6, T1, G2 ...) are those of the project's fault survey.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ridethrough.emulator.errors import ScenarioError

from .units import Written, duration, instant, ratio, shown

Params = dict[str, float | str]


def _target(value: object) -> str | tuple[str | int, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and value and all(_is_device(item) for item in value):
        return tuple(value)
    raise ScenarioError(
        f"found {shown(value)}; allowed all, the name of a group or device, or a list of names and numbers"
    )


def _is_device(item: object) -> bool:
    return (isinstance(item, str) and bool(item)) or (isinstance(item, int) and not isinstance(item, bool))


_TARGET_SCHEMA: dict[str, Any] = {
    "description": "all, the name of a group or device, or a list of names and numbers (counted from 1)",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
    ],
}

Target = Annotated[
    str | tuple[str | int, ...],
    Written(_target, lambda target: target if isinstance(target, str) else list(target), _TARGET_SCHEMA),
]


class EventSpec(BaseModel):
    """What every event states: when, how long and to whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: Annotated[int, instant()]
    """Start, counted from midnight of the start day [ns]."""
    for_: Annotated[int, duration("20ms", "366d")] = Field(alias="for")
    """Length [ns]."""
    target: Target

    @property
    def params(self) -> Params:
        """The fault's own parameters, with units in their names."""
        return {}


class GridOutage(EventSpec):
    """The grid is lost at the targets' service entrance."""

    fault: Literal["grid.outage"]


class CommsLatency(EventSpec):
    """Messages to and from the targets take longer, on top of the scenario's own latency."""

    fault: Literal["comms.latency"]
    mean: Annotated[int, duration("0s", "10min", ticks=False)]
    """Mean of the added one-way delay [ns]."""
    p99: Annotated[int, duration("0s", "1h", ticks=False)]
    """99th percentile of the added one-way delay [ns]."""

    @model_validator(mode="after")
    def _ordered(self) -> CommsLatency:
        check_latency(self.mean, self.p99)
        return self

    @property
    def params(self) -> Params:
        """The added delays [s]."""
        return {"latency_s_mean": self.mean / 1e9, "latency_s_p99": self.p99 / 1e9}


class CommsLoss(EventSpec):
    """Messages to and from the targets are lost, each on its own, on top of the scenario's own loss."""

    fault: Literal["comms.loss"]
    probability: Annotated[float, ratio()]

    @property
    def params(self) -> Params:
        """The probability that one message is lost [1]."""
        return {"loss_frac": self.probability}


class CommsPartition(EventSpec):
    """No message passes between the controller and the targets, in the stated direction."""

    fault: Literal["comms.partition"]
    direction: Literal["both", "commands", "telemetry"] = "both"

    @property
    def params(self) -> Params:
        """What is cut: both, commands or telemetry."""
        return {"direction": self.direction}


class TelemetryFrozen(EventSpec):
    """The targets' readings repeat those taken when the fault began."""

    fault: Literal["telemetry.frozen"]
    stamp: Literal["frozen", "fresh"] = "frozen"

    @property
    def params(self) -> Params:
        """Whether the time stamp freezes too, or lies and moves on."""
        return {"stamp": self.stamp}


AnyEvent = Annotated[
    GridOutage | CommsLatency | CommsLoss | CommsPartition | TelemetryFrozen, Field(discriminator="fault")
]


def check_latency(mean_ns: int, p99_ns: int) -> None:
    """Refuse a 99th percentile that no delay with this mean has.

    Raises
    ------
    ValueError
        Unless ``mean_ns <= p99_ns <= 14 mean_ns``.

    Notes
    -----
    A log-normal delay with shape s has p99/mean = exp(2.326 s - s²/2), which never exceeds 14.97.
    """
    if not mean_ns <= p99_ns <= 14 * mean_ns:
        raise ValueError(
            f"found mean {mean_ns / 1e6:g}ms, p99 {p99_ns / 1e6:g}ms; allowed p99 from 1 to 14 times the mean"
        )


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One row of the catalogue.

    Attributes
    ----------
    name : str
        As written in a scenario.
    spec : type of EventSpec
        What a user writes, checked.
    what : str
        What happens, in plain words.
    source : str
        Where it was seen.
    at_risk : tuple of str
        Invariants it endangers.
    levels : tuple of str
        Where the bench can inject it.
    """

    name: str
    spec: type[EventSpec]
    what: str
    source: str
    at_risk: tuple[str, ...]
    levels: tuple[str, ...]


_KINDS = (
    FaultKind(
        "grid.outage",
        GridOutage,
        "Voltage at the targets goes to zero at once and returns at once. Each home's transfer switch opens, "
        "its inverter forms an island for the backup panel, and after the return it waits to connect.",
        "G2 unplanned outage; G4 and G5 when it meets a charge or a discharge; G9 when it outlasts the "
        "promise; G12 when only some homes are out.",
        ("RDY", "DEL", "REC", "EXP", "AIS"),
        ("mil", "hil"),
    ),
    FaultKind(
        "comms.latency",
        CommsLatency,
        "Every message to and from the targets takes an extra delay with the given mean and 99th percentile, "
        "drawn for each message. Messages may overtake one another; those later than the time-out are "
        "abandoned.",
        "C1 fixed latency (a single write took 39 s in the field); C2 jitter with a heavy tail.",
        ("RDY", "FRE"),
        ("mil", "hil"),
    ),
    FaultKind(
        "comms.loss",
        CommsLoss,
        "Every message to and from the targets is lost with the given probability, each on its own.",
        "C3 drop of one request or reply.",
        ("FRE", "TRU"),
        ("mil", "hil"),
    ),
    FaultKind(
        "comms.partition",
        CommsPartition,
        "Nothing passes between the controller and the targets: in both directions, or only commands are "
        "lost, or only telemetry. Devices carry on with what they were last told until it reverts.",
        "C6 full partition; C7 one-way partition (commands lost while telemetry is fine, or the reverse).",
        ("RDY", "VAN"),
        ("mil", "hil"),
    ),
    FaultKind(
        "telemetry.frozen",
        TelemetryFrozen,
        "Readings of the targets repeat those of the fault's first instant while the device goes on. With "
        "stamp frozen their age shows it; with stamp fresh they claim to be new.",
        "T1 stale SoC with a live connection (a cloud answers from a frozen snapshot); T2 frozen BMS.",
        ("RDY", "DEL"),
        ("mil", "hil"),
    ),
)

FAULTS: Mapping[str, FaultKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Every fault a scenario may name."""


@dataclass(frozen=True, slots=True)
class Event:
    """One fault of one run, resolved.

    Attributes
    ----------
    number : int
        Position in the scenario's list, from 1; kept when a window leaves others out.
    fault : str
        Name in `FAULTS`.
    targets : tuple of int
        Rows of the pool it acts on, ascending.
    start_ns, end_ns : int
        When it acts, ``[start_ns, end_ns)`` on the bench's clock [ns].
    params : dict
        Parameters, with units in their names.
    """

    number: int
    fault: str
    targets: tuple[int, ...]
    start_ns: int
    end_ns: int
    params: Params
