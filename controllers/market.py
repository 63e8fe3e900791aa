"""A plain price rule that both trading controllers use, so that only their care for the reserve differs."""

from __future__ import annotations

from typing import Final

import numpy as np

from .contract import Capabilities, Floats, Prices

DEAR_QUANTILE: Final = 0.8
CHEAP_QUANTILE: Final = 0.3


def wish_w(device: Capabilities, prices: Prices) -> Floats:
    """Return the power the market would like of each device; NaN for none [W].

    Notes
    -----
    The present price is dear or cheap against the day-ahead prices published for the hours to come; with none
    published nothing is traded.
    """
    n = len(device.energy_wh)
    ahead = prices.ahead_usd_per_mwh
    if ahead.size == 0 or np.isnan(prices.now_usd_per_mwh):
        return np.full(n, np.nan)
    ordered = np.sort(ahead)
    dear = ordered[int(DEAR_QUANTILE * (ahead.size - 1))]
    cheap = ordered[int(CHEAP_QUANTILE * (ahead.size - 1))]
    if prices.now_usd_per_mwh >= dear and dear > cheap:
        return device.power_w_discharge_max.copy()
    if prices.now_usd_per_mwh <= cheap:
        return -device.power_w_charge_max
    return np.full(n, np.nan)
