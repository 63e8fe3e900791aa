"""Modbus server without I/O: bytes of one connection or serial line in, bytes of the replies out.

Rule of this file: no socket, no clock, no asyncio, nothing that depends on how a stream was cut into pieces.
One `Connection` holds at most one incomplete frame (260 bytes).  What a request means, and what units are, is in
_pdu.pyx; here are the frames around it.

On TCP ("Messaging on TCP/IP Guide V1.0b"):

- Unit ids 0 and 255 mean the server itself and reach the first unit of the mapping, unless the mapping names
  them.  Any other absent unit id gets exception 0x0B, gateway target device failed to respond, or what `absent`
  says: we answer for several units as a gateway does, and a gateway cannot know what an absent device would
  have supported.
- There is no broadcast: a write to unit id 0 is an ordinary write, and is answered.
- A frame with a foreign protocol id is dropped by its length.  A length outside 2..254 ends the connection.
- A request whose size does not fit its MBAP length is answered with 03.  Either the client built it badly, and
  the next frame follows; or its length was wrong, and the stream is no longer in step.  The next header tells:
  if its protocol id is not 0 either, the connection ends instead of dropping frames that never were.

On a serial line ("Modbus over Serial Line V1.02"):

- A frame that is too short or too long, or whose check is wrong, is met with silence; so is one for an absent
  unit or for 248..255.  A request that is wrong inside a good frame gets its exception as on TCP.
- A write to unit id 0 goes to every unit and is not answered; anything else to 0 is ignored.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from ._pdu cimport Engine, Slot, Units, refuse

from .errors import ScenarioError

cdef extern from "_pdu.h":
    enum:
        RT_WRITE_COIL
        RT_WRITE_SINGLE
        RT_WRITE_COILS
        RT_WRITE_MULTIPLE
        RT_MASK_WRITE
        RT_PDU_MAX
    int rt_word(const unsigned char *place) noexcept nogil
    int rt_request_size(const unsigned char *pdu, int size) noexcept nogil
    int rt_crc16(const unsigned char *data, int64_t size) noexcept nogil
    int rt_lrc(const unsigned char *data, int64_t size) noexcept nogil

cdef enum:
    HEADER = 6  # transaction id, protocol id, length: what must be known before the rest can be waited for
    LENGTH_MIN = 2  # unit id and function code
    LENGTH_MAX = 1 + RT_PDU_MAX
    ADU_MAX = HEADER + LENGTH_MAX

    UNIT = 6  # places in a frame of TCP
    FUNCTION = 7

    TARGET_SILENT = 0x0B

    SERIAL_MIN = LENGTH_MIN  # the same on a serial line, without the check behind it
    SERIAL_MAX = LENGTH_MAX

_BROADCAST = frozenset({RT_WRITE_COIL, RT_WRITE_SINGLE, RT_WRITE_COILS, RT_WRITE_MULTIPLE, RT_MASK_WRITE})
_DIGITS = b"0123456789ABCDEF"


def crc16(bytes data not None):
    """Return the CRC of a binary frame on a serial line; its low byte is sent first."""
    return rt_crc16(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


def lrc(bytes data not None):
    """Return the check byte of a text frame on a serial line."""
    return rt_lrc(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


def rtu_request_size(bytes data not None):
    """Return the size of the binary request frame that begins with `data`, its unit id and CRC included.

    Returns
    -------
    int
        0 if `data` is too short to tell, -1 if requests of this function have no known size.  A frame can
        announce more than the 256 bytes that are allowed; `SerialServer.rtu` meets it with silence.
    """
    cdef Py_ssize_t held = min(PyBytes_GET_SIZE(data), <Py_ssize_t>SERIAL_MAX)
    cdef int size = rt_request_size(<const unsigned char *>PyBytes_AS_STRING(data) + 1, <int>held - 1)
    return size + 3 if size > 0 else size


cdef struct replies_t:
    unsigned char *data
    Py_ssize_t size
    Py_ssize_t room
    unsigned char first[4096]  # the replies to most pieces of a stream need no more


cdef int make_room(replies_t *out) except -1:
    """Make sure that one more reply fits."""
    cdef unsigned char *moved
    if out.room - out.size >= ADU_MAX:
        return 0
    moved = <unsigned char *>realloc(NULL if out.data == out.first else out.data, 2 * out.room)
    if moved == NULL:
        raise MemoryError
    if out.data == out.first:
        memcpy(moved, out.first, out.size)
    out.data = moved
    out.room *= 2
    return 0


cdef inline int frame_size(const unsigned char *header, bint suspect) noexcept nogil:
    """Return the size of the frame that `header` announces [bytes], or 0 if the stream cannot be trusted."""
    cdef int length = rt_word(header + 4)
    if length < LENGTH_MIN or length > LENGTH_MAX:
        return 0
    if suspect and rt_word(header + 2) != 0:
        return 0
    return HEADER + length


cdef class Stream(Engine):
    """Answers a stream of frames."""

    cdef bytes answer(self, const unsigned char *data, Py_ssize_t size):
        """Take the next bytes of the stream and return the replies to all requests that they complete."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its stream is answered")


cdef class Connection(Stream):
    """The server's end of one Modbus TCP connection.

    Parameters
    ----------
    units : Mapping[int, Unit] or Units
        The units behind this server by unit id, 0..255; the first one also answers for the server itself.
    absent : int
        Exception code for unit ids that are not there; 0 answers nothing, which no correct server does.
    rights : Rights, optional
        ``allows(unit_id, function, address, count)`` is asked before the unit is; False gives exception 01.

    Attributes
    ----------
    closed : bool
        The stream cannot be trusted any more: send what was returned, then close.  `receive` then ignores all.
    pending : int
        Size of the incomplete frame held, 0..259 [bytes].
    frames : int
        Frames completed so far, dropped ones included.
    last_error : Exception or None
        What a unit last raised or got wrong.  May be set back to None.

    Raises
    ------
    ScenarioError
        `units` is empty or has a key that is no unit id; `absent` is no exception code.
    """

    cdef int absent
    cdef unsigned char held[ADU_MAX]

    def __init__(self, units, *, absent=TARGET_SILENT, rights=None):
        self.units = units if isinstance(units, Units) else Units(units)
        if self.units.serial:
            raise ScenarioError("units: those of a serial line found; a TCP connection needs its own")
        if type(absent) is not int or not 0 <= absent <= 255:
            raise ScenarioError(f"absent: {absent!r} found; allowed are exception codes 1..255, or 0 for none")
        self.absent = absent
        self.rights = rights

    def receive(self, bytes data not None):
        """Take the next bytes of the stream and return the replies to all requests that they complete.

        Parameters
        ----------
        data : bytes
            Any piece of the stream; where it was cut makes no difference.

        Returns
        -------
        bytes
            The replies in the order of the requests; empty if no request was completed.
        """
        return self.answer(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef bytes answer(self, const unsigned char *data, Py_ssize_t size):
        cdef replies_t out
        out.data, out.size, out.room = out.first, 0, sizeof(out.first)
        try:
            self._take(data, size, &out, None, None)
            return PyBytes_FromStringAndSize(<const char *>out.data, out.size)
        finally:
            if out.data != out.first:
                free(out.data)

    def exchange(self, bytes data not None, admit=None):
        """Do as `receive` does, but return each request with its reply; for servers that misbehave on purpose.

        Parameters
        ----------
        data : bytes
            Any piece of the stream.
        admit : callable, optional
            Asked with each request before it is carried out: None carries it out, bytes are its reply instead.

        Returns
        -------
        list of (bytes, bytes)
            Request and reply, both as whole frames; the reply is empty where nothing is answered.  Frames with
            a foreign protocol id are no requests: neither asked for nor returned.
        """
        cdef replies_t out
        cdef const unsigned char *source
        cdef list pairs = []
        out.data, out.size, out.room = out.first, 0, sizeof(out.first)
        source = <const unsigned char *>PyBytes_AS_STRING(data)
        self._take(source, PyBytes_GET_SIZE(data), &out, pairs, admit)  # each reply is taken out at once: `out` never grows
        return pairs

    cdef int _take(
        self, const unsigned char *source, Py_ssize_t size, replies_t *out, list pairs, admit
    ) except -1:
        cdef Py_ssize_t taken = 0
        cdef int wanted
        if self.pending > 0 and not self.closed:
            taken = self._complete(source, size, out, pairs, admit)
        while not self.closed and size - taken >= HEADER:
            wanted = frame_size(source + taken, self.suspect)
            if wanted == 0:
                self._end()
            elif wanted > size - taken:
                break
            else:
                self._serve(source + taken, wanted, out, pairs, admit)
                taken += wanted
        if taken < size and not self.closed:  # less than a header, or less than the frame its header announces
            self.pending = <int>(size - taken)
            memcpy(self.held, source + taken, self.pending)
        return 0

    cdef Py_ssize_t _complete(
        self, const unsigned char *source, Py_ssize_t size, replies_t *out, list pairs, admit
    ) except -1:
        """Complete the held frame from `source`; return how many bytes of it were used."""
        cdef Py_ssize_t taken = 0
        cdef Py_ssize_t step
        cdef int wanted
        while self.pending > 0 and taken < size:
            # A held header was checked when it became complete, so its frame size is never 0 here.
            wanted = HEADER if self.pending < HEADER else HEADER + rt_word(self.held + 4)
            step = min(<Py_ssize_t>(wanted - self.pending), size - taken)
            memcpy(self.held + self.pending, source + taken, step)
            self.pending += <int>step
            taken += step
            if self.pending == HEADER:
                if frame_size(self.held, self.suspect) == 0:
                    self._end()
            elif self.pending == wanted:
                self.pending = 0
                self._serve(self.held, wanted, out, pairs, admit)
        return taken

    cdef void _end(self) noexcept:
        self.closed = True
        self.pending = 0

    cdef int _serve(self, const unsigned char *frame, int size, replies_t *out, list pairs, admit) except -1:
        """Answer one whole frame into `out`, or into `pairs` if there is such a list."""
        self.frames += 1
        self.suspect = False
        if rt_word(frame + 2) != 0:
            return 0
        if pairs is None:
            return self._answer(frame, size, out)
        request = PyBytes_FromStringAndSize(<const char *>frame, size)
        instead = None if admit is None else admit(request)
        if instead is None:
            self._answer(frame, size, out)
            instead = PyBytes_FromStringAndSize(<const char *>out.data, out.size)
            out.size = 0
        elif type(instead) is not bytes:
            raise TypeError(f"admit returned {instead!r}; allowed are None and bytes")
        pairs.append((request, instead))
        return 0

    cdef int _answer(self, const unsigned char *frame, int size, replies_t *out) except -1:
        cdef Slot slot
        cdef int place = self.units.places[frame[UNIT]]
        cdef unsigned char *reply
        make_room(out)
        reply = out.data + out.size
        if place >= 0:
            slot = <Slot>self.units.distinct[place]
            size = self.reply(slot, frame[UNIT], frame + FUNCTION, size - FUNCTION, reply + FUNCTION)
        elif self.absent != 0:
            size = refuse(frame + FUNCTION, self.absent, reply + FUNCTION)
        else:
            return 0
        memcpy(reply, frame, 4)
        reply[4] = 0
        reply[5] = 1 + size
        reply[UNIT] = frame[UNIT]
        out.size += FUNCTION + size
        return 0


cdef class SerialServer(Engine):
    """The units of one serial line: one complete frame in, its reply out.

    Timing is the line's business: what a gap makes of a frame is not known here.

    Parameters
    ----------
    units : Mapping[int, Unit]
        By unit id, 1..247.

    Attributes
    ----------
    frames : int
        Frames taken so far whose form and check were right, for whatever unit.
    last_error : Exception or None
        What a unit last raised or got wrong.  May be set back to None.

    Raises
    ------
    ScenarioError
        `units` is empty or has a key that is no unit id of a serial line.
    """

    def __init__(self, units):
        self.units = Units(units, serial=True)

    def rtu(self, bytes frame not None):
        """Return the reply to a binary frame; empty for silence."""
        cdef const unsigned char *source = <const unsigned char *>PyBytes_AS_STRING(frame)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame) - 2
        cdef unsigned char out[SERIAL_MAX + 2]
        cdef int crc
        if not SERIAL_MIN <= size <= SERIAL_MAX:
            return b""
        if rt_crc16(source, size) != (source[size] | source[size + 1] << 8):
            return b""
        size = self._serve(source, <int>size, out)
        if size == 0:
            return b""
        crc = rt_crc16(out, size)
        out[size] = crc & 0xFF
        out[size + 1] = crc >> 8
        return PyBytes_FromStringAndSize(<const char *>out, size + 2)

    def ascii(self, bytes line not None):
        """Return the reply to a text line, from ``:`` to CR LF; empty for silence.

        What precedes the last ``:`` is ignored: a colon begins a frame, wherever it comes.  Digits are 0-9 and
        A-F, as the serial line guide has them.
        """
        cdef unsigned char out[SERIAL_MAX + 1]
        cdef bytes frame
        cdef Py_ssize_t size
        before, colon, text = line.rpartition(b":")
        if not colon or not text.endswith(b"\r\n"):
            return b""
        text = text.removesuffix(b"\r\n")
        if len(text) % 2 or text.strip(_DIGITS):
            return b""
        frame = bytes.fromhex(text.decode("ascii"))
        size = len(frame) - 1
        if not SERIAL_MIN <= size <= SERIAL_MAX or lrc(frame) != 0:
            return b""
        size = self._serve(<const unsigned char *>PyBytes_AS_STRING(frame), <int>size, out)
        if size == 0:
            return b""
        out[size] = rt_lrc(out, size)
        return b":%b\r\n" % PyBytes_FromStringAndSize(<const char *>out, size + 1).hex().upper().encode()

    cdef int _serve(self, const unsigned char *frame, int size, unsigned char *out) except -1:
        """Answer a frame without its check into `out`; return the size of the reply, 0 for silence."""
        cdef int place = self.units.places[frame[0]]
        cdef Slot slot
        self.frames += 1
        if frame[0] == 0:
            if frame[1] in _BROADCAST:
                for slot in self.units.distinct:
                    self.reply(slot, 0, frame + 1, size - 1, out)
            return 0
        if place < 0:
            return 0
        out[0] = frame[0]
        return 1 + self.reply(<Slot>self.units.distinct[place], frame[0], frame + 1, size - 1, out + 1)
