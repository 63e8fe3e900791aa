"""The community island: a municipal node forms a grid, homes join it and carry it together.

Duty: who is a member, and what each member's battery gives.  Pure arithmetic on arrays and a small state
machine; the caller (the plant) knows energies, loads and switches, and obeys.

Sharing.  All members see one frequency f.  Member i, with droop k_i [W/Hz], set-point and capability, gives::

    P_i(f) = clip(P_set_i + (f0 - f) k_i, P_low_i, P_high_i)         k_i = rating_i / (mp f0)
    sum P_i(f) = load - PV(f)

What a member at its limit cannot give, the others give (water filling).  An isochronous master has an
infinite k: f stays f0 until it is at a limit.  PV inverters that know droop are members too, between 0 and
what the sun gives, with ``1 - (f - f0 - db) / (f0 k)`` as their share; the others deliver everything until
they trip.  Beyond [f_low, f_high] nobody follows: what is then missing is unserved, what is too much is
surplus, and either is the end of the island.  Voltage and reactive power go the same way, with V for f.

Life.  ``off`` → ``forming`` → ``joining`` (one home after another) → ``running`` → collapse → ``lockout`` →
``forming`` ... until the grid is back.  The numbers and their sources are in `Rules`, the order of events in
`Community.step`.

Rule of this file: sums by `math.fsum`, which rounds once and knows no order, however members are numbered.

Not modelled: inertia and the way to the new frequency (it takes less than a step), circulating currents, line
drops between members, angle and voltage at the moment of closing.

References
----------
"4.2" and the like: sections of the project's reference on inverters.  Droop with limiters after REGFM_A1
(PNNL/WECC, 2023), algebraic as in 4.2; PV droop of IEEE 1547-2018, 6.5.2.7; black start after 4.4.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .fields import TICKS_PER_S

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Contract = Literal["support", "served", "own"]
Phase = Literal["off", "forming", "joining", "running", "lockout"]

F_LOW_FRAC: Final = 0.95
"""Lowest frequency of an island, of nominal: 57.0 of 60 Hz, above the UF2 trip (IEEE 1547-2018, 6.5.1)."""
F_HIGH_FRAC: Final = 1.10
"""Highest: 66 of 60 Hz, the widest frequency shift seen in the field (reference on inverters, 4.3)."""
ROUNDING: Final = 1e-12
"""What is less than this share of all capabilities is neither unserved nor surplus."""
V_LOW_PU: Final = 0.88
V_HIGH_PU: Final = 1.10
"""Continuous operation (IEEE 1547-2018, 6.4.2); an island outside is taken for collapsed."""


class Share(NamedTuple):
    """How a demand is shared."""

    frequency_hz: float  # the same for all
    power_w: Floats  # what each member gives, shape (n,)
    unserved_w: float  # what all together cannot give
    surplus_w: float  # what they cannot help giving; one of the two is 0


def share(
    net_demand_w: float,
    p_low_w: Floats,
    p_high_w: Floats,
    p_set_w: Floats,
    droop_w_per_hz: Floats,
    f_nominal: float,
    *,
    master: int | None = None,
    f_low: float | None = None,
    f_high: float | None = None,
) -> Share:
    """Share a demand among members by droop, within what each can.

    Parameters
    ----------
    net_demand_w : float
        What all together must give [W].
    p_low_w, p_high_w : Floats, shape (n,)
        Capability now; charging is negative [W].
    p_set_w : Floats, shape (n,)
        Power at nominal frequency [W].
    droop_w_per_hz : Floats, shape (n,)
        Rise of power per fall of frequency; 0 holds the set-point, infinite holds the frequency.  Several
        infinite ones share in proportion to their ranges [W/Hz].
    f_nominal : float
        Frequency at which members give their set-points [Hz].
    master : int, optional
        Member that takes the rounding of the sum, where it is not at a limit.
    f_low, f_high : float, optional
        Bounds of the frequency; 0.95 and 1.1 of nominal if not given [Hz].

    Returns
    -------
    Share
        With ``sum(power_w) + unserved_w - surplus_w = net_demand_w``.

    Raises
    ------
    ValueError
        When a capability is empty, or not a number.
    """
    low, high, k = p_low_w, p_high_w, droop_w_per_hz
    if not bool(np.all(low <= high)):
        raise ValueError("p_low_w must not be above p_high_w, nor be not a number")
    firm = np.isinf(k)
    if bool(firm.any()):
        k = np.where(firm, 0.0, k)
        others_w = np.where(firm, 0.0, _given(0.0, low, high, p_set_w, k))
        missing_w = math.fsum([net_demand_w, *(-others_w).tolist()])
        firm_low, firm_high = math.fsum(low[firm].tolist()), math.fsum(high[firm].tolist())
        if firm_low <= missing_w <= firm_high:
            span = firm_high - firm_low
            place = (missing_w - firm_low) / span if span > 0.0 else 0.0
            power_w = np.where(firm, np.minimum(low + place * (high - low), high), others_w)
            return Share(f_nominal, _rounded(power_w, net_demand_w, low, high, master), 0.0, 0.0)
        limit = high if missing_w > firm_high else low
        low, high = np.where(firm, limit, low), np.where(firm, limit, high)
    missing_w = net_demand_w - math.fsum(_given(0.0, low, high, p_set_w, k).tolist())
    if missing_w >= 0.0:
        bound_hz = f_nominal * F_LOW_FRAC if f_low is None else f_low
    else:
        bound_hz = f_nominal * F_HIGH_FRAC if f_high is None else f_high
    corners = _corners(low, high, p_set_w, k, f_nominal - bound_hz)
    fall_hz, rest_w = _meet(net_demand_w, missing_w, corners, low, high, p_set_w, k)
    power_w = _given(fall_hz, low, high, p_set_w, k)
    if rest_w and abs(rest_w) > ROUNDING * math.fsum(np.maximum(np.abs(low), np.abs(high)).tolist()):
        return Share(bound_hz, power_w, max(rest_w, 0.0), max(-rest_w, 0.0))
    return Share(f_nominal - fall_hz, _rounded(power_w, net_demand_w, low, high, master), 0.0, 0.0)


def _given(fall_hz: float, low: Floats, high: Floats, p_set_w: Floats, k: Floats) -> Floats:
    """What each member gives at f0 - fall_hz."""
    return np.minimum(np.maximum(p_set_w + fall_hz * k, low), high)


def _corners(low: Floats, high: Floats, p_set_w: Floats, k: Floats, bound: float) -> list[float]:
    """Falls of frequency where a member reaches a limit, in order, between 0 and `bound`, these included."""
    moves = k > 0.0
    slopes = k[moves]
    found = np.concatenate(((low - p_set_w)[moves] / slopes, (high - p_set_w)[moves] / slopes))
    first, last = min(bound, 0.0), max(bound, 0.0)
    return [first, *np.sort(found[(found > first) & (found < last)]).tolist(), last]


def _meet(demand_w: float, missing_w: float, corners: list[float], *curve: Floats) -> tuple[float, float]:
    """Fall of frequency at which the members give the demand, and what is missing even at the bound.

    The sum is piecewise linear and does not fall: the piece that meets the demand is found by halving, and
    solved.  There is no tolerance, and nothing that must converge.
    """

    def total(place: int) -> float:
        return math.fsum(_given(corners[place], *curve).tolist())

    a, b = 0, len(corners) - 1
    total_a, total_b = total(a), total(b)
    if demand_w > total_b:
        return corners[b], demand_w - total_b
    if demand_w < total_a:
        return corners[a], demand_w - total_a
    # With nobody at a limit the piece is known; otherwise these two tries are as good as any.
    guess = bisect_left(corners, missing_w / (math.fsum(curve[-1].tolist()) or 1.0))
    tries = [guess - 1, guess]
    while b - a > 1:
        middle = tries.pop() if tries else (a + b) // 2
        if not a < middle < b:
            continue
        total_middle = total(middle)
        if total_middle < demand_w:
            a, total_a = middle, total_middle
        else:
            b, total_b = middle, total_middle
    if total_b == total_a:  # nobody moves on this piece, and the demand is met on all of it
        return min(corners[a], corners[b], key=abs), 0.0
    fall_hz = corners[a] + (demand_w - total_a) / (total_b - total_a) * (corners[b] - corners[a])
    return min(fall_hz, corners[b]), 0.0


def _rounded(power_w: Floats, demand_w: float, low: Floats, high: Floats, master: int | None) -> Floats:
    """Give the rounding of the sum to the master, as far as it is not at a limit."""
    if master is not None and low[master] < power_w[master] < high[master]:
        rest_w = math.fsum([demand_w, *(-power_w).tolist()])
        power_w[master] = min(max(float(power_w[master]) + rest_w, float(low[master])), float(high[master]))
    return power_w


def pv_factor(
    frequency_hz: float, *, f_nominal: float, deadband_hz: float, droop_frac: float, trip_hz: float
) -> float:
    """Return the share of the sun's power that a PV inverter delivers with dbOF, kOF and OF2 of IEEE 1547.

    Frequencies are in Hz; `droop_frac` and the result are in per unit, the latter in [0, 1].
    """
    if frequency_hz > trip_hz:
        return 0.0
    return min(max(1.0 - (frequency_hz - f_nominal - deadband_hz) / (droop_frac * f_nominal), 0.0), 1.0)


@dataclass(frozen=True)
class Rules:
    """What governs one community island, each number with its source.

    A home's contract is ``support`` (gives and takes), ``served`` (brings load and PV, its battery rests) or
    ``own`` (stays alone).  An isochronous master holds nominal frequency until it is at a limit, and homes
    give their set-points until then (4.4); else all share by droop, by their ratings, from the start.
    """

    master: int  # the device that forms the island: the municipal node; its own contract does not matter
    contract: tuple[Contract, ...]  # length n
    power_w_rated: tuple[float, ...]  # continuous, length n: base of the droop, and of the master's overload
    isochronous: bool = False
    frequency_hz: float = 60.0
    droop_frac: float = 0.01  # 4.2: mp, fall of frequency at full load
    voltage_droop_frac: float = 0.05  # 4.2: mq, fall of voltage at full reactive load
    join_s: float = 60.0  # assumed: stable island before anybody may join
    stagger_s: float = 22.0  # 4.4: between restorations of loads of one product; here between homes
    step_frac: float = 0.3  # 4.4: loads by steps of 0.3 pu, here of the master's headroom
    surge_s: float = 10.0  # 3.1, of home systems: how long the master may exceed its rating
    retry_s: tuple[float, ...] = (600.0, 1200.0, 2400.0, 7200.0)  # 4.4: lock-outs, the last again and again
    # A run longer than the last lock-out clears the count: assumed.
    spare_s_join: float = 300.0  # assumed: spare energy, at its rating, of a home that joins
    pv_deadband_hz: float = 0.036  # IEEE 1547-2018, 6.5.2.7, default
    pv_droop_frac: float = 0.05  # the same
    pv_trip_hz: float = 62.0  # IEEE 1547-2018, 6.5.1, OF2
    pv_legacy_trip_hz: float = 60.5  # IEEE 1547-2003, narrow profile (engineering knowledge)

    def __post_init__(self) -> None:
        n = len(self.contract)
        if not 0 <= self.master < n:
            raise ValueError(f"found master {self.master}; allowed 0 to {n - 1}, one of the {n} devices")
        if len(self.power_w_rated) != n or not all(0.0 < value < math.inf for value in self.power_w_rated):
            raise ValueError(f"found power_w_rated {self.power_w_rated}; allowed {n} positive numbers")
        if unknown := set(self.contract) - {"support", "served", "own"}:
            raise ValueError(f"found contract {sorted(unknown)}; allowed support, served, own")
        if not self.retry_s:
            raise ValueError("found no retry_s; allowed at least one time")


@dataclass(frozen=True)
class Offer:
    """What the devices are and can in one step, arrays of shape (n,)."""

    ready: Mask  # islanded and sound: able to join, or to stay; of the master: it forms its own island
    load_w: Floats  # demand each would bring, not negative
    pv_w_droop: Floats  # what PV with frequency droop would deliver; 0 while it waits to return
    pv_w_trip: Floats  # the same of PV without
    power_w_low: Floats  # what each battery can take during this step; charging is negative
    power_w_high: Floats  # what it can give, the master's surge included
    power_w_set: Floats  # set-points at nominal frequency
    spare_j: Floats  # what a home's terminals could give above its own promise; no more goes to others
    load_var: Floats | None = None  # reactive demand; without it the voltage is nominal
    var_max: Floats | None = None  # what each inverter can give either way


@dataclass
class Outcome:
    """What one step of the community island comes to, arrays of shape (n,)."""

    phase: Phase  # after the step
    members: Mask  # connected to the community during the step, the master included
    joined: Mask  # at the beginning of the step
    left: Mask  # the same; in a collapse and at the return all leave
    share_w: Floats  # what each member's inverter gives; 0 of others
    share_var: Floats
    pv_w: Floats  # what the members' PV delivers
    pv_tripped: Mask  # whose PV has tripped on frequency in this step
    frequency_hz: float = 0.0  # of the island; 0 without one
    voltage_pu: float = 0.0
    unserved_w: float = 0.0  # why it collapsed, if it did
    surplus_w: float = 0.0
    collapsed: bool = False
    returned: bool = False  # back on the grid, all members together through the master's switch


class Balance(NamedTuple):
    """A balance of load, PV and batteries."""

    share: Share
    pv_frac: float  # what PV with droop delivers of what it could
    droop_pv_tripped: bool
    legacy_pv_tripped: bool


def balance(
    rules: Rules,
    load_w: float,
    pv_w: tuple[float, float],
    low_w: Floats,
    high_w: Floats,
    set_w: Floats,
    droop_w_per_hz: Floats,
    master: int | None = None,
) -> Balance:
    """Balance an island with PV: surplus raises the frequency until PV curtails itself, or trips.

    `pv_w` is what PV with droop, and PV that only trips, would deliver [W]; the rest is as in `share`.
    """
    with_droop_w, legacy_w = pv_w
    k = with_droop_w / (rules.pv_droop_frac * rules.frequency_hz)
    low = np.concatenate((low_w, [0.0]))
    high = np.concatenate((high_w, [with_droop_w]))
    at_nominal = np.concatenate((set_w, [with_droop_w + k * rules.pv_deadband_hz]))
    droop = np.concatenate((droop_w_per_hz, [k]))
    f_nominal = rules.frequency_hz
    droop_tripped = legacy_tripped = False
    while True:
        demand_w = load_w - (0.0 if legacy_tripped else legacy_w)
        found = share(demand_w, low, high, at_nominal, droop, f_nominal, master=master)
        # The lower limit is crossed first; with that PV gone the frequency falls back.
        if legacy_w > 0.0 and not legacy_tripped and found.frequency_hz > rules.pv_legacy_trip_hz:
            legacy_tripped = True
        elif with_droop_w > 0.0 and not droop_tripped and found.frequency_hz > rules.pv_trip_hz:
            droop_tripped, high[-1] = True, 0.0
        else:
            break
    pv_frac = float(found.power_w[-1]) / with_droop_w if with_droop_w > 0.0 else 0.0
    return Balance(found._replace(power_w=found.power_w[:-1]), pv_frac, droop_tripped, legacy_tripped)


@dataclass
class Community:
    """The community island of one scenario; `members` is empty outside ``joining`` and ``running``."""

    rules: Rules
    phase: Phase = "off"
    members: Mask = field(init=False)
    attempts: int = 0  # collapses since the last return or long run: the next place in `retry_s`
    _phase_ticks: int = 0  # in the present phase; joining and running count as one
    _apart_ticks: int = 0  # since the last home joined
    _surge_ticks: int = 0  # of the master, without a break
    _headroom_w: float = 0.0  # of the master, after the last step

    def __post_init__(self) -> None:
        self.members = np.zeros(len(self.rules.contract), dtype=np.bool_)
        self._rated_w = np.array(self.rules.power_w_rated)
        self._supports = np.array([c == "support" for c in self.rules.contract])
        self._supports[self.rules.master] = True
        self._may_join = np.array([c != "own" for c in self.rules.contract])
        droop = self._rated_w / (self.rules.droop_frac * self.rules.frequency_hz)
        if self.rules.isochronous:
            droop[self.rules.master] = math.inf
        self._droop_w_per_hz = np.where(self._supports, droop, 0.0)

    def step(self, ticks: int, offer: Offer, *, grid_back: bool) -> Outcome:
        """Move the island on by one step of `ticks`, each 20 ms.

        `grid_back` says that the master has synchronised: its switch to the grid closes now.

        Notes
        -----
        In this order: return, phase, homes that leave, at most one home that joins, balance, collapse.  A
        home leaves when it is no longer ready, or when it has nothing left for others.  It never spends more:
        its capability is cut to its own demand and `Offer.spare_j`.
        """
        before = self.members.copy()
        if grid_back:
            self._enter("off")
            self.attempts = 0
            return self._end(before, returned=bool(before.any()))
        self._wait(ticks, bool(offer.ready[self.rules.master]))
        if self.phase not in ("joining", "running"):
            return self._end(before)
        if not offer.ready[self.rules.master]:
            return self._collapse(before, 0.0, 0.0)
        spent = self._supports & (offer.spare_j <= 0.0)
        spent[self.rules.master] = False
        self.members &= offer.ready & ~spent
        self._join(ticks, offer)
        return self._carry(ticks, offer, before)

    def _wait(self, ticks: int, master_ready: bool) -> None:
        """Let the phases that only wait come to their ends."""
        rules = self.rules
        if self.phase == "lockout":
            wait_s = rules.retry_s[min(self.attempts, len(rules.retry_s)) - 1]
            if self._phase_ticks >= round(wait_s * TICKS_PER_S):
                self._enter("off")
        if self.phase == "off" and master_ready:
            self._enter("forming")
        elif self.phase == "forming" and not master_ready:
            self._enter("off")
        if self.phase == "forming" and self._phase_ticks >= round(rules.join_s * TICKS_PER_S):
            self._enter("joining")
            self.members[rules.master] = True
            self._apart_ticks = round(rules.stagger_s * TICKS_PER_S)
            self._headroom_w = 0.0
        self._phase_ticks += ticks
        if self.phase in ("joining", "running") and self._phase_ticks > round(
            rules.retry_s[-1] * TICKS_PER_S
        ):
            self.attempts = 0

    def _join(self, ticks: int, offer: Offer) -> None:
        """Let the first home in that may, when it is time and the master can bear its step of load."""
        spare_j = np.where(self._supports, self._rated_w * self.rules.spare_s_join, -math.inf)
        waiting = offer.ready & self._may_join & ~self.members & (offer.spare_j >= spare_j)
        self.phase = "joining" if bool(waiting.any()) else "running"
        self._apart_ticks += ticks
        if self._apart_ticks < round(self.rules.stagger_s * TICKS_PER_S):
            return
        step_w = np.abs(offer.load_w - offer.pv_w_droop - offer.pv_w_trip)
        fits = np.flatnonzero(waiting & (step_w <= self.rules.step_frac * self._headroom_w))
        if fits.size:
            self.members[fits[0]] = True
            self._apart_ticks = 0

    def _carry(self, ticks: int, offer: Offer, before: Mask) -> Outcome:
        """Balance the island as it is now, and see whether it holds."""
        rules, who = self.rules, np.flatnonzero(self.members)
        master = int(np.searchsorted(who, rules.master))
        low, high, kept_w = self._capability(ticks, offer, who, master)
        load_w = math.fsum(offer.load_w[who].tolist())
        pv_w = math.fsum(offer.pv_w_droop[who].tolist()), math.fsum(offer.pv_w_trip[who].tolist())
        set_w, droop = np.where(self._supports[who], offer.power_w_set[who], 0.0), self._droop_w_per_hz[who]
        steady_w = float(high[master])
        found = balance(rules, load_w, pv_w, low, high, set_w, droop, master)
        if found.share.unserved_w > 0.0 and kept_w > 0.0:  # only then does the master go beyond its rating
            high[master] += kept_w
            found = balance(rules, load_w, pv_w, low, high, set_w, droop, master)
        given = found.share
        master_w = float(given.power_w[master])
        self._surge_ticks = self._surge_ticks + ticks if master_w > self._rated_w[rules.master] else 0
        self._headroom_w = max(steady_w - master_w, 0.0)
        voltage = self._voltage(offer, who)
        missing = (given.unserved_w, given.surplus_w, voltage.unserved_w, voltage.surplus_w)
        if any(missing) or self._surge_ticks > round(rules.surge_s * TICKS_PER_S):
            return self._collapse(before, given.unserved_w, given.surplus_w)
        outcome = self._end(before)
        outcome.share_w[who], outcome.share_var[who] = given.power_w, voltage.power_w
        legacy_frac = 0.0 if found.legacy_pv_tripped else 1.0
        outcome.pv_w[who] = offer.pv_w_droop[who] * found.pv_frac + offer.pv_w_trip[who] * legacy_frac
        outcome.pv_tripped = self.members & (
            (found.droop_pv_tripped & (offer.pv_w_droop > 0.0))
            | (found.legacy_pv_tripped & (offer.pv_w_trip > 0.0))
        )
        outcome.frequency_hz, outcome.voltage_pu = given.frequency_hz, voltage.frequency_hz
        return outcome

    def _capability(
        self, ticks: int, offer: Offer, who: NDArray[np.intp], master: int
    ) -> tuple[Floats, Floats, float]:
        """Limits of the members, own reserves respected, and what the master keeps for a surge."""
        supports = self._supports[who]
        own_w = np.maximum(offer.load_w[who] - offer.pv_w_droop[who] - offer.pv_w_trip[who], 0.0)
        allowed_w = own_w + np.maximum(offer.spare_j[who], 0.0) / (ticks / TICKS_PER_S)
        allowed_w[master] = math.inf
        high = np.where(supports, np.minimum(offer.power_w_high[who], allowed_w), 0.0)
        low = np.where(supports, np.minimum(offer.power_w_low[who], high), 0.0)
        kept_w = max(float(high[master] - self._rated_w[self.rules.master]), 0.0)
        high[master] -= kept_w
        return low, high, kept_w

    def _voltage(self, offer: Offer, who: NDArray[np.intp]) -> Share:
        """Share the reactive demand; the voltage takes the frequency's place."""
        if offer.load_var is None or offer.var_max is None:
            return Share(1.0, np.zeros(who.size), 0.0, 0.0)
        most_var = np.where(self._supports[who], offer.var_max[who], 0.0)
        demand_var = math.fsum(offer.load_var[who].tolist())
        k = most_var / self.rules.voltage_droop_frac
        return share(
            demand_var, -most_var, most_var, np.zeros(who.size), k, 1.0, f_low=V_LOW_PU, f_high=V_HIGH_PU
        )

    def _collapse(self, before: Mask, unserved_w: float, surplus_w: float) -> Outcome:
        self._enter("lockout")
        self.attempts += 1
        outcome = self._end(before)
        outcome.collapsed, outcome.unserved_w, outcome.surplus_w = True, unserved_w, surplus_w
        return outcome

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.members[:] = False
        self._phase_ticks = self._surge_ticks = 0

    def _end(self, before: Mask, *, returned: bool = False) -> Outcome:
        """Return an outcome without powers; `_carry` fills them in."""
        now, n = self.members.copy(), len(self.members)
        zeros = np.zeros(n)
        return Outcome(
            phase=self.phase,
            members=now,
            joined=now & ~before,
            left=before & ~now,
            share_w=zeros,
            share_var=zeros.copy(),
            pv_w=zeros.copy(),
            pv_tripped=np.zeros(n, dtype=np.bool_),
            returned=returned,
        )
