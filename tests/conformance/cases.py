"""Cases that are run by OpenDER and by the emulator: the stored traces and more.

Duty: for each case what both are told, and the band in which their answers may lie apart, step by step.  The
band is what the discretisations differ by (`witness`), worked out from the inputs of the case; what is not
discretisation is said where it is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ridethrough.emulator.grid_settings import GridSettings, default_settings
from ridethrough.emulator.profile import DeviceProfile

from tests.conformance.der_bench import Event, device, must_trip, with_must_trip
from tests.conformance.opender_live import Command, Kind
from tests.conformance.witness import RATED, Curve, Floats, Segment, along, apart, bilinear, droop, exact

Bands = tuple[Floats, Floats]
"""Allowed difference of active [W] and reactive power [var], one value per step of OpenDER."""
Band = Callable[[Floats, Floats, Floats, float], Bands]
"""From voltage, frequency, power asked [W] of each step, and the length of the step [s]."""

TOLERANCE = 0.01
"""For what the traces round to, in W and var."""

VV_A: Curve = ((0.90, 0.25), (1.00, 0.0), (1.10, -0.25))
VV_B: Curve = ((0.92, 0.44), (0.98, 0.0), (1.02, 0.0), (1.08, -0.44))


@dataclass(frozen=True)
class Case:
    """One case: what both are told."""

    name: str
    note: str
    kind: Kind
    segments: tuple[Segment, ...]
    end_s: float
    step_s: float
    band: Band
    opender: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[Command, ...] = ()
    settings: Callable[[GridSettings], GridSettings] = lambda settings: settings
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    soc_frac: float = 0.5
    moving_w_per_s: float = 0.0
    """How fast active power moves by itself: a step of each is added to the band.  OpenDER ends a delay in
    the step that completes it and moves at once; the emulator begins the step after, from where it is."""

    @property
    def profile(self) -> DeviceProfile:
        """The emulated device: OpenDER's PV has no reactive power without active power and cannot charge."""
        sections = {name: dict(values) for name, values in self.sections.items()}
        if self.kind == "PV":
            sections["inverter"] = {"var_at_no_power": False} | sections.get("inverter", {})
        return device(**sections)

    @property
    def in_force(self) -> GridSettings:
        """The emulated device's settings."""
        settings = default_settings(self.profile)
        if self.kind == "PV":
            settings = replace(settings, droop=replace(settings.droop, power_frac_min=0.0))
        return self.settings(settings)


def same(v: Floats, _f: Floats, _p: Floats, _step_s: float) -> Bands:
    """Return the band of a case without a lag."""
    return np.full_like(v, TOLERANCE), np.full_like(v, TOLERANCE)


def by_volt_var(curve: Curve, response_s: float) -> Band:
    """Return the band of reactive power after volt-var's lag."""

    def band(v: Floats, f: Floats, p: Floats, step_s: float) -> Bands:
        none, _ = same(v, f, p, step_s)
        return none, apart(RATED * along(curve, v), response_s, step_s) + TOLERANCE

    return band


def by_volt_watt(curve: Curve, response_s: float) -> Band:
    """Return the band of active power under volt-watt's lagged limit."""

    def band(v: Floats, f: Floats, p: Floats, step_s: float) -> Bands:
        none, _ = same(v, f, p, step_s)
        return apart(RATED * along(curve, v), response_s, step_s) + TOLERANCE, none

    return band


def by_droop(base_w: float, response_s: float = 5.0) -> Band:
    """Return the band of active power after droop's lag, from the power before it.

    Back in the dead band OpenDER ends the function within 0.001 of rating of its target, the emulator within
    a milliwatt.
    """

    def band(v: Floats, f: Floats, p: Floats, step_s: float) -> Bands:
        none, _ = same(v, f, p, step_s)
        moved = np.clip(RATED * droop(f), -RATED - base_w, RATED - base_w)
        rests = (moved == 0.0) & (np.cumsum(np.abs(moved)) > 0.0)
        return apart(moved, response_s, step_s) + TOLERANCE + np.where(rests, 1e-3 * RATED, 0.0), none

    return band


def by_power_factor(var_per_w: float, response_s: float) -> Band:
    """Return the band of OpenDER's lagged constant power factor around the emulator's, which has no lag."""

    def band(v: Floats, f: Floats, p: Floats, step_s: float) -> Bands:
        none, _ = same(v, f, p, step_s)
        target = var_per_w * p
        return none, np.abs(target - bilinear(target, response_s, step_s)) + TOLERANCE

    return band


def by_own_reference(time_s: float, curve: Curve, response_s: float) -> Band:
    """Return the band of volt-var whose reference follows the voltage through a lag of its own."""

    def band(v: Floats, f: Floats, p: Floats, step_s: float) -> Bands:
        none, _ = same(v, f, p, step_s)
        answers = []
        for lag, slow_s in ((exact, time_s * np.log(10.0)), (bilinear, time_s * 2.3)):
            ref = np.clip(lag(v, slow_s, step_s), 0.95, 1.05)
            answers.append(lag(RATED * along(curve, v - (ref - 1.0)), response_s, step_s))
        return none, np.abs(answers[0] - answers[1]) + TOLERANCE

    return band


def nearly_full(from_s: float, rest_w: float) -> Band:
    """Return the band of a battery that is full soon after a time, and has a little room left after that.

    The emulator bounds charging by the room in the cells and leaves out what is lost on the way to them: a
    step fills 95 % of it, and the next ones the rest.
    """

    def band(v: Floats, f: Floats, p: Floats, step_s: float) -> Bands:
        none, still = same(v, f, p, step_s)
        late = step_s * np.arange(1, v.size + 1) >= from_s
        return none + np.where(late, rest_w, 0.0), still

    return band


def volt_var_on(settings: GridSettings) -> GridSettings:
    """Enable volt-var."""
    return replace(settings, volt_var=replace(settings.volt_var, enabled=True))


def volt_watt_on(settings: GridSettings) -> GridSettings:
    """Enable volt-watt."""
    return replace(settings, volt_watt=replace(settings.volt_watt, enabled=True))


def power_factor(factor: float) -> Callable[[GridSettings], GridSettings]:
    """Return what sets a constant power factor, absorbing."""

    def change(settings: GridSettings) -> GridSettings:
        inject = replace(settings.pf.inject, enabled=True, factor=factor, excitation="under")
        return replace(settings, pf=replace(settings.pf, inject=inject))

    return change


def entering(delay_s: float, ramp_s: float) -> Callable[[GridSettings], GridSettings]:
    """Return what sets delay and ramp of entering service."""
    return lambda settings: replace(settings, enter=replace(settings.enter, delay_s=delay_s, ramp_s=ramp_s))


def tripping(side: str, level: int, seconds: float) -> Callable[[GridSettings], GridSettings]:
    """Return what sets the time of one trip limit."""

    def change(settings: GridSettings) -> GridSettings:
        must = list(must_trip(settings, side))
        must[level - 1] = (must[level - 1][0], seconds)
        return with_must_trip(settings, side, must)

    return change
