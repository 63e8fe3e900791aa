"""The table of malformed inputs, as measured: ours, pymodbus's server, libmodbus's server.

Run as ``python -m tests.witness.table``; it takes about half a minute and prints Markdown, which is kept in
docs/modbus-conformance.md.  The rows are those of `modbus_rows`; what is correct is judged there, by the same
rules for every server.  Here are the rows about time on a serial line, and the columns.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.modbus_peers import Unmeasured
from tests.emulator.modbus_rows import (
    GOOD,
    GOOD_REPLY,
    ROWS,
    SERIAL_ROWS,
    WRITING,
    Device,
    Row,
    SerialRow,
    judge_row,
    with_crc,
)
from tests.witness import others, ours
from tests.witness.device_rows import (
    NOT_HERE,
    device_line_row,
    device_rows,
    device_target,
    make_unit,
    of_the_unit,
)
from tests.witness.measure import Measured, Target
from tests.witness.others import LIBMODBUS, PYMODBUS, Other
from tests.witness.words import outcome_in_words

OURS, SUNSPEC = "ours", "ours, SunSpec device"
FREE_TO_WRITE: Final = {"34a"}
"""A server that answers for every unit id may execute the write it is asked for."""
TLS_ROWS: Final = {
    "59": ("TLS 1.3: no client certificate", "handshake failure"),
    "59a": ("TLS 1.2: no client certificate", "handshake failure"),
    "60": ("TLS: FC6 by role ReadOnly", "exc 01"),
    "60a": ("TLS: FC16 by role ReadOnly", "exc 01"),
}
NOT_RUN: Final = {
    (PYMODBUS, "59"): "asks for a client certificate only if the SSL context that its user makes does",
    (PYMODBUS, "60"): "knows no roles",
    (LIBMODBUS, "59"): "has no TLS",
    (LIBMODBUS, "60"): "has no TLS",
    (LIBMODBUS, "61"): "has no read-only holding registers",
    (LIBMODBUS, "62"): "has no read-only holding registers",
    (LIBMODBUS, "ASCII"): "has no ASCII framing",
    (SUNSPEC, "18"): NOT_HERE["18"],
}
"""Why a server has no such row: a fact about it, by number or framing."""


class Cell(NamedTuple):
    """What one server did in one row; `passed` is None where nothing was run."""

    text: str
    passed: bool | None

    def __str__(self) -> str:
        return self.text if self.passed is None else f"{'✓' if self.passed else '✗'} {self.text}"


class Line(NamedTuple):
    """A row of the table, whatever carries it."""

    label: str
    what: str
    correct: str

    @property
    def number(self) -> int:
        return number_of(self.label)


Column = dict[str, Cell]


def number_of(label: str) -> int:
    found = re.match(r"\d+", label)
    assert found
    return int(found[0])


def label_of(row: SerialRow) -> str:
    return f"{row.name} {'ASCII' if row.text else 'RTU'}"


def unchanged(body: bytes) -> bytes:
    return body


def serial_rows(own: Callable[[bytes], bytes] = unchanged) -> list[SerialRow]:
    """Return the rows of a serial line, those about time included.

    Parameters
    ----------
    own : callable
        Given address and PDU of a request for plain registers, returns them for the unit on the line.
    """
    write = with_crc(own(bytes.fromhex("01 06 0064 0304")))
    return [
        *SERIAL_ROWS,
        SerialRow(ours.GAP_ROW, "gap of 2.5 characters inside a frame", "discard frame", False, write, b""),
        SerialRow("54", "two frames without a gap", "discard (or bad CRC)", False, 2 * write, b""),
    ]


def lines() -> list[Line]:
    """Return what the table is about, in order of the numbers."""
    found = [Line(row.name, row.what, row.words) for row in ROWS]
    found += [Line(label_of(row), row.what, row.words) for row in serial_rows()]
    found += [Line(name, *words) for name, words in TLS_ROWS.items()]
    return sorted(found, key=lambda line: line.number)


def judged(rows: Sequence[Row], found: Sequence[Measured]) -> Column:
    """Judge what a server did over TCP."""
    column = {}
    for row, one in zip(rows, found, strict=True):
        may_change = row.name in WRITING | FREE_TO_WRITE
        passed = judge_row(row, one.replies, one.closed, one.good) and one.fresh
        passed = passed and (one.changed is (row.name in WRITING) or row.name in FREE_TO_WRITE)
        column[row.name] = Cell(outcome_in_words(one, "", may_change), passed)
    return column


def judged_lines(rows: Sequence[SerialRow], found: Sequence[Measured]) -> Column:
    """Judge what a server did on serial lines."""
    column = {}
    for row, one in zip(rows, found, strict=True):
        text = outcome_in_words(one, "ASCII" if row.text else "RTU", row.writes)
        if row.writes and one.changed is not None:
            text += ", written" if one.changed else ", not written"
        column[label_of(row)] = Cell(
            text, (one.replies, one.good, one.changed) == (row.answer, True, row.writes)
        )
    return column


def plain_target() -> Target:
    """Return how plain registers and coils are asked, and what they hold before anything is written."""
    unit = Device()
    coils = unit.read_bits(0, 200, False)
    assert isinstance(coils, bytes)
    dump = []
    for request, data in (
        ("01 03 0000 0064", bytes(unit.cells[:200])),
        ("01 03 0064 0064", bytes(unit.cells[200:])),
        ("01 01 0000 00c8", coils),
    ):
        body = bytes.fromhex(request)
        reply = body[:2] + bytes([len(data)]) + data
        dump.append((in_frame(body), in_frame(reply)))
    return Target((GOOD, GOOD_REPLY), dump)


def in_frame(body: bytes) -> bytes:
    return b"\0\1\0\0" + len(body).to_bytes(2) + body


async def our_columns(folder: Path) -> tuple[Column, Column]:
    """Measure our servers, of plain registers and of a SunSpec device.

    TLS is measured with a SunSpec device alone: rights are by point.
    """
    unit = make_unit()

    def own(body: bytes) -> bytes:
        return of_the_unit(unit, body)

    plain_lines = serial_rows()
    rows, on_line = device_rows(unit), [device_line_row(unit, row) for row in serial_rows(own)]
    found = await asyncio.gather(
        ours.measured_tcp(ROWS, Device, plain_target()),
        ours.measured_lines(plain_lines, Device, unchanged),
        ours.measured_tcp(rows, make_unit, device_target(unit)),
        ours.measured_lines(on_line, make_unit, own),
        ours.measured_tls(folder),
    )
    tls = {name: Cell(*one) for name, one in found[4].items()}
    plain = judged(ROWS, found[0]) | judged_lines(plain_lines, found[1]) | tls
    return plain, judged(rows, found[2]) | judged_lines(on_line, found[3]) | tls


def start(stack: ExitStack, name: str, folder: Path) -> Other:
    """Start another server once for each row that it has."""
    rows = [row for row in ROWS if (name, str(row.number)) not in NOT_RUN]
    on_line = [row for row in serial_rows() if not (row.text and (name, "ASCII") in NOT_RUN)]
    return others.start(stack, name, folder, rows, on_line)


async def other_columns(running: Sequence[Other]) -> list[Column]:
    """Measure other servers."""

    async def column(other: Other) -> Column:
        found, on_line = await asyncio.gather(other.measured_tcp(plain_target()), other.measured_lines())
        return judged(other.rows, found) | judged_lines(other.line_rows, on_line)

    return list(await asyncio.gather(*map(column, running)))


def filled(name: str, column: Column) -> Column:
    """Return a column with a cell for every row, also those that were not run."""
    cells = {}
    for line in lines():
        keys = (line.label, str(line.number), line.label.rpartition(" ")[2])
        reason = next((NOT_RUN[name, key] for key in keys if (name, key) in NOT_RUN), None)
        assert (line.label in column) != (reason is not None), f"{name}, row {line.label}"
        cells[line.label] = column.get(line.label) or Cell(f"not run: {reason}", None)
    return cells


def score(column: Column) -> str:
    """Count rows, and numbers of which no row fails."""
    run = {label: cell.passed for label, cell in column.items() if cell.passed is not None}
    numbers = {number_of(label) for label in run}
    wrong = {number_of(label) for label, passed in run.items() if not passed}
    return f"{len(numbers) - len(wrong)} of {len(numbers)} numbers, {sum(run.values())} of {len(run)} rows"


def markdown(columns: dict[str, Column]) -> str:
    """Return the table, with the score of each column below it."""
    table = [["row", "input", "correct", *columns]]
    table += [[*line, *(str(column[line.label]) for column in columns.values())] for line in lines()]
    table.append(["", "**correct**", "", *(f"**{score(column)}**" for column in columns.values())])
    text = [" | ".join(["", *(cell.replace("|", "\\|") for cell in row), ""]).strip() for row in table]
    return "\n".join([text[0], "|" + " --- |" * len(table[0]), *text[1:]]) + "\n"


def measured_others(folder: Path, names: Sequence[str] = (PYMODBUS, LIBMODBUS)) -> dict[str, Column]:
    """Return the columns of other servers; one that cannot be run says why in every cell."""
    columns, running = {}, []
    with ExitStack() as stack:
        for name in names:
            try:
                running.append(start(stack, name, folder))
            except Unmeasured as reason:
                columns[name] = {line.label: Cell(f"not run: {reason}", None) for line in lines()}
        found = asyncio.run(other_columns(running))
    made = {
        f"{other.name} {other.version}": filled(other.name, c)
        for other, c in zip(running, found, strict=True)
    }
    return made | columns


def measured_ours(folder: Path) -> dict[str, Column]:
    """Return our two columns."""
    plain, sunspec = asyncio.run(our_columns(folder))
    return {OURS: filled(OURS, plain), SUNSPEC: filled(SUNSPEC, sunspec)}


def main() -> None:
    """Measure everything and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(markdown(measured_ours(folder / "pki") | measured_others(folder)), end="")


if __name__ == "__main__":
    main()
