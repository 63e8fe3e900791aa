"""What can be commanded on a device with an end, and what each command should do to the power.

Duty: tables and arithmetic: which points make up a function with a revert timer, which values are small
enough to try, and what is to be measured then.  Nothing is written here.

Rule of this file: a step of power is at most a tenth of the rating.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ..discovery import ModelImage
from .subject import STEP_FRAC, Subject, has_points

Measure = Literal["W", "var", ""]

FACTOR: Final = 0.9
"""Power factor that is tried."""

WATTS, VARS = 1, 4
"""704.WSetMod, 704.VarSetMod."""

SOC_LOW, SOC_HIGH = 15.0, 90.0
"""Below the one no discharge is tried, above the other no charge [%]."""

_SOC: Final = ("713.SoC", "124.ChaState", "802.SoC")


@dataclass(frozen=True, slots=True)
class Command:
    """A function of a device that can be switched on with a value and ends by a timer.

    Attributes
    ----------
    model : int
    name : str
    values : mapping of str to float
        Points that say what is commanded, in their units.
    enable : str
        Point that brings it into force, and in `on` the value that does.
    on : int
    back : mapping of str to float
        What the values become when the timer runs out; empty where the model has no such points.
    enable_back : str
        Point for what the enable point becomes then; empty for none: then it is 0.
    timer, left : str
        Points of the timer's length and of what is left of it; `left` empty for none.
    measure : str
        What shows its effect; empty where nothing does.
    expected : float
        That measurement while the command is in force.
    carrier : Command or None
        Command that must be in force, so that this one shows.
    reason : str
        Why nothing can be measured.
    """

    model: int
    name: str
    values: Mapping[str, float]
    enable: str
    on: int
    back: Mapping[str, float]
    enable_back: str
    timer: str
    left: str
    measure: Measure = ""
    expected: float = math.nan
    carrier: Command | None = None
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.model}.{self.name}"

    @property
    def points(self) -> tuple[str, ...]:
        """Points the device must implement."""
        back = (self.enable_back,) if self.enable_back else ()
        return (self.enable, *self.values, *self.back, *back)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a device does by itself, and the step to try.

    Attributes
    ----------
    base_w, target_w : float
        Power without a command, and to command [W].
    step_w : float
        Part of the rating that is stepped [W].
    rating_w : float
    var_max : float
        Reactive rating [var]; NaN for none.
    """

    base_w: float
    target_w: float
    step_w: float
    rating_w: float
    var_max: float


async def make_plan(subject: Subject, *, charge: bool = False) -> Plan:
    """Measure what the device does by itself, and choose a small step away from it.

    Parameters
    ----------
    subject : Subject
    charge : bool
        Step towards charging, if the state of charge leaves room.
    """
    base_w = await subject.steady(subject.power_w)
    can = await subject.ratings()
    ratings_w = [w for w in (can.power_w_discharge_max, can.power_w_charge_max) if w > 0.0]
    rating_w = min(ratings_w, default=math.nan)
    soc = await subject.rating(*_SOC)
    step_w = STEP_FRAC * rating_w
    charge = (charge and not soc > SOC_HIGH) or soc < SOC_LOW
    away_w = base_w if not math.isnan(base_w) else 0.0
    target_w = min(away_w, 0.0) - step_w if charge else max(away_w, 0.0) + step_w
    if target_w > 0.95 * rating_w:  # it discharges at its rating already: a step back
        target_w = away_w - step_w
    var_max = await subject.rating("702.VarMaxInj", "702.VarMaxInjRtg", "120.VArRtgQ1")
    return Plan(base_w, target_w, step_w, rating_w, var_max)


def set_point(plan: Plan, image: ModelImage, base_w: float) -> Command | None:
    """Return 704.WSet, or WSetPct where watts are not implemented; `base_w` is what its percent are of."""
    if has_points(image, "WSet"):
        values: dict[str, float] = {"WSetMod": WATTS, "WSet": round(plan.target_w)}
        back: dict[str, float] = {"WSetRvrt": round(plan.target_w / 2)}
    elif has_points(image, "WSetPct") and base_w > 0.0:
        values = {"WSetMod": 0, "WSetPct": 100.0 * plan.target_w / base_w}
        back = {"WSetPctRvrt": 50.0 * plan.target_w / base_w}
    else:
        return None
    back = back if has_points(image, *back) else {}
    return Command(
        704,
        "WSet",
        values,
        "WSetEna",
        1,
        back,
        "WSetEnaRvrt" if has_points(image, "WSetEnaRvrt") else "",
        "WSetRvrtTms",
        "WSetRvrtRem" if has_points(image, "WSetRvrtRem") else "",
        "W",
        plan.target_w,
    )


def window(plan: Plan, image: ModelImage) -> Command:
    """Return the storage window of model 124, as the command that forces a power."""
    base_w = image.number("WChaMax")
    percent = -100.0 * abs(plan.target_w) / base_w if base_w > 0.0 else math.nan
    outward, inward = (100.0, percent) if plan.target_w > 0.0 else (percent, 100.0)
    return Command(
        124,
        "StorCtl_Mod",
        {"OutWRte": outward, "InWRte": inward},
        "StorCtl_Mod",
        1 if plan.target_w > 0.0 else 2,
        {},
        "",
        "InOutWRte_RvrtTms",
        "",
        "W",
        plan.target_w,
    )


def _limits(plan: Plan, images: Mapping[int, ModelImage], carrier: Command, base_w: float) -> list[Command]:
    """Return the active power limits; they show below what the carrier commands."""
    to_w = plan.target_w / 2.0
    shows = to_w > 0.0 and base_w > 0.0
    measure: Measure = "W" if shows else ""
    percent = 100.0 * to_w / base_w if shows else 50.0
    reason = "" if shows else "a limit shows only while the device gives power"
    found = []
    if 704 in images:
        found.append(
            Command(
                704,
                "WMaxLimPct",
                {"WMaxLimPct": percent},
                "WMaxLimPctEna",
                1,
                {"WMaxLimPctRvrt": 100.0},
                "WMaxLimPctEnaRvrt",
                "WMaxLimPctRvrtTms",
                "WMaxLimPctRvrtRem",
                measure,
                to_w,
                carrier,
                reason,
            )
        )
    if 123 in images:
        found.append(
            Command(
                123,
                "WMaxLimPct",
                {"WMaxLimPct": percent},
                "WMaxLim_Ena",
                1,
                {},
                "",
                "WMaxLimPct_RvrtTms",
                "",
                measure,
                to_w,
                carrier,
                reason,
            )
        )
    return found


def _reactive(plan: Plan, images: Mapping[int, ModelImage], carrier: Command | None) -> list[Command]:
    """Return the reactive functions."""
    found = []
    small_var = STEP_FRAC * plan.var_max
    if 704 in images:
        if not math.isnan(small_var):
            found.append(
                Command(
                    704,
                    "VarSet",
                    {"VarSetMod": VARS, "VarSet": round(small_var)},
                    "VarSetEna",
                    1,
                    {"VarSetRvrt": 0.0},
                    "VarSetEnaRvrt",
                    "VarSetRvrtTms",
                    "VarSetRvrtRem",
                    "var",
                    small_var,
                )
            )
        for side, sign in (("PFWInj", 1.0), ("PFWAbs", -1.0)):
            shows = carrier is not None and sign * plan.target_w > 0.0
            var = abs(plan.target_w) * math.tan(math.acos(FACTOR))
            found.append(
                Command(
                    704,
                    side,
                    {f"{side}.PF": FACTOR, f"{side}.Ext": 0},
                    f"{side}Ena",
                    1,
                    {f"{side}Rvrt.PF": 1.0},
                    f"{side}EnaRvrt",
                    f"{side}RvrtTms",
                    f"{side}RvrtRem",
                    "var" if shows else "",
                    var,
                    carrier if shows else None,
                    "" if shows else "power would have to flow the other way",
                )
            )
    if 123 in images:
        for name, value in (("OutPFSet", FACTOR), ("VArWMaxPct", 100.0 * STEP_FRAC)):
            stem = "OutPFSet" if name == "OutPFSet" else "VArPct"
            reason = "the sign of its reactive power is not fixed by the model"
            timer = f"{stem}_RvrtTms"
            enable = f"{stem}_Ena"
            found.append(Command(123, name, {name: value}, enable, 1, {}, "", timer, "", reason=reason))
    return found


async def commands(subject: Subject, *, charge: bool = False) -> tuple[Plan, list[Command]]:
    """Return every command that the device implements, and the plan they follow; see `make_plan`."""
    plan = await make_plan(subject, charge=charge)
    images = {model: await subject.image(model) for model in (704, 123, 124) if subject.has(model)}
    base_w = await subject.rating("702.WMax", "702.WMaxRtg", "121.WMax", "120.WRtg")
    main = set_point(plan, images[704], base_w) if 704 in images else None
    old = window(plan, images[124]) if 124 in images else None
    if old is not None and not has_points(images[124], *old.points):
        old = None
    carrier = main or old
    found = [command for command in (main, old) if command is not None]
    if carrier is not None:
        found += _limits(plan, images, carrier, base_w)
    found += _reactive(plan, images, carrier)
    return plan, [c for c in found if has_points(images[c.model], *c.points)]
