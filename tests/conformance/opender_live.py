"""Runs EPRI OpenDER 2.2.0 (BSD-3-Clause) beside the emulator, one device at a time.

Duty: the same profile of voltage, frequency and power for OpenDER, and its answers as a trace.

Rules of this file: OpenDER keeps the step length in a class; whoever changes it puts it back.  It is imported
where it is run, so that the stored traces can be compared without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Literal

import numpy as np

from tests.conformance.witness import RATED, Floats, Segment, steps

INSTALLED: Final = find_spec("opender") is not None
ABSENT: Final = "OpenDER is not installed (pip install opender==2.2.0)"

Kind = Literal["PV", "BESS"]
Command = tuple[float, str, Any]
"""From the step that begins at a time [s]: an OpenDER setting and its value."""

NAMEPLATE = {
    "NP_PHASE": "SINGLE",
    "NP_AC_V_NOM": 240,
    "NP_P_MAX": RATED,
    "NP_VA_MAX": RATED,
    "NP_Q_MAX_INJ": 0.44 * RATED,
    "NP_Q_MAX_ABS": 0.44 * RATED,
    "NP_P_MAX_CHARGE": RATED,
    "NP_APPARENT_POWER_CHARGE_MAX": RATED,
    "NP_NORMAL_OP_CAT": "CAT_B",
    "NP_ABNORMAL_OP_CAT": "CAT_III",
}
SNAPSHOT_S = 100_000.0
"""A step this long leaves every lag at its end: OpenDER's snapshot analysis."""


@dataclass(frozen=True)
class Trace:
    """What OpenDER gave: ends of its steps, shape (m,), and its outputs; states are off, ceased and on."""

    time_s: Floats
    power_w: Floats
    reactive_var: Floats
    state: tuple[str, ...]


def state_of(status: str) -> str:
    """Return the state that a status of OpenDER amounts to."""
    if status == "Trip":
        return "off"
    return "ceased" if status in ("Momentary Cessation", "Cease to Energize") else "on"


@contextmanager
def step_length(step_s: float) -> Iterator[None]:
    """Let OpenDER step by this much."""
    import opender  # type: ignore[import-untyped]  # it publishes no types

    before, level = opender.DER.t_s, logging.root.level
    opender.DER.t_s = step_s
    logging.root.setLevel(logging.ERROR)  # it warns at every step of a full or empty battery
    try:
        yield
    finally:
        opender.DER.t_s = before
        logging.root.setLevel(level)


def make(kind: Kind, settings: Mapping[str, Any]) -> Any:
    """Return one of OpenDER's devices."""
    import opender

    der = (opender.DER_PV if kind == "PV" else opender.DER_BESS)(**{**NAMEPLATE, **settings})
    if "P_CHARGE_MAX_PU" in settings:
        # It reads these curves before it takes its arguments (defect 10).
        der.der_file.initialize_NP_BESS_P_MAX_BY_SOC()
    return der


def feed(der: Any, kind: Kind, v: float, f: float, p: float) -> None:
    """Give a device its inputs."""
    name = "p_dc_w" if kind == "PV" else "p_dem_w"
    der.update_der_input(**{name: p * RATED}, v_pu=v, theta=0.0, f=f)


def simulate(
    kind: Kind,
    settings: Mapping[str, Any],
    segments: Sequence[Segment],
    end_s: float,
    step_s: float,
    commands: Sequence[Command] = (),
) -> Trace:
    """Return what OpenDER does with a profile."""
    with step_length(step_s):
        der = make(kind, settings)
        ends, held = steps(segments, step_s, end_s)
        due = list(commands)
        power, reactive, states = np.empty_like(ends), np.empty_like(ends), []
        for k, end in enumerate(ends):
            while due and due[0][0] <= end - 0.5 * step_s:
                _, name, value = due.pop(0)
                setattr(der.der_file, name, value)
            feed(der, kind, *held[k])
            power[k], reactive[k] = der.run()
            states.append(state_of(der.der_status))
    return Trace(ends, power, reactive, tuple(states))
