"""Frames between the bench and a controller in a process of its own.

Duty: plain data as bytes and back: numbers, words, lists of them, and arrays.
Rules: nothing that is read here can run code, and its size is known before it is read.  The bench trusts
nothing that comes from the other side: whatever is wrong with a frame is a `FrameError`.

A frame is ``RTC1``, the length of its text, the length of its raw part (both 32 bits, little-endian), a JSON
text, and the arrays that the text lists, one after the other.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from ridethrough.controllers.contract import (
    Capabilities,
    Commands,
    Commitments,
    Pool,
    Prices,
    Telemetry,
)

HEAD: Final = struct.Struct("<4sII")
MAGIC: Final = b"RTC1"

TEXT_BYTES_MAX: Final = 1 << 22
RAW_BYTES_MAX: Final = 1 << 26
"""A pool of 10,000 devices needs 0.2 MB of text and 1.5 MB of arrays."""

KINDS: Final = ("<f8", "<i8", "|b1")
"""Types of arrays that pass."""

Values = dict[str, Any]


class FrameError(Exception):
    """What was read is no frame; the message says why."""


def pack(kind: str, values: Mapping[str, Any]) -> bytes:
    """Return one frame.

    Parameters
    ----------
    kind : str
        What it is about.
    values : mapping of str to object
        Arrays of one dimension, and whatever JSON can say.
    """
    plain, arrays, raw = {}, [], []
    for key, value in values.items():
        if isinstance(value, np.ndarray):
            arrays.append([key, value.dtype.str, len(value)])
            raw.append(np.ascontiguousarray(value).tobytes())
        else:
            plain[key] = value
    text = json.dumps({"kind": kind, "values": plain, "arrays": arrays}).encode()
    body = b"".join(raw)
    return HEAD.pack(MAGIC, len(text), len(body)) + text + body


def sizes(head: bytes | bytearray) -> tuple[int, int]:
    """Return the lengths of text and raw part that the first bytes of a frame announce.

    Raises
    ------
    FrameError
        It is none, or too large.
    """
    magic, text, raw = HEAD.unpack_from(head)
    if magic != MAGIC:
        raise FrameError(f"found {bytes(magic)!r}; allowed {MAGIC!r} at the beginning")
    if text > TEXT_BYTES_MAX or raw > RAW_BYTES_MAX:
        raise FrameError(f"found {text} + {raw} bytes; allowed {TEXT_BYTES_MAX} + {RAW_BYTES_MAX}")
    return int(text), int(raw)


def unpack(text: bytes, raw: bytes) -> tuple[str, Values]:
    """Return kind and values of a frame.

    Raises
    ------
    FrameError
        Its text is not what it should be, or does not fit the raw part.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameError("found a text that is not JSON") from error
    match message:
        case {"kind": str() as kind, "values": dict() as values, "arrays": list() as arrays}:
            return kind, values | _arrays(arrays, raw)
    raise FrameError("found a text without kind, values or arrays")


def _arrays(listed: list[Any], raw: bytes) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    begin = 0
    for entry in listed:
        match entry:
            case [str() as key, str() as kind, int() as length] if kind in KINDS and length >= 0:
                end = begin + length * np.dtype(kind).itemsize
                if end > len(raw):
                    raise FrameError(f"found {len(raw)} bytes of arrays; {key} alone ends at {end}")
                found[key] = np.frombuffer(raw[begin:end], dtype=kind).copy()
                begin = end
            case _:
                raise FrameError("found an array that is none")
    if begin != len(raw):
        raise FrameError(f"found {len(raw)} bytes of arrays; the text lists {begin}")
    return found


def pool_values(pool: Pool) -> Values:
    """Return a pool as values of a frame."""
    flat: Values = {"names": pool.names, "poll_s": pool.poll_s, "delay_s_max": pool.delay_s_max}
    for part in ("capabilities", "commitments"):
        held = getattr(pool, part)
        flat |= {f"{part}.{field.name}": getattr(held, field.name) for field in fields(held)}
    return flat


def pool_of(values: Values) -> Pool:
    """Return the pool that `pool_values` took apart."""
    capabilities = _part(values, "capabilities")
    capabilities["revert_state"] = tuple(capabilities["revert_state"])
    return Pool(
        names=tuple(values["names"]),
        capabilities=Capabilities(**capabilities),
        commitments=Commitments(**_part(values, "commitments")),
        poll_s=values["poll_s"],
        delay_s_max=values["delay_s_max"],
    )


def telemetry_values(now_ns: int, telemetry: Telemetry) -> Values:
    """Return what a decision is asked with, as values of a frame."""
    flat: Values = {"now_ns": int(now_ns)}
    for part in ("telemetry", "prices"):
        held = telemetry if part == "telemetry" else telemetry.prices
        flat |= {
            f"{part}.{field.name}": getattr(held, field.name)
            for field in fields(held)
            if field.name != "prices"
        }
    return flat


def telemetry_of(values: Values) -> tuple[int, Telemetry]:
    """Return what `telemetry_values` took apart."""
    prices = Prices(**_part(values, "prices"))
    return values["now_ns"], Telemetry(prices=prices, **_part(values, "telemetry"))


def commands_values(commands: Commands) -> Values:
    """Return commands as values of a frame."""
    return {field.name: getattr(commands, field.name) for field in fields(commands)}


def _part(values: Values, part: str) -> Values:
    begin = part + "."
    return {key.removeprefix(begin): value for key, value in values.items() if key.startswith(begin)}
