"""One unit as a Modbus client sees it: reads are snapshots of the plant, writes change its settings.

Duty: decide which writes are allowed, and what a written point does to the plant.  Reading and encoding are
compiled (`_registers.RegisterImage`); where a point lies and what it may hold is the layout's business;
settings of the grid-support functions (123 and 704 in part, 703, 705 to 712) are in image_grid.py.

Rules of writes, in this order; a write does all or nothing:

1. A register outside the map, a read-only register or one that is not implemented: exception 2.
2. Half of a point that spans several registers, or a value that is not allowed: exception 3.
3. A point written with its "not implemented" value is left alone.
4. Settings that the device cannot take, such as values outside their adjustable range: exception 3.

What is written can be read back at once.  Two models can be two views of one setting: 123 and 704 of the
limit, 123.Conn, 703.ES and 715.OpCtl of the permit, 124.MinRsvPct and 802.SoCRsvMin of the reserve, 123 and
704 of power factor and reactive power (image_old.py).

Revert timers.  A timeout of 0 means no timer.  A timeout written while its function is off arms nothing; it
starts when the function is enabled ("timer first, then set-point").  Any write to the points of an enabled
function starts its timer anew.  Switching a function off stops its timer.  703.ES and 715.OpCtl have no
timer: what they write stays, whatever 123.Conn_RvrtTms holds.  ENTER_STANDBY withdraws the permit like STOP,
EXIT_STANDBY gives it like START; the last command can be read back until another view contradicts it.

References
----------
SunSpec DER Information Model Specification V1.2.1 on 704, quoted second-hand: "The timer SHALL be
reinitialized with the reversion timeout value, and the timer SHALL be restarted."  EnaRvrt is the value of
Ena after expiry.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np

from . import _registers
from .cells import CHEMISTRIES
from .errors import InvariantError, ScenarioError
from .fields import CONTROL, LANES, TICKS_PER_S
from .image_grid import GridRegisters, factory
from .intake import DEVICE_FAILURE, put
from .layout import Layout, compile_layouts
from .plant import Plant
from .points import Point

ILLEGAL_ADDRESS: Final = 2
ILLEGAL_VALUE: Final = 3

UNIT_ID_MAX: Final = 247

IDENTIFICATION: Final = {0: "Mn", 1: "Md", 2: "Vr", 4: "Md", 5: "Md"}
"""Objects of function 43/14 (vendor name, product code, revision, product name, model name) in model 1; there
is no vendor URL."""

MODE_WATTS: Final = 1.0
INVERTER_STARTED: Final = 3.0
"""802.SetInvState."""
DISCONNECT: Final = 2.0
"""802.SetOp."""

_SETTINGS: Final = _registers.setting_names()

_LIMIT: Final = frozenset({"limit_ena", "limit_frac", "limit_rvrt_ena", "limit_rvrt_frac", "limit_rvrt_s"})
_SET_VALUES: Final = frozenset({"set_mode", "set_w", "set_rvrt_w", "set_frac", "set_rvrt_frac"})
_SET: Final = _SET_VALUES | {"set_ena", "set_rvrt_ena", "set_rvrt_s"}
_WINDOW: Final = frozenset({"window_mode", "window_in_frac", "window_out_frac", "window_rvrt_s"})
_KEPT: Final = frozenset(
    {"controller_heartbeat", "battery_controller_heartbeat", "alarm_reset", "battery_inverter_state"}
)
_PERMIT: Final = frozenset({"permit", "permit_old", "permit_rvrt_s", "operation"})
_GROUPS: Final = {
    "set": _SET,
    "limit": _LIMIT,
    "window": _WINDOW,
    "permit": _PERMIT,
    "reserve": frozenset({"reserve_frac"}),
    "contactor": frozenset({"battery_operation"}),
}
"""What a write is called at the intake, and the quantities that make it one."""
_GIVES_PERMIT: Final = (1.0, 3.0)
"""715.OpCtl: START, EXIT_STANDBY."""

Values = dict[str, float]


def _put(target: Values, values: Mapping[str, float], names: frozenset[str]) -> None:
    """Copy those of `names` that were written and that the target has."""
    for name in names:
        if name in values and name in target:
            target[name] = values[name]


def _ticks(seconds: float, running: bool) -> float:
    return seconds * TICKS_PER_S if running else 0.0


def _apply_set(control: Values, held: Values, values: Mapping[str, float], rated_w: float) -> None:
    """704.WSet*: the set-point in force goes to the plant, the other one stays in the registers."""
    _put(held, values, _SET)
    control["set_ena"] = values.get("set_ena", control["set_ena"])
    control["set_rvrt_ena"] = values.get("set_rvrt_ena", control["set_rvrt_ena"])
    if not values.keys() & _SET_VALUES:
        pass  # the set-point in force stays as it is, to the last bit
    elif held["set_mode"] == MODE_WATTS:
        control["set_w"], control["set_rvrt_w"] = held["set_w"], held["set_rvrt_w"]
    else:
        control["set_w"], control["set_rvrt_w"] = held["set_frac"] * rated_w, held["set_rvrt_frac"] * rated_w
    control["set_rvrt_ticks"] = _ticks(held["set_rvrt_s"], control["set_ena"] != 0.0)
    held["set_armed"] = float(control["set_rvrt_ticks"] > 0.0)


def _apply_limit(control: Values, held: Values, values: Mapping[str, float]) -> None:
    """704.WMaxLimPct* and 123.WMaxLim*."""
    _put(control, values, _LIMIT)
    _put(held, values, _LIMIT)
    control["limit_rvrt_ticks"] = _ticks(held["limit_rvrt_s"], control["limit_ena"] != 0.0)


def _apply_window(control: Values, held: Values, values: Mapping[str, float]) -> None:
    """124.StorCtl_Mod and its two rates."""
    _put(control, values, _WINDOW)
    _put(held, values, _WINDOW)
    if "window_mode" in values:
        mode = int(values["window_mode"])
        control["window_in_ena"], control["window_out_ena"] = float(mode & 1), float(mode >> 1)
    running = control["window_in_ena"] != 0.0 or control["window_out_ena"] != 0.0
    control["window_rvrt_ticks"] = _ticks(held["window_rvrt_s"], running)


def _apply_permit(control: Values, held: Values, values: Mapping[str, float]) -> None:
    """123.Conn*, which has a timer, and 703.ES and 715.OpCtl, which have none."""
    if "operation" in values:
        held["operation"] = values["operation"]
        control["permit"] = float(values["operation"] in _GIVES_PERMIT)
        control["permit_rvrt_ticks"] = 0.0
    elif "permit" in values:
        control["permit"] = values["permit"]
        control["permit_rvrt_ticks"] = 0.0
    else:
        held["permit_rvrt_s"] = values.get("permit_rvrt_s", held["permit_rvrt_s"])
        control["permit"] = values.get("permit_old", control["permit"])
        control["permit_rvrt_ticks"] = _ticks(held["permit_rvrt_s"], control["permit"] == 0.0)


@lru_cache(maxsize=256)
def _constants_of(layout: Layout) -> tuple[float, ...]:
    profile = layout.profile
    values = {
        "phases": float(profile.face.phases),
        "voltage_v": profile.face.voltage_v,
        "frequency_hz": float(profile.face.frequency_hz),
        "battery_v": profile.battery.voltage_v_nominal,
        "cell_v": CHEMISTRIES[profile.battery.chemistry].ocv_v_mean,
        "pv_strings": float(profile.face.pv_strings),
        "energy_wh_rated": profile.battery.energy_wh,
    }
    return tuple(values[name] for name in _registers.constant_names())


class DeviceImage(_registers.RegisterImage):
    """One unit of one device; what a Modbus server calls.

    Parameters
    ----------
    plant : Plant
    device : int
        Position in the plant.
    layout : Layout
        Of the inverter unit or of the meter unit of the device's profile.

    Notes
    -----
    Use one image per unit: lengths of revert timers and stored curves live here, not in the plant.
    """

    def __init__(self, plant: Plant, device: int, layout: Layout) -> None:
        self._held = np.zeros(len(_SETTINGS))
        self._held[_SETTINGS.index("set_mode")] = MODE_WATTS
        self._held[_SETTINGS.index("battery_inverter_state")] = INVERTER_STARTED
        super().__init__(
            plant,
            device,
            layout.base_address,
            factory(layout).initial,
            layout.table,
            _constants_of(layout),
            self._held,
        )
        serial = layout.point(1, "SN")
        text = f"{'M' if layout.meter else 'D'}{device:06d}".encode()
        self.poke(2 * (serial.address - layout.base_address), text)
        self.layout = layout
        self._plant, self._device = plant, device
        self._place = (device // LANES, device % LANES)
        self._rated_w = layout.profile.inverter.power_w_discharge_max
        self._grid = GridRegisters(self, layout, plant, device)
        self._at_start = self.peek(0, 2 * layout.count), self._held.copy()
        plant.forgetters.append(self._forget)

    def _forget(self, device: int) -> None:
        """Begin anew when the device has lost its settings."""
        if device == self._device:
            registers, self._held[:] = self._at_start
            self.poke(0, registers)
            self._grid = GridRegisters(self, self.layout, self._plant, device)
            self.watching = True
            self.expire()

    def follow(self, moved: bool) -> None:
        """Bring the settings registers up to date."""
        self._grid.follow(moved)

    @property
    def functions(self) -> frozenset[int]:
        """Function codes this unit serves."""
        return self.layout.functions

    def identify(self) -> dict[int, bytes]:
        """Return the objects that function 43/14 identifies the unit by, as model 1 has them, in ASCII."""
        found = {}
        for number, name in IDENTIFICATION.items():
            point = self.layout.point(1, name)
            data = self.peek(2 * (point.address - self.layout.base_address), 2 * point.size)
            found[number] = data.rstrip(b"\0").decode().encode("ascii", "replace")
        return found

    def read_bits(self, address: int, count: int, inputs: bool) -> int:
        """Answer that there is no such coil or discrete input: SunSpec has none."""
        return ILLEGAL_ADDRESS

    def write_bits(self, address: int, count: int, data: bytes) -> int:
        """Answer that there is no such coil."""
        return ILLEGAL_ADDRESS

    def write(self, address: int, data: bytes) -> int:
        """Write registers from `address` on, all or nothing.

        Parameters
        ----------
        address : int
            Absolute address of the first register.
        data : bytes
            Two bytes per register, big-endian.

        Returns
        -------
        int
            0, or the Modbus exception code.
        """
        count = len(data) // 2
        first = address - self.layout.base_address
        if len(data) != 2 * count or count == 0:
            return ILLEGAL_VALUE
        if first < 0 or first + count > self.layout.count:
            return ILLEGAL_ADDRESS
        touched = dict.fromkeys(self.layout.point_at[first : first + count])
        points = [point for point in touched if point is not None and point.writable]
        if len(points) < len(touched):
            return ILLEGAL_ADDRESS
        values = self._decode(points, address, data)
        if values is None:
            return ILLEGAL_VALUE
        if self._plant.intake is not None and not self._plant.intake.admits(self._device):
            return DEVICE_FAILURE
        self.refresh()  # so that a reversion that has happened since the last look is taken in
        model = points[0].model  # between two models lies a read-only header, so there is one only
        settings = {point.name for point in points if point.quantity == f"{model}.{point.name}"}
        grid = {name: values.pop(f"{model}.{name}") for name in settings if f"{model}.{name}" in values}
        if grid and not self._grid.write(model, grid):
            return ILLEGAL_VALUE
        self._apply(values)
        return 0

    def _decode(self, points: list[Point], address: int, data: bytes) -> Values | None:
        """Return what is written by quantity, None when a value is not allowed."""
        values: Values = {}
        for point in points:
            offset = 2 * (point.address - address)
            part = data[offset : offset + 2 * point.size]
            if offset < 0 or len(part) != 2 * point.size:
                return None
            register = _registers.decode(part, point.signed)
            if register == point.blank:
                continue
            if not point.low <= register <= point.high:
                return None
            if point.quantity is None:
                raise InvariantError(f"{point} is writable and has no quantity")
            values[point.quantity] = register * point.divisor / point.factor
        return values

    def _apply(self, values: Mapping[str, float]) -> None:
        """Give checked settings to the plant, and keep what only the registers hold."""
        tile, lane = self._place
        row = self._plant.control[tile, :, lane]
        control = dict(zip(CONTROL, row.tolist(), strict=True))
        held = dict(zip(_SETTINGS, self._held.tolist(), strict=True))
        written = values.keys()
        if written & _SET:
            _apply_set(control, held, values, self._rated_w)
        if written & _LIMIT:
            _apply_limit(control, held, values)
        if written & _WINDOW:
            _apply_window(control, held, values)
        if written & _PERMIT:
            _apply_permit(control, held, values)
        control["reserve_frac"] = values.get("reserve_frac", control["reserve_frac"])
        if "battery_operation" in values:
            control["bms_open"] = float(values["battery_operation"] == DISCONNECT)
        _put(held, values, _KEPT)
        self._held[:] = [held[name] for name in _SETTINGS]
        self.expire()
        after = np.array([control[name] for name in CONTROL])
        put(self._plant, self._device, after, frozenset(n for n, names in _GROUPS.items() if written & names))


def units_of(plant: Plant, device: int, unit_id: int = 1) -> dict[int, DeviceImage]:
    """Return the units of one device: the inverter at `unit_id`, its meter at the profile's offset above.

    Raises
    ------
    ScenarioError
        When the profile cannot be shown as registers, see `layout.compile_layout`; when a unit id is not 1 to
        247, the ids Modbus has for devices.
    """
    profile = plant.profiles[device]
    meter_id = unit_id + profile.face.meter_unit_offset
    if not 1 <= unit_id < meter_id <= UNIT_ID_MAX:
        raise ScenarioError(
            f"device {device} ({profile.profile}): unit ids {unit_id} and {meter_id} for its meter; "
            f"allowed 1 to {UNIT_ID_MAX}"
        )
    inverter, meter = compile_layouts(profile)
    return {unit_id: DeviceImage(plant, device, inverter), meter_id: DeviceImage(plant, device, meter)}
