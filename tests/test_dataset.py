"""Datasets for a DataLoader of one's own: finite, paired by position, windowed as a window means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ldct_denoise import ConfigError, InputError, Scale, SliceDataset, Volume, Window
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from tests.synthetic import axial_geometry, random_volume, water_disc


def ramp(slices: int = 3, side: int = 16, start: float = 0.0) -> Volume:
    """Every pixel of a slice has another value; slices differ by 1000 HU."""
    hu = np.arange(slices * side * side, dtype=np.float32).reshape(slices, side, side) / (side * side)
    return Volume(hu * 1000 + start - 500, axial_geometry(slices, side, side), "u", "P", "ramp")


def test_whole_slices_in_a_window_are_clipped_to_it() -> None:
    dataset = SliceDataset([random_volume()], window="abdomen")
    assert len(dataset) == 3
    image = dataset[1]["image"]
    assert (image.shape, image.dtype) == ((1, 37, 50), torch.float32)
    hu = random_volume().hu[1]
    np.testing.assert_allclose(image[0], (hu.clip(-160, 240) + 160) / 400, atol=1e-6)
    np.testing.assert_allclose(dataset.to_hu(image)[0], hu.clip(-160, 240), atol=1e-3)
    assert (float(image.min()), float(image.max())) == (0, 1)


def test_a_scale_gives_the_input_of_a_network() -> None:
    dataset = SliceDataset([random_volume()], window=Scale(-160, 240))
    image = dataset[0]["image"]
    assert (float(image.min()), float(image.max())) == (0, 1)
    np.testing.assert_allclose(dataset.to_hu(image)[0], random_volume().hu[0].clip(-160, 240), atol=1e-3)
    whole = SliceDataset([random_volume()], window=Scale())
    np.testing.assert_array_equal(whole.to_hu(whole[0]["image"])[0], random_volume().hu[0].clip(-1024, 3072))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_every_slice_once_an_epoch(workers: int) -> None:
    dataset = SliceDataset([ramp(5), ramp(4, start=5000)], window=Window("all", 5000, 20000))
    loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=workers)
    for _ in range(2):
        seen = torch.cat([batch["image"] for batch in loader])
        means = dataset.to_hu(seen).mean((1, 2, 3)).sort().values
        expected = [*range(0, 5000, 1000), *range(5000, 9000, 1000)]
        np.testing.assert_allclose(means, np.array(expected) - 500 / 256 + 0.0, atol=2)
    assert len(loader) == 5


def test_pairs_are_cut_at_the_same_place() -> None:
    low, normal = ramp(6, 40), ramp(6, 40, start=100)
    shuffled = [5, 3, 1]
    normal = Volume(normal.hu[shuffled], normal.geometry.select(shuffled), "n", "P", "normal")
    dataset = SliceDataset([low], [normal], window=Scale(-1024, 7168), patch_size=16, patches_per_slice=5)
    assert len(dataset) == 15
    corners = set()
    for sample in (dataset[index] for index in range(len(dataset))):
        image, label = dataset.to_hu(sample["image"]), dataset.to_hu(sample["label"])
        assert image.shape == (1, 16, 16)
        np.testing.assert_allclose(label - image, 100, atol=1e-2)
        corners.add(float(image[0, 0, 0]) % 1000)
    assert len(corners) > 5


def test_patches_lie_in_the_patient_and_differ_between_epochs() -> None:
    dataset = SliceDataset([water_disc("P1", 0, side=128)], window="full", patch_size=16)
    torch.manual_seed(0)
    first, second = dataset[0]["image"], dataset[0]["image"]
    torch.manual_seed(0)
    assert torch.equal(dataset[0]["image"], first)
    assert dataset.to_hu(first).max() == pytest.approx(0, abs=0.01)
    corners = {tuple(dataset._random_corner(dataset._stores["image"][0])) for _ in range(20)}
    assert len(corners) > 10
    assert second.shape == first.shape


def test_a_patch_larger_than_the_slice_is_mirrored() -> None:
    image = SliceDataset([ramp(1, 16)], window=Scale(), patch_size=24)[0]["image"][0]
    np.testing.assert_array_equal(image[:, 16:], image[:, 8:16].flip(1))


def test_a_transform_gets_the_sample() -> None:
    dataset = SliceDataset([ramp()], transform=lambda sample: sample | {"image": sample["image"] * 0, "extra": 1})
    assert set(dataset[0]) == {"image", "extra"}
    assert dataset[0]["image"].abs().max() == 0


def test_a_folder_gives_low_normal_or_paired(tmp_path: Path) -> None:
    for number, name in enumerate(("low", "normal"), 1):
        write_series(
            water_disc("P1", 10 * number, slices=3 + number),
            tmp_path / name,
            SeriesAttributes(
                patient_id="P1",
                study_uid="1.2",
                series_uid=f"1.2.{number}",
                series_number=number,
                description=name,
            ),
        )
    lengths = {dose: len(SliceDataset.from_folder(tmp_path, dose)) for dose in ("low", "normal", "paired", None)}
    assert lengths == {"low": 4, "normal": 5, "paired": 4, None: 9}
    sample = SliceDataset.from_folder(tmp_path, "paired", window="abdomen")[0]
    assert set(sample) == {"image", "label"}
    for dose, message in (("low", "no series of low dose"), ("paired", "no pair")):
        with pytest.raises(InputError, match=message):
            SliceDataset.from_folder(tmp_path / "normal", dose)
    with pytest.raises(ConfigError, match="give low, normal or paired"):
        SliceDataset.from_folder(tmp_path, "high")


def test_indices_end_and_count_from_the_end() -> None:
    dataset = SliceDataset([ramp(3)])
    assert torch.equal(dataset[-1]["image"], dataset[2]["image"])
    with pytest.raises(IndexError):
        dataset[3]
    assert len(list(dataset)) == 3


def test_impossible_datasets_are_refused() -> None:
    with pytest.raises(InputError, match="no slice"):
        SliceDataset([])
    with pytest.raises(InputError, match="1 images and 2 labels"):
        SliceDataset([ramp()], [ramp(), ramp()])
    with pytest.raises(InputError, match="same position and pixel grid"):
        SliceDataset([ramp()], [random_volume()])
    with pytest.raises(ConfigError, match="patch_size: 0"):
        SliceDataset([ramp()], patch_size=0)
