"""Which commands are carried out: each at most once, none that is old, none behind a newer one.

Rules of this file: no clock and no network; it is told the time.  All that it remembers is bounded, and
nothing of it outlives the process: what was issued before the gateway's start is refused instead.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from .payloads import Ack, Command, Refused

REMEMBERED: Final = 1024
"""Answers kept for each device."""
AHEAD_MS_MAX: Final = 5_000
"""A controller's clock may be ahead of ours by this much [ms]."""


class Guard:
    """Decides for one device.

    Parameters
    ----------
    start_ms : int
        When the gateway started [ms].
    expiry_ms : int
        How long a command lives that does not say so itself [ms].
    """

    def __init__(self, start_ms: int, expiry_ms: int) -> None:
        self._start_ms, self._expiry_ms = start_ms, expiry_ms
        self._answers: OrderedDict[str, tuple[Command, Ack]] = OrderedDict()
        self._newest_ms = -1
        self._forgotten_ms = -1

    def earlier(self, command: Command) -> Ack | None:
        """Return the answer that this command had before, None if it was not there yet.

        Raises
        ------
        Refused
            Another command had its id.
        """
        found = self._answers.get(command.id)
        if found is None:
            return None
        before, answer = found
        if before != command:
            raise Refused("id-reused", f"id {command.id!r} was another command's", command.id)
        return answer

    def check(self, command: Command, now_ms: int) -> None:
        """Let a new command pass, or not.

        Raises
        ------
        Refused
        """
        issued_ms = command.issued_ms
        if issued_ms > now_ms + AHEAD_MS_MAX:
            text = f"issued {(issued_ms - now_ms) / 1e3:g} s after now, by the gateway's clock"
            raise Refused("from-the-future", text, command.id)
        if issued_ms < self._start_ms:
            text = f"issued {(self._start_ms - issued_ms) / 1e3:g} s before the gateway's start"
            raise Refused("before-start", text, command.id)
        lives_ms = issued_ms + self._expiry_ms
        until_ms = lives_ms if command.expires_ms is None else command.expires_ms
        if now_ms > until_ms:
            text = f"expired {(now_ms - until_ms) / 1e3:g} s ago, issued {(now_ms - issued_ms) / 1e3:g} s ago"
            raise Refused("expired", text, command.id)
        if issued_ms < self._newest_ms or issued_ms <= self._forgotten_ms:
            raise Refused("overtaken", id_=command.id)

    def note(self, command: Command, answer: Ack) -> None:
        """Remember what became of a command."""
        if answer.outcome != "refused":  # a lost one may have been carried out
            self._newest_ms = max(self._newest_ms, command.issued_ms)
        self._answers[command.id] = command, answer
        if len(self._answers) > REMEMBERED:
            _, (old, was) = self._answers.popitem(last=False)
            if was.outcome != "refused":  # were it to come again, nobody would know it
                self._forgotten_ms = max(self._forgotten_ms, old.issued_ms)
