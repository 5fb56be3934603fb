"""Send images by C-STORE (PS3.4 Annex B)."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.instance import read_uncompressed, storage_uids
from ldct_denoise.node.reachability import connection_problem, echo_problem, rejection
from ldct_denoise.node.sending import STORED_WITH_WARNING, Answer, Outcome, Unreachable, stored_with_warning
from ldct_denoise.node.settings import DimseDestination
from ldct_denoise.node.tls import client_tls

#: Priority of C-STORE (PS3.7 9.3.1.1) by that of a batch: HIGH, MEDIUM, LOW.
_DIMSE_PRIORITY = (1, 0, 2)
#: Temporary C-STORE statuses: out of resources (PS3.4 B.2.3), processing failure (PS3.7 C).
TEMPORARY = frozenset({*range(0xA700, 0xA800), 0x0110})


class DimseSender:
    """Sends by C-STORE (PS3.4 Annex B), with one association per batch."""

    def __init__(self, destination: DimseDestination, ae_title: str) -> None:
        self._destination = destination
        self._ae_title = destination.calling_ae_title or ae_title
        self._tls = client_tls(destination.tls) if destination.tls else None
        self._association: Association | None = None

    def send(self, files: Sequence[Path], priority: int = 1) -> Iterator[tuple[Path, Answer]]:
        """See :class:`Sender`."""
        contexts = {file: storage_uids(file) for file in files}
        offers = sorted({offer for context in contexts.values() for offer in _offers(*context)})
        association = open_association(self._destination, self._ae_title, offers, tls=self._tls)
        if not association.is_established:  # it was accepted, but for none of the images
            yield from ((file, _not_accepted(contexts[file])) for file in files)
            return
        self._association = association
        try:
            accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
            for file in files:
                usable = next((offer for offer in _offers(*contexts[file]) if offer in accepted), None)
                if usable is None:
                    yield file, _not_accepted(contexts[file])
                    continue
                try:
                    image = file if usable == contexts[file] else read_uncompressed(file)
                except InputError:
                    yield (
                        file,
                        Answer(Outcome.REFUSED, "transfer syntax not accepted, and pixels cannot be decoded"),
                    )
                else:
                    yield file, _dimse_answer(_store(association, image, _DIMSE_PRIORITY[priority]))
        finally:
            self._association = None
            if association.is_established:
                association.release()

    def cancel(self) -> None:
        """See :class:`Sender`."""
        if (association := self._association) is not None:
            association.abort(block=False)

    def check(self) -> str:
        """See :class:`Sender`."""
        return echo_problem(self._destination, self._ae_title, self._tls)


def open_association(
    destination: DimseDestination,
    ae_title: str,
    contexts: Iterable[tuple[str, str | None]],
    *,
    tls: ssl.SSLContext | None = None,
    roles: Iterable[Any] = (),
    handlers: Iterable[Any] = (),
) -> Association:
    """Request an association.

    Parameters
    ----------
    destination : DimseDestination
    ae_title : str
        Own AE title, unless the destination names another.
    contexts : iterable of (str, str or None)
        Abstract syntaxes, each with a transfer syntax; None for the default ones.
    tls : ssl.SSLContext, optional
        By default from the files that the destination names.
    roles, handlers : iterable
        Role selection items and event handlers of pynetdicom.

    Returns
    -------
    Association
        Not established if the peer accepted it, but none of the contexts.

    Raises
    ------
    ConfigError
        If the TLS files of the destination cannot be used.
    Unreachable
        If there is no association.
    """
    entity = AE(destination.calling_ae_title or ae_title)
    entity.acse_timeout = entity.dimse_timeout = destination.timeout_s
    entity.network_timeout = entity.connection_timeout = destination.timeout_s
    for abstract_syntax, syntax in contexts:
        entity.add_requested_context(abstract_syntax, syntax)
    if tls is None and destination.tls:
        tls = client_tls(destination.tls)
    association = entity.associate(
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        ext_neg=list(roles),
        evt_handlers=list(handlers),
        tls_args=(tls, destination.host) if tls else None,
    )
    if association.is_established or association.rejected_contexts:
        return association
    if association.is_rejected:
        raise Unreachable(rejection(association))
    problem = connection_problem(destination.host, destination.port, min(destination.timeout_s, 10), tls)
    raise Unreachable(problem or "no answer to the association request")


def _offers(storage_class: str, syntax: str) -> list[tuple[str, str]]:
    """Contexts in which an image can be sent, the best first.

    The last is the default transfer syntax, which every peer must accept (PS3.5 10.1).
    """
    syntaxes = dict.fromkeys((syntax, str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)))
    return [(storage_class, offer) for offer in syntaxes]


def _not_accepted(context: tuple[str, str]) -> Answer:
    return Answer(Outcome.REFUSED, f"storage class or transfer syntax not accepted: {' '.join(context)}")


def _store(association: Association, image: Path | Dataset, priority: int) -> int:
    """Send one image and return the C-STORE status.

    A data set in Explicit VR Little Endian is sent in Implicit VR where only that was accepted.
    """
    try:
        answer = association.send_c_store(image, priority=priority)
    except (RuntimeError, OSError):
        raise Unreachable("association lost") from None
    if "Status" not in answer:
        raise Unreachable("no answer to C-STORE")
    return int(answer.Status)


def _dimse_answer(status: int) -> Answer:
    """Read a C-STORE status; with a warning the image is stored (PS3.7 Annex C)."""
    if status == 0:
        return Answer(Outcome.STORED)
    if status in STORED_WITH_WARNING or 0xB000 <= status <= 0xBFFF:
        return stored_with_warning(status)
    return Answer(Outcome.RETRY if status in TEMPORARY else Outcome.REFUSED, f"C-STORE status 0x{status:04X}")
