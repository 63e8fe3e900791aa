"""Solves one radial feeder; the compiled twin of PlainNetwork in feeder.py.

Rules of this file: the same operations in the same order as PlainNetwork, nothing fused; no allocation and no
Python object while solving.  The equations are explained in feeder.py.
"""

from libc.math cimport sqrt
from libc.stdlib cimport calloc, free

cdef extern from "_fields.h":
    enum:
        RT_LANES

cdef double V_SQUARED_LEAST = 0.01


cdef class Network:
    """One feeder: its table, and the last solution."""

    cdef int buses, n
    cdef int *parent
    cdef int *home_bus
    cdef double *drop_per_w
    cdef double *drop_per_var
    cdef double *limit_va2
    cdef double *p_w
    cdef double *q_var
    cdef double *v
    cdef double rating_va
    cdef const double[:, :, ::1] state
    cdef double[:, :, ::1] inputs
    cdef Py_ssize_t import_w, import_var, voltage_pu
    cdef bint attached
    cdef readonly double transformer_va, transformer_frac, branch_frac_max, heat_frac
    cdef readonly long long overload_ticks

    def __cinit__(self, table):
        cdef const int[::1] parent = table.parent
        cdef const int[::1] home_bus = table.home_bus
        cdef const double[::1] drop_per_w = table.drop_per_w
        cdef const double[::1] drop_per_var = table.drop_per_var
        cdef const double[::1] limit_va2 = table.limit_va2
        cdef int k
        self.buses, self.n = parent.shape[0], home_bus.shape[0]
        if self.buses < 2 or not drop_per_w.shape[0] == drop_per_var.shape[0] == limit_va2.shape[0] == self.buses:
            raise ValueError("a table needs source and busbar, and one row for every bus")
        self.parent = <int *>calloc(self.buses, sizeof(int))
        self.home_bus = <int *>calloc(max(self.n, 1), sizeof(int))
        self.drop_per_w = <double *>calloc(6 * self.buses, sizeof(double))
        if not (self.parent and self.home_bus and self.drop_per_w):
            raise MemoryError()
        self.drop_per_var = self.drop_per_w + self.buses
        self.limit_va2 = self.drop_per_w + 2 * self.buses
        self.p_w = self.drop_per_w + 3 * self.buses
        self.q_var = self.drop_per_w + 4 * self.buses
        self.v = self.drop_per_w + 5 * self.buses
        for k in range(self.buses):
            if not 0 <= parent[k] < max(k, 1):
                raise ValueError(f"bus {k} has parent {parent[k]}; a parent comes before its child")
            self.parent[k] = parent[k]
            self.drop_per_w[k] = drop_per_w[k]
            self.drop_per_var[k] = drop_per_var[k]
            self.limit_va2[k] = limit_va2[k]
        for k in range(self.n):
            if not 0 < home_bus[k] < self.buses:
                raise ValueError(f"home {k} is at bus {home_bus[k]}; allowed 1 to {self.buses - 1}")
            self.home_bus[k] = home_bus[k]
        self.rating_va = table.rating_va

    def __dealloc__(self):
        free(self.parent)
        free(self.home_bus)
        free(self.drop_per_w)

    def solve(self, const double[::1] import_w, const double[::1] import_var, double slack_pu,
              double[::1] voltage_pu):
        """Compute voltages and loads of one instant."""
        cdef int home, bus
        if not import_w.shape[0] == import_var.shape[0] == voltage_pu.shape[0] == self.n:
            raise ValueError(f"need {self.n} values, one for each home")
        with nogil:
            self._clear()
            for home in range(self.n):
                bus = self.home_bus[home]
                self.p_w[bus] += import_w[home]
                self.q_var[bus] += import_var[home]
            self._solve(slack_pu)
            for home in range(self.n):
                voltage_pu[home] = sqrt(self.v[self.home_bus[home]])

    def age(self, int ticks, double gain):
        """Let the present load act on the transformer for a while."""
        self._age(ticks, gain)

    def attach(self, const double[:, :, ::1] state, double[:, :, ::1] inputs, Py_ssize_t import_w,
               Py_ssize_t import_var, Py_ssize_t voltage_pu):
        """Name the arrays and fields of a Plant."""
        if state.shape[2] != RT_LANES or inputs.shape[2] != RT_LANES:
            raise ValueError(f"need arrays of shape (tiles, fields, {RT_LANES})")
        if min(state.shape[0], inputs.shape[0]) * RT_LANES < self.n:
            raise ValueError(f"need room for {self.n} homes")
        if not (0 <= import_w < state.shape[1] and 0 <= import_var < state.shape[1]
                and 0 <= voltage_pu < inputs.shape[1]):
            raise ValueError(f"there are {state.shape[1]} fields of state and {inputs.shape[1]} of inputs")
        self.state, self.inputs = state, inputs
        self.import_w, self.import_var, self.voltage_pu = import_w, import_var, voltage_pu
        self.attached = True

    def step(self, double slack_pu, int ticks, double gain):
        """Solve from the attached arrays into them, then age."""
        cdef int home, bus
        if not self.attached:
            raise ValueError("attach a plant's arrays first")
        with nogil:
            self._clear()
            for home in range(self.n):
                bus = self.home_bus[home]
                self.p_w[bus] += self.state[home // RT_LANES, self.import_w, home % RT_LANES]
                self.q_var[bus] += self.state[home // RT_LANES, self.import_var, home % RT_LANES]
            self._solve(slack_pu)
            for home in range(self.n):
                self.inputs[home // RT_LANES, self.voltage_pu, home % RT_LANES] = sqrt(
                    self.v[self.home_bus[home]])
            self._age(ticks, gain)

    cdef void _clear(self) noexcept nogil:
        cdef int bus
        for bus in range(self.buses):
            self.p_w[bus] = 0.0
            self.q_var[bus] = 0.0

    cdef void _solve(self, double slack_pu) noexcept nogil:
        """Sum the flows from the leaves up, then follow the voltages down."""
        cdef int bus
        cdef double v, least, load, most = 0.0
        for bus in range(self.buses - 1, 1, -1):
            self.p_w[self.parent[bus]] += self.p_w[bus]
            self.q_var[self.parent[bus]] += self.q_var[bus]
        self.v[0] = slack_pu * slack_pu
        for bus in range(1, self.buses):
            v = self.v[self.parent[bus]] - (
                self.drop_per_w[bus] * self.p_w[bus] + self.drop_per_var[bus] * self.q_var[bus])
            if v < 0.0:
                v = 0.0
            self.v[bus] = v
            least = v if v > V_SQUARED_LEAST else V_SQUARED_LEAST
            load = (self.p_w[bus] * self.p_w[bus] + self.q_var[bus] * self.q_var[bus]) / (
                least * self.limit_va2[bus])
            if load > most:
                most = load
        self.transformer_va = sqrt(self.p_w[1] * self.p_w[1] + self.q_var[1] * self.q_var[1])
        self.transformer_frac = self.transformer_va / self.rating_va
        self.branch_frac_max = sqrt(most)

    cdef void _age(self, int ticks, double gain) noexcept nogil:
        self.heat_frac += gain * (self.transformer_frac * self.transformer_frac - self.heat_frac)
        if self.transformer_frac > 1.0:
            self.overload_ticks += ticks
