"""All devices of a scenario as arrays, stepped together.

Rules of this file: no clock, no socket, no randomness; the caller says how many ticks pass and what the
world does meanwhile.  The arithmetic is in `_step.h` (compiled) and `reference.py` (NumPy), which give the
same bits.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _kernel
from .community import Rules
from .errors import InvariantError
from .feeder import FeederSolver
from .fields import CONTROL, INPUT, LANES, PARAM, SLOW_TICKS, STATE, STATUS, TICKS_PER_S
from .grid_settings import GridSettings, check, control_values, default_settings
from .intake import Intake, through_intake
from .model.battery import settle
from .network import Coupling
from .params import WITH_CAPACITY, params_of
from .profile import DeviceProfile
from .reference import load, store
from .wear import Wear

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Advance(Protocol):
    """The stepping function: `_kernel.advance`, or `reference.advance` with the same bits."""

    def __call__(
        self,
        param: Floats,
        control: Floats,
        inputs: Floats,
        state: Floats,
        n: int,
        ticks: int,
        *,
        coarse_ticks: int,
    ) -> None:
        """Move the first `n` devices on by `ticks` ticks, inputs held."""


NS_PER_TICK: Final = 1_000_000_000 // TICKS_PER_S
HOUR_TICKS: Final = 3600 * TICKS_PER_S
VALIDITY_TICKS_MAX: Final = 2**32 - 1
"""Longest revert timer a 32-bit count of seconds cannot overrun [ticks]."""


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    """A change of settings to come; the earliest first."""

    at: int
    device: int
    key: str
    revert: Callable[[GridSettings], GridSettings] = field(compare=False)


def _per_device(n: int, name: str, values: ArrayLike, low: float, high: float) -> Floats:
    """Return one value per device, all of them in range."""
    given = np.broadcast_to(np.asarray(values, dtype=np.float64), (n,))
    if not bool(np.all((given >= low) & (given <= high))):
        raise ValueError(f"{name} must lie in [{low}, {high}], found {given.min()} to {given.max()}")
    return given


class Plant:
    """All devices of a scenario.

    Parameters
    ----------
    profiles : sequence of DeviceProfile, length n
        One per device.
    soc_frac : array_like, shape (n,) or scalar
        Initial state of charge of the faded capacity [1]; must lie in each profile's window.
    soh_frac : array_like, shape (n,) or scalar
        State of health: faded over nominal capacity [1], in (0, 1].
    backup_frac : array_like, shape (n,) or scalar
        Share of each home's load behind its backup panel [1].
    load_var_per_w : array_like, shape (n,) or scalar
        Reactive demand of each home's load, per watt of it [var/W].
    random_share : array_like, shape (n,) or scalar
        What each device drew of its random enter-service delay, in [0, 1].
    step_s : float
        Length of a coarse step [s]; whole ticks.
    ages : bool
        Batteries lose capacity within the run, by their profile's model of ageing.
    feeder : FeederSolver, optional
        Joins the homes, in their order; their voltages then follow from the flows of the step before.
    community : Rules, optional
        Of the community island; None keeps every home alone.
    threads : int
        Cores that step a fleet together; worth it from some 20,000 devices on, without effect on the bits.
    advance : Advance, optional
        The stepping function; `reference.advance` gives the same bits slowly.

    Attributes
    ----------
    param, control, input, state : ndarray of float64, shape (tiles, fields, LANES)
        Field order and units as in `fields.py`; device d lies at ``[d // LANES, :, d % LANES]``.
    changes : ndarray of int64, shape (1,)
        `version`, where compiled code can look at it.
    intake : Intake or None
        What writes pass through.
    sag_frac : Floats, shape (n,), or None
        What is left of the feeder's voltage at each home [1].
    factory_control : ndarray of float64
        `control` as it was at the start.
    forgetters : list of callable
        Told the device whose settings were lost, see `intake.forget`.

    Notes
    -----
    What is modelled, and what is not: docs/model.md.  A device starts following the grid, ramped up.

    References
    ----------
    IEEE 1547-2018, 4.10 (enter service), 8.1 (unintentional islanding); loss polynomial after bslib 0.7.
    """

    def __init__(
        self,
        profiles: Sequence[DeviceProfile],
        *,
        soc_frac: ArrayLike = 0.9,
        soh_frac: ArrayLike = 1.0,
        backup_frac: ArrayLike = 1.0,
        load_var_per_w: ArrayLike = 0.0,
        random_share: ArrayLike = 0.0,
        step_s: float = 1.0,
        ages: bool = False,
        feeder: FeederSolver | None = None,
        community: Rules | None = None,
        threads: int = 1,
        advance: Advance = _kernel.advance,
    ) -> None:
        self.profiles = tuple(profiles)
        self.n = n = len(self.profiles)
        tiles = max(1, -(-n // LANES))
        self.param = np.zeros((tiles, len(PARAM), LANES))
        self.control = np.zeros((tiles, len(CONTROL), LANES))
        self.input = np.zeros((tiles, len(INPUT), LANES))
        self.state = np.zeros((tiles, len(STATE), LANES))
        self.changes = np.zeros(1, np.int64)
        self.intake: Intake | None = None
        self.sag_frac: Floats | None = None
        self.forgetters: list[Callable[[int], None]] = []
        if threads < 1:
            raise ValueError(f"threads must be at least 1, found {threads}")
        if threads > 1 and advance is _kernel.advance:
            advance = functools.partial(_kernel.advance_threaded, threads=threads)
        self._advance = advance
        self.step_ticks = round(step_s * TICKS_PER_S)
        if self.step_ticks < 1 or abs(self.step_ticks / TICKS_PER_S - step_s) > 1e-9:
            raise ValueError(f"step_s must be a whole number of ticks of 20 ms, found {step_s}")
        self._slow_ticks = max(SLOW_TICKS, self.step_ticks)
        shares = [
            _per_device(n, name, values, low, high)
            for name, values, low, high in (
                ("soc_frac", soc_frac, 0.0, 1.0),
                ("soh_frac", soh_frac, 1e-3, 1.0),
                ("backup_frac", backup_frac, 0.0, 1.0),
                ("load_var_per_w", load_var_per_w, -2.0, 2.0),
                ("random_share", random_share, 0.0, 1.0),
            )
        ]
        soc, soh, backup, load_var, self._random_share = shares
        self._load_params(soh, backup, load_var)
        self._due: list[_Due] = []
        self._elapsed_ticks = 0
        factory = {id(profile): profile for profile in self.profiles}
        defaults = {key: default_settings(profile) for key, profile in factory.items()}
        self._settings = [defaults[id(profile)] for profile in self.profiles]
        self._load_settings()
        self._start(soc)
        self.coupling = None
        if feeder is not None or community is not None:
            self.coupling = Coupling(self, feeder, community)
        self.wear = Wear(self.profiles, soh, self.states("energy_j")) if ages else None
        self._unfaded = self.param[:, _WITH_CAPACITY, :] / self._padded(soh)
        self._taper_unfaded = self.params("taper_per_j") * soh

    def _load_params(self, soh: Floats, backup: Floats, load_var: Floats) -> None:
        """Put the parameters of every device where the step finds them."""
        known: dict[tuple[int, float, float, float], dict[str, float]] = {}  # most fleets have few kinds
        columns = []
        for d, profile in enumerate(self.profiles):
            key = (id(profile), float(soh[d]), float(backup[d]), float(load_var[d]))
            if key not in known:
                known[key] = params_of(
                    profile,
                    soh_frac=key[1],
                    backup_frac=key[2],
                    load_var_per_w=key[3],
                    slow_s=self._slow_ticks / TICKS_PER_S,
                )
            columns.append(known[key])
        for name in PARAM:
            self._set(self.param, PARAM, name, np.array([column[name] for column in columns]))

    def _load_settings(self) -> None:
        """Put the settings of every device where the step finds them."""
        known: dict[tuple[int, float], dict[str, float]] = {}
        columns = []
        for d, settings in enumerate(self._settings):
            key = (id(self.profiles[d]), float(self._random_share[d]))
            if key not in known:
                known[key] = self._derived(d, settings)
            columns.append(known[key])
        for name in columns[0] if columns else ():
            self._set(self.control, CONTROL, name, np.array([column[name] for column in columns]))

    def _derived(self, d: int, settings: GridSettings) -> dict[str, float]:
        step_s = self.step_ticks / TICKS_PER_S
        return control_values(settings, self.profiles[d], step_s, float(self._random_share[d]))

    def _start(self, soc: Floats) -> None:
        """Set the initial state: following the grid, no command in force."""
        energy_j = soc * self.params("capacity_j")
        low, high = self.params("energy_j_min"), self.params("energy_j_max")
        outside = np.flatnonzero((energy_j < low) | (energy_j > high))
        if outside.size:
            d = int(outside[0])
            window = self.profiles[d].battery
            raise ValueError(
                f"device {d}: initial soc_frac {soc[d]} is outside its window "
                f"{window.soc_frac_min} to {window.soc_frac_max}"
            )
        one, hz = np.ones(self.n), self.params("hz_nominal")
        for name in ("permit", "window_in_frac", "window_out_frac", "limit_frac", "limit_rvrt_frac"):
            self._set(self.control, CONTROL, name, one)
        reserve = np.array([f.control.reserve_soc_frac for f in self.profiles])
        self._set(self.control, CONTROL, "reserve_frac", reserve * self.params("has_reserve"))
        self.factory_control = self.control.copy()
        for name, value in (
            ("grid_good", one),
            ("voltage_pu", one),
            ("frequency_hz", hz),
            ("ambient_c", 25.0 * one),
        ):
            self._set(self.input, INPUT, name, value)
        initial = {
            "energy_j": energy_j,
            "bus_pu": one,
            "bus_hz": hz,
            "pv_ticks": self.params("pv_return_ticks"),
            "ramp_ticks": self.controls("enter_ramp_ticks"),
            "event_ticks": self.params("events_ticks"),
            "frequency_hz_before": hz,
            "volt_var_ref_pu_now": self.controls("volt_var_ref_pu"),
            "volt_watt_w": self.params("power_w_discharge_max"),
            "temp_c": self.inputs("ambient_c"),
            "soc_error_frac": np.array([f.battery.soc_error_frac for f in self.profiles]),
        }
        for name, value in initial.items():
            self._set(self.state, STATE, name, value)
        rows = np.arange(self.n)
        p, _, _, s = load((self.param, self.control, self.input, self.state), rows)
        settle(p, s)
        store(self.state, STATE, rows, s)
        self.mark()

    @staticmethod
    def _get(array: Floats, names: tuple[str, ...], name: str, n: int) -> Floats:
        return array[:, names.index(name), :].flatten()[:n]  # reshape would give a view of a single tile

    def _set(self, array: Floats, names: tuple[str, ...], name: str, values: ArrayLike) -> None:
        padded = np.zeros(array.shape[0] * LANES)
        padded[: self.n] = values
        array[:, names.index(name), :] = padded.reshape(-1, LANES)
        self.changes[0] += 1

    def _padded(self, values: Floats) -> Floats:
        """Return one value per lane, shape (tiles, 1, LANES), 1 beyond the devices."""
        padded = np.ones(self.param.shape[0] * LANES)
        padded[: self.n] = values
        return padded.reshape(-1, 1, LANES)

    def params(self, name: str) -> Floats:
        """Return a copy of one field of `fields.PARAM`, shape (n,)."""
        return self._get(self.param, PARAM, name, self.n)

    def controls(self, name: str) -> Floats:
        """Return a copy of one field of `fields.CONTROL`, shape (n,)."""
        return self._get(self.control, CONTROL, name, self.n)

    def inputs(self, name: str) -> Floats:
        """Return a copy of one field of `fields.INPUT`, shape (n,)."""
        return self._get(self.input, INPUT, name, self.n)

    def states(self, name: str) -> Floats:
        """Return a copy of one field of `fields.STATE`, shape (n,)."""
        return self._get(self.state, STATE, name, self.n)

    def set_control(self, name: str, values: ArrayLike) -> None:
        """Set one field of `fields.CONTROL` for all devices, shape (n,) or scalar."""
        self._set(self.control, CONTROL, name, values)

    def set_input(self, name: str, values: ArrayLike) -> None:
        """Set one field of `fields.INPUT` for all devices, shape (n,) or scalar."""
        self._set(self.input, INPUT, name, values)

    def settings(self, d: int) -> GridSettings:
        """Return the settings of the grid-support functions that device `d` has in force."""
        return self._settings[d]

    def set_settings(self, d: int, settings: GridSettings) -> None:
        """Put settings in force at once.

        Raises
        ------
        SettingError
            When a value is outside its adjustable range; the old settings stay.
        """
        check(settings, self.profiles[d])
        values = self._derived(d, settings)
        self._settings[d] = settings
        tile, lane = divmod(d, LANES)
        state, control = self.state[tile, :, lane], self.control[tile, :, lane]
        if state[_STATUS] == _ON_GRID and state[_RAMP_TICKS] >= control[CONTROL.index("enter_ramp_ticks")]:
            state[_RAMP_TICKS] = values["enter_ramp_ticks"]  # a longer ramp is for the next time
        for name, value in values.items():
            control[CONTROL.index(name)] = value
        self.changes[0] += 1

    def schedule(self, d: int, key: str, ticks: int, revert: Callable[[GridSettings], GridSettings]) -> None:
        """Let `revert` change the settings of device `d` after `ticks`; replaces what `key` had scheduled."""
        self.unschedule(d, key)
        heapq.heappush(self._due, _Due(self._elapsed_ticks + ticks, d, key, revert))

    def unschedule(self, d: int, key: str | None = None) -> None:
        """Drop what `key`, or any key, had scheduled for device `d`, if anything."""
        self._due = [due for due in self._due if due.device != d or key not in (None, due.key)]
        heapq.heapify(self._due)

    def scheduled_ticks(self, d: int, key: str) -> int:
        """Return how long until what `key` has scheduled for device `d`; 0 when nothing is."""
        return next(
            (due.at - self._elapsed_ticks for due in self._due if (due.device, due.key) == (d, key)), 0
        )

    @property
    def version(self) -> int:
        """Changes whenever anything a client could read has changed."""
        return int(self.changes[0])

    @property
    def elapsed_ticks(self) -> int:
        """Ticks of 20 ms since the plant was made."""
        return self._elapsed_ticks

    def touch(self) -> None:
        """Say that `control` was written to."""
        self.changes[0] += 1

    def advance(self, ticks: int) -> None:
        """Move every device on by `ticks` ticks of 20 ms, inputs held.

        Steps are `step_s` long, or 20 ms for a device with a transition in the step ahead.

        Raises
        ------
        InvariantError
            When a result is not a number: a bug of the model, never a property of a device.
        """
        left = ticks
        while left or (self._due and self._due[0].at <= self._elapsed_ticks):
            while self._due and self._due[0].at <= self._elapsed_ticks:
                due = heapq.heappop(self._due)
                self.set_settings(due.device, due.revert(self.settings(due.device)))
            span = min(left, self._due[0].at - self._elapsed_ticks) if self._due else left
            if self.wear is not None:
                span = min(span, HOUR_TICKS - self._elapsed_ticks % HOUR_TICKS)
            self._step(span)
            left -= span
            if self.wear is not None and self._elapsed_ticks % HOUR_TICKS == 0:
                self._age(self.wear)
        self.changes[0] += 1
        if not math.isfinite(float(self.state[:, _ENERGY_J, :].sum())):
            raise InvariantError(f"battery energy is not a number after {ticks} ticks")

    def _step(self, ticks: int) -> None:
        """Step every device; coupled ones together, a coarse step at a time."""
        arrays = (self.param, self.control, self.input, self.state)
        while ticks > 0:
            span = ticks
            if self.coupling is not None:
                span = min(ticks, self.step_ticks)
                self.coupling.step(span)
                if self.sag_frac is not None and self.coupling.feeder is not None:
                    self.set_input("voltage_pu", self.inputs("voltage_pu") * self.sag_frac)
            self._advance(*arrays, self.n, span, coarse_ticks=self.step_ticks)
            self._elapsed_ticks += span
            ticks -= span

    def _age(self, wear: Wear) -> None:
        """Let the hour that has passed take its share of every battery's capacity."""
        energy_j = self.states("energy_j")
        soh = wear.hour(
            HOUR_TICKS / TICKS_PER_S,
            energy_j,
            self.params("capacity_j"),
            self.states("charge_j") + self.states("discharge_j"),
            self.states("temp_c"),
        )
        self.param[:, _WITH_CAPACITY, :] = self._unfaded * self._padded(soh)
        self._set(self.param, PARAM, "taper_per_j", self._taper_unfaded / soh)
        # What the faded battery cannot hold is lost with the capacity that held it.
        lost_j = np.maximum(energy_j - self.params("energy_j_max"), 0.0)
        self._set(self.state, STATE, "energy_j", energy_j - lost_j)
        self._set(self.state, STATE, "self_j", self.states("self_j") + lost_j)

    def mark(self, rows: Mask | None = None) -> None:
        """Begin a new interval for the extremes (`energy_j_low` and its like) of some devices, or all."""
        energy_j = self.state[:, _ENERGY_J : _ENERGY_J + 1, :]
        if rows is None:
            self.state[:, _EXTREMES_ENERGY, :] = energy_j
            self.state[:, _EXTREMES_REST, :] = _EXTREMES_START
            return
        padded = np.zeros(self.state.shape[0] * LANES, dtype=np.bool_)
        padded[: self.n] = rows
        where = padded.reshape(-1, 1, LANES)
        np.copyto(self.state[:, _EXTREMES_ENERGY, :], energy_j, where=where)
        np.copyto(self.state[:, _EXTREMES_REST, :], _EXTREMES_START, where=where)

    def command(
        self, rows: Mask, power_w: Floats, validity_ticks: NDArray[np.int64], reserve_soc_frac: Floats
    ) -> None:
        """Apply one command per device, as writing its registers would.

        Parameters
        ----------
        rows : Mask, shape (n,)
            Devices the commands have reached.
        power_w : Floats, shape (n,)
            Set-point, clipped by the device to its ratings; NaN leaves it alone [W].
        validity_ticks : ndarray of int64, shape (n,)
            Revert timer; ignored where `power_w` is NaN.
        reserve_soc_frac : Floats, shape (n,)
            Device-side reserve; NaN leaves it alone, and so does a device without one [1].

        Notes
        -----
        Values are taken exactly; registers would round them (power to 1 or 10 W, the reserve to 0.01 %).
        """
        grant = rows & ~np.isnan(power_w)
        keep = rows & ~np.isnan(reserve_soc_frac) & (self.params("has_reserve") != 0.0)
        low, high = -self.params("power_w_charge_max"), self.params("power_w_discharge_max")
        power_w = np.clip(np.where(grant, power_w, 0.0), low, high)
        ticks = np.minimum(np.where(grant, validity_ticks, 0), VALIDITY_TICKS_MAX).astype(np.float64)
        before = None if self.intake is None else self.control.copy()
        for name, value, where in (
            ("set_ena", 1.0, grant),
            ("set_w", power_w, grant),
            ("set_rvrt_ena", 0.0, grant),
            ("set_rvrt_ticks", ticks, grant),
            ("reserve_frac", np.clip(reserve_soc_frac, 0.0, 1.0), keep),
        ):
            self.set_control(name, np.where(where, value, self.controls(name)))
        if before is not None:
            through_intake(self, before, {"set": grant, "reserve": keep})


_ON_GRID: Final = float(STATUS.index("on_grid"))
_STATUS: Final = STATE.index("status")
_RAMP_TICKS: Final = STATE.index("ramp_ticks")
_WITH_CAPACITY: Final = [PARAM.index(name) for name in WITH_CAPACITY]
_ENERGY_J: Final = STATE.index("energy_j")
_EXTREMES: Final = STATE.index("energy_j_low")
_EXTREMES_ENERGY: Final = slice(_EXTREMES, _EXTREMES + 2)
_EXTREMES_REST: Final = slice(_EXTREMES + 2, _EXTREMES + 6)
_EXTREMES_START: Final = np.array([np.inf, -np.inf, 0.0, 0.0]).reshape(1, 4, 1)
"""Where power_w_low, power_w_high, slew_w_per_s_high and dead_import_w_high begin."""
