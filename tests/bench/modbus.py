"""What a read costs a Modbus TCP server, ours beside others: ``python -m tests.bench.modbus``.

Prints, asserts nothing about time.  Every server has a process of its own; they are all alive for the whole
run and are measured in turn, round after round, so that a busy machine slows all of them; figures are medians
over the rounds.  CPU time is the server process's own, kernel included; the load generator is a C program
(load.c), whose own CPU share is printed: where it is near 1, the rate is its limit and not the server's.
Ratios are taken within each round, and their median is printed.

All servers show the same device.  The comparison reads 50 registers of model 1, which never change, so all
of them answer the same bytes, which is checked; ours also reads 50 registers of model 701 of the live device.
``--quick`` makes fewer and shorter rounds of a smaller fleet.
"""

from __future__ import annotations

import argparse
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from tests.bench.modbus_decode import decode_times
from tests.bench.modbus_peers import (
    Load,
    Round,
    Server,
    Unmeasured,
    ask_once,
    compiled,
    python_server,
    read_on,
    reference_unit,
    whole_map,
)
from tests.bench.modbus_servers import BASE

COUNT = 50
SHAPES = ((1, 1), (16, 1), (128, 1), (16, 8), (16, 32))
"""Connections, and requests sent at once on each."""
POLL_HZ = 4.0
OURS, OURS_ASYNCIO = "ridethrough, uvloop", "ridethrough, asyncio"
LIBMODBUS, EPOLL, PYMODBUS = "libmodbus, C", "epoll loop, C", "pymodbus"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    round_s: float
    devices: int
    fleets: int
    fleet_s: float
    gateway_devices: int


FULL = Size(rounds=21, round_s=0.15, devices=1000, fleets=3, fleet_s=5.0, gateway_devices=5000)
QUICK = Size(rounds=3, round_s=0.06, devices=1000, fleets=1, fleet_s=2.0, gateway_devices=1000)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison: a server, and the first of the registers it is asked for."""

    name: str
    server: Server
    address: int


Rounds = dict[str, list[Round]]
"""By server; round k of all of them came one after the other."""


def median(rounds: list[Round]) -> Round:
    """Return the median of every figure."""
    columns = {field.name: [getattr(one, field.name) for one in rounds] for field in fields(Round)}
    return Round(**{name: statistics.median(values) for name, values in columns.items()})


def ratio(rounds: Rounds, ours: str, other: str, figure: str = "cpu_us") -> float:
    """Return the median over the rounds of a figure of ours divided by another server's."""
    pairs = zip(rounds[ours], rounds[other], strict=True)
    return float(statistics.median(getattr(mine, figure) / getattr(its, figure) for mine, its in pairs))


def attempt(name: str, make: Callable[[], Server], address: int, rows: list[Row]) -> None:
    """Add a server to the comparison, or say why it is not there."""
    try:
        rows.append(Row(name, make(), address))
    except Unmeasured as why:
        print(f"{name}: not measured: {why}")


def start_rows(stack: ExitStack, folder: Path) -> list[Row]:
    """Start every server and check that they answer the same bytes."""
    unit = reference_unit()
    image = folder / "image"
    image.write_bytes(whole_map(unit))
    fixed, live = BASE + 2, unit.layout.point(701, "ID").address + 2
    rows: list[Row] = []

    def native(name: str, *libraries: str) -> Server:
        return Server(stack, [str(compiled(name, folder, *libraries)), str(image), str(BASE)]).ready()

    for loop, name in (("uvloop", OURS), ("asyncio", OURS_ASYNCIO)):
        attempt(name, lambda loop=loop: python_server(stack, "device", loop).ready(), fixed, rows)  # type: ignore[misc]
    rows += [Row(f"{row.name}, live", row.server, live) for row in rows]
    attempt(PYMODBUS, lambda: python_server(stack, "pymodbus", "asyncio", str(image)).ready(), fixed, rows)
    attempt(LIBMODBUS, lambda: native("libmodbus_server", "modbus"), fixed, rows)
    attempt(EPOLL, lambda: native("epoll_server"), fixed, rows)
    expected = unit.read(fixed, COUNT)
    for row in rows:
        said = ask_once(row.server.ports[0], 1, row.address, COUNT)
        if row.address == fixed and said != expected:
            raise SystemExit(f"{row.name} answers other bytes than the device has")
    return rows


def measure_shape(load: Path, rows: list[Row], connections: int, depth: int, size: Size) -> Rounds:
    """Return the rounds of every server at one shape of load; says why where there are none."""
    with ExitStack() as stack:
        loads: dict[str, Load] = {}
        rounds: dict[str, list[Round]] = {}
        failed: dict[str, str] = {}

        def guard(name: str, act: Callable[[], None]) -> None:
            try:
                act()
            except Unmeasured as why:
                failed[name] = str(why)

        def begin(row: Row) -> None:
            shape = ("closed", row.server.ports[0], connections, depth, size.round_s)
            loads[row.name] = Load(stack, load, row.server, *shape, 1, row.address, COUNT)

        def go_on(row: Row) -> None:
            rounds.setdefault(row.name, []).append(loads[row.name].round())

        for row in rows:
            guard(row.name, lambda row=row: begin(row))  # type: ignore[misc]
        for _ in range(size.rounds):
            for row in rows:
                if row.name not in failed:
                    guard(row.name, lambda row=row: go_on(row))  # type: ignore[misc]
        for name, why in failed.items():
            print(f"{connections:4} x {depth:<2}  {name}: not measured: {why}")
        return {name: some for name, some in rounds.items() if name not in failed}


def print_shape(connections: int, depth: int, found: Rounds) -> None:
    """Print the medians of one shape of load."""
    for name, rounds in found.items():
        one = median(rounds)
        print(
            f"{connections:4} x {depth:<2}  {name:27} {one.cpu_us:8.2f} µs CPU  {one.rate:10.0f} reads/s"
            f"  p50 {one.p50_us:7.0f} µs  p99 {one.p99_us:7.0f} µs  load's CPU {one.client_frac:4.0%}"
        )


def print_ratios(found: dict[tuple[int, int], Rounds]) -> None:
    """Print ours against the aims."""
    print("\nratios, of CPU per read unless said otherwise")
    for (connections, depth), rounds in found.items():
        for ours in (OURS, OURS_ASYNCIO):
            if ours not in rounds:
                continue
            parts = []
            for name, aim in ((EPOLL, "<= 1.35"), (LIBMODBUS, "< 1"), (PYMODBUS, "<= 0.1")):
                if name in rounds:
                    parts.append(
                        f"/ {name} {ratio(rounds, ours, name):.3f}" + (f" (aim {aim})" if depth == 1 else "")
                    )
            if depth > 1 and LIBMODBUS in rounds:
                faster = ratio(rounds, ours, LIBMODBUS, "rate")
                parts.append(f"reads/s {faster:.1f} times libmodbus's (aim 20)")
            print(f"{connections:4} x {depth:<2}  {ours:20} {'; '.join(parts)}")


@dataclass(frozen=True, slots=True)
class Fleet:
    """What many live devices on as many ports cost."""

    loop: str
    devices: int
    start_s: float
    process_s: float
    rss_mib: float
    rss_mib_connected: float
    round: Round


def measure_fleet(folder: Path, load: Path, loop: str, size: Size) -> Fleet:
    """Start a fleet, one port each, and poll every device."""
    with ExitStack() as stack:
        server = python_server(stack, "ports", loop, str(size.devices)).ready()
        ports = folder / "ports"
        ports.write_text("\n".join(map(str, server.ports)))
        live = reference_unit().layout.point(701, "ID").address + 2
        poll = Load(stack, load, server, "paced", ports, POLL_HZ, size.fleet_s, 1, live, COUNT)
        done = poll.round()
        return Fleet(
            loop=loop,
            devices=len(server.ports),
            start_s=server.facts["start_s"],
            process_s=server.facts["process_s"],
            rss_mib=server.facts["rss_mib"],
            rss_mib_connected=server.rss_mib(),
            round=done,
        )


def measure_fleets(folder: Path, load: Path, size: Size) -> list[Fleet]:
    """Do so on both loops in turn; return the medians of each."""
    loops = ("uvloop", "asyncio")
    found: dict[str, list[Fleet]] = {loop: [] for loop in loops}
    for _ in range(size.fleets):
        for loop in loops:
            found[loop].append(measure_fleet(folder, load, loop, size))
    return [
        Fleet(
            loop=loop,
            devices=size.devices,
            **{
                name: statistics.median(getattr(one, name) for one in fleets)
                for name in ("start_s", "process_s", "rss_mib", "rss_mib_connected")
            },
            round=median([one.round for one in fleets]),
        )
        for loop, fleets in found.items()
    ]


def print_fleets(fleets: list[Fleet]) -> None:
    """Print them beside the aims."""
    for fleet in fleets:
        print(
            f"{fleet.devices} live devices on {fleet.devices} ports, {fleet.loop}: started in "
            f"{fleet.start_s:.2f} s (aim < 0.5; {fleet.process_s:.2f} s with Python and all imports);"
            f" {fleet.rss_mib:.1f} MiB, with {fleet.devices} connections {fleet.rss_mib_connected:.1f} MiB "
            f"(aim < 60); at {POLL_HZ:g} reads/s each {fleet.round.cpu_frac:.1%} of a core (aim < 25 %), "
            f"p50 {fleet.round.p50_us:.0f} µs, p99 {fleet.round.p99_us:.0f} µs, {fleet.round.late:g} late"
        )


@dataclass(frozen=True, slots=True)
class Gateway:
    """What many units behind few ports cost, and how many of them answered."""

    units: int
    ports: int
    start_s: float
    process_s: float
    rss_mib: float
    answered: int
    reading_s: float


def measure_gateway(loop: str, devices: int) -> Gateway:
    """Start gateways and read from each of their units once."""
    with ExitStack() as stack:
        server = python_server(stack, "gateway", loop, str(devices)).ready()
        units: list[tuple[int, int]] = [(port, unit) for port, unit in server.facts["units"]]
        began_s = time.perf_counter()
        clients = {
            port: stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10.0))
            for port in server.ports
        }
        answered = sum(read_on(clients[port], unit, BASE, COUNT)[:4] == b"SunS" for port, unit in units)
        reading_s = time.perf_counter() - began_s
        return Gateway(
            units=len(units),
            ports=len(server.ports),
            start_s=server.facts["start_s"],
            process_s=server.facts["process_s"],
            rss_mib=server.rss_mib(),
            answered=answered,
            reading_s=reading_s,
        )


def print_gateway(found: Gateway) -> None:
    """Print it."""
    print(
        f"{found.units} live units in one process, {found.ports} ports of a gateway: started in "
        f"{found.start_s:.2f} s ({found.process_s:.2f} s with the start of Python and all imports), "
        f"{found.rss_mib:.1f} MiB; {found.answered} answered a read each, in {found.reading_s:.2f} s"
    )


def print_or_say(name: str, act: Callable[[], None]) -> None:
    """Do one part, or say why it was not measured."""
    try:
        act()
    except Unmeasured as why:
        print(f"{name}: not measured: {why}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    size = QUICK if parser.parse_args().quick else FULL
    print(
        f"FC3 of {COUNT} registers over loopback, {size.rounds} interleaved rounds of {size.round_s} s, "
        f"medians; {platform.python_implementation()} {platform.python_version()}, {platform.machine()}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            load = compiled("load", folder)
        except Unmeasured as why:
            print(f"not measured: {why}")
            return
        with ExitStack() as stack:
            rows = start_rows(stack, folder)
            found: dict[tuple[int, int], Rounds] = {}
            print("connections x requests at once")
            for shape in SHAPES:
                found[shape] = measure_shape(load, rows, *shape, size)
                print_shape(*shape, found[shape])
        print_ratios(found)
        print()
        print_or_say("fleet", lambda: print_fleets(measure_fleets(folder, load, size)))
        print_or_say("gateway", lambda: print_gateway(measure_gateway("uvloop", size.gateway_devices)))
        print_or_say("decode", lambda: print(decode_times(reference_unit())))


if __name__ == "__main__":
    main()
