"""What stands between a write and the settings of a device: the hook at which the bench bends commands.

Duty: one way in for every write of `fields.CONTROL`, whether it came as a call (`Plant.command`) or as
registers (`DeviceImage`), so that a fault of the device acts alike in both.

Rules of this file: without an intake nothing is looked at; no clock, no chance, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from .fields import LANES
from .grid_settings import default_settings

if TYPE_CHECKING:
    from .plant import Plant

Floats = NDArray[np.float64]

DEVICE_FAILURE = 4
"""Modbus exception that answers a write which is not admitted."""


class Intake(Protocol):
    """Decides what becomes of writes."""

    def admits(self, device: int) -> bool:
        """Whether a write that has just come is taken; asked once for each."""

    def take(self, device: int, before: Floats, asked: Floats, written: frozenset[str]) -> Floats:
        """Return the settings that a write leaves.

        Parameters
        ----------
        device : int
        before, asked : Floats, shape (fields,)
            In the order of `fields.CONTROL`: as they are, and as the write would have them.
        written : frozenset of str
            What was written: any of set, limit, window, permit, reserve, contactor.
        """


def put(plant: Plant, device: int, asked: Floats, written: frozenset[str]) -> None:
    """Let a device take settings that were written and admitted."""
    tile, lane = divmod(device, LANES)
    row = plant.control[tile, :, lane]
    if plant.intake is not None:
        asked = plant.intake.take(device, row.copy(), asked, written)
    if not np.array_equal(row, asked):
        row[:] = asked
        plant.touch()


def through_intake(plant: Plant, before: Floats, written: Mapping[str, NDArray[np.bool_]]) -> None:
    """Take back what was just put into `control`, and let it in through the intake, device by device.

    Parameters
    ----------
    plant : Plant
        With an intake.
    before : Floats
        `Plant.control` without the writes.
    written : mapping of str to mask, shape (n,)
        See `Intake.take`.
    """
    for device in range(plant.n):
        what = frozenset(name for name, rows in written.items() if rows[device])
        if not what:
            continue
        tile, lane = divmod(device, LANES)
        asked = plant.control[tile, :, lane].copy()
        plant.control[tile, :, lane] = before[tile, :, lane]
        if plant.intake is not None and plant.intake.admits(device):
            put(plant, device, asked, what)


def forget(plant: Plant, device: int) -> None:
    """Put every setting of a device back to the factory's, as a restart does that has lost them."""
    plant.unschedule(device)
    tile, lane = divmod(device, LANES)
    plant.control[tile, :, lane] = plant.factory_control[tile, :, lane]
    plant.set_settings(device, default_settings(plant.profiles[device]))
    for heard in plant.forgetters:
        heard(device)
