"""A program of the user's own that runs beside the bench, held at arm's length.

Duty: start it, keep the first of what it says, see when it ends, and end it with everything it has started.
Rules of this file: whatever the program does, the bench goes on; its output neither blocks nor fills
anything; nothing of it is left when the run is over, nor when the bench itself is killed.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from ridethrough.emulator.errors import ScenarioError

LOG_BYTES_MAX: Final = 1 << 20
"""So much of what a program says is kept."""

GRACE_S: Final = 5.0
"""A program has so long to end when it is told to; then it is killed [s]."""

_TAIL_BYTES: Final = 2000
_ROUNDS: Final = 50
_PIECE_BYTES: Final = 65_536
_COOKIE: Final = "RIDETHROUGH_INVENTORY"

_LAUNCHER: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    print(f"{sys.argv[2]}: cannot be started: {error.strerror}", flush=True)
    sys.exit(126)
"""
"""Becomes the program; on Linux with the order to die with the bench, which is set between fork and exec."""


def read_command(text: str, inventory: Path) -> list[str]:
    """Return the words of a command, ``{inventory}`` replaced.

    Raises
    ------
    ScenarioError
        There is no word, a quote is not closed, or there is no such program.
    """
    try:
        words = [word.replace("{inventory}", str(inventory)) for word in shlex.split(text)]
    except ValueError as error:
        raise ScenarioError(f"--external {text!r}: {error}; allowed a command as in a shell") from None
    if not words:
        raise ScenarioError("--external: found nothing; allowed a command such as 'python3 mine.py'")
    if shutil.which(words[0]) is None:
        raise ScenarioError(
            f"--external: found no program {words[0]!r} that can be run; allowed one on the PATH, or the "
            "path of an executable file"
        )
    return words


class Program:
    """One program in a session of its own.

    Parameters
    ----------
    words : list of str
        Command and arguments.
    inventory : Path
        Given to the program as RIDETHROUGH_INVENTORY; by it everything the program has started is known.
    log : Path
        Gets the first `LOG_BYTES_MAX` bytes of what the program says.
    environment : mapping, optional
        Besides the bench's own.
    """

    def __init__(
        self, words: list[str], inventory: Path, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._words, self._log = words, log
        self._inventory = inventory.resolve()
        self._environment = {**os.environ, **(environment or {}), _COOKIE: str(self._inventory)}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._tail = b""

    async def start(self) -> None:
        """Start it."""
        launcher = (sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()))
        self._process = await asyncio.create_subprocess_exec(
            *launcher,
            *self._words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read())

    async def ended(self) -> tuple[int, str]:
        """Wait until it ends by itself; returns its exit code, or less than 0, and how it ended in words."""
        assert self._process is not None
        code = await self._process.wait()
        with suppress(TimeoutError):  # what it has started may hold the pipe open
            async with asyncio.timeout(0.5):
                assert self._reader is not None
                await asyncio.shield(self._reader)
        how = f"exit code {code}" if code >= 0 else f"signal {_signal_name(-code)}"
        return code, how + self._last_words()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._tail.decode("utf-8", "replace").splitlines()]
        said = next((line for line in reversed(lines) if line), "")
        printable = "".join(c if c.isprintable() else "?" for c in said[:200])
        return f"; its last words: {printable}" if said else ""

    async def _read(self) -> None:
        """Keep the first of what it says, and let the rest go by."""
        assert self._process is not None
        stream = self._process.stdout
        assert stream is not None
        kept = dropped = 0
        with self._log.open("wb", buffering=0) as file:
            while piece := await stream.read(_PIECE_BYTES):
                self._tail = (self._tail + piece)[-_TAIL_BYTES:]
                take = piece[: LOG_BYTES_MAX - kept]
                kept, dropped = kept + len(take), dropped + len(piece) - len(take)
                if take and not _written(file.write, take):
                    kept = LOG_BYTES_MAX  # a full disk is the record's trouble; here it only ends the log
            if dropped:
                _written(file.write, f"\n[{dropped} bytes more were not kept]\n".encode())

    async def end(self) -> None:
        """End it and everything it has started, by asking first and then without asking."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            _signal_group(process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S):
                    await process.wait()
        # Whoever is left of its session, and who has left the session, goes without a word.
        _signal_group(process.pid, signal.SIGKILL)
        for _ in range(_ROUNDS):  # some may be starting others meanwhile
            left = _descendants(self._inventory)
            if not left:
                break
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
        await process.wait()
        if self._reader is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S):
                    await asyncio.shield(self._reader)
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


def _written(write: Callable[[bytes], int | None], data: bytes) -> bool:
    try:
        write(data)
    except OSError:
        return False
    return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _signal_group(pid: int, number: int) -> None:
    """Signal the process group of a program, if anybody is left in it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _descendants(inventory: Path) -> list[int]:
    """Return the processes that were started with this inventory, where the system lets one see them."""
    wanted = f"{_COOKIE}={inventory}\0".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
        except OSError:
            continue  # gone, or somebody else's
        if wanted in b"\0" + environment and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found
