"""Maps and values as the field has them: models that vanish, change or lie, holes, empty frames."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from ridethrough.emulator.server import serve_tcp
from ridethrough.hil.device import Device
from ridethrough.hil.device_scan import ScanReport, scan
from ridethrough.hil.modbus_link import TargetError

from tests.hil.device_bench import (
    COMMON,
    END,
    MARKER,
    Box,
    Registers,
    boxed,
    der,
    legacy,
    model,
    run,
    served,
)


def floats() -> list[list[int]]:
    """Return the models of a device of the 100 family that measures in floats."""
    return [COMMON, model(113, W=-1500, St=4, Evt1=0), *legacy()[2:]]


def scanned(*units: Registers) -> ScanReport:
    found: list[ScanReport] = []

    async def test() -> None:
        async with await serve_tcp(dict(enumerate(units, 1))) as server:
            found.append(await scan(f"tcp:127.0.0.1:{server.port}", 1.0))

    run(test())
    return found[0]


# The chain of models.


def test_silence_behind_the_last_model_is_its_end() -> None:
    """Newer firmware of one maker answers nothing for what it does not serve."""

    async def test() -> None:
        unit = Registers(der(), end=[])
        box = Box(unit)
        end = max(unit.words) + 1
        box.silent_at = {end, end + 1}
        async with boxed(box) as (_, device):
            warnings = (await device.discover()).warnings
            assert (
                f"no end model behind model 715 (register {end}): the device is silent there; models behind "
                "it may be missing" in warnings
            )
            assert (await device.telemetry()).power_w == 1500.0

    run(test())


def test_silence_behind_a_length_that_cannot_be_right_is_no_end() -> None:
    async def test() -> None:
        unit = Registers([COMMON, [713, 9, *model(713)[2:]]], end=[])
        box = Box(unit)
        end = max(unit.words) + 1
        box.silent_at = set(range(end, end + 10))
        async with boxed(box) as (_, device):
            with pytest.raises(
                TargetError, match="states length 9, its definition 7: that length is probably wrong"
            ):
                await device.discover()

    run(test())


def test_a_device_that_dies_half_way_has_no_end_there() -> None:
    class Dying(Box):
        def answer(self, unit_id: int, asked: bytes) -> bytes:
            if int.from_bytes(asked[1:3]) == unit.at(713, "ID"):
                self.silent_at = set(unit.words)
            return super().answer(unit_id, asked)

    unit = Registers(der())

    async def test() -> None:
        async with boxed(Dying(unit)) as (_, device):
            with pytest.raises(TargetError, match=r"reading the SunSpec marker .*no answer"):
                await device.discover()

    run(test())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            [114, 50],
            "model 114 (register {at}) is not one of SunSpec's; model 101, 102, 103, 702 has that length",
        ),
        (
            [103, 24],
            "model 103 (register {at}) states length 24, its definition 50; model 15, 123, 124 has that",
        ),
    ],
)
def test_a_label_that_does_not_fit_its_length_is_named_and_not_used(wrong: list[int], words: str) -> None:
    unit = Registers([*der(), [*wrong, *[7] * wrong[1]]])
    at = max(unit.words) - wrong[1] - 3

    async def test() -> None:
        async with served(unit, meter_units=()) as device:
            found = await device.discover()
            assert words.format(at=at) in found.warnings[0]
            assert found.warnings[0].endswith("it is not used")
            entry = found.find(wrong[0])
            assert entry is not None
            assert not entry.known
            with pytest.raises(TargetError, match="has no point 'W'"):
                await device.read_point(f"{wrong[0]}.W")

    run(test())


def test_a_makers_own_model_is_not_taken_for_mislabelled() -> None:
    assert scanned(Registers([*der(), [64999, 50, *[7] * 50]])).warnings == ()


def test_integers_and_floats_at_once_are_one_device() -> None:
    both = [COMMON, *legacy()[1:2], model(113, W=-1499.5), *legacy()[2:]]

    async def test() -> None:
        async with served(Registers(both), meter_units=()) as device:
            assert "models 103 and 113 tell the same: 103 is used" in (await device.discover()).warnings
            assert (await device.telemetry()).power_w == -1500.0

    run(test())


def test_integers_and_floats_may_change_places_while_running() -> None:
    async def test() -> None:
        unit = Registers(legacy())
        async with served(unit, meter_units=()) as device:
            await device.discover()
            for models, gone in ((floats(), 103), (legacy(), 113), (floats(), 103)):
                unit.words = Registers(models).words
                with pytest.raises(TargetError, match=f"model {gone} is gone: .*the map has changed"):
                    await device.telemetry()
                reads = len(unit.reads)
                assert (await device.telemetry()).power_w == -1500.0
                assert await device.set_power(1000.0, 60) == 1000.0
                assert len(unit.reads) > reads + 8, "it was discovered again"
                reads = len(unit.reads)
                await device.telemetry()
                assert len(unit.reads) == reads + len(device._spans), "it goes on looking"

    run(test())


def vanished() -> Iterator[tuple[str, dict[int, int]]]:
    """Yield what is left of the map of `legacy` when its models are away."""
    first = [*MARKER, *COMMON]
    yield "without an end", dict(enumerate(first, 40000))
    yield "with an end", dict(enumerate([*first, *END], 40000))


@pytest.mark.parametrize(("how", "night"), list(vanished()))
def test_models_that_vanish_are_missed_and_found_again(how: str, night: dict[int, int]) -> None:
    async def test() -> None:
        unit = Registers(legacy())
        async with served(unit, meter_units=()) as device:
            await device.discover()
            day, unit.words = unit.words, night
            with pytest.raises(TargetError, match=r"model 103 is gone: .*register 40070"):
                await device.telemetry()
            for _ in range(3):
                with pytest.raises(
                    TargetError, match=r"model 103 is gone \(register 40070\).* at the moment"
                ) as e:
                    await device.telemetry()
                assert e.value.refused
                with pytest.raises(TargetError, match="model 124 is gone"):
                    await device.set_power(1000.0, 60)
            reads = len(unit.reads)
            with pytest.raises(TargetError):
                await device.telemetry()
            assert len(unit.reads) == reads + 1, "one look is enough"
            unit.words = day
            assert (await device.telemetry()).power_w == -1500.0
            assert await device.set_power(1000.0, 60) == 1000.0

    run(test())


def test_a_device_that_is_found_asleep_is_noticed_when_it_wakes() -> None:
    async def test() -> None:
        unit = Registers([COMMON])
        async with served(unit, meter_units=()) as device:
            await device.discover()
            assert math.isnan((await device.telemetry()).power_w)
            unit.words = Registers(legacy()).words
            assert (await device.telemetry()).power_w == -1500.0

    run(test())


def test_a_map_that_breaks_when_it_is_read_again_leaves_the_last_one_in_use() -> None:
    """A repeating model that gets shorter at night, with nothing but 0xFFFF behind it."""

    async def test() -> None:
        ports = [714, 18 + 25, *[0xFFFF] * 43]
        unit = Registers([*der(), ports, [64999, 3, 1, 2, 3]])
        at = unit.at(715, "ID") + 9
        async with served(unit, meter_units=()) as device:
            await device.discover()
            unit.words[at + 1] = 5
            with pytest.raises(TargetError, match=r"model 714 is gone: .* with length 5, not"):
                await device.read_model(714)
            assert (await device.telemetry()).power_w == 1500.0
            assert "the map cannot be read again, the last one stays in use" in device.met[-1]
            assert f"breaks at register {at + 7}" in device.met[-1]
            unit.words[at + 1] = ports[1]
            assert (await device.telemetry()).power_w == 1500.0
            assert await device.read_point("714.ID") == 714

    run(test())


def test_a_second_unit_that_is_the_same_device_is_named() -> None:
    unit = Registers(der())
    (warning,) = scanned(unit, unit).warnings
    assert warning.startswith("unit 2 answers as the same device as unit 1, serial '007' (Maker Thing)")
    assert scanned(unit, Registers([model(1, SN="008"), *der()[1:]])).warnings == ()

    async def test() -> None:
        async with served(unit, unit, meter_units=(2,)) as device:
            assert "unit 2 answers as the same device" in (await device.discover()).warnings[-1]

    run(test())


# Registers that are refused.


def test_a_poll_reads_around_registers_that_are_refused() -> None:
    unit = Registers(der())
    hole = unit.at(701, "PF")
    del unit.words[hole]

    async def test() -> None:
        async with served(unit, meter_units=()) as device:
            await device.discover()
            assert device.met == [
                f"701.W (register {unit.at(701, 'W')}) and its scale factor cannot be read in one request: "
                "if the device changes the one between the two requests, the value is wrong"
            ]
            for _ in range(2):
                reads = len(unit.reads)
                reading = await device.telemetry()
                assert (reading.power_w, reading.soc_frac, reading.grid_good) == (1500.0, 0.5, 1.0)
                assert not any(a <= hole < a + n for a, n in unit.reads[reads:]), "it tried again"

    run(test())


def test_registers_that_are_refused_from_now_on_cost_one_poll() -> None:
    unit = Registers(der())
    hole = unit.at(701, "PF")

    async def test() -> None:
        async with served(unit, meter_units=()) as device:
            await device.discover()
            word = unit.words.pop(hole)
            with pytest.raises(TargetError, match=r"were readable and are refused now \(exception 2\)"):
                await device.telemetry()
            assert (await device.telemetry()).power_w == 1500.0
            unit.words[hole] = word
            assert (await device.telemetry()).power_w == 1500.0

    run(test())


def test_a_model_that_is_served_in_short_requests_only_is_polled_in_short_ones() -> None:
    class Short(Registers):
        def read(self, address: int, count: int, /) -> bytes | int:
            return 3 if count > 20 else super().read(address, count)

    async def test() -> None:
        unit = Short(der())
        async with served(unit, meter_units=()) as device:
            await device.discover()
            unit.reads.clear()
            assert (await device.telemetry()).power_w == 1500.0
            assert all(count <= 20 for _, count in unit.reads)

    run(test())


def test_a_model_whose_registers_get_no_answer_does_not_hide_the_others() -> None:
    async def test() -> None:
        unit = Registers(der())
        box = Box(unit)
        box.silent_at = set(range(unit.at(702, "ID") + 2, unit.at(704, "ID")))
        async with boxed(box) as (_, device):
            warnings = (await device.discover()).warnings
            assert any("model 702 cannot be read: " in text and "no answer" in text for text in warnings)
            assert (await device.telemetry()).power_w == 1500.0

    run(test())


# Values.


@pytest.mark.parametrize(("fill", "state"), [(0, 0), (0, 7), (0xFFFF, 0xFFFF)])
@pytest.mark.parametrize("header", [True, False])
def test_an_empty_frame_is_read_once_more(fill: int, state: int, header: bool) -> None:
    """All zero while the inner bus is down, the state excepted; or 0xFFFF after a restart at night."""
    if fill and header:
        return  # every value reads as not implemented, which is the truth as far as it can be told

    class Flickering(Registers):
        empty = 0

        def read(self, address: int, count: int, /) -> bytes | int:
            at = self.at(103, "ID")
            if not self.empty or address != at:
                return super().read(address, count)
            self.empty -= 1
            words = [fill] * count
            words[self.at(103, "St") - at] = state
            if header:
                words[:2] = [103, 50]
            return b"".join(word.to_bytes(2) for word in words)

    async def test() -> None:
        unit = Flickering(legacy())
        async with served(unit, meter_units=()) as device:
            await device.discover()
            unit.empty = 1
            assert (await device.telemetry()).power_w == -1500.0
            (met,) = device.met
            assert "an empty frame came for registers 40070 to" in met
            unit.empty = 2
            with pytest.raises(
                TargetError, match=r"an empty frame in place of model 103 .*, twice"
            ) as caught:
                await device.telemetry()
            assert not caught.value.changed
            unit.empty = 1
            assert await device.read_point("103.W") == (0 if header else -1500)

    run(test())


def test_a_device_that_measures_nothing_is_no_empty_frame() -> None:
    async def test() -> None:
        unit = Registers([COMMON, model(103, W=0, W_SF=0, St=4, Evt1=0), *legacy()[2:]])
        async with served(unit, meter_units=()) as device:
            for _ in range(2):
                assert (await device.telemetry()).power_w == 0.0
            assert device.met == []

    run(test())


def test_scale_factors_that_change_or_are_missing_are_named() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit, meter_units=()) as device:
            await device.telemetry()
            unit.set(701, "W", 150)
            unit.set(701, "W_SF", 1)
            assert (await device.telemetry()).power_w == 1500.0
            place = f"701.W (register {unit.at(701, 'W')})"
            assert device.met == [
                f"{place}: its scale factor changed from 0 to 1 while running; each value is read together "
                "with its own"
            ]
            unit.set(701, "W_SF", 0x8000)
            assert math.isnan((await device.telemetry()).power_w)
            assert device.met[1:] == [
                f"{place}: its value is implemented (150) and its scale factor is not: no value"
            ]
            await device.telemetry()
            assert len(device.met) == 2

    run(test())


def test_a_power_that_cannot_be_is_named() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit, meter_units=()) as device:
            for watts, factor in ((5000, 0), (-4000 & 0xFFFF, 0)):
                unit.set(701, "W", watts)
                unit.set(701, "W_SF", factor)
                await device.telemetry()
            assert device.met == []
            unit.set(702, "W_SF", -2 & 0xFFFF)
            await device.capabilities()
            assert (await device.telemetry()).power_w == -4000.0
            assert device.met == [
                "it measures -4000 W and is rated 40 W: the scale factor of one of the two is wrong"
            ]

    run(test())


def test_values_that_are_not_implemented_are_none_and_no_phenomenon() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit, meter_units=()) as device:
            await device.telemetry()
            unit.set(701, "W", 0x8000)
            unit.set(713, "SoC", 0xFFFF)
            reading = await device.telemetry()
            assert math.isnan(reading.power_w)
            assert math.isnan(reading.soc_frac)
            assert await device.read_point("713.SoC") is None
            assert device.met == []

    run(test())


def test_a_device_can_be_asked_what_it_cost() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit, meter_units=()) as device:
            await device.discover()
            assert device.requests == len(unit.reads)
            assert isinstance(device, Device)

    run(test())
