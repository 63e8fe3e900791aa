"""Where a device answers, as users write it: ``tcp:HOST:PORT/UNIT`` or ``rtu:PATH@BAUD/UNIT``.

Rule of this file: text in, checked data out; nothing is opened or looked up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ridethrough.emulator.errors import ScenarioError

TARGET_FORM: Final = (
    "tcp:HOST:PORT/UNIT such as tcp:192.0.2.7:502/1, or rtu:PATH@BAUD/UNIT such as rtu:/dev/ttyUSB0@9600/1; "
    "/UNIT may be left out and is then 1"
)

BAUDS: Final = (1200, 2400, 4800, 9600, 14400, 19200, 38400, 57600, 115200, 230400)
"""Line speeds that are in use for Modbus [Bd]."""

_TCP: Final = re.compile(
    r"tcp:(?P<host>\[[^\]]+\]|[^:/\[\]\s]+):(?P<port>[0-9]{1,9})(?:/(?P<unit>[0-9]{1,9}))?"
)
_RTU: Final = re.compile(r"rtu:(?P<path>[^@\s]+)@(?P<baud>[0-9]{1,9})(?:/(?P<unit>[0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A unit behind a Modbus/TCP server.

    Attributes
    ----------
    host : str
        Name or address; IPv6 without its brackets.
    port : int
    unit : int
        0 to 255; 0 and 255 mean the server's own device.
    """

    host: str
    port: int
    unit: int = 1

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}/{self.unit}"


@dataclass(frozen=True, slots=True)
class RtuTarget:
    """A unit on a serial line, 8 data bits, no parity, 1 stop bit.

    Attributes
    ----------
    path : str
        Device file or port name.
    baud : int
        Line speed [Bd].
    unit : int
        1 to 247.
    """

    path: str
    baud: int
    unit: int = 1

    def __str__(self) -> str:
        return f"rtu:{self.path}@{self.baud}/{self.unit}"


Target = TcpTarget | RtuTarget


def parse_target(text: str) -> Target:
    """Return the target that `text` names.

    Raises
    ------
    ScenarioError
        `text` has another form, or a number in it is out of range; the message shows the form.
    """
    if match := _TCP.fullmatch(text):
        port, unit = int(match["port"]), int(match["unit"] or 1)
        _check(text, "port", port, 1, 65_535)
        _check(text, "unit", unit, 0, 255)
        return TcpTarget(match["host"].strip("[]"), port, unit)
    if match := _RTU.fullmatch(text):
        baud, unit = int(match["baud"]), int(match["unit"] or 1)
        if baud not in BAUDS:
            raise ScenarioError(f"target {text!r}: baud {baud} found; allowed {', '.join(map(str, BAUDS))}")
        _check(text, "unit", unit, 1, 247)
        return RtuTarget(match["path"], baud, unit)
    raise ScenarioError(f"target {text!r} found; allowed {TARGET_FORM}")


def _check(text: str, name: str, number: int, low: int, high: int) -> None:
    if not low <= number <= high:
        raise ScenarioError(f"target {text!r}: {name} {number} found; allowed {low} to {high}")
