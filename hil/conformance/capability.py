"""Capability discovery: what a device really does with each control point, measured at its power.

Duty: implemented, readable, accepts a write, keeps it, has an effect, reverts, after which delay, with which
sign, percent of what, in which steps.  A certificate does not tell these, and neither does a model that is
there: devices acknowledge and discard, store without effect, count timers down and go on.

Rules of this file:

- An effect is measured at the power, never at the register.  What cannot be measured says why.
- Steps are at most a tenth of the rating, with a revert timer as a safety net, and are put back.
- What would disconnect or stop the device is written with what it holds already.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from ..discovery import ModelImage
from ..modbus_link import TargetError
from ..sunspec_points import scale_of, scaled, words_of
from .commands import Command, Plan, commands, set_point
from .definitions import implemented, raw_of
from .reversion import RETURN_S, SLACK_S, THIRD, Running, measured, share_within, start
from .subject import Journal, Subject
from .wire import WRITE_SEVERAL
from .writing import UNMOVED, alternatives, read_back

YES, NO, UNKNOWN = "yes", "no", "not measurable here"

EFFECT_S: Final = 12.0
"""Longest wait for an effect [s]; slower devices (minutes, over a mesh) show none here."""

NET_S: Final = 60
"""Revert timer under every step, in case this program dies [s]."""

MOVED: Final = 0.15
"""Part of the asked step from which the power has moved at all [1]."""

BASE_ROOM: Final = 0.05
"""A percent base is recognised within this part [1]."""

BASES: Final = ("702.WMax", "702.WChaRteMax", "702.WDisChaRteMax", "124.WChaMax", "121.WMax", "120.WRtg")

STEPS: Final = (1, 2, 5, 10, 20)
"""Register steps above a set-point that are tried, to see in which steps the power moves."""

BESIDE: Final[dict[str, str]] = {
    "703.ES": "it would disconnect the device",
    "123.Conn": "it would disconnect the device",
    "715.OpCtl": "it would stop the device",
    "715.ControllerHb": "the model defines no action on it",
    "124.MinRsvPct": "a reserve shows only when the charge comes down to it",
    "802.SoCRsvMin": "a reserve shows only when the charge comes down to it",
    "802.SocRsvMax": "a reserve shows only when the charge comes up to it",
    "124.ChaGriSet": "it shows only while the grid charges the battery",
}
"""Control points whose effect is not measured, and why."""


@dataclass(frozen=True, slots=True)
class Capability:
    """What became of one control point.

    Attributes
    ----------
    point : str
    register : int or None
        None where the device has no such model.
    implemented, readable, accepts, keeps : str
        yes or no; empty where it was not tried.
    effect, reverts : str
        yes, no, or "not measurable here: " and why.
    delay_s : float or None
        From the answer to the write until half of the way is gone [s].
    sign : str
        What a positive value does.
    percent_of : str
        What its percent are of.
    step : str
        Smallest step that was seen at the power.
    """

    point: str
    register: int | None
    implemented: str = NO
    readable: str = ""
    accepts: str = ""
    keeps: str = ""
    effect: str = ""
    reverts: str = ""
    delay_s: float | None = None
    sign: str = ""
    percent_of: str = ""
    step: str = ""


@dataclass(frozen=True, slots=True)
class CapabilityReport:
    """Every control point of a device; `left` says what could not be put back."""

    target: str
    device: str
    power_w_rest: float | None
    power_w_step: float | None
    points: tuple[Capability, ...]
    left: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 when something was left behind."""
        return int(bool(self.left))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data that JSON can hold."""
        return {**asdict(self), "exit_code": self.exit_code}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


async def discover_capabilities(
    subject: Subject, done: Callable[[Capability], None] = lambda capability: None
) -> CapabilityReport:
    """Try every control point of a device.

    Parameters
    ----------
    subject : Subject
    done : callable
        Called with each point as it is known.

    Raises
    ------
    TargetError
        The device cannot be reached, has no map, or stops answering.
    """
    found: list[Capability] = []
    try:
        who = (await subject.discover()).identity
        plan, tried = await commands(subject)
        tried += await _in_percent(subject, plan, tried)
        tried = await _other_way(subject, tried)
        for command in tried:
            subject.progress(f"{command}: a step of {plan.step_w:.0f} W at most")
            found.append(await _command(subject, command))
            done(found[-1])
        for name, reason in BESIDE.items():
            found.append(await _beside(subject, name, reason))
            done(found[-1])
    finally:
        await subject.close()
    device = f"{who.manufacturer} {who.model}, serial {who.serial}"
    rest, step = _finite(plan.base_w), _finite(plan.step_w)
    return CapabilityReport(str(subject.target), device, rest, step, tuple(found), tuple(subject.left))


async def _in_percent(subject: Subject, plan: Plan, tried: list[Command]) -> list[Command]:
    """Return 704.WSetPct as a command of its own, where the device has watts too."""
    if not any("WSet" in command.values for command in tried):
        return []
    image = await subject.image(704)
    base_w = await subject.rating(*BASES)
    if not implemented(image, "WSetPct") or math.isnan(base_w):
        return []
    in_watts = set_point(plan, image, base_w)
    assert in_watts is not None
    percent = 100.0 * plan.target_w / base_w
    back = {"WSetPctRvrt": percent / 2} if implemented(image, "WSetPctRvrt") else {}
    return [replace(in_watts, name="WSetPct", values={"WSetMod": 0, "WSetPct": percent}, back=back)]


async def _other_way(subject: Subject, tried: list[Command]) -> list[Command]:
    """Return the commands, with those that only charging can show tried while charging."""
    _, charging = await commands(subject, charge=True)
    known = {(command.model, _value_point(command)): command for command in tried}
    for command in charging:
        key = command.model, _value_point(command)
        if key not in known or (command.measure and not known[key].measure):
            known[key] = command
    return list(known.values())


def _value_point(command: Command) -> str:
    """Return the point of a command that says how much."""
    if command.model == 124:
        return "InWRte" if command.expected > 0.0 else "OutWRte"
    return next(name for name in command.values if not name.endswith("Mod"))


async def _accepts(subject: Subject, journal: Journal, image: ModelImage, name: str) -> Capability:
    """Write a point with another value, or with its own where it must not move."""
    point = image.points[name]
    address, number = image.address(name), raw_of(image, name)
    known = Capability(str(point), address, implemented=YES, readable=YES)
    await journal.keep(address, point.size, str(point))
    reply, other = None, number
    for other in (*alternatives(image, point), number):
        reply = await subject.unit.try_write(address, words_of(other, point.size), WRITE_SEVERAL)
        if reply.code != 3:
            break
    if reply is None or reply.code or not reply.pdu:
        return replace(known, accepts=f"{NO}: {reply}", keeps=NO)
    held, _ = await read_back(subject, image, name, other)
    kept = YES if held == other else f"{NO}: wrote {other}, holds {held}"
    if held == other == number and str(point) not in UNMOVED:
        kept = "only what it holds already"
    await subject.unit.try_write(address, words_of(number, point.size), WRITE_SEVERAL)
    return replace(known, accepts=YES, keeps=kept)


async def _beside(subject: Subject, name: str, reason: str) -> Capability:
    """Return what is known of a point whose effect is not measured."""
    model, _, inner = name.partition(".")
    if not subject.has(int(model)):
        return Capability(name, None)
    image = await subject.image(int(model))
    if not implemented(image, inner):
        return Capability(name, image.address(inner) if inner in image.points else None)
    async with subject.keeping() as journal:
        known = await _accepts(subject, journal, image, inner)
    return replace(known, effect=f"{UNKNOWN}: {reason}", reverts=f"{UNKNOWN}: {reason}")


async def _command(subject: Subject, command: Command) -> Capability:
    """Try one command: accepted, kept, effect, sign, base, step, and what its timer does."""
    name = _value_point(command)
    async with subject.keeping() as journal:
        known = await _accepts(subject, journal, await subject.image(command.model), name)
    if not known.accepts.startswith(YES):
        return replace(known, effect=NO, reverts=NO)
    async with subject.keeping() as journal:
        try:
            running = await start(subject, journal, command, NET_S)
        except TargetError as error:
            if not error.code:
                raise
            text = f"{UNKNOWN}: refused as things stand now ({error})"
            return replace(known, effect=text, reverts=text)
        kept = await _kept(subject, command, known.keeps)
        known = replace(known, keeps=kept)
        if not running.shows:
            reason = command.reason or "no power is measured, or it would not move enough"
            return replace(known, effect=f"{UNKNOWN}: {reason}", reverts=f"{UNKNOWN}: {reason}")
        known, share = await _effect(subject, running, known)
        if known.effect.startswith(NO):
            return replace(known, reverts=f"{UNKNOWN}: it has no effect")
        step = await _step(subject, journal, running.command)
        return replace(known, step=step, reverts=await _reverts(subject, journal, running, abs(share)))


async def _kept(subject: Subject, command: Command, before: str) -> str:
    """Tell whether the enable point holds what was written to it."""
    image = await subject.image(command.model)
    held = raw_of(image, command.enable)
    if held == command.on:
        return before
    return f"{NO}: wrote {command.model}.{command.enable} {command.on}, holds {held}"


async def _settled(subject: Subject, running: Running) -> tuple[float, float]:
    """Return how far the power has gone in the end, and when it had gone half of that [s]."""
    seen: list[tuple[float, float]] = []
    while subject.now() < running.began_s + EFFECT_S:
        share = running.share(await measured(subject, running.command))
        seen.append((subject.now() - running.began_s, share))
        last = [one for _, one in seen[-4:]]
        if len(last) == 4 and abs(share) > MOVED and max(last) - min(last) < 0.03:
            break
        await subject.sleep(0.1)
    final = seen[-1][1]
    return final, next(at_s for at_s, share in seen if abs(share) >= abs(final) / 2.0)


async def _effect(subject: Subject, running: Running, known: Capability) -> tuple[Capability, float]:
    """Watch the power until it stands where the command has brought it; returns how far it went, too."""
    command = running.command
    final, delay_s = await _settled(subject, running)
    if abs(final) <= MOVED:
        return replace(
            known, effect=f"{NO}: the power stays at {running.rest:.0f} within {EFFECT_S:g} s"
        ), 0.0
    value = await subject.steady(subject.reactive_var if command.measure == "var" else subject.power_w)
    as_asked = 1.0 - THIRD <= final <= 1.0 + THIRD
    known = replace(
        known,
        effect=YES if as_asked else f"{YES}: {value:.0f} instead of {command.expected:.0f} {command.measure}",
        delay_s=round(delay_s, 2),
        sign=_sign(running, final),
        percent_of=await _percent_of(subject, command, value),
    )
    return known, final


def _sign(running: Running, share: float) -> str:
    command = running.command
    if command.measure == "var" or command.carrier is not None:
        return ""
    if command.model == 124:
        return "as SunSpec has it" if share > 0.0 else "inverted"
    return "positive = discharge" if share > 0.0 else "positive = charge (inverted)"


async def _percent_of(subject: Subject, command: Command, value: float) -> str:
    """Return what the percent of a command are of, as the power that came tells."""
    name = _value_point(command)
    image = await subject.image(command.model)
    if not image.points[name].units.startswith(("Pct", "%")) or command.measure != "W":
        return ""
    base_w = abs(100.0 * value / image.number(name))
    fits = []
    for rating in BASES:
        rated_w = await subject.rating(rating)
        if not math.isnan(rated_w) and abs(base_w - rated_w) <= BASE_ROOM * rated_w:
            fits.append(rating)
    return f"{', '.join(fits)} ({base_w:.0f} W)" if fits else f"{base_w:.0f} W, no rating it tells"


async def _step(subject: Subject, journal: Journal, command: Command) -> str:
    """Return the smallest step of a set-point that moves the power."""
    name = _value_point(command)
    if command.carrier is not None or command.measure != "W" or command.model == 124:
        return ""
    image = await subject.image(command.model)
    point, number = image.points[name], raw_of(image, name)
    resolution = scaled(1, scale_of(point, image.registers) or 0)
    before_w = await subject.steady(subject.power_w)
    for count in STEPS:
        await journal.put_raw(image, name, number + count)
        await subject.sleep(0.6)
        now_w = await subject.steady(subject.power_w)
        if abs(now_w - before_w) >= 0.5:
            await journal.put_raw(image, name, number)
            return f"{count * resolution:g} {point.units or 'W'}" + (" or finer" if count == 1 else "")
    await journal.put_raw(image, name, number)
    return f"above {STEPS[-1] * resolution:g} {point.units or 'W'}"


async def _reverts(subject: Subject, journal: Journal, running: Running, moved: float) -> str:
    """Let the command's timer run out, and see where the power goes; `moved` is the share it had gone."""
    command = running.command
    image = await subject.image(command.model)
    if not implemented(image, command.timer):
        return f"{NO}: it has no timer ({command.model}.{command.timer})"
    await journal.put(image, {command.timer: subject.timer_s})
    await journal.put(image, {command.enable: command.on})
    end_s = subject.now() + subject.timer_s
    await subject.sleep(subject.timer_s + SLACK_S)
    low, high = -THIRD * moved, THIRD * moved
    share = await share_within(subject, running, low, high, end_s + RETURN_S)
    enabled = await subject.raw(await subject.image(command.model), command.enable)
    if low <= share <= high:
        note = "" if enabled == 0 else f", though {command.model}.{command.enable} still says {enabled}"
        return f"{YES}{note}"
    return f"{NO}: the timer of {subject.timer_s} s is over, the power stays; {command.enable} says {enabled}"
