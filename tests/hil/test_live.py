"""The hardware level: real sockets, the real clock, real processes that are killed."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ridethrough.emulator.errors import RidethroughError
from ridethrough.hil import stage
from ridethrough.hil.bench import Level, run
from ridethrough.hil.device import Device
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.readings import Reading
from ridethrough.hil.record import OUTCOMES, RecordWriter, describe_folder, read_record
from ridethrough.hil.world import World, build_world

from tests.hil.fit import fit_run

LEVELS: tuple[Level, ...] = ("mil", "sil", "hil")
COMMAND = (sys.executable, "-m", "ridethrough.hil.cli")
DEVICES = ("home-13kwh-5kw", "home-10kwh-4kw", "home-11kwh-6kw-legacy", "municipal-500kwh-250kw")
SPEED = 120.0


def world(*events: dict[str, Any], minutes: int = 25, **changes: Any) -> World:
    pool = [
        {
            "name": device,
            "device": device,
            "commitment": {"hours": 2, "load_w": 500 if device != DEVICES[-1] else 20_000},
            "load": "synthetic-home" if device != DEVICES[-1] else "municipal-shelter",
        }
        for device in DEVICES
    ]
    document = {
        "name": "live",
        "start": "18:00",
        "duration": f"{minutes}min",
        "pool": pool,
        "prices": {"constant": 50},
        "comms": {"poll": "10s", "loss": "0%"},
        "events": list(events),
    }
    return build_world(scenario_from_dict({**document, **changes}))


OUTAGE = {"at": "18:05", "fault": "grid.outage", "target": "all", "for": "5min"}


@pytest.mark.parametrize("controller", ["hold", "reserve"])
def test_the_verdict_is_the_same_at_three_levels(controller: str, tmp_path: Path) -> None:
    both = {level: run(world(OUTAGE), controller, tmp_path / level, level=level) for level in LEVELS[:2]}
    both["hil"] = fit_run(world(OUTAGE), controller, tmp_path / "hil", speed=SPEED)
    outcomes = {level: [home.outcome for home in done.verdict.homes] for level, done in both.items()}
    assert outcomes["mil"] == ["held"] * len(DEVICES)
    assert outcomes["sil"] == outcomes["mil"], both["sil"].verdict.reasons
    assert outcomes["hil"] == outcomes["mil"], both["hil"].verdict.reasons
    records = {level: read_record(tmp_path / level) for level in both}
    # The same homes were dark for the same time, seen at the plant; and each was polled all along.
    for record in records.values():
        dark = record.truth["grid_good"] == 0
        assert record.truth["dt_ns"][dark].sum() == len(DEVICES) * 300 * 10**9
    for record, share in ((records["sil"], 0.99), (records["hil"], 0.5)):
        telemetry = record.telemetry
        assert set(telemetry["device"]) == set(range(len(DEVICES)))
        assert len(telemetry["device"]) > share * len(records["mil"].telemetry["device"])
        assert set(telemetry["grid_good"]) == {0.0, 1.0}


def test_greed_is_caught_over_real_sockets_too(tmp_path: Path) -> None:
    source = {"name": "spike", "prices": "synthetic-ercot-tight", "seed": 1}
    done = fit_run(world(minutes=25, **source), "greedy", tmp_path / "r", speed=SPEED)
    commands = read_record(tmp_path / "r").commands
    delivered = commands["outcome"] == OUTCOMES.index("delivered")
    assert delivered.any()
    for level in LEVELS[:2]:
        other = run(world(minutes=25, **source), "greedy", tmp_path / level, level=level)
        assert other.verdict.outcome == done.verdict.outcome


def test_a_partition_silences_real_devices(tmp_path: Path) -> None:
    cut = {"at": "18:05", "fault": "comms.partition", "target": [1], "for": "8min"}
    fit_run(world(cut, minutes=15), "hold", tmp_path / "r", speed=SPEED)
    telemetry = read_record(tmp_path / "r").telemetry
    inside = (telemetry["measured_ns"] > 320 * 10**9) & (telemetry["measured_ns"] < 770 * 10**9)
    assert 0 not in telemetry["device"][inside]
    assert {1, 2, 3} <= set(telemetry["device"][inside])
    after = telemetry["measured_ns"] > 800 * 10**9
    assert 0 in telemetry["device"][after]  # it reconnects


def test_frozen_registers_read_the_same_and_their_stamp_stands(tmp_path: Path) -> None:
    frozen = {"at": "18:03", "fault": "telemetry.frozen", "target": [1], "for": "8min", "stamp": "frozen"}
    fresh = {**frozen, "target": [2], "stamp": "fresh"}
    fit_run(world(frozen, fresh, minutes=12), "hold", tmp_path / "r", speed=SPEED)
    telemetry = read_record(tmp_path / "r").telemetry
    during = (telemetry["received_ns"] > 200 * 10**9) & (telemetry["received_ns"] < 640 * 10**9)
    stamps = {}
    for device in (0, 1):
        mine = during & (telemetry["device"] == device)
        assert mine.sum() > 10
        assert len(set(telemetry["soc_frac"][mine])) == 1
        stamps[device] = len(set(telemetry["measured_ns"][mine]))
    assert stamps[0] == 1
    assert stamps[1] > 10


def test_nothing_acknowledged_is_lost_to_kill_9_and_the_next_run_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "killed"
    command = [*COMMAND, "run", "one-home", "--level", "hil", "--speed", "60", "--out", str(folder)]
    with subprocess.Popen(
        [*command, "--progress", "plain"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as bench:
        assert bench.stderr is not None
        acknowledged = [
            line for line in (bench.stderr.readline() for _ in range(4)) if line.startswith("recorded")
        ]
        time.sleep(0.3)
        bench.send_signal(signal.SIGKILL)
        bench.wait()
    assert acknowledged
    for line in acknowledged:
        found = re.search(r"\((\S+), (\d+) rows\)", line)
        assert found is not None, line
        assert len(pd.read_parquet(folder / found[1])) == int(found[2])
    again = subprocess.run([*command, "--progress", "none"], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "an unfinished record, recorded until 1" in again.stderr
    beside = subprocess.run(
        [*COMMAND, "run", "one-home", "--for", "1min"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert beside.returncode == 0, beside.stderr
    assert "runs/killed holds an unfinished record" in beside.stderr


def test_ctrl_c_ends_a_run_with_130_and_a_readable_record(tmp_path: Path) -> None:
    command = [*COMMAND, "run", "one-home", "--level", "hil", "--speed", "60", "--out", str(tmp_path / "r")]
    with subprocess.Popen([*command, "--progress", "plain"], stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr is not None
        bench.stderr.readline()
        bench.send_signal(signal.SIGINT)
        said = bench.stderr.read()
        assert bench.wait() == 130, said
    assert "interrupted" in said
    end = json.loads((tmp_path / "r" / "end.json").read_text())
    assert end["reason"] == "interrupted"


def test_a_cancellation_that_gets_lost_does_not_keep_the_bench_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.11 asyncio.wait_for can lose one; seen as a run that never ended after its last second."""

    async def deaf(self: Device) -> Reading:
        with suppress(asyncio.CancelledError):  # what wait_for does when the reply arrives in the same turn
            await asyncio.sleep(60.0)
        return Reading(0.9, 0.0, 0.0, 1.0, float("nan"))

    monkeypatch.setattr(Device, "telemetry", deaf)
    done = fit_run(world(minutes=2), "hold", tmp_path / "r", speed=SPEED)
    assert done.verdict.outcome == "held"
    assert read_record(tmp_path / "r").complete


@pytest.mark.timeout(60)
def test_an_error_ends_the_run_though_an_actor_loses_its_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(self: Device) -> Reading:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3.0)
        return Reading(0.9, 0.0, 0.0, 1.0, float("nan"))

    def full(self: RecordWriter) -> None:
        raise RidethroughError("truth-00001.parquet: no space left on device")

    monkeypatch.setattr(stage, "FLUSH_S", 0.5)
    monkeypatch.setattr(Device, "telemetry", deaf)
    monkeypatch.setattr(RecordWriter, "flush", full)
    with pytest.raises(RidethroughError, match="no space left"):
        fit_run(world(minutes=5), "hold", tmp_path / "r", speed=SPEED)


def test_a_full_disk_ends_the_run_with_one_plain_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RecordWriter) -> None:
        raise RidethroughError("truth-00001.parquet: no space left on device")

    monkeypatch.setattr(stage, "FLUSH_S", 0.2)
    monkeypatch.setattr(RecordWriter, "flush", full)
    with pytest.raises(RidethroughError, match="no space left") as caught:
        fit_run(world(minutes=5), "hold", tmp_path / "r", speed=SPEED)
    assert not isinstance(caught.value, ExceptionGroup)
    assert describe_folder(tmp_path / "r").kind == "unfinished"


def test_every_device_is_polled_each_period_wherever_its_turn_lies(tmp_path: Path) -> None:
    """A turn late in the period, whose answer comes in the next one, once cost every other poll."""
    slow = {
        "at": "18:00",
        "fault": "comms.latency",
        "target": "all",
        "for": "10min",
        "mean": "1s",
        "p99": "1500ms",
    }
    fit_run(world(slow, minutes=10), "hold", tmp_path / "r", speed=SPEED)
    devices = list(read_record(tmp_path / "r").telemetry["device"])
    assert min(devices.count(d) for d in range(len(DEVICES))) >= 50  # of 60
