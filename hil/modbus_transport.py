"""Connecting to each kind of target: one pymodbus client for one connection.

Rules of this file:

- A new client for each connection: pymodbus mixes up the events of two connections of one client.
- pymodbus carries the bytes and nothing else: no retry, no reconnect, no time-out before ours.
- When connecting has failed, uses within a bounded back-off fail at once.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ModbusIOException
from pymodbus.framer import FramerType
from pymodbus.pdu.register_message import ReadHoldingRegistersResponse
from ridethrough.emulator.errors import ScenarioError

from .modbus_frames import Framing
from .target import AsciiTarget, RtuOverTcpTarget, RtuTarget, Target, TlsTarget

Client = AsyncModbusTcpClient | AsyncModbusSerialClient

_FRAMERS: Final = {"socket": FramerType.SOCKET, "rtu": FramerType.RTU, "ascii": FramerType.ASCII}

_BACKOFF_FIRST: Final = 0.05
_BACKOFF_MAX: Final = 2.0
"""Wait after a failed connect: at first, and at most, as parts of the time-out."""


class _Registers(ReadHoldingRegistersResponse):
    """The answer to function 3, taken apart in one go: this is what polls spend their time on."""

    def decode(self, data: bytes) -> None:
        """Take the registers out of an answer; one that is too short is an error."""
        if data[0] >= len(data):
            raise ModbusIOException(f"byte_count {data[0]} > length of packet {len(data)}", function_code=3)
        count = data[0] // 2
        self.registers = list(struct.unpack_from(f">{count}H", data, 1))

    def __str__(self) -> str:
        """Be short: pymodbus makes this text of every answer, to throw it away."""
        return f"{len(self.registers)} registers"


class NotConnectedError(Exception):
    """Why there is no connection, in words for the user; never leaves the link."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a client of Modbus/TCP Security shows and trusts, as PEM files.

    Attributes
    ----------
    cert, key : str or Path
        Our certificate, with those between it and its root, and its key.
    ca : str or Path
        Roots that the device's certificate may come from.
    """

    cert: str | Path
    key: str | Path
    ca: str | Path


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context of TLS 1.2 or newer that shows our certificate and checks the device's and its name.

    Raises
    ------
    ScenarioError
        A file cannot be read, or certificate and key do not fit each other.

    References
    ----------
    Modbus/TCP Security: both sides show a certificate, TLS 1.2 at least.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name in ("cert", "key", "ca"):
        path = Path(getattr(files, name))
        if not path.is_file():
            raise ScenarioError(f"tls {name}: {str(path)!r} found; allowed is a PEM file that exists")
    try:
        context.load_verify_locations(files.ca)
    except (ssl.SSLError, OSError) as error:
        raise ScenarioError(f"tls ca: {str(files.ca)!r} cannot be used: {error}; allowed is PEM") from None
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ScenarioError(
            f"tls cert, key: {str(files.cert)!r} and {str(files.key)!r} cannot be used: {error}; "
            "allowed are a certificate and its own key, in PEM, without a password"
        ) from None
    return context


def _no_password() -> str:
    """Nobody can be asked for one here."""
    raise ValueError("the key is locked with a password")


def framing_of(target: Target) -> Framing:
    """Return how frames look on the way to a target."""
    if isinstance(target, RtuTarget | RtuOverTcpTarget):
        return "rtu"
    return "ascii" if isinstance(target, AsciiTarget) else "socket"


def is_line(target: Target) -> bool:
    """Whether this machine's own serial port is used."""
    return isinstance(target, RtuTarget | AsciiTarget)


def make_client(
    target: Target,
    context: ssl.SSLContext | None,
    timeout_s: float,
    inspect: Callable[[bool, bytes], bytes],
    notice: Callable[[bool], None],
    failed: Callable[[OSError], None],
) -> Client:
    """Return a client that is not connected yet.

    Parameters
    ----------
    target : Target
    context : ssl.SSLContext or None
        For a `TlsTarget`.
    timeout_s : float
        pymodbus waits for an answer for as long [s].
    inspect : callable
        Given every frame that is sent (True) or has come so far (False); returns what pymodbus sees.
    notice : callable
        Told of a connection (True) and of its end (False).
    failed : callable
        Told why a connection could not be made, which pymodbus keeps to itself.
    """
    common: dict[str, Any] = {
        "framer": _FRAMERS[framing_of(target)],
        "timeout": timeout_s,
        "retries": 0,
        "reconnect_delay": 0,
        "trace_packet": inspect,
        "trace_connect": notice,
    }
    client: Client
    if isinstance(target, RtuTarget | AsciiTarget):
        wide = isinstance(target, RtuTarget) or target.parity == "N"
        client = AsyncModbusSerialClient(
            target.path,
            baudrate=target.baud,
            bytesize=8 if wide else 7,
            parity=target.parity,
            stopbits=target.stop_bits,
            **common,
        )
    else:
        client = AsyncModbusTcpClient(target.host, port=target.port, **common)
    create: Callable[..., Awaitable[Any]] = client.ctx.call_create
    if isinstance(target, TlsTarget):
        # Not pymodbus's own TLS client: its framer has no header, and Modbus/TCP Security keeps one.
        create = partial(create, ssl=context)
    client.ctx.call_create = partial(_told, create, failed)
    client.register(_Registers)
    return client


async def _told(create: Callable[[], Awaitable[Any]], failed: Callable[[OSError], None]) -> Any:
    try:
        return await create()
    except OSError as error:
        failed(error)
        raise
    except Exception as error:  # termios.error, where a port cannot do what is asked of it, is no OSError
        fault = OSError(f"the port does not take these settings (speed, parity, stop bits): {error}")
        failed(fault)
        raise fault from None


def connect_fault(reasons: Sequence[OSError]) -> str:
    """Return in words why a connection could not be made."""
    error = reasons[-1] if reasons else None
    if isinstance(error, ConnectionRefusedError):
        return "it refused the connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection: {error.reason or error}"
    if isinstance(error, ConnectionResetError):
        return "it closed the connection while it was being made"
    return f"it cannot be reached: {error}" if error is not None else "it cannot be reached"


class Connector:
    """Makes the connections to one target, one after the other.

    Parameters
    ----------
    target : Target
    timeout_s : float
        For making a connection [s].
    tls : TlsFiles or None
        What a `TlsTarget` needs, and only that.

    Raises
    ------
    ScenarioError
        The files do not fit the target, or cannot be used.
    """

    def __init__(self, target: Target, timeout_s: float, tls: TlsFiles | None) -> None:
        if (tls is None) == isinstance(target, TlsTarget):
            need = "needs" if tls is None else "takes no"
            raise ScenarioError(
                f"target {str(target)!r}: {need} certificate, key and CA (--cert, --key, --ca)"
            )
        self._target = target
        self._timeout_s = timeout_s
        self._context = None if tls is None else tls_context(tls)
        self._backoff_s = 0.0
        self._retry_at_s = -math.inf

    @property
    def close_s(self) -> float:
        """How long a transport takes to give its socket back [s]; TLS says good-bye first."""
        return 0.0 if self._context is None else 0.01

    @property
    def hint(self) -> str:
        """Why a device may close a connection without having answered anything."""
        secure = "" if self._context is None else ", or it does not accept our certificate"
        return f"another client may be connected (some devices allow one){secure}"

    async def connect(
        self, inspect: Callable[[bool, bytes], bytes], notice: Callable[[bool], None]
    ) -> Client:
        """Make a connection; see `make_client`.

        Raises
        ------
        NotConnectedError
            There is none, or the last attempt failed just now.
        """
        loop = asyncio.get_running_loop()
        left_s = self._retry_at_s - loop.time()
        if left_s > 0.0:
            raise NotConnectedError(
                f"could not be connected to just now; will be tried again in {left_s:.2g} s"
            )
        reasons: list[OSError] = []
        longer_s = 2.0 * self._timeout_s + 1.0  # the link's own time-out ends first and says why
        client = make_client(self._target, self._context, longer_s, inspect, notice, reasons.append)
        reason = ""
        try:
            async with asyncio.timeout(self._timeout_s):
                connected = await client.connect()
        except (TimeoutError, OSError, ValueError) as error:
            connected = False
            reason = str(error) or f"no connection within {self._timeout_s:g} s"
        except BaseException:
            client.close()
            raise
        if not connected:
            client.close()
            doubled_s = max(2.0 * self._backoff_s, _BACKOFF_FIRST * self._timeout_s)
            self._backoff_s = min(doubled_s, _BACKOFF_MAX * self._timeout_s)
            self._retry_at_s = loop.time() + self._backoff_s
            raise NotConnectedError(f"{reason or connect_fault(reasons)}; check {self._cure()}")
        self._backoff_s = 0.0
        return client

    def _cure(self) -> str:
        if is_line(self._target):
            return "that the port exists, that you may use it, and that no other program has it open"
        secure = "" if self._context is None else "that certificate, key and CA are the right ones, "
        return (
            f"that the device is on, its Modbus enabled, address and port right, {secure}and that no other "
            "client is connected (some devices allow one)"
        )
