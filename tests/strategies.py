"""What the tests of the plant draw from: the lives devices lead.

Rule of this file: valid values only, no expectations.  The device types are in `devices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from ridethrough.emulator import _kernel
from ridethrough.emulator.fields import CONTROL, INPUT
from ridethrough.emulator.grid_types import GridSettings
from ridethrough.emulator.model.island import reach, shed_frac
from ridethrough.emulator.plant import Advance, Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.reference import load

from tests.devices import floats, grid_settings, home, profiles, seconds

__all__ = [
    "Fleet",
    "Life",
    "Segment",
    "fleets",
    "grid_settings",
    "home",
    "lives",
    "profiles",
    "randomize",
    "seconds",
    "segments",
    "writes",
]

IN_RATINGS: Final = frozenset({"set_w", "set_rvrt_w", "var_var"})
"""Settings that segments hold as shares of the discharge rating."""


@dataclass(frozen=True)
class Segment:
    """What one device meets for a while; powers are shares of its discharge rating."""

    grid_good: float = 1.0
    grid_held: float = 0.0
    voltage_pu: float = 1.0
    frequency_share: float = 1.0
    """Of the nominal frequency."""
    community: float = 0.0
    share_place: float = 0.0
    """What a member gives: 1 is all it can give now, -1 all it can take."""
    share_var: float = 0.0
    share_pv_frac: float = 1.0
    share_pu: float = 1.0
    share_hz_share: float = 1.0
    """Of the nominal frequency."""
    ambient_c: float = 25.0
    load_share: float = 0.0
    pv_share: float = 0.0
    settings: GridSettings | None = None
    """Put in force before the segment."""
    writes: dict[str, float] = field(default_factory=dict)
    """Fields written after that; those of `IN_RATINGS` hold shares of the rating too."""


@dataclass(frozen=True)
class Life:
    """One device and what it meets."""

    profile: DeviceProfile
    soc_place: float
    """Initial SoC: 0 is the floor of its window, 1 the ceiling."""
    soh_frac: float
    backup_frac: float
    segments: tuple[Segment, ...]
    load_var_per_w: float = 0.0
    random_share: float = 0.0


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
            load_var_per_w=[life.load_var_per_w for life in self.lives],
            random_share=[life.random_share for life in self.lives],
            advance=advance,
        )

    def enter(self, plant: Plant, k: int) -> None:
        """Let segment `k` begin: set the world, write the settings."""
        now = [life.segments[k] for life in self.lives]
        rating = plant.params("power_w_discharge_max")
        for name in (
            "grid_good",
            "grid_held",
            "voltage_pu",
            "community",
            "share_pv_frac",
            "share_pu",
            "ambient_c",
        ):
            plant.set_input(name, [getattr(s, name) for s in now])
        plant.set_input("share_hz", [s.share_hz_share for s in now] * plant.params("hz_nominal"))
        plant.set_input("frequency_hz", [s.frequency_share for s in now] * plant.params("hz_nominal"))
        for name, shares in (
            ("load_w", [s.load_share for s in now]),
            ("pv_w_available", [s.pv_share for s in now]),
            ("share_var", [s.share_var for s in now]),
        ):
            plant.set_input(name, shares * rating)
        self.share(plant, k)
        for d, s in enumerate(now):
            if s.settings is not None:
                plant.set_settings(d, s.settings)
        for name in sorted({name for s in now for name in s.writes}):
            values = plant.controls(name)
            for d, s in enumerate(now):
                if name in s.writes:
                    values[d] = s.writes[name] * (rating[d] if name in IN_RATINGS else 1.0)
            plant.set_control(name, values)

    def share(self, plant: Plant, k: int, ticks: int = 1) -> None:
        """Tell members of a community island what to give in the next `ticks`: within their reach."""
        if all(life.segments[k].community <= 0.0 for life in self.lives):
            return
        arrays = (plant.param, plant.control, plant.input, plant.state)
        p, c, _, s = load(arrays, np.arange(plant.n))
        low_w, high_w = reach(p, c, s, float(ticks))
        demand_w = plant.inputs("load_w") * plant.params("backup_frac")
        plant.set_input("share_load_w", demand_w * (1.0 - shed_frac(p, s)))
        place = np.array([life.segments[k].share_place for life in self.lives])
        plant.set_input("share_w", np.where(place < 0.0, -place * low_w, place * high_w))


def writes() -> st.SearchStrategy[dict[str, float]]:
    """Draw what a client may write at once: a command, a limit, a window, a permit, a reserve, or nothing."""
    flag = st.sampled_from([0.0, 1.0])
    ticks = st.one_of(st.just(0), st.integers(1, 160)).map(float)
    power, part = floats(-1.5, 1.5), floats(-1.0, 1.0)
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
                "limit_frac": floats(0.0, 1.0),
                "limit_rvrt_ena": flag,
                "limit_rvrt_frac": floats(0.0, 1.0),
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
        st.fixed_dictionaries({"reserve_frac": floats(0.0, 1.0)}),
        st.fixed_dictionaries({"bms_open": flag}),
        st.fixed_dictionaries({"pf_ena": flag, "pf_var_per_w": floats(-3.0, 3.0)}),
        st.fixed_dictionaries({"var_ena": flag, "var_var": part}),
    )


@st.composite
def segments(draw: st.DrawFn, profile: DeviceProfile, *, plain: bool = False) -> Segment:
    """Draw what one device meets for a while; in a `plain` world there is a grid or none, and no settings."""
    calm = Segment(
        grid_good=draw(st.sampled_from([1.0, 0.0])),
        load_share=draw(st.one_of(*[floats(0.0, 0.9)] * 3, floats(0.9, 2.2), floats(1.0, 4.0))),
        pv_share=draw(st.one_of(st.just(0.0), floats(0.0, 1.5))),
        writes=draw(writes()),
    )
    if plain or draw(st.booleans()):
        return calm
    community = draw(st.sampled_from([0.0, 0.0, 0.0, 1.0, -1.0, 2.0]))
    voltage = st.one_of(st.just(1.0), floats(0.9, 1.1), floats(0.82, 1.2), floats(0.3, 1.3), floats(0.0, 0.5))
    frequency = st.one_of(st.just(1.0), floats(0.998, 1.002), floats(0.98, 1.02), floats(0.9, 1.1))
    whole = community == 2.0  # a community returns to a grid that is there
    return replace(
        calm,
        grid_good=1.0 if whole else calm.grid_good,
        grid_held=draw(st.sampled_from([0.0, 1.0])),
        voltage_pu=1.0 if whole else draw(voltage),
        frequency_share=1.0 if whole else draw(frequency),
        community=community,
        share_place=draw(floats(-1.0, 1.0)),
        share_var=draw(st.one_of(st.just(0.0), floats(-0.5, 0.5))),
        share_pv_frac=draw(st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), floats(0.0, 1.0))),
        share_pu=draw(floats(0.88, 1.1)),
        share_hz_share=draw(floats(0.95, 1.1)),
        ambient_c=draw(st.one_of(st.just(25.0), floats(-30.0, 65.0))),
        settings=draw(st.one_of(st.none(), grid_settings(profile))),
    )


@st.composite
def lives(draw: st.DrawFn, spans: int, *, plain: bool = False) -> Life:
    """Draw one device and what it meets in so many spans."""
    profile = draw(profiles(plain=plain))
    course = tuple(draw(segments(profile, plain=plain)) for _ in range(spans))
    if draw(st.booleans()):  # as most lives go: the grid is lost, and comes back as it was
        course = tuple(
            replace(
                segment,
                grid_good=float(k % 2),
                voltage_pu=1.0,
                frequency_share=1.0,
                community=0.0,
                load_share=min(segment.load_share, 0.9),
            )
            for k, segment in enumerate(course)
        )
    return Life(
        profile=profile,
        soc_place=draw(st.one_of(st.sampled_from([0.0, 1.0]), floats(0.0, 0.1), floats(0.0, 1.0))),
        soh_frac=draw(floats(0.5, 1.0)),
        backup_frac=draw(st.one_of(st.just(1.0), floats(0.0, 1.0))),
        load_var_per_w=0.0 if plain else draw(st.one_of(st.just(0.0), floats(-1.0, 1.0))),
        random_share=0.0 if plain else draw(floats(0.0, 1.0)),
        segments=course,
    )


@st.composite
def fleets(
    draw: st.DrawFn, *, n_max: int = 3, spans_max: int = 5, ticks_max: int = 160, plain: bool = False
) -> Fleet:
    """Draw 1 to `n_max` devices that live through 1 to `spans_max` spans of up to `ticks_max` ticks."""
    span = st.one_of(st.sampled_from([1, 49, 50, 51, 100]), st.integers(0, ticks_max))
    ticks = tuple(draw(st.lists(span, min_size=1, max_size=spans_max)))
    return Fleet(ticks, tuple(draw(st.lists(lives(len(ticks), plain=plain), min_size=1, max_size=n_max))))


def randomize(plant: Plant, rng: np.random.Generator, *, names: Sequence[str] = (*INPUT, *CONTROL)) -> None:
    """Give every device of `plant` new random inputs and settings of the given names."""
    rating = plant.params("power_w_discharge_max")
    u = rng.uniform
    n = plant.n

    def flag(chance: float) -> Any:
        return (u(size=n) < chance).astype(np.float64)

    drawn = {
        "grid_good": flag(0.6),
        "grid_held": flag(0.1),
        "voltage_pu": 1.0 + (u(-0.5, 0.3, n) * flag(0.2)) * flag(0.5) + u(-0.03, 0.03, n),
        "frequency_hz": plant.params("hz_nominal") * (1.0 + u(-0.03, 0.03, n) * flag(0.2)),
        "community": np.floor(u(-1.0, 2.0, n)) * flag(0.2),
        "share_w": rating * u(0.0, 0.5, n),
        "share_var": rating * u(-0.2, 0.2, n),
        "share_pv_frac": np.maximum(u(-0.5, 1.0, n), 0.0) - flag(0.1),
        "share_pu": u(0.88, 1.1, n),
        "share_hz": plant.params("hz_nominal") * u(0.95, 1.1, n),
        "ambient_c": u(-10.0, 50.0, n),
        "bms_open": flag(0.03),
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
        "var_var": rating * u(-0.5, 0.5, n),
    }
    drawn["share_load_w"] = drawn["load_w"] * plant.params("backup_frac")
    for name in names:
        if name.endswith("_ena"):
            drawn[name] = flag(0.3)
        if name.endswith("rvrt_ticks"):
            drawn[name] = np.floor(u(0.0, 300.0, n)) * flag(0.6)
        if name in INPUT and name in drawn:
            plant.set_input(name, drawn[name])
        elif name in drawn:
            plant.set_control(name, drawn[name])
