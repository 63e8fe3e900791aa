"""The Modbus core beyond single frames: streams, garbage, failing units; pymodbus is the outside witness."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ExceptionResponse
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
    WriteSingleRegisterRequest,
    WriteSingleRegisterResponse,
)
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator.errors import InvariantError, ScenarioError

from tests.emulator.test_modbus_table import GOOD, GOOD_REPLY, REGISTERS, Memory

Request = ReadHoldingRegistersRequest | WriteSingleRegisterRequest | WriteMultipleRegistersRequest

WORDS = st.integers(0, 0xFFFF)
ADDRESSES = st.integers(0, REGISTERS + 5) | WORDS
UNITS = st.sampled_from([0, 1, 7, 99, 255])


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Requests a client may well send; some reach past the map or at absent units."""
    address, unit, tid = draw(ADDRESSES), draw(UNITS), draw(WORDS)
    kind = draw(st.sampled_from([3, 6, 16]))
    if kind == 3:
        return ReadHoldingRegistersRequest(
            address=address, count=draw(st.integers(1, 125)), dev_id=unit, transaction_id=tid
        )
    if kind == 6:
        return WriteSingleRegisterRequest(
            address=address, registers=[draw(WORDS)], dev_id=unit, transaction_id=tid
        )
    values = draw(st.lists(WORDS, min_size=1, max_size=123))
    return WriteMultipleRegistersRequest(
        address=address, count=len(values), registers=values, dev_id=unit, transaction_id=tid
    )


def wire(request: Request) -> bytes:
    """Encode with pymodbus; not with its framer's buildFrame, which skips transaction ids."""
    payload = bytes([request.function_code]) + request.encode()
    return FramerSocket(DecodePDU(True)).encode(payload, request.dev_id, request.transaction_id)


def pieces(stream: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Cut `stream` into pieces of these sizes; the last piece takes the rest."""
    found = []
    for size in sizes:
        found.append(stream[:size])
        stream = stream[size:]
    return [*found, stream]


SIZES = st.lists(st.integers(0, 300), max_size=40)


@given(st.lists(requests(), min_size=1, max_size=12), SIZES)
def test_chunking_changes_nothing(asked: list[Request], sizes: list[int]) -> None:
    stream = b"".join(wire(request) for request in asked)
    alone, cut = Memory(), Memory()
    expected = b"".join(Connection({1: alone, 7: alone}).receive(wire(request)) for request in asked)
    connection = Connection({1: cut, 7: cut})
    assert b"".join(connection.receive(piece) for piece in pieces(stream, sizes)) == expected
    assert cut.cells == alone.cells
    assert connection.frames == len(asked)
    assert (connection.pending, connection.closed, connection.last_error) == (0, False, None)


def test_incomplete_frame_is_counted() -> None:
    connection = Connection({1: Memory()})
    for held in range(1, len(GOOD)):
        assert connection.receive(GOOD[held - 1 : held]) == b""
        assert connection.pending == held
        assert connection.frames == 0
    assert connection.receive(GOOD[-1:]) == GOOD_REPLY
    assert connection.pending == 0
    assert connection.frames == 1


@given(st.lists(requests(), min_size=1, max_size=12))
def test_pymodbus_reads_every_reply(asked: list[Request]) -> None:
    """The witness decodes; a list of integers is the only model of the registers."""
    model = [0x1000 + i for i in range(REGISTERS)]
    memory = Memory()
    connection = Connection({1: memory})
    framer = FramerSocket(DecodePDU(False))
    stream = connection.receive(b"".join(wire(request) for request in asked))
    for request in asked:
        used, reply = framer.handleFrame(stream, 0, 0)
        stream = stream[used:]
        assert reply is not None
        assert (reply.transaction_id, reply.dev_id) == (request.transaction_id, request.dev_id)
        count = len(request.registers) or request.count
        if request.dev_id not in (0, 1, 255):
            assert isinstance(reply, ExceptionResponse)
            assert reply.exception_code == 0x0B
        elif request.address + count > REGISTERS:
            assert isinstance(reply, ExceptionResponse)
            assert reply.exception_code == 2
        elif isinstance(request, ReadHoldingRegistersRequest):
            assert isinstance(reply, ReadHoldingRegistersResponse)
            assert reply.registers == model[request.address : request.address + count]
        else:
            model[request.address : request.address + count] = request.registers
            if isinstance(request, WriteSingleRegisterRequest):
                assert isinstance(reply, WriteSingleRegisterResponse)
                assert reply.registers == request.registers
            else:
                assert isinstance(reply, WriteMultipleRegistersResponse)
                assert reply.count == count
            assert reply.address == request.address
        if isinstance(reply, ExceptionResponse):
            assert reply.function_code == request.function_code | 0x80
    assert stream == b""
    assert list(struct.unpack(f">{REGISTERS}H", memory.cells)) == model


HEADERS = st.builds(
    lambda tid, protocol, length, unit: struct.pack(">HHHB", tid, protocol, length, unit),
    WORDS,
    st.sampled_from([0, 0, 0, 1, 0xFFFF]),
    st.integers(0, 260) | WORDS,
    UNITS,
)
GARBAGE = st.lists(
    st.binary(max_size=300)
    | HEADERS
    | st.tuples(HEADERS, st.sampled_from([3, 6, 16]), st.binary(max_size=30)).map(
        lambda parts: parts[0] + bytes([parts[1]]) + parts[2]
    )
    | requests().map(wire),
    max_size=10,
).map(b"".join)


@given(GARBAGE, SIZES)
def test_garbage_is_bounded_and_never_wedges(stream: bytes, sizes: list[int]) -> None:
    whole, cut = Connection({1: Memory()}), Connection({1: Memory()})
    expected = whole.receive(stream)
    replies = b""
    for piece in pieces(stream, sizes):
        replies += cut.receive(piece)
        assert 0 <= cut.pending < 260
    assert (replies, cut.closed, cut.pending) == (expected, whole.closed, whole.pending)
    assert cut.frames == whole.frames
    assert cut.last_error is None
    # An incomplete frame takes 254 zeros at most, and a header of zeros cannot be: nothing waits for ever.
    cut.receive(bytes(254 + 6))
    assert cut.closed
    assert cut.pending == 0
    assert cut.receive(GOOD) == b""


@given(GARBAGE)
def test_pymodbus_finds_only_whole_replies_to_garbage(stream: bytes) -> None:
    """Whatever was asked, what comes back is a sequence of well-formed frames."""
    connection = Connection({1: Memory()})
    replies = connection.receive(stream)
    framer = FramerSocket(DecodePDU(False))
    found = 0
    while replies:
        used, unit, _, payload = framer.decode(replies)
        assert used == 7 + len(payload)
        assert 2 <= len(payload) <= 253
        assert unit in stream
        assert payload[0] & 0x7F in {byte & 0x7F for byte in stream}
        replies = replies[used:]
        found += 1
    assert found <= connection.frames


class Broken:
    """A unit with a bug."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def read(self, address: int, count: int) -> bytes | int:
        return self._fail()

    def write(self, address: int, data: bytes) -> int:
        answer = self._fail()
        assert isinstance(answer, int)
        return answer

    def _fail(self) -> bytes | int:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value]  # the wrong type is what is tested


READ = bytes.fromhex("0001 0000 0006 01 03 0000 0002")
WRITE_6 = bytes.fromhex("0001 0000 0006 01 06 0000 0002")
WRITE_16 = bytes.fromhex("0001 0000 0009 01 10 0000 0001 02 0002")


@pytest.mark.parametrize("request_", [READ, WRITE_6, WRITE_16], ids=["FC3", "FC6", "FC16"])
def test_raising_unit_answers_04_and_is_kept(request_: bytes) -> None:
    error = ZeroDivisionError("bug")
    connection = Connection({1: Broken(error), 2: Memory()})
    refusal = bytes.fromhex("0001 0000 0003 01") + bytes([request_[7] | 0x80, 4])
    assert connection.receive(request_ + GOOD[:6] + b"\x02" + GOOD[7:]) == (
        refusal + GOOD_REPLY[:6] + b"\x02" + GOOD_REPLY[7:]
    )
    assert connection.last_error is error
    assert not connection.closed
    connection.last_error = None
    assert connection.last_error is None


@pytest.mark.parametrize("answer", [b"", bytes(2), bytes(5), bytes(250), 0, 256, -1, None, "0000", 2.0])
def test_nonsense_from_a_read_is_our_bug(answer: object) -> None:
    connection = Connection({1: Broken(answer)})
    assert connection.receive(READ) == bytes.fromhex("0001 0000 0003 01 83 04")
    assert isinstance(connection.last_error, InvariantError)


@pytest.mark.parametrize("answer", [256, -1, 512, False])
def test_nonsense_from_a_write_is_our_bug(answer: object) -> None:
    connection = Connection({1: Broken(answer)})
    assert connection.receive(WRITE_6) == bytes.fromhex("0001 0000 0003 01 86 04")
    assert isinstance(connection.last_error, InvariantError)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 8, 10, 11, 255])
def test_exception_code_of_the_unit_is_passed_on(code: int) -> None:
    connection = Connection({1: Broken(code)})
    assert connection.receive(READ + WRITE_6 + WRITE_16) == b"".join(
        bytes.fromhex("0001 0000 0003 01") + bytes([function, code]) for function in (0x83, 0x86, 0x90)
    )
    assert connection.last_error is None


def test_interrupt_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        Connection({1: Broken(KeyboardInterrupt())}).receive(READ)


def test_unit_is_not_asked_what_the_protocol_forbids() -> None:
    memory = Memory()
    connection = Connection({1: memory})
    for pdu in (
        "03 0000 0000",
        "03 0000 007e",
        "03 ffff 0002",
        "10 ffff 0002 04 0000 0000",
        "06 0000",
        "2b 00",
    ):
        body = bytes.fromhex("01" + pdu)
        reply = connection.receive(bytes.fromhex("0001 0000") + len(body).to_bytes(2, "big") + body)
        assert reply[7] == body[1] | 0x80
    assert memory.calls == []


def test_last_register_can_be_reached() -> None:
    class Wide(Memory):
        def read(self, address: int, count: int) -> bytes | int:
            self.calls.append(("read", address, count))
            return bytes(2 * count)

    wide = Wide()
    assert Connection({1: wide}).receive(bytes.fromhex("0001 0000 0006 01 03 ffff 0001"))[7] == 3
    assert wide.calls == [("read", 0xFFFF, 1)]


def test_units_are_told_apart() -> None:
    first, second, own = Memory(), Memory(), Memory()
    connection = Connection({3: first, 2: second})
    for unit in (3, 2, 0, 255):
        connection.receive(bytes.fromhex(f"0001 0000 0006 {unit:02x} 03 0000 0001"))
    assert (len(first.calls), len(second.calls)) == (3, 1)  # the first of the mapping, not the lowest
    connection = Connection({3: first, 255: own})
    connection.receive(bytes.fromhex("0001 0000 0006 ff 03 0000 0001"))
    assert (len(first.calls), len(own.calls)) == (3, 1)  # an explicit 255 is a unit like any other


@pytest.mark.parametrize("unit_id", [-1, 256, 1.0, "1", True, None])
def test_bad_unit_ids_are_refused(unit_id: object) -> None:
    with pytest.raises(ScenarioError, match=r"unit id .* found; allowed are whole numbers 0\.\.255"):
        Connection({unit_id: Memory()})  # type: ignore[dict-item]  # the wrong type is what is tested


def test_no_units_are_refused() -> None:
    with pytest.raises(ScenarioError, match="none found"):
        Connection({})


@pytest.mark.parametrize("data", [None, "text", bytearray(b"\0"), 3])
def test_only_bytes_are_taken(data: object) -> None:
    with pytest.raises(TypeError):
        Connection({1: Memory()}).receive(data)  # type: ignore[arg-type]  # the wrong type is what is tested
