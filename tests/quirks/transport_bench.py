"""Servers with transport quirks on real sockets and virtual time; a bare client, and homes for our own."""

from __future__ import annotations

import asyncio
import selectors
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.quirks.knobs import Quirk, Quirks, combine
from ridethrough.emulator.quirks.transport import serve_quirky
from ridethrough.emulator.quirks.unit import quirky_units
from ridethrough.emulator.server import DEFAULT_LIMITS, Limits, TcpServer
from ridethrough.hil.device import Device

from tests.emulator.modbus_rows import Memory
from tests.emulator.test_modbus_stalls import JumpingSelector
from tests.quirks.wire import bundled, made

if TYPE_CHECKING:
    from ridethrough.emulator._modbus import Unit

Result = TypeVar("Result")

SILENCE, CLOSED, RESET, REFUSED = "silence", "closed", "reset", "refused"
PATIENCE_S = 30.0


class QuickSelector(JumpingSelector):
    """Waits little for sockets before it jumps: both ends of each are in this process."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None and timeout > 0:
            ready = selectors.SelectSelector.select(self, 0.002)
            self.now_s += 0.0 if ready else timeout
        return ready


class QuickLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.quick = QuickSelector()
        super().__init__(self.quick)

    def time(self) -> float:
        return self.quick.now_s


def generator(seed: int = 5) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def knobs(**transport: Any) -> Quirk:
    """Return a quirk of transport alone."""
    return made(transport=transport)


def frame(transaction: int, pdu: bytes, unit: int = 1) -> bytes:
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


def read(address: int, count: int) -> bytes:
    return struct.pack(">BHH", 3, address, count)


def write(address: int, *words: int) -> bytes:
    return struct.pack(f">BHHB{len(words)}H", 16, address, len(words), 2 * len(words), *words)


def cells(address: int, count: int) -> bytes:
    """Return the answer to a read of `Memory` as it was."""
    return bytes((3, 2 * count)) + struct.pack(
        f">{count}H", *range(0x1000 + address, 0x1000 + address + count)
    )


class Client:
    """One connection; every request has the next transaction id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.transaction = 0

    def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)

    def send(self, *pdus: bytes, unit: int = 1) -> None:
        """Send requests in one piece."""
        frames = []
        for pdu in pdus:
            self.transaction += 1
            frames.append(frame(self.transaction, pdu, unit))
        self._writer.write(b"".join(frames))

    async def receive(self, wait_s: float = PATIENCE_S) -> bytes | str:
        """Return the next frame, or what came in its place."""
        return await self._until(self._frame(), wait_s)

    async def some(self, wait_s: float = PATIENCE_S) -> bytes | str:
        """Return the bytes that come next, as they come."""
        data = await self._until(self._reader.read(4096), wait_s)
        return data or CLOSED

    async def ask(self, pdu: bytes, unit: int = 1, wait_s: float = PATIENCE_S) -> bytes | str:
        """Return the body of the answer to a request, or what came in its place."""
        self.send(pdu, unit=unit)
        found = await self.receive(wait_s)
        if isinstance(found, str):
            return found
        assert (found[:2], found[6]) == (self.transaction.to_bytes(2), unit)
        return found[7:]

    async def _frame(self) -> bytes:
        head = await self._reader.readexactly(6)
        return head + await self._reader.readexactly(int.from_bytes(head[4:]))

    async def _until(self, coming: Awaitable[bytes], wait_s: float) -> bytes | str:
        try:
            return await asyncio.wait_for(coming, wait_s)
        except TimeoutError:
            return SILENCE
        except asyncio.IncompleteReadError:
            return CLOSED
        except ConnectionError:
            return RESET

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return  # it was reset


@asynccontextmanager
async def dialled(server: TcpServer) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(server.host, server.port))
    try:
        yield client
    finally:
        await client.close()


async def visit(server: TcpServer) -> bytes | str:
    """Connect, ask once, and close; returns the answer or what came in its place."""
    try:
        async with dialled(server) as client:
            return await client.ask(read(5, 1))
    except ConnectionRefusedError:
        return REFUSED


async def quiet(seconds: float) -> None:
    """Let sockets settle, then time pass."""
    await asyncio.sleep(seconds)


Scenario = Callable[[TcpServer], Awaitable[Result]]


def seen(
    scenario: Scenario[Result],
    *quirks: str | Quirk,
    units: Mapping[int, Unit] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    speed: float = 1.0,
    seed: int = 5,
) -> Result:
    """Return what a scenario sees of a server with these quirks."""
    found = combine([bundled(quirk) if isinstance(quirk, str) else quirk for quirk in quirks])

    async def main() -> Result:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        served = {1: Memory()} if units is None else units
        async with await serve_quirky(
            served, quirks=found, rng=generator(seed), limits=limits, speed=speed
        ) as server:
            result = await scenario(server)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks were left behind"
        assert not complaints, complaints
        return result

    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(main())


class Home:
    """A device that lives while the loop's time passes, as many bench seconds, behind its quirks.

    Attributes
    ----------
    plant : Plant
    units : dict of int to QuirkyUnit
    unit : int
        Unit id of the inverter.
    others : list of int
        Other unit ids, where there are few.
    """

    def __init__(self, profile: DeviceProfile, quirks: Quirks, *, seed: int = 5) -> None:
        self.plant = Plant([profile], soc_frac=0.6)
        self.plant.set_input("load_w", 500.0)
        self._quirks, self._rng = quirks, generator(seed)
        self.units = quirky_units(self.plant, 0, quirks, self._rng, start_of_day_s=12 * 3600)
        self.unit = 1 if 1 in self.units else min(self.units)
        self.others = [number for number in sorted(self.units) if number != self.unit][:1]
        self.server: TcpServer
        self.step(1)

    @property
    def power_w(self) -> float:
        return float(self.plant.states("power_w")[0])

    def step(self, seconds: int) -> None:
        for _ in range(seconds):
            self.plant.advance(TICKS_PER_S)
            for unit in self.units.values():
                unit.step()

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.step(1)

    async def __aenter__(self) -> Home:
        self.server = await serve_quirky(self.units, quirks=self._quirks, rng=self._rng)
        self._life = asyncio.create_task(self._live())
        return self

    def stop(self) -> None:
        """Let time pass without the device."""
        self._life.cancel()

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await self.server.close()

    def device(self, timeout_s: float = 10.0) -> Device:
        """Return our client, which knows the unit ids."""
        target = f"tcp:{self.server.host}:{self.server.port}/{self.unit}"
        return Device(target, timeout_s, meter_units=self.others)


def at_home(
    main: Callable[[Home], Awaitable[Result]], profile: DeviceProfile, quirks: Quirks, *, seed: int = 5
) -> Result:
    """Return what is found out at a home whose time is the loop's own."""

    async def test() -> Result:
        async with Home(profile, quirks, seed=seed) as home:
            return await main(home)

    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(test())
