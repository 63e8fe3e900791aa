"""Points that show something else, as a client reads them."""

from __future__ import annotations

import struct

import pytest
from ridethrough.emulator.layout import compile_layout, compile_meter_layout

from tests.emulator.register_bench import HOME
from tests.quirks.wire import Wire, at, made, on_wire, signed

LAYOUT = compile_layout(HOME)
METER = compile_meter_layout(HOME)
LIMIT, LIMIT_ON = at(LAYOUT, 704, "WMaxLimPct"), at(LAYOUT, 704, "WMaxLimPctEna")


def discharge(wire: Wire, power_w: float) -> None:
    """Command a power and let the device get there."""
    wire.plant.set_control("set_w", [power_w] * 3)
    wire.plant.set_control("set_ena", [1.0] * 3)
    wire.advance(10)
    assert float(wire.plant.states("power_w")[1]) == pytest.approx(power_w, rel=0.02)


async def power(wire: Wire) -> float:
    """Return 701.W [W]."""
    scale = signed(await wire.word(at(LAYOUT, 701, "W_SF")))
    return float(signed(await wire.word(at(LAYOUT, 701, "W"))) * 10.0**scale)


async def energy(wire: Wire) -> int:
    """Return 701.TotWhInj as it reads."""
    data = await wire.read(at(LAYOUT, 701, "TotWhInj"), 4)
    assert isinstance(data, bytes)
    return int(struct.unpack(">Q", data)[0])


@pytest.mark.parametrize(
    ("quirk", "model", "point", "shown"),
    [
        ("locremctl-local", 715, "LocRemCtl", 1),
        ("locremctl-local", 802, "LocRemCtl", 1),
        ("heartbeat-zero", 802, "Hb", 0),
        ("storage-status-always-ok", 714, "Prt[1].DCA", 0),
    ],
)
def test_a_point_always_shows_the_same(quirk: str, model: int, point: str, shown: int) -> None:
    async def with_quirk(wire: Wire) -> None:
        discharge(wire, 2000.0)
        assert await wire.word(at(LAYOUT, model, point)) == shown

    async def without(wire: Wire) -> None:
        discharge(wire, 2000.0)
        assert await wire.word(at(LAYOUT, model, point)) != shown

    on_wire(with_quirk, HOME, quirk)
    on_wire(without, HOME)


def test_storage_status_stays_ok_when_the_battery_is_empty() -> None:
    async def status(wire: Wire) -> int:
        wire.plant.set_input("load_w", [4000.0] * 3)
        wire.plant.set_input("grid_good", [0.0] * 3)
        wire.advance(4 * 3600)
        return await wire.word(at(LAYOUT, 713, "Sta"))

    async def with_quirk(wire: Wire) -> None:
        assert await status(wire) == 0

    async def without(wire: Wire) -> None:
        assert await status(wire) == 1

    on_wire(with_quirk, HOME, "storage-status-always-ok")
    on_wire(without, HOME)


def test_heartbeat_stands_still_and_the_device_lives() -> None:
    async def beats(wire: Wire) -> tuple[int, int]:
        first = (await wire.words(at(LAYOUT, 715, "DERHb"), 2))[1]
        wire.advance(7)
        return first, (await wire.words(at(LAYOUT, 715, "DERHb"), 2))[1]

    async def with_quirk(wire: Wire) -> None:
        assert await beats(wire) == (0, 0)

    async def without(wire: Wire) -> None:
        first, second = await beats(wire)
        assert second == first + 7

    on_wire(with_quirk, HOME, "heartbeat-zero")
    on_wire(without, HOME)


def test_local_control_is_shown_and_remote_control_works() -> None:
    async def main(wire: Wire) -> None:
        on = at(LAYOUT, 704, "WSetEna")
        assert await wire.write(on, 1, 1, 0, 1500) == 0
        wire.advance(10)
        assert float(wire.plant.states("power_w")[1]) == pytest.approx(1500.0, rel=0.02)
        assert await wire.word(at(LAYOUT, 715, "LocRemCtl")) == 1

    on_wire(main, HOME, "locremctl-local")


def test_grid_power_in_the_place_of_the_inverters() -> None:
    async def main(wire: Wire) -> None:
        wire.plant.set_input("load_w", [3000.0] * 3)
        discharge(wire, 1000.0)
        assert await power(wire) == pytest.approx(-2000.0, abs=50.0)

    async def without(wire: Wire) -> None:
        wire.plant.set_input("load_w", [3000.0] * 3)
        discharge(wire, 1000.0)
        assert await power(wire) == pytest.approx(1000.0, abs=25.0)

    on_wire(main, HOME, "grid-power-in-701")
    on_wire(without, HOME)


def test_dc_power_is_positive_when_the_battery_charges() -> None:
    async def shown(wire: Wire) -> tuple[int, int]:
        points = []
        for power_w in (-2000.0, 2000.0):
            discharge(wire, power_w)
            points.append(signed(await wire.word(at(LAYOUT, 714, "Prt[1].DCW"))))
        return points[0], points[1]

    async def with_quirk(wire: Wire) -> None:
        charging, discharging = await shown(wire)
        assert charging > 0 > discharging

    async def without(wire: Wire) -> None:
        charging, discharging = await shown(wire)
        assert charging < 0 < discharging

    on_wire(with_quirk, HOME, "dc-power-inverted")
    on_wire(without, HOME)


def test_meter_counts_export_as_positive() -> None:
    async def shown(wire: Wire) -> int:
        wire.plant.set_input("load_w", [3000.0] * 3)
        discharge(wire, 500.0)
        return signed(await wire.word(at(METER, 201, "W"), unit=101))

    async def with_quirk(wire: Wire) -> None:
        assert await shown(wire) < -2000

    async def without(wire: Wire) -> None:
        assert await shown(wire) > 2000

    on_wire(with_quirk, HOME, "meter-sign-inverted")
    on_wire(without, HOME)


def test_a_limit_is_shown_that_is_not_in_force_until_it_is_written() -> None:
    async def main(wire: Wire) -> None:
        assert await wire.word(LIMIT_ON) == 1
        percent = signed(await wire.word(at(LAYOUT, 704, "WMaxLimPct_SF")))
        assert await wire.word(LIMIT) * 10.0**percent == pytest.approx(30.0)
        discharge(wire, 4900.0)  # 98 % of the rating
        assert await wire.write(LIMIT_ON, 1, round(50 / 10.0**percent)) == 0
        assert await wire.word(LIMIT) * 10.0**percent == pytest.approx(50.0)
        wire.advance(20)
        assert float(wire.plant.states("power_w")[1]) <= 2500.0 + 1.0

    async def without(wire: Wire) -> None:
        assert await wire.word(LIMIT_ON) == 0

    on_wire(main, HOME, "limit-shown-not-in-force")
    on_wire(without, HOME)


def test_voltages_read_ffff() -> None:
    async def main(wire: Wire) -> None:
        assert await wire.word(at(LAYOUT, 101, "PhVphA")) == 0xFFFF
        assert await wire.word(at(LAYOUT, 101, "Hz")) not in (0xFFFF, 0)
        assert signed(await wire.word(at(LAYOUT, 101, "V_SF"))) == -1

    async def without(wire: Wire) -> None:
        assert await wire.word(at(LAYOUT, 101, "PhVphA")) == pytest.approx(2400, rel=0.1)

    on_wire(main, HOME, "voltage-ffff")
    on_wire(without, HOME)


def test_state_of_charge_is_blank_every_morning() -> None:
    soc = at(LAYOUT, 713, "SoC")

    async def main(wire: Wire) -> None:
        wire.advance(8)
        assert await wire.word(soc) != 0xFFFF
        wire.advance(1)
        assert await wire.word(soc) == 0xFFFF
        wire.advance(299)
        assert await wire.word(soc) == 0xFFFF
        wire.advance(1)
        assert await wire.word(soc) != 0xFFFF

    on_wire(main, HOME, "soc-blank-at-wake-up", start_of_day_s=6 * 3600 - 10)


def test_counters_begin_again() -> None:
    async def main(wire: Wire) -> None:
        discharge(wire, 1000.0)
        wire.advance(3580)
        before = await energy(wire)
        wire.advance(9)
        assert await energy(wire) == 0
        wire.advance(360)
        assert await energy(wire) == pytest.approx(before / 10, rel=0.05)

    async def without(wire: Wire) -> None:
        discharge(wire, 1000.0)
        wire.advance(3580)
        before = await energy(wire)
        wire.advance(9)
        assert await energy(wire) >= before

    on_wire(main, HOME, "counter-resets")
    on_wire(without, HOME)


def test_counters_run_backwards_for_a_second() -> None:
    async def history(wire: Wire) -> list[int]:
        discharge(wire, 4000.0)
        wire.advance(1800)
        seen = []
        for _ in range(200):
            wire.advance(1)
            seen.append(await energy(wire))
        return seen

    async def main(wire: Wire) -> None:
        seen = await history(wire)
        low = [value for value in seen if value < seen[0] - 500]
        assert 1 <= len(low) <= 20  # 2 % of 200
        assert all(seen[0] - 1000 <= value <= seen[0] - 700 for value in low)
        assert seen[-1] > seen[0] or seen[-1] in low

    async def without(wire: Wire) -> None:
        seen = await history(wire)
        assert seen == sorted(seen)

    on_wire(main, HOME, "counter-runs-backwards")
    on_wire(without, HOME)


def test_energy_of_today() -> None:
    async def main(wire: Wire) -> None:
        discharge(wire, 1000.0)
        wire.advance(3590)
        assert await energy(wire) == pytest.approx(1000, rel=0.02)
        wire.advance(60)
        assert await energy(wire) < 20
        wire.advance(1800)
        assert await energy(wire) == pytest.approx(512, rel=0.05)

    on_wire(main, HOME, "energy-of-today", start_of_day_s=23 * 3600 - 10)


def test_other_points_are_as_they_were() -> None:
    async def main(wire: Wire) -> None:
        first, last = at(LAYOUT, 715, "ID"), at(LAYOUT, 715, "OpCtl")
        shown = await wire.words(first, last - first + 1)
        assert shown[:2] == (715, 7)
        assert shown[2] == 1
        assert shown[3:5] == (0, 7)

    fixed = [{"points": ["715.LocRemCtl"], "value": 1}, {"points": ["715.DERHb"], "value": 7}]
    on_wire(main, HOME, made(values={"fixed": fixed}))
