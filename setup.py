"""Builds the compiled parts, the header they share, and the name tree.

Everything else is declared in pyproject.toml.  The folders at the top of the repository are imported as
ridethrough.<folder>.  Cython and mypy find modules by path alone, so build/names/ridethrough links each
folder under its import name.  RIDETHROUGH_BOUNDSCHECK=1 builds for debugging: array bounds checked, symbols
kept.
"""

import os
import runpy
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOMS = ("emulator", "hil", "controllers", "fixtures")
NAMES = Path("build/names/ridethrough")
INCLUDE = Path("build/include")


def link_rooms() -> None:
    """Link build/names/ridethrough/<room> to each room."""
    NAMES.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        link = NAMES / room
        if not link.is_symlink():
            link.symlink_to(Path("../../..") / room, target_is_directory=True)


def write_fields_header() -> None:
    """Write the field enumerations of emulator/fields.py for the C compiler."""
    fields = runpy.run_path("emulator/fields.py")
    lines = ["/* Made by setup.py from emulator/fields.py. */", "#ifndef RT_FIELDS_H", "#define RT_FIELDS_H"]
    lines += [f"#define RT_{name} {fields[name]}" for name in ("LANES", "TICKS_PER_S")]
    for group in ("STATUS", "REVERT", "PARAM", "CONTROL", "INPUT", "STATE"):
        names = [f"{group}_{name}" for name in fields[group]] + [f"{group}_COUNT"]
        lines += [f"enum {{ {', '.join(names)} }};"]
    text = "\n".join([*lines, "#endif", ""])
    header = INCLUDE / "_fields.h"
    INCLUDE.mkdir(parents=True, exist_ok=True)
    if not header.exists() or header.read_text() != text:  # an unchanged time stamp saves a rebuild
        header.write_text(text)


def extensions() -> list[Extension]:
    """Describe the compiled modules."""
    checked = os.environ.get("RIDETHROUGH_BOUNDSCHECK") == "1"
    # No fused multiply-add, no fast-math, no -march: every machine must round alike, or a record depends on
    # the machine that made it.
    flags = ["-O3", "-ffp-contract=off", "-fno-math-errno"]
    if not checked:
        flags.append("-g0")  # a distribution's Python asks for symbols: seven times the size
    headers = sorted(str(header) for header in Path("emulator").glob("*.h"))
    modules = [
        Extension(
            f"ridethrough.emulator.{name}",
            [f"emulator/{name}.pyx"],
            include_dirs=["emulator", str(INCLUDE)],
            depends=[*headers, str(INCLUDE / "_fields.h")],
            extra_compile_args=flags,
        )
        for name in ("_kernel", "_registers", "_modbus")
        if Path(f"emulator/{name}.pyx").exists()
    ]
    directives = {
        "language_level": 3,
        "boundscheck": checked,
        "wraparound": False,
        "cdivision": True,
        "initializedcheck": checked,
    }
    return cythonize(
        modules, include_path=["build/names"], build_dir="build/cython", compiler_directives=directives
    )


link_rooms()
write_fields_header()
setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count()}})
