"""A plain client that writes points and looks at the power, on a device with write quirks."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from itertools import pairwise

from ridethrough.emulator.layout import Layout, compile_layout
from ridethrough.emulator.points import Point
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.quirks.knobs import Quirk
from ridethrough.emulator.quirks.writes import WriteLayer

from tests.devices import home
from tests.emulator.register_bench import load
from tests.quirks.wire import DEVICE, Wire, made, on_wire

OK, FUNCTION, ADDRESS, VALUE, FAILURE, BUSY = 0, 1, 2, 3, 4, 6

MODELS = (1, 101, 120, 121, 122, 123, 124, 701, 702, 703, 704, 705, 713, 715, 802)
PLAIN = home(control={"revert_state": "idle", "families": ("704", "124")}, face={"models": MODELS})
"""5 kW both ways, 13.5 kWh, a reserve of 20 %; without a command it gives 0 W."""
GEN24 = load("home-10kwh-10kw-three-phase")


class Client:
    """A client that knows the standard's map, and nothing of quirks."""

    def __init__(self, wire: Wire, layout: Layout) -> None:
        self.wire = wire
        self.plant = wire.plant
        self.layout = layout

    def point(self, name: str) -> Point:
        model, _, rest = name.partition(".")
        return self.layout.point(int(model), rest)

    async def put(self, *points: tuple[str, int]) -> int:
        """Write adjacent points with function 16; numbers as the registers hold them."""
        found = [(self.point(name), number) for name, number in points]
        for (before, _), (after, _) in pairwise(found):
            assert after.address == before.address + before.size, f"{after} is not next to {before}"
        data = b"".join(n.to_bytes(2 * p.size, "big", signed=n < 0) for p, n in found)
        return await self.wire.write(found[0][0].address, *struct.unpack(f">{len(data) // 2}H", data))

    async def put_single(self, name: str, number: int) -> int:
        """Write a point of one register with function 6."""
        pdu = struct.pack(">BHH", 6, self.point(name).address, number & 0xFFFF)
        answer = await self.wire.ask(1, pdu)
        assert answer == pdu or answer[0] == 0x86
        return OK if answer == pdu else answer[1]

    async def get(self, name: str) -> int:
        """Read a point as the number its registers hold."""
        point = self.point(name)
        data = await self.wire.read(point.address, point.size)
        assert isinstance(data, bytes), f"exception {data} at {point}"
        return int.from_bytes(data, "big", signed=point.signed)

    async def command(self, power_w: int, seconds: int = 0) -> None:
        """Command a power with 704, its timer first."""
        assert await self.put(("704.WSetRvrtTms", seconds)) == OK
        assert await self.put(("704.WSetEna", 1), ("704.WSetMod", 1), ("704.WSet", power_w)) == OK

    async def window(self, mode: int, out: int, into: int) -> int:
        """Command with 124: its rates first, then its mode."""
        return await self.put(("124.OutWRte", out), ("124.InWRte", into)) or await self.put(
            ("124.StorCtl_Mod", mode)
        )

    def wait(self, seconds: int) -> None:
        """Let time pass, second by second as a bench does."""
        for _ in range(seconds):
            self.wire.advance(1)

    async def power_w(self, after_s: int = 5) -> int:
        """Return the power a few seconds later: the plant's, which 701.W must show."""
        self.wait(after_s)
        power_w = round(float(self.plant.states("power_w")[DEVICE]))
        if 701 in self.layout.models:
            assert abs(await self.get("701.W") * 10 ** self.point("701.W").scale - power_w) <= 10
        return power_w

    @property
    def layer(self) -> WriteLayer:
        """The layer with the write quirks, where there is one."""
        (layer,) = (layer for layer in self.wire.units[1].layers if isinstance(layer, WriteLayer))
        return layer


Job = Callable[[Client], Awaitable[None]]


def talk(job: Job, *quirks: str | Quirk, profile: DeviceProfile = PLAIN, start_of_day_s: int = 0) -> None:
    """Run `job` against a device with quirks behind a TCP server."""
    layout = compile_layout(profile)

    async def main(wire: Wire) -> None:
        await job(Client(wire, layout))

    on_wire(main, profile, *quirks, start_of_day_s=start_of_day_s)


def knobs(**writes: object) -> Quirk:
    """Return a quirk with these write knobs."""
    return made(writes=writes)
