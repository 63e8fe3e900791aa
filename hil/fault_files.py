"""The fault catalogue: what can be done to a pool, as data, one file for each fault.

Duty: the schema of fixtures/faults/*.yaml, and finding a fault by its name.
Rules: a fault is never code; how it acts is said in `effects`.  A file is read when its fault is first asked
for: a scenario with three faults reads three files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ridethrough.emulator.errors import ScenarioError

from .fault_params import WORD, Param, Text, Value, told
from .mistakes import Finding
from .units import did_you_mean, duration, shown
from .yamlfile import bundled, decoded, load_text

CLASSES: Final = {
    "comms": "C",
    "telemetry": "T",
    "device": "D",
    "grid": "G",
    "controller": "K",
    "broker": "B",
}
"""Classes of faults, and the letter of their rows in the project's fault survey."""

RESERVED: Final = ("at", "for", "fault", "target")
"""What every event says, so that no parameter may have these names."""

COMMON: Final = ("comms.latency", "comms.partition", "grid.outage", "telemetry.frozen")
"""Faults named to somebody who names none."""

FOR: Final = duration("20ms", "366d")
"""How the length of an event is written."""

Invariant = Literal[
    "RDY", "DEL", "REC", "VAN", "DEV", "EXP", "AIS", "FRE", "FAIR", "TRU", "ECO", "LIV", "ROB"
]


class Sight(BaseModel):
    """One place where a fault was seen.

    Attributes
    ----------
    where : str
        A link where there is a public one, else words.
    what : str
        What was seen there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    where: Annotated[str, Field(min_length=1, max_length=300)]
    what: Text


class FaultKind(BaseModel):
    """One fault of the catalogue.

    Attributes
    ----------
    fault : str
        Its name, as written in a scenario: class and what happens.
    row : str
        In the project's fault survey, C1 to B9.
    what : str
        What the bench does, from start to end, and what a controller sees.
    seen : tuple of Sight
    at_risk : tuple of str
        Invariants it endangers.
    mitigation : str
        What a good controller does about it.
    acts_on : {"devices", "controller"}
        Whether an event names targets.
    params : dict
        What a user writes besides, by name.
    example : dict
        The parameters of a typical event, and `for` where its length matters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: Annotated[str, Field(pattern=r"^[a-z]+\.[a-z][a-z0-9-]{1,40}$")]
    row: Annotated[str, Field(pattern=r"^[CTDGKB][1-9][0-9]?$")]
    what: Annotated[str, Field(min_length=40, max_length=2000)]
    seen: Annotated[tuple[Sight, ...], Field(min_length=1)]
    at_risk: Annotated[tuple[Invariant, ...], Field(min_length=1)]
    mitigation: Text
    acts_on: Literal["devices", "controller"] = "devices"
    params: dict[str, Param] = {}
    example: dict[str, Any] = {}

    @model_validator(mode="after")
    def _sound(self) -> FaultKind:
        told(self._mistakes())
        return self

    @property
    def group(self) -> str:
        """The class of the fault."""
        return self.fault.partition(".")[0]

    def _mistakes(self) -> Iterator[Finding]:
        """Find what is wrong between the fields."""
        if CLASSES.get(self.group) != self.row[0]:
            known = ", ".join(f"{letter} for {name}" for name, letter in CLASSES.items())
            yield ("row",), f"found {shown(self.row)} of {shown(self.fault)}; allowed {known}"
        keys = [param.key for param in self.params.values()]
        for name, param in self.params.items():
            if name in RESERVED or not re.fullmatch(WORD, name):
                text = f"found {shown(name)}; allowed a lower-case word that is none of {', '.join(RESERVED)}"
                yield ("params", name), text
            if keys.count(param.key) > 1:
                yield (
                    ("params", name, "key"),
                    f"found {shown(param.key)} more than once; allowed keys that differ",
                )
            if param.times is not None and (
                param.times.of == name
                or param.times.of not in self.params
                or self.params[param.times.of].kind != param.kind
            ):
                others = [other for other in self.params if other != name]
                text = f"found {shown(param.times.of)}; allowed another {param.kind} of {', '.join(others)}"
                yield ("params", name, "times", "of"), text
                return
        given = {key: value for key, value in self.example.items() if key != "for"}
        if "for" in self.example:
            try:
                FOR.parse(self.example["for"])
            except ScenarioError as error:
                yield ("example", "for"), str(error)
        found: list[Finding] = []
        self.read(given, found, extra=("for",))
        yield from ((("example", *place), text) for place, text in found)

    def read(
        self, given: dict[str, Any], findings: list[Finding], extra: tuple[str, ...] = RESERVED
    ) -> dict[str, Value]:
        """Return the parameters of an event as the program keeps them, defaults included.

        Parameters
        ----------
        given : dict
            What the user wrote for them.
        findings : list of Finding
            What is wrong is added here.
        extra : tuple of str
            Further keys allowed there, to be named in messages.
        """
        allowed = sorted((*extra, *self.params))
        before = len(findings)
        for word in given:
            if word not in self.params:
                hint = did_you_mean(str(word), allowed)
                findings.append(
                    ((word,), f"found unknown key {shown(word)}{hint}; allowed {', '.join(allowed)}")
                )
        values: dict[str, Value] = {}
        for name, param in self.params.items():
            raw = given.get(name, param.default)
            if name not in given and raw is None:
                findings.append(((name,), f"found nothing; allowed {param.allowed}"))
                continue
            try:
                values[name] = param.written.parse(raw)
            except ScenarioError as error:
                findings.append(((name,), str(error)))
        if len(findings) == before:
            findings += self._out_of_proportion(values)
        return values

    def _out_of_proportion(self, values: dict[str, Any]) -> Iterator[Finding]:
        for name, param in self.params.items():
            if param.times is None:
                continue
            other, value = values[param.times.of], values[name]
            if not param.times.min * other <= value <= param.times.max * other:
                yield (
                    (),
                    f"found {param.times.of} {param.show(other)}, {name} {param.show(value)}; allowed {name} "
                    f"from {param.times.min:g} to {param.times.max:g} times {param.times.of}",
                )


@cache
def fault_names() -> tuple[str, ...]:
    """Return the names of all faults, ascending; no file is read for it."""
    return tuple(bundled("faults"))


@cache
def load_fault(name: str) -> FaultKind:
    """Return a fault of the catalogue.

    Raises
    ------
    ScenarioError
        When there is none of that name, or its file is wrong.
    """
    files = bundled("faults")
    if name not in files:
        raise ScenarioError(unknown_fault(name))
    return read_fault(decoded(files[name].read_bytes(), name), name)


def read_fault(text: str, name: str) -> FaultKind:
    """Return the fault that the file of this name describes.

    Raises
    ------
    ScenarioError
        With every mistake of the file.
    """
    label = f"faults/{name}.yaml"
    kind = load_text(text, label, FaultKind, None, None)
    if kind.fault != name:
        raise ScenarioError(
            f"{label}: fault: found {shown(kind.fault)}; allowed {name}, as the file is called"
        )
    return kind


def unknown_fault(name: object) -> str:
    """Say that there is no such fault, and which there are of its class."""
    known = list(fault_names())
    near = [each for each in known if isinstance(name, str) and each.startswith(name.partition(".")[0] + ".")]
    hint = did_you_mean(name, known) if isinstance(name, str) else ""
    some = f"{', '.join(COMMON)} or another of the {len(known)} that `ridethrough list faults` shows"
    return f"found {shown(name)}{hint}; allowed {', '.join(near) or some}"
