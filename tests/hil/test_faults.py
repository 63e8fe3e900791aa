from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from ridethrough.hil.faults import FAULTS, EventSpec, check_latency

BASE: dict[str, Any] = {"at": "17:30", "for": "10min", "target": "all"}
VALID: dict[str, dict[str, Any]] = {
    "grid.outage": {},
    "comms.latency": {"mean": "400ms", "p99": "3s"},
    "comms.loss": {"probability": "5%"},
    "comms.partition": {},
    "telemetry.frozen": {},
}
PARAMS: dict[str, dict[str, float | str]] = {
    "grid.outage": {},
    "comms.latency": {"latency_s_mean": 0.4, "latency_s_p99": 3.0},
    "comms.loss": {"loss_frac": 0.05},
    "comms.partition": {"direction": "both"},
    "telemetry.frozen": {"stamp": "frozen"},
}


def read(fault: str, **params: Any) -> EventSpec:
    return FAULTS[fault].spec.model_validate(BASE | {"fault": fault} | params)


def test_the_catalogue_says_of_each_fault_what_it_is() -> None:
    assert set(FAULTS) == set(VALID)
    invariants = {"RDY", "DEL", "REC", "VAN", "DEV", "EXP", "AIS", "FRE", "FAIR", "TRU", "ECO", "LIV"}
    for name, kind in FAULTS.items():
        assert kind.name == name
        assert len(kind.what) > 60
        assert kind.what.endswith(".")
        assert kind.source[0] in "CTDGKB"
        assert kind.source[1].isdigit()
        assert kind.at_risk
        assert set(kind.at_risk) <= invariants
        assert set(kind.levels) <= {"mil", "sil", "hil"}


@pytest.mark.parametrize("fault", sorted(VALID))
def test_parameters_carry_units_and_defaults(fault: str) -> None:
    event = read(fault, **VALID[fault])
    assert event.params == PARAMS[fault]
    assert (event.at, event.for_) == (63_000 * 10**9, 600 * 10**9)


@pytest.mark.parametrize(
    ("fault", "params"),
    [
        ("comms.latency", {"mean": "1s", "p99": "900ms"}),
        ("comms.latency", {"mean": "100ms", "p99": "2s"}),
        ("comms.latency", {"mean": "11min", "p99": "20min"}),
        ("comms.latency", {"mean": "100ms"}),
        ("comms.loss", {"probability": 1.5}),
        ("comms.loss", {}),
        ("comms.partition", {"direction": "up"}),
        ("telemetry.frozen", {"stamp": "old"}),
        ("grid.outage", {"for": "30ms"}),
        ("grid.outage", {"depth": 0.5}),
        ("grid.outage", {"target": [1.5]}),
        ("grid.outage", {"target": [True]}),
        ("grid.outage", {"target": ""}),
    ],
)
def test_parameters_out_of_range_are_refused(fault: str, params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(fault, **params)


def test_latency_bounds_admit_every_log_normal_but_the_last_sliver() -> None:
    check_latency(100, 100)
    check_latency(100, 1400)
    check_latency(0, 0)
    with pytest.raises(ValueError, match="allowed p99 from 1 to 14 times"):
        check_latency(100, 1401)
