"""The table of docs/conformance.md: every comparison and every type test, each with its worst value.

Duty: run them all and say what was found as Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tests.conformance import active_tests, enter_tests, reactive_tests, ride_tests, sweep, trip_tests
from tests.conformance.compare import Found, Worst, compare, replay
from tests.conformance.criteria import Check, failed
from tests.conformance.der_bench import TICK_S
from tests.conformance.live import LIVE
from tests.conformance.opender_live import simulate
from tests.conformance.stored import ABSENT, steps_to_replay, stored_cases, stored_trace


def table() -> Iterator[str]:
    """Give the lines of the three tables, in Markdown."""
    yield from _traces()
    yield from _points()
    yield from _type_tests()


def _traces() -> Iterator[str]:
    yield "| case | OpenDER step | ours | P: worst of band | Q: worst of band | changes, apart | agrees |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    stored = stored_cases()
    if not stored:
        yield f"| {ABSENT} | | | | | | |"
    for case in stored:
        trace = stored_trace(case)
        for step_s in steps_to_replay(case):
            yield _found(compare(case, trace, replay(case, trace, step_s), step_s), case.step_s)
    for case in LIVE:
        trace = simulate(case.kind, case.opender, case.segments, case.end_s, case.step_s, case.commands)
        yield _found(compare(case, trace, replay(case, trace, case.step_s), case.step_s), case.step_s)


def _found(found: Found, step_s: float) -> str:
    cells = (
        found.name,
        f"{step_s:g} s",
        f"{found.step_s:g} s",
        _worst(found.power, "W"),
        _worst(found.reactive, "var"),
        f"{len(found.states) - 1}, {found.shift_s:.2f} s",
        "yes" if found.agrees else "**no**",
    )
    return f"| {' | '.join(cells)} |"


def _worst(worst: Worst, unit: str) -> str:
    return f"{worst.deviation:.2f} of {worst.band:.2f} {unit}"


def _points() -> Iterator[str]:
    yield ""
    yield "| static points | function | points | P: worst | Q: worst |"
    yield "| --- | --- | --- | --- | --- |"
    for kind, category in sweep.KINDS:
        for function in sweep.FUNCTIONS:
            count, power_w, reactive_var = sweep.compare(kind, category, function)
            yield (
                f"| {kind}, category {category} | {function.name} | {count} "
                f"| {power_w.max():.1e} W | {reactive_var.max():.1e} var |"
            )


def _type_tests() -> Iterator[str]:
    yield ""
    yield "| type test | checks, failed: 20 ms | 1 s | nearest to its limits at 20 ms: value in band |"
    yield "| --- | --- | --- | --- |"
    for tests in (reactive_tests, active_tests, trip_tests, ride_tests, enter_tests):
        fine: Mapping[str, Sequence[Check]] = tests.all_checks(TICK_S)
        coarse: Mapping[str, Sequence[Check]] = tests.all_checks(1.0)
        for name, checks in fine.items():
            worst = max(checks, key=lambda check: check.used)
            band = f"{worst.what}: {worst.value:.5g} in {worst.low:.5g} to {worst.high:.5g}"
            whole = _counts(coarse[name]) if name in coarse else "not resolved"
            yield f"| {name} | {_counts(checks)} | {whole} | {band} |"


def _counts(checks: Sequence[Check]) -> str:
    return f"{len(checks)}, {len(failed(checks))}"
