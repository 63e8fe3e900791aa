"""Register image of one unit: what the plant is, as SunSpec registers, in one pass.

Duty: encode the quantities a client reads into the unit's registers, all from one instant of the plant, so
that one read is one snapshot and a point agrees with its neighbours.  `_measure.h` computes the quantities,
once per change of the plant; only the points that a read asks for are encoded.  Points that change with
settings alone, such as curves, are bytes that `poke` has put there.

Rules of this file: no SunSpec model, address or scale factor is known here; layout.py hands them over as a
PointTable.  No clock, no I/O.  A value that is not a number, or does not fit its register, becomes the
register's "not implemented" pattern: never a clipped or wrapped one.  Rounding is half to even; states of
charge and available energies are rounded down, because a client must never see more than there is.
"""

from libc.math cimport floor, rint
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc

cdef extern from "_fields.h":
    enum:
        RT_LANES
        PARAM_COUNT
        CONTROL_COUNT
        INPUT_COUNT
        STATE_COUNT
        CONTROL_pf_ena

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
    bint down
    double factor  # register = quantity * factor / divisor: both are exact powers of ten
    double divisor
    double low
    double high
    uint64_t blank


cdef inline uint64_t _encode(const point_t *point, double value) noexcept nogil:
    cdef double register
    if point.down:
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
    return <uint64_t><int64_t>register


cdef inline void _store(unsigned char *image, const point_t *point, uint64_t register) noexcept nogil:
    cdef int k
    for k in range(point.bytes):
        image[point.offset + k] = (register >> (8 * (point.bytes - 1 - k))) & 0xFF


cdef class PointTable:
    """How each dynamic point of a layout is encoded; shared by all units of one layout.

    Parameters
    ----------
    rows : sequence of tuple
        Per point, in map order: byte offset, index in `quantity_names()`, size in bytes (2, 4 or 8), whether to
        round down, factor, divisor, least and greatest register value, pattern that means "not implemented".
    """

    cdef point_t *points
    cdef readonly int count

    def __cinit__(self, rows):
        cdef int k, end = 0
        self.count = len(rows)
        self.points = <point_t *>malloc(max(self.count, 1) * sizeof(point_t))
        if self.points == NULL:
            raise MemoryError
        for k, (offset, quantity, size, down, factor, divisor, low, high, blank) in enumerate(rows):
            if not 0 <= quantity < QUANTITY_COUNT or size not in (2, 4, 8) or offset < 0:
                raise ValueError(f"row {k}: no such quantity {quantity}, size {size} or offset {offset}")
            if offset < end:
                raise ValueError(f"row {k}: offset {offset} is not behind the row before, which ends at {end}")
            end = offset + size
            self.points[k] = point_t(offset, quantity, size, down, factor, divisor, low, high, blank)

    def __dealloc__(self):
        free(self.points)

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


def encode(double value, int size, bint down, double factor, double divisor, double low, double high, blank):
    """Return the register bytes of one value; `blank` when it is not a number or out of range."""
    cdef unsigned char image[8]
    cdef point_t point = point_t(0, 0, size, down, factor, divisor, low, high, blank)
    if size not in (2, 4, 8):
        raise ValueError(f"size must be 2, 4 or 8 bytes, got {size}")
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


cdef class RegisterImage:
    """Registers of one unit, kept in step with its plant.

    Parameters
    ----------
    plant : Plant
        Only its arrays, `n` and `version` are used here.
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

    cdef object plant
    cdef const double[:, :, ::1] param_array
    cdef const double[:, :, ::1] control_array
    cdef const double[:, :, ::1] input_array
    cdef const double[:, :, ::1] state_array
    cdef double[::1] held_array
    cdef PointTable table
    cdef double constants[CONSTANT_COUNT]
    cdef double quantities[QUANTITY_COUNT]
    cdef bytearray image
    cdef unsigned char *registers
    cdef int tile, lane
    cdef readonly int base_address, count
    cdef public bint watching  # call `follow` at every change of the plant
    cdef double settings[CONTROL_COUNT]  # as last seen
    cdef object seen

    def __init__(self, plant, int device, int base_address, bytes initial, PointTable table, constants, held):
        cdef int k
        self.param_array = plant.param
        self.control_array = plant.control
        self.input_array = plant.input
        self.state_array = plant.state
        self.held_array = held
        if (self.param_array.shape[1] != PARAM_COUNT or self.control_array.shape[1] != CONTROL_COUNT
                or self.input_array.shape[1] != INPUT_COUNT or self.state_array.shape[1] != STATE_COUNT):
            raise ValueError("arrays and compiled registers disagree: run python setup.py build_ext")
        for array in (plant.param, plant.control, plant.input, plant.state):
            if array.shape[2] != RT_LANES or array.shape[0] * RT_LANES < plant.n:
                raise ValueError(f"need arrays of shape (tiles, fields, {RT_LANES}) for {plant.n} devices")
        if not 0 <= device < plant.n:
            raise ValueError(f"device must be 0 to {plant.n - 1}, got {device}")
        if len(constants) != CONSTANT_COUNT or self.held_array.shape[0] != HELD_COUNT:
            raise ValueError(f"need {CONSTANT_COUNT} constants and {HELD_COUNT} settings")
        if len(initial) % 2 or table.end() > len(initial):
            raise ValueError(f"points end at byte {table.end()}, the image has {len(initial)}")
        if not 0 <= base_address <= 65536 - len(initial) // 2:
            raise ValueError(f"{len(initial) // 2} registers do not fit behind address {base_address}")
        for k in range(CONSTANT_COUNT):
            self.constants[k] = constants[k]
        self.plant = plant
        self.tile = device // RT_LANES
        self.lane = device % RT_LANES
        self.base_address = base_address
        self.table = table
        self.image = bytearray(initial)  # never resized, so that the pointer holds
        self.registers = self.image
        self.count = len(initial) // 2
        self.seen = None
        self.watching = True  # for the first time

    def refresh(self):
        """Compute all quantities anew if the plant has changed."""
        cdef bint moved
        version = self.plant.version
        if version != self.seen:
            moved = self._settings_moved()
            if moved or self.watching:
                self.follow(moved)
            self._measure()
            self.seen = version

    def follow(self, bint moved):
        """Bring what `poke` has put into the image up to date; for subclasses.

        Called when settings of the grid-support functions have moved in the plant, and at every change of it
        while `watching` is set.
        """

    cdef bint _settings_moved(self) noexcept nogil:
        """Compare the fields of CONTROL that follow from settings, the last of them, with those seen before."""
        cdef const double *c = &self.control_array[self.tile, 0, self.lane]
        cdef bint moved = False
        cdef int k
        for k in range(CONTROL_pf_ena, CONTROL_COUNT):
            moved |= c[k * RT_LANES] != self.settings[k]
            self.settings[k] = c[k * RT_LANES]
        return moved

    def expire(self):
        """Forget what was computed: a setting that only the registers hold was changed."""
        self.seen = None

    def poke(self, int offset, const unsigned char[::1] data):
        """Put bytes into the image, from byte `offset` on; a dynamic point there would be encoded over them."""
        cdef Py_ssize_t k
        if offset < 0 or offset + data.shape[0] > 2 * self.count:
            raise ValueError(f"{data.shape[0]} bytes at {offset} do not fit an image of {2 * self.count}")
        for k in range(data.shape[0]):
            self.registers[offset + k] = data[k]

    def peek(self, int offset, int size):
        """Return bytes of the image as `poke` has left them."""
        if offset < 0 or size < 0 or offset + size > 2 * self.count:
            raise ValueError(f"{size} bytes at {offset} do not lie in an image of {2 * self.count}")
        return self.registers[offset : offset + size]

    cdef void _measure(self) noexcept nogil:
        cdef const double *p = &self.param_array[self.tile, 0, self.lane]
        cdef const double *c = &self.control_array[self.tile, 0, self.lane]
        cdef const double *u = &self.input_array[self.tile, 0, self.lane]
        cdef const double *s = &self.state_array[self.tile, 0, self.lane]
        rt_measure(p, c, u, s, self.constants, &self.held_array[0], self.quantities)

    cdef void _encode_between(self, int begin, int end) noexcept nogil:
        """Encode the dynamic points that lie, in part or whole, between two bytes of the image."""
        cdef const point_t *point = self.table.points
        cdef int k = self.table.first(begin)
        while k < self.table.count and point[k].offset < end:
            _store(self.registers, &point[k], _encode(&point[k], self.quantities[point[k].quantity]))
            k += 1

    def measure(self):
        """Return every quantity as it is now, before any rounding, by name."""
        self.refresh()
        return {name: self.quantities[index] for index, name in enumerate(quantity_names())}

    def read(self, int address, int count):
        """Return `count` registers from `address` on, as they are at one instant, or exception code 2.

        Parameters
        ----------
        address, count : int
            Absolute address and number of registers.

        Returns
        -------
        bytes or int
            2·count bytes, big-endian; 2 where a register lies outside the map.
        """
        cdef int first = address - self.base_address
        if count < 1 or first < 0 or first > self.count - count:
            return 2
        self.refresh()
        self._encode_between(2 * first, 2 * (first + count))
        return self.registers[2 * first : 2 * (first + count)]
