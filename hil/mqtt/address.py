"""Where a broker is, and how to be let in.

Rules of this file: a password never stands on a command line or in a URL, and does not cross a network in the
clear unless that was asked for.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ridethrough.emulator.errors import ScenarioError

PORTS: Final[Mapping[str, int]] = {"mqtt": 1883, "mqtts": 8883}
PASSWORD_VARIABLE: Final = "RIDETHROUGH_MQTT_PASSWORD"
FORM: Final = "mqtt://[USER@]HOST[:PORT] or mqtts://[USER@]HOST[:PORT]"


@dataclass(frozen=True, slots=True)
class Address:
    """A broker, and who we are to it.

    Attributes
    ----------
    host : str
    port : int
    user, password : str or None
    tls : ssl.SSLContext or None
        None in the clear.
    """

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Address({self})"

    def __str__(self) -> str:
        who = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtt' if self.tls is None else 'mqtts'}://{who}{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by its name alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_address(
    url: str,
    *,
    password_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    allow_clear: bool = False,
) -> Address:
    """Return the broker that a user means.

    Parameters
    ----------
    url : str
        ``mqtt://USER@HOST:PORT``, or mqtts for TLS.
    password_file : Path, optional
        Its first line is the password.
    environment : mapping, optional
        Where `PASSWORD_VARIABLE` is looked for, without a file.
    ca : Path, optional
        Whom to trust, in place of the system's authorities.
    certificate, key : Path, optional
        Of the client.
    allow_clear : bool
        A password may go to another machine without TLS.

    Raises
    ------
    ScenarioError
        Something is not allowed, or a file cannot be used.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ScenarioError(f"--mqtt {_shown(url)}: {error}; allowed {FORM}") from None
    if parts.password is not None:
        raise ScenarioError(
            f"--mqtt {_shown(url)}: found a password, which others can read on a command line; allowed a "
            f"file or the variable {PASSWORD_VARIABLE}"
        )
    if (
        parts.scheme not in PORTS
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        raise ScenarioError(f"--mqtt {_shown(url)}: allowed {FORM}")
    user = unquote(parts.username) if parts.username else None
    password = _password(password_file, environment or {}) if user is not None else None
    if user is None and password_file is not None:
        raise ScenarioError(f"--mqtt {_shown(url)}: a password file, and no user; allowed {FORM}")
    address = Address(parts.hostname, port or PORTS[parts.scheme], user, password)
    if parts.scheme == "mqtts":
        return replace(address, tls=client_tls(ca, certificate, key))
    if ca is not None or certificate is not None or key is not None:
        raise ScenarioError(f"--mqtt {_shown(url)}: certificates, and no TLS; allowed with mqtts://")
    if password is not None and not is_loopback(parts.hostname) and not allow_clear:
        raise ScenarioError(
            f"--mqtt {_shown(url)}: the password would cross the network in the clear; allowed mqtts://"
        )
    return address


def _shown(url: str) -> str:
    """Return a URL for a message, without what may be a password."""
    head, at, tail = url.rpartition("@")
    return repr(f"{head.rpartition('/')[0]}/...@{tail}" if at and ":" in head.partition("//")[2] else url)


def _password(file: Path | None, environment: Mapping[str, str]) -> str | None:
    if file is None:
        return environment.get(PASSWORD_VARIABLE)
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: the password cannot be read: {_why(error)}") from None
    if not lines or not lines[0]:
        raise ScenarioError(f"{file}: found no password; allowed one in the first line")
    return lines[0]


def client_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return the TLS of a client: 1.2 or later, the server's name checked.

    Raises
    ------
    ScenarioError
        A file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(str(path) for path in (ca, certificate, key) if path is not None)
        raise ScenarioError(f"{named}: cannot be used for TLS: {_why(error)}") from None
    return context


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
