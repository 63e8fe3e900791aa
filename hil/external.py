"""A controller that is a program of its own and speaks Modbus to the devices: the bench sits in between.

Duty: serve the devices, each behind its network; tell the program where they are; start and end it; record
what happens and what the devices are told.
Rules of this file: the bench has no connection of its own, since devices may take one only.  What the program
has read and decided nobody here knows, so the record holds no telemetry, and of commands what the devices
were told.  A program that ends before the run does has failed; with exit code 0 it may be one poll early.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from ridethrough.controllers.contract import Pool
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import Plant

from .assembly import make_header, make_plant, make_pool
from .bench import Run
from .injection import Injector
from .inventory import inventory_of, write_inventory
from .judge import judge
from .mqtt.standing import Mqtt, standing_gateway
from .pacer import SECOND_NS, check_speed
from .program import Program, read_command
from .record import PartInfo, RecordWriter, read_record, write_verdict
from .remote import open_control
from .sockets import TIMEOUT_S_MIN, Sockets
from .stage import EXTERNAL, WITHOUT_CONTROLLER, Stage, refusal
from .target import TcpTarget, parse_target
from .world import World

INVENTORY: Final = "inventory.json"
LOG: Final = "controller.log"
"""Files beside the record."""

REACH: Final = WITHOUT_CONTROLLER | {"link"}
"""Places of faults that act on an external program's run."""


def run_external(
    world: World,
    command: str,
    folder: Path,
    *,
    speed: float = 1.0,
    progress: Callable[[int], None] | None = None,
    on_part: Callable[[PartInfo], None] | None = None,
    mqtt: Mqtt | None = None,
    opened: Callable[[Path], None] | None = None,
) -> Run:
    """Run a world against an external program, record it, and judge the record.

    Parameters
    ----------
    world : World
    command : str
        See `ExternalBench`.
    folder : Path
        Of the record; must not hold anything.
    speed : float
        Bench seconds per real second.
    progress : callable, optional
        Called often with the bench time [ns].
    on_part : callable, optional
        Called when a part of the record is safely on the disk.
    mqtt : Mqtt, optional
        Put a gateway between the program and the devices.
    opened : callable, optional
        Faults can be injected while it runs; called with the bench's file, see `remote`.

    Raises
    ------
    ScenarioError
        The command, an event, the speed or the folder cannot be used.
    RidethroughError
        The disk refused the record.
    """
    check_speed(speed)
    if command:
        read_command(command, folder / INVENTORY)
    plant = make_plant(world)
    pool = make_pool(world, plant)
    pool = replace(pool, delay_s_max=max(pool.delay_s_max, TIMEOUT_S_MIN * speed))
    header = make_header(world, pool, plant, level="hil", controller=EXTERNAL + command, speed=speed)
    _check_events(world)
    started_s = time.perf_counter()
    writer = RecordWriter(folder, header, on_part=on_part)
    bench = ExternalBench(
        world, plant, pool, command, writer, speed=speed, progress=progress, mqtt=mqtt, opened=opened
    )
    try:
        asyncio.run(bench.run())
    except KeyboardInterrupt:
        writer.close("interrupted")
        raise
    stage = bench.stage
    writer.close(
        "completed" if bench.fault is None else "controller failed",
        detail=bench.fault or stage.fitness.detail,
        bench_fault=stage.fitness.fault,
        stopped=stage.stopped,
    )
    ended_s = time.perf_counter()
    verdict = judge(read_record(folder))
    write_verdict(folder, verdict.to_dict())
    return Run(folder, verdict, ended_s - started_s, time.perf_counter() - ended_s)


def _check_events(world: World) -> None:
    """Refuse events that act on a controller or broker of the bench's own."""
    lines = [
        f"event {event.number}: {event.fault} found with --external; allowed those that act here: {why}"
        for event in world.events
        if (why := refusal(event.fault, REACH))
    ]
    if lines:
        raise ScenarioError("\n".join(lines[:5]))


class ExternalBench:
    """One run against an external program, over real sockets.

    Parameters
    ----------
    world : World
    plant : Plant
        At its start.
    pool : Pool
    command : str
        What to start, as in a shell but without one; ``{inventory}`` is replaced.  Empty with MQTT, where a
        program may come by itself.
    writer : RecordWriter
        Left open.
    speed : float
        Bench seconds per real second.
    progress : callable, optional
        Called with the bench time now and then [ns].
    mqtt : Mqtt, optional
        Put a gateway between the program and the devices.
    opened : callable, optional
        Faults can be injected while it runs; called with the bench's file, see `remote`.

    Attributes
    ----------
    stage : Stage
        The world, for those who inject faults.
    fault : str or None
        How the program failed, once it has; the world goes on without it.
    fault_ns : int
        When that was, on the bench's clock; -1 before [ns].

    Raises
    ------
    ScenarioError
        The command cannot be read, or there is no such program.
    """

    def __init__(
        self,
        world: World,
        plant: Plant,
        pool: Pool,
        command: str,
        writer: RecordWriter,
        *,
        speed: float,
        progress: Callable[[int], None] | None = None,
        mqtt: Mqtt | None = None,
        opened: Callable[[Path], None] | None = None,
    ) -> None:
        self.world, self.pool, self._mqtt, self._opened = world, pool, mqtt, opened
        self._inventory, self._log = writer.folder / INVENTORY, writer.folder / LOG
        self._words = read_command(command, self._inventory.resolve()) if command else []
        self._network = Sockets(speed, world.comms.timeout_ns)
        self.stage = Stage(
            world,
            plant,
            speed=speed,
            late_ns_max=round(pool.delay_s_max * 1e9),
            writer=writer,
            reach=REACH,
            progress=progress,
        )
        self.fault: str | None = None
        self.fault_ns = -1

    async def run(self) -> None:
        """Serve, start the program, and let the world go on until its end."""
        stage = self.stage
        async with AsyncExitStack() as stack:
            targets = [await self._serve(stack, d) for d in range(stage.plant.n)]
            environment = {}
            if self._mqtt is not None:
                door = standing_gateway(
                    self.world,
                    {name: str(target) for name, target in zip(self.world.names, targets, strict=True)},
                    self._mqtt,
                    speed=stage.speed,
                    timeout_s=self._network.timeout_s,
                    over=stage.stop,
                )
                address = await stack.enter_async_context(door)
                environment = {"RIDETHROUGH_MQTT": str(address), "RIDETHROUGH_POOL": self.world.scenario_name}
            program = Program(self._words, self._inventory, self._log, environment) if self._words else None
            if program is not None:
                stack.push_async_callback(program.end)  # before its devices vanish
            stage.start(self._network.clock())
            zero_unix_s = time.time()
            inventory = inventory_of(
                self.world, self.pool, targets, speed=stage.speed, zero_unix_s=zero_unix_s
            )
            write_inventory(self._inventory, inventory)
            if self._opened is not None:
                facts = {"level": "hil", "speed": stage.speed, "record": str(self._inventory.parent)}
                entrance = open_control(Injector(stage, facts), self.world.scenario_name)
                self._opened(await stack.enter_async_context(entrance))
            watch: list[asyncio.Task[None]] = []
            if program is not None:
                await program.start()
                watch.append(asyncio.create_task(self._watch(program)))
            try:
                await stage.run()
            finally:
                for task in watch:
                    task.cancel()
                await asyncio.gather(*watch, return_exceptions=True)

    async def _serve(self, stack: AsyncExitStack, d: int) -> TcpTarget:
        units = self.stage.units(self.stage.plant, d)
        target = parse_target(await self._network.open(stack, self.stage, d, units))
        assert isinstance(target, TcpTarget)
        return target

    async def _watch(self, program: Program) -> None:
        """Note it when the program ends before the run does."""
        code, how = await program.ended()
        now_ns = self.stage.clock.now_ns()
        if code == 0 and now_ns >= self.world.duration_ns - self.world.poll_ns:
            return  # by its own clock the run was over
        clock = self.world.clock(now_ns // SECOND_NS * SECOND_NS)
        self.fault = f"the program ended by itself at {clock} with {how}"
        self.fault_ns = now_ns
