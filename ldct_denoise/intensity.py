"""Scaling of CT numbers (HU) for networks, and display windows.

HU are scaled nowhere else in the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")  # float, numpy array or torch tensor: the arithmetic is the same
Array = TypeVar("Array", NDArray[np.float32], "Tensor")


@dataclass(frozen=True)
class Scale:
    """Linear map between HU and network values.

    ``unit = (hu − low_hu) / (high_hu − low_hu)``. If the width is a power of two (4096 by default), the inverse is
    exact to the bit for every integer HU in float32.

    Images reach a network through :meth:`to_input`, or where noise was added through its last step
    :meth:`clip_units`, so that a network sees the same values in training, validation, use and export.
    :meth:`to_unit` is for single values, such as a threshold.

    Parameters
    ----------
    low_hu, high_hu : float
        HU that are mapped to 0 and 1.

    Raises
    ------
    ConfigError
        If the range is empty or not finite.
    """

    low_hu: float = -1024.0
    high_hu: float = 3072.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low_hu) and math.isfinite(self.high_hu) and self.low_hu < self.high_hu):
            raise ConfigError(f"HU range {self.low_hu:g}…{self.high_hu:g} is empty; give low < high")

    @property
    def width_hu(self) -> float:
        """HU per network unit; converts a noise level from network units to HU."""
        return self.high_hu - self.low_hu

    def to_unit(self, hu: T) -> T:
        """Convert HU to network values, those outside the range by the same line."""
        return (hu - self.low_hu) / self.width_hu  # type: ignore[operator, return-value]

    def to_hu(self, unit: T) -> T:
        """Convert network values to HU; the inverse of :meth:`to_unit`."""
        return unit * self.width_hu + self.low_hu  # type: ignore[operator, return-value]

    def clip(self, hu: Array, guard_range: bool = True) -> Array:
        """HU as a network sees them: non-finite values become ``low_hu``, and values outside the range its ends.

        Parameters
        ----------
        hu : ndarray or Tensor
            HU.
        guard_range : bool
            Clip to the range. Off for photographs, whose noise exceeds it.

        Returns
        -------
        ndarray or Tensor
            The same kind and shape.
        """
        if isinstance(hu, np.ndarray):
            filled = np.where(np.isfinite(hu), hu, hu.dtype.type(self.low_hu))
            return np.clip(filled, self.low_hu, self.high_hu) if guard_range else filled
        # A non-finite value would spread over the whole receptive field.
        filled = hu.where(hu.isfinite(), self.low_hu)
        return filled.clamp(self.low_hu, self.high_hu) if guard_range else filled

    def to_input(self, hu: Array, guard_range: bool = True) -> Array:
        """Network input of images in HU: :meth:`to_unit` of :meth:`clip`.

        Parameters
        ----------
        hu : ndarray or Tensor
            HU.
        guard_range : bool
            Clip to the range. Off for photographs, whose noise exceeds it.

        Returns
        -------
        ndarray or Tensor
            The same kind and shape; 0…1 where the range is guarded.
        """
        filled = self.to_unit(self.clip(hu, guard_range=False))
        return self.clip_units(filled) if guard_range else filled

    @staticmethod
    def clip_units(units: Array) -> Array:
        """Clip network values to the range, 0…1."""
        return units.clip(0.0, 1.0)

    def covers(self, hu: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Mask of values inside the range; a model must not change the others."""
        return (hu >= self.low_hu) & (hu <= self.high_hu)


@dataclass(frozen=True)
class Window:
    """A display or measurement window: ``level ± width/2`` in HU.

    Parameters
    ----------
    name : str
    level_hu, width_hu : float

    Raises
    ------
    ConfigError
        If the width is not positive.
    """

    name: str
    level_hu: float
    width_hu: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.level_hu) and math.isfinite(self.width_hu) and self.width_hu > 0):
            raise ConfigError(f"window {self.name}: width must be positive, not {self.width_hu:g} HU")

    @property
    def low_hu(self) -> float:
        """Lower edge, HU."""
        return self.level_hu - self.width_hu / 2

    @property
    def high_hu(self) -> float:
        """Upper edge, HU."""
        return self.level_hu + self.width_hu / 2

    def clip(self, hu: NDArray[np.floating]) -> NDArray[np.floating]:
        """Clip HU to the window."""
        return np.clip(hu, self.low_hu, self.high_hu)

    def to_grey(self, hu: NDArray[np.floating]) -> NDArray[np.floating]:
        """Convert HU to grey values from 0 to 1 for display."""
        return (self.clip(hu) - self.low_hu) / self.width_hu

    @classmethod
    def between(cls, name: str, low_hu: float, high_hu: float) -> Window:
        """The window between two values.

        Parameters
        ----------
        name : str
        low_hu, high_hu : float

        Returns
        -------
        Window
        """
        return cls(name, (low_hu + high_hu) / 2, high_hu - low_hu)

    @classmethod
    def parse(cls, text: str) -> Window:
        """Parse the name of a preset, or ``LEVEL,WIDTH`` in HU.

        Raises
        ------
        ConfigError
            If the text is neither.
        """
        if text in WINDOWS:
            return WINDOWS[text]
        try:
            level, width = (float(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(
                f"window {text!r}: give LEVEL,WIDTH in HU (as 40,400) or one of {', '.join(WINDOWS)}"
            ) from None
        return cls(f"{level:g},{width:g}", level, width)


#: Named windows (level, width in HU); ``full`` is [−1024, 3071].
WINDOWS: dict[str, Window] = {
    window.name: window
    for window in (
        Window.between("full", -1024, 3071),
        Window("abdomen", 40, 400),
        Window("mediastinum", 50, 350),
        Window("lung", -600, 1500),
        Window("bone", 400, 1800),
        Window("brain", 40, 80),
        Window("liver", 60, 160),
    )
}


def unique_windows(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Remove repeated windows, in which every slice would be counted twice.

    Raises
    ------
    ConfigError
        If two different windows have one name.
    """
    kept: dict[str, Window] = {}
    for window in windows:
        first = kept.setdefault(window.name, window)
        if first != window:
            raise ConfigError(
                f"window {window.name}: {first.low_hu:.12g}…{first.high_hu:.12g} HU and {window.low_hu:.12g}…"
                f"{window.high_hu:.12g} HU have the same name; give one of them"
            )
    return tuple(kept.values())
