"""Progress of a training run, as the loop reports it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Parameters
    ----------
    step : int
        Steps done in this stage.
    steps : int
        Steps of this stage.
    seconds : float
        Training time so far, over all parts of a resumed run.
    losses : mapping of str to float
        Losses of this step, where it is one that is logged.
    message : str
        A note, a warning or validation metrics; otherwise empty.
    stage : str
        Stage of a run with several, such as ``stage 1 of 2``; otherwise empty.
    activity : str
        What is being done, such as ``measuring noise``.
    validation : mapping of str to float
        Metrics of a validation, with its summary as ``message``.
    """

    step: int
    steps: int
    seconds: float
    losses: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    stage: str = ""
    activity: str = "training"
    validation: Mapping[str, float] = field(default_factory=dict)


#: Receives the progress.
Report = Callable[[Progress], None]
