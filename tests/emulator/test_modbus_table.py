"""What the server answers to well-formed and malformed input, frame by frame.

The rows are those of reference/modbus.md, 5.3, that concern TCP.  The answers were written down by hand from
the column "Correct" and the frame layouts, not computed by code that resembles the server's.  test_server.py
runs the same table over a socket.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from ridethrough.emulator._modbus import Connection

REGISTERS = 200

GOOD = bytes.fromhex("7001 0000 0006 01 03 0005 0002")
GOOD_REPLY = bytes.fromhex("7001 0000 0007 01 03 04 1005 1006")


class Memory:
    """A unit of 200 registers; register i starts as 0x1000 + i."""

    def __init__(self) -> None:
        self.cells = bytearray(b"".join((0x1000 + i).to_bytes(2, "big") for i in range(REGISTERS)))
        self.calls: list[tuple[str, int, int]] = []

    def read(self, address: int, count: int) -> bytes | int:
        self.calls.append(("read", address, count))
        if address + count > REGISTERS:
            return 2
        return bytes(self.cells[2 * address : 2 * (address + count)])

    def write(self, address: int, data: bytes) -> int:
        self.calls.append(("write", address, len(data) // 2))
        if 2 * address + len(data) > 2 * REGISTERS:
            return 2
        self.cells[2 * address : 2 * address + len(data)] = data
        return 0


class Case(NamedTuple):
    row: str
    what: str
    sent: bytes
    answer: bytes
    closed: bool = False


def case(row: str, what: str, sent: str, answer: str, closed: bool = False) -> Case:
    return Case(row, what, bytes.fromhex(sent), bytes.fromhex(answer), closed)


def hexes(first: int, count: int) -> str:
    return "".join(f"{value:04x}" for value in range(first, first + count))


READ_1 = "0001 0000 0006 01 03 0000 0001"
READ_1_REPLY = "0001 0000 0005 01 03 02 1000"
NOISE = random.Random(42).randbytes(300).hex()
REQUEST_OF_HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".hex()

CASES = [
    case("1", "FC3 one register", READ_1, READ_1_REPLY),
    case("2", "unknown FC 0x41", "0001 0000 0002 01 41", "0001 0000 0003 01 c1 01"),
    case("3", "FC 0", "0001 0000 0002 01 00", "0001 0000 0003 01 80 01"),
    case("4", "FC 0x83 as a request", "0001 0000 0006 01 83 0000 0001", "0001 0000 0003 01 83 01"),
    case("5", "FC3 quantity 0", "0001 0000 0006 01 03 0000 0000", "0001 0000 0003 01 83 03"),
    case("6", "FC3 quantity 125",
         "0001 0000 0006 01 03 0000 007d", "0001 0000 00fd 01 03 fa" + hexes(0x1000, 125)),
    case("7", "FC3 quantity 126", "0001 0000 0006 01 03 0000 007e", "0001 0000 0003 01 83 03"),
    case("8", "FC3 quantity 65535", "0001 0000 0006 01 03 0000 ffff", "0001 0000 0003 01 83 03"),
    case("9", "FC3 past the map", "0001 0000 0006 01 03 00c7 0002", "0001 0000 0003 01 83 02"),
    case("10", "FC3 past 65535", "0001 0000 0006 01 03 ffff 0002", "0001 0000 0003 01 83 02"),
    case("11", "FC3 truncated, length fits", "0001 0000 0004 01 03 0000", "0001 0000 0003 01 83 03"),
    case("12", "FC3 bare", "0001 0000 0002 01 03", "0001 0000 0003 01 83 03"),
    case("13", "FC3 two bytes more, length fits",
         "0001 0000 0008 01 03 0000 0001 0000", "0001 0000 0003 01 83 03"),
    case("13a", "the same, a good request, a foreign protocol id",
         "0001 0000 0008 01 03 0000 0001 0000" + GOOD.hex() + "0003 0001 0006 01 03 0000 0001",
         "0001 0000 0003 01 83 03" + GOOD_REPLY.hex()),
    case("14", "FC16 byte count 2 for 2",
         "0001 0000 0009 01 10 0000 0002 02 aaaa", "0001 0000 0003 01 90 03"),
    case("15", "FC16 byte count 200, 4 bytes",
         "0001 0000 000b 01 10 0000 0064 c8 aaaa bbbb", "0001 0000 0003 01 90 03"),
    case("16", "FC16 quantity 0", "0001 0000 0007 01 10 0000 0000 00", "0001 0000 0003 01 90 03"),
    case("16a", "FC16 bare", "0001 0000 0002 01 10", "0001 0000 0003 01 90 03"),
    case("16b", "FC16 ends before the byte count",
         "0001 0000 0006 01 10 0000 0001", "0001 0000 0003 01 90 03"),
    case("17", "FC16 quantity 124", "0001 0000 00ff 01 10 0000 007c f8" + hexes(0, 124), "", closed=True),
    case("18", "FC16 quantity 123",
         "0001 0000 00fd 01 10 0032 007b f6" + hexes(0, 123), "0001 0000 0006 01 10 0032 007b"),
    case("19", "FC5", "0001 0000 0006 01 05 0000 1234", "0001 0000 0003 01 85 01"),
    case("20", "FC15", "0001 0000 0008 01 0f 0000 000a 01 ff", "0001 0000 0003 01 8f 01"),
    case("21", "FC1", "0001 0000 0006 01 01 0000 07d1", "0001 0000 0003 01 81 01"),
    case("22", "FC23", "0001 0000 000d 01 17 0000 007e 0000 0001 02 0000", "0001 0000 0003 01 97 01"),
    case("23", "FC22 truncated", "0001 0000 0004 01 16 0000", "0001 0000 0003 01 96 01"),
    case("24", "FC8", "0001 0000 0006 01 08 00ff 0000", "0001 0000 0003 01 88 01"),
    case("25", "FC43 device identification", "0001 0000 0005 01 2b 0e 09 00", "0001 0000 0003 01 ab 01"),
    case("26", "FC43 unknown", "0001 0000 0003 01 2b 7f", "0001 0000 0003 01 ab 01"),
    case("27", "protocol id 1 is dropped", "0001 0001 0006 01 03 0000 0001", ""),
    case("27a", "protocol id 0x8000 is dropped", "0001 8000 0006 01 06 0000 0001", ""),
    case("28", "length 0", "0001 0000 0000 01 03 0000 0001", "", closed=True),
    case("29", "length 1", "0001 0000 0001 01", "", closed=True),
    case("30", "length 255", "0001 0000 00ff 01 03 0000 0001" + 249 * "00", "", closed=True),
    case("31", "length 65535", "0001 0000 ffff 01 03 0000 00", "", closed=True),
    case("31a", "length 65535, header only", "0001 0000 ffff", "", closed=True),
    case("32", "length 2 too short, then a good request", "0001 0000 0004 01 03 0000 0001" + GOOD.hex(),
         "0001 0000 0003 01 83 03", closed=True),
    case("32a", "the same in the place of a tid of 0",
         "0001 0000 0004 01 03 0000 0001" + "0000 0000 0006 01 03 0000 0001",
         "0001 0000 0003 01 83 03", closed=True),
    case("33", "length 4 too long, then a good request", "0001 0000 000a 01 03 0000 0001" + GOOD.hex(),
         "0001 0000 0003 01 83 03", closed=True),
    case("34", "absent unit 99", "0001 0000 0006 63 03 0000 0001", "0001 0000 0003 63 83 0b"),
    case("34a", "absent unit, FC6", "0001 0000 0006 63 06 0000 0001", "0001 0000 0003 63 86 0b"),
    case("35", "unit 0", "0001 0000 0006 00 03 0000 0001", "0001 0000 0005 00 03 02 1000"),
    case("35a", "write to unit 0 is no broadcast",
         "0001 0000 0006 00 06 0064 abcd", "0001 0000 0006 00 06 0064 abcd"),
    case("36", "unit 255", "0001 0000 0006 ff 03 0000 0001", "0001 0000 0005 ff 03 02 1000"),
    case("37", "two requests at once", READ_1 + "0002 0000 0006 01 03 0001 0001",
         READ_1_REPLY + "0002 0000 0005 01 03 02 1001"),
    case("38", "five requests at once, one of them bad",
         READ_1 + "0002 0000 0006 01 06 0064 beef 0003 0000 0006 01 03 0000 0000"
         "0004 0000 0006 01 03 0064 0001 0005 0000 0002 01 07",
         READ_1_REPLY + "0002 0000 0006 01 06 0064 beef 0003 0000 0003 01 83 03"
         "0004 0000 0005 01 03 02 beef 0005 0000 0003 01 87 01"),
    case("42", "300 random bytes", NOISE, "", closed=True),
    case("43", "HTTP", REQUEST_OF_HTTP, "", closed=True),
    case("44", "FC6 out of the map", "0001 0000 0006 01 06 012c 0001", "0001 0000 0003 01 86 02"),
    case("44a", "FC6", "0001 0000 0006 01 06 0064 0304", "0001 0000 0006 01 06 0064 0304"),
    case("44b", "FC6 truncated", "0001 0000 0005 01 06 0064 03", "0001 0000 0003 01 86 03"),
    case("44c", "FC6 one byte more", "0001 0000 0007 01 06 0064 0304 05", "0001 0000 0003 01 86 03"),
    case("45", "FC16 partly out of the map", "0001 0000 000f 01 10 00c6 0004 08 0001 0002 0003 0004",
         "0001 0000 0003 01 90 02"),
    case("45a", "FC16 past 65535", "0001 0000 000b 01 10 ffff 0002 04 0001 0002", "0001 0000 0003 01 90 02"),
    case("45b", "FC16 up to 65535", "0001 0000 000b 01 10 fffe 0002 04 0001 0002", "0001 0000 0003 01 90 02"),
    case("46", "FC24", "0001 0000 0004 01 18 0000", "0001 0000 0003 01 98 01"),
    case("47", "FC20", "0001 0000 0003 01 14 00", "0001 0000 0003 01 94 01"),
    case("48", "FC7", "0001 0000 0002 01 07", "0001 0000 0003 01 87 01"),
]  # fmt: skip

IN_TEST_SERVER = {"39", "40", "41"}
"""Rows about time and about the end of the stream."""

each_case = pytest.mark.parametrize("item", CASES, ids=[f"{c.row}: {c.what}" for c in CASES])


def test_no_row_is_missing() -> None:
    rows = {c.row.rstrip("abc") for c in CASES} | IN_TEST_SERVER
    assert rows == {str(row) for row in range(1, 49)}


@each_case
def test_in_one_piece(item: Case) -> None:
    connection = Connection({1: Memory()})
    assert connection.receive(item.sent).hex(" ") == item.answer.hex(" ")
    assert connection.closed is item.closed
    assert connection.pending == 0


@each_case
def test_byte_by_byte(item: Case) -> None:
    connection = Connection({1: Memory()})
    answer = b"".join(connection.receive(item.sent[i : i + 1]) for i in range(len(item.sent)))
    assert answer.hex(" ") == item.answer.hex(" ")
    assert connection.closed is item.closed
    assert connection.pending == 0


@each_case
def test_split_at_every_byte(item: Case) -> None:
    for cut in range(1, len(item.sent)):
        connection = Connection({1: Memory()})
        answer = connection.receive(item.sent[:cut]) + connection.receive(item.sent[cut:])
        assert answer.hex(" ") == item.answer.hex(" "), f"cut after {cut}"
        assert connection.closed is item.closed, f"cut after {cut}"
        assert connection.pending == 0, f"cut after {cut}"


@each_case
def test_good_request_afterwards(item: Case) -> None:
    connection = Connection({1: Memory()})
    connection.receive(item.sent)
    answer = connection.receive(GOOD)
    assert answer == (b"" if item.closed else GOOD_REPLY)


@each_case
def test_good_request_before(item: Case) -> None:
    connection = Connection({1: Memory()})
    assert connection.receive(GOOD + item.sent) == GOOD_REPLY + item.answer
    assert connection.closed is item.closed


@each_case
def test_refused_requests_change_nothing(item: Case) -> None:
    memory = Memory()
    Connection({1: memory}).receive(item.sent)
    accepted = item.row in {"18", "35a", "38", "44a"}
    assert (memory.cells != Memory().cells) is accepted
