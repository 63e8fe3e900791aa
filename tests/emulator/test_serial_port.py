"""Ports by name, ports that cannot be had, ports that disappear, and options that are refused."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import serial  # type: ignore[import-untyped]  # pyserial publishes no types
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.serial_line import serve_serial
from ridethrough.emulator.serial_port import pty_pair

from tests.emulator.loops import either_loop, run
from tests.emulator.serial_bench import ASCII_GOOD, ASCII_GOOD_REPLY, FAST, WAIT_S, Memory, Wire

pytestmark = pytest.mark.usefixtures(either_loop.__name__)


@asynccontextmanager
async def foreign_port() -> AsyncIterator[tuple[Wire, str]]:
    """A port that is not the line's own: the other end of somebody's pseudo terminal."""
    master, slave, path = pty_pair()
    os.set_blocking(master, False)
    os.close(slave)
    wire = Wire(master)
    wire.loop.remove_reader(master)  # nobody has opened the other end yet
    try:
        yield wire, path
    finally:
        if wire.fd == master:
            wire.loop.remove_reader(master)
            os.close(master)


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
def test_a_port_by_its_name(framing: Any) -> None:
    async def main() -> None:
        async with foreign_port() as (wire, path):
            line = await serve_serial({1: Memory()}, path, 9600, framing=framing)
            wire.loop.add_reader(wire.fd, wire.read)
            assert (line.path, line.baud, line.emulate_speed) == (path, 9600, True)
            if framing == "rtu":
                await wire.ask()
            else:
                await wire.ask(ASCII_GOOD, ASCII_GOOD_REPLY)
            wire.loop.remove_reader(wire.fd)
            await line.close()

    run(main())


def test_a_port_that_disappears_ends_the_line_with_a_cure() -> None:
    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with foreign_port() as (wire, path):
            line = await serve_serial({1: Memory()}, path, FAST)
            wire.loop.add_reader(wire.fd, wire.read)
            await wire.ask()
            wire.loop.remove_reader(wire.fd)
            os.close(wire.fd)
            wire.fd = -1
            await asyncio.wait_for(line.wait_closed(), WAIT_S)
        assert "disappeared" in told[0]["message"]
        with pytest.raises(ScenarioError, match=r"disappeared .* plug it in again"):
            await line.close()

    run(main())


def test_two_servers_do_not_share_a_port() -> None:
    async def main() -> None:
        async with foreign_port() as (_, path), await serve_serial({1: Memory()}, path, FAST):
            with pytest.raises(ScenarioError, match="another program holds it"):
                await serve_serial({1: Memory()}, path, FAST)

    run(main())


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        ("/dev/no-such-port", "there is no such port"),
        ("/dev/null", "it is no serial port"),
        (__file__, "it is no serial port"),
        ("", "name a port"),
        ("/dev/no\0port", "name a port"),
    ],
)
def test_ports_that_cannot_be_had_are_refused_with_a_cure(path: str, cure: str) -> None:
    async def main() -> None:
        with pytest.raises(ScenarioError, match=cure):
            await serve_serial({1: Memory()}, path, 9600)

    run(main())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"baud": 0}, "baud: 0 found"),
        ({"baud": "9600"}, "baud: '9600' found"),
        ({"baud": True}, "baud: True found"),
        ({"parity": "X"}, "parity: 'X' found; allowed are 'N', 'E', 'O'"),
        ({"stopbits": 3}, "stopbits: 3 found"),
        ({"stopbits": True}, "stopbits: True found"),
        ({"framing": "tcp"}, "framing: 'tcp' found"),
        ({"bytesize": 7}, "bytesize: 7 found"),
        ({"framing": "ascii", "bytesize": 6}, "bytesize: 6 found"),
        ({"turnaround_s": -1.0}, "turnaround_s: -1.0 found"),
        ({"turnaround_s": float("nan")}, "turnaround_s: nan found"),
        ({"latency_s": 11}, "latency_s: 11 found"),
        ({"units": {}}, "units"),
        ({"units": {0: Memory()}}, "unit id 0 found"),
        ({"units": {248: Memory()}}, "unit id 248 found"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], names: str) -> None:
    async def main() -> None:
        arguments: dict[str, Any] = {"units": {1: Memory()}, "path": "pty", "baud": 9600} | options
        with pytest.raises(ScenarioError, match=names):
            await serve_serial(**arguments)

    run(main())


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (serial.SerialException(errno.EACCES, "could not open port"), "join the group that owns it"),
        (serial.SerialException(errno.EBUSY, "could not open port"), "another program holds it"),
        (serial.SerialException("Could not configure port: (22, 'Invalid argument')"), "take a speed it has"),
        (ValueError("Failed to set custom baud rate (123456): [Errno 22]"), "take a speed it has"),
        (serial.SerialException(errno.EIO, "could not open port"), "Input/output error; check the cable"),
    ],
)
def test_what_a_port_may_answer_has_a_cure(
    error: Exception, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real port's refusals, given by a stand-in: no machine here has a port that gives them all."""

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    async def main() -> None:
        monkeypatch.setattr(serial, "Serial", refuse)
        with pytest.raises(ScenarioError, match=f"'/dev/ttyUSB7' at 123456 Bd: .*{cure}"):
            await serve_serial({1: Memory()}, "/dev/ttyUSB7", 123_456)

    run(main())
