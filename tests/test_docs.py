"""docs/model says what the code does: fields are named, figures are what the plant gives, numbers hold."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ridethrough.emulator import fields, reference
from ridethrough.emulator.plant import Plant

from tests.plots import batteries
from tests.plots.catalogue import FIGURES, FOLDER
from tests.plots.figure import Figure, Panel, digest, line, read
from tests.plots.tables import TABLES, table

DOCS = FOLDER.parent
PAGES = [DOCS / "model.md", *(page for page in sorted(FOLDER.glob("*.md")) if page.stem not in TABLES)]
SVG_BYTES_MAX = 40_000
LONG = ("ageing",)
"""Figures that take minutes; their first years are run."""


def unnamed(text: str) -> Iterator[str]:
    """Object to fields that a text does not name as code."""
    named = set(re.findall(r"`(\w+)`", text))
    for group in ("PARAM", "CONTROL", "INPUT", "STATE"):
        yield from (f"{group} {name}" for name in getattr(fields, group) if name not in named)


def misdrawn(name: str, folder: Path) -> Iterator[str]:
    """Object to a drawing that is not there, too large, or not made from the numbers beside it."""
    numbers, drawing = folder / f"{name}.csv", folder / f"{name}.svg"
    if not (numbers.exists() and drawing.exists()):
        yield f"{name}: csv or svg is missing: make plots"
        return
    text = drawing.read_text(encoding="utf-8")
    if digest(numbers.read_text(encoding="utf-8")) not in text:
        yield f"{name}: drawn from other numbers: make plots"
    if len(text.encode()) > SVG_BYTES_MAX:
        yield f"{name}: {len(text.encode())} bytes; at most {SVG_BYTES_MAX}"


def stored(name: str) -> str:
    return (FOLDER / f"{name}.csv").read_text(encoding="utf-8")


def test_every_field_is_named() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "model").glob("*.md"))
    assert list(unnamed(text)) == []


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_made_from_the_present_code(name: str) -> None:
    assert (FOLDER / f"{name}.md").read_text(encoding="utf-8") == table(name), "make plots"


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_from_their_numbers_and_shown_once(name: str) -> None:
    assert list(misdrawn(name, FOLDER)) == []
    shown = [page for page in PAGES if f"]({name}.svg)" in page.read_text(encoding="utf-8")]
    assert len(shown) == 1


def test_there_are_no_other_figures() -> None:
    assert {path.stem for path in FOLDER.iterdir() if path.suffix in (".svg", ".csv")} == set(FIGURES)


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in LONG])
def test_the_plant_gives_the_numbers_of_a_figure(name: str) -> None:
    assert FIGURES[name](Plant).text() == stored(name), f"python -m tests.plots {name}"


@pytest.mark.slow
def test_the_plant_gives_the_first_year_of_ageing() -> None:
    found, whole = read(batteries.ageing(Plant, years=1).text()), read(stored("ageing"))
    assert found.keys() == whole.keys()
    for key, (years, health) in found.items():
        assert np.interp(years, *whole[key]) == pytest.approx(health, abs=2e-6)
        assert health[-1] < 1.0


@pytest.mark.parametrize("name", ["volt-var", "watt-var", "ocv"])
def test_the_reference_gives_the_same_numbers(name: str) -> None:
    make = functools.partial(Plant, advance=reference.advance)
    assert FIGURES[name](make).text() == stored(name)


def value(name: str, panel: int, label: str, x: float) -> float:
    """Return a figure's line at a place."""
    xs, ys = read(stored(name))[panel, label]
    return float(np.interp(x, xs, ys))


def first(name: str, panel: int, label: str, below: float) -> float:
    """Return where a line is first below a value."""
    xs, ys = read(stored(name))[panel, label]
    return float(xs[np.flatnonzero(ys < below)[0]])


CLAIMS: list[tuple[str, str, Callable[[], float]]] = [
    (
        "functions",
        "{:.3f} of the way after 5 s",
        lambda: value("volt-var-step", 1, "response time 5 s in steps of 1 s", 5),
    ),
    ("functions", "absorbs {:.3f} for ever", lambda: -value("vref-auto", 1, "reference fixed", 30)),
    ("functions", "charges with {:.3f} of its rating", lambda: -value("droop", 1, "0.5 of P before", 61.8)),
    ("functions", "one at rest with {:.3f}", lambda: -value("droop", 1, "0 of P before", 61.8)),
    ("functions", "only {:.3f} of P", lambda: float(read(stored("watt-var"))[1, "category B"][0][-1])),
    (
        "protection",
        "after {:.0f} s instead of 21 s",
        lambda: value("trips", 1, "category III, trips when it may", 0.8),
    ),
    ("protection", "current limit of 1.2, {:,.0f} W", lambda: value("ride-through", 2, "category II", 2.1)),
    ("islands", "{:.2f} of 4 kW", lambda: value("frequency-shift", 2, "PV droop", 80) / 1000),
    ("islands", "at {:.2f} Hz. With", lambda: value("frequency-shift", 1, "PV droop", 80)),
    ("islands", "empty at {:.0f} min", lambda: first("shedding", 1, "served", 1.0)),
    ("islands", "alone at {:.2f} Hz", lambda: value("community", 2, "node 20 kW", 62)),
    ("islands", "{:.2f} Hz at 107 s", lambda: value("community", 2, "node 20 kW", 107)),
    ("islands", "back to {:.2f} kW", lambda: value("community", 3, "PV", 480)),
    ("battery", "left with {:.3f} after 10 years", lambda: value("ageing", 1, "LFP rests full", 10)),
    ("battery", "it has {:.3f} after 20 years", lambda: value("ageing", 1, "LFP one cycle a day", 20)),
    ("battery", "{:.3f} with the same cycle", lambda: value("ageing", 1, "NMC one cycle a day", 20)),
    ("battery", "{:.0f} W go in", lambda: -value("taper", 1, "no taper", 4)),
    ("feeder", "has {:.4f} pu", lambda: value("feeder", 1, "without functions", 215)),
    ("feeder", "to {:.4f} pu", lambda: value("feeder", 1, "volt-var", 215)),
]
"""Page, what it says, and the number that belongs there."""


@pytest.mark.parametrize(("page", "phrase", "number"), CLAIMS)
def test_numbers_in_the_text_are_those_of_the_figures(
    page: str, phrase: str, number: Callable[[], float]
) -> None:
    text = " ".join((FOLDER / f"{page}.md").read_text(encoding="utf-8").split())
    assert phrase.format(number()) in text


# The checkers, shown what they must catch.


def test_field_checker_objects() -> None:
    every = " ".join(f"`{n}`" for g in ("PARAM", "CONTROL", "INPUT", "STATE") for n in getattr(fields, g))
    assert list(unnamed(every)) == []
    assert list(unnamed(every.replace("`droop_on`", "droop_on"))) == ["STATE droop_on"]


def test_drawing_checker_objects(tmp_path: Path) -> None:
    assert len(list(misdrawn("a", tmp_path))) == 1
    (tmp_path / "a.csv").write_text("panel,line,x,y\n1,a,0,1\n", encoding="utf-8")
    good = f"<svg>{digest((tmp_path / 'a.csv').read_text(encoding='utf-8'))}</svg>"
    (tmp_path / "a.svg").write_text(good, encoding="utf-8")
    assert list(misdrawn("a", tmp_path)) == []
    (tmp_path / "a.svg").write_text(good + " " * SVG_BYTES_MAX, encoding="utf-8")
    assert len(list(misdrawn("a", tmp_path))) == 1
    (tmp_path / "a.csv").write_text("panel,line,x,y\n1,a,0,2\n", encoding="utf-8")
    (tmp_path / "a.svg").write_text(good, encoding="utf-8")
    assert len(list(misdrawn("a", tmp_path))) == 1


def test_another_plant_gives_other_numbers() -> None:
    """The comparison of numbers sees a voltage that is a thousandth off."""

    def biased(*args: Any, **options: Any) -> Plant:
        plant = Plant(*args, **options)
        plain = plant.set_input
        plant.set_input = lambda name, values: plain(name, np.multiply(values, 1.001))  # type: ignore[method-assign]
        return plant

    assert FIGURES["volt-var"](biased).text() != stored("volt-var")


def test_lines_keep_their_shape_and_text_comes_back() -> None:
    x = np.linspace(0.0, 1.0, 101)
    y = np.minimum(x, 0.5)
    thin = line("a, b", x, y)
    assert len(thin.x) == 3
    assert np.interp(x, thin.x, thin.y) == pytest.approx(y)
    figure = Figure("t", "x", (Panel("y", (thin,)),))
    assert read(figure.text())[1, "a, b"][1] == pytest.approx([0.0, 0.5, 0.5])


def test_drawings_have_text_no_date_and_equal_bytes() -> None:
    pytest.importorskip("matplotlib", reason="of the extra docs")
    from tests.plots.draw import svg

    figure = Figure("A title", "time [s]", (Panel("power [W]", (line("a", [0.0, 1.0], [1.0, 2.0]),)),))
    drawn = svg(figure)
    assert drawn == svg(figure)
    assert ">A title</text>" in drawn
    assert digest(figure.text()) in drawn
    assert "<dc:date>" not in drawn
    many = np.arange(4000.0)
    crowded = Figure("A title", "time [s]", (Panel("y", (line("a", many, many % 7.0, "dots"),)),))
    with pytest.raises(ValueError, match="bytes of SVG"):
        svg(crowded)
