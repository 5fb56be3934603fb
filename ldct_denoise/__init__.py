"""Low-dose CT denoising: read CT series, train denoisers, write derived series and measure image quality.

The names in ``__all__`` are the public Python interface. They are imported on first use, so that
``import ldct_denoise`` loads neither torch nor MONAI nor SimpleITK.

Research use only: not a medical device.

Examples
--------
Denoise a NumPy array of HU:

>>> import numpy as np
>>> import ldct_denoise
>>> hu = np.random.default_rng(0).normal(40, 30, (64, 64))
>>> denoised = ldct_denoise.denoise(hu, model="bilateral")
>>> denoised.shape
(64, 64)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldct_denoise.api import apply, compare, evaluate, read_series, train
    from ldct_denoise.arrays import denoise, simulate_low_dose
    from ldct_denoise.data.dataset import SliceDataset
    from ldct_denoise.errors import (
        ConfigError,
        InputError,
        LdctDenoiseError,
        ModelError,
        OutputError,
        PartialError,
        TrainingError,
    )
    from ldct_denoise.intensity import Scale, Window
    from ldct_denoise.models.trained import load_model
    from ldct_denoise.volume import Geometry, Volume

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "Geometry",
    "InputError",
    "LdctDenoiseError",
    "ModelError",
    "OutputError",
    "PartialError",
    "Scale",
    "SliceDataset",
    "TrainingError",
    "Volume",
    "Window",
    "apply",
    "compare",
    "denoise",
    "evaluate",
    "load_model",
    "read_series",
    "simulate_low_dose",
    "train",
]

#: Module of every public name that is not in ``ldct_denoise.api``.
_MODULES = {
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "errors"),
    **dict.fromkeys(("denoise", "simulate_low_dose"), "arrays"),
    **dict.fromkeys(("Scale", "Window"), "intensity"),
    **dict.fromkeys(("Geometry", "Volume"), "volume"),
    "SliceDataset": "data.dataset",
    "load_model": "models.trained",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'api')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
