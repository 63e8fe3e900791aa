"""What one read of 50 registers costs a Modbus TCP server: ours beside pymodbus's.

Run as ``python -m tests.bench.modbus``.  Each server has a process of its own; CPU time is that process's,
kernel included, from its own clock.  Rounds of both servers alternate in one run, and the medians are
printed: on a shared machine CPU time per request and the ratio are what to trust, not the rate.  Both serve
600 constant registers, so the cost is the server's, not that of a device behind it.  It measures; it
asserts nothing.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import statistics
import threading
import time
from multiprocessing.connection import Connection as Pipe

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from ridethrough.emulator.server import serve_tcp

REGISTERS = 600
COUNT = 50
REQUEST = bytes.fromhex("0001 0000 0006 01 03 0064 0032")
REPLY_SIZE = 9 + 2 * COUNT
ROUNDS = 9
ROUND_S = 0.25
CONNECTIONS = (1, 16)


class Constant:
    """A unit of constant registers."""

    cells = bytes(2 * REGISTERS)

    def read(self, address: int, count: int) -> bytes | int:
        return self.cells[2 * address : 2 * (address + count)] if address + count <= REGISTERS else 2

    def write(self, address: int, data: bytes) -> int:
        return 2


async def start_ours() -> int:
    server = await serve_tcp({1: Constant()})
    return server.port


async def start_pymodbus() -> int:
    device = SimDevice(1, simdata=[SimData(0, count=REGISTERS, values=0, datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(device, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    listener = server.transport
    assert isinstance(listener, asyncio.Server)
    return int(listener.sockets[0].getsockname()[1])


STARTERS = {"ridethrough": start_ours, "pymodbus": start_pymodbus}


def serve(name: str, pipe: Pipe) -> None:
    """Serve for ever; tell the port, then the CPU time [s] whenever asked.  Body of a daemon process."""

    def answer() -> None:
        while pipe.recv():
            pipe.send(time.process_time())

    async def main() -> None:
        pipe.send(await STARTERS[name]())
        threading.Thread(target=answer, daemon=True).start()
        await asyncio.Event().wait()

    asyncio.run(main())


def read_reply(client: socket.socket) -> None:
    missing = REPLY_SIZE
    while missing:
        got = len(client.recv(missing))
        if got == 0:
            raise SystemExit("a server closed the connection")
        missing -= got


def measure(pipe: Pipe, clients: list[socket.socket]) -> tuple[float, float]:
    """Return CPU time per request [µs] and requests per second, of one round."""
    pipe.send(True)
    cpu_s = -pipe.recv()
    began_s = time.perf_counter()
    asked = 0
    while time.perf_counter() - began_s < ROUND_S:
        for client in clients:
            client.sendall(REQUEST)
        for client in clients:
            read_reply(client)
        asked += len(clients)
    took_s = time.perf_counter() - began_s
    pipe.send(True)
    cpu_s += pipe.recv()
    return 1e6 * cpu_s / asked, asked / took_s


def main() -> None:
    """Measure and print."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Pipe] = {}
    ports: dict[str, int] = {}
    for name in STARTERS:
        pipes[name], far = context.Pipe()
        context.Process(target=serve, args=(name, far), daemon=True).start()
        ports[name] = pipes[name].recv()
    print(f"FC3 of {COUNT} registers, {ROUNDS} interleaved rounds of {ROUND_S} s, medians")
    for connections in CONNECTIONS:
        clients = {
            name: [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
            for name, port in ports.items()
        }
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTERS}
        for _ in range(ROUNDS):
            for name in STARTERS:
                rounds[name].append(measure(pipes[name], clients[name]))
        cpu_us = {name: statistics.median(cpu for cpu, _ in rounds[name]) for name in STARTERS}
        for name in STARTERS:
            rate = statistics.median(rate for _, rate in rounds[name])
            print(f"{connections:3} connections  {name:12} {cpu_us[name]:6.1f} µs CPU {rate:8.0f} requests/s")
        ratio = cpu_us["pymodbus"] / cpu_us["ridethrough"]
        print(f"{connections:3} connections  pymodbus / ridethrough {ratio:.1f}")
        for client in [client for group in clients.values() for client in group]:
            client.close()
    for pipe in pipes.values():
        pipe.send(False)


if __name__ == "__main__":
    main()
