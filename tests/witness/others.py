"""pymodbus's and libmodbus's servers, measured by every row that they have.

Each row has a server of its own, so that what one row has broken is not held against the next.  libmodbus is
compiled against the library of this machine.  What cannot be run is `Unmeasured`, with the reason.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tty
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.modbus_peers import Server, Unmeasured
from tests.emulator.modbus_rows import Row, SerialRow
from tests.witness.measure import Measured, Target, measure_line, measure_tcp
from tests.witness.ours import line_of

HERE: Final = Path(__file__).parent
PYMODBUS, LIBMODBUS = "pymodbus", "libmodbus"


def compiled(folder: Path) -> Path:
    """Compile libmodbus's servers."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unmeasured("no C compiler here")
    program = folder / "libmodbus_servers"
    source = HERE / "libmodbus_servers.c"
    command = [compiler, "-O2", "-o", str(program), str(source), "-lmodbus", "-lpthread"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        said = run.stderr.strip().splitlines()[0]
        raise Unmeasured(f"libmodbus_servers.c does not compile; it needs libmodbus-dev: {said}")
    return program


def command_of(name: str, folder: Path) -> list[str]:
    """Return how a server's program is called."""
    if name == LIBMODBUS:
        return [str(compiled(folder))]
    return [sys.executable, "-m", "tests.witness.pymodbus_servers"]


@dataclass(frozen=True, slots=True)
class Other:
    """A server that runs, once per row.

    Attributes
    ----------
    name, version : str
    rows : sequence of Row
    ports : list of int
        One per row.
    line_rows : sequence of SerialRow
    masters : list of int
        The client's ends of as many serial lines.
    """

    name: str
    version: str
    rows: Sequence[Row]
    ports: list[int]
    line_rows: Sequence[SerialRow]
    masters: list[int]

    async def measured_tcp(self, target: Target) -> list[Measured]:
        """Return what it did by row."""
        pairs = zip(self.rows, self.ports, strict=True)
        return list(await asyncio.gather(*(measure_tcp(row, port, target) for row, port in pairs)))

    async def measured_lines(self) -> list[Measured]:
        """Return what it did on serial lines by row."""
        pairs = zip(self.line_rows, self.masters, strict=True)
        jobs = (measure_line(row, line_of(fd, row, lambda body: body)) for row, fd in pairs)
        return list(await asyncio.gather(*jobs))


def start(
    stack: ExitStack, name: str, folder: Path, rows: Sequence[Row], line_rows: Sequence[SerialRow]
) -> Other:
    """Start a server once per row; all end with the stack."""
    command = command_of(name, folder)
    lines = [_line(stack) for _ in line_rows]
    servers = [Server(stack, [*command, "tcp", str(len(rows))])]
    for kind in ("rtu", "ascii"):
        paths = [
            path for row, (_, path) in zip(line_rows, lines, strict=True) if row.text == (kind == "ascii")
        ]
        if paths:
            servers.append(Server(stack, [*command, kind, *paths]))
    for server in servers:
        server.ready()
    facts = servers[0].facts
    return Other(name, str(facts["version"]), rows, facts["ports"], line_rows, [fd for fd, _ in lines])


def _line(stack: ExitStack) -> tuple[int, str]:
    """Return the client's end of a new serial line, and the path of the server's."""
    master, slave = os.openpty()
    for fd in (master, slave):
        stack.callback(os.close, fd)
    tty.setraw(slave)
    os.set_blocking(master, False)
    return master, os.ttyname(slave)
