"""Builds the Modbus core with the address and undefined-behaviour sanitisers, aside from the one in use."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = ("_pdu", "_modbus")
SOURCES = ("_pdu.pyx", "_pdu.pxd", "_pdu.h", "_modbus.pyx", "_modbus.pxd")
DEVICE_MODULES = ("_registers",)
DEVICE_SOURCES = ("_registers.pyx", "_measure.h")
PYTHON = ("__init__.py", "errors.py")
# The checks that Cython itself could make are off, as in setup.py: the sanitiser is to see what is there.
DIRECTIVES = "boundscheck=False,wraparound=False,cdivision=True,initializedcheck=False"
SANITISERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")


def runtime() -> Path | None:
    """Return the address sanitiser's library, which must be loaded before Python; None if there is none."""
    try:
        found = subprocess.run(
            ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    path = Path(found.stdout.strip())
    return path if path.is_absolute() and path.exists() else None


def build(
    folder: Path, changes: Mapping[str, tuple[str, str]] | None = None, *, devices: bool = False
) -> Path:
    """Build the core in `folder` as ridethrough.emulator, and return what to put on PYTHONPATH.

    Parameters
    ----------
    folder : Path
        Does not exist yet.
    changes : mapping, optional
        Per source file a text in it and what to put in its place: a defect to be found.
    devices : bool
        Build the registers of real devices as well, and link the rest of the emulator beside them.

    Raises
    ------
    ValueError
        The text to be replaced is not there exactly once.
    subprocess.CalledProcessError
        Cython or the compiler failed.
    """
    package = folder / "ridethrough" / "emulator"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    for name in (*SOURCES, *PYTHON, *(DEVICE_SOURCES if devices else ())):
        text = (ROOT / "emulator" / name).read_text(encoding="utf-8")
        if changes and name in changes:
            old, new = changes[name]
            if text.count(old) != 1:
                raise ValueError(f"{name} has {old!r} {text.count(old)} times, not once")
            text = text.replace(old, new)
        (package / name).write_text(text, encoding="utf-8")
    modules = (*MODULES, *(DEVICE_MODULES if devices else ()))
    if devices:
        for path in sorted((ROOT / "emulator").iterdir()):
            if path.name.partition(".")[0] not in modules and not (package / path.name).exists():
                (package / path.name).symlink_to(path)
    together = [subprocess.Popen(["sh", "-c", command(package, name)]) for name in modules]
    for process in together:
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return folder


def command(package: Path, name: str) -> str:
    """Return the shell's line that translates and compiles one module."""
    include = sysconfig.get_paths()["include"]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    translate = (
        f"'{sys.executable}' -m cython -3 -X {DIRECTIVES} --module-name ridethrough.emulator.{name} "
        f"-I '{package.parent.parent}' '{package}/{name}.pyx' -o '{package}/{name}.c'"
    )
    compile_ = (
        f"gcc -shared -fPIC -O0 -g1 {' '.join(SANITISERS)} -I'{include}' -I'{package}' "
        f"-I'{ROOT}/build/include' "
        f"'{package}/{name}.c' -o '{package}/{name}{suffix}'"
    )
    return f"{translate} && {compile_}"


def environment(folder: Path, library: Path, pools: bool) -> dict[str, str]:
    """Return the environment of a Python that runs the build in `folder`.

    Parameters
    ----------
    folder, library : Path
        What `build` and `runtime` returned.
    pools : bool
        With Python's own memory pools: three times as fast, but what runs over the end of an object smaller
        than 512 bytes is not seen.
    """
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "PYTHONMALLOC": "pymalloc" if pools else "malloc",
        # Python does not free all when it ends.  What is freed is kept for a while: not so much as a leak.
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=8:malloc_context_size=1:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
