"""The wheel as a user gets it: built from the source distribution, installed and run elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(
    *(
        ".git",
        ".venv",
        "build",
        "dist",
        "runs",
        "*.egg-info",
        "*.so",
        "__pycache__",
        ".*_cache",
        ".hypothesis",
    )
)
SHIPPED = {".py", ".pyi", ".so", ".yaml", ".typed"}


@dataclass(frozen=True)
class Shipment:
    """What was built, and an environment that has nothing of ours but the installed wheel."""

    sdist: Path
    wheel: Path
    python: Path
    folder: Path
    """Work folder of its own, away from the repository."""

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment from outside the repository."""
        environment = {
            k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "COLUMNS"}
        }
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
        )


def call(*command: str | Path, folder: Path) -> None:
    """Run a build step and show what it said if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def shipment(tmp_path_factory: pytest.TempPathFactory) -> Shipment:
    """Build from a clean copy and install; nothing is fetched.

    A copy, because setuptools would put what an earlier build left behind into the wheel.
    """
    base = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, base / "checkout", ignore=NOT_SOURCE)
    call(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        base / "dist",
        ".",
        folder=base / "checkout",
    )
    (sdist,) = (base / "dist").glob("*.tar.gz")
    (wheel,) = (base / "dist").glob("*.whl")
    call(sys.executable, "-m", "venv", "--without-pip", base / "venv", folder=base)
    python = base / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    call(*pip, "install", "--no-index", "--no-deps", "--quiet", wheel, folder=base)
    # The libraries come from this environment, without its .pth files: the editable install is not seen.
    (packages,) = (base / "venv" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (base / "elsewhere").mkdir()
    return Shipment(sdist, wheel, python, base / "elsewhere")


def unwanted(names: list[str]) -> list[str]:
    """Return the files of a wheel that no user needs."""
    ours = [name for name in names if ".dist-info/" not in name]
    fine = [n for n in ours if n.startswith("ridethrough/") and Path(n).suffix in SHIPPED]
    fine = [n for n in fine if not re.search(r"/(tests|build|docs)/", n)]
    return sorted(set(ours) - set(fine))


def test_unwanted_files_are_seen() -> None:
    junk = [
        "ridethrough/emulator/_kernel.c",
        "ridethrough/emulator/_kernel.pyx",
        "tests/test_x.py",
        "setup.py",
    ]
    assert unwanted([*junk, "ridethrough/hil/cli.py", "r.dist-info/RECORD"]) == sorted(junk)


def test_wheel_holds_every_module_and_every_fixture_and_no_more(shipment: Shipment) -> None:
    names = zipfile.ZipFile(shipment.wheel).namelist()
    assert unwanted(names) == []
    for room in ("emulator", "hil", "controllers", "fixtures"):
        for path in (ROOT / room).rglob("*"):
            if path.suffix in {".py", ".pyi", ".yaml", ".typed"}:
                assert f"ridethrough/{path.relative_to(ROOT).as_posix()}" in names
    for source in (ROOT / "emulator").glob("*.pyx"):
        assert any(re.match(rf"ridethrough/emulator/{source.stem}\.[\w-]+\.so", name) for name in names)
    assert any(re.fullmatch(r"ridethrough-[\d.]+\.dist-info/licenses/LICENSE", name) for name in names)


def test_source_distribution_has_what_building_and_testing_need(shipment: Shipment) -> None:
    with tarfile.open(shipment.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "setup.py", "pyproject.toml", "Makefile"}
    wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "emulator").rglob("*.h")}
    assert "emulator/_kernel.h" in wanted
    wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert wanted <= names
    made = [name for name in names if name.endswith((".c", ".cpp", ".so")) and not name.startswith("tests/")]
    assert made == []  # the tests bring C programs of their own
    wanted_c = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.c")}
    assert wanted_c
    assert wanted_c <= names


def test_installed_modules_come_from_the_wheel(shipment: Shipment) -> None:
    code = (
        "import ridethrough.emulator._kernel as k, ridethrough.fixtures as f; print(k.__file__, f.__file__)"
    )
    done = shipment.run(shipment.python, "-c", code)
    assert done.returncode == 0, done.stderr
    for path in done.stdout.split():
        assert shipment.python.parent.parent in Path(path).parents


def test_command_runs_from_another_folder(shipment: Shipment) -> None:
    command = shipment.python.parent / "ridethrough"
    help_text = shipment.run(command, "--help")
    assert help_text.returncode == 0, help_text.stderr
    for verb in ("run", "list"):
        assert re.search(rf"\b{verb}\b", help_text.stdout)
    listed = shipment.run(command, "list", "devices")
    assert listed.returncode == 0, listed.stderr
    for profile in (ROOT / "fixtures" / "devices").glob("*.yaml"):
        assert profile.stem in listed.stdout
    assert list(shipment.folder.iterdir()) == []
