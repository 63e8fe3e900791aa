"""SunSpec register map of a device, compiled from the standard's own model definitions and a profile.

Duty: give every point of every served model its address, type, scale factor and limits, and the map its
bytes.
A `Layout` depends on the profile alone; image.py joins it to one device of a plant.

Rules of this file: positions, types and symbols come from the definitions that pysunspec2 ships, never from a
table of ours.  Which point shows what is said in sunspec.py.  A point that is not served carries its type's
"not implemented" pattern.  A value that cannot be shown, such as a rating too large for its register, is the
profile's mistake and is reported as such before anything runs.

References
----------
SunSpec Device Information Model Specification: markers, chain of models, scale factors,
not-implemented values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _registers, sunspec, sunspec_grid, sunspec_values
from .errors import InvariantError, ScenarioError
from .points import NUMBER_TYPES, Point
from .profile import DeviceProfile
from .sunspec_definitions import Definition, finest, flatten, is_percent, model_group, units

QUANTITIES: Final[Mapping[str, int]] = {name: k for k, name in enumerate(_registers.quantity_names())}
"""Dynamic quantities and their order in the compiled image."""

SOC_POINTS: Final = ((713, "SoC"), (124, "ChaState"), (802, "SoC"))
"""Where a client reads the state of charge, best first."""

READ_COUNT_MAX: Final = 125
"""Registers one Modbus request can read; a longer model is read in several, and must be of one instant."""

_MARKER: Final = b"SunS"
_END: Final = b"\xff\xff\x00\x00"
_PAD: Final = b"\x80\x00"


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The register map of one unit.

    Attributes
    ----------
    profile : DeviceProfile
    meter : bool
        The meter unit; else the inverter unit.
    base_address, count : int
        Address of the first register, and how many there are.
    models : tuple of int
        Model ids in map order.
    points : tuple of Point
        Every point of every model, in map order.
    point_at : tuple of (Point or None), length count
        The point each register belongs to; None for the marker and the end model.
    initial : bytes
        The whole map with its constants; dynamic points and settings are blank.
    table : PointTable
        How the dynamic points are encoded.
    by_name : mapping of (int, str) to Point
        By model and point name.
    functions : frozenset of int
        Modbus function codes that are served.
    """

    profile: DeviceProfile
    meter: bool
    base_address: int
    models: tuple[int, ...]
    points: tuple[Point, ...]
    point_at: tuple[Point | None, ...]
    initial: bytes
    table: _registers.PointTable
    by_name: Mapping[tuple[int, str], Point]
    functions: frozenset[int]

    @property
    def count(self) -> int:
        """Registers in the map."""
        return len(self.point_at)

    def point(self, model: int, name: str) -> Point:
        """Return one point.

        Raises
        ------
        ScenarioError
            When the map has no such point.
        """
        try:
            return self.by_name[model, name]
        except KeyError:
            served = ", ".join(map(str, self.models))
            raise ScenarioError(
                f"profile {self.profile.profile}: no point {model}.{name}; models served: {served}"
            ) from None


def _counts(profile: DeviceProfile, model: int) -> dict[str, int]:
    """Return how often the groups of a model repeat."""
    if model in sunspec_grid.CURVE_MODELS:
        return sunspec_grid.counts(model)
    strings = profile.face.pv_strings
    return {"module": strings, "NPrt": 1 + strings, "NStr": 1, "NMod": 1}


class _Compiler:
    """Builds one Layout; holds what its steps share."""

    def __init__(self, profile: DeviceProfile, meter: bool) -> None:
        self.profile = profile
        self.meter = meter
        self.constants = sunspec_values.constants(profile)
        self.bounds = sunspec_values.bounds(profile)
        self.ranges = sunspec_values.writable(profile)
        self.scales_used: set[str] = set()
        self.points: list[Point] = []
        self.image = bytearray(_MARKER)
        self.rows: list[tuple[int, int, int, int, float, float, float, float, int]] = []
        self.bodies: list[tuple[int, int]] = []

    def fail(self, text: str) -> ScenarioError:
        return ScenarioError(f"profile {self.profile.profile}: {text}")

    def address(self) -> int:
        """Return the address behind what is laid out so far."""
        return self.profile.face.base_address + len(self.image) // 2

    def add_model(self, model: int) -> None:
        """Lay out one model behind the others."""
        definitions = list(flatten(model_group(model), _counts(self.profile, model)))
        if model == 1 and self.profile.face.common_length == 65:  # an old map, without the pad register
            definitions = [pair for pair in definitions if pair[0] != "Pad"]
        served = sunspec.points_of(self.profile, model, self.meter)
        unknown = sorted(set(served) - {name for name, _ in definitions})
        if unknown:
            raise InvariantError(f"model {model} has no point {', '.join(unknown)}")
        scales = self.scale_factors(model, definitions, served)
        length = sum(int(d["size"]) for _, d in definitions) - 2  # L counts what follows it
        stated = next(d for name, d in definitions if name == "L").get("value", length)
        if length != stated:
            raise InvariantError(f"model {model} has {length} registers, its definition says {stated}")
        body = len(self.image) // 2 + 2
        if length + 2 > READ_COUNT_MAX:
            self.bodies.append((body, body + length))
        header = {"ID": model, "L": length}
        for name, definition in definitions:
            if name in header:
                self.add_number(model, name, definition, float(header[name]), 0)
            elif definition["type"] == "sunssf":
                self.add_number(model, name, definition, scales.get(name), 0)
            elif definition["type"] in ("string", "pad"):
                self.add_text(model, name, definition, served.get(name))
            else:
                self.add_point(model, name, definition, served.get(name), scales)

    def scale_factors(
        self, model: int, definitions: Sequence[tuple[str, Definition]], served: Mapping[str, str]
    ) -> dict[str, float]:
        """Return the power of ten of each scale factor that a served point uses."""
        scales: dict[str, float] = {}
        for name, definition in definitions:
            sf = definition.get("sf")
            if sf is None or name not in served:
                continue
            bound = self.bound(served[name]) * (100.0 if is_percent(definition) else 1.0)
            high = NUMBER_TYPES[definition["type"]].high
            least = finest(definition)
            needed = next(k for k in range(least, 11) if bound <= high * 10.0**k or k == 10)
            scales[sf] = max(scales.get(sf, least), needed)
        for sf in scales:
            scales[sf] = self.profile.face.scale_factors.get(f"{model}.{sf}", scales[sf])
            self.scales_used.add(f"{model}.{sf}")
        return scales

    def bound(self, quantity: str) -> float:
        """Return the greatest size of a quantity."""
        constant = self.constants.get(quantity)
        return abs(float(constant)) if constant is not None else self.bounds[quantity]

    def add_number(
        self, model: int, name: str, definition: Definition, value: float | None, scale: int
    ) -> None:
        """Lay out a point that belongs to the map itself: id, length or scale factor."""
        point = self.make(model, name, definition, None, scale)
        blank = (point.blank & 0xFFFF).to_bytes(2, "big")
        self.points.append(point)
        self.image += blank if value is None else point.encode(value)

    def add_text(self, model: int, name: str, definition: Definition, quantity: str | None) -> None:
        """Lay out a string or a pad register."""
        size = 2 * int(definition["size"])
        text = str(self.constants[quantity]).encode() if quantity else b""
        if len(text) > size:
            raise self.fail(
                f"{model}.{name} (register {self.address()}): {text.decode()!r} has {len(text)} bytes, "
                f"at most {size} fit"
            )
        self.points.append(
            Point(
                model=model,
                name=name,
                address=self.address(),
                size=size // 2,
                type=definition["type"],
                units="",
                symbols=(),
                quantity=quantity,
                writable=False,
                scale=0,
                factor=1.0,
                divisor=1.0,
                low=0,
                high=0,
                blank=0,
            )
        )
        self.image += _PAD if definition["type"] == "pad" else text.ljust(size, b"\0")

    def add_point(
        self,
        model: int,
        name: str,
        definition: Definition,
        quantity: str | None,
        scales: Mapping[str, float],
    ) -> None:
        """Lay out a number, whether served or not."""
        point = self.make(model, name, definition, quantity, int(scales.get(definition.get("sf", ""), 0)))
        mask = (1 << 16 * point.size) - 1
        register = (point.blank & mask).to_bytes(2 * point.size, "big")
        if quantity is not None:
            self.check_fits(point)
            if quantity in self.constants:
                register = point.encode(float(self.constants[quantity]))
            elif quantity in QUANTITIES:
                span = NUMBER_TYPES[point.type]
                row = (len(self.image), QUANTITIES[quantity], 2 * point.size, point.form)
                limits = (float(span.low), float(span.high), point.blank & mask)
                self.rows.append((*row, point.factor, point.divisor, *limits))
        self.points.append(point)
        self.image += register

    def check_fits(self, point: Point) -> None:
        """Refuse a profile whose values do not fit their registers."""
        assert point.quantity is not None
        if point.quantity not in self.constants and point.quantity not in self.bounds:
            return  # flags, enumerations and counters
        bound, span = self.bound(point.quantity), NUMBER_TYPES[point.type]
        if round(bound * point.factor / point.divisor) > span.high:
            unit = point.divisor / point.factor
            sf = f" at scale factor {point.scale}" if point.scale else ""
            raise self.fail(
                f"{point}: {point.quantity} up to {bound:g} does not fit {point.type}{sf}; "
                f"allowed {span.low * unit:g} to {span.high * unit:g}"
            )

    def make(self, model: int, name: str, definition: Definition, quantity: str | None, scale: int) -> Point:
        """Describe a number at the present address."""
        span = NUMBER_TYPES[definition["type"]]
        power = (2 if is_percent(definition) else 0) - scale
        factor, divisor = 10.0 ** max(power, 0), 10.0 ** max(-power, 0)
        writable = definition.get("access") == "RW" and quantity in self.ranges
        low, high = span.low, span.high
        if writable and quantity is not None:
            least, most = self.ranges[quantity]
            low = max(low, math.ceil(least * factor / divisor - 1e-9))
            high = min(high, math.floor(most * factor / divisor + 1e-9))
        return Point(
            model=model,
            name=name,
            address=self.address(),
            size=span.size,
            type=definition["type"],
            units=units(definition),
            symbols=tuple((s["name"], int(s["value"])) for s in definition.get("symbols", ())),
            quantity=quantity,
            writable=writable,
            scale=scale,
            factor=factor,
            divisor=divisor,
            low=low,
            high=high,
            blank=span.blank,
        )

    def finish(self, models: tuple[int, ...]) -> Layout:
        """Close the chain and return the layout."""
        face = self.profile.face
        self.image += _END
        point_at: list[Point | None] = [None] * (len(self.image) // 2)
        numbers = []
        for point in self.points:
            first = point.address - face.base_address
            point_at[first : first + point.size] = [point] * point.size
            if point.size > 1 and point.type in NUMBER_TYPES:
                numbers.append((first, first + point.size))
        return Layout(
            profile=self.profile,
            meter=self.meter,
            base_address=face.base_address,
            models=models,
            points=tuple(self.points),
            point_at=tuple(point_at),
            initial=bytes(self.image),
            table=_registers.PointTable(self.rows, self.bodies, numbers),
            by_name={(point.model, point.name): point for point in self.points},
            functions=frozenset[int](face.functions),
        )


def _check_chain(
    profile: DeviceProfile, field: str, models: tuple[int, ...], known: Mapping[int, object]
) -> None:
    """Refuse a chain of models that cannot be served."""

    def fail(text: str) -> ScenarioError:
        return ScenarioError(f"profile {profile.profile}: face.{field}: {text}")

    if not models or models[0] != 1:
        raise fail(f"must begin with model 1, found {list(models)}")
    for k, model in enumerate(models):
        if model not in known:
            raise fail(f"model {model} is not served; allowed {', '.join(map(str, known))}")
        if model in models[:k]:
            raise fail(f"model {model} is named twice")
        if model in sunspec.PHASES and model % 10 != profile.face.phases:
            raise fail(
                f"model {model} does not fit face.phases {profile.face.phases}; allowed "
                f"{model // 10 * 10 + profile.face.phases}"
            )


def _models_of(profile: DeviceProfile) -> tuple[int, ...]:
    """Return the checked models of the inverter unit."""
    face = profile.face
    _check_chain(profile, "models", face.models, sunspec.INVERTER_MODELS)

    def fail(text: str) -> ScenarioError:
        return ScenarioError(f"profile {profile.profile}: face.models: {text}")

    if 160 in face.models and not face.pv_strings:
        raise fail("model 160 shows PV strings, and face.pv_strings is 0; allowed 1 to 4 with it")
    for family, needed in sunspec.FAMILY_MODELS.items():
        missing = [str(model) for model in needed if model not in face.models]
        if family in profile.control.families and missing:
            raise fail(f"control.families names {family}, which needs model {', '.join(missing)} as well")
        if family not in profile.control.families and int(family) in face.models:
            raise fail(f"model {family} is served, but control.families does not name it")
    return face.models


def _meter_models_of(profile: DeviceProfile) -> tuple[int, ...]:
    """Return the checked models of the meter unit."""
    face = profile.face
    if face.meter_models is None:
        return (1, 203 if face.phases == 3 else 201)
    _check_chain(profile, "meter_models", face.meter_models, sunspec.METER_MODELS)
    if len(face.meter_models) == 1:
        raise ScenarioError(
            f"profile {profile.profile}: face.meter_models: no model of a meter is named; allowed "
            f"{200 + face.phases}, {210 + face.phases}"
        )
    return face.meter_models


@lru_cache(maxsize=256)
def _compile(profile_json: str) -> tuple[Layout, Layout]:
    profile = DeviceProfile.model_validate_json(profile_json)
    layouts, used = [], set()
    for meter, chain in ((False, _models_of(profile)), (True, _meter_models_of(profile))):
        compiler = _Compiler(profile, meter)
        for model in chain:
            compiler.add_model(model)
        used |= compiler.scales_used
        layouts.append(compiler.finish(chain))
    surplus = sorted(set(profile.face.scale_factors) - used)
    if surplus:
        raise ScenarioError(
            f"profile {profile.profile}: face.scale_factors: no served point uses {', '.join(surplus)}; "
            f"allowed {', '.join(sorted(used))}"
        )
    return layouts[0], layouts[1]


def compile_layouts(profile: DeviceProfile) -> tuple[Layout, Layout]:
    """Return the register maps of a profile's inverter unit and of its meter unit; same address rule.

    Raises
    ------
    ScenarioError
        When the profile cannot be shown: unknown model, wrong order, a rating that does not fit its register.
        The message names model, point, register and the allowed range.
    """
    return _compile(profile.model_dump_json())


def compile_layout(profile: DeviceProfile) -> Layout:
    """Return the register map of a profile's inverter unit; raises as `compile_layouts`."""
    return compile_layouts(profile)[0]


def compile_meter_layout(profile: DeviceProfile) -> Layout:
    """Return the register map of a profile's meter unit; raises as `compile_layouts`."""
    return compile_layouts(profile)[1]


def soc_frac_step(profile: DeviceProfile) -> float:
    """Return the resolution of the state of charge that a client reads [1].

    Raises
    ------
    ScenarioError
        When no served model shows a state of charge.
    """
    layout = compile_layout(profile)
    for model, name in SOC_POINTS:
        if model in layout.models:
            point = layout.point(model, name)
            return point.divisor / point.factor
    raise ScenarioError(
        f"profile {profile.profile}: face.models: no model shows the state of charge; allowed 713, 124, 802"
    )


def quantise_soc(soc_frac: ArrayLike, step: ArrayLike) -> NDArray[np.float64]:
    """Return states of charge as a client reads them: rounded down to whole steps, never above the truth.

    Parameters
    ----------
    soc_frac : array_like
        True state of charge [1].
    step : array_like
        From `soc_frac_step`; broadcast against `soc_frac` [1].

    Returns
    -------
    ndarray of float64
        The same bits as decoding the register gives; NaN where the register would read "not implemented".
    """
    soc = np.asarray(soc_frac, dtype=np.float64)
    per_one = np.rint(1.0 / np.asarray(step, dtype=np.float64))
    steps = np.floor(soc * per_one)
    steps = np.where(
        steps / per_one > soc, steps - 1.0, np.where((steps + 1.0) / per_one <= soc, steps + 1.0, steps)
    )
    return np.where((steps >= 0.0) & (steps <= 65534.0), steps / per_one, np.nan)
