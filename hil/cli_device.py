"""The verbs that talk to one device: ``scan``, ``read``, ``write``.

Rules of this file: as in cli.py.  What talks to a device is imported by the verb that needs it: serving does
without.  Writing to a physical battery is meant literally: one point, one value.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.markup import escape
from rich.table import Table
from ridethrough.emulator.errors import ScenarioError

from .show import console

if TYPE_CHECKING:
    from .device_scan import ScanReport
    from .modbus_transport import TlsFiles
    from .sunspec_points import Value
    from .writing import Written

Format = Literal["table", "json"]
INTERRUPTED = 130
Result = TypeVar("Result")

TargetArgument = Annotated[
    str,
    typer.Argument(
        help="tcp:HOST:PORT/UNIT, tls:HOST:PORT/UNIT, rtu+tcp:HOST:PORT/UNIT, rtu:PATH@BAUD/UNIT or "
        "ascii:PATH@BAUD/UNIT, with ,PARITY (N, E, O) and ,STOPBITS behind BAUD; /UNIT may be left out."
    ),
]
CertOption = Annotated[
    Path | None,
    typer.Option("--cert", help="For tls: our certificate, PEM; its role decides what is allowed."),
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="For tls: the certificate's key, PEM.")]
CaOption = Annotated[
    Path | None, typer.Option("--ca", help="For tls: roots of the device's certificate, PEM.")
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Longest wait for one answer, in seconds.")]
FormatOption = Annotated[Format, typer.Option("--format", help="What standard output carries.")]
BaseOption = Annotated[
    int | None,
    typer.Option("--base", min=0, max=65_533, help="Register of the map's marker; no other is tried."),
]
TIMEOUT_S_MAX = 600.0


def _finish(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _check_timeout(timeout_s: float) -> None:
    if not 0.0 < timeout_s <= TIMEOUT_S_MAX:
        raise ScenarioError(f"--timeout {timeout_s:g}: allowed above 0 to {TIMEOUT_S_MAX:g} seconds")


def _tls(cert: Path | None, key: Path | None, ca: Path | None) -> TlsFiles | None:
    """Return the files of a ``tls:`` target, None when no option names one."""
    from .modbus_transport import TlsFiles

    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None or ca is None:
        given = ", ".join(name for name, path in (("--cert", cert), ("--key", key), ("--ca", ca)) if path)
        raise ScenarioError(f"{given} found; allowed are --cert, --key and --ca together")
    return TlsFiles(cert, key, ca)


def _bases(base: int | None) -> tuple[int, ...]:
    """Return where a map is looked for."""
    from .discovery import BASES

    return BASES if base is None else (base,)


def _plain(value: Value | None) -> Value | None:
    """Return a value as JSON can hold it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scan_device(
    target: TargetArgument,
    everything: Annotated[bool, typer.Option("--all", help="Show points not implemented, too.")] = False,
    conformance: Annotated[
        bool, typer.Option("--conformance", help="Run SunSpec's procedures against it; this WRITES.")
    ] = False,
    capabilities: Annotated[
        bool, typer.Option("--capabilities", help="Try every control point at the power; this WRITES.")
    ] = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="With --conformance: leave out everything that writes.")
    ] = False,
    broadcast: Annotated[
        bool, typer.Option("--broadcast", help="With --conformance: write to every device on an RTU line.")
    ] = False,
    cert: CertOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    timeout_s: TimeoutOption = 5.0,
    base: BaseOption = None,
    form: FormatOption = "table",
) -> None:
    """Read every SunSpec model of a device: models, points, values, and what is odd.

    With --conformance or --capabilities it is put to the test instead.  Exit code 1 when something failed.
    """
    from .conformance.command import capability_command, conformance_command
    from .device_scan import scan

    _check_timeout(timeout_s)
    tls = _tls(cert, key, ca)
    if conformance and capabilities:
        raise ScenarioError("--conformance and --capabilities found; allowed is one of them")
    if (read_only or broadcast) and not conformance:
        raise ScenarioError("--read-only and --broadcast: allowed only with --conformance")
    if base is not None and (conformance or capabilities):
        raise ScenarioError("--base: allowed without --conformance and --capabilities, which look themselves")
    if conformance:
        raise typer.Exit(
            conformance_command(
                target,
                timeout_s,
                form,
                read_only=read_only,
                broadcast=broadcast,
                everything=everything,
                tls=tls,
            )
        )
    if capabilities:
        raise typer.Exit(capability_command(target, timeout_s, form, everything=everything, tls=tls))
    report = _finish(scan(target, timeout_s, tls=tls, bases=_bases(base)))
    if form == "json":
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        _show_scan(report, everything)


def _show_scan(report: ScanReport, everything: bool) -> None:
    out = console()
    who = report.map.identity
    name = escape(f"{who.manufacturer} {who.model}")
    out.print(f"{report.target}: {name}, serial {escape(str(who.serial))}, base {report.map.base}")
    for model in report.models:
        entry = model.entry
        place = f"{entry.length} registers from {entry.address}"
        out.print(f"\n[bold]model {entry.id} {escape(entry.name)}[/], {place}")
        table = Table(box=None, pad_edge=False, show_header=False)
        for point in model.points:
            if point.value is None and not point.note and not everything:
                continue
            value = "-" if point.value is None else escape(f"{point.value} {point.units}".strip())
            said = escape(point.meaning or point.note)
            table.add_row(f"  {escape(point.name)}", str(point.address), point.access, value, said)
        out.print(table)
    for warning in report.warnings:
        out.print(f"warning: {escape(warning)}", style="yellow", soft_wrap=True)


def read_points(
    target: TargetArgument,
    points: Annotated[list[str], typer.Argument(help="Points such as 713.SoC 701.W.")],
    cert: CertOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    timeout_s: TimeoutOption = 5.0,
    base: BaseOption = None,
    form: FormatOption = "table",
) -> None:
    """Read points of a device, in engineering values."""
    from .device import Device

    _check_timeout(timeout_s)
    tls = _tls(cert, key, ca)

    async def work() -> dict[str, Value | None]:
        async with Device(target, timeout_s, tls=tls, bases=_bases(base)) as device:
            await device.discover()
            return {point: await device.read_point(point) for point in points}

    found = _finish(work())
    if form == "json":
        print(json.dumps({point: _plain(value) for point, value in found.items()}, indent=2))
        return
    width = max(map(len, found))
    for point, value in found.items():
        print(f"{point:<{width}}  {'not implemented' if value is None else value}")


def _values(pairs: list[str]) -> list[tuple[str, Value]]:
    """Return the points and values of ``MODEL.POINT=VALUE`` arguments."""
    found: list[tuple[str, Value]] = []
    for pair in pairs:
        point, sign, text = pair.partition("=")
        if not point or not sign or not text:
            raise ScenarioError(f"{pair!r}: allowed MODEL.POINT=VALUE such as 704.WSet=2000")
        try:
            number = float(text)
        except ValueError:
            found.append((point, text))
            continue
        if not math.isfinite(number):
            raise ScenarioError(f"{pair!r}: allowed a finite number or a text")
        found.append((point, int(number) if number.is_integer() else number))
    return found


def write_points(
    target: TargetArgument,
    values: Annotated[list[str], typer.Argument(help="Points and values in order, such as 704.WSet=2000.")],
    cert: CertOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    timeout_s: TimeoutOption = 5.0,
    base: BaseOption = None,
    form: FormatOption = "table",
) -> None:
    """Write points of a device one after the other, and read each back; stops at the first that is refused.

    Exit code 1 when the device holds something else than was written.
    """
    from .device import Device

    _check_timeout(timeout_s)
    tls = _tls(cert, key, ca)
    wanted = _values(values)

    async def work() -> list[Written]:
        async with Device(target, timeout_s, tls=tls, bases=_bases(base)) as device:
            await device.discover()
            return [await device.write_point(point, value) for point, value in wanted]

    done = _finish(work())
    if form == "json":
        print(json.dumps([{**asdict(written), "differs": written.differs} for written in done], indent=2))
    else:
        for written in done:
            note = (
                f"  DIFFERS from {written.sent} that was written: {written.finding}"
                if written.differs
                else ""
            )
            print(f"{written.point}  {written.held}{note}")
    raise typer.Exit(1 if any(written.differs for written in done) else 0)
