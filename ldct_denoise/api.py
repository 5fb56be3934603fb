"""The public functions of ``ldct_denoise``: plain arguments in, arrays, volumes and files out.

Each function converts its arguments (paths, names, arrays) and calls the library once. Modules that import torch
are imported inside the functions, so that reading a series stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.dose_words import Dose, DosePatterns
from ldct_denoise.io.find import find_images
from ldct_denoise.volume import SliceSource

if TYPE_CHECKING:
    from ldct_denoise.config import Config
    from ldct_denoise.evaluation.plan import MeasurementPlan
    from ldct_denoise.evaluation.results import Evaluation
    from ldct_denoise.models.trained import TrainedModel
    from ldct_denoise.regions.regions import Region

AnyPath = str | Path
Images = AnyPath | SliceSource | Sequence[SliceSource]
#: Called with (items done, items in all, note).
Progress = Callable[[int, int, str], None]
_DEFAULT_WINDOWS = (WINDOWS["full"], WINDOWS["abdomen"])


def read_series(path: AnyPath, *, assume_hu: bool = False) -> list[SliceSource]:
    """Find every CT series at or below a path.

    Only headers are read: ``series.read_hu(index)`` decodes one slice, ``Volume.of(series)`` all of them.

    Parameters
    ----------
    path : str or Path
        A DICOM, NIfTI, NRRD or MHA file, a folder or tree of such files, a zip archive, or a DICOMDIR.
    assume_hu : bool
        Take values for HU where header or values speak against it.

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
    inventory = find_images(Path(path), include_derived=True, assume_hu=assume_hu)
    if not inventory.series:
        reason = f" ({inventory.main_exclusion})" if inventory.skipped else ""
        raise InputError(f"{path}: no CT series{reason}; `ldct-denoise inspect` lists why files are not used")
    return list(inventory.series)


def apply(
    path: AnyPath,
    output: AnyPath,
    model: AnyPath | TrainedModel = "lir-ct",
    *,
    strength: float | None = None,
    noise_reduction: float | None = None,
    device: str = "auto",
    format: Literal["dicom", "nifti"] | None = None,
    assume_hu: bool = False,
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
        As :func:`ldct_denoise.load_model` takes it.
    strength : float, optional
        0 (input) to 1 (network), a plain blend. Default: the output that the model's card recommends; the shipped
        models aim at the texture of normal dose.
    noise_reduction : float, optional
        Percent less noise in uniform tissue, in place of ``strength``.
    device : str
        Where to compute.
    format : {"dicom", "nifti"}, optional
        By default as the output's name says, else the input's own.
    assume_hu : bool
        Take values for HU where header or values speak against it.
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
    from ldct_denoise.inference.settings import DEFAULT_APPLY_SETTINGS
    from ldct_denoise.io.write_settings import WriteSettings
    from ldct_denoise.models.trained import TrainedModel, load_model

    loaded = model if isinstance(model, TrainedModel) else load_model(model)
    settings = replace(
        DEFAULT_APPLY_SETTINGS,
        device=device,
        strength=strength,
        noise_reduction=noise_reduction,
        assume_hu=assume_hu,
    )
    writing = WriteSettings(format=format, overwrite=overwrite)
    return batch.apply(Path(path), loaded, Path(output), settings, writing, progress=progress or _no_progress)


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
    device : str
        Where to compute.
    resume : bool
        Continue the run in ``output``.
    overwrite : bool
        Start again in a folder that holds a run.

    Returns
    -------
    Path
        The model file, which :func:`ldct_denoise.load_model` and :func:`denoise` accept.

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
    if not isinstance(config, Config):
        config = load_config(str(config), changes, methods.names(), methods.check_settings)
    settings = config
    supervision, seed = methods.describe(settings.method).supervision, settings.training.seed
    if dicom_root is not None:
        pools = pools_from_root(Path(dicom_root), settings.data, seed, supervision)
    else:
        pools = pools_from_paths([*map(Path, low)], [*map(Path, normal)], settings.data, seed, supervision)
    return loop.train(settings, pools, Path(output), device=device, resume=resume, overwrite=overwrite)


def evaluate(
    candidate: Images | Mapping[str, Images],
    reference: Images,
    input: Images | None = None,
    *,
    windows: Sequence[Window | str] = _DEFAULT_WINDOWS,
    rois: Sequence[Region | str] = (),
    low_patterns: Sequence[str] = (),
    normal_patterns: Sequence[str] = (),
    assume_hu: bool = False,
    output: AnyPath | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Measure images against a reference.

    Slices are paired by position and orientation.

    Parameters
    ----------
    candidate : path, SliceSource or sequence of SliceSource, or mapping of str to these
        The denoised images; several by name, measured on the slices of the first.
    reference : path, SliceSource or sequence of SliceSource
        The normal-dose images.
    input : path, SliceSource or sequence of SliceSource, optional
        The low-dose images, measured too.
    windows : sequence of Window or str
        Preset names, ``LEVEL,WIDTH`` or windows, in HU.
    rois : sequence of Region or str
        Measured in addition to the whole image and the body: a label volume, DICOM SEG or RTSTRUCT file,
        ``X,Y,Z,RADIUS`` (sphere, LPS mm), or the name of a tissue (``lung``, ``fat``, ``soft-tissue``, ``bone``).
    low_patterns, normal_patterns : sequence of str
        Your own words or regular expressions for the doses, as ``--low-pattern`` and ``--normal-pattern`` take
        them; for paths that hold both doses.
    assume_hu : bool
        Take values of files for HU where header or values speak against it.
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
        If a window, region or pattern cannot be understood.
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

    plan, patterns = _measurement_plan(windows, rois), DosePatterns(tuple(low_patterns), tuple(normal_patterns))
    if output is not None:
        make_output_folder(Path(output), overwrite)
    result = evaluation.evaluate(
        {
            name: _images(images, None, patterns, assume_hu)
            for name, images in (candidate if isinstance(candidate, Mapping) else {"candidate": candidate}).items()
        },
        _images(reference, Dose.NORMAL, patterns, assume_hu),
        None if input is None else _images(input, Dose.LOW, patterns, assume_hu),
        plan,
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
    low_patterns: Sequence[str] = (),
    normal_patterns: Sequence[str] = (),
    assume_hu: bool = False,
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
        Each as :func:`ldct_denoise.load_model` takes it.
    windows : sequence of Window or str
        As for :func:`evaluate`.
    rois : sequence of Region or str
        As for :func:`evaluate`.
    include_training_patients : bool
        Also measure patients that a model was trained on; by default they are left out for every model.
    low_patterns, normal_patterns : sequence of str
        As for :func:`evaluate`.
    assume_hu : bool
        Take values for HU where header or values speak against it.
    device : str
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
        If no model is given, or a window, region or pattern cannot be understood.
    OutputError
        If ``output`` holds something and ``overwrite`` is not given.

    Examples
    --------
    >>> result = ldct_denoise.compare(pairs, ["bilateral", "nlm"], windows=["abdomen"])
    >>> result.models[:3]
    ('input', 'bilateral', 'nlm')
    """
    from ldct_denoise.evaluation import compare as comparison
    from ldct_denoise.inference.settings import ApplySettings
    from ldct_denoise.models.trained import TrainedModel, load_model
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.report.write import write_comparison

    plan = _measurement_plan(windows, rois)
    loaded = [model if isinstance(model, TrainedModel) else load_model(model) for model in models]
    if output is not None:
        make_output_folder(Path(output), overwrite)
    result = comparison.compare(
        Path(dicom_root),
        loaded,
        plan,
        include_training_patients=include_training_patients,
        patterns=DosePatterns(tuple(low_patterns), tuple(normal_patterns)),
        settings=ApplySettings(device=device, assume_hu=assume_hu),
    )
    if output is not None:
        write_comparison(result, Path(output), overwrite=True)
    return result


def _no_progress(done: int, total: int, note: str) -> None:
    pass


def _images(images: Images, dose: Dose | None, patterns: DosePatterns, assume_hu: bool) -> Sequence[SliceSource]:
    from ldct_denoise.evaluation.evaluate import images_under

    if isinstance(images, str | Path):
        return images_under(Path(images), dose, patterns, assume_hu)
    return [images] if isinstance(images, SliceSource) else images


def _measurement_plan(windows: Sequence[Window | str], rois: Sequence[Region | str]) -> MeasurementPlan:
    """Settings for the library's ``evaluate`` and ``compare``."""
    from ldct_denoise.evaluation.plan import DEFAULT_REGIONS, MeasurementPlan
    from ldct_denoise.regions.parse import parse_regions

    parsed = [region for roi in rois for region in (parse_regions(roi) if isinstance(roi, str) else [roi])]
    return MeasurementPlan(
        [Window.parse(window) if isinstance(window, str) else window for window in windows],
        (*DEFAULT_REGIONS, *parsed),
    )
