"""The door to a running bench: the token, the file it lies in, and the verbs that use them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from ridethrough.emulator.errors import RidethroughError, ScenarioError
from ridethrough.hil import cli_live, remote
from ridethrough.hil.cli_live import _params
from ridethrough.hil.files import load_quirk
from ridethrough.hil.injection import Injector
from ridethrough.hil.judge import judge
from ridethrough.hil.live_serve import LiveWish, check_wish
from ridethrough.hil.record import read_record
from ridethrough.hil.remote import BenchFile, ask, find_bench, open_control, running_benches, runtime_folder
from ridethrough.hil.wires import Dress, Wire

from tests.hil.test_cli import COMMAND
from tests.hil.test_injection import DOCUMENT, S, Still


@pytest.fixture(autouse=True)
def own_runtime_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the benches of this test apart from those of the machine."""
    folder = tmp_path_factory.mktemp("runtime")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder / "ridethrough"


# The door.


@asynccontextmanager
async def opened(live: Still) -> AsyncIterator[BenchFile]:
    async with open_control(Injector(live, {"level": "hil", "speed": 1.0}), "injected") as path:
        yield remote.read_bench_file(path)


async def said(bench: BenchFile, *lines: bytes) -> list[Any]:
    """Send lines and return what is answered until the bench closes or all are answered."""
    reader, writer = await asyncio.open_connection(bench.host, bench.port)
    answers = []
    with suppress(ConnectionError):
        for line in lines:
            writer.write(line)
            answer = await asyncio.wait_for(reader.readline(), 20.0)
            if not answer:
                break
            answers.append(json.loads(answer))
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return answers


def line(bench: BenchFile, **request: Any) -> bytes:
    return json.dumps({"token": bench.token, **request}).encode() + b"\n"


def test_those_with_the_token_are_served_over_one_connection() -> None:
    async def go() -> None:
        live = Still(100 * S)
        async with opened(live) as bench:
            wish = {"verb": "inject", "fault": "grid.outage", "target": "all", "for": "1min"}
            state, done, faults, cleared, odd, end = await said(
                bench,
                line(bench, verb="state"),
                line(bench, **wish),
                line(bench, verb="faults"),
                line(bench, verb="clear", number=2),
                line(bench, verb="clear", number=2),
                line(bench, verb="stop"),
            )
        assert state["state"]["clock"] == "18:01:40"
        assert state["state"]["devices"] == ["home-01", "home-02", "home-03"]
        assert done["event"]["number"] == 2
        assert [fault["number"] for fault in faults["events"]] == [1, 2]
        assert [event["number"] for event in cleared["events"]] == [2]
        assert odd == {"ok": False, "error": "event 2 found; allowed 1"}
        assert end == {"ok": True}
        assert live.stopped

    asyncio.run(go())


def test_nobody_else_is_and_nothing_is_done_for_them() -> None:
    async def go() -> None:
        live = Still(100 * S)
        async with opened(live) as bench:
            wish = {"verb": "inject", "fault": "grid.outage", "target": "all"}
            strangers = [
                json.dumps(wish).encode() + b"\n",
                json.dumps({**wish, "token": "x" * 43}).encode() + b"\n",
                json.dumps({**wish, "token": 5}).encode() + b"\n",
                json.dumps({**wish, "token": "\ud800"}).encode() + b"\n",
                b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"[" * 50_000 + b"\n",
                b'"' + bench.token.encode() + b'"\n',
                b"\xff\xfe\n",
            ]
            for each in strangers:
                (answer,) = await said(bench, each, line(bench, **wish))  # and then the door is shut
                assert answer == {
                    "ok": False,
                    "error": "token: found none or a wrong one; allowed the bench's own",
                }
            (answer,) = await said(bench, b"x" * (remote.LINE_BYTES_MAX + 10) + b"\n")
            assert "longer line" in answer["error"]
        assert live.acts == []

    asyncio.run(go())


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"verb": "explode"}, "verb: found 'explode'; allowed state, faults, inject, clear, stop"),
        ({}, "verb: found nothing; allowed state"),
        ({"verb": "clear", "number": "7"}, "number: found '7'; allowed the number of an event, or all"),
        ({"verb": "clear", "number": True}, "number: found true"),
        ({"verb": "stop", "now": 1}, "now: found with stop; allowed nothing more"),
        ({"verb": "inject", "fault": ["x"], "target": "all"}, "fault: found a list"),
        (
            {"verb": "inject", "fault": "controller.crash"},
            "fault: controller.crash found; allowed those that act here: not here",
        ),
    ],
)
def test_what_cannot_be_understood_is_answered_with_what_can(request_: dict[str, Any], error: str) -> None:
    async def go() -> None:
        live = Still(100 * S)
        async with opened(live) as bench:
            (answer,) = await said(bench, line(bench, **request_))
        assert answer["ok"] is False
        assert answer["error"].startswith(error), answer
        assert live.acts == []

    asyncio.run(go())


def test_clients_are_bounded_in_number_and_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CLIENTS_MAX", 2)
    monkeypatch.setattr(remote, "IDLE_S", 0.5)

    async def go() -> None:
        async with opened(Still(100 * S)) as bench:
            ends = [await asyncio.open_connection(bench.host, bench.port) for _ in range(3)]
            answer = json.loads(await asyncio.wait_for(ends[2][0].readline(), 20.0))
            assert answer["error"] == "2 clients are connected; allowed no more"
            assert await asyncio.wait_for(ends[0][0].read(), 20.0) == b""  # cut for its silence
            for _, writer in ends:
                writer.close()
            await asyncio.sleep(0.05)
            assert (await said(bench, line(bench, verb="state")))[0]["ok"] is True

    asyncio.run(go())


# The file of a running bench.


@pytest.mark.skipif(os.name == "nt", reason="no modes of files")
def test_the_token_lies_where_only_the_user_can_read_it(own_runtime_folder: Path) -> None:
    async def go() -> None:
        async with opened(Still(100 * S)) as bench:
            path = own_runtime_folder / f"{bench.name}.json"
            assert path.stat().st_mode & 0o777 == 0o600
            assert own_runtime_folder.stat().st_mode & 0o777 == 0o700
            assert len(bench.token) >= 40
            assert [each.name for each in running_benches()] == [bench.name]
        assert not path.exists()

    asyncio.run(go())
    own_runtime_folder.chmod(0o755)
    with pytest.raises(ScenarioError, match="a folder that others can look into"):
        runtime_folder()
    own_runtime_folder.rmdir()
    own_runtime_folder.symlink_to(own_runtime_folder.parent)
    with pytest.raises(ScenarioError, match="or no folder"):
        runtime_folder()


def bench_file(folder: Path, name: str, pid: int, port: int = 1) -> Path:
    path = folder / f"{name}.json"
    facts = {"version": 1, "name": name, "pid": pid, "host": "127.0.0.1", "port": port, "token": "t"}
    path.write_text(json.dumps(facts))
    return path


def test_a_bench_is_found_by_its_name_alone_or_by_its_file_and_dead_ones_are_forgotten() -> None:
    folder = runtime_folder()
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        pass
    gone = bench_file(folder, "gone", dead.pid)
    with pytest.raises(ScenarioError, match="no bench runs with a control endpoint; start one"):
        find_bench(None)
    assert not gone.exists()
    bench_file(folder, "one", os.getpid())
    assert find_bench(None).name == "one"
    path = bench_file(folder, "two", os.getpid())
    with pytest.raises(ScenarioError, match="2 benches run; name one with --bench: one, two"):
        find_bench(None)
    assert find_bench("two") == find_bench(str(path))
    with pytest.raises(
        ScenarioError, match=r"--bench tow \(did you mean 'two'\?\): found no such bench; allowed one"
    ):
        find_bench("tow")
    path.write_text('{"version": 1}')
    with pytest.raises(ScenarioError, match="no file of a running bench"):
        find_bench(str(path))
    path.write_text(json.dumps({"version": 2, "name": "", "pid": 1, "host": "", "port": 1, "token": ""}))
    with pytest.raises(ScenarioError, match="of another version"):
        find_bench(str(path))


def answering(answer: bytes) -> BenchFile:
    """Return a bench that gives one answer, whatever it is asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(4096)
            client.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return BenchFile(1, "odd", 1, "127.0.0.1", listener.getsockname()[1], "t")


def test_a_bench_that_does_not_answer_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RidethroughError, match=r"the bench odd does not answer at 127\.0\.0\.1"):
        ask(BenchFile(1, "odd", 1, "127.0.0.1", port, "t"), {"verb": "state"})
    with pytest.raises(RidethroughError, match="closed without an answer"):
        ask(answering(b""), {"verb": "state"})
    with pytest.raises(ScenarioError, match=r"^no$"):
        ask(answering(b'{"ok": false, "error": "no"}\n'), {"verb": "state"})


# The verbs.


@contextmanager
def live_bench(*options: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "serve", "injected.yaml", *options, "--format", "json"]
    (cwd / "injected.yaml").write_text(json.dumps(DOCUMENT))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    ) as server:
        assert server.stdout is not None
        try:
            first = server.stdout.readline()
            if not first:
                raise AssertionError(server.communicate()[1])
            yield server
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGINT)
            server.communicate(timeout=30)


def test_three_faults_into_a_served_scenario_its_record_and_its_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        return capsys.readouterr().out

    with live_bench("--record", "r", "--network", "--speed", "20", cwd=tmp_path) as server:
        cli_live.inject("grid.outage", ["home-02", "3"], "30s")
        assert re.fullmatch(r"event 2: grid.outage on home-02, home-03 from 18:0\S+ until 18:0\S+\n", told())
        cli_live.inject("comms.loss", ["all"], param=["probability=5%"], form="json")
        loss = json.loads(told())
        assert loss["params"]["loss_frac"] == 0.05
        # What is cleared before it has begun does not happen.
        while ask(find_bench(None), {"verb": "state"})["state"]["now_s"] <= loss["start_ns"] / 1e9:
            time.sleep(0.02)
        cli_live.inject("telemetry.frozen", ["1"])
        with pytest.raises(ScenarioError, match="it acts on the controller itself"):
            cli_live.inject("controller.crash")
        told()
        cli_live.clear("3")
        assert told().startswith("event 3: comms.loss on home-01, home-02, home-03 from ")
        cli_live.bench_now("faults")
        assert "event 4: telemetry.frozen on home-01" in told()
        cli_live.bench_now()
        assert told().startswith("injected at 18:0")
        begun_s = ask(find_bench(None), {"verb": "state"})["state"]["now_s"]
        while ask(find_bench(None), {"verb": "state"})["state"]["now_s"] < begun_s + 2.0:
            time.sleep(0.02)  # an event that has not begun when the run is stopped did not happen
        cli_live.bench_now("stop")
        _, words = server.communicate(timeout=30)
        assert server.returncode == 0, words
    assert "ridethrough: held: no promise was broken; until 18:0" in words
    events = read_record(tmp_path / "r").header["events"]
    assert [event["number"] for event in events if event.get("injected")] == [2, 3, 4]
    told()
    with pytest.raises(typer.Exit) as ended:
        cli_live.replay_record(tmp_path / "r", controller="hold")
    assert ended.value.exit_code == 0
    said = told()
    assert said.startswith("SAME: the verdict agrees; recorded held, replayed at mil held; 3 injected faults")
    assert (tmp_path / "r-replay-mil-001" / "end.json").exists()
    with pytest.raises(ScenarioError, match=r"commanded by other programs \(clients of serve\)"):
        cli_live.replay_record(tmp_path / "r")


def test_an_interrupt_finishes_the_record_and_no_control_means_none(tmp_path: Path) -> None:
    with live_bench("--record", "r", "--no-control", "--speed", "20", cwd=tmp_path) as server:
        with pytest.raises(ScenarioError, match="no bench runs"):
            cli_live.bench_now()
        server.send_signal(signal.SIGINT)
        _, words = server.communicate(timeout=30)
        assert server.returncode == 130, words
    record = read_record(tmp_path / "r")
    assert record.complete
    assert judge(record).outcome == "held"


@pytest.mark.parametrize(
    ("wish", "scenario", "wire", "gateway", "error"),
    [
        (LiveWish(Path("r"), False, False, 1.0), False, Wire(), False, "--record: allowed with a scenario"),
        (LiveWish(None, True, False, 1.0), False, Wire(), False, "--network: allowed with a scenario"),
        (
            LiveWish(None, True, True, 1.0),
            True,
            Wire(),
            True,
            "--network with --gateway; allowed",
        ),
        (
            LiveWish(None, True, True, 1.0),
            True,
            Wire("tls"),
            False,
            "--network with tls; allowed",
        ),
    ],
)
def test_what_serve_cannot_do_together_is_said(
    wish: LiveWish, scenario: bool, wire: Wire, gateway: bool, error: str
) -> None:
    with pytest.raises(ScenarioError, match=error):
        check_wish(wish, scenario, wire, gateway, None)


def test_devices_with_quirks_are_not_recorded() -> None:
    from ridethrough.emulator.quirks.knobs import combine
    from ridethrough.hil.streams import stream

    dress = Dress(combine([load_quirk("ack-discard")]), lambda d: stream(1, str(d)))
    for wish, error in (
        (LiveWish(Path("r"), False, True, 1.0), "--record with --quirk"),
        (LiveWish(None, True, True, 1.0), "--network with --quirk"),
    ):
        with pytest.raises(ScenarioError, match=error):
            check_wish(wish, True, Wire(), False, dress)
    check_wish(LiveWish(None, False, True, 1.0), True, Wire(), False, dress)


@pytest.mark.parametrize("text", ["probability", "=5", "a=", "a=[1", "a={b: 1"])
def test_parameters_that_cannot_be_read_are_refused(text: str) -> None:
    if text == "a=":
        assert _params([text]) == {"a": None}
        return
    with pytest.raises(ScenarioError, match="--param"):
        _params([text])


def test_parameters_are_read_as_a_scenario_reads_them() -> None:
    given = ["factor=10", "share=5%", "mean=80ms", "at=12:30", "slope=-0.5", "flag=true"]
    wanted = {"factor": 10, "share": "5%", "mean": "80ms", "at": "12:30", "slope": -0.5, "flag": True}
    assert _params(given) == wanted
