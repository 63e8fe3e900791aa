"""What carries out requests, for the framing in _modbus.pyx and for compiled units."""

from libc.stdint cimport uint64_t


cdef class Reader:
    cdef public object latch  # the unit's own, to tell this reader's reads from another's; the core never looks


cdef class Registers:
    cdef int fetch(self, Reader reader, int address, int count, unsigned char *out) except -1


cdef class Slot:
    cdef object unit
    cdef Registers fast  # the same unit, if it can be read the short way
    cdef uint64_t served  # a bit for each function code; none of them is above 63
    cdef bint asks_reader  # its `read` takes the reader as well


cdef class Units:
    cdef list distinct  # Slot
    cdef short places[256]  # in that list, by unit id; -1 where there is no unit
    cdef bint serial


cdef class Engine(Reader):
    cdef readonly long long frames
    cdef public object last_error
    cdef Units units
    cdef object rights
    cdef bint suspect  # the last request's size did not fit what it asked for

    cdef int reply(self, Slot slot, int unit_id, const unsigned char *pdu, int size, unsigned char *out) except -1


cdef int refuse(const unsigned char *pdu, int code, unsigned char *out) noexcept nogil
