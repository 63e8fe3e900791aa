"""MOD-3: every adjustable point is written, read back, offered what it must refuse, and put back.

Rules of this file:

- A point that commands a switch, a shutdown or local control is written with what it holds already, so that
  nothing moves; so are the enable points of the trip functions, which are type-approved protection.
- An enable point is tried with a set-point beside it that changes nothing.
- Requests to adopt a curve are the business of CRV, and the read-only curve too; the device address is left
  alone, because a changed one cuts the link.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from ..discovery import ModelImage
from ..modbus_link import TargetError
from ..sunspec_points import ADDRESSES, FLOATS, Point, blank_of, range_of, words_of
from .definitions import implemented, is_active, raw_of
from .results import Step, Trial
from .subject import READ_BACK_S, Journal, Subject
from .wire import WRITE_ONE, WRITE_SEVERAL, Reply

REQUESTS: Final = frozenset({"AdptCrvReq", "AdptCtlReq"})
UNTOUCHED: Final = frozenset({"1.DA"})

UNMOVED: Final = frozenset(
    {
        *("703.ES", "715.OpCtl", "715.LocRemCtl", "715.AlarmReset", "704.AntiIslEna", "123.Conn"),
        *("802.SetOp", "802.SetInvState", "802.LocRemCtl", "802.AlmRst", "124.ChaGriSet"),
        *(f"{model}.Ena" for model in (707, 708, 709, 710)),
    }
)
"""Points that are written with what they hold already."""

NEUTRAL: Final[Mapping[str, Mapping[str, float]]] = {
    "704.WSetEna": {"WSet": 0, "WSetPct": 0},
    "704.WMaxLimPctEna": {"WMaxLimPct": 100},
    "704.VarSetEna": {"VarSet": 0, "VarSetPct": 0},
    "704.PFWInjEna": {"PFWInj.PF": 1},
    "704.PFWAbsEna": {"PFWAbs.PF": 1},
    "123.WMaxLim_Ena": {"WMaxLimPct": 100},
    "123.OutPFSet_Ena": {"OutPFSet": 1},
    "123.VArPct_Ena": {"VArWMaxPct": 0, "VArMaxPct": 0, "VArAvalPct": 0},
    "124.StorCtl_Mod": {"OutWRte": 100, "InWRte": 100},
}
"""What is written beside an enable point before it is tried."""

INSTALLER: Final = frozenset(
    {
        *("124.WChaMax", "124.WChaGra", "124.WDisChaGra", "704.AntiIslEna"),
        *("704.WRmp", "704.WRmpRef", "704.VarRmp"),
    }
)
"""Ratings and type-approved settings beside models 121 and 702: many devices keep them to the installer."""

LONG_S: Final = 3600
"""A revert timer that is tried must not run out meanwhile [s]."""

_CURVE: Final = re.compile(r"^(?P<set>(?:Crv|Ctl)\[\d+\]\.)")
_REFUSED: Final = 3
_REFUSALS: Final = (2, 3, 4)


def is_stored_read_only(image: ModelImage, point: Point) -> bool:
    """Tell whether a point lies in a curve that says it can only be read."""
    match = _CURVE.match(point.name)
    return match is not None and image.value(f"{match['set']}ReadOnly") == 1


def may_refuse(point: Point) -> bool:
    """Tell whether a device may keep a point to itself, though its definition lets it be written."""
    return point.model in (121, 702) or str(point) in INSTALLER


def adjustable(image: ModelImage) -> list[Point]:
    """Return the points of a model that a client may write and the device implements."""
    return [
        point
        for point in image.points.values()
        if point.writable
        and str(point) not in UNTOUCHED
        and point.name not in REQUESTS
        and point.type not in FLOATS
        and point.type not in ADDRESSES
        and point.type not in ("string", "pad")
        and implemented(image, point.name)
        and is_active(image, point)
        and not is_stored_read_only(image, point)
    ]


def safe_points(image: ModelImage) -> list[Point]:
    """Return points whose value may change without anything moving: what a reversion would go back to."""
    return [
        point
        for point in adjustable(image)
        if point.name.endswith(("EnaRvrt", "PctRvrt", "SetRvrt"))
        or point.name in ("OutWRte", "WMaxLimPct", "MinRsvPct", "CtrlHb")
        if image.entry.id in (704, 124, 123, 802)
    ]


def alternatives(image: ModelImage, point: Point) -> list[int]:
    """Return other numbers a point may take, unscaled, most harmless first; empty where it must not move."""
    number = raw_of(image, point.name)
    if str(point) in UNMOVED:
        return []
    if point.type.startswith("enum"):
        return [value for _, value in point.symbols if value != number]
    if point.type.startswith("bitfield"):
        return [number ^ 1 << bit for _, bit in point.symbols] or [number ^ 1]
    if point.name.endswith(("RvrtTms", "_RvrtTms")) and number < LONG_S:
        return [LONG_S, number + 1]
    low, high = range_of(point.type, point.size)
    return [other for other in (number - 1, number + 1) if low <= other <= high]


def forbidden(image: ModelImage, point: Point) -> Iterator[tuple[int, str]]:
    """Yield numbers that a point must refuse, unscaled, and why."""
    if str(point) in UNMOVED:
        return
    _, high = range_of(point.type, point.size)
    if point.type.startswith("enum") and point.symbols:
        top = max(value for _, value in point.symbols)
        if top < high:
            yield high, "a number that its enumeration does not have"
    elif point.type.startswith("bitfield") and point.symbols:
        stray = max(bit for _, bit in point.symbols) + 1
        if stray < 16 * point.size - 1:
            yield 1 << stray, "a bit that its definition does not have"
    elif point.name in ("WMaxLimPct", "WMaxLimPctRvrt") or (point.name in ("WSet", "WSetRvrt")):
        yield high, "far above the rating"


async def read_back(subject: Subject, image: ModelImage, name: str, wanted: int) -> tuple[int, float]:
    """Return what a point holds, once it is `wanted` or after the longest wait, and how long that took."""
    began_s = subject.now() / subject.speed
    while True:
        held = await subject.raw(image, name)
        took_s = subject.now() / subject.speed - began_s
        if held == wanted or took_s >= READ_BACK_S:
            return held, took_s
        await subject.sleep(0.05 * subject.speed)


async def point_write(subject: Subject, trial: Trial) -> None:
    """MOD-3."""
    for entry in subject.entries():
        image = await subject.image(entry.id)
        points = adjustable(image)
        subject.progress(f"MOD-3: model {entry.id}, {len(points)} points")
        locked = [point for point in points if may_refuse(point) and await _is_locked(subject, image, point)]
        if locked:
            names = ", ".join(point.name for point in locked)
            trial.note(f"model {entry.id}: refuses every write to {names}: allowed if its PICS says so")
            points = [point for point in points if point not in locked]
        before = len(trial.steps)
        slowest_s, still = 0.0, []
        for point in points:
            took_s, moved = await _one_point(subject, trial, image, point)
            slowest_s = max(slowest_s, took_s)
            if not moved:
                still.append(point.name)
        failed = sum(step.good is False for step in trial.steps[before:])
        if points:
            trial.check(
                not failed,
                f"model {entry.id}: {len(points)} adjustable points written and read back",
                received=f"{failed} faults, slowest read back after {1000 * slowest_s:.0f} ms",
                allowed="all of them with functions 6 and 16, read back within 1,000 ms",
            )
        if still:
            trial.note(f"model {entry.id}: take no other value than they hold: {', '.join(still)}")


async def _is_locked(subject: Subject, image: ModelImage, point: Point) -> bool:
    """Tell whether a point refuses even what it holds."""
    address = image.address(point.name)
    async with subject.keeping() as journal:
        await journal.keep(address, point.size, str(point))
        words = words_of(await subject.raw(image, point.name), point.size)
        return (await subject.unit.try_write(address, words, WRITE_SEVERAL)).code in (2, 3)


async def _one_point(subject: Subject, trial: Trial, image: ModelImage, point: Point) -> tuple[float, bool]:
    """Write one point in every way; returns how long reading back took, and whether it took another value."""
    address = image.address(point.name)
    async with subject.keeping() as journal:
        await _beside(journal, image, point)
        await journal.keep(address, point.size, str(point))
        number = await subject.raw(image, point.name)
        functions = (WRITE_ONE, WRITE_SEVERAL) if point.size == 1 else (WRITE_SEVERAL,)
        slowest_s, moved = 0.0, False
        for function in functions:
            reply, other = await _offer(subject, image, point, number, function)
            if reply.code or not reply.pdu:
                _complain(
                    trial, point, address, f"{other} with function {function}", str(reply), "acceptance"
                )
                continue
            held, took_s = await read_back(subject, image, point.name, other)
            slowest_s, moved = max(slowest_s, took_s), moved or other != number
            if held != other:
                sent = f"{other} with function {function}, acknowledged"
                allowed = f"{other} within 1,000 ms"
                _complain(trial, point, address, sent, f"{held} after {1000 * took_s:.0f} ms", allowed)
                break
            if other != number:
                await subject.unit.try_write(address, words_of(number, point.size), WRITE_SEVERAL)
        await _refusals(subject, trial, image, point)
    return slowest_s, moved


async def _beside(journal: Journal, image: ModelImage, point: Point) -> None:
    """Write what makes an enable point harmless."""
    for name, value in NEUTRAL.get(str(point), {}).items():
        if implemented(image, name):
            try:
                await journal.put(image, {name: value})
            except TargetError as error:
                if not error.refused:
                    raise


async def _offer(
    subject: Subject, image: ModelImage, point: Point, number: int, function: int
) -> tuple[Reply, int]:
    """Write the first other value that is taken, else the one it holds; returns the answer and the value."""
    address = image.address(point.name)
    for other in (*alternatives(image, point), number):
        reply = await subject.unit.try_write(address, words_of(other, point.size), function)
        if reply.code != _REFUSED:
            break
    return reply, other


async def _refusals(subject: Subject, trial: Trial, image: ModelImage, point: Point) -> None:
    """Offer the "not implemented" value, which is ignored, and what the point must refuse."""
    address, number = image.address(point.name), await subject.raw(image, point.name)
    blank = blank_of(point.type, point.size)
    reply = await subject.unit.try_write(address, words_of(blank, point.size), WRITE_SEVERAL)
    held = await subject.raw(image, point.name)
    if reply.code or not reply.pdu or held != number:
        found = f"{reply}, and it holds {held} (before: {number})"
        sent = "its type's not-implemented value"
        _complain(trial, point, address, sent, found, "an acknowledgement, and nothing changed")
        await subject.unit.try_write(address, words_of(number, point.size), WRITE_SEVERAL)
    for other, why in forbidden(image, point):
        reply = await subject.unit.try_write(address, words_of(other, point.size), WRITE_SEVERAL)
        held = await subject.raw(image, point.name)
        if reply.code not in _REFUSALS or held != number:
            found = f"{reply}, and it holds {held} (before: {number})"
            _complain(trial, point, address, f"{other}, {why}", found, "exception 3, and nothing changed")
            await subject.unit.try_write(address, words_of(number, point.size), WRITE_SEVERAL)


def _complain(trial: Trial, point: Point, address: int, sent: str, found: str, allowed: str) -> None:
    trial.steps.append(Step(f"{point} write", address, sent, found, allowed, False))
