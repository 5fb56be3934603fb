"""Sections of the node's settings: callers, limits, completion, retries, destinations."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

LOOPBACK = ("127.0.0.0/8", "::1/128")


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


class ClientTLS(Section):
    """TLS towards a destination."""

    authority: Path | None = Field(None, description="signs the destination's certificate; default: the system's")
    certificate: Path | None = Field(None, description="the node's certificate, PEM")
    key: Path | None = Field(None, description="its private key, PEM")


class CommitmentReports(Section):
    """Where a caller takes the results of storage commitment: a port of the address from which it asked."""

    port: Port = Field(description="TCP port of the caller")
    timeout_s: float = Field(60, gt=0, description="time limit of a network operation")
    tls: ClientTLS | None = Field(None, description="TLS; null for none")


class Peer(Section):
    """An accepted caller: a calling AE title and its addresses."""

    ae_title: AETitle = Field(description="its calling AE title")
    hosts: tuple[Network, ...] = Field(LOOPBACK, description="addresses or networks")
    commitment: CommitmentReports | None = Field(
        None, description="where it takes results of storage commitment; null: its requests are refused"
    )

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


class AuditSettings(Section):
    """A repository of audit messages (PS3.15 A.5, over syslog)."""

    host: str = Field(description="name or address")
    port: Port = Field(6514, description="TCP or UDP port")
    transport: Literal["tls", "tcp", "udp"] = Field("tls", description="RFC 5425, its framing over TCP, RFC 5426")
    tls: ClientTLS | None = Field(None, description="certificates; null for the system's")
    source_id: str = Field("", description="name of the node in messages; default: its AE title")
    timeout_s: float = Field(10, gt=0, description="time limit of a network operation")
    keep_days: float = Field(90, gt=0, description="how long a message that cannot be sent stays in the spool")


class DimseDestination(Section):
    """A C-STORE peer."""

    host: str = Field(description="name or address")
    port: Port = Field(description="TCP port")
    ae_title: AETitle = Field(description="called AE title")
    calling_ae_title: AETitle | None = Field(None, description="own AE title; default: the node's")
    timeout_s: float = Field(60, gt=0, description="time limit of a network operation")
    tls: ClientTLS | None = Field(None, description="TLS; null for none")
    associations: int = Field(1, ge=1, le=16, description="simultaneous associations for the images of a batch")
    while_denoising: bool = Field(
        False, description="send derived images as they are written, before the rest of their series is denoised"
    )
    commitment: bool = Field(
        False, description="ask for storage commitment; images count as delivered when it is given"
    )
    commitment_wait_s: float = Field(3600, gt=0, description="wait until an unanswered request is repeated")


class StowDestination(Section):
    """A DICOMweb server."""

    stow: str = Field(description="URL to which instances are posted (PS3.18 10.5)")
    authorization_file: Path | None = Field(None, description="file with the value of the Authorization header")
    timeout_s: float = Field(60, gt=0, description="time limit of a network operation")
    tls: ClientTLS | None = Field(None, description="certificates, for https; null for the system's")
    associations: int = Field(1, ge=1, le=16, description="simultaneous connections for the images of a batch")
    while_denoising: bool = Field(
        False, description="send derived images as they are written, before the rest of their series is denoised"
    )

    @property
    def server(self) -> str:
        """Name or address of its server."""
        return str(urlsplit(self.stow).hostname)

    @model_validator(mode="after")
    def _web_address(self) -> StowDestination:
        _check_url("stow", self.stow, "https://pacs.example/dicom-web/studies")
        return self


class DimseSource(Section):
    """A PACS from which series are pulled by C-FIND and C-GET or C-MOVE."""

    host: str = Field(description="name or address")
    port: Port = Field(description="TCP port")
    ae_title: AETitle = Field(description="called AE title")
    retrieve: Literal["get", "move"] = Field(
        "get", description="C-GET, or C-MOVE to the node, which then needs an entry of accept for the PACS"
    )
    calling_ae_title: AETitle | None = Field(None, description="own AE title; default: the node's")
    timeout_s: float = Field(60, gt=0, description="time limit of a network operation")
    tls: ClientTLS | None = Field(None, description="TLS; null for none")

    @property
    def peer(self) -> DimseDestination:
        """The same peer, for an association with it."""
        return DimseDestination(**self.model_dump(exclude={"retrieve"}))


class WebSource(Section):
    """A DICOMweb server from which series are pulled by QIDO-RS and WADO-RS."""

    dicomweb: str = Field(description="URL above studies, as https://pacs.example/dicom-web")
    authorization_file: Path | None = Field(None, description="file with the value of the Authorization header")
    timeout_s: float = Field(60, gt=0, description="time limit of a network operation")
    tls: ClientTLS | None = Field(None, description="certificates, for https; null for the system's")

    @property
    def server(self) -> str:
        """Name or address of the server."""
        return str(urlsplit(self.dicomweb).hostname)

    @model_validator(mode="after")
    def _web_address(self) -> WebSource:
        _check_url("dicomweb", self.dicomweb, "https://pacs.example/dicom-web")
        return self


def _check_url(name: str, url: str, example: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name}: give an address as {example}")
    if parts.username or parts.password:
        raise ValueError(f"{name}: no password in the address; put the header into authorization_file")


def _kind(value: Any) -> str:
    named = value if isinstance(value, dict) else vars(value) if isinstance(value, Section) else {}
    return "web" if "stow" in named or "dicomweb" in named else "dimse"


Destination = Annotated[
    Annotated[DimseDestination, Tag("dimse")] | Annotated[StowDestination, Tag("web")], Discriminator(_kind)
]
Source = Annotated[Annotated[DimseSource, Tag("dimse")] | Annotated[WebSource, Tag("web")], Discriminator(_kind)]
