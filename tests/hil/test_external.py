"""External Modbus programs: what they are told, what they command, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import Plant
from ridethrough.hil import program
from ridethrough.hil.assembly import make_header, make_plant, make_pool
from ridethrough.hil.external import INVENTORY, LOG, ExternalBench, run_external
from ridethrough.hil.files import load_profile, scenario_from_dict
from ridethrough.hil.inventory import Inventory, inventory_of, inventory_schema, write_inventory
from ridethrough.hil.judge import Verdict, judge
from ridethrough.hil.program import LOG_BYTES_MAX, Program, read_command
from ridethrough.hil.record import OUTCOMES, Record, RecordWriter, read_record
from ridethrough.hil.stage import EXTERNAL
from ridethrough.hil.target import TcpTarget
from ridethrough.hil.watch import Command, watched_units
from ridethrough.hil.world import World, build_world

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "controllers" / "examples"
PYTHON = sys.executable
SPEED = 60.0


def world(*events: dict[str, Any], soc: str = "64%", minutes: int = 4) -> World:
    """Return one home just above its reserve."""
    document = {
        "name": "external",
        "start": "18:00",
        "duration": f"{minutes}min",
        "pool": [
            {
                "name": "home",
                "device": "home-13kwh-5kw",
                "commitment": {"hours": 8, "load_w": 900},
                "load": "synthetic-home",
                "soc": soc,
                "export_limit_w": 5000,
            }
        ],
        "prices": {"constant": 50},
        # Patient, so that a machine with a lot to do is no fault of the bench.
        "comms": {"poll": "10s", "loss": "0%", "timeout": "4min"},
        "events": list(events),
    }
    return build_world(scenario_from_dict(document))


async def judged(the_world: World, command: str, folder: Path) -> tuple[Record, Verdict]:
    """Run a program against a world, as the bench does."""
    plant = make_plant(the_world)
    pool = make_pool(the_world, plant)
    header = make_header(the_world, pool, plant, level="hil", controller=EXTERNAL + command, speed=SPEED)
    writer = RecordWriter(folder, header)
    bench = ExternalBench(the_world, plant, pool, command, writer, speed=SPEED)
    await bench.run()
    reason = "completed" if bench.fault is None else "controller failed"
    writer.close(reason, detail=bench.fault or "")  # however slow this machine was
    record = read_record(folder)
    return record, judge(record)


def compiled(folder: Path) -> str:
    """Return the example in C as a program, made by the line that stands in it."""
    source = EXAMPLES / "modbus_careful.c"
    line = next(line for line in source.read_text().splitlines() if "cc -O2" in line)
    if shutil.which("cc") is None or shutil.which("pkg-config") is None:
        pytest.skip("no C compiler or no pkg-config: the example in C cannot be built")
    if subprocess.run(["pkg-config", "--exists", "libmodbus"], check=False).returncode:
        pytest.skip("libmodbus with its headers (libmodbus-dev) is not installed")
    shutil.copy(source, folder)
    subprocess.run(line.strip(" *"), shell=True, cwd=folder, check=True)
    return str(folder / "modbus_careful")


def test_examples_are_short() -> None:
    for name in ("modbus_careful.py", "modbus_careful.c"):
        assert (EXAMPLES / name).read_text().count("\n") < 100


def test_careful_programs_hold_and_a_greedy_one_is_caught(tmp_path: Path) -> None:
    careful = f"{PYTHON} {EXAMPLES / 'modbus_careful.py'}"
    cut = {"at": "18:02", "fault": "comms.partition", "target": "all", "for": "1min"}

    async def all_three() -> list[tuple[Record, Verdict]]:
        three = await asyncio.gather(
            judged(world(soc="80%"), careful, tmp_path / "careful"),
            judged(world(), f"{careful} --greedy", tmp_path / "greedy"),
            judged(world(cut, soc="80%"), careful, tmp_path / "cut"),
        )
        return list(three)

    (record, verdict), (greedy, caught), (silent, _) = asyncio.run(all_three())
    assert verdict.outcome == "held", verdict.reasons
    assert caught.outcome == "broken", caught.reasons
    assert "below its reserve" in caught.first_breach
    assert "on a command issued at 18:0" in caught.first_breach
    granted = record.commands["power_w"]
    assert len(granted) > 10
    assert (record.commands["outcome"] == 0).all()
    assert granted.max() > 1000.0  # it did trade
    assert set(np.ceil(record.commands["validity_s"])) == {30.0}
    assert greedy.commands["power_w"].max() == 5000.0
    assert not len(record.telemetry["device"])  # what a program has read nobody here knows
    arrived_s = silent.commands["arrival_ns"] / 1e9
    assert ((arrived_s > 20) & (arrived_s < 110)).any()
    assert not ((arrived_s > 140) & (arrived_s < 178)).any()  # nothing passes, but what was under way
    told = json.loads((tmp_path / "careful" / INVENTORY).read_text())
    assert Inventory.model_validate(told).devices[0].name == "home"


def test_the_example_in_c_is_built_by_its_own_line_and_holds(tmp_path: Path) -> None:
    record, verdict = asyncio.run(judged(world(soc="80%", minutes=2), compiled(tmp_path), tmp_path / "r"))
    assert verdict.outcome == "held", verdict.reasons
    assert record.commands["power_w"].max() > 1000.0


def test_a_program_that_ends_early_has_failed_and_the_world_goes_on(tmp_path: Path) -> None:
    ways = {
        "raise ValueError('no such luck')": "exit code 1; its last words: ValueError: no such luck",
        "pass": "exit code 0",
        "import os; os.kill(os.getpid(), 9)": "signal SIGKILL",
    }

    async def all_of_them() -> list[tuple[Record, Verdict]]:
        commands = [f'{PYTHON} -c "{body}" {{inventory}}' for body in ways]
        runs = [judged(world(minutes=2), each, tmp_path / str(k)) for k, each in enumerate(commands)]
        return list(await asyncio.gather(*runs))

    for (record, verdict), said in zip(asyncio.run(all_of_them()), ways.values(), strict=True):
        assert verdict.outcome == "broken"
        assert f"with {said}" in verdict.reasons[0]
        assert "the program ended by itself at 18:0" in verdict.reasons[0]
        assert record.end is not None
        assert record.end["reason"] == "controller failed"
        assert record.truth["t_ns"][-1] == 120 * 10**9


def test_a_program_that_ends_with_the_run_has_not_failed(tmp_path: Path) -> None:
    body = (
        "import json, os, time; clock = json.load(open(os.environ['RIDETHROUGH_INVENTORY']))['clock']; "
        "time.sleep(max(0, (clock['duration_s'] - 4) / clock['speed'] + clock['zero_unix_s'] - time.time()))"
    )
    done = run_external(world(minutes=1), f'{PYTHON} -c "{body}"', tmp_path / "r", speed=20.0)
    assert done.verdict.outcome == "held", done.verdict.reasons
    header = read_record(done.folder).header
    assert header["controller"].startswith("external: ")
    assert (header["level"], header["speed"]) == ("hil", 20.0)
    assert (done.folder / "verdict.json").exists()


def test_faults_of_a_controller_or_broker_of_ours_are_refused(tmp_path: Path) -> None:
    lost = {"at": "18:01", "fault": "broker.lost-subscription", "target": "all", "for": "1min"}
    with pytest.raises(
        ScenarioError, match=r"event 1: broker\.lost-subscription found with --external; allowed"
    ):
        run_external(world(lost), PYTHON, tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", "found nothing; allowed a command"),
        ("python3 'half", "No closing quotation"),
        ("no-such-program --at-all", "found no program 'no-such-program' that can be run"),
    ],
)
def test_commands_that_cannot_be_read_are_the_users_mistake(command: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        read_command(command, Path("inventory.json"))


def test_the_inventory_is_put_into_the_command() -> None:
    words = read_command(f"{PYTHON} 'a b' --file={{inventory}}", Path("/x y/inventory.json"))
    assert words == [PYTHON, "a b", "--file=/x y/inventory.json"]


# Nothing is left of a program.


async def played(words: list[str], folder: Path, until: Callable[[], bool]) -> Program:
    """Start a program, wait for something, and end it."""
    one = Program(words, folder / INVENTORY, folder / LOG)
    await one.start()
    try:
        async with asyncio.timeout(30.0):
            while not until():
                await asyncio.sleep(0.01)
    finally:
        await one.end()
    return one


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


LEAVES = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
here = pathlib.Path(sys.argv[1])
if os.fork() == 0:
    os.setsid()  # leaves the session, as a daemon does
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (here / "daemon").write_text(str(os.getpid()))
else:
    (here / "main").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_a_program_that_does_not_listen_and_its_daemon_are_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "GRACE_S", 0.2)
    pids: list[int] = []

    def both() -> bool:
        files = [tmp_path / "main", tmp_path / "daemon"]
        if all(file.exists() and file.read_text() for file in files):
            pids[:] = [int(file.read_text()) for file in files]
        return bool(pids)

    asyncio.run(played([PYTHON, "-c", LEAVES, str(tmp_path)], tmp_path, both))
    assert len(pids) == 2
    assert not any(map(alive, pids))


KILLED = """
import asyncio, pathlib, sys
from ridethrough.hil.program import Program
async def main():
    folder = pathlib.Path(sys.argv[1])
    one = Program([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"],
                  folder / "inventory.json", folder / "log")
    await one.start()
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_bench_that_is_killed_takes_the_program_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with subprocess.Popen([PYTHON, "-c", KILLED, str(tmp_path)]) as bench:
        for _ in range(1000):
            if log.exists() and log.read_text().endswith("\n"):
                break
            time.sleep(0.02)
        pid = int(log.read_text())
        assert alive(pid)
        bench.send_signal(signal.SIGKILL)
    for _ in range(500):
        if not alive(pid):
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} outlives its bench")


def test_a_flood_of_words_is_cut_and_blocks_nothing(tmp_path: Path) -> None:
    flood = "import pathlib, sys\nfor _ in range(80): print('x' * 65535)\npathlib.Path(sys.argv[1]).touch()"
    done = tmp_path / "done"
    asyncio.run(played([PYTHON, "-c", flood, str(done)], tmp_path, done.exists))
    kept = (tmp_path / LOG).read_bytes()
    assert LOG_BYTES_MAX < len(kept) < LOG_BYTES_MAX + 100
    assert kept.endswith(f"[{80 * 65536 - LOG_BYTES_MAX} bytes more were not kept]\n".encode())


def test_a_file_that_cannot_be_executed_is_the_programs_own_failure(tmp_path: Path) -> None:
    script = tmp_path / "odd"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)

    async def start() -> tuple[int, str]:
        one = Program(read_command(str(script), tmp_path), tmp_path / INVENTORY, tmp_path / LOG)
        await one.start()
        try:
            return await one.ended()
        finally:
            await one.end()

    code, how = asyncio.run(start())
    assert code == 126
    assert "cannot be started: No such file" in how


def test_a_program_hears_nothing_of_standard_input_and_knows_its_inventory(tmp_path: Path) -> None:
    body = "import os, sys; print(repr(sys.stdin.read()), os.environ['RIDETHROUGH_INVENTORY'])"

    async def start() -> None:
        one = Program([PYTHON, "-c", body], tmp_path / INVENTORY, tmp_path / LOG)
        await one.start()
        await one.ended()
        await one.end()

    asyncio.run(start())
    assert (tmp_path / LOG).read_text() == f"'' {(tmp_path / INVENTORY).resolve()}\n"
    assert os.environ.get("RIDETHROUGH_INVENTORY") is None


# What the devices are told.


class Desk:
    """One device's registers, by point names."""

    def __init__(self, profile: str = "home-13kwh-5kw") -> None:
        self.plant = Plant([load_profile(profile)], soc_frac=0.6)
        self.told: list[Command] = []
        self.units = watched_units(self.plant, 0, self.told.append)

    def write(self, model: int, first: str, *words: int) -> int:
        image = self.units[1]
        address = image.layout.point(model, first).address
        return image.write(address, b"".join((word & 0xFFFF).to_bytes(2) for word in words))

    def last(self) -> Command:
        (one,) = self.told
        self.told.clear()
        return one

    def power(self) -> tuple[float, float]:
        one = self.last()
        assert one.outcome == "delivered"
        assert math.isnan(one.reserve_soc_frac)
        return round(one.power_w, 6), one.validity_s


def test_a_set_point_is_told_when_it_comes_into_force_renewed_and_taken_back() -> None:
    desk = Desk()
    assert desk.write(704, "WSetEnaRvrt", 0, 0, 90) == 0
    assert desk.told == []  # prepared, nothing in force
    assert desk.write(704, "WSetEna", 1, 1, 0, 2500) == 0
    assert desk.power() == (2500.0, 90.0)
    desk.plant.advance(50 * 30)
    assert desk.write(704, "WSetEnaRvrt", 0, 0, 60) == 0
    assert desk.power() == (2500.0, 60.0)  # its timer starts anew
    assert desk.write(704, "WSet", 0xFFFF, -1000) == 0
    assert desk.power() == (-1000.0, 60.0)
    assert desk.write(704, "WSetEna", 0) == 0
    assert desk.power() == (0.0, 0.0)
    assert desk.write(704, "WSetEna", 0) == 0
    assert desk.told == []


def test_a_set_point_without_a_timer_has_no_end() -> None:
    desk = Desk()
    desk.write(704, "WSetEna", 1, 1, 0, 700)
    assert desk.power() == (700.0, math.inf)


def test_a_reserve_is_told_each_time_it_is_written_since_writing_wears() -> None:
    desk = Desk()
    for _ in range(2):
        assert desk.write(802, "SoCRsvMin", 4000) == 0
        one = desk.last()
        assert math.isnan(one.power_w)
        assert (one.reserve_soc_frac, one.outcome) == (0.4, "delivered")


def test_what_is_refused_is_told_with_what_was_asked() -> None:
    desk = Desk()
    assert desk.write(802, "SoCRsvMin", 10_001) == 3
    one = desk.last()
    assert one.outcome == "refused"
    assert one.reserve_soc_frac == pytest.approx(1.0001)


def test_writes_that_are_no_commands_are_not_told() -> None:
    desk = Desk()
    assert desk.write(704, "WMaxLimPctEna", 1) == 0
    assert desk.write(802, "SoCRsvMin", 0xFFFF) == 0  # "not implemented": leaves it alone
    assert desk.write(713, "SoC", 5000) == 2
    assert desk.write(704, "WSet", 0) == 3  # half of it
    assert desk.told == []


def test_a_storage_window_is_told_where_it_forces_a_power() -> None:
    desk = Desk("home-11kwh-6kw-legacy")
    charge_w = float(desk.plant.params("power_w_charge_max")[0])
    desk.write(124, "InOutWRte_RvrtTms", 120)
    desk.write(124, "OutWRte", -5000)
    assert desk.told == []
    assert desk.write(124, "StorCtl_Mod", 2) == 0  # at most -50 %: charge with half the power
    assert desk.power() == (round(-0.5 * charge_w, 6), 120.0)
    desk.write(124, "OutWRte", 0)
    assert desk.power() == (0.0, 0.0)  # a limit, and no command any more
    desk.write(124, "InWRte", -2500)
    desk.write(124, "OutWRte", 10_000)
    desk.told.clear()
    desk.write(124, "StorCtl_Mod", 3)
    assert desk.power() == (round(0.25 * charge_w, 6), 120.0)
    desk.write(124, "StorCtl_Mod", 0)
    assert desk.power() == (0.0, 0.0)


# The inventory.


def test_an_inventory_says_what_the_pool_says_and_nothing_of_the_faults(tmp_path: Path) -> None:
    the_world = world({"at": "18:01", "fault": "grid.outage", "target": "all", "for": "1min"})
    plant = make_plant(the_world)
    pool = make_pool(the_world, plant)
    targets = [TcpTarget("127.0.0.1", 1502, 1)]
    made = inventory_of(the_world, pool, targets, speed=2.0, zero_unix_s=7.5)
    write_inventory(tmp_path / INVENTORY, made)
    text = (tmp_path / INVENTORY).read_text()
    assert Inventory.model_validate_json(text) == made
    (device,) = made.devices
    assert (device.target, device.unit, device.meter_unit) == ("tcp:127.0.0.1:1502/1", 1, 101)
    assert device.ratings.energy_wh == pool.capabilities.energy_wh[0]
    assert device.ratings.export_w_max == 5000.0
    assert device.ratings.import_w_max is None
    assert device.commitment.hours_h == 8.0
    assert (made.clock.start_of_day_s, made.clock.speed) == (18 * 3600.0, 2.0)
    assert len(made.prices.ahead_usd_per_mwh) * made.prices.step_s == 24 * 3600
    assert "outage" not in text
    assert "seed" not in text


def test_every_field_of_the_inventory_is_documented() -> None:
    page = (ROOT / "docs" / "external-controllers.md").read_text()
    schema = inventory_schema()
    parts = [schema, *schema["$defs"].values()]
    names = [name for part in parts for name in part["properties"]]
    assert len(names) > 40
    assert [name for name in names if f"`{name}`" not in page] == []


@pytest.mark.slow
def test_a_broker_that_is_not_there_is_one_plain_error(tmp_path: Path) -> None:
    """It once hung: a poll of the gateway that had lost its cancellation went on for ever."""
    command = [sys.executable, "-m", "ridethrough.hil.cli", "run", "one-home", "--level", "hil"]
    command += ["--mqtt", "mqtt://127.0.0.1:1", "--out", str(tmp_path / "r"), "--progress", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("ridethrough: mqtt://127.0.0.1:1: cannot be reached")


def test_a_program_over_mqtt_is_judged_from_the_truth(tmp_path: Path) -> None:
    example = ROOT / "controllers" / "examples" / "mqtt_careful.py"
    command = [sys.executable, "-m", "ridethrough.hil.cli", "run", "one-home", "--level", "hil"]
    command += ["--for", "2min", "--speed", "20", "--mqtt", "embedded", "--progress", "none"]
    command += ["--external", f"{sys.executable} {example}", "--out", str(tmp_path / "r"), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 3), done.stderr  # 3: this machine was late
    record = read_record(tmp_path / "r")
    sold = record.commands["power_w"][record.commands["outcome"] == OUTCOMES.index("delivered")]
    assert 1000.0 in sold
    assert "applied" in (tmp_path / "r" / "controller.log").read_text()
