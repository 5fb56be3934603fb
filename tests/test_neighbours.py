"""2.5-D: a slice with those beside it, from a pool's patches to the derived series."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from ldct_denoise import methods
from ldct_denoise.config import Config, parse_config
from ldct_denoise.context_slices import (
    StackReader,
    cholesky_factor,
    context_indices,
    contributing_slices,
    overlap_correlation,
    sample_correlated_noise,
)
from ldct_denoise.data import context
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.training_set import make_training_set
from ldct_denoise.errors import ConfigError, ModelError
from ldct_denoise.export.export import export
from ldct_denoise.inference.series import apply_series, derivation_of
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import Scale
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.methods import Supervision
from ldct_denoise.methods.base import Batch, center_slice, repeat_slice
from ldct_denoise.methods.lir import Lir
from ldct_denoise.models.network_file import read_torchscript
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.training.loop import train
from ldct_denoise.volume import Geometry, Volume
from tests.conformance import check_derived
from tests.enhanced_file import make_enhanced
from tests.synthetic import saved_weights, tiny_config, water_disc

SMALL = {
    "architecture": "unet",
    "base_channels": 4,
    "blocks_per_level": 1,
    "norm": "none",
    "discriminator_channels": 4,
    "latent_noise_std": 0.0,
}


def geometry(*positions_mm: float, side: int = 32) -> Geometry:
    places = np.array(positions_mm)[:, None] * [0, 0, 1.0]
    return Geometry(places, (1, 0, 0), (0, 1, 0), (0.7, 0.7), side, side)


def lir(**settings: object) -> Lir:
    torch.manual_seed(0)
    method = methods.build("lir", SMALL | {"context_slices": 1} | settings, Scale(), for_training=True)
    with torch.no_grad():
        method.g_y.last.weight.mul_(100)  # fresh, it changes next to nothing
    return method.eval()


def model(**settings: object) -> TrainedModel:
    return TrainedModel("beside", lir(**settings), "lir", Scale(), checksum="ab" * 32)


def numbered(slices: int, side: int = 64) -> Volume:
    """Slice i is i everywhere, but for air around."""
    return Volume(np.arange(slices)[:, None, None] * np.ones((1, side, side)), geometry(*range(slices), side=side))


def beside(**data: object) -> Config:
    base = {"patch_size": 32, "augment": False}
    return parse_config({"data": base | data}, "test")


@pytest.fixture(autouse=True)
def fixed_spacing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks of adjacent slices, 1 mm apart, and validation on all that are held back."""
    monkeypatch.setattr(context, "SINGLE_SLICE_PROB", 0.0)
    monkeypatch.setattr(context, "CONTEXT_SPACING_MM", (1.0, 1.0))
    monkeypatch.setattr("ldct_denoise.data.validation_set.VALIDATION_SLICES", 99)


# ---- which slices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "reach", "stride", "places"),
    [
        (1, 1, 1, (0, 1, 2)),
        (0, 1, 1, (0, 0, 1)),  # nothing before the first
        (2, 2, 1, (0, 1, 2, 2, 2)),  # 6 mm to the next
        (3, 1, 1, (3, 3, 4)),
        (4, 1, 1, (3, 4, 4)),  # the next is at the same place
        (2, 1, 2, (0, 2, 2)),
        (1, 0, 1, (1,)),
    ],
)
def test_a_stack_ends_where_the_next_slice_is_missing_or_far(
    index: int, reach: int, stride: int, places: tuple[int, ...]
) -> None:
    assert context_indices(geometry(0, 2, 4, 10, 15, 15), index, reach, stride) == places


def test_a_slice_comes_of_itself_first_and_of_each_once() -> None:
    assert contributing_slices(geometry(0, 1, 2, 3), 0, 2) == (0, 1, 2)
    assert contributing_slices(geometry(0, 1, 2, 3), 2, 1) == (2, 1, 3)


def test_each_slice_is_read_once() -> None:
    class Counting:
        def __init__(self, volume: Volume) -> None:
            self.geometry, self._volume, self.read = volume.geometry, volume, Counter[int]()

        def read_hu(self, index: int) -> NDArray[np.float32]:
            self.read[index] += 1
            return self._volume.read_hu(index)

    source: Any = Counting(numbered(6))
    stacks = StackReader(source, 2)
    seen = [stacks.read_hu(index)[:, 0, 0].tolist() for index in range(6)]
    assert seen[0] == [0, 0, 0, 1, 2]
    assert seen[3] == [1, 2, 3, 4, 5]
    assert source.read == dict.fromkeys(range(6), 1)


# ---- noise of slices that overlap -----------------------------------------------------------------------------


def test_slices_share_their_noise_as_they_overlap() -> None:
    """Slices of 3 mm each 2 mm have a third in common; those 4 mm apart nothing."""
    offsets_mm, rng = np.array([0.0, 2.0, 4.0]), np.random.default_rng(0)
    white = rng.standard_normal((3, 200_000)).astype(np.float32)
    correlation = np.corrcoef(np.tensordot(cholesky_factor(overlap_correlation(offsets_mm, 3.0)), white, axes=1))
    np.testing.assert_allclose(correlation, [[1, 1 / 3, 0], [1 / 3, 1, 1 / 3], [0, 1 / 3, 1]], atol=0.01)
    np.testing.assert_array_equal(overlap_correlation(offsets_mm, 2.0), np.eye(3))
    np.testing.assert_allclose(
        np.linalg.norm(cholesky_factor(overlap_correlation(np.arange(9.0), 5.0)), axis=1), 1, rtol=1e-6
    )


def test_a_slice_that_stands_twice_has_one_noise() -> None:
    def draw(once: list[int]) -> NDArray[np.float32]:
        return np.random.default_rng(0).standard_normal((len(once), 8, 8)).astype(np.float32)

    def apart(once: list[int]) -> NDArray[np.float64]:
        return overlap_correlation(9.0 * np.array(once), 3.0)

    lone = sample_correlated_noise(draw, (4, 4, 4), apart)
    np.testing.assert_array_equal(lone, np.broadcast_to(draw([4]), (3, 8, 8)))
    first, second, third = sample_correlated_noise(draw, (0, 0, 1), apart)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - third).max() > 0.1


# ---- patches --------------------------------------------------------------------------------------------------


def slices_of(patch: torch.Tensor) -> list[int]:
    return [round(float(channel.mean())) for channel in Scale().to_hu(patch)]


def test_patches_are_stacks_of_the_pool_alone() -> None:
    """What is held back to judge by (the middle eighth) is not seen beside what is trained on either."""
    source = numbered(24)
    made = make_training_set(beside(), Pools((source,), (source,)), Supervision.UNPAIRED, context_slices=1)
    held = {10, 11, 12, 13}
    judged = [round(float(item.hu.mean())) for item in made.validation.normal]
    assert set(judged) < held
    stacks = [slices_of(made.patches[n]["normal"]) for n in range(200)]
    for before, centre, after in stacks:
        assert {abs(before - centre), abs(after - centre)} <= {0, 1}
        assert not {before, centre, after} & set(judged)
    assert {tuple(stack) for stack in stacks} >= {(4, 5, 6), (6, 5, 4), (0, 0, 1)}
    edge = min(judged) - 1
    assert all(stack in ([edge - 1, edge, edge], [edge, edge, edge - 1]) for stack in stacks if stack[1] == edge)
    assert [len(item.hu) for item in made.validation.low] == [3] * len(made.validation.low)


def test_a_share_of_the_patches_is_alone_and_distances_are_in_mm(monkeypatch: pytest.MonkeyPatch) -> None:
    source = numbered(24)
    pools = Pools((source,), (source,))
    patches = make_training_set(beside(), pools, Supervision.UNPAIRED, context_slices=1).patches
    monkeypatch.setattr(context, "SINGLE_SLICE_PROB", 1.0)
    assert all(len(set(slices_of(patches[n]["low"]))) == 1 for n in range(20))
    monkeypatch.setattr(context, "SINGLE_SLICE_PROB", 0.0)
    monkeypatch.setattr(context, "CONTEXT_SPACING_MM", (3.0, 3.0))
    apart = {abs(a - b) for n in range(60) for a, b in [slices_of(patches[n]["low"])[:2]]}
    assert apart == {0, 3}


def test_noise_is_drawn_for_every_slice_of_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "CONTEXT_SPACING_MM", (3.0, 3.0))
    low, normal = water_disc("A", 60, 1, slices=4), water_disc("B", 20, 2, slices=16)
    config = beside(noise_model="nps")
    patches = make_training_set(config, Pools((low,), (normal,)), Supervision.UNPAIRED, context_slices=1).patches
    noise = [patches[n]["noise"] for n in range(30)]
    assert {tuple(each.shape) for each in noise} == {(3, 32, 32)}
    inner = [each for each in noise if not torch.equal(each[0], each[1]) and not torch.equal(each[1], each[2])]
    pairs = [np.corrcoef(each[:2].flatten(1))[0, 1] for each in inner]
    assert len(inner) > 10
    assert abs(np.mean(pairs)) < 0.05  # 3 mm thick, 3 mm apart
    levels = np.array([each.std(dim=(1, 2)).tolist() for each in inner])
    np.testing.assert_allclose(levels[:, 0] / levels[:, 1], 1, atol=0.2)


def test_partners_are_stacked_alike() -> None:
    from ldct_denoise.io.dose_labels import Pair

    low, normal = numbered(8), numbered(8).with_hu(numbered(8).hu + 100)
    low, normal = (Volume(v.hu, v.geometry, uid, "P", uid) for v, uid in ((low, "L"), (normal, "N")))
    pair = Pair("P", "", low, normal, tuple((n, n) for n in range(8)))
    patches = make_training_set(
        beside(), Pools((low,), (normal,), (pair,)), Supervision.SUPERVISED, context_slices=1
    ).patches
    for sample in (patches[n] for n in range(20)):
        assert [n - 100 for n in slices_of(sample["normal"])] == slices_of(sample["low"])


# ---- the method -----------------------------------------------------------------------------------------------


def test_lir_sees_the_slices_beside_and_gives_that_in_the_middle() -> None:
    method, stack = lir(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = method.restore(stack)
        other = method.restore(torch.cat([stack[:, :2], stack[:, :1]], 1))
    assert out.shape == (2, 1, 32, 32)
    assert float((out - other).abs().max()) > 1e-4
    assert float((out - center_slice(stack)).abs().max()) < float((out - stack[:, :1]).abs().max())
    with pytest.raises(ConfigError, match="one slice"):
        methods.build("lir", {"context_slices": 1}, Scale())


def test_every_loss_is_of_the_slice_in_the_middle() -> None:
    """With weights over the slices beside it 0, each loss is what the method of one slice has."""
    one, three = lir(context_slices=0, loss_weights={"restoration": 1.0}), lir(loss_weights={"restoration": 1.0})
    state = one.state_dict()
    first = "e_x.levels.0.0.0.weight"
    state[first] = torch.nn.functional.pad(state[first], (0, 0, 0, 0, 1, 1))
    three.load_state_dict(state)
    random = torch.Generator().manual_seed(1)
    low, normal, noise = (torch.rand(2, 3, 32, 32, generator=random) for _ in range(3))
    stacks = Batch(low, normal, 0.1 * noise, random)
    slices = Batch(center_slice(low), center_slice(normal), 0.1 * center_slice(noise), random)
    for theirs, ours in zip(one.phases(1e-4), three.phases(1e-4), strict=True):
        expected, given = theirs.loss(slices), ours.loss(stacks)
        assert expected.keys() == given.keys()
        for name, loss in expected.items():
            torch.testing.assert_close(given[name], loss)
    torch.testing.assert_close(three.restore(low), one.restore(center_slice(low)))
    shown = three.summary_images(stacks)
    assert {image.shape[1] for image in shown.values()} == {1}


@pytest.mark.slow
def test_a_run_trains_and_goes_on_from_a_model_of_one_slice(tmp_path: Path) -> None:
    pools = Pools((water_disc("P1low", 60, 1, 6),), (water_disc("P2normal", 20, 2, 12),))
    flat = tiny_config(iterations=2)
    train(flat, pools, tmp_path / "flat", device="cpu")
    content = tiny_config(iterations=1, learning_rate=1e-30, pretrained_weights=str(tmp_path / "flat")).model_dump(
        mode="json"
    )
    content["settings"]["context_slices"] = 2
    train(parse_config(content, "test"), pools, tmp_path / "deep", device="cpu")
    source = water_disc("P9", 40, 3, 5)
    before, after = (
        np.stack([hu for _, hu in restore_slices(source, load_model(tmp_path / run))]) for run in ("flat", "deep")
    )
    np.testing.assert_allclose(after, before, atol=0.01)
    content["training"] |= {"learning_rate": 1e-3, "iterations": 3, "pretrained_weights": None}
    train(parse_config(content, "test"), pools, tmp_path / "anew", device="cpu")
    assert saved_weights(tmp_path / "anew")["e_x.levels.0.0.0.weight"].shape[1] == 5
    content["training"]["pretrained_weights"] = str(tmp_path / "anew")
    content["settings"]["context_slices"] = 0
    with pytest.raises(ConfigError, match="another shape"):
        train(parse_config(content, "test"), pools, tmp_path / "back", device="cpu")


# ---- use ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tta", [False, True])
def test_every_slice_is_restored_with_those_beside_it(tta: bool) -> None:
    source, trained = water_disc("A", 40, 0, 5), model()
    settings = ApplySettings(tta=tta)
    every = dict(restore_slices(source, trained, settings))
    assert list(every) == list(range(5))
    some = list(restore_slices(source, trained, settings, [3, 1]))
    assert [index for index, _ in some] == [3, 1]
    for index, hu in some:
        np.testing.assert_array_equal(hu, every[index])
    if not tta:
        stack = torch.from_numpy(Scale().to_unit(source.hu[[0, 0, 1]].clip(-1024, 3072)))[None]
        with torch.inference_mode():
            expected = Scale().to_hu(trained.method.restore(stack))[0, 0].numpy()
        seen = Scale().covers(source.hu[0])
        np.testing.assert_allclose(every[0][seen], expected[seen], atol=0.01)
    alone_ = dict(restore_slices(Volume(source.hu[[2]], source.geometry.select([2])), trained, settings))[0]
    assert np.abs(alone_ - every[2]).max() > 0.1


def test_what_is_no_number_beside_a_slice_stays_there() -> None:
    hu = water_disc("A", 40, 0, 3).hu.copy()
    hu[0, 10, 10] = np.nan
    restored = dict(restore_slices(water_disc("A", 40, 0, 3).with_hu(hu), model()))
    assert np.isnan(restored[0][10, 10])
    assert np.isfinite(restored[1]).all()


def derived(folder: Path, slices: int) -> list[Dataset]:
    write_series(
        water_disc("A", 40, 0, slices),
        folder / "in",
        SeriesAttributes(
            patient_id="P1", study_uid="1.2.3", series_uid="1.2.3.4", series_number=3, description="t"
        ),
    )
    (source,) = find_images(folder / "in").series
    written = apply_series(source, model(), folder / "out")
    assert check_derived(source, written) == []
    return [dcmread(path) for path in sorted(written.glob("*.dcm"))]


def named(image: Dataset) -> list[str]:
    return [str(item.ReferencedSOPInstanceUID) for item in image.SourceImageSequence]


def test_a_derived_image_names_every_slice_that_it_comes_of(tmp_path: Path) -> None:
    images = derived(tmp_path / "three", 3)
    own = [named(image)[0] for image in images]
    assert [sorted(map(own.index, named(image))) for image in images] == [[0, 1], [0, 1, 2], [1, 2]]
    assert all("with 1 slices on each side" in image.DerivationDescription for image in images)
    assert derivation_of(model(context_slices=0), ApplySettings()).context_slices == 0
    # Of a series that lacks the last slice, the one before it is another image, with a UID of its own.
    sorted((tmp_path / "three" / "in").glob("*.dcm"))[-1].unlink()
    (rest,) = find_images(tmp_path / "three" / "in").series
    fewer = [dcmread(path) for path in sorted(apply_series(rest, model(), tmp_path / "fewer").glob("*.dcm"))]
    assert [named(image)[0] for image in fewer] == own[:2]
    same = [one.SOPInstanceUID == other.SOPInstanceUID for one, other in zip(fewer, images, strict=False)]
    assert same == [True, False]


@pytest.mark.parametrize("convert_enhanced", [False, True])
def test_frames_of_enhanced_ct_name_those_beside_them(convert_enhanced: bool, tmp_path: Path) -> None:
    make_enhanced(tmp_path / "in" / "enhanced.dcm")
    (source,) = find_images(tmp_path / "in").series
    written = apply_series(
        source, model(), tmp_path / "out", writing=WriteSettings(convert_enhanced=convert_enhanced)
    )
    assert check_derived(source, written) == []
    images = [dcmread(path) for path in sorted(written.glob("*.dcm"))]
    items = (
        [image.SourceImageSequence for image in images]
        if convert_enhanced
        else [
            frame.DerivationImageSequence[0].SourceImageSequence
            for frame in images[0].PerFrameFunctionalGroupsSequence
        ]
    )
    assert [[int(one.ReferencedFrameNumber) for one in each] for each in items] == [
        [1, 2],
        [2, 1, 3],
        [3, 2, 4],
        [4, 3],
    ]


def test_an_exported_model_takes_stacks(tmp_path: Path) -> None:
    trained = model()
    export(trained, "torchscript", tmp_path / "model.ts")
    run = read_torchscript(tmp_path / "model.ts")
    source = water_disc("A", 40, 0, 3)
    given = run(source.hu[None, [0, 1, 2]])
    assert given.shape == (1, 1, 96, 96)
    np.testing.assert_allclose(given[0, 0], dict(restore_slices(source, trained))[1], atol=0.1)
    with pytest.raises(ModelError, match="takes adjacent slices"):
        export(trained, "monai-bundle", tmp_path / "bundle")
    assert repeat_slice(torch.zeros(2, 1, 4, 4), 2).shape == (2, 5, 4, 4)


@pytest.mark.slow
def test_an_onnx_export_takes_stacks(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert export(model(), "onnx", tmp_path / "model.onnx").difference_hu < 0.1
