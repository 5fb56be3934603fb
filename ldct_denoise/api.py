"""The public functions of ``ldct_denoise``: plain arguments in, arrays, volumes and files out.

Each function converts its arguments (paths, names, arrays) and calls the library once. Modules that import torch
are imported inside the functions, so that reading a series stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.dose_labels import Dose
from ldct_denoise.io.find import find_images
from ldct_denoise.volume import Geometry, SliceSource, Volume

if TYPE_CHECKING:
    from ldct_denoise.config import Config
    from ldct_denoise.evaluation.results import Evaluation
    from ldct_denoise.models.trained import TrainedModel
    from ldct_denoise.regions.regions import Region

AnyPath = str | Path
Images = AnyPath | SliceSource | Sequence[SliceSource]
#: Called with (items done, items in all, note).
Progress = Callable[[int, int, str], None]
_DEFAULT_WINDOWS = (WINDOWS["full"], WINDOWS["abdomen"])


def read_series(path: AnyPath) -> list[SliceSource]:
    """Find every CT series at or below a path.

    Only headers are read: ``series.read_hu(index)`` decodes one slice, ``Volume.of(series)`` all of them.

    Parameters
    ----------
    path : str or Path
        A DICOM, NIfTI, NRRD or MHA file, a folder or tree of such files, a zip archive, or a DICOMDIR.

    Returns
    -------
    list of SliceSource
        Each with ``uid``, ``patient``, ``name``, ``geometry``, ``metadata`` and ``len(series)`` slices. Series
        that this package denoised are included; their ``metadata.derivation`` says so.

    Raises
    ------
    InputError
        If the path does not exist or holds no CT series.

    Examples
    --------
    >>> series = ldct_denoise.read_series(folder)
    >>> [(one.patient, one.metadata.kernel, len(one)) for one in series]
    [('P001', 'B30f', 4)]
    >>> series[0].read_hu(0).shape
    (96, 96)
    """
    inventory = find_images(Path(path), include_derived=True)
    if not inventory.series:
        excluded = inventory.set_aside
        reason = f" ({excluded[0].path.name}: {excluded[0].reason})" if excluded else ""
        raise InputError(f"{path}: no CT series{reason}; `ldct-denoise inspect` lists why files are not used")
    return list(inventory.series)


def load_model(name: AnyPath) -> TrainedModel:
    """Load a trained model, or a method that needs no training.

    Parameters
    ----------
    name : str or Path
        A shipped model (``lir-ct``, ``fast``), a ``.safetensors`` file, the output folder of a training
        run, or an untrained method with optional settings (``bm3d:sigma_hu=100,strength=0.8``).

    Returns
    -------
    TrainedModel
        On the CPU, in evaluation mode. :func:`denoise`, :func:`apply` and :func:`compare` accept it.

    Raises
    ------
    ModelError
        If there is no such model or its file cannot be used.
    ConfigError
        If a setting of an untrained method is unknown or impossible.

    Examples
    --------
    >>> model = ldct_denoise.load_model("lir-ct")
    >>> model.method_name, model.scale.low_hu, model.scale.high_hu
    ('lir', -1024.0, 3072.0)
    """
    from ldct_denoise.models import trained

    return trained.load_model(name)


@overload
def denoise(
    image: NDArray[Any],
    model: AnyPath | TrainedModel = ...,
    *,
    spacing_mm: Sequence[float] | None = ...,
    strength: float | None = ...,
) -> NDArray[np.float32]: ...


@overload
def denoise(
    image: SliceSource,
    model: AnyPath | TrainedModel = ...,
    *,
    spacing_mm: None = ...,
    strength: float | None = ...,
) -> Volume: ...


def denoise(
    image: NDArray[Any] | SliceSource,
    model: AnyPath | TrainedModel = "lir-ct",
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
        Spacing of an array: (row, column) or (slice, row, column). Only models that see adjacent slices use it,
        for three-dimensional arrays; there it is required. Volumes and series carry their own.
    strength : float, optional
        0 returns the input, 1 the model's output, values between blend the two. Default: as in :func:`apply`.

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
    from ldct_denoise.inference.slices import DEFAULTS, restore_slices
    from ldct_denoise.models.trained import TrainedModel

    loaded = model if isinstance(model, TrainedModel) else load_model(model)
    settings = DEFAULTS if strength is None else replace(DEFAULTS, strength=strength)
    sees_adjacent_slices = loaded.method.context_slices > 0 and isinstance(image, np.ndarray) and image.ndim == 3
    source = _as_source(image, spacing_mm, needs_spacing=sees_adjacent_slices)
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


def apply(
    path: AnyPath,
    output: AnyPath,
    model: AnyPath | TrainedModel = "lir-ct",
    *,
    strength: float | None = None,
    device: str = "auto",
    format: Literal["dicom", "nifti"] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Denoise every CT series under a path and write derived series.

    The same as ``ldct-denoise apply``: each series appears whole or not at all, the input is never changed, and a
    repeated call continues a tree where an earlier one stopped.

    Parameters
    ----------
    path : str or Path
        A DICOM folder, file or tree, or a volume file.
    output : str or Path
        Folder or file of the result; of several series each gets a subfolder.
    model : str, Path or TrainedModel
        As :func:`load_model` takes it.
    strength : float, optional
        0 (input) to 1 (model).
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    format : {"dicom", "nifti"}, optional
        By default as the output's name says, else the input's own.
    overwrite : bool
        Replace an output that exists.
    progress : callable, optional
        Called with (slices done, slices in all, note).

    Returns
    -------
    list of Path
        Folder or file of each written series.

    Raises
    ------
    InputError, ConfigError, OutputError, ModelError
        If nothing was written.
    PartialError
        If some series were written and others were not.

    Examples
    --------
    >>> written = ldct_denoise.apply(folder, output / "denoised", model="lir-ct-small")
    >>> [path.name for path in written]
    ['denoised']
    """
    from ldct_denoise.inference import batch
    from ldct_denoise.inference.series import WriteSettings
    from ldct_denoise.inference.slices import DEFAULTS
    from ldct_denoise.models.trained import TrainedModel

    loaded = model if isinstance(model, TrainedModel) else load_model(model)
    settings = replace(DEFAULTS, device=device, strength=DEFAULTS.strength if strength is None else strength)
    writing = WriteSettings(format=format, overwrite=overwrite)
    return batch.apply(Path(path), loaded, Path(output), settings, writing, progress or _no_progress)


def train(
    config: AnyPath | Config,
    output: AnyPath,
    *,
    dicom_root: AnyPath | None = None,
    low: Sequence[AnyPath] = (),
    normal: Sequence[AnyPath] = (),
    changes: Sequence[str] = (),
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a denoiser.

    Parameters
    ----------
    config : str, Path or Config
        A shipped configuration (``lir-ct``), a YAML file, or a configuration object.
    output : str or Path
        Run folder: gets ``config.yaml``, ``training.csv``, TensorBoard events, ``checkpoint.pt`` and
        ``model.safetensors``.
    dicom_root : str or Path, optional
        One tree with low- and normal-dose series (Mayo 2016, TCIA, or folders named low and normal).
    low, normal : sequence of str or Path
        Instead of ``dicom_root``: low-dose and normal-dose folders or volume files.
    changes : sequence of str
        Settings that differ from ``config``, each as ``section.key=value``.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    resume : bool
        Continue the run in ``output``.
    overwrite : bool
        Start again in a folder that holds a run.

    Returns
    -------
    Path
        The model file, which :func:`load_model` and :func:`denoise` accept.

    Raises
    ------
    ConfigError
        If a setting is unknown or impossible, or it is unclear where the images are.
    InputError
        If a pool that the method needs would be empty.
    OutputError
        If ``output`` holds a run and neither ``resume`` nor ``overwrite`` is given.
    TrainingError
        If the run diverged.

    Examples
    --------
    >>> model = ldct_denoise.train(
    ...     "unet", output / "run", dicom_root=pairs, changes=["training.iterations=1"], device="cpu"
    ... )
    >>> model.name
    'model.safetensors'
    """
    from ldct_denoise import methods
    from ldct_denoise.config import Config, load_config
    from ldct_denoise.data.pools import pools_from_paths, pools_from_root
    from ldct_denoise.training import loop

    if (dicom_root is None) == (not low and not normal):
        raise ConfigError("give either dicom_root, or low and normal")
    if isinstance(config, Config) and changes:
        raise ConfigError("changes: only with a configuration's name or file; change the object itself instead")
    settings = config if isinstance(config, Config) else load_config(str(config), changes)
    supervision, seed = methods.find(settings.method).supervision, settings.training.seed
    if dicom_root is not None:
        pools = pools_from_root(Path(dicom_root), settings.data, seed, supervision)
    else:
        pools = pools_from_paths([*map(Path, low)], [*map(Path, normal)], settings.data, seed, supervision)
    return loop.train(settings, pools, Path(output), device=device, resume=resume, overwrite=overwrite)


def evaluate(
    candidate: Images,
    reference: Images,
    input: Images | None = None,
    *,
    windows: Sequence[Window | str] = _DEFAULT_WINDOWS,
    rois: Sequence[Region | str] = (),
    output: AnyPath | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Measure images against a reference.

    Slices are paired by position and orientation.

    Parameters
    ----------
    candidate : path, SliceSource or sequence of SliceSource
        The denoised images.
    reference : path, SliceSource or sequence of SliceSource
        The normal-dose images.
    input : path, SliceSource or sequence of SliceSource, optional
        The low-dose images, measured too.
    windows : sequence of Window or str
        Preset names, ``LEVEL,WIDTH`` or windows, in HU.
    rois : sequence of Region or str
        Measured in addition to the whole image and the body: a label volume, DICOM SEG or RTSTRUCT file,
        ``X,Y,Z,RADIUS`` (sphere, LPS mm), or the name of a tissue (``lung``, ``fat``, ``soft-tissue``, ``bone``).
    output : str or Path, optional
        Folder that gets ``metrics.csv``, ``summary.json`` and ``report.html``.
    overwrite : bool
        Write into a folder that holds something.

    Returns
    -------
    Evaluation
        ``rows`` holds every measurement, ``summary()`` means and confidence intervals, ``lines()`` a plain table.

    Raises
    ------
    InputError
        If no slice of the candidate has a partner in the reference.
    ConfigError
        If a window or region cannot be understood.
    OutputError
        If ``output`` holds something and ``overwrite`` is not given.

    Examples
    --------
    >>> low, normal = pairs / "low", pairs / "normal"
    >>> result = ldct_denoise.evaluate(low, normal, windows=["abdomen"])
    >>> result.models[0], result.rows[0].metric
    ('candidate', 'psnr')
    """
    from ldct_denoise.evaluation import evaluate as evaluation
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.report.write import write_evaluation

    options = _measurement_options(windows, rois)
    if output is not None:
        make_output_folder(Path(output), overwrite)
    result = evaluation.evaluate(
        _images(candidate, None),
        _images(reference, Dose.NORMAL),
        None if input is None else _images(input, Dose.LOW),
        **options,
    )
    if output is not None:
        write_evaluation(result, Path(output), overwrite=True)
    return result


def compare(
    dicom_root: AnyPath,
    models: Sequence[AnyPath | TrainedModel],
    *,
    windows: Sequence[Window | str] = _DEFAULT_WINDOWS,
    rois: Sequence[Region | str] = (),
    include_training_patients: bool = False,
    device: str = "auto",
    output: AnyPath | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Measure several models on all low/normal pairs of a tree, with paired statistics.

    Parameters
    ----------
    dicom_root : str or Path
        Tree with low- and normal-dose series of the same patients.
    models : sequence of str, Path or TrainedModel
        Each as :func:`load_model` takes it.
    windows : sequence of Window or str
        As for :func:`evaluate`.
    rois : sequence of Region or str
        As for :func:`evaluate`.
    include_training_patients : bool
        Also measure patients that a model was trained on; by default they are left out for every model.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    output : str or Path, optional
        Folder that gets ``metrics.csv``, ``summary.json`` and ``report.html``.
    overwrite : bool
        Write into a folder that holds something.

    Returns
    -------
    Evaluation
        With the model ``input`` and every model of ``models``; ``extra["paired"]`` holds the paired statistics.

    Raises
    ------
    InputError
        If the tree holds no pair, or only patients that a model was trained on.
    ConfigError
        If no model is given, or a window or region cannot be understood.
    OutputError
        If ``output`` holds something and ``overwrite`` is not given.

    Examples
    --------
    >>> result = ldct_denoise.compare(pairs, ["bilateral", "nlm"], windows=["abdomen"])
    >>> result.models[:3]
    ('input', 'bilateral', 'nlm')
    """
    from ldct_denoise.evaluation import compare as comparison
    from ldct_denoise.inference.slices import ApplySettings
    from ldct_denoise.models.trained import TrainedModel
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.report.write import write_comparison

    options = _measurement_options(windows, rois)
    loaded = [model if isinstance(model, TrainedModel) else load_model(model) for model in models]
    if output is not None:
        make_output_folder(Path(output), overwrite)
    result = comparison.compare(
        Path(dicom_root),
        loaded,
        include_training_patients=include_training_patients,
        settings=ApplySettings(device=device),
        **options,
    )
    if output is not None:
        write_comparison(result, Path(output), overwrite=True)
    return result


def _no_progress(done: int, total: int, note: str) -> None:
    pass


def _volume_like(source: SliceSource, hu: NDArray[np.float32]) -> Volume:
    """A volume with the identity and geometry of ``source``."""
    return Volume(hu, source.geometry, source.uid, source.patient, source.name, source.metadata)


def _images(images: Images, dose: Dose | None) -> Sequence[SliceSource]:
    from ldct_denoise.evaluation.evaluate import images_under

    if isinstance(images, str | Path):
        return images_under(Path(images), dose)
    return [images] if isinstance(images, SliceSource) else images


def _measurement_options(windows: Sequence[Window | str], rois: Sequence[Region | str]) -> dict[str, Any]:
    """``windows`` and ``regions`` as the library's ``evaluate`` and ``compare`` take them."""
    from ldct_denoise.evaluation.evaluate import DEFAULT_REGIONS
    from ldct_denoise.regions.parse import parse_regions

    parsed = [region for roi in rois for region in (parse_regions(roi) if isinstance(roi, str) else [roi])]
    return {
        "windows": [Window.parse(window) if isinstance(window, str) else window for window in windows],
        "regions": (*DEFAULT_REGIONS, *parsed),
    }


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
    _require_hu(image)
    if spacing_mm is None and needs_spacing:
        raise ConfigError("spacing_mm: needed here; give (row, column) or (slice, row, column) spacing in mm")
    spacing = (1.0,) * image.ndim if spacing_mm is None else tuple(float(value) for value in spacing_mm)
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
