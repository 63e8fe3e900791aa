"""A Modbus unit whose readings can be frozen: the fault telemetry.frozen on real registers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ridethrough.emulator._modbus import Unit


class FreezableUnit:
    """Passes reads and writes to a unit, or repeats what it said when it was frozen.

    Parameters
    ----------
    unit : Unit
    first, count : int
        The unit's register map [registers].
    settings : collection of int
        Registers that are never frozen: what clients write there must read back.
    heartbeat : collection of int
        Registers that go on living when a freeze lies about its freshness.
    """

    def __init__(
        self, unit: Unit, first: int, count: int, settings: Collection[int], heartbeat: Collection[int]
    ) -> None:
        self._unit = unit
        self._first, self._count = first, count
        self._settings, self._heartbeat = frozenset(settings), frozenset(heartbeat)
        self._held: bytes | None = None
        self._fresh = False

    def freeze(self, *, fresh: bool) -> None:
        """Hold the readings of this instant; with `fresh` the heartbeat goes on."""
        self._fresh = fresh
        if self._held is None:
            self._held = b"".join(self._blocks())

    def thaw(self) -> None:
        """Tell the truth again."""
        self._held = None

    def _blocks(self) -> Iterable[bytes]:
        for address in range(self._first, self._first + self._count, 125):
            block = self._unit.read(address, min(125, self._first + self._count - address))
            if isinstance(block, int):
                raise RuntimeError(f"the register map has a hole at {address}: exception {block}")
            yield block

    def read(self, address: int, count: int) -> bytes | int:
        """Read registers, see `Unit`."""
        answer = self._unit.read(address, count)
        if self._held is None or isinstance(answer, int):
            return answer
        start = 2 * (address - self._first)
        held = bytearray(self._held[start : start + 2 * count])
        live = self._settings | self._heartbeat if self._fresh else self._settings
        for register in live & set(range(address, address + count)):
            k = 2 * (register - address)
            held[k : k + 2] = answer[k : k + 2]
        return bytes(held)

    def write(self, address: int, data: bytes) -> int:
        """Write registers, see `Unit`; writing works on: only telemetry is frozen."""
        return self._unit.write(address, data)
