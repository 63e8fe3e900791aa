"""What somebody else left behind in a device: commands still in force, timers still set.

Rule of this file: it only names what it finds.  A command without an end may have outlived its controller; a
timer of another controller ends ours, if ours does not set its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .discovery import ModelImage

MODELS: Final = (123, 124, 704)
"""Models that hold commands."""

_COMMANDS: Final[Mapping[int, Mapping[str, tuple[str, ...]]]] = {
    704: {"WSetEna": ("WSet", "WSetPct"), "WMaxLimPctEna": ("WMaxLimPct",)},
    123: {"WMaxLim_Ena": ("WMaxLimPct",)},
    124: {"StorCtl_Mod": ("OutWRte", "InWRte")},
}
"""Model, the point that puts a command into force, and what it commands."""

_CONNECTED: Final = "Conn"
"""Of model 123: 0 disconnects the device."""


def leftovers(images: Mapping[int, ModelImage]) -> list[str]:
    """Return what is in force in a device that we have not commanded yet.

    Parameters
    ----------
    images : mapping of int to ModelImage
        Its models by id, as they were just read.
    """
    found = []
    for model, commands in _COMMANDS.items():
        if model not in images:
            continue
        image = images[model]
        for switch, values in commands.items():
            if image.value(switch):
                told = ", ".join(f"{name} {_said(image, name)}" for name in values if name in image.points)
                found.append(
                    f"{_place(image, switch)} is {image.value(switch)} before any command of ours: a command "
                    f"from before is still in force ({told})"
                )
        for name in image.points:
            value = image.value(name)
            if name.endswith(("RvrtTms", "RvrtRem")) and value:
                found.append(
                    f"{_place(image, name)} is {value} s before any command of ours: a timer that another "
                    "controller left behind"
                )
    if 123 in images and images[123].value(_CONNECTED) == 0:
        found.append(f"{_place(images[123], _CONNECTED)} is 0: somebody has disconnected the device")
    return found


def _said(image: ModelImage, name: str) -> str:
    value = image.value(name)
    return "not told" if value is None else f"{value} {image.points[name].units}".strip()


def _place(image: ModelImage, name: str) -> str:
    return f"{image.entry.id}.{name} (register {image.address(name)})"
