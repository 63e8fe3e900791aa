"""Where a device answers, as users write it, such as ``tcp:192.0.2.7:502/1`` or ``rtu:/dev/ttyUSB0@9600/1``.

Rule of this file: text in, checked data out; nothing is opened or looked up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, cast

from ridethrough.emulator.errors import ScenarioError

TARGET_FORM: Final = (
    "tcp:HOST:PORT/UNIT such as tcp:192.0.2.7:502/1, tls:HOST:PORT/UNIT (port 802 may be left out), "
    "rtu+tcp:HOST:PORT/UNIT, rtu:PATH@BAUD/UNIT such as rtu:/dev/ttyUSB0@9600/1, or ascii:PATH@BAUD/UNIT; "
    "behind BAUD may stand ,N ,E or ,O for the parity and then ,1 or ,2 for the stop bits; "
    "/UNIT may be left out and is then 1"
)

BAUDS: Final = (1200, 2400, 4800, 9600, 14400, 19200, 38400, 57600, 115200, 230400)
"""Line speeds that are in use for Modbus [Bd]."""

TLS_PORT: Final = 802
"""Registered for Modbus/TCP Security."""

Parity = Literal["N", "E", "O"]
StopBits = Literal[1, 2]

_HOST = r"(?P<host>\[[^\]]+\]|[^:/\[\]\s]+)"
_UNIT = r"(?:/(?P<unit>[0-9]{1,9}))?"
_NET: Final = re.compile(rf"(?P<scheme>tcp|rtu\+tcp|tls):{_HOST}(?::(?P<port>[0-9]{{1,9}}))?{_UNIT}")
_LINE: Final = re.compile(
    r"(?P<scheme>rtu|ascii):(?P<path>[^@\s]+)@(?P<baud>[0-9]{1,9})"
    rf"(?:,(?P<parity>[NEO]))?(?:,(?P<stop>[0-9]{{1,3}}))?{_UNIT}"
)


@dataclass(frozen=True, slots=True)
class _NetTarget:
    """A unit behind a socket.

    Attributes
    ----------
    host : str
        Name or address; IPv6 without its brackets.
    port : int
    unit : int
        0 to 255; 0 and 255 mean the server's own device.
    """

    scheme: ClassVar[str]
    host: str
    port: int
    unit: int = 1

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}:{host}:{self.port}/{self.unit}"


@dataclass(frozen=True, slots=True)
class TcpTarget(_NetTarget):
    """A unit behind a Modbus/TCP server."""

    scheme = "tcp"


@dataclass(frozen=True, slots=True)
class RtuOverTcpTarget(_NetTarget):
    """A unit on a serial line behind a converter that hands RTU frames on as they are."""

    scheme = "rtu+tcp"


@dataclass(frozen=True, slots=True)
class TlsTarget(_NetTarget):
    """A unit behind a server of Modbus/TCP Security: Modbus/TCP frames inside TLS."""

    scheme = "tls"


@dataclass(frozen=True, slots=True)
class _LineTarget:
    """A unit on a serial line.

    Attributes
    ----------
    path : str
        Device file or port name.
    baud : int
        Line speed [Bd].
    unit : int
        1 to 247.
    parity : "N", "E" or "O"
        None, even, odd.
    stop_bits : 1 or 2
    """

    scheme: ClassVar[str]
    path: str
    baud: int
    unit: int = 1
    parity: Parity = "N"
    stop_bits: StopBits = 1

    def __str__(self) -> str:
        stop = f",{self.stop_bits}" if self.stop_bits != 1 else ""
        parity = f",{self.parity}" if stop or self.parity != "N" else ""
        return f"{self.scheme}:{self.path}@{self.baud}{parity}{stop}/{self.unit}"


@dataclass(frozen=True, slots=True)
class RtuTarget(_LineTarget):
    """A unit on a serial line that speaks RTU, 8 data bits."""

    scheme = "rtu"


@dataclass(frozen=True, slots=True)
class AsciiTarget(_LineTarget):
    """A unit on a serial line that speaks ASCII, 7 data bits with a parity bit, 8 without one."""

    scheme = "ascii"


Target = TcpTarget | RtuOverTcpTarget | TlsTarget | RtuTarget | AsciiTarget


def parse_target(text: str) -> Target:
    """Return the target that `text` names.

    Raises
    ------
    ScenarioError
        `text` has another form, or a number in it is out of range; the message shows the form.
    """
    if (match := _NET.fullmatch(text)) and (match["port"] or match["scheme"] == "tls"):
        port, unit = int(match["port"] or TLS_PORT), int(match["unit"] or 1)
        _check(text, "port", port, 1, 65_535)
        _check(text, "unit", unit, 0, 255)
        host = match["host"].strip("[]")
        if match["scheme"] == "rtu+tcp":
            _check(text, "unit", unit, 1, 247)
            return RtuOverTcpTarget(host, port, unit)
        return TcpTarget(host, port, unit) if match["scheme"] == "tcp" else TlsTarget(host, port, unit)
    if match := _LINE.fullmatch(text):
        baud, unit, stop = int(match["baud"]), int(match["unit"] or 1), int(match["stop"] or 1)
        if baud not in BAUDS:
            raise ScenarioError(f"target {text!r}: baud {baud} found; allowed {', '.join(map(str, BAUDS))}")
        _check(text, "unit", unit, 1, 247)
        _check(text, "stop bits", stop, 1, 2)
        line = (match["path"], baud, unit, cast(Parity, match["parity"] or "N"), cast(StopBits, stop))
        return RtuTarget(*line) if match["scheme"] == "rtu" else AsciiTarget(*line)
    raise ScenarioError(f"target {text!r} found; allowed {TARGET_FORM}")


def _check(text: str, name: str, number: int, low: int, high: int) -> None:
    if not low <= number <= high:
        raise ScenarioError(f"target {text!r}: {name} {number} found; allowed {low} to {high}")
