"""A TCP relay between the bench's client and one device: where network faults act on real sockets.

Rules of this file: it passes bytes and keeps none.  It reads just enough of each Modbus/TCP frame to tell a
write (a command) from a read (telemetry): a fault meets the request of a write and the reply to a read,
once each, as it meets one message each way in the model.  What is lost is swallowed; the client sees a
time-out, as in the field.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from .messages import LOST

Fate = Callable[[bool], float]
"""Given whether a message is a command, its delay in real seconds, or `LOST`."""

LOOPBACK: Final = "127.0.0.1"
_HEADER: Final = 7
_WRITES: Final = frozenset({5, 6, 15, 16, 22, 23})
_FRAME_MAX: Final = 260


class Frames:
    """Cuts a byte stream at the frame borders that the MBAP length gives."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes; a stream out of step is passed on as it comes."""
        self._held += data
        frames = []
        while len(self._held) > _HEADER:
            size = 6 + int.from_bytes(self._held[4:6])
            if not _HEADER < size <= _FRAME_MAX:
                size = len(self._held)
            if len(self._held) < size:
                break
            frames.append(bytes(self._held[:size]))
            del self._held[:size]
        return frames


class _Link:
    """One client connection and its twin to the device."""

    def __init__(self, relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relay = relay
        self._client = (reader, writer)
        self._writers: deque[asyncio.TimerHandle] = deque()

    async def run(self) -> None:
        """Pass frames both ways until either side closes."""
        reader, writer = self._client
        device_reader, device_writer = await asyncio.open_connection(LOOPBACK, self._relay.device_port)
        try:
            up = asyncio.create_task(self._pass(reader, device_writer, commands=True))
            down = asyncio.create_task(self._pass(device_reader, writer, commands=False))
            done, pending = await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
        finally:
            # What is still on its way dies with the connection, as undelivered segments do.
            for handle in self._writers:
                handle.cancel()
            for end in (writer, device_writer):
                end.close()
            await asyncio.gather(writer.wait_closed(), device_writer.wait_closed(), return_exceptions=True)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, commands: bool
    ) -> None:
        frames = Frames()
        loop = asyncio.get_running_loop()
        ready_s = loop.time()
        while data := await reader.read(4096):
            for frame in frames.feed(data):
                is_write = (frame[_HEADER] & 0x7F) in _WRITES
                delay_s = self._relay.fate(is_write) if is_write == commands else 0.0
                if delay_s == LOST:
                    continue
                # Bytes of one connection cannot overtake each other.
                ready_s = max(ready_s, loop.time() + delay_s)
                if ready_s <= loop.time():
                    writer.write(frame)
                else:
                    self._writers.append(loop.call_at(ready_s, writer.write, frame))
            while self._writers and self._writers[0].when() <= loop.time():
                self._writers.popleft()
            await writer.drain()


class Relay:
    """Listens on loopback and passes frames to a device's port under a fate.

    Parameters
    ----------
    device_port : int
        The device, on loopback.
    fate : Fate
        Called once per message that a fault can meet.

    Attributes
    ----------
    port : int
        Where clients connect, once started.
    """

    def __init__(self, device_port: int, fate: Fate) -> None:
        self.device_port = device_port
        self.fate = fate
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen on a free port."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await _Link(self, reader, writer).run()
        except (OSError, asyncio.CancelledError):
            writer.close()  # the device refused or vanished, or the bench ends: the client sees a close
        finally:
            self._tasks.discard(task)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
