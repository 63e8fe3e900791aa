from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

class Decoder:
    count: Final[int]
    def __init__(self, rows: Iterable[tuple[int, int, int, int, int, int]]) -> None: ...
    def decode(self, data: bytes, values: NDArray[np.float64]) -> None: ...
    def decode_words(self, registers: Sequence[int | None]) -> list[float]: ...
