"""REJ-1 to REJ-4 and FC06: requests a device must refuse, and the single write it must take.

Rule of this file: what must be refused is such that obeying it would change nothing, or is put back.
"""

from __future__ import annotations

import struct
from typing import Final

from ..discovery import BASES, ModelImage
from ..sunspec_points import Point
from .definitions import implemented, raw_of, words_of_point
from .results import Trial
from .subject import Subject
from .wire import WRITE_ONE, WRITE_SEVERAL, Reply, ask, read_request
from .writing import alternatives, read_back, safe_points

_UNKNOWN: Final = (0x41, 0x64)
_REFUSALS: Final = (1, 2, 3, 4)


def _refused(
    trial: Trial,
    reply: Reply,
    function: int,
    codes: tuple[int, ...],
    what: str,
    register: int | None,
    sent: bytes,
) -> bool:
    """Judge that a request was answered with one of some exceptions, under its own function code."""
    return trial.check(
        reply.code in codes and reply.pdu[:1] == bytes((function | 0x80,)),
        what,
        register=register,
        sent=sent.hex(" "),
        received=str(reply) + (f" under function code {reply.pdu[0]:#04x}" if reply.pdu else ""),
        allowed=f"exception {' or '.join(map(str, codes))} under function code {function | 0x80:#04x}",
    )


async def function_codes(subject: Subject, trial: Trial) -> None:
    """REJ-1."""
    for function in _UNKNOWN:
        pdu = struct.pack(">BHH", function, 0, 1)
        reply = await ask(subject.wire, pdu)
        _refused(trial, reply, function, (1,), f"function code {function:#04x}, which nobody has", None, pdu)
    await _goes_on(subject, trial)


async def quantities(subject: Subject, trial: Trial) -> None:
    """REJ-2."""
    base = BASES[0] if subject.map is None else subject.map.base
    for count in (0, 126, 0xFFFF):
        pdu = read_request(base, count)
        reply = await ask(subject.wire, pdu)
        _refused(trial, reply, 3, (3,), f"a read of {count} registers", base, pdu)
    await _goes_on(subject, trial)


async def addresses(subject: Subject, trial: Trial) -> None:
    """REJ-3."""
    pdu = read_request(0xFFFF, 2)
    reply = await ask(subject.wire, pdu)
    _refused(trial, reply, 3, (2,), "a read past the last address there is", 0xFFFF, pdu)
    if subject.map is not None:
        last = subject.map.models[-1]
        behind = last.address + last.count + 2
        reply = await ask(subject.wire, read_request(behind, 1))
        trial.note("the register behind the end model", register=behind, received=str(reply))
    await _goes_on(subject, trial)


async def _goes_on(subject: Subject, trial: Trial) -> None:
    base = BASES[0] if subject.map is None else subject.map.base
    reply = await ask(subject.wire, read_request(base, 2))
    trial.check(
        bool(reply.words),
        "the next good request",
        register=base,
        received=str(reply),
        allowed="the registers",
    )


def _read_only(image: ModelImage) -> list[Point]:
    """Return points of a model that must refuse a write: its length, and the first value that it shows."""
    shown = [
        point
        for point in image.points.values()
        if not point.writable and point.name not in ("ID", "L") and point.type not in ("pad", "sunssf")
    ]
    first = next((point for point in shown if implemented(image, point.name)), None)
    return [image.points["L"], *([] if first is None else [first])]


async def read_only(subject: Subject, trial: Trial) -> None:
    """REJ-4."""
    for entry in subject.entries():
        image = await subject.image(entry.id)
        for point in _read_only(image):
            words = words_of_point(image, point)
            if words is None:
                continue
            address = image.address(point.name)
            async with subject.keeping() as journal:
                await journal.keep(address, point.size, str(point))
                function = WRITE_ONE if point.size == 1 else WRITE_SEVERAL
                reply = await subject.unit.try_write(address, words, function)
                trial.check(
                    reply.code in _REFUSALS,
                    f"{point}: a write to a point that can only be read, of what it holds",
                    register=address,
                    sent=" ".join(f"0x{word:04X}" for word in words),
                    received=str(reply),
                    allowed="an exception, 1 to 4",
                )


async def single_write(subject: Subject, trial: Trial) -> None:
    """FC06."""
    for entry in subject.entries():
        image = await subject.image(entry.id)
        for point in safe_points(image):
            if point.size != 1:
                continue
            number = raw_of(image, point.name)
            address = image.address(point.name)
            async with subject.keeping() as journal:
                await journal.keep(address, 1, str(point))
                for other in (*alternatives(image, point), number):
                    reply = await subject.unit.try_write(address, [other & 0xFFFF], WRITE_ONE)
                    if reply.code != 3:
                        break
                echo = struct.pack(">BHH", WRITE_ONE, address, other & 0xFFFF)
                trial.check(
                    reply.pdu == echo,
                    f"{point}: written with function 6",
                    register=address,
                    sent=echo.hex(" "),
                    received=str(reply),
                    allowed="the request itself, echoed",
                )
                if reply.pdu == echo:
                    held, took_s = await read_back(subject, image, point.name, other)
                    trial.check(
                        held == other,
                        f"{point}: read back after {1000 * took_s:.0f} ms",
                        register=address,
                        received=f"{held}, unscaled",
                        allowed=f"{other} within 1,000 ms",
                    )
            return
    trial.skip("it has no point of one register that may be written without harm")
