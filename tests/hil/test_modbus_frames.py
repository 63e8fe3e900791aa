"""The short way to a plain answer says what the long way says."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from ridethrough.hil.modbus_frames import Sifted, frame_fault, sift, stray_frame


def read_request(transaction: int, unit: int, count: int) -> bytes:
    return transaction.to_bytes(2) + b"\0\0\0\6" + bytes((unit, 3)) + (40_000).to_bytes(2) + count.to_bytes(2)


def answer(transaction: int, unit: int, data: bytes) -> bytes:
    return (
        transaction.to_bytes(2) + b"\0\0" + (3 + len(data)).to_bytes(2) + bytes((unit, 3, len(data))) + data
    )


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A read and its answer, whole or with a byte changed, cut short, or with more behind it."""
    transaction, unit = draw(st.integers(0, 3)), draw(st.integers(1, 2))
    count = draw(st.integers(1, 125))
    reply = bytearray(answer(transaction, unit, bytes(2 * count)))
    for place in draw(st.lists(st.integers(0, len(reply) - 1), max_size=2)):
        reply[place] = draw(st.integers(0, 255))
    cut = draw(st.one_of(st.just(len(reply)), st.integers(0, len(reply))))
    return read_request(transaction, unit, count), bytes(reply[:cut]) + draw(st.binary(max_size=3))


@given(exchanges())
@example((read_request(0, 1, 1), answer(0, 1, b"ab")))
def test_a_plain_answer_is_judged_as_every_other_is(exchange: tuple[bytes, bytes]) -> None:
    request, received = exchange
    found = Sifted(received, frame_fault(request, received), stray_frame(request, received))
    assert sift("socket", request, received) == found


def test_what_is_wrong_is_still_seen() -> None:
    request = read_request(7, 1, 2)
    assert sift("socket", request, answer(7, 1, b"abcd")) == Sifted(answer(7, 1, b"abcd"))
    assert sift("socket", request, answer(7, 1, b"ab")).fault
    assert sift("socket", request, answer(8, 1, b"abcd")).stray
    assert sift("socket", read_request(0, 1, 2), answer(0, 1, b"abcd")).fault
