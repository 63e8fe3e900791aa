"""YAML text to plain data, with the line of every place.

Duty: read YAML 1.2 within limits and say what breaks them: 20 levels, finite numbers, no anchors, aliases,
tags, duplicate keys or second document.
Rule: scalars are resolved here by YAML's core schema, so that ``NO``, ``12:30:00``, ``1_0`` and dates stay
text whatever the parser thinks of them.
"""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from .units import shown

DEPTH_MAX = 20
DIGITS_MAX = 18
VALUES_MAX = 100_000
FINDINGS_MAX = 100

Place = tuple[str | int, ...]
"""Keys and positions from the top of a file to one value."""

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {"true": True, "True": True, "TRUE": True, "false": False, "False": False}
_WORDS |= {"FALSE": False, "": None, "~": None, "null": None, "Null": None, "NULL": None}


class _Stop(Exception):  # noqa: N818  (a jump out of the parse, not an error)
    """Nothing after this place can be understood."""


class Tree:
    """Builds plain data out of YAML events, remembering the line of every place and every finding."""

    def __init__(self) -> None:
        self.root: Any = None
        self.lines: dict[Place, int] = {}
        self.findings: list[tuple[int, Place, str]] = []
        self.void: set[Place] = set()  # places whose value was refused: what stands there is not the user's
        self._open: list[tuple[Place, dict[str, Any] | list[Any]]] = []
        self._keys: list[str | None] = []  # of each open mapping: the key whose value comes next
        self._documents = 0

    def feed(self, event: Any) -> None:
        """Take the parser's next event."""
        line = event.start_mark.line + 1
        if isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop(line, "found a second document; allowed one document in a file")
        elif isinstance(event, AliasEvent):
            self._stop(line, f"found alias *{event.anchor}; allowed: the value itself, written out")
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent):
            self._node(event, line)

    def _node(self, event: Any, line: int) -> None:
        if self._open and isinstance(self._open[-1][1], dict) and self._keys[-1] is None:
            self._key(event, line)
            return
        path = self._path()
        self.lines.setdefault(path, line)
        if len(self.lines) > VALUES_MAX or len(self.findings) > FINDINGS_MAX:
            self._stop(
                line, f"found more than this reads; allowed {VALUES_MAX} values and {FINDINGS_MAX} mistakes"
            )
        self._refuse_extras(event, line, path)
        if isinstance(event, ScalarEvent):
            self._put(self._scalar(event, line, path))
            return
        if len(self._open) >= DEPTH_MAX:
            self._stop(line, f"found more than {DEPTH_MAX} levels; allowed {DEPTH_MAX}")
        value: dict[str, Any] | list[Any] = {} if isinstance(event, MappingStartEvent) else []
        self._put(value)
        self._open.append((path, value))
        self._keys.append(None)

    def _key(self, event: Any, line: int) -> None:
        if not isinstance(event, ScalarEvent):
            self._keys[-1] = "?"
            self._stop(line, "found a list or mapping as a key; allowed a word")
        path, parent = self._open[-1]
        place = (*path, event.value)
        self._refuse_extras(event, line, place)
        if event.value in parent:
            self.findings.append(
                (
                    line,
                    place,
                    f"found the key a second time (first in line {self.lines[place]}); allowed once",
                )
            )
        else:
            self.lines[place] = line
        self._keys[-1] = event.value

    def _path(self) -> Place:
        if not self._open:
            return ()
        path, parent = self._open[-1]
        return (*path, len(parent) if isinstance(parent, list) else str(self._keys[-1]))

    def _put(self, value: Any) -> None:
        if not self._open:
            self.root = value
            return
        parent = self._open[-1][1]
        if isinstance(parent, list):
            parent.append(value)
        else:
            parent.setdefault(str(self._keys[-1]), value)
            self._keys[-1] = None

    def _scalar(self, event: ScalarEvent, line: int, path: Place) -> Any:
        text = str(event.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.void.add(path)
            self.findings.append(
                (line, path, "found half a character (a lone surrogate); allowed whole ones")
            )
            return ""
        if event.style not in (None, ""):
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _NOT_FINITE.fullmatch(text):
            return self._refuse_number(line, path, text)
        if _INT.fullmatch(text):
            if len(text.lstrip("+-")) > DIGITS_MAX:
                return self._refuse_number(line, path, text)
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            return int(text, base)
        if _FLOAT.fullmatch(text):
            number = float(text) if len(text) < 100 else float("inf")
            return number if abs(number) < float("inf") else self._refuse_number(line, path, text)
        return text

    def _refuse_number(self, line: int, path: Place, text: str) -> None:
        self.void.add(path)
        self.findings.append(
            (line, path, f"found {shown(text)[1:-1]}; allowed finite numbers of at most {DIGITS_MAX} digits")
        )

    def _refuse_extras(self, event: Any, line: int, path: Place) -> None:
        if event.anchor is not None:
            self.findings.append(
                (line, path, f"found anchor &{event.anchor}; allowed: no anchors or aliases")
            )
        if event.tag is not None:
            self.findings.append((line, path, f"found tag {shown(str(event.tag))}; allowed: no tags"))

    def _stop(self, line: int, text: str) -> None:
        self.findings.append((line, self._path(), text))
        raise _Stop


def parse_yaml(text: str) -> tuple[Tree, bool]:
    """Read YAML text; the flag says whether the end was reached."""
    tree = Tree()
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            tree.feed(event)
    except _Stop:
        return tree, False
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        tree.findings.append(
            (mark.line + 1 if mark else 1, (), f"found broken YAML: {problem}; allowed YAML 1.2")
        )
        return tree, False
    except (
        YAMLError,
        ValueError,
        OverflowError,
        AssertionError,
        AttributeError,
        IndexError,
        TypeError,
    ) as error:
        # The parser was written for sane input: on hostile text its own bookkeeping fails in these ways.
        reason = (" ".join(str(error).split()) or type(error).__name__)[:120]
        tree.findings.append((1, (), f"found text that is not YAML: {reason}; allowed YAML 1.2"))
        return tree, False
    return tree, True
