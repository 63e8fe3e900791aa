"""The device itself: its battery, inverter, switch and timers.

Rules of this file: what an event changes is put back at its end, but for what it has done to the world:
energy, operating states, settings that a restart has lost, commands that were bent.  Faults of different
kinds compose; of several that hold one value the severer counts.  Faults that meet writes act in the order of
their events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from ridethrough.emulator.cells import CHARGE_LIMIT_C, DISCHARGE_LIMIT_C
from ridethrough.emulator.fields import CONTROL
from ridethrough.emulator.intake import forget
from ridethrough.emulator.plant import Plant

from ..faults import Event
from ..units import SECOND_NS
from .plant_devices import AT, IS, Devices, Fault, Floats, targets_of, ticks_of
from .plant_fields import NEVER, Imposed
from .plant_writes import WRITES, refuse


def _down(devices: Devices, event: Event, d: int) -> None:
    """Hold the inverter off: ceased on the grid, tripped in an island, forming none."""
    fields, status = devices.fields, devices.fields.get("status", d)
    fields.most("enter_delay_ticks", d, NEVER)
    fields.least("can_island", d, 0.0)
    if status == IS["on_grid"]:
        fields.set("status", d, IS["enter"])
        fields.set("timer_ticks", d, 0.0)
    elif status in (IS["island"], IS["member"], IS["empty"], IS["rejoin"]):
        for name, value in (
            ("status", IS["overload"]),
            ("timer_ticks", 0.0),
            ("good_ticks", 0.0),
            ("pv_ticks", 0.0),  # the bus collapsed: PV waits its delay again
            ("surge_ticks_used", 0.0),
            ("restart_ticks_now", fields.base("restart_ticks", d)),
        ):
            fields.set(name, d, value)


def _up(devices: Devices, event: Event, d: int) -> None:
    """Let the delays of a return begin."""
    if devices.fields.get("status", d) in (IS["enter"], IS["overload"]):
        devices.fields.set("timer_ticks", d, 0.0)


def _reset(devices: Devices, event: Event, d: int) -> None:
    if event.params["reset"] == "manual":
        forget(devices.plant, d)
    _up(devices, event, d)


def _restart(devices: Devices, event: Event, d: int) -> None:
    forget(devices.plant, d)


def _derate(devices: Devices, event: Event, d: int) -> None:
    """Limit what the cells take or give to a share of the rating.

    Charging goes by the taper, which is a share of the rating whatever the temperature.  Discharging goes by
    the limit of the cells, which is the surge power where no temperature limits it; so what temperature
    allows by itself is worked into both.
    """
    fields, side = devices.fields, event.params["side"]
    share = float(event.params["share_frac"])
    if side != "discharge":
        _taper(devices, d, share)
    if side != "charge":
        most_w = share * fields.base("power_w_discharge_max", d)
        if fields.base("c_rate_limited", d) != 0.0:
            temp_c, one_c_w = np.array(fields.get("temp_c", d)), fields.base("charge_w_per_c_rate", d)
            most_w = min(most_w, max(float(DISCHARGE_LIMIT_C.at(temp_c)), 0.0) * one_c_w)
            charge_w = max(float(CHARGE_LIMIT_C.at(temp_c)), 0.0) * one_c_w
            _taper(devices, d, charge_w / fields.base("power_w_charge_max", d))
            fields.put("c_rate_limited", d, 0.0)
        fields.least("power_w_surge", d, most_w)


def _taper(devices: Devices, d: int, share: float) -> None:
    """Charge with no more than a share of the rating, nor than the own taper or another fault leaves."""
    fields = devices.fields
    above_j = max(fields.get("energy_j", d) - fields.base("taper_j", d), 0.0)
    own = max(1.0 - fields.base("taper_per_j", d) * above_j, fields.base("taper_frac_min", d))
    so_far = fields.wanted("taper_frac_min", d)
    fields.put("taper_j", d, -NEVER)
    fields.put("taper_per_j", d, 1.0)
    fields.put("taper_frac_min", d, min(share, own, 1.0 if so_far is None else so_far))


def _contactor(devices: Devices, event: Event, d: int) -> None:
    devices.fields.put("bms_open", d, 1.0 if event.params["position"] == "open" else 0.0)


def _cut(devices: Devices, event: Event, d: int) -> None:
    fields = devices.fields
    top_j = fields.base("energy_j_max", d) * (1.0 - float(event.params["cut_frac"]))
    fields.least("energy_j_max", d, max(top_j, fields.base("energy_j_min", d)))


def _floor(devices: Devices, d: int, floor_frac: float) -> None:
    """Let discharging end at a share of the capacity; an island that ended so starts again a bit above."""
    fields = devices.fields
    capacity_j, low_j = fields.base("capacity_j", d), fields.base("energy_j_min", d)
    above_j = max(floor_frac * capacity_j - low_j, 0.0)
    fields.most("imbalance_frac", d, above_j / capacity_j)
    restart_j = above_j + fields.base("energy_j_restart", d)
    fields.most("energy_j_restart", d, min(restart_j, fields.base("energy_j_max", d)))


def _reserve_off_grid(devices: Devices, event: Event, d: int) -> None:
    reserve_frac = devices.fields.get("reserve_frac", d)
    _floor(devices, d, max(reserve_frac, float(event.params["floor_frac"])))


def _early(devices: Devices, event: Event, d: int) -> None:
    fields = devices.fields
    end_frac = fields.base("energy_j_min", d) / fields.base("capacity_j", d)
    _floor(devices, d, end_frac + fields.base("imbalance_frac", d) + float(event.params["early_frac"]))


def _overload(devices: Devices, event: Event, d: int) -> None:
    """Trip an island under a load above the limit, once that has lasted."""
    fields, known = devices.fields, devices.recall(event, d)
    load_w = fields.get("load_w", d) * fields.get("backup_frac", d)
    off_grid = fields.get("grid_good", d) == 0.0 or fields.get("status", d) not in (
        IS["on_grid"],
        IS["enter"],
    )
    after_ns = float(event.params["after_s"]) * SECOND_NS
    serves = fields.get("status", d) in (IS["island"], IS["member"])
    if load_w <= float(event.params["power_w"]) or not (serves or after_ns == 0.0):
        known.pop("since_ns", None)
        return
    since_ns = known.setdefault("since_ns", float(devices.now_ns))
    if off_grid and devices.now_ns - since_ns >= after_ns:
        fields.least("power_w_surge", d, float(event.params["power_w"]))


def _draw_transfer(devices: Devices, event: Event, d: int) -> None:
    fails, more = devices.draw(event, d), devices.draw(event, d)
    known = devices.recall(event, d)
    known["fails"] = float(fails < float(event.params["failure_frac"]))
    wait_s = float(event.params["wait_s"]) + more * float(event.params["spread_s"])
    known["ticks"] = max(1.0, ticks_of(wait_s))


def _transfer(devices: Devices, event: Event, d: int) -> None:
    known = devices.recall(event, d)
    devices.fields.most("transfer_ticks", d, known["ticks"])
    if known["fails"] != 0.0 and devices.fields.get("status", d) not in (IS["island"], IS["member"]):
        devices.fields.least("can_island", d, 0.0)


def _out_of_step(devices: Devices, event: Event, d: int) -> None:
    devices.fields.most("sync_ticks", d, NEVER)


_STALE: Final = tuple(name for name in CONTROL if name.startswith(("set_", "window_")))
"""A set-point and a storage window, with their timers."""


def _stale(devices: Devices, event: Event, d: int) -> None:
    """Keep set-point and window as they were when the grid was lost until the device follows it again."""
    fields, known = devices.fields, devices.recall(event, d)
    fields.least("cancels_grants", d, 0.0)
    fields.put("enter_delay_ticks", d, ticks_of(event.params["delay_s"]))
    if devices.is_following(d):
        known.clear()
    elif not known:
        known.update({name: fields.get(name, d) for name in _STALE})
    else:
        for name, value in known.items():
            if fields.get(name, d) != value:
                fields.set(name, d, value)


def _keep_stale(
    devices: Devices, event: Event, d: int, before: Floats, asked: Floats, written: frozenset[str]
) -> Floats:
    if devices.recall(event, d):
        for name in _STALE:
            asked[AT[name]] = before[AT[name]]
    return asked


ACTS: Final[Mapping[str, Fault]] = {
    "device.trip": Fault(hold=_down, end=_reset),
    "device.derating": Fault(hold=_derate),
    "device.contactor-stuck": Fault(hold=_contactor),
    "device.capacity-cut": Fault(hold=_cut),
    "device.lock": Fault(hold=_down, end=_up, admit=refuse),
    "device.reboot": Fault(begin=_restart, hold=_down, end=_up, admit=refuse),
    **WRITES,
    "device.reserve-off-grid": Fault(hold=_reserve_off_grid),
    "device.early-cutoff": Fault(hold=_early),
    "device.island-overload": Fault(hold=_overload),
    "device.transfer-failure": Fault(begin=_draw_transfer, hold=_transfer),
    "grid.phase-jump": Fault(hold=_out_of_step),
    "grid.stale-set-point": Fault(hold=_stale, write=_keep_stale),
}
"""What each fault of a device does, and what two faults of the grid do to devices."""


class PlantFaults:
    """Faults of the devices of one run.

    Parameters
    ----------
    plant : Plant
    seed : int
    names : sequence of str, length n
        Of the devices: one stream of chance each.
    """

    def __init__(self, plant: Plant, seed: int, names: Sequence[str]) -> None:
        self._devices = Devices(plant, seed, tuple(names), Imposed(plant))
        self._begun: dict[tuple[int, int], Event] = {}
        self._writing: dict[int, list[Event]] = {}

    def step(self, now_ns: int, events: Sequence[Event]) -> None:
        """Let the events in force act on the plant; to be called before each of its advances.

        Parameters
        ----------
        now_ns : int
            [ns].
        events : sequence of Event
            In force now; those of other places are passed over.
        """
        pairs = targets_of([event for event in events if event.fault in ACTS])
        if not pairs and not self._begun:
            return
        devices = self._devices
        devices.now_ns = now_ns
        present = {(event.number, d): event for event, d in pairs}
        over = [(key, event) for key, event in self._begun.items() if key not in present]
        for event, d in pairs:
            begin = ACTS[event.fault].begin
            if begin is not None and (event.number, d) not in self._begun:
                begin(devices, event, d)
        self._begun = present
        for (_, d), event in over:
            end = ACTS[event.fault].end
            if end is not None:
                end(devices, event, d)
        for event, d in pairs:
            hold = ACTS[event.fault].hold
            if hold is not None:
                hold(devices, event, d)
        devices.fields.apply()
        self._writing = {}
        for event, d in pairs:
            if ACTS[event.fault].write is not None or ACTS[event.fault].admit is not None:
                self._writing.setdefault(d, []).append(event)
        self._devices.plant.intake = self if present else None

    def admits(self, device: int) -> bool:
        """Whether a write that has just come is taken; see `emulator.intake.Intake`."""
        answers = [
            admit(self._devices, event, device)
            for event in self._writing.get(device, ())
            if (admit := ACTS[event.fault].admit) is not None
        ]
        return all(answers)  # each is asked: some count

    def take(self, device: int, before: Floats, asked: Floats, written: frozenset[str]) -> Floats:
        """Return the settings that a write leaves; see `emulator.intake.Intake`."""
        fields = self._devices.fields
        if "contactor" in written and (stuck := fields.imposed("bms_open", device)) is not None:
            fields.rebase("bms_open", device, float(asked[AT["bms_open"]]))
            asked[AT["bms_open"]] = stuck
        for event in self._writing.get(device, ()):
            write = ACTS[event.fault].write
            if write is not None:
                asked = write(self._devices, event, device, before.copy(), asked, written)
        return asked
