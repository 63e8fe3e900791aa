"""Curves and revert timers: each defect that the field has shown is caught, and at the power."""

from __future__ import annotations

import asyncio

import pytest
from ridethrough.hil.conformance.results import Result
from ridethrough.hil.conformance.runner import run_procedures

from tests.hil.conformance.faulty import Make, Unit, bench, showing


def failing(make: Make, number: str, profile: str = "home-13kwh-5kw") -> str:
    async def whole() -> Result:
        async with bench(make, profile=profile) as subject:
            return (await run_procedures(subject, only=(number,))).find(number)

    result = asyncio.run(whole())
    assert result.verdict == "fail", [step.sentence() for step in result.steps]
    return "\n".join(step.sentence() for step in result.failures)


# ---- curves


class TakesCurveOne(Unit):
    def write(self, address: int, data: bytes) -> int:
        first = self.at("705.Crv[1].ActPt")
        return 0 if first <= address < first + 8 else self.inner.write(address, data)


class Lies(Unit):
    """Says COMPLETED and adopts nothing."""

    def write(self, address: int, data: bytes) -> int:
        return 0 if address == self.at("705.AdptCrvReq") else self.inner.write(address, data)


class AdoptsAnother(Unit):
    """Adopts set 3, whichever is asked for."""

    def write(self, address: int, data: bytes) -> int:
        asked = address == self.at("706.AdptCrvReq")
        return self.inner.write(address, b"\0\3" if asked else data)


class TakesBadCurves(Unit):
    """Reports a bad curve as adopted, and a set that is not there as well."""

    def write(self, address: int, data: bytes) -> int:
        code = self.inner.write(address, data)
        return 0 if address == self.at("706.AdptCrvReq") else code

    def read(self, address: int, count: int) -> bytes | int:
        made = showing(m706_AdptCrvRslt=1)(self.inner, self.plant)
        return made.read(address, count)


@pytest.mark.parametrize(
    ("number", "make", "text"),
    [
        ("CRV-1", showing(**{"m705_Crv[1].ReadOnly": 0}), "705.Crv[1].ReadOnly"),
        ("CRV-1", TakesCurveOne, "705.Crv[1].ActPt"),
        ("CRV-2", Lies, "set 1 shows what was adopted"),
        ("CRV-2", AdoptsAnother, "706.Crv[1]"),
        ("CRV-2", showing(m705_AdptCrvRslt=0), "705.AdptCrvRslt after AdptCrvReq 2"),
        ("CRV-3", TakesBadCurves, "706.AdptCrvRslt after a curve that goes back"),
        ("CRV-3", TakesBadCurves, "a set that is not there"),
    ],
)
def test_curves(number: str, make: Make, text: str) -> None:
    assert text in failing(make, number)


def test_a_bad_request_that_moves_something_is_seen() -> None:
    class Moves(Unit):
        def write(self, address: int, data: bytes) -> int:
            if address == self.at("706.AdptCrvReq") and data == b"\0\4":
                self.put("706.Crv[3].RspTms", self.number("706.Crv[3].RspTms") + 5)
                self.inner.write(address, b"\0\3")
                return 3
            return self.inner.write(address, data)

    assert "what is in force stays" in failing(Moves, "CRV-3")


def test_what_a_curve_run_cannot_give_back_is_named() -> None:
    class Once(Unit):
        """Adopts one set and then no more."""

        adopted = False

        def write(self, address: int, data: bytes) -> int:
            if address == self.at("706.AdptCrvReq"):
                if self.adopted:
                    return 4
                self.adopted = True
            return self.inner.write(address, data)

    async def whole() -> None:
        async with bench(Once) as subject:
            report = await run_procedures(subject, only=("CRV-2",))
            assert any(text.startswith("706.Crv[1].") and "is in force" in text for text in report.left)

    asyncio.run(whole())


# ---- reversion


class CountsOnly(Unit):
    """The timer counts down, then nothing happens (FranklinWH, firmware of 2026)."""

    began_s: float | None = None
    length_s = 0

    def write(self, address: int, data: bytes) -> int:
        seconds = self.wrote("704.WSetRvrtTms", address, data)
        if seconds is not None:
            self.length_s = seconds
            return 0
        code = self.inner.write(address, data)
        if address == self.at("704.WSetEna"):
            self.began_s = self.now_s if data[:2] == b"\0\1" else None
        return code

    def read(self, address: int, count: int) -> bytes | int:
        left = 0 if self.began_s is None else max(0, round(self.length_s - (self.now_s - self.began_s)))
        place, timer = self.at("704.WSetRvrtRem") + 1, self.at("704.WSetRvrtTms") + 1
        made = showing(**{f"r{place}": left, f"r{timer}": self.length_s})(self.inner, self.plant)
        return made.read(address, count)


class RevertsOnPaper(CountsOnly):
    """The registers revert, the power stays."""

    def read(self, address: int, count: int) -> bytes | int:
        over = self.began_s is not None and self.now_s > self.began_s + self.length_s
        if not over:
            return super().read(address, count)
        back = self.number("704.WSetRvrt")
        place = self.at("704.WSet")
        shown = {f"r{place}": back >> 16, f"r{place + 1}": back, f"r{self.at('704.WSetEna')}": 0}
        return showing(**shown)(self.inner, self.plant).read(address, count)


class StaysActive(Unit):
    """Reverts the power, its registers still say it is on (KACO)."""

    on = False

    def write(self, address: int, data: bytes) -> int:
        if address == self.at("704.WSetEna"):
            self.on = data[:2] == b"\0\1"
        return self.inner.write(address, data)

    def read(self, address: int, count: int) -> bytes | int:
        made = showing(m704_WSetEna=1) if self.on else Unit
        return made(self.inner, self.plant).read(address, count)


class NoEffect(Unit):
    """Stores the set-point and does nothing with it."""

    shown = 0

    def write(self, address: int, data: bytes) -> int:
        if address == self.at("704.WSetEna"):
            self.shown = int.from_bytes(data[:2])
            return 0
        return self.inner.write(address, data)

    def read(self, address: int, count: int) -> bytes | int:
        return showing(m704_WSetEna=self.shown)(self.inner, self.plant).read(address, count)


class KeepsValue(Unit):
    """Switches off, but the value does not become what the timer was told."""

    value = 0

    def write(self, address: int, data: bytes) -> int:
        code = self.inner.write(address, data)
        written = self.wrote("704.WSet", address, data)
        self.value = self.value if written is None else written
        return code

    def read(self, address: int, count: int) -> bytes | int:
        place = self.at("704.WSet")
        made = showing(**{f"r{place}": self.value >> 16, f"r{place + 1}": self.value})
        return made(self.inner, self.plant).read(address, count)


class StuckRemainder(Unit):
    def read(self, address: int, count: int) -> bytes | int:
        place = self.at("704.WSetRvrtRem") + 1
        return showing(**{f"r{place}": 0})(self.inner, self.plant).read(address, count)


class LegacyForEver(Unit):
    """124 has a timer point and no timer."""

    kept = 0

    def write(self, address: int, data: bytes) -> int:
        if address == self.at("124.InOutWRte_RvrtTms"):
            self.kept = int.from_bytes(data)
            return 0
        return self.inner.write(address, data)

    def read(self, address: int, count: int) -> bytes | int:
        return showing(m124_InOutWRte_RvrtTms=self.kept)(self.inner, self.plant).read(address, count)


class CurveForEver(Unit):
    """706 has a timer point and no timer."""

    def write(self, address: int, data: bytes) -> int:
        return 0 if address == self.at("706.RvrtTms") else self.inner.write(address, data)


class NoRestart(Unit):
    """A timer written while it runs is taken and changes nothing."""

    def write(self, address: int, data: bytes) -> int:
        running = self.number("704.WSetEna") == 1 and address == self.at("704.WSetRvrtTms")
        return 0 if running else self.inner.write(address, data)


class NoCancel(Unit):
    """Switching off leaves the timer running; at its end it does what it was told."""

    due_s: float | None = None

    def write(self, address: int, data: bytes) -> int:
        if address == self.at("704.WSetEna"):
            if data[:2] == b"\0\1":
                self.due_s = self.now_s + self.number("704.WSetRvrtTms")
            elif self.number("704.WSetEnaRvrt") == 0:
                self.due_s = None
        return self.inner.write(address, data)

    def step(self) -> None:
        if self.due_s is not None and self.now_s > self.due_s:
            self.due_s = None
            self.put("704.WSet", self.number("704.WSetRvrt"))
            self.put("704.WSetEna", self.number("704.WSetEnaRvrt"))


@pytest.mark.parametrize(
    ("number", "make", "text"),
    [
        ("REV-1", CountsOnly, "704.WSetEna after the timer"),
        ("REV-1", CountsOnly, "704.WSet: the power goes back"),
        ("REV-1", StaysActive, "704.WSetEna after the timer"),
        ("REV-1", NoEffect, "704.WSet: the power follows the command"),
        ("REV-1", KeepsValue, "704.WSet after the timer"),
        ("REV-1", StuckRemainder, "704.WSetRvrtRem"),
        ("REV-1", LegacyForEver, "124.StorCtl_Mod: the power goes back"),
        ("REV-1", CurveForEver, "706.RvrtRem"),
        ("REV-1", CurveForEver, "706.Crv[1]"),
        ("REV-2", NoRestart, "a timer that was written again"),
        ("REV-2", CountsOnly, "after the second end"),
        ("REV-3", NoCancel, "704.WSetEna after the end of a timer whose function was switched off"),
        ("REV-3", NoCancel, "704.WSet after that"),
        ("REV-3", NoCancel, "704.WSet: the power goes back"),
    ],
)
def test_reversion(number: str, make: Make, text: str) -> None:
    assert text in failing(make, number)


def test_a_timer_that_reverts_on_paper_only_is_caught_at_the_power_alone() -> None:
    about_set_point = [line for line in failing(RevertsOnPaper, "REV-1").splitlines() if "704.WSet" in line]
    assert [line.partition(":")[0] for line in about_set_point] == ["704.WSet"]
    assert "the power goes back" in about_set_point[0]
