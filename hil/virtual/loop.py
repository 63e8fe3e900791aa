"""An asyncio event loop in virtual time.

Time is an integer of nanoseconds that stands still while anything is ready to run and then jumps to the next
deadline.  Tasks, futures, timeouts, task groups and streams of asyncio run on it unchanged; what they connect
to is the network in memory (network.py).

Rules of this file:

- No clock, no selector, no thread: what happens depends on the program alone, in every process alike.
- Turns are asyncio's: what is ready at the start of a turn runs in the order in which it became ready; what
  it makes ready runs in the next turn.  Timers that are due come behind what is ready, in the order of
  (deadline, order of making).
- When a timer fires, the clock shows its deadline, to the nanosecond; whoever waits for the rest of a time
  gets there.  One that is more than 146 years away never fires.
- A program that waits for what can never come, or that lets no time pass, ends with an error that says so.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from asyncio import BaseEventLoop
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from ridethrough.emulator.errors import InvariantError

from .._virtual import Turns
from .network import MemoryServer, Network, literal_host
from .waiting import describe_tasks

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)


class DeadlockError(InvariantError):
    """Nothing is ready and nothing scheduled, so what is waited for can never come."""


class VirtualLoop(Turns, BaseEventLoop):
    """An event loop in virtual time, which begins at zero.

    Give the class itself to a runner: ``asyncio.Runner(loop_factory=VirtualLoop)``.  Beside asyncio's own
    methods it has ``call_at_ns``.

    Attributes
    ----------
    now_ns : int
        The time [ns]; `time` is the same in seconds.
    turns_max : int
        Turns at one instant; a program that takes more waits in a circle for time to pass.
    network : Network
        What `create_server` and `create_connection` use.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self.network = Network(self)

    # ---- what asyncio has threads for

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Let a callback run in the next turn; from this thread only, such as from a signal handler.

        Raises
        ------
        InvariantError
            Another thread calls: when it would be heard is chance.
        """
        if threading.get_ident() != self._thread:
            raise InvariantError(
                "a thread found that calls into virtual time; allowed are calls from the loop's own thread, "
                "because when another one is heard depends on the machine"
            )
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Call `func` at once and return its result, done: no time passes meanwhile."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            future.set_exception(error)
        return future

    # ---- what the turns of the loop meet seldom

    def report(self, call: asyncio.Handle, error: BaseException) -> None:
        """Surface what a callback raised."""
        self.call_exception_handler(
            {"message": f"Exception in callback {call!r}", "exception": error, "handle": call}
        )

    def fail_for_ever(self) -> NoReturn:
        """Say who waits, when nothing can happen any more."""
        raise DeadlockError(
            f"at {self.time():.9f} s nothing is ready and nothing is scheduled, so nothing can ever happen; "
            f"these wait: {describe_tasks(self)}"
        )

    def fail_standing(self) -> NoReturn:
        """Say who runs, when no time passes any more."""
        raise DeadlockError(
            f"time stands still at {self.time():.9f} s: {self.turns_max} turns without a wait; in virtual "
            f"time somebody has to wait until a later instant; these run: {describe_tasks(self)}"
        )

    def close(self) -> None:
        """Close the loop and forget what was to run."""
        super().close()
        self.drop_calls()

    # ---- what asyncio asks of the system

    def set_debug(self, enabled: bool) -> None:
        """Leave it off: debugging measures real time."""
        self._debug = False

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  # asyncio's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Return the address of this machine; there is no other in memory.

        Raises
        ------
        socket.gaierror
            `host` is none of this machine's addresses.
        """
        name = literal_host(host.decode() if isinstance(host, bytes) else host)
        kind = socket.AF_INET6 if ":" in name else socket.AF_INET
        number = int(port or 0)
        address = (name, number, 0, 0) if ":" in name else (name, number)
        return [(kind, type or socket.SOCK_STREAM, proto or socket.IPPROTO_TCP, "", address)]

    # ---- the network

    async def create_server(  # type: ignore[override]  # asyncio's Server is bound to real sockets
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        **options: Any,
    ) -> MemoryServer:
        """Listen in memory; see `Network.listen`."""
        return self.network.listen(protocol_factory, host, port, **options)

    async def create_connection(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        host: str | None = None,
        port: int | None = None,
        **options: Any,
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        """Connect in memory; see `Network.connect`."""
        return await self.network.connect(protocol_factory, host, port, **options)
