"""The bench around devices behind registers: software and hardware in the loop.

Each device sits behind a Modbus server of its own, a link injects the network's faults, and one actor per
device owns its only connection: it polls, and writes what the controller last asked.  Plant, record, faults
and controller are those of the model level.  How devices are reached is the network's business: real sockets
(`sockets`) on the real clock, or memory in virtual time (`sil`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ridethrough.controllers.contract import Pool, Telemetry
from ridethrough.emulator.errors import RidethroughError
from ridethrough.emulator.plant import Plant

from .actor import Actor, Board, Floor, orders_of
from .desk import Desk
from .device import Device
from .effects.candidate import CandidateFaults
from .effects.orders import OrderFaults, limits_of
from .injection import Injector
from .pacer import RealClock
from .record import Columns, RecordWriter
from .remote import open_control
from .slow_clients import SlowClients
from .stage import WITHOUT_CONTROLLER, Stage
from .world import World

if TYPE_CHECKING:
    from ridethrough.emulator._modbus import Unit

GRACE_TIMEOUTS = 4.0
"""After a failure the client waits for up to two time-outs, and then for one more."""

REACH = WITHOUT_CONTROLLER | {"link", "orders", "candidate"}
"""Places of faults that act on a run of the bench's own: all of them."""

Progress = Callable[[int], None]
Units = dict[int, "Unit"]
"""What a Modbus server calls, by unit id."""


class Network(Protocol):
    """How the bench reaches its devices.

    Attributes
    ----------
    timeout_s : float
        A connect and an answer may take this long each, in the loop's time [s].
    apart : bool
        The bench goes on while the controller, in a process of its own, is thinking.
    speed : float
        Bench seconds per second of the loop's time.
    """

    timeout_s: float
    apart: bool
    speed: float

    def clock(self) -> RealClock:
        """Return bench time, which begins now."""

    async def open(self, stack: AsyncExitStack, stage: Stage, d: int, units: Units) -> str:
        """Serve device `d` behind its link and return where clients reach it, as a target."""

    def touched(self, d: int, since_ns: int) -> bool:
        """Whether a fault has touched what passed between the bench and device `d` since then [ns]."""

    def address_of(self, d: int) -> tuple[str, int]:
        """Return where device `d` itself listens, past its link."""

    def begin(self, d: int, is_command: bool) -> None:
        """Let what passes to and from device `d` be one poll, or one command, to the network's faults."""


class LiveBench:
    """One run against devices behind registers.

    Parameters
    ----------
    world : World
    plant : Plant
        At its start.
    pool : Pool
    candidate : CandidateFaults
        Enrolled.
    writer : RecordWriter
        Left open.
    network : Network
    progress : callable, optional
        Called with the bench time now and then [ns].
    opened : callable, optional
        Faults can be injected while it runs; called with the bench's file, see `remote`.

    Attributes
    ----------
    stage : Stage
        The world, its devices and its clock.
    """

    def __init__(
        self,
        world: World,
        plant: Plant,
        pool: Pool,
        candidate: CandidateFaults,
        writer: RecordWriter,
        network: Network,
        progress: Progress | None = None,
        opened: Callable[[Path], None] | None = None,
    ) -> None:
        self.world, self.pool, self.writer, self.network = world, pool, writer, network
        self._opened = opened
        self._board = Board(plant.n, writer)
        self.stage = Stage(
            world,
            plant,
            speed=network.speed,
            late_ns_max=round(pool.delay_s_max * 1e9),
            writer=writer,
            reach=REACH,
            progress=progress,
            watched=False,
        )
        self.stage.flushes = (self._board.flush,)
        broker = OrderFaults(world.seed, world.names, limits=limits_of(plant), tell=self._tell)
        self._desk = Desk(candidate, broker)
        self._actors: list[Actor] = []
        self._told: list[Columns] = []

    async def run(self) -> None:
        """Serve, poll, decide and step until the world's duration is over.

        Raises
        ------
        DeviceError
            A device cannot be reached or mapped at the start.
        """
        async with AsyncExitStack() as stack:
            n = self.stage.plant.n
            devices = [await self._make_device(stack, d) for d in range(n)]
            await asyncio.gather(*(device.discover() for device in devices))
            self.stage.start(self.network.clock())
            floor = self._floor()
            self._actors = [Actor(floor, d, n, device) for d, device in enumerate(devices)]
            if self._opened is not None:
                facts = {"level": "hil", "speed": self.network.speed, "record": str(self.writer.folder)}
                door = open_control(Injector(self.stage, facts), self.world.scenario_name)
                self._opened(await stack.enter_async_context(door))
            try:
                await self._play(floor)
            except BaseExceptionGroup as group:
                raise _told(group) from group

    def _floor(self) -> Floor:
        clock, network = self.stage.clock, self.network
        return Floor(
            clock,
            self.world.poll_ns,
            round(self.pool.delay_s_max * 1e9),
            self._board,
            self.writer,
            self.stage.fitness,
            network.touched,
            round(GRACE_TIMEOUTS * network.timeout_s * clock.speed * 1e9),
            network.begin,
            self.stage.registers.stamp_ns,
        )

    async def _play(self, floor: Floor) -> None:
        """Let everybody act until the plant has reached the end."""
        stage = self.stage
        slow = SlowClients(self.network.address_of, stage.clock, lambda: stage.scene.events(stage.now_ns))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(actor.act()) for actor in self._actors]
            tasks += [group.create_task(self._control(floor)), group.create_task(slow.run())]
            try:
                await stage.run()
            finally:
                # On Python 3.11 asyncio.wait_for loses a cancellation that arrives together with a reply, so
                # the actors also look for themselves whether the run is over, by an error too.
                floor.over = True
            for task in tasks:
                task.cancel()

    async def _make_device(self, stack: AsyncExitStack, d: int) -> Device:
        """Serve device `d` behind its link and return the client to it."""
        target = await self.network.open(stack, self.stage, d, self.stage.units(self.stage.plant, d))
        # A read asked again would hide the messages that the scenario loses.
        device = Device(target, timeout_s=self.network.timeout_s, reread=False)
        return await stack.enter_async_context(device)

    async def _control(self, floor: Floor) -> None:
        """Ask the controller in time and hand its commands to the actors."""
        desk, stage = self._desk, self.stage
        now_ns = -1
        while not floor.over:
            await stage.clock.sleep_until(min(desk.next_ns, stage.scene.next_edge_ns(now_ns)))
            now_ns = stage.clock.now_ns()
            events = stage.scene.events(now_ns)
            turn = partial(desk.turn, now_ns, partial(_same, self._telemetry()), events)
            # A controller in this process is asked in this thread, where its deadline is a signal.
            due = await asyncio.to_thread(turn) if self.network.apart else turn()
            for rows in self._told:
                self.writer.append_telemetry(rows)
            self._told.clear()
            for commands in due:
                for d, order in orders_of(now_ns, commands):
                    self._actors[d].give(order)

    def _tell(self, rows: Columns) -> None:
        """Record readings that reached the controller without a poll."""
        # The controller may be asked in another thread, and the record belongs to this one.
        self._told.append(rows)

    def _telemetry(self) -> Telemetry:
        """Return what the controller is shown."""
        prices = self.stage.scene.prices(min(self.stage.clock.now_ns(), self.world.duration_ns - 1))
        return self._board.telemetry(prices)


def _same(telemetry: Telemetry) -> Telemetry:
    return telemetry


def _told(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error on purpose in a group, for the user; the group itself when it holds none."""
    ours, _ = group.split(RidethroughError)
    found: BaseException = group if ours is None else ours
    while isinstance(found, BaseExceptionGroup) and ours is not None:
        found = found.exceptions[0]
    return found
