"""The rows of reference/modbus.md, 5.3, as data: what is sent, and what a correct server answers.

The answers were written down by hand from the column "Correct" and the frame layouts, not computed by code
that resembles the server's.  Any server can be judged by them: it serves a `Device` as unit 1, a row's bytes
go to a new connection, then `GOOD`; `judge_row` says whether what came back is correct.  Numbers are the
document's; a letter behind one marks a variant of ours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

REGISTERS = 200
READ_ONLY = range(180, 184)
BITS = 200
OBJECTS = {0: b"Ridethrough", 1: b"HOME-1", 2: b"0.1", 4: b"Home battery", 0x80: b"a device of one's own"}

ALL_FUNCTIONS = frozenset({1, 2, 3, 4, 5, 6, 8, 15, 16, 22, 23, 43})
SUNSPEC_FUNCTIONS = frozenset({3, 6, 16})

GOOD = bytes.fromhex("7001 0000 0006 01 03 0005 0002")
GOOD_REPLY = bytes.fromhex("7001 0000 0007 01 03 04 1005 1006")

AT_ONCE, BYTE_BY_BYTE, WITH_A_PAUSE, HALF_CLOSED = "at once", "byte by byte", "with a pause", "half-closed"
"""How a row is sent; the pause of 1 s comes behind the first 3 bytes, the half-close behind all of them."""


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


class Device(Memory):
    """The same with some registers read-only, 200 coils, 200 inputs and an identification.

    Every third coil is on, and every fifth input.
    """

    def __init__(self, functions: frozenset[int] = ALL_FUNCTIONS) -> None:
        super().__init__()
        self.functions = functions
        self.coils = [i % 3 == 0 for i in range(BITS)]
        self.inputs = [i % 5 == 0 for i in range(BITS)]
        self.objects: dict[int, bytes] = dict(OBJECTS)

    def write(self, address: int, data: bytes) -> int:
        if any(i in READ_ONLY for i in range(address, address + len(data) // 2)):
            self.calls.append(("write", address, len(data) // 2))
            return 2
        return super().write(address, data)

    def read_bits(self, address: int, count: int, inputs: bool) -> bytes | int:
        self.calls.append(("read_bits", address, count))
        bits = (self.inputs if inputs else self.coils)[address : address + count]
        if len(bits) != count:
            return 2
        return sum(on << i for i, on in enumerate(bits)).to_bytes((count + 7) // 8, "little")

    def write_bits(self, address: int, count: int, data: bytes) -> int:
        self.calls.append(("write_bits", address, count))
        if address + count > BITS:
            return 2
        number = int.from_bytes(data, "little")
        self.coils[address : address + count] = [bool(number >> i & 1) for i in range(count)]
        return 0

    def identify(self) -> Mapping[int, bytes]:
        return self.objects

    def state(self) -> tuple[bytes, list[bool], list[bool]]:
        """Return all that a client could change, and what it could not."""
        return bytes(self.cells), list(self.coils), list(self.inputs)


class Outcome(NamedTuple):
    """What a server may do.

    Attributes
    ----------
    replies : bytes
        All it answers to the row's bytes.
    closed : bool
        Whether it then closes the connection.
    """

    replies: bytes
    closed: bool = False


class Row(NamedTuple):
    """One row.

    Attributes
    ----------
    number : int
        The document's.
    variant : str
        Empty, or the letter of a variant of ours.
    what : str
        What is sent, in words.
    words : str
        The document's column "Correct".
    sent : bytes
    correct : tuple of Outcome
        What is correct: first what ours does whose unit serves all functions.
    sunspec : Outcome
        What ours does whose unit serves 3, 6 and 16 alone.
    how : str
        How the bytes are sent.
    needs : str
        What the row needs of the registers that not every server has; empty if nothing.
    """

    number: int
    variant: str
    what: str
    words: str
    sent: bytes
    correct: tuple[Outcome, ...]
    sunspec: Outcome
    how: str = AT_ONCE
    needs: str = ""

    @property
    def name(self) -> str:
        return f"{self.number}{self.variant}"


def judge_row(row: Row, replies: bytes, closed: bool, good_afterwards: bool) -> bool:
    """Return whether a server passes a row.

    Parameters
    ----------
    row : Row
    replies : bytes
        What it answered to the row's bytes, and to those alone.
    closed : bool
        Whether it has closed the connection, where the row is half a frame at the end of its time-out.
    good_afterwards : bool
        Whether `GOOD` was answered with `GOOD_REPLY`: on the same connection, or on a new one if closed.
    """
    return good_afterwards and Outcome(replies, closed) in row.correct


def row(
    name: str,
    what: str,
    words: str,
    sent: str,
    answer: str,
    *more: str,
    closed: bool = False,
    sunspec: str | None = None,
    how: str = AT_ONCE,
    needs: str = "",
) -> Row:
    """Read one row; `more` are further correct answers, CLOSE one without a reply.

    Where a unit that serves 3, 6 and 16 alone answers otherwise, that is correct too.
    """
    first = Outcome(bytes.fromhex(answer), closed)
    lesser = first if sunspec is None else Outcome(bytes.fromhex(sunspec))
    others = [Outcome(b"", True) if text == CLOSE else Outcome(bytes.fromhex(text)) for text in more]
    number = name.rstrip("abcd")
    correct = tuple(dict.fromkeys([first, lesser, *others]))
    return Row(
        int(number),
        name.removeprefix(number),
        what,
        words,
        bytes.fromhex(sent),
        correct,
        lesser,
        how,
        needs,
    )


def hexes(first: int, count: int) -> str:
    return "".join(f"{value:04x}" for value in range(first, first + count))


CLOSE = "close"
READ_1 = "0001 0000 0006 01 03 0000 0001"
READ_1_REPLY = "0001 0000 0005 01 03 02 1000"
NOISE = random.Random(42).randbytes(300).hex()
REQUEST_OF_HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".hex()


def no(function: str, code: str, unit: str = "01", transaction: str = "0001") -> str:
    """Return an exception reply; `function` has its top bit set."""
    return f"{transaction} 0000 0003 {unit} {function} {code}"


READS = [f"000{n} 0000 0006 01 03 {n:04x} 0001" for n in range(1, 6)]
READS_REPLIES = [f"000{n} 0000 0005 01 03 02 100{n}" for n in range(1, 6)]
BUSY = [no("83", "06", transaction=f"000{n}") for n in range(1, 6)]


def within(count: int, served: int) -> str:
    """Return the replies to `count` reads of which the server takes `served` at a time."""
    return "".join(READS_REPLIES[:served] + BUSY[served:count])


ROWS = [
    row("1", "FC3 one register", "OK", READ_1, READ_1_REPLY),
    row("2", "unknown FC 0x41", "exc 01", "0001 0000 0002 01 41", no("c1", "01")),
    row("3", "FC 0", "exc 01 (FC echoed as 80) or discard",
        "0001 0000 0002 01 00", no("80", "01"), "", CLOSE),
    row("4", "FC 0x83 as a request", "discard, or exc 01 with FC 83; never a valid-looking reply",
        "0001 0000 0006 01 83 0000 0001", no("83", "01"), "", CLOSE),
    row("5", "FC3 quantity 0", "exc 03", "0001 0000 0006 01 03 0000 0000", no("83", "03")),
    row("6", "FC3 quantity 125", "OK",
        "0001 0000 0006 01 03 0000 007d", "0001 0000 00fd 01 03 fa" + hexes(0x1000, 125)),
    row("7", "FC3 quantity 126", "exc 03", "0001 0000 0006 01 03 0000 007e", no("83", "03")),
    row("8", "FC3 quantity 65535", "exc 03", "0001 0000 0006 01 03 0000 ffff", no("83", "03")),
    row("9", "FC3 past the map", "exc 02", "0001 0000 0006 01 03 00c7 0002", no("83", "02")),
    row("10", "FC3 past 65535", "exc 02", "0001 0000 0006 01 03 ffff 0002", no("83", "02")),
    row("11", "FC3 truncated, length fits", "exc 03", "0001 0000 0004 01 03 0000", no("83", "03")),
    row("12", "FC3 bare", "exc 03", "0001 0000 0002 01 03", no("83", "03")),
    row("13", "FC3 two bytes more, length fits", "exc 03",
        "0001 0000 0008 01 03 0000 0001 0000", no("83", "03")),
    row("13a", "the same, a good request, a foreign protocol id", "exc 03, then in step",
        "0001 0000 0008 01 03 0000 0001 0000" + GOOD.hex() + "0003 0001 0006 01 03 0000 0001",
        no("83", "03") + GOOD_REPLY.hex()),
    row("14", "FC16 byte count 2 for 2", "exc 03", "0001 0000 0009 01 10 0000 0002 02 aaaa", no("90", "03")),
    row("15", "FC16 byte count 200, 4 bytes", "exc 03",
        "0001 0000 000b 01 10 0000 0064 c8 aaaa bbbb", no("90", "03")),
    row("16", "FC16 quantity 0", "exc 03", "0001 0000 0007 01 10 0000 0000 00", no("90", "03")),
    row("16a", "FC16 bare", "exc 03", "0001 0000 0002 01 10", no("90", "03")),
    row("16b", "FC16 ends before the byte count", "exc 03", "0001 0000 0006 01 10 0000 0001", no("90", "03")),
    row("17", "FC16 quantity 124", "exc 03, or close (byte count 248 makes the PDU 254 > 253)",
        "0001 0000 00ff 01 10 0000 007c f8" + hexes(0, 124), "", no("90", "03"), closed=True),
    row("18", "FC16 quantity 123", "OK",
        "0001 0000 00fd 01 10 0032 007b f6" + hexes(0, 123), "0001 0000 0006 01 10 0032 007b"),
    row("19", "FC5 value 0x1234", "exc 03",
        "0001 0000 0006 01 05 0000 1234", no("85", "03"), sunspec=no("85", "01")),
    row("20", "FC15 quantity 10 in one byte", "exc 03",
        "0001 0000 0008 01 0f 0000 000a 01 ff", no("8f", "03"), sunspec=no("8f", "01")),
    row("21", "FC1 quantity 2001", "exc 03",
        "0001 0000 0006 01 01 0000 07d1", no("81", "03"), sunspec=no("81", "01")),
    row("22", "FC23 read quantity 126", "exc 03",
        "0001 0000 000d 01 17 0000 007e 0000 0001 02 0000", no("97", "03"), sunspec=no("97", "01")),
    row("23", "FC22 truncated", "exc 03",
        "0001 0000 0004 01 16 0000", no("96", "03"), sunspec=no("96", "01")),
    row("24", "FC8 reserved sub-function 0x00ff", "exc 01", "0001 0000 0006 01 08 00ff 0000", no("88", "01")),
    row("25", "FC43/14 code 9", "exc 03",
        "0001 0000 0005 01 2b 0e 09 00", no("ab", "03"), sunspec=no("ab", "01")),
    row("26", "FC43 of unknown type 0x7f", "exc 01", "0001 0000 0003 01 2b 7f", no("ab", "01")),
    row("27", "protocol id 1", "discard silently; stay in sync or close",
        "0001 0001 0006 01 03 0000 0001", "", CLOSE),
    row("27a", "protocol id 0x8000", "the same", "0001 8000 0006 01 06 0000 0001", "", CLOSE),
    row("28", "length 0", "close (length < 2 cannot hold a PDU)",
        "0001 0000 0000 01 03 0000 0001", "", closed=True),
    row("29", "length 1", "close (no FC)", "0001 0000 0001 01", "", closed=True),
    row("30", "length 255, complete", "close (> 254), no reply",
        "0001 0000 00ff 01 03 0000 0001" + 249 * "00", "", closed=True),
    row("31", "length 65535", "close as soon as the header is read",
        "0001 0000 ffff 01 03 0000 00", "", closed=True),
    row("31a", "length 65535, header only", "the same", "0001 0000 ffff", "", closed=True),
    row("32", "length 2 too short, then a good request",
        "treat 2 bytes as missing: exc 03, then close (sync lost)",
        "0001 0000 0004 01 03 0000 0001" + GOOD.hex(), no("83", "03"), closed=True),
    row("32a", "the same in the place of a transaction id of 0", "the same",
        "0001 0000 0004 01 03 0000 0001" + "0000 0000 0006 01 03 0000 0001", no("83", "03"), closed=True),
    row("33", "length 4 too long", "wait; header/frame time-out; close; never answer early",
        "0001 0000 000a 01 03 0000 0001", "", closed=True),
    row("33a", "the same, then a good request", "not in step any more: exc 03, then close",
        "0001 0000 000a 01 03 0000 0001" + GOOD.hex(), no("83", "03"), closed=True),
    row("34", "absent unit 99", "server: answer, echo uid; gateway: 0A/0B",
        "0001 0000 0006 63 03 0000 0001", no("83", "0b", "63"), no("83", "0a", "63"),
        "0001 0000 0005 63 03 02 1000"),
    row("34a", "absent unit, FC6", "the same", "0001 0000 0006 63 06 0000 0001", no("86", "0b", "63"),
        no("86", "0a", "63"), "0001 0000 0006 63 06 0000 0001"),
    row("34b", "absent unit, unknown FC", "the same", "0001 0000 0002 63 41", no("c1", "0b", "63"),
        no("c1", "0a", "63"), no("c1", "01", "63")),
    row("35", "unit 0", "answer (0 = the server itself on TCP)",
        "0001 0000 0006 00 03 0000 0001", "0001 0000 0005 00 03 02 1000"),
    row("35a", "write to unit 0, no broadcast", "the same",
        "0001 0000 0006 00 06 0064 abcd", "0001 0000 0006 00 06 0064 abcd"),
    row("36", "unit 255", "answer (FF is the recommended value)",
        "0001 0000 0006 ff 03 0000 0001", "0001 0000 0005 ff 03 02 1000"),
    row("37", "two requests at once", "2 replies (or exc 06 for what exceeds the limit); never silence",
        "".join(READS[:2]), within(2, 2), within(2, 1)),
    row("38", "five requests at once", "5 replies or 06",
        "".join(READS), *(within(5, served) for served in (5, 4, 3, 2, 1))),
    row("38a", "five requests at once, two of them bad", "the same",
        READ_1 + "0002 0000 0006 01 06 0064 beef 0003 0000 0006 01 03 0000 0000"
        "0004 0000 0006 01 03 0064 0001 0005 0000 0002 01 07",
        READ_1_REPLY + "0002 0000 0006 01 06 0064 beef 0003 0000 0003 01 83 03"
        "0004 0000 0005 01 03 02 beef 0005 0000 0003 01 87 01"),
    row("39", "one byte at a time", "OK", READ_1, READ_1_REPLY, how=BYTE_BY_BYTE),
    row("40", "half header, 1 s pause, rest",
        "reply (time-out must be >= seconds and per connection)", READ_1, READ_1_REPLY, how=WITH_A_PAUSE),
    row("41", "request, then half-close", "reply, then close",
        READ_1, READ_1_REPLY, closed=True, how=HALF_CLOSED),
    row("42", "300 random bytes", "close, no reply", NOISE, "", closed=True),
    row("43", "HTTP", "close, no reply", REQUEST_OF_HTTP, "", closed=True),
    row("44", "FC6 out of the map", "exc 02", "0001 0000 0006 01 06 012c 0001", no("86", "02")),
    row("44a", "FC6", "OK", "0001 0000 0006 01 06 0064 0304", "0001 0000 0006 01 06 0064 0304"),
    row("44b", "FC6 truncated", "exc 03", "0001 0000 0005 01 06 0064 03", no("86", "03")),
    row("44c", "FC6 one byte more", "exc 03", "0001 0000 0007 01 06 0064 0304 05", no("86", "03")),
    row("45", "FC16 partly out of the map", "exc 02, no partial write",
        "0001 0000 000f 01 10 00c6 0004 08 0001 0002 0003 0004", no("90", "02")),
    row("45a", "FC16 past 65535", "exc 02", "0001 0000 000b 01 10 ffff 0002 04 0001 0002", no("90", "02")),
    row("45b", "FC16 up to 65535", "exc 02", "0001 0000 000b 01 10 fffe 0002 04 0001 0002", no("90", "02")),
    row("46", "FC24", "01 if not implemented, else 02/03 rules", "0001 0000 0004 01 18 0000",
        no("98", "01"), no("98", "02"), no("98", "03")),
    row("47", "FC20 bad byte count", "03 (01 if not implemented)",
        "0001 0000 0003 01 14 00", no("94", "01"), no("94", "03")),
    row("48", "FC7", "01 (or served)", "0001 0000 0002 01 07", no("87", "01"), "0001 0000 0003 01 07 00"),
    row("61", "FC6 to a read-only register", "exc 02", "0001 0000 0006 01 06 00b5 0001", no("86", "02"),
        needs="read-only registers"),
    row("62", "FC16 to a range that is partly writable", "exc 02, nothing written",
        "0001 0000 000f 01 10 00b2 0004 08 0001 0002 0003 0004", no("90", "02"),
        needs="read-only registers"),
    row("63", "FC3 in the middle of a 32-bit point", "legal; from one snapshot with its neighbour",
        "0001 0000 0006 01 03 0001 0001", "0001 0000 0005 01 03 02 1001"),
]  # fmt: skip

WRITING = frozenset({"18", "35a", "38a", "44a"})
"""Rows that rightly change something."""


class SerialRow(NamedTuple):
    """A frame on a serial line; an empty answer is silence.

    Attributes
    ----------
    text : bool
        Whether the frame is a line of text (ASCII) or binary (RTU).
    writes : bool
        Whether register 100 of unit 1 is 0x0304 afterwards.
    """

    name: str
    what: str
    words: str
    text: bool
    sent: bytes
    answer: bytes
    writes: bool = False


def with_crc(body: bytes) -> bytes:
    """Return a binary frame: the CRC bit by bit, as the serial line guide describes it."""
    crc = 0xFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return body + crc.to_bytes(2, "little")


def with_lrc(body: bytes) -> bytes:
    """Return a line of text."""
    return b":" + (body + bytes([-sum(body) % 256])).hex().upper().encode() + b"\r\n"


def rtu(name: str, what: str, words: str, sent: str, answer: str = "", *, writes: bool = False) -> SerialRow:
    return SerialRow(name, what, words, False, bytes.fromhex(sent), bytes.fromhex(answer), writes)


def text(name: str, what: str, words: str, sent: str, answer: str = "", *, writes: bool = False) -> SerialRow:
    return SerialRow(name, what, words, True, sent.encode("latin-1"), answer.encode("latin-1"), writes)


# The CRCs below were computed by pymodbus.
SERIAL_ROWS = [
    rtu("1", "FC3 one register", "OK", "01 03 0000 0001 840a", "01 03 02 1000 b584"),
    rtu("49", "wrong CRC", "silence", "01 03 0000 0001 840b"),
    rtu("49a", "CRC's bytes changed over", "silence", "01 03 0000 0001 0a84"),
    rtu("50", "other address, right CRC", "silence", "02 03 0000 0001 8439"),
    rtu("51", "broadcast write", "execute, no reply", "00 06 0064 0304 c8f7", writes=True),
    rtu("52", "broadcast read", "ignore", "00 03 0000 0001 85db"),
    rtu("55", "address 248", "silence (reserved)", "f8 03 0000 0001 9063"),
    rtu("55a", "address 255", "silence (reserved)", "ff 03 0000 0001 91d4"),
    SerialRow("56", "frame of 257 bytes", "discard", False,
              with_crc(bytes.fromhex("01 10 0000 007c f8" + hexes(0, 124))), b""),
    SerialRow("56a", "text of as many bytes", "discard", True,
              with_lrc(bytes.fromhex("01 10 0000 007c f8" + hexes(0, 124))), b""),
    text("1", "FC3 one register", "OK", ":010300000001FB\r\n", ":0103021000EA\r\n"),
    text("44a", "FC6", "OK", ":0106006403048E\r\n", ":0106006403048E\r\n", writes=True),
    text("51", "broadcast write", "execute, no reply", ":0006006403048F\r\n", writes=True),
    text("57", "odd number of digits", "discard, stay alive", ":010300000001F\r\n"),
    text("57a", "G for a digit", "discard, stay alive", ":01030000000GFB\r\n"),
    text("57b", "small letters, which the guide does not allow", "discard", ":010300000001fb\r\n"),
    text("58", "wrong LRC", "discard; restart at ':'", ":010300000001FC\r\n"),
    text("58a", "no CR LF", "discard; restart at ':'", ":010300000001FB\n\n"),
    text("58b", "new ':' inside", "discard; restart at ':'",
         ":0103000:010300000001FB\r\n", ":0103021000EA\r\n"),
    text("58c", "no ':'", "discard", "010300000001FB\r\n"),
    text("58d", "bytes that are no characters", "discard", ":01030000\xff\xfe01FB\r\n"),
    text("58e", "nothing but the frame", "discard", ":\r\n"),
]  # fmt: skip
