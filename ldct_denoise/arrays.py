"""Denoising and dose simulation of arrays, volumes and series in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.volume import Geometry, SliceSource, Volume

if TYPE_CHECKING:
    from ldct_denoise.models.trained import TrainedModel


@overload
def denoise(
    image: NDArray[Any],
    model: str | Path | TrainedModel = ...,
    *,
    spacing_mm: Sequence[float] | None = ...,
    strength: float | None = ...,
) -> NDArray[np.float32]: ...


@overload
def denoise(
    image: SliceSource,
    model: str | Path | TrainedModel = ...,
    *,
    spacing_mm: None = ...,
    strength: float | None = ...,
) -> Volume: ...


def denoise(
    image: NDArray[Any] | SliceSource,
    model: str | Path | TrainedModel = "lir-ct",
    *,
    spacing_mm: Sequence[float] | None = None,
    strength: float | None = None,
) -> NDArray[np.float32] | Volume:
    """Denoise an array, a volume or a series in memory.

    For whole studies on disk use :func:`apply`, which writes derived series and keeps memory flat.

    Parameters
    ----------
    image : ndarray, Volume or SliceSource
        An array holds HU (not stored values, not values scaled to 0…1): shape (rows, columns) or
        (slices, rows, columns), a signed integer or floating type, no NaN.
    model : str, Path or TrainedModel
        As :func:`load_model` takes it. Load a model once and pass it when you denoise many arrays.
    spacing_mm : sequence of float, optional
        Spacing of an array: (row, column) or (slice, row, column). Required where the output keeps texture (the
        default of the shipped models), and for three-dimensional arrays where the model sees adjacent slices. A
        model's low-frequency passthrough has a width in mm; without a spacing it is for pixels of 0.8 mm. Volumes
        and series carry their own.
    strength : float, optional
        0 returns the input, 1 the network's output, values between blend the two. Default: as in :func:`apply`.

    Returns
    -------
    ndarray or Volume
        For an array a float32 array of the same shape; otherwise a :class:`~ldct_denoise.Volume`.

    Raises
    ------
    InputError
        If the array does not hold HU.
    ConfigError
        If ``spacing_mm`` is missing, impossible or not needed, or the strength is outside 0…1.
    ModelError
        If the model cannot be loaded or used.

    Examples
    --------
    >>> hu = np.random.default_rng(0).normal(40, 30, (3, 64, 64))
    >>> denoised = ldct_denoise.denoise(hu, model="bilateral")
    >>> denoised.shape, denoised.dtype.name
    ((3, 64, 64), 'float32')
    >>> bool(denoised.std() < hu.std())
    True
    >>> volume = ldct_denoise.denoise(ldct_denoise.read_series(folder)[0], "lir-ct", strength=0.8)
    >>> volume.hu.shape
    (4, 96, 96)
    """
    from ldct_denoise.inference.settings import DEFAULT_APPLY_SETTINGS
    from ldct_denoise.inference.slices import restore_slices
    from ldct_denoise.models.trained import TrainedModel, load_model

    loaded = model if isinstance(model, TrainedModel) else load_model(model)
    settings = DEFAULT_APPLY_SETTINGS if strength is None else replace(DEFAULT_APPLY_SETTINGS, strength=strength)
    keeps_texture = settings.plain_strength(loaded.keeps_texture) is None
    sees_adjacent_slices = loaded.method.context_slices > 0 and isinstance(image, np.ndarray) and image.ndim == 3
    source = _as_source(image, spacing_mm, needs_spacing=keeps_texture or sees_adjacent_slices)
    hu = np.empty(source.geometry.shape, dtype=np.float32)
    for index, restored in restore_slices(source, loaded, settings):
        hu[index] = restored
    return hu.reshape(image.shape) if isinstance(image, np.ndarray) else _volume_like(source, hu)


def simulate_low_dose(
    image: NDArray[Any] | SliceSource,
    dose: float,
    *,
    spacing_mm: Sequence[float] | None = None,
    seed: int = 0,
) -> NDArray[np.float32] | Volume:
    """Add the noise that a lower dose would have to a normal-dose image.

    The noise spectrum is measured in the image itself; ``ldct-denoise simulate`` offers more settings.

    Parameters
    ----------
    image : ndarray, Volume or SliceSource
        Axial slices in HU; an array as for :func:`denoise`.
    dose : float
        Fraction of the image's own dose, 0 < dose ≤ 1.
    spacing_mm : sequence of float, optional
        Spacing of an array, (row, column) or (slice, row, column); required for an array.
    seed : int
        Another seed gives another noise realisation.

    Returns
    -------
    ndarray or Volume
        The same kind as ``image``.

    Raises
    ------
    InputError
        If the image does not hold HU, or holds no noise whose spectrum could be measured.
    ConfigError
        If the dose or the spacing is impossible or missing.

    Examples
    --------
    >>> normal = ldct_denoise.read_series(folder)[0]
    >>> quarter = ldct_denoise.simulate_low_dose(normal, dose=0.25)
    >>> quarter.hu.shape
    (4, 96, 96)
    """
    from ldct_denoise.physics.simulate_series import Simulation, simulated_slices

    source = _as_source(image, spacing_mm, needs_spacing=True)
    hu = np.stack(list(simulated_slices(source, Simulation(dose, seed))))
    return hu.reshape(image.shape) if isinstance(image, np.ndarray) else _volume_like(source, hu)


def _volume_like(source: SliceSource, hu: NDArray[np.float32]) -> Volume:
    """A volume with the identity and geometry of ``source``."""
    return Volume(hu, source.geometry, source.uid, source.patient, source.name, source.metadata)


def _as_source(
    image: NDArray[Any] | SliceSource, spacing_mm: Sequence[float] | None, *, needs_spacing: bool
) -> SliceSource:
    """An array as an axial volume; volumes and series as they are."""
    if isinstance(image, np.ndarray):
        return _array_as_volume(image, spacing_mm, needs_spacing)
    if isinstance(image, str | Path):
        raise InputError(f"{image}: a path; pass one of `read_series(path)`, or use `apply` to denoise files")
    if not isinstance(image, SliceSource):
        raise InputError(f"{type(image).__name__}: give a NumPy array in HU, a Volume or a series")
    if spacing_mm is not None:
        raise ConfigError("spacing_mm: only for arrays; a volume or series has its own spacing")
    return image


def _array_as_volume(image: NDArray[Any], spacing_mm: Sequence[float] | None, needs_spacing: bool) -> Volume:
    from ldct_denoise.methods.base import NOMINAL_SPACING_MM

    _require_hu(image)
    if spacing_mm is None and needs_spacing:
        raise ConfigError(
            "spacing_mm: needed here; give (row, column) or (slice, row, column) spacing in mm, or strength=1"
        )
    nominal = (1.0, *NOMINAL_SPACING_MM)[-image.ndim :]
    spacing = nominal if spacing_mm is None else tuple(float(value) for value in spacing_mm)
    if len(spacing) != image.ndim or not all(np.isfinite(value) and value > 0 for value in spacing):
        raise ConfigError(
            f"spacing_mm: {spacing_mm} does not fit an array of shape {image.shape}; give one positive number "
            "of mm for each axis"
        )
    step_mm, row_mm, column_mm = (1.0, *spacing) if image.ndim == 2 else spacing
    stack = image[None] if image.ndim == 2 else image
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, column_mm], [0, row_mm, 0], [step_mm, 0, 0]]
    return Volume(stack.astype(np.float32), Geometry.from_affine(affine, stack.shape), name="array")


def _require_hu(image: NDArray[Any]) -> None:
    """Refuse arrays that cannot be HU: wrong shape or type, NaN, unsigned or normalised values."""
    if image.ndim not in (2, 3) or image.size == 0:
        raise InputError(f"array of shape {image.shape}: give (rows, columns) or (slices, rows, columns)")
    if np.issubdtype(image.dtype, np.unsignedinteger):
        raise InputError(
            f"array of {image.dtype}: unsigned integers cannot hold the HU of air (−1000); apply Rescale Slope "
            "and Intercept to stored values and give a signed or floating type"
        )
    if not (np.issubdtype(image.dtype, np.signedinteger) or np.issubdtype(image.dtype, np.floating)):
        raise InputError(f"array of {image.dtype}: give HU as a signed integer or floating type")
    bad = int(image.size - np.isfinite(image).sum())
    if bad:
        raise InputError(f"array: {bad} of {image.size} values are NaN or infinite; write air (−1000 HU) there")
    low, high = float(image.min()), float(image.max())
    if -1 <= low < high <= 1:
        raise InputError(
            f"array with values from {low:g} to {high:g}: looks normalised; give HU (air −1000, water 0), "
            "for example by Scale(low_hu, high_hu).to_hu(array)"
        )
