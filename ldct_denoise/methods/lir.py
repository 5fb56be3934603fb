"""Invariant-representation GAN (LIR).

Content and noise are encoded separately, so that noise can be exchanged between a low-dose image x and a
normal-dose image y of other patients. E_X and E_Y encode content, E_X^N encodes noise, G_X generates from content
and noise, G_Y from content only; D_X, D_Y and D_R are discriminators of images and of the representation. The
restoration is ``G_Y(E_X(x))``. Equation numbers are those of the paper. ``architecture: lir`` is the published
form, ``architecture: unet`` the one for CT; ``docs/explanation/method.md`` explains each setting.

Supervision: unpaired

Reference: Du, Chen, Yang: Learning Invariant Representation for Unsupervised Image Restoration, CVPR 2020
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._unpaired import UnpairedMethod, UnpairedSettings, encoder, generator
from ldct_denoise.methods.base import Batch, Losses, Phase, center_slice, repeat_slice
from ldct_denoise.networks.blocks import Norm, blur, gaussian_kernel
from ldct_denoise.networks.discriminators import CodeDiscriminator
from ldct_denoise.networks.encoder_decoder import Code, LirEncoder, UNetEncoder
from ldct_denoise.networks.losses import (
    adversarial_loss,
    background_consistency,
    background_kernels,
    discriminator_loss,
    tissue_bias,
)
from ldct_denoise.networks.vgg import Vgg19Features
from ldct_denoise.regions.tissues import TISSUES

#: Channels of the noise code at each resolution of the U-Net.
NOISE_CODE_CHANNELS = 8
#: Of D_R, as published: its learning rate relative to the others', and the norm that its gradients are clipped to.
REPRESENTATION_LR_RATIO, REPRESENTATION_MAX_GRAD_NORM = 0.5, 5.0


class LossWeights(BaseModel):
    """The λ of eq. 14, and those of the restoration path. A loss with weight 0 is not computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    representation: float = Field(1.0, ge=0, description="λ_R, eq. 9")
    adversarial: float = Field(1.0, ge=0, description="λ_adv, eq. 12 and 13")
    cross_cycle: float = Field(10.0, ge=0, description="λ_cc, eq. 7 and 8")
    self_reconstruction: float = Field(10.0, ge=0, description="λ_rec")
    background: float = Field(5.0, ge=0, description="λ_bc, eq. 10")
    semantic: float = Field(1.0, ge=0, description="λ_sc, eq. 11; needs vgg_weights")
    kl: float = Field(0.01, ge=0, description="λ_KL")
    restoration: float = Field(0.0, ge=0, description="not in the paper: G_Y(E_X(y + noise)) against y")
    tissue: float = Field(0.0, ge=0, description="not in the paper: its squared mean error in fat and soft tissue")


class LirSettings(UnpairedSettings):
    """Settings of LIR; the defaults are those of the published code."""

    context_slices: int = Field(
        0, ge=0, le=4, description="unet: adjacent slices on each side that E_X also takes as input (2.5-D)"
    )
    norm: Norm = Field("batch", description="normalisation after convolutions")
    noise_encoder: bool = Field(True, description="whether there is E_X^N; off: ablation (a) of Table 4")
    semantic_layer: str = Field("conv5_1", description="layer of VGG-19 for the semantic loss")
    vgg_weights: str | None = Field(
        None, description="file of torchvision's vgg19 weights, or 'download'; none: no semantic loss"
    )
    latent_noise_std: float = Field(
        1.0, ge=0, description="standard deviation of the noise that training adds to codes before decoding"
    )
    beta1: float = Field(0.0, ge=0, lt=1, description="decay rate of Adam's mean of gradients")
    beta2: float = Field(0.9, ge=0, lt=1, description="decay rate of Adam's mean of squared gradients")
    weight_decay: float = Field(1e-4, ge=0, description="Adam: L2 penalty; Muon: decoupled")
    discriminator_steps: int = Field(3, ge=1, description="updates of D_R in each training step")
    adversarial_start: float = Field(
        0.0, ge=0, le=1, description="fraction of the run after which the losses on low-dose images begin"
    )
    adversarial_interval: int = Field(
        1, ge=1, description="steps between those with the losses on low-dose images, eq. 14; 1: every step"
    )
    adversarial_batch_fraction: float = Field(
        1.0, gt=0, le=1, description="fraction of the batch that the losses on low-dose images use"
    )
    restoration_loss: Literal["l1", "l2"] = Field("l2", description="absolute or squared error of the restoration")
    loss_weights: LossWeights = Field(LossWeights(), description="weight of each loss")  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _architecture_has_context(self) -> LirSettings:
        if self.context_slices and self.architecture == "lir":
            raise ValueError("context_slices: the architecture lir sees one slice; set architecture: unet")
        return self

    @property
    def noise_code_channels(self) -> tuple[int, ...]:
        """Channels of each map of the noise code; empty without a noise encoder."""
        if not self.noise_encoder:
            return ()
        if self.architecture == "lir":
            return (4 * self.base_channels,)
        return (NOISE_CODE_CHANNELS,) * self.num_levels


class Translation(NamedTuple):
    """Codes and translations of a batch, eq. 3 and 4.

    Parameters
    ----------
    z_x, z_y : list of Tensor
        Content codes of the low-dose images x and the normal-dose images y.
    n_x : list of Tensor
        Noise code of x.
    x_to_y, y_to_x : Tensor, shape (n, 1, height, width)
        Restored low-dose images and degraded normal-dose images.
    """

    z_x: Code
    z_y: Code
    n_x: Code
    x_to_y: Tensor
    y_to_x: Tensor

    def detach(self) -> Translation:
        """Return the same values without their graph."""
        z_x, z_y, n_x = ([part.detach() for part in code] for code in (self.z_x, self.z_y, self.n_x))
        return Translation(z_x, z_y, n_x, self.x_to_y.detach(), self.y_to_x.detach())


class Lir(UnpairedMethod[LirSettings]):
    """Invariant-representation GAN."""

    Settings = LirSettings
    e_noise: nn.Module | None
    d_r: CodeDiscriminator | None
    vgg: Vgg19Features | None

    def __init__(self, settings: LirSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        s = settings
        self.e_x = encoder(s, context_slices=s.context_slices)
        self.g_y = generator(s, tanh=True)

    def add_training_networks(self) -> None:
        """Build E_Y, E_X^N, G_X, the discriminators and VGG-19."""
        s = self.settings
        self.e_y, self.e_noise = encoder(s), _noise_encoder(s) if s.noise_encoder else None
        self.g_x = generator(s, extra_channels=s.noise_code_channels, tanh=True)
        super().add_training_networks()
        self.d_r = CodeDiscriminator(s.coarsest_channels) if s.loss_weights.representation else None
        self.vgg = None
        if s.vgg_weights and s.loss_weights.semantic:
            self.vgg = Vgg19Features(s.semantic_layer, s.vgg_weights)
        self._background = background_kernels()
        self._smooth = gaussian_kernel(2.0, 6)

    # ---- restoration ----------------------------------------------------------------------------------------

    @property
    def context_slices(self) -> int:
        """Adjacent slices on each side that E_X also takes as input."""
        return self.settings.context_slices

    def _restore(self, image: Tensor) -> Tensor:
        """Compute G_Y(E_X(x))."""
        return self._to_y(self.e_x(image), center_slice(image))

    @property
    def uses_noise(self) -> bool:
        """Whether the restoration loss, which needs noise, is on."""
        return bool(self.settings.loss_weights.restoration)

    def restoration_parameters(self) -> dict[str, Tensor]:
        """Return the weights of E_X and G_Y."""
        return self._state_of("e_x", "g_y")

    # ---- translation ----------------------------------------------------------------------------------------

    def _to_x(self, content: Code, noise: Code, base: Tensor) -> Tensor:
        """Compute G_X(content ⊕ noise)."""
        code = [torch.cat(maps, dim=1) for maps in zip(content, noise, strict=True)] if noise else content
        image: Tensor = self.g_x(code, base)
        return image

    def _to_y(self, content: Code, base: Tensor) -> Tensor:
        """Compute G_Y(content)."""
        image: Tensor = self.g_y(content, base)
        return image

    def _noise_code(self, image: Tensor) -> Code:
        return [] if self.e_noise is None else self.e_noise(image)

    def _add_latent_noise(self, code: Code, batch: Batch) -> Code:
        """Add Gaussian noise to a code in training, as the published code does before decoding."""
        deviation = self.settings.latent_noise_std
        if not deviation or not self.training:
            return code
        return [part + deviation * batch.randn_like(part) for part in code]

    def translate(self, batch: Batch) -> Translation:
        """Translate both images, eq. 3 and 4. Of stacks, the center slices; E_X also sees the others."""
        assert batch.normal is not None
        x, y = center_slice(batch.low), center_slice(batch.normal)
        z_x, z_y, n_x = self.e_x(batch.low), self.e_y(y), self._noise_code(x)
        x_to_y = self._to_y(self._add_latent_noise(z_x, batch), x)
        y_to_x = self._to_x(self._add_latent_noise(z_y, batch), self._add_latent_noise(n_x, batch), y)
        return Translation(z_x, z_y, n_x, x_to_y, y_to_x)

    # ---- losses ---------------------------------------------------------------------------------------------

    def generator_losses(self, batch: Batch) -> Losses:
        """Losses of encoders and generators, eq. 14; stores the translation for the discriminators."""
        w = self.settings.loss_weights
        losses: Losses = {}
        if w.restoration and batch.noise is not None:
            error = self.restoration_error(batch)
            distance = error.abs() if self.settings.restoration_loss == "l1" else error.square()
            losses["restoration"] = w.restoration * distance.mean()
            if w.tissue:
                losses["tissue"] = w.tissue * self._tissue_bias(error, batch)
        part = self._adversarial_part(batch)
        if part is not None:
            assert part.normal is not None
            translation = self.translate(part)
            batch.memo["translation"] = translation.detach()
            slices = replace(part, low=center_slice(part.low), normal=center_slice(part.normal))
            losses |= self._translation_losses(slices, translation)
        return losses

    def _adversarial_part(self, batch: Batch) -> Batch | None:
        """Return the part of the batch that the losses on low-dose images use; None in steps without them."""
        s = self.settings
        if batch.progress < s.adversarial_start or batch.step % s.adversarial_interval:
            return None
        assert batch.normal is not None
        count = math.ceil(len(batch.low) * s.adversarial_batch_fraction)
        return replace(batch, low=batch.low[:count], normal=batch.normal[:count])

    def _translation_losses(self, batch: Batch, t: Translation) -> Losses:
        w, form = self.settings.loss_weights, self.settings.adversarial_loss
        x, y = batch.low, batch.normal
        assert y is not None
        losses: Losses = {}
        if w.adversarial:
            losses |= self._adversarial_losses(w.adversarial, t.y_to_x, t.x_to_y)
        if self.d_r is not None:
            of_x, of_y = (adversarial_loss([self.d_r(code)], 0.5, form) for code in (t.z_x, t.z_y))
            losses["representation"] = w.representation * (of_x + of_y)
        if w.cross_cycle:
            losses["cross_cycle"] = w.cross_cycle * self._cross_cycle(batch, t)
        if w.self_reconstruction:
            losses["self_reconstruction"] = w.self_reconstruction * self._self_reconstruction(batch, t)
        if w.background:
            of_x = background_consistency(x, t.x_to_y, self._background)
            of_y = background_consistency(y, t.y_to_x, self._background)
            losses["background"] = w.background * (of_x + of_y)
        if self.vgg is not None:
            losses["semantic"] = w.semantic * (self._semantic(x, t.x_to_y) + self._semantic(y, t.y_to_x))
        # The published code takes the mean square of all codes; in a U-Net the content must not shrink.
        codes = [*t.n_x, *t.z_x, *t.z_y] if self.settings.architecture == "lir" else t.n_x
        if w.kl and codes:
            losses["kl"] = w.kl * torch.stack([code.square().mean() for code in codes]).sum()
        return losses

    def restoration_error(self, batch: Batch) -> Tensor:
        """Restore a normal-dose patch with added noise, and return the error in units of 1 / input_scale.

        In these units the weight of the loss does not depend on the HU range. The low-frequency passthrough is not
        part of it: with the passthrough in training, models gained less and had a larger bias.
        """
        assert batch.normal is not None
        assert batch.noise is not None
        restored = self._restore(batch.normal + batch.noise)
        return (restored - center_slice(batch.normal)) * self.settings.input_scale

    def _tissue_bias(self, error: Tensor, batch: Batch) -> Tensor:
        """Squared mean error in fat and soft tissue, found by HU in the blurred normal-dose patch."""
        assert batch.normal is not None
        ranges = [TISSUES[name][:2] for name in ("fat", "soft-tissue")]
        units = [(self.scale.to_unit(low), self.scale.to_unit(high)) for low, high in ranges]
        return tissue_bias(error.float(), blur(center_slice(batch.normal), self._smooth), units)

    def _cross_cycle(self, batch: Batch, t: Translation) -> Tensor:
        """Cross-cycle loss, eq. 5–8: translate back and compare with the original."""
        assert batch.normal is not None
        z_y_back = self._add_latent_noise(self.e_y(t.x_to_y), batch)
        n_back = self._add_latent_noise(self._noise_code(t.y_to_x), batch)
        x_again = self._to_x(z_y_back, n_back, t.x_to_y)
        z_x_back = self._add_latent_noise(self.e_x(repeat_slice(t.y_to_x, self.context_slices)), batch)
        y_again = self._to_y(z_x_back, t.y_to_x)
        return F.l1_loss(x_again, batch.low) + F.l1_loss(y_again, batch.normal)

    def _self_reconstruction(self, batch: Batch, t: Translation) -> Tensor:
        """Self-reconstruction loss: encode and decode within one domain.

        The G_X of the U-Net predicts what to add to a clean image, so there x is reconstructed from x → y.
        """
        assert batch.normal is not None
        content, noise = self._add_latent_noise(t.z_x, batch), self._add_latent_noise(t.n_x, batch)
        x_again = self._to_x(content, noise, t.x_to_y.detach())
        y_again = self._to_y(self._add_latent_noise(t.z_y, batch), batch.normal)
        return F.l1_loss(x_again, batch.low) + F.l1_loss(y_again, batch.normal)

    def _semantic(self, before: Tensor, after: Tensor) -> Tensor:
        """Semantic loss, eq. 11: squared distance of instance-normalised deep features."""
        assert self.vgg is not None
        return F.mse_loss(F.instance_norm(self.vgg(after)), F.instance_norm(self.vgg(before)))

    def image_discriminator_losses(self, batch: Batch) -> Losses:
        """Losses of D_X and D_Y, eq. 12 and 13: real images should score 1, translations 0."""
        part = self._adversarial_part(batch)
        if part is None or not self.settings.loss_weights.adversarial:
            return {}
        t = self._translation_of(part)
        return self._discriminator_losses(part, t.y_to_x, t.x_to_y)

    def representation_discriminator_losses(self, batch: Batch) -> Losses:
        """Loss of D_R, eq. 9: z_X should score 1, z_Y 0."""
        part = self._adversarial_part(batch)
        if part is None or self.d_r is None:
            return {}
        t = self._translation_of(part)
        form = self.settings.adversarial_loss
        return {"discriminator_r": discriminator_loss([self.d_r(t.z_x)], [self.d_r(t.z_y)], form)}

    def _translation_of(self, batch: Batch) -> Translation:
        """Return the detached translation that the generators computed in this step."""
        translation: Translation = batch.memo.get("translation") or self.translate(batch).detach()
        return translation

    # ---- training -------------------------------------------------------------------------------------------

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Update encoders and generators, then the discriminators on the same translation."""
        s = self.settings
        networks = [net for net in (self.e_x, self.e_y, self.e_noise, self.g_x, self.g_y) if net is not None]
        phases = [Phase("generators", self.generator_losses, s.make_optimizer(networks, learning_rate))]
        if self.d_r is not None:
            adam = s.make_optimizer([self.d_r], learning_rate * REPRESENTATION_LR_RATIO, "adam")
            phases.append(
                Phase(
                    "representation discriminator",
                    self.representation_discriminator_losses,
                    adam,
                    s.discriminator_steps,
                    REPRESENTATION_MAX_GRAD_NORM,
                )
            )
        adam = s.make_optimizer([self.d_x, self.d_y], learning_rate, "adam")
        return [*phases, Phase("image discriminators", self.image_discriminator_losses, adam)]

    def notes(self, has_noise: bool = True) -> Sequence[str]:
        """Return which losses these settings switch off."""
        s, w = self.settings, self.settings.loss_weights
        zero = [name for name, weight in w if not weight and name not in ("restoration", "tissue")]
        notes = [f"losses with weight 0 are off: {', '.join(zero)}"] if zero else []
        if w.semantic and self.vgg is None:
            notes.append("the semantic loss is off: settings.vgg_weights names no VGG-19 weights")
        if w.restoration and not has_noise:
            notes.append("the restoration loss is off: settings.loss_weights.restoration needs data.noise_model")
        if s.adversarial_start == 1:
            notes.append("settings.adversarial_start is 1: only the restoration path is trained")
        return notes

    def summary_images(self, batch: Batch) -> dict[str, Tensor]:
        """Return both images and their translations; none by the generator of low dose before it is trained."""
        assert batch.normal is not None
        t, start = self.translate(batch), self.settings.adversarial_start
        shown = {"low": center_slice(batch.low), "low_to_normal": t.x_to_y}
        if start < 1 and batch.progress >= start:
            shown |= {"normal": center_slice(batch.normal), "normal_to_low": t.y_to_x}
        return shown


def _noise_encoder(s: LirSettings) -> nn.Module:
    channels = s.noise_code_channels
    if s.architecture == "lir":
        return LirEncoder(s.base_channels, 0, s.norm, code_channels=channels[0])
    return UNetEncoder(channels, s.blocks_per_level, s.norm, s.input_scale, s.input_shift)


METHOD = Lir
