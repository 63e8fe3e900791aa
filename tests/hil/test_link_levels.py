"""The network's faults mean the same as data, in virtual time and over real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ridethrough.hil.bench import Level, run
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.record import read_record
from ridethrough.hil.world import build_world

S = 10**9


def seen(level: Level, folder: Path) -> dict[str, tuple[float, float, float]]:
    """Return for each fault the share of readings and of commands that arrived, and the readings' age [s]."""
    faults: dict[str, dict[str, Any]] = {
        "comms.loss": {"probability": "20%"},
        "comms.latency": {"mean": "1s", "p99": "2s"},
        "comms.latency-fixed": {"delay": "1s"},
        "comms.partition": {},
        "comms.partition-one-way": {},
    }
    home = {"device": "home-13kwh-5kw", "commitment": {"hours": 1, "load_w": 500}, "load": "synthetic-home"}
    document = {
        "name": "levels",
        "seed": 3,
        "start": "18:00",
        "duration": "12min",
        "pool": [{"count": 2, "name": fault.replace(".", "-"), **home} for fault in faults],
        "prices": {"constant": 50},
        "comms": {"poll": "10s", "loss": "0%", "timeout": "5s"},
        "events": [
            {"at": "18:02", "for": "9min", "fault": fault, "target": fault.replace(".", "-"), **params}
            for fault, params in faults.items()
        ],
    }
    run(build_world(scenario_from_dict(document)), "tests.faults.probe:Probe", folder, level=level, speed=60)
    record = read_record(folder)
    found = {}
    for k, fault in enumerate(faults):
        shares = []
        for table, t in ((record.telemetry, "measured_ns"), (record.commands, "t_ns")):
            mine = np.isin(table["device"], (2 * k, 2 * k + 1))
            shares.append(
                {n: c[mine & (table[t] >= 125 * S) & (table[t] < 655 * S)] for n, c in table.items()}
            )
        readings, commands = shares
        age_s = (readings["received_ns"] - readings["measured_ns"]) / S
        found[fault] = (
            len(age_s) / 106,
            float(np.mean(commands["outcome"] == 0)),
            float(np.median(age_s)) if len(age_s) else 0.0,
        )
    return found


@pytest.mark.parametrize(
    ("level", "apart"), [("sil", 0.03), pytest.param("hil", 0.3, marks=pytest.mark.slow)]
)
def test_the_network_means_the_same_at_all_levels(level: Level, apart: float, tmp_path: Path) -> None:
    data, wire = seen("mil", tmp_path / "mil"), seen(level, tmp_path / level)
    assert data["comms.loss"][0] < 0.9
    # A machine that is busy misses polls of its own at the hardware level; this home loses none otherwise.
    come = wire["comms.partition-one-way"][0]
    for fault, (readings, commands, age_s) in data.items():
        assert wire[fault][0] / come == pytest.approx(readings, abs=apart), fault
        assert wire[fault][1] == pytest.approx(commands, abs=apart), fault
        assert wire[fault][2] == pytest.approx(age_s, abs=5 * apart), fault
