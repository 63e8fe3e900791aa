"""The gateway: readings of a fleet to a broker, commands from the broker to the fleet.

Rules of this file:

- A command is answered when the device has accepted it or not, never before; each command has one outcome and
  the same one every time it comes.
- What cannot be read is refused by name and harms nobody.
- Only status and info are retained.  What was measured while the broker was away is not sent later.
- Nothing is kept on a disk: after a restart of the gateway, commands from before it are refused.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from .address import Address
from .client import BrokerError, Letter, Post
from .discovery import announcements
from .fleet import Fleet, Outcome, Report
from .guards import Guard
from .payloads import Ack, Command, Info, Occurrence, Refused, State, Values, dumped, read_command
from .topics import Topics

WAITING_MAX: Final = 64
"""Commands that may wait for one device."""
LAST_WORDS_S: Final = 2.0
"""Time to say goodbye at the end [s]."""
ONLINE, OFFLINE = b"online", b"offline"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How a gateway is run.

    Attributes
    ----------
    address : Address
        Of the broker.
    client_id : str
        Empty for one made of the pool's name.
    expiry_s : float
        How long a command lives that does not say so itself [s].
    home_assistant : bool
        Announce the devices to Home Assistant.
    connect_s_max : float
        A broker that was not reached by then is an error; one that goes away later is waited for [s].
    """

    address: Address
    client_id: str = ""
    expiry_s: float = 30.0
    home_assistant: bool = False
    connect_s_max: float = 10.0


class Gateway:
    """Between one fleet and one broker.

    Parameters
    ----------
    fleet : Fleet
    settings : GatewaySettings

    Attributes
    ----------
    post : Post
        The connection.

    Raises
    ------
    ScenarioError
        A name that cannot be a topic.
    """

    def __init__(self, fleet: Fleet, settings: GatewaySettings) -> None:
        self._fleet, self._settings = fleet, settings
        self._names = [device.name for device in fleet.devices]
        self._rows = {name: d for d, name in enumerate(self._names)}
        self.topics = Topics(fleet.pool, self._names)
        start_ms, expiry_ms = fleet.now_ms(), round(1000.0 * settings.expiry_s)
        self._guards = [Guard(start_ms, expiry_ms) for _ in self._names]
        self._queues: list[asyncio.Queue[Command]] = [asyncio.Queue(WAITING_MAX) for _ in self._names]
        self._seq = [0] * len(self._names)
        self._status = [OFFLINE] * len(self._names)
        self._grid: list[float] = [math.nan] * len(self._names)
        self.post = Post(
            settings.address,
            settings.client_id or f"ridethrough-{fleet.pool}",
            Letter(self.topics.status, OFFLINE, 1, retain=True),
            (self.topics.commands,),
            self.receive,
            self._greetings,
        )
        fleet.listen(self.report, self.silent)

    def _greetings(self) -> Sequence[Letter]:
        """Return what is said after each connect: what and who is there."""
        fleet, topics = self._fleet, self.topics
        info = Info(
            poll_s=fleet.poll_s,
            speed=fleet.speed,
            expiry_s=self._settings.expiry_s,
            devices=tuple(fleet.devices),
        )
        letters = [
            Letter(topics.info, dumped(info), 1, retain=True),
            Letter(topics.status, ONLINE, 1, retain=True),
        ]
        letters += [
            Letter(topics.of(name, "status"), status, 1, retain=True)
            for name, status in zip(self._names, self._status, strict=True)
        ]
        if self._settings.home_assistant:
            for topic, config in announcements(topics, fleet.devices, fleet.poll_s):
                letters.append(Letter(topic, json.dumps(config).encode(), 1, retain=True))
        return letters

    # From the fleet.

    def report(self, reading: Report) -> None:
        """Publish a reading."""
        d = reading.d
        self._be(d, ONLINE, "back", "it answers again")
        self._see_grid(d, reading.grid_good)
        values = Values.model_validate(
            {
                "713.SoC": _known(round(100.0 * reading.soc_frac, 6)),
                "701.W": _known(reading.power_w),
                "701.ConnSt": None if math.isnan(reading.grid_good) else int(reading.grid_good),
                "203.W": _known(reading.import_w),
            }
        )
        complete = None not in (values.soc, values.power, values.connected, values.meter)
        q: Literal["good", "partial", "old"] = "old" if reading.is_old else "good" if complete else "partial"
        state = State(ts_ms=reading.measured_ms, seq=self._seq[d], q=q, values=values)
        self._seq[d] += 1
        self.post.send(Letter(self.topics.of(self._names[d], "state"), dumped(state), 0))

    def silent(self, d: int, text: str) -> None:
        """Say that a device does not answer."""
        self._be(d, OFFLINE, "silent", text)

    def _be(self, d: int, status: bytes, kind: Literal["back", "silent"], text: str) -> None:
        if self._status[d] == status:
            return
        first = status == ONLINE and self._seq[d] == 0
        self._status[d] = status
        self.post.send(Letter(self.topics.of(self._names[d], "status"), status, 1, retain=True))
        if not first:
            self._tell(d, kind, text)

    def _see_grid(self, d: int, grid_good: float) -> None:
        before, self._grid[d] = self._grid[d], grid_good
        if before == 1.0 and grid_good == 0.0:
            self._tell(d, "islanded", "it no longer follows the grid")
        elif before == 0.0 and grid_good == 1.0:
            self._tell(d, "grid-back", "it follows the grid again")

    def _tell(
        self, d: int, kind: Literal["silent", "back", "islanded", "grid-back", "refused"], text: str
    ) -> None:
        event = Occurrence(ts_ms=self._fleet.now_ms(), kind=kind, text=text[:500])
        self.post.send(Letter(self.topics.of(self._names[d], "event"), dumped(event), 1))

    # From the broker.

    def receive(self, topic: str, payload: bytes, retained: bool) -> None:
        """Take a message; whatever is in it, it is answered and harms nobody."""
        name = self.topics.device_of(topic)
        if name is None or (retained and not payload):  # an empty one clears what was retained
            return
        d = self._rows[name]
        try:
            if retained:
                raise Refused("retained", id_=_id_of(payload))
            command = read_command(payload)
            if self._queues[d].full():
                raise Refused("busy", id_=command.id)
            self._queues[d].put_nowait(command)
        except Refused as refusal:
            self._refuse(d, refusal)

    def _refuse(self, d: int, refusal: Refused) -> Ack:
        answer = Ack(
            id=refusal.id,
            outcome="refused",
            reason=refusal.reason,
            text=refusal.text[:500],
            ts_ms=self._fleet.now_ms(),
        )
        self._answer(d, answer)
        if not refusal.id:
            self._tell(d, "refused", f"{refusal.reason}: {refusal.text}")
        return answer

    def _answer(self, d: int, answer: Ack) -> None:
        self.post.send(Letter(self.topics.of(self._names[d], "ack"), dumped(answer), 1))

    async def _work(self, d: int) -> None:
        """Carry out the commands to one device, one at a time and in order."""
        guard = self._guards[d]
        while True:
            command = await self._queues[d].get()
            try:
                before = guard.earlier(command)
                if before is not None:
                    self._answer(d, before)
                    continue
                guard.check(command, self._fleet.now_ms())
            except Refused as refusal:
                answer = self._refuse(d, refusal)
                if refusal.reason != "id-reused":
                    guard.note(command, answer)
                continue
            outcome = await self._fleet.command(
                d, command.power_w, command.validity_s, command.reserve_soc_frac
            )
            answer = _ack(command, outcome, self._fleet.now_ms())
            guard.note(command, answer)
            self._answer(d, answer)

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] | None = None) -> None:
        """Work until `stop` is set; `ready` is called when the broker has let us in.

        Raises
        ------
        BrokerError
            The broker refuses us.
        """
        first = asyncio.Event()
        tasks = [asyncio.create_task(self._work(d)) for d in range(len(self._names))]
        tasks.append(asyncio.create_task(self.post.run(first)))
        tasks.append(asyncio.create_task(self._begin(first, ready)))
        ends = [asyncio.create_task(stop.wait())]
        try:
            waiting = {*ends, *tasks}
            while not stop.is_set():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # an error ends it
            await self._say_goodbye()
        finally:
            for task in (*tasks, *ends):
                task.cancel()
            await asyncio.gather(*tasks, *ends, return_exceptions=True)

    async def _begin(self, first: asyncio.Event, ready: Callable[[], None] | None) -> None:
        try:
            async with asyncio.timeout(self._settings.connect_s_max):
                await first.wait()
        except TimeoutError:
            why = self.post.trouble or f"no answer within {self._settings.connect_s_max:g} s"
            raise BrokerError(f"{self._settings.address}: cannot be reached: {why}") from None
        if ready is not None:
            ready()

    async def _say_goodbye(self) -> None:
        """Say that nobody is there any more, as the last will would."""
        if self.post.connected:
            self.post.send(Letter(self.topics.status, OFFLINE, 1, retain=True))
            await self.post.drain(LAST_WORDS_S)


async def run_gateway(
    fleet: Fleet,
    settings: GatewaySettings,
    stop: asyncio.Event,
    ready: Callable[[], None] | None = None,
) -> None:
    """Stand between a fleet and a broker until `stop` is set.

    Parameters
    ----------
    fleet : Fleet
        Somebody else polls it.
    settings : GatewaySettings
    stop : asyncio.Event
    ready : callable, optional
        Called once, when the broker has let us in and commands are listened to.

    Raises
    ------
    BrokerError
        The broker refuses us, or was never reached.
    ScenarioError
        A name that cannot be a topic.
    """
    await Gateway(fleet, settings).run(stop, ready)


def _ack(command: Command, outcome: Outcome, now_ms: int) -> Ack:
    reasons: dict[str, Literal["device", "no-answer"] | None] = {
        "applied": None,
        "refused": "device",
        "lost": "no-answer",
    }
    return Ack(
        id=command.id,
        outcome=outcome.kind,
        reason=reasons[outcome.kind],
        text=outcome.text[:500],
        ts_ms=now_ms,
        power_w=outcome.power_w,
        reserve_soc_frac=outcome.reserve_soc_frac,
    )


def _id_of(payload: bytes) -> str:
    """Return the id of a command that is refused unread, where it has one."""
    try:
        return read_command(payload).id
    except Refused as refusal:
        return refusal.id


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
