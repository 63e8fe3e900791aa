"""Announcements for Home Assistant: each device with its sensors, as its MQTT discovery wants them.

Rules of this file: data only; sensors and nothing that commands, because a switch on a page knows no expiry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, Final

from .payloads import DeviceInfo
from .topics import Topics

PREFIX: Final = "homeassistant"

_SENSORS: Final = (
    ("soc", "State of charge", "713.SoC", {"device_class": "battery", "unit_of_measurement": "%"}),
    ("power", "Power", "701.W", {"device_class": "power", "unit_of_measurement": "W"}),
    ("import", "Import", "203.W", {"device_class": "power", "unit_of_measurement": "W"}),
)
"""Key, name, value in `state`, and what it is."""


def announcements(
    topics: Topics, devices: Sequence[DeviceInfo], poll_s: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return topic and content of each retained announcement.

    Parameters
    ----------
    topics : Topics
    devices : sequence of DeviceInfo
    poll_s : float
        A value that is three polls old is shown as unavailable [s].
    """
    for device in devices:
        uid = re.sub(r"[^a-zA-Z0-9_-]", "_", f"ridethrough_{topics.pool}_{device.name}")
        common = {
            "state_topic": topics.of(device.name, "state"),
            "expire_after": max(1, round(3.0 * poll_s)),
            # Behind one gateway, a device is there when both say so; the gateway's own is its last will.
            "availability": [{"topic": topics.status}, {"topic": topics.of(device.name, "status")}],
            "availability_mode": "all",
            "payload_available": "online",
            "payload_not_available": "offline",
            "device": {
                "identifiers": [uid],
                "name": device.name,
                "model": device.model,
            },
            "origin": {"name": "ridethrough", "sw_version": version("ridethrough")},
        }
        for key, name, value, what in _SENSORS:
            yield (
                f"{PREFIX}/sensor/{uid}/{key}/config",
                {
                    **common,
                    **what,
                    "name": name,
                    "unique_id": f"{uid}_{key}",
                    "state_class": "measurement",
                    "value_template": f"{{{{ value_json['values']['{value}'] }}}}",
                },
            )
        yield (
            f"{PREFIX}/binary_sensor/{uid}/grid/config",
            {
                **common,
                "name": "Grid",
                "unique_id": f"{uid}_grid",
                "device_class": "connectivity",
                "value_template": "{{ value_json['values']['701.ConnSt'] }}",
                "payload_on": "1",
                "payload_off": "0",
            },
        )
