import numpy as np
from numpy.typing import NDArray

from .feeder import Table

class Network:
    def __init__(self, table: Table) -> None: ...
    @property
    def transformer_va(self) -> float: ...
    @property
    def transformer_frac(self) -> float: ...
    @property
    def branch_frac_max(self) -> float: ...
    @property
    def heat_frac(self) -> float: ...
    @property
    def overload_ticks(self) -> int: ...
    def solve(
        self,
        import_w: NDArray[np.float64],
        import_var: NDArray[np.float64],
        slack_pu: float,
        voltage_pu: NDArray[np.float64],
        /,
    ) -> None: ...
    def age(self, ticks: int, gain: float, /) -> None: ...
    def attach(
        self,
        state: NDArray[np.float64],
        inputs: NDArray[np.float64],
        import_w: int,
        import_var: int,
        voltage_pu: int,
        /,
    ) -> None: ...
    def step(self, slack_pu: float, ticks: int, gain: float, /) -> None: ...
