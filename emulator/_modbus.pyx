"""Modbus server without I/O: bytes of one TCP connection in, bytes of the replies out.

Rule of this file: no socket, no clock, no asyncio, nothing that depends on how the stream was cut into pieces.
One `Connection` holds at most one incomplete frame (260 bytes).  Registers belong to units, which it only calls.

A unit is any object with two methods (`Unit` in _modbus.pyi):

- ``read(address, count) -> bytes | int``: the registers as ``2 * count`` bytes, big-endian, or a Modbus exception
  code.  `count` is 1..125 and ``address + count`` is at most 65536.
- ``write(address, data) -> int``: 0 when every register of `data` was written, or a Modbus exception code when
  none was.  `data` holds 1..123 registers and ends at 65536 at the latest.

What is answered (the wire's own rules: "Modbus Application Protocol V1.1b3", "Messaging on TCP/IP Guide V1.0b"):

- Function codes 3, 6 and 16; any other one gets exception 01 with the top bit of its function code set.
- Checks run in this order: unit, function code, size and quantity (03), address past 65535 (02), then the unit.
- Unit ids 0 and 255 mean the server itself and reach the first unit of the mapping, unless the mapping names
  them.  Any other absent unit id gets exception 0x0B, gateway target device failed to respond: we answer for
  several units as a gateway does, and a gateway cannot know what an absent device would have supported.
- There is no broadcast on TCP: a write to unit id 0 is an ordinary write, and is answered.
- A frame with a foreign protocol id is dropped by its length.  A length outside 2..254 ends the connection.
- A request whose size does not fit its MBAP length is answered with 03.  Either the client built it badly, and
  the next frame follows; or its length was wrong, and the stream is no longer in step.  The next header tells:
  if its protocol id is not 0 either, the connection ends instead of dropping frames that never were.
- A unit that raises, or answers nonsense, is a bug of ours: the client gets exception 04 and `last_error` keeps
  the exception.  Whoever drives the connection must surface it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from .errors import InvariantError, ScenarioError

cdef enum:
    HEADER = 6  # transaction id, protocol id, length: what must be known before the rest can be waited for
    LENGTH_MIN = 2  # unit id and function code
    LENGTH_MAX = 254  # unit id and a PDU of 253 bytes
    ADU_MAX = HEADER + LENGTH_MAX

    UNIT = 6  # places in a frame
    FUNCTION = 7
    ADDRESS = 8
    COUNT = 10
    BYTE_COUNT = 12
    VALUES = 13

    READ_HOLDING = 3
    WRITE_SINGLE = 6
    WRITE_MULTIPLE = 16
    READ_COUNT_MAX = 125
    WRITE_COUNT_MAX = 123

    ILLEGAL_FUNCTION = 0x01
    ILLEGAL_ADDRESS = 0x02
    ILLEGAL_VALUE = 0x03
    DEVICE_FAILURE = 0x04
    TARGET_SILENT = 0x0B


cdef inline int word(const unsigned char* place) noexcept nogil:
    return (place[0] << 8) | place[1]


cdef inline int frame_size(const unsigned char* header, bint suspect) noexcept nogil:
    """Return the size of the frame that `header` announces [bytes], or 0 if the stream cannot be trusted."""
    cdef int length = word(header + 4)
    if length < LENGTH_MIN or length > LENGTH_MAX:
        return 0
    if suspect and word(header + 2) != 0:
        return 0
    return HEADER + length


cdef inline void start_reply(unsigned char* reply, const unsigned char* frame, int size) noexcept nogil:
    """Fill in a reply of `size` bytes up to and including the function code."""
    memcpy(reply, frame, FUNCTION + 1)
    reply[4] = (size - HEADER) >> 8
    reply[5] = (size - HEADER) & 0xFF


cdef bytes refusal(const unsigned char* frame, int code):
    """Return the exception reply with `code` to the request `frame`."""
    cdef bytes reply = PyBytes_FromStringAndSize(NULL, FUNCTION + 2)
    cdef unsigned char* out = <unsigned char*>PyBytes_AS_STRING(reply)
    start_reply(out, frame, FUNCTION + 2)
    out[FUNCTION] |= 0x80
    out[FUNCTION + 1] = code
    return reply


cdef int exception_code(object answer) except -1:
    """Check that a unit's answer is a Modbus exception code, and return it."""
    if not isinstance(answer, int) or not 1 <= answer <= 255:
        raise InvariantError(f"a unit answered {answer!r}; allowed are registers or an exception code 1..255")
    return answer


cdef class Connection:
    """The server's end of one Modbus TCP connection.

    Parameters
    ----------
    units : Mapping[int, Unit]
        The units behind this server by unit id, 0..255; the first one also answers for the server itself.
        The mapping is copied.

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
        `units` is empty or has a key that is no unit id.
    """

    cdef readonly bint closed
    cdef readonly int pending
    cdef readonly long long frames
    cdef public object last_error
    cdef dict units
    cdef bint suspect
    cdef unsigned char held[ADU_MAX]

    def __init__(self, units):
        self.units = dict(units)
        if not self.units:
            raise ScenarioError("units: none found; a Modbus server needs at least one, with a unit id of 0..255")
        for unit_id in self.units:
            if type(unit_id) is not int or not 0 <= unit_id <= 255:
                raise ScenarioError(f"units: unit id {unit_id!r} found; allowed are whole numbers 0..255")
        first = next(iter(self.units.values()))
        self.units.setdefault(0, first)
        self.units.setdefault(255, first)

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
        cdef const unsigned char* source = <const unsigned char*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t taken = 0
        cdef int wanted
        cdef list replies = []
        if self.pending > 0 and not self.closed:
            taken = self._complete(source, size, replies)
        while not self.closed and size - taken >= HEADER:
            wanted = frame_size(source + taken, self.suspect)
            if wanted == 0:
                self._end()
            elif wanted > size - taken:
                break
            else:
                self._answer(source + taken, wanted, replies)
                taken += wanted
        if taken < size and not self.closed:  # less than a header, or less than the frame its header announces
            self.pending = <int>(size - taken)
            memcpy(self.held, source + taken, self.pending)
        return b"".join(replies)

    cdef Py_ssize_t _complete(self, const unsigned char* source, Py_ssize_t size, list replies) except -1:
        """Complete the held frame from `source`; return how many bytes of it were used."""
        cdef Py_ssize_t taken = 0
        cdef Py_ssize_t step
        cdef int wanted
        while self.pending > 0 and taken < size:
            # A held header was checked when it became complete, so its frame size is never 0 here.
            wanted = HEADER if self.pending < HEADER else HEADER + word(self.held + 4)
            step = min(<Py_ssize_t>(wanted - self.pending), size - taken)
            memcpy(self.held + self.pending, source + taken, step)
            self.pending += <int>step
            taken += step
            if self.pending == HEADER:
                if frame_size(self.held, self.suspect) == 0:
                    self._end()
            elif self.pending == wanted:
                self.pending = 0
                self._answer(self.held, wanted, replies)
        return taken

    cdef void _end(self) noexcept:
        self.closed = True
        self.pending = 0

    cdef int _answer(self, const unsigned char* frame, int size, list replies) except -1:
        """Answer one whole frame."""
        cdef int function = frame[FUNCTION]
        self.frames += 1
        self.suspect = False
        if word(frame + 2) != 0:
            return 0
        unit = self.units.get(frame[UNIT])
        if unit is None:
            replies.append(refusal(frame, TARGET_SILENT))
        elif function == READ_HOLDING:
            replies.append(self._read(unit, frame, size))
        elif function == WRITE_SINGLE:
            replies.append(self._write_single(unit, frame, size))
        elif function == WRITE_MULTIPLE:
            replies.append(self._write_multiple(unit, frame, size))
        else:
            replies.append(refusal(frame, ILLEGAL_FUNCTION))
        return 0

    cdef bytes _read(self, object unit, const unsigned char* frame, int size):
        cdef int address, count
        cdef bytes reply
        cdef unsigned char* out
        if size != COUNT + 2:
            self.suspect = True
            return refusal(frame, ILLEGAL_VALUE)
        address, count = word(frame + ADDRESS), word(frame + COUNT)
        if count < 1 or count > READ_COUNT_MAX:
            return refusal(frame, ILLEGAL_VALUE)
        if address + count > 0x10000:
            return refusal(frame, ILLEGAL_ADDRESS)
        try:
            answer = unit.read(address, count)
            if type(answer) is not bytes:
                return refusal(frame, exception_code(answer))
            if PyBytes_GET_SIZE(answer) != 2 * count:
                raise InvariantError(
                    f"a unit answered {len(answer)} bytes to a read of {count} registers at {address}; "
                    f"{2 * count} are needed"
                )
        except Exception as error:
            self.last_error = error
            return refusal(frame, DEVICE_FAILURE)
        reply = PyBytes_FromStringAndSize(NULL, FUNCTION + 2 + 2 * count)
        out = <unsigned char*>PyBytes_AS_STRING(reply)
        start_reply(out, frame, FUNCTION + 2 + 2 * count)
        out[FUNCTION + 1] = 2 * count
        memcpy(out + FUNCTION + 2, PyBytes_AS_STRING(answer), 2 * count)
        return reply

    cdef bytes _write_single(self, object unit, const unsigned char* frame, int size):
        if size != COUNT + 2:
            self.suspect = True
            return refusal(frame, ILLEGAL_VALUE)
        return self._write(unit, frame, frame + COUNT, 1)

    cdef bytes _write_multiple(self, object unit, const unsigned char* frame, int size):
        cdef int count
        if size < VALUES or size != VALUES + frame[BYTE_COUNT]:
            self.suspect = True
            return refusal(frame, ILLEGAL_VALUE)
        count = word(frame + COUNT)
        if count < 1 or count > WRITE_COUNT_MAX or frame[BYTE_COUNT] != 2 * count:
            return refusal(frame, ILLEGAL_VALUE)
        return self._write(unit, frame, frame + VALUES, count)

    cdef bytes _write(self, object unit, const unsigned char* frame, const unsigned char* values, int count):
        """Write `count` registers.

        The reply repeats the address and the word after it: the value of function 6, the count of function 16.
        """
        cdef int address = word(frame + ADDRESS)
        cdef bytes reply
        cdef unsigned char* out
        if address + count > 0x10000:
            return refusal(frame, ILLEGAL_ADDRESS)
        try:
            answer = unit.write(address, PyBytes_FromStringAndSize(<const char*>values, 2 * count))
            if type(answer) is not int or answer != 0:
                return refusal(frame, exception_code(answer))
        except Exception as error:
            self.last_error = error
            return refusal(frame, DEVICE_FAILURE)
        reply = PyBytes_FromStringAndSize(<const char*>frame, COUNT + 2)
        out = <unsigned char*>PyBytes_AS_STRING(reply)
        start_reply(out, frame, COUNT + 2)
        return reply
