"""Convolution-free token-to-token transformer (CTformer).

A patch of 64×64 pixels is cut into overlapping squares of 7×7 pixels (tokens). Attention, a cyclic shift by two
tokens and a dilated 3×3 unfolding, twice, turn them into 23×23 tokens for one transformer block; the decoder
folds them back through the mirrored modules, with skips (Section 2). The result is subtracted from the image. A
slice is denoised in windows of 64×64 at a distance of 32, of which the central 32×32 are kept (overlapped
inference). Attention of the token modules is that of Performers (Choromanski et al., ICLR 2021). Chosen here:
no dropout; no class token and no classifier, which the published code carries along unused; the decoder's last
module begins near 0.

Supervision: supervised

Reference: Wang, Fan, Wu, Liu, Wang, Yu: CTformer: convolution-free Token2Token dilated vision transformer for
low-dose CT denoising, Physics in Medicine & Biology 2023
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.networks.blocks import is_tracing, reflect_pad, run_padded

WINDOW = 64  # side of a window, pixels
STRIDE = 32  # distance of two windows, pixels
CHUNK = 32  # windows that are denoised at once
SHIFT = (2, 2)
#: Tokens along each side: of the 7×7 squares, after the dilated and after the plain 3×3 unfolding.
TOKENS = (29, 25, 23)


class CtformerSettings(RegressionSettings):
    """The published network."""

    channels: int = Field(64, ge=4, le=512, multiple_of=2, description="length of a token")
    num_heads: int = Field(8, ge=1, le=64, description="heads of the transformer block's attention")
    num_blocks: int = Field(1, ge=1, le=24, description="transformer blocks")

    @model_validator(mode="after")
    def _check_heads(self) -> CtformerSettings:
        if self.channels % self.num_heads:
            raise ValueError(f"channels {self.channels} is not a multiple of num_heads {self.num_heads}")
        return self


class TokenPerformer(nn.Module):
    """Single-head attention of linear cost, then two linear layers; changes the length of tokens.

    Parameters
    ----------
    inputs, outputs : int
        Length of a token before and after.
    """

    features: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(inputs), nn.LayerNorm(outputs)
        self.kqv, self.project = nn.Linear(inputs, 3 * outputs), nn.Linear(outputs, outputs)
        self.mlp = nn.Sequential(nn.Linear(outputs, outputs), nn.GELU(), nn.Linear(outputs, outputs))
        count = max(1, outputs // 2)
        features = nn.init.orthogonal_(torch.empty(count, outputs)) * math.sqrt(count)
        self.register_buffer("features", features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of shape (n, count, outputs)."""
        key, query, value = self.kqv(self.norm_in(tokens)).chunk(3, dim=-1)
        key, query = self._kernel(key, (1, 2)), self._kernel(query, (2,))
        attended = query @ (key.transpose(1, 2) @ value)
        attended = attended / ((query @ key.sum(dim=1)[..., None]) + 1e-8)
        tokens = value + self.project(attended)
        output: Tensor = tokens + self.mlp(self.norm_out(tokens))
        return output

    def _kernel(self, x: Tensor, stable_over: tuple[int, ...]) -> Tensor:
        """Positive random features of the softmax kernel; a common factor, which cancels, is left out."""
        exponent = x @ self.features.T.to(x) - 0.5 * x.square().sum(dim=-1, keepdim=True)
        return (exponent - exponent.detach().amax(dim=stable_over, keepdim=True)).exp()


class TransformerBlock(nn.Module):
    """Multi-head self-attention and two linear layers.

    Parameters
    ----------
    channels : int
        Length of a token.
    num_heads : int
        Heads of the attention.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.project = nn.Linear(channels, 3 * channels, bias=False), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape."""
        heads = self.qkv(self.norm_attention(tokens)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.project(attended.transpose(1, 2).flatten(2))
        output: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return output


class TokenTransformer(nn.Module):
    """Encoder, transformer blocks and decoder for windows of 64×64 pixels.

    Parameters
    ----------
    channels : int
        Length of a token.
    num_heads : int
        Heads of the transformer block's attention.
    num_blocks : int
        Transformer blocks.
    """

    position: Tensor

    def __init__(self, channels: int, num_heads: int, num_blocks: int) -> None:
        super().__init__()
        self.encode_a, self.encode_b = TokenPerformer(49, channels), TokenPerformer(9 * channels, channels)
        self.project_in = nn.Linear(9 * channels, channels)
        self.blocks = nn.Sequential(*(TransformerBlock(channels, num_heads) for _ in range(num_blocks)))
        self.norm = nn.LayerNorm(channels)
        self.project_out = nn.Linear(channels, 9 * channels)
        self.decode_c, self.decode_d = TokenPerformer(channels, 9 * channels), TokenPerformer(channels, 49)
        self.register_buffer("position", _sinusoids(TOKENS[2] ** 2, channels), persistent=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        with torch.no_grad():
            for weight in (self.decode_d.kqv.weight, self.decode_d.project.weight):
                weight.mul_(0.01)
            for parameter in self.decode_d.mlp.parameters():
                parameter.mul_(0.1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the estimate of windows (n, 1, 64, 64)."""
        a = self.encode_a(F.unfold(image, 7, stride=2).transpose(1, 2))
        shifted = torch.roll(_to_map(a, TOKENS[0]), SHIFT, (2, 3))
        b = self.encode_b(F.unfold(shifted, 3, dilation=2).transpose(1, 2))
        shifted = torch.roll(_to_map(b, TOKENS[1]), SHIFT, (2, 3))
        tokens = self.project_in(F.unfold(shifted, 3).transpose(1, 2)) + self.position
        tokens = self.project_out(self.norm(self.blocks(tokens)))
        c = _to_tokens(_fold(tokens, TOKENS[1], 3)) + b
        d = _to_tokens(_fold(self.decode_c(c), TOKENS[0], 3, dilation=2)) + a
        return image - F.fold(self.decode_d(d).transpose(1, 2), (WINDOW, WINDOW), 7, stride=2)


def _sinusoids(count: int, channels: int) -> Tensor:
    """Position encoding (Vaswani et al. 2017), shape (1, count, channels)."""
    rate = 10000.0 ** (-torch.arange(0, channels, 2) / channels)
    angle = torch.arange(count)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[None]


def _to_map(tokens: Tensor, side: int) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def _to_tokens(features: Tensor) -> Tensor:
    return features.flatten(2).transpose(1, 2)


def _fold(tokens: Tensor, side: int, kernel_size: int, dilation: int = 1) -> Tensor:
    """Add overlapping squares up to a map, and shift it back."""
    features = F.fold(tokens.transpose(1, 2), (side, side), kernel_size, dilation=dilation)
    return torch.roll(features, (-SHIFT[0], -SHIFT[1]), (2, 3))


class OverlappedInference(nn.Module):
    """Applies a network of windows to images of any size.

    Parameters
    ----------
    network : nn.Module
        Maps windows (n, 1, 64, 64) to windows.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return the estimate, of the same shape."""
        if not is_tracing() and image.shape[-2:] == (WINDOW, WINDOW):
            estimate: Tensor = self.network(image)
            return estimate
        return run_padded(self._by_windows, image, STRIDE)

    def _by_windows(self, image: Tensor) -> Tensor:
        """Keep the center of each window; sides are multiples of the distance of windows."""
        margin = (WINDOW - STRIDE) // 2
        padded = reflect_pad(image, margin, margin, margin, margin)
        windows = padded.unfold(2, WINDOW, STRIDE).unfold(3, WINDOW, STRIDE)
        flat = windows.reshape(-1, 1, WINDOW, WINDOW)
        parts = (flat,) if is_tracing() else flat.split(CHUNK)
        centers = torch.cat([self.network(part)[..., margin:-margin, margin:-margin] for part in parts])
        tiles = centers.reshape(*windows.shape[:4], STRIDE, STRIDE)
        return tiles.transpose(3, 4).reshape(image.shape)


class Ctformer(Regression[CtformerSettings]):
    """CTformer, trained on pairs."""

    Settings = CtformerSettings

    def _network(self) -> nn.Module:
        s = self.settings
        return OverlappedInference(TokenTransformer(s.channels, s.num_heads, s.num_blocks))


METHOD = Ctformer
