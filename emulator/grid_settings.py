"""Settings of the grid-support functions from the factory; and, in one place, all that a user of them needs.

Duty: `default_settings` gives what a device type leaves the factory with.  What settings are is in
`grid_types`, whether they may be taken in `grid_check`, what the kernel needs of them in `grid_control`, and
how SunSpec curves show them in `grid_curves`.

IEEE 1547 speaks of 60 Hz.  For a device of 50 Hz its frequencies are scaled by 50/60 and rounded to 0.01 Hz
(dead bands to 0.0001 Hz): assumed.  A real one follows EN 50549-1, which is not modelled.

Sources: defaults as in the parameter file of EPRI OpenDER and its choices by category, which follow the
tables of IEEE 1547-2018 with amendment 1547a-2020; ride-through times as in its ride-through criteria.
"""

from __future__ import annotations

from typing import Final

from .grid_check import check
from .grid_control import control_values
from .grid_types import (
    ConstantPf,
    ConstantVar,
    Droop,
    EnterService,
    Excitation,
    GridSettings,
    Point,
    PowerFactor,
    Ratings,
    SettingError,
    Trip,
    VarBase,
    VoltVar,
    VoltWatt,
    WattVar,
    at_nominal_hz,
    ratings,
)
from .profile import DeviceProfile

__all__ = [
    "ConstantPf",
    "ConstantVar",
    "Droop",
    "EnterService",
    "Excitation",
    "GridSettings",
    "Point",
    "PowerFactor",
    "Ratings",
    "SettingError",
    "Trip",
    "VarBase",
    "VoltVar",
    "VoltWatt",
    "WattVar",
    "at_nominal_hz",
    "check",
    "control_values",
    "default_settings",
    "ratings",
]


def default_settings(profile: DeviceProfile) -> GridSettings:
    """Return the settings from the factory: the standard's by category, the profile's own where it has any.

    Reactive power of the default curves is cut to what the device has.
    """
    grid, inverter = profile.grid, profile.inverter
    inject = min(0.25 if grid.normal == "A" else 0.44, inverter.var_frac_inject)
    absorb = min(0.25 if grid.normal == "A" else 0.44, inverter.var_frac_absorb)
    knots = (0.90, 1.00, 1.00, 1.10) if grid.normal == "A" else (0.92, 0.98, 1.02, 1.08)
    pf = PowerFactor(grid.function == "power_factor", 1.0, "over")
    dead_hz = at_nominal_hz(0.036, profile, 4)
    return GridSettings(
        enter=EnterService(
            voltage_pu_min=0.917,
            voltage_pu_max=1.05,
            frequency_hz_min=at_nominal_hz(59.5, profile),
            frequency_hz_max=at_nominal_hz(60.1, profile),
            delay_s=inverter.enter_delay_s,
            random_s=grid.enter_random_s,
            ramp_s=inverter.enter_ramp_s,
        ),
        pf=ConstantPf(pf, pf),
        var=ConstantVar(grid.function == "var", 0.0),
        volt_var=VoltVar(
            enabled=grid.function == "volt_var",
            points=tuple(zip(knots, (inject, 0.0, 0.0, -absorb), strict=True)),
            var_base="va_max",
            ref_pu=1.0,
            auto=False,
            auto_s=300.0,
            response_s=10.0 if grid.normal == "A" else 5.0,
        ),
        volt_watt=VoltWatt(grid.volt_watt, ((1.06, 1.0), (1.10, 0.0)), 10.0),
        watt_var=WattVar(
            enabled=grid.function == "watt_var",
            generate=((0.2, 0.0), (0.5, 0.0), (1.0, -absorb)),
            # Table 9: category A too can inject 0.44, and is asked to here.
            absorb=((-0.2, 0.0), (-0.5, 0.0), (-1.0, min(0.44, inverter.var_frac_inject))),
            var_base="va_max",
        ),
        # A battery can charge at high frequency: nothing but its rating is its least power.
        droop=Droop(grid.droop, dead_hz, dead_hz, 0.05, 0.05, 5.0, -1.0),
        under_voltage=_UNDER_VOLTAGE[grid.abnormal],
        over_voltage=_OVER_VOLTAGE[grid.abnormal],
        under_frequency=_scaled(_UNDER_FREQUENCY, profile),
        over_frequency=_scaled(_OVER_FREQUENCY, profile),
    )


# The may-trip curves keep the two levels at which the standard asks for the longest ride-through: a device
# that takes the permission then never trips while it must stay, though in the standard's steps between the
# levels it stays longer than it must.
_UNDER_VOLTAGE: Final = {
    "I": Trip(((0.70, 2.0), (0.45, 0.16)), ((0.88, 1.42), (0.70, 0.16)), 0.50),
    "II": Trip(((0.70, 10.0), (0.45, 0.16)), ((0.88, 5.0), (0.45, 0.16)), 0.30),
    "III": Trip(((0.88, 21.0), (0.50, 2.0)), ((0.88, 20.0), (0.50, 1.0)), 0.50),
}
"""Tables 11 to 16, with the end of each slanted ride-through limit: 0.7 s + 4 s/pu (V - 0.70) is 1.42 s at
0.88 pu, 3 s + 8.7 s/pu (V - 0.65) is 5.0 s.  Categories I and II cease to energise beyond the last limit."""
_OVER_VOLTAGE: Final = {
    "I": Trip(((1.10, 2.0), (1.20, 0.16)), ((1.10, 1.0), (1.20, 0.0)), 1.20),
    "II": Trip(((1.10, 2.0), (1.20, 0.16)), ((1.10, 1.0), (1.20, 0.0)), 1.20),
    "III": Trip(((1.10, 13.0), (1.20, 0.16)), ((1.10, 12.0), (1.20, 0.0)), 1.10),
}
_UNDER_FREQUENCY: Final = Trip(((58.5, 300.0), (56.5, 0.16)), ((58.8, 299.0), (57.0, 0.0)), None)
_OVER_FREQUENCY: Final = Trip(((61.2, 300.0), (62.0, 0.16)), ((61.2, 299.0), (61.8, 0.0)), None)
"""Tables 18 and 19."""


def _scaled(trip: Trip, profile: DeviceProfile) -> Trip:
    """Return frequency limits for the device's own nominal frequency."""
    must, may = (
        tuple((at_nominal_hz(hz, profile), seconds) for hz, seconds in levels)
        for levels in (trip.must, trip.may)
    )
    return Trip(must, may, None)
