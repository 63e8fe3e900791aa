"""The serial line on pseudo terminals: rows 49 to 58 of the table, its speed, and what it refuses.

Times are lower bounds: a busy host may be late, nothing may be early.
"""

from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ridethrough.emulator.errors import InvariantError
from ridethrough.emulator.serial_frames import NS_PER_S
from ridethrough.emulator.serial_line import SerialLine, serve_serial

from tests.emulator.loops import either_loop, run
from tests.emulator.serial_bench import (
    ASCII_GOOD,
    ASCII_GOOD_REPLY,
    FAST,
    GOOD,
    GOOD_REPLY,
    WAIT_S,
    Memory,
    Wire,
    ascii_,
    plugged,
    rtu,
    until,
)

pytestmark = pytest.mark.usefixtures(either_loop.__name__)


@asynccontextmanager
async def bench(
    units: Mapping[int, Any] | None = None, baud: int = FAST, **options: Any
) -> AsyncIterator[tuple[SerialLine, Wire]]:
    """Serve a pseudo terminal and plug a wire into it."""
    line = await serve_serial(units or {1: Memory()}, "pty", baud, **options)
    async with line, plugged(line.path) as wire:
        yield line, wire


# The table.


def test_row_49_wrong_crc_is_met_with_silence() -> None:
    async def main() -> None:
        async with bench() as (line, wire):
            for k in range(8):
                broken = bytearray(GOOD)
                broken[k] ^= 0x10
                await wire.quiet(line, bytes(broken))
                await wire.ask()

    run(main())


def test_row_50_other_address_is_met_with_silence() -> None:
    async def main() -> None:
        memory = Memory()
        async with bench({1: memory}) as (line, wire):
            await wire.quiet(line, rtu("02 06 0005 abcd"))
            assert memory.calls == []
            await wire.ask()

    run(main())


def test_rows_51_and_52_broadcast_writes_reach_all_and_reads_nobody() -> None:
    async def main() -> None:
        memories = {1: Memory(), 7: Memory(), 247: Memory()}
        async with bench(memories) as (line, wire):
            await wire.quiet(line, rtu("00 06 0005 beef"))
            await wire.quiet(line, rtu("00 10 0006 0002 04 0001 0002"))
            assert [memory.calls for memory in memories.values()] == [[("write", 5, 1), ("write", 6, 2)]] * 3
            await wire.quiet(line, rtu("00 03 0005 0001"))
            assert all(len(memory.calls) == 2 for memory in memories.values())
            for unit_id in memories:
                await wire.ask(rtu(f"{unit_id:02x} 03 0005 0003"), rtu(f"{unit_id:02x} 03 06 beef 0001 0002"))

    run(main())


def test_row_53_gap_inside_a_frame_spoils_it() -> None:
    """At 300 Bd a gap of 2.5 characters lasts 92 ms; a host that makes it longer cuts the frame in two."""

    async def main() -> None:
        memory = Memory()
        async with bench({1: memory}, baud=300) as (line, wire):
            write = rtu("01 06 0005 beef")
            wire.write(write[:2])
            await asyncio.sleep((line.timing.characters_ns(9) // 2) / NS_PER_S)
            await wire.quiet(line, write[2:])
            assert memory.calls == []

    run(main())


def test_a_pause_ends_a_frame_and_both_parts_are_met_with_silence() -> None:
    async def main() -> None:
        memory = Memory()
        async with bench({1: memory}) as (line, wire):
            await wire.quiet(line, GOOD[:4])
            await wire.quiet(line, GOOD[4:])
            assert line.counts.frames == 2
            assert memory.calls == []
            await wire.ask()

    run(main())


def test_row_54_two_frames_without_a_silence_between_them_are_none() -> None:
    async def main() -> None:
        memory = Memory()
        async with bench({1: memory}) as (line, wire):
            await wire.quiet(line, rtu("00 06 0005 0001") + rtu("00 06 0005 0002"))
            assert memory.calls == []
            await wire.ask()

    run(main())


def test_row_55_reserved_addresses_are_met_with_silence() -> None:
    async def main() -> None:
        async with bench() as (line, wire):
            for address in (248, 250, 255):
                await wire.quiet(line, rtu(f"{address:02x} 03 0005 0001"))
            await wire.ask()

    run(main())


def test_row_56_frame_of_257_bytes_is_discarded() -> None:
    async def main() -> None:
        memory = Memory()
        async with bench({1: memory}) as (line, wire):
            await wire.ask(rtu("01 10 0032 007b f6" + 246 * "00"), rtu("01 10 0032 007b"))  # 255 bytes
            calls = list(memory.calls)
            long = rtu("01 10 0000 007c f8" + 248 * "00")
            assert len(long) == 257
            await wire.quiet(line, long)
            assert line.discarded == 1
            assert memory.calls == calls
            await wire.ask()

    run(main())


@pytest.mark.parametrize(
    ("row", "sent"),
    [
        ("57 odd number of digits", b":0106000500010\r\n"),
        ("57 G", b":01060005000G3F\r\n"),
        ("57 CVE-like", b":0107F\r\n"),
        ("58 LRC wrong", ascii_("01 06 0005 0001").replace(b"F3", b"F4")),
        ("58 no CR LF, then another frame", ascii_("01 06 0005 0001")[:-2] + ascii_("02 06 0005 0001")),
        ("other address", ascii_("02 06 0005 0001")),
        ("broadcast read", ascii_("00 03 0005 0001")),
    ],
)
def test_rows_57_and_58_broken_ascii_frames_are_met_with_silence(row: str, sent: bytes) -> None:
    async def main() -> None:
        memory = Memory()
        async with bench({1: memory}, framing="ascii") as (line, wire):
            await wire.quiet(line, sent)
            assert memory.calls == [], row
            await wire.ask(ASCII_GOOD, ASCII_GOOD_REPLY)

    run(main())


def test_row_58_a_new_colon_begins_anew() -> None:
    async def main() -> None:
        memory = Memory()
        async with bench({1: memory}, framing="ascii") as (_, wire):
            await wire.ask(b":01060005" + ASCII_GOOD, ASCII_GOOD_REPLY)
            await wire.ask(b"\r\n\x00noise" + ASCII_GOOD, ASCII_GOOD_REPLY)
            wire.write(ascii_("00 06 0005 0001"))
            await wire.ask(ascii_("01 03 0005 0001"), ascii_("01 03 02 0001"))

    run(main())


def test_bad_requests_in_good_frames_get_exceptions() -> None:
    async def main() -> None:
        async with bench() as (_, wire):
            await wire.ask(rtu("01 03 0005 007e"), rtu("01 83 03"))
            await wire.ask(rtu("01 03 00c7 0002"), rtu("01 83 02"))
            await wire.ask(rtu("01 41 00"), rtu("01 c1 01"))

    run(main())


# Speed.


@pytest.mark.parametrize(
    ("baud", "framing", "turnaround_s"),
    [(9600, "rtu", 0.0), (9600, "rtu", 0.05), (9600, "ascii", 0.0), (38_400, "rtu", 0.0)],
)
def test_no_byte_comes_before_its_time(baud: int, framing: str, turnaround_s: float) -> None:
    """50 registers: 8 characters, 3.5 of silence, 105 characters; at 9,600 Bd and 11 bits 133.5 ms."""

    async def main() -> None:
        frame = rtu if framing == "rtu" else ascii_
        request = frame("01 03 0000 0032")
        reply = frame("01 03 64" + "".join(f"{0x1000 + k:04x}" for k in range(50)))
        async with bench(baud=baud, framing=framing, turnaround_s=turnaround_s) as (line, wire):
            began_s = wire.write(request)
            assert await wire.receive(len(reply)) == reply
            bits = 11 if framing == "rtu" else 10
            character_s = bits / baud
            silence_s = 0.0 if framing == "ascii" else 3.5 * character_s if baud <= 19_200 else 0.00175
            for at_s, count in wire.times:
                earliest_s = (len(request) + count) * character_s + silence_s + turnaround_s
                assert at_s - began_s >= earliest_s - 1e-6
            assert wire.times[-1][0] - began_s < 5.0
            assert len(wire.times) > 3, "the reply came in one lump"
            assert line.counts.replies == 1

    run(main())


def test_requests_that_come_in_pieces_take_no_longer_on_the_line() -> None:
    async def main() -> None:
        async with bench(baud=1200) as (line, wire):
            began_s = wire.write(GOOD[:4])
            wire.write(GOOD[4:])
            assert await wire.receive(len(GOOD_REPLY)) == GOOD_REPLY
            characters_s = line.timing.characters_ns(len(GOOD) + len(GOOD_REPLY)) / NS_PER_S
            assert wire.times[-1][0] - began_s >= characters_s + line.timing.silence_ns / NS_PER_S - 1e-6

    run(main())


def test_speed_is_not_emulated_when_told_so() -> None:
    async def main() -> None:
        async with bench(baud=300, emulate_speed=False) as (line, wire):
            assert not line.emulate_speed
            began_s = wire.write(GOOD)
            assert await wire.receive(len(GOOD_REPLY)) == GOOD_REPLY
            assert wire.times[-1][1] == len(GOOD_REPLY)
            replied_s = wire.times[-1][0] - began_s
            assert replied_s >= line.timing.silence_ns / NS_PER_S - 1e-6
            assert replied_s < line.timing.characters_ns(len(GOOD_REPLY)) / NS_PER_S, "a UART paces, not we"
            # What comes while a UART must still be sending is an echo or a collision.
            wire.write(GOOD_REPLY)
            await until(lambda: line.counts.collision_bytes == len(GOOD_REPLY))
            await until(lambda: line.counts.replies == 1)
            # The port hands over its last characters late; they were on the line before we had finished.
            wire.write(100 * b"\x00")
            await until(lambda: line.counts.collision_bytes == len(GOOD_REPLY) + 100)
            assert line.counts.frames == 1
            await asyncio.sleep(line.timing.characters_ns(len(GOOD)) / NS_PER_S)
            await wire.ask()

    run(main())


def test_what_comes_while_we_answer_is_thrown_away_and_counted() -> None:
    async def main() -> None:
        memory = Memory()
        async with bench({1: memory}, baud=1200, turnaround_s=0.05) as (line, wire):
            wire.write(GOOD)
            await until(lambda: memory.calls)
            wire.write(rtu("01 06 0005 dead"))  # waits for its turn
            await until(lambda: len(wire.got) > 2)
            wire.write(rtu("01 06 0005 beef"))  # collides
            assert await wire.receive(len(GOOD_REPLY)) == GOOD_REPLY
            assert line.counts.collision_bytes == 16
            await wire.ask()
            assert [call[0] for call in memory.calls] == ["read", "read"]

    run(main())


def test_a_client_of_another_speed_is_not_understood() -> None:
    async def main() -> None:
        async with bench(baud=9600) as (line, wire):
            settings = termios.tcgetattr(wire.fd)
            settings[4] = settings[5] = termios.B19200
            termios.tcsetattr(wire.fd, termios.TCSANOW, settings)
            wire.write(GOOD)
            await until(lambda: line.counts.foreign_speed_bytes == len(GOOD))
            assert line.counts.frames == 0
            settings[4] = settings[5] = termios.B9600
            termios.tcsetattr(wire.fd, termios.TCSANOW, settings)
            await wire.ask()

    run(main())


# Staying alive.


def test_a_client_may_leave_and_another_come() -> None:
    async def main() -> None:
        async with await serve_serial({1: Memory()}, "pty", FAST) as line:
            for _ in range(3):
                async with plugged(line.path) as wire:
                    await wire.ask()

    run(main())


def test_a_client_that_writes_faster_than_the_line_waits() -> None:
    async def main() -> None:
        async with bench(baud=1_000_000) as (line, wire):
            noise = b"\x55" * 300_000
            sent = 0
            began_s = wire.loop.time()
            async with asyncio.timeout(WAIT_S):
                while sent < len(noise):
                    try:
                        sent += os.write(wire.fd, noise[sent:])
                    except BlockingIOError:
                        await asyncio.sleep(0.01)
            # A second's worth and what the pseudo terminal holds may be ahead of the line, the rest not.
            ahead = line.timing.characters_within(NS_PER_S) + 80_000
            assert wire.loop.time() - began_s >= line.timing.characters_ns(len(noise) - ahead) / NS_PER_S
            await until(lambda: line.discarded == 1)
            await wire.ask()

    run(main())


def answered(line: SerialLine, count: int) -> bool:
    return line.counts.replies == count


def test_a_client_that_does_not_read_loses_its_replies() -> None:
    async def main() -> None:
        async with bench(baud=4_000_000) as (line, wire):
            wire.loop.remove_reader(wire.fd)
            request = rtu("01 03 0000 007d")
            done = 0
            while not line.counts.unsent_bytes:
                wire.write(request)
                done += 1
                await until(partial(answered, line, done))
            assert 0 < line.counts.unsent_bytes < 255
            with suppress(BlockingIOError):
                while os.read(wire.fd, 4096):
                    await asyncio.sleep(0.05)
            wire.loop.add_reader(wire.fd, wire.read)
            await wire.ask()

    run(main())


class Broken(Memory):
    def read(self, address: int, count: int) -> bytes | int:
        raise KeyError("a defect")


def test_a_unit_that_raises_is_answered_04_and_surfaces() -> None:
    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        line = await serve_serial({1: Broken()}, "pty", FAST)
        async with plugged(line.path) as wire:
            await wire.ask(GOOD, rtu("01 83 04"))
        assert isinstance(told[0]["exception"], KeyError)
        with pytest.raises(InvariantError, match="a defect"):
            await line.close()
        await line.close()

    run(main())


def test_closing_cuts_a_reply_and_leaves_nothing() -> None:
    async def main() -> None:
        async with bench(baud=300) as (line, wire):
            wire.write(GOOD)
            await until(lambda: line.counts.frames == 1)
            await line.close()
            await line.wait_closed()
            assert line.counts.replies == 0
            assert not Path(line.path).exists()
            wire.loop.remove_reader(wire.fd)  # it reads the end now, again and again

    run(main())
