"""The emulator against EPRI OpenDER 2.2.0: stored traces, cases run here, static points.

What both are told and the bands are in `cases`, `stored`, `live`, `sweep` and `witness`; what OpenDER gets
wrong is in test_opender_defects.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ridethrough.emulator.grid_settings import GridSettings

from tests.conformance import sweep
from tests.conformance.cases import Case, tripping, volt_var_on
from tests.conformance.compare import Found, compare, replay
from tests.conformance.der_bench import TICK_S
from tests.conformance.live import LIVE
from tests.conformance.opender_live import ABSENT as NO_OPENDER
from tests.conformance.opender_live import INSTALLED, Kind, simulate
from tests.conformance.stored import ABSENT, FOLDER, steps_to_replay, stored_cases, stored_trace
from tests.conformance.witness import apart, bilinear, exact

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
STORED = [(case, step_s) for case in stored_cases() for step_s in steps_to_replay(case)]
Change = Callable[[GridSettings], GridSettings]

needs_opender = pytest.mark.skipif(not INSTALLED, reason=NO_OPENDER)
needs_traces = pytest.mark.skipif(not FOLDER.exists(), reason=ABSENT)


def run_live(case: Case, told: Case | None = None) -> Found:
    """Run a case live; `told` is what the emulated device is told instead."""
    trace = simulate(case.kind, case.opender, case.segments, case.end_s, case.step_s, case.commands)
    return compare(case, trace, replay(told or case, trace, case.step_s), case.step_s)


@needs_traces
def test_every_stored_trace_is_a_case() -> None:
    assert {case.name for case in stored_cases()} == {path.name for path in FOLDER.glob("*.csv")}


def test_document_has_every_case() -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    expected = [case.name for case in (*stored_cases(), *LIVE)]
    missing = [name for name in expected if not any(row.startswith(f"| {name} |") for row in rows)]
    assert missing == [], "run `python -m tests.conformance.der_bench` and put its output there"


@needs_traces
@pytest.mark.parametrize(("case", "step_s"), STORED, ids=[f"{case.name} {s}" for case, s in STORED])
def test_stored_trace(case: Case, step_s: float) -> None:
    trace = stored_trace(case)
    found = compare(case, trace, replay(case, trace, step_s), step_s)
    assert found.agrees, found
    assert found.rows > 0.9 * trace.time_s.size


@needs_opender
@pytest.mark.parametrize("case", LIVE, ids=[case.name for case in LIVE])
def test_live_case(case: Case) -> None:
    found = run_live(case)
    assert found.agrees, found


@needs_opender
@pytest.mark.parametrize(("kind", "category"), sweep.KINDS)
def test_static_points(kind: Kind, category: sweep.Category) -> None:
    for function in sweep.FUNCTIONS:
        count, power_w, reactive_var = sweep.compare(kind, category, function)
        assert count > 100
        assert power_w.max() < 0.01, (function.name, power_w.max())
        assert reactive_var.max() < 0.01, (function.name, reactive_var.max())


# The comparisons, shown what they must catch.


def _slower(settings: GridSettings) -> GridSettings:
    return replace(
        settings, volt_var=replace(settings.volt_var, response_s=settings.volt_var.response_s * 1.1)
    )


def _shifted(settings: GridSettings) -> GridSettings:
    points = tuple((v + 0.002, q) for v, q in settings.volt_var.points)
    return replace(settings, volt_var=replace(settings.volt_var, points=points))


@needs_traces
@pytest.mark.parametrize("wrong", [_slower, _shifted])
def test_wrong_volt_var_is_seen(wrong: Change) -> None:
    case = next(case for case in stored_cases() if case.name == "vv_catB_step_p08.csv")
    told = replace(case, settings=lambda settings: wrong(volt_var_on(settings)))
    trace = stored_trace(case)
    assert not compare(case, trace, replay(told, trace, case.step_s), case.step_s).agrees


@needs_opender
def test_late_trip_is_seen() -> None:
    case = next(case for case in LIVE if case.name == "trip UV2 III")
    assert run_live(case).agrees
    assert not run_live(case, replace(case, settings=tripping("under_voltage", 2, 2.1))).agrees


@needs_opender
def test_early_entry_is_seen() -> None:
    case = next(case for case in LIVE if case.name == "enter service, interrupted")

    def hasty(settings: GridSettings) -> GridSettings:
        settings = case.settings(settings)
        return replace(settings, enter=replace(settings.enter, delay_s=5.9))

    assert not run_live(case, replace(case, settings=hasty)).agrees


@needs_opender
def test_wrong_static_curve_is_seen() -> None:
    _, _, reactive_var = sweep.compare("PV", "B", sweep.FUNCTIONS[0], _shifted)
    assert reactive_var.max() > 100.0


# The witness itself, against closed forms.


@pytest.mark.parametrize(("step_s", "response_s"), [(0.1, 5.0), (1.0, 10.0), (TICK_S, 0.2)])
def test_lags_of_the_witness(step_s: float, response_s: float) -> None:
    k = np.arange(200)
    u = np.concatenate([[0.0], np.ones(k.size)])
    t = response_s / 1.15
    left = t / (step_s + t) * ((t - step_s) / (t + step_s)) ** k
    np.testing.assert_allclose(bilinear(u, response_s, step_s)[1:], 1.0 - left, atol=1e-12)
    np.testing.assert_allclose(
        exact(u, response_s, step_s)[1:], 1.0 - 10.0 ** (-(k + 1) * step_s / response_s), atol=1e-12
    )
    band = apart(u, response_s, step_s)
    assert band.argmax() == 1
    assert band.max() == pytest.approx(t / (step_s + t) - 10.0 ** (-step_s / response_s))
