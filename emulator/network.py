"""What couples the devices of a plant: the feeder on the grid, the community island without it.

Duty: before each step, set the inputs that follow from all devices together: voltages from the feeder's
flows of the step before, shares of a community island from what its members can do now.

Rules of this file: reads the plant, writes inputs; the equations are in `feeder` and `community`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from .community import Community, Offer, Outcome, Rules
from .feeder import FeederSolver
from .fields import COMMUNITY, INPUT, STATE, STATUS
from .model.island import reach, shed_frac
from .model.names import PV_TRIPS
from .model.ops import Columns

if TYPE_CHECKING:
    from .plant import Plant

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_ABLE: Final = tuple(float(STATUS.index(name)) for name in ("island", "member", "empty", "overload"))
_ISLAND: Final = float(STATUS.index("island"))
_MEMBER: Final = float(STATUS.index("member"))


class _Fetched(Columns):
    """Columns that are copied out of the plant when they are asked for: a few of some 250."""

    def __init__(self, get: Callable[[str], Floats]) -> None:
        super().__init__({"_get": get})  # type: ignore[dict-item]

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            column = self._get(name)
            setattr(self, name, column)
            return column


class Coupling:
    """The feeder and the community island of one plant.

    Parameters
    ----------
    plant : Plant
        Device k is the feeder's home k.
    feeder : FeederSolver, optional
    rules : Rules, optional
        Of the community island.

    Raises
    ------
    ValueError
        When the feeder or the rules are for another number of devices.
    """

    def __init__(self, plant: Plant, feeder: FeederSolver | None, rules: Rules | None) -> None:
        if feeder is not None and feeder.n != plant.n:
            raise ValueError(f"found {plant.n} devices on a feeder of {feeder.n} homes; allowed as many")
        if rules is not None and len(rules.contract) != plant.n:
            raise ValueError(f"found {plant.n} devices and {len(rules.contract)} contracts; allowed as many")
        self.feeder = feeder
        self.community = None if rules is None else Community(rules)
        self.slack_pu = 1.0 if feeder is None else feeder.slack_pu
        self._plant = plant
        self._members = np.zeros(plant.n, dtype=np.bool_)
        if feeder is not None:
            fields = STATE.index("import_w"), STATE.index("import_var"), INPUT.index("voltage_pu")
            feeder.attach(plant.state, plant.input, *fields)

    def step(self, ticks: int) -> None:
        """Set the coupled inputs for the step of `ticks` ahead."""
        if self.feeder is not None:
            self.feeder.step(self.slack_pu, ticks)
        if self.community is not None:
            self._share(self.community, ticks)

    def _share(self, community: Community, ticks: int) -> None:
        plant, master = self._plant, community.rules.master
        good = plant.inputs("grid_good") != 0.0
        if community.phase == "off" and (good[master] or not self._islanded(master)):
            return
        offer, possible_w = self._offer(master, ticks, good)
        back = bool(self._members[master]) and self._synced(master)
        outcome = community.step(
            ticks, offer, grid_back=back or (bool(good[master]) and not self._members.any())
        )
        self._obey(outcome, offer.load_w, possible_w)

    def _islanded(self, device: int) -> bool:
        return bool(self._plant.states("status")[device] == _ISLAND)

    def _synced(self, master: int) -> bool:
        """Whether the grid has been good at the master for as long as its return takes."""
        plant = self._plant
        wait = plant.controls("enter_delay_ticks") + plant.params("sync_ticks")
        return bool(plant.states("good_ticks")[master] >= max(wait[master], 1.0))

    def _offer(self, master: int, ticks: int, good: Mask) -> tuple[Offer, Floats]:
        """Return what the devices can in the step ahead, and the PV that is possible at each."""
        plant = self._plant
        p, c, u, s = (_Fetched(get) for get in (plant.params, plant.controls, plant.inputs, plant.states))
        low_w, high_w = reach(p, c, s, float(ticks))
        if high_w[master] == p.power_w_discharge_max[master]:
            high_w[master] = p.power_w_surge[master]
        ready = np.isin(s.status, _ABLE) & (c.bms_open == 0.0) & (p.can_island != 0.0)
        ready &= ~good | self._members
        ready[master] &= bool(np.isin(s.status[master], (_ISLAND, _MEMBER)))
        pv_w = np.where(s.pv_ticks >= p.pv_return_ticks, u.pv_w_available, 0.0)
        only_trips = p.pv_kind == PV_TRIPS
        reserve_j = np.where(p.has_reserve != 0.0, c.reserve_frac * p.capacity_j, 0.0)
        load_w = u.load_w * p.backup_frac * (1.0 - shed_frac(p, s))
        offer = Offer(
            ready=ready,
            load_w=load_w,
            pv_w_droop=np.where(only_trips, 0.0, pv_w),
            pv_w_trip=np.where(only_trips, pv_w, 0.0),
            power_w_low=low_w,
            power_w_high=high_w,
            power_w_set=np.where(c.set_ena != 0.0, c.set_w, 0.0),
            spare_j=s.energy_j - np.maximum(reserve_j, p.energy_j_min),
            load_var=load_w * p.load_var_per_w,
            var_max=np.minimum(p.var_max_inject, p.var_max_absorb),
        )
        return offer, pv_w

    def _obey(self, outcome: Outcome, load_w: Floats, possible_w: Floats) -> None:
        """Put an outcome into the inputs."""
        members, were = outcome.members, self._members
        gone = "collapsed" if outcome.collapsed else "returned" if outcome.returned else "none"
        state = np.where(members, COMMUNITY["joined"], np.where(were & ~members, COMMUNITY[gone], 0))
        pv_frac = np.where(possible_w > 0.0, outcome.pv_w / np.where(possible_w > 0.0, possible_w, 1.0), 0.0)
        for name, value in (
            ("community", state.astype(np.float64)),
            ("share_w", outcome.share_w),
            ("share_var", outcome.share_var),
            ("share_load_w", load_w),
            ("share_pv_frac", np.where(outcome.pv_tripped, -1.0, pv_frac)),
            ("share_pu", outcome.voltage_pu),
            ("share_hz", outcome.frequency_hz),
        ):
            self._plant.set_input(name, value)
        self._members = members
