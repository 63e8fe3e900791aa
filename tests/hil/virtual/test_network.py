"""Who listens, who connects, and what becomes of a call; the system's own network is a witness."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import weakref
from collections.abc import Callable, Iterable
from typing import cast

import pytest
from ridethrough.hil.link import Link

from tests.hil.virtual.memory_bench import Way, Witness, here, pair, run

# ---- addresses and connections


def test_addresses_and_ports() -> None:
    async def main() -> None:
        loop = here()
        near, far, server = await pair()
        other = await loop.create_server(Witness, "localhost", 0)
        assert (server.port, other.port) == (20_000, 20_001)
        client = near.transport.get_extra_info("sockname")
        assert client == ("127.0.0.1", 49_152)
        assert far.transport.get_extra_info("peername") == client
        assert near.transport.get_extra_info("peername") == server.sockets[0].getsockname()
        assert near.transport.get_extra_info("socket") is None
        transport, _ = await loop.create_connection(
            Witness, "127.0.0.1", other.port, local_addr=("127.0.0.1", 0)
        )
        assert transport.get_extra_info("sockname") == ("127.0.0.1", 49_153)
        assert repr(transport) == "<memory ('127.0.0.1', 49153) to ('127.0.0.1', 20001), open>"
        with pytest.raises(OSError, match="already in use") as taken:
            await loop.create_server(Witness, "127.0.0.1", other.port)
        assert taken.value.errno == errno.EADDRINUSE
        server.close()
        other.close()
        again = await loop.create_server(Witness, "127.0.0.1", other.port)
        assert again.is_serving()
        assert server.sockets == ()
        assert loop.network.loop is again.get_loop() is loop

    run(main())


def test_refusals() -> None:
    async def main() -> None:
        loop = here()
        near, _, server = await pair()
        server.close()
        with pytest.raises(ConnectionRefusedError, match="20000"):
            await loop.create_connection(Witness, "127.0.0.1", server.port)
        near.transport.write(b"x")  # connections outlive their listener
        await asyncio.sleep(0.1)
        assert not near.transport.is_closing()
        with pytest.raises(socket.gaierror, match=r"10\.0\.0\.1"):
            await loop.create_connection(Witness, "10.0.0.1", 502)
        for connect in (loop.create_connection, loop.create_server):
            with pytest.raises(ValueError, match="real socket"):
                await connect(Witness, sock=object())

    run(main())


def test_what_a_link_makes_of_a_call() -> None:
    async def main() -> None:
        loop, way = here(), Way()
        _, _, server = await pair(way)
        way.verdict = "refuse"
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Witness, "127.0.0.1", server.port)
        way.verdict = "reset"
        _, client = await loop.create_connection(Witness, "127.0.0.1", server.port)
        await asyncio.sleep(1)
        assert client.events == [("made", None), ("lost", ConnectionResetError)]
        way.verdict = "hang"
        before_s = loop.time()
        with pytest.raises(TimeoutError) as gone:
            await loop.create_connection(Witness, "127.0.0.1", server.port)
        assert (gone.value.errno, loop.time() - before_s) == (errno.ETIMEDOUT, 127.0)
        server.close()

    run(main())


def test_a_link_may_lead_to_another_device() -> None:
    async def main() -> None:
        loop, way = here(), Way()
        ends = [Witness(), Witness()]
        makers: Iterable[Callable[[], Witness]] = (lambda: ends[0], lambda: ends[1])
        servers = [await loop.create_server(make, "127.0.0.1", 0) for make in makers]
        loop.network.devices = [server.address for server in servers]
        loop.network.weather = lambda client, server: cast("Link | None", way)
        for row in (0, 1):
            way.row = row
            await loop.create_connection(Witness, "127.0.0.1", servers[0].port)
            await asyncio.sleep(1)
            assert [end.names for end in ends] == [["made"], ["made"] if row else []]
        way.row = -1
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Witness, "127.0.0.1", servers[0].port)

    run(main())


def test_a_connection_that_is_over_is_forgotten() -> None:
    async def main() -> None:
        near, far, server = await pair()
        ends = [weakref.ref(near.transport), weakref.ref(far.transport)]
        near.transport.close()
        await asyncio.sleep(1)
        server.close()
        del near, far, server
        gc.collect()
        assert [end() for end in ends] == [None, None]

    run(main())


def test_a_server_that_cannot_make_a_protocol_closes(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> asyncio.Protocol:
        raise LookupError("none")

    async def main() -> None:
        server = await here().create_server(fail, "127.0.0.1", 0)
        _, client = await here().create_connection(Witness, "127.0.0.1", server.port)
        await asyncio.sleep(1)
        assert client.names == ["made", "eof", "lost"]

    run(main())
    assert "Error on accepting" in caplog.text


def test_a_listener_serves_until_it_is_cancelled() -> None:
    async def main() -> None:
        server = await here().create_server(Witness, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(1)
        assert server.is_serving()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()
        async with server:
            await server.start_serving()
        assert not server.is_serving()

    run(main())


# ---- the system's own streams as the witness


async def talk() -> list[object]:
    """Return what both ends of a conversation see, from either kind of loop."""
    seen: list[object] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readline())
        writer.write(b"welcome\n")
        seen.append(await reader.read())
        writer.write(b"bye\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        seen.append("closed")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.writelines([b"hel", b"lo\n"])
    seen.append(await reader.readexactly(8))
    writer.write(b"rest")
    writer.write_eof()
    seen.append(await reader.read())
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    for _ in range(20):
        await asyncio.sleep(0.001)
    with pytest.raises(ConnectionRefusedError) as refused:
        await asyncio.open_connection("127.0.0.1", port)
    seen.append(refused.value.errno)
    return seen


def test_a_conversation_is_that_over_real_sockets() -> None:
    with asyncio.Runner() as runner:
        real = runner.run(talk())
    assert run(talk()) == real
    assert real == [b"hello\n", b"welcome\n", b"rest", "closed", b"bye\n", errno.ECONNREFUSED]
