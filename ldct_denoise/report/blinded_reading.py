"""Blinded reading: a page on which readers compare two kinds of series as A and B."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError, OutputError
from ldct_denoise.evaluation.reader_study import CRITERIA, SCORES, Reading, ReadingKey
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.orientation import oriented_like
from ldct_denoise.io.slice_matching import match_slices
from ldct_denoise.output import atomic_write
from ldct_denoise.report.interactive import Viewer
from ldct_denoise.report.page import render_template
from ldct_denoise.report.pictures import slice_view
from ldct_denoise.volume import SliceSource, spread_indices

Image = NDArray[np.floating]


class BlindedReading:
    """Blinded reading of pairs of slices: two kinds of series as A and B, pairs and sides in random order.

    Parameters
    ----------
    cases : sequence of (SliceSource, SliceSource)
        Pairs of series, paired by position; one pair for each patient. The first of each is the first kind.
    names : tuple of 2 str
        Names of the two kinds; not shown while reading.
    slices_per_case : int
        Number of slices of each case, spread over the positions that both series have.
    indices : sequence of sequences of int, optional
        For each case the slices of its first series to read, instead of ``slices_per_case``.
    seed : int, optional
        Seed of the order; by default drawn by the operating system, so that nobody can restore the key without
        its file.

    Raises
    ------
    InputError
        If a case has no common position, or its second series lacks the position of one of these slices.
    """

    def __init__(
        self,
        cases: Sequence[tuple[SliceSource, SliceSource]],
        names: tuple[str, str],
        *,
        slices_per_case: int = 12,
        indices: Sequence[Sequence[int]] | None = None,
        seed: int | None = None,
    ) -> None:
        self._cases = [(first, oriented_like(second, first.geometry)) for first, second in cases]
        self._partners = [dict(match_slices(first.geometry, second.geometry)) for first, second in self._cases]
        if indices is None:
            common = [sorted(partners) for partners in self._partners]
            indices = [
                [found[i] for i in spread_indices(len(found), slices_per_case)] if found else []
                for found in common
            ]
        self._check(indices)
        planned = [(case, index) for case, chosen in enumerate(indices) for index in chosen]
        self._seed = secrets.randbits(128) if seed is None else seed
        rng = np.random.default_rng(self._seed)
        order = rng.permutation(len(planned))
        # Each kind is A in half of the readings, so that a habit for one side favours neither.
        swapped = rng.permutation(np.arange(len(planned)) % 2 == 0)
        self._names = names
        self._readings = tuple(
            Reading(planned[number][0] + 1, int(planned[number][1]), bool(side))
            for number, side in zip(order, swapped, strict=True)
        )

    def _check(self, indices: Sequence[Sequence[int]]) -> None:
        if len(indices) != len(self._cases):
            raise InputError(
                f"blinded reading: {len(self._cases)} cases, slices of {len(indices)}; give slices of each case"
            )
        for number, (chosen, partners) in enumerate(zip(indices, self._partners, strict=True), 1):
            unmatched = [str(index) for index in chosen if index not in partners]
            if unmatched:
                raise InputError(
                    f"blinded reading: the second series of case {number} has no partner of slice "
                    f"{', '.join(unmatched)}; leave it out of the indices, or give series of the same scan"
                )
            if not chosen:
                raise InputError(
                    f"blinded reading: the series of case {number} have no slice position in common; give series "
                    "of the same scan"
                )

    def pair(self, number: int) -> dict[str, Image]:
        """The two images of a reading (from 1), named A and B, HU."""
        reading = self._readings[number - 1]
        first, second = self._cases[reading.case - 1]
        images = [first.read_hu(reading.slice_index)]
        images.append(second.read_hu(self._partners[reading.case - 1][reading.slice_index]))
        left, right = images[::-1] if reading.swapped else images
        return {"A": left, "B": right}

    @cached_property
    def key(self) -> ReadingKey:
        """The key; its session identifies images, order and sides, and tells nothing about them."""
        digest = hashlib.sha256(repr((self._seed, self._names, self._readings)).encode())
        for number in range(1, len(self._readings) + 1):
            for image in self.pair(number).values():
                digest.update(np.ascontiguousarray(image, dtype=np.float32).tobytes())
        return ReadingKey(digest.hexdigest()[:12], self._names, self._readings)

    def viewer(self, title: str = "Blinded reading", window: Window = WINDOWS["abdomen"]) -> Viewer:
        """The page in a notebook cell; a notebook keeps no ratings, so export them there before it is closed.

        Parameters
        ----------
        title : str
        window : Window
            Window in which the images open.

        Returns
        -------
        Viewer
        """
        return Viewer(self._render(title, window), height_px=980)

    def write_page(
        self, page: Path, key: Path, title: str = "Blinded reading", window: Window = WINDOWS["abdomen"]
    ) -> None:
        """Write the page for the readers, and its key.

        Parameters
        ----------
        page : Path
            HTML file; opens without a network, holds neither key nor patient data besides the pixels.
        key : Path
            JSON file; needed to read the ratings, and not to be given to the readers.
        title : str
        window : Window
            Window in which the images open.

        Raises
        ------
        OutputError
            If ``key`` exists and belongs to another session: its ratings could no longer be read.
        """
        if key.exists() and ReadingKey.read(key) != self.key:
            raise OutputError(
                f"{key}: is the key of another session; give another name, or remove it with its page"
            )
        self.key.write(key)
        text = self._render(title, window)
        atomic_write(page, lambda part: part.write_text(text, encoding="utf-8"))

    def _render(self, title: str, window: Window) -> str:
        views = []
        for number, reading in enumerate(self._readings, 1):
            spacing = self._cases[reading.case - 1][0].geometry.pixel_spacing_mm
            views.append(slice_view(f"reading {number} of {len(self._readings)}", self.pair(number), {}, spacing))
        windows = {one.name: one for one in (window, *WINDOWS.values())}
        return render_template(
            "reading.html",
            css=("page.css", "reading.css"),
            js=("viewer.js", "reading.js"),
            title=title,
            session=self.key.session,
            criteria=CRITERIA,
            scores=SCORES,
            window=window,
            viewer_windows=list(windows.values()),
            # "</" would end the script element
            slice_views_json=json.dumps(views).replace("</", "<\\/"),
            count=len(views),
        )
