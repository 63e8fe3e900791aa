"""A YAML file as a model, with every mistake of the file reported at once.

Duty: bytes to a model; mistakes to ``file:line: path: found X; allowed Y``; the files that are bundled.
Rules: at most 1 MiB of UTF-8; numbers are never made out of text; nothing here knows what a scenario is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ridethrough.emulator.errors import ScenarioError

from .mistakes import Finding, dotted, findings_of
from .units import did_you_mean, shown
from .yamltree import Place, parse_yaml

BYTES_MAX = 1 << 20

Model = TypeVar("Model", bound=BaseModel)
Check = Callable[[object], Iterable[Finding]]


def load_yaml(path: str | Path, model: type[Model], *, check: Check | None = None) -> Model:
    """Read a YAML file as `model`.

    Parameters
    ----------
    path : str or Path
        The file.
    model : type
        A pydantic model; numbers must be written as numbers.
    check : callable, optional
        Checks between fields; given the plain data, it yields findings.

    Raises
    ------
    ScenarioError
        With every mistake of the file, each as ``file:line: path: found X; allowed Y``.
    """
    file = Path(path)
    return load_text(read_text_file(file), str(path), model, check, file.parent)


def read_text_file(file: Path) -> str:
    """Return the text of a small file.

    Raises
    ------
    ScenarioError
        When there is no such file, or it is no text of at most 1 MiB.
    """
    try:
        if file.is_dir():
            raise ScenarioError(f"{file}: found a folder; allowed a YAML file")
        if not file.exists():
            raise ScenarioError(
                f"{_label(file)}: found no such file{_near_file(file)}; allowed a YAML file that exists"
            )
        if not file.is_file():
            raise ScenarioError(f"{file}: found a device or pipe; allowed a regular file")
        with file.open("rb") as stream:
            data = stream.read(BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ScenarioError(
            f"{_label(file)}: found a file that cannot be read ({reason}); allowed a readable file"
        ) from None
    return decoded(data, str(file))


def _label(file: Path) -> str:
    return str(file) if str(file).isprintable() else repr(str(file))


def _near_file(file: Path) -> str:
    try:
        names = [entry.name for entry in file.parent.iterdir()]
    except OSError:
        return f" (nor the folder {file.parent})"
    return did_you_mean(file.name, names)


def decoded(data: bytes, label: str) -> str:
    """Return the text of a small file's bytes.

    Raises
    ------
    ScenarioError
        When it is no text of at most 1 MiB, or none at all.
    """
    if len(data) > BYTES_MAX:
        raise ScenarioError(
            f"{label}: found more than 1 MiB; allowed at most 1 MiB, data goes into CSV or Parquet files"
        )
    if not data.strip():
        raise ScenarioError(f"{label}:1: found an empty file; allowed a mapping such as 'name: pilot'")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ScenarioError(
            f"{label}:{line}: found byte 0x{data[error.start]:02x}, which is no UTF-8; allowed text in UTF-8"
        ) from None
    if "\0" in text:
        raise ScenarioError(f"{label}: found binary data; allowed YAML text")
    return text


def load_text(text: str, label: str, model: type[Model], check: Check | None, folder: Path | None) -> Model:
    """Read YAML text as `model`; messages call it `label`, and it names files inside `folder`.

    Raises
    ------
    ScenarioError
        With every mistake.
    """
    tree, whole = parse_yaml(text)
    findings = list(tree.findings)
    result = None
    if whole and not isinstance(tree.root, dict):
        findings.append((1, (), f"found {shown(tree.root)}; allowed a mapping such as 'name: pilot'"))
    elif whole:
        result, further = validated(tree.root, model, check, folder)
        findings += [(_line(tree.lines, path), path, text) for path, text in further if path not in tree.void]
    if findings or result is None:
        raise ScenarioError("\n".join(_sentence(label, *finding) for finding in sorted(findings, key=_order)))
    return result


def _order(finding: tuple[int, Place, str]) -> tuple[int, str, str]:
    line, path, text = finding
    return line, dotted(path), text


def _line(lines: Mapping[Place, int], path: Place) -> int:
    while path not in lines:
        path = path[:-1]
    return lines[path]


def _sentence(label: str, line: int, path: Place, text: str) -> str:
    place = dotted(path)
    return f"{label}:{line}: {place}: {text}" if place else f"{label}:{line}: {text}"


def validated(
    data: object, model: type[Model], check: Check | None, folder: Path | None
) -> tuple[Model | None, list[Finding]]:
    """Return the model, or None and what is wrong with the data."""
    findings: list[Finding] = []
    result = None
    try:
        # By way of JSON: strict there means that numbers stay numbers while lists still become tuples.
        result = model.model_validate_json(json.dumps(data), strict=True, context={"folder": folder})
    except ValidationError as error:
        findings += findings_of(error, data, model)
    if check is not None:
        findings += check(data)
    return result, list(dict.fromkeys(findings))


def bundled(kind: str) -> dict[str, Any]:
    """Return the bundled files of one kind by name, ascending; each has `read_bytes`."""
    folder = resources.files("ridethrough.fixtures") / kind
    entries = folder.iterdir() if folder.is_dir() else iter(())
    files = {entry.name.removesuffix(".yaml"): entry for entry in entries if entry.name.endswith(".yaml")}
    return dict(sorted(files.items()))
