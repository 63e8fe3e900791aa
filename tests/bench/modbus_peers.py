"""The processes of the Modbus benchmark: servers, load generators, and their CPU clocks.

The C programs are compiled into a folder that the caller throws away.  What cannot be compiled or does not
answer is `Unmeasured`, with the reason: never a number.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant
from ridethrough.hil.files import load_profile

from tests.bench.modbus_servers import BASE, PROFILE, rss_mib

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
START_S_MAX = 60.0


class Unmeasured(Exception):  # noqa: N818  # says what it means where it is caught
    """Why something was not measured."""


def compiled(name: str, folder: Path, *libraries: str) -> Path:
    """Compile one C file of this folder; return the program."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unmeasured(f"no C compiler, which {name}.c needs")
    program = folder / name
    command = [
        compiler,
        "-O2",
        "-o",
        str(program),
        str(HERE / f"{name}.c"),
        *(f"-l{lib}" for lib in libraries),
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        needs = (
            f" (it needs {', '.join(f'lib{lib}' for lib in libraries)} and its headers)" if libraries else ""
        )
        raise Unmeasured(f"{name}.c does not compile{needs}: {run.stderr.strip().splitlines()[0]}")
    return program


def cpu_clock(pid: int) -> Callable[[], float]:
    """Return what tells the CPU time of a process, its threads and the kernel's work for it included [s]."""
    clock = ctypes.c_int()
    failed = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if failed:
        raise Unmeasured(f"the system tells no CPU time of process {pid}")
    return lambda: time.clock_gettime(clock.value)


class Peer:
    """A process that says one line when it is ready; ended with the stack it was started on."""

    def __init__(self, stack: ExitStack, command: list[str]) -> None:
        began_s = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(self._end)
        self._began_s = began_s

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str = "") -> str:
        """Return the next line it says; `line`, if any, is said to it first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if line:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            _, complaint = self._process.communicate(timeout=START_S_MAX)
            raise Unmeasured(complaint.strip().splitlines()[-1] if complaint.strip() else "it ended")
        return said


class Server(Peer):
    """A server that is ready to be measured.

    Attributes
    ----------
    ports : list of int
    facts : dict
        What it said of itself; ``process_s`` is the time from the start of its process on.
    cpu_s : callable
    """

    def __init__(self, stack: ExitStack, command: list[str]) -> None:
        super().__init__(stack, command)

    def ready(self) -> Self:
        """Wait until it answers."""
        said = json.loads(self.ask())
        self.facts: dict[str, Any] = said if isinstance(said, dict) else {"ports": [said]}
        self.facts["process_s"] = time.perf_counter() - self._began_s
        self.ports: list[int] = self.facts["ports"]
        self.cpu_s = cpu_clock(self.pid)
        return self

    def rss_mib(self) -> float:
        """Return its memory now [MiB]."""
        return rss_mib(self.pid)


def python_server(stack: ExitStack, kind: str, loop: str, argument: str = "") -> Server:
    """Start a server of `modbus_servers`."""
    return Server(stack, [sys.executable, "-m", "tests.bench.modbus_servers", kind, loop, argument])


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of load has shown.

    Attributes
    ----------
    cpu_us : float
        The server's CPU time per request [µs].
    rate : float
        Requests per second.
    p50_us, p99_us : float
        Latencies; of a batch, when several requests go at once [µs].
    cpu_frac, client_frac : float
        Of a core, of the server and of the load generator.
    late : float
        Paced requests whose turn came before the reply to the one before.
    """

    cpu_us: float
    rate: float
    p50_us: float
    p99_us: float
    cpu_frac: float
    client_frac: float
    late: float


class Load(Peer):
    """A load generator with its connections open."""

    def __init__(self, stack: ExitStack, program: Path, server: Server, *arguments: object) -> None:
        super().__init__(stack, [str(program), *map(str, arguments)])
        self._server = server
        self.ask()

    def round(self) -> Round:
        """Run one round."""
        cpu_s = -self._server.cpu_s()
        said = dict(part.split("=") for part in self.ask("go").split())
        cpu_s += self._server.cpu_s()
        requests, seconds = float(said["requests"]), float(said["seconds"])
        return Round(
            1e6 * cpu_s / requests,
            requests / seconds,
            float(said["p50_us"]),
            float(said["p99_us"]),
            cpu_s / seconds,
            float(said["cpu_s"]) / seconds,
            float(said["late"]),
        )


def reference_unit() -> DeviceImage:
    """Return the inverter that every server of the comparison shows."""
    return units_of(Plant([load_profile(PROFILE)]), 0)[1]


def whole_map(unit: DeviceImage) -> bytes:
    """Return all registers of a unit."""
    count, cells = unit.layout.count, b""
    for first in range(0, count, 125):
        block = unit.read(BASE + first, min(125, count - first))
        assert isinstance(block, bytes)
        cells += block
    return cells


def ask_once(port: int, unit: int, address: int, count: int) -> bytes:
    """Return the registers that a server answers over a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as client:
        return read_on(client, unit, address, count)


def read_on(client: socket.socket, unit: int, address: int, count: int) -> bytes:
    """Return the registers that a server answers on an open connection."""
    request = bytes((0, 1, 0, 0, 0, 6, unit, 3)) + address.to_bytes(2) + count.to_bytes(2)
    client.sendall(request)
    reply = b""
    while len(reply) < 9 + 2 * count:
        part = client.recv(512)
        if not part:
            raise Unmeasured(f"port {client.getpeername()[1]} closed the connection")
        reply += part
        if len(reply) > 8 and reply[7] != 3:
            raise Unmeasured(f"unit {unit} answered exception {reply[8]}")
    return reply[9:]
