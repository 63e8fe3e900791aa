import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEP_DIGEST: str
"""Of the text of the step this module was built from."""

def targets() -> tuple[str, ...]: ...
def advance(
    param: Floats,
    control: Floats,
    inputs: Floats,
    state: Floats,
    n: int,
    ticks: int,
    *,
    coarse_ticks: int = ...,
    target: str | None = ...,
) -> None: ...
def advance_threaded(
    param: Floats,
    control: Floats,
    inputs: Floats,
    state: Floats,
    n: int,
    ticks: int,
    *,
    threads: int,
    coarse_ticks: int = ...,
    target: str | None = ...,
) -> None: ...
