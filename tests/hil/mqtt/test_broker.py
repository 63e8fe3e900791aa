"""The embedded broker and mosquitto: who is let in, and what amqtt had to be mended for."""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.mqtt.address import Address, client_tls
from ridethrough.hil.mqtt.broker import PACKET_BYTES_MAX, User, embedded_broker, read_users
from ridethrough.hil.mqtt.client import BrokerError
from ridethrough.hil.pki import Pki, make_pki

from tests.hil.mqtt.rig import HOST, KINDS, CountingFleet, ear, free_port, gateway, order, service, settled

USERS = {"gate": User("secret"), "ada": User("engine", ("home-01",))}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("mqtt") / "pki", ("localhost", HOST))


def fails(make: Callable[[], Awaitable[None]]) -> str:
    async def play() -> None:
        await make()

    with pytest.raises(BrokerError) as caught:
        asyncio.run(play())
    return str(caught.value)


async def listen(client: aiomqtt.Client) -> None:
    async with asyncio.timeout(3.0):
        async for _ in client.messages:
            pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_password_is_refused_and_said(kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with service(kind, tmp_path, users=USERS) as broker:
            for address in (
                replace(broker.address, user="gate", password="guess"),
                replace(broker.address, user="nobody", password="secret"),
                broker.address,
            ):
                with pytest.raises(BrokerError, match=r"refuses.*[Nn]ot authori[sz]ed"):
                    async with gateway(CountingFleet(), address):
                        pass
            right = replace(broker.address, user="gate", password="secret")
            async with gateway(CountingFleet(), right) as (made, _):
                assert made.post.connected
            assert "secret" not in repr(right)

    asyncio.run(play())


def test_a_user_commands_his_own_homes_only(tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet()
        async with service("amqtt", tmp_path, users=USERS) as broker:
            gate = replace(broker.address, user="gate", password="secret")
            async with (
                gateway(fleet, gate),
                ear(broker.address, username="ada", password="engine") as ada,
            ):
                await ada.command(1, id="not-hers")
                await ada.client.publish("bench/v1/pool/home-01/state", b"{}", qos=1)
                await ada.client.publish("bench/v1/pool/status", b"offline", qos=1, retain=True)
                await ada.command(0, id="hers")
                await ada.until("home-01/ack")
                assert [d for d, *_ in fleet.applied] == [0]
                assert not ada.on("home-01/state")
                assert [m.payload for m in ada.on("pool/status")] == [b"online"]

    asyncio.run(play())


# The library leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_tls_and_who_is_trusted(kind: str, tmp_path: Path, pki: Pki) -> None:
    async def play() -> None:
        given = {"certificate": pki.server.cert, "key": pki.server.key}
        async with service(kind, tmp_path, **given) as broker:
            trusted = client_tls(pki.ca, None, None)
            fleet = CountingFleet()
            async with (
                gateway(fleet, replace(broker.address, tls=trusted)),
                ear(broker.address, tls_context=trusted) as heard,
            ):
                await heard.command()
                assert (await heard.until("home-01/ack"))[0]["outcome"] == "applied"
            strangers = replace(broker.address, tls=ssl.create_default_context())
            with pytest.raises(BrokerError, match=r"cannot be reached.*certificate verify failed"):
                async with gateway(fleet, strangers, connect_s_max=0.5):
                    pass

    asyncio.run(play())
    gc.collect()


def test_a_broker_that_is_not_there_is_an_error_and_no_hang() -> None:
    async def play() -> None:
        async with gateway(CountingFleet(), Address(HOST, free_port()), connect_s_max=0.5):
            pass

    assert "cannot be reached: [Errno 111]" in fails(play)


def test_retained_messages_go_to_subscribers_only(tmp_path: Path) -> None:
    """amqtt 0.12.1 sends every client that connects the retained messages of everybody's filters."""

    async def play() -> None:
        async with service("amqtt", tmp_path) as broker, ear(broker.address, "private/#") as owner:
            await owner.client.publish("private/x", b"secret", qos=1, retain=True)
            await settled(lambda: owner.heard)
            async with ear(broker.address, "public/#") as other, ear(broker.address, "private/#") as second:
                await settled(lambda: second.heard)
                await asyncio.sleep(0.1)
                assert other.heard == []
                assert second.heard[0].retain

    asyncio.run(play())


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_client_of_a_name_ends_the_first(kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with (
            service(kind, tmp_path) as broker,
            aiomqtt.Client(HOST, broker.port, identifier="one") as first,
            aiomqtt.Client(HOST, broker.port, identifier="one"),
        ):
            with pytest.raises(aiomqtt.MqttError):
                await listen(first)

    asyncio.run(play())


def test_a_packet_that_is_too_long_ends_its_connection_and_nothing_else(tmp_path: Path) -> None:
    async def play() -> None:
        fleet = CountingFleet()
        async with (
            service("amqtt", tmp_path) as broker,
            gateway(fleet, broker.address) as (made, _),
            ear(broker.address) as heard,
        ):
            async with aiomqtt.Client(HOST, broker.port, timeout=0.3) as rude:
                with pytest.raises(aiomqtt.MqttError):
                    await rude.publish("bench/v1/pool/home-01/cmd", b"x" * (PACKET_BYTES_MAX + 1), qos=1)
                with pytest.raises(aiomqtt.MqttError):
                    await listen(rude)
            for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\x7f", b"\x00", b"\x10\x02"):
                reader, writer = await asyncio.open_connection(HOST, broker.port)
                writer.write(garbage)
                writer.write_eof()
                await reader.read()
                writer.close()
            await heard.command()
            assert (await heard.until("home-01/ack"))[0]["outcome"] == "applied"
            assert made.post.connects == 1

    asyncio.run(play())


def test_without_users_only_this_machine_is_served() -> None:
    async def play() -> None:
        async with embedded_broker("0.0.0.0"):
            pass

    with pytest.raises(ScenarioError, match="allowed a loopback address, or users"):
        asyncio.run(play())


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async def play() -> None:
        async with embedded_broker() as port, embedded_broker(HOST, port):
            pass

    with pytest.raises(ScenarioError, match="cannot be started"):
        asyncio.run(play())


def test_a_file_of_users(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("# who\ngate:secret\nada:engine:home-01,home-02\n")
    assert read_users(path) == {"gate": User("secret"), "ada": User("engine", ("home-01", "home-02"))}
    for text, told in (
        ("gate", "users:1: allowed"),
        ("a:b\na:c", "users:2: found user 'a' twice"),
        ("", "no user"),
    ):
        path.write_text(text)
        with pytest.raises(ScenarioError, match=told):
            read_users(path)
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_users(tmp_path / "none")


def test_commands_are_not_kept_and_other_topics_are(tmp_path: Path) -> None:
    async def play() -> None:
        async with service("amqtt", tmp_path) as broker:
            async with ear(broker.address) as first:
                payload = json.dumps(order())
                await first.client.publish("bench/v1/pool/home-01/cmd", payload, qos=1, retain=True)
                await first.client.publish("bench/v1/pool/home-01/status", b"online", qos=1, retain=True)
                await settled(lambda: len(first.heard) == 2)
            async with ear(broker.address) as second:
                await settled(lambda: second.heard)
                await asyncio.sleep(0.1)
                assert [str(message.topic).rpartition("/")[2] for message in second.heard] == ["status"]

    asyncio.run(play())
