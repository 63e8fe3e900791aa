"""Fuzzes the servers over sockets and pseudo terminals: python -m tests.fuzz.sockets --seconds S --seed N.

The servers run in processes of their own, one per event loop: Modbus TCP with units of each connection's own,
with units that all share, with rights that forbid writes and with small limits; RTU over TCP; TLS; and two
serial lines.  In a round, clients attack all servers of one process at once; some stall, half-close, reset or
never read.  A seed makes the same bytes again, not the same times.  Linux only: every client has a loopback
address of its own, by which the server's process tells whose units are whose.

Invariants:

1. No crash: the process lives and ends well, and nothing is on its error output (its loops report there).
2. No wedge: good clients are answered all the time, and so is a good request on every connection that goes
   on; a connection that must end does.
3. The replies are those of reading.py, all of them unless the connection was reset or cut by a small limit.
4. The units are as reading.py leaves its own: after a reset by the client or a cut, as after some request.
5. Nothing leaks: no connection and no descriptor is left when the clients are gone.
6. Memory: at its peak within bounds, and flat from round to round.
7. No more connections are served than the limit allows.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

from ridethrough.hil.pki import Pki, make_pki

from tests.emulator.modbus_rows import ALL_FUNCTIONS, GOOD, with_crc
from tests.fuzz import frames
from tests.fuzz.clients import ROLES, Attack, Line, RtuReading, Twin, Wire, plan, rtu_frame
from tests.fuzz.harness import FOUND, FindingError
from tests.fuzz.reading import read_stream
from tests.fuzz.served import CONNECTIONS_MAX, IDLE_S, RTU_UNITS, Process, Unit, digest, fresh

LOOPS: Final = ("asyncio", *["uvloop"] * (find_spec("uvloop") is not None), "asyncio, no lane")
CLIENTS: Final = {"tcp": 14, "shared": 8, "rights": 8, "small": 12, "tls": 8}
WIDE: Final = ("tcp", "shared", "rights", "rtu")  # servers that always have room for one client more
STALL_REQUESTS: Final = 150_000
LINES: Final = ("binary", "text")
LINE_FRAMES: Final = 25
SILENCE_S: Final = 0.2  # four times what RTU over TCP asks for


class Round:
    """One attack on all servers of one process."""

    def __init__(
        self,
        process: Process,
        seed: int,
        number: int,
        pool: list[bytes],
        contexts: Mapping[str, ssl.SSLContext],
        done: Counter[str],
    ) -> None:
        self.process, self.pool, self.contexts, self.done = process, pool, contexts, done
        self.name = f"seed {seed}, {process.loop}, round {number}"
        self.rng = Random(f"{seed}/{process.loop}/{number}")
        self.addresses = count(number * 200)
        self.over = False  # the clients are gone
        self.expected: dict[
            str, tuple[list[str], bool, str]
        ] = {}  # histories by the server's name of the units

    def wire(self) -> Wire:
        n = next(self.addresses)
        self.done["connections"] += 1
        return Wire(f"127.{10 + n // 62500 % 200}.{n // 250 % 250}.{1 + n % 250}")

    def expect(self, key: str, history: list[str], exact: bool, what: str) -> None:
        self.expected[key] = history, exact, what

    async def good(self, server: str) -> None:
        """Ask something good on a fresh connection, until there is room for it."""
        began_s = time.perf_counter()
        while not await self.asked(server):
            if server != "small" or time.perf_counter() - began_s > self.process.wait_s:
                raise FindingError(f"wedge: {server} closes before it answers a good request")
            await asyncio.sleep(0.02)
        taken_ms = round(1e3 * (time.perf_counter() - began_s))
        if server != "small":
            self.done["slowest good request [ms]"] = max(self.done["slowest good request [ms]"], taken_ms)

    async def asked(self, server: str) -> bool:
        """Ask something good on a fresh connection; False if it was closed instead of answered."""
        request, wanted, size = GOOD, read_stream(fresh(), GOOD).replies, 13
        if server == "rtu":
            unit = self.rng.choice(RTU_UNITS)
            request, wanted, size = with_crc(bytes([unit, 3, 0, 5, 0, 2])), bytes([unit, 3, 4]), 9
        wire = self.wire()
        try:
            await wire.connect(self.process.places[server])
            if server == "tls":
                await asyncio.wait_for(wire.shake_hands(self.contexts[ROLES[0]]), self.process.wait_s)
            wire.listen()
            with suppress(OSError):
                await wire.send(request)
            await wire.until(lambda: len(wire.got) >= size or wire.end, self.process.wait_s, "no reply")
        except TimeoutError:
            raise FindingError("wedge: no handshake") from None
        except FindingError as finding:
            raise FindingError(f"{finding}; a good request to {server}") from None
        finally:
            wire.close()
        if wire.got and (not wire.got.startswith(wanted) or len(wire.got) != size):
            raise FindingError(f"replies: a good request to {server} was answered {wire.got.hex()}")
        return bool(wire.got)

    async def good_meanwhile(self) -> None:
        while not self.over:
            for server in WIDE:
                await self.good(server)
            await asyncio.sleep(0.05)

    async def send(self, wire: Wire, data: bytes, rng: Random) -> None:
        """Send in pieces and with pauses, which together are shorter than any time-out that must not come."""
        pieces = frames.pieces(rng, data)
        paused_s = 0.0
        for piece in [*pieces[:300], b"".join(pieces[300:])]:
            self.done["bytes"] += len(piece)
            await asyncio.wait_for(wire.send(piece), self.process.wait_s)
            if rng.random() < 0.05 and paused_s < 0.3:
                pause_s = rng.random() * 0.02
                paused_s += pause_s
                await asyncio.sleep(pause_s)
            elif rng.random() < 0.1:
                await asyncio.sleep(0)

    async def attack(self, a: Attack) -> None:
        wire = self.wire()
        what = f"{a.kind}, {a.ending}, after {a.stream[:3000].hex()}"
        if a.kind != "shared":
            self.expect(wire.sock.getsockname()[0], a.twin.history, a.exact, what)
        self.done[f"{a.kind}, {a.ending}"] += 1
        try:
            await wire.connect(self.process.places[a.kind])
            await self.talk(wire, a)
        except TimeoutError:
            raise FindingError(f"wedge: the server does not read; {what}") from None
        except FindingError as finding:
            raise FindingError(f"{finding}; {what}") from None
        except OSError:
            if a.exact:
                raise FindingError(f"replies: the server broke the connection; {what}") from None
        finally:
            wire.close(reset=a.ending == "reset" or (a.ending == "stall" and a.rng.random() < 0.5))
        if a.ending == "raw":
            return
        if not a.replies.startswith(wire.got) and a.ending != "stall":
            raise FindingError(f"replies: {wire.got.hex()} came, not {a.replies.hex()}; {what}")
        if a.exact and (
            (wire.end == "reset" and not a.closed) or (wire.end == "closed" and wire.got != a.replies)
        ):
            raise FindingError(f"replies: {len(wire.got)} of {len(a.replies)} bytes, then {wire.end}; {what}")

    async def talk(self, wire: Wire, a: Attack) -> None:
        """Do what the attack says, until the server has ended the connection, or we may."""
        wait_s = self.process.wait_s
        if a.kind == "tls" and a.ending != "raw":
            await wire.shake_hands(self.contexts[a.role])
        if a.ending == "stall":
            with suppress(TimeoutError, OSError):
                for _ in range(STALL_REQUESTS // 2800):
                    await asyncio.wait_for(wire.send(a.stream), 1.0)
                await asyncio.sleep(1.0)  # for the server to show what it makes of it
            return
        wire.listen(0.3 if a.ending == "late" else 0.0)
        if a.ending == "drip":
            await self.drip(wire, a.stream)
            return
        with suppress(OSError):
            await self.send(wire, a.stream, a.rng)
        if a.ending == "reset":
            return
        if a.ending in ("wait", "late", "corrupt"):
            await wire.until(
                lambda: wire.end or (len(wire.got) >= len(a.replies) and not a.closed),
                wait_s,
                "no reply, and no end,",
            )
        if a.ending == "corrupt" and not wire.end:
            a.closed = True
            with suppress(OSError):
                await wire.send(b"\0\1\0\0\0\6\1\6\0\1\0\7", flip=a.rng.getrandbits(16))
        elif a.ending != "abandon" and not wire.end:
            with suppress(OSError):
                wire.sock.shutdown(socket.SHUT_WR)
        await wire.until(lambda: wire.end, wait_s, "no end")

    async def drip(self, wire: Wire, data: bytes) -> None:
        """Send a byte now and then, so that the connection is never idle; it must be cut before the last."""
        began_s = time.perf_counter()
        for byte in data:
            if wire.end or time.perf_counter() - began_s > self.process.wait_s:
                break
            with suppress(OSError):
                await wire.send(bytes([byte]))
            await asyncio.sleep(0.05)
        if not wire.end:
            raise FindingError("wedge: a frame that never becomes whole is not cut")

    async def crowd(self) -> None:
        """Come all at once, more than there is room for."""
        wires = [self.wire() for _ in range(CONNECTIONS_MAX + 4)]
        began_s = time.perf_counter()
        try:
            for wire in wires:
                await wire.connect(self.process.places["small"])
                wire.listen()
                with suppress(OSError):
                    await wire.send(GOOD)
            for wire in wires:
                await wire.until(partial(answered, wire), self.process.wait_s, "no reply, and no end,")
            served = sum(bool(wire.got) for wire in wires)
            if served == 0 or (served > CONNECTIONS_MAX and time.perf_counter() - began_s < IDLE_S / 2):
                raise FindingError(f"limit: {served} connections are served, allowed are {CONNECTIONS_MAX}")
        finally:
            for wire in wires:
                wire.close()

    async def small(self, attacks: list[Attack]) -> None:
        await self.crowd()
        await asyncio.gather(*(self.attack(attack) for attack in attacks))

    async def rtu(self, unit: int, rng: Random) -> None:
        """Send segments of RTU frames, the last of each perhaps bad, with silences in between."""
        ending = rng.choice(("wait", "half-close", "reset", "flood"))
        twin = Twin({unit: Unit(ALL_FUNCTIONS)})
        stream = RtuStream(self, self.wire(), RtuReading(twin.units), rng)
        self.expect(f"rtu {unit}", twin.history, ending != "reset", f"rtu, {ending}")
        self.done[f"rtu, {ending}"] += 1
        try:
            await stream.wire.connect(self.process.places["rtu"])
            stream.wire.listen()
            if ending == "flood":
                await stream.flood(unit)
            else:
                for _ in range(rng.randrange(5)):
                    await stream.segment(unit)
                if ending != "reset":
                    await stream.send(bytes(300), at_once=True)  # ends whatever is incomplete
                    await stream.send(with_crc(bytes([unit, 3, 0, 5, 0, 2])))
            if ending in ("half-close", "flood"):
                with suppress(OSError):  # it may have been cut off
                    stream.wire.sock.shutdown(socket.SHUT_WR)
                await stream.wire.until(lambda: stream.wire.end, self.process.wait_s, "no end")
        except FindingError as finding:
            raise FindingError(f"{finding}; rtu, after {stream.sent.hex()}") from None
        finally:
            stream.wire.close(reset=ending == "reset")
        if ending != "flood" and stream.wire.got != stream.replies:
            raise FindingError(
                f"replies: {stream.wire.got.hex()}, not {stream.replies.hex()}; after {stream.sent.hex()}"
            )

    async def line(self, name: str, rng: Random) -> None:
        line = Line(self.process, name)
        self.done[f"{name} line, frames"] += LINE_FRAMES
        try:
            await line.fuzz(rng, LINE_FRAMES)
        finally:
            line.close()
        self.expect(name, [digest(line.units)], True, f"{name} line")

    async def run(self) -> None:
        """Attack, and look at what is left."""
        await self.process.ask("fresh")
        self.expect("shared", [digest(fresh())], True, "shared")
        plans = {
            kind: [plan(Random(f"{self.rng.random()}"), kind, self.pool) for _ in range(clients)]
            for kind, clients in CLIENTS.items()
        }
        small = plans.pop("small")
        meanwhile = asyncio.create_task(self.good_meanwhile())
        tasks = [asyncio.create_task(self.attack(one)) for found in plans.values() for one in found]
        tasks += [asyncio.create_task(self.rtu(unit, Random(f"{self.rng.random()}"))) for unit in RTU_UNITS]
        tasks += [asyncio.create_task(self.line(name, Random(f"{self.rng.random()}"))) for name in LINES]
        tasks += [asyncio.create_task(self.small(small))]
        try:
            await self.gather(tasks, meanwhile)
            await self.look()
        except FindingError as finding:
            died = await self.process.died()
            raise FindingError(f"{self.name}: {died}{finding}") from None

    async def gather(self, tasks: list[asyncio.Task[None]], meanwhile: asyncio.Task[None]) -> None:
        """Wait for the tasks, then end what runs meanwhile; the first finding ends all."""
        wait_s = 4 * self.process.wait_s
        together = asyncio.gather(*tasks)
        both: list[asyncio.Future[Any]] = [together, meanwhile]
        in_time, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED, timeout=wait_s)
        stuck = "" if in_time else "; ".join(str(task) for task in tasks if not task.done())
        self.over = True  # asked, not cancelled: `wait_for` of Python 3.11 can swallow that
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, meanwhile, return_exceptions=True)
        with suppress(BaseException):
            await together
        for error in ended:
            if isinstance(error, Exception):
                raise error
        if stuck:
            raise FindingError(f"wedge: after {wait_s} s these clients have not come to their end: {stuck}")

    async def look(self) -> None:
        """Check what the process holds now that all clients are gone."""
        deadline_s = time.perf_counter() + self.process.wait_s
        while True:
            found = await self.process.ask("look")
            more = self.process.count_descriptors() - self.process.descriptors
            if not found["connections"] and more <= 0:
                break
            if time.perf_counter() > deadline_s:
                raise FindingError(f"leak: connections {found['connections']}, {more} descriptors are left")
            await asyncio.sleep(0.02)
        for key, (history, exact, what) in self.expected.items():
            state = found["states"].get(key, history[0])
            if state not in (history[-1:] if exact else history):
                raise FindingError(f"units: changed otherwise than the requests allow; {what}")
        for server in (*CLIENTS, "rtu"):
            await self.good(server)
        self.process.check()


class RtuStream:
    """One connection of RTU frames and what must come back on it."""

    def __init__(self, attack: Round, wire: Wire, reading: RtuReading, rng: Random) -> None:
        self.attack, self.wire, self.reading, self.rng = attack, wire, reading, rng
        self.sent = self.replies = b""

    async def send(self, data: bytes, *, at_once: bool = False) -> None:
        """Send, wait for the replies, and be silent if the server has lost step.

        What makes it lose step goes in one piece: load would decide whether what comes later is dropped.
        """
        at_once = at_once or bool(self.reading.held)
        replies, lost = self.reading.segment(data)
        self.sent += data
        self.replies += replies
        await (self.wire.send(data) if at_once else self.attack.send(self.wire, data, self.rng))
        wait_s = self.attack.process.wait_s
        await self.wire.until(
            lambda: self.wire.end or len(self.wire.got) >= len(self.replies), wait_s, "no reply"
        )
        if lost:
            await self.attack.good("rtu")  # so that the server has read by now what came before
            await asyncio.sleep(SILENCE_S)

    async def segment(self, unit: int) -> None:
        good, bad = b"", self.rng.choice((b"", self.rng.randbytes(self.rng.randrange(1, 400)), bytes(300)))
        for _ in range(self.rng.randrange(12)):
            frame, in_step = rtu_frame(self.rng, unit)
            good, bad = (good + frame, bad) if in_step else (good, frame)
        await self.send(good)
        await self.send(bad, at_once=True)

    async def flood(self, unit: int) -> None:
        """Send reads and noise without end: whatever is dropped, nothing may be written."""
        read = with_crc(bytes([unit, 3, 0, 5, 0, 2]))
        noise = [self.rng.choice((read, self.rng.randbytes(self.rng.randrange(90)))) for _ in range(300)]
        self.sent = b"".join(noise)
        with suppress(OSError):
            await self.attack.send(self.wire, self.sent, self.rng)


def answered(wire: Wire) -> bool:
    return bool(wire.got or wire.end)


def context_of(pki: Pki, role: str) -> ssl.SSLContext:
    """Return the context of a client with this role."""
    context = ssl.create_default_context(cafile=pki.ca)
    context.load_cert_chain(pki.clients[role].cert, pki.clients[role].key)
    return context


async def fuzz(
    seconds: float, seed: int, loops: Sequence[str] = LOOPS, *, wait_s: float = 30.0, defect: str = ""
) -> str:
    """Fuzz for a time, and return what was done.

    Parameters
    ----------
    seconds : float
        No round begins later than this [s].
    loops : sequence of str
        Event loops of the servers, out of `LOOPS`.
    wait_s : float
        What must come has come within this time [s].
    defect : str
        Of `test_fuzz_sockets.DEFECTS`, to be planted in the servers.

    Raises
    ------
    FindingError
        An invariant is broken.
    """
    done: Counter[str] = Counter()
    rng = Random(f"{seed}/pool")
    pool = [frames.frame(rng) for _ in range(2000)]
    processes: list[Process] = []
    with tempfile.TemporaryDirectory() as scratch:
        pki = make_pki(Path(scratch) / "pki")
        contexts = {role: context_of(pki, role) for role in ROLES}
        try:
            for loop in loops:
                process = await Process.start(loop, Path(scratch), pki, wait_s, defect)
                processes.append(process)
            began_s, number = time.perf_counter(), 0
            while time.perf_counter() - began_s < seconds or number < len(loops):
                process = processes[number % len(loops)]
                await Round(process, seed, number, pool, contexts, done).run()
                number += 1
            for process in processes:
                done[f"memory grown [KiB], {process.loop}"] = (
                    process.resident[-1] - process.resident[0]
                ) >> 10
                await process.end()
        finally:
            for process in processes:
                await process.kill()
    done["rounds"] = number
    return "".join(f"{done[name]:9} {name}\n" for name in sorted(done)) + f"seed {seed}: nothing found"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        print(asyncio.run(fuzz(options.seconds, options.seed)))
    except FindingError as finding:
        print(finding, file=sys.stderr)
        return FOUND
    return 0


if __name__ == "__main__":
    sys.exit(main())
