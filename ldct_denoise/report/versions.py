"""Versions of the software that computed a report's numbers."""

from __future__ import annotations

import sys

from ldct_denoise import __version__


def versions() -> str:
    """Versions of the software that computed the numbers."""
    import numpy
    import scipy

    return (
        f"ldct-denoise {__version__}, Python {sys.version.split()[0]}, NumPy {numpy.__version__}, "
        f"SciPy {scipy.__version__}"
    )
