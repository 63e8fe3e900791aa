"""Hostile controllers in a process of their own: a clear verdict each, no hang, nothing left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.controllers.contract import Pool, Prices, Telemetry
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil import candidate_frames, candidate_process
from ridethrough.hil.assembly import make_plant, make_pool
from ridethrough.hil.bench import run
from ridethrough.hil.candidate_process import KEPT_BYTES, Limits, ProcessCandidate, open_candidate
from ridethrough.hil.files import load_scenario, scenario_from_dict
from ridethrough.hil.record import read_record
from ridethrough.hil.world import build_world

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="a controller is isolated on Linux only"
)

AMPLE = Limits(deadline_s=20.0, memory_bytes=1 << 30, tasks=64, files=64)
QUICK = replace(AMPLE, deadline_s=0.4)
"""For those that would never answer."""

MARK = "RIDETHROUGH_TEST_MARK"
HOME = {"device": "home-13kwh-5kw", "commitment": {"hours": 2, "load_w": 500}, "load": "synthetic-home"}


@pytest.fixture(scope="module")
def pool() -> Pool:
    source = {"name": "two", "duration": "10min", "pool": [{**HOME, "count": 2}], "prices": {"constant": 50}}
    world = build_world(scenario_from_dict(source))
    return make_pool(world, make_plant(world))


def telemetry(n: int = 2) -> Telemetry:
    return Telemetry(
        measured_ns=np.zeros(n, dtype=np.int64),
        received_ns=np.zeros(n, dtype=np.int64),
        soc_frac=np.full(n, 0.9),
        power_w=np.zeros(n),
        import_w=np.full(n, 500.0),
        grid_good=np.ones(n),
        prices=Prices(50.0, np.full(96, 50.0), 900.0),
    )


def marked(mark: str) -> dict[int, str]:
    """Return the processes that carry a mark in their environment, with their states; zombies of ours too."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError, IndexError):
            state, parent = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
            mine = state == "Z" and int(parent) == os.getpid()
            if mine or mark.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = state
    return found


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Fail when a process with this test's mark is still there at its end, or an open file too many."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    files = len(list(Path("/proc/self/fd").iterdir()))
    yield mark
    assert marked(mark) == {}
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def opened(name: str, pool: Pool, limits: Limits = AMPLE) -> ProcessCandidate:
    made = open_candidate(f"tests.hil.hostile:{name}", pool, isolate=True, limits=limits)
    assert isinstance(made, ProcessCandidate)
    return made


def asked(candidate: ProcessCandidate, times: int = 2) -> str | None:
    """Enroll and ask a candidate; return what became of it."""
    try:
        candidate.enroll()
        for turn in range(times):
            commands = candidate.decide(turn * 60 * 10**9, telemetry())
            assert commands.power_w.shape == (2,)
        return candidate.fault
    finally:
        candidate.close()


FAULTS = [
    ("Loops", "decide took longer than 0.4 s"),
    ("Exits", "decide ended its process with exit code 3"),
    ("Eats", "decide raised MemoryError: Unable to allocate 8.00 GiB"),
    ("Threads", "threads and processes; allowed 64"),
    ("NotANumber", "decide answered nonsense: validity_s is nan in row 0; allowed 1 to 86400 s with a power"),
    ("Infinite", "decide answered nonsense: power_w is infinite in row 0"),
    ("CatchesAll", "decide took longer than 0.4 s"),
    ("ClosesFiles", "decide closed the pipes to the bench"),
    ("HoldsTheLock", "decide took longer than 0.4 s"),
    ("Stops", "decide took longer than 0.4 s; its process was stopped"),
    ("Late", "decide took longer than 0.4 s"),
    # Beyond the twelve.
    ("ForkBomb", "threads and processes; allowed 64"),
    ("Garbage", "decide answered nonsense on its pipe: found b'\\xff\\x00 t'; allowed b'RTC1'"),
    ("Forges", "decide answered nonsense on its pipe: found 2147483647 + 2147483647 bytes"),
    ("KillsItsKeeper", "decide closed the pipes to the bench"),
    ("RaisesUnspeakably", "decide raised Error"),
    ("RaisesInEnroll", "enroll raised RuntimeError: cannot read my settings"),
    ("Crashes", "decide ended its process by signal SIGSEGV"),
]


@pytest.mark.parametrize(("name", "said"), FAULTS, ids=[name for name, _ in FAULTS])
def test_a_hostile_controller_fails_by_its_own_fault(
    name: str, said: str, pool: Pool, nothing_left: str
) -> None:
    began_s = time.perf_counter()
    fault = asked(opened(name, pool, QUICK if "took longer" in said else AMPLE))
    assert fault is not None
    assert said in fault
    assert "\n" not in fault
    assert time.perf_counter() - began_s < 20.0


def test_a_controller_may_print_a_gigabyte(pool: Pool, nothing_left: str) -> None:
    limits = Limits(deadline_s=60.0, memory_bytes=1 << 30)
    candidate = opened("Prints", pool, limits)
    assert asked(candidate) is None
    text = candidate.output
    assert text.startswith("once upon a time once upon")
    assert len(text) < KEPT_BYTES + 100
    assert int(text.rstrip().rpartition("[")[2].split()[0]) > (1 << 30) - 2 * KEPT_BYTES


def test_a_controller_that_stops_the_clocks_stops_its_own(pool: Pool, nothing_left: str) -> None:
    assert asked(opened("StopsClocks", pool)) is None
    before_s = time.monotonic()
    time.sleep(0.001)
    assert time.monotonic() > before_s


def test_processes_that_hide_are_found(pool: Pool, nothing_left: str) -> None:
    candidate = opened("Forks", pool)
    candidate.enroll()
    candidate.decide(0, telemetry())
    assert candidate.fault is None
    time.sleep(0.1)
    assert len(marked(nothing_left)) >= 5  # keeper, worker, three in sessions of their own
    candidate.close()


@pytest.mark.slow
def test_a_stopped_keeper_is_ended_too(
    pool: Pool, nothing_left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate_process, "END_S_MAX", 0.3)
    fault = asked(opened("StopsItsKeeper", pool, QUICK))
    assert fault is not None
    assert fault.startswith(("decide took longer", "decide closed the pipes"))


@pytest.mark.slow
def test_processor_time_is_counted_over_all_calls(pool: Pool, nothing_left: str) -> None:
    limits = Limits(deadline_s=10.0, cpu_s=1)
    assert (
        asked(opened("BurnsSlowly", pool, limits), times=6) == "decide used more than 1 s of processor time"
    )


def test_there_is_no_network_where_the_system_lets_us_take_it_away(
    pool: Pool, nothing_left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RIDETHROUGH_TEST_PORT", str(server.getsockname()[1]))
        with_network = Limits(deadline_s=5.0, network=True)
        assert asked(opened("Telephones", pool, with_network), times=1) is None
        fault = asked(opened("Telephones", pool, Limits(deadline_s=5.0)), times=1)
    if apart.returncode == 0 or os.geteuid() == 0:
        assert fault is not None
        assert "unreachable" in fault
    else:
        pytest.skip("this system lets no user make a network of their own")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ExitsWhenMade", "making it ended its process with exit code 4; it printed: I will not start"),
        ("HangsWhenMade", "making it took longer than 1 s"),
        ("RaisesWhenMade", "making RaisesWhenMade failed: RuntimeError: no licence"),
        ("NoPeriod", "period_s is nan; allowed 0.1 to 86400.0 s"),
        ("NoSuchThing", "making NoSuchThing failed: AttributeError"),
    ],
)
def test_a_controller_that_cannot_be_had_is_named_with_its_cause(
    name: str, said: str, pool: Pool, nothing_left: str
) -> None:
    with pytest.raises(ScenarioError) as caught:
        opened(name, pool, Limits(start_s=1.0 if "took longer" in said else 20.0))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "value"),
    [("deadline_s", 0.0), ("deadline_s", float("nan")), ("memory_bytes", 1000), ("tasks", 0)],
)
def test_a_limit_out_of_range_is_named(limit: str, value: float) -> None:
    with pytest.raises(ScenarioError, match=f"limit {limit}: found"):
        Limits(**{limit: value})  # type: ignore[arg-type]  # one of several types


def test_a_killed_bench_leaves_no_controller_behind(pool: Pool, nothing_left: str) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from tests.hil.test_hostile import *\n"
        "source = {'name': 'x', 'duration': '10min', 'pool': [{**HOME, 'count': 2}]}\n"
        "world = build_world(scenario_from_dict(source))\n"
        "candidate = opened('Forks', make_pool(world, make_plant(world)))\n"
        "candidate.enroll(); candidate.decide(0, telemetry()); print('ready', flush=True)\n"
        "candidate2 = opened('Loops', make_pool(world, make_plant(world)), Limits())\n"
        "candidate2.enroll(); candidate2.decide(0, telemetry())\n"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, cwd=root) as bench:
        assert bench.stdout is not None
        assert bench.stdout.readline() == b"ready\n"
        deadline_s = time.monotonic() + 20.0
        while len(marked(nothing_left)) < 7 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert len(marked(nothing_left)) >= 7
        bench.send_signal(signal.SIGKILL)
    deadline_s = time.monotonic() + 5.0
    while marked(nothing_left) and time.monotonic() < deadline_s:
        time.sleep(0.02)


@pytest.mark.parametrize(("name", "outcome"), [("HoldsTheLock", "broken"), ("StopsClocks", "held")])
def test_the_bench_goes_on_and_says_whose_failure_it_was(
    name: str, outcome: str, tmp_path: Path, nothing_left: str
) -> None:
    source = {"name": "one", "duration": "10min", "pool": [HOME], "prices": {"constant": 50}}
    world = build_world(scenario_from_dict(source))
    done = run(world, f"tests.hil.hostile:{name}", tmp_path / "r", isolate=True, limits=QUICK)
    assert done.verdict.outcome == outcome
    if outcome == "broken":
        assert "the controller failed: decide took longer than 0.4 s" in done.verdict.reasons
    record = read_record(tmp_path / "r")
    assert record.complete
    assert record.truth["t_ns"].max() == world.duration_ns


def test_the_same_controller_gives_the_same_bytes_here_and_apart(tmp_path: Path, nothing_left: str) -> None:
    world = build_world(load_scenario("one-home"))
    digests = []
    for where in ("here", "apart"):
        run(world, "reserve", tmp_path / where, isolate=where == "apart")
        files = sorted((tmp_path / where).iterdir())
        digests.append(hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).digest())
    assert digests[0] == digests[1]
    assert len(read_record(tmp_path / "apart").commands["t_ns"]) > 20


# Frames: what the other side may write is anything.


@given(st.binary(max_size=200))
def test_garbage_is_no_frame(data: bytes) -> None:
    head = candidate_frames.pack("commands", {})[: candidate_frames.HEAD.size]
    with suppress(candidate_frames.FrameError):
        candidate_frames.sizes(data.ljust(len(head), b"\0"))
    with suppress(candidate_frames.FrameError):
        candidate_frames.unpack(data, data)
    with pytest.raises(candidate_frames.FrameError):
        candidate_frames.unpack(b"[" * 100_000, b"")


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
    st.lists(st.booleans(), max_size=20),
    st.floats(allow_nan=False),
)
def test_a_frame_comes_out_as_it_went_in(
    floats: list[float], times: list[int], flags: list[bool], plain: float
) -> None:
    arrays = {
        "f": np.array(floats, np.float64),
        "t": np.array(times, np.int64),
        "b": np.array(flags, np.bool_),
    }
    frame = candidate_frames.pack("kind", {**arrays, "x": plain, "names": ["a", "ß"]})
    size = candidate_frames.HEAD.size
    text, raw = candidate_frames.sizes(frame[:size])
    assert len(frame) == size + text + raw
    kind, values = candidate_frames.unpack(frame[size : size + text], frame[size + text :])
    assert (kind, values["x"], values["names"]) == ("kind", plain, ["a", "ß"])
    for name, array in arrays.items():
        assert values[name].tobytes() == array.tobytes()
        assert values[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        (b'{"kind": "commands", "values": {}}', b""),
        (b'{"kind": 1, "values": {}, "arrays": []}', b""),
        (b'{"kind": "commands", "values": {}, "arrays": [["power_w", "<f8", 2]]}', b"12345678"),
        (b'{"kind": "commands", "values": {}, "arrays": [["power_w", "<f8", 1]]}', b"123456789"),
        (b'{"kind": "commands", "values": {}, "arrays": [["power_w", "|O", 1]]}', b"12345678"),
        (b'{"kind": "commands", "values": {}, "arrays": [["power_w", "<f8", -1]]}', b""),
    ],
)
def test_a_frame_that_does_not_fit_itself_is_refused(text: bytes, raw: bytes) -> None:
    with pytest.raises(candidate_frames.FrameError):
        candidate_frames.unpack(text, raw)
