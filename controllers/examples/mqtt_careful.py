"""A controller of a few dozen lines that speaks MQTT: sells what no promise needs, buys back what one does.

    python mqtt_careful.py [HOST:PORT [POOL]]          needs aiomqtt

It learns the pool from the retained `info`, believes no reading that is older than three polls, gives each
command an id, a time of issue and an end, and commands nothing to a home without grid.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import aiomqtt

SELL_W, BUY_W = 1000.0, -2000.0
MARGIN_FRAC = 0.05
"""Of the battery: for what the estimate of the state of charge may be wrong, and what conversion costs."""


def reserve_frac(home: dict[str, Any]) -> float:
    """Return the state of charge that a home's promise needs."""
    if not home["backup_hours_h"] or not home["energy_wh"]:
        return 1.0  # nobody knows: keep it full
    needed = home["backup_hours_h"] * home["backup_load_w"] / 0.9 / home["energy_wh"]
    return min(1.0, float((home["soc_frac_min"] or 0.0) + needed + MARGIN_FRAC))


def wanted_w(home: dict[str, Any], soc_frac: float) -> float:
    """Return what a home shall do now."""
    if soc_frac < reserve_frac(home) + MARGIN_FRAC:
        return max(BUY_W, -(home["power_w_charge_max"] or 0.0)) if soc_frac < 0.97 else 0.0
    return min(SELL_W, home["power_w_discharge_max"] or 0.0) if soc_frac > reserve_frac(home) + 0.15 else 0.0


async def control(host: str, port: int, pool: str) -> None:
    """Answer each reading with a command."""
    info: dict[str, Any] = {}
    homes: dict[str, dict[str, Any]] = {}
    count = 0
    async with aiomqtt.Client(host, port) as client:
        await client.subscribe(f"bench/v1/{pool}/#", qos=1)
        async for message in client.messages:
            *_, name, kind = str(message.topic).split("/")
            if kind == "info":
                info = json.loads(bytes(message.payload))
                homes = {home["name"]: home for home in info["devices"]}
            elif kind == "ack":
                answer = json.loads(bytes(message.payload))
                print(name, answer["id"], answer["outcome"], answer.get("text", ""), flush=True)
            elif kind == "state" and name in homes:
                state = json.loads(bytes(message.payload))
                now_ms = time.time_ns() // 1_000_000
                soc = state["values"]["713.SoC"]
                fresh = now_ms - state["ts_ms"] < 3000 * info["poll_s"]
                if soc is None or state["values"]["701.ConnSt"] != 1 or not fresh:
                    continue  # what it was last told ends by itself
                count += 1
                command = {
                    "id": f"{os.getpid()}-{count}",
                    "issued_ms": now_ms,
                    "power_w": wanted_w(homes[name], soc / 100.0),
                    "validity_s": max(1.0, 3.0 * info["poll_s"] * info["speed"]),
                }
                print(name, command["id"], f"{soc:.1f} %", f"{command['power_w']:+.0f} W", flush=True)
                await client.publish(f"bench/v1/{pool}/{name}/cmd", json.dumps(command), qos=1)


def main() -> None:
    """Find the broker and stay with it, whatever happens to it."""
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("RIDETHROUGH_MQTT", "127.0.0.1:1883")
    pool = sys.argv[2] if len(sys.argv) > 2 else os.environ.get("RIDETHROUGH_POOL", "+")
    place = urlsplit(where if "//" in where else f"mqtt://{where}")
    while True:
        try:
            asyncio.run(control(place.hostname or "127.0.0.1", place.port or 1883, pool))
        except aiomqtt.MqttError as error:
            print(f"no broker: {error}", file=sys.stderr, flush=True)
            time.sleep(0.5)


if __name__ == "__main__":
    main()
