"""Who a device is, and whether it is still the same one after a new connection.

Rule of this file: manufacturer, model and serial number make a device.  Another firmware is noted; another
device is an error until somebody discovers it on purpose, because commands meant for one battery must not
reach another one that got its address.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import sunspec_points
from .modbus_link import ILLEGAL_ADDRESS, ILLEGAL_VALUE, Read, TargetError, Unit

COMMON = 1
"""Model that says who a device is."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who made a device, from model 1; empty where it does not say.

    Attributes
    ----------
    manufacturer, model, serial, version : str
    """

    manufacturer: str
    model: str
    serial: str
    version: str

    def is_same(self, other: Identity) -> bool:
        """Whether both are one device, whatever its firmware."""
        return self.device == other.device

    @property
    def device(self) -> tuple[str, str, str]:
        """What does not change with the firmware."""
        return self.manufacturer, self.model, self.serial

    def __str__(self) -> str:
        return f"serial {self.serial!r} ({self.manufacturer} {self.model})"


def identity_of(length: int, registers: sunspec_points.Registers) -> Identity:
    """Return what the registers of a model 1 of some length say."""
    texts = dict.fromkeys(("Mn", "Md", "SN", "Vr"), "")
    for name, point in sunspec_points.fixed_points(COMMON, length).items():
        if name in texts:
            texts[name] = str(sunspec_points.value_of(point, registers) or "")
    return Identity(*texts.values())


def stranger(unit: Unit, found: Identity, known: Identity) -> TargetError:
    """Return the error that another device answers."""
    return unit.fault(
        f"another device answers here: {found} instead of {known}; it is neither read nor commanded until it "
        "is discovered anew",
        refused=True,
    )


class IdentityGuard:
    """Reads model 1 again on a new connection and compares.

    Parameters
    ----------
    unit : Unit
    address, length : int
        Of its model 1.
    known : Identity
        What it said at discovery.
    """

    def __init__(self, unit: Unit, address: int, length: int, known: Identity) -> None:
        self._unit = unit
        self._address = address
        self._length = length
        self._known = known

    async def __call__(self, read: Read) -> None:
        """Let the device show who it is.

        Raises
        ------
        TargetError
            No answer, no model 1 where it was, or another device.
        """
        count = self._length + 2
        registers: list[int | None] = [None] * count
        for first, last in self._unit.runs.get((self._address, count), ((0, count),)):
            try:
                registers[first:last] = await read(self._address + first, last - first, "who it is (model 1)")
            except TargetError as error:
                if error.code not in (ILLEGAL_ADDRESS, ILLEGAL_VALUE):
                    raise
                raise self._moved(f"exception {error.code}") from None
        if registers[0] not in (COMMON, None) or registers[1] not in (self._length, None):
            raise self._moved(f"model {registers[0]} with length {registers[1]} found")
        found = identity_of(self._length, registers)
        if not found.is_same(self._known):
            raise stranger(self._unit, found, self._known)
        if found.version != self._known.version:
            self._unit.note(
                f"firmware {found.version}",
                f"its firmware has changed from {self._known.version!r} to {found.version!r}",
            )

    def _moved(self, found: str) -> TargetError:
        return self._unit.fault(
            f"model 1 is gone (register {self._address}): {found}; after the new connection it cannot be "
            "told which device this is",
            refused=True,
            changed=True,
        )
