"""The clients of sockets.py: what each does, its end of the wire, and what must become of its units.

The answers are foretold by reading.py; what it does not know (rights, streams of RTU frames) is here.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.emulator.modbus_rows import ALL_FUNCTIONS, GOOD, SUNSPEC_FUNCTIONS, with_crc, with_lrc
from tests.fuzz import frames
from tests.fuzz.harness import FindingError, Store
from tests.fuzz.reading import read_serial, read_stream
from tests.fuzz.served import READS, Process, Unit, digest, fresh

ROLES: Final = ("ReadOnlySunSpec", "SuperAdministratorSunSpec")
ENDINGS: Final = {"wait": 5, "half-close": 3, "reset": 2, "late": 1, "stall": 1}
MORE_ENDINGS: Final = {"small": {"abandon": 3, "drip": 3}, "tls": {"corrupt": 2, "raw": 2}}
RTU_SIZES: Final = {
    **dict.fromkeys((1, 2, 3, 4, 5, 6, 8), 8),
    **dict.fromkeys((7, 11, 12, 17), 4),
    22: 10,
    24: 6,
}
RTU_COUNTED: Final = {15: 6, 16: 6, 20: 2, 21: 2, 23: 10}
"""Where the byte count of a request lies in its frame."""
HELLO: Final = bytes.fromhex("16030100c8010000c40303") + bytes(range(196))
"""The beginning of a TLS handshake."""


class Twin:
    """What reading.py makes of the same bytes: units of its own, and how they were after each write."""

    def __init__(self, units: Mapping[int, Store]) -> None:
        self.units = units
        self.history = [digest(units)]
        for unit in units.values():
            for name in ("write", "write_bits"):
                setattr(unit, name, self._noted(getattr(unit, name)))

    def _noted(self, write: Callable[..., int]) -> Callable[..., int]:
        def noting(*request: Any) -> int:
            code = write(*request)
            self.history.append(digest(self.units))
            return code

        return noting


class Asked(frozenset[int]):
    """Functions of a unit that remembers which one was asked for last."""

    last = 0

    def __contains__(self, function: object) -> bool:
        self.last = function if isinstance(function, int) else 0
        return super().__contains__(function)


class Forbidding(Unit):
    """A unit for somebody who may not write: told so once the request is found good, before all else."""

    def read(self, address: int, count: int) -> bytes | int:
        asked = self.functions
        return 1 if isinstance(asked, Asked) and asked.last not in READS else super().read(address, count)

    def write(self, address: int, data: bytes) -> int:
        return 1

    def write_bits(self, address: int, count: int, data: bytes) -> int:
        return 1


class Wire:
    """The client's end of a connection, and what has come in."""

    def __init__(self, address: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.bind((address, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.got = b""
        self.end = ""  # how the server ended it: "closed" or "reset"
        self.news = asyncio.Event()
        self.reading: asyncio.Task[None] | None = None
        self.tls: ssl.SSLObject | None = None

    async def connect(self, port: int) -> None:
        await self.loop.sock_connect(self.sock, ("127.0.0.1", port))

    async def shake_hands(self, context: ssl.SSLContext) -> None:
        self.received, self.to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.received, self.to_send, server_hostname="localhost")
        while True:
            with suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                break
            await self.loop.sock_sendall(self.sock, self.to_send.read())
            data = await self.loop.sock_recv(self.sock, 65536)
            if not data:
                raise ConnectionResetError("the server ended the handshake")
            self.received.write(data)
        await self.loop.sock_sendall(self.sock, self.to_send.read())

    async def send(self, data: bytes, flip: int | None = None) -> None:
        """Send; in TLS, with one bit of the record changed if `flip` says which."""
        if self.tls is not None and data:
            self.tls.write(data)
            data = self.to_send.read()
        if flip is not None:
            place = 5 + flip % (len(data) - 5)
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        await self.loop.sock_sendall(self.sock, data)

    def listen(self, delay_s: float = 0.0) -> None:
        self.reading = asyncio.create_task(self._read(delay_s))

    async def _read(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            while not self.end:
                data = await self.loop.sock_recv(self.sock, 65536)
                self.end = "" if data else "closed"
                if self.tls is not None:
                    self.received.write(data)
                    data = b""
                    with suppress(ssl.SSLError):  # WantRead, and the good-bye
                        while more := self.tls.read(65536):
                            data += more
                self.got += data
                self.news.set()
        except OSError:
            self.end = "reset"
        self.news.set()

    async def until(self, condition: Callable[[], object], wait_s: float, what: str) -> None:
        deadline = self.loop.time() + wait_s
        while not condition():
            self.news.clear()
            try:
                await asyncio.wait_for(self.news.wait(), max(0.0, deadline - self.loop.time()))
            except TimeoutError:
                raise FindingError(f"wedge: {what} within {wait_s} s") from None

    def close(self, *, reset: bool = False) -> None:
        if self.reading is not None:
            self.reading.cancel()
        # What was waiting may clean up after the descriptor has got another owner.
        self.loop.remove_reader(self.sock)
        self.loop.remove_writer(self.sock)
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@dataclass
class Attack:
    """What one client does, and what must become of it.

    Attributes
    ----------
    forbidden : bool
        The client may not write.
    replies, closed
        What the server answers, and whether it then ends the connection.
    """

    kind: str
    ending: str
    role: str
    rng: Random
    twin: Twin
    stream: bytes
    replies: bytes = b""
    closed: bool = False

    @property
    def exact(self) -> bool:
        """Whether all that was sent must have been carried out."""
        return self.kind != "small" and self.ending not in ("reset", "stall")


def plan(rng: Random, kind: str, pool: list[bytes]) -> Attack:
    """Return what a client of this kind of server does."""
    weights = ENDINGS | MORE_ENDINGS.get(kind, {})
    (ending,) = rng.choices(list(weights), list(weights.values()))
    role = rng.choice(ROLES)
    if kind == "rights" or (kind, role) == ("tls", ROLES[0]):
        units: dict[int, Unit] = {
            1: Forbidding(Asked(ALL_FUNCTIONS)),
            2: Forbidding(Asked(SUNSPEC_FUNCTIONS)),
        }
    else:
        units = fresh(READS if kind == "shared" else ALL_FUNCTIONS)
    twin = Twin(units)
    if ending in ("late", "stall"):
        stream = b"".join(frames.LONG_READ % (n % 256, n % 70) for n in range(2800))
    elif ending == "drip":
        stream = bytes(5) + b"\xfe" + bytes(253)  # a frame but for its last byte
    elif rng.random() < 0.15 or ending == "raw":
        stream = rng.choice((rng.randbytes(rng.randrange(1, 5000)), b"GET / HTTP/1.1\r\n" * 400, HELLO))
        stream = frames.changed(rng, stream)
    else:
        stream = frames.stream(rng, pool)
    attack = Attack(kind, ending, role, rng, twin, stream)
    if ending in ("raw", "stall"):
        return attack
    read = read_stream(units, stream)
    attack.replies, attack.closed = read.replies, read.closed
    if ending not in ("half-close", "reset", "drip") and not read.closed:
        tail = bytes(260) if read.left or rng.random() < 0.1 else GOOD
        if ending == "corrupt":  # it breaks the stream itself
            tail = b""
        more = read_stream(units, stream[len(stream) - read.left :] + tail, read.misfit)
        attack.stream, attack.replies, attack.closed = stream + tail, read.replies + more.replies, more.closed
    return attack


class RtuReading:
    """What becomes of a stream of RTU frames that is silent between segments."""

    def __init__(self, units: Mapping[int, Store]) -> None:
        self.units = units
        self.held = b""

    def size(self) -> int:
        """Return the size that the frame held announces, 0 if it is too short to tell, -1 if it has none."""
        if len(self.held) < 2:
            return 0
        function = self.held[1]
        if function in RTU_COUNTED:
            place = RTU_COUNTED[function]
            return place + 3 + self.held[place] if len(self.held) > place else 0
        if function == 43:
            return 0 if len(self.held) < 3 else 7 if self.held[2] == 14 else -1
        return RTU_SIZES.get(function, -1)

    def segment(self, data: bytes) -> tuple[bytes, bool]:
        """Take what comes between two silences; return the replies, and whether we lost step."""
        self.held += data
        replies = b""
        while size := self.size():
            if 0 < size <= 256 and len(self.held) < size:
                break
            frame, self.held = self.held[:size], self.held[size:]
            if not 0 < size <= 256 or with_crc(frame[:-2]) != frame:
                self.held = b""
                return replies, True
            reply = read_serial(self.units, frame[:-2])
            replies += with_crc(reply) if reply else b""
        return replies, False


def rtu_frame(rng: Random, unit: int) -> tuple[bytes, bool]:
    """Return a frame to one's own unit or to none, and whether it leaves the stream in step."""
    to = rng.choice((unit, unit, unit, unit, 0, 200, 250))
    inner = bytes([to]) + (frames.pdu(rng, 0) if to else b"\3\0\0\0\1")
    frame = with_crc(inner) if rng.random() < 0.85 else frames.changed(rng, with_crc(inner))
    reading = RtuReading({unit: Unit(ALL_FUNCTIONS)})
    return frame, not reading.segment(frame)[1] and not reading.held


class Line:
    """The client's end of a serial line, one request after the other.

    Parameters
    ----------
    name : str
        ``binary`` or ``text``.
    """

    def __init__(self, process: Process, name: str) -> None:
        self.process, self.name = process, name
        self.units: dict[int, Unit] = fresh()
        self.fd = os.open(process.places[name], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)

    def take(self) -> bytes:
        try:
            return os.read(self.fd, 65536)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self.fd)

    def answered(self, units: Mapping[int, Store], sent: bytes, inner: bytes | None) -> bytes:
        """Carry out what was sent, and return the reply that must come."""
        if self.name == "binary":
            reply = read_serial(units, inner) if inner is not None and len(sent) <= 256 else b""
            return with_crc(reply) if reply else b""
        for digits in re.findall(rb":((?:[0-9A-F]{2})*)\r\n", sent):
            body = bytes.fromhex(digits.decode())
            if len(body) <= 255 and sum(body) % 256 == 0 and (reply := read_serial(units, body[:-1])):
                return with_lrc(reply)  # what comes behind it is a collision
        return b""

    async def fuzz(self, rng: Random, exchanges: int) -> None:
        """Send frames good and bad, whole, in pieces and in floods, then a good one."""
        for _ in range(exchanges):
            kind = rng.random()
            sent, inner = (frames.binary if self.name == "binary" else frames.text)(rng)
            if kind < 0.05:
                sent, inner = rng.randbytes(3000), None
            pieces = frames.pieces(rng, sent)[:20] if kind > 0.75 else [sent]
            await self.exchange(rng, pieces, inner if b"".join(pieces) == sent else None)
        good = GOOD[6:]
        await self.exchange(rng, [with_crc(good) if self.name == "binary" else with_lrc(good)], good)

    async def exchange(self, rng: Random, pieces: list[bytes], inner: bytes | None) -> None:
        """Send what `inner` is the meaning of, and look at the reply and the units until they are right."""
        sent = b"".join(pieces)
        after = deepcopy(self.units)
        reply = self.answered(after, sent, inner)
        allowed = [(reply, digest(after))]
        if len(pieces) > 1 and self.name == "binary":  # a pause in a frame spoils it, if it was seen
            allowed.append((b"", digest(self.units)))
        for piece in pieces:
            with suppress(BlockingIOError):  # a server that lags lets its client wait
                os.write(self.fd, piece)
            await asyncio.sleep(rng.choice((0.0, 0.0, 0.001, 0.004)) if len(pieces) > 1 else 0.0)
        deadline_s = time.perf_counter() + self.process.wait_s
        got = b""
        while True:
            # The server's loop turns before and after the silence that ends a frame; a reply takes it some
            # turns more, and so does much noise, of which it reads 1 KiB a turn.
            for _ in range(12 if len(sent) > 1024 or (len(allowed) > 1 and reply) else 2):
                await self.process.ask("ping")
                await asyncio.sleep(0.008)
            found = (await self.process.ask("look"))["states"][self.name]
            got += self.take()
            if (got, found) in allowed:
                break
            if time.perf_counter() > deadline_s:
                raise FindingError(
                    f"replies: {got.hex()}, {found} on the line, not {allowed}, after {sent.hex()}"
                )
        self.units = after if found == digest(after) else self.units
