"""What the tests of virtual time share: a loop, ends that note what happens to them, links."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from ridethrough.hil.link import Admission, End, Link, Parcel
from ridethrough.hil.virtual.loop import VirtualLoop
from ridethrough.hil.virtual.network import MemoryServer

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def here() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


class Witness(asyncio.Protocol):
    """One end, which notes what happens to it."""

    def __init__(self, *, stays: bool = False) -> None:
        self.stays = stays
        self.events: list[tuple[str, object]] = []
        self.data = b""

    def note(self, what: str, about: object = None) -> None:
        self.events.append((what, about))

    @property
    def names(self) -> list[str]:
        return [what for what, _ in self.events]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.note("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.note("data", data)

    def eof_received(self) -> bool:
        self.note("eof")
        return self.stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("lost", type(exc))

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")


@dataclass
class Path:
    """One direction of a link: a delay, pieces of a size, ends told of or not."""

    delay_ns: int = 0
    piece_bytes: int = 0
    told: bool = True
    ends: list[End] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)

    def send(self, now_ns: int, data: bytes) -> Sequence[Parcel]:
        self.times_ns.append(now_ns)
        size = self.piece_bytes or len(data)
        return [Parcel(now_ns + self.delay_ns, data[k : k + size]) for k in range(0, len(data), size)]

    def finish(self, now_ns: int, end: End) -> Sequence[Parcel]:
        self.ends.append(end)
        return [Parcel(now_ns + self.delay_ns, b"", end)] if self.told else []


@dataclass
class Way:
    """A link."""

    up: Path = field(default_factory=Path)
    down: Path = field(default_factory=Path)
    verdict: Admission = "accept"
    row: int = 0

    def admit(self, now_ns: int) -> Admission:
        return self.verdict

    def device(self, now_ns: int) -> int:
        return self.row


async def pair(way: Way | None = None, *, stays: bool = False) -> tuple[Witness, Witness, MemoryServer]:
    """Return the client's end, the server's and the listener."""
    loop, far, near = here(), Witness(stays=stays), Witness(stays=stays)
    server = await loop.create_server(lambda: far, "127.0.0.1", 0)
    loop.network.weather = lambda client, server: cast("Link | None", way)
    await loop.create_connection(lambda: near, "127.0.0.1", server.port)
    return near, far, server
