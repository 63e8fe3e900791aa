"""Modbus/TCP Security over loopback sockets: records and frames, clients that stall, limits and ends."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from ridethrough.emulator.errors import InvariantError
from ridethrough.emulator.image import DeviceImage
from ridethrough.emulator.rights import GRID_SERVICE, READ_ONLY, SUPER_ADMINISTRATOR
from ridethrough.emulator.server import Limits

from tests.emulator.loops import either_loop, run
from tests.emulator.tls_bench import (
    WAIT_S,
    Streams,
    ask,
    behind_tls,
    device,
    dial,
    frame,
    hello,
    nothing_left,
    read,
    reply_of,
    turned_away,
    until,
    write,
)

pytestmark = pytest.mark.usefixtures(either_loop.__name__)


def test_frames_are_answered_however_records_cut_them() -> None:
    async def main() -> None:
        units = device()
        base = units[1].layout.base_address
        asked = [frame(read(base + k, 3), number=k) for k in range(40)]
        async with behind_tls() as behind, dial(behind.server, READ_ONLY) as (reader, writer):
            writer.write(b"".join(asked))  # all in one record
            for k in range(40):
                assert (await reply_of(reader))[2:] == units[1].read(base + k, 3)
            for k in range(3 * len(asked[0])):
                writer.write(b"".join(asked[:3])[k : k + 1])  # a record for every byte
                await asyncio.sleep(0)
            for k in range(3):
                assert (await reply_of(reader))[2:] == units[1].read(base + k, 3)

    run(main())


async def lost(streams: Streams) -> float:
    """Return after how long the server has closed a connection [s]."""
    began_s = asyncio.get_running_loop().time()
    async with asyncio.timeout(WAIT_S):
        try:
            while await streams[0].read(1000):
                pass
        except (ConnectionError, ssl.SSLError):
            pass
    return asyncio.get_running_loop().time() - began_s


def test_a_handshake_that_stalls_is_cut_off() -> None:
    """Nothing said, half a hello, and a byte now and then: all end when a frame's time is over."""
    timeout_s = 0.4

    async def main() -> None:
        async with behind_tls(Limits(frame_timeout_s=timeout_s)) as behind, asyncio.TaskGroup() as group:

            async def stall(pieces: list[bytes]) -> float:
                streams = await asyncio.open_connection("127.0.0.1", behind.server.port)
                end = group.create_task(lost(streams))
                for piece in pieces:
                    if end.done():  # some loops object to writing then
                        break
                    streams[1].write(piece)
                    await asyncio.sleep(timeout_s / 10)
                seconds = await end
                streams[1].transport.abort()
                return seconds

            whole = hello(0x0303)
            stalls = [
                group.create_task(stall(pieces))
                for pieces in ([], [whole[:40]], [whole[k : k + 1] for k in range(30)], [whole])
            ]
            async with dial(behind.server, READ_ONLY) as streams:  # others are served all the while
                await ask(streams, read(behind.units[1].layout.base_address, 4))
            for stalled in stalls:
                assert 0.5 * timeout_s < await stalled < timeout_s + 2.0
            await nothing_left(behind)
            shaken = behind.secured.handshakes
            assert (shaken.begun, shaken.done, shaken.unfinished) == (4, 1, 3)
            assert behind.told == []

    run(main())


@pytest.mark.parametrize("what", ["half a record", "half a frame"])
def test_a_client_that_stalls_after_the_handshake_is_cut_off(what: str) -> None:
    async def main() -> None:
        async with (
            behind_tls(Limits(frame_timeout_s=0.3)) as behind,
            dial(behind.server, READ_ONLY) as streams,
        ):
            asked = read(behind.units[1].layout.base_address, 4)
            await ask(streams, asked)
            await asyncio.sleep(0.5)  # a client that is merely silent is not in anybody's way
            await ask(streams, asked)
            if what == "half a frame":
                streams[1].write(frame(asked)[:9])
            else:
                plain = streams[1].get_extra_info("socket").dup()
                plain.setblocking(True)
                with plain:
                    plain.sendall(b"\x17\3\3\0\x40" + bytes(10))
            assert 0.1 < await lost(streams) < 3.0

    run(main())


def test_what_breaks_modbus_or_tls_ends_the_connection_in_form() -> None:
    async def main() -> None:
        async with behind_tls() as behind:
            async with dial(behind.server, READ_ONLY) as (reader, writer):
                writer.write(frame(read(40_000, 4)) + b"\0\1\0\0\xff\xff\1\3")
                await reply_of(reader)
                assert await reader.read() == b""  # by a good-bye; a mere end of TCP would raise here
            async with dial(behind.server, READ_ONLY) as streams:
                await ask(streams, read(behind.units[1].layout.base_address, 4))
                plain = streams[1].get_extra_info("socket").dup()
                plain.setblocking(True)
                with plain:
                    plain.sendall(b"\x17\3\3\0\x40" + bytes(64))  # a record that nobody sealed
                await lost(streams)
            await nothing_left(behind)
            assert behind.told == []

    run(main())


def test_the_limit_of_connections_holds() -> None:
    async def main() -> None:
        async with behind_tls(Limits(connections_max=2)) as behind:
            async with dial(behind.server, READ_ONLY) as first, dial(behind.server, GRID_SERVICE):
                await turned_away(behind, READ_ONLY, None)
                await ask(first, read(behind.units[1].layout.base_address, 4))
                assert behind.server.connections == 2
                assert behind.secured.handshakes.begun == 2
            await nothing_left(behind)
            async with dial(behind.server, READ_ONLY) as streams:
                await ask(streams, read(behind.units[1].layout.base_address, 4))

    run(main())


def test_closing_the_server_leaves_no_handshake_behind() -> None:
    async def main() -> None:
        async with behind_tls() as behind:
            silent = await asyncio.open_connection("127.0.0.1", behind.server.port)
            halfway = await asyncio.open_connection("127.0.0.1", behind.server.port)
            halfway[1].write(hello(0x0303))
            await until(lambda: behind.server.connections == 2 and behind.secured.handshakes.begun == 1)
        for streams in (silent, halfway):
            await lost(streams)
            streams[1].transport.abort()

    run(main())


def test_a_unit_that_raises_is_answered_and_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: DeviceImage, address: int, data: bytes) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(DeviceImage, "write", broken)

    surprises: list[str] = []

    async def met() -> None:
        async with behind_tls() as behind:
            async with dial(behind.server, SUPER_ADMINISTRATOR) as streams:
                assert await ask(streams, write(0, b"\0\0")) == b"\x90\4"
                assert (await ask(streams, read(behind.units[1].layout.base_address, 1)))[0] == 3
            surprises.extend(behind.surprises)

    async def main() -> None:
        with pytest.raises(InvariantError):
            await met()
        assert len(surprises) == 1

    run(main())
