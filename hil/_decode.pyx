"""The values of many points of one model at once, from its registers.

Rules of this file:

- A `Decoder` knows numbers only: places, sizes, kinds, powers of ten.  What they mean is sunspec_points's
  business, and `value_of` there is what this must agree with, to the last bit.
- A value is rounded once.  Up to 2^53 a double holds the integer and every power of ten in use, so that one
  multiplication or division rounds as the exact quotient would; beyond it Python's integers are asked.
- NaN is "no value": not implemented, not read, not in these registers, or spoilt by its scale factor.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport NAN, isfinite
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ridethrough.emulator.errors import InvariantError

cdef enum:
    UNSIGNED = 0
    SIGNED = 1
    FLOAT = 2
    SCALE_MAX = 10  # of a scale factor's register, in size
    POWER_MAX = 20
    SIZE_MAX = 4
    MISSING = -1

cdef uint64_t EXACT = <uint64_t>1 << 53

# 10^22 is the last power of ten that a double holds exactly.
cdef list WHOLE_TENS = [int("1" + "0" * k) for k in range(POWER_MAX + 1)]
cdef double[POWER_MAX + 1] TENS
for _k in range(POWER_MAX + 1):
    TENS[_k] = <double>WHOLE_TENS[_k]


cdef struct Row:
    int offset
    int size
    int kind
    int scale_at  # -1: none
    int power
    uint64_t blank


cdef class Decoder:
    """A table of points of one model, or of a piece of a map.

    Parameters
    ----------
    rows : sequence of (offset, size, kind, blank, scale_at, power)
        First register, counted from the first one given later; registers, 1 to 4; 0 unsigned, 1 signed,
        2 float; the bits that say "not implemented" (a float has its own); register of the scale factor, or
        -1; power of ten beside it.

    Attributes
    ----------
    count : int
        Points in the table.

    Raises
    ------
    InvariantError
        A row is no such thing.
    """

    cdef readonly int count
    cdef Row* rows
    cdef int* words
    cdef int span

    def __cinit__(self, rows):
        cdef Row* row
        cdef int k = 0
        table = list(rows)
        self.rows = <Row*>PyMem_Malloc((len(table) + 1) * sizeof(Row))
        if self.rows == NULL:
            raise MemoryError()
        self.count = len(table)
        self.span = 0
        for offset, size, kind, blank, scale_at, power in table:
            row = &self.rows[k]
            row.offset, row.size, row.kind, row.scale_at, row.power = offset, size, kind, scale_at, power
            row.blank = blank
            if not (
                0 <= row.offset < 0x10000
                and 1 <= row.size <= SIZE_MAX
                and row.kind in (UNSIGNED, SIGNED, FLOAT)
                and (row.kind != FLOAT or row.size in (2, 4))
                and MISSING <= row.scale_at < 0x10000
                and -POWER_MAX + SCALE_MAX <= row.power <= POWER_MAX - SCALE_MAX
            ):
                raise InvariantError(f"row {k} cannot be decoded: {table[k]}")
            self.span = max(self.span, row.offset + row.size, row.scale_at + 1)
            k += 1
        self.words = <int*>PyMem_Malloc((self.span + 1) * sizeof(int))
        if self.words == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.rows)
        PyMem_Free(self.words)

    def decode(self, bytes data not None, double[::1] values not None):
        """Write the value of each point.

        Parameters
        ----------
        data : bytes
            The registers, big-endian.
        values : writable buffer of float64, shape (count,)

        Raises
        ------
        InvariantError
            There is not one place for each point.
        """
        cdef const unsigned char* source = <const unsigned char*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t have = min(PyBytes_GET_SIZE(data) // 2, <Py_ssize_t>self.span)
        cdef Py_ssize_t k
        if values.shape[0] != self.count:
            raise InvariantError(f"{values.shape[0]} places for {self.count} values")
        for k in range(have):
            self.words[k] = (source[2 * k] << 8) | source[2 * k + 1]
        for k in range(have, self.span):
            self.words[k] = MISSING
        for k in range(self.count):
            values[k] = self._value(&self.rows[k])

    def decode_words(self, registers):
        """Return the value of each point as a list.

        Parameters
        ----------
        registers : sequence of int or None
            None where one could not be read.
        """
        cdef Py_ssize_t k = 0
        for word in registers[: self.span]:
            self.words[k] = MISSING if word is None else <int>(<unsigned short>word)
            k += 1
        for k in range(k, self.span):
            self.words[k] = MISSING
        return [self._value(&self.rows[k]) for k in range(self.count)]

    cdef inline double _value(self, const Row* row) except? -1.0:
        cdef int power = row.power
        cdef int scale, word, k
        cdef int all_words = 0
        cdef uint64_t bits = 0
        for k in range(row.offset, row.offset + row.size):
            word = self.words[k]
            all_words |= word
            bits = bits << 16 | <uint64_t>(word & 0xFFFF)
        if all_words < 0:  # one of them is missing
            return NAN
        if row.scale_at >= 0:
            word = self.words[row.scale_at]
            scale = word - 0x10000 if word & 0x8000 else word
            if word == MISSING or not -SCALE_MAX <= scale <= SCALE_MAX:
                return NAN
            power += scale
        if row.kind == FLOAT:
            return _float(bits, row.size)
        if bits == row.blank:
            return NAN
        return _scaled(bits, row.size, row.kind == SIGNED, power)


cdef inline double _float(uint64_t bits, int size) noexcept:
    cdef uint32_t half = <uint32_t>bits
    cdef float single
    cdef double number
    if size == 2:
        memcpy(&single, &half, 4)
        number = single
    else:
        memcpy(&number, &bits, 8)
    return number if isfinite(number) else NAN


cdef inline double _scaled(uint64_t bits, int size, bint signed, int power) except? -1.0:
    """Return the number that the bits say times a power of ten."""
    cdef bint minus = signed and bits >> (16 * size - 1)
    cdef uint64_t size_of_it = bits
    cdef double number
    if minus:
        size_of_it = (<uint64_t>1 << (16 * size)) - bits if size < SIZE_MAX else ~bits + 1
    if size_of_it > EXACT and power != 0:
        return _scaled_exactly(-int(size_of_it) if minus else int(size_of_it), power)
    number = <double>size_of_it
    if power > 0:
        number *= TENS[power]
    elif power < 0:
        number /= TENS[-power]
    return -number if minus else number


cdef double _scaled_exactly(object number, int power) except? -1.0:
    # Python's integers, not C's: 10**power on C's would be a double already.
    if power > 0:
        return float(number * WHOLE_TENS[power])
    return number / WHOLE_TENS[-power]
