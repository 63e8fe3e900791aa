"""Records the functions of `model/` as a graph of operations, from which `emit.py` writes the kernel.

Duty: run a function of the model once on values that only note what is done with them.  Every operation
becomes a node; the same operation on the same nodes is the same node; an assignment to a field replaces what
later reads of the field see, as in Python.

Rules of this file: no rewriting that could change a bit.  Only what is exact is worked out here: comparisons
and arithmetic on two constants, masks that are known, selects whose arms are the same node.  Never x + 0,
x * 1, an exchange of operands or an order of its own: the compiled step must do what NumPy does.  Used at
build time only.
"""

from __future__ import annotations

import difflib
import math
import operator
import struct
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, TracebackType
from typing import Any, Final, Literal, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .errors import InvariantError

Kind = Literal["value", "mask"]
Place = tuple[str, str]
"""Array and field, as ("state", "energy_j")."""
Facts = Mapping[str, Mapping[str, float]]
Fields = Mapping[str, Sequence[str]]

ARITHMETIC: Final[dict[str, Callable[[float, float], float]]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
}
COMPARISON: Final[dict[str, Callable[[float, float], bool]]] = {
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
}
LOGIC: Final = ("bitwise_and", "bitwise_or", "invert")
UFUNCS: Final = {getattr(np, name): name for name in (*ARITHMETIC, *COMPARISON, *LOGIC, "negative", "sqrt")}
OPERATIONS: Final = "there are + - * /, comparisons, & | ~ on masks, numpy.where and numpy.sqrt"
WRITABLE: Final = ("control", "state")


class TraceError(InvariantError):
    """The model asks for something the compiled step cannot do; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Attributes
    ----------
    op : str
        "field", "constant", "ticks", "select", "negative", "sqrt", "invert", or a name of the tables above.
    kind : str
        "value" (float64) or "mask".
    args : tuple of int
        Nodes it acts on, by number; each less than its own.
    detail : tuple of str, or bytes
        Array and field of a "field"; the bits of a constant (a mask: one byte).
    """

    op: str
    kind: Kind
    args: tuple[int, ...] = ()
    detail: Place | bytes = b""

    @property
    def constant(self) -> float | bool:
        """What a constant is."""
        assert isinstance(self.detail, bytes)
        if self.kind == "mask":
            return self.detail == b"\1"
        number: float = struct.unpack("<d", self.detail)[0]
        return number


@dataclass
class Graph:
    """What one function of the model does.

    Attributes
    ----------
    nodes : list of Node
        In the order in which they were first needed.
    stores : dict of (str, str) to int
        What the function leaves in each field it changes.
    result : int or None
        What it returns, if that is a mask.
    guard : list of int
        Masks that must be true for the graph to be right: the facts and assumptions it was traced with.
    """

    nodes: list[Node] = field(default_factory=list)
    stores: dict[Place, int] = field(default_factory=dict)
    result: int | None = None
    guard: list[int] = field(default_factory=list)
    _known: dict[Node, int] = field(default_factory=dict)

    def add(self, node: Node) -> int:
        """Return the number of a node, the old one where it is known."""
        number = self._known.setdefault(node, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(node)
        return number

    def constant(self, value: float | bool) -> int:
        """Return the node of a number or of a known mask."""
        if isinstance(value, bool):
            return self.add(Node("constant", "mask", (), b"\1" if value else b"\0"))
        return self.add(Node("constant", "value", (), struct.pack("<d", value)))

    def known(self, number: int) -> float | bool | None:
        """Return what a node is if it is a constant, else None."""
        node = self.nodes[number]
        return node.constant if node.op == "constant" else None

    def used(self, roots: Sequence[int]) -> list[int]:
        """Return the nodes that the roots need, roots included, each after what it acts on."""
        seen: set[int] = set()
        pending = list(roots)
        while pending:
            number = pending.pop()
            if number not in seen:
                seen.add(number)
                pending.extend(self.nodes[number].args)
        return sorted(seen)


class Traced(NDArrayOperatorsMixin):
    """A value or a mask of which only the operations are noted."""

    def __init__(self, graph: Graph, number: int) -> None:
        self.graph, self.number = graph, number

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **options: Any) -> Traced:
        if method != "__call__" or ufunc not in UFUNCS:
            raise TraceError(f"numpy.{ufunc.__name__} is not an operation of the model: {OPERATIONS}")
        if options:
            raise TraceError(
                "+= and the like change a NumPy array in place, for all who hold it: write x = x + y"
            )
        return operate(UFUNCS[ufunc], *args)

    def __array_function__(
        self, function: Any, types: Any, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Traced:
        if function is not np.where or len(args) != 3 or options:
            raise TraceError(f"numpy.{function.__name__} is not an operation of the model: {OPERATIONS}")
        return operate("select", *args)

    def __bool__(self) -> NoReturn:
        raise TraceError(
            "a quantity of the devices cannot decide an if, and, or, min or max: use numpy.where"
        )


def operate(op: str, *operands: Any) -> Traced:
    """Note one operation on traced values and numbers.

    Raises
    ------
    TraceError
        When an operand is neither, or a mask stands where a value must stand or the reverse.
    """
    graph = next(a.graph for a in operands if isinstance(a, Traced))
    numbers = [_number(graph, a) for a in operands]
    kinds = [graph.nodes[n].kind for n in numbers]
    if op == "select":
        wanted = ["mask", kinds[1], kinds[1]]
    else:
        wanted = ["mask" if op in LOGIC else "value"] * len(numbers)
    if kinds != wanted:
        raise TraceError(f"{op} of {' and '.join(kinds)}: it takes {' and '.join(wanted)}")
    return Traced(graph, _node(graph, op, numbers))


def _number(graph: Graph, operand: Any) -> int:
    """Return the node of an operand."""
    if isinstance(operand, Traced):
        if operand.graph is not graph:
            raise TraceError("a value of another trace was kept and used")
        return operand.number
    if isinstance(operand, bool | np.bool_):
        return graph.constant(bool(operand))
    if isinstance(operand, int | float | np.floating | np.integer):
        return graph.constant(float(operand))
    raise TraceError(f"{type(operand).__name__} is neither a column nor a number")


def _node(graph: Graph, op: str, args: list[int]) -> int:
    """Return the node of an operation: worked out if that is exact, else noted."""
    known = [graph.known(a) for a in args]
    if op == "select":
        return _select(graph, args, known)
    if op in LOGIC:
        return _logic(graph, op, args, known)
    if all(k is not None for k in known):
        if op in COMPARISON:
            return graph.constant(bool(COMPARISON[op](*known)))  # type: ignore[arg-type]
        worked_out = _arithmetic(op, *known)  # type: ignore[arg-type]
        if worked_out is not None:
            return graph.constant(worked_out)
    return graph.add(Node(op, "mask" if op in COMPARISON else "value", tuple(args)))


def _arithmetic(op: str, *known: float) -> float | None:
    """Work out an operation on constants; None where the result is not finite."""
    if op == "negative":
        return -known[0]
    if op == "sqrt":
        return math.sqrt(known[0]) if known[0] >= 0.0 else None
    if op == "divide" and known[1] == 0.0:
        return None
    result = ARITHMETIC[op](*known)
    return result if math.isfinite(result) else None


def _select(graph: Graph, args: list[int], known: list[float | bool | None]) -> int:
    mask, yes, no = args
    if yes == no or known[0] is True:
        return yes
    if known[0] is False:
        return no
    return graph.add(Node("select", graph.nodes[yes].kind, (mask, yes, no)))


def _logic(graph: Graph, op: str, args: list[int], known: list[float | bool | None]) -> int:
    if op == "invert":
        node = graph.nodes[args[0]]
        if known[0] is not None:
            return graph.constant(not known[0])
        return node.args[0] if node.op == "invert" else graph.add(Node(op, "mask", tuple(args)))
    dominant = op == "bitwise_or"
    if dominant in known:
        return graph.constant(dominant)
    rest = [a for a, k in zip(args, known, strict=True) if k is None]
    if not rest:
        return graph.constant(not dominant)
    if len(rest) == 1 or args[0] == args[1]:
        return rest[0]
    return graph.add(Node(op, "mask", tuple(args)))


class Array:
    """One of the four arrays while a function is traced: what each field holds now."""

    def __init__(self, graph: Graph, group: str, names: Sequence[str], facts: Mapping[str, float]) -> None:
        unknown = sorted(set(facts) - set(names))
        if unknown:
            raise TraceError(f"a fact is stated of {group}.{unknown[0]}: there is no such field")
        self.graph, self.group, self.names, self.facts = graph, group, tuple(names), facts
        self.now: dict[str, int] = {}

    def read(self, name: str) -> int:
        """Return the node a field holds now."""
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TraceError(f"{self.group} has no field {name!r}{hint}")
        if name not in self.now:
            self.now[name] = self._first(name)
        return self.now[name]

    def _first(self, name: str) -> int:
        """Return the node of a field at the start; a fact about it becomes part of the guard."""
        read = self.graph.add(Node("field", "value", (), (self.group, name)))
        if name not in self.facts:
            return read
        fact = self.graph.constant(float(self.facts[name]))
        self.graph.guard.append(self.graph.add(Node("same_bits", "mask", (read, fact))))
        return fact

    def write(self, name: str, value: Any) -> None:
        """Let a field hold a value from now on."""
        self.read(name)
        if self.group not in WRITABLE:
            raise TraceError(
                f"{self.group}.{name} is assigned: a step may change {' and '.join(WRITABLE)} only"
            )
        number = _number(self.graph, value)
        if self.graph.nodes[number].kind != "value":
            raise TraceError(f"{self.group}.{name} is given a mask: use numpy.where(mask, 1.0, 0.0)")
        self.now[name] = number

    def changes(self) -> Iterator[tuple[Place, int]]:
        """Yield what the function leaves in the fields it changed."""
        for name, number in self.now.items():
            if number != self._first(name):
                yield (self.group, name), number


class Namespace:
    """Stands for `p`, `c`, `u` or `s`: its attributes are the fields of one array."""

    __slots__ = ("_array",)
    _array: Array

    def __init__(self, array: Array) -> None:
        object.__setattr__(self, "_array", array)

    def __getattr__(self, name: str) -> Traced:
        return Traced(self._array.graph, self._array.read(name))

    def __setattr__(self, name: str, value: Any) -> None:
        self._array.write(name, value)


@contextmanager
def _assuming(assume: Callable[[Any], Any] | None, hear: Callable[[Any], Any]) -> Iterator[None]:
    """Let `assume` mean `hear` for a while, under whatever name the modules of the model imported it."""
    if assume is None:
        yield
        return
    assert isinstance(assume, FunctionType)
    before = assume.__code__, assume.__kwdefaults__

    def stand_in(mask: Any, *, hear: Callable[[Any], Any] = hear) -> Any:
        return hear(mask)

    assume.__code__, assume.__kwdefaults__ = stand_in.__code__, stand_in.__kwdefaults__
    try:
        yield
    finally:
        assume.__code__, assume.__kwdefaults__ = before


def trace(
    function: Callable[..., Any],
    fields: Fields,
    *options: Any,
    facts: Facts | None = None,
    also: Callable[..., Any] | None = None,
    assume: Callable[[Any], Any] | None = None,
) -> Graph:
    """Record a function of the model.

    Parameters
    ----------
    function : callable
        Takes `p, c, u, s` and the options.
    fields : mapping of str to sequence of str
        Names of the fields of "param", "control", "input" and "state".
    *options
        Further arguments; the string "ticks" stands for the length of the step, a number known at run time.
    facts : mapping of str to mapping of str to float, optional
        Fields taken for constants; that they are is put into the guard.
    also : callable, optional
        A mask of `p, c, u, s, ticks` that is put into the guard.
    assume : callable, optional
        The function by which the model states assumptions: taken for true, and put into the guard.

    Raises
    ------
    TraceError
        When the function does what cannot be compiled, or misspells a field.
    """
    graph = Graph()
    ticks = Traced(graph, graph.add(Node("ticks", "value")))
    arguments = [ticks if isinstance(option, str) and option == "ticks" else option for option in options]

    def hear(mask: Any) -> Any:
        graph.guard.append(_number(graph, mask))
        return Traced(graph, graph.constant(True))

    def arrays() -> list[Array]:
        return [Array(graph, group, names, (facts or {}).get(group, {})) for group, names in fields.items()]

    try:
        if unknown := sorted(set(facts or {}) - set(fields)):
            raise TraceError(f"facts are stated of {unknown[0]!r}: the arrays are {', '.join(fields)}")
        changing = arrays()
        with _assuming(assume, hear):
            if also is not None:
                graph.guard.append(_number(graph, also(*map(Namespace, arrays()), ticks)))
            returned = function(*map(Namespace, changing), *arguments)
    except Exception as error:
        raise TraceError(f"{_line_of(error.__traceback__, function)}: {error}") from error
    for array in changing:
        graph.stores.update(array.changes())
    if isinstance(returned, Traced):
        graph.result = returned.number
    graph.guard = _needed(graph)
    return graph


def _needed(graph: Graph) -> list[int]:
    """Return the guard without what is known to be true, each mask once, conjunctions taken apart."""
    pending, guard = list(reversed(graph.guard)), dict[int, None]()
    while pending:
        number = pending.pop()
        node = graph.nodes[number]
        if graph.known(number) is False:
            raise TraceError("the facts contradict what the model assumes: the fast path could never run")
        if node.op == "bitwise_and":
            pending += reversed(node.args)
        elif graph.known(number) is None:
            guard[number] = None
    return list(guard)


def _line_of(where: TracebackType | None, function: Callable[..., Any]) -> str:
    """Return file and line of the model's own code in which an error arose."""
    frames = [f for f in traceback.extract_tb(where) if f.filename != __file__ and not _of_numpy(f.filename)]
    if frames:
        return f"{frames[-1].filename}:{frames[-1].lineno}"
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


def _of_numpy(filename: str) -> bool:
    return Path(filename).is_relative_to(Path(np.__file__).parent)
