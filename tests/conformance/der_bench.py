"""A bench for single devices: what happens to them when, and what they then do.

Duty: many devices as lanes of one plant, each with events of its own; a record of what they gave.  All
devices here are rated 10 kW and 10 kVA, have a battery too large to matter and no losses, so that what
remains is the response of the grid-support functions.

``python -m tests.conformance.der_bench`` prints the table that docs/conformance.md holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ridethrough.emulator.fields import CONTROL, INPUT, LANES, PARAM, RIDE, STATE, STATUS, TICKS_PER_S
from ridethrough.emulator.grid_settings import GridSettings, Point, Trip, default_settings
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile

from tests.conformance.witness import RATED, Floats, Segment

TICK_S = 1.0 / TICKS_PER_S
ON_GRID, ENTER = float(STATUS.index("on_grid")), float(STATUS.index("enter"))
CESSATION, RIDE_THROUGH = float(RIDE.index("cessation")), float(RIDE.index("ride_through"))
RECORDED = ("power_w", "reactive_var", "status", "ride", "energy_j")

Event = tuple[float, Mapping[str, float] | GridSettings]
"""From a time on [s]: fields of INPUT, CONTROL and PARAM with their values, or settings."""


def device(**changes: Mapping[str, Any]) -> DeviceProfile:
    """Return the device under test; `changes` replace single values of a section."""
    sections: dict[str, dict[str, Any]] = {
        "battery": {"energy_wh": 1e6, "soc_frac_min": 0.0, "soc_frac_restart": 0.1},
        "inverter": {
            "power_w_discharge_max": RATED,
            "power_w_charge_max": RATED,
            "power_w_surge": RATED,
            "ramp_w_per_s": 1e8,
            "loss_a_w": 0.0,
            "loss_b_w": 0.0,
            "loss_c_w": 0.0,
            "standby_w": 0.0,
            "apparent_va_max": RATED,
        },
        "island": {"transfer": "fast", "capable": False},
        "control": {"revert_state": "idle", "has_reserve": False, "power_w_recharge": RATED},
        "face": {"model": "device under test", "models": (1,)},
        "grid": {},
    }
    for name, values in changes.items():
        sections[name] = sections[name] | dict(values)
    return DeviceProfile.model_validate({"profile": "under-test", "description": "test", **sections})


@dataclass(frozen=True)
class Lane:
    """One device and what happens to it."""

    events: tuple[Event, ...]
    settings: GridSettings
    profile: DeviceProfile
    soc_frac: float = 0.5


def lane(
    events: Iterable[Event],
    *,
    profile: DeviceProfile | None = None,
    settings: GridSettings | None = None,
    soc_frac: float = 0.5,
) -> Lane:
    """Return a lane; without settings, those from the factory."""
    profile = profile or device()
    return Lane(tuple(events), settings or default_settings(profile), profile, soc_frac)


def must_trip(settings: GridSettings, side: str) -> tuple[Point, ...]:
    """Return the must-trip limits of a side."""
    trip: Trip = getattr(settings, side)
    return trip.must


def with_must_trip(settings: GridSettings, side: str, must: Sequence[Point]) -> GridSettings:
    """Return settings with other must-trip limits on one side."""
    changes: dict[str, Any] = {side: replace(getattr(settings, side), must=tuple(must))}
    return replace(settings, **changes)


def ask(power_frac: float) -> dict[str, float]:
    """Return the fields of a set-point, as a share of the rating."""
    return {"set_ena": 1.0, "set_w": power_frac * RATED}


def held(segments: Iterable[Segment]) -> list[Event]:
    """Return the events of a profile of voltage, frequency and power."""
    return [(t, {"voltage_pu": v, "frequency_hz": f, **ask(p)}) for t, v, f, p in segments]


def slope(name: str, begin: tuple[float, float], end: tuple[float, float]) -> list[Event]:
    """Return the events of a quantity that moves evenly from one (time, value) to another, tick by tick."""
    (t0, x0), (t1, x1) = begin, end
    count = round((t1 - t0) * TICKS_PER_S)
    return [(t0 + k * TICK_S, {name: x0 + (x1 - x0) * (k + 1) / count}) for k in range(count)]


@dataclass(frozen=True)
class Played:
    """What the devices did: times of the samples, shape (m,), and columns of shape (m, n)."""

    time_s: Floats
    columns: Mapping[str, Floats]

    def of(self, name: str, d: int) -> Floats:
        """Return one quantity of one device, shape (m,)."""
        return self.columns[name][:, d]

    def at(self, name: str, d: int, time_s: float) -> float:
        """Return a quantity at a time that was sampled."""
        k = int(np.searchsorted(self.time_s, time_s - 1e-6))
        assert abs(self.time_s[k] - time_s) < 1e-6, f"{time_s} s was not sampled"
        return float(self.columns[name][k, d])

    def last_export_s(self, d: int, power_w_least: float = 1.0) -> float:
        """Return the end of the last sample in which a device gave or took power."""
        moving = np.flatnonzero(np.abs(self.of("power_w", d)) > power_w_least)
        return float(self.time_s[moving[-1]]) if moving.size else 0.0


def regular(step_s: float, end_s: float, begin_s: float = 0.0) -> Floats:
    """Return sample times, evenly spaced: after each step."""
    return begin_s + step_s * np.arange(1, round((end_s - begin_s) / step_s) + 1, dtype=np.float64)


def play(lanes: Sequence[Lane], sample_s: Floats, *, step_s: float = TICK_S) -> Played:
    """Let all devices live through their events and record them at the sample times.

    An event acts from its time on; a sample shows what the step that ends at its time has given.
    """
    plant = Plant([x.profile for x in lanes], soc_frac=[x.soc_frac for x in lanes], step_s=step_s)
    for d, x in enumerate(lanes):
        plant.set_settings(d, x.settings)
        first = next((e for t, e in x.events if t == 0.0 and not isinstance(e, GridSettings)), {})
        plant.state[d // LANES, STATE.index("power_w"), d % LANES] = first.get("set_w", 0.0)
        # As long before the test: the ramp of entering service is done, the reference voltage at its setting.
        for name, source in (("ramp_ticks", "enter_ramp_ticks"), ("volt_var_ref_pu_now", "volt_var_ref_pu")):
            plant.state[d // LANES, STATE.index(name), d % LANES] = plant.controls(source)[d]
    due = sorted(
        ((round(t * TICKS_PER_S), d, what) for d, x in enumerate(lanes) for t, what in x.events),
        key=lambda event: event[0],
    )
    samples = [round(float(t) * TICKS_PER_S) for t in sample_s]
    columns = {name: np.empty((len(samples), len(lanes))) for name in RECORDED}
    now, next_due = 0, 0
    for k, sample in enumerate(samples):
        while now < sample:
            while next_due < len(due) and due[next_due][0] <= now:
                _apply(plant, due[next_due][1], due[next_due][2])
                next_due += 1
            until = min(sample, due[next_due][0]) if next_due < len(due) else sample
            plant.advance(until - now)
            now = until
        for name, column in columns.items():
            column[k] = plant.states(name)
    return Played(np.asarray(sample_s, dtype=np.float64), columns)


def _apply(plant: Plant, d: int, what: Mapping[str, float] | GridSettings) -> None:
    if isinstance(what, GridSettings):
        plant.set_settings(d, what)
        return
    for name, value in what.items():
        array, names = next(
            (array, names)
            for array, names in ((plant.input, INPUT), (plant.control, CONTROL), (plant.param, PARAM))
            if name in names
        )
        array[d // LANES, names.index(name), d % LANES] = value
    plant.touch()


def main() -> None:
    """Print the tables of docs/conformance.md."""
    from tests.conformance.table import table  # it stands on this file

    for line in table():
        print(line)


if __name__ == "__main__":
    main()
