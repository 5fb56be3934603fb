"""A run that begins with the weights of a trained model instead of random ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ldct_denoise.config import Config
from ldct_denoise.data.pools import Pools
from ldct_denoise.errors import ConfigError
from ldct_denoise.methods.base import Method
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.training.step import Run


def warm_start(run: Run, config: Config, pools: Pools) -> str:
    """Start a fresh run from the weights of ``training.pretrained_weights``; its other networks stay random.

    What the model has seen counts as seen by the run: :attr:`TrainedModel.training_patients` of what it leaves.

    Parameters
    ----------
    run : Run
        Changed: its weights, and what it says of where it started from.
    config : Config
    pools : Pools
        Those held out must be new to the model.

    Returns
    -------
    str
        What was taken, and which settings of the method are others than the model's.

    Raises
    ------
    ModelError
        If there is no such model.
    ConfigError
        If it is another method's, of another shape or HU range, or has seen patients who are held out.
    """
    model = load_model(str(config.training.pretrained_weights))
    where = f"training.pretrained_weights: {model.name}"
    if model.method_name != config.method:
        raise ConfigError(f"{where} is a model of {model.method_name}, not of {config.method}; give one of that")
    if model.scale != config.scale:
        low, high = model.scale.low_hu, model.scale.high_hu
        raise ConfigError(f"{where} sees {low:g} to {high:g} HU; set range_hu.low_hu and range_hu.high_hu to that")
    differences = ", ".join(_differences(model.method, run.method))
    fresh = run.method.restoration_parameters()
    kept = {
        name: _with_neighbours(weights, fresh.get(name), run.method.context_slices)
        for name, weights in model.method.restoration_parameters().items()
    }
    if kept.keys() != fresh.keys() or any(kept[name].shape != fresh[name].shape for name in kept):
        raise ConfigError(f"{where} has weights of another shape ({differences or 'its size'}); give its settings")
    _require_new(where, model, config, pools)
    run.method.load_state_dict(kept, strict=False)
    run.started_from = {
        "model": model.name,
        "sha256": model.checksum,
        "training_patients": sorted(model.training_patients),
    }
    notes = [f"begins with the weights of {model.name}"]
    if differences:
        notes.append(f"others than there: {differences}")
    if not pools.validation_low and model.training_patients & {*pools.patients}:
        notes.append("slices held back to judge by may be among those that it was trained on")
    return "; ".join(notes)


def _with_neighbours(weights: Tensor, wanted: Tensor | None, beside: int) -> Tensor:
    """Weights over one slice as weights over a stack, 0 for those beside it: the same images to begin with."""
    if wanted is None or weights.ndim != 4 or (weights.shape[1], wanted.shape[1]) != (1, 2 * beside + 1):
        return weights
    return F.pad(weights, (0, 0, 0, 0, beside, beside))


def _differences(model: Method[Any], fresh: Method[Any]) -> Iterator[str]:
    """Settings of one method that two of its instances do not share."""
    theirs: Mapping[str, Any] = model.settings.model_dump(mode="json")
    for name, ours in fresh.settings.model_dump(mode="json").items():
        if theirs.get(name) != ours:
            yield f"settings.{name} is {ours}, there {theirs.get(name)}"


def _require_new(where: str, model: TrainedModel, config: Config, pools: Pools) -> None:
    held_out = {source.patient for source in (*pools.validation_low, *pools.validation_normal)}
    seen = sorted(model.training_patients & {*config.data.test_patients, *held_out})
    if seen:
        raise ConfigError(
            f"{where} was trained on {', '.join(seen)}, held out here (data.test_patients, "
            "data.validation_patients); hold out others, or start from another model"
        )
