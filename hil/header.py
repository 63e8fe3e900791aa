"""What run.json must say, checked alike when a record is written and when it is read.

Rule of this file: no I/O.  A list of faults is a value; the caller decides whose fault they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

FORMAT_VERSION: Final = 2
"""Version 1 knew a simpler battery, no feeder and no voltage; `upgraded` makes its headers readable."""

FORMATS_READ: Final = (1, 2)

RESERVE_WRITES_PER_DAY_MAX: Final = 50
"""Default daily budget of writes to a device's non-volatile reserve setting (properties.md, DEV)."""

HEADER_KEYS: Final = {
    "format_version": int,
    "scenario": str,  # its name
    "controller": str,
    "seed": int,
    "level": str,
    "start_of_day_ns": int,  # time of day at bench time 0
    "duration_ns": int,
    "status_names": list,
    "devices": list,
    "events": list,
}
"""Keys run.json must have; `feeder` where there is one.

More are welcome: scenario text, world digest, versions, speed, window, comms.
"""

LEVELS: Final = ("mil", "sil", "hil")

STATUS_NAMES: Final = (
    "on_grid",
    "enter",
    "transfer",
    "island",
    "overload",
    "empty",
    "rejoin",
    "member",
)
"""States the judge must find in `status_names`; the order there may differ."""

_STATUS_NAMES_1: Final = STATUS_NAMES[:6]

DEVICE_NUMBERS: Final = (
    "energy_wh",  # faded capacity
    "soc_frac_min",
    "soc_frac_max",
    "soc_frac_floor",  # below it a promise cannot be served in full: weakest cell, parts of the panel shed
    "soc_frac_step",
    "soc_frac_error_max",
    "power_w_discharge_max",
    "power_w_charge_max",
    "power_w_discharge_sure",  # what this world's warmth, reactive power and load leave of the ratings
    "power_w_charge_sure",
    "power_w_surge",
    "power_w_nominal",
    "loss_a_w",
    "loss_b_w",
    "loss_c_w",
    "standby_w",
    "ohm_per_w_max",  # ohmic loss of the cells over their squared DC power, greatest over the window
    "self_discharge_frac_per_h",
    "taper_soc_frac",  # charging is held back from here, in a line to taper_frac_min of the rating at full
    "taper_frac_min",
    "ramp_w_per_s",
    "transfer_s",
    "enter_delay_s",  # its random part included
    "enter_ramp_s",
    "enter_voltage_pu_low",
    "enter_voltage_pu_high",
    "sync_s",
    "break_s",
    "restart_s",
    "restart_growth",
    "restart_s_max",
    "reserve_writes_per_day_max",
)
"""Numbers of one entry of `devices`, all finite and not negative."""

DEVICE_LIMITS: Final = ("import_w_max", "export_w_max")
"""Limits of the connection agreement [W]; null or absent where there is none."""

DEVICE_POSITIVE: Final = ("energy_wh", "power_w_discharge_max", "power_w_charge_max", "power_w_nominal")

COMMITMENT_NUMBERS: Final = ("hours_h", "load_w", "transfer_s", "recovery_s")
"""Numbers of `devices[i].commitment`, all finite and not negative."""

EVENT_KEYS: Final = {"number": int, "fault": str, "targets": list, "start_ns": int, "end_ns": int}
"""Keys of one entry of `events`; `targets` are positions in `devices`."""


def completed(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header with its format version and the default write budget of each device filled in."""
    devices = header.get("devices")
    whole = {**header, "format_version": FORMAT_VERSION}
    if isinstance(devices, list | tuple):
        budget = {"reserve_writes_per_day_max": RESERVE_WRITES_PER_DAY_MAX}
        whole["devices"] = [{**budget, **entry} if isinstance(entry, Mapping) else entry for entry in devices]
    return whole


def upgraded(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a header of version 1 in the present form; what it did not know has no effect."""
    whole = {**header, "format_version": FORMAT_VERSION}
    if isinstance(header.get("status_names"), list) and set(_STATUS_NAMES_1) <= set(header["status_names"]):
        whole["status_names"] = [
            *header["status_names"],
            *(name for name in STATUS_NAMES if name not in header["status_names"]),
        ]
    if isinstance(header.get("devices"), list):
        whole["devices"] = [
            {**_unknown_to_1(device), **device} if isinstance(device, Mapping) else device
            for device in header["devices"]
        ]
    return whole


def _unknown_to_1(device: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a device that a header of version 1 leaves out."""
    return {
        "soc_frac_floor": device.get("soc_frac_min"),
        "soc_frac_error_max": 0.0,
        "power_w_discharge_sure": device.get("power_w_discharge_max"),
        "power_w_charge_sure": device.get("power_w_charge_max"),
        "ohm_per_w_max": 0.0,
        "self_discharge_frac_per_h": 0.0,
        "taper_soc_frac": 1.0,
        "taper_frac_min": 1.0,
        "enter_voltage_pu_low": 0.0,
        "enter_voltage_pu_high": 10.0,
        "sync_s": 0.0,
        "break_s": 0.0,
        "restart_growth": 1.0,
        "restart_s_max": device.get("restart_s"),
    }


def header_faults(header: Mapping[str, Any]) -> list[str]:
    """Return everything wrong with a header, one sentence each: place, what was found, what is allowed."""
    faults = list(_wrong_types(header, HEADER_KEYS, ""))
    if faults:
        return faults
    if header["level"] not in LEVELS:
        faults.append(f"level: found {header['level']!r}; allowed {', '.join(LEVELS)}")
    if header["duration_ns"] <= 0:
        faults.append(f"duration_ns: found {header['duration_ns']}; allowed is more than 0")
    missing = [name for name in STATUS_NAMES if name not in header["status_names"]]
    if missing:
        faults.append(f"status_names: without {', '.join(missing)}")
    for i, device in enumerate(header["devices"]):
        faults += _device_faults(device, f"devices[{i}]")
    names = [str(device.get("name")) for device in header["devices"] if isinstance(device, Mapping)]
    twice = sorted({name for name in names if names.count(name) > 1})
    faults += [f"devices: the name {name!r} occurs twice" for name in twice]
    faults += _feeder_faults(header.get("feeder"))
    for i, event in enumerate(header["events"]):
        faults += _event_faults(event, f"events[{i}]", len(header["devices"]))
    return faults


def with_acts(header: Mapping[str, Any], acts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a header whose events are what they became: some injected while it ran, some ended early.

    Parameters
    ----------
    header : mapping
        Of a run as it was planned.
    acts : sequence of mapping
        In order of time, without faults (`act_faults`).

    Returns
    -------
    dict
        Injected events have `injected` true.
    """
    events = [dict(event) for event in header["events"]]
    for act in acts:
        if act["act"] == "inject":
            events.append({**act["event"], "injected": True})
            continue
        for event in events:
            if event["number"] == act["number"] and event["end_ns"] > act["t_ns"]:
                event["end_ns"] = max(event["start_ns"], act["t_ns"])
    # One that was cleared before it began did not happen.
    return {**header, "events": [event for event in events if event["end_ns"] > event["start_ns"]]}


def act_faults(act: Mapping[str, Any], devices: int) -> list[str]:
    """Return everything wrong with one act of somebody who interfered with a run."""
    if type(act.get("t_ns")) is not int or act.get("act") not in ("inject", "clear"):
        return ["found no t_ns, or an act that is neither inject nor clear"]
    if act["act"] == "inject":
        return _event_faults(act.get("event"), "event", devices)
    return list(_wrong_types(act, {"number": int}, ""))


def stopped(header: Mapping[str, Any], end_ns: int) -> dict[str, Any]:
    """Return the header of a run that was ended on purpose at `end_ns`, before its time."""
    events = [
        {**event, "end_ns": min(event["end_ns"], end_ns)}
        for event in header["events"]
        if event["start_ns"] < end_ns
    ]
    return {**header, "duration_ns": end_ns, "duration_ns_planned": header["duration_ns"], "events": events}


def _wrong_types(entry: Mapping[str, Any], wanted: Mapping[str, type], place: str) -> Iterator[str]:
    for key, kind in wanted.items():
        found = entry.get(key)
        # True is an int in Python; it is not one in a record.
        if not isinstance(found, kind) or isinstance(found, bool):
            shown = "nothing" if key not in entry else repr(found)
            yield f"{place}{key}: found {shown}; allowed is {kind.__name__}"


def _wrong_numbers(entry: Mapping[str, Any], keys: tuple[str, ...], place: str) -> Iterator[str]:
    for key in keys:
        found = entry.get(key)
        number = found if isinstance(found, int | float) and not isinstance(found, bool) else math.nan
        if not 0.0 <= number < math.inf:
            shown = "nothing" if key not in entry else repr(found)
            yield f"{place}{key}: found {shown}; allowed is a number of at least 0"


def _device_faults(device: Any, place: str) -> list[str]:
    if not isinstance(device, Mapping):
        return [f"{place}: found {type(device).__name__}; allowed is an object"]
    faults = list(_wrong_types(device, {"name": str, "profile": str, "commitment": dict}, place + "."))
    faults += _wrong_numbers(device, DEVICE_NUMBERS, place + ".")
    limits = tuple(key for key in DEVICE_LIMITS if device.get(key) is not None)
    faults += _wrong_numbers(device, limits, place + ".")
    if faults:
        return faults
    faults += _wrong_numbers(device["commitment"], COMMITMENT_NUMBERS, place + ".commitment.")
    faults += [
        f"{place}.{key}: found 0; allowed is more than 0" for key in DEVICE_POSITIVE if device[key] == 0
    ]
    if not faults and _charge_w_net(device) <= 0.0:
        faults.append(f"{place}: can never charge: its losses and standby exceed power_w_charge_max")
    return faults


def _feeder_faults(feeder: Any) -> list[str]:
    if feeder is None:
        return []
    if not isinstance(feeder, Mapping):
        return [f"feeder: found {type(feeder).__name__}; allowed is an object"]
    faults = list(_wrong_types(feeder, {"name": str}, "feeder."))
    faults += _wrong_numbers(feeder, ("rating_va",), "feeder.")
    if not faults and feeder["rating_va"] == 0:
        faults.append("feeder.rating_va: found 0; allowed is more than 0")
    return faults


def _charge_w_net(device: Mapping[str, Any]) -> float:
    """Power that reaches the cells at the greatest charging power [W]."""
    x = device["power_w_charge_max"] / device["power_w_nominal"]
    loss_w = device["loss_a_w"] * x * x + device["loss_b_w"] * x + device["loss_c_w"]
    return float(device["power_w_charge_max"] - loss_w - device["standby_w"])


def _event_faults(event: Any, place: str, devices: int) -> list[str]:
    if not isinstance(event, Mapping):
        return [f"{place}: found {type(event).__name__}; allowed is an object"]
    faults = list(_wrong_types(event, EVENT_KEYS, place + "."))
    if not faults:
        odd = [target for target in event["targets"] if type(target) is not int or not 0 <= target < devices]
        if odd:
            faults.append(f"{place}.targets: found {odd[0]!r}; allowed is 0 to {devices - 1}")
    return faults


def clock_text(t_ns: int, start_of_day_ns: int) -> str:
    """Return a bench time as clock time, ``18:02:10``; a later day as ``1d 02:00:00``."""
    total_ms, rest_ns = divmod(t_ns + start_of_day_ns, 1_000_000)
    total_s, ms = divmod(total_ms, 1000)
    days, s = divmod(total_s, 86_400)
    text = f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}"
    if ms or rest_ns:
        text += f".{ms:03d}"
    return f"{days}d {text}" if days else text
