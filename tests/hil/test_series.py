from __future__ import annotations

import gzip
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.scenario import LoadSeries, PriceSeries, PvSeries, Series
from ridethrough.hil.series import Window, read_series
from ridethrough.hil.units import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS

Floats = NDArray[np.float64]
JUNE = datetime(2024, 6, 1)
JUNE_NS = round(JUNE.replace(tzinfo=UTC).timestamp()) * SECOND_NS


@pytest.fixture(scope="module")
def data_folder() -> Path:
    folder = Path(os.environ.get("RIDETHROUGH_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data are not here: {folder}")
    return folder


def load_spec(**changes: Any) -> LoadSeries:
    return LoadSeries.model_validate({"file": "x", "column": "load", "unit": "W", "time": "time"} | changes)


def window(start_ns: int = JUNE_NS, step_ns: int = HOUR_NS, count: int = 1, zone: str = "UTC") -> Window:
    return Window(start_ns, step_ns, count, zone)


def csv_file(folder: Path, rows: list[str], header: str = "time,load", name: str = "x.csv") -> Path:
    file = folder / name
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def hours(values: list[Any], start: datetime = JUNE, step: timedelta = timedelta(hours=1)) -> list[str]:
    return [f"{start + k * step},{value}" for k, value in enumerate(values)]


def read(
    file: Path, spec: Series | None = None, need: Window | None = None, columns: tuple[str, ...] = ("load",)
) -> Floats:
    return read_series(
        spec or load_spec(), columns, file, need or window(), negative=isinstance(spec, PriceSeries)
    )


def refusal(
    file: Path, spec: Series | None = None, need: Window | None = None, columns: tuple[str, ...] = ("load",)
) -> str:
    with pytest.raises(ScenarioError) as caught:
        read(file, spec, need, columns)
    return str(caught.value)


@given(
    steps=st.lists(st.integers(1, 90), min_size=3, max_size=40),
    data=st.data(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_energy_is_kept_whatever_the_steps(tmp_path: Path, steps: list[int], data: st.DataObject) -> None:
    """The integral over the window equals a plain sum over its seconds."""
    values = data.draw(st.lists(st.integers(0, 5000), min_size=len(steps), max_size=len(steps)))
    begins = np.cumsum([0, *steps])[:-1]
    usual = int(
        np.unique(np.diff(begins), return_counts=True)[0][
            np.unique(np.diff(begins), return_counts=True)[1].argmax()
        ]
    )
    second = np.zeros(int(begins[-1]) + usual)
    for begin, value in zip(begins.tolist(), values, strict=True):
        second[begin:] = value
    step = data.draw(st.integers(1, 50))
    start = data.draw(st.integers(0, len(second) - 1))
    count = (len(second) - start) // step
    if count == 0:
        return
    rows = [f"{JUNE + timedelta(seconds=b)},{v}" for b, v in zip(begins.tolist(), values, strict=True)]
    need = window(JUNE_NS + start * SECOND_NS, step * SECOND_NS, count)
    result = read(csv_file(tmp_path, rows), load_spec(fill="hold"), need)[:, 0]
    assert result == pytest.approx(
        second[start : start + count * step].reshape(count, step).mean(axis=1), abs=1e-9
    )


def test_a_value_held_through_finer_steps_stays_exactly_itself(tmp_path: Path) -> None:
    values = [0.1, 1234.567, 1e-3, 7.7]
    result = read(csv_file(tmp_path, hours(values)), need=window(step_ns=MINUTE_NS, count=240))
    assert (result[:, 0] == np.repeat(values, 60)).all()


def test_units_and_scale(tmp_path: Path) -> None:
    file = csv_file(tmp_path, hours([2.0, 2.0]))
    assert read(file, load_spec(unit="W"))[0, 0] == 2.0
    assert read(file, load_spec(unit="kW"))[0, 0] == 2000.0
    assert read(file, load_spec(unit="kWh/h", scale=1.5))[0, 0] == 3000.0
    pv = PvSeries.model_validate({"file": "x", "column": "load", "unit": "W_per_kW", "time": "time"})
    assert read(file, pv)[0, 0] == 0.002


def test_csv_compressed_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    values = [1.5, 2.5, 3.5]
    plain = csv_file(tmp_path, hours(values))
    packed = tmp_path / "x.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    times = [JUNE + timedelta(hours=k) for k in range(3)]
    pq.write_table(pa.table({"time": times, "load": values}), tmp_path / "x.parquet")
    zoned = [time.replace(tzinfo=UTC) for time in times]
    pq.write_table(
        pa.table({"time": zoned, "load": pa.array([1.5, 2.5, 3.5], pa.float32())}), tmp_path / "z.parquet"
    )
    pq.write_table(pa.table({"time": [str(time) for time in times], "load": values}), tmp_path / "s.parquet")
    expected = read(plain, need=window(count=3))
    assert expected[:, 0].tolist() == values
    for name in ("x.csv.gz", "x.parquet", "z.parquet", "s.parquet"):
        assert (read(tmp_path / name, need=window(count=3)) == expected).all()


def test_columns_come_in_the_order_asked_and_may_repeat(tmp_path: Path) -> None:
    file = csv_file(tmp_path, [f"{JUNE},1,2", f"{JUNE + timedelta(hours=1)},3,4"], "time,a,b")
    assert read(file, need=window(count=2), columns=("b", "a", "b")).tolist() == [[2, 1, 2], [4, 3, 4]]


def test_a_file_without_times_is_counted_from_its_start(tmp_path: Path) -> None:
    file = csv_file(tmp_path, ["5", "6", "7"], "load")
    spec = load_spec(time={"start": "2024-05-31 19:00", "step": "1h"}, time_zone="America/Chicago")
    assert read(file, spec, window(count=3))[:, 0].tolist() == [5, 6, 7]
    message = refusal(file, spec, window(count=4))
    assert "found data from 2024-05-31 19:00:00 to 2024-05-31 22:00:00" in message
    assert "allowed data that cover the run, 2024-05-31 19:00:00 to 2024-05-31 23:00:00" in message


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (hours([1, "x", 3]), "row 2, column load: found 'x'; allowed a number"),
        (hours([1, "inf", 3]), "row 2, column load: found infinity; allowed a number"),
        (hours([1, "", 3]), "row 2 (2024-06-01 01:00:00), column load: found no value (1 missing"),
        (hours([1, "NaN", 3]), "row 2 (2024-06-01 01:00:00), column load: found no value"),
        (hours([1, -0.5, 3]), "row 2 (2024-06-01 01:00:00), column load: found -0.5 W; allowed 0 or more"),
        (
            hours([1, 2, 3, 4, 5, 6, 7])[:1] + hours([1, 2, 3, 4, 5, 6, 7])[2:],
            "found no row between row 1 (2024-06-01 00:00:00) and row 2 (2024-06-01 02:00:00), with 1h",
        ),
        (hours([1, 2])[::-1], "row 2: found 2024-06-01 00:00:00, before row 1; allowed rows sorted"),
        (hours([1]) * 2, "row 2: found 2024-06-01 00:00:00, the same time as row 1"),
        ([*hours([1]), "tomorrow,5"], "row 2, column time: found 'tomorrow'; allowed times"),
        ([*hours([1]), "2024-06-01T01:00:00Z,5"], "row 2, column time: found '2024-06-01T01:00:00Z'"),
        ([*hours([1]), ",5"], "row 2, column time: found no time; allowed a time in every row"),
        (hours([1]), "found 1 rows; allowed at least 2"),
        ([], "found 0 rows; allowed at least 2"),
        (["1600-01-01 00:00:00,1", "1600-01-01 01:00:00,1"], "found '1600-01-01 00:00:00'; allowed"),
        ([*hours([1, 2]), "2024-06-01 02:00:00,3,4"], "found a file that cannot be read"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path: Path, rows: list[str], words: str) -> None:
    assert words in refusal(csv_file(tmp_path, rows), need=window(count=3))


def test_what_lies_outside_the_run_does_not_matter(tmp_path: Path) -> None:
    file = csv_file(tmp_path, hours(["", -5, 1, 2, -5, ""]))
    assert read(file, need=window(JUNE_NS + 2 * HOUR_NS, count=2))[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("hold", [10, 10, 10, 10, 50, 50]),
        ("zero", [10, 0, 0, 0, 50, 50]),
        ("interpolate", [10, 20, 30, 40, 50, 50]),
    ],
)
def test_gaps_are_filled_as_stated(tmp_path: Path, fill: str, expected: list[float]) -> None:
    rows = hours([10, "", 999, "", 50, 50, 50])
    del rows[2]  # a row that is missing, between two without a value
    file = csv_file(tmp_path, rows)
    assert read(file, load_spec(fill=fill), window(count=6))[:, 0].tolist() == expected
    assert "found no row between row 2" in refusal(file, need=window(count=6))


def test_a_fill_with_nothing_to_fill_from_is_refused(tmp_path: Path) -> None:
    file = csv_file(tmp_path, hours(["", 1, 2]))
    for fill in ("hold", "interpolate"):
        assert "allowed a number in every row, or a value before and after it" in refusal(
            file, load_spec(fill=fill)
        )
    assert read(file, load_spec(fill="zero"))[0, 0] == 0


def test_columns_and_files_that_are_not_there(tmp_path: Path) -> None:
    file = csv_file(tmp_path, hours([1, 2]), "time,lode")
    assert refusal(file) == "x.csv: found no column 'load' (did you mean 'lode'?); allowed one of time, lode"
    assert "found 2 columns 'load'" in refusal(csv_file(tmp_path, ["1,2,3"], "time,load,load"))
    assert "found no such file" in refusal(tmp_path / "no.csv")
    (tmp_path / "x.npz").write_bytes(b"")
    assert "found suffix '.npz'; allowed .csv, .csv.gz or .parquet" in refusal(tmp_path / "x.npz")
    for name in ("bad.csv.gz", "bad.parquet"):
        (tmp_path / name).write_bytes(b"\x1f\x8b\x08nonsense")
        assert "found a file that cannot be read" in refusal(tmp_path / name)
    (tmp_path / "empty.csv").write_bytes(b"")
    assert "found no column 'load'; allowed one of none" in refusal(tmp_path / "empty.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe,load\n1,2\n")
    assert "a header that is no UTF-8" in refusal(tmp_path / "bytes.csv")


def test_an_offset_and_a_time_zone_contradict_each_other(tmp_path: Path) -> None:
    file = csv_file(tmp_path, ["2024-06-01T00:00:00Z,1", "2024-06-01T01:00:00Z,2"])
    assert read(file)[0, 0] == 1
    assert "found times with an offset and a time_zone" in refusal(
        file, load_spec(time_zone="America/Chicago")
    )


CHICAGO = ZoneInfo("America/Chicago")


def local_rows(start: datetime, count: int) -> list[str]:
    """Return hourly rows in Chicago's local time; the value is the hour since the start."""
    utc = [start.astimezone(UTC) + timedelta(hours=k) for k in range(count)]
    return [f"{time.astimezone(CHICAGO).replace(tzinfo=None)},{k}" for k, time in enumerate(utc)]


@pytest.mark.parametrize("day", [datetime(2024, 3, 10), datetime(2024, 11, 3), datetime(2024, 7, 1)])
@given(late=st.integers(0, 20), count=st.integers(1, 10))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
def test_local_times_keep_their_hours_when_clocks_change(
    tmp_path: Path, day: datetime, late: int, count: int
) -> None:
    start = day.replace(tzinfo=CHICAGO)
    file = csv_file(tmp_path, local_rows(start, 36))
    start_ns = round(start.timestamp()) * SECOND_NS + late * HOUR_NS
    result = read(file, load_spec(time_zone="America/Chicago"), window(start_ns, count=count))
    assert result[:, 0].tolist() == list(range(late, late + count))


def test_times_clocks_jumped_over_are_refused_with_the_cure(tmp_path: Path) -> None:
    file = csv_file(tmp_path, hours(list(range(6)), datetime(2025, 3, 9)))
    start_ns = round(datetime(2025, 3, 9, tzinfo=CHICAGO).timestamp()) * SECOND_NS
    message = refusal(file, load_spec(time_zone="America/Chicago"), window(start_ns, count=4))
    assert "row 3: found 2025-03-09 02:00, which does not exist in America/Chicago" in message
    assert "a fixed offset such as '-06:00' as time_zone" in message
    assert read(file, load_spec(time_zone="-06:00"), window(start_ns, count=4))[:, 0].tolist() == [0, 1, 2, 3]


def test_an_hour_that_clocks_repeat_but_the_file_does_not_is_a_gap(tmp_path: Path) -> None:
    file = csv_file(tmp_path, hours(list(range(6)), datetime(2024, 11, 3)))
    start_ns = round(datetime(2024, 11, 3, tzinfo=CHICAGO).timestamp()) * SECOND_NS
    spec = load_spec(time_zone="America/Chicago")
    assert re.search(
        r"found no row between row 2 .*01:00:00\) and row 3 .*02:00:00\)",
        refusal(file, spec, window(start_ns, count=5)),
    )
    held = read(file, load_spec(time_zone="America/Chicago", fill="hold"), window(start_ns, count=5))
    assert held[:, 0].tolist() == [0, 1, 1, 2, 3]


def test_real_homes_keep_their_energy(data_folder: Path) -> None:
    file = data_folder / "homes" / "citylearn2022_17homes_hourly_load_solar.csv.gz"
    spec = load_spec(unit="kWh/h", time={"start": "2024-06-01 00:00", "step": "1h"})
    names = tuple(f"load_kwh_b{k}" for k in range(1, 18))
    result = read(file, spec, window(step_ns=MINUTE_NS, count=365 * 1440), names)
    with gzip.open(file, "rt") as stream:
        kwh = np.loadtxt(stream, delimiter=",", skiprows=1, usecols=range(1, 18))
    assert result.shape == (365 * 1440, 17)
    assert result.sum(axis=0) / 60 / 1000 == pytest.approx(kwh.sum(axis=0))
    assert (result[30 * 1440] == kwh[30 * 24] * 1000).all()
    sun = PvSeries.model_validate(
        spec.model_dump() | {"unit": "W_per_kW", "time": {"start": "2024-06-01 00:00", "step": "1h"}}
    )
    assert 0.9 < read(file, sun, window(count=8760), ("solar_w_per_kw_b1",)).max() < 1.0


def test_real_prices_are_read_in_local_time(data_folder: Path) -> None:
    file = data_folder / "prices" / "ercot_hb_south_dam_rtm_15min_20240601_20250327.csv.gz"
    shape = {"file": "x", "column": "HB_SOUTH_RTM", "unit": "USD/MWh", "time": "interval_start_local"}
    spec = PriceSeries.model_validate(shape | {"time_zone": "America/Chicago"})
    columns = ("HB_SOUTH_DAM", "HB_SOUTH_RTM")
    start_ns = JUNE_NS + 5 * HOUR_NS  # midnight in Chicago, in summer
    result = read(file, spec, window(start_ns, 15 * MINUTE_NS, 96 * 30), columns)
    assert result[0].tolist() == [24.57, 17.69]
    with gzip.open(file, "rt") as stream:
        whole = np.loadtxt(stream, delimiter=",", skiprows=1, usecols=(1, 2))
    assert (result == whole[: 96 * 30]).all()
    # The file has a row for every quarter hour, also where the clock jumps: such a day is refused.
    march_ns = round(datetime(2025, 3, 9, tzinfo=CHICAGO).timestamp()) * SECOND_NS
    jump = refusal(file, spec, window(march_ns, 15 * MINUTE_NS, 96), columns)
    assert "row 26985: found 2025-03-09 02:00, which does not exist in America/Chicago" in jump
    late = refusal(file, spec, window(start_ns + 365 * DAY_NS, 15 * MINUTE_NS, 96), columns)
    assert "found data from 2024-06-01 00:00:00 to 2025-03-28 00:00:00" in late
