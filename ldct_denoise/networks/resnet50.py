"""Features of ResNet-50 (He et al. 2016) after each of its four stages, with the key names of torchvision.

The network is written out here, so that torchvision is not a dependency.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldct_denoise.networks.pretrained import IMAGENET_MEAN, IMAGENET_STD, load_weights

#: ImageNet weights published by torchvision; downloaded only if the configuration says ``download``.
WEIGHTS_URL = "https://download.pytorch.org/models/resnet50-0676ba61.pth"

#: Blocks of each stage; the stages are 64, 128, 256 and 512 channels wide, their outputs four times as much.
_STAGES = (3, 4, 6, 3)
_EXPANSION = 4


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = _EXPANSION * channels
        self.conv1, self.bn1 = nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(x)))
        features = self.relu(self.bn2(self.conv2(features)))
        output: Tensor = self.relu(self.bn3(self.conv3(features)) + self.downsample(x))
        return output


class ResNet50Features(nn.Module):
    """Features of grey images after each stage. The weights are never trained, nor are batch statistics updated.

    Parameters
    ----------
    weights : str
        File with the state of torchvision's ``resnet50``, or ``download``.

    Raises
    ------
    InputError
        If the file cannot be read or lacks weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for number, count in enumerate(_STAGES, 1):
            channels, stride = 32 * 2**number, 1 if number == 1 else 2
            blocks = [_Bottleneck(inputs, channels, stride)]
            inputs = _EXPANSION * channels
            blocks += [_Bottleneck(inputs, channels, 1) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.load_state_dict(load_weights(weights, WEIGHTS_URL, self.state_dict(), "resnet50"))
        self.requires_grad_(False)
        self.eval()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> ResNet50Features:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return four maps of images (n, 1, height, width) with values in 0…1."""
        x = (image.expand(-1, 3, -1, -1) - self.mean) / self.std
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for number in range(1, len(_STAGES) + 1):
            x = getattr(self, f"layer{number}")(x)
            features.append(x)
        return features
