"""Faults of a device that meet what is written to it: timers, values, memory.

Rules of this file: a write is bent where it enters the plant, so registers show what the device has made of
it.  Grid functions (SunSpec 703, 705 to 712, and power factor and reactive power) are not bent; only a write
that is not admitted is refused whatever it was for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from ..faults import Event
from ..units import SECOND_NS
from .plant_devices import AT, TIMERS, Devices, Fault, Floats, ticks_of

ONE_COMMAND_NS: Final = 10 * SECOND_NS
"""Writes to one device that are less than this apart are one command: over registers one takes several."""

_RUNNING: Final = {
    "set": ("set_ena",),
    "limit": ("limit_ena",),
    "window": ("window_in_ena", "window_out_ena"),
}
"""What says that there is a command for a timer to end."""


def _short(devices: Devices, event: Event, left_ticks: float) -> float:
    cap_ticks = ticks_of(event.params["timer_s"])
    return min(left_ticks, cap_ticks) if left_ticks > 0.0 else left_ticks


def _foreign(devices: Devices, event: Event, left_ticks: float) -> float:
    return ticks_of(event.params["timer_s"])


def _absent(devices: Devices, event: Event, left_ticks: float) -> float:
    return 0.0


_TIMED: Final = {
    "device.revert-timer-short": _short,
    "device.revert-timer-foreign": _foreign,
    "device.revert-timer-absent": _absent,
}


def _rearm(devices: Devices, event: Event, d: int) -> None:
    """Change the timers of the commands in force when the fault begins."""
    for what, timer in TIMERS.items():
        if any(devices.fields.get(name, d) != 0.0 for name in _RUNNING[what]):
            left_ticks = devices.fields.get(timer, d)
            devices.fields.set(timer, d, _TIMED[event.fault](devices, event, left_ticks))


def _timed(
    devices: Devices, event: Event, d: int, before: Floats, asked: Floats, written: frozenset[str]
) -> Floats:
    """Give each command that is written another timer than asked."""
    for what, timer in TIMERS.items():
        if what in written and any(asked[AT[name]] != 0.0 for name in _RUNNING[what]):
            asked[AT[timer]] = _TIMED[event.fault](devices, event, float(asked[AT[timer]]))
    return asked


def _hit(devices: Devices, event: Event, d: int, key: str) -> bool:
    """Draw whether this command is hit; writes that belong together share their fate."""
    known = devices.recall(event, d)
    if not known or devices.now_ns - known["first_ns"] >= ONE_COMMAND_NS:
        known["hit"] = float(devices.draw(event, d) < float(event.params[key]))
        known["first_ns"] = float(devices.now_ns)
    return known["hit"] != 0.0


def _ignored(
    devices: Devices, event: Event, d: int, before: Floats, asked: Floats, written: frozenset[str]
) -> Floats:
    return before if _hit(devices, event, d, "ignored_frac") else asked


def _zeroed(
    devices: Devices, event: Event, d: int, before: Floats, asked: Floats, written: frozenset[str]
) -> Floats:
    if not _hit(devices, event, d, "zeroed_frac"):
        return asked
    power, reserve = event.params["of"] != "reserve", event.params["of"] != "power"
    for what, names in (
        ("set", ("set_w",)),
        ("limit", ("limit_frac",)),
        ("window", ("window_in_frac", "window_out_frac")),
    ):
        if power and what in written:
            for name in names:
                asked[AT[name]] = 0.0
    if reserve and "reserve" in written:
        asked[AT["reserve_frac"]] = 0.0
    return asked


def floored(value: float, step: float) -> float:
    """Return a value rounded towards zero to a step; one that is a step but for rounding stays.

    Steps of a share are not whole in binary, hence the allowance.
    """
    count = abs(value) / step
    whole = math.floor(count + 1e-9)
    return math.copysign(whole * step, value) if whole else 0.0


def _rounded(
    devices: Devices, event: Event, d: int, before: Floats, asked: Floats, written: frozenset[str]
) -> Floats:
    step_w, most_w = float(event.params["step_w"]), float(event.params["power_w_most"])

    def power_w(value_w: float) -> float:
        return math.copysign(min(abs(floored(value_w, step_w)), most_w), value_w)

    if "set" in written:
        asked[AT["set_w"]] = power_w(float(asked[AT["set_w"]]))
    for what, names, base in (
        ("limit", ("limit_frac",), "power_w_discharge_max"),
        ("window", ("window_in_frac", "window_out_frac"), "power_w_charge_max"),
    ):
        for name in names if what in written else ():
            whole_w = devices.fields.base(base, d)
            # An open window (1) is no power that anybody asked for.
            if asked[AT[name]] != 1.0:
                asked[AT[name]] = power_w(float(asked[AT[name]]) * whole_w) / whole_w
    if "reserve" in written:
        step_frac = float(event.params["reserve_frac_step"])
        asked[AT["reserve_frac"]] = floored(float(asked[AT["reserve_frac"]]), step_frac)
    return asked


def _count(devices: Devices, event: Event, d: int) -> bool:
    """Count a write; once the memory is worn out it is refused, where the device says so."""
    known = devices.recall(event, d)
    known["writes"] = known.get("writes", 0.0) + 1.0
    return event.params["answer"] == "acknowledged" or not _worn_out(devices, event, d)


def _worn_out(devices: Devices, event: Event, d: int) -> bool:
    return devices.recall(event, d).get("writes", 0.0) > float(event.params["writes_max"])


def _stored(
    devices: Devices, event: Event, d: int, before: Floats, asked: Floats, written: frozenset[str]
) -> Floats:
    return before if _worn_out(devices, event, d) else asked


def refuse(devices: Devices, event: Event, d: int) -> bool:
    """Admit nothing."""
    return False


WRITES: Final[Mapping[str, Fault]] = {
    **dict.fromkeys(_TIMED, Fault(begin=_rearm, write=_timed)),
    "device.write-ignored": Fault(write=_ignored),
    "device.write-rounded": Fault(write=_rounded),
    "device.write-zeroed": Fault(write=_zeroed),
    "device.flash-wear": Fault(admit=_count, write=_stored),
}
"""What each fault that meets writes does."""
