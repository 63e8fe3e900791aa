"""The crash-safe record of one run: a folder of its own, readable by anything that reads Parquet.

Rules of this file.  A file appears under its name only when it is whole and on the disk: it is written as
``NAME.tmp``, flushed, synchronised, renamed, and the folder is synchronised.  What was acknowledged
(`on_part`) survives a killed process.  Nothing here reads a clock, so equal runs give equal bytes.

======================  ====================================================================================
``run.json``            written first: what was run, the devices with their commitments, the events
``truth-00001.parquet`` and so on, each table of `record_tables.TABLES` in numbered parts
``acts-00001.json``     and so on: each fault that was injected or cleared while it ran, with its time
``end.json``            written last: its presence marks a finished record
``verdict.json``        added later by the judge
======================  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from ridethrough.emulator.errors import InvariantError, ScenarioError

from .header import (
    FORMAT_VERSION,
    FORMATS_READ,
    act_faults,
    clock_text,
    completed,
    header_faults,
    stopped,
    upgraded,
    with_acts,
)
from .record_files import read_json, sync_folder, write_aside, write_json
from .record_tables import OUTCOMES, REASONS, TABLES, UNKNOWN_TO_1

__all__ = [
    "OUTCOMES",
    "REASONS",
    "TABLES",
    "FolderState",
    "PartInfo",
    "Record",
    "RecordWriter",
    "describe_folder",
    "read_record",
    "write_verdict",
]

Column = NDArray[Any]
Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class PartInfo:
    """One part that is safely on the disk."""

    table: str
    number: int
    path: Path
    rows: int
    t_ns_last: int
    """Last value of the table's first column [ns]."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one run left behind.

    Attributes
    ----------
    header : dict
        Content of run.json; its events as they became by what was injected and cleared.
    truth, commands, telemetry, feeder : dict of str to ndarray
        The columns of `TABLES`; all arrays of one table have the same length.
    end : dict or None
        Content of end.json; None when the record was never finished.
    """

    header: dict[str, Any]
    truth: dict[str, Column]
    commands: dict[str, Column]
    telemetry: dict[str, Column]
    feeder: dict[str, Column]
    end: dict[str, Any] | None

    @property
    def complete(self) -> bool:
        """Whether the bench finished this record."""
        return self.end is not None


@dataclass(frozen=True, slots=True)
class FolderState:
    """What a folder holds.

    Attributes
    ----------
    kind : str
        absent, empty, finished, unfinished or foreign.
    text : str
        The same in words, for a message.
    """

    kind: str
    text: str


class _Table:
    """Buffer of one table: one array per column, filled from the front."""

    __slots__ = ("arrays", "filled", "name", "parts", "rows", "size")

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.filled = 0
        self.rows = 0  # on the disk
        self.parts = 0
        self.arrays = [(column, np.empty(size, kind)) for column, kind in TABLES[name].items()]

    def check(self, columns: Columns) -> int:
        """Return the number of rows of a block.

        Raises
        ------
        InvariantError
            When the block has not exactly this table's columns, all equally long.
        """
        wanted = TABLES[self.name]
        if columns.keys() != wanted.keys():
            odd = ", ".join(sorted(columns.keys() ^ wanted.keys()))
            raise InvariantError(f"{self.name}: missing or unknown columns: {odd}")
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise InvariantError(f"{self.name}: columns of different lengths: {sorted(lengths)}")
        return lengths.pop()

    def take(self, columns: Columns, begin: int, rows: int) -> int:
        """Buffer what fits of a block's rows from `begin` on; return how many."""
        here = self.filled
        there = min(here + rows - begin, self.size)
        if there - here == rows:  # a whole tick, nearly always: no slicing of the source
            for column, array in self.arrays:
                array[here:there] = columns[column]
        else:
            for column, array in self.arrays:
                array[here:there] = columns[column][begin : begin + there - here]
        self.filled = there
        return there - here

    def part(self) -> memoryview:
        """Return the buffered rows as one Parquet file."""
        # By their buffers: pa.array() imports pandas where it is installed, and a bench in real time stands
        # still for the second and a half that this takes.
        columns = [
            pa.Array.from_buffers(
                pa.from_numpy_dtype(array.dtype), self.filled, [None, pa.py_buffer(array[: self.filled])]
            )
            for _, array in self.arrays
        ]
        table = pa.Table.from_arrays(columns, names=[column for column, _ in self.arrays])
        sink = pa.BufferOutputStream()
        # Dictionaries pay for whole numbers only; measured 30 ms for 200,000 rows of truth, against 150 ms.
        whole = [column for column, kind in TABLES[self.name].items() if kind.startswith("i")]
        pq.write_table(
            table,
            sink,
            compression="zstd",
            compression_level=1,
            use_dictionary=whole,
            write_statistics=whole,
            write_page_checksum=True,
            store_schema=False,
        )
        return memoryview(sink.getvalue())


class RecordWriter:
    """Writes one run into one folder.

    Parameters
    ----------
    folder : Path
        Made if absent; must be empty.
    header : mapping
        What run.json says; the keys that must be there are listed in header.py.
    part_rows : int
        Rows per part.
    on_part : callable, optional
        Called with each part once it is safely on the disk.

    Raises
    ------
    ScenarioError
        When the folder holds anything or cannot be made.
    RidethroughError
        When the disk refuses a file, here or later.
    InvariantError
        When header or rows are not as the format wants them.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        *,
        part_rows: int = 200_000,
        on_part: Callable[[PartInfo], None] | None = None,
    ) -> None:
        if part_rows < 1:
            raise InvariantError(f"part_rows must be at least 1, found {part_rows}")
        whole = completed(header)
        faults = header_faults(whole)
        if faults:
            raise InvariantError("run.json would be wrong: " + "; ".join(faults))
        _prepare_folder(folder)
        self.folder = folder
        self._on_part = on_part
        self._tables = {name: _Table(name, part_rows) for name in TABLES}
        self._end_ns = self._acts = 0
        self._closed = False
        write_json(folder / "run.json", whole)

    def append_truth(self, columns: Columns) -> None:
        """Add rows of truth: a block of equally long arrays, one per column of `TABLES`."""
        self._append(self._tables["truth"], columns)

    def append_commands(self, columns: Columns) -> None:
        """Add rows of commands."""
        self._append(self._tables["commands"], columns)

    def append_telemetry(self, columns: Columns) -> None:
        """Add rows of telemetry."""
        self._append(self._tables["telemetry"], columns)

    def append_feeder(self, columns: Columns) -> None:
        """Add rows of the feeder."""
        self._append(self._tables["feeder"], columns)

    def note_act(self, act: Mapping[str, Any]) -> None:
        """Put on the disk what somebody does to the run, before it is done; see `header.act_faults`."""
        write_json(self.folder / _act_name(self._acts + 1), act)
        self._acts += 1

    def flush(self) -> None:
        """Put everything appended so far on the disk."""
        for table in self._tables.values():
            self._write_part(table)

    def close(self, reason: str, *, detail: str = "", bench_fault: str = "", stopped: bool = False) -> None:
        """Finish the record.

        Parameters
        ----------
        reason : str
            One of `REASONS`.
        detail : str
            What the reason means here, such as the controller's exception.
        bench_fault : str
            What was wrong with the bench itself, such as a clock that lagged; makes the verdict inconclusive.
        stopped : bool
            Whether somebody has ended the run on purpose before its time: it is judged as far as it went.
        """
        if reason not in REASONS:
            raise InvariantError(f"reason must be one of {', '.join(REASONS)}; found {reason!r}")
        self.flush()
        self._closed = True
        end = {
            "reason": reason,
            "detail": detail,
            "bench_fault": bench_fault,
            "end_ns": self._end_ns,
            "rows": {name: table.rows for name, table in self._tables.items()},
            "parts": {name: table.parts for name, table in self._tables.items()},
            **({"acts": self._acts} if self._acts else {}),
            **({"stopped": True} if stopped else {}),
        }
        write_json(self.folder / "end.json", end)

    def _append(self, table: _Table, columns: Columns) -> None:
        if self._closed:
            raise InvariantError(f"{self.folder}: the record is closed")
        rows, done = table.check(columns), 0
        while done < rows:
            done += table.take(columns, done, rows)
            if table.filled == table.size:
                self._write_part(table)

    def _write_part(self, table: _Table) -> None:
        if table.filled == 0:
            return
        number = table.parts + 1
        path = self.folder / _part_name(table.name, number)
        write_aside(path, table.part())
        last_ns = int(table.arrays[0][1][table.filled - 1])
        if table.name == "truth":
            self._end_ns = last_ns
        info = PartInfo(table.name, number, path, table.filled, last_ns)
        table.parts, table.rows, table.filled = number, table.rows + table.filled, 0
        if self._on_part is not None:
            self._on_part(info)


def _part_name(table: str, number: int) -> str:
    return f"{table}-{number:05d}.parquet"


def _act_name(number: int) -> str:
    return f"acts-{number:05d}.json"


def _prepare_folder(folder: Path) -> None:
    """Make `folder`, or see that it is empty."""
    try:
        state = describe_folder(folder)
        if state.kind not in ("absent", "empty"):
            raise ScenarioError(
                f"{folder}: holds {state.text}. Allowed is an empty folder or a new one: "
                "choose another, or remove this one."
            )
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise ScenarioError(
            f"{folder}: cannot be made: {error.strerror or error}. Choose a folder you may write to."
        ) from error


def describe_folder(folder: Path) -> FolderState:
    """Say what a folder holds, for a user who is about to record into it."""
    if not folder.exists():
        return FolderState("absent", "nothing")
    if not folder.is_dir():
        return FolderState("foreign", "a file, not a folder")
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return FolderState("empty", "nothing")
    if "run.json" not in names:
        if names == ["run.json.tmp"]:
            return FolderState("unfinished", "an unfinished record without a single part")
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return FolderState("foreign", f"other files ({shown})")
    if "end.json" in names:
        return FolderState("finished", "a finished record")
    parts = sum(name.endswith(".parquet") for name in names)
    until = _recorded_until(folder, [name for name in names if name.startswith("truth-")])
    held = f"{until}, {parts} part{'s' * (parts != 1)}"
    return FolderState("unfinished", f"an unfinished record{held} (its run was killed or still goes on)")


def _recorded_until(folder: Path, names: list[str]) -> str:
    """Return ", recorded until 18:03:20", as far as it can be told."""
    whole = [name for name in names if name.endswith(".parquet")]
    try:
        if not whole:
            return ""
        times = pq.ParquetFile(folder / max(whole)).read(["t_ns"])["t_ns"]
        start_ns = int(read_json(folder / "run.json")["start_of_day_ns"])
        return f", recorded until {clock_text(times[-1].as_py(), start_ns)}"
    except (OSError, pa.ArrowException, ScenarioError, KeyError, TypeError, ValueError) as error:
        return f", damaged ({type(error).__name__})"


def write_verdict(folder: Path, verdict: Mapping[str, Any]) -> Path:
    """Add or replace ``verdict.json`` in a record's folder; return its path."""
    path = folder / "verdict.json"
    path.with_name("verdict.json.tmp").unlink(missing_ok=True)  # left by a judge that was killed
    write_json(path, verdict)
    return path


def read_record(folder: Path) -> Record:
    """Read one record, finished or not; files named ``*.tmp`` are ignored.

    A record of an older format comes in the present form: what it does not hold is not a number.

    Raises
    ------
    ScenarioError
        When the folder is not a record, is of another format version, or has a missing or damaged part.
    """
    if not (folder / "run.json").is_file():
        raise ScenarioError(
            f"{folder}: not a record: run.json is missing; found {describe_folder(folder).text}"
        )
    header = read_json(folder / "run.json")
    version = header.get("format_version")
    if type(version) is not int or version not in FORMATS_READ:
        raise ScenarioError(
            f"{folder / 'run.json'}: format_version: found {version!r}; this version of ridethrough reads "
            f"{', '.join(str(known) for known in FORMATS_READ)}"
        )
    unknown: Mapping[str, frozenset[str]] = {}
    if version < FORMAT_VERSION:
        header, unknown = upgraded(header), UNKNOWN_TO_1
    faults = header_faults(header)
    if faults:
        raise ScenarioError("\n".join(f"{folder / 'run.json'}: {fault}" for fault in faults))
    end = read_json(folder / "end.json") if (folder / "end.json").exists() else None
    present = [name for name, kinds in TABLES.items() if unknown.get(name, frozenset()) != frozenset(kinds)]
    if end is not None:
        _check_end(folder, end, present)
    header = with_acts(header, _read_acts(folder, header, end))
    if end is not None and end.get("stopped") is True:
        header = stopped(header, end["end_ns"])
    tables = {
        name: _read_table(folder, name, end if name in present else None, unknown.get(name, frozenset()))
        for name in TABLES
    }
    return Record(header, **tables, end=end)


def _read_acts(folder: Path, header: dict[str, Any], end: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return what was done to a run while it ran, in order."""
    count = max(len(list(folder.glob("acts-*.json"))), 0 if end is None else end.get("acts", 0))
    acts = []
    for number in range(1, count + 1):
        act = read_json(folder / _act_name(number))
        if faults := act_faults(act, len(header["devices"])):
            raise ScenarioError(f"{folder / _act_name(number)}: damaged: {'; '.join(faults)}")
        acts.append(act)
    return acts


def _check_end(folder: Path, end: dict[str, Any], present: list[str]) -> None:
    """Raise unless end.json says what a finished record says."""
    texts = all(isinstance(end.get(key), str) for key in ("detail", "bench_fault"))
    counts = type(end.get("acts", 0)) is int and all(
        isinstance(end.get(key), dict) and all(type(end[key].get(name)) is int for name in present)
        for key in ("rows", "parts")
    )
    if not texts or not counts or end.get("reason") not in REASONS or type(end.get("end_ns")) is not int:
        raise ScenarioError(f"{folder / 'end.json'}: damaged: reason, detail, rows, parts or end_ns is wrong")


def _read_table(
    folder: Path, name: str, end: dict[str, Any] | None, unknown: frozenset[str]
) -> dict[str, Column]:
    """Return all rows of one table, its parts in order; columns unknown to its format are not a number."""
    paths = sorted(folder.glob(f"{name}-*.parquet"))
    count = len(paths) if end is None else max(len(paths), end["parts"][name])
    wanted = [folder / _part_name(name, number) for number in range(1, count + 1)]
    for path in wanted:
        if path not in paths:
            raise ScenarioError(
                f"{folder}: part {path.name} is missing; the record cannot be judged without it"
            )
    parts = [_read_part(path, name, unknown) for path in wanted]
    columns = {
        column: np.concatenate([np.empty(0, kind), *(part[column] for part in parts)])
        for column, kind in TABLES[name].items()
    }
    rows = len(next(iter(columns.values())))
    if end is not None and rows != end["rows"][name]:
        raise ScenarioError(f"{folder}: {name} has {rows} rows; end.json says {end['rows'][name]}")
    return columns


def _read_part(path: Path, name: str, unknown: frozenset[str]) -> dict[str, Column]:
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise ScenarioError(f"{path}: damaged part: {str(error).splitlines()[0]}") from error
    found = {field.name: np.dtype(field.type.to_pandas_dtype()) for field in table.schema}
    wanted = {column: np.dtype(kind) for column, kind in TABLES[name].items() if column not in unknown}
    if found != wanted:
        odd = ", ".join(f"{c} {found.get(c)}" for c in {**found, **wanted} if found.get(c) != wanted.get(c))
        raise ScenarioError(f"{path}: damaged part: unexpected columns: {odd}")
    missing = {column: np.full(table.num_rows, np.nan, TABLES[name][column]) for column in unknown}
    return {column: table[column].to_numpy() for column in wanted} | missing
