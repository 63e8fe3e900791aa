"""A second reading of the protocol: what a correct server answers and what it lets change, in plain Python.

Duty: the witness of the fuzzer.  Rules of this file: nothing of the product is imported; written from the
documents (Application Protocol V1.1b3, Messaging on TCP/IP V1.0b, Serial Line V1.02) and the decisions in the
docstrings of _modbus.pyx and _pdu.pyx, on slices and struct instead of offsets; slow, and easy to check.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

BAD_FUNCTION, BAD_ADDRESS, BAD_VALUE = 1, 2, 3
ABSENT = 0x0B
PDU_MAX = 253


class Unit(Protocol):
    """A unit as in _pdu.pyx, with everything it may have."""

    functions: frozenset[int]

    def read(self, address: int, count: int, /) -> bytes | int: ...
    def write(self, address: int, data: bytes, /) -> int: ...
    def read_bits(self, address: int, count: int, inputs: bool, /) -> bytes | int: ...
    def write_bits(self, address: int, count: int, data: bytes, /) -> int: ...
    def identify(self) -> dict[int, bytes]: ...


class RefusedError(Exception):
    """A request that gets an exception; carries its code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def need(condition: bool, code: int = BAD_VALUE) -> None:
    if not condition:
        raise RefusedError(code)


def got(answer: bytes | int) -> bytes:
    if isinstance(answer, int):
        raise RefusedError(answer)
    return answer


def put(answer: int) -> None:
    need(answer == 0, answer)


def inside(address: int, count: int) -> None:
    need(address + count <= 65536, BAD_ADDRESS)


def trimmed(bits: bytes, count: int) -> bytes:
    number = int.from_bytes(bits, "little") & ((1 << count) - 1)
    return number.to_bytes(len(bits), "little")


class Misfit(RefusedError):  # noqa: N818 - a refusal of a special kind, not an error of ours
    """A request whose size is not what it says itself: the stream may be out of step."""

    def __init__(self) -> None:
        super().__init__(BAD_VALUE)


def words(data: bytes, count: int) -> tuple[int, ...]:
    """Read a request of exactly `count` words."""
    if len(data) != 2 * count:
        raise Misfit
    return struct.unpack(f">{count}H", data)


def counted(data: bytes, count: int) -> tuple[tuple[int, ...], bytes]:
    """Read `count` words, a byte count, and as many bytes."""
    if len(data) < 2 * count + 1 or len(data) != 2 * count + 1 + data[2 * count]:
        raise Misfit
    return words(data[: 2 * count], count), data[2 * count + 1 :]


def read_registers(unit: Unit, data: bytes, _: int) -> bytes:
    address, count = words(data, 2)
    need(1 <= count <= 125)
    inside(address, count)
    return bytes([2 * count]) + got(unit.read(address, count))


def read_bits(unit: Unit, data: bytes, function: int) -> bytes:
    address, count = words(data, 2)
    need(1 <= count <= 2000)
    inside(address, count)
    bits = got(unit.read_bits(address, count, function == 2))
    return bytes([len(bits)]) + trimmed(bits, count)


def write_coil(unit: Unit, data: bytes, _: int) -> bytes:
    address, value = words(data, 2)
    need(value in (0, 0xFF00))
    put(unit.write_bits(address, 1, b"\1" if value else b"\0"))
    return data


def write_register(unit: Unit, data: bytes, _: int) -> bytes:
    address, _value = words(data, 2)
    put(unit.write(address, data[2:]))
    return data


def echo(_: Unit, data: bytes, __: int) -> bytes:
    if len(data) < 2:
        raise Misfit
    need(data[:2] == b"\0\0", BAD_FUNCTION)
    if len(data) % 2:
        raise Misfit
    return data


def write_coils(unit: Unit, data: bytes, _: int) -> bytes:
    (address, count), bits = counted(data, 2)
    need(1 <= count <= 1968 and len(bits) == -(-count // 8))
    inside(address, count)
    put(unit.write_bits(address, count, trimmed(bits, count)))
    return data[:4]


def write_registers(unit: Unit, data: bytes, _: int) -> bytes:
    (address, count), values = counted(data, 2)
    need(1 <= count <= 123 and len(values) == 2 * count)
    inside(address, count)
    put(unit.write(address, values))
    return data[:4]


def mask_write(unit: Unit, data: bytes, _: int) -> bytes:
    address, and_mask, or_mask = words(data, 3)
    old = int.from_bytes(got(unit.read(address, 1)), "big")
    put(unit.write(address, (old & and_mask | or_mask & (0xFFFF - and_mask)).to_bytes(2, "big")))
    return data


def read_write(unit: Unit, data: bytes, _: int) -> bytes:
    (read, count, written, written_count), values = counted(data, 4)
    need(1 <= count <= 125 and 1 <= written_count <= 121 and len(values) == 2 * written_count)
    inside(read, count)
    inside(written, written_count)
    got(unit.read(read, count))
    put(unit.write(written, values))
    return bytes([2 * count]) + got(unit.read(read, count))


def identify(unit: Unit, data: bytes, _: int) -> bytes:
    if len(data) < 1:
        raise Misfit
    need(data[0] == 14, BAD_FUNCTION)
    if len(data) != 3:
        raise Misfit
    code, first = data[1], data[2]
    need(1 <= code <= 4)
    objects = unit.identify()
    top = max(objects)
    head = bytes([14, code, 0x81 if top < 3 else 0x82 if top < 128 else 0x83])
    if code == 4:
        need(first in objects, BAD_ADDRESS)
        return head + b"\0\0\1" + bytes([first, len(objects[first])]) + objects[first]
    listed = [n for n in sorted(objects) if n < {1: 3, 2: 128, 3: 256}[code]]
    listed = [n for n in listed if n >= first] if first in listed else listed
    body, sent = b"", 0
    while sent < len(listed) and 7 + len(body) + 2 + len(objects[listed[sent]]) <= PDU_MAX:
        value = objects[listed[sent]]
        body += bytes([listed[sent], len(value)]) + value
        sent += 1
    more = bytes([255, listed[sent]]) if sent < len(listed) else b"\0\0"
    return head + more + bytes([sent]) + body


READINGS: dict[int, Callable[[Unit, bytes, int], bytes]] = {
    1: read_bits,
    2: read_bits,
    3: read_registers,
    4: read_registers,
    5: write_coil,
    6: write_register,
    8: echo,
    15: write_coils,
    16: write_registers,
    22: mask_write,
    23: read_write,
    43: identify,
}


def answered(unit: Unit, pdu: bytes) -> tuple[bytes, bool]:
    """Carry out a request PDU; return the reply's PDU and whether the request was a misfit."""
    function = pdu[0]
    try:
        if function not in unit.functions:
            return bytes([function | 0x80, BAD_FUNCTION]), False
        return bytes([function]) + READINGS[function](unit, pdu[1:], function), False
    except RefusedError as refused:
        return bytes([function | 0x80, refused.code]), isinstance(refused, Misfit)


class Read(NamedTuple):
    """What became of a stream.

    Attributes
    ----------
    replies : bytes
    closed : bool
        Whether the connection is to end.
    left : int
        Size of the incomplete frame at the end [bytes].
    frames : int
        Frames completed.
    misfit : bool
        Whether the last request was a misfit, so that the next header decides.
    """

    replies: bytes
    closed: bool
    left: int
    frames: int
    misfit: bool


def read_stream(units: Mapping[int, Unit], stream: bytes, misfit: bool = False) -> Read:
    """Carry out a TCP stream from a frame's beginning on, whose last request was a misfit or not."""
    first = next(iter(units.values()))
    replies: list[bytes] = []
    at, frames = 0, 0
    while len(stream) - at >= 6:
        transaction, protocol, length = struct.unpack_from(">HHH", stream, at)
        if not 2 <= length <= 1 + PDU_MAX or (misfit and protocol):
            return Read(b"".join(replies), True, 0, frames, misfit)
        if len(stream) - at < 6 + length:
            break
        body, at, misfit, frames = stream[at + 6 : at + 6 + length], at + 6 + length, False, frames + 1
        if protocol:
            continue
        unit = units.get(body[0], first if body[0] in (0, 255) else None)
        if unit is None:
            reply = bytes([body[1] | 0x80, ABSENT])
        else:
            reply, misfit = answered(unit, body[1:])
        replies.append(struct.pack(">HHHB", transaction, 0, 1 + len(reply), body[0]) + reply)
    return Read(b"".join(replies), False, len(stream) - at, frames, misfit)


def read_serial(units: Mapping[int, Unit], body: bytes) -> bytes:
    """Carry out a frame of a serial line, without its check; return the reply's, empty for silence."""
    if not 2 <= len(body) <= 1 + PDU_MAX:
        return b""
    if body[0] == 0 and body[1] in (5, 6, 15, 16, 22):
        for unit in units.values():
            answered(unit, body[1:])
    if body[0] not in units:
        return b""
    return body[:1] + answered(units[body[0]], body[1:])[0]
