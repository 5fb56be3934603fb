"""The folder of a run: may a run start or resume there, and with which settings and images?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ldct_denoise.config import Config, parse_config
from ldct_denoise.data.folds import SPLITS_FILE
from ldct_denoise.data.pools import Pools
from ldct_denoise.errors import ConfigError, InputError, OutputError
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.models.catalogue import MODEL_FILE
from ldct_denoise.output import atomic_write
from ldct_denoise.training.log import TrainingLog
from ldct_denoise.training.state import STATE_FILE
from ldct_denoise.volume import SliceSource

CONFIG_FILE = "config.yaml"
#: Folder of simulated scans. They are made before a run starts and equal in every run, so they may stay.
SCRATCH = "simulated"
#: Folder of the models that a run keeps besides ``model.safetensors``: the last, and every N steps.
KEPT_MODELS = "checkpoints"
#: Folder of the first stage of a run with ``pretraining``.
FIRST_STAGE = "stage1"
#: Settings that may change when a run resumes: its length, learning rate, intervals, and how images are read.
RESUMABLE_SETTINGS = frozenset({
    "training.iterations", "training.max_minutes", "training.learning_rate",
    "training.validate_every", "training.checkpoint_every", "training.keep_every",
    "data.num_workers", "data.cache_num", "data.cache_dir",
})  # fmt: skip


def check_run_folder(output: Path, resume: bool, overwrite: bool) -> None:
    """Check that a run may start or resume in a folder; nothing is written.

    Parameters
    ----------
    output : Path
        Run folder.
    resume : bool
        The run is to resume.
    overwrite : bool
        An earlier run may be replaced.

    Raises
    ------
    OutputError
        If it is a file, holds other files, or holds a model without the checkpoint to resume from.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give a folder for the run")
    if not output.is_dir() or overwrite:
        return
    if resume:
        if (output / MODEL_FILE).exists() and not (output / STATE_FILE).is_file():
            remedy = "give another --output, or --overwrite to lose the model and start again"
            raise OutputError(f"{output}: contains a model, but no {STATE_FILE} to continue from; {remedy}")
    elif {path.name for path in output.iterdir()} - {SCRATCH}:
        raise OutputError(f"{output}: is not empty; --resume continues the run, --overwrite starts again")


def clear_results(folder: Path) -> None:
    """Remove the checkpoint, models, log and configuration of an earlier run."""
    for path in (folder / KEPT_MODELS).glob("*.safetensors"):
        path.unlink()
    for name in (STATE_FILE, MODEL_FILE, TrainingLog.FILE, CONFIG_FILE, SPLITS_FILE):
        (folder / name).unlink(missing_ok=True)


def write_config(output: Path, config: Config) -> None:
    """Write the resolved configuration into a run folder."""
    text = config.to_yaml()
    atomic_write(output / CONFIG_FILE, lambda part: part.write_text(text, encoding="utf-8"))


def provenance(config: Config, pools: Pools) -> dict[str, Any]:
    """Settings and images of a run, for its checkpoint."""
    return {"config": config.model_dump(mode="json"), "images": pools.describe() | {"digest": _digest(pools)}}


def diff_settings(state: Mapping[str, Any], config: Config, pools: Pools, output: Path) -> list[str]:
    """Compare settings and images with those of a checkpoint.

    Parameters
    ----------
    state : mapping
        Checkpoint.
    config : Config
        Settings of the run that resumes.
    pools : Pools
        Images of the run that resumes.
    output : Path
        Run folder, for messages.

    Returns
    -------
    list of str
        Changes of :data:`RESUMABLE_SETTINGS`, as ``training.max_minutes was 5, is 8``.

    Raises
    ------
    ConfigError
        If another setting differs.
    InputError
        If the images differ: the model's card would name the wrong patients.
    """
    before = parse_config(state.get("config") or _read_config(output), str(output / CONFIG_FILE))
    now = provenance(config, pools)
    found = _differences(*(dict(_flat(settings)) for settings in (before.model_dump(mode="json"), now["config"])))
    fixed = [change for key, change in found.items() if key not in RESUMABLE_SETTINGS]
    if fixed:
        raise ConfigError(
            f"--resume: {'; '.join(fixed)}; go on in {output} with the settings that it began with: only length, "
            "learning rate, intervals, workers and caches may change"
        )
    images = state.get("images", now["images"])
    if images["digest"] != now["images"]["digest"]:
        differences = _differences(images, {**now["images"], "digest": images["digest"]}).values()
        raise InputError(
            f"--resume: not the images that {output} was trained on so far "
            f"({'; '.join(differences) or 'other series of the same patients'}); give the same images, or another "
            "--output"
        )
    return list(found.values())


def _read_config(output: Path) -> dict[str, Any]:
    path = output / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{path}: missing, so the run cannot be resumed")
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``section.key`` and value of every setting, at every depth."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: f"{key} was {before.get(key, 'not given')}, is {now.get(key, 'not given')}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    }


def _digest(pools: Pools) -> str:
    """Digest of every series, its patient and number of slices; independent of order and location."""
    training = {"low": pools.low, "normal": pools.normal}
    validation = {"held-out low": pools.validation_low, "held-out normal": pools.validation_normal}
    lines = sorted(
        f"{part}\t{source.patient}\t{_identity(source)}\t{len(source)}"
        for part, sources in {**training, **validation}.items()
        for source in sources
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _identity(source: SliceSource) -> str:
    """Identity of a series that survives copying; the UID of a volume file depends on its path and time."""
    if isinstance(source, Series):
        return source.uid
    geometry = source.geometry
    return f"{source.name} {geometry.rows} {geometry.columns} {geometry.positions_mm.round(3).tolist()}"
