"""Weights of networks that were trained on ImageNet, with the key names of torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ldct_denoise.errors import InputError

#: Mean and standard deviation of each colour channel of the training images, values 0…1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_weights(
    weights: str, url: str, wanted: Mapping[str, Tensor], name: str, prefix: str = ""
) -> dict[str, Tensor]:
    """Load the weights of a network from a file, or download them.

    Parameters
    ----------
    weights : str
        File of PyTorch weights, or ``download``.
    url : str
        Address for ``download``.
    wanted : mapping of str to Tensor
        State of the network.
    name : str
        The network, for error messages.
    prefix : str
        What the keys of the file have before those of ``wanted``.

    Returns
    -------
    dict of str to Tensor
        Weights by the keys of ``wanted``.

    Raises
    ------
    InputError
        If the file cannot be read or lacks weights.
    """
    if weights == "download":
        state = torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, check_hash=True)
    else:
        path = Path(weights)
        if not path.is_file():
            raise InputError(f"{path}: no such file; give a file of torchvision's {name} weights, or 'download'")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"{path}: not a file of PyTorch weights ({str(error).splitlines()[0]})") from None
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    missing = [key for key in wanted if key not in found or found[key].shape != wanted[key].shape]
    if missing:
        raise InputError(f"{weights}: not the weights of {name}: {prefix}{missing[0]} does not fit")
    return {key: found[key].to(value.dtype) for key, value in wanted.items()}
