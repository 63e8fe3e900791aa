"""Scale factors that are wrong or move, and whole models that read nothing."""

from __future__ import annotations

import struct

import pytest
from ridethrough.emulator.layout import compile_layout

from tests.emulator.register_bench import FULL, HOME
from tests.quirks.test_value_points import discharge, power
from tests.quirks.wire import Wire, at, made, on_wire, signed

LAYOUT = compile_layout(HOME)
W, W_SF = at(LAYOUT, 701, "W"), at(LAYOUT, 701, "W_SF")


async def in_one_request(wire: Wire) -> float:
    """Return 701.W, value and scale factor of one instant [W]."""
    words = await wire.words(W, W_SF - W + 1)
    return float(signed(words[0]) * 10.0 ** signed(words[-1]))


@pytest.mark.parametrize("quirk", ["scale-factor-walks", None])
def test_scale_factor_walks_with_the_value(quirk: str | None) -> None:
    async def main(wire: Wire) -> None:
        discharge(wire, 500.0)
        low = signed(await wire.word(W_SF))
        assert await in_one_request(wire) == pytest.approx(500.0, rel=0.03)
        discharge(wire, 2500.0)
        assert signed(await wire.word(W_SF)) == low + (quirk is not None)
        assert await in_one_request(wire) == pytest.approx(2500.0, rel=0.03)
        stale_w = signed(await wire.word(W)) * 10.0**low
        assert stale_w == pytest.approx(250.0 if quirk else 2500.0, rel=0.03)

    on_wire(main, HOME, *filter(None, [quirk]))


def test_scale_factor_walks_with_the_value_when_it_charges() -> None:
    async def main(wire: Wire) -> None:
        low = signed(await wire.word(W_SF))
        discharge(wire, -2500.0)
        assert signed(await wire.word(W_SF)) == low + 1
        assert await in_one_request(wire) == pytest.approx(-2500.0, rel=0.03)

    on_wire(main, HOME, "scale-factor-walks")


def test_of_two_knobs_for_one_scale_factor_the_first_in_force_counts() -> None:
    scales = [
        {"factors": ["701.W_SF"], "shift": 2, "when": {"start_s": 30}},
        {"factors": ["701.W_SF"], "shift": 1},
    ]

    async def main(wire: Wire) -> None:
        discharge(wire, 2500.0)
        assert signed(await wire.word(W_SF)) == 1
        assert await in_one_request(wire) == pytest.approx(2500.0, abs=60.0)
        wire.advance(25)
        assert signed(await wire.word(W_SF)) == 2
        assert await in_one_request(wire) == pytest.approx(2500.0, abs=60.0)

    on_wire(main, HOME, made(values={"scales": scales}))


def test_scale_factor_changes_between_two_requests() -> None:
    async def main(wire: Wire) -> None:
        discharge(wire, 2500.0)
        assert wire.plant.elapsed_ticks == 11 * 50
        value = signed(await wire.word(W))
        wire.advance(25)  # into the second half of the minute
        scale = signed(await wire.word(W_SF))
        assert value * 10.0**scale == pytest.approx(250.0, rel=0.03)
        assert await in_one_request(wire) == pytest.approx(2500.0, rel=0.03)
        wire.advance(30)
        assert await power(wire) == pytest.approx(2500.0, rel=0.03)

    on_wire(main, HOME, "scale-factor-by-clock")


def test_scale_factor_of_pv_strings_walks_in_every_module() -> None:
    layout = compile_layout(FULL)

    async def main(wire: Wire) -> None:
        wire.plant.set_input("pv_w_available", [3000.0] * 3)
        wire.advance(5)
        for string in (1, 2):
            point = at(layout, 160, f"module[{string}].DCW")
            assert await wire.word(point) == 150
        assert signed(await wire.word(at(layout, 160, "DCW_SF"))) == 1

    on_wire(main, FULL, "scale-factor-walks")


@pytest.mark.parametrize(
    ("quirk", "rating_w", "scale"),
    [("scale-factor-wrong", 50_000.0, 1), ("nameplate-overflow", 412.48, -2), (None, 5000.0, 0)],
)
def test_ratings(quirk: str | None, rating_w: float, scale: int) -> None:
    async def main(wire: Wire) -> None:
        for model, name, factor in ((120, "WRtg", "WRtg_SF"), (702, "WMaxRtg", "W_SF")):
            shown = signed(await wire.word(at(LAYOUT, model, factor)))
            assert shown == scale
            assert await wire.word(at(LAYOUT, model, name)) * 10.0**shown == pytest.approx(rating_w)

    on_wire(main, HOME, *filter(None, [quirk]))


def test_scale_factor_is_not_implemented_and_the_value_is() -> None:
    async def main(wire: Wire) -> None:
        discharge(wire, 2500.0)
        assert await wire.word(W_SF) == 0x8000
        assert signed(await wire.word(W)) == pytest.approx(2500, rel=0.03)

    async def without(wire: Wire) -> None:
        assert await wire.word(W_SF) != 0x8000

    on_wire(main, HOME, "scale-factor-missing")
    on_wire(without, HOME)


def test_null_frames_now_and_then() -> None:
    first, length = at(LAYOUT, 101, "ID"), 52

    async def count(wire: Wire) -> int:
        nulls = 0
        for _ in range(300):
            wire.advance(1)
            words = await wire.words(first, length)
            assert words[:2] == (101, 50)
            if not any(words[2:38]):
                nulls += 1
                assert words[38] == 7
                assert not any(words[39:])
                assert await wire.words(first, length) == words
        return nulls

    async def with_quirk(wire: Wire) -> None:
        assert 1 <= await count(wire) <= 20  # 2 % of 300

    async def without(wire: Wire) -> None:
        assert await count(wire) == 0

    on_wire(with_quirk, HOME, "null-frames")
    on_wire(without, HOME)


def test_null_frames_in_windows() -> None:
    knobs = {"null_frames": [{"models": [101], "when": {"start_s": 10, "every_s": 60, "for_s": 2}}]}

    async def main(wire: Wire) -> None:
        hz, seen = at(LAYOUT, 101, "Hz"), []
        for second in range(2, 80):
            wire.advance(1)
            if await wire.word(hz) == 0:
                seen.append(second)
        assert seen == [10, 11, 70, 71]

    on_wire(main, HOME, made(values=knobs))


def test_nightly_reset() -> None:
    wh, hz, soc = at(LAYOUT, 101, "WH"), at(LAYOUT, 101, "Hz"), at(LAYOUT, 713, "SoC")

    async def main(wire: Wire) -> None:
        wire.advance(8)
        assert await wire.word(hz) != 0xFFFF
        wire.advance(1)
        assert (await wire.word(hz), await wire.word(soc)) == (0xFFFF, 0xFFFF)
        assert await wire.word(W) == 0x8000
        assert await wire.words(wh, 2) == (0, 0)  # a counter has no other pattern
        assert [model for model, _, _ in await wire.chain()][:-1] == list(HOME.face.models)
        assert await wire.read(40052, 4) == b"D000001\0"
        wire.advance(10)
        assert (await wire.word(hz), await wire.word(soc), await wire.word(W)) == (0, 0, 0)
        wire.advance(39)
        assert await wire.word(hz) == 0
        wire.advance(1)
        assert await wire.word(hz) not in (0, 0xFFFF)

    on_wire(main, HOME, "nightly-reset", start_of_day_s=24 * 3600 - 10)


def test_a_wrong_value_is_whole_however_it_is_cut() -> None:
    async def main(wire: Wire) -> None:
        address = at(LAYOUT, 715, "DERHb")
        assert await wire.words(address, 2) == (0x1234, 0x5678)
        assert await wire.word(address) == 0x1234
        assert await wire.word(address + 1) == 0x5678
        data = await wire.read(address - 1, 2)
        assert isinstance(data, bytes)
        assert struct.unpack(">H", data[2:]) == (0x1234,)

    knobs = {"fixed": [{"points": ["715.DERHb"], "value": 0x12345678}]}
    on_wire(main, HOME, made(values=knobs))
