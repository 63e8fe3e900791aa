"""The gateway at real brokers: what it says, what it takes, and what it survives."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from ridethrough.hil.mqtt.fleet import Outcome, unix_ms
from ridethrough.hil.mqtt.gateway import WAITING_MAX

from tests.hil.mqtt.rig import KINDS, NAMES, SOON, CountingFleet, ear, gateway, order, service, settled

CMD = f"bench/v1/pool/{NAMES[0]}/cmd"


@pytest.mark.parametrize("kind", KINDS)
def test_readings_status_and_info(kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet()
        async with service(kind, tmp_path) as broker, ear(broker.address) as heard:
            async with gateway(fleet, broker.address):
                fleet.report(0, 0.5, soc_frac=0.415)
                fleet.report(0, import_w=float("nan"))
                fleet.report(0, grid_good=0.0, is_old=True)
                states = await heard.until("home-01/state", 3)
                assert states[0]["values"] == {
                    "713.SoC": 41.5,
                    "701.W": 100.0,
                    "701.ConnSt": 1,
                    "203.W": 800.0,
                }
                assert abs(unix_ms() - 500 - states[0]["ts_ms"]) < 2000
                assert [s["seq"] for s in states] == [0, 1, 2]
                assert [s["q"] for s in states] == ["good", "partial", "old"]
                assert states[1]["values"]["203.W"] is None
                (event,) = await heard.until("home-01/event")
                assert event["kind"] == "islanded"
                (info,) = await heard.until("pool/info")
                assert [d["name"] for d in info["devices"]] == list(NAMES)
                async with ear(broker.address) as late:  # retained: status and info, never a reading
                    await late.until("pool/info")
                    await asyncio.sleep(0.1)
                    assert all(message.retain for message in late.heard)
                    kinds = {str(message.topic).rpartition("/")[2] for message in late.heard}
                    assert kinds == {"status", "info"}
                    assert [m.payload for m in late.on("home-01/status")] == [b"online"]
                    assert [m.payload for m in late.on("home-02/status")] == [b"offline"]
            await settled(lambda: heard.on("pool/status")[-1].payload == b"offline")

    asyncio.run(play())


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_is_answered_when_the_device_has_accepted_it(kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet(delay_s=0.3)
        async with (
            service(kind, tmp_path) as broker,
            gateway(fleet, broker.address),
            ear(broker.address) as heard,
        ):
            await heard.command(id="a", reserve_soc_frac=0.3)
            await settled(lambda: fleet.applied)
            assert not heard.on("ack")
            (ack,) = await heard.until("home-01/ack")
            assert (ack["id"], ack["outcome"], ack["power_w"], ack["reserve_soc_frac"]) == (
                "a",
                "applied",
                1000.0,
                0.3,
            )
            assert fleet.applied == [(0, 1000.0, 60.0, 0.3)]
            fleet.outcome = Outcome("refused", "704.WSet: beyond the rating")
            await heard.command(1, id="b")
            (ack,) = await heard.until("home-02/ack")
            assert (ack["outcome"], ack["reason"]) == ("refused", "device")
            fleet.outcome = Outcome("lost", "no answer")
            await heard.command(1, id="c")
            assert (await heard.until("home-02/ack", 2))[1]["reason"] == "no-answer"

    asyncio.run(play())


@pytest.mark.parametrize("kind", KINDS)
def test_duplicates_and_what_comes_out_of_order(kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet()
        async with (
            service(kind, tmp_path) as broker,
            gateway(fleet, broker.address),
            ear(broker.address) as heard,
        ):
            now_ms = unix_ms()
            same = order(id="a", issued_ms=now_ms)
            for _ in range(3):
                await heard.client.publish(CMD, json.dumps(same), qos=1)
            acks = await heard.until("home-01/ack", 3)
            assert acks[0] == acks[1] == acks[2]
            assert fleet.powers == [1000.0]
            await heard.command(id="c", issued_ms=now_ms + 2, power_w=3.0)
            await heard.command(id="b", issued_ms=now_ms + 1, power_w=2.0)
            await heard.command(id="a", issued_ms=now_ms + 3, power_w=4.0)
            acks = await heard.until("home-01/ack", 6)
            assert [ack.get("reason") for ack in acks[3:]] == [None, "overtaken", "id-reused"]
            assert fleet.powers == [1000.0, 3.0]
            await heard.command(1, id="b", issued_ms=now_ms + 1)  # each device has an order of its own
            assert (await heard.until("home-02/ack"))[0]["outcome"] == "applied"

    asyncio.run(play())


BAD: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "garbage"),
    "no JSON": (b"\xff\xfe{", "garbage"),
    "a list": (b"[1]", "garbage"),
    "NaN": (json.dumps(order(power_w=float("nan"))).encode(), "garbage"),
    "infinity": (json.dumps(order(power_w=float("inf"))).encode(), "garbage"),
    "depth": (b"[" * 4000, "garbage"),
    "a field twice": (b'{"id": "a", "id": "b"}', "garbage"),
    "a large number": (
        json.dumps(order(power_w=1)).replace('": 1,', '": 1' + "0" * 400 + ",").encode(),
        "invalid",
    ),
    "an unknown field": (json.dumps(order(force=True)).encode(), "invalid"),
    "no validity": (json.dumps(order(validity_s=...)).encode(), "invalid"),
    "no command": (json.dumps(order(power_w=..., validity_s=...)).encode(), "invalid"),
    "a text": (json.dumps(order(power_w="1000")).encode(), "invalid"),
    "a truth": (json.dumps(order(power_w=True)).encode(), "invalid"),
    "a long validity": (json.dumps(order(validity_s=1e9)).encode(), "invalid"),
    "a reserve in percent": (json.dumps(order(reserve_soc_frac=30)).encode(), "invalid"),
    "no id": (json.dumps(order(id=...)).encode(), "invalid"),
    "a long id": (json.dumps(order(id="x" * 65)).encode(), "invalid"),
    "seconds": (json.dumps(order(issued_ms=unix_ms() // 1000)).encode(), "before-start"),
    "oversize": (json.dumps(order(id="y", power_w=1)).encode() + b" " * 5000, "oversize"),
    "the future": (
        json.dumps(order(id="later", issued_ms=unix_ms() + 3_600_000)).encode(),
        "from-the-future",
    ),
}


def test_what_is_not_as_it_should_be_is_refused_by_name(tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet()
        async with (
            service("amqtt", tmp_path) as broker,
            gateway(fleet, broker.address),
            ear(broker.address) as heard,
        ):
            for count, (what, (payload, reason)) in enumerate(BAD.items(), 1):
                await heard.client.publish(CMD, payload, qos=1)
                ack = (await heard.until("home-01/ack", count))[-1]
                assert (ack["outcome"], ack["reason"]) == ("refused", reason), (what, ack)
                assert len(ack["text"]) <= 500, what
            assert fleet.applied == []
            await heard.client.publish("bench/v1/pool/home-99/cmd", json.dumps(order()), qos=1)
            await heard.client.publish("bench/v1/pool/home-01/cmd/x", json.dumps(order()), qos=1)
            await heard.command(id="sound")
            assert (await heard.until("home-01/ack", len(BAD) + 1))[-1]["id"] == "sound"
            assert fleet.powers == [1000.0]

    asyncio.run(play())


def test_old_commands_are_refused(tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet()
        async with (
            service("amqtt", tmp_path) as broker,
            gateway(fleet, broker.address, expiry_s=0.2),
            ear(broker.address) as heard,
        ):
            await asyncio.sleep(0.3)
            now_ms = unix_ms()
            await heard.command(id="old", issued_ms=now_ms - 250)
            await heard.command(id="expired", issued_ms=now_ms - 10, expires_ms=now_ms - 5)
            await heard.command(id="before", issued_ms=now_ms - 60_000)
            await heard.command(id="lives longer", issued_ms=now_ms - 250, expires_ms=now_ms + 60_000)
            acks = await heard.until("home-01/ack", 4)
            assert [ack.get("reason") for ack in acks] == ["expired", "expired", "before-start", "invalid"]
            await heard.command(id="lives-longer", issued_ms=now_ms - 250, expires_ms=now_ms + 60_000)
            assert (await heard.until("home-01/ack", 5))[-1]["outcome"] == "applied"
            assert len(fleet.applied) == 1

    asyncio.run(play())


def test_a_flood_is_refused_and_what_waits_is_bounded(tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet(gate=asyncio.Event())
        async with (
            service("amqtt", tmp_path) as broker,
            gateway(fleet, broker.address),
            ear(broker.address) as heard,
        ):
            now_ms = unix_ms()
            for k in range(100):
                await heard.client.publish(CMD, json.dumps(order(id=f"{k}", issued_ms=now_ms + k)), qos=0)
            refused = 100 - WAITING_MAX - 1  # one is at the device
            busy = await heard.until("home-01/ack", refused)
            assert [ack["reason"] for ack in busy] == ["busy"] * refused
            assert fleet.gate is not None
            fleet.gate.set()
            acks = await heard.until("home-01/ack", 100)
            assert [ack["outcome"] for ack in acks].count("applied") == len(fleet.applied) == WAITING_MAX + 1

    asyncio.run(play())


@pytest.mark.parametrize("kind", KINDS)
def test_a_retained_command_is_refused_at_every_reconnect(kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet()
        async with service(kind, tmp_path) as broker:
            async with ear(broker.address) as before:
                await before.client.publish(CMD, json.dumps(order(id="kept")), qos=1, retain=True)
            async with ear(broker.address) as heard, gateway(fleet, broker.address):
                await heard.command(id="live")
                acks = await heard.until("home-01/ack", 1 if kind == "amqtt" else 2)
                outcomes = {ack["id"]: ack.get("reason") for ack in acks}
                # The embedded broker does not even keep it.
                assert outcomes == ({"live": None} if kind == "amqtt" else {"kept": "retained", "live": None})
                assert len(fleet.applied) == 1

    asyncio.run(play())


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_will_says_that_the_gateway_is_gone(kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet()
        async with (
            service(kind, tmp_path) as broker,
            ear(broker.address) as heard,
            gateway(fleet, broker.address) as (made, _),
        ):
            await heard.until("pool/info")
            heard.heard.clear()
            # Another client of its name: the broker ends the gateway's connection.
            async with aiomqtt.Client(broker.address.host, broker.port, identifier="ridethrough-pool"):
                await settled(lambda: [m.payload for m in heard.on("pool/status")][:1] == [b"offline"])
                await settled(lambda: made.post.connects >= 2)  # it takes its place back
            await heard.command(id="after")
            assert (await heard.until("home-01/ack"))[-1]["outcome"] == "applied"

    async def quiet() -> None:
        try:
            await play()
        except* aiomqtt.MqttError:  # the usurper, when he is ousted in turn
            pass

    asyncio.run(quiet())


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_restarted_in_the_middle_loses_no_answer_and_repeats_no_command(
    kind: str, tmp_path: Path
) -> None:
    """Every command that was answered was carried out once; none was carried out twice."""

    async def play() -> None:
        fleet = CountingFleet(delay_s=0.02)
        acked: dict[str, str] = {}
        wanted = [f"c-{k}" for k in range(40)]

        async def controller(port: int) -> None:
            """Send each command until it is answered, with the same id, over any number of connections."""
            first_ms = unix_ms()
            while len(acked) < len(wanted):
                try:
                    async with aiomqtt.Client("127.0.0.1", port, timeout=1.0, socket_options=SOON) as client:
                        await client.subscribe("bench/v1/pool/+/ack", qos=1)
                        for k, name in enumerate(wanted):
                            if name in acked:
                                continue
                            payload = order(id=name, issued_ms=first_ms + k, power_w=float(k))
                            await client.publish(CMD, json.dumps(payload), qos=1)
                            async with asyncio.timeout(0.5):
                                async for message in client.messages:
                                    ack = json.loads(bytes(message.payload))
                                    acked[ack["id"]] = ack["outcome"]
                                    if ack["id"] == name:
                                        break
                except (aiomqtt.MqttError, TimeoutError):
                    await asyncio.sleep(0.05)

        async with service(kind, tmp_path) as broker, gateway(fleet, broker.address) as (made, _):
            task = asyncio.create_task(controller(broker.port))
            for count in (10, 25):
                await settled(lambda count=count: len(fleet.applied) >= count, 10.0)
                await broker.stop()
                await asyncio.sleep(0.15)
                fleet.report(0)  # a reading while nobody is there: it must not come later
                await broker.start()
            await asyncio.wait_for(task, 20.0)
            assert made.post.connects == 3
        assert acked == dict.fromkeys(wanted, "applied")
        assert fleet.powers == [float(k) for k in range(40)]  # each once, in order
        assert made.post.dropped >= 1

    asyncio.run(play())


def test_an_answer_that_could_not_be_sent_comes_after_the_restart(tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet(delay_s=0.4)
        async with service("amqtt", tmp_path) as broker, gateway(fleet, broker.address) as (made, _):
            async with ear(broker.address) as heard:
                await heard.command(id="in flight")
                await heard.command(id="in-flight")
                await settled(lambda: fleet.applied)
            await broker.stop()
            await settled(lambda: not made.post.connected)
            await asyncio.sleep(0.5)  # the device has accepted; nobody can be told
            await broker.start()
            async with ear(broker.address) as again:
                await settled(lambda: made.post.connects == 2)
                acks = await again.until("home-01/ack", 1)
                assert (acks[-1]["id"], acks[-1]["outcome"]) == ("in-flight", "applied")
        assert len(fleet.applied) == 1

    asyncio.run(play())
