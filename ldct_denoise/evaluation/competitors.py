"""Competitors besides a model: images that were denoised elsewhere, a function, the models of several folds."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError, ModelError
from ldct_denoise.evaluation.training_overlap import TrainingOverlap, training_overlap
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import Slices, restore_slices
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.io.find import find_images
from ldct_denoise.io.orientation import oriented_like
from ldct_denoise.io.slice_matching import match_slices
from ldct_denoise.methods import import_file
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.volume import SliceSource

#: A function of one slice in HU, float32, shape (rows, columns), that returns the denoised slice in HU.
HuFunction = Callable[[NDArray[np.float32]], NDArray[np.floating]]


@dataclass(frozen=True)
class DenoisedImages:
    """Series that were denoised elsewhere.

    Parameters
    ----------
    name : str
        Name in the tables.
    series : tuple of SliceSource
        For every measured pair one that has all of its slice positions.
    """

    name: str
    series: tuple[SliceSource, ...]

    def restore(self, pair: Pair, settings: ApplySettings, indices: Sequence[int]) -> Slices:
        """Read the slices at the positions of low-dose slices.

        Parameters
        ----------
        pair : Pair
        settings : ApplySettings
        indices : sequence of int
            Low-dose slices, in this order.

        Yields
        ------
        int, ndarray
            Index and slice, HU.

        Raises
        ------
        InputError
            If no series, or more than one, has them.
        """
        source, places = self._find(pair, indices)
        for index in indices:
            yield index, source.read_hu(places[index])

    def _find(self, pair: Pair, indices: Sequence[int]) -> tuple[SliceSource, dict[int, int]]:
        fitting = []
        for source in self.series:
            oriented = oriented_like(source, pair.low.geometry)
            places = dict(match_slices(pair.low.geometry, oriented.geometry))
            if all(index in places for index in indices) and source.metadata.kernel in ("", pair.kernel):
                fitting.append((oriented, places))
        named = [item for item in fitting if item[0].patient == pair.patient]
        fitting = named or fitting
        if len(fitting) != 1:
            raise InputError(
                f"{self.name}: {len(fitting) or 'none'} of its {len(self.series)} series have the {len(indices)} "
                f"slice positions of patient {pair.patient!r}, kernel {pair.kernel!r}; there must be one"
            )
        return fitting[0]

    def overlap(self, pairs: Sequence[Pair]) -> TrainingOverlap:
        """Nothing is known of the training of what made these images."""
        return _unknown(pairs, "its images were made elsewhere")


@dataclass(frozen=True)
class FunctionOfSlices:
    """A Python function that denoises slices.

    Parameters
    ----------
    name : str
    function : callable
        Of one slice in HU, float32, shape (rows, columns); returns the denoised slice in HU.
    """

    name: str
    function: HuFunction

    def restore(self, pair: Pair, settings: ApplySettings, indices: Sequence[int]) -> Slices:
        """Call the function for every slice.

        Parameters
        ----------
        pair : Pair
        settings : ApplySettings
        indices : sequence of int
            Low-dose slices, in this order.

        Yields
        ------
        int, ndarray
            Index and restored slice, HU.

        Raises
        ------
        ModelError
            If it fails, or returns another shape or values that are not finite.
        """
        for index in indices:
            hu = pair.low.read_hu(index)
            try:
                restored = np.asarray(self.function(hu.copy()), np.float32)
            except Exception as error:  # the user's own code
                raise ModelError(f"{self.name}: failed ({type(error).__name__}: {error})") from error
            if restored.shape != hu.shape or not np.isfinite(restored).all():
                raise ModelError(
                    f"{self.name}: returned shape {restored.shape} for {hu.shape}, or values that are not finite; "
                    "it must return HU of the shape that it is given"
                )
            yield index, restored

    def overlap(self, pairs: Sequence[Pair]) -> TrainingOverlap:
        """Nothing is known of the training of a function."""
        return _unknown(pairs, "it is a function")


@dataclass(frozen=True)
class CrossValidation:
    """Models of several folds: each patient is denoised by one that was not trained on that patient.

    Parameters
    ----------
    name : str
    models : tuple of TrainedModel
    """

    name: str
    models: tuple[TrainedModel, ...]

    def restore(self, pair: Pair, settings: ApplySettings, indices: Sequence[int]) -> Slices:
        """Restore slices with the model of the fold that left the patient out.

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
        return restore_slices(pair.low, self.model_for(pair), settings, indices)

    def model_for(self, pair: Pair) -> TrainedModel:
        """The first model that was not trained on the patient; the first of all where every model was."""
        overlaps = [(model, training_overlap(model, [pair])) for model in self.models]
        unseen = [model for model, found in overlaps if not found.seen and not found.unknown]
        unseen += [model for model, found in overlaps if not found.seen]
        return (unseen or [model for model, _ in overlaps])[0]

    def overlap(self, pairs: Sequence[Pair]) -> TrainingOverlap:
        """Patients that every model was trained on, and those of whom it cannot be known of any."""
        found = [training_overlap(model, pairs) for model in self.models]
        seen = frozenset.intersection(*(one.seen for one in found))
        certain = frozenset().union(*({pair.patient for pair in pairs} - one.seen - one.unknown for one in found))
        unknown = frozenset(pair.patient for pair in pairs) - seen - certain
        reason = next((one.reason for one in found if one.reason), "") if unknown else ""
        return TrainingOverlap(seen, unknown, reason)


#: Competitors that are no model.
OTHERS = (DenoisedImages, FunctionOfSlices, CrossValidation)
Competitor = TrainedModel | DenoisedImages | FunctionOfSlices | CrossValidation


def overlap_of(competitor: Competitor, pairs: Sequence[Pair]) -> TrainingOverlap:
    """Patients of a comparison that a competitor was trained on."""
    if isinstance(competitor, TrainedModel):
        return training_overlap(competitor, pairs)
    return competitor.overlap(pairs)


def open_denoised(text: str, assume_hu: bool = False) -> DenoisedImages:
    """Open ``NAME=FOLDER`` with series that were denoised elsewhere.

    Parameters
    ----------
    text : str
    assume_hu : bool
        Take values for HU where header or values speak against it.

    Returns
    -------
    DenoisedImages

    Raises
    ------
    ConfigError
        If the text has another form.
    InputError
        If the folder holds no series.
    """
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise ConfigError(f"--series {text!r}: write NAME=FOLDER")
    series = find_images(Path(path), include_derived=True, assume_hu=assume_hu).series
    if not series:
        raise InputError(f"{path}: no series; `ldct-denoise inspect` tells why")
    return DenoisedImages(name, tuple(series))


def load_function(text: str) -> FunctionOfSlices:
    """Import ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``.

    Raises
    ------
    ConfigError
        If it cannot be imported or is no function.
    """
    where, _, name = text.rpartition(":")
    if not where or not name.isidentifier():
        raise ConfigError(f"--function {text!r}: write MODULE:FUNCTION or FILE.py:FUNCTION")
    try:
        if where.endswith(".py"):
            module = import_file(Path(where), f"ldct_denoise_function_{Path(where).stem}")
        else:
            module = importlib.import_module(where)
    except Exception as error:  # the user's own code
        raise ConfigError(f"--function {text}: cannot be imported ({type(error).__name__}: {error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"--function {text}: {where} has no function {name!r}")
    return FunctionOfSlices(name, function)


def load_folds(text: str, load: Callable[[str], TrainedModel]) -> CrossValidation:
    """Load ``NAME=RUN,RUN,…``, the models of several folds.

    Parameters
    ----------
    text : str
    load : callable
        Loads a model by its name or path.

    Returns
    -------
    CrossValidation

    Raises
    ------
    ConfigError
        If the text has another form.
    ModelError
        If a model cannot be loaded.
    """
    name, equals, paths = text.partition("=")
    models = tuple(load(path.strip()) for path in paths.split(",") if path.strip())
    if not equals or not name or len(models) < 2:
        raise ConfigError(
            f"--cross-validation {text!r}: write NAME=RUN,RUN,… with the models of at least two folds"
        )
    return CrossValidation(name, models)


def _unknown(pairs: Sequence[Pair], reason: str) -> TrainingOverlap:
    return TrainingOverlap(frozenset(), frozenset(pair.patient for pair in pairs), reason)
