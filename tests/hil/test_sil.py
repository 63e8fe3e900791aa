"""Software in the loop: real Modbus in virtual time, the same bytes in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ridethrough.hil import pacer
from ridethrough.hil.bench import run
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.record import OUTCOMES, Record, read_record
from ridethrough.hil.world import World, build_world

MINUTE_NS = 60 * 10**9
FAULTS = (
    {"at": "18:04", "fault": "comms.loss", "target": [1], "probability": "30%", "for": "10min"},
    {"at": "18:05", "fault": "comms.latency", "target": [2], "mean": "1s", "p99": "3s", "for": "10min"},
    {"at": "18:06", "fault": "comms.partition", "target": [3], "for": "5min"},
    {"at": "18:08", "fault": "grid.outage", "target": "all", "for": "3min"},
)


def world(*events: dict[str, Any], **changes: Any) -> World:
    document = {
        "name": "virtual",
        "seed": 3,
        "start": "18:00",
        "duration": "20min",
        "pool": [
            {
                "device": device,
                "name": device,
                "commitment": {"hours": 2, "load_w": 500},
                "load": "synthetic-home",
            }
            for device in ("home-13kwh-5kw", "home-10kwh-4kw", "home-11kwh-6kw-legacy")
        ],
        "prices": "synthetic-ercot-tight",
        "comms": {"poll": "10s", "latency": {"mean": "80ms", "p99": "900ms"}, "loss": "1%"},
        "events": list(events),
    }
    return build_world(scenario_from_dict({**document, **changes}))


def recorded(folder: Path, *events: dict[str, Any], **changes: Any) -> Record:
    done = run(world(*events, **changes), "reserve", folder, level="sil")
    assert done.verdict.outcome == "held", done.verdict.reasons
    return read_record(folder)


def digest(folder: Path) -> str:
    return hashlib.sha256(
        b"".join(f.name.encode() + f.read_bytes() for f in sorted(folder.iterdir()))
    ).hexdigest()


def test_one_seed_gives_the_same_bytes_in_every_process_and_another_seed_others(tmp_path: Path) -> None:
    digests = []
    for name, seed, hash_seed in (("a", "7", "0"), ("b", "7", "123"), ("c", "8", "0")):
        command = [sys.executable, "-m", "ridethrough.hil.cli", "run", "one-home", "--level", "sil"]
        command += ["--seed", seed, "--for", "30min", "--out", str(tmp_path / name), "--progress", "none"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        digests.append(digest(tmp_path / name))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_faults_do_not_make_it_depend_on_the_load_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(tmp_path / "a", *FAULTS)
    step = pacer.RealClock.now_ns

    def slowly(clock: pacer.RealClock) -> int:
        if step(clock) % (97 * 10**9) == 0:
            time.sleep(0.002)
        return step(clock)

    monkeypatch.setattr(pacer.RealClock, "now_ns", slowly)
    recorded(tmp_path / "b", *FAULTS)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_every_device_is_polled_in_its_turn_and_losses_are_as_asked(tmp_path: Path) -> None:
    calm = recorded(tmp_path / "calm", comms={"poll": "10s", "loss": "0%"}).telemetry
    assert np.bincount(calm["device"]).tolist() == [120, 120, 120]
    age_ns = calm["received_ns"] - calm["measured_ns"]
    assert (age_ns >= 0).all()
    lossy = recorded(tmp_path / "lossy", comms={"poll": "10s", "loss": "20%"}).telemetry
    # A poll is several requests, and yet one message, as it is at the model level.
    assert 240 < len(lossy["device"]) < 330


def test_a_partition_silences_one_device_and_no_other(tmp_path: Path) -> None:
    telemetry = recorded(tmp_path / "r", FAULTS[2], comms={"poll": "10s"}).telemetry
    inside = (telemetry["measured_ns"] > 6 * MINUTE_NS) & (telemetry["measured_ns"] < 11 * MINUTE_NS)
    assert set(telemetry["device"][inside]) == {0, 1}
    assert 2 in telemetry["device"][telemetry["measured_ns"] > 12 * MINUTE_NS]


def test_commands_arrive_after_their_latency_and_are_carried_out(tmp_path: Path) -> None:
    record = recorded(tmp_path / "r", comms={"poll": "10s", "latency": {"mean": "80ms", "p99": "900ms"}})
    sent = record.commands
    assert len(sent["t_ns"]) > 10
    assert set(sent["outcome"]) == {OUTCOMES.index("delivered")}
    delay_ns = sent["arrival_ns"] - sent["t_ns"]
    assert (delay_ns > 0).all()
    assert abs(record.truth["power_w"]).max() > 1000.0
