"""Outside clients, not ours, against the Modbus TCP server."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.pdu.mei_message import ReadDeviceInformationResponse
from ridethrough.emulator.server import TcpServer, serve_tcp

from tests.emulator.modbus_rows import Device, Memory
from tests.emulator.test_server import WAIT_S, run


def test_pymodbus_client() -> None:
    async def main() -> None:
        memory = Memory()
        async with await serve_tcp({1: memory, 101: Memory()}) as server:
            client = AsyncModbusTcpClient(server.host, port=server.port, timeout=WAIT_S, retries=0)
            assert await client.connect()
            read = await client.read_holding_registers(10, count=125, device_id=1)
            assert read.registers == [0x1000 + i for i in range(10, 135)]
            assert not (await client.write_register(3, 0xBEEF, device_id=1)).isError()
            assert not (await client.write_registers(4, [1, 2, 3], device_id=1)).isError()
            assert (await client.read_holding_registers(3, count=4)).registers == [0xBEEF, 1, 2, 3]
            assert (await client.read_holding_registers(3, device_id=101)).registers == [0x1003]
            assert (await client.read_holding_registers(3, device_id=0)).registers == [0xBEEF]
            for answer, code in (
                (await client.read_holding_registers(199, count=2), 2),
                (await client.write_registers(198, [7, 7, 7]), 2),
                (await client.read_coils(0), 1),
                (await client.read_input_registers(0), 1),
                (await client.readwrite_registers(read_address=0, read_count=1, values=[1]), 1),
                (await client.read_holding_registers(0, device_id=99), 0x0B),
            ):
                assert answer.isError()
                assert answer.exception_code == code
            answers = await asyncio.gather(*(client.read_holding_registers(i) for i in range(20, 40)))
            assert [a.registers for a in answers] == [[0x1000 + i] for i in range(20, 40)]
            client.close()
            assert memory.read(198, 2) == bytes.fromhex("10c6 10c7")

    run(main())


def test_pymodbus_client_with_every_function() -> None:
    async def main() -> None:
        device = Device()
        async with await serve_tcp({1: device}) as server:
            client = AsyncModbusTcpClient(server.host, port=server.port, timeout=WAIT_S, retries=0)
            assert await client.connect()
            assert (await client.read_coils(1, count=9)).bits[:9] == device.coils[1:10]
            assert (await client.read_discrete_inputs(0, count=6)).bits[:6] == device.inputs[:6]
            assert (await client.read_input_registers(7, count=2)).registers == [0x1007, 0x1008]
            assert not (await client.write_coil(1, True)).isError()
            assert not (await client.write_coils(4, [True] * 9)).isError()
            assert device.coils[:14] == [i % 3 == 0 or i == 1 or 4 <= i < 13 for i in range(14)]
            assert not (await client.mask_write_register(address=3, and_mask=0xFF, or_mask=0xAB00)).isError()
            answer = await client.readwrite_registers(
                read_address=3, read_count=2, write_address=4, values=[0xCAFE], device_id=1
            )
            assert answer.registers == [0xAB03, 0xCAFE]
            assert not (await client.diag_query_data(b"\x12\x34")).isError()
            found: dict[int, bytes] = {}
            first, more = 0, True
            while more:
                page = await client.read_device_information(read_code=3, object_id=first)
                assert isinstance(page, ReadDeviceInformationResponse)
                found |= page.information
                first, more = page.next_object_id, bool(page.more_follows)
            assert found == device.objects
            client.close()

    run(main())


@pytest.mark.skipif(shutil.which("mbpoll") is None, reason="mbpoll is not installed")
def test_mbpoll_client() -> None:
    async def poll(server: TcpServer, *arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *("mbpoll", "-m", "tcp", "-p", str(server.port), "-0", "-1", "-t", "4:hex", *arguments[:-1]),
            *(server.host, arguments[-1]) if arguments[-1] else (server.host,),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
        return process.returncode, output.decode()

    async def main() -> None:
        async with await serve_tcp({1: Memory()}) as server:
            code, output = await poll(server, "-a", "1", "-r", "5", "-c", "2", "")
            assert code == 0
            assert "0x1005" in output
            assert "0x1006" in output
            assert (await poll(server, "-a", "1", "-r", "5", "0xBEEF"))[0] == 0
            assert "0xBEEF" in (await poll(server, "-a", "1", "-r", "5", ""))[1]
            code, output = await poll(server, "-a", "1", "-r", "199", "-c", "2", "")
            assert code != 0
            assert "Illegal data address" in output

    run(main())
