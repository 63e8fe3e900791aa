"""Unit ids and ports that are not the usual ones."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.quirks.knobs import combine
from ridethrough.emulator.quirks.unit import quirky_units
from ridethrough.emulator.server import serve_tcp

from tests.emulator.register_bench import HOME
from tests.quirks.wire import Wire, build, bundled, made, on_wire

ABSENT = 0x0B


def test_without_quirks_the_units_are_1_and_101() -> None:
    async def main(wire: Wire) -> None:
        assert list(wire.units) == [1, 101]
        assert (await wire.chain(unit=1))[0][0] == 1
        assert (await wire.chain(unit=101))[1][0] == 201
        assert await wire.read(40000, 2, unit=126) == ABSENT

    on_wire(main, HOME)


@pytest.mark.parametrize(("quirk", "unit"), [("unit-id-126", 126), ("unit-id-71", 71)])
def test_the_inverter_has_another_unit_id(quirk: str, unit: int) -> None:
    async def main(wire: Wire) -> None:
        assert [model for model, _, _ in await wire.chain(unit=unit)][:-1] == list(HOME.face.models)
        assert await wire.read(40000, 2, unit=1) == ABSENT
        assert (await wire.chain(unit=unit + 100))[1][0] == 201

    on_wire(main, HOME, quirk)


def test_the_meter_has_unit_id_200() -> None:
    async def main(wire: Wire) -> None:
        assert (await wire.chain(unit=200))[1][0] == 201
        assert await wire.read(40000, 2, unit=101) == ABSENT

    on_wire(main, HOME, "meter-unit-200")


def test_every_unit_id_is_the_same_device() -> None:
    async def main(wire: Wire) -> None:
        serials = {await wire.read(40052, 16, unit=unit) for unit in (0, 1, 2, 101, 126, 200, 247, 255)}
        assert [serial.rstrip(b"\0") for serial in serials if isinstance(serial, bytes)] == [b"D000001"]

    on_wire(main, HOME, "alias-units")


def test_behind_a_gateway_the_next_devices_follow() -> None:
    plant = Plant([HOME] * 3)
    rng = np.random.Generator(np.random.Philox(key=1))
    quirks = combine([bundled("unit-id-126"), made(map={"meter": "none"})])
    found: dict[int, object] = {}
    for device in range(3):
        found |= quirky_units(plant, device, quirks, rng, unit_id=1 + device)
    assert list(found) == [126, 127, 128]


@pytest.mark.parametrize(
    ("knobs", "ids"),
    [({"unit_id": 200}, "200 and 300"), ({"unit_id": 50, "meter_unit_id": 50}, "50 and 50")],
)
def test_unit_ids_that_modbus_does_not_have(knobs: dict[str, int], ids: str) -> None:
    with pytest.raises(
        ScenarioError, match=f"found {ids} as unit ids .*; allowed different ones from 1 to 247"
    ):
        build(HOME, [made(map=knobs)])


@pytest.mark.parametrize(
    ("name", "knob", "value"),
    [("port-1502", "port", 1502), ("absent-unit-silent", "absent", 0), ("absent-unit-failure", "absent", 4)],
)
def test_what_the_server_needs_to_know_is_carried_as_data(name: str, knob: str, value: int) -> None:
    knobs = combine([bundled(name), bundled("base-0")]).map
    assert knobs is not None
    assert getattr(knobs, knob) == value
    plain = combine([bundled("base-0")]).map
    assert plain is not None
    assert getattr(plain, knob) is None


@pytest.mark.parametrize("name", ["absent-unit-silent", "absent-unit-failure"])
def test_a_unit_id_that_is_not_there(name: str) -> None:
    async def main() -> None:
        quirks = [bundled(name)]
        plant, units = build(HOME, quirks)
        knobs = combine(quirks).map
        assert knobs is not None
        absent = knobs.absent
        assert absent is not None
        async with await serve_tcp(units, core=lambda _: Connection(units, absent=absent)) as server:
            streams = await asyncio.open_connection(server.host, server.port)
            wire = Wire(plant, units, streams)
            if absent:
                assert await wire.read(40000, 2, unit=9) == absent
            else:
                streams[1].write(bytes.fromhex("0001 0000 0006 09 03 9c40 0002"))
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(streams[0].readexactly(1), 0.2)
            assert await wire.read(40000, 2, unit=1) == b"SunS"
            streams[1].close()
            await streams[1].wait_closed()

    asyncio.run(main())
