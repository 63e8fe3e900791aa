"""Transport quirks: a Modbus TCP server that misbehaves on purpose, as shipped products do.

Duty: who may connect and for how long, and what all connections share: chance, clock, and how busy the device
is.  transport_peer.py has the single connection and its exchanges.

Rules of this file: time is the loop's alone; a bench time of the knobs is divided by `speed`.  Chance is the
generator's that is handed in.  Servers without transport quirks are those of server.py, and pay nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from .._modbus import Connection
from .._pdu import Units
from ..errors import ScenarioError
from ..server import DEFAULT_LIMITS, Limits, TcpServer, listen_address, serve_tcp
from .knobs import Quirks
from .transport_knobs import TransportKnobs
from .transport_peer import COUNT, FUNCTION, UNIT, Peer
from .writes import WriteLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

    from .._modbus import Unit

__all__ = ["QuirkyServer", "TransportKnobs", "serve_quirky"]

ABSENT: Final = 0x0B
"""Exception code for unit ids that are not there, where no quirk says otherwise."""

_ONE_REGISTER: Final = frozenset({5, 6, 22})


class QuirkyServer(TcpServer):
    """A Modbus TCP server with transport quirks; made by `serve_quirky`.

    Parameters
    ----------
    units : Mapping[int, Unit]
    limits : Limits
        Where the knobs say nothing.
    knobs : TransportKnobs
    absent : int
        Exception code for unit ids that are not there, 0 for no answer.
    rng : numpy.random.Generator
        Chance of this server.
    speed : float
        Bench seconds per second of the loop.

    Attributes
    ----------
    knobs : TransportKnobs
        May be replaced while the server runs: from then on connections and exchanges are as these say.
    free_s : float
        When the queue that all connections share is empty, by the loop's clock [s].
    """

    def __init__(
        self,
        units: Mapping[int, Unit],
        limits: Limits,
        knobs: TransportKnobs,
        absent: int,
        rng: Generator,
        speed: float,
    ) -> None:
        super().__init__(units, limits)
        self.knobs = knobs
        self._absent = absent
        self._shared_units = Units(units)
        self._rng = rng
        self._speed = speed
        self._loop = asyncio.get_running_loop()
        self._hangs = hanging(units)
        self._members: dict[Peer, None] = {}  # in the order in which they came
        self._gone = asyncio.Event()
        self._gone.set()
        self._held = 0  # connections that have ended and still count
        self._ended_s = -math.inf  # when the last one has
        self._visited = False  # a client has connected since the port was opened
        self._timers: set[asyncio.TimerHandle] = set()
        self._busy = False
        self._asked_s = -math.inf
        self.free_s = -math.inf

    # ---- who may connect

    @property
    def connections(self) -> int:
        """Number of connections being served."""
        return sum(peer.served for peer in self._members)

    @property
    def is_open(self) -> bool:
        """Whether the port takes connections."""
        return self._listener is not None and self._listener.is_serving()

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of one new connection."""
        return Peer(self)

    async def open(self, host: str, port: int) -> None:
        """Listen, and let the time begin in which a client must connect.

        Raises
        ------
        ScenarioError
            The system refuses that address or port.
        """
        await self.listen(host, port)
        self._visited = False
        if self.knobs.enable_window_s is not None:
            self._later(self.knobs.enable_window_s, self._close_port)

    async def enable(self) -> None:
        """Open the port again where it was, as somebody at the device would; nothing if it is open."""
        if not self.is_open:
            await self.open(self.host, self.port)

    async def close(self) -> None:
        """Stop listening and cut every connection; nothing is left running afterwards.

        Raises
        ------
        InvariantError
            A unit raised while it was being served; the first such exception is the cause.
        """
        for timer in self._timers:
            timer.cancel()
        for peer in tuple(self._members):
            peer.cut()
        try:
            await super().close()
        finally:
            await self._gone.wait()

    def enter(self, peer: Peer) -> bool:
        """Note a new connection; False if it is not wanted."""
        knobs, counted = self.knobs, self.connections + self._held
        self._members[peer] = None
        self._gone.clear()
        gap_s = self.real_s(knobs.reconnect_gap_s or 0.0)
        welcome = (
            not self._closing
            and counted < (knobs.connections_max or self.limits.connections_max)
            and self._loop.time() - self._ended_s >= gap_s
        )
        self._visited = self._visited or welcome
        return welcome

    def leave(self, peer: Peer) -> None:
        """Forget a connection; it may go on counting."""
        del self._members[peer]
        if not self._members:
            self._gone.set()
        if peer.served and not self._closing:
            self._ended_s = self._loop.time()
            if self.knobs.hold_s is not None:
                self._held += 1
                self._later(self.knobs.hold_s, self._release)

    def report(self, error: Exception) -> None:
        """Surface a unit's exception."""
        self._report(error)

    def _release(self) -> None:
        self._held -= 1

    def _close_port(self) -> None:
        """Close the port, unless a client has connected since it was opened."""
        if self._listener is not None and not self._visited:
            self._listener.close()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after a bench time, unless the server is closed first."""

        def run() -> None:
            self._timers.discard(timer)
            call()

        timer = self._loop.call_later(self.real_s(seconds), run)
        self._timers.add(timer)

    # ---- what becomes of an exchange

    def real_s(self, seconds: float) -> float:
        """Return what a bench time is by the loop's clock [s]."""
        return seconds / self._speed

    def connection(self) -> Connection:
        """Return the core of a new connection."""
        return Connection(self._shared_units, absent=self._absent)

    def happens(self, chance: float) -> bool:
        """Draw whether a knob strikes."""
        return chance >= 1.0 or bool(self._rng.random() < chance)

    def hung(self, request: bytes) -> bool:
        """Whether the unit that is asked answers nothing now."""
        layer = self._hangs.get(request[UNIT])
        return layer is not None and layer.hung

    def refusal(self, request: bytes) -> int:
        """Return the exception code of a request that is not carried out, else 0."""
        function = request[FUNCTION]
        count = 1 if function in _ONE_REGISTER else int.from_bytes(request[COUNT])
        for rule in self.knobs.refuse:
            if rule.function == function and rule.count_min <= count <= rule.count_max:
                return rule.code
        busy = self.knobs.busy
        if busy is None:
            return 0
        now_s = self._loop.time()
        alone_s, self._asked_s = now_s - self._asked_s, now_s
        still = self._busy and alone_s < self.real_s(busy.quiet_s)
        self._busy = still or self.happens(busy.chance)
        return busy.codes[int(self._rng.integers(len(busy.codes)))] if self._busy else 0

    def delay_s(self) -> float:
        """Draw how long the next reply takes, by the loop's clock [s]."""
        slow = self.knobs.slow
        if slow is None:
            return 0.0
        left = 1.0 - float(self._rng.random())  # above 0
        return self.real_s(min(slow.delay_s_min * left ** (-1.0 / slow.tail), slow.delay_s_max))

    def other(self, peer: Peer) -> Peer:
        """Return another client's connection, or the same one if there is none."""
        others = [one for one in self._members if one.served and one is not peer]
        return others[int(self._rng.integers(len(others)))] if others else peer


def hanging(units: Mapping[int, Unit]) -> dict[int, WriteLayer]:
    """Return, by unit id, the layer that knows when a unit answers nothing."""
    found: dict[int, WriteLayer] = {}
    for unit_id, unit in units.items():
        for layer in getattr(unit, "layers", ()):
            if isinstance(layer, WriteLayer):
                found[unit_id] = layer
    first = next(iter(units), None)
    if first in found:  # ids 0 and 255 reach the first unit
        found = {0: found[first], 255: found[first]} | found
    return found


async def serve_quirky(
    units: Mapping[int, Unit],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    quirks: Quirks,
    rng: Generator,
    limits: Limits = DEFAULT_LIMITS,
    allow_remote: bool = False,
    speed: float = 1.0,
) -> TcpServer:
    """Serve units over Modbus TCP with the transport quirks among `quirks`, if there are any.

    Parameters
    ----------
    units : Mapping[int, Unit]
        As for `serve_tcp`; those of `quirky_units` are silent while they hang.
    host : str
    port : int
        0 lets the system choose; what a quirk says of the port is for the caller.
    quirks : Quirks
    rng : numpy.random.Generator
        Chance of this server.
    limits : Limits
        Where no quirk says otherwise.
    allow_remote : bool
        Other addresses than loopback are refused without this.
    speed : float
        Bench seconds per second of the loop.

    Raises
    ------
    ScenarioError
        An argument cannot be used; the message says why and what can.
    """
    knobs, absent = quirks.transport, None if quirks.map is None else quirks.map.absent
    if not isinstance(speed, int | float) or not 0.0 < speed < math.inf:
        raise ScenarioError(f"speed: {speed!r} found; allowed are positive numbers")
    hangs = quirks.writes is not None and quirks.writes.hang is not None
    if knobs is None and absent is None and not hangs:
        return await serve_tcp(units, host, port, limits=limits, allow_remote=allow_remote)
    address = listen_address(host, port, allow_remote)
    absent = ABSENT if absent is None else absent
    server = QuirkyServer(units, limits, knobs or TransportKnobs(), absent, rng, speed)
    await server.open(address, port)
    return server
