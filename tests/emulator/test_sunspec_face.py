"""The face of a profile on the wire: base address, chain of models, function codes, read-back."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ridethrough.emulator._modbus import Connection, SerialServer, crc16
from ridethrough.emulator.image import DeviceImage, units_of
from ridethrough.emulator.layout import compile_layouts
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile
from sunspec2 import mb

from tests.emulator.register_bench import HOME, NAMES, PROFILES, Client, decode, dump, with_face

BASES = (0, 40000, 50000)
FACES = st.fixed_dictionaries(
    {"base_address": st.sampled_from(BASES), "common_length": st.sampled_from([65, 66])}
)
TEXT = {"Mn": "manufacturer", "Md": "model_name"}


def units(profile: DeviceProfile, n: int = 1) -> tuple[Plant, dict[int, DeviceImage]]:
    plant = Plant([profile] * n, soc_frac=0.5)
    return plant, units_of(plant, n - 1)


# ---- the map


@pytest.mark.parametrize("name", NAMES)
@given(face=FACES)
@settings(deadline=None, max_examples=6)
def test_the_chain_leads_from_the_base_to_the_end(name: str, face: dict[str, int]) -> None:
    """Walked as a client does, by reads of two registers: marker, headers, end model, nothing behind."""
    profile = with_face(PROFILES[name], **face)
    _, found = units(profile)
    for unit in found.values():
        at = face["base_address"]
        assert unit.read(at, 2) == b"SunS"
        assert isinstance(unit.read(at - 1, 2), int)
        at += 2
        chain = []
        while (header := unit.read(at, 2)) != b"\xff\xff\0\0":
            assert isinstance(header, bytes)
            model, length = struct.unpack(">HH", header)
            chain.append((model, length))
            at += 2 + length
        assert unit.read(at + 2, 1) == unit.read(at + 1, 2) == 2
        assert at + 2 - face["base_address"] == unit.count
        assert [model for model, _ in chain] == list(unit.layout.models)
        assert chain[0] == (1, face["common_length"])


@pytest.mark.parametrize("name", NAMES)
@given(face=FACES)
@settings(deadline=None, max_examples=4)
def test_neither_base_nor_length_changes_what_pysunspec2_reads(name: str, face: dict[str, int]) -> None:
    usual = units(with_face(PROFILES[name], base_address=40000))[1]
    other = units(with_face(PROFILES[name], **face))[1]
    for a, b in zip(usual.values(), other.values(), strict=True):
        lengths = {(1, "L"), (1, "Pad")}
        assert {key: value for key, value in decode(a).items() if key not in lengths} == {
            key: value for key, value in decode(b).items() if key not in lengths
        }
        assert list(Client(b).models) == list(Client(a).models)


def test_an_old_common_model_has_no_pad_and_the_next_model_follows_it() -> None:
    for layout in compile_layouts(with_face(HOME, common_length=65)):
        assert (1, "Pad") not in layout.by_name
        second = layout.point(layout.models[1], "ID")
        assert second.address == layout.base_address + 2 + 2 + 65


@pytest.mark.parametrize("name", NAMES)
def test_sentinels_are_those_of_their_types(name: str) -> None:
    """Strings NUL, pads 0x8000, accumulators 0, whatever pysunspec2 says for the rest."""
    kinds = set()
    for unit in units(PROFILES[name])[1].values():
        data = dump(unit)
        for point in unit.layout.points:
            if point.quantity is not None or point.name in ("ID", "L"):
                continue
            at = 2 * (point.address - unit.base_address)
            shown = data[at : at + 2 * point.size]
            if point.type == "sunssf" and shown != b"\x80\0":
                continue  # a scale factor that is used
            expected = (
                b"\x80\0" if point.type == "pad" else mb.create_unimpl_value(point.type, 2 * point.size)
            )
            assert shown == expected, str(point)
            kinds.add(point.type)
    assert {"int16", "uint16", "acc32", "bitfield32", "string", "pad", "sunssf"} <= kinds


# ---- what a profile may say


def test_the_defaults_are_the_standards() -> None:
    face = HOME.face
    assert face.functions == (3, 6, 16, 43)
    assert (face.connections_max, face.idle_timeout_s, face.meter_models) == (None, None, None)
    assert face.common_length == 66


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no read": ({"functions": [6, 16]}, "functions .* must hold 3"),
    "no write": ({"functions": [3, 43]}, "functions .* and 6 or 16"),
    "twice": ({"functions": [3, 16, 3]}, "names a function code twice"),
    "unknown": ({"functions": [3, 6, 24]}, "Input should be 1, 2, 3, 4, 5, 6, 8, 15, 16, 22, 23 or 43"),
    "connections": ({"connections_max": 0}, "greater than or equal to 1"),
    "many connections": ({"connections_max": 1001}, "less than or equal to 1000"),
    "idle": ({"idle_timeout_s": 0.0}, "greater than or equal to 0.1"),
    "never idle": ({"idle_timeout_s": float("inf")}, "finite number"),
    "length": ({"common_length": 64}, "Input should be 65 or 66"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_face_out_of_bounds_is_refused(case: str) -> None:
    changes, words = WRONG[case]
    with pytest.raises(ValidationError, match=words):
        with_face(HOME, **changes)


def test_every_optional_function_can_be_served_and_is_told_to_the_server() -> None:
    every = [1, 2, 3, 4, 5, 6, 8, 15, 16, 22, 23, 43]
    for unit in units(with_face(HOME, functions=every))[1].values():
        assert unit.functions == frozenset(every)
    for unit in units(HOME)[1].values():
        assert unit.functions == {3, 6, 16, 43}


@given(st.integers(0, 65535), st.integers(1, 2000), st.booleans())
def test_there_are_no_coils(address: int, count: int, inputs: bool) -> None:
    unit = units(HOME)[1][1]
    assert unit.read_bits(address, count, inputs) == 2
    assert unit.write_bits(address, count, bytes(-(-count // 8))) == 2


# ---- function codes through the server's core


def ask(found: dict[int, DeviceImage], unit_id: int, pdu: bytes) -> bytes:
    """Return the PDU that answers one."""
    connection = Connection(found)
    reply = connection.receive(struct.pack(">HHHB", 1, 0, len(pdu) + 1, unit_id) + pdu)
    assert connection.last_error is None
    assert reply[:4] == b"\0\1\0\0"
    assert len(reply) == 6 + struct.unpack(">H", reply[4:6])[0]
    return reply[7:]


def test_identification_is_model_1_in_ascii() -> None:
    for unit in units(with_face(HOME, manufacturer="Öhm & Söhne", model="H-5"))[1].values():
        shown = decode(unit)
        assert shown[1, "Mn"] == "Öhm & Söhne"
        assert unit.identify() == {0: b"?hm & S?hne", 1: b"H-5", 2: b"1", 4: b"H-5", 5: b"H-5"}


def test_a_client_identifies_a_unit_by_function_43() -> None:
    found = units(HOME)[1]
    reply = ask(found, 1, bytes([43, 14, 1, 0]))
    assert reply[:3] == bytes([43, 14, 1])
    for name in TEXT:
        assert decode(found[1])[1, name].encode() in reply
    assert ask(units(with_face(HOME, functions=(3, 16)))[1], 1, bytes([43, 14, 1, 0])) == b"\xab\1"


def test_a_profile_decides_whether_function_4_reads_and_6_writes() -> None:
    layout = compile_layouts(HOME)[0]
    heartbeat = layout.point(715, "ControllerHb").address
    read4 = struct.pack(">BHH", 4, layout.base_address, 2)
    write6 = struct.pack(">BHH", 6, layout.point(802, "CtrlHb").address, 77)
    usual = units(HOME)[1]
    assert ask(usual, 1, read4) == b"\x84\1"
    assert ask(usual, 1, write6) == write6
    other = units(with_face(HOME, functions=(3, 4, 16)))[1]
    assert ask(other, 1, read4) == b"\4\4SunS"
    assert ask(other, 1, write6) == b"\x86\1"
    write16 = struct.pack(">BHHBI", 16, heartbeat, 2, 4, 0x12345678)
    assert ask(other, 1, write16) == write16[:5]


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_what_is_written_is_read_back_in_the_next_request(data: st.DataObject) -> None:
    """SunSpec asks for 1,000 ms; no time passes here, the plant stands still."""
    _, found = units(PROFILES["full"])
    point = data.draw(st.sampled_from([point for point in found[1].layout.points if point.writable]))
    raw = data.draw(st.integers(point.low, point.high)).to_bytes(2 * point.size, "big", signed=point.signed)
    read = struct.pack(">BHH", 3, point.address, point.size)
    before = ask(found, 1, read)
    if point.size == 1 and data.draw(st.booleans()):
        request = struct.pack(">BH", 6, point.address) + raw
        taken = request
    else:
        request = struct.pack(">BHHB", 16, point.address, point.size, 2 * point.size) + raw
        taken = request[:5]
    reply = ask(found, 1, request)
    if reply == taken:
        assert ask(found, 1, read) == bytes([3, 2 * point.size]) + raw
    else:  # a setting that the device cannot take, alone
        assert reply == bytes([request[0] | 0x80, 3])
        assert ask(found, 1, read) == before
        assert point.quantity is not None
        assert point.model in range(703, 713), str(point)
        assert not point.name.endswith(("RvrtTms", "Hb"))


def test_a_broadcast_on_a_serial_line_reaches_every_unit_and_nobody_answers() -> None:
    """The meters on the line have no such register, and say nothing either."""
    plant = Plant([HOME] * 3, soc_frac=0.5)
    found = {key: unit for d in range(3) for key, unit in units_of(plant, d, d + 1).items()}
    address = compile_layouts(HOME)[0].point(802, "CtrlHb").address
    pdu = struct.pack(">BBHHBH", 0, 16, address, 1, 2, 4711)
    line = SerialServer(found)
    assert line.rtu(pdu + struct.pack("<H", crc16(pdu))) == b""
    assert line.last_error is None
    for unit_id in (1, 2, 3):
        assert found[unit_id].read(address, 1) == (4711).to_bytes(2, "big")
