"""Capability discovery: what a device says it does, against what its power does."""

from __future__ import annotations

import asyncio
import json

import pytest
from ridethrough.hil.conformance import capability
from ridethrough.hil.conformance.capability import Capability, CapabilityReport, discover_capabilities

from tests.hil.conformance.faulty import HOME, Make, Unit, bench, showing
from tests.hil.conformance.test_conformance_curves import CountsOnly, NoEffect


def discovered(make: Make = Unit, profile: str = HOME) -> CapabilityReport:
    async def whole() -> CapabilityReport:
        async with bench(make, profile=profile) as subject:
            return await discover_capabilities(subject)

    return asyncio.run(whole())


def point(report: CapabilityReport, name: str) -> Capability:
    (found,) = [one for one in report.points if one.point == name]
    return found


def test_a_healthy_device() -> None:
    report = discovered()
    assert report.left == ()
    assert report.power_w_rest == 0.0
    for name in ("704.WSet", "704.WSetPct", "704.WMaxLimPct", "704.VarSet", "704.PFWInj.PF"):
        one = point(report, name)
        assert (one.implemented, one.readable, one.accepts, one.keeps) == ("yes",) * 4, one
        assert (one.effect, one.reverts) == ("yes", "yes"), one
        assert one.delay_s is not None
        assert one.delay_s < 2.0
    assert point(report, "704.WSet").sign == "positive = discharge"
    assert "702.WMax" in point(report, "704.WSetPct").percent_of
    assert "124.WChaMax" in point(report, "124.InWRte").percent_of
    assert point(report, "124.OutWRte").effect == "yes"
    assert point(report, "703.ES").effect.startswith("not measurable here: it would disconnect")
    assert point(report, "802.SoCRsvMin").effect.startswith("not measurable here")
    assert point(report, "802.SocRsvMax").implemented == "no"
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["exit_code"] == 0


def test_a_device_of_the_older_family() -> None:
    report = discovered(profile="home-11kwh-6kw-legacy")
    assert point(report, "124.InWRte").effect == "yes"
    assert point(report, "124.InWRte").reverts == "yes"
    assert point(report, "123.WMaxLimPct").effect == "yes"
    assert point(report, "124.MinRsvPct").implemented == "no"
    assert point(report, "715.OpCtl").register is None


class Discards(Unit):
    """Acknowledges the enable point and forgets it (FranklinWH)."""

    def write(self, address: int, data: bytes) -> int:
        return 0 if address == self.at("704.WSetEna") else self.inner.write(address, data)


class DiscardsValue(Unit):
    def write(self, address: int, data: bytes) -> int:
        return 0 if address == self.at("704.WMaxLimPct") else self.inner.write(address, data)


class Refuses(Unit):
    def write(self, address: int, data: bytes) -> int:
        return 4 if address == self.at("704.VarSet") else self.inner.write(address, data)


class Inverted(Unit):
    """Takes 704.WSet with the other sign; shows it as it was written."""

    def _turned(self, data: bytes) -> bytes:
        return (-int.from_bytes(data, signed=True)).to_bytes(4, signed=True)

    def write(self, address: int, data: bytes) -> int:
        return self.inner.write(address, self._turned(data) if address == self.at("704.WSet") else data)

    def read(self, address: int, count: int) -> bytes | int:
        data = self.inner.read(address, count)
        place = self.at("704.WSet")
        if isinstance(data, int) or not address <= place <= address + count - 2:
            return data
        first = 2 * (place - address)
        return data[:first] + self._turned(data[first : first + 4]) + data[first + 4 :]


class Slow(Unit):
    """Acts three seconds after the write."""

    due_s: float | None = None
    shown = 0

    def write(self, address: int, data: bytes) -> int:
        if address != self.at("704.WSetEna"):
            return self.inner.write(address, data)
        self.shown = int.from_bytes(data[:2])
        self.due_s = self.now_s + 3.0 if self.shown else None
        return 0 if self.shown else self.inner.write(address, data)

    def step(self) -> None:
        if self.due_s is not None and self.now_s >= self.due_s:
            self.due_s = None
            self.put("704.WSetEna", 1)


class OtherBase(Unit):
    """704.WSetPct is percent of half the rating."""

    held = b"\0\0"

    def write(self, address: int, data: bytes) -> int:
        if address != self.at("704.WSetPct"):
            return self.inner.write(address, data)
        self.held = data
        return self.inner.write(address, (int.from_bytes(data, signed=True) // 2).to_bytes(2, signed=True))

    def read(self, address: int, count: int) -> bytes | int:
        data = self.inner.read(address, count)
        place = self.at("704.WSetPct")
        if isinstance(data, int) or not address <= place < address + count:
            return data
        first = 2 * (place - address)
        return data[:first] + self.held + data[first + 2 :]


class Coarse(Unit):
    """Takes set-points to 10 W; the register shows what was written."""

    held: bytes | None = None

    def write(self, address: int, data: bytes) -> int:
        if address != self.at("704.WSet"):
            return self.inner.write(address, data)
        self.held = data
        return self.inner.write(
            address, (int.from_bytes(data, signed=True) // 10 * 10).to_bytes(4, signed=True)
        )

    def read(self, address: int, count: int) -> bytes | int:
        data = self.inner.read(address, count)
        place = self.at("704.WSet")
        if isinstance(data, int) or self.held is None or not address <= place <= address + count - 2:
            return data
        first = 2 * (place - address)
        return data[:first] + self.held + data[first + 4 :]


def test_acknowledged_and_discarded() -> None:
    one = point(discovered(Discards), "704.WSet")
    assert one.accepts == "yes"
    assert one.keeps.startswith("no: wrote 704.WSetEna 1, holds 0")
    assert one.effect.startswith("no")


def test_a_value_that_is_discarded() -> None:
    one = point(discovered(DiscardsValue), "704.WMaxLimPct")
    assert one.accepts == "yes"
    assert one.keeps.startswith("no: wrote")


def test_refused() -> None:
    one = point(discovered(Refuses), "704.VarSet")
    assert one.accepts.startswith("no: exception 4")
    assert (one.effect, one.reverts) == ("no", "no")


def test_stored_without_effect() -> None:
    one = point(discovered(NoEffect), "704.WSet")
    assert (one.accepts, one.keeps) == ("yes", "yes")
    assert one.effect.startswith("no: the power stays")


def test_a_timer_that_does_not_revert() -> None:
    one = point(discovered(CountsOnly), "704.WSet")
    assert one.effect == "yes"
    assert one.reverts.startswith("no: the timer of 4 s is over, the power stays")


def test_a_sign_that_is_turned_round() -> None:
    one = point(discovered(Inverted), "704.WSet")
    assert one.effect.startswith("yes: -400 instead of 400 W")
    assert one.sign == "positive = charge (inverted)"


def test_delay() -> None:
    one = point(discovered(Slow), "704.WSet")
    assert one.effect == "yes"
    assert one.delay_s == pytest.approx(3.2, abs=0.4)


def test_percent_of_something_else() -> None:
    one = point(discovered(OtherBase), "704.WSetPct")
    assert one.effect.startswith("yes: 200 instead of 400 W")
    assert one.percent_of.startswith("25")
    assert one.percent_of.endswith("W, no rating it tells")


def test_a_coarse_set_point() -> None:
    assert point(discovered(Coarse), "704.WSet").step == "10 W"


class Blind(Unit):
    """Tells no power of its own."""

    def read(self, address: int, count: int) -> bytes | int:
        return showing(m701_W=0x8000, m101_W=0x8000)(self.inner, self.plant).read(address, count)


def test_a_device_without_a_power_to_measure() -> None:
    async def whole() -> Capability:
        async with bench(Blind, meter=False) as subject:
            return point(await discover_capabilities(subject), "704.WSet")

    one = asyncio.run(whole())
    assert one.effect.startswith(capability.UNKNOWN)
    assert "no power is measured" in one.effect


def test_the_meter_stands_in_for_a_power_of_its_own() -> None:
    one = point(discovered(Blind), "704.WSet")
    assert (one.effect, one.reverts, one.sign) == ("yes", "yes", "positive = discharge")
