"""Everything a unit serves, for people and for programs: models, points, values, and what is odd.

Rule of this file: it only reads, and it reports what it finds; nothing is judged or set right.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .discovery import BASES, DeviceMap, ModelEntry, ModelImage, discover, read_image
from .identity import identity_of
from .modbus_link import Link, TargetError, Unit
from .modbus_transport import TlsFiles
from .sunspec_points import SIGNED, Point, Value, blank_of, number_of, scale_of
from .target import Target, parse_target

UNIT_MAX = 247


@dataclass(frozen=True, slots=True)
class PointReport:
    """One point as it was found.

    Attributes
    ----------
    name, label, type, units : str
    address : int
    access : str
        R or RW, by its definition.
    value : int, float, str or None
        In its units; None where the device has none.
    meaning : str
        Name of an enumeration's value, names of the bits that are set; empty for others.
    note : str
        Why there is no value, where that is not "not implemented".
    """

    name: str
    label: str
    address: int
    type: str
    units: str
    access: str
    value: Value | None
    meaning: str
    note: str


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model as it was found.

    Attributes
    ----------
    entry : ModelEntry
    points : tuple of PointReport
        Empty for a model SunSpec does not know, and for one that cannot be read.
    """

    entry: ModelEntry
    points: tuple[PointReport, ...]


@dataclass(frozen=True, slots=True)
class ScanReport:
    """One unit as it was found.

    Attributes
    ----------
    target : str
    map : DeviceMap
    models : tuple of ModelReport
    warnings : tuple of str
    """

    target: str
    map: DeviceMap
    models: tuple[ModelReport, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data that JSON can hold."""
        return {
            "target": self.target,
            "unit": self.map.unit,
            "base": self.map.base,
            "identity": asdict(self.map.identity),
            "models": [
                {**asdict(model.entry), "points": [asdict(point) for point in model.points]}
                for model in self.models
            ],
            "warnings": list(self.warnings),
        }


async def scan(
    target: str | Target,
    timeout_s: float = 5.0,
    *,
    tls: TlsFiles | None = None,
    bases: tuple[int, ...] = BASES,
) -> ScanReport:
    """Read every model of a unit, and see whether the next unit id is the same device.

    Parameters
    ----------
    target : str or Target
    timeout_s : float
        A connect and an answer may take this long each [s].
    tls : TlsFiles, optional
        Certificate, key and CA, for a ``tls:`` target.
    bases : tuple of int
        Where to look for the map.

    Raises
    ------
    ScenarioError
        The target cannot be understood.
    TargetError
        No answer, no SunSpec map, or a chain of models that breaks.
    """
    place = parse_target(target) if isinstance(target, str) else target
    link = Link(place, timeout_s, tls=tls)
    try:
        unit = Unit(link, place.unit)
        found = await discover(unit, bases)
        models, warnings = [], list(found.warnings)
        for entry in found.models:
            model, odd = await _scan_model(unit, entry)
            models.append(model)
            warnings += odd
        warnings += await _other_names(link, found)
        warnings += [text for text in link.met if text not in warnings]
    finally:
        await link.close()
    return ScanReport(str(place), found, tuple(models), tuple(warnings))


async def _other_names(link: Link, found: DeviceMap) -> list[str]:
    """Return that another unit id answers as the same device, if the next one does."""
    other = Unit(link, found.unit % UNIT_MAX + 1)
    common = found.models[0]
    try:
        registers = await other.read(common.address, min(common.count, 68), "who else answers (model 1)")
    except TargetError:
        return []  # nobody there, or nobody of the kind
    if not found.identity.serial or not identity_of(common.length, registers).is_same(found.identity):
        return []
    return [
        f"unit {other.number} answers as the same device as unit {found.unit}, {found.identity}: it must "
        "not be counted twice"
    ]


async def _scan_model(unit: Unit, entry: ModelEntry) -> tuple[ModelReport, list[str]]:
    if not entry.known:
        return ModelReport(entry, ()), []
    try:
        image = await read_image(unit, entry)
    except TargetError as error:
        if not error.refused:
            raise
        return ModelReport(entry, ()), [f"model {entry.id} cannot be read: {error}"]
    points = tuple(_report(image, point) for point in image.points.values() if point.type != "pad")
    odd = [f"{entry.id}.{p.name} (register {p.address}): {p.note}" for p in points if p.note]
    return ModelReport(entry, points), odd


def _report(image: ModelImage, point: Point) -> PointReport:
    value = image.value(point.name)
    return PointReport(
        name=point.name,
        label=point.label,
        address=image.address(point.name),
        type=point.type,
        units=point.units,
        access="RW" if point.writable else "R",
        value=value,
        meaning=_meaning(point, value),
        note=_note(image, point),
    )


def _meaning(point: Point, value: Value | None) -> str:
    if not isinstance(value, int) or not point.symbols:
        return ""
    if point.type.startswith("bitfield"):
        return ", ".join(name for name, bit in point.symbols if value >> bit & 1)
    return next((name for name, number in point.symbols if number == value), f"{value}, not in the standard")


def _note(image: ModelImage, point: Point) -> str:
    """Return what is odd about a point: unreadable registers, or a value that its scale factor spoils."""
    words = image.registers[point.offset : point.offset + point.size]
    whole = [word for word in words if word is not None]
    if len(whole) < len(words):
        return "the device refuses to show it"
    if point.scale_offset is None or scale_of(point, image.registers) is not None:
        return ""
    blank = number_of(whole, signed=point.type in SIGNED) == blank_of(point.type, point.size)
    return "" if blank else "its scale factor is not implemented or out of range: no value"
