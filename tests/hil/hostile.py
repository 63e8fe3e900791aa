"""Controllers that misbehave: what a bench must survive.

Each does its worst in `answer`, at its first decision, but for those that fail earlier.  They are run in a
process of their own only; several would end the process that imports and asks them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from ridethrough.controllers.contract import Commands, Pool, Telemetry

MIB = 1 << 20


class Tame:
    """Commands nothing, and misbehaves in `answer`."""

    period_s = 60.0

    def enroll(self, pool: Pool) -> None:
        self.n = len(pool.names)

    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        self.answer()
        return Commands.none(self.n)

    def answer(self) -> None:
        """Misbehave."""


class Loops(Tame):
    def answer(self) -> None:
        while True:
            pass


class Exits(Tame):
    def answer(self) -> None:
        os._exit(3)


class Eats(Tame):
    def answer(self) -> None:
        self.eaten = np.ones(8 << 30, dtype=np.uint8)


class Threads(Tame):
    """As many as it gets, whatever it is told."""

    def answer(self) -> None:
        threading.stack_size(64 << 10)
        while True:
            try:
                threading.Thread(target=time.sleep, args=(1000.0,), daemon=True).start()
            except RuntimeError:
                time.sleep(0.01)


class NotANumber(Tame):
    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        return Commands(np.zeros(self.n), np.full(self.n, np.nan), np.full(self.n, np.nan))


class Infinite(Tame):
    def decide(self, now_ns: int, telemetry: Telemetry) -> Commands:
        return Commands(np.full(self.n, -np.inf), np.full(self.n, 60.0), np.full(self.n, np.nan))


class CatchesAll(Tame):
    def answer(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                continue


class Prints(Tame):
    """A gigabyte at its first decision, then it behaves."""

    printed = False

    def answer(self) -> None:
        if not self.printed:
            self.printed = True
            line = "once upon a time " * 61680 + "\n"
            for _ in range(1 << 10):
                sys.stdout.write(line)


class StopsClocks(Tame):
    def answer(self) -> None:
        for name in ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns"):
            setattr(time, name, lambda: 0)
        time.sleep = lambda seconds: None


class ClosesFiles(Tame):
    def answer(self) -> None:
        os.closerange(0, 4096)


class HoldsTheLock(Tame):
    """Sleeps in C without letting go of the interpreter's lock."""

    def answer(self) -> None:
        ctypes.PyDLL(None).sleep(1000)


class Stops(Tame):
    def answer(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


class Late(Tame):
    """Answers, but long after it was asked."""

    def answer(self) -> None:
        time.sleep(2.0)


class Forks(Tame):
    """Leaves processes behind that hide in sessions of their own, and goes on as if nothing was."""

    def answer(self) -> None:
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(1000.0)
                os._exit(0)


class ForkBomb(Tame):
    """Doubles until there are a few hundred, each ignoring what it can."""

    def answer(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(8):
            os.fork()
        time.sleep(1000.0)


class Garbage(Tame):
    """Writes nonsense onto every pipe it has, and waits."""

    def answer(self) -> None:
        for entry in Path("/proc/self/fd").iterdir():
            try:
                os.write(int(entry.name), b"\xff\x00 this is no answer " * 50)
            except OSError:
                continue
        time.sleep(1000.0)


class Forges(Tame):
    """Writes an answer of its own, of a size nobody can hold, before the true one."""

    def answer(self) -> None:
        for entry in Path("/proc/self/fd").iterdir():
            try:
                os.write(int(entry.name), b"RTC1\xff\xff\xff\x7f\xff\xff\xff\x7f{}")
            except OSError:
                continue


class KillsItsKeeper(Tame):
    def answer(self) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000.0)


class StopsItsKeeper(Tame):
    def answer(self) -> None:
        os.kill(os.getppid(), signal.SIGSTOP)
        os._exit(5)


class RaisesUnspeakably(Tame):
    def answer(self) -> None:
        class Error(Exception):
            def __str__(self) -> str:
                raise ValueError("not even this")

        raise Error


class BurnsSlowly(Tame):
    """Uses up its processor time, each call well within its deadline."""

    def answer(self) -> None:
        until_s = time.process_time() + 0.4
        while time.process_time() < until_s:
            pass


class RaisesInEnroll(Tame):
    def enroll(self, pool: Pool) -> None:
        raise RuntimeError("cannot read my settings")


class Crashes(Tame):
    def answer(self) -> None:
        ctypes.string_at(0)


class Telephones(Tame):
    """Raises unless it can reach somebody on this machine."""

    def answer(self) -> None:
        import socket

        socket.create_connection(("127.0.0.1", int(os.environ["RIDETHROUGH_TEST_PORT"])), 1.0).close()


class ExitsWhenMade(Tame):
    def __init__(self) -> None:
        print("I will not start")
        os._exit(4)


class HangsWhenMade(Tame):
    def __init__(self) -> None:
        time.sleep(1000.0)


class RaisesWhenMade(Tame):
    def __init__(self) -> None:
        raise RuntimeError("no licence")


class NoPeriod(Tame):
    period_s = float("nan")
