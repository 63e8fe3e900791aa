"""DEV-1 and DEV-2: the marker, the chain of models, and model 1.

Rule of this file: it reads the chain itself and is strict; `discovery.discover` accepts what can be accepted.
"""

from __future__ import annotations

from typing import Final

from ..discovery import BASES, COMMON, END, MARKER, MODELS_MAX
from ..modbus_link import TargetError
from ..sunspec_points import definition, fixed_length, fixed_points, label_of, value_of
from ..target import RtuTarget
from .definitions import implemented, stated_length, value_fault
from .results import Trial
from .subject import Subject

COMMON_LENGTHS: Final = (66, 65)
"""Lengths of model 1: with its pad register, and without it as in older maps."""

STRINGS: Final = ("Mn", "Md", "SN")
_REGISTERS: Final = 65_536


async def general_discovery(subject: Subject, trial: Trial) -> None:
    """DEV-1."""
    base = await _marker(subject, trial)
    if base is None:
        return
    address = base + len(MARKER)
    for place in range(MODELS_MAX + 1):
        if place == MODELS_MAX or address + 2 > _REGISTERS:
            trial.check(
                False,
                "the chain of models has no end",
                register=address,
                received=f"{place} models",
                allowed="an end model, id 0xFFFF and length 0",
            )
            return
        header = await _header(subject, trial, address, place)
        if header is None:
            return
        model, length = header
        if place == 0:
            trial.check(
                model == COMMON and length in COMMON_LENGTHS,
                "first model",
                register=address,
                received=f"model {model} with length {length}",
                allowed="model 1 with length 66 or 65",
            )
        await _length(subject, trial, address, model, length)
        if model == 0 or length == 0 or address + 2 + length > _REGISTERS:
            trial.check(
                False,
                "the chain of models breaks",
                register=address,
                received=f"model {model} with length {length}",
                allowed="a model id and the number of registers that follow",
            )
            return
        if model == COMMON and place:
            trial.note("a second model 1: what follows belongs to another device", register=address)
        address += 2 + length


async def _marker(subject: Subject, trial: Trial) -> int | None:
    found = []
    for base in BASES:
        try:
            words = await subject.unit.read(base, 2, "the SunSpec marker")
        except TargetError as error:
            found.append(str(error).rpartition(": ")[2])
            continue
        if words == MARKER:
            trial.check(True, "marker SunS", register=base, received="0x5375 0x6E53", allowed="SunS")
            return base
        found.append(" ".join(f"0x{word:04X}" for word in words))
    places = ", ".join(map(str, BASES))
    trial.check(
        False,
        "no marker SunS",
        received=f"{'; '.join(found)} at registers {places}",
        allowed=f"0x5375 0x6E53 at one of {places}",
    )
    return None


async def _header(subject: Subject, trial: Trial, address: int, place: int) -> tuple[int, int] | None:
    """Return id and length at `address`, None at the end of the chain or where it breaks."""
    allowed = "a model's id and length, or the end model 0xFFFF with length 0"
    try:
        model, length = await subject.unit.read(address, 2, "a model's id and length")
    except TargetError as error:
        said = str(error).rpartition(": ")[2]
        try:
            (alone,) = await subject.unit.read(address, 1, "the end model's id")
        except TargetError:
            trial.check(False, "no end model", register=address, received=said, allowed=allowed)
            return None
        trial.check(
            False,
            "the model has an id and no length",
            register=address,
            received=f"0x{alone:04X}, and {said} for two registers",
            allowed=allowed,
        )
        return None
    if model != END:
        return model, length
    trial.check(
        length == 0 and place > 0,
        f"end model behind {place} models",
        register=address,
        received=f"0xFFFF with length {length}",
        allowed="0xFFFF with length 0, behind at least model 1",
    )
    return None


async def _length(subject: Subject, trial: Trial, address: int, model: int, length: int) -> None:
    """Judge a model's length against its definition and its own counts."""
    what = f"model {model} {label_of(model)}".rstrip()
    if definition(model) is None:
        trial.note(f"model {model} is not one of SunSpec's: its length cannot be judged", register=address)
        return
    wanted = fixed_length(model)
    if model == COMMON:
        good, allowed = length in COMMON_LENGTHS, "66, or 65 without the pad register"
    elif wanted is not None:
        good, allowed = length == wanted, str(wanted)
    else:
        try:
            words = await subject.words(address, min(length + 2, _REGISTERS - address), what)
        except TargetError as error:
            trial.check(False, f"{what} cannot be read", register=address, received=str(error))
            return
        demanded = stated_length(model, length, words)
        good, allowed = length == demanded, f"{demanded}, by its own counts of groups"
    trial.check(good, f"{what}: length", register=address + 1, received=str(length), allowed=allowed)


async def common_model(subject: Subject, trial: Trial) -> None:
    """DEV-2."""
    image = await subject.image(COMMON)
    for name in STRINGS:
        point = image.points[name]
        fault = value_fault(image, point)
        said = repr(value_of(point, image.registers) or "")
        trial.check(
            implemented(image, name) and fault is None,
            f"1.{name} {point.label.lower()}",
            register=image.address(name),
            received=said if fault is None else fault[0],
            allowed="a text that is not empty, printable, padded with NUL",
        )
    if "DA" not in fixed_points(COMMON, image.entry.length) or not implemented(image, "DA"):
        trial.note("1.DA device address: not implemented (it is optional)", register=image.entry.address + 66)
        return
    address = image.value("DA")
    if isinstance(subject.target, RtuTarget):
        trial.check(
            address == subject.target.unit,
            "1.DA device address",
            register=image.address("DA"),
            received=str(address),
            allowed=f"{subject.target.unit}, the address it answers at",
        )
    else:
        trial.note("1.DA device address", register=image.address("DA"), received=str(address))
