"""pymodbus as its users run it, for the table of malformed inputs: one server per row.

Run as ``python -m tests.witness.pymodbus_servers tcp COUNT``, or ``rtu PATH...``, or ``ascii PATH...``.
Prints one line of JSON with the ports and serves until it is killed.  Unit 1 has what `modbus_rows.Device`
has.

On a serial line it is told that address 0 is the broadcast and that other addresses are not its own, for by
default it takes neither so; over TCP it runs as it comes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from pymodbus import FramerType, ModbusDeviceIdentification, __version__
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.emulator.modbus_rows import OBJECTS, READ_ONLY, Device

BAUD = 115_200


def make_device() -> SimDevice:
    """Return unit 1."""
    unit = Device()
    values = [int.from_bytes(unit.cells[k : k + 2]) for k in range(0, len(unit.cells), 2)]

    def registers(first: int, last: int, readonly: bool = False) -> SimData:
        return SimData(first, values=[*values[first:last]], datatype=DataType.REGISTERS, readonly=readonly)

    end = len(values)
    return SimDevice(
        1,
        simdata=(
            [SimData(0, values=[*unit.coils], datatype=DataType.BITS)],
            [SimData(0, values=[*unit.inputs], datatype=DataType.BITS)],
            [
                registers(0, READ_ONLY.start),
                registers(READ_ONLY.start, READ_ONLY.stop, readonly=True),
                registers(READ_ONLY.stop, end),
            ],
            [registers(0, end)],
        ),
    )


async def serve(kind: str, where: list[str]) -> None:
    """Serve for ever."""
    names = {k: text.decode() for k, text in OBJECTS.items()}
    identity = ModbusDeviceIdentification(info=names)  # type: ignore[no-untyped-call]  # pymodbus's lack
    ports = []
    servers: list[ModbusTcpServer | ModbusSerialServer] = []
    if kind == "tcp":
        for _ in range(int(where[0])):
            server = ModbusTcpServer(make_device(), identity=identity, address=("127.0.0.1", 0))
            await server.serve_forever(background=True)
            assert isinstance(server.transport, asyncio.Server)
            ports.append(int(server.transport.sockets[0].getsockname()[1]))
            servers.append(server)
    else:
        for path in where:
            line = ModbusSerialServer(
                make_device(),
                framer=FramerType(kind),
                identity=identity,
                port=path,
                baudrate=BAUD,
                ignore_missing_devices=True,
                broadcast_enable=True,
            )
            await line.serve_forever(background=True)
            servers.append(line)
    print(json.dumps({"ports": ports, "version": __version__}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # what it says of bad input is not asked for, and nobody reads it
    asyncio.run(serve(sys.argv[1], sys.argv[2:]))
