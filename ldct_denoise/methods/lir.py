"""LIR: invariant representations by disentangling content from noise, without pairs.

Du, Chen, Yang, "Learning Invariant Representation for Unsupervised Image Restoration", CVPR 2020. Equation
numbers are the paper's. x comes from the noisy domain X (low dose), y from the clean domain Y (normal dose):

========================  ==================================================================
content encoders          E_X, E_Y
noise encoder             E_X^N
generators                G_X (content ⊕ noise code), G_Y (content only)
image critics             D_X, D_Y
representation critic     D_R
restoration               G_Y(E_X(x)): only these two networks are kept
========================  ==================================================================

The published form and the multiscale form that works on CT are settings of this one method; ``docs/method.md``
says what each setting decides and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._forms import FormMethod, FormSettings, encoder, generator
from ldct_denoise.methods.base import Batch, Losses, Phase, Supervision, center_slice, repeat_slice
from ldct_denoise.networks.blocks import Norm, blur, gaussian_kernel
from ldct_denoise.networks.losses import background_consistency, background_kernels, judge, tell_apart, tissue_bias
from ldct_denoise.networks.translation import Code, CodeCritic, MultiscaleEncoder, PaperEncoder
from ldct_denoise.networks.vgg import Vgg19Features
from ldct_denoise.regions.tissues import TISSUES


class Weights(BaseModel):
    """The λ of eq. 14, and of the restoration path that is ours; a term of weight 0 is not computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    representation: float = Field(1.0, ge=0, description="λ_R, eq. 9")
    adversarial: float = Field(1.0, ge=0, description="λ_adv, eq. 12 and 13")
    cross_cycle: float = Field(10.0, ge=0, description="λ_cc, eq. 7 and 8")
    self_reconstruction: float = Field(10.0, ge=0, description="λ_rec")
    background: float = Field(5.0, ge=0, description="λ_bc, eq. 10")
    semantic: float = Field(1.0, ge=0, description="λ_sc, eq. 11; needs vgg_weights")
    kl: float = Field(0.01, ge=0, description="λ_KL")
    restoration: float = Field(0.0, ge=0, description="ours: G_Y(E_X(y + pool noise)) against y")
    tissue: float = Field(0.0, ge=0, description="ours: squared mean error of fat and soft tissue in it")


class LirSettings(FormSettings):
    """Every point where the paper, its code, or CT asks for a choice."""

    context_slices: int = Field(
        0, ge=0, le=4, description="multiscale: adjacent slices on each side that E_X also takes as input (2.5-D)"
    )
    noise_width: int = Field(8, ge=1, description="multiscale: channels of the noise code at each resolution")
    norm: Norm = "batch"
    up_norm: Norm = Field("layer", description="paper: normalisation of the up-sampling blocks")
    output: Literal["tanh", "linear"] = "tanh"
    noise_encoder: bool = Field(True, description="off: ablation (a) of Table 4")
    blur: Literal["sigma", "size"] = Field("size", description="of the background loss: σ = or size = 5, 9, 15")
    semantic_layer: str = "conv5_1"
    semantic_norm: bool = Field(True, description="instance-normalise the features before their distance")
    vgg_weights: str | None = Field(
        None, description="file of torchvision's vgg19 weights, or 'download'; none: off"
    )
    code_noise: float = Field(1.0, ge=0, description="Gaussian noise added to codes before decoding in training")
    kl_on: Literal["noise", "all"] = "all"
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    representation_lr: float = Field(0.5, gt=0, description="learning rate of D_R relative to the others'")
    representation_updates: int = Field(3, ge=1)
    clip_norm: float | None = Field(5.0, gt=0, description="largest gradient norm of D_R")
    schedule: Literal["shared", "published"] = Field(
        "shared",
        description="shared: critics judge what the generators' own pass made; published: made again for each, "
        "and every network's gradients worked out in each update",
    )
    adapt_from: float = Field(
        0.0, ge=0, le=1, description="share of the run after which the terms on low-dose images begin"
    )
    restoration_power: float = Field(2.0, ge=1, le=2, description="|error|^power in the restoration term")
    weights: Weights = Weights()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _form_has_context(self) -> LirSettings:
        if self.context_slices and self.form == "paper":
            raise ValueError("context_slices: the published form sees one slice; set form: multiscale")
        return self

    @property
    def noise_channels(self) -> tuple[int, ...]:
        """Channels of each map of the noise code."""
        return (4 * self.width,) if self.form == "paper" else (self.noise_width,) * self.scales


class Pass(NamedTuple):
    """One pass of the generators: eq. 3–6 and the self reconstructions."""

    z_x: Code
    z_y: Code
    n_x: Code
    x_to_y: Tensor
    y_to_x: Tensor


class Lir(FormMethod[LirSettings]):
    """Invariant-representation GAN."""

    Settings = LirSettings
    supervision = Supervision.UNPAIRED
    title = "invariant-representation GAN, unpaired"
    reference = "Du, Chen, Yang: Learning Invariant Representation for Unsupervised Image Restoration, CVPR 2020"

    def __init__(self, settings: LirSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        s = settings
        literal = s.schedule == "published"
        self.e_x = encoder(s, literal=literal, context_slices=s.context_slices)
        self.e_y = encoder(s, literal=literal)
        self.e_noise = _noise_encoder(s) if s.noise_encoder else None
        make = partial(generator, s, up_norm=s.up_norm, literal=literal)
        self.g_x, self.g_y = make(beside=s.noise_channels if s.noise_encoder else ()), make()
        self._add_critics()
        self.d_r = CodeCritic(s.coarsest_channels) if s.weights.representation else None
        self.vgg = Vgg19Features(s.semantic_layer, s.vgg_weights) if s.vgg_weights and s.weights.semantic else None
        self._background = background_kernels(s.blur)
        self._smooth = gaussian_kernel(2.0, 6)

    # ---- use ------------------------------------------------------------------------------------------------

    @property
    def context_slices(self) -> int:
        """As the settings say."""
        return self.settings.context_slices

    def _restore(self, image: Tensor) -> Tensor:
        """G_Y(E_X(x))."""
        return self._to_y(self.e_x(image), center_slice(image))

    def restoration_parameters(self) -> dict[str, Tensor]:
        """E_X and G_Y."""
        return self._kept("e_x", "g_y")

    def notes(self, has_noise: bool = True) -> Sequence[str]:
        """Terms that these settings leave out."""
        left_out = [
            name for name, weight in self.settings.weights if not weight and name not in ("restoration", "tissue")
        ]
        found = [f"terms with weight 0 are off: {', '.join(left_out)}"] if left_out else []
        if self.settings.weights.semantic and self.vgg is None:
            found.append("the semantic loss is off: settings.vgg_weights names no VGG-19 weights")
        if self.settings.weights.restoration and not has_noise:
            found.append("the restoration path is off: settings.weights.restoration needs data.noise_model")
        if self.settings.adapt_from == 1:
            found.append("settings.adapt_from is 1: only the restoration path is trained")
        return found

    def summary_images(self, batch: Batch) -> dict[str, Tensor]:
        """The translations of eq. 3 and 4."""
        assert batch.normal is not None
        made = self._pass(batch)
        return {
            "low": center_slice(batch.low),
            "low_to_normal": made.x_to_y,
            "normal": center_slice(batch.normal),
            "normal_to_low": made.y_to_x,
        }

    # ---- the passes -----------------------------------------------------------------------------------------

    def _to_x(self, content: Code, noise: Code, on: Tensor) -> Tensor:
        """G_X(content ⊕ noise)."""
        code = [torch.cat(maps, dim=1) for maps in zip(content, noise, strict=True)] if noise else content
        image: Tensor = self.g_x(code, on)
        return image

    def _to_y(self, content: Code, on: Tensor) -> Tensor:
        """G_Y(content)."""
        image: Tensor = self.g_y(content, on)
        return image

    def _noise_code(self, image: Tensor) -> Code:
        return [] if self.e_noise is None else self.e_noise(image)

    def _pass(self, batch: Batch) -> Pass:
        """Forward translation, eq. 3 and 4; of slices, of which E_X alone sees what stands beside them."""
        assert batch.normal is not None
        x, y = center_slice(batch.low), center_slice(batch.normal)
        z_x, z_y, n_x = self.e_x(batch.low), self.e_y(y), self._noise_code(x)
        x_to_y = self._to_y(self._jitter(z_x, batch), x)
        y_to_x = self._to_x(self._jitter(z_y, batch), self._jitter(n_x, batch), y)
        return Pass(z_x, z_y, n_x, x_to_y, y_to_x)

    def _jitter(self, code: Code, batch: Batch) -> Code:
        """The published code adds unit Gaussian noise to every code before decoding it in training."""
        if not self.settings.code_noise or not self.training:
            return code
        return [part + self.settings.code_noise * batch.randn_like(part) for part in code]

    @property
    def uses_noise(self) -> bool:
        """Whether the restoration term, which needs noise fields, is on."""
        return bool(self.settings.weights.restoration)

    # ---- the losses -----------------------------------------------------------------------------------------

    def generator_losses(self, batch: Batch) -> Losses:
        """Eq. 14 but for the critics' own sides; leaves its pass for the critics."""
        w = self.settings.weights
        losses: Losses = {}
        if w.restoration and batch.noise is not None:
            error = self.restoration_error(batch)
            losses["restoration"] = w.restoration * error.abs().pow(self.settings.restoration_power).mean()
            if w.tissue:
                losses["tissue"] = w.tissue * self._tissue_bias(error, batch)
        if self._adapts(batch):
            made = self._pass(batch)
            batch.memo["pass"] = _detached(made)
            losses |= self._translation_losses(_of_slices(batch), made)
        return losses

    def _adapts(self, batch: Batch) -> bool:
        return batch.progress >= self.settings.adapt_from

    def _translation_losses(self, batch: Batch, made: Pass) -> Losses:
        w, form = self.settings.weights, self.settings.adversarial
        x, y = batch.low, batch.normal
        assert y is not None
        losses: Losses = {}
        if w.adversarial:
            losses |= self._adversarial_losses(w.adversarial, made.y_to_x, made.x_to_y)
        if self.d_r is not None:
            undecided = judge([self.d_r(made.z_x)], 0.5, form) + judge([self.d_r(made.z_y)], 0.5, form)
            losses["representation"] = w.representation * undecided
        if w.cross_cycle:
            losses["cross_cycle"] = w.cross_cycle * self._cross_cycle(batch, made)
        if w.self_reconstruction:
            losses["self_reconstruction"] = w.self_reconstruction * self._self_reconstruction(batch, made)
        if w.background:
            there = background_consistency(x, made.x_to_y, self._background)
            back = background_consistency(y, made.y_to_x, self._background)
            losses["background"] = w.background * (there + back)
        if self.vgg is not None:
            losses["semantic"] = w.semantic * (self._semantic(x, made.x_to_y) + self._semantic(y, made.y_to_x))
        if w.kl:
            codes = [*made.n_x, *made.z_x, *made.z_y] if self.settings.kl_on == "all" else made.n_x
            if codes:
                losses["kl"] = w.kl * torch.stack([code.square().mean() for code in codes]).sum()
        return losses

    def restoration_error(self, batch: Batch) -> Tensor:
        """Ours: a normal-dose patch with noise of the low-dose pool's own spectrum, restored, less itself.

        In units of the gain, so that the weight does not depend on the HU range. HU are held in use only: held in
        training too, the gain was smaller and the bias larger (docs/experiments.md).
        """
        assert batch.normal is not None
        assert batch.noise is not None
        return (self._restore(batch.normal + batch.noise) - center_slice(batch.normal)) * self.settings.gain

    def _tissue_bias(self, error: Tensor, batch: Batch) -> Tensor:
        """Of fat and soft tissue, as the smoothed normal-dose patch shows them."""
        assert batch.normal is not None
        ranges = [TISSUES[name][:2] for name in ("fat", "soft-tissue")]
        units = [(self.scale.to_unit(low), self.scale.to_unit(high)) for low, high in ranges]
        return tissue_bias(error.float(), blur(center_slice(batch.normal), self._smooth), units)

    def _cross_cycle(self, batch: Batch, made: Pass) -> Tensor:
        """Eq. 5–8: translate back, and compare with where it began."""
        assert batch.normal is not None
        z_back = self._jitter(self.e_y(made.x_to_y), batch)
        n_back = self._jitter(self._noise_code(made.y_to_x), batch)
        x_again = self._to_x(z_back, n_back, made.x_to_y)
        y_again = self._to_y(
            self._jitter(self.e_x(repeat_slice(made.y_to_x, self.context_slices)), batch), made.y_to_x
        )
        return F.l1_loss(x_again, batch.low) + F.l1_loss(y_again, batch.normal)

    def _self_reconstruction(self, batch: Batch, made: Pass) -> Tensor:
        """Each domain's own encoder and generator give the image back.

        The multiscale G_X predicts what to add to a clean image, so there x is rebuilt on its own restoration.
        """
        assert batch.normal is not None
        content, noise = self._jitter(made.z_x, batch), self._jitter(made.n_x, batch)
        x_again = self._to_x(content, noise, made.x_to_y.detach())
        y_again = self._to_y(self._jitter(made.z_y, batch), batch.normal)
        return F.l1_loss(x_again, batch.low) + F.l1_loss(y_again, batch.normal)

    def _semantic(self, before: Tensor, after: Tensor) -> Tensor:
        """Eq. 11: squared distance of deep features."""
        assert self.vgg is not None
        features = [self.vgg(before), self.vgg(after)]
        if self.settings.semantic_norm:
            features = [F.instance_norm(part) for part in features]
        return F.mse_loss(features[1], features[0])

    def image_critic_losses(self, batch: Batch) -> Losses:
        """D_X and D_Y, eq. 12 and 13: real is 1, translated is 0."""
        if not self._adapts(batch) or not self.settings.weights.adversarial:
            return {}
        made = self._made(batch)
        return self._critic_losses(batch, made.y_to_x, made.x_to_y)

    def code_critic_losses(self, batch: Batch) -> Losses:
        """D_R, eq. 9: z_X is 1, z_Y is 0."""
        if not self._adapts(batch) or self.d_r is None:
            return {}
        z_x, z_y = self._codes(batch)
        return {"critic_r": tell_apart([self.d_r(z_x)], [self.d_r(z_y)], self.settings.adversarial)}

    def _codes(self, batch: Batch) -> tuple[Code, Code]:
        """What D_R judges: the codes of the generators' own pass, or (published) new ones with their graph."""
        if self.settings.schedule == "published":
            assert batch.normal is not None
            return self.e_x(batch.low), self.e_y(center_slice(batch.normal))
        made = self._made(batch)
        return [part.detach() for part in made.z_x], [part.detach() for part in made.z_y]

    def _made(self, batch: Batch) -> Pass:
        """This step's translations: the generators' own, or (published schedule) made again."""
        if self.settings.schedule == "published" or "pass" not in batch.memo:
            return self._pass(batch)
        made: Pass = batch.memo["pass"]
        return made

    # ---- the updates ----------------------------------------------------------------------------------------

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Generators, then the critics on what they made.

        The published order has the critics first, and works out the gradients of every network in every update.
        """
        s = self.settings
        makers = [net for net in (self.e_x, self.e_y, self.e_noise, self.g_x, self.g_y) if net is not None]
        generators = Phase("generators", self.generator_losses, s.learner(makers, learning_rate))
        adam = s.learner([self.d_x, self.d_y], learning_rate, "adam")
        critics = [Phase("image critics", self.image_critic_losses, adam)]
        if self.d_r is not None:
            adam = s.learner([self.d_r], learning_rate * s.representation_lr, "adam")
            repeats = s.representation_updates
            critics.insert(0, Phase("representation critic", self.code_critic_losses, adam, repeats, s.clip_norm))
        if s.schedule == "shared":
            return [generators, *critics]
        return [replace(phase, discarded=self._of_others(phase)) for phase in (*critics, generators)]

    def _of_others(self, phase: Phase) -> list[nn.Parameter]:
        """What learns, but not in this phase."""
        own = set(map(id, phase.parameters))
        return [p for p in self.parameters() if p.requires_grad and id(p) not in own]


def _of_slices(batch: Batch) -> Batch:
    """What is translated: the slice in the middle of each stack."""
    assert batch.normal is not None
    return replace(batch, low=center_slice(batch.low), normal=center_slice(batch.normal))


def _detached(made: Pass) -> Pass:
    z_x, z_y, n_x = ([part.detach() for part in code] for code in (made.z_x, made.z_y, made.n_x))
    return Pass(z_x, z_y, n_x, made.x_to_y.detach(), made.y_to_x.detach())


def _noise_encoder(s: LirSettings) -> nn.Module:
    if s.form == "paper":
        return PaperEncoder(s.width, 0, s.norm, s.padding, code_channels=4 * s.width)
    return MultiscaleEncoder(s.noise_channels, s.blocks, s.norm, s.gain, s.centre)


METHOD = Lir
