"""Our own client meets every bundled quirk: it survives or names it, and takes no wrong value in silence.

Each quirk has one row.  What registers cannot tell must be told by capability discovery, at the power.
A quirk that nobody tells is listed with the reason; the list may only become shorter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

import pytest
from ridethrough.emulator.quirks.knobs import Quirks, combine
from ridethrough.hil.files import load_quirk, quirk_names
from ridethrough.hil.modbus_link import TargetError

from tests.hil.device_bench import Box, Registers, boxed, der, run
from tests.quirks.client_bench import (
    BOTH,
    HOUR_S,
    NEW,
    OLD,
    Circumstances,
    Story,
    examined,
    visited,
)

DUSK_S, DAWN_S, MIDNIGHT_S = 21 * HOUR_S, 6 * HOUR_S, 24 * HOUR_S


@dataclass(frozen=True)
class Row:
    """What our client does before a quirk.

    Attributes
    ----------
    text : str
        What must be said, a regular expression; empty where there is nothing to say.
    troubles : str
        What may go wrong on the way, a regular expression for each trouble; empty: nothing.
    at : Circumstances
    """

    text: str = ""
    troubles: str = ""
    at: Circumstances = field(default_factory=Circumstances)


SURVIVES: dict[str, Row] = {
    "absent-unit-failure": Row(),
    "absent-unit-silent": Row(),
    "base-0": Row(),
    "base-50000": Row(),
    "busy": Row(r"exception 6, server device busy: it was asked again a little later"),
    "counter-resets": Row(at=Circumstances(warm_s=HOUR_S - 20)),
    "counter-runs-backwards": Row(),
    "dc-power-inverted": Row(),
    "drops-pipelined": Row(),
    "enable-window": Row(),
    "energy-of-today": Row(at=Circumstances(start_of_day_s=MIDNIGHT_S - 20)),
    "float-models": Row(at=Circumstances(OLD)),
    "four-connections": Row(),
    "heartbeat-zero": Row(),
    "hole-in-model": Row(r"123\.VArMaxPct \(register \d+\): the device refuses to show it"),
    "limit-only-in-704": Row(),
    "locremctl-local": Row(),
    "meter-unit-200": Row(),
    "model-123-mislabelled": Row(),
    "port-1502": Row(),
    "reconnect-gap": Row(),
    "replies-in-pieces": Row(),
    "replies-to-other-client": Row(),
    "replies-together": Row(),
    "single-connection": Row(),
    "single-connection-closes": Row(),
    "slow-gateway": Row(),
    "soc-blank-at-wake-up": Row(
        troubles=r"soc_frac unknown (\d|[1-6]\d) times", at=Circumstances(start_of_day_s=DAWN_S + 10)
    ),
    "storage-status-always-ok": Row(),
    "timer-rem-stuck": Row(),
    "unit-id-126": Row(),
    "unit-id-71": Row(),
    "unserved-silent": Row(),
    "value-before-enable-lost": Row(),
    "value-waits-for-enable": Row(),
    "voltage-ffff": Row(),
    "write-multiple-of-one-refused": Row(),
    "write-single-refused": Row(r"it refuses function 6 \(write one register\); function 16 is used"),
}
"""Everything is right, or unknown where the device tells nothing: polls, commands and their end, reserves."""

FOLLOWS_NOT = r"it holds a command of -?\d+ W and gives {} W, \d+ s after it"
STAYS = r"a command of 1500 W ended \d+ s ago by its own timer, and it still gives 1500 W"
ASTRAY = r"held|gives"

NAMED: dict[str, Row] = {
    "ack-discard": Row(
        r"704\.WMaxLimPctEna \(register \d+\): acknowledged and discarded",
        at=Circumstances(points=(("704.WMaxLimPctEna", 1),)),
    ),
    "ack-discard-everything": Row(
        r"704\.WSetRvrtTms .* acknowledged and discarded", r"command failed 4 times", Circumstances(NEW)
    ),
    "ack-discard-sometimes": Row(
        r"704\.WSet .* acknowledged and discarded", r"command failed \d", Circumstances(seed=1)
    ),
    "acts-after-minutes": Row(FOLLOWS_NOT.format(0), ASTRAY),
    "alias-units": Row(
        r"unit 2 answers as the same device as unit 1, .* it must not be counted twice", r"import_w unknown"
    ),
    "busy-as-failure": Row(
        r"exception 4, server device failure|exception 3 at register",
        r"poll failed \d",
        Circumstances(seed=1),
    ),
    "command-left-behind": Row(
        r"124\.StorCtl_Mod \(register \d+\) is 2 before any command of ours: a command from before is still",
        ASTRAY,
    ),
    "command-survives": Row(STAYS, ASTRAY),
    "common-65": Row(r"model 1 \(register \d+\) states length 65, its definition 66"),
    "control-disabled": Row(
        r"control by Modbus is disabled", r"(command|reserve|release) failed", Circumstances(NEW)
    ),
    "control-disabled-address": Row(
        r"exception 2, .*control by Modbus is disabled", r"(command|reserve|release) failed"
    ),
    "control-disabled-failure": Row(
        r"exception 4, .*control by Modbus is disabled", r"(command|reserve|release) failed"
    ),
    "end-id-only": Row(r"the end model \(register \d+\) has no length"),
    "flash-wears-out": Row(
        r"writing 704\.WSetEnaRvrt .*exception 4, server device failure",
        r"(command|reserve|release) failed",
        Circumstances(NEW, flash_writes=99_998),
    ),
    "float-switch": Row(
        r"model 701 is gone: .* the map has changed",
        r"poll failed 1 times",
        Circumstances(warm_s=HOUR_S - 20),
    ),
    "grid-charge-capped": Row(FOLLOWS_NOT.format(-500), ASTRAY, Circumstances(OLD)),
    "hangs-when-written-fast": Row(
        r"writing 704\.\w+ .*no answer within 5 s",
        r"(command|poll|reserve|release) failed",
        Circumstances(NEW),
    ),
    "idle-silent": Row(
        r"idle for \d+\.\d s got no answer: the device drops idle connections", r"release failed 1 times"
    ),
    "int-and-float": Row(r"models 101 and 111 tell the same: 101 is used"),
    "late-reply": Row(r"no answer within 5 s", r"(poll|scan|discover|release) failed [1-4]"),
    "late-reply-relabelled": Row(r"no answer within 5 s", r"(poll|scan|discover|release) failed [1-4]"),
    "limit-before-mode-lost": Row(
        r"124\.InWRte \(register \d+\): wrote -2400.*acknowledged and discarded",
        r"command failed 1 times",
        Circumstances(OLD),
    ),
    "limit-enable-reads-zero": Row(
        r"123\.WMaxLim_Ena \(register \d+\): acknowledged and discarded",
        at=Circumstances(points=(("123.WMaxLimPct", 100), ("123.WMaxLim_Ena", 1))),
    ),
    "limit-shown-not-in-force": Row(
        r"123\.WMaxLim_Ena \(register \d+\) is 1 before any command of ours: .*WMaxLimPct 30\.0"
    ),
    "limit-write-only": Row(
        r"123\.WMaxLimPct \(register \d+\): write-only point",
        at=Circumstances(points=(("123.WMaxLimPct", 100),)),
    ),
    "local-control-overrides": Row(FOLLOWS_NOT.format(0), ASTRAY, Circumstances(warm_s=590)),
    "local-limit-overrides": Row(FOLLOWS_NOT.format(1000), ASTRAY),
    "meter-absent": Row(r"no meter found", r"import_w unknown"),
    "meter-in-same-map": Row(r"2 common models: what follows the second belongs to another device"),
    "model-length-changes": Row(
        r"the map has changed",
        r"(poll failed [1-9]|command failed 1|reserve failed 1) times",
        Circumstances(start_of_day_s=DUSK_S - 15),
    ),
    "models-gone-after-update": Row(
        r"the map has changed while running: of its models are no longer served 704",
        r"(poll|command|release) failed",
        Circumstances(NEW, warm_s=HOUR_S - 20),
    ),
    "models-vanish-at-night": Row(
        r"model 701 is gone \(register \d+\): the device does not serve it at the moment",
        r"(poll|command|release) failed",
        Circumstances(start_of_day_s=DUSK_S - 15),
    ),
    "nameplate-overflow": Row(
        r"702\.WMax \(register \d+\) is 412\.48 W and 124\.WChaMax .*scale factor of one of the two",
        r"command failed|rating told 412",
    ),
    "nightly-reset": Row(
        r"an empty frame came for registers",
        r"(poll|command|reserve|release) failed|unknown",
        Circumstances(start_of_day_s=MIDNIGHT_S - 20),
    ),
    "no-end-model": Row(r"no end model behind model 802 \(register \d+\)"),
    "null-frames": Row(
        r"an empty frame came for registers \d+ to \d+", r"poll failed \d|ratings failed", Circumstances(OLD)
    ),
    "power-in-tens": Row(
        r"124\.OutWRte \(register \d+\): rounded by the device: wrote -2468, it holds -2460",
        at=Circumstances(OLD),
    ),
    "reserve-below-five-ignored": Row(
        r"124\.MinRsvPct .*wrote 300, the device holds 2000 .*discarded",
        r"reserve failed 1",
        Circumstances(OLD),
    ),
    "reserve-charges-from-grid": Row(FOLLOWS_NOT.format(-500), ASTRAY, Circumstances(reserves=(0.7,))),
    "reserve-rejected": Row(r"writing 802\.SoCRsvMin .*rejects a documented point", r"reserve failed 2"),
    "reserve-reset-by-mode": Row(
        r"124\.MinRsvPct \(register \d+\): a reserve of 30\.0% was set and is 20\.0% after a power command",
        at=Circumstances(OLD),
    ),
    "reserve-rounded-down": Row(
        r"802\.SoCRsvMin .*wrote \d+, the device holds \d+ .*rounded or clipped", r"reserve failed"
    ),
    "reserve-unreadable": Row(
        r"124\.MinRsvPct \(register \d+\): write-only point",
        r"reserve failed 2",
        Circumstances(OLD, points=(("124.MinRsvPct", 30),)),
    ),
    "reset-mid-exchange": Row(
        r"the device closed the connection", r"(poll|scan|discover|command) failed [1-5]"
    ),
    "scale-factor-by-clock": Row(
        r"701\.W \(register \d+\): its scale factor changed from \d to \d while running"
    ),
    "scale-factor-missing": Row(
        r"701\.W \(register \d+\): its value is implemented \(-?\d+\) and its scale factor is not",
        r"power_w unknown",
    ),
    "scale-factor-walks": Row(r"701\.W \(register \d+\): its scale factor changed from 0 to 1 while running"),
    "scale-factor-wrong": Row(
        r"702\.WMax \(register \d+\) is 50000 W and 124\.WChaMax .*scale factor of one of the two",
        r"rating told 50000",
    ),
    "slow-replies": Row(
        r"no answer within 5 s",
        r"(discover|poll|command|reserve|release|ratings|scan) failed",
        Circumstances(OLD),
    ),
    "soc-limits-end-command": Row(
        FOLLOWS_NOT.format(0), ASTRAY, Circumstances(soc_frac=0.2035, reserves=(0.03,))
    ),
    "timer-absent": Row(r"it has no revert timer: the command would have no end", r"command failed 4 times"),
    "timer-armed-by-enable-after": Row(STAYS, ASTRAY),
    "timer-counts-without-reverting": Row(STAYS, ASTRAY),
    "timer-left-behind": Row(
        r"124\.InOutWRte_RvrtTms \(register \d+\) is 3600 s before any command of ours: a timer",
        at=Circumstances(OLD),
    ),
    "timer-left-behind-704": Row(
        r"704\.WSetRvrtTms \(register \d+\) is 3600 s before any command of ours: a timer"
    ),
    "timer-rearmed-by-any-traffic": Row(STAYS, ASTRAY),
    "timer-shorter-than-asked": Row(FOLLOWS_NOT.format(0), ASTRAY),
    "truncated-reply": Row(r"the device closed the connection", r"(poll|scan|discover|command) failed [1-6]"),
    "write-clipped": Row(r"704\.WSet .*wrote 1200, the device holds 108 .*clipped", r"command failed 4"),
    "write-corrupted-to-zero": Row(
        r"704\.WSet .*wrote 2600, the device holds 0 .*clipped", r"command failed 1", Circumstances(seed=1)
    ),
    "write-floored": Row(r"704\.WSet .*wrote -1234, the device holds -1200 .*rounded", r"command failed 1"),
    "write-multiple-refused": Row(
        r"it refuses function 16 \(write several registers\); one at a time .* nothing was written",
        r"(command|release) failed",
    ),
    "wrong-transaction-id": Row(
        r"an answer with transaction id \d+ from unit \d+ came late, twice or unasked",
        r"(poll|scan) failed [1-5]",
    ),
    "wrong-unit-id": Row(
        r"an answer with transaction id \d+ from unit (2|3|102) came late", r"(poll|scan) failed [1-5]"
    ),
}
"""Something does not go right, or is odd, and what it is is said; what is read is right or unknown."""

DOUBTED: dict[str, Row] = {
    "grid-power-in-701": Row(
        r"always that of the home's meter with the other sign: .* the power of the home's connection",
        r"power_w told",
        Circumstances(NEW),
    ),
    "meter-sign-inverted": Row(
        r"the home's meter follows the device's power in the same direction .*counts export as positive",
        r"import_w told",
    ),
}
"""A wrong value is passed on, as no register tells that it is; measurements that do not fit are named."""

AT_THE_POWER: dict[str, tuple[str, str, str]] = {
    "limit-only-in-123": ("704.WMaxLimPct", "effect", r"no: the power stays at 400"),
    "percent-setpoint-inverted": ("704.WSetPct", "sign", r"positive = charge \(inverted\)"),
    "timer-reverts-unseen": ("704.WSet", "reverts", r"yes, though 704.WSetEna still says 1"),
}
"""Registers show nothing, and our client's own commands are right: capability discovery tells."""

ALSO_AT_THE_POWER: dict[str, tuple[str, str, str]] = {
    "acts-after-minutes": ("704.WSet", "effect", r"no: the power stays at 0"),
    "ack-discard": ("704.WMaxLimPct", "keeps", r"no: wrote 704\.WMaxLimPctEna 1, holds 0"),
    "command-survives": ("704.WSet", "reverts", r"no: the timer of 4 s is over, the power stays"),
    "grid-power-in-701": ("704.WSet", "effect", r"yes: -100 instead of 400 W"),
    "limit-enable-reads-zero": ("123.WMaxLimPct", "keeps", r"no: wrote 123.WMaxLim_Ena 1, holds 0"),
    "limit-only-in-704": ("123.WMaxLimPct", "effect", r"no: the power stays at 400"),
    "scale-factor-wrong": ("704.WMaxLimPct", "effect", r"yes: 200 instead of 2000 W"),
    "timer-absent": ("704.WSet", "reverts", r"no: it has no timer"),
    "timer-armed-by-enable-after": ("704.WSet", "reverts", r"no: the timer of 4 s is over, the power stays"),
    "timer-counts-without-reverting": (
        "704.WSet",
        "reverts",
        r"no: the timer of 4 s is over, the power stays",
    ),
    "value-before-enable-lost": ("704.WSet", "keeps", r"no: wrote -1, holds 0"),
    "value-waits-for-enable": ("704.WSet", "step", r"above 20 W"),
}
"""What capability discovery tells of quirks that have a row above."""

UNNOTICED: dict[str, str] = {
    "reserve-holds-off-grid": "shows in an outage alone, when the home goes dark; the judge sees it",
    "store-without-effect": "703.ES would disconnect the device, so capability discovery does not try it",
}
"""Neither said nor measured, and why."""

UNNOTICED_MAX = 2


@cache
def plain(at: Circumstances) -> Story:
    """Return the story of the same device without quirks."""
    return visited(combine([]), at)


def of(name: str) -> Quirks:
    return combine([load_quirk(name)])


def test_every_bundled_quirk_has_one_row() -> None:
    rows = [*SURVIVES, *NAMED, *DOUBTED, *AT_THE_POWER, *UNNOTICED]
    assert sorted(rows) == sorted(quirk_names())
    assert len(UNNOTICED) <= UNNOTICED_MAX
    assert set(ALSO_AT_THE_POWER) <= set(rows)


@pytest.mark.parametrize("name", SURVIVES)
def test_our_client_lives_with(name: str) -> None:
    row = SURVIVES[name]
    story = visited(of(name), row.at)
    for trouble in story.troubles:
        assert row.troubles, story.troubles
        assert re.fullmatch(row.troubles, trouble), story.troubles
    assert re.search(row.text, story.text)
    assert row.text or not story.said, "what is said belongs into the table"


@pytest.mark.parametrize("name", NAMED)
def test_our_client_names(name: str) -> None:
    row = NAMED[name]
    story = visited(of(name), row.at)
    assert re.search(row.text, story.text), story.text
    for trouble in story.troubles:
        assert row.troubles, story.troubles
        assert re.search(row.troubles, trouble), story.troubles
    assert not re.search(row.text, plain(row.at).text), "a device without the quirk is said to have it"


@pytest.mark.parametrize("name", DOUBTED)
def test_our_client_doubts(name: str) -> None:
    row = DOUBTED[name]
    story = visited(of(name), row.at)
    assert story.wrong
    assert all(re.search(row.troubles, trouble) for trouble in story.troubles), story.troubles
    assert re.search(row.text, story.text), story.text
    assert not re.search(row.text, plain(row.at).text)


@pytest.mark.parametrize("name", AT_THE_POWER | ALSO_AT_THE_POWER)
def test_capability_discovery_tells(name: str) -> None:
    point, what, text = (AT_THE_POWER | ALSO_AT_THE_POWER)[name]

    def told(quirks: Quirks) -> str:
        report = examined(quirks, Circumstances())
        (found,) = [one for one in report.points if one.point == point]
        return str(getattr(found, what))

    assert re.match(text, told(of(name))), told(of(name))
    assert not re.match(text, told(combine([])))


@pytest.mark.parametrize("name", AT_THE_POWER)
def test_our_client_is_not_hurt_by(name: str) -> None:
    assert visited(of(name), Circumstances()).troubles == []


@pytest.mark.parametrize("name", UNNOTICED)
def test_what_nobody_notices_does_not_hurt_while_the_grid_is_there(name: str) -> None:
    story = visited(of(name), Circumstances())
    assert (story.troubles, story.said) == ([], [])


@pytest.mark.parametrize("device", [NEW, OLD, BOTH])
def test_nothing_is_said_of_a_device_without_quirks(device: str) -> None:
    story = plain(Circumstances(device))
    assert (story.troubles, story.said) == ([], [])


class Faltering(Box):
    """Answers nothing, or an exception, the first times it is asked for one model's header."""

    def __init__(self, unit: Registers, at: int, times: int, code: int) -> None:
        super().__init__(unit)
        self.at, self.times, self.code = at, times, code

    def answer(self, unit_id: int, asked: bytes) -> bytes:
        if asked[0] == 3 and int.from_bytes(asked[1:3]) == self.at and self.times:
            self.times -= 1
            return bytes((0x83, self.code)) if self.code else b""
        return super().answer(unit_id, asked)


@pytest.mark.parametrize("code", [0, 3, 4, 6])
@pytest.mark.parametrize("times", [2, 100])
def test_only_a_steady_refusal_ends_the_chain_of_models(times: int, code: int) -> None:
    unit = Registers(der())

    async def test() -> None:
        async with boxed(Faltering(unit, unit.at(713, "ID"), times, code)) as (_, device):
            if times > 2 and code in (4, 6):
                with pytest.raises(TargetError, match=f"exception {code}"):
                    await device.discover()
                return
            found = await device.discover()
            models = [entry.id for entry in found.models]
            if times == 2:
                assert models == [1, 701, 702, 704, 713, 715]
                assert not any("end model" in text for text in found.warnings)
            else:
                assert models == [1, 701, 702, 704]
                assert any("models behind it may be missing" in text for text in found.warnings)

    run(test())


def test_a_device_that_punishes_probing_is_asked_at_one_base_only() -> None:
    unit = Registers(der(), base=50000)

    async def test(bases: tuple[int, ...], asked: list[int]) -> None:
        async with boxed(Box(unit), bases=bases) as (_, device):
            assert (await device.discover()).base == 50000
        assert [address for address, count in unit.reads if count == 2][: len(asked)] == asked
        assert all(address >= min(asked) for address, _ in unit.reads)
        unit.reads.clear()

    run(test((50000,), [50000]))
    run(test((0, 50000), [0, 50000]))
