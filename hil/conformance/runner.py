"""A conformance run: every procedure in order, whatever the ones before found.

Rules of this file: a procedure that the device stops by an answer, or by none, has failed there and says so;
the next one runs.  What was changed is put back by the procedure that changed it (`Subject.keeping`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ..modbus_link import TargetError
from . import chain, curves, reading, rejection, reversion, transport, writing
from .results import Report, Result, Trial
from .subject import Subject

Run = Callable[[Subject, Trial], Awaitable[None]]

WRITES_TEXT: Final = (
    "about to write: every adjustable point (with what it holds, or the next value, put back at once); "
    "curves 2 and 3 of each curve model, adopted for a moment; power, limit and reactive commands of at most "
    "a tenth of the rating with revert timers of a few seconds.  Everything is put back; --read-only leaves "
    "all of it out"
)


@dataclass(frozen=True, slots=True)
class Procedure:
    """One procedure.

    Attributes
    ----------
    id : str
        SunSpec's, where there is one: DEV, TCP, RTU, MOD, CRV, REV.  Ours: SF, REJ, FC06, BRD.
    title : str
    run : callable
    writes : bool
    models : bool
        It needs the device's map.
    """

    id: str
    title: str
    run: Run
    writes: bool = False
    models: bool = True


PROCEDURES: Final = (
    Procedure("DEV-1", "general discovery", chain.general_discovery, models=False),
    Procedure("DEV-2", "common model", chain.common_model),
    Procedure("TCP-1", "TCP interface", transport.tcp_interface, models=False),
    Procedure("TCP-2", "partial request over TCP", transport.tcp_partial, models=False),
    Procedure("TCP-3", "several packets and requests over TCP", transport.tcp_several, models=False),
    Procedure("RTU-1", "serial interface", transport.rtu_interface, models=False),
    Procedure("RTU-2", "baud rate", transport.rtu_baud, models=False),
    Procedure("RTU-3", "partial request on a serial line", transport.rtu_partial, models=False),
    Procedure("REJ-1", "unknown function codes", rejection.function_codes, models=False),
    Procedure("REJ-2", "quantities out of range", rejection.quantities, models=False),
    Procedure("REJ-3", "addresses out of range", rejection.addresses),
    Procedure("MOD-1", "implementation of mandatory points", reading.implementation),
    Procedure("MOD-2", "read", reading.reading),
    Procedure("SF", "scale factors", reading.scale_factors),
    Procedure("REJ-4", "writes to points that can only be read", rejection.read_only, writes=True),
    Procedure("FC06", "single write with function 6", rejection.single_write, writes=True),
    Procedure("BRD", "broadcast write on a serial line", transport.rtu_broadcast, writes=True),
    Procedure("MOD-3", "point write", writing.point_write, writes=True),
    Procedure("CRV-1", "curve 1 shows what is in force", curves.active_curve, writes=True),
    Procedure("CRV-2", "apply a curve", curves.apply_curve, writes=True),
    Procedure("CRV-3", "apply a bad curve", curves.apply_error, writes=True),
    Procedure("REV-1", "reversion timeout", reversion.expires, writes=True),
    Procedure("REV-2", "reversion time written again", reversion.restarts, writes=True),
    Procedure("REV-3", "reversion cancelled", reversion.cancelled, writes=True),
)


async def run_procedures(
    subject: Subject,
    *,
    read_only: bool = False,
    only: tuple[str, ...] = (),
    done: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Run the procedures against a device.

    Parameters
    ----------
    subject : Subject
    read_only : bool
        Leave out everything that writes.
    only : tuple of str
        Ids to run; empty for all.
    done : callable
        Called with each result as it comes.

    Raises
    ------
    TargetError
        The device cannot be reached at all.

    Notes
    -----
    A cancelled run puts back what it has changed before it ends; `Subject.left` says what did not go back.
    """
    results = []
    device, no_map = "", ""
    try:
        await subject.wire.send(b"")  # a device that is not there is no finding but a wrong target
        try:
            who = (await subject.discover()).identity
            device = f"{who.manufacturer} {who.model}, serial {who.serial}"
        except TargetError as error:
            no_map = str(error)
        for procedure in PROCEDURES:
            if only and procedure.id not in only:
                continue
            trial = Trial(procedure.id, procedure.title)
            if procedure.writes and read_only:
                trial.skip("it writes, and --read-only was given", "not run")
            elif procedure.models and no_map:
                trial.skip(f"there is no map to go by: {no_map}", "not run")
            else:
                subject.progress(f"{procedure.id}: {procedure.title}")
                await _one(subject, procedure, trial)
            results.append(trial.result())
            done(results[-1])
    finally:
        await subject.close()
    return Report(str(subject.target), device, tuple(results), tuple(subject.left))


async def _one(subject: Subject, procedure: Procedure, trial: Trial) -> None:
    before = len(subject.left)
    try:
        await procedure.run(subject, trial)
    except TargetError as error:
        trial.check(False, "the procedure was stopped", received=str(error), allowed="an answer")
    for text in subject.left[before:]:
        trial.check(False, "something could not be put back", received=text, allowed="what was there before")
