"""Candidates of a comparison, their computing time, and the slices that they are measured on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError
from ldct_denoise.evaluation.competitors import OTHERS, Competitor
from ldct_denoise.evaluation.measure import REFERENCE
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import Slices, restore_slices
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.volume import Geometry, SeriesMetadata, SeriesView


@dataclass(frozen=True)
class Candidate:
    """A model, or another competitor, that takes part in a comparison.

    Parameters
    ----------
    label : str
        Unique name in the tables; ends in ``-seed0``, ``-seed1``, … if a method runs with several seeds.
    name : str
        The label without the seed.
    model : Competitor
    seed : int
    """

    label: str
    name: str
    model: Competitor
    seed: int = 0

    def restore(self, pair: Pair, settings: ApplySettings, indices: Sequence[int]) -> Slices:
        """Restore low-dose slices of a pair.

        Parameters
        ----------
        pair : Pair
        settings : ApplySettings
        indices : sequence of int
            Low-dose slices, in this order.

        Returns
        -------
        iterator of (int, ndarray)
            Index and restored slice, HU.
        """
        seeded = replace(settings, seed=self.seed)
        if isinstance(self.model, TrainedModel):
            return restore_slices(pair.low, self.model, seeded, indices)
        return self.model.restore(pair, seeded, indices)


@dataclass
class Timer:
    """Computing time of every candidate, in seconds, and the number of slices."""

    seconds: dict[str, float] = field(default_factory=dict)
    slices: dict[str, int] = field(default_factory=dict)

    def per_slice(self) -> dict[str, float]:
        """Mean seconds per slice, by candidate.

        A mean is needed: slices are restored in batches, so the first of a batch takes all the time.
        """
        return {label: seconds / self.slices[label] for label, seconds in self.seconds.items()}

    def timed(self, label: str, items: Iterator[tuple[int, NDArray[np.float32]]]) -> Iterator[NDArray[np.float32]]:
        """The images of an iterator of (index, image); the time each takes is added up under ``label``."""
        while True:
            start = time.perf_counter()
            item = next(items, None)
            if item is None:
                return
            self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - start
            self.slices[label] = self.slices.get(label, 0) + 1
            yield item[1]


@dataclass(frozen=True)
class SeriesSubset(SeriesView):
    """Some slices of a series, presented as a series.

    Parameters
    ----------
    source : SliceSource
    indices : sequence of int
        Slices of ``source``.
    """

    indices: Sequence[int]

    @property
    def geometry(self) -> Geometry:
        """Geometry of the subset."""
        return self.source.geometry.select(self.indices)

    @property
    def metadata(self) -> SeriesMetadata:
        """Metadata of the subset."""
        return self.source.metadata.select(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """One slice in HU."""
        return self.source.read_hu(self.indices[index])


@dataclass(frozen=True)
class DisplayedSlices(SeriesView):
    """The restored slices that the report shows; all others are measured and released."""

    hu: dict[int, NDArray[np.floating]] = field(default_factory=dict)

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """One of the displayed slices in HU."""
        return np.asarray(self.hu[index], dtype=np.float32)


def make_candidates(models: Sequence[Competitor], num_seeds: int) -> list[Candidate]:
    """Create a candidate with a unique label for every model and, for stochastic methods, every seed.

    Raises
    ------
    ConfigError
        If ``num_seeds`` is below 1 or no model is given.
    """
    if num_seeds < 1 or not models:
        raise ConfigError("compare needs at least one model, and --num-seeds of at least 1")
    candidates: list[Candidate] = []
    for model in models:
        used = {candidate.name for candidate in candidates} | {"input", REFERENCE}
        name, number = model.name, 2
        while name in used:
            name, number = f"{model.name}-{number}", number + 1
        if not isinstance(model, OTHERS) and model.method.is_random and num_seeds > 1:
            candidates += [Candidate(f"{name}-seed{seed}", name, model, seed) for seed in range(num_seeds)]
        else:
            candidates.append(Candidate(name, name, model))
    return candidates
