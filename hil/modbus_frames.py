"""Answers as bytes: whether what came back belongs to the request, and whether it is one at all.

Rules of this file:

- No connection and no clock: a request and the bytes that have come since, in; a judgement out.
- pymodbus decodes only what has passed here.  Alone it takes transaction id 0 for every id, waits for ever
  after a wrong header, raises out of the event loop for a body it cannot read, and says nothing about an
  answer that it skips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pymodbus.framer import FramerAscii, FramerRTU

Framing = Literal["socket", "rtu", "ascii"]

_HEADER_BYTES: Final = 7
_LENGTH_MAX: Final = 254
_READ: Final = 3
_RTU_BYTES_MIN: Final = 5


@dataclass(frozen=True, slots=True)
class Sifted:
    """What the bytes since a request are.

    Attributes
    ----------
    passed : bytes
        What pymodbus may see.
    fault : str
        Why there will be no answer; empty while there may be one.
    stray : str
        What came and belongs to something else; empty for nothing.
    """

    passed: bytes = b""
    fault: str = ""
    stray: str = ""


def sift(framing: Framing, request: bytes, received: bytes) -> Sifted:
    """Judge all the bytes that have come since a request was sent."""
    if framing == "rtu":
        return _sift_rtu(request, received)
    if framing == "ascii":
        return _sift_ascii(request, received)
    if _is_plain(request, received):
        return Sifted(received)
    return Sifted(received, frame_fault(request, received), stray_frame(request, received))


def _is_plain(request: bytes, received: bytes) -> bool:
    """Whether the whole and right answer to a read has come and nothing else, as it nearly always has."""
    if len(received) < _HEADER_BYTES + 2 or request[7] != _READ:
        return False
    size = received[8]
    return (
        size == 2 * (request[10] << 8 | request[11])
        and len(received) == _HEADER_BYTES + 2 + size
        and received[:8] == b"%b\0\0\0%c%b" % (request[:2], 3 + size, request[6:8])
        and request[:2] != b"\0\0"
    )


def frame_fault(request: bytes, received: bytes) -> str:
    """Return what is wrong with the bytes that came back over TCP; empty while nothing is.

    Parameters
    ----------
    request : bytes
        The frame that was sent.
    received : bytes
        All that has come since; the last frame may be incomplete.

    Notes
    -----
    A frame with another transaction id, 0 excepted, is skipped: it is the second copy of an earlier answer,
    or one that comes late.
    """
    while len(received) >= _HEADER_BYTES:
        transaction, protocol, length = (int.from_bytes(received[k : k + 2]) for k in (0, 2, 4))
        if protocol != 0 or not 3 <= length <= _LENGTH_MAX:
            return f"the answer is no Modbus/TCP frame: protocol id {protocol}, length {length}"
        if transaction == 0:
            return "the answer has transaction id 0 instead of the request's"
        frame, received = received[: 6 + length], received[6 + length :]
        if len(frame) < 6 + length:
            break
        if _is_answer(request, frame) and (fault := body_fault(request[7:], frame[7:])):
            return fault
    return ""


def stray_frame(request: bytes, received: bytes) -> str:
    """Return which frame over TCP is none to this request; empty for none."""
    if len(received) < _HEADER_BYTES or _is_answer(request, received):
        return ""
    transaction, unit = int.from_bytes(received[:2]), received[6]
    return f"an answer with transaction id {transaction} from unit {unit} came late, twice or unasked"


def _is_answer(request: bytes, frame: bytes) -> bool:
    return frame[:2] == request[:2] and frame[6] == request[6]


def body_fault(request: bytes, reply: bytes) -> str:
    """Return what is wrong with an answer's body (function code first); empty when it fits its request."""
    function = request[0]
    if reply[0] == function | 0x80:
        wanted = 2
    elif reply[0] != function:
        return f"asked with function {function}, answered with function {reply[0]}"
    elif function == 3:
        wanted = 2 + 2 * int.from_bytes(request[3:5])
        if len(reply) > 1 and reply[1] != wanted - 2:
            return f"asked for {wanted - 2} bytes of registers, the answer counts {reply[1]}"
    else:
        wanted = 5
        if reply[1:] != request[1:5]:
            return f"the answer confirms {reply[1:].hex(' ')} instead of {request[1:5].hex(' ')}"
    return "" if len(reply) == wanted else f"the answer has {len(reply)} bytes instead of {wanted}"


def _checked(data: bytes) -> bool:
    """Whether RTU bytes end with their own checksum."""
    return FramerRTU.compute_CRC(data[:-2]).to_bytes(2) == data[-2:]


def _sift_rtu(request: bytes, received: bytes) -> Sifted:
    """Look for the answer behind noise and behind the answers of other units.

    An RTU frame does not say how long it is; how long the answer must be follows from the request.
    """
    unit, function = request[0], request[1]
    if len(received) >= _RTU_BYTES_MIN and received[0] != unit and _checked(received):
        return Sifted(stray=f"an answer of unit {received[0]} came, which was not asked")
    for first in range(len(received) - 1):
        if received[first] != unit or received[first + 1] & 0x7F != function:
            continue
        rest = received[first:]
        if rest[1] & 0x80:
            size = 5
        elif function == 3:
            size = 5 + (rest[2] if len(rest) > 2 else 0)
        else:
            size = 8
        stray = f"{first} bytes in front of an answer are not part of it" if first else ""
        if len(rest) < size:
            return Sifted(stray=stray)
        frame = rest[:size]
        if not _checked(frame):
            return Sifted(fault="the answer's checksum is wrong: noise, or another speed or parity")
        return Sifted(frame, body_fault(request[1:-2], frame[1:-2]), stray)
    if len(received) >= _RTU_BYTES_MIN and _checked(received):
        return Sifted(fault=body_fault(request[1:-2], received[1:-2]))
    return Sifted()


def _sift_ascii(request: bytes, received: bytes) -> Sifted:
    """Look for the last line that was begun; a line ends with CR LF."""
    begin = received.rfind(b":")
    end = received.find(b"\r\n", begin)
    if begin < 0 or end < 0:
        return Sifted()
    line = received[begin + 1 : end]
    try:
        asked, data = bytes.fromhex(request[1:-2].decode()), bytes.fromhex(line.decode("ascii"))
    except ValueError:
        return Sifted(fault=f"the answer is no line of hexadecimal digits: {line[:40]!r}")
    if len(line) != 2 * len(data) or len(data) < 4 or FramerAscii.compute_LRC(data[:-1]) != data[-1]:
        return Sifted(fault="the answer's checksum is wrong: noise, or another speed or parity")
    if data[0] != asked[0]:
        return Sifted(stray=f"an answer of unit {data[0]} came, which was not asked")
    return Sifted(received[begin : end + 2], body_fault(asked[1:-1], data[1:-1]))
