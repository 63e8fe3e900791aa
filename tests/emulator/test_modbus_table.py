"""What the core answers to well-formed and malformed input, frame by frame.

The rows are in modbus_rows.py.  test_server.py runs the same table over a socket.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from ridethrough.emulator._modbus import Connection

from tests.emulator.modbus_rows import (
    ALL_FUNCTIONS,
    GOOD,
    GOOD_REPLY,
    HALF_CLOSED,
    REGISTERS,
    ROWS,
    SERIAL_ROWS,
    SUNSPEC_FUNCTIONS,
    WRITING,
    Device,
    Memory,
    Row,
    judge_row,
)

__all__ = ["CASES", "GOOD", "GOOD_REPLY", "REGISTERS", "Case", "Memory", "each_case"]


class Case(NamedTuple):
    """A row as a server over a socket answers it that serves a plain `Memory`."""

    row: str
    what: str
    sent: bytes
    answer: bytes
    closed: bool = False


IN_TEST_SERVER = {33, 39, 40, 41}
"""Rows about time and about the end of the stream."""

CASES = [
    Case(row.name, row.what, row.sent, row.sunspec.replies, row.sunspec.closed)
    for row in ROWS
    if not row.needs and (row.number not in IN_TEST_SERVER or row.variant)
]
each_case = pytest.mark.parametrize("item", CASES, ids=[f"{c.row}: {c.what}" for c in CASES])

each_row = pytest.mark.parametrize("row", ROWS, ids=[f"{row.name}: {row.what}" for row in ROWS])
each_kind = pytest.mark.parametrize("functions", [ALL_FUNCTIONS, SUNSPEC_FUNCTIONS], ids=["all", "sunspec"])


def expected(row: Row, functions: frozenset[int]) -> tuple[bytes, bool, int]:
    """Return the replies, whether the connection ends, and the size of what is left waiting."""
    replies, closed = row.correct[0] if functions == ALL_FUNCTIONS else row.sunspec
    if row.name == "33":  # ends by the server's frame time-out, which is not the core's business
        return b"", False, len(row.sent)
    return replies, closed and row.how != HALF_CLOSED, 0


def told(connection: Connection, pieces: list[bytes]) -> tuple[bytes, bool, int]:
    replies = b"".join(connection.receive(piece) for piece in pieces)
    return replies, connection.closed, connection.pending


def test_no_row_is_missing() -> None:
    """Rows 53 and 54 are about time on the line, 59 and 60 about TLS."""
    rows = {row.number for row in ROWS} | {int(row.name.rstrip("abcde")) for row in SERIAL_ROWS}
    assert rows == set(range(1, 64)) - {53, 54, 59, 60}
    assert {row.name for row in ROWS} >= WRITING


@each_kind
@each_row
def test_in_one_piece(row: Row, functions: frozenset[int]) -> None:
    assert told(Connection({1: Device(functions)}), [row.sent]) == expected(row, functions)


@each_kind
@each_row
def test_byte_by_byte(row: Row, functions: frozenset[int]) -> None:
    pieces = [row.sent[i : i + 1] for i in range(len(row.sent))]
    assert told(Connection({1: Device(functions)}), pieces) == expected(row, functions)


@each_kind
@each_row
def test_split_at_every_byte(row: Row, functions: frozenset[int]) -> None:
    for cut in range(1, len(row.sent)):
        found = told(Connection({1: Device(functions)}), [row.sent[:cut], row.sent[cut:]])
        assert found == expected(row, functions), f"cut after {cut}"


@each_kind
@each_row
def test_good_request_before(row: Row, functions: frozenset[int]) -> None:
    replies, closed, pending = expected(row, functions)
    found = told(Connection({1: Device(functions)}), [GOOD + row.sent])
    assert found == (GOOD_REPLY + replies, closed, pending)


@each_kind
@each_row
def test_is_judged_correct(row: Row, functions: frozenset[int]) -> None:
    """Ours passes by the judge of all servers; a good request is answered afterwards."""
    device = Device(functions)
    connection = Connection({1: device})
    replies = connection.receive(row.sent)
    closed = connection.closed or connection.pending > 0 or row.how == HALF_CLOSED  # by time-out, or by FIN
    last = Connection({1: device}) if closed else connection
    assert judge_row(row, replies, closed, last.receive(GOOD) == GOOD_REPLY)


@each_kind
@each_row
def test_refused_requests_change_nothing(row: Row, functions: frozenset[int]) -> None:
    device = Device(functions)
    Connection({1: device}).receive(row.sent)
    assert (device.state() != Device().state()) is (row.name in WRITING)


def passes(name: str, replies: str, closed: bool = False, good_afterwards: bool = True) -> bool:
    found = next(row for row in ROWS if row.name == name)
    return judge_row(found, bytes.fromhex(replies), closed, good_afterwards)


def test_judge_objects_to_what_known_servers_do() -> None:
    """The document's columns pymodbus and libmodbus, where they are wrong."""
    assert not passes("2", "0001 0000 0003 01 80 01")  # the function code is lost
    assert not passes("4", "0001 0000 0003 01 03 01")  # looks like a reply to function 3
    assert not passes("11", "", closed=True)
    assert not passes("13", "0001 0000 0005 01 03 02 1000")
    assert not passes("13", "0001 0000 0003 01 83 03", good_afterwards=False)
    assert not passes("19", "0001 0000 0006 01 05 0000 1234")
    assert not passes("27", "", good_afterwards=False)
    assert not passes("27", "0001 0001 0005 01 03 02 1000")
    assert not passes("33", "", good_afterwards=False)
    assert not passes("33", "0001 0000 0005 01 03 02 1000", closed=True)
    assert not passes("37", "0001 0000 0005 01 03 02 1001")  # the second request was lost
    assert not passes("41", "", closed=True)


def test_judge_accepts_every_answer_that_the_document_allows() -> None:
    assert passes("17", "0001 0000 0003 01 90 03")
    assert passes("17", "", closed=True)
    assert passes("27", "", closed=True)
    assert passes("34", "0001 0000 0003 63 83 0a")
    assert passes("34", "0001 0000 0005 63 03 02 1000")
    assert passes("37", "0001 0000 0005 01 03 02 1001 0002 0000 0003 01 83 06")
    assert passes("48", "0001 0000 0003 01 07 00")
    for row in ROWS:
        for outcome in row.correct:
            assert judge_row(row, outcome.replies, outcome.closed, True)
            assert not judge_row(row, outcome.replies, outcome.closed, False)
        assert not judge_row(row, b"\0" + row.correct[0].replies, row.correct[0].closed, True)
