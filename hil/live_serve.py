"""A scenario served as a world that is alive: faults act, more can be injected, and it may be recorded.

Duty: what ``serve`` does with a scenario beyond serving it: record, network, control endpoint, verdict.
Rules of this file: facts about where devices answer go where the caller says, words for people to standard
error; without a record nothing of Parquet is loaded.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import Plant

from .assembly import make_header, make_plant, make_pool
from .mqtt.standing import Mqtt, standing_gateway
from .remote import read_bench_file
from .serving import Served, serve_stage
from .sockets import TIMEOUT_S_MIN
from .stage import CLIENTS, WITHOUT_CONTROLLER, Stage
from .wires import Dress, Wire
from .world import World

if TYPE_CHECKING:
    from .mqtt.address import Address
    from .record import RecordWriter

INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class LiveWish:
    """What is wanted of a served scenario besides its devices.

    Attributes
    ----------
    record : Path or None
        Folder of the record.
    network : bool
        The scenario's network stands before each device.
    control : bool
        Faults can be injected.
    speed : float
        Bench seconds per real second.
    mqtt : Mqtt or None
        A gateway stands between MQTT and the devices.
    """

    record: Path | None
    network: bool
    control: bool
    speed: float
    mqtt: Mqtt | None = None

    @property
    def live(self) -> bool:
        """Whether anything is wanted."""
        return self.record is not None or self.network or self.control or self.mqtt is not None


def check_wish(wish: LiveWish, scenario: bool, wire: Wire, gateway: bool, dress: Dress | None) -> None:
    """Refuse what cannot be had together.

    Raises
    ------
    ScenarioError
    """
    wanted = {
        "--record": wish.record is not None,
        "--network": wish.network,
        "--mqtt": wish.mqtt is not None,
    }
    for option, asked in wanted.items():
        if asked and not scenario:
            raise ScenarioError(
                f"{option}: allowed with a scenario; found a device without a world of its own"
            )
    if wish.network and (wire.kind != "tcp" or gateway or dress is not None):
        found = "--gateway" if gateway else "--quirk" if dress is not None else wire.kind
        raise ScenarioError(f"--network with {found}; allowed with plain TCP and a port for each device")
    if wish.mqtt is not None and (wire.kind != "tcp" or gateway):
        found = "--gateway" if gateway else wire.kind
        raise ScenarioError(f"--mqtt with {found}; allowed with plain TCP and a port for each device")
    if wish.record is not None and dress is not None:
        raise ScenarioError("--record with --quirk; allowed without: what such devices are told is not seen")


class LiveServe:
    """One served scenario.

    Parameters
    ----------
    world : World
    wire : Wire
    dress : Dress or None
        Quirks of all devices.
    wish : LiveWish
        Checked.

    Raises
    ------
    ScenarioError
        The folder of the record cannot be used.
    """

    def __init__(self, world: World, wire: Wire, dress: Dress | None, wish: LiveWish) -> None:
        self._world, self._wire, self._dress, self._wish = world, wire, dress, wish
        plant = make_plant(world)
        reach = (WITHOUT_CONTROLLER if dress is None else WITHOUT_CONTROLLER - {"registers"}) | (
            {"link"} if wish.network else frozenset[str]()
        )
        self._writer = None if wish.record is None else self._open_record(plant, wish.record)
        self.stage = Stage(
            world,
            plant,
            speed=wish.speed,
            late_ns_max=world.comms.timeout_ns,
            writer=self._writer,
            reach=reach,
        )
        self._interrupted = False

    def _open_record(self, plant: Plant, folder: Path) -> RecordWriter:
        from .record import RecordWriter  # with its Parquet

        pool = make_pool(self._world, plant)
        header = make_header(
            self._world, pool, plant, level="hil", controller=CLIENTS, speed=self._wish.speed
        )
        return RecordWriter(folder, header)

    async def run(self, ready: Callable[[list[Served]], None]) -> int:
        """Serve until the scenario is over, `stop` or an interrupt; returns the exit code."""
        stage, wish = self.stage, self._wish
        for event in self._world.events:
            if why := stage.refuse(event.fault):
                _say(f"note: event {event.number}, {event.fault}, does nothing here: {why}")
        loop = asyncio.get_running_loop()
        if self._writer is not None:
            with suppress(NotImplementedError):  # a system whose loops know no signals: the record ends rough
                loop.add_signal_handler(signal.SIGINT, self._interrupt)
        facts: dict[str, Any] = {
            "level": "hil",
            "speed": wish.speed,
            "record": None if wish.record is None else str(wish.record.resolve()),
        }
        await serve_stage(
            stage,
            self._wire,
            ready,
            dress=self._dress,
            network=wish.network,
            opened=tell_control if wish.control else None,
            facts=facts,
            beside=None if wish.mqtt is None else partial(self._stand, wish.mqtt),
        )
        return self._finish()

    def _stand(self, mqtt: Mqtt, devices: list[Served]) -> AbstractAsyncContextManager[Address]:
        """Return the gateway between MQTT and the devices."""
        stage, world = self.stage, self._world
        return standing_gateway(
            world,
            {device.name: device.target for device in devices},
            mqtt,
            speed=stage.speed,
            timeout_s=max(world.comms.timeout_ns / 1e9 / stage.speed, TIMEOUT_S_MIN),
            over=stage.stop,
        )

    def _interrupt(self) -> None:
        """End in good order; a second interrupt ends at once."""
        self._interrupted = True
        self.stage.stop()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _finish(self) -> int:
        """Finish the record and judge it; returns the exit code."""
        stage, folder = self.stage, self._wish.record
        if self._writer is None or folder is None:
            return INTERRUPTED if self._interrupted else 0
        from .judge import judge
        from .record import read_record, write_verdict

        early = stage.now_ns < self._world.duration_ns
        self._writer.close(
            "completed", detail=stage.fitness.detail, bench_fault=stage.fitness.fault, stopped=early
        )
        verdict = judge(read_record(folder))
        write_verdict(folder, verdict.to_dict())
        until = self._world.clock(stage.now_ns)
        _say(f"{verdict.outcome}: {verdict.first_breach or 'no promise was broken'}; until {until}; {folder}")
        for reason in verdict.reasons:
            _say(reason)
        return INTERRUPTED if self._interrupted else verdict.exit_code


def tell_control(path: Path) -> None:
    """Say where the control endpoint is; its token only to a terminal, since logs are read by others."""
    bench = read_bench_file(path)
    token = f", token {bench.token}" if sys.stderr.isatty() else ""
    _say(
        f"control: bench {bench.name} at {bench.host} port {bench.port}{token}; file {json.dumps(str(path))}"
    )


def _say(text: str) -> None:
    print(f"ridethrough: {text}", file=sys.stderr, flush=True)
