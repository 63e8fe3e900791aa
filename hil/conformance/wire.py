"""Requests as they are on the wire: whole, in pieces, several at once, or wrong on purpose.

Duty: what a well-made client hides.  One connection at a time; what an answer means is the caller's business.

Rules of this file: every wait is bounded.  After silence the connection is given up, so that a late answer is
never taken for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import serial  # type: ignore[import-untyped]  # pyserial publishes no types
from pymodbus.framer import FramerRTU
from ridethrough.emulator.errors import ScenarioError

from ..modbus_link import EXCEPTIONS, Link, TargetError, Unit
from ..modbus_transport import TlsFiles, tls_context
from ..target import RtuTarget, Target, TcpTarget, TlsTarget

READ, WRITE_ONE, WRITE_SEVERAL = 3, 6, 16
_HEADER: Final = 7
_FRAME_MAX: Final = 260
_SPOILT: Final = b"wrong check sum"
"""Stands for the header of a frame that cannot be trusted."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes
    ----------
    pdu : bytes
        Function code and what follows; empty for silence.
    header : bytes
        Transaction id, protocol id and unit on TCP; the address on a serial line.
    closed : bool
        The device has closed the connection.
    took_s : float
        From the end of the request to the end of the answer [s].
    """

    pdu: bytes = b""
    header: bytes = b""
    closed: bool = False
    took_s: float = 0.0

    @property
    def code(self) -> int:
        """Modbus exception code; 0 when it is none."""
        return self.pdu[1] if len(self.pdu) == 2 and self.pdu[0] & 0x80 else 0

    @property
    def words(self) -> list[int]:
        """Registers of the answer to a read; empty when it is none."""
        if len(self.pdu) < 2 or self.pdu[0] not in (3, 4) or len(self.pdu) != 2 + self.pdu[1]:
            return []
        return list(struct.unpack(f">{self.pdu[1] // 2}H", self.pdu[2:]))

    def __str__(self) -> str:
        if not self.pdu:
            if self.header:
                why = "a wrong check sum" if self.header == _SPOILT else f"the header {self.header.hex(' ')}"
                return f"no answer to this request, but a frame with {why}"
            return "a closed connection" if self.closed else "silence"
        if self.code:
            return f"exception {self.code}, {EXCEPTIONS.get(self.code, ('not of the standard',))[0]}"
        return (
            self.pdu.hex(" ") if len(self.pdu) <= 16 else f"{self.pdu[:12].hex(' ')} … {len(self.pdu)} bytes"
        )


def read_request(address: int, count: int, function: int = READ) -> bytes:
    """Return the PDU of a read."""
    return struct.pack(">BHH", function, address, count)


def write_request(address: int, words: Sequence[int], function: int) -> bytes:
    """Return the PDU of a write with function 6 or 16."""
    if function == WRITE_ONE:
        (word,) = words
        return struct.pack(">BHH", WRITE_ONE, address, word)
    return struct.pack(f">BHHB{len(words)}H", WRITE_SEVERAL, address, len(words), 2 * len(words), *words)


class Wire(Protocol):
    """The raw connection to one unit."""

    unit: int
    timeout_s: float

    def frame(self, pdu: bytes, unit: int | None = None) -> bytes:
        """Return a request as it goes onto the wire."""

    def answers(self, request: bytes, reply: Reply) -> bool:
        """Whether an answer belongs to a request's frame."""

    async def send(self, data: bytes) -> None:
        """Send bytes; opens the connection first where it is not open."""

    async def receive(self, timeout_s: float) -> Reply:
        """Return the next answer, or silence after `timeout_s`."""

    async def close(self) -> None:
        """Close the connection; the next use opens it again."""


async def ask(wire: Wire, pdu: bytes, unit: int | None = None) -> Reply:
    """Send one request and return its answer; after silence the connection is given up."""
    loop = asyncio.get_running_loop()
    request = wire.frame(pdu, unit)
    await wire.send(request)
    sent_s = loop.time()
    reply = await wire.receive(wire.timeout_s)
    while reply.pdu and not wire.answers(request, reply) and loop.time() < sent_s + wire.timeout_s:
        reply = await wire.receive(sent_s + wire.timeout_s - loop.time())
    if not wire.answers(request, reply):
        reply = Reply(header=reply.header, closed=reply.closed)
    if not reply.pdu:
        await wire.close()
    return Reply(reply.pdu, reply.header, reply.closed, loop.time() - sent_s)


class TcpWire:
    """Modbus/TCP, plain or inside TLS.

    Raises
    ------
    TargetError
        From `send`: it cannot be reached.
    """

    def __init__(
        self, target: TcpTarget | TlsTarget, timeout_s: float, context: ssl.SSLContext | None = None
    ) -> None:
        self.target = target
        self.unit = target.unit
        self.timeout_s = timeout_s
        self.context = context
        self.transaction = 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    def frame(self, pdu: bytes, unit: int | None = None) -> bytes:
        """Return a request with a transaction id of its own."""
        self.transaction = self.transaction % 0xFFFF + 1
        number = self.unit if unit is None else unit
        return struct.pack(">HHHB", self.transaction, 0, len(pdu) + 1, number) + pdu

    def answers(self, request: bytes, reply: Reply) -> bool:
        """Whether transaction id, protocol id and unit are the request's."""
        return reply.header == request[:4] + request[6:7]

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        if self._writer is None:
            try:
                async with asyncio.timeout(self.timeout_s):
                    self._reader, self._writer = await asyncio.open_connection(
                        self.target.host, self.target.port, ssl=self.context
                    )
            except (OSError, TimeoutError) as error:
                raise TargetError(f"{self.target}: cannot be connected to ({error or 'no answer'})") from None
        assert self._writer is not None
        self._writer.write(data)
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._writer.drain()
        except (OSError, TimeoutError):
            await self.close()  # whoever waits for an answer learns that there is none

    async def receive(self, timeout_s: float) -> Reply:
        """Return the next frame, whatever its transaction id."""
        if self._reader is None:
            return Reply(closed=True)
        try:
            async with asyncio.timeout(timeout_s):
                header = await self._reader.readexactly(_HEADER)
                length = int.from_bytes(header[4:6])
                pdu = await self._reader.readexactly(max(0, min(length, _FRAME_MAX) - 1))
        except TimeoutError:
            return Reply()
        except (asyncio.IncompleteReadError, OSError):
            await self.close()
            return Reply(closed=True)
        return Reply(pdu, header[:4] + header[6:7])

    async def close(self) -> None:
        """Close the connection."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self.timeout_s):
                    await writer.wait_closed()


class RtuWire:
    """A serial line that speaks RTU.

    Raises
    ------
    TargetError
        From `send`: the port cannot be opened.
    """

    def __init__(self, target: RtuTarget, timeout_s: float) -> None:
        self.target = target
        self.unit = target.unit
        self.timeout_s = timeout_s
        self.gap_s = max(38.5 / target.baud, 0.00175)  # 3.5 characters of silence end a frame
        self._port: serial.Serial | None = None

    def frame(self, pdu: bytes, unit: int | None = None) -> bytes:
        """Return a request with address and check sum."""
        body = bytes((self.unit if unit is None else unit,)) + pdu
        return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")

    def answers(self, request: bytes, reply: Reply) -> bool:
        """Whether the check sum is right and the address the request's."""
        return reply.header == request[:1]

    async def send(self, data: bytes) -> None:
        """Send bytes behind enough silence to begin a frame."""
        if self._port is None:
            try:
                self._port = serial.Serial(
                    self.target.path,
                    self.target.baud,
                    parity=self.target.parity,
                    stopbits=self.target.stop_bits,
                    timeout=0,
                )
            except (OSError, ValueError) as error:
                raise TargetError(f"{self.target}: cannot be opened ({error})") from None
        await asyncio.sleep(self.gap_s)
        self._port.reset_input_buffer()
        self._port.write(data)
        await asyncio.sleep(11.0 * len(data) / self.target.baud)

    async def receive(self, timeout_s: float) -> Reply:
        """Return the next frame that is whole; one with a wrong check sum shows as such in its header."""
        loop = asyncio.get_running_loop()
        port, data, end_s = self._port, b"", loop.time() + timeout_s
        quiet_s = max(self.gap_s, 0.02)  # what an operating system may take between two characters
        heard_s = loop.time()
        while port is not None and (loop.time() < end_s or data):
            piece: bytes = port.read(512)
            if piece:
                data, heard_s = data + piece, loop.time()
            if len(data) > _FRAME_MAX or (data and loop.time() - heard_s > quiet_s):
                break
            await asyncio.sleep(self.gap_s / 2)
        if not data:
            return Reply()
        if len(data) < 4 or FramerRTU.compute_CRC(data[:-2]).to_bytes(2, "big") != data[-2:]:
            return Reply(pdu=data, header=_SPOILT)
        return Reply(data[1:-2], data[:1])

    async def close(self) -> None:
        """Close the port."""
        if self._port is not None:
            self._port.close()
            self._port = None


def make_wire(target: Target, timeout_s: float, tls: TlsFiles | None = None) -> TcpWire | RtuWire:
    """Return the raw connection to a target; nothing is opened yet.

    Raises
    ------
    ScenarioError
        A target of another kind.
    """
    if isinstance(target, RtuTarget):
        return RtuWire(target, timeout_s)
    if isinstance(target, TcpTarget):
        return TcpWire(target, timeout_s)
    if isinstance(target, TlsTarget) and tls is not None:
        return TcpWire(target, timeout_s, tls_context(tls))
    need = "with --cert, --key and --ca" if isinstance(target, TlsTarget) else "whose bytes can be looked at"
    raise ScenarioError(f"target {target}: allowed here are tcp:, rtu: and tls:, {need}")


class WireUnit(Unit):
    """A unit that is asked through a raw connection, so that no second one is ever open.

    Parameters
    ----------
    link : Link
        Says who is meant in messages; it is never connected.
    wire : Wire
    number : int
    """

    def __init__(self, link: Link, wire: Wire, number: int) -> None:
        super().__init__(link, number)
        self.wire = wire

    async def read(self, address: int, count: int, what: str) -> list[int]:
        """Read registers; see `Link.read`."""
        reply = await ask(self.wire, read_request(address, count), self.number)
        if len(reply.words) != count:
            raise self._fault(f"reading {what} ({_span(address, count)})", reply)
        return reply.words

    async def write(self, address: int, registers: Sequence[int], what: str, *, apart: bool = False) -> None:
        """Write registers with function 16, or one with function 6 where 16 is refused for it."""
        reply = await self.try_write(address, registers, WRITE_SEVERAL)
        if reply.code == 1 and len(registers) == 1:
            reply = await self.try_write(address, registers, WRITE_ONE)
        if reply.code or not reply.pdu:
            raise self._fault(f"writing {what} ({_span(address, len(registers))})", reply)

    async def try_write(self, address: int, registers: Sequence[int], function: int) -> Reply:
        """Write registers and return whatever is answered."""
        return await ask(self.wire, write_request(address, registers, function), self.number)

    def _fault(self, what: str, reply: Reply) -> TargetError:
        silent = not reply.pdu and not reply.closed
        refused = bool(reply.code)
        return self.link.fault(
            self.number, f"{what}: {reply}", refused=refused, code=reply.code, silent=silent
        )


def _span(address: int, count: int) -> str:
    return f"register {address}" if count == 1 else f"registers {address} to {address + count - 1}"
