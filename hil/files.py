"""Files users write: found, read and checked, with every mistake of a file reported at once.

Duty: bytes to a model; mistakes to ``file:line: path: found X; allowed Y``; and finding scenarios, device
profiles, quirks and product families, bundled or beside one another.
Rules: at most 1 MiB of UTF-8; numbers are never made out of text; a file names other files only inside its
own folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.feeder import Feeder, single_bus
from ridethrough.emulator.profile import DeviceProfile

from .mistakes import Finding, dotted, findings_of
from .scenario import Scenario, TransformerSpec
from .scenario_checks import check_scenario
from .units import did_you_mean, shown
from .yamltree import Place, parse_yaml

if TYPE_CHECKING:
    from ridethrough.emulator.quirks.family import ProductFamily
    from ridethrough.emulator.quirks.knobs import Quirk

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
    return _load(read_text_file(file), str(path), model, check, file.parent)


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
    return _decode(data, str(file))


def _label(file: Path) -> str:
    return str(file) if str(file).isprintable() else repr(str(file))


def _near_file(file: Path) -> str:
    try:
        names = [entry.name for entry in file.parent.iterdir()]
    except OSError:
        return f" (nor the folder {file.parent})"
    return did_you_mean(file.name, names)


def _decode(data: bytes, label: str) -> str:
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


def _load(text: str, label: str, model: type[Model], check: Check | None, folder: Path | None) -> Model:
    tree, whole = parse_yaml(text)
    findings = list(tree.findings)
    result = None
    if whole and not isinstance(tree.root, dict):
        findings.append((1, (), f"found {shown(tree.root)}; allowed a mapping such as 'name: pilot'"))
    elif whole:
        result, further = _validate(tree.root, model, check, folder)
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


def _validate(
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


def resolve_path(root: Path, relative: str) -> Path:
    """Return the file that `relative` names inside the folder `root`.

    Raises
    ------
    ScenarioError
        When the path is absolute, climbs out with ``..``, or leads out through a symbolic link.
    """
    rule = f"allowed a path inside the scenario's own folder {root}"
    parts = re.split(r"[/\\]", relative)
    if not relative or "\0" in relative or ".." in parts or re.match(r"[/\\]|[A-Za-z]:", relative):
        raise ScenarioError(f"found path {shown(relative)}; {rule}")
    try:
        inside = (root / Path(*parts)).resolve()
        home = root.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise ScenarioError(f"found path {shown(relative)} ({error}); {rule}") from None
    if not inside.is_relative_to(home):
        raise ScenarioError(f"found path {shown(relative)}, which leads to {inside}; {rule}")
    return inside


def _bundled(kind: str) -> dict[str, Any]:
    folder = resources.files("ridethrough.fixtures") / kind
    entries = folder.iterdir() if folder.is_dir() else iter(())
    files = {entry.name.removesuffix(".yaml"): entry for entry in entries if entry.name.endswith(".yaml")}
    return dict(sorted(files.items()))


def profile_names() -> tuple[str, ...]:
    """Return the names of the bundled device profiles."""
    return tuple(_bundled("devices"))


def feeder_names() -> tuple[str, ...]:
    """Return the names of the bundled feeders."""
    return tuple(_bundled("feeders"))


def scenario_names() -> tuple[str, ...]:
    """Return the names of the bundled scenarios."""
    return tuple(_bundled("scenarios"))


def quirk_names() -> tuple[str, ...]:
    """Return the names of the bundled quirks."""
    return tuple(_bundled("quirks"))


def family_names() -> tuple[str, ...]:
    """Return the names of the bundled product families."""
    return tuple(_bundled("families"))


def is_file_name(name: str) -> bool:
    """Tell whether `name` means a file, by its suffix or a path separator, and not something bundled."""
    return name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name


def _named(kind: str, what: str, name: str) -> tuple[str, str]:
    """Return the text of a bundled file, and how messages call it."""
    files = _bundled(kind)
    if name not in files:
        hint, known = did_you_mean(name, list(files)), ", ".join(files) or "none"
        raise ScenarioError(
            f"found {what} {shown(name)}{hint}; allowed {known}, or a file such as ./mine.yaml"
        )
    return _decode(files[name].read_bytes(), name), f"{kind}/{name}.yaml"


def load_profile(name: str) -> DeviceProfile:
    """Return a device profile: a bundled one by name, or a file the user names.

    Raises
    ------
    ScenarioError
        When there is none, or the file is wrong.
    """
    return load_yaml(name, DeviceProfile) if is_file_name(name) else _bundled_profile(name)


@cache
def _bundled_profile(name: str) -> DeviceProfile:
    """Return a bundled profile; it is asked for again and again, and cannot be changed."""
    text, label = _named("devices", "device", name)
    return _load(text, label, DeviceProfile, None, None)


def load_device(name: str, folder: Path | None) -> DeviceProfile:
    """Return the profile a scenario names: a bundled one, or a file inside the scenario's `folder`.

    Raises
    ------
    ScenarioError
        When there is none, or the file is wrong.
    """
    if not is_file_name(name):
        return load_profile(name)
    if folder is None:
        raise ScenarioError(f"found file {shown(name)} in a scenario without folder; allowed bundled devices")
    return load_yaml(resolve_path(folder, name), DeviceProfile)


def load_feeder(spec: str | TransformerSpec, devices: int, folder: Path | None) -> Feeder:
    """Return the feeder a scenario names, with one home for each of its devices.

    Device number k of the pool stands at home number k of the feeder; places beyond stay without a home.

    Raises
    ------
    ScenarioError
        When there is none, the file is wrong, or the feeder has too few homes.
    """
    if isinstance(spec, TransformerSpec):
        return single_bus(1000.0 * spec.transformer_kva, devices)
    if not is_file_name(spec):
        text, label = _named("feeders", "feeder", spec)
        feeder = _load(text, label, Feeder, None, None)
    elif folder is None:
        raise ScenarioError(f"found file {shown(spec)} in a scenario without folder; allowed bundled feeders")
    else:
        feeder = load_yaml(resolve_path(folder, spec), Feeder)
    if devices > len(feeder.homes):
        raise ScenarioError(
            f"found a pool of {devices} devices; allowed at most {len(feeder.homes)}, the homes of {spec}"
        )
    return feeder.model_copy(update={"homes": feeder.homes[:devices]})


def load_quirk(name: str) -> Quirk:
    """Return a quirk: a bundled one by name, or a file the user names.

    Raises
    ------
    ScenarioError
        When there is none, or the file is wrong.
    """
    # Late, here and below: most commands know no quirks, and their models take a tenth of a second to make.
    from ridethrough.emulator.quirks.knobs import Quirk

    if is_file_name(name):
        return load_yaml(name, Quirk)
    text, label = _named("quirks", "quirk", name)
    return _load(text, label, Quirk, None, None)


def load_family(name: str) -> ProductFamily:
    """Return a product family: a bundled one by name, or a file the user names.

    Raises
    ------
    ScenarioError
        When there is none, or the file is wrong; so it is when a quirk or the device it names does not exist,
        or its quirks do not go together.
    """
    from ridethrough.emulator.quirks.family import ProductFamily

    if is_file_name(name):
        return load_yaml(name, ProductFamily, check=_check_family)
    text, label = _named("families", "family", name)
    return _load(text, label, ProductFamily, _check_family, None)


def _check_family(data: object) -> Iterable[Finding]:
    """Find what a family names and nobody knows, and quirks that do not go together."""
    from ridethrough.emulator.quirks.knobs import combine

    if not isinstance(data, dict):
        return
    if isinstance(data.get("device"), str):
        try:
            load_profile(data["device"])
        except ScenarioError as error:
            yield ("device",), str(error)
    names, quirks = data.get("quirks"), []
    for k, name in enumerate(names if isinstance(names, list) else ()):
        try:
            quirks += [load_quirk(name)] if isinstance(name, str) else []
        except ScenarioError as error:
            yield ("quirks", k), str(error)
    try:
        combine(quirks)
    except ScenarioError as error:
        yield ("quirks",), str(error)


def _scenario_check(folder: Path | None) -> Check:
    return partial(
        check_scenario,
        load_device=cache(partial(load_device, folder=folder)),
        load_feeder=partial(load_feeder, folder=folder),
    )


def load_scenario(name: str | Path) -> Scenario:
    """Return a scenario: a bundled one by name, or a file.

    Raises
    ------
    ScenarioError
        When there is none, or with every mistake of the file.
    """
    if isinstance(name, Path) or is_file_name(name):
        return load_yaml(name, Scenario, check=_scenario_check(Path(name).parent))
    text, label = _named("scenarios", "scenario", name)
    return _load(text, label, Scenario, _scenario_check(None), None)


def scenario_from_dict(data: Mapping[str, Any], folder: Path | None = None) -> Scenario:
    """Return a scenario from plain data in the form users write.

    Raises
    ------
    ScenarioError
        With every mistake.
    """
    result, findings = _validate(dict(data), Scenario, _scenario_check(folder), folder)
    if findings or result is None:
        raise ScenarioError("\n".join(f"scenario: {dotted(path)}: {text}" for path, text in findings))
    return result
