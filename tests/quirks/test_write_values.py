"""Writes whose value is changed on its way: rounded, clipped, inverted, corrupted, ignored, out of order."""

from __future__ import annotations

import pytest

from tests.quirks.writing import GEN24, OK, VALUE, Client, knobs, talk

REGISTERS_PER_PERCENT = 100


def test_without_quirks_values_are_kept_as_they_are() -> None:
    async def job(client: Client) -> None:
        await client.command(2345)
        assert await client.get("704.WSet") == 2345
        assert await client.power_w() == 2345
        assert await client.put(("124.MinRsvPct", 600)) == OK
        assert await client.get("124.MinRsvPct") == 600
        assert await client.window(1, 10_000, -1234) == OK
        assert await client.get("124.InWRte") == -1234
        assert await client.put(("124.MinRsvPct", 300)) == OK
        assert await client.get("124.MinRsvPct") == 300

    talk(job)


def test_values_are_cut_to_steps() -> None:
    async def job(client: Client) -> None:
        await client.command(2399)
        assert await client.get("704.WSet") == 2300
        assert await client.power_w() == 2300
        await client.command(-2399)
        assert await client.get("704.WSet") == -2300
        assert await client.power_w() == -2300
        await client.command(2300)
        assert await client.get("704.WSet") == 2300
        assert await client.put(("124.OutWRte", 2999), ("124.InWRte", -2999)) == OK
        assert [await client.get(f"124.{name}") for name in ("OutWRte", "InWRte")] == [2900, -2900]

    talk(job, "write-floored")


def test_values_are_clipped() -> None:
    async def job(client: Client) -> None:
        await client.command(2600)
        assert await client.get("704.WSet") == 108
        assert await client.power_w() == 108
        await client.command(-50)
        assert await client.power_w() == -50

    talk(job, "write-clipped")


def test_the_reserve_is_rounded_down() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("802.SoCRsvMin", 600)) == OK
        assert await client.get("802.SoCRsvMin") == 400
        assert float(client.plant.controls("reserve_frac")[1]) == pytest.approx(0.04)

    talk(job, "reserve-rounded-down")


def test_now_and_then_a_write_becomes_0() -> None:
    async def job(client: Client) -> None:
        held = []
        for watts in range(1000, 1200):
            assert await client.put(("704.WSetEna", 1), ("704.WSetMod", 1), ("704.WSet", watts)) == OK
            held.append(await client.get("704.WSet"))
        wrong = [number for number, watts in zip(held, range(1000, 1200), strict=True) if number != watts]
        assert set(wrong) == {0}
        assert 8 <= len(wrong) <= 40

    talk(job, "write-corrupted-to-zero")


def test_what_was_corrupted_is_what_acts() -> None:
    async def job(client: Client) -> None:
        await client.command(1000)
        assert await client.get("704.WSet") == 0
        assert await client.power_w() == 0

    talk(job, knobs(corrupt=[{"points": ["704.WSet"]}]))


def test_forced_power_is_a_multiple_of_10_w() -> None:
    async def job(client: Client) -> None:
        per_unit = 10_000 / GEN24.inverter.power_w_charge_max
        assert await client.window(2, -round(1234 * per_unit), 10_000) == OK
        assert await client.get("124.OutWRte") == -round(1230 * per_unit)
        assert await client.power_w(30) == pytest.approx(-1230, abs=1)

    talk(job, "power-in-tens", profile=GEN24)


def test_charging_from_the_grid_is_capped() -> None:
    asked = -round(3000 * 10_000 / GEN24.inverter.power_w_charge_max)

    async def job(client: Client) -> None:
        assert await client.window(2, asked, 10_000) == OK
        assert await client.get("124.OutWRte") == asked
        assert await client.power_w(30) == pytest.approx(-500, abs=1)
        assert await client.window(1, 10_000, asked) == OK
        assert await client.power_w(30) == pytest.approx(3000, abs=1)

    async def uncapped(client: Client) -> None:
        assert await client.window(2, asked, 10_000) == OK
        assert await client.power_w(30) == pytest.approx(-3000, abs=1)

    talk(job, "grid-charge-capped", profile=GEN24)
    talk(uncapped, profile=GEN24)


def test_a_reserve_below_5_percent_is_ignored() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("124.MinRsvPct", 1000)) == OK
        assert await client.put(("124.MinRsvPct", 400)) == OK
        assert await client.get("124.MinRsvPct") == 1000
        assert await client.put(("124.MinRsvPct", 500)) == OK
        assert await client.get("124.MinRsvPct") == 500

    talk(job, "reserve-below-five-ignored", profile=GEN24)


def test_the_reserve_cannot_be_read() -> None:
    async def job(client: Client) -> None:
        assert await client.get("124.MinRsvPct") == 0xFFFF
        assert await client.put(("124.MinRsvPct", 3000)) == OK
        assert await client.get("124.MinRsvPct") == 0xFFFF
        assert float(client.plant.controls("reserve_frac")[1]) == pytest.approx(0.30)

    talk(job, "reserve-unreadable", profile=GEN24)


def test_writing_the_mode_resets_the_reserve() -> None:
    async def job(client: Client) -> None:
        factory = await client.get("124.MinRsvPct")
        assert await client.put(("124.MinRsvPct", 3000)) == OK
        assert await client.put(("124.StorCtl_Mod", 1)) == OK
        assert await client.get("124.MinRsvPct") == factory
        assert await client.put(("124.MinRsvPct", 3000)) == OK
        assert await client.get("124.MinRsvPct") == 3000

    talk(job, "reserve-reset-by-mode", profile=GEN24)


def test_a_value_before_its_enable_is_lost() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("704.WSet", 2000)) == OK
        assert await client.get("704.WSet") == 0
        assert await client.put(("704.WSetEna", 1)) == OK
        assert await client.power_w() == 0
        assert await client.put(("704.WSet", 2000)) == OK
        assert await client.power_w() == 2000
        await client.command(1000)  # enable and value in one request, in the order of their addresses
        assert await client.power_w() == 1000

    talk(job, "value-before-enable-lost")


def test_rates_before_their_mode_are_lost() -> None:
    async def job(client: Client) -> None:
        assert await client.window(2, -2000, 10_000) == OK
        assert await client.get("124.OutWRte") == 10_000
        assert await client.power_w() == 0
        assert await client.put(("124.OutWRte", -2000)) == OK
        assert await client.power_w() == -1000

    talk(job, "limit-before-mode-lost")


def test_a_value_waits_for_the_next_enable() -> None:
    async def job(client: Client) -> None:
        await client.command(1000)
        assert await client.put(("704.WSet", 2000)) == OK
        assert await client.put(("704.WSet", 9999)) == VALUE
        assert await client.get("704.WSet") == 2000
        assert await client.power_w() == 1000
        assert await client.put_single("704.WSetEna", 1) == OK
        assert await client.get("704.WSet") == 2000
        assert await client.power_w() == 2000
        assert await client.put_single("704.WSetEna", 0) == OK
        assert await client.put(("704.WSet", 500)) == OK
        assert await client.put_single("704.WSetEna", 1) == OK
        assert await client.power_w() == 500

    talk(job, "value-waits-for-enable")


def test_percent_and_watts_have_different_signs() -> None:
    async def percent(client: Client, sign: int) -> None:
        await client.command(1000)
        assert await client.power_w() == 1000
        assert await client.put(("704.WSetPct", 2000)) == OK
        assert await client.put_single("704.WSetMod", 0) == OK
        assert await client.get("704.WSetPct") == 2000
        assert await client.power_w() == sign * 1000
        assert await client.put(("704.WSetPct", -4000)) == OK
        assert await client.get("704.WSetPct") == -4000
        assert await client.power_w() == sign * -2000

    async def right(client: Client) -> None:
        await percent(client, 1)

    async def inverted(client: Client) -> None:
        await percent(client, -1)

    talk(right)
    talk(inverted, "percent-setpoint-inverted")
