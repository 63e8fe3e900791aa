"""The topics of one pool: ``bench/v1/<pool>/<device>/<kind>``.

Rules of this file: names only.  A pool's or device's name becomes one level of a topic, so it may not hold
what MQTT gives a meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ridethrough.emulator.errors import ScenarioError

ROOT: Final = "bench/v1"
KINDS: Final = ("state", "status", "event", "cmd", "ack")
NAME_LENGTH_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one pool.

    Parameters
    ----------
    pool : str
    devices : sequence of str

    Raises
    ------
    ScenarioError
        A name that cannot be one level of a topic.
    """

    pool: str
    devices: Sequence[str]

    def __post_init__(self) -> None:
        check_level("pool", self.pool)
        for name in self.devices:
            check_level("device", name)

    def of(self, device: str, kind: str) -> str:
        """Return the topic of one kind of one device."""
        return f"{ROOT}/{self.pool}/{device}/{kind}"

    @property
    def status(self) -> str:
        """Whether the gateway is there: retained, and its last will."""
        return f"{ROOT}/{self.pool}/status"

    @property
    def info(self) -> str:
        """What the pool is: retained."""
        return f"{ROOT}/{self.pool}/info"

    @property
    def commands(self) -> str:
        """The filter of the commands to all devices."""
        return f"{ROOT}/{self.pool}/+/cmd"

    def device_of(self, topic: str) -> str | None:
        """Return the device whose command topic this is, None for any other topic."""
        levels = topic.split("/")
        if len(levels) != 5 or "/".join(levels[:2]) != ROOT or levels[2] != self.pool or levels[4] != "cmd":
            return None
        return levels[3] if levels[3] in self.devices else None


def check_level(what: str, name: str) -> None:
    """Refuse a name that cannot be one level of a topic.

    Raises
    ------
    ScenarioError
    """
    bad = [sign for sign in name if sign in "/+#" or not sign.isprintable()]
    if not name or bad or name.startswith("$") or len(name.encode()) > NAME_LENGTH_MAX:
        raise ScenarioError(
            f"{what} {name!r}: allowed over MQTT 1 to {NAME_LENGTH_MAX} bytes without /, +, # and control "
            "characters, not beginning with $"
        )
