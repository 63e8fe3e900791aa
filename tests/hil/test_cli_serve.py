"""The verb ``serve`` as a user runs it: every wire, quirks and families, met by our own verbs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hil.test_cli import COMMAND, ridethrough


@contextmanager
def serving(*arguments: str, cwd: Path) -> Iterator[list[dict[str, Any]]]:
    """Run ``serve`` until the block ends, then interrupt it; it must end in good order."""
    command = [*COMMAND, "serve", *arguments, "--format", "json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    ) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            if not line:
                raise AssertionError(server.communicate()[1])
            yield json.loads(line)
        finally:
            server.send_signal(signal.SIGINT)
            _, said = server.communicate(timeout=30)
            assert server.returncode == 130, said
            assert "Traceback" not in said, said


def read(target: str, *points: str, cwd: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        ridethrough("read", target, *points, "--format", "json", cwd=cwd).stdout
    )
    return found


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ((), r"tcp:127\.0\.0\.1:\d+/1"),
        (("--gateway",), r"tcp:127\.0\.0\.1:\d+/1"),
        (("--rtu-tcp",), r"rtu\+tcp:127\.0\.0\.1:\d+/1"),
        (("--rtu", "pty@115200"), r"rtu:/dev/\S+@115200/1"),
        (("--ascii", "pty@115200,N,2"), r"ascii:/dev/\S+@115200,N,2/1"),
    ],
    ids=["tcp", "gateway", "rtu over tcp", "rtu", "ascii"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals, and no interrupt for a child")
def test_every_wire_is_read_and_written_through_the_target_that_is_printed(
    options: tuple[str, ...], target: str, tmp_path: Path
) -> None:
    with serving("home-13kwh-5kw", *options, cwd=tmp_path) as (device,):
        place = device["target"]
        assert re.fullmatch(target, place)
        assert read(place, "713.SoC", cwd=tmp_path) == {"713.SoC": pytest.approx(89.99, abs=0.02)}
        done = ridethrough("write", place, "704.WSetRvrtTms=30", cwd=tmp_path)
        assert done.stdout.split() == ["704.WSetRvrtTms", "30"]
        meter = place.rpartition("/")[0] + f"/{device['units'][1]}"
        assert read(meter, "201.W", cwd=tmp_path) == {"201.W": pytest.approx(900, abs=30)}


def test_a_role_decides_what_a_client_of_tls_may_do(tmp_path: Path) -> None:
    with serving("home-13kwh-5kw", "--tls", "--pki", "pki", cwd=tmp_path) as (device,):
        place = device["target"]
        assert place.startswith("tls:127.0.0.1:")
        said = {}
        for role, pair in device["clients"].items():
            files = ("--cert", pair["cert"], "--key", pair["key"], "--ca", device["ca"])
            assert "713.SoC" in ridethrough("read", place, "713.SoC", *files, cwd=tmp_path).stdout
            command = [*COMMAND, "write", place, "704.WSetRvrtTms=30", *files]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            said[role] = done.returncode
            assert done.returncode == 0 or "exception 1" in done.stderr
        assert said == {
            "ReadOnlySunSpec": 2,
            "GridServiceSunSpec": 0,
            "NetworkAdministratorSunSpec": 2,
            "SuperAdministratorSunSpec": 0,
        }
        missing = ridethrough("read", place, "713.SoC", cwd=tmp_path, expect=2)
        assert "--cert" in missing.stderr
    with serving("home-13kwh-5kw", "--tls", "--pki", "pki", cwd=tmp_path) as (again,):
        assert again["ca"] == device["ca"]  # the same certificates are taken up again


def test_a_scenario_of_many_homes_behind_one_gateway_and_on_one_line(tmp_path: Path) -> None:
    for options in (("--gateway",), ("--rtu", "pty@115200")):
        with serving("street", *options, cwd=tmp_path) as devices:
            assert len({device["target"].rpartition("/")[0] for device in devices}) == 1
            serials = [read(device["target"], "1.SN", cwd=tmp_path)["1.SN"] for device in devices[:2]]
            assert serials == ["D000000", "D000001"]


def test_quirks_are_seen_by_a_client(tmp_path: Path) -> None:
    options = ("--quirk", "ack-discard", "--quirk", "base-0", "--quirk", "common-65")
    with serving("home-13kwh-5kw", *options, cwd=tmp_path) as (device,):
        scan = json.loads(ridethrough("scan", device["target"], "--format", "json", cwd=tmp_path).stdout)
        assert scan["base"] == 0
        assert (scan["models"][0]["id"], scan["models"][0]["length"]) == (1, 65)
        done = ridethrough("write", device["target"], "704.WMaxLimPctEna=1", cwd=tmp_path, expect=1)
        assert "DIFFERS" in done.stdout


def test_a_quirk_of_minutes_acts_while_the_world_goes_on(tmp_path: Path) -> None:
    with serving("home-13kwh-5kw", "--quirk", "acts-after-minutes", "--speed", "600", cwd=tmp_path) as (
        device,
    ):
        place = device["target"]
        ridethrough("write", place, "704.WSetMod=1", "704.WSet=2000", "704.WSetEna=1", cwd=tmp_path)
        for _ in range(20):
            if read(place, "701.W", cwd=tmp_path)["701.W"] == 2000:
                break
        else:
            pytest.fail("the command never acted")


def test_a_family_brings_its_quirks_and_its_port(tmp_path: Path) -> None:
    with serving("walking-scale-factors", cwd=tmp_path) as (device,):
        assert device["profile"] == "walking-scale-factors"
        assert "models" in json.loads(
            ridethrough("scan", device["target"], "--format", "json", cwd=tmp_path).stdout
        )


def test_lists_name_quirks_and_families(tmp_path: Path) -> None:
    for what, known in (("quirks", "ack-discard"), ("families", "sleeps-at-night")):
        found = json.loads(ridethrough("list", what, "--format", "json", cwd=tmp_path).stdout)
        assert len(found[what]) >= (52 if what == "quirks" else 12)
        assert known in found[what]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tls", "--rtu", "pty"), "--tls and --rtu found; allowed one of them"),
        (("--pki", "x"), "--pki: allowed only with --tls"),
        (("--rtu", "/dev/no-such-port"), "/dev/no-such-port"),
        (("--rtu", "pty@1234"), "baud 1234 found; allowed 1200"),
        (("--rtu", "pty@9600/3"), "allowed PATH@BAUD"),
        (("--ascii", "pty@9600,E"), "a pseudo terminal; allowed N"),
        (("--quirk", "ack-discrad"), "did you mean 'ack-discard'?"),
        (("--quirk", "base-0", "--quirk", "base-50000"), "do not go together"),
        (("--quirk", "base-0", "--tls"), "quirks base-0 with tls; allowed without"),
        (("--quirk", "single-connection", "--rtu", "pty"), "allowed with tcp, found rtu"),
        (("--from", "late"), "found 'late'"),
    ],
)
def test_wrong_usage_exits_2_and_names_the_cure(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert said in ridethrough("serve", "home-13kwh-5kw", *arguments, cwd=tmp_path, expect=2).stderr
