"""Every error Ridethrough raises on purpose, by whose fault it is."""

from __future__ import annotations


class RidethroughError(Exception):
    """Root of all errors raised on purpose."""


class ScenarioError(RidethroughError):
    """A file or an option the user wrote is wrong; the message names place, finding and cure."""


class DeviceError(RidethroughError):
    """A device answered wrongly or not at all: Modbus exception, time-out, missing model."""


class InvariantError(RidethroughError):
    """Our own bug: a result that must not be is about to be used."""
