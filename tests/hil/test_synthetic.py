from __future__ import annotations

import ast
import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.hil import synthetic
from ridethrough.hil.units import DAY_NS, HOUR_NS, MINUTE_NS

Floats = NDArray[np.float64]

MAKERS = {
    "home": lambda seed, start_ns, steps: synthetic.home_load_w(seed, "home-01", start_ns, steps),
    "shelter": lambda seed, start_ns, steps: synthetic.municipal_shelter_w(seed, "hall", start_ns, steps),
    "pv": lambda seed, start_ns, steps: synthetic.pv_w(seed, "home-01", 5000.0, start_ns, steps),
}


@pytest.fixture(scope="module")
def real_homes() -> Floats:
    """Return the hourly load of 17 metered homes [W], shape (8760, 17)."""
    folder = Path(os.environ.get("RIDETHROUGH_DATA", Path(__file__).parents[3] / "shared" / "data"))
    file = folder / "homes" / "citylearn2022_17homes_hourly_load_solar.csv.gz"
    if not file.exists():
        pytest.skip(f"real load data are not here: {file}")
    with gzip.open(file, "rt") as stream:
        return 1000.0 * np.loadtxt(stream, delimiter=",", skiprows=1, usecols=range(1, 18))


@pytest.fixture(scope="module")
def homes() -> Floats:
    """Return three days of 60 synthetic homes, minute by minute [W], shape (4320, 60)."""
    return np.stack([synthetic.home_load_w(1, f"home-{k:02d}", 0, 3 * 1440) for k in range(60)], axis=1)


def test_homes_look_like_homes(homes: Floats) -> None:
    assert 700 < homes.mean() < 1100
    assert homes.min() > 30
    assert 4000 < np.median(homes.max(axis=0)) < 7000
    assert homes.max() < 15_000
    hours = homes.reshape(3, 24, 60, 60).mean(axis=(0, 2, 3))
    assert hours[18:21].mean() > 2.5 * hours[2:5].mean()
    assert 200 < np.percentile(homes.mean(axis=0), 5) < np.percentile(homes.mean(axis=0), 95) < 2000


def test_homes_lie_among_metered_ones(homes: Floats, real_homes: Floats) -> None:
    hourly = homes.reshape(72, 60, 60).mean(axis=1)
    means = real_homes.mean(axis=0)
    assert 0.6 * np.median(means) < np.median(hourly.mean(axis=0)) < 1.2 * np.median(means)
    assert np.median(hourly.max(axis=0)) < real_homes.max()
    shape = hourly.reshape(3, 24, 60).mean(axis=(0, 2))
    real_shape = real_homes.reshape(365, 24, 17).mean(axis=(0, 2))
    assert np.corrcoef(shape, real_shape)[0, 1] > 0.6


def test_a_shelter_has_its_size_and_its_day() -> None:
    for seed in range(5):
        day = synthetic.municipal_shelter_w(seed, "town-hall", 0, 1440)
        assert 8_000 < day.mean() < 18_000
        assert day.max() < 25_000
        assert day[11 * 60 : 13 * 60].mean() > 1.5 * day[2 * 60 : 4 * 60].mean()


def test_pv_is_dark_at_night_and_below_its_peak() -> None:
    yields = []
    for seed in range(40):
        day = synthetic.pv_w(seed, "home-01", 5000.0, 0, 1440)
        assert not day[: 5 * 60].any()
        assert not day[21 * 60 :].any()
        assert 0 <= day.min() <= day.max() <= 5000.0
        yields.append(day.sum() / 60 / 5000)
    assert max(yields) > 5.5  # full-load hours of a clear summer day
    assert min(yields) < 2.5
    assert 3.5 < sum(yields) / len(yields) < 6


def test_the_day_s_weather_is_shared_and_the_clouds_are_not() -> None:
    one, other = (synthetic.pv_w(3, name, 1000.0, 0, 30 * 1440) for name in ("home-01", "home-02"))
    days = np.corrcoef(one.reshape(30, 1440).sum(axis=1), other.reshape(30, 1440).sum(axis=1))[0, 1]
    assert days > 0.95
    assert (one != other).any()


def test_prices_have_the_market_s_shape() -> None:
    ahead, real_time = synthetic.ercot_prices(1, 0, 96 * 300)
    assert 10 < ahead.min() < ahead.max() < 150
    assert 25 < ahead.mean() < 40
    hours = ahead.reshape(300, 24, 4).mean(axis=(0, 2))
    assert hours.argmax() == 19
    assert hours[6:8].mean() > hours[2:5].mean() > 10
    peaks = real_time.reshape(300, 96).max(axis=1)
    assert 0.02 < (peaks > 300).mean() < 0.15
    assert peaks.max() > 2000
    assert (ahead.reshape(-1, 4) == ahead[::4, None]).all()


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_a_tight_market_has_its_spike_every_evening(seed: int) -> None:
    _, real_time = synthetic.ercot_prices(seed, 0, 96, tight=True)
    spike = np.flatnonzero(real_time > 180)
    assert len(spike) >= 4
    assert 16.75 <= spike[0] / 4 <= 18
    assert spike[-1] / 4 < 21


@pytest.mark.parametrize("kind", sorted(MAKERS))
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_later_start_sees_the_same_afternoon(kind: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 1000))
    late = data.draw(st.integers(0, 1439))
    steps = data.draw(st.integers(1, 2000))
    whole = MAKERS[kind](seed, 0, late + steps)
    assert (MAKERS[kind](seed, late * MINUTE_NS, steps) == whole[late:]).all()
    assert whole.shape == (late + steps,)
    assert np.isfinite(whole).all()
    assert (whole >= 0).all()


def test_prices_of_a_later_start_are_the_same_too() -> None:
    whole, later = (synthetic.ercot_prices(4, h * HOUR_NS, 96 - 4 * h) for h in (0, 7))
    assert (whole[0][28:] == later[0]).all()
    assert (whole[1][28:] == later[1]).all()


def test_seeds_and_names_make_other_homes() -> None:
    one = synthetic.home_load_w(1, "home-01", 0, 1440)
    assert (one != synthetic.home_load_w(2, "home-01", 0, 1440)).mean() > 0.5
    assert (one != synthetic.home_load_w(1, "home-02", 0, 1440)).mean() > 0.5


def test_the_bytes_are_those_of_every_other_machine() -> None:
    parts = [
        synthetic.home_load_w(1, "home-01", 0, 1440),
        synthetic.municipal_shelter_w(1, "hall", 0, 1440),
        synthetic.pv_w(1, "home-01", 5000.0, 0, 1440),
        *synthetic.ercot_prices(1, 0, 2 * DAY_NS // (15 * MINUTE_NS), tight=True),
    ]
    digest = hashlib.sha256(b"".join(part.astype("<f8").tobytes() for part in parts)).hexdigest()
    assert digest == "49f587082da4adf14bb76bfedd36c03be4e167b8277121545f6ef840bc1649b1"


ALLOWED = {
    *(
        "abs",
        "append",
        "arange",
        "asarray",
        "concatenate",
        "cumsum",
        "float64",
        "int64",
        "maximum",
        "minimum",
    ),
    *("ndarray", "random", "repeat", "roll", "searchsorted", "zeros"),
}


def unruly(source: str) -> set[str]:
    """Return the names in `source` whose rounding or order may depend on the machine."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in ("np", "math") and node.attr not in ALLOWED:
                found.add(f"{node.value.id}.{node.attr}")
            if node.value.id in ("rng", "generator") and node.attr != "random":
                found.add(f"{node.value.id}.{node.attr}")
        if isinstance(node, ast.Attribute) and node.attr in ("sum", "mean", "std", "dot"):
            found.add(node.attr)
    return found


def test_generators_use_nothing_that_rounds_by_machine() -> None:
    assert not unruly(Path(synthetic.__file__).read_text())
    assert unruly("np.exp(x) + rng.normal() + x.sum() + math.log(2)") == {
        "np.exp",
        "rng.normal",
        "sum",
        "math.log",
    }
