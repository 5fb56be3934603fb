"""The card of a trained model: its provenance, kept in the metadata of its file."""

from __future__ import annotations

import json
import platform
from typing import Any

import torch

from ldct_denoise import __version__, methods
from ldct_denoise.config import Config
from ldct_denoise.data.training_set import TrainingSet
from ldct_denoise.distributed import World
from ldct_denoise.training.state import RunState
from ldct_denoise.training.validation import ValidationMetrics, selection_metric


def model_card(
    config: Config, run: RunState, data: TrainingSet, metrics: ValidationMetrics, world: World
) -> dict[str, Any]:
    """Settings, images, progress, metrics and versions of a run.

    Parameters
    ----------
    config : Config
        Settings of the stage that trained the model.
    run : RunState
        Steps, time, and the pretrained model.
    data : TrainingSet
        Pools, and the noise measured in them.
    metrics : ValidationMetrics
        Metrics of the weights that are kept.
    world : World
        Device and number of processes.

    Returns
    -------
    dict
        Plain values, for JSON.
    """
    return {
        "config": json.loads(config.model_dump_json()),
        "pools": {**data.pools.describe(), "image_digests": list(data.pools.image_digests)},
        "noise": data.noise_summary,
        "envelope": data.envelope,
        "step": run.step,
        "seconds": round(run.seconds, 1),
        "resumed": run.resumed,
        "started_from": run.started_from,
        "processes": world.size,
        "device": world.device.type,
        "best_by": selection_metric(
            config.training.best_by,
            methods.describe(config.method).supervision,
            len(data.validation.pairs),
        )[0],
        "validation": metrics.as_dict(),
        "versions": {
            "ldct_denoise": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
