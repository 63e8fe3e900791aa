"""The arrows between the rooms, and what the physics and the controllers must not touch.

Each checker takes what a source text names and returns objections, so that it can be shown bad text as well
as the repository.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARROWS = {
    "emulator": frozenset[str](),
    "controllers": frozenset[str](),
    "fixtures": frozenset[str](),
    "hil": frozenset({"emulator", "controllers", "fixtures"}),
}
"""Room, and the rooms it may import."""

PURE_ROOMS = ("emulator", "controllers")
OUTSIDE_WORLD = (
    *("time", "datetime", "zoneinfo", "sched", "libc.time", "posix"),
    *("asyncio", "socket", "socketserver", "select", "selectors", "ssl", "http", "urllib"),
    *("threading", "multiprocessing", "concurrent", "subprocess", "signal", "importlib"),
)
"""Modules that bring a clock, a peer or another thread of control."""
DATA = ("importlib.resources",)
"""Bundled files are constants."""
MAY = {
    "emulator/server.py": ("asyncio", "socket"),
    "emulator/serial_line.py": ("asyncio",),
    "emulator/rtu_tcp.py": ("asyncio",),
    "emulator/tls.py": ("ssl",),
    "emulator/quirks/transport.py": ("asyncio",),
    "emulator/quirks/transport_peer.py": ("asyncio", "socket"),
    "emulator/_peer.pyi": ("asyncio",),
    "emulator/_kernel.pyx": ("concurrent.futures",),
    "controllers/examples/modbus_careful.py": ("time",),  # a program of its own, which the bench starts
    "controllers/examples/mqtt_careful.py": ("asyncio", "time", "urllib.parse"),  # the same
}
"""The server is the one file that does I/O; even there the loop is the only clock.  The kernel may hand
slices of a large fleet to threads: no device knows of another, so nothing depends on their order."""

CHANCE = frozenset({"random", "secrets", "uuid", "os.urandom", "os.getrandom"})
NUMPY_CHANCE = "numpy.random."
PURE_NUMPY_CHANCE = frozenset({"Generator", "BitGenerator"})
"""A generator may be handed in; it is not made in the rooms of the physics and the controllers."""
SEEDED_NUMPY_CHANCE = PURE_NUMPY_CHANCE | {"Philox", "PCG64", "PCG64DXSM", "SFC64", "SeedSequence"}

EXACT_MATHS = (
    *("NAN", "INFINITY", "isnan", "isinf", "isfinite"),
    *("ceil", "floor", "trunc", "rint", "fabs", "fmin", "fmax", "fmod", "sqrt"),
)
"""What IEEE 754 fixes to the last bit."""
INEXACT_C = frozenset(
    name + suffix
    for name in (
        *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "cbrt", "hypot", "erf", "tgamma"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "fma"),
    )
    for suffix in ("", "f", "l")
)
"""What differs between C libraries or processors."""
PURE_HEADERS = ("stddef.h", "stdint.h", "stdbool.h", "string.h", "math.h", "immintrin.h")

JUDGE_FILES = frozenset(
    {"judge", "invariants", "findings", "timeline", "promise", "header", "loading"}
    | {"record", "record_files", "record_tables"}
)
"""The judge, what it computes with, and the reader of the record; all else in hil it must not know."""
RECORD_MAY = frozenset({"pyarrow", "ridethrough.emulator.errors"})
"""The reader of the record needs a Parquet library and the one root of all errors."""


@dataclass
class Names:
    """What one source file names of other modules.

    Attributes
    ----------
    imported : list of (int, str)
        Line and dotted name, one for each name brought in; relative ones begin with a dot.
    used : list of (int, str)
        Line and dotted name of each attribute reached through an imported name.
    """

    imported: list[tuple[int, str]] = field(default_factory=list)
    used: list[tuple[int, str]] = field(default_factory=list)
    meaning: dict[str, str] = field(default_factory=dict)

    def add(self, line: int, dotted: str, local: str) -> None:
        """Note that `local` means `dotted` from here on."""
        self.imported.append((line, dotted))
        self.meaning[local] = dotted

    def see(self, line: int, chain: str) -> None:
        """Note a dotted expression, if it begins with an imported name."""
        head, _, rest = chain.partition(".")
        if rest and head in self.meaning:
            self.used.append((line, f"{self.meaning[head]}.{rest}"))

    @property
    def all(self) -> list[tuple[int, str]]:
        """Both lists."""
        return self.imported + self.used


def names_of_python(source: str) -> Names:
    """Read the imports and dotted expressions of Python text."""
    found = Names()
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.Import):
            for item in node.names:
                local = item.asname or item.name.partition(".")[0]
                found.add(node.lineno, item.name, local)
                if not item.asname:  # `import numpy.random` binds `numpy`
                    found.meaning[local] = local
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for item in node.names:
                found.add(node.lineno, joined(base, item.name), item.asname or item.name)
    for node in nodes:
        if isinstance(node, ast.Attribute):
            found.see(node.lineno, ast.unparse(node))
    return found


def names_of_cython(source: str) -> Names:
    """Read the same from Cython text, line by line."""
    found = Names()
    flat = re.sub(r"import\s*\([^)]*\)", on_one_line, source)
    for number, line in enumerate(flat.splitlines(), 1):
        if match := re.match(r"\s*from\s+([\w.]+)\s+c?import\s+([^#]+)", line):
            for item in match[2].strip(" ()\n").split(","):
                name, _, local = (part.strip() for part in item.partition(" as "))
                if name:
                    found.add(number, joined(match[1], name), local or name)
        elif match := re.match(r"\s*c?import\s+([^#]+)", line):
            for item in match[1].split(","):
                name, _, local = (part.strip() for part in item.partition(" as "))
                found.add(number, name, local or name.partition(".")[0])
                if not local:
                    found.meaning[name.partition(".")[0]] = name.partition(".")[0]
        else:
            for chain in re.findall(r"(?<![\w.])[A-Za-z_]\w*(?:\.\w+)+", line):
                found.see(number, chain)
    return found


def on_one_line(brackets: re.Match[str]) -> str:
    """Flatten a bracketed list of names, line count kept."""
    text = re.sub(r"#.*", "", brackets[0])
    return " ".join(text.split()) + "\n" * brackets[0].count("\n")


def joined(base: str, name: str) -> str:
    return base + name if base.endswith(".") else f"{base}.{name}"


def begins_with(dotted: str, modules: Iterable[str]) -> bool:
    """Tell whether a dotted name is, or lies in, one of the modules."""
    return any(dotted == module or dotted.startswith(f"{module}.") for module in modules)


def wrong_arrows(room: str, names: Names, depth: int = 0) -> Iterator[str]:
    """Object to every import against the arrows, or not in the form of the house.

    `depth` is how many folders below its room the file lies.
    """
    for line, dotted in names.imported:
        parts = dotted.split(".")
        if len(dotted) - len(dotted.lstrip(".")) > 1 + depth:
            yield f"{line}: {dotted}: relative import across rooms; write ridethrough.<room>"
        elif parts[0] in ARROWS:
            yield f"{line}: {dotted}: bare name of a folder; write ridethrough.{parts[0]}"
        elif parts[0] == "ridethrough" and (len(parts) < 2 or parts[1] not in ARROWS):
            yield f"{line}: {dotted}: ridethrough has no such room"
        elif parts[0] == "ridethrough" and parts[1] == room:
            yield f"{line}: {dotted}: write a relative import inside one room"
        elif parts[0] == "ridethrough" and parts[1] not in ARROWS[room]:
            yield f"{line}: {dotted}: {room} must not import {parts[1]}"


def outside_world(names: Names, allowed: Iterable[str] = ()) -> Iterator[str]:
    """Object to clocks, sockets, threads and everything else that is not a function of its arguments."""
    for line, dotted in names.imported:
        if begins_with(dotted, OUTSIDE_WORLD) and not begins_with(dotted, (*DATA, *allowed)):
            yield f"{line}: {dotted}: no clock, socket, thread or late import here"


def inexact_maths(names: Names) -> Iterator[str]:
    """Object to functions of the C library whose last bit differs between machines."""
    for line, dotted in names.imported:
        if dotted.startswith("libc.math.") and dotted.removeprefix("libc.math.") not in EXACT_MATHS:
            yield f"{line}: {dotted}: only functions that IEEE 754 fixes to the last bit"


def chance(names: Names, numpy_may: frozenset[str]) -> Iterator[str]:
    """Object to randomness that the scenario's seed does not rule."""
    for line, dotted in names.all:
        made = (
            dotted.removeprefix(NUMPY_CHANCE).partition(".")[0] if dotted.startswith(NUMPY_CHANCE) else None
        )
        if begins_with(dotted, CHANCE) or (made is not None and made not in numpy_may):
            yield f"{line}: {dotted}: randomness must come from a named stream of the seed"


def partial_judge(name: str, names: Names) -> Iterator[str]:
    """Object to anything the judge could know that is not in the record."""
    for line, dotted in names.imported:
        head = dotted.lstrip(".").partition(".")[0]
        if dotted.startswith("."):
            fine = head in JUDGE_FILES
        else:
            fine = head in sys.stdlib_module_names or head == "numpy"
            fine = fine or (name in ("record", "record_files") and begins_with(dotted, RECORD_MAY))
        if not fine:
            yield f"{line}: {dotted}: the judge reads the record only"


def impure_c(source: str) -> Iterator[str]:
    """Object to C headers of the outside world, and to maths whose last bit differs between machines."""
    for number, line in enumerate(source.splitlines(), 1):
        match = re.match(r"\s*#\s*include\s*<([\w./]+)>", line)
        if match and match[1] not in PURE_HEADERS:
            yield f"{number}: {match[1]}: no clock, socket or input here"
        for call in re.findall(r"\b(\w+)\s*\(", line):
            if call in INEXACT_C:
                yield f"{number}: {call}: only functions that IEEE 754 fixes to the last bit"


def sources(room: str) -> list[Path]:
    return sorted(p for p in (ROOT / room).rglob("*") if p.suffix in {".py", ".pyx", ".pxd", ".pyi"})


def names_of(path: Path) -> Names:
    text = path.read_text(encoding="utf-8")
    return names_of_cython(text) if path.suffix in {".pyx", ".pxd"} else names_of_python(text)


def placed(path: Path, objections: Iterable[str]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{objection}" for objection in objections]


# The repository.


@pytest.mark.parametrize("room", ARROWS)
def test_imports_follow_the_arrows(room: str) -> None:
    assert (ROOT / room / "__init__.py") in sources(room)
    found = []
    for path in sources(room):
        depth = len(path.relative_to(ROOT / room).parts) - 1
        found += placed(path, wrong_arrows(room, names_of(path), depth))
    assert not found, "\n".join(found)


def test_fixtures_are_data_only() -> None:
    assert [p.name for p in sources("fixtures")] == ["__init__.py"]
    assert names_of(ROOT / "fixtures" / "__init__.py").imported == []


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_physics_and_controllers_know_no_outside_world(room: str) -> None:
    found = []
    for path in sources(room):
        allowed = MAY.get(path.relative_to(ROOT).as_posix(), ())
        found += placed(path, outside_world(names_of(path), allowed))
        found += placed(path, chance(names_of(path), PURE_NUMPY_CHANCE))
        found += placed(path, inexact_maths(names_of(path)))
    for header in sorted((ROOT / room).rglob("*.h")):
        found += placed(header, impure_c(header.read_text(encoding="utf-8")))
    assert not found, "\n".join(found)


def test_the_bench_draws_from_seeded_streams_only() -> None:
    found = []
    for path in sources("hil"):
        if path.name != "remote.py":  # the token of its door must be no function of the seed
            found += placed(path, chance(names_of(path), SEEDED_NUMPY_CHANCE))
    assert found == []


def test_the_judge_reads_the_record_only() -> None:
    reached: set[str] = set()
    pending = ["judge"]
    found = []
    while pending:
        name = pending.pop()
        path = ROOT / "hil" / f"{name}.py"
        if name in reached or not path.exists():
            continue
        reached.add(name)
        found += placed(path, partial_judge(name, names_of(path)))
        pending += [d.lstrip(".").partition(".")[0] for _, d in names_of(path).imported if d.startswith(".")]
    assert not found, "\n".join(found)
    assert {"judge", "record"} <= reached


@pytest.mark.parametrize("room", ["emulator", "controllers", "hil"])
def test_bare_name_of_a_room_is_refused(room: str) -> None:
    run = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert f"ImportError: import ridethrough.{room}" in run.stderr


# The checkers, shown what they must catch and what they must let pass.

ARROW_CASES = [
    ("emulator", "from ridethrough.hil.bench import run", "emulator must not import hil"),
    ("emulator", "from ridethrough.controllers import contract", "emulator must not import controllers"),
    ("controllers", "import ridethrough.emulator.plant as p", "controllers must not import emulator"),
    ("controllers", "def f():\n    from ridethrough import emulator", "controllers must not import emulator"),
    ("fixtures", "import ridethrough.hil", "fixtures must not import hil"),
    ("hil", "from ..emulator import plant", "relative import across rooms"),
    ("hil", "import emulator.plant", "bare name of a folder"),
    ("hil", "from ridethrough.dashboard import page", "no such room"),
    ("hil", "from ridethrough.hil.record import Record", "relative import inside one room"),
    ("hil", "from ridethrough.emulator.plant import Plant\nfrom .record import Record\nimport numpy", None),
    ("emulator", "from . import _kernel\nfrom .errors import InvariantError", None),
]


@pytest.mark.parametrize(("room", "source", "objection"), ARROW_CASES)
@pytest.mark.parametrize("read", [names_of_python, names_of_cython])
def test_arrow_checker(room: str, source: str, objection: str | None, read: Callable[[str], Names]) -> None:
    found = list(wrong_arrows(room, read(source)))
    assert len(found) == (objection is not None)
    assert objection is None or objection in found[0]


def test_a_folder_within_a_room_reaches_up_to_its_room_and_no_further() -> None:
    names = names_of_python("from ..fields import PARAM\nfrom ...hil import bench")
    assert [objection[0] for objection in wrong_arrows("emulator", names, 1)] == ["2"]
    assert len(list(wrong_arrows("emulator", names, 0))) == 2


def test_cython_imports_are_read_in_every_form() -> None:
    text = (
        "from libc.time cimport time, clock as c\ncimport posix.unistd\n"
        "from .errors import (  # all\n    A,\n    B,\n)\n    import numpy as np\nx = np.random.rand(3)\n"
    )
    names = names_of_cython(text)
    assert names.imported == [
        (1, "libc.time.time"),
        (1, "libc.time.clock"),
        (2, "posix.unistd"),
        (3, ".errors.A"),
        (3, ".errors.B"),
        (7, "numpy"),
    ]
    assert names.used == [(8, "numpy.random.rand")]


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "from datetime import datetime",
        "import socket as s",
        "import asyncio",
        "from importlib import import_module",
        "def f():\n    import threading",
        "from concurrent.futures import ThreadPoolExecutor",
    ],
)
def test_outside_world_checker_objects(source: str) -> None:
    assert len(list(outside_world(names_of_python(source)))) == 1
    assert len(list(outside_world(names_of_cython(source)))) == 1


def test_outside_world_checker_lets_the_server_have_a_loop_but_no_clock() -> None:
    names = names_of_python("import asyncio\nimport time\nimport timeit_of_mine\n")
    assert list(outside_world(names, MAY["emulator/server.py"])) == [
        "2: time: no clock, socket, thread or late import here"
    ]


@pytest.mark.parametrize(
    ("source", "objections"),
    [
        ("import random", 1),
        ("from os import urandom", 1),
        ("import os\nos.urandom(8)\nos.fspath('a')", 1),
        ("import numpy as np\nnp.random.default_rng()", 1),
        ("import numpy as np\nnp.random.seed(1)\nnp.random.rand()", 2),
        ("from numpy.random import normal", 1),
        ("import numpy.random\nnumpy.random.Philox(1)", 1),
        ("from numpy import random as r\nr.uniform()", 1),
        ("import numpy as np\ndef f(rng: np.random.Generator): rng.random()", 0),
        ("from numpy.random import Generator", 0),
    ],
)
def test_chance_checker(source: str, objections: int) -> None:
    assert len(list(chance(names_of_python(source), PURE_NUMPY_CHANCE))) == objections


def test_chance_checker_lets_the_bench_make_seeded_generators() -> None:
    names = names_of_python(
        "import numpy as np\nnp.random.Generator(np.random.Philox(key=7))\nnp.random.default_rng()"
    )
    assert [o.partition(": r")[0] for o in chance(names, SEEDED_NUMPY_CHANCE)] == [
        "3: numpy.random.default_rng"
    ]


@pytest.mark.parametrize(
    ("name", "source", "objections"),
    [
        (
            "judge",
            "from .record import Record\nimport numpy as np\nimport math\nfrom .invariants import ready",
            0,
        ),
        ("judge", "from .world import World", 1),
        ("judge", "from . import bench", 1),
        ("judge", "from ridethrough.emulator.fields import STATUS", 1),
        ("invariants", "import pyarrow", 1),
        ("record", "import pyarrow.parquet as pq\nfrom ridethrough.emulator.errors import ScenarioError", 0),
        ("record", "from ridethrough.emulator.plant import Plant", 1),
    ],
)
def test_judge_checker(name: str, source: str, objections: int) -> None:
    assert len(list(partial_judge(name, names_of_python(source)))) == objections


def test_maths_checker() -> None:
    names = names_of_cython("from libc.math cimport NAN, sqrt, exp, pow as power\n")
    assert [o.split(": ")[1] for o in inexact_maths(names)] == ["libc.math.exp", "libc.math.pow"]


def test_c_checker() -> None:
    good = '#include "_fields.h"\n#include <math.h>\ndouble expand(double x) { return floor(fabs(x)); }\n'
    assert list(impure_c(good)) == []
    bad = "# include <time.h>\n#include <sys/socket.h>\ny = exp(x) + powf (x, 2) + fma(a, b, c);\n"
    assert [o.split(": ")[1] for o in impure_c(bad)] == ["time.h", "sys/socket.h", "exp", "powf", "fma"]
