"""Bundled profiles, one device among others, and pysunspec2's view of a register image."""

from __future__ import annotations

import struct
from importlib.resources import files
from itertools import pairwise
from typing import Any

from ridethrough.emulator.fields import CONTROL
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.layout import compile_layout
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.points import Point
from ridethrough.emulator.profile import DeviceProfile
from ruamel.yaml import YAML
from sunspec2 import device as witness
from sunspec2.modbus import client as witness_client

BUNDLED_NAMES = (
    "home-10kwh-4kw",
    "home-11kwh-6kw-legacy",
    "home-13kwh-11kw-ups",
    "home-13kwh-5kw",
    "municipal-500kwh-250kw",
)
FOLDER = files("ridethrough.fixtures") / "devices"


def load(name: str) -> DeviceProfile:
    """Return a bundled profile."""
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    return DeviceProfile.model_validate(YAML(typ="safe").load(text))


def with_face(profile: DeviceProfile, **changes: object) -> DeviceProfile:
    """Return the profile with another SunSpec face."""
    data = profile.model_dump()
    data["face"].update(changes)
    return DeviceProfile.model_validate(data)


def full_profile() -> DeviceProfile:
    """Return a device with every model there is: a hybrid with two PV strings."""
    models = (1, 101, 120, 121, 122, 123, 124, 160, *range(701, 716), 802, 803, 804)
    profile = with_face(load("home-13kwh-5kw"), models=models, pv_strings=2)
    return profile.model_copy(update={"profile": "full"})


BUNDLED = {name: load(name) for name in BUNDLED_NAMES}
LEGACY, UPS, HOME, TOWN = (BUNDLED[name] for name in BUNDLED_NAMES[1:])
FULL = full_profile()
PROFILES = {**BUNDLED, "full": FULL}
NAMES = tuple(PROFILES)

DEVICE = 9
"""Second tile, lane 1: the others hold other numbers, so that a mix-up shows."""

OK, ADDRESS, VALUE = 0, 2, 3
"""Answers to a write: accepted, illegal address, illegal value."""

Shown = dict[tuple[int, str], Any]


def dump(image: DeviceImage) -> bytes:
    """Return the whole map."""
    data = image.read(image.base_address, image.count)
    assert isinstance(data, bytes)
    return data


def witness_points(group: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return every point of one of pysunspec2's groups, those of inner groups under our names."""
    points = [(prefix + name, point) for name, point in group.points.items()]
    for name, inner in group.groups.items():
        if isinstance(inner, list):
            for k, one in enumerate(inner, 1):
                points += witness_points(one, f"{prefix}{name}[{k}].")
        else:
            points += witness_points(inner, f"{prefix}{name}.")
    return points


def decode(image: DeviceImage) -> Shown:
    """Return every point of a unit as pysunspec2 decodes it; None for "not implemented"."""
    data = dump(image)
    shown: Shown = {}
    at = 2
    while (head := struct.unpack_from(">HH", data, 2 * at))[0] != 0xFFFF:
        block = data[2 * at : 2 * (at + 2 + head[1])]
        model = witness.Model(head[0], model_addr=image.base_address + at, model_len=head[1], data=block)
        shown |= {(head[0], name): point.cvalue for name, point in witness_points(model)}
        at += 2 + head[1]
    return shown


class RefusedError(Exception):
    """A write was answered with an exception."""


class Client(witness_client.SunSpecModbusClientDevice):  # type: ignore[misc]  # pysunspec2 publishes no types
    """pysunspec2's own client on a unit, without a wire."""

    def __init__(self, unit: DeviceImage) -> None:
        super().__init__(model_class=witness_client.SunSpecModbusClientModel)
        self.unit = unit
        self.scan()

    def connect(self) -> None:
        pass

    def disconnect(self) -> None:
        pass

    def is_connected(self) -> bool:
        return True

    def read(self, addr: int, count: int) -> bytes:
        """Read in requests of at most 125 registers, as Modbus allows; pysunspec2 computes with floats."""
        addr, count = int(addr), int(count)
        parts = [self.unit.read(at, min(125, addr + count - at)) for at in range(addr, addr + count, 125)]
        assert all(isinstance(part, bytes) for part in parts), f"{count} registers at {addr}"
        return b"".join(part for part in parts if isinstance(part, bytes))

    def write(self, addr: int, data: bytes) -> None:
        """Write in one request."""
        code = self.unit.write(addr, data)
        if code:
            raise RefusedError(code)

    def one(self, model: int) -> Any:
        """Return a model, read anew."""
        found = self.models[model][0]
        found.read()
        return found


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


def fields(*prefixes: str) -> frozenset[str]:
    """Return the settings of the plant whose names begin so, the step's own reversion apart."""
    return frozenset(name for name in CONTROL if name.startswith(prefixes) and "rvrt" not in name)


LIMITS = {
    707: fields("under_v", "cease_low", "calm_low_pu"),
    708: fields("over_v", "cease_high", "calm_high_pu"),
    709: fields("under_f", "calm_low_hz"),
    710: fields("over_f", "calm_high_hz"),
}
CURVES = {
    705: fields("volt_var_"),
    706: fields("volt_watt_"),
    711: fields("droop_"),
    712: fields("watt_var_"),
    **LIMITS,
}


def curve_effects(model: int) -> dict[tuple[int, str], frozenset[str]]:
    """Return the settings that the points of a curve model may change."""
    group, request, back = (
        ("Ctl", "AdptCtlReq", "RvrtCtl") if model == 711 else ("Crv", "AdptCrvReq", "RvrtCrv")
    )
    found = {(model, "Ena"): CURVES[model], (model, request): CURVES[model]}
    if model not in LIMITS:
        found |= {(model, "RvrtTms"): NOTHING, (model, back): NOTHING}
    names = [point.name for point in compile_layout(FULL).points if point.model == model]
    stored = [name for name in names if name.startswith((f"{group}[2].", f"{group}[3]."))]
    return found | {(model, n): NOTHING for n in stored if not n.endswith((".ReadOnly", ".VRefAuto"))}


PF_ENDS = ("Ena", "EnaRvrt", "RvrtTms", ".PF", ".Ext", "Rvrt.PF", "Rvrt.Ext")
VAR_704 = ("Ena", "Mod", "Pri", "", "Rvrt", "Pct", "PctRvrt", "EnaRvrt", "RvrtTms")
VAR_123 = ("VArWMaxPct", "VArMaxPct", "VArPct_RvrtTms", "VArPct_Mod", "VArPct_Ena")
EFFECTS: dict[tuple[int, str], frozenset[str]] = {
    **{(704, name): SET for name in SET_704},
    **{(704, name): LIMIT for name in LIMIT_704},
    **{(704, f"PFWInj{end}"): frozenset({"pf_ena", "pf_var_per_w"}) for end in PF_ENDS},
    **{(704, f"PFWAbs{end}"): frozenset({"pf_abs_ena", "pf_abs_var_per_w"}) for end in PF_ENDS},
    **{(704, f"VarSet{end}"): frozenset({"var_ena", "var_var"}) for end in VAR_704},
    **{(123, name): LIMIT for name in LIMIT_123},
    **{(123, name): PERMIT for name in ("Conn", "Conn_WinTms", "Conn_RvrtTms")},
    **{(123, f"OutPFSet{end}"): frozenset({"pf_ena", "pf_var_per_w"}) for end in ("", "_RvrtTms", "_Ena")},
    **{(123, name): frozenset({"var_ena", "var_var"}) for name in VAR_123},
    **{(124, name): WINDOW for name in RATES_124},
    (124, "ChaGriSet"): NOTHING,
    (124, "MinRsvPct"): RESERVE,
    (703, "ES"): PERMIT,
    **{
        (703, f"ES{end}"): fields("enter_")
        for end in ("VHi", "VLo", "HzHi", "HzLo", "DlyTms", "RndTms", "RmpTms")
    },
    **{key: names for model in CURVES for key, names in curve_effects(model).items()},
    (715, "OpCtl"): PERMIT,
    (715, "AlarmReset"): NOTHING,
    (715, "ControllerHb"): NOTHING,
    (802, "SoCRsvMin"): RESERVE,
    (802, "CtrlHb"): NOTHING,
    (802, "AlmRst"): NOTHING,
    (802, "SetOp"): frozenset({"bms_open"}),
    (802, "SetInvState"): NOTHING,
}


def effects(point: Point, profile: DeviceProfile) -> frozenset[str] | None:
    """Return the settings a point may change, None for one that cannot be written."""
    fields = EFFECTS.get((point.model, point.name))
    return None if fields == RESERVE and not profile.control.has_reserve else fields
