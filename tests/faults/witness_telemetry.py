"""Witnesses of telemetry's faults: whether a record shows one acting on what a device reports.

Rules of this file: as the matrix test says.  A reading is held against the truth of the same record within
some seconds of its arrival, because the truth has a row per poll and real sockets take their time.  Readings
beside a change of power or of the fault itself prove nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ridethrough.hil.faults import Event
from ridethrough.hil.record import Record

Witness = Callable[[Record, int, Event], str | None]
Floats = NDArray[np.float64]

NEAR_NS = 12 * 10**9
"""The truth this long before and after a reading may be what it shows [ns]."""
EDGE_NS = 15 * 10**9
"""A fault may be seen this late, and its end too [ns]."""
POWER_W_OFF = 300.0
SOC_FRAC_OFF = 0.005


@dataclass(frozen=True)
class Seen:
    """Readings of one device in some time, with the least and greatest truth around each.

    Attributes
    ----------
    t_ns, age_ns : ndarray, shape (k,)
        Arrival, and how much older the time stamp is.
    shown : dict of str to ndarray, shape (k,)
    low, high : dict of str to ndarray, shape (k,)
        Of the truth.
    """

    t_ns: NDArray[np.int64]
    age_ns: NDArray[np.int64]
    shown: dict[str, Floats]
    low: dict[str, Floats]
    high: dict[str, Floats]

    def steady(self, name: str) -> NDArray[np.bool_]:
        """Tell which readings had nearly one truth around them."""
        spread = self.high[name] - self.low[name]
        found: NDArray[np.bool_] = spread < (SOC_FRAC_OFF if name == "soc_frac" else POWER_W_OFF)
        return found

    def middle(self, name: str) -> Floats:
        return (self.low[name] + self.high[name]) / 2.0


def seen(record: Record, d: int, begin_ns: int, end_ns: int) -> Seen:
    """Return the readings of a device that arrived in some time."""
    of = (record.telemetry["device"] == d) & (record.telemetry["received_ns"] >= begin_ns)
    of &= record.telemetry["received_ns"] < end_ns
    t_ns = record.telemetry["received_ns"][of].astype(np.int64)
    shown = {name: record.telemetry[name][of].astype(float) for name in ("soc_frac", "power_w", "import_w")}
    true = truth(record, d)
    low, high = ({name: np.full(t_ns.size, np.nan) for name in shown} for _ in range(2))
    for k, at_ns in enumerate(t_ns):
        around = (true["t_ns"] >= at_ns - NEAR_NS) & (true["t_ns"] - true["dt_ns"] <= at_ns + NEAR_NS)
        for name in shown:
            low[name][k], high[name][k] = true[name][around].min(), true[name][around].max()
    age_ns = t_ns - record.telemetry["measured_ns"][of].astype(np.int64)
    return Seen(t_ns, age_ns, shown, low, high)


def truth(record: Record, d: int) -> dict[str, Floats]:
    """Return a device's truth, with its state of charge."""
    of = record.truth["device"] == d
    energy_wh = record.header["devices"][d]["energy_wh"]
    found = {name: record.truth[name][of].astype(float) for name in ("t_ns", "dt_ns", "power_w", "import_w")}
    return found | {"soc_frac": record.truth["energy_wh"][of].astype(float) / energy_wh}


def before(record: Record, d: int, event: Event) -> Seen:
    return seen(record, d, EDGE_NS, event.start_ns)


def during(record: Record, d: int, event: Event) -> Seen:
    return seen(record, d, event.start_ns + EDGE_NS, event.end_ns)


def off(some: Seen, name: str, factor: float = 1.0) -> tuple[int, int]:
    """Return how many steady readings are `factor` times the truth, and how many are steady at all."""
    steady = some.steady(name) & (np.abs(some.middle(name)) > (0.01 if name == "soc_frac" else 500.0))
    wanted = factor * some.middle(name)[steady]
    slack = max(1.0, abs(factor)) * (SOC_FRAC_OFF if name == "soc_frac" else POWER_W_OFF)
    near = np.abs(some.shown[name][steady] - wanted) <= slack
    return int(near.sum()), int(steady.sum())


def all_sound(some: Seen, *names: str) -> str | None:
    """Object unless the steady readings show the truth."""
    for name in names:
        good, count = off(some, name)
        if count < 3:
            return f"only {count} readings of {name} can be compared before the fault"
        if good < count:
            return f"{count - good} of {count} readings of {name} before the fault are not the truth"
    return None


def times(name: str, factor: float) -> Witness:
    """Return a witness of readings that are the truth times a factor."""

    def say(record: Record, d: int, event: Event) -> str | None:
        good, count = off(during(record, d, event), name, factor)
        if count < 3 or good < count:
            return f"{good} of {count} readings of {name} during the fault are {factor:g} times the truth"
        return all_sound(before(record, d, event), name)

    return say


def frozen(record: Record, d: int, event: Event) -> str | None:
    inside, earlier = during(record, d, event), before(record, d, event)
    for name, values in inside.shown.items():
        if np.unique(values).size != 1:
            return f"{np.unique(values).size} different readings of {name} during the fault"
    if np.ptp(inside.t_ns - inside.age_ns) != 0:
        return "the time stamps of the readings go on"
    if np.unique(earlier.shown["power_w"]).size < 2:
        return "the readings stood still before the fault too"
    return all_sound(earlier, "power_w", "soc_frac")


def bms_frozen(record: Record, d: int, event: Event) -> str | None:
    inside, earlier = during(record, d, event), before(record, d, event)
    held, powers = np.unique(inside.shown["soc_frac"]), inside.shown["power_w"]
    if held.size != 1:
        return f"{held.size} different states of charge during the fault"
    if not (powers.min() < -1000.0 and powers.max() > 1000.0):
        return f"the power does not go on: it lies between {powers.min():.0f} and {powers.max():.0f} W"
    if np.unique(earlier.shown["soc_frac"]).size < 2:
        return "the state of charge stood still before the fault too"
    return all_sound(earlier, "soc_frac", "power_w")


def stuck_full(record: Record, d: int, event: Event) -> str | None:
    inside = during(record, d, event)
    if not (inside.shown["soc_frac"] == event.params["shown_frac"]).all():
        return f"states of charge from {inside.shown['soc_frac'].min():.3f} are shown during the fault"
    return all_sound(before(record, d, event), "soc_frac")


def drift(record: Record, d: int, event: Event) -> str | None:
    inside = during(record, d, event)
    error_frac = inside.shown["soc_frac"] - inside.middle("soc_frac")
    hours = (event.end_ns - event.start_ns) / 3600e9
    wanted_frac = float(event.params["slope_frac_per_h"]) * hours
    wanted_frac = min(wanted_frac, float(event.params["bound_frac"]))
    if not 0.5 * wanted_frac < error_frac[-1] < 1.5 * wanted_frac or error_frac[0] > 0.5 * error_frac[-1]:
        return (
            f"the error goes from {error_frac[0]:.4f} to {error_frac[-1]:.4f}, not to about {wanted_frac:.4f}"
        )
    return all_sound(before(record, d, event), "soc_frac")


def knee(record: Record, d: int, event: Event) -> str | None:
    inside = during(record, d, event)
    shown_frac, knee_frac = float(event.params["shown_frac"]), float(event.params["knee_frac"])
    wanted = shown_frac + (inside.middle("soc_frac") - knee_frac) * (1.0 - shown_frac) / (1.0 - knee_frac)
    if not np.abs(inside.shown["soc_frac"] - wanted).max() < SOC_FRAC_OFF:
        return "the state of charge is not squeezed above the knee"
    return all_sound(before(record, d, event), "soc_frac")


def not_a_number(record: Record, d: int, event: Event) -> str | None:
    inside = during(record, d, event)
    for name, values in inside.shown.items():
        if values.size == 0 or not np.isnan(values).all():
            return f"{values.size - np.isnan(values).sum()} readings of {name} during the fault are numbers"
    return all_sound(before(record, d, event), "soc_frac", "power_w")


def scale_moved(record: Record, d: int, event: Event) -> str | None:
    inside = seen(record, d, event.start_ns, event.end_ns)
    # From one tenth to ten times and back, and sound in between.
    kinds = {factor: off(inside, "soc_frac", factor)[0] for factor in (10.0, 1.0, 0.1)}
    moves = round((event.end_ns - event.start_ns) / 1e9 / float(event.params["every_s"]))
    if not (1 <= kinds[10.0] <= moves / 2 and 1 <= kinds[0.1] <= moves / 2 and kinds[1.0] > moves):
        return f"{kinds[10.0]} readings are tenfold, {kinds[0.1]} a tenth and {kinds[1.0]} sound"
    return all_sound(before(record, d, event), "soc_frac")


def spikes(record: Record, d: int, event: Event) -> str | None:
    inside = seen(record, d, event.start_ns, event.end_ns)
    height_w = float(event.params["height_w"])
    far = np.abs(inside.shown["power_w"] - inside.middle("power_w")) > height_w / 2.0
    if not 2 <= far.sum() < far.size:
        return f"{far.sum()} of {far.size} readings during the fault are far off"
    return all_sound(before(record, d, event), "power_w")


def clock_skew(record: Record, d: int, event: Event) -> str | None:
    inside, earlier = during(record, d, event), before(record, d, event)
    ahead_ns = float(event.params["offset_s"]) * 1e9
    if inside.age_ns.size == 0 or np.abs(inside.age_ns + ahead_ns).max() > 10e9:
        return "the time stamps during the fault are not ahead by the offset"
    if earlier.age_ns.size == 0 or np.abs(earlier.age_ns).max() > 10e9:
        return "the time stamps before the fault are off too"
    return None


WITNESSES: dict[str, Witness] = {
    "telemetry.frozen": frozen,
    "telemetry.bms-frozen": bms_frozen,
    "telemetry.stuck-full": stuck_full,
    "telemetry.soc-drift": drift,
    "telemetry.soc-knee": knee,
    "telemetry.not-a-number": not_a_number,
    "telemetry.scale-factor-moved": scale_moved,
    "telemetry.unit-flip": times("power_w", 1000.0),
    "telemetry.sign-flip": times("power_w", -1.0),
    "telemetry.spike": spikes,
    "telemetry.clock-skew": clock_skew,
}
"""By fault; of telemetry.dst-change, which acts on the controller, see `witness_controller`."""
