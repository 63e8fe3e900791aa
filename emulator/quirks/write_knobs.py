"""The knobs of write quirks: the section `writes` of a quirk file.

Rules of this file: schema only; `writes`, `timers` and `effects` say what comes of it.  A point is named by
model and name, such as ``704.WSet``; ``123.*`` is every point of a model that a client may write.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .effects import Delay, Ends, Override
from .requests import ILLEGAL_ADDRESS, Pattern, Patterns, Rule
from .schedule import Seconds, Strict
from .timers import FunctionName, TimerKnobs

Probability = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]


class Reject(Rule):
    """Points whose writing is refused, although the map says they can be written."""

    code: Annotated[int, Field(ge=1, le=11)] = ILLEGAL_ADDRESS


class Discard(Rule):
    """Points whose writing is acknowledged and comes to nothing, each time with this probability [1]."""

    probability: Probability = 1.0


class Corrupt(Rule):
    """Points that are written as 0, each time with this probability [1]."""

    probability: Probability = 1.0


class WriteOnly(Rule):
    """Points that are in force as written and do not say so when they are read."""

    reads: Literal["zero", "not-implemented"] = "zero"


class Quantise(Rule):
    """Points that take only some values.

    Attributes
    ----------
    step : float
        They take whole multiples of this, rounded toward 0.
    low, high : float
        Least and greatest value they take.
    unit : str
        Of these numbers: ``point``, the point's own (per cent, W), or ``watts``, for per cent of a power too.
    outside : str
        What becomes of a value beyond the limits: ``clip`` it, or ``ignore`` the write.
    shows : str
        The value that is ``held``, or the value that was ``asked`` for.
    """

    step: Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)] | None = None
    low: Number | None = None
    high: Number | None = None
    unit: Literal["point", "watts"] = "point"
    outside: Literal["clip", "ignore"] = "clip"
    shows: Literal["held", "asked"] = "held"

    @model_validator(mode="after")
    def _some(self) -> Quantise:
        if self.step is None and self.low is None and self.high is None:
            raise ValueError("at least one of step, low and high")
        if self.low is not None and self.high is not None and self.high < self.low:
            raise ValueError("high at least low")
        return self


class Order(Strict):
    """A function whose points must be written in one order.

    Attributes
    ----------
    rule : str
        ``enable-first``: a value written while the function is off is lost.  ``value-first``: a value written
        while it is on is kept, and acts when the function is enabled again.
    """

    function: FunctionName
    rule: Literal["enable-first", "value-first"]


class Reset(Rule):
    """Points that go back to what they were at the start whenever `by` is written."""

    by: Pattern


class Preset(Strict):
    """A value that somebody else has left in the device, in the point's own unit."""

    point: Pattern
    value: Number


class Locked(Strict):
    """Writing is switched off on the device: until somebody switches it on, or until a time [s]."""

    code: Literal[1, 2, 4] = 1
    until_s: Seconds | None = None
    points: Patterns | None = None
    """What is locked; everything, if not given."""


class Flash(Strict):
    """Cells that wear out: after so many writes the points take no more, exception 4."""

    writes_max: Annotated[int, Field(ge=0, le=100_000_000)]
    points: Patterns | None = None
    """What is kept in them; everything, if not given."""


class Hang(Strict):
    """A device that stops answering when it is written to faster than `gap_s`."""

    gap_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
    hang_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class WriteKnobs(Strict):
    """What is wrong with writes: the section `writes` of a quirk file.

    Attributes
    ----------
    refuse_functions : tuple of int
        Function codes for writing that the device does not serve.
    store : tuple of str
        Points that are kept and read back, and do nothing.
    invert : tuple of str
        Points whose sign is the wrong way round, writing and reading alike.
    reserve_charge_w : float
        Below the device-side reserve it charges from the grid with this, whatever is commanded [W].
    reserve_off_grid : bool
        The device-side reserve also ends discharging in an island: the home goes dark there.  The plant does
        this by opening the battery's contactors until the grid is back, which registers show as such; PV does
        not restart it.
    """

    refuse_functions: tuple[Literal[6, 16], ...] = ()
    reject: tuple[Reject, ...] = ()
    locked: Locked | None = None
    flash: Flash | None = None
    hang: Hang | None = None
    corrupt: tuple[Corrupt, ...] = ()
    discard: tuple[Discard, ...] = ()
    order: tuple[Order, ...] = ()
    quantise: tuple[Quantise, ...] = ()
    invert: tuple[Pattern, ...] = ()
    store: tuple[Pattern, ...] = ()
    write_only: tuple[WriteOnly, ...] = ()
    resets: tuple[Reset, ...] = ()
    presets: tuple[Preset, ...] = ()
    timers: tuple[TimerKnobs, ...] = ()
    delay: Delay | None = None
    overrides: tuple[Override, ...] = ()
    ends: Ends | None = None
    reserve_charge_w: Annotated[float, Field(gt=0, le=1e8, allow_inf_nan=False)] | None = None
    reserve_off_grid: bool = False
