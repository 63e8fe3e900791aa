"""Files that are whole and durable, or not there.

Rules of this file: a file is written as ``NAME.tmp``, flushed, synchronised, renamed, and its folder is
synchronised.  What is in it is no business of this file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ridethrough.emulator.errors import InvariantError, RidethroughError, ScenarioError


def sync_folder(folder: Path) -> None:
    """Put on the disk which files a folder holds."""
    if os.name == "nt":  # Windows cannot open a folder for synchronising; its rename is journalled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_aside(path: Path, content: bytes | memoryview) -> None:
    """Make `path` appear with `content`, whole and durable, or not at all."""
    aside = path.with_name(path.name + ".tmp")
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            aside.unlink(missing_ok=True)
        raise RidethroughError(
            f"{path}: cannot be written: {error.strerror or error}. Parts written before it are safe. "
            "Make room or mend the permission, then run again into a new folder."
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Make `path` appear with JSON of `content`; equal content gives equal bytes.

    Raises
    ------
    InvariantError
        The content is something JSON cannot say.
    RidethroughError
        The disk refuses the file.
    """
    try:
        text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InvariantError(f"{path.name}: holds something JSON cannot say: {error}") from error
    write_aside(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises
    ------
    ScenarioError
        It cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ScenarioError(f"{path}: damaged: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ScenarioError(f"{path}: damaged: found {type(content).__name__}, allowed is a JSON object")
    return content
