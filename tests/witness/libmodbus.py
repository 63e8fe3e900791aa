"""libmodbus's client, called through ctypes; every call that fails raises `LibmodbusError`."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any, Self

NAME = ctypes.util.find_library("modbus")
FIRST_EXCEPTION = 112_345_678
"""libmodbus adds a reply's exception code to this and calls it errno."""


class LibmodbusError(OSError):
    """A call has failed; the number is libmodbus's."""

    @property
    def code(self) -> int:
        """The exception code that the server answered."""
        return int(self.errno or 0) - FIRST_EXCEPTION


class Libmodbus:
    """A connection; made by `tcp` or `rtu`."""

    def __init__(self, library: ctypes.CDLL, context: int | None, wait_s: float) -> None:
        self._library = library
        self._context = ctypes.c_void_p(context)
        assert self._context.value
        self.call("connect")
        self.call("set_response_timeout", ctypes.c_uint32(int(wait_s)), ctypes.c_uint32(0))

    @classmethod
    def tcp(cls, host: str, port: int, wait_s: float) -> Self:
        """Connect to a server."""
        library = _library("modbus_new_tcp", ctypes.c_char_p, ctypes.c_int)
        return cls(library, library.modbus_new_tcp(host.encode(), port), wait_s)

    @classmethod
    def rtu(cls, path: str, baud: int, wait_s: float) -> Self:
        """Open a serial line without parity."""
        ints = [ctypes.c_int] * 2
        library = _library("modbus_new_rtu", ctypes.c_char_p, ctypes.c_int, ctypes.c_char, *ints)
        return cls(library, library.modbus_new_rtu(path.encode(), baud, b"N", 8, 1), wait_s)

    def call(self, name: str, *arguments: Any) -> int:
        """Call a function of libmodbus by its name without the prefix."""
        result = int(getattr(self._library, f"modbus_{name}")(self._context, *arguments))
        if result < 0:
            number = ctypes.get_errno()
            raise LibmodbusError(number, self._library.modbus_strerror(number).decode())
        return result

    def read(self, address: int, count: int) -> list[int]:
        """Return holding registers."""
        values = (ctypes.c_uint16 * count)()
        assert self.call("read_registers", address, count, values) == count
        return list(values)

    def close(self) -> None:
        self._library.modbus_close(self._context)
        self._library.modbus_free(self._context)


def _library(make: str, *arguments: Any) -> ctypes.CDLL:
    library = ctypes.CDLL(NAME, use_errno=True)
    getattr(library, make).restype = ctypes.c_void_p
    getattr(library, make).argtypes = arguments
    library.modbus_strerror.restype = ctypes.c_char_p
    return library
