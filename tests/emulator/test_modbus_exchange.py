"""What a connection does besides answering: rights, absent and shared units, handing out requests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator._pdu import Registers, Units
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.layout import compile_layout
from ridethrough.emulator.plant import Plant

from tests.emulator.modbus_rows import (
    ALL_FUNCTIONS,
    GOOD,
    GOOD_REPLY,
    ROWS,
    SUNSPEC_FUNCTIONS,
    Device,
    Memory,
)
from tests.emulator.register_bench import HOME
from tests.emulator.test_modbus import SIZES, pieces

IMAGE = units_of(Plant([HOME]), 0)[1]

WORDS = st.integers(0, 0xFFFF)
BYTES = st.integers(0, 255)
NEAR = st.integers(0, 210) | WORDS


def two(number: int) -> bytes:
    return number.to_bytes(2, "big")


@st.composite
def pdus(draw: st.DrawFn) -> bytes:
    """Requests of every function, mostly well formed, some cut, lengthened or with a byte changed."""
    function = draw(st.sampled_from(sorted(ALL_FUNCTIONS)) | BYTES)
    first, count = two(draw(NEAR)), draw(st.integers(0, 130) | WORDS)
    values = draw(st.binary(max_size=240).filter(lambda data: len(data) % 2 == 0))
    tail = {
        15: two(min(8 * len(values), 1968)) + bytes([len(values)]) + values,
        16: two(len(values) // 2) + bytes([len(values)]) + values,
        22: two(count) + two(draw(WORDS)),
        23: two(count) + two(draw(NEAR)) + two(len(values) // 2) + bytes([len(values)]) + values,
    }.get(function, two(draw(st.sampled_from([0, 0xFF00]) | st.just(count))))
    pdu = bytes([function]) + first + tail
    if function == 8:
        pdu = b"\x08\0\0" + values
    elif function == 43:
        pdu = bytes([43, draw(st.sampled_from([14, 14, 13])), draw(st.integers(0, 5)), draw(BYTES)])
    change = draw(st.sampled_from(["", "", "", "cut", "longer", "byte"]))
    if change == "cut":
        pdu = pdu[: draw(st.integers(1, len(pdu)))]
    elif change == "longer":
        pdu += draw(st.binary(min_size=1, max_size=4))
    elif change == "byte":
        at = draw(st.integers(0, len(pdu) - 1))
        pdu = pdu[:at] + bytes([draw(BYTES)]) + pdu[at + 1 :]
    return pdu[:253]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    body = bytes([draw(st.sampled_from([0, 1, 1, 1, 2, 99, 255]))]) + draw(pdus())
    protocol = draw(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, 0xFF00]))
    length = len(body) + draw(st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1]))
    return two(draw(WORDS)) + two(protocol) + two(max(length, 0)) + body


STREAMS = st.lists(frames(), min_size=1, max_size=12).map(b"".join)


def devices() -> dict[int, Device]:
    return {1: Device(), 2: Device(SUNSPEC_FUNCTIONS)}


@settings(deadline=None)
@given(STREAMS, SIZES)
def test_neither_chunking_nor_handing_out_changes_anything(stream: bytes, sizes: list[int]) -> None:
    whole, cut, apart = devices(), devices(), devices()
    first, second, third = Connection(whole), Connection(cut), Connection(apart)
    expected = first.receive(stream)
    assert b"".join(second.receive(piece) for piece in pieces(stream, sizes)) == expected
    pairs = [pair for piece in pieces(stream, sizes) for pair in third.exchange(piece)]
    assert b"".join(reply for _, reply in pairs) == expected
    for connection, units in ((second, cut), (third, apart)):
        assert [unit.state() for unit in units.values()] == [unit.state() for unit in whole.values()]
        assert [unit.calls for unit in units.values()] == [unit.calls for unit in whole.values()]
        assert (connection.closed, connection.frames) == (first.closed, first.frames)
        assert (connection.pending, connection.last_error) == (first.pending, None)
    for request, reply in pairs:
        assert request in stream
        assert int.from_bytes(request[4:6], "big") == len(request) - 6
        assert reply[:2] == request[:2]
        assert reply[6] == request[6]
        assert reply[7] & 0x7F == request[7] & 0x7F


@settings(deadline=None)
@given(STREAMS)
def test_refusals_change_nothing(stream: bytes) -> None:
    """Nothing but a request that was answered without exception may change a device."""
    units = devices()
    before = [unit.state() for unit in units.values()]

    def look(request: bytes) -> None:
        after = [unit.state() for unit in units.values()]
        assert after == before

    connection = Connection(units)
    for byte in range(len(stream)):
        for _, reply in connection.exchange(stream[byte : byte + 1], look):
            if reply[7] < 0x80:
                before = [unit.state() for unit in units.values()]
        assert [unit.state() for unit in units.values()] == before


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_row_handed_out(row: object) -> None:
    sent: bytes = row.sent  # type: ignore[attr-defined]  # pytest's parameters have no type
    one, other = Connection({1: Device()}), Connection({1: Device()})
    assert b"".join(reply for _, reply in one.exchange(sent)) == other.receive(sent)


def test_admit_takes_the_place_of_a_request() -> None:
    device = Device()
    connection = Connection({1: device})
    write = bytes.fromhex("0009 0000 0006 01 06 0064 0304")
    foreign = bytes.fromhex("0003 0001 0006 01 03 0000 0001")
    seen: list[bytes] = []
    answers: list[bytes | None] = [b"", b"other", None]

    def admit(request: bytes) -> bytes | None:
        seen.append(request)
        return answers[len(seen) - 1]

    pairs = connection.exchange(write + foreign + write[:5], admit)
    pairs += connection.exchange(write[5:] + GOOD, admit)
    assert pairs == [(write, b""), (write, b"other"), (GOOD, GOOD_REPLY)]
    assert seen == [write, write, GOOD]
    assert device.calls == [("read", 5, 2)]
    assert connection.frames == 4


@pytest.mark.parametrize("instead", ["text", 4, bytearray(b"\0")])
def test_admit_must_return_bytes(instead: object) -> None:
    with pytest.raises(TypeError, match="allowed are None and bytes"):
        Connection({1: Memory()}).exchange(GOOD, lambda _: instead)  # type: ignore[arg-type, return-value]


class Rights:
    """Allows what is not on a list, and notes what it was asked."""

    def __init__(self, *refused: tuple[int, int, int, int]) -> None:
        self.refused = refused
        self.asked: list[tuple[int, int, int, int]] = []

    def allows(self, unit_id: int, function: int, address: int, count: int) -> bool:
        self.asked.append((unit_id, function, address, count))
        return self.asked[-1] not in self.refused


QUESTIONS = {
    "01 0002 0003": [(1, 1, 2, 3)],
    "02 0002 0003": [(1, 2, 2, 3)],
    "03 0002 0003": [(1, 3, 2, 3)],
    "04 0002 0003": [(1, 4, 2, 3)],
    "05 0002 ff00": [(1, 5, 2, 1)],
    "06 0002 0003": [(1, 6, 2, 1)],
    "08 0000 1234": [(1, 8, 0, 0)],
    "0f 0002 0003 01 05": [(1, 15, 2, 3)],
    "10 0002 0001 02 0003": [(1, 16, 2, 1)],
    "16 0002 0003 0004": [(1, 22, 2, 1)],
    "17 0002 0003 0004 0001 02 0005": [(1, 23, 4, 1), (1, 3, 2, 3)],
    "2b 0e 01 00": [(1, 43, 0, 0)],
}


@pytest.mark.parametrize(("pdu", "questions"), QUESTIONS.items(), ids=[q[:2] for q in QUESTIONS])
def test_rights(pdu: str, questions: list[tuple[int, int, int, int]]) -> None:
    body = bytes.fromhex("01" + pdu)
    request = bytes.fromhex("0001 0000") + two(len(body)) + body
    free, rights = Device(), Rights()
    plain = Connection({1: Device()}).receive(request)
    assert plain[7] == body[1]
    assert Connection({1: free}, rights=rights).receive(request) == plain
    assert rights.asked == questions
    for refused in questions:
        bound = Device()
        reply = Connection({1: bound}, rights=Rights(refused)).receive(request)
        assert reply[7:] == bytes([body[1] | 0x80, 1])
        assert bound.calls == []
        assert bound.state() == Device().state()


@settings(deadline=None)
@given(STREAMS)
def test_whoever_may_do_nothing_gets_nothing(stream: bytes) -> None:
    class Nothing:
        def allows(self, *_: int) -> bool:
            return False

    units = devices()
    replies = Connection(units, rights=Nothing()).exchange(stream)
    assert all(reply[7] & 0x80 for _, reply in replies)
    assert all(unit.calls == [] for unit in units.values())


def test_rights_are_asked_after_the_form_and_not_for_absent_units() -> None:
    rights = Rights()
    connection = Connection({1: Device()}, rights=rights)
    for pdu in ("03 0000 0000", "41", "03 ffff 0002", "06 00", "2b 7f"):
        body = bytes.fromhex("01" + pdu)
        connection.receive(bytes.fromhex("0001 0000") + two(len(body)) + body)
    connection.receive(bytes.fromhex("0001 0000 0006 63 03 0000 0001"))
    assert rights.asked == []


def test_failing_rights_allow_nothing() -> None:
    class Broken:
        def allows(self, *_: int) -> bool:
            raise ZeroDivisionError("bug")

    device = Device()
    connection = Connection({1: device}, rights=Broken())
    assert connection.receive(GOOD)[7:] == b"\x83\x04"
    assert isinstance(connection.last_error, ZeroDivisionError)
    assert device.calls == []


@pytest.mark.parametrize("code", [1, 4, 0x0A, 0x0B, 255])
def test_exception_for_absent_units(code: int) -> None:
    connection = Connection({1: Device()}, absent=code)
    request = bytes.fromhex("0001 0000 0006 63 03 0000 0001")
    assert (
        connection.receive(request + GOOD)
        == bytes.fromhex("0001 0000 0003 63 83") + bytes([code]) + GOOD_REPLY
    )


def test_no_answer_for_absent_units_when_asked_so() -> None:
    connection = Connection({1: Device()}, absent=0)
    request = bytes.fromhex("0001 0000 0006 63 03 0000 0001")
    assert connection.receive(request + GOOD + request) == GOOD_REPLY
    assert connection.exchange(request) == [(request, b"")]
    assert connection.frames == 4


@pytest.mark.parametrize("absent", [-1, 256, None, True, 1.0, "0b"])
def test_bad_code_for_absent_units_is_refused(absent: object) -> None:
    with pytest.raises(ScenarioError, match=r"absent: .* found; allowed are exception codes 1\.\.255"):
        Connection({1: Device()}, absent=absent)  # type: ignore[arg-type]  # the wrong type is what is tested


def test_connections_share_units() -> None:
    device, other = Device(), Device()
    mapping = {1: device, 7: other}
    units = Units(mapping)
    mapping.clear()  # it was copied
    one, two_ = Connection(units), Connection(units)
    one.receive(bytes.fromhex("0001 0000 0006 01 06 0005 abcd"))
    assert two_.receive(GOOD)[9:11] == b"\xab\xcd"
    assert two_.receive(GOOD[:6] + b"\7" + GOOD[7:])[9:11] == b"\x10\x05"


def test_many_replies_at_once_are_all_there() -> None:
    """More than any first guess of a buffer holds, with large and small replies mixed."""
    stream, expected = b"", b""
    for number in range(2000):
        head = two(number) + b"\0\0"
        if number % 3:
            stream += head + bytes.fromhex("0006 01 03 0000 007d")
            expected += head + bytes.fromhex("00fd 01 03 fa") + bytes(Device().cells[:250])
        else:
            stream += head + bytes.fromhex("0002 01 41")
            expected += head + bytes.fromhex("0003 01 c1 01")
    connection = Connection({1: Device()})
    assert connection.receive(stream) == expected
    assert connection.receive(stream[:3001]) + connection.receive(stream[3001:]) == expected


@given(st.integers(0, 1500), st.integers(1, 125))
def test_compiled_unit_is_read_as_its_read_says(offset: int, count: int) -> None:
    address = IMAGE.base_address + offset
    reply = Connection({1: IMAGE}).receive(bytes.fromhex("0001 0000 0006 01 03") + two(address) + two(count))
    expected = IMAGE.read(address, count)
    if isinstance(expected, int):
        assert reply[7:] == b"\x83\2"
    else:
        assert reply[7:] == bytes([3, 2 * count]) + expected


def test_python_that_overrides_a_compiled_read_is_asked() -> None:
    class Other(DeviceImage):
        def read(self, address: int, count: int, *_: object) -> bytes | int:
            return bytes(2 * count)

    plant = Plant([HOME])
    (unit_id,) = list(units_of(plant, 0))[:1]
    other = Other(plant, 0, compile_layout(HOME))
    request = bytes.fromhex("0001 0000 0006") + bytes([unit_id]) + bytes.fromhex("03 9c40 0002")
    assert Connection({unit_id: other}).receive(request)[9:] == bytes(4)


def test_compiled_unit_that_cannot_be_fetched_is_our_bug() -> None:
    class Lacking(Registers):
        read = staticmethod(len)  # no Python of its own
        write = staticmethod(len)

    connection = Connection({1: Lacking()})  # type: ignore[dict-item]  # the wrong type is what is tested
    assert connection.receive(GOOD)[7:] == b"\x83\4"
    assert isinstance(connection.last_error, NotImplementedError)
