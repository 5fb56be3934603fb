"""CT numbers: the one linear map between HU and network values, and display windows.

Nothing else in the package scales HU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError

T = TypeVar("T")  # float, numpy array or torch tensor: the arithmetic is the same


@dataclass(frozen=True)
class Scale:
    """The map between HU and the unit range that networks see.

    ``unit = (hu − low_hu) / (high_hu − low_hu)``: ``low_hu`` becomes 0 and ``high_hu`` 1. Values outside are
    mapped by the same line and never clipped here, so the inverse is exact for every HU; with a width that
    is a power of two (the default is 4096) it is exact to the bit for every whole HU in float32.

    Parameters
    ----------
    low_hu, high_hu : float
        HU that become 0 and 1.

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
        """HU per network unit; multiply a noise level in network units by it to get HU."""
        return self.high_hu - self.low_hu

    def to_unit(self, hu: T) -> T:
        """HU to network values."""
        return (hu - self.low_hu) / self.width_hu  # type: ignore[operator, return-value]

    def to_hu(self, unit: T) -> T:
        """Network values to HU; the inverse of :meth:`to_unit`."""
        return unit * self.width_hu + self.low_hu  # type: ignore[operator, return-value]

    def covers(self, hu: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Where ``hu`` lies inside the range; elsewhere a model must leave the image as it is."""
        return (hu >= self.low_hu) & (hu <= self.high_hu)


@dataclass(frozen=True)
class Window:
    """A display or measurement window: ``level ± width/2`` in HU.

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
        """HU clipped to the window."""
        return np.clip(hu, self.low_hu, self.high_hu)

    def to_grey(self, hu: NDArray[np.floating]) -> NDArray[np.floating]:
        """Grey values 0…1 for display."""
        return (self.clip(hu) - self.low_hu) / self.width_hu

    @classmethod
    def between(cls, name: str, low_hu: float, high_hu: float) -> Window:
        """The window from ``low_hu`` to ``high_hu``."""
        return cls(name, (low_hu + high_hu) / 2, high_hu - low_hu)

    @classmethod
    def parse(cls, text: str) -> Window:
        """A preset's name or ``LEVEL,WIDTH`` in HU.

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
    """Each window once: one that is given twice would count every slice twice.

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
