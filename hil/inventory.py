"""What an external program is told before a run: which devices there are, where, and what was promised.

Duty: the inventory file, as a model with a version, its schema, and how it is written.
Rules of this file: nothing of the truth is in it, no fault, no seed; only what a controller in the field
would have in its configuration.  A new field needs no new version, a changed or missing one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from ridethrough.controllers.contract import Pool

from .control import Family
from .record_files import write_json
from .target import TcpTarget
from .world import World

VERSION: Final = 1
_DAY_NS: Final = 24 * 3600 * 1_000_000_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Clock(_Part):
    """How bench time, by which devices and verdict go, relates to real time."""

    zero_unix_s: float = Field(description="Real time when bench time was 0 [s since 1970-01-01 UTC]")
    speed: float = Field(description="Bench seconds per real second; revert timers count bench seconds [1]")
    start_of_day_s: float = Field(description="Time of day at bench time 0, from midnight [s]")
    duration_s: float = Field(description="Length of the run, in bench time [s]")
    poll_s: float = Field(description="How often the scenario means devices to be read, in bench time [s]")
    delay_s_max: float = Field(description="A message later than this may be given up, in bench time [s]")


class Prices(_Part):
    """Day-ahead prices as published at bench time 0, for 24 hours at most."""

    step_s: float = Field(description="Length of one interval [s]")
    ahead_usd_per_mwh: tuple[float, ...] = Field(description="From bench time 0 on; may be empty [$/MWh]")


class Promise(_Part):
    """What the home was promised."""

    hours_h: float = Field(description="Hours of backup from the start of an outage [h]")
    load_w: float = Field(description="Cap of the promised load [W]")
    transfer_s: float = Field(description="Longest dark time when the grid is lost [s]")
    recovery_s: float = Field(description="How long restoring the reserve may be put off after an outage [s]")


class Ratings(_Part):
    """What the device can do, as its papers state it."""

    energy_wh: float = Field(
        description="Capacity now, faded; a state of charge counts from 0 to 1 of it [Wh]"
    )
    soc_frac_min: float = Field(description="Window the device keeps its battery in, low end [1]")
    soc_frac_max: float = Field(description="The same, high end [1]")
    soc_frac_floor: float = Field(description="Below it an outage is not served in full [1]")
    soc_frac_step: float = Field(description="Resolution of the reported state of charge [1]")
    soc_frac_error_max: float = Field(description="The reported state of charge is off by this at most [1]")
    power_w_discharge_max: float = Field(description="At the AC terminals [W]")
    power_w_charge_max: float = Field(description="At the AC terminals, positive [W]")
    power_w_nominal: float = Field(description="Reference power of the loss polynomial [W]")
    loss_a_w: float = Field(description="Loss a*p^2 + b*p + c at p = |power|/power_w_nominal: a [W]")
    loss_b_w: float = Field(description="The same: b [W]")
    loss_c_w: float = Field(description="The same: c [W]")
    standby_w: float = Field(description="Own consumption, always [W]")
    ohm_per_w_max: float = Field(description="Ohmic loss of the cells over their squared DC power [1/W]")
    self_discharge_frac_per_h: float = Field(description="Share of the stored energy lost by itself [1/h]")
    import_w_max: float | None = Field(description="Agreed at the meter; null without an agreement [W]")
    export_w_max: float | None = Field(description="Agreed at the meter; null without an agreement [W]")
    has_reserve: bool = Field(description="It can refuse grid-tied discharge below a reserve written to it")
    revert_state: Literal["idle", "self_consumption", "recharge"] = Field(
        description="What it does when a command has run out"
    )


class InventoryDevice(_Part):
    """One device of the pool, and the home it is in."""

    name: str = Field(description="Unique in the pool")
    profile: str = Field(description="Kind of device, a name of ridethrough list devices")
    host: str = Field(description="Where it answers Modbus TCP")
    port: int
    unit: int = Field(description="Unit id of the inverter")
    meter_unit: int = Field(description="Unit id of the home's meter, at the same port")
    target: str = Field(description="The inverter in the form of ridethrough scan, read and write")
    base_address: int = Field(description="First register of the SunSpec map: there stands 'SunS'")
    family: Family | None = Field(
        description="Model that takes power commands: 704.WSet, or the windows of 124"
    )
    connections_max: int | None = Field(description="Connections it takes at once; null: many")
    ratings: Ratings
    commitment: Promise


class Inventory(_Part):
    """What an external program is told; the file that RIDETHROUGH_INVENTORY names."""

    format: Literal["ridethrough inventory"] = "ridethrough inventory"
    version: Literal[1] = 1
    scenario: str
    clock: Clock
    prices: Prices
    devices: tuple[InventoryDevice, ...]


def inventory_schema() -> dict[str, Any]:
    """Return the JSON Schema of inventory files."""
    schema = Inventory.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def inventory_of(
    world: World, pool: Pool, targets: Sequence[TcpTarget], *, speed: float, zero_unix_s: float
) -> Inventory:
    """Return the inventory of a run.

    Parameters
    ----------
    world : World
    pool : Pool
    targets : sequence of TcpTarget, length n
        Where each inverter answers.
    speed : float
        Bench seconds per real second.
    zero_unix_s : float
        When bench time was 0 [s].
    """
    step_ns = world.price_step_ns
    return Inventory(
        scenario=world.scenario_name,
        clock=Clock(
            zero_unix_s=zero_unix_s,
            speed=speed,
            start_of_day_s=world.start_of_day_ns / 1e9,
            duration_s=world.duration_ns / 1e9,
            poll_s=pool.poll_s,
            delay_s_max=pool.delay_s_max,
        ),
        prices=Prices(
            step_s=step_ns / 1e9,
            ahead_usd_per_mwh=tuple(world.prices_ahead_usd_per_mwh[: _DAY_NS // step_ns].tolist()),
        ),
        devices=tuple(_device(world, pool, d, target) for d, target in enumerate(targets)),
    )


def _device(world: World, pool: Pool, d: int, target: TcpTarget) -> InventoryDevice:
    profile, can, promise = world.profiles[d], pool.capabilities, pool.commitments
    others = {"import_w_max", "export_w_max", "has_reserve", "revert_state"}
    numbers = {name: float(getattr(can, name)[d]) for name in Ratings.model_fields if name not in others}
    families = profile.control.families
    return InventoryDevice(
        name=world.names[d],
        profile=profile.profile,
        host=target.host,
        port=target.port,
        unit=target.unit,
        meter_unit=target.unit + profile.face.meter_unit_offset,
        target=str(target),
        base_address=profile.face.base_address,
        family="704" if "704" in families else "124" if "124" in families else None,
        connections_max=profile.face.connections_max,
        ratings=Ratings(
            **numbers,
            import_w_max=_limit(can.import_w_max[d]),
            export_w_max=_limit(can.export_w_max[d]),
            has_reserve=bool(can.has_reserve[d]),
            revert_state=can.revert_state[d],
        ),
        commitment=Promise(**{name: float(getattr(promise, name)[d]) for name in Promise.model_fields}),
    )


def _limit(limit_w: float) -> float | None:
    return float(limit_w) if math.isfinite(limit_w) else None


def write_inventory(path: Path, inventory: Inventory) -> None:
    """Make the inventory file appear, whole.

    Raises
    ------
    RidethroughError
        The disk refuses it.
    """
    write_json(path, inventory.model_dump(mode="json"))
