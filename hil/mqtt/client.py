"""The one place that knows the MQTT library: a connection that comes back by itself.

Rules of this file:

- MQTT 3.1.1 and clean sessions: the broker keeps nothing for us, so nothing old is handed to us later.
- Each connect subscribes again, before anything is said.
- A message of QoS 1 stays in the outbox until the broker has confirmed it, across any number of connections.
  A reading that could not be sent at once is dropped: sent later it would pass for a new one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ridethrough.emulator.errors import RidethroughError, ScenarioError

from .address import Address

try:
    import aiomqtt
except ImportError as _error:  # the extra `mqtt` is not installed
    raise ScenarioError("MQTT needs the package aiomqtt: pip install 'ridethrough[mqtt]'") from _error

OUTBOX_MAX: Final = 10_000
"""Messages that wait for a broker; beyond it the oldest are dropped."""
BACK_OFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts to connect [s]."""
STABLE_S: Final = 5.0
"""A connection that lasted so long was a good one [s]."""
ANSWER_S_MAX: Final = 10.0
KEEP_ALIVE_S: Final = 15
IN_FLIGHT: Final = 20
"""Messages of QoS 1 that wait for their confirmation at the same time."""

_LOGGER: Final = logging.getLogger(__name__)
_LOGGER.addHandler(logging.NullHandler())


class BrokerError(RidethroughError):
    """The broker cannot be used."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One message to be published."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


Received = Callable[[str, bytes, bool], None]
"""Takes a message: topic, payload, and whether the broker had kept it."""


@dataclass
class Post:
    """A connection to a broker, and what is to be sent over it.

    Attributes
    ----------
    address : Address
    client_id : str
        Another client of the same name ends this one's connection.
    will : Letter
        What the broker says when the connection breaks.
    filters : sequence of str
        What to subscribe to, with QoS 1.
    received : callable
        See `Received`.
    greetings : callable
        Returns what to say after each connect.
    connected : bool
    connects : int
        So far.
    trouble : str
        Why there is no connection, or was none.
    dropped : int
        Messages that never went out.
    """

    address: Address
    client_id: str
    will: Letter
    filters: Sequence[str]
    received: Received
    greetings: Callable[[], Sequence[Letter]]
    connected: bool = False
    connects: int = 0
    trouble: str = ""
    dropped: int = 0
    _outbox: deque[Letter] = field(default_factory=deque)
    _there: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, letter: Letter) -> None:
        """Send a message: at once or not at all with QoS 0, for certain with QoS 1."""
        if letter.qos == 0 and not self.connected:
            self.dropped += 1
            return
        if len(self._outbox) >= OUTBOX_MAX:
            self._outbox.popleft()
            self.dropped += 1
        self._outbox.append(letter)
        self._there.set()
        self._idle.clear()

    async def drain(self, seconds: float) -> bool:
        """Wait until everything is sent, at most so long [s]; returns whether it is."""
        if not self._outbox:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def run(self, first: asyncio.Event | None = None) -> None:
        """Stay connected until cancelled; `first` is set when the first connection stands.

        Raises
        ------
        BrokerError
            The broker refuses us for what we are: that does not change by itself.
        """
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            client = self._client()
            begun_s = loop.time()
            try:
                async with client:
                    await self._converse(client, first)
            except aiomqtt.MqttError as error:
                self.trouble = str(error) or type(error).__name__
                if isinstance(error, aiomqtt.MqttCodeError) and _is_final(error):
                    raise BrokerError(
                        f"{self.address}: the broker refuses {self.client_id}: {error}"
                    ) from None
            finally:
                self.connected = False
                self._outbox = deque(letter for letter in self._outbox if letter.qos > 0)
            # Another client of our name ends each connection soon: neither shall hurry then.
            failures = 0 if loop.time() - begun_s > STABLE_S else failures + 1
            await asyncio.sleep(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])

    def _client(self) -> aiomqtt.Client:
        address, will = self.address, self.will
        return aiomqtt.Client(
            address.host,
            address.port,
            username=address.user,
            password=address.password,
            tls_context=address.tls,
            identifier=self.client_id,
            clean_session=True,
            protocol=aiomqtt.ProtocolVersion.V311,
            will=aiomqtt.Will(will.topic, will.payload, will.qos, will.retain),
            keepalive=KEEP_ALIVE_S,
            timeout=ANSWER_S_MAX,
            # Small messages must not wait for others to join them.
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
            logger=_LOGGER,
        )

    async def _converse(self, client: aiomqtt.Client, first: asyncio.Event | None) -> None:
        """Subscribe, greet, and then send and receive until the connection breaks."""
        for topic_filter in self.filters:
            granted = await client.subscribe(topic_filter, qos=1)
            if any((code if isinstance(code, int) else code.value) >= 128 for code in granted):
                raise BrokerError(f"{self.address}: the broker does not let us subscribe to {topic_filter}")
        for letter in self.greetings():
            await client.publish(letter.topic, letter.payload, letter.qos, letter.retain)
        self.connected = True
        self.connects += 1
        if first is not None:
            first.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._receive(client))
                group.create_task(self._send_all(client))
        except BaseExceptionGroup as several:
            found, others = several.split(aiomqtt.MqttError)
            if others is not None or found is None:
                raise
            raise _first_of(found) from None

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload
            self.received(
                str(message.topic), payload if isinstance(payload, bytes) else b"", bool(message.retain)
            )

    async def _send_all(self, client: aiomqtt.Client) -> None:
        """Send what is in the outbox, some at a time and in order; what is confirmed leaves it."""
        while True:
            await self._there.wait()
            batch = [self._outbox[k] for k in range(min(len(self._outbox), IN_FLIGHT))]
            async with asyncio.TaskGroup() as group:
                for letter in batch:
                    group.create_task(client.publish(letter.topic, letter.payload, letter.qos, letter.retain))
            for letter in batch:
                if self._outbox and self._outbox[0] is letter:  # it may have been dropped meanwhile
                    self._outbox.popleft()
            if not self._outbox:
                self._there.clear()
                self._idle.set()


def _is_final(error: aiomqtt.MqttCodeError) -> bool:
    """Whether a broker has refused a connect for a reason that stays: version, name, password, rights."""
    code = error.rc if isinstance(error.rc, int) else getattr(error.rc, "value", None)
    return type(error).__name__ == "MqttConnectError" and code in (1, 2, 4, 5, 132, 133, 134, 135)


def _first_of(group: BaseExceptionGroup[aiomqtt.MqttError]) -> aiomqtt.MqttError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, aiomqtt.MqttError)
    return found
