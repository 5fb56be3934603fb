"""The shipped models: small, with a card, and better than their input on real slices of unseen patients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ldct_denoise import methods
from ldct_denoise.config import load_config, parse_config, recipes
from ldct_denoise.errors import ModelError
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.fidelity import psnr
from ldct_denoise.models.catalogue import methods as methods_of_catalogue
from ldct_denoise.models.catalogue import models, shipped_models
from ldct_denoise.models.trained import DEFAULT_MODEL, load_model, model_checksum, save_model
from ldct_denoise.output import atomic_write


def test_the_default_model_ships_and_is_small() -> None:
    assert DEFAULT_MODEL in shipped_models()
    assert sum(path.stat().st_size for path in shipped_models().values()) < 16e6
    entry = next(entry for entry in models() if entry.name == DEFAULT_MODEL)
    assert entry.method == "lir"
    assert "patients" in entry.trained_on


def test_fast_is_an_alias_of_the_small_model() -> None:
    assert load_model("fast").name == "lir-ct-small"


@pytest.mark.parametrize(("name", "parameters"), [("lir-ct", 766_401), ("lir-ct-small", 94_977)])
def test_loading_builds_the_restoring_networks_alone(name: str, parameters: int) -> None:
    method = load_model(name).method
    assert sum(parameter.numel() for parameter in method.parameters()) == parameters
    assert method.state_dict().keys() == method.restoration_parameters().keys()


def test_the_checksum_follows_weights_settings_and_range_not_the_card() -> None:
    """The UIDs of derived series contain it."""
    assert load_model("lir-ct").checksum == "1eb4068d1747505c4a8a6efe845fa420f1fe465f67a06cc3863a1b2af8653465"
    with safe_open(shipped_models()["lir-ct"], framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    kept = model_checksum(metadata, tensors)
    assert kept == load_model("lir-ct").checksum
    assert model_checksum(metadata | {"card": "{}"}, tensors) == kept
    other = {key: value.clone() for key, value in tensors.items()}
    other["g_y.last.bias"][0] += 1e-7
    assert model_checksum(metadata, other) != kept
    assert model_checksum(metadata | {"range_hu": "[0.0, 1.0]"}, tensors) != kept


@pytest.mark.parametrize("name", shipped_models())
def test_a_flipped_bit_in_a_shipped_model_is_noticed(name: str, tmp_path: Path) -> None:
    content = bytearray(shipped_models()[name].read_bytes())
    assert f'"checksum":"{load_model(name).checksum}"'.encode() in content
    content[-100] ^= 1  # in a weight
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="do not have its checksum; get the file anew"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", shipped_models())
def test_the_card_has_todays_names(name: str) -> None:
    card = load_model(name).card
    config = parse_config(card["config"], name)
    assert config.settings["architecture"] == "unet"
    methods.build(config.method, config.settings, config.scale, for_training=True)
    assert card["validation"]["synthetic_pair_psnr_gain_db"] > 5


def test_the_catalogue_is_listed_without_torch() -> None:
    code = "import sys\nfrom ldct_denoise.models.catalogue import methods, models\nmethods(), models()\n"
    done = subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=False)
    assert done.returncode == 0


def test_the_catalogue_lists_each_recipe_under_the_method_it_trains() -> None:
    listed = {recipe: method.name for method in methods_of_catalogue() for recipe in method.configs}
    assert listed == {name: load_config(name).method for name in recipes()}


@pytest.mark.parametrize("name", shipped_models())
def test_the_models_saw_no_mayo_image(name: str) -> None:
    patients = load_model(name).training_patients
    assert patients
    assert not any(patient.startswith(("L0", "L1")) for patient in patients)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_models())
@pytest.mark.parametrize(
    ("group", "least_gain_db"), [("L143/{}_3mm_sharp", 5.4), ("L143/{}_3mm", 4.8)], ids=["D45f", "B30f"]
)
def test_the_models_gain_on_unseen_patients(mayo2016: Path, group: str, least_gain_db: float, name: str) -> None:
    low = find_images(mayo2016 / group.format("quarter")).series[0]
    normal = find_images(mayo2016 / group.format("full")).series[0]
    window = WINDOWS["abdomen"]
    gains, shifts = [], []
    for index, hu in restore_slices(low, load_model(name), ApplySettings(strength=1)):
        given, reference = low.read_hu(index), normal.read_hu(index)
        gains.append(psnr(hu, reference, window) - psnr(given, reference, window))
        body = reference > -300
        shifts.append(float(np.mean((hu - given)[body])))
    assert min(gains) > least_gain_db - 0.7
    assert np.mean(gains) > least_gain_db
    assert max(map(abs, shifts)) < 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_sets_the_permissions_of_written_files(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save_model(tmp_path / "model.safetensors", "lir", load_model("lir-ct-small").method, {})
        atomic_write(tmp_path / "text", lambda part: part.write_text("x"))
        atomic_write(tmp_path / "tensors", lambda part: save_file({"a": np.zeros(1)}, part))
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        ("model.safetensors", "text", "tensors"), mode
    )
