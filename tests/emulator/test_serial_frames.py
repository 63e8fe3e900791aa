"""Frames out of characters and times: exact gaps, any pieces, any bursts, and a host that looks late.

The oracle here goes through the characters one by one as the standard's state diagrams do; it shares no code
with the receivers, which see pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.emulator.serial_frames import (
    ASCII_BYTES_MAX,
    ASCII_GAP_NS,
    RTU_BYTES_MAX,
    Arrivals,
    AsciiReceiver,
    Receiver,
    RtuReceiver,
    Timing,
)

AT_9600 = Timing(9600)
BAUDS = (300, 1200, 9600, 19_200, 38_400, 115_200)

Piece = tuple[bytes, int, int]
"""Characters, and from when to when they were on the line."""


def play(receiver: Receiver, pieces: Sequence[Piece]) -> list[bytes]:
    """Return the frames of pieces; each is taken as soon as the time has come for it."""
    frames = []
    for data, start_ns, end_ns in pieces:
        while (due_ns := receiver.due_ns) is not None and due_ns <= start_ns:
            frames += [frame for frame in [receiver.take(due_ns)] if frame is not None]
        receiver.receive(data, start_ns, end_ns)
    while (due_ns := receiver.due_ns) is not None:
        assert receiver.take(due_ns - 1) is None
        frames += [frame for frame in [receiver.take(due_ns)] if frame is not None]
    return frames


def characters(timing: Timing, data: bytes, gaps_ns: Sequence[int]) -> list[Piece]:
    """Return characters one by one, each after its gap."""
    now_ns, pieces = 1_000_000_000, []
    for place, gap_ns in enumerate(gaps_ns):
        start_ns = now_ns + gap_ns
        now_ns = start_ns + timing.characters_ns(1)
        pieces.append((data[place : place + 1], start_ns, now_ns))
    return pieces


def oracle(timing: Timing, pieces: Sequence[Piece]) -> list[bytes]:
    """Return the frames of characters one by one, as the standard's RTU state diagram has them."""
    frames, held, good = [], b"", True
    for place, (data, _, end_ns) in enumerate(pieces):
        held += data
        gap_ns = pieces[place + 1][1] - end_ns if place + 1 < len(pieces) else None
        if gap_ns is None or gap_ns >= timing.silence_ns:
            if good and len(held) <= 256:
                frames.append(held)
            held, good = b"", True
        elif gap_ns > timing.gap_ns:
            good = False
    return frames


@pytest.mark.parametrize(
    ("baud", "bits", "gap_us", "silence_us"),
    [
        (9600, 11, 1718.75, 4010.417),
        (9600, 10, 1562.5, 3645.833),
        (19_200, 11, 859.375, 2005.208),
        (19_201, 11, 750, 1750),
        (115_200, 10, 750, 1750),
        (1200, 11, 13_750, 32_083.333),
    ],
)
def test_gaps_are_those_of_the_standard(baud: int, bits: int, gap_us: float, silence_us: float) -> None:
    timing = Timing(baud, bits)
    assert timing.gap_ns == pytest.approx(1000 * gap_us, abs=1)
    assert timing.silence_ns == pytest.approx(1000 * silence_us, abs=1)


@given(st.sampled_from(BAUDS), st.sampled_from([10, 11]), st.integers(0, 10_000))
def test_characters_take_their_time_to_the_nanosecond(baud: int, bits: int, count: int) -> None:
    timing = Timing(baud, bits)
    exact_ns = Fraction(count * bits * 1_000_000_000, baud)
    assert 0 <= timing.characters_ns(count) - exact_ns < 1
    assert timing.characters_within(timing.characters_ns(count)) == count
    assert timing.characters_within(timing.characters_ns(count + 1) - 1) == count


@st.composite
def rtu_lines(draw: st.DrawFn) -> tuple[Timing, list[Piece]]:
    """Draw characters whose gaps lie on, and a nanosecond beside, every border."""
    timing = Timing(draw(st.sampled_from(BAUDS)), draw(st.sampled_from([10, 11])))
    borders = [0, timing.gap_ns, timing.silence_ns]
    near = [max(0, border + by) for border in borders for by in (-1, 0, 1)]
    gap = st.sampled_from([0] * 12 + near) | st.integers(0, 2 * timing.silence_ns)
    data = draw(st.binary(min_size=1, max_size=60))
    return timing, characters(timing, data, draw(st.lists(gap, min_size=len(data), max_size=len(data))))


@given(rtu_lines())
def test_rtu_gaps_do_what_the_state_diagram_says(line: tuple[Timing, list[Piece]]) -> None:
    timing, pieces = line
    assert play(RtuReceiver(timing), pieces) == oracle(timing, pieces)


def test_the_oracle_tells_a_spoiled_frame_from_two_frames() -> None:
    timing = AT_9600
    for gap_ns, frames in (
        (timing.gap_ns, [b"abcd"]),
        (timing.gap_ns + 1, []),
        (timing.silence_ns - 1, []),
        (timing.silence_ns, [b"ab", b"cd"]),
    ):
        pieces = characters(timing, b"abcd", [0, 0, gap_ns, 0])
        assert oracle(timing, pieces) == frames
        receiver = RtuReceiver(timing)
        assert play(receiver, pieces) == frames
        assert receiver.discarded == (not frames)


FRAMES = st.lists(st.binary(min_size=1, max_size=256), min_size=1, max_size=4)


@given(st.data(), FRAMES, st.sampled_from(BAUDS))
def test_rtu_frames_survive_any_cutting(data: st.DataObject, sent: list[bytes], baud: int) -> None:
    """A UART's buffer hands over bursts, each at the end of its last character; none of them is a gap."""
    timing = Timing(baud)
    receiver, arrivals = RtuReceiver(timing), Arrivals(timing, emulated=False)
    now_ns, pieces = 1_000_000_000, []
    for frame in sent:
        cuts = sorted(data.draw(st.sets(st.integers(1, len(frame)), max_size=5)) | {len(frame)})
        taken = 0
        for cut in cuts:
            arrived_ns = now_ns + timing.characters_ns(cut)
            gap_ns = receiver.gap_ns if taken else None
            pieces.append((frame[taken:cut], *arrivals.place(cut - taken, arrived_ns, gap_ns)))
            taken = cut
        now_ns += timing.characters_ns(len(frame)) + timing.silence_ns
        now_ns += data.draw(st.integers(1, 10**9))
        arrivals.found_nothing(now_ns - 1)
    assert play(receiver, pieces) == sent
    assert receiver.discarded == 0


def test_rtu_frame_is_not_complete_a_nanosecond_early() -> None:
    receiver = RtuReceiver(AT_9600)
    receiver.receive(b"abc", 0, AT_9600.characters_ns(3))
    complete_ns = AT_9600.characters_ns(3) + AT_9600.silence_ns
    assert receiver.due_ns == complete_ns
    assert receiver.open
    assert receiver.take(complete_ns - 1) is None
    assert receiver.take(complete_ns) == b"abc"
    assert not receiver.open
    assert receiver.due_ns is None
    assert receiver.take(complete_ns + 10**12) is None


@given(st.integers(1, 2 * RTU_BYTES_MAX), st.integers(1, 60))
def test_rtu_frames_of_more_than_256_bytes_are_dropped_whole(size: int, step: int) -> None:
    receiver = RtuReceiver(AT_9600)
    frame = bytes(k % 256 for k in range(size))
    pieces = [
        (frame[k : k + step], AT_9600.characters_ns(k), AT_9600.characters_ns(min(k + step, size)))
        for k in range(0, size, step)
    ]
    end_ns = pieces[-1][2] + AT_9600.silence_ns
    good = (b"good", end_ns, end_ns + AT_9600.characters_ns(4))
    assert play(receiver, [*pieces, good]) == ([frame] if size <= 256 else []) + [b"good"]
    assert receiver.discarded == (size > 256)


def test_rtu_memory_is_bounded() -> None:
    receiver = RtuReceiver(AT_9600)
    for k in range(100):
        receiver.receive(b"x" * 1000, 1000 * k, 1000 * (k + 1))
    assert receiver.reset() == RTU_BYTES_MAX + 1
    assert not receiver.open


def test_rtu_tail_of_a_frame_that_was_under_way_when_we_began_is_no_frame() -> None:
    receiver = RtuReceiver(AT_9600, opened_ns=0)
    soon_ns = AT_9600.silence_ns - 1
    later_ns = soon_ns + AT_9600.characters_ns(4) + AT_9600.silence_ns
    pieces = [(b"tail", soon_ns, soon_ns + AT_9600.characters_ns(4)), (b"good", later_ns, later_ns + 1)]
    assert play(receiver, pieces) == [b"good"]
    assert play(RtuReceiver(AT_9600, opened_ns=0), [(b"good", AT_9600.silence_ns, later_ns)]) == [b"good"]
    assert RtuReceiver(AT_9600, opened_ns=0).take(AT_9600.silence_ns) is None


def test_latency_makes_gaps_longer_and_nothing_else() -> None:
    slow = Timing(9600, latency_ns=20_000_000)
    assert slow.gap_ns == AT_9600.gap_ns + 20_000_000
    assert slow.silence_ns == AT_9600.silence_ns + 20_000_000
    assert slow.characters_ns(7) == AT_9600.characters_ns(7)
    gap_ns = AT_9600.silence_ns + 10_000_000  # a USB adapter's, not the line's
    pieces = characters(AT_9600, b"abcd", [0, 0, gap_ns, 0])
    assert play(RtuReceiver(slow), pieces) == [b"abcd"]
    assert play(RtuReceiver(AT_9600), pieces) == [b"ab", b"cd"]


# ASCII.

ASCII_LINES = [
    (b":010300000001FB\r\n", [b":010300000001FB\r\n"]),
    (b"noise\r\n:01\r\n", [b":01\r\n"]),
    (b":0103:0104\r\n", [b":0104\r\n"]),
    (b"::::01\r\n", [b":01\r\n"]),
    (b":01\r:02\r\n", [b":02\r\n"]),
    (b":01\n\r\n", [b":01\n\r\n"]),
    (b":01\r\r\n", [b":01\r\r\n"]),
    (b":01\n", []),
    (b"01\r\n", []),
    (b":01\r\n:02\r\n", [b":01\r\n", b":02\r\n"]),
    (b":" + b"0" * (ASCII_BYTES_MAX - 3) + b"\r\n", [b":" + b"0" * (ASCII_BYTES_MAX - 3) + b"\r\n"]),
    (b":" + b"0" * (ASCII_BYTES_MAX - 2) + b"\r\n:01\r\n", [b":01\r\n"]),
]


@pytest.mark.parametrize(("sent", "frames"), ASCII_LINES)
def test_ascii_frames_begin_at_a_colon_and_end_at_cr_lf(sent: bytes, frames: list[bytes]) -> None:
    timing = Timing(9600, 10)
    whole = [(sent, 0, timing.characters_ns(len(sent)))]
    assert play(AsciiReceiver(timing), whole) == frames
    assert play(AsciiReceiver(timing), characters(timing, sent, [0] * len(sent))) == frames


@given(st.lists(st.sampled_from([b":", b"\r", b"\n", b"\r\n", b"0", b"A", b":01\r\n"]), max_size=30))
def test_ascii_frames_are_what_a_plain_reading_of_the_text_finds(parts: list[bytes]) -> None:
    text = b"".join(parts)
    lines = text.split(b"\r\n")[:-1]
    frames = [b":" + line.rpartition(b":")[2] + b"\r\n" for line in lines if b":" in line]
    timing = Timing(9600)
    assert play(AsciiReceiver(timing), characters(timing, text, [0] * len(text))) == frames


@pytest.mark.parametrize(("gap_ns", "kept"), [(ASCII_GAP_NS, True), (ASCII_GAP_NS + 1, False)])
def test_ascii_characters_may_be_a_second_apart(gap_ns: int, kept: bool) -> None:
    receiver = AsciiReceiver(AT_9600)
    pieces = characters(AT_9600, b":01\r\n", [0, 0, gap_ns, 0, 0])
    assert play(receiver, pieces) == ([b":01\r\n"] if kept else [])
    assert receiver.discarded == (not kept)


def test_ascii_frame_is_complete_with_its_own_last_character() -> None:
    receiver = AsciiReceiver(AT_9600)
    sent = b":01\r\n:02\r\n:"
    receiver.receive(sent, 0, AT_9600.characters_ns(len(sent)))
    first_ns, second_ns = AT_9600.characters_ns(5), AT_9600.characters_ns(10)
    assert receiver.due_ns == pytest.approx(first_ns, abs=1)
    assert receiver.take(first_ns - 2) is None
    assert receiver.take(first_ns + 1) == b":01\r\n"
    assert receiver.take(second_ns - 2) is None
    assert receiver.take(second_ns + 1) == b":02\r\n"
    assert receiver.open
    assert receiver.reset() == 1
    assert not receiver.open


# Where characters that were handed over lie on the line.


def test_a_pseudo_terminal_hands_over_what_is_still_to_come() -> None:
    arrivals = Arrivals(AT_9600, emulated=True)
    assert arrivals.place(8, 1000, None) == (1000, 1000 + AT_9600.characters_ns(8))
    busy_ns = arrivals.free_ns
    start_ns, end_ns = arrivals.place(2, 2000, AT_9600.gap_ns)
    assert (start_ns, end_ns) == (busy_ns, busy_ns + AT_9600.characters_ns(2))


def test_a_uart_hands_over_what_has_been() -> None:
    arrivals = Arrivals(AT_9600, emulated=False)
    now_ns = 10**9
    assert arrivals.place(8, now_ns, None) == (now_ns - AT_9600.characters_ns(8), now_ns)


@pytest.mark.parametrize("emulated", [False, True])
@given(looked=st.booleans(), late_ns=st.integers(0, 10**9))
def test_a_gap_counts_only_if_somebody_looked_in_it(emulated: bool, looked: bool, late_ns: int) -> None:
    """A host that stalls reads late; what it reads then may have come in time."""
    arrivals, receiver = Arrivals(AT_9600, emulated), RtuReceiver(AT_9600)
    receiver.receive(b"ab", *arrivals.place(2, 10**9, None))
    look_ns = arrivals.look_ns(receiver.gap_ns)
    assert look_ns == arrivals.free_ns + AT_9600.gap_ns + 1
    if looked:
        arrivals.found_nothing(look_ns)
        assert arrivals.look_ns(receiver.gap_ns) is None
    arrived_ns = look_ns + late_ns + (0 if emulated else AT_9600.characters_ns(2))
    start_ns, end_ns = arrivals.place(2, arrived_ns, receiver.gap_ns)
    assert end_ns == look_ns + late_ns + AT_9600.characters_ns(2)
    receiver.receive(b"cd", start_ns, end_ns)
    frames = play(receiver, [])
    if not looked:
        assert frames == [b"abcd"]
    elif late_ns + 1 + AT_9600.gap_ns < AT_9600.silence_ns:
        assert frames == []
    else:
        assert frames == [b"ab", b"cd"]


class Host:
    """A stand-in for the port and the loop that wakes late, driving receiver and arrivals as a line does."""

    def __init__(self, timing: Timing, arrivals_ns: list[tuple[int, bytes]]) -> None:
        self.receiver, self.arrivals = RtuReceiver(timing), Arrivals(timing, emulated=True)
        self.waiting = arrivals_ns
        self.frames: list[bytes] = []

    def run(self, delays_ns: list[int]) -> None:
        now_ns = 0
        for delay_ns in delays_ns:
            wakes = [time_ns for time_ns, _ in self.waiting[:1]]
            wakes += [] if self.receiver.due_ns is None else [self.receiver.due_ns]
            if self.receiver.open:
                look_ns = self.arrivals.look_ns(self.receiver.gap_ns)
                wakes += [] if look_ns is None else [look_ns]
            if not wakes:
                return
            now_ns = max(now_ns, min(wakes)) + delay_ns
            data = b""
            while self.waiting and self.waiting[0][0] <= now_ns:
                data += self.waiting.pop(0)[1]
            if data:
                gap_ns = self.receiver.gap_ns if self.receiver.open else None
                self.receiver.receive(data, *self.arrivals.place(len(data), now_ns, gap_ns))
            else:
                self.arrivals.found_nothing(now_ns)
            frame = self.receiver.take(now_ns)
            self.frames += [] if frame is None else [frame]
        raise AssertionError("the host never came to rest")


@given(
    st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=8),
    st.lists(st.integers(0, 50_000_000), min_size=100, max_size=100),
)
def test_a_stalling_host_never_breaks_a_frame_that_came_in_one_stretch(
    pieces: list[bytes], delays_ns: list[int]
) -> None:
    timing = Timing(115_200)
    now_ns, arrivals = 10**9, []
    for piece in pieces:  # each while the one before it is still on the line
        arrivals.append((now_ns, piece))
        now_ns += timing.characters_ns(len(piece))
    host = Host(timing, arrivals)
    host.run(delays_ns)
    assert host.frames == [b"".join(pieces)]


@given(st.integers(2, 10**9))  # 1 ns past the gap, the characters come with the look itself
def test_a_prompt_host_sees_the_gap(extra_ns: int) -> None:
    timing = Timing(9600)
    first_ns = 10**9
    second_ns = first_ns + timing.characters_ns(4) + timing.gap_ns + extra_ns
    host = Host(timing, [(first_ns, b"abcd"), (second_ns, b"ef")])
    host.run([0] * 100)
    ended = timing.gap_ns + extra_ns >= timing.silence_ns
    assert host.frames == ([b"abcd", b"ef"] if ended else [])
    assert host.receiver.discarded == (not ended)
