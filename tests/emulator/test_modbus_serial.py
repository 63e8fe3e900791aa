"""The core on a serial line: the table's rows, the TCP rows again as RTU and ASCII, sizes and checks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerAscii, FramerRTU
from pymodbus.pdu import DecodePDU
from ridethrough.emulator._modbus import Connection, SerialServer, crc16, lrc, rtu_request_size
from ridethrough.emulator._pdu import Units
from ridethrough.emulator.errors import ScenarioError

from tests.emulator.modbus_rows import (
    ALL_FUNCTIONS,
    AT_ONCE,
    ROWS,
    SERIAL_ROWS,
    SUNSPEC_FUNCTIONS,
    Device,
    Row,
    SerialRow,
    with_crc,
    with_lrc,
)

GOOD = with_crc(bytes.fromhex("01 03 0005 0002"))
GOOD_REPLY = with_crc(bytes.fromhex("01 03 04 1005 1006"))


def answer(server: SerialServer, frame: bytes, text: bool) -> bytes:
    return server.ascii(frame) if text else server.rtu(frame)


@pytest.mark.parametrize(
    "row", SERIAL_ROWS, ids=[f"{r.name} {'text' * r.text}: {r.what}" for r in SERIAL_ROWS]
)
def test_serial_row(row: SerialRow) -> None:
    device = Device()
    server = SerialServer({1: device})
    assert answer(server, row.sent, row.text) == row.answer
    assert (device.cells[200:202] == bytes.fromhex("0304")) is row.writes
    assert (device.state() == Device().state()) is not row.writes
    assert server.rtu(GOOD) == GOOD_REPLY
    assert server.last_error is None


def one_frame(row: Row) -> bool:
    """Whether a row is one frame of TCP with right header, to unit 1."""
    length = int.from_bytes(row.sent[4:6], "big")
    return (
        row.how == AT_ONCE
        and row.sent[2:4] == b"\0\0"
        and length == len(row.sent) - 6
        and 2 <= length <= 254
        and row.sent[6] == 1
    )


FRAMES = [row for row in ROWS if one_frame(row)]


@pytest.mark.parametrize("text", [False, True], ids=["RTU", "ASCII"])
@pytest.mark.parametrize("functions", [ALL_FUNCTIONS, SUNSPEC_FUNCTIONS], ids=["all", "sunspec"])
@pytest.mark.parametrize("row", FRAMES, ids=[row.name for row in FRAMES])
def test_row_of_tcp(row: Row, functions: frozenset[int], text: bool) -> None:
    """What is in a frame is answered alike, whatever the frame."""
    frame = with_lrc if text else with_crc
    replies = (row.correct[0] if functions == ALL_FUNCTIONS else row.sunspec).replies
    assert answer(SerialServer({1: Device(functions)}), frame(row.sent[6:]), text) == frame(replies[6:])


def test_most_rows_have_a_serial_form() -> None:
    assert len(FRAMES) > 35


@given(st.binary(max_size=260))
def test_checks_agree_with_two_witnesses(data: bytes) -> None:
    assert crc16(data).to_bytes(2, "little") == with_crc(data)[-2:]
    assert crc16(data) == int.from_bytes(FramerRTU.compute_CRC(data).to_bytes(2, "big"), "little")
    assert with_lrc(data)[-4:-2] == b"%02X" % lrc(data)
    assert lrc(data) == FramerAscii.compute_LRC(data)


@given(st.binary(max_size=300))
def test_frame_without_right_check_is_met_with_silence(data: bytes) -> None:
    device = Device()
    server = SerialServer({1: device, 2: Device()})
    wrong = data if with_crc(data[:-2]) != data else data + b"\0"
    assert server.rtu(wrong) == b""
    line = with_lrc(data)
    assert server.ascii(line[:-3] + (b"0" if line[-3:-2] != b"0" else b"1") + b"\r\n") == b""
    assert device.calls == []


@given(st.binary(min_size=1, max_size=260), st.sampled_from([0, 1, 2, 99, 247, 248, 255]))
def test_reply_is_that_of_tcp_or_silence(pdu: bytes, unit: int) -> None:
    """Any PDU, in all three kinds of frames; the TCP one is the witness for the others."""
    on_line, on_tcp = Device(), Device()
    server = SerialServer({1: on_line, 247: on_line})
    body = bytes([unit]) + pdu
    binary = server.rtu(with_crc(body))
    if len(pdu) <= 253 and unit in (1, 247):
        frame = b"\0\1\0\0" + len(body).to_bytes(2, "big") + body
        reply = Connection({1: on_tcp, 247: on_tcp}).receive(frame)[6:]
        assert binary == with_crc(reply)
        assert on_line.state() == on_tcp.state()
    else:
        assert binary == b""
    again = SerialServer({1: Device(), 247: Device()})
    assert again.ascii(with_lrc(body)) == (with_lrc(binary[:-2]) if binary else b"")


BROADCASTS = {
    "FC5": ("05 0001 ff00", True),
    "FC6": ("06 0064 0304", True),
    "FC15": ("0f 0001 0002 01 03", True),
    "FC16": ("10 0064 0001 02 0304", True),
    "FC22": ("16 0064 00ff ff00", True),
    "FC1": ("01 0000 0001", False),
    "FC8": ("08 0000 1234", False),
    "FC23": ("17 0000 0001 0064 0001 02 0304", False),
    "FC43": ("2b 0e 01 00", False),
}


@pytest.mark.parametrize(("pdu", "executed"), BROADCASTS.values(), ids=list(BROADCASTS))
def test_broadcast_reaches_every_unit_once(pdu: str, executed: bool) -> None:
    devices = [Device(), Device(), Device(SUNSPEC_FUNCTIONS - {6, 16})]
    server = SerialServer({1: devices[0], 9: devices[0], 100: devices[1], 247: devices[2]})
    assert server.rtu(with_crc(bytes.fromhex("00" + pdu))) == b""
    assert [device.state() != Device().state() for device in devices] == [executed, executed, False]
    writes = [call for call in devices[0].calls if call[0].startswith("write")]
    assert len(writes) == executed  # one device under two addresses is one device
    assert (devices[2].calls == []) is True


def test_bad_request_inside_a_broadcast_changes_nothing() -> None:
    device = Device()
    server = SerialServer({1: device})
    for pdu in ("06 0064", "10 0064 0002 02 0304", "05 0001 1234", "06 00b5 0001"):
        assert server.rtu(with_crc(bytes.fromhex("00" + pdu))) == b""
    assert device.state() == Device().state()
    assert server.frames == 4


REQUESTS = (
    "01 0000 0001", "02 0000 0001", "03 0000 0001", "04 0000 0001", "05 0000 ff00", "06 0000 0001",
    "07", "08 0000 1234", "0b", "0c", "0f 0000 000a 02 ff03", "10 0000 0002 04 0001 0002", "11",
    "14 07 06 0001 0002 0003", "15 09 06 0001 0002 0001 abcd", "16 0000 0000 0000",
    "17 0000 0001 0000 0002 04 0001 0002", "18 0000", "2b 0e 01 00",
)  # fmt: skip


@pytest.mark.parametrize("pdu", REQUESTS)
def test_size_of_a_request_frame(pdu: str) -> None:
    """Known as soon as it can be, and never otherwise; pymodbus is the witness for what it knows."""
    frame = with_crc(bytes.fromhex("01" + pdu))
    found = [rtu_request_size(frame[:held]) for held in range(len(frame) + 1)]
    known = next(held for held, size in enumerate(found) if size)
    assert set(found[:known]) == {0}
    assert set(found[known:]) == {len(frame)}
    assert known == {15: 7, 16: 7, 20: 3, 21: 3, 23: 11, 43: 3}.get(frame[1], 2)
    witness = DecodePDU(True).lookupPduClass(frame)
    assert witness is not None
    if frame[1] not in (11, 12):  # pymodbus takes these two for longer than they are
        assert witness.calculateRtuFrameSize(frame) == len(frame)


@given(st.binary(max_size=300))
def test_size_of_anything_is_bounded(data: bytes) -> None:
    assert -1 <= rtu_request_size(data) <= 3 + 10 + 255
    assert rtu_request_size(data[:1]) == 0


@pytest.mark.parametrize("pdu", ["00", "09", "13", "2a", "2b 0d 00", "41", "80", "83 0000 0001", "ff"])
def test_size_of_unknown_requests_is_not_known(pdu: str) -> None:
    assert rtu_request_size(bytes.fromhex("01" + pdu)) == -1


@pytest.mark.parametrize("unit_id", [-1, 0, 248, 255, 1.0, "1", True, None])
def test_bad_unit_ids_are_refused(unit_id: object) -> None:
    with pytest.raises(ScenarioError, match=r"unit id .* found; allowed are whole numbers 1\.\.247"):
        SerialServer({unit_id: Device()})  # type: ignore[dict-item]  # the wrong type is what is tested


def test_units_of_a_line_are_no_units_of_tcp() -> None:
    with pytest.raises(ScenarioError, match="those of a serial line found"):
        Connection(Units({1: Device()}, serial=True))


@pytest.mark.parametrize("data", [None, "text", bytearray(b"\0"), 3])
def test_only_bytes_are_taken(data: object) -> None:
    server = SerialServer({1: Device()})
    for take in (server.rtu, server.ascii, crc16, lrc, rtu_request_size):
        with pytest.raises(TypeError):
            take(data)  # type: ignore[arg-type]  # the wrong type is what is tested


def test_failing_unit_answers_04_and_is_kept() -> None:
    class Broken(Device):
        def write(self, address: int, data: bytes) -> int:
            raise ZeroDivisionError("bug")

    server = SerialServer({1: Broken()})
    assert server.rtu(with_crc(bytes.fromhex("01 06 0064 0304"))) == with_crc(bytes.fromhex("01 86 04"))
    assert isinstance(server.last_error, ZeroDivisionError)
    server.last_error = None
    assert server.ascii(with_lrc(bytes.fromhex("00 06 0064 0304"))) == b""  # nobody is told, but we are
    assert isinstance(server.last_error, ZeroDivisionError)
    assert server.rtu(GOOD) == GOOD_REPLY
