"""The door to a bench that runs: a port on loopback, a token, and one JSON object per line each way.

Duty: let `ridethrough inject` and its like reach a running bench; what they ask is `injection`'s business.
Rules: nobody without the token gets an answer to anything; what comes in is bounded in size, number and
time; the token stands in a file that only the user can read, and nowhere else.

A request is ``{"token": ..., "verb": ..., ...}``, a reply ``{"ok": true, ...}`` or ``{"ok": false, "error":
...}``.  Why not HTTP: docs/adr/0013-control-endpoint.md.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ridethrough.emulator.errors import RidethroughError, ScenarioError

from .injection import Injector
from .units import did_you_mean, shown

LOOPBACK: Final = "127.0.0.1"
LINE_BYTES_MAX: Final = 64 * 1024
REPLY_BYTES_MAX: Final = 16 * 1024 * 1024
CLIENTS_MAX: Final = 8
IDLE_S: Final = 30.0
"""A client that says nothing for so long is cut."""
ASK_S: Final = 10.0
"""A bench has so long to answer."""
VERBS: Final = ("state", "faults", "inject", "clear", "stop")
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class BenchFile:
    """Where a running bench is reached, as its file says.

    Attributes
    ----------
    version : int
    name : str
        Of the bench: the scenario and the number of its process.
    pid : int
    host : str
    port : int
    token : str
    """

    version: int
    name: str
    pid: int
    host: str
    port: int
    token: str


class ControlServer:
    """Answers those who have the token.

    Parameters
    ----------
    injector : Injector
    token : str

    Attributes
    ----------
    port : int
        Once started.
    """

    def __init__(self, injector: Injector, token: str) -> None:
        self._injector = injector
        self._token = token.encode()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Begin to listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0, limit=LINE_BYTES_MAX)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and cut every client."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._tasks) > CLIENTS_MAX:
                await _say(writer, _refusal(f"{CLIENTS_MAX} clients are connected; allowed no more"))
            else:
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client has gone or said nothing, or the bench ends: nothing is owed to it
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readuntil()
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                await _say(writer, _refusal(f"found a longer line; allowed {LINE_BYTES_MAX} bytes"))
                return
            request = _parsed(line)
            token = request.pop("token", None) if request is not None else None
            if not isinstance(token, str) or not hmac.compare_digest(
                token.encode("utf-8", "replace"), self._token
            ):
                await _say(writer, _refusal("token: found none or a wrong one; allowed the bench's own"))
                return
            assert request is not None
            await _say(writer, self._answer(request))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        verb = request.pop("verb", None)
        try:
            if verb == "inject":
                return {"ok": True, "event": self._injector.inject(request)}
            number = request.pop("number", None) if verb == "clear" else None
            if request:
                raise ScenarioError(f"{min(map(str, request))}: found with {verb}; allowed nothing more")
            if verb == "clear":
                return {"ok": True, "events": self._injector.clear(_number(number))}
            if verb == "state":
                return {"ok": True, "state": self._injector.state()}
            if verb == "faults":
                return {"ok": True, "events": self._injector.faults()}
            if verb == "stop":
                self._injector.stop()
                return {"ok": True}
        except RidethroughError as error:
            return _refusal(str(error))
        return _refusal(f"verb: found {shown(verb)}; allowed {', '.join(VERBS)}")


def _number(found: object) -> int | None:
    if found == "all":
        return None
    if not isinstance(found, int) or isinstance(found, bool):
        raise ScenarioError(f"number: found {shown(found)}; allowed the number of an event, or all")
    return found


def _refusal(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error}


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line, None when it is none."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


async def _say(writer: asyncio.StreamWriter, reply: Mapping[str, Any]) -> None:
    writer.write(json.dumps(reply).encode() + b"\n")
    async with asyncio.timeout(IDLE_S):
        await writer.drain()


@asynccontextmanager
async def open_control(injector: Injector, name: str) -> AsyncIterator[Path]:
    """Let the verbs `inject`, `clear` and `bench` reach a run while the block lasts; gives the bench's file.

    Raises
    ------
    ScenarioError
        The folder of such files cannot be made, or is not the user's alone.
    """
    token = secrets.token_urlsafe(32)
    server = ControlServer(injector, token)
    await server.start()
    try:
        pid = os.getpid()
        facts = BenchFile(_VERSION, f"{name}-{pid}", pid, LOOPBACK, server.port, token)
        path = _write_private(runtime_folder() / f"{facts.name}.json", json.dumps(asdict(facts)))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
    finally:
        await server.close()


def runtime_folder() -> Path:
    """Return the folder of the files of running benches, made if need be: the user's alone.

    Raises
    ------
    ScenarioError
        It cannot be made, or others can look into it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        folder = Path(runtime) / "ridethrough"
    else:
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
        folder = Path(tempfile.gettempdir()) / f"ridethrough-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ScenarioError(
            f"{folder}: cannot be made: {error.strerror or error}; allowed a folder of your own, such as "
            "XDG_RUNTIME_DIR names"
        ) from error
    others = os.name != "nt" and (found.st_uid != os.getuid() or found.st_mode & 0o077)
    if not stat.S_ISDIR(found.st_mode) or others:
        raise ScenarioError(
            f"{folder}: found a folder that others can look into, or no folder; allowed one that is yours "
            "alone (chmod 700), because the token of a bench stands there"
        )
    return folder


def _write_private(path: Path, text: str) -> Path:
    """Make a file that only its owner can read."""
    path.unlink(missing_ok=True)  # of a dead process that had our number
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path


def running_benches() -> list[BenchFile]:
    """Return the benches of this user that run; files of dead ones are removed."""
    found = []
    for path in sorted(runtime_folder().glob("*.json")):
        try:
            bench = read_bench_file(path)
        except ScenarioError:
            continue
        if _alive(bench.pid):
            found.append(bench)
        else:
            path.unlink(missing_ok=True)
    return found


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_bench_file(path: Path) -> BenchFile:
    """Return what a bench's file says.

    Raises
    ------
    ScenarioError
        There is no such file, or it is none of ours.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        bench = BenchFile(**content)
    except (OSError, ValueError, TypeError) as error:
        raise ScenarioError(f"{path}: found no file of a running bench ({error})") from None
    kinds = {"version": int, "name": str, "pid": int, "host": str, "port": int, "token": str}
    if bench.version != _VERSION or not all(type(getattr(bench, k)) is kind for k, kind in kinds.items()):
        raise ScenarioError(f"{path}: found a bench's file of another version; allowed version {_VERSION}")
    return bench


def find_bench(name: str | None) -> BenchFile:
    """Return the running bench of a name, or the only one there is.

    Parameters
    ----------
    name : str, optional
        Of the bench, or the path of its file.

    Raises
    ------
    ScenarioError
        There is none, or several and no name.
    """
    if name is not None and (name.endswith(".json") or os.sep in name):
        return read_bench_file(Path(name))
    benches = running_benches()
    names = [bench.name for bench in benches]
    if not benches:
        raise ScenarioError(
            "no bench runs with a control endpoint; start one: ridethrough serve SCENARIO, or "
            "ridethrough run SCENARIO --level hil --control"
        )
    if name is None and len(benches) == 1:
        return benches[0]
    if name is None:
        raise ScenarioError(f"{len(benches)} benches run; name one with --bench: {', '.join(names)}")
    chosen = [bench for bench in benches if bench.name == name]
    if not chosen:
        raise ScenarioError(
            f"--bench {name}{did_you_mean(name, names)}: found no such bench; allowed {', '.join(names)}"
        )
    return chosen[0]


def ask(bench: BenchFile, request: Mapping[str, Any]) -> dict[str, Any]:
    """Ask a running bench something; returns its reply.

    Raises
    ------
    ScenarioError
        The bench refuses, and says why.
    RidethroughError
        It does not answer.
    """
    line = json.dumps({**request, "token": bench.token}).encode() + b"\n"
    reply = b""
    try:
        with socket.create_connection((bench.host, bench.port), timeout=ASK_S) as connection:
            connection.sendall(line)
            with connection.makefile("rb") as stream:
                reply = stream.readline(REPLY_BYTES_MAX)
    except OSError as error:
        raise RidethroughError(
            f"the bench {bench.name} does not answer at {bench.host} port {bench.port}: "
            f"{error.strerror or error}; it may have ended"
        ) from error
    answer = _parsed(reply)
    if answer is None:
        raise RidethroughError(f"the bench {bench.name} closed without an answer")
    if answer.get("ok") is not True:
        raise ScenarioError(str(answer.get("error")))
    return answer
