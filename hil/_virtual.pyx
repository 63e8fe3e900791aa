"""What virtual time does for every message: the turns of its loop and the streams of its network.

virtual/loop.py and virtual/transport.py have the rest of both, and say what the rules are.

Rules of this file:

- Only what every exchange needs is here; what happens seldom is called by name in the Python classes.
- Nothing is lost when a callback raises what ends the loop: the rest of the turn is run when it goes on.
"""

cimport cython
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport rint
from libc.stdint cimport int64_t, uint64_t

from asyncio import Future

cdef int64_t NEVER_NS = <int64_t>1 << 62  # 146 years
cdef Py_ssize_t CANCELLED_MIN = 128

WINDOW_BYTES = 65_536
cdef int64_t WINDOW = 65_536


def _nothing(*_):
    """Do nothing, in place of what was cancelled."""


@cython.freelist(256)
cdef class Call:
    """A callback of the loop: a handle of asyncio, and a timer's where it has a deadline."""

    cdef object callback
    cdef tuple args
    cdef object context
    cdef Turns turns
    cdef int64_t due_ns
    cdef uint64_t made
    cdef double when_s
    cdef bint is_cancelled
    cdef bint is_timer
    cdef bint is_waiting  # among the timers
    cdef object __weakref__

    def cancel(self):
        """Let it not run; what it holds is let go."""
        if self.is_cancelled:
            return
        self.is_cancelled = True
        self.callback = _nothing
        self.args = ()
        if self.is_waiting:
            self.turns.note_cancelled()

    def cancelled(self):
        """Tell whether it was cancelled."""
        return self.is_cancelled

    def when(self):
        """Return its deadline [s]."""
        return self.when_s

    def get_context(self):
        """Return the context in which it runs."""
        return self.context

    def __repr__(self):
        at = f" at {self.when_s:.9f} s" if self.is_timer else ""
        return f"<call of {self.callback!r}{at}{' cancelled' if self.is_cancelled else ''}>"

    cdef int go(self) except -1:
        cdef object callback = self.callback  # it may cancel itself
        cdef tuple args = self.args
        PyContext_Enter(self.context)
        try:
            callback(*args)
        finally:
            PyContext_Exit(self.context)
        return 0


@cython.final
cdef class Delivery(Call):
    """Bytes on their way to one end of a stream, or the end of the stream."""

    cdef Stream goal
    cdef int64_t epoch
    cdef bytes data
    cdef str end

    cdef int go(self) except -1:
        PyContext_Enter(self.context)
        try:
            self.goal.arrive(self.epoch, self.data, self.end)
        finally:
            PyContext_Exit(self.context)
        return 0


@cython.final
cdef class Standing(Call):
    """The delivery of what lies in the inbox of one end, used again and again."""

    cdef Stream goal

    cdef int go(self) except -1:
        PyContext_Enter(self.context)
        try:
            self.goal.deliver()
        finally:
            PyContext_Exit(self.context)
        return 0


cdef inline bint is_before(Call one, Call other):
    return one.due_ns < other.due_ns or (one.due_ns == other.due_ns and one.made < other.made)


cdef void sift_up(list heap, Py_ssize_t place):
    """Move an entry up to where it belongs."""
    cdef Call call = <Call>heap[place]
    cdef Call parent
    cdef Py_ssize_t above
    while place > 0:
        above = (place - 1) >> 1
        parent = <Call>heap[above]
        if not is_before(call, parent):
            break
        heap[place] = parent
        place = above
    heap[place] = call


cdef void sift_down(list heap, Py_ssize_t place):
    """Move an entry down to where it belongs."""
    cdef Py_ssize_t size = len(heap)
    cdef Call call = <Call>heap[place]
    cdef Call child
    cdef Py_ssize_t below = 2 * place + 1
    while below < size:
        if below + 1 < size and is_before(<Call>heap[below + 1], <Call>heap[below]):
            below += 1
        child = <Call>heap[below]
        if not is_before(child, call):
            break
        heap[place] = child
        place = below
        below = 2 * place + 1
    heap[place] = call


cdef Call pop(list heap):
    """Take out the first entry."""
    cdef Call first = <Call>heap[0]
    cdef Call last = <Call>heap.pop()
    if len(heap):
        heap[0] = last
        sift_down(heap, 0)
    return first


cdef class Turns:
    """Time, callbacks and turns; the half of `VirtualLoop` that every callback passes through.

    Attributes
    ----------
    now_ns : int
        The time [ns].
    origin_ns : int
        The time that links take for 0 [ns].
    turns_max : int
        Turns at one instant.
    context : Context
        In which the network calls protocols.
    """

    cdef public int64_t now_ns
    cdef public int64_t origin_ns
    cdef public int64_t turns_max
    cdef public object context
    cdef public bint _stopping  # asyncio's own loop sets these two
    cdef public bint _closed
    cdef list ready
    cdef list timers
    cdef uint64_t made
    cdef Py_ssize_t dead  # cancelled ones among the timers

    def __cinit__(self, *args, **options):
        self.ready, self.timers = [], []
        self.turns_max = 20_000_000
        self.context = PyContext_CopyCurrent()

    @property
    def waiting(self):
        """How many timers there are, cancelled ones included."""
        return len(self.timers)

    def time(self):
        """Return the time [s]."""
        return self.now_ns / 1e9

    def get_debug(self):
        """Return False: debugging measures real time."""
        return False

    def create_future(self):
        """Return a future of this loop."""
        return Future(loop=self)

    def call_soon(self, callback, *args, context=None):
        """Let a callback run in the next turn."""
        cdef Call call = Call.__new__(Call)
        self._check_open()
        call.callback, call.args = callback, args
        call.context = PyContext_CopyCurrent() if context is None else context
        self.ready.append(call)
        return call

    def call_later(self, double delay, callback, *args, context=None):
        """Let a callback run after `delay` seconds, to the nearest nanosecond and at least one."""
        cdef double ns = rint(delay * 1e9)
        cdef int64_t due_ns = self.now_ns
        if delay > 0.0:
            due_ns = NEVER_NS if ns >= NEVER_NS - self.now_ns else self.now_ns + max(<int64_t>ns, 1)
        return self._timer(due_ns, self.now_ns / 1e9 + delay, callback, args, context)

    def call_at(self, double when, callback, *args, context=None):
        """Let a callback run at `when` seconds, to the nearest nanosecond; if past, in the next turn."""
        cdef double ns = rint(when * 1e9)
        cdef int64_t due_ns = self.now_ns
        if when > self.now_ns / 1e9:
            # Somebody who looks at the time and waits for the rest of it must not wait in a circle.
            due_ns = NEVER_NS if ns >= NEVER_NS else max(<int64_t>ns, self.now_ns + 1)
        return self._timer(due_ns, when, callback, args, context)

    def call_at_ns(self, int64_t due_ns, callback, *args, context=None):
        """Let a callback run at an instant [ns]; if past, in the next turn."""
        return self._timer(due_ns, due_ns / 1e9, callback, args, context)

    cdef Call _timer(self, int64_t due_ns, double when_s, object callback, tuple args, object context):
        cdef Call call = Call.__new__(Call)
        self._check_open()
        if when_s != when_s:
            raise ValueError("NaN found; allowed is a time")
        call.callback, call.args, call.when_s = callback, args, when_s
        call.context = PyContext_CopyCurrent() if context is None else context
        call.is_timer = True
        if due_ns < NEVER_NS:
            self._push(call, due_ns)
        return call

    cdef int _push(self, Call call, int64_t due_ns) except -1:
        """Let a call wait for its time."""
        call.turns, call.due_ns, call.is_waiting = self, due_ns, True
        self.made += 1
        call.made = self.made
        self.timers.append(call)
        sift_up(self.timers, len(self.timers) - 1)
        return 0

    cdef int _check_open(self) except -1:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        return 0

    cdef int note_cancelled(self) except -1:
        """Count a timer that will not run, and sweep such ones out when there are many."""
        cdef Py_ssize_t k
        self.dead += 1
        if self.dead > CANCELLED_MIN and 2 * self.dead > len(self.timers):
            self.timers = [call for call in self.timers if not (<Call>call).is_cancelled]
            self.dead = 0
            for k in range(len(self.timers) // 2 - 1, -1, -1):
                sift_down(self.timers, k)
        return 0

    def drop_calls(self):
        """Forget everything that was to run."""
        self.ready, self.timers = [], []

    cdef bint _jump(self) except -1:
        """Let time pass until the next deadline; tell whether it did."""
        cdef Call call
        while len(self.timers) and (<Call>self.timers[0]).is_cancelled:
            pop(self.timers).is_waiting = False
            self.dead -= 1
        if self._stopping:
            return False
        if not len(self.timers):
            self.fail_for_ever()
        call = <Call>self.timers[0]
        if call.due_ns <= self.now_ns:
            return False
        self.now_ns = call.due_ns
        return True

    cdef int _take_due(self) except -1:
        """Put the timers that are due behind what is ready."""
        cdef Call call
        while len(self.timers) and (<Call>self.timers[0]).due_ns <= self.now_ns:
            call = pop(self.timers)
            call.is_waiting = False
            if call.is_cancelled:
                self.dead -= 1
            else:
                self.ready.append(call)
        return 0

    cdef int _turn(self) except -1:
        """Run what is ready now."""
        cdef list ready = self.ready
        cdef Call call
        cdef Py_ssize_t k = 0
        cdef Py_ssize_t size = len(ready)
        self.ready = []
        try:
            while k < size:
                call = <Call>ready[k]
                k += 1
                if call.is_cancelled:
                    continue
                try:
                    call.go()
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.report(call, error)
        finally:
            if k < size:
                self.ready = ready[k:] + self.ready
        return 0

    def _run_once(self):
        """Run turns until the loop is to stop; asyncio calls it again and again until then."""
        cdef int64_t turns = 0
        while True:
            if not len(self.ready) and self._jump():
                turns = 0
            turns += 1
            if turns > self.turns_max:
                self.fail_standing()
            self._take_due()
            self._turn()
            PyErr_CheckSignals()  # Ctrl-C is heard even if no callback is Python
            if self._stopping:
                return


cdef class Stream:
    """One end of a stream in memory; the half of `MemoryTransport` that every message passes through.

    Attributes
    ----------
    peer : Stream
        The other end.
    pipe : Pipe or None
        What this end's bytes go through.
    receive : callable
        Given what comes.
    inbox : list of bytes
        What has come and could not be given to the protocol yet.
    held : int
        Bytes for this end that its protocol has not been given.
    due : bool
        A delivery is among what is ready.
    end : str
        How the stream ends behind the inbox.
    epoch : int
        What is under way to this end from an earlier one was dropped.
    last_due_ns : int
        Of what this end has sent, by the loop's time.
    """

    cdef readonly Turns loop
    cdef public Stream peer
    cdef public object pipe
    cdef public object receive
    cdef public list inbox
    cdef public int64_t held
    cdef public int64_t epoch
    cdef public int64_t last_due_ns
    cdef public str end
    cdef public bint due
    cdef public bint paused
    cdef public bint closing
    cdef public bint lost
    cdef public bint eof_sent
    cdef public bint writing_paused
    cdef Standing standing
    cdef object __weakref__

    def __cinit__(self, Turns loop, *args):
        self.loop = loop
        self.inbox, self.end = [], ""
        self.standing = Standing.__new__(Standing)
        self.standing.callback, self.standing.args = "the inbox", ()
        self.standing.context, self.standing.goal = loop.context, self

    def write(self, data):
        """Send bytes."""
        cdef Stream peer = self.peer
        cdef bytes piece
        if self.eof_sent:
            raise RuntimeError("Cannot call write() after write_eof()")
        if type(data) is bytes:
            piece = <bytes>data
        elif isinstance(data, (bytes, bytearray, memoryview)):
            piece = bytes(data)
        else:
            raise TypeError(f"data: {type(data).__name__} found; allowed are bytes-like objects")
        if not len(piece) or self.closing:
            return
        if self.pipe is None:
            peer.held += len(piece)
            peer.inbox.append(piece)
            if not peer.due:
                peer.due = True
                self.loop.ready.append(peer.standing)
        else:
            self.carry(self.pipe.send(self.loop.now_ns - self.loop.origin_ns, piece))
        if peer.held > WINDOW:
            self.pause_writer()

    def carry(self, parcels):
        """Let parcels arrive when they are due, and none before the one before."""
        cdef Delivery delivery
        cdef int64_t due_ns
        for parcel in parcels:
            due_ns, data, end, back = parcel
            due_ns += self.loop.origin_ns
            self.last_due_ns = max(due_ns, self.last_due_ns)
            delivery = Delivery.__new__(Delivery)
            delivery.callback, delivery.args = "a parcel", ()
            delivery.context = self.loop.context
            delivery.goal = self if back else self.peer
            delivery.data, delivery.end = data, end
            delivery.epoch = delivery.goal.epoch
            delivery.goal.held += len(delivery.data)
            self.loop._push(delivery, self.last_due_ns)

    cpdef arrive(self, int64_t epoch, bytes data, str end):
        """Take what comes from under way."""
        if epoch != self.epoch:
            return
        if len(self.inbox) or self.paused or self.closing or end:
            if data:
                self.inbox.append(data)
            self.end = end or self.end
            if end == "reset" and not data:
                self.meet_reset()
            else:
                self.look()
            return
        self.held -= len(data)
        self.give(data)

    cpdef look(self):
        """Deliver on the next turn, if there is something to deliver."""
        if not self.due and (len(self.inbox) or self.end):
            self.due = True
            self.loop.ready.append(self.standing)

    cpdef deliver(self):
        """Give the protocol what has come, and when nothing is left, the end."""
        cdef list inbox = self.inbox
        self.due = False
        if self.closing:
            self.refuse()
        elif len(inbox) and not self.paused:
            data = inbox[0] if len(inbox) == 1 else b"".join(inbox)
            inbox.clear()
            self.held -= len(<bytes>data)
            self.give(data)
            if self.end:
                self.look()
        elif self.end == "reset":
            self.meet_reset()
        elif self.end == "eof" and not self.paused:
            self.end = ""
            self.meet_eof()

    cdef int give(self, data) except -1:
        """Let the protocol have bytes, and the other end know."""
        cdef object receive = self.receive  # it may be replaced meanwhile
        try:
            receive(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fail(error, "Fatal error: protocol.data_received() call failed.")
        if self.peer.writing_paused or self.peer.closing:
            self.peer.drained()
        return 0
