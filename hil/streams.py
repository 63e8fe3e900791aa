"""Random streams: one seed, split by name.

Duty: hand out independent random streams such that the same seed and name give the same numbers on every
machine, and that using one stream never moves another.

Rules for everything that turns these numbers into a world, because the bench promises identical bytes
everywhere:

- Draw with ``Generator.random`` only.  Its doubles are 53 random bits times 2**-53, exact on every machine.
  The distribution methods (``normal``, ``uniform``, ``lognormal`` ...) round inside compiled code that may
  use a fused multiply-add on one machine and not on another.
- Combine with ``+ - * /``, ``numpy.sqrt``, comparisons and table look-ups only: IEEE 754 fixes their
  rounding. ``numpy.exp``, ``log``, ``sin`` and ``power`` may differ in the last bit between processors; so
  may ``numpy.interp``.
- Sum in a stated order (``cumsum``, ``bincount`` or a loop), never with a reduction whose order is free.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream of one name under one seed.

    Parameters
    ----------
    seed : int
        The scenario's seed.
    name : str
        What the numbers are for, as a path: ``home-07/load/0``.

    Returns
    -------
    numpy.random.Generator
        A Philox generator keyed by the first 128 bits of SHA-256 of ``"{seed}/{name}"``.

    References
    ----------
    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
