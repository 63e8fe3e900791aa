"""pysunspec2's own IEEE 1547 device, `device_1547.json` of its tests, through our server and back.

The image is made by pysunspec2 from its file, served as it is, and read back: byte by byte with plain reads,
and point by point with pysunspec2's client over TCP.
"""

from __future__ import annotations

import asyncio
import json
import struct
import warnings
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator.server import serve_tcp
from sunspec2.file import client as file_client
from sunspec2.modbus import client, modbus

from tests.emulator.register_bench import witness_points

GOLDEN = files("sunspec2") / "tests" / "test_data" / "device_1547.json"
MARKER, END = b"SunS", b"\xff\xff\0\0"
BASE = 40000
MODELS = [1, *range(701, 714)]
DRAFT_NAMES = {
    "VL3N",
    "WMaxLim",
    "WMaxLimEna",
    "WMaxLim_SF",
    "CrvSt",
    "VRefTms",
    "Freq",
    "RvrtCrv",  # of 711, where it is RvrtCtl now
    "NPrt",  # of 714, which was 713
}
"""Points of an older draft: the models have them no more, so pysunspec2 leaves them out of the image."""


class StaticImage:
    """A unit of registers that never change and that nobody may write.

    Parameters
    ----------
    base_address : int
    data : bytes
        Two per register.
    """

    def __init__(self, base_address: int, data: bytes) -> None:
        self._base_address, self._data = base_address, data

    def read(self, address: int, count: int) -> bytes | int:
        """Return registers, or exception 2 outside the image."""
        first = 2 * (address - self._base_address)
        if first < 0 or first + 2 * count > len(self._data):
            return 2
        return self._data[first : first + 2 * count]

    def write(self, address: int, data: bytes) -> int:
        """Refuse: there is no register to write to."""
        return 2


def golden_device() -> Any:
    """Return the device as pysunspec2 makes it of its file."""
    device = file_client.FileClientDevice(str(GOLDEN), addr=BASE + 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its file to the collector
        device.scan()
    return device


IMAGE = MARKER + bytes(golden_device().get_mb()) + END


def numbers(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that the file states, under our names."""
    for name, value in group.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            for k, one in enumerate(value, 1):
                yield from numbers(one, f"{prefix}{name}[{k}].")
        elif value is not None:
            yield prefix + name, value


def scanned(data: bytes) -> tuple[list[int], dict[tuple[int, str], Any]]:
    """Return models and values that pysunspec2's client finds when our server serves an image."""

    def connect(port: int) -> tuple[list[int], dict[tuple[int, str], Any]]:
        device = client.SunSpecModbusClientDeviceTCP(slave_id=1, ipaddr="127.0.0.1", ipport=port, timeout=10)
        try:
            device.scan()
            found = {key: models for key, models in device.models.items() if isinstance(key, int)}
            return list(found), {
                (key, name): point.value
                for key, models in found.items()
                for model in models
                for name, point in witness_points(model)
            }
        finally:
            device.disconnect()

    async def serve() -> tuple[list[int], dict[tuple[int, str], Any]]:
        async with await serve_tcp({1: StaticImage(BASE, data)}) as server:
            return await asyncio.to_thread(connect, server.port)

    return asyncio.run(serve())


def ask(connection: Connection, address: int, count: int) -> bytes:
    """Return the registers of one read, or the exception's PDU."""
    reply = connection.receive(struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, address, count))
    return reply[9:] if reply[7] == 3 else reply[7:]


def test_the_image_is_a_whole_device() -> None:
    """1, 701 to 713; known registers where the standard puts them."""
    chain, at = [], 4
    while (head := struct.unpack_from(">HH", IMAGE, at)) != (0xFFFF, 0):
        chain.append(head)
        at += 4 + 2 * head[1]
    assert at + 4 == len(IMAGE)
    assert [model for model, _ in chain] == MODELS
    assert dict(chain)[701] == 153
    assert struct.unpack_from(">h", IMAGE, 2 * (2 + 68 + 10)) == (9800,)
    assert struct.unpack_from(">I", IMAGE, 2 * (2 + 68 + 17)) == (60010,)


def test_every_value_of_the_file_is_read_back_by_pysunspec2() -> None:
    models, found = scanned(IMAGE)
    assert models == MODELS
    seen, missing = 0, set()
    for model in json.loads(GOLDEN.read_text("utf-8"))["models"][:-1]:
        for name, value in numbers(model):
            if (model["ID"], name) not in found:
                missing.add(name.rpartition(".")[2])
                continue
            assert found[model["ID"], name] == value, (model["ID"], name)
            seen += 1
    assert seen > 250
    assert missing == DRAFT_NAMES


def test_one_changed_register_is_noticed() -> None:
    at = 2 * (2 + 68 + 10)
    models, found = scanned(IMAGE[:at] + b"\x12\x34" + IMAGE[at + 2 :])
    assert models == MODELS
    assert found[701, "W"] == 0x1234


@given(st.lists(st.integers(1, 125), min_size=1, max_size=4))
def test_the_registers_read_back_are_the_image_to_the_byte(sizes: list[int]) -> None:
    connection = Connection({1: StaticImage(BASE, IMAGE)})
    data, k = b"", 0
    while len(data) < len(IMAGE):
        left = (len(IMAGE) - len(data)) // 2
        data += ask(connection, BASE + len(data) // 2, min(sizes[k % len(sizes)], left))
        k += 1
    assert data == IMAGE
    assert ask(connection, BASE + len(IMAGE) // 2, 1) == ask(connection, BASE - 1, 2) == b"\x83\2"


def test_a_recorded_device_cannot_be_written() -> None:
    connection = Connection({1: StaticImage(BASE, IMAGE)})
    reply = connection.receive(struct.pack(">HHHBBHH", 1, 0, 6, 1, 6, BASE + 2 + 66, 5))
    assert reply[7:] == b"\x86\2"


def test_writing_through_pysunspec2_is_refused_too() -> None:
    def connect(port: int) -> str:
        device = client.SunSpecModbusClientDeviceTCP(slave_id=1, ipaddr="127.0.0.1", ipport=port, timeout=10)
        try:
            device.scan()
            device.connect()
            device.models[703][0].points["ES"].value = 0
            with pytest.raises(modbus.ModbusClientException) as caught:
                device.models[703][0].write()
            return str(caught.value)
        finally:
            device.disconnect()

    async def serve() -> str:
        async with await serve_tcp({1: StaticImage(BASE, IMAGE)}) as server:
            return await asyncio.to_thread(connect, server.port)

    assert asyncio.run(serve()) == "Modbus exception: 2"
