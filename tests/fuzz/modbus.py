"""Fuzzes the Modbus core under the sanitisers: python -m tests.fuzz.modbus --frames N --seed S.

Builds the core into a temporary folder and runs harness.py there, in a process of its own: nine frames of ten
with Python's own memory pools, the tenth without.  What is found is printed with its seed and batch; the
sanitiser's report goes to the error output.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.build import ROOT, build, environment, runtime
from tests.fuzz.harness import FOUND


def fuzz(
    folder: Path, library: Path, frames: int, seed: int, *, pools: bool = False, devices: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the harness on a build; for the options see build.py."""
    options = [f"--frames={frames}", f"--seed={seed}", f"--folder={folder}", *["--devices"] * devices]
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.harness", *options],
        env=environment(folder, library, pools),
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
    )
    progress = folder / "progress"
    if run.returncode not in (0, FOUND) and progress.exists():
        run.stderr += f"\ndied with {run.returncode}: seed {seed}, batch {progress.read_text()}\n"
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    library = runtime()
    if library is None:
        print("libasan was not found; it comes with gcc", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = build(Path(scratch) / "build")
        for pools, share in ((False, 0.1), (True, 0.9)):
            run = fuzz(folder, library, int(options.frames * share), options.seed + pools, pools=pools)
            print(run.stdout, end="")
            print(run.stderr, end="", file=sys.stderr)
            if run.returncode != 0:
                return run.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
