"""What the bench itself did to a run is told, with the evidence, and makes the verdict inconclusive."""

from __future__ import annotations

from ridethrough.hil.fitness import HELD_FRAC_MAX, Fitness

S = 10**9


def fitness() -> Fitness:
    return Fitness(
        ("home-01", "home-02"), lambda ns: f"{ns // S} s", late_ns_max=5 * S, duration_ns=100 * S, speed=60.0
    )


def test_a_run_in_time_is_fit() -> None:
    found = fitness()
    found.late(3 * S, 5 * S, "stepping the plant")
    found.hold(round(HELD_FRAC_MAX * 100) * S)
    assert found.fault == ""
    assert found.detail == "the world stood still for 50.0 s because this machine could not keep up"
    assert found.late_ns == 5 * S


def test_being_later_than_was_promised_is_a_fault_that_says_when_how_often_and_what_to_do() -> None:
    found = fitness()
    for at_s, by_s in ((10, 6), (20, 9), (30, 7), (40, 1)):
        found.late(at_s * S, by_s * S, "stepping the plant")
    assert "late 3 times, at most by 9.0 s at 20 s (stepping the plant); allowed 5 s" in found.fault
    assert "lower --speed than 60" in found.fault


def test_a_clock_that_was_held_for_most_of_the_run_is_a_fault() -> None:
    found = fitness()
    found.hold(51 * S)
    assert "held the world still for 51 s" in found.fault


def test_a_link_that_broke_by_itself_is_a_fault_with_device_time_and_error() -> None:
    found = fitness()
    for k in range(5):
        found.broke((10 + k) * S, 1, ConnectionResetError("the device closed the connection"))
    assert "5 exchanges failed that no fault of the scenario had touched" in found.fault
    assert "home-02 at 10 s: the device closed the connection" in found.fault
    assert "and 2 more" in found.fault
