"""Shared fixtures: the checkout imports like the installed package, and where the real slices lie."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ldct_denoise

if TYPE_CHECKING:
    from ldct_denoise.data.pools import Pools
    from ldct_denoise.node.serve import Node

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in ldct_denoise.__path__:  # a bare checkout: cli/ and configs/ lie beside the package
    ldct_denoise.__path__.append(str(ROOT))

SHARED_DATA = ROOT.parent / "shared" / "data"


#: Files whose tests train, simulate, export, measure at length, start programs or wait for a network: `make quick`
#: leaves them out.
SLOW_FILES = {
    "test_apply", "test_apply_scale", "test_benchmark", "test_cli_simulate", "test_compare", "test_evaluate",
    "test_export", "test_gpu_guide", "test_image_quality", "test_io_conformance", "test_io_fuzz", "test_lir",
    "test_local_noise", "test_npy_slices", "test_sweep",
    "test_manifest", "test_methods_conformance", "test_metrics_estimators", "test_metrics_lesion_changes",
    "test_metrics_statistics", "test_node", "test_node_archive", "test_node_audit", "test_node_commitment",
    "test_node_delivery", "test_node_inline", "test_node_operation", "test_node_pull", "test_node_security",
    "test_noise_blend", "test_notebooks", "test_phantom", "test_phantom_scan", "test_physics_dose",
    "test_physics_quanta", "test_pools", "test_portability", "test_registration", "test_report",
    "test_simulated_training", "test_stages", "test_structured_report", "test_terminal", "test_training",
    "test_training_overlap", "test_training_resume", "test_unpaired_noise", "test_view_browser",
    "test_warm_start", "test_wheelhouse",
}  # fmt: skip


def pytest_configure() -> None:
    """A shell that starts pytest in the background ignores Ctrl-C, which tests and their child processes need."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of the slow files, and run these first, so that both workers end at the same time."""
    for item in items:
        if item.path.stem in SLOW_FILES:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.path.stem not in SLOW_FILES)


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


@pytest.fixture
def pools() -> Pools:
    """A low- and a normal-dose pool of one patient each: water discs with noise."""
    from ldct_denoise.data.pools import Pools
    from tests.synthetic import water_disc

    return Pools((water_disc("P1low", 60, 1),), (water_disc("P2normal", 20, 2),))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    """Starts DICOM nodes in this process that look often, and end with the test."""
    from ldct_denoise.node import serve
    from ldct_denoise.node.rules import Rules
    from tests.node_peers import free_ports, settings

    monkeypatch.setattr(serve, "TICK_S", 0.05)
    nodes: list[Node] = []

    def begin(**changes: object) -> Node:
        port = changes.pop("port", None) or free_ports(1)[0]
        node = serve.Node(Rules(**settings(tmp_path / "spool", port, **changes)))
        nodes.append(node)
        node.start()
        return node

    yield begin
    for node in nodes:
        if not node.stopping.is_set():
            node.stop(0.2)
