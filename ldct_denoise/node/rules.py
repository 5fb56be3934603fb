"""Settings of the node in a validated YAML file: who may send, what is denoised how, and where it is sent."""

from __future__ import annotations

import fnmatch
import hashlib
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ldct_denoise.config import read_mapping
from ldct_denoise.errors import ConfigError
from ldct_denoise.inference.settings import DEVICE_PATTERN, ApplySettings, Precision
from ldct_denoise.io.dicom.instance import check_keywords
from ldct_denoise.io.write_settings import Compression, PrivateTags
from ldct_denoise.node.settings import (
    Address,
    AETitle,
    AuditSettings,
    CompletionSettings,
    Destination,
    DimseDestination,
    Limits,
    Peer,
    Port,
    Retry,
    Section,
    ServerTLS,
    Source,
)
from ldct_denoise.setting_errors import setting_problem

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


class Output(Section):
    """A derived series that is made of a received one."""

    model: str | None = Field(None, description="shipped model, model file, run folder or method")
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="0 returns the input, 1 the network's output; default: the output that the model recommends",
    )
    noise_reduction: float | None = Field(
        None, ge=0, le=100, description="percent less noise in uniform tissue, instead of strength"
    )
    precision: Precision = Field("fp32", description="arithmetic of the networks")

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if self.strength is not None and self.noise_reduction is not None:
            raise ValueError("strength and noise_reduction: give one of them")
        return self


class DenoiseSettings(Output):
    """How a series is denoised."""

    compress: Compression | None = Field(None, description="lossless compression of the derived images")
    strict: bool = Field(
        False, description="refuse series with problems, or outside the images that the model was trained on"
    )
    assume_hu: bool = Field(
        False, description="take values of CT images for HU where header or values speak against it"
    )

    def apply_settings(self, device: str, output: Output | None = None) -> ApplySettings:
        """How the model is applied, on this device; by default to make the output of these settings."""
        made = output or self
        return ApplySettings(
            made.strength,
            device,
            made.precision,
            noise_reduction=made.noise_reduction,
            strict=self.strict,
            assume_hu=self.assume_hu,
        )


class Rule(DenoiseSettings):
    """How a series is processed; the first rule whose ``match`` fits decides."""

    match: dict[str, str | float | tuple[str | float, ...]] = Field(
        default_factory=dict, description="patterns by DICOM keyword; all must match"
    )
    ignore: bool = Field(False, description="do not denoise such series")
    private_tags: PrivateTags = Field("keep", description="private attributes")
    keep_manufacturer: bool = Field(False, description="for viewers that select by manufacturer")
    send_to: tuple[str, ...] = Field((), description="names of destinations")
    outputs: tuple[Output, ...] = Field(
        (), description="several derived series, each with model, strength, noise_reduction or precision"
    )
    originals_to: tuple[str, ...] = Field(
        (), description="destinations of the received images, unchanged and before denoising; also if ignored"
    )
    priority: Literal["high", "medium", "low"] | None = Field(
        None, description="order of processing and sending; default: high if the sender says so in C-STORE"
    )
    delete_received_after: Literal["denoised", "delivered"] | None = Field(
        None, description="when the received images are deleted; default: delivered if one gives commitment"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if self.ignore and self.send_to:
            raise ValueError("an ignored series is not denoised: leave out send_to; originals_to forwards it")
        if not self.ignore and not self.send_to:
            raise ValueError("send_to: name at least one destination, or ignore: true")
        if self.outputs and {"model", "strength", "noise_reduction", "precision"} & self.model_fields_set:
            raise ValueError("outputs: give model, strength, noise_reduction and precision inside them only")
        if len(set(self.outputs)) < len(self.outputs):
            raise ValueError("outputs: two of them are the same")
        try:
            check_keywords(self.match)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def made(self) -> tuple[Output, ...]:
        """The outputs that this rule makes; one, of its own settings, where it lists none."""
        return self.outputs or (self,)

    def fits(self, values: Mapping[str, tuple[str, ...]]) -> bool:
        """Whether a series matches: every attribute has a value that fits one of its patterns."""
        return all(
            any(_fits(value, str(pattern)) for value in values.get(keyword, ()) for pattern in _as_tuple(patterns))
            for keyword, patterns in self.match.items()
        )


class Rules(Section):
    """All settings of the node."""

    ae_title: AETitle = Field("LDCT", description="own AE title")
    host: Address = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(11112, description="TCP port to listen on")
    spool: Path = Field(description="folder of received and derived images")
    accept: tuple[Peer, ...] = Field(min_length=1, description="accepted callers")
    other_objects: Literal["refuse", "discard", "forward"] = Field(
        "refuse",
        description="objects that are no CT images: refuse them, accept and discard them, or apply rules to them",
    )
    tls: ServerTLS | None = Field(None, description="TLS of the receiver; null for none")
    limits: Limits = Limits()  # type: ignore[call-arg]
    complete: CompletionSettings = CompletionSettings()  # type: ignore[call-arg]
    retry: Retry = Retry()  # type: ignore[call-arg]
    status_port: Port | None = Field(8104, description="port of health and counters; null for none")
    status_host: Address = Field("127.0.0.1", description="address of health and counters; they name no patient")
    alarm_min: float = Field(30, gt=0, description="age of a waiting batch from which the node counts as degraded")
    audit: AuditSettings | None = Field(None, description="repository of audit messages; null for none")
    device: str = Field("auto", pattern=DEVICE_PATTERN, description="where to compute")
    remember_days: float = Field(30, gt=0, description="how long the node remembers what was sent")
    destinations: dict[str, Destination] = Field(default_factory=dict, description="by name, for send_to")
    sources: dict[str, Source] = Field(default_factory=dict, description="by name, for node pull")
    rules: tuple[Rule, ...] = Field(min_length=1, description="the first that fits a series decides")

    @model_validator(mode="after")
    def _known_destinations(self) -> Rules:
        for number, rule in enumerate(self.rules, 1):
            for name in (*rule.send_to, *rule.originals_to):
                if name not in self.destinations:
                    known = ", ".join(self.destinations) or "none"
                    raise ValueError(f"rule {number} sends to {name!r}, which is no destination; known: {known}")
        for name in self.destinations:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"destination {name!r}: name it with letters, digits, - and _")
        return self

    @property
    def keywords(self) -> frozenset[str]:
        """Keywords of all attributes that rules match."""
        return frozenset(keyword for rule in self.rules for keyword in rule.match)

    def keeps_received(self, rule: Rule) -> bool:
        """Whether the received images of a series stay until every destination has the derived ones."""
        if rule.delete_received_after is None:
            return any(self.asks_commitment(name) for name in rule.send_to)
        return rule.delete_received_after == "delivered"

    def asks_commitment(self, name: str) -> bool:
        """Whether a destination is asked for storage commitment."""
        destination = self.destinations.get(name)
        return isinstance(destination, DimseDestination) and destination.commitment

    @property
    def rules_digest(self) -> str:
        """Digest of all rules; a remembered choice among them is valid as long as it stays the same."""
        content = "\n".join(rule.model_dump_json() for rule in self.rules)
        return hashlib.sha256(content.encode()).hexdigest()

    def rule_for(self, values: Mapping[str, tuple[str, ...]]) -> int | None:
        """Index of the first rule that fits; None if none does, and the series is ignored."""
        return next((number for number, rule in enumerate(self.rules) if rule.fits(values)), None)


def load_rules(path: Path) -> Rules:
    """Read and validate the node's settings.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a setting is unknown or impossible.
    """
    try:
        return Rules(**read_mapping(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {setting_problem(error, Rules)}") from None
    except TypeError:
        raise ConfigError(f"{path}: settings must have names") from None


def _as_tuple(patterns: Any) -> tuple[Any, ...]:
    return patterns if isinstance(patterns, tuple) else (patterns,)


def _fits(value: str, pattern: str) -> bool:
    """Compare a number after <, <=, > or >=; match anything else as a pattern with * and ?, ignoring case."""
    for sign, compare in _COMPARISONS.items():
        if pattern.startswith(sign):
            try:
                return compare(float(value), float(pattern.removeprefix(sign)))
            except ValueError:
                return False
    try:
        return float(value) == float(pattern)
    except ValueError:
        escaped = pattern.strip().casefold().replace("[", "[[]")  # [ begins a set of characters in fnmatch
        return fnmatch.fnmatchcase(value.strip().casefold(), escaped)
