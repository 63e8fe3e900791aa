"""The loop in virtual time: its clock, its order, and what it refuses; asyncio's own loop is the witness."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator.errors import InvariantError
from ridethrough.hil.virtual.loop import DeadlockError, VirtualLoop

from tests.hil.virtual.memory_bench import here, run

# ---- the clock


def test_sleeping_takes_virtual_time_only() -> None:
    async def main() -> int:
        await asyncio.sleep(86_400 * 365)
        return here().now_ns

    start = time.monotonic()
    assert run(main()) == 86_400 * 365 * 10**9
    assert time.monotonic() - start < 1.0


def test_time_stands_still_while_anything_is_ready() -> None:
    async def main() -> int:
        for _ in range(1000):
            await asyncio.sleep(0)
        return here().now_ns

    assert run(main()) == 0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(1e-12, 1e7), min_size=1, max_size=20),
    st.integers(0, 10**17),
)
def test_a_timer_does_not_fire_early_and_fires_to_the_nanosecond(delays: list[float], start_ns: int) -> None:
    async def main() -> None:
        loop = here()
        loop.now_ns = start_ns
        for delay in delays:
            before_ns = loop.now_ns
            await asyncio.sleep(delay)
            assert loop.now_ns - before_ns == max(1, round(delay * 1e9))
            before_ns = loop.now_ns
            when = loop.time() + delay
            with pytest.raises(TimeoutError):
                async with asyncio.timeout_at(when):
                    await loop.create_future()
            if when <= before_ns / 1e9:  # less than the clock can show
                assert loop.now_ns == before_ns
            else:
                assert loop.now_ns == max(round(when * 1e9), before_ns + 1)

    run(main())


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-9, 1e6), st.floats(1e-9, 1e6))
def test_whoever_waits_for_the_rest_of_a_time_gets_there(start: float, wait: float) -> None:
    async def main() -> int:
        loop = here()
        await asyncio.sleep(start)
        until = loop.time() + wait
        waits = 0
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(left)
            waits += 1
        return waits

    assert run(main()) <= 3


def test_the_clock_does_not_stop_at_a_cancelled_timer() -> None:
    async def main() -> list[int]:
        loop = here()
        seen: list[int] = []
        for k in range(1, 400):  # enough of them to be swept out
            timer = loop.call_later(k, seen.append, k)
            if k != 300:
                timer.cancel()
        timer.cancel()
        assert loop.waiting < 300
        await asyncio.sleep(299.5)
        assert seen == []
        await asyncio.sleep(100)
        return seen

    assert run(main()) == [300]


def test_cancelled_timers_do_not_pile_up() -> None:
    async def main() -> None:
        for _ in range(5000):
            async with asyncio.timeout(3600):
                await asyncio.sleep(0)
        assert here().waiting < 300

    run(main())


def test_a_timer_at_infinity_never_fires() -> None:
    async def main() -> None:
        async with asyncio.timeout(math.inf):
            await asyncio.sleep(1)
        handle = here().call_at(math.inf, pytest.fail)
        await asyncio.sleep(1e9)
        handle.cancel()
        await asyncio.sleep(math.inf)

    with pytest.raises(DeadlockError, match="1000000001"):
        run(main())


def test_not_a_number_is_no_time() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="NaN"):
            here().call_later(math.nan, print)
        with pytest.raises(ValueError, match="NaN"):
            here().call_at(math.nan, print)

    run(main())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_timers_fire_in_the_order_of_time_and_of_making(ticks: list[int]) -> None:
    async def main() -> list[tuple[int, int]]:
        loop = here()
        fired: list[tuple[int, int]] = []
        for made, tick in enumerate(ticks):
            if made % 2:
                loop.call_at(float(tick), fired.append, (tick, made))
            else:
                loop.call_later(tick, fired.append, (tick, made))
        await asyncio.sleep(6)
        return fired

    assert run(main()) == sorted((tick, made) for made, tick in enumerate(ticks))


@pytest.mark.parametrize("seed", range(5))
def test_cancelling_many_timers_disturbs_no_other(seed: int) -> None:
    async def main() -> None:
        rng, loop = random.Random(seed), here()
        fired: list[tuple[float, int]] = []
        alive: dict[int, tuple[float, asyncio.TimerHandle]] = {}
        made = 0
        for _ in range(5):
            for _ in range(400):
                due = loop.time() + rng.randrange(100)
                alive[made] = due, loop.call_at(due, fired.append, (due, made))
                made += 1
            for number in rng.sample(sorted(alive), len(alive) * 2 // 3):
                alive.pop(number)[1].cancel()
            wanted = sorted((due, number) for number, (due, _) in alive.items() if due <= loop.time() + 20.5)
            await asyncio.sleep(20.5)
            assert fired == wanted
            for _, number in fired:
                del alive[number]
            fired.clear()
        assert loop.waiting < 3 * len(alive) + 200

    run(main())


# ---- what asyncio offers besides


def test_a_task_group_ends_with_its_first_error() -> None:
    async def fail() -> None:
        await asyncio.sleep(2)
        raise LookupError("no")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(50))
            group.create_task(fail())

    async def main() -> int:
        with pytest.raises(BaseExceptionGroup) as caught:
            await work()
        assert caught.group_contains(LookupError)
        return here().now_ns

    assert run(main()) == 2 * 10**9


def test_executors_run_at_once_and_in_place() -> None:
    async def main() -> None:
        loop = here()
        assert await asyncio.to_thread(threading.get_ident) == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        await loop.shutdown_default_executor()
        assert loop.now_ns == 0

    run(main())


def test_async_generators_are_closed_at_the_end() -> None:
    closed = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def main() -> None:
        async for _ in numbers():
            break

    run(main())
    assert closed == [True]


def test_addresses_are_those_of_this_machine() -> None:
    async def main() -> None:
        found = await here().getaddrinfo("localhost", 502)
        assert found == [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 502))]
        assert (await here().getaddrinfo(b"::1", "502"))[0][4] == ("::1", 502, 0, 0)
        with pytest.raises(socket.gaierror, match=r"'device\.example' found"):
            await here().getaddrinfo("device.example", 502)

    run(main())


def test_what_a_callback_raises_is_surfaced(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise LookupError("lost")

    async def main() -> int:
        met: list[dict[str, Any]] = []
        here().set_exception_handler(lambda loop, context: met.append(context))
        here().call_soon(fail)
        await asyncio.sleep(0)
        here().set_exception_handler(None)
        with caplog.at_level(logging.ERROR):
            here().call_later(1, fail)
            await asyncio.sleep(2)
        assert isinstance(met[0]["exception"], LookupError)
        return len(met)

    assert run(main()) == 1
    assert "Exception in callback <call of" in caplog.text
    assert "at 1.000000000 s" in caplog.text


def test_another_thread_cannot_call_in() -> None:
    met: list[BaseException] = []

    async def main() -> None:
        loop = here()

        def call() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except InvariantError as error:
                met.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        done = asyncio.Event()
        loop.call_soon_threadsafe(done.set)  # from its own thread, as a signal handler does
        await done.wait()

    run(main())
    assert "a thread found that calls into virtual time" in str(met[0])


def test_a_closed_loop_takes_nothing() -> None:
    loop = VirtualLoop()
    loop.close()
    for call in (loop.call_soon, lambda f: loop.call_later(1, f), lambda f: loop.call_at(1, f)):
        with pytest.raises(RuntimeError, match="closed"):
            call(print)


def test_debugging_stays_off() -> None:
    with asyncio.Runner(debug=True, loop_factory=VirtualLoop) as runner:
        runner.run(asyncio.sleep(1))
        assert runner.get_loop().get_debug() is False


# ---- when nothing can happen any more


async def wait_for_ever(event: asyncio.Event) -> None:
    await event.wait()


def test_a_deadlock_names_who_waits_and_where() -> None:
    async def main() -> None:
        await asyncio.sleep(5)
        tasks = [asyncio.create_task(wait_for_ever(asyncio.Event()), name=name) for name in ("poll", "act")]
        await asyncio.gather(*tasks)

    with pytest.raises(DeadlockError) as caught:
        run(main())
    text = str(caught.value)
    place = (
        f"{__file__}:{wait_for_ever.__code__.co_firstlineno + 1} in wait_for_ever, in asyncio's Event.wait"
    )
    assert "at 5.000000000 s nothing is ready and nothing is scheduled" in text
    assert f"poll: wait_for_ever, waiting at {place}" in text
    assert text.index("act: wait_for_ever") < text.index("poll: wait_for_ever")
    assert "in test_a_deadlock_names_who_waits_and_where.<locals>.main" in text


def test_a_deadlock_without_a_task_is_one_too() -> None:
    loop = VirtualLoop()
    with pytest.raises(DeadlockError, match="no task"):
        loop.run_until_complete(loop.create_future())
    with pytest.raises(DeadlockError, match="no task"):
        loop.run_forever()
    loop.close()


def test_many_waiters_are_told_of_in_part() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(70):
                group.create_task(wait_for_ever(asyncio.Event()))

    with pytest.raises(DeadlockError, match="and 21 more"):
        run(main())


def test_whoever_spins_without_waiting_is_stopped() -> None:
    async def main() -> None:
        here().turns_max = 1000
        while here().time() < 10:
            await asyncio.sleep(0)

    with pytest.raises(DeadlockError, match="time stands still"):
        run(main())


def test_who_lets_time_pass_is_not_stopped() -> None:
    async def main() -> int:
        here().turns_max = 1000
        for _ in range(3000):
            await asyncio.sleep(0.001)
        return here().now_ns

    assert run(main()) == 3 * 10**9


# ---- interruption


def interrupted(main: Callable[[], Coroutine[Any, Any, None]]) -> list[str]:
    """Run a program that is interrupted by Ctrl-C; return what it noted."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(main())
    finally:
        signal.signal(signal.SIGINT, before)
    return noted


noted: list[str] = []


async def spin() -> None:
    noted.clear()
    try:
        for k in range(10_000_000):
            if k == 1000:
                os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(1)
    finally:
        await asyncio.sleep(1)
        noted.append("tidied up")


def test_ctrl_c_leaves_cleanly() -> None:
    assert interrupted(spin) == ["tidied up"]


def test_what_an_interrupt_leaves_is_run_when_the_loop_goes_on() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    loop, seen = VirtualLoop(), list[str]()
    for call in (lambda: seen.append("before"), interrupt, lambda: seen.append("after")):
        loop.call_soon(call)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert seen == ["before"]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["before", "after"]
    loop.close()


def test_ctrl_c_ends_a_process_with_nothing_left_over() -> None:
    text = (
        "import asyncio\n"
        "from ridethrough.hil.virtual.loop import VirtualLoop\n"
        "async def main():\n"
        "    try:\n"
        "        print('started', flush=True)\n"
        "        while True:\n"
        "            await asyncio.sleep(1e-6)\n"
        "    finally:\n"
        "        print('ended', flush=True)\n"
        "with asyncio.Runner(loop_factory=VirtualLoop) as runner:\n"
        "    runner.run(main())\n"
    )
    program = [sys.executable, "-X", "dev", "-c", text]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert out == "ended\n"
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert "never" not in err
    assert "Warning" not in err


def test_a_seeded_program_is_the_same_every_time() -> None:
    async def main() -> list[tuple[int, int]]:
        rng, seen = random.Random(7), []

        async def walk(number: int) -> None:
            for _ in range(20):
                await asyncio.sleep(rng.random())
                seen.append((number, here().now_ns))

        await asyncio.gather(*(walk(number) for number in range(10)))
        return seen

    assert run(main()) == run(main())
