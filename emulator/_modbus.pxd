"""What compiled units share with the Modbus core: a read without a Python object in between."""

from ._pdu cimport Reader, Registers
