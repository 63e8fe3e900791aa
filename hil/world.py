"""What a scenario comes to: every device, load, price and event as arrays.

Duty: turn a scenario into a `World`, once, before the run; cut a window out of it; give it a fingerprint.
Rules: all chance and all files are used up here.  A World is plain, immutable data on the bench's clock:
time 0 is its start, arrays begin there and cover it to the end, and the same scenario gives the same bytes
on every machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ridethrough.controllers.contract import Commitments
from ridethrough.emulator.community import Rules
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.feeder import Feeder
from ridethrough.emulator.profile import DeviceProfile

from .faults import Event
from .files import load_device, load_feeder, resolve_path
from .scenario import (
    CommsSpec,
    ConstantPrice,
    Group,
    LoadSeries,
    PriceSeries,
    PvSeries,
    PvSpec,
    Roster,
    Scenario,
    Series,
    roster,
    start_of_day_ns,
    start_utc_ns,
)
from .storm import heal_ns, storm
from .synthetic import ercot_prices, home_load_w, municipal_shelter_w, pv_w
from .units import DAY_NS, MINUTE_NS, SECOND_NS, TICK_NS, duration_text, instant_text

Floats = NDArray[np.float64]

LOAD_STEP_NS = MINUTE_NS
PRICE_STEP_NS = 15 * MINUTE_NS
AHEAD_NS = DAY_NS
"""Day-ahead prices reach this far past the end, so that a controller sees ahead in the last hours too."""

_FORMAT = b"ridethrough world 2\n"


@dataclass(frozen=True, slots=True)
class Comms:
    """The network when no fault acts on it.

    Attributes
    ----------
    latency_ns_mean, latency_ns_p99 : int
        One-way delay [ns].
    loss_frac : float
        Probability that one message is lost [1].
    timeout_ns : int
        A message later than this is abandoned [ns].
    """

    latency_ns_mean: int
    latency_ns_p99: int
    loss_frac: float
    timeout_ns: int


@dataclass(frozen=True)
class World:
    """One pool in its world, on the bench's clock.

    Attributes
    ----------
    scenario_name : str
    document : dict
        The scenario as plain data, in the form users write.
    seed : int
    names : tuple of str, length n
        Device names, unique.
    profiles : tuple of DeviceProfile, length n
    soc_frac, soh_frac, backup_frac : Floats, shape (n,)
        State of charge at the start, state of health, share of the load behind the backup panel [1].
    load_var_per_w : Floats, shape (n,)
        Reactive demand of the load [var/W].
    ambient_c : Floats, shape (n,)
        Around each battery [°C].
    import_w_max, export_w_max : Floats, shape (n,)
        Connection agreement at each meter; infinite without one [W].
    feeder : Feeder or None
        Joins the homes, in their order.
    source_voltage_pu : float
        Of the grid; behind it lies the feeder [pu].
    community : Rules or None
        Of the community island.
    commitments : Commitments
    load_w : Floats, shape (steps, n)
        Whole home; row k holds from ``k * load_step_ns`` [W].
    pv_w : Floats, shape (steps, n)
        What PV could generate [W].
    load_step_ns : int
    prices_usd_per_mwh : Floats, shape (intervals,)
        Real time, over the run [$/MWh].
    prices_ahead_usd_per_mwh : Floats, shape (intervals or more,) or (0,)
        Day-ahead; empty when nothing is published; may reach past the end [$/MWh].
    price_step_ns : int
    events : tuple of Event
        In the order of the scenario, then those of its storm.
    heal_ns : int or None
        End of its storm, from which on only permanent faults are in force; None without one [ns].
    start_of_day_ns : int
        Time of day at bench time 0, from the midnight of the scenario's first day [ns].
    duration_ns : int
    window_from_ns : int
        How far into the scenario this world begins; 0 unless cut [ns].
    comms : Comms
    poll_ns : int
        Telemetry is taken this often [ns].
    """

    scenario_name: str
    document: dict[str, Any]
    seed: int
    names: tuple[str, ...]
    profiles: tuple[DeviceProfile, ...]
    soc_frac: Floats
    soh_frac: Floats
    backup_frac: Floats
    load_var_per_w: Floats
    ambient_c: Floats
    import_w_max: Floats
    export_w_max: Floats
    feeder: Feeder | None
    source_voltage_pu: float
    community: Rules | None
    commitments: Commitments
    load_w: Floats
    pv_w: Floats
    load_step_ns: int
    prices_usd_per_mwh: Floats
    prices_ahead_usd_per_mwh: Floats
    price_step_ns: int
    events: tuple[Event, ...]
    heal_ns: int | None
    start_of_day_ns: int
    duration_ns: int
    window_from_ns: int
    comms: Comms
    poll_ns: int

    def clock(self, now_ns: int) -> str:
        """Return bench time as a clock shows it: ``18:05:00``, next day ``1d 02:00:00``."""
        return instant_text(self.start_of_day_ns + now_ns)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything in this world, as hexadecimal text."""
        # The document stays out: it says how the world was described, and a rewritten file may describe the
        # same.
        plain = {
            "names": self.names,
            "profiles": [profile.model_dump(mode="json") for profile in self.profiles],
            "events": [[e.number, e.fault, e.targets, e.start_ns, e.end_ns, e.params] for e in self.events],
            "comms": [getattr(self.comms, name) for name in Comms.__slots__],
            "times": [self.start_of_day_ns, self.duration_ns, self.window_from_ns, self.poll_ns],
            "steps": [self.load_step_ns, self.price_step_ns],
            "seed": self.seed,
            "feeder": None if self.feeder is None else self.feeder.model_dump(mode="json"),
            "source_voltage_pu": self.source_voltage_pu,
            "community": None if self.community is None else asdict(self.community),
        }
        if self.heal_ns is not None:
            plain["heal_ns"] = self.heal_ns
        total = hashlib.sha256(_FORMAT)
        total.update(json.dumps(plain, sort_keys=True).encode())
        for name, array in _arrays(self):
            total.update(f"{name}{array.shape}".encode())
            total.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return total.hexdigest()

    def window(self, from_ns: int, duration_ns: int) -> World:
        """Return the same world from `from_ns` on, for `duration_ns`.

        Events are clipped and keep their numbers; initial states of charge are those of the whole scenario.

        Raises
        ------
        ScenarioError
            When the window does not lie inside this world, or does not begin at a whole minute.
        """
        end_ns = from_ns + duration_ns
        if not 0 <= from_ns < end_ns <= self.duration_ns or duration_ns % TICK_NS:
            raise ScenarioError(
                f"found a window from {self.clock(from_ns)} for {duration_text(duration_ns)}; allowed "
                f"windows in steps of 20ms inside {self.clock(0)} to {self.clock(self.duration_ns)}"
            )
        if from_ns % self.load_step_ns:
            raise ScenarioError(f"found a window from {self.clock(from_ns)}; allowed: from a whole minute")
        rows = slice(from_ns // self.load_step_ns, -(-end_ns // self.load_step_ns))
        # Prices are cut into finer intervals where the window begins inside one, so that they too start at 0.
        step_ns = math.gcd(self.price_step_ns, from_ns)
        fine, first = self.price_step_ns // step_ns, from_ns // step_ns
        last = -(-end_ns // step_ns)
        cut = replace(
            self,
            load_w=self.load_w[rows],
            pv_w=self.pv_w[rows],
            prices_usd_per_mwh=np.repeat(self.prices_usd_per_mwh, fine)[first:last],
            prices_ahead_usd_per_mwh=np.repeat(self.prices_ahead_usd_per_mwh, fine)[first:],
            price_step_ns=step_ns,
            events=tuple(_clipped(self.events, from_ns, end_ns)),
            heal_ns=None if self.heal_ns is None else max(0, self.heal_ns - from_ns),
            start_of_day_ns=self.start_of_day_ns + from_ns,
            duration_ns=duration_ns,
            window_from_ns=self.window_from_ns + from_ns,
        )
        return _sealed(cut)


_PER_DEVICE = (
    *("soc_frac", "soh_frac", "backup_frac", "load_var_per_w", "ambient_c", "import_w_max", "export_w_max"),
    *("load_w", "pv_w"),
)


def _arrays(world: World) -> Iterator[tuple[str, Floats]]:
    for name in _PER_DEVICE:
        yield name, getattr(world, name)
    for name in ("hours_h", "load_w", "transfer_s", "recovery_s"):
        yield f"commitments.{name}", getattr(world.commitments, name)
    yield "prices", world.prices_usd_per_mwh
    yield "prices_ahead", world.prices_ahead_usd_per_mwh


def _clipped(events: tuple[Event, ...], from_ns: int, end_ns: int) -> Iterator[Event]:
    for event in events:
        start_ns, stop_ns = max(event.start_ns, from_ns), min(event.end_ns, end_ns)
        if start_ns < stop_ns:
            yield replace(event, start_ns=start_ns - from_ns, end_ns=stop_ns - from_ns)


def build_world(scenario: Scenario) -> World:
    """Return the world of a scenario.

    Raises
    ------
    ScenarioError
        When a device profile or a data file it names is missing or wrong.
    """
    people = roster(scenario)
    groups = [group for group in scenario.pool for _ in range(group.count)]
    known = {group.device: load_device(group.device, scenario.folder) for group in scenario.pool}
    profiles = tuple(known[group.device] for group in groups)
    promises = [group.commitment for group in groups]
    transfer_s = [
        profile.transfer_s if promise.transfer is None else promise.transfer
        for profile, promise in zip(profiles, promises, strict=True)
    ]
    load, pv = _load_and_pv(scenario, people)
    real_time, ahead, price_step_ns = _prices(scenario)
    begin_ns = start_of_day_ns(scenario.start)
    feeder = _feeder(scenario, len(groups))
    world = World(
        scenario_name=scenario.name,
        document=scenario.to_dict(),
        seed=scenario.seed,
        names=people.names,
        profiles=profiles,
        soc_frac=np.array([group.soc for group in groups]),
        soh_frac=np.array([group.soh for group in groups]),
        backup_frac=np.array([group.backup_share for group in groups]),
        load_var_per_w=np.array([_load_var_per_w(group) for group in groups]),
        ambient_c=np.array([group.ambient_c for group in groups]),
        import_w_max=_limits(group.import_limit_w for group in groups),
        export_w_max=_limits(group.export_limit_w for group in groups),
        feeder=feeder,
        source_voltage_pu=_source_voltage_pu(scenario, feeder),
        community=_community(scenario, people, groups, profiles),
        commitments=Commitments(
            hours_h=np.array([promise.hours for promise in promises]),
            load_w=np.array([promise.load_w for promise in promises]),
            transfer_s=np.array(transfer_s),
            recovery_s=np.array([promise.recovery / SECOND_NS for promise in promises]),
        ),
        load_w=load,
        pv_w=pv,
        load_step_ns=LOAD_STEP_NS,
        prices_usd_per_mwh=real_time,
        prices_ahead_usd_per_mwh=ahead,
        price_step_ns=price_step_ns,
        events=tuple(_events(scenario, people, begin_ns)),
        heal_ns=heal_ns(scenario),
        start_of_day_ns=begin_ns,
        duration_ns=scenario.duration,
        window_from_ns=0,
        comms=_comms(scenario.comms),
        poll_ns=scenario.comms.poll,
    )
    return _sealed(world)


def _load_var_per_w(group: Group) -> float:
    factor = group.load_power_factor
    return math.sqrt(1.0 - factor * factor) / factor


def _limits(limits_w: Iterable[float | None]) -> Floats:
    return np.array([math.inf if limit_w is None else limit_w for limit_w in limits_w])


def _feeder(scenario: Scenario, devices: int) -> Feeder | None:
    """Return the feeder with one home per device, its source at the voltage of the scenario."""
    if scenario.feeder is None:
        return None
    feeder = load_feeder(scenario.feeder, devices, scenario.folder)
    if scenario.source_voltage_pu is None:
        return feeder
    return feeder.model_copy(update={"slack_pu": scenario.source_voltage_pu})


def _source_voltage_pu(scenario: Scenario, feeder: Feeder | None) -> float:
    if feeder is not None:
        return feeder.slack_pu
    return 1.0 if scenario.source_voltage_pu is None else scenario.source_voltage_pu


def _community(
    scenario: Scenario, people: Roster, groups: Sequence[Group], profiles: Sequence[DeviceProfile]
) -> Rules | None:
    spec = scenario.community
    if spec is None:
        return None
    (master,) = people.rows(spec.master)
    return Rules(
        master=master,
        contract=tuple(group.community for group in groups),
        power_w_rated=tuple(profile.inverter.power_w_discharge_max for profile in profiles),
        isochronous=spec.isochronous,
        frequency_hz=float(profiles[master].face.frequency_hz),
        join_s=spec.join / SECOND_NS,
        stagger_s=spec.stagger / SECOND_NS,
        retry_s=tuple(wait_ns / SECOND_NS for wait_ns in spec.retry),
    )


def _sealed(world: World) -> World:
    """Return the world after making its arrays read-only."""
    for _, array in _arrays(world):
        array.flags.writeable = False
    return world


def _comms(spec: CommsSpec) -> Comms:
    return Comms(spec.latency.mean, spec.latency.p99, spec.loss, spec.timeout)


def _events(scenario: Scenario, people: Roster, begin_ns: int) -> Iterator[Event]:
    for number, event in enumerate(scenario.events + storm(scenario), 1):
        start_ns = event.at - begin_ns
        targets = () if event.target is None else people.rows(event.target)
        yield Event(number, event.fault, targets, start_ns, start_ns + event.for_, event.params)


def _load_and_pv(scenario: Scenario, people: Roster) -> tuple[Floats, Floats]:
    """Return load and possible PV of every device, both of shape (steps, n) [W]."""
    steps = -(-scenario.duration // LOAD_STEP_NS)
    load = np.zeros((steps, len(people.names)))
    pv = np.zeros_like(load)
    first = 0
    for number, group in enumerate(scenario.pool):
        part = slice(first, first + group.count)
        place = f"pool[{number}]"
        load[:, part] = _group_load(scenario, group, people.names[part], steps, place) * group.load_scale
        if group.pv is not None:
            pv[:, part] = _group_pv(scenario, group.pv, people.names[part], steps, place)
        first += group.count
    return load, pv


def _group_load(scenario: Scenario, group: Group, names: tuple[str, ...], steps: int, place: str) -> Floats:
    if isinstance(group.load, LoadSeries):
        return _series(
            scenario, group.load, group.load.columns(group.count), (LOAD_STEP_NS, steps), f"{place}.load"
        )
    make = home_load_w if group.load == "synthetic-home" else municipal_shelter_w
    start_ns = start_of_day_ns(scenario.start)
    return np.column_stack([make(scenario.seed, name, start_ns, steps) for name in names])


def _group_pv(scenario: Scenario, pv: PvSpec, names: tuple[str, ...], steps: int, place: str) -> Floats:
    have = pv_homes(len(names), pv.share)
    if isinstance(pv.source, PvSeries):
        columns = pv.source.columns(len(names))
        value = _series(scenario, pv.source, columns, (LOAD_STEP_NS, steps), f"{place}.pv.source")
        if pv.source.unit == "W_per_kW":
            value = value * pv.w_peak
        return np.asarray(value * have, dtype=np.float64)
    result = np.zeros((steps, len(names)))
    for k in np.flatnonzero(have).tolist():
        result[:, k] = pv_w(scenario.seed, names[k], pv.w_peak, start_of_day_ns(scenario.start), steps)
    return result


def pv_homes(count: int, share: float) -> NDArray[np.bool_]:
    """Return which of a group's homes have PV: ``share`` of them, spread evenly, shape (count,)."""
    whole = np.floor(np.arange(count + 1) * share + 1e-9)
    return np.asarray(whole[1:] > whole[:-1])


def _prices(scenario: Scenario) -> tuple[Floats, Floats, int]:
    """Return real-time prices, day-ahead prices, and the length of an interval [ns].

    Intervals are quarter hours of the clock; a start inside one begins with its rest.
    """
    begin_ns = start_of_day_ns(scenario.start)
    late_ns = begin_ns % PRICE_STEP_NS
    count = -(-(late_ns + scenario.duration) // PRICE_STEP_NS)
    further = AHEAD_NS // PRICE_STEP_NS
    if isinstance(scenario.prices, PriceSeries):
        real_time, ahead = _price_series(scenario, scenario.prices, count, late_ns)
    elif isinstance(scenario.prices, ConstantPrice):
        real_time = np.full(count, scenario.prices.constant)
        ahead = np.full(count + further, scenario.prices.constant)
    else:
        tight = scenario.prices == "synthetic-ercot-tight"
        ahead, real_time = ercot_prices(scenario.seed, begin_ns - late_ns, count + further, tight=tight)
        real_time = real_time[:count]
    step_ns = math.gcd(PRICE_STEP_NS, late_ns)
    fine, first = PRICE_STEP_NS // step_ns, late_ns // step_ns
    last = first - (-scenario.duration // step_ns)
    return np.repeat(real_time, fine)[first:last], np.repeat(ahead, fine)[first:], step_ns


def _price_series(scenario: Scenario, spec: PriceSeries, count: int, late_ns: int) -> tuple[Floats, Floats]:
    columns = (spec.column,) if spec.column_ahead is None else (spec.column, spec.column_ahead)
    table = _series(scenario, spec, columns, (PRICE_STEP_NS, count), "prices", late_ns=late_ns)
    return table[:, 0], table[:, 1] if spec.column_ahead is not None else np.zeros(0)


def _series(
    scenario: Scenario,
    spec: Series,
    columns: tuple[str, ...],
    steps: tuple[int, int],
    place: str,
    *,
    late_ns: int = 0,
) -> Floats:
    """Return columns of a data file over the run; `steps` is their length [ns] and number."""
    # Here and not above: reading tables costs a second of start-up that most runs have no use for.
    from .series import Window, read_series

    start_ns = start_utc_ns(scenario)
    if start_ns is None:
        raise ScenarioError(f"{place}: found a file but no date; allowed a start such as '2024-08-01 06:00'")
    if scenario.folder is None:
        raise ScenarioError(f"{place}: found a file in a scenario without folder; allowed synthetic data")
    try:
        path: Path = resolve_path(scenario.folder, spec.file)
        window = Window(start_ns - late_ns, *steps, scenario.time_zone)
        return read_series(spec, columns, path, window, negative=isinstance(spec, PriceSeries))
    except ScenarioError as error:
        raise ScenarioError(f"{place}: {error}") from None
