"""Send images by C-STORE (PS3.4 Annex B)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

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

#: Temporary C-STORE statuses: out of resources (PS3.4 B.2.3), processing failure (PS3.7 C).
TEMPORARY = frozenset({*range(0xA700, 0xA800), 0x0110})


class DimseSender:
    """Sends by C-STORE (PS3.4 Annex B), with one association per batch."""

    def __init__(self, destination: DimseDestination, ae_title: str) -> None:
        self._destination = destination
        self._ae_title = destination.calling_ae_title or ae_title
        self._tls = client_tls(destination.tls) if destination.tls else None
        self._association: Association | None = None

    def send(self, files: Sequence[Path]) -> Iterator[tuple[Path, Answer]]:
        """See :class:`Sender`."""
        entity = AE(self._ae_title)
        entity.acse_timeout = entity.dimse_timeout = self._destination.timeout_s
        entity.network_timeout = entity.connection_timeout = self._destination.timeout_s
        contexts = {file: storage_uids(file) for file in files}
        for storage_class, syntax in sorted(
            {offer for context in contexts.values() for offer in _offers(*context)}
        ):
            entity.add_requested_context(storage_class, syntax)
        association = entity.associate(
            self._destination.host,
            self._destination.port,
            ae_title=self._destination.ae_title,
            tls_args=(self._tls, self._destination.host) if self._tls else None,
        )
        if association.rejected_contexts and not association.is_established:
            # The association was accepted, but for none of the images.
            yield from ((file, _not_accepted(contexts[file])) for file in files)
            return
        if not association.is_established:
            raise Unreachable(self._failure(association))
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
                    yield file, _dimse_answer(_store(association, image))
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

    def _failure(self, association: Association) -> str:
        """Why there is no association."""
        if association.is_rejected:
            return rejection(association)
        to = self._destination
        problem = connection_problem(to.host, to.port, min(to.timeout_s, 10), self._tls)
        return problem or "no answer to the association request"


def _offers(storage_class: str, syntax: str) -> list[tuple[str, str]]:
    """Contexts in which an image can be sent, the best first.

    The last is the default transfer syntax, which every peer must accept (PS3.5 10.1).
    """
    syntaxes = dict.fromkeys((syntax, str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)))
    return [(storage_class, offer) for offer in syntaxes]


def _not_accepted(context: tuple[str, str]) -> Answer:
    return Answer(Outcome.REFUSED, f"storage class or transfer syntax not accepted: {' '.join(context)}")


def _store(association: object, image: Path | Dataset) -> int:
    """Send one image and return the C-STORE status.

    A data set in Explicit VR Little Endian is sent in Implicit VR where only that was accepted.
    """
    try:
        answer = association.send_c_store(image)  # type: ignore[attr-defined]
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
