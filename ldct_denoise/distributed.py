"""Several processes, as torchrun starts them: who am I, and averages over all.

No wrapper stands around the networks: after ``backward`` the gradients of a phase's own parameters are averaged,
which leaves a GAN free to use any subset of its networks in any phase.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldct_denoise.errors import ConfigError

T = TypeVar("T")
#: How long a process that is done waits for the others.
PATIENCE = timedelta(days=30)


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
                dist.broadcast(tensor.detach(), src=0)

    def tell(self, *values: float) -> tuple[float, ...]:
        """The first process's numbers, to all."""
        if self.size == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(told, src=0)
        return tuple(told.tolist())

    def agree(self, flag: bool) -> bool:
        """Whether the first process says so; all processes get the same answer."""
        return bool(self.tell(flag)[0])


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
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def emulates_bf16(device: torch.device) -> bool:
    """Whether bf16 is several times slower here than fp32: an x86 CPU without instructions for it."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@dataclass(frozen=True)
class Share:
    """This process's part of work that needs no exchange: every ``size``-th item, from ``rank`` on.

    Parameters
    ----------
    rank, size : int
        This process and how many there are.
    local_rank : int
        This process among those of its machine: which GPU it takes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def share_of_work() -> Share:
    """As torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or Slurm's srun (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID) say.

    Raises
    ------
    ConfigError
        If they contradict each other.
    """
    told = os.environ
    if "WORLD_SIZE" in told:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_PROCID" in told and not _outside_srun():
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        names = names if names[1] in told else (names[0], "SLURM_NTASKS", names[2])
    else:
        return Share()
    try:
        rank, size, local_rank = (int(told.get(name, default)) for name, default in zip(names, "010", strict=True))
    except ValueError:
        raise ConfigError(f"environment: {', '.join(names)} must be whole numbers; unset them") from None
    if not 0 <= rank < size:
        raise ConfigError(f"environment: {names[0]}={rank} is none of {names[1]}={size} processes; unset them")
    return Share(rank, size, local_rank)


def _outside_srun() -> bool:
    """Whether this is the body of a batch script: it has a task number, yet runs once."""
    return "SLURM_JOB_ID" in os.environ and not {"SLURM_STEP_ID", "SLURM_STEPID"} & os.environ.keys()


def gather(item: T) -> list[T]:
    """The items of all processes that torchrun started, once all are done; elsewhere this process's own.

    torchrun ends all processes when one fails, so none may leave before the others.
    """
    if share_of_work().size == 1 or not dist.is_torchelastic_launched():
        return [item]
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        items: list[T] = [item] * dist.get_world_size()
        dist.all_gather_object(items, item)
    finally:
        dist.destroy_process_group()
    return items


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun started, or be the only one.

    Raises
    ------
    ConfigError
        If srun started several that do not know of each other: each would do all, into the same files.
    """
    share = share_of_work()
    if share.size > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"environment: srun started {share.size} tasks, which would all do the same; start one a node, "
            "and in it torchrun (docs/cluster.md)"
        )
    chosen = choose_device(device, share.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if share.size == 1:
        yield World(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(share.rank, share.size, chosen)
    finally:
        dist.destroy_process_group()
