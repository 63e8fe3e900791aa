"""A device with every model on pysunspec2's own client, and curves to write to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ridethrough.emulator.grid_settings import GridSettings, default_settings

from tests.emulator.register_bench import DEVICE, FULL, Bench, Client

MODELS = (705, 706, 707, 708, 709, 710, 711, 712)
REVERTING = (705, 706, 711, 712)
TRIPS = (707, 708, 709, 710)


class Desk:
    """A device with every model, and pysunspec2's client on it."""

    def __init__(self) -> None:
        self.bench = Bench(FULL)
        self.client = Client(self.bench.unit)

    @property
    def settings(self) -> GridSettings:
        return self.bench.plant.settings(DEVICE)

    def sets(self, model: int) -> Any:
        """Return the stored sets of a model, read anew."""
        found = self.client.one(model)
        return found.Ctl if model == 711 else found.Crv

    def adopt(self, model: int, number: int) -> int:
        """Ask for a set to be adopted; return the result."""
        end = "Ctl" if model == 711 else "Crv"
        found = self.client.one(model)
        found.points[f"Adpt{end}Req"].value = number
        found.write()
        found.read()
        assert found.points[f"Adpt{end}Req"].value == number
        return int(found.points[f"Adpt{end}Rslt"].value)

    def put(self, model: int, **values: float) -> None:
        """Write points of a model in one go, in the units SunSpec gives."""
        found = self.client.one(model)
        for name, value in values.items():
            found.points[name].cvalue = value
        found.write()

    def get(self, model: int, *names: str) -> list[Any]:
        found = self.client.one(model)
        return [found.points[name].cvalue for name in names]


def fill(group: Any, **values: Any) -> None:
    """Put values into a set: a number into a point, a list of pairs into the points of a curve."""
    for name, value in values.items():
        if isinstance(value, list):
            curve = group if name == "Pt" else group.groups[name]
            curve.points["ActPt"].value = len(value)
            for point, pair in zip(curve.Pt, value, strict=False):
                for inner, number in zip(point.points.values(), pair, strict=True):
                    inner.cvalue = number
        else:
            group.points[name].cvalue = value
    group.write()


def volt_var(crv: Any) -> None:
    fill(crv, Pt=[(90, 40), (97, 0), (103, 0), (110, -35)], DeptRef=3, VRef=101, VRefAutoTms=400, RspTms=2.5)


def volt_watt(crv: Any) -> None:
    fill(crv, Pt=[(107, 90), (110, -20)], RspTms=0.5)


def under_voltage(crv: Any) -> None:
    fill(crv, MustTrip=[(40, 1.5), (80, 22)], MayTrip=[], MomCess=[(45, 0)])


def over_voltage(crv: Any) -> None:
    must = [(140, 0.16), (120, 0.16), (120, 5), (115, 5), (115, 2000)]
    fill(crv, MustTrip=must, MayTrip=[(120, 0.1), (115, 4)], MomCess=[])


def under_frequency(crv: Any) -> None:
    fill(crv, MustTrip=[(56, 1.2), (58, 200)], MayTrip=[], MomCess=[])


def over_frequency(crv: Any) -> None:
    fill(crv, MustTrip=[(62.5, 0.5), (61.5, 180.5)], MayTrip=[], MomCess=[])


def droop(ctl: Any) -> None:
    fill(ctl, DbOf=0.05, DbUf=0.1, KOf=0.04, KUf=0.03, RspTms=0.25, PMin=-50)


def watt_var(crv: Any) -> None:
    points = [(-90, 30), (-50, 10), (-20, 0), (10, 0), (60, -5), (95, -40)]
    fill(crv, Pt=points, DeptRef=1)


WRITERS: dict[int, Callable[[Any], None]] = dict(
    zip(
        MODELS,
        (
            volt_var,
            volt_watt,
            under_voltage,
            over_voltage,
            under_frequency,
            over_frequency,
            droop,
            watt_var,
        ),
        strict=True,
    )
)


def expected(model: int) -> GridSettings:
    """Return the settings that the curves above stand for, written down by hand."""
    old = default_settings(FULL)
    new = {
        705: replace(
            old,
            volt_var=replace(
                old.volt_var,
                points=((0.9, 0.4), (0.97, 0.0), (1.03, 0.0), (1.1, -0.35)),
                ref_pu=1.01,
                auto_s=400.0,
                response_s=2.5,
            ),
        ),
        706: replace(
            old, volt_watt=replace(old.volt_watt, points=((1.07, 0.9), (1.1, -0.2)), response_s=0.5)
        ),
        707: replace(
            old, under_voltage=replace(old.under_voltage, must=((0.8, 22.0), (0.4, 1.5)), may=(), cease=0.45)
        ),
        708: replace(
            old,
            over_voltage=replace(
                old.over_voltage, must=((1.15, 5.0), (1.2, 0.16)), may=((1.15, 4.0), (1.2, 0.1)), cease=None
            ),
        ),
        709: replace(
            old, under_frequency=replace(old.under_frequency, must=((58.0, 200.0), (56.0, 1.2)), may=())
        ),
        710: replace(
            old, over_frequency=replace(old.over_frequency, must=((61.5, 180.5), (62.5, 0.5)), may=())
        ),
        711: replace(
            old,
            droop=replace(
                old.droop,
                dead_hz_over=0.05,
                dead_hz_under=0.1,
                droop_frac_over=0.04,
                droop_frac_under=0.03,
                response_s=0.25,
                power_frac_min=-0.5,
            ),
        ),
        712: replace(
            old,
            watt_var=replace(
                old.watt_var,
                generate=((0.1, 0.0), (0.6, -0.05), (0.95, -0.4)),
                absorb=((-0.2, 0.0), (-0.5, 0.1), (-0.9, 0.3)),
                var_base="var_max",
            ),
        ),
    }
    return new[model]


def close(a: Any, b: Any) -> bool:
    """Compare settings; numbers that went through a register to 1e-9."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-9
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(close, a, b))
    slots = getattr(type(a), "__slots__", ())
    if slots and type(a) is type(b):
        return all(close(getattr(a, name), getattr(b, name)) for name in slots)
    return bool(a == b)


def plain(group: Any) -> dict[str, Any]:
    """Return a set's values without what tells sets apart."""
    values: dict[str, Any] = group.get_dict(computed=True)
    values.pop("VRefAuto", None)
    del values["ReadOnly"]
    return values


def active_points(curve: dict[str, Any]) -> set[tuple[float, ...]]:
    return {tuple(point.values()) for point in curve["Pt"][: curve["ActPt"]]}


def wrong_volt_var(crv: Any) -> None:
    fill(crv, Pt=[(90, 40), (99, 0), (103, 0), (104.5, -35)], DeptRef=3)  # V4 nearer than 2 % to V3
