"""The tracer and the writer of C++: what is recorded, what is worked out, what is refused, what is caught.

`run` below does what a graph says in NumPy, node by node: a second reading of the graph that knows nothing of
the C++.  The compiled text itself is compared with the model on zeros of both signs, infinities and NaN.
"""

from __future__ import annotations

import ctypes
import platform
import runpy
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator import _kernel, emit, fields
from ridethrough.emulator.model import ops
from ridethrough.emulator.model import step as model
from ridethrough.emulator.model.ops import assume, flag, least, most, size
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.trace import Graph, TraceError, trace

from tests.strategies import home, randomize

Floats = NDArray[np.float64]
Groups = dict[str, dict[str, Floats]]
ROOT = Path(__file__).resolve().parents[2]
TOY = {"param": ("a", "b"), "control": ("x", "y"), "input": ("u",), "state": ("s", "t", "ticks_used")}
FIELDS = {"param": fields.PARAM, "control": fields.CONTROL, "input": fields.INPUT, "state": fields.STATE}


def run(graph: Graph, columns: Groups, ticks: float) -> tuple[Groups, dict[int, Any]]:
    """Do what a graph says; returns the columns it leaves, and every node."""
    done: dict[int, Any] = {}
    for number, node in enumerate(graph.nodes):
        args = [done[a] for a in node.args]
        if node.op == "field":
            assert not isinstance(node.detail, bytes)
            done[number] = columns[node.detail[0]][node.detail[1]]
        elif node.op in ("constant", "ticks"):
            done[number] = ticks if node.op == "ticks" else node.constant
        elif node.op == "same_bits":
            done[number] = args[0].view(np.int64) == np.float64(args[1]).view(np.int64)
        else:
            function = np.where if node.op == "select" else getattr(np, node.op)
            with np.errstate(all="ignore"):
                done[number] = function(*args)
    left = {group: dict(values) for group, values in columns.items()}
    for (group, name), number in graph.stores.items():
        left[group][name] = np.broadcast_to(done[number], count(columns))
    return left, done


def count(columns: Groups) -> int:
    return len(next(iter(columns["state"].values())))


def direct(function: Callable[..., Any], columns: Groups, *options: Any) -> Groups:
    """Run a function of the model as it is."""
    spaces = {group: SimpleNamespace(**values) for group, values in columns.items()}
    with np.errstate(all="ignore"):
        function(*spaces.values(), *options)
    n = count(columns)
    return {g: {k: np.broadcast_to(v, n) for k, v in vars(space).items()} for g, space in spaces.items()}


def same(a: Groups, b: Groups) -> bool:
    """Whether two sets of columns agree in every bit, all NaN alike."""

    def digits(x: Floats) -> NDArray[np.int64]:
        return np.where(np.isnan(x), np.nan, x).astype(np.float64).view(np.int64)

    return all(np.array_equal(digits(a[g][k]), digits(b[g][k])) for g in a for k in a[g])


def toy_step(p: Any, c: Any, u: Any, s: Any, ticks: float, coarse: bool) -> None:
    share = u.u / p.a
    s.s = s.s + p.b * (share - s.s) if coarse else least(s.s, share)
    c.x = np.where((s.s > c.y) & ~(share < 0.0), most(c.x, -0.0), size(c.x))
    s.ticks_used = np.where(s.s == s.t, s.ticks_used + ticks, 0.0)
    s.t = np.sqrt(most(s.t, p.b)) * -c.x + flag(s.t <= 1.0)


def toy_columns(seed: int, n: int = 64) -> Groups:
    """Random values, among them zeros of both signs, infinities and NaN."""
    rng = np.random.default_rng(seed)
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 5e-324])

    def column() -> Floats:
        return np.where(rng.uniform(size=n) < 0.4, rng.choice(odd, n), rng.normal(0.0, 2.0, n))

    return {group: {name: column() for name in names} for group, names in TOY.items()}


def nodes(graph: Graph, op: str) -> list[int]:
    return [number for number, node in enumerate(graph.nodes) if node.op == op]


def traced(function: Callable[..., Any], **options: Any) -> Graph:
    return trace(function, TOY, **options)


# What is recorded.


@given(seed=st.integers(0, 10**6), coarse=st.booleans())
@settings(max_examples=50, deadline=None)
def test_graph_does_what_the_function_does(seed: int, coarse: bool) -> None:
    columns = toy_columns(seed)
    graph = trace(toy_step, TOY, "ticks", coarse)
    assert same(run(graph, columns, 50.0)[0], direct(toy_step, columns, 50.0, coarse))


@pytest.mark.parametrize("coarse", [True, False])
def test_graph_of_the_model_does_what_the_model_does(coarse: bool) -> None:
    columns = plant_columns(calm=False)
    graph = trace(model.step, FIELDS, "ticks", coarse)
    assert same(run(graph, columns, 50.0)[0], direct(model.step, columns, 50.0, coarse))


def plant_columns(*, calm: bool, n: int = 200) -> Groups:
    """Columns of homes that follow the grid, or of homes to which anything happens."""
    plant = Plant([home()] * n, soc_frac=np.linspace(0.3, 0.8, n))
    plant.set_input("load_w", np.linspace(0.0, 6000.0, n))
    for k in range(0 if calm else 6):
        randomize(plant, np.random.default_rng(k))
        plant.advance(333)
    groups = zip(FIELDS, ("params", "controls", "inputs", "states"), strict=True)
    return {group: {name: getattr(plant, read)(name) for name in FIELDS[group]} for group, read in groups}


def test_an_operation_done_twice_is_one_node() -> None:
    def step(p: Any, c: Any, u: Any, s: Any) -> None:
        s.s = (p.a + p.b) * (p.a + p.b)
        s.t = (p.a + p.b) / 2.0

    graph = traced(step)
    assert len(nodes(graph, "add")) == 1
    assert len(nodes(graph, "field")) == 4  # a and b, and the old s and t


def test_assignments_are_seen_by_later_reads_only() -> None:
    def step(p: Any, c: Any, u: Any, s: Any) -> None:
        before = s.s
        s.s = u.u
        s.t = s.s - before
        c.x = 1.0
        c.x = c.y

    columns = toy_columns(1)
    left = run(traced(step), columns, 1.0)[0]
    assert same(left, direct(step, columns))
    assert np.array_equal(left["control"]["x"], columns["control"]["y"], equal_nan=True)


def test_a_field_that_keeps_its_value_is_not_stored() -> None:
    def step(p: Any, c: Any, u: Any, s: Any) -> None:
        s.s = np.where(s.t == s.t, s.s, s.s)
        s.t = s.t + 0.0

    assert list(traced(step).stores) == [("state", "t")]


# What is worked out, and what must not be.


def test_what_is_known_is_worked_out() -> None:
    def step(p: Any, c: Any, u: Any, s: Any) -> None:
        known = u.u == 1.0
        s.s = np.where(known & (p.a < 1.0), np.where(~known, p.b, p.a), s.t)
        s.t = np.where(known | (p.a < 1.0), u.u / 4.0 + 1.0, p.b)

    graph = traced(step, facts={"input": {"u": 1.0}})
    select = graph.nodes[graph.stores["state", "s"]]
    assert select.op == "select"
    assert [graph.nodes[a].op for a in select.args] == ["less", "field", "field"]
    assert graph.known(graph.stores["state", "t"]) == 1.25


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 0.0,
        lambda x: x - 0.0,
        lambda x: x * 1.0,
        lambda x: x / 1.0,
        lambda x: x - x,
        lambda x: x * 0.0,
        lambda x: 0.0 - (0.0 - x),
        lambda x: np.where(x == x, x, 0.0),
        lambda x: np.where(~(x < 1.0), x, -x),
        lambda x: x / 3.0,
    ],
)
def test_no_algebra(change: Callable[[Any], Any]) -> None:
    def step(p: Any, c: Any, u: Any, s: Any) -> None:
        s.s = change(s.s)

    graph = traced(step)
    columns = toy_columns(2)
    assert len(graph.used([graph.stores["state", "s"]])) > 1
    assert same(run(graph, columns, 1.0)[0], direct(step, columns))


def test_order_of_operations_is_kept() -> None:
    def step(p: Any, c: Any, u: Any, s: Any) -> None:
        s.s = (p.a + p.b) + u.u
        s.t = p.a + (p.b + u.u)
        c.x = p.b + p.a

    assert len(nodes(traced(step), "add")) == 5


def test_constants_are_worked_out_only_to_finite_numbers() -> None:
    def step(p: Any, c: Any, u: Any, s: Any) -> None:
        s.s, s.t = c.x / 0.0, np.sqrt(c.x)

    graph = traced(step, facts={"control": {"x": -1.0}})
    assert [graph.nodes[n].op for n in graph.stores.values()] == ["divide", "sqrt"]


# Facts and assumptions.


def test_the_guard_says_when_the_short_step_is_right() -> None:
    def step(p: Any, c: Any, u: Any, s: Any, ticks: float) -> None:
        inside = assume((u.u > 0.0) & (u.u < p.a))
        s.s = np.where(inside & (c.y == 0.0), s.s + ticks, s.t * s.t)
        s.t = np.where(c.y == 0.0, c.y, s.t)

    graph = trace(
        step,
        TOY,
        "ticks",
        facts={"control": {"y": 0.0}},
        also=lambda p, c, u, s, ticks: s.t > ticks,
        assume=assume,
    )
    used = graph.used(list(graph.stores.values()))
    assert not any(graph.nodes[n].op == "multiply" for n in used)
    assert len(graph.guard) == 4
    columns = toy_columns(3, n=4096)
    columns["state"]["t"] *= 50.0
    short, done = run(graph, columns, 50.0)
    right = np.logical_and.reduce([done[n] for n in graph.guard])
    whole = direct(step, columns, 50.0)
    assert 0 < right.sum() < 4096
    assert same(pick(short, right), pick(whole, right))
    assert not same(short, whole)
    assert not right[np.signbit(columns["control"]["y"])].any()  # -0.0 equals the fact, and has other bits
    assert assume(5) == 5  # type: ignore[arg-type]


def pick(columns: Groups, rows: NDArray[np.bool_]) -> Groups:
    return {group: {name: x[rows] for name, x in values.items()} for group, values in columns.items()}


def calm_graph() -> Graph:
    return trace(model.step, FIELDS, "ticks", True, facts=fields.CALM, also=model.quiet, assume=ops.assume)


def test_short_step_of_the_model_is_the_whole_step_where_its_guard_holds() -> None:
    columns = plant_columns(calm=False, n=400)
    ordinary = plant_columns(calm=True, n=400)
    for group, values in columns.items():
        for name in values:
            values[name][:200] = ordinary[group][name][:200]
    short, done = run(calm_graph(), columns, 50.0)
    right = np.logical_and.reduce([done[n] for n in calm_graph().guard])
    assert right[:200].all(), "ordinary homes must take the fast path"
    assert not right.all()
    assert same(pick(short, right), pick(direct(model.step, columns, 50.0, True), right))


def test_short_step_is_less_than_two_thirds_of_the_whole() -> None:
    def operations(graph: Graph) -> int:
        used = graph.used([*graph.stores.values(), *graph.guard])
        return sum(graph.nodes[n].op not in ("field", "constant", "ticks") for n in used)

    assert operations(calm_graph()) < 2 / 3 * operations(trace(model.step, FIELDS, "ticks", True))


def test_facts_that_contradict_the_model_are_refused() -> None:
    def step(p: Any, c: Any, u: Any, s: Any) -> None:
        s.s = np.where(assume(u.u > 0.0), s.s + 1.0, 0.0)

    with pytest.raises(TraceError, match="the fast path could never run"):
        traced(step, facts={"input": {"u": -1.0}}, assume=assume)


# What is refused.


REFUSED = [
    ("s.s = s.tikcs_used", "state has no field 'tikcs_used'; did you mean ticks_used"),
    ("s.tt = 1.0", "state has no field 'tt'"),
    ("p.a = p.b", "param.a is assigned: a step may change control and state only"),
    ("s.s = p.a < p.b", "state.s is given a mask: use numpy.where"),
    ("s.s = 0.0 if p.a < p.b else 1.0", "cannot decide an if"),
    ("s.s = max(p.a, p.b)", "cannot decide an if"),
    ("s.s = np.minimum(p.a, p.b)", "numpy.minimum is not an operation of the model"),
    ("s.s = np.clip(p.a, 0.0, 1.0)", "numpy.clip is not an operation of the model"),
    ("s.s = p.a**2", "numpy.power is not an operation of the model"),
    ("s.s = abs(p.a)", "numpy.absolute is not an operation of the model"),
    ("s.s = np.exp(p.a)", "numpy.exp is not an operation of the model"),
    ("s.s += 1.0", "in place, for all who hold it"),
    ("s.s = (p.a < p.b) * p.a", "multiply of mask and value: it takes value and value"),
    ("s.s = np.where(p.a & (p.b > 0.0), 1.0, 0.0)", "bitwise_and of value and mask: it takes mask and mask"),
    ("s.s = np.where(p.a, 1.0, 0.0)", "select of value and value and value: it takes mask and value"),
    ("s.s = np.where(p.a > 0.0)", "numpy.where is not an operation of the model"),
    ("s.s = p.a + np.ones(3)", "ndarray is neither a column nor a number"),
    ("s.s = p.a + '1'", "str is neither a column nor a number"),
    ("s.s = float(p.a)", "float"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_what_cannot_be_compiled_is_named_with_its_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(f"import numpy as np\n\n\ndef step(p, c, u, s):\n    {line}\n", encoding="utf-8")
    with pytest.raises(TraceError) as caught:
        traced(runpy.run_path(str(path))["step"])
    assert str(caught.value).startswith(f"{path}:5: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"state": {"q": 1.0}}, "a fact is stated of state.q"),
        ({"stat": {"s": 1.0}}, "facts are stated of 'stat'"),
    ],
)
def test_facts_about_nothing_are_refused(facts: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        traced(lambda p, c, u, s: None, facts=facts)


def test_a_function_of_another_form_is_named() -> None:
    with pytest.raises(TraceError, match=rf"test_trace.py:{toy_step.__code__.co_firstlineno}: .*missing"):
        traced(toy_step)


# What is caught.


def _exchanged(graph: Graph) -> None:
    number = nodes(graph, "subtract")[0]
    graph.nodes[number] = replace(graph.nodes[number], args=graph.nodes[number].args[::-1])


def _other_comparison(graph: Graph) -> None:
    number = next(n for n in nodes(graph, "less") if graph.nodes[n].args)
    graph.nodes[number] = replace(graph.nodes[number], op="less_equal")


def _store_lost(graph: Graph) -> None:
    del graph.stores["state", "ticks_used"]


@pytest.mark.parametrize("mistake", [_exchanged, _other_comparison, _store_lost])
def test_a_planted_mistake_is_caught(mistake: Callable[[Graph], None]) -> None:
    columns, coarse = toy_columns(5, n=2000), mistake is not _other_comparison
    graph = trace(toy_step, TOY, "ticks", coarse)
    whole = direct(toy_step, columns, 50.0, coarse)
    assert same(run(graph, columns, 50.0)[0], whole)
    mistake(graph)
    assert not same(run(graph, columns, 50.0)[0], whole)


# The C++.

TOY_SOURCE = """
#include <immintrin.h>
#define RT_LANES {width}
#define RT_ALONE __restrict__
#define RT_STAGE static inline __attribute__((always_inline))
#define RT_WIDTH {width}
{switch}
{enums}
#define P(name, part) (p + PARAM_##name * RT_LANES)
#define C(name, part) (c + CONTROL_##name * RT_LANES)
#define U(name, part) (u + INPUT_##name * RT_LANES)
#define S(name, part) (s + STATE_##name * RT_LANES)
#include "_kernel_vector.h"
{text}
extern "C" void run(const double *p, double *c, const double *u, double *s) {{ step(p, c, u, s, 50.0); }}
"""
TOY_TARGETS = {
    "plain": (2, "", ""),
    "baseline": (2, "#define RT_SSE2", ""),
    "avx2": (4, "#define RT_AVX2", "-mavx2"),
    "avx512": (8, "#define RT_AVX512", "-mavx512f -mavx512dq -mavx512vl"),
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the toy is compiled for x86-64")
@pytest.mark.parametrize("target", ["plain", *_kernel.targets()])
def test_compiled_text_does_what_the_function_does(target: str, tmp_path: Path) -> None:
    """Zeros of both signs, infinities and NaN included; "plain" is what other processors get."""
    width, switch, flags = TOY_TARGETS[target]
    columns = toy_columns(7, n=width)
    library = compiled_toy(tmp_path, width, switch, flags)
    for seed in range(300):
        columns = toy_columns(seed, n=width)
        packed = [np.ascontiguousarray(np.stack(list(values.values()))) for values in columns.values()]
        library.run(*(array.ctypes.data_as(ctypes.c_void_p) for array in packed))
        left = {
            group: dict(zip(columns[group], array, strict=True))
            for group, array in zip(columns, packed, strict=True)
        }
        assert same(left, direct(toy_step, columns, 50.0, False))


def compiled_toy(folder: Path, width: int, switch: str, flags: str) -> ctypes.CDLL:
    enums = "\n".join(
        f"enum {{ {', '.join(f'{group.upper()}_{name}' for name in names)} }};"
        for group, names in TOY.items()
    )
    text = emit.stepping("step", trace(toy_step, TOY, "ticks", False))
    source = folder / "toy.cpp"
    source.write_text(TOY_SOURCE.format(width=width, switch=switch, enums=enums, text=text), encoding="utf-8")
    named = (sysconfig.get_config_var("CXX") or "c++").split()[0]
    command = shutil.which(named) or shutil.which("c++")
    assert command, "the compiler that built the kernel is not here"
    options = [
        "-std=c++17",
        "-O2",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-w",
        "-shared",
        "-fPIC",
        *flags.split(),
    ]
    subprocess.run(
        [command, *options, f"-I{ROOT / 'emulator'}", str(source), "-o", str(folder / "toy.so")], check=True
    )
    return ctypes.CDLL(str(folder / "toy.so"))


def test_text_of_a_guard_and_of_least_and_most() -> None:
    def step(p: Any, c: Any, u: Any, s: Any, ticks: float) -> None:
        s.s = np.where(p.a > p.b, p.a, p.b) - np.where(p.a > p.b, p.b, p.a)
        s.t = np.where(p.a >= p.b, p.a, p.b)

    text = emit.stepping("step", trace(step, TOY, "ticks"))
    assert "most(n" in text
    assert "least(n" in text
    assert text.count("pick(") == 1
    assert text.count("greater(") == 0
    short = emit.guarded("short", trace(step, TOY, "ticks", facts={"param": {"a": 0.5}}), 2)
    assert short.index("same_bits") < short.index("return false") < short.index("store(")
    assert "spread(0x1.0000000000000p-1)" in short
    assert "load(P(b, 1))" in short
