"""A broker inside this process, for runs that need nothing installed: amqtt, mended where it must be.

Rules of this file: loopback unless users are named; nothing is kept on a disk; what it mends is listed here,
each with the reason, and tested.

- A client that connects is sent retained messages only of topics that it has subscribed to itself: amqtt
  sends every client those of all filters that anybody ever used.
- Passwords are compared in memory: amqtt's own check of a password file takes 0.2 s of the event loop.
- A command topic retains nothing: a retained command would be carried out again at every reconnect.
- A second client of the same name ends the first one's connection; amqtt leaves it connected and deaf.
- A connection that it has forgotten is closed at the end too.
- No packet is longer than `PACKET_BYTES_MAX`; amqtt would hold up to 256 MB for anybody.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ridethrough.emulator.errors import ScenarioError

from .address import is_loopback
from .topics import ROOT

try:
    from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
    from amqtt.broker import Broker
    from amqtt.contexts import Action
    from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
    from amqtt.session import Session
except ImportError as _error:  # the extra `mqtt` is not installed
    raise ScenarioError(
        "an embedded broker needs the package amqtt: pip install 'ridethrough[mqtt]'"
    ) from _error

PACKET_BYTES_MAX: Final = 256 * 1024
CONNECTIONS_MAX: Final = 1000

for _name in ("amqtt", "transitions"):  # what it says is for its own developers
    logging.getLogger(_name).addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may connect.

    Attributes
    ----------
    password : str
    homes : tuple of str, or None
        Devices that he may command; None for all, and for the gateway.
    """

    password: str
    homes: tuple[str, ...] | None = None


class Doorkeeper(BaseAuthPlugin):  # type: ignore[misc]  # amqtt publishes no types
    """Lets in whoever is named, or everybody where nobody is."""

    @dataclass
    class Config:
        """`passwords` by user."""

        passwords: dict[str, str] = field(default_factory=dict)

    async def authenticate(self, *, session: Session) -> bool:
        """Return whether a client may connect."""
        passwords = self.config.passwords
        if not passwords:
            session.is_anonymous = True
            return True
        wanted = passwords.get(session.username or "")
        given = (session.password or "").encode()
        # An unknown user takes as long as a wrong password.
        return hmac.compare_digest(given, (wanted or "").encode()) and wanted is not None


class Warden(BaseTopicPlugin):  # type: ignore[misc]  # amqtt publishes no types
    """Lets a user who has homes of his own publish commands to these only; reading is free to all."""

    @dataclass
    class Config:
        """`homes` by user; who is not in it may publish everything."""

        homes: dict[str, list[str]] = field(default_factory=dict)

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Return whether a client may do this with a topic."""
        homes = self.config.homes.get(session.username or "") if session is not None else None
        if action != Action.PUBLISH or homes is None:
            return True
        levels = (topic or "").split("/")
        return len(levels) == 5 and "/".join(levels[:2]) == ROOT and levels[4] == "cmd" and levels[3] in homes


class _BoundedReader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt publishes no types
    """Reads no more than a packet may hold."""

    async def read(self, n: int = -1) -> bytes:
        """Return `n` bytes, and refuse to wait for too many."""
        if n > PACKET_BYTES_MAX:
            raise ConnectionAbortedError(f"a packet of {n} bytes")  # what amqtt takes for the end
        data: bytes = await super().read(n)
        return data


class MendedBroker(Broker):  # type: ignore[misc]  # amqtt publishes no types
    """amqtt's broker with what this file's head lists."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._connections: set[asyncio.Task[None]] = set()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Take a new connection."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._client_connected(listener_name, _BoundedReader(reader), StreamWriterAdapter(writer))
        except (OSError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
            pass  # a client that broke off, or never spoke MQTT; or the end
        finally:
            self._connections.discard(task)
            writer.close()

    async def shutdown(self) -> None:
        """End every connection, and the broker."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await super().shutdown()

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        owners = self._subscriptions.get(subscription[0], [])
        if any(owner.client_id == session.client_id for owner, _ in owners):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def retain_message(
        self,
        source_session: Session | None,
        topic_name: str | None,
        data: bytes | bytearray | None,
        qos: int | None = None,
    ) -> None:
        """Keep a message, unless it is a command."""
        if re.fullmatch(rf"{ROOT}/[^/]+/[^/]+/cmd", topic_name or "") is None:
            await super().retain_message(source_session, topic_name, data, qos)

    async def _delete_session(self, client_id: str) -> None:
        session, handler = self._sessions.get(client_id, (None, None))
        await super()._delete_session(client_id)
        if session is not None and handler is not None and session.transitions.is_connected():
            await handler.handle_connection_closed()
            await handler.stop()


@asynccontextmanager
async def embedded_broker(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    users: Mapping[str, User] | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> AsyncIterator[int]:
    """Serve MQTT while the block lasts; gives the port.

    Parameters
    ----------
    host : str
        Address to listen on.
    port : int
        0 picks a free one.
    users : mapping of str to User, optional
        Without any everybody may connect, from this machine.
    certificate, key : Path, optional
        Of the server, for TLS.

    Raises
    ------
    ScenarioError
        The address is taken or open to others without users, or the certificate cannot be used.
    """
    users = users or {}
    if not users and not is_loopback(host):
        raise ScenarioError(f"broker on {host}: allowed a loopback address, or users with passwords")
    listener: dict[str, Any] = {
        "type": "tcp",
        "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "max_connections": CONNECTIONS_MAX,
    }
    if certificate is not None:
        listener |= {"ssl": True, "certfile": str(certificate), "keyfile": str(key)}
    homes = {name: list(user.homes) for name, user in users.items() if user.homes is not None}
    plugins = {
        f"{__name__}.Doorkeeper": {"passwords": {name: user.password for name, user in users.items()}},
        f"{__name__}.Warden": {"homes": homes},
    }
    try:
        broker = MendedBroker({"listeners": {"default": listener}, "plugins": plugins})
        await broker.start()
    except Exception as error:  # amqtt wraps and passes on whatever the system says
        raise ScenarioError(f"broker on {host}:{port}: cannot be started: {error}") from error
    try:
        yield int(broker._servers["default"].instance.sockets[0].getsockname()[1])
    finally:
        await broker.shutdown()


def read_users(path: Path) -> dict[str, User]:
    """Return the users of a file: ``name:password`` or ``name:password:home,home`` in each line.

    Raises
    ------
    ScenarioError
        The file cannot be read, or a line is not of that form.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ScenarioError(f"{path}: cannot be read: {why}") from None
    users: dict[str, User] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = line.split(":")
        if not name or len(rest) not in (1, 2) or not rest[0]:
            raise ScenarioError(f"{path}:{number}: allowed NAME:PASSWORD or NAME:PASSWORD:HOME,HOME")
        if name in users:
            raise ScenarioError(f"{path}:{number}: found user {name!r} twice; allowed once")
        users[name] = User(rest[0], tuple(rest[1].split(",")) if len(rest) == 2 else None)
    if not users:
        raise ScenarioError(f"{path}: found no user; allowed NAME:PASSWORD in each line")
    return users
