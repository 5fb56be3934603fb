"""The result of scanning a path: the series found, and the files skipped with the reason for each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from ldct_denoise.errors import PartialError
from ldct_denoise.volume import SliceSource

S_co = TypeVar("S_co", bound=SliceSource, covariant=True)


class ExclusionKind(StrEnum):
    """Why a file or a frame is not used, from what is no image to what is nearly a CT slice.

    Programs decide by the kind; the text of an exclusion is for people.
    """

    # Not readable as an image.
    UNREADABLE = "unreadable"  # not DICOM, no permission, or too damaged to tell what it is
    NOT_REGULAR = "not_regular"  # link, pipe, missing file, unfinished output
    DICOMDIR = "dicomdir"
    # Another object than a CT image.
    OTHER_OBJECT = "other_object"  # another SOP class, a label volume
    DUPLICATE = "duplicate"
    POSSIBLY_MR = "possibly_mr"  # nothing in the header is specific to CT, and no value is as low as fat or air
    # Intact, but not meant to be denoised.
    ALREADY_DENOISED = "already_denoised"
    LOCALIZER = "localizer"
    DOSE_REPORT = "dose_report"
    PROJECTIONS = "projections"
    RENDERING = "rendering"
    REFORMAT = "reformat"
    COLOR = "color"
    NOT_HU = "not_hu"
    MR = "mr"
    # CT slices that cannot be used.
    INVALID_HEADER = "invalid_header"  # an attribute that a slice needs is missing or impossible
    LOST_SLICE = "lost_slice"  # truncated, damaged, or without a decoder: its series has a gap

    @property
    def is_intentional(self) -> bool:
        """Whether such images are excluded on purpose: intact, but not meant to be denoised."""
        return self in _NOT_MEANT_FOR_DENOISING


_NOT_MEANT_FOR_DENOISING = frozenset(
    {
        ExclusionKind.ALREADY_DENOISED,
        ExclusionKind.LOCALIZER,
        ExclusionKind.DOSE_REPORT,
        ExclusionKind.PROJECTIONS,
        ExclusionKind.RENDERING,
        ExclusionKind.REFORMAT,
        ExclusionKind.COLOR,
        ExclusionKind.NOT_HU,
        ExclusionKind.MR,
    }
)


@dataclass(frozen=True)
class Exclusion:
    """Why something is not used.

    Parameters
    ----------
    kind : ExclusionKind
        For programs.
    text : str
        One line for people.
    """

    kind: ExclusionKind
    text: str


@dataclass(frozen=True)
class SkippedFile:
    """A file, or some frames of it, that is not used.

    Parameters
    ----------
    path : Path
        The file; inside a zip archive, the archive's path followed by the path inside it.
    exclusion : Exclusion
    """

    path: Path
    exclusion: Exclusion

    @property
    def kind(self) -> ExclusionKind:
        """Kind of the exclusion."""
        return self.exclusion.kind

    @property
    def reason(self) -> str:
        """Reason in words."""
        return self.exclusion.text


@dataclass(frozen=True)
class Inventory(Generic[S_co]):
    """The series under a path and the files skipped.

    Parameters
    ----------
    series : tuple of SliceSource
    skipped : tuple of SkippedFile
        Files that belong to none of the series.
    """

    series: tuple[S_co, ...]
    skipped: tuple[SkippedFile, ...] = ()

    @property
    def lost_slices(self) -> list[str]:
        """One line for each CT slice that cannot be read and is missing from its series."""
        return [
            f"{item.path}: {item.reason}; its series lacks it"
            for item in self.skipped
            if item.kind is ExclusionKind.LOST_SLICE
        ]

    @property
    def main_exclusion(self) -> str:
        """The skipped file that came closest to a CT slice, and the reason; empty where no file was skipped."""
        if not self.skipped:
            return ""
        closeness = {kind: rank for rank, kind in enumerate(ExclusionKind)}
        item = max(self.skipped, key=lambda one: closeness[one.kind])
        return f"{item.path.name}: {item.reason}"

    def notes(self, path: Path) -> list[str]:
        """Notes for whoever processes the series under ``path``: files skipped, by kind."""
        if not self.skipped:
            return []
        kinds = Counter(item.kind.value.replace("_", " ") for item in self.skipped)
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        skipped = "1 file is" if len(self.skipped) == 1 else f"{len(self.skipped)} files are"
        return [f"{skipped} skipped ({listed}); `ldct-denoise inspect {path}` lists the reasons"]

    def require_all_slices(self, written: Path) -> None:
        """Check, after the only series was written to ``written``, that it lacks no slice.

        Raises
        ------
        PartialError
            If slices of the series could not be read.
        """
        if self.lost_slices:
            message = f"{written}: written, but slices that cannot be read are missing; repair them"
            raise PartialError(message, self.lost_slices, (written,))
