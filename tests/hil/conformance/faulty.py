"""Devices with one defect each, and a subject whose time is the plant's own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ridethrough.emulator._modbus import Connection
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant
from ridethrough.hil.conformance.subject import Subject
from ridethrough.hil.files import load_profile
from ridethrough.hil.target import Target, TcpTarget, TlsTarget

HOME = "home-13kwh-5kw"
TIMEOUT_S = 1.0


class Unit:
    """A unit that does everything right; defects override `read`, `write` and `step`."""

    def __init__(self, inner: DeviceImage, plant: Plant) -> None:
        self.inner = inner
        self.plant = plant
        self.layout = inner.layout

    def read(self, address: int, count: int) -> bytes | int:
        return self.inner.read(address, count)

    def write(self, address: int, data: bytes) -> int:
        return self.inner.write(address, data)

    def step(self) -> None:
        """Be called after each advance of the plant."""

    @property
    def now_s(self) -> float:
        return self.plant.elapsed_ticks / TICKS_PER_S

    def at(self, name: str) -> int:
        """Return the address of a point such as ``704.WSet``."""
        model, _, inner = name.partition(".")
        return self.layout.point(int(model), inner).address

    def size(self, name: str) -> int:
        model, _, inner = name.partition(".")
        return self.layout.point(int(model), inner).size

    def number(self, name: str) -> int:
        """Return what the healthy device holds, unsigned."""
        data = self.inner.read(self.at(name), self.size(name))
        assert isinstance(data, bytes)
        return int.from_bytes(data)

    def put(self, name: str, number: int) -> int:
        """Write to the healthy device."""
        return self.inner.write(
            self.at(name), (number % (1 << 16 * self.size(name))).to_bytes(2 * self.size(name))
        )

    def wrote(self, name: str, address: int, data: bytes) -> int | None:
        """Return what a write says to a point, unsigned; None when it does not touch it."""
        first = 2 * (self.at(name) - address)
        part = data[first : first + 2 * self.size(name)] if first >= 0 else b""
        return int.from_bytes(part) if len(part) == 2 * self.size(name) else None


Make = Callable[[DeviceImage, Plant], Unit]


def showing(**words: int) -> Make:
    """Return a unit that shows other words at some points, written ``m704_WSet``, or at ``r40003``."""

    class Showing(Unit):
        def read(self, address: int, count: int) -> bytes | int:
            data = self.inner.read(address, count)
            if isinstance(data, int):
                return data
            shown = bytearray(data)
            for key, word in words.items():
                kind, _, name = key.partition("_")
                place = int(kind[1:]) if not name else self.at(f"{kind[1:]}.{name}")
                if address <= place < address + count:
                    shown[2 * (place - address) : 2 * (place - address) + 2] = (word & 0xFFFF).to_bytes(2)
            return bytes(shown)

    return Showing


class BenchSubject(Subject):
    """A subject whose waits move the plant on at once."""

    def __init__(
        self, target: Target, timeout_s: float, plant: Plant, units: list[Unit], **options: Any
    ) -> None:
        super().__init__(target, timeout_s, **options)
        self.plant = plant
        self.units = units

    async def sleep(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds * 10))):
            self.plant.advance(TICKS_PER_S // 10)
            for unit in self.units:
                unit.step()
        await asyncio.sleep(0)

    def now(self) -> float:
        return self.plant.elapsed_ticks / TICKS_PER_S


Alter = Callable[[bytes, bytes], bytes]
"""Makes the bytes that are sent out of a request and its right reply."""


def faithful(request: bytes, reply: bytes) -> bytes:
    return reply


class Peer(asyncio.Protocol):
    """A connection to a server that may handle the stream badly.

    `mode` is "" for none, "early" to answer a first piece, "drops" to forget pieces, "first" to answer only
    the first request of a segment, "loses" to answer nothing when a segment holds several.
    """

    def __init__(self, units: dict[int, Any], mode: str, alter: Alter) -> None:
        self.units, self.mode, self.alter = units, mode, alter
        self.buffer = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.buffer += data
        frames = []
        while len(self.buffer) >= 6 and len(self.buffer) >= (size := 6 + int.from_bytes(self.buffer[4:6])):
            frames.append(self.buffer[:size])
            self.buffer = self.buffer[size:]
        if self.buffer and self.mode == "early":
            self.transport.write(b"\0\1\0\0\0\3\1\x83\3")
        if self.buffer and self.mode in ("early", "drops"):
            self.buffer = b""
        if len(frames) > 1 and self.mode == "loses":
            return
        for frame in frames[: 1 if self.mode == "first" else None]:
            reply = self.alter(frame, Connection(self.units).receive(frame))
            if reply:
                self.transport.write(reply)


@asynccontextmanager
async def bench(
    make: Make = Unit,
    *,
    profile: str = HOME,
    mode: str = "",
    alter: Alter = faithful,
    soc_frac: float = 0.6,
    meter: bool = True,
    secure: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[BenchSubject]:
    """Serve one device with a defect, and yield the subject that meets it."""
    loaded = load_profile(profile)
    plant = Plant([loaded], soc_frac=soc_frac)
    plant.set_input("load_w", 900.0)
    plant.advance(TICKS_PER_S)
    units = {
        number: make(image, plant) if number == 1 else image for number, image in units_of(plant, 0).items()
    }
    if not meter:
        del units[max(units)]
    wrapped = [unit for unit in units.values() if isinstance(unit, Unit)]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(units, mode, alter), "127.0.0.1", 0, ssl=secure)
    port = server.sockets[0].getsockname()[1]
    target = TcpTarget("127.0.0.1", port, 1) if secure is None else TlsTarget("localhost", port, 1)
    # A stalled machine must not look like a silent device; one silent on purpose need not be waited for.
    timeout_s = 20.0 if make is Unit and not mode and alter is faithful else TIMEOUT_S
    subject = BenchSubject(target, timeout_s, plant, wrapped, **options)
    try:
        yield subject
    finally:
        await subject.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)
