"""Modbus in virtual time: pymodbus's client and ours against our servers, over every framing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusIOException
from ridethrough.emulator.image import units_of
from ridethrough.emulator.limits import Limits
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.quirks.transport import QuirkyServer
from ridethrough.emulator.quirks.transport_knobs import Reset, Slow, TransportKnobs
from ridethrough.emulator.rights import GRID_SERVICE
from ridethrough.emulator.rtu_tcp import RtuStream
from ridethrough.emulator.server import MakeCore, TcpServer
from ridethrough.emulator.tls import TlsServerSettings, TlsUnits, server_context
from ridethrough.hil.device import Device
from ridethrough.hil.files import load_profile
from ridethrough.hil.link import Admission, End, Link, Parcel
from ridethrough.hil.modbus_link import Link as ModbusLink
from ridethrough.hil.modbus_link import TargetError
from ridethrough.hil.modbus_transport import TlsFiles
from ridethrough.hil.pki import make_pki
from ridethrough.hil.streams import stream
from ridethrough.hil.target import TcpTarget

from tests.hil.virtual.memory_bench import here, run

DELAY_NS: Final = 100_000_000
"""One way, so 200 ms for an exchange."""
HOUR_S: Final = 3600


class Late:
    """One direction with a delay, which may swallow everything."""

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent

    def send(self, now_ns: int, data: bytes) -> Sequence[Parcel]:
        return [] if self.silent else [Parcel(now_ns + DELAY_NS, data)]

    def finish(self, now_ns: int, end: End) -> Sequence[Parcel]:
        return [Parcel(now_ns + DELAY_NS, b"", end)]


class LateLink:
    """A link with 200 ms there and back."""

    def __init__(self, *, silent: bool = False) -> None:
        self.up: Any = Late(silent=silent)
        self.down: Any = Late()

    def admit(self, now_ns: int) -> Admission:
        return "accept"

    def device(self, now_ns: int) -> int:
        return 0


@asynccontextmanager
async def served(
    link: Link | None = None, limits: Limits | None = None, make_core: Any = None
) -> AsyncIterator[tuple[int, TcpServer]]:
    """Serve a home in memory; yields port and server."""
    plant = Plant([load_profile("home-13kwh-5kw")], soc_frac=0.6)
    units = units_of(plant, 0)
    core: MakeCore | None = None if make_core is None else make_core(units)
    server = TcpServer(units, limits or Limits(), core)
    listener = await here().create_server(server.accept, "127.0.0.1", 0)
    here().network.weather = lambda client, there: link
    async with server:
        try:
            yield listener.port, server
        finally:
            listener.close()
    assert server.connections == 0


async def an_hour() -> str:
    """Poll once a second for an hour; return the digest of what came, and when."""
    digest = hashlib.sha256()
    async with served(LateLink()) as (port, _):
        client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=3, retries=0)
        assert await client.connect()
        for second in range(HOUR_S):
            reply = await client.read_holding_registers(40_000, count=2 + second % 40, device_id=1)
            digest.update(repr((here().now_ns, reply.registers)).encode())
            await asyncio.sleep(second + 1 - here().time())
        client.close()
        assert here().now_ns == HOUR_S * 10**9
    return digest.hexdigest()


def test_an_hour_of_polls_is_the_same_in_every_process() -> None:
    root = str(Path(__file__).resolve().parents[3])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"import runpy; print(runpy.run_path({__file__!r})['in_a_process']())"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "4711")
    ]
    digests = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert len(digests[0]) == 64
    assert digests[0] == digests[1]


def in_a_process() -> str:
    return run(an_hour())


def test_a_silent_device_takes_its_time_out_to_the_nanosecond() -> None:
    async def main() -> None:
        async with served(LateLink(silent=True)) as (port, _):
            client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=3, retries=3, reconnect_delay=0)
            assert await client.connect()
            before_ns = here().now_ns
            with pytest.raises(ModbusIOException):
                await client.read_holding_registers(40_000, count=2, device_id=1)
            assert here().now_ns - before_ns == 12 * 10**9
            client.close()

            ours = ModbusLink(TcpTarget("127.0.0.1", port), 3.0)
            before_ns = here().now_ns
            with pytest.raises(TargetError, match="no answer within 3 s"):
                await ours.read(1, 40_000, 2, "the marker")
            assert here().now_ns - before_ns == 3 * 10**9

    run(main())


def test_our_client_controls_a_device() -> None:
    async def main() -> None:
        async with (
            served(LateLink()) as (port, server),
            Device(f"tcp:127.0.0.1:{port}/1", timeout_s=3) as device,
        ):
            await device.discover()
            assert (await device.telemetry()).soc_frac == pytest.approx(0.6)
            assert await device.set_power(2000.0, 90.0) == pytest.approx(2000.0)
            assert server.connections == 1
            # All that takes time here is the link: each exchange 200 ms.
            assert here().now_ns == device.requests * 2 * DELAY_NS

    run(main())


def test_rtu_framing() -> None:
    async def main() -> None:
        def core(units: Any) -> MakeCore:
            return lambda transport: RtuStream(units, here().time)

        async with (
            served(LateLink(), make_core=core) as (port, _),
            Device(f"rtu+tcp:127.0.0.1:{port}/1", timeout_s=3) as device,
        ):
            await device.discover()
            assert (await device.telemetry()).soc_frac == pytest.approx(0.6)

    run(main())


def test_tls_at_both_ends(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki")
    mine = pki.clients[GRID_SERVICE]
    context = server_context(TlsServerSettings(pki.server.cert, pki.server.key, pki.ca))

    async def main(role: TlsFiles) -> int:
        async with (
            served(LateLink(), make_core=lambda units: TlsUnits(units, context)) as (port, _),
            Device(f"tls:127.0.0.1:{port}/1", timeout_s=3, tls=role) as device,
        ):
            await device.discover()
            assert (await device.telemetry()).soc_frac == pytest.approx(0.6)
            assert here().now_ns >= device.requests * 2 * DELAY_NS
            return here().now_ns

    right = TlsFiles(mine.cert, mine.key, pki.ca)
    assert run(main(right)) == run(main(right))  # its bytes are random, its times are not
    other = make_pki(tmp_path / "other")
    theirs = other.clients[GRID_SERVICE]
    for files in (TlsFiles(theirs.cert, theirs.key, pki.ca), TlsFiles(mine.cert, mine.key, other.ca)):
        with pytest.raises(TargetError, match="certificate"):
            run(main(files))


def test_a_server_of_asyncios_own_tls(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    outer = server_context(TlsServerSettings(pki.server.cert, pki.server.key, pki.ca))
    inner = ssl.create_default_context(cafile=str(pki.ca))
    inner.load_cert_chain(pki.clients[GRID_SERVICE].cert, pki.clients[GRID_SERVICE].key)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=outer)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=inner, server_hostname="localhost"
        )
        assert writer.get_extra_info("peername") == ("127.0.0.1", port)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        for size in (1, 100_000, 300_000):
            writer.write(bytes(size))
            assert len(await reader.readexactly(size)) == size
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_the_server_guards_itself_in_virtual_time() -> None:
    limits = Limits(connections_max=1, idle_timeout_s=60.0, frame_timeout_s=5.0)

    async def main() -> None:
        async with served(None, limits) as (port, server):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            too_many, unwanted = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(ConnectionResetError):
                await too_many.read()
            assert here().time() == 0.0
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert here().time() == 60.0
            reader, late = await asyncio.open_connection("127.0.0.1", port)
            late.write(b"\0\1\0\0\0")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert here().time() == 65.0
            assert server.connections == 0
            for each in (writer, unwanted, late):
                assert each.is_closing()

    run(main())


def test_a_device_with_transport_quirks() -> None:
    """Its reset is one in memory too, and its slowness takes virtual time."""

    async def main() -> None:
        units = units_of(Plant([load_profile("home-13kwh-5kw")], soc_frac=0.6), 0)
        knobs = TransportKnobs(slow=Slow(delay_s_min=0.7, delay_s_max=0.7))
        server = QuirkyServer(units, Limits(), knobs, 0x0B, stream(1, "test/quirks"), 1.0)
        listener = await here().create_server(server.accept, "127.0.0.1", 0)
        link = ModbusLink(TcpTarget("127.0.0.1", listener.port), 3.0)
        async with server:
            await link.read(1, 40_000, 2, "the marker")
            assert here().now_ns == 700_000_000
            server.knobs = TransportKnobs(reset=Reset(chance=1.0))
            with pytest.raises(TargetError, match="closed the connection"):
                await link.read(1, 40_000, 2, "the marker")
            assert here().now_ns == 700_000_000
            listener.close()

    run(main())


def test_a_server_that_closes_cuts_its_connections() -> None:
    async def main() -> None:
        async with served() as (port, server):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(1)
            assert server.connections == 1
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert writer.is_closing()

    run(main())
