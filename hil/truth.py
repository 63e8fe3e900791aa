"""From the plant's state to rows of truth.

A quiet device gets a row at each coarse instant (poll, change of load, edge of an event); a device that is
not quiet gets one at every instant it is offered.  Means come from the plant's meters, extremes from its
marks, so a long row loses nothing that the judge looks at.  Voltage and reactive power are those at its end.
Where homes share a feeder, its loading gets a row at each coarse instant.

Rule of this file: an instant is only copied; the arithmetic is done for many instants at once.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from ridethrough.emulator.fields import INPUT, STATE
from ridethrough.emulator.params import J_PER_WH
from ridethrough.emulator.plant import Plant

from .record import RecordWriter

Mask = NDArray[np.bool_]

_METERS: Final = ("discharge_j", "charge_j", "import_j", "export_j", "pv_j", "backup_served_j")
_STATE: Final = (
    "status",
    "energy_j",
    "energy_j_low",
    "energy_j_high",
    "power_w_low",
    "power_w_high",
    "slew_w_per_s_high",
    "dead_import_w_high",
    "reactive_var",
    *_METERS,
)
_INPUT: Final = ("grid_good", "load_w", "voltage_pu")
_STATE_AT: Final = [STATE.index(name) for name in _STATE]
_INPUT_AT: Final = [INPUT.index(name) for name in _INPUT]
_BUFFER_BYTES: Final = 16 * 2**20
_INSTANTS_MAX: Final = 512
_FEEDER: Final = ("transformer_va", "transformer_frac", "heat_frac", "branch_frac_max", "overload_s")


class TruthLog:
    """Writes what really happened.

    Parameters
    ----------
    plant : Plant
    writer : RecordWriter
    """

    def __init__(self, plant: Plant, writer: RecordWriter) -> None:
        self._plant = plant
        self._writer = writer
        self._backup_frac = plant.params("backup_frac")
        tiles, _, lanes = plant.state.shape
        bytes_each = 8 * tiles * lanes * (len(_STATE) + len(_INPUT))
        size = max(2, min(_INSTANTS_MAX, _BUFFER_BYTES // bytes_each))
        self._state = np.empty((size, tiles, len(_STATE), lanes))
        self._input = np.empty((size, tiles, len(_INPUT), lanes))
        self._rows = np.empty((size, plant.n), dtype=np.bool_)
        self._t_ns = np.empty(size, dtype=np.int64)
        self._filled = 0
        self._last_ns = np.zeros(plant.n, dtype=np.int64)
        self._last_j = {name: plant.states(name) for name in _METERS}
        self._status = plant.state[:, STATE.index("status"), :]
        self._grid_good = plant.input[:, INPUT.index("grid_good"), :]
        self._feeder_rows: list[tuple[float, ...]] = []

    def unsettled(self) -> Mask:
        """Return the devices that are not simply following a good grid, shape (n,)."""
        unsettled: Mask = (self._status != 0.0) | (self._grid_good == 0.0)
        return unsettled.reshape(-1)[: self._plant.n]

    def write(self, now_ns: int, rows: Mask | None = None) -> None:
        """Write one row for each device in `rows`, default all, over the time since its last one.

        An instant of all devices is a coarse one, at which the feeder gets its row.

        Each instant may be written once, in order of time; the inputs must not have changed since the
        last row of a device that is written.
        """
        k = self._filled
        np.take(self._plant.state, _STATE_AT, axis=1, out=self._state[k])
        np.take(self._plant.input, _INPUT_AT, axis=1, out=self._input[k])
        if rows is None:
            self._note_feeder(now_ns)
        self._rows[k] = True if rows is None else rows
        self._t_ns[k] = now_ns
        self._filled = k + 1
        self._plant.mark(rows)
        if self._filled == len(self._t_ns):
            self.flush()

    def flush(self) -> None:
        """Hand everything written so far to the record."""
        self._flush_feeder()
        count = self._filled
        if count == 0:
            return
        self._filled = 0
        # By device and then by time, so that a row's predecessor is its neighbour.
        rows = self._rows[:count].T
        device, k = np.nonzero(rows)
        if not device.size:  # instants at which nobody had a row
            return
        state = _columns(self._state[:count], _STATE, rows)
        world = _columns(self._input[:count], _INPUT, rows)
        first = np.concatenate([[True], device[1:] != device[:-1]])
        last = np.concatenate([device[1:] != device[:-1], [True]])
        t_ns = self._t_ns[k]
        dt_ns = t_ns - np.where(first, self._last_ns[device], np.concatenate([[0], t_ns[:-1]]))
        self._last_ns[device[last]] = t_ns[last]
        mean_w = {}
        for name in _METERS:
            meter_j = state[name]
            before_j = np.where(first, self._last_j[name][device], np.concatenate([[0.0], meter_j[:-1]]))
            mean_w[name] = (meter_j - before_j) / (dt_ns / 1e9)
            self._last_j[name][device[last]] = meter_j[last]
        columns = {
            "t_ns": t_ns,
            "dt_ns": dt_ns,
            "device": device,
            "status": state["status"],
            "grid_good": world["grid_good"],
            "energy_wh": state["energy_j"] / J_PER_WH,
            "energy_wh_low": state["energy_j_low"] / J_PER_WH,
            "energy_wh_high": state["energy_j_high"] / J_PER_WH,
            "power_w": mean_w["discharge_j"] - mean_w["charge_j"],
            "power_w_low": state["power_w_low"],
            "power_w_high": state["power_w_high"],
            "slew_w_per_s_high": state["slew_w_per_s_high"],
            "import_w": mean_w["import_j"] - mean_w["export_j"],
            "dead_import_w_high": state["dead_import_w_high"],
            "pv_w": mean_w["pv_j"],
            "load_w": world["load_w"],
            "backup_load_w": world["load_w"] * self._backup_frac[device],
            "backup_served_w": mean_w["backup_served_j"],
            "voltage_pu": np.where(world["grid_good"] != 0.0, world["voltage_pu"], 0.0),
            "reactive_var": state["reactive_var"],
        }
        order = np.argsort(k * self._plant.n + device)  # back to the order of time
        self._writer.append_truth({name: column[order] for name, column in columns.items()})

    def _note_feeder(self, now_ns: int) -> None:
        coupling = self._plant.coupling
        feeder = None if coupling is None else coupling.feeder
        if feeder is not None:
            self._feeder_rows.append((now_ns, *(getattr(feeder, name) for name in _FEEDER)))

    def _flush_feeder(self) -> None:
        if self._feeder_rows:
            t_ns, *columns = zip(*self._feeder_rows, strict=True)
            self._feeder_rows = []
            self._writer.append_feeder(
                {
                    "t_ns": np.array(t_ns, dtype=np.int64),
                    **{name: np.array(column) for name, column in zip(_FEEDER, columns, strict=True)},
                }
            )


def _columns(
    instants: NDArray[np.float64], names: tuple[str, ...], rows: Mask
) -> dict[str, NDArray[np.float64]]:
    """Return fields of many instants, only where `rows`, by device and then time.

    Parameters
    ----------
    instants : ndarray, shape (instants, tiles, fields, LANES)
    names : tuple of str
        Of the fields.
    rows : Mask, shape (n, instants)
    """
    flat = instants.transpose(2, 1, 3, 0).reshape(len(names), -1, len(instants))[:, : len(rows)]
    return {name: flat[f][rows] for f, name in enumerate(names)}
