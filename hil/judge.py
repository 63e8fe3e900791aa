"""The judge: what an independent reader says of a record.

Rules of this file: it reads the record and shares no code with plant, bench or world.  A home is judged as
far as its rows are sound; what was not recorded is inconclusive, never held.  It names what was broken and
what was going on, and blames nobody: that takes an oracle.  Definitions: docs/judge.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .findings import Breach, Finding, power_text
from .header import clock_text
from .invariants import delivered, no_export, ready, recovered, within_device
from .loading import Excess, Observations, excesses, feeder_load
from .promise import NS_PER_S, Home, home_of
from .record import Record
from .timeline import Timeline, first_defect, rows_of, timeline_of

INVARIANTS: Final = ("RDY", "DEL", "REC", "DEV", "EXP")
"""What is judged, in the order of the verdict."""

NOT_JUDGED: Final = (
    "Not judged: who is to blame (no oracle yet), VAN, AIS, FRE, FAIR, TRU, ECO, LIV, and of DEV temperature "
    "and contactor cycles; feeder and connection agreements are only observed. Held says: no breach of RDY, "
    "DEL, REC, DEV or EXP in this record."
)

EXIT_CODES: Final[Mapping[str, int]] = {"held": 0, "broken": 1, "inconclusive": 3}

JUST_ENDED_NS: Final = 5 * 60 * NS_PER_S
"""A fault that ended this long ago may still be the cause."""

_DOING: Final = {
    "enter": "while waiting to enter service",
    "transfer": "while transferring",
    "island": "while islanded",
    "overload": "after an overload trip",
    "empty": "with its battery empty",
    "rejoin": "while switching back to the grid",
    "member": "while in a community island",
}

_NOT_NEEDED: Final = ("pv_w", "load_w", "reactive_var")

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class HomeVerdict:
    """What the judge says of one home.

    Attributes
    ----------
    name, profile : str
    outcome : str
        held, broken or inconclusive.
    reserve_kwh : float
        What its promise needs [kWh].
    findings : dict of str to Finding
        By invariant, see `INVARIANTS`.
    sentences : tuple of (int, str)
        One per listed breach, with its time [ns], in order of time.
    inconclusive_because : str
        Empty when every row was there and sound.
    excesses : tuple of Excess
        Where it went beyond its connection agreement; breaks no promise.
    """

    name: str
    profile: str
    outcome: str
    reserve_kwh: float
    findings: Mapping[str, Finding]
    sentences: tuple[tuple[int, str], ...]
    inconclusive_because: str
    excesses: tuple[Excess, ...]

    def to_dict(self, start_of_day_ns: int) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "profile": self.profile,
            "outcome": self.outcome,
            "reserve_kwh": self.reserve_kwh,
            "inconclusive_because": self.inconclusive_because,
            "invariants": {
                key: _finding_dict(found, start_of_day_ns) for key, found in self.findings.items()
            },
            "sentences": [text for _, text in self.sentences],
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says of a record.

    Attributes
    ----------
    outcome : str
        held, broken or inconclusive.
    reasons : tuple of str
        Why it is inconclusive, or broken for more than a promise; may be empty.
    homes : tuple of HomeVerdict
        In the order of run.json's devices.
    first_breach : str
        A sentence; empty when nothing was broken.
    margin_kwh, margin_home, margin_ns : float, str, int; or None
        How close RDY came to being broken, over all homes; below 0 by how much it was.
    observations : Observations
        Of the feeder and the connection agreements; they do not change the outcome.
    start_of_day_ns : int
        Time of day at bench time 0.
    """

    outcome: str
    reasons: tuple[str, ...]
    homes: tuple[HomeVerdict, ...]
    first_breach: str
    margin_kwh: float | None
    margin_home: str | None
    margin_ns: int | None
    observations: Observations
    start_of_day_ns: int

    @property
    def exit_code(self) -> int:
        """Exit code of a command that ends with this verdict."""
        return EXIT_CODES[self.outcome]

    @property
    def not_judged(self) -> str:
        """What "held" does not say."""
        return NOT_JUDGED

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "first_breach": self.first_breach,
            "margin_kwh": self.margin_kwh,
            "margin_home": self.margin_home,
            "margin_at": _clock_or_none(self.margin_ns, self.start_of_day_ns),
            "not_judged": NOT_JUDGED,
            "observations": self.observations.to_dict(self.start_of_day_ns),
            "homes": [home.to_dict(self.start_of_day_ns) for home in self.homes],
        }


def judge(record: Record) -> Verdict:
    """Return the verdict on a record, as `read_record` gives it."""
    header = record.header
    homes, strangers = _homes(record)
    faults, unfinished = _record_reasons(record)
    if not homes:
        unfinished.append("the record names no device")
    if strangers:
        unfinished.append(f"{strangers} rows of truth belong to no device of run.json")
    unfinished += [f"{home.name}: {home.inconclusive_because}" for home in homes if home.inconclusive_because]
    crashed = record.end is not None and record.end["reason"] == "controller failed"
    failed = [f"the controller failed: {record.end['detail']}"] if record.end is not None and crashed else []
    if faults:  # what a faulty bench recorded proves nothing either way
        outcome = "inconclusive"
    elif failed or any(home.outcome == "broken" for home in homes):
        outcome = "broken"
    else:
        outcome = "inconclusive" if unfinished else "held"
    margins = [(f.margin_kwh, home.name, f.margin_ns) for home in homes if (f := home.findings["RDY"])]
    known = [(kwh, name, t_ns) for kwh, name, t_ns in margins if kwh is not None]
    kwh, name, t_ns = min(known, key=lambda entry: entry[0]) if known else (None, None, None)
    sentences = sorted((entry for home in homes for entry in home.sentences), key=lambda entry: entry[0])
    return Verdict(
        outcome=outcome,
        reasons=(*faults, *failed, *unfinished),
        homes=homes,
        first_breach=sentences[0][1] if sentences else "",
        margin_kwh=kwh,
        margin_home=name,
        margin_ns=t_ns,
        observations=Observations(
            feeder_load(record), tuple(excess for home in homes for excess in home.excesses)
        ),
        start_of_day_ns=header["start_of_day_ns"],
    )


def _record_reasons(record: Record) -> tuple[list[str], list[str]]:
    """Return the bench's faults, and what keeps the record from being whole."""
    if record.end is None:
        return [], ["the record was never finished"]
    fault = record.end["bench_fault"]
    detail = f": {record.end['detail']}" if record.end["detail"] else ""
    interrupted = record.end["reason"] == "interrupted"
    return ([f"the bench was at fault: {fault}"] if fault else []), (
        [f"the run was interrupted{detail}"] if interrupted else []
    )


def _homes(record: Record) -> tuple[tuple[HomeVerdict, ...], int]:
    """Return the verdict on every home, and how many rows belong to none."""
    devices = record.header["devices"]
    order = np.argsort(record.truth["device"], kind="stable")
    truth = {name: column.take(order) for name, column in record.truth.items() if name not in _NOT_NEEDED}
    borders = np.searchsorted(truth["device"], np.arange(len(devices) + 1))
    homes = []
    for i, facts in enumerate(devices):
        mine = slice(borders[i], borders[i + 1])
        homes.append(_home(record, i, home_of(facts), {name: column[mine] for name, column in truth.items()}))
    return tuple(homes), len(order) - int(borders[-1] - borders[0])


def _home(record: Record, i: int, home: Home, columns: Columns) -> HomeVerdict:
    """Judge one home from its columns of truth."""
    header, commands = record.header, record.commands
    sound, because = first_defect(columns, header)
    columns = {name: column[:sound] for name, column in columns.items()}
    rows = rows_of(home, columns, header["status_names"])
    line = timeline_of(home, rows, header)
    mine = (commands["device"] == i) & (commands["outcome"] == 0)
    commanded = {name: column[mine] for name, column in commands.items()}
    written_ns = commanded["arrival_ns"][~np.isnan(commanded["reserve_soc_frac"])]
    findings = {
        "RDY": ready(line),
        "DEL": delivered(line),
        "REC": recovered(line),
        "DEV": within_device(line, written_ns),
        "EXP": no_export(line),
    }
    found = [breach for finding in findings.values() for breach in finding.breaches]
    events = [event for event in header["events"] if i in event["targets"]]
    texts = [(breach.t_ns, _sentence(line, breach, commanded, events)) for breach in found]
    outcome = "broken" if found else ("held" if record.end is not None and not because else "inconclusive")
    if record.end is not None and record.end["bench_fault"]:
        outcome = "inconclusive"
    return HomeVerdict(
        name=home.name,
        profile=home.profile,
        outcome=outcome,
        reserve_kwh=home.reserve_wh / 1000.0,
        findings=findings,
        sentences=tuple(sorted(texts, key=lambda entry: entry[0])),
        inconclusive_because=because,
        excesses=excesses(home, columns),
    )


def _sentence(line: Timeline, breach: Breach, commanded: Columns, events: Sequence[Mapping[str, Any]]) -> str:
    """Return a breach as a sentence: who, what, when, doing what, on whose command, under which faults."""
    row = int(np.searchsorted(line.rows.t_ns, breach.t_ns))
    if row == len(line.rows):  # the device budget may be broken after the last sound row
        faults = _faults(line, breach.t_ns, breach.t_ns, events)
        return f"{line.home.name} {breach.facts}; active faults: {faults}"
    start_ns = int(line.rows.start_ns[row])
    return (
        f"{line.home.name} {breach.facts} {_activity(line, row)} {_command(line, row, commanded)}; "
        f"active faults: {_faults(line, start_ns, breach.t_ns, events)}"
    )


def _activity(line: Timeline, row: int) -> str:
    """Return what the device was doing in a row."""
    status = line.status_names[int(line.rows.status[row])]
    if status != "on_grid":
        return _DOING.get(status, f"in state {status}")
    power_w = float(line.rows.power_w[row])
    if abs(power_w) < 0.5:
        return "while idle"
    return f"while {'discharging' if power_w > 0.0 else 'charging'} {power_text(abs(power_w))}"


def _command(line: Timeline, row: int, commanded: Columns) -> str:
    """Return which command was in force in a row."""
    arrival_ns, validity_ns = commanded["arrival_ns"], commanded["validity_s"] * NS_PER_S
    come = np.flatnonzero((arrival_ns < line.rows.t_ns[row]) & ~np.isnan(commanded["power_w"]))
    if len(come):
        last = come[int(np.lexsort((commanded["t_ns"][come], arrival_ns[come]))[-1])]
        if arrival_ns[last] + validity_ns[last] > line.rows.start_ns[row]:
            return f"on a command issued at {line.clock(commanded['t_ns'][last])}"
    return "with no command in force"


def _faults(line: Timeline, start_ns: int, t_ns: int, events: Sequence[Mapping[str, Any]]) -> str:
    """Return the faults active at this home between two instants, and those that had just ended."""
    names = []
    for event in events:
        if event["start_ns"] < t_ns and event["end_ns"] > start_ns:
            names.append(f"{event['fault']} (event {event['number']})")
        elif start_ns - JUST_ENDED_NS <= event["end_ns"] <= start_ns:
            names.append(f"{event['fault']} (event {event['number']}, ended {line.clock(event['end_ns'])})")
    return ", ".join(names) or "none"


def _clock_or_none(t_ns: int | None, start_of_day_ns: int) -> str | None:
    return None if t_ns is None else clock_text(t_ns, start_of_day_ns)


def _finding_dict(finding: Finding, start_of_day_ns: int) -> dict[str, Any]:
    first_ns = finding.breaches[0].t_ns if finding.breaches else None
    return {
        "held": finding.held,
        "breaches": finding.count,
        "first_at": _clock_or_none(first_ns, start_of_day_ns),
        "first_ns": first_ns,
        "margin_kwh": finding.margin_kwh,
        "margin_at": _clock_or_none(finding.margin_ns, start_of_day_ns),
        "judged_h": finding.judged_h,
        "excused_h": finding.excused_h,
    }
