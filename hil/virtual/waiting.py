"""Who waits, and where: what a deadlock in virtual time is told with.

Rule of this file: it looks at tasks and changes nothing.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

TASKS_MAX: Final = 50
"""Most tasks told of one by one."""

_ASYNCIO: Final = str(Path(asyncio.__file__).parent)


def describe_tasks(loop: asyncio.AbstractEventLoop) -> str:
    """Return every unfinished task with its name, coroutine and the line it waits at, in a fixed order."""
    lines = sorted(_describe(task) for task in asyncio.all_tasks(loop))
    if not lines:
        return "no task"
    more = len(lines) - TASKS_MAX
    return "\n  ".join(["", *lines[:TASKS_MAX], *([f"and {more} more"] if more > 0 else [])])


def _describe(task: asyncio.Task[Any]) -> str:
    frames = list(_frames(task.get_coro()))
    what = getattr(task.get_coro(), "__qualname__", repr(task.get_coro()))
    if not frames:
        return f"{task.get_name()}: {what}, between two steps"
    # Where asyncio itself waits says nothing; the last line outside it does.
    own = [frame for frame in frames if not frame.f_code.co_filename.startswith(_ASYNCIO)]
    frame = (own or frames)[-1]
    code = frame.f_code
    place = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
    for_what = frames[-1].f_code.co_qualname
    ends = "" if frame is frames[-1] else f", in asyncio's {for_what}"
    return f"{task.get_name()}: {what}, waiting at {place}{ends}"


def _frames(coro: Any) -> Iterator[types.FrameType]:
    """Yield the frames of a coroutine and of what it waits for, from the outermost inwards."""
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        frame = frame or getattr(coro, "ag_frame", None)
        if frame is None:
            return
        yield frame
        coro = (
            getattr(coro, "cr_await", None)
            or getattr(coro, "gi_yieldfrom", None)
            or getattr(coro, "ag_await", None)
        )
