"""Islanded service: one device that forms its home's grid, or shares a community island's load."""

from __future__ import annotations

import numpy as np

from ..fields import TICKS_PER_S
from .battery import drain, floor_j, limits, loss
from .names import EMPTY, ENTER, ISLAND, MEMBER, ON_GRID, OVERLOAD, PV_DROOP, PV_TRIPS
from .ops import Columns, Flow, Mask, Number, Value, clamp, flag, least, most, size

PV_BAND_HZ = 0.036
PV_K = 0.05
"""Frequency droop of the homes' PV inverters: the defaults of IEEE 1547-2018, table 24."""


def absorb(k: Flow, p: Columns, s: Columns, surplus_w: Value, own_w: Number) -> Value:
    """Return the charging power a surplus allows, 0 when it would not reach the cells [W]."""
    room_w = most((p.energy_j_max - s.energy_j) * k.per_s, 0.0)
    charge_w = least(least(most(surplus_w, 0.0), k.charge_w_max), room_w)
    return np.where(charge_w <= loss(p, charge_w) + own_w, 0.0, charge_w)


def reach(p: Columns, c: Columns, s: Columns, ticks: float) -> tuple[Value, Value]:
    """Return the least and the greatest AC power of an islanded converter for a step of `ticks` [W].

    For whoever shares a load among several devices before the step is made.
    """
    k = Flow()
    k.per_s = TICKS_PER_S / ticks
    limits(k, p, c, s)
    above_w = most((s.energy_j - floor_j(p)) * k.per_s, 0.0)
    room_w = most((p.energy_j_max - s.energy_j) * k.per_s, 0.0)
    # Neither loss nor heat is greater at a lesser power.
    high_w = most(least(k.discharge_w_max, above_w - drain(p, s, k.discharge_w_max, p.standby_w)), 0.0)
    return -least(k.charge_w_max, room_w), high_w


def island(k: Flow, p: Columns, c: Columns, u: Columns, s: Columns, ticks: float) -> None:
    """Serve the backup panel, shedding tiers when it must; the panel is served whole or the island ends."""
    alone, member = k.status == ISLAND, k.status == MEMBER
    # A member's tiers come and go at once, its load with the next sharing: the sum of all must be met.
    k.backup_w = np.where(member, u.share_load_w, k.demand_w * (1.0 - shed_frac(p, s)))
    asked_var = np.where(alone, k.backup_w * p.load_var_per_w, np.where(member, u.share_var, 0.0))
    net_w = np.where(member, u.share_w, k.backup_w - k.pv_w_possible)
    taken_w = absorb(k, p, s, -net_w, 0.0)
    # A member gives the share it was told, to the watt: it lies within its reach, and the sum must be met.
    # One alone takes of its surplus what it can.
    power_w = np.where((net_w > 0.0) | member, net_w, -taken_w)
    converting_w = power_w + drain(p, s, size(power_w), p.standby_w)
    drain_w = np.where(power_w == 0.0, p.standby_w, converting_w)
    above_w = most((s.energy_j - floor_j(p)) * k.per_s, 0.0)
    out_w = most(net_w, 0.0)
    apparent_va = np.sqrt(out_w * out_w + asked_var * asked_var)
    overloaded = (net_w > k.discharge_w_max) | (apparent_va > p.apparent_va_max)
    used = np.where(overloaded, s.surge_ticks_used + ticks, 0.0)
    forming = alone | member
    tripped = forming & ((apparent_va > p.power_w_surge) | (used > p.surge_ticks))
    # A member that gives and takes nothing needs no energy: it sleeps, and the others serve its panel.
    needs = alone | (net_w != 0.0)
    starved = forming & ~tripped & ((needs & (drain_w > above_w)) | (c.bms_open != 0.0))
    waking_w = absorb(k, p, s, k.pv_w_possible, p.standby_w)
    wakes = (k.status == EMPTY) & (waking_w > 0.0) & (c.bms_open == 0.0)

    s.surge_ticks_used = np.where(forming & ~tripped, used, 0.0)
    s.pv_ticks = np.where(tripped | starved, 0.0, s.pv_ticks)  # the bus collapsed: PV waits its delay again
    longer = least(s.restart_ticks_now * p.restart_growth, p.restart_ticks_max)
    waits = np.where(s.restart_ticks_now == 0.0, p.restart_ticks, longer)
    s.restart_ticks_now = np.where(tripped, waits, s.restart_ticks_now)
    k.status = np.where(tripped, OVERLOAD, np.where(starved, EMPTY, k.status))
    served, shares = k.status == ISLAND, k.status == MEMBER
    shared_pv_w = k.pv_w_possible * most(u.share_pv_frac, 0.0)
    s.pv_ticks = np.where(shares & (u.share_pv_frac < 0.0), 0.0, s.pv_ticks)
    k.served_w = np.where(served | shares, k.backup_w, 0.0)
    k.convert_w = np.where(served | shares, power_w, np.where(wakes, -waking_w, k.convert_w))
    k.convert_var = np.where(served | shares, asked_var, k.convert_var)
    alone_pv_w = np.where(net_w > 0.0, k.pv_w_possible, k.backup_w + taken_w)
    k.pv_w = np.where(served, alone_pv_w, np.where(shares, shared_pv_w, np.where(wakes, waking_w, k.pv_w)))
    running = served | wakes | (shares & needs)
    k.standby_w_dc = np.where(running, p.standby_w, np.where(starved, 0.0, k.standby_w_dc))
    _bus(k, p, u, s, served, shares, net_w, taken_w)
    _shed(k, p, s, served | shares, overloaded, ticks)


def _bus(
    k: Flow, p: Columns, u: Columns, s: Columns, served: Mask, shares: Mask, net_w: Value, taken_w: Value
) -> None:
    """Voltage and frequency of the home's bus, and the frequency that keeps surplus PV off.

    Droop-capable PV is told what to give by the frequency, as far as its droop reaches below its trip; PV
    that can only trip is tripped, and comes back its own delay after the frequency is back.
    """
    surplus_w = most(-net_w - taken_w, 0.0)
    too_much = served & (surplus_w > 1e-6 * p.power_w_charge_max)
    kept_frac = 1.0 - np.where(too_much, surplus_w, 0.0) / np.where(too_much, k.pv_w_possible, 1.0)
    raised_hz = np.where(too_much, PV_BAND_HZ + p.hz_nominal * PV_K * (1.0 - kept_frac), 0.0)
    droops, trips = p.pv_kind == PV_DROOP, p.pv_kind == PV_TRIPS
    beyond = raised_hz >= least(p.pv_trip_hz, p.shift_hz)
    begins = served & ((trips & (too_much | (s.energy_j >= p.shift_j_on))) | (droops & too_much & beyond))
    rests = s.energy_j < p.shift_j_off
    s.shifting = np.where(served & ((p.pv_kind > 0.0) & (begins | ((s.shifting != 0.0) & ~rests))), 1.0, 0.0)
    shift_hz = np.where(s.shifting != 0.0, p.shift_hz, np.where(droops, raised_hz, 0.0))
    alone_hz = p.hz_nominal - p.droop_hz_per_w * k.convert_w + shift_hz
    alone_pu = 1.0 - p.droop_pu_per_var * k.convert_var
    closed = (k.status == ON_GRID) | (k.status == ENTER)
    s.bus_hz = np.where(served, alone_hz, np.where(shares, u.share_hz, np.where(closed, u.frequency_hz, 0.0)))
    s.bus_pu = np.where(served, alone_pu, np.where(shares, u.share_pu, np.where(closed, u.voltage_pu, 0.0)))


def shed_frac(p: Columns, s: Columns) -> Value:
    """Return the share of the backup panel that is shed now."""
    tiers = s.shed_tiers
    return (
        np.where(tiers > 0.0, p.shed_frac_1, 0.0)
        + np.where(tiers > 1.0, p.shed_frac_2, 0.0)
        + np.where(tiers > 2.0, p.shed_frac_3, 0.0)
    )


def _shed(k: Flow, p: Columns, s: Columns, served: Mask, overloaded: Mask, ticks: float) -> None:
    """Shed the next tier on overload or at its energy; bring one back after a wait, well above it."""
    have = flag(p.shed_frac_1 > 0.0) + flag(p.shed_frac_2 > 0.0) + flag(p.shed_frac_3 > 0.0)
    due = flag(s.energy_j < p.shed_j_1) + flag(s.energy_j < p.shed_j_2) + flag(s.energy_j < p.shed_j_3)
    above = (
        flag(s.energy_j < p.shed_j_1 + p.shed_j_band)
        + flag(s.energy_j < p.shed_j_2 + p.shed_j_band)
        + flag(s.energy_j < p.shed_j_3 + p.shed_j_band)
    )
    tiers, used = s.shed_tiers, s.shed_ticks_used
    lasted = overloaded & (s.surge_ticks_used >= p.shed_ticks)
    wanted = clamp(most(tiers + flag(lasted), due), 0.0, have)
    more = served & (wanted > tiers)
    fewer = served & ~overloaded & ~more & (tiers > above) & (used >= p.unshed_ticks)
    moved = np.where(more, wanted, np.where(fewer, tiers - 1.0, tiers))
    keeps = served | (k.status == OVERLOAD) | (k.status == EMPTY)
    s.shed_tiers = np.where(keeps, moved, 0.0)
    s.shed_ticks_used = np.where(served & ~more & ~fewer, used + ticks, 0.0)
