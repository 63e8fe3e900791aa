"""Rights by role and register: the published map, line by line, and ranges of registers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.image import units_of
from ridethrough.emulator.layout import Layout, compile_layouts
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.points import Point
from ridethrough.emulator.rights import (
    GRID_SERVICE,
    NETWORK_ADMINISTRATOR,
    READ_ONLY,
    ROLES,
    SUPER_ADMINISTRATOR,
    WRITERS,
    LayoutMap,
    Rights,
    point_map,
    writers,
)
from ridethrough.emulator.sunspec import INVERTER_MODELS, METER_MODELS

from tests.emulator.register_bench import FULL

UNIT = 1
INVERTER, METER = compile_layouts(FULL)
MAPS = {UNIT: LayoutMap(INVERTER), 101: LayoutMap(METER)}

# What dersecure/rbac at dc05ef6 marks RW, per model and role; whatever is not here is marked R for all four
# roles.  Written down from its tables, not from ours: a point per word, groups without their numbers.
GRID_AND_SUPER = {
    121: "WMax VRef VRefOfs VMax VMin VAMax VArMaxQ1 VArMaxQ2 VArMaxQ3 VArMaxQ4 WGra PFMinQ1 PFMinQ2 PFMinQ3 "
    "PFMinQ4 VArAct ClcTotVA MaxRmpRte ECPNomHz ConnPh",
    123: "Conn_WinTms Conn_RvrtTms Conn WMaxLimPct WMaxLimPct_WinTms WMaxLimPct_RvrtTms WMaxLimPct_RmpTms "
    "WMaxLim_Ena OutPFSet OutPFSet_WinTms OutPFSet_RvrtTms OutPFSet_RmpTms OutPFSet_Ena VArWMaxPct VArMaxPct "
    "VArAvalPct VArPct_WinTms VArPct_RvrtTms VArPct_RmpTms VArPct_Mod VArPct_Ena",
    124: "WChaMax WChaGra WDisChaGra StorCtl_Mod VAChaMax MinRsvPct OutWRte InWRte InOutWRte_WinTms "
    "InOutWRte_RvrtTms InOutWRte_RmpTms ChaGriSet",
    702: "WMax WMaxOvrExt WOvrExtPF WMaxUndExt WUndExtPF VAMax VarMaxInj VarMaxAbs WChaRteMax WDisChaRteMax "
    "VAChaRteMax VADisChaRteMax AMax PFOvrExt PFUndExt IntIslandCat",
    703: "ES ESVHi ESVLo ESHzHi ESHzLo ESDlyTms ESRndTms ESRmpTms",
    704: "PFWInj.PF PFWInj.Ext PFWInjRvrt.PF PFWInjRvrt.Ext PFWAbs.PF PFWAbs.Ext PFWAbsRvrt.PF "
    "PFWAbsRvrt.Ext PFWInjEna PFWInjEnaRvrt PFWInjRvrtTms PFWAbsEna PFWAbsEnaRvrt PFWAbsRvrtTms "
    "WMaxLimPctEna WMaxLimPct WMaxLimPctRvrt WMaxLimPctEnaRvrt WMaxLimPctRvrtTms WSetEna WSetMod WSet "
    "WSetRvrt WSetPct WSetPctRvrt WSetEnaRvrt WSetRvrtTms VarSetEna VarSetMod VarSetPri VarSet "
    "VarSetRvrt VarSetPct VarSetPctRvrt VarSetEnaRvrt VarSetRvrtTms WRmp WRmpRef VarRmp AntiIslEna",
    705: "Ena AdptCrvReq RvrtTms RvrtCrv Crv.ActPt Crv.DeptRef Crv.Pri Crv.VRef Crv.VRefAutoEna "
    "Crv.VRefAutoTms Crv.RspTms Crv.Pt.V Crv.Pt.Var",
    706: "Ena AdptCrvReq RvrtTms RvrtCrv Crv.ActPt Crv.DeptRef Crv.RspTms Crv.Pt.V Crv.Pt.W",
    711: "Ena AdptCtlReq RvrtTms RvrtCtl Ctl.DbOf Ctl.DbUf Ctl.KOf Ctl.KUf Ctl.RspTms Ctl.PMin",
    712: "Ena AdptCrvReq RvrtTms RvrtCrv Crv.ActPt Crv.DeptRef Crv.Pri Crv.Pt.W Crv.Pt.Var",
    802: "SocRsvMax SoCRsvMin CtrlHb AlmRst SetOp SetInvState",
    803: "string.StrSetEna string.StrSetCon",
    804: "SetEna SetCon",
}
TRIPS_V = " ".join(
    f"Crv.{k}.{p}" for k in ("MustTrip", "MayTrip", "MomCess") for p in ("ActPt", "Pt.V", "Pt.Tms")
)
SUPER_ALONE = {
    702: "VNom VMax VMin",
    707: f"Ena AdptCrvReq {TRIPS_V}",
    708: f"Ena AdptCrvReq {TRIPS_V}",
    709: f"Ena AdptCrvReq {TRIPS_V}".replace("Pt.V", "Pt.Hz"),
    710: f"Ena AdptCrvReq {TRIPS_V}".replace("Pt.V", "Pt.Hz"),
    715: "ControllerHb AlarmReset OpCtl",
}
NETWORK_AND_SUPER = {1: "DA"}

PUBLISHED = {
    (model, name): roles
    for table, roles in (
        (GRID_AND_SUPER, {GRID_SERVICE, SUPER_ADMINISTRATOR}),
        (SUPER_ALONE, {SUPER_ADMINISTRATOR}),
        (NETWORK_AND_SUPER, {NETWORK_ADMINISTRATOR, SUPER_ADMINISTRATOR}),
    )
    for model, names in table.items()
    for name in names.split()
}


def plain(point: Point) -> tuple[int, str]:
    return point.model, re.sub(r"\[\d+\]", "", point.name)


def test_the_tables_say_what_the_published_map_says() -> None:
    """In both directions: every point of every model served, and every line of the map is met."""
    met = set()
    for point in (*INVERTER.points, *METER.points):
        assert writers(point.model, point.name) == PUBLISHED.get(plain(point), set()), str(point)
        met.add(plain(point))
    missing = {key for key in PUBLISHED.keys() - met if key[0] in INVERTER.models}
    assert missing == set()
    assert {model for model, _ in PUBLISHED} <= set(INVERTER_MODELS) | set(METER_MODELS)
    assert {model for model, _ in PUBLISHED} == set(WRITERS)


@pytest.mark.parametrize("key", PUBLISHED)
def test_models_that_the_full_device_lacks_are_in_the_tables_too(key: tuple[int, str]) -> None:
    assert writers(*key) == PUBLISHED[key]


def may(role: str | None, layout: Layout, address: int, count: int) -> bool:
    """Tell by the published map whether a role may write a range."""
    if role not in ROLES:
        return False
    places = range(address - layout.base_address, address - layout.base_address + count)
    points = [layout.point_at[k] if 0 <= k < layout.count else None for k in places]
    return all(
        role in (PUBLISHED.get(plain(point), set()) if point is not None else {SUPER_ADMINISTRATOR})
        for point in points
    )


addresses = st.integers(0, 65_535) | st.integers(
    INVERTER.base_address, INVERTER.base_address + INVERTER.count
)
roles = st.sampled_from([*ROLES, None, "", "Operator", "SuperAdministratorSpec"])


@given(
    roles, addresses, st.integers(1, 123), st.sampled_from([6, 16, 22, 23]), st.sampled_from([1, 101, 0, 255])
)
def test_a_write_needs_the_right_to_every_register(
    role: str | None, address: int, count: int, function: int, unit_id: int
) -> None:
    count = min(count, 65_536 - address)
    layout = METER if unit_id == 101 else INVERTER  # 0 and 255 are the first unit
    rights = Rights(role, MAPS)
    assert rights.allows(unit_id, function, address, count) == may(role, layout, address, count)
    assert rights.allows(unit_id, function, address, count) == all(
        rights.allows(unit_id, function, address + k, 1) for k in range(count)
    )


@given(roles, addresses, st.integers(1, 125), st.sampled_from([3, 4]))
def test_every_role_reads_everything_and_nobody_else_anything(
    role: str | None, address: int, count: int, function: int
) -> None:
    assert Rights(role, MAPS).allows(UNIT, function, address, count) == (role in ROLES)


@pytest.mark.parametrize("role", [*ROLES, None])
def test_functions_without_registers(role: str | None) -> None:
    rights = Rights(role, MAPS)
    for function in (1, 2, 8, 43):
        assert rights.allows(UNIT, function, 0, 1) == (role is not None)
    for function in (5, 15):
        assert rights.allows(UNIT, function, 0, 1) == (role == SUPER_ADMINISTRATOR)
    for function in (7, 17, 20, 21, 24, 90, 0, 127):
        assert not rights.allows(UNIT, function, 0, 1)


def test_read_only_writes_nothing_at_all() -> None:
    rights = Rights(READ_ONLY, MAPS)
    assert not any(rights.allows(UNIT, 6, address, 1) for address in range(65_536))


class Moved:
    """A unit whose points are elsewhere, as behind a quirk of the map."""

    def __init__(self, by: int) -> None:
        self._by = by
        self._inner = LayoutMap(INVERTER)

    def point_at(self, address: int) -> Point | None:
        return self._inner.point_at(address - self._by)


def test_a_unit_may_say_itself_where_its_points_lie() -> None:
    limit = INVERTER.point(704, "WMaxLimPct").address
    rights = Rights(GRID_SERVICE, {UNIT: point_map(Moved(10_000))})
    assert rights.allows(UNIT, 6, limit + 10_000, 1)
    assert not rights.allows(UNIT, 6, limit, 1)


def test_where_the_points_of_a_unit_lie() -> None:
    image = units_of(Plant([FULL]), 0)[UNIT]
    found = point_map(image)
    for k, point in enumerate(INVERTER.point_at):
        assert found.point_at(INVERTER.base_address + k) == point
    for outside in (0, INVERTER.base_address - 1, INVERTER.base_address + INVERTER.count, 65_535):
        assert found.point_at(outside) is None
    with pytest.raises(ScenarioError, match="a dict found, which does not say where its points lie"):
        point_map({})
