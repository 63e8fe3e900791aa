"""The benchmark of virtual time measures; nothing is asserted about how fast anything is."""

from __future__ import annotations

import math
from contextlib import ExitStack

from tests.bench import virtual


def test_every_variant_has_numbers() -> None:
    with ExitStack() as stack:
        variants = virtual.start_all(stack, 2)
        virtual.measure(variants, virtual.Size(rounds=2, round_s=0.005))
        lines = virtual.table(variants, 2).splitlines()
    assert len(lines) == 1 + len(variants)
    for variant in variants:
        assert len(variant.rates) == 2
        for rate in variant.rates:
            assert math.isfinite(rate.per_s)
            assert rate.per_s > 0.0
            assert rate.cpu_us > 0.0
