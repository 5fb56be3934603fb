"""Optimizers by name: Adam, and Muon, which reaches a lower loss where training steps are few."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adam", "muon"]

#: Coefficients of the odd polynomial that moves singular values towards 1 (Jordan et al. 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)


def create_optimizer(
    name: OptimizerName,
    networks: Iterable[nn.Module],
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Return an optimizer of all parameters of some networks.

    Parameters
    ----------
    name : {"adam", "muon"}
        Which optimizer.
    networks : iterable of nn.Module
        Networks to train.
    learning_rate : float
        Step size. The same value suits both: Muon's steps are scaled to the root mean square of Adam's.
    betas : tuple of float
        Decay rates of Adam's running means; with Muon, of the parameters that it leaves to Adam.
    weight_decay : float
        Adam adds it to the gradient (L2), Muon shrinks the weights by it (decoupled).

    Returns
    -------
    torch.optim.Optimizer
        The optimizer.
    """
    parameters = chain.from_iterable(network.parameters() for network in networks)
    if name == "muon":
        return Muon(parameters, learning_rate, betas, weight_decay)
    # Fused: one pass through memory, a third of the time on a CPU.
    return torch.optim.Adam(parameters, learning_rate, betas, weight_decay=weight_decay, fused=True)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for convolution kernels and matrices, Adam for all other parameters.

    Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. A kernel is treated as
    the matrix (outputs, inputs · height · width). An orthogonal step moves all its singular directions equally, so
    that weak ones learn from few steps too. As published, parameters with few rows or columns (first and last
    layers, biases) are left to Adam. The step has the root mean square of Adam's (Liu et al. 2025, "Muon is
    scalable for LLM training"), so that one learning rate serves both.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Parameters to train.
    lr : float
        Learning rate.
    betas : tuple of float
        Decay rates of Adam's running means.
    weight_decay : float
        Decoupled: weights shrink by ``lr · weight_decay`` in each step.
    momentum : float
        Decay rate of the running mean of gradients, with Nesterov look-ahead.
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
        """Update every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                direction = _muon_direction if _is_matrix(parameter) else _adam_direction
                parameter.add_(direction(parameter.grad, self.state[parameter], group), alpha=-group["lr"])
        return loss


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= 16


def _muon_direction(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    mean = _running_mean(state, "mean", gradient).lerp_(gradient, 1 - group["momentum"])
    ahead = gradient.lerp(mean, group["momentum"]).flatten(1)
    return (orthogonalize(ahead) * 0.2 * math.sqrt(max(ahead.shape))).view(gradient.shape)


def _adam_direction(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Kingma & Ba 2015, algorithm 1, ε = 1e-8."""
    state["steps"] = state.get("steps", 0) + 1
    first, second = group["betas"]
    mean = _running_mean(state, "mean", gradient).lerp_(gradient, 1 - first)
    square = _running_mean(state, "square", gradient).mul_(second).addcmul_(gradient, gradient, value=1 - second)
    spread = (square / (1 - second ** state["steps"])).sqrt_().add_(1e-8)
    return mean / (1 - first ** state["steps"]) / spread


def _running_mean(state: dict[str, Any], name: str, like: Tensor) -> Tensor:
    """Return a running mean of the optimizer's state; it begins with zeros."""
    if name not in state:
        state[name] = torch.zeros_like(like)
    mean: Tensor = state[name]
    return mean


def orthogonalize(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Return nearly the nearest orthogonal matrix: U·Vᵀ of the singular value decomposition U·S·Vᵀ.

    Five Newton–Schulz iterations leave singular values between about 0.7 and 1.2, which is sufficient. All of them
    are polynomials of the small square M·Mᵀ, so they run on it, and the matrix is multiplied only once. The square
    needs float32, which is also faster than bfloat16 on a CPU without instructions for it.

    Parameters
    ----------
    matrix : Tensor, shape (rows, columns)
        Any matrix.
    iterations : int
        Newton–Schulz iterations.

    Returns
    -------
    Tensor, shape (rows, columns)
        Of the type of ``matrix``; zeros for zeros.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalize(matrix.T, iterations).T  # the smaller square costs less
    a, b, c = _QUINTIC
    unit = matrix.float() / matrix.norm().clamp(min=1e-20)
    square = unit @ unit.T
    identity = torch.eye(len(square), device=square.device)
    factor = identity
    for _ in range(iterations):
        step = torch.addmm(a * identity + b * square, square, square, alpha=c)
        factor = step @ factor
        square = step @ square @ step
    return (factor @ unit).to(matrix.dtype)
