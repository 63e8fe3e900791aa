"""Clients that dribble a frame's header at a device, byte by byte, as long as a scenario asks for them.

Rule of this file: they are real connections to the device itself, past the network's faults; they never send
a whole frame, so nothing is ever carried out for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from .faults import Event
from .units import SECOND_NS

FAULT: Final = "comms.slow-loris"

_HEADER: Final = bytes.fromhex("000100000006 01")
_LOOK_NS: Final = 5 * SECOND_NS
"""How often it is seen whether such clients are due."""

_Client = tuple[int, int, int]
"""Number of the event, row of the device, and which client."""


class Clock(Protocol):
    """The bench's time."""

    def real_s(self, bench_ns: int, /) -> float:
        """Return the real length of an interval [s]."""


class SlowClients:
    """All slow clients of one run.

    Parameters
    ----------
    address_of : callable
        Given the row of a device, host and port at which it listens itself.
    clock : Clock
    events : callable
        Returns the events in force now.
    """

    def __init__(
        self,
        address_of: Callable[[int], tuple[str, int]],
        clock: Clock,
        events: Callable[[], Sequence[Event]],
    ) -> None:
        self._address_of, self._clock, self._events = address_of, clock, events
        self._tasks: dict[_Client, asyncio.Task[None]] = {}

    @property
    def count(self) -> int:
        """How many there are now."""
        return len(self._tasks)

    async def run(self) -> None:
        """Open and close clients as the events want it, until cancelled."""
        try:
            while True:
                self.look()
                await asyncio.sleep(self._clock.real_s(_LOOK_NS))
        finally:
            tasks = list(self._tasks.values())
            self._tasks.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def look(self) -> None:
        """Open and close clients as the events want it now."""
        wanted: dict[_Client, Event] = {
            (event.number, row, k): event
            for event in self._events()
            if event.fault == FAULT
            for row in event.targets
            for k in range(int(event.params["clients"]))
        }
        for client in [client for client in self._tasks if client not in wanted]:
            self._tasks.pop(client).cancel()
        for client, event in wanted.items():
            if client not in self._tasks:
                every_ns = round(float(event.params["every_s"]) * 1e9)
                loop = asyncio.get_running_loop()
                self._tasks[client] = loop.create_task(self._dribble(client[1], every_ns))

    async def _dribble(self, row: int, every_ns: int) -> None:
        """Be one client, for ever; connect again when the device has had enough of it."""
        pause_s = self._clock.real_s(every_ns)
        while True:
            try:
                _, writer = await asyncio.open_connection(*self._address_of(row))
            except OSError:
                await asyncio.sleep(pause_s)
                continue
            try:
                for byte in _HEADER:
                    if writer.transport.is_closing():
                        break
                    writer.write(bytes((byte,)))
                    await asyncio.sleep(pause_s)
            finally:
                writer.transport.abort()
