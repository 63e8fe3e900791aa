"""Rows 1 to 5: who may connect, and for how long.  A server without the quirk does none of it."""

from __future__ import annotations

import pytest
from ridethrough.emulator.server import Limits, TcpServer

from tests.quirks.transport_bench import (
    CLOSED,
    PATIENCE_S,
    REFUSED,
    RESET,
    SILENCE,
    cells,
    dialled,
    knobs,
    quiet,
    read,
    seen,
    visit,
)

FINE = cells(5, 1)


@pytest.mark.parametrize(
    ("quirk", "end"), [("single-connection", RESET), ("single-connection-closes", CLOSED)]
)
def test_row_1_a_second_connection_is_turned_away(quirk: str, end: str) -> None:
    async def scenario(server: TcpServer) -> list[object]:
        async with dialled(server) as first, dialled(server) as second:
            await first.ask(read(5, 1))
            return [await second.some(), await first.ask(read(5, 1)), server.connections]

    assert seen(scenario, quirk) == [end, FINE, 1]
    assert seen(scenario) == [SILENCE, FINE, 2]


def test_row_1_a_connection_that_has_ended_keeps_its_place() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        found = [await visit(server)]
        for wait_s in (1, 100, 30, 1):
            await quiet(wait_s)
            found.append(await visit(server))
        return found

    assert seen(scenario, "single-connection") == [FINE, RESET, RESET, FINE, RESET]
    assert seen(scenario, "single-connection-closes") == 5 * [FINE]
    assert seen(scenario, "single-connection", speed=1000.0) == 5 * [FINE]
    assert seen(scenario) == 5 * [FINE]


def test_row_2_the_port_closes_unless_a_client_comes_in_time() -> None:
    async def nobody(server: TcpServer) -> list[bytes | str]:
        await quiet(121)
        found = [await visit(server)]
        if hasattr(server, "enable"):
            await server.enable()
            await server.enable()  # open already
            found += [await visit(server)]
        await quiet(1000)
        return [*found, await visit(server)]

    async def somebody(server: TcpServer) -> bytes | str:
        await quiet(119)
        await visit(server)
        await quiet(1000)
        return await visit(server)

    assert seen(nobody, "enable-window") == [REFUSED, FINE, FINE]
    assert seen(somebody, "enable-window") == FINE
    assert seen(nobody) == [FINE, FINE]


def test_row_2_the_window_begins_anew_when_the_port_is_opened_again() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        found = []
        for _ in range(3):
            await quiet(121)
            found.append(await visit(server))
            await server.enable()  # type: ignore[attr-defined]  # of a server with quirks
        return found

    assert seen(scenario, "enable-window") == 3 * [REFUSED]


def test_row_3_four_connections_and_idle_ones_are_closed() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as a, dialled(server) as b, dialled(server) as c, dialled(server) as d:
            for client in (a, b, c, d):
                assert await client.ask(read(5, 1)) == FINE
            fifth = await visit(server)
            await quiet(7000)
            busy = await a.ask(read(5, 1))
            await quiet(300)
            return [fifth, busy, await a.ask(read(5, 1)), await b.some(), await visit(server)]

    assert seen(scenario, "four-connections") == [RESET, FINE, FINE, CLOSED, FINE]
    assert seen(scenario) == [FINE, FINE, FINE, SILENCE, FINE]


def test_row_4_an_idle_connection_is_dropped_without_a_sign() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as client:
            found = []
            for wait_s in (0, 9, 9, 11, 0):
                await quiet(wait_s)
                found.append(await client.ask(read(5, 1)))
            return [*found, await visit(server)]

    assert seen(scenario, "idle-silent") == [FINE, FINE, FINE, SILENCE, SILENCE, FINE]
    assert seen(scenario) == 6 * [FINE]
    for end, sign in (("close", CLOSED), ("reset", RESET)):
        ended = seen(scenario, knobs(idle={"after_s": 10, "end": end}))
        assert ended[:3] == 3 * [FINE]
        assert ended[3] in (sign, RESET)  # the request itself may meet a closed socket
        assert ended[-1] == FINE


def test_an_idle_connection_that_waits_for_a_reply_is_not_idle() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as client:
            return [await client.ask(read(5, 1)) for _ in range(3)]

    slow = knobs(idle={"after_s": 1}, slow={"delay_s_min": 5, "delay_s_max": 5})
    assert seen(scenario, slow) == 3 * [FINE]


def test_row_5_one_poll_in_six_succeeds_for_a_client_that_reconnects_for_each() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        found = []
        for _ in range(12):
            found.append(await visit(server))
            await quiet(11)
        return found

    assert seen(scenario, "reconnect-gap") == 2 * [FINE, *(5 * [RESET])]
    assert seen(scenario) == 12 * [FINE]


def test_row_5_a_client_that_stays_is_served() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as client:
            found = []
            for _ in range(12):
                await quiet(11)
                found.append(await client.ask(read(5, 1)))
            return found

    assert seen(scenario, "reconnect-gap") == 12 * [FINE]


def test_limits_hold_where_the_knobs_say_nothing() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as first:
            await first.ask(read(5, 1))
            found = [await visit(server)]
            first.send_bytes(b"\0\1\0")
            await quiet(6)
            return [*found, await first.some()]

    limits = Limits(connections_max=1, frame_timeout_s=5.0)
    slow = knobs(slow={"delay_s_min": 0.1, "delay_s_max": 0.1})
    assert seen(scenario, slow, limits=limits) == [RESET, CLOSED]
    assert seen(scenario, slow, limits=Limits(connections_max=2)) == [FINE, CLOSED]


def test_an_idle_time_of_the_limits_holds_too() -> None:
    async def scenario(server: TcpServer) -> list[bytes | str]:
        async with dialled(server) as client:
            return [await client.ask(read(5, 1)), await client.some(PATIENCE_S)]

    slow = knobs(slow={"delay_s_min": 0.1, "delay_s_max": 0.1})
    assert seen(scenario, slow, limits=Limits(idle_timeout_s=10.0)) == [FINE, CLOSED]
    assert seen(scenario, slow) == [FINE, SILENCE]
