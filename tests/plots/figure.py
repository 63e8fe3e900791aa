"""What a figure of the documents shows: lines of numbers, and the same as text.

Rules of this file: numbers only, no drawing.  Tests compare the text: six digits, a row per point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.plant import Plant

Floats = NDArray[np.float64]
Make = Callable[..., Plant]
"""Plant, with the stepping function chosen."""
Style = Literal["line", "steps", "dots"]

HEADER = "panel,line,x,y"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel."""

    label: str
    x: Floats
    y: Floats
    style: Style = "line"


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over one axis."""

    y_label: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure; its panels share the x axis, unless they are `apart`."""

    title: str
    x_label: str
    panels: tuple[Panel, ...]
    apart: bool = False

    def text(self) -> str:
        """Return every point as a row of CSV."""
        rows = [HEADER]
        for number, panel in enumerate(self.panels, 1):
            for line in panel.lines:
                rows += [
                    f"{number},{line.label},{shown(x)},{shown(y)}"
                    for x, y in zip(line.x, line.y, strict=True)
                ]
        return "\n".join(rows) + "\n"


def shown(value: float) -> str:
    """Return a number as text; what a lag leaves of nothing is nothing."""
    return "0" if abs(value) < 1e-12 else f"{value:.6g}"


def digest(text: str) -> str:
    """Return what a drawing carries of the numbers it was made from."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read(text: str) -> dict[tuple[int, str], tuple[Floats, Floats]]:
    """Return x and y of each line, by panel and label."""
    points: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for row in text.splitlines()[1:]:
        panel, rest = row.split(",", 1)
        label, x, y = rest.rsplit(",", 2)
        points.setdefault((int(panel), label), []).append((float(x), float(y)))
    return {key: (np.array(found)[:, 0], np.array(found)[:, 1]) for key, found in points.items()}


def line(label: str, x: ArrayLike, y: ArrayLike, style: Style = "line") -> Line:
    """Return a line without the points that lie on the straight way between their neighbours."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if style == "dots" or len(x) < 3 or not np.ptp(x):
        return Line(label, x, y, style)
    if style == "steps":
        keep = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    else:
        # Twice the area of the triangle a point makes with its neighbours; also where x stands still.
        area = (y[1:-1] - y[:-2]) * (x[2:] - x[:-2]) - (y[2:] - y[:-2]) * (x[1:-1] - x[:-2])
        keep = np.abs(area) > 1e-7 * np.ptp(x) * np.ptp(y) / len(x)
    kept = np.concatenate(([True], keep, [True]))
    return Line(label, x[kept], y[kept], style)


def lines(labels: Sequence[str], x: Floats, rows: Floats, style: Style = "line") -> tuple[Line, ...]:
    """Return a line for each column of `rows`, shape (k, n)."""
    return tuple(line(label, x, rows[:, d], style) for d, label in enumerate(labels))


Event = Callable[[Plant], None]


def follow(
    plant: Plant,
    fields: Sequence[str],
    *,
    until_s: float,
    every_s: float,
    events: Mapping[float, Event] | None = None,
) -> tuple[Floats, dict[str, Floats]]:
    """Run a plant and note fields of its state.

    Returns
    -------
    t_s : Floats, shape (k,)
        From 0 on [s].
    noted : dict of str to Floats, shape (k, n)
        Field by field; the row at 0 is the state before the first step.
    """
    ticks = round(every_s * TICKS_PER_S)
    due = {round(at_s / every_s): event for at_s, event in (events or {}).items()}
    t_s, noted = [0.0], {name: [plant.states(name)] for name in fields}
    for k in range(round(until_s / every_s)):
        if k in due:
            due[k](plant)
        plant.advance(ticks)
        t_s.append((k + 1) * ticks / TICKS_PER_S)
        for name in fields:
            noted[name].append(plant.states(name))
    return np.array(t_s), {name: np.array(rows) for name, rows in noted.items()}


def run(plant: Plant, seconds: float) -> None:
    """Let time pass."""
    plant.advance(round(seconds * TICKS_PER_S))


def command(plant: Plant, power_w: ArrayLike) -> None:
    """Give every device a set-point without end [W]."""
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", power_w)
