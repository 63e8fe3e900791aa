"""The servers that sockets.py attacks, in a process of their own, and that process as the attacker sees it.

Every client has a loopback address of its own, by which the process tells whose units are whose.  It is told
what to do by lines on its standard input; what is wrong is on its error output.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import re
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tests.emulator.modbus_rows import ALL_FUNCTIONS, SUNSPEC_FUNCTIONS
from tests.fuzz.harness import FindingError, Store

if TYPE_CHECKING:
    from ridethrough.hil.pki import Pki

ROOT: Final = Path(__file__).resolve().parents[2]
SERVERS: Final = ("tcp", "shared", "rights", "small", "tls", "rtu")
RTU_UNITS: Final = range(1, 9)
BAUD: Final = 4_000_000
CONNECTIONS_MAX: Final = 6  # of the server with small limits
IDLE_S: Final = 0.4
PEAK_BYTES_MAX: Final = 40 << 20
GROWTH_BYTES_MAX: Final = 16 << 20
WARM_ROUNDS: Final = 3
READS: Final = frozenset({1, 2, 3, 4, 8, 43})


class Unit(Store):
    """A `Store` that `ridethrough.emulator.tls` takes as well: no register of it is a point."""

    def point_at(self, address: int) -> None:
        return None


def fresh(functions: frozenset[int] = ALL_FUNCTIONS) -> dict[int, Unit]:
    return {1: Unit(functions), 2: Unit(functions & SUNSPEC_FUNCTIONS)}


def digest(units: Mapping[int, Store]) -> str:
    """Return what stands for all that clients can change."""
    return hashlib.sha1(b"".join(bytes(u.cells) + bytes(u.coils) for u in units.values())).hexdigest()


class NoWrites:
    """Rights of somebody who may only read."""

    def allows(self, unit_id: int, function: int, address: int, count: int) -> bool:
        return function in READS


class Servers:
    """All servers of one process, and the units behind them."""

    def __init__(self, tls: Mapping[str, str]) -> None:
        self.tls = tls
        self.own: dict[str, dict[int, Unit]] = {}  # by the client's address
        self.standing = {"shared": fresh(READS), "binary": fresh(), "text": fresh()}
        self.slots = {unit: Unit(ALL_FUNCTIONS) for unit in RTU_UNITS}
        self.open: dict[str, Any] = {}

    def units(self, transport: asyncio.Transport) -> dict[int, Unit]:
        """Return units for one connection; half of them get small buffers, so that stalls are met soon."""
        name = transport.get_extra_info("peername")
        sock = transport.get_extra_info("socket")
        units = fresh()
        if name is not None:  # else it was reset before it was accepted
            self.own[name[0]] = units
            if int(name[0].rpartition(".")[2]) % 2:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return units

    async def start(self) -> dict[str, Any]:
        from ridethrough.emulator._modbus import Connection
        from ridethrough.emulator.rtu_tcp import serve_rtu_tcp
        from ridethrough.emulator.serial_line import serve_serial
        from ridethrough.emulator.server import Limits, serve_tcp
        from ridethrough.emulator.tls import TlsServerSettings, TlsUnits, server_context

        def plain(transport: asyncio.Transport) -> Connection:
            return Connection(self.units(transport))

        wide = Limits(frame_timeout_s=60.0, connections_max=400)
        small = Limits(0.2, IDLE_S, CONNECTIONS_MAX, write_buffer_bytes_max=512)
        context = server_context(TlsServerSettings(**self.tls))
        units = self.standing["shared"]
        rights = NoWrites()
        self.open = {
            "tcp": await serve_tcp(units, limits=wide, core=plain),
            "shared": await serve_tcp(units, limits=wide),
            "rights": await serve_tcp(
                units, limits=wide, core=lambda peer: Connection(self.units(peer), rights=rights)
            ),
            "small": await serve_tcp(units, limits=small, core=plain),
            "tls": await serve_tcp(
                units, limits=wide, core=lambda peer: TlsUnits(self.units(peer), context)(peer)
            ),
            "rtu": await serve_rtu_tcp(self.slots, limits=wide),
            "binary": await serve_serial(self.standing["binary"], "pty", BAUD),
            "text": await serve_serial(self.standing["text"], "pty", BAUD, framing="ascii"),
        }
        return {name: getattr(one, "port", None) or one.path for name, one in self.open.items()}

    def do(self, command: str) -> dict[str, Any]:
        if command == "fresh":
            self.own.clear()
            for units in (*self.standing.values(), self.slots):
                for unit in units.values():
                    new = Store(unit.functions)
                    unit.cells[:], unit.coils[:] = new.cells, new.coils
        states = {client: digest(units) for client, units in (self.own | self.standing).items()}
        states |= {f"rtu {unit}": digest({unit: one}) for unit, one in self.slots.items()}
        served = {name: self.open[name].connections for name in SERVERS if self.open[name].connections}
        return {"connections": served, "states": states} if command != "ping" else {}


async def serve(options: Mapping[str, Any]) -> None:
    """Serve until standard input ends; a line there is a command, answered on standard output."""
    servers = Servers(options["tls"])
    print(json.dumps(await servers.start()), flush=True)
    commands = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        print(json.dumps(servers.do(line.decode().strip())), flush=True)
    pipe.close()
    for one in servers.open.values():
        await one.close()
    await asyncio.sleep(0)


def serve_main(options: Mapping[str, Any]) -> None:
    factory = None
    if options["loop"] == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    if options["loop"].endswith("no lane"):
        from ridethrough.emulator import server

        server.open_lane = lambda: None
    if options["defect"]:
        importlib.import_module("tests.fuzz.test_fuzz_sockets").DEFECTS[options["defect"]][0]()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(options))


@dataclass
class Process:
    """A server's process, as its clients' side sees it."""

    loop: str
    child: asyncio.subprocess.Process
    errors: Path
    wait_s: float
    places: dict[str, Any] = field(default_factory=dict)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    resident: list[int] = field(default_factory=list)
    descriptors: int = 0

    @classmethod
    async def start(cls, loop: str, folder: Path, pki: Pki, wait_s: float, defect: str) -> Self:
        server = pki.server
        tls = {"cert": str(server.cert), "key": str(server.key), "client_ca": str(pki.ca)}
        errors = folder / f"{loop}.err"
        with errors.open("wb") as sink:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "default", "-c", "from tests.fuzz.served import main; main()"),
                json.dumps({"loop": loop, "tls": tls, "defect": defect}),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                cwd=ROOT,
            )
        one = cls(loop, child, errors, wait_s)
        one.places = await one.answer(60.0)
        one.resident.append(one.memory("VmRSS"))
        one.descriptors = one.count_descriptors()
        return one

    async def answer(self, wait_s: float) -> dict[str, Any]:
        assert self.child.stdout is not None
        try:
            line = await asyncio.wait_for(self.child.stdout.readline(), wait_s)
        except TimeoutError:
            raise FindingError("wedge: the server's process does not go on") from None
        if not line:
            raise FindingError(f"crash: the process ended with {await self.child.wait()}, {self.said()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def ask(self, command: str) -> dict[str, Any]:
        assert self.child.stdin is not None
        async with self.busy:
            self.child.stdin.write(command.encode() + b"\n")
            return await self.answer(self.wait_s)

    def said(self) -> str:
        return f"error output: {self.errors.read_text(errors='replace')[-2000:]!r}"

    def memory(self, name: str) -> int:
        """Return what the system says of the process's memory [bytes]."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+) kB", status)
        if found is None:
            raise FindingError(f"crash: the process has ended, {self.said()}")
        return int(found[1]) << 10

    def count_descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.child.pid}/fd").iterdir())

    def check(self) -> None:
        """Look at what the process says and holds after a round."""
        if self.errors.stat().st_size:
            raise FindingError(f"crash: {self.said()}")
        self.resident.append(self.memory("VmRSS"))
        if self.memory("VmHWM") - self.resident[0] > PEAK_BYTES_MAX:
            raise FindingError(f"memory: {self.memory('VmHWM') >> 20} MiB at the peak")
        warm = self.resident[: WARM_ROUNDS + 1]
        if self.resident[-1] - max(warm) > GROWTH_BYTES_MAX:
            raise FindingError(f"memory: grown to {self.resident[-1] >> 20} MiB")

    async def end(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        try:
            code = await asyncio.wait_for(self.child.wait(), self.wait_s)
        except TimeoutError:
            raise FindingError("wedge: the process does not end") from None
        if code or self.errors.stat().st_size:
            raise FindingError(f"crash: the process ended with {code}, {self.said()}")

    async def died(self) -> str:
        """Return how the process has ended, which is why everything else went wrong; empty if it lives."""
        with suppress(TimeoutError):
            return f"crash: the process ended with {await asyncio.wait_for(self.child.wait(), 0.5)}; "
        return ""

    async def kill(self) -> None:
        """Make sure that the process is gone."""
        with suppress(ProcessLookupError):
            self.child.kill()
        await self.child.wait()


def main() -> None:
    """Serve as the first argument says."""
    serve_main(json.loads(sys.argv[1]))
