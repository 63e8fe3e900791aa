"""Steps every device of a Plant in NumPy: the oracle of the compiled kernel, bit for bit.

The equations are those of the package `model`, run as they are written.  Read `model` to learn what a step
does, docs/model.md to learn why.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .fields import CONTROL, INPUT, PARAM, SLOW_TICKS, STATE, TICKS_PER_S
from .model.ops import Columns, Floats
from .model.step import quiet, slow, step

GROUPS = (PARAM, CONTROL, INPUT, STATE)


def load(arrays: tuple[Floats, Floats, Floats, Floats], rows: NDArray[np.intp]) -> tuple[Columns, ...]:
    """Return copies of the columns of some devices: parameters, settings, inputs, state."""
    return tuple(
        Columns({name: array[:, k, :].reshape(-1)[rows] for k, name in enumerate(names)})
        for array, names in zip(arrays, GROUPS, strict=True)
    )


def store(array: Floats, names: tuple[str, ...], rows: NDArray[np.intp], columns: Columns) -> None:
    """Put the columns of some devices back."""
    lanes = array.shape[2]
    for k, name in enumerate(names):
        array[rows // lanes, k, rows % lanes] = getattr(columns, name)


def advance(
    param: Floats,
    control: Floats,
    inputs: Floats,
    state: Floats,
    n: int,
    ticks: int,
    *,
    coarse_ticks: int = TICKS_PER_S,
) -> None:
    """Move the first `n` devices on by `ticks` ticks of 20 ms with inputs held, as `_kernel.advance` does.

    Each device makes a coarse step where nothing in it needs a finer one, else as many of one tick; what is
    left over is made in steps of one tick.
    """
    if n < 0 or ticks < 0 or coarse_ticks < 1:
        raise ValueError(
            f"n and ticks must not be negative and coarse_ticks at least 1, got {n}, {ticks}, {coarse_ticks}"
        )
    arrays = (param, control, inputs, state)
    slow_ticks = max(SLOW_TICKS, coarse_ticks)

    def run(rows: NDArray[np.intp], times: int, coarse: bool) -> None:
        if rows.size == 0:
            return
        p, c, u, s = load(arrays, rows)
        for _ in range(times):
            _slow_where_due(p, c, u, s, slow_ticks)
            step(p, c, u, s, float(coarse_ticks) if coarse else 1.0, coarse)
        store(control, CONTROL, rows, c)
        store(state, STATE, rows, s)

    rows = np.arange(n)
    steps, rest = divmod(ticks, coarse_ticks)
    for _ in range(steps):
        if n == 0:
            return
        p, c, u, s = load(arrays, rows)
        _slow_where_due(p, c, u, s, slow_ticks)
        # The slow stage may change what decides; it is made again, from the same state, by run.
        calm = quiet(p, c, u, s, float(coarse_ticks))
        run(rows[calm], 1, True)
        run(rows[~calm], coarse_ticks, False)
    run(rows, rest, False)


def _slow_where_due(p: Columns, c: Columns, u: Columns, s: Columns, slow_ticks: int) -> None:
    """Run the slow stage for the devices at a multiple of its period."""
    due = np.mod(s.elapsed_ticks, slow_ticks) == 0.0
    if not due.any():
        return
    moved = Columns(dict(vars(s)))
    slow(p, c, u, moved, float(slow_ticks))
    for name in STATE:
        setattr(s, name, np.where(due, getattr(moved, name), getattr(s, name)))
