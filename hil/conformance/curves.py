"""CRV-1 to CRV-3, and the reversion of curves: stored sets of settings, adopted and given back.

Rules of this file:

- What is adopted differs from what is in force by one step of one point, or by nothing where the device takes
  no such step; it is in force for a moment only, and what was in force before is adopted again.
- A request to adopt is an order, not a setting: its point says 2 afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from ..discovery import ModelImage
from ..modbus_link import TargetError
from ..sunspec_points import range_of
from .definitions import implemented, is_active, raw_of
from .results import Trial
from .subject import Journal, Subject, has_points
from .wire import WRITE_SEVERAL

CURVES: Final[Mapping[int, str]] = {
    **dict.fromkeys((705, 706, 707, 708, 709, 710, 712), "Crv"),
    711: "Ctl",
}
"""Models with stored sets, and what the group is called."""

COMPLETED, FAILED = 1, 2
RESULT_S: Final = 5.0
"""Longest wait for the result of an adoption [s]; assumed."""

_CHANGES_MAX: Final = 8
_REFUSALS: Final = (2, 3, 4)
_TIMES: Final = ("RspTms", "Tms", "DbOf", "DbUf", "KOf", "KUf")

Values = dict[str, int]
"""Unscaled numbers by point name inside a set."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One curve model as it was read."""

    image: ModelImage
    group: str

    @property
    def model(self) -> int:
        """Its id."""
        return self.image.entry.id

    @property
    def request(self) -> str:
        """The point that asks for an adoption."""
        return f"Adpt{self.group}Req"

    @property
    def result(self) -> str:
        """The point that says how it went."""
        return f"Adpt{self.group}Rslt"

    @property
    def count(self) -> int:
        """How many sets there are."""
        names = ("NCtl",) if self.group == "Ctl" else ("NCrvSet", "NCrv")
        name = next((name for name in names if name in self.image.points), "")
        return raw_of(self.image, name) if name and implemented(self.image, name) else 0

    def name(self, number: int, inner: str) -> str:
        """Return a point of a set."""
        return f"{self.group}[{number}].{inner}"

    def values(self, number: int) -> Values:
        """Return what a set holds: its writable points that are in use."""
        prefix = self.name(number, "")
        return {
            name.removeprefix(prefix): raw_of(self.image, name)
            for name, point in self.image.points.items()
            if name.startswith(prefix)
            and point.writable
            and implemented(self.image, name)
            and is_active(self.image, point)
        }


async def stored(subject: Subject, model: int) -> Stored:
    """Return a curve model as it is now."""
    return Stored(await subject.image(model), CURVES[model])


async def curve_models(subject: Subject, trial: Trial) -> list[int]:
    """Return the curve models that have a set to adopt; says why the others are left out."""
    found = []
    for model in CURVES:
        if not subject.has(model):
            continue
        curve = await stored(subject, model)
        if not has_points(curve.image, curve.request, curve.result) or curve.count < 2:
            trial.note(f"model {model}: {curve.count} stored sets, none can be adopted")
        else:
            found.append(model)
    if not found:
        trial.skip("it has no curve model (705 to 712) with a set that can be adopted")
    return found


async def active_curve(subject: Subject, trial: Trial) -> None:
    """CRV-1."""
    for model in await curve_models(subject, trial):
        curve = await stored(subject, model)
        flag = curve.name(1, "ReadOnly")
        trial.check(
            curve.image.value(flag) == 1,
            f"{model}.{flag}",
            register=curve.image.address(flag),
            received=str(curve.image.value(flag)),
            allowed="1: set 1 shows what is in force and can only be read",
        )
        values = curve.values(1)
        if not trial.check(
            bool(values),
            f"model {model}: set 1 shows what is in force",
            received=f"{len(values)} points",
            allowed="the values in force",
        ):
            continue
        inner = next(iter(values))
        name = curve.name(1, inner)
        address, point = curve.image.address(name), curve.image.points[name]
        words = [w for w in curve.image.registers[point.offset : point.offset + point.size] if w is not None]
        async with subject.keeping() as journal:
            await journal.keep(address, point.size, str(point))
            reply = await subject.unit.try_write(address, words, WRITE_SEVERAL)
            trial.check(
                reply.code in _REFUSALS,
                f"{point}: a write to the set that can only be read, of what it holds",
                register=address,
                received=str(reply),
                allowed="an exception, 2 to 4",
            )


async def write_set(journal: Journal, curve: Stored, number: int, values: Mapping[str, int]) -> None:
    """Write a stored set, unscaled; points it holds already are left alone."""
    held = curve.values(number)
    for inner, value in values.items():
        name = curve.name(number, inner)
        if held.get(inner) != value and name in curve.image.points:
            await journal.put_raw(curve.image, name, value)


async def adopt(subject: Subject, curve: Stored, number: int) -> int:
    """Ask for a set to be adopted; returns the result, 0 when none came in time.

    Raises
    ------
    TargetError
        The request was refused.
    """
    address = curve.image.address(curve.request)
    await subject.unit.write(address, [number], f"{curve.model}.{curve.request}")
    end_s = subject.now() + RESULT_S
    while True:
        result = await subject.raw(curve.image, curve.result)
        if result != 0 or subject.now() > end_s:
            return result
        await subject.sleep(0.2)


def changes(values: Values, curve: Stored) -> list[Values]:
    """Return sets that differ from one by a step, the least harmful first, and last the set itself."""
    first = [name for name in values if name.rpartition(".")[2] in _TIMES]
    names = [*first, *(name for name in values if name.startswith("Pt[") and name not in first)]
    found = []
    for name in names:
        point = curve.image.points[curve.name(2, name)]
        low, high = range_of(point.type, point.size)
        found += [{**values, name: n} for n in (values[name] + 1, values[name] - 1) if low <= n <= high]
    return [*found[:_CHANGES_MAX], values]


@asynccontextmanager
async def changed_set(subject: Subject, curve: Stored) -> AsyncIterator[Journal]:
    """Put back what is in force, then the stored sets, whatever the block has done."""
    before = curve.values(1)
    async with subject.keeping() as journal:
        try:
            yield journal
        finally:
            now = await stored(subject, curve.model)
            if now.values(1) != before:
                await _give_back(subject, journal, now, before)


async def _give_back(subject: Subject, journal: Journal, curve: Stored, before: Values) -> None:
    """Adopt again what was in force."""
    said = ""
    try:
        await write_set(journal, curve, 2, before)
        await adopt(subject, curve, 2)
    except TargetError as error:
        said = str(error)
    now = (await stored(subject, curve.model)).values(1)
    for inner, value in before.items():
        if now.get(inner) != value:
            name = curve.name(1, inner)
            subject.left.append(
                f"{curve.model}.{name} (register {curve.image.address(name)}): {now.get(inner)} is in force, "
                f"{value} before, unscaled; {said or 'adopting it again did not bring it back'}"
            )


async def put_in_force(
    subject: Subject, journal: Journal, curve: Stored, before: Values
) -> tuple[int, Values]:
    """Adopt a changed set; returns the last result and the set that was tried last."""
    result, wanted = FAILED, before
    for wanted in changes(before, curve):
        try:
            await write_set(journal, await stored(subject, curve.model), 2, wanted)
        except TargetError as error:
            if not error.refused:
                raise
            continue
        result = await adopt(subject, curve, 2)
        if result == COMPLETED:
            break
    return result, wanted


async def apply_curve(subject: Subject, trial: Trial) -> None:
    """CRV-2."""
    for model in await curve_models(subject, trial):
        subject.progress(f"CRV-2: model {model}")
        curve = await stored(subject, model)
        before = curve.values(1)
        async with changed_set(subject, curve) as journal:
            result, wanted = await put_in_force(subject, journal, curve, before)
            trial.check(
                result == COMPLETED,
                f"{model}.{curve.result} after {curve.request} 2",
                register=curve.image.address(curve.result),
                received=str(result),
                allowed=f"{COMPLETED} (COMPLETED) within {RESULT_S:g} s",
            )
            if wanted == before:
                trial.note(f"model {model}: it takes no changed set; an unchanged one was adopted")
            now = (await stored(subject, model)).values(1)
            wrong = [inner for inner in wanted if now.get(inner) != wanted[inner]]
            inner = (wrong or list(wanted))[0]
            trial.check(
                not wrong,
                f"{model}.{curve.name(1, inner)}: set 1 shows what was adopted",
                register=curve.image.address(curve.name(1, inner)),
                received=f"{now.get(inner)}, unscaled",
                allowed=f"{wanted[inner]}",
            )


def bad_sets(values: Values) -> list[Values]:
    """Return sets that no device can adopt: a curve that goes back, or one without its points."""
    places = [name for name in values if name.rpartition(".")[2] in ("V", "Hz", "W") and "Pt[" in name]
    curves: dict[str, list[str]] = {}
    for name in places:
        curves.setdefault(name.partition("Pt[")[0], []).append(name)
    found = []
    for names in curves.values():
        places_of = [name for name in names if name.rpartition(".")[2] in ("V", "Hz")] or names
        first, last = places_of[0], places_of[-1]
        if values[first] != values[last]:
            found.append({**values, first: values[last], last: values[first]})
    found += [{**values, name: 0} for name in values if name.endswith("ActPt") and values[name]]
    return found


async def apply_error(subject: Subject, trial: Trial) -> None:
    """CRV-3."""
    for model in await curve_models(subject, trial):
        subject.progress(f"CRV-3: model {model}")
        curve = await stored(subject, model)
        before = curve.values(1)
        async with changed_set(subject, curve) as journal:
            await _bad_number(subject, trial, curve)
            for bad in bad_sets(before)[:1]:
                try:
                    await write_set(journal, await stored(subject, model), 2, bad)
                except TargetError as error:
                    if not error.refused:
                        raise
                    trial.note(
                        f"model {model}: it refuses a bad curve when it is written", received=str(error)
                    )
                    continue
                result = await _result(subject, curve)
                trial.check(
                    result != str(COMPLETED) and result != "0",
                    f"{model}.{curve.result} after a curve that goes back was asked for",
                    register=curve.image.address(curve.result),
                    received=result,
                    allowed=f"{FAILED} (FAILED), or an exception",
                )
            now = (await stored(subject, model)).values(1)
            moved = [inner for inner in before if now.get(inner) != before[inner]]
            inner = (moved or list(before) or ["ActPt"])[0]
            trial.check(
                not moved,
                f"{model}.{curve.name(1, inner)}: what is in force stays",
                register=curve.image.address(curve.name(1, inner)),
                received=f"{now.get(inner)}, unscaled",
                allowed=f"{before.get(inner)}",
            )


async def _result(subject: Subject, curve: Stored) -> str:
    try:
        return str(await adopt(subject, curve, 2))
    except TargetError as error:
        if not error.code:
            raise
        return f"exception {error.code}"


async def _bad_number(subject: Subject, trial: Trial, curve: Stored) -> None:
    """Ask for a set that is not there."""
    number = curve.count + 1
    try:
        result = str(await adopt(subject, curve, number))
    except TargetError as error:
        if not error.code:
            raise
        result = f"exception {error.code}"
    trial.check(
        result.startswith("exception") or result == str(FAILED),
        f"{curve.model}.{curve.request} {number}, a set that is not there",
        register=curve.image.address(curve.request),
        received=result,
        allowed=f"an exception, or {FAILED} (FAILED) in {curve.result}",
    )
