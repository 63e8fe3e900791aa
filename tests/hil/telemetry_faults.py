"""Events of the telemetry class for tests: as the catalogue reads them, or drawn within its ranges."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from ridethrough.hil.effects.readings import ACTS
from ridethrough.hil.fault_files import load_fault
from ridethrough.hil.faults import Event

SECOND_NS = 10**9
HOUR_NS = 3600 * SECOND_NS
FAULTS = tuple(sorted(ACTS))

NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "slope": st.sampled_from([-2.0, -0.3, 0.0, 0.3, 2.0]),
    "rate": st.sampled_from([-0.5, 0.0, 0.01]),
    "wander": st.sampled_from(["0%", "5%", "50%"]),
    "bound": st.sampled_from(["0%", "20%"]),
    "shown": st.sampled_from(["1%", "50%", "99%"]),
    "knee": st.sampled_from(["14%", "70%"]),
    "share": st.sampled_from(["0%", "50%", "100%"]),
    "depth": st.sampled_from(["1%", "30%"]),
    "height": st.sampled_from(["100W", "20kW"]),
    "lasts": st.sampled_from(["1s", "10s"]),
    "every": st.sampled_from(["7s", "1min"]),
    "offset": st.sampled_from(["0s", "10min"]),
}
"""What is drawn for each parameter that is not a choice."""


def event(
    fault: str, *rows: int, at_s: float = 0.0, for_s: float = 3600.0, number: int = 1, **given: Any
) -> Event:
    """Return an event with the catalogue's defaults for what is not given."""
    kind = load_fault(f"telemetry.{fault}")
    findings: list[Any] = []
    values = kind.read(given, findings)
    assert not findings, findings
    params = {param.key: param.in_event(values[name]) for name, param in kind.params.items()}
    start_ns, length_ns = round(at_s * SECOND_NS), round(for_s * SECOND_NS)
    return Event(number, kind.fault, rows or (0,), start_ns, start_ns + length_ns, params)


@st.composite
def events(draw: st.DrawFn, rows: int = 1, number: int = 1, faults: tuple[str, ...] = FAULTS) -> Event:
    """Draw a fault of telemetry on some of the first `rows` devices."""
    kind = load_fault(draw(st.sampled_from(faults)))
    given = {
        name: draw(st.sampled_from(param.of) if param.of is not None else NUMBERS[name])
        for name, param in kind.params.items()
    }
    targets = sorted(draw(st.sets(st.integers(0, rows - 1), min_size=1)))
    at_s, for_s = draw(st.integers(0, 60)), draw(st.integers(1, 600))
    return event(
        kind.fault.removeprefix("telemetry."), *targets, at_s=at_s, for_s=for_s, number=number, **given
    )


def in_force(some: list[Event], now_ns: int) -> list[Event]:
    """Return the events in force at an instant."""
    return [one for one in some if one.start_ns <= now_ns < one.end_ns]
