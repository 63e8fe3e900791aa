"""One step of every device, in NumPy: the plain version of `_step.h`, and its oracle bit for bit.

Rules of this file: the same operations in the same order as `_step.h`, stage by stage under the same names;
`_min`, `_max` and `np.where` only, because `np.minimum` orders signed zeros in its own way.  Read this file
to learn the model; the equations are explained in docs/model.md.

Arrays passed between the stages hold one value per device, shape (m,), for the m devices stepped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .fields import CONTROL, INPUT, PARAM, REVERT, STATE, STATUS, TICKS_PER_S

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Columns = dict[str, Floats]

ON_GRID, ENTER, TRANSFER, ISLAND, OVERLOAD, EMPTY = (float(k) for k in range(len(STATUS)))
SELF_CONSUMPTION, RECHARGE = float(REVERT.index("self_consumption")), float(REVERT.index("recharge"))


def _min(a: Floats | float, b: Floats | float) -> Floats:
    return np.where(np.less(a, b), a, b)


def _max(a: Floats | float, b: Floats | float) -> Floats:
    return np.where(np.greater(a, b), a, b)


def _size(a: Floats) -> Floats:
    return np.where(a < 0.0, -a, a)


def _loss(p: Columns, power_w: Floats) -> Floats:
    x = power_w / p["power_w_nominal"]
    return p["loss_a_w"] * (x * x) + p["loss_b_w"] * x + p["loss_c_w"]


def _switch(s: Columns, p: Columns, c: Columns, u: Columns) -> tuple[Floats, Floats]:
    """Transfer switch and inverter state at the start of the step; returns (status, status before)."""
    st, timer = s["status"], s["timer_ticks"]
    present, permit = u["grid_good"] != 0.0, c["permit"] != 0.0
    lost = ((st == ON_GRID) | (st == ENTER)) & ~present
    reclose_dead = ((st == TRANSFER) | (st == OVERLOAD) | (st == EMPTY)) & present
    formed = (
        ((st == TRANSFER) & ~present & (timer >= p["transfer_ticks"]))
        | ((st == OVERLOAD) & ~present & (timer >= p["restart_ticks"]))
        | ((st == EMPTY) & ~present & (s["energy_j"] >= p["energy_j_restart"]))
    )
    synced = (st == ISLAND) & present & (s["good_ticks"] >= p["enter_delay_ticks"])
    entered = (st == ENTER) & present & permit & (timer >= p["enter_delay_ticks"])
    ceased = (st == ON_GRID) & present & ~permit
    changed = lost | reclose_dead | formed | synced | entered | ceased
    cancels = lost & (p["cancels_grants"] != 0.0)

    status = np.where(lost, TRANSFER, st)
    status = np.where(reclose_dead | ceased | (synced & ~permit), ENTER, status)
    status = np.where(formed, ISLAND, status)
    status = np.where((synced & permit) | entered, ON_GRID, status)
    s["timer_ticks"] = np.where(changed, 0.0, timer)
    s["surge_ticks_used"] = np.where(changed, 0.0, s["surge_ticks_used"])
    for name in ("set_ena", "set_rvrt_ticks", "window_in_ena", "window_out_ena", "window_rvrt_ticks"):
        c[name] = np.where(cancels, 0.0, c[name])
    return status, st


def _pv(s: Columns, p: Columns, u: Columns, status: Floats, ticks: float) -> tuple[Floats, Floats]:
    """PV inverter behind the home's bus; returns (power it could deliver, demand of the backup panel)."""
    live = (
        (status == ON_GRID)
        | (status == ENTER)
        | (status == ISLAND)
        | ((status == EMPTY) & (u["pv_w_available"] > p["standby_w"]))
    )
    on = live & (s["pv_ticks"] >= p["pv_return_ticks"])
    s["pv_ticks"] = np.where(live, _min(s["pv_ticks"] + ticks, p["pv_return_ticks"]), 0.0)
    return np.where(on, u["pv_w_available"], 0.0), u["load_w"] * p["backup_frac"]


def _standby(s: Columns, p: Columns, status: Floats, dt_s: float) -> tuple[Floats, Floats]:
    """Own consumption: from the cells, from the grid when they are at their floor, or asleep."""
    closed = (status == ON_GRID) | (status == ENTER)
    enough = s["energy_j"] - p["standby_w"] * dt_s >= p["energy_j_min"]
    dc = np.where(enough & (status != EMPTY), p["standby_w"], 0.0)
    return dc, np.where(~enough & closed, p["standby_w"], 0.0)


def _target(s: Columns, p: Columns, c: Columns, u: Columns, pv_w: Floats) -> Floats:
    """What the device wants on the grid: remote command, else its own mode; then the limits in force."""
    band_j = p["recharge_band_frac"] * p["capacity_j"]
    on_j = _min(c["reserve_frac"] * p["capacity_j"], p["energy_j_max"] - (band_j + band_j))
    energy_j = s["energy_j"]
    recharging = np.where(energy_j < on_j, 1.0, np.where(energy_j >= on_j + band_j, 0.0, s["recharging"]))
    recharge_w = np.where(recharging != 0.0, -p["power_w_recharge"], 0.0)
    mode = p["revert_mode"]
    local_w = np.where(
        mode == SELF_CONSUMPTION, u["load_w"] - pv_w, np.where(mode == RECHARGE, recharge_w, 0.0)
    )
    charge_w, discharge_w = p["power_w_charge_max"], p["power_w_discharge_max"]
    low_w = np.where(c["window_in_ena"] != 0.0, -c["window_in_frac"] * charge_w, -charge_w)
    high_w = np.where(c["window_out_ena"] != 0.0, c["window_out_frac"] * charge_w, discharge_w)
    cap_w = np.where(c["limit_ena"] != 0.0, c["limit_frac"] * discharge_w, discharge_w)
    target_w = np.where(c["set_ena"] != 0.0, c["set_w"], local_w)
    s["recharging"] = recharging
    return _min(_min(_max(target_w, low_w), high_w), cap_w)


def _ramp_from(p: Columns, target_w: Floats, was_w: Floats, reach_w: Floats) -> Floats:
    """Where the ramp goes on from: the power so far, or beyond the band where charging gains nothing.

    The loss is convex, so a charging power above ``start_w`` exceeds its loss; a ramp that had to pass the
    band in steps smaller than the band would never get through.
    """
    size_w = _size(target_w)
    spare_w = size_w - _loss(p, size_w)
    charges = (target_w < 0.0) & (spare_w > 0.0)
    start_w = p["loss_c_w"] * size_w / np.where(charges, spare_w + p["loss_c_w"], 1.0)
    starts = charges & (was_w - reach_w < 0.0) & (was_w - reach_w > -start_w)
    return np.where(starts, _max(was_w, 0.0) - start_w, was_w)


def _follow(
    s: Columns, p: Columns, c: Columns, target_w: Floats, before: Floats, standby_w_dc: Floats, dt_s: float
) -> tuple[Floats, Floats]:
    """Converter power while following the grid; returns (power, slew)."""
    was_w = np.where(before == ON_GRID, s["power_w"] + s["standby_w_ac"], 0.0)
    reach_w = p["ramp_w_per_s"] * dt_s
    ramp_frac = s["ramp_ticks"] / _max(p["enter_ramp_ticks"], 1.0)
    frac = np.where(s["ramp_ticks"] >= p["enter_ramp_ticks"], 1.0, ramp_frac)  # also when there is no ramp
    from_w = _ramp_from(p, target_w, was_w, reach_w)
    ramped_w = _max(_min(target_w, was_w + reach_w), from_w - reach_w)
    reserve_j = np.where(p["has_reserve"] != 0.0, c["reserve_frac"] * p["capacity_j"], 0.0)
    floor_j = _max(p["energy_j_min"], reserve_j)
    above_w = _max((s["energy_j"] - floor_j) / dt_s, 0.0)
    room_w = _max((p["energy_j_max"] - s["energy_j"]) / dt_s, 0.0)
    power_w = _max(_min(ramped_w, p["power_w_discharge_max"] * frac), -p["power_w_charge_max"] * frac)
    out_w = _max(above_w - _loss(p, _size(power_w)) - standby_w_dc, 0.0)  # loss only falls with power
    in_w = room_w + standby_w_dc
    power_w = _max(_min(power_w, out_w), -in_w)
    size_w = _size(power_w)
    power_w = np.where(
        (power_w < 0.0) & (size_w <= _loss(p, size_w)), 0.0, power_w
    )  # would not reach the cells
    step_w = np.where(power_w < from_w, from_w - power_w, power_w - from_w)
    slew = np.where((before == ON_GRID) & (power_w == ramped_w), step_w / dt_s, 0.0)
    return power_w, slew


def _absorb(s: Columns, p: Columns, surplus_w: Floats, dt_s: float, own_w: Floats | float) -> Floats:
    """Charging from surplus PV behind an open switch, 0 when it would not reach the cells."""
    room_w = _max((p["energy_j_max"] - s["energy_j"]) / dt_s, 0.0)
    charge_w = _min(_min(_max(surplus_w, 0.0), p["power_w_charge_max"]), room_w)
    return np.where(charge_w <= _loss(p, charge_w) + own_w, 0.0, charge_w)


def _island(
    s: Columns,
    p: Columns,
    flows: Columns,
    status: Floats,
    dt_s: float,
    ticks: float,
) -> Floats:
    """Islanded service: the backup panel is served whole, or the island ends.  Returns the status."""
    island = status == ISLAND
    backup_w, pv_w = flows["backup_w"], flows["pv_w_possible"]
    net_w = backup_w - pv_w
    charge_w = _absorb(s, p, -net_w, dt_s, 0.0)
    power_w = np.where(net_w > 0.0, net_w, -charge_w)
    converting_w = power_w + _loss(p, _size(power_w))
    drain_w = np.where(power_w == 0.0, 0.0, converting_w) + p["standby_w"]
    above_w = _max((s["energy_j"] - p["energy_j_min"]) / dt_s, 0.0)
    used = np.where(net_w > p["power_w_discharge_max"], s["surge_ticks_used"] + ticks, 0.0)
    tripped = island & ((net_w > p["power_w_surge"]) | (used > p["surge_ticks"]))
    starved = island & ~tripped & (drain_w > above_w)
    wake_w = _absorb(s, p, pv_w, dt_s, p["standby_w"])
    waking = (status == EMPTY) & (wake_w > 0.0)

    s["surge_ticks_used"] = np.where(island & ~tripped, used, 0.0)
    s["pv_ticks"] = np.where(
        tripped | starved, 0.0, s["pv_ticks"]
    )  # the bus collapsed: PV waits its delay again
    status = np.where(tripped, OVERLOAD, np.where(starved, EMPTY, status))
    served = status == ISLAND
    flows["convert_w"] = np.where(served, power_w, np.where(waking, -wake_w, flows["convert_w"]))
    flows["pv_w"] = np.where(
        served, np.where(net_w > 0.0, pv_w, backup_w + charge_w), np.where(waking, wake_w, flows["pv_w"])
    )
    asleep_w = np.where(starved, 0.0, flows["standby_w_dc"])
    flows["standby_w_dc"] = np.where(served | waking, p["standby_w"], asleep_w)
    return status


def _books(s: Columns, p: Columns, u: Columns, flows: Columns, status: Floats, dt: float) -> None:
    """Books of the step: powers, energy, meters, extremes."""
    closed = (status == ON_GRID) | (status == ENTER)
    served = closed | (status == ISLAND)
    convert_w, pv_w = flows["convert_w"], flows["pv_w"]
    loss_w = np.where(convert_w == 0.0, 0.0, _loss(p, _size(convert_w)))
    battery_w = convert_w + loss_w + flows["standby_w_dc"]
    power_w = convert_w - flows["standby_w_ac"]
    load_w = np.where(closed, u["load_w"], np.where(served, flows["backup_w"], 0.0))
    backup_w = np.where(served, flows["backup_w"], 0.0)
    import_w = np.where(closed, load_w - pv_w - power_w, 0.0)
    dead_w = np.where(u["grid_good"] != 0.0, 0.0, _size(import_w))
    now = {
        "status": status,
        "energy_j": s["energy_j"] - battery_w * dt,
        "power_w": power_w,
        "battery_w": battery_w,
        "loss_w": loss_w,
        "standby_w_dc": flows["standby_w_dc"],
        "standby_w_ac": flows["standby_w_ac"],
        "import_w": import_w,
        "load_w_served": load_w,
        "backup_w_served": backup_w,
        "pv_w": pv_w,
    }
    s.update(now)
    metered = {
        "import_j": _max(import_w, 0.0),
        "export_j": _max(-import_w, 0.0),
        "discharge_j": _max(power_w, 0.0),
        "charge_j": _max(-power_w, 0.0),
        "pv_j": pv_w,
        "curtailed_j": _max(u["pv_w_available"] - pv_w, 0.0),
        "loss_j": loss_w,
        "standby_j": flows["standby_w_dc"] + flows["standby_w_ac"],
        "served_j": load_w,
        "backup_served_j": backup_w,
        "backup_short_j": flows["backup_w"] - backup_w,
    }
    for name, flow_w in metered.items():
        s[name] = s[name] + flow_w * dt
    s["energy_j_low"] = _min(s["energy_j"], s["energy_j_low"])
    s["energy_j_high"] = _max(s["energy_j"], s["energy_j_high"])
    s["power_w_low"] = _min(power_w, s["power_w_low"])
    s["power_w_high"] = _max(power_w, s["power_w_high"])
    s["slew_w_per_s_high"] = _max(flows["slew_w_per_s"], s["slew_w_per_s_high"])
    s["dead_import_w_high"] = _max(dead_w, s["dead_import_w_high"])


def _clocks(s: Columns, p: Columns, c: Columns, u: Columns, ticks: float) -> None:
    """Timers, and settings whose time has run out."""
    status = s["status"]
    counting = (status == TRANSFER) | (status == OVERLOAD) | ((status == ENTER) & (c["permit"] != 0.0))
    s["timer_ticks"] = np.where(counting, s["timer_ticks"] + ticks, 0.0)
    syncing = (status == ISLAND) & (u["grid_good"] != 0.0)
    s["good_ticks"] = np.where(syncing, s["good_ticks"] + ticks, 0.0)
    ramp_ticks = _min(s["ramp_ticks"] + ticks, p["enter_ramp_ticks"])
    s["ramp_ticks"] = np.where(status == ON_GRID, ramp_ticks, 0.0)
    s["elapsed_ticks"] = s["elapsed_ticks"] + ticks
    reverted: dict[str, dict[str, Floats | float]] = {
        "permit_rvrt_ticks": {"permit": 1.0},
        "set_rvrt_ticks": {"set_ena": c["set_rvrt_ena"], "set_w": c["set_rvrt_w"]},
        "limit_rvrt_ticks": {"limit_ena": c["limit_rvrt_ena"], "limit_frac": c["limit_rvrt_frac"]},
        "window_rvrt_ticks": {
            "window_in_ena": 0.0,
            "window_out_ena": 0.0,
            "window_in_frac": 1.0,
            "window_out_frac": 1.0,
        },
    }
    for timer, settings in reverted.items():
        out = (c[timer] > 0.0) & (c[timer] <= ticks)
        for name, value in settings.items():
            c[name] = np.where(out, value, c[name])
        c[timer] = _max(c[timer] - ticks, 0.0)


def step(p: Columns, c: Columns, u: Columns, s: Columns, ticks: float) -> None:
    """Move all devices in the columns on by one step of `ticks` ticks; changes `c` and `s`."""
    dt_s = ticks / TICKS_PER_S
    status, before = _switch(s, p, c, u)
    pv_w_possible, backup_w = _pv(s, p, u, status, ticks)
    standby_w_dc, standby_w_ac = _standby(s, p, status, dt_s)
    target_w = _target(s, p, c, u, pv_w_possible)
    follow_w, slew = _follow(s, p, c, target_w, before, standby_w_dc, dt_s)
    closed = (status == ON_GRID) | (status == ENTER)
    flows = {
        "pv_w_possible": pv_w_possible,
        "backup_w": backup_w,
        "standby_w_dc": standby_w_dc,
        "standby_w_ac": standby_w_ac,
        "convert_w": np.where(status == ON_GRID, follow_w, 0.0),
        "slew_w_per_s": np.where(status == ON_GRID, slew, 0.0),
        "pv_w": np.where(closed, pv_w_possible, 0.0),
    }
    status = _island(s, p, flows, status, dt_s, ticks)
    _books(s, p, u, flows, status, dt_s)
    _clocks(s, p, c, u, ticks)


def quiet(p: Columns, c: Columns, u: Columns, s: Columns) -> Mask:
    """Whether the second ahead can be one step: nothing in it needs 20 ms resolution."""
    st, timer, second = s["status"], s["timer_ticks"], float(TICKS_PER_S)
    present, permit = u["grid_good"] != 0.0, c["permit"] != 0.0
    delay, restart, good = p["enter_delay_ticks"], p["restart_ticks"], s["good_ticks"]
    enter_far = (timer >= delay) | (timer + second <= delay)
    restart_far = timer + second <= restart
    drained = s["energy_j"] < p["energy_j_restart"]
    sync_far = (good >= delay) | (good + second <= delay)
    within = u["load_w"] * p["backup_frac"] <= p["power_w_discharge_max"]
    full_enough = s["energy_j"] - p["energy_j_min"] >= 2.0 * p["power_w_surge"]
    running = np.zeros_like(present)
    for name in ("permit_rvrt_ticks", "set_rvrt_ticks", "limit_rvrt_ticks", "window_rvrt_ticks"):
        running |= (c[name] > 0.0) & (c[name] < second)
    steady: Mask = (
        ((st == ON_GRID) & present & permit)
        | ((st == ENTER) & present & (~permit | enter_far))
        | ((st == ISLAND) & within & full_enough & (~present | sync_far))
        | ((st == OVERLOAD) & ~present & restart_far)
        | ((st == EMPTY) & ~present & drained)
    )
    calm: Mask = steady & ~running
    return calm


def _columns(array: Floats, names: tuple[str, ...], rows: NDArray[np.intp]) -> Columns:
    return {name: array[:, k, :].reshape(-1)[rows] for k, name in enumerate(names)}


def _store(array: Floats, names: tuple[str, ...], rows: NDArray[np.intp], columns: Columns) -> None:
    lanes = array.shape[2]
    for k, name in enumerate(names):
        array[rows // lanes, k, rows % lanes] = columns[name]


def advance(param: Floats, control: Floats, inputs: Floats, state: Floats, n: int, ticks: int) -> None:
    """Move the first `n` devices on by `ticks` ticks of 20 ms with inputs held, as `_kernel.advance` does."""
    if n < 0 or ticks < 0:
        raise ValueError(f"n and ticks must not be negative, got {n} and {ticks}")

    def run(rows: NDArray[np.intp], step_ticks: int, times: int) -> None:
        if rows.size == 0:
            return
        p, u = _columns(param, PARAM, rows), _columns(inputs, INPUT, rows)
        c, s = _columns(control, CONTROL, rows), _columns(state, STATE, rows)
        for _ in range(times):
            step(p, c, u, s, float(step_ticks))
        _store(control, CONTROL, rows, c)
        _store(state, STATE, rows, s)

    rows = np.arange(n)
    seconds, rest = divmod(ticks, TICKS_PER_S)
    for _ in range(seconds):
        columns = (_columns(a, names, rows) for a, names in _groups(param, control, inputs, state))
        calm = quiet(*columns)
        run(rows[calm], TICKS_PER_S, 1)
        run(rows[~calm], 1, TICKS_PER_S)
    run(rows, 1, rest)


def _groups(
    param: Floats, control: Floats, inputs: Floats, state: Floats
) -> tuple[tuple[Floats, tuple[str, ...]], ...]:
    return ((param, PARAM), (control, CONTROL), (inputs, INPUT), (state, STATE))
