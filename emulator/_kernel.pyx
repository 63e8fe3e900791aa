"""Steps every device of a Plant; the compiled twin of reference.py.

The equations are those of the package `model`, traced and written as C++ when this module is built (trace.py,
emit.py).  They are compiled for several kinds of processor, with the same bits on all; the best that this machine
has is taken.  No allocation, no Python object and no lock is touched while stepping.
"""

from concurrent.futures import ThreadPoolExecutor

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

cdef extern from "_fields.h":
    enum:
        RT_LANES
        RT_TICKS_PER_S
        RT_SLOW_TICKS
        PARAM_COUNT
        CONTROL_COUNT
        INPUT_COUNT
        STATE_COUNT

cdef extern from "_kernel.h":
    ctypedef struct rt_time_t:
        long steps
        long coarse_ticks
        long rest
        long slow_ticks
    ctypedef void rt_advance_t(const double *p, double *c, const double *u, double *s, long n, rt_time_t time) nogil
    ctypedef struct rt_target_t:
        const char *name
        rt_advance_t *advance
    const rt_target_t *rt_targets
    int rt_target_count() nogil
    const char *RT_STEP_DIGEST

_TARGETS = tuple([rt_targets[k].name.decode() for k in range(rt_target_count())])
STEP_DIGEST = (<bytes>RT_STEP_DIGEST).decode()
cdef int _best = rt_target_count() - 1


def targets():
    """Return the kinds of processor the step is compiled for and this machine is, the best last."""
    return _TARGETS


cdef int _number(target) except -1:
    if target is None:
        return _best
    if target not in _TARGETS:
        raise ValueError(f"target {target!r} is not one this machine has: {', '.join(_TARGETS)}")
    return _TARGETS.index(target)


cdef int _open(array, Py_buffer *view, int fields, int n, int access) except -1:
    """Look into an array; a typed memoryview would take ten times as long, as long as a step of some homes."""
    PyObject_GetBuffer(array, view, access | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    cdef object objection = None
    if view.ndim != 3 or view.itemsize != sizeof(double) or view.format != b"d" or view.shape[2] != RT_LANES:
        objection = f"need arrays of float64 of shape (tiles, fields, {RT_LANES}) with room for {n} devices"
    elif view.shape[1] != fields:
        objection = "arrays and compiled kernel disagree on the fields: run python setup.py build_ext"
    elif view.shape[0] * RT_LANES < n:
        objection = f"need arrays of float64 of shape (tiles, fields, {RT_LANES}) with room for {n} devices"
    if objection is not None:
        PyBuffer_Release(view)
        raise ValueError(objection)
    return 0


def advance(param, control, inputs, state, int n, long ticks, *, long coarse_ticks=RT_TICKS_PER_S, target=None):
    """Move the first `n` devices on by `ticks` ticks of 20 ms with inputs held.

    Each device makes a coarse step where nothing in it needs a finer one, else as many of one tick; what is
    left over is made in steps of one tick.

    Parameters
    ----------
    param, control, inputs, state : ndarray of float64, shape (tiles, fields, LANES)
        As in fields.py; `control` and `state` are changed.
    n, ticks : int
    coarse_ticks : int
        Length of a coarse step.
    target : str, optional
        One of `targets()`; by default the best.

    Raises
    ------
    ValueError
        When the arrays do not fit, or a number is out of range.
    """
    cdef rt_advance_t *run = rt_targets[_number(target)].advance
    cdef rt_time_t time
    cdef Py_buffer view[4]
    cdef int opened = 0
    if n < 0 or ticks < 0 or coarse_ticks < 1:
        raise ValueError(
            f"n and ticks must not be negative and coarse_ticks at least 1, got {n}, {ticks}, {coarse_ticks}")
    time.steps, time.rest = ticks // coarse_ticks, ticks % coarse_ticks
    time.coarse_ticks, time.slow_ticks = coarse_ticks, max(RT_SLOW_TICKS, coarse_ticks)
    try:
        _open(param, &view[0], PARAM_COUNT, n, 0)
        opened = 1
        _open(control, &view[1], CONTROL_COUNT, n, PyBUF_WRITABLE)
        opened = 2
        _open(inputs, &view[2], INPUT_COUNT, n, 0)
        opened = 3
        _open(state, &view[3], STATE_COUNT, n, PyBUF_WRITABLE)
        opened = 4
        if n > 0 and ticks > 0:
            with nogil:
                run(<const double *>view[0].buf, <double *>view[1].buf, <const double *>view[2].buf,
                    <double *>view[3].buf, n, time)
    finally:
        while opened > 0:
            opened -= 1
            PyBuffer_Release(&view[opened])


def advance_threaded(param, control, inputs, state, int n, long ticks, *, int threads,
                     long coarse_ticks=RT_TICKS_PER_S, target=None):
    """Do the same on several threads, with the same bits: devices do not look at each other.

    Parameters
    ----------
    threads : int
        At least 1.  Starting them takes about 0.1 ms: worth it from some 20,000 device-steps each.

    Raises
    ------
    ValueError
        As `advance`.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    # Whole wide groups to each thread; an even share of them.
    cdef long groups = (n + 2 * RT_LANES - 1) // (2 * RT_LANES)
    cdef long share = (groups + threads - 1) // threads * 2
    if threads == 1 or n < 1:
        advance(param, control, inputs, state, n, ticks, coarse_ticks=coarse_ticks, target=target)
        return
    with ThreadPoolExecutor(threads) as pool:
        parts = [
            pool.submit(
                advance, param[first:], control[first:], inputs[first:], state[first:],
                min(n - first * RT_LANES, share * RT_LANES), ticks, coarse_ticks=coarse_ticks, target=target)
            for first in range(0, 2 * groups, share)
        ]
    for part in parts:
        part.result()
