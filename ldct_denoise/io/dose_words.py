"""The words that name a dose, and how names of files, folders and series are read with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from ldct_denoise.errors import ConfigError
from ldct_denoise.io.volume_files import VOLUME_SUFFIXES


class Dose(StrEnum):
    """Dose label of a series."""

    LOW = "low"
    NORMAL = "normal"
    UNKNOWN = "unknown"


def word_set(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


#: Words that name a dose together with the word "dose" ("low dose", "dose_low", "LowDose"), wherever they stand.
DOSE_ADJECTIVES = {
    Dose.LOW: ("low", "ultralow", "quarter", "half", "third", "fifth", "eighth", "tenth", "reduced"),
    Dose.NORMAL: ("full", "normal", "routine", "standard", "high", "regular"),
}
#: Words that name a dose wherever they stand.
DOSE_TERMS = {
    Dose.LOW: ("ldct", "uldct", "qdct"),
    Dose.NORMAL: ("hdct", "ndct", "fdct"),
}
#: Words that name a dose in the name of a file or folder. Neighbours change the meaning of those in
#: :data:`AMBIGUOUS_WORDS`; in a description, every other word must be in :data:`NEUTRAL_WORDS`.
DOSE_WORDS = {
    Dose.LOW: ("low", "quarter", "half", "ld", "qd", "noisy", "input"),
    Dose.NORMAL: ("full", "normal", "routine", "high", "fd", "hd", "nd", "clean", "target"),
}
#: Words that have other meanings too.
AMBIGUOUS_WORDS = word_set("clean fd full half hd high input low nd normal routine target")
#: Abbreviations: nothing but a number may be attached to them, so that the letters of a hash are no dose.
ABBREVIATIONS = word_set("fd hd ld nd qd")
#: Words that do not count in the name of the folder that is searched: tools and users name folders so.
ROLE_WORDS = word_set("clean input noisy target")
#: Body parts: "Full Spine", "Abdomen Normal".
ANATOMY_WORDS = word_set(
    "abd abdomen abdominal anatomy ankle aorta arm artery back bladder body bone bones bowel brain breast "
    "cardiac cervical chest colon coronary dental ear elbow extremity face facial femur foot hand head "
    "heart hip jaw kidney kidneys knee larynx leg legs limb liver lumbar lung lungs mandible neck orbit "
    "orbits organ pancreas pelvic pelvis prostate rib ribs sacrum shoulder sinus sinuses skeleton skull "
    "spine spleen temporal thoracic thorax tissue torso trunk uterus vessel vessels wrist"
)
#: Words that "low", "normal", "full" … describe in other meanings: "low_contrast", "low kV", "low pitch".
OTHER_NOUNS = word_set(
    "activity attenuation breath breathing calcium chromatic collimation concentration condition "
    "contrast control controls current dataset definition density detail energies energy enhancement "
    "expiration extent field flow focus fov freq frequency grade healthy height inspiration intensity "
    "iodine kev kv kvp length level ma mas matrix motion ms noise pass phase pitch position power "
    "pressure quality radiation range rate res resolution risk rotation saline score sensitivity "
    "signal size snr spatial speed subject subjects temperature tesla time tube variant view "
    "voltage weight width window"
)
#: Nouns that only some of the words describe in another meaning: half scan, target reconstruction.
WORD_NOUNS = {
    "full": word_set("scan set text volume"),
    "half": word_set("scan life"),
    "target": word_set("lesion organ recon reconstruction roi"),
}
#: Words of a description that do not change the meaning of a dose word next to them.
NEUTRAL_WORDS = word_set(
    "axial cm ct data dose image images kernel mm recon reconstruction scan series sharp slice slices soft"
)
_RUN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_UNITS = word_set("kev kv kvp ma mas mgy msv")
#: Names of public collections, which hold both doses.
_COLLECTIONS = re.compile(
    r"LDCT[-_ ]and[-_ ]Projection[-_ ]data|Low[-_ ]?Dose[-_ ]CT[-_ ](Image[-_ ]and[-_ ]Projection|Grand)[-_ ]\w+",
    re.IGNORECASE,
)


class Token(NamedTuple):
    """A word or number of a name.

    Parameters
    ----------
    text : str
        In lower case.
    start, end : int
        Position in the name, characters.
    """

    text: str
    start: int
    end: int

    @property
    def is_number(self) -> bool:
        """Whether it is a number."""
        return self.text[0].isdigit()


class DoseWord(NamedTuple):
    """A word or phrase that names a dose.

    Parameters
    ----------
    dose : Dose
    start, end : int
        Its place in the name.
    is_certain : bool
        Whether it names the dose whatever the neighbouring words are.
    pattern : str
        The name with the word replaced by ``*`` where only a body part next to it makes it uncertain; else empty.
    """

    dose: Dose
    start: int
    end: int
    is_certain: bool = True
    pattern: str = ""


def tokens(text: str) -> list[Token]:
    """Split a name into words and numbers: ``QuarterDose_3mm`` is quarter, dose, 3, mm."""
    found = []
    for run in _RUN.finditer(text):
        cuts = [0, *(cut.start() for cut in _CAMEL_CASE.finditer(run.group())), len(run.group())]
        if run.group().lower() in _UNITS:
            cuts = [0, len(run.group())]
        for first, last in pairwise(cuts):
            start = run.start()
            found.append(Token(run.group()[first:last].lower(), start + first, start + last))
    return found


def dose_words(text: str, *, is_description: bool = False, is_root: bool = False) -> list[DoseWord]:
    """Words of a name that name a dose.

    Parameters
    ----------
    text : str
        Name of a file or folder, or a Series Description.
    is_description : bool
        Whether it is a description: words without "dose" count only next to neutral words.
    is_root : bool
        Whether it is the name of the folder that is searched.

    Returns
    -------
    list of DoseWord
        Phrases with the word dose and terms such as LDCT; where there is none, single words such as ``low``.
    """
    text = _COLLECTIONS.sub(lambda name: " " * len(name.group()), text)
    words = tokens(text)
    certain = [*_phrases(words), *_terms(words), *_fractions(words)]
    if certain:
        return certain
    if is_description and not {w.text for w in words if not _is_neutral(w)} <= _all_single_words():
        return []
    found = (_single_word(text, words, index) for index in range(len(words)))
    return [
        word
        for word in found
        if word is not None and not (is_root and text[word.start : word.end].lower() in ROLE_WORDS)
    ]


def dose_of(
    text: str, paired: frozenset[str] = frozenset(), *, is_description: bool = False, is_root: bool = False
) -> Dose:
    """Dose that a name states.

    Parameters
    ----------
    text : str
        Name of a file or folder, or a Series Description.
    paired : frozenset of str
        Patterns of names that exist with words of both doses (:func:`paired_patterns`).
    is_description, is_root : bool
        As for :func:`dose_words`.

    Returns
    -------
    Dose
        ``UNKNOWN`` where the name states none, or both.
    """
    found = dose_words(text, is_description=is_description, is_root=is_root)
    doses = {word.dose for word in found if word.is_certain or word.pattern in paired}
    return doses.pop() if len(doses) == 1 else Dose.UNKNOWN


def paired_patterns(names: Iterable[str]) -> frozenset[str]:
    """Patterns of names with a body part that exist for both doses, as ``chest_low`` and ``chest_full``."""
    doses: dict[str, set[Dose]] = {}
    for name in names:
        for word in dose_words(name):
            if word.pattern:
                doses.setdefault(word.pattern, set()).add(word.dose)
    return frozenset(pattern for pattern, both in doses.items() if len(both) == 2)


def without_dose(name: str) -> str:
    """Name of a folder or a volume file, without its suffix and the words for a dose."""
    stem = next((name[: -len(end)] for end in VOLUME_SUFFIXES if name.lower().endswith(end)), name)
    remaining = list(stem)
    for word in dose_words(stem):
        if word.is_certain or word.pattern:
            remaining[word.start : word.end] = [""] * (word.end - word.start)
    stem = "".join(remaining)
    return re.sub(r"([ _.-])[ _.-]+", r"\1", stem).strip(" _.-")


def has_dose(name: str) -> bool:
    """Whether the name of a folder contains a word for a dose."""
    return any(word.is_certain or word.pattern for word in dose_words(name))


def _all_single_words() -> frozenset[str]:
    return frozenset(word for words in DOSE_WORDS.values() for word in words)


def _is_neutral(token: Token) -> bool:
    return token.is_number or len(token.text) == 1 or token.text in NEUTRAL_WORDS


def _phrases(words: Sequence[Token]) -> Iterator[DoseWord]:
    """Find "low dose" and "lowdose", and "dose low" at the end of a name or before a number."""
    for dose, adjectives in DOSE_ADJECTIVES.items():
        for index, (first, second) in enumerate(pairwise(words)):
            is_last = all(word.is_number for word in words[index + 2 : index + 3])
            if (first.text in adjectives and second.text == "dose") or (
                first.text == "dose" and second.text in adjectives and is_last
            ):
                yield DoseWord(dose, first.start, second.end)
        joined = {f"{adjective}dose{ct}" for adjective in adjectives for ct in ("", "ct")}
        yield from (DoseWord(dose, word.start, word.end) for word in words if word.text in joined)


def _terms(words: Sequence[Token]) -> Iterator[DoseWord]:
    for dose, terms in DOSE_TERMS.items():
        yield from (DoseWord(dose, word.start, word.end) for word in words if word.text in terms)


def _fractions(words: Sequence[Token]) -> Iterator[DoseWord]:
    """Find "dose_25", "25 % dose" and "dose0.25": percent from 5 to 100, or a fraction below 1."""
    for index, (first, second) in enumerate(pairwise(words)):
        if {first.is_number, second.is_number} != {True, False} or "dose" not in (first.text, second.text):
            continue
        if first.text == "dose" and index + 2 < len(words) and words[index + 2].text in _UNITS:
            continue
        value = float(first.text if first.is_number else second.text)
        if 0 < value < 1 or 5 <= value < 100:
            yield DoseWord(Dose.LOW, first.start, second.end)
        elif value == 100:
            yield DoseWord(Dose.NORMAL, first.start, second.end)


def _single_word(text: str, words: Sequence[Token], index: int) -> DoseWord | None:
    """The word at ``index`` as a word of :data:`DOSE_WORDS`; None where it has another meaning."""
    word = words[index]
    dose = next((dose for dose, single in DOSE_WORDS.items() if word.text in single), None)
    if dose is None or (word.text in ABBREVIATIONS and not _stands_alone(text, word)):
        return None
    if word.text not in AMBIGUOUS_WORDS:
        return DoseWord(dose, word.start, word.end)
    following = {*_neighbour(words[index + 1 :])}
    neighbours = following | {*_neighbour(words[:index][::-1])}
    if neighbours & OTHER_NOUNS or following & WORD_NOUNS.get(word.text, frozenset()):
        return None
    if neighbours & ANATOMY_WORDS:
        return DoseWord(dose, word.start, word.end, False, f"{text[: word.start]}*{text[word.end :]}".lower())
    return DoseWord(dose, word.start, word.end)


def _neighbour(words: Sequence[Token]) -> list[str]:
    """The nearest word, numbers aside."""
    return [word.text for word in words if not word.is_number][:1]


def _stands_alone(text: str, word: Token) -> bool:
    """Whether nothing but a number follows the word without a separator, and nothing precedes it."""
    before, after = text[: word.start], text[word.end :]
    return not re.search(r"[^\W_]$", before) and not re.match(r"\d*[^\W\d_]", after)


# A user's own words -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DosePatterns:
    """A user's own words for the doses; they are tried before everything else.

    Parameters
    ----------
    low, normal : tuple of str
        Words (``recon2``, "dose level 1"), which match whole words in any case, or regular expressions, which are
        searched in any case.

    Raises
    ------
    ConfigError
        If a regular expression is not valid.
    """

    low: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in (*self.low, *self.normal):
            _matcher(pattern)

    def match(self, text: str) -> tuple[Dose, str] | None:
        """Dose that a text states by the patterns, and the pattern; None where none or both match."""
        found = {
            dose: pattern
            for dose, patterns in ((Dose.LOW, self.low), (Dose.NORMAL, self.normal))
            for pattern in patterns
            if _matcher(pattern)(text)
        }
        return next(iter(found.items())) if len(found) == 1 else None


#: The words of this module alone.
DEFAULT_PATTERNS = DosePatterns()


def _matcher(pattern: str) -> Callable[[str], bool]:
    if re.fullmatch(r"[\w -]+", pattern):
        wanted = [token.text for token in tokens(pattern)]
        if wanted:
            return lambda text: _contains([token.text for token in tokens(text)], wanted)
    try:
        expression = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(f"pattern {pattern!r}: not a regular expression ({error})") from None
    if not pattern or expression.match(""):
        raise ConfigError(f"pattern {pattern!r}: matches every name; give a word or a regular expression")
    return lambda text: expression.search(text) is not None


def _contains(words: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(list(words[at : at + len(wanted)]) == list(wanted) for at in range(len(words)))
