"""Writes as the field takes them: refused, discarded, rounded, hidden; and what others left behind."""

from __future__ import annotations

import re

import pytest
from ridethrough.hil.modbus_link import TargetError
from ridethrough.hil.writing import DISCARDED, WRITE_ONLY, finding

from tests.hil.device_bench import COMMON, Box, Registers, boxed, der, legacy, model, run, served

# Function codes.


def test_a_device_without_function_6_is_written_with_16() -> None:
    async def test() -> None:
        unit = Registers(legacy())
        box = Box(unit)
        box.refuses = {6: 1}
        async with boxed(box) as (peer, device):
            await device.discover()
            assert await device.set_power(1000.0, 60) == 1000.0
            assert [frame[7] for frame in peer.frames if frame[7] != 3] == [6, 16, 16, 16]
            assert "it refuses function 6 (write one register); function 16 is used" in device.met

    run(test())


def test_a_device_without_function_16_is_written_point_by_point_where_that_is_safe() -> None:
    async def test() -> None:
        unit = Registers(legacy())
        box = Box(unit)
        box.refuses = {16: 1}
        async with boxed(box) as (_, device):
            await device.discover()
            assert await device.set_power(1000.0, 60) == 1000.0
            names = ("InOutWRte_RvrtTms", "OutWRte", "InWRte", "StorCtl_Mod")
            assert [address for address, _ in unit.writes] == [unit.at(124, name) for name in names]
            assert any("function 6 is used for points of one register" in text for text in device.met)
            await device.release()
            assert await device.read_point("124.StorCtl_Mod") == 0

    run(test())


def test_a_device_without_function_16_is_not_written_piece_by_piece_where_that_is_not_safe() -> None:
    async def test() -> None:
        unit = Registers(der())
        box = Box(unit)
        box.refuses = {16: 1}
        async with boxed(box) as (_, device):
            await device.discover()
            with pytest.raises(
                TargetError, match=r"refuses function 16 .*not be all or nothing.*nothing was"
            ) as e:
                await device.set_power(1000.0, 60)
            assert (e.value.code, e.value.refused) == (1, True)
            assert unit.writes == []
            assert (await device.write_point("704.WSetEna", 1)).held == 1

    run(test())


# Refusals.


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            1,
            "control by Modbus is disabled, or this device cannot be written at all: enable it on the device",
        ),
        (2, "it rejects a documented point, which by SunSpec's definition can be written"),
        (4, "some devices answer so while control by Modbus is disabled (enable it on the device)"),
    ],
)
def test_a_refused_write_says_what_that_may_mean(code: int, words: str) -> None:
    async def test() -> None:
        unit = Registers([*legacy(), model(802, SoC=500, SoCRsvMin=200, SoC_SF=-1)])
        async with served(unit, meter_units=()) as device:
            await device.discover()
            unit.codes = dict.fromkeys(unit.words, code)
            for use in (
                device.set_power(1000.0, 60),
                device.set_reserve(0.5),
                device.release(),
                device.write_point("802.SoCRsvMin", 30),
            ):
                with pytest.raises(TargetError, match=re.escape(words)) as caught:
                    await use
                assert (caught.value.code, caught.value.refused) == (code, True)
                assert re.search(r"writing (124|802)\.\w+ \(registers? \d+", str(caught.value))
            assert (await device.telemetry()).power_w == -1500.0
            unit.codes = {}  # enabled on the device
            assert await device.set_reserve(0.5) == 0.5
            assert await device.set_power(1000.0, 60) == 1000.0

    run(test())


# Read back.


class Odd(Registers):
    """Keeps something else than is written.

    Attributes
    ----------
    keeps : dict
        Word by address, whatever comes.
    steps : dict
        By address, what the number there is a multiple of, rounded towards zero.
    """

    def __init__(self, models: list[list[int]]) -> None:
        super().__init__(models)
        self.keeps: dict[int, int] = {}
        self.steps: dict[int, int] = {}

    def write(self, address: int, data: bytes, /) -> int:
        code = super().write(address, data)
        for at, step in self.steps.items():
            number = self.words[at] - 0x10000 * (self.words[at] >> 15)
            self.words[at] = int(number / step) * step & 0xFFFF
        self.words |= self.keeps
        return code


def test_a_power_that_the_device_rounds_is_taken_and_named() -> None:
    """One maker's devices take multiples of 10 W only; the same command again is no other case."""

    async def test() -> None:
        unit = Odd(der())
        low = unit.at(704, "WSet") + 1
        unit.steps = {low: 10}
        async with served(unit, meter_units=()) as device:
            for _ in range(2):
                assert await device.set_power(1234.0, 60) == 1230.0
            assert device.met == [
                f"704.WSet (register {low - 1}): rounded by the device: wrote 1234, it holds 1230 (unscaled)"
            ]
            unit.steps = {low: 100}
            with pytest.raises(
                TargetError, match=r"wrote 1290, the device holds 1200 .*: rounded or clipped"
            ):
                await device.set_power(1290.0, 60)

    run(test())


def test_a_window_that_the_device_rounds_is_taken_and_named() -> None:
    async def test() -> None:
        unit = Odd(legacy())
        unit.steps = {unit.at(124, "InWRte"): 10, unit.at(124, "OutWRte"): 10}
        async with served(unit, meter_units=()) as device:
            assert await device.set_power(1234.0, 60) == 1232.0  # 30.85 % of 4000 W became 30.80 %
            assert await device.set_power(-1234.0, 60) == -1232.0
            assert "wrote -3085, it holds -3080" in device.met[0]

    run(test())


@pytest.mark.parametrize("held", [1300, 0xFFFF - 1233, 600])
def test_more_than_asked_or_much_less_is_no_rounding(held: int) -> None:
    async def test() -> None:
        unit = Odd(der())
        low = unit.at(704, "WSet") + 1
        unit.keeps = {low: held, low - 1: 0xFFFF * (held >> 15)}
        async with served(unit, meter_units=()) as device:
            with pytest.raises(
                TargetError, match="rounded or clipped by the device, or commanded by another"
            ):
                await device.set_power(1234.0, 60)

    run(test())


def test_what_is_acknowledged_and_discarded_is_called_so() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit, meter_units=()) as device:
            await device.set_power(500.0, 60)
            unit.discards = True
            with pytest.raises(
                TargetError, match=r"704.WSet \(.* wrote 1000, the device holds 500 .*" + DISCARDED
            ):
                await device.set_power(1000.0, 60)
            written = await device.write_point("704.WSet", 1000)
            assert (written.differs, written.held, written.finding) == (True, 500, DISCARDED)
            assert device.met == [f"704.WSet (register {unit.at(704, 'WSet')}): {DISCARDED}"]

    run(test())


def test_a_point_that_reads_as_not_implemented_after_a_write_is_write_only() -> None:
    async def test() -> None:
        unit = Registers(der(WMaxLimPct_SF=0))
        async with served(unit, meter_units=()) as device:
            unit.discards = True  # what is written is acted upon and never shown
            written = await device.write_point("704.WMaxLimPct", 60)
            assert (written.sent, written.held, written.finding) == (60, None, WRITE_ONLY)
            assert len(unit.writes) == 1

    run(test())


@pytest.mark.parametrize(
    ("sent", "before", "held", "words"),
    [
        (5, 3, 5, ""),
        (5, 5, 5, ""),
        (5, None, None, WRITE_ONLY),
        (5, 3, None, "it can no longer be read"),
        (5, 3, 3, DISCARDED),
        (5, 3, 4, "wrote 5, it holds 4"),
        (5, None, 4, "wrote 5, it holds 4"),
    ],
)
def test_what_is_held_tells_what_happened(
    sent: int, before: int | None, held: int | None, words: str
) -> None:
    found = finding(sent, before, held)
    assert words in found
    assert bool(words) == bool(found)


def test_a_reserve_that_is_held_already_is_not_written_again() -> None:
    async def test() -> None:
        unit = Registers(legacy())
        async with served(unit, meter_units=()) as device:
            assert await device.set_reserve(0.2) == 0.2  # as it was
            assert unit.writes == []
            for _ in range(5):
                assert await device.set_reserve(0.3) == 0.3
            assert unit.writes == [(unit.at(124, "MinRsvPct"), [30])]
            unit.set(124, "MinRsvPct", 5)  # somebody else
            await device.set_reserve(0.3)
            assert len(unit.writes) == 2

    run(test())


# What others left behind.

CONTROLS = {"WMaxLimPct": 30, "WMaxLim_Ena": 1, "WMaxLimPct_RvrtTms": 0, "WMaxLimPct_SF": 0, "Conn": 1}


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (
            legacy(InOutWRte_RvrtTms=3600),
            ["124.InOutWRte_RvrtTms (register {}) is 3600 s before any command"],
        ),
        (
            legacy(StorCtl_Mod=2, OutWRte=-2500),
            ["124.StorCtl_Mod (register {}) is 2 before any command", "OutWRte -25.0 % WDisChaMax"],
        ),
        (
            der(WSetEna=1, WSet=2000),
            ["704.WSetEna (register {}) is 1 before any command", "in force (WSet 2000 W"],
        ),
        (
            der(WSetRvrtTms=60),
            ["704.WSetRvrtTms (register {}) is 60 s before", "another controller left behind"],
        ),
        ([*der(), model(123, **CONTROLS)], ["123.WMaxLim_Ena (register {}) is 1", "(WMaxLimPct 30 "]),
        (
            [*der(), model(123, **(CONTROLS | {"Conn": 0, "WMaxLim_Ena": 0}))],
            ["123.Conn (register {}) is 0: some"],
        ),
    ],
)
def test_what_is_in_force_before_our_first_command_is_named(
    models: list[list[int]], words: list[str]
) -> None:
    async def test() -> None:
        unit = Registers(models)
        number, _, name = words[0].split()[0].partition(".")
        async with served(unit, meter_units=()) as device:
            warnings = (await device.discover()).warnings
            (text,) = (one for one in warnings if "no meter" not in one)
            for part in words:
                assert part.format(unit.at(int(number), name)) in text
            assert text in device.met

    run(test())


def test_our_own_command_is_no_leftover() -> None:
    async def test() -> None:
        async with served(Registers(der()), meter_units=()) as device:
            assert (await device.discover()).warnings == ("no meter found: no unit id to look at",)
            await device.set_power(1000.0, 60)
            assert (await device.discover()).warnings == ("no meter found: no unit id to look at",)
            assert device.met == []
        assert COMMON[0] == 1

    run(test())
