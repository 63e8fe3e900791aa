"""What readings cannot be right together: a rating, a meter's sign, a command and the power that came of it.

Rule of this file: it names, with what was measured, and changes nothing.  Where two explanations are left, it
names both.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Final

from .control import DeviceCapabilities
from .modbus_link import Unit
from .readings import Reading

_BEYOND_RATING: Final = 3.0
"""A measured power of more than so many ratings is wrong."""

_STEP_W: Final = 200.0
"""A change of power between two polls that the meter must show [W]."""

_SAME_W: Final = 20.0
"""Two powers that differ by less are the same, as are two that differ by less than a tenth [W]."""

_FOLLOWS_S: Final = 15.0
"""A command must show in the power after this long, and must have ended this long after its time [s]."""

_POLLS: Final = 2
"""Polls that must agree before an effect is missed."""

_STEPS: Final = 2
"""Steps that must agree before the sign of a meter is doubted."""

_MIRRORED: Final = 3
"""Different powers that the meter must have mirrored before they are doubted."""


@dataclass(slots=True)
class _Commanded:
    """A command that the device holds.

    Attributes
    ----------
    power_w, before_w : float
        As it is held, and what was measured before it [W].
    began_s, ends_s : float
        By the loop's clock [s].
    astray, stayed : int
        Polls in a row that missed its effect, and its end.
    """

    power_w: float
    before_w: float
    began_s: float
    ends_s: float
    astray: int = 0
    stayed: int = 0


def _alike(a_w: float, b_w: float) -> bool:
    return abs(a_w - b_w) <= max(_SAME_W, 0.1 * abs(a_w))


class Doubts:
    """What one device's readings have told so far.

    Parameters
    ----------
    unit : Unit
        Where doubts are noted.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._last: Reading | None = None
        self._commanded: _Commanded | None = None
        self._with = self._against = 0  # steps that the meter made in the same, and in the other direction
        self._mirrored: list[float] = []
        self._differed = False  # meter and device have told powers that no mirror explains

    def _now_s(self) -> float:
        """Return the time by the loop's clock; a device that runs faster than real time leaves it behind."""
        return asyncio.get_running_loop().time()

    def commanded(self, power_w: float, validity_s: float) -> None:
        """Know that the device holds a command from now on [W, s]."""
        now_s = self._now_s()
        last = self._commanded
        if last is not None and now_s < last.ends_s and _alike(power_w, last.power_w):
            last.ends_s = now_s + validity_s
            return
        before_w = math.nan if self._last is None else self._last.power_w
        self._commanded = _Commanded(power_w, before_w, now_s, now_s + validity_s)

    def released(self) -> None:
        """Know that no command is in force, or none that is known."""
        self._commanded = None

    def look(self, reading: Reading, can: DeviceCapabilities) -> None:
        """Look at the next reading of a device with these ratings; NaN says nothing."""
        self._look_at_command(reading, self._now_s())
        self._look_at_rating(reading, can)
        self._look_at_steps(reading)
        self._look_at_mirror(reading)
        self._last = reading

    def _look_at_rating(self, reading: Reading, can: DeviceCapabilities) -> None:
        rating_w = can.power_w_discharge_max if reading.power_w > 0.0 else can.power_w_charge_max
        if abs(reading.power_w) > _BEYOND_RATING * rating_w > 0.0:
            self._unit.note(
                "rating",
                f"it measures {reading.power_w:g} W and is rated {rating_w:g} W: the scale factor of one "
                "of the two is wrong",
            )

    def _look_at_command(self, reading: Reading, now_s: float) -> None:
        """Compare the power with the last command: while it is in force, and after its time."""
        command = self._commanded
        if command is None or math.isnan(reading.power_w) or reading.grid_good == 0.0:
            return
        follows = _alike(command.power_w, reading.power_w)
        if command.began_s + _FOLLOWS_S <= now_s < command.ends_s:
            command.astray = 0 if follows else command.astray + 1
            if command.astray >= _POLLS:
                self._unit.note(
                    "astray",
                    f"it holds a command of {command.power_w:g} W and gives {reading.power_w:g} W, "
                    f"{now_s - command.began_s:.0f} s after it: the command acts later or not at all, its "
                    "timer has ended it early, or something else rules (a limit, a reserve, an empty or full "
                    "battery, a local control)",
                )
        elif now_s >= command.ends_s + _FOLLOWS_S and not _alike(command.power_w, command.before_w):
            command.stayed = command.stayed + 1 if follows else 0
            if command.stayed >= _POLLS:
                self._unit.note(
                    "stayed",
                    f"a command of {command.power_w:g} W ended {now_s - command.ends_s:.0f} s ago by its own "
                    f"timer, and it still gives {reading.power_w:g} W (before the command "
                    f"{command.before_w:g} W): its timer does not end a command, or not while it is polled",
                )

    def _look_at_steps(self, reading: Reading) -> None:
        """Compare the changes since the last poll: what a device gives more, its home takes less."""
        if self._last is None:
            return
        step_w = reading.power_w - self._last.power_w
        meter_w = reading.import_w - self._last.import_w
        if not abs(step_w) >= _STEP_W:
            return
        self._with += _alike(step_w, meter_w)
        self._against += _alike(step_w, -meter_w)
        if self._with >= _STEPS and not self._against:
            self._unit.note(
                "meter sign",
                f"the home's meter follows the device's power in the same direction (by {meter_w:g} W when "
                f"that changed by {step_w:g} W): it counts export as positive, against SunSpec's "
                "definition of the point, or one of the two powers has the wrong sign",
            )

    def _look_at_mirror(self, reading: Reading) -> None:
        """Compare power and meter: the same but for the sign, poll for poll, in a home that uses power."""
        if not abs(reading.power_w) >= _SAME_W:
            return
        if not abs(reading.power_w + reading.import_w) <= _SAME_W:
            self._differed = self._differed or not math.isnan(reading.import_w)
            return
        if all(abs(reading.power_w - known_w) > _STEP_W for known_w in self._mirrored):
            self._mirrored.append(reading.power_w)
        if len(self._mirrored) >= _MIRRORED and not self._differed:
            self._unit.note(
                "mirror",
                f"the power it measures ({reading.power_w:g} W) is always that of the home's meter with the "
                "other sign: the home uses nothing, or it is the power of the home's connection, not of "
                "the device",
            )
