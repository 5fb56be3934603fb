"""Settings of a model's use, shared by the command line, the library and the DICOM node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ldct_denoise.errors import ConfigError

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class ApplySettings:
    """How a model is applied.

    Parameters
    ----------
    strength : float
        Denoising strength: 0 returns the input, 1 the model's output, values in between a blend of the two.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    precision : {"fp32", "bf16"}
        ``bf16`` is faster on hardware that supports it. The middle slice of each series is then restored in both
        precisions, and an error is raised where they differ by more than 0.5 HU on average.
    seed : int
        Seed of models that draw random numbers.
    guard_range : bool
        Leave pixels outside the model's HU range unchanged. Off for noisy photographs, whose noise exceeds it.
    tta : bool
        Test-time augmentation: average over the eight flips and rotations of each slice. Slightly better, eight
        times slower (Timofte, Rothe, Van Gool, "Seven ways to improve example-based single image super
        resolution", CVPR 2016).

    Raises
    ------
    ConfigError
        If the strength is not in 0…1.
    """

    strength: float = 1.0
    device: str = "auto"
    precision: Precision = "fp32"
    seed: int = 0
    guard_range: bool = True
    tta: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"strength {self.strength:g}: give a number from 0 (input) to 1 (model)")


#: Full strength, on whatever device there is.
DEFAULT_APPLY_SETTINGS = ApplySettings()
