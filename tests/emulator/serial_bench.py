"""Frames made without our core, a unit of plain registers, and the client's end of a pseudo terminal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ridethrough.emulator.serial_line import SerialLine

WAIT_S = 20.0
"""Longest wait for anything; only reached when something is broken."""
REGISTERS = 200


class Memory:
    """A unit of 200 registers; register i starts as 0x1000 + i."""

    def __init__(self) -> None:
        self.cells = bytearray(b"".join((0x1000 + i).to_bytes(2, "big") for i in range(REGISTERS)))
        self.calls: list[tuple[str, int, int]] = []

    def read(self, address: int, count: int) -> bytes | int:
        self.calls.append(("read", address, count))
        if address + count > REGISTERS:
            return 2
        return bytes(self.cells[2 * address : 2 * (address + count)])

    def write(self, address: int, data: bytes) -> int:
        self.calls.append(("write", address, len(data) // 2))
        if 2 * address + len(data) > 2 * REGISTERS:
            return 2
        self.cells[2 * address : 2 * address + len(data)] = data
        return 0


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that must come."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


FAST = 115_200


def crc(data: bytes) -> bytes:
    """Return the CRC of a frame, low byte first; bit by bit, as the standard's appendix describes it."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


def rtu(text: str) -> bytes:
    """Return an RTU frame by its address and PDU."""
    data = bytes.fromhex(text)
    return data + crc(data)


def ascii_(text: str) -> bytes:
    """Return an ASCII frame by its address and PDU."""
    data = bytes.fromhex(text)
    check = -sum(data) & 0xFF
    return b":" + (data + bytes([check])).hex().upper().encode() + b"\r\n"


GOOD, GOOD_REPLY = rtu("01 03 0005 0002"), rtu("01 03 04 1005 1006")
ASCII_GOOD, ASCII_GOOD_REPLY = ascii_("01 03 0005 0002"), ascii_("01 03 04 1005 1006")


class Wire:
    """A client's end of the line, without any Modbus: bytes out, bytes in, and when they came."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.got = b""
        self.times: list[tuple[float, int]] = []
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(fd, self.read)

    def read(self) -> None:
        data = os.read(self.fd, 4096)
        self.got += data
        self.times.append((self.loop.time(), len(self.got)))

    def write(self, data: bytes) -> float:
        """Return when the writing began [s]."""
        began_s = self.loop.time()
        assert os.write(self.fd, data) == len(data)
        return began_s

    async def receive(self, count: int) -> bytes:
        """Return the next bytes."""
        await until(lambda: len(self.got) >= count)
        data, self.got = self.got[:count], self.got[count:]
        return data

    async def ask(self, request: bytes = GOOD, reply: bytes = GOOD_REPLY) -> None:
        self.write(request)
        assert (await self.receive(len(reply))).hex(" ") == reply.hex(" ")
        assert self.got == b""

    async def quiet(self, line: SerialLine, data: bytes, frames: int = 1) -> None:
        """Send what must not be answered, and wait until the line has dealt with it."""
        dealt = line.counts.frames + line.discarded + frames
        self.write(data)
        await until(lambda: line.counts.frames + line.discarded >= dealt)
        await asyncio.sleep(0.02)
        assert self.got == b""


@asynccontextmanager
async def plugged(path: str) -> AsyncIterator[Wire]:
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    wire = Wire(fd)
    try:
        yield wire
    finally:
        wire.loop.remove_reader(fd)
        os.close(fd)
