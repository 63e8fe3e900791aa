"""Rules that reach over many steps: delays, ramps, dark times, trips and ride-through.

Rule of this file: each device's own counters are kept here, apart from the plant's, from what the world and
the settings say; of the plant's state only operating state and powers are read.  For every rule a test in
`test_physics.py` shows it objecting.
"""

from __future__ import annotations

import numpy as np
from ridethrough.emulator.plant import Floats

from tests.properties.physics import (
    BALANCE,
    CESSATION,
    EMPTY,
    ENTER,
    ISLAND,
    MEMBER,
    ON_GRID,
    OVERLOAD,
    REJOIN,
    TRANSFER,
    Mask,
    Moment,
)

RETURNED = 2.0
TRIPS = tuple(f"{side}_{what}{level}" for side in ("over", "under") for what in "vf" for level in (1, 2))


class History:
    """One counter per device for everything that must last; made for steps of 20 ms."""

    def __init__(self, n: int) -> None:
        self.good = np.full(n, np.inf)  # ticks of good grid before this step; the devices start in service
        self.ramp = np.full(n, np.inf)  # ticks on grid before this step
        self.ramped = np.full(n, True)  # the ramp was once over since the device entered service
        self.was_w = np.zeros(n)  # power on grid, that before a cessation while it lasts
        self.live = np.full(n, np.inf)  # ticks of a live bus before this step
        self.dark = np.zeros(n)  # ticks in transfer before this step
        self.unsound = np.full(n, False)  # the battery's contactors were open meanwhile
        self.broken_open = np.zeros(n)  # ticks of a break before make
        self.overloaded = np.zeros(n)  # ticks in overload before this step
        self.wait = np.zeros(n)  # least wait of the present overload, in ticks
        self.held = np.zeros(n)  # ticks closed onto a held-up section
        self.beyond = {name: np.zeros(n) for name in TRIPS}  # ticks beyond each trip limit

    def broken(self, m: Moment) -> set[str]:
        """Take one more step; return the names of the rules it breaks."""
        result = self._service(m) | self._dark(m) | self._protection(m)
        self._count(m)
        return {name for name, holds in result.items() if not bool(np.all(holds))}

    def _service(self, m: Moment) -> dict[str, Mask]:
        """Delay and ramp of entering service, slew."""
        p, c, before, after, convert_w = m.p, m.c, m.before["status"], m.after["status"], m.convert_w
        rating, small_w = p["power_w_discharge_max"], BALANCE * p["power_w_discharge_max"]
        on_grid = after == ON_GRID
        returned = (before == MEMBER) & (m.u["community"] == RETURNED)
        entered = on_grid & (before != ON_GRID) & ~returned
        joined = np.isin(before, [ISLAND, MEMBER]) & np.isin(after, [ON_GRID, ENTER, REJOIN]) & ~returned
        share = np.minimum(self.ramp / np.maximum(c["enter_ramp_ticks"], 1e-9), 1.0)
        share = np.where(self.ramped | (c["enter_ramp_ticks"] == 0.0), 1.0, share)
        within = (convert_w <= rating * share + small_w) & (
            convert_w >= -p["power_w_charge_max"] * share - small_w
        )
        reach_w = p["ramp_w_per_s"] * m.dt_s + small_w
        # Charging starts above the converter's own loss; 3 % of the rating covers the losses that are drawn.
        passes = (self.was_w < reach_w) & (self.was_w > -0.03 * rating)
        low_w = np.minimum(self.was_w - reach_w, 0.0) - np.where(passes, 0.03 * rating, 0.0)
        gentle = (convert_w <= np.maximum(self.was_w + reach_w, 0.0)) & (convert_w >= low_w)
        return {
            "enter delay": ~entered | (self.good >= c["enter_delay_ticks"]),
            "synchronising": ~joined | (self.good >= c["enter_delay_ticks"] + p["sync_ticks"]),
            "enter ramp": ~on_grid | within,
            "slew": ~on_grid | gentle,
        }

    def _dark(self, m: Moment) -> dict[str, Mask]:
        """How long a home is dark, and its PV off."""
        p, before, after = m.p, m.before["status"], m.after["status"]
        formed = (before == TRANSFER) & np.isin(after, [ISLAND, OVERLOAD, EMPTY])
        formed &= m.u["community"] <= 0.0  # joining a community island takes no transfer
        restarted = (before == OVERLOAD) & np.isin(after, [ISLAND, EMPTY]) & (m.u["community"] <= 0.0)
        remade = (before == REJOIN) & np.isin(after, [ON_GRID, ENTER])
        return {
            "dark time": ~formed
            | (self.dark == p["transfer_ticks"])
            | (self.unsound & (self.dark > p["transfer_ticks"])),
            "restart": ~restarted | (self.overloaded >= self.wait * (1.0 - 1e-12)),
            "break": ~remade | (self.broken_open == p["break_ticks"]),
            "pv return": (m.after["pv_w"] == 0.0) | (self.live >= p["pv_return_ticks"]),
        }

    def _protection(self, m: Moment) -> dict[str, Mask]:
        """Trips at their time and not before; an unnoticed island is noticed in time and not before."""
        p, u, c, before, after = m.p, m.u, m.c, m.before["status"], m.after["status"]
        good, held = u["grid_good"] != 0.0, u["grid_held"] != 0.0
        due = np.zeros_like(good)
        for name, mask in self._beyond(m).items():
            due |= mask & (self.beyond[name] >= c[f"{name}_ticks"])
        lost = ~good & (~held | (self.held >= p["detect_ticks"]))
        robust = (p["events_max"] > 1e6) & (p["rocof_hz_per_s_max"] > 1e6)
        was_closed = (before == ON_GRID) | (before == ENTER)
        closed = (after == ON_GRID) | (after == ENTER)
        must_leave = (before == ON_GRID) & (lost | due | (c["permit"] == 0.0))
        return {
            "trip": ~must_leave | (after != ON_GRID),
            "trip opens": ~(was_closed & (lost | (due & (p["can_island"] != 0.0)))) | ~closed,
            "ride-through": ~((before == ON_GRID) & robust) | (after == ON_GRID) | must_leave,
            "stays closed": ~(was_closed & robust) | closed | lost | due,
        }

    def _beyond(self, m: Moment) -> dict[str, Mask]:
        """Where each trip limit is passed, among devices that look."""
        u, before = m.u, m.before["status"]
        looks = np.isin(before, [ON_GRID, ENTER]) & ((u["grid_good"] != 0.0) | (u["grid_held"] != 0.0))
        result = {}
        for name in TRIPS:
            is_voltage = name[-2] == "v"
            value = u["voltage_pu"] if is_voltage else u["frequency_hz"]
            limit = m.c[f"{name}_{'pu' if is_voltage else 'hz'}"]
            result[name] = looks & (value > limit if name.startswith("over") else value < limit)
        return result

    def _count(self, m: Moment) -> None:
        """Move the counters on."""
        p, u, c, before, after = m.p, m.u, m.c, m.before["status"], m.after["status"]
        good, held = u["grid_good"] != 0.0, u["grid_held"] != 0.0
        v, f, on_grid = u["voltage_pu"], u["frequency_hz"], after == ON_GRID
        present = good & (v >= c["enter_low_pu"]) & (v <= c["enter_high_pu"])
        present &= (f >= c["enter_low_hz"]) & (f <= c["enter_high_hz"])
        woken = (after == EMPTY) & (before == EMPTY) & (u["pv_w_available"] > p["standby_w"])

        def more(mask: Mask, count: Floats) -> Floats:
            return np.where(mask, count + 1.0, 0.0)

        for name, mask in self._beyond(m).items():
            self.beyond[name] = more(mask, self.beyond[name])
        closed_before = (before == ON_GRID) | (before == ENTER)
        self.held = more(closed_before & ~good & held, self.held)
        self.good = more(present, self.good)
        self.ramp = more(on_grid, self.ramp)
        self.ramped = on_grid & (self.ramped | (self.ramp >= c["enter_ramp_ticks"]))
        ceased = on_grid & (m.after["ride"] == CESSATION)
        self.was_w = np.where(on_grid, np.where(ceased, self.was_w, m.convert_w), 0.0)
        self.live = more(np.isin(after, [ON_GRID, ENTER, ISLAND, MEMBER]) | woken, self.live)
        self.dark = more(after == TRANSFER, self.dark)
        self.unsound = (after == TRANSFER) & (self.unsound | (c["bms_open"] != 0.0))
        self.broken_open = more(after == REJOIN, self.broken_open)
        self.overloaded = more(after == OVERLOAD, self.overloaded)
        trips = (after == OVERLOAD) & (before != OVERLOAD)
        longer = np.minimum(self.wait * p["restart_growth"], p["restart_ticks_max"])
        self.wait = np.where(trips, np.where(self.wait == 0.0, p["restart_ticks"], longer), self.wait)
        self.wait = np.where(on_grid, 0.0, self.wait)
