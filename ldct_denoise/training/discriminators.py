"""Monitor of adversarial training: are the discriminators still deceived?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class DiscriminatorMonitor:
    """Running mean of each discriminator's loss, relative to an undecided one: 1 undecided, 0 never deceived.

    Parameters
    ----------
    adversarial_loss : {"least_squares", "bce"}
        A discriminator that always answers ½ has the loss ¼ (least squares) or ln 2 (binary cross-entropy).
    """

    #: Weight of a new loss in the running mean.
    UPDATE_RATE = 0.05
    #: Steps before warnings are given.
    WARM_UP_STEPS = 40
    #: Losses with this prefix are discriminator losses.
    PREFIX = "discriminator_"

    def __init__(self, adversarial_loss: str = "least_squares") -> None:
        self._undecided = math.log(2) if adversarial_loss == "bce" else 0.25
        self._means: dict[str, Tensor] = {}
        self._steps = 0

    def update(self, losses: Mapping[str, Tensor]) -> None:
        """Take the losses of one step into account; other losses than those of discriminators are ignored."""
        found = {name: loss for name, loss in losses.items() if name.startswith(self.PREFIX)}
        self._steps += bool(found)
        for name, loss in found.items():
            mean = self._means.get(name, loss)
            self._means[name] = mean + self.UPDATE_RATE * (loss - mean)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"means": self._means, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore the state from a checkpoint; one without it leaves the monitor as it is."""
        self._means = {name: mean.to(device) for name, mean in state.get("means", self._means).items()}
        self._steps = state.get("steps", self._steps)

    def balance(self) -> dict[str, float]:
        """Running mean of each loss divided by the loss of an undecided discriminator."""
        return {name: float(mean) / self._undecided for name, mean in self._means.items()}

    def warnings(self) -> list[str]:
        """Early signs that the adversarial training collapses."""
        if self._steps < self.WARM_UP_STEPS:
            return []
        return [
            f"{name} is never deceived (loss {value:.0%} of an undecided discriminator's): the GAN is collapsing; "
            "lower settings.weights.adversarial or the learning rate"
            for name, value in self.balance().items()
            if value < 0.1
        ]
