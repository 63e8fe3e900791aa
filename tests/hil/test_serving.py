"""Many devices on the wire: a port each, or behind gateways."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.server import DEFAULT_LIMITS
from ridethrough.hil import serving
from ridethrough.hil.files import load_profile
from ridethrough.hil.serving import Served, Site, serve_site
from ridethrough.hil.wires import GATEWAY_DEVICES, Wire, gateway_doors, limits_of, own_doors

from tests.emulator.loops import either_loop, run

TARGET_SILENT = 0x0B
SERIAL_NUMBER = (40052, 16)
"""Where model 1 has it, and in how many registers."""


def profile() -> DeviceProfile:
    return load_profile("home-13kwh-5kw")


def site(devices: int) -> Site:
    plant = Plant([profile()] * devices)
    return Site(plant, tuple(f"home-{d}" for d in range(devices)), lambda now_ns: None)


async def with_served(
    the_site: Site, test: Callable[[list[Served]], Any], *, port: int = 0, gateway: bool = False
) -> None:
    """Serve a site, run a test on it, and stop as an interrupt would."""
    told: asyncio.Future[list[Served]] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_site(the_site, Wire(port=port, gateway=gateway), 20.0, told.set_result))
    try:
        await asyncio.wait((told, task), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        await test(told.result())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def read(port: int, unit: int, address: int, count: int) -> bytes:
    """Return what one request is answered, from the function code on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(bytes((0, 1, 0, 0, 0, 6, unit, 3)) + address.to_bytes(2) + count.to_bytes(2))
    header = await asyncio.wait_for(reader.readexactly(6), 20.0)
    body = await reader.readexactly(int.from_bytes(header[4:]))
    writer.close()
    await writer.wait_closed()
    return body[1:]


async def serial_number(port: int, unit: int) -> str:
    said = await read(port, unit, *SERIAL_NUMBER)
    assert said[0] == 3, said
    return said[2:].rstrip(b"\0").decode()


@pytest.mark.parametrize("devices", [1, 2, GATEWAY_DEVICES, GATEWAY_DEVICES + 1, 2 * GATEWAY_DEVICES + 54])
def test_gateways_hold_every_device_once_at_ids_that_modbus_has(devices: int) -> None:
    doors = list(gateway_doors(Plant([profile()] * devices)))
    assert [d for door in doors for d, _ in door.devices] == list(range(devices))
    assert len(doors) == -(-devices // GATEWAY_DEVICES)
    for door in doors:
        ids = [unit for _, pair in door.devices for unit in pair]
        assert len(set(ids)) == len(ids)
        assert set(ids) == set(door.units)
        assert all(1 <= unit <= 247 for unit in ids)
        assert all(meter == inverter + GATEWAY_DEVICES for _, (inverter, meter) in door.devices)


@pytest.mark.usefixtures(either_loop.__name__)
def test_units_behind_gateways_are_who_they_are_said_to_be() -> None:
    devices = GATEWAY_DEVICES + 3

    async def test(served: list[Served]) -> None:
        assert [one.name for one in served] == [f"home-{d}" for d in range(devices)]
        first, second = served[0].port, served[-1].port
        assert {one.port for one in served} == {first, second}
        for d in (0, 1, GATEWAY_DEVICES - 1, GATEWAY_DEVICES, devices - 1):
            inverter, meter = served[d].units
            assert served[d].target == f"tcp:127.0.0.1:{served[d].port}/{inverter}"
            assert await serial_number(served[d].port, inverter) == f"D{d:06d}"
            assert await serial_number(served[d].port, meter) == f"M{d:06d}"
        assert await read(second, 4, 40000, 2) == bytes((0x83, TARGET_SILENT))
        assert await read(second, GATEWAY_DEVICES, 40000, 2) == bytes((0x83, TARGET_SILENT))
        assert await read(first, 247, 40000, 2) == bytes((0x83, TARGET_SILENT))

    run(with_served(site(devices), test, gateway=True))


@pytest.mark.usefixtures(either_loop.__name__)
def test_each_device_has_a_port_of_its_own_and_lives() -> None:
    one_site = site(5)

    async def test(served: list[Served]) -> None:
        assert len({one.port for one in served}) == 5
        for d, one in enumerate(served):
            assert await serial_number(one.port, one.units[0]) == f"D{d:06d}"
            assert await serial_number(one.port, one.units[1]) == f"M{d:06d}"
        before = one_site.plant.elapsed_ticks
        async with asyncio.timeout(20.0):
            while one_site.plant.elapsed_ticks < before + 100:
                await asyncio.sleep(0.01)

    run(with_served(one_site, test))


@pytest.mark.parametrize(("port", "gateway", "last"), [(65_000, False, 65_599), (65_532, True, 65_537)])
def test_ports_beyond_the_last_are_refused(port: int, gateway: bool, last: int) -> None:
    with pytest.raises(ScenarioError, match=rf"--port {port}: 600 devices need ports up to {last}; allowed"):
        asyncio.run(serve_site(site(600), Wire(port=port, gateway=gateway), 1.0, lambda _: None))


def test_port_that_is_taken_is_named() -> None:
    async def test(served: list[Served]) -> None:
        with pytest.raises(ScenarioError, match=f"port {served[0].port} .*in use"):
            await serve_site(site(1), Wire(port=served[0].port), 1.0, lambda _: None)

    run(with_served(site(1), test))


def test_limits_are_the_profiles_where_it_has_them() -> None:
    plain = profile()
    narrow = plain.model_copy(
        update={"face": plain.face.model_copy(update={"connections_max": 1, "idle_timeout_s": 60.0})}
    )
    assert limits_of(plain) == DEFAULT_LIMITS
    assert limits_of(narrow) == replace(DEFAULT_LIMITS, connections_max=1, idle_timeout_s=60.0)
    doors = list(own_doors(Plant([plain, narrow])))
    assert [door.limits for door in doors] == [limits_of(plain), limits_of(narrow)]
    assert [door.devices for door in doors] == [((0, (1, 101)),), ((1, (1, 101)),)]


class Limited:
    """A system that grants few open files."""

    RLIMIT_NOFILE = resource.RLIMIT_NOFILE
    RLIM_INFINITY = resource.RLIM_INFINITY

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def getrlimit(self, which: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert limits[0] <= limits[1] or limits[1] == self.RLIM_INFINITY
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [
        (1024, 4096, 4096),
        (1024, resource.RLIM_INFINITY, 65_536),
        (100_000, 200_000, 100_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_as_many_sockets_are_asked_for_as_the_system_grants(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, after: int
) -> None:
    system = Limited(soft, hard)
    monkeypatch.setattr(serving, "resource", system)
    serving.make_room(1000)
    assert system.now == (after, hard)


def test_too_few_sockets_are_said_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "resource", Limited(256, 1024))
    serving.make_room(1024 - serving.OTHER_FILES)
    with pytest.raises(ScenarioError, match=r"1000 ports found.*1024 files.*--gateway.*ulimit -n"):
        serving.make_room(1000)
    monkeypatch.setattr(serving, "resource", None)
    serving.make_room(1000)


def test_loop_is_uvloops_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop, which is optional, is not installed")
    assert serving.loop_factory() is uvloop.new_event_loop
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert serving.loop_factory() is None


def test_serving_does_without_the_record_and_its_parquet() -> None:
    """It is a third of the command's memory, and as much of its start."""
    asked = "import sys, ridethrough.hil.cli; print([m for m in ('pyarrow', 'sunspec2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_serve_puts_a_scenario_behind_a_gateway() -> None:
    command = [sys.executable, "-m", "ridethrough.hil.cli", "serve", "pilot", "--gateway", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            served = json.loads(server.stdout.readline())
            assert len({one["port"] for one in served}) == 1
            assert [one["units"] for one in served] == [[k, k + 100] for k in range(1, len(served) + 1)]
            last = served[-1]
            assert asyncio.run(serial_number(last["port"], last["units"][0])) == f"D{len(served) - 1:06d}"
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(20.0) == 130
        said = server.stderr.read()
        assert "Traceback" not in said
        assert "comms.loss, does nothing here: it acts on the connection to a device" in said
        assert "ridethrough: control: bench pilot-" in said
