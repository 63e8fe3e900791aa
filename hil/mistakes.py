"""What pydantic found wrong, in words a user can act on.

Duty: turn pydantic's errors into ``found X; allowed Y`` with the place in the user's file.  What is allowed
is read from the model's JSON Schema, so that messages and editors say the same.
Rule: nothing here knows what a scenario is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from .units import did_you_mean, shown
from .yamltree import Place

Finding = tuple[Place, str]
"""Where in the file, and ``found ...; allowed ...``."""

Schema = dict[str, Any]


def dotted(path: Place) -> str:
    """Return a place as ``pool[0].commitment.hours``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    text = text.removeprefix(".")
    clean = text if text.isprintable() else repr(text)[1:-1]
    return clean if len(clean) <= 100 else clean[:99] + "…"


def findings_of(error: ValidationError, data: object, model: type[BaseModel]) -> Iterator[Finding]:
    """Yield what pydantic found wrong with `data` as `model`."""
    schema = _schema_of(model)
    for item in error.errors(include_url=False):
        short = item["type"] == "too_short" and isinstance(item["input"], list)
        if short and len(item["input"]) >= item["ctx"]["min_length"]:
            continue  # entries that are wrong were not counted; they are told one by one
        yield _finding(item, data, schema)


@cache
def _schema_of(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(by_alias=True)


def _finding(item: Any, data: object, schema: Schema) -> Finding:
    """Say one pydantic error in our words."""
    kind = item["type"]
    path, value = _place(item["loc"], data, kind)
    node = _schema_at(schema, path)
    if kind == "extra_forbidden":
        word = str(path[-1])
        parent = _place(path[:-1], data, kind)[1]
        known = _keys(schema, _schema_at(schema, path[:-1]), parent)
        return path, f"found unknown key {shown(word)}{did_you_mean(word, known)}; allowed {', '.join(known)}"
    if kind == "missing":
        return path, f"found nothing; allowed {_allowed(schema, node)}"
    if kind in ("quantity", "found"):
        return path, str(item["msg"])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = str(item["ctx"]["discriminator"]).strip("'")
        words = re.findall(r"'([^']*)'", str(item["ctx"].get("expected_tags", ""))) or _tags(schema, node)
        value = value.get(key) if isinstance(value, dict) else value
        hint = did_you_mean(value, words) if isinstance(value, str) else ""
        return (*path, key), f"found {shown(value)}{hint}; allowed {', '.join(words)}"
    if kind == "value_error":
        text = str(item["ctx"]["error"])
        return path, text if text.startswith("found ") else f"found {shown(value)}; allowed: {text}"
    words = [word for word in _words(schema, node) if isinstance(word, str)]
    hint = did_you_mean(value, words) if isinstance(value, str) else ""
    return path, f"found {shown(value)}{hint}; allowed {_allowed(schema, node)}"


def _place(loc: tuple[str | int, ...], data: object, kind: str) -> tuple[Place, Any]:
    """Return where in the file an error lies, without pydantic's marks for unions, and the value there."""
    path: list[str | int] = []
    value: Any = data
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        if isinstance(value, dict) and (part in value or (last and kind in ("missing", "found"))):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        path.append(part)
    return tuple(path), value


def _resolved(schema: Schema, node: Schema) -> list[Schema]:
    """Return the plain alternatives a schema node stands for."""
    if "$ref" in node:
        target = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        return _resolved(schema, target)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in node and "description" not in node:
            return [plain for part in node[key] for plain in _resolved(schema, part)]
    return [node]


def _schema_at(schema: Schema, path: Place) -> Schema:
    nodes = [schema]
    for part in path:
        found = []
        for node in (plain for outer in nodes for plain in _resolved(schema, outer)):
            if isinstance(part, int):
                found += [node["items"]] if "items" in node else []
            elif part in node.get("properties", {}):
                found.append(node["properties"][part])
            elif isinstance(node.get("additionalProperties"), dict):
                found.append(node["additionalProperties"])
        nodes = found
    return nodes[0] if len(nodes) == 1 else {"anyOf": nodes}


def _keys(schema: Schema, node: Schema, data: object = None) -> list[str]:
    """Return the keys a node admits; of several alternatives, those that fit the fixed words in `data`."""
    keys: set[str] = set()
    for plain in _resolved(schema, node):
        properties = plain.get("properties", {})
        fixed = {key: part["const"] for key, part in properties.items() if "const" in part}
        if not isinstance(data, dict) or all(data.get(key) == word for key, word in fixed.items()):
            keys |= set(properties)
    return sorted(keys)


def _words(schema: Schema, node: Schema) -> list[Any]:
    plains = _resolved(schema, node)
    return [
        word for plain in plains for word in ([plain["const"]] if "const" in plain else plain.get("enum", []))
    ]


def _tags(schema: Schema, node: Schema) -> list[str]:
    return sorted(node.get("discriminator", {}).get("mapping", {}))


_KINDS = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false"}


def _allowed(schema: Schema, node: Schema) -> str:
    """Describe in words what a schema node admits."""
    words = _words(schema, node)
    parts = [", ".join(str(word) for word in words)] if words else []
    for plain in _resolved(schema, node):
        kind = plain.get("type")
        if "const" in plain or "enum" in plain or kind == "null":
            continue
        if "description" in plain and kind != "object":
            parts.append(plain["description"])
        elif kind == "object":
            keys = ", ".join(_keys(schema, plain))
            parts.append(f"a mapping with {keys}" if keys else "a mapping")
        elif kind == "array":
            parts.append("a list with at least one entry" if plain.get("minItems") else "a list")
        else:
            parts.append(_KINDS.get(str(kind), "another value") + _bounds(plain))
    return " or ".join(dict.fromkeys(parts)) or "another value"


def _bounds(node: Schema) -> str:
    words = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    words |= {"minLength": "of at least length", "maxLength": "of at most length", "pattern": "matching"}
    parts = [f"{word} {_figure(node[key])}" for key, word in words.items() if key in node]
    return " " + " and ".join(parts) if parts else ""


def _figure(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)
