"""Settings of a model's use, shared by the command line, the library and the DICOM node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ldct_denoise.errors import ConfigError

#: Names of devices, for settings that are checked before torch is imported.
DEVICE_PATTERN = r"^(auto|cpu|mps|cuda(:\d+)?)$"
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class ApplySettings:
    """How a model is applied.

    Parameters
    ----------
    strength : float, optional
        Denoising strength: 0 returns the input, 1 the network's output, values in between a plain blend of both.
        Default: the output that the model's card recommends, which for the shipped models keeps the texture of
        normal dose (:mod:`ldct_denoise.inference.noise_blend`), and the network's output for others.
    device : str
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
    noise_reduction : float, optional
        Reduction of the noise in uniform tissue of the series, percent; 50 leaves half of its standard deviation.
        A reduction larger than the network's own gives the network's output. Not together with ``strength``.
    assume_hu : bool
        Take values for HU where header or values speak against it. Derived images and the ledger record it.
    strict : bool
        Refuse a series with problems, or outside the images that the model was trained on.

    Raises
    ------
    ConfigError
        If the strength is not in 0…1, the noise reduction not in 0…100, or both are given.
    """

    strength: float | None = None
    device: str = "auto"
    precision: Precision = "fp32"
    seed: int = 0
    guard_range: bool = True
    tta: bool = False
    noise_reduction: float | None = None
    assume_hu: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ConfigError(f"strength {self.strength:g}: give a number from 0 (input) to 1 (network)")
        if self.noise_reduction is not None and not 0 <= self.noise_reduction <= 100:
            raise ConfigError(f"noise reduction {self.noise_reduction:g}: give a percentage from 0 to 100")
        if self.strength is not None and self.noise_reduction is not None:
            raise ConfigError("strength and noise reduction: give one of them")

    def plain_strength(self, keeps_texture: bool) -> float | None:
        """Strength of the plain blend, or None where noise is blended by frequency and tissue.

        Parameters
        ----------
        keeps_texture : bool
            The model's card recommends the texture of normal dose.
        """
        if self.strength is not None or self.noise_reduction is not None:
            return self.strength
        return None if keeps_texture else 1.0


#: The recommended output of each model, on whatever device there is.
DEFAULT_APPLY_SETTINGS = ApplySettings()
