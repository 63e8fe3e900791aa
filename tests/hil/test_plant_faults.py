"""Faults of the device: what each does to a plant, however commanded, and that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.fields import CONTROL, LANES, PARAM, STATUS, TICKS_PER_S
from ridethrough.emulator.intake import DEVICE_FAILURE
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.hil.effects.plant import ACTS
from ridethrough.hil.effects.plant_writes import floored
from ridethrough.hil.fault_files import load_fault
from ridethrough.hil.faults import Event

from tests.emulator.register_bench import load
from tests.hil.fault_rig import HOME, LOAD_W, Rig, event, image_of, read, write

LEGACY = load("home-11kwh-6kw-legacy")
WARM = load("home-9kwh-4kw")
"""Its cells have limits by temperature, and a taper."""
FAULTS = sorted(ACTS)
IMPOSED = ("enter_delay_ticks", "bms_open")
"""Settings that faults impose; the others change by commands alone."""

Command = Callable[[Rig], None]


def status(rig: Rig, d: int = 0) -> str:
    return STATUS[int(rig.state("status", d))]


def outage(start_s: float, end_s: float) -> Event:
    return event("grid.outage", start_s, end_s, number=90)


def registers(power_w: float, validity_s: float, reserve: float) -> Command:
    """Return a command over registers, in the order of the bench's client."""

    def send(rig: Rig) -> None:
        image = image_of(rig)
        if not np.isnan(reserve):
            write(image, 802, SoCRsvMin=reserve)
        write(image, 704, WSetEnaRvrt=0.0, WSetRvrtTms=validity_s, WSetMod=1.0, WSet=power_w, WSetEna=1.0)

    return send


def called(power_w: float, validity_s: float, reserve: float) -> Command:
    return lambda rig: rig.command(power_w, validity_s, reserve)


@pytest.mark.parametrize("make", [called, registers])
@pytest.mark.parametrize(
    ("fault", "given_params", "power_w", "left_s", "reserve"),
    [
        ("device.revert-timer-short", {"timer": "20s"}, 2300.0, 20.0, 0.4),
        ("device.revert-timer-foreign", {"timer": "1h"}, 2300.0, 3600.0, 0.4),
        ("device.revert-timer-absent", {}, 2300.0, 0.0, 0.4),
        ("device.write-ignored", {}, 0.0, 0.0, 0.2),
        ("device.write-rounded", {"step": "500W", "reserve_step": "25%"}, 2000.0, 90.0, 0.25),
        ("device.write-rounded", {"step": "100W", "most": "700W"}, 700.0, 90.0, 0.4),
        ("device.write-zeroed", {}, 0.0, 90.0, 0.0),
        ("device.write-zeroed", {"of": "reserve"}, 2300.0, 90.0, 0.0),
        ("device.write-zeroed", {"of": "power"}, 0.0, 90.0, 0.4),
        ("device.flash-wear", {"writes": 0}, 0.0, 0.0, 0.2),
        ("device.flash-wear", {"writes": 50}, 2300.0, 90.0, 0.4),
        ("device.lock", {}, 0.0, 0.0, 0.2),
        ("device.reboot", {}, 0.0, 0.0, 0.2),
    ],
)
def test_a_command_is_bent_alike_as_a_call_and_over_registers(
    fault: str,
    given_params: dict[str, Any],
    power_w: float,
    left_s: float,
    reserve: float,
    make: Callable[[float, float, float], Command],
) -> None:
    rig = Rig(event(fault, 0, 100, **given_params))
    rig.step()
    make(2300.0, 90.0, 0.4)(rig)
    assert rig.control("set_w") == power_w
    assert rig.control("set_rvrt_ticks") == left_s * TICKS_PER_S
    assert rig.control("reserve_frac") == pytest.approx(reserve)


def test_a_window_is_bent_too() -> None:
    """A legacy device is commanded by model 124; an open side of the window is no power that was asked."""
    rig = Rig(event("device.write-rounded", 0, 100, step="1kW"), profiles=[LEGACY])
    rig.step()
    assert write(image_of(rig), 124, InWRte=-0.4, OutWRte=1.0, StorCtl_Mod=1.0, InOutWRte_RvrtTms=60.0) == 0
    assert rig.control("window_in_frac") * LEGACY.inverter.power_w_charge_max == pytest.approx(-2000.0)
    assert rig.control("window_out_frac") == 1.0
    rig = Rig(event("device.write-zeroed", 0, 100), profiles=[LEGACY])
    rig.step()
    assert write(image_of(rig), 124, InWRte=-0.4, OutWRte=1.0, StorCtl_Mod=3.0) == 0
    assert (rig.control("window_in_frac"), rig.control("window_out_frac")) == (0.0, 0.0)


def test_a_lock_refuses_writes_of_any_kind_and_answers_reads() -> None:
    rig = Rig(event("device.lock", 5, 30))
    image = image_of(rig)
    assert write(image, 704, WSet=1000.0) == 0
    rig.until(6)
    assert write(image, 704, WSet=2000.0) == DEVICE_FAILURE
    assert write(image, 703, ESDlyTms=10.0) == DEVICE_FAILURE
    assert read(image, 704, "WSet") == 1000.0
    rig.until(31)
    assert write(image, 703, ESDlyTms=10.0) == 0


def test_worn_out_memory_refuses_where_it_says_so() -> None:
    rig = Rig(event("device.flash-wear", 0, 100, writes=2, answer="refused"))
    rig.step()
    image = image_of(rig)
    codes = [write(image, 704, WSet=power_w) for power_w in (100.0, 200.0, 300.0)]
    assert codes == [0, 0, DEVICE_FAILURE]
    assert read(image, 704, "WSet") == 200.0


def test_an_ignored_write_reads_back_as_it_was_and_a_share_of_them_is_ignored() -> None:
    rig = Rig(event("device.write-ignored", 0, 100_000, probability="30%"))
    image, taken = image_of(rig), []
    for k in range(300):
        rig.now_s = 10 * k
        rig.settle()
        assert write(image, 704, WSet=10.0 * (k % 50)) == 0
        taken.append(read(image, 704, "WSet") == 10.0 * (k % 50))
        assert rig.control("set_w") == read(image, 704, "WSet")
    assert 0.6 < np.mean(taken) < 0.8


def test_writes_that_belong_to_one_command_share_their_fate() -> None:
    rig = Rig(event("device.write-ignored", 0, 100_000, probability="50%"))
    image, fates = image_of(rig), []
    rig.settle()
    rig.plant.set_control("set_ena", 1.0)
    for k in range(60):
        rig.now_s = 20 * k
        rig.settle()
        power_w, seconds = 10.0 * (k + 1), 100.0 + k
        write(image, 704, WSetRvrtTms=seconds)
        rig.now_s += 3
        rig.settle()
        write(image, 704, WSet=power_w)
        fates.append(
            (rig.control("set_w") == power_w, rig.control("set_rvrt_ticks") == seconds * TICKS_PER_S)
        )
    assert set(fates) == {(False, False), (True, True)}


def test_a_reboot_loses_what_was_set_and_registers_show_it() -> None:
    rig = Rig(event("device.reboot", 10, 40))
    image = image_of(rig)
    write(image, 802, SoCRsvMin=0.5)
    write(image, 704, WSetRvrtTms=500.0, WSetEna=1.0, WSet=1500.0, PFWInjRvrtTms=60.0, PFWInjEna=1.0)
    write(image, 703, ESDlyTms=20.0)
    rig.until(12)
    assert status(rig) == "enter"
    for model, name, value in (
        (802, "SoCRsvMin", 0.2),
        (704, "WSetRvrtTms", 0.0),
        (704, "WSetEna", 0.0),
        (704, "WSet", 0.0),
        (704, "PFWInjRvrtTms", 0.0),
        (703, "ESDlyTms", 300.0),
    ):
        assert read(image, model, name) == pytest.approx(value), (model, name)
    rig.until(42)
    assert rig.plant.settings(0) == Rig().plant.settings(0)
    again = Rig()
    for name in CONTROL:
        if not name.startswith("calm"):
            assert rig.control(name) == again.control(name), name
    rig.until(100)  # the timer of PFWInj is gone: it would have ended by now
    assert rig.plant.scheduled_ticks(0, "704.PFWInj") == 0


def test_only_a_manual_reset_loses_the_command() -> None:
    left = []
    for reset in ("auto", "manual"):
        rig = Rig(event("device.trip", 5, 20, reset=reset))
        rig.step()
        rig.command(1000.0, 900.0)
        rig.until(330)
        assert status(rig) == "on_grid"
        left.append(rig.control("set_ena"))
    assert left == [1.0, 0.0]


@pytest.mark.parametrize("fault", ["device.trip", "device.lock", "device.reboot"])
def test_an_inverter_that_is_down_gives_nothing_on_the_grid_and_in_an_island(fault: str) -> None:
    rig = Rig(event(fault, 10, 60), outage(30, 50), pv_w=2000.0)
    rig.step()
    rig.command(2000.0, 900.0)
    rig.until(10)
    assert rig.state("power_w") == pytest.approx(2000.0)
    for _ in range(50):
        rig.step()
        assert rig.state("power_w") == pytest.approx(0.0, abs=20.0)
        assert status(rig) in ("enter", "transfer")
        served = rig.state("backup_w_served")
        assert served == (0.0 if status(rig) == "transfer" else LOAD_W)
    rig.until(60 + 299)
    assert status(rig) == "enter"
    rig.until(60 + 302)
    assert status(rig) == "on_grid"


def test_an_island_goes_dark_with_its_inverter_and_restarts_after_it() -> None:
    rig = Rig(outage(5, 300), event("device.trip", 30, 60))
    rig.until(29)
    assert status(rig) == "island"
    rig.until(31)
    assert (status(rig), rig.state("backup_w_served")) == ("overload", 0.0)
    rig.until(60 + round(HOME.island.restart_s) - 1)
    assert status(rig) == "overload"
    rig.until(60 + round(HOME.island.restart_s) + 2)
    assert (status(rig), rig.state("backup_w_served")) == ("island", LOAD_W)


@pytest.mark.parametrize("side", ["both", "charge", "discharge"])
@pytest.mark.parametrize("kind", [HOME, WARM], ids=["plain", "warm"])
def test_derating_limits_the_sides_it_names(kind: DeviceProfile, side: str) -> None:
    rated_w, taken_w = kind.inverter.power_w_discharge_max, kind.inverter.power_w_charge_max
    free = Rig(profiles=[kind])
    rig = Rig(event("device.derating", 0, 600, share="20%", side=side), profiles=[kind])
    for each in (free, rig):
        each.step()
        each.command(rated_w)
        each.until(90)  # beyond the slow stage, which makes the limits anew
    share = 0.2 if side != "charge" else 1.0
    assert rig.state("power_w") == pytest.approx(min(share * rated_w, free.state("power_w")), rel=1e-3)
    for each in (free, rig):
        each.command(-taken_w)
        each.until(180)
    share = 0.2 if side != "discharge" else 1.0
    assert rig.state("power_w") == pytest.approx(max(-share * taken_w, free.state("power_w")), rel=1e-3)


def test_two_deratings_give_the_severer_and_the_limits_come_back_at_once() -> None:
    events = [
        event("device.derating", 0, 30, share="50%", number=1),
        event("device.derating", 10, 20, share="10%", number=2),
    ]
    rig = Rig(*events)
    rig.step()
    rig.command(5000.0)
    powers = [rig.until(s).state("power_w") for s in (9, 19, 29, 33)]
    assert powers == pytest.approx([2500.0, 500.0, 2500.0, 5000.0], rel=1e-6)


def test_a_limit_of_nothing_trips_an_island_again_and_again() -> None:
    rig = Rig(outage(2, 400), event("device.derating", 10, 400, share="0%"))
    seen = [status(rig.until(s)) for s in range(11, 200)]
    assert set(seen) == {"overload"}
    assert rig.state("backup_short_j") > 180 * LOAD_W


def test_a_contactor_stuck_closed_ignores_the_command_until_the_end() -> None:
    rig = Rig(event("device.contactor-stuck", 2, 20, position="closed"))
    image = image_of(rig)
    rig.until(3)
    rig.command(1000.0)
    assert write(image, 802, SetOp=2.0) == 0
    rig.until(15)
    assert rig.state("power_w") == pytest.approx(1000.0)
    rig.until(22)  # what was asked is what it has now
    assert rig.state("power_w") == -HOME.inverter.standby_w
    assert rig.control("bms_open") == 1.0


def test_a_cut_of_capacity_keeps_what_is_stored_and_charges_nothing_above() -> None:
    rig = Rig(event("device.capacity-cut", 5, 60, cut="50%"))
    energy_j = rig.state("energy_j")
    rig.until(6)
    rig.command(-2000.0)
    rig.until(30)
    assert energy_j - 30 * 20.0 < rig.state("energy_j") < energy_j
    rig.until(90)
    assert rig.state("power_w") == pytest.approx(-2000.0)


def test_ageing_goes_on_beneath_a_cut() -> None:
    profile = load("home-10kwh-4kw-ups")
    assert profile.battery.ageing != "none"
    rig = Rig(event("device.capacity-cut", 0, 5000, cut="30%"), profiles=[profile], ages=True)
    free = Rig(profiles=[profile], ages=True)
    for each in (rig, free):
        each.settle()
        each.plant.advance(3600 * TICKS_PER_S)
        each.now_s = 3600
        each.settle()
    assert free.param("energy_j_max") < profile.battery.energy_wh * 3600.0 * profile.battery.soc_frac_max
    assert rig.param("energy_j_max") == 0.7 * free.param("energy_j_max")
    rig.now_s = 5000
    rig.settle()
    assert rig.param("energy_j_max") == free.param("energy_j_max")


@pytest.mark.parametrize(
    ("fault", "given_params"),
    [("device.reserve-off-grid", {"floor": "70%"}), ("device.early-cutoff", {"share": "65%"})],
)
def test_a_higher_floor_locks_energy_in_and_lets_it_go(fault: str, given_params: dict[str, Any]) -> None:
    rig = Rig(event(fault, 5, 60, **given_params), outage(20, 200))
    rig.step()
    rig.command(2000.0)
    assert rig.until(4).state("power_w") == pytest.approx(2000.0)
    assert rig.until(10).state("power_w") == 0.0
    assert status(rig.until(30)) == "empty"
    assert status(rig.until(70)) == "island"


def test_the_reserve_in_force_is_the_floor_off_the_grid() -> None:
    rig = Rig(event("device.reserve-off-grid", 0, 300), outage(20, 200))
    rig.step()
    assert status(rig.until(30)) == "island"
    rig = Rig(event("device.reserve-off-grid", 0, 300), outage(20, 200))
    rig.step()
    rig.command(0.0, 900.0, reserve=0.8)
    assert status(rig.until(30)) == "empty"


@pytest.mark.parametrize(("after", "trips_s"), [("0s", 0), ("20s", 20)])
def test_an_island_trips_under_a_load_once_it_has_lasted(after: str, trips_s: int) -> None:
    rig = Rig(event("device.island-overload", 0, 300, power="600W", after=after), outage(20, 200))
    rig.until(20 + trips_s)
    assert status(rig) == ("on_grid" if trips_s == 0 else "island")
    rig.until(23 + trips_s)
    assert status(rig) == "overload"
    light = Rig(event("device.island-overload", 0, 300, power="1kW", after=after), outage(20, 200))
    assert status(light.until(60)) == "island"


def test_a_transfer_takes_what_was_drawn_or_fails() -> None:
    dark_s = []
    for seed in range(6):
        fault = event("device.transfer-failure", 0, 600, wait="20s", spread="40s")
        rig = Rig(fault, outage(10, 300), seed=seed)
        while status(rig) != "island":
            rig.step()
        dark_s.append(rig.now_s - 10)
    assert len(set(dark_s)) > 3
    assert all(20 <= seconds <= 61 for seconds in dark_s)
    rig = Rig(event("device.transfer-failure", 0, 100, failure="100%"), outage(10, 300))
    assert status(rig.until(99)) == "transfer"
    assert status(rig.until(110)) == "island"


def test_a_stale_set_point_waits_for_the_grid_and_fires() -> None:
    """One command before the outage, none after: it acts when the device is back, for what was left of it."""
    stale = event("grid.stale-set-point", 30, 400, outage="1min", delay="100s")
    rig = Rig(stale)
    rig.until(20)
    rig.command(-3000.0, 60.0)
    rig.until(60)
    left_ticks = rig.control("set_rvrt_ticks")
    assert left_ticks == (60 - 10 - 1) * TICKS_PER_S  # it is set back before each second
    rig.command(2000.0, 900.0)  # ignored: it does not follow the grid
    rig.until(30 + 60 + 100)
    assert (status(rig), rig.control("set_rvrt_ticks")) == ("island", left_ticks)
    rig.until(30 + 60 + 100 + 40)
    assert status(rig) == "on_grid"
    assert rig.state("power_w") < -300.0
    rig.until(30 + 60 + 100 + 60)
    assert rig.state("power_w") == pytest.approx(0.0, abs=20.0)
    sound = Rig(outage(30, 90))
    sound.until(20)
    sound.command(-3000.0, 900.0)
    assert sound.until(60).control("set_ena") == 0.0  # this product ends commands when an island begins


def test_a_foreign_timer_ends_the_command_in_force() -> None:
    rig = Rig(event("device.revert-timer-foreign", 10, 100, timer="30s"))
    rig.command(1000.0, 900.0)
    assert rig.until(39).state("power_w") == pytest.approx(1000.0)
    assert rig.until(43).state("power_w") == pytest.approx(0.0, abs=20.0)
    idle = Rig(event("device.revert-timer-foreign", 10, 100, timer="30s"))
    idle.until(20)
    assert idle.control("set_rvrt_ticks") == 0.0  # no command, nothing to end


def arrays(rig: Rig, d: int) -> list[bytes]:
    tile, lane = divmod(d, LANES)
    plant = rig.plant
    return [each[tile, :, lane].tobytes() for each in (plant.param, plant.control, plant.input, plant.state)]


def example(fault: str, start_s: int, end_s: int, targets: tuple[int, ...], number: int) -> Event:
    given_params = {name: value for name, value in load_fault(fault).example.items() if name != "for"}
    return event(fault, start_s, end_s, targets, number, **given_params)


def test_without_events_nothing_is_touched() -> None:
    rig = Rig()
    rig.step()
    before = rig.plant.version, *(arrays(rig, 0))
    other = event("comms.partition", 0, 10)
    rig.devices.step(0, [])
    rig.devices.step(0, [other])
    assert (rig.plant.version, *arrays(rig, 0)) == before
    assert rig.plant.intake is None


@st.composite
def storms(draw: st.DrawFn) -> list[Event]:
    count = draw(st.integers(1, 4))
    events = []
    for number in range(1, count + 1):
        start_s = draw(st.integers(1, 40))
        targets = draw(st.sampled_from([(0,), (1,), (0, 1)]))
        fault = draw(st.sampled_from([*FAULTS, "grid.outage", "grid.sag", "grid.unintentional-island"]))
        events.append(example(fault, start_s, start_s + draw(st.integers(1, 30)), targets, number))
    return events


def played(events: list[Event], seconds: int = 80, seed: int = 3) -> Rig:
    rig = Rig(*events, profiles=[HOME, WARM, HOME], seed=seed, pv_w=300.0)
    for second in range(seconds):
        if second % 20 == 5:
            rig.command(1500.0 if second % 40 == 5 else -1500.0, 30.0, reserve=0.3)
        rig.step()
    return rig


@settings(max_examples=25, deadline=None)
@given(storms())
def test_faults_meet_their_targets_only_compose_and_leave_nothing_behind(events: list[Event]) -> None:
    rig, free = played(events), played([])
    assert arrays(rig, 2) == arrays(free, 2)
    rig.settle()
    for d in range(3):
        for name in PARAM:
            assert rig.param(name, d) == free.param(name, d), name
        for name in IMPOSED:
            assert rig.control(name, d) == free.control(name, d), name
    assert rig.plant.intake is None
    again = played(events)
    assert [arrays(rig, d)[1:] for d in range(3)] == [arrays(again, d)[1:] for d in range(3)]


@settings(max_examples=25, deadline=None)
@given(storms())
def test_the_books_of_the_plant_close_under_faults(events: list[Event]) -> None:
    start = Rig(profiles=[HOME, WARM, HOME])
    rig = played(events)
    spent_j = sum(
        sign * rig.plant.states(name)
        for name, sign in (
            ("discharge_j", 1.0),
            ("charge_j", -1.0),
            ("loss_j", 1.0),
            ("standby_j", 1.0),
            ("ohm_j", 1.0),
            ("self_j", 1.0),
        )
    )
    gone_j = start.plant.states("energy_j") - rig.plant.states("energy_j")
    assert gone_j == pytest.approx(spent_j, abs=0.05)
    low_j, high_j = start.plant.params("energy_j_min"), start.plant.params("energy_j_max")
    assert (rig.plant.states("energy_j_low") >= low_j - 1e-6 * high_j).all()
    assert (rig.plant.states("energy_j_high") <= high_j * (1.0 + 1e-9)).all()


def test_another_event_does_not_move_the_draws_of_one() -> None:
    ignored = event("device.write-ignored", 0, 1000, probability="50%", number=2)
    noise = event("device.write-zeroed", 0, 1000, probability="0%", number=1)

    def fates(*events: Event, seed: int = 1) -> list[float]:
        rig = Rig(*events, seed=seed)
        found = []
        for k in range(40):
            rig.now_s = 20 * k
            rig.settle()
            rig.command(10.0 + k)
            found.append(rig.control("set_w"))
        return found

    assert fates(ignored) == fates(noise, ignored)
    assert fates(ignored) != fates(ignored, seed=2)


@pytest.mark.parametrize(
    ("value", "step", "result"),
    [
        (2345.0, 100.0, 2300.0),
        (-2345.0, 100.0, -2300.0),
        (99.0, 100.0, 0.0),
        (0.3, 0.1, 0.3),
        (0.29, 0.1, 0.2),
    ],
)
def test_rounding_is_towards_zero(value: float, step: float, result: float) -> None:
    assert floored(value, step) == pytest.approx(result)
