"""Builds the compiled parts, the headers they share, and the name tree.

Everything else is declared in pyproject.toml.  The folders at the top of the repository are imported as
ridethrough.<folder>.  Cython and mypy find modules by path alone, so build/names/ridethrough links each
folder under its import name.  RIDETHROUGH_BOUNDSCHECK=1 builds for debugging: array bounds checked, symbols
kept.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOMS = ("emulator", "hil", "controllers", "fixtures")
NAMES = Path("build/names/ridethrough")
INCLUDE = Path("build/include")
FIELDS_HEADER, STEP_HEADER = INCLUDE / "_fields.h", INCLUDE / "_step_generated.h"


def link_rooms() -> None:
    """Link build/names/ridethrough/<room> to each room."""
    NAMES.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        link = NAMES / room
        if not link.is_symlink():
            link.symlink_to(Path("../../..") / room, target_is_directory=True)


def write_header(path: Path, text: str) -> None:
    """Write a header, whole or not at all; an unchanged time stamp saves a rebuild."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(text)
        aside.replace(path)


def fields_header() -> str:
    """Return the numbers and field enumerations of emulator/fields.py for the C compiler."""
    fields = {k: v for k, v in runpy.run_path("emulator/fields.py").items() if k.isupper()}
    lines = ["/* Made by setup.py from emulator/fields.py. */", "#ifndef RT_FIELDS_H", "#define RT_FIELDS_H"]
    lines += [f"#define RT_{name} {value}" for name, value in fields.items() if isinstance(value, int)]
    for group, members in fields.items():
        if isinstance(members, tuple):
            names = [f"{group}_{name}" for name in members] + [f"{group}_COUNT"]
            lines += [f"enum {{ {', '.join(names)} }};"]
    return "\n".join([*lines, "#endif", ""])


def step_header() -> str:
    """Return the step of the model in C++, from a Python of its own: nothing of the model is kept here."""
    names = str(NAMES.parent.resolve())
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ridethrough.emulator.emit"],
        # An isolated build finds NumPy by its own sys.path only.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([names, *filter(None, sys.path)]),
            "PYTHONSAFEPATH": "1",
        },
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if run.returncode != 0:
        raise SystemExit(f"emulator/model cannot be compiled:\n{run.stderr}")
    return run.stdout


def extension(path: Path, *, cpp: bool = False) -> Extension:
    """Describe one compiled module of a room."""
    # No fused multiply-add, no fast-math, no -march: every machine must round alike, or a record depends on
    # the machine that made it.
    flags = ["-O3", "-ffp-contract=off", "-fno-math-errno"]
    if os.environ.get("RIDETHROUGH_BOUNDSCHECK") != "1":
        flags.append("-g0")  # a distribution's Python asks for symbols: seven times the size
    headers = [*sorted(Path("emulator").glob("*.h")), FIELDS_HEADER, *([STEP_HEADER] if cpp else [])]
    return Extension(
        f"ridethrough.{path.parent.name}.{path.stem}",
        [str(path)],
        include_dirs=["emulator", str(INCLUDE)],
        depends=[str(header) for header in headers],
        extra_compile_args=[*flags, "-std=c++17", "-Wno-psabi"] if cpp else flags,
        language="c++" if cpp else "c",
    )


def extensions() -> list[Extension]:
    """Describe the compiled modules, translated to C and C++."""
    checked = os.environ.get("RIDETHROUGH_BOUNDSCHECK") == "1"
    directives = {
        "language_level": 3,
        "boundscheck": checked,
        "wraparound": False,
        "cdivision": True,
        "initializedcheck": checked,
    }
    sources = [path for room in ROOMS for path in sorted(Path(room).glob("*.pyx"))]
    return cythonize(
        [extension(path, cpp=path.stem == "_kernel") for path in sources],
        include_path=["build/names"],
        build_dir="build/cython",
        compiler_directives=directives,
    )


class BuildWithVectors(build_ext):
    """Refuses a compiler that cannot do it, in one sentence."""

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "msvc":
            raise SystemExit(
                "Ridethrough's kernel is written with the vector types of GCC and Clang, and this is MSVC: "
                "on Windows, install it under WSL."
            )
        super().build_extensions()


link_rooms()
write_header(FIELDS_HEADER, fields_header())
write_header(STEP_HEADER, step_header())
setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildWithVectors},
    options={"build_ext": {"parallel": os.cpu_count()}},
)
