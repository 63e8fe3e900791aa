"""Feeds a Modbus core with frames good and bad, and compares it with a second reading of the protocol.

Invariants, looked at after every batch, and the first also after every piece:

1. What is held of an incomplete frame is 0 to 259 bytes.
2. The replies, and whether the connection ends, are those of reading.py: no silence, no reply too many.
3. The units are as reading.py leaves its own: nothing was written that was not allowed, and all that was.
4. Nothing is wedged: a good request is answered, on a new connection if the old one ended or waits for more,
   and what waits for more ends with the next bytes that cannot be a frame.
5. No unit was asked something that made it raise.
6. Memory does not grow with the number of frames.

Any other core than the product's can be handed in, to show that each of these is seen to be broken.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, Final, NamedTuple

from tests.emulator.modbus_rows import (
    ALL_FUNCTIONS,
    BITS,
    GOOD,
    READ_ONLY,
    REGISTERS,
    SUNSPEC_FUNCTIONS,
    with_crc,
)
from tests.fuzz import frames
from tests.fuzz.reading import Read, read_serial, read_stream

RSS_BYTES_MAX: Final = 24 << 20
"""How much the process may grow once it is warm; a leak of 3 bytes per frame shows in ten million."""
WARM_BATCHES: Final = 400
POOL: Final = 4000
BATCHES_PER_POOL: Final = 1000

OBJECTS: Final = {
    0: b"Ridethrough",
    1: bytes(100),
    2: b"0.1",
    3: bytes(120),
    4: b"x",
    0x80: bytes(range(244)),
    0x81: b"",
}


FOUND: Final = 3
"""Exit code for a broken invariant; the sanitisers and Python have codes of their own."""


class FindingError(Exception):
    """An invariant is broken."""


class Store:
    """A unit of 200 registers, some of them read-only, 200 coils and as many inputs."""

    def __init__(self, functions: frozenset[int]) -> None:
        self.functions = functions
        self.cells = bytearray(range(200)) + bytearray(range(200))
        self.coils = bytearray(b"\0\1\1" * (BITS // 3 + 1))[:BITS]
        self.inputs = bytes(self.coils[::-1])

    def read(self, address: int, count: int) -> bytes | int:
        return 2 if address + count > REGISTERS else bytes(self.cells[2 * address : 2 * (address + count)])

    def write(self, address: int, data: bytes) -> int:
        end = address + len(data) // 2
        if end > REGISTERS or (address < READ_ONLY.stop and end > READ_ONLY.start):
            return 2
        self.cells[2 * address : 2 * end] = data
        return 0

    def read_bits(self, address: int, count: int, inputs: bool) -> bytes | int:
        bits = (self.inputs if inputs else self.coils)[address : address + count]
        if len(bits) < count:
            return 2
        return int(bytes(48 + bit for bit in reversed(bits)), 2).to_bytes((count + 7) // 8, "little")

    def write_bits(self, address: int, count: int, data: bytes) -> int:
        if address + count > BITS:
            return 2
        number = int.from_bytes(data, "little")
        self.coils[address : address + count] = bytes(number >> k & 1 for k in range(count))
        return 0

    def identify(self) -> dict[int, bytes]:
        return OBJECTS


class Sides(NamedTuple):
    """The units of the core and those of reading.py, alike in the beginning, and where most requests go."""

    ours: Mapping[int, Any]
    theirs: Mapping[int, Any]
    base: int = 0


def stores(kind: type[Store] = Store) -> Sides:
    """Return units in memory; those of the core are of this kind."""
    functions = {1: ALL_FUNCTIONS, 2: SUNSPEC_FUNCTIONS}
    return Sides(
        {unit: kind(served) for unit, served in functions.items()},
        {unit: Store(served) for unit, served in functions.items()},
    )


def devices() -> Sides:
    """Return an inverter and its meter out of two plants that are alike."""
    from ridethrough.emulator.image import units_of
    from ridethrough.emulator.plant import Plant

    from tests.emulator.register_bench import FULL

    ours, theirs = (dict(zip((1, 2), units_of(Plant([FULL]), 0).values(), strict=True)) for _ in range(2))
    return Sides(ours, theirs, ours[1].layout.point(123, "Conn_WinTms").address)  # settings from there on


def state(unit: Any) -> Any:
    """Return all that a client can see of a unit."""
    if isinstance(unit, Store):
        return bytes(unit.cells), bytes(unit.coils)
    return unit.read(unit.base_address, unit.count)


class Fuzzer:
    """Batches of one seed against one core.

    Parameters
    ----------
    core : module or any object
        With `Connection`, `SerialServer` and `crc16`.
    seed : int
    sides : Sides
        The units.
    """

    def __init__(self, core: ModuleType | Any, seed: int, sides: Sides) -> None:
        self.core = core
        self.seed = seed
        self.ours, self.theirs, self.base = sides
        self.frames = 0
        self.resident = 0
        self._pool_number = -1

    def batch(self, number: int) -> None:
        """Run one batch; the same number is the same bytes again, but on units as they have become."""
        pool_number = number // BATCHES_PER_POOL
        if pool_number != self._pool_number:
            rng = Random(f"{self.seed}/pool/{pool_number}")
            self._pool_number = pool_number
            self._pool = [frames.frame(rng, self.base) for _ in range(POOL)]
            self._binary = [frames.binary(rng, self.base) for _ in range(POOL // 8)]
            self._text = [frames.text(rng, self.base) for _ in range(POOL // 8)]
        rng = Random(f"{self.seed}/batch/{number}")
        try:
            if number % 5 == 4:
                self._serial(rng)
            else:
                self._tcp(rng)
            for ours, theirs in zip(self.ours.values(), self.theirs.values(), strict=True):
                if state(ours) != state(theirs):
                    raise FindingError("a unit was changed otherwise than the requests allow")
        except FindingError as finding:
            raise FindingError(f"seed {self.seed}, batch {number}: {finding}") from None

    def _tcp(self, rng: Random) -> None:
        stream = frames.stream(rng, self._pool)
        connection = self.core.Connection(self.ours)
        one_by_one = rng.random() < 0.1
        replies = []
        for piece in frames.pieces(rng, stream):
            if one_by_one:
                replies += [reply for _, reply in connection.exchange(piece)]
            else:
                replies.append(connection.receive(piece))
            if not 0 <= connection.pending < 260:
                raise FindingError(f"{connection.pending} bytes held of an incomplete frame")
        read = read_stream(self.theirs, stream)
        self.frames += read.frames
        self._compare(connection, b"".join(replies), read, stream)
        if connection.pending or connection.closed:
            # 254 zeros complete any frame, and a header of zeros cannot be: what waits must end.
            tail = stream[len(stream) - read.left :] + bytes(254 + 6)
            replies = [connection.receive(bytes(254 + 6))]
            if not read.closed:
                self._compare(connection, replies[0], read_stream(self.theirs, tail, read.misfit), stream)
            if not connection.closed:
                raise FindingError(f"a connection goes on that cannot be in step, after {stream.hex()}")
            if connection.receive(GOOD):
                raise FindingError("a connection that has ended answers")
            connection = self.core.Connection(self.ours)
        good = connection.receive(GOOD)
        if good != read_stream(self.theirs, GOOD).replies:
            raise FindingError(f"a good request was answered {good.hex()!r}, after {stream.hex()}")

    def _compare(self, connection: Any, replies: bytes, read: Read, stream: bytes) -> None:
        found = (replies.hex(), connection.closed, connection.pending)
        wanted = (read.replies.hex(), read.closed, read.left)
        if found != wanted:
            raise FindingError(f"replies, closed and pending are {found}, not {wanted}, after {stream.hex()}")
        if connection.last_error is not None:
            raise FindingError(f"a unit raised {connection.last_error!r}")

    def _serial(self, rng: Random) -> None:
        server = self.core.SerialServer(self.ours)
        for frame, inner in rng.choices(self._binary, k=100):
            reply = server.rtu(frame)
            expected = b"" if inner is None or len(frame) > 256 else read_serial(self.theirs, inner)
            if reply[:-2] != expected or (reply and self.core.crc16(reply) != 0):
                raise FindingError(
                    f"reply {reply.hex()} to {frame.hex()}, to be {expected.hex()} and its CRC"
                )
        for line, inner in rng.choices(self._text, k=100):
            reply = server.ascii(line)
            expected = b"" if inner is None else read_serial(self.theirs, inner)
            wanted = expected + bytes([-sum(expected) % 256])
            wanted = b":" + wanted.hex().upper().encode() + b"\r\n" if expected else b""
            if reply != wanted:
                raise FindingError(f"reply {reply!r} to {line!r}, to be {wanted!r}")
        self.frames += 200
        if server.last_error is not None:
            raise FindingError(f"a unit raised {server.last_error!r}")
        good = with_crc(GOOD[6:])
        if server.rtu(good)[:-2] != read_serial(self.theirs, GOOD[6:]):
            raise FindingError("a good request was not answered on the line")

    def memory(self) -> None:
        """Look at the memory of the process, and remember it when called for the first time."""
        grown = resident_bytes() - (self.resident or resident_bytes())
        self.resident = self.resident or resident_bytes()
        if grown > RSS_BYTES_MAX:
            raise FindingError(f"seed {self.seed}: memory has grown by {grown >> 20} MiB")


def resident_bytes() -> int:
    """Return the resident size of this process [bytes]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(fuzzer: Fuzzer, frames_wanted: int, progress: Path | None = None) -> int:
    """Run batches until so many frames were taken; return how many batches it took."""
    number = 0
    while fuzzer.frames < frames_wanted:
        if progress is not None:
            progress.write_text(str(number))  # read by the parent if this process dies
        fuzzer.batch(number)
        number += 1
        if number >= WARM_BATCHES and number % 100 == 0:
            fuzzer.memory()
    return number


def main() -> int:
    """Fuzz the core that this Python finds, if it is the one in the folder that was named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--devices", action="store_true")
    options = parser.parse_args()
    from ridethrough.emulator import _modbus, _pdu

    modules = [_modbus, _pdu]
    if options.devices:
        from ridethrough.emulator import _registers

        modules.append(_registers)
    for module in modules:
        found = Path(module.__file__ or "")
        if options.folder.resolve() not in found.resolve().parents:
            print(f"{found} was found; needed is the build in {options.folder}", file=sys.stderr)
            return 2
    began_s = time.perf_counter()
    fuzzer = Fuzzer(_modbus, options.seed, devices() if options.devices else stores())
    try:
        batches = run(fuzzer, options.frames, options.folder / "progress")
    except FindingError as finding:
        print(finding, file=sys.stderr)
        return FOUND
    print(
        f"{fuzzer.frames} frames in {batches} batches, {time.perf_counter() - began_s:.1f} s: nothing found"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
