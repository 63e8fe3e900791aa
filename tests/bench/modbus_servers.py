"""Servers for the Modbus benchmark: each runs in a process of its own, which prints where it answers.

Run as ``python -m tests.bench.modbus_servers KIND LOOP [DEVICES]``.  The first line of standard output is
JSON: the ports, what it took to start, the process's memory.  It then serves until it is killed.

- ``device``: one live device on one port, the world moving at 1 Hz.
- ``ports``, ``gateway``: many live devices as ``ridethrough serve`` and ``serve --gateway`` serve them.
- ``pymodbus``: its TCP server with the registers of that one device, which stand still.

Only what a kind needs is imported, so that its memory is its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

PROFILE = "home-13kwh-5kw"
BASE = 40_000


def rss_mib(pid: int | str = "self") -> float:
    """Return the memory a process has resident [MiB]."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no memory: it has ended")


def say(ports: list[int], **facts: Any) -> None:
    print(json.dumps({"ports": ports, "rss_mib": rss_mib(), **facts}), flush=True)


async def device() -> None:
    """Serve one device to any number of clients."""
    from ridethrough.emulator.image import units_of
    from ridethrough.emulator.plant import Plant
    from ridethrough.emulator.server import Limits, serve_tcp
    from ridethrough.hil.files import load_profile

    plant = Plant([load_profile(PROFILE)])
    async with await serve_tcp(units_of(plant, 0), limits=Limits(connections_max=1024)) as server:
        say([server.port])
        while True:
            await asyncio.sleep(1.0)
            plant.advance(50)


async def fleet(devices: int, gateway: bool) -> None:
    """Serve many devices as the command does."""
    from ridethrough.emulator.plant import Plant
    from ridethrough.hil.files import load_profile
    from ridethrough.hil.serving import Served, Site, serve_site
    from ridethrough.hil.wires import Wire

    def ready(served: list[Served]) -> None:
        say(
            sorted({one.port for one in served}),
            start_s=time.perf_counter() - began_s,
            units=[(one.port, unit) for one in served for unit in one.units] if gateway else [],
        )

    began_s = time.perf_counter()
    plant = Plant([load_profile(PROFILE)] * devices)
    plant.set_input("load_w", 900.0)
    site = Site(plant, tuple(f"home-{d}" for d in range(devices)), lambda now_ns: None)
    await serve_site(site, Wire(gateway=gateway), 1.0, ready)


async def pymodbus(image: str) -> None:
    """Serve the registers in a file with pymodbus."""
    from pymodbus.server import ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    cells = Path(image).read_bytes()
    values = [int.from_bytes(cells[k : k + 2]) for k in range(0, len(cells), 2)]
    held = SimDevice(1, simdata=[SimData(BASE, values=values, datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(held, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    listener = server.transport
    assert isinstance(listener, asyncio.Server)
    say([int(listener.sockets[0].getsockname()[1])])
    await asyncio.Event().wait()


def main(kind: str, loop: str, argument: str = "") -> None:
    """Serve for ever."""
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        if kind == "device":
            runner.run(device())
        elif kind == "pymodbus":
            runner.run(pymodbus(argument))
        else:
            runner.run(fleet(int(argument), gateway=kind == "gateway"))


if __name__ == "__main__":
    main(*sys.argv[1:])
