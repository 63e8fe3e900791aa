"""SunSpec's procedures: a healthy device passes, and every check catches the defect it is there for."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.conformance import transport
from ridethrough.hil.conformance.results import Report, Result
from ridethrough.hil.conformance.runner import PROCEDURES, run_procedures
from ridethrough.hil.conformance.wire import make_wire
from ridethrough.hil.modbus_transport import TlsFiles
from ridethrough.hil.target import parse_target

from tests.hil.conformance import faulty
from tests.hil.conformance.faulty import Make, Unit, bench, showing

PROFILES = (
    "home-13kwh-5kw",
    "home-11kwh-6kw-legacy",
    "home-10kwh-10kw-three-phase",
    "home-11kwh-3kw-point",
    "home-14kwh-5kw",
    "home-6kwh-3kw",
    "municipal-500kwh-250kw",
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE_S", 0.05)


def run(make: Make = Unit, *only: str, read_only: bool = False, **options: Any) -> Report:
    async def whole() -> Report:
        async with bench(make, **options) as subject:
            return await run_procedures(subject, only=only, read_only=read_only)

    return asyncio.run(whole())


def failing(make: Make, number: str, **options: Any) -> Result:
    result = run(make, number, **options).find(number)
    assert result.verdict == "fail", [step.sentence() for step in result.steps]
    assert result.failures
    return result


def said(result: Result) -> str:
    return "\n".join(step.sentence() for step in result.failures)


@pytest.mark.parametrize("profile", PROFILES)
def test_healthy_device_passes_everything(profile: str) -> None:
    report = run(profile=profile)
    assert [result.id for result in report.results] == [procedure.id for procedure in PROCEDURES]
    assert report.left == ()
    for result in report.results:
        assert result.verdict in ("pass", "not applicable"), said(result)
        assert result.verdict != "not applicable" or result.reason
        assert result.verdict != "pass" or any(step.good for step in result.steps)


def test_every_bundled_device_has_its_mandatory_points_and_takes_what_it_says_it_takes() -> None:
    folder = files("ridethrough.fixtures") / "devices"
    names = sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))
    assert set(PROFILES) < set(names)
    for name in names:
        for result in run(Unit, "MOD-1", "MOD-3", profile=name).results:
            assert result.verdict == "pass", f"{name}: {said(result)}"


def test_every_writable_point_holds_afterwards_what_it_held_before() -> None:
    async def whole() -> None:
        async with bench() as subject:
            unit = subject.units[0]
            settings = [p for p in unit.layout.points if p.writable and not p.name.startswith("Adpt")]
            before = [unit.inner.read(point.address, point.size) for point in settings]
            await run_procedures(subject)
            after = [unit.inner.read(point.address, point.size) for point in settings]
            moved = [
                str(point)
                for point, old, new in zip(settings, before, after, strict=True)
                if old != new and point.name != "OpCtl"  # an order: it says what was last asked for
            ]
            assert len(settings) > 300
            assert moved == []
            assert subject.left == []

    asyncio.run(whole())


def test_read_only_writes_nothing_and_says_so() -> None:
    class Locked(Unit):
        def write(self, address: int, data: bytes) -> int:
            raise AssertionError("a write")

    announced: list[str] = []
    report = run(Locked, read_only=True, announce=lambda: announced.append("!"))
    not_run = {result.id for result in report.results if result.verdict == "not run"}
    assert not_run == {procedure.id for procedure in PROCEDURES if procedure.writes}
    assert all("--read-only" in result.reason for result in report.results if result.verdict == "not run")
    assert announced == []


def test_writes_are_announced_once_and_before_the_first() -> None:
    order: list[str] = []

    class Noting(Unit):
        def write(self, address: int, data: bytes) -> int:
            order.append("write")
            return self.inner.write(address, data)

    run(Noting, "FC06", "MOD-3", announce=lambda: order.append("announced"))
    assert order[0] == "announced"
    assert order.count("announced") == 1
    assert "write" in order


# ---- the chain of models


class NoEnd(Unit):
    def read(self, address: int, count: int) -> bytes | int:
        end = self.layout.base_address + self.layout.count - 2
        return 2 if address + count > end else self.inner.read(address, count)


class EndWithoutLength(NoEnd):
    def read(self, address: int, count: int) -> bytes | int:
        end = self.layout.base_address + self.layout.count - 1
        return 2 if address + count > end else self.inner.read(address, count)


class NoMarker(Unit):
    def read(self, address: int, count: int) -> bytes | int:
        data = self.inner.read(address, count)
        return data if isinstance(data, int) else data.replace(b"SunS", b"SunT")


CHAIN = [
    ("DEV-1", showing(m701_L=152), "found 152; allowed 153"),
    ("DEV-1", showing(m705_L=66), "by its own counts"),
    ("DEV-1", showing(m1_L=67), "first model"),
    ("DEV-1", showing(m1_ID=2), "found model 2 with length 66"),
    ("DEV-1", NoEnd, "no end model"),
    ("DEV-1", EndWithoutLength, "an id and no length"),
    ("DEV-1", NoMarker, "no marker SunS"),
    ("DEV-1", showing(m101_L=0), "breaks"),
    ("DEV-2", showing(**{f"r{40052 + k}": 0 for k in range(16)}), "1.SN"),
    ("DEV-2", showing(r40004=0x0107), "1.Mn"),
    ("MOD-1", showing(m101_W=0x8000), "101.W mandatory point"),
    ("MOD-1", showing(m705_NPt=0xFFFF), "705.NPt mandatory point"),
    ("MOD-2", showing(m701_W_SF=11), "701.W_SF (register"),
    ("MOD-2", showing(m701_W_SF=0x8000), "701.W: scale factor"),
    ("MOD-2", showing(m701_InvSt=77), "701.InvSt"),
    ("MOD-2", showing(m122_StorConn=0x0100), "122.StorConn"),
    ("MOD-2", showing(m701_Alrm=0x8000, m1_Vr=0x4100), "701.Alrm"),
    ("MOD-2", showing(m1_Pad=5), "1.Pad"),
    ("SF", showing(m713_WH_SF=3), "rated energy"),
]


@pytest.mark.parametrize(("number", "make", "text"), CHAIN)
def test_what_a_device_shows_wrongly(number: str, make: Make, text: str) -> None:
    assert text in said(failing(make, number))


def test_a_broken_chain_leaves_the_rest_not_run() -> None:
    report = run(NoMarker, "DEV-1", "DEV-2", "MOD-2")
    assert report.find("DEV-2").verdict == "not run"
    assert "no map" in report.find("MOD-2").reason
    assert report.exit_code == 1


class Foreign(Unit):
    """A 32-bit unsigned point with the signed types' pattern."""

    def read(self, address: int, count: int) -> bytes | int:
        data = self.inner.read(address, count)
        place = self.at("704.WSetRvrtTms")
        if isinstance(data, int) or not address <= place < address + count - 1:
            return data
        first = 2 * (place - address)
        return data[:first] + b"\x80\0\0\0" + data[first + 4 :]


class Alone(Unit):
    """A register read alone says something else."""

    def read(self, address: int, count: int) -> bytes | int:
        data = self.inner.read(address, count)
        odd = count == 1 and address == self.at("702.WMax")
        return b"\xff\xff" if odd else data


class Hole(Unit):
    def read(self, address: int, count: int) -> bytes | int:
        hidden = address <= self.at("123.OutPFSet_WinTms") < address + count
        return 2 if hidden else self.inner.read(address, count)


class ShortReads(Unit):
    def read(self, address: int, count: int) -> bytes | int:
        return 3 if count > 100 else self.inner.read(address, count)


class Walking(Unit):
    """A scale factor that changes with time."""

    def read(self, address: int, count: int) -> bytes | int:
        word = 0 if self.now_s < 1.5 else 1
        return showing(m101_DCW_SF=word)(self.inner, self.plant).read(address, count)


@pytest.mark.parametrize(
    ("number", "make", "text"),
    [
        ("MOD-2", Foreign, "704.WSetRvrtTms"),
        ("MOD-2", Alone, "702.WMax read alone"),
        ("MOD-2", Hole, "123.OutPFSet_WinTms"),
        ("MOD-2", ShortReads, "125 registers in one request"),
        ("SF", Walking, "101.DCW_SF"),
    ],
)
def test_what_reading_finds(number: str, make: Make, text: str) -> None:
    assert text in said(failing(make, number))


# ---- the wire


def other_transaction(request: bytes, reply: bytes) -> bytes:
    return b"\x77\x77" + reply[2:]


def other_unit(request: bytes, reply: bytes) -> bytes:
    return reply[:6] + b"\x09" + reply[7:]


def no_answer(request: bytes, reply: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("number", "mode", "alter", "text"),
    [
        ("TCP-1", "", other_transaction, "unit 1 on connection 1"),
        ("TCP-1", "", other_unit, "unit 1 on connection 1"),
        ("TCP-1", "", no_answer, "silence"),
        ("TCP-2", "early", faulty.faithful, "the first piece is not answered"),
        ("TCP-2", "drops", faulty.faithful, "answered whole"),
        ("TCP-3", "first", faulty.faithful, "2 requests in one segment"),
        ("TCP-3", "loses", faulty.faithful, "2 requests in one segment"),
        ("TCP-3", "drops", faulty.faithful, "packets of one byte"),
    ],
)
def test_what_a_stream_shows(number: str, mode: str, alter: faulty.Alter, text: str) -> None:
    assert text in said(failing(Unit, number, mode=mode, alter=alter))


def instead(matches: Callable[[bytes], bool], body: bytes) -> faulty.Alter:
    """Answer some requests (body first: function code) with another body."""

    def alter(request: bytes, reply: bytes) -> bytes:
        if not matches(request[7:]):
            return reply
        return request[:4] + (len(body) + 1).to_bytes(2) + request[6:7] + body

    return alter


UNKNOWN_AS_80 = instead(lambda pdu: pdu[0] in (0x41, 0x64), b"\x80\x01")
TOO_MANY = instead(lambda pdu: pdu[0] == 3 and pdu[3:] == b"\0\x7e", b"\x83\x02")
ZERO = instead(lambda pdu: pdu[0] == 3 and pdu[3:] == b"\0\0", b"\x03\0")
WRAPS = instead(lambda pdu: pdu[1:3] == b"\xff\xff", b"\x03\x04\0\0\0\0")
NO_SIX = instead(lambda pdu: pdu[0] == 6, b"\x86\x01")
LYING_ECHO = instead(lambda pdu: pdu[0] == 6, b"\x06\0\0\0\0")


@pytest.mark.parametrize(
    ("number", "alter", "text"),
    [
        ("REJ-1", UNKNOWN_AS_80, "under function code 0x80"),
        ("REJ-2", TOO_MANY, "a read of 126 registers"),
        ("REJ-2", ZERO, "a read of 0 registers"),
        ("REJ-3", WRAPS, "past the last address"),
        ("FC06", NO_SIX, "exception 1"),
        ("FC06", LYING_ECHO, "echoed"),
        ("MOD-3", NO_SIX, "with function 6"),
    ],
)
def test_what_must_be_refused_or_taken(number: str, alter: faulty.Alter, text: str) -> None:
    assert text in said(failing(Unit, number, alter=alter))


# ---- what is written


class TakesReadOnly(Unit):
    def write(self, address: int, data: bytes) -> int:
        code = self.inner.write(address, data)
        return 0 if code == 2 else code


class Discards(Unit):
    """Acknowledges 704.WSetRvrt and 123.WMaxLimPct and forgets them."""

    def write(self, address: int, data: bytes) -> int:
        forgotten = address in (self.at("704.WSetRvrt"), self.at("123.WMaxLimPct"))
        return 0 if forgotten else self.inner.write(address, data)


class Late(Unit):
    """Shows 704.WMaxLimPctRvrt two seconds after it was written."""

    old = b""
    until_s = 0.0

    def read(self, address: int, count: int) -> bytes | int:
        data = self.inner.read(address, count)
        hidden = count == 1 and address == self.at("704.WMaxLimPctRvrt") and self.now_s < self.until_s
        return self.old if hidden else data

    def write(self, address: int, data: bytes) -> int:
        if address == self.at("704.WMaxLimPctRvrt"):
            before = self.inner.read(address, 1)
            assert isinstance(before, bytes)
            self.old, self.until_s = before, self.now_s + 2.0
        return self.inner.write(address, data)


class RefusesBlank(Unit):
    def write(self, address: int, data: bytes) -> int:
        blank = address == self.at("704.WSetPctRvrt") and data == b"\x80\0"
        return 3 if blank else self.inner.write(address, data)


class StoresBlank(Unit):
    def write(self, address: int, data: bytes) -> int:
        if address == self.at("704.WSetPctRvrt") and data == b"\x80\0":
            self.put("704.WSetPctRvrt", 7)
            return 0
        return self.inner.write(address, data)


class TakesAnything(Unit):
    def write(self, address: int, data: bytes) -> int:
        code = self.inner.write(address, data)
        return 0 if code == 3 else code


class RefusesReserve(Unit):
    def write(self, address: int, data: bytes) -> int:
        return 2 if address == self.at("802.SoCRsvMin") else self.inner.write(address, data)


@pytest.mark.parametrize(
    ("number", "make", "text"),
    [
        ("REJ-4", TakesReadOnly, "a point that can only be read"),
        ("MOD-3", Discards, "704.WSetRvrt write"),
        ("MOD-3", Late, "704.WMaxLimPctRvrt write"),
        ("MOD-3", RefusesBlank, "not-implemented value"),
        ("MOD-3", StoresBlank, "704.WSetPctRvrt write"),
        ("MOD-3", TakesAnything, "its enumeration does not have"),
        ("MOD-3", RefusesReserve, "802.SoCRsvMin write"),
        ("FC06", Discards, "123.WMaxLimPct: read back"),
    ],
)
def test_what_writing_finds(number: str, make: Make, text: str) -> None:
    assert text in said(failing(make, number))


def test_a_device_may_keep_its_ratings_to_itself() -> None:
    notes = [step.what for step in run(Unit, "MOD-3").find("MOD-3").steps if step.good is None]
    assert any("WMax" in note and "PICS" in note for note in notes)


class Stubborn(Unit):
    """Takes the first other value of 124.MinRsvPct and nothing after it."""

    taken = False

    def write(self, address: int, data: bytes) -> int:
        if address == self.at("124.MinRsvPct"):
            if self.taken:
                return 4
            self.taken = True
        return self.inner.write(address, data)


def test_what_cannot_be_put_back_is_named_exactly() -> None:
    report = run(Stubborn, "MOD-3")
    assert report.exit_code == 1
    (left,) = report.left
    assert left.startswith("124.MinRsvPct (register ")
    assert "holds 0x" in left
    assert "exception 4" in left
    assert "could not be put back" in said(report.find("MOD-3"))


def test_an_interrupted_run_puts_back_what_it_wrote() -> None:
    async def whole() -> None:
        async with bench() as subject:
            unit = subject.units[0]
            names = ("704.WSetEna", "704.WSet", "704.WSetRvrtTms", "704.WSetRvrt", "704.WSetEnaRvrt")
            before = [unit.number(name) for name in names]
            running = asyncio.create_task(run_procedures(subject, only=("REV-1",)))
            while unit.number("704.WSetEna") == 0:
                await asyncio.sleep(0)
            assert [unit.number(name) for name in names] != before
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert [unit.number(name) for name in names] == before
            assert subject.left == []

    asyncio.run(whole())


def test_a_report_is_plain_data() -> None:
    report = run(Unit, "DEV-1", "RTU-1")
    facts = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert facts["exit_code"] == 0
    assert [result["verdict"] for result in facts["results"]] == ["pass", "not applicable"]
    assert facts["results"][0]["steps"][0]["register"] == 40000


def test_procedures_run_inside_tls() -> None:
    pki = Path(str(files("sunspec2"))) / "tests" / "tls_data"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pki / "server/tls1_3/server_valid.crt", pki / "server/tls1_3/server_valid.key")
    server.load_verify_locations(pki / "ca/client_ca_chain.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    client = pki / "client/tls1_3/client_gridservice"
    tls = TlsFiles(client.with_suffix(".crt"), client.with_suffix(".key"), pki / "ca/server_ca_chain.crt")
    numbers = ("DEV-1", "TCP-1", "TCP-2", "TCP-3", "FC06")
    report = run(Unit, *numbers, secure=server, tls=tls)
    assert [result.verdict for result in report.results] == ["pass"] * len(numbers), report.results


@pytest.mark.parametrize("text", ["tls:127.0.0.1:802/1", "rtu+tcp:127.0.0.1:502/1", "ascii:/dev/x@9600/1"])
def test_targets_whose_bytes_cannot_be_looked_at_are_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match="allowed here are tcp:, rtu: and tls:"):
        make_wire(parse_target(text), 1.0)
