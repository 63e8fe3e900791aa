"""Registers and power apart: late effects, local controls, limits of charge, what an island makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from ridethrough.emulator.fields import STATUS

from tests.quirks.wire import DEVICE
from tests.quirks.writing import GEN24, OK, VALUE, Client, knobs, talk


async def shows(client: Client, power_w: int) -> None:
    """Check that the registers show a command."""
    assert await client.get("704.WSetEna") == 1
    assert await client.get("704.WSet") == power_w


def soc_frac(client: Client) -> float:
    ratio = client.plant.states("energy_j") / client.plant.params("capacity_j")
    return float(ratio[DEVICE])


def test_without_quirks_a_command_acts_at_once_and_goes_on() -> None:
    async def job(client: Client) -> None:
        await client.command(2000)
        assert await client.power_w() == 2000
        assert await client.power_w(1300) == 2000
        await shows(client, 2000)

    talk(job)


def test_a_command_acts_minutes_later() -> None:
    async def job(client: Client) -> None:
        await client.command(2000)
        await shows(client, 2000)
        assert await client.power_w(299) == 0
        await shows(client, 2000)
        assert await client.power_w(485) == 2000
        assert await client.put(("704.WSet", 9999)) == VALUE
        assert await client.put_single("704.WSetEna", 0) == OK
        assert await client.get("704.WSetEna") == 0
        assert await client.power_w(299) == 2000
        assert await client.power_w(485) == 0

    talk(job, "acts-after-minutes")


def test_late_commands_keep_their_order() -> None:
    async def job(client: Client) -> None:
        for watts in range(0, 2000, 100):
            await client.command(watts)
            client.wait(1)
        seen = []
        for _ in range(120):
            client.wait(1)
            seen.append(float(client.plant.controls("set_w")[DEVICE]))
        assert seen == sorted(seen)
        assert seen[-1] == 1900

    talk(job, knobs(delay={"low_s": 10, "high_s": 60}))


def test_only_so_many_commands_wait() -> None:
    async def job(client: Client) -> None:
        address = client.point("704.WSet").address
        codes = [client.layer.write(address, bytes([0, 0, 0, 1])) for _ in range(1002)]
        assert codes == [OK] * 1000 + [6, 6]

    talk(job, "acts-after-minutes")


def test_a_local_control_outranks_the_command() -> None:
    async def job(client: Client) -> None:
        await client.command(2000)
        assert await client.power_w(500) == 2000
        client.wait(120)
        assert await client.power_w() == 0
        await shows(client, 2000)
        await client.command(-1000)
        await shows(client, -1000)
        assert await client.power_w(1) == 0
        client.wait(600)
        assert await client.power_w() == -1000
        await shows(client, -1000)
        client.wait(3000)
        assert await client.power_w() == 0

    talk(job, "local-control-overrides")


def test_a_timer_runs_on_under_a_local_control() -> None:
    async def job(client: Client) -> None:
        client.wait(590)
        await client.command(2000, 300)
        assert await client.power_w(30) == 0
        await shows(client, 2000)
        assert 260 <= await client.get("704.WSetRvrtRem") <= 270
        client.wait(300)
        assert await client.get("704.WSetEna") == 0
        client.wait(300)
        assert await client.power_w() == 0
        assert await client.get("704.WSetEna") == 0

    talk(job, "local-control-overrides")


def test_a_timer_does_not_end_a_local_control() -> None:
    async def job(client: Client) -> None:
        await client.command(2000, 100)
        client.wait(5)
        client.wire.advance(300)  # in one go
        assert await client.power_w(0) == -500
        assert await client.get("704.WSetEna") == 0

    talk(job, knobs(overrides=[{"when": {"start_s": 3}, "power_w": -500}]))


def test_the_lower_of_two_limits_holds() -> None:
    async def job(client: Client) -> None:
        await client.command(2000)
        assert await client.put(("704.WMaxLimPctEna", 1), ("704.WMaxLimPct", 1000)) == OK
        assert await client.power_w() == 500
        assert await client.put(("704.WMaxLimPct", 9000)) == OK
        assert await client.power_w() == 1000

    talk(job, knobs(overrides=[{"when": {}, "power_w_max": 1000}]))


def test_a_local_limit_outranks_the_command() -> None:
    async def job(client: Client) -> None:
        client.wire.advance(11 * 3600 - 60)
        await client.command(2000)
        assert await client.power_w(50) == 2000
        client.wait(20)
        assert await client.power_w() == 1000
        await shows(client, 2000)
        assert await client.get("704.WMaxLimPctEna") == 0
        await client.command(-2000)
        assert await client.power_w() == -2000
        await client.command(2000)
        client.wire.advance(3 * 3600)
        assert await client.power_w() == 2000

    talk(job, "local-limit-overrides")


@pytest.mark.parametrize(("power_w", "limit_frac"), [(3000, 0.2), (-3000, 0.95)])
def test_a_limit_of_charge_ends_a_command_without_a_word(power_w: int, limit_frac: float) -> None:
    async def job(client: Client) -> None:
        assert await client.put(("802.SoCRsvMin", 1000)) == OK
        await client.command(power_w)
        assert await client.power_w() == power_w
        for _ in range(400):
            client.wait(60)
            if abs(await client.power_w(1)) < 100:
                break
        assert soc_frac(client) == pytest.approx(limit_frac, abs=0.01)
        await shows(client, power_w)
        client.wait(600)
        await shows(client, power_w)
        assert abs(await client.power_w()) < 100
        await client.command(-power_w)
        assert await client.power_w() == -power_w

    async def plain(client: Client) -> None:
        assert await client.put(("802.SoCRsvMin", 1000)) == OK
        await client.command(power_w)
        hours = (soc_frac(client) - limit_frac) * 13_500.0 / power_w
        assert await client.power_w(round(3600 * hours) + 120) == power_w

    talk(job, "soc-limits-end-command")
    talk(plain)


def test_below_its_reserve_it_charges_from_the_grid() -> None:
    async def job(client: Client) -> None:
        assert await client.window(1, 10_000, -1000) == OK
        forced_w = await client.power_w(20)
        assert forced_w > 0
        assert await client.put(("124.MinRsvPct", 9000)) == OK
        assert await client.power_w(20) == pytest.approx(-500, abs=20)
        assert await client.get("124.StorCtl_Mod") == 1
        assert await client.get("124.InWRte") == -1000
        assert await client.put(("124.MinRsvPct", 1000)) == OK
        assert await client.power_w(20) == forced_w

    async def plain(client: Client) -> None:
        assert await client.put(("124.MinRsvPct", 9000)) == OK
        assert await client.window(3, 0, 0) == OK  # neither charge nor discharge
        assert await client.power_w(20) == 0

    async def forced(client: Client) -> None:
        assert await client.put(("124.MinRsvPct", 9000)) == OK
        assert await client.window(3, 0, 0) == OK
        assert await client.power_w(20) == pytest.approx(-500, abs=20)

    talk(job, "reserve-charges-from-grid", profile=GEN24)
    talk(plain, profile=GEN24)
    talk(forced, "reserve-charges-from-grid", profile=GEN24)


@pytest.mark.parametrize("quirk", ["reserve-holds-off-grid", None])
def test_the_reserve_also_ends_discharging_in_an_island(quirk: str | None) -> None:
    async def job(client: Client) -> None:
        assert await client.put(("802.SoCRsvMin", 5900)) == OK
        client.plant.set_input("load_w", 2000.0)
        client.plant.set_input("grid_good", 0.0)
        client.wait(60)
        status = STATUS[int(client.plant.states("status")[DEVICE])]
        assert status == "island"
        client.wait(900)
        served_w = float(client.plant.states("load_w_served")[DEVICE])
        if quirk is None:
            assert served_w == 2000.0
            assert soc_frac(client) < 0.59
            return
        assert served_w == 0.0
        assert soc_frac(client) == pytest.approx(0.59, abs=0.001)
        client.plant.set_input("grid_good", 1.0)
        client.plant.set_input("load_w", 0.0)
        client.wait(1000)
        assert not client.plant.controls("bms_open")[DEVICE]
        await client.command(-2000)
        assert await client.power_w(10) == -2000

    talk(job, *([] if quirk is None else [quirk]))


@pytest.mark.parametrize("quirk", ["local-control-overrides", "acts-after-minutes"])
def test_a_mirror_shows_what_the_device_itself_would(quirk: str) -> None:
    """Every register of the map, when there is nothing to hide."""

    async def job(client: Client) -> None:
        layout = client.layout
        plain = client.wire.units[1].image
        await client.command(1500, 500)
        client.wait(200 if quirk == "local-control-overrides" else 0)
        different = []
        for point in layout.points:
            if point.model == 704 and quirk == "acts-after-minutes":
                continue
            if client.layer.read(point.address, point.size) != plain.read(point.address, point.size):
                different.append(str(point))
        assert different == []

    talk(job, quirk)


@pytest.mark.parametrize("quirks", [("local-control-overrides",), ()])
def test_an_island_that_ends_the_command_is_seen_in_the_registers(quirks: tuple[str, ...]) -> None:
    async def job(client: Client) -> None:
        await client.command(2000)
        assert await client.power_w() == 2000
        client.plant.set_input("grid_good", 0.0)
        client.wait(5)
        assert await client.get("704.WSetEna") == 0

    talk(job, *quirks)


def test_the_other_devices_of_the_plant_are_left_alone() -> None:
    async def job(client: Client) -> None:
        before = client.plant.control[0].copy()
        await client.command(2000)
        client.wait(700)
        assert float(client.plant.controls("set_w")[DEVICE]) == 0.0
        others = [lane for lane in range(before.shape[1]) if lane != DEVICE]
        assert np.array_equal(client.plant.control[0][:, others], before[:, others])

    talk(job, "local-control-overrides")
