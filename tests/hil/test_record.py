"""The record: what was acknowledged survives, equal runs give equal bytes, and every fault is named."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator.errors import InvariantError, ScenarioError
from ridethrough.hil.header import HEADER_KEYS, STATUS_NAMES, clock_text, completed, header_faults
from ridethrough.hil.record import TABLES, PartInfo, RecordWriter, describe_folder, read_record, write_verdict
from ridethrough.hil.record_tables import UNKNOWN_TO_1

from tests.hil.battery import HEADER, block, device


def assert_equal(found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 23), max_size=12), st.integers(1, 9), st.sampled_from(list(TABLES)))
def test_what_goes_in_comes_out_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[int], part_rows: int, table: str
) -> None:
    folder, parts = tmp_path_factory.mktemp("run") / "record", list[PartInfo]()
    writer = RecordWriter(folder, HEADER, part_rows=part_rows, on_part=parts.append)
    total = 0
    for rows in blocks:
        getattr(writer, f"append_{table}")(block(table, total, rows))
        total += rows
    writer.close("completed")
    record = read_record(folder)
    assert record.complete
    assert record.header == HEADER
    assert_equal(getattr(record, table), block(table, 0, total))
    assert sum(part.rows for part in parts) == total
    assert [part.rows for part in parts[:-1]] == [part_rows] * (len(parts) - 1)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))


def test_other_readers_see_the_same(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path, HEADER)
    writer.append_truth(block("truth", 0, 50))
    writer.flush()
    frame = pd.read_parquet(tmp_path / "truth-00001.parquet")
    assert list(frame.columns) == list(TABLES["truth"])
    assert_equal({c: frame[c].to_numpy() for c in frame}, block("truth", 0, 50))


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    for name, step in (("a", 7), ("b", 50)):  # the same rows in other blocks
        writer = RecordWriter(tmp_path / name, HEADER, part_rows=20)
        for first in range(0, 50, step):
            writer.append_truth(block("truth", first, min(step, 50 - first)))
        writer.append_commands(block("commands", 0, 5))
        writer.close("completed")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_disk_holds_the_header_before_the_first_row(tmp_path: Path) -> None:
    spare = {k: v for k, v in device().items() if k != "reserve_writes_per_day_max"}
    RecordWriter(tmp_path, {**HEADER, "devices": [spare]})
    record = read_record(tmp_path)
    assert not record.complete
    assert record.header["devices"][0]["reserve_writes_per_day_max"] == 50
    assert all(len(column) == 0 for column in record.truth.values())


# Killed at any moment.

CHILD = """
import sys
from pathlib import Path
from ridethrough.hil.record import RecordWriter
from tests.hil.battery import HEADER, block
writer = RecordWriter(Path(sys.argv[1]), HEADER, part_rows=2000,
                      on_part=lambda part: print(part.path.name, part.rows, flush=True))
first = 0
while True:
    writer.append_truth(block("truth", first, 37))
    writer.append_telemetry(block("telemetry", first, 37))
    first += 37
"""


def kill_once(folder: Path, delay_s: float) -> tuple[dict[str, int], list[str]]:
    """Run the child, kill it; return acknowledged parts with their rows, and what lies in the folder."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    with child, child.stdout as out:
        lines = [out.readline()]  # it is writing
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        lines += out.readlines()
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {name: int(rows) for name, rows in whole}, sorted(path.name for path in folder.iterdir())


@pytest.mark.timeout(120)
def test_nothing_acknowledged_is_lost_to_a_kill(tmp_path: Path) -> None:
    rng = random.Random(7)
    torn = 0
    for k in range(12):
        folder = tmp_path / str(k)
        acknowledged, names = kill_once(folder, rng.uniform(0.0, 0.15))
        torn += any(name.endswith(".tmp") for name in names)
        assert acknowledged
        for name, rows in acknowledged.items():
            assert len(pd.read_parquet(folder / name)) == rows
        record = read_record(folder)  # the part after the last acknowledged one may be there too
        assert not record.complete
        for table in ("truth", "telemetry"):
            found = getattr(record, table)
            kept = sum(rows for name, rows in acknowledged.items() if name.startswith(table))
            assert kept <= len(found["device"]) <= kept + 2000
            assert_equal(found, block(table, 0, len(found["device"])))
    print(f"{torn} of 12 kills hit a file being written")


def test_a_file_half_written_is_ignored(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path, HEADER)
    writer.append_truth(block("truth", 0, 5))
    writer.flush()
    (tmp_path / "truth-00002.parquet.tmp").write_bytes(b"PAR1 torn")
    assert len(read_record(tmp_path).truth["t_ns"]) == 5


# A disk that refuses.

FULL = """
import resource, sys
from pathlib import Path
from ridethrough.emulator.errors import RidethroughError
from ridethrough.hil.record import RecordWriter
from tests.hil.battery import HEADER, block
writer = RecordWriter(Path(sys.argv[1]), HEADER, part_rows=100)
writer.append_truth(block("truth", 0, 100))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for attempt in range(2):
    try:
        writer.append_truth(block("truth", 100, 100))
    except RidethroughError as error:
        print(error)
"""


def test_a_full_disk_is_named_and_what_was_written_stays(tmp_path: Path) -> None:
    child = [sys.executable, "-c", FULL, str(tmp_path)]
    run = subprocess.run(child, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.stderr == ""
    messages = run.stdout.splitlines()
    assert len(messages) == 2
    assert f"{tmp_path / 'truth-00002.parquet'}: cannot be written: File too large" in messages[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "truth-00001.parquet"]
    assert_equal(read_record(tmp_path).truth, block("truth", 0, 100))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_one_may_not_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ScenarioError, match="cannot be made: Permission denied"):
        RecordWriter(tmp_path / "run", HEADER)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ScenarioError, match=r"file/run: cannot be made: Not a directory"):
        RecordWriter(tmp_path / "file" / "run", HEADER)
    with pytest.raises(ScenarioError, match="holds a file, not a folder"):
        RecordWriter(tmp_path / "file", HEADER)


# Folders that hold something.


def test_an_occupied_folder_is_described_and_refused(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    assert describe_folder(folder).kind == "absent"
    writer = RecordWriter(folder, HEADER)
    assert describe_folder(folder).text.startswith("an unfinished record, 0 parts (its run was killed")
    rows = block("truth", 0, 5)
    rows["t_ns"][:] = 200 * 1_000_000_000
    writer.append_truth(rows)
    writer.append_telemetry(block("telemetry", 0, 5))
    writer.flush()
    with pytest.raises(
        ScenarioError, match=r"an unfinished record, recorded until 18:03:20, 2 parts.*remove this one"
    ):
        RecordWriter(folder, HEADER)
    writer.close("interrupted")
    with pytest.raises(ScenarioError, match="holds a finished record"):
        RecordWriter(folder, HEADER)
    other = tmp_path / "other"
    other.mkdir()
    assert describe_folder(other).kind == "empty"
    for name in "abcd":
        (other / name).write_text("mine")
    with pytest.raises(ScenarioError, match=r"other files \(a, b, c and 1 more\)"):
        RecordWriter(other, HEADER)
    assert sorted(path.name for path in other.iterdir()) == ["a", "b", "c", "d"]


def test_a_damaged_folder_can_still_be_described(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "truth-00001.parquet").write_text("no")
    assert describe_folder(tmp_path).text.startswith("an unfinished record, damaged (ArrowInvalid), 1 part")
    (tmp_path / "run.json").rename(tmp_path / "run.json.tmp")
    (tmp_path / "truth-00001.parquet").unlink()
    assert describe_folder(tmp_path).kind == "unfinished"


# Records that are wrong.


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    writer = RecordWriter(tmp_path / "run", HEADER, part_rows=10)
    writer.append_truth(block("truth", 0, 25))
    writer.close("completed")
    return tmp_path / "run"


def test_every_damage_is_named(finished: Path) -> None:
    part, run, end = finished / "truth-00002.parquet", finished / "run.json", finished / "end.json"
    sound = {path: path.read_bytes() for path in (part, run, end)}

    def damaged(path: Path, content: bytes | None, message: str) -> None:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(ScenarioError, match=message):
            read_record(finished)
        path.write_bytes(sound[path])

    damaged(part, None, "part truth-00002.parquet is missing")
    damaged(part, sound[part][:-9], "truth-00002.parquet: damaged part")
    damaged(part, (finished / "truth-00003.parquet").read_bytes(), "truth has 20 rows; end.json says 25")
    damaged(run, None, "not a record: run.json is missing; found other files")
    damaged(run, b"{", "run.json: damaged: not JSON")
    damaged(run, b"[]", "run.json: damaged: found list")
    version = b'"format_version": 2'
    damaged(run, sound[run].replace(version, b'"format_version": 9'), "found 9; .* reads 1, 2")
    damaged(run, sound[run].replace(version, b'"format_version": true'), "found True; .* reads 1, 2")
    damaged(run, sound[run].replace(b'"seed": 1', b'"seed": "one"'), "seed: found 'one'; allowed is int")
    damaged(end, b"{}", "end.json: damaged")
    damaged(end, sound[end].replace(b'"truth": 3', b'"truth": 4'), "truth-00004.parquet is missing")
    assert len(read_record(finished).truth["t_ns"]) == 25
    pd.DataFrame({"t_ns": [1]}).to_parquet(part)
    with pytest.raises(ScenarioError, match="damaged part: unexpected columns: dt_ns None"):
        read_record(finished)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_found_or_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("run") / "record"
    writer = RecordWriter(folder, HEADER)
    writer.append_truth(block("truth", 0, 300))
    writer.close("completed")
    part = folder / "truth-00001.parquet"
    content = bytearray(part.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    part.write_bytes(content)
    try:
        found = read_record(folder).truth
    except ScenarioError as error:
        assert "truth-00001.parquet" in str(error) or "truth has" in str(error)  # noqa: PT017  either outcome is fine
    else:
        assert_equal(found, block("truth", 0, 300))


def test_a_record_of_version_1_reads_with_what_it_did_not_hold_unknown(tmp_path: Path) -> None:
    """Its header knew a simpler battery, its truth no voltage, and it had no table of the feeder."""
    folder = tmp_path / "old"
    writer = RecordWriter(folder, HEADER, part_rows=10)
    writer.append_truth(block("truth", 0, 25))
    writer.append_commands(block("commands", 0, 5))
    writer.close("completed")
    new = read_record(folder)
    _make_version_1(folder)
    old = read_record(folder)
    for name in set(TABLES["truth"]) - UNKNOWN_TO_1["truth"]:
        np.testing.assert_array_equal(old.truth[name], new.truth[name])
    assert all(np.isnan(old.truth[name]).all() for name in UNKNOWN_TO_1["truth"])
    assert_equal(old.commands, new.commands)
    assert len(old.feeder["t_ns"]) == 0
    assert old.header["status_names"] == list(STATUS_NAMES)
    for found, wanted in zip(old.header["devices"], new.header["devices"], strict=True):
        assert found == wanted | {"enter_voltage_pu_low": 0.0, "enter_voltage_pu_high": 10.0}
    run = json.loads((folder / "run.json").read_text())
    run["devices"][0]["loss_a_w"] = -1
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(ScenarioError, match=r"devices\[0\].loss_a_w: found -1"):
        read_record(folder)


def _make_version_1(folder: Path) -> None:
    """Take from a record what version 1 did not have."""
    run = json.loads((folder / "run.json").read_text())
    known = set(device()) - {
        *("soc_frac_floor", "soc_frac_error_max", "power_w_discharge_sure", "power_w_charge_sure"),
        *("ohm_per_w_max", "self_discharge_frac_per_h", "taper_soc_frac", "taper_frac_min"),
        *("enter_voltage_pu_low", "enter_voltage_pu_high", "sync_s", "break_s"),
        *("restart_growth", "restart_s_max"),
    }
    run["format_version"] = 1
    run["status_names"] = run["status_names"][:6]
    run["devices"] = [{key: entry[key] for key in known} for entry in run["devices"]]
    del run["feeder"]
    (folder / "run.json").write_text(json.dumps(run))
    end = json.loads((folder / "end.json").read_text())
    del end["rows"]["feeder"], end["parts"]["feeder"]
    (folder / "end.json").write_text(json.dumps(end))
    for part in folder.glob("truth-*.parquet"):
        pd.read_parquet(part).drop(columns=list(UNKNOWN_TO_1["truth"])).to_parquet(part, index=False)


# The header.


@pytest.mark.parametrize("key", [key for key in HEADER_KEYS if key != "format_version"])
def test_a_header_without_a_key_is_our_bug(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvariantError, match=f"{key}: found nothing"):
        RecordWriter(tmp_path, {k: v for k, v in HEADER.items() if k != key})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "lab"}, "level: found 'lab'; allowed mil, sil, hil"),
        ({"duration_ns": 0}, "duration_ns: found 0"),
        ({"status_names": ["on_grid"]}, "status_names: without enter, transfer"),
        ({"devices": [device(), device()]}, "the name 'home-01' occurs twice"),
        ({"devices": [7]}, r"devices\[0\]: found int"),
        ({"devices": [device(loss_a_w=float("nan"))]}, r"devices\[0\].loss_a_w: found nan"),
        ({"devices": [device(loss_a_w=True)]}, r"devices\[0\].loss_a_w: found True"),
        ({"devices": [device(energy_wh=0)]}, "energy_wh: found 0; allowed is more than 0"),
        ({"devices": [device(hours_h=-1)]}, "commitment.hours_h: found -1"),
        ({"devices": [device(loss_c_w=5000.0)]}, "can never charge"),
        ({"devices": [device(export_w_max=-1.0)]}, r"devices\[0\].export_w_max: found -1.0"),
        ({"devices": [device(ohm_per_w_max=-1.0)]}, "ohm_per_w_max: found -1.0"),
        ({"feeder": 3}, "feeder: found int; allowed is an object"),
        ({"feeder": {"name": "x"}}, "feeder.rating_va: found nothing"),
        ({"feeder": {"name": "x", "rating_va": 0}}, "feeder.rating_va: found 0; allowed is more than 0"),
        ({"events": [{"number": 1}]}, r"events\[0\].fault: found nothing"),
        ({"events": [3]}, r"events\[0\]: found int"),
        (
            {"events": [{"number": 1, "fault": "x", "targets": [3], "start_ns": 0, "end_ns": 1}]},
            r"events\[0\].targets: found 3; allowed is 0 to 2",
        ),
    ],
)
def test_a_wrong_header_is_named(changes: dict[str, Any], message: str) -> None:
    assert header_faults(HEADER) == []
    assert any(pd.Series(header_faults(completed({**HEADER, **changes}))).str.contains(message))


def test_a_header_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(InvariantError, match=r"run.json: holds something JSON cannot say"):
        RecordWriter(tmp_path, {**HEADER, "speed": np.float32(1)})


# Rows that are wrong, and the end.


def test_wrong_rows_are_our_bug(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path, HEADER)
    rows = block("truth", 0, 4)
    with pytest.raises(InvariantError, match="truth: missing or unknown columns: pv_w"):
        writer.append_truth({k: v for k, v in rows.items() if k != "pv_w"})
    with pytest.raises(InvariantError, match=r"columns of different lengths: \[1, 4\]"):
        writer.append_truth({**rows, "pv_w": rows["pv_w"][:1]})
    with pytest.raises(InvariantError, match="reason must be one of completed, interrupted"):
        writer.close("bored")
    with pytest.raises(InvariantError, match="part_rows must be at least 1"):
        RecordWriter(tmp_path / "b", HEADER, part_rows=0)
    writer.append_truth(rows)
    writer.close("controller failed", detail="ValueError: no", bench_fault="lagged 2 s")
    with pytest.raises(InvariantError, match="the record is closed"):
        writer.append_truth(rows)
    end = json.loads((tmp_path / "end.json").read_text())
    assert end["rows"] == {"truth": 4, "commands": 0, "telemetry": 0, "feeder": 0}
    assert (end["reason"], end["detail"], end["bench_fault"]) == (
        "controller failed",
        "ValueError: no",
        "lagged 2 s",
    )
    assert end["end_ns"] == rows["t_ns"][-1]


def test_a_verdict_replaces_an_older_one(finished: Path) -> None:
    (finished / "verdict.json.tmp").write_text("left by a judge that was killed")
    for outcome in ("held", "broken"):
        path = write_verdict(finished, {"outcome": outcome})
        assert json.loads(path.read_text()) == {"outcome": outcome}
    assert read_record(finished).complete


def test_clock_text() -> None:
    s = 1_000_000_000
    assert clock_text(130 * s, 18 * 3600 * s) == "18:02:10"
    assert clock_text(130 * s + 20_000_000, 18 * 3600 * s) == "18:02:10.020"
    assert clock_text(8 * 3600 * s, 18 * 3600 * s) == "1d 02:00:00"
