"""How long the stages of denoising take: reading, the network, blending, writing."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class StageTimes:
    """Seconds in each stage. Stages run side by side, so that their sum exceeds the elapsed time.

    Each stage is to be timed in one thread only.

    Examples
    --------
    >>> times = StageTimes()
    >>> times.timed("read", len)([1, 2])
    2
    >>> list(times.seconds)
    ['read']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, stage: str, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap a function so that the time of each call counts as a stage's."""

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin

        return run

    def __str__(self) -> str:
        """Return the stages and their seconds, as in ``read 0.4 s, network 12.1 s``."""
        return ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.seconds.items())
