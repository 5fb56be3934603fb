"""Settings of the node in a validated YAML file: who may send, what is denoised how, and where it is sent."""

from __future__ import annotations

import fnmatch
import hashlib
import ipaddress
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from ldct_denoise.config import read_mapping
from ldct_denoise.errors import ConfigError, setting_problem
from ldct_denoise.inference.settings import ApplySettings, Precision
from ldct_denoise.io.dicom.instance import check_keywords
from ldct_denoise.io.write_settings import Compression, PrivateTags

LOOPBACK = ("127.0.0.0/8", "::1/128")
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


def _ae_title(value: str) -> str:
    """Check an AE title (PS3.5 6.2): 1 to 16 plain characters, no backslash, not only spaces."""
    if not 1 <= len(value) <= 16 or not value.strip() or not value.isascii() or not value.isprintable():
        raise ValueError("an AE title has 1 to 16 plain characters")
    if "\\" in value:
        raise ValueError("an AE title has no backslash")
    return value.strip()


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError(f"{value!r} is no address or network; give 10.1.2.3 or 10.1.2.0/24") from None


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(
            f"{value!r} is no address; give 127.0.0.1, 0.0.0.0 for all, or the machine's own"
        ) from None


AETitle = Annotated[str, AfterValidator(_ae_title)]
Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """A part of the file; unknown keys are refused, and values do not change later."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Peer(Section):
    """An accepted caller: a calling AE title and its addresses."""

    ae_title: AETitle = Field(description="its calling AE title")
    hosts: tuple[Network, ...] = Field(LOOPBACK, description="addresses or networks")

    def allows(self, ae_title: str, host: str) -> bool:
        """Whether a caller with this AE title and address is this peer."""
        return ae_title.strip() == self.ae_title and self.allows_host(host)

    def allows_host(self, host: str) -> bool:
        """Whether an address belongs to this peer."""
        address = ipaddress.ip_address(host)
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in ipaddress.ip_network(network) for network in self.hosts)


class ServerTLS(Section):
    """TLS of the receiver."""

    certificate: Path = Field(description="the node's certificate, PEM")
    key: Path = Field(description="its private key, PEM")
    authority: Path | None = Field(None, description="callers must present a certificate that it signed")


class Limits(Section):
    """Limits of what callers can use."""

    associations: int = Field(8, ge=1, le=200, description="simultaneous associations")
    image_mib: int = Field(512, ge=1, description="size of a received object, held in memory until complete")
    pdu_kib: int = Field(1024, ge=16, le=65536, description="size of a protocol data unit")
    idle_s: float = Field(60, gt=0, description="silence of an association")
    negotiation_s: float = Field(10, gt=0, description="time from connection to association request")
    spool_gib: float = Field(100, gt=0, description="size of the whole spool; beyond it, images are refused")
    free_gib: float = Field(2, ge=0, description="space that stays free on the spool's disk")


class CompletionSettings(Section):
    """When a series counts as complete."""

    unit: Literal["series", "study"] = Field("series", description="unit that must be quiet")
    quiet_s: float = Field(60, gt=0, description="time since the last image")
    released_s: float = Field(5, gt=0, description="the same, if all associations that sent it were released")


class Retry(Section):
    """Retries for a destination that is down; the wait doubles after each."""

    first_s: float = Field(15, gt=0, description="wait after the first failure")
    longest_s: float = Field(1800, gt=0, description="longest wait")
    give_up_h: float = Field(72, gt=0, description="time until the series becomes a dead letter")

    def wait_s(self, attempts: int) -> float:
        """Seconds until the next attempt after ``attempts`` failures."""
        return float(min(self.longest_s, self.first_s * 2.0 ** min(attempts - 1, 40)))


class ClientTLS(Section):
    """TLS towards a destination."""

    authority: Path | None = Field(None, description="signs the destination's certificate; default: the system's")
    certificate: Path | None = Field(None, description="the node's certificate, PEM")
    key: Path | None = Field(None, description="its private key, PEM")


class DimseDestination(Section):
    """A C-STORE peer."""

    host: str = Field(description="name or address")
    port: Port = Field(description="TCP port")
    ae_title: AETitle = Field(description="called AE title")
    calling_ae_title: AETitle | None = Field(None, description="own AE title; default: the node's")
    timeout_s: float = Field(60, gt=0, description="time limit of a network operation")
    tls: ClientTLS | None = Field(None, description="TLS; null for none")


class StowDestination(Section):
    """A DICOMweb server."""

    stow: str = Field(description="URL to which instances are posted (PS3.18 10.5)")
    authorization_file: Path | None = Field(None, description="file with the value of the Authorization header")
    timeout_s: float = Field(60, gt=0, description="time limit of a network operation")
    tls: ClientTLS | None = Field(None, description="certificates, for https; null for the system's")

    @model_validator(mode="after")
    def _web_address(self) -> StowDestination:
        parts = urlsplit(self.stow)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("stow: give an address as https://pacs.example/dicom-web/studies")
        if parts.username or parts.password:
            raise ValueError("stow: no password in the address; put the header into authorization_file")
        return self


def _kind(value: Any) -> str:
    named = value if isinstance(value, dict) else vars(value) if isinstance(value, Section) else {}
    return "web" if "stow" in named else "dimse"


Destination = Annotated[
    Annotated[DimseDestination, Tag("dimse")] | Annotated[StowDestination, Tag("web")], Discriminator(_kind)
]


class DenoiseSettings(Section):
    """How a series is denoised."""

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
    compress: Compression | None = Field(None, description="lossless compression of the derived images")
    strict: bool = Field(
        False, description="refuse series with problems, or outside the images that the model was trained on"
    )
    assume_hu: bool = Field(
        False, description="take values of CT images for HU where header or values speak against it"
    )

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if self.strength is not None and self.noise_reduction is not None:
            raise ValueError("strength and noise_reduction: give one of them")
        return self

    def apply_settings(self, device: str) -> ApplySettings:
        """How the model is applied, on this device."""
        return ApplySettings(
            self.strength,
            device,
            self.precision,
            noise_reduction=self.noise_reduction,
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

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if self.ignore and self.send_to:
            raise ValueError("an ignored series goes nowhere: leave out send_to")
        if not self.ignore and not self.send_to:
            raise ValueError("send_to: name at least one destination, or ignore: true")
        try:
            check_keywords(self.match)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

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
    other_objects: Literal["refuse", "discard"] = Field(
        "refuse",
        description="objects that are no CT images: refuse their storage class, or accept and discard them",
    )
    tls: ServerTLS | None = Field(None, description="TLS of the receiver; null for none")
    limits: Limits = Limits()  # type: ignore[call-arg]
    complete: CompletionSettings = CompletionSettings()  # type: ignore[call-arg]
    retry: Retry = Retry()  # type: ignore[call-arg]
    status_port: Port | None = Field(8104, description="port of health and counters; null for none")
    status_host: Address = Field("127.0.0.1", description="address of health and counters; they name no patient")
    alarm_min: float = Field(30, gt=0, description="age of a waiting batch from which the node counts as degraded")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute")
    remember_days: float = Field(30, gt=0, description="how long the node remembers what was sent")
    destinations: dict[str, Destination] = Field(default_factory=dict, description="by name, for send_to")
    rules: tuple[Rule, ...] = Field(min_length=1, description="the first that fits a series decides")

    @model_validator(mode="after")
    def _known_destinations(self) -> Rules:
        for number, rule in enumerate(self.rules, 1):
            for name in rule.send_to:
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
