"""Steps every device of a Plant; the compiled twin of reference.py.

The equations are in `_step.h`.  No allocation, no Python object and no lock is touched while stepping.
"""

cdef extern from "_fields.h":
    enum:
        RT_LANES
        RT_TICKS_PER_S
        PARAM_COUNT
        CONTROL_COUNT
        INPUT_COUNT
        STATE_COUNT

cdef extern from "_step.h":
    void rt_step(const double *p, double *c, const double *u, double *s, double ticks) nogil
    int rt_quiet(const double *p, const double *c, const double *u, const double *s) nogil


cdef void _second(const double *p, double *c, const double *u, double *s) noexcept nogil:
    cdef int k
    if rt_quiet(p, c, u, s):
        rt_step(p, c, u, s, RT_TICKS_PER_S)
    else:
        for k in range(RT_TICKS_PER_S):
            rt_step(p, c, u, s, 1.0)


def advance(const double[:, :, ::1] param, double[:, :, ::1] control, const double[:, :, ::1] inputs,
            double[:, :, ::1] state, int n, long ticks):
    """Move the first `n` devices on by `ticks` ticks of 20 ms with inputs held."""
    cdef int device, tile, lane
    cdef long seconds = ticks // RT_TICKS_PER_S, rest = ticks % RT_TICKS_PER_S, k
    cdef const double *p
    cdef const double *u
    cdef double *c
    cdef double *s
    if (param.shape[1] != PARAM_COUNT or control.shape[1] != CONTROL_COUNT or inputs.shape[1] != INPUT_COUNT
            or state.shape[1] != STATE_COUNT):
        raise ValueError("arrays and compiled kernel disagree on the fields: run python setup.py build_ext")
    if n < 0 or ticks < 0:
        raise ValueError(f"n and ticks must not be negative, got {n} and {ticks}")
    if (min(param.shape[0], control.shape[0], inputs.shape[0], state.shape[0]) * RT_LANES < n
            or param.shape[2] != RT_LANES or control.shape[2] != RT_LANES or inputs.shape[2] != RT_LANES
            or state.shape[2] != RT_LANES):
        raise ValueError(f"need arrays of shape (tiles, fields, {RT_LANES}) with room for {n} devices")
    with nogil:
        for device in range(n):
            tile = device // RT_LANES
            lane = device % RT_LANES
            p = &param[tile, 0, lane]
            c = &control[tile, 0, lane]
            u = &inputs[tile, 0, lane]
            s = &state[tile, 0, lane]
            for k in range(seconds):
                _second(p, c, u, s)
            for k in range(rest):
                rt_step(p, c, u, s, 1.0)
