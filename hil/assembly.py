"""From a World to what runs: the plant, the pool a controller is shown, and the head of the record.

Rule of this file: the same for every level; only the assembly of clock and devices differs.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from ridethrough.controllers.contract import Capabilities, Pool, RevertState
from ridethrough.emulator.fields import STATUS
from ridethrough.emulator.layout import soc_frac_step
from ridethrough.emulator.plant import J_PER_WH, Plant

from .world import World

_VERSIONS: Final = ("ridethrough", "numpy", "pyarrow", "pymodbus", "pysunspec2")


def make_plant(world: World) -> Plant:
    """Return the plant of a world, at its start."""
    return Plant(
        world.profiles, soc_frac=world.soc_frac, soh_frac=world.soh_frac, backup_frac=world.backup_frac
    )


def soc_steps(world: World) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the resolution of each device's reported SoC, shape (n,) [1]."""
    return np.array([soc_frac_step(profile) for profile in world.profiles])


def make_pool(world: World, plant: Plant) -> Pool:
    """Return what the controller is told once."""
    states: tuple[RevertState, ...] = tuple(profile.control.revert_state for profile in world.profiles)
    capacity_j = plant.params("capacity_j")
    return Pool(
        names=world.names,
        capabilities=Capabilities(
            energy_wh=capacity_j / J_PER_WH,
            soc_frac_min=plant.params("energy_j_min") / capacity_j,
            soc_frac_max=plant.params("energy_j_max") / capacity_j,
            soc_frac_step=soc_steps(world),
            power_w_discharge_max=plant.params("power_w_discharge_max"),
            power_w_charge_max=plant.params("power_w_charge_max"),
            power_w_nominal=plant.params("power_w_nominal"),
            loss_a_w=plant.params("loss_a_w"),
            loss_b_w=plant.params("loss_b_w"),
            loss_c_w=plant.params("loss_c_w"),
            standby_w=plant.params("standby_w"),
            has_reserve=plant.params("has_reserve") != 0.0,
            revert_state=states,
        ),
        commitments=world.commitments,
        poll_s=world.poll_ns / 1e9,
        delay_s_max=world.comms.timeout_ns / 1e9,
    )


def _device(world: World, pool: Pool, d: int) -> dict[str, Any]:
    """Return what the judge must know of one device."""
    profile, device, promise = world.profiles[d], pool.capabilities, pool.commitments
    return {
        "name": world.names[d],
        "profile": profile.profile,
        **{
            name: float(getattr(device, name)[d])
            for name in (
                "energy_wh",
                "soc_frac_min",
                "soc_frac_max",
                "soc_frac_step",
                "power_w_discharge_max",
                "power_w_charge_max",
                "power_w_nominal",
                "loss_a_w",
                "loss_b_w",
                "loss_c_w",
                "standby_w",
            )
        },
        "power_w_surge": profile.inverter.power_w_surge,
        "ramp_w_per_s": profile.inverter.ramp_w_per_s,
        "transfer_s": profile.transfer_s,
        "enter_delay_s": profile.inverter.enter_delay_s,
        "enter_ramp_s": profile.inverter.enter_ramp_s,
        "restart_s": profile.island.restart_s,
        "revert_state": profile.control.revert_state,
        "has_reserve": profile.control.has_reserve,
        "commitment": {
            name: float(getattr(promise, name)[d])
            for name in ("hours_h", "load_w", "transfer_s", "recovery_s")
        },
    }


def make_header(
    world: World, pool: Pool, *, level: str, controller: str, speed: float | None
) -> dict[str, Any]:
    """Return run.json: all a reader needs besides the tables, nothing of this machine's place or time."""
    comms = world.comms
    return {
        "scenario": world.scenario_name,
        "scenario_document": world.document,
        "world_digest": world.digest,
        "seed": world.seed,
        "controller": controller,
        "level": level,
        "speed": speed,
        "start_of_day_ns": world.start_of_day_ns,
        "duration_ns": world.duration_ns,
        "window_from_ns": world.window_from_ns,
        "status_names": list(STATUS),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
        "comms": {
            "poll_ns": world.poll_ns,
            "latency_ns_mean": comms.latency_ns_mean,
            "latency_ns_p99": comms.latency_ns_p99,
            "loss_frac": comms.loss_frac,
            "timeout_ns": comms.timeout_ns,
        },
        "devices": [_device(world, pool, d) for d in range(len(world.names))],
        "events": [
            {
                "number": event.number,
                "fault": event.fault,
                "targets": list(event.targets),
                "start_ns": event.start_ns,
                "end_ns": event.end_ns,
                "params": dict(event.params),
            }
            for event in world.events
        ],
    }
