"""A device with quirks behind a real Modbus TCP server, and a plain client that knows nothing of ours."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files

import numpy as np
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.layout import Layout
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.quirks.knobs import Quirk, combine
from ridethrough.emulator.quirks.unit import QuirkyUnit, quirky_units
from ridethrough.emulator.server import serve_tcp
from ruamel.yaml import YAML

WAIT_S = 20.0
DEVICE = 1


def bundled(name: str) -> Quirk:
    """Return a bundled quirk, read without our own loader."""
    text = (files("ridethrough.fixtures") / "quirks" / f"{name}.yaml").read_text("utf-8")
    return Quirk.model_validate(YAML(typ="safe").load(text))


def made(**sections: object) -> Quirk:
    """Return a quirk with these sections."""
    about = dict.fromkeys(("description", "device", "source"), "test")
    return Quirk.model_validate({"quirk": "made", "row": 1, **about, **sections})


def build(
    profile: DeviceProfile, quirks: Sequence[Quirk], *, seed: int = 5, start_of_day_s: int = 0
) -> tuple[Plant, dict[int, QuirkyUnit]]:
    """Return a plant of three devices, and the units of one of them."""
    plant = Plant([profile] * 3, soc_frac=[0.3, 0.6, 0.9])
    plant.advance(TICKS_PER_S)
    rng = np.random.Generator(np.random.Philox(key=seed))
    return plant, quirky_units(plant, DEVICE, combine(quirks), rng, start_of_day_s=start_of_day_s)


class Wire:
    """A client of one server, and the plant behind it."""

    def __init__(
        self,
        plant: Plant,
        units: Mapping[int, QuirkyUnit],
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.plant = plant
        self.units = units
        self._reader, self._writer = streams
        self._transaction = 0

    def advance(self, seconds: int) -> None:
        """Let time pass."""
        self.plant.advance(seconds * TICKS_PER_S)
        for unit in self.units.values():
            unit.step()

    async def ask(self, unit: int, pdu: bytes) -> bytes:
        """Send one request, and return the PDU of its answer."""
        self._transaction += 1
        self._writer.write(struct.pack(">HHHB", self._transaction, 0, len(pdu) + 1, unit) + pdu)
        header = await asyncio.wait_for(self._reader.readexactly(7), WAIT_S)
        transaction, protocol, length, answering = struct.unpack(">HHHB", header)
        assert (transaction, protocol, answering) == (self._transaction, 0, unit)
        return await asyncio.wait_for(self._reader.readexactly(length - 1), WAIT_S)

    async def read(self, address: int, count: int, unit: int = 1) -> bytes | int:
        """Return registers, or an exception code."""
        answer = await self.ask(unit, struct.pack(">BHH", 3, address, count))
        if answer[0] == 0x83:
            return answer[1]
        assert answer[:2] == bytes([3, 2 * count])
        return answer[2:]

    async def words(self, address: int, count: int = 1, unit: int = 1) -> tuple[int, ...]:
        """Return registers that must be readable."""
        data = await self.read(address, count, unit)
        assert isinstance(data, bytes), f"exception {data} at {address}"
        return struct.unpack(f">{count}H", data)

    async def word(self, address: int, unit: int = 1) -> int:
        """Return one register."""
        return (await self.words(address, 1, unit))[0]

    async def write(self, address: int, *words: int, unit: int = 1) -> int:
        """Write registers; 0, or an exception code."""
        head = struct.pack(">BHHB", 16, address, len(words), 2 * len(words))
        answer = await self.ask(unit, head + struct.pack(f">{len(words)}H", *words))
        return answer[1] if answer[0] == 0x90 else 0

    async def chain(self, base: int = 40000, unit: int = 1) -> list[tuple[int, int, int]]:
        """Return model id, address of the id, and length of each model, as far as a client gets.

        The last entry is the end model, or the exception code that ended the walk as ``(-code, address, 0)``.
        """
        assert await self.read(base, 2, unit) == b"SunS"
        found: list[tuple[int, int, int]] = []
        address = base + 2
        while len(found) < 60:
            model = await self.read(address, 1, unit)
            length = await self.read(address + 1, 1, unit)
            if isinstance(model, int) or (isinstance(length, int) and model != b"\xff\xff"):
                code = model if isinstance(model, int) else length
                assert isinstance(code, int)
                return [*found, (-code, address, 0)]
            number = int.from_bytes(model, "big")
            data = length if isinstance(length, bytes) else b"\0\0"
            found.append((number, address, int.from_bytes(data, "big")))
            if number == 0xFFFF:
                return found
            address += 2 + int.from_bytes(data, "big")
        raise AssertionError(f"no end of the chain: {found}")


Main = Callable[[Wire], Awaitable[None]]


def on_wire(main: Main, profile: DeviceProfile, *quirks: str | Quirk, start_of_day_s: int = 0) -> None:
    """Run `main` against a device with quirks."""

    async def serve() -> None:
        found = [bundled(quirk) if isinstance(quirk, str) else quirk for quirk in quirks]
        plant, units = build(profile, found, start_of_day_s=start_of_day_s)
        async with await serve_tcp(units) as server:
            streams = await asyncio.open_connection(server.host, server.port)
            try:
                await main(Wire(plant, units, streams))
            finally:
                streams[1].close()
                await streams[1].wait_closed()

    asyncio.run(serve())


def at(layout: Layout, model: int, name: str) -> int:
    """Return the standard address of a point."""
    return layout.point(model, name).address


def signed(word: int) -> int:
    """Return a register as int16."""
    return word - 0x10000 if word & 0x8000 else word
