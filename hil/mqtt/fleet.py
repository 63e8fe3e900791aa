"""What the gateway stands in front of: devices that can be read and commanded.

Rules of this file: nothing of MQTT.  A fleet tells what it has read by calling back; it keeps no message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ridethrough.controllers.contract import Pool

from .payloads import DeviceInfo


@dataclass(frozen=True, slots=True)
class Report:
    """One reading of one device; NaN is unknown.

    Attributes
    ----------
    d : int
        The device's row.
    measured_ms : int
        When the device measured it, on the fleet's clock [ms since 1970].
    is_old : bool
        The device answered, and its clock stands still.
    soc_frac : float
        [1].
    power_w : float
        At the AC terminals, positive out of the device [W].
    import_w : float
        At the home's meter, import positive [W].
    grid_good : float
        1 following the grid, else 0.
    """

    d: int
    measured_ms: int
    is_old: bool
    soc_frac: float
    power_w: float
    import_w: float
    grid_good: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command at a device.

    Attributes
    ----------
    kind : {"applied", "refused", "lost"}
        Lost means that nobody knows.
    text : str
        Why, unless it was applied.
    power_w, reserve_soc_frac : float or None
        What the device holds now, as far as the command changed it [W], [1].
    """

    kind: Literal["applied", "refused", "lost"]
    text: str = ""
    power_w: float | None = None
    reserve_soc_frac: float | None = None


Told = Callable[[Report], None]
Silent = Callable[[int, str], None]


class Fleet(Protocol):
    """Devices by row.

    Attributes
    ----------
    pool : str
    devices : sequence of DeviceInfo
    poll_s, speed : float
        See `payloads.Info`.
    """

    pool: str
    devices: Sequence[DeviceInfo]
    poll_s: float
    speed: float

    def now_ms(self) -> int:
        """Return the time [ms since 1970]."""

    def listen(self, told: Told, silent: Silent) -> None:
        """Call `told` with each reading from now on, and `silent` when a device does not answer, and why."""

    async def command(
        self, d: int, power_w: float | None, validity_s: float | None, reserve_soc_frac: float | None
    ) -> Outcome:
        """Let a device do something, and return when it has accepted or not; never raises what devices do."""


def unix_ms() -> int:
    """Return the time of the machine [ms since 1970]."""
    return time.time_ns() // 1_000_000


def infos_of(pool: Pool, models: Sequence[str]) -> tuple[DeviceInfo, ...]:
    """Return what a controller over MQTT is told of a bench's pool: what one in Python is told.

    Parameters
    ----------
    pool : Pool
    models : sequence of str, length n
        What each device is, such as its profile's name.
    """
    can, promised = pool.capabilities, pool.commitments
    return tuple(
        DeviceInfo(
            name=name,
            model=models[d],
            energy_wh=float(can.energy_wh[d]),
            power_w_charge_max=float(can.power_w_charge_max[d]),
            power_w_discharge_max=float(can.power_w_discharge_max[d]),
            soc_frac_min=float(can.soc_frac_min[d]),
            soc_frac_max=float(can.soc_frac_max[d]),
            has_reserve=bool(can.has_reserve[d]),
            backup_hours_h=float(promised.hours_h[d]),
            backup_load_w=float(promised.load_w[d]),
        )
        for d, name in enumerate(pool.names)
    )


Give = Callable[[int, float | None, float | None, float | None], Awaitable[Outcome]]


class HookedFleet:
    """A fleet that somebody else reads and commands, such as a bench in the middle of a run.

    Whoever reads calls `report` and `lose`.

    Parameters
    ----------
    pool : str
    devices : sequence of DeviceInfo
    give : callable
        As `Fleet.command`.
    poll_s, speed : float
        See `payloads.Info`.
    answer_s_max : float
        A command that has no outcome after this is lost [s].
    """

    def __init__(
        self,
        pool: str,
        devices: Sequence[DeviceInfo],
        give: Give,
        *,
        poll_s: float,
        speed: float = 1.0,
        answer_s_max: float = 15.0,
    ) -> None:
        self.pool, self.poll_s, self.speed = pool, poll_s, speed
        self.devices: Sequence[DeviceInfo] = tuple(devices)
        self._give, self._answer_s_max = give, answer_s_max
        self._told: list[Told] = []
        self._silent: list[Silent] = []

    def now_ms(self) -> int:
        """See `Fleet`."""
        return unix_ms()

    def listen(self, told: Told, silent: Silent) -> None:
        """See `Fleet`."""
        self._told.append(told)
        self._silent.append(silent)

    async def command(
        self, d: int, power_w: float | None, validity_s: float | None, reserve_soc_frac: float | None
    ) -> Outcome:
        """See `Fleet`."""
        try:
            async with asyncio.timeout(self._answer_s_max):
                return await self._give(d, power_w, validity_s, reserve_soc_frac)
        except TimeoutError:
            return Outcome("lost", f"no answer within {self._answer_s_max:g} s")

    def report(
        self,
        d: int,
        age_s: float,
        *,
        is_old: bool,
        soc_frac: float,
        power_w: float,
        import_w: float,
        grid_good: float,
    ) -> None:
        """Tell of a reading that was measured `age_s` real seconds ago."""
        measured_ms = unix_ms() - round(1000.0 * age_s)
        for told in self._told:
            told(Report(d, measured_ms, is_old, soc_frac, power_w, import_w, grid_good))

    def lose(self, d: int, text: str) -> None:
        """Tell that a device does not answer."""
        for silent in self._silent:
            silent(d, text)
