"""Targets: every form is read back as it is written, and whatever else is refused with the form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.target import BAUDS, RtuTarget, TcpTarget, parse_target

HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True),
    st.ip_addresses().map(str),
)


@given(HOSTS, st.integers(1, 65_535), st.integers(0, 255))
def test_tcp_targets_round_trip(host: str, port: int, unit: int) -> None:
    target = TcpTarget(host, port, unit)
    assert parse_target(str(target)) == target


@given(
    st.from_regex(r"/dev/[A-Za-z0-9/_.-]{1,30}|COM[0-9]", fullmatch=True),
    st.sampled_from(BAUDS),
    st.integers(1, 247),
)
def test_rtu_targets_round_trip(path: str, baud: int, unit: int) -> None:
    target = RtuTarget(path, baud, unit)
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tcp:192.0.2.7:502", TcpTarget("192.0.2.7", 502, 1)),
        ("tcp:[2001:db8::1]:1502/126", TcpTarget("2001:db8::1", 1502, 126)),
        ("rtu:/dev/ttyUSB0@9600", RtuTarget("/dev/ttyUSB0", 9600, 1)),
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
