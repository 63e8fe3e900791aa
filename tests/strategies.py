"""What the tests of the plant draw from: device types, and the lives devices lead.

Rule of this file: valid values only, no expectations.  Delays are seconds and batteries are small, so that a
life of a few seconds passes through every status.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from ridethrough.emulator import _kernel
from ridethrough.emulator.fields import CONTROL, INPUT
from ridethrough.emulator.plant import Advance, Plant
from ridethrough.emulator.profile import DeviceProfile


def home(**changes: dict[str, Any]) -> DeviceProfile:
    """Return a 13.5 kWh, 5 kW home with round numbers; `changes` replace single values of a section."""
    sections: dict[str, dict[str, Any]] = {
        "battery": {"energy_wh": 13_500.0},
        "inverter": {
            "power_w_discharge_max": 5000.0,
            "power_w_charge_max": 5000.0,
            "power_w_surge": 7000.0,
            "ramp_w_per_s": 5000.0,
            "loss_a_w": 97.0,
            "loss_b_w": 113.0,
            "loss_c_w": 27.0,
            "standby_w": 15.0,
        },
        "island": {"transfer": "fast"},
        "control": {"revert_state": "idle", "has_reserve": True, "power_w_recharge": 2500.0},
        "face": {"model": "test", "models": (1,)},
    }
    for name, values in changes.items():
        sections[name] = sections[name] | values
    return DeviceProfile.model_validate({"profile": "test", "description": "test", **sections})


@dataclass(frozen=True)
class Segment:
    """What one device meets for a while; powers are shares of its discharge rating."""

    grid_good: float = 1.0
    load_share: float = 0.0
    pv_share: float = 0.0
    writes: dict[str, float] = field(default_factory=dict)
    """Settings written before the segment; names ending in `_w` hold shares of the rating too."""


@dataclass(frozen=True)
class Life:
    """One device and what it meets."""

    profile: DeviceProfile
    soc_place: float
    """Initial SoC: 0 is the floor of its window, 1 the ceiling."""
    soh_frac: float
    backup_frac: float
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Fleet:
    """Devices that live through the same spans of time."""

    ticks: tuple[int, ...]
    lives: tuple[Life, ...]

    def plant(self, advance: Advance = _kernel.advance) -> Plant:
        """Return the plant at the start of the lives."""
        soc = []
        for life in self.lives:
            low, high = life.profile.battery.soc_frac_min, life.profile.battery.soc_frac_max
            soc.append(min(max(low + (high - low) * life.soc_place, low), high))
        return Plant(
            [life.profile for life in self.lives],
            soc_frac=soc,
            soh_frac=[life.soh_frac for life in self.lives],
            backup_frac=[life.backup_frac for life in self.lives],
            advance=advance,
        )

    def enter(self, plant: Plant, k: int) -> None:
        """Let segment `k` begin: set the world, write the settings."""
        now = [life.segments[k] for life in self.lives]
        rating = [life.profile.inverter.power_w_discharge_max for life in self.lives]
        plant.set_input("grid_good", [s.grid_good for s in now])
        plant.set_input("load_w", [s.load_share * w for s, w in zip(now, rating, strict=True)])
        plant.set_input("pv_w_available", [s.pv_share * w for s, w in zip(now, rating, strict=True)])
        for name in sorted({name for s in now for name in s.writes}):
            values = plant.controls(name)
            for d, s in enumerate(now):
                if name in s.writes:
                    values[d] = s.writes[name] * (rating[d] if name.endswith("_w") else 1.0)
            plant.set_control(name, values)


def _floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


def seconds(high: float) -> st.SearchStrategy[float]:
    """Return durations from 0 to `high` [s] that need not be whole ticks."""
    return st.one_of(st.sampled_from([0.0, 0.02, 1.0]), _floats(0.0, high))


@st.composite
def profiles(draw: st.DrawFn, *, hours_max: float = 4.0) -> DeviceProfile:
    """Draw a device type with a battery of up to `hours_max` at its rating."""
    rating_w = draw(_floats(500.0, 20_000.0))
    soc_frac_min = draw(_floats(0.0, 0.3))
    soc_frac_max = draw(_floats(0.6, 1.0))
    rise = draw(_floats(0.01, 1.0)) * (soc_frac_max - soc_frac_min)
    share = _floats(0.0, 1.0)
    return home(
        battery={
            "energy_wh": rating_w
            * draw(st.one_of(_floats(0.002, 0.01), _floats(0.01, hours_max), _floats(0.5, hours_max))),
            "soc_frac_min": soc_frac_min,
            "soc_frac_max": soc_frac_max,
            "soc_frac_restart": min(soc_frac_min + rise, soc_frac_max),  # the sum may round up
        },
        inverter={
            "power_w_discharge_max": rating_w,
            "power_w_charge_max": rating_w * draw(_floats(0.2, 1.2)),
            "power_w_surge": rating_w * draw(_floats(1.0, 2.0)),
            "surge_s": draw(seconds(2.0)),
            "ramp_w_per_s": rating_w * draw(st.one_of(_floats(0.05, 2.0), _floats(2.0, 100.0))),
            "loss_a_w": rating_w * 0.03 * draw(share),
            "loss_b_w": rating_w * 0.03 * draw(share),
            "loss_c_w": rating_w * 0.02 * draw(share),
            "standby_w": rating_w * 0.01 * draw(share),
            "enter_delay_s": draw(seconds(4.0)),
            "enter_ramp_s": draw(seconds(4.0)),
        },
        island={
            "transfer": draw(st.sampled_from(["ups", "fast", "slow", "dark"])),
            "restart_s": draw(seconds(2.0)),
            "pv_return_s": draw(seconds(2.0)),
            "cancels_grants": draw(st.booleans()),
        },
        control={
            "revert_state": (revert := draw(st.sampled_from(["idle", "self_consumption", "recharge"]))),
            "has_reserve": draw(st.booleans()) or revert == "recharge",
            "reserve_soc_frac": draw(share),
            "power_w_recharge": rating_w * draw(_floats(0.05, 1.5)),
            "recharge_band_frac": draw(_floats(0.0, 0.1)),
        },
    )


def writes() -> st.SearchStrategy[dict[str, float]]:
    """Draw what a client may write at once: a command, a limit, a window, a permit, a reserve, or nothing."""
    flag = st.sampled_from([0.0, 1.0])
    ticks = st.one_of(st.just(0), st.integers(1, 160)).map(float)
    power, part = _floats(-1.5, 1.5), _floats(-1.0, 1.0)
    return st.one_of(
        st.just({}),
        st.fixed_dictionaries(
            {
                "set_ena": flag,
                "set_w": power,
                "set_rvrt_ena": flag,
                "set_rvrt_w": power,
                "set_rvrt_ticks": ticks,
            }
        ),
        st.fixed_dictionaries(
            {
                "limit_ena": flag,
                "limit_frac": _floats(0.0, 1.0),
                "limit_rvrt_ena": flag,
                "limit_rvrt_frac": _floats(0.0, 1.0),
                "limit_rvrt_ticks": ticks,
            }
        ),
        st.fixed_dictionaries(
            {
                "window_in_ena": flag,
                "window_in_frac": part,
                "window_out_ena": flag,
                "window_out_frac": part,
                "window_rvrt_ticks": ticks,
            }
        ),
        st.fixed_dictionaries({"permit": flag, "permit_rvrt_ticks": ticks}),
        st.fixed_dictionaries({"reserve_frac": _floats(0.0, 1.0)}),
    )


def segments() -> st.SearchStrategy[Segment]:
    """Draw what one device meets for a while."""
    return st.builds(
        Segment,
        grid_good=st.sampled_from([1.0, 0.0]),
        load_share=st.one_of(_floats(0.0, 0.9), _floats(0.9, 2.2), _floats(1.0, 4.0)),
        pv_share=st.one_of(st.just(0.0), _floats(0.0, 1.5)),
        writes=writes(),
    )


@st.composite
def fleets(draw: st.DrawFn, *, n_max: int = 3, spans_max: int = 5, ticks_max: int = 160) -> Fleet:
    """Draw 1 to `n_max` devices that live through 1 to `spans_max` spans of up to `ticks_max` ticks."""
    span = st.one_of(st.sampled_from([1, 49, 50, 51, 100]), st.integers(0, ticks_max))
    ticks = tuple(draw(st.lists(span, min_size=1, max_size=spans_max)))
    lives = st.builds(
        Life,
        profile=profiles(),
        soc_place=st.one_of(st.sampled_from([0.0, 1.0]), _floats(0.0, 0.1), _floats(0.0, 1.0)),
        soh_frac=_floats(0.5, 1.0),
        backup_frac=st.one_of(st.just(1.0), _floats(0.0, 1.0)),
        segments=st.lists(segments(), min_size=len(ticks), max_size=len(ticks)).map(tuple),
    )
    return Fleet(ticks, tuple(draw(st.lists(lives, min_size=1, max_size=n_max))))


def randomize(plant: Plant, rng: np.random.Generator, *, names: Sequence[str] = (*INPUT, *CONTROL)) -> None:
    """Give every device of `plant` new random inputs and settings of the given names."""
    rating = plant.params("power_w_discharge_max")
    u = rng.uniform
    n = plant.n

    def flag(chance: float) -> Any:
        return (u(size=n) < chance).astype(np.float64)

    drawn = {
        "grid_good": flag(0.6),
        "load_w": rating * u(0.0, 1.6, n),
        "pv_w_available": rating * u(0.0, 1.5, n) * flag(0.6),
        "permit": flag(0.8),
        "reserve_frac": u(0.0, 1.0, n),
        "set_w": rating * u(-1.5, 1.5, n),
        "set_rvrt_w": rating * u(-1.5, 1.5, n),
        "limit_frac": u(0.0, 1.0, n),
        "limit_rvrt_frac": u(0.0, 1.0, n),
        "window_in_frac": u(-1.0, 1.0, n),
        "window_out_frac": u(-1.0, 1.0, n),
    }
    for name in names:
        if name.endswith("_ena"):
            drawn[name] = flag(0.3)
        if name.endswith("rvrt_ticks"):
            drawn[name] = np.floor(u(0.0, 300.0, n)) * flag(0.6)
        if name in INPUT and name in drawn:
            plant.set_input(name, drawn[name])
        elif name in drawn:
            plant.set_control(name, drawn[name])
