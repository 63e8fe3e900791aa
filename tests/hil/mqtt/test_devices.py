"""The gateway before real Modbus devices, and the example controller behind it."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.server import TcpServer, serve_tcp
from ridethrough.hil.assembly import make_plant, make_pool
from ridethrough.hil.device import Device
from ridethrough.hil.files import load_profile, scenario_from_dict
from ridethrough.hil.mqtt.address import Address
from ridethrough.hil.mqtt.fleet import infos_of
from ridethrough.hil.mqtt.gateway import GatewaySettings
from ridethrough.hil.mqtt.serve import broker_at, serve_devices
from ridethrough.hil.world import build_world

from tests.hil.mqtt.rig import HOST, NAMES, device, ear, settled

EXAMPLE = Path(__file__).resolve().parents[3] / "controllers" / "examples" / "mqtt_careful.py"
POLL_S = 0.2


async def live(plant: Plant) -> None:
    while True:  # a device whose heart stands still has only old readings
        plant.advance(TICKS_PER_S)
        await asyncio.sleep(0.1)


@asynccontextmanager
async def site(
    stop: asyncio.Event, port: int = 0
) -> AsyncIterator[tuple[Plant, Address, list[TcpServer], asyncio.Task[None]]]:
    """Serve two homes over Modbus, and both over MQTT."""
    plant = Plant([load_profile("home-13kwh-5kw"), load_profile("home-11kwh-6kw-legacy")], soc_frac=0.9)
    promises = {NAMES[0]: (8.0, 900.0)}
    plant.set_input("load_w", 500.0)
    plant.advance(TICKS_PER_S)
    servers = [await serve_tcp(units_of(plant, d)) for d in range(2)]
    targets = {
        name: Device(f"tcp:{HOST}:{server.port}/1", timeout_s=0.5)
        for name, server in zip(NAMES, servers, strict=True)
    }
    ready = asyncio.Event()
    async with broker_at(None, port) as address:
        settings = GatewaySettings(address)
        task = asyncio.create_task(
            serve_devices("pool", targets, settings, stop, poll_s=POLL_S, promises=promises, ready=ready.set)
        )
        await settled(lambda: ready.is_set() or task.done())
        world = asyncio.create_task(live(plant))
        try:
            yield plant, address, servers, task
        finally:
            stop.set()
            world.cancel()
            await task
            for server in servers:
                await server.close()


def test_a_command_over_mqtt_moves_a_device_behind_modbus() -> None:
    async def play() -> None:
        async with site(asyncio.Event()) as (plant, address, _, _), ear(address) as heard:
            states = await heard.until("home-01/state")
            assert states[0]["values"]["713.SoC"] == pytest.approx(90.0, abs=0.5)
            assert states[0]["values"]["203.W"] == pytest.approx(500.0, abs=30.0)
            (info,) = await heard.until("pool/info")
            assert [d["power_w_discharge_max"] for d in info["devices"]] == [5000.0, 5776.0]
            assert [d["has_reserve"] for d in info["devices"]] == [True, False]
            assert [d["backup_hours_h"] for d in info["devices"]] == [8.0, None]
            for d, reserve in enumerate((0.25, ...)):
                await heard.command(d, id=f"c{d}", power_w=1500.0, reserve_soc_frac=reserve)
                (ack,) = await heard.until(f"{NAMES[d]}/ack")
                assert (ack["outcome"], ack.get("reserve_soc_frac", ...)) == ("applied", reserve), ack
                assert ack["power_w"] == pytest.approx(1500.0, abs=60.0)
            plant.advance(20 * TICKS_PER_S)
            heard.heard.clear()
            for name in NAMES:
                state = (await heard.until(f"{name}/state", 2))[-1]
                assert state["values"]["701.W"] == pytest.approx(1500.0, abs=60.0)
            await heard.command(0, id="too much", power_w=1e6)
            await heard.command(0, id="too-much", power_w=1e6)
            acks = await heard.until("home-01/ack", 2)
            assert [ack["reason"] for ack in acks] == ["invalid", "device"]
            assert "the ratings" in acks[1]["text"]

    asyncio.run(play())


def test_a_device_that_is_gone_is_said_and_a_command_to_it_is_lost() -> None:
    async def play() -> None:
        async with site(asyncio.Event()) as (_, address, servers, _), ear(address) as heard:
            await heard.until("home-01/state")
            await servers[0].close()
            (event,) = await heard.until("home-01/event")
            assert event["kind"] == "silent"
            await heard.command(0, id="c")
            (ack,) = await heard.until("home-01/ack")
            assert (ack["outcome"], ack["reason"]) == ("lost", "no-answer")
            assert heard.on("home-01/status")[-1].payload == b"offline"
            heard.heard.clear()
            await heard.until("home-02/state")  # the others go on

    asyncio.run(play())


def test_the_example_commands_every_home_and_is_answered() -> None:
    async def play() -> None:
        stop = asyncio.Event()
        async with site(stop) as (_, address, _, _):
            command = [sys.executable, str(EXAMPLE), f"{HOST}:{address.port}", "pool"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as example:
                try:
                    async with ear(address) as heard:
                        for name in NAMES:
                            acks = await heard.until(f"{name}/ack", 3, 15.0)
                            # On a machine that is late a command may be too: it is then refused, and says so.
                            assert "applied" in {ack["outcome"] for ack in acks}
                            assert {ack.get("reason") for ack in acks} <= {None, "expired", "overtaken"}
                finally:
                    example.terminate()
                    said = example.communicate()[0]
        assert "home-01" in said
        assert "applied" in said

    asyncio.run(play())


def test_a_bench_tells_over_mqtt_what_it_tells_in_python() -> None:
    document = {
        "name": "x",
        "start": "12:00",
        "duration": "1h",
        "pool": [
            {
                "device": "home-13kwh-5kw",
                "count": 2,
                "commitment": {"hours": 3, "load_w": 700},
                "load": "synthetic-home",
            }
        ],
        "prices": {"constant": 50},
    }
    world = build_world(scenario_from_dict(document))
    pool = make_pool(world, make_plant(world))
    told = infos_of(pool, [profile.profile for profile in world.profiles])
    assert tuple(info.name for info in told) == pool.names
    assert [info.backup_hours_h for info in told] == [3.0, 3.0]
    assert [info.energy_wh for info in told] == pool.capabilities.energy_wh.tolist()


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mqtt_careful", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_is_short_keeps_the_reserve_and_needs_nothing_of_ours() -> None:
    text = EXAMPLE.read_text()
    assert text.count("\n") < 100
    assert "ridethrough." not in text
    assert ast.get_docstring(ast.parse(text))
    module = example()
    home = device("home").model_dump()
    reserve = 0.05 + 8 * 900 / 0.9 / 13_000 + 0.05
    assert module.reserve_frac(home) == pytest.approx(reserve)
    assert module.wanted_w(home, reserve) == -2000.0
    assert module.wanted_w(home, reserve + 0.1) == 0.0
    assert module.wanted_w(home, reserve + 0.2) == 1000.0
    unknown = {**home, "backup_hours_h": None}
    assert module.wanted_w(unknown, 0.99) == 0.0
    assert module.wanted_w(unknown, 0.5) == -2000.0
