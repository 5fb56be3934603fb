"""Validation: metrics of unpaired images and of pairs, what selects weights, and warnings.

Weights of a method that is trained on pairs are selected by PSNR on held-out pairs; those of the others by a score
that needs no pairs (:func:`selection_metric`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ldct_denoise.data.validation_set import ValidationSet
from ldct_denoise.errors import TrainingError
from ldct_denoise.intensity import WINDOWS, Scale, Window
from ldct_denoise.methods import Supervision
from ldct_denoise.methods.base import NOMINAL_SPACING_MM, Method
from ldct_denoise.metrics.fidelity import psnr
from ldct_denoise.metrics.no_reference import correlation_of_sums, residual_edge_sums
from ldct_denoise.metrics.noise import global_noise_level, noise_map
from ldct_denoise.metrics.ssim import ssim
from ldct_denoise.regions.body import body_mask
from ldct_denoise.regions.tissues import noise_tissue_mask, tissue_masks
from ldct_denoise.volume import Image

#: Metrics that can select weights.
SelectionMetric = Literal["unpaired_score", "psnr", "ssim"]
#: Tissues whose mean HU must not drift; those of lung and bone depend on where their masks end.
TISSUES = ("fat", "soft-tissue")
#: A drift of the mean HU up to this does not change the score, HU.
TOLERATED_BIAS_HU = 1.0
#: A residual with a higher edge correlation raises the score of a method without trustworthy synthetic pairs.
TOLERATED_EDGE_CORRELATION = 0.3
#: Images with less noise than this have none to compare with, HU.
NO_NOISE_HU = 0.01
#: Weights whose output exceeds this have diverged, although it is still finite, HU.
LARGEST_HU = 1e9


def selection_metric(
    setting: SelectionMetric | Literal["auto"], supervision: Supervision, pairs: int
) -> tuple[SelectionMetric, str]:
    """Metric that selects the weights of a run, and a sentence about it.

    Parameters
    ----------
    setting : {"auto", "unpaired_score", "psnr", "ssim"}
        ``training.best_by``.
    supervision : Supervision
        Kind of images that the method is trained on.
    pairs : int
        Number of held-out pairs.

    Returns
    -------
    metric : {"unpaired_score", "psnr", "ssim"}
    note : str
        Empty where nothing deserves mention: a method without pairs is selected by the unpaired score.
    """
    is_supervised = supervision is Supervision.SUPERVISED
    wanted = ("psnr" if is_supervised else "unpaired_score") if setting == "auto" else setting
    if wanted == "unpaired_score":
        return wanted, "the best weights are chosen by the unpaired score" if is_supervised else ""
    if pairs:
        return wanted, f"the best weights are chosen by {wanted.upper()} on {pairs} held-out pairs"
    return "unpaired_score", (
        f"no held-out pairs: the best weights are chosen by the unpaired score, not by "
        f"{wanted.upper()}; data.validation_patients names patients to hold back"
    )


def diverged(cause: str) -> TrainingError:
    """Error of a run that diverged, with its remedy."""
    return TrainingError(
        f"training diverged: {cause}; go on from the last checkpoint with a lower rate "
        "(--resume --set training.learning_rate=...), or start again with one"
    )


@dataclass(frozen=True)
class ValidationMetrics:
    """Metrics of one validation; NaN where an image or a region is missing.

    Parameters
    ----------
    synthetic_pair_rmse_hu : float
        RMSE over all synthetic pairs after restoration, HU.
    synthetic_pair_psnr_gain_db : float
        PSNR gain of the synthetic pairs over their noisy input, dB.
    noise_ratio : float
        Noise of restored low-dose slices relative to normal-dose slices (1 is the aim).
    input_noise_ratio : float
        Noise of the low-dose slices themselves relative to normal-dose slices.
    hu_bias : dict of str to float
        Mean of restored − input over each tissue, and over the body, of the low-dose slices, HU.
    residual_edge_correlation : float
        Correlation of the removed signal with the edges of the input (−1 to 1): removed anatomy. See
        :func:`~ldct_denoise.metrics.no_reference.residual_edge_correlation`.
    psnr_gain_db, psnr_gain_abdomen_db : float
        Mean PSNR gain of the held-out pairs over the input in ``training.validation_window`` and in the abdomen
        window, dB.
    pair_psnr_db, pair_ssim : float
        Mean PSNR (dB) and SSIM of these pairs after restoration in ``training.validation_window``.
    targets_noise_texture : bool
        As in :class:`~ldct_denoise.data.validation_set.ValidationSet`: the aim is a noise ratio of 1.
    """

    synthetic_pair_rmse_hu: float
    synthetic_pair_psnr_gain_db: float
    noise_ratio: float
    input_noise_ratio: float
    hu_bias: dict[str, float] = field(default_factory=dict)
    residual_edge_correlation: float = math.nan
    psnr_gain_db: float = math.nan
    psnr_gain_abdomen_db: float = math.nan
    pair_psnr_db: float = math.nan
    pair_ssim: float = math.nan
    targets_noise_texture: bool = False

    @property
    def score(self) -> float:
        """Score that selects weights, lower is better; NaN where nothing could be measured. Needs no pairs.

        The RMSE of the synthetic pairs, plus the largest drift of a mean HU beyond 1 HU. A method that learns the
        noise texture of normal dose was not trained on such pairs, and may reach the right noise level with a
        texture that it invents: its RMSE is multiplied by ``1 + |ln noise_ratio|``, and removed anatomy counts.
        Both together order such runs better than either alone (docs/research/experiments.md).
        """
        largest_bias = max(map(abs, self.hu_bias.values()), default=0.0)
        bias = max(0.0, largest_bias - TOLERATED_BIAS_HU)
        noise = abs(math.log(max(self.noise_ratio, 1e-3)))  # NaN stays NaN
        if math.isnan(self.synthetic_pair_rmse_hu):
            return 10 * noise + bias + self._removed_anatomy
        if not self.targets_noise_texture:
            return self.synthetic_pair_rmse_hu + bias
        if math.isnan(noise):  # no uniform tissue in the output, or already none in the input
            noise = 0.0 if math.isnan(self.input_noise_ratio) else math.log(1e3)
        return self.synthetic_pair_rmse_hu * (1 + noise) + bias + self._removed_anatomy

    @property
    def has_score(self) -> bool:
        """Whether the score is defined: there were synthetic pairs, or uniform tissue in both pools."""
        return not math.isnan(self.score)

    @property
    def _removed_anatomy(self) -> float:
        excess = self.residual_edge_correlation - TOLERATED_EDGE_CORRELATION
        return 0.0 if math.isnan(excess) else 10 * max(0.0, excess)

    def selection_value(self, metric: SelectionMetric) -> float:
        """Value that selects weights, lower is better; NaN where the metric could not be measured."""
        if metric == "unpaired_score":
            return self.score
        return -self.pair_psnr_db if metric == "psnr" else -self.pair_ssim

    def is_better_than(self, best: float, metric: SelectionMetric = "unpaired_score") -> bool:
        """Whether these weights replace the kept ones; weights without a value replace only such without one.

        Parameters
        ----------
        best : float
            :meth:`selection_value` of the kept weights; infinite where there are none.
        metric : {"unpaired_score", "psnr", "ssim"}
        """
        value = self.selection_value(metric)
        return math.isinf(best) if math.isnan(value) else value <= best

    def as_dict(self) -> dict[str, float]:
        """Every metric that is not NaN, by name."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        bias = {f"hu_bias_{region}": value for region, value in self.hu_bias.items()}
        values = {**plain, **bias, "score": self.score}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def summary(self) -> str:
        """The metrics in one line."""
        parts = []
        if not math.isnan(self.synthetic_pair_psnr_gain_db):
            parts.append(f"synthetic pairs {self.synthetic_pair_psnr_gain_db:+.2f} dB")
        if not math.isnan(self.noise_ratio):
            parts.append(f"noise {self.input_noise_ratio:.2f} → {self.noise_ratio:.2f} × normal dose")
        parts += [f"{region} {value:+.2f} HU" for region, value in self.hu_bias.items()]
        if not math.isnan(self.pair_psnr_db):
            parts.append(
                f"held-out pairs PSNR {self.pair_psnr_db:.2f} dB ({self.psnr_gain_db:+.2f}), SSIM "
                f"{self.pair_ssim:.4f}; abdomen {self.psnr_gain_abdomen_db:+.2f} dB"
            )
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """Signs that the training goes wrong, one sentence each."""
        found = [
            f"the mean HU of {region} has drifted by {value:+.1f} HU"
            for region, value in self.hu_bias.items()
            if abs(value) > 3
        ]
        if self.input_noise_ratio < 1:
            found.append(
                f"low dose has {self.input_noise_ratio:.2f} × the noise of normal dose: are the pools swapped?"
            )
        if self.noise_ratio > self.input_noise_ratio * 1.02:
            found.append("the output is noisier than the input: the generator invents texture")
        if self.noise_ratio < 0.35:
            found.append("the output is far smoother than normal dose: fine structure may be lost")
        if self.synthetic_pair_psnr_gain_db < 0:
            found.append("restored synthetic pairs are further from the truth than their noisy input")
        if not self.has_score:
            found.append("no score without pairs can be measured: the best weights so far, or the last, are kept")
        if self.residual_edge_correlation > 0.5:
            found.append(
                "the removed signal follows the image's edges "
                f"(correlation {self.residual_edge_correlation:.2f}): anatomy is removed"
            )
        return found


def validate(method: Method[Any], images: ValidationSet, device: torch.device) -> ValidationMetrics:
    """Restore the validation images and measure them.

    Parameters
    ----------
    method : Method
        On ``device``; it is left in evaluation mode.
    images : ValidationSet
    device : torch.device

    Raises
    ------
    TrainingError
        If a restored image is not finite or absurdly large: such weights must not be kept.
    """
    method.eval()

    def restore(
        stack: NDArray[np.float32], spacing_mm: tuple[float, float] = NOMINAL_SPACING_MM
    ) -> NDArray[np.float32]:
        restored = restore_hu(method.for_spacing(spacing_mm), images.scale, stack, device, images.guard_range)
        if not (np.abs(restored) < LARGEST_HU).all():
            raise diverged(f"restored images hold values that are not finite, or beyond {LARGEST_HU:.0e} HU")
        return restored

    synthetic = [
        (_center(clean), _center(clean + noise), restore(clean + noise)) for clean, noise in images.synthetic_pairs
    ]
    before = _rms(noisy - clean for clean, noisy, _ in synthetic)
    after = _rms(restored - clean for clean, _, restored in synthetic)
    low = [(item.center, restore(item.hu, item.pixel_spacing_mm), item.pixel_spacing_mm) for item in images.low]
    normal_noise = _mean(noise_level_hu(item.center, item.pixel_spacing_mm) for item in images.normal)
    if normal_noise < NO_NOISE_HU:
        normal_noise = math.nan
    bias, edge_correlation = _residual_metrics(low)
    pairs = [
        (noisy.center, normal.center, restore(noisy.hu, noisy.pixel_spacing_mm)) for noisy, normal in images.pairs
    ]
    return ValidationMetrics(
        synthetic_pair_rmse_hu=after,
        synthetic_pair_psnr_gain_db=20 * math.log10(before / after) if before > 0 and after > 0 else math.nan,
        noise_ratio=_mean(noise_level_hu(restored, spacing) for _, restored, spacing in low) / normal_noise,
        input_noise_ratio=_mean(noise_level_hu(noisy, spacing) for noisy, _, spacing in low) / normal_noise,
        hu_bias=bias,
        residual_edge_correlation=edge_correlation,
        psnr_gain_db=_mean(_psnr_gain_db(*pair, images.window) for pair in pairs),
        psnr_gain_abdomen_db=_mean(_psnr_gain_db(*pair, WINDOWS["abdomen"]) for pair in pairs),
        pair_psnr_db=_mean(_finite(psnr(restored, normal, images.window)) for _, normal, restored in pairs),
        pair_ssim=_mean(ssim(restored, normal, images.window) for _, normal, restored in pairs),
        targets_noise_texture=images.targets_noise_texture,
    )


@torch.inference_mode()
def restore_hu(
    method: Method[Any],
    scale: Scale,
    stack: NDArray[np.float32],
    device: torch.device,
    guard_range: bool = True,
) -> NDArray[np.float32]:
    """Restore one slice, as ``apply`` does at full strength.

    Parameters
    ----------
    method : Method
        On ``device``.
    scale : Scale
        HU range of the method.
    stack : ndarray, shape (channels, rows, columns)
        The slice with its context slices, HU.
    device : torch.device
    guard_range : bool
        Clip the input to the HU range and leave pixels outside it unchanged; off for photographs.

    Returns
    -------
    ndarray, shape (rows, columns)
        HU.
    """
    image = torch.from_numpy(scale.to_input(stack, guard_range))[None].to(device)
    restored: NDArray[np.float32] = scale.to_hu(method.restore(image).float())[0, 0].cpu().numpy()
    center = _center(stack)
    return np.where(scale.covers(center), restored, center) if guard_range else restored


def noise_level_hu(hu: Image, pixel_spacing_mm: tuple[float, float]) -> float:
    """Global noise level in fat, organs and muscle, HU; NaN for a slice without such tissue."""
    return global_noise_level(noise_map(hu, pixel_spacing_mm), noise_tissue_mask(np.asarray(hu, np.float32)))


def _residual_metrics(
    low: Sequence[tuple[Image, Image, tuple[float, float]]],
) -> tuple[dict[str, float], float]:
    """HU bias by region, and edge correlation of the residual, pooled over (input, restored, spacing) slices."""
    totals: dict[str, tuple[float, int]] = {}
    edges = np.zeros(3)
    for noisy, restored, spacing in low:
        body = body_mask(noisy, spacing)
        # Found in the output: in the input its own noise would decide which pixels count as tissue.
        masks = tissue_masks(restored, TISSUES, spacing, body) | {"body": body}
        for region, mask in masks.items():
            total, count = totals.get(region, (0.0, 0))
            difference = float((restored - noisy)[mask].sum(dtype=np.float64))
            totals[region] = total + difference, count + int(mask.sum())
        edges += residual_edge_sums(noisy, restored, body)
    bias = {region: total / count for region, (total, count) in totals.items() if count}
    return bias, correlation_of_sums(*edges.tolist())


def _psnr_gain_db(noisy: Image, normal: Image, restored: Image, window: Window) -> float:
    """PSNR gain over the input, dB; NaN where one of the two equals the reference."""
    return _finite(psnr(restored, normal, window) - psnr(noisy, normal, window))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _center(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    return stack[len(stack) // 2]


def _rms(differences: Iterable[NDArray[np.float32]]) -> float:
    """Root of the mean of the mean squares; NaN without images."""
    squares = [float(np.mean(np.square(difference, dtype=np.float64))) for difference in differences]
    return math.sqrt(sum(squares) / len(squares)) if squares else math.nan


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
