"""Numbers of the states, as the columns hold them."""

from __future__ import annotations

from ..fields import CHEMISTRY, COMMUNITY, PV_KIND, REVERT, RIDE, STATUS

ON_GRID, ENTER, TRANSFER, ISLAND, OVERLOAD, EMPTY, REJOIN, MEMBER = (float(k) for k in range(len(STATUS)))
CONTINUOUS, RIDE_THROUGH, CESSATION = (float(k) for k in range(len(RIDE)))
IDLE, SELF_CONSUMPTION, RECHARGE = (float(k) for k in range(len(REVERT)))
PV_COMMANDED, PV_DROOP, PV_TRIPS = (float(k) for k in range(len(PV_KIND)))
COLLAPSED, ALONE, JOINED, RETURNED = (float(k) for k in COMMUNITY.values())
LFP, NMC = (float(k) for k in range(len(CHEMISTRY)))
