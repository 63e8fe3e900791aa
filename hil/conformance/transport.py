"""TCP-1 to TCP-3, RTU-1 to RTU-3 and the broadcast: how requests and answers travel.

Rule of this file: it sends through the raw connection; what is sent is a read, but for the broadcast write.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ..discovery import BASES
from ..target import BAUDS, TLS_PORT, RtuTarget, TcpTarget, TlsTarget
from .definitions import raw_of
from .results import Trial
from .subject import READ_BACK_S, Subject
from .wire import WRITE_SEVERAL, Reply, RtuWire, TcpWire, ask, read_request, write_request
from .writing import alternatives, safe_points

PAUSE_S: Final = 0.5
"""Between the pieces of a request [s]: long for a frame, short for a time-out of seconds."""

PORT: Final = 502
BROADCAST: Final = 0
_ABSENT: Final = (247, 246)
_BUSY: Final = 6


def _marker_request(subject: Subject) -> bytes:
    """Return a read of the two registers at the map's beginning."""
    return read_request(BASES[0] if subject.map is None else subject.map.base, 2)


def _is_answer(reply: Reply) -> bool:
    return len(reply.words) == 2 or bool(reply.code)


def _judge(
    trial: Trial, wire: TcpWire | RtuWire, request: bytes, reply: Reply, what: str, sent: str = ""
) -> bool:
    """Judge one answer: a whole one, and the request's own."""
    return trial.check(
        _is_answer(reply) and wire.answers(request, reply),
        what,
        sent=sent,
        received=f"{reply} with header {reply.header.hex(' ') or 'none'}",
        allowed="the answer, with the transaction id, protocol id and unit of the request",
    )


async def tcp_interface(subject: Subject, trial: Trial) -> None:
    """TCP-1."""
    wire, target = subject.wire, subject.target
    if not isinstance(wire, TcpWire) or not isinstance(target, TcpTarget | TlsTarget):
        trial.skip("the target is not reached over TCP")
        return
    own = PORT if isinstance(target, TcpTarget) else TLS_PORT
    trial.note(f"port {target.port}" + ("" if target.port == own else f"; {own} is the standard's own"))
    for turn in range(1, 4):
        await wire.close()
        request = wire.frame(_marker_request(subject))
        await wire.send(request)
        reply = await wire.receive(subject.timeout_s)
        _judge(trial, wire, request, reply, f"unit {wire.unit} on connection {turn}")
    for unit in (0, 255):
        reply = await ask(wire, _marker_request(subject), unit)
        trial.note(f"unit id {unit}, the server itself", received=str(reply))
    absent = next(unit for unit in _ABSENT if unit != wire.unit)
    request = wire.frame(_marker_request(subject), absent)
    await wire.send(request)
    reply = await wire.receive(subject.timeout_s)
    if not reply.pdu:
        await wire.close()
        trial.note(f"unit id {absent}, which need not be there", received=str(reply))
    else:
        _judge(trial, wire, request, reply, f"unit id {absent}, which need not be there")
        if reply.words:
            trial.note("it answers at other unit ids as well: they may be the same device")


async def tcp_partial(subject: Subject, trial: Trial) -> None:
    """TCP-2."""
    wire = subject.wire
    if not isinstance(wire, TcpWire):
        trial.skip("the target is not reached over TCP")
        return
    for cut in (3, 5, 7, 10):
        request = wire.frame(_marker_request(subject))
        sent = f"{cut} bytes, a pause of {PAUSE_S:g} s, the other {len(request) - cut}"
        await wire.send(request[:cut])
        early = await wire.receive(PAUSE_S)
        quiet = trial.check(
            not early.pdu and not early.closed,
            f"request cut after byte {cut}: the first piece is not answered",
            sent=sent,
            received=str(early),
            allowed="silence until the request is whole",
        )
        if not quiet:
            await wire.close()
            continue
        await wire.send(request[cut:])
        reply = await wire.receive(subject.timeout_s)
        if not _judge(trial, wire, request, reply, f"request cut after byte {cut}: answered whole", sent):
            await wire.close()


async def tcp_several(subject: Subject, trial: Trial) -> None:
    """TCP-3."""
    wire = subject.wire
    if not isinstance(wire, TcpWire):
        trial.skip("the target is not reached over TCP")
        return
    for count in (2, 5):
        requests = [wire.frame(_marker_request(subject)) for _ in range(count)]
        await wire.send(b"".join(requests))
        replies = []
        for _ in requests:
            replies.append(await wire.receive(subject.timeout_s))
            if not replies[-1].pdu:
                break
        own = [wire.answers(request, reply) for request, reply in zip(requests, replies, strict=False)]
        served = all(reply.words or reply.code == _BUSY for reply in replies) and bool(replies[0].words)
        good = len(replies) == count and all(own) and served
        shown = ", ".join(f"{reply} to {reply.header[:2].hex() or 'none'}" for reply in replies)
        ids = ", ".join(request[:2].hex() for request in requests)
        trial.check(
            good,
            f"{count} requests in one segment",
            sent=f"transaction ids {ids}",
            received=shown,
            allowed=f"{count} answers in this order, or exception {_BUSY} for what is too many",
        )
        if not good:
            await wire.close()
    request = wire.frame(_marker_request(subject))
    for k in range(len(request)):
        await wire.send(request[k : k + 1])
        await asyncio.sleep(0.01)
    reply = await wire.receive(subject.timeout_s)
    if not _judge(
        trial, wire, request, reply, "one request in packets of one byte", f"{len(request)} packets"
    ):
        await wire.close()


async def rtu_interface(subject: Subject, trial: Trial) -> None:
    """RTU-1."""
    wire = subject.wire
    if not isinstance(wire, RtuWire):
        trial.skip("the target is not on a serial line")
        return
    reply = await ask(wire, _marker_request(subject))
    trial.check(
        bool(reply.words),
        f"address {wire.unit} answers, 8 data bits, no parity, 1 stop bit",
        received=str(reply),
        allowed="the registers, with the right check sum",
    )
    await _silent(trial, wire, _marker_request(subject), "a request with a wrong check sum", spoil=True)
    absent = 248
    await _silent(
        trial, wire, _marker_request(subject), f"a request to the reserved address {absent}", absent
    )
    await _silent(trial, wire, _marker_request(subject), "a broadcast read", BROADCAST)
    reply = await ask(wire, _marker_request(subject))
    trial.check(
        bool(reply.words), "the next request is answered", received=str(reply), allowed="the registers"
    )


async def _silent(
    trial: Trial, wire: RtuWire, pdu: bytes, what: str, unit: int | None = None, *, spoil: bool = False
) -> None:
    request = wire.frame(pdu, unit)
    await wire.send(request[:-1] + bytes((request[-1] ^ 0xFF,)) if spoil else request)
    reply = await wire.receive(min(1.0, wire.timeout_s))
    trial.check(not reply.pdu, what, sent=request.hex(" "), received=str(reply), allowed="silence")


async def rtu_baud(subject: Subject, trial: Trial) -> None:
    """RTU-2."""
    wire, target = subject.wire, subject.target
    if not isinstance(wire, RtuWire) or not isinstance(target, RtuTarget):
        trial.skip("the target is not on a serial line")
        return
    seen = [await ask(wire, _marker_request(subject)) for _ in range(5)]
    trial.check(
        all(reply.words for reply in seen),
        f"{target.baud} Bd: five requests in a row",
        received=", ".join(sorted({str(reply) for reply in seen})),
        allowed="five answers",
    )
    others = ", ".join(str(baud) for baud in BAUDS if baud != target.baud)
    trial.note(f"not tried, because the device's own speed cannot be changed from here: {others} Bd")


async def rtu_partial(subject: Subject, trial: Trial) -> None:
    """RTU-3."""
    wire = subject.wire
    if not isinstance(wire, RtuWire):
        trial.skip("the target is not on a serial line")
        return
    for cut in (1, 4, 7):
        request = wire.frame(_marker_request(subject))
        await wire.send(request[:cut])
        early = await wire.receive(PAUSE_S)
        trial.check(
            not early.pdu,
            f"a request that ends after byte {cut}",
            sent=request[:cut].hex(" "),
            received=str(early),
            allowed="silence: the frame is not whole",
        )
        reply = await ask(wire, _marker_request(subject))
        trial.check(
            bool(reply.words),
            f"the whole request after the one that ended after byte {cut}",
            sent=request.hex(" "),
            received=str(reply),
            allowed="the registers",
        )


async def rtu_broadcast(subject: Subject, trial: Trial) -> None:
    """BRD: a write to address 0."""
    wire = subject.wire
    if not isinstance(wire, RtuWire):
        trial.skip("broadcast exists on serial lines only")
        return
    if not subject.broadcast:
        trial.skip("a broadcast writes to every device on the line; --broadcast asks for it", "not run")
        return
    for entry in subject.entries():
        image = await subject.image(entry.id)
        for point in safe_points(image):
            if point.size != 1:
                continue
            number = raw_of(image, point.name)
            async with subject.keeping() as journal:
                await journal.keep(image.address(point.name), 1, str(point))
                for other in alternatives(image, point):
                    request = wire.frame(
                        write_request(image.address(point.name), [other & 0xFFFF], WRITE_SEVERAL), BROADCAST
                    )
                    await wire.send(request)
                    reply = await wire.receive(READ_BACK_S)
                    held = await subject.raw(image, point.name)
                    if held == other or reply.pdu:
                        break
                trial.check(
                    not reply.pdu and held == other,
                    f"{point}: broadcast write",
                    register=image.address(point.name),
                    sent=f"{other} to address 0",
                    received=f"{reply}, and the register holds {held} (before: {number})",
                    allowed="silence, and the value written",
                )
            return
    trial.skip("no point of one register may be written without harm")
