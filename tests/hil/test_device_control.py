"""Commands: the reversion first, never more than asked, and what the device holds instead is an error."""

from __future__ import annotations

import asyncio
import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ridethrough.emulator.errors import DeviceError
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.server import serve_tcp
from ridethrough.hil.control import towards_zero, upwards
from ridethrough.hil.device import Device
from ridethrough.hil.files import load_profile, profile_names
from ridethrough.hil.modbus_link import TargetError
from ridethrough.hil.writing import Written

from tests.hil.device_bench import (
    TIMEOUT_S,
    Peer,
    Registers,
    charging_w,
    der,
    framed,
    legacy,
    model,
    run,
    served,
)

NAMES = profile_names()
SECOND = 50
"""Ticks."""

PERCENT = {"WSet": None, "WSetPct": 0, "WSetPct_SF": -1}


def writes(unit: Registers, power_w: float, validity_s: float = 60.0) -> list[tuple[int, list[int]]]:
    """Return what one command writes, in order; what it says it wrote is never more than was asked."""

    async def test() -> None:
        async with served(unit, meter_units=()) as device:
            await device.discover()
            held_w = await device.set_power(power_w, validity_s)
            assert abs(held_w) <= abs(power_w) * (1 + 1e-9)
            assert held_w == 0.0 or math.copysign(1.0, held_w) == math.copysign(1.0, power_w)

    run(test())
    return unit.writes


def refused(unit: Registers, power_w: float, validity_s: float = 60.0) -> str:
    """Return why a command is refused; nothing may have been written."""
    found: list[str] = []

    async def test() -> None:
        async with served(unit, meter_units=()) as device:
            await device.discover()
            with pytest.raises(DeviceError) as caught:
                await device.set_power(power_w, validity_s)
            assert isinstance(caught.value, TargetError)
            assert caught.value.refused
            found.append(str(caught.value))

    run(test())
    assert unit.writes == []
    return found[0]


# What is written, and in which order.


@pytest.mark.parametrize(("power_w", "high", "low"), [(2000, 0, 2000), (-2000, 0xFFFF, 0xF830), (0, 0, 0)])
def test_704_in_watts(power_w: float, high: int, low: int) -> None:
    unit = Registers(der())
    assert writes(unit, power_w) == [
        (unit.at(704, "WSetEnaRvrt"), [0, 0, 60]),
        (unit.at(704, "WSetEna"), [1, 1, high, low]),
    ]


def test_704_in_percent_where_watts_are_not_implemented() -> None:
    unit = Registers(der(**PERCENT))
    assert writes(unit, -1234.0, 90.9) == [
        (unit.at(704, "WSetEnaRvrt"), [0, 0, 90]),
        (unit.at(704, "WSetPct"), [0x10000 - 246]),  # 24.68 % of 5000 W, towards zero
        (unit.at(704, "WSetEna"), [1, 0]),
    ]


def test_704_without_a_value_after_reversion() -> None:
    unit = Registers(der(WSetEnaRvrt=None))
    assert writes(unit, 100.0)[0] == (unit.at(704, "WSetRvrtTms"), [0, 60])


@pytest.mark.parametrize(
    ("power_w", "outward", "inward", "mode"),
    [
        (2000.0, 10000, -5000, 1),
        (-2000.0, -5000, 10000, 2),
        (0.0, 0, 0, 3),
        (0.1, 0, 0, 3),  # less than the least step
        (1999.9, 10000, -4999, 1),
        (-1999.9, -4999, 10000, 2),
    ],
)
def test_124_writes_the_timer_then_the_rates_then_the_mode(
    power_w: float, outward: int, inward: int, mode: int
) -> None:
    unit = Registers(legacy())
    assert writes(unit, power_w) == [
        (unit.at(124, "InOutWRte_RvrtTms"), [60]),
        (unit.at(124, "OutWRte"), [outward & 0xFFFF, inward & 0xFFFF]),
        (unit.at(124, "StorCtl_Mod"), [mode]),
    ]


def test_124_allows_charging_from_the_grid_and_forbids_it_again() -> None:
    unit = Registers(legacy(ChaGriSet=0))

    async def test() -> None:
        async with served(unit, meter_units=()) as device:
            await device.set_power(1000.0, 60)
            assert unit.words[unit.at(124, "ChaGriSet")] == 0
            await device.set_power(-1000.0, 60)
            assert unit.words[unit.at(124, "ChaGriSet")] == 1
            order = [address for address, _ in unit.writes[-4:]]
            assert order == [
                unit.at(124, name) for name in ("InOutWRte_RvrtTms", "ChaGriSet", "OutWRte", "StorCtl_Mod")
            ]
            await device.capabilities()  # reading anew does not forget it
            await device.release()
            assert unit.words[unit.at(124, "ChaGriSet")] == 0
            unit.set(124, "ChaGriSet", 1)
            await device.release()
            assert unit.words[unit.at(124, "ChaGriSet")] == 1, "it was not ours to forbid"

    run(test())


def test_704_is_preferred_and_124_taken_where_704_has_no_set_point() -> None:
    unit = Registers([*der(), legacy()[-1]])
    assert len(writes(unit, 100.0)) == 2
    assert unit.words[unit.at(124, "StorCtl_Mod")] == 0
    unit = Registers([*der(WSetEna=None, WSet=None), legacy()[-1]])
    writes(unit, 100.0)
    assert unit.words[unit.at(124, "StorCtl_Mod")] == 1


# Refused before anything is written.


@pytest.mark.parametrize(
    ("models", "power_w", "validity_s", "words"),
    [
        (der(), 5000.1, 60, "power_w 5000.1 found; allowed -4000 to 5000 W, the ratings"),
        (der(), -4000.1, 60, "allowed -4000 to 5000 W"),
        (der(), math.nan, 60, "power_w nan found"),
        (der(), math.inf, 60, "power_w inf found"),
        (der(), 100, 0.5, "validity_s 0.5 found; allowed from 1 s"),
        (der(), 100, math.nan, "validity_s nan found"),
        (der(), 100, 2.0**32 - 1, "validity_s"),
        (der(WSetRvrtTms=None), 100, 60, "no revert timer: the command would have no end"),
        (der(WSet_SF=None), 100, 60, r"no revert timer|neither|scale factor"),
        (der(WSetEna=None), 100, 60, "neither 704.WSet nor 124"),
        (der(WSet_SF=-6), 4000, 60, r"704.WSet \(register \d+\): 4000000000 found; the register takes"),
        ([one for one in der(**PERCENT) if one[0] != 702], 100, 60, "what its percent are of"),
        (legacy(), 4000.1, 60, "124.WChaMax .*4000.1 W asked; allowed are -4000 to 4000 W"),
        (legacy(), 100, 65535, r"124.InOutWRte_RvrtTms \(register \d+\): 65535 found; .* 0 to 65534"),
        (legacy(InOutWRte_SF=-3), 100, 60, r"124.OutWRte .*100000 found; the register takes -32767 to 32767"),
        (legacy(InOutWRte_RvrtTms=None), 100, 60, "no revert timer"),
        (legacy(WChaMax=0), 0, 60, "124.WChaMax .*: 0 W found"),
        (legacy()[:-1], 100, 60, "neither 704.WSet nor 124"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    models: list[list[int]], power_w: float, validity_s: float, words: str
) -> None:
    message = refused(Registers(models), power_w, validity_s)
    assert re.search(words, message), message


# Read back.


@pytest.mark.parametrize("models", [der(), der(**PERCENT), legacy()])
@pytest.mark.parametrize("power_w", [1500.0, -1500.0, 0.0])
def test_a_device_that_acknowledges_and_discards_is_caught(models: list[list[int]], power_w: float) -> None:
    async def test() -> None:
        unit = Registers(models)
        async with served(unit, meter_units=()) as device:
            await device.discover()
            unit.discards = True
            with pytest.raises(
                TargetError, match=r"(704|124)\.\w+ \(register \d+\): wrote .*, the device holds"
            ) as e:
                await device.set_power(power_w, 60)
            assert e.value.refused
            unit.discards = False
            await device.set_power(power_w, 60)
            unit.discards = True
            with pytest.raises(TargetError, match="the device holds"):
                await device.release()

    run(test())


@pytest.mark.parametrize("name", ["WSetRvrtTms", "WSetEnaRvrt", "WSetMod", "WSet", "WSetEna"])
def test_each_point_of_a_command_is_read_back(name: str) -> None:
    class Forgetful(Registers):
        def write(self, address: int, data: bytes, /) -> int:
            code = super().write(address, data)
            self.set(704, name, *([7, 7] if name in ("WSet", "WSetRvrtTms") else [7]))
            return code

    async def test() -> None:
        async with served(Forgetful(der()), meter_units=()) as device:
            with pytest.raises(TargetError, match=rf"704\.{name} .*wrote \d+, the device holds \d+"):
                await device.set_power(1500.0, 60)

    run(test())


@pytest.mark.parametrize(
    ("models", "number", "name", "word", "words"),
    [
        (der(), 704, "WSet_SF", 1, "704.WSet .*its scale factor has changed"),
        (legacy(), 124, "InOutWRte_SF", 0xFFFF, "124.OutWRte .*its scale factor has changed"),
        (legacy(), 124, "WChaMax", 3999, "124.WChaMax .*its value has changed"),
    ],
)
def test_what_a_command_rests_on_is_read_back_too(
    models: list[list[int]], number: int, name: str, word: int, words: str
) -> None:
    async def test() -> None:
        unit = Registers(models)
        async with served(unit, meter_units=()) as device:
            await device.discover()
            unit.set(number, name, word)
            with pytest.raises(TargetError, match=words):
                await device.set_power(1000.0, 60)
            await device.discover()
            assert abs(await device.set_power(1000.0, 60) - 1000.0) <= 40.0

    run(test())


def test_an_exception_in_the_middle_leaves_nothing_in_force() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit, meter_units=()) as device:
            await device.discover()
            unit.codes[unit.at(704, "WSetEna")] = 4
            with pytest.raises(TargetError, match=r"writing 704.WSetEna \(registers .*exception 4") as caught:
                await device.set_power(1000.0, 60)
            assert caught.value.code == 4
            assert unit.words[unit.at(704, "WSetEna")] == 0

    run(test())


def test_a_lost_answer_to_a_write_is_lost_and_not_refused() -> None:
    async def test() -> None:
        unit = Registers(der())

        async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
            address, count = (int.from_bytes(request[k : k + 2]) for k in (8, 10))
            if request[7] == 16:
                unit.write(address, request[13:])  # carried out, and never answered
                return
            data = unit.read(address, count)
            assert isinstance(data, bytes)
            writer.write(framed(request, bytes((3, len(data))) + data))

        async with (
            Peer(*[reply] * 40) as peer,
            Device(f"tcp:127.0.0.1:{peer.port}", TIMEOUT_S, meter_units=()) as device,
        ):
            await device.discover()
            with pytest.raises(TargetError, match=r"writing 704.WSetEnaRvrt .*no answer") as caught:
                await device.set_power(1000.0, 60)
            assert not caught.value.refused
            assert len(unit.writes) == 1
            assert (await device.telemetry()).power_w == 1500.0

    run(test())


# Reserve and release.


@pytest.mark.parametrize(
    ("models", "point", "asked", "register", "held"),
    [
        ([*der(), model(802, SoC=500, SoCRsvMin=0, SoC_SF=-1)], "802.SoCRsvMin", 0.3331, 334, 0.334),
        ([*der(), model(802, SoC=500, SoCRsvMin=0, SoC_SF=-1)], "802.SoCRsvMin", 0.29, 290, 0.29),
        (legacy(), "124.MinRsvPct", 0.201, 21, 0.21),
        (legacy(), "124.MinRsvPct", 0.07, 7, 0.07),
        (legacy(), "124.MinRsvPct", 1.0, 100, 1.0),
        (legacy(), "124.MinRsvPct", 0.0, 0, 0.0),
    ],
)
def test_a_reserve_is_rounded_up_and_read_back(
    models: list[list[int]], point: str, asked: float, register: int, held: float
) -> None:
    async def test() -> None:
        unit = Registers(models)
        async with served(unit, meter_units=()) as device:
            assert (await device.capabilities()).reserve_point == point
            assert await device.set_reserve(asked) == pytest.approx(held, abs=1e-12)
            number, _, name = point.partition(".")
            assert unit.words[unit.at(int(number), name)] == register
            unit.discards = True
            with pytest.raises(TargetError, match=f"{point} .*the device holds {register}"):
                await device.set_reserve(0.55)
            for wrong in (-0.01, 1.01, math.nan):
                with pytest.raises(TargetError, match=r"soc_frac .* found; allowed 0 to 1"):
                    await device.set_reserve(wrong)

    run(test())


def test_a_device_without_a_reserve_says_so() -> None:
    async def test() -> None:
        async with served(Registers(der()), meter_units=()) as device:
            with pytest.raises(TargetError, match="no reserve of its own") as caught:
                await device.set_reserve(0.5)
            assert caught.value.refused

    run(test())


@given(st.floats(0, 1), st.integers(-4, 0))
@example(0.29, -2)
@example(0.07, 0)
def test_a_reserve_is_never_less_than_asked_nor_a_step_more(soc_frac: float, scale: int) -> None:
    steps = soc_frac * 10.0 ** (2 - scale)
    number = upwards(steps)
    assert steps * (1 - 1e-8) - 1e-8 <= number < steps + 1


@given(st.floats(-1e9, 1e9))
def test_a_power_is_never_more_than_asked_nor_a_step_less(steps: float) -> None:
    number = towards_zero(steps)
    assert abs(steps) - 1 < abs(number) <= abs(steps) * (1 + 1e-8) + 1e-8
    assert number * steps >= 0


@pytest.mark.parametrize("models", [der(), der(**PERCENT), legacy()])
def test_release_leaves_neither_a_command_nor_a_timer(models: list[list[int]]) -> None:
    async def test() -> None:
        unit = Registers(models)
        async with served(unit, meter_units=()) as device:
            await device.set_power(1500.0, 600)
            await device.release()
            if models[-1][0] == 124:
                assert await device.read_point("124.StorCtl_Mod") == 0
                assert (
                    await device.read_point("124.OutWRte") == await device.read_point("124.InWRte") == 100.0
                )
                assert await device.read_point("124.InOutWRte_RvrtTms") == 0
            else:
                assert await device.read_point("704.WSetEna") == 0
                assert await device.read_point("704.WSetRvrtTms") == 0

    run(test())


# The emulated devices do what they are told, and stop by themselves.


@pytest.mark.parametrize("name", NAMES)
def test_emulated_devices_follow_and_revert(name: str) -> None:
    profile = load_profile(name)
    own_mode_w = {"idle": 0.0, "self_consumption": 600.0, "recharge": 0.0}[profile.control.revert_state]

    async def test() -> None:
        plant = Plant([profile], soc_frac=[0.6])
        plant.set_input("load_w", [600.0])
        async with (
            await serve_tcp(units_of(plant, 0)) as server,
            Device(f"tcp:127.0.0.1:{server.port}") as device,
        ):
            for power_w in (2000.0, charging_w(profile)):
                held_w = await device.set_power(power_w, 30)
                plant.advance(20 * SECOND)
                assert plant.states("power_w")[0] == pytest.approx(held_w, abs=1.0)
                assert held_w == pytest.approx(power_w, abs=2.0)
                await device.set_power(power_w, 30)  # said again, it starts anew
                plant.advance(20 * SECOND)
                assert plant.states("power_w")[0] == pytest.approx(held_w, abs=1.0)
                plant.advance(20 * SECOND)
                assert plant.states("power_w")[0] == pytest.approx(own_mode_w, abs=1.0)
            await device.set_power(1000.0, 3600)
            await device.release()
            plant.advance(20 * SECOND)
            assert plant.states("power_w")[0] == pytest.approx(own_mode_w, abs=1.0)
            if profile.control.has_reserve:
                assert await device.set_reserve(0.59999) == 0.6
                assert plant.controls("reserve_frac")[0] == pytest.approx(0.6)
            top_w, low_w = profile.inverter.power_w_discharge_max, -profile.inverter.power_w_charge_max
            assert await device.set_power(top_w, 30) == pytest.approx(top_w)
            assert await device.set_power(low_w, 30) == pytest.approx(low_w)
            for beyond_w in (top_w + 1.0, low_w - 1.0):
                with pytest.raises(DeviceError, match="the ratings"):
                    await device.set_power(beyond_w, 30)

    run(test())


@pytest.mark.parametrize("name", ["home-13kwh-5kw", "home-11kwh-6kw-legacy"])
@settings(max_examples=10, deadline=None)
@given(powers=st.lists(st.floats(-5000, 5000), min_size=1, max_size=4))
def test_any_power_within_the_ratings_is_held_to_a_step(name: str, powers: list[float]) -> None:
    profile = load_profile(name)

    async def test() -> None:
        plant = Plant([profile], soc_frac=[0.5])
        async with (
            await serve_tcp(units_of(plant, 0)) as server,
            Device(f"tcp:127.0.0.1:{server.port}") as device,
        ):
            for power_w in powers:
                held_w = await device.set_power(power_w, 60)
                plant.advance(10 * SECOND)
                assert abs(power_w) - 1.0 < abs(held_w) <= abs(power_w) + 1e-6
                if held_w >= 0.0 or held_w < -200.0:  # less would not reach the cells
                    assert plant.states("power_w")[0] == pytest.approx(held_w, abs=1e-6)

    run(test())


# Single points.


def test_a_point_is_written_and_what_is_held_is_told() -> None:
    async def test() -> None:
        unit = Registers(der(WSet_SF=1))
        async with served(unit) as device:
            address = unit.at(704, "WSet")
            written = await device.write_point("704.WSet", -1234)
            assert written == Written("704.WSet", address, -1234, -1230, -1230)
            assert not written.differs
            assert (
                unit.words[address : address + 2] if False else unit.writes == [(address, [0xFFFF, 0xFF85])]
            )
            assert (await device.write_point("704.WSetEna", "ENABLED")).held == 1
            unit.discards = True
            written = await device.write_point("704.WSet", 500)
            assert (written.sent, written.held, written.differs) == (500, -1230, True)

    run(test())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("713.SoC", 50, r"713.SoC \(register \d+\): can only be read"),
        ("704.WSetEna", 70000, "70000 found; allowed are whole numbers 0 to 65534"),
        ("704.WSetEna", 0.5, "allowed are whole numbers"),
        ("704.WSetEna", "ON", "'ON' found; allowed are numbers, DISABLED, ENABLED"),
        ("704.WSet", 3e9, r"allowed are numbers -2.14748e\+09 to 2.14748e\+09"),
        ("704.VarSet", 100, "its scale factor is not implemented"),
    ],
)
def test_points_that_cannot_be_written_are_refused(name: str, value: float | str, words: str) -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit) as device:
            with pytest.raises(TargetError, match=words) as caught:
                await device.write_point(name, value)
            assert caught.value.refused
            assert unit.writes == []

    run(test())


def test_commands_take_turns() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit, meter_units=()) as device:
            await device.discover()
            await asyncio.gather(*(device.set_power(100.0 * k, 60) for k in range(10)))
            both = [unit.at(704, "WSetEnaRvrt"), unit.at(704, "WSetEna")]
            assert [address for address, _ in unit.writes] == both * 10

    run(test())
