"""Verdicts on hand-made records, for the judge's tests."""

from __future__ import annotations

from typing import Any

import pytest
from ridethrough.hil.findings import Finding
from ridethrough.hil.judge import INVARIANTS, Verdict, judge

from tests.hil.battery import NS, RESERVE_WH, Walk, device, record

R = RESERVE_WH


def verdict(
    walk: Walk, *, commands: Any = (), changes: dict[str, Any] | None = None, **device_changes: Any
) -> Verdict:
    return judge(record([walk], [device(**device_changes)], commands=commands, **(changes or {})))


def finding(verdict: Verdict, key: str, *, alone: bool = True) -> Finding:
    """Return what one invariant found; the others must have held."""
    found = verdict.homes[0].findings
    assert not alone or all(found[other].held for other in INVARIANTS if other != key), verdict.first_breach
    assert verdict.outcome == ("held" if all(f.held for f in found.values()) else "broken")
    return found[key]


def assert_broken(found: Finding, t_s: float, margin: float, count: int = 1) -> None:
    assert not found.held
    assert found.count == count
    assert found.breaches[0].t_ns == round(t_s * NS)
    assert found.breaches[0].margin == pytest.approx(margin, abs=1e-6)


def outage(dark_s: float = 1.0, **device_changes: Any) -> Walk:
    return Walk(9000.0).go(10).dark(dark_s, dt_s=dark_s)


def after_outage(wait_s: float, charge_s: float) -> Walk:
    """477 Wh short when the device can act; due after 300 s + 477.83 Wh / 4770 W = 660.63 s."""
    low = R - 477.0
    walk = outage().island(3599, dt_s=1, to_wh=low).island(300, good=True)
    return walk.go(wait_s, to_wh=low - 10 * wait_s / 3600).go(charge_s, to_wh=R).go(60)
