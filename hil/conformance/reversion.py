"""REV-1 to REV-3: revert timers, judged by the registers and by the power.

Rules of this file:

- A timer that counts down proves nothing, and neither does an enable point that says 0: where a function
  moves power, the power must go back.
- The timer and what it goes back to are written before the value, the enable point last.

References
----------
SunSpec DER Information Model Specification V1.2.1, quoted second-hand: "The timer SHALL be reinitialized with
the reversion timeout value, and the timer SHALL be restarted."
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ..modbus_link import TargetError
from .commands import Command, Plan, commands
from .curves import COMPLETED, CURVES, Stored, changed_set, put_in_force, stored, write_set
from .definitions import implemented, raw_of
from .results import Trial
from .subject import Journal, Subject, has_points

SLACK_S: Final = 1.5
"""After a timer's end its function may go on for this long [s]: whole seconds, and a poll."""

RETURN_S: Final = 6.0
"""After a timer's end the power must be back within this [s]; assumed, ramps take their time."""

POLL_S: Final = 0.25
THIRD: Final = 1.0 / 3.0


@dataclass(frozen=True, slots=True)
class Running:
    """A command that was started.

    Attributes
    ----------
    command : Command
    began_s : float
        When it was brought into force [s of the device].
    rest : float
        What is measured without it.
    """

    command: Command
    began_s: float
    rest: float

    @property
    def gap(self) -> float:
        """How far the command moves what is measured."""
        command = self.command
        return abs(command.expected) if command.measure == "var" else command.expected - self.rest

    def share(self, value: float) -> float:
        """Return how much of the way a measured value has gone: 0 without the command, 1 with it [1]."""
        moved = value - self.rest
        return (abs(moved) if self.command.measure == "var" else moved) / self.gap

    @property
    def shows(self) -> bool:
        """Whether something can be measured."""
        return bool(self.command.measure) and not math.isnan(self.rest) and abs(self.gap) > 5.0


async def measured(subject: Subject, command: Command) -> float:
    """Return what shows a command's effect, as it is now."""
    if not command.measure:
        return math.nan
    return await (subject.reactive_var() if command.measure == "var" else subject.power_w())


async def start(
    subject: Subject,
    journal: Journal,
    command: Command,
    timer_s: int,
    enable_back: int = 0,
) -> Running:
    """Bring a command into force: timer first, then what it goes back to, then the value, then the switch."""
    image = await subject.image(command.model)
    if command.carrier is not None:
        await start(subject, journal, command.carrier, 0)
        await subject.sleep(1.0)
    rest = math.nan
    if command.measure:
        rest = await subject.steady(subject.reactive_var if command.measure == "var" else subject.power_w)
    if implemented(image, command.timer):
        await journal.put(image, {command.timer: timer_s})
    if command.enable_back:
        await journal.put(image, {command.enable_back: enable_back})
    await journal.put(image, command.back)
    await journal.put(image, command.values)
    await journal.put(image, {command.enable: command.on})
    return Running(command, subject.now(), rest)


async def _until(subject: Subject, at_s: float) -> None:
    await subject.sleep(max(0.0, at_s - subject.now()))


async def share_within(subject: Subject, running: Running, low: float, high: float, end_s: float) -> float:
    """Return the share of the way once it lies between two bounds, or what it is at `end_s`."""
    while True:
        share = running.share(await measured(subject, running.command))
        if low <= share <= high or subject.now() > end_s:
            return share
        await subject.sleep(POLL_S)


async def _timed(subject: Subject, trial: Trial) -> tuple[Plan, list[Command]]:
    """Return the commands that have a timer; says why there are none."""
    plan, found = await commands(subject)
    timed = []
    for command in found:
        image = await subject.image(command.model)
        if implemented(image, command.timer):
            timed.append(command)
        else:
            trial.note(f"{command}: no timer, {command.model}.{command.timer} is not implemented")
    if not timed and not any(subject.has(model) for model in CURVES):
        trial.skip("it has no function with a revert timer")
    return plan, timed


async def _enabled(subject: Subject, command: Command) -> int:
    return await subject.raw(await subject.image(command.model), command.enable)


async def _left(subject: Subject, command: Command) -> int:
    image = await subject.image(command.model)
    return raw_of(image, command.left) if command.left and implemented(image, command.left) else 0


async def _start_checked(
    subject: Subject, trial: Trial, journal: Journal, command: Command, enable_back: int = 0
) -> Running | None:
    """Start a command; a refusal because of another function's state is noted."""
    try:
        return await start(subject, journal, command, subject.timer_s, enable_back)
    except TargetError as error:
        if error.code not in (2, 3, 4):
            raise
        trial.note(f"{command}: refused as things stand now", received=str(error))
        return None


async def _follows(subject: Subject, trial: Trial, running: Running) -> bool:
    """Judge that the power goes where the command says, before its timer runs out."""
    command = running.command
    if not running.shows:
        reason = command.reason or "nothing that can be measured is implemented, or it does not move enough"
        trial.note(f"{command}: its effect is not measurable here: {reason}")
        return False
    share = await share_within(
        subject, running, 2 * THIRD, 4 * THIRD, running.began_s + subject.timer_s - 1.0
    )
    return trial.check(
        2 * THIRD <= share <= 4 * THIRD,
        f"{command}: the power follows the command",
        sent=f"{command.expected:.0f} {command.measure}",
        received=_measured_text(running, share),
        allowed=f"{command.expected:.0f} {command.measure} within the timer's {subject.timer_s} s",
    )


def _measured_text(running: Running, share: float) -> str:
    value = share * running.gap + (0.0 if running.command.measure == "var" else running.rest)
    return f"{value:.0f} {running.command.measure} (without the command {running.rest:.0f})"


async def expires(subject: Subject, trial: Trial) -> None:
    """REV-1."""
    _, found = await _timed(subject, trial)
    for command in found:
        subject.progress(f"REV-1: {command}, a timer of {subject.timer_s} s")
        await _one_expires(subject, trial, command)
    for model in CURVES:
        if subject.has(model):
            await _curve_expires(subject, trial, model)


async def _one_expires(subject: Subject, trial: Trial, command: Command) -> None:
    async with subject.keeping() as journal:
        running = await _start_checked(subject, trial, journal, command)
        if running is None:
            return
        first = await _left(subject, command)
        followed = await _follows(subject, trial, running)
        await _until(subject, running.began_s + subject.timer_s - 1.2)
        second = await _left(subject, command)
        image = await subject.image(command.model)
        if command.left:
            trial.check(
                0 < second < first <= subject.timer_s,
                f"{command.model}.{command.left}: what is left counts down",
                register=image.address(command.left),
                received=f"{first}, later {second}",
                allowed=f"from {subject.timer_s} downwards, and more than 0 before the end",
            )
        await _until(subject, running.began_s + subject.timer_s + SLACK_S)
        image = await subject.image(command.model)
        enabled = raw_of(image, command.enable)
        trial.check(
            enabled == 0,
            f"{command.model}.{command.enable} after the timer",
            register=image.address(command.enable),
            received=str(enabled),
            allowed="0, as the timer was told" if command.enable_back else "0: the limit is over",
        )
        for value, back in zip(_backed(command), command.back, strict=True):
            held, wanted = raw_of(image, value), raw_of(image, back)
            trial.check(
                held == wanted,
                f"{command.model}.{value} after the timer",
                register=image.address(value),
                received=f"{held}, unscaled",
                allowed=f"{wanted}, what {command.model}.{back} says",
            )
        if followed:
            await _returned(subject, trial, running)


def _backed(command: Command) -> list[str]:
    """Return the value points that have one saying what they go back to, in that one's order."""
    return [back.replace("Rvrt", "") for back in command.back]


async def _returned(subject: Subject, trial: Trial, running: Running) -> None:
    """Judge that the power has gone back."""
    share = await share_within(subject, running, -THIRD, THIRD, subject.now() + RETURN_S)
    trial.check(
        -THIRD <= share <= THIRD,
        f"{running.command}: the power goes back when the timer has run out",
        received=_measured_text(running, share),
        allowed=f"about {running.rest:.0f} {running.command.measure}: a timer that counts proves nothing",
    )


async def restarts(subject: Subject, trial: Trial) -> None:
    """REV-2."""
    _, found = await _timed(subject, trial)
    for command in found:
        subject.progress(f"REV-2: {command}, a timer of {subject.timer_s} s, written again")
        async with subject.keeping() as journal:
            running = await _start_checked(subject, trial, journal, command)
            if running is None:
                continue
            await _until(subject, running.began_s + 0.6 * subject.timer_s)
            image = await subject.image(command.model)
            await journal.put(image, {command.timer: subject.timer_s})
            again_s = subject.now()
            await _until(subject, max(running.began_s + subject.timer_s + 0.5, again_s))
            enabled = await _enabled(subject, command)
            late = subject.now() > again_s + subject.timer_s - 0.5
            if late:
                trial.note(f"{command}: the answers came too late to tell the old end from the new one")
            else:
                trial.check(
                    enabled == command.on,
                    f"{command.model}.{command.enable} after the first end of a timer that was written again",
                    register=image.address(command.enable),
                    received=str(enabled),
                    allowed=f"{command.on}: the timer has started anew",
                )
            await _until(subject, again_s + subject.timer_s + SLACK_S)
            enabled = await _enabled(subject, command)
            trial.check(
                enabled == 0,
                f"{command.model}.{command.enable} after the second end",
                register=image.address(command.enable),
                received=str(enabled),
                allowed="0",
            )


async def cancelled(subject: Subject, trial: Trial) -> None:
    """REV-3."""
    _, found = await _timed(subject, trial)
    for command in found:
        subject.progress(f"REV-3: {command}, switched off before its timer of {subject.timer_s} s ends")
        async with subject.keeping() as journal:
            # The timer is told to switch the function on again: one that still runs shows itself.
            running = await _start_checked(subject, trial, journal, command, command.on)
            if running is None:
                continue
            image = await subject.image(command.model)
            written = {name: raw_of(image, name) for name in _backed(command)}
            await _until(subject, running.began_s + 0.3 * subject.timer_s)
            await journal.put_raw(image, command.enable, 0)
            await _until(subject, running.began_s + subject.timer_s + SLACK_S)
            image = await subject.image(command.model)
            enabled = raw_of(image, command.enable)
            trial.check(
                enabled == 0,
                f"{command.model}.{command.enable} after the end of a timer whose function was switched off",
                register=image.address(command.enable),
                received=str(enabled),
                allowed="0: switching off has ended the timer",
            )
            for name, number in written.items():
                held = raw_of(image, name)
                trial.check(
                    held == number,
                    f"{command.model}.{name} after that",
                    register=image.address(name),
                    received=f"{held}, unscaled",
                    allowed=f"{number}, as it was written",
                )
            if running.shows:
                await _returned(subject, trial, running)


async def _curve_expires(subject: Subject, trial: Trial, model: int) -> None:
    """Adopt a set with an end, and see another one take its place."""
    curve = await stored(subject, model)
    back = f"Rvrt{curve.group}"
    if not has_points(curve.image, "RvrtTms", back) or curve.count < 3:
        trial.note(f"model {model}: no reversion of curves, or no third set to go back to")
        return
    subject.progress(f"REV-1: model {model}, a timer of {subject.timer_s} s")
    before = curve.values(1)
    async with changed_set(subject, curve) as journal:
        try:
            await write_set(journal, curve, 3, before)
            await journal.put(curve.image, {back: 3, "RvrtTms": subject.timer_s, "Ena": 1})
        except TargetError as error:
            if not error.code:
                raise
            trial.note(f"model {model}: refused as things stand now", received=str(error))
            return
        result, wanted = await put_in_force(subject, journal, curve, before)
        began_s = subject.now()
        if result != COMPLETED or wanted == before:
            trial.note(f"model {model}: no changed set was adopted, so no return can be seen")
            return
        await _curve_returns(subject, trial, curve, before, wanted, began_s)


async def _curve_returns(
    subject: Subject,
    trial: Trial,
    curve: Stored,
    before: dict[str, int],
    wanted: dict[str, int],
    began_s: float,
) -> None:
    inner = next(name for name in wanted if wanted[name] != before[name])
    name = curve.name(1, inner)
    first = raw_of((await stored(subject, curve.model)).image, "RvrtRem")
    await _until(subject, began_s + subject.timer_s - 1.2)
    now = await stored(subject, curve.model)
    second = raw_of(now.image, "RvrtRem")
    trial.check(
        0 < second < first <= subject.timer_s and now.values(1).get(inner) == wanted[inner],
        f"{curve.model}.RvrtRem: what is left counts down while the set is in force",
        register=curve.image.address("RvrtRem"),
        received=f"{first}, later {second}, set 1 holds {now.values(1).get(inner)} at {inner}",
        allowed=f"from {subject.timer_s} downwards, and {wanted[inner]}",
    )
    await _until(subject, began_s + subject.timer_s + SLACK_S)
    held = (await stored(subject, curve.model)).values(1).get(inner)
    trial.check(
        held == before[inner],
        f"{curve.model}.{name} after the timer",
        register=curve.image.address(name),
        received=f"{held}, unscaled",
        allowed=f"{before[inner]}, as set 3 has it",
    )
