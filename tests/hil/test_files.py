from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.hil import files, yamltree
from ridethrough.hil.mistakes import dotted
from ridethrough.hil.scenario import Scenario
from ridethrough.hil.yamltree import DEPTH_MAX, parse_yaml

DATA = Path(__file__).parent / "data"


class Small(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    count: int = Field(default=1, ge=1, le=10)
    share: float = 0.5
    items: tuple[int, ...] = ()
    flag: bool = False


def plain(text: str) -> Any:
    """Return what YAML text means, when nothing is wrong with it."""
    tree, whole = parse_yaml(text)
    assert whole, tree.findings
    assert not tree.findings
    return tree.root


def failure(tmp_path: Path, content: str | bytes, model: type[BaseModel] = Small) -> list[str]:
    """Return the lines of the error that loading `content` raises, without the file's own name."""
    file = tmp_path / "f.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ScenarioError) as caught:
        files.load_yaml(file, model)
    return [line.replace(str(file), "f") for line in str(caught.value).splitlines()]


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\x7f\x85\ufeff", exclude_categories=("Cc", "Cs"))
)
documents = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(texts, documents, max_size=4))
def test_json_is_yaml_and_means_the_same(data: dict[str, Any]) -> None:
    assert plain(json.dumps(data, indent=1, ensure_ascii=False)) == data


@given(st.binary(max_size=200) | st.text("{}[]:-?&*!|>'\"%@`#,\n\t abN0\\x", max_size=80).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_any_bytes_are_read_or_refused_in_words(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    message = ""
    try:
        files.load_yaml(file, Small)
    except ScenarioError as error:
        message = str(error)
    assert message or b"name" in content
    for line in message.splitlines():
        assert re.match(r".*any\.yaml(:\d+)?: .*found .*; allowed", line)


def test_scalars_follow_yaml_1_2_and_nothing_older() -> None:
    read = {
        "NO": "NO", "yes": "yes", "off": "off", "true": True, "~": None, "": None,
        "1_0": "1_0", "0b1": "0b1", "017": 17, "0o17": 15, "0x1F": 31, "+5": 5,
        "1e3": 1000.0, ".5": 0.5, "5.": 5.0, "'5'": "5", "'true'": "true",
        "12:30:00": "12:30:00", "1:30": "1:30", "17:30": "17:30", "2024-08-01": "2024-08-01",
    }  # fmt: skip
    for text, value in read.items():
        assert plain(f"{{a: {text}}}") == {"a": value}
        assert type(plain(f"a: {text}")["a"]) is type(value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("name: x\ncount: 5\ncount: 6\n", "f:3: count: found the key a second time (first in line 2)"),
        ("name: &a x\n", "f:1: name: found anchor &a; allowed: no anchors or aliases"),
        ("name: x\nshare: *a\n", "f:2: share: found alias *a; allowed: the value itself, written out"),
        ("name: !!str x\n", "f:1: name: found tag 'tag:yaml.org,2002:str'; allowed: no tags"),
        ("name: !!python/name:os.system x\n", "f:1: name: found tag 'tag:yaml.org,2002:python/name:os."),
        ("name: x\nshare: .inf\n", "f:2: share: found .inf; allowed finite numbers"),
        ("name: x\nshare: .nan\n", "f:2: share: found .nan; allowed finite numbers"),
        ("name: x\nshare: 1e999\n", "f:2: share: found 1e999; allowed finite numbers"),
        ("name: x\ncount: " + "9" * 5000 + "\n", "f:2: count: found 99999999"),
        ("name: x\n---\nname: y\n", "f:2: found a second document; allowed one document in a file"),
        ("? [a]\n: 1\n", "f:1: ?: found a list or mapping as a key; allowed a word"),
        ("name: x\nitems: [1, 2\n", "f:3: found broken YAML: "),
        ("name: x\n\tcount: 1\n", "f:2: found broken YAML: "),
        ("name: \"\\ud800\"\n", "f:1: name: found half a character"),
        ("name: \"\\UFFFFFFFF\"\n", "f:1: found "),
        ("- 1\n", "f:1: found a list; allowed a mapping such as 'name: pilot'"),
        ("just words\n", "f:1: found 'just words'; allowed a mapping"),
        ("# only a comment\n", "f:1: found nothing; allowed a mapping"),
        ("", "f:1: found an empty file; allowed a mapping"),
        ("  \n\n", "f:1: found an empty file; allowed a mapping"),
        (b"name: x\nshare: \xff\n", "f:2: found byte 0xff, which is no UTF-8; allowed text in UTF-8"),
        ("name: x\n".encode("utf-16"), "f:1: found byte 0xff, which is no UTF-8; allowed text in UTF-8"),
        (b"name: x\0\n", "f: found binary data; allowed YAML text"),
        ("name: x\n" + "#" * (1 << 20), "f: found more than 1 MiB; allowed at most 1 MiB"),
        ("a: " + "[" * 40 + "\n", f"f:1: a{'[0]' * (DEPTH_MAX - 1)}: found more than 20 levels; allowed 20"),
    ],
)  # fmt: skip
def test_files_that_break_a_limit(tmp_path: Path, content: str | bytes, line: str) -> None:
    assert any(line in found for found in failure(tmp_path, content))


def test_a_bomb_of_aliases_is_refused_at_its_first_anchor(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdef", "bcdefg", strict=True)
    )
    assert failure(tmp_path, bomb)[0] == "f:1: a: found anchor &a; allowed: no anchors or aliases"


def test_a_file_of_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamltree, "VALUES_MAX", 100)
    tree, whole = parse_yaml("a:\n" + "- 1\n" * 200)
    assert not whole
    assert tree.findings[0][2] == "found more than this reads; allowed 100 values and 100 mistakes"
    assert plain("a:\n" + "- 1\n" * 90)["a"] == [1] * 90


def test_depth_within_the_limit_is_read() -> None:
    assert plain("a: " + "[" * (DEPTH_MAX - 1) + "]" * (DEPTH_MAX - 1)) != {}


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    content = "cuont: 3\ncount: 99\nshare: '0.5'\nitems: [1, two, 3.5]\nflag: yes\nshare: 1\n"
    assert failure(tmp_path, content) == [
        "f:1: cuont: found unknown key 'cuont' (did you mean 'count'?); "
        "allowed count, flag, items, name, share",
        "f:1: name: found nothing; allowed a text",
        "f:2: count: found 99; allowed a whole number at least 1 and at most 10",
        "f:3: share: found '0.5'; allowed a number",
        "f:4: items[1]: found 'two'; allowed a whole number",
        "f:4: items[2]: found 3.5; allowed a whole number",
        "f:5: flag: found 'yes'; allowed true or false",
        "f:6: share: found the key a second time (first in line 3); allowed once",
    ]


def test_numbers_are_not_made_of_text_nor_flags_of_numbers(tmp_path: Path) -> None:
    assert failure(tmp_path, "{name: x, count: '3'}")[0].startswith(
        "f:1: count: found '3'; allowed a whole number"
    )
    assert failure(tmp_path, "{name: x, count: true}")[0].startswith(
        "f:1: count: found true; allowed a whole number"
    )
    assert failure(tmp_path, "{name: x, count: 1_0}")[0].startswith(
        "f:1: count: found '1_0'; allowed a whole number"
    )
    assert failure(tmp_path, "{name: 5}") == ["f:1: name: found 5; allowed a text"]


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert files.load_yaml(file, Small).name == "x"


def test_files_that_are_not_there_or_not_files(tmp_path: Path) -> None:
    (tmp_path / "pilot.yaml").write_text("name: x\n")
    fifo = tmp_path / "fifo.yaml"
    os.mkfifo(fifo)
    for name, words in (
        ("pilt.yaml", "found no such file (did you mean 'pilot.yaml'?)"),
        ("no/pilot.yaml", "found no such file (nor the folder"),
        (".", "found a folder; allowed a YAML file"),
        ("fifo.yaml", "found a device or pipe; allowed a regular file"),
        ("a\0b.yaml", "a\\x00b.yaml': found no such file"),
        ("x" * 5000 + ".yaml", "found a file that cannot be read"),
    ):
        with pytest.raises(ScenarioError, match=re.escape(words)):
            files.load_yaml(f"{tmp_path}/{name}", Small)


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "\\\\host\\x", "..\\x", "", "a\0b", "loop/x"]
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ScenarioError, match="allowed a path inside the scenario's own folder"):
        files.resolve_path(tmp_path, path)


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("1")
    (home / "link.csv").symlink_to(tmp_path / "secret.csv")
    (home / "up").symlink_to(tmp_path)
    for path in ("link.csv", "up/secret.csv"):
        with pytest.raises(ScenarioError, match="which leads to"):
            files.resolve_path(home, path)
    assert files.resolve_path(home, "sub/x.csv") == (home / "sub" / "x.csv").resolve()
    # A link to a folder beside it with the same beginning is outside too.
    (tmp_path / "home-2").mkdir()
    (home / "near").symlink_to(tmp_path / "home-2")
    with pytest.raises(ScenarioError, match="which leads to"):
        files.resolve_path(home, "near/x")


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "/", "\\", "c:"]), max_size=6))
def test_a_resolved_path_is_always_inside(parts: list[str]) -> None:
    root = Path("/srv/scenarios")
    try:
        inside = files.resolve_path(root, "/".join(parts))
    except ScenarioError:
        return
    assert inside == root or root in inside.parents


def test_five_mistakes_come_in_one_error_with_their_lines() -> None:
    with pytest.raises(ScenarioError) as caught:
        files.load_scenario(DATA / "five-mistakes.yaml")
    lines = [line.split("five-mistakes.yaml:")[1] for line in str(caught.value).splitlines()]
    assert [line.split(": ")[:2] for line in lines] == [
        ["3", "sede"],
        ["8", "pool[0].device"],
        ["12", "comms.poll"],
        ["15", "events[1].at"],
        ["18", "events[2].target"],
    ]
    for line, found, allowed in zip(
        lines,
        (
            "'sede' (did you mean 'seed'?)",
            "'home-13kwh-5kv'",
            "'10 seconds'",
            "09:30:00, after the end",
            "'home-04'",
        ),
        (
            "comms, community",
            "home-13kwh-5kw",
            "a duration such as 90s",
            "from 06:00:00 to 08:00:00",
            "home-03",
        ),
        strict=True,
    ):
        assert found in line.split("; allowed ")[0]
        assert allowed in line.split("; allowed ")[1]


def test_the_same_mistakes_in_plain_data_are_told_without_lines() -> None:
    with pytest.raises(ScenarioError) as caught:
        files.scenario_from_dict({"name": "x", "duration": "1h", "pool": [], "sede": 1})
    assert str(caught.value).splitlines() == [
        "scenario: pool: found an empty list; allowed a list with at least one entry",
        "scenario: sede: found unknown key 'sede' (did you mean 'seed'?); "
        "allowed comms, community, description, duration, events, feeder, name, pool, prices, seed, "
        "source_voltage_pu, start, storm, time_zone",
    ]


def test_bundled_names_load_and_unknown_ones_are_told_the_known() -> None:
    assert {"pilot", "quiet-day", "one-home"} <= set(files.scenario_names())
    for name in files.scenario_names():
        assert files.load_scenario(name).name == name
    for name in files.profile_names():
        assert files.load_profile(name).profile == name
    with pytest.raises(ScenarioError, match=r"found scenario 'pilt' \(did you mean 'pilot'\?\); allowed one"):
        files.load_scenario("pilt")
    with pytest.raises(ScenarioError, match=r"mean 'home-13kwh-5kw'\?\); allowed home-10kwh-10kw-three"):
        files.load_profile("home-13kwh")


def write_scenario(folder: Path, device: str) -> Path:
    file = folder / "mine.yaml"
    pool = f"[{{device: {device}, commitment: {{hours: 1, load_w: 500}}, load: synthetic-home}}]"
    file.write_text(f"name: mine\nduration: 1h\npool: {pool}\n")
    return file


def test_a_scenario_may_bring_its_own_device(tmp_path: Path) -> None:
    bundled = files.load_profile("home-13kwh-5kw")
    own = bundled.model_dump(mode="json") | {"profile": "my-inverter"}
    (tmp_path / "my-inverter.yaml").write_text(json.dumps(own))
    assert files.load_device("my-inverter.yaml", tmp_path).battery == bundled.battery
    assert isinstance(files.load_scenario(write_scenario(tmp_path, "my-inverter.yaml")), Scenario)
    assert isinstance(files.load_profile(str(tmp_path / "my-inverter.yaml")), DeviceProfile)
    (tmp_path / "my-inverter.yaml").write_text(json.dumps(own | {"battery": {"energy_wh": -5}}))
    with pytest.raises(
        ScenarioError, match=r"mine.yaml:3: pool\[0\].device: .*my-inverter.yaml:1: battery.energy_wh: "
    ):
        files.load_scenario(write_scenario(tmp_path, "my-inverter.yaml"))
    with pytest.raises(ScenarioError, match="inside the scenario's own folder"):
        files.load_scenario(write_scenario(tmp_path, "../my-inverter.yaml"))
    with pytest.raises(ScenarioError, match="in a scenario without folder"):
        files.load_device("my-inverter.yaml", None)


def test_places_are_shown_as_users_write_them() -> None:
    assert dotted(("pool", 0, "commitment", "hours")) == "pool[0].commitment.hours"
    assert dotted(("a\nb",)) == "a\\nb"
    assert len(dotted(("a",) * 200)) == 100
