"""The fuzzer finds nothing in the core, and finds what is put there for it, in memory and in manners."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ridethrough.emulator import _modbus

from tests.fuzz.build import build, runtime
from tests.fuzz.harness import FindingError, Fuzzer, Store, devices, run, state, stores
from tests.fuzz.modbus import fuzz

LIBRARY = runtime()
needs_sanitiser = pytest.mark.skipif(LIBRARY is None, reason="gcc's libasan was not found")


@pytest.fixture(scope="module")
def sanitised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("fuzz") / "build")


def finds_nothing(folder: Path, frames: int, seed: int, *, pools: bool) -> None:
    assert LIBRARY is not None
    found = fuzz(folder, LIBRARY, frames, seed, pools=pools)
    assert found.returncode == 0, found.stderr[-4000:]
    assert found.stdout.endswith("nothing found\n")
    assert int(found.stdout.split()[0]) >= frames


@needs_sanitiser
def test_short_run(sanitised: Path) -> None:
    finds_nothing(sanitised, 50_000, 1, pools=False)
    finds_nothing(sanitised, 150_000, 2, pools=True)


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.timeout(1800)
@needs_sanitiser
def test_ten_million_frames(sanitised: Path) -> None:
    finds_nothing(sanitised, 1_000_000, 3, pools=False)
    finds_nothing(sanitised, 9_000_000, 4, pools=True)


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.timeout(900)
@needs_sanitiser
def test_registers_of_real_devices(tmp_path: Path) -> None:
    """The compiled registers under the sanitiser too, against a twin that is read the long way."""
    assert LIBRARY is not None
    folder = build(tmp_path / "build", devices=True)
    for pools, frames in ((False, 100_000), (True, 400_000)):
        found = fuzz(folder, LIBRARY, frames, 8, pools=pools, devices=True)
        assert found.returncode == 0, found.stderr[-4000:]
        assert found.stdout.endswith("nothing found\n")


def test_registers_of_real_devices_as_they_are() -> None:
    fuzzer = Fuzzer(_modbus, 9, devices())
    run(fuzzer, 10_000)
    written, fresh = fuzzer.ours[1], devices().ours[1]
    assert state(written) != state(fresh)  # some writes are good


DEFECTS = {
    "replies run over their buffer": (
        200_000,
        "_modbus.pyx",
        ("out.room - out.size >= ADU_MAX", "out.room - out.size >= 16"),
        "stack-buffer-overflow",
    ),
    "two bytes too many are taken from a piece": (
        200_000,
        "_modbus.pyx",
        (
            "memcpy(self.held, source + taken, self.pending)",
            "memcpy(self.held, source + taken, self.pending + 2)",
        ),
        "heap-buffer-overflow",
    ),
    "a header may announce any length": (
        200_000,
        "_modbus.pyx",
        ("length > LENGTH_MAX:", "length > 60000:"),
        "overflow|out of bounds|bytes held of an incomplete frame|are .* not",
    ),
    "a CRC is written behind its place": (
        200_000,
        "_modbus.pyx",
        ("cdef unsigned char out[SERIAL_MAX + 2]", "cdef unsigned char out[SERIAL_MAX]"),
        "stack-buffer-overflow|out of bounds",
    ),
    "the buffer of long replies is not freed": (
        1_000_000,
        "_modbus.pyx",
        ("            if out.data != out.first:\n                free(out.data)", "            pass"),
        "memory has grown by",
    ),
    "a quantity of 2001 bits is taken for good": (
        200_000,
        "_pdu.h",
        ("RT_READ_BITS_MAX = 2000", "RT_READ_BITS_MAX = 2001"),
        "are .* not|reply .* to be",
    ),
}


@pytest.mark.slow
@pytest.mark.endurance
@needs_sanitiser
@pytest.mark.parametrize(("frames", "name", "change", "report"), DEFECTS.values(), ids=list(DEFECTS))
def test_planted_defect_is_found(
    frames: int, name: str, change: tuple[str, str], report: str, tmp_path: Path
) -> None:
    assert LIBRARY is not None
    folder = build(tmp_path / "build", {name: change})
    found = fuzz(folder, LIBRARY, frames, 5, pools=frames > 200_000)
    assert found.returncode != 0
    assert re.search(report, found.stderr)
    assert re.search(r"seed 5(, batch \d+)?", found.stderr)


def test_a_defect_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 times, not once"):
        build(tmp_path / "build", {"_pdu.h": ("no such text", "")})


def test_second_reading_is_not_bent_to_the_core() -> None:
    """A unit that differs from its twin is found at once."""
    sides = stores()
    sides.ours[1].cells[0] ^= 1
    with pytest.raises(FindingError, match="seed 6, batch 0"):
        run(Fuzzer(_modbus, 6, sides), 1_000)


class Partial(Store):
    """Writes what fits and refuses the rest."""

    def write(self, address: int, data: bytes) -> int:
        answer = super().write(address, data)
        if answer:
            super().write(address, data[:2])
        return answer


class Deaf(Store):
    """Accepts writes and forgets them."""

    def write(self, address: int, data: bytes) -> int:
        return 0


class Failing(Store):
    """Cannot be read at one place."""

    def read(self, address: int, count: int) -> bytes | int:
        if address == 100:
            raise ZeroDivisionError("bug")
        return super().read(address, count)


class Leaking(Store):
    """Keeps what it was asked."""

    kept: list[bytes] = []  # noqa: RUF012 - a leak is what it is

    def read(self, address: int, count: int) -> bytes | int:
        self.kept.append(bytes(100_000))
        return super().read(address, count)


class Around:
    """A connection with something done to its replies."""

    def __init__(self, units: Any) -> None:
        self.inner = _modbus.Connection(units)
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def receive(self, data: bytes) -> bytes:
        self.calls += 1
        return self.inner.receive(data)

    def exchange(self, data: bytes) -> list[tuple[bytes, bytes]]:
        return self.inner.exchange(data)


class Silent(Around):
    """Loses the reply to the last of many requests in one piece."""

    def receive(self, data: bytes) -> bytes:
        reply = super().receive(data)
        return b"" if len(reply) < 12 < len(data) else reply


class Wedged(Around):
    """Goes dumb after an exception."""

    dumb = False

    def receive(self, data: bytes) -> bytes:
        reply = super().receive(data)
        if self.dumb and self.calls > 1:
            return b""
        self.dumb = self.dumb or len(reply) == 9
        return reply


class Holding(Around):
    """Says that it holds more than a frame."""

    @property
    def pending(self) -> int:
        return self.inner.pending + 300 * (self.inner.pending > 200)


class Open(Around):
    """Never says that it has ended."""

    closed = False


class Chatty(_modbus.SerialServer):
    """Answers broadcasts."""

    def rtu(self, frame: bytes) -> bytes:
        return super().rtu(frame) or (frame if frame[:2] == b"\0\6" else b"")


WRONG = "are .* not|reply .* to be|changed otherwise"
MANNERS: dict[str, tuple[type[Store], type[Any], type[Any], str]] = {
    "partial writes": (Partial, _modbus.Connection, _modbus.SerialServer, WRONG),
    "forgotten writes": (Deaf, _modbus.Connection, _modbus.SerialServer, WRONG),
    "failing unit": (Failing, _modbus.Connection, _modbus.SerialServer, WRONG),
    "growing memory": (Leaking, _modbus.Connection, _modbus.SerialServer, "memory has grown by"),
    "lost reply": (Store, Silent, _modbus.SerialServer, "are .* not"),
    "wedged": (Store, Wedged, _modbus.SerialServer, "are .* not|a good request was answered"),
    "unbounded": (Store, Holding, _modbus.SerialServer, "bytes held of an incomplete frame"),
    "never closed": (Store, Open, _modbus.SerialServer, "are .* not"),
    "answered broadcast": (Store, _modbus.Connection, Chatty, "reply .* to be"),
}


@pytest.mark.parametrize(("kind", "tcp", "serial", "what"), MANNERS.values(), ids=list(MANNERS))
def test_bad_manners_are_found(
    kind: type[Store], tcp: Callable[..., Any], serial: Callable[..., Any], what: str
) -> None:
    """Without the sanitiser, on the core as it is, and with something around it that spoils it."""
    core = SimpleNamespace(Connection=tcp, SerialServer=serial, crc16=_modbus.crc16)
    with pytest.raises(FindingError, match=f"seed 6.*({what})"):
        run(Fuzzer(core, 6, stores(kind)), 100_000)
    Leaking.kept.clear()


def test_good_manners_are_not() -> None:
    fuzzer = Fuzzer(_modbus, 6, stores())
    assert run(fuzzer, 20_000) > 50
    assert fuzzer.frames >= 20_000


def test_same_seed_is_the_same_run() -> None:
    first, second = Fuzzer(_modbus, 7, stores()), Fuzzer(_modbus, 7, stores())
    assert run(first, 5_000) == run(second, 5_000)
    assert first.frames == second.frames
    assert [*map(state, first.ours.values())] == [*map(state, second.ours.values())]
