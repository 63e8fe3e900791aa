"""The connection to one device: one request at a time, answers that are its own, errors with a cure.

Rules of this file:

- pymodbus carries the bytes and nothing else; it never retries and never reconnects by itself.
- After a time-out, a broken answer or a cancelled request the connection is closed: a late answer must never
  be taken for the next one.  The next use connects again.  When connecting itself has failed, uses within a
  bounded back-off fail at once: a command must not be held back here and arrive late.
- A write that got no answer is never repeated here: it may have been carried out.  Asked again are, a few
  times and within less than one time-out, what the device was too busy for, and once, a read on a connection
  that had been idle and was dead.
- On every new connection a guarded unit shows who it is before anything else is asked of it.
- Every failure is a `TargetError` that names target, unit, what was asked and the registers.  What is odd and
  yet no failure is noted in `Link.met`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from ridethrough.emulator.errors import DeviceError, ScenarioError

from .modbus_frames import sift
from .modbus_transport import Client, Connector, NotConnectedError, TlsFiles, framing_of, is_line
from .target import RtuTarget, Target, TlsTarget

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
FAILURE: Final = 4
ACKNOWLEDGE: Final = 5
BUSY: Final = 6

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
    11: (
        "gateway target device failed to respond",
        "no device has this unit id; check it (in use are 1, 71, 126, for meters 200 and up) and the wiring",
    ),
}
"""Modbus exception codes: name and cure."""

_BUSY_WAITS: Final = (0.05, 0.1, 0.2)
"""Waits before a busy device is asked again, as parts of the time-out."""

IDLE_S: Final = 1.0
"""A connection that was quiet for this long may be dead without a sign [s]."""

_CLOSED: Final = "the device closed the connection"

Read = Callable[[int, int, str], Awaitable[list[int]]]
"""Reads registers at an address; the text says what they are."""

Check = Callable[[Read], Awaitable[None]]
"""Looks at a unit on a new connection; raises when it must not be used."""

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
    changed : bool
        The device is not, or no longer, laid out as was thought: it has to be discovered again.
    """

    def __init__(
        self,
        message: str,
        *,
        refused: bool = False,
        code: int = 0,
        silent: bool = False,
        changed: bool = False,
    ) -> None:
        super().__init__(message)
        self.refused = refused
        self.code = code
        self.silent = silent
        self.changed = changed


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
    tls : TlsFiles, optional
        What a `TlsTarget` needs, and only that.
    reread : bool
        A read that finds an idle connection dead is asked once more on a new one.

    Attributes
    ----------
    requests, connections : int
        Requests sent and connections made so far.

    Raises
    ------
    ScenarioError
        `timeout_s` is not a positive number, or the files do not fit the target.
    """

    def __init__(
        self, target: Target, timeout_s: float, *, tls: TlsFiles | None = None, reread: bool = True
    ) -> None:
        if not isinstance(timeout_s, int | float) or not 0.0 < timeout_s < math.inf:
            raise ScenarioError(f"timeout_s: {timeout_s!r} found; allowed are positive numbers of seconds")
        self.target = target
        self.timeout_s = timeout_s
        self.requests = self.connections = 0
        self._connector = Connector(target, timeout_s, tls)
        self._framing = framing_of(target)
        self._reread = reread and not is_line(target)
        self._client: Client | None = None
        self._turn = asyncio.Lock()
        self._guard: asyncio.Timeout | None = None  # of the request under way
        self._request = b""
        self._fault = ""  # why the request under way can have no answer
        self._unsure = False  # an answer to an abandoned request may still come
        self._answered_s = math.inf  # when this connection last answered
        self._several_only: set[int] = set()  # units that refuse function 6
        self._checks: dict[int, Check] = {}
        self._checked_on: dict[int, int] = {}  # connection on which a unit last showed who it is
        self._met: dict[str, str] = {}

    @property
    def met(self) -> list[str]:
        """What was odd so far, each phenomenon once and in plain words."""
        return list(self._met.values())

    def note(self, phenomenon: str, text: str) -> None:
        """Note something odd, unless it is known already.

        Parameters
        ----------
        phenomenon : str
            What makes it the same as an earlier one.
        text : str
            What was met, in plain words, with the registers.
        """
        self._met.setdefault(phenomenon, text)

    def guard(self, unit: int, check: Check | None, connection: int = 0) -> Check | None:
        """Let a unit be checked on every connection but `connection`, before anything else is asked of it.

        Parameters
        ----------
        unit : int
        check : callable or None
            Given a way to read; raises when nothing else may be asked.  None ends it.
        connection : int
            Number of the connection on which the unit was seen last.

        Returns
        -------
        callable or None
            What has checked it so far.
        """
        before = self._checks.pop(unit, None)
        if check is not None:
            self._checks[unit] = check
            self._checked_on[unit] = connection
        return before

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

    async def write(
        self, unit: int, address: int, registers: Sequence[int], what: str, *, apart: bool = False
    ) -> None:
        """Write registers from `address` on: one with function 6, several with function 16.

        Where the device refuses one of the functions the other is used: function 16 for one register, and
        function 6 for several only where they may be written `apart`.

        Raises
        ------
        TargetError
            No answer, a wrong one, or a Modbus exception.  Without an answer the write may have taken place.
        """
        values = tuple(registers)
        several = _Request(unit, WRITE_SEVERAL, address, len(values), values, what)
        ones = [_Request(unit, WRITE_ONE, address + k, 1, (v,), what) for k, v in enumerate(values)]
        if len(values) == 1 and unit not in self._several_only:
            try:
                await self._ask(ones[0])
                return
            except TargetError as fault:
                if fault.code != ILLEGAL_FUNCTION:
                    raise
            await self._ask(several)  # function 6 was not carried out, so it may be asked in the other way
            self._several_only.add(unit)
            text = "it refuses function 6 (write one register); function 16 is used"
            self.note(f"function 6 {unit}", text)
            return
        try:
            await self._ask(several)
        except TargetError as fault:
            if fault.code != ILLEGAL_FUNCTION or len(values) == 1 or isinstance(self.target, TlsTarget):
                raise  # over TLS it is the client's role that is refused, not the function
            refusal = "it refuses function 16 (write several registers)"
            if not apart:
                raise self.fault(
                    unit,
                    f"{several}: {refusal}; one at a time with function 6 would not be all or nothing, so "
                    "nothing was written; if it refuses every write, control by Modbus may have to be "
                    "enabled on it first",
                    refused=True,
                    code=fault.code,
                ) from None
            for one in ones:
                await self._ask(one)
            self.note(f"function 16 {unit}", f"{refusal}; function 6 is used for points of one register")

    async def close(self) -> None:
        """Close the connection; the next use opens it again."""
        self._drop()
        await asyncio.sleep(self._connector.close_s)

    def fault(
        self,
        unit: int,
        text: str,
        *,
        refused: bool = False,
        code: int = 0,
        silent: bool = False,
        changed: bool = False,
    ) -> TargetError:
        """Return an error of this device that names target and unit."""
        place = str(self.target) if unit == self.target.unit else f"{self.target}, unit {unit}"
        return TargetError(f"{place}: {text}", refused=refused, code=code, silent=silent, changed=changed)

    async def _ask(self, request: _Request) -> ModbusPDU:
        """Get one request answered; a read on an idle connection that proves dead is asked once more."""
        async with self._turn:
            idle_s = asyncio.get_running_loop().time() - self._answered_s
            alive = self._client is not None and self._client.connected
            try:
                return await self._ask_guarded(request)
            except TargetError:
                dead = self._fault in ("", _CLOSED) and self._client is None
                if not (self._reread and alive and dead and idle_s >= IDLE_S and request.function == READ):
                    raise
                how = "was closed" if self._fault else "got no answer"
            reply = await self._ask_guarded(request)
            self.note(
                "idle",
                f"a request on a connection that had been idle for {idle_s:.1f} s {how}: the device drops "
                "idle connections; it was connected to again and read again",
            )
            return reply

    async def _ask_guarded(self, request: _Request) -> ModbusPDU:
        """Do one exchange on a connection on which the unit has shown who it is."""
        client = await self._connected(request.unit)
        check = self._checks.get(request.unit)
        if check is not None and self._checked_on[request.unit] != self.connections:

            async def read(address: int, count: int, what: str) -> list[int]:
                ask = _Request(request.unit, READ, address, count, (), what)
                return list((await self._ask_patiently(client, ask)).registers)

            await check(read)
            self._checked_on[request.unit] = self.connections
        return await self._ask_patiently(client, request)

    async def _ask_patiently(self, client: Client, request: _Request) -> ModbusPDU:
        """Do one exchange; wait and ask again while the device is busy and has not carried it out."""
        for part in (*_BUSY_WAITS, 0.0):
            reply = await self._exchange(client, request)
            if not isinstance(reply, ExceptionResponse):
                return reply
            code = reply.exception_code
            # To a write, 5 says that it has begun; 6 that it has not.
            again = code == BUSY or (code == ACKNOWLEDGE and request.function == READ)
            if not again or part == 0.0:
                break
            self.note(
                f"busy {request.unit} {code}",
                f"{request}: exception {code}, {EXCEPTIONS[code][0]}: it was asked again a little later",
            )
            await asyncio.sleep(part * self.timeout_s)
        name, cure = EXCEPTIONS.get(code, ("not of the standard", "see its manual"))
        text = f"{request}: exception {code}, {name}: {cure}"
        raise self.fault(request.unit, text, refused=True, code=code)

    async def _exchange(self, client: Client, request: _Request) -> ModbusPDU:
        """Send one request and wait for its answer, which may be an exception."""
        self._fault = ""
        self.requests += 1
        try:
            async with asyncio.timeout(self.timeout_s) as self._guard:
                reply = await request.send(client)
        except (TimeoutError, ModbusException, OSError):
            if not self._fault and not client.connected:
                self._fault = _CLOSED  # it was closed before the request could be sent
            reason = self._fault or f"no answer within {self.timeout_s:g} s"
            if self._fault == _CLOSED and self._answered_s == math.inf:
                reason += f" before it answered anything: {self._connector.hint}"
            silent = not self._fault
            self._drop(unsure=True)
            raise self.fault(request.unit, f"{request}: {reason}", silent=silent) from None
        except BaseException:
            self._drop(unsure=True)
            raise
        finally:
            self._guard = None
        self._answered_s = asyncio.get_running_loop().time()
        return reply

    async def _connected(self, unit: int) -> Client:
        """Return a client that is connected and ready for a request."""
        if self._client is None or not self._client.connected:
            self._client = await self._connect(unit)
            self.connections += 1
            self._answered_s = math.inf
            await asyncio.sleep(0)  # a serial transport is set up on the loop's next turn
        if self._framing != "socket" and self._unsure:
            # The line is still the same line, and its frames carry no number: let a late answer pass.
            await asyncio.sleep(self.timeout_s)
        if isinstance(self.target, RtuTarget):
            await asyncio.sleep(max(38.5 / self.target.baud, 0.00175))  # 3.5 characters of silence
        self._unsure = False
        return self._client

    async def _connect(self, unit: int) -> Client:
        self._drop(unsure=self._unsure)
        try:
            return await self._connector.connect(self._inspect, self._notice)
        except NotConnectedError as error:
            self._fault = str(error)
            raise self.fault(unit, self._fault) from None

    def _inspect(self, sending: bool, data: bytes) -> bytes:
        """Look at every frame before pymodbus does."""
        if sending:
            self._request = data
            return data
        if self._guard is None:
            self.note("late", "an answer came when nothing was asked: after its time-out, twice, or unasked")
            return b""
        found = sift(self._framing, self._request, data)
        if found.stray:
            self.note("stray", f"{found.stray}; it was not taken for the answer that was due")
        if found.fault:
            self._give_up(found.fault)
            return b""
        return found.passed

    def _notice(self, connected: bool) -> None:
        if not connected:
            self._give_up(_CLOSED)

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

    Attributes
    ----------
    runs : dict
        How models that refuse some registers or long requests were read: by (address, count) of the model,
        the requests that were answered, as (first, last) offsets.
    empties : dict
        How often in a row a model was an empty frame, by its address.
    """

    def __init__(self, link: Link, number: int) -> None:
        self.link = link
        self.number = number
        self.runs: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}
        self.empties: dict[int, int] = {}

    async def read(self, address: int, count: int, what: str) -> list[int]:
        """Read registers; see `Link.read`."""
        return await self.link.read(self.number, address, count, what)

    async def write(self, address: int, registers: Sequence[int], what: str, *, apart: bool = False) -> None:
        """Write registers; see `Link.write`."""
        await self.link.write(self.number, address, registers, what, apart=apart)

    def note(self, phenomenon: str, text: str) -> None:
        """Note something odd of this unit; see `Link.note`."""
        place = "" if self.number == self.link.target.unit else f"unit {self.number}: "
        self.link.note(f"{self.number} {phenomenon}", place + text)

    def fault(
        self,
        text: str,
        *,
        refused: bool = False,
        code: int = 0,
        silent: bool = False,
        changed: bool = False,
    ) -> TargetError:
        """Return an error of this unit; see `Link.fault`."""
        return self.link.fault(self.number, text, refused=refused, code=code, silent=silent, changed=changed)
