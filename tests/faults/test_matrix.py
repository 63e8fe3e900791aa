"""Every fault is injected at every level where it acts, and seen in the record of the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from ridethrough.hil.bench import Level, run
from ridethrough.hil.fault_files import fault_names
from ridethrough.hil.faults import Event
from ridethrough.hil.record import Record
from ridethrough.hil.world import World

from tests.faults import matrix
from tests.faults.matrix import Witnesses, acting, on_controller, on_devices, split, witnesses

PARTS = 3
"""Runs over real sockets into which the faults on devices are divided: two dozen devices each."""
AT_ONCE = 4
"""Runs over real sockets of one device that two slow cores bear at a time."""


def test_every_fault_has_a_witness() -> None:
    assert sorted(witnesses().of) == list(fault_names())
    assert set(witnesses().needs) <= set(fault_names())
    assert set(witnesses().helps) <= set(fault_names())


@pytest.mark.parametrize("level", ["mil", "sil"])
def test_every_fault_on_devices_is_seen(level: Level, tmp_path: Path) -> None:
    devices, _ = split(acting(level))
    assert devices
    assert on_devices(devices, level, tmp_path / "run", witnesses()) == []


@pytest.mark.parametrize("level", ["mil", "sil"])
def test_every_fault_of_the_controller_is_seen(level: Level, tmp_path: Path) -> None:
    _, controller = split(acting(level))
    assert controller
    assert on_controller(controller, level, tmp_path, witnesses()) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_fault_on_devices_is_seen_over_real_sockets(part: int, tmp_path: Path) -> None:
    devices, _ = split(acting("hil"))
    assert on_devices(devices[part::PARTS], "hil", tmp_path / "run", witnesses()) == []


@pytest.mark.slow
def test_every_fault_of_the_controller_is_seen_over_real_sockets(tmp_path: Path) -> None:
    _, controller = split(acting("hil"))
    assert on_controller(controller, "hil", tmp_path, witnesses(), at_once=AT_ONCE) == []


# The harness, shown what it must catch.


def test_what_a_busy_machine_has_not_shown_is_tried_again_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[float, tuple[str, ...]]] = []

    def noted(world: World, controller: str, folder: Path, *, level: Level, speed: float) -> None:
        tried.append((speed, world.names))
        run(world, controller, folder)

    def late(record: Record, row: int, event: Event) -> str | None:
        return "late" if len(tried) < 2 or row > 0 else None

    def blind(record: Record, row: int, event: Event) -> str | None:
        return "nothing"

    monkeypatch.setattr("tests.faults.matrix.run", noted)
    said = Witnesses({"grid.outage": late, "comms.loss": blind})
    assert on_devices(said.of, "hil", tmp_path, said) == ["comms.loss: not seen: nothing"]
    bare = f"none-nothing-{matrix.PROFILE}"
    assert tried == [
        (60.0, ("grid-outage", "comms-loss", bare)),
        (30.0, ("grid-outage", "comms-loss", bare)),
        (15.0, ("comms-loss", bare)),
    ]
    del tried[:]
    assert on_devices(said.of, "mil", tmp_path / "mil", said)
    assert len(tried) == 1


def test_a_cell_that_is_not_seen_is_named(tmp_path: Path) -> None:
    def blind(record: Record, row: int, event: Event) -> str | None:
        return f"nothing at {row} from {event.start_ns} in {len(record.truth['t_ns'])} rows"[:12]

    def credulous(record: Record, row: int, event: Event) -> str | None:
        return None

    said = Witnesses({"grid.outage": blind, "comms.partition": credulous})
    assert on_devices(said.of, "mil", tmp_path / "run", said) == [
        "grid.outage: not seen: nothing at 0",
        "comms.partition: its witness also sees it where it is not",
    ]
    said = Witnesses({"controller.crash": credulous})
    assert on_controller(said.of, "mil", tmp_path, said) == [
        "controller.crash: its witness also sees it where it is not"
    ]


def test_what_a_fault_needs_is_there() -> None:
    legacy = "home-11kwh-6kw-legacy"
    said = Witnesses({}, {"comms.loss": legacy}, {"comms.latency": "outage", "grid.sag": "partition"})
    world = matrix.device_world(["comms.loss", "comms.latency", "grid.sag"], said)
    profiles = dict(zip(world.names, (profile.profile for profile in world.profiles), strict=True))
    assert profiles == {
        "comms-loss": legacy,
        "comms-latency": matrix.PROFILE,
        "grid-sag": matrix.PROFILE,
        f"none-nothing-{legacy}": legacy,
        f"none-outage-{matrix.PROFILE}": matrix.PROFILE,
        f"none-partition-{matrix.PROFILE}": matrix.PROFILE,
    }
    happens = {(event.fault, event.targets, event.start_ns // matrix.MINUTE_NS) for event in world.events}
    assert happens == {
        ("comms.loss", (0,), 4),
        ("comms.latency", (1,), 4),
        ("grid.sag", (2,), 4),
        ("grid.outage", (1,), 5),
        ("grid.outage", (4,), 5),
        ("comms.partition", (2,), 5),
        ("comms.partition", (5,), 5),
    }
    assert (world.load_w == matrix.LOAD_W).all()
