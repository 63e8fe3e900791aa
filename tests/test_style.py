"""Style that a machine can check and ruff does not: lengths, unfinished work, machine paths, dead links.

Each checker takes text and returns objections, so that it can be shown bad text as well as the repository.
"""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("emulator", "hil", "controllers", "fixtures", "tests", "docs", ".ci")
CODE = {".py", ".pyx", ".pxd", ".h", ".c"}
PROSE_AND_DATA = {".pyi", ".md", ".yaml", ".yml", ".toml", ".in", ".csv", ""}
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

MARKS = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")  # in halves, so that this file passes
UNFINISHED = re.compile(rf"\b({'|'.join(MARKS)})\b")
MACHINE_PATH = re.compile(
    r"(?<![\w.}~])(?:/(?:home/[a-z]\w*/|Users/|root/|work/|opt/|mnt/)|[A-Z]:\\Users)\w*"
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def files() -> list[Path]:
    """Return the project's own text files."""
    found = [p for p in ROOT.iterdir() if p.is_file() and not p.name.startswith(".")]
    for folder in FOLDERS:
        found += [p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return sorted(p for p in found if p.suffix in CODE | PROSE_AND_DATA)


def long_file(text: str) -> Iterator[str]:
    """Object to a source file that has grown too long."""
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"1: file of {lines} lines; at most {FILE_LINES_MAX}"


def long_functions(text: str, suffix: str) -> Iterator[str]:
    """Object to functions that have grown too long."""
    spans = {
        ".py": python_functions,
        ".pyx": cython_functions,
        ".pxd": cython_functions,
        ".h": c_functions,
        ".c": c_functions,
    }[suffix](text)
    for name, first, last in spans:
        if last - first + 1 > FUNCTION_LINES_MAX:
            yield f"{first}: {name} has {last - first + 1} lines; at most {FUNCTION_LINES_MAX}"


def python_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, first and last line of each function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, node.end_lineno or node.lineno


def cython_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """The same for Cython: a body ends before the next line that is no deeper than its head."""
    lines = text.splitlines()
    head = re.compile(r"(\s*)(?:async\s+def|def|cp?def)\s(?!extern|enum|struct|class|union)[^=(]*?(\w+)\(")
    for first, line in enumerate(lines):
        match = head.match(line)
        if not match:
            continue
        depth = len(match[1])
        last = end_of_head = end_of_signature(lines, first)
        for number in range(end_of_head + 1, len(lines)):
            body = lines[number]
            if body.strip() and len(body) - len(body.lstrip()) <= depth:
                break
            last = number if body.strip() else last
        yield match[2], first + 1, last + 1


def end_of_signature(lines: list[str], first: int) -> int:
    """Index of the line on which the brackets opened on line `first` are closed."""
    open_brackets = 0
    for number in range(first, len(lines)):
        open_brackets += lines[number].count("(") - lines[number].count(")")
        if open_brackets <= 0:
            return number
    return first


def c_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """The same for C: from a head at the margin to the closing brace at the margin."""
    start: tuple[str, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"[A-Za-z][\w\s*]*?(\w+)\(", line)
        if start is None and match and not line.rstrip().endswith((";", "}")):
            start = match[1], number
        elif start is not None and line.startswith("}"):
            yield *start, number
            start = None


def unfinished(text: str) -> Iterator[str]:
    """Object to notes of work that was left undone."""
    for number, line in enumerate(text.splitlines(), 1):
        if match := UNFINISHED.search(line):
            yield f"{number}: {match[0]}: finish it, or open an issue"


def machine_paths(text: str) -> Iterator[str]:
    """Object to paths that exist on one machine only."""
    for number, line in enumerate(text.splitlines(), 1):
        if match := MACHINE_PATH.search(line):
            yield f"{number}: {match[0]}: path of one machine"


def dead_links(text: str, folder: Path) -> Iterator[str]:
    """Object to relative links in Markdown that lead nowhere."""
    for number, line in enumerate(text.splitlines(), 1):
        for target in LINK.findall(line):
            if re.match(r"[a-z]+:|#", target):
                continue
            if not (folder / target.partition("#")[0]).exists():
                yield f"{number}: {target}: there is no such file"


def misplaced_fields(header: str, fields: dict[str, object]) -> Iterator[str]:
    """Object to any difference between the C enumerations and the tuples of fields.py."""
    enums = [re.split(r"\s*,\s*", body.strip()) for body in re.findall(r"enum\s*\{([^}]*)\}", header)]
    in_c = {names[-1].removesuffix("_COUNT"): names for names in enums}
    in_python = {name: value for name, value in fields.items() if name.isupper() and isinstance(value, tuple)}
    for group in sorted(in_c.keys() | in_python.keys()):
        wanted = [f"{group}_{name}" for name in in_python.get(group, ())] + [f"{group}_COUNT"]
        if in_c.get(group) != wanted:
            yield f"{group}: C has {in_c.get(group)}, fields.py has {wanted}"
    for name in ("LANES", "TICKS_PER_S"):
        if not re.search(rf"^#define RT_{name} {fields[name]}$", header, re.MULTILINE):
            yield f"{name}: C has not {fields[name]}"


def placed(path: Path, objections: Iterator[str]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{objection}" for objection in objections]


# The repository.


def test_files_and_functions_are_short() -> None:
    found = []
    for path in files():
        if path.suffix in CODE:
            text = path.read_text(encoding="utf-8")
            found += placed(path, long_file(text)) + placed(path, long_functions(text, path.suffix))
    assert not found, "\n".join(found)


def test_nothing_is_left_unfinished_or_tied_to_one_machine() -> None:
    found = []
    for path in files():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += placed(path, unfinished(text)) + placed(path, machine_paths(text))
    assert not found, "\n".join(found)


def test_links_in_documents_lead_somewhere() -> None:
    documents = [path for path in files() if path.suffix == ".md"]
    found = [o for path in documents for o in placed(path, dead_links(path.read_text(), path.parent))]
    assert ROOT / "README.md" in documents
    assert not found, "\n".join(found)


def test_c_header_has_the_fields_of_fields_py() -> None:
    header = ROOT / "build" / "include" / "_fields.h"
    assert header.exists(), "run `make build` first: setup.py writes this header"
    found = list(misplaced_fields(header.read_text(), runpy.run_path(str(ROOT / "emulator" / "fields.py"))))
    assert not found, "\n".join(found)


# The checkers, shown what they must catch and what they must let pass.


def test_length_checkers() -> None:
    assert list(long_file("x\n" * 500)) == []
    assert list(long_file("x\n" * 501)) == ["1: file of 501 lines; at most 500"]


@pytest.mark.parametrize(
    ("suffix", "head", "line", "tail"),
    [
        (".py", "def f():\n", "    x = 1\n", "y = 2\n"),
        (".py", "class A:\n    async def f(self):\n", "        x = 1\n", "    y = 2\n"),
        (".pyx", "cdef int f(int a,\n", "    int b_%d,\n", "    int c) nogil:\n    return 1\n"),
        (".pyx", "cpdef bytes f(self, int k=4):\n", "    x = 1\n\n", "y = 2\n"),
        (".pyx", "cdef class A:\n    def f(self):\n", "        x = 1\n", "    cdef int y\n"),
        (".h", "static inline double f(double x)\n{\n", "    x += 1;\n", "}\nint y;\n"),
        (".h", "static void f(int a,\n       int b) {\n", "    a += 1;\n", "}\n"),
    ],
)
def test_function_length_checker(suffix: str, head: str, line: str, tail: str) -> None:
    assert list(long_functions(head + line * 30 + tail, suffix)) == []
    objections = list(long_functions(head + line * 75 + tail, suffix))
    assert len(objections) == 1
    assert " f has " in objections[0]


def test_function_length_is_counted_to_the_line() -> None:
    for suffix, head, line, tail in [
        (".py", "def f():\n", "    pass\n", ""),
        (".pyx", "cdef f():\n", "    pass\n", "\n\nx = 1\n"),
        (".h", "void f(void)\n", "{}\n", "}\n"),
    ]:
        extra = 2 if suffix == ".h" else 1
        assert list(long_functions(head + line * (70 - extra) + tail, suffix)) == []
        assert len(list(long_functions(head + line * (71 - extra) + tail, suffix))) == 1


@pytest.mark.parametrize("mark", MARKS)
def test_unfinished_checker_objects(mark: str) -> None:
    for line in (f"x = 1  # {mark}: more", mark, f"/* {mark} */"):
        assert len(list(unfinished(f"fine\n{line}\n"))) == 1
    assert list(unfinished("the todo list, XXXL, hacksaw\n")) == []


@pytest.mark.parametrize("path", ["home/ada/x", "root/x", "work/main/a", "Users/ada"])
def test_machine_path_checker_objects(path: str) -> None:
    for line in (f"see /{path}\n", f"'/{path}'", f"x=/{path}"):
        assert len(list(machine_paths(line))) == 1
    assert len(list(machine_paths(r"C:\Us" + r"ers\ada"))) == 1


def test_machine_path_checker_lets_names_pass() -> None:
    assert (
        list(machine_paths("f'{seed}/home/17/load' home/17 tests/root/x ../work/y /tmp/x /dev/ttyUSB0\n"))
        == []
    )


def test_link_checker() -> None:
    text = "[a](README.md#files) [b](https://example.org) [c](#here)\n[d](docs/nowhere.md)\n"
    assert list(dead_links(text, ROOT)) == ["2: docs/nowhere.md: there is no such file"]


def test_field_checker() -> None:
    header = "#define RT_LANES 8\n#define RT_TICKS_PER_S 50\nenum { STATE_a, STATE_b, STATE_COUNT };\n"
    fields: dict[str, object] = {"LANES": 8, "TICKS_PER_S": 50, "STATE": ("a", "b"), "__name__": "x"}
    assert list(misplaced_fields(header, fields)) == []
    assert len(list(misplaced_fields(header, fields | {"STATE": ("b", "a")}))) == 1
    assert len(list(misplaced_fields(header, fields | {"STATE": ("a", "b", "c")}))) == 1
    assert len(list(misplaced_fields(header, fields | {"PARAM": ("a",)}))) == 1
    assert len(list(misplaced_fields(header, fields | {"LANES": 16}))) == 1
