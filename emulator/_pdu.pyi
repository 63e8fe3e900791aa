from collections.abc import Mapping
from typing import Any, Protocol, type_check_only

SUNSPEC_FUNCTIONS: frozenset[int]
"""What a unit serves that does not say: 3, 6 and 16."""
FUNCTIONS: frozenset[int]
"""What a unit can serve at all."""

@type_check_only
class Unit(Protocol):
    """What every unit has; for what it may have besides, see the docstring of _pdu.pyx."""

    def read(self, address: int, count: int, /) -> bytes | int: ...
    def write(self, address: int, data: bytes, /) -> int: ...

@type_check_only
class Rights(Protocol):
    def allows(self, unit_id: int, function: int, address: int, count: int, /) -> bool: ...

class Reader:
    latch: Any

class Registers: ...

class Units:
    def __init__(self, units: Mapping[int, Unit], *, serial: bool = False) -> None: ...

class Engine(Reader):
    last_error: Exception | None
    @property
    def frames(self) -> int: ...
