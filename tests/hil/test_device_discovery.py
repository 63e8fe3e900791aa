"""Finding models: maps that bend the standard are read, maps that break it are refused with the register."""

from __future__ import annotations

import asyncio
import json
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.server import serve_tcp
from ridethrough.hil import discovery
from ridethrough.hil.device import Device
from ridethrough.hil.device_scan import ScanReport, scan
from ridethrough.hil.discovery import MODELS_MAX, DeviceMap, discover, read_image
from ridethrough.hil.modbus_link import TargetError, Unit

from tests.hil.device_bench import (
    COMMON,
    END,
    MARKER,
    TIMEOUT_S,
    Peer,
    Registers,
    answer,
    der,
    framed,
    legacy,
    model,
    run,
    served,
)


def mapped(unit: Registers) -> DeviceMap:
    """Return what is discovered of a unit, or raise what is raised."""
    found: list[DeviceMap] = []

    async def test() -> None:
        async with served(unit) as device:
            found.append(await discover(Unit(device._link, 1)))

    run(test())
    return found[0]


def scanned(unit: Registers) -> ScanReport:
    found: list[ScanReport] = []

    async def test() -> None:
        async with await serve_tcp({1: unit}) as server:
            found.append(await scan(f"tcp:127.0.0.1:{server.port}"))

    run(test())
    return found[0]


@pytest.mark.parametrize("base", [40000, 0, 50000])
def test_the_map_is_found_at_each_base(base: int) -> None:
    found = mapped(Registers(der(), base))
    assert found.base == base
    assert [entry.id for entry in found.models] == [1, 701, 702, 704, 713, 715]
    assert [entry.address for entry in found.models] == [
        base + 2 + sum(map(len, der()[:k])) for k in range(6)
    ]
    assert [entry.count for entry in found.models] == [len(one) for one in der()]
    assert found.identity == discovery.Identity("Maker", "Thing", "007", "1.2")
    assert found.warnings == ()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 300), max_size=6), st.integers(64000, 64300))
def test_unknown_models_of_any_length_are_walked_over(lengths: list[int], first: int) -> None:
    models = [COMMON, *([first + k, length, *[7] * length] for k, length in enumerate(lengths))]
    found = mapped(Registers(models))
    assert [(e.id, e.length) for e in found.models[1:]] == [(first + k, n) for k, n in enumerate(lengths)]


def test_a_common_model_of_65_registers_is_accepted() -> None:
    short = [1, 65, *COMMON[2:-1]]
    found = mapped(Registers([short, *der()[1:]]))
    assert found.identity.serial == "007"
    assert found.find(701) is not None
    assert found.warnings == ("model 1 (register 40002) states length 65, its definition 66",)


def test_a_chain_without_an_end_model_is_accepted() -> None:
    found = mapped(Registers(der(), end=[]))
    assert len(found.models) == 6
    assert found.warnings == (f"no end model behind model 715 (register {40002 + sum(map(len, der()))})",)


def test_an_end_model_without_a_length_is_accepted() -> None:
    found = mapped(Registers(der(), end=[0xFFFF]))
    assert len(found.models) == 6
    assert "has no length" in found.warnings[0]


def test_a_second_common_model_begins_another_device() -> None:
    second = model(1, Mn="Other", SN="008")
    found = mapped(Registers([*der(), second, model(203, W=-5, W_SF=0), model(704)]))
    assert [entry.part for entry in found.models] == [0] * 6 + [1] * 3
    assert found.identity.serial == "007"
    own = found.own(704)
    assert own is not None
    assert own.part == 0
    assert found.own(203) is None
    assert found.find(704, 1) not in (None, own)
    assert "2 common models" in found.warnings[0]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([[0, 0]], "breaks at register 40002: the first model must be 1, found 0"),
        ([der()[1]], "the first model must be 1, found 701"),
        ([COMMON, [0, 5]], r"breaks at register 40070 behind model 1: found model 0 with length 5"),
        ([COMMON, [701, 0]], "found model 701 with length 0"),
        ([COMMON, [64999, 60000]], "found model 64999 with length 60000"),
        (
            [COMMON, [713, 9, *model(713)[2:]], model(715), model(704)],
            r"model 713 (register 40070) states length 9, its definition 7: that length is probably wrong",
        ),
        (
            [COMMON, [713, 5, *model(713)[2:]], model(715)],
            r"states length 5, its definition 7: that length is probably wrong",
        ),
        (
            [COMMON, [715, 30, *model(715)[2:]]],
            "states length 30, its definition 7: that length is probably wrong",
        ),
    ],
)
def test_a_broken_chain_is_refused_with_its_place(models: list[list[int]], words: str) -> None:
    with pytest.raises(TargetError, match=re.escape(words)):
        mapped(Registers(models))


def test_a_chain_that_never_ends_is_refused() -> None:
    endless = [COMMON, *([64000 + k, 1, 0] for k in range(MODELS_MAX + 5))]
    with pytest.raises(TargetError, match=f"more than {MODELS_MAX} models and no end"):
        mapped(Registers(endless))


def test_no_sunspec_at_all_is_said_so() -> None:
    blank = Registers([])
    blank.words = dict.fromkeys(range(1000), 0)
    with pytest.raises(TargetError, match=r"no SunSpec marker \(SunS\) at register 40000, 0, 50000"):
        mapped(blank)


@pytest.mark.parametrize("code", [1, 4, 6, 10, 11])
def test_an_exception_that_says_more_than_no_register_ends_the_search(code: int) -> None:
    unit = Registers(der())
    unit.read_code = code
    with pytest.raises(TargetError, match=f"exception {code}"):
        mapped(unit)
    assert len(unit.reads) == (4 if code == 6 else 1)


def test_silence_at_one_base_leaves_the_others_open() -> None:
    """Some firmware answers nothing for a block it does not serve."""
    unit = Registers(der(), base=0)

    async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
        address, count = struct.unpack(">HH", request[8:12])
        data = unit.read(address, count)
        if isinstance(data, bytes):
            writer.write(framed(request, bytes((3, len(data))) + data))

    async def test() -> None:
        async with (
            Peer(*[reply] * 20) as peer,
            Device(f"tcp:127.0.0.1:{peer.port}", TIMEOUT_S) as device,
        ):
            found = await discover(Unit(device._link, 1))
            assert found.base == 0

    run(test())


def test_silence_everywhere_is_a_time_out() -> None:
    async def test() -> None:
        async with Peer() as peer, Device(f"tcp:127.0.0.1:{peer.port}", TIMEOUT_S) as device:
            with pytest.raises(TargetError, match=r"registers 40000 to 40001\): no answer"):
                await device.discover()

    run(test())


def test_a_changed_map_is_noticed_when_a_model_is_read() -> None:
    async def test() -> None:
        unit = Registers(der())
        async with served(unit) as device:
            found = await discover(Unit(device._link, 1))
            unit.set(713, "ID", 802)
            entry = found.find(713)
            assert entry is not None
            with pytest.raises(TargetError, match=r"holds model 802 .*not model 713 .*the map has changed"):
                await read_image(Unit(device._link, 1), entry)

    run(test())


def test_registers_that_are_refused_are_left_out_and_the_rest_is_read() -> None:
    """SMA refuses single registers of model 123, and with them every block they lie in."""
    unit = Registers(der())
    hole = unit.at(701, "PF")
    del unit.words[hole]

    async def test() -> None:
        async with served(unit) as device:
            found = await discover(Unit(device._link, 1))
            entry = found.find(701)
            assert entry is not None
            image = await read_image(Unit(device._link, 1), entry)
            assert image.value("W") == 1500
            assert [k for k, word in enumerate(image.registers) if word is None] == [hole - entry.address]
            assert len(unit.reads) < 40

    run(test())
    report = scanned(unit)
    assert f"701.PF (register {hole}): the device refuses to show it" in report.warnings


def test_a_device_that_answers_short_blocks_only_is_read() -> None:
    class Short(Registers):
        def read(self, address: int, count: int, /) -> bytes | int:
            return 3 if count > 20 else super().read(address, count)

    async def test() -> None:
        async with served(Short(der())) as device:
            await device.discover()
            assert await device.read_point("713.SoC") == 50.0
            assert await device.read_point("701.W") == 1500

    run(test())


def test_a_model_that_cannot_be_read_does_not_hide_the_others() -> None:
    unit = Registers(der())
    for address in range(unit.at(702, "ID") + 2, unit.at(704, "ID")):
        del unit.words[address]
    report = scanned(unit)
    assert next(m for m in report.models if m.entry.id == 713).points
    w = next(m for m in report.models if m.entry.id == 702)
    assert all(point.value is None for point in w.points if point.name not in ("ID", "L"))
    assert any("702.WMaxRtg" in text for text in report.warnings)


def test_a_scan_reports_every_point_and_fits_in_json() -> None:
    unit = Registers([*der(WSet=-1200, WSetEna=1), model(802, SoC=51, SoC_SF=-32768), [64999, 3, 1, 2, 3]])
    report = scanned(unit)
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["identity"] == {"manufacturer": "Maker", "model": "Thing", "serial": "007", "version": "1.2"}
    assert (plain["unit"], plain["base"]) == (1, 40000)
    by_id = {one["id"]: one for one in plain["models"]}
    assert list(by_id) == [1, 701, 702, 704, 713, 715, 802, 64999]
    assert by_id[64999] == {
        "id": 64999,
        "name": "",
        "address": unit.at(802, "ID") + 64,
        "length": 3,
        "known": False,
        "part": 0,
        "points": [],
    }
    ac = {point["name"]: point for point in by_id[704]["points"]}
    assert ac["WSet"] == {
        "name": "WSet",
        "label": "Active Power Setpoint (W)",
        "address": unit.at(704, "WSet"),
        "type": "int32",
        "units": "W",
        "access": "RW",
        "value": -1200,
        "meaning": "",
        "note": "",
    }
    assert ac["WSetEna"]["meaning"] == "ENABLED"
    assert ac["VarSet"]["value"] is None
    assert ac["WSetRvrtRem"]["access"] == "R"
    der_mode = next(point for point in by_id[701]["points"] if point["name"] == "DERMode")
    assert der_mode["meaning"] == "GRID_FOLLOWING"
    assert report.warnings == (
        f"802.SoC (register {unit.at(802, 'SoC')}): "
        "its scale factor is not implemented or out of range: no value",
    )


def test_words_of_a_marker_alone_are_not_enough() -> None:
    async def test() -> None:
        async with (
            Peer(answer(*MARKER), answer(*END)) as peer,
            Device(f"tcp:127.0.0.1:{peer.port}") as device,
        ):
            with pytest.raises(TargetError, match="no model, only the end"):
                await device.discover()

    run(test())


def test_an_end_model_with_a_length_is_accepted_behind_models_that_make_sense() -> None:
    found = mapped(Registers(der(), end=[0xFFFF, 0xFFFF]))
    assert len(found.models) == 6
    assert "states length 65535, its definition 0" in found.warnings[0]


def test_old_devices_are_walked_too() -> None:
    assert [entry.id for entry in mapped(Registers(legacy())).models] == [1, 103, 120, 122, 124]
