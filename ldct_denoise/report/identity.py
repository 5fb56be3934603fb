"""Identity of a report: when, on which series, with which model, by whom; and its title, which no other has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ldct_denoise.io.derived.derivation import stated_model
from ldct_denoise.report.versions import versions
from ldct_denoise.volume import SliceSource

if TYPE_CHECKING:
    from ldct_denoise.evaluation.results import Evaluation

UNKNOWN = "not stated in the files"
#: Largest number of series, and of models, that a title or a row names.
MAX_NAMED = 4
Fact = tuple[str, str]


@dataclass(frozen=True)
class Signature:
    """Who is responsible for a report.

    Parameters
    ----------
    author, site : str
        Shown if given.
    """

    author: str = ""
    site: str = ""


NO_SIGNATURE = Signature()


@dataclass(frozen=True)
class Identity:
    """Facts that distinguish a report from all others.

    Parameters
    ----------
    kind : str
        First words of the title, such as "Denoising report".
    subject : str
        The measured images; the rest of the title.
    facts : sequence of (str, str)
        Further rows of the block.
    signature : Signature
    created : datetime
        Local time.
    """

    kind: str
    subject: str
    facts: Sequence[Fact] = ()
    signature: Signature = NO_SIGNATURE
    created: datetime = field(default_factory=lambda: datetime.now().astimezone())

    @property
    def title(self) -> str:
        """Kind, subject and time, to the second."""
        return f"{self.kind}: {self.subject}, {self.created:%Y-%m-%d %H:%M:%S}"

    @property
    def rows(self) -> list[Fact]:
        """The block, a name and a value a row."""
        signed = [("author", self.signature.author), ("site", self.signature.site)]
        return [
            ("created", f"{self.created:%Y-%m-%d %H:%M:%S %z}"),
            *(fact for fact in signed if fact[1]),
            *self.facts,
            ("versions", versions()),
        ]


def series_code(uid: str) -> str:
    """Pseudonym of a series: six hexadecimal digits that depend on its UID alone."""
    return hashlib.sha256(uid.encode()).hexdigest()[:6]


def model_facts(name: str, checksum: str = "", amount: str = "") -> list[Fact]:
    """Rows of a model: its name with strength or noise reduction, and its SHA-256.

    Parameters
    ----------
    name, checksum : str
    amount : str
        Strength or noise reduction, in words.

    Returns
    -------
    list of (str, str)
    """
    return [
        ("model", ", ".join(part for part in (name, amount) if part)),
        ("model SHA-256", checksum or "none: a method without training"),
    ]


def stated_model_facts(candidates: Sequence[SliceSource]) -> list[Fact]:
    """Rows of the model that derived series state in their headers."""
    stated = [stated_model(source.metadata.derivation) for source in candidates]
    known = list(dict.fromkeys(model for model in stated if model))
    if not known:
        return [("model", UNKNOWN)]
    return [fact for model in known for fact in model_facts(model.name, model.checksum, model.amount)]


def series_facts(
    sources: Sequence[SliceSource],
    names: Mapping[str, str] | None = None,
    scanned: Sequence[SliceSource] | None = None,
) -> list[Fact]:
    """Rows of the measured series; equal values are listed once.

    Parameters
    ----------
    sources : sequence of SliceSource
        Inputs of the denoiser.
    names : mapping from UID to str, optional
        Names of the series in the report, written before their codes.
    scanned : sequence of SliceSource, optional
        Series that state the scanner, where ``sources`` were simulated from them.

    Returns
    -------
    list of (str, str)
    """
    named = names or {}
    labels = [f"{named.get(source.uid, '')} {series_code(source.uid)}".strip() for source in sources]
    return [
        ("series", _some(labels)),
        ("scanner", _distinct(scanned or sources, _scanner)),
        ("kernel", _distinct(sources, lambda source: source.metadata.kernel)),
        ("slice thickness", _distinct(sources, _thickness)),
    ]


def dose_facts(doses: Mapping[str, Sequence[SliceSource]]) -> list[Fact]:
    """Row with the tube current–time product, or the current, of each image; its name is the key."""
    texts = [f"{name} {_distinct(sources, dose_text)}" for name, sources in doses.items() if sources]
    return [("dose", "; ".join(texts))] if texts else []


def dose_text(source: SliceSource) -> str:
    """Mean tube current–time product of the slices, or the mean tube current; empty if it is not stated."""
    currents = [value for value in source.metadata.tube_current_ma if value]
    if not currents:
        return ""
    mean_ma, mas_per_ma = sum(currents) / len(currents), source.metadata.mas_per_ma
    return f"{mean_ma * mas_per_ma:.0f} effective mAs" if mas_per_ma else f"{mean_ma:.0f} mA"


def subject_of(sources: Sequence[SliceSource], model: str = "") -> str:
    """Subject of a title: the model, and the codes of the series."""
    codes = [series_code(source.uid) for source in sources]
    series = f"series {codes[0]}" if len(codes) == 1 else f"{len(codes)} series ({_some(codes)})"
    return f"{model} on {series}" if model else series


def evaluation_identity(
    evaluation: Evaluation, kind: str, names: Mapping[str, str], signature: Signature = NO_SIGNATURE
) -> Identity:
    """Identity of the report of an evaluation or comparison.

    Parameters
    ----------
    evaluation : Evaluation
    kind : str
        First words of the title.
    names : mapping from series to str
        Names of the series in the report.
    signature : Signature

    Returns
    -------
    Identity
    """
    references = [case.reference for case in evaluation.cases]
    inputs = [case.images["input"] for case in evaluation.cases if "input" in case.images]
    named = {case.reference.uid: names[case.series] for case in evaluation.cases}
    named |= {case.images["input"].uid: names[case.series] for case in evaluation.cases if "input" in case.images}
    facts = series_facts(inputs or references, named, references)
    facts += dose_facts({"input": inputs, "reference": references})
    entries: Any = evaluation.extra.get("models")
    if entries:
        models = list(entries)
        for label, entry in entries.items():
            facts += model_facts(label, entry.get("checksum") or "")
    else:
        candidates = [
            source for case in evaluation.cases for name, source in case.images.items() if name != "input"
        ]
        facts += stated_model_facts(candidates)
        models = list(dict.fromkeys(value for name, value in facts if name == "model" and value != UNKNOWN))
    firsts = [
        next((source for name, source in case.images.items() if name != "input"), None)
        for case in evaluation.cases
    ]
    measured = [
        case.reference if entries or first is None else first
        for case, first in zip(evaluation.cases, firsts, strict=True)
    ]
    return Identity(kind, subject_of(measured, _some(models)), facts, signature)


def _scanner(source: SliceSource) -> str:
    metadata = source.metadata
    voltage = f"{metadata.kvp:g} kV" if metadata.kvp else ""
    device = " ".join(part for part in (metadata.manufacturer, metadata.scanner_model) if part)
    return ", ".join(part for part in (device, voltage) if part)


def _thickness(source: SliceSource) -> str:
    thickness_mm = source.metadata.slice_thickness_mm
    return f"{thickness_mm:g} mm" if thickness_mm else ""


def _distinct(sources: Sequence[SliceSource], text: Callable[[SliceSource], str]) -> str:
    return _some(list(dict.fromkeys(text(source) or UNKNOWN for source in sources)))


def _some(texts: Iterable[str]) -> str:
    """The texts in one line; those that are too many are counted."""
    every = list(texts)
    more = f" and {len(every) - MAX_NAMED} more" if len(every) > MAX_NAMED else ""
    return ", ".join(every[:MAX_NAMED]) + more
