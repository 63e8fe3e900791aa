"""The equations of one step, stage by stage.

Duty: what a device does in one step, written once, as plain NumPy over columns.  `reference.py` runs these
functions as they are and is the oracle; `trace.py` records them at build time and writes the compiled kernel:
the same operations in the same order, so the same bits.

Rules of this package:

- Only ``+ - * /``, comparisons, ``& | ~`` on masks, `numpy.where`, `numpy.sqrt` and the helpers of `ops`.
  Anything else has no exact twin on every machine, and tracing refuses it.
- No ``if`` on a quantity that differs between devices.
- `p`, `c`, `u`, `s` hold the columns of `fields.PARAM`, `CONTROL`, `INPUT` and `STATE`, `k` what one stage
  hands to the next; each column has one value per device, shape (m,).  Stages change `c`, `s` and `k`.
- `ticks` is the length of the step.  `coarse` says whether the lag gains of a coarse step apply, or those of
  one tick.
"""
