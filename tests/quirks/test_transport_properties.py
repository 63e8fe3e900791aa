"""Whatever the knobs and however the stream is cut: nothing lost that is not to be, nothing left behind."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.quirks.knobs import combine
from ridethrough.emulator.quirks.transport import QuirkyServer, TransportKnobs, serve_quirky
from ridethrough.emulator.quirks.transport_peer import WAITING_MAX
from ridethrough.emulator.server import Limits

from tests.emulator.modbus_rows import Memory
from tests.emulator.test_modbus_stalls import FakeTransport
from tests.quirks.transport_bench import frame, generator, knobs, read, write

short = st.floats(0.001, 600.0)
chance = st.floats(0.01, 1.0)
slow = st.builds(
    lambda low, more, tail, shared: {
        "delay_s_min": low,
        "delay_s_max": min(low + more, 600.0),
        "tail": tail,
        "shared": shared,
    },
    *(short, short, st.floats(0.1, 10.0), st.booleans()),
)
pieces = st.fixed_dictionaries({"bytes_each": st.integers(1, 259), "pause_s": short})
lossless = st.fixed_dictionaries({}, optional={"slow": slow}).flatmap(
    lambda first: st.one_of(
        st.just(first),
        pieces.map(lambda cut: first | {"pieces": cut}),
        short.map(lambda together: first | {"together_s": together}),
    )
)
anything = st.fixed_dictionaries(
    {},
    optional={
        "busy": st.fixed_dictionaries(
            {"codes": st.lists(st.sampled_from((3, 4, 5, 6)), min_size=1, max_size=4), "chance": chance}
        ),
        "refuse": st.just([{"function": 3, "count_max": 3, "code": 2}]),
        "silent_codes": st.lists(st.integers(1, 11), min_size=1, max_size=3),
        "slow": slow,
        "late": st.fixed_dictionaries({"delay_s": short, "chance": chance, "relabelled": st.booleans()}),
        "misaddressed": st.lists(
            st.fixed_dictionaries(
                {"what": st.sampled_from(("transaction-id", "unit-id", "client")), "chance": chance}
            ),
            max_size=3,
        ),
        "reset": st.fixed_dictionaries({"chance": chance}),
        "truncated": st.fixed_dictionaries(
            {
                "bytes_kept": st.integers(1, 20),
                "chance": chance,
                "end": st.sampled_from(("close", "reset", "nothing")),
            }
        ),
        "drops_pipelined": st.booleans(),
        "idle": st.fixed_dictionaries(
            {"after_s": st.floats(0.01, 100.0), "end": st.sampled_from(("close", "reset", "silent"))}
        ),
        "pieces": pieces,
    },
)
requests = st.lists(
    st.one_of(
        st.builds(read, st.integers(0, 210), st.integers(0, 126)),
        st.builds(write, st.integers(0, 210), st.integers(0, 0xFFFF)),
        st.binary(min_size=1, max_size=20),
    ),
    min_size=1,
    max_size=8,
)


class InstantSelector(selectors.SelectSelector):
    """Jumps over the time a loop would wait; there are no sockets."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            self.now_s += timeout
        return super().select(0)


class InstantLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.instant = InstantSelector()
        super().__init__(self.instant)

    def time(self) -> float:
        return self.instant.now_s


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """Return the stream in pieces of these sizes, and the rest."""
    found = []
    for size in sizes:
        found.append(stream[:size])
        stream = stream[size:]
    return [piece for piece in (*found, stream) if piece]


def make(transport: dict[str, Any], limits: Limits | None = None) -> QuirkyServer:
    limits = limits or Limits(frame_timeout_s=1000.0)
    return QuirkyServer(
        {1: Memory()}, limits, TransportKnobs.model_validate(transport), 0x0B, generator(), 1.0
    )


def connect(server: QuirkyServer) -> tuple[asyncio.Protocol, FakeTransport]:
    transport = FakeTransport()
    transport.protocol = peer = server.accept()
    peer.connection_made(transport)
    return peer, transport


def instantly(main: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        complaints: list[dict[str, Any]] = []
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(main())
        assert complaints == []


@settings(deadline=None)  # the cores may be shared
@given(lossless, requests, st.lists(st.integers(1, 40), max_size=6))
def test_what_only_delays_and_cuts_changes_no_byte(
    transport: dict[str, Any], pdus: list[bytes], sizes: list[int]
) -> None:
    stream = b"".join(frame(k, pdu) for k, pdu in enumerate(pdus, 1))
    plain = Connection({1: Memory()})
    wanted = plain.receive(stream)

    async def main() -> None:
        server = make(transport)
        peer, wire = connect(server)
        for piece in cut(stream, sizes):
            if not wire.closed:
                peer.data_received(piece)
        await asyncio.sleep(900_000.0)
        assert wire.sent == wanted
        assert wire.closed == plain.closed
        await server.close()

    instantly(main)


@settings(deadline=None)
@given(anything, st.lists(requests, min_size=1, max_size=3), st.lists(st.integers(1, 40), max_size=6))
def test_whatever_the_knobs_nothing_raises_and_nothing_is_left_behind(
    transport: dict[str, Any], clients: list[list[bytes]], sizes: list[int]
) -> None:
    async def main() -> None:
        server = make(transport)
        made = [connect(server) for _ in clients]
        for (peer, wire), pdus in zip(made, clients, strict=True):
            stream = b"".join(frame(k, pdu) for k, pdu in enumerate(pdus, 1))
            for piece in cut(stream, sizes):
                if not wire.closed:
                    peer.data_received(piece)
                    await asyncio.sleep(0.01)
        for peer, wire in made:
            if not wire.closed:
                peer.eof_received()
        await asyncio.sleep(900_000.0)
        assert all(wire.closed for _, wire in made)
        sent = [wire.sent for _, wire in made]
        for _, wire in made:
            wire.abort()
        await server.close()
        assert server.connections == 0
        await asyncio.sleep(1_000_000.0)
        assert [wire.sent for _, wire in made] == sent

    instantly(main)


class Counted(FakeTransport):
    paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


@pytest.mark.parametrize(
    "transport",
    [
        {"slow": {"delay_s_min": 1, "delay_s_max": 1}},
        {"late": {"delay_s": 1}},
        {"pieces": {"bytes_each": 1, "pause_s": 0.01}},
    ],
)
def test_a_connection_is_not_read_while_too_many_replies_wait(transport: dict[str, Any]) -> None:
    async def main() -> None:
        server = make(transport)
        wire = Counted()
        wire.protocol = peer = server.accept()
        peer.connection_made(wire)
        asked = 0
        while not wire.paused:
            asked += 1
            peer.data_received(frame(asked, read(5, 1)))
        assert asked <= WAITING_MAX + 1
        await asyncio.sleep(1000.0)
        assert not wire.paused
        assert len(wire.sent) == 11 * asked
        await server.close()

    instantly(main)


def test_a_client_that_does_not_read_is_not_read() -> None:
    async def main() -> None:
        server = make({"together_s": 0.01})
        wire = Counted()
        wire.protocol = peer = server.accept()
        peer.connection_made(wire)
        wire.stall = True
        peer.data_received(frame(1, read(5, 1)))
        await asyncio.sleep(1.0)
        assert wire.paused
        peer.resume_writing()
        assert not wire.paused
        await server.close()

    instantly(main)


@pytest.mark.parametrize(
    ("transport", "objection"),
    [
        ({"busy": {"codes": []}}, "busy.codes"),
        ({"busy": {"codes": [1]}}, "busy.codes"),
        ({"slow": {"delay_s_min": 2, "delay_s_max": 1}}, "delay_s_max at least delay_s_min"),
        ({"slow": {"delay_s_min": 1, "delay_s_max": float("inf")}}, "delay_s_max"),
        ({"refuse": [{"function": 16, "count_min": 2, "count_max": 1}]}, "count_max at least count_min"),
        ({"misaddressed": [{"what": "unit-id", "shift": 0}]}, "a shift other than 0"),
        ({"pieces": {"bytes_each": 1, "pause_s": 1}, "together_s": 1}, "together_s or pieces"),
        ({"late": {"delay_s": 1, "chance": 0}}, "late.chance"),
        ({"tardy": True}, "tardy"),
    ],
)
def test_knobs_that_cannot_be_are_refused(transport: dict[str, Any], objection: str) -> None:
    with pytest.raises(ValueError, match=objection):
        TransportKnobs.model_validate(transport)


def test_quirks_that_do_not_go_together_are_named() -> None:
    one = knobs(together_s=1).model_copy(update={"quirk": "one"})
    two = knobs(pieces={"bytes_each": 1, "pause_s": 1}).model_copy(update={"quirk": "two"})
    with pytest.raises(ScenarioError, match=r"one and two do not go together: transport: .*together_s or"):
        combine([one, two])
    rules = [{"function": 16, "count_max": 1}]
    three = knobs(refuse=rules).model_copy(update={"quirk": "three"})
    four = knobs(refuse=[{"function": 6}], connections_max=2)
    merged = combine([three, four]).transport
    assert merged is not None
    assert [rule.function for rule in merged.refuse] == [16, 6]
    assert merged.connections_max == 2


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf"), "1"])
def test_a_speed_that_is_none_is_refused(speed: Any) -> None:
    async def main() -> None:
        with pytest.raises(ScenarioError, match=r"speed: .* found; allowed are positive numbers"):
            await serve_quirky({1: Memory()}, quirks=combine([]), rng=generator(), speed=speed)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "port", "objection"),
    [
        ("0.0.0.0", 0, "other machines can reach it"),
        ("127.0.0.1", 70_000, "allowed are whole numbers"),
        ("here", 0, "allowed are an IP address"),
    ],
)
def test_an_address_that_is_none_is_refused(host: str, port: int, objection: str) -> None:
    async def main() -> None:
        quirks = combine([knobs(drops_pipelined=True)])
        with pytest.raises(ScenarioError, match=objection):
            await serve_quirky({1: Memory()}, host, port, quirks=quirks, rng=generator())

    asyncio.run(main())
