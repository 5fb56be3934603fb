"""What a run may lose and what it may not: Ctrl-C, another try, a damaged folder, other images or settings."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ldct_denoise import methods
from ldct_denoise.config import Config, load_config
from ldct_denoise.data.pools import Pools, pools_from_root
from ldct_denoise.errors import ConfigError, InputError, LdctDenoiseError, ModelError, OutputError, TrainingError
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.methods.base import Batch
from ldct_denoise.methods.lir import Lir
from ldct_denoise.models.trained import load_model
from ldct_denoise.training.log import TrainingLog
from ldct_denoise.training.loop import train
from ldct_denoise.training.progress import Progress
from ldct_denoise.training.signals import defer_sigint
from ldct_denoise.training.state import load_state, save_state
from ldct_denoise.training.step import TrainingStep
from tests.conftest import ROOT
from tests.synthetic import read_csv, run_ranks, saved_weights, tiny_config, water_disc


@pytest.fixture(autouse=True)
def log_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of every step in the log."""
    monkeypatch.setattr("ldct_denoise.training.loop.LOG_EVERY", 1)


def last(**training: object) -> Config:
    return tiny_config(checkpoint="last", **training)


def changed(config: Config, section: str, **changes: object) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=changes)})


def files(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()} if run.exists() else set()


def rows(run: Path) -> list[tuple[str, ...]]:
    return [(r["step"], r["name"], r["value"]) for r in read_csv(run / "training.csv")]


def interrupt_in_step(monkeypatch: pytest.MonkeyPatch, step: int, times: int = 1) -> None:
    """Ctrl-C between the generators' update and the critics'."""
    plain, calls = Lir.image_discriminator_losses, [0]

    def pressed(self: Lir, batch: Any) -> Any:
        calls[0] += torch.is_grad_enabled()
        for _ in range(times if calls[0] == step else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, batch)

    monkeypatch.setattr(Lir, "image_discriminator_losses", pressed)


# ---- Ctrl-C -----------------------------------------------------------------------------------------------------


def test_ctrl_c_within_a_step_waits_for_its_end(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(last(), pools, whole, device="cpu")
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        interrupt_in_step(patched, step=5)
        with pytest.raises(KeyboardInterrupt):
            train(last(), pools, broken, device="cpu")
    assert signal.getsignal(signal.SIGINT) is before
    assert load_state(broken / "checkpoint.pt")["step"] == 5
    train(last(), pools, broken, device="cpu", resume=True)
    expected, got = saved_weights(whole), saved_weights(broken)
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert rows(whole) == rows(broken)  # the critics' running means too


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_in_step(monkeypatch, step=3, times=2)
    with pytest.raises(KeyboardInterrupt):
        train(last(), pools, tmp_path / "run", device="cpu")
    assert load_state(tmp_path / "run" / "checkpoint.pt")["step"] == 2


def test_ctrl_c_that_nobody_acts_on_takes_effect_at_the_end() -> None:
    reached = []

    def block() -> None:
        with defer_sigint() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(interrupt.requested)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached == [True]


def test_another_thread_leaves_signals_alone() -> None:
    seen = []

    def look() -> None:
        with defer_sigint():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_command_line_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ldct_denoise.cli import main

    def stopped(**_: object) -> None:
        raise main.click.Abort

    monkeypatch.setattr(main.cli, "main", stopped)
    for command, words in (("train", "--resume"), ("apply", "the same command again")):
        with pytest.raises(SystemExit) as end:
            main.main(["--debug", command, "--output", "x"])
        assert end.value.code == 130
        assert words in capsys.readouterr().err


# ---- weights that burst -----------------------------------------------------------------------------------------


def burst_at(monkeypatch: pytest.MonkeyPatch, step: int, value: float = float("nan")) -> None:
    plain = TrainingStep.__call__

    def burst(self: TrainingStep, run: Any, sample: Any, progress: float) -> Any:
        losses = plain(self, run, sample, progress)
        if run.step + 1 == step:
            with torch.no_grad():
                next(run.method.e_x.parameters()).fill_(value)
        return losses

    monkeypatch.setattr(TrainingStep, "__call__", burst)


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_burst_weights_replace_neither_model_nor_checkpoint(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    burst_at(monkeypatch, 4, value)
    with pytest.raises(TrainingError, match=r"--set training\.learning_rate"):
        train(tiny_config(ema_decay=0, validate_every=2, checkpoint_every=2), pools, tmp_path, device="cpu")
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 2
    assert load_model(tmp_path).card["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in saved_weights(tmp_path).values())


def test_weights_that_burst_between_validations_are_not_saved(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    burst_at(monkeypatch, 4)
    with pytest.raises(TrainingError, match="after step 4"):
        train(tiny_config(ema_decay=0, validate_every=6, checkpoint_every=2), pools, tmp_path, device="cpu")
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 2


# ---- another try in the same folder -----------------------------------------------------------------------------


def mistyped() -> Config:
    return tiny_config().model_copy(update={"settings": {"widht": 3}})


def test_a_mistyped_setting_costs_nothing(pools: Pools, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="widht"):
        train(mistyped(), pools, run, device="cpu")
    assert files(run) == set()
    train(last(iterations=1), pools, run, device="cpu")  # the mended command is taken
    before = {path: path.read_bytes() for path in run.glob("*.*")}
    with pytest.raises(ConfigError, match="widht"):
        train(mistyped(), pools, run, device="cpu", overwrite=True)
    assert {path: path.read_bytes() for path in run.glob("*.*")} == before


def test_simulated_scans_of_a_first_try_are_in_nobodys_way(pools: Pools, tmp_path: Path) -> None:
    (tmp_path / "simulated").mkdir()
    train(last(iterations=1), pools, tmp_path, device="cpu")
    assert "model.safetensors" in files(tmp_path)


def test_settings_that_train_nothing_are_refused(pools: Pools, tmp_path: Path) -> None:
    small = [
        "settings.base_channels=4",
        "settings.discriminator_channels=4",
        "data.patch_size=32",
        "training.batch_size=2",
    ]
    config = load_config("lir-restoration", [*small, "training.iterations=1", "data.noise_model=none"])
    with pytest.raises(ConfigError, match=r"loss_weights\.restoration needs data\.noise_model"):
        train(config, pools, tmp_path / "run", device="cpu")
    assert files(tmp_path / "run") == set()
    later = load_config(
        "lir-restoration",
        [*small, "training.iterations=2", "data.noise_model=none", "settings.adversarial_start=0.5"],
    )
    said: list[str] = []
    train(later, pools, tmp_path / "later", device="cpu", report=lambda progress: said.append(progress.message))
    assert any("weights.restoration needs data.noise_model" in line for line in said)


def test_a_model_is_not_lost_for_want_of_a_checkpoint(pools: Pools, tmp_path: Path) -> None:
    train(last(iterations=1), pools, tmp_path, device="cpu")
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(OutputError, match=r"no checkpoint\.pt"):
        train(last(iterations=1), pools, tmp_path, device="cpu", resume=True)
    assert {"model.safetensors", "training.csv"} <= files(tmp_path)


def test_a_run_of_another_run_format_is_not_resumed(pools: Pools, tmp_path: Path) -> None:
    train(last(iterations=1), pools, tmp_path, device="cpu")
    state = load_state(tmp_path / "checkpoint.pt")
    del state["run_format"]  # as the first format was
    save_state(tmp_path / "checkpoint.pt", state)
    with pytest.raises(ModelError, match=r"run format 1, .* format 2; .*--overwrite.*pretrained_weights"):
        train(last(iterations=2), pools, tmp_path, device="cpu", resume=True)


def test_a_damaged_checkpoint_is_told_in_our_words(pools: Pools, tmp_path: Path) -> None:
    train(last(iterations=1), pools, tmp_path, device="cpu")
    (tmp_path / "checkpoint.pt").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match=r"checkpoint\.pt: not a checkpoint, or damaged") as told:
        train(last(iterations=2), pools, tmp_path, device="cpu", resume=True)
    assert "weights_only" not in str(told.value)


# ---- going on ---------------------------------------------------------------------------------------------------


def test_what_changes_no_result_may_change(pools: Pools, tmp_path: Path) -> None:
    train(last(iterations=4), pools, tmp_path / "run", device="cpu")
    other = changed(last(), "data", num_workers=1, cache_num=1, cache_dir=str(tmp_path / "cache"))
    train(other, pools, tmp_path / "run", device="cpu", resume=True)
    train(last(), pools, tmp_path / "whole", device="cpu")
    expected, got = saved_weights(tmp_path / "whole"), saved_weights(tmp_path / "run")
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert load_config(str(tmp_path / "run" / "config.yaml")) == other


def test_a_lower_learning_rate_may_go_on_and_is_recorded(pools: Pools, tmp_path: Path) -> None:
    train(last(iterations=4), pools, tmp_path, device="cpu")
    train(last(learning_rate=1e-5), pools, tmp_path, device="cpu", resume=True)
    card = load_model(tmp_path).card
    assert card["config"]["training"]["learning_rate"] == 1e-5
    assert card["resumed"] == [
        {"step": 4, "changed": ["training.iterations was 4, is 6", "training.learning_rate was 0.0001, is 1e-05"]}
    ]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (last(seed=1), r"training\.seed was 0, is 1"),
        (changed(last(), "data", augment=False), r"data\.augment was True, is False"),
        (
            last().model_copy(update={"settings": last().settings | {"base_channels": 5}}),
            r"settings\.base_channels was 4, is 5",
        ),
    ],
    ids=["seed", "augment", "base_channels"],
)
def test_what_would_be_another_run_is_named(pools: Pools, tmp_path: Path, other: Config, words: str) -> None:
    train(last(iterations=2), pools, tmp_path, device="cpu")
    with pytest.raises(ConfigError, match=words):
        train(other, pools, tmp_path, device="cpu", resume=True)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            Pools((water_disc("Q1low", 60, 1),), (water_disc("Q2normal", 20, 2),)),
            "training_patients was .*P1.*, is .*Q1",
        ),
        (Pools((water_disc("P1low", 60, 1, 4),), (water_disc("P2normal", 20, 2),)), "low_slices was 3, is 4"),
        (
            Pools((water_disc("P1other", 60, 1),), (water_disc("P2normal", 20, 2),)),
            "other series of the same patients",
        ),
    ],
    ids=["patients", "slices", "series"],
)
def test_a_run_goes_on_with_its_own_images_only(pools: Pools, tmp_path: Path, other: Pools, words: str) -> None:
    train(last(iterations=2), pools, tmp_path, device="cpu")
    with pytest.raises(InputError, match=words):
        train(last(), other, tmp_path, device="cpu", resume=True)
    assert load_model(tmp_path).training_patients == {"P1", "P2"}


def test_files_that_were_copied_elsewhere_are_the_same_images(pools: Pools, tmp_path: Path) -> None:
    """As a job does that stages its data: other folder, other time."""
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for name, source in (("a_low", pools.low[0]), ("b_full", pools.normal[0])):
            path = tmp_path / place / f"{name}.nii.gz"
            write_volume(path, (source.read_hu(index) for index in range(len(source))), source.geometry)
    config = last(iterations=2).data
    runs = [pools_from_root(tmp_path / place, config) for place in ("here", "there")]
    assert runs[0].low[0].uid != runs[1].low[0].uid
    train(last(iterations=2), runs[0], tmp_path / "run", device="cpu")
    train(last(iterations=3), runs[1], tmp_path / "run", device="cpu", resume=True)
    assert load_state(tmp_path / "run" / "checkpoint.pt")["step"] == 3


def test_a_run_that_is_further_already_keeps_its_settings(pools: Pools, tmp_path: Path) -> None:
    train(last(iterations=4), pools, tmp_path / "run", device="cpu")
    written = (tmp_path / "run" / "config.yaml").read_text()
    train(last(iterations=2), pools, tmp_path / "run", device="cpu", resume=True)
    assert (tmp_path / "run" / "config.yaml").read_text() == written


def test_resume_without_a_run_says_so(pools: Pools, tmp_path: Path) -> None:
    said: list[str] = []
    train(
        last(iterations=1), pools, tmp_path / "run", device="cpu", resume=True,
        report=lambda progress: said.append(progress.message),
    )  # fmt: skip
    assert any("no checkpoint in" in line for line in said)


def test_an_older_checkpoint_still_goes_on(pools: Pools, tmp_path: Path) -> None:
    train(last(iterations=4), pools, tmp_path, device="cpu")
    state = load_state(tmp_path / "checkpoint.pt")
    for key in ("config", "images", "discriminators", "resumed"):
        del state[key]
    save_state(tmp_path / "checkpoint.pt", state)
    with pytest.raises(ConfigError, match="seed"):
        train(last(seed=1), pools, tmp_path, device="cpu", resume=True)
    train(last(), pools, tmp_path, device="cpu", resume=True)
    assert load_model(tmp_path).card["step"] == 6


def test_a_run_that_time_ended_takes_no_more_steps(pools: Pools, tmp_path: Path) -> None:
    config = last(iterations=100_000, max_minutes=1e-6)
    for resume in (False, True, True):
        train(config, pools, tmp_path, device="cpu", resume=resume)
        assert load_state(tmp_path / "checkpoint.pt")["step"] == 1


# ---- the log ----------------------------------------------------------------------------------------------------


def test_the_log_of_before_is_on_disk_before_the_first_figure(pools: Pools, tmp_path: Path) -> None:
    train(last(iterations=4), pools, tmp_path, device="cpu")
    before = rows(tmp_path)
    with (tmp_path / "training.csv").open("a") as file:
        file.write("\n9,1.0,cut sho")  # a blank line, and a row of a killed run
    with TrainingLog(tmp_path, 4):
        assert rows(tmp_path) == before


def test_tensorboard_keeps_the_step_that_a_run_goes_on_from(pools: Pools, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def die(progress: Progress) -> None:
        if progress.step == 5 and not progress.message:
            raise SystemExit  # the checkpoint is of step 4

    with pytest.raises(SystemExit):
        train(last(), pools, tmp_path, device="cpu", report=die)
    train(last(), pools, tmp_path, device="cpu", resume=True)
    told = EventAccumulator(str(tmp_path / "tensorboard"))
    told.Reload()
    assert [event.step for event in told.Scalars("cross_cycle")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_shows_learning_rate_settings_and_whole_slices(pools: Pools, tmp_path: Path) -> None:
    import io

    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config(iterations=2, lr_schedule="cosine", learning_rate=1e-3, validate_every=1)
    train(config, pools, tmp_path, device="cpu")
    told = EventAccumulator(str(tmp_path / "tensorboard"))
    told.Reload()
    rates = [tag for tag in told.Tags()["scalars"] if tag.startswith("learning_rate/")]
    assert len(rates) == 3  # critic of the representation, generators, critics of the images
    first, second = (event.value for event in told.Scalars(rates[0]))
    assert first == pytest.approx(1e-3)
    assert second < first
    (text,) = told.Tensors("settings/text_summary")
    assert b"learning_rate: 0.001" in text.tensor_proto.string_val[0]
    (tag,) = (tag for tag in told.Tags()["images"] if tag.startswith("validation slice/"))
    assert tag == "validation slice/input, output"
    with Image.open(io.BytesIO(told.Images(tag)[0].encoded_image_string)) as picture:
        rows, columns = pools.low[0].geometry.shape[1:]
        assert picture.size == (2 * columns, rows)
    assert any("normal_to_low" in tag for tag in told.Tags()["images"])


@pytest.mark.parametrize(("start", "progress", "is_shown"), [(0, 0, 1), (0.5, 0.4, 0), (0.5, 0.5, 1), (1, 1, 0)])
def test_no_picture_of_a_network_that_is_not_trained_yet(start: float, progress: float, is_shown: int) -> None:
    config = tiny_config()
    lir = methods.build("lir", config.settings | {"adversarial_start": start}, config.scale, for_training=True)
    patches = torch.zeros(1, 1, 32, 32)
    shown = lir.summary_images(Batch(patches, patches, None, torch.Generator(), progress))
    assert ("normal_to_low" in shown) == bool(is_shown)
    assert "low_to_normal" in shown


# ---- several processes ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_processes_go_by_one_clock(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import os, time\nfrom pathlib import Path\nfrom types import SimpleNamespace\n"
        "from tests.synthetic import tiny_config, water_disc\n"
        "from ldct_denoise.training import loop as training\nfrom ldct_denoise.data.pools import Pools\n"
        "pools = Pools((water_disc('P1low', 60, 1),), (water_disc('P2normal', 20, 2),))\n"
        "rank = int(os.environ['RANK'])\n"
        "training.time = SimpleNamespace(monotonic=lambda: time.monotonic() * (1 + 0.5 * rank))\n"
        "plain = training.TrainingStep.__call__\n"
        "def step(self, run, sample, progress):\n"
        "    print(f'{progress:.12g}', file=told)\n"
        "    return plain(self, run, sample, progress)\n"
        "training.TrainingStep.__call__ = step\n"
        "config = tiny_config(iterations=100000, max_minutes=0.07, validate_every=100000, checkpoint_every=100000)\n"
        f"with open({str(tmp_path)!r} + f'/{{rank}}.txt', 'w') as told:\n"
        f"    training.train(config, pools, Path({str(tmp_path / 'run')!r}), device='cpu')\n"
    )
    run_ranks(script)
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert len(first.splitlines()) > 2
    assert first == second


def test_srun_alone_is_refused(pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in (("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="srun started 2 tasks"):
        train(last(), pools, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_is_told_with_its_parts(pools: Pools, tmp_path: Path) -> None:
    from contextlib import nullcontext

    from ldct_denoise.distributed import World
    from ldct_denoise.training import loop as training

    two = World(0, 2, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "join_world", lambda device: nullcontext(two))
        with pytest.raises(LdctDenoiseError, match=r"2 processes with 4 parts each.*multiple of 8"):
            train(tiny_config(gradient_accumulation_steps=4), pools, tmp_path / "run", device="cpu")
