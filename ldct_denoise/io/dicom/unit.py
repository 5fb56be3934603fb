"""Decide whether an image of the CT class is CT in HU: by several attributes together, in doubt by its values.

No attribute decides alone. SimpleITK and GDCM write Rescale Type US (unspecified) into CT in HU and into MR stored
as CT; some CT scanners write attributes of MR; perfusion maps may have every attribute of a CT slice.
"""

from __future__ import annotations

import re
from enum import IntEnum

import numpy as np
from pydicom.dataset import Dataset

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.dicom.values import number, text, values
from ldct_denoise.io.inventory import Exclusion, ExclusionKind

#: Attributes of MR images; a single one also occurs in CT images (Scanning Sequence RM of some Siemens scanners).
MR_ONLY = ("EchoTime", "RepetitionTime", "MagneticFieldStrength", "ScanningSequence", "InversionTime", "FlipAngle")
#: Attributes that only CT images have; scanners write at least one of them.
CT_ONLY = ("KVP", "ConvolutionKernel", "XRayTubeCurrent", "Exposure", "CTDIvol", "GantryDetectorTilt")
#: Rescale Type as spelled for HU, letters only; "HU" is the defined term (PS3.3 C.11.1.1.2).
HOUNSFIELD = re.compile(r"(HU)?(HOUNSFIELDS?(UNITS?)?)?(HU)?")
#: Rescale Types, letters only, that say nothing about the unit.
UNSPECIFIED = ("", "US", "UNSPECIFIED", "UNKNOWN", "NONE")
#: Words in Image Type that name a perfusion map; its values are not HU (PS3.3 C.8.16.1.4 and vendors' variants).
MAPS = ("RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX", "PBV", "PMB", "TTD")
#: Ends messages about the unit.
REMEDY = "; give --assume-hu if they are HU"

#: Values below this are fat or air, HU; MR images and maps stored as CT have none.
LOW_HU = -30.0
#: Ranges (HU) that both occur in a CT slice, and the smallest share of pixels in each.
AIR_OR_FAT_HU, SOFT_TISSUE_HU, LEAST_SHARE = (-1100.0, -150.0), (-150.0, 350.0), 0.001
#: No tissue is above this, HU; only metal is.
HIGHEST_TISSUE_HU = 4000.0
#: Rescale Intercept of CT is about -1024 where values are stored unsigned, HU.
CT_INTERCEPT_HU = -900.0
#: Share of a map's pixels that its constant background has at least.
BACKGROUND_SHARE = 0.05
SAMPLED_SLICES = 3


class HuEvidence(IntEnum):
    """How well a header shows that values are HU; the more doubtful, the more the values must show."""

    DOUBTFUL = 0  # nothing speaks for HU, or attributes of MR speak against it
    LIKELY = 1  # attributes of CT, but no Rescale Type
    TYPICAL = 2  # the same, of an original image with the rescale of CT: Rescale Type may then be absent
    STATED = 3  # Rescale Type HU


def unit_exclusion(header: Dataset) -> Exclusion | None:
    """Reason in the header why values are certainly not HU, or None.

    Parameters
    ----------
    header : Dataset
        Header of an image of a CT class.
    """
    return _mr(header) or _map(header) or _other_unit(header)


def hu_evidence(header: Dataset) -> HuEvidence:
    """How well the header of an image that is not excluded shows that its values are HU."""
    mr, ct = _mr_signs(header), _ct_signs(header)
    if mr and ct < mr + 2:
        return HuEvidence.DOUBTFUL
    unit = _unit(header)
    if _is_hu(unit):
        return HuEvidence.STATED
    if unit or mr or not ct:
        return HuEvidence.DOUBTFUL
    is_original = values(header, "ImageType")[:1] == ("ORIGINAL",)
    has_ct_rescale = (number(header, "RescaleIntercept") or 0) <= CT_INTERCEPT_HU
    return HuEvidence.TYPICAL if is_original and has_ct_rescale and ct > 1 else HuEvidence.LIKELY


def values_exclusion(series: Series, evidence: HuEvidence) -> Exclusion | None:
    """Reason in the values of up to three slices why a series is not in HU, or None.

    Parameters
    ----------
    series : Series
    evidence : HuEvidence
        What the headers show.
    """
    if evidence is HuEvidence.STATED:
        return None
    try:
        sampled = np.concatenate([_values(series, index) for index in _sampled(len(series))])
    except InputError:
        return None  # what cannot be decoded is refused where it is used
    if not sampled.size:  # nothing but padding
        return None
    # One low value alone is the background of a map. Padding is excluded.
    has_low_values = len(np.unique(sampled[sampled < LOW_HU])) > 1
    is_crop = evidence is HuEvidence.TYPICAL and np.mean(sampled == sampled.min()) < BACKGROUND_SHARE
    if not has_low_values and not is_crop:
        reason = f"no Rescale Type HU, and no tissue or air below {LOW_HU:g} HU; perhaps MR or a map"
        return Exclusion(ExclusionKind.POSSIBLY_MR, reason + REMEDY)
    if evidence is HuEvidence.DOUBTFUL and not _looks_like_ct(sampled):
        reason = (
            "nothing in the header says HU, and the values are not those of air, fat and soft tissue; perhaps MR"
        )
        return Exclusion(ExclusionKind.POSSIBLY_MR, reason + REMEDY)
    return None


def _looks_like_ct(hu: np.ndarray) -> bool:
    shares = [np.mean((hu >= low) & (hu < high)) for low, high in (AIR_OR_FAT_HU, SOFT_TISSUE_HU)]
    return bool(min(shares) >= LEAST_SHARE and np.percentile(hu, 99) < HIGHEST_TISSUE_HU)


def _sampled(count: int) -> list[int]:
    """Indices spread over a series."""
    return sorted({count * part // (SAMPLED_SLICES + 1) for part in range(1, SAMPLED_SLICES + 1)})


def _values(series: Series, index: int) -> np.ndarray:
    return series.read_hu(index)[~series.padding(index)]


# Attributes -------------------------------------------------------------------------------------------------


def _mr(header: Dataset) -> Exclusion | None:
    signs = _mr_signs(header)
    if not signs or signs < _ct_signs(header):
        return None
    named = [name for name in MR_ONLY if _has(header, name)] or ["modality MR"]
    return Exclusion(ExclusionKind.MR, f"MR stored as CT (has {', '.join(named)}){REMEDY}")


def _map(header: Dataset) -> Exclusion | None:
    words = {word for value in values(header, "ImageType") for word in re.split(r"[ _]", value)}
    named = [name for name in MAPS if name in words]
    if not named:
        return None
    return Exclusion(ExclusionKind.NOT_HU, f"a map ({named[0]} in Image Type), not values in HU{REMEDY}")


def _other_unit(header: Dataset) -> Exclusion | None:
    unit = _unit(header)
    if unit in UNSPECIFIED or _is_hu(unit):
        return None
    stated = text(header, "RescaleType").upper()
    return Exclusion(ExclusionKind.NOT_HU, f"values are not HU but '{stated}' (Rescale Type){REMEDY}")


def _unit(header: Dataset) -> str:
    """Letters of Rescale Type."""
    return re.sub(r"[^A-Z0-9]", "", text(header, "RescaleType").upper())


def _is_hu(unit: str) -> bool:
    return bool(unit) and HOUNSFIELD.fullmatch(unit) is not None


def _has(header: Dataset, keyword: str) -> bool:
    """Whether an attribute has a value; anonymisers write 0 for none."""
    return bool(text(header, keyword)) and number(header, keyword) != 0


def _mr_signs(header: Dataset) -> int:
    return sum(_has(header, name) for name in MR_ONLY) + 2 * (text(header, "Modality").upper() == "MR")


def _ct_signs(header: Dataset) -> int:
    return sum(bool(text(header, name)) for name in CT_ONLY) + 2 * _is_hu(_unit(header))
