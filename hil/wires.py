"""How emulated devices are reached: which units stand behind which port or line, and how that is opened.

Each device gets a port of its own; its inverter and its meter are two units behind it.  Or all are behind
gateways: `GATEWAY_DEVICES` to a port, inverters at unit ids 1 to 100, the meter of the inverter at `i` at
`i + 100`; a unit id that nobody has is answered with exception 0x0B, as a gateway does.  A serial line has
the unit ids of a gateway, and there is one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.server import DEFAULT_LIMITS, Limits, serve_tcp

from .target import AsciiTarget, Parity, RtuOverTcpTarget, RtuTarget, StopBits, Target, TcpTarget, TlsTarget

if TYPE_CHECKING:
    from ridethrough.emulator._modbus import Unit
    from ridethrough.emulator._peer import Lane
    from ridethrough.emulator.quirks.knobs import Quirks

    from .pki import Pki

Kind = Literal["tcp", "tls", "rtu+tcp", "rtu", "ascii"]
Make = Callable[[Plant, int], Mapping[int, "Unit"]]
"""Makes the units of one device, the inverter first, its meter behind it."""
Server = AbstractAsyncContextManager[Any]

GATEWAY_DEVICES: Final = 100
"""Devices behind one port of a gateway: clients look for a meter at the unit id plus 100."""

GATEWAY_LIMITS: Final = Limits(connections_max=2 * GATEWAY_DEVICES)
"""A gateway takes a connection for each of its units, if a client wants it so."""

_NET_TARGETS: Final[Mapping[str, Callable[[str, int, int], Target]]] = {
    "tcp": TcpTarget,
    "tls": TlsTarget,
    "rtu+tcp": RtuOverTcpTarget,
}


@dataclass(frozen=True, slots=True)
class Wire:
    """How clients reach what is served.

    Attributes
    ----------
    kind : {"tcp", "tls", "rtu+tcp", "rtu", "ascii"}
    host : str
        Address to listen on.
    port : int
        The first one, the next ones follow; 0 picks free ones.
    allow_remote : bool
        Allow an address that other machines can reach.
    gateway : bool
        Many devices behind each port, instead of one.
    path : str
        Of a serial line: the port, or "pty" for a pseudo terminal of our own.
    baud : int
        [Bd].
    parity : {"N", "E", "O"}
    stop_bits : {1, 2}
    pki : Pki, optional
        Needed for tls.
    """

    kind: Kind = "tcp"
    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False
    gateway: bool = False
    path: str = "pty"
    baud: int = 9600
    parity: Parity = "N"
    stop_bits: StopBits = 1
    pki: Pki | None = None

    @property
    def serial(self) -> bool:
        """Whether it is a line and not a port."""
        return self.kind in ("rtu", "ascii")


@dataclass(frozen=True, slots=True)
class Dress:
    """Quirks that all served devices have.

    Attributes
    ----------
    quirks : Quirks
    stream : callable
        Chance of the device of this position in the plant.
    speed : float
        Bench seconds per real second.
    start_of_day_s : int
        Time of day at bench time 0 [s].
    """

    quirks: Quirks
    stream: Callable[[int], np.random.Generator]
    speed: float = 1.0
    start_of_day_s: int = 0


@dataclass(frozen=True, slots=True)
class Door:
    """What one port, or one line, serves.

    Attributes
    ----------
    units : dict of int to Unit
        By unit id.
    devices : tuple of (int, tuple of int)
        Position in the plant; unit ids of the inverter and, if it has one, of the meter.
    limits : Limits
    steps : tuple of callable
        To be called after each advance of the plant.
    """

    units: dict[int, Unit]
    devices: tuple[tuple[int, tuple[int, ...]], ...]
    limits: Limits
    steps: tuple[Callable[[], None], ...] = field(default=())


def limits_of(profile: DeviceProfile) -> Limits:
    """Return what a device of this profile allows its clients."""
    face = profile.face
    return Limits(
        idle_timeout_s=face.idle_timeout_s,
        connections_max=face.connections_max or DEFAULT_LIMITS.connections_max,
    )


def at_speed(limits: Limits, speed: float) -> Limits:
    """Return limits on a bench that runs faster than life: a client's idle time is bench time too."""
    idle_s = limits.idle_timeout_s
    return limits if idle_s is None else replace(limits, idle_timeout_s=idle_s / speed)


def own_doors(plant: Plant, make: Make = units_of) -> Iterator[Door]:
    """Yield a port for each device."""
    for d, profile in enumerate(plant.profiles):
        units = make(plant, d)
        yield Door(dict(units), ((d, tuple(units)),), limits_of(profile))


def gateway_doors(plant: Plant, make: Make = units_of) -> Iterator[Door]:
    """Yield a port for every `GATEWAY_DEVICES` devices, with the limits of a gateway."""
    for first in range(0, plant.n, GATEWAY_DEVICES):
        units: dict[int, Unit] = {}
        devices = []
        for inverter, d in enumerate(range(first, min(first + GATEWAY_DEVICES, plant.n)), 1):
            meter = inverter + GATEWAY_DEVICES
            units[inverter], units[meter] = make(plant, d).values()
            devices.append((d, (inverter, meter)))
        yield Door(units, tuple(devices), GATEWAY_LIMITS)


def dressed_doors(plant: Plant, dress: Dress, *, together: bool) -> Iterator[Door]:
    """Yield a port for each device with its quirks, or one for all of them.

    Raises
    ------
    ScenarioError
        A quirk does not fit a device, or behind one port two devices want the same unit id.
    """
    from ridethrough.emulator.quirks.unit import QuirkyUnit, quirky_units

    units: dict[int, Unit] = {}
    devices: list[tuple[int, tuple[int, ...]]] = []
    steps: list[Callable[[], None]] = []
    for d, profile in enumerate(plant.profiles):
        first = d + 1 if together else 1
        own: Mapping[int, QuirkyUnit] = quirky_units(
            plant, d, dress.quirks, dress.stream(d), first, start_of_day_s=dress.start_of_day_s
        )
        taken = sorted(own.keys() & units.keys())
        if taken:
            raise ScenarioError(
                f"{plant.n} devices behind one port, and device {d + 1} wants unit id {taken[0]}, which "
                "another has; allowed fewer devices, or a port for each"
            )
        units |= own
        ids = tuple(own)[:2] if len(own) <= 2 else (next(i for i in own if i),)
        devices.append((d, ids))
        steps += [unit.step for unit in dict.fromkeys(own.values())]
        if not together:
            yield Door(dict(units), tuple(devices), limits_of(profile), tuple(steps))
            units, devices, steps = {}, [], []
    if together:
        yield Door(units, tuple(devices), GATEWAY_LIMITS, tuple(steps))


def doors_of(plant: Plant, wire: Wire, dress: Dress | None, make: Make = units_of) -> list[Door]:
    """Return what each port serves; `make` makes the units of devices without quirks.

    Raises
    ------
    ScenarioError
        More devices than a serial line has unit ids for; quirks where they cannot be served.
    """
    together = wire.gateway or wire.serial
    if dress is not None:
        _check_dress(dress, wire)
        doors = list(dressed_doors(plant, dress, together=together))
    else:
        doors = list(gateway_doors(plant, make) if together else own_doors(plant, make))
    if wire.serial and len(doors) > 1:
        raise ScenarioError(
            f"{plant.n} devices on one serial line; allowed {GATEWAY_DEVICES}, for which there are unit ids"
        )
    return doors


def _check_dress(dress: Dress, wire: Wire) -> None:
    names = ", ".join(dress.quirks.names)
    if wire.kind == "tls":
        raise ScenarioError(
            f"quirks {names} with tls; allowed without it: rights are by registers of the plain map"
        )
    if dress.quirks.transport is not None and wire.kind != "tcp":
        raise ScenarioError(
            f"quirks {names}: some are of Modbus TCP itself; allowed with tcp, found {wire.kind}"
        )


async def open_door(
    door: Door, wire: Wire, port: int, dress: Dress | None, lane: Lane | None
) -> tuple[Server, Callable[[int], Target]]:
    """Open one port or line; return its server, and what makes a target of a unit id.

    Raises
    ------
    ScenarioError
        The address, port or line cannot be used.
    """
    if wire.kind in ("rtu", "ascii"):
        return await _open_line(door, wire)
    options: dict[str, Any] = {"limits": door.limits, "allow_remote": wire.allow_remote}
    if wire.kind == "rtu+tcp":
        from ridethrough.emulator.rtu_tcp import serve_rtu_tcp

        server = await serve_rtu_tcp(door.units, wire.host, port, **options)
    elif wire.kind == "tls":
        server = await serve_tcp(
            door.units, wire.host, port, core=_tls_core(door, wire), lane=lane, **options
        )
    elif dress is not None:
        from ridethrough.emulator.quirks.transport import serve_quirky

        own = dress.stream(door.devices[0][0])
        server = await serve_quirky(
            door.units, wire.host, port, quirks=dress.quirks, rng=own, speed=dress.speed, **options
        )
    else:
        server = await serve_tcp(door.units, wire.host, port, lane=lane, **options)
    kind, host, at = _NET_TARGETS[wire.kind], server.host, server.port
    return server, lambda unit: kind(host, at, unit)


def _tls_core(door: Door, wire: Wire) -> Any:
    from ridethrough.emulator.tls import TlsServerSettings, TlsUnits, server_context

    if wire.pki is None:
        raise ScenarioError("tls: found no certificates; allowed a PKI")
    pki = wire.pki
    return TlsUnits(door.units, server_context(TlsServerSettings(pki.server.cert, pki.server.key, pki.ca)))


async def _open_line(door: Door, wire: Wire) -> tuple[Server, Callable[[int], Target]]:
    from ridethrough.emulator.serial_line import serve_serial

    if wire.kind == "ascii" and wire.path == "pty" and wire.parity != "N":
        raise ScenarioError(
            f"parity {wire.parity} for ASCII on a pseudo terminal; allowed N: it has no 7 data bits"
        )
    framing: Literal["rtu", "ascii"] = "rtu" if wire.kind == "rtu" else "ascii"
    # What our own targets mean by ASCII: 7 data bits with a parity bit, 8 without one.
    bits = 7 if framing == "ascii" and wire.parity != "N" else 8
    line = await serve_serial(
        door.units,
        wire.path,
        wire.baud,
        parity=wire.parity,
        stopbits=wire.stop_bits,
        bytesize=bits,
        framing=framing,
    )
    kind = RtuTarget if framing == "rtu" else AsciiTarget
    blank = kind(line.path, wire.baud, 1, wire.parity, wire.stop_bits)
    return line, lambda unit: replace(blank, unit=unit)
