"""Writes the C++ of the compiled kernel from the traced model.

Duty: one straight-line function per graph, on vectors of a few devices.  The types and operations it is
written in are those of `_kernel_lanes.h`, which gives each processor its own.

Rules of this file: one C++ operation for one node, in an order in which every node comes after what it acts
on; a node nobody needs is left out.  `a if a < b else b` and its three mirror images become `least` and
`most`, which are defined as exactly that.  Used at build time only.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from .trace import Facts, Fields, Graph, Node, Place, TraceError, trace

ADDRESSES = {"param": "P", "control": "C", "input": "U", "state": "S"}
HEAD = "const double *RT_ALONE p, double *RT_ALONE c, const double *RT_ALONE u, double *RT_ALONE s"
PARTS = (1, 2, 4)
INFIX = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
CALLS = {"bitwise_and": "both", "bitwise_or": "either", "invert": "flip", "sqrt": "root", "select": "pick"}


def lowered(graph: Graph, number: int) -> tuple[str, tuple[int, ...]]:
    """Return what a node becomes: the name of the operation and the nodes it acts on."""
    node = graph.nodes[number]
    if node.op == "select" and node.kind == "value":
        mask, arms = graph.nodes[node.args[0]], node.args[1:]
        if mask.op in ("less", "greater") and mask.args in (arms, arms[::-1]):
            return ("least" if (mask.op == "less") == (mask.args == arms) else "most"), arms
    return node.op, node.args


def order(graph: Graph, roots: Sequence[int], ready: Sequence[int] = ()) -> list[int]:
    """Return the nodes that the roots need and that are not ready, each after what it acts on."""
    done, found = set(ready), []
    pending = [(number, False) for number in reversed(roots)]
    while pending:
        number, expanded = pending.pop()
        if number in done:
            continue
        if expanded:
            done.add(number)
            found.append(number)
        else:
            pending.append((number, True))
            pending += [(a, False) for a in reversed(lowered(graph, number)[1])]
    return found


def expression(graph: Graph, number: int, part: int) -> str:
    """Return the C++ of one node, of which the nodes it acts on are named."""
    op, args = lowered(graph, number)
    names = [node_name(a, part) for a in args]
    if op == "field":
        where = graph.nodes[number].detail
        assert not isinstance(where, bytes)
        return f"load({address(where, part)})"
    if op == "ticks":
        return "spread(ticks)"
    if op == "constant":
        return constant(graph.nodes[number])
    if op == "negative":
        return f"-{names[0]}"
    if op in INFIX:
        return f"{names[0]} {INFIX[op]} {names[1]}"
    return f"{CALLS.get(op, op)}({', '.join(names)})"


def node_name(number: int, part: int) -> str:
    """Return the name of a node for one part of the devices."""
    return f"n{number}_{part}"


def address(where: Place, part: int) -> str:
    """Return the address of a field, of which devices lie side by side."""
    return f"{ADDRESSES[where[0]]}({where[1]}, {part})"


def constant(node: Node) -> str:
    """Return a constant to its last bit."""
    value = node.constant
    if node.kind == "mask":
        return "every()" if value else "none()"
    if value != value or value in (float("inf"), float("-inf")):
        raise TraceError(f"the model has the constant {value}: only finite ones can be compiled")
    return f"spread({float(value).hex()})"


def lines(graph: Graph, numbers: Sequence[int], parts: int) -> list[str]:
    """Return the statements that compute nodes, part by part."""
    types = {"value": "V", "mask": "M"}
    return [
        f"    const {types[graph.nodes[n].kind]} {node_name(n, part)} = {expression(graph, n, part)};"
        for n in numbers
        for part in range(parts)
    ]


def body(graph: Graph, parts: int, ready: Sequence[int] = ()) -> list[str]:
    """Return the statements that compute and store what a graph leaves, each store as early as may be."""
    read = {
        graph.nodes[n].detail: n
        for n in order(graph, list(graph.stores.values()))
        if graph.nodes[n].op == "field"
    }
    found: list[str] = []
    done = list(ready)
    for where, number in graph.stores.items():
        roots = (
            [number, read[where]] if where in read else [number]
        )  # the old value is read before it is lost
        fresh = order(graph, roots, done)
        done += fresh
        found += lines(graph, fresh, parts)
        found += [f"    store({address(where, part)}, {node_name(number, part)});" for part in range(parts)]
    return found


def stepping(name: str, graph: Graph) -> str:
    """Return a function that moves devices on, changing fields."""
    return "\n".join([f"RT_STAGE void {name}({HEAD}, double ticks)", "{", *body(graph, 1), "}", ""])


def guarded(name: str, graph: Graph, parts: int) -> str:
    """Return the same for a graph that is right only for some devices: it says whether it ran."""
    first = order(graph, graph.guard)
    masks = "every()"
    for number in graph.guard:
        for part in range(parts):
            masks = f"both({masks}, {node_name(number, part)})"
    test = [f"    if (!all({masks})) return false;"]
    text = [*lines(graph, first, parts), *test, *body(graph, parts, first), "    return true;"]
    return "\n".join([f"RT_STAGE bool {name}({HEAD}, double ticks)", "{", *text, "}", ""])


def asking(name: str, graph: Graph) -> str:
    """Return a function that answers with a mask."""
    if graph.result is None or graph.stores:
        raise TraceError(f"{name}: it must return a mask and change nothing")
    text = [*lines(graph, order(graph, [graph.result]), 1), f"    return {node_name(graph.result, 0)};"]
    return "\n".join([f"RT_STAGE M {name}({HEAD}, double ticks)", "{", *text, "}", ""])


def kernel(model: ModuleType, fields: Fields, calm: Facts, assume: Callable[[Any], Any]) -> str:
    """Return the whole header: every function of the model that the kernel calls.

    Raises
    ------
    TraceError
        When the model cannot be compiled; the message names its file and line.
    """
    graphs = {
        "coarse": trace(model.step, fields, "ticks", True),
        "fine": trace(model.step, fields, "ticks", False),
        "slow": trace(model.slow, fields, "ticks"),
        "calm": trace(model.step, fields, "ticks", True, facts=calm, also=model.quiet, assume=assume),
        "quiet": trace(model.quiet, fields, "ticks"),
    }
    text = [
        stepping("step_coarse", graphs["coarse"]),
        stepping("step_fine", graphs["fine"]),
        stepping("step_slow", graphs["slow"]),
        asking("quiet", graphs["quiet"]),
    ]
    for parts in PARTS:
        text += [
            f"#if RT_PARTS == {parts} || {parts} == 1",
            guarded(f"step_calm_{parts}", graphs["calm"], parts),
            "#endif",
        ]
    code = "\n".join(text)
    digest = hashlib.sha256(code.encode()).hexdigest()
    return f'/* Made by setup.py from emulator/model. */\n#define RT_STEP_DIGEST "{digest}"\n{code}\n'


def this_kernel() -> str:
    """Return the header made from this package's model."""
    from . import fields
    from .model import ops, step

    names = {"param": fields.PARAM, "control": fields.CONTROL, "input": fields.INPUT, "state": fields.STATE}
    return kernel(step, names, fields.CALM, ops.assume)


if __name__ == "__main__":
    sys.stdout.write(this_kernel())
