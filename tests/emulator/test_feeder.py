"""Feeders: the linear solution against an AC power flow, its properties, its oracle, and what a file may say.

The witness is a backward-forward sweep in complex numbers, written here from the feeder's file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from ridethrough.emulator._network import Network
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.exact import lag_gain
from ridethrough.emulator.feeder import (
    BUSBAR,
    HEAT_S,
    Feeder,
    FeederSolver,
    PlainNetwork,
    Table,
    limit_excess_w,
    loop_gain,
    single_bus,
    stable,
)
from ridethrough.emulator.fields import LANES, TICKS_PER_S
from ridethrough.hil.files import load_yaml

Floats = NDArray[np.float64]
ROOT = Path(__file__).resolve().parent.parent.parent
BUNDLED = {file.stem: file for file in sorted((ROOT / "fixtures" / "feeders").glob("*.yaml"))}


def bundled(name: str) -> Feeder:
    return load_yaml(BUNDLED[name], Feeder)


def ac_voltages(feeder: Feeder, power_va: NDArray[np.complex128], slack_pu: float) -> Floats:
    """Voltage at each home by AC power flow; `power_va` is taken from the feeder."""
    base_va = feeder.transformer.rating_va
    base_ohm = feeder.voltage_v**2 / base_va
    size, ratio = feeder.transformer.impedance_frac, feeder.transformer.x_per_r
    feeds = {BUSBAR: ("source", size * complex(1, ratio) / abs(complex(1, ratio)))}
    for branch in feeder.branches:
        cable = feeder.cables[branch.cable]
        ohm = complex(cable.r_ohm_per_km, cable.x_ohm_per_km) * branch.length_m / 1000
        feeds[branch.to_bus] = (branch.from_bus, ohm / base_ohm)
    taken = dict.fromkeys(feeds, 0j)
    for bus, value in zip(feeder.homes, power_va, strict=True):
        taken[bus] += value / base_va
    voltage = {"source": complex(slack_pu)} | dict.fromkeys(feeds, complex(slack_pu))
    for _ in range(100):
        current = dict.fromkeys(feeds, 0j)
        for bus, load in taken.items():
            into = (load / voltage[bus]).conjugate()
            while bus != "source":
                current[bus] += into
                bus = feeds[bus][0]
        before = dict(voltage)
        for bus in feeds:
            path, at = [], bus
            while at != "source":
                path.append(at)
                at = feeds[at][0]
            voltage[bus] = voltage["source"] - sum(feeds[k][1] * current[k] for k in path)
        if max(abs(voltage[bus] - before[bus]) for bus in feeds) < 1e-12:
            return np.array([abs(voltage[bus]) for bus in feeder.homes])
    raise AssertionError("the sweep did not settle")


@st.composite
def trees(draw: st.DrawFn) -> Feeder:
    """Feeders of any shape: buses in any order of the file, several homes on one bus."""
    buses = [BUSBAR] + [f"bus-{k}" for k in range(draw(st.integers(0, 12)))]
    branches = [
        {
            "from_bus": buses[draw(st.integers(0, k - 1))],
            "to_bus": buses[k],
            "cable": draw(st.sampled_from(["thick", "thin"])),
            "length_m": draw(st.floats(1, 200)),
        }
        for k in range(1, len(buses))
    ]
    data = {
        "feeder": "drawn",
        "description": "drawn",
        "source": "drawn",
        "phases": draw(st.sampled_from([1, 3])),
        "voltage_v": draw(st.sampled_from([240.0, 400.0])),
        "slack_pu": 1.0,
        "transformer": {
            "rating_va": draw(st.floats(50e3, 630e3)),
            "impedance_frac": draw(st.floats(0.01, 0.06)),
            "x_per_r": draw(st.floats(0.5, 10)),
        },
        "cables": {
            "thick": {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.08, "ampacity_a": 270.0},
            "thin": {"r_ohm_per_km": 0.6, "x_ohm_per_km": 0.0, "ampacity_a": 142.0},
        },
        "branches": draw(st.permutations(branches)),
        "homes": draw(st.lists(st.sampled_from(buses), min_size=1, max_size=20)),
    }
    return Feeder.model_validate(data)


def flows(n: int, size_w: float = 3000.0) -> st.SearchStrategy[Floats]:
    one = st.floats(-size_w, size_w)
    return st.lists(one, min_size=n, max_size=n).map(np.array)


def squares(feeder: Feeder, w: Floats, var: Floats, slack_pu: float = 1.0) -> Floats:
    return FeederSolver(feeder).solve(w, var, slack_pu) ** 2


def no_flow(feeder: Feeder) -> Floats:
    return np.zeros(len(feeder.homes))


# Against an AC power flow, and the figures of the reference.


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize(("power_w", "var_per_w"), [(-8000.0, 0.0), (-4000.0, 0.3), (3000.0, 0.3)])
def test_voltages_are_those_of_an_ac_power_flow(name: str, power_w: float, var_per_w: float) -> None:
    feeder = bundled(name)
    import_w = np.full(len(feeder.homes), power_w)
    import_var = np.abs(import_w) * var_per_w
    linear = FeederSolver(feeder).solve(import_w, import_var)
    witness = ac_voltages(feeder, import_w + 1j * import_var, feeder.slack_pu)
    assert np.abs(linear - witness).max() < 1e-3


def test_a_wrong_sign_of_reactance_would_be_seen() -> None:
    feeder = bundled("semiurban-41")
    import_w = np.full(41, -8000.0)
    witness = ac_voltages(feeder, import_w + 0.3j * import_w, feeder.slack_pu)
    assert np.abs(FeederSolver(feeder).solve(import_w, -0.3 * import_w) - witness).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "highest_pu", "load_frac"),
    [("rural-13", (1.04, 1.06), 0.645), ("semiurban-41", (1.05, 1.06), 0.78)],
)
def test_export_of_8_kw_from_every_home(name: str, highest_pu: tuple[float, float], load_frac: float) -> None:
    # inverter.md, 6: semiurb4 1.057 pu and 78 %, rural1 63 to 66 %; currents, so S over V at the busbar.
    feeder = bundled(name)
    solver = FeederSolver(feeder)
    import_w = np.full(solver.n, -8000.0)
    assert highest_pu[0] < solver.solve(import_w, no_flow(feeder)).max() < highest_pu[1]
    at_busbar = feeder.model_copy(update={"homes": (BUSBAR,) * solver.n})
    busbar_pu = FeederSolver(at_busbar).solve(import_w, no_flow(feeder))[0]
    assert solver.transformer_frac / busbar_pu == pytest.approx(load_frac, abs=0.03)
    assert solver.transformer_va == solver.n * 8000.0
    assert 0.1 < solver.branch_frac_max < 1.0


def test_the_source_of_every_bundled_feeder_is_named() -> None:
    assert sorted(BUNDLED) == ["rural-13", "semiurban-41", "us-split-8"]
    for name, file in BUNDLED.items():
        text = file.read_text(encoding="utf-8")
        assert bundled(name).feeder == name
        assert "assumed" in text
        assert "no record of that database" in text or "SimBench" not in text
    assert [len(bundled(name).homes) for name in sorted(BUNDLED)] == [13, 41, 8]


def test_centre_tapped_impedance_follows_from_the_three_windings() -> None:
    r, x = 0.6 + 1.2 / 4 * 2, (2.04 + 2.04 - 1.36) / 2 + 2 * (1.36 / 2) / 4
    found = bundled("us-split-8").transformer
    assert found.impedance_frac * 100 == pytest.approx((r * r + x * x) ** 0.5, abs=0.01)
    assert found.x_per_r == pytest.approx(x / r, abs=0.001)


# Properties.


@given(data=st.data(), feeder=trees())
@settings(deadline=None, max_examples=60)
def test_squares_of_voltages_superpose(data: st.DataObject, feeder: Feeder) -> None:
    n = len(feeder.homes)
    a_w, b_w, a_var, b_var = (data.draw(flows(n, 1000.0)) for _ in range(4))
    both = squares(feeder, a_w + b_w, a_var + b_var) - 1.0
    parts = (squares(feeder, a_w, a_var) - 1.0) + (squares(feeder, b_w, b_var) - 1.0)
    assert np.abs(both - parts).max() < 1e-12


@given(data=st.data(), feeder=trees(), extra_w=st.floats(10.0, 5000.0))
@settings(deadline=None, max_examples=60)
def test_more_export_raises_every_voltage_on_its_way(
    data: st.DataObject, feeder: Feeder, extra_w: float
) -> None:
    n = len(feeder.homes)
    import_w, import_var = data.draw(flows(n)), data.draw(flows(n, 500.0))
    home = data.draw(st.integers(0, n - 1))
    before = FeederSolver(feeder).solve(import_w, import_var, 1.2)
    more = import_w.copy()
    more[home] -= extra_w
    after = FeederSolver(feeder).solve(more, import_var, 1.2)
    assert after[home] > before[home]
    assert (after >= before).all()


@given(feeder=trees(), slack_pu=st.floats(0.0, 1.5))
def test_without_flow_every_home_has_the_source_voltage(feeder: Feeder, slack_pu: float) -> None:
    solver = FeederSolver(feeder)
    voltage_pu = solver.solve(no_flow(feeder), no_flow(feeder), slack_pu)
    assert (voltage_pu == (slack_pu * slack_pu) ** 0.5).all()
    assert solver.transformer_va == solver.branch_frac_max == 0.0


@pytest.mark.parametrize("name", BUNDLED)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_the_order_of_the_homes_does_not_matter(name: str, data: st.DataObject) -> None:
    feeder = bundled(name)
    n = len(feeder.homes)
    order = np.array(data.draw(st.permutations(range(n))))
    import_w, import_var = data.draw(flows(n)), data.draw(flows(n))
    other = feeder.model_copy(update={"homes": tuple(feeder.homes[k] for k in order)})
    a, b = FeederSolver(feeder), FeederSolver(other)
    straight = a.solve(import_w, import_var)
    assert np.array_equal(straight[order], b.solve(import_w[order], import_var[order]))
    assert a.transformer_va == b.transformer_va


@given(data=st.data(), feeder=trees(), slack_pu=st.floats(0.0, 1.2))
@settings(deadline=None)
def test_compiled_core_equals_its_oracle_bit_for_bit(
    data: st.DataObject, feeder: Feeder, slack_pu: float
) -> None:
    n = len(feeder.homes)
    compiled, plain = FeederSolver(feeder), FeederSolver(feeder, core=PlainNetwork)
    tiles = -(-n // LANES)
    state, inputs = np.zeros((tiles, 3, LANES)), [np.zeros((tiles, 2, LANES)) for _ in range(2)]
    for solver, target in zip((compiled, plain), inputs, strict=True):
        solver.attach(state, target, 2, 0, 1)
    for size_w in (3000.0, 300_000.0):  # the second collapses many a feeder
        import_w, import_var = data.draw(flows(n, size_w)), data.draw(flows(n, size_w))
        found = compiled.solve(import_w, import_var, slack_pu)
        assert found.tobytes() == plain.solve(import_w, import_var, slack_pu).tobytes()
        for field, values in ((2, import_w), (0, import_var)):
            padded = np.zeros(tiles * LANES)
            padded[:n] = values
            state[:, field, :] = padded.reshape(-1, LANES)
        ticks = data.draw(st.sampled_from([1, 50]))
        for solver in (compiled, plain):
            solver.step(slack_pu, ticks)
            solver.age(7)
        assert inputs[0].tobytes() == inputs[1].tobytes()
        assert inputs[0][:, 1, :].ravel()[:n].tobytes() == found.tobytes()
        assert not inputs[0][:, 0, :].any()
        for name in ("transformer_va", "transformer_frac", "branch_frac_max", "heat_frac", "overload_s"):
            assert getattr(compiled, name) == getattr(plain, name), name


def test_a_collapsed_feeder_has_no_voltage_and_no_nan() -> None:
    feeder = bundled("rural-13")
    solver = FeederSolver(feeder)
    voltage_pu = solver.solve(np.full(13, 1e6), no_flow(feeder))
    assert (voltage_pu == 0.0).any()
    assert np.isfinite(voltage_pu).all()
    assert np.isfinite(solver.branch_frac_max)


# Loads.


def test_branch_load_is_the_current_over_the_ampacity() -> None:
    # One home behind 100 m of cable, 400 V: 50 kW at 0.99 pu or so is 72.9 A of 142 A.
    feeder = bundled("rural-13")
    import_w = no_flow(feeder)
    import_w[0] = 50_000.0
    solver = FeederSolver(feeder)
    voltage_pu = solver.solve(import_w, no_flow(feeder))[0]
    assert solver.branch_frac_max == pytest.approx(50_000 / (3**0.5 * 400 * voltage_pu) / 142, rel=1e-9)
    single = bundled("us-split-8")
    import_w = np.zeros(8)
    import_w[3] = 12_000.0
    solver = FeederSolver(single)
    voltage_pu = solver.solve(import_w, np.zeros(8))[3]
    assert solver.branch_frac_max == pytest.approx(12_000 / (240 * voltage_pu) / 180, rel=1e-9)


@pytest.mark.parametrize("core", [Network, PlainNetwork])
def test_heat_follows_the_square_of_the_load_and_overload_time_is_counted(core: Any) -> None:
    solver = FeederSolver(single_bus(100e3, 1), core=core)
    solver.solve(np.array([120e3]), np.array([50e3]))
    assert solver.transformer_frac == pytest.approx(1.3)
    for _ in range(int(HEAT_S)):
        solver.age(TICKS_PER_S)
    assert solver.heat_frac == pytest.approx(1.69 * (1 - np.exp(-1)), rel=1e-9)
    assert solver.overload_s == HEAT_S
    solver.solve(np.array([100e3]), np.array([0.0]))
    for _ in range(int(20 * HEAT_S)):
        solver.age(TICKS_PER_S)
    assert solver.heat_frac == pytest.approx(1.0, abs=1e-8)
    assert solver.overload_s == HEAT_S  # full load is no overload


def test_heat_does_not_depend_on_the_step() -> None:
    coarse, fine = (FeederSolver(single_bus(100e3, 1)) for _ in range(2))
    for solver, ticks in ((coarse, 50), (fine, 1)):
        solver.solve(np.array([80e3]), np.array([0.0]))
        for _ in range(3000 // ticks):
            solver.age(ticks)
    assert fine.heat_frac == pytest.approx(coarse.heat_frac, rel=1e-12)


@given(
    import_w=st.lists(st.floats(-2e4, 2e4), min_size=1, max_size=5),
    import_w_max=st.floats(0, 1e4),
    export_w_max=st.one_of(st.floats(0, 1e4), st.just(np.inf)),
)
def test_connection_agreements(import_w: list[float], import_w_max: float, export_w_max: float) -> None:
    power_w = np.array(import_w)
    limits = np.full(len(power_w), import_w_max), np.full(len(power_w), export_w_max)
    for value, excess in zip(power_w, limit_excess_w(power_w, *limits), strict=True):
        if excess > 0:
            assert value > import_w_max
            assert excess == value - import_w_max
        elif excess < 0:
            assert -value > export_w_max
            assert excess == value + export_w_max
        else:
            assert -export_w_max <= value <= import_w_max


# Loop gain.


def test_loop_gain_of_the_reference() -> None:
    # inverter.md, 5.3: slope 0.44 / 0.02 = 22, 41 x 10 kVA on 400 kVA with 4 % X: g = 0.9.
    feeder = single_bus(400e3, 41)
    pure = feeder.transformer.model_copy(update={"impedance_frac": 0.04, "x_per_r": 50.0})
    gain = loop_gain(feeder.model_copy(update={"transformer": pure}), np.full(41, 22 * 10e3))
    assert gain == pytest.approx(0.9, abs=0.005)


@pytest.mark.parametrize(("response_s", "dt_s", "limit"), [(5.0, 1, 4.4), (1.0, 0.1, 8.7), (1.0, 1, 1.22)])
def test_stability_limit(response_s: float, dt_s: float, limit: float) -> None:
    assert stable(limit - 0.05, dt_s=dt_s, response_s=response_s)
    assert not stable(limit + 0.05, dt_s=dt_s, response_s=response_s)


@given(feeder=trees(), slope=st.floats(0, 22), slope_w=st.floats(0, 20))
@settings(deadline=None, max_examples=50)
def test_loop_gain_bounds_the_spectral_radius(feeder: Feeder, slope: float, slope_w: float) -> None:
    n = len(feeder.homes)
    slopes = [slope * 5e3] * n, [slope_w * 5e3] * n
    matrix = np.zeros((n, n))
    for k in range(n):
        unit = no_flow(feeder)
        unit[k] = -1.0
        per_var = squares(feeder, no_flow(feeder), unit, 0.0) / 2
        per_w = squares(feeder, unit, no_flow(feeder), 0.0) / 2
        matrix[:, k] = per_var * slopes[0][k] + per_w * slopes[1][k]
    gain = loop_gain(feeder, *slopes)
    assert gain >= np.abs(np.linalg.eigvals(matrix)).max() - 1e-9
    assert gain == pytest.approx(matrix.sum(axis=1).max(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("share", "settles"), [(0.95, True), (1.05, False)])
def test_loop_gain_says_when_the_lagged_loop_oscillates(share: float, settles: bool) -> None:
    feeder = single_bus(100e3, 4)
    a = lag_gain(1.0, 5.0)
    unit_gain = loop_gain(feeder, np.full(4, 1.0))
    slope = share * (2.0 / a - 1.0) / unit_gain
    assert stable(loop_gain(feeder, np.full(4, slope)), dt_s=1.0, response_s=5.0) is settles
    solver = FeederSolver(feeder)
    injected_var = np.full(4, 100.0)
    voltage_pu = np.ones(4)
    for _ in range(200):
        injected_var += a * (-slope * (voltage_pu - 1.0) - injected_var)
        voltage_pu = solver.solve(np.zeros(4), -injected_var)
    assert bool(abs(injected_var[0]) < 1.0) is settles


def test_loop_gain_refuses_a_rising_curve() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        loop_gain(single_bus(100e3, 2), [-1.0, 1.0])


# What a file may say.

HEAD = """\
feeder: mine
description: d
source: s
phases: 3
voltage_v: 400
slack_pu: 1.0
transformer: {rating_va: 100000, impedance_frac: 0.04, x_per_r: 3}
cables:
  main: {r_ohm_per_km: 0.2, x_ohm_per_km: 0.08, ampacity_a: 270}
"""


def branch(source: str, target: str, cable: str = "main") -> str:
    return f"  - {{from_bus: {source}, to_bus: {target}, cable: {cable}, length_m: 10}}\n"


@pytest.mark.parametrize(
    ("branches", "homes", "wanted"),
    [
        (branch("busbar", "a") + branch("b", "c") + branch("c", "b"), "[a]", ["cycle", "branches[1]"]),
        (branch("busbar", "a") + branch("lost", "c") + branch("c", "d"), "[a]", ["orphan", "'lost'", "[1]"]),
        (branch("busbar", "a") + branch("a", "a"), "[a]", ["branches[1]", "'a' again", "tree"]),
        (branch("busbar", "a") + branch("a", "busbar"), "[a]", ["'busbar' again"]),
        (branch("busbar", "a", "thin"), "[a]", ["cable 'thin'", "branches[0]", "allowed main"]),
        (branch("busbar", "a"), "[a, x]", ["bus 'x'", "homes[1]"]),
        (branch("busbar", "a"), "[]", ["homes", "at least one"]),
        (branch("busbar", "A!"), "[a]", ["branches[0].to_bus", "'A!'"]),
    ],
)
def test_a_file_that_is_no_tree_is_refused(
    tmp_path: Path, branches: str, homes: str, wanted: list[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"{HEAD}branches:\n{branches}homes: {homes}\n", encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        load_yaml(file, Feeder)
    for part in ["mine.yaml", *wanted]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("r_ohm_per_km: 0.2", "r_ohm_per_km: -0.2", "cables.main.r_ohm_per_km"),
        ("rating_va: 100000", "rating_va: 0", "transformer.rating_va"),
        ("x_per_r: 3", "x_per_r: .nan", "transformer.x_per_r"),
        ("ampacity_a: 270", "ampacity: 270", "cables.main.ampacity"),
        ("phases: 3", "phases: 2", "phases"),
        ("voltage_v: 400", "voltage_v: '400'", "voltage_v"),
    ],
)
def test_a_wrong_number_is_refused_at_its_place(tmp_path: Path, old: str, new: str, place: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(HEAD.replace(old, new) + "homes: [busbar]\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match=place.replace(".", r"\.")):
        load_yaml(file, Feeder)


def test_branches_may_stand_in_any_order() -> None:
    feeder = bundled("rural-13")
    turned = Feeder.model_validate(feeder.model_dump() | {"branches": feeder.branches[::-1]})
    import_w = np.linspace(-5000, 5000, 13)
    a, b = (FeederSolver(f).solve(import_w, no_flow(feeder)) for f in (feeder, turned))
    assert np.abs(a - b).max() < 1e-14


def test_single_bus_needs_a_home() -> None:
    with pytest.raises(ValidationError):
        single_bus(1e5, 0)


# Wrong arrays.


@pytest.mark.parametrize("core", [Network, PlainNetwork])
def test_step_needs_arrays(core: Any) -> None:
    solver = FeederSolver(single_bus(1e5, 2), core=core)
    with pytest.raises(ValueError, match="attach"):
        solver.step(1.0, 50)


def test_arrays_of_other_sizes_are_refused() -> None:
    solver = FeederSolver(single_bus(1e5, 9))
    with pytest.raises(ValueError, match="9 values"):
        solver.solve(np.zeros(8), np.zeros(9))
    with pytest.raises(ValueError, match="room for 9"):
        solver.attach(np.zeros((1, 3, LANES)), np.zeros((1, 3, LANES)), 0, 1, 2)
    with pytest.raises(ValueError, match="3 fields of state"):
        solver.attach(np.zeros((2, 3, LANES)), np.zeros((2, 3, LANES)), 0, 3, 2)
    with pytest.raises(ValueError, match="shape"):
        solver.attach(np.zeros((2, 3, LANES + 1)), np.zeros((2, 3, LANES)), 0, 1, 2)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"parent": [0, 0, 2]}, "bus 2 has parent 2"), ({"home_bus": [3]}, "home 0 is at bus 3")],
)
def test_the_core_refuses_a_table_it_could_not_follow(change: dict[str, list[int]], text: str) -> None:
    table = Table.of(
        Feeder.model_validate(
            bundled("us-split-8").model_dump()
            | {"branches": [bundled("us-split-8").branches[0].model_dump()], "homes": ["east-1"]}
        )
    )
    for name, values in change.items():
        object.__setattr__(table, name, np.array(values, dtype=np.int32))
    with pytest.raises(ValueError, match=text):
        Network(table)
