"""MOD-1, MOD-2 and SF: what a device implements, and whether what it shows is legal.

Rule of this file: it only reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from ..discovery import ModelImage
from ..modbus_link import READ_REGISTERS_MAX, TargetError
from ..sunspec_points import Point, scale_of, scaled
from .definitions import (
    implemented,
    is_blank,
    is_mandatory,
    mandatory_missing,
    scale_missing,
    value_fault,
    words_of_point,
)
from .results import Step, Trial
from .subject import Subject

_STATIC: Final = frozenset({"sunssf", "string", "count"})

SAME: Final[tuple[tuple[str, float, tuple[str, ...]], ...]] = (
    ("rated active power", 0.02, ("702.WMaxRtg", "120.WRtg")),
    ("active power setting", 0.02, ("702.WMax", "121.WMax")),
    ("rated energy", 0.02, ("713.WHRtg", "802.WHRtg", "120.WHRtg")),
    ("charge rate", 0.02, ("702.WChaRteMax", "802.WChaRteMax", "124.WChaMax")),
    ("state of charge", 0.05, ("713.SoC", "802.SoC", "124.ChaState")),
    ("frequency", 0.01, ("701.Hz", "101.Hz", "102.Hz", "103.Hz", "111.Hz", "112.Hz", "113.Hz")),
    ("phase voltage", 0.05, ("701.LNV", "101.PhVphA", "103.PhVphA", "113.PhVphA")),
)
"""Points of different models that say the same thing, and how far apart they may be [1]."""


async def implementation(subject: Subject, trial: Trial) -> None:
    """MOD-1."""
    for entry in subject.entries():
        image = await subject.image(entry.id)
        failed = [
            Step(f"{point} mandatory point", image.address(point.name), "", found, "a value", False)
            for point, found in mandatory_missing(image)
        ]
        seen = sum(is_mandatory(point) for point in image.points.values())
        trial.many(f"model {entry.id}: mandatory points", seen, failed, "all of them implemented")


async def reading(subject: Subject, trial: Trial) -> None:
    """MOD-2."""
    for entry in subject.entries():
        subject.progress(f"MOD-2: model {entry.id}")
        image = await subject.image(entry.id)
        points = [point for point in image.points.values() if point.name not in ("ID", "L")]
        _values(trial, image, points)
        await _blocks(subject, trial, image)
        await _single(subject, trial, image)


def _values(trial: Trial, image: ModelImage, points: Iterable[Point]) -> None:
    """Judge what every point of a model holds."""
    faults: list[Step] = []
    scales: list[Step] = []
    seen = 0
    for point in points:
        seen += 1
        if fault := value_fault(image, point):
            faults.append(Step(str(point), image.address(point.name), "", fault[0], fault[1], False))
        if name := scale_missing(image, point):
            allowed = f"{image.entry.id}.{name} implemented, as the point is"
            scales.append(
                Step(f"{point}: scale factor", image.address(name), "", "0x8000, none", allowed, False)
            )
    number = image.entry.id
    trial.many(f"model {number}: values", seen, faults, "what type and definition allow")
    trial.many(f"model {number}: scale factors needed", seen, scales, "all of them implemented")


async def _blocks(subject: Subject, trial: Trial, image: ModelImage) -> None:
    """Read a model in the greatest blocks there are."""
    entry = image.entry
    for first in range(0, entry.count, READ_REGISTERS_MAX):
        count = min(READ_REGISTERS_MAX, entry.count - first)
        address = entry.address + first
        try:
            await subject.unit.read(address, count, f"model {entry.id}")
            said = f"{count} registers"
        except TargetError as error:
            said = str(error)
        trial.check(
            said == f"{count} registers",
            f"model {entry.id}: {count} registers in one request",
            register=address,
            received=said,
            allowed=f"up to {READ_REGISTERS_MAX} registers of a model in one answer",
        )


async def _single(subject: Subject, trial: Trial, image: ModelImage) -> None:
    """Read every point of one register alone; it must say what the block said."""
    failed, seen = [], 0
    for point in image.points.values():
        words = words_of_point(image, point)
        if point.size != 1 or point.type == "pad" or words is None:
            continue
        seen += 1
        address = image.address(point.name)
        try:
            alone = await subject.unit.read(address, 1, str(point))
        except TargetError as error:
            failed.append(Step(f"{point} read alone", address, "", str(error), "its register", False))
            continue
        fixed = point.type in _STATIC or point.writable or point.name in ("ID", "L")
        good = alone == words if fixed else is_blank(point, alone) == is_blank(point, words)
        if not good:
            found = f"0x{alone[0]:04X} alone, 0x{words[0]:04X} in the block"
            failed.append(Step(f"{point} read alone", address, "", found, "the same in both", False))
    trial.many(f"model {image.entry.id}: single registers", seen, failed, "the same as in the block")


async def scale_factors(subject: Subject, trial: Trial) -> None:
    """SF."""
    before = {entry.id: await subject.image(entry.id) for entry in subject.entries()}
    await subject.sleep(1.0)
    for model, image in before.items():
        now = await subject.image(model)
        failed, seen = [], 0
        for point in image.points.values():
            if point.type != "sunssf":
                continue
            seen += 1
            first, second = words_of_point(image, point), words_of_point(now, point)
            if first != second:
                found = f"{first}, and {second} a second later"
                failed.append(Step(str(point), image.address(point.name), "", found, "the same", False))
        if seen:
            trial.many(f"model {model}: scale factors stand still", seen, failed, "the same after a second")
    for what, part, names in SAME:
        _alike(trial, before, what, part, names)


def _alike(
    trial: Trial, images: dict[int, ModelImage], what: str, part: float, names: tuple[str, ...]
) -> None:
    """Judge that points which say the same thing agree, within their resolution."""
    found: list[tuple[str, float, float]] = []
    for name in names:
        model, _, inner = name.partition(".")
        image = images.get(int(model))
        if image is None or not implemented(image, inner):
            continue
        number, power = image.number(inner), scale_of(image.points[inner], image.registers)
        if not math.isnan(number) and power is not None:
            found.append((name, number, scaled(1, power)))
    if len(found) < 2:
        return
    numbers = [number for _, number, _ in found]
    room = part * max(map(abs, numbers)) + 2.0 * max(step for _, _, step in found)
    trial.check(
        max(numbers) - min(numbers) <= room,
        f"{what}: {', '.join(name for name, _, _ in found)} agree",
        received=", ".join(f"{name} {number:g}" for name, number, _ in found),
        allowed=f"values no further apart than {room:g}: their scale factors fit",
    )
