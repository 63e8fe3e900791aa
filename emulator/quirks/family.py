"""Product families: a device type with the quirks that were seen together.  fixtures/families/*.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from ..errors import ScenarioError
from ..profile import DeviceProfile, Face
from .knobs import Text, Word
from .schedule import Strict


class FaceChanges(Strict):
    """What a family shows otherwise than its device does; see `profile.Face`."""

    manufacturer: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    model: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    models: Annotated[tuple[int, ...], Field(min_length=1, max_length=50)] | None = None
    pv_strings: Annotated[int, Field(ge=0, le=4)] | None = None
    connections_max: Annotated[int, Field(ge=1, le=1000)] | None = None
    idle_timeout_s: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] | None = None


class ProductFamily(Strict):
    """One product family.

    Attributes
    ----------
    family : str
        Its name, after what it does.
    description : str
    device : str
        Device profile: physics and registers.
    face : FaceChanges
    quirks : tuple of str
        Names of quirks.
    source : str
        Who reported it.
    """

    family: Word
    description: Text
    device: Annotated[str, Field(min_length=1, max_length=255)]
    face: FaceChanges = FaceChanges()
    quirks: Annotated[tuple[Word, ...], Field(min_length=1, max_length=50)]
    source: Text

    def dress(self, profile: DeviceProfile) -> DeviceProfile:
        """Return the family's device profile with the family's face.

        Raises
        ------
        ScenarioError
            When the face does not fit the profile.
        """
        changes = self.face.model_dump(exclude_none=True)
        try:
            face = Face.model_validate(profile.face.model_dump() | changes)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in ("face", *wrong["loc"]))
            raise ScenarioError(f"family {self.family}: {place}: {wrong['msg']}") from None
        return profile.model_copy(update={"face": face, "profile": self.family})
