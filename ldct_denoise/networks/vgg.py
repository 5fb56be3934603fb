"""Features of VGG-19 (Simonyan & Zisserman 2015) up to a named layer, with the key names of torchvision.

The network is written out here, so that torchvision is not a dependency.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldct_denoise.errors import ConfigError
from ldct_denoise.networks.pretrained import IMAGENET_MEAN, IMAGENET_STD, load_weights

#: ImageNet weights published by torchvision; downloaded only if the configuration says ``download``.
WEIGHTS_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"

_PLAN = {"conv1": (64, 2), "conv2": (128, 2), "conv3": (256, 4), "conv4": (512, 4), "conv5": (512, 4)}


class Vgg19Features(nn.Module):
    """Features of grey images at one layer, before its activation. The weights are never trained.

    Parameters
    ----------
    layer : str
        Name of the layer, for example ``conv5_1``.
    weights : str
        File with the state of torchvision's ``vgg19``, or ``download``.

    Raises
    ------
    ConfigError
        If there is no such layer.
    InputError
        If the file cannot be read or lacks weights of a layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layer: str, weights: str) -> None:
        super().__init__()
        self.features = _layers_up_to(layer)
        state = load_weights(weights, WEIGHTS_URL, self.features.state_dict(), f"vgg19 up to {layer}", "features.")
        self.features.load_state_dict(state)
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return features of images (n, 1, height, width) with values in 0…1."""
        features: Tensor = self.features((image.expand(-1, 3, -1, -1) - self.mean) / self.std)
        return features


def _layers_up_to(layer: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for block, (width, count) in _PLAN.items():
        for number in range(1, count + 1):
            layers.append(nn.Conv2d(inputs, width, 3, padding=1))
            inputs = width
            if f"{block}_{number}" == layer:
                return nn.Sequential(*layers)
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.MaxPool2d(2))
    raise ConfigError(f"VGG-19 has no layer {layer!r}; give conv1_1 … conv5_4")
