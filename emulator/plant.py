"""All devices of a scenario as arrays, stepped together.

Rules of this file: no clock, no socket, no randomness; the caller says how many ticks pass and what the
world does meanwhile.  The arithmetic is in `_step.h` (compiled) and `reference.py` (NumPy), which give the
same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _kernel
from .errors import InvariantError
from .fields import CONTROL, INPUT, LANES, PARAM, REVERT, STATE, TICKS_PER_S
from .profile import DeviceProfile

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Advance = Callable[[Floats, Floats, Floats, Floats, int, int], None]

NS_PER_TICK: Final = 1_000_000_000 // TICKS_PER_S
J_PER_WH: Final = 3600.0
VALIDITY_TICKS_MAX: Final = 2**32 - 1
"""Longest revert timer a 32-bit count of seconds cannot overrun [ticks]."""


def _params_of(profile: DeviceProfile, soh_frac: float, backup_frac: float) -> dict[str, float]:
    battery, inverter, island, control = profile.battery, profile.inverter, profile.island, profile.control
    capacity_j = battery.energy_wh * soh_frac * J_PER_WH
    return {
        "power_w_discharge_max": inverter.power_w_discharge_max,
        "power_w_charge_max": inverter.power_w_charge_max,
        "power_w_surge": inverter.power_w_surge,
        "surge_ticks": float(round(inverter.surge_s * TICKS_PER_S)),
        "power_w_nominal": inverter.power_w_discharge_max,
        "ramp_w_per_s": inverter.ramp_w_per_s,
        "capacity_j": capacity_j,
        "energy_j_min": capacity_j * battery.soc_frac_min,
        "energy_j_max": capacity_j * battery.soc_frac_max,
        "energy_j_restart": capacity_j * battery.soc_frac_restart,
        "loss_a_w": inverter.loss_a_w,
        "loss_b_w": inverter.loss_b_w,
        "loss_c_w": inverter.loss_c_w,
        "standby_w": inverter.standby_w,
        "transfer_ticks": float(round(profile.transfer_s * TICKS_PER_S)),
        "enter_delay_ticks": float(round(inverter.enter_delay_s * TICKS_PER_S)),
        "enter_ramp_ticks": float(round(inverter.enter_ramp_s * TICKS_PER_S)),
        "restart_ticks": float(round(island.restart_s * TICKS_PER_S)),
        "pv_return_ticks": float(round(island.pv_return_s * TICKS_PER_S)),
        "revert_mode": float(REVERT.index(control.revert_state)),
        "power_w_recharge": control.power_w_recharge,
        "recharge_band_frac": control.recharge_band_frac,
        "has_reserve": float(control.has_reserve),
        "cancels_grants": float(island.cancels_grants),
        "backup_frac": backup_frac,
    }


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
    advance : callable, optional
        The stepping function; `reference.advance` gives the same bits slowly.

    Attributes
    ----------
    param, control, input, state : ndarray of float64, shape (tiles, fields, LANES)
        Field order and units as in `fields.py`; device d lies at ``[d // LANES, :, d % LANES]``.
    version : int
        Changes whenever anything a client could read has changed.

    Notes
    -----
    Not modelled yet: reactive power, voltage and frequency response, thermal limits, taper near full, ageing,
    BMS estimation error, feeder; every home islands alone.  A device starts following the grid, ramped up.

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
        advance: Advance = _kernel.advance,
    ) -> None:
        self.profiles = tuple(profiles)
        self.n = n = len(self.profiles)
        tiles = max(1, -(-n // LANES))
        self.param = np.zeros((tiles, len(PARAM), LANES))
        self.control = np.zeros((tiles, len(CONTROL), LANES))
        self.input = np.zeros((tiles, len(INPUT), LANES))
        self.state = np.zeros((tiles, len(STATE), LANES))
        self.version = 0
        self._advance = advance
        soc, soh, backup = (
            np.broadcast_to(np.asarray(a, dtype=np.float64), (n,)) for a in (soc_frac, soh_frac, backup_frac)
        )
        for name, values, low in (
            ("soc_frac", soc, 0.0),
            ("soh_frac", soh, 1e-3),
            ("backup_frac", backup, 0.0),
        ):
            if not bool(np.all((values >= low) & (values <= 1.0))):
                raise ValueError(f"{name} must lie in [{low}, 1], found {values.min()} to {values.max()}")
        for name in PARAM:
            self._set(self.param, PARAM, name, np.zeros(n))
        columns = [
            _params_of(f, float(h), float(b)) for f, h, b in zip(self.profiles, soh, backup, strict=True)
        ]
        for name in PARAM:
            self._set(self.param, PARAM, name, np.array([column[name] for column in columns]))
        self._start(soc)

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
        for name, value in (("energy_j", energy_j), ("pv_ticks", self.params("pv_return_ticks"))):
            self._set(self.state, STATE, name, value)
        self._set(self.state, STATE, "ramp_ticks", self.params("enter_ramp_ticks"))
        one = np.ones(self.n)
        for name in ("permit", "window_in_frac", "window_out_frac", "limit_frac", "limit_rvrt_frac"):
            self._set(self.control, CONTROL, name, one)
        reserve = np.array([f.control.reserve_soc_frac for f in self.profiles])
        self._set(self.control, CONTROL, "reserve_frac", reserve * self.params("has_reserve"))
        for name, value in (("grid_good", one), ("voltage_pu", one), ("frequency_hz", 60.0 * one)):
            self._set(self.input, INPUT, name, value)
        self.mark()

    @staticmethod
    def _get(array: Floats, names: tuple[str, ...], name: str, n: int) -> Floats:
        return array[:, names.index(name), :].flatten()[:n]  # reshape would give a view of a single tile

    def _set(self, array: Floats, names: tuple[str, ...], name: str, values: ArrayLike) -> None:
        padded = np.zeros(array.shape[0] * LANES)
        padded[: self.n] = values
        array[:, names.index(name), :] = padded.reshape(-1, LANES)
        self.version += 1

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

    def touch(self) -> None:
        """Say that `control` was written to."""
        self.version += 1

    def advance(self, ticks: int) -> None:
        """Move every device on by `ticks` ticks of 20 ms, inputs held.

        Steps are 1 s long, or 20 ms for a device with a transition in the second ahead.

        Raises
        ------
        InvariantError
            When a result is not a number: a bug of the model, never a property of a device.
        """
        self._advance(self.param, self.control, self.input, self.state, self.n, ticks)
        self.version += 1
        if not math.isfinite(float(self.state[:, _ENERGY_J, :].sum())):
            raise InvariantError(f"battery energy is not a number after {ticks} ticks")

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
        for name, value, where in (
            ("set_ena", 1.0, grant),
            ("set_w", power_w, grant),
            ("set_rvrt_ena", 0.0, grant),
            ("set_rvrt_ticks", ticks, grant),
            ("reserve_frac", np.clip(reserve_soc_frac, 0.0, 1.0), keep),
        ):
            self.set_control(name, np.where(where, value, self.controls(name)))


_ENERGY_J: Final = STATE.index("energy_j")
_EXTREMES: Final = STATE.index("energy_j_low")
_EXTREMES_ENERGY: Final = slice(_EXTREMES, _EXTREMES + 2)
_EXTREMES_REST: Final = slice(_EXTREMES + 2, _EXTREMES + 6)
_EXTREMES_START: Final = np.array([np.inf, -np.inf, 0.0, 0.0]).reshape(1, 4, 1)
"""Where power_w_low, power_w_high, slew_w_per_s_high and dead_import_w_high begin."""
