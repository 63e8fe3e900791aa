"""What is in the messages: JSON objects, checked on the way in, plain on the way out.

Rules of this file: a field's name carries its unit; time is milliseconds since 1970, UTC; an unknown value is
null; a message that is not as it should be is refused with a word for programs and a sentence for people.
docs/asyncapi.yaml says the same to other tools, and a test compares the two.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

COMMAND_BYTES_MAX: Final = 4096
TIME_MS_MAX: Final = 4_102_444_800_000
"""The year 2100: what is later is no time in milliseconds."""
VALIDITY_S_MIN, VALIDITY_S_MAX = 1.0, 86_400.0
POWER_W_MAX: Final = 1e7

Reason = Literal[
    "retained",
    "oversize",
    "garbage",
    "invalid",
    "id-reused",
    "before-start",
    "from-the-future",
    "expired",
    "overtaken",
    "busy",
    "device",
    "no-answer",
]
"""Why a command was not carried out."""

REASONS: Final[dict[str, str]] = {
    "retained": "a retained command says nothing about when it was meant",
    "oversize": f"more than {COMMAND_BYTES_MAX} bytes",
    "garbage": "not one JSON object",
    "invalid": "a field is missing, unknown, or out of its range",
    "id-reused": "another command had this id",
    "before-start": "issued before the gateway started, which cannot know whether it was carried out then",
    "from-the-future": "issued later than now by the gateway's clock",
    "expired": "too old to be carried out",
    "overtaken": "issued before a command that was carried out already",
    "busy": "too many commands wait for this device",
    "device": "the device refused it",
    "no-answer": "the device did not answer: it may have been carried out or not",
}
"""The same in words."""

Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")]
TimeMs = Annotated[int, Field(ge=0, le=TIME_MS_MAX)]


class Refused(Exception):  # noqa: N818 - it is an answer to somebody, and no error of ours
    """A command that is not carried out.

    Attributes
    ----------
    reason : Reason
    text : str
        A sentence.
    id : str
        Of the command; empty when it could not be read.
    """

    def __init__(self, reason: Reason, text: str = "", id_: str = "") -> None:
        super().__init__(text or REASONS[reason])
        self.reason: Reason = reason
        self.text = text or REASONS[reason]
        self.id = id_


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Command(_Model):
    """``cmd``: what a controller wants of one device, QoS 1, never retained."""

    id: Id = Field(description="the controller's own name for this command; the answer has the same")
    issued_ms: TimeMs = Field(description="when it was decided [ms since 1970]")
    expires_ms: TimeMs | None = Field(default=None, description="not carried out after this [ms since 1970]")
    power_w: Annotated[float, Field(ge=-POWER_W_MAX, le=POWER_W_MAX)] | None = Field(
        default=None, description="set-point at the AC terminals, positive out of the device [W]"
    )
    validity_s: Annotated[float, Field(ge=VALIDITY_S_MIN, le=VALIDITY_S_MAX)] | None = Field(
        default=None, description="how long it holds; becomes the device's own timer [s]"
    )
    reserve_soc_frac: Annotated[float, Field(ge=0.0, le=1.0)] | None = Field(
        default=None, description="the device's own reserve, where it has one [1]"
    )

    @model_validator(mode="before")
    @classmethod
    def _said(cls, found: dict[str, object]) -> dict[str, object]:
        empty = [name for name, value in found.items() if value is None]
        if empty:
            raise ValueError(f"{empty[0][:60]}: found null; allowed a value, or to leave it out")
        return found

    @model_validator(mode="after")
    def _whole(self) -> Command:
        if (self.power_w is None) != (self.validity_s is None):
            raise ValueError("power_w and validity_s: allowed both or neither")
        if self.power_w is None and self.reserve_soc_frac is None:
            raise ValueError("allowed power_w with validity_s, reserve_soc_frac, or all of them")
        return self


class Ack(_Model):
    """``ack``: what became of a command, QoS 1, never retained."""

    id: str = Field(description="the command's; empty where it could not be read")
    outcome: Literal["applied", "refused", "lost"]
    reason: Reason | None = Field(default=None, description="why it was not applied")
    text: str = Field(default="", description="the same for people")
    ts_ms: TimeMs = Field(description="when it was decided by the gateway [ms since 1970]")
    power_w: float | None = Field(default=None, description="the set-point that the device holds now [W]")
    reserve_soc_frac: float | None = Field(
        default=None, description="the reserve that the device holds now [1]"
    )


class Values(_Model):
    """Measured values by SunSpec point, in engineering units; null is unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    soc: float | None = Field(alias="713.SoC", description="state of charge [%]")
    power: float | None = Field(alias="701.W", description="at the AC terminals, positive out of it [W]")
    connected: int | None = Field(alias="701.ConnSt", description="1 following the grid, 0 not")
    meter: float | None = Field(alias="203.W", description="at the home's meter, import positive [W]")


class State(_Model):
    """``state``: one reading of one device, QoS 0, never retained."""

    ts_ms: TimeMs = Field(description="when the device measured it [ms since 1970]")
    seq: int = Field(ge=0, description="counts the readings of this device, from 0 at the gateway's start")
    q: Literal["good", "partial", "old"] = Field(
        description="partial: a value is unknown; old: the device answers, and its clock stands still"
    )
    values: Values


class Occurrence(_Model):
    """``event``: something happened to one device, QoS 1, never retained."""

    ts_ms: TimeMs
    kind: Literal["silent", "back", "islanded", "grid-back", "refused"]
    text: str


class DeviceInfo(_Model):
    """One device of the pool; null where nobody knows."""

    name: str
    model: str
    energy_wh: float | None
    power_w_charge_max: float | None
    power_w_discharge_max: float | None
    soc_frac_min: float | None
    soc_frac_max: float | None
    has_reserve: bool
    backup_hours_h: float | None = Field(description="the backup promised to this home [h]")
    backup_load_w: float | None = Field(description="the load it was promised for [W]")


class Info(_Model):
    """``info``: what the pool is, QoS 1, retained."""

    version: Literal[1] = 1
    poll_s: float = Field(description="the devices are read this often [s of real time]")
    speed: float = Field(description="seconds of the devices' time in one second; 1 with real ones")
    expiry_s: float = Field(description="a command without expires_ms lives this long [s of real time]")
    devices: tuple[DeviceInfo, ...]


def dumped(model: BaseModel) -> bytes:
    """Return a message's payload."""
    return model.model_dump_json(by_alias=True, exclude_none=isinstance(model, Ack)).encode()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _no_twin(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is given twice")
    return found


def read_command(payload: bytes) -> Command:
    """Return the command in a message.

    Raises
    ------
    Refused
        With oversize, garbage or invalid, and the command's id where it has one.
    """
    if len(payload) > COMMAND_BYTES_MAX:
        raise Refused("oversize", f"found {len(payload)} bytes; allowed {COMMAND_BYTES_MAX}")
    try:
        found = json.loads(payload.decode(), parse_constant=_no_constant, object_pairs_hook=_no_twin)
    except (ValueError, RecursionError) as error:
        raise Refused("garbage", f"not JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise Refused("garbage", f"found {type(found).__name__}; allowed a JSON object")
    id_ = found.get("id")
    known = id_ if isinstance(id_, str) and len(id_) <= 64 and id_.isascii() and id_.isprintable() else ""
    try:
        return Command.model_validate(found)
    except ValidationError as error:
        raise Refused("invalid", _told(error), known) from None


def _told(error: ValidationError) -> str:
    """Return every mistake in one sentence each, as short as a message must be."""
    told = []
    for mistake in error.errors(include_url=False):
        place = ".".join(str(part) for part in mistake["loc"])[:60]
        said = mistake["msg"].removeprefix("Value error, ")
        told.append(f"{place}: {said}" if place else said)
    return "; ".join(told)[:500]
