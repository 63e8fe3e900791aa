"""The table of malformed inputs: ours is right throughout, the others were measured, the document is true."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator.server import serve_tcp

from tests.emulator.loops import run
from tests.emulator.modbus_rows import ROWS, SERIAL_ROWS, Device, with_crc, with_lrc
from tests.witness import table
from tests.witness.measure import Measured, measure_tcp
from tests.witness.others import LIBMODBUS, PYMODBUS
from tests.witness.table import NOT_RUN, OURS, SUNSPEC, Cell, judged, judged_lines, plain_target
from tests.witness.words import in_words, outcome_in_words

DOCUMENT = Path(__file__).parents[2] / "docs" / "modbus-conformance.md"

# The crosses of the document's table (reference/modbus.md, 5.3), for the versions it was made with.
SEEN = {
    "pymodbus 3.16.1": {2, 4, 5, 7, 8, 11, 12, 13, 19, 21, 22, 23, 24, *range(27, 39), 41, 43, 47},
    "libmodbus 3.1.6": {4, 11, 12, 13, 15, 23, 25, 27, 28, 30, 31, 32, 33, 40, 42, 43, 48},
}
NOT_SEEN = {
    "pymodbus 3.16.1": {41},  # a race: now the reply is lost, now it is not
    "libmodbus 3.1.6": {
        25,  # exception 01 is right for a function that a server has not at all
        31,  # it closes 0.5 s after the last byte, as the row wants
    },
}
SEEN_IN_ANY = {27, 33}
"""Foreign protocol ids and lengths: pymodbus loses its way, libmodbus looks at neither."""


def documented() -> list[list[str]]:
    """Return the cells of the document's table."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


def test_ours_is_right_in_every_row_and_the_document_says_so(tmp_path: Path) -> None:
    columns = table.measured_ours(tmp_path / "pki")
    for name in (OURS, SUNSPEC):
        wrong = {label: cell.text for label, cell in columns[name].items() if cell.passed is False}
        assert wrong == {}, name
    assert {line.number for line in table.lines()} == set(range(1, 64))
    assert all(cell.passed for cell in columns[OURS].values())
    assert [label for label, cell in columns[SUNSPEC].items() if cell.passed is None] == ["18"]
    found = [[*line, *(str(columns[name][line.label]) for name in (OURS, SUNSPEC))] for line in table.lines()]
    head, _, *rows, _ = documented()
    assert head[3:5] == [OURS, SUNSPEC]
    assert [row[:5] for row in rows] == found


def test_the_document_has_a_cell_for_every_server() -> None:
    head, _, *rows, score = documented()
    assert [title.split()[0].rstrip(",") for title in head[3:]] == [OURS, OURS, PYMODBUS, LIBMODBUS]
    assert all(re.match(r"[✓✗] .|not run: .", cell) for row in rows for cell in row[3:])
    assert all(len(row) == len(head) for row in [*rows, score])
    for k, said in enumerate(score[3:], 3):
        cells = {row[0]: Cell(row[k][2:], {"✓": True, "✗": False}.get(row[k][0])) for row in rows}
        assert said == f"**{table.score(cells)}**"


@pytest.mark.parametrize("name", [PYMODBUS, LIBMODBUS])
def test_others_are_measured_in_every_row(name: str, tmp_path: Path) -> None:
    ((title, column),) = table.measured_others(tmp_path, [name]).items()
    if title == LIBMODBUS:  # pymodbus is always there
        pytest.skip(f"{name}: {column['1'].text}")
    for label, cell in column.items():
        assert (cell.passed is None) == cell.text.startswith("not run: "), label
    wrong = {table.number_of(label) for label, cell in column.items() if cell.passed is False}
    assert column["1"].passed
    assert wrong >= SEEN.get(title, SEEN_IN_ANY) - NOT_SEEN.get(title, set())
    told = {PYMODBUS: ("33", "desync"), LIBMODBUS: ("44c", "something written")}[name]
    assert told[1] in column[told[0]].text
    assert column["49 RTU"].passed


def test_a_server_that_cannot_be_had_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    ((title, column),) = table.measured_others(tmp_path, [LIBMODBUS]).items()
    assert title == LIBMODBUS
    assert {str(cell) for cell in column.values()} == {"not run: no C compiler here"}
    assert [*column] == [line.label for line in table.lines()]


def test_reasons_are_about_rows_that_there_are() -> None:
    labels = {line.label for line in table.lines()}
    keys = {key for label in labels for key in (label, str(table.number_of(label)), label.split()[-1])}
    assert {key for _, key in NOT_RUN} <= keys
    assert len(labels) == len(table.lines())


# The measuring objects to what is wrong.


class Spoiled:
    """A core that spoils what ours answers."""

    def __init__(self, unit: Device, spoil: Callable[[bytes], bytes]) -> None:
        self._core = Connection({1: unit})
        self._spoil = spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def receive(self, data: bytes) -> bytes:
        return self._spoil(self._core.receive(data))


class Hasty(Device):
    """Writes what it may before it looks at the rest."""

    def write(self, address: int, data: bytes) -> int:
        code = super().write(address, data)
        if code:
            super().write(address, data[:2])
        return code


def cell_of(name: str, unit: Device, spoil: Callable[[bytes], bytes] = lambda replies: replies) -> Cell:
    """Measure one row of a spoiled server."""
    (row,) = (row for row in ROWS if row.name == name)
    found: list[Measured] = []

    async def main() -> None:
        async with await serve_tcp({1: unit}, core=lambda transport: Spoiled(unit, spoil)) as server:
            found.append(await measure_tcp(row, server.port, plain_target()))

    run(main())
    return judged([row], found)[name]


def test_an_honest_server_passes() -> None:
    assert cell_of("37", Device()) == Cell("OK fc3 021001; OK fc3 021002", True)
    assert cell_of("45", Device()) == Cell("EXC fc16 code02", True)


def test_a_lost_reply_is_seen() -> None:
    assert cell_of("37", Device(), lambda replies: replies[:11] if len(replies) == 22 else replies) == Cell(
        "OK fc3 021001", False
    )


def test_a_partial_write_is_seen() -> None:
    assert cell_of("45", Hasty()) == Cell("EXC fc16 code02 + something written", False)


def test_a_write_that_is_not_done_is_seen() -> None:
    class Lazy(Device):
        def write(self, address: int, data: bytes) -> int:
            return 0

    assert cell_of("44a", Lazy()) == Cell("OK fc6 00640304", False)


def test_a_connection_out_of_step_is_seen() -> None:
    count = 0

    def forget(replies: bytes) -> bytes:
        nonlocal count
        count += bool(replies)
        return b"" if count == 3 else replies  # of the good request that follows the row and the fresh one

    assert cell_of("1", Device(), forget) == Cell("OK fc3 021000 + desync", False)


def test_a_wrong_answer_on_a_serial_line_is_seen() -> None:
    row = next(row for row in SERIAL_ROWS if row.name == "49")
    right = Measured(b"", False, True, True, False, False)
    answer = with_crc(bytes.fromhex("01 03 02 1000"))

    def passed(found: Measured) -> bool | None:
        return judged_lines([row], [found])["49 RTU"].passed

    assert passed(right)
    for wrong in (
        right._replace(replies=answer),
        right._replace(good=False),
        right._replace(changed=True),
        right._replace(changed=None),
    ):
        assert passed(wrong) is False


# Words.


def test_words() -> None:
    reply = bytes.fromhex("0001 0000 0005 01 03 02 1000")
    refusal = bytes.fromhex("0001 0000 0003 01 83 0b")
    assert in_words(b"") == "no reply"
    assert in_words(reply) == "OK fc3 021000"
    assert in_words(refusal + reply) == "EXC fc3 code0B; OK fc3 021000"
    assert in_words(reply + reply + refusal) == "3 replies, 2 OK"
    assert in_words(reply[:-1]) == "no Modbus reply but 0001000000050103.."
    assert in_words(bytes.fromhex("0001 0000 0003 01 03 01")) == "OK fc3 01"
    rtu, text = with_crc(reply[6:]), with_lrc(reply[6:])
    assert in_words(rtu + with_crc(refusal[6:]), "RTU") == "OK fc3 021000; EXC fc3 code0B"
    assert in_words(text, "ASCII") == "OK fc3 021000"
    for broken in (rtu[:-1], text):
        assert in_words(broken, "RTU").startswith("no Modbus reply but ")
    for broken in (text[:-1], rtu, text.replace(b"EA", b"EB")):
        assert in_words(broken, "ASCII").startswith("no Modbus reply but ")


def test_all_that_was_seen_is_said() -> None:
    found = Measured(b"", False, False, False, True, True)
    text = "no reply (late) + desync + no new connection served + something written"
    assert outcome_in_words(found) == text
    assert outcome_in_words(found._replace(closed=True, fresh=True, changed=None, late=False)) == (
        "no reply, closed + cannot be read any more"
    )
