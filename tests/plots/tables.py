"""Tables of docs/model that are made: every field of a device, and every key of a profile.

What a key of a profile sets is found by changing the key and looking which parameters change.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from ridethrough.emulator.grid_settings import control_values, default_settings
from ridethrough.emulator.params import params_of
from ridethrough.emulator.profile import Battery, Control, DeviceProfile, Face, Grid, Inverter, Island

from tests.devices import home

EMULATOR: Final = Path(__file__).resolve().parents[2] / "emulator"
SECTIONS: Final[dict[str, type[BaseModel]]] = {
    "battery": Battery,
    "inverter": Inverter,
    "island": Island,
    "control": Control,
    "grid": Grid,
    "face": Face,
}
UNITS: Final = {
    "w_per_s": "W/s",
    "hz_per_s": "Hz/s",
    "j_per_k": "J/K",
    "w_per_k": "W/K",
    "per_w": "1/W",
    "k_per_w": "K/W",
    "hz_per_w": "Hz/W",
    "w_per_hz": "W/Hz",
    "pu_per_var": "1/var",
    "var_per_w": "var/W",
    "per_j": "1/J",
    "per_s": "1/s",
    "per_tick": "1/tick",
    "frac_per_day": "1/day",
    "frac_per_month": "1/month",
    "frac_per_c": "1/C",
    "ticks": "20 ms",
    "wh": "Wh",
    "va": "VA",
    "var": "var",
    "hz": "Hz",
    "pu": "pu",
    "frac": "1",
    "j": "J",
    "w": "W",
    "s": "s",
    "c": "°C",
    "v": "V",
}
"""By ending; also with `_min`, `_max` and the like behind.  Of several, the last and longest counts."""
OTHER_UNITS: Final = {
    "var_per_w": "1/W",
    "charge_w_per_c_rate": "W/C",
    "volt_watt_s": "W/pu",
    **{f"volt_var_s{k}": "var/pu" for k in (1, 2, 3)},
    **{f"watt_var_{side}s{k}": "var/W" for side in ("", "abs_") for k in (1, 2)},
    "var_at_no_power": "–",
}
FROM_WORLD: Final = {"backup_frac": "the scenario", "load_var_per_w": "the scenario"}
RICH: Final[dict[str, dict[str, Any]]] = {
    "battery": {
        "taper_soc_frac": 0.9,
        "taper_frac_min": 0.05,
        "ohmic_frac_per_c": 0.023,
        "imbalance_frac": 0.01,
    },
    "island": {
        "shed": [
            {"frac": 0.3, "soc_frac": 0.4},
            {"frac": 0.2, "soc_frac": 0.3},
            {"frac": 0.1, "soc_frac": 0.2},
        ],
        "shift_soc_frac_on": 0.9,
        "shift_soc_frac_off": 0.85,
        "droop_frac": 0.01,
        "voltage_droop_frac": 0.05,
    },
    "inverter": {"apparent_va_max": 5500.0, "var_at_no_power": False},
    "grid": {"function": "volt_var"},
}
"""A device of which every part is in use, so that a change of any key shows."""


def unit(name: str) -> str:
    """Return the unit a name carries; nothing for numbers of states, flags and counts."""
    if name in OTHER_UNITS:
        return OTHER_UNITS[name]
    if re.search(r"_gain(_fine)?$", name):
        return "1"
    if re.search(r"_(ena|auto)$|^(loss|chemistry)$", name):
        return "–"
    ends = {ending: re.search(rf"_{ending}(?=_|$)(?!.*_{ending}(_|$))", f"_{name}") for ending in UNITS}
    # `_c` is a temperature only behind another word.
    found = [(match.end(), len(ending), UNITS[ending]) for ending, match in ends.items() if match]
    found = [row for row in found if not (row[2] == "°C" and name.startswith("c_"))]
    return max(found)[2] if found else "–"


def notes() -> dict[str, dict[str, str]]:
    """Return the comment beside each field of fields.py, or above its like, by group."""
    found: dict[str, dict[str, str]] = {}
    group = heading = ""
    for row in (EMULATOR / "fields.py").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(PARAM|CONTROL|INPUT|STATE) = \(", row):
            group = match[1]
            found[group] = {}
            heading = ""
        elif row == ")":
            group = ""
        elif group and (match := re.match(r"    # (.*)", row)):
            heading = match[1]
        elif group and (match := re.match(r'    "(\w+)",(?:  # (.*))?', row)):
            found[group][match[1]] = match[2] or heading
    return found


def doc_of(section: type[BaseModel]) -> dict[str, str]:
    """Return the sentence below each key of a section of the schema."""
    tree = ast.parse((EMULATOR / "profile.py").read_text(encoding="utf-8"))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == section.__name__)
    found = {}
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[node.target.id] = " ".join(str(after.value.value).split())
    return found


def numbers_of(profile: DeviceProfile) -> dict[str, float]:
    """Return all parameters and settings of a device from the factory."""
    sets = {
        f"PARAM {k}": v
        for k, v in params_of(profile, soh_frac=1.0, backup_frac=1.0, load_var_per_w=0.0, slow_s=60.0).items()
    }
    control = control_values(default_settings(profile), profile, 1.0, 0.5)
    return sets | {f"CONTROL {k}": v for k, v in control.items()}


def others(key: str, value: Any, choices: tuple[Any, ...]) -> Iterator[Any]:
    """Other values to try for a key."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value * 0.97, value * 1.03, value + 0.1, value + 0.5, value + 1, value / 2)
        yield from (choice for choice in choices if isinstance(choice, int) and choice != value)
    elif key == "shed":
        yield [{"frac": 0.29 - 0.1 * k, "soc_frac": 0.41 - 0.1 * k} for k in range(3)]
    elif value is None:
        yield 2
    else:
        yield from (choice for choice in choices if choice != value)


def reaches() -> dict[tuple[str, str], list[str]]:
    """Return which parameters and settings change with each key of a profile."""
    base = home(**RICH)
    before, plain = numbers_of(base), base.model_dump()
    found = {}
    for section, model in SECTIONS.items():
        for key, info in model.model_fields.items():
            changed: set[str] = set()
            for value in others(key, plain[section][key], get_args(info.annotation)):
                try:
                    raw = plain | {section: plain[section] | {key: value}}
                    after = numbers_of(DeviceProfile.model_validate(raw))
                except (ValidationError, TypeError):
                    continue
                changed |= {name for name in before if before[name] != after[name]}
            found[section, key] = sorted(changed)
    return found


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _fields() -> Iterator[str]:
    yield "# Every field of a device"
    yield ""
    yield "Made from `emulator/fields.py` by `python -m tests.plots fields`; do not edit. A tick is 20 ms; a"
    yield "dash means a number of a state, a flag or a count. A comment may be that of the first of its like."
    by_field: dict[str, list[str]] = {}
    for (section, key), names in reaches().items():
        for name in names:
            by_field.setdefault(name, []).append(f"`{section}.{key}`")
    for group, comments in notes().items():
        yield from ("", f"## {group}", "")
        origin = group in ("PARAM", "CONTROL")
        yield _row("field", "unit", "what", *(["from the profile"] if origin else []))
        yield _row("---", "---", "---", *(["---"] if origin else []))
        for name, comment in comments.items():
            cells = [f"`{name}`", unit(name), comment]
            if origin:
                keys = ", ".join(by_field.get(f"{group} {name}", []))
                missing = FROM_WORLD.get(name, "") if group == "PARAM" else ""
                cells.append(keys or missing)
            yield _row(*cells)


def _parameters() -> Iterator[str]:
    yield "# Every key of a device profile"
    yield ""
    yield "Made from `emulator/profile.py` by `python -m tests.plots parameters`; do not edit. The last"
    yield "column is measured: what changes with the key. A key that sets nothing acts at the start, in"
    yield "ageing, or in what a Modbus client sees. Bundled profiles name the source of every number in their"
    yield "own files; where the defaults come from: [model.md](../model.md#defaults)."
    found = reaches()
    for section, model in SECTIONS.items():
        yield from ("", f"## {section}", "")
        yield _row("key", "unit", "default", "what", "sets")
        yield _row("---", "---", "---", "---", "---")
        meaning = doc_of(model)
        for key, info in model.model_fields.items():
            default = "required" if info.is_required() else f"{info.get_default(call_default_factory=True)}"
            names = [name.split()[1] for name in found[section, key]]
            shown = ", ".join(f"`{name}`" for name in names[:8]) + (
                f" and {len(names) - 8} more" if names[8:] else ""
            )
            yield _row(f"`{key}`", unit(key), default, meaning.get(key, ""), shown)


TABLES: Final = {"fields": _fields, "parameters": _parameters}


def table(name: str) -> str:
    """Return a table as Markdown."""
    rows = list(TABLES[name]())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(rows)) + "\n"
