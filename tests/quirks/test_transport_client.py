"""Our own client meets each transport quirk: it survives, or says what it met.  It never takes a wrong value.

Time is virtual, one bench second each, so the times of the quirks are those of their files.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest
from ridethrough.emulator.quirks.knobs import Quirk, combine
from ridethrough.emulator.quirks.transport import QuirkyServer, TransportKnobs
from ridethrough.hil.device import Device
from ridethrough.hil.files import load_quirk, quirk_names
from ridethrough.hil.modbus_link import TargetError
from ridethrough.hil.target import TcpTarget

from tests.emulator.register_bench import HOME
from tests.quirks.transport_bench import Home, Result, at_home, dialled, knobs, read

TIMEOUT_S = 5.0
POLLS = 40


def home_with(main: Callable[[Home], Awaitable[Result]], *quirks: str | Quirk, seed: int = 5) -> Result:
    found = [load_quirk(quirk) if isinstance(quirk, str) else quirk for quirk in quirks]
    return at_home(main, HOME, combine(found), seed=seed)


async def failure(device: Device) -> str:
    """Return what a poll says that must not succeed."""
    with pytest.raises(TargetError) as caught:
        await device.telemetry()
    return str(caught.value)


def polls(count: int = POLLS, pause_s: float = 0.5) -> Callable[[Home], Awaitable[tuple[int, list[str]]]]:
    """Poll, command now and then, compare all that is read; returns failed polls and all that was said."""

    async def main(home: Home) -> tuple[int, list[str]]:
        failed, said = 0, []
        async with home.device(TIMEOUT_S) as device:
            for k in range(count):
                try:
                    if k % 20 == 19:
                        await device.set_power(50.0 * k, 3600)
                        await asyncio.sleep(5.0)
                    before_w = home.power_w
                    reading = await device.telemetry()
                    assert reading.power_w in (
                        pytest.approx(before_w, abs=5),
                        pytest.approx(home.power_w, abs=5),
                    )
                    energy_wh = float(home.plant.states("energy_j")[0]) / 3600.0
                    assert reading.soc_frac == pytest.approx(energy_wh / HOME.battery.energy_wh, abs=0.01)
                except TargetError as error:
                    failed += 1
                    said.append(str(error))
                await asyncio.sleep(pause_s)
            return failed, [*said, *device.met]

    return main


SURVIVES: dict[str, str] = {
    "busy": r"exception 6, server device busy: it was asked again a little later",
    "drops-pipelined": "",
    "enable-window": "",
    "four-connections": "",
    "idle-silent": "",
    "reconnect-gap": "",
    "replies-in-pieces": "",
    "replies-to-other-client": "",
    "replies-together": "",
    "single-connection": "",
    "single-connection-closes": "",
    "slow-gateway": "",
    "unserved-silent": "",
    "write-multiple-of-one-refused": "",
}
"""Quirks that a lone client with a time-out of 5 s lives with, and what it notes."""

NAMES = {
    "busy-as-failure": r"exception [43], (server device failure|illegal data value)|exception 3 at register",
    "late-reply": r"no answer within 5 s",
    "late-reply-relabelled": r"no answer within 5 s",
    "reset-mid-exchange": r"the device closed the connection",
    "slow-replies": r"no answer within 5 s",
    "truncated-reply": r"the device closed the connection",
    "wrong-transaction-id": r"an answer with transaction id \d+ from unit \d+ came late, twice or unasked",
    "wrong-unit-id": r"an answer with transaction id \d+ from unit (2|102) came late, twice or unasked",
}
"""Quirks that cost such a client single polls, and what it says."""


def test_the_tables_have_every_transport_quirk() -> None:
    transport = {name for name in quirk_names() if load_quirk(name).transport is not None}
    assert set(SURVIVES) | set(NAMES) == transport


@pytest.mark.parametrize("name", SURVIVES)
def test_our_client_lives_with(name: str) -> None:
    failed, said = home_with(polls(), name)
    assert failed == 0
    assert re.search(SURVIVES[name], "\n".join(said))


@pytest.mark.parametrize("name", NAMES)
def test_our_client_says_what_it_met(name: str) -> None:
    failed, said = home_with(polls(2 * POLLS), name)
    assert 1 <= failed < 2 * POLLS
    assert re.search(NAMES[name], "\n".join(said))
    assert home_with(polls(30)) == (0, [])


@pytest.mark.parametrize("name", ["single-connection", "single-connection-closes"])
def test_row_1_another_client_has_the_only_connection(name: str) -> None:
    async def main(home: Home) -> str:
        async with dialled(home.server) as other, home.device(TIMEOUT_S) as device:
            await other.ask(read(40000, 2))
            return await failure(device)

    assert re.search(r"closed the connection .*: another client may be connected", home_with(main, name))


def test_row_5_who_comes_back_too_soon_is_told() -> None:
    async def main(home: Home) -> str:
        async with home.device(TIMEOUT_S) as first:
            await first.telemetry()
        async with home.device(TIMEOUT_S) as second:
            return await failure(second)

    assert "closed the connection before it answered anything" in home_with(main, "reconnect-gap")


def test_row_1_a_client_that_lost_its_connection_gets_a_new_one_after_two_minutes() -> None:
    async def main(home: Home) -> list[bool]:
        found = []
        async with home.device(TIMEOUT_S) as device:
            await device.telemetry()
            await device.__aexit__(None, None, None)
            for _ in range(4):
                try:
                    await device.telemetry()
                    found.append(True)
                except TargetError:
                    found.append(False)
                await asyncio.sleep(50.0)
        return found

    assert home_with(main, "single-connection") == [False, False, False, True]


def test_row_2_a_closed_port_is_named() -> None:
    async def main(home: Home) -> str:
        await asyncio.sleep(121.0)
        async with home.device(TIMEOUT_S) as device:
            return await failure(device)

    assert re.search(
        r"it refused the connection; check that the device is on, its Modbus enabled",
        home_with(main, "enable-window"),
    )


@pytest.mark.parametrize(
    ("name", "pause_s", "how"),
    [("idle-silent", 11.0, "got no answer"), ("four-connections", 7201.0, "(was closed|got no answer)")],
)
def test_rows_3_and_4_an_idle_connection_that_was_dropped_is_named(
    name: str, pause_s: float, how: str
) -> None:
    async def main(home: Home) -> list[str]:
        async with home.device(TIMEOUT_S) as device:
            await device.telemetry()
            home.stop()  # two hours of a home are long
            await asyncio.sleep(pause_s)
            assert (await device.telemetry()).power_w == pytest.approx(home.power_w, abs=5.0)
            return device.met

    said = home_with(main, knobs(idle={"after_s": pause_s - 1, "end": "silent"}) if "got" in how else name)
    assert re.search(rf"idle for {pause_s:.1f} s {how}: the device drops idle connections", "\n".join(said))


@pytest.mark.parametrize(
    ("name", "text"), [("absent-unit-silent", "no answer within 5 s"), ("absent-unit-failure", "exception 4")]
)
def test_row_6_a_unit_that_is_not_there_is_named(name: str, text: str) -> None:
    async def main(home: Home) -> str:
        async with Device(TcpTarget(home.server.host, home.server.port, 9), TIMEOUT_S) as device:
            return await failure(device)

    assert text in home_with(main, name)


def test_row_41_a_device_that_hangs_is_silent_to_our_client() -> None:
    async def main(home: Home) -> tuple[str, float]:
        async with home.device(TIMEOUT_S) as device:
            await device.telemetry()
            with pytest.raises(TargetError) as caught:
                await device.set_power(1000.0, 600)  # several writes within two seconds
            await asyncio.sleep(60.0)
            return str(caught.value), (await device.telemetry()).soc_frac

    said, soc_frac = home_with(main, "hangs-when-written-fast")
    assert re.search(r"writing 704\..*: no answer within 5 s", said)
    assert soc_frac == pytest.approx(0.6, abs=0.02)


def test_c10_a_command_without_a_reply_is_not_repeated() -> None:
    async def main(home: Home) -> tuple[str, int]:
        async with home.device(TIMEOUT_S) as device:
            await device.telemetry()
            assert isinstance(home.server, QuirkyServer)
            home.server.knobs = TransportKnobs.model_validate({"reset": {}})  # from now on
            before = device.requests
            with pytest.raises(TargetError) as caught:
                await device.set_power(1000.0, 600)
            return str(caught.value), device.requests - before

    said, requests = home_with(main, knobs(drops_pipelined=True))
    assert re.search(r"writing 704\..*: the device closed the connection", said)
    assert requests <= 2  # at most a read in front of the one write
