"""The order in which random programs run, with asyncio's own loop as the witness."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.hil.virtual.loop import VirtualLoop


class JumpSelector(selectors.SelectSelector):
    """Lets the witness's time jump instead of waiting."""

    loop: Witness

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "the witness has nothing to wait for"
        self.loop.now_s += timeout
        return super().select(0)


class Witness(asyncio.SelectorEventLoop):
    """asyncio's own loop, with a clock that jumps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        selector = JumpSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s


TICK_S = 1 / 512  # exact as a float and in nanoseconds
KINDS = ("soon", "later", "at", "task", "cancel", "set", "wait", "nap", "yield", "timeout", "gather", "queue")
Action = tuple[str, int, int]


class Program:
    """A random program: nodes of actions, each of which may start other nodes."""

    def __init__(self, nodes: list[list[Action]]) -> None:
        self.nodes = nodes
        self.seen: list[tuple[float, object]] = []
        self.left = 150
        self.handles: list[asyncio.Handle | asyncio.Task[None]] = []
        self.due: set[float] = set()

    def delay(self, ticks: int) -> float:
        """Return a delay that ends when no other one does: asyncio leaves the order of ties open."""
        now = self.loop.time()
        while now + ticks * TICK_S in self.due:
            ticks += 1
        self.due.add(now + ticks * TICK_S)
        return ticks * TICK_S

    def note(self, what: object) -> bool:
        self.seen.append((self.loop.time(), what))
        self.left -= 1
        return self.left > 0

    def callback(self, node: int) -> None:
        if self.note(("call", node)):
            for kind, goal, ticks in self.nodes[node % len(self.nodes)]:
                self.act(kind, goal, ticks)

    def act(self, kind: str, goal: int, ticks: int) -> None:
        loop = self.loop
        if kind == "soon":
            self.handles.append(loop.call_soon(self.callback, goal))
        elif kind == "later":
            self.handles.append(loop.call_later(self.delay(ticks + 1), self.callback, goal))
        elif kind == "at":
            self.handles.append(loop.call_at(loop.time() + self.delay(ticks + 1), self.callback, goal))
        elif kind == "task":
            self.handles.append(loop.create_task(self.task(goal)))
        elif kind == "cancel" and self.handles:
            self.handles.pop(goal % len(self.handles)).cancel()
        elif kind == "set":
            (self.event.clear if self.event.is_set() else self.event.set)()
        elif kind == "queue":
            self.queue.put_nowait(goal)

    async def task(self, node: int) -> None:
        if not self.note(("task", node)):
            return
        try:
            for kind, goal, ticks in self.nodes[node % len(self.nodes)]:
                if kind == "wait":
                    await asyncio.wait_for(self.event.wait(), self.delay(ticks + 1))
                elif kind == "nap":
                    await asyncio.sleep(self.delay(ticks + 1))
                elif kind == "yield":
                    await asyncio.sleep(0)
                elif kind == "timeout":
                    async with asyncio.timeout(self.delay(ticks + 1)):
                        await self.queue.get()
                elif kind == "gather" and self.left > 20:
                    await asyncio.gather(self.task(goal), self.task(ticks), return_exceptions=True)
                else:
                    self.act(kind, goal, ticks)
                self.note(("step", node, kind))
        except (TimeoutError, asyncio.CancelledError) as error:
            self.note((type(error).__name__, node))
            raise

    async def main(self) -> list[tuple[float, object]]:
        self.loop = asyncio.get_running_loop()
        self.event = asyncio.Event()
        self.queue: asyncio.Queue[int] = asyncio.Queue()
        for node in range(len(self.nodes)):
            self.handles.append(self.loop.create_task(self.task(node)))
            self.callback(node)
        await asyncio.sleep(self.delay(2000))
        for one in asyncio.all_tasks() - {asyncio.current_task()}:
            one.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self.seen


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 7), st.integers(0, 4)), max_size=6),
        min_size=1,
        max_size=5,
    )
)
def test_random_programs_run_in_the_order_of_asyncio(nodes: list[list[Action]]) -> None:
    seen = []
    for factory in (VirtualLoop, Witness):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: None)  # of tasks that timed out
            seen.append(runner.run(Program(nodes).main()))
    assert seen[0] == seen[1]
    assert len(seen[0]) >= len(nodes)


def test_the_comparison_sees_another_order() -> None:
    class Other(VirtualLoop):
        def call_soon(  # type: ignore[override]  # takes anything
            self, callback: Any, *args: Any, context: Any = None
        ) -> asyncio.Handle:
            if args:
                return super().call_soon(super().call_soon, callback, *args)
            return super().call_soon(callback, context=context)

    nodes: list[list[Action]] = [[("soon", 1, 0), ("task", 1, 0)], []]
    seen = []
    for factory in (Other, Witness):
        with asyncio.Runner(loop_factory=factory) as runner:
            seen.append(runner.run(Program(nodes).main()))
    assert seen[0] != seen[1]
