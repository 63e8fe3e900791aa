"""Modbus clients that others have written, all behind four methods.

The Python ones do not clash: pysunspec2, pymodbus, minimalmodbus and pyModbusTCP share one environment, the
extra ``test``, and `pip check` finds nothing to object to there.  mbpoll and libmodbus are Debian's.
A client that is not installed skips its tests, with that reason.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pytest
from pymodbus import FramerType
from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from sunspec2.modbus import client as sunspec
from sunspec2.modbus.modbus import ModbusClientException

from tests.witness import libmodbus

BAUD: Final = 115_200
WAIT_S: Final = 20.0
"""Longest wait for a reply; only reached when something is broken."""


class RefusedError(Exception):
    """The server has answered an exception.

    Attributes
    ----------
    code : int
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server answers.

    Attributes
    ----------
    host, port : str, int
        Over TCP.
    path, framing : str
        On a serial line; empty over TCP.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    framing: str = ""


class Client(Protocol):
    """One connection of a client, to one unit at a time; a refused request raises `RefusedError`."""

    def read(self, unit: int, address: int, count: int) -> list[int]: ...
    def write_one(self, unit: int, address: int, value: int) -> None: ...
    def write_many(self, unit: int, address: int, values: list[int]) -> None: ...
    def close(self) -> None: ...


class Pymodbus:
    """pymodbus's client that blocks."""

    def __init__(self, place: Place) -> None:
        self._client: ModbusTcpClient | ModbusSerialClient
        if place.path:
            framer = FramerType(place.framing)
            self._client = ModbusSerialClient(
                place.path, framer=framer, baudrate=BAUD, timeout=WAIT_S, retries=0
            )
        else:
            self._client = ModbusTcpClient(place.host, port=place.port, timeout=WAIT_S, retries=0)
        assert self._client.connect()

    def read(self, unit: int, address: int, count: int) -> list[int]:
        answer = self._client.read_holding_registers(address, count=count, device_id=unit)
        self._check(answer)
        return list(answer.registers)

    def write_one(self, unit: int, address: int, value: int) -> None:
        self._check(self._client.write_register(address, value, device_id=unit))

    def write_many(self, unit: int, address: int, values: list[int]) -> None:
        self._check(self._client.write_registers(address, values, device_id=unit))

    @staticmethod
    def _check(answer: Any) -> None:
        if answer.isError():
            raise RefusedError(answer.exception_code)

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]  # pymodbus's lack


class PyModbusTcp:
    """pyModbusTCP's client."""

    def __init__(self, place: Place) -> None:
        module = pytest.importorskip("pyModbusTCP.client", reason="pyModbusTCP is not installed")
        self.client = module.ModbusClient(place.host, place.port, timeout=WAIT_S)

    def read(self, unit: int, address: int, count: int) -> list[int]:
        self.client.unit_id = unit
        return list(self.checked(self.client.read_holding_registers(address, count)))

    def write_one(self, unit: int, address: int, value: int) -> None:
        self.client.unit_id = unit
        self.checked(self.client.write_single_register(address, value))

    def write_many(self, unit: int, address: int, values: list[int]) -> None:
        self.client.unit_id = unit
        self.checked(self.client.write_multiple_registers(address, values))

    def checked(self, answer: Any) -> Any:
        """Return an answer that is one."""
        if not answer:
            assert self.client.last_except, self.client.last_error_as_txt
            raise RefusedError(self.client.last_except)
        return answer

    def close(self) -> None:
        self.client.close()


class Minimalmodbus:
    """minimalmodbus, which knows serial lines alone."""

    def __init__(self, place: Place) -> None:
        self._module = pytest.importorskip("minimalmodbus", reason="minimalmodbus is not installed")
        self._one = self._module.Instrument(place.path, 1, mode=place.framing)
        self._one.serial.baudrate = BAUD

    def read(self, unit: int, address: int, count: int) -> list[int]:
        return list(self._asked(unit, self._one.read_registers, address, count))

    def write_one(self, unit: int, address: int, value: int) -> None:
        self._asked(unit, self._one.write_register, address, value, functioncode=6)

    def write_many(self, unit: int, address: int, values: list[int]) -> None:
        self._asked(unit, self._one.write_registers, address, values)

    def _asked(self, unit: int, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self._one.address = unit
        # It waits as long for all bytes of a good reply, of which an exception has fewer.
        self._one.serial.timeout = 1.0
        try:
            return call(*arguments, **options)
        except self._module.SlaveReportedException as error:
            codes = {"illegal function": 1, "illegal data address": 2, "illegal data value": 3}
            raise RefusedError(next(code for text, code in codes.items() if text in str(error))) from error

    def close(self) -> None:
        self._one.serial.close()


class Mbpoll:
    """Debian's mbpoll, one process per request."""

    def __init__(self, place: Place) -> None:
        if shutil.which("mbpoll") is None:
            pytest.skip("mbpoll is not installed")
        serial = ["-m", "rtu", "-b", str(BAUD), "-P", "none"]
        self._mode = serial if place.path else ["-m", "tcp", "-p", str(place.port)]
        self._where = place.path or place.host

    def read(self, unit: int, address: int, count: int) -> list[int]:
        said = self._said(unit, address, ["-c", str(count)], [])
        found = re.findall(r"^\[(\d+)\]:\s+0x([0-9A-F]{4})$", said, re.MULTILINE)
        assert [int(number) for number, _ in found] == list(range(address, address + count)), said
        return [int(value, 16) for _, value in found]

    def write_one(self, unit: int, address: int, value: int) -> None:
        self._said(unit, address, [], [f"{value:#06x}"])

    def write_many(self, unit: int, address: int, values: list[int]) -> None:
        self._said(unit, address, [], [f"{value:#06x}" for value in values])

    def _said(self, unit: int, address: int, options: list[str], values: list[str]) -> str:
        options = [*self._mode, "-a", str(unit), "-r", str(address), *options]
        command = ["mbpoll", *options, "-0", "-1", "-o", "10", "-t", "4:hex", self._where, *values]
        run = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
        said = run.stdout + run.stderr
        codes = {"Illegal function": 1, "Illegal data address": 2, "Illegal data value": 3}
        for text, code in codes.items():
            if text in said:
                raise RefusedError(code)
        assert run.returncode == 0, said
        return said

    def close(self) -> None:
        """There is nothing open."""


class Libmodbus:
    """libmodbus, through ctypes."""

    def __init__(self, place: Place) -> None:
        if libmodbus.NAME is None:
            pytest.skip("libmodbus is not installed")
        if place.path:
            self.client = libmodbus.Libmodbus.rtu(place.path, BAUD, WAIT_S)
        else:
            self.client = libmodbus.Libmodbus.tcp(place.host, place.port, WAIT_S)

    def read(self, unit: int, address: int, count: int) -> list[int]:
        values = (ctypes.c_uint16 * count)()
        self.call(unit, "read_registers", address, count, values)
        return list(values)

    def write_one(self, unit: int, address: int, value: int) -> None:
        self.call(unit, "write_register", address, value)

    def write_many(self, unit: int, address: int, values: list[int]) -> None:
        self.call(unit, "write_registers", address, len(values), (ctypes.c_uint16 * len(values))(*values))

    def call(self, unit: int, name: str, *arguments: Any) -> int:
        """Call a function for one unit."""
        self.client.call("set_slave", unit)
        try:
            return self.client.call(name, *arguments)
        except libmodbus.LibmodbusError as error:
            if error.code < 1:
                raise  # not the server's, but its own
            raise RefusedError(error.code) from error

    def close(self) -> None:
        self.client.close()


class Pysunspec2:
    """pysunspec2's client; it writes with function 16 alone."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._devices: dict[int, Any] = {}

    def _device(self, unit: int) -> Any:
        if unit not in self._devices:
            if self._place.path:
                self._devices[unit] = sunspec.SunSpecModbusClientDeviceRTU(
                    slave_id=unit, name=self._place.path, baudrate=BAUD, timeout=WAIT_S
                )
            else:
                self._devices[unit] = sunspec.SunSpecModbusClientDeviceTCP(
                    slave_id=unit, ipaddr=self._place.host, ipport=self._place.port, timeout=WAIT_S
                )
                self._devices[unit].connect()
        return self._devices[unit]

    def read(self, unit: int, address: int, count: int) -> list[int]:
        data = self._checked(self._device(unit).read, address, count)
        return [int.from_bytes(data[k : k + 2]) for k in range(0, len(data), 2)]

    def write_one(self, unit: int, address: int, value: int) -> None:
        self.write_many(unit, address, [value])

    def write_many(self, unit: int, address: int, values: list[int]) -> None:
        self._checked(self._device(unit).write, address, b"".join(value.to_bytes(2) for value in values))

    @staticmethod
    def _checked(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except ModbusClientException as error:
            code = re.fullmatch(r"Modbus exception:? (\d+).*", str(error))
            if code is None:
                raise
            raise RefusedError(int(code[1])) from error

    def close(self) -> None:
        for device in self._devices.values():
            device.close() if self._place.path else device.disconnect()


TCP: Final[dict[str, Callable[[Place], Client]]] = {
    "pysunspec2": Pysunspec2,
    "pymodbus": Pymodbus,
    "pyModbusTCP": PyModbusTcp,
    "mbpoll": Mbpoll,
    "libmodbus": Libmodbus,
}
RTU: Final[dict[str, Callable[[Place], Client]]] = {
    "pysunspec2": Pysunspec2,
    "pymodbus": Pymodbus,
    "minimalmodbus": Minimalmodbus,
    "mbpoll": Mbpoll,
    "libmodbus": Libmodbus,
}
ASCII: Final[dict[str, Callable[[Place], Client]]] = {"pymodbus": Pymodbus, "minimalmodbus": Minimalmodbus}
