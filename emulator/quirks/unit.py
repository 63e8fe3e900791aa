"""A unit with quirks: the layers between a device's own registers and a client.

Duty: put the layers together, innermost first: registers, write semantics, values, map.  A section that no
quirk has leaves its layer out.

Rules of this file: whoever moves the plant calls `QuirkyUnit.step` after each advance.

One snapshot over several reads, as a plain unit has it (`_registers`): what a read leaves of a model that is
longer than a request, or of a number, is kept as the outermost layer shows it then.  The same reader's next
read gets it if it goes on exactly there.  Any other read of that reader drops it, as does any write to the
unit, taken or refused, and 1 s of bench time.  Two reads of the same registers are two instants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ScenarioError
from ..fields import TICKS_PER_S
from ..image import UNIT_ID_MAX, DeviceImage
from ..layout import Layout, compile_layout, compile_meter_layout
from ..plant import Plant
from ..profile import DeviceProfile
from .knobs import Quirks
from .maps import FLOAT_OF, MapKnobs, MapLayer
from .schedule import Schedule, Strict, points_in
from .values import ValueLayer, is_served
from .writes import WriteLayer

if TYPE_CHECKING:
    from .._modbus import Unit
    from .._pdu import Reader


@dataclass(frozen=True, slots=True)
class _Rest:
    """What a read has left of a snapshot, for the reader's next read.

    Attributes
    ----------
    unit : QuirkyUnit
    at : int
        Register that comes next.
    data : bytes
        Registers that were left.
    ticks, writes : int
        Bench time, and writes to the unit until then.
    """

    unit: QuirkyUnit
    at: int
    data: bytes
    ticks: int
    writes: int


class QuirkyUnit:
    """One unit as a Modbus server calls it.

    Parameters
    ----------
    image : DeviceImage
        The device's own registers.
    plant : Plant
    layers : sequence of layers
        What stands on the image, innermost first; the last one answers.

    Attributes
    ----------
    functions : frozenset of int
        Function codes that are served.
    asks_reader : bool
        The core says who reads.
    """

    asks_reader = True

    def __init__(self, image: DeviceImage, plant: Plant, layers: tuple[Unit, ...]) -> None:
        self.image = image
        self.layers = layers
        self._plant = plant
        self._unit = _top(image, layers)
        self._stepped_ticks = -1
        self._writes = 0
        outer = self._unit
        if not isinstance(outer, MapLayer):  # the map as it is, for its models and numbers only
            outer = MapLayer((image,), (image.layout,), MapKnobs(), Schedule(plant, 0))
        self._map = outer
        writes = next((layer for layer in layers if isinstance(layer, WriteLayer)), None)
        self.functions: frozenset[int] = image.functions if writes is None else writes.functions

    def read(self, address: int, count: int, reader: Reader | None = None) -> bytes | int:
        """Return 2·count bytes, big-endian, or a Modbus exception code.

        Parameters
        ----------
        address, count : int
        reader : Reader, optional
            Who reads; with one, a snapshot can go on over several reads.
        """
        if reader is None:
            return self._unit.read(address, count)
        rest = self._rest_of(reader, address)
        if rest is not None and 2 * count <= len(rest.data):
            if 2 * count < len(rest.data):
                reader.latch = _Rest(self, address + count, rest.data[2 * count :], rest.ticks, rest.writes)
            return rest.data[: 2 * count]
        kept = b"" if rest is None else rest.data
        data = self._unit.read(address + len(kept) // 2, count - len(kept) // 2)
        if isinstance(data, bytes):
            self._keep_rest(reader, address, address + count)
            return kept + data
        return data

    def _rest_of(self, reader: Reader, address: int) -> _Rest | None:
        """Take what was kept for a reader; None unless it goes on there, and nothing has come between."""
        rest, reader.latch = reader.latch, None
        if not isinstance(rest, _Rest) or rest.unit is not self:
            return None
        young = 0 <= self._plant.elapsed_ticks - rest.ticks <= TICKS_PER_S
        return rest if young and (rest.at, rest.writes) == (address, self._writes) else None

    def _keep_rest(self, reader: Reader, first: int, stop: int) -> None:
        """Keep for a reader's next read what a read from `first` to before `stop` has cut."""
        end = self._map.end_of_snapshot(first, stop)
        data = self._unit.read(stop, end - stop) if end > stop else 0
        if isinstance(data, bytes):
            reader.latch = _Rest(self, stop, data, self._plant.elapsed_ticks, self._writes)

    def write(self, address: int, data: bytes) -> int:
        """Return 0, or a Modbus exception code."""
        self._writes += 1
        return self._unit.write(address, data)

    def read_bits(self, address: int, count: int, inputs: bool) -> bytes | int:
        """Answer for coils and discrete inputs as the device does."""
        return self.image.read_bits(address, count, inputs)

    def write_bits(self, address: int, count: int, data: bytes) -> int:
        """Answer for coils as the device does."""
        return self.image.write_bits(address, count, data)

    def step(self) -> None:
        """Let time pass for the layers; to be called after each advance of the plant, once or more often."""
        if self._stepped_ticks == self._plant.elapsed_ticks:
            return
        self._stepped_ticks = self._plant.elapsed_ticks
        for layer in self.layers:
            if isinstance(layer, WriteLayer | ValueLayer):
                layer.step()

    def identify(self) -> Mapping[int, bytes]:
        """Return the objects of a device identification."""
        return self.image.identify()


def _top(image: DeviceImage, layers: Sequence[Unit]) -> Unit:
    """Return what answers: the outermost layer, or the registers themselves."""
    return layers[-1] if layers else image


def quirky_units(
    plant: Plant,
    device: int,
    quirks: Quirks,
    rng: np.random.Generator,
    unit_id: int = 1,
    *,
    start_of_day_s: int = 0,
) -> dict[int, QuirkyUnit]:
    """Return the units of one device, with quirks; what `image.units_of` is without.

    Parameters
    ----------
    plant : Plant
    device : int
        Position in the plant.
    quirks : Quirks
    rng : Generator
        Chance of this device's quirks.
    unit_id : int
        Of the inverter, where no quirk says otherwise; the k-th device behind a gateway has k.
    start_of_day_s : int
        Time of day at bench time 0 [s].

    Raises
    ------
    ScenarioError
        When a quirk changes nothing of this device, the profile cannot be shown as registers, or unit ids are
        not 1 to 247 or not different.
    """
    knobs = quirks.map or MapKnobs()
    profile = _with_both_families(plant.profiles[device], quirks)
    schedule = Schedule(plant, int(rng.integers(1 << 63)), start_of_day_s)
    layouts = compile_layout(profile), compile_meter_layout(profile)
    objections = list(_objections(quirks, layouts))
    if objections:
        raise ScenarioError("\n".join(f"profile {profile.profile}: {text}" for text in objections))
    images = [DeviceImage(plant, device, layout) for layout in layouts]
    inside: list[list[Unit]] = [[], []]
    if quirks.writes is not None:
        own = quirks.writes
        inside[0].append(
            WriteLayer(images[0], images[0], plant, device, own, rng, start_of_day_s=start_of_day_s)
        )
    if quirks.values is not None:
        for image, layers in zip(images, inside, strict=True):
            layers.append(ValueLayer(_top(image, layers), image, quirks.values, schedule))
    meter = knobs.meter or ("none" if knobs.alias_units else "own-unit")
    if quirks.map is not None:
        tops = [_top(image, layers) for image, layers in zip(images, inside, strict=True)]
        shown = 2 if meter == "same-map" else 1
        inside[0] += [*inside[1], MapLayer(tops[:shown], layouts[:shown], knobs, schedule)]
        inside[1].append(MapLayer(tops[1:], layouts[1:], knobs, schedule))
    inverter = QuirkyUnit(images[0], plant, tuple(inside[0]))
    if knobs.alias_units:
        return dict.fromkeys(range(256), inverter)
    ids = _unit_ids(knobs, profile, unit_id, alone=meter != "own-unit")
    units = (inverter, QuirkyUnit(images[1], plant, tuple(inside[1])))
    return dict(zip(ids, units, strict=False))


def _unit_ids(knobs: MapKnobs, profile: DeviceProfile, unit_id: int, *, alone: bool) -> list[int]:
    """Return the ids of the inverter and, unless it is alone, of its meter."""
    inverter = unit_id if knobs.unit_id is None else knobs.unit_id + unit_id - 1
    meter = inverter + profile.face.meter_unit_offset
    if knobs.meter_unit_id is not None:
        meter = knobs.meter_unit_id + unit_id - 1
    ids = [inverter] if alone else [inverter, meter]
    if len(set(ids)) < len(ids) or not all(1 <= number <= UNIT_ID_MAX for number in ids):
        raise ScenarioError(
            f"profile {profile.profile}: found {' and '.join(map(str, ids))} as unit ids of inverter and "
            f"meter; allowed different ones from 1 to {UNIT_ID_MAX}"
        )
    return ids


def _with_both_families(profile: DeviceProfile, quirks: Quirks) -> DeviceProfile:
    """Return a profile whose map has integer and float inverter models, where a quirk needs both."""
    if quirks.map is None or not quirks.map.both_families:
        return profile
    whole = {number: whole for whole, number in FLOAT_OF.items()}
    found: list[int] = []
    for model in profile.face.models:
        integers = whole.get(model, model)
        found += [integers, FLOAT_OF[integers]] if integers in FLOAT_OF else [model]
    models = tuple(dict.fromkeys(found))
    if not set(models) & set(FLOAT_OF):
        raise ScenarioError(
            f"profile {profile.profile}: quirks {', '.join(quirks.names)}: map.inverter_family needs one of "
            f"the models {', '.join(map(str, sorted(whole | FLOAT_OF)))}; models served: "
            f"{', '.join(map(str, profile.face.models))}"
        )
    return profile.model_copy(update={"face": profile.face.model_copy(update={"models": models})})


def _objections(quirks: Quirks, layouts: tuple[Layout, ...]) -> Iterator[str]:
    """Yield what changes nothing of a device: a quirk that is asked for must show."""
    models = {model for layout in layouts for model in layout.models}
    by_map = quirks.map or MapKnobs()
    entries: list[tuple[str, int, Strict, bool]] = []
    for k, hidden in enumerate(by_map.hidden):
        entries.append(("map.hidden", k, hidden, bool(models & set(hidden.models))))
    for k, relabel in enumerate(by_map.relabel):
        entries.append(("map.relabel", k, relabel, relabel.model in models))
    for k, shrunk in enumerate(by_map.shrunk):
        entries.append(("map.shrunk", k, shrunk, shrunk.model in models))
    for k, hole in enumerate(by_map.holes):
        entries.append(("map.holes", k, hole, any(points_in(layout, hole.points) for layout in layouts)))
    if quirks.values is not None:
        for knob in type(quirks.values).model_fields:
            for k, entry in enumerate(getattr(quirks.values, knob)):
                shows = any(is_served(layout, entry) for layout in layouts)
                entries.append((f"values.{knob}", k, entry, shows))
    for place, k, entry, shows in entries:
        if not shows:
            yield (
                f"quirks {', '.join(quirks.names)}: {place}[{k}]: found nothing that this device has in "
                f"{entry.model_dump_json(exclude_defaults=True)}; models served: "
                f"{', '.join(map(str, sorted(models)))}"
            )
