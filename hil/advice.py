"""What a user should know about a valid scenario before they rely on it.

Rule of this file: advice only; nothing here stops a run, and the judge has its own formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ridethrough.emulator.profile import DeviceProfile

from .abilities import Abilities, abilities
from .files import load_device, load_feeder
from .scenario import Group, PriceSeries, Scenario


def scenario_notes(scenario: Scenario) -> tuple[str, ...]:
    """Return what a user should know about a valid scenario, one sentence each."""
    notes: list[str] = []
    profiles = [load_device(group.device, scenario.folder) for group in scenario.pool]
    notes += _feeder_notes(scenario, profiles)
    if isinstance(scenario.prices, PriceSeries) and scenario.prices.column_ahead is None:
        notes.append("prices has no column_ahead: no day-ahead prices are published to the controller")
    for number, (group, profile) in enumerate(zip(scenario.pool, profiles, strict=True)):
        notes += [f"pool[{number}]: {text}" for text in _promise_notes(group, profile)]
    return tuple(notes)


def _feeder_notes(scenario: Scenario, profiles: list[DeviceProfile]) -> Iterator[str]:
    if scenario.feeder is None:
        return
    groups = scenario.pool
    devices = sum(group.count for group in groups)
    rating_va = load_feeder(scenario.feeder, devices, scenario.folder).transformer.rating_va
    pairs = list(zip(groups, profiles, strict=True))
    for verb, total_w in (
        ("charge", sum(g.count * p.inverter.power_w_charge_max for g, p in pairs)),
        ("discharge", sum(g.count * p.inverter.power_w_discharge_max for g, p in pairs)),
    ):
        if total_w > rating_va:
            yield (
                f"feeder: all devices together {verb} with up to {total_w / 1000.0:.0f} kW through a "
                f"transformer of {rating_va / 1000.0:.0f} kVA; only the controller keeps them within it"
            )


def _promise_notes(group: Group, profile: DeviceProfile) -> Iterator[str]:
    promise, sure = group.commitment, _abilities(group, profile)
    if not profile.island.capable:
        yield f"{group.device} cannot island: no promise of backup can be kept in an outage"
    if promise.load_w > sure.power_w_discharge_sure:
        rating_w = profile.inverter.power_w_discharge_max
        why = "" if sure.power_w_discharge_sure == rating_w else f" at {group.ambient_c:g} °C with this load"
        yield (
            f"{promise.load_w:g} W is promised, but {group.device} gives at most "
            f"{sure.power_w_discharge_sure:g} W{why}"
        )
    if sure.power_w_charge_sure == 0.0:
        yield f"{group.device} does not charge at {group.ambient_c:g} °C: its reserve cannot be restored"
    if promise.transfer is not None and promise.transfer < profile.transfer_s:
        taken_s = profile.transfer_s
        yield f"transfer within {promise.transfer:g} s is promised, but {group.device} takes {taken_s:g} s"
    reserve, capacity_wh = reserve_wh(group, profile), profile.battery.energy_wh * group.soh
    if reserve > capacity_wh * profile.battery.soc_frac_max:
        yield (
            f"the promise needs {reserve:.0f} Wh at the start of an outage, but the battery holds "
            f"{capacity_wh * profile.battery.soc_frac_max:.0f} Wh"
        )
    elif reserve > capacity_wh * group.soc:
        yield f"the run starts below the reserve: {capacity_wh * group.soc:.0f} Wh of {reserve:.0f} Wh"


def _abilities(group: Group, profile: DeviceProfile) -> Abilities:
    factor = group.load_power_factor
    load_var_per_w = math.sqrt(1.0 - factor * factor) / factor
    return abilities(profile, ambient_c=group.ambient_c, load_var_per_w=load_var_per_w)


def reserve_wh(group: Group, profile: DeviceProfile) -> float:
    """Return the energy a promise needs at the start of an outage, by the bound of docs/judge.md [Wh].

    Notes
    -----
    For advice to users; the judge has its own formula.
    """
    inverter, promise, sure = profile.inverter, group.commitment, _abilities(group, profile)
    full_w = inverter.power_w_discharge_max

    def drained_w(power_w: float) -> float:
        share = power_w / full_w
        battery_w = power_w + (inverter.loss_a_w * share + inverter.loss_b_w) * share
        battery_w += inverter.loss_c_w + inverter.standby_w
        return battery_w * (1.0 + sure.ohm_per_w_max * battery_w)

    share = min(promise.load_w, full_w) / full_w
    drain_w = drained_w(0.0) + share * (drained_w(full_w) - drained_w(0.0))
    floor_wh = sure.soc_frac_floor * profile.battery.energy_wh * group.soh
    kept_frac = 1.0 - sure.self_discharge_frac_per_h * (promise.hours + 1.0 / 60.0)
    return (floor_wh + drain_w * promise.hours) / kept_frac
