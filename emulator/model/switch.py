"""Transfer switch and operating state (IEEE 1547-2018, 4.10 and 8.1), and what hangs on a change of it."""

from __future__ import annotations

import numpy as np

from .names import (
    ALONE,
    COLLAPSED,
    EMPTY,
    ENTER,
    ISLAND,
    JOINED,
    MEMBER,
    ON_GRID,
    OVERLOAD,
    REJOIN,
    RETURNED,
    TRANSFER,
)
from .ops import Columns, Flow, Mask, least


def switch(k: Flow, p: Columns, c: Columns, u: Columns, s: Columns) -> None:
    """Set the operating state of this step."""
    st, timer = s.status, s.timer_ticks
    permit, can_island, sound = c.permit != 0.0, p.can_island != 0.0, c.bms_open == 0.0
    dark = (st == TRANSFER) | (st == OVERLOAD) | (st == EMPTY)
    closed = (st == ON_GRID) | (st == ENTER)
    opens = closed & (k.lost | (k.tripped & can_island))
    ceases = (st == ON_GRID) & ~opens & (k.tripped | ~permit)
    enters = (st == ENTER) & ~opens & k.in_range & permit & (timer >= c.enter_delay_ticks)
    recloses = dark & k.in_range  # onto a live grid from a dark bus: no synchronising needed
    joins = (dark | (st == ISLAND)) & ~k.in_range & (u.community == JOINED) & can_island
    leaves = (st == MEMBER) & (u.community <= ALONE)
    forms = (
        ~k.in_range
        & ~joins
        & can_island
        & sound
        & (
            ((st == TRANSFER) & (timer >= p.transfer_ticks))
            | ((st == OVERLOAD) & (timer >= s.restart_ticks_now))
            | ((st == EMPTY) & (s.energy_j >= p.energy_j_restart))
        )
    )
    back = k.in_range & (s.good_ticks >= c.enter_delay_ticks + p.sync_ticks)
    synced = (st == ISLAND) & back
    together = (st == MEMBER) & (u.community == RETURNED)
    breaks = synced & (p.break_ticks > 0.0)
    rejoined = (st == REJOIN) & k.in_range & (timer >= p.break_ticks)
    fails = (st == REJOIN) & ~k.in_range  # the delay of good grid must begin again
    closes = (synced & ~breaks) | together | rejoined
    changes = opens | ceases | enters | recloses | joins | leaves | forms
    changed = changes | synced | together | rejoined | fails

    k.before = st
    now = np.where(opens | fails | (leaves & (u.community == COLLAPSED)), TRANSFER, st)
    now = np.where(ceases | recloses | (closes & ~permit), ENTER, now)
    now = np.where(forms | (leaves & (u.community == ALONE)), ISLAND, now)
    now = np.where(breaks, REJOIN, now)
    now = np.where(joins, MEMBER, now)
    k.status = np.where((closes & permit) | enters, ON_GRID, now)
    _restart(k, p, c, s, changed, opens)


def _restart(k: Flow, p: Columns, c: Columns, s: Columns, changed: Mask, opens: Mask) -> None:
    """Start the timers of a new state; an island that begins may end the grants in force."""
    s.timer_ticks = np.where(changed, 0.0, s.timer_ticks)
    s.surge_ticks_used = np.where(changed, 0.0, s.surge_ticks_used)
    s.restart_ticks_now = np.where(k.status == ON_GRID, 0.0, s.restart_ticks_now)
    cancels = opens & (p.cancels_grants != 0.0)
    for name in ("set_ena", "set_rvrt_ticks", "window_in_ena", "window_out_ena", "window_rvrt_ticks"):
        setattr(c, name, np.where(cancels, 0.0, getattr(c, name)))


def local(k: Flow, p: Columns, c: Columns, u: Columns, s: Columns, ticks: float) -> None:
    """Home bus: what PV could deliver, what the backup panel asks, where the own consumption comes from."""
    st = k.status
    closed = (st == ON_GRID) | (st == ENTER)
    live = (
        closed | (st == ISLAND) | (st == MEMBER) | ((st == EMPTY) & (u.pv_w_available > p.standby_w))
    ) & ~((st == ISLAND) & (s.shifting != 0.0))
    on = live & (s.pv_ticks >= p.pv_return_ticks)
    s.pv_ticks = np.where(live, least(s.pv_ticks + ticks, p.pv_return_ticks), 0.0)
    k.pv_w_possible = np.where(on, u.pv_w_available, 0.0)
    k.demand_w = u.load_w * p.backup_frac
    enough = (s.energy_j - p.standby_w * k.dt_s >= p.energy_j_min) & (c.bms_open == 0.0)
    asleep = (st == EMPTY) | (st == REJOIN)
    k.standby_w_dc = np.where(enough & ~asleep, p.standby_w, 0.0)
    k.standby_w_ac = np.where(~enough & closed, p.standby_w, 0.0)
