"""Exports: each format gives what ``apply`` gives, on slices of any size, by the engines that will run it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from ldct_denoise import methods
from ldct_denoise.errors import ConfigError, ModelError, OutputError
from ldct_denoise.evaluation.training_overlap import training_overlap
from ldct_denoise.export.export import export
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import Scale
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.io.find import find_images
from ldct_denoise.methods import Supervision
from ldct_denoise.models.network_file import read_onnx, read_pt2, read_torchscript
from ldct_denoise.models.trained import DEFAULT_MODEL, TrainedModel, load_model
from ldct_denoise.volume import Geometry, Volume
from tests.synthetic import run_cli

LIMIT_HU = 0.1
SIDES = ((33, 47), (64, 64), (101, 38))


def volume(rows: int, columns: int, slices: int = 2) -> Volume:
    """Some values lie outside the model's range."""
    hu = np.random.default_rng(rows).normal(40, 300, (slices, rows, columns)).round().astype(np.float32)
    hu[:, :3, :3] = -3000
    hu[:, -3:, -3:] = 4000
    positions = np.arange(slices)[:, None] * [0, 0, 2.5] + [-20, -30, 100]
    return Volume(hu, Geometry(positions, (1, 0, 0), (0, 1, 0), (0.8, 0.8), rows, columns), "1.2.3", "P", "test")


def applied(model: TrainedModel, source: Volume) -> np.ndarray:
    return np.stack([hu for _, hu in restore_slices(source, model, ApplySettings(strength=1))])


@pytest.fixture(scope="module")
def shipped() -> TrainedModel:
    return load_model(DEFAULT_MODEL)


@pytest.mark.parametrize(
    ("format", "read"),
    [
        ("torchscript", read_torchscript),
        pytest.param("pt2", read_pt2, marks=pytest.mark.slow),
        pytest.param("onnx", read_onnx, marks=pytest.mark.slow),
    ],
)
def test_an_exported_file_gives_what_apply_gives(format, read, shipped: TrainedModel, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    file = tmp_path / f"model.{format}"
    done = export(shipped, format, file)
    assert done.difference_hu <= LIMIT_HU
    run, loaded = read(file), load_model(file)
    assert (loaded.name, loaded.method_name, loaded.scale) == ("model", format, shipped.scale)
    for rows, columns in SIDES:
        source = volume(rows, columns)
        expected = applied(shipped, source)
        assert np.abs(expected - source.hu).max() > 5  # the model does something
        given = run(source.hu[:, None])[:, 0]
        np.testing.assert_allclose(given, expected, atol=LIMIT_HU)
        np.testing.assert_allclose(applied(loaded, source), expected, atol=LIMIT_HU)
        np.testing.assert_array_equal(given[:, :3, :3], source.hu[:, :3, :3])
    hu = source.hu.copy()
    hu[:, 12, 13], hu[:, 20, 30], hu[:, 50, 20] = np.nan, np.inf, -np.inf
    given = run(hu[:, None])[:, 0]
    np.testing.assert_array_equal(np.isfinite(given), np.isfinite(hu))  # a NaN stays alone
    np.testing.assert_allclose(given, applied(shipped, replace(source, hu=hu)), atol=LIMIT_HU)
    with pytest.raises(OutputError, match="overwrite"):
        export(shipped, format, file)
    if format == "onnx":
        require_described(file, shipped)
    if format == "pt2":
        description = {"model.json": ""}
        torch.export.load(io.BytesIO(file.read_bytes()), extra_files=description)
        assert json.loads(description["model.json"])["sha256"] == shipped.checksum


def require_described(path: Path, model: TrainedModel) -> None:
    """An ONNX file says whose it is and that its sizes are free."""
    loaded = pytest.importorskip("onnx").load(path)
    properties = {item.key: item.value for item in loaded.metadata_props}
    assert (properties["sha256"], properties["range_hu"]) == (model.checksum, "-1024 3072")
    shape = [side.dim_param or side.dim_value for side in loaded.graph.input[0].type.tensor_type.shape.dim]
    assert shape[1] == 1
    assert all(isinstance(side, str) for side in (shape[0], shape[2], shape[3]))


def test_torchscript_can_move_to_another_device(shipped: TrainedModel, tmp_path: Path) -> None:
    """A recorded device would keep it from a GPU."""
    export(shipped, "torchscript", tmp_path / "model.ts")
    graph = str(torch.jit.load(tmp_path / "model.ts").inlined_graph)
    assert 'Device = prim::Constant[value="cpu"]' not in graph


NARROW = {
    "redcnn": {"channels": 8},
    "rednet": {"channels": 8},
    "dncnn": {"channels": 8},
    "invdn": {"growth_channels": 4},
    "cnn10": {"channels": 8},
    "ctformer": {"channels": 8, "num_heads": 2},
    "dugan": {"channels": 8},
    "edcnn": {"channels": 8},
    "qae": {"channels": 4},
    "resnet": {"channels": 8, "num_blocks": 2},
    "wganvgg": {"channels": 8},
}
LEARNED = [name for name in methods.names() if methods.describe(name).supervision is not Supervision.NONE]


@pytest.mark.parametrize("name", LEARNED)
def test_every_trained_method_exports_or_says_why_not(name: str, tmp_path: Path) -> None:
    method = methods.build(name, NARROW.get(name, {"base_channels": 8}), Scale()).eval()
    with torch.no_grad():  # so that it does something
        for parameter in method.parameters():
            parameter.add_(0.01)
    model = TrainedModel(name, method, name, Scale(), {}, "0" * 64)
    if method.is_random:
        with pytest.raises(ModelError, match="random"):
            export(model, "torchscript", tmp_path / "model.ts")
        return
    export(model, "torchscript", tmp_path / "model.ts")
    source = volume(37, 70, 1)
    np.testing.assert_allclose(
        read_torchscript(tmp_path / "model.ts")(source.hu[:, None])[:, 0], applied(model, source),
        rtol=3e-6, atol=LIMIT_HU,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name in methods.names() if methods.describe(name).supervision is Supervision.NONE]
)
def test_methods_without_a_network_say_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no network"):
        export(load_model(name), "onnx", tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("added", "difference"), [(0.001, "4"), (float("nan"), "inf")])
def test_a_network_that_changes_on_the_way_is_not_written(added: float, difference: str, tmp_path: Path) -> None:
    class Sized(methods.find("dncnn")):
        """Does with large slices what it does not do with the recorded one."""

        def restore(self, image: torch.Tensor, seed: int = 0) -> torch.Tensor:
            return super().restore(image, seed) + (added if image.shape[-1] > 83 else 0)

    method = Sized(Sized.Settings(channels=8), Scale()).eval()
    with pytest.raises(ModelError, match=f"differs from the original by {difference}"):
        export(TrainedModel("s", method, "dncnn", Scale(), {}, ""), "torchscript", tmp_path / "model.ts")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sigma_mm", [9.9, 10.4])
def test_the_smallest_promised_slices_are_tried(
    format: str, sigma_mm: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A low-pass filter of 12.6 pixels of 0.8 mm has a radius of 32 pixels; a slice of 32 pixels cannot be reflected by that."""
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    settings = {"architecture": "unet", "base_channels": 4, "blocks_per_level": 2, "lowpass_sigma_mm": sigma_mm}
    model = TrainedModel(
        "smooth", methods.build("cyclegan", settings, Scale()).eval(), "cyclegan", Scale(), {}, "0"
    )
    if sigma_mm < 10:
        assert export(model, format, tmp_path / "model").difference_hu <= LIMIT_HU
        return
    with pytest.raises(ModelError, match="32×32"):
        export(model, format, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    assert "Non-zero status" not in capfd.readouterr().err  # ONNX Runtime's own words


# ---- the MONAI bundle ---------------------------------------------------------------------------------------

#: What MONAI's bundle specification asks of metadata.json; its schema file is on the net.
SCHEMA = {
    "type": "object",
    "required": ["version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
                 "copyright", "network_data_format", "required_packages_version", "changelog"],
    "properties": {
        "version": {"type": "string", "pattern": r"^\d+\.\d+"},
        "required_packages_version": {"type": "object"},
        "network_data_format": {"type": "object", "required": ["inputs", "outputs"]},
    },
}  # fmt: skip


def monai(bundle: Path, *arguments: object) -> None:
    """MONAI in a process of its own, in the bundle."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_monai_verifies_and_runs_the_bundle(shipped: TrainedModel, tmp_path: Path) -> None:
    pytest.importorskip("fire", reason="MONAI's command line needs fire")
    pytest.importorskip("jsonschema")
    bundle = tmp_path / "bundle"
    assert export(shipped, "monai-bundle", bundle).difference_hu <= LIMIT_HU
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
    verify = (
        "import monai.bundle, sys\n"
        f"monai.bundle.verify_metadata(meta_file={files['meta_file']!r}, filepath=sys.argv[1])\n"
        f"monai.bundle.verify_net_in_out(net_id='network_def', bundle_root='.', **{files!r})\n"
    )
    monai(bundle, "-c", verify, tmp_path / "schema.json")
    source = volume(45, 38, 3)
    expected = applied(shipped, source)
    (tmp_path / "in").mkdir()
    nibabel.save(
        nibabel.Nifti1Image(source.hu.transpose(2, 1, 0), np.diag([-0.8, -0.8, 2.5, 1])),
        tmp_path / "in" / "a.nii.gz",
    )
    write_series(
        source,
        tmp_path / "in" / "series",
        SeriesAttributes(patient_id="P", study_uid="1.2.3", series_number=1, description="t"),
    )
    options = [f"--{name}={value}" for name, value in (files | {"bundle_root": "."}).items()]
    data = ("--dataset_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    monai(bundle, "-m", "monai.bundle", "run", *options, *data)
    written = sorted((tmp_path / "out").rglob("*.nii.gz"))
    assert len(written) == 2
    stored = np.stack([find_images(tmp_path / "in" / "series").series[0].read_hu(n) for n in range(3)])
    for file in written:
        given = nibabel.load(file).get_fdata().transpose(2, 1, 0)
        if "a_denoised" in file.name:
            np.testing.assert_allclose(given, expected, atol=LIMIT_HU)
        else:  # x and y may be turned by MONAI's reader; DICOM holds less than -3000 HU or not
            inside = np.abs(stored - source.hu) < 0.5
            both = [
                np.abs(turned - expected)[inside & inside[:, ::-1, ::-1]].max()
                for turned in (given, given[:, ::-1, ::-1])
            ]
            assert min(both) <= LIMIT_HU


def test_a_bundle_replaces_only_a_bundle(tmp_path: Path) -> None:
    method = methods.build("dncnn", {"channels": 8, "num_layers": 3}, Scale()).eval()
    model = TrainedModel("small", method, "dncnn", Scale(), {}, "0" * 64)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="kept"):
            export(model, "monai-bundle", tmp_path / "kept", overwrite=overwrite)
    assert [item.name for item in tmp_path.iterdir()] == ["kept"]
    for overwrite in (False, True):
        export(model, "monai-bundle", tmp_path / "bundle", overwrite=overwrite)
    assert (tmp_path / "bundle" / "models" / "model.ts").is_file()
    assert "Apache" in (tmp_path / "bundle" / "LICENSE").read_text()


def test_the_command_line_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.ts"
    code, printed, error = run_cli(capsys, "export", DEFAULT_MODEL, "--format", "torchscript", "--output", path)
    assert (code, printed.strip()) == (0, str(path)), error
    assert "HU" in error
    code, _, error = run_cli(capsys, "export", "bm3d", "--format", "onnx", "--output", tmp_path / "model.onnx")
    assert code == 2
    assert error.startswith("error: model 'bm3d'")
    assert len(error.strip().splitlines()) == 1


class Halved(torch.nn.Module):
    """Halves whatever it is given."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image / 2


def scripted(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, torch.zeros(1, 1, 8, 8)).save(str(path))
    return path


def test_a_network_of_another_program_takes_hu_or_the_range_that_is_given(tmp_path: Path) -> None:
    """x/2 of HU, or of 0…1 between −1000 and 1000 HU: hu/2 − 500. Outside the HU range nothing changes."""
    source = volume(33, 47)
    file = scripted(Halved(), tmp_path / "net.pt")
    in_range = np.abs(source.hu) < 1000
    hu = applied(load_model(file), source)
    np.testing.assert_allclose(hu[in_range], source.hu[in_range] / 2, atol=1e-3)
    np.testing.assert_array_equal(hu[:, :3, :3], source.hu[:, :3, :3])
    model = load_model(f"{file}:low_hu=-1000,high_hu=1000")
    np.testing.assert_allclose(applied(model, source)[in_range], source.hu[in_range] / 2 - 500, atol=1e-3)
    assert model.checksum != load_model(file).checksum
    pair = Pair("P", "", source, source, ((0, 0),))
    assert training_overlap(model, [pair]).unknown == {"P"}


def test_an_onnx_file_of_another_program_is_a_model(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    sides = ["n", 1, "rows", "columns"]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides) for name in ("x", "y")]
    half = onnx.helper.make_tensor("half", onnx.TensorProto.FLOAT, [], [0.5])
    node = onnx.helper.make_node("Mul", ["x", "half"], ["y"])
    graph = onnx.helper.make_graph([node], "halved", values[:1], values[1:], [half])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(proto, tmp_path / "net.onnx")
    source = volume(33, 47)
    hu = applied(load_model(tmp_path / "net.onnx"), source)
    in_range = np.abs(source.hu) < 1000
    np.testing.assert_allclose(hu[in_range], source.hu[in_range] / 2, atol=1e-3)


def test_network_files_that_cannot_be_used_are_told_plainly(tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"no network")
    (tmp_path / "damaged.ts").write_bytes(b"no network")
    for name in ("damaged.onnx", "damaged.ts"):
        with pytest.raises(ModelError, match=rf"{name}: not a file of format"):
            load_model(tmp_path / name)
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "absent.pt2")
    file = scripted(torch.nn.MaxPool2d(2), tmp_path / "pool.pt")
    with pytest.raises(ConfigError, match="give both"):
        load_model(f"{file}:low_hu=0")
    with pytest.raises(ModelError, match=r"pool\.pt: returns shape"):
        applied(load_model(file), volume(33, 47))
