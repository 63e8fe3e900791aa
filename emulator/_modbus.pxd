"""What compiled code that has the socket needs of a connection."""

from ._pdu cimport Engine


cdef class Stream(Engine):
    cdef readonly bint closed
    cdef readonly int pending

    cdef bytes answer(self, const unsigned char *data, Py_ssize_t size)
