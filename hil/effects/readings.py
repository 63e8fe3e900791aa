"""What a device reports of itself, as data: faults of telemetry at the model level.

Rules of this file: it bends what is reported and never the truth.  Several faults of one device act in the
order of `ACTS`: what the battery's management gets wrong, then what encoding gets wrong, then the time stamp.
A frozen reading comes last: it repeats what was reported before, whatever had bent it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from ridethrough.emulator.layout import quantise_soc

from ..faults import Event
from .shapes import FLIPS, OF, Slots, bends, power_of_ten, shift_of, skew_ns

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Values = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Shot:
    """The readings of one poll on their way through the faults, each of shape (n,).

    Attributes
    ----------
    now_ns : int
        [ns].
    values : dict of str to Floats
        To be changed in place.
    measured_ns : Times
        Time stamps, to be changed in place [ns].
    before : dict of str to Floats
        What sound devices reported at the poll before; this poll's at the first one.
    reported : dict of str to Floats
        What was reported at the poll before, faults included; this poll's at the first one.
    reported_ns : Times
        Its time stamps [ns].
    """

    now_ns: int
    values: Values
    measured_ns: Times
    before: Values
    reported: Values
    reported_ns: Times


Act = Callable[[Shot], None]
Make = Callable[[Event, int, Sequence[str]], Act]
"""From an event, the seed and the names of its targets to what it does at each poll."""


def _bending(event: Event, seed: int, names: Sequence[str]) -> Act:
    """A fault that bends single values."""
    rows, each = list(event.targets), bends(event, seed, names)

    def act(shot: Shot) -> None:
        for name, bend in each.items():
            shot.values[name][rows] = bend(shot.now_ns, shot.values[name][rows])

    return act


def _spike(event: Event, seed: int, names: Sequence[str]) -> Act:
    """Spikes, or power read from a 32-bit register whose halves are of two polls."""
    if event.params["form"] == "spike":
        return _bending(event, seed, names)
    rows, slots = list(event.targets), Slots(event, seed, names)

    def act(shot: Shot) -> None:
        hit = slots.signs(shot.now_ns) != 0.0
        for name in OF["both"]:
            high, low = np.rint(shot.before[name][rows]), np.rint(shot.values[name][rows])
            torn = np.floor(high / 65536.0) * 65536.0 + (low - np.floor(low / 65536.0) * 65536.0)
            shot.values[name][rows] = np.where(hit & ~np.isnan(torn), torn, shot.values[name][rows])

    return act


def _bms_frozen(event: Event, seed: int, names: Sequence[str]) -> Act:
    """The state of charge stays what it was when the fault began."""
    rows = list(event.targets)
    held: list[Floats] = []

    def act(shot: Shot) -> None:
        if not held:
            held.append(shot.values["soc_frac"][rows])
        shot.values["soc_frac"][rows] = held[0]

    return act


def _unit_flip(event: Event, seed: int, names: Sequence[str]) -> Act:
    """A value in another unit than before."""
    rows, power = list(event.targets), FLIPS[str(event.params["factor"])]

    def act(shot: Shot) -> None:
        for name in OF[str(event.params["of"])]:
            shot.values[name][rows] = power_of_ten(shot.values[name][rows], power)

    return act


def _scale_moved(event: Event, seed: int, names: Sequence[str]) -> Act:
    """At the first poll after a change, the value still has the old scale factor's form."""
    rows, before = list(event.targets), 0

    def act(shot: Shot) -> None:
        nonlocal before
        shift = shift_of(event, shot.now_ns)
        if event.params["pair"] == "torn":
            for name in OF[str(event.params["of"])]:
                shot.values[name][rows] = power_of_ten(shot.values[name][rows], shift - before)
        before = shift

    return act


def _frozen(event: Event, seed: int, names: Sequence[str]) -> Act:
    """Readings repeat the last ones; so does their time stamp, unless it lies."""
    rows = list(event.targets)

    def act(shot: Shot) -> None:
        for name, values in shot.values.items():
            values[rows] = shot.reported[name][rows]
        if event.params["stamp"] == "frozen":
            shot.measured_ns[rows] = shot.reported_ns[rows]

    return act


def _clock_skew(event: Event, seed: int, names: Sequence[str]) -> Act:
    """The time stamps are those of another clock; no stamp is before the run."""
    rows = list(event.targets)

    def act(shot: Shot) -> None:
        stamped_ns = shot.measured_ns[rows] + skew_ns(event, shot.now_ns)
        shot.measured_ns[rows] = np.maximum(stamped_ns, 0)

    return act


ACTS: Final[Mapping[str, Make]] = {
    "telemetry.bms-frozen": _bms_frozen,
    "telemetry.soc-knee": _bending,
    "telemetry.soc-drift": _bending,
    "telemetry.stuck-full": _bending,
    "telemetry.sign-flip": _bending,
    "telemetry.spike": _spike,
    "telemetry.unit-flip": _unit_flip,
    "telemetry.scale-factor-moved": _scale_moved,
    "telemetry.not-a-number": _bending,
    "telemetry.clock-skew": _clock_skew,
    "telemetry.frozen": _frozen,
}
"""What each fault of telemetry does, in the order in which they act."""

_ORDER: Final = {fault: k for k, fault in enumerate(ACTS)}


class ReadingFaults:
    """Faults in what the devices of one run report.

    Parameters
    ----------
    seed : int
    names : sequence of str, length n
        Of the devices: one stream of chance each.
    soc_step : Floats, shape (n,), optional
        Resolution of each reported state of charge; without it a bent one is not rounded [1].
    """

    def __init__(self, seed: int, names: Sequence[str], soc_step: Floats | None = None) -> None:
        self._seed, self._names, self._soc_step = seed, tuple(names), soc_step
        self._acts: dict[int, Act] = {}
        self._sound: Values = {}
        self._reported: Values = {}
        self._reported_ns: Times = np.full(len(self._names), -1, dtype=np.int64)

    def take(
        self, now_ns: int, events: Sequence[Event], values: Values, measured_ns: Times
    ) -> tuple[Values, Times]:
        """Return the readings of one poll as the devices report them.

        Parameters
        ----------
        now_ns : int
            [ns].
        events : sequence of Event
            In force now; those of other places are passed over.
        values : dict of str to Floats, shape (n,)
            soc_frac, power_w, import_w and grid_good as a sound device would report them.
        measured_ns : Times, shape (n,)
            Their time stamps [ns].

        Returns
        -------
        values, measured_ns
            New arrays where anything differs.
        """
        ours = sorted((each for each in events if each.fault in ACTS), key=lambda each: _ORDER[each.fault])
        sound = values
        if ours:
            values, measured_ns = self._bent(now_ns, ours, values, measured_ns)
        else:
            self._acts.clear()
        self._sound, self._reported, self._reported_ns = sound, values, measured_ns
        return values, measured_ns

    def _bent(
        self, now_ns: int, events: Sequence[Event], values: Values, measured_ns: Times
    ) -> tuple[Values, Times]:
        before = self._acts
        self._acts = {}
        shot = Shot(
            now_ns,
            {name: each.copy() for name, each in values.items()},
            measured_ns.copy(),
            self._sound or values,
            self._reported or values,
            self._reported_ns if self._reported else measured_ns,
        )
        for event in events:
            act = before.get(event.number)
            if act is None:
                act = ACTS[event.fault](event, self._seed, [self._names[d] for d in event.targets])
            self._acts[event.number] = act
            act(shot)
        if self._soc_step is not None:
            soc_frac = shot.values["soc_frac"]
            shown = quantise_soc(soc_frac, self._soc_step)
            # What no register could hold at its own scale comes from a moved one, and is exact.
            bent = (soc_frac != values["soc_frac"]) & ~np.isnan(shown)
            shot.values["soc_frac"] = np.where(bent, shown, soc_frac)
        return shot.values, shot.measured_ns
