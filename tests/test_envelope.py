"""What a model was trained on, and what ``apply`` says of a series outside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.errors import InputError
from ldct_denoise.inference.batch import apply
from ldct_denoise.inference.series import input_warnings
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.models.envelope import SeriesFacts, is_sharp_kernel, measure_envelope, measure_series, outside
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.volume import Geometry, Volume
from tests.synthetic import shift_model, water_disc

INSIDE = {
    "noise_index": 20.0,
    "mean_frequency_per_mm": 0.25,
    "slice_thickness_mm": 3.0,
    "pixel_spacing_mm": 0.7,
    "kvp": 120.0,
    "soft_tissue_fraction": 0.4,
}


def facts(kernel: str = "B30f", lowest_hu: float = -1000, **values: float) -> SeriesFacts:
    return SeriesFacts(kernel, INSIDE | values, lowest_hu)


def shipped() -> dict[str, object]:
    return dict(load_model("lir-ct-small").card["envelope"])


@pytest.mark.parametrize("model", ["lir-ct", "lir-ct-small"])
def test_the_shipped_models_know_what_they_were_trained_on(model: str) -> None:
    envelope = load_model(model).card["envelope"]
    assert envelope["kernels"] == ["Br38f", "STANDARD"]
    low, high = envelope["noise_index"]
    assert 5 < low < high < 50
    assert envelope["kvp"] == [120, 140]
    assert outside(envelope, facts()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (facts("LUNG"), "kernel LUNG is one of lung or bone (trained on Br38f, STANDARD)"),
        (facts(noise_index=100.0), "noise √NPS(0.2/mm) 100 HU·mm (trained on"),
        (facts(noise_index=1.0), "noise"),
        (facts(mean_frequency_per_mm=0.56), "mean frequency of the noise 0.56 /mm"),
        (facts(slice_thickness_mm=10.0), "slice thickness 10 mm"),
        (facts(pixel_spacing_mm=3.0), "pixel spacing 3 mm"),
        (facts(kvp=80.0), "tube voltage 80 kV (trained on 120 to 140)"),
        (facts(soft_tissue_fraction=0.0), "share of soft tissue"),
        (facts(lowest_hu=0.0), "are the values HU?"),
    ],
)
def test_each_difference_is_named(changed: SeriesFacts, words: str) -> None:
    (line,) = outside(shipped(), changed)
    assert words in line


def test_nothing_is_said_of_a_model_without_an_envelope() -> None:
    assert outside({}, facts("LUNG", 0.0)) == []


@pytest.mark.parametrize(
    ("names", "sharp"),
    [
        (
            (
                "LUNG",
                "BONE",
                "BONEPLUS",
                "EDGE",
                "B60f",
                "B70f",
                "B80s",
                "Br64",
                "Bl57",
                "I70f",
                "YA",
                "L",
                "FC51",
            ),
            True,
        ),
        (("STANDARD", "SOFT", "B30f", "D45f", "Br38f", "I40f", "B", "C", "UB", "FC08", "", "unknown"), False),
    ],
)
def test_lung_and_bone_kernels_are_known_by_name(names: tuple[str, ...], sharp: bool) -> None:
    assert {name for name in names if is_sharp_kernel(name) is not sharp} == set()


def test_the_envelope_of_pools_holds_what_was_measured() -> None:
    series = [water_disc("a", 20, slices=3, side=192), water_disc("b", 40, seed=1, slices=3, side=192)]
    envelope = measure_envelope(series)
    low, high = envelope["noise_index"]
    assert high == pytest.approx(2 * low, rel=0.2)
    assert all(outside(envelope, measure_series(one)) == [] for one in series)
    loud = water_disc("c", 200, seed=2, slices=3, side=192)
    (line,) = outside(envelope, measure_series(loud))
    assert line.startswith("noise")
    assert measure_envelope([]) == {}
    nothing = Volume(np.full((2, 64, 64), -1000.0), Geometry.from_affine(np.diag([3.0, 0.7, 0.7, 1]), (2, 64, 64)))
    assert "no uniform soft tissue to measure noise in" in outside(envelope, measure_series(nothing))


def narrow_model() -> TrainedModel:
    envelope = measure_envelope([water_disc("a", 10, slices=3, side=192)])
    return replace(shift_model(1.0), card={"envelope": envelope})


def test_apply_says_it_and_strict_refuses(tmp_path: Path) -> None:
    loud = water_disc("c", 200, slices=3, side=192)
    write_volume(tmp_path / "in" / "one.nii.gz", iter(loud.hu), loud.geometry)
    model, said = narrow_model(), list[str]()
    apply(tmp_path / "in", model, tmp_path / "out", ApplySettings(1.0, "cpu"), notify=said.append)
    assert any("outside what" in line and "noise" in line for line in said)
    with pytest.raises(InputError, match=r"outside what .* refused by --strict"):
        apply(tmp_path / "in", model, tmp_path / "strict", ApplySettings(1.0, "cpu", strict=True))
    assert not (tmp_path / "strict").exists()
    assert input_warnings(loud, model, ApplySettings(0.0)) == []  # the output is the input


def test_the_ledger_holds_the_warnings(tmp_path: Path) -> None:
    loud, quiet = water_disc("c", 200, slices=3, side=192), water_disc("a", 10, slices=3, side=192)
    for name, volume in (("loud", loud), ("quiet", quiet)):
        write_volume(tmp_path / "in" / f"{name}.nii.gz", iter(volume.hu), volume.geometry)
    apply(tmp_path / "in", narrow_model(), tmp_path / "out", ApplySettings(1.0, "cpu"))
    lines = [json.loads(line) for line in (tmp_path / "out-ledger.jsonl").read_text().splitlines()]
    assert sorted(any("outside what" in one for one in line["warnings"]) for line in lines) == [False, True]


def test_problems_and_single_slices_are_said_too() -> None:
    volume = water_disc("a", 10, slices=1, side=64)
    metadata = replace(volume.metadata, problems=("2 gaps",))
    assert input_warnings(replace(volume, metadata=metadata), shift_model(), ApplySettings(1.0)) == [
        "2 gaps",
        "a series of one slice",
    ]
