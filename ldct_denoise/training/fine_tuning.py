"""Start a run from the weights of a trained model instead of random ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ldct_denoise.config import Config
from ldct_denoise.data.image_digests import uid_digests
from ldct_denoise.data.pools import Pools
from ldct_denoise.errors import ConfigError
from ldct_denoise.methods.base import Method
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.training.state import RunState


def load_pretrained(run: RunState, weights: str | Path, config: Config, pools: Pools) -> str:
    """Load the weights that a trained model keeps for restoration; the other networks stay random.

    The patients of the model count as training patients of the run
    (:attr:`~ldct_denoise.models.trained.TrainedModel.training_patients`).

    Parameters
    ----------
    run : RunState
        A new run; its weights and ``started_from`` are changed.
    weights : str or Path
        Name, file or run folder of the model.
    config : Config
        Settings of the run.
    pools : Pools
        Images of the run; its test and validation patients must be new to the model.

    Returns
    -------
    str
        The model, and the settings of the method that differ from its own, in one line.

    Raises
    ------
    ModelError
        If there is no such model.
    ConfigError
        If the model has another method, shape or HU range, or was trained on a test or validation patient.
    """
    model = load_model(weights)
    where = f"training.pretrained_weights: {model.name}"
    if model.method_name != config.method:
        raise ConfigError(f"{where} is a model of {model.method_name}, not of {config.method}; give one of that")
    if model.scale != config.scale:
        low, high = model.scale.low_hu, model.scale.high_hu
        raise ConfigError(f"{where} sees {low:g} to {high:g} HU; set range_hu.low_hu and range_hu.high_hu to that")
    differences = ", ".join(_different_settings(model.method, run.method))
    fresh = run.method.restoration_parameters()
    kept = {
        name: _for_context(weight, fresh.get(name), run.method.context_slices)
        for name, weight in model.method.restoration_parameters().items()
    }
    if kept.keys() != fresh.keys() or any(kept[name].shape != fresh[name].shape for name in kept):
        raise ConfigError(f"{where} has weights of another shape ({differences or 'its size'}); give its settings")
    _require_unseen(where, model, config, pools)
    run.method.load_state_dict(kept, strict=False)
    run.started_from = {
        "model": model.name,
        "sha256": model.checksum,
        "training_patients": sorted(model.training_patients),
        "has_unnamed_patients": model.has_unnamed_patients,
        "image_digests": sorted(model.image_digests),
    }
    differing = f"; settings that differ from its own: {differences}" if differences else ""
    return f"starting from the weights of {model.name}{differing}"


def may_have_seen_validation(run: RunState, pools: Pools) -> bool:
    """Whether the pretrained model may have been trained on slices that are held back for validation."""
    return not pools.validation_low and not {*pools.patients}.isdisjoint(
        run.started_from.get("training_patients", ())
    )


def _for_context(weight: Tensor, fresh: Tensor | None, context_slices: int) -> Tensor:
    """Weights over a single slice as weights over a stack: 0 for the context slices, so the output stays equal."""
    channels = 2 * context_slices + 1
    if fresh is None or weight.ndim != 4 or (weight.shape[1], fresh.shape[1]) != (1, channels):
        return weight
    return F.pad(weight, (0, 0, 0, 0, context_slices, context_slices))


def _different_settings(model: Method[Any], fresh: Method[Any]) -> Iterator[str]:
    """Settings of a method that two of its instances do not share."""
    theirs: Mapping[str, Any] = model.settings.model_dump(mode="json")
    for name, ours in fresh.settings.model_dump(mode="json").items():
        if theirs.get(name) != ours:
            yield f"settings.{name} is {ours}, there {theirs.get(name)}"


def _require_unseen(where: str, model: TrainedModel, config: Config, pools: Pools) -> None:
    held_out = (*pools.validation_low, *pools.validation_normal)
    named = model.training_patients & {*config.data.test_patients, *(source.patient for source in held_out)}
    recognised = {one.patient for one in held_out if not model.image_digests.isdisjoint(uid_digests(one))}
    seen = sorted(named | recognised)
    if seen:
        raise ConfigError(
            f"{where} was trained on {', '.join(seen)}, held out here (data.test_patients, "
            "data.validation_patients); hold out others, or start from another model"
        )
