"""Every kind of target: serial lines and what disturbs them, RTU over TCP, ASCII, TLS."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerAscii, FramerRTU, FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.cli_device import read_points
from ridethrough.hil.device import Device
from ridethrough.hil.device_scan import scan
from ridethrough.hil.modbus_frames import sift
from ridethrough.hil.modbus_link import Link, TargetError
from ridethrough.hil.modbus_transport import TlsFiles, make_client
from ridethrough.hil.target import AsciiTarget, RtuOverTcpTarget, RtuTarget, TcpTarget

from tests.hil.device_bench import TIMEOUT_S, Box, Peer, Registers, der, hang_up, run, serial_line

PKI = Path(str(files("sunspec2"))) / "tests" / "tls_data"
"""pysunspec2 brings certificates for tests: a device's, clients' with roles, and bad ones."""


def rtu(unit: int, body: bytes) -> bytes:
    frame = bytes((unit,)) + body
    return frame + FramerRTU.compute_CRC(frame).to_bytes(2)


def ascii_line(unit: int, body: bytes) -> bytes:
    data = bytes((unit,)) + body
    return b":" + (data + bytes((FramerAscii.compute_LRC(data),))).hex().upper().encode() + b"\r\n"


def foreign() -> SimDevice:
    """Return a hand-made map for the servers of pymodbus."""
    words = Registers(der()).words
    return SimDevice(
        7, simdata=[SimData(40000, values=[words[k] for k in sorted(words)], datatype=DataType.REGISTERS)]
    )


async def use(target: str) -> None:
    """Poll, command and scan; nothing of ours is on the other side."""
    async with Device(target, 5.0, meter_units=()) as device:
        assert (await device.discover()).identity.serial == "007"
        assert (await device.telemetry()).power_w == 1500.0
        assert await device.set_power(-1250.0, 60) == -1250.0
        assert await device.read_point("704.WSet") == -1250
        await device.release()
        assert device.met == []


# Targets on foreign servers.


@pytest.mark.parametrize("options", ["", ",N", ",N,2"])
def test_a_serial_line_with_any_stop_bits(options: str) -> None:
    async def test() -> None:
        async with serial_line() as (near, far):
            server = ModbusSerialServer(foreign(), port=far, baudrate=115200)
            assert await server.listen()
            try:
                await use(f"rtu:{near}@115200{options}/7")
            finally:
                await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus says no type
                await asyncio.sleep(0)

    run(test())


def test_ascii_on_a_serial_line() -> None:
    async def test() -> None:
        async with serial_line() as (near, far):
            server = ModbusSerialServer(foreign(), port=far, baudrate=115200, framer=FramerType.ASCII)
            assert await server.listen()
            try:
                await use(f"ascii:{near}@115200/7")
            finally:
                await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus says no type
                await asyncio.sleep(0)

    run(test())


def test_rtu_over_tcp() -> None:
    async def test() -> None:
        server = ModbusTcpServer(foreign(), address=("127.0.0.1", 0), framer=FramerType.RTU)
        assert await server.listen()
        try:
            port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # it listens
            await use(f"rtu+tcp:127.0.0.1:{port}/7")
            async with Device(f"tcp:127.0.0.1:{port}/7", TIMEOUT_S) as device:
                with pytest.raises(TargetError, match="no answer within"):
                    await device.discover()
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus says no type
            await asyncio.sleep(0)

    run(test())


@pytest.mark.parametrize(
    ("target", "bits", "parity"),
    [
        (RtuTarget("x", 9600, parity="E"), 8, "E"),
        (RtuTarget("x", 9600, parity="O"), 8, "O"),
        (AsciiTarget("x", 9600, parity="E"), 7, "E"),
        (AsciiTarget("x", 9600), 8, "N"),
    ],
)
def test_a_port_is_opened_as_the_target_says(target: RtuTarget | AsciiTarget, bits: int, parity: str) -> None:
    async def test() -> None:
        client = make_client(target, None, 1.0, lambda _, data: data, lambda _: None, lambda _: None)
        opened = client.comm_params
        assert (opened.host, opened.baudrate, opened.bytesize, opened.parity) == ("x", 9600, bits, parity)

    run(test())


def test_a_port_that_cannot_do_what_is_asked_is_an_error() -> None:
    """A pseudo-terminal has no 7 data bits; what termios raises then is no OSError."""

    async def test() -> None:
        async with serial_line() as (near, _):
            link = Link(AsciiTarget(near, 9600, parity="E"), TIMEOUT_S)
            with pytest.raises(TargetError, match=r"does not take these settings|no answer"):
                await link.read(1, 7, 1, "x")
            await link.close()

    run(test())


# What disturbs a line.


Answerer = Callable[[bytes], list[tuple[float, bytes]]]
"""Frames that follow a request, each after a delay [s]."""


@asynccontextmanager
async def disturbed(*answers: Answerer) -> AsyncIterator[Link]:
    """Answer the requests on a serial line as told, byte by byte."""
    loop = asyncio.get_running_loop()
    left = list(answers)
    async with serial_line() as (near, far):
        link = Link(RtuTarget(near, 9600), TIMEOUT_S)
        port = os.open(far, os.O_RDWR | os.O_NONBLOCK)

        def on_request() -> None:
            for delay_s, frame in left.pop(0)(os.read(port, 256)):
                loop.call_later(delay_s, os.write, port, frame)

        loop.add_reader(port, on_request)
        try:
            yield link
        finally:
            loop.remove_reader(port)
            await link.close()
            os.close(port)


GOOD = rtu(1, b"\3\2\0\x2a")


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([(0.0, b"\0" + GOOD)], "1 bytes in front of an answer are not part of it"),
        ([(0.0, rtu(9, b"\3\2\0\7")), (0.05, GOOD)], "an answer of unit 9 came, which was not asked"),
        ([(0.0, GOOD[:3]), (0.05, GOOD[3:])], ""),
    ],
)
def test_an_answer_is_found_behind_noise_and_the_answers_of_others(
    frames: list[tuple[float, bytes]], words: str
) -> None:
    async def test() -> None:
        async with disturbed(lambda _: frames) as link:
            assert await link.read(1, 7, 1, "x") == [42]
            assert [words in text for text in link.met] == ([True] if words else [])

    run(test())


def test_a_wrong_checksum_is_an_error_at_once() -> None:
    async def test() -> None:
        async with disturbed(lambda _: [(0.0, GOOD[:-1] + b"\0")], lambda _: [(0.0, GOOD)]) as link:
            with pytest.raises(
                TargetError, match="checksum is wrong: noise, or another speed or parity"
            ) as caught:
                await link.read(1, 7, 1, "x")
            assert not caught.value.silent
            assert await link.read(1, 7, 1, "x") == [42]

    run(test())


def test_a_late_answer_on_a_line_is_let_pass_and_named() -> None:
    async def test() -> None:
        late = [(1.5 * TIMEOUT_S, rtu(1, b"\3\2\x53\x75"))]
        async with disturbed(lambda _: late, lambda _: [(0.0, GOOD)]) as link:
            with pytest.raises(TargetError, match="no answer"):
                await link.read(1, 7, 1, "x")
            assert await link.read(1, 7, 1, "x") == [42]
            assert link.met == [
                "an answer came when nothing was asked: after its time-out, twice, or unasked"
            ]

    run(test())


def test_a_late_answer_through_a_converter_is_let_pass_on_the_new_connection() -> None:
    """The line behind a converter is the same line, whatever happens to the connection in front of it."""

    async def test() -> None:
        writers: list[asyncio.StreamWriter] = []
        requests: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            while request := await reader.read(100):
                requests.append(request)
                if len(requests) == 2:
                    writer.write(GOOD)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            link = Link(RtuOverTcpTarget("127.0.0.1", port), TIMEOUT_S)
            with pytest.raises(TargetError, match="no answer"):
                await link.read(1, 7, 1, "x")
            asyncio.get_running_loop().call_later(
                0.3 * TIMEOUT_S, lambda: writers[-1].write(rtu(1, b"\3\2\x53\x75"))
            )
            assert await link.read(1, 7, 1, "x") == [42]
            assert len(requests) == len(writers) == 2
            await link.close()
            await asyncio.sleep(0.05)

    run(test())


# Judging frames.

ASKED = rtu(1, b"\3\0\7\0\1")
ASKED_LINE = ascii_line(1, b"\3\0\7\0\1")


@given(st.binary(max_size=40), st.binary(max_size=3))
def test_any_bytes_on_a_line_are_judged(noise: bytes, tail: bytes) -> None:
    found = sift("rtu", ASKED, noise)
    assert found.passed == b"" or found.passed in noise
    if 1 not in noise:  # nothing in it can be taken for the beginning of an answer
        assert sift("rtu", ASKED, noise + GOOD).passed in (GOOD, b"")
        assert sift("rtu", ASKED, GOOD + tail).passed == GOOD
    line = sift("ascii", ASKED_LINE, noise)
    assert line.passed == b"" or line.passed in noise
    assert sift("ascii", ASKED_LINE, noise + ascii_line(1, b"\3\2\0\x2a")).passed != b""


@given(st.integers(0, 6), st.integers(1, 255))
def test_a_frame_with_a_wrong_byte_never_passes(place: int, change: int) -> None:
    wrong = bytearray(GOOD)
    wrong[place] ^= change
    assert sift("rtu", ASKED, bytes(wrong)).passed == b""


@pytest.mark.parametrize(
    ("line", "fault", "stray"),
    [
        (b":01030200zzD0\r\n", "is no line of hexadecimal digits", ""),
        (b":0103020\r\n", "is no line of hexadecimal digits", ""),
        (b":0103 02002AD1\r\n", "checksum is wrong", ""),
        (b":01030200\xff\xff\r\n", "is no line of hexadecimal digits", ""),
        (b":\r\n", "checksum is wrong", ""),
        (ascii_line(1, b"\3\2\0\x2a")[:-4] + b"00\r\n", "checksum is wrong", ""),
        (ascii_line(9, b"\3\2\0\x2a"), "", "an answer of unit 9 came"),
        (ascii_line(1, b"\4\2\0\x2a"), "answered with function 4", ""),
        (ascii_line(1, b"\3\2\0\x2a")[:-1], "", ""),
        (b"\r\n\r\n", "", ""),
    ],
)
def test_a_line_of_ascii_is_judged(line: bytes, fault: str, stray: str) -> None:
    found = sift("ascii", ASKED_LINE, line)
    assert fault in found.fault
    assert stray in found.stray
    assert bool(found.fault) == bool(fault)
    assert found.passed == b"" or fault


# TLS.


def secured(cert: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return the context of a device that asks for a certificate and does not look at roles."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(PKI / "server" / f"{cert}.crt", PKI / "server" / f"{cert}.key")
    context.load_verify_locations(PKI / "ca" / "client_ca_chain.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def ours(client: str = "tls1_2/client_gridservice", ca: str = "ca/server_ca_chain.crt") -> TlsFiles:
    return TlsFiles(PKI / "client" / f"{client}.crt", PKI / "client" / f"{client}.key", PKI / ca)


def tls_test(context: ssl.SSLContext, tls: TlsFiles) -> str:
    """Use a device behind TLS; returns why that failed, empty when it did not."""
    told: list[str] = []

    async def test() -> None:
        async with Peer(default=Box(Registers(der())), tls=context) as peer:
            target = f"tls:localhost:{peer.port}/1"
            async with Device(target, 5.0, meter_units=(), tls=tls) as device:
                try:
                    await device.discover()
                    assert (await device.telemetry()).power_w == 1500.0
                    assert await device.set_power(1000.0, 60) == 1000.0
                    report = await scan(target, tls=tls)
                    assert [model.entry.id for model in report.models][:2] == [1, 701]
                except TargetError as error:
                    told.append(str(error))
            await asyncio.sleep(0.05)

    run(test())
    return told[0] if told else ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_device_behind_tls_is_used_with_the_header_of_modbus_tcp(version: ssl.TLSVersion) -> None:
    folder = "tls1_2" if version == ssl.TLSVersion.TLSv1_2 else "tls1_3"
    assert tls_test(secured(f"{folder}/server_valid", version), ours(f"{folder}/client_gridservice")) == ""


@pytest.mark.parametrize(
    ("cert", "words"),
    [
        ("invalid/server_expired", "its certificate is not accepted: certificate has expired"),
        ("invalid/server_foreign_ca", "its certificate is not accepted: unable to get"),
        ("invalid/server_self_signed", "its certificate is not accepted: self"),
        ("invalid/server_no_san", "its certificate is not accepted: Hostname mismatch"),
    ],
)
def test_a_device_with_a_bad_certificate_is_refused_with_the_reason(cert: str, words: str) -> None:
    found = tls_test(secured(cert, ssl.TLSVersion.TLSv1_2), ours())
    assert words in found
    assert "check that" in found


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("client", ["invalid/client_foreign_ca", "invalid/client_expired"])
def test_a_device_that_does_not_accept_our_certificate_is_named(client: str, version: ssl.TLSVersion) -> None:
    found = tls_test(secured("tls1_2/server_valid", version), ours(client))
    assert "certificate" in found, found


def test_a_device_without_tls_is_named() -> None:
    async def test() -> None:
        async with (
            Peer(default=hang_up) as peer,
            Device(f"tls:localhost:{peer.port}", TIMEOUT_S, tls=ours()) as device,
        ):
            with pytest.raises(
                TargetError,
                match=r"no connection within|no TLS connection|it closed the connection while",
            ):
                await device.discover()

    run(test())


def test_files_that_cannot_be_used_are_the_users_error(tmp_path: Path) -> None:
    good = ours()
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for wrong, words in (
        (
            TlsFiles(tmp_path / "none.crt", good.key, good.ca),
            "tls cert: .*none.crt' found; allowed is a PEM file",
        ),
        (TlsFiles(good.cert, good.key, text), "tls ca: .*text.pem' cannot be used"),
        (TlsFiles(good.cert, text, good.ca), "tls cert, key: .* cannot be used"),
        (
            TlsFiles(good.cert, ours("tls1_2/client_readonly").key, good.ca),
            "tls cert, key: .* a certificate and its",
        ),
    ):
        with pytest.raises(ScenarioError, match=words):
            Device("tls:localhost:802", tls=wrong)
    with pytest.raises(ScenarioError, match=r"target 'tls:localhost:802/1': needs certificate, key and CA"):
        Device("tls:localhost")
    with pytest.raises(ScenarioError, match="takes no certificate"):
        Link(TcpTarget("localhost", 502), 1.0, tls=good)


def test_the_commands_take_the_files_as_options(capsys: pytest.CaptureFixture[str]) -> None:
    cert, key, ca = (Path(path) for path in (ours().cert, ours().key, ours().ca))

    def read(target: str) -> None:
        read_points(target, ["713.SoC"], cert=cert, key=key, ca=ca)

    async def test() -> None:
        context = secured("tls1_2/server_valid", ssl.TLSVersion.TLSv1_2)
        async with Peer(default=Box(Registers(der())), tls=context) as peer:
            await asyncio.to_thread(read, f"tls:localhost:{peer.port}")

    run(test())
    assert capsys.readouterr().out.split() == ["713.SoC", "50.0"]
    with pytest.raises(ScenarioError, match="--cert found; allowed are --cert, --key and --ca together"):
        read_points("tls:localhost", ["713.SoC"], cert=cert)
    with pytest.raises(ScenarioError, match=r"takes no certificate, key and CA \(--cert, --key, --ca\)"):
        read("tcp:localhost:502")
