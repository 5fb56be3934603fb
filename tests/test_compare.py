"""Comparison of models: same slices, fair patients, paired statistics."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation import candidates
from ldct_denoise.evaluation import compare as module
from ldct_denoise.evaluation.compare import compare
from ldct_denoise.evaluation.plan import DEFAULT_REGIONS, MeasurementPlan
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.metrics.statistics import PatientStatistics
from ldct_denoise.models.trained import load_model
from ldct_denoise.regions.regions import Sphere, Tissue
from ldct_denoise.report.write import write_comparison
from ldct_denoise.volume import Volume
from tests.synthetic import axial_geometry


def pair(patient, slices=3, seed=0):
    rng = np.random.default_rng(seed)
    place = axial_geometry(slices, 96, 96, (3.0, 1.0, 1.0))
    rows, columns = np.mgrid[:96, :96]
    clean = np.where((rows - 48) ** 2 + (columns - 48) ** 2 < 40**2, 40.0, -1000.0)
    clean = np.repeat(clean[None], slices, axis=0)
    normal = Volume(clean, place, f"{patient}-normal", patient)
    low = Volume(clean + rng.normal(0, 30, clean.shape), place, f"{patient}-low", patient)
    return Pair(patient, "K", low, normal, ((0, 0), (2, 2)))  # the middle slice has no partner


@pytest.fixture
def two_patients(monkeypatch):
    pairs = [pair("A", seed=1), pair("B", seed=2)]
    monkeypatch.setattr(module, "_pairs_of", lambda root, patterns, assume_hu: pairs)
    return pairs


@pytest.fixture(scope="module")
def bilateral():
    return load_model("bilateral")


def trained_on(model, *patients):
    return replace(model, name="trained", card={"pools": {"training_patients": list(patients)}})


def test_every_model_is_measured_on_the_same_slices(two_patients, bilateral, tmp_path):
    result = compare(
        tmp_path, [bilateral, replace(bilateral, name="again")], plan=MeasurementPlan(windows=[WINDOWS["abdomen"]])
    )
    assert [m for m in result.models if m != "reference"] == ["input", "bilateral", "again"]
    keys = [set(result.values(m, "abdomen", "body", "rmse")) for m in ("input", "bilateral", "again")]
    assert keys[0] == keys[1] == keys[2]
    assert {z for _, z in keys[0]} == {0.0, 6.0}
    assert result.values("bilateral", "abdomen", "body", "rmse") == result.values(
        "again", "abdomen", "body", "rmse"
    )
    assert set(result.extra["seconds_per_slice"]) == {"bilateral", "again"}


def test_tissues_spheres_and_contrasts_are_measured_and_the_report_ranks_by_the_body(
    two_patients, bilateral, tmp_path
):
    inside, outside = Sphere("inside", (48, 48, 0), 8), Sphere("nowhere", (500, 48, 0), 8)
    result = compare(
        tmp_path,
        [bilateral],
        plan=MeasurementPlan(
            windows=[WINDOWS["abdomen"]],
            regions=[*DEFAULT_REGIONS, Tissue("soft-tissue"), inside, outside],
            contrasts=[(inside, Tissue("soft-tissue"))],
            metrics=["vif", "gmsd", "ms_ssim"],
            notes=["of the protocol"],
        ),
    )
    for region in ("soft-tissue", "inside"):
        before, after = (result.values(m, "abdomen", region, "rmse") for m in ("input", "bilateral"))
        assert before
        assert all(after[key] < before[key] for key in before)
    assert {z for _, z in result.values("input", "abdomen", "inside", "rmse")} == {0.0, 6.0}  # within 8 mm
    assert result.values("bilateral", "none", "inside | soft-tissue", "cnr")
    assert result.values("bilateral", "abdomen", "image", "gmsd")
    assert result.notes[0] == "of the protocol"
    assert "nowhere" in result.notes[1]
    write_comparison(result, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Region body; means" in page


def test_seconds_per_slice_are_a_mean_over_the_batch(monkeypatch, bilateral, tmp_path):
    """Eight slices per batch, 0.8 s a batch, as on a GPU: 0.1 s per slice."""
    now = [0.0]

    def restore(source, model, settings, indices):
        assert source is whole.low  # a 2.5-D model sees the slices beside those of the pair
        for index in indices:
            now[0] += 0.8 if index % 8 == 0 else 0.0
            yield index, source.read_hu(index)

    whole = replace(pair("A", slices=16), indices=tuple((index, index) for index in range(16)))
    monkeypatch.setattr(module, "_pairs_of", lambda root, patterns, assume_hu: [whole])
    monkeypatch.setattr(candidates, "restore_slices", restore)
    monkeypatch.setattr(candidates, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    result = compare(tmp_path, [bilateral], plan=MeasurementPlan(windows=[WINDOWS["abdomen"]]))
    assert result.extra["seconds_per_slice"] == {"bilateral": pytest.approx(0.1)}


def test_bf16_is_close_to_fp32_and_noted(two_patients, tmp_path):
    exact, fast = (
        compare(tmp_path, [load_model("lir-ct-small")], settings=ApplySettings(precision=precision))
        for precision in ("fp32", "bf16")
    )
    assert not exact.notes
    assert fast.notes == ("networks computed in bf16",)
    before, after = (result.values("lir-ct-small", "full", "body", "rmse") for result in (exact, fast))
    assert before.keys() == after.keys()
    assert before != after
    assert all(abs(before[key] - after[key]) < 0.1 for key in before)  # HU


def test_the_progress_of_fits_is_reported_during_a_comparison(two_patients, bilateral, tmp_path):
    told = []
    fitted = load_model("dip:iterations=2,stop=never,base_channels=4,num_levels=1")
    compare(tmp_path, [bilateral, fitted], progress=lambda *step: told.append(step))
    fits = [(total, note) for _, total, note in told if "fit" in note]
    assert fits == [(4, f"{fitted.name}: fit {n}/2") for n in (1, 2)] * 4
    assert [done for done, _, note in told if not note] == [1, 2, 3, 4]


def test_patients_of_the_training_pools_are_left_out_or_marked(two_patients, bilateral, tmp_path):
    fair = compare(tmp_path, [trained_on(bilateral, "A"), bilateral])
    assert set(fair.patients.values()) == {"B"}
    assert "left out" in fair.notes[0]
    marked = compare(tmp_path, [trained_on(bilateral, "A")], include_training_patients=True)
    assert set(marked.patients.values()) == {"A", "B"}
    assert "flatter" in marked.notes[0]
    with pytest.raises(InputError, match="include-training-patients"):
        compare(tmp_path, [trained_on(bilateral, "A", "B")])


def test_labels_differ_and_random_methods_repeat():
    def model(name, is_random=False):
        return SimpleNamespace(name=name, method=SimpleNamespace(is_random=is_random))

    labels = [c.label for c in candidates.make_candidates([model("run"), model("run"), model("dip", True)], 2)]
    assert labels == ["run", "run-2", "dip-seed0", "dip-seed1"]
    assert [c.label for c in candidates.make_candidates([model("input")], 1)] == ["input-2"]


def test_nothing_to_compare_is_refused(bilateral, tmp_path):
    with pytest.raises(ConfigError, match="at least one model"):
        compare(tmp_path, [])
    with pytest.raises(ConfigError, match="num-seeds"):
        compare(tmp_path, [bilateral], num_seeds=0)


def test_files_hold_the_paired_statistics(two_patients, bilateral, tmp_path):
    result = compare(tmp_path, [bilateral], plan=MeasurementPlan(windows=[WINDOWS["full"]]))
    write_comparison(result, tmp_path / "out")
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"input", "bilateral", "reference"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (entry,) = [e for e in summary["paired"] if (e["metric"], e["region"]) == ("rmse", "body")]
    ours, theirs = (result.values(m, "full", "body", "rmse") for m in ("bilateral", "input"))
    assert (entry["model"], entry["against"], entry["n"], entry["patients"]) == ("bilateral", "input", 4, 2)
    assert entry["difference_mean"] == pytest.approx(np.mean([ours[key] - theirs[key] for key in ours]))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Paired differences" in page
    assert "s per slice" in page


def test_the_report_ranks_with_pictures_costs_and_training(two_patients, bilateral, tmp_path):
    card = {"seconds": 120.0, "step": 400, "device": "cpu", "config": {"training": {"batch_size": 16}}}
    result = compare(tmp_path, [bilateral, replace(bilateral, name="trained", card=card)])
    write_comparison(result, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    board = page[page.index("<h2>Side by side") :].split("</table>")[0]
    assert board.count("data:image/png;base64,") == 4  # input, two models, reference
    assert "400 steps of 16 patches, cpu" in board
    assert 'data-value="2"' in board  # minutes of training
    assert "mean HU − reference" in board
    ours, theirs = (result.values(m, "none", "body", "hu_mean") for m in ("trained", "reference"))
    assert f'data-value="{np.mean([ours[key] - theirs[key] for key in ours]):.6g}"' in board
    gains = [e for e in result.extra["paired"] if (e["model"], e["against"]) == ("trained", "input")]
    (gain,) = [e for e in gains if (e["metric"], e["region"], e["window"]) == ("psnr", "body", "abdomen")]
    assert gain["difference_low"] is gain["difference_high"] is gain["wilcoxon_p"] is None  # two patients
    assert f'data-value="{gain["difference_mean"]:.6g}"' in board
    assert result.extra["models"]["trained"]["training_seconds"] == 120
    assert {e["model"] for e in result.extra["noise"]} == {"input", "bilateral", "trained", "reference"}


def test_seeds_are_run_and_their_spread_is_reported(two_patients, bilateral, tmp_path):
    class Restless(type(bilateral.method)):
        is_random = True

        def restore(self, image, seed=0):
            return image + 0.002 * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))

    restless = replace(bilateral, name="restless", method=Restless(bilateral.method.settings, bilateral.scale))
    result = compare(
        tmp_path, [restless, bilateral], num_seeds=3, plan=MeasurementPlan(windows=[WINDOWS["abdomen"]])
    )
    assert [m for m in result.models if m.startswith("restless")] == [f"restless-seed{i}" for i in range(3)]
    means = [
        np.mean(list(result.values(f"restless-seed{i}", "abdomen", "body", "psnr").values())) for i in range(3)
    ]
    assert len(set(means)) == 3
    write_comparison(result, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    seeds = page[page.index("<h2>Seeds</h2>") :]
    seeds = seeds[: seeds.index("</table>")]
    assert f'data-value="{np.mean(means):.6g}"' in seeds
    assert f'data-value="{np.std(means, ddof=1):.6g}"' in seeds


def test_differences_that_are_not_finite_are_left_out_of_the_test():
    first, second = np.array([3.0, 5, 4, 6, np.inf]), np.array([1.0, 2, 3, 2, np.inf])
    patients = ["A", "A", "B", "B", "C"]
    result = PatientStatistics(patients).paired(first, second)
    rest = PatientStatistics(patients[:4]).paired(first[:4], second[:4])
    assert repr(result) == repr(replace(rest, n_infinite=1))  # NaN limits are equal
    assert (rest.difference.mean, rest.n_slices, rest.n_patients) == (2.5, 4, 2)
    assert rest.p_value is None
    nothing = PatientStatistics(["A"] * 2).paired([np.inf] * 2, [30.0, np.inf])
    assert (nothing.p_value, nothing.n_slices, nothing.n_infinite) == (None, 0, 2)
    assert np.isnan(nothing.difference.mean)


@pytest.mark.slow
def test_real_pairs(mayo2016, bilateral):
    result = compare(mayo2016, [bilateral], plan=MeasurementPlan(windows=[WINDOWS["abdomen"]]))
    assert len(set(result.patients.values())) == 2
    assert len(result.values("input", "abdomen", "image", "psnr")) == 21
    (entry,) = [e for e in result.extra["paired"] if (e["metric"], e["region"]) == ("psnr", "image")]
    assert entry["difference_mean"] > 0
