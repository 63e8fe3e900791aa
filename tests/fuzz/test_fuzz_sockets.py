"""The fuzzer finds nothing in the servers, and finds what is planted there, one defect for each invariant."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from ridethrough.emulator import rtu_tcp, serial_line, server, tls

from tests.emulator.modbus_rows import GOOD, with_crc
from tests.fuzz import served
from tests.fuzz.clients import ENDINGS, MORE_ENDINGS, RtuReading, Twin, plan
from tests.fuzz.frames import frame
from tests.fuzz.harness import FindingError
from tests.fuzz.served import fresh
from tests.fuzz.sockets import CLIENTS, LOOPS, fuzz

linux = pytest.mark.skipif(sys.platform != "linux", reason="loopback addresses and /proc as Linux has them")


@linux
def test_short_run() -> None:
    report = asyncio.run(fuzz(3.0, 1))
    assert report.endswith("seed 1: nothing found")
    for kind in (*CLIENTS, "rtu", "binary line", "text line"):
        assert f" {kind}, " in report


@linux
@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.timeout(600)
def test_long_run() -> None:
    report = asyncio.run(fuzz(120.0, 2))
    assert report.endswith("seed 2: nothing found")
    for kind in CLIENTS:
        for ending in ENDINGS | MORE_ENDINGS.get(kind, {}):
            assert f" {kind}, {ending}\n" in report


# Each is called in the servers' process before it serves.


def around(owner: Any, name: str, new: Callable[..., Any]) -> None:
    """Put a function in the place of another, which it gets as its first argument."""
    old = getattr(owner, name)
    setattr(owner, name, lambda *arguments: new(old, *arguments))


def nothing(*_: object) -> None:
    pass


def dies() -> None:
    def read(old: Any, unit: Any, address: int, count: int) -> Any:
        return os.kill(os.getpid(), signal.SIGSEGV) if address == 100 else old(unit, address, count)

    around(served.Unit, "read", read)


def raises_at_the_end_of_a_stream() -> None:
    def eof_received(old: Any, peer: Any) -> Any:
        old(peer)
        raise ZeroDivisionError("bug")

    around(server._Peer, "eof_received", eof_received)


def fails_when_closed() -> None:
    async def close(old: Any, one: Any) -> None:
        await old(one)
        raise ZeroDivisionError("bug")

    around(server.TcpServer, "close", close)


def stands_still() -> None:
    def read(old: Any, unit: Any, address: int, count: int) -> Any:
        if address == 100:
            time.sleep(60.0)
        return old(unit, address, count)

    around(served.Unit, "read", read)


def stays_out_of_step() -> None:
    vars(rtu_tcp)["SILENCE_S"] = 1e9


def forgets_a_backlog() -> None:
    def resume_writing(old: Any, peer: Any) -> None:
        peer._backlog = b""
        old(peer)

    around(server._Peer, "resume_writing", resume_writing)


def never_cuts_a_frame() -> None:
    vars(server)["_Peer"]._watch = nothing


def never_cuts_the_idle() -> None:
    vars(server)["_Peer"]._cut_if_idle = nothing


def never_hangs_up() -> None:
    def finish(old: Any, peer: Any) -> None:
        if not peer.core.closed:
            old(peer)

    around(server._Peer, "_finish", finish)


def miscounts() -> None:
    def leave(old: Any, one: Any, peer: Any) -> None:
        one._peers.discard(peer)

    around(server.TcpServer, "_leave", leave)


def keeps_descriptors() -> None:
    def made(old: Any, peer: Any, transport: asyncio.Transport) -> None:
        os.open(os.devnull, os.O_RDONLY)
        old(peer, transport)

    around(server._Peer, "connection_made", made)


def hoards() -> None:
    kept: list[bytes] = []

    def made(old: Any, peer: Any, transport: asyncio.Transport) -> None:
        kept.append(b"x" * 60_000)
        old(peer, transport)

    around(server._Peer, "connection_made", made)


def never_stops_reading() -> None:
    vars(server)["_Peer"].pause_writing = nothing


def lets_everybody_in() -> None:
    def enter(old: Any, one: Any, peer: Any) -> bool:
        old(one, peer)
        one._served += not peer.served
        return True

    around(server.TcpServer, "_enter", enter)


def writes_in_part() -> None:
    def write(old: Any, unit: Any, address: int, data: bytes) -> int:
        code: int = old(unit, address, data)
        if code:
            old(unit, address, data[:2])
        return code

    around(served.Unit, "write", write)


def forgets_writes() -> None:
    vars(served)["Unit"].write = lambda unit, address, data: 0


def ignores_rights() -> None:
    vars(served)["NoWrites"].allows = lambda *_: True


def ignores_roles() -> None:
    vars(tls)["Rights"].allows = lambda *_: True


def carries_out_broken_frames() -> None:
    def made(old: Any, line: Any, core: Any, *arguments: Any, **options: Any) -> None:
        old(line, core, *arguments, **options)
        if not options["ascii_"]:
            line._execute = lambda frame: core.rtu(with_crc(frame[:-2]))

    old = serial_line.SerialLine.__init__
    vars(serial_line)["SerialLine"].__init__ = lambda *args, **options: made(old, *args, **options)


def falls_silent_on_a_line() -> None:
    def answer(old: Any, line: Any, frame: bytes) -> None:
        if line.counts.replies < 5:
            old(line, frame)

    around(serial_line.SerialLine, "_answer", answer)


DEFECTS: dict[str, tuple[Callable[[], None], str]] = {
    function.__name__.replace("_", " "): (function, what)
    for function, what in (
        (dies, "crash: the process ended with -11"),
        (raises_at_the_end_of_a_stream, "crash: error output.*ZeroDivisionError"),
        (fails_when_closed, "crash: the process ended with 1, error output"),
        (stands_still, "wedge"),
        (stays_out_of_step, "wedge: no reply.*rtu"),
        (forgets_a_backlog, "wedge: no reply|replies: "),
        (never_cuts_a_frame, "wedge: a frame that never becomes whole"),
        (never_cuts_the_idle, "wedge: no end.*small"),
        (never_hangs_up, "wedge: no"),
        (miscounts, "leak: connections {.tcp"),
        (keeps_descriptors, "leak: connections {}, [1-9]"),
        (hoards, "memory: grown to|memory: .* at the peak"),
        (never_stops_reading, "memory: .* at the peak"),
        (lets_everybody_in, "limit"),
        (writes_in_part, "units: changed|replies"),
        (forgets_writes, "units: changed|replies"),
        (ignores_rights, "rights"),
        (ignores_roles, "tls"),
        (carries_out_broken_frames, "replies: .* on the line"),
        (falls_silent_on_a_line, "replies: .* on the line"),
    )
}


@linux
@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.parametrize("name", DEFECTS)
def test_planted_defect_is_found(name: str) -> None:
    with pytest.raises(FindingError, match=f"(?s){DEFECTS[name][1]}"):
        asyncio.run(fuzz(25.0 if name != "fails when closed" else 0.0, 3, LOOPS[:1], wait_s=5.0, defect=name))


class Gone(asyncio.Transport):
    """A transport whose client has reset: the first write fails."""

    written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += 1

    def is_closing(self) -> bool:
        return self.written > 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def close(self) -> None:
        pass


def test_nothing_is_written_to_a_client_that_has_reset() -> None:
    """Found by seed 1 on asyncio without a lane, whose transport complains of the fifth write in vain."""

    async def main() -> None:
        one = server.TcpServer({1: served.Unit(frozenset({3}))}, core=None)
        peer, transport = one.accept(), Gone()
        peer.connection_made(transport)
        peer.data_received(GOOD * 10_000)
        assert transport.written == 1
        peer.connection_lost(None)
        assert one.connections == 0

    asyncio.run(main())


def test_same_seed_is_the_same_plan() -> None:
    pool = [frame(Random(n)) for n in range(50)]
    for kind in CLIENTS:
        first, second = (plan(Random(9), kind, pool) for _ in range(2))
        assert (first.stream, first.ending, first.replies) == (second.stream, second.ending, second.replies)
        assert first.twin.history == second.twin.history


def test_who_may_not_write_changes_nothing() -> None:
    pool = [frame(Random(n)) for n in range(500)]
    allowed, forbidden = (
        [len(set(plan(Random(n), kind, pool).twin.history)) for n in range(20)] for kind in ("tcp", "rights")
    )
    assert max(allowed) > 10
    assert set(forbidden) == {1}


def test_reading_of_a_stream_of_rtu_frames() -> None:
    """Silence is what the reading itself takes as the end of a call."""
    units = fresh()
    twin = Twin(units)
    reading = RtuReading(twin.units)
    write = with_crc(bytes.fromhex("01 06 0001 1234"))
    assert reading.segment(write[:5]) == (b"", False)
    assert reading.segment(write[5:]) == (write, False)
    assert units[1].cells[2:4] == b"\x12\x34"
    assert len(twin.history) == 2
    assert reading.segment(b"\x01\x99" + write) == (b"", True)
    assert reading.segment(write[:-1] + b"\0") == (b"", True)
    assert len(twin.history) == 2
    assert reading.segment(write) == (write, False)
