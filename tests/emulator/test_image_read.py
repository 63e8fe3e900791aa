"""What a client reads is what the plant is: every image is decoded by pysunspec2, not by our own code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.fields import CONTROL, INPUT, STATE, STATUS
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.layout import quantise_soc, soc_frac_step
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile

from tests.emulator.register_bench import DEVICE, HOME, NAMES, PROFILES, Shown, decode, dump, near, with_face


def put(plant: Plant, **values: float) -> None:
    """Set fields of the device under test."""
    for name, value in values.items():
        for array, names in ((plant.control, CONTROL), (plant.input, INPUT), (plant.state, STATE)):
            if name in names:
                array[DEVICE // 8, names.index(name), DEVICE % 8] = value
                break
        else:
            raise KeyError(name)
    plant.touch()


def plant_of(profile: DeviceProfile, soc: float = 0.5, soh: float = 1.0) -> Plant:
    plant = Plant([profile] * (DEVICE + 2), soc_frac=soc, soh_frac=soh)
    for array in (plant.state, plant.input):
        mine = array[DEVICE // 8, :, DEVICE % 8].copy()
        array[:] = array * 1.5 + 1.0
        array[DEVICE // 8, :, DEVICE % 8] = mine
    plant.touch()
    return plant


def units(plant: Plant) -> tuple[DeviceImage, DeviceImage]:
    inverter, meter = units_of(plant, DEVICE).values()
    return inverter, meter


@st.composite
def physics(draw: st.DrawFn) -> dict[str, float]:
    """States a device on the grid can be in, powers as shares of the rating; the apparent one is below 1."""
    energy, share = st.floats(0, 1e12), st.floats(-1, 1).map(lambda x: round(x, 6))
    return {
        "status": float(STATUS.index("on_grid")),
        "power": 0.9 * draw(share),
        "battery": draw(share),
        "import": 0.9 * draw(share),
        "reactive": 0.4 * draw(share),
        "import_reactive": 0.4 * draw(share),
        "ohm": draw(st.floats(0, 0.05)),
        "ocv_frac": draw(st.floats(0.7, 1.15)),
        "soc_error_frac": draw(st.floats(-0.2, 0.2)),
        "soc": draw(st.floats(0.05, 1)),
        "soh": draw(st.floats(0.5, 1)),
        "voltage_pu": draw(st.floats(0.88, 1.2)),
        "frequency_hz": draw(st.floats(56, 64)),
        **{name: draw(energy) for name in ("import_j", "export_j", "charge_j", "discharge_j")},
        "elapsed_ticks": float(draw(st.integers(0, 10**9))),
    }


@pytest.mark.parametrize("name", NAMES)
@given(world=physics())
@settings(deadline=None, max_examples=40)
def test_registers_agree_with_the_physics(name: str, world: dict[str, float]) -> None:
    profile = PROFILES[name]
    plant = plant_of(profile, soc=world["soc"], soh=world["soh"])
    rated_w = min(profile.inverter.power_w_discharge_max, profile.inverter.power_w_charge_max)
    names = ("power", "reactive", "battery", "ohm", "import", "import_reactive")
    power_w, reactive_var, battery_w, ohm_w, import_w, import_var = (world[k] * rated_w for k in names)
    if battery_w < 0.0:
        ohm_w = min(ohm_w, -0.1 * battery_w)  # cells do not turn the most of what they take into heat
    direct = {k: v for k, v in world.items() if k in (*INPUT, *STATE)}
    flows = {"reactive_var": reactive_var, "import_var": import_var, "ohm_w": ohm_w}
    put(plant, **direct, **flows, power_w=power_w, battery_w=battery_w, import_w=import_w)
    inverter, meter = units(plant)
    got, got_meter = decode(inverter), decode(meter)
    true = float(plant.states("energy_j")[DEVICE] / plant.params("capacity_j")[DEVICE])
    world["soc"] = min(max(true + world["soc_error_frac"], 0.0), 1.0)
    check_ac(profile, got, world, (power_w, reactive_var), battery_w)
    check_battery(profile, got, world, battery_w, ohm_w)
    check_meter(profile, got_meter, world, (import_w, import_var))


def check_ac(
    profile: DeviceProfile, got: Shown, world: dict[str, float], flow: tuple[float, float], battery_w: float
) -> None:
    power_w, reactive_var = flow
    apparent_va = math.hypot(power_w, reactive_var)
    factor = power_w / apparent_va if apparent_va else 1.0
    ac, volts = 103 if profile.face.phases == 3 else 101, world["voltage_pu"] * profile.face.voltage_v
    expected = {
        (ac, "W"): (power_w, "W_SF"),
        (ac, "VA"): (apparent_va, "VA_SF"),
        (ac, "VAr"): (reactive_var, "VAr_SF"),
        (ac, "PF"): (100.0 * factor, "PF_SF"),
        (ac, "A"): (apparent_va / volts, "A_SF"),
        (ac, "AphA"): (apparent_va / volts / profile.face.phases, "A_SF"),
        (ac, "PhVphA"): (volts, "V_SF"),
        (ac, "Hz"): (world["frequency_hz"], "Hz_SF"),
        (ac, "DCW"): (battery_w, "DCW_SF"),
        (701, "W"): (power_w, "W_SF"),
        (701, "VA"): (apparent_va, "VA_SF"),
        (701, "Var"): (reactive_var, "Var_SF"),
        (701, "PF"): (factor, "PF_SF"),
        (701, "A"): (apparent_va / volts, "A_SF"),
        (701, "WL1"): (power_w / profile.face.phases, "W_SF"),
        (701, "VarL1"): (reactive_var / profile.face.phases, "Var_SF"),
        (701, "LNV"): (volts, "V_SF"),
        (701, "Hz"): (world["frequency_hz"], "Hz_SF"),
        (701, "TotWhInj"): (world["discharge_j"] / 3600, "TotWh_SF"),
        (701, "TotWhAbs"): (world["charge_j"] / 3600, "TotWh_SF"),
    }
    compare(profile, got, expected)
    if round(world["discharge_j"] / 3600) > 0:  # an accumulator of 0 reads as "not implemented"
        assert near(got[ac, "WH"], world["discharge_j"] / 3600, 1.0)
        assert near(got[122, "ActWh"], world["discharge_j"] / 3600, 1.0)
    if profile.face.phases == 3:
        for phase in ("PhVphB", "PhVphC"):
            assert got[103, phase] == got[103, "PhVphA"]
        assert near(got[103, "PPVphAB"], volts * math.sqrt(3), 0.1)
        assert near(got[701, "LLV"], volts * math.sqrt(3), 0.1)


def check_battery(
    profile: DeviceProfile, got: Shown, world: dict[str, float], battery_w: float, ohm_w: float
) -> None:
    soc, soh = world["soc"], world["soh"]
    rest_v = profile.battery.voltage_v_nominal * world["ocv_frac"]
    battery_a = (battery_w + ohm_w) / rest_v  # what leaves the cells, before their resistance
    battery_v = battery_w / battery_a if battery_w else rest_v
    for point in ((713, "SoC"), (124, "ChaState"), (802, "SoC"), (803, "string[1].StrSoC"), (804, "SoC")):
        if point in got:
            assert -1e-12 <= soc - got[point] / 100 < 1.0001e-4, point
            assert got[point] / 100 == pytest.approx(
                float(quantise_soc(soc, soc_frac_step(profile))), abs=1e-12
            )
    compare(profile, got, {(713, "SoH"): (100 * soh, "Pct_SF"), (802, "SoH"): (100 * soh, "SoH_SF")})
    compare(profile, got, {(802, "W"): (battery_w, "W_SF")})
    if (713, "WHAvail") in got:
        step = 10.0 ** got[713, "WH_SF"]
        true_wh = profile.battery.energy_wh * soh * soc
        assert -1e-6 <= true_wh - got[713, "WHAvail"] < step * (1 + 1e-9)
    current, volts = (battery_a, "A_SF"), (battery_v, "V_SF")
    compare(profile, got, {(802, "A"): current, (803, "string[1].StrA"): current, (804, "A"): current})
    compare(profile, got, {(802, "V"): volts, (803, "StrVAvg"): volts, (804, "V"): volts})
    compare(
        profile, got, {(714, "Prt[1].DCA"): (battery_a, "DCA_SF"), (714, "Prt[1].DCV"): (battery_v, "DCV_SF")}
    )
    compare(
        profile, got, {(714, "Prt[1].DCW"): (battery_w, "DCW_SF"), (124, "InBatV"): (battery_v, "InBatV_SF")}
    )


def check_meter(
    profile: DeviceProfile, got: Shown, world: dict[str, float], flow: tuple[float, float]
) -> None:
    import_w, import_var = flow
    apparent_va = math.hypot(import_w, import_var)
    model, volts = 203 if profile.face.phases == 3 else 201, world["voltage_pu"] * profile.face.voltage_v
    compare(
        profile,
        got,
        {
            (model, "W"): (import_w, "W_SF"),
            (model, "WphA"): (import_w / profile.face.phases, "W_SF"),
            (model, "VA"): (apparent_va, "VA_SF"),
            (model, "VAR"): (import_var, "VAR_SF"),
            (model, "PF"): (100.0 * import_w / apparent_va if apparent_va else 100.0, "PF_SF"),
            (model, "A"): (apparent_va / volts, "A_SF"),
            (model, "PhV"): (volts, "V_SF"),
            (model, "Hz"): (world["frequency_hz"], "Hz_SF"),
        },
    )
    for point, name in (("TotWhImp", "import_j"), ("TotWhExp", "export_j")):
        if round(world[name] / 3600) > 0:
            assert near(got[model, point], world[name] / 3600, 1.0)


def compare(profile: DeviceProfile, got: Shown, expected: dict[tuple[int, str], tuple[float, str]]) -> None:
    served = {model for model, _ in got}
    for (model, point), (true, scale) in expected.items():
        if model in served:
            step = 10.0 ** (got[model, scale] or 0)
            assert near(got[model, point], true, step), (
                profile.profile,
                model,
                point,
                got[model, point],
                true,
            )


@pytest.mark.parametrize("name", NAMES)
def test_constants_are_the_profiles(name: str) -> None:
    profile = PROFILES[name]
    got = decode(units(plant_of(profile))[0])
    inverter, battery = profile.inverter, profile.battery
    expected = {
        (120, "WRtg"): inverter.power_w_discharge_max,
        (120, "MaxChaRte"): inverter.power_w_charge_max,
        (120, "MaxDisChaRte"): inverter.power_w_discharge_max,
        (120, "WHRtg"): battery.energy_wh,
        (121, "WMax"): inverter.power_w_discharge_max,
        (121, "VRef"): profile.face.voltage_v,
        (124, "WChaMax"): inverter.power_w_charge_max,
        (702, "WMaxRtg"): inverter.power_w_discharge_max,
        (702, "WMax"): inverter.power_w_discharge_max,
        (702, "WChaRteMaxRtg"): inverter.power_w_charge_max,
        (702, "WChaRteMax"): inverter.power_w_charge_max,
        (702, "WDisChaRteMax"): inverter.power_w_discharge_max,
        (702, "VarMaxInj"): round(0.44 * max(inverter.power_w_discharge_max, inverter.power_w_charge_max)),
        (702, "NorOpCatRtg"): 1,
        (702, "AbnOpCatRtg"): 2,
        (703, "ESVHi"): 105.0,
        (703, "ESVLo"): 91.7,
        (703, "ESHzHi"): 60.1,
        (703, "ESHzLo"): 59.5,
        (703, "ESDlyTms"): inverter.enter_delay_s,
        (703, "ESRmpTms"): inverter.enter_ramp_s,
        (713, "WHRtg"): battery.energy_wh,
        (802, "WHRtg"): battery.energy_wh,
        (715, "LocRemCtl"): 0,
        (802, "SoCMin"): 100 * battery.soc_frac_min,
        (124, "ChaGriSet"): 1,
    }
    checked = 0
    for point, value in expected.items():
        if point[0] in profile.face.models:
            assert got[point] == pytest.approx(value, abs=1e-6), point
            checked += 1
    assert checked >= 8
    assert (got[1, "Mn"], got[1, "Md"]) == ("Ridethrough", profile.face.model)


STATES = {
    #           St InvSt ConnSt Alrm DERMode old ECPConn StorConn 802.State live
    "on_grid": (1, 3, 1, 0, 1, 4, 1, 7, 3, True),
    "enter": (0, 2, 0, 0, 0, 3, 0, 3, 4, True),
    "transfer": (0, 2, 0, 16, 0, 3, 0, 3, 4, False),
    "island": (1, 3, 0, 16, 2, 4, 0, 7, 3, True),
    "overload": (0, 6, 0, 16, 0, 7, 0, 0, 4, False),
    "empty": (0, 7, 0, 16, 0, 8, 0, 0, 5, False),
    "rejoin": (0, 2, 0, 16, 0, 3, 0, 3, 4, False),
    "member": (1, 3, 0, 16, 2, 4, 0, 7, 3, True),
}


@pytest.mark.parametrize("status", STATUS)
def test_operating_states(status: str) -> None:
    plant = plant_of(HOME)
    out = status not in ("on_grid", "enter")
    *codes, live = STATES[status]
    put(plant, status=float(STATUS.index(status)), power_w=0.0, battery_w=0.0, bus_pu=float(live))
    put(plant, voltage_pu=0.0 if out else 1.0, grid_good=0.0 if out else 1.0)
    got = decode(units(plant)[0])
    der = [got[701, point] for point in ("St", "InvSt", "ConnSt", "Alrm", "DERMode")]
    old = [got[101, "St"], got[122, "ECPConn"], got[122, "StorConn"], got[802, "State"]]
    assert der + old == codes
    assert got[101, "Evt1"] == got[701, "Alrm"]
    assert got[701, "LNV"] == got[101, "PhVphA"] == (240.0 if live else 0.0)
    assert got[701, "Hz"] == got[101, "Hz"] == (60.0 if live else None)
    assert got[713, "Sta"] == (1 if status == "empty" else 0)
    assert got[802, "Evt1"] == (1 << 13 if status == "empty" else 0)


@pytest.mark.parametrize(
    ("soc", "battery_w", "shown"),
    [(0.5, 15.0, 6), (0.05, 0.0, 2), (1.0, 15.0, 5), (0.05, -500.0, 4), (1.0, 500.0, 3), (0.5, 17.0, 3)],
)
def test_charge_status_leaves_the_devices_own_consumption_out(
    soc: float, battery_w: float, shown: int
) -> None:
    """EMPTY 2, DISCHARGING 3, CHARGING 4, FULL 5, HOLDING 6; standby is 15 W."""
    plant = plant_of(HOME, soc=soc)
    put(plant, battery_w=battery_w, standby_w_dc=15.0 if battery_w > 0 else 0.0)
    got = decode(units(plant)[0])
    assert got[124, "ChaSt"] == got[802, "ChaSt"] == shown


@pytest.mark.parametrize(
    ("available_w", "pv_w", "shown"), [(0.0, 0.0, 0), (700.0, 0.0, 2), (700.0, 600.0, 7)]
)
def test_pv_connection(available_w: float, pv_w: float, shown: int) -> None:
    plant = plant_of(HOME)
    put(plant, pv_w_available=available_w, pv_w=pv_w)
    assert decode(units(plant)[0])[122, "PVConn"] == shown


def test_permit_service_off_shows() -> None:
    plant = plant_of(HOME)
    put(plant, permit=0.0, status=float(STATUS.index("enter")))
    got = decode(units(plant)[0])
    assert (got[703, "ES"], got[123, "Conn"], got[715, "OpCtl"]) == (0, 0, 0)
    assert (got[701, "InvSt"], got[701, "Alrm"], got[703, "ESDlyRemTms"]) == (0, 64, 300)


def test_an_empty_device_woken_by_pv_has_a_live_bus() -> None:
    plant = plant_of(HOME)
    put(
        plant,
        status=float(STATUS.index("empty")),
        power_w=-800.0,
        battery_w=-700.0,
        pv_w=800.0,
        voltage_pu=0.0,
        bus_pu=0.0,
    )
    got = decode(units(plant)[0])
    assert (got[701, "LNV"], got[701, "Hz"], got[701, "W"], got[122, "PVConn"]) == (240.0, 60.0, -800, 7)
    assert got[701, "A"] == pytest.approx(800 / 240, abs=0.01)


def test_the_meter_sees_the_grid_not_the_island() -> None:
    plant = plant_of(HOME)
    put(
        plant,
        status=float(STATUS.index("island")),
        power_w=1500.0,
        import_w=0.0,
        voltage_pu=0.0,
        grid_good=0.0,
    )
    inverter, meter = units(plant)
    got, dark = decode(inverter), decode(meter)
    assert (got[701, "LNV"], got[701, "W"]) == (240.0, 1500)
    assert (dark[201, "PhV"], dark[201, "Hz"], dark[201, "W"], dark[201, "Evt"]) == (0.0, None, 0, 4)
    put(plant, voltage_pu=0.97, grid_good=1.0, frequency_hz=59.98)
    lit = decode(meter)
    assert (lit[201, "PhV"], lit[201, "Hz"], lit[201, "Evt"]) == (232.8, 59.98, 0)


def test_what_cannot_be_known_reads_as_not_implemented() -> None:
    plant = plant_of(HOME)
    put(plant, power_w=math.nan, voltage_pu=0.0, battery_w=1e9)
    got = decode(units(plant)[0])
    assert [got[701, p] for p in ("W", "VA", "A", "Hz")] == [None] * 4
    assert got[802, "W"] is None
    assert got[101, "DCW"] is None
    put(plant, power_w=40_000.0, voltage_pu=1.0)
    assert decode(units(plant)[0])[701, "W"] is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_sign_of_a_discharging_and_of_a_charging_frame(name: str, direction: float) -> None:
    """Discharge and generation are positive; the meter counts import positive."""
    profile = PROFILES[name]
    plant = Plant([profile], soc_frac=0.5)
    target_w = direction * profile.inverter.power_w_charge_max / 2
    load_w = 800.0
    plant.set_input("load_w", load_w)
    for field, value in (("set_ena", 1.0), ("set_w", target_w)):
        plant.set_control(field, value)
    plant.advance(50 * 360)
    inverter, meter = (decode(unit) for unit in units_of(plant, 0).values())
    ac, measured = (103, 203) if profile.face.phases == 3 else (101, 201)
    step = 10.0 ** inverter[ac, "W_SF"]
    assert near(inverter[ac, "W"], target_w, step)
    assert near(meter[measured, "W"], load_w - target_w, 10.0 ** meter[measured, "W_SF"])
    assert np.sign(inverter[ac, "DCW"]) == direction
    assert np.sign(inverter[ac, "PF"]) == direction
    assert inverter[124, "ChaSt"] == (3 if direction > 0 else 4)
    if 701 in profile.face.models:
        assert (
            np.sign(inverter[701, "W"])
            == np.sign(inverter[802, "W"])
            == np.sign(inverter[802, "A"])
            == direction
        )
        injected, absorbed = inverter[701, "TotWhInj"], inverter[701, "TotWhAbs"]
        assert (injected > 0, absorbed > 0) == (direction > 0, direction < 0)
        assert near(abs(injected - absorbed), abs(target_w) / 10, abs(target_w) / 500)


def test_accumulators_and_heartbeat_never_fall() -> None:
    plant = Plant([HOME], soc_frac=0.5)
    inverter = units_of(plant, 0)[1]
    before = decode(inverter)
    for _ in range(20):
        plant.set_control(
            "set_w", -3000.0 if plant.state[0, STATE.index("elapsed_ticks"), 0] % 100 else 3000.0
        )
        plant.set_control("set_ena", 1.0)
        plant.advance(70)
        after = decode(inverter)
        for point in ((701, "TotWhInj"), (701, "TotWhAbs"), (715, "DERHb")):
            assert after[point] >= before[point]
        before = after
    assert before[715, "DERHb"] == 20 * 70 // 50
    assert before[802, "Hb"] == before[715, "DERHb"]


def test_battery_heartbeat_skips_the_not_implemented_value() -> None:
    plant = plant_of(HOME)
    for second, shown in ((65534, 65534), (65535, 0), (65536, 1)):
        put(plant, elapsed_ticks=50.0 * second)
        got = decode(units(plant)[0])
        assert (got[802, "Hb"], got[715, "DERHb"]) == (shown, second)


def test_enter_service_delay_counts_down() -> None:
    plant = Plant([HOME], soc_frac=0.5)
    inverter = units_of(plant, 0)[1]
    assert decode(inverter)[703, "ESDlyRemTms"] == 0
    plant.set_input("grid_good", 0.0)
    plant.advance(50 * 10)
    assert decode(inverter)[701, "DERMode"] == 2
    assert decode(inverter)[703, "ESDlyRemTms"] == 300
    plant.set_input("grid_good", 1.0)
    left = []
    for _ in range(3):
        plant.advance(50 * 100)
        left.append(decode(inverter)[703, "ESDlyRemTms"])
    assert left == [200, 100, 0]
    plant.advance(50)
    assert decode(inverter)[701, "ConnSt"] == 1


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_one_read_is_one_snapshot_of_the_newest_state(data: st.DataObject) -> None:
    """Any split of the map into reads gives the bytes of the whole, and neighbours stem from one instant."""
    plant = plant_of(HOME)
    inverter = units(plant)[0]
    first = dump(inverter)
    put(plant, discharge_j=3600.0 * data.draw(st.integers(0, 2**50)), elapsed_ticks=1e7)
    whole = dump(inverter)
    assert whole != first
    start = data.draw(st.integers(0, inverter.count - 1))
    count = data.draw(st.integers(1, inverter.count - start))
    assert inverter.read(inverter.base_address + start, count) == whole[2 * start : 2 * (start + count)]


@pytest.mark.parametrize("base", [0, 40000, 50000])
def test_reads_outside_the_map_are_illegal_addresses(base: int) -> None:
    plant = Plant([with_face(HOME, base_address=base)])
    for unit in units_of(plant, 0).values():
        end = base + unit.count
        for address, count in ((base - 1, 1), (base - 1, 5), (end, 1), (end - 1, 2), (base, unit.count + 1)):
            assert unit.read(address, count) == 2
        assert unit.read(base, 0) == 2
        assert unit.read(base, 2) == b"SunS"
        assert unit.read(end - 2, 2) == b"\xff\xff\0\0"


def test_serial_numbers_differ() -> None:
    plant = Plant([HOME] * 3)
    serials = [decode(unit)[1, "SN"] for d in range(3) for unit in units_of(plant, d).values()]
    assert serials == ["D000000", "M000000", "D000001", "M000001", "D000002", "M000002"]


def test_what_is_the_same_for_all_devices_of_a_profile_is_worked_out_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand devices share tables, first bytes and factory settings, whatever their number."""
    plant = Plant([HOME] * 3)
    first = units_of(plant, 0)

    def again(*_: object) -> None:
        raise AssertionError("worked out again")

    monkeypatch.setattr("ridethrough.emulator.image_grid.settings_points", again)
    monkeypatch.setattr("ridethrough.emulator.image_grid.default_settings", again)
    monkeypatch.setattr("ridethrough.emulator.layout._Compiler", again)
    second = units_of(plant, 2)
    assert [second[key].layout for key in second] == [first[key].layout for key in first]
    assert decode(second[1])[1, "SN"] == "D000002"


def test_unit_ids_stay_in_the_range_of_modbus() -> None:
    plant = Plant([HOME])
    assert list(units_of(plant, 0)) == [1, 101]
    assert list(units_of(plant, 0, unit_id=147)) == [147, 247]
    for unit_id in (0, 148):
        with pytest.raises(ScenarioError, match="allowed 1 to 247"):
            units_of(plant, 0, unit_id=unit_id)
