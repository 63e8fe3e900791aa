"""Makes what is generated in docs: figures and tables of docs/model, pages of docs/faults.

``python -m tests.plots [NAME ...]``; ``make plots`` does all.  Each figure is two files: NAME.csv, the
numbers that a run of the plant gives, and NAME.svg, drawn from them; each table is NAME.md; `faults` is all
of docs/faults.  `--reference` steps in NumPy: the same numbers, a longer wait.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from ridethrough.emulator import reference
from ridethrough.emulator.plant import Plant

from tests.plots import faults
from tests.plots.catalogue import FIGURES, FOLDER
from tests.plots.figure import Figure
from tests.plots.tables import TABLES, table

FAULTS = "faults"


def write(name: str, figure: Figure, folder: Path) -> None:
    """Write both files of a figure."""
    from tests.plots.draw import svg  # so that the tests read numbers without matplotlib

    (folder / f"{name}.svg").write_text(svg(figure), encoding="utf-8")
    (folder / f"{name}.csv").write_text(figure.text(), encoding="utf-8")


def main() -> None:
    """Make what is asked for, or all."""
    names = [*FIGURES, *TABLES, FAULTS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.plots",
        description="Make the figures of docs/model and the pages of docs/faults.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; none: all")
    parser.add_argument("--reference", action="store_true", help="step in NumPy: the same numbers, slowly")
    wanted = parser.parse_args()
    if unknown := sorted(set(wanted.names) - set(names)):
        parser.error(f"found {', '.join(unknown)}; allowed {', '.join(names)}")
    make = functools.partial(Plant, advance=reference.advance) if wanted.reference else Plant
    FOLDER.mkdir(exist_ok=True)
    for name in wanted.names or names:
        if name in FIGURES:
            write(name, FIGURES[name](make), FOLDER)
        elif name == FAULTS:
            faults.write()
        else:
            (FOLDER / f"{name}.md").write_text(table(name), encoding="utf-8")
        print(name, flush=True)


if __name__ == "__main__":
    main()
