"""The invariants the record alone can decide: RDY, DEL, REC, DEV, EXP, one pure function each.

Rules of this file: a function takes one home's timeline and returns what it found; it knows no other home and
no bench.  Whatever is not known to hold is a breach, never the other way round.  Definitions, units and
tolerances: docs/judge.md; the invariants themselves: properties.md 3.2.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .findings import LISTED_MAX, Breach, Finding, breaches_of, energy_text, finding_of, power_text, stretches
from .promise import LEAK_H, NS_PER_S, drain_per_load
from .timeline import Episode, Flags, Floats, Recovery, Timeline, Times, hours_of

SERVED_TOLERANCE_W: Final = 1.0
SLEW_TOLERANCE_W_PER_S: Final = 1.0
POWER_TOLERANCE: Final = 1e-6
"""Of the limit; the record keeps powers in single precision, which is finer."""
EXPORT_TOLERANCE_W: Final = {"mil": 1e-6, "sil": 1e-6, "hil": 1.0}
"""Zero in the model, a watt on hardware (properties.md, EXP)."""

NS_PER_DAY: Final = 86_400 * NS_PER_S
NS_PER_H: Final = 3600 * NS_PER_S

_NO_FLOATS: Final = np.zeros(0)
_NO_TIMES: Final = np.zeros(0, dtype=np.int64)


def ready(line: Timeline) -> Finding:
    """RDY: on a good grid, outside recovery, a home holds its reserve.

    Recovery counts from the loss of the grid until the reserve is due.  From then until it is there REC
    speaks, so that no shortfall is reported twice.
    """
    rows, home = line.rows, line.home
    judged = rows.grid_good.copy()
    for recovery in line.recoveries:
        judged[recovery.shut : _restored_row(line, recovery) + 1] = False
    margin_wh = rows.energy_wh_low - home.reserve_wh
    bad = judged & ~(margin_wh >= -home.tolerance_wh)

    def facts(first: int, worst: int, last: int) -> str:
        lowest = "" if worst == first else f" (lowest at {line.clock(rows.t_ns[worst])})"
        return (
            f"fell {energy_text(-margin_wh[worst])} below its reserve of {_reserve_text(line)} "
            f"at {line.clock(rows.t_ns[first])}{lowest}"
        )

    found = breaches_of(rows, bad, margin_wh / 1000.0, "kWh", facts)
    suspended = rows.grid_good & ~judged
    times = rows.t_ns[judged]
    return finding_of([found], hours_of(rows, judged), hours_of(rows, suspended), margin_wh[judged], times)


def _reserve_text(line: Timeline) -> str:
    more = "" if line.home.reserve_wh <= line.home.energy_wh_max else " (more than its battery holds)"
    return energy_text(line.home.reserve_wh) + more


def _restored_row(line: Timeline, recovery: Recovery) -> int:
    """Return the first row at whose end the reserve is there, from the deadline on; `end` if none."""
    due = max(int(np.searchsorted(line.rows.t_ns, recovery.deadline_ns)), recovery.first)
    return _first_there(line, due, recovery.end)


def _first_there(line: Timeline, begin: int, end: int) -> int:
    """Return the first row from `begin` on at whose end the reserve is there; `end` if none."""
    there = line.rows.energy_wh[begin:end] >= line.home.reserve_wh - line.home.tolerance_wh
    return begin + int(np.argmax(there)) if there.any() else end


def delivered(line: Timeline) -> Finding:
    """DEL: in an outage the backup panel gets what was promised, for as long as was promised."""
    count, listed, margins, times = 0, [], [], []
    judged_h = excused_h = 0.0
    for episode in line.episodes:
        span = slice(episode.first, episode.last + 1)
        due_h = _due_h(line, episode)
        excused = _excused(line, episode)
        judged_h += float(due_h[~excused].sum())
        excused_h += float(due_h[excused].sum())
        demand_w = np.minimum(line.rows.backup_load_w[span], line.home.promised_w)
        served_wh = line.rows.backup_served_w[span] * _rows_h(line, span)
        owed_wh = demand_w * due_h
        enough = served_wh >= (demand_w - SERVED_TOLERANCE_W) * due_h
        bad = (due_h > 0.0) & ~excused & ~enough
        short_wh = np.maximum(owed_wh - served_wh, 0.0)
        found = stretches(bad)
        count += len(found)
        listed += [_undelivered(line, episode, *pair, short_wh, owed_wh) for pair in found[:LISTED_MAX]]
        if (due_h > 0.0).any():
            margins.append(min([0.0, *(-float(short_wh[a : b + 1].sum()) for a, b in found)]))
            times.append(int(line.rows.t_ns[episode.first]))
    return finding_of(
        [(count, listed)], judged_h, excused_h, np.array(margins), np.array(times, dtype=np.int64)
    )


def _rows_h(line: Timeline, span: slice) -> Floats:
    lengths: Floats = (line.rows.t_ns[span] - line.rows.start_ns[span]) / NS_PER_H
    return lengths


def _due_h(line: Timeline, episode: Episode) -> Floats:
    """Return how much of each row of an episode lies between transfer time and promised length [h]."""
    home, span = line.home, slice(episode.first, episode.last + 1)
    begin_ns = np.maximum(line.rows.start_ns[span], episode.start_ns + home.dark_ns)
    stop_ns = np.minimum(line.rows.t_ns[span], episode.start_ns + home.promised_ns)
    due_h: Floats = np.maximum(stop_ns - begin_ns, 0) / NS_PER_H
    return np.maximum(due_h - _returning_h(line, span), 0.0)


def _returning_h(line: Timeline, span: slice) -> Floats:
    """Return how much of each row a home may be dark because it returns to the grid [h].

    A device may break before it makes: once per return, no longer than the promised transfer time, and only
    from serving its panel.
    """
    rows, home = line.rows, line.home
    demand_w = np.minimum(rows.backup_load_w[span], home.promised_w)
    length_h = _rows_h(line, span)
    dark = np.maximum(demand_w - rows.backup_served_w[span], 0.0) / np.maximum(demand_w, SERVED_TOLERANCE_W)
    served_before = np.concatenate([[False], rows.island[span][:-1]])
    begins = served_before & rows.grid_good[span] & (rows.rejoin | rows.closed)[span]
    result = np.zeros(len(demand_w))
    for k in np.flatnonzero(begins):
        left_h = home.dark_ns / NS_PER_H
        while k < len(result) and left_h > 0.0:
            result[k] = min(dark[k] * length_h[k], left_h)
            left_h -= result[k]
            if not rows.rejoin[span][k]:
                break
            k += 1
    return result


def _excused(line: Timeline, episode: Episode) -> Flags:
    """Return the rows of an episode in which service is not owed.

    It is not owed once the customer has used more than was promised so far, once the use has drained what
    energy had to be there when the grid was lost, and while the inverter is down because the customer's load
    was more than both the promise and the rating.
    """
    home, rows, span = line.home, line.rows, slice(episode.first, episode.last + 1)
    load_w = rows.backup_load_w[span]
    lasted_h, length_h = (rows.t_ns[span] - episode.start_ns) / NS_PER_H, _rows_h(line, span)
    per_load = drain_per_load(home, home.power_w_discharge_max)
    # A watt above the rating costs more than a watt below it; count it at that price.
    price = np.where(
        load_w > home.power_w_discharge_max, drain_per_load(home, home.power_w_surge) / per_load, 1.0
    )
    row_wh = rows.backup_served_w[span] * price * length_h
    used_wh = np.cumsum(row_wh)
    over_wh = used_wh - home.promised_w * lasted_h
    over_wh_before = over_wh - row_wh + home.promised_w * length_h
    overused = np.maximum(over_wh, over_wh_before) > home.tolerance_wh
    kept_wh = (episode.obligation_wh - home.energy_wh_step) * (
        1.0 - home.self_discharge_frac_per_h * (lasted_h + LEAK_H)
    )
    covered_wh = kept_wh - home.energy_wh_floor - home.tolerance_wh
    used_up = per_load * used_wh + home.idle_w * lasted_h >= covered_wh
    result: Flags = overused | used_up | _overloaded(line, span)
    return result


def _overloaded(line: Timeline, span: slice) -> Flags:
    """Return the rows in which the inverter is down through the customer's overload, restart included."""
    home, rows = line.home, line.rows
    too_much = rows.backup_load_w[span] > max(home.promised_w, home.power_w_discharge_sure)
    island, down = rows.island[span], rows.overload[span]
    # Tripped and back within one row: islanded at both its ends, not all served.
    result: Flags = too_much & island & np.concatenate([[False], island[:-1]])
    # Once the load is back within bounds the inverter owes service after its restart time.
    latest_ns = np.maximum.accumulate(np.where(too_much, rows.t_ns[span], -NS_PER_DAY))
    restarting = rows.start_ns[span] < latest_ns + _restart_ns(line, span, too_much)
    for first, last in stretches(down):
        if too_much[first]:
            result[first : last + 2] |= restarting[first : last + 2]
    return result


def _restart_ns(line: Timeline, span: slice, too_much: Flags) -> Floats:
    """Return how long a restart may take in each row, where each wait is longer than the one before [ns].

    Waits of w, w·g, w·g² ... that together took the time T are followed by one of w + (g - 1)·T at most.
    T is counted until the load was last too much: what a device adds of its own excuses nothing.
    """
    rows, home = line.rows, line.home
    down_ns = np.cumsum((rows.t_ns[span] - rows.start_ns[span]) * rows.overload[span])
    waited_ns = np.maximum.accumulate(np.where(too_much, down_ns, 0))
    longest_ns = home.restart_ns + (home.restart_growth - 1.0) * waited_ns
    result: Floats = np.minimum(longest_ns, max(home.restart_ns_max, home.restart_ns))
    return result


def _undelivered(
    line: Timeline, episode: Episode, first: int, last: int, short_wh: Floats, owed_wh: Floats
) -> Breach:
    """Return the breach of an episode's rows `first` to `last`, counted from the episode's first."""
    missing_wh = float(short_wh[first : last + 1].sum())
    row, row_last = episode.first + first, episode.first + last
    t_ns = int(line.rows.t_ns[row])
    outage_min = (t_ns - episode.start_ns) / NS_PER_S / 60.0
    promised_wh = float(owed_wh[first : last + 1].sum())
    facts = (
        f"left its backup panel without {energy_text(missing_wh)} of the {energy_text(promised_wh)} promised "
        f"from {line.clock(t_ns)} to {line.clock(line.rows.t_ns[row_last])}, {outage_min:.1f} min into the "
        f"outage of {line.clock(episode.start_ns)}"
    )
    return Breach(t_ns, int(line.rows.t_ns[row_last]), -missing_wh / 1000.0, "kWh", facts)


def recovered(line: Timeline) -> Finding:
    """REC: after an outage the reserve is there when due, and on the way the energy does not fall."""
    rows, home = line.rows, line.home
    late = np.zeros(len(rows), dtype=np.bool_)
    fell = late.copy()
    judged = late.copy()
    level_wh = np.zeros(len(rows))
    late_wh = rows.energy_wh - home.reserve_wh
    due_rows = [_NO_TIMES]
    for recovery in line.recoveries:
        restored = _restored_row(line, recovery)
        due = max(int(np.searchsorted(rows.t_ns, recovery.deadline_ns)), recovery.first)
        late[due : min(restored, recovery.end)] = True
        due_rows.append(np.arange(due, min(restored + 1, recovery.end)))
        judged[recovery.first : min(restored + 1, recovery.end)] = True
        span = _climb(line, recovery)
        if span.start >= span.stop:
            continue
        level_wh[span] = _fall_wh(line, span)
        fell[span] = ~(level_wh[span] >= -home.tolerance_wh)

    def late_facts(first: int, worst: int, last: int) -> str:
        more = (
            "" if worst == first else f" ({energy_text(-late_wh[worst])} at {line.clock(rows.t_ns[worst])})"
        )
        return (
            f"had not restored its reserve of {_reserve_text(line)} when due at "
            f"{line.clock(rows.t_ns[first])}: {energy_text(-late_wh[first])} missing{more}"
        )

    def fell_facts(first: int, worst: int, last: int) -> str:
        return (
            f"lost {energy_text(-level_wh[worst])} while restoring its reserve of "
            f"{_reserve_text(line)}, first at {line.clock(rows.t_ns[first])}"
        )

    found = [
        breaches_of(rows, late, late_wh / 1000.0, "kWh", late_facts),
        breaches_of(rows, fell, level_wh / 1000.0, "kWh", fell_facts),
    ]
    due_index = np.concatenate(due_rows)
    margin_wh = np.concatenate([late_wh[due_index], level_wh[fell]])
    t_ns = np.concatenate([rows.t_ns[due_index], rows.t_ns[fell]])
    return finding_of(found, hours_of(rows, judged), 0.0, margin_wh, t_ns)


def _climb(line: Timeline, recovery: Recovery) -> slice:
    """Return the rows in which the energy may not fall: from the wait's end until the reserve is there."""
    begin = max(int(np.searchsorted(line.rows.start_ns, recovery.wait_ns)), recovery.first + 1)
    return slice(begin, max(begin, _first_there(line, recovery.first, recovery.end)))


def _fall_wh(line: Timeline, span: slice) -> Floats:
    """Return how far each row lies under the highest energy before it, standby apart (0 or less)."""
    rows, wide = (
        line.rows,
        slice(span.start - 1, span.stop),
    )  # with the row before, where the first one begins
    idle_wh = line.home.resting_w * (rows.t_ns[wide] / NS_PER_H)
    highest_wh = np.maximum.accumulate(rows.energy_wh[wide] + idle_wh)
    fall_wh = (rows.energy_wh_low[wide] + idle_wh)[1:] - highest_wh[:-1] + line.home.leak_wh
    result: Floats = np.minimum(fall_wh, 0.0)
    return result


def within_device(line: Timeline, reserve_written_ns: Times) -> Finding:
    """DEV: energy window, power and ramp ratings, and the daily budget of writes to the reserve setting.

    Parameters
    ----------
    line : Timeline
    reserve_written_ns : Times
        When a reserve reached the device and was accepted [ns].
    """
    rows, home = line.rows, line.home
    above_wh = rows.energy_wh_low - _leaky_floor_wh(line)
    margin_wh = np.minimum(above_wh, home.energy_wh_max - rows.energy_wh_high)
    switch_shut = rows.closed & np.concatenate([rows.closed[:1], rows.closed[:-1]])
    most_w = np.where(switch_shut, home.power_w_discharge_max, home.power_w_surge)
    least_w = -home.power_w_charge_max - home.standby_w
    margin_w = np.minimum(most_w - rows.power_w_high, rows.power_w_low - least_w)
    margin_slew = home.ramp_w_per_s - rows.slew_w_per_s_high
    power_tolerance_w = POWER_TOLERANCE * max(home.power_w_surge, -least_w)

    def energy_facts(first: int, worst: int, last: int) -> str:
        return (
            f"was {energy_text(-margin_wh[worst])} outside its battery's window of "
            f"{energy_text(home.energy_wh_min)} to {energy_text(home.energy_wh_max)} "
            f"at {line.clock(rows.t_ns[first])}"
        )

    def power_facts(first: int, worst: int, last: int) -> str:
        return (
            f"ran {power_text(-margin_w[worst])} outside {power_text(least_w)} to "
            f"{power_text(float(most_w[worst]))} at {line.clock(rows.t_ns[first])}"
        )

    def slew_facts(first: int, worst: int, last: int) -> str:
        return (
            f"changed its power by {power_text(rows.slew_w_per_s_high[worst])} per second, "
            f"{power_text(home.ramp_w_per_s)} allowed, at {line.clock(rows.t_ns[first])}"
        )

    found = [
        breaches_of(rows, ~(margin_wh >= -home.tolerance_wh), margin_wh / 1000.0, "kWh", energy_facts),
        breaches_of(rows, ~(margin_w >= -power_tolerance_w), margin_w / 1000.0, "kW", power_facts),
        breaches_of(
            rows, ~(margin_slew >= -SLEW_TOLERANCE_W_PER_S), margin_slew / 1000.0, "kW/s", slew_facts
        ),
        _overwritten(line, reserve_written_ns),
    ]
    everything = np.ones(len(rows), dtype=np.bool_)
    return finding_of(found, hours_of(rows, everything), 0.0, margin_wh, rows.t_ns)


def _leaky_floor_wh(line: Timeline) -> Floats:
    """Return the least energy of the window in each row [Wh].

    No device holds its floor against self-discharge: below it, energy may fall by that alone.
    """
    rows, home = line.rows, line.home
    at_floor_ns = np.maximum.accumulate(np.where(rows.energy_wh >= home.energy_wh_min, rows.t_ns, 0))
    since_ns = rows.t_ns - np.concatenate([rows.start_ns[:1], at_floor_ns[:-1]])
    leaked_frac = home.self_discharge_frac_per_h * (since_ns / NS_PER_H + LEAK_H)
    floor_wh: Floats = home.energy_wh_min * (1.0 - leaked_frac)
    return floor_wh


def _overwritten(line: Timeline, written_ns: Times) -> tuple[int, list[Breach]]:
    """Return the calendar days on which the reserve setting was written too often."""
    budget = int(line.home.reserve_writes_per_day_max)
    day = (np.sort(written_ns) + line.start_of_day_ns) // NS_PER_DAY
    _, begins, counts = np.unique(day, return_index=True, return_counts=True)
    over = [(int(b), int(n)) for b, n in zip(begins, counts, strict=True) if n > budget]
    listed = []
    for begin, writes in over[:LISTED_MAX]:
        t_ns = int(np.sort(written_ns)[begin + budget])
        facts = (
            f"had its reserve setting written {writes} times in one day, {budget} allowed; "
            f"the first too many at {line.clock(t_ns)}"
        )
        listed.append(Breach(t_ns, t_ns, float(budget - writes), "writes", facts))
    return len(over), listed


def no_export(line: Timeline) -> Finding:
    """EXP: while the grid is not good, nothing flows at the meter."""
    rows = line.rows
    margin_w = -rows.dead_import_w_high
    bad = ~(margin_w >= -EXPORT_TOLERANCE_W[line.level])

    def facts(first: int, worst: int, last: int) -> str:
        return f"exchanged {power_text(-margin_w[worst])} with a dead grid at {line.clock(rows.t_ns[first])}"

    found = breaches_of(rows, bad, margin_w / 1000.0, "kW", facts)
    return finding_of([found], hours_of(rows, ~rows.grid_good), 0.0, _NO_FLOATS, _NO_TIMES)
