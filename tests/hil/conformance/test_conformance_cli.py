"""``ridethrough scan --conformance`` and ``--capabilities`` as a user calls them, against ``serve``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

CLI = [sys.executable, "-m", "ridethrough.hil.cli"]
WITHOUT_GAPS = "home-14kwh-5kw"
LEGACY = "home-11kwh-6kw-legacy"


def serve(profile: str) -> Iterator[str]:
    command = [*CLI, "serve", profile, "--soc", "60%", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or not lines[-1].startswith("]"):
            lines.append(process.stdout.readline())
            assert lines[-1], "serve ended early"
            if lines[-1].rstrip().endswith("]"):
                break
        try:
            yield json.loads("".join(lines))[0]["target"]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


@pytest.fixture
def target() -> Iterator[str]:
    yield from serve(WITHOUT_GAPS)


@pytest.fixture
def legacy() -> Iterator[str]:
    yield from serve(LEGACY)


def scan(*arguments: str, timeout_s: float = 100.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, "scan", *arguments], capture_output=True, text=True, timeout=timeout_s)


def test_read_only_passes_and_says_what_was_left_out(target: str) -> None:
    done = scan(target, "--conformance", "--read-only", "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    verdicts = {result["id"]: result["verdict"] for result in report["results"]}
    assert verdicts["MOD-2"] == "pass"
    assert verdicts["MOD-3"] == verdicts["REV-1"] == "not run"
    assert "about to write" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_names_what_failed(legacy: str) -> None:
    done = scan(legacy, "--conformance", "--read-only")
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.split()[1:2] == ["fail"]]
    assert done.returncode == (1 if failed else 0)
    assert any(line.startswith("MOD-2  pass") for line in lines)
    assert any(line.startswith("RTU-1  not applicable") for line in lines)


def test_an_interrupted_run_says_that_nothing_is_left(legacy: str) -> None:
    command = [*CLI, "scan", legacy, "--conformance"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        heard = []
        for line in process.stderr:
            heard.append(line)
            if "REV-1: 124" in line:
                break
        time.sleep(3.0)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        code = process.wait(20)
    assert code == 130
    assert sum("about to write" in line for line in heard) == 1
    assert "nothing that was written is left behind" in rest
    points = ["124.StorCtl_Mod", "124.InWRte", "124.InOutWRte_RvrtTms"]
    read = subprocess.run([*CLI, "read", legacy, *points, "--format", "json"], capture_output=True, text=True)
    assert json.loads(read.stdout) == {"124.StorCtl_Mod": 0, "124.InWRte": 100, "124.InOutWRte_RvrtTms": 0}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("tcp:127.0.0.1:1/1", "--conformance", "--capabilities"), "allowed is one of them"),
        (("tcp:127.0.0.1:1/1", "--read-only"), "allowed only with --conformance"),
        (("tcp:127.0.0.1:1/1", "--conformance", "--timeout", "2"), "cannot be connected to"),
        (("tcp:127.0.0.1:1/1", "--capabilities", "--timeout", "2"), "cannot be connected to"),
        (("rtu:/dev/nothing-here@9600/1", "--conformance"), "cannot be opened"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], text: str) -> None:
    done = scan(*arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.endurance
def test_a_whole_run_in_real_time(legacy: str) -> None:
    done = scan(legacy, "--conformance", "--format", "json", timeout_s=280.0)
    report = json.loads(done.stdout)
    bad = [r["id"] for r in report["results"] if r["verdict"] in ("fail", "not run")]
    assert set(bad) <= {"BRD"}
    assert report["left"] == []
    assert "about to write" in done.stderr


@pytest.mark.slow
def test_capabilities_in_real_time(legacy: str) -> None:
    done = scan(legacy, "--capabilities", "--format", "json", timeout_s=280.0)
    assert done.returncode == 0, done.stderr
    points = {point["point"]: point for point in json.loads(done.stdout)["points"]}
    assert points["124.InWRte"]["effect"] == points["124.InWRte"]["reverts"] == "yes"
    assert "about to write" in done.stderr
