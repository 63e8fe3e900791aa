"""Writes that are refused, discarded or kept without effect: what the wire says, and what the power does."""

from __future__ import annotations

import pytest

from tests.quirks.writing import (
    ADDRESS,
    BUSY,
    FAILURE,
    FUNCTION,
    GEN24,
    OK,
    PLAIN,
    VALUE,
    Client,
    knobs,
    talk,
)

WSET_BACK = -1500


async def obeys(client: Client, power_w: int = 2000) -> None:
    """Check that a set-point is read back and acts."""
    await client.command(power_w)
    assert await client.get("704.WSetEna") == 1
    assert await client.get("704.WSet") == power_w
    assert await client.power_w() == pytest.approx(power_w, abs=20)


async def limits(client: Client, model: int) -> None:
    """Limit a discharge of 2000 W to 10 % of 5000 W."""
    await client.command(2000)
    enable = "123.WMaxLim_Ena" if model == 123 else "704.WMaxLimPctEna"
    assert await client.put((f"{model}.WMaxLimPct", 1000)) == OK
    assert await client.put((enable, 1)) == OK


def test_without_quirks_the_device_does_what_it_acknowledges() -> None:
    async def job(client: Client) -> None:
        await obeys(client)
        await obeys(client, WSET_BACK)
        await limits(client, 123)
        assert await client.get("123.WMaxLimPct") == 1000
        assert await client.get("123.WMaxLim_Ena") == 1
        assert await client.power_w() == 500
        assert await client.put_single("124.MinRsvPct", 2500) == OK
        assert await client.put_single("703.ES", 0) == OK
        assert await client.power_w() == 0
        assert await client.put(("702.WMax", 4000)) == ADDRESS
        assert await client.put(("802.SoCRsvMin", 1500)) == OK
        assert await client.get("802.SoCRsvMin") == 1500

    talk(job)


def test_a_layer_without_quirks_changes_nothing() -> None:
    async def job(client: Client) -> None:
        await obeys(client)
        assert client.wire.units[1].functions >= {3, 6, 16}
        assert await client.put(("702.WMax", 4000)) == ADDRESS
        assert await client.put(("702.WMax", client.point("702.WMax").blank)) == ADDRESS
        assert await client.put(("704.WSetEna", 0xFFFF), ("704.WSetMod", 1)) == OK
        assert await client.get("704.WSetEna") == 1

    talk(job, knobs(discard=[{"points": ["715.AlarmReset"]}]))


@pytest.mark.parametrize(("quirk", "value"), [("limit-write-only", 0xFFFF), ("limit-enable-reads-zero", 0)])
def test_write_only_points_are_in_force(quirk: str, value: int) -> None:
    async def job(client: Client) -> None:
        await limits(client, 123)
        assert await client.power_w() == 500
        assert await client.get("123.WMaxLim_Ena") == value
        assert await client.get("123.WMaxLimPct") == (1000 if value == 0 else 0xFFFF)

    talk(job, quirk)


def test_function_6_is_not_served() -> None:
    async def job(client: Client) -> None:
        assert await client.put_single("124.MinRsvPct", 2500) == FUNCTION
        assert await client.put(("124.MinRsvPct", 2500)) == OK
        assert await client.get("124.MinRsvPct") == 2500

    talk(job, "write-single-refused")


def test_function_16_is_not_served() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("124.MinRsvPct", 2500)) == FUNCTION
        assert await client.put_single("124.MinRsvPct", 2500) == OK
        assert await client.get("124.MinRsvPct") == 2500

    talk(job, "write-multiple-refused")


def test_some_points_are_acknowledged_and_discarded() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("702.WMax", 4000)) == OK
        assert await client.get("702.WMax") * 10 ** client.point("702.WMax").scale == 5000
        assert await client.put(("715.ControllerHb", 7)) == OK
        assert await client.get("715.ControllerHb") == 0
        assert await client.put(("704.VarSetEna", 1)) == OK
        assert await client.get("704.VarSetEna") == 0
        await limits(client, 704)
        assert await client.get("704.WMaxLimPctEna") == 0
        assert await client.power_w() == 2000
        assert await client.put(("704.WMaxLimPctEna", 1), ("704.WMaxLimPct", 300)) == OK
        assert [await client.get(f"704.WMaxLimPct{end}") for end in ("Ena", "")] == [0, 300]

    talk(job, "ack-discard")


def test_everything_is_acknowledged_and_discarded() -> None:
    async def job(client: Client) -> None:
        await client.command(2000)
        assert await client.window(2, -5000, 10000) == OK
        assert await client.get("704.WSetEna") == 0
        assert await client.get("124.StorCtl_Mod") == 0
        assert await client.power_w() == 0

    talk(job, "ack-discard-everything")


def test_some_commands_are_lost_by_chance() -> None:
    async def job(client: Client) -> None:
        held = []
        for watts in range(1, 201):
            assert await client.put(("704.WSet", watts)) == OK
            held.append(await client.get("704.WSet") == watts)
        assert 20 <= held.count(False) <= 60

    talk(job, "ack-discard-sometimes")


def test_the_permit_is_stored_and_has_no_effect() -> None:
    async def job(client: Client) -> None:
        await client.command(2000)
        assert await client.put_single("703.ES", 0) == OK
        assert await client.get("703.ES") == 0
        assert await client.power_w() == 2000
        assert await client.get("701.ConnSt") == 1
        assert await client.put_single("703.ES", 2) == VALUE
        assert await client.get("715.OpCtl") == 1  # another view of the permit tells the truth

    talk(job, "store-without-effect")


def test_a_documented_point_is_rejected() -> None:
    async def job(client: Client) -> None:
        before = await client.get("802.SoCRsvMin")
        assert await client.put(("802.SoCRsvMin", 1500)) == ADDRESS
        assert await client.get("802.SoCRsvMin") == before
        assert await client.put(("124.MinRsvPct", 1500)) == OK

    talk(job, "reserve-rejected")


@pytest.mark.parametrize(
    ("quirk", "code"),
    [("control-disabled", 1), ("control-disabled-address", 2), ("control-disabled-failure", 4)],
)
def test_control_is_disabled_until_somebody_enables_it(quirk: str, code: int) -> None:
    async def job(client: Client) -> None:
        assert await client.put(("704.WSetEna", 1)) == code
        assert await client.put_single("124.StorCtl_Mod", 1) == code
        assert await client.get("704.WSetEna") == 0
        assert await client.power_w() == 0
        client.layer.locked = False
        await obeys(client)

    talk(job, quirk)


def test_control_is_enabled_later_and_only_some_of_it_was_locked() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("123.WMaxLim_Ena", 1)) == OK
        assert await client.put(("704.WSetEna", 1)) == FAILURE
        client.wait(10)
        assert await client.put(("704.WSetEna", 1)) == OK

    talk(job, knobs(locked={"code": 4, "until_s": 10, "points": ["704.*"]}))


def test_flash_wears_out() -> None:
    async def job(client: Client) -> None:
        client.layer.flash_writes = 99_998
        await client.command(2000)
        assert client.layer.flash_writes == 100_000
        assert await client.put(("704.WSet", 100)) == FAILURE
        assert await client.get("704.WSet") == 2000
        assert await client.power_w() == 2000

    talk(job, "flash-wears-out")


def test_flash_counts_accepted_writes_of_its_points_only() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("124.MinRsvPct", 10_001)) != OK
        await client.command(2000)
        assert client.layer.flash_writes == 0
        for percent in (10, 20):
            assert await client.put(("124.MinRsvPct", 100 * percent)) == OK
        assert await client.put(("124.MinRsvPct", 3000)) == FAILURE
        await obeys(client)

    talk(job, knobs(flash={"writes_max": 2, "points": ["124.MinRsvPct"]}))


def test_it_hangs_when_it_is_written_to_too_fast() -> None:
    async def job(client: Client) -> None:
        assert await client.put(("704.WSet", 1000)) == OK
        client.wait(2)
        assert await client.put(("704.WSet", 2000)) == OK
        client.wait(1)
        assert not client.layer.hung
        assert await client.put(("704.WSet", 3000)) == BUSY
        assert client.layer.hung
        assert await client.wire.read(client.point("704.WSet").address, 2) == BUSY
        client.wait(29)
        assert client.layer.hung
        client.wait(1)
        assert await client.get("704.WSet") == 2000

    talk(job, "hangs-when-written-fast")


def test_a_limit_of_123_is_kept_and_only_704_acts() -> None:
    async def job(client: Client) -> None:
        await limits(client, 123)
        assert await client.get("123.WMaxLimPct") == 1000
        assert await client.get("123.WMaxLim_Ena") == 1
        assert await client.get("704.WMaxLimPctEna") == 0
        assert await client.power_w() == 2000
        await limits(client, 704)
        assert await client.power_w() == 500

    talk(job, "limit-only-in-704")


def test_a_limit_of_704_is_kept_and_only_123_acts() -> None:
    async def job(client: Client) -> None:
        await limits(client, 704)
        assert await client.get("704.WMaxLimPctEna") == 1
        assert await client.get("123.WMaxLim_Ena") == 0
        assert await client.power_w() == 2000
        await limits(client, 123)
        assert await client.power_w() == 500

    talk(job, "limit-only-in-123")


def test_what_a_client_has_written_can_be_looked_at_as_raw_numbers() -> None:
    """Row 37: a client that leaves out the scale factor writes 100 for 100 % and means 1 %."""

    async def job(client: Client) -> None:
        client.wait(3)
        assert await client.put(("124.OutWRte", 100), ("124.InWRte", 10_000)) == OK
        assert await client.put(("124.OutWRte", 10_001)) != OK
        (ticks, name, number), other = client.layer.written
        assert (ticks, name, number) == (client.plant.elapsed_ticks, "124.OutWRte", 100)
        assert other[1:] == ("124.InWRte", 10_000)
        point = client.point(name)
        assert number * 10**point.scale == 1.0  # per cent: 100 was meant

    talk(job, "reserve-unreadable", profile=GEN24)


def test_the_log_is_bounded() -> None:
    async def job(client: Client) -> None:
        layer = client.layer
        address = client.point("704.WSet").address
        for watts in range(1500):
            assert layer.write(address, watts.to_bytes(4, "big")) == OK
        assert len(layer.written) == 1000
        assert layer.written[-1][2] == 1499

    talk(job, "write-floored", profile=PLAIN)
