"""What a write does: all or nothing, effect in the plant, revert timers, and reading back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ridethrough.emulator.image import units_of
from ridethrough.emulator.profile import DeviceProfile

from tests.emulator.register_bench import ADDRESS, DEVICE, HOME, LEGACY, OK, TOWN, UPS, VALUE, Bench

# ---- set-points -------------------------------------------------------------------------------------------


def test_timer_first_then_set_point() -> None:
    bench = Bench()
    assert bench.write(704, ("WSetEnaRvrt", 0), ("WSetRvrtTms", 30)) == OK
    assert bench.control()["set_rvrt_ticks"] == 0, "nothing is armed before the function is enabled"
    assert bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", 2000), ("WSetRvrt", 0)) == OK
    control = bench.control()
    assert (control["set_ena"], control["set_w"], control["set_rvrt_ticks"]) == (1, 2000, 1500)
    assert bench.read(704, "WSetRvrtRem") == 30
    bench.wait(10.02)
    assert bench.read(704, "WSetRvrtRem") == 20, "19.98 s are left"
    assert bench.plant.states("power_w")[DEVICE] == pytest.approx(2000)
    bench.wait(19.98)
    assert (bench.read(704, "WSetEna"), bench.read(704, "WSet"), bench.read(704, "WSetRvrtRem")) == (0, 0, 0)
    assert bench.read(704, "WSetRvrtTms") == 30
    bench.wait(5)
    assert bench.plant.states("power_w")[DEVICE] == pytest.approx(0)


def test_set_point_first_then_timer_as_pysunspec2_does() -> None:
    bench = Bench()
    assert bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", -1500), ("WSetRvrt", 0)) == OK
    assert bench.control()["set_rvrt_ticks"] == 0, "no watchdog yet"
    assert bench.write(704, ("WSetEnaRvrt", 0), ("WSetRvrtTms", 60)) == OK
    assert bench.control()["set_rvrt_ticks"] == 3000


def test_reversion_to_a_value_with_the_function_on() -> None:
    bench = Bench()
    bench.write(
        704, ("WSetRvrt", 500), ("WSetPct", 0), ("WSetPctRvrt", 0.05), ("WSetEnaRvrt", 1), ("WSetRvrtTms", 5)
    )
    bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", 3000))
    bench.wait(5)
    assert [bench.read(704, p) for p in ("WSetEna", "WSet", "WSetRvrtRem")] == [1, 500, 0]
    assert bench.read(704, "WSetPct") == 0.05, "the set-point that is not in force reverts too"
    bench.wait(600)
    assert bench.read(704, "WSet") == 500, "the timer does not start by itself"


@pytest.mark.parametrize(
    "point", [("WSet", 2500.0), ("WSetRvrtTms", 20.0), ("WSetPct", 0.1), ("WSetEna", 1.0)]
)
def test_any_write_to_an_enabled_function_restarts_its_timer(point: tuple[str, float]) -> None:
    bench = Bench()
    bench.write(704, ("WSetRvrtTms", 20))
    bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", 1000))
    bench.wait(15)
    assert bench.read(704, "WSetRvrtRem") == 5
    assert bench.write(704, point) == OK
    assert bench.read(704, "WSetRvrtRem") == 20
    assert bench.write(704, ("WMaxLimPct", 0.9)) == OK
    bench.wait(15)
    assert bench.write(704, ("WMaxLimPct", 0.8)) == OK
    assert bench.read(704, "WSetRvrtRem") == 5, "another function's write does not touch it"


def test_switching_off_cancels_the_timer_and_zero_means_none() -> None:
    bench = Bench()
    bench.write(
        704, ("WSetRvrt", 700), ("WSetPct", 0), ("WSetPctRvrt", 0), ("WSetEnaRvrt", 1), ("WSetRvrtTms", 20)
    )
    bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", 1000))
    assert bench.write(704, ("WSetEna", 0)) == OK
    assert bench.control()["set_rvrt_ticks"] == 0
    bench.wait(30)
    assert (bench.read(704, "WSetEna"), bench.read(704, "WSet")) == (0, 1000)
    bench.write(704, ("WSetEna", 1))
    assert bench.control()["set_rvrt_ticks"] == 1000
    bench.write(704, ("WSetRvrtTms", 0))
    assert bench.control()["set_rvrt_ticks"] == 0
    bench.wait(60)
    assert (bench.read(704, "WSetEna"), bench.read(704, "WSet")) == (1, 1000)


def test_watts_and_percent_are_kept_apart() -> None:
    bench = Bench()
    bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", 1234))
    assert bench.write(704, ("WSetPct", -0.2)) == OK
    assert (bench.control()["set_w"], bench.read(704, "WSetPct")) == (1234, -0.2)
    assert bench.write(704, ("WSetMod", 0)) == OK
    assert (bench.control()["set_w"], bench.read(704, "WSet")) == (-1000, 1234)
    assert bench.write(704, ("WSet", 500)) == OK
    assert (bench.control()["set_w"], bench.read(704, "WSet"), bench.read(704, "WSetPct")) == (
        -1000,
        500,
        -0.2,
    )
    assert bench.write(704, ("WSetMod", 1)) == OK
    assert bench.control()["set_w"] == 500


def test_a_reversion_nobody_has_looked_at_counts() -> None:
    bench = Bench()
    bench.write(704, ("WSetRvrt", 300), ("WSetPct", 0.5), ("WSetPctRvrt", 0.1))
    bench.write(704, ("WSetRvrtTms", 5))
    bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", 3000))
    bench.wait(6)
    assert bench.write(704, ("WSetMod", 0)) == OK
    assert [bench.read(704, p) for p in ("WSetEna", "WSet", "WSetPct")] == [0, 300, 0.1]
    assert bench.control()["set_w"] == 500


def test_a_timer_alone_leaves_the_set_point_to_the_last_bit() -> None:
    """In percent the register's value is not exactly the plant's."""
    bench = Bench()
    bench.write(704, ("WSetMod", 0))
    for power_w in (1.567, 2.567, 1234.567, *np.linspace(1.1, 4999.9, 60).tolist()):
        bench.plant.set_control("set_w", power_w)
        assert bench.write(704, ("WSetRvrtTms", 9)) == OK
        assert bench.control()["set_w"] == power_w


def test_a_setting_is_seen_by_every_reader_of_the_plant() -> None:
    bench = Bench()
    version = bench.plant.version
    other = units_of(bench.plant, DEVICE)[1]
    point = bench.layout.point(123, "WMaxLimPct")
    assert other.read(point.address, 1) == (10_000).to_bytes(2, "big")
    assert bench.write(123, ("WMaxLimPct", 0.5)) == OK
    assert bench.plant.version != version
    assert other.read(point.address, 1) == (5_000).to_bytes(2, "big")


def test_an_island_ends_a_grant_in_the_registers_too() -> None:
    bench = Bench()
    bench.write(704, ("WSetRvrtTms", 600))
    bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", 1000))
    bench.plant.set_input("grid_good", 0.0)
    bench.wait(2)
    assert [bench.read(704, p) for p in ("WSetEna", "WSet", "WSetRvrtRem")] == [0, 1000, 0]


def test_what_the_bench_commands_directly_is_what_a_client_reads() -> None:
    bench = Bench()
    rows = np.arange(bench.plant.n) == DEVICE
    full = np.full(bench.plant.n, 1500.0)
    bench.plant.command(rows, full, np.full(bench.plant.n, 500, dtype=np.int64), full * np.nan)
    assert [bench.read(704, p) for p in ("WSetEna", "WSet", "WSetRvrtRem")] == [1, 1500, 10]


@pytest.mark.parametrize(
    ("profile", "watts", "code"),
    [
        (HOME, 5000, OK),
        (HOME, -5000, OK),
        (HOME, 5001, VALUE),
        (HOME, -5001, VALUE),
        (UPS, 11040, OK),
        (UPS, -5000, OK),
        (UPS, -5001, VALUE),
        (TOWN, -250000, OK),
        (TOWN, 250001, VALUE),
    ],
)
def test_a_set_point_beyond_the_rating_is_refused(profile: DeviceProfile, watts: float, code: int) -> None:
    for name in ("WSet", "WSetRvrt"):
        bench = Bench(profile)
        before = bench.dump(), bench.control()
        assert bench.write(704, (name, watts)) == code
        assert ((bench.dump(), bench.control()) == before) == (code != OK)


@pytest.mark.parametrize("profile", [HOME, UPS, TOWN])
def test_a_set_point_in_percent_stays_within_the_ratings(profile: DeviceProfile) -> None:
    bench = Bench(profile)
    charge = profile.inverter.power_w_charge_max / profile.inverter.power_w_discharge_max
    least = -math.floor(1e4 * charge) / 1e4
    for name in ("WSetPct", "WSetPctRvrt"):
        for share, code in ((1.0, OK), (1.0001, VALUE), (least, OK), (least - 1e-4, VALUE)):
            assert bench.write(704, (name, share)) == code


# ---- limit: 704 and 123 are two views ---------------------------------------------------------------------


def test_the_limit_as_dbus_fronius_writes_it() -> None:
    """WMaxLimPct, WinTms, RvrtTms, RmpTms and Ena in one request of five registers."""
    bench = Bench()
    fields = ("WMaxLimPct", "WMaxLimPct_WinTms", "WMaxLimPct_RvrtTms", "WMaxLimPct_RmpTms", "WMaxLim_Ena")
    assert bench.write(123, *zip(fields, (0.4, 0, 120, 0, 1), strict=True)) == OK
    control = bench.control()
    assert (control["limit_ena"], control["limit_frac"], control["limit_rvrt_ticks"]) == (1, 0.4, 6000)
    other = [bench.read(704, f"WMaxLimPct{end}") for end in ("Ena", "", "RvrtTms", "RvrtRem")]
    assert other == [1, 0.4, 120, 120]
    assert bench.read(122, "StActCtl") == 1 | 1 << 4, "beside frequency droop, which is on"
    bench.wait(120)
    assert (bench.read(123, "WMaxLim_Ena"), bench.read(123, "WMaxLimPct")) == (0, 1)
    assert bench.write(123, ("WMaxLimPct_WinTms", 5)) == VALUE, "a start window is not modelled"


def test_the_limit_through_704_shows_in_123() -> None:
    bench = Bench()
    names = ("Ena", "", "Rvrt", "EnaRvrt", "RvrtTms")
    assert (
        bench.write(704, *((f"WMaxLimPct{n}", v) for n, v in zip(names, (1, 0.5, 0.25, 1, 10), strict=True)))
        == OK
    )
    assert [bench.read(123, p) for p in ("WMaxLim_Ena", "WMaxLimPct", "WMaxLimPct_RvrtTms")] == [1, 0.5, 10]
    bench.wait(10)
    assert [bench.read(123, p) for p in ("WMaxLim_Ena", "WMaxLimPct")] == [1, 0.25]
    assert bench.write(704, ("WMaxLimPctRvrtTms", 70_000)) == OK
    assert bench.read(123, "WMaxLimPct_RvrtTms") is None, "it does not fit 16 bits"
    assert bench.write(704, ("WMaxLimPct", 1.0001)) == VALUE


# ---- storage window ---------------------------------------------------------------------------------------


def test_forced_charge_with_a_watchdog_the_legacy_way() -> None:
    bench = Bench(LEGACY)
    assert bench.write(124, ("InOutWRte_RvrtTms", 900)) == OK
    assert bench.write(124, ("OutWRte", -0.5), ("InWRte", 1)) == OK
    assert bench.control()["window_rvrt_ticks"] == 0
    assert bench.write(124, ("StorCtl_Mod", 2)) == OK
    control = bench.control()
    assert (control["window_in_ena"], control["window_out_ena"], control["window_out_frac"]) == (0, 1, -0.5)
    assert control["window_rvrt_ticks"] == 45_000
    bench.wait(300)
    assert bench.plant.states("power_w")[DEVICE] == pytest.approx(-0.5 * 5776, rel=1e-6)
    assert bench.write(124, ("OutWRte", -0.25)) == OK
    assert bench.control()["window_rvrt_ticks"] == 45_000
    bench.wait(900)
    assert [bench.read(124, p) for p in ("StorCtl_Mod", "OutWRte", "InWRte")] == [0, 1, 1]
    bench.wait(10)
    assert bench.plant.states("power_w")[DEVICE] == pytest.approx(0)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_storage_modes_are_two_bits(mode: int) -> None:
    bench = Bench(LEGACY)
    assert bench.write(124, ("StorCtl_Mod", mode)) == OK
    control = bench.control()
    assert (control["window_in_ena"], control["window_out_ena"]) == (mode & 1, mode >> 1)
    assert bench.read(124, "StorCtl_Mod") == mode
    assert bench.write(124, ("StorCtl_Mod", 4)) == VALUE


def test_rates_end_at_a_hundred_percent_and_charging_from_the_grid_stays_on() -> None:
    bench = Bench(LEGACY)
    for rate, code in ((1.0, OK), (-1.0, OK), (1.0001, VALUE), (-1.0001, VALUE)):
        assert bench.write(124, ("InWRte", rate)) == code
        assert bench.write(124, ("OutWRte", rate)) == code
    assert bench.write(124, ("ChaGriSet", 1)) == OK
    assert bench.write(124, ("ChaGriSet", 0)) == VALUE


# ---- reserve, permit, heartbeats --------------------------------------------------------------------------


def test_the_reserve_has_two_views() -> None:
    bench = Bench()
    assert bench.read(124, "MinRsvPct") == bench.read(802, "SoCRsvMin") == 0.2
    assert bench.write(124, ("MinRsvPct", 0.6543)) == OK
    assert bench.control()["reserve_frac"] == bench.read(802, "SoCRsvMin") == 0.6543
    assert bench.write(802, ("SoCRsvMin", 1.0)) == OK
    assert bench.read(124, "MinRsvPct") == 1.0
    assert bench.write(802, ("SoCRsvMin", 1.0001)) == VALUE


def test_a_device_without_a_reserve_has_no_such_point() -> None:
    bench = Bench(LEGACY)
    before = bench.control()
    assert bench.read(124, "MinRsvPct") is None
    assert bench.write(124, ("MinRsvPct", 0.5)) == ADDRESS
    assert bench.control() == before


def test_three_views_of_the_permit() -> None:
    bench = Bench()
    views = ((703, "ES"), (715, "OpCtl"), (123, "Conn"))
    for view in views:
        for value in (0.0, 1.0):
            assert bench.write(view[0], (view[1], value)) == OK
            assert [bench.read(*v) for v in views] == [value] * 3
            assert bench.control()["permit"] == value
        assert bench.write(view[0], (view[1], 4.0)) == VALUE


def test_standby_is_entered_and_left_and_reads_back() -> None:
    """715.OpCtl: STOP 0, START 1, ENTER_STANDBY 2, EXIT_STANDBY 3."""
    bench = Bench()
    for command, permit in ((2, 0), (3, 1), (0, 0), (3, 1), (2, 0), (1, 1)):
        assert bench.write(715, ("OpCtl", command)) == OK
        assert (bench.read(715, "OpCtl"), bench.read(703, "ES")) == (command, permit)
    assert bench.write(715, ("OpCtl", 2)) == OK
    assert bench.write(703, ("ES", 1)) == OK
    assert bench.read(715, "OpCtl") == 1, "another view contradicts it"


def test_alarms_are_not_latched_so_their_reset_does_nothing() -> None:
    bench = Bench()
    before = bench.control()
    assert bench.write(715, ("AlarmReset", 1)) == OK
    assert (bench.read(715, "AlarmReset"), bench.control()) == (1, before)
    assert bench.write(715, ("AlarmReset", 2)) == VALUE


def test_disconnect_reverts_and_permit_service_does_not() -> None:
    bench = Bench()
    assert bench.write(123, ("Conn_RvrtTms", 10), ("Conn", 0)) == OK
    assert bench.control()["permit_rvrt_ticks"] == 500
    bench.wait(10)
    assert (bench.read(123, "Conn"), bench.read(703, "ES")) == (1, 1)
    assert bench.write(703, ("ES", 0)) == OK
    assert bench.control()["permit_rvrt_ticks"] == 0
    bench.wait(60)
    assert bench.read(703, "ES") == 0
    assert bench.write(123, ("Conn", 0)) == OK
    assert bench.control()["permit_rvrt_ticks"] == 500
    assert bench.write(715, ("OpCtl", 1)) == OK
    assert (bench.control()["permit"], bench.control()["permit_rvrt_ticks"]) == (1, 0)


def test_heartbeats_of_the_controller_are_kept() -> None:
    bench = Bench()
    version = bench.plant.version
    assert bench.write(715, ("ControllerHb", 4_000_000_000)) == OK
    assert bench.write(802, ("CtrlHb", 65534)) == OK
    assert (bench.read(715, "ControllerHb"), bench.read(802, "CtrlHb")) == (4_000_000_000, 65534)
    assert bench.plant.version == version, "the plant does not know of heartbeats"


# ---- rules ------------------------------------------------------------------------------------------------


def at(bench: Bench, model: int, name: str, offset: int = 0) -> int:
    return bench.layout.point(model, name).address + offset


RULES: dict[str, tuple[int, str, int, bytes, int]] = {
    # name: model, point, registers after its first, data, expected
    "model id": (704, "ID", 0, b"\0\1", ADDRESS),
    "model length": (704, "L", 0, b"\0\1", ADDRESS),
    "scale factor": (704, "WSet_SF", 0, b"\0\1", ADDRESS),
    "measurement": (701, "W", 0, b"\0\1", ADDRESS),
    "rating": (702, "WMax", 0, b"\0\1", ADDRESS),
    "old rating": (124, "WChaMax", 0, b"\0\1", ADDRESS),
    "anti-islanding": (704, "AntiIslEna", 0, b"\0\1", ADDRESS),
    "not implemented": (704, "VarRmp", 0, b"\0\1", ADDRESS),
    "sentinel where not implemented": (704, "VarRmp", 0, b"\xff\xff", ADDRESS),
    "remaining time": (704, "WSetRvrtRem", 0, b"\0\0\0\1", ADDRESS),
    "across, last read-only": (704, "WSetRvrtTms", 0, b"\0\0\0\1\0\0", ADDRESS),
    "across, first read-only": (704, "WSetRvrtRem", 1, b"\0\0\0\1", ADDRESS),
    "across with a bad value": (704, "WSetEnaRvrt", 0, b"\0\7\0\0\0\1\0\0", ADDRESS),
    "across models": (703, "Hz_SF", 0, b"\0\0\0\1", ADDRESS),
    "high half": (704, "WSet", 0, b"\0\1", VALUE),
    "low half": (704, "WSet", 1, b"\0\1", VALUE),
    "ends in a half": (704, "WSetMod", 0, b"\0\1\0\0", VALUE),
    "begins in a half": (704, "WSetRvrt", 1, b"\0\0\0\0", VALUE),
    "unknown enumeration": (704, "WSetEna", 0, b"\0\2", VALUE),
    "good then bad": (704, "WSetEna", 0, b"\0\1\0\1\0\0\xff\0", VALUE),
    "odd bytes": (704, "WSetEna", 0, b"\0", VALUE),
    "no bytes": (704, "WSetEna", 0, b"", VALUE),
    "marker": (1, "ID", -2, b"Su", ADDRESS),
    "before the map": (1, "ID", -3, b"\0\0", ADDRESS),
    "end model": (802, "W_SF", 1, b"\0\0", ADDRESS),
    "behind the map": (802, "W_SF", 3, b"\0\0", ADDRESS),
    "over the end": (802, "W_SF", 2, b"\0\0\0\0", ADDRESS),
}


@pytest.mark.parametrize("rule", RULES)
def test_what_is_refused_changes_nothing(rule: str) -> None:
    model, name, offset, data, code = RULES[rule]
    bench = Bench()
    bench.write(704, ("WSetRvrtTms", 50))
    bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", 2000))
    bench.wait(7)
    before = bench.dump(), bench.control(), bench.plant.version
    assert bench.unit.write(at(bench, model, name, offset), data) == code
    assert (bench.dump(), bench.control(), bench.plant.version) == before


def test_the_meter_takes_no_writes() -> None:
    bench = Bench()
    meter = units_of(bench.plant, DEVICE)[101]
    before = meter.read(meter.base_address, meter.count)
    for address in range(meter.base_address, meter.base_address + meter.count):
        assert meter.write(address, b"\0\0") == ADDRESS
    assert meter.read(meter.base_address, meter.count) == before


def test_not_implemented_values_leave_their_points_alone() -> None:
    bench = Bench()
    bench.write(704, ("WSetRvrtTms", 50))
    bench.write(704, ("WSetEna", 1), ("WSetMod", 1), ("WSet", 2000))
    bench.wait(7)
    before = bench.dump(), bench.control()
    first = at(bench, 704, "WSetEna")
    blank = b"\xff\xff\xff\xff\x80\0\0\0\x80\0\0\0\x80\0\x80\0\xff\xff\xff\xff\xff\xff"
    assert bench.unit.write(first, blank) == OK
    assert (bench.dump(), bench.control()) == before, "not even the timer is restarted"
    assert bench.unit.write(first, blank[:4] + (700).to_bytes(4, "big") + blank[8:]) == OK
    assert [bench.read(704, p) for p in ("WSetEna", "WSet", "WSetRvrtRem")] == [1, 700, 50]
