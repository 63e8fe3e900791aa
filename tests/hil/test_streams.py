from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.hil.streams import stream

names = st.text(st.characters(codec="utf-8"), max_size=30)


@given(st.integers(0, 2**53 - 1), names)
def test_a_stream_is_philox_keyed_by_sha256(seed: int, name: str) -> None:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(5)
    expected = (raw >> np.uint64(11)) * 2.0**-53
    assert stream(seed, name).random(5).tolist() == expected.tolist()


@given(st.integers(0, 100), names, names)
def test_names_and_seeds_give_streams_of_their_own(seed: int, one: str, other: str) -> None:
    first = stream(seed, one).random(4).tolist()
    assert first != stream(seed + 1, one).random(4).tolist()
    assert (first == stream(seed, other).random(4).tolist()) == (one == other)


def test_using_one_stream_does_not_move_another() -> None:
    alone = stream(1, "home-01/load").random(8).tolist()
    busy = stream(1, "home-02/load")
    busy.random(1000)
    assert stream(1, "home-01/load").random(8).tolist() == alone


def test_the_numbers_are_those_of_every_other_machine_and_process() -> None:
    expected = "0x1.176fcc958b3f8p-3"
    assert float(stream(1, "home-01/load/0").random()).hex() == expected
    code = (
        "from ridethrough.hil.streams import stream; print(float(stream(1, 'home-01/load/0').random()).hex())"
    )
    for salt in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == expected
