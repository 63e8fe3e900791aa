"""The figures of docs/model, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.plots import batteries, functions, islands, protection
from tests.plots.figure import Figure, Make

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "model"

FIGURES: Final[dict[str, Callable[[Make], Figure]]] = {
    "volt-var": functions.volt_var,
    "volt-var-step": functions.volt_var_step,
    "vref-auto": functions.vref_auto,
    "volt-watt": functions.volt_watt,
    "watt-var": functions.watt_var,
    "power-factor": functions.power_factor,
    "droop": functions.droop,
    "ride-through": protection.ride_through,
    "trips": protection.trips,
    "enter-service": protection.enter_service,
    "transfer": islands.transfer,
    "return": islands.back,
    "frequency-shift": islands.frequency_shift,
    "shedding": islands.shedding,
    "black-start": islands.black_start,
    "community": islands.community,
    "taper": batteries.taper,
    "temperature": batteries.temperature,
    "ocv": batteries.ocv,
    "efficiency": batteries.efficiency,
    "ageing": batteries.ageing,
    "feeder": batteries.feeder,
}
