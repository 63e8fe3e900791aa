"""How a server is measured by one row: its bytes, what comes back, a good request, a fresh connection, and
whether anything was written.

A server is a port or the path of a serial line, no more: ours is treated like any other.  Silence cannot be
waited for, so it is bounded by an answer: what the server had to say to a row it has said when it answers a
good request on a connection that was opened after the row was sent.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from tests.emulator.modbus_rows import BYTE_BY_BYTE, HALF_CLOSED, WITH_A_PAUSE, Row, SerialRow

HOST = "127.0.0.1"
QUIET_S = 0.3
"""A reply is looked for this long before anything else is sent."""
WAIT_S = 5.0
"""Longest wait for an answer to a good request; only a server that has lost its way needs it."""
FRAME_S = 6.0
"""Row 33 is half a frame: longest wait for a server's time-out."""
LATE_S = 0.4
PAUSE_S = 1.0
LINE_QUIET_S = 1.0
"""A master gives a device this long, and libmodbus half of it for the answer of another device."""
SILENCE_S = 0.2
"""After a reply, no frame begins before three and a half characters have passed: 128 ms at 300 Bd."""

Exchange = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of the unit behind a server.

    Attributes
    ----------
    good : tuple of bytes
        A good request, and the answer to it.
    dump : sequence of tuples of bytes
        Requests that read all that could be written, and the answers when nothing was.
    """

    good: Exchange
    dump: Sequence[Exchange] = ()


class Measured(NamedTuple):
    """What a server has done.

    Attributes
    ----------
    replies : bytes
        All it answered to the row's bytes.
    closed : bool
        Whether it closed the connection, or the row was half a frame at the end of its time-out.
    good : bool
        Whether a good request was answered well afterwards: on the same connection, on a new one if closed.
    fresh : bool
        Whether a new connection was served.
    changed : bool or None
        Whether a register or coil is another one than before; None if they could not be read any more.
    late : bool
        Whether the first reply took longer than `LATE_S`.
    """

    replies: bytes
    closed: bool
    good: bool
    fresh: bool
    changed: bool | None
    late: bool


class Client:
    """A connection that keeps what has come; nothing of it raises."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.got = b""
        self.closed = False
        self.first_s: float | None = None
        self._reader, self._writer = reader, writer
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        with suppress(OSError):  # the server cut it, or broke off TLS
            while data := await self._reader.read(4096):
                if self.first_s is None:
                    self.first_s = time.monotonic()
                self.got += data
                self._news.set()
        self.closed = True
        self._news.set()

    async def send(self, data: bytes) -> None:
        with suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    def end(self) -> None:
        """Send no more, but go on reading."""
        with suppress(OSError):
            self._writer.write_eof()

    async def until(self, count: int, wait_s: float) -> None:
        """Wait for so many bytes in all, or the end of the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while len(self.got) < count and not self.closed:
                    self._news.clear()
                    await self._news.wait()

    async def ask(self, exchange: Exchange) -> bytes:
        """Return what is answered to a request, as far as that can be as long as it should be."""
        request, reply = exchange
        at = len(self.got)
        await self.send(request)
        await self.until(at + len(reply), WAIT_S)
        return self.got[at:]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            self._writer.transport.abort()  # the server cut it


async def dial(port: int) -> Client:
    return Client(*await asyncio.open_connection(HOST, port))


async def ask_anew(port: int, *exchanges: Exchange) -> list[bytes]:
    """Return what a new connection answers to each request."""
    client = await dial(port)
    try:
        return [await client.ask(exchange) for exchange in exchanges]
    finally:
        await client.close()


async def send_row(client: Client, row: Row) -> None:
    """Send the bytes of a row as it says."""
    if row.how == BYTE_BY_BYTE:
        for k in range(len(row.sent)):
            await client.send(row.sent[k : k + 1])
            await asyncio.sleep(0.005)
    elif row.how == WITH_A_PAUSE:
        await client.send(row.sent[:3])
        await asyncio.sleep(PAUSE_S)
        await client.send(row.sent[3:])
    else:
        await client.send(row.sent)
    if row.how == HALF_CLOSED:
        client.end()


async def measure_tcp(row: Row, port: int, target: Target) -> Measured:
    """Measure the server at a port, which nobody else uses."""
    client = await dial(port)
    try:
        await send_row(client, row)
        sent_s = time.monotonic()
        await client.until(10**6, FRAME_S if row.name == "33" else QUIET_S)
        fresh = await ask_anew(port, target.good) == [target.good[1]]
        await client.until(10**6, QUIET_S)
        replies, closed = client.got, client.closed
        late = client.first_s is not None and client.first_s - sent_s > LATE_S
        good = fresh if closed else await client.ask(target.good) == target.good[1]
    finally:
        await client.close()
    right = [reply for _, reply in target.dump]
    found = await ask_anew(port, *target.dump)
    legible = [len(reply) for reply in found] == [len(reply) for reply in right]
    return Measured(replies, closed, good, fresh, found != right if legible else None, late)


class Wire:
    """A client's end of a serial line, without any Modbus."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._got = b""
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._listen)

    def _listen(self) -> None:
        try:
            self._got += os.read(self._fd, 4096)
        except OSError:
            self._loop.remove_reader(self._fd)  # the other end is gone
        self._news.set()

    def write(self, data: bytes) -> None:
        assert os.write(self._fd, data) == len(data)

    def take(self) -> bytes:
        got, self._got = self._got, b""
        return got

    async def receive(self, enough: Callable[[bytes], bool]) -> bytes:
        """Return what has come when it is enough, or nothing more is to be expected."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while not enough(self._got):
                    self._news.clear()
                    await self._news.wait()
        await asyncio.sleep(0.05)  # nothing may come behind it
        return self.take()

    async def ask(self, exchange: Exchange) -> tuple[bytes, bool]:
        """Return what came before the right answer to a request, and whether that came."""
        request, reply = exchange
        self.write(request)
        got = await self.receive(lambda got: got.endswith(reply))
        return got.removesuffix(reply), got.endswith(reply)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)


@dataclass(frozen=True, slots=True)
class Line:
    """One serial line, and what is on it.

    Attributes
    ----------
    fd : int
        The client's end.
    good : tuple of bytes
        A good request, and the answer to it.
    written : tuple of bytes
        A request that reads the register which `SerialRow.writes` tells of, and the answer if it was written.
    unwritten : bytes
        The answer if it was not.
    gap_s : float
        Pause in the middle of the row [s]; 0 for none.
    """

    fd: int
    good: Exchange
    written: Exchange
    unwritten: bytes
    gap_s: float = 0.0


async def measure_line(row: SerialRow, line: Line) -> Measured:
    """Measure the server on a serial line, which nobody else uses."""
    wire = Wire(line.fd)
    try:
        before = await wire.ask(line.good)
        if before != (b"", True):
            raise RuntimeError(
                f"row {row.name}: the server does not answer a good request: {before[0].hex()}"
            )
        await asyncio.sleep(SILENCE_S)
        if line.gap_s:
            wire.write(row.sent[:2])
            await asyncio.sleep(line.gap_s)
            wire.write(row.sent[2:])
        else:
            wire.write(row.sent)
        await asyncio.sleep(LINE_QUIET_S + 2 * line.gap_s)
        replies = wire.take()
        more, good = await wire.ask(line.good)
        request, written = line.written
        wire.write(request)
        found = await wire.receive(lambda got: len(got) >= len(written))
        changed = {written: True, line.unwritten: False}.get(found)
    finally:
        wire.close()
    return Measured(replies + more, False, good, good, changed, False)
