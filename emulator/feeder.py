"""The radial feeder that joins homes: its schema, its voltages, its loading.

Duty: the voltage at every home and the load of transformer and cables, from the power at the meters.

With v the square of a voltage, P and Q what flows into a branch from i to j, everything per unit::

    v_j = v_i - 2 (r P + x Q)        LinDistFlow: the losses in the branches are left out

The first branch is the transformer, from a stiff source of `slack_pu` to the bus `busbar`.  Flows are summed
from the leaves up, voltages follow from the busbar down, in the order of the file, one after the other: the
same bits on every machine.  `_network.pyx` does this compiled; `PlainNetwork` does the same operations in the
same order and is its oracle.

The transformer's heat is a first-order follower of the square of its load, with `HEAT_S` as time constant: 1
is where a lasting full load leads.

Not modelled: losses (at 8 kW from every home the voltages are within 1e-3 pu of an AC power flow), imbalance
between phases (a three-phase feeder is seen as balanced), tap changers, cable capacitance.  A feeder that is
dead is the caller's business: it knows which homes the grid has left.

References
----------
Baran and Wu, Network reconfiguration in distribution systems, IEEE Trans. Power Delivery 4(2), 1989.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ._network import Network
from .exact import lag_gain
from .fields import LANES, TICKS_PER_S

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

BUSBAR: Final = "busbar"
"""The bus on the low side of the transformer."""
HEAT_S: Final = 600.0
"""Time constant of the transformer's heat [s]; reference on inverters, section 6."""
_LN_10: Final = 2.302585092994046

Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Ohms = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Transformer(_Strict):
    """The transformer between source and busbar."""

    rating_va: Annotated[float, Field(gt=0, le=1e8, allow_inf_nan=False)]
    impedance_frac: Annotated[float, Field(gt=0, le=0.2, allow_inf_nan=False)]
    """Short-circuit impedance of the rating [1]."""
    x_per_r: Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)]


class Cable(_Strict):
    """A type of cable.  On a single-phase feeder the values are those of the loop, out and back."""

    r_ohm_per_km: Ohms
    x_ohm_per_km: Ohms
    ampacity_a: Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)]


class Branch(_Strict):
    """A length of cable, written away from the transformer."""

    from_bus: Word
    to_bus: Word
    cable: Word
    length_m: Annotated[float, Field(gt=0, le=20_000, allow_inf_nan=False)]


class Feeder(_Strict):
    """One feeder: the schema of fixtures/feeders/*.yaml.

    Notes
    -----
    Every number in a bundled feeder names its source in a comment, or says that it is assumed.
    """

    feeder: Word
    description: str
    source: str
    phases: Literal[1, 3]
    voltage_v: Annotated[float, Field(ge=50, le=1000, allow_inf_nan=False)]
    """Nominal; between phases on three, between the two legs on a centre-tapped one [V]."""
    slack_pu: Annotated[float, Field(ge=0.5, le=1.5, allow_inf_nan=False)]
    """Voltage of the source, as seen behind the transformer without load."""
    transformer: Transformer
    cables: dict[Word, Cable] = {}
    branches: Annotated[tuple[Branch, ...], Field(max_length=10_000)] = ()
    homes: Annotated[tuple[Word, ...], Field(min_length=1, max_length=100_000)]
    """The bus of each home, in the order of the homes."""

    @model_validator(mode="after")
    def _radial(self) -> Feeder:
        fed = {BUSBAR: -1}
        for k, branch in enumerate(self.branches):
            if branch.cable not in self.cables:
                known = ", ".join(self.cables) or "none"
                raise ValueError(f"found cable '{branch.cable}' in branches[{k}]; allowed {known}")
            if branch.to_bus in fed:
                rule = "a tree: every bus but the busbar is the to_bus of one branch"
                raise ValueError(f"found branches[{k}] into bus '{branch.to_bus}' again; allowed {rule}")
            fed[branch.to_bus] = k
        reached = {BUSBAR} | {self.branches[k].to_bus for k in self.order}
        for k, branch in enumerate(self.branches):
            if branch.to_bus not in reached:
                raise ValueError(self._cut_off(k, fed))
        for k, bus in enumerate(self.homes):
            if bus not in fed:
                raise ValueError(
                    f"found bus '{bus}' in homes[{k}]; allowed a to_bus of branches, or {BUSBAR}"
                )
        return self

    def _cut_off(self, k: int, fed: dict[str, int]) -> str:
        """Say why branch k does not hang on the busbar: nothing feeds it, or it feeds itself."""
        path = [k]
        while (above := fed.get(self.branches[path[-1]].from_bus)) is not None:
            if above in path:
                return f"found a cycle through branches[{k}]; allowed a tree with its root at {BUSBAR}"
            path.append(above)
        return (
            f"found branches[{path[-1]}] from orphan bus '{self.branches[path[-1]].from_bus}', which nothing "
            f"feeds; allowed {BUSBAR} or the to_bus of another branch"
        )

    @property
    def order(self) -> tuple[int, ...]:
        """Positions in `branches`, each after the branch that feeds it."""
        leaving: dict[str, list[int]] = {}
        for k, branch in enumerate(self.branches):
            leaving.setdefault(branch.from_bus, []).append(k)
        found = list(leaving.get(BUSBAR, ()))
        for k in found:
            found += leaving.get(self.branches[k].to_bus, ())
        return tuple(found)


def single_bus(rating_va: float, homes: int) -> Feeder:
    """Return a feeder of nothing but a transformer, when no more than its rating is known.

    Parameters
    ----------
    rating_va : float
        Rating [VA].
    homes : int
        Number of homes at its busbar.

    Notes
    -----
    Impedance 4 % and X/R 2.85 are those of a 400 kVA 10/0.4 kV transformer (see fixtures/feeders); 400 V
    between phases and a source at nominal voltage are assumed.
    """
    return Feeder(
        feeder="single-bus",
        description=f"{homes} homes at the busbar of one transformer",
        source="made from the transformer's rating",
        phases=3,
        voltage_v=400.0,
        slack_pu=1.0,
        transformer=Transformer(rating_va=rating_va, impedance_frac=0.04, x_per_r=2.85),
        homes=(BUSBAR,) * homes,
    )


@dataclass(frozen=True)
class Table:
    """A feeder as the solver reads it; bus 0 is the source, bus 1 the busbar, every parent before its child.

    Attributes
    ----------
    parent : ndarray of int32, shape (buses,)
        The bus at the other end of the branch into each bus; 0 for the source itself.
    drop_per_w, drop_per_var : Floats, shape (buses,)
        ``2 r`` and ``2 x`` of that branch: fall of v for each watt and var into it [1/W, 1/var].
    limit_va2 : Floats, shape (buses,)
        Square of what the branch carries at nominal voltage; infinite for source and transformer [VA²].
    home_bus : ndarray of int32, shape (n,)
        The bus of each home.
    rating_va : float
        Of the transformer [VA].
    """

    parent: Ints
    drop_per_w: Floats
    drop_per_var: Floats
    limit_va2: Floats
    home_bus: Ints
    rating_va: float

    @classmethod
    def of(cls, feeder: Feeder) -> Table:
        """Number the buses of a feeder, and bring its impedances to nominal voltage."""
        place = {BUSBAR: 1}
        r_pu = feeder.transformer.impedance_frac / math.sqrt(1.0 + feeder.transformer.x_per_r**2)
        rating_va = feeder.transformer.rating_va
        rows = [(0, 0.0, 0.0, math.inf)]
        rows.append(
            (0, 2.0 * r_pu / rating_va, 2.0 * (r_pu * feeder.transformer.x_per_r) / rating_va, math.inf)
        )
        square_v2 = feeder.voltage_v * feeder.voltage_v
        for k in feeder.order:
            branch = feeder.branches[k]
            cable = feeder.cables[branch.cable]
            per_km = 2.0 * (branch.length_m / 1000.0) / square_v2
            limit_va2 = feeder.phases * square_v2 * (cable.ampacity_a * cable.ampacity_a)
            rows.append(
                (place[branch.from_bus], cable.r_ohm_per_km * per_km, cable.x_ohm_per_km * per_km, limit_va2)
            )
            place[branch.to_bus] = len(rows) - 1
        parent, drop_per_w, drop_per_var, limit_va2s = zip(*rows, strict=True)
        return cls(
            np.array(parent, dtype=np.int32),
            np.array(drop_per_w),
            np.array(drop_per_var),
            np.array(limit_va2s),
            np.array([place[bus] for bus in feeder.homes], dtype=np.int32),
            rating_va,
        )


class PlainNetwork:
    """The oracle of `Network`: the same operations in the same order, on Python's floats."""

    V_SQUARED_LEAST: Final = 0.01

    def __init__(self, table: Table) -> None:
        self._table = table
        self._arrays: tuple[Floats, Floats, int, int, int] | None = None
        self.transformer_va = self.transformer_frac = self.branch_frac_max = self.heat_frac = 0.0
        self.overload_ticks = 0

    def solve(self, import_w: Floats, import_var: Floats, slack_pu: float, voltage_pu: Floats) -> None:
        """Compute voltages and loads of one instant; see `FeederSolver.solve`."""
        t, buses = self._table, len(self._table.parent)
        p_w, q_var, v = [0.0] * buses, [0.0] * buses, [0.0] * buses
        for home, bus in enumerate(t.home_bus.tolist()):
            p_w[bus] += float(import_w[home])
            q_var[bus] += float(import_var[home])
        parent = t.parent.tolist()
        for bus in range(buses - 1, 1, -1):
            p_w[parent[bus]] += p_w[bus]
            q_var[parent[bus]] += q_var[bus]
        v[0] = slack_pu * slack_pu
        most = 0.0
        for bus in range(1, buses):
            drop = float(t.drop_per_w[bus]) * p_w[bus] + float(t.drop_per_var[bus]) * q_var[bus]
            v[bus] = v[parent[bus]] - drop
            if v[bus] < 0.0:
                v[bus] = 0.0
            least = v[bus] if v[bus] > self.V_SQUARED_LEAST else self.V_SQUARED_LEAST
            load = (p_w[bus] * p_w[bus] + q_var[bus] * q_var[bus]) / (least * float(t.limit_va2[bus]))
            if load > most:
                most = load
        for home, bus in enumerate(t.home_bus.tolist()):
            voltage_pu[home] = math.sqrt(v[bus])
        self.transformer_va = math.sqrt(p_w[1] * p_w[1] + q_var[1] * q_var[1])
        self.transformer_frac = self.transformer_va / t.rating_va
        self.branch_frac_max = math.sqrt(most)

    def age(self, ticks: int, gain: float) -> None:
        """Let the present load act on the transformer for a while; see `FeederSolver.age`."""
        self.heat_frac += gain * (self.transformer_frac * self.transformer_frac - self.heat_frac)
        if self.transformer_frac > 1.0:
            self.overload_ticks += ticks

    def attach(self, state: Floats, inputs: Floats, import_w: int, import_var: int, voltage_pu: int) -> None:
        """Name the arrays and fields of a Plant; see `FeederSolver.attach`."""
        self._arrays = state, inputs, import_w, import_var, voltage_pu

    def step(self, slack_pu: float, ticks: int, gain: float) -> None:
        """Solve from the attached arrays into them, then age; see `FeederSolver.step`."""
        if self._arrays is None:
            raise ValueError("attach a plant's arrays first")
        state, inputs, import_w, import_var, voltage_pu = self._arrays
        n = len(self._table.home_bus)
        found = np.empty(n)
        self.solve(state[:, import_w, :].ravel()[:n], state[:, import_var, :].ravel()[:n], slack_pu, found)
        for home in range(n):
            inputs[home // LANES, voltage_pu, home % LANES] = found[home]
        self.age(ticks, gain)


class FeederSolver:
    """A feeder in operation: voltages and loads from the power at the meters, and the transformer's heat.

    Parameters
    ----------
    feeder : Feeder
        The feeder.
    core : callable, optional
        `Network` (compiled) or `PlainNetwork`, which gives the same bits slowly.

    Attributes
    ----------
    n : int
        Number of homes.
    slack_pu : float
        The source's voltage in the feeder's file.
    rating_va : float
        Of the transformer [VA].

    Notes
    -----
    Where the linear equation finds less than no voltage, 0 is given: the feeder would have collapsed.
    Currents count the voltage as 0.1 pu at the least.
    """

    def __init__(self, feeder: Feeder, *, core: Callable[[Table], Network | PlainNetwork] = Network) -> None:
        self.n = len(feeder.homes)
        self.slack_pu = feeder.slack_pu
        self.rating_va = feeder.transformer.rating_va
        self.table = Table.of(feeder)
        self._core = core(self.table)
        self._gains: dict[int, float] = {}

    @property
    def transformer_va(self) -> float:
        """Apparent power through the transformer in the last solution [VA]."""
        return self._core.transformer_va

    @property
    def transformer_frac(self) -> float:
        """That, over the rating [1]."""
        return self._core.transformer_frac

    @property
    def branch_frac_max(self) -> float:
        """Greatest current over ampacity of all branches in the last solution [1]."""
        return self._core.branch_frac_max

    @property
    def heat_frac(self) -> float:
        """Heat of the transformer; a lasting full load leads to 1 [1]."""
        return self._core.heat_frac

    @property
    def overload_s(self) -> float:
        """Time the transformer has spent above its rating [s]."""
        return self._core.overload_ticks / TICKS_PER_S

    def solve(self, import_w: Floats, import_var: Floats, slack_pu: float | None = None) -> Floats:
        """Return the voltage at each home.

        Parameters
        ----------
        import_w, import_var : Floats, shape (n,)
            Power taken from the feeder at each meter; negative when given [W, var].
        slack_pu : float, optional
            The source's voltage now [pu]; that of the file if not given.

        Returns
        -------
        Floats, shape (n,)
            Voltage at each meter [pu].

        Raises
        ------
        ValueError
            When the arrays do not have one value per home.
        """
        voltage_pu = np.empty(self.n)
        slack_pu = self.slack_pu if slack_pu is None else slack_pu
        self._core.solve(import_w, import_var, slack_pu, voltage_pu)
        return voltage_pu

    def age(self, ticks: int) -> None:
        """Let the load of the last solution act on the transformer for `ticks` of 20 ms."""
        self._core.age(ticks, self._gain(ticks))

    def attach(self, state: Floats, inputs: Floats, import_w: int, import_var: int, voltage_pu: int) -> None:
        """Name the arrays of a Plant that `step` reads and writes.

        Parameters
        ----------
        state, inputs : Floats, shape (tiles, fields, LANES)
            Of the Plant; home k is device k.
        import_w, import_var : int
            Positions of these fields in `state`.
        voltage_pu : int
            Position of this field in `inputs`.

        Raises
        ------
        ValueError
            When the arrays have no such fields, or no room for the homes.
        """
        self._core.attach(state, inputs, import_w, import_var, voltage_pu)

    def step(self, slack_pu: float, ticks: int) -> None:
        """Read the meters of the attached Plant, write the voltages into its inputs, and age.

        Parameters
        ----------
        slack_pu : float
            The source's voltage now [pu].
        ticks : int
            Time the solution stands for [ticks of 20 ms].
        """
        self._core.step(slack_pu, ticks, self._gain(ticks))

    def _gain(self, ticks: int) -> float:
        gain = self._gains.get(ticks)
        if gain is None:
            # lag_gain wants the time to 90 %, not the time constant.
            gain = self._gains[ticks] = lag_gain(ticks / TICKS_PER_S, HEAT_S * _LN_10)
        return gain


def limit_excess_w(import_w: Floats, import_w_max: Floats, export_w_max: Floats) -> Floats:
    """Return by how much each home breaks its connection agreement.

    Parameters
    ----------
    import_w : Floats, shape (n,)
        Power at the meters [W].
    import_w_max, export_w_max : Floats, shape (n,)
        Agreed limits; infinite where there is none [W ≥ 0].

    Returns
    -------
    Floats, shape (n,)
        Above 0: import beyond its limit; below 0: export beyond its limit; 0: within both [W].

    Notes
    -----
    Nothing is enforced: keeping the agreement is the controller's duty, and judging it the judge's.
    """
    over_w = np.where(import_w > import_w_max, import_w - import_w_max, 0.0)
    return np.where(-import_w > export_w_max, import_w + export_w_max, over_w)


def loop_gain(
    feeder: Feeder,
    slope_var_per_pu: Sequence[float] | Floats,
    slope_w_per_pu: Sequence[float] | Floats | None = None,
) -> float:
    """Return the worst loop gain of voltage through volt-var (and volt-watt) back to voltage.

    Parameters
    ----------
    feeder : Feeder
        The feeder.
    slope_var_per_pu : array_like, shape (n,)
        Steepest fall of each home's injected reactive power with its voltage, at its curve [var/pu ≥ 0].
    slope_w_per_pu : array_like, shape (n,), optional
        The same for active power, of volt-watt curves [W/pu ≥ 0].

    Returns
    -------
    float
        The greatest fall of any home's voltage, per unit of a common rise that all homes answer [1].

    Notes
    -----
    It is the greatest row sum of ``X diag(dQ/dV) + R diag(dP/dV)`` at nominal voltage, thus an upper bound of
    that matrix's spectral radius.  With the answer delayed by one step and a the gain of the curve's lag over
    one step, the feeder is stable where ``a (1 + g) < 2``; see `stable`.
    """
    solver = FeederSolver(feeder)
    q_var = np.ascontiguousarray(slope_var_per_pu, dtype=np.float64)
    p_w = (
        np.zeros(solver.n)
        if slope_w_per_pu is None
        else np.ascontiguousarray(slope_w_per_pu, dtype=np.float64)
    )
    if not (bool(np.all(q_var >= 0.0)) and bool(np.all(p_w >= 0.0))):
        raise ValueError("slopes must not be negative: a curve that rises with voltage feeds back on itself")
    # From a source without voltage, v is what the injections raise; dV = dv / 2 at nominal voltage.
    rise_pu = solver.solve(-p_w, -q_var, 0.0)
    return float((rise_pu * rise_pu).max()) / 2.0


def stable(gain: float, *, dt_s: float, response_s: float) -> bool:
    """Tell whether a loop gain is stable when the voltage of one step is answered in the next.

    Parameters
    ----------
    gain : float
        Of `loop_gain` [1].
    dt_s, response_s : float
        Step, and open loop response time of the curve [s].
    """
    return bool(lag_gain(dt_s, response_s) * (1.0 + gain) < 2.0)
