"""The network between a client and a device, as bytes and times: what each fault does to frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ridethrough.emulator._modbus import crc16
from ridethrough.hil.effects import messages as at_mil
from ridethrough.hil.effects.link import ACTS, HELD_FRAMES_MAX, framed, sealed
from ridethrough.hil.effects.messages import conditions_of
from ridethrough.hil.faults import Event
from ridethrough.hil.link import Connection, Frames, Parcel, Route, SerialFrames
from ridethrough.hil.messages import LOST, Fates
from ridethrough.hil.world import Comms

S = 10**9
NAMES = ("a", "b", "c")
CALM = Comms(0, 0, 0.0, 5 * S)
READ = bytes.fromhex("0001 0000 0006 01 03 0000 0001")
READ_REPLY = bytes.fromhex("0001 0000 0005 01 03 02 002a")
WRITE = bytes.fromhex("0002 0000 0006 01 06 0000 002a")
WRITE_REPLY = WRITE
SEVERAL = bytes.fromhex("0003 0000 000b 01 10 0000 0002 04 0001 0002")


def event(fault: str, *, number: int = 1, start_s: float = 0, end_s: float = 1000, **params: Any) -> Event:
    return Event(number, f"comms.{fault}", (0,), round(start_s * S), round(end_s * S), params)


class World:
    """Events, some of them in force."""

    def __init__(self, *events: Event) -> None:
        self.all = events
        self._last: tuple[Event, ...] = ()

    def __call__(self, now_ns: int) -> Sequence[Event]:
        found = tuple(each for each in self.all if each.start_ns <= now_ns < each.end_ns)
        if found != self._last:
            self._last = found
        return self._last


def route(*events: Event, seed: int = 7, row: int = 0, comms: Comms = CALM, serial: bool = False) -> Route:
    return Route(seed, NAMES, row, comms, World(*events), serial=serial)


def connected(*events: Event, now_ns: int = 0, **rest: Any) -> Connection:
    link = route(*events, **rest).link()
    assert link.admit(now_ns) == "accept"
    return link


def arrived(parcels: Sequence[Parcel]) -> bytes:
    return b"".join(parcel.data for parcel in parcels)


def with_id(frame: bytes, number: int) -> bytes:
    return number.to_bytes(2) + frame[2:]


# ---- framing


@given(st.data())
def test_frames_are_cut_at_their_borders_however_they_arrive(data: st.DataObject) -> None:
    frames = [READ, WRITE, SEVERAL]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    cutter, found = Frames(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += cutter.feed(stream[begin:end])
    assert found == frames


def test_a_stream_out_of_step_is_passed_on_not_held_for_ever() -> None:
    assert Frames().feed(b"GET / HTTP/1.1\r\n\r\n") == [b"GET / HTTP/1.1\r\n\r\n"]
    assert SerialFrames().feed(b"") == []


# ---- without faults


@given(
    st.lists(st.sampled_from([READ, WRITE, SEVERAL, READ_REPLY]), max_size=20), st.booleans(), st.booleans()
)
def test_without_faults_bytes_pass_unchanged_and_at_once(frames: list[bytes], up: bool, before: bool) -> None:
    link = connected()
    pipe = link.up if up else link.down
    for k, frame in enumerate(frames):
        now_ns = k * S - (100 * S if before else 0)
        assert list(pipe.send(now_ns, frame)) == [Parcel(now_ns, frame)]
    assert list(pipe.finish(S * 100, "eof")) == [Parcel(S * 100, b"", "eof")]


def test_before_the_world_begins_there_is_no_weather() -> None:
    link = route(event("loss", loss_frac=1.0), comms=Comms(S, 2 * S, 1.0, S)).link()
    assert link.admit(-S) == "accept"
    assert link.up.send(-S, WRITE) == [Parcel(-S, WRITE)]
    assert link.up.send(0, WRITE) == []


@given(st.integers(0, 9), st.integers(1, 60))
def test_the_draws_of_a_link_are_those_of_the_model_level(seed: int, count: int) -> None:
    comms = Comms(80_000_000, 900_000_000, 0.2, 5 * S)
    link = connected(seed=seed, comms=comms)
    fates = Fates(seed, NAMES, "commands")
    for k in range(count):
        late_ns = fates.draw(conditions_of([], 3, comms), np.ones(3, dtype=np.bool_))[0]
        parcels = link.up.send(k * 1000 * S, WRITE)
        assert [parcel.due_ns for parcel in parcels] == ([] if late_ns == LOST else [k * 1000 * S + late_ns])


RANDOM = st.builds(
    lambda *parts: parts,
    st.floats(0.0, 0.9),
    st.floats(0.001, 2.0),
    st.floats(1.0, 14.0),
    st.sampled_from(["log-normal", "pareto"]),
    st.sampled_from(["silence", "stall"]),
    st.floats(1.0, 6.0),
)


@given(RANDOM, st.integers(0, 99), st.booleans())
def test_what_comes_out_is_a_part_of_what_went_in_in_its_order(
    drawn: tuple[float, float, float, str, str, float], seed: int, up: bool
) -> None:
    loss, mean_s, ratio, tail, shows, burst = drawn
    events = (
        event("loss", loss_frac=loss, shows=shows, stall_s=3.0, burst_messages=burst),
        event("latency", number=2, latency_s_mean=mean_s, latency_s_p99=mean_s * ratio, tail=tail),
    )
    frame = WRITE if up else READ_REPLY
    runs = []
    for _ in range(2):
        link = connected(*events, seed=seed)
        pipe = link.up if up else link.down
        runs.append([p for k in range(40) for p in pipe.send(k * S, with_id(frame, k))])
    assert runs[0] == runs[1], "the same seed gives the same parcels"
    out = [int.from_bytes(parcel.data[:2]) for parcel in runs[0]]
    assert out == sorted(set(out))
    assert set(out) <= set(range(40))
    assert all(parcel.data == with_id(frame, k) for parcel, k in zip(runs[0], out, strict=True))
    due_ns = [parcel.due_ns for parcel in runs[0]]
    assert due_ns == sorted(due_ns)
    assert all(d >= k * S for d, k in zip(due_ns, out, strict=True))


def test_one_devices_fault_moves_no_other_devices_draws() -> None:
    comms = Comms(80_000_000, 900_000_000, 0.1, 5 * S)
    fault = event("duplicate", after_s=1.0, share_frac=0.5), event("loss", number=2, loss_frac=0.5)
    both = [
        [p for k in range(200) for p in connected(*events, row=1, comms=comms).up.send(k * S, WRITE)]
        for events in ((), fault)
    ]
    assert both[0] == both[1]
    plain, hit = (connected(*events, comms=comms) for events in ((), fault))
    sent = [[arrived(link.up.send(k * 100 * S, WRITE)) for k in range(9)] for link in (plain, hit)]
    assert sent[0] != sent[1]


# ---- messages of several frames


def test_chance_meets_a_whole_poll_and_a_whole_command_once() -> None:
    comms = Comms(S, S, 0.0, 5 * S)
    link = connected(comms=comms)
    for k in range(3):
        link.route.begin(is_command=False)
        late = [link.down.send(20 * k * S + n * S, READ_REPLY)[0].due_ns for n in range(3)]
        assert late[0] - 20 * k * S > S // 2
        assert late[1:] == [max(late[0], 20 * k * S + n * S) for n in (1, 2)]
    link.route.begin(is_command=True)
    first, *rest = (link.up.send(t * S, WRITE)[0].due_ns for t in (100, 105, 106))
    assert first > 100 * S + S // 2
    assert rest == [105 * S, 106 * S]
    assert link.down.send(110 * S, READ_REPLY)[0].due_ns == 110 * S, "reading back belongs to the command"


def test_of_a_message_that_is_lost_nothing_arrives() -> None:
    link = connected(event("loss", loss_frac=0.5), seed=5)
    seen = []
    for k in range(100):
        link.route.begin(is_command=False)
        seen.append([bool(link.down.send(k * S, READ_REPLY)) for _ in range(4)])
    assert all(len(set(each)) == 1 for each in seen)
    assert 30 < sum(each[0] for each in seen) < 70


def test_what_is_asked_again_within_a_message_meets_the_same() -> None:
    link = connected(event("exception", code=6, requests="writes", share_frac=0.5))
    seen = []
    for k in range(100):
        link.route.begin(is_command=True)
        assert arrived(link.up.send(k, READ)) == READ
        seen.append([link.up.send(k, WRITE)[0].back for _ in range(4)])
    assert all(len(set(each)) == 1 for each in seen)
    assert 30 < sum(each[0] for each in seen) < 70


def test_a_cut_meets_every_frame_also_of_a_message() -> None:
    link = connected(event("partition-one-way", direction="telemetry"))
    link.route.begin(is_command=True)
    assert arrived(link.up.send(0, WRITE)) == WRITE
    assert link.down.send(0, READ_REPLY) == []


@pytest.mark.parametrize(("is_command", "share"), [(False, 0.3), (True, 1 - 0.7**3)])
def test_replies_are_spoilt_as_often_as_at_the_model_level(is_command: bool, share: float) -> None:
    link = connected(event("wrong-transaction-id", shift=1, share_frac=0.3))
    frames = [(READ, READ_REPLY)] * 3
    if is_command:  # on a new connection it begins with who the device is
        frames = [(READ, READ_REPLY), (WRITE, WRITE_REPLY), (WRITE, WRITE_REPLY), (READ, READ_REPLY)]
    spoilt = 0
    for k in range(2000):
        link.route.begin(is_command=is_command)
        found = []
        for request, reply in frames:
            link.up.send(k, request)
            found.append(arrived(link.down.send(k, reply)) != reply)
        assert not (is_command and found[0])
        spoilt += any(found)
    assert spoilt / 2000 == pytest.approx(share, abs=0.04)


# ---- the way


def test_a_loss_meets_the_request_of_a_write_and_the_reply_of_a_read_and_nothing_else() -> None:
    link = connected(event("loss", loss_frac=1.0))
    assert link.up.send(0, WRITE) == []
    assert link.down.send(0, READ_REPLY) == []
    assert arrived(link.up.send(0, READ)) == READ
    assert arrived(link.down.send(0, WRITE_REPLY)) == WRITE_REPLY
    assert link.route.touched_ns == 0


@pytest.mark.parametrize(("loss", "burst"), [(0.3, 1.0), (0.3, 6.0), (0.1, 3.0), (0.8, 2.0)])
def test_losses_come_as_often_and_in_bursts_as_long_as_asked(loss: float, burst: float) -> None:
    link = connected(event("loss", loss_frac=loss, burst_messages=burst))
    lost = np.array([not link.up.send(k * S // 1000, WRITE) for k in range(12_000)])
    assert lost.mean() == pytest.approx(loss, abs=0.04)
    bursts = (np.diff(lost.astype(int)) == 1).sum()
    least = 1.0 / (1.0 - loss) if burst <= 1.0 else max(burst, loss / (1.0 - loss))
    assert lost.sum() / bursts == pytest.approx(least, rel=0.15)


@pytest.mark.parametrize("tail", ["log-normal", "pareto"])
def test_latency_has_the_mean_and_the_99th_percentile_asked_for(tail: str) -> None:
    link = connected(event("latency", end_s=1e9, latency_s_mean=0.5, latency_s_p99=3.0, tail=tail))
    sent_ns = [k * 10_000 * S for k in range(8000)]
    late_s = np.array([link.up.send(t, WRITE)[0].due_ns - t for t in sent_ns]) / S
    assert np.mean(late_s) == pytest.approx(0.5, rel=0.1)
    assert np.quantile(late_s, 0.99) == pytest.approx(3.0, rel=0.15)
    assert (late_s.max() > 9.5) == (tail == "pareto")


def test_fixed_latency_and_bandwidth_add_up() -> None:
    link = connected(event("latency-fixed", latency_s=2.0, bandwidth_bps=96.0))
    assert link.up.send(0, WRITE) == [Parcel(3 * S, WRITE)]
    assert link.up.send(0, READ) == [Parcel(3 * S, READ)], "it cannot overtake"
    assert link.down.send(0, READ_REPLY) == [Parcel(2 * S + 11 * S * 8 // 96 + 1, READ_REPLY)]


def test_a_loss_may_show_as_a_stall_or_as_a_reset() -> None:
    stalled = connected(event("loss", loss_frac=1.0, shows="stall", stall_s=3.0))
    assert stalled.up.send(S, WRITE) == [Parcel(4 * S, WRITE)]
    ended = connected(event("loss", loss_frac=1.0, shows="reset"))
    assert ended.up.send(S, WRITE) == [Parcel(S, b"", "reset")]


@pytest.mark.parametrize(
    ("fault", "direction", "up", "down"),
    [
        ("partition", "both", b"", b""),
        ("partition", "commands", b"", READ_REPLY),
        ("partition-one-way", "telemetry", WRITE, b""),
        ("partition-one-way", "commands", b"", READ_REPLY),
    ],
)
def test_partitions_cut_what_they_say(fault: str, direction: str, up: bytes, down: bytes) -> None:
    link = connected(event(fault, direction=direction, end_s=10))
    assert (arrived(link.up.send(0, WRITE)), arrived(link.down.send(0, READ_REPLY))) == (up, down)
    assert arrived(link.up.send(10 * S, WRITE)) == WRITE


# ---- what the network keeps


def test_a_copy_follows_in_front_of_the_next_request_and_its_reply_is_kept_from_the_client() -> None:
    link = connected(event("duplicate", after_s=5.0, share_frac=1.0, end_s=3))
    assert arrived(link.up.send(0, SEVERAL)) == SEVERAL
    assert arrived(link.up.send(4 * S, READ)) == READ
    copy, own = link.up.send(5 * S, READ)
    assert own.data == READ
    assert copy.data[2:] == SEVERAL[2:]
    assert copy.data[:2] != READ[:2]
    assert link.down.send(5 * S, framed(copy.data[7:12], copy.data, False)) == []
    assert arrived(link.down.send(5 * S, READ_REPLY)) == READ_REPLY
    assert arrived(link.up.send(20 * S, READ)) == READ


def test_a_held_command_is_acknowledged_overtaken_and_arrives() -> None:
    link = connected(event("reorder", by_s=70.0, share_frac=1.0, end_s=100))
    first, second = with_id(WRITE, 10), with_id(SEVERAL, 11)
    assert link.up.send(0, first) == [Parcel(0, first, back=True)]
    assert link.up.send(1, second) == [Parcel(1, framed(second[7:12], second, False), back=True)]
    assert arrived(link.up.send(2, READ)) == READ  # reading back ends the command
    newer = with_id(WRITE, 12)
    assert arrived(link.up.send(60 * S, newer)) == newer
    held = link.up.send(80 * S, READ)
    assert [parcel.data[7:] for parcel in held] == [first[7:], second[7:], READ[7:]]


def test_queued_commands_outlive_their_connection_and_come_after_the_fault() -> None:
    way = route(event("queued-commands", after_s=20.0, end_s=100))
    link = way.link()
    assert link.admit(0) == "accept"
    for k in range(3):
        assert link.up.send(k * S, with_id(WRITE, k)) == [Parcel(k * S, with_id(WRITE, k), back=True)]
    assert arrived(link.down.send(0, READ_REPLY)) == READ_REPLY
    later = way.link()
    assert later.admit(110 * S) == "accept"
    assert arrived(later.up.send(110 * S, READ)) == READ
    assert len(later.up.send(121 * S, READ)) == 4
    assert len(later.up.send(130 * S, READ)) == 1


def test_a_queue_is_let_go_when_its_fault_is_ended_early_and_has_an_end() -> None:
    fault = event("queued-commands", after_s=20.0, end_s=1e6)
    link = connected(fault)
    for k in range(HELD_FRAMES_MAX + 5):
        link.up.send(k, WRITE)
    assert len(link.route.memory.held) == HELD_FRAMES_MAX
    link.route.events = World()
    link.up.send(50 * S, READ)
    assert len(link.up.send(70 * S, READ)) == HELD_FRAMES_MAX + 1


# ---- replies


def test_replies_are_spoilt_as_asked() -> None:
    for fault, params, seen in (
        ("truncated-frame", {"kept_bytes": 5, "end": "nothing"}, READ_REPLY[:5]),
        ("truncated-frame", {"kept_bytes": 99, "end": "nothing"}, READ_REPLY[:-1]),
        ("wrong-transaction-id", {"shift": 1}, with_id(READ_REPLY, 2)),
        ("wrong-unit-id", {"wrong": "unit", "shift": 1}, READ_REPLY[:6] + b"\2" + READ_REPLY[7:]),
        ("wrong-unit-id", {"wrong": "client", "shift": 1}, b""),
        ("reset", {}, b""),
        ("checksum-error", {"noise": "flip"}, b""),
    ):
        link = connected(event(fault, **params))
        assert arrived(link.down.send(0, READ_REPLY)) == seen, fault
    ends = (
        connected(event("reset")).down.send(0, READ_REPLY),
        connected(event("truncated-frame", kept_bytes=5, end="eof")).down.send(0, READ_REPLY),
    )
    assert [parcels[-1].end for parcels in ends] == ["reset", "eof"]


def test_the_reply_of_another_client_is_an_earlier_one() -> None:
    link = connected(event("wrong-unit-id", wrong="client", shift=1))
    assert link.down.send(0, READ_REPLY) == []
    assert arrived(link.down.send(6 * S, with_id(WRITE_REPLY, 9))) == READ_REPLY


def test_a_late_reply_is_taken_for_that_to_the_next_request_until_the_fault_ends() -> None:
    link = connected(event("late-reply", share_frac=1.0, end_s=10))
    assert link.down.send(0, READ_REPLY) == []
    first = arrived(link.down.send(S, with_id(WRITE_REPLY, 2)))
    assert first == framed(READ_REPLY[7:], with_id(WRITE_REPLY, 2), False)
    assert arrived(link.down.send(2 * S, with_id(READ_REPLY, 3)))[7:] == WRITE_REPLY[7:]
    assert arrived(link.down.send(10 * S, READ_REPLY)) == READ_REPLY


def test_exceptions_are_answered_in_place_of_the_device() -> None:
    link = connected(event("exception", code=6, requests="writes"))
    (answer,) = link.up.send(0, WRITE)
    assert answer == Parcel(0, bytes.fromhex("0002 0000 0003 01 86 06"), back=True)
    assert arrived(link.up.send(0, READ)) == READ
    everything = connected(event("exception", code=6, requests="all"))
    assert everything.up.send(0, READ)[0].data[7:] == b"\x83\x06"


def test_tcp_joins_or_cuts_frames() -> None:
    joined = connected(event("coalesced", mode="joined", share_frac=0.0))
    assert arrived(joined.up.send(0, READ + WRITE + READ)) == READ
    assert connected(event("coalesced", mode="joined")).up.send(0, WRITE) == []
    cut = connected(event("coalesced", mode="cut", piece_bytes=5, pause_s=1.0)).down.send(0, READ_REPLY)
    assert [(parcel.due_ns, parcel.data) for parcel in cut] == [
        (0, READ_REPLY[:5]),
        (S, READ_REPLY[5:10]),
        (2 * S, READ_REPLY[10:]),
    ]


def test_slow_clients_make_the_others_wait() -> None:
    link = connected(event("slow-loris", clients=5, every_s=1.0, stall_s=0.4))
    assert link.down.send(0, READ_REPLY) == [Parcel(2 * S, READ_REPLY)]
    assert link.up.send(0, READ) == [Parcel(0, READ)]


# ---- connections


def test_a_half_open_connection_stays_dead_and_the_device_learns_of_it_at_the_end() -> None:
    link = connected(event("half-open", start_s=5, end_s=10, anew="silent"))
    assert arrived(link.up.send(0, WRITE)) == WRITE
    assert link.up.send(5 * S, WRITE) == ()
    assert link.down.send(6 * S, READ_REPLY) == ()
    assert link.route.link().admit(6 * S) == "hang"
    assert link.down.finish(7 * S, "eof") == ()
    assert link.up.finish(7 * S, "eof") == (Parcel(10 * S, b"", "reset"),)
    assert link.up.send(20 * S, WRITE) == ()
    assert link.route.link().admit(20 * S) == "accept"


def test_beside_a_half_open_connection_a_new_one_may_work() -> None:
    link = connected(event("half-open", start_s=5, end_s=10, anew="works"))
    assert link.up.send(5 * S, WRITE) == ()
    anew = link.route.link()
    assert anew.admit(6 * S) == "accept"
    assert arrived(anew.up.send(6 * S, WRITE)) == WRITE


@pytest.mark.parametrize("refusal", ["reset", "refuse", "hang"])
def test_a_foreign_client_ends_the_connection_and_has_others_turned_away(refusal: str) -> None:
    link = connected(event("connection-limit", start_s=5, end_s=10, refusal=refusal))
    assert link.up.send(5 * S, READ) == (Parcel(5 * S, b"", "reset"),)
    assert link.route.link().admit(6 * S) == refusal
    assert link.route.link().admit(10 * S) == "accept"


def test_another_device_answers_at_a_changed_address_and_old_connections_end() -> None:
    link = connected(event("address-change", start_s=5, end_s=10))
    assert link.device(0) == 0
    assert link.device(5 * S) == 1
    assert link.up.send(5 * S, READ) == (Parcel(5 * S, b"", "reset"),)
    other = link.route.link()
    assert other.admit(6 * S) == "accept"
    assert arrived(other.up.send(6 * S, WRITE)) == WRITE
    assert other.up.send(10 * S, READ) == (Parcel(10 * S, b"", "reset"),), "the old device is back"


def test_several_devices_change_addresses_round_and_the_only_one_leaves_nobody() -> None:
    fault = Event(1, "comms.address-change", (0, 2), 0, S, {})
    assert [route(fault, row=row).link().device(0) for row in (0, 1, 2)] == [2, 1, 0]
    alone = Route(1, ("a",), 0, CALM, World(event("address-change"))).link()
    assert alone.admit(0) == "hang"
    assert alone.device(0) == -1


# ---- serial lines


def test_on_a_serial_line_noise_spoils_bytes_and_the_checksum_tells() -> None:
    reply = sealed(bytes.fromhex("01 03 02 002a"))
    for noise, size in (("flip", len(reply)), ("drop", len(reply) - 1)):
        link = connected(event("checksum-error", noise=noise), serial=True)
        for k in range(50):
            spoilt = arrived(link.down.send(k, reply))
            assert len(spoilt) == size
            assert spoilt != reply
            assert crc16(spoilt[:-2]).to_bytes(2, "little") != spoilt[-2:]


def test_on_a_serial_line_made_up_frames_have_a_right_checksum() -> None:
    write = sealed(bytes.fromhex("01 06 0000 002a"))
    refused = connected(event("exception", code=4, requests="writes"), serial=True)
    assert refused.up.send(0, write) == [Parcel(0, sealed(b"\1\x86\4"), back=True)]
    wrong = connected(event("wrong-unit-id", wrong="unit", shift=1), serial=True)
    assert arrived(wrong.down.send(0, write)) == sealed(bytes.fromhex("02 06 0000 002a"))
    lost = connected(event("wrong-transaction-id", shift=1), serial=True)
    assert lost.down.send(0, write) == []
    queued = connected(event("queued-commands", after_s=0.0, end_s=1), serial=True)
    assert queued.up.send(0, write) == [Parcel(0, write, back=True)]
    read = sealed(bytes.fromhex("01 03 0000 0001"))
    assert [parcel.data for parcel in queued.up.send(2 * S, read)] == [write, read]
    assert queued.down.send(2 * S, write) == [], "the reply to what the network sent itself"
    assert arrived(queued.down.send(2 * S, sealed(b"\1\3\2\0\1"))) == sealed(b"\1\3\2\0\1")


def test_both_tables_know_all_twenty_faults() -> None:
    assert set(ACTS) == set(at_mil.ACTS)
    assert len(ACTS) == 20
