"""What a server answered, in the few words of a table's cell."""

from __future__ import annotations

from tests.emulator.modbus_rows import with_crc, with_lrc
from tests.witness.measure import Measured

BYTES_SHOWN = 4


def pdu_in_words(pdu: bytes) -> str:
    """Say what the PDU of a reply means."""
    if len(pdu) == 2 and pdu[0] & 0x80:
        return f"EXC fc{pdu[0] & 0x7F} code{pdu[1]:02X}"
    shown = pdu[1 : 1 + BYTES_SHOWN].hex()
    return f"OK fc{pdu[0]} {shown}{'..' if len(pdu) > 1 + BYTES_SHOWN else ''}"


def split_tcp(stream: bytes) -> list[bytes]:
    """Return unit id and PDU of each reply; raises ValueError for what is none."""
    found = []
    while stream:
        length = int.from_bytes(stream[4:6])
        if len(stream) < 6 + length or length < 2:
            raise ValueError
        found.append(stream[6 : 6 + length])
        stream = stream[6 + length :]
    return found


def split_line(stream: bytes, text: bool) -> list[bytes]:
    """The same of a serial line; replies with no silence between them are told by their check."""
    found = []
    while stream:
        if text:
            size = stream.find(b"\r\n") + 2
            body = bytes.fromhex(stream[1 : size - 4].decode("ascii")) if size > 6 else b""
            right = size > 6 and with_lrc(body) == stream[:size]
        else:
            sizes = (
                size for size in range(5, len(stream) + 1) if with_crc(stream[: size - 2]) == stream[:size]
            )
            size = next(sizes, 0)
            body, right = stream[: size - 2], size > 0
        if not right:
            raise ValueError
        found.append(body)
        stream = stream[size:]
    return found


def in_words(stream: bytes, serial: str = "") -> str:
    """Say what came; `serial` is empty for TCP, else "RTU" or "ASCII"."""
    if not stream:
        return "no reply"
    try:
        bodies = split_line(stream, serial == "ASCII") if serial else split_tcp(stream)
    except ValueError:
        return f"no Modbus reply but {stream[:8].hex()}{'..' if len(stream) > 8 else ''}"
    said = [pdu_in_words(body[1:]) for body in bodies]
    if len(said) > 2:
        good = sum(one.startswith("OK") for one in said)
        return f"{len(said)} replies, {good} OK"
    return "; ".join(said)


def outcome_in_words(found: Measured, serial: str = "", may_change: bool = False) -> str:
    """Say all that a measurement has shown."""
    text = in_words(found.replies, serial)
    text += " (late)" if found.late else ""
    text += ", closed" if found.closed else ""
    text += " + desync" if not found.good and not found.closed else ""
    text += " + no new connection served" if not found.fresh and not serial else ""
    text += " + something written" if found.changed and not may_change else ""
    return text + (" + cannot be read any more" if found.changed is None else "")
