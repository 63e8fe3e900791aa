"""Outside clients, not ours, against the server of Modbus/TCP Security."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sunspec2
from pymodbus.client import AsyncModbusTlsClient
from pymodbus.exceptions import ModbusException
from ridethrough.emulator.rights import (
    GRID_SERVICE,
    NETWORK_ADMINISTRATOR,
    READ_ONLY,
    ROLES,
    SUPER_ADMINISTRATOR,
)
from ridethrough.emulator.tls import TlsServerSettings
from sunspec2.modbus.client import SunSpecModbusClientDeviceTCP
from sunspec2.modbus.modbus import ModbusClientError, ModbusClientException

from tests.emulator.loops import run
from tests.emulator.tls_bench import (
    Behind,
    behind_tls,
    certificates,
    client_context,
    device,
    server_files,
)

SHIPPED = Path(sunspec2.__file__).parent / "tests" / "tls_data"
"""The PKI in pysunspec2's wheel; its keys are public."""

SHIPPED_NAMES = {
    READ_ONLY: "client_readonly",
    GRID_SERVICE: "client_gridservice",
    NETWORK_ADMINISTRATOR: "client_netadmin",
    SUPER_ADMINISTRATOR: "client_superadmin",
}

MAY_CONTROL = (GRID_SERVICE, SUPER_ADMINISTRATOR)


def shipped_server(folder: str) -> TlsServerSettings:
    pair = SHIPPED / "server" / folder / "server_valid"
    return TlsServerSettings(
        pair.with_suffix(".crt"), pair.with_suffix(".key"), SHIPPED / "ca" / "client_ca_chain.crt"
    )


def shipped_client(behind: Behind, place: str) -> Any:
    pair = SHIPPED / "client" / place
    return pysunspec2(
        behind, SHIPPED / "ca" / "server_ca_chain.crt", pair.with_suffix(".crt"), pair.with_suffix(".key")
    )


def pysunspec2(behind: Behind, ca: Path, cert: Path, key: Path) -> Any:
    """Return pysunspec2's own client; it checks our name, which is in the certificate."""
    return SunSpecModbusClientDeviceTCP(
        slave_id=1,
        ipaddr="localhost",
        ipport=behind.server.port,
        timeout=5.0,
        tls=True,
        cafile=str(ca),
        certfile=str(cert),
        keyfile=str(key),
    )


def visit(client: Any) -> tuple[list[int], str]:
    """Scan, then write a limit: returns the models found, and the exception of the write or ''."""
    try:
        client.scan()
        models = [model.model_id for model in client.model_list]
        control = client.DERCtlAC[0]
        control.WMaxLimPct.cvalue = 42.0
        try:
            control.write()
        except ModbusClientException as error:
            return models, str(error)
        control.read()
        assert control.WMaxLimPct.cvalue == 42.0
        return models, ""
    finally:
        client.close()


def visited(make: Callable[[Behind], Any], own: TlsServerSettings | None) -> tuple[list[int], str]:
    found: list[tuple[list[int], str]] = []

    async def main() -> None:
        async with behind_tls(own=own) as behind:
            found.append(await asyncio.to_thread(visit, make(behind)))
            assert behind.told == []

    run(main())
    return found[0]


@pytest.mark.parametrize("folder", ["tls1_2", "tls1_3"])
@pytest.mark.parametrize("role", ROLES)
def test_pysunspec2_with_the_certificates_it_ships(role: str, folder: str) -> None:
    models, refused = visited(
        lambda behind: shipped_client(behind, f"{folder}/{SHIPPED_NAMES[role]}"), shipped_server(folder)
    )
    assert models == list(device()[1].layout.models)
    assert refused == ("" if role in MAY_CONTROL else "Modbus exception: 1")


@pytest.mark.parametrize("role", ROLES)
def test_pysunspec2_with_certificates_of_ours(role: str) -> None:
    ours = certificates()
    files = ours.clients[role]
    models, refused = visited(
        lambda behind: pysunspec2(behind, ours.ca, files.cert, files.key), server_files()
    )
    assert models == list(device()[1].layout.models)
    assert refused == ("" if role in MAY_CONTROL else "Modbus exception: 1")


@pytest.mark.parametrize("name", ["client_no_role", "client_malformed_role"])
def test_pysunspec2_without_a_role_may_not_even_read(name: str) -> None:
    async def main() -> None:
        async with behind_tls(own=shipped_server("tls1_3")) as behind:
            client = shipped_client(behind, f"invalid/{name}")
            await asyncio.to_thread(client.connect)
            try:
                base = behind.units[1].layout.base_address
                with pytest.raises(ModbusClientException, match="exception 1:"):
                    await asyncio.to_thread(client.read, base, 2)
                with pytest.raises(ModbusClientException, match=r"exception: 1$"):
                    await asyncio.to_thread(client.write, base, b"\0\0")
            finally:
                client.disconnect()
            assert behind.secured.handshakes.done == 1

    run(main())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("client_self_signed", "self-signed certificate"),
        ("client_foreign_ca", "unable to get local issuer certificate"),
        ("client_expired", "certificate has expired"),
    ],
)
def test_pysunspec2_with_a_bad_certificate_is_refused(name: str, words: str) -> None:
    async def main() -> None:
        async with behind_tls(own=shipped_server("tls1_3")) as behind:
            client = shipped_client(behind, f"invalid/{name}")

            def attempt() -> None:
                client.connect()
                client.read(behind.units[1].layout.base_address, 2)

            try:
                with pytest.raises((ModbusClientError, OSError)):
                    await asyncio.to_thread(attempt)
            finally:
                client.disconnect()
            (told,) = behind.told
            assert words in told

    run(main())


@pytest.mark.parametrize("role", ROLES)
def test_pymodbus_own_tls_client(role: str) -> None:
    async def main() -> None:
        async with behind_tls() as behind:
            layout = behind.units[1].layout
            client = AsyncModbusTlsClient(
                "localhost", port=behind.server.port, sslctx=client_context(role), timeout=5.0, retries=0
            )
            assert await client.connect()
            first = await client.read_holding_registers(layout.base_address, count=125)
            assert first.registers[:2] == [0x5375, 0x6E53]
            for model, name in ((704, "WMaxLimPct"), (124, "MinRsvPct")):
                address = layout.point(model, name).address
                held = (await client.read_holding_registers(address)).registers
                for answer in (
                    await client.write_registers(address, held),
                    await client.write_register(address, held[0]),
                ):
                    assert answer.isError() == (role not in MAY_CONTROL)
                    assert role in MAY_CONTROL or answer.exception_code == 1
            client.close()

    run(main())


@pytest.mark.parametrize("name", ["no role", "expired"])
def test_pymodbus_with_a_certificate_that_is_not_good_enough(name: str) -> None:
    async def main() -> None:
        async with behind_tls() as behind:
            client = AsyncModbusTlsClient(
                "localhost",
                port=behind.server.port,
                sslctx=client_context(name),
                timeout=2.0,
                retries=0,
                reconnect_delay=0,
            )
            try:
                if name == "no role":
                    assert await client.connect()
                    answer = await client.read_holding_registers(behind.units[1].layout.base_address)
                    assert answer.exception_code == 1
                else:
                    await client.connect()
                    with pytest.raises(ModbusException):
                        await client.read_holding_registers(behind.units[1].layout.base_address)
                    assert "the client's certificate is not accepted: certificate has expired" in behind.told
            finally:
                client.close()
            assert behind.secured.handshakes.done == (name == "no role")

    run(main())
