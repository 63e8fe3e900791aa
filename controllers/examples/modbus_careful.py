"""A controller of its own over Modbus TCP: it sells above each home's reserve while prices are high.

    ridethrough run one-home --level hil --external "python3 controllers/examples/modbus_careful.py"

It leaves alone devices without SunSpec models 713 and 704.  With --greedy it forgets the reserve.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pymodbus import ModbusException
from pymodbus.client import ModbusTcpClient


class Device:
    """One connection, kept open: some devices take only one."""

    def __init__(self, facts: dict[str, Any], timeout_s: float) -> None:
        self.facts, self.models = facts, dict[int, int]()
        self.client = ModbusTcpClient(facts["host"], port=facts["port"], timeout=timeout_s, retries=0)

    def read(self, address: int, count: int) -> list[int]:
        """Return registers."""
        reply = self.client.read_holding_registers(address, count=count, device_id=self.facts["unit"])
        if reply.isError():
            raise OSError(str(reply))
        return list(reply.registers)

    def write(self, address: int, *words: int) -> None:
        """Write registers, all or none."""
        reply = self.client.write_registers(address, list(words), device_id=self.facts["unit"])
        if reply.isError():
            raise OSError(str(reply))

    def discover(self) -> dict[int, int]:
        """Return where each model begins, found once."""
        address, found = self.facts["base_address"] + 2, dict[int, int]()
        while not self.models and (header := self.read(address, 2))[0] != 0xFFFF:
            found.setdefault(header[0], address)
            address += 2 + header[1]
        self.models.update(found)
        return self.models

    def energy_wh(self) -> float:
        """Return what the battery holds, as far as the device knows; value and scale in one request."""
        block = self.read(self.models[713], 9)
        scale = block[8] - 65_536 if block[8] > 32_767 else block[8]
        return float(block[4] * 10.0**scale / 100.0 * self.facts["ratings"]["energy_wh"])

    def command(self, power_w: float, validity_s: int) -> None:
        """Write the timer first and then the set-point: nothing is ever in force without an end."""
        first, number = self.models[704], int(power_w) & 0xFFFF_FFFF
        self.write(first + 30, 0, validity_s >> 16, validity_s & 0xFFFF)  # WSetEnaRvrt, WSetRvrtTms
        self.write(first + 22, 1, 1, number >> 16, number & 0xFFFF)  # WSetEna, WSetMod in watts, WSet


def drained_w(r: dict[str, Any], power_w: float) -> float:
    """Return what the cells lose at an AC power."""
    x = power_w / r["power_w_nominal"]
    cells_w = power_w + (r["loss_a_w"] * x + r["loss_b_w"]) * x + r["loss_c_w"] + r["standby_w"]
    return float(cells_w + r["ohm_per_w_max"] * cells_w**2)


def reserve_wh(r: dict[str, Any], promise: dict[str, float]) -> float:
    """Return what the promise needs, whatever the shape of the load (docs/judge.md)."""
    full_w, idle_w, hours = r["power_w_discharge_max"], drained_w(r, 0.0), promise["hours_h"]
    drain_w = idle_w + min(promise["load_w"] / full_w, 1.0) * (drained_w(r, full_w) - idle_w)
    wanted_wh = r["soc_frac_floor"] * r["energy_wh"] + drain_w * hours
    return float(wanted_wh / (1.0 - r["self_discharge_frac_per_h"] * (hours + 1 / 60)))


def trade(device: Device, clock: dict[str, float], dear: bool) -> None:
    """Grant what is safe if this is the last message that arrives for a long time."""
    r, validity_s = device.facts["ratings"], int(3 * clock["poll_s"])
    if not {704, 713} <= device.discover().keys():
        return
    doubt_wh = (r["soc_frac_error_max"] + r["soc_frac_step"] + 0.02) * r["energy_wh"]
    spare_wh = device.energy_wh() - doubt_wh - reserve_wh(r, device.facts["commitment"])
    granted_h = (validity_s + clock["delay_s_max"] + 5.0) / 3600.0
    safe_w = max(0.0, min(r["power_w_discharge_max"], 0.8 * spare_wh / granted_h))
    sold_w = r["power_w_discharge_max"] if "--greedy" in sys.argv else safe_w
    device.command(sold_w if dear else -r["power_w_charge_max"] if spare_wh < 0.0 else 0.0, validity_s)


inventory = json.loads(Path(os.environ["RIDETHROUGH_INVENTORY"]).read_text())
clock, prices = inventory["clock"], inventory["prices"]["ahead_usd_per_mwh"]
devices = [Device(facts, max(clock["delay_s_max"] / clock["speed"], 0.25)) for facts in inventory["devices"]]
while True:
    step = (time.time() - clock["zero_unix_s"]) * clock["speed"] / inventory["prices"]["step_s"]
    for device in devices:
        try:
            trade(device, clock, prices[int(step) % len(prices)] >= sorted(prices)[len(prices) * 3 // 4])
        except (OSError, ModbusException) as error:
            print(device.facts["name"], error, flush=True)
    time.sleep(clock["poll_s"] / clock["speed"])
