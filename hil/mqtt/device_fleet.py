"""A fleet of devices behind Modbus, emulated or physical, which it polls itself.

Rules of this file: one connection to each device, as the device's only client; polls are spread over the
period; a device that fails is asked again at its next turn.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Final

from ..control import DeviceCapabilities
from ..device import Device
from ..modbus_link import TargetError
from ..readings import Reading
from .fleet import Outcome, Report, Silent, Told, unix_ms
from .payloads import DeviceInfo

Promises = Mapping[str, tuple[float, float]]
"""By a device's name the hours of backup [h] and the load [W] that its home was promised."""

BLIND_INFO: Final = "not reached yet"


_LOST_S = 0.2
"""A poll that has not ended so long after its cancellation has lost it [s]."""


class DeviceFleet:
    """Devices that are read and commanded by `Device`.

    Parameters
    ----------
    pool : str
    names : sequence of str
    devices : sequence of Device
        Entered; discovered by their first use.
    poll_s : float
        [s].
    speed : float
        See `payloads.Info`.
    promises : mapping, optional
        See `Promises`.
    """

    def __init__(
        self,
        pool: str,
        names: Sequence[str],
        devices: Sequence[Device],
        *,
        poll_s: float,
        speed: float = 1.0,
        promises: Promises | None = None,
    ) -> None:
        self.pool, self.poll_s, self.speed = pool, poll_s, speed
        self._names, self._devices = tuple(names), tuple(devices)
        self._promises = dict(promises or {})
        self.devices: Sequence[DeviceInfo] = [
            _info(name, BLIND_INFO, self._promises.get(name), None) for name in names
        ]
        self._told: list[Told] = []
        self._silent: list[Silent] = []
        self._beats = [math.nan] * len(self._devices)
        self._measured_ms = [0] * len(self._devices)

    def now_ms(self) -> int:
        """See `Fleet`."""
        return unix_ms()

    def listen(self, told: Told, silent: Silent) -> None:
        """See `Fleet`."""
        self._told.append(told)
        self._silent.append(silent)

    async def discover(self) -> None:
        """Find out what each device is.

        Raises
        ------
        TargetError
            One does not answer, or is no SunSpec device.
        """
        self.devices = await asyncio.gather(*(self._discover(d) for d in range(len(self._devices))))

    async def _discover(self, d: int) -> DeviceInfo:
        name, found = self._names[d], await self._devices[d].discover()
        model = f"{found.identity.manufacturer} {found.identity.model}".strip()
        return _info(name, model, self._promises.get(name), await self._devices[d].capabilities())

    async def poll(self) -> None:
        """Poll all devices until cancelled."""
        tasks = [asyncio.create_task(self._poll(d)) for d in range(len(self._devices))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            # On Python 3.11 asyncio.wait_for loses a cancellation that arrives together with a reply: whoever
            # has lost his is cancelled again.
            left: set[asyncio.Task[None]] = set(tasks)
            while left:
                for task in left:
                    task.cancel()
                _, left = await asyncio.wait(left, timeout=_LOST_S)

    async def _poll(self, d: int) -> None:
        loop = asyncio.get_running_loop()
        next_s = loop.time() + self.poll_s * d / len(self._devices)
        while True:
            await asyncio.sleep(max(0.0, next_s - loop.time()))
            asked_ms = unix_ms()
            try:
                reading = await self._devices[d].telemetry()
            except TargetError as error:
                for silent in self._silent:
                    silent(d, str(error))
            else:
                for told in self._told:
                    told(self._report(d, asked_ms, reading))
            next_s += ((loop.time() - next_s) // self.poll_s + 1) * self.poll_s

    def _report(self, d: int, asked_ms: int, reading: Reading) -> Report:
        # A heart that stands still means the reading is no newer than the last one.
        still = not math.isnan(reading.heartbeat) and reading.heartbeat == self._beats[d]
        self._beats[d] = reading.heartbeat
        if not still:
            self._measured_ms[d] = asked_ms
        values = (reading.soc_frac, reading.power_w, reading.import_w, reading.grid_good)
        return Report(d, self._measured_ms[d], still, *values)

    async def command(
        self, d: int, power_w: float | None, validity_s: float | None, reserve_soc_frac: float | None
    ) -> Outcome:
        """See `Fleet`; the reserve first, so that no set-point holds under an old one."""
        device = self._devices[d]
        held_w = held_frac = None
        try:
            if reserve_soc_frac is not None:
                held_frac = await device.set_reserve(reserve_soc_frac)
            if power_w is not None and validity_s is not None:
                held_w = await device.set_power(power_w, math.ceil(validity_s))
        except TargetError as error:
            return Outcome("refused" if error.refused else "lost", str(error), held_w, held_frac)
        return Outcome("applied", "", held_w, held_frac)


def _info(
    name: str, model: str, promise: tuple[float, float] | None, can: DeviceCapabilities | None
) -> DeviceInfo:
    return DeviceInfo(
        name=name,
        model=model,
        energy_wh=None if can is None else _known(can.energy_wh),
        power_w_charge_max=None if can is None else _known(can.power_w_charge_max),
        power_w_discharge_max=None if can is None else _known(can.power_w_discharge_max),
        soc_frac_min=None if can is None else _known(can.soc_frac_min),
        soc_frac_max=None if can is None else _known(can.soc_frac_max),
        has_reserve=can is not None and can.has_reserve,
        backup_hours_h=None if promise is None else promise[0],
        backup_load_w=None if promise is None else promise[1],
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
