"""Writing one run of registers, and saying what became of it.

Rule of this file: an acknowledged write proves nothing, and a refused one has a reason that the exception's
number alone does not tell.  Both are put into words here, with the point and its register.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .modbus_link import FAILURE, ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, TargetError, Unit
from .sunspec_points import Value
from .target import TlsTarget

_REASONS: Final = {
    ILLEGAL_FUNCTION: (
        "control by Modbus is disabled, or this device cannot be written at all: enable it on the device "
        "(its own menu, its installer or its maker)"
    ),
    ILLEGAL_ADDRESS: (
        "it rejects a documented point, which by SunSpec's definition can be written: it does not serve it, "
        "or control by Modbus is disabled (enable it on the device)"
    ),
    FAILURE: "some devices answer so while control by Modbus is disabled (enable it on the device)",
}
"""What an exception to a write means beyond its name."""

_ROLE: Final = (
    "over TLS this means that the role in our certificate may not write here, or that control by Modbus is "
    "disabled on the device"
)

WRITE_ONLY: Final = (
    "write-only point: it reads as not implemented before and after; only the measured power can show "
    "whether it took effect"
)
DISCARDED: Final = "acknowledged and discarded: the device holds what it held before"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a written point.

    Attributes
    ----------
    point : str
    register : int
        Its first register.
    asked : int, float or str
        What was to be written.
    sent : int, float, str or None
        The nearest that the registers can say, which was written.
    held : int, float, str or None
        What the device held afterwards.
    finding : str
        Why it holds something else, as far as that shows; empty when it does not.
    """

    point: str
    register: int
    asked: Value
    sent: Value | None
    held: Value | None
    finding: str = ""

    @property
    def differs(self) -> bool:
        """Whether the device holds something else than was written."""
        return self.held != self.sent


async def write(unit: Unit, address: int, words: list[int], what: str, *, apart: bool = False) -> None:
    """Write registers; see `Unit.write`.

    Raises
    ------
    TargetError
        No answer, or refused; then the message says what that may mean.
    """
    try:
        await unit.write(address, words, what, apart=apart)
    except TargetError as error:
        by_role = error.code == ILLEGAL_FUNCTION and isinstance(unit.link.target, TlsTarget)
        reason = _ROLE if by_role else _REASONS.get(error.code)
        if reason is None:
            raise
        raise TargetError(f"{error}; {reason}", refused=error.refused, code=error.code) from None


def finding(sent: Value | None, before: Value | None, held: Value | None) -> str:
    """Return why a device holds something else than was sent; empty when it does not.

    Parameters
    ----------
    sent, before, held : int, float, str or None
        What was written, and what the point held before and after.
    """
    if held == sent:
        return ""
    if held is None:
        return WRITE_ONLY if before is None else "it can no longer be read, or reads as not implemented"
    if held == before:
        return DISCARDED
    return f"rounded or clipped by the device, or commanded by another client: wrote {sent}, it holds {held}"
