"""Every product family over TCP, and our client: right values, or words that name what is wrong.

Time is virtual, one bench second each, so the times of the quirks are those of their files.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass

import pytest
from ridethrough.emulator.quirks.knobs import combine
from ridethrough.hil.device import Device
from ridethrough.hil.files import family_names, load_family, load_profile, load_quirk
from ridethrough.hil.modbus_link import TargetError
from ridethrough.hil.readings import Reading

from tests.quirks.transport_bench import Home, at_home

ATTEMPTS = 40
POWER_W = 1000.0


@dataclass(frozen=True)
class Expected:
    """What our client makes of a family.

    Attributes
    ----------
    command : str
        Why a command is not carried out, as a pattern; empty if it is.
    texts : tuple of str
        Patterns that warnings, notes or errors must show.
    power : str
        What it reads as power: the ``right`` one, ``unknown``, or that of the ``grid``.
    fails : bool
        Single polls may fail, with one of the texts.
    """

    command: str = ""
    texts: tuple[str, ...] = ()
    power: str = "right"
    fails: bool = False


LAG = (
    r"exception [43], |is gone: exception 3 |no answer within 10 s|the device closed the connection"
    r"|the map has changed"
)
EXPECTED = {
    "acknowledges-and-discards": Expected(),
    "both-number-families": Expected(
        texts=(r"no end model behind model 802", r"models 103 and 113 tell the same: 103 is used")
    ),
    "countdown-does-nothing": Expected(),
    "dongle-that-lags": Expected(texts=(LAG,), fails=True),
    "every-unit-id": Expected(
        texts=(r"no meter found: unit 0 answers as the same device, serial 'D000000'",), power="grid"
    ),
    "float-and-switch": Expected(
        texts=(r"124.InOutWRte_RvrtTms .* is 3600 s before any command of ours: a timer that another",)
    ),
    "holes-and-write-only": Expected(
        command=r"writing 124.OutWRte .*: no answer within 10 s",
        texts=(r"no end model behind model 124", r"it refuses function 6 .*; function 16 is used"),
    ),
    "last-command-for-ever": Expected(),
    "locked-until-allowed": Expected(
        command=r"writing 704.WSetEnaRvrt .* control by Modbus may have to be enabled on it first",
        texts=(r"the end model \(register 41421\) has no length",),
    ),
    "micro-inverter-gateway": Expected(
        command=r"it has no revert timer: the command would have no end", texts=(r"no meter found",)
    ),
    "one-control-of-two": Expected(power="unknown"),
    "rounds-down": Expected(),
    "serial-gateway": Expected(
        texts=(
            r"an answer with transaction id \d+ from unit 1 came late, twice or unasked",
            r"no answer within 10 s",
        ),
        fails=True,
    ),
    "silent-where-nothing-is": Expected(
        texts=(r"no end model behind model 802 \(register 41631\): the device is silent there",)
    ),
    "single-connection": Expected(
        texts=(
            r"model 1 \(register 2\) states length 65, its definition 66",
            r"2 common models: what follows the second belongs to another device",
        )
    ),
    "sleeps-at-night": Expected(),
    "slow-and-busy": Expected(
        command=r"124.InWRte .*: acknowledged and discarded|no answer within 10 s",
        texts=(r"exception 6, server device busy: it was asked again",),
        fails=True,
    ),
    "timer-rearmed-by-anyone": Expected(
        texts=(
            r"124.StorCtl_Mod .* is 2 before any command of ours: a command from before is still in force",
            r"124.InOutWRte_RvrtTms .* is 3600 s before any command of ours: a timer that another",
        )
    ),
    "unit-126-no-end": Expected(
        command=r"exception 4, .*some devices answer so while control by Modbus is disabled",
        texts=(r"no end model behind model 802",),
    ),
    "walking-scale-factors": Expected(
        command=r"124.InWRte .* acknowledged and discarded: the device holds what it held before",
        texts=(r"an empty frame",),
        fails=True,
    ),
}


def test_the_table_has_every_family() -> None:
    assert set(EXPECTED) == set(family_names())
    assert len(EXPECTED) >= 12


async def polled(device: Device, said: list[str]) -> Reading:
    """Return the next good reading; notes what went wrong before it."""
    for _ in range(ATTEMPTS):
        try:
            return await device.telemetry()
        except TargetError as error:
            said.append(str(error))
            await asyncio.sleep(2.0)
    raise AssertionError(f"never a reading: {said}")


def check(reading: Reading, home: Home, expected: Expected) -> None:
    """Compare a reading with the plant."""
    assert reading.soc_frac == pytest.approx(0.61, abs=0.02)  # of the usable or of the whole energy
    if expected.power == "unknown":
        assert math.isnan(reading.power_w)
    elif expected.power == "grid":
        assert reading.power_w == pytest.approx(home.power_w - 500.0, abs=5.0)
    else:
        assert reading.power_w == pytest.approx(home.power_w, abs=5.0)


@pytest.mark.parametrize("name", EXPECTED)
def test_our_client_reads_and_commands_a_family_or_says_what_is_wrong(name: str) -> None:
    family, expected = load_family(name), EXPECTED[name]
    profile = family.dress(load_profile(family.device))
    quirks = combine(load_quirk(quirk) for quirk in family.quirks)
    errors: list[str] = []

    async def main(home: Home) -> list[str]:
        async with home.device() as device:
            for _ in range(12 if expected.fails else 3):
                check(await polled(device, errors), home, expected)
                await asyncio.sleep(1.5)
            before_w, refused = home.power_w, ""
            try:
                written_w = await device.set_power(POWER_W, 600)
            except TargetError as error:
                refused = str(error)
            if expected.command:
                assert re.search(expected.command, refused)
            elif refused:  # by what makes polls fail too
                assert expected.fails
                errors.append(refused)
            else:
                await asyncio.sleep(9.0)
                assert written_w == pytest.approx(POWER_W, abs=1.0)
                assert home.power_w == pytest.approx(written_w, abs=1.0)
                assert home.power_w != pytest.approx(before_w, abs=100.0)
                check(await polled(device, errors), home, expected)
            warnings = (await discovered(device)).split("\n") if not expected.fails else []
            return [*warnings, *device.met]

    said = at_home(main, profile, quirks)
    assert expected.fails or not errors
    for error in errors:
        assert any(re.search(text, error) for text in expected.texts) or "hung" in error, error
    for text in expected.texts:
        assert any(re.search(text, one) for one in (*said, *errors)), (text, said, errors)


async def discovered(device: Device) -> str:
    """Return the warnings of a discovery, line by line."""
    try:
        return "\n".join((await device.discover()).warnings)
    except TargetError:  # a device that hangs after a command has said so before
        return ""
