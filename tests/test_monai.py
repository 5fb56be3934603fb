"""A MONAI pipeline reads and denoises with this package: exact HU, MONAI's axes and affine."""

from __future__ import annotations

import pickle
from pathlib import Path

import monai
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImage,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
)

from ldct_denoise import InputError, denoise, read_series
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.monai import CTReader, DenoiseCT, DenoiseCTd
from ldct_denoise.volume import Volume
from tests.dicom_files import write_ct
from tests.synthetic import axial_geometry, random_volume, shift_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_series(
        random_volume(),
        tmp_path / "in",
        SeriesAttributes(
            patient_id="P1", study_uid="1.2.3", series_uid="1.2.3.4", series_number=3, description="t"
        ),
    )
    return tmp_path / "in"


def test_hu_are_exact_and_the_affine_maps_to_ras(folder: Path) -> None:
    image = LoadImage(reader=CTReader())(folder)
    (series,) = read_series(folder)
    assert isinstance(image, MetaTensor)
    np.testing.assert_array_equal(image.numpy().T, Volume.of(series).hu)
    index = np.array([11, 7, 2, 1])  # column, row, slice
    right, anterior, superior, _ = image.affine.numpy() @ index
    np.testing.assert_allclose([-right, -anterior, superior], series.geometry.to_lps([2, 7, 11]))
    assert (str(image.meta["space"]), image.meta["original_channel_dim"]) == (
        "RAS",
        pytest.approx(np.nan, nan_ok=True),
    )
    lps = LoadImage(reader=CTReader(affine_lps_to_ras=False))(folder)
    np.testing.assert_allclose((lps.affine.numpy() @ index)[:3], series.geometry.to_lps([2, 7, 11]))


def test_the_reader_agrees_with_nibabel_on_a_nifti_file(tmp_path: Path) -> None:
    source = random_volume()
    write_volume(tmp_path / "v.nii.gz", source, source.geometry)
    to_ras = Orientationd("image", "RAS", labels=None)
    ours, theirs = (
        Compose([LoadImaged("image", reader=reader), EnsureChannelFirstd("image"), to_ras])({"image": tmp_path / "v.nii.gz"})
        for reader in (CTReader(), "NibabelReader")
    )  # fmt: skip
    np.testing.assert_array_equal(ours["image"].numpy(), theirs["image"].numpy())
    np.testing.assert_allclose(ours["image"].affine, theirs["image"].affine, atol=1e-4)


def test_a_pipeline_denoises_as_denoise_does(folder: Path) -> None:
    pipeline = Compose([
        LoadImaged("image", reader=CTReader()),
        EnsureChannelFirstd("image"),
        DenoiseCTd("image", model="lir-ct-small"),
        ScaleIntensityRanged("image", -1024, 3071, 0, 1, clip=True),
    ])  # fmt: skip
    (batch,) = DataLoader(Dataset([{"image": str(folder)}], pipeline), batch_size=1, num_workers=1)
    expected = denoise(read_series(folder)[0], "lir-ct-small").hu.clip(-1024, 3071)
    np.testing.assert_allclose(batch["image"][0, 0].numpy().T * 4095 - 1024, expected, atol=1e-3)
    assert isinstance(batch["image"], MetaTensor)


def test_the_reader_is_found_by_its_dotted_name(folder: Path) -> None:
    image = LoadImage(reader="ldct_denoise.monai.CTReader")(folder)
    assert image.shape == (50, 37, 3)


@pytest.mark.parametrize("shape", [(2, 50, 37, 3), (1, 50, 37)])
@pytest.mark.parametrize("kind", ["array", "tensor", "meta", "int16"])
def test_type_shape_and_metadata_are_kept(kind: str, shape: tuple[int, ...]) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1500, shape).astype(np.float32)
    affine = torch.diag(torch.tensor([0.7, 0.8, 2.5, 1.0]))
    image = {
        "array": hu, "tensor": torch.from_numpy(hu), "meta": MetaTensor(hu, affine), "int16": hu.astype(np.int16)
    }[kind]  # fmt: skip
    denoised = DenoiseCT(shift_model(6.6))(image)
    assert (type(denoised), denoised.dtype, denoised.shape) == (type(image), image.dtype, image.shape)
    np.testing.assert_allclose(np.asarray(denoised), hu + (7 if kind == "int16" else 6.6), atol=1e-3)
    np.testing.assert_array_equal(np.asarray(image), hu)
    if kind == "meta":
        assert torch.equal(denoised.affine, image.affine)


def test_strength_and_missing_keys() -> None:
    image = torch.zeros(1, 8, 8)
    transform = DenoiseCTd(("image", "other"), shift_model(8), strength=0.25, allow_missing_keys=True)
    assert transform({"image": image})["image"].unique().tolist() == [2]
    with pytest.raises(KeyError):
        DenoiseCTd("other", shift_model(8))({"image": image})


def test_scaled_images_are_refused() -> None:
    with pytest.raises(InputError, match="looks normalised"):
        DenoiseCT(shift_model())(torch.rand(1, 8, 8))


def test_a_transform_is_sent_to_worker_processes() -> None:
    transform = pickle.loads(pickle.dumps(DenoiseCTd("image", "lir-ct-small", strength=1)))
    assert transform({"image": torch.zeros(1, 16, 16)})["image"].shape == (1, 16, 16)


def test_several_series_need_a_choice(tmp_path: Path) -> None:
    for number, uid in enumerate(("1.2.1", "1.2.2")):
        write_ct(tmp_path / f"{number}.dcm", number, SeriesInstanceUID=uid)
    with pytest.raises(InputError, match=r"2 matching series; give series_uid, one of 1\.2\.1, 1\.2\.2"):
        CTReader().read(tmp_path)
    (series,) = CTReader(series_uid="1.2.2").read(tmp_path)
    assert series.uid == "1.2.2"


def test_paths_become_channels_only_on_one_grid(folder: Path, tmp_path: Path) -> None:
    reader = CTReader()
    array, metadata = reader.get_data(reader.read([folder, folder]))
    assert (array.shape, metadata["original_channel_dim"]) == ((2, 50, 37, 3), 0)
    elsewhere = Volume(random_volume().hu, axial_geometry(3, 37, 50))
    with pytest.raises(InputError, match="differs in geometry"):
        reader.get_data([random_volume(), elsewhere])


def test_gaps_are_refused() -> None:
    source = random_volume((4, 8, 8))
    with pytest.raises(InputError, match="unevenly spaced"):
        CTReader().get_data(Volume(source.hu[[0, 1, 3]], source.geometry.select([0, 1, 3])))


def test_suffixes() -> None:
    assert CTReader().verify_suffix(["a.nii.gz", "b.dcm", "folder"])
    assert not CTReader().verify_suffix("picture.png")
    assert monai.__file__ != __file__
