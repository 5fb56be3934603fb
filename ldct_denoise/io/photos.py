"""Grey photographs as slices, to reproduce tables of the literature on natural images.

Grey values 0…255 take the place of HU; recipes for photographs set ``range_hu`` to 0…255.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.io.volume_files import file_identity
from ldct_denoise.volume import Geometry, SeriesMetadata, SeriesView

SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
NoiseLaw = Literal["gaussian", "poisson"]


@dataclass(frozen=True)
class GreyImage:
    """An image file as a series of one slice; colours are converted to grey.

    Parameters
    ----------
    path : Path
        The image file.
    geometry : Geometry
    patient : str
        Each photograph counts as a patient of its own.
    """

    path: Path
    geometry: Geometry
    patient: str = ""

    @property
    def uid(self) -> str:
        """Path, size and modification time of the file."""
        return file_identity(self.path)

    @property
    def name(self) -> str:
        """File name without its suffix."""
        return self.path.stem

    @property
    def metadata(self) -> SeriesMetadata:
        """Only the path is known."""
        return SeriesMetadata(path=self.path, first_file=self.path)

    def __len__(self) -> int:
        return 1

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read the grey values 0…255, shape (rows, columns)."""
        return _read(self.path)


@dataclass(frozen=True)
class NoisyImage(SeriesView):
    """A grey image with synthetic noise, which is the same at every reading.

    Parameters
    ----------
    source : GreyImage
        The clean image.
    law : str
        ``gaussian`` or ``poisson``.
    sigma : float
        Gaussian: standard deviation in grey values. Poisson: grey values per counted photon.
    seed : int
    """

    source: GreyImage
    law: NoiseLaw
    sigma: float
    seed: int

    @property
    def uid(self) -> str:
        """File name of the clean image, and the parameters of the noise."""
        return f"{self.source.path.name}-{self.law}{self.sigma:g}-{self.seed}"

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Noisy grey values, not rounded and not clipped."""
        clean = self.source.read_hu(index)
        rng = np.random.default_rng([self.seed, *self.source.path.name.encode()])
        return clean + noise_for(clean, self.law, self.sigma, rng)


def noise_for(
    clean: NDArray[np.float32], law: NoiseLaw, sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw the noise of an image with grey values 0…255.

    Parameters
    ----------
    clean : ndarray, shape (rows, columns)
        Grey values of the noise-free image.
    law : str
        ``gaussian``: white noise. ``poisson``: photon counting noise of the variance g·``sigma`` at grey value g.
    sigma : float
        Gaussian: standard deviation in grey values. Poisson: grey values per counted photon (1: 255 photons at
        white).
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (rows, columns)
        To be added to ``clean``.
    """
    if law == "gaussian":
        return (sigma * rng.standard_normal(clean.shape)).astype(np.float32)
    counts = rng.poisson(np.clip(clean, 0, None) / sigma)
    return (counts * sigma - np.clip(clean, 0, None)).astype(np.float32)


def open_images(folder: Path) -> tuple[GreyImage, ...]:
    """Open every image file of a folder, sorted by name.

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
