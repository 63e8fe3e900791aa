"""What a Modbus request means: units, the checks of a request, and its reply, without any framing.

Rule of this file: no frame, stream, socket or clock; a request PDU comes whole, its reply PDU goes back whole.
Registers belong to units, which are only called; what the bytes of a request alone tell is in _pdu.h.

A unit is any object with two methods (`Unit` in _pdu.pyi):

- ``read(address, count) -> bytes | int``: the registers as ``2 * count`` bytes, big-endian, or a Modbus exception
  code.  `count` is 1..125 and ``address + count`` is at most 65536.
- ``write(address, data) -> int``: 0 when every register of `data` was written, or a Modbus exception code when
  none was.  `data` holds 1..123 registers and ends at 65536 at the latest.

It may have more, looked up once when it is handed over:

- ``functions``: the function codes it serves; without it, 3, 6 and 16.  Function 4 reads what 3 reads; 22 and
  23 are made of `read` and `write`; 8 echoes (sub-function 0 alone).
- ``read_bits(address, count, inputs) -> bytes | int`` for 1 and 2, ``write_bits(address, count, data) -> int``
  for 5 and 15: the first bit is the lowest of the first byte, as on the wire.
- ``identify() -> Mapping[int, bytes]``: the objects of function 43/14.
- ``asks_reader = True``: its `read` is called with a third argument, the `Reader` that asks, so that one
  snapshot can go on over several reads.

A unit that lists a function but lacks the method for it does not serve it.  A compiled unit may derive from
`Registers` and is then read without its `read`.

What is answered ("Modbus Application Protocol V1.1b3"):

- Checks run in this order: function code (01), size and quantity (03), address past 65535 (02), rights (01),
  then the unit.
- All or nothing: function 23 reads before it writes, so that a range that cannot be read stops the write too.
- A unit that raises, or answers nonsense, is a bug of ours: the client gets exception 04 and `last_error` keeps
  the exception.  Whoever drives the server must surface it.
"""

from types import FunctionType

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from .errors import InvariantError, ScenarioError

cdef extern from "_pdu.h":
    enum:
        RT_READ_COILS
        RT_READ_INPUTS
        RT_READ_HOLDING
        RT_READ_INPUT_REGISTERS
        RT_WRITE_COIL
        RT_WRITE_SINGLE
        RT_DIAGNOSTICS
        RT_WRITE_COILS
        RT_WRITE_MULTIPLE
        RT_MASK_WRITE
        RT_READ_WRITE
        RT_ENCAPSULATED
        RT_ILLEGAL_FUNCTION
        RT_ILLEGAL_ADDRESS
        RT_DEVICE_FAILURE
        RT_PDU_MAX
    ctypedef struct rt_request_t:
        bint misfit
        int address
        int count
        int write_address
        int write_count
        const unsigned char *values
    int rt_bit_bytes(int count) noexcept nogil
    int rt_parse(const unsigned char *pdu, int size, rt_request_t *request) noexcept nogil

cdef enum:
    SERIAL_UNIT_MAX = 247
    OBJECTS_MAX = RT_PDU_MAX - 7  # bytes of identification objects that fit one reply

SUNSPEC_FUNCTIONS = frozenset({RT_READ_HOLDING, RT_WRITE_SINGLE, RT_WRITE_MULTIPLE})
_NEEDS = {
    RT_READ_COILS: "read_bits",
    RT_READ_INPUTS: "read_bits",
    RT_WRITE_COIL: "write_bits",
    RT_WRITE_COILS: "write_bits",
    RT_ENCAPSULATED: "identify",
}
FUNCTIONS = SUNSPEC_FUNCTIONS.union(
    _NEEDS, (RT_READ_INPUT_REGISTERS, RT_DIAGNOSTICS, RT_MASK_WRITE, RT_READ_WRITE)
)


cdef class Reader:
    """Whoever reads: one connection, or one serial line; `latch` is for the units' own use."""


cdef class Registers:
    """A unit whose registers the core fetches straight into the reply.

    A Python subclass that overrides `read` is asked by its `read` all the same.
    """

    cdef int fetch(self, Reader reader, int address, int count, unsigned char *out) except -1:
        """Write `count` registers from `address` on to `out`; return 0, or an exception code."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its registers are fetched")


cdef class Slot:
    """One unit, and what was looked up once."""

    def __init__(self, int unit_id, unit):
        functions = frozenset(getattr(unit, "functions", SUNSPEC_FUNCTIONS))
        if not functions <= FUNCTIONS:
            raise ScenarioError(
                f"units: functions {sorted(functions - FUNCTIONS, key=str)} found at unit id {unit_id}; "
                f"allowed are {', '.join(map(str, sorted(FUNCTIONS)))}"
            )
        self.unit = unit
        self.asks_reader = getattr(unit, "asks_reader", False)
        if isinstance(unit, Registers) and not isinstance(getattr(type(unit), "read", None), FunctionType):
            self.fast = unit
        for code in functions:
            if hasattr(unit, _NEEDS.get(code, "read")):
                self.served |= <uint64_t>1 << <int>code


cdef class Units:
    """The units behind one server, looked up once; the connections of a server can share it.

    Parameters
    ----------
    units : Mapping[int, Unit]
        By unit id: 0..255, or 1..247 on a serial line.  The mapping is copied.
    serial : bool
        Without this, the first unit answers for ids 0 and 255 as well, unless the mapping names them.

    Raises
    ------
    ScenarioError
        `units` is empty, has a key that is no unit id, or a unit lists a function that is not known here.
    """

    def __init__(self, units, *, bint serial=False):
        cdef int low = 1 if serial else 0
        cdef int high = SERIAL_UNIT_MAX if serial else 255
        cdef int k
        for k in range(256):
            self.places[k] = -1
        self.serial = serial
        made = {}
        for unit_id, unit in units.items():
            if type(unit_id) is not int or not low <= unit_id <= high:
                raise ScenarioError(
                    f"units: unit id {unit_id!r} found; allowed are whole numbers {low}..{high}"
                )
            if id(unit) not in made:
                made[id(unit)] = len(made), Slot(unit_id, unit)
            self.places[unit_id] = made[id(unit)][0]
        self.distinct = [slot for _, slot in made.values()]
        if not made:
            raise ScenarioError(
                f"units: none found; a Modbus server needs at least one, with a unit id of {low}..{high}"
            )
        if not serial:
            for unit_id in (0, 255):
                if self.places[unit_id] < 0:
                    self.places[unit_id] = 0


cdef int refuse(const unsigned char *pdu, int code, unsigned char *out) noexcept nogil:
    """Write the exception reply with `code` to the request `pdu`; return its size."""
    out[0] = pdu[0] | 0x80
    out[1] = code
    return 2


cdef int exception_code(object answer) except -1:
    """Check that a unit's answer is a Modbus exception code, and return it."""
    if not isinstance(answer, int) or not 1 <= answer <= 255:
        raise InvariantError(f"a unit answered {answer!r}; allowed are registers or an exception code 1..255")
    return answer


cdef int copied(object answer, int size, unsigned char *out) except -1:
    """Copy what a unit answered to a read, `size` bytes, and return 0; or return its exception code."""
    if type(answer) is not bytes:
        return exception_code(answer)
    if PyBytes_GET_SIZE(answer) != size:
        raise InvariantError(f"a unit answered {len(answer)} bytes to a read; {size} are needed")
    memcpy(out, PyBytes_AS_STRING(answer), size)
    return 0


cdef int done(object answer) except -1:
    """Return what a unit answered to a write: 0, or an exception code."""
    if type(answer) is int and answer == 0:
        return 0
    return exception_code(answer)


cdef inline void clear_padding(unsigned char *bits, int count) noexcept nogil:
    """Clear what follows `count` bits in their last byte: "padded with zeros (toward the high order end)"."""
    if count % 8:
        bits[count // 8] &= (1 << count % 8) - 1


cdef int check_objects(objects) except -1:
    for number, value in objects.items():
        if type(number) is not int or not 0 <= number <= 255 or type(value) is not bytes:
            raise InvariantError(f"identify: object {number!r} is {value!r}; needed are 0..255 and bytes")
        if len(value) > OBJECTS_MAX - 2:
            raise InvariantError(f"identify: object {number} has {len(value)} bytes; {OBJECTS_MAX - 2} fit")
    return 0


cdef int identification(dict objects, int code, int wanted, unsigned char *out) except -1:
    """Write the reply to function 43/14; return its size, or 0 where no such object is.

    `code` 1, 2 and 3 begin a stream of the basic, regular or all objects at `wanted`, or at the first object if
    there is none of that number; 4 asks for that one object (Application Protocol V1.1b3, 6.21).
    """
    cdef int size = 7, room = RT_PDU_MAX
    cdef list chosen
    check_objects(objects)
    level = 0 if not objects else 1 + (max(objects) > 0x02) + (max(objects) > 0x7F)
    if code == 4:
        chosen = [wanted] if wanted in objects else []
    else:
        chosen = sorted(number for number in objects if number <= (0x02, 0x7F, 0xFF)[code - 1])
        if wanted in chosen:
            chosen = chosen[chosen.index(wanted):]
    if not chosen:
        return 0
    memcpy(out, b"\x2b\x0e", 2)
    out[2] = code
    out[3] = 0x80 | <int>level  # with bit 7: single objects can be asked for as well
    out[4], out[5], out[6] = 0, 0, 0
    for number in chosen:
        value = <bytes>objects[number]
        if size + 2 + len(value) > room:
            out[4], out[5] = 0xFF, number  # more follows, from this object on
            break
        out[size] = number
        out[size + 1] = len(value)
        memcpy(out + size + 2, PyBytes_AS_STRING(value), len(value))
        size += 2 + <int>len(value)
        out[6] += 1
    return size


cdef bint allowed(rights, int unit_id, int function, const rt_request_t *request) except -1:
    """Ask for the rights; of function 23 for what it writes, and as function 3 for what it reads."""
    allows = rights.allows
    if function == RT_READ_WRITE:
        return bool(
            allows(unit_id, function, request.write_address, request.write_count)
            and allows(unit_id, RT_READ_HOLDING, request.address, request.count)
        )
    return bool(allows(unit_id, function, request.address, request.count))


cdef int fetch(Reader reader, Slot slot, int address, int count, unsigned char *out) except -1:
    """Read registers into `out`; return 0, or an exception code."""
    cdef int code
    if slot.fast is None:
        data = slot.unit.read(address, count, reader) if slot.asks_reader else slot.unit.read(address, count)
        return copied(data, 2 * count, out)
    code = slot.fast.fetch(reader, address, count, out)
    return 0 if code == 0 else exception_code(code)


cdef int write(Reader reader, Slot slot, int function, const rt_request_t *request) except -1:
    """Carry out a function that writes alone; return 0, or an exception code."""
    cdef unsigned char data[256]
    cdef int code, k, size = 2 * request.count
    if function == RT_WRITE_COIL:
        return done(slot.unit.write_bits(request.address, 1, b"\1" if request.values[0] else b"\0"))
    if function == RT_WRITE_COILS:
        size = rt_bit_bytes(request.count)
        memcpy(data, request.values, size)
        clear_padding(data, request.count)
        bits = PyBytes_FromStringAndSize(<const char *>data, size)
        return done(slot.unit.write_bits(request.address, request.count, bits))
    memcpy(data, request.values, size)
    if function == RT_MASK_WRITE:
        code = fetch(reader, slot, request.address, 1, data)
        if code != 0:
            return code
        for k in range(2):  # "(current AND and-mask) OR (or-mask AND (NOT and-mask))"
            data[k] = (data[k] & request.values[k]) | (request.values[k + 2] & ~request.values[k])
    return done(slot.unit.write(request.address, PyBytes_FromStringAndSize(<const char *>data, size)))


cdef int read_write(Reader reader, Slot slot, const rt_request_t *request, unsigned char *out) except -1:
    """Write, then read; not without having read once, so that nothing is written if that cannot be done."""
    cdef int code = fetch(reader, slot, request.address, request.count, out)
    if code != 0:
        return code
    data = PyBytes_FromStringAndSize(<const char *>request.values, 2 * request.write_count)
    code = done(slot.unit.write(request.write_address, data))
    return fetch(reader, slot, request.address, request.count, out) if code == 0 else code


cdef int execute(
    Reader reader, Slot slot, const unsigned char *pdu, int size, const rt_request_t *request, unsigned char *out
) except -1:
    cdef int function = pdu[0]
    cdef int code
    out[0] = function
    if function == RT_READ_HOLDING or function == RT_READ_INPUT_REGISTERS:
        out[1] = 2 * request.count
        size = 2 + out[1]
        code = fetch(reader, slot, request.address, request.count, out + 2)
    elif function == RT_READ_WRITE:
        out[1] = 2 * request.count
        size = 2 + out[1]
        code = read_write(reader, slot, request, out + 2)
    elif function == RT_READ_COILS or function == RT_READ_INPUTS:
        out[1] = rt_bit_bytes(request.count)
        size = 2 + out[1]
        answer = slot.unit.read_bits(request.address, request.count, function == RT_READ_INPUTS)
        code = copied(answer, out[1], out + 2)
        if code == 0:
            clear_padding(out + 2, request.count)
    elif function == RT_ENCAPSULATED:
        size = identification(dict(slot.unit.identify()), pdu[2], pdu[3], out)
        code = 0 if size else RT_ILLEGAL_ADDRESS
    else:  # the rest is echoed: function 8 and all writes, those of many without their values
        code = 0 if function == RT_DIAGNOSTICS else write(reader, slot, function, request)
        size = 5 if function == RT_WRITE_COILS or function == RT_WRITE_MULTIPLE else size
        memcpy(out, pdu, size)
    return size if code == 0 else refuse(pdu, code, out)


cdef class Engine(Reader):
    """Carries out one request at a time, whatever it came by."""

    cdef int reply(self, Slot slot, int unit_id, const unsigned char *pdu, int size, unsigned char *out) except -1:
        """Carry out a request PDU and write the reply PDU to `out`, which holds 253 bytes; return its size."""
        cdef rt_request_t request
        cdef int code
        if pdu[0] > 63 or not slot.served >> pdu[0] & 1:
            return refuse(pdu, RT_ILLEGAL_FUNCTION, out)
        code = rt_parse(pdu, size, &request)
        self.suspect = request.misfit
        if code != 0:
            return refuse(pdu, code, out)
        try:
            if self.rights is not None and not allowed(self.rights, unit_id, pdu[0], &request):
                return refuse(pdu, RT_ILLEGAL_FUNCTION, out)
            return execute(self, slot, pdu, size, &request, out)
        except Exception as error:
            self.last_error = error
            return refuse(pdu, RT_DEVICE_FAILURE, out)
