"""The verb ``serve``: emulated devices on the wire, well-behaved or with the quirks of real products.

Rules of this file: as in cli.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from ridethrough.emulator.errors import ScenarioError

from .cli_device import INTERRUPTED, FormatOption
from .cli_live import mqtt_option
from .files import load_family, load_profile, load_quirk, load_scenario
from .live_serve import LiveServe, LiveWish, check_wish
from .pacer import check_speed
from .serving import Served, Site, loop_factory, one_device, serve_site, what_is, whole_world
from .streams import stream
from .target import AsciiTarget, RtuTarget, parse_target
from .units import DAY_NS, parse_instant, parse_power_w, parse_ratio
from .wires import Dress, Wire
from .world import World, build_world

if TYPE_CHECKING:
    from .pki import Pki

_DAY_S: Final = 86_400
BAUD: Final = 9600
"""Of a serial line for which no other is asked."""


GatewayOption = Annotated[
    bool, typer.Option(help="Put up to 100 devices behind each port: inverter i, its meter at i + 100.")
]
TlsOption = Annotated[bool, typer.Option("--tls", help="Modbus/TCP Security, with throw-away certificates.")]
PkiOption = Annotated[
    Path | None, typer.Option(help="With --tls: folder of the certificates; made if it is not there.")
]
RtuTcpOption = Annotated[bool, typer.Option("--rtu-tcp", help="RTU frames over TCP, as converters do.")]
RemoteOption = Annotated[
    bool, typer.Option(help="Let other machines reach it: plain Modbus has no authentication.")
]
RtuOption = Annotated[
    str | None, typer.Option(help="RTU on the serial line PATH@BAUD,PARITY,STOPBITS; PATH may be pty.")
]
AsciiOption = Annotated[
    str | None, typer.Option("--ascii", help="Modbus ASCII on such a line; pty makes one and prints it.")
]
RecordOption = Annotated[
    Path | None, typer.Option(help="Of a scenario: record into this folder, and judge at the end.")
]
NetworkOption = Annotated[
    bool, typer.Option(help="Of a scenario: its network and the faults of it stand before each device.")
]
MqttOption = Annotated[
    str | None, typer.Option(help="Of a scenario: a gateway to MQTT: 'embedded', or mqtt://HOST:PORT.")
]
MqttCaOption = Annotated[Path | None, typer.Option(help="With --mqtt mqtts://HOST: whom to trust, as PEM.")]
MqttPortOption = Annotated[int, typer.Option(min=0, max=65535, help="Of the embedded broker.")]
HomeAssistantOption = Annotated[bool, typer.Option(help="Announce the devices to Home Assistant.")]
ControlOption = Annotated[
    bool, typer.Option(help="Of a scenario: let ridethrough inject and clear reach it.")
]


def watts(text: str) -> float:
    """Return a power from the command line, where a bare number is meant in watts."""
    return parse_power_w(text if text.endswith("W") else f"{text}W")


def serve(
    what: Annotated[
        str, typer.Argument(help="A device profile, a product family or a scenario, bundled or a YAML file.")
    ],
    quirk: Annotated[
        list[str] | None, typer.Option("--quirk", help="A quirk, bundled or a YAML file; may be repeated.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The first one; 0 picks free ones.")] = 0,
    gateway: GatewayOption = False,
    tls: TlsOption = False,
    pki: PkiOption = None,
    rtu_tcp: RtuTcpOption = False,
    rtu: RtuOption = None,
    ascii_: AsciiOption = None,
    speed: Annotated[float, typer.Option(help="Bench seconds per real second.")] = 1.0,
    begin: Annotated[
        str, typer.Option("--from", help="A profile's or family's time of day at the start, such as 21:55.")
    ] = "12:00",
    soc: Annotated[str, typer.Option(help="A profile's state of charge at the start, such as 90%.")] = "90%",
    load: Annotated[str, typer.Option(help="A profile's load, such as 900 or 0.9kW.")] = "900",
    pv: Annotated[str, typer.Option(help="A profile's PV power, such as 3kW.")] = "0",
    seed: Annotated[int | None, typer.Option(min=0, help="Of chance; a scenario has its own.")] = None,
    allow_remote: RemoteOption = False,
    record: RecordOption = None,
    network: NetworkOption = False,
    control: ControlOption = True,
    mqtt: MqttOption = None,
    mqtt_ca: MqttCaOption = None,
    mqtt_port: MqttPortOption = 0,
    home_assistant: HomeAssistantOption = False,
    form: FormatOption = "table",
) -> None:
    """Serve emulated devices over Modbus until interrupted.

    Prints where each device answers: one line per device, its inverter as a target for the other verbs.
    """
    check_speed(speed)
    wire = _wire(tls, rtu_tcp, rtu, ascii_)
    if pki is not None and not tls:
        raise ScenarioError("--pki: allowed only with --tls")
    served = _served(what, soc, load, pv, begin, seed)
    dress = _dress((*served.quirks, *(quirk or ())), seed or 0, speed, served.start_s)
    way = mqtt_option(mqtt, mqtt_ca, mqtt_port, home_assistant=home_assistant)
    wish = LiveWish(record, network, control, speed, way)
    check_wish(wish, served.world is not None, wire, gateway, dress)
    wanted = dress.quirks.map.port if dress is not None and dress.quirks.map is not None else None
    with ExitStack() as stack:
        certificates = _certificates(pki, host, stack) if tls else None
        wire = replace(
            wire,
            host=host,
            port=port or wanted or 0,
            allow_remote=allow_remote,
            gateway=gateway,
            pki=certificates,
        )
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                if served.world is not None and wish.live:
                    live = LiveServe(served.world, wire, dress, wish)
                    code = runner.run(live.run(lambda s: _tell(s, form, certificates)))
                    raise typer.Exit(code)
                site = served.site()
                runner.run(serve_site(site, wire, speed, lambda s: _tell(s, form, certificates), dress=dress))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _wire(tls: bool, rtu_tcp: bool, rtu: str | None, ascii_: str | None) -> Wire:
    """Return the kind of wire asked for, with its serial line."""
    given = [
        option
        for option, asked in (
            ("--tls", tls),
            ("--rtu-tcp", rtu_tcp),
            ("--rtu", rtu is not None),
            ("--ascii", ascii_ is not None),
        )
        if asked
    ]
    if len(given) > 1:
        raise ScenarioError(f"{' and '.join(given)} found; allowed one of them")
    if rtu is not None:
        return _line("rtu", rtu)
    if ascii_ is not None:
        return _line("ascii", ascii_)
    return Wire(kind="tls" if tls else "rtu+tcp" if rtu_tcp else "tcp")


def _line(kind: Literal["rtu", "ascii"], text: str) -> Wire:
    """Return a serial line from the form that targets have."""
    target = parse_target(f"{kind}:{text}" if "@" in text else f"{kind}:{text}@{BAUD}")
    if not isinstance(target, RtuTarget | AsciiTarget) or "/" in text.rpartition("@")[2]:
        raise ScenarioError(f"--{kind} {text}: allowed PATH@BAUD such as pty@9600 or /dev/ttyUSB0@19200,E,1")
    return Wire(
        kind=kind,
        path=target.path,
        baud=target.baud,
        parity=target.parity,
        stop_bits=target.stop_bits,
    )


@dataclass(frozen=True, slots=True)
class _Served:
    """What is to be served.

    Attributes
    ----------
    site : callable
        Makes it, where it is no live world.
    quirks : tuple of str
        It brings along.
    start_s : int
        Time of day at the start [s].
    world : World or None
        Of a scenario.
    """

    site: Callable[[], Site]
    quirks: tuple[str, ...]
    start_s: int
    world: World | None = None


def _served(what: str, soc: str, load: str, pv: str, begin: str, seed: int | None) -> _Served:
    """Return what is to be served."""
    kind = what_is(what)
    if kind == "scenario":
        scenario = load_scenario(what)
        if seed is not None:
            scenario = scenario.model_copy(update={"seed": seed})
        world = build_world(scenario)
        return _Served(lambda: whole_world(world), (), world.start_of_day_ns // 1_000_000_000, world)
    quirks: tuple[str, ...] = ()
    if kind == "family":
        family = load_family(what)
        profile, quirks = family.dress(load_profile(family.device)), family.quirks
    else:
        profile = load_profile(what)
    start_s = parse_instant(begin) % DAY_NS // 1_000_000_000
    one = one_device(profile, parse_ratio(soc), watts(load), watts(pv))
    return _Served(lambda: one, quirks, start_s)


def _dress(names: tuple[str, ...], seed: int, speed: float, start_of_day_s: int) -> Dress | None:
    """Return the quirks of the devices, None without any."""
    if not names:
        return None
    from ridethrough.emulator.quirks.knobs import combine  # as in files: most commands know no quirks

    quirks = combine([load_quirk(name) for name in names])
    return Dress(quirks, lambda d: stream(seed, f"device/{d}/quirks"), speed, start_of_day_s % _DAY_S)


def _certificates(folder: Path | None, host: str, stack: ExitStack) -> Pki:
    """Return the PKI of a folder, made there if it is not; without a folder it lives as long as we do."""
    from .pki import HOSTS, load_pki, make_pki

    hosts = HOSTS if host in HOSTS else (*HOSTS, host)
    if folder is None:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ridethrough-pki-")))
        return make_pki(place / "pki", hosts)
    return load_pki(folder) if folder.exists() else make_pki(folder, hosts)


def _tell(served: list[Served], form: str, pki: Pki | None) -> None:
    """Print where each device answers, and what a client of TLS needs."""
    if form == "json":
        facts = [asdict(device) for device in served]
        for fact in facts:
            if pki is not None:
                fact["ca"] = str(pki.ca)
                fact["clients"] = {
                    role: {"cert": str(pair.cert), "key": str(pair.key)} for role, pair in pki.clients.items()
                }
        print(json.dumps(facts), flush=True)
        return
    for device in served:
        meter = f"  meter at unit {device.units[1]}" if len(device.units) > 1 else ""
        print(f"{device.target}  {device.name}  {device.profile}{meter}", flush=True)
    if pki is not None:
        from .pki import how_to_connect

        first = served[0]
        print(how_to_connect(pki, first.host, first.port, first.units[0]), file=sys.stderr, flush=True)
