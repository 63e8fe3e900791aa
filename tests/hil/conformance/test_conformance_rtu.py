"""The procedures of a serial line, against a unit at the other end of one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymodbus.framer import FramerRTU
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import Plant
from ridethrough.hil.conformance import command, transport
from ridethrough.hil.conformance.results import Report
from ridethrough.hil.conformance.runner import run_procedures
from ridethrough.hil.files import load_profile
from ridethrough.hil.target import RtuTarget, parse_target

from tests.hil.conformance.faulty import TIMEOUT_S, BenchSubject, Unit
from tests.hil.device_bench import serial_line

GAP_S = 0.01
LEGACY = "home-11kwh-6kw-legacy"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE_S", 0.1)


class LineUnit:
    """A unit at address 1 of a serial line.

    `faults` may name: "answers partial", "keeps partial" (no gap ends a frame), "answers broadcast", "deaf to
    broadcast", "answers reserved", "ignores check sum", "mute".
    """

    def __init__(self, path: str, unit: Unit, faults: frozenset[str]) -> None:
        self.unit, self.faults = unit, faults
        self.buffer = b""
        self.gap: asyncio.TimerHandle | None = None
        self.file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self.file, self.hear)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.file)
        if self.gap is not None:
            self.gap.cancel()
        os.close(self.file)

    def hear(self) -> None:
        self.buffer += os.read(self.file, 512)
        if self.gap is not None:
            self.gap.cancel()
        self.gap = asyncio.get_running_loop().call_later(GAP_S, self.end)

    def end(self) -> None:
        frame, fit = self.buffer, self.fits(self.buffer)
        if fit or "keeps partial" not in self.faults:
            self.buffer = b""
        if "answers partial" in self.faults and len(frame) == 4:
            self.say(b"\1\x83\3")
        if len(frame) < 4 or not (fit or "ignores check sum" in self.faults) or "mute" in self.faults:
            return
        address, pdu = frame[0], frame[1:-2]
        if address == 0 and (pdu[0] != 3 or "answers broadcast" in self.faults):
            if "deaf to broadcast" not in self.faults:
                self.serve(pdu, "answers broadcast" in self.faults)
        elif address == 1 or (address == 248 and "answers reserved" in self.faults):
            self.serve(pdu, True)

    def fits(self, frame: bytes) -> bool:
        return len(frame) >= 4 and FramerRTU.compute_CRC(frame[:-2]).to_bytes(2) == frame[-2:]

    def serve(self, pdu: bytes, answer: bool) -> None:
        request = b"\0\1\0\0" + (len(pdu) + 1).to_bytes(2) + b"\1" + pdu
        reply = Connection({1: self.unit}).receive(request)
        if answer:
            self.say(reply[6:])

    def say(self, body: bytes) -> None:
        os.write(self.file, body + FramerRTU.compute_CRC(body).to_bytes(2))


@asynccontextmanager
async def line(*faults: str, **options: Any) -> AsyncIterator[BenchSubject]:
    plant = Plant([load_profile(LEGACY)], soc_frac=0.6)
    unit = Unit(units_of(plant, 0)[1], plant)
    async with serial_line() as (near, far):
        peer = LineUnit(far, unit, frozenset(faults))
        subject = BenchSubject(RtuTarget(near, 115_200, 1), TIMEOUT_S, plant, [unit], **options)
        try:
            yield subject
        finally:
            await subject.close()
            peer.close()


def run(*faults: str, only: tuple[str, ...] = (), **options: Any) -> Report:
    async def whole() -> Report:
        async with line(*faults, **options) as subject:
            return await run_procedures(subject, only=only)

    return asyncio.run(whole())


def test_a_healthy_line_passes() -> None:
    numbers = ("DEV-1", "TCP-1", "TCP-2", "TCP-3", "RTU-1", "RTU-2", "RTU-3", "REJ-1", "FC06", "BRD")
    report = run(only=numbers, broadcast=True)
    verdicts = {result.id: result.verdict for result in report.results}
    wanted = {n: "not applicable" if n.startswith("TCP") else "pass" for n in numbers}
    assert verdicts == wanted, [s.sentence() for r in report.results for s in r.failures]
    assert report.left == ()


def test_a_broadcast_is_asked_for_first() -> None:
    result = run(only=("BRD",)).find("BRD")
    assert result.verdict == "not run"
    assert "every device on the line" in result.reason


@pytest.mark.parametrize(
    ("number", "fault", "text"),
    [
        ("RTU-1", "ignores check sum", "wrong check sum"),
        ("RTU-1", "answers reserved", "248"),
        ("RTU-1", "answers broadcast", "a broadcast read"),
        ("RTU-1", "mute", "address 1 answers"),
        ("RTU-2", "mute", "115200 Bd"),
        ("RTU-3", "answers partial", "a request that ends after byte 4"),
        ("RTU-3", "keeps partial", "the whole request after"),
        ("BRD", "deaf to broadcast", "broadcast write"),
        ("BRD", "answers broadcast", "broadcast write"),
    ],
)
def test_what_a_line_shows(number: str, fault: str, text: str) -> None:
    result = run(fault, only=(number,), broadcast=True).find(number)
    assert result.verdict == "fail", [step.sentence() for step in result.steps]
    assert text in "\n".join(step.sentence() for step in result.failures)


@pytest.mark.parametrize(
    ("target", "timer_s"),
    [
        ("tcp:192.0.2.7:502/1", 4),
        ("rtu:/dev/x@19200/1", 4),
        ("rtu:/dev/x@9600/1", 4),
        ("rtu:/dev/x@1200/1", 32),
    ],
)
def test_timers_are_as_long_as_a_slow_line_needs(target: str, timer_s: int) -> None:
    assert command._timer_s(parse_target(target)) == timer_s
