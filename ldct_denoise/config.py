"""The settings of a training run: read from a recipe, changed by ``--set``, validated, written beside the run."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ldct_denoise.errors import ConfigError
from ldct_denoise.intensity import Scale


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RangeConfig(_Section):
    """HU that become 0 and 1 for the network; outside them a model leaves the image as it is."""

    low_hu: float = -1024.0
    high_hu: float = 3072.0


class DataConfig(_Section):
    """Which slices make the pools, and how patches are cut from them."""

    patch: int = Field(
        64, ge=16, le=1024, multiple_of=16, description="side of a square training patch, pixels: a multiple of 16"
    )
    kernels: tuple[str, ...] = Field((), description="only series with these convolution kernels; empty: all")
    test_patients: tuple[str, ...] = Field((), description="kept out of everything, for a later test")
    validation_patients: tuple[str, ...] = Field((), description="kept out of the pools, used to validate")
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="of the patients, where validation_patients is empty and there are 5 or more"
    )
    noise: Literal["measured", "broad", "simulated", "synthetic", "none"] = Field(
        "none",
        description="noise fields given to the method: measured from the low-dose pool (no pairs), or that and a "
        "broad family of spectra and levels, or that family and what data.simulated_dose adds in its place, or of "
        "the synthetic law, or none",
    )
    synthetic: Literal["gaussian", "poisson"] | None = Field(
        None, description="natural images: the noise that makes the low-dose pool"
    )
    synthetic_sigma: tuple[float, float] = Field(
        (5.0, 50.0), description="natural images: range of noise levels, grey values, drawn anew for each patch"
    )
    noise_range: tuple[float, float] = Field(
        (0.5, 1.5), description="noise levels drawn, relative to the lowest and highest measured in the pool"
    )
    normal_noise: float = Field(
        0.5, ge=0, lt=1, description="noise of the normal-dose pool relative to the low-dose pool's (0.5: 4x dose)"
    )
    keep_noise: bool = Field(
        False,
        description="normal-dose patches get the share of the drawn noise that normal dose itself has "
        "(normal_noise squared), so that a model keeps that much rather than none",
    )
    broad_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="noise broad or simulated: share of fields from the broad family",
    )
    floor_hu: float | None = Field(
        None, description="the scanner stores nothing below this: neither does a patch with noise added"
    )
    below_floor: Literal["cut", "fold"] = Field(
        "cut", description="what would lie below floor_hu is set to it (cut), or comes back above it (fold)"
    )
    simulated_dose: tuple[float, float] | None = Field(
        None,
        description="make the low-dose pool from the normal-dose one, each scan at a dose fraction in this range",
    )
    simulated_scans: int = Field(
        2, ge=1, le=100, description="scans simulated of each normal-dose series, each with its own dose and noise"
    )
    sharpen: float = Field(
        0.0,
        ge=0,
        description="normal-dose patches get up to this much of their fine detail again, as from a sharper kernel",
    )
    shrink: tuple[Annotated[float, Field(ge=0.1, lt=1)], ...] = Field(
        (), description="the normal-dose pool holds each slice again at these fractions of its size: finer anatomy"
    )
    slabs_mm: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="normal-dose slices are averaged with their neighbours to each of these thicknesses, mm"
    )
    neighbours_mm: tuple[float, float] = Field(
        (0.8, 5.0), description="2.5-D: distances at which training takes the slices beside one, drawn uniformly"
    )
    lone_share: float = Field(
        0.1, ge=0, le=1, description="2.5-D: share of patches without slices beside them, as of a lone slice"
    )
    augment: bool = Field(True, description="random flips and quarter turns")
    memory_slices: int = Field(
        1024, ge=1, description="slices that each process holds in memory, of each pool and of simulated scans"
    )
    cache_dir: str | None = Field(
        None, description="folder where decoded slices are kept (MONAI PersistentDataset)"
    )
    workers: int = Field(
        0, ge=0, description="processes that read and cut patches; 0: the training process itself"
    )

    @model_validator(mode="after")
    def _noise_can_be_drawn(self) -> DataConfig:
        low, high = self.noise_range
        if not 0 < low <= high:
            raise ValueError(f"noise_range {low:g}...{high:g}: give two factors, 0 < low <= high")
        if self.noise == "synthetic" and self.synthetic is None:
            raise ValueError("noise: synthetic needs data.synthetic, gaussian or poisson")
        near, far = self.neighbours_mm
        if not 0 < near <= far:
            raise ValueError(f"neighbours_mm {near:g}...{far:g}: give two distances, 0 < near <= far")
        return self

    @model_validator(mode="after")
    def _simulation_is_possible(self) -> DataConfig:
        if self.simulated_dose is None:
            if self.noise == "simulated":
                raise ValueError("noise: simulated needs data.simulated_dose, as [0.1, 0.25]")
            return self
        low, high = self.simulated_dose
        if not 0 < low <= high <= 1:
            raise ValueError(f"simulated_dose {low:g}...{high:g}: give two fractions, 0 < low <= high <= 1")
        if self.synthetic:
            raise ValueError("simulated_dose is for CT, synthetic for natural images: give one of them")
        return self


class TrainingConfig(_Section):
    """The loop."""

    iterations: int = Field(1000, ge=1, description="steps of the optimizers")
    start_from: str | None = Field(
        None, description="a trained model (name, file or run folder) whose weights the run begins with"
    )
    minutes: float | None = Field(None, gt=0, description="stop after so many minutes of training, if earlier")
    batch: int = Field(16, ge=1, description="patches of each pool in a step, over all processes")
    accumulate: int = Field(1, ge=1, description="parts in which a batch is worked through, to save memory")
    learning_rate: float = Field(1e-4, gt=0)
    decay: Literal["none", "cosine", "halve", "exponential"] = "none"
    decay_every: int = Field(
        100_000, ge=1, description="halve: steps between halvings; exponential: time constant"
    )
    warmup: int = Field(0, ge=0, description="steps over which the learning rate rises from 0")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the running average of the weights that is kept; 0: none"
    )
    seed: int = Field(0, ge=0, lt=2**32)
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    log_every: int = Field(20, ge=1)
    validate_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    validation_slices: int = Field(8, ge=1, description="slices measured at each validation")
    select: Literal["unpaired", "last"] = Field(
        "unpaired", description="which weights the run keeps: best by evidence that needs no pairs, or the last"
    )

    @model_validator(mode="after")
    def _divides(self) -> TrainingConfig:
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} does not divide into {self.accumulate} parts (accumulate)")
        return self


class Config(_Section):
    """Everything that decides a training run, besides the images."""

    method: str = "lir"
    settings: dict[str, Any] = Field(default_factory=dict, description="of the method; see `ldct-denoise models`")
    range_hu: RangeConfig = RangeConfig()
    data: DataConfig = DataConfig()  # type: ignore[call-arg]
    training: TrainingConfig = TrainingConfig()  # type: ignore[call-arg]

    @property
    def scale(self) -> Scale:
        """The HU range as a :class:`Scale`."""
        return Scale(self.range_hu.low_hu, self.range_hu.high_hu)

    def to_yaml(self) -> str:
        """The whole configuration as a recipe that :func:`load_config` reads back."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def recipes() -> dict[str, Path]:
    """The recipes that ship, by name."""
    folder = importlib.resources.files("ldct_denoise.configs")
    return {
        Path(str(item)).stem: Path(str(item))
        for item in sorted(folder.iterdir(), key=str)
        if str(item).endswith(".yaml")
    }


def load_config(name_or_file: str, changes: Sequence[str] = ()) -> Config:
    """A validated configuration.

    A file may say ``base: NAME`` (a recipe, or a file beside it) and then only what differs from that.

    Parameters
    ----------
    name_or_file : str
        A recipe's name or a YAML file.
    changes : sequence of str
        ``section.key=value`` each, the value in YAML.

    Raises
    ------
    ConfigError
        Unknown recipe, unreadable file, unknown key or impossible value.
    """
    path = _find(name_or_file, Path())
    content = _on_base(path, ())
    for change in changes:
        _change(content, change)
    return parse_config(content, str(path))


def _find(name_or_file: str, folder: Path) -> Path:
    path = recipes().get(name_or_file, folder / name_or_file)
    if not path.is_file():
        raise ConfigError(f"config {name_or_file!r}: no such file, nor a recipe ({', '.join(recipes())})")
    return path


def _on_base(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The file's settings laid over those of its ``base``."""
    if path in above:
        raise ConfigError(f"config {path}: is its own base")
    content = read_mapping(path)
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ConfigError(f"config {path}: base must be a recipe's name or a file")
    return _merged(_on_base(_find(base, path.parent), (*above, path)), content)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings, at every depth; ``over`` wins."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        both[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file's settings, not yet validated.

    Raises
    ------
    ConfigError
        If it cannot be read, is not YAML, or is no mapping.
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
    """Validate a mapping of settings; ``where`` is named in errors."""
    try:
        return Config(**content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        hint = f"; known: {', '.join(known_keys(Config, first['loc']))}" if unknown else ""
        raise ConfigError(f"config {where}: {key or 'settings'}: {first['msg']}{hint}") from None


def known_keys(section: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that there are beside the one at ``location``."""
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        section = annotation
    return list(section.model_fields)


def assignment(text: str, where: str, form: str) -> tuple[str, Any]:
    """``key=value``, the value in YAML; errors name ``where`` it stood, and the ``form`` that is wanted.

    Raises
    ------
    ConfigError
        If it is none.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{where}: give {form}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{where}: the value is not YAML") from None


def _change(content: dict[str, Any], change: str) -> None:
    key, value = assignment(change, f"--set {change!r}", "section.key=value, as training.iterations=500")
    *sections, last = key.split(".")
    target = content
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {change!r}: {section!r} is not a section")
    target[last] = value
