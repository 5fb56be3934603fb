"""Shared fixtures: the checkout imports like the installed package, and where the real slices lie."""

from __future__ import annotations

from pathlib import Path

import pytest

import ldct_denoise

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in ldct_denoise.__path__:  # a bare checkout: cli/ and configs/ lie beside the package
    ldct_denoise.__path__.append(str(ROOT))

SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real CT and test images, for development only; tests that need them skip without them."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real slices are not here: ../shared/data is absent")
    return SHARED_DATA


@pytest.fixture(scope="session")
def mayo2016(shared_data: Path) -> Path:
    """The 21 Mayo 2016 slice pairs."""
    return shared_data / "mayo2016"
