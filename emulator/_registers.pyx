"""Register image of one unit: what the plant is, as SunSpec registers, in one pass.

Duty: encode the quantities a client reads into the unit's registers, all from one instant of the plant, so
that one read is one snapshot and a point agrees with its neighbours.  `_measure.h` computes the quantities,
once per change of the plant; only the points that a read asks for are encoded, and those once.  Points that
change with settings alone, such as curves, are bytes that `poke` has put there.

One snapshot over several reads.  A model of more than 125 registers takes a client two reads or more, and a
number that spans registers can be cut by the end of a read.  What such a read leaves is kept as it was at
that instant (`Latch`), and the same reader's next read gets it if it goes on exactly where the last one
ended.  Any other read of that reader drops it, as does a write to the unit, and 1 s of bench time.

Rules of this file: no SunSpec model, address or scale factor is known here; layout.py hands them over as a
PointTable.  No clock, no I/O.  A value that is not a number, or does not fit its register, becomes the
register's "not implemented" pattern: never a clipped or wrapped one.  Rounding is half to even; states of
charge and available energies are rounded down, because a client must never see more than there is.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cython cimport freelist, no_gc
from libc.math cimport floor, rint
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from ._pdu cimport Reader, Registers

cdef extern from "_fields.h":
    enum:
        RT_LANES
        RT_TICKS_PER_S
        PARAM_COUNT
        CONTROL_COUNT
        INPUT_COUNT
        STATE_COUNT
        CONTROL_pf_ena
        STATE_elapsed_ticks

cdef extern from "_measure.h":
    enum:
        QUANTITY_COUNT
        HELD_COUNT
        CONSTANT_COUNT
    const char **RT_QUANTITY_NAMES
    const char **RT_SETTING_NAMES
    const char **RT_CONSTANT_NAMES
    void rt_measure(const double *p, const double *c, const double *u, const double *s, const double *k,
                    double *held, double *q) nogil

cdef enum:
    ILLEGAL_ADDRESS = 2
    FORM_NEAREST = 0
    FORM_DOWN = 1
    FORM_FLOAT = 2

NEAREST, DOWN, FLOAT = FORM_NEAREST, FORM_DOWN, FORM_FLOAT
"""How registers show a value: rounded half to even, rounded down, or as an IEEE 754 float."""


def quantity_names():
    """Return the dynamic quantities a point can show, in order."""
    return tuple([RT_QUANTITY_NAMES[k].decode() for k in range(QUANTITY_COUNT)])


def setting_names():
    """Return what the registers hold and the plant does not, in order."""
    return tuple([RT_SETTING_NAMES[k].decode() for k in range(HELD_COUNT)])


def constant_names():
    """Return the constants of a profile that a RegisterImage needs, in order."""
    return tuple([RT_CONSTANT_NAMES[k].decode() for k in range(CONSTANT_COUNT)])


ctypedef struct point_t:
    int offset  # of its first byte in the image
    int quantity
    int bytes
    int form
    double factor  # register = quantity * factor / divisor: both are exact powers of ten
    double divisor
    double low
    double high
    uint64_t blank

ctypedef struct cut_t:  # what a read leaves that ends before one register
    int number_end  # register behind the number that it cuts, 0 for none
    int body_begin, body_end  # of the body that it cuts, 0 for none


cdef inline uint64_t _float_bits(const point_t *point, double value) noexcept nogil:
    cdef float single
    cdef uint32_t narrow
    cdef uint64_t wide
    if point.bytes == 4:
        single = <float>value
        memcpy(&narrow, &single, 4)
        return narrow
    memcpy(&wide, &value, 8)
    return wide


cdef inline uint64_t _encode(const point_t *point, double value) noexcept nogil:
    cdef double register
    if point.form == FORM_FLOAT:
        register = value * point.factor / point.divisor
    elif point.form == FORM_DOWN:
        register = floor(value * point.factor / point.divisor)
        # The product is rounded: step to the greatest register that is still not above the value.
        if register * point.divisor / point.factor > value:
            register -= 1.0
        elif (register + 1.0) * point.divisor / point.factor <= value:
            register += 1.0
    else:
        register = rint(value * point.factor / point.divisor)
    if not (point.low <= register <= point.high):
        return point.blank
    if point.form == FORM_FLOAT:
        return _float_bits(point, register)
    return <uint64_t><int64_t>register


cdef inline void _store(unsigned char *image, const point_t *point, uint64_t register) noexcept nogil:
    cdef int k
    for k in range(point.bytes):
        image[point.offset + k] = (register >> (8 * (point.bytes - 1 - k))) & 0xFF


cdef list _spans(what, pairs):
    """Return pairs of registers, which must follow one another."""
    before = 0
    for k, (begin, end) in enumerate(pairs):
        if not before <= begin < end:
            raise ValueError(f"{what} {k}: {begin} to {end} is empty or not behind the one before, to {before}")
        before = end
    return list(pairs)


cdef class PointTable:
    """How each dynamic point of a layout is encoded; shared by all units of one layout.

    Parameters
    ----------
    rows : sequence of tuple
        Per point, in map order: byte offset, index in `quantity_names()`, size in bytes (2, 4 or 8), `NEAREST`,
        `DOWN` or `FLOAT`, factor, divisor, least and greatest register value, pattern that means "not
        implemented".
    bodies : sequence of (int, int)
        Registers of the image, first and one behind the last, of what one read cannot take whole and must
        still be of one instant: long models without their headers.
    numbers : sequence of (int, int)
        The same of numbers that span registers.
    """

    cdef point_t *points
    cdef cut_t *cuts  # by register; behind the last one nothing is cut
    cdef int cut_count
    cdef readonly int count

    def __cinit__(self, rows, bodies=(), numbers=()):
        cdef int k, end = 0
        self.count = len(rows)
        self.points = <point_t *>malloc(max(self.count, 1) * sizeof(point_t))
        if self.points == NULL:
            raise MemoryError
        for k, (offset, quantity, size, form, factor, divisor, low, high, blank) in enumerate(rows):
            if not 0 <= quantity < QUANTITY_COUNT or size not in (2, 4, 8) or offset < 0:
                raise ValueError(f"row {k}: no such quantity {quantity}, size {size} or offset {offset}")
            _check_form(form, size)
            if offset < end:
                raise ValueError(f"row {k}: offset {offset} is not behind the row before, which ends at {end}")
            end = offset + size
            self.points[k] = point_t(offset, quantity, size, form, factor, divisor, low, high, blank)
        self._note_cuts(_spans("body", bodies), _spans("number", numbers))

    def __dealloc__(self):
        free(self.points)
        free(self.cuts)

    cdef int _note_cuts(self, list bodies, list numbers) except -1:
        """Work out for every register what a read that ends before it cuts."""
        cdef int begin, end, k
        self.cut_count = max([end for _, end in bodies + numbers], default=0)
        self.cuts = <cut_t *>calloc(max(self.cut_count, 1), sizeof(cut_t))
        if self.cuts == NULL:
            raise MemoryError
        for begin, end in bodies:
            for k in range(begin + 1, end):
                self.cuts[k].body_begin, self.cuts[k].body_end = begin, end
        for begin, end in numbers:
            for k in range(begin + 1, end):
                self.cuts[k].number_end = end
        return 0

    cdef int end(self):
        """Return the first byte behind all points."""
        return self.points[self.count - 1].offset + self.points[self.count - 1].bytes if self.count else 0

    cdef int first(self, int offset) noexcept nogil:
        """Return the first row that ends behind byte `offset`."""
        cdef int low = 0, high = self.count, middle
        while low < high:
            middle = (low + high) // 2
            if self.points[middle].offset + self.points[middle].bytes > offset:
                high = middle
            else:
                low = middle + 1
        return low

    cdef int end_of_snapshot(self, int first, int stop) noexcept nogil:
        """Return the register up to which a read from `first` to before `stop` must be kept at one instant."""
        cdef const cut_t *cut
        if stop >= self.cut_count:
            return stop
        cut = &self.cuts[stop]
        if first <= cut.body_begin and cut.body_end > 0:
            return cut.body_end
        return cut.number_end if cut.number_end > 0 else stop


cdef int _check_form(int form, int size) except -1:
    if not FORM_NEAREST <= form <= FORM_FLOAT or (form == FORM_FLOAT and size == 2):
        raise ValueError(f"no such form {form} of {size} bytes")
    return 0


def encode(double value, int size, int form, double factor, double divisor, double low, double high, blank):
    """Return the register bytes of one value; `blank` when it is not a number or out of range."""
    cdef unsigned char image[8]
    cdef point_t point = point_t(0, 0, size, form, factor, divisor, low, high, blank)
    if size not in (2, 4, 8):
        raise ValueError(f"size must be 2, 4 or 8 bytes, got {size}")
    _check_form(form, size)
    _store(image, &point, _encode(&point, value))
    return image[:size]


def decode(const unsigned char[::1] data, bint signed):
    """Return the integer that 1, 2 or 4 big-endian registers hold."""
    cdef uint64_t register = 0
    cdef Py_ssize_t k
    if data.shape[0] not in (2, 4, 8):
        raise ValueError(f"need 2, 4 or 8 bytes, got {data.shape[0]}")
    for k in range(data.shape[0]):
        register = register << 8 | data[k]
    if signed:
        register <<= 64 - 8 * data.shape[0]
        return <int64_t>register >> (64 - 8 * data.shape[0])  # carries the sign down
    return register


@no_gc  # refers to nothing that refers to it
@freelist(8)
cdef class Latch:
    """What a read has left of a snapshot, for the reader's next read.

    Attributes
    ----------
    unit : Registers
    at : int
        Register of the image that comes next.
    rest, done : bytes, int
        Registers that were left, and how many bytes of them were read since.
    ticks, writes : float, int
        Bench time, and writes to the unit until then.
    """

    cdef Registers unit
    cdef int at
    cdef bytes rest
    cdef Py_ssize_t done
    cdef double ticks
    cdef int64_t writes


cdef class RegisterImage(Registers):
    """Registers of one unit, kept in step with its plant.

    Parameters
    ----------
    plant : Plant
        Only its arrays, `n` and `changes` are used here.
    device : int
        Position in the plant.
    base_address : int
        Address of the first register.
    initial : bytes
        The whole image; dynamic points are overwritten.
    table : PointTable
    constants : sequence of float
        In the order of `constant_names()`.
    held : ndarray of float64
        In the order of `setting_names()`; shared with whoever writes them.
    """

    cdef tuple arrays  # what the pointers point into
    cdef const double *param  # of this device; fields lie RT_LANES apart
    cdef const double *control
    cdef const double *input
    cdef const double *state
    cdef const int64_t *changes  # of the plant, whatever they were
    cdef double *held
    cdef PointTable table
    cdef double constants[CONSTANT_COUNT]
    cdef double quantities[QUANTITY_COUNT]
    cdef bytearray image  # never resized, so that the pointer holds
    cdef unsigned char *registers
    cdef int fresh_begin, fresh_end  # bytes of the image whose dynamic points are encoded
    cdef readonly int base_address, count
    cdef public bint watching  # call `follow` at every change of the plant
    cdef double settings[CONTROL_COUNT]  # as last seen
    cdef bint stale  # whatever the plant's version
    cdef int64_t seen, writes

    def __init__(self, plant, int device, int base_address, bytes initial, PointTable table, constants, held):
        cdef int k
        cdef double[::1] held_array = held
        cdef const int64_t[::1] changes = plant.changes
        if not 0 <= device < plant.n:
            raise ValueError(f"device must be 0 to {plant.n - 1}, got {device}")
        if len(constants) != CONSTANT_COUNT or held_array.shape[0] != HELD_COUNT:
            raise ValueError(f"need {CONSTANT_COUNT} constants and {HELD_COUNT} settings")
        if len(initial) % 2 or table.end() > len(initial):
            raise ValueError(f"points end at byte {table.end()}, the image has {len(initial)}")
        if not 0 <= base_address <= 65536 - len(initial) // 2:
            raise ValueError(f"{len(initial) // 2} registers do not fit behind address {base_address}")
        for k in range(CONSTANT_COUNT):
            self.constants[k] = constants[k]
        self.arrays = (plant.param, plant.control, plant.input, plant.state, plant.changes, held)
        self.param = _row(plant, plant.param, PARAM_COUNT, device)
        self.control = _row(plant, plant.control, CONTROL_COUNT, device)
        self.input = _row(plant, plant.input, INPUT_COUNT, device)
        self.state = _row(plant, plant.state, STATE_COUNT, device)
        self.changes = &changes[0]
        self.held = &held_array[0]
        self.base_address = base_address
        self.table = table
        self.image = bytearray(initial)
        self.registers = self.image
        self.count = len(initial) // 2
        self.stale = self.watching = True  # for the first time

    def refresh(self):
        """Compute all quantities anew if the plant has changed."""
        self._refresh()

    cdef int _refresh(self) except -1:
        cdef bint moved
        cdef int64_t version = self.changes[0]
        if version != self.seen or self.stale:
            moved = self._settings_moved()
            if moved or self.watching:
                self.follow(moved)
            rt_measure(self.param, self.control, self.input, self.state, self.constants, self.held,
                       self.quantities)
            self.fresh_begin = self.fresh_end = 0
            self.seen, self.stale = version, False
        return 0

    def follow(self, bint moved):
        """Bring what `poke` has put into the image up to date; for subclasses.

        Called when settings of the grid-support functions have moved in the plant, and at every change of it
        while `watching` is set.
        """

    cdef bint _settings_moved(self) noexcept nogil:
        """Compare the fields of CONTROL that follow from settings, the last of them, with those seen before."""
        cdef bint moved = False
        cdef int k
        for k in range(CONTROL_pf_ena, CONTROL_COUNT):
            moved |= self.control[k * RT_LANES] != self.settings[k]
            self.settings[k] = self.control[k * RT_LANES]
        return moved

    def expire(self):
        """Forget what was computed and what was kept for readers: the registers were written to."""
        self.stale = True
        self.writes += 1

    def poke(self, int offset, const unsigned char[::1] data):
        """Put bytes into the image, from byte `offset` on; a dynamic point there would be encoded over them."""
        cdef Py_ssize_t k
        if offset < 0 or offset + data.shape[0] > 2 * self.count:
            raise ValueError(f"{data.shape[0]} bytes at {offset} do not fit an image of {2 * self.count}")
        for k in range(data.shape[0]):
            self.registers[offset + k] = data[k]
        self.fresh_begin = self.fresh_end = 0

    def peek(self, int offset, int size):
        """Return bytes of the image as `poke` has left them."""
        if offset < 0 or size < 0 or offset + size > 2 * self.count:
            raise ValueError(f"{size} bytes at {offset} do not lie in an image of {2 * self.count}")
        return self.registers[offset : offset + size]

    cdef void _encode_between(self, int begin, int end) noexcept nogil:
        """Encode the dynamic points that lie, in part or whole, between two bytes of the image."""
        cdef const point_t *point = self.table.points
        cdef int k
        if self.fresh_begin <= begin and end <= self.fresh_end:
            return
        k = self.table.first(begin)
        while k < self.table.count and point[k].offset < end:
            _store(self.registers, &point[k], _encode(&point[k], self.quantities[point[k].quantity]))
            k += 1
        if begin <= self.fresh_end and self.fresh_begin <= end:
            self.fresh_begin, self.fresh_end = min(begin, self.fresh_begin), max(end, self.fresh_end)
        else:
            self.fresh_begin, self.fresh_end = begin, end

    def measure(self):
        """Return every quantity as it is now, before any rounding, by name."""
        self._refresh()
        return {name: self.quantities[index] for index, name in enumerate(quantity_names())}

    def read(self, int address, int count, Reader reader=None):
        """Return `count` registers from `address` on, as they are at one instant, or exception code 2.

        Parameters
        ----------
        address, count : int
            Absolute address and number of registers.
        reader : Reader, optional
            Who reads; with one, a snapshot can go on over several reads.

        Returns
        -------
        bytes or int
            2·count bytes, big-endian; 2 where a register lies outside the map.
        """
        cdef bytes data
        cdef int code
        if not 1 <= count <= self.count:
            return ILLEGAL_ADDRESS
        data = PyBytes_FromStringAndSize(NULL, 2 * count)
        code = self.fetch(reader, address, count, <unsigned char *>PyBytes_AS_STRING(data))
        return code if code else data

    cdef int fetch(self, Reader reader, int address, int count, unsigned char *out) except -1:
        """Put `count` registers from `address` on into `out`; as `read`, 0 for success."""
        cdef int first = address - self.base_address, served = 0
        if count < 1 or first < 0 or first > self.count - count:
            if reader is not None:
                reader.latch = None
            return ILLEGAL_ADDRESS
        self._refresh()
        if reader is not None and reader.latch is not None:
            served = self._serve_rest(reader, first, count, out)
        if served < count:
            self._encode_between(2 * (first + served), 2 * (first + count))
            memcpy(out + 2 * served, self.registers + 2 * (first + served), 2 * (count - served))
            if reader is not None:
                self._keep_rest(reader, first, first + count)
        return 0

    cdef int _serve_rest(self, Reader reader, int first, int count, unsigned char *out) except -1:
        """Serve what was kept for this reader, if this read goes on there; return how many registers."""
        cdef Latch latch
        cdef double age_ticks
        cdef int served
        if type(reader.latch) is not Latch:
            reader.latch = None
            return 0
        latch = reader.latch
        age_ticks = self.state[STATE_elapsed_ticks * RT_LANES] - latch.ticks
        if (latch.unit is not self or latch.at != first or latch.writes != self.writes
                or not 0.0 <= age_ticks <= RT_TICKS_PER_S):
            reader.latch = None
            return 0
        served = min(count, <int>(PyBytes_GET_SIZE(latch.rest) - latch.done) // 2)
        memcpy(out, PyBytes_AS_STRING(latch.rest) + latch.done, 2 * served)
        latch.at += served
        latch.done += 2 * served
        if latch.done == PyBytes_GET_SIZE(latch.rest):
            reader.latch = None
        return served

    cdef int _keep_rest(self, Reader reader, int first, int stop) except -1:
        """Keep for this reader's next read what a read from `first` to before `stop` has cut."""
        cdef int end = self.table.end_of_snapshot(first, stop)
        cdef Latch latch
        if end == stop:
            return 0
        self._encode_between(2 * stop, 2 * end)
        latch = Latch()
        latch.unit, latch.at, latch.writes = self, stop, self.writes
        latch.rest = PyBytes_FromStringAndSize(<char *>self.registers + 2 * stop, 2 * (end - stop))
        latch.ticks = self.state[STATE_elapsed_ticks * RT_LANES]
        reader.latch = latch
        return 0


cdef const double *_row(plant, array, int fields, int device) except NULL:
    """Return where the fields of one device begin in an array of the plant."""
    cdef const double[:, :, ::1] view = array
    if view.shape[1] != fields:
        raise ValueError("arrays and compiled registers disagree: run python setup.py build_ext")
    if view.shape[2] != RT_LANES or view.shape[0] * RT_LANES < plant.n:
        raise ValueError(f"need arrays of shape (tiles, fields, {RT_LANES}) for {plant.n} devices")
    return &view[device // RT_LANES, 0, device % RT_LANES]
