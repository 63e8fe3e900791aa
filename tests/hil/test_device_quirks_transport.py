"""Connections as the field has them: dropped, shared, busy, late, and taken over by another device."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from ridethrough.hil.device import Device
from ridethrough.hil.modbus_link import IDLE_S, Link, TargetError
from ridethrough.hil.target import TcpTarget

from tests.hil.device_bench import (
    COMMON,
    TIMEOUT_S,
    Box,
    Peer,
    Registers,
    Script,
    answer,
    body,
    boxed,
    der,
    framed,
    hang_up,
    model,
    run,
    silent,
)


def only(found: list[str]) -> str:
    (text,) = found
    return text


# Connections that end.


@pytest.mark.parametrize(("end", "how"), [(hang_up, "was closed"), (silent, "got no answer")])
def test_a_read_on_a_connection_that_was_dropped_while_idle_is_asked_once_more(end: Script, how: str) -> None:
    async def test() -> None:
        async with boxed(Box(Registers(der()))) as (peer, device):
            await device.discover()
            await asyncio.sleep(1.1 * IDLE_S)
            peer.script = [end]
            assert (await device.telemetry()).power_w == 1500.0
            assert peer.connections == 2
            assert how in only(device.met)
            assert "the device drops idle connections" in only(device.met)

    run(test())


def test_a_read_is_not_asked_more_than_once_more() -> None:
    async def test() -> None:
        async with boxed(Box(Registers(der()))) as (peer, device):
            await device.discover()
            await asyncio.sleep(1.1 * IDLE_S)
            peer.script = [silent, silent]
            before = len(peer.frames)
            with pytest.raises(TargetError, match="no answer"):
                await device.telemetry()
            assert len(peer.frames) == before + 2

    run(test())


@pytest.mark.parametrize("reread", [True, False])
def test_a_busy_connection_or_a_bench_that_counts_losses_gets_no_second_read(reread: bool) -> None:
    async def test() -> None:
        async with boxed(Box(Registers(der())), reread=reread) as (peer, device):
            await device.discover()
            await asyncio.sleep(0.0 if reread else 1.1 * IDLE_S)
            peer.script = [silent]
            with pytest.raises(TargetError, match="no answer"):
                await device.telemetry()
            assert device.met == []

    run(test())


@pytest.mark.parametrize("end", [hang_up, silent])
def test_a_write_on_a_connection_that_was_dropped_while_idle_is_never_repeated(end: Script) -> None:
    async def test() -> None:
        unit = Registers(der())
        async with Peer(answer(1), end, default=Box(unit)) as peer:
            link = Link(TcpTarget("127.0.0.1", peer.port), TIMEOUT_S)
            await link.read(1, 40000, 1, "x")
            await asyncio.sleep(1.1 * IDLE_S)
            with pytest.raises(TargetError, match="writing x"):
                await link.write(1, unit.at(704, "WSetEna"), (1,), "x")
            assert unit.writes == []
            assert [frame[7] for frame in peer.frames] == [3, 6]
            await link.close()

    run(test())


def test_a_device_that_allows_one_client_says_so_by_closing() -> None:
    async def test() -> None:
        async with Peer(hang_up) as peer, Device(f"tcp:127.0.0.1:{peer.port}", TIMEOUT_S) as device:
            with pytest.raises(
                TargetError, match="before it answered anything: another client may be connected"
            ):
                await device.discover()
        async with Device(f"tcp:127.0.0.1:{peer.port}", TIMEOUT_S) as device:
            with pytest.raises(
                TargetError, match=r"refused the connection.* no other client is connected \(some"
            ):
                await device.discover()

    run(test())


# Busy devices.


@pytest.mark.parametrize("code", [5, 6])
def test_a_busy_device_is_asked_again_a_little_later(code: int) -> None:
    async def test() -> None:
        async with boxed(Box(Registers(der()))) as (peer, device):
            await device.discover()
            peer.script = 3 * [body(bytes((0x83, code)))]
            assert (await device.telemetry()).power_w == 1500.0
            assert f"exception {code}" in only(device.met)
            assert "asked again" in only(device.met)

    run(test())


def test_a_write_is_repeated_only_when_the_device_says_that_it_was_not_carried_out() -> None:
    async def test() -> None:
        unit = Registers(der())
        box = Box(unit)
        async with boxed(box) as (peer, device):
            await device.discover()
            peer.script = 2 * [body(b"\x90\6")]
            await device.set_power(1000.0, 60)
            assert len(unit.writes) == 2
            for code in (1, 2, 3, 4, 5):
                await device.discover()
                before = len(peer.frames)
                box.refuses = {16: code}
                with pytest.raises(TargetError, match=f"exception {code}|refuses function 16"):
                    await device.set_power(1500.0, 60)
                box.refuses = {}
                assert len(peer.frames) == before + 1, code

    run(test())


@pytest.mark.parametrize("code", [1, 2, 3, 4])
def test_a_read_is_not_repeated_after_an_answer_that_will_not_change(code: int) -> None:
    async def test() -> None:
        async with Peer(body(bytes((0x83, code))), answer(42)) as peer:
            link = Link(TcpTarget("127.0.0.1", peer.port), TIMEOUT_S)
            with pytest.raises(TargetError, match=f"exception {code}"):
                await link.read(1, 7, 1, "x")
            assert len(peer.frames) == 1
            await link.close()

    run(test())


# Answers that belong to something else.


def test_a_late_answer_on_the_same_connection_is_skipped_and_named() -> None:
    async def late_and_good(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(framed(request, b"\3\2\x53\x75", tid=0x4711) + framed(request, b"\3\2\0\x2a"))

    async def test() -> None:
        async with Peer(late_and_good) as peer:
            link = Link(TcpTarget("127.0.0.1", peer.port), TIMEOUT_S)
            assert await link.read(1, 7, 1, "x") == [42]
            assert "an answer with transaction id 18193 from unit 1 came late, twice or unasked" in only(
                link.met
            )
            await link.close()

    run(test())


def test_what_comes_unasked_is_named() -> None:
    async def twice(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(framed(request, b"\3\2\0\7"))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(framed(request, b"\3\2\0\7"))

    async def test() -> None:
        async with Peer(twice, answer(42)) as peer:
            link = Link(TcpTarget("127.0.0.1", peer.port), TIMEOUT_S)
            assert await link.read(1, 7, 1, "x") == [7]
            await asyncio.sleep(0.05)
            assert await link.read(1, 7, 1, "x") == [42]
            assert "an answer came when nothing was asked" in only(link.met)
            await link.close()

    run(test())


# Who is there after a new connection.

Use = Callable[[Device], Awaitable[object]]


async def poll(device: Device) -> object:
    return await device.telemetry()


async def command(device: Device) -> object:
    return await device.set_power(1000.0, 60)


async def write(device: Device) -> object:
    return await device.write_point("704.WSet", 100)


async def reserve(device: Device) -> object:
    return await device.read_point("713.SoC")


async def lose_connection(peer: Peer, device: Device) -> None:
    peer.script = [hang_up]
    with pytest.raises(TargetError, match="the device closed the connection"):
        await device.telemetry()


@pytest.mark.parametrize("use", [poll, command, write, reserve])
def test_another_device_behind_the_same_address_gets_no_command(use: Use) -> None:
    async def test() -> None:
        box = Box(Registers(der()))
        async with boxed(box) as (peer, device):
            await device.discover()
            await lose_connection(peer, device)
            other = Registers([model(1, Mn="Maker", Md="Thing", SN="008", Vr="1.2"), *der()[1:]])
            first, box.units[1] = box.units[1], other
            for _ in range(2):  # it stays so
                with pytest.raises(
                    TargetError, match=r"another device answers here: serial '008' .* instead of serial '007'"
                ) as caught:
                    await use(device)
                assert caught.value.refused
            assert other.writes == []
            assert {address for address, _ in other.reads} == {40002}
            box.units[1] = first
            await use(device)
            box.units[1] = other
            await lose_connection(peer, device)
            assert (await device.discover()).identity.serial == "008"  # on purpose
            await use(device)

    run(test())


def test_a_map_that_changes_together_with_the_device_is_not_taken_by_itself() -> None:
    async def test() -> None:
        box = Box(Registers(der()))
        async with boxed(box) as (_, device):
            await device.discover()
            box.units[1] = Registers([model(1, Mn="Maker", Md="Thing", SN="008"), *der()[2:]])
            with pytest.raises(TargetError, match="model 701 is gone"):
                await device.telemetry()
            for _ in range(2):
                with pytest.raises(TargetError, match=r"another device answers here: serial '008'"):
                    await device.telemetry()

    run(test())


def test_another_device_that_is_discovered_by_half_is_not_commanded_by_the_old_map() -> None:
    class Failing(Registers):
        fails = True

        def read(self, address: int, count: int, /) -> bytes | int:
            fails = self.fails and count > 2 and address == self.at(704, "ID")
            return 4 if fails else super().read(address, count)

    async def test() -> None:
        box = Box(Registers(der()))
        async with boxed(box) as (_, device):
            await device.discover()
            box.units[1] = other = Failing([model(1, Mn="Maker", Md="Thing", SN="008"), *der()[2:]])
            for use in (device.discover, device.telemetry, lambda: device.set_power(1000.0, 60)):
                with pytest.raises(TargetError, match="exception 4"):
                    await use()
            assert other.writes == []
            other.fails = False
            assert await device.set_power(1000.0, 60) == 1000.0
            assert other.words[other.at(704, "WSet") + 1] == 1000

    run(test())


def test_another_meter_is_not_taken_for_the_homes() -> None:
    async def test() -> None:
        meters = [Registers([model(1, SN=serial), model(203, W=-321, W_SF=0)]) for serial in ("M1", "M2")]
        unit = Registers(der())
        box = Box(unit, meters[0])
        async with boxed(box, meter_units=(2,)) as (peer, device):
            assert (await device.telemetry()).import_w == -321.0
            box.units[2] = meters[1]
            await lose_connection(peer, device)
            with pytest.raises(TargetError, match=r"unit 2: another device answers here: serial 'M2'"):
                await device.telemetry()
            unit.words = {address - 40000: word for address, word in unit.words.items()}
            box.units[2].words = {address - 40000: word for address, word in meters[1].words.items()}
            for _ in range(2):
                with pytest.raises(TargetError, match=r"another device answers here: serial 'M2'|is gone"):
                    await device.telemetry()
            await device.discover()
            assert (await device.telemetry()).import_w == -321.0

    run(test())


def test_the_same_device_goes_on_and_a_new_firmware_is_named() -> None:
    async def test() -> None:
        box = Box(Registers(der()))
        async with boxed(box) as (peer, device):
            await device.discover()
            await lose_connection(peer, device)
            before = len(peer.frames)
            assert (await device.telemetry()).power_w == 1500.0
            assert peer.frames[before][8:12] == bytes.fromhex("9c42 0044")  # model 1 comes first
            assert device.met == []
            box.units[1] = Registers([model(1, Mn="Maker", Md="Thing", SN="007", Vr="1.3"), *der()[1:]])
            await lose_connection(peer, device)
            assert (await device.telemetry()).power_w == 1500.0
            assert only(device.met) == "its firmware has changed from '1.2' to '1.3'"

    run(test())


def test_a_device_that_hides_its_model_1_after_a_restart_is_discovered_again() -> None:
    async def test() -> None:
        unit = Registers(der())
        box = Box(unit)
        async with boxed(box) as (peer, device):
            await device.discover()
            await lose_connection(peer, device)
            unit.words = {address - 40000: word for address, word in unit.words.items()}  # another base
            with pytest.raises(TargetError, match=r"model 1 is gone \(register 40002\): exception 2"):
                await device.telemetry()
            assert (await device.telemetry()).power_w == 1500.0

    run(test())


def test_a_device_without_a_serial_number_is_named() -> None:
    async def test() -> None:
        nameless = model(1, Mn="Maker", Md="Thing")
        async with boxed(Box(Registers([nameless, *der()[1:]]))) as (_, device):
            warnings = (await device.discover()).warnings
            assert (
                "model 1 tells no serial number: another device in its place would not be noticed" in warnings
            )
        assert len(COMMON) == len(nameless)

    run(test())
