"""Rows 6, 27, 41 to 44, and C10 to C19: what becomes of one exchange.  Without the quirk it is answered."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter

import pytest
from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.layout import compile_layout
from ridethrough.emulator.quirks.knobs import combine
from ridethrough.emulator.quirks.transport import QuirkyServer, serve_quirky
from ridethrough.emulator.server import TcpServer

from tests.emulator.modbus_rows import Memory
from tests.emulator.register_bench import FULL
from tests.quirks.transport_bench import (
    CLOSED,
    RESET,
    SILENCE,
    Client,
    Scenario,
    cells,
    dialled,
    frame,
    generator,
    knobs,
    quiet,
    read,
    seen,
    visit,
    write,
)
from tests.quirks.wire import build, bundled

FINE = cells(5, 1)
READ = read(5, 1)
WRITE = write(7, 1, 2)
DONE = WRITE[:5]


def asking(*pdus: bytes, pause_s: float = 0.0, unit: int = 1) -> Scenario[list[bytes | str]]:
    """Ask one after the other on one connection, and tell what came."""

    async def scenario(server: TcpServer) -> list[bytes | str]:
        found = []
        async with dialled(server) as client:
            for pdu in pdus:
                found.append(await client.ask(pdu, unit))
                await quiet(pause_s)
        return found

    return scenario


def polling(polls: int) -> Scenario[Counter[bytes | str]]:
    """Ask again and again, and connect anew after whatever is no answer; counts what came."""

    async def scenario(server: TcpServer) -> Counter[bytes | str]:
        found: Counter[bytes | str] = Counter()
        while found.total() < polls:
            async with dialled(server) as client:
                answer: bytes | str = b""
                while isinstance(answer, bytes) and found.total() < polls:
                    client.send(READ)
                    answer = await client.receive(1.0)
                    if isinstance(answer, bytes):
                        shift = int.from_bytes(answer[:2]) - client.transaction
                        answer = bytes((shift % 256,)) + answer[6:]
                    found[answer] += 1
        return found

    return scenario


GOOD = b"\0\1" + FINE
"""What `polling` makes of an answer: shift of the transaction id, unit id, body."""


# Units that are not there or hang, and requests that are refused.


@pytest.mark.parametrize(
    ("quirk", "answer"), [("absent-unit-silent", SILENCE), ("absent-unit-failure", b"\x83\4")]
)
def test_row_6_a_unit_that_is_not_there(quirk: str, answer: bytes | str) -> None:
    assert seen(asking(READ, unit=9), quirk) == [answer]
    assert seen(asking(READ, READ), quirk) == [FINE, FINE]
    assert seen(asking(READ, unit=9)) == [b"\x83\x0b"]


def test_row_27_function_16_is_refused_for_one_register_only() -> None:
    pdus = (write(7, 1), write(7, 1, 2), struct.pack(">BHH", 6, 7, 5), read(7, 2))
    rest = [DONE, pdus[2], b"\3\4\0\5\0\2"]
    assert seen(asking(*pdus), "write-multiple-of-one-refused") == [b"\x90\1", *rest]
    assert seen(asking(*pdus)) == [write(7, 1)[:5], *rest]


def test_requests_are_refused_by_function_and_count() -> None:
    rules = [
        {"function": 3, "count_min": 51, "code": 3},
        {"function": 6, "count_max": 0},
        {"function": 16, "count_min": 1, "count_max": 1, "code": 4},
    ]
    pdus = (read(0, 50), read(0, 51), struct.pack(">BHH", 6, 7, 5), write(7, 1), WRITE)
    six = pdus[2]
    assert seen(asking(*pdus), knobs(refuse=rules)) == [cells(0, 50), b"\x83\3", six, b"\x90\4", DONE]


def test_row_41_a_hung_device_is_silent_and_its_meter_is_not() -> None:
    quirk = bundled("hangs-when-written-fast")
    plant, units = build(FULL, [quirk])
    point = compile_layout(FULL).point(704, "WSet")
    command = write(point.address, 0, 0)

    async def main(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as client:
            found = [await client.ask(command), await client.ask(command)]
            found += [await client.ask(read(40000, 2)), await client.ask(b"\x2b\x0e\1\0")]
            found.append(await client.ask(read(40000, 2), unit=0))  # reaches the first unit
            found.append(await client.ask(read(40000, 2), unit=list(units)[1]))
            plant.advance(30 * TICKS_PER_S)
            found.append(await client.ask(read(40000, 2)))
            return found

    marker = b"\3\4SunS"
    found = seen(main, quirk, units=units)
    assert found == [command[:5], SILENCE, SILENCE, SILENCE, SILENCE, marker, marker]
    plain = build(FULL, [quirk])[1]
    assert seen(asking(command, command), units=plain) == [command[:5], b"\x90\6"]


# Busy, slow, silent and late.


def test_row_42_busy_until_left_alone() -> None:
    ever = knobs(busy={"codes": [6], "chance": 1})
    memory = Memory()
    assert seen(asking(READ, WRITE), ever, units={1: memory}) == [b"\x83\6", b"\x90\6"]
    assert memory.calls == []  # nothing was carried out

    async def scenario(server: TcpServer) -> tuple[int, int, int]:
        async with dialled(server) as client:
            asked = 1
            while await client.ask(READ) == FINE:
                asked += 1
            at_once = [await client.ask(READ) for _ in range(20)]
            later = []
            for _ in range(20):
                await quiet(1.0)
                later.append(await client.ask(READ))
        return asked, at_once.count(b"\x83\6"), later.count(FINE)

    asked, at_once, later = seen(scenario, "busy")
    assert 1 < asked < 60
    assert at_once == 20
    assert 14 <= later <= 20


@pytest.mark.parametrize(
    ("quirk", "answers"),
    [("busy", {b"\x83\6"}), ("busy-as-failure", {b"\x83\4", b"\x83\3"})],
)
def test_row_42_what_a_busy_device_says(quirk: str, answers: set[bytes]) -> None:
    found = set(seen(asking(*([READ] * 150)), quirk))
    assert found == {FINE, *answers}
    assert set(seen(asking(*([READ] * 150)))) == {FINE}


def test_row_43_replies_take_one_to_eight_seconds_with_a_heavy_tail() -> None:
    async def scenario(server: TcpServer) -> list[float]:
        loop, found = asyncio.get_running_loop(), []
        async with dialled(server) as client:
            for _ in range(120):
                begin_s = loop.time()
                assert await client.ask(READ) == FINE
                found.append(loop.time() - begin_s)
        return sorted(found)

    slow = seen(scenario, "slow-replies")
    assert slow[0] >= 0.99
    assert slow[-1] <= 8.2
    assert slow[60] == pytest.approx(1.78, abs=0.4)  # 2^(1/1.2), the median of the distribution
    assert 2 <= sum(delay_s > 5.0 for delay_s in slow) <= 35  # one in seven
    assert seen(scenario)[-1] < 0.5


def test_row_43_two_clients_make_a_loaded_gateway_twice_as_slow() -> None:
    async def asking_for(server: TcpServer, polls: int) -> None:
        async with dialled(server) as client:
            for _ in range(polls):
                assert await client.ask(READ) == FINE

    async def scenario(server: TcpServer) -> float:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        await asking_for(server, 10)
        alone_s, begin_s = loop.time() - begin_s, loop.time()
        await asyncio.gather(*(asking_for(server, 10) for _ in range(2)))
        return (loop.time() - begin_s) / alone_s

    one_each = {"delay_s_min": 1.0, "delay_s_max": 1.0}
    assert seen(scenario, knobs(slow=one_each | {"shared": True})) == pytest.approx(2.0, abs=0.1)
    assert seen(scenario, knobs(slow=one_each)) == pytest.approx(1.0, abs=0.1)
    assert bundled("slow-gateway").transport.slow.shared  # type: ignore[union-attr]  # it has both


def test_row_43_registers_that_are_not_served_get_no_answer() -> None:
    pdus = (read(150, 51), READ, write(199, 1, 2), READ)
    assert seen(asking(*pdus), "unserved-silent") == [SILENCE, FINE, SILENCE, FINE]
    assert seen(asking(*pdus)) == [b"\x83\2", FINE, b"\x90\2", FINE]


def test_row_44_a_reply_comes_after_the_client_has_given_up() -> None:
    async def scenario(server: TcpServer) -> list[tuple[int, int]]:
        async with dialled(server) as client:
            found = []
            for _ in range(400):
                client.send(READ)
                answer = await client.receive(5.0)
                while isinstance(answer, bytes):
                    found.append((client.transaction, int.from_bytes(answer[:2])))
                    answer = await client.receive(0.5) if found[-1][0] != found[-1][1] else ""
        return found

    late = [now - own for now, own in seen(scenario, "late-reply") if now != own]
    assert late  # they have their own transaction id, and come two requests or more later
    assert min(late) >= 2
    assert all(now == own for now, own in seen(scenario))


def test_row_44_a_late_reply_may_have_the_id_of_another_request() -> None:
    async def scenario(server: TcpServer) -> bytes | str:
        async with dialled(server) as client:
            client.send(read(5, 1))
            assert await client.receive(5.0) == SILENCE
            client.send(read(9, 1))
            return await client.receive(10.0)

    late = {"delay_s": 8, "chance": 1}
    assert seen(scenario, knobs(late=late)) == frame(1, cells(5, 1))
    assert seen(scenario, knobs(late=late | {"relabelled": True})) == frame(2, cells(5, 1))
    assert bundled("late-reply-relabelled").transport.late.relabelled  # type: ignore[union-attr]  # it has both


# Replies that are spoilt or lost.


@pytest.mark.parametrize(
    ("quirk", "instead", "wanted"),
    [
        ("wrong-transaction-id", b"\xff\1" + FINE, 20),
        ("wrong-unit-id", b"\0\2" + FINE, 20),
        ("reset-mid-exchange", RESET, 10),
        ("truncated-reply", CLOSED, 20),
    ],
)
def test_row_44_and_c10_to_c13_some_replies_are_spoilt(quirk: str, instead: bytes | str, wanted: int) -> None:
    found = seen(polling(1000), quirk)
    assert set(found) == {GOOD, instead}
    assert wanted / 3 <= found[instead] <= 2 * wanted
    assert set(seen(polling(100))) == {GOOD}


def test_c10_the_request_of_a_connection_that_was_reset_has_been_carried_out() -> None:
    memory = Memory()
    assert seen(asking(WRITE), knobs(reset={}), units={1: memory}) == [RESET]
    assert memory.read(7, 2) == b"\0\1\0\2"


@pytest.mark.parametrize(
    ("end", "then"), [("nothing", [SILENCE]), ("close", [CLOSED]), ("reset", [RESET, CLOSED])]
)
def test_c11_how_a_truncated_reply_ends(end: str, then: list[str]) -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as client:
            client.send(READ)
            return [await client.some(), await client.some()]

    first, second = seen(scenario, knobs(truncated={"bytes_kept": 8, "end": end}))
    if end != "reset":  # which loses what was not read before
        assert first == frame(1, FINE)[:8]
        assert second in then
    else:
        assert RESET in (first, second)
    assert seen(scenario, knobs(truncated={"bytes_kept": 11, "end": end})) == [frame(1, FINE), SILENCE]


def test_c13_replies_go_to_another_client_if_there_is_one() -> None:
    async def scenario(server: TcpServer) -> tuple[int, int, int]:
        async with dialled(server) as client, dialled(server) as other:
            await other.ask(READ, wait_s=1.0)
            lost = [await client.ask(READ, wait_s=1.0) for _ in range(100)].count(SILENCE)
            got = 0
            while isinstance(await other.receive(1.0), bytes):
                got += 1
        async with dialled(server) as alone:
            return lost, got, [await alone.ask(READ) for _ in range(100)].count(FINE)

    lost, got, alone = seen(scenario, "replies-to-other-client")
    assert 1 <= lost <= 15
    assert (got, alone) == (lost, 100)
    assert seen(scenario) == (0, 0, 100)


# Pipelined requests, and how replies are cut.


async def answers(client: Client) -> list[int]:
    """Return the transaction ids of what comes, until nothing does."""
    found = []
    while isinstance(answer := await client.receive(3.0), bytes):
        found.append(int.from_bytes(answer[:2]))
    return found


def test_c19_of_pipelined_requests_the_first_is_answered_and_carried_out() -> None:
    async def scenario(server: TcpServer) -> list[list[int]]:
        async with dialled(server) as client:
            client.send(write(7, 1), write(8, 2), write(9, 3))
            found = [await answers(client)]
            client.send(READ, READ)
            return [*found, await answers(client)]

    memory = Memory()
    assert seen(scenario, "drops-pipelined", units={1: memory}) == [[1], [4]]
    assert memory.read(7, 3) == bytes.fromhex("0001 1008 1009")
    assert seen(scenario) == [[1, 2, 3], [4, 5]]


def test_c19_a_request_before_the_reply_is_lost_too() -> None:
    async def scenario(server: TcpServer) -> list[int]:
        async with dialled(server) as client:
            client.send(READ)
            await quiet(0.5)
            client.send(READ)
            await quiet(1.0)
            client.send(READ)
            return await answers(client)

    slow = knobs(slow={"delay_s_min": 1, "delay_s_max": 1})
    assert seen(scenario, slow, bundled("drops-pipelined")) == [1, 3]
    assert seen(scenario, slow) == [1, 2, 3]


def test_c19_replies_come_in_one_piece() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as client:
            for _ in range(3):
                client.send(READ)
                await quiet(0.1)
            return [await client.some(), await client.some(1.0)]

    whole = [frame(k, FINE) for k in (1, 2, 3)]
    assert seen(scenario, "replies-together") == [b"".join(whole), SILENCE]

    async def wait_s(server: TcpServer) -> float:
        loop = asyncio.get_running_loop()
        async with dialled(server) as client:
            begin_s = loop.time()
            assert await client.ask(READ) == FINE
            return loop.time() - begin_s

    assert seen(wait_s, "replies-together") == pytest.approx(0.5, abs=0.1)
    assert seen(wait_s) < 0.1


def test_c19_replies_come_in_pieces() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as client:
            client.send(READ, READ)
            return [await client.some(1.0) for _ in range(6)]

    whole = frame(1, FINE) + frame(2, FINE)
    pieces = [whole[:5], whole[5:10], whole[10:11] + whole[11:16], whole[16:21], whole[21:]]
    assert seen(scenario, "replies-in-pieces") == [*pieces, SILENCE]
    assert seen(scenario) == [whole, *(5 * [SILENCE])]


# The server itself.


def test_chance_is_the_generators() -> None:
    def pattern(seed: int) -> list[bytes | str]:
        return seen(asking(*([READ] * 60)), "busy-as-failure", seed=seed)

    assert pattern(1) == pattern(1)
    assert pattern(1) != pattern(2)


def test_without_transport_quirks_it_is_the_plain_server() -> None:
    async def main() -> list[type]:
        found = []
        for quirks in ([], ["base-0"], ["hangs-when-written-fast"], ["absent-unit-silent"], ["busy"]):
            knobs = combine(bundled(name) for name in quirks)
            async with await serve_quirky({1: Memory()}, quirks=knobs, rng=generator()) as server:
                found.append(type(server))
        return found

    assert asyncio.run(main()) == [TcpServer, TcpServer, QuirkyServer, QuirkyServer, QuirkyServer]


def test_a_unit_that_raises_is_surfaced() -> None:
    from ridethrough.emulator.errors import InvariantError

    class Broken(Memory):
        def read(self, address: int, count: int) -> bytes | int:
            raise ArithmeticError("a bug")

    async def main() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        quirks = combine([knobs(silent_codes=[2])])
        server = await serve_quirky({1: Broken()}, quirks=quirks, rng=generator())
        assert await visit(server) == b"\x83\4"
        assert len(complaints) == 1
        with pytest.raises(InvariantError, match="a bug"):
            await server.close()

    asyncio.run(main())
