"""Grey photographs as slices, so that the tables of the literature on natural images can be repeated.

A pixel's value 0…255 stands where HU stand for CT; recipes set ``range_hu`` to 0…255.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.io.volume_files import identity_of
from ldct_denoise.volume import Geometry

SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
NoiseLaw = Literal["gaussian", "poisson"]


@dataclass(frozen=True)
class GreyImage:
    """One image file as a series of one slice; colour is made grey."""

    path: Path
    geometry: Geometry
    patient: str = ""

    @property
    def uid(self) -> str:
        """The file's place, size and time: another of this name is another image."""
        return identity_of(self.path)

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def __len__(self) -> int:
        return 1

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Grey values 0…255, shape (rows, columns)."""
        return _read(self.path)


@dataclass(frozen=True)
class NoisyImage:
    """A grey image with synthetic noise, the same at every reading.

    Parameters
    ----------
    clean : GreyImage
    law : str
    sigma : float
        Gaussian: standard deviation in grey values. Poisson: grey values for each photon counted.
    seed : int
    """

    clean: GreyImage
    law: NoiseLaw
    sigma: float
    seed: int

    @property
    def uid(self) -> str:
        """The clean image's name, and how it was degraded."""
        return f"{self.clean.path.name}-{self.law}{self.sigma:g}-{self.seed}"

    @property
    def patient(self) -> str:
        """As the clean image."""
        return self.clean.patient

    @property
    def name(self) -> str:
        """As the clean image."""
        return self.clean.name

    @property
    def geometry(self) -> Geometry:
        """As the clean image."""
        return self.clean.geometry

    def __len__(self) -> int:
        return 1

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Noisy grey values, not rounded and not clipped."""
        clean = self.clean.read_hu(index)
        rng = np.random.default_rng([self.seed, *self.clean.path.name.encode()])
        return clean + noise_for(clean, self.law, self.sigma, rng)


def noise_for(
    clean: NDArray[np.float32], law: NoiseLaw, sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """What noise adds to grey values 0…255.

    ``gaussian``: white, of standard deviation ``sigma``. ``poisson``: each photon counted makes ``sigma`` grey
    values, so that the variance at grey value g is g·``sigma`` (1: 255 photons at white).
    """
    if law == "gaussian":
        return (sigma * rng.standard_normal(clean.shape)).astype(np.float32)
    counts = rng.poisson(np.clip(clean, 0, None) / sigma)
    return (counts * sigma - np.clip(clean, 0, None)).astype(np.float32)


def open_images(folder: Path) -> tuple[GreyImage, ...]:
    """Every image file of a folder, by name.

    Raises
    ------
    InputError
        If there is none, or one cannot be read.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{folder}: no image files ({', '.join(SUFFIXES)})")
    return tuple(GreyImage(path, _flat(*_read(path).shape), path.stem) for path in files)


def _flat(rows: int, columns: int) -> Geometry:
    return Geometry(np.zeros((1, 3)), (1, 0, 0), (0, 1, 0), (1.0, 1.0), rows, columns)


def _read(path: Path) -> NDArray[np.float32]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"), dtype=np.float32)
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: not an image that can be read ({error})") from None
