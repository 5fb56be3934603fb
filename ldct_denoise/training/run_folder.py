"""A run's folder: whether a run may begin or go on there, with which settings and images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ldct_denoise.config import Config, parse_config
from ldct_denoise.data.pools import Pools
from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.models.trained import MODEL_FILE
from ldct_denoise.training.state import STATE_FILE
from ldct_denoise.volume import SliceSource

CONFIG_FILE = "config.yaml"
#: Simulated scans, made before a run begins; they are the same in every run, so none is in another's way.
SCRATCH = "simulated"
#: Settings that another part of a run may have: how long, how fast it learns, how often it tells, how it reads.
FREE = frozenset({
    "training.iterations", "training.max_minutes", "training.learning_rate",
    "training.validate_every", "training.checkpoint_every", "data.num_workers", "data.cache_num", "data.cache_dir",
})  # fmt: skip


def refusal(output: Path, resume: bool, overwrite: bool) -> str:
    """Why no run may begin or go on in a folder, or nothing."""
    if output.exists() and not output.is_dir():
        return f"{output}: is a file; give a folder for the run"
    if not output.is_dir() or overwrite:
        return ""
    if resume:
        lost = (output / MODEL_FILE).exists() and not (output / STATE_FILE).is_file()
        remedy = "give another --output, or --overwrite to lose the model and begin anew"
        return f"{output}: holds a model, but no {STATE_FILE} to go on from; {remedy}" if lost else ""
    if {path.name for path in output.iterdir()} - {SCRATCH}:
        return f"{output}: holds files already; --resume goes on with it, --overwrite begins anew"
    return ""


def origin(config: Config, pools: Pools) -> dict[str, Any]:
    """What a checkpoint says of the settings and images that it comes from."""
    return {"config": config.model_dump(mode="json"), "images": pools.describe() | {"digest": _digest(pools)}}


def changes(state: Mapping[str, Any], config: Config, pools: Pools, output: Path) -> list[str]:
    """Settings that are others than those of a checkpoint, as ``training.max_minutes was 5, is 8``.

    Raises
    ------
    ConfigError
        If one of them must not change within a run.
    InputError
        If the images are others: the model's card would forget the earlier patients.
    """
    before = parse_config(state.get("config") or _written(output), str(output / CONFIG_FILE))
    now = origin(config, pools)
    found = _differences(*(dict(_flat(settings)) for settings in (before.model_dump(mode="json"), now["config"])))
    fixed = [change for key, change in found.items() if key not in FREE]
    if fixed:
        raise ConfigError(
            f"--resume: {'; '.join(fixed)}; go on in {output} with the settings that it began with: length, "
            "learning rate, intervals, workers and caches alone may change"
        )
    images = state.get("images", now["images"])  # older checkpoints do not tell
    if images["digest"] != now["images"]["digest"]:
        told = _differences(images, {**now["images"], "digest": images["digest"]}).values()
        raise InputError(
            f"--resume: not the images that {output} was trained on so far "
            f"({'; '.join(told) or 'other series of the same patients'}); give the same, or another --output"
        )
    return list(found.values())


def _written(output: Path) -> dict[str, Any]:
    path = output / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{path}: missing, so the run cannot be resumed")
    written: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return written


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """``section.key`` and value, at every depth."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: f"{key} was {before.get(key, 'not given')}, is {now.get(key, 'not given')}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    }


def _digest(pools: Pools) -> str:
    """Of every series, its patient and its number of slices, in whatever order they were found, and wherever."""
    parts = {"low": pools.low, "normal": pools.normal}
    held_out = {"held-out low": pools.validation_low, "held-out normal": pools.validation_normal}
    lines = sorted(
        f"{part}\t{source.patient}\t{_lasting(source)}\t{len(source)}"
        for part, sources in {**parts, **held_out}.items()
        for source in sources
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _lasting(source: SliceSource) -> str:
    """What tells a series when its files were copied elsewhere: a volume's UID is of its path and time."""
    if isinstance(source, Series):
        return source.uid
    geometry = source.geometry
    return f"{source.name} {geometry.rows} {geometry.columns} {geometry.positions_mm.round(3).tolist()}"
