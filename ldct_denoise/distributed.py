"""Distributed work: the processes that torchrun or srun started, and what they exchange.

Networks are not wrapped (no DistributedDataParallel). After ``backward`` the gradients of a phase's parameters are
averaged over the processes, so each phase of a GAN may use any subset of the networks.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldct_denoise.errors import ConfigError

T = TypeVar("T")
#: How long a finished process waits for the others.
GATHER_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class World:
    """This process and its communication with the other processes of a training run.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    device : torch.device
        Device of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process (rank 0) writes the files and the log."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes, in a single all-reduce."""
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

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Copy the tensors of rank 0 to every process, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def broadcast(self, *values: float) -> tuple[float, ...]:
        """Return the numbers of rank 0 in every process."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        return tuple(tensor.tolist())

    def broadcast_flag(self, flag: bool) -> bool:
        """Return the flag of rank 0 in every process."""
        return bool(self.broadcast(flag)[0])


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Resolve a device name.

    Parameters
    ----------
    name : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1`` (one GPU of several) or ``mps`` (Apple). ``auto``: the CUDA GPU
        where there is one, else the CPU.
    local_rank : int
        Number of this process on its machine; selects one of several GPUs.

    Returns
    -------
    torch.device

    Raises
    ------
    ConfigError
        If the name is unknown, torch finds no such GPU, or a process of several asks for one GPU by number.
    """
    kind, colon, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise ConfigError(f"device {name!r}: give auto, cpu, cuda, cuda:NUMBER or mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name}: this machine has no CUDA GPU that torch can use; give --device cpu")
    if number:
        if int(number) >= torch.cuda.device_count():
            raise ConfigError(f"device {name}: this machine has {torch.cuda.device_count()} GPUs, numbered from 0")
        if local_rank:
            raise ConfigError(f"device {name}: each of several processes takes a GPU of its own; give cuda")
        return torch.device(name)
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("device mps: torch finds no Apple GPU here; give --device cpu")
        return torch.device("mps")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def emulates_bf16(device: torch.device) -> bool:
    """Whether bf16 is several times slower than fp32 on this device: an x86 CPU without bf16 instructions."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return not {"avx512_bf16", "amx_bf16", "amx_tile"} & _cpu_instructions()


def _cpu_instructions() -> set[str]:
    """Instruction sets of the processor, by their Linux names; torch before 2.12 does not tell them."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, present in torch.cpu.get_capabilities().items() if present}
    info = Path("/proc/cpuinfo")
    return set(info.read_text(encoding="utf-8").split()) if info.exists() else set()


@dataclass(frozen=True)
class WorkerInfo:
    """This process among workers that do not communicate: it takes every ``size``-th item, from ``rank`` on.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    local_rank : int
        Number of this process on its machine; selects its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def worker_from_environment() -> WorkerInfo:
    """Rank and size from the environment that torchrun or srun sets.

    torchrun: RANK, WORLD_SIZE and LOCAL_RANK. srun: SLURM_PROCID, SLURM_STEP_NUM_TASKS (or SLURM_NTASKS) and
    SLURM_LOCALID.

    Raises
    ------
    ConfigError
        If the variables are not whole numbers or contradict each other.
    """
    environment = os.environ
    if "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_PROCID" in environment and not _outside_srun():
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        names = names if names[1] in environment else (names[0], "SLURM_NTASKS", names[2])
    else:
        return WorkerInfo()
    try:
        rank, size, local_rank = (
            int(environment.get(name, default)) for name, default in zip(names, "010", strict=True)
        )
    except ValueError:
        raise ConfigError(f"environment: {', '.join(names)} must be whole numbers; unset them") from None
    if not 0 <= rank < size:
        raise ConfigError(f"environment: {names[0]}={rank} is not below {names[1]}={size}; unset them")
    return WorkerInfo(rank, size, local_rank)


def _outside_srun() -> bool:
    """Whether this is the body of a batch script, which has a task number but runs once."""
    return "SLURM_JOB_ID" in os.environ and not {"SLURM_STEP_ID", "SLURM_STEPID"} & os.environ.keys()


def gather(item: T) -> list[T]:
    """Gather one item of every process that torchrun started; without torchrun, only that of this process.

    Waits for all processes: torchrun stops them all as soon as one exits with an error.

    Parameters
    ----------
    item : object
        Item of this process; must be picklable.

    Returns
    -------
    list
        Items by rank.
    """
    if worker_from_environment().size == 1 or not dist.is_torchelastic_launched():
        return [item]
    dist.init_process_group("gloo", timeout=GATHER_TIMEOUT)
    try:
        items: list[T] = [item] * dist.get_world_size()
        dist.all_gather_object(items, item)
    finally:
        dist.destroy_process_group()
    return items


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Context manager: join the process group that torchrun started; without torchrun, a world of one process.

    Parameters
    ----------
    device : str
        See :func:`choose_device`.

    Yields
    ------
    World

    Raises
    ------
    ConfigError
        If srun started several tasks without torchrun: each would train the whole run into the same files.
    """
    worker = worker_from_environment()
    if worker.size > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"environment: srun started {worker.size} tasks without torchrun, which would all train the same run; "
            "start one task per node, and torchrun in it (docs/how-to/cluster.md)"
        )
    chosen = choose_device(device, worker.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if worker.size == 1:
        yield World(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(worker.rank, worker.size, chosen)
    finally:
        dist.destroy_process_group()
