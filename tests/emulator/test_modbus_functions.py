"""Every function code the core serves, on units that serve it; pymodbus is the witness."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    WriteMultipleCoilsRequest,
    WriteSingleCoilRequest,
)
from pymodbus.pdu.diag_message import ReturnQueryDataRequest
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest, ReadDeviceInformationResponse
from pymodbus.pdu.register_message import (
    MaskWriteRegisterRequest,
    MaskWriteRegisterResponse,
    ReadInputRegistersRequest,
    ReadWriteMultipleRegistersRequest,
)
from ridethrough.emulator._modbus import Connection
from ridethrough.emulator._pdu import FUNCTIONS, SUNSPEC_FUNCTIONS
from ridethrough.emulator.errors import InvariantError, ScenarioError

from tests.emulator.modbus_rows import ALL_FUNCTIONS, BITS, READ_ONLY, REGISTERS, Device, Memory

WORDS = st.integers(0, 0xFFFF)
PLACES = st.integers(0, REGISTERS + 3) | WORDS


def ask(unit: Memory, pdu: str | bytes) -> bytes:
    """Send one request PDU to unit 1 and return the reply's PDU."""
    body = b"\1" + (bytes.fromhex(pdu) if isinstance(pdu, str) else pdu)
    head = b"\0\7\0\0" + len(body).to_bytes(2, "big")
    connection = Connection({1: unit})
    reply = connection.receive(head + body)
    assert reply[:4] == head[:4]
    assert reply[6] == 1
    assert int.from_bytes(reply[4:6], "big") == len(reply) - 6
    assert connection.last_error is None
    return reply[7:]


def through(unit: Memory, request: ModbusPDU) -> ModbusPDU:
    """Send a request that pymodbus made, and let it read the reply."""
    framer = FramerSocket(DecodePDU(False))
    reply = ask(unit, bytes([request.function_code]) + request.encode())
    _, found = framer.handleFrame(FramerSocket(DecodePDU(True)).encode(reply, 1, 0), 0, 0)
    assert found is not None
    return found


def words(unit: Memory, address: int, count: int) -> list[int]:
    return list(struct.unpack_from(f">{count}H", unit.cells, 2 * address))


def test_what_can_be_served() -> None:
    assert FUNCTIONS == ALL_FUNCTIONS
    assert {3, 6, 16} == SUNSPEC_FUNCTIONS


@given(PLACES, st.integers(1, 2000), st.booleans())
def test_bits_are_read(address: int, count: int, inputs: bool) -> None:
    device = Device()
    kind = ReadDiscreteInputsRequest if inputs else ReadCoilsRequest
    reply = through(device, kind(address=address, count=count))
    source = device.inputs if inputs else device.coils
    if address + count > BITS:
        assert reply.exception_code == 2
    else:
        assert reply.bits[:count] == source[address : address + count]
        assert not any(reply.bits[count:])


@given(PLACES, st.booleans())
def test_one_coil_is_written(address: int, on: bool) -> None:
    device, model = Device(), Device().coils
    reply = through(device, WriteSingleCoilRequest(address=address, bits=[on]))
    if address >= BITS:
        assert reply.exception_code == 2
    else:
        assert (reply.address, reply.bits) == (address, [on])
        model[address] = on
    assert device.coils == model


@given(PLACES, st.lists(st.booleans(), min_size=1, max_size=1968))
def test_coils_are_written(address: int, bits: list[bool]) -> None:
    device, model = Device(), Device().coils
    reply = through(device, WriteMultipleCoilsRequest(address=address, bits=bits))
    if address + len(bits) > BITS:
        assert reply.exception_code == 2
    else:
        assert (reply.address, reply.count) == (address, len(bits))
        model[address : address + len(bits)] = bits
    assert device.coils == model


def test_padding_of_bits_is_zero_both_ways() -> None:
    """Neither a unit's nor a client's padding gets through."""

    class Sloppy(Device):
        def read_bits(self, address: int, count: int, inputs: bool) -> bytes | int:
            return b"\xff\xff"

        def write_bits(self, address: int, count: int, data: bytes) -> int:
            self.objects[0] = data
            return 0

    device = Sloppy()
    assert ask(device, "01 0000 000b") == bytes.fromhex("01 02 ff07")
    assert ask(device, "0f 0000 000b 02 ffff") == bytes.fromhex("0f 0000 000b")
    assert device.objects[0] == b"\xff\x07"


@given(PLACES, st.integers(1, 125))
def test_function_4_reads_what_3_reads(address: int, count: int) -> None:
    device = Device()
    reply = through(device, ReadInputRegistersRequest(address=address, count=count))
    if address + count > REGISTERS:
        assert reply.exception_code == 2
    else:
        assert reply.registers == words(device, address, count)


@given(PLACES, WORDS, WORDS)
def test_mask_write(address: int, and_mask: int, or_mask: int) -> None:
    device, model = Device(), Device()
    reply = through(device, MaskWriteRegisterRequest(address=address, and_mask=and_mask, or_mask=or_mask))
    if address >= REGISTERS or address in READ_ONLY:
        assert reply.exception_code == 2
    else:
        assert isinstance(reply, MaskWriteRegisterResponse)
        assert (reply.address, reply.and_mask, reply.or_mask) == (address, and_mask, or_mask)
        old = words(model, address, 1)[0]
        model.write(address, ((old & and_mask) | (or_mask & ~and_mask & 0xFFFF)).to_bytes(2, "big"))
    assert device.cells == model.cells


def test_mask_write_as_in_the_specification() -> None:
    """Application Protocol V1.1b3, 6.16: 0x12, and-mask 0xF2, or-mask 0x25 make 0x17."""
    device = Device()
    device.write(4, b"\x00\x12")
    assert ask(device, "16 0004 00f2 0025") == bytes.fromhex("16 0004 00f2 0025")
    assert words(device, 4, 1) == [0x17]


@given(PLACES, st.integers(1, 125), PLACES, st.lists(WORDS, min_size=1, max_size=121))
def test_read_write(read: int, count: int, written: int, values: list[int]) -> None:
    """What is read is what it is after the write; a range that cannot be read stops the write."""
    device, model = Device(), Device()
    reply = through(
        device,
        ReadWriteMultipleRegistersRequest(
            read_address=read, read_count=count, write_address=written, write_registers=values
        ),
    )
    good = read + count <= REGISTERS and model.write(written, struct.pack(f">{len(values)}H", *values)) == 0
    if good:
        assert reply.registers == words(model, read, count)
        assert device.cells == model.cells
    else:
        assert reply.exception_code == 2
        assert device.state() == Device().state()


@pytest.mark.parametrize(
    ("pdu", "code"),
    [
        ("01 0000 0000", 3), ("01 0000 07d1", 3), ("01 ffff 0002", 2), ("01 00c8 0001", 2),
        ("02 0000 0000", 3), ("02 0000 07d1", 3), ("02 0000", 3),
        ("04 0000 0000", 3), ("04 0000 007e", 3), ("04 ffff 0002", 2), ("04 0000 0001 00", 3),
        ("05 0000 ff01", 3), ("05 0000 00ff", 3), ("05 0000 0001", 3), ("05 0000 ff", 3), ("05 00c8 ff00", 2),
        ("05 0000 ff00 00", 3),
        ("08", 3), ("08 00", 3), ("08 0000 12", 3), ("08 0001 0000", 1), ("08 000a 0000", 1),
        ("0f 0000 0000 00", 3), ("0f 0000 0009 01 ff", 3), ("0f 0000 0008 02 ffff", 3),
        ("0f 0000 07b1 f7" + 247 * "00", 3), ("0f ffff 0002 01 03", 2), ("0f 0000 0008 01", 3),
        ("0f 0000", 3),
        ("16", 3), ("16 0000 0000 0000 00", 3), ("16 00c8 0000 0000", 2), ("16 00b4 0000 0000", 2),
        ("17 0000 0000 0000 0001 02 0001", 3), ("17 0000 007e 0000 0001 02 0001", 3),
        ("17 0000 0001 0000 0000 00", 3), ("17 0000 0001 0000 0001 02 00", 3),
        ("17 0000 0001 0000 0002 02 0001", 3), ("17 0000 0001 0000 007a f2" + 242 * "00", 3),
        ("17 ffff 0002 0000 0001 02 0001", 2), ("17 0000 0001 ffff 0002 04 0001 0002", 2),
        ("17 00c7 0002 0000 0001 02 0001", 2), ("17 0000 0001 00b4 0001 02 0001", 2),
        ("17 0000 0001 0000", 3), ("17 ffff 0000 ffff 0000 00", 3),
        ("2b", 3), ("2b 0d", 1), ("2b 0d 00 00", 1), ("2b 0e", 3), ("2b 0e 01", 3), ("2b 0e 01 00 00", 3),
        ("2b 0e 00 00", 3), ("2b 0e 05 00", 3), ("2b 0e 04 03", 2), ("2b 0e 04 ff", 2),
    ],
)  # fmt: skip
def test_refusals_change_nothing(pdu: str, code: int) -> None:
    device = Device()
    request = bytes.fromhex(pdu)
    assert len(request) <= 253
    assert ask(device, request) == bytes([request[0] | 0x80, code])
    assert device.state() == Device().state()


@pytest.mark.parametrize("function", sorted(ALL_FUNCTIONS - {43}))
def test_function_that_is_not_served(function: int) -> None:
    """01 whatever follows: the function is looked at before its size."""
    device = Device(ALL_FUNCTIONS - {function})
    for rest in ("", "0000 0001", "0000 ffff ff", "00b4 0001 02 0003"):
        assert ask(device, bytes([function]) + bytes.fromhex(rest)) == bytes([function | 0x80, 1])
    assert device.calls == []


def test_unit_that_lacks_the_method_does_not_serve_the_function() -> None:
    class Lacking(Memory):
        functions = ALL_FUNCTIONS

    for pdu in ("01 0000 0001", "02 0000 0001", "05 0000 ff00", "0f 0000 0001 01 01", "2b 0e 01 00"):
        assert ask(Lacking(), pdu) == bytes([bytes.fromhex(pdu)[0] | 0x80, 1])
    assert ask(Lacking(), "04 0000 0001") == bytes.fromhex("04 02 1000")


@pytest.mark.parametrize("functions", [{3, 7}, {24}, {0}, {"3", 24}, {3, 128}])
def test_functions_that_nobody_can_serve_are_refused(functions: set[int]) -> None:
    with pytest.raises(
        ScenarioError, match=r"functions \[.*\] found at unit id 5; allowed are 1, 2, 3, 4, 5"
    ):
        Connection({5: Device(frozenset(functions))})


@pytest.mark.parametrize("data", ["", "1234", "1234 5678", 250 * "5a"])
def test_echo(data: str) -> None:
    assert ask(Device(), "08 0000" + data) == bytes.fromhex("08 0000" + data)


def test_echo_through_pymodbus() -> None:
    reply = through(Device(), ReturnQueryDataRequest(b"\x12\x34"))
    assert reply.function_code == 8
    assert reply.encode() == b"\0\0\x12\x34"


OBJECTS = st.dictionaries(
    st.integers(0, 4) | st.integers(0, 255), st.binary(max_size=20) | st.binary(max_size=244), min_size=1
)


def stream(device: Device, code: int, first: int = 0) -> tuple[dict[int, bytes], int, int]:
    """Read a whole stream through pymodbus; return the objects, the conformity level and how many replies."""
    found: dict[int, bytes] = {}
    for turn in range(1, 300):
        reply = through(device, ReadDeviceInformationRequest(read_code=code, object_id=first))
        if not isinstance(reply, ReadDeviceInformationResponse):
            assert reply.exception_code == 2
            return found, 0, turn
        for number, value in reply.information.items():
            assert number not in found
            found[number] = value[0] if isinstance(value, list) else value
        if not reply.more_follows:
            return found, reply.conformity, turn
        first = reply.next_object_id
    raise AssertionError("the stream does not end")


@given(OBJECTS, st.sampled_from([1, 2, 3]))
def test_identification_stream_is_whole(objects: dict[int, bytes], code: int) -> None:
    device = Device()
    device.objects = objects
    expected = {k: v for k, v in objects.items() if k <= {1: 2, 2: 0x7F, 3: 0xFF}[code]}
    found, level, turns = stream(device, code)
    assert found == expected
    assert list(found) == sorted(found)
    if expected:
        assert level == 0x81 + (max(objects) > 2) + (max(objects) > 0x7F)
        size = sum(2 + len(value) for value in expected.values())
        assert turns >= -(-size // 246)
        assert turns == 1 or size > 246


@given(OBJECTS, st.integers(0, 255))
def test_identification_of_one_object(objects: dict[int, bytes], number: int) -> None:
    device = Device()
    device.objects = objects
    reply = ask(device, bytes([0x2B, 0x0E, 4, number]))
    if number in objects:
        value = objects[number]
        assert reply[:3] == b"\x2b\x0e\x04"
        assert reply[4:] == b"\0\0\1" + bytes([number, len(value)]) + value
    else:
        assert reply == b"\xab\x02"


def test_identification_byte_by_byte() -> None:
    device = Device()
    head = "2b 0e 01 83 00 00 03"
    objects = b"\0\x0bRidethrough\1\6HOME-1\2\0030.1"
    assert ask(device, "2b 0e 01 00") == bytes.fromhex(head) + objects
    assert ask(device, "2b 0e 01 01") == bytes.fromhex("2b 0e 01 83 00 00 02") + objects[13:]
    # "If the Object Id does not match any known object, the server responds as if object 0 were pointed out"
    assert ask(device, "2b 0e 01 03") == bytes.fromhex(head) + objects
    device.objects = {0: b"v", 1: bytes(243), 2: b"r"}
    assert ask(device, "2b 0e 01 00") == bytes.fromhex("2b 0e 01 81 ff 01 01") + b"\0\1v"
    assert ask(device, "2b 0e 01 01") == bytes.fromhex("2b 0e 01 81 ff 02 01") + b"\1\xf3" + bytes(243)
    assert ask(device, "2b 0e 01 02") == bytes.fromhex("2b 0e 01 81 00 00 01") + b"\2\1r"


@pytest.mark.parametrize("objects", [{0: "text"}, {0: bytes(245)}, {256: b""}, {-1: b""}, {"0": b""}, None])
def test_nonsense_from_identify_is_our_bug(objects: object) -> None:
    device = Device()
    device.objects = objects  # type: ignore[assignment]  # the wrong type is what is tested
    connection = Connection({1: device})
    assert connection.receive(bytes.fromhex("0001 0000 0005 01 2b 0e 01 00"))[7:] == b"\xab\x04"
    assert isinstance(connection.last_error, InvariantError | TypeError)


def test_no_objects_at_all() -> None:
    device = Device()
    device.objects = {}
    assert ask(device, "2b 0e 03 00") == b"\xab\x02"


@pytest.mark.parametrize("answer", [b"", b"\0\0\0", 0, 256, None, "1"])
def test_nonsense_from_read_bits_is_our_bug(answer: object) -> None:
    class Broken(Device):
        def read_bits(self, address: int, count: int, inputs: bool) -> bytes | int:
            return answer  # type: ignore[return-value]  # the wrong type is what is tested

    connection = Connection({1: Broken()})
    assert connection.receive(bytes.fromhex("0001 0000 0006 01 01 0000 0010"))[7:] == b"\x81\x04"
    assert isinstance(connection.last_error, InvariantError)


def test_read_write_asks_before_it_writes_and_again_after() -> None:
    device = Device()
    ask(device, "17 0000 0002 0001 0001 02 beef")
    assert device.calls == [("read", 0, 2), ("write", 1, 1), ("read", 0, 2)]


def test_functions_that_are_not_known_are_refused() -> None:
    for function in sorted(set(range(256)) - FUNCTIONS):
        assert ask(Device(), bytes([function, 0, 0, 0, 1])) == bytes([function | 0x80, 1]), function
