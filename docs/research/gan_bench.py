"""Two tests of what a training without pairs learns about noise; figures in gan.md.

twin TREE TWIN   writes a copy of a Mayo 2016 tree with noise like that of an iterative reconstruction
run TREE RUN     trains on patient L096, tests on patient L143, prints the gains and the errors by region
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import pydicom
import torch
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle

from ldct_denoise import methods
from ldct_denoise.config import load_config
from ldct_denoise.data import noise as pool_noise
from ldct_denoise.data.pools import pools_from_root
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.metrics.fidelity import psnr
from ldct_denoise.models.trained import load_model
from ldct_denoise.physics.noise import estimate_noise
from ldct_denoise.training.loop import train
from ldct_denoise.training.validation import restore_hu

FULL = Window.between("", -1024, 1024)


@click.group()
def cli() -> None:
    """Tests of training without pairs."""


@cli.command()
@click.argument("tree", type=click.Path(path_type=Path))
@click.argument("twin", type=click.Path(path_type=Path))
def twin(tree: Path, twin: Path) -> None:
    """Write TWIN: between −400 and 400 HU, 70 % of each slice is a total-variation fit keyed to its own noise."""
    for path in sorted(file for file in tree.rglob("*") if file.is_file()):
        dataset = pydicom.dcmread(path)
        stored = dataset.pixel_array
        hu = stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        fine = (hu - ndimage.gaussian_filter(hu, 2))[(hu > -100) & (hu < 200)]
        sigma_hu = 1.4826 * np.median(np.abs(fine))
        fit = sigma_hu * denoise_tv_chambolle(np.clip(hu, -400, 400) / sigma_hu, weight=1.0)
        result = np.where(np.abs(hu) < 400, 0.3 * hu + 0.7 * fit, hu)
        result = (result - float(dataset.RescaleIntercept)) / float(dataset.RescaleSlope)
        limits = np.iinfo(stored.dtype)
        dataset.PixelData = np.clip(np.rint(result), limits.min, limits.max).astype(stored.dtype).tobytes()
        target = twin / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(target)


@cli.command()
@click.argument("tree", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--config", default="lir-restoration", show_default=True)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE")
@click.option(
    "--wrong-kernel", help="Train with the spectrum of this kernel of the tree, in place of the pool's own."
)
@click.option("--pretrained", help="Only test this model.")
def run(
    tree: Path,
    output: Path,
    config: str,
    changes: tuple[str, ...],
    wrong_kernel: str | None,
    pretrained: str | None,
) -> None:
    """Train on L096 of TREE and test on L143; 300 steps of a network of an eighth of the weights."""
    small = ("settings.base_channels=16", "settings.blocks_per_level=1", "training.batch_size=8")
    length = ("training.iterations=300", "training.validate_every=300", "training.checkpoint=last")
    settings = load_config(config, (*small, *length, "data.test_patients=[L143]", *changes))
    supervision = methods.describe(settings.method).supervision
    tested = pools_from_root(tree, load_config("lir-restoration", ["data.validation_patients=[L143]"]).data)
    if pretrained is None:
        with _spectrum_of(tested.validation_low, wrong_kernel):
            pools = pools_from_root(tree, settings.data, settings.training.seed, supervision)
            train(settings, pools, output, overwrite=True)
    model = load_model(pretrained or output)
    for pair in tested.validation_pairs:
        rows = [_measure(model, pair, low, normal) for low, normal in pair.indices[::2]]
        full, abdomen, *errors = np.mean(rows, axis=0)
        regions = ", ".join(f"{name} {error:.2f}" for name, error in zip(REGIONS, errors, strict=True))
        print(f"{pair.kernel}: {full:+.2f} / {abdomen:+.2f} dB; error relative to the input: {regions}")


def _spectrum_of(series: tuple[Any, ...], kernel: str | None) -> Any:
    """Context manager: noise has the spectrum of another kernel at the level of its own."""
    original = pool_noise.estimate_noise
    if kernel is None:
        return mock.patch.object(pool_noise, "estimate_noise", original)
    other = estimate_noise(next(one for one in series if one.metadata.kernel == kernel))
    return mock.patch.object(pool_noise, "estimate_noise", lambda source: replace(original(source), nps=other.nps))


#: HU range of the blurred normal dose, and edge strength, of each region.
REGIONS = {
    "lung": (-950, -500, 0, np.inf),
    "soft tissue": (-150, 200, 0, 15),
    "edges": (-500, 3000, 15, np.inf),
    "air": (-1100, -950, 0, np.inf),
}


def _measure(model: Any, pair: Any, low_index: int, normal_index: int) -> list[float]:
    """PSNR gains of a slice, and its RMSE relative to the input's in each region."""
    low, normal = pair.low.read_hu(low_index), pair.normal.read_hu(normal_index)
    method = model.method.for_spacing(pair.low.geometry.pixel_spacing_mm)
    restored = restore_hu(method, model.scale, low[None], torch.device("cpu"))
    smooth, edges = ndimage.gaussian_filter(normal, 1.5), ndimage.gaussian_gradient_magnitude(normal, 1.5)
    values = [psnr(restored, normal, w) - psnr(low, normal, w) for w in (FULL, WINDOWS["abdomen"])]
    for lowest, highest, weakest, strongest in REGIONS.values():
        mask = (smooth > lowest) & (smooth < highest) & (edges >= weakest) & (edges < strongest)
        before, after = (float(np.sqrt(np.square(image - normal)[mask].mean())) for image in (low, restored))
        values.append(after / before)
    return values


if __name__ == "__main__":
    cli()
