"""Real input: CSV and Parquet columns as arrays on the bench's clock.

Duty: read named columns, convert their unit and time, check them, and bring them to the world's step.
Rules: a row holds from its time to the next row's, and a step is the mean of what it covers, so that energy
is kept. Nothing is mended silently: a gap, a repeated or unsorted time, a time that does not exist or a
negative load is an error with row and time, unless the user stated a fill.  Rows are counted from 1 after the
header.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from ridethrough.emulator.errors import ScenarioError

from .scenario import Regular, Series
from .units import DAY_NS, SECOND_NS, did_you_mean, duration_text, parse_date_time, parse_zone, shown, utc_ns

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

BYTES_MAX = 1 << 29
"""Most bytes of one CSV file, unpacked."""

GAP_STEPS = 1.5
"""A row later than this many usual steps leaves a gap."""

GAP_ROWS_MAX = 1_000_000

_TO_BASE = {"W": 1.0, "kW": 1000.0, "kWh/h": 1000.0, "W_per_kW": 0.001, "USD/MWh": 1.0}
"""Into W, W per W of peak, or $/MWh."""

_MISSING = ["", "NaN", "nan", "NA", "null", "NULL", "None"]
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Window:
    """Which stretch of time is needed, and in which steps.

    Attributes
    ----------
    start_ns : int
        Since 1970-01-01 UTC [ns].
    step_ns : int
        Length of one step [ns].
    count : int
        Number of steps.
    zone : str
        The scenario's time zone: that of files which do not state theirs.
    """

    start_ns: int
    step_ns: int
    count: int
    zone: str

    @property
    def end_ns(self) -> int:
        """End of the last step [ns]."""
        return self.start_ns + self.step_ns * self.count


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a file: number in the file, time since 1970 UTC [ns], values of shape (rows, columns)."""

    number: Times
    time_ns: Times
    value: Floats


def read_series(
    spec: Series, columns: Sequence[str], path: Path, window: Window, *, negative: bool
) -> Floats:
    """Return columns of a file over a window, shape (window.count, len(columns)).

    Parameters
    ----------
    spec : Series
        What the user wrote.
    columns : sequence of str
        Columns to read, in order; a name may repeat.
    path : Path
        The file.
    window : Window
        The stretch needed.
    negative : bool
        Values below zero are allowed (prices).

    Returns
    -------
    Floats
        In W, in W per W of peak power (``W_per_kW``) or in $/MWh.

    Raises
    ------
    ScenarioError
        With file, row and time of what is wrong.
    """
    unique = list(dict.fromkeys(columns))
    zone = parse_zone(spec.time_zone or window.zone)
    regular = spec.time if isinstance(spec.time, Regular) else None
    table = _read_table(path, unique if regular else [*unique, str(spec.time)])
    value = np.column_stack([_numbers(table, name, path) for name in unique])
    if len(value) < 2:
        raise ScenarioError(f"{path.name}: found {len(value)} rows; allowed at least 2")
    number = np.arange(1, len(value) + 1, dtype=np.int64)
    local = False
    if regular:
        usual_ns = regular.step
        time_ns = utc_ns(parse_date_time(regular.start), zone) + usual_ns * (number - 1)
    else:
        time_ns, local = _times(table, str(spec.time), spec.time_zone is not None, path)
        _check_order(time_ns, zone if local else UTC, path)
        usual_ns = _usual_step(time_ns)
    ends = [
        _local(time) if local else _at(time, zone) for time in (int(time_ns[0]), int(time_ns[-1]) + usual_ns)
    ]
    rows = _cut(_Rows(number, time_ns, value), window, 2 * DAY_NS)
    if local:
        rows = _to_utc(rows, zone, path)
    if rows.time_ns[0] > window.start_ns or rows.time_ns[-1] + usual_ns < window.end_ns:
        raise ScenarioError(
            f"{path.name}: found data from {ends[0]} to {ends[1]}; allowed data that cover the run, "
            f"{_at(window.start_ns, zone)} to {_at(window.end_ns, zone)} (times in {zone})"
        )
    # What lies outside the run matters only as something to fill from.
    rows = _cut(rows, window, 0 if spec.fill == "none" else DAY_NS)
    rows = _closed(rows, usual_ns, spec.fill, zone, path)
    value = rows.value * (_TO_BASE[spec.unit] * spec.scale)
    for column in value.T:
        column[:] = _mended(rows.time_ns, column, spec.fill)
    rows = _cut(_Rows(rows.number, rows.time_ns, value), window, 0)
    rows.value[rows.time_ns >= window.end_ns] = 0.0  # the row after the run ends it, and counts for nothing
    _check_values(rows, unique, negative, spec.fill, zone, path)
    return _resampled(rows, usual_ns, window)[:, [unique.index(name) for name in columns]]


def _read_table(path: Path, columns: list[str]) -> pa.Table:
    try:
        if not path.is_file():
            raise ScenarioError(f"{path}: found no such file; allowed a CSV or Parquet file that exists")
        if path.name.endswith(".parquet"):
            _check_columns(path, columns, pyarrow.parquet.read_schema(path).names)
            return pyarrow.parquet.read_table(path, columns=list(dict.fromkeys(columns)), partitioning=None)
        if path.name.endswith((".csv", ".csv.gz")):
            return _read_csv(path, columns)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ScenarioError(f"{path.name}: found a file that cannot be read ({reason})") from None
    raise ScenarioError(f"{path.name}: found suffix {shown(path.suffix)}; allowed .csv, .csv.gz or .parquet")


def _read_csv(path: Path, columns: list[str]) -> pa.Table:
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
        data = stream.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise ScenarioError(f"{path.name}: found more than 512 MiB; allowed at most 512 MiB, or Parquet")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        header = next(csv.reader([data.partition(b"\n")[0].decode("utf-8")]), [])
    except UnicodeDecodeError:
        raise ScenarioError(f"{path.name}: found a header that is no UTF-8; allowed text in UTF-8") from None
    _check_columns(path, columns, header)
    return pyarrow.csv.read_csv(
        io.BytesIO(data),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=list(dict.fromkeys(columns)),
            column_types={name: pa.string() for name in columns},
            null_values=_MISSING,
            strings_can_be_null=True,
        ),
    )


def _check_columns(path: Path, wanted: list[str], present: list[str]) -> None:
    for name in wanted:
        if present.count(name) == 1:
            continue
        listed = ", ".join(present[:20]) + (f" and {len(present) - 20} more" if len(present) > 20 else "")
        found = f"{present.count(name)} columns" if name in present else "no column"
        hint = did_you_mean(name, present)
        raise ScenarioError(
            f"{path.name}: found {found} {shown(name)}{hint}; allowed one of {listed or 'none'}"
        )


def _trimmed(column: Any) -> Any:
    """Return a text column without spaces around its entries; any other as it is."""
    return pc.utf8_trim_whitespace(column) if pa.types.is_string(column.type) else column


def _numbers(table: pa.Table, name: str, path: Path) -> Floats:
    """Return a column as numbers; missing ones are NaN."""
    column = _trimmed(table.column(name))
    try:
        value = np.array(pc.cast(column, pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException:
        for row, text in enumerate(column.to_pylist(), 1):
            if text is not None and not _is_number(text):
                raise ScenarioError(
                    f"{path.name}: row {row}, column {name}: found {shown(text)}; allowed a number"
                ) from None
        raise ScenarioError(
            f"{path.name}: column {name}: found type {column.type}; allowed numbers"
        ) from None
    infinite = np.flatnonzero(np.isinf(value))
    if len(infinite):
        raise ScenarioError(
            f"{path.name}: row {infinite[0] + 1}, column {name}: found infinity; allowed a number"
        )
    return value


def _is_number(text: object) -> bool:
    try:
        pc.cast(pa.array([text]), pa.float64())
    except pa.ArrowException:
        return False
    return True


def _times(table: pa.Table, name: str, zone_given: bool, path: Path) -> tuple[Times, bool]:
    """Return a time column in nanoseconds since 1970, and whether it is local time."""
    column = _trimmed(table.column(name).combine_chunks())
    if column.null_count:
        row = column.is_null().to_pylist().index(True) + 1
        raise ScenarioError(
            f"{path.name}: row {row}, column {name}: found no time; allowed a time in every row"
        )
    kind = column.type
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        zoned = len(column) > 0 and _has_offset(column[0].as_py())
        kind = pa.timestamp("ns", tz="UTC") if zoned else pa.timestamp("ns")
        column = _as_times(column, kind, name, path)
    elif not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise ScenarioError(
            f"{path.name}: column {name}: found {kind}; allowed times such as 2024-06-01 00:15:00"
        )
    if zoned and zone_given:
        raise ScenarioError(
            f"{path.name}: column {name}: found times with an offset and a time_zone; allowed one of them"
        )
    try:
        whole = pc.cast(column, pa.timestamp("ns", tz="UTC" if zoned else None))
    except pa.ArrowException:
        raise ScenarioError(
            f"{path.name}: column {name}: found a year out of range; allowed 1678 to 2261"
        ) from None
    return np.array(pc.cast(whole, pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64), not zoned


def _has_offset(text: str) -> bool:
    return text.endswith("Z") or "+" in text[10:] or "-" in text[10:]


def _as_times(column: pa.Array, kind: pa.DataType, name: str, path: Path) -> pa.Array:
    try:
        return pc.cast(column, kind)
    except pa.ArrowException:
        for row, text in enumerate(column, 1):
            try:
                pc.cast(pa.array([text.as_py()]), kind)
            except pa.ArrowException:
                raise ScenarioError(
                    f"{path.name}: row {row}, column {name}: found {shown(text.as_py())}; allowed times such "
                    "as 2024-06-01 00:15:00, all with an offset or all without"
                ) from None
        raise


def _at(time_ns: int, zone: tzinfo) -> str:
    when = (_EPOCH + timedelta(seconds=time_ns // SECOND_NS)).replace(tzinfo=UTC).astimezone(zone)
    return f"{when:%Y-%m-%d %H:%M:%S}"


def _local(time_ns: int) -> datetime:
    return _EPOCH + timedelta(seconds=time_ns // SECOND_NS)


def _check_order(time_ns: Times, zone: tzinfo, path: Path) -> None:
    """Refuse times that repeat or go back, unless clocks did."""
    for row in (np.flatnonzero(np.diff(time_ns) <= 0) + 1).tolist():
        when = _local(int(time_ns[row]))
        if when.replace(tzinfo=zone).utcoffset() != when.replace(tzinfo=zone, fold=1).utcoffset():
            continue
        word = "the same time as" if time_ns[row] == time_ns[row - 1] else "before"
        raise ScenarioError(
            f"{path.name}: row {row + 1}: found {when}, {word} row {row}; "
            "allowed rows sorted by time, each time once"
        )


def _usual_step(time_ns: Times) -> int:
    """Return the step most rows have [ns]."""
    steps, counts = np.unique(np.diff(time_ns), return_counts=True)
    counts[steps <= 0] = 0
    return int(steps[np.argmax(counts)])


def _cut(rows: _Rows, window: Window, margin_ns: int) -> _Rows:
    """Keep the rows that hold within a margin of the window, and the first one after it."""
    # Local times step back once a year: the greatest so far keeps the search valid.
    time_ns = np.maximum.accumulate(rows.time_ns)
    low = int(np.searchsorted(time_ns, window.start_ns - margin_ns, side="right")) - 1
    high = int(np.searchsorted(time_ns, window.end_ns + margin_ns, side="left")) + 1
    part = slice(max(min(low, len(time_ns) - 1), 0), high)
    return _Rows(rows.number[part], rows.time_ns[part], rows.value[part])


def _to_utc(rows: _Rows, zone: tzinfo, path: Path) -> _Rows:
    """Turn local times into UTC; of two equal local times the earlier row comes first."""
    time_ns = np.empty_like(rows.time_ns)
    before = np.iinfo(np.int64).min
    for k, (number, local_ns) in enumerate(zip(rows.number.tolist(), rows.time_ns.tolist(), strict=True)):
        when = _local(local_ns)
        try:
            now = utc_ns(when, zone)
            if now <= before:
                now = utc_ns(when, zone, fold=1)
        except ScenarioError as error:
            raise ScenarioError(f"{path.name}: row {number}: {error}") from None
        if now <= before:
            raise ScenarioError(
                f"{path.name}: row {number}: found {when} a third time; allowed rows sorted by time"
            )
        time_ns[k] = before = now + local_ns % SECOND_NS
    return _Rows(rows.number, time_ns, rows.value)


def _closed(rows: _Rows, usual_ns: int, fill: str, zone: tzinfo, path: Path) -> _Rows:
    """Put rows without values where rows are missing, or refuse the gap when there is no fill."""
    late = np.flatnonzero(np.diff(rows.time_ns) > GAP_STEPS * usual_ns)
    if len(late) and fill == "none":
        k = int(late[0])
        first, second = (f"row {rows.number[m]} ({_at(int(rows.time_ns[m]), zone)})" for m in (k, k + 1))
        raise ScenarioError(
            f"{path.name}: found no row between {first} and {second}, with {duration_text(usual_ns)} from "
            f"row to row elsewhere ({len(late)} such gaps); "
            "allowed no gaps, or fill: hold, zero or interpolate"
        )
    for k in late[::-1].tolist():
        time_ns = np.arange(rows.time_ns[k] + usual_ns, rows.time_ns[k + 1], usual_ns)
        if len(time_ns) > GAP_ROWS_MAX:
            when = _at(int(rows.time_ns[k]), zone)
            raise ScenarioError(
                f"{path.name}: found a gap of {len(time_ns)} rows after row {rows.number[k]} ({when}); "
                f"allowed gaps of at most {GAP_ROWS_MAX} rows"
            )
        empty = np.full((len(time_ns), rows.value.shape[1]), np.nan)
        rows = _Rows(
            np.insert(rows.number, k + 1, np.full(len(time_ns), rows.number[k])),
            np.insert(rows.time_ns, k + 1, time_ns),
            np.insert(rows.value, k + 1, empty, axis=0),
        )
    return rows


def _mended(time_ns: Times, value: Floats, fill: str) -> Floats:
    """Return `value` with what the fill supplies; what it cannot stays NaN."""
    missing = np.isnan(value)
    if fill == "zero":
        return np.where(missing, 0.0, value)
    row = np.arange(len(value))
    before = np.maximum.accumulate(np.where(missing, -1, row))
    if fill == "hold":
        return np.where(before >= 0, value[before], np.nan)
    if fill == "interpolate":
        after = np.minimum.accumulate(np.where(missing, len(value), row)[::-1])[::-1]
        inside = missing & (before >= 0) & (after < len(value))
        low, high = before[inside], after[inside]
        share = (time_ns[inside] - time_ns[low]) / (time_ns[high] - time_ns[low])
        result = value.copy()
        result[inside] = value[low] + (value[high] - value[low]) * share
        return result
    return value


def _check_values(rows: _Rows, names: list[str], negative: bool, fill: str, zone: tzinfo, path: Path) -> None:
    """Refuse values that are missing, or negative where they must not be."""
    missing = np.isnan(rows.value)
    for wrong in (missing,) if negative else (missing, rows.value < 0.0):
        if not wrong.any():
            continue
        k, column = np.argwhere(wrong)[0].tolist()
        place = (
            f"{path.name}: row {rows.number[k]} ({_at(int(rows.time_ns[k]), zone)}), column {names[column]}"
        )
        if wrong is not missing:
            raise ScenarioError(f"{place}: found {rows.value[k, column]:g} W; allowed 0 or more")
        cure = "fill: hold, zero or interpolate" if fill == "none" else "a value before and after it"
        raise ScenarioError(
            f"{place}: found no value ({int(wrong.sum())} missing in the run); "
            f"allowed a number in every row, or {cure}"
        )


def _resampled(rows: _Rows, usual_ns: int, window: Window) -> Floats:
    """Return the mean over each step of values that hold until the next row, shape (count, columns)."""
    edges = window.start_ns + window.step_ns * np.arange(window.count + 1, dtype=np.int64)
    ends = np.append(rows.time_ns[1:], rows.time_ns[-1] + usual_ns)
    cuts = np.unique(np.concatenate([edges, rows.time_ns, ends]))
    cuts = cuts[(cuts >= window.start_ns) & (cuts <= window.end_ns)]
    begin = cuts[:-1]
    step = (begin - window.start_ns) // window.step_ns
    row = np.searchsorted(rows.time_ns, begin, side="right") - 1
    share = np.diff(cuts) / window.step_ns
    result = np.empty((window.count, rows.value.shape[1]))
    for column in range(result.shape[1]):
        weights = share * rows.value[row, column]
        result[:, column] = np.bincount(step, weights=weights, minlength=window.count)
    return result
