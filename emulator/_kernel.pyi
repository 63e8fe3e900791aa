import numpy as np
from numpy.typing import NDArray

def advance(
    param: NDArray[np.float64],
    control: NDArray[np.float64],
    inputs: NDArray[np.float64],
    state: NDArray[np.float64],
    n: int,
    ticks: int,
) -> None: ...
