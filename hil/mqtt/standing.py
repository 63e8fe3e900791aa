"""The gateway of a bench: between MQTT and the devices that the bench serves.

Rules of this file: nothing of MQTT is loaded before somebody asks for it.  The gateway is a client like any
other: it reaches the devices by the same ports, so that the network's faults act on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..device import Device
from ..world import World

if TYPE_CHECKING:
    from .address import Address

EXPIRY_S: Final = 30.0
"""How long a command lives that does not say so itself, in bench time [s]."""


@dataclass(frozen=True, slots=True)
class Mqtt:
    """How a controller reaches the devices over MQTT.

    Attributes
    ----------
    address : Address or None
        Of a broker; None embeds one.
    port : int
        Of the embedded broker; 0 picks a free one.
    home_assistant : bool
        Announce the devices to Home Assistant.
    opened : callable, optional
        Called with the broker's address when commands are listened to.
    """

    address: Address | None = None
    port: int = 0
    home_assistant: bool = False
    opened: Callable[[Address], None] | None = None


@asynccontextmanager
async def standing_gateway(
    world: World,
    targets: Mapping[str, str],
    mqtt: Mqtt,
    *,
    speed: float,
    timeout_s: float,
    over: Callable[[], None],
) -> AsyncIterator[Address]:
    """Stand between MQTT and the devices while the block lasts; gives the broker's address.

    Parameters
    ----------
    world : World
    targets : mapping of str to str
        Where each device is reached, by its name.
    mqtt : Mqtt
    speed : float
        Bench seconds per real second.
    timeout_s : float
        A connect and an answer of a device may take this long each [s].
    over : callable
        Called when the gateway has ended before the block: without it nobody commands the devices.

    Raises
    ------
    TargetError
        A device does not answer at the start.
    BrokerError
        The broker refuses us, or was never reached.
    ScenarioError
        A name that cannot be a topic, or the embedded broker is not installed or has no port.
    """
    from .gateway import GatewaySettings
    from .serve import broker_at, serve_devices

    devices = {name: Device(target, timeout_s=timeout_s, reread=False) for name, target in targets.items()}
    hours_h, load_w = world.commitments.hours_h.tolist(), world.commitments.load_w.tolist()
    promises = dict(zip(world.names, zip(hours_h, load_w, strict=True), strict=True))
    stop, ready = asyncio.Event(), asyncio.Event()
    async with broker_at(mqtt.address, mqtt.port) as address:
        # Times in messages are real time: what is to live for half a minute of the bench lives shorter.
        settings = GatewaySettings(address, expiry_s=EXPIRY_S / speed, home_assistant=mqtt.home_assistant)
        gateway = asyncio.create_task(
            serve_devices(
                world.scenario_name,
                devices,
                settings,
                stop,
                poll_s=world.poll_ns / 1e9 / speed,
                speed=speed,
                promises=promises,
                ready=ready.set,
            )
        )

        def ended(task: asyncio.Task[None]) -> None:
            ready.set()
            over()

        gateway.add_done_callback(ended)
        try:
            await ready.wait()
            if not gateway.done():
                if mqtt.opened is not None:
                    mqtt.opened(address)
                yield address
        finally:
            stop.set()
            await gateway
