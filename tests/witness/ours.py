"""Our own servers, measured by every row: TCP, serial lines on pseudo terminals, and TLS.

Each row has a server and a unit of its own.  The units are plain registers that serve every function, or a
SunSpec device whose map begins at 0.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from ridethrough.emulator.rights import GRID_SERVICE, READ_ONLY
from ridethrough.emulator.serial_line import serve_serial
from ridethrough.emulator.server import Limits, serve_tcp
from ridethrough.emulator.tls import TlsServerSettings, TlsUnits, server_context
from ridethrough.hil.pki import Pki, make_pki

from tests.emulator.modbus_rows import Row, SerialRow, with_crc, with_lrc
from tests.witness.device_rows import make_unit, place, registers, request
from tests.witness.measure import HOST, WAIT_S, Client, Line, Measured, Target, measure_line, measure_tcp
from tests.witness.words import in_words

Framing = Literal["rtu", "ascii"]

FRAME_TIMEOUT_S: Final = 2.5
"""Longer than the pause of row 40, and short, because row 33 waits for it."""
AT_ONCE_MAX: Final = 40
"""Servers at a time: each has some files open, and a process may have 1,024."""
BAUD: Final = 115_200
SLOW_BAUD: Final = 300
"""Row 53 has a gap of two and a half characters, which is 92 ms here: longer than a host is late."""
CHARACTER_BITS: Final = 11
GAP_S: Final = 4.5 * CHARACTER_BITS / SLOW_BAUD
"""The two characters before the gap, which a pseudo terminal takes at once, and the gap."""
GAP_ROW: Final = "53"


async def measured_tcp(rows: Sequence[Row], make: Callable[[], Any], target: Target) -> list[Measured]:
    """Measure our TCP server by rows."""
    limits = Limits(frame_timeout_s=FRAME_TIMEOUT_S)
    free = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(row: Row) -> Measured:
        async with free, await serve_tcp({1: make()}, limits=limits) as server:
            return await measure_tcp(row, server.port, target)

    return list(await asyncio.gather(*map(one, rows)))


def line_of(fd: int, row: SerialRow, own: Callable[[bytes], bytes]) -> Line:
    """Return how a row's line is asked.

    Parameters
    ----------
    fd : int
        The client's end.
    row : SerialRow
    own : callable
        Given a frame's address and PDU as for plain registers, returns them as for the unit on the line.
    """
    check = with_lrc if row.text else with_crc

    def frame(text: str) -> bytes:
        return check(own(bytes.fromhex(text)))

    return Line(
        fd,
        (frame("01 03 0005 0002"), frame("01 03 04 1005 1006")),
        (frame("01 03 0064 0001"), frame("01 03 02 0304")),
        frame("01 03 02 1064"),
        GAP_S if row.name == GAP_ROW else 0.0,
    )


async def measured_lines(
    rows: Sequence[SerialRow], make: Callable[[], Any], own: Callable[[bytes], bytes]
) -> list[Measured]:
    """Measure our serial server by rows, each on a pseudo terminal of its own."""
    async with AsyncExitStack() as stack:
        jobs = []
        for row in rows:
            baud = SLOW_BAUD if row.name == GAP_ROW else BAUD
            framing: Framing = "ascii" if row.text else "rtu"
            line = await stack.enter_async_context(
                await serve_serial({1: make()}, "pty", baud, framing=framing)
            )
            fd = os.open(line.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            stack.callback(os.close, fd)
            jobs.append(measure_line(row, line_of(fd, row, own)))
        return list(await asyncio.gather(*jobs))


# TLS


def client_context(pki: Pki, role: str | None, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a client's context; without a role it has no certificate."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.minimum_version = context.maximum_version = version
    if role is not None:
        pair = pki.clients[role]
        context.load_cert_chain(pair.cert, pair.key)
    return context


async def over_tls(port: int, context: ssl.SSLContext, data: bytes) -> tuple[bytes, bool]:
    """Return what a server answers inside TLS, and whether the handshake was good."""
    try:
        client = Client(*await asyncio.open_connection(HOST, port, ssl=context))
    except (ssl.SSLError, ConnectionError):
        return b"", False
    try:
        with suppress(ssl.SSLError):
            await client.send(data)
        await client.until(9, WAIT_S)
        # In TLS 1.3 the client is through before the server has looked at its certificate.
        return client.got, bool(client.got) or not client.closed
    finally:
        with suppress(ssl.SSLError):
            await client.close()


async def measured_tls(folder: Path) -> dict[str, tuple[str, bool]]:
    """Measure rows 59 and 60; return what was seen, in words, and whether it is right."""
    pki = make_pki(folder)
    context = server_context(TlsServerSettings(pki.server.cert, pki.server.key, pki.ca))
    found = {}
    versions = {"59": ssl.TLSVersion.TLSv1_3, "59a": ssl.TLSVersion.TLSv1_2}
    for name, version in versions.items():
        found[name] = await _no_certificate(pki, context, version)
    for name, function in (("60", 6), ("60a", 16)):
        found[name] = await _no_right(pki, context, function)
    return found


async def _no_certificate(pki: Pki, context: ssl.SSLContext, version: ssl.TLSVersion) -> tuple[str, bool]:
    unit = make_unit()
    good = request("01 03 0000 0002")
    async with await serve_tcp({1: unit}, core=TlsUnits({1: unit}, context)) as server:
        ask = partial(over_tls, server.port, data=good)
        reply, shaken = await ask(context=client_context(pki, None, version))
        fine, _ = await ask(context=client_context(pki, READ_ONLY, version))
    served = fine[9:] == registers(unit, 0, 2)
    said = f"handshake {'accepted' if shaken else 'refused'}"
    return f"{said}; with a certificate {in_words(fine)}", not shaken and not reply and served


async def _no_right(pki: Pki, context: ssl.SSLContext, function: int) -> tuple[str, bool]:
    unit = make_unit()
    address, value = place(unit)
    body = bytes([1, function]) + address + (value if function == 6 else b"\0\1\2" + value)
    write, start = request(body.hex()), int.from_bytes(address)
    async with await serve_tcp({1: unit}, core=TlsUnits({1: unit}, context)) as server:
        refused, _ = await over_tls(
            server.port, client_context(pki, READ_ONLY, ssl.TLSVersion.TLSv1_3), write
        )
        kept = registers(unit, start, 1) != value
        taken, _ = await over_tls(
            server.port, client_context(pki, GRID_SERVICE, ssl.TLSVersion.TLSv1_3), write
        )
        written = registers(unit, start, 1) == value
    right = refused[6:] == bytes([1, function | 0x80, 1]) and kept
    return f"{in_words(refused)}; GridService {in_words(taken)}", right and written
