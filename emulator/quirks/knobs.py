"""Quirk files: how a shipped product differs from the standard.  The schema of fixtures/quirks/*.yaml.

Duty: the schema, and how several quirks become one.  What the knobs of a section mean is said where they are
built: transport.py, maps.py, values.py, writes.py.

Rules of this file: quirks are independent of one another.  Lists add up, in the order in which the quirks are
named; two quirks that turn the same knob to different values do not go together, and both are named.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, model_validator

from ..errors import ScenarioError
from .maps import MapKnobs
from .schedule import Strict
from .transport_knobs import TransportKnobs
from .values import ValueKnobs
from .writes import WriteKnobs

Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Row = Annotated[int, Field(ge=1, le=52)] | Annotated[str, Field(pattern=r"^[A-Z][0-9]{1,2}$")]
"""Row of the reference on field quirks, or of the fault catalogue, such as ``D8``."""


class Sections(Strict):
    """The knobs of all places, from the outside in."""

    transport: TransportKnobs | None = None
    map: MapKnobs | None = None
    values: ValueKnobs | None = None
    writes: WriteKnobs | None = None


SECTIONS: Final = tuple(Sections.model_fields)
"""The places where a device can differ."""


class Quirk(Sections):
    """One way in which products differ from the standard.

    Attributes
    ----------
    quirk : str
        Its name: the deviation, in words joined by dashes.
    row : int or str, or several
        Where the project's reference tells of it.
    description : str
        What a client sees.
    device : str
        Products it was seen on.
    source : str
        Who reported it.
    """

    quirk: Word
    row: Row | Annotated[tuple[Row, ...], Field(min_length=1)]
    description: Text
    device: Text
    source: Text

    @model_validator(mode="after")
    def _turns_something(self) -> Quirk:
        if not any(getattr(self, section) for section in SECTIONS):
            raise ValueError(f"at least one of the sections {', '.join(SECTIONS)}")
        return self


class Quirks(Sections):
    """Several quirks as one; made by `combine`.

    Attributes
    ----------
    names : tuple of str
        Of the quirks, in order.
    """

    names: tuple[Word, ...] = ()


def combine(quirks: Iterable[Quirk]) -> Quirks:
    """Return several quirks as one.

    Raises
    ------
    ScenarioError
        When a quirk is named twice, two want different values of one knob, or what they want together is not
        allowed.
    """
    found = tuple(quirks)
    names = tuple(quirk.quirk for quirk in found)
    for k, name in enumerate(names):
        if name in names[:k]:
            raise ScenarioError(f"quirks: found {name} twice; allowed once")
    merged: dict[str, Any] = {}
    for section in SECTIONS:
        parts = [(quirk.quirk, part) for quirk in found if (part := getattr(quirk, section)) is not None]
        if parts:
            merged[section] = _merged(section, parts)
    return Quirks(names=names, **merged)


def _merged(section: str, parts: list[tuple[str, Strict]]) -> Strict:
    """Return one section of several quirks, each with its name."""
    values: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for name, part in parts:
        for knob in sorted(part.model_fields_set):
            value = getattr(part, knob)
            if knob not in values:
                values[knob], owner[knob] = value, name
            elif isinstance(value, tuple) and isinstance(values[knob], tuple):
                values[knob] += value
            elif value != values[knob]:
                raise ScenarioError(
                    f"quirks: {owner[knob]} and {name} do not go together: {section}.{knob} is "
                    f"{values[knob]!r} in one and {value!r} in the other; allowed one of them"
                )
    try:
        return type(parts[0][1]).model_validate(values)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in (section, *wrong["loc"]))
        raise ScenarioError(
            f"quirks: {' and '.join(name for name, _ in parts)} do not go together: {place}: {wrong['msg']}"
        ) from None
