"""The verbs that talk to one device: ``scan``, ``read``, ``write``.

Rules of this file: as in cli.py.  Writing to a physical battery is meant literally: one point, one value.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.markup import escape
from rich.table import Table
from ridethrough.emulator.errors import ScenarioError

from .device import Device, Written
from .device_scan import ScanReport, scan
from .show import console
from .sunspec_points import Value

Format = Literal["table", "json"]
INTERRUPTED = 130
Result = TypeVar("Result")

TargetArgument = Annotated[
    str, typer.Argument(help="tcp:HOST:PORT/UNIT or rtu:PATH@BAUD/UNIT; /UNIT may be left out.")
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Longest wait for one answer, in seconds.")]
FormatOption = Annotated[Format, typer.Option("--format", help="What standard output carries.")]
TIMEOUT_S_MAX = 600.0


def _finish(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _check_timeout(timeout_s: float) -> None:
    if not 0.0 < timeout_s <= TIMEOUT_S_MAX:
        raise ScenarioError(f"--timeout {timeout_s:g}: allowed above 0 to {TIMEOUT_S_MAX:g} seconds")


def _plain(value: Value | None) -> Value | None:
    """Return a value as JSON can hold it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scan_device(
    target: TargetArgument,
    everything: Annotated[bool, typer.Option("--all", help="Show points not implemented, too.")] = False,
    timeout_s: TimeoutOption = 5.0,
    form: FormatOption = "table",
) -> None:
    """Read every SunSpec model of a device: models, points, values, and what is odd."""
    _check_timeout(timeout_s)
    report = _finish(scan(target, timeout_s))
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
    timeout_s: TimeoutOption = 5.0,
    form: FormatOption = "table",
) -> None:
    """Read points of a device, in engineering values."""
    _check_timeout(timeout_s)

    async def work() -> dict[str, Value | None]:
        async with Device(target, timeout_s) as device:
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
    timeout_s: TimeoutOption = 5.0,
    form: FormatOption = "table",
) -> None:
    """Write points of a device one after the other, and read each back; stops at the first that is refused.

    Exit code 1 when the device holds something else than was written.
    """
    _check_timeout(timeout_s)
    wanted = _values(values)

    async def work() -> list[Written]:
        async with Device(target, timeout_s) as device:
            await device.discover()
            return [await device.write_point(point, value) for point, value in wanted]

    done = _finish(work())
    if form == "json":
        print(json.dumps([{**asdict(written), "differs": written.differs} for written in done], indent=2))
    else:
        for written in done:
            note = f"  DIFFERS from {written.sent} that was written" if written.differs else ""
            print(f"{written.point}  {written.held}{note}")
    raise typer.Exit(1 if any(written.differs for written in done) else 0)
