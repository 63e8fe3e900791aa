import asyncio
from asyncio import BaseEventLoop
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Final, TypeVarTuple

from .link import End, Parcel, Pipe

_Ts = TypeVarTuple("_Ts")

WINDOW_BYTES: Final[int]

class Turns(BaseEventLoop):
    now_ns: int
    origin_ns: int
    turns_max: int
    context: Context
    _stopping: bool
    _closed: bool
    _debug: bool
    @property
    def waiting(self) -> int: ...
    def call_at_ns(
        self, due_ns: int, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle: ...
    def drop_calls(self) -> None: ...

class Stream(asyncio.Transport):
    loop: Final[Turns]
    peer: Stream
    pipe: Pipe | None
    receive: Callable[[bytes], None]
    inbox: list[bytes]
    held: int
    epoch: int
    last_due_ns: int
    end: End
    due: bool
    paused: bool
    closing: bool
    lost: bool
    eof_sent: bool
    writing_paused: bool
    def __init__(self, loop: Turns, *args: object) -> None: ...
    def carry(self, parcels: Iterable[Parcel]) -> None: ...
    def arrive(self, epoch: int, data: bytes, end: End) -> None: ...
    def look(self) -> None: ...
    def deliver(self) -> None: ...
