"""The event loops that the server promises to run on, for tests: asyncio's own and uvloop, both with the lane
of _peer.pyx, and asyncio as on a system that has no lanes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

_factory: Callable[[], asyncio.AbstractEventLoop] | None = None


@pytest.fixture(params=["asyncio", "uvloop", "asyncio, no lane"])
def either_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let `run` use one loop and then the others."""
    name = str(request.param)
    factory = None
    if name.endswith("no lane"):
        monkeypatch.setattr("ridethrough.emulator.server.open_lane", lambda: None)
    if name == "uvloop":
        uvloop = pytest.importorskip("uvloop", reason="uvloop, which is optional, is not installed")
        factory = uvloop.new_event_loop
    monkeypatch.setattr(f"{__name__}._factory", factory)
    return name


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test to its end, which must come within a minute and leave nothing behind."""

    async def bounded() -> None:
        async with asyncio.timeout(60.0):
            await test
        assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks were left behind"

    with asyncio.Runner(loop_factory=_factory) as runner:
        runner.run(bounded())
    gc.collect()  # what was left open warns here, not in a later test
