"""What the tests of MQTT share: brokers that can be restarted, a fleet that counts, a client that listens."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from ridethrough.hil.mqtt.address import Address
from ridethrough.hil.mqtt.broker import User, embedded_broker
from ridethrough.hil.mqtt.fleet import HookedFleet, Outcome, unix_ms
from ridethrough.hil.mqtt.gateway import Gateway, GatewaySettings
from ridethrough.hil.mqtt.payloads import DeviceInfo

HOST = "127.0.0.1"
NAMES = ("home-01", "home-02")
KINDS = ("amqtt", "mosquitto")
SOON: Any = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass
class Service:
    """A broker that can be stopped and started again on its port."""

    kind: str
    folder: Path
    users: dict[str, User] = field(default_factory=dict)
    certificate: Path | None = None
    key: Path | None = None
    port: int = 0
    _stack: AsyncExitStack | None = None
    _process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.port = self.port or free_port()
        if self.kind == "amqtt":
            self._stack = AsyncExitStack()
            await self._stack.enter_async_context(
                embedded_broker(HOST, self.port, users=self.users, certificate=self.certificate, key=self.key)
            )
            return
        assert MOSQUITTO is not None
        lines = [
            f"listener {self.port} {HOST}",
            "set_tcp_nodelay true",
            f"allow_anonymous {'false' if self.users else 'true'}",
        ]
        if self.users:
            passwords = self.folder / "passwords"
            passwords.write_text("".join(f"{name}:{user.password}\n" for name, user in self.users.items()))
            passwords.chmod(0o600)
            subprocess.run([_beside("mosquitto_passwd"), "-U", str(passwords)], check=True)
            lines.append(f"password_file {passwords}")
        if self.certificate is not None:
            lines += [f"certfile {self.certificate}", f"keyfile {self.key}"]
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join([*lines, "user root", ""]))
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self.port)) == 0:
                    return
            await asyncio.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    async def stop(self) -> None:
        if self._stack is not None:
            await self._stack.aclose()
            self._stack = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def address(self) -> Address:
        return Address(HOST, self.port)


def _beside(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} belongs to mosquitto"
    return found


def needs(kind: str) -> None:
    if kind == "mosquitto" and MOSQUITTO is None:
        pytest.skip("the broker mosquitto is not installed")


@asynccontextmanager
async def service(kind: str, folder: Path, **given: Any) -> AsyncIterator[Service]:
    needs(kind)
    broker = Service(kind, folder, **given)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


@dataclass
class CountingFleet:
    """Devices that count what they are told, and can be slow or stubborn."""

    applied: list[tuple[int, float | None, float | None, float | None]] = field(default_factory=list)
    delay_s: float = 0.0
    outcome: Outcome | None = None
    gate: asyncio.Event | None = None

    def __post_init__(self) -> None:
        self.fleet = HookedFleet("pool", [device(name) for name in NAMES], self._give, poll_s=1.0)

    async def _give(
        self, d: int, power_w: float | None, validity_s: float | None, reserve_frac: float | None
    ) -> Outcome:
        self.applied.append((d, power_w, validity_s, reserve_frac))
        await asyncio.sleep(self.delay_s)
        if self.gate is not None:
            await self.gate.wait()
        return self.outcome or Outcome("applied", "", power_w, reserve_frac)

    @property
    def powers(self) -> list[float | None]:
        return [power_w for _, power_w, _, _ in self.applied]

    def report(self, d: int = 0, age_s: float = 0.0, **changes: Any) -> None:
        values = {"soc_frac": 0.5, "power_w": 100.0, "import_w": 800.0, "grid_good": 1.0, "is_old": False}
        self.fleet.report(d, age_s, **{**values, **changes})


def device(name: str) -> DeviceInfo:
    return DeviceInfo(
        name=name,
        model="test",
        energy_wh=13_000.0,
        power_w_charge_max=5000.0,
        power_w_discharge_max=5000.0,
        soc_frac_min=0.05,
        soc_frac_max=1.0,
        has_reserve=True,
        backup_hours_h=8.0,
        backup_load_w=900.0,
    )


@asynccontextmanager
async def gateway(
    fleet: CountingFleet, address: Address, **settings: Any
) -> AsyncIterator[tuple[Gateway, asyncio.Event]]:
    """Run a gateway while the block lasts."""
    made = Gateway(fleet.fleet, GatewaySettings(address, **settings))
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(made.run(stop, ready.set))
    waits = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waits}, return_when=asyncio.FIRST_COMPLETED, timeout=10.0)
    waits.cancel()
    if task.done():
        task.result()
    assert ready.is_set(), "the gateway did not get ready"
    try:
        yield made, stop
    finally:
        stop.set()
        await task


class Ear:
    """A client that publishes, and keeps what it hears."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.heard: list[aiomqtt.Message] = []
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self.client.messages:
            self.heard.append(message)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def on(self, ending: str) -> list[aiomqtt.Message]:
        return [message for message in self.heard if str(message.topic).endswith(ending)]

    def json(self, ending: str) -> list[dict[str, Any]]:
        return [json.loads(_bytes(message)) for message in self.on(ending)]

    async def until(self, ending: str, count: int = 1, seconds: float = 5.0) -> list[dict[str, Any]]:
        """Wait for as many messages and return them."""
        await settled(lambda: len(self.on(ending)) >= count, seconds, f"{count} of {ending}: {self.heard}")
        return self.json(ending)

    async def command(self, d: int = 0, **changes: Any) -> None:
        payload = json.dumps(order(**changes))
        await self.client.publish(f"bench/v1/pool/{NAMES[d]}/cmd", payload, qos=1)


def _bytes(message: aiomqtt.Message) -> bytes:
    assert isinstance(message.payload, bytes)
    return message.payload


async def settled(holds: Any, seconds: float = 5.0, what: str = "it") -> None:
    end_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_s, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)


def order(**changes: Any) -> dict[str, Any]:
    """Return a sound command, changed."""
    sound = {"id": "c-1", "issued_ms": unix_ms(), "power_w": 1000.0, "validity_s": 60.0}
    return {name: value for name, value in {**sound, **changes}.items() if value is not ...}


@asynccontextmanager
async def ear(address: Address, topics: str = "bench/#", **given: Any) -> AsyncIterator[Ear]:
    async with aiomqtt.Client(address.host, address.port, socket_options=SOON, **given) as client:
        await client.subscribe(topics, qos=1)
        made = Ear(client)
        try:
            yield made
        finally:
            await made.close()
