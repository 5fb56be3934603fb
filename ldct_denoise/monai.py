"""Adapters for MONAI pipelines: an image reader and denoising transforms.

Arrays follow MONAI's own readers: spatial axes (column, row, slice) and an affine to RAS millimetres.

Examples
--------
>>> from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
>>> pipeline = Compose([
...     LoadImaged("image", reader=CTReader()),
...     EnsureChannelFirstd("image"),
...     DenoiseCTd("image", model="lir-ct-small"),
... ])
>>> pipeline({"image": folder})["image"].shape
torch.Size([1, 96, 96, 4])
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.image_reader import ImageReader
from monai.transforms import MapTransform, Transform
from monai.utils import MetaKeys, SpaceKeys, convert_data_type, convert_to_dst_type, ensure_tuple
from numpy.typing import NDArray

from ldct_denoise.api import read_series
from ldct_denoise.arrays import denoise
from ldct_denoise.errors import InputError
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.volume import SliceSource, Volume

#: From this package's axes (slice, row, column) and LPS to MONAI's (column, row, slice) and RAS.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_REVERSED_AXES = np.eye(4)[[2, 1, 0, 3]]


class CTReader(ImageReader):  # type: ignore[misc]  # MONAI has no types
    """Reads one CT series per path in HU, with all checks of :func:`ldct_denoise.read_series`.

    Compared with MONAI's own DICOM readers, each slice gets its own rescale slope and intercept, slices are
    ordered by position, localizers and other images are left out, and Enhanced CT and all transfer syntaxes are
    read.

    Parameters
    ----------
    series_uid : str, optional
        The series to read where a path holds several.
    affine_lps_to_ras : bool
        Whether the affine maps to RAS, MONAI's default, or LPS.

    Examples
    --------
    >>> from monai.transforms import LoadImage
    >>> image = LoadImage(reader=CTReader())(folder)
    >>> image.shape, str(image.meta["space"])
    (torch.Size([96, 96, 4]), 'RAS')
    """

    def __init__(self, series_uid: str | None = None, affine_lps_to_ras: bool = True) -> None:
        super().__init__()
        self.series_uid, self.affine_lps_to_ras = series_uid, affine_lps_to_ras

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Whether every path is a folder or a file whose name allows a CT image."""
        suffixes = (".dcm", ".ima", ".nii", ".gz", ".nrrd", ".mha", ".mhd", ".zip", "")
        return all(Path(name).is_dir() or Path(name).suffix.lower() in suffixes for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | Path] | str | Path, **kwargs: Any) -> list[SliceSource]:
        """Find the series of each path.

        Parameters
        ----------
        data : path or sequence of paths
            Files or folders; several become channels.
        **kwargs
            Ignored; MONAI passes the options of other readers here.

        Returns
        -------
        list of SliceSource
            One per path.

        Raises
        ------
        InputError
            If a path holds no CT series, or several and ``series_uid`` does not choose one of them.
        """
        return [self._one_series(Path(path)) for path in ensure_tuple(data)]

    def get_data(self, img: Sequence[SliceSource] | SliceSource) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """HU of shape (columns, rows, slices) and their metadata; several series are stacked along a first axis.

        Raises
        ------
        InputError
            If a slice cannot be read, a series has gaps, or several series differ in geometry.
        """
        volumes = [Volume.of(source) for source in ensure_tuple(img)]
        first = volumes[0]
        for volume in volumes:
            if volume.geometry.unevenness_mm > 0.01 * volume.geometry.slice_spacing_mm:
                raise InputError(f"{volume.name}: slices are unevenly spaced, which MONAI's affine cannot express")
            if not np.allclose(volume.geometry.affine, first.geometry.affine) or len(volume) != len(first):
                raise InputError(f"{volume.name}: differs in geometry from {first.name}; channels must match")
        arrays = [np.ascontiguousarray(volume.hu.transpose(2, 1, 0)) for volume in volumes]
        affine = first.geometry.affine @ _REVERSED_AXES
        if self.affine_lps_to_ras:
            affine = _LPS_TO_RAS @ affine
        metadata = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS if self.affine_lps_to_ras else SpaceKeys.LPS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(arrays[0].shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if len(arrays) == 1 else 0,
            "series_uid": first.uid,
        }
        return (arrays[0] if len(arrays) == 1 else np.stack(arrays)), metadata

    def _one_series(self, path: Path) -> SliceSource:
        found = read_series(path)
        chosen = [source for source in found if self.series_uid in (None, source.uid)]
        if len(chosen) != 1:
            uids = ", ".join(source.uid for source in found)
            raise InputError(f"{path}: {len(chosen)} matching series; give series_uid, one of {uids}")
        return chosen[0]


class DenoiseCT(Transform):  # type: ignore[misc]  # MONAI has no types
    """Denoise a channel-first CT image in HU; place it before any intensity scaling.

    Parameters
    ----------
    model : str, Path or TrainedModel
        As :func:`ldct_denoise.load_model` takes it; loaded at the first call.
    strength : float, optional
        0 (input) to 1 (model); see :func:`ldct_denoise.denoise`.

    Examples
    --------
    >>> hu = torch.randn(1, 64, 64, 2) * 30 + 40
    >>> DenoiseCT("bilateral")(hu).shape
    torch.Size([1, 64, 64, 2])
    """

    def __init__(self, model: str | Path | TrainedModel = "lir-ct", strength: float | None = None) -> None:
        self.model, self.strength = model, strength

    def __call__(self, img: Any) -> Any:
        """Denoise each channel.

        Parameters
        ----------
        img : ndarray or Tensor
            HU, shape (channels, columns, rows) or (channels, columns, rows, slices), as MONAI's readers give it.

        Returns
        -------
        ndarray or Tensor
            The same type, shape, data type, device and metadata.

        Raises
        ------
        InputError
            If the values are not HU.
        """
        array, *_ = convert_data_type(img, np.ndarray)
        spacing = self._spacing_mm(img)
        denoised = np.stack(
            [denoise(one.T, self._loaded, spacing_mm=spacing, strength=self.strength).T for one in array]
        )
        rounded = np.rint(denoised) if np.issubdtype(array.dtype, np.integer) else denoised
        return convert_to_dst_type(np.ascontiguousarray(rounded), dst=img)[0]

    @cached_property
    def _loaded(self) -> TrainedModel:
        return load_model(self.model) if isinstance(self.model, str | Path) else self.model

    @staticmethod
    def _spacing_mm(img: Any) -> tuple[float, ...] | None:
        """(slice, row, column) spacing of a MetaTensor; unknown for other images."""
        if not isinstance(img, MetaTensor):
            return None
        spacing: Sequence[float] = img.pixdim.tolist()[: img.ndim - 1]
        return tuple(reversed(spacing))


class DenoiseCTd(MapTransform):  # type: ignore[misc]  # MONAI has no types
    """Dictionary version of :class:`DenoiseCT`.

    Parameters
    ----------
    keys : str or sequence of str
        Items to denoise, channel-first images in HU.
    model : str, Path or TrainedModel
        As :func:`ldct_denoise.load_model` takes it.
    strength : float, optional
        0 (input) to 1 (model).
    allow_missing_keys : bool
        Skip keys that a sample lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: str | Path | TrainedModel = "lir-ct",
        strength: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.denoise = DenoiseCT(model, strength)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its ``keys`` denoised."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self.denoise(sample[key])
        return sample
