"""Header attributes that follow the dose, scaled to that of a simulated image."""

from __future__ import annotations

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset

#: Attributes proportional to the dose, of classic and enhanced images, at any depth of the header.
DOSE_ATTRIBUTES = (
    "XRayTubeCurrent",
    "XRayTubeCurrentInuA",
    "XRayTubeCurrentInmA",
    "Exposure",
    "ExposureInuAs",
    "ExposureInmAs",
    "GeneratorPower",
    "CTDIvol",
    "EntranceDose",
    "EntranceDoseInmGy",
    "OrganDose",
)
#: The change in words, for the header.
SCALED = "tube current, exposure and CTDIvol are scaled to the simulated dose"


def scale_dose(image: Dataset, dose: float) -> None:
    """Multiply all attributes that follow the dose by a fraction of it.

    Integer attributes are rounded, but a positive value does not become 0. Values that are empty or no numbers
    stay.

    Parameters
    ----------
    image : Dataset
        Header, with any sequences; changed in place.
    dose : float
        Fraction of the source's dose.
    """
    for keyword in DOSE_ATTRIBUTES:
        if keyword in image:
            _scale(image, keyword, dose)
    for tag in list(image.keys()):
        vr = image.get_item(tag).VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")
        if vr == "SQ":
            for item in image[tag].value or []:
                scale_dose(item, dose)


def _scale(image: Dataset, keyword: str, dose: float) -> None:
    try:
        element = image[keyword]
        values = [float(value) * dose for value in (element.value if element.VM > 1 else [element.value])]
    except Exception:  # no number; pydicom may fail in any way on damaged bytes
        return
    if element.VR in ("IS", "US"):
        scaled: list[int] | list[float] | list[str] = [round(value) or int(value > 0) for value in values]
    else:
        scaled = [f"{value:.10g}" for value in values] if element.VR == "DS" else values
    element.value = scaled if len(scaled) > 1 else scaled[0]
