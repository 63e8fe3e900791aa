"""What a server over TCP allows its clients, whatever they speak."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import ScenarioError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server allows its clients.

    Attributes
    ----------
    frame_timeout_s : float
        A connection whose incomplete frame is older than this is closed; so is one that is being closed and
        has not read its last replies for this long [s].
    idle_timeout_s : float or None
        A connection that sent nothing for this long is closed; None lets it be silent for ever [s].
    connections_max : int
        A connection beyond this number is closed at once.
    write_buffer_bytes_max : int
        With more than this waiting to be sent, a connection is not read until its client has read [bytes].

    Raises
    ------
    ScenarioError
        A limit is not positive and finite.
    """

    frame_timeout_s: float = 5.0
    idle_timeout_s: float | None = None
    connections_max: int = 64
    write_buffer_bytes_max: int = 65_536

    def __post_init__(self) -> None:
        for name in ("frame_timeout_s", "idle_timeout_s"):
            seconds = getattr(self, name)
            if name == "idle_timeout_s" and seconds is None:
                continue
            if not isinstance(seconds, int | float) or not 0.001 <= seconds < math.inf:
                raise ScenarioError(f"{name}: {seconds!r} found; allowed are finite numbers from 0.001 up")
        for name in ("connections_max", "write_buffer_bytes_max"):
            number = getattr(self, name)
            if type(number) is not int or number < 1:
                raise ScenarioError(f"{name}: {number!r} found; allowed are whole numbers from 1 up")


DEFAULT_LIMITS = Limits()
