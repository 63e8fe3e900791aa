"""Modbus exchanges in virtual time beside those over real sockets: ``python -m tests.bench.virtual``.

Prints, asserts nothing about time.  Client and server share one process and one event loop; one exchange
reads 50 registers.  The variants are all alive for the whole run and are measured in turn, round after round,
so that a busy machine slows all of them; figures are medians over the rounds, ratios are taken within each
round.  CPU time is the process's own, kernel included.

- ``bare``: a protocol of a few lines that sends a fixed request; what is left is the loop, the network in
  memory and our server.
- ``ours``: the bench's own client (hil/modbus_link.py), which has pymodbus inside and looks at every frame.
- ``80 ms``: through a link with that delay there and back, and a second between two requests.

``--quick`` makes fewer and shorter rounds, ``--profile`` tells where the time of one variant goes.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import platform
import pstats
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, cast

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.server import TcpServer
from ridethrough.hil.files import load_profile
from ridethrough.hil.link import Admission, End, Parcel
from ridethrough.hil.modbus_link import Link
from ridethrough.hil.target import TcpTarget
from ridethrough.hil.virtual.loop import VirtualLoop

BASE: Final = 40_000
COUNT: Final = 50
DELAY_NS: Final = 40_000_000
PAIRS: Final = (1, 37)

REFERENCE: Final = "pymodbus to pymodbus, loopback"

Ask = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    round_s: float


FULL: Final = Size(rounds=15, round_s=0.25)
QUICK: Final = Size(rounds=3, round_s=0.05)


@dataclass
class Rate:
    """What one round has shown."""

    per_s: float
    cpu_us: float


class Delay:
    """A link that delays."""

    def __init__(self) -> None:
        self.up: Any = self
        self.down: Any = self

    def send(self, now_ns: int, data: bytes) -> Sequence[Parcel]:
        return (Parcel(now_ns + DELAY_NS, data),)

    def finish(self, now_ns: int, end: End) -> Sequence[Parcel]:
        return (Parcel(now_ns + DELAY_NS, b"", end),)

    def admit(self, now_ns: int) -> Admission:
        return "accept"

    def device(self, now_ns: int) -> int:
        return 0


class Bare(asyncio.Protocol):
    """Sends one request again and again."""

    request: Final = b"\0\1\0\0\0\6\1\3" + BASE.to_bytes(2) + COUNT.to_bytes(2)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._answered.set_result(data)

    def ask(self) -> Awaitable[bytes]:
        self._answered: asyncio.Future[bytes] = self._loop.create_future()
        self._transport.write(self.request)
        return self._answered


@dataclass
class Variant:
    """One way of exchanging, alive on a loop of its own.

    Attributes
    ----------
    pause_s : float
        Between two requests of one client [s].
    """

    name: str
    runner: asyncio.Runner
    asks: list[Ask]
    pause_s: float = 0.0
    exchanges: int = 64
    rates: list[Rate] = field(default_factory=list)

    async def _work(self) -> None:
        each = -(-self.exchanges // len(self.asks))

        async def client(ask: Ask) -> None:
            for _ in range(each):
                await ask()
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)

        await asyncio.gather(*map(client, self.asks))

    def measure(self) -> tuple[float, float]:
        """Exchange; return real and CPU time [s]."""
        real_s, cpu_s = time.perf_counter(), time.process_time()
        self.runner.run(self._work())
        return time.perf_counter() - real_s, time.process_time() - cpu_s

    def calibrate(self, round_s: float) -> None:
        """Choose the exchanges so that a round takes about `round_s`."""
        while self.measure()[0] < round_s and self.exchanges < 1 << 22:
            self.exchanges *= 2

    def round(self) -> None:
        """Measure once more."""
        real_s, cpu_s = self.measure()
        done = -(-self.exchanges // len(self.asks)) * len(self.asks)
        self.rates.append(Rate(done / real_s, cpu_s / done * 1e6))


async def serve_ours(ends: AsyncExitStack, pairs: int) -> list[int]:
    """Serve devices on the running loop; return their ports."""
    loop = asyncio.get_running_loop()
    plant = Plant([load_profile("home-13kwh-5kw")] * pairs, soc_frac=0.5)
    ports = []
    for d in range(pairs):
        server = await ends.enter_async_context(TcpServer(units_of(plant, d)))
        listener = await loop.create_server(server.accept, "127.0.0.1", 0)
        ends.callback(listener.close)
        ports.append(int(listener.sockets[0].getsockname()[1]))
    return ports


async def serve_pymodbus(ends: AsyncExitStack, pairs: int) -> list[int]:
    """Serve registers with pymodbus on the running loop; return the ports."""
    ports = []
    for _ in range(pairs):
        held = SimDevice(1, simdata=[SimData(BASE, values=[7] * 200, datatype=DataType.REGISTERS)])
        server = ModbusTcpServer(held, address=("127.0.0.1", 0))
        await server.serve_forever(background=True)
        ends.push_async_callback(server.shutdown)
        listener = server.transport
        assert isinstance(listener, asyncio.Server)
        ports.append(int(listener.sockets[0].getsockname()[1]))
    return ports


async def ask_pymodbus(ends: AsyncExitStack, port: int) -> Ask:
    """Return what makes one exchange by pymodbus's client."""
    client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=3, retries=0)
    ends.callback(client.close)
    if not await client.connect():
        raise ConnectionError(f"no connection to port {port}")

    async def ask() -> None:
        reply = await client.read_holding_registers(BASE, count=COUNT, device_id=1)
        assert len(reply.registers) == COUNT

    return ask


async def ask_ours(ends: AsyncExitStack, port: int) -> Ask:
    """Return what makes one exchange by the bench's own client."""
    link = Link(TcpTarget("127.0.0.1", port), 3.0)
    ends.push_async_callback(link.close)

    async def ask() -> None:
        assert len(await link.read(1, BASE, COUNT, "the model")) == COUNT

    return ask


async def ask_bare(ends: AsyncExitStack, port: int) -> Ask:
    """Return what makes one exchange with next to nothing at the client's end."""
    transport, protocol = await asyncio.get_running_loop().create_connection(Bare, "127.0.0.1", port)
    ends.callback(transport.close)
    return protocol.ask


Serve = Callable[[AsyncExitStack, int], Awaitable[list[int]]]
Connect = Callable[[AsyncExitStack, int], Awaitable[Ask]]


def start(
    stack: ExitStack, name: str, pairs: int, serve: Serve, connect: Connect, *, late: bool = False
) -> Variant:
    """Bring one variant to life; it ends with the stack."""
    real = name == REFERENCE
    runner = stack.enter_context(asyncio.Runner(loop_factory=None if real else VirtualLoop))

    ends = AsyncExitStack()
    stack.callback(lambda: runner.run(ends.aclose()))

    async def begin() -> list[Ask]:
        ports = await serve(ends, pairs)
        loop = asyncio.get_running_loop()
        if late and isinstance(loop, VirtualLoop):
            loop.network.weather = lambda client, server: Delay()
        return [await connect(ends, port) for port in ports]

    return Variant(name, runner, runner.run(begin()), pause_s=1.0 if late else 0.0)


def start_all(stack: ExitStack, pairs: int) -> list[Variant]:
    """Bring all variants to life; the first is the reference."""
    return [
        start(stack, REFERENCE, pairs, serve_pymodbus, ask_pymodbus),
        start(stack, "pymodbus to our server, virtual", pairs, serve_ours, ask_pymodbus),
        start(stack, "ours to our server, virtual", pairs, serve_ours, ask_ours),
        start(stack, "ours to our server, virtual, 80 ms", pairs, serve_ours, ask_ours, late=True),
        start(stack, "bare to our server, virtual", pairs, serve_ours, ask_bare),
        start(stack, "bare to our server, virtual, 80 ms", pairs, serve_ours, ask_bare, late=True),
    ]


def measure(variants: list[Variant], size: Size) -> None:
    """Measure all variants in turn."""
    for variant in variants:
        variant.calibrate(size.round_s)
    for _ in range(size.rounds):
        for variant in variants:
            variant.round()


def table(variants: list[Variant], pairs: int) -> str:
    """Return the medians, and the ratios to the first variant."""
    lines = [f"{pairs} pair{'s' if pairs > 1 else ''}: exchanges/s, CPU us per exchange, ratio of rates"]
    first = variants[0].rates
    for variant in variants:
        per_s = statistics.median(rate.per_s for rate in variant.rates)
        cpu_us = statistics.median(rate.cpu_us for rate in variant.rates)
        ratio = statistics.median(a.per_s / b.per_s for a, b in zip(variant.rates, first, strict=True))
        lines.append(f"  {variant.name:36s} {per_s:10,.0f} {cpu_us:8.1f} {ratio:7.2f}x")
    return "\n".join(lines)


def profile(variant: Variant, lines: int = 35) -> None:
    """Print where the time of one variant goes."""
    profiler = cProfile.Profile()
    profiler.runcall(variant.measure)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument(
        "--profile", metavar="PART", help="profile the variants whose names have this in them"
    )
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}")
    for pairs in PAIRS:
        with ExitStack() as stack:
            variants = start_all(stack, pairs)
            if options.profile is not None:
                for variant in variants:
                    if options.profile in variant.name:
                        variant.calibrate(FULL.round_s)
                        print(variant.name)
                        profile(variant)
                continue
            measure(variants, QUICK if options.quick else FULL)
            print(table(variants, pairs), flush=True)


if __name__ == "__main__":
    main()
