"""A trivially simple battery for the judge's tests: it makes records by hand, without plant or bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ridethrough.hil.header import STATUS_NAMES, completed
from ridethrough.hil.record import TABLES, Record

NS = 1_000_000_000
START_OF_DAY_NS = 18 * 3600 * NS
RESERVE_WH = 1000.0 + (1000.0 * 1.04 + 30.0) * 4.0 + 10.0
"""Reserve of `device()`, by hand: floor, four hours of 1 kW at 4 % loss plus 30 W, one SoC step."""


def device(name: str = "home-01", **changes: Any) -> dict[str, Any]:
    """Return an entry of run.json's devices; `hours_h`, `load_w` and their like go into its commitment."""
    commitment = {"hours_h": 4.0, "load_w": 1000.0, "transfer_s": 1.0, "recovery_s": 300.0}
    commitment = {key: changes.pop(key, value) for key, value in commitment.items()}
    return {
        "name": name,
        "profile": "simple",
        "energy_wh": 10_000.0,
        "soc_frac_min": 0.1,
        "soc_frac_max": 1.0,
        "soc_frac_floor": changes.get("soc_frac_min", 0.1),
        "soc_frac_step": 0.001,
        "soc_frac_error_max": 0.0,
        "power_w_discharge_max": 5000.0,
        "power_w_charge_max": 5000.0,
        "power_w_discharge_sure": 5000.0,
        "power_w_charge_sure": 5000.0,
        "power_w_surge": 7000.0,
        "power_w_nominal": 5000.0,
        "loss_a_w": 100.0,
        "loss_b_w": 100.0,
        "loss_c_w": 20.0,
        "standby_w": 10.0,
        "ohm_per_w_max": 0.0,
        "self_discharge_frac_per_h": 0.0,
        "taper_soc_frac": 1.0,
        "taper_frac_min": 1.0,
        "ramp_w_per_s": 5000.0,
        "transfer_s": commitment["transfer_s"],
        "enter_delay_s": 300.0,
        "enter_ramp_s": 300.0,
        "enter_voltage_pu_low": 0.917,
        "enter_voltage_pu_high": 1.05,
        "sync_s": 0.0,
        "break_s": 0.0,
        "restart_s": 60.0,
        "restart_growth": 1.0,
        "restart_s_max": changes.get("restart_s", 60.0),
        "revert_state": "idle",
        "has_reserve": False,
        "reserve_writes_per_day_max": 50,
        "commitment": commitment,
        **changes,
    }


def header(devices: Sequence[Mapping[str, Any]], duration_s: float, **changes: Any) -> dict[str, Any]:
    """Return a header for these devices."""
    return completed(
        {
            "scenario": "by-hand",
            "controller": "none",
            "seed": 1,
            "level": "mil",
            "start_of_day_ns": START_OF_DAY_NS,
            "duration_ns": round(duration_s * NS),
            "status_names": list(STATUS_NAMES),
            "devices": list(devices),
            "events": [],
            "feeder": changes.pop("feeder_facts", None),
            **changes,
        }
    )


HEADER = header([device(f"home-{i}") for i in range(3)], 100.0)
"""A header for rows that nobody judges."""


def block(table: str, first: int, rows: int) -> dict[str, NDArray[Any]]:
    """Return rows whose every value is a function of its row number and column."""
    number = np.arange(first, first + rows)
    return {c: (number + 1000 * k).astype(kind) for k, (c, kind) in enumerate(TABLES[table].items())}


class Walk:
    """Rows of one home, laid down one stretch after the other."""

    def __init__(self, energy_wh: float) -> None:
        self.t_s = 0.0
        self.energy_wh = energy_wh
        self.rows: list[dict[str, float]] = []

    def go(
        self,
        seconds: float,
        *,
        to_wh: float | None = None,
        dt_s: float = 1.0,
        status: str = "on_grid",
        good: bool = True,
        load_w: float = 500.0,
        served_w: float | None = None,
        power_w: float = 0.0,
        **columns: float,
    ) -> Walk:
        """Add rows; the energy goes straight to `to_wh`, or stays."""
        count = round(seconds / dt_s)
        target_wh = self.energy_wh if to_wh is None else to_wh
        energies = np.linspace(self.energy_wh, target_wh, count + 1)
        for before, after in zip(energies[:-1].tolist(), energies[1:].tolist(), strict=True):
            self.t_s += dt_s
            row = dict.fromkeys(TABLES["truth"], 0.0)
            row |= {"voltage_pu": float(good)}
            row |= {"t_ns": round(self.t_s * NS), "dt_ns": round(dt_s * NS), "grid_good": float(good)}
            row |= {
                "energy_wh": after,
                "energy_wh_low": min(before, after),
                "energy_wh_high": max(before, after),
            }
            row |= {"power_w": power_w, "power_w_low": power_w, "power_w_high": power_w}
            row |= {"load_w": load_w, "backup_load_w": load_w, "status": STATUS_NAMES.index(status)}
            row["backup_served_w"] = load_w if served_w is None else served_w
            self.rows.append(row | columns)
        self.energy_wh = target_wh
        return self

    def dark(self, seconds: float, *, good: bool = False, status: str = "transfer", **more: Any) -> Walk:
        """Add rows without service."""
        return self.go(seconds, good=good, status=status, served_w=0.0, **more)

    def island(self, seconds: float, *, good: bool = False, **more: Any) -> Walk:
        """Add rows of islanded service."""
        return self.go(seconds, good=good, status="island", **more)


def record(
    walks: Sequence[Walk],
    devices: Sequence[Mapping[str, Any]] | None = None,
    *,
    commands: Sequence[Mapping[str, float]] = (),
    feeder: Sequence[Mapping[str, float]] = (),
    end: Mapping[str, Any] | None = None,
    finished: bool = True,
    **changes: Any,
) -> Record:
    """Return the record of these homes, rows in order of time."""
    devices = devices if devices is not None else [device(f"home-{i + 1:02d}") for i in range(len(walks))]
    duration_s = max((walk.t_s for walk in walks), default=1.0)
    rows = [{**row, "device": float(i)} for i, walk in enumerate(walks) for row in walk.rows]
    rows.sort(key=lambda row: (row["t_ns"], row["device"]))
    nothing = {
        "t_ns": 0,
        "arrival_ns": 0,
        "reserve_soc_frac": np.nan,
        "power_w": np.nan,
        "validity_s": np.nan,
        "outcome": 0.0,
        "device": 0.0,
    }
    ended = {"reason": "completed", "detail": "", "bench_fault": "", **(end or {})}
    return Record(
        header=header(devices, **{"duration_s": duration_s, **changes}),
        truth=_columns("truth", rows),
        commands=_columns("commands", [{**nothing, **command} for command in commands]),
        telemetry=_columns("telemetry", []),
        feeder=_columns("feeder", feeder),
        end=ended if finished else None,
    )


def _columns(table: str, rows: Sequence[Mapping[str, float]]) -> dict[str, NDArray[Any]]:
    return {name: np.array([row[name] for row in rows], dtype=kind) for name, kind in TABLES[table].items()}


class Live:
    """A battery that does what such a battery does, in steps of 10 s: it serves until it is empty.

    On the grid it idles, except that `patience_s` after it can act it charges at the greatest power the
    enter-service ramp allows whenever it is below its reserve.
    """

    DT_S = 10.0

    def __init__(self, energy_wh: float, *, patience_s: float, hours_h: float = 4.0) -> None:
        self.walk = Walk(energy_wh)
        self.patience_s = patience_s
        self.reserve_wh = 1010.0 + 1070.0 * hours_h
        self.status = "on_grid"
        self.waited_s = 0.0  # good grid, before it may follow it
        self.acting_s = 0.0
        self.ramp_s = 0.0

    def run(self, loads_w: Sequence[float], *, good: bool) -> None:
        """Go on for one step per load."""
        for load_w in loads_w:
            self._switch(good)
            if self.status == "island":
                self._serve(load_w, good)
            elif self.status == "empty":
                self._row(0.0, good, load_w, served_w=0.0)
            elif self.status == "enter":
                self._row(-10.0, good, load_w, served_w=load_w)
            else:
                self._row(self._charge_w() - 10.0, good, load_w, served_w=load_w)
                self.acting_s += self.DT_S

    def _switch(self, good: bool) -> None:
        self.dark_s = 0.0
        if not good:
            if self.status in ("on_grid", "enter"):
                self.status, self.dark_s = "island", 1.0
            self.waited_s = 0.0
        elif self.status == "empty":
            self.status, self.waited_s = "enter", 0.0
        elif self.status != "on_grid" and self.waited_s >= 300.0:
            self.status, self.acting_s, self.ramp_s = "on_grid", 0.0, 300.0
        self.waited_s += self.DT_S if good else 0.0

    def _charge_w(self) -> float:
        if self.acting_s < self.patience_s or self.walk.energy_wh >= self.reserve_wh + 1.0:
            return 0.0
        power_w = 5000.0 * (min(self.acting_s / self.ramp_s, 1.0) if self.ramp_s else 1.0)
        return max(power_w - 4e-6 * power_w * power_w - 0.02 * power_w - 20.0, 0.0)

    def _serve(self, load_w: float, good: bool) -> None:
        drain_w = (load_w + 4e-6 * load_w * load_w + 0.02 * load_w + 20.0 if load_w else 0.0) + 10.0
        lit_s = self.DT_S - self.dark_s
        lasts_s = max(self.walk.energy_wh - 1000.0, 0.0) / drain_w * 3600.0
        if lasts_s < lit_s:
            self.status = "empty"
            lit_s = lasts_s
        self._row(-drain_w * lit_s / self.DT_S, good, load_w, served_w=load_w * lit_s / self.DT_S)

    def _row(self, stored_w: float, good: bool, load_w: float, *, served_w: float) -> None:
        to_wh = min(max(self.walk.energy_wh + stored_w * self.DT_S / 3600.0, 1000.0), 10_000.0)
        self.walk.go(
            self.DT_S,
            dt_s=self.DT_S,
            to_wh=to_wh,
            status=self.status,
            good=good,
            load_w=load_w,
            served_w=served_w,
        )
