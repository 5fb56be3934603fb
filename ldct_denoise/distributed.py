"""Several processes, as torchrun starts them: who am I, and averages over all.

No wrapper stands around the networks: after ``backward`` the gradients of a phase's own parameters are averaged,
which leaves a GAN free to use any subset of its networks in any phase.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldct_denoise.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process among all of a run.

    Parameters
    ----------
    rank, size : int
        This process and how many there are.
    device : torch.device
        Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes; one exchange for all of them."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(
            gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def agree(self, flag: bool) -> bool:
        """Whether the first process says so; all processes get the same answer."""
        if self.size == 1:
            return flag
        told = torch.tensor([float(flag)], device=self.device)
        dist.broadcast(told, src=0)
        return bool(told.item())


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    ConfigError
        If a GPU is asked for and there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r}: give auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: this machine has no CUDA GPU that torch can use; give --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun started, or be the only one."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()
