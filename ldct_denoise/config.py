"""Settings of a training run: read from a recipe, changed by ``--set``, validated, and stored with the run."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ldct_denoise.errors import ConfigError, did_you_mean
from ldct_denoise.intensity import Scale
from ldct_denoise.setting_errors import SettingError, SettingSources, setting_problem
from ldct_denoise.training_config import Section, TrainingConfig


class RangeConfig(Section):
    """HU range that is mapped to [0, 1] for the network; pixels outside it are left unchanged."""

    low_hu: float = Field(-1024.0, description="HU that become 0 for the network; pixels below are not changed")
    high_hu: float = Field(3072.0, description="HU that become 1 for the network; pixels above are not changed")


NoiseModelName = Literal["nps", "random_nps", "dose_simulation", "gaussian", "poisson", "none"]


class DataConfig(Section):
    """Which slices form the pools, and how patches and training noise are drawn from them."""

    patch_size: int = Field(
        64, ge=16, le=1024, multiple_of=16, description="side of a square training patch, pixels; a multiple of 16"
    )
    kernels: tuple[str, ...] = Field(
        (), description="use only series with these convolution kernels; empty: all series"
    )
    source_thickness_mm: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (),
        description="use only series with these slice thicknesses (Slice Thickness, or the slice spacing where "
        "none is stated), mm, to 5 %; empty: all series",
    )
    low_patterns: tuple[str, ...] = Field(
        (),
        description="your own words or regular expressions for low dose (--low-pattern)",
    )
    normal_patterns: tuple[str, ...] = Field((), description="the same for normal dose (--normal-pattern)")
    assume_hu: bool = Field(
        False, description="take values for HU where header or values speak against it (--assume-hu)"
    )
    test_patients: tuple[str, ...] = Field(
        (), description="patients excluded from training and validation, for a later test"
    )
    validation_patients: tuple[str, ...] = Field(
        (), description="patients used for validation only; empty: drawn at random, see validation_fraction"
    )
    validation_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="fraction of the patients drawn for validation where validation_patients is empty; "
        "none are drawn from fewer than 5",
    )
    folds: int | None = Field(
        None, ge=2, description="cross-validation: number of folds into which the patients are divided; null: off"
    )
    fold: int = Field(
        0, ge=0, description="cross-validation: the fold whose patients are left out, from 0; they validate"
    )
    split: str | None = Field(
        None,
        description="published split of the patients, by name (mayo2016-l506, ldct-benchmark), or a JSON file in "
        "the form of nnU-Net's splits_final.json, of which fold is used; its test patients and patients that it "
        "does not name are left out",
    )
    noise_model: NoiseModelName = Field(
        "none",
        description="noise added to normal-dose patches in training. nps: spectrum and level measured in the "
        "low-dose pool; random_nps: nps, mixed with random spectra (random_nps_prob); dose_simulation: the "
        "difference between a simulated low-dose scan (simulated_dose) and the slice, mixed with random spectra; "
        "gaussian, poisson: uncorrelated noise of level sigma, which also makes the low-dose pool of photographs; "
        "none: no noise is added",
    )
    sigma: tuple[float, float] = Field(
        (5.0, 50.0),
        description="noise_model gaussian or poisson: range of the noise level, drawn uniformly for each patch; "
        "gaussian: standard deviation, HU or grey values; poisson: grey values per photon",
    )
    noise_level_factors: tuple[float, float] = Field(
        (0.5, 1.5),
        description="noise_model nps or random_nps: noise standard deviations are drawn between the lowest and "
        "the highest measured in the low-dose pool, times these two factors",
    )
    noise_by_content: bool = Field(
        False,
        description="noise_model nps or random_nps: give noise in lung, in bone and at edges the level that the "
        "difference of the two pools shows there, for each kernel that both pools have",
    )
    target_noise_fraction: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="noise standard deviation of normal dose as a fraction of low dose (0.5: four times the "
        "dose); the training target keeps that fraction squared of the added noise; 0: noise-free target",
    )
    random_nps_prob: float = Field(
        0.5,
        ge=0,
        le=1,
        description="noise_model random_nps or dose_simulation: probability that a patch gets noise with a random "
        "spectrum",
    )
    clip_min_hu: float | None = Field(
        None,
        description="lowest HU that the scanner stores; patches with noise added are clipped there; null: off",
    )
    simulated_dose: tuple[float, float] | None = Field(
        None,
        description="simulate the low-dose pool from the normal-dose pool, each scan at a dose fraction drawn "
        "from this range; null: off",
    )
    noise_realisations: int = Field(
        2,
        ge=1,
        le=100,
        description="scans simulated of each normal-dose series, each with its own dose and noise realisation",
    )
    downscale_factors: tuple[Annotated[float, Field(ge=0.1, lt=1)], ...] = Field(
        (), description="add copies of the normal-dose slices, resampled to these fractions of their size"
    )
    slice_thickness_mm: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="average adjacent normal-dose slices to each of these thicknesses, mm; empty: off"
    )
    augment: bool = Field(True, description="random flips and rotations by 90 degrees")
    cache_num: int = Field(
        1024,
        ge=1,
        description="decoded slices that each process keeps in memory, for each pool and for simulated scans",
    )
    cache_dir: str | None = Field(
        None, description="folder that keeps decoded slices and simulated scans between runs; null: none"
    )
    num_workers: int = Field(
        0, ge=0, description="processes that read slices and cut patches; 0: the training process does"
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> DataConfig:
        for name in ("noise_level_factors", "sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} {low:g}...{high:g}: give two numbers, 0 < low <= high")
        return self

    @model_validator(mode="after")
    def _check_fold(self) -> DataConfig:
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold}: with folds: {self.folds} give 0 to {self.folds - 1}")
        if self.folds is None and self.split is None and self.fold:
            raise ValueError(f"fold {self.fold}: needs data.folds, or a file for data.split")
        if self.split is not None and (self.folds or self.validation_patients or self.test_patients):
            raise ValueError("split names the patients; leave out folds, validation_patients and test_patients")
        if self.folds is not None and self.validation_patients:
            raise ValueError("folds choose the validation patients; leave out validation_patients")
        return self

    @model_validator(mode="after")
    def _check_simulation(self) -> DataConfig:
        if self.simulated_dose is None:
            if self.noise_model == "dose_simulation":
                raise ValueError("noise_model: dose_simulation needs data.simulated_dose, as [0.1, 0.25]")
            return self
        low, high = self.simulated_dose
        if not 0 < low <= high <= 1:
            raise ValueError(f"simulated_dose {low:g}...{high:g}: give two fractions, 0 < low <= high <= 1")
        if self.noise_model in ("gaussian", "poisson"):
            raise ValueError(f"simulated_dose needs CT noise, not noise_model: {self.noise_model}")
        return self


class Config(Section):
    """Everything that determines a training run, except the images."""

    method: str = Field("lir", description="name of the method; `ldct-denoise models` lists them")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the method")
    range_hu: RangeConfig = RangeConfig()  # type: ignore[call-arg]
    data: DataConfig = DataConfig()  # type: ignore[call-arg]
    training: TrainingConfig = TrainingConfig()  # type: ignore[call-arg]
    pretraining: dict[str, Any] | None = Field(
        None,
        description="settings of a first stage that differ from the other sections; the training then starts from "
        "the weights of that stage; null: a single stage",
    )

    @property
    def scale(self) -> Scale:
        """HU range as a :class:`~ldct_denoise.intensity.Scale`."""
        return Scale(self.range_hu.low_hu, self.range_hu.high_hu)

    def pretraining_config(self) -> Config | None:
        """Settings of the first stage: these, changed by ``pretraining``; None where there is one stage.

        Raises
        ------
        ConfigError
            If ``pretraining`` holds an unknown key or an impossible value.
        """
        if self.pretraining is None:
            return None
        content = _merged(self.model_dump(mode="json", exclude={"pretraining"}), self.pretraining)
        try:
            first = Config(**content)
        except ValidationError as error:
            raise setting_problem(error, Config, prefix="pretraining") from None
        if first.pretraining is not None:
            raise ConfigError("config pretraining: has a pretraining of its own; a run has two stages at most")
        return first

    def to_yaml(self) -> str:
        """The complete configuration as YAML, which :func:`load_config` reads."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def recipes() -> dict[str, Path]:
    """Files of the shipped recipes, by name."""
    folder = importlib.resources.files("ldct_denoise.configs")
    return {
        Path(str(item)).stem: Path(str(item))
        for item in sorted(folder.iterdir(), key=str)
        if str(item).endswith(".yaml")
    }


def load_config(
    name_or_file: str,
    changes: Sequence[str] = (),
    methods: Collection[str] = (),
    check_settings: Callable[[str, Mapping[str, Any]], object] = lambda method, settings: None,
) -> Config:
    """Read a configuration.

    A file with ``base: NAME`` (a recipe, or a file in the same folder) holds only settings that differ from it.

    Parameters
    ----------
    name_or_file : str
        Name of a recipe, or a YAML file.
    changes : sequence of str
        Changed settings, each as ``section.key=value`` with the value in YAML.
    methods : collection of str
        Names that stand for the default settings of a method, where they are no recipe and no file.
    check_settings : callable
        Validates the settings of a method, as :func:`ldct_denoise.methods.check_settings` does.

    Raises
    ------
    ConfigError
        If the recipe is unknown, the file unreadable, a key unknown or a value impossible. The message begins with
        the change, or the file and its line.
    """
    if name_or_file in methods and name_or_file not in recipes() and not Path(name_or_file).is_file():
        sources, content = SettingSources(f"config {name_or_file}"), {"method": name_or_file}
    else:
        path = _find(name_or_file, Path(), methods)
        sources = SettingSources(f"config {path}")
        content = _read_with_base(path, (), sources)
    for change in changes:
        _change(content, change, sources)
    try:
        config = _validated(content)
        for stage in (config, config.pretraining_config()):
            if stage is not None:
                check_settings(stage.method, stage.settings)
    except SettingError as error:
        raise ConfigError(f"{sources.of(error.key)}: {error}") from None
    return config


def _find(name_or_file: str, folder: Path, methods: Collection[str] = ()) -> Path:
    path = recipes().get(name_or_file, folder / name_or_file)
    if not path.is_file():
        meant = did_you_mean(name_or_file, [*recipes(), *methods])
        raise ConfigError(f"config {name_or_file!r}: no such file, nor a recipe{meant} ({', '.join(recipes())})")
    return path


def _read_with_base(path: Path, descendants: tuple[Path, ...], sources: SettingSources) -> dict[str, Any]:
    """Settings of a file, merged into those of its ``base``."""
    if path in descendants:
        raise ConfigError(f"config {path}: is its own base")
    content = read_mapping(path)
    base = content.pop("base", None)
    if base is None:
        sources.add_file(path)
        return content
    if not isinstance(base, str):
        raise ConfigError(f"config {path}: base must be a recipe's name or a file")
    under = _read_with_base(_find(base, path.parent), (*descendants, path), sources)
    sources.add_file(path)  # after its base, whose settings it changes
    return _merged(under, content)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings at every depth; values of ``over`` take precedence."""
    both = dict(under)
    for key, value in over.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the settings of a YAML file without validating them.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, or does not hold a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"config {path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"config {path}: must be a mapping of settings")
    return content


def parse_config(content: Mapping[str, Any], where: str) -> Config:
    """Validate a mapping of settings.

    Parameters
    ----------
    content : mapping
        Sections and settings, as a YAML file holds them.
    where : str
        Source of the settings, named in errors.

    Raises
    ------
    ConfigError
        If a key is unknown or a value impossible.
    """
    try:
        config = _validated(content)
        config.pretraining_config()
    except SettingError as error:
        raise ConfigError(f"config {where}: {error}") from None
    return config


def _validated(content: Mapping[str, Any]) -> Config:
    try:
        return Config(**content)
    except ValidationError as error:
        raise setting_problem(error, Config) from None


def assignment(text: str, where: str, form: str) -> tuple[str, Any]:
    """Parse ``key=value`` with the value in YAML.

    Parameters
    ----------
    text : str
        The assignment.
    where : str
        Its source, named in errors.
    form : str
        The expected form, named in errors.

    Raises
    ------
    ConfigError
        If it is not an assignment, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{where}: give {form}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{where}: the value is not YAML") from None


def _change(content: dict[str, Any], change: str, sources: SettingSources) -> None:
    key, value = assignment(change, f"--set {change!r}", "section.key=value, as training.iterations=500")
    *sections, last = key.split(".")
    sources.add((*sections, last), f"--set {change}")
    target = content
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {change!r}: {section!r} is not a section")
    target[last] = value
