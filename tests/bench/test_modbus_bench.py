"""The Modbus benchmark measures: numbers are there, and what went wrong is said instead of measured.

Nothing is asserted about how fast anything is.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bench import modbus
from tests.bench.modbus_decode import decode_times
from tests.bench.modbus_peers import Load, Round, Server, Unmeasured, compiled, python_server, reference_unit
from tests.bench.modbus_servers import BASE

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs epoll, which is Linux's"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler, which the load generator needs"),
]

TINY = modbus.Size(rounds=2, round_s=0.02, devices=20, fleets=1, fleet_s=0.3, gateway_devices=130)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def load(folder: Path) -> Path:
    return compiled("load", folder)


def assert_measured(one: Round) -> None:
    for name, value in dataclasses.asdict(one).items():
        assert math.isfinite(value), name
        assert value > 0.0 or name == "late", name


def test_comparison_has_numbers_for_every_server(
    folder: Path, load: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        rows = modbus.start_rows(stack, folder)
        names = {row.name for row in rows}
        assert {modbus.OURS_ASYNCIO, modbus.PYMODBUS, modbus.EPOLL} <= names
        found = {shape: modbus.measure_shape(load, rows, *shape, TINY) for shape in ((1, 1), (16, 1))}
    for shape, rounds in found.items():
        assert set(rounds) == names
        for some in rounds.values():
            assert len(some) == TINY.rounds
            assert_measured(modbus.median(some))
        modbus.print_shape(*shape, rounds)
    modbus.print_ratios(found)
    said = capsys.readouterr().out
    assert "µs CPU" in said
    assert f"/ {modbus.EPOLL}" in said


def test_fleet_has_numbers(folder: Path, load: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = modbus.measure_fleet(folder, load, "asyncio", TINY)
    assert fleet.devices == TINY.devices
    assert 0.0 < fleet.start_s < fleet.process_s
    assert 0.0 < fleet.rss_mib <= fleet.rss_mib_connected + 1.0
    assert_measured(fleet.round)
    modbus.print_fleets([fleet])
    assert "20 live devices on 20 ports" in capsys.readouterr().out


def test_gateway_has_numbers_and_every_unit_answers(capsys: pytest.CaptureFixture[str]) -> None:
    found = modbus.measure_gateway("asyncio", TINY.gateway_devices)
    assert (found.units, found.ports, found.answered) == (260, 2, 260)
    assert min(found.start_s, found.process_s, found.rss_mib, found.reading_s) > 0.0
    modbus.print_gateway(found)
    assert "260 live units" in capsys.readouterr().out


def test_decode_has_numbers() -> None:
    times = decode_times(reference_unit())
    assert times.points > 10
    assert min(times.pysunspec2_us, times.ours_us) > 0.0


class FakeServer:
    """A server in this process, which answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.ports = [self._listener.getsockname()[1]]
        self.cpu_s = lambda: 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        peer, _ = self._listener.accept()
        with self._listener, peer:
            while peer.recv(12):
                peer.sendall(self._answer)


GOOD = bytes.fromhex("0000 0000 0007 01 03 04 1234 5678")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (bytes.fromhex("0000 0000 0003 01 83 02"), "function 131 answered"),
        (GOOD[:1] + b"\x07" + GOOD[2:], "a wrong reply"),
        (GOOD[:6] + b"\x02" + GOOD[7:], "a wrong reply"),
        (GOOD, "a wrong reply"),  # right for the first request: the second has another transaction id
    ],
    ids=["refusal", "transaction", "unit", "stale"],
)
def test_load_generator_does_not_count_wrong_replies(load: Path, answer: bytes, said: str) -> None:
    server = FakeServer(answer)

    def measure(stack: ExitStack) -> Round:
        shape = ("closed", server.ports[0], 1, 1, 0.1, 1, BASE, 2)
        return Load(stack, load, server, *shape).round()  # type: ignore[arg-type]  # all that a Load looks at

    with ExitStack() as stack, pytest.raises(Unmeasured, match=said):
        measure(stack)


def test_source_that_does_not_compile_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "load.c").write_text("int main(void) { return nothing; }\n")
    monkeypatch.setattr("tests.bench.modbus_peers.HERE", tmp_path)
    with pytest.raises(Unmeasured, match=r"load\.c does not compile"):
        compiled("load", tmp_path)


def test_missing_compiler_and_library_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Unmeasured, match=r"it needs libno-such-library and its headers"):
        compiled("epoll_server", tmp_path, "no-such-library")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unmeasured, match="no C compiler"):
        compiled("load", tmp_path)


def test_server_that_does_not_start_is_said() -> None:
    with ExitStack() as stack:
        with pytest.raises(Unmeasured, match="No such file"):
            python_server(stack, "pymodbus", "asyncio", "no-such-image").ready()
        with pytest.raises(Unmeasured, match="it ended"):
            Server(stack, ["true"]).ready()
