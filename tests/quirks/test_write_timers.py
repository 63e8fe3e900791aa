"""Revert timers that do not do what they say: judged by the power after they have run out."""

from __future__ import annotations

import pytest

from tests.devices import home
from tests.emulator.register_bench import LEGACY
from tests.quirks.writing import ADDRESS, GEN24, OK, PLAIN, Client, knobs, talk

REMAINING = "704.WSetRvrtRem"


async def armed(client: Client, seconds: int = 30) -> None:
    """Command 2000 W for a time."""
    await client.command(2000, seconds)
    assert await client.power_w() == 2000


def test_without_quirks_the_command_ends_with_its_timer() -> None:
    async def job(client: Client) -> None:
        await armed(client)
        assert await client.get(REMAINING) == 25
        client.wait(24)
        assert await client.get("704.WSetEna") == 1
        assert await client.power_w() == 0
        assert await client.get("704.WSetEna") == 0
        assert await client.get(REMAINING) == 0
        assert await client.window(2, -2000, 10_000) == OK
        assert await client.put(("124.InOutWRte_RvrtTms", 20)) == OK
        assert await client.power_w() == -1000
        assert await client.power_w(20) == 0
        assert await client.get("124.StorCtl_Mod") == 0

    talk(job)


def test_it_reverts_and_the_registers_still_show_the_command() -> None:
    async def job(client: Client) -> None:
        await armed(client)
        assert await client.power_w(30) == 0
        assert await client.get("704.WSetEna") == 1
        assert await client.get("704.WSet") == 2000
        assert await client.get(REMAINING) == 0
        await client.command(1000)
        assert await client.get("704.WSet") == 1000
        assert await client.power_w() == 1000
        assert await client.put_single("704.WSetEna", 0) == OK
        assert await client.get("704.WSetEna") == 0

    talk(job, "timer-reverts-unseen")


def test_it_counts_down_and_never_reverts() -> None:
    async def job(client: Client) -> None:
        await armed(client)
        assert await client.get("704.WSetRvrtTms") == 30
        assert await client.get(REMAINING) == 25
        assert await client.power_w(20) == 2000
        assert await client.get(REMAINING) == 5
        assert await client.power_w(186) == 2000
        assert await client.get(REMAINING) == 0
        assert await client.get("704.WSetEna") == 1
        assert await client.put(("704.WSet", 1500)) == OK
        assert await client.get(REMAINING) == 30
        assert await client.put_single("704.WSetEna", 0) == OK
        assert await client.get(REMAINING) == 0
        assert await client.power_w() == 0

    talk(job, "timer-counts-without-reverting")


def test_the_window_of_124_never_reverts_either() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("124.InOutWRte_RvrtTms", 10)) == OK
        assert await client.window(2, -2000, 10_000) == OK
        assert await client.get("124.InOutWRte_RvrtTms") == 10
        assert await client.power_w(60) == -1000

    talk(job, "timer-counts-without-reverting")


def test_a_reserve_device_without_704_has_the_quirk_as_well() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("124.InOutWRte_RvrtTms", 10)) == OK
        assert await client.window(2, -1000, 10_000) == OK
        before = await client.power_w(9)
        assert before < -500
        assert await client.power_w(60) == before

    talk(job, "command-survives", profile=LEGACY)


def test_the_time_that_is_left_reads_0_throughout() -> None:
    async def job(client: Client) -> None:
        await armed(client)
        assert await client.get("704.WSetRvrtTms") == 30
        assert await client.get(REMAINING) == 0
        assert await client.power_w(30) == 0
        assert await client.get("704.WSetEna") == 0

    talk(job, "timer-rem-stuck")


def test_there_are_no_timers() -> None:
    async def job(client: Client) -> None:
        assert await client.get("704.WSetRvrtTms") == 0xFFFFFFFF
        assert await client.get(REMAINING) == 0xFFFFFFFF
        assert await client.get("123.WMaxLimPct_RvrtTms") == 0xFFFF
        assert await client.put(("704.WSetRvrtTms", 30)) == ADDRESS
        assert await client.put(("704.WSet", 500), ("704.WSetRvrt", 0)) == ADDRESS
        assert await client.get("704.WSet") == 0
        assert await client.put(("124.InOutWRte_RvrtTms", 30)) == ADDRESS
        assert await client.put(("704.WSetEna", 1), ("704.WSetMod", 1), ("704.WSet", 2000)) == OK
        assert await client.power_w(600) == 2000

    talk(job, "timer-absent")


def test_enable_after_arms_the_timer() -> None:
    async def job(client: Client) -> None:
        await armed(client)
        assert await client.get("704.WSetEnaRvrt") == 0
        assert await client.get("704.WSetRvrtTms") == 30
        assert await client.get(REMAINING) == 0
        assert await client.power_w(60) == 2000
        assert await client.put_single("704.WSetEnaRvrt", 1) == OK
        assert await client.get("704.WSetEnaRvrt") == 1
        assert await client.get(REMAINING) == 30
        assert await client.power_w(60) == 0
        assert await client.get("704.WSetEna") == 0
        assert await client.put(("704.WSetEnaRvrt", 0)) == OK
        await client.command(1000, 10)
        assert await client.power_w(60) == 1000

    talk(job, "timer-armed-by-enable-after")


def test_without_the_quirk_enable_after_is_the_value_after_expiry() -> None:
    async def job(client: Client) -> None:
        assert await client.put_single("704.WSetEnaRvrt", 1) == OK
        assert await client.put(("704.WSetRvrt", 700)) == OK
        await armed(client)
        assert await client.power_w(60) == 700
        assert await client.get("704.WSetEna") == 1

    talk(job)


def test_the_timer_is_shorter_than_asked() -> None:
    async def job(client: Client) -> None:
        await armed(client, 1800)
        assert await client.get("704.WSetRvrtTms") == 1800
        assert await client.power_w(290) == 2000
        assert await client.power_w(10) == 0
        await client.command(2000, 200)
        assert await client.power_w(195) == 2000
        assert await client.power_w(10) == 0

    talk(job, "timer-shorter-than-asked")


@pytest.mark.parametrize("quirk", ["timer-rearmed-by-any-traffic", None])
def test_any_traffic_starts_the_timer_anew(quirk: str | None) -> None:
    async def job(client: Client) -> None:
        await client.command(2000, 30)
        for _ in range(6):
            client.wait(20)
            await client.get("701.W")  # another client, which only looks
        assert await client.power_w(0) == (0 if quirk is None else 2000)
        if quirk is not None:
            client.wait(29)
            assert float(client.plant.controls("set_ena")[1]) == 1.0
            client.wait(2)
            assert float(client.plant.controls("set_ena")[1]) == 0.0
            assert await client.power_w() == 0
            assert await client.get(REMAINING) == 0

    talk(job, *([] if quirk is None else [quirk]))


def test_traffic_starts_no_timer_that_does_not_run() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("704.WSetRvrtTms", 30)) == OK
        await client.get("701.W")
        assert await client.get(REMAINING) == 0
        await client.command(2000, 0)
        assert await client.power_w(120) == 2000

    talk(job, "timer-rearmed-by-any-traffic")


def test_the_last_command_survives_for_ever() -> None:
    async def job(client: Client) -> None:
        await armed(client)
        assert await client.get("704.WSetRvrtTms") == 30
        assert await client.get(REMAINING) == 0
        assert await client.power_w(3600) == 2000
        assert await client.get("704.WSetEna") == 1

    talk(job, "command-survives")


def test_somebody_else_has_left_a_timer_on() -> None:
    async def job(client: Client) -> None:
        assert await client.get("124.InOutWRte_RvrtTms") == 3600
        assert await client.window(2, -300, 10_000) == OK
        held_w = await client.power_w(3500)
        assert held_w < -100
        assert await client.get("124.StorCtl_Mod") == 2
        assert await client.power_w(120) > held_w
        assert await client.get("124.StorCtl_Mod") == 0

    talk(job, "timer-left-behind", profile=GEN24)


def test_somebody_else_has_left_a_timer_of_704_on() -> None:
    async def job(client: Client) -> None:
        assert await client.get("704.WSetRvrtTms") == 3600
        assert not client.layer.written
        assert client.layer.flash_writes == 0
        assert await client.put(("704.WSetEna", 1), ("704.WSetMod", 1), ("704.WSet", -100)) == OK
        assert await client.power_w(3599) == -100
        assert await client.power_w(6) == 0

    talk(job, "timer-left-behind-704")


def test_a_command_is_in_force_at_the_start() -> None:
    quiet = home(
        control={"revert_state": "self_consumption", "families": ("704", "124")},
        face={"models": PLAIN.face.models},
    )

    async def discharges(client: Client) -> None:
        client.plant.set_input("load_w", 1500.0)
        assert await client.power_w() == 1500

    async def held(client: Client) -> None:
        client.plant.set_input("load_w", 1500.0)
        assert await client.get("124.StorCtl_Mod") == 2
        assert await client.power_w(600) == 0

    talk(discharges, profile=quiet)
    talk(held, "command-left-behind", profile=quiet)


def test_two_quirks_of_timers_act_together() -> None:
    async def job(client: Client) -> None:
        await armed(client, 60)
        assert await client.get(REMAINING) == 0
        assert await client.power_w(10) == 0

    talk(job, knobs(timers=[{"seconds_max": 10}, {"remaining": "zero"}]))


def test_a_timer_quirk_of_one_function_leaves_the_others_alone() -> None:
    async def job(client: Client) -> None:
        await armed(client, 10)
        assert await client.power_w(10) == 0

    talk(job, knobs(timers=[{"functions": ["window"], "reverts": "never"}]))
