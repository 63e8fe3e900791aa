"""Events: what a scenario says is done to its pool, and what that comes to in a run.

Duty: read one event of a scenario against the fault catalogue, write it back, describe it to editors; and
`Event`, the same resolved, which is all that the bench is given.
Rules: a fault is never code; it has a start, an end, targets and parameters, all fixed before it begins.
What a fault is stands in its file of the catalogue (`fault_files`), how it acts in `effects`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema
from ridethrough.emulator.errors import ScenarioError

from .fault_files import CLASSES, FOR, RESERVED, FaultKind, fault_names, load_fault, unknown_fault
from .fault_params import Value, told
from .mistakes import Finding
from .units import Written, instant, shown

Params = dict[str, float | str]
Target = str | tuple[str | int, ...]


def _target(value: object) -> Target:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and value and all(_is_device(item) for item in value):
        return tuple(value)
    raise ScenarioError(
        f"found {shown(value)}; allowed all, the name of a group or device, or a list of names and numbers"
    )


def _is_device(item: object) -> bool:
    return (isinstance(item, str) and bool(item)) or (isinstance(item, int) and not isinstance(item, bool))


AT: Final = instant()
"""Start of an event, counted from midnight of the start day."""

TARGET: Final = Written(
    _target,
    lambda target: target if isinstance(target, str) else list(target),
    {
        "description": "all, the name of a group or device, or a list of names and numbers (counted from 1)",
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        ],
    },
)
"""Who it happens to."""


@dataclass(frozen=True)
class EventSpec:
    """One event of a scenario, checked.

    Attributes
    ----------
    fault : str
        Name in the catalogue.
    at : int
        Start, counted from midnight of the start day [ns].
    for_ : int
        Length [ns].
    target : str, tuple or None
        Who it happens to; None for a fault of the controller.
    given : dict
        The fault's own parameters as the program keeps them, defaults included.
    """

    fault: str
    at: int
    for_: int
    target: Target | None
    given: Mapping[str, Value] = field(default_factory=dict, hash=False)

    @property
    def params(self) -> Params:
        """The fault's own parameters as the code is given them, with units in their names."""
        known = load_fault(self.fault).params
        return {param.key: param.in_event(self.given[name]) for name, param in known.items()}


def read_event(data: object) -> tuple[EventSpec | None, list[Finding]]:
    """Return an event as written in a scenario, or None and everything that is wrong with it."""
    if not isinstance(data, Mapping):
        return None, [((), f"found {shown(data)}; allowed a mapping with {', '.join(RESERVED)}")]
    findings: list[Finding] = []
    kind = _kind(data, findings)
    common: dict[str, Any] = {}
    for name, form in _forms(kind).items():
        if name not in data:
            if kind is None:
                continue  # which keys there must be depends on the fault
            findings.append(((name,), f"found nothing; allowed {form.schema['description']}"))
            continue
        try:
            common[name] = form.parse(data[name])
        except ScenarioError as error:
            findings.append(((name,), str(error)))
    given: dict[str, Value] = {}
    if kind is not None:
        known = ("fault", *_forms(kind))
        given = kind.read({k: v for k, v in data.items() if k not in known}, findings, extra=known)
    if kind is None or findings:
        return None, findings
    return EventSpec(kind.fault, common["at"], common["for"], common.get("target"), given), []


def _kind(data: Mapping[str, Any], findings: list[Finding]) -> FaultKind | None:
    name = data.get("fault")
    if not isinstance(name, str) or name not in fault_names():
        findings.append((("fault",), unknown_fault(name)))
        return None
    return load_fault(name)


def _forms(kind: FaultKind | None) -> dict[str, Written]:
    """Return how what every event of a kind says is written."""
    forms = {"at": AT, "for": FOR, "target": TARGET}
    if kind is not None and kind.acts_on == "controller":
        del forms["target"]
    return forms


def write_event(event: EventSpec) -> dict[str, Any]:
    """Return an event as a user writes it."""
    kind = load_fault(event.fault)
    said: dict[str, Any] = {"at": event.at, "for": event.for_, "target": event.target}
    forms = _forms(kind)
    plain = {name: form.write(said[name]) for name, form in forms.items()}
    params = {name: param.written.write(event.given[name]) for name, param in kind.params.items()}
    return {"at": plain["at"], "fault": event.fault, **plain, **params}


def event_schema(kind: FaultKind) -> dict[str, Any]:
    """Return the JSON Schema of the events of one fault."""
    forms = _forms(kind)
    properties: dict[str, Any] = {"fault": {"const": kind.fault, "description": kind.what}}
    properties |= {name: dict(form.schema) for name, form in forms.items()}
    for name, param in kind.params.items():
        default = {} if param.required else {"default": param.default}
        properties[name] = {**param.written.schema, **default}
    required = ["fault", *forms, *(name for name, param in kind.params.items() if param.required)]
    return {
        "type": "object",
        "title": kind.fault,
        "additionalProperties": False,
        "properties": properties,
        "required": required,
    }


class _Form:
    """Tells pydantic how an event is read and written."""

    def _read(self, value: object) -> EventSpec:
        if isinstance(value, EventSpec):
            return value
        event, findings = read_event(value)
        told(iter(findings))
        assert event is not None
        return event

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read,
            serialization=core_schema.plain_serializer_function_ser_schema(write_event, when_used="json"),
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # Which faults there are is put in by `scenario.scenario_schema`: messages do without, and reading
        # the whole catalogue for each of them would take half a second.
        return {"type": "object", "description": f"an event with {', '.join(RESERVED)}"}


AnyEvent = Annotated[EventSpec, _Form()]


def catalogue() -> dict[str, FaultKind]:
    """Return every fault, in the order of the survey: class by class, row by row.

    Raises
    ------
    ScenarioError
        When a file is wrong.
    """
    kinds = [load_fault(name) for name in fault_names()]
    letters = "".join(CLASSES.values())
    kinds.sort(key=lambda kind: (letters.index(kind.row[0]), int(kind.row[1:]), kind.fault))
    return {kind.fault: kind for kind in kinds}


@dataclass(frozen=True, slots=True)
class Event:
    """One fault of one run, resolved.

    Attributes
    ----------
    number : int
        Position in the scenario's list, from 1, then those of its storm; kept when a window leaves others
        out.
    fault : str
        Name in the catalogue.
    targets : tuple of int
        Rows of the pool it acts on, ascending; none when it acts on the controller.
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
