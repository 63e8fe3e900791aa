"""The connection: an answer belongs to its request or is an error, and the next request works again."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.framer import FramerRTU
from ridethrough.emulator.errors import DeviceError, ScenarioError
from ridethrough.hil.modbus_frames import frame_fault
from ridethrough.hil.modbus_link import EXCEPTIONS, Link, TargetError
from ridethrough.hil.target import RtuTarget, TcpTarget

from tests.hil.device_bench import (
    TIMEOUT_S,
    Peer,
    Script,
    answer,
    body,
    framed,
    hang_up,
    run,
    serial_line,
    silent,
)


async def half_and_hang_up(request: bytes, writer: asyncio.StreamWriter) -> None:
    """Close in the middle of the answer."""
    writer.write(framed(request, b"\3\2\0\7")[:9])
    await writer.drain()
    writer.close()


def link_to(peer: Peer, timeout_s: float = 5.0) -> Link:
    return Link(TcpTarget("127.0.0.1", peer.port), timeout_s)


async def one_fault(script: Script, timeout_s: float = 5.0) -> tuple[TargetError, int]:
    """Return the error that one answer gives, and the number of connections after a good request."""
    async with Peer(script, answer(42)) as peer:
        link = link_to(peer, timeout_s)
        with pytest.raises(TargetError) as caught:
            await link.read(1, 40000, 1, "the marker")
        assert await link.read(1, 40001, 1, "the next one") == [42]
        await link.close()
        return caught.value, peer.connections


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    async def test() -> None:
        async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(1.5 * TIMEOUT_S)
            writer.write(framed(request, b"\3\2\x53\x75"))

        async with Peer(late, answer(42), answer(43)) as peer:
            link = link_to(peer, TIMEOUT_S)
            with pytest.raises(
                TargetError, match=r"reading 713.SoC \(register 7\): no answer within 0.3 s"
            ) as e:
                await link.read(1, 7, 1, "713.SoC")
            assert e.value.silent
            assert not e.value.refused
            for wanted in (42, 43):
                await asyncio.sleep(0.4 * TIMEOUT_S)
                assert await link.read(1, 8, 1, "another") == [wanted]
            assert peer.connections == 2
            await link.close()

    run(test())


def test_a_cancelled_request_leaves_no_answer_behind() -> None:
    async def test() -> None:
        async with Peer(silent, answer(42)) as peer:
            link = link_to(peer)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await link.read(1, 7, 1, "x")
            assert await link.read(1, 7, 1, "x") == [42]
            assert peer.connections == 2
            await link.close()

    run(test())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (body(b"\3\2\0\7", tid=0), "transaction id 0"),
        (body(b"\4\2\0\7"), "answered with function 4"),
        (body(b"\x84\2"), "answered with function 132"),
        (body(b"\3\4\0\7\0\7"), "asked for 2 bytes of registers, the answer counts 4"),
        (body(b"\3\2\0"), "the answer has 3 bytes instead of 4"),
        (body(b"\3\2\0\7\7"), "the answer has 5 bytes instead of 4"),
        (body(b"\x83"), "length 2"),
        (body(b"\x55\2\0\7"), "answered with function 85"),
        (hang_up, "the device closed the connection"),
        (half_and_hang_up, "the device closed the connection"),
    ],
)
def test_a_wrong_answer_is_an_error_at_once_and_the_next_request_works(script: Script, words: str) -> None:
    async def test() -> None:
        began_s = time.perf_counter()
        fault, connections = await one_fault(script)
        assert words in str(fault)
        assert "reading the marker (register 40000)" in str(fault)
        assert not fault.silent
        assert connections == 2
        assert time.perf_counter() - began_s < 4.0, "it waited for the time-out"

    run(test())


@pytest.mark.parametrize("header", ["0001 0001 0005 01", "0001 0000 0000 01", "0001 0000 ffff 01"])
def test_what_is_no_modbus_frame_is_an_error_at_once(header: str) -> None:
    async def send(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes.fromhex(header) + b"\3\2\0\7")

    async def test() -> None:
        fault, connections = await one_fault(send)
        assert "no Modbus/TCP frame" in str(fault)
        assert connections == 2

    run(test())


def test_another_transaction_id_is_not_taken() -> None:
    async def test() -> None:
        fault, connections = await one_fault(body(b"\3\2\0\7", tid=0x4711), TIMEOUT_S)
        assert fault.silent
        assert connections == 2

    run(test())


def test_a_second_copy_of_an_answer_is_skipped() -> None:
    async def twice(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(2 * framed(request, b"\3\2\0\7"))

    async def test() -> None:
        async with Peer(twice, answer(42), answer(43)) as peer:
            link = link_to(peer)
            assert [await link.read(1, 7, 1, "x") for _ in range(3)] == [[7], [42], [43]]
            assert peer.connections == 1
            await link.close()

    run(test())


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 10, 11, 200])
def test_exceptions_are_named_with_their_cure(code: int) -> None:
    reads, writes = {5: (4, 1), 6: (4, 4)}.get(code, (1, 1))

    async def test() -> None:
        script = [*reads * [body(bytes((0x83, code)))], *writes * [body(bytes((0x90, code)))], answer(42)]
        async with Peer(*script) as peer:
            link = link_to(peer, 1.0)
            with pytest.raises(DeviceError) as read:
                await link.read(1, 40000, 2, "the marker")
            with pytest.raises(TargetError) as write:
                await link.write(7, 40500, (1, 2), "704.WSet")
            name, cure = EXCEPTIONS.get(code, ("not of the standard", "manual"))
            place = f"tcp:127.0.0.1:{peer.port}/1"
            begin = f"{place}: reading the marker (registers 40000 to 40001): exception {code}, {name}: "
            assert str(read.value).startswith(begin)
            assert cure in str(read.value)
            assert f"{place}, unit 7: writing 704.WSet (registers 40500 to 40501)" in str(write.value)
            assert write.value.code == code
            assert write.value.refused
            assert await link.read(1, 7, 1, "x") == [42]
            assert peer.connections == 1  # an exception is an answer
            assert link.requests == len(peer.frames) == reads + writes + 1
            await link.close()

    run(test())


def test_one_register_is_written_with_function_6_unless_the_unit_refuses_it() -> None:
    async def test() -> None:
        six, sixteen = b"\6\0\7\0\x2a", struct.pack(">BHH", 16, 7, 1)
        async with Peer(body(six), body(b"\x86\1"), body(sixteen), body(sixteen), body(b"\x86\2")) as peer:
            link = link_to(peer)
            for _ in range(3):
                await link.write(1, 7, (42,), "x")
            assert [frame[7] for frame in peer.frames] == [6, 6, 16, 16]
            with pytest.raises(TargetError, match="exception 2"):
                await link.write(2, 7, (42,), "x")
            assert [frame[7] for frame in peer.frames[4:]] == [6]
            await link.close()

    run(test())


@pytest.mark.parametrize("wrong", [b"\6\0\7\0\x2b", b"\6\0\x08\0\x2a"])
def test_a_write_that_is_confirmed_wrongly_is_an_error(wrong: bytes) -> None:
    async def test() -> None:
        async with Peer(body(wrong)) as peer:
            link = link_to(peer)
            with pytest.raises(TargetError, match="the answer confirms"):
                await link.write(1, 7, (42,), "x")
            await link.close()

    run(test())


def test_a_write_without_an_answer_is_not_repeated() -> None:
    async def test() -> None:
        async with Peer(silent, answer(42)) as peer:
            link = link_to(peer, TIMEOUT_S)
            with pytest.raises(TargetError, match="no answer"):
                await link.write(1, 7, (1, 2), "x")
            assert await link.read(1, 7, 1, "x") == [42]
            assert [frame[7] for frame in peer.frames] == [16, 3]
            await link.close()

    run(test())


def test_requests_of_several_tasks_take_turns() -> None:
    async def echo(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.001)
        writer.write(framed(request, b"\3\2" + request[8:10]))

    async def test() -> None:
        async with Peer(*[echo] * 40) as peer:
            link = link_to(peer)
            found = await asyncio.gather(*(link.read(1, k, 1, "x") for k in range(40)))
            assert found == [[k] for k in range(40)]
            assert peer.connections == 1
            await link.close()

    run(test())


def test_a_peer_that_is_not_there_is_an_error_with_a_bounded_back_off() -> None:
    async def test() -> None:
        async with Peer() as peer:
            port = peer.port
        link = Link(TcpTarget("127.0.0.1", port), 0.4)
        refused = early = 0
        began_s = time.perf_counter()
        while time.perf_counter() - began_s < 0.5:
            with pytest.raises(
                TargetError, match=r"refused the connection; check|will be tried again in"
            ) as e:
                await link.read(1, 7, 1, "x")
            assert not e.value.refused
            refused += "check that the device is on" in str(e.value)
            early += "tried again" in str(e.value)
            await asyncio.sleep(0.002)
        assert 2 <= refused <= 6
        assert early > refused
        async with Peer(answer(42), port=port):
            await asyncio.sleep(0.8)  # the longest back-off is twice the time-out
            assert await link.read(1, 7, 1, "x") == [42]
            await link.close()

    run(test())


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "5"])
def test_a_time_out_must_be_positive(timeout_s: float) -> None:
    with pytest.raises(ScenarioError, match="timeout_s"):
        Link(TcpTarget("127.0.0.1", 502), timeout_s)


def test_pymodbus_is_quiet_and_other_loggers_are_not(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        fault, _ = await one_fault(body(b"\3\2\0\7", tid=0x4711), TIMEOUT_S)
        assert fault.silent
        logging.getLogger("somebody else").warning("heard")

    run(test())
    assert [record.message for record in caplog.records] == ["heard"]


def chunks(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


REQUEST = bytes.fromhex("0102 0000 0006 01 03 9c40 0002")


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(received: bytes) -> None:
    fault = frame_fault(REQUEST, received)
    assert fault == "" or isinstance(fault, str)
    if len(received) >= 7 and (received[2:4] != b"\0\0"):
        assert "no Modbus/TCP frame" in fault


@given(st.lists(st.integers(0, 2**16 - 1), min_size=2, max_size=2), st.lists(st.integers(0, 60)))
def test_a_good_answer_is_good_however_it_is_cut(words: list[int], cuts: list[int]) -> None:
    good = framed(REQUEST, struct.pack(">BB2H", 3, 4, *words))
    received = b""
    for piece in chunks(good, cuts):
        received += piece
        assert frame_fault(REQUEST, received) == ""


@given(st.integers(6, 12), st.integers(1, 255))
def test_a_good_answer_with_one_wrong_byte_is_a_fault_or_another_value(place: int, change: int) -> None:
    good = bytearray(framed(REQUEST, struct.pack(">BB2H", 3, 4, 1, 2)))
    good[place] ^= change
    fault = frame_fault(REQUEST, bytes(good))
    other_unit = place == 6  # such a frame is skipped
    assert bool(fault) == (place in (7, 8)) or other_unit or (place == 7 and good[7] == 0x83)


def test_answers_cut_into_bytes_are_put_together() -> None:
    async def drip(request: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in framed(request, b"\3\2\0\x2a"):
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0.001)

    async def test() -> None:
        async with Peer(drip) as peer:
            link = link_to(peer)
            assert await link.read(1, 7, 1, "x") == [42]
            await link.close()

    run(test())


def test_pymodbus_takes_what_the_link_refuses() -> None:
    """The reason for looking at transaction id 0 ourselves; when this fails, that look can go."""

    async def test() -> None:
        async with Peer(body(b"\3\2\0\7", tid=0)) as peer:
            client = AsyncModbusTcpClient(
                "127.0.0.1", port=peer.port, retries=0, reconnect_delay=0, timeout=1
            )
            await client.connect()
            reply = await client.read_holding_registers(7, count=1, device_id=1)
            assert reply.registers == [7]
            client.close()
            await asyncio.sleep(0.05)

    run(test())


@asynccontextmanager
async def serial_peer(*replies: tuple[float, bytes]) -> AsyncIterator[tuple[Link, list[bytes]]]:
    """Answer each request on a serial line after a delay with a body, whose checksum is right."""
    loop = asyncio.get_running_loop()
    requests: list[bytes] = []
    async with serial_line() as (near, far):
        link = Link(RtuTarget(near, 9600), TIMEOUT_S)
        port = os.open(far, os.O_RDWR | os.O_NONBLOCK)

        def on_request() -> None:
            requests.append(os.read(port, 256))
            delay_s, words = replies[len(requests) - 1]
            frame = b"\1" + words
            loop.call_later(delay_s, os.write, port, frame + FramerRTU.compute_CRC(frame).to_bytes(2))

        loop.add_reader(port, on_request)
        try:
            yield link, requests
        finally:
            loop.remove_reader(port)
            await link.close()
            os.close(port)


def test_a_late_answer_on_a_serial_line_is_not_taken_for_the_next_one() -> None:
    """On a line there is no transaction id: the client listens until the late answer has passed."""

    async def test() -> None:
        late, good = (1.5 * TIMEOUT_S, b"\3\2\0\7"), (0.7 * TIMEOUT_S, b"\3\2\0\x2a")
        async with serial_peer(late, good) as (link, requests):
            with pytest.raises(TargetError, match="no answer"):
                await link.read(1, 7, 1, "x")
            assert await link.read(1, 7, 1, "x") == [42]
            assert len(requests) == 2

    run(test())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"\3\4\0\7\0\7", "asked for 2 bytes of registers, the answer counts 4"),
        (b"\4\2\0\7", "answered with function 4"),
        (b"\6\0\7\0\7", "answered with function 6"),
    ],
)
def test_a_wrong_answer_on_a_serial_line_is_an_error(wrong: bytes, words: str) -> None:
    async def test() -> None:
        async with serial_peer((0.0, wrong), (0.0, b"\3\2\0\x2a")) as (link, _):
            with pytest.raises(TargetError, match=words):
                await link.read(1, 7, 1, "x")
            assert await link.read(1, 7, 1, "x") == [42]

    run(test())


@pytest.mark.parametrize("wrong", [b"\6\0\7\0\x2b", b"\6\0\x08\0\x2a", b"\3\2\0\x2a"])
def test_a_write_on_a_serial_line_that_is_confirmed_wrongly_is_an_error(wrong: bytes) -> None:
    async def test() -> None:
        async with serial_peer((0.0, wrong), (0.0, struct.pack(">BHH", 16, 7, 2))) as (link, _):
            with pytest.raises(TargetError, match=r"the answer confirms|answered with function 3"):
                await link.write(1, 7, (42,), "x")
            await link.write(1, 7, (42, 43), "x")

    run(test())


def test_several_registers_that_are_confirmed_wrongly_on_a_serial_line_are_an_error() -> None:
    async def test() -> None:
        wrong = [(0.0, struct.pack(">BHH", 16, *place)) for place in ((8, 2), (7, 1))]
        async with serial_peer(*wrong) as (link, _):
            for _ in wrong:
                with pytest.raises(TargetError, match=r"the answer confirms|answered with function 3"):
                    await link.write(1, 7, (42, 43), "x")

    run(test())


def test_a_serial_port_that_is_not_there_is_an_error() -> None:
    async def test() -> None:
        link = Link(RtuTarget("/dev/no-such-port", 9600), 1.0)
        with pytest.raises(TargetError, match=r"rtu:/dev/no-such-port@9600/1: .*check that the port exists"):
            await link.read(1, 7, 1, "x")

    run(test())
