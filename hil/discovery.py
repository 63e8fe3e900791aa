"""Finding the SunSpec models of a unit: the marker, the chain of models, and who made the device.

Rule of this file: a map that can be read in one way only is accepted, with a warning where it bends the
standard; a map that could be read in two ways is refused, with the register at which it breaks.

What is accepted: a common model of 65 registers; no end model, when an exception or steady silence follows
the last model; an end model without a length; a second common model, which begins a second device in the same
map.  A model whose length is another model's is named and not used: which of the two is wrong cannot be
known.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from . import sunspec_points
from .identity import COMMON as COMMON
from .identity import Identity as Identity
from .identity import IdentityGuard, identity_of, stranger
from .modbus_link import BUSY, FAILURE, ILLEGAL_ADDRESS, ILLEGAL_VALUE, READ_REGISTERS_MAX, TargetError, Unit

BASES: Final = (40000, 0, 50000)
"""Where a map may begin (SunSpec Device Information Model Specification), most common first."""

MARKER: Final = [0x5375, 0x6E53]  # "SunS"
END: Final = 0xFFFF
EMPTY: Final = ((0, 0), (0xFFFF, 0xFFFF))
"""What stands in place of a model's header when a device sends a frame with nothing in it."""

_EMPTIES_MAX: Final = 2
"""Times in a row that a model may be empty before its map is read again."""

_INTEGERS, _FLOATS = (101, 102, 103), (111, 112, 113)
_VENDORS: Final = 64_000
"""From here on, models are makers' own."""

_PASSING: Final = (ILLEGAL_VALUE, FAILURE, BUSY)
"""Exceptions that devices also answer with while they are busy."""

_HEADER_WAITS: Final = (0.1, 0.2, 0.4)
"""Waits before a header is asked for again, as parts of the time-out."""

MODELS_MAX: Final = 200
_SPLITS_MAX: Final = 64
_REGISTERS: Final = 65_536


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of a map.

    Attributes
    ----------
    id : int
    name : str
        As SunSpec calls it; empty for a model it does not know.
    address : int
        Of the register that holds the id.
    length : int
        L as the device states it: registers behind the two of the header.
    known : bool
        SunSpec defines it, and its length is not another model's.
    part : int
        0 for the device itself, 1 for the device that a second common model begins, and so on.
    """

    id: int
    name: str
    address: int
    length: int
    known: bool
    part: int

    @property
    def count(self) -> int:
        """Registers with the header."""
        return self.length + 2


@dataclass(frozen=True, slots=True)
class ModelImage:
    """What one model held when it was read.

    Attributes
    ----------
    entry : ModelEntry
    registers : Registers
    points : mapping of str to Point
        By name.
    """

    entry: ModelEntry
    registers: sunspec_points.Registers
    points: Mapping[str, sunspec_points.Point]

    def value(self, name: str) -> sunspec_points.Value | None:
        """Return a point's value, None where the device has none."""
        point = self.points.get(name)
        return None if point is None else sunspec_points.value_of(point, self.registers)

    def number(self, name: str) -> float:
        """Return a point's value as a number, NaN where the device has none."""
        value = self.value(name)
        return float(value) if isinstance(value, int | float) else math.nan

    def scale(self, name: str) -> int | None:
        """Return the power of ten of a point's values, None where its scale factor says nothing usable."""
        return sunspec_points.scale_of(self.points[name], self.registers)

    def address(self, name: str) -> int:
        """Return the address of a point's first register."""
        return self.entry.address + self.points[name].offset


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """What a unit serves.

    Attributes
    ----------
    unit : int
    base : int
        Address of the marker.
    models : tuple of ModelEntry
        In map order.
    identity : Identity
    warnings : tuple of str
        Where the map bends the standard.
    """

    unit: int
    base: int
    models: tuple[ModelEntry, ...]
    identity: Identity
    warnings: tuple[str, ...]

    def find(self, model: int, index: int = 0) -> ModelEntry | None:
        """Return the `index`-th model with this id, None when there is none."""
        found = [entry for entry in self.models if entry.id == model]
        return found[index] if 0 <= index < len(found) else None

    def own(self, model: int) -> ModelEntry | None:
        """Return the first model with this id that belongs to the device itself."""
        return next((entry for entry in self.models if entry.id == model and entry.part == 0), None)


async def discover(unit: Unit, bases: tuple[int, ...] = BASES, *, known: Identity | None = None) -> DeviceMap:
    """Find and walk the map of a unit; from then on it shows on each new connection that it is the same.

    Parameters
    ----------
    unit : Unit
    bases : tuple of int
        Where to look for the map.
    known : Identity, optional
        Whom it has to be.

    Raises
    ------
    TargetError
        No answer, no SunSpec map, a chain that breaks, or another device; the message says at which register.
    """
    before = unit.link.guard(unit.number, None)
    try:
        base = await _find_base(unit, bases)
        connection = unit.link.connections
        unit.runs.clear()
        entries, warnings = await _walk(unit, base)
        common = entries[0]
        identity = identity_of(common.length, await read_model(unit, common))
        if known is not None and not identity.is_same(known):
            raise stranger(unit, identity, known)
    except BaseException:
        unit.link.guard(unit.number, before)
        raise
    if not identity.serial:
        warnings.append("model 1 tells no serial number: another device in its place would not be noticed")
    check = IdentityGuard(unit, common.address, common.length, identity)
    unit.link.guard(unit.number, check, connection)
    return DeviceMap(unit.number, base, tuple(entries), identity, tuple(warnings))


def changes(found: DeviceMap, seen: Mapping[int, ModelEntry]) -> list[str]:
    """Return how a map differs from what a device was seen to serve, by model id; empty for not at all."""
    now = {entry.id: entry.address for entry in found.models if entry.part == 0}
    gone = [str(number) for number in seen if number not in now]
    moved = [str(number) for number, entry in seen.items() if now.get(number, entry.address) != entry.address]
    parts = [f"no longer served {', '.join(gone)}"] if gone else []
    parts += [f"at other registers {', '.join(moved)}"] if moved else []
    return [f"the map has changed while running: of its models are {' and '.join(parts)}"] if parts else []


async def _find_base(unit: Unit, bases: tuple[int, ...]) -> int:
    faults = []
    for base in bases:
        try:
            if await unit.read(base, 2, "the SunSpec marker") == MARKER:
                return base
        except TargetError as fault:
            # A missing register, or silence at a block that is not served, leaves the other bases open.
            if not fault.silent and fault.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE):
                raise
            faults.append(fault)
    if len(faults) == len(bases) and all(fault.silent for fault in faults):
        raise faults[0]
    places = ", ".join(map(str, bases))
    text = f"no SunSpec marker (SunS) at register {places}: no SunSpec device, or another unit id"
    lost = [str(fault) for fault in faults if fault.silent or fault.code == ILLEGAL_VALUE]
    raise unit.fault(f"{text}; or it was not heard ({lost[0]})" if lost else text, refused=True, changed=True)


async def _walk(unit: Unit, base: int) -> tuple[list[ModelEntry], list[str]]:
    entries: list[ModelEntry] = []
    warnings: list[str] = []
    address, part = base + len(MARKER), -1
    while True:
        header = await _header(unit, base, address, entries, warnings)
        if header is None:
            break
        model, length = header
        if not entries and model != COMMON:
            raise _broken(unit, address, entries, f"the first model must be 1, found {model}")
        if model == 0 or length == 0 or address + 2 + length > _REGISTERS:
            raise _broken(unit, address, entries, f"found model {model} with length {length}")
        if len(entries) == MODELS_MAX:
            raise _broken(unit, address, entries, f"more than {MODELS_MAX} models and no end")
        part += model == COMMON
        known = sunspec_points.definition(model) is not None
        entries.append(ModelEntry(model, sunspec_points.label_of(model), address, length, known, part))
        address += 2 + length
    warnings += [text for entry in entries if (text := _mislabelled(entry) or _odd_length(entry))]
    entries = [replace(entry, known=entry.known and not _mislabelled(entry)) for entry in entries]
    own = {entry.id for entry in entries if entry.part == 0 and entry.known}
    for integer, floating in zip(_INTEGERS, _FLOATS, strict=True):
        if {integer, floating} <= own:
            warnings.append(f"models {integer} and {floating} tell the same: {integer} is used")
    if part > 0:
        warnings.append(f"{part + 1} common models: what follows the second belongs to another device")
    return entries, warnings


def _mislabelled(entry: ModelEntry) -> str:
    """Return why a model's label and length do not belong together, when the length is another model's."""
    wanted = sunspec_points.fixed_length(entry.id)
    known = sunspec_points.definition(entry.id) is not None
    if entry.id == COMMON or entry.id >= _VENDORS or (known and wanted in (None, entry.length)):
        return ""
    others = sunspec_points.models_of_length(entry.length)
    if not others:
        return ""
    own = f"states length {entry.length}, its definition {wanted}" if known else "is not one of SunSpec's"
    fits = f"model {', '.join(map(str, others))}"
    return f"model {entry.id} (register {entry.address}) {own}; {fits} has that length: it is not used"


async def _header(
    unit: Unit, base: int, address: int, entries: list[ModelEntry], warnings: list[str]
) -> tuple[int, int] | None:
    """Return id and length of the model at `address`, None at the end of the chain."""
    if address + 2 > _REGISTERS:
        raise _broken(unit, address, entries, "the last register is reached without an end model")
    header = await _read_header(unit, base, address)
    if not isinstance(header, TargetError):
        model, length = header
        if model != END:
            return model, length
        if not entries:
            raise _broken(unit, address, entries, "no model, only the end")
        if length != 0:
            if any(_odd_length(entry) for entry in entries if entry.id != COMMON):
                raise _broken(unit, address, entries, f"found an end model with length {length}")
            warnings.append(f"the end model (register {address}) states length {length}, its definition 0")
        return None
    if entries and header.silent:
        _no_end(unit, address, entries, warnings, header)
        return None
    if not entries or header.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE):
        raise header
    try:
        (model,) = await unit.read(address, 1, "a model's id")
    except TargetError as fault:
        if fault.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE):
            raise
        _no_end(unit, address, entries, warnings, fault)
        return None
    if model != END:
        raise _broken(unit, address, entries, f"found model {model} without a length")
    warnings.append(f"the end model (register {address}) has no length")
    return None


async def _read_header(unit: Unit, base: int, address: int) -> list[int] | TargetError:
    """Return id and length of a model, or why they cannot be read.

    One request without an answer must not pass for the end of the chain: silence, and exceptions that may
    mean "busy", are asked about again a few times, as long as the device answers at the marker.

    Raises
    ------
    TargetError
        The device does not answer at the marker either.
    """
    for part in (*_HEADER_WAITS, 0.0):
        try:
            return await unit.read(address, 2, "a model's id and length")
        except TargetError as error:
            fault = error
        if part == 0.0 or not (fault.silent or fault.code in _PASSING):
            break
        await asyncio.sleep(part * unit.link.timeout_s)
        if not await _answers_at(unit, base):
            break
    return fault


async def _answers_at(unit: Unit, base: int) -> bool:
    """Whether the marker is still there, or the device too busy to say."""
    try:
        return await unit.read(base, 2, "the SunSpec marker") == MARKER
    except TargetError as fault:
        if fault.code not in _PASSING:
            raise
        return True


def _no_end(
    unit: Unit, address: int, entries: list[ModelEntry], warnings: list[str], fault: TargetError
) -> None:
    """Take silence or an exception for the end of the chain, with a warning.

    Raises
    ------
    TargetError
        A length that is probably wrong has led here.
    """
    if any(_odd_length(entry) for entry in entries if entry.id != COMMON):
        how = "silence" if fault.silent else f"exception {fault.code}"
        raise _broken(unit, address, entries, how) from None
    text = f"no end model behind model {entries[-1].id} (register {address})"
    if fault.silent:
        text += ": the device is silent there; models behind it may be missing"
    elif fault.code == ILLEGAL_VALUE:
        text += f": exception {fault.code}, which may mean busy; models behind it may be missing"
    warnings.append(text)


def _odd_length(entry: ModelEntry) -> str:
    """Return what is odd about a model's length; empty when nothing is."""
    wanted = sunspec_points.fixed_length(entry.id)
    least = sunspec_points.least_length(entry.id)
    if entry.length == wanted or (wanted is None and entry.length >= least):
        return ""
    own = f"at least {least}" if wanted is None else str(wanted)
    return f"model {entry.id} (register {entry.address}) states length {entry.length}, its definition {own}"


def _broken(unit: Unit, address: int, entries: list[ModelEntry], found: str) -> TargetError:
    behind = f" behind model {entries[-1].id}" if entries else ""
    odd = [text for entry in entries if entry.id != COMMON and (text := _odd_length(entry))]
    hint = f"; {odd[-1]}: that length is probably wrong" if odd else ""
    return unit.fault(
        f"the chain of models breaks at register {address}{behind}: {found}{hint}",
        refused=True,
        changed=True,
    )


async def read_model(unit: Unit, entry: ModelEntry) -> sunspec_points.Registers:
    """Return all registers of a model from its id on; None where the device refuses to show one.

    Up to 125 registers are one request.  A longer model is read in several, cut between points where its
    definition tells.  A block that is refused is halved until the refused registers stand alone; from then on
    they are left out (`Unit.runs`).  A frame with nothing in it is read once more.

    Raises
    ------
    TargetError
        No answer, nothing readable, or another model than the map says.
    """
    registers = await _read_runs(unit, entry)
    if is_empty(registers):
        note_empty(unit, entry.address, entry.count)
        registers = await _read_runs(unit, entry)
    check_header(unit, entry, registers)
    return registers


async def _read_runs(unit: Unit, entry: ModelEntry) -> list[int | None]:
    """Read a model in the requests that are known to work, or find out which do."""
    borders = {point.offset for point in sunspec_points.fixed_points(entry.id, entry.length).values()}
    free = max(borders, default=0)
    borders |= set(range(free + 1, entry.count))
    registers: list[int | None] = [None] * entry.count
    key = entry.address, entry.count
    spans = list(unit.runs.get(key, ())) or _cut(entry.count, borders)
    runs: list[tuple[int, int]] = []
    refused: TargetError | None = None
    splits = 0
    while spans:
        first, last = spans.pop(0)
        try:
            registers[first:last] = await unit.read(entry.address + first, last - first, f"model {entry.id}")
            runs.append((first, last))
        except TargetError as fault:
            if fault.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE):
                raise
            refused = fault
            inside = [border for border in borders if first < border < last]
            if inside and splits < _SPLITS_MAX:
                splits += 1
                middle = min(inside, key=lambda border: abs(2 * border - first - last))
                spans[:0] = [(first, middle), (middle, last)]
    if refused is not None:
        if not runs:
            unit.runs.pop(key, None)
            raise refused
        unit.runs[key] = tuple(runs)
    return registers


async def read_image(unit: Unit, entry: ModelEntry) -> ModelImage:
    """Return a model as it is now; see `read_model`."""
    registers = await read_model(unit, entry)
    points = sunspec_points.all_points(entry.id, entry.length, registers) if entry.known else {}
    return ModelImage(entry, registers, points)


def _cut(count: int, borders: set[int]) -> list[tuple[int, int]]:
    """Cut `count` registers into requests, at borders."""
    spans = []
    first = 0
    while count - first > READ_REGISTERS_MAX:
        last = max(border for border in borders if first < border <= first + READ_REGISTERS_MAX)
        spans.append((first, last))
        first = last
    return [*spans, (first, count)]


def is_empty(registers: sunspec_points.Registers) -> bool:
    """Whether a frame that should begin with a model's header has nothing in it."""
    return (registers[0], registers[1]) in EMPTY


def note_empty(unit: Unit, address: int, count: int) -> None:
    """Note that a frame with nothing in it came, and was read once more."""
    unit.note(
        f"empty {address}",
        f"an empty frame came for registers {address} to {address + count - 1} (zeros or 0xFFFF in place of "
        "values): it was discarded and read once more",
    )


def check_header(unit: Unit, entry: ModelEntry, registers: sunspec_points.Registers) -> None:
    """Refuse registers that do not begin with the id and length of the model they are taken for.

    Raises
    ------
    TargetError
        The map has changed since it was discovered, or the device sent an empty frame; too many of those in
        a row mean that the map has moved, and that an empty place is where the model was.
    """
    if registers[0] in (entry.id, None) and registers[1] in (entry.length, None):
        unit.empties.pop(entry.address, None)
        return
    if is_empty(registers):
        times = unit.empties[entry.address] = unit.empties.get(entry.address, 0) + 1
        raise unit.fault(
            f"an empty frame in place of model {entry.id} (register {entry.address} holds {registers[0]}), "
            "twice: the device answers, but has no values at the moment",
            refused=True,
            changed=times > _EMPTIES_MAX,
        )
    raise gone(unit, entry, f"register {entry.address} holds model {registers[0]} with length {registers[1]}")


def gone(unit: Unit, entry: ModelEntry, found: str) -> TargetError:
    """Return the error that a model is not where it was."""
    return unit.fault(
        f"model {entry.id} is gone: {found}, not model {entry.id} with length {entry.length} (register "
        f"{entry.address}): the map has changed",
        refused=True,
        changed=True,
    )
