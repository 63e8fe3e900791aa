"""Files users write, found: scenarios, device profiles, quirks and product families.

Duty: each kind by its name, bundled or as a file of the user's own; how files are read is said in `yamlfile`.
Rule: a file names other files only inside its own folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.feeder import Feeder, single_bus
from ridethrough.emulator.profile import DeviceProfile

from .mistakes import Finding, dotted
from .scenario import Scenario, TransformerSpec
from .scenario_checks import check_scenario
from .units import did_you_mean, shown
from .yamlfile import Check, bundled, decoded, load_text, validated
from .yamlfile import load_yaml as load_yaml
from .yamlfile import read_text_file as read_text_file

if TYPE_CHECKING:
    from ridethrough.emulator.quirks.family import ProductFamily
    from ridethrough.emulator.quirks.knobs import Quirk


_INCIDENTS = "scenarios/incidents"
"""Where the scenarios lie that reproduce a public incident each."""


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


def profile_names() -> tuple[str, ...]:
    """Return the names of the bundled device profiles."""
    return tuple(bundled("devices"))


def feeder_names() -> tuple[str, ...]:
    """Return the names of the bundled feeders."""
    return tuple(bundled("feeders"))


def scenario_names() -> tuple[str, ...]:
    """Return the names of the bundled scenarios."""
    return tuple(bundled("scenarios"))


def incident_names() -> tuple[str, ...]:
    """Return the names of the bundled incidents, which are scenarios too."""
    return tuple(bundled(_INCIDENTS))


def quirk_names() -> tuple[str, ...]:
    """Return the names of the bundled quirks."""
    return tuple(bundled("quirks"))


def family_names() -> tuple[str, ...]:
    """Return the names of the bundled product families."""
    return tuple(bundled("families"))


def is_file_name(name: str) -> bool:
    """Tell whether `name` means a file, by its suffix or a path separator, and not something bundled."""
    return name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name


def _named(kind: str, what: str, name: str) -> tuple[str, str]:
    """Return the text of a bundled file, and how messages call it."""
    files = bundled(kind)
    if name not in files:
        hint, known = did_you_mean(name, list(files)), ", ".join(files) or "none"
        raise ScenarioError(
            f"found {what} {shown(name)}{hint}; allowed {known}, or a file such as ./mine.yaml"
        )
    return decoded(files[name].read_bytes(), name), f"{kind}/{name}.yaml"


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
    return load_text(text, label, DeviceProfile, None, None)


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
        feeder = load_text(text, label, Feeder, None, None)
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
    return load_text(text, label, Quirk, None, None)


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
    return load_text(text, label, ProductFamily, _check_family, None)


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
    """Return a scenario: a bundled one by name, an incident with or without ``incidents/``, or a file.

    Raises
    ------
    ScenarioError
        When there is none, or with every mistake of the file.
    """
    incident = str(name).removeprefix("incidents/")
    if not isinstance(name, Path) and incident in incident_names():
        text, label = _named(_INCIDENTS, "incident", incident)
        return load_text(text, label, Scenario, _scenario_check(None), None)
    if isinstance(name, Path) or is_file_name(name):
        return load_yaml(name, Scenario, check=_scenario_check(Path(name).parent))
    text, label = _named("scenarios", "scenario", name)
    return load_text(text, label, Scenario, _scenario_check(None), None)


def scenario_from_dict(data: Mapping[str, Any], folder: Path | None = None) -> Scenario:
    """Return a scenario from plain data in the form users write.

    Raises
    ------
    ScenarioError
        With every mistake.
    """
    result, findings = validated(dict(data), Scenario, _scenario_check(folder), folder)
    if findings or result is None:
        raise ScenarioError("\n".join(f"scenario: {dotted(path)}: {text}" for path, text in findings))
    return result
