"""What the feeder and the meters went through: observations, no broken promises.

Rules of this file: it reads the record and nothing else.  Nobody was promised these limits, and nothing
enforces them; they are told so that an overload is seen.  Definitions: docs/judge.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .findings import power_text, stretches
from .header import clock_text
from .promise import NS_PER_S, Home
from .record import Record

Columns = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]
Times = NDArray[np.int64]

MUCH_FRAC: Final = 1.2
"""Loading from which an overload is counted apart."""

EXCESS_TOLERANCE_W: Final = 1.0


@dataclass(frozen=True, slots=True)
class Peak:
    """A greatest value and when it was."""

    value: float
    t_ns: int

    def to_dict(self, name: str, start_of_day_ns: int) -> dict[str, Any]:
        """Return it for JSON, under a name with its unit."""
        return {name: self.value, "at": clock_text(self.t_ns, start_of_day_ns), "at_ns": self.t_ns}


@dataclass(frozen=True, slots=True)
class FeederLoad:
    """What the transformer and the cables of the feeder carried.

    Attributes
    ----------
    name : str
    rating_va : float
    load : Peak
        Greatest loading of the transformer, of its rating [1].
    heat : Peak
        Greatest heat; a lasting full load leads to 1 [1].
    cable : Peak
        Greatest current over ampacity of any cable [1].
    overload_s, much_s : float
        Time above the rating, and above `MUCH_FRAC` of it [s].
    overload_first_ns : int or None
        When it was first seen above its rating [ns].
    """

    name: str
    rating_va: float
    load: Peak
    heat: Peak
    cable: Peak
    overload_s: float
    much_s: float
    overload_first_ns: int | None

    def to_dict(self, start_of_day_ns: int) -> dict[str, Any]:
        """Return it for JSON."""
        first_ns = self.overload_first_ns
        return {
            "name": self.name,
            "rating_va": self.rating_va,
            "transformer_max": self.load.to_dict("frac", start_of_day_ns),
            "heat_max": self.heat.to_dict("frac", start_of_day_ns),
            "cable_max": self.cable.to_dict("frac", start_of_day_ns),
            "over_100_percent_s": self.overload_s,
            "over_120_percent_s": self.much_s,
            "over_100_percent_first_at": None if first_ns is None else clock_text(first_ns, start_of_day_ns),
        }

    def sentence(self, start_of_day_ns: int) -> str:
        """Return it for people."""
        rating = f"transformer of {self.rating_va / 1000.0:g} kVA"
        at = clock_text(self.load.t_ns, start_of_day_ns)
        text = f"{self.name}: {rating} at most {self.load.value:.0%} loaded, at {at}"
        if self.overload_s > 0.0:
            text += f"; above 100 % for {_time_text(self.overload_s)}"
            text += f", above 120 % for {_time_text(self.much_s)}"
            text += f"; heat at most {self.heat.value:.2f} of what a lasting full load leads to"
        if self.cable.value > 1.0:
            when = clock_text(self.cable.t_ns, start_of_day_ns)
            text += f"; a cable at {self.cable.value:.0%} of its ampacity at {when}"
        return text


@dataclass(frozen=True, slots=True)
class Excess:
    """A home beyond its connection agreement.

    Attributes
    ----------
    home, kind : str
        Its name; ``import`` or ``export``.
    limit_w : float
    excess : Peak
        Greatest mean power of a row beyond the limit [W].
    lasted_s : float
        Of all rows beyond it [s].
    first_ns : int
        End of the first such row [ns].
    count : int
        Unbroken stretches of them.
    """

    home: str
    kind: str
    limit_w: float
    excess: Peak
    lasted_s: float
    first_ns: int
    count: int

    def to_dict(self, start_of_day_ns: int) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "home": self.home,
            "kind": self.kind,
            "limit_w": self.limit_w,
            "excess_max": self.excess.to_dict("power_w", start_of_day_ns),
            "lasted_s": self.lasted_s,
            "times": self.count,
            "first_at": clock_text(self.first_ns, start_of_day_ns),
        }

    def sentence(self, start_of_day_ns: int) -> str:
        """Return it for people."""
        at = clock_text(self.excess.t_ns, start_of_day_ns)
        return (
            f"{self.home}: {self.kind} limit of {power_text(self.limit_w)} exceeded by up to "
            f"{power_text(self.excess.value)}, at {at}; for {_time_text(self.lasted_s)} in all"
        )


@dataclass(frozen=True, slots=True)
class Observations:
    """Everything of this kind in one record."""

    feeder: FeederLoad | None
    excesses: tuple[Excess, ...]

    def to_dict(self, start_of_day_ns: int) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "feeder": None if self.feeder is None else self.feeder.to_dict(start_of_day_ns),
            "connection_agreements": [excess.to_dict(start_of_day_ns) for excess in self.excesses],
        }

    def sentences(self, start_of_day_ns: int) -> list[str]:
        """Return it for people, one sentence each; the greatest excesses first."""
        found = [] if self.feeder is None else [self.feeder.sentence(start_of_day_ns)]
        ordered = sorted(self.excesses, key=lambda excess: -excess.excess.value)
        return found + [excess.sentence(start_of_day_ns) for excess in ordered]


def feeder_load(record: Record) -> FeederLoad | None:
    """Return what the feeder carried; None without a feeder, or without one row of it."""
    facts, rows = record.header.get("feeder"), record.feeder
    if facts is None or len(rows["t_ns"]) == 0:
        return None
    t_ns = rows["t_ns"]
    over = np.flatnonzero(rows["overload_s"] > 0.0)
    # A row stands for the time since the one before.
    length_s = np.diff(t_ns, prepend=0) / NS_PER_S
    overload_s = np.diff(rows["overload_s"], prepend=0.0)
    much_s = np.where(rows["transformer_frac"] > MUCH_FRAC, np.minimum(length_s, overload_s), 0.0)
    return FeederLoad(
        name=facts["name"],
        rating_va=float(facts["rating_va"]),
        load=_peak(rows["transformer_frac"], t_ns),
        heat=_peak(rows["heat_frac"], t_ns),
        cable=_peak(rows["branch_frac_max"], t_ns),
        overload_s=float(rows["overload_s"][-1]),
        much_s=float(much_s.sum()),
        overload_first_ns=int(t_ns[over[0]]) if len(over) else None,
    )


def _peak(values: Floats, t_ns: Times) -> Peak:
    k = int(np.argmax(values))
    return Peak(float(values[k]), int(t_ns[k]))


def excesses(home: Home, columns: Columns) -> tuple[Excess, ...]:
    """Return where one home's rows of truth lie beyond its connection agreement."""
    import_w = columns["import_w"].astype(np.float64)
    found = []
    for kind, flow_w, limit_w in (
        ("import", import_w, home.import_w_max),
        ("export", -import_w, home.export_w_max),
    ):
        beyond_w = flow_w - limit_w
        bad = beyond_w > EXCESS_TOLERANCE_W
        if bad.any():
            t_ns = columns["t_ns"]
            found.append(
                Excess(
                    home=home.name,
                    kind=kind,
                    limit_w=limit_w,
                    excess=_peak(beyond_w, t_ns),
                    lasted_s=float(columns["dt_ns"][bad].sum()) / NS_PER_S,
                    first_ns=int(t_ns[bad][0]),
                    count=len(stretches(bad)),
                )
            )
    return tuple(found)


def _time_text(time_s: float) -> str:
    return f"{time_s:.0f} s" if time_s < 120.0 else f"{time_s / 60.0:.0f} min"
