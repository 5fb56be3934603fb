"""Optimizers by name: Adam, and Muon, which gets further in the same time where steps are few."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adam", "muon"]

#: Of the odd polynomial that drives singular values towards 1 (Jordan et al. 2024): steep at 0, near 1 at 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def optimizer(
    name: OptimizerName,
    networks: Iterable[nn.Module],
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """An optimizer of all parameters of ``networks``.

    Parameters
    ----------
    name : str
        ``"adam"`` or ``"muon"``.
    networks : iterable of nn.Module
    learning_rate : float
        The same size suits both: Muon's steps are scaled to the root mean square of Adam's.
    betas : tuple of float
        Adam's; in Muon those of the parameters that it leaves to Adam.
    weight_decay : float
        Adam adds it to the gradient, Muon shrinks the weights by it.
    """
    parameters = chain.from_iterable(network.parameters() for network in networks)
    if name == "muon":
        return Muon(parameters, learning_rate, betas, weight_decay)
    # Fused: once through memory, a third of the time on a CPU.
    return torch.optim.Adam(parameters, learning_rate, betas, weight_decay=weight_decay, fused=True)


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal for filters and matrices, Adam for all else.

    Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. A filter is seen as the
    matrix (outputs, inputs · height · width). An orthogonal step moves all its singular directions alike, so that
    weak ones learn from few steps too. As there, what has few rows or columns (first and last layers, biases) is
    left to Adam. The step has the root mean square of Adam's (Liu et al. 2025, "Muon is scalable for LLM
    training"), so that one learning rate serves both.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
    lr : float
    betas : tuple of float
        Of Adam.
    weight_decay : float
        Decoupled: weights shrink by ``lr · weight_decay`` in each step.
    momentum : float
        Decay of the running mean of gradients; the step looks ahead (Nesterov).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "momentum": momentum}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                direction = _orthogonal_direction if _is_matrix(parameter) else _adam_direction
                parameter.add_(direction(parameter.grad, self.state[parameter], group), alpha=-group["lr"])
        return loss


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= 16


def _orthogonal_direction(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    mean = _running(state, "mean", gradient).lerp_(gradient, 1 - group["momentum"])
    ahead = gradient.lerp(mean, group["momentum"]).flatten(1)
    return (orthogonalised(ahead) * 0.2 * math.sqrt(max(ahead.shape))).view(gradient.shape)


def _adam_direction(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Kingma & Ba 2015, algorithm 1, ε = 1e-8."""
    state["steps"] = state.get("steps", 0) + 1
    first, second = group["betas"]
    mean = _running(state, "mean", gradient).lerp_(gradient, 1 - first)
    square = _running(state, "square", gradient).mul_(second).addcmul_(gradient, gradient, value=1 - second)
    spread = (square / (1 - second ** state["steps"])).sqrt_().add_(1e-8)
    return mean / (1 - first ** state["steps"]) / spread


def _running(state: dict[str, Any], name: str, like: Tensor) -> Tensor:
    """A running mean of the state, zeros at first."""
    if name not in state:
        state[name] = torch.zeros_like(like)
    kept: Tensor = state[name]
    return kept


def orthogonalised(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Nearly the nearest orthogonal matrix: U·Vᵀ of the singular value decomposition U·S·Vᵀ.

    Five Newton-Schulz iterations leave singular values between about 0.7 and 1.2, which is near enough; bfloat16,
    as published, is precise enough for that.

    Parameters
    ----------
    matrix : Tensor, shape (rows, columns)
    iterations : int

    Returns
    -------
    Tensor, shape (rows, columns)
        Of the type of ``matrix``; zeros for zeros.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalised(matrix.T, iterations).T  # the smaller square costs less
    a, b, c = _QUINTIC
    estimate = (matrix / matrix.norm().clamp(min=1e-20)).bfloat16()
    for _ in range(iterations):
        square = estimate @ estimate.T
        estimate = a * estimate + (b * square + c * square @ square) @ estimate
    return estimate.to(matrix.dtype)
