"""Checks of a denoised series against its input: each has a status (green, amber, red) and a reason in words.

The limits are this project's own, calibrated as described in ``docs/reference/measurements.md``. They
warn; they do not certify.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ldct_denoise.metrics.lesion_changes import LesionChange

#: Limits of the checks; pairs are (amber, red).
MAX_NOISE_RISE, MAX_NOISE_REDUCTION = 0.02, 0.9
MAX_HU_SHIFT = (1.0, 3.0)
MIN_EDGE_SHARPNESS = (0.95, 0.85)
#: Resolution that a phantom's edges of lower contrast keep; denoisers that are not linear lose it there first.
MIN_LOW_CONTRAST_RESOLUTION = (0.9, 0.6)
MAX_EDGE_CORRELATION = (0.2, 0.4)
MAX_FLICKER_RISE = (0.10, 0.30)
#: Fall of the mean noise frequency. Commercial products publish −16 % at 40–50 % noise reduction; red is
#: twice that.
MAX_FREQUENCY_DROP = (0.16, 0.32)
#: Tissues whose HU shift and noise are checked. Bone and lung are not flat: their shift depends on the mask's
#: border.
CHECKED_TISSUES = ("fat", "soft-tissue")


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Parameters
    ----------
    name : str
    status : {"green", "amber", "red"}
        Within the limits, to be reviewed, or failed.
    reason : str
        The measured values in words.
    value : float
        The value that is compared with the limits.
    short : str
        The value, and where it is exceeded the limit, as part of a sentence.
    """

    name: str
    status: str
    reason: str
    value: float
    short: str = ""


def status_of(value: float, limits: tuple[float, float], above_is_bad: bool = True) -> str:
    """Status of a value: red beyond the second limit, amber beyond the first.

    Parameters
    ----------
    value : float
    limits : tuple of 2 floats
        Limits (amber, red).
    above_is_bad : bool
        Whether larger values are worse; otherwise smaller ones are.

    Returns
    -------
    {"green", "amber", "red"}
    """
    sign = 1 if above_is_bad else -1
    amber, red = limits
    if sign * value > sign * red:
        return "red"
    return "amber" if sign * value > sign * amber else "green"


def check_noise(noise_hu: Mapping[str, tuple[float, float]]) -> Check | None:
    """Check the change of the noise level; ``noise_hu`` maps tissues to the level before and after, HU."""
    if not noise_hu:
        return None
    tissue = "soft-tissue" if "soft-tissue" in noise_hu else next(iter(noise_hu))
    before, after = noise_hu[tissue]
    change = after / before - 1 if before > 0 else 0.0
    words = (
        f"global noise level in {tissue}: {before:.1f} HU before, {after:.1f} HU after ({signed(100 * change)} %)"
    )
    short = f"noise {signed(100 * change)} % in {tissue}"
    if change > MAX_NOISE_RISE:
        return Check("noise", "red", f"{words}; the output is noisier than the input", change, short)
    if change < -MAX_NOISE_REDUCTION:
        reason = f"{words}; so little noise is left that texture may be lost"
        return Check("noise", "amber", reason, change, short)
    return Check("noise", "green", words, change, short)


def check_shift(shift_hu: Mapping[str, float]) -> Check | None:
    """Check the shift of mean HU; ``shift_hu`` maps tissues to the mean of after − before, HU."""
    if not shift_hu:
        return None
    checked = [tissue for tissue in CHECKED_TISSUES if tissue in shift_hu] or list(shift_hu)
    worst = max(checked, key=lambda tissue: abs(shift_hu[tissue]))
    words = ", ".join(f"{tissue} {signed(value, 2)} HU" for tissue, value in shift_hu.items())
    status = status_of(abs(shift_hu[worst]), MAX_HU_SHIFT)
    short = mean_hu_words(shift_hu[worst], worst)
    tail = "" if status == "green" else f"; {worst} shifted by more than {MAX_HU_SHIFT[0]:g} HU"
    return Check("mean HU", status, f"mean HU after − before: {words}{tail}", shift_hu[worst], short)


def mean_hu_words(shift_hu: float, where: str = "") -> str:
    """A shift of mean HU as part of a sentence; ``where`` names the tissue of a shift beyond the limit."""
    if abs(shift_hu) <= MAX_HU_SHIFT[0]:
        return f"mean HU unchanged ({signed(shift_hu, 1)} HU)"
    place = f" of {where}" if where else ""
    return f"mean HU{place} shifted by {signed(shift_hu, 1)} HU (limit ±{MAX_HU_SHIFT[0]:g})"


def signed(value: float, digits: int = 0) -> str:
    """A number with its sign; the minus is the typographic one, and zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", "−")


def check_sharpness(ratio: float) -> Check | None:
    """Check the ratio of edge gradients after/before; none if it is NaN."""
    if np.isnan(ratio):
        return None
    status = status_of(ratio, MIN_EDGE_SHARPNESS, above_is_bad=False)
    tail = "" if status == "green" else "; strong edges are blurred compared with the input"
    words = f"strong edges keep {100 * ratio:.1f} % of their gradient"
    short = (
        f"edges keep {100 * ratio:.0f} % of their gradient{_limit(status, f'{100 * MIN_EDGE_SHARPNESS[0]:.0f} %')}"
    )
    return Check("edge sharpness", status, f"{words}{tail}", ratio, short)


def check_removed_anatomy(correlation: float) -> Check | None:
    """Check the edge correlation of the removed signal; none if it is NaN."""
    if np.isnan(correlation):
        return None
    status = status_of(abs(correlation), MAX_EDGE_CORRELATION)
    words = "little anatomy was removed with the noise"
    if status != "green":
        words = "anatomy may have been removed with the noise; look at the difference image"
    reason = f"{words} (edge correlation {correlation:.2f}; limit {MAX_EDGE_CORRELATION[0]:.2f})"
    short = f"edge correlation of the removed signal {correlation:.2f}"
    short += _limit(status, f"{MAX_EDGE_CORRELATION[0]:.2f}")
    return Check("removed anatomy", status, reason, correlation, short)


def check_flicker(before_hu: float, after_hu: float) -> Check | None:
    """Check the rise of the slice-to-slice change, HU; none if the input has none."""
    if not before_hu > 0:
        return None
    rise = after_hu / before_hu - 1
    status = status_of(rise, MAX_FLICKER_RISE)
    words = f"neighbouring slices differ by {before_hu:.1f} HU before and {after_hu:.1f} HU after"
    tail = "" if status == "green" else "; the output varies more from slice to slice than the input"
    short = f"flicker {signed(100 * rise)} %{_limit(status, f'+{100 * MAX_FLICKER_RISE[0]:.0f} %')}"
    return Check("flicker", status, f"{words} (block means, rms){tail}", rise, short)


def _limit(status: str, limit: str) -> str:
    """The limit in brackets, where it is exceeded."""
    return "" if status == "green" else f" (limit {limit})"


def check_lesion_changes(
    changes: Sequence[LesionChange], searched: float, limits: tuple[float, float], offsets_mm: Sequence[float]
) -> Check | None:
    """Check for lesion-sized structures that were erased or invented; none where no tissue could be searched.

    Parameters
    ----------
    changes : sequence of LesionChange
        The largest changes of the series, the largest first, also below the limits.
    searched : float
        Share of the body's pixels that was searched.
    limits : tuple of 2 floats
        Limits (amber, red) of the absolute z; see
        :func:`~ldct_denoise.metrics.lesion_changes.lesion_z_limits`.
    offsets_mm : sequence of float
        Position of each slice along the normal, mm.

    Returns
    -------
    Check or None
    """
    if not searched > 0:
        return None
    part = f"{100 * searched:.0f} % of the body was searched"
    if not changes:
        reason = f"no lesion-sized structure was erased or invented; {part}"
        return Check("lesion-sized changes", "green", reason, 0.0, "no lesion-sized change")
    worst = changes[0]
    status = status_of(abs(worst.z), limits)
    kind = "brighter" if worst.contrast_hu > 0 else "darker"
    place = (
        f"{abs(worst.contrast_hu):.0f} HU {kind} than the input over {worst.size_mm:g} mm at row {worst.row}, "
        f"column {worst.column} of the slice at z = {offsets_mm[worst.slice_number]:.1f} mm "
        f"(z score {signed(worst.z, 1)})"
    )
    if status == "green":
        reason = f"the largest change is within what noise explains: {place}; limit ±{limits[0]:.1f}; {part}"
    else:
        count = sum(abs(change.z) > limits[0] for change in changes)
        others = f", and {count - 1} more" if count > 1 else ""
        reason = (
            f"a structure may have been erased or invented: the output is {place}{others}; limit "
            f"±{limits[0]:.1f}; {part}"
        )
    short = f"lesion-sized change of z score {signed(worst.z, 1)} at z = {offsets_mm[worst.slice_number]:.1f} mm"
    return Check("lesion-sized changes", status, reason, worst.z, short + _limit(status, f"±{limits[0]:.1f}"))


def check_texture(change: tuple[float, float]) -> Check | None:
    """Check the change of the mean noise frequency; none if it is NaN.

    Parameters
    ----------
    change : tuple of 2 floats
        Limits of the relative change; see :func:`~ldct_denoise.metrics.texture.texture_shift`. The first, which
        anatomy in the ROIs cannot make worse, decides.

    Returns
    -------
    Check or None
    """
    least, largest = change
    if np.isnan(least):
        return None
    status = status_of(-least, MAX_FREQUENCY_DROP)
    words = f"mean noise frequency changes by {signed(100 * least)} %"
    if abs(largest - least) >= 0.01:
        words += f" to {signed(100 * largest)} % (the latter with the anatomy in the regions)"
    degree = {"green": "", "amber": "; the remaining noise is coarser than commercial products leave it"}
    tail = degree.get(status, "; the remaining noise is much coarser (blotchy)")
    limit = f"−{100 * MAX_FREQUENCY_DROP[0]:.0f} %"
    short = f"mean noise frequency {signed(100 * least)} %{_limit(status, limit)}"
    return Check("noise texture", status, f"{words}; limit {limit}{tail}", least, short)
