"""Frames of a Modbus serial line, cut out of the characters that came and the times when they came.

Rule of this file: no port, no clock.  Whoever reads the port says which characters were on the line from when
to when, in integer ns on any clock, and gets each frame once the line proves it complete:

- RTU: 3.5 characters of silence end a frame, a gap of more than 1.5 characters inside it spoils it.  More
  than 256 bytes without such a silence are dropped whole.
- ASCII: ':' begins a frame and begins it anew, CR LF ends it, more than 1 s between two characters drops it.

A character has 11 bits with the standard's own settings, 10 with "8N1"; `Timing` takes what the line has.
Above 19,200 Bd the gaps are 750 us and 1.75 ms whatever the speed.

What CRC, LRC, address and function code say is the core's business (`_modbus.SerialServer`).

References
----------
"MODBUS over Serial Line, Specification and Implementation Guide V1.02", 2.5.1.1 (RTU) and 2.5.2.1 (ASCII).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

NS_PER_S: Final = 1_000_000_000
RTU_BYTES_MAX: Final = 256
ASCII_BYTES_MAX: Final = 513
"""':', two digits for each of 1 address, 253 PDU and 1 LRC bytes, CR, LF."""

FIXED_GAPS_ABOVE_BAUD: Final = 19_200
FIXED_GAP_NS: Final = 750_000
FIXED_SILENCE_NS: Final = 1_750_000
ASCII_GAP_NS: Final = NS_PER_S


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take on a line.

    Attributes
    ----------
    baud : int
        Line speed [bit/s].
    character_bits : int
        Bits of one character with start, parity and stop bits.
    latency_ns : int
        How late a port may hand over a character; longer gaps are asked for by this much, because a shorter
        one may be the port's and not the line's [ns].
    """

    baud: int
    character_bits: int = 11
    latency_ns: int = 0

    def characters_ns(self, count: int) -> int:
        """Return how long `count` characters are on the line [ns], rounded up."""
        return -(-count * self.character_bits * NS_PER_S // self.baud)

    def characters_within(self, span_ns: int) -> int:
        """Return how many whole characters fit in a time."""
        return max(0, span_ns) * self.baud // (self.character_bits * NS_PER_S)

    @property
    def gap_ns(self) -> int:
        """Longest gap inside an RTU frame [ns]: 1.5 characters."""
        if self.baud > FIXED_GAPS_ABOVE_BAUD:
            return FIXED_GAP_NS + self.latency_ns
        return -(-3 * self.character_bits * NS_PER_S // (2 * self.baud)) + self.latency_ns

    @property
    def silence_ns(self) -> int:
        """Silence that ends an RTU frame [ns]: 3.5 characters."""
        if self.baud > FIXED_GAPS_ABOVE_BAUD:
            return FIXED_SILENCE_NS + self.latency_ns
        return -(-7 * self.character_bits * NS_PER_S // (2 * self.baud)) + self.latency_ns


class Receiver(Protocol):
    """What cuts frames out of characters; `RtuReceiver` and `AsciiReceiver`.

    Attributes
    ----------
    discarded : int
        Frames dropped so far because of their timing or size.
    """

    discarded: int

    @property
    def gap_ns(self) -> int:
        """Longest gap inside a frame [ns]."""

    @property
    def open(self) -> bool:
        """Whether a frame is under way."""

    @property
    def due_ns(self) -> int | None:
        """When there will be something to `take` if nothing more comes [ns]; None: never."""

    def receive(self, data: bytes, start_ns: int, end_ns: int) -> None:
        """Take characters that were on the line, one after the other, from `start_ns` to `end_ns`."""

    def take(self, now_ns: int) -> bytes | None:
        """Return the next frame that is complete by now, or None."""

    def reset(self) -> int:
        """Forget everything held, and return how many bytes that was."""


class RtuReceiver:
    """RTU frames by their silences.

    Parameters
    ----------
    timing : Timing
    opened_ns : int, optional
        When we began to listen to a line that may be in use: until it was silent, nothing on it is a frame
        [ns].
    """

    def __init__(self, timing: Timing, opened_ns: int | None = None) -> None:
        self.discarded = 0
        self._gap_ns, self._silence_ns = timing.gap_ns, timing.silence_ns
        self._held = bytearray()
        self._spoiled = opened_ns is not None
        self._end_ns = opened_ns  # of the last character; None while the line is idle
        self._complete: deque[tuple[int, bytes]] = deque()

    @property
    def gap_ns(self) -> int:
        """Longest gap inside a frame [ns]."""
        return self._gap_ns

    @property
    def open(self) -> bool:
        """Whether a frame is under way, a spoiled one included."""
        return self._end_ns is not None

    @property
    def due_ns(self) -> int | None:
        """When the silence after the last character is long enough [ns]."""
        if self._complete:
            return self._complete[0][0]
        return None if self._end_ns is None else self._end_ns + self._silence_ns

    def receive(self, data: bytes, start_ns: int, end_ns: int) -> None:
        """Take characters; the gap before them may end the frame under way, or spoil it."""
        if self._end_ns is not None:
            gap_ns = start_ns - self._end_ns
            if gap_ns >= self._silence_ns:
                self._finish(self._end_ns)
            elif gap_ns > self._gap_ns:
                self._spoiled = True
        self._held += data[: RTU_BYTES_MAX + 1 - len(self._held)]
        self._end_ns = end_ns

    def take(self, now_ns: int) -> bytes | None:
        """Return the next frame that a silence has ended by now, or None."""
        if self._end_ns is not None and self._end_ns + self._silence_ns <= now_ns:
            self._finish(self._end_ns)
        if self._complete and self._complete[0][0] <= now_ns:
            return self._complete.popleft()[1]
        return None

    def reset(self) -> int:
        """Forget everything held; the line counts as idle."""
        size = len(self._held) + sum(len(frame) for _, frame in self._complete)
        self._held.clear()
        self._complete.clear()
        self._spoiled = False
        self._end_ns = None
        return size

    def _finish(self, end_ns: int) -> None:
        if self._spoiled or len(self._held) > RTU_BYTES_MAX:
            self.discarded += bool(self._held)
        else:
            self._complete.append((end_ns + self._silence_ns, bytes(self._held)))
        self._held.clear()
        self._spoiled = False
        self._end_ns = None


class AsciiReceiver:
    """ASCII frames by their first and last characters; `take` returns them from ':' to LF.

    Parameters
    ----------
    timing : Timing
    """

    def __init__(self, timing: Timing) -> None:
        self.discarded = 0
        self._timing = timing
        self._held = bytearray()  # empty outside a frame
        self._end_ns = 0
        self._complete: deque[tuple[int, bytes]] = deque()

    @property
    def gap_ns(self) -> int:
        """Longest gap inside a frame [ns]."""
        return ASCII_GAP_NS + self._timing.latency_ns

    @property
    def open(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._held)

    @property
    def due_ns(self) -> int | None:
        """When the last character of the first complete frame has arrived [ns]."""
        return self._complete[0][0] if self._complete else None

    def receive(self, data: bytes, start_ns: int, end_ns: int) -> None:
        """Take characters; what is outside a frame means nothing."""
        if self._held and start_ns - self._end_ns > self.gap_ns:
            self._drop()
        for place, character in enumerate(data, 1):
            if character == ord(":"):
                if self._held:
                    self._drop()
                self._held.append(character)
            elif self._held:
                self._held.append(character)
                if self._held.endswith(b"\r\n"):
                    # A burst ends at `end_ns`; its earlier characters came before that one by one.
                    complete_ns = end_ns - self._timing.characters_ns(len(data) - place)
                    self._complete.append((complete_ns, bytes(self._held)))
                    self._held.clear()
                elif len(self._held) >= ASCII_BYTES_MAX:
                    self._drop()
        self._end_ns = end_ns

    def take(self, now_ns: int) -> bytes | None:
        """Return the next frame whose last character has arrived by now, or None."""
        if self._complete and self._complete[0][0] <= now_ns:
            return self._complete.popleft()[1]
        return None

    def reset(self) -> int:
        """Forget everything held."""
        size = len(self._held) + sum(len(frame) for _, frame in self._complete)
        self._held.clear()
        self._complete.clear()
        return size

    def _drop(self) -> None:
        self.discarded += 1
        self._held.clear()


class Arrivals:
    """When the characters that a port handed over were on the line.

    A UART hands over what has been on the line: `n` characters at T were there from T - n characters on at
    the latest, so a burst out of a buffer makes no gap.  A pseudo terminal hands over what is still to come:
    its client's bytes arrive all at once, and take their time on the line we emulate from then on.

    A late look at the port must not make a gap either.  A frame under way is interrupted only if somebody has
    looked when the gap was over, and found nothing (`found_nothing`).

    Parameters
    ----------
    timing : Timing
    emulated : bool
        Whether the speed of the line is emulated.

    Attributes
    ----------
    free_ns : int
        The line is in use until then [ns].
    """

    def __init__(self, timing: Timing, emulated: bool) -> None:
        self.free_ns = 0
        self._timing = timing
        self._emulated = emulated
        self._nothing_ns = 0

    def found_nothing(self, now_ns: int) -> None:
        """Note that the port had nothing to read."""
        self._nothing_ns = now_ns

    def place(self, count: int, now_ns: int, gap_ns: int | None) -> tuple[int, int]:
        """Return from when to when `count` characters that came at `now_ns` are on the line [ns].

        Parameters
        ----------
        gap_ns : int or None
            Longest gap inside the frame under way [ns]; None: no frame is.
        """
        length_ns = self._timing.characters_ns(count)
        if self._emulated:
            start_ns = max(now_ns, self.free_ns)
            end_ns = start_ns + length_ns
        else:
            start_ns = max(now_ns - length_ns, self.free_ns)
            end_ns = max(now_ns, self.free_ns)
        if gap_ns is not None and not self._known_silent(gap_ns):
            start_ns = min(start_ns, self.free_ns + gap_ns)
        self.free_ns = end_ns
        return start_ns, end_ns

    def look_ns(self, gap_ns: int) -> int | None:
        """Return when to look for a gap in the frame under way [ns]; None: one is known already."""
        return None if self._known_silent(gap_ns) else self.free_ns + gap_ns + 1

    def _known_silent(self, gap_ns: int) -> bool:
        return self._nothing_ns > self.free_ns + gap_ns
