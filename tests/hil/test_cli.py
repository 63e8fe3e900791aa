"""The command, as a user runs it: a process of its own, its exit codes and its words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sunspec2.modbus.client as sunspec

COMMAND = (sys.executable, "-m", "ridethrough.hil.cli")
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DATA = Path(os.environ.get("RIDETHROUGH_DATA", Path(__file__).parents[3] / "shared" / "data"))


def ridethrough(*arguments: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One home on the wire, five times as fast as life, in a process of its own."""
    command = [*COMMAND, "serve", "home-13kwh-5kw", "--speed", "5", "--load", "1kW", "--format", "json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path_factory.mktemp("serve")
    ) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())[0]
        finally:
            server.terminate()
            server.wait()


def test_hold_and_reserve_exit_0_and_greedy_exits_1_with_home_time_shortfall_and_cause(
    tmp_path: Path,
) -> None:
    for controller in ("hold", "reserve"):
        done = ridethrough("run", "pilot", "--controller", controller, "--for", "13h", cwd=tmp_path)
        assert "HELD: 37 of 37 promises held" in done.stdout
    done = ridethrough("run", "pilot", "--controller", "greedy", "--for", "13h", cwd=tmp_path, expect=1)
    assert "BROKEN" in done.stdout
    assert " below its reserve of 8.55 kWh at 17:" in done.stdout  # shortfall and time
    assert "while discharging 11.0 kW on a command issued at 17:" in done.stdout  # cause
    assert "active faults" in done.stdout


def test_json_carries_the_verdict_of_every_home(tmp_path: Path) -> None:
    done = ridethrough("run", "one-home", "--format", "json", "--out", "r", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["outcome"] == "held"
    assert [home["name"] for home in facts["homes"]] == ["home"]
    assert json.loads((tmp_path / "r" / "verdict.json").read_text())["outcome"] == "held"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "no-such"), "allowed one-home, pilot, quiet-day"),
        (("run", "missing.yaml"), "missing.yaml: found no such file"),
        (("run", "--controller", "nobody"), "allowed hold, greedy, reserve, or module:Class"),
        (("run", "one-home", "--speed", "0", "--level", "hil"), "--speed 0: allowed 0.1 to 600"),
        (("run", "one-home", "--for", "30h"), "found a window from"),
        (("run", "one-home", "--for", "soon"), "found 'soon'; allowed a duration"),
        (("run", "one-home", "--level", "pil"), "Invalid value for '--level'"),
        (("serve", "no-such"), "allowed a bundled profile, family or scenario"),
        (("serve", "home-13kwh-5kw", "--host", "0.0.0.0"), "Modbus has no authentication"),
        (("serve", "home-13kwh-5kw", "--soc", "1%"), "--soc 1.0%: allowed 5% to 100%"),
        (("serve", "home-13kwh-5kw", "--load", "much"), "allowed a power such as"),
        (("read", "nowhere", "713.SoC"), "target 'nowhere' found; allowed tcp:HOST:PORT/UNIT"),
        (("read", "tcp:127.0.0.1:1", "713.SoC"), "it refused the connection"),
        (("write", "tcp:127.0.0.1:1", "704.WSet"), "allowed MODEL.POINT=VALUE such as 704.WSet=2000"),
        (("scan", "tcp:127.0.0.1:1", "--timeout", "-1"), "--timeout -1: allowed above 0"),
    ],
)
def test_wrong_usage_exits_2_and_names_the_cure(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert said in ridethrough(*arguments, cwd=tmp_path, expect=2).stderr


def test_five_mistakes_are_five_lines(tmp_path: Path) -> None:
    file = Path(__file__).parent / "data" / "five-mistakes.yaml"
    lines = ridethrough("validate", str(file), cwd=tmp_path, expect=2).stderr.splitlines()
    assert len(lines) == 5
    for line in lines:
        assert f"{file}:" in line
        assert "found" in line
        assert "allowed" in line


def test_validate_says_what_is_fine_and_what_is_not_judged(tmp_path: Path) -> None:
    pilot = Path(__file__).parents[2] / "fixtures" / "scenarios" / "pilot.yaml"
    small = pilot.read_text("utf-8").replace("transformer_kva: 630", "transformer_kva: 250")
    (tmp_path / "small.yaml").write_text(small, "utf-8")
    done = ridethrough("validate", "pilot", "small.yaml", cwd=tmp_path)
    assert "pilot: fine" in done.stdout
    assert "pilot: note" not in done.stdout
    assert "small.yaml: note: feeder: all devices together charge with up to 425 kW" in done.stdout


def test_lists_name_everything_bundled(tmp_path: Path) -> None:
    facts = json.loads(ridethrough("list", "--format", "json", cwd=tmp_path).stdout)
    assert {"home-13kwh-5kw", "municipal-500kwh-250kw"} <= set(facts["devices"])
    assert set(facts["controllers"]) == {"hold", "greedy", "reserve"}
    assert {"grid.outage", "comms.partition", "telemetry.frozen"} <= set(facts["faults"])
    assert {"pilot", "street"} <= set(facts["scenarios"])
    assert {"rural-13", "semiurban-41", "us-split-8"} <= set(facts["feeders"])


def test_what_a_feeder_went_through_is_told_beside_the_verdict(tmp_path: Path) -> None:
    out = ("--from", "13:00", "--for", "1h", "--out", "record")
    done = ridethrough("run", "street", *out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = done.stdout[done.stdout.index("Observed, without effect on the verdict:") :].splitlines()
    assert told[1].startswith("  us-split-8: transformer of 50 kVA at most ")
    assert told[2].startswith("  home-0")
    assert "export limit of 5.0 kW exceeded by up to" in told[2]
    kept = json.loads((tmp_path / "record" / "verdict.json").read_text())
    assert kept["outcome"] == "held"
    assert kept["observations"]["feeder"]["rating_va"] == 50_000.0
    assert len(kept["observations"]["connection_agreements"]) >= 1


def test_a_controller_of_ones_own_is_found_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from ridethrough.controllers.contract import Commands\n"
        "class Idle:\n"
        "    period_s = 60.0\n"
        "    def enroll(self, pool): self.n = len(pool.names)\n"
        "    def decide(self, now_ns, telemetry): return Commands.none(self.n)\n"
    )
    done = ridethrough("run", "one-home", "--controller", "mine:Idle", "--for", "10min", cwd=tmp_path)
    assert "controller mine:Idle" in done.stdout


def test_pysunspec2_discharges_through_704_and_the_power_ends_with_its_timer(served: dict[str, Any]) -> None:
    """The standard's own client against a device in another process: scan, discharge, follow, revert."""
    device = sunspec.SunSpecModbusClientDeviceTCP(1, ipaddr=served["host"], ipport=served["port"], timeout=5)
    device.scan()
    try:
        assert {1, 101, 120, 121, 122, 123, 124, 701, 702, 703, 704, 713, 715, 802} <= set(device.models) - {
            "x"
        }
        control, measured, battery = device.models[704][0], device.models[701][0], device.models[713][0]
        battery.read()
        soc_before = battery.SoC.cvalue
        control.read()
        control.WSetEnaRvrt.value, control.WSetRvrtTms.value = 0, 30
        control.write()
        control.WSetMod.value, control.WSet.cvalue, control.WSetEna.value = 1, 2000, 1
        control.write()
        time.sleep(2.0)  # 10 s of the device's time
        measured.read()
        assert measured.W.cvalue == 2000
        control.read()
        assert 0 < control.WSetRvrtRem.value < 30
        time.sleep(5.0)
        measured.read()
        battery.read()
        assert measured.W.cvalue == 0  # the power, not the register, is what must end
        assert battery.SoC.cvalue < soc_before
        control.read()
        assert (control.WSetEna.value, control.WSetRvrtRem.value) == (0, 0)
    finally:
        device.close()


def test_scan_read_and_write_reach_a_served_device(served: dict[str, Any], tmp_path: Path) -> None:
    target = served["target"]
    scanned = json.loads(ridethrough("scan", target, "--format", "json", cwd=tmp_path).stdout)
    assert [model["id"] for model in scanned["models"]][:2] == [1, 101]
    assert scanned["warnings"] == []
    assert "model 713" in ridethrough("scan", target, cwd=tmp_path).stdout
    meter = target.rsplit("/", 1)[0] + f"/{served['units'][1]}"
    assert (
        json.loads(ridethrough("read", meter, "201.W", "--format", "json", cwd=tmp_path).stdout) is not None
    )
    written = ridethrough(
        "write", target, "704.WSetMod=1", "704.WSet=-1500", "704.WSetRvrtTms=60", cwd=tmp_path
    )
    assert "704.WSet  -1500" in written.stdout
    read = ridethrough("read", target, "704.WSet", "713.SoC", "--format", "json", cwd=tmp_path)
    assert json.loads(read.stdout)["704.WSet"] == -1500
    refused = ridethrough("write", target, "704.WSet=20000", cwd=tmp_path, expect=2)
    assert "exception 3, illegal data value" in refused.stderr
    assert json.loads(ridethrough("read", target, "704.WSet", "--format", "json", cwd=tmp_path).stdout) == {
        "704.WSet": -1500
    }


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the measured data in {DATA} (or RIDETHROUGH_DATA)")
def test_measured_homes_on_real_prices(tmp_path: Path) -> None:
    for folder in ("homes", "prices"):
        shutil.copytree(DATA / folder, tmp_path / folder)
    shutil.copy(EXAMPLES / "measured-homes.yaml", tmp_path)
    done = ridethrough("run", "measured-homes.yaml", "--from", "12:00", "--for", "12h", cwd=tmp_path)
    assert "HELD: 17 of 17 promises held" in done.stdout
    caught = ridethrough(
        "run",
        "measured-homes.yaml",
        "--from",
        "12:00",
        "--for",
        "12h",
        "--controller",
        "greedy",
        cwd=tmp_path,
        expect=1,
    )
    assert "home-17 fell" in caught.stdout
