"""The connection to one device: one request at a time, answers that are its own, errors with a cure.

Rules of this file:

- pymodbus carries the bytes and nothing else; it never retries and never reconnects by itself.
- After a time-out, a broken answer or a cancelled request the connection is closed: a late answer must never
  be taken for the next one.  The next use connects again.  When connecting itself has failed, uses within a
  bounded back-off fail at once: a command must not be held back here and arrive late.
- A write that got no answer is never repeated here: it may have been carried out.
- Every failure is a `TargetError` that names target, unit, what was asked and the registers.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from ridethrough.emulator.errors import DeviceError, ScenarioError

from .target import RtuTarget, Target, TcpTarget

READ_REGISTERS_MAX: Final = 125
WRITE_REGISTERS_MAX: Final = 123
"""Most registers in one request (Modbus application protocol, function codes 3 and 16)."""

READ: Final = 3
WRITE_ONE: Final = 6
WRITE_SEVERAL: Final = 16
"""Function codes in use."""

ILLEGAL_FUNCTION: Final = 1
ILLEGAL_ADDRESS: Final = 2
ILLEGAL_VALUE: Final = 3

EXCEPTIONS: Final = {
    1: (
        "illegal function",
        "the device forbids this here; control by Modbus may have to be enabled on it first",
    ),
    2: ("illegal data address", "it has no such register, or not now; scan it again"),
    3: ("illegal data value", "it does not take this value or this many registers; check the allowed range"),
    4: ("server device failure", "it tried and failed; look at the device itself, and check the unit id"),
    5: ("acknowledge", "it needs longer for this; read the result later"),
    6: ("server device busy", "try again later and less often"),
    8: ("memory parity error", "its memory is damaged; the device needs service"),
    10: ("gateway path unavailable", "the gateway is overloaded or wrongly set up"),
    11: ("gateway target device failed to respond", "no device has this unit id; check it and the wiring"),
}
"""Modbus exception codes: name and cure."""

_BACKOFF_FIRST: Final = 0.05
_BACKOFF_MAX: Final = 2.0
"""Wait after a failed connect: at first, and at most, as parts of the time-out."""

_FRAME_BYTES_MAX: Final = 254
_HEADER_BYTES: Final = 7

Client = AsyncModbusTcpClient | AsyncModbusSerialClient

_log = logging.getLogger("pymodbus")
if _log.level == logging.NOTSET:  # whoever has set a level wants to see it
    _log.setLevel(logging.CRITICAL + 1)


class TargetError(DeviceError):
    """A target answered wrongly or not at all, or cannot do what was asked.

    Attributes
    ----------
    refused : bool
        Nothing was lost on the way: the device answered, or what was asked cannot be done.
    code : int
        Modbus exception code; 0 when it sent none.
    silent : bool
        It was connected and sent no answer in time.
    """

    def __init__(self, message: str, *, refused: bool = False, code: int = 0, silent: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.code = code
        self.silent = silent


def frame_fault(request: bytes, received: bytes) -> str:
    """Return what is wrong with the bytes that came back over TCP; empty while nothing is.

    Parameters
    ----------
    request : bytes
        The frame that was sent.
    received : bytes
        All that has come since; the last frame may be incomplete.

    Notes
    -----
    A frame with another transaction id, 0 excepted, is skipped: it is the second copy of an earlier answer.
    pymodbus takes 0 for every id, waits for ever after a wrong header, and raises out of the event loop for a
    body it cannot read; therefore all three are looked at here first.
    """
    while len(received) >= _HEADER_BYTES:
        transaction, protocol, length = (int.from_bytes(received[k : k + 2]) for k in (0, 2, 4))
        if protocol != 0 or not 3 <= length <= _FRAME_BYTES_MAX:
            return f"the answer is no Modbus/TCP frame: protocol id {protocol}, length {length}"
        if transaction == 0:
            return "the answer has transaction id 0 instead of the request's"
        frame, received = received[: 6 + length], received[6 + length :]
        if len(frame) < 6 + length:
            break
        if (
            frame[:2] == request[:2]
            and frame[6] == request[6]
            and (fault := body_fault(request[7:], frame[7:]))
        ):
            return fault
    return ""


def body_fault(request: bytes, reply: bytes) -> str:
    """Return what is wrong with an answer's body (function code first); empty when it fits its request."""
    function = request[0]
    if reply[0] == function | 0x80:
        wanted = 2
    elif reply[0] != function:
        return f"asked with function {function}, answered with function {reply[0]}"
    elif function == 3:
        wanted = 2 + 2 * int.from_bytes(request[3:5])
        if len(reply) > 1 and reply[1] != wanted - 2:
            return f"asked for {wanted - 2} bytes of registers, the answer counts {reply[1]}"
    else:
        wanted = 5
        if reply[1:] != request[1:5]:
            return f"the answer confirms {reply[1:].hex(' ')} instead of {request[1:5].hex(' ')}"
    return "" if len(reply) == wanted else f"the answer has {len(reply)} bytes instead of {wanted}"


@dataclass(frozen=True, slots=True)
class _Request:
    """One request: function 3, 6 or 16."""

    unit: int
    function: int
    address: int
    count: int
    registers: tuple[int, ...]
    what: str

    def send(self, client: Client) -> Awaitable[ModbusPDU]:
        """Hand it to pymodbus."""
        if self.function == READ:
            return client.read_holding_registers(self.address, count=self.count, device_id=self.unit)
        if self.function == WRITE_ONE:
            return client.write_register(self.address, self.registers[0], device_id=self.unit)
        return client.write_registers(self.address, list(self.registers), device_id=self.unit)

    def fits(self, reply: ModbusPDU) -> bool:
        """Whether a decoded answer is one to this request; on a serial line nothing else has looked at it."""
        if reply.function_code != self.function:
            return False
        if self.function == READ:
            return len(reply.registers) == self.count
        if self.function == WRITE_ONE:
            return reply.address == self.address and tuple(reply.registers) == self.registers
        return reply.address == self.address and reply.count == self.count

    def __str__(self) -> str:
        verb = "reading" if self.function == READ else "writing"
        last = f" to {self.address + self.count - 1}" if self.count > 1 else ""
        return f"{verb} {self.what} (register{'s' if last else ''} {self.address}{last})"


class Link:
    """The only connection to one device, shared by all units behind it.

    Parameters
    ----------
    target : Target
        Its unit is not used here: each request names its own.
    timeout_s : float
        A connect and an answer may take this long each [s].

    Raises
    ------
    ScenarioError
        `timeout_s` is not a positive number.
    """

    def __init__(self, target: Target, timeout_s: float) -> None:
        if not isinstance(timeout_s, int | float) or not 0.0 < timeout_s < math.inf:
            raise ScenarioError(f"timeout_s: {timeout_s!r} found; allowed are positive numbers of seconds")
        self.target = target
        self.timeout_s = timeout_s
        self._client: Client | None = None
        self._turn = asyncio.Lock()
        self._guard: asyncio.Timeout | None = None  # of the request under way
        self._request = b""
        self._fault = ""  # why the request under way can have no answer
        self._backoff_s = 0.0
        self._retry_at_s = -math.inf
        self._unsure = False  # an answer to an abandoned request may still come
        self._several_only: set[int] = set()  # units that refuse function 6

    async def read(self, unit: int, address: int, count: int, what: str) -> list[int]:
        """Return `count` registers from `address` on.

        Parameters
        ----------
        unit, address, count : int
        what : str
            What is being read, for messages.

        Raises
        ------
        TargetError
            No answer, a wrong one, or a Modbus exception.
        """
        reply = await self._ask(_Request(unit, READ, address, count, (), what))
        return list(reply.registers)

    async def write(self, unit: int, address: int, registers: Sequence[int], what: str) -> None:
        """Write registers from `address` on: one with function 6, several with function 16.

        Raises
        ------
        TargetError
            No answer, a wrong one, or a Modbus exception.  Without an answer the write may have taken place.
        """
        values = tuple(registers)
        if len(values) == 1 and unit not in self._several_only:
            try:
                await self._ask(_Request(unit, WRITE_ONE, address, 1, values, what))
                return
            except TargetError as fault:
                if fault.code != ILLEGAL_FUNCTION:
                    raise
                self._several_only.add(unit)  # not carried out, so it may be asked in the other way
        await self._ask(_Request(unit, WRITE_SEVERAL, address, len(values), values, what))

    async def close(self) -> None:
        """Close the connection; the next use opens it again."""
        self._drop()
        await asyncio.sleep(0)  # the transport gives its socket back on the loop's next turn

    def fault(
        self, unit: int, text: str, *, refused: bool = False, code: int = 0, silent: bool = False
    ) -> TargetError:
        """Return an error of this device that names target and unit."""
        place = str(self.target) if unit == self.target.unit else f"{self.target}, unit {unit}"
        return TargetError(f"{place}: {text}", refused=refused, code=code, silent=silent)

    async def _ask(self, request: _Request) -> ModbusPDU:
        """Do one exchange."""
        async with self._turn:
            client = await self._connected(request.unit)
            self._fault = ""
            try:
                async with asyncio.timeout(self.timeout_s) as self._guard:
                    reply = await request.send(client)
            except (TimeoutError, ModbusException, OSError):
                self._drop(unsure=True)
                reason = self._fault or f"no answer within {self.timeout_s:g} s"
                silent = not self._fault
                raise self.fault(request.unit, f"{request}: {reason}", silent=silent) from None
            except BaseException:
                self._drop(unsure=True)
                raise
            finally:
                self._guard = None
            if isinstance(reply, ExceptionResponse):
                name, cure = EXCEPTIONS.get(reply.exception_code, ("not of the standard", "see its manual"))
                text = f"{request}: exception {reply.exception_code}, {name}: {cure}"
                raise self.fault(request.unit, text, refused=True, code=reply.exception_code)
            if not request.fits(reply):
                self._drop(unsure=True)
                raise self.fault(request.unit, f"{request}: the answer does not fit the request")
            return reply

    async def _connected(self, unit: int) -> Client:
        """Return a client that is connected and ready for a request."""
        if self._client is None or not self._client.connected:
            self._client = await self._connect(unit)
            await asyncio.sleep(0)  # a serial transport is set up on the loop's next turn
        if isinstance(self.target, RtuTarget):
            if self._unsure:
                await asyncio.sleep(self.timeout_s)  # the line is still the same line: let a late answer pass
            await asyncio.sleep(max(38.5 / self.target.baud, 0.00175))  # 3.5 characters of silence
        self._unsure = False
        return self._client

    async def _connect(self, unit: int) -> Client:
        loop = asyncio.get_running_loop()
        self._drop(unsure=self._unsure)
        left_s = self._retry_at_s - loop.time()
        if left_s > 0.0:
            raise self.fault(
                unit, f"could not be connected to just now; will be tried again in {left_s:.2g} s"
            )
        client = self._make_client()
        reason = "it cannot be reached or refused the connection"
        try:
            async with asyncio.timeout(self.timeout_s):
                connected = await client.connect()
        except (TimeoutError, OSError, ValueError) as error:
            connected = False
            reason = str(error) or f"no connection within {self.timeout_s:g} s"
        except BaseException:
            client.close()
            raise
        if not connected:
            client.close()
            doubled_s = max(2.0 * self._backoff_s, _BACKOFF_FIRST * self.timeout_s)
            self._backoff_s = min(doubled_s, _BACKOFF_MAX * self.timeout_s)
            self._retry_at_s = loop.time() + self._backoff_s
            raise self.fault(unit, f"{reason}; {self._cure()}")
        self._backoff_s = 0.0
        return client

    def _make_client(self) -> Client:
        # A new client each time: pymodbus mixes up the events of two connections of one client.
        target = self.target
        timeout_s = 2.0 * self.timeout_s + 1.0  # ours ends first and says why
        if isinstance(target, TcpTarget):
            return AsyncModbusTcpClient(
                target.host,
                port=target.port,
                timeout=timeout_s,
                retries=0,
                reconnect_delay=0,
                trace_packet=self._inspect,
                trace_connect=self._notice,
            )
        return AsyncModbusSerialClient(
            target.path,
            baudrate=target.baud,
            timeout=timeout_s,
            retries=0,
            reconnect_delay=0,
            trace_connect=self._notice,
        )

    def _cure(self) -> str:
        if isinstance(self.target, TcpTarget):
            return (
                "check that the device is on, its Modbus enabled, address and port right, and that no other "
                "client is connected (some devices allow one)"
            )
        return "check that the port exists, that you may use it, and that no other program has it open"

    def _inspect(self, sending: bool, data: bytes) -> bytes:
        """Look at every frame before pymodbus does."""
        if sending:
            self._request = data
        elif fault := frame_fault(self._request, data):
            self._give_up(fault)
            return b""
        return data

    def _notice(self, connected: bool) -> None:
        if not connected:
            self._give_up("the device closed the connection")

    def _give_up(self, fault: str) -> None:
        """End the wait of the request under way."""
        if self._guard is not None and not self._guard.expired():
            self._fault = self._fault or fault
            self._guard.reschedule(asyncio.get_running_loop().time())

    def _drop(self, *, unsure: bool = False) -> None:
        self._unsure = unsure
        if self._client is not None:
            self._client.close()
            self._client = None


class Unit:
    """One unit behind a link.

    Parameters
    ----------
    link : Link
    number : int
        Modbus unit id.
    """

    def __init__(self, link: Link, number: int) -> None:
        self.link = link
        self.number = number

    async def read(self, address: int, count: int, what: str) -> list[int]:
        """Read registers; see `Link.read`."""
        return await self.link.read(self.number, address, count, what)

    async def write(self, address: int, registers: Sequence[int], what: str) -> None:
        """Write registers; see `Link.write`."""
        await self.link.write(self.number, address, registers, what)

    def fault(self, text: str, *, refused: bool = False) -> TargetError:
        """Return an error of this unit; see `Link.fault`."""
        return self.link.fault(self.number, text, refused=refused)
