"""Bundled profiles, one device among others, and pysunspec2's view of a register image."""

from __future__ import annotations

import struct
from importlib.resources import files
from itertools import pairwise
from typing import Any

from ridethrough.emulator.fields import CONTROL
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.points import Point
from ridethrough.emulator.profile import DeviceProfile
from ruamel.yaml import YAML
from sunspec2 import device as witness

NAMES = (
    "home-10kwh-4kw",
    "home-11kwh-6kw-legacy",
    "home-13kwh-11kw-ups",
    "home-13kwh-5kw",
    "municipal-500kwh-250kw",
)
FOLDER = files("ridethrough.fixtures") / "devices"
PROFILES = {
    name: DeviceProfile.model_validate(YAML(typ="safe").load((FOLDER / f"{name}.yaml").read_text("utf-8")))
    for name in NAMES
}
LEGACY, UPS, HOME, TOWN = (PROFILES[name] for name in NAMES[1:])

DEVICE = 9
"""Second tile, lane 1: the others hold other numbers, so that a mix-up shows."""

OK, ADDRESS, VALUE = 0, 2, 3
"""Answers to a write: accepted, illegal address, illegal value."""

Shown = dict[tuple[int, str], Any]


def with_face(profile: DeviceProfile, **changes: object) -> DeviceProfile:
    """Return the profile with another SunSpec face."""
    data = profile.model_dump()
    data["face"].update(changes)
    return DeviceProfile.model_validate(data)


def dump(image: DeviceImage) -> bytes:
    """Return the whole map."""
    data = image.read(image.base_address, image.count)
    assert isinstance(data, bytes)
    return data


def decode(image: DeviceImage) -> Shown:
    """Return every point of a unit as pysunspec2 decodes it; None for "not implemented"."""
    data = dump(image)
    shown: Shown = {}
    at = 2
    while (head := struct.unpack_from(">HH", data, 2 * at))[0] != 0xFFFF:
        block = data[2 * at : 2 * (at + 2 + head[1])]
        model = witness.Model(head[0], model_addr=image.base_address + at, model_len=head[1], data=block)
        shown |= {(head[0], name): point.cvalue for name, point in model.points.items()}
        at += 2 + head[1]
    return shown


def near(shown: Any, true: float, step: float) -> bool:
    """Say whether a shown value is a true one, rounded to a step."""
    return shown is not None and abs(shown - true) <= step * 0.5 * (1 + 1e-9) + 1e-9 * abs(true)


class Bench:
    """One device among others, written and read by point name."""

    def __init__(self, profile: DeviceProfile = HOME, soc: float = 0.5) -> None:
        self.plant = Plant([profile] * (DEVICE + 3), soc_frac=soc)
        self.unit = units_of(self.plant, DEVICE)[1]
        self.layout = self.unit.layout

    def registers(self, point: Point, value: float) -> bytes:
        """Return the bytes that show a value; percent are fractions."""
        return round(value * point.factor / point.divisor).to_bytes(2 * point.size, "big", signed=value < 0)

    def write(self, model: int, *points: tuple[str, float]) -> int:
        """Write adjacent points in one request."""
        found = [(self.layout.point(model, name), value) for name, value in points]
        for (before, _), (after, _) in pairwise(found):
            assert after.address == before.address + before.size, f"{after} is not next to {before}"
        data = b"".join(self.registers(point, value) for point, value in found)
        return self.unit.write(found[0][0].address, data)

    def read(self, model: int, name: str) -> float | None:
        """Read one point."""
        point = self.layout.point(model, name)
        data = self.unit.read(point.address, point.size)
        assert isinstance(data, bytes)
        return point.decode(data)

    def dump(self) -> bytes:
        """Return the whole map."""
        return dump(self.unit)

    def control(self) -> dict[str, float]:
        """Return the plant's settings of the device."""
        return {name: float(self.plant.controls(name)[DEVICE]) for name in CONTROL}

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.plant.advance(round(50 * seconds))


# Which settings of the plant a point may change, written down by hand.
SET = frozenset({"set_ena", "set_w", "set_rvrt_ena", "set_rvrt_w", "set_rvrt_ticks"})
LIMIT = frozenset({"limit_ena", "limit_frac", "limit_rvrt_ena", "limit_rvrt_frac", "limit_rvrt_ticks"})
WINDOW = frozenset(
    {"window_in_ena", "window_out_ena", "window_in_frac", "window_out_frac", "window_rvrt_ticks"}
)
PERMIT = frozenset({"permit", "permit_rvrt_ticks"})
RESERVE = frozenset({"reserve_frac"})
NOTHING: frozenset[str] = frozenset()
LIMIT_704 = ("WMaxLimPct", *(f"WMaxLimPct{end}" for end in ("Ena", "Rvrt", "EnaRvrt", "RvrtTms")))
LIMIT_123 = ("WMaxLimPct", "WMaxLim_Ena", *(f"WMaxLimPct_{end}Tms" for end in ("Win", "Rvrt", "Rmp")))
SET_704 = ("WSetEna", "WSetMod", "WSet", "WSetRvrt", "WSetPct", "WSetPctRvrt", "WSetEnaRvrt", "WSetRvrtTms")
RATES_124 = ("StorCtl_Mod", "OutWRte", "InWRte", *(f"InOutWRte_{end}Tms" for end in ("Win", "Rvrt", "Rmp")))
EFFECTS: dict[tuple[int, str], frozenset[str]] = {
    **{(704, name): SET for name in SET_704},
    **{(704, name): LIMIT for name in LIMIT_704},
    **{(123, name): LIMIT for name in LIMIT_123},
    **{(123, name): PERMIT for name in ("Conn", "Conn_WinTms", "Conn_RvrtTms")},
    **{(124, name): WINDOW for name in RATES_124},
    (124, "ChaGriSet"): NOTHING,
    (124, "MinRsvPct"): RESERVE,
    (703, "ES"): PERMIT,
    (715, "OpCtl"): PERMIT,
    (715, "ControllerHb"): NOTHING,
    (802, "SoCRsvMin"): RESERVE,
    (802, "CtrlHb"): NOTHING,
}


def effects(point: Point, profile: DeviceProfile) -> frozenset[str] | None:
    """Return the settings a point may change, None for one that cannot be written."""
    fields = EFFECTS.get((point.model, point.name))
    return None if fields == RESERVE and not profile.control.has_reserve else fields
