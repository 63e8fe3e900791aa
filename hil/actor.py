"""The actor of one device: it owns the bench's only connection to it, polls, and writes what was commanded.

Rules of this file: one request at a time and one actor per device; what an actor learns goes to the board,
which the controller sees, and to the record.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from ridethrough.controllers.contract import Commands, Prices, Telemetry

from .device import Device
from .fitness import Fitness
from .messages import LOST
from .modbus_link import TargetError
from .pacer import RealClock
from .record import OUTCOMES, RecordWriter

VALUES: Final = ("soc_frac", "power_w", "import_w", "grid_good")

_ROWS_PER_WRITE: Final = 512


@dataclass(slots=True)
class Order:
    """What the controller last asked of one device; `decided_ns` is when [ns]."""

    decided_ns: int
    power_w: float
    validity_s: float
    reserve_soc_frac: float


class Board:
    """The newest reading of every device, and all of them on their way to the record."""

    def __init__(self, n: int, writer: RecordWriter) -> None:
        self._writer = writer
        self._rows: list[tuple[float, ...]] = []
        self.measured_ns = np.full(n, -1, dtype=np.int64)
        self.received_ns = np.full(n, -1, dtype=np.int64)
        self.values = {name: np.full(n, np.nan) for name in VALUES}

    def put(self, d: int, measured_ns: int, received_ns: int, values: tuple[float, ...]) -> None:
        """Note a reading of device `d`; `values` in the order of `VALUES`."""
        self.measured_ns[d], self.received_ns[d] = measured_ns, received_ns
        for name, value in zip(VALUES, values, strict=True):
            self.values[name][d] = value
        self._rows.append((received_ns, measured_ns, d, *values))
        if len(self._rows) >= _ROWS_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        """Hand the readings so far to the record."""
        if not self._rows:
            return
        received_ns, measured_ns, device, *values = zip(*self._rows, strict=True)
        self._rows = []
        times = {"received_ns": received_ns, "measured_ns": measured_ns, "device": device}
        self._writer.append_telemetry(
            {name: np.array(column, dtype=np.int64) for name, column in times.items()}
            | {name: np.array(column) for name, column in zip(VALUES, values, strict=True)}
        )

    def telemetry(self, prices: Prices) -> Telemetry:
        """Return what the controller is shown."""
        return Telemetry(
            measured_ns=self.measured_ns.copy(),
            received_ns=self.received_ns.copy(),
            prices=prices,
            **{name: values.copy() for name, values in self.values.items()},
        )


@dataclass(slots=True)
class Floor:
    """What all actors of a run share.

    Attributes
    ----------
    clock : RealClock
    poll_ns : int
        Each device is polled this often [ns].
    order_ns_max : int
        An order that waited longer is not carried out any more [ns].
    board : Board
    writer : RecordWriter
    fitness : Fitness
    touched : callable
        Whether a fault has touched what passed between the bench and a device since a bench time [ns].
    grace_ns : int
        What a fault did this long ago may still be felt: the client waits before it connects again [ns].
    begin : callable
        Told that a poll, or a command (True), of a device begins: one message to the network's faults.
    stamp_ns : callable
        Time stamp of a device's reading that was asked for at a bench time [ns].
    over : bool
        The run is at its end.
    """

    clock: RealClock
    poll_ns: int
    order_ns_max: int
    board: Board
    writer: RecordWriter
    fitness: Fitness
    touched: Callable[[int, int], bool]
    grace_ns: int
    begin: Callable[[int, bool], None]
    stamp_ns: Callable[[int, int], int]
    over: bool = field(default=False)


class Actor:
    """Polls one device and writes to it.

    Parameters
    ----------
    floor : Floor
    d, n : int
        Which device, of how many: polls are spread over the period.
    device : Device
        Discovered.
    """

    def __init__(self, floor: Floor, d: int, n: int, device: Device) -> None:
        self._floor, self._d, self._device = floor, d, device
        self._next_ns = floor.poll_ns * d // n
        self._order: Order | None = None
        self._woken = asyncio.Event()
        self._beat = math.nan

    def give(self, order: Order) -> None:
        """Let an order be written as soon as the connection is free; it replaces one that waits."""
        self._order = order
        self._woken.set()

    async def act(self) -> None:
        """Poll in time and write what was asked, until the run is over."""
        clock, poll_ns = self._floor.clock, self._floor.poll_ns
        while not self._floor.over:
            if not self._woken.is_set():
                with suppress(TimeoutError):  # no order came before the poll was due
                    async with asyncio.timeout(max(0.0, clock.real_s(self._next_ns - clock.now_ns()))):
                        await self._woken.wait()
            if self._woken.is_set():
                self._woken.clear()
                await self._write()
            if clock.now_ns() >= self._next_ns:
                await self._poll()
                # The next turn of this device that is still to come, however long this one took.
                self._next_ns += ((clock.now_ns() - self._next_ns) // poll_ns + 1) * poll_ns

    async def _poll(self) -> None:
        """Read the device; without an answer the controller sees the last reading grow old."""
        floor, d = self._floor, self._d
        asked_ns = floor.clock.now_ns()
        floor.begin(d, False)
        try:
            reading = await self._device.telemetry()
        except TargetError as error:
            self._note(asked_ns, error)
            return
        # A heart that stands still means the reading is no newer than the last one.
        still = not math.isnan(reading.heartbeat) and reading.heartbeat == self._beat
        self._beat = reading.heartbeat
        measured_ns = int(floor.board.measured_ns[d]) if still else floor.stamp_ns(d, asked_ns)
        values = tuple(float(getattr(reading, name)) for name in VALUES)
        floor.board.put(d, measured_ns, floor.clock.now_ns(), values)

    async def _write(self) -> None:
        """Write the last order to the device and note what became of it."""
        floor, order = self._floor, self._order
        self._order = None
        if order is None:
            return
        outcome = "lost"
        begun_ns = floor.clock.now_ns()
        floor.begin(self._d, True)
        # An order that waited out a dead connection is too old to be carried out.
        if begun_ns - order.decided_ns <= floor.order_ns_max:
            try:
                if not math.isnan(order.reserve_soc_frac):
                    await self._device.set_reserve(order.reserve_soc_frac)
                if not math.isnan(order.power_w):
                    # The device counts bench seconds, whole ones.
                    await self._device.set_power(order.power_w, math.ceil(order.validity_s))
                outcome = "delivered"
            except TargetError as error:
                outcome = "refused" if error.refused else "lost"
                self._note(begun_ns, error)
        floor.writer.append_commands(
            {
                "t_ns": np.array([order.decided_ns]),
                "arrival_ns": np.array([LOST if outcome == "lost" else floor.clock.now_ns()]),
                "device": np.array([self._d]),
                "power_w": np.array([order.power_w]),
                "validity_s": np.array([order.validity_s]),
                "reserve_soc_frac": np.array([order.reserve_soc_frac]),
                "outcome": np.array([OUTCOMES.index(outcome)]),
            }
        )

    def _note(self, since_ns: int, error: TargetError) -> None:
        """Note an exchange that failed by nothing that the scenario did."""
        floor = self._floor
        if not (error.refused or floor.over or floor.touched(self._d, since_ns - floor.grace_ns)):
            floor.fitness.broke(since_ns, self._d, error)


def orders_of(now_ns: int, commands: Commands) -> list[tuple[int, Order]]:
    """Return the rows of commands that say anything, each as the order for its device."""
    asked = ~np.isnan(commands.power_w) | ~np.isnan(commands.reserve_soc_frac)
    return [
        (
            int(d),
            Order(
                now_ns,
                float(commands.power_w[d]),
                float(commands.validity_s[d]),
                float(commands.reserve_soc_frac[d]),
            ),
        )
        for d in np.flatnonzero(asked)
    ]
