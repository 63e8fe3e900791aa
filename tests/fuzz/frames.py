"""What the fuzzer sends: good frames, bad frames, and streams of both with bytes changed.

All chance comes from the generator handed in, so that a seed and a batch number make the same bytes again.
"""

from __future__ import annotations

import re
from random import Random

from tests.emulator.modbus_rows import ROWS, with_crc, with_lrc

FUNCTIONS = (1, 2, 3, 3, 3, 4, 5, 6, 6, 8, 15, 16, 16, 22, 23, 43)
UNITS = (1, 1, 1, 1, 2, 2, 0, 255, 99, 247)
EDGES = (
    0,
    1,
    2,
    120,
    121,
    122,
    123,
    124,
    125,
    126,
    127,
    128,
    180,
    199,
    200,
    1968,
    1969,
    2000,
    2001,
    0xFF00,
    0xFFFF,
)
LINE = re.compile(rb".*:((?:[0-9A-F]{2})*)\r\n", re.DOTALL)
LONG_READ = b"%c\0\0\0\0\6\1\3\0%c\0\x7d"
ROW_STREAMS = tuple(row.sent for row in ROWS)


def word(rng: Random) -> bytes:
    """Return a word that is small, or at an edge, or any."""
    kind = rng.random()
    number = rng.randrange(210) if kind < 0.6 else rng.choice(EDGES) if kind < 0.9 else rng.getrandbits(16)
    return number.to_bytes(2, "big")


def place(rng: Random, base: int) -> bytes:
    """Return an address, three in four of them behind `base`."""
    return (base + rng.randrange(210)).to_bytes(2, "big") if rng.random() < 0.75 else word(rng)


def count(rng: Random) -> bytes:
    """Return how many to read: often the most that fits a reply."""
    kind = rng.random()
    number = (
        rng.randrange(1, 60) if kind < 0.5 else rng.choice((124, 125)) if kind < 0.7 else rng.choice(EDGES)
    )
    return number.to_bytes(2, "big")


def pdu(rng: Random, base: int) -> bytes:
    """Return a request, mostly well formed, most of its addresses behind `base`."""
    function = rng.choice(FUNCTIONS) if rng.random() < 0.97 else rng.getrandbits(8)
    head = bytes([function]) + place(rng, base)
    values = rng.randbytes(2 * rng.choice((1, 2, 3, 10, 60, 121, 122, 123, 125)))[: 243 + rng.randrange(8)]
    size = bytes([len(values)])
    if function == 5:
        made = head + rng.choice((b"\0\0", b"\xff\0", b"\xff\0", b"\xff\1"))
    elif function == 8:
        made = bytes([8, 0, 0 if rng.random() < 0.9 else 1]) + values
    elif function == 15:
        made = head + max(0, 8 * len(values) - rng.randrange(9)).to_bytes(2, "big") + size + values
        if rng.random() < 0.7:
            made = head + b"\0\x0c\2" + values[:2]
    elif function == 16:
        made = head + (len(values) // 2).to_bytes(2, "big") + size + values
    elif function == 22:
        made = head + rng.randbytes(4)
    elif function == 23:
        made = head + count(rng) + place(rng, base) + (len(values) // 2).to_bytes(2, "big") + size + values
    elif function == 43:
        made = bytes([43, 14, rng.randrange(6), rng.choice((0, 0, 1, 2, 3, 4, 0x80, 0x81, 255))])
    elif function == 6:
        made = head + word(rng)
    else:
        made = head + count(rng)
    return changed(rng, made)[:253]


def changed(rng: Random, made: bytes) -> bytes:
    """Return the same bytes, or, one time in four, cut, lengthened or with one of them changed."""
    kind = rng.random()
    if kind < 0.08:
        return made[: rng.randrange(1, len(made) + 1)]
    if kind < 0.14:
        return made + rng.randbytes(rng.randrange(1, 5))
    if kind < 0.25:
        at = rng.randrange(len(made))
        return made[:at] + rng.randbytes(1) + made[at + 1 :]
    return made


def body(rng: Random, base: int = 0) -> bytes:
    return bytes([rng.choice(UNITS)]) + pdu(rng, base)


def frame(rng: Random, base: int = 0) -> bytes:
    """Return one frame of TCP; few have a wrong header, because the stream seldom survives those."""
    inner = body(rng, base)
    kind = rng.random()
    length = len(inner) + (rng.choice((-2, -1, 1, 4)) if kind < 0.0005 else 0)
    protocol = b"\0\0" if kind < 0.98 else rng.randbytes(2)
    return rng.randbytes(2) + protocol + max(0, length).to_bytes(2, "big") + inner


def stream(rng: Random, pool: list[bytes]) -> bytes:
    """Return many frames of `pool`, some of them with bytes changed, some with noise or a row in between.

    One stream in twenty is of reads whose replies are as long as can be: 80 KB of them to one piece.
    """
    if rng.random() < 0.05:
        return b"".join(LONG_READ % (tid, rng.randrange(70)) for tid in rng.randbytes(320))
    parts = rng.choices(pool, k=rng.choice((1, 3, 40, 200, 1000)))
    kind = rng.random()
    if kind < 0.1:
        parts.insert(rng.randrange(len(parts) + 1), rng.randbytes(rng.randrange(1, 400)))
    elif kind < 0.3:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(ROW_STREAMS))
    made = bytearray(b"".join(parts))
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 1, 1, 5))):
            made[rng.randrange(len(made))] = rng.getrandbits(8)
    if rng.random() < 0.2:
        del made[rng.randrange(len(made)) :]
    return bytes(made)


def pieces(rng: Random, data: bytes) -> list[bytes]:
    """Cut a stream: not at all, into pieces of any size, or, the first part of it, into single bytes."""
    kind = rng.random()
    if kind < 0.4:
        return [data]
    if kind < 0.5:
        return [data[i : i + 1] for i in range(min(600, len(data)))] + [data[600:]]
    scale = rng.choice((0.05, 0.2, 2, 20))
    found, at = [], 0
    for part in rng.randbytes(int(len(data) / (100 * scale)) + 1):
        size = int(part * scale)
        found.append(data[at : at + size])
        at += size
    return [*found, data[at:]]


def binary(rng: Random, base: int = 0) -> tuple[bytes, bytes | None]:
    """Return a binary frame, and what is in it or None if its check is wrong; one in five is."""
    made = with_crc(body(rng, base))
    if rng.random() > 0.8:
        made = changed(rng, made) if rng.random() < 0.7 else rng.randbytes(rng.randrange(300))
    return made, made[:-2] if len(made) >= 2 and with_crc(made[:-2]) == made else None


def text(rng: Random, base: int = 0) -> tuple[bytes, bytes | None]:
    """Return a line of text and what is in it, as `binary` does."""
    made = with_lrc(body(rng, base))
    kind = rng.random()
    if kind > 0.95:
        made = rng.randbytes(rng.randrange(600))
    elif kind > 0.9:
        made = made[: rng.randrange(len(made))] + made
    elif kind > 0.8:
        made = changed(rng, made)
    match = LINE.fullmatch(made)
    inner = bytes.fromhex(match[1].decode()) if match else b""
    return made, inner[:-1] if inner and sum(inner) % 256 == 0 else None
