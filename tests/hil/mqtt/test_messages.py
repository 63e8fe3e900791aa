"""Topics, payloads, guards and addresses, without a broker; and docs/asyncapi.yaml, which says the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from ridethrough.emulator.errors import ScenarioError
from ridethrough.hil.mqtt import payloads
from ridethrough.hil.mqtt.address import PASSWORD_VARIABLE, Address, parse_address
from ridethrough.hil.mqtt.client import Letter
from ridethrough.hil.mqtt.discovery import announcements
from ridethrough.hil.mqtt.gateway import Gateway, GatewaySettings
from ridethrough.hil.mqtt.guards import AHEAD_MS_MAX, REMEMBERED, Guard
from ridethrough.hil.mqtt.payloads import (
    REASONS,
    Ack,
    Command,
    Info,
    Occurrence,
    Refused,
    State,
    dumped,
    read_command,
)
from ridethrough.hil.mqtt.topics import Topics
from ruamel.yaml import YAML

from tests.hil.mqtt.rig import NAMES, CountingFleet, device, order

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "asyncapi.yaml"
ASYNC: dict[str, Any] = YAML(typ="safe").load(DOCUMENT.read_text())
MODELS: dict[str, type[BaseModel]] = {
    "cmd": Command,
    "ack": Ack,
    "state": State,
    "event": Occurrence,
    "info": Info,
}
MESSAGES: dict[str, Any] = ASYNC["components"]["messages"]


# The document.


def test_the_document_names_the_topics_of_the_code() -> None:
    topics = Topics("{pool}", ["{device}"])
    found = {name: channel["address"] for name, channel in ASYNC["channels"].items()}
    kinds = {kind: topics.of("{device}", kind) for kind in ("state", "status", "event", "cmd", "ack")}
    assert found == {**kinds, "poolStatus": topics.status, "info": topics.info}


def test_every_reference_of_the_document_leads_somewhere() -> None:
    seen = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "$ref":
                    place: Any = ASYNC
                    for part in value.removeprefix("#/").split("/"):
                        place = place[part]
                    seen.append(value)
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(ASYNC)
    assert len(seen) > 20
    assert {c["messages"][m]["$ref"] for c in ASYNC["channels"].values() for m in c["messages"]} == {
        f"#/components/messages/{name}" for name in MESSAGES
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_model_and_its_schema_have_the_same_fields(name: str) -> None:
    mine: dict[str, Any] = MODELS[name].model_json_schema(by_alias=True)
    theirs = MESSAGES[name]["payload"]
    assert mine["properties"].keys() == theirs["properties"].keys()
    assert theirs["additionalProperties"] is mine["additionalProperties"] is False
    always = {field for field in mine["properties"] if field in mine["required"]}
    assert set(theirs["required"]) == always
    for field, rule in theirs["properties"].items():
        described = mine["properties"][field].get("description")
        assert rule.get("description", described) == described, field


def test_the_reasons_are_the_same_everywhere() -> None:
    assert MESSAGES["ack"]["payload"]["properties"]["reason"]["enum"] == list(REASONS)
    assert set(REASONS) == set(payloads.Reason.__args__)  # type: ignore[attr-defined]  # of a Literal


@pytest.mark.parametrize("name", [name for name in MODELS if "examples" in MESSAGES[name]])
def test_the_examples_are_messages(name: str) -> None:
    for example in MESSAGES[name]["examples"]:
        jsonschema.validate(example["payload"], MESSAGES[name]["payload"])
        model = MODELS[name].model_validate_json(json.dumps(example["payload"]))
        assert json.loads(dumped(model)) == example["payload"] or name == "cmd"


def test_what_the_gateway_says_is_as_the_document_says(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = CountingFleet()
    made = Gateway(fleet.fleet, GatewaySettings(Address("localhost", 1)))
    made.post.connected = True
    sent: list[Letter] = []
    monkeypatch.setattr(made.post, "send", sent.append)
    fleet.report()
    fleet.report(0, soc_frac=math.nan, power_w=math.nan, import_w=math.inf, grid_good=math.nan)
    fleet.report(0, grid_good=0.0)
    fleet.fleet.lose(0, "no answer")
    made.receive(f"bench/v1/pool/{NAMES[0]}/cmd", b"?", False)
    made.receive(f"bench/v1/pool/{NAMES[0]}/cmd", json.dumps(order(id="x", power_w=True)).encode(), False)
    kinds = [letter.topic.rpartition("/")[2] for letter in sent]
    assert {"state", "event", "ack", "status"} == set(kinds)
    for letter, kind in [*zip(sent, kinds, strict=True), (made._greetings()[0], "info")]:
        content = letter.payload.decode() if kind == "status" else json.loads(letter.payload)
        jsonschema.validate(content, MESSAGES[kind]["payload"])
        wanted = ASYNC["operations"]["publish" + kind.capitalize() if kind != "ack" else "answer"]
        assert wanted["bindings"]["mqtt"] == {"qos": letter.qos, "retain": letter.retain}


def refusal_of(payload: bytes) -> Refused | None:
    try:
        read_command(payload)
    except Refused as refusal:
        return refusal
    return None


numbers: st.SearchStrategy[Any] = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**400), 10**400),
    st.floats(0, 1),
    st.floats(1, 86_400),
    st.sampled_from([0, 1, True, None, "1", [], {}]),
)
commands = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(st.text(max_size=70), st.sampled_from(["a", "b-1", "", 7, None])),
        "issued_ms": st.one_of(
            st.integers(-1, 2**50), st.sampled_from([0, 4_102_444_800_000, 1.5, "1", False, None])
        ),
        "expires_ms": st.integers(-1, 2**50),
        "power_w": numbers,
        "validity_s": numbers,
        "reserve_soc_frac": numbers,
        "force": st.booleans(),
    },
)


@given(commands)
def test_the_document_and_the_code_take_the_same_commands(found: dict[str, Any]) -> None:
    refusal = refusal_of(json.dumps(found).encode())
    if refusal is not None:
        assert refusal.reason in ("invalid", "garbage")  # a number of 400 digits is no number
        assert len(refusal.text) <= 500
    schema = MESSAGES["cmd"]["payload"]
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(found)
    assert (refusal is None) == is_valid


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(payload: bytes) -> None:
    refusal = refusal_of(payload)
    assert refusal is not None
    assert refusal.reason in ("garbage", "invalid")


# The guard.


def command(id_: str = "a", issued_ms: int = 1000, **changes: Any) -> Command:
    return Command.model_validate(
        {"id": id_, "issued_ms": issued_ms, "power_w": 1.0, "validity_s": 9.0, **changes}
    )


def ack(id_: str, outcome: str = "applied") -> Ack:
    return Ack.model_validate({"id": id_, "outcome": outcome, "ts_ms": 0})


@pytest.mark.parametrize(
    ("asked", "now_ms", "reason"),
    [
        (command(issued_ms=999), 2000, "before-start"),
        (command(issued_ms=2001 + AHEAD_MS_MAX), 2000, "from-the-future"),
        (command(issued_ms=1000), 31_001, "expired"),
        (command(issued_ms=1000, expires_ms=1500), 1501, "expired"),
        (command(issued_ms=1499), 2000, "overtaken"),
    ],
)
def test_the_guard_refuses(asked: Command, now_ms: int, reason: str) -> None:
    guard = Guard(1000, 30_000)
    if reason == "overtaken":
        guard.note(command("first", 1500), ack("first"))
    with pytest.raises(Refused) as caught:
        guard.check(asked, now_ms)
    assert caught.value.reason == reason
    assert caught.value.id == "a"


def test_the_guard_lets_pass_what_is_in_time() -> None:
    guard = Guard(1000, 30_000)
    for sound, now_ms in (
        (command(), 31_000),
        (command(issued_ms=2000 + AHEAD_MS_MAX), 2000),
        (command(expires_ms=99_000), 99_000),
    ):
        guard.check(sound, now_ms)
    guard.note(command("b", 5000), ack("b", "refused"))
    guard.check(command("c", 4000), 5000)  # what was refused has overtaken nothing
    guard.note(command("d", 5000), ack("d", "lost"))
    with pytest.raises(Refused):  # what may have been carried out has
        guard.check(command("c", 4000), 5000)


Step = tuple[str, int, float]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 60_000), st.sampled_from([1.0, 2.0])),
        max_size=60,
    ),
    st.lists(st.integers(0, 3000), min_size=60, max_size=60),
)
def test_no_command_is_carried_out_twice_and_none_behind_a_newer_one(
    steps: list[Step], pauses: list[int]
) -> None:
    guard = Guard(0, 10_000)
    now_ms, applied = 0, list[tuple[str, int]]()
    answered: dict[str, Ack] = {}
    for (id_, issued_ms, power_w), pause_ms in zip(steps, pauses, strict=False):
        now_ms += pause_ms
        asked = command(id_, issued_ms, power_w=power_w)
        try:
            before = guard.earlier(asked)
            if before is not None:
                assert before == answered[id_]
                continue
            guard.check(asked, now_ms)
        except Refused:
            continue
        assert now_ms - issued_ms <= 10_000
        applied.append((id_, issued_ms))
        answered[id_] = ack(id_)
        guard.note(asked, answered[id_])
    assert len({id_ for id_, _ in applied}) == len(applied)
    assert [issued_ms for _, issued_ms in applied] == sorted(issued_ms for _, issued_ms in applied)


def test_what_the_guard_has_forgotten_is_still_not_repeated() -> None:
    guard = Guard(0, 10_000)
    for k in range(REMEMBERED + 1):
        guard.check(command(f"{k}", 7), 7)
        guard.note(command(f"{k}", 7), ack(f"{k}"))
    assert guard.earlier(command("0", 7)) is None
    with pytest.raises(Refused, match="before a command that was carried out"):
        guard.check(command("0", 7), 7)


# Names and addresses.


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "$SYS", "a\n", "a\x00", "x" * 101])
def test_names_that_cannot_be_topics_are_refused(name: str) -> None:
    with pytest.raises(ScenarioError, match="allowed over MQTT"):
        Topics("pool", [name])
    with pytest.raises(ScenarioError, match="allowed over MQTT"):
        Topics(name, ["home"])


def test_a_topic_leads_back_to_its_device() -> None:
    topics = Topics("pool", ["home 1", "ü"])
    assert topics.device_of(topics.of("ü", "cmd")) == "ü"
    for stranger in (
        "bench/v1/pool/x/cmd",
        "bench/v1/other/ü/cmd",
        "bench/v2/pool/ü/cmd",
        "bench/v1/pool/ü/ack",
    ):
        assert topics.device_of(stranger) is None


def test_addresses(tmp_path: Path) -> None:
    plain = parse_address("mqtt://localhost")
    assert (plain.host, plain.port, plain.user, plain.tls) == ("localhost", 1883, None, None)
    secure = parse_address("mqtts://ada@[::1]:9", environment={PASSWORD_VARIABLE: "engine"})
    assert (secure.host, secure.port, secure.user, secure.password) == ("::1", 9, "ada", "engine")
    assert str(secure) == "mqtts://ada@[::1]:9"
    file = tmp_path / "password"
    file.write_text("engine\n")
    assert parse_address("mqtt://ada@127.0.0.1", password_file=file).password == "engine"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("localhost:1883", "allowed mqtt://"),
        ("http://localhost", "allowed mqtt://"),
        ("mqtt://", "allowed mqtt://"),
        ("mqtt://host:port", "allowed mqtt://"),
        ("mqtt://host/topic", "allowed mqtt://"),
        ("mqtt://ada:engine@host", "found a password"),
        ("mqtt://ada@example.org", "in the clear"),
    ],
)
def test_addresses_that_are_refused(url: str, told: str) -> None:
    with pytest.raises(ScenarioError, match=told) as caught:
        parse_address(url, environment={PASSWORD_VARIABLE: "engine"})
    assert "engine" not in str(caught.value)


def test_files_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="password cannot be read: No such file"):
        parse_address("mqtt://ada@localhost", password_file=tmp_path / "none")
    with pytest.raises(ScenarioError, match="cannot be used for TLS: No such file"):
        parse_address("mqtts://localhost", ca=tmp_path / "none")
    with pytest.raises(ScenarioError, match="certificates, and no TLS"):
        parse_address("mqtt://localhost", ca=tmp_path / "none")
    with pytest.raises(ScenarioError, match="a password file, and no user"):
        parse_address("mqtt://localhost", password_file=tmp_path / "none")


def test_home_assistant_is_told_what_it_needs() -> None:
    topics = Topics("my pool", ["home 1"])
    told = dict(announcements(topics, [device("home 1")], 10.0))
    assert len(told) == 4
    ids = {config["unique_id"] for config in told.values()}
    assert len(ids) == 4
    for topic, config in told.items():
        component, node, key, last = topic.removeprefix("homeassistant/").split("/")
        assert component in ("sensor", "binary_sensor")
        assert last == "config"
        assert config["unique_id"] == f"{node}_{key}"
        assert set(node) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
        assert config["state_topic"] == topics.of("home 1", "state")
        assert [a["topic"] for a in config["availability"]] == [topics.status, topics.of("home 1", "status")]
        assert config["expire_after"] == 30
        assert any(
            f"'{name}'" in config["value_template"] for name in ("713.SoC", "701.W", "203.W", "701.ConnSt")
        )
    classes = sorted(config["device_class"] for config in told.values())
    assert classes == ["battery", "connectivity", "power", "power"]
