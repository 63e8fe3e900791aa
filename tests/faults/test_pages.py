"""docs/faults says what the catalogue and the code say."""

from __future__ import annotations

from pathlib import Path

from ridethrough.hil.fault_files import load_fault
from ridethrough.hil.files import scenario_from_dict
from ridethrough.hil.yamltree import parse_yaml

from tests.plots.faults import FOLDER, page, pages, stale, write


def test_the_pages_are_made_from_the_present_catalogue() -> None:
    assert list(stale(FOLDER, pages())) == []


def test_every_example_on_a_page_is_an_event() -> None:
    group = {"device": "home-13kwh-5kw", "commitment": {"hours": 2, "load_w": 500}, "load": "synthetic-home"}
    events = []
    for name, text in pages().items():
        if name != "README.md":
            tree, whole = parse_yaml(text.partition("```yaml\n")[2].partition("```")[0])
            assert whole, name
            events += tree.root["events"]
    found = scenario_from_dict({"name": "pages", "duration": "2d", "pool": [group], "events": events})
    assert len(found.events) == len(pages()) - 1


def test_a_page_says_ranges_defaults_and_where_it_acts() -> None:
    text = page(load_fault("comms.latency"))
    assert "| `p99` | 0s to 1h; 1 to 14 times `mean` | required |" in text
    assert "| MIL | `messages`, messages between controller and device, as data |" in text
    assert "| SIL | `link`, bytes of the connection |" in text
    assert "| `direction` | `both`, `commands`, `telemetry` | `both` |" in page(load_fault("comms.partition"))


def test_stale_pages_are_found(tmp_path: Path) -> None:
    write(tmp_path)
    wanted = pages()
    assert list(stale(tmp_path, wanted)) == []
    (tmp_path / "grid.outage.md").write_text("other", encoding="utf-8")
    (tmp_path / "comms.latency.md").unlink()
    (tmp_path / "comms.gone.md").write_text("other", encoding="utf-8")
    assert [text.partition(":")[0] for text in stale(tmp_path, wanted)] == [
        "comms.gone.md is of no fault",
        "comms.latency.md is missing",
        "grid.outage.md is out of date",
    ]
