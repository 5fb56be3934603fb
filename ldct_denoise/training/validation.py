"""Knowing without pairs whether a denoiser works: evidence from unpaired images, and plain warnings.

With held-out pairs their PSNR is measured too, and logged beside; it is never used to choose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ldct_denoise.data.training_set import ValidationSet
from ldct_denoise.errors import TrainingError
from ldct_denoise.intensity import WINDOWS, Scale, Window
from ldct_denoise.methods.base import Method

#: Tissue by HU of the smoothed input: what a mean HU is compared over.
TISSUES = {
    "fat": Window.between("fat", -140, -50),
    "soft": Window.between("soft", 0, 120),
    "body": Window.between("body", -200, 3000),
}
#: Images with less fine noise than this have none to compare another's with.
NO_NOISE_HU = 0.01
#: Weights that restore to more than this are lost, though they are numbers still: the next step's are not.
LARGEST_HU = 1e9


def diverged(what: str) -> TrainingError:
    """That a run cannot go on, and what helps."""
    return TrainingError(
        f"training diverged: {what}; go on from the last checkpoint with a lower rate "
        "(--resume --set training.learning_rate=...), or begin anew with one"
    )


@dataclass(frozen=True)
class Evidence:
    """What was measured at one validation; nan where it could not be.

    Parameters
    ----------
    probe_rmse_hu : float
        RMSE of held-back normal-dose squares with the pool's noise, after restoration.
    probe_gain_db : float
        How much closer than unrestored, dB.
    noise_ratio : float
        Fine noise left in low-dose soft tissue, relative to that of the normal-dose slices (1 is the aim).
    removed_ratio : float
        Fine noise of the low-dose input, likewise: where it came from.
    bias_hu : dict
        Mean of output less input over each tissue of the low-dose slices.
    structure : float
        Correlation of the size of what was removed with the edges of the image, −1…1: removed anatomy.
    psnr_gain_db, psnr_gain_abdomen_db : float
        Paired: mean PSNR gain over the input in [−1024, 1024] and the abdomen window.
    imitates : bool
        As of the :class:`~ldct_denoise.data.training_set.ValidationSet`: the aim is a noise ratio of 1.
    """

    probe_rmse_hu: float
    probe_gain_db: float
    noise_ratio: float
    removed_ratio: float
    bias_hu: dict[str, float]
    structure: float
    psnr_gain_db: float
    psnr_gain_abdomen_db: float
    imitates: bool = False

    @property
    def judges(self) -> bool:
        """Whether there was anything to judge by: probes, or uniform tissue in both pools."""
        return not math.isnan(self.score)

    @property
    def score(self) -> float:
        """The lower the better; from unpaired evidence alone, NaN where there is none.

        What imitates normal dose may be poor on probes, whose noise it was not trained on, and right in its noise
        level by texture of its own making: both together order such runs better than either (docs/experiments.md).
        """
        bias = max(0.0, max(map(abs, self.bias_hu.values()), default=0.0) - 1.0)
        off = abs(math.log(max(self.noise_ratio, 1e-3)))  # NaN stays NaN
        if math.isnan(self.probe_rmse_hu):
            return 10 * off + bias + self._removed_anatomy
        if not self.imitates:
            return self.probe_rmse_hu + bias
        if math.isnan(off):  # no tissue is left in the output, or none was in the input
            off = 0.0 if math.isnan(self.removed_ratio) else math.log(1e3)
        return self.probe_rmse_hu * (1 + off) + bias + self._removed_anatomy

    @property
    def _removed_anatomy(self) -> float:
        return 0.0 if math.isnan(self.structure) else 10 * max(0.0, self.structure - 0.3)

    def is_better_than(self, best_score: float) -> bool:
        """Whether these weights replace those kept: where they cannot be judged, only others that could not be."""
        return self.score <= best_score if self.judges else math.isinf(best_score)

    def figures(self) -> dict[str, float]:
        """Every figure by name."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        named = {f"bias_{tissue}_hu": value for tissue, value in self.bias_hu.items()}
        return {
            name: value for name, value in {**plain, **named, "score": self.score}.items() if not math.isnan(value)
        }

    def line(self) -> str:
        """The evidence in one line."""
        parts = []
        if not math.isnan(self.probe_gain_db):
            parts.append(f"held-back normal dose with pool noise {self.probe_gain_db:+.2f} dB")
        if not math.isnan(self.noise_ratio):
            parts.append(f"noise {self.removed_ratio:.2f} → {self.noise_ratio:.2f} × normal dose")
        parts += [f"{tissue} {value:+.2f} HU" for tissue, value in self.bias_hu.items()]
        if not math.isnan(self.psnr_gain_db):
            parts.append(
                f"held-out pairs {self.psnr_gain_db:+.2f} dB, abdomen {self.psnr_gain_abdomen_db:+.2f} dB"
            )
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """What a user should know now rather than at the end."""
        found = [
            f"mean HU of {tissue} has drifted by {value:+.1f} HU"
            for tissue, value in self.bias_hu.items()
            if abs(value) > 3
        ]
        if self.removed_ratio < 1:
            found.append(
                f"low dose has {self.removed_ratio:.2f} × the noise of normal dose: are the pools swapped?"
            )
        if self.noise_ratio > self.removed_ratio * 1.02:
            found.append("the output is noisier than the input: the generator invents texture")
        if self.noise_ratio < 0.35:
            found.append("the output is far smoother than normal dose: fine structure may be lost")
        if self.probe_gain_db < 0:
            found.append("restored normal-dose images are further from the truth than with their noise left in")
        if not self.judges:
            found.append(
                "there is nothing to judge by without pairs: kept are the best judged so far, or the last"
            )
        if self.structure > 0.5:
            found.append(
                f"what is removed follows the image's edges (correlation {self.structure:.2f}): anatomy is removed"
            )
        return found


class CriticWatch:
    """The balance of a GAN, from the losses of its critics (``discriminator_…``): 1 undecided, 0 never deceived.

    Parameters
    ----------
    form : str
        The adversarial form: ``least_squares`` (a critic that always says ½ has loss ¼) or ``bce`` (ln 2).
    """

    #: Share of a new loss in the running mean.
    PACE = 0.05
    #: Steps before the running mean says anything.
    PATIENCE = 40

    def __init__(self, form: str = "least_squares") -> None:
        self._undecided = math.log(2) if form == "bce" else 0.25
        self._means: dict[str, Tensor] = {}
        self._seen = 0

    def see(self, losses: Mapping[str, Tensor]) -> None:
        """Take in one step's losses; those that are no critic's are passed over."""
        critics = {name: loss for name, loss in losses.items() if name.startswith("discriminator_")}
        self._seen += bool(critics)
        for name, loss in critics.items():
            mean = self._means.get(name, loss)
            self._means[name] = mean + self.PACE * (loss - mean)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"means": self._means, "seen": self._seen}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go back to a checkpoint; one that holds nothing of this leaves all as it is."""
        self._means = {name: mean.to(device) for name, mean in state.get("means", self._means).items()}
        self._seen = state.get("seen", self._seen)

    def balance(self) -> dict[str, float]:
        """Running mean of each critic's loss over that of an undecided one."""
        return {name: float(mean) / self._undecided for name, mean in self._means.items()}

    def warnings(self) -> list[str]:
        """Early signs that the adversarial training has come apart."""
        if self._seen < self.PATIENCE:
            return []
        return [
            f"{name} is never deceived (loss {value:.0%} of an undecided critic's): the GAN is collapsing; lower "
            "settings.loss_weights.adversarial or the learning rate"
            for name, value in self.balance().items()
            if value < 0.1
        ]


def measure_evidence(method: Method[Any], images: ValidationSet, device: torch.device) -> Evidence:
    """Restore the validation images and measure.

    Parameters
    ----------
    method : Method
        On ``device``; left in evaluation mode.
    images : ValidationSet
    device : torch.device

    Raises
    ------
    TrainingError
        If a restored image is none: such weights must not be kept.
    """
    method.eval()

    def restore(stack: NDArray[np.float32]) -> NDArray[np.float32]:
        restored = restore_hu(method, images.scale, stack, device)
        if not (np.abs(restored) < LARGEST_HU).all():
            raise diverged(f"restored images hold values that are no numbers, or beyond {LARGEST_HU:.0e} HU")
        return restored

    probes = [(_slice(clean), _slice(clean + noise), restore(clean + noise)) for clean, noise in images.probes]
    low, restored = [_slice(stack) for stack in images.low], [restore(stack) for stack in images.low]
    pairs = [(_slice(stack), _slice(normal), restore(stack)) for stack, normal in images.pairs]
    normal_noise = _mean(fine_noise_hu(_slice(stack)) for stack in images.normal)
    if normal_noise < NO_NOISE_HU:
        normal_noise = math.nan
    before = _rms(noisy - clean for clean, noisy, _ in probes)
    after = _rms(out - clean for clean, _, out in probes)
    return Evidence(
        probe_rmse_hu=after,
        probe_gain_db=_gain_db(before, after),
        noise_ratio=_mean(fine_noise_hu(hu) for hu in restored) / normal_noise,
        removed_ratio=_mean(fine_noise_hu(hu) for hu in low) / normal_noise,
        bias_hu=_biases(low, restored),
        structure=_mean(_structure(hu, out) for hu, out in zip(low, restored, strict=True)),
        psnr_gain_db=_mean(_psnr_gain(*pair, Window.between("", -1024, 1024)) for pair in pairs),
        psnr_gain_abdomen_db=_mean(_psnr_gain(*pair, WINDOWS["abdomen"]) for pair in pairs),
        imitates=images.imitates,
    )


@torch.inference_mode()
def restore_hu(
    method: Method[Any], scale: Scale, stack: NDArray[np.float32], device: torch.device
) -> NDArray[np.float32]:
    """The slice in the middle of a stack through a method, HU to HU."""
    image = torch.from_numpy(scale.to_unit(stack))[None].to(device)
    restored: NDArray[np.float32] = scale.to_hu(method.restore(image).float())[0, 0].cpu().numpy()
    return restored


def _slice(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """That in the middle."""
    return stack[len(stack) // 2]


def fine_noise_hu(hu: NDArray[np.float32]) -> float:
    """Noise of soft tissue and fat, HU: median of local standard deviations of what a 1.5-pixel blur removes."""
    smooth = ndimage.gaussian_filter(hu, 1.5)
    tissue = (smooth > -150) & (smooth < 150)
    spread = np.sqrt(ndimage.uniform_filter((hu - smooth) ** 2, 15).clip(0))
    inside = ndimage.uniform_filter(tissue.astype(np.float32), 15) > 0.99
    return float(np.median(spread[inside])) if inside.any() else math.nan


def _biases(low: list[NDArray[np.float32]], restored: list[NDArray[np.float32]]) -> dict[str, float]:
    sums = {tissue: [0.0, 0] for tissue in TISSUES}
    for before, after in zip(low, restored, strict=True):
        smooth = ndimage.gaussian_filter(before, 3)
        for tissue, window in TISSUES.items():
            mask = (smooth > window.low_hu) & (smooth < window.high_hu)
            sums[tissue][0] += float((after - before)[mask].sum(dtype=np.float64))
            sums[tissue][1] += int(mask.sum())
    return {tissue: total / count for tissue, (total, count) in sums.items() if count}


def _structure(low: NDArray[np.float32], out: NDArray[np.float32]) -> float:
    """Correlation over the body of |removed|, smoothed, with the gradient of the smoothed output."""
    smooth = ndimage.gaussian_filter(out, 2)
    body = smooth > -200
    if body.sum() < 100:
        return math.nan
    edges = ndimage.gaussian_gradient_magnitude(smooth, 1)
    removed = ndimage.gaussian_filter(np.abs(out - low), 2)
    if not removed[body].std():
        return 0.0
    return float(np.corrcoef(np.minimum(edges[body], 30), removed[body])[0, 1])


def _psnr_gain(
    low: NDArray[np.float32], normal: NDArray[np.float32], out: NDArray[np.float32], window: Window
) -> float:
    reference = window.clip(normal)
    return _gain_db(_rms([window.clip(low) - reference]), _rms([window.clip(out) - reference]))


def _gain_db(before: float, after: float) -> float:
    return 20 * math.log10(before / after) if after > 0 and before > 0 else math.nan


def _rms(differences: Any) -> float:
    squares = [float(np.mean(np.square(difference, dtype=np.float64))) for difference in differences]
    return math.sqrt(sum(squares) / len(squares)) if squares else math.nan


def _mean(values: Any) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan
