"""Product families: files, faces, and that each one runs on the wire."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.quirks.family import ProductFamily
from ridethrough.emulator.quirks.knobs import Quirks, combine
from ridethrough.emulator.quirks.unit import quirky_units
from ridethrough.emulator.server import serve_tcp
from ridethrough.hil.files import family_names, load_family, load_profile, load_quirk

from tests.emulator.register_bench import HOME
from tests.quirks.wire import Wire

GOOD = "family: mine\ndescription: d\ndevice: home-13kwh-5kw\nquirks: [base-0]\nsource: s\n"


def parts(name: str) -> tuple[ProductFamily, DeviceProfile, Quirks]:
    family = load_family(name)
    return (
        family,
        family.dress(load_profile(family.device)),
        combine(load_quirk(quirk) for quirk in family.quirks),
    )


def test_there_are_at_least_twelve() -> None:
    assert len(family_names()) >= 12
    assert len({load_family(name).quirks for name in family_names()}) == len(family_names())


@pytest.mark.parametrize("name", family_names())
def test_a_family_answers_on_the_wire_and_lives(name: str) -> None:
    family, profile, quirks = parts(name)
    assert family.family == name
    assert quirks.names == family.quirks

    async def main() -> None:
        plant = Plant([profile] * 2, soc_frac=0.6)
        rng = np.random.Generator(np.random.Philox(key=7))
        units = quirky_units(plant, 1, quirks, rng, start_of_day_s=12 * 3600)
        async with await serve_tcp(units) as server:
            streams = await asyncio.open_connection(server.host, server.port)
            wire = Wire(plant, units, streams)
            try:
                base = quirks.map.base if quirks.map and quirks.map.base is not None else None
                base = profile.face.base_address if base is None else base
                unit = 1 if 1 in units else next(iter(units))
                for _ in range(5):
                    plant.advance(TICKS_PER_S)
                    for one in units.values():
                        one.step()
                    chain = await wire.chain(base, unit)
                    assert chain[0][0] == 1
                    assert len(chain) > 5
                    serial = await wire.read(base + 52, 4, unit)
                    assert serial == b"D000001\0"
            finally:
                streams[1].close()
                await streams[1].wait_closed()

    asyncio.run(main())


def test_a_family_changes_the_face_and_nothing_else() -> None:
    family, profile, _ = parts("single-connection")
    plain = load_profile(family.device)
    assert profile.face.connections_max == 1
    assert plain.face.connections_max is None
    assert profile.profile == "single-connection"
    face = profile.face.model_copy(update={"connections_max": None, "idle_timeout_s": None})
    assert profile.model_copy(update={"face": face, "profile": plain.profile}) == plain


def test_what_the_gateway_family_is_about() -> None:
    _, profile, quirks = parts("micro-inverter-gateway")
    plant = Plant([profile] * 3)
    rng = np.random.Generator(np.random.Philox(key=7))
    ids = [list(quirky_units(plant, device, quirks, rng, unit_id=device + 1)) for device in range(3)]
    assert ids == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        (("base-0", "base-1"), r":4: quirks\[0\]: found quirk 'base-1' \(did you mean 'base-0'\?\)"),
        (("[base-0]", "[base-0, base-50000]"), r":4: quirks: .*base-0 and base-50000 do not go together"),
        (("[base-0]", "[]"), r":4: quirks: found an empty list; allowed a list with at least one entry"),
        (("home-13kwh-5kw", "home-13kwh"), r":3: device: found device 'home-13kwh'"),
        (("source: s", "source: s\nface: {phases: 3}"), r":6: face.phases: found unknown key 'phases'"),
        (("source: s", "sauce: s"), r":5: sauce: found unknown key 'sauce'"),
    ],
)
def test_a_mistake_in_a_family_is_named(tmp_path: Path, change: tuple[str, str], objection: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    assert load_family(str(file)).family == "mine"
    file.write_text(GOOD.replace(*change))
    with pytest.raises(ScenarioError, match=objection):
        load_family(str(file))


def test_a_family_that_nobody_knows() -> None:
    with pytest.raises(ScenarioError, match="found family 'sleeps'; allowed "):
        load_family("sleeps")


def test_a_face_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD + "face: {pv_strings: 5}\n")
    with pytest.raises(ScenarioError, match=r":6: face.pv_strings: found 5; allowed .* at most 4"):
        load_family(str(file))
    file.write_text(GOOD + "face: {models: [101]}\n")
    dressed = load_family(str(file)).dress(HOME)
    with pytest.raises(ScenarioError, match=r"face.models: must begin with model 1"):
        quirky_units(Plant([dressed]), 0, Quirks(), np.random.Generator(np.random.Philox(key=1)))
