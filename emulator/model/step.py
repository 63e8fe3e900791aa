"""The order of the stages within one step, and when a step may be a coarse one."""

from __future__ import annotations

import numpy as np

from ..fields import TICKS_PER_S
from .active import follow, supported, target
from .battery import floor_j, limits, slow
from .books import book, tick
from .island import island, shed_frac
from .names import ALONE, EMPTY, ENTER, ISLAND, JOINED, MEMBER, ON_GRID, OVERLOAD, PV_TRIPS, TRANSFER
from .ops import Columns, Flow, Mask, assume
from .reactive import react
from .ride import ride
from .switch import local, switch

TIMERS = (
    "permit_rvrt_ticks",
    "set_rvrt_ticks",
    "limit_rvrt_ticks",
    "window_rvrt_ticks",
)


def step(p: Columns, c: Columns, u: Columns, s: Columns, ticks: float, coarse: bool) -> None:
    """Move every device on by one step of `ticks` ticks; changes `c` and `s`."""
    k = Flow()
    k.dt_s, k.per_s = ticks / TICKS_PER_S, TICKS_PER_S / ticks
    ride(k, p, c, u, s, ticks)
    switch(k, p, c, u, s)
    local(k, p, c, u, s, ticks)
    limits(k, p, c, s)
    wanted_w = target(k, p, c, u, s)
    follow(k, p, s, c, supported(k, p, c, u, s, wanted_w, coarse))
    react(k, p, c, u, s, coarse)
    closed = (k.status == ON_GRID) | (k.status == ENTER)
    k.pv_w = np.where(closed, k.pv_w_possible, 0.0)
    island(k, p, c, u, s, ticks)
    book(k, p, u, s)
    tick(k, p, c, s, ticks)


def quiet(p: Columns, c: Columns, u: Columns, s: Columns, ticks: float) -> Mask:
    """Whether the `ticks` ahead can be one coarse step: nothing in them needs 20 ms resolution."""
    st, timer = s.status, s.timer_ticks
    v, f = u.voltage_pu, u.frequency_hz
    good, held, permit = u.grid_good != 0.0, u.grid_held != 0.0, c.permit != 0.0
    inside = assume(
        (v >= c.calm_low_pu) & (v <= c.calm_high_pu) & (f >= c.calm_low_hz) & (f <= c.calm_high_hz)
    )
    present = (
        good & (v >= c.enter_low_pu) & (v <= c.enter_high_pu) & (f >= c.enter_low_hz) & (f <= c.enter_high_hz)
    )
    delay, synced = c.enter_delay_ticks, c.enter_delay_ticks + p.sync_ticks
    delay_far = (timer >= delay) | (timer + ticks <= delay)
    pv_far = (s.pv_ticks >= p.pv_return_ticks) | (s.pv_ticks + ticks <= p.pv_return_ticks)
    sync_far = (s.good_ticks >= synced) | (s.good_ticks + ticks <= synced)
    demand_w = u.load_w * p.backup_frac
    member = st == MEMBER
    drawn_w = np.where(member, u.share_w, demand_w)
    drawn_var = np.where(member, u.share_var, demand_w * p.load_var_per_w)
    drawn_va2 = drawn_w * drawn_w + drawn_var * drawn_var
    seconds = ticks / TICKS_PER_S
    k = Flow()
    limits(k, p, c, s)
    surplus_w = u.pv_w_available - demand_w * (1.0 - shed_frac(p, s))
    pv_on = s.pv_ticks >= p.pv_return_ticks
    spills = (p.pv_kind == PV_TRIPS) & pv_on & (surplus_w > k.charge_w_max)  # soon it is tripped
    within = (
        (drawn_w <= p.power_w_discharge_max)
        & (drawn_w <= s.discharge_w_limit)
        & (drawn_va2 <= p.apparent_va_max * p.apparent_va_max)
    )
    full_enough = s.energy_j - floor_j(p) >= (2.0 * seconds) * p.power_w_surge
    first, *others = (getattr(c, name) for name in TIMERS)
    running = (first > 0.0) & (first < ticks)
    for left in others:
        running = running | ((left > 0.0) & (left < ticks))
    calm = good & ~held & inside & (s.restore_ticks_left == 0.0)
    steady = (
        ((st == ON_GRID) & calm & permit)
        | ((st == ENTER) & calm & (~permit | ~present | delay_far))
        | ((st == ISLAND) & within & full_enough & ~spills & (~present | sync_far) & (u.community == ALONE))
        | (member & within & full_enough & (~present | sync_far) & (u.community == JOINED))
        | ((st == TRANSFER) & (p.can_island == 0.0) & ~present)
        | ((st == OVERLOAD) & ~present & (timer + ticks <= s.restart_ticks_now) & (u.community == ALONE))
        | ((st == EMPTY) & ~present & (s.energy_j < p.energy_j_restart) & (u.community == ALONE))
    )
    result: Mask = steady & pv_far & ~running
    return result


__all__ = ["quiet", "slow", "step"]
