"""The rows for a real device instead of plain registers: a SunSpec unit whose map begins at address 0.

SunSpec allows that base, and there most rows mean the same as for plain registers.  Only what they read is
another value: the rows say it as 0x1000 + address, and here the unit's register takes its place.  Rows that
need the end of the map, a register that may be written or one that may not, get such addresses.
"""

from __future__ import annotations

import struct
from typing import Final

from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant

from tests.emulator.modbus_rows import (
    GOOD,
    GOOD_REPLY,
    ROWS,
    Outcome,
    Row,
    SerialRow,
    with_crc,
    with_lrc,
)
from tests.emulator.register_bench import HOME, dump, with_face
from tests.witness.measure import Exchange, Target

PROFILE: Final = with_face(HOME, base_address=0)
LIMIT_PCT: Final = 37
REGISTER_100, WRITTEN = bytes.fromhex("0064"), ("0304", "abcd", "beef")
NOT_HERE: Final = {"18": "no 123 registers in a row may be written"}


def make_unit() -> DeviceImage:
    """Return the unit; its plant stands still."""
    plant = Plant([PROFILE], soc_frac=0.61803)
    plant.advance(50 * 60)
    return units_of(plant, 0)[1]


def registers(unit: DeviceImage, address: int, count: int) -> bytes:
    data = unit.read(address, count)
    assert isinstance(data, bytes)
    return data


def place(unit: DeviceImage) -> tuple[bytes, bytes]:
    """Return address and new value of a register that may be written."""
    point = unit.layout.point(704, "WMaxLimPct")
    data = round(LIMIT_PCT * point.factor / 100 / point.divisor).to_bytes(2)
    assert registers(unit, point.address, 1) != data
    return point.address.to_bytes(2), data


def of_the_unit(unit: DeviceImage, body: bytes) -> bytes:
    """Return a frame's unit id and PDU with the unit's own addresses and values.

    A register written is always 100 in the rows; alone, it stands for the unit's that may be written.
    """
    address, value = place(unit)
    for text in WRITTEN:
        body = body.replace(REGISTER_100 + bytes.fromhex(text), address + value)
        body = body.replace(b"\x02" + bytes.fromhex(text), b"\x02" + value)
    body = body.replace(b"\x03" + REGISTER_100 + b"\0\1", b"\x03" + address + b"\0\1")
    if len(body) > 3 and body[1] == 3 and len(body) == 3 + body[2]:  # an answer to function 3
        found = [word for (word,) in struct.iter_unpack(">H", body[3:])]
        if found == [0x1064]:
            body = body[:3] + registers(unit, int.from_bytes(address), 1)
        elif all(0x1000 <= word < 0x1100 for word in found):
            body = body[:3] + b"".join(registers(unit, word - 0x1000, 1) for word in found)
    return body


def frames(stream: bytes) -> list[tuple[bytes, bytes]]:
    """Return header and rest of each whole frame of a stream of TCP, and what is left over as one more."""
    found = []
    while len(stream) > 7 and len(stream) >= (size := 6 + int.from_bytes(stream[4:6])) > 7:
        found.append((stream[:6], stream[6:size]))
        stream = stream[size:]
    return [*found, (stream, b"")]


def in_frames(unit: DeviceImage, stream: bytes) -> bytes:
    return b"".join(header + of_the_unit(unit, body) for header, body in frames(stream))


def request(body: str) -> bytes:
    data = bytes.fromhex(body)
    return b"\0\1\0\0" + len(data).to_bytes(2) + data


def middle(unit: DeviceImage) -> int:
    """Return the address of the second register of a point of 32 bits."""
    point = unit.layout.point(701, "Hz")
    assert point.size == 2
    return point.address + 1


def own_bytes(unit: DeviceImage) -> dict[str, bytes]:
    """Return what is sent in rows that are about places in the map."""
    end = unit.count
    limit, value = place(unit)
    start = int.from_bytes(limit)
    models = [point.address for point in unit.layout.points if point.name == "ID"]
    behind = min(address for address in models if address > start)
    across = value + registers(unit, start + 1, behind + 1 - start)  # L of the next model included
    read_only = unit.layout.point(701, "W").address
    return {
        "9": request(f"01 03 {end - 1:04x} 0002"),
        "44": request(f"01 06 {end + 100:04x} 0001"),
        "45": request(f"01 10 {end - 2:04x} 0004 08 0001 0002 0003 0004"),
        "61": request(f"01 06 {read_only:04x} 0001"),
        "62": request(f"01 10 {start:04x} {len(across) // 2:04x} {len(across):02x}" + across.hex()),
        "63": request(f"01 03 {middle(unit):04x} 0001"),
    }


def device_rows(unit: DeviceImage) -> list[Row]:
    """Return the rows that such a unit has."""
    own = own_bytes(unit)
    found = []
    for row in ROWS:
        if row.name in NOT_HERE:
            continue
        if row.name == "63":
            reply = bytes.fromhex("0001 0000 0005 01 03 02") + registers(unit, middle(unit), 1)
            correct: tuple[Outcome, ...] = (Outcome(reply),)
        else:
            correct = tuple(Outcome(in_frames(unit, o.replies), o.closed) for o in row.correct)
        sent = own.get(row.name, in_frames(unit, row.sent))
        found.append(row._replace(sent=sent, correct=correct, needs=""))
    return found


def device_target(unit: DeviceImage) -> Target:
    """Return the good request, and the whole map as it is now."""
    exchanges: list[Exchange] = []
    for first in range(0, unit.count, 125):
        data = registers(unit, first, min(125, unit.count - first))
        reply = b"\0\1\0\0" + (3 + len(data)).to_bytes(2) + b"\1\3" + bytes([len(data)]) + data
        exchanges.append((request(f"01 03 {first:04x} {len(data) // 2:04x}"), reply))
    assert b"".join(reply[9:] for _, reply in exchanges) == dump(unit)
    return Target((GOOD, in_frames(unit, GOOD_REPLY)), exchanges)


def device_line_row(unit: DeviceImage, row: SerialRow) -> SerialRow:
    """Return a row of a serial line with the unit's own addresses and values."""

    def own(frame: bytes) -> bytes:
        if not frame:
            return frame
        if row.text:
            return with_lrc(of_the_unit(unit, bytes.fromhex(frame[1:-4].decode())))
        return with_crc(of_the_unit(unit, frame[:-2]))

    return row._replace(sent=own(row.sent) if row.writes else row.sent, answer=own(row.answer))
