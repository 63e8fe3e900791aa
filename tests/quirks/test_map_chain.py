"""Chains that are not as the standard has them, as a client walks them."""

from __future__ import annotations

import asyncio
import struct

import pytest
from ridethrough.emulator.layout import compile_layout
from ridethrough.emulator.server import serve_tcp
from sunspec2.modbus import client as witness

from tests.emulator.register_bench import FULL, HOME
from tests.quirks.wire import WAIT_S, Wire, at, build, bundled, made, on_wire

LAYOUT = compile_layout(HOME)
BEFORE_NINE_S = 21 * 3600 - 10
"""Ten seconds before the models of the bundled quirks go to sleep."""


async def standard(wire: Wire) -> None:
    """Check that there is no deviation."""
    chain = await wire.chain()
    assert [model for model, _, _ in chain] == [*HOME.face.models, 0xFFFF]
    assert [address for model, address, _ in chain[:-1]] == [at(LAYOUT, m, "ID") for m in HOME.face.models]
    assert chain[0][2] == 66
    assert chain[-1][2] == 0
    assert await wire.read(chain[-1][1] + 2, 1) == 2


def test_without_quirks_the_map_is_the_standard_one() -> None:
    on_wire(standard, HOME)
    on_wire(standard, HOME, made(map={"end": "whole"}))


@pytest.mark.parametrize(("quirk", "base"), [("base-0", 0), ("base-50000", 50000)])
def test_base(quirk: str, base: int) -> None:
    async def main(wire: Wire) -> None:
        chain = await wire.chain(base)
        assert [model for model, _, _ in chain[:-1]] == list(HOME.face.models)
        assert chain[0][:2] == (1, base + 2)
        assert await wire.read(40000, 2) == 2
        setpoint = at(LAYOUT, 704, "WSet") - 40000 + base
        assert await wire.write(setpoint, 0, 1234) == 0
        assert await wire.words(setpoint, 2) == (0, 1234)

    on_wire(main, HOME, quirk)


def test_common_model_of_65() -> None:
    async def main(wire: Wire) -> None:
        chain = await wire.chain()
        assert chain[0] == (1, 40002, 65)
        assert [model for model, _, _ in chain[:-1]] == list(HOME.face.models)
        assert chain[1][1] == at(LAYOUT, 101, "ID") - 1
        standard = await wire.words(at(LAYOUT, 713, "ID") - 1, 9)
        assert standard[:2] == (713, 7)

    on_wire(main, HOME, "common-65")


def test_no_end_model() -> None:
    async def main(wire: Wire) -> None:
        chain = await wire.chain()
        last = HOME.face.models[-1]
        assert [chain[-2][0], chain[-1]] == [last, (-2, chain[-2][1] + 2 + chain[-2][2], 0)]
        assert await wire.read(chain[-1][1] - 1, 2) == 2

    on_wire(main, HOME, "no-end-model")


def test_end_is_an_id_only() -> None:
    async def main(wire: Wire) -> None:
        end = (await wire.chain())[-1][1]
        assert await wire.words(end) == (0xFFFF,)
        assert await wire.read(end + 1, 1) == 2
        assert await wire.read(end, 2) == 2

    on_wire(main, HOME, "end-id-only")


def test_meter_follows_in_the_same_map() -> None:
    async def main(wire: Wire) -> None:
        chain = await wire.chain()
        models = [model for model, _, _ in chain]
        assert models == [*HOME.face.models, 1, 201, 0xFFFF]
        assert list(wire.units) == [1]
        serials = [await wire.read(address + 50, 16) for model, address, _ in chain if model == 1]
        assert isinstance(serials[0], bytes)
        assert isinstance(serials[1], bytes)
        assert [serial.rstrip(b"\0") for serial in serials if isinstance(serial, bytes)] == [
            b"D000001",
            b"M000001",
        ]
        wire.plant.set_input("load_w", [2000.0] * 3)
        wire.advance(5)
        meter = chain[-2][1]
        shown = (await wire.words(meter + 18, 1))[0]
        scale = struct.unpack(">h", struct.pack(">H", await wire.word(meter + 22)))[0]
        assert struct.unpack(">h", struct.pack(">H", shown))[0] * 10.0**scale == pytest.approx(
            2000.0 - wire.plant.states("power_w")[1], abs=20.0
        )

    on_wire(main, HOME, "meter-in-same-map")


def test_mislabelled_model() -> None:
    async def main(wire: Wire) -> None:
        chain = await wire.chain()
        true = at(LAYOUT, 123, "ID")
        assert (114, true, 48) in chain
        assert 123 not in [model for model, _, _ in chain]
        assert [model for model, _, _ in chain[:-1] if model != 114] == [
            model for model in HOME.face.models if model != 123
        ]
        assert await wire.words(true + 2 + 24, 24) == (0xFFFF,) * 24
        limit = at(LAYOUT, 123, "WMaxLimPct")
        assert await wire.write(limit, 50) == 0
        assert await wire.word(limit) == 50
        assert await wire.write(true + 40, 0) == 2

    on_wire(main, HOME, "model-123-mislabelled")


def test_a_model_gets_shorter_at_night() -> None:
    async def main(wire: Wire) -> None:
        await standard(wire)
        wire.advance(10)
        chain = await wire.chain()
        place = next(entry for entry in chain if entry[0] == 714)
        assert place[2] == 18
        assert await wire.words(place[1] + 2, 18) == (0xFFFF,) * 18
        assert [model for model, _, _ in chain[:-1]] == list(HOME.face.models)
        assert chain[-1][1] == at(LAYOUT, 802, "ID") + 2 + 62 - 25
        wire.advance(9 * 3600)
        await standard(wire)

    on_wire(main, HOME, "model-length-changes", start_of_day_s=BEFORE_NINE_S)


def test_models_vanish_at_night_and_return_at_dawn() -> None:
    async def main(wire: Wire) -> None:
        await standard(wire)
        setpoint = at(LAYOUT, 704, "WSet")
        wire.advance(10)
        models = [model for model, _, _ in await wire.chain()]
        assert not {101, 701, 704, 713, 714} & set(models)
        assert models[0] == 1
        assert models[-1] == 0xFFFF
        old = await wire.words(at(LAYOUT, 704, "ID"), 2)
        assert old != (704, 65)
        assert await wire.write(setpoint, 0, 1) != 0
        wire.advance(9 * 3600)
        await standard(wire)
        assert await wire.write(setpoint, 0, 1) == 0

    on_wire(main, HOME, "models-vanish-at-night", start_of_day_s=BEFORE_NINE_S)


def test_models_are_gone_after_an_update() -> None:
    async def main(wire: Wire) -> None:
        wire.advance(3598)
        await standard(wire)
        wire.advance(1)
        assert not {123, 704} & {model for model, _, _ in await wire.chain()}

    on_wire(main, HOME, "models-gone-after-update")


def test_float_models_by_switch() -> None:
    async def main(wire: Wire) -> None:
        await standard(wire)
        watts = signed_power(await wire.words(at(LAYOUT, 101, "W"), 2))
        wire.advance(3600)
        chain = await wire.chain()
        assert [entry[0] for entry in chain[:3]] == [1, 111, 120]
        assert chain[1][1:] == (at(LAYOUT, 101, "ID"), 60)
        data = await wire.read(chain[1][1] + 22, 2)  # W of model 111, float32
        assert isinstance(data, bytes)
        assert struct.unpack(">f", data)[0] == pytest.approx(wire.plant.states("power_w")[1], abs=1e-3)
        assert watts == pytest.approx(wire.plant.states("power_w")[1], abs=50.0)

    on_wire(main, HOME, "float-switch")


def signed_power(words: tuple[int, ...]) -> float:
    """Return W of model 101 from itself and its scale factor."""
    value, scale = struct.unpack(">hh", struct.pack(">HH", *words))
    return float(value * 10.0**scale)


def test_float_models_alone_and_both_families() -> None:
    async def only(wire: Wire) -> None:
        models = [model for model, _, _ in await wire.chain()]
        assert 111 in models
        assert 101 not in models

    async def both(wire: Wire) -> None:
        models = [model for model, _, _ in await wire.chain()]
        assert models[:4] == [1, 101, 111, 120]

    on_wire(only, HOME, "float-models")
    on_wire(both, HOME, "int-and-float")


def test_hole_in_a_model() -> None:
    hole = at(LAYOUT, 123, "VArMaxPct")

    async def main(wire: Wire) -> None:
        assert await wire.read(hole, 1) == 2
        assert await wire.read(hole - 3, 10) == 2
        assert isinstance(await wire.read(hole - 3, 3), bytes)
        assert isinstance(await wire.read(hole + 1, 5), bytes)
        await standard(wire)

    async def plain(wire: Wire) -> None:
        assert isinstance(await wire.read(hole - 3, 10), bytes)

    on_wire(main, HOME, "hole-in-model")
    on_wire(plain, HOME)


def test_pysunspec2_reads_a_map_at_base_0_with_a_short_common_model() -> None:
    async def main() -> None:
        plant, units = build(FULL, [bundled("base-0"), bundled("common-65"), bundled("int-and-float")])
        async with await serve_tcp(units) as server:

            def scan() -> witness.SunSpecModbusClientDeviceTCP:
                device = witness.SunSpecModbusClientDeviceTCP(1, server.host, server.port, timeout=WAIT_S)
                device.scan()
                return device

            device = await asyncio.to_thread(scan)
        ids = [key for key in device.models if isinstance(key, int)]
        assert ids == [1, 101, 111, *FULL.face.models[2:]]
        assert device.base_addr == 0
        assert device.common[0].L.value == 65
        power_w = float(plant.states("power_w")[1])
        assert device.DERMeasureAC[0].W.cvalue == pytest.approx(power_w, abs=1.0)
        assert device.models[111][0].W.value == pytest.approx(power_w, abs=1e-3)

    asyncio.run(main())
