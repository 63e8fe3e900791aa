"""Hypothesis strategies for whole scenarios, in the form users write, and a way to run one."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st
from ridethrough.hil.bench import run
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.judge import Verdict
from ridethrough.hil.units import MINUTE_NS, instant_text
from ridethrough.hil.world import build_world
from ruamel.yaml import YAML

HOUR_MIN = 60

# What each device can promise with room to trade above it: hours, and the cap of the load in watts.
PROMISES = {
    "home-13kwh-5kw": ((2, 4, 6, 8), (300, 600, 900)),
    "home-13kwh-11kw-ups": ((2, 4, 6, 8), (300, 600, 900)),
    "home-10kwh-4kw": ((2, 4, 6), (300, 600, 800)),
    "home-11kwh-6kw-legacy": ((2, 4, 6), (300, 600, 800)),
    "home-10kwh-10kw-three-phase": ((2, 4), (300, 600)),
    "home-10kwh-4kw-retry": ((2, 4, 6), (300, 600)),
    "home-10kwh-4kw-ups": ((2, 4), (300, 600)),
    "home-10kwh-5kw": ((2, 4), (300, 600)),
    "home-10kwh-5kw-break": ((2, 4, 6), (300, 600)),
    "home-10kwh-8kw-shift": ((2, 4), (300, 600)),
    "home-11kwh-3kw-point": ((2, 4, 6), (300, 600)),
    "home-14kwh-5kw": ((2, 4, 6), (300, 900)),
    "home-5kwh-4kw": ((2,), (300, 600)),
    "home-6kwh-3kw": ((2, 4), (300,)),
    "home-9kwh-4kw": ((2, 4), (300, 600)),
    "municipal-500kwh-250kw": ((2, 12), (10_000, 20_000)),
    "municipal-1mwh-500kw": ((2, 12), (10_000, 20_000)),
}
CANNOT_ISLAND = ("home-9kwh-5kw-grid-only",)
SELF_RECHARGING = ("home-13kwh-5kw", "home-13kwh-11kw-ups")
# What nobody reaches follows its own load, and nothing of its own keeps a reserve: no controller can help.
DEFENCELESS = ("home-14kwh-5kw", "home-6kwh-3kw")
STORM_PROOF = tuple(device for device in PROMISES if device not in DEFENCELESS)


@st.composite
def groups(draw: st.DrawFn, devices: tuple[str, ...]) -> dict[str, Any]:
    """One group of like homes, its reserve well below full."""
    device = draw(st.sampled_from(devices))
    hours, loads = PROMISES[device]
    group: dict[str, Any] = {
        "count": draw(st.integers(1, 3)),
        "device": device,
        "commitment": {"hours": draw(st.sampled_from(hours)), "load_w": draw(st.sampled_from(loads))},
        "load": "municipal-shelter" if device.startswith("municipal") else "synthetic-home",
        "load_scale": draw(st.sampled_from([1.0, 0.5, 1.5])),
        "soc": draw(st.sampled_from([0.9, 1.0, 0.95])),
    }
    if draw(st.booleans()):
        group["pv"] = {"w_peak": draw(st.sampled_from([3000, 6000]))}
    if draw(st.booleans()):
        group["ambient_c"] = draw(st.sampled_from([20, 30]))
    return group


@st.composite
def outages(draw: st.DrawFn, end_min: int) -> list[dict[str, Any]]:
    """Up to two outages, apart enough for the first to be recovered from or not, as chance will."""
    found = []
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(30, end_min - 60))
        length = draw(st.sampled_from([1, 5, 30, 90, 180]))
        found.append({"at": at, "for": min(length, end_min - at)})
    return found


def _event(fault: str, at: int, length: int, **params: Any) -> dict[str, Any]:
    return {
        "at": instant_text((16 * HOUR_MIN + at) * MINUTE_NS),
        "fault": fault,
        "target": "all",
        "for": f"{length}min",
        **params,
    }


@st.composite
def comms_faults(draw: st.DrawFn, begin: int, end: int, *, loss_max: str = "30%") -> dict[str, Any]:
    """One network or telemetry fault inside [begin, end) minutes."""
    at = draw(st.integers(begin, end - 2))
    length = min(draw(st.sampled_from([1, 10, 45, 120])), end - at)
    kind = draw(st.sampled_from(["latency", "loss", "partition", "commands", "telemetry", "frozen", "fresh"]))
    if kind == "latency":
        return _event("comms.latency", at, length, mean="800ms", p99="4s")
    if kind == "loss":
        return _event("comms.loss", at, length, probability=loss_max)
    if kind in ("frozen", "fresh"):
        return _event("telemetry.frozen", at, length, stamp=kind)
    direction = "both" if kind == "partition" else kind
    return _event("comms.partition", at, length, direction=direction)


@st.composite
def scenarios(
    draw: st.DrawFn, devices: tuple[str, ...] = tuple(PROMISES), *, storm: bool = False
) -> dict[str, Any]:
    """A pool from 16:00 on, with outages; with `storm`, network faults too, clear of every recovery.

    Notes
    -----
    Rule G rides through any loss of messages while the grid is good.  Recovery is another matter: a device
    that cannot be reached recharges late or not at all, which no controller can help; so faults end before
    an outage begins, and there are none after it.
    """
    end = draw(st.sampled_from([3 * HOUR_MIN, 6 * HOUR_MIN, 9 * HOUR_MIN]))
    cuts = draw(outages(end))
    events = [_event("grid.outage", cut["at"], cut["for"]) for cut in cuts]
    if storm:
        calm_until = min([cut["at"] for cut in cuts], default=end)
        faults = draw(st.lists(comms_faults(2, max(calm_until, 5)), max_size=4))
        events += faults
    pool = [
        {**group, "name": f"g{k}"}
        for k, group in enumerate(draw(st.lists(groups(devices), min_size=1, max_size=2)))
    ]
    return {
        "name": "drawn",
        "seed": draw(st.integers(1, 1000)),
        "start": "16:00",
        "duration": f"{end}min",
        "pool": pool,
        "prices": "synthetic-ercot",
        "comms": {
            "poll": draw(st.sampled_from(["10s", "5s", "30s"])),
            "latency": {"mean": "80ms", "p99": "900ms"},
            "loss": draw(st.sampled_from(["0%", "1%"])),
        },
        "events": events,
        **draw(grids(municipal=any("municipal" in group["device"] for group in pool))),
    }


@st.composite
def grids(draw: st.DrawFn, *, municipal: bool) -> dict[str, Any]:
    """A stiff grid, or a transformer that is too small for all at once; a voltage near either end.

    Notes
    -----
    A municipal node stands behind a transformer that can carry it.  Behind one for three houses its charging
    would pull the voltage below the enter-service range again and again, which no promise foresees.
    """
    if draw(st.booleans()):
        return {}
    small = {"transformer_kva": 600 if municipal else draw(st.sampled_from([15, 40, 600]))}
    feeders = [None, small] if municipal else [None, small, "us-split-8", "semiurban-41"]
    return {
        "feeder": draw(st.sampled_from(feeders)),
        "source_voltage_pu": draw(st.sampled_from([None, 0.95, 1.04])),
    }


def judged(document: dict[str, Any], controller: str) -> Verdict:
    """Run a document at the model level and return the verdict."""
    world = build_world(scenario_from_dict(document))
    with TemporaryDirectory() as folder:
        return run(world, controller, Path(folder) / "record").verdict


def as_yaml(document: dict[str, Any]) -> str:
    """Return the scenario file of a document."""
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(document, text)
    return text.getvalue()
