"""From a World to what runs: the plant, the pool a controller is shown, and the head of the record.

Rule of this file: the same for every level; only the assembly of clock and devices differs.
"""

from __future__ import annotations

import math
import platform
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from ridethrough.controllers.contract import Capabilities, Pool, RevertState
from ridethrough.emulator.feeder import FeederSolver
from ridethrough.emulator.fields import LANES, STATE, STATUS, TICKS_PER_S
from ridethrough.emulator.layout import soc_frac_step
from ridethrough.emulator.params import J_PER_WH
from ridethrough.emulator.plant import Plant

from .abilities import Abilities, abilities
from .streams import stream
from .world import World

_VERSIONS: Final = ("ridethrough", "numpy", "pyarrow", "pymodbus", "pysunspec2")


def make_plant(world: World) -> Plant:
    """Return the plant of a world, at its start."""
    # Each device draws its random enter-service delay once, from a stream of its own.
    shares = [float(stream(world.seed, f"{name}/enter").random()) for name in world.names]
    plant = Plant(
        world.profiles,
        soc_frac=world.soc_frac,
        soh_frac=world.soh_frac,
        backup_frac=world.backup_frac,
        load_var_per_w=world.load_var_per_w,
        random_share=np.array(shares),
        feeder=None if world.feeder is None else FeederSolver(world.feeder),
        community=world.community,
    )
    plant.set_input("ambient_c", world.ambient_c)
    # Cells begin as warm as what is around them; what follows from it is settled before the first step.
    lanes = np.full(plant.state.shape[0] * LANES, 0.0)
    lanes[: plant.n] = world.ambient_c
    plant.state[:, STATE.index("temp_c"), :] = lanes.reshape(-1, LANES)
    return plant


def soc_steps(world: World) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the resolution of each device's reported SoC, shape (n,) [1]."""
    return np.array([soc_frac_step(profile) for profile in world.profiles])


def world_abilities(world: World) -> tuple[Abilities, ...]:
    """Return what each device can be relied on for in this world."""
    where = zip(world.profiles, world.ambient_c.tolist(), world.load_var_per_w.tolist(), strict=True)
    return tuple(
        abilities(profile, ambient_c=ambient_c, load_var_per_w=load_var_per_w)
        for profile, ambient_c, load_var_per_w in where
    )


def make_pool(world: World, plant: Plant) -> Pool:
    """Return what the controller is told once."""
    inverters = [profile.inverter for profile in world.profiles]
    known = world_abilities(world)
    states: tuple[RevertState, ...] = tuple(profile.control.revert_state for profile in world.profiles)
    capacity_j = plant.params("capacity_j")
    return Pool(
        names=world.names,
        capabilities=Capabilities(
            energy_wh=capacity_j / J_PER_WH,
            soc_frac_min=plant.params("energy_j_min") / capacity_j,
            soc_frac_max=plant.params("energy_j_max") / capacity_j,
            soc_frac_floor=np.array([each.soc_frac_floor for each in known]),
            soc_frac_step=soc_steps(world),
            soc_frac_error_max=plant.params("soc_error_frac_max"),
            power_w_discharge_max=plant.params("power_w_discharge_max"),
            power_w_charge_max=plant.params("power_w_charge_max"),
            power_w_nominal=plant.params("power_w_discharge_max"),
            loss_a_w=np.array([inverter.loss_a_w for inverter in inverters]),
            loss_b_w=np.array([inverter.loss_b_w for inverter in inverters]),
            loss_c_w=np.array([inverter.loss_c_w for inverter in inverters]),
            standby_w=plant.params("standby_w"),
            ohm_per_w_max=np.array([each.ohm_per_w_max for each in known]),
            self_discharge_frac_per_h=np.array([each.self_discharge_frac_per_h for each in known]),
            has_reserve=plant.params("has_reserve") != 0.0,
            revert_state=states,
            import_w_max=world.import_w_max,
            export_w_max=world.export_w_max,
        ),
        commitments=world.commitments,
        poll_s=world.poll_ns / 1e9,
        delay_s_max=world.comms.timeout_ns / 1e9,
    )


def _device(world: World, pool: Pool, plant: Plant, d: int, sure: Abilities) -> dict[str, Any]:
    """Return what the judge must know of one device."""
    profile, device, promise = world.profiles[d], pool.capabilities, pool.commitments
    enter = plant.settings(d).enter
    return {
        "name": world.names[d],
        "profile": profile.profile,
        **{
            name: float(getattr(device, name)[d])
            for name in (
                "energy_wh",
                "soc_frac_min",
                "soc_frac_max",
                "soc_frac_floor",
                "soc_frac_step",
                "soc_frac_error_max",
                "power_w_discharge_max",
                "power_w_charge_max",
                "power_w_nominal",
                "loss_a_w",
                "loss_b_w",
                "loss_c_w",
                "standby_w",
                "ohm_per_w_max",
                "self_discharge_frac_per_h",
            )
        },
        "power_w_discharge_sure": sure.power_w_discharge_sure,
        "power_w_charge_sure": sure.power_w_charge_sure,
        "power_w_surge": profile.inverter.power_w_surge,
        "ramp_w_per_s": profile.inverter.ramp_w_per_s,
        "transfer_s": profile.transfer_s,
        "taper_soc_frac": profile.battery.taper_soc_frac,
        "taper_frac_min": profile.battery.taper_frac_min,
        "enter_delay_s": float(plant.controls("enter_delay_ticks")[d]) / TICKS_PER_S,
        "enter_ramp_s": float(plant.controls("enter_ramp_ticks")[d]) / TICKS_PER_S,
        "enter_voltage_pu_low": enter.voltage_pu_min,
        "enter_voltage_pu_high": enter.voltage_pu_max,
        "sync_s": profile.island.sync_s,
        "break_s": profile.island.break_s,
        "restart_s": profile.island.restart_s,
        "restart_growth": profile.island.restart_growth,
        "restart_s_max": profile.island.restart_s_max,
        "can_island": profile.island.capable,
        "import_w_max": _finite_or_none(world.import_w_max[d]),
        "export_w_max": _finite_or_none(world.export_w_max[d]),
        "revert_state": profile.control.revert_state,
        "has_reserve": profile.control.has_reserve,
        "commitment": {
            name: float(getattr(promise, name)[d])
            for name in ("hours_h", "load_w", "transfer_s", "recovery_s")
        },
    }


def _finite_or_none(limit_w: float) -> float | None:
    return float(limit_w) if math.isfinite(limit_w) else None


def make_header(
    world: World, pool: Pool, plant: Plant, *, level: str, controller: str, speed: float | None
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
        "heal_ns": world.heal_ns,
        "status_names": list(STATUS),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
        "comms": {
            "poll_ns": world.poll_ns,
            "latency_ns_mean": comms.latency_ns_mean,
            "latency_ns_p99": comms.latency_ns_p99,
            "loss_frac": comms.loss_frac,
            "timeout_ns": comms.timeout_ns,
        },
        "feeder": None
        if world.feeder is None
        else {"name": world.feeder.feeder, "rating_va": world.feeder.transformer.rating_va},
        "devices": [_device(world, pool, plant, d, sure) for d, sure in enumerate(world_abilities(world))],
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
