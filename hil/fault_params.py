"""Parameters of faults: what a file of the catalogue may ask of a user.

Duty: the kinds of parameter, each with its range and its unit, read from a file of the catalogue and applied
to what a user writes.
Rules: a parameter has bounds or a list of words, always.  A user writes the unit down; in `Event.params` it
stands in the key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from ridethrough.emulator.errors import ScenarioError

from .mistakes import Finding
from .units import DURATION_FORM, Written, duration, duration_text, power_w, ratio, shown

Value = int | float | str | bool
"""What the program keeps of a parameter: nanoseconds of a duration, else its number, word or flag."""

WORD: Final = r"^[a-z][a-z0-9_-]{0,39}$"
Word = Annotated[str, Field(pattern=WORD)]
Text = Annotated[str, Field(min_length=1, max_length=600)]

_ENERGY = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(Wh|kWh|MWh)")
_ENERGY_WH = {"Wh": 1, "kWh": 1000, "MWh": 1_000_000}


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ScenarioError(f"found {shown(value)}; allowed a number")


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ScenarioError(f"found {shown(value)}; allowed a whole number")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ScenarioError(f"found {shown(value)}; allowed true or false")


def _word(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ScenarioError(f"found {shown(value)}; allowed a word")


def _energy_wh(value: object) -> float:
    match = _ENERGY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ScenarioError(f"found {shown(value)}; allowed an energy such as 500Wh or 2kWh")
    return float(Decimal(match[1]) * _ENERGY_WH[match[2]])


def _energy_text(energy_wh: float) -> str:
    return f"{energy_wh:.12g}Wh"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of parameter.

    Attributes
    ----------
    form : Written
        How one value is written, whatever its range.
    words : str
        The same for people.
    show : callable
        A value as a user would write it.
    in_event : callable
        A value as the code is given it.
    """

    form: Written
    words: str
    show: Callable[[Any], str]
    in_event: Callable[[Any], float | str]


KINDS: Final[Mapping[str, Kind]] = {
    "duration": Kind(
        duration("0s", "366d", ticks=False), DURATION_FORM, duration_text, lambda length_ns: length_ns / 1e9
    ),
    "ratio": Kind(ratio(), "a share", lambda share: f"{100.0 * share:.12g}%", float),
    "number": Kind(
        Written(_number, float, {"type": "number"}), "a number", lambda number: f"{number:.12g}", float
    ),
    "count": Kind(Written(_count, int, {"type": "integer"}), "a whole number", str, int),
    "power": Kind(power_w(-1e7, 1e7), "a power", lambda watts: f"{watts:.12g}W", float),
    "energy": Kind(
        Written(_energy_wh, _energy_text, {"type": "string", "pattern": f"^(?:{_ENERGY.pattern})$"}),
        "an energy",
        _energy_text,
        float,
    ),
    "choice": Kind(Written(_word, str, {"type": "string"}), "a word", str, str),
    "flag": Kind(
        Written(_flag, bool, {"type": "boolean"}),
        "true or false",
        lambda flag: "true" if flag else "false",
        bool,
    ),
}
"""What each kind of parameter is; those before `choice` have a range."""

UNRANGED: Final = ("choice", "flag")


class Times(BaseModel):
    """A bound in terms of another parameter: from `min` to `max` times it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: Word
    min: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    max: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Param(BaseModel):
    """One parameter of a fault, as its file states it.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    key : str
        Its name in `Event.params`, with the unit.
    what : str
        What it means, for people.
    min, max : optional
        The range, both ends included, as a user writes them; of all kinds but choice and flag.
    of : tuple of str, optional
        The words of a choice.
    default : optional
        As a user writes it; without one the parameter must be given.
    times : Times, optional
        A further bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["duration", "ratio", "number", "count", "power", "energy", "choice", "flag"]
    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    what: Text
    min: int | float | str | None = None
    max: int | float | str | None = None
    of: Annotated[tuple[Word, ...], Field(min_length=2)] | None = None
    default: bool | int | float | str | None = None
    times: Times | None = None

    @model_validator(mode="after")
    def _sound(self) -> Param:
        told(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Finding]:
        """Find what is wrong between the fields."""
        ranged = self.kind not in UNRANGED
        for name, wanted in (("min", ranged), ("max", ranged), ("of", self.kind == "choice")):
            value = getattr(self, name)
            if wanted and value is None:
                yield (name,), f"found nothing; allowed {name} of a {self.kind}"
                return
            if not wanted and value is not None:
                yield (name,), f"found {shown(value)}; allowed: no {name} of a {self.kind}"
                return
        if self.times is not None and not ranged:
            yield ("times",), f"found times of a {self.kind}; allowed of a quantity"
        try:
            for name in ("min", "max") if ranged else ():
                KINDS[self.kind].form.parse(getattr(self, name))
        except ScenarioError as error:
            yield (name,), str(error)
            return
        if ranged and not self.low < self.high:
            yield ("max",), f"found {shown(self.max)}; allowed a max above min {shown(self.min)}"
        elif self.of is not None and len(set(self.of)) < len(self.of):
            yield ("of",), f"found {', '.join(self.of)}; allowed words that differ"
        elif self.default is not None:
            try:
                self.written.parse(self.default)
            except ScenarioError as error:
                yield ("default",), str(error)

    @property
    def low(self) -> Any:
        """The lower end of the range, as the program keeps it."""
        return KINDS[self.kind].form.parse(self.min)

    @property
    def high(self) -> Any:
        """The upper end of the range, as the program keeps it."""
        return KINDS[self.kind].form.parse(self.max)

    @property
    def required(self) -> bool:
        """Whether an event must give it."""
        return self.default is None

    def show(self, value: Any) -> str:
        """Return a value as a user would write it."""
        return KINDS[self.kind].show(value)

    def in_event(self, value: Any) -> float | str:
        """Return a value as the code is given it."""
        return KINDS[self.kind].in_event(value)

    @property
    def allowed(self) -> str:
        """What a user may write, in words."""
        if self.of is not None:
            return ", ".join(self.of)
        words = KINDS[self.kind].words
        return words if self.min is None else f"{words}, from {self.range}"

    @property
    def range(self) -> str:
        """The range of a quantity, in words."""
        return f"{self.show(self.low)} to {self.show(self.high)}"

    @cached_property
    def written(self) -> Written:
        """How it is read from a file, written back, and described to editors."""
        form = KINDS[self.kind].form
        schema = form.schema | {"description": f"{self.what} ({self.allowed})"}
        if self.of is not None:
            return Written(self._chosen, form.write, schema | {"enum": list(self.of)})
        if self.min is None:
            return Written(form.parse, form.write, schema)
        low, high = self.low, self.high

        def parse(value: object) -> Any:
            found = form.parse(value)
            if not low <= found <= high:
                raise ScenarioError(f"found {shown(value)}; allowed {self.range}")
            return found

        return Written(parse, form.write, _bounded(schema, low, high))

    def _chosen(self, value: object) -> str:
        if self.of is not None and isinstance(value, str) and value in self.of:
            return value
        raise ScenarioError(f"found {shown(value)}; allowed {self.allowed}")


def _bounded(schema: dict[str, Any], low: Any, high: Any) -> dict[str, Any]:
    """Return a JSON Schema with the bounds put where it admits a number."""
    if schema.get("type") in ("number", "integer"):
        return schema | {"minimum": low, "maximum": high}
    if "anyOf" in schema:
        return schema | {"anyOf": [_bounded(each, low, high) for each in schema["anyOf"]]}
    return schema


def told(findings: Iterator[Finding]) -> None:
    """Raise what was found as pydantic's error, each finding at its place.

    Raises
    ------
    ValidationError
        When there is any finding.
    """
    errors = [
        InitErrorDetails(type=PydanticCustomError("found", "{text}", {"text": text}), loc=place, input=None)
        for place, text in findings
    ]
    if errors:
        raise ValidationError.from_exception_data("findings", errors)


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
