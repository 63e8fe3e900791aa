"""The gateway of devices that answer at their own addresses, with a broker inside or elsewhere.

Rules of this file: it only puts together what the files beside it do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from ..device import Device
from .address import Address
from .device_fleet import DeviceFleet, Promises
from .gateway import GatewaySettings, run_gateway


async def serve_devices(
    pool: str,
    devices: Mapping[str, Device],
    settings: GatewaySettings,
    stop: asyncio.Event,
    *,
    poll_s: float,
    speed: float = 1.0,
    promises: Promises | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Read and command devices for a broker until `stop` is set.

    Parameters
    ----------
    pool : str
        Its name in the topics.
    devices : mapping of str to Device
        By name; not entered yet.
    settings : GatewaySettings
    stop : asyncio.Event
    poll_s : float
        Each is read this often [s].
    speed : float
        Seconds of the devices' time in one second.
    promises : mapping, optional
        By a device's name the hours of backup [h] and the load [W] that its home was promised.
    ready : callable, optional
        Called once, when commands are listened to.

    Raises
    ------
    TargetError
        A device does not answer at the start.
    BrokerError
        The broker refuses us, or was never reached.
    ScenarioError
        A name that cannot be a topic.
    """
    async with AsyncExitStack() as stack:
        entered = [await stack.enter_async_context(device) for device in devices.values()]
        fleet = DeviceFleet(pool, list(devices), entered, poll_s=poll_s, speed=speed, promises=promises)
        await fleet.discover()
        polls = asyncio.create_task(fleet.poll())
        try:
            await run_gateway(fleet, settings, stop, ready)
        finally:
            polls.cancel()
            await asyncio.gather(polls, return_exceptions=True)


@asynccontextmanager
async def broker_at(address: Address | None, port: int = 0) -> AsyncIterator[Address]:
    """Give a broker's address: the one given, or that of a broker of our own that lives as long as the block.

    Raises
    ------
    ScenarioError
        The embedded broker is not installed, or its port is taken.
    """
    if address is not None:
        yield address
        return
    from .broker import embedded_broker  # only those who embed one need it installed

    async with embedded_broker(port=port) as found:
        yield Address("127.0.0.1", found)
