"""Serial ports as the line server needs them: opened, named, and with a cure when they cannot be had.

Rule of this file: ports only; nothing of Modbus, nothing of time.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import serial  # type: ignore[import-untyped]  # pyserial publishes no types

from .errors import ScenarioError

if sys.platform != "win32":
    import termios
    import tty

_PTY_PATH: Final = re.compile(r"/dev/(pts/\d+|tty[p-za-e][0-9a-f]+)")
_CURES: Final = {
    errno.ENOENT: "there is no such port; look in /dev/serial/by-id, or take 'pty' for a new one",
    errno.EACCES: "it is not yours to open; join the group that owns it (dialout, uucp) and log in again",
    errno.EAGAIN: "another program holds it; end that program or take another port",
    errno.EBUSY: "another program holds it; end that program or take another port",
    errno.ENOTTY: "it is no serial port; name one, such as /dev/ttyUSB0",
}


@dataclass(slots=True)
class Port:
    """An open port.

    Attributes
    ----------
    fd : int
        Our end; it never blocks.
    path : str
        What a client opens, if the port is a pseudo terminal of our own; else the port.
    is_pty : bool
        Whether bytes go through at once, whatever speed is set.
    close : callable
    slave : int or None
        The client's end of a pseudo terminal of our own.
    speed : int or None
        Constant of `termios` for our speed there.
    """

    fd: int
    path: str
    is_pty: bool
    close: Callable[[], None]
    slave: int | None = None
    speed: int | None = None

    def foreign_speed(self) -> bool:
        """Return whether the client has set another speed than ours."""
        if self.slave is None or self.speed is None:
            return False
        _, _, _, _, speed_in, speed_out, _ = termios.tcgetattr(self.slave)
        return (speed_in, speed_out) != (self.speed, self.speed)


def pty_pair() -> tuple[int, int, str]:
    """Make a pseudo terminal in raw mode; return its two ends and the path at which clients open the second.

    Whoever serves on the first end keeps the second one open too: otherwise a client that leaves ends the
    line.

    Raises
    ------
    ScenarioError
        The system has no pseudo terminals, or none left.
    """
    if sys.platform == "win32":
        raise ScenarioError("path: 'pty' found; this system has no pseudo terminals, name a serial port")
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise ScenarioError(
            f"path: 'pty' found; no pseudo terminal to be had ({error.strerror}); close some, or name a port"
        ) from error
    tty.setraw(slave)
    return master, slave, os.ttyname(slave)


def open_pty(baud: int) -> Port:
    """Make a pseudo terminal of our own; its client's end begins with our speed."""
    master, slave, path = pty_pair()

    def close() -> None:
        os.close(master)
        os.close(slave)

    speed = getattr(termios, f"B{baud}", None)  # a speed without a name cannot be compared
    settings = termios.tcgetattr(slave)
    if speed is not None:
        settings[4] = settings[5] = speed
        termios.tcsetattr(slave, termios.TCSANOW, settings)
    os.set_blocking(master, False)
    return Port(master, path, True, close, slave, speed)


def open_port(path: str, baud: int, bytesize: int, parity: str, stopbits: int) -> Port:
    """Open a port of the system's through pyserial.

    Raises
    ------
    ScenarioError
        It cannot be opened or cannot have that speed or character; the message says why and what to do.
    """
    if not isinstance(path, str) or not path or "\0" in path:
        raise ScenarioError(f"path: {path!r} found; name a port such as /dev/ttyUSB0, or 'pty' for a new one")
    if sys.platform == "win32":
        raise ScenarioError(f"path: {path!r} found; serial lines are served on Linux and macOS only")
    is_pty = _PTY_PATH.fullmatch(os.path.realpath(path)) is not None
    if is_pty:
        bytesize, parity, stopbits = 8, "N", 1  # it knows no other character, and may refuse to be told one
    try:
        port = serial.Serial(path, baud, bytesize, parity, stopbits, timeout=0, exclusive=True)
        # pyserial lets a read return nothing, which would look like a port that is gone.
        settings = termios.tcgetattr(port.fileno())
        settings[6][termios.VMIN] = 1
        termios.tcsetattr(port.fileno(), termios.TCSANOW, settings)
    except (OSError, ValueError, OverflowError, termios.error) as error:
        raise ScenarioError(f"path: cannot serve on {path!r} at {baud} Bd: {_cure(path, error)}") from error
    return Port(port.fileno(), path, is_pty, port.close)


def _cure(path: str, error: Exception) -> str:
    """Say in plain words why a port cannot be had, and what to do."""
    numbers = [*error.args[:1], *(error.__context__.args[:1] if error.__context__ else ())]
    number = next((number for number in numbers if isinstance(number, int)), None)
    if Path(path).exists() and not Path(path).is_char_device():
        number = errno.ENOTTY
    if number in _CURES:
        return _CURES[number]
    if number in (None, errno.EINVAL):
        return f"it refuses this speed or character ({error}); take a speed it has, such as 9600 or 19200"
    return f"{os.strerror(number)}; check the cable and that its driver is loaded, or take another port"
