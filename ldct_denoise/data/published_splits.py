"""Splits by patient: those of published work by name, and files of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ldct_denoise.data.folds import read_splits
from ldct_denoise.errors import ConfigError


@dataclass(frozen=True)
class PatientSplit:
    """Which patients train, validate and are tested.

    Parameters
    ----------
    train, validation, test : frozenset of str
        Patients.
    source : str
        Where the split is from.
    """

    train: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]
    source: str


def _split(source: str, train: str, validation: str, test: str) -> PatientSplit:
    return PatientSplit(frozenset(train.split()), frozenset(validation.split()), frozenset(test.split()), source)


#: Splits of published work.
PUBLISHED: Mapping[str, PatientSplit] = {
    "mayo2016-l506": _split(
        "2016 Low Dose CT Grand Challenge, ten patients; test patient of SSinyu/RED-CNN and of work that compares "
        "with it",
        train="L067 L096 L109 L143 L192 L286 L291 L310 L333",
        validation="",
        test="L506",
    ),
    "ldct-benchmark": _split(
        "Eulig et al. 2024, ldctbench/data/info.yml of eeulig/ldct-benchmark: 150 patients of TCIA's "
        "LDCT-and-Projection-data",
        train=(
            "C002 C004 C012 C016 C021 C027 C030 C050 C077 C081 C095 C099 C111 C120 C124 C128 C130 C158 "
            "C160 C162 C166 C179 C193 C203 C218 C224 C234 C241 C246 C252 C257 C261 C267 C268 C296 L004 "
            "L019 L049 L056 L057 L064 L071 L072 L075 L081 L110 L114 L116 L125 L131 L134 L145 L148 L150 "
            "L160 L170 L175 L178 L203 L209 L210 L219 L229 L232 L237 L248 L266 L273 L277 L299 N005 N012 "
            "N030 N051 N053 N072 N076 N082 N085 N100 N105 N113 N127 N132 N140 N141 N156 N160 N169 N175 "
            "N177 N180 N181 N187 N190 N202 N204 N209 N216 N236 N264 N265 N270 N293 N298"
        ),
        validation=(
            "C052 C067 C107 C190 C202 C219 C227 C232 C258 C295 L014 L033 L058 L077 L123 L179 L186 L187 "
            "L193 L212 N024 N047 N056 N079 N139 N188 N198 N252 N279 N300"
        ),
        test="C121 C135 C170 C249 C280 L006 L107 L220 L221 L241 N090 N138 N153 N176 N284",
    ),
}


def load_split(name_or_file: str, fold: int = 0) -> PatientSplit:
    """Load a published split, or a file.

    Parameters
    ----------
    name_or_file : str
        A name of :data:`PUBLISHED`, or a JSON file in the form of nnU-Net's ``splits_final.json``, which ``train
        --folds`` also leaves in a run folder.
    fold : int
        Fold of a file, from 0; its ``val`` patients validate, and are those that ``compare`` tests.

    Returns
    -------
    PatientSplit

    Raises
    ------
    ConfigError
        If it is neither a name nor a file, or has no such fold.
    InputError
        If the file cannot be read.

    Examples
    --------
    >>> [len(part) for part in (load_split("ldct-benchmark").train, load_split("ldct-benchmark").test)]
    [105, 15]
    """
    if name_or_file in PUBLISHED:
        if fold:
            raise ConfigError(f"data.split {name_or_file}: has no folds; leave out data.fold")
        return PUBLISHED[name_or_file]
    path = Path(name_or_file)
    if not path.is_file():
        raise ConfigError(f"data.split {name_or_file!r}: no such file, nor one of {', '.join(PUBLISHED)}")
    folds = read_splits(path)
    if fold >= len(folds):
        raise ConfigError(f"{path}: has {len(folds)} folds; give data.fold of 0 to {len(folds) - 1}")
    chosen = folds[fold]
    held_out = frozenset(chosen["val"])
    return PatientSplit(frozenset(chosen["train"]), held_out, held_out, str(path))
