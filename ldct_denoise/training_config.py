"""Settings of the training loop: length, optimization, what is kept; a section of :mod:`ldct_denoise.config`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ldct_denoise.errors import ConfigError
from ldct_denoise.intensity import Window


class Section(BaseModel):
    """Base of the sections of a configuration: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingConfig(Section):
    """Length, optimization and bookkeeping of the training loop."""

    iterations: int = Field(1000, ge=1, description="training steps")
    pretrained_weights: str | None = Field(
        None,
        description="trained model (name, file or run folder) whose weights the run starts from; null: random",
    )
    max_minutes: float | None = Field(
        None, gt=0, description="stop after this many minutes of training even if steps remain; null: no limit"
    )
    batch_size: int = Field(16, ge=1, description="patches of each pool per step, over all processes")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="parts into which a process splits its share of a batch, to save memory"
    )
    learning_rate: float = Field(1e-4, gt=0, description="initial learning rate")
    lr_schedule: Literal["constant", "cosine", "step", "exponential"] = Field(
        "constant",
        description="learning rate over the run. cosine: to 1 % of the initial rate at the end; step: halved "
        "every lr_step_size steps; exponential: decays with time constant lr_step_size",
    )
    lr_step_size: int = Field(
        100_000, ge=1, description="lr_schedule step or exponential: interval or time constant, steps"
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="decay per step of the exponential moving average of the weights; 0: off"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of weights, patches, noise and validation patients")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the forward and backward passes")
    channels_last: bool = Field(
        False, description="store images with channels last; often faster on CPU with bf16 and on GPU"
    )
    validate_every: int = Field(500, ge=1, description="steps between validations; also after the last step")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints; also after the last step")
    checkpoint: Literal["best", "last"] = Field(
        "best",
        description="weights that become the model of the run. best: of the best validation, see best_by, and "
        "those of the last validation besides, in checkpoints/last.safetensors; last: of the last validation",
    )
    keep_every: int | None = Field(
        None,
        ge=1,
        description="steps between models that are kept besides, in checkpoints/; each is validated; null: none",
    )
    best_by: Literal["auto", "unpaired_score", "psnr", "ssim"] = Field(
        "auto",
        description="metric of the best validation. psnr, ssim: mean over the pairs of validation patients; "
        "unpaired_score: needs no pairs; auto: psnr for a method that is trained on pairs, otherwise "
        "unpaired_score. Without such pairs it is always unpaired_score",
    )
    validation_window: str = Field(
        "0,2048",
        description="window of PSNR and SSIM of the validation pairs, which best_by uses: LEVEL,WIDTH in HU, or a "
        "preset such as abdomen",
    )

    @field_validator("validation_window")
    @classmethod
    def _check_window(cls, text: str) -> str:
        try:
            Window.parse(text)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return text

    @model_validator(mode="after")
    def _check_accumulation(self) -> TrainingConfig:
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}"
            )
        return self
