"""Targets: every form is read back as it is written, and whatever else is refused with the form."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.target import (
    BAUDS,
    AsciiTarget,
    RtuOverTcpTarget,
    RtuTarget,
    TcpTarget,
    TlsTarget,
    parse_target,
)

HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True),
    st.ip_addresses().map(str),
)


@given(
    st.sampled_from([TcpTarget, TlsTarget, RtuOverTcpTarget]),
    HOSTS,
    st.integers(1, 65_535),
    st.integers(1, 247),
)
def test_targets_behind_a_socket_round_trip(
    kind: type[TcpTarget | TlsTarget | RtuOverTcpTarget], host: str, port: int, unit: int
) -> None:
    target = kind(host, port, unit)
    assert parse_target(str(target)) == target
    assert str(target).startswith(f"{target.scheme}:")


@given(
    st.sampled_from([RtuTarget, AsciiTarget]),
    st.from_regex(r"/dev/[A-Za-z0-9/_.-]{1,30}|COM[0-9]", fullmatch=True),
    st.sampled_from(BAUDS),
    st.integers(1, 247),
    st.sampled_from(["N", "E", "O"]),
    st.sampled_from([1, 2]),
)
def test_targets_on_a_line_round_trip(
    kind: type[RtuTarget | AsciiTarget],
    path: str,
    baud: int,
    unit: int,
    parity: Literal["N", "E", "O"],
    stop_bits: Literal[1, 2],
) -> None:
    target = kind(path, baud, unit, parity, stop_bits)
    assert parse_target(str(target)) == target
    assert str(target).startswith(f"{target.scheme}:")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tcp:192.0.2.7:502", TcpTarget("192.0.2.7", 502, 1)),
        ("tcp:[2001:db8::1]:1502/126", TcpTarget("2001:db8::1", 1502, 126)),
        ("rtu:/dev/ttyUSB0@9600", RtuTarget("/dev/ttyUSB0", 9600, 1)),
        ("tcp:h:502/0", TcpTarget("h", 502, 0)),
        ("tls:h", TlsTarget("h", 802, 1)),
        ("tls:[2001:db8::1]/3", TlsTarget("2001:db8::1", 802, 3)),
        ("rtu+tcp:h:4001/7", RtuOverTcpTarget("h", 4001, 7)),
        ("rtu:COM3@9600,E/2", RtuTarget("COM3", 9600, 2, "E")),
        ("rtu:COM3@9600,2/2", RtuTarget("COM3", 9600, 2, "N", 2)),
        ("ascii:/dev/ttyS0@19200,O,2", AsciiTarget("/dev/ttyS0", 19200, 1, "O", 2)),
        ("rtu:/dev/serial/by-id/x-1@19200/3", RtuTarget("/dev/serial/by-id/x-1", 19200, 3)),
    ],
)
def test_examples(text: str, target: object) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "tcp:HOST:PORT/UNIT"),
        ("192.0.2.7:502", "tcp:HOST:PORT/UNIT"),
        ("tcp:192.0.2.7", "tcp:HOST:PORT/UNIT"),
        ("tcp:192.0.2.7:502/", "tcp:HOST:PORT/UNIT"),
        ("tcp:2001:db8::1:502/1", "tcp:HOST:PORT/UNIT"),
        ("tcp::502/1", "tcp:HOST:PORT/UNIT"),
        ("tcp:h:502/1\n", "tcp:HOST:PORT/UNIT"),
        ("tcp:h:0/1", "port 0 found; allowed 1 to 65535"),
        ("tcp:h:65536/1", "port 65536 found; allowed 1 to 65535"),
        ("tcp:h:502/256", "unit 256 found; allowed 0 to 255"),
        ("rtu:/dev/ttyUSB0/1", "rtu:PATH@BAUD/UNIT"),
        ("rtu:/dev/ttyUSB0@9601/1", "baud 9601 found; allowed 1200, 2400"),
        ("rtu:/dev/ttyUSB0@9600/0", "unit 0 found; allowed 1 to 247"),
        ("rtu+tcp:h:4001/0", "unit 0 found; allowed 1 to 247"),
        ("rtu+tcp:h/1", "rtu+tcp:HOST:PORT/UNIT"),
        ("rtu:/dev/ttyUSB0@9600,X/1", ",N ,E or ,O for the parity"),
        ("rtu:/dev/ttyUSB0@9600,N,3/1", "stop bits 3 found; allowed 1 to 2"),
        ("ascii:/dev/ttyUSB0@9600/0", "unit 0 found; allowed 1 to 247"),
        ("rtu:/dev/ttyUSB0@9600/248", "unit 248 found; allowed 1 to 247"),
    ],
)
def test_wrong_targets_are_named_with_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(ScenarioError, match=r"^target ") as caught:
        parse_target(text)
    assert words in str(caught.value)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        target = parse_target(text)
    except ScenarioError:
        return
    assert parse_target(str(target)) == target
