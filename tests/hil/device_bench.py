"""Devices for the client's tests: hand-made register maps, a peer that follows a script, a serial line."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import struct
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.server import serve_tcp
from ridethrough.hil.device import Device
from sunspec2 import device as witness

MARKER = [0x5375, 0x6E53]
END = [0xFFFF, 0]

TIMEOUT_S = 0.3
"""Of clients whose time-out a test waits for."""


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test to its end, and see that it leaves no task, socket or pending callback behind."""

    async def bounded() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(60.0):
            await test
        assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks were left behind"
        assert not complaints, complaints

    asyncio.run(bounded())
    gc.collect()  # what was left open warns here, not in a later test


def model(number: int, **values: object) -> list[int]:
    """Return the registers of a model as pysunspec2 encodes them; what is not named is not implemented."""
    made = witness.Model(number)
    for name, value in values.items():
        made.points[name].value = value
    data = made.get_mb()
    return list(struct.unpack(f">{len(data) // 2}H", data))


COMMON = model(1, Mn="Maker", Md="Thing", SN="007", Vr="1.2")


def der(**changes: object) -> list[list[int]]:
    """Return the models of a device of the 700 family with a set-point in watts."""
    settings: dict[str, object] = {
        "WSetEna": 0,
        "WSetMod": 1,
        "WSet": 0,
        "WSetEnaRvrt": 0,
        "WSetRvrtTms": 0,
        "WSet_SF": 0,
    }
    return [
        COMMON,
        model(701, W=1500, W_SF=0, ConnSt=1, DERMode=1),
        model(702, WDisChaRteMax=5000, WChaRteMax=4000, WMax=5000, W_SF=0),
        model(704, **(settings | changes)),
        model(713, WHRtg=100, SoC=500, SoH=900, WH_SF=2, Pct_SF=-1),
        model(715, DERHb=77),
    ]


def legacy(**changes: object) -> list[list[int]]:
    """Return the models of a device of the 100 family."""
    storage: dict[str, object] = {
        "WChaMax": 4000,
        "WChaMax_SF": 0,
        "StorCtl_Mod": 0,
        "OutWRte": 10000,
        "InWRte": 10000,
        "InOutWRte_RvrtTms": 0,
        "InOutWRte_SF": -2,
        "ChaState": 500,
        "ChaState_SF": -1,
        "MinRsvPct": 20,
        "MinRsvPct_SF": 0,
    }
    return [
        COMMON,
        model(103, W=-1500, W_SF=0, St=4, Evt1=0),
        model(120, WRtg=5000, WRtg_SF=0, WHRtg=1000, WHRtg_SF=1),
        model(122, ECPConn=1),
        model(124, **(storage | changes)),
    ]


class Registers:
    """A unit of plain registers; what it does with writes can be spoilt.

    Attributes
    ----------
    words : dict
        By address; what is not in it does not exist.
    writes : list
        Every write that came, as (address, words).
    discards : bool
        Writes are acknowledged and forgotten.
    codes : dict
        Exception code by address of a write's first register.
    """

    def __init__(self, models: Iterable[list[int]], base: int = 40000, end: list[int] | None = None) -> None:
        chain = [*MARKER, *(word for one in models for word in one), *(END if end is None else end)]
        self.words = dict(enumerate(chain, base))
        self.writes: list[tuple[int, list[int]]] = []
        self.reads: list[tuple[int, int]] = []
        self.discards = False
        self.codes: dict[int, int] = {}
        self.read_code = 0

    def read(self, address: int, count: int, /) -> bytes | int:
        self.reads.append((address, count))
        if self.read_code:
            return self.read_code
        words = [self.words.get(k) for k in range(address, address + count)]
        whole = [word for word in words if word is not None]
        return struct.pack(f">{count}H", *whole) if len(whole) == count else 2

    def write(self, address: int, data: bytes, /) -> int:
        words = list(struct.unpack(f">{len(data) // 2}H", data))
        self.writes.append((address, words))
        if address in self.codes:
            return self.codes[address]
        if any(k not in self.words for k in range(address, address + len(words))):
            return 2
        if not self.discards:
            self.words.update(enumerate(words, address))
        return 0

    def at(self, number: int, name: str) -> int:
        """Return the address of a point, as pysunspec2 finds it."""
        address = min(self.words) + 2
        while self.words[address] != number:
            address += 2 + self.words[address + 1]
        return address + int(witness.Model(number).points[name].offset)

    def set(self, number: int, name: str, *words: int) -> None:
        self.words.update(enumerate(words, self.at(number, name)))


def charging_w(profile: DeviceProfile) -> float:
    """Return a power at which a device surely charges: well above what its converter loses [W]."""
    return -100.0 * round(0.003 * profile.inverter.power_w_charge_max)


@asynccontextmanager
async def served(*units: Registers, timeout_s: float = 5.0, **options: Any) -> AsyncIterator[Device]:
    """Serve units 1, 2, … over loopback and connect a device to unit 1."""
    async with (
        await serve_tcp(dict(enumerate(units, 1))) as server,
        Device(f"tcp:127.0.0.1:{server.port}/1", timeout_s, **options) as device,
    ):
        yield device


Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""What a peer does with one request frame."""


class Box:
    """Units of plain registers behind one server, which refuses or is silent as a test says.

    Attributes
    ----------
    units : dict
        By unit id; others answer with exception 11.
    refuses : dict
        Exception code by function code.
    silent_at : set of int
        A request that touches one of these registers gets no answer.
    """

    def __init__(self, *units: Registers) -> None:
        self.units = dict(enumerate(units, 1))
        self.refuses: dict[int, int] = {}
        self.silent_at: set[int] = set()

    async def __call__(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        reply = self.answer(request[6], request[7:])
        if reply:
            writer.write(framed(request, reply))

    def answer(self, unit_id: int, asked: bytes) -> bytes:
        """Return the body that answers a body; empty for silence."""
        function, (address, count) = asked[0], struct.unpack(">HH", asked[1:5])
        unit = self.units.get(unit_id)
        if unit is None or function in self.refuses:
            return bytes((function | 0x80, 11 if unit is None else self.refuses[function]))
        if self.silent_at & set(range(address, address + (1 if function == 6 else count))):
            return b""
        if function == 3:
            data = unit.read(address, count)
            return bytes((0x83, data)) if isinstance(data, int) else bytes((3, len(data))) + data
        code = unit.write(address, asked[3:5] if function == 6 else asked[6:])
        return bytes((function | 0x80, code)) if code else asked[:5]


class Peer:
    """A Modbus/TCP server that answers each request as the next entry of a script says.

    After the last entry it does as `default` says, or is silent.
    """

    def __init__(
        self,
        *script: Script,
        port: int = 0,
        default: Script | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = list(script)
        self.default = default
        self._tls = tls
        self.connections = 0
        self.frames: list[bytes] = []
        self.port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                head = await reader.readexactly(7)
                frame = head + await reader.readexactly(int.from_bytes(head[4:6]) - 1)
                self.frames.append(frame)
                script = self.script.pop(0) if self.script else self.default
                if script is not None:
                    await script(frame, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


@asynccontextmanager
async def boxed(box: Box, timeout_s: float = TIMEOUT_S, **options: Any) -> AsyncIterator[tuple[Peer, Device]]:
    """Serve a box and connect a device to its unit 1."""
    options.setdefault("meter_units", ())
    async with (
        Peer(default=box) as peer,
        Device(f"tcp:127.0.0.1:{peer.port}/1", timeout_s, **options) as device,
    ):
        yield peer, device


async def silent(request: bytes, writer: asyncio.StreamWriter) -> None:
    """Answer nothing."""


async def hang_up(request: bytes, writer: asyncio.StreamWriter) -> None:
    """Close the connection instead of answering."""
    writer.close()


def framed(request: bytes, body: bytes, *, tid: int | None = None) -> bytes:
    """Return an answer's frame."""
    first = request[:2] if tid is None else tid.to_bytes(2)
    return first + b"\0\0" + (len(body) + 1).to_bytes(2) + request[6:7] + body


def answer(*words: int) -> Script:
    """Answer a read with registers."""

    async def send(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(framed(request, struct.pack(f">BB{len(words)}H", 3, 2 * len(words), *words)))

    return send


def body(data: bytes, *, tid: int | None = None) -> Script:
    """Answer with this body."""

    async def send(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(framed(request, data, tid=tid))

    return send


@asynccontextmanager
async def serial_line() -> AsyncIterator[tuple[str, str]]:
    """Lay a serial line; yields the names of its two ends."""
    ends = [os.openpty(), os.openpty()]
    for master, slave in ends:
        tty.setraw(master)
        tty.setraw(slave)
        os.set_blocking(master, False)
    loop = asyncio.get_running_loop()

    def carry(source: int, sink: int) -> None:
        try:
            os.write(sink, os.read(source, 4096))
        except OSError:
            loop.remove_reader(source)  # the line is being taken down

    for (source, _), (sink, _) in (ends, ends[::-1]):
        loop.add_reader(source, carry, source, sink)
    try:
        yield os.ttyname(ends[0][1]), os.ttyname(ends[1][1])
    finally:
        for pair in ends:
            loop.remove_reader(pair[0])
            for descriptor in pair:
                os.close(descriptor)
