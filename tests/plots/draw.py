"""Draws figures as SVG: small, with text as text, and the same bytes from the same numbers.

Rule of this file: the only one that needs matplotlib, which is in the extra `docs`.
"""

from __future__ import annotations

import io
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from tests.plots.figure import Figure, Line, digest

BYTES_MAX: Final = 40_000
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ridethrough",
    "font.size": 9.0,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#cccccc",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
}
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""After Okabe and Ito: told apart by colour-blind readers too."""


def svg(figure: Figure) -> str:
    """Return a figure as SVG; it carries the digest of its numbers."""
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(7.0, 1.2 + 2.1 * max(len(figure.panels), 1.4)), layout="constrained")
        axes = canvas.subplots(len(figure.panels), 1, sharex=not figure.apart, squeeze=False)[:, 0]
        labels = list(dict.fromkeys(line.label for panel in figure.panels for line in panel.lines))
        for ax, panel in zip(axes, figure.panels, strict=True):
            for line in panel.lines:
                _draw(ax, line, COLOURS[labels.index(line.label) % len(COLOURS)])
            ax.set_ylabel(panel.y_label)
            ax.ticklabel_format(useOffset=False)
        seen: set[str] = set()
        for ax, panel in zip(axes, figure.panels, strict=True):
            new = {line.label for line in panel.lines} - seen
            seen |= new
            if new and len(labels) > 1:
                handles = [h for h in ax.get_lines() if h.get_label() in new]
                ax.legend(handles=handles, loc="best")
        axes[0].set_title(figure.title, loc="left", fontsize=10.0)
        axes[-1].set_xlabel(figure.x_label)
        out = io.StringIO()
        facts = {"Date": None, "Creator": None, "Title": figure.title, "Description": digest(figure.text())}
        canvas.savefig(out, format="svg", metadata=facts)
    text = "\n".join(row.rstrip() for row in out.getvalue().splitlines()) + "\n"
    if len(text.encode()) > BYTES_MAX:
        raise ValueError(f"{figure.title}: found {len(text.encode())} bytes of SVG; allowed {BYTES_MAX}")
    return text


def _draw(ax: Axes, line: Line, colour: str) -> None:
    """Draw one line in its style."""
    if line.style == "dots":
        ax.plot(line.x, line.y, ".", color=colour, markersize=4.0, label=line.label)
    elif line.style == "steps":
        ax.plot(line.x, line.y, color=colour, drawstyle="steps-pre", label=line.label)
    else:
        ax.plot(line.x, line.y, color=colour, label=line.label)
