"""Blinded reading: its key, the ratings of readers, and their summary."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ldct_denoise.errors import InputError
from ldct_denoise.metrics.statistics import Interval, PatientStatistics, weighted_kappa
from ldct_denoise.output import atomic_write

#: What a reader compares, by its name in files. Every criterion is rated in favour of A or of B.
CRITERIA = {
    "noise": "Noise",
    "texture": "Noise texture",
    "sharpness": "Sharpness",
    "artefacts": "Artefacts",
    "confidence": "Diagnostic confidence",
    "preference": "Overall preference",
}
#: Scores of a criterion, from "A is clearly better" to "B is clearly better".
SCORES = {
    -2: "A clearly better",
    -1: "A slightly better",
    0: "equal",
    1: "B slightly better",
    2: "B clearly better",
}


@dataclass(frozen=True)
class Reading:
    """One pair that is read.

    Parameters
    ----------
    case : int
        Number of the pair of series, from 1.
    slice_index : int
        Slice of the first series of this case.
    swapped : bool
        Whether the second series is shown as A.
    """

    case: int
    slice_index: int
    swapped: bool


@dataclass(frozen=True)
class Ratings:
    """Scores that one reader gave, as seen on the page.

    Parameters
    ----------
    reader : str
        Name of the reader.
    scores : dict from int to dict
        By the number of the reading, from 1: score (−2 to 2, positive in favour of B) of each rated criterion.
    """

    reader: str
    scores: dict[int, dict[str, int]]


@dataclass(frozen=True)
class ReadingKey:
    """Key of a blinded reading: which series is A in which reading, to be kept from the readers.

    Parameters
    ----------
    session : str
        Identifies the page, and the ratings that belong to it.
    names : tuple of 2 str
        Names of the two kinds of series.
    readings : tuple of Reading
        In the order of the page.
    """

    session: str
    names: tuple[str, str]
    readings: tuple[Reading, ...]

    def write(self, path: Path) -> None:
        """Write the key as JSON. Keep it from the readers."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, path: Path) -> ReadingKey:
        """Read a key that :meth:`write` wrote.

        Raises
        ------
        InputError
            If the file is not a key.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            first, second = content["names"]
            readings = tuple(Reading(**item) for item in content["readings"])
            return cls(content["session"], (first, second), readings)
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}: not the key of a blinded reading; give the file that was written with the page"
            ) from None

    def read_ratings(self, path: Path) -> Ratings:
        """Read the ratings that a page exported.

        Parameters
        ----------
        path : Path
            CSV file with the columns session, reader, reading and one for each of :data:`CRITERIA`; what is not
            rated is empty.

        Returns
        -------
        Ratings

        Raises
        ------
        InputError
            If the file is not such an export, is damaged, or belongs to another session.
        """
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, restval=""))
        wanted = ["session", "reader", "reading", *CRITERIA]
        if not rows or any(name not in rows[0] for name in wanted):
            raise InputError(f"{path}: not the ratings of a blinded reading; the columns are {', '.join(wanted)}")
        scores: dict[int, dict[str, int]] = {}
        for row in rows:
            if row["session"] != self.session:
                raise InputError(
                    f"{path}: belongs to session {row['session']}, not to {self.session}; use its own key"
                )
            number = int(row["reading"]) if row["reading"].isdigit() else 0
            if not 1 <= number <= len(self.readings) or number in scores:
                raise InputError(
                    f"{path}: reading {row['reading']!r} occurs twice or is not among the {len(self.readings)} of "
                    "this session; export the ratings again"
                )
            scores[number] = {name: _score(row[name], path) for name in CRITERIA if row[name]}
        readers = sorted({row["reader"].strip() for row in rows})
        if len(readers) != 1 or not readers[0]:
            raise InputError(f"{path}: has the ratings of {len(readers)} readers; give one file for each reader")
        return Ratings(readers[0], scores)

    def unblinded(self, ratings: Ratings) -> list[dict[str, object]]:
        """One row a rating: reader, reading, case, slice, criterion, score and the series that is better.

        Parameters
        ----------
        ratings : Ratings

        Returns
        -------
        list of dict
            ``score`` is positive where the second series is better; ``better`` is its name, or ``equal``.
        """
        rows: list[dict[str, object]] = []
        for number, given in sorted(ratings.scores.items()):
            reading = self.readings[number - 1]
            for criterion, seen in given.items():
                score = -seen if reading.swapped else seen
                better = "equal" if score == 0 else self.names[score > 0]
                rows.append(
                    {
                        "reader": ratings.reader, "reading": number, "case": reading.case,
                        "slice": reading.slice_index, "criterion": criterion, "score": score, "better": better,
                    }
                )  # fmt: skip
        return rows


@dataclass(frozen=True)
class CriterionSummary:
    """Result for one criterion, over all readers.

    Parameters
    ----------
    criterion : str
    first, equal, second : float
        Fraction of the ratings that prefer the first series, none, or the second.
    score : Interval
        Mean score, −2 to 2, positive where the second series is better. The readers' scores of a reading are
        averaged first; each case has the same weight.
    n_ratings, n_readings, n_cases : int
    kappa : float or None
        Mean over all pairs of readers of Cohen's kappa with quadratic weights; None with a single reader.
    same : float or None
        Fraction of readings that two readers gave the same score; mean over all pairs of readers.
    """

    criterion: str
    first: float
    equal: float
    second: float
    score: Interval
    n_ratings: int
    n_readings: int
    n_cases: int
    kappa: float | None
    same: float | None


@dataclass(frozen=True)
class ReaderStudy:
    """Ratings of all readers, with their key.

    Parameters
    ----------
    key : ReadingKey
    ratings : sequence of Ratings
        One for each reader.

    Raises
    ------
    InputError
        If there are no ratings, or two files name the same reader.
    """

    key: ReadingKey
    ratings: Sequence[Ratings]

    def __post_init__(self) -> None:
        readers = [one.reader for one in self.ratings]
        twice = sorted({name for name in readers if readers.count(name) > 1})
        if twice:
            raise InputError(f"ratings: two files of the reader {', '.join(twice)}; give one file for each reader")
        if not any(given for one in self.ratings for given in one.scores.values()):
            raise InputError("ratings: nothing was rated; give the files that the readers exported")

    @classmethod
    def read(cls, key: Path, ratings: Sequence[Path]) -> ReaderStudy:
        """Read the key and the files that the readers exported.

        Raises
        ------
        InputError
            If a file is not what it should be, belongs to another session, or a reader occurs twice.
        """
        opened = ReadingKey.read(key)
        return cls(opened, [opened.read_ratings(path) for path in ratings])

    def rows(self) -> list[dict[str, object]]:
        """Unblinded ratings of all readers; see :meth:`ReadingKey.unblinded`."""
        return [row for one in self.ratings for row in self.key.unblinded(one)]

    def write_csv(self, path: Path) -> None:
        """Write :meth:`rows` as CSV."""
        rows = self.rows()

        def write(part: Path) -> None:
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)

        atomic_write(path, write)

    def summary(self) -> list[CriterionSummary]:
        """Result of each criterion that was rated."""
        rows = self.rows()
        return [
            self._summarise(criterion, [row for row in rows if row["criterion"] == criterion])
            for criterion in CRITERIA
            if any(row["criterion"] == criterion for row in rows)
        ]

    def _summarise(self, criterion: str, rows: list[dict[str, object]]) -> CriterionSummary:
        by_reading: dict[int, list[int]] = {}
        for row in rows:
            by_reading.setdefault(int(str(row["reading"])), []).append(int(str(row["score"])))
        # Slices of a case stand in their order, as the correlation of neighbours needs it.
        numbers = sorted(
            by_reading, key=lambda n: (self.key.readings[n - 1].case, self.key.readings[n - 1].slice_index)
        )
        cases = [str(self.key.readings[number - 1].case) for number in numbers]
        scores = np.array([int(str(row["score"])) for row in rows])
        kappa, same = self._agreement(criterion)
        return CriterionSummary(
            criterion,
            float(np.mean(scores < 0)),
            float(np.mean(scores == 0)),
            float(np.mean(scores > 0)),
            PatientStatistics(cases).interval([float(np.mean(by_reading[number])) for number in numbers]),
            len(rows),
            len(numbers),
            len(set(cases)),
            kappa,
            same,
        )

    def _agreement(self, criterion: str) -> tuple[float | None, float | None]:
        """Kappa and share of equal scores, as seen: A and B are in random order, so chance favours neither."""
        kappas, shares = [], []
        for one, other in combinations(self.ratings, 2):
            both = [
                (one.scores[number][criterion], other.scores[number][criterion])
                for number in sorted(one.scores.keys() & other.scores.keys())
                if criterion in one.scores[number] and criterion in other.scores[number]
            ]
            if both:
                shares.append(float(np.mean([first == second for first, second in both])))
                kappas.append(weighted_kappa(*zip(*both, strict=True)))
        if not shares:
            return None, None
        kappa = float(np.mean(kappas))
        return (kappa if np.isfinite(kappa) else None), float(np.mean(shares))

    def lines(self) -> list[str]:
        """Summary in words, a line for each criterion."""
        first, second = self.key.names
        lines = [
            f"readers: {len(self.ratings)}; scores from −2 ({first} clearly better) to 2 ({second} clearly better)"
        ]
        for one in self.summary():
            counts = f"{one.n_readings} readings of {one.n_cases} case{'s' if one.n_cases > 1 else ''}"
            shares = f"{second} better {one.second:.0%}, equal {one.equal:.0%}, {first} better {one.first:.0%}"
            lines.append(f"{one.criterion}: {_score_words(one.score)}; {shares}; {counts}{_agreement_words(one)}")
        return lines


def _score(text: str, path: Path) -> int:
    if text not in {str(score) for score in SCORES}:
        raise InputError(f"{path}: score {text!r}; scores are whole numbers from -2 to 2")
    return int(text)


def _score_words(score: Interval) -> str:
    if not np.isfinite(score.low):
        return f"mean {score.mean:+.2f} (no interval: fewer than 3 cases, and too few slices)"
    meaning = "" if score.describes == "patients" else ", for these cases only"
    return f"mean {score.mean:+.2f} (95 % {score.low:+.2f} to {score.high:+.2f}{meaning})"


def _agreement_words(one: CriterionSummary) -> str:
    if one.same is None:
        return ""
    kappa = "not defined" if one.kappa is None else f"{one.kappa:.2f}"
    return f"; readers agree in {one.same:.0%}, kappa {kappa}"
