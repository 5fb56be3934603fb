"""A trained model adapted to one's own pools by a short training, and kept as it is where that would harm.

Two errors are measured before and after, without pairs: on the low-dose images themselves, by Stein's estimate
(:mod:`ldct_denoise.training.unpaired_risk`), and on normal-dose images with noise of other kernels. Stein's
estimate trusts the measured noise, as the training does. Therefore nothing is trained where noise depends on content
more than that of filtered back-projection: noise of an iterative reconstruction cannot be added to other images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldct_denoise.config import Config, load_config, parse_config
from ldct_denoise.data.noise import NoiseSampler, noise_of_pool
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.slices import PoolSlice, pool_slices
from ldct_denoise.distributed import join_world
from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.models.catalogue import MODEL_FILE
from ldct_denoise.models.trained import TrainedModel, load_model, save_model
from ldct_denoise.training.loop import Progress, Report, train
from ldct_denoise.training.run_folder import check_run_folder
from ldct_denoise.training.unpaired_risk import (
    RiskCase,
    estimated_rmse_hu,
    low_dose_cases,
    other_kernel_cases,
    rmse_hu,
)
from ldct_denoise.volume import spread_indices

#: Recipe of the adaptation.
RECIPE = "lir-adapt"
#: Slices of each pool that are measured.
MEASURED_SLICES = 6
#: Settings of the method that belong to its training, not to its networks.
TRAINING_SETTINGS = ("optimizer", "beta1", "beta2", "weight_decay", "adversarial_start", "loss_weights")
#: Largest noise of a content class relative to uniform soft tissue that added noise can stand for. Filtered
#: back-projection has at most 1.2; an iterative reconstruction leaves more at edges, in lung and in bone.
MAX_CONTENT_RATIO = 1.35
#: Largest factor on the error with noise of other kernels.
MAX_FORGETTING = 1.03


@dataclass(frozen=True)
class AdaptationErrors:
    """Errors of a model on the pools.

    Parameters
    ----------
    low_dose_hu : float
        RMSE on low-dose images against normal dose, estimated without pairs, HU.
    other_kernels_hu : float
        RMSE on normal-dose images with noise of random spectra, HU.
    """

    low_dose_hu: float
    other_kernels_hu: float


@dataclass(frozen=True)
class Adaptation:
    """Result of an adaptation.

    Parameters
    ----------
    model : Path
        The model file: the adapted model, or the model as it was.
    accepted : bool
        Whether it is the adapted model.
    before, after : AdaptationErrors, optional
        Of the model as it was, and of the adapted model; None where no model was trained.
    content_ratio : float
        Largest noise of a content class relative to uniform soft tissue.
    """

    model: Path
    accepted: bool
    before: AdaptationErrors | None
    after: AdaptationErrors | None
    content_ratio: float

    def summary(self) -> str:
        """The decision and the errors that it rests on, in one sentence."""
        if self.before is None or self.after is None:
            return (
                "not adapted, the model is left as it was: the noise of your low-dose images is up to "
                f"{self.content_ratio:.1f} times as strong as in uniform soft tissue, as after an iterative "
                "reconstruction; such noise cannot be added to other images"
            )
        low = (
            f"on your low-dose images {self.before.low_dose_hu:.1f} → {self.after.low_dose_hu:.1f} HU (estimated)"
        )
        other = f"with other kernels {self.before.other_kernels_hu:.1f} → {self.after.other_kernels_hu:.1f} HU"
        decision = "adapted" if self.accepted else "not adapted, the model is left as it was"
        return f"{decision}: error {low}, {other}"


def adapt(
    model: str | Path,
    pools: Pools,
    output: Path,
    *,
    changes: tuple[str, ...] = (),
    device: str = "auto",
    overwrite: bool = False,
    report: Report = lambda progress: None,
) -> Adaptation:
    """Train a model on for a few steps on one's own pools; keep it as it was where that would harm.

    Parameters
    ----------
    model : str or Path
        Name, file or run folder of a model of LIR.
    pools : Pools
        Low- and normal-dose series of at least one common kernel.
    output : Path
        Run folder; its ``model.safetensors`` is the adapted model, or the model as it was.
    changes : tuple of str
        Changed settings of the recipe ``lir-adapt``, as ``section.key=value``.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    overwrite : bool
        Replace an earlier run in ``output``.
    report : callable
        Receives the progress.

    Returns
    -------
    Adaptation

    Raises
    ------
    ConfigError
        If the model is not of LIR, or was trained on a patient who is held out.
    InputError
        If the noise of the pools cannot be measured: no kernel is in both, or there are too few slices.
    OutputError
        If ``output`` holds a run and ``overwrite`` is not given.
    """
    start = load_model(model)
    config = adaptation_config(start, model, changes)
    check_run_folder(output, resume=False, overwrite=overwrite)

    def say(line: str) -> None:
        report(Progress(0, config.training.iterations, 0.0, message=line))

    noise = _measured_noise(config, pools, say)
    ratio = max(content.largest_ratio for content in noise.content_noise.values())
    before = after = None
    kept, accepted = start, False
    if ratio <= MAX_CONTENT_RATIO:
        low, other = _cases(config, pools, noise)
        with join_world(device) as world:
            before = _errors(start, low, other, world.device)
        train(config, pools, output, device=device, overwrite=overwrite, report=report)
        adapted = load_model(output)
        with join_world(device) as world:
            after = _errors(adapted, low, other, world.device)
        is_better = after.low_dose_hu < before.low_dose_hu
        accepted = is_better and after.other_kernels_hu <= MAX_FORGETTING * before.other_kernels_hu
        kept = adapted if accepted else start
    errors = {name: found and vars(found) for name, found in (("before", before), ("after", after))}
    decision = {"accepted": accepted, "content_ratio": round(ratio, 3), **errors}
    card = {**kept.card, "keeps_texture": start.keeps_texture, "adaptation": decision}
    output.mkdir(parents=True, exist_ok=True)
    save_model(output / MODEL_FILE, kept.method_name, kept.method, card)
    return Adaptation(output / MODEL_FILE, accepted, before, after, ratio)


def adaptation_config(model: TrainedModel, name: str | Path, changes: tuple[str, ...] = ()) -> Config:
    """Settings of the adaptation of a model: its own networks and HU range, and the training of the recipe.

    Parameters
    ----------
    model : TrainedModel
        The model.
    name : str or Path
        Its name, file or run folder.
    changes : tuple of str
        Changed settings, as ``section.key=value``.

    Raises
    ------
    ConfigError
        If it is not a model of LIR.
    """
    if model.method_name != "lir":
        raise ConfigError(f"adapt: {model.name} is a model of {model.method_name}; give one of lir")
    recipe = load_config(RECIPE, changes)
    own = json.loads(model.method.settings.model_dump_json())
    trained_by = {key: value for key, value in recipe.settings.items() if key in TRAINING_SETTINGS}
    content = recipe.model_dump(mode="json")
    content["settings"] = own | trained_by
    content["range_hu"] = {"low_hu": model.scale.low_hu, "high_hu": model.scale.high_hu}
    content["training"]["pretrained_weights"] = str(name)
    return parse_config(content, RECIPE)


def _measured_noise(config: Config, pools: Pools, say: Callable[[str], None]) -> NoiseSampler:
    """Noise of the low-dose pool, with its dependence on content."""
    noise = noise_of_pool(pools.low, pools.normal, config.data, say)
    if not noise.content_noise:
        raise InputError(
            "adapt: the noise of the low-dose pool cannot be compared with that of the normal-dose pool; give at "
            "least three slices of one kernel in each"
        )
    return noise


def _cases(config: Config, pools: Pools, noise: NoiseSampler) -> tuple[list[RiskCase], list[RiskCase]]:
    """Slices to measure by: low-dose slices, and normal-dose slices with noise of other kernels."""
    known = [source for source in pools.low if source.metadata.kernel in noise.content_noise]
    low = low_dose_cases(_spread(pool_slices(known)), noise, config.data.target_noise_fraction)
    level_hu = float(np.sqrt(noise.low_hu * noise.high_hu))
    return low, other_kernel_cases(_spread(pool_slices(pools.normal)), level_hu)


def _spread(slices: tuple[PoolSlice, ...]) -> list[PoolSlice]:
    return [slices[index] for index in spread_indices(len(slices), MEASURED_SLICES)]


def _errors(
    model: TrainedModel, low: list[RiskCase], other: list[RiskCase], device: torch.device
) -> AdaptationErrors:
    method: Any = model.method.to(device)
    return AdaptationErrors(
        estimated_rmse_hu(method, model.scale, low, device), rmse_hu(method, model.scale, other, device)
    )
