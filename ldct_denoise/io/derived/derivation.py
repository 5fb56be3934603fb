"""How the pixels of a derived image came about, in words and as input of its UIDs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import ldct_denoise
from ldct_denoise.io.derived.dose_attributes import SCALED
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.dicom.values import PRODUCT

#: Setting ``unit`` of a derivation from values that were taken for HU on request (``--assume-hu``).
ASSUMED_UNIT = "HU assumed on request"
MAX_DESCRIPTION = 1024  # characters of a Short Text, PS3.5 6.2


@dataclass(frozen=True)
class Derivation:
    """How the new pixels came about.

    Parameters
    ----------
    model_name : str
        Name of the model or simulation.
    model_checksum : str
        SHA-256 of its parameters.
    strength : float
        1 for the model's output, 0 for the input, in between for a blend.
    amount : str
        How much noise is reduced, in words, where no strength says it.
    low_hu, high_hu : float
        HU range that the model may change.
    settings : mapping of str
        Other settings that determine the pixels; they become part of the description and of the UIDs.
    kind : {"denoised", "simulated"}
        ``simulated`` marks the images as synthetic data (0008,001C).
    dose : float
        Simulated dose as a fraction of the source's; ``simulated`` only.
    context_slices : int
        Number of context slices on each side that contribute to the pixels of a slice.
    revision : int
        Distinguishes the UIDs of results that would otherwise share them; see
        :class:`ldct_denoise.io.write_settings.WriteSettings`.
    """

    model_name: str
    model_checksum: str = ""
    strength: float = 1.0
    amount: str = ""
    low_hu: float = -1024.0
    high_hu: float = 3072.0
    settings: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["denoised", "simulated"] = "denoised"
    dose: float = 1.0
    context_slices: int = 0
    revision: int = 0

    @property
    def label(self) -> str:
        """The processing, as appended to the series description."""
        if self.kind == "simulated":
            return f"simulated {100 * self.dose:g}% dose"
        return ascii_text(f"LDCT-denoised {self.model_name} {self.amount or f'{100 * self.strength:g}%'}")

    @property
    def identity(self) -> tuple[object, ...]:
        """Everything that determines the pixels, and the revision, as input of the UIDs."""
        settings = sorted((str(key), str(value)) for key, value in self.settings.items())
        numbers = (float(self.strength), float(self.low_hu), float(self.high_hu), float(self.dose))
        amount = (self.amount,) if self.amount else ()
        revision = (f"revision {self.revision}",) if self.revision else ()
        return (PRODUCT, self.kind, self.model_name, self.model_checksum, *numbers, settings, *amount, *revision)

    def uid(self, source_uid: str) -> str:
        """The UID of the object derived from the one with ``source_uid``."""
        return derived_uid(source_uid, *self.identity)

    @property
    def text(self) -> str:
        """Derivation Description (0008,2111): ASCII, at most 1024 characters."""
        processing = (
            f"low dose simulated ({100 * self.dose:g}% of the source's; {SCALED})"
            if self.kind == "simulated"
            else f"noise reduced by a model, {self.amount or f'strength {100 * self.strength:g}%'}"
        )
        settings = "".join(f", {key}={value}" for key, value in sorted(self.settings.items()))
        if self.context_slices:
            settings += f", with {self.context_slices} slices on each side"
        text = (
            f"{PRODUCT} {ldct_denoise.__version__}: {processing}; model {self.model_name}"
            f" sha256 {self.model_checksum or 'none'}; HU {self.low_hu:g}..{self.high_hu:g}{settings};"
            " research use only, not for primary diagnosis"
        )
        return ascii_text(text)[:MAX_DESCRIPTION]


def ascii_text(text: str) -> str:
    """Printable ASCII without the backslash, which separates values (PS3.5 6.2)."""
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)


class StatedModel(NamedTuple):
    """The model that a Derivation Description of this project states.

    Parameters
    ----------
    name, checksum : str
        The checksum is empty where there is none.
    amount : str
        Strength or noise reduction, in words.
    """

    name: str
    checksum: str
    amount: str


def stated_model(description: str) -> StatedModel | None:
    """Read the model from a text that :attr:`Derivation.text` wrote for denoised images; None for any other."""
    found = re.match(
        rf"{re.escape(PRODUCT)} [^:]+: noise reduced by a model, (.+); model (.+) sha256 (none|[0-9a-f]+); HU ",
        description,
    )
    if found is None:
        return None
    amount, name, checksum = found.groups()
    return StatedModel(name, "" if checksum == "none" else checksum, amount)
