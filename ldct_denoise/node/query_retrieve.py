"""Find and retrieve series of a PACS by C-FIND and C-GET or C-MOVE (PS3.4 Annex C)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from ldct_denoise.io.dicom.instance import STORAGE_CLASSES, TRANSFER_SYNTAXES
from ldct_denoise.node.dimse import open_association
from ldct_denoise.node.sending import Unreachable
from ldct_denoise.node.settings import DimseSource

#: Information models that are used.
MODELS = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
#: Transfer syntaxes that C-GET proposes for each storage class; an association has at most 128 contexts.
_SYNTAXES = list(TRANSFER_SYNTAXES)
#: Takes the event of a C-STORE and returns its status.
OnStore = Callable[[Any], int]
_PENDING = (0xFF00, 0xFF01)


def find_series(source: DimseSource, ae_title: str, accession_number: str) -> list[tuple[str, str]]:
    """Study and Series Instance UIDs of the CT series with an accession number.

    Parameters
    ----------
    source : DimseSource
    ae_title : str
        Own AE title, unless the source names another.
    accession_number : str

    Returns
    -------
    list of (str, str)

    Raises
    ------
    Unreachable
        If the source does not answer, or refuses.
    """
    association = _open(source, ae_title, [(StudyRootQueryRetrieveInformationModelFind, None)])
    try:
        study = Dataset()
        study.QueryRetrieveLevel, study.AccessionNumber, study.StudyInstanceUID = "STUDY", accession_number, ""
        found = []
        for one in list(_find(association, study)):
            series = Dataset()
            series.QueryRetrieveLevel, series.StudyInstanceUID = "SERIES", one.StudyInstanceUID
            series.SeriesInstanceUID, series.Modality = "", "CT"
            found += [
                (str(one.StudyInstanceUID), str(item.SeriesInstanceUID))
                for item in _find(association, series)
                if item.get("Modality", "CT") == "CT"
            ]
        return found
    finally:
        _close(association)


def retrieve_series(
    source: DimseSource, ae_title: str, study_uid: str, series_uid: str, on_store: OnStore
) -> None:
    """Retrieve a series: by C-GET over this association, or by C-MOVE to the node's own receiver.

    Parameters
    ----------
    source : DimseSource
    ae_title : str
        Own AE title, unless the source names another. With C-MOVE also the destination.
    study_uid, series_uid : str
    on_store : callable
        Takes the images of a C-GET.

    Raises
    ------
    Unreachable
        If not all images came.
    """
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID, wanted.SeriesInstanceUID = "SERIES", study_uid, series_uid
    if source.retrieve == "move":
        association = _open(source, ae_title, [(StudyRootQueryRetrieveInformationModelMove, None)])
        answers = association.send_c_move(
            wanted, source.calling_ae_title or ae_title, StudyRootQueryRetrieveInformationModelMove
        )
    else:
        contexts: list[tuple[str, Any]] = [(StudyRootQueryRetrieveInformationModelGet, None)]
        contexts += [(storage_class, _SYNTAXES) for storage_class in STORAGE_CLASSES]
        roles = [build_role(storage_class, scp_role=True) for storage_class in STORAGE_CLASSES]
        association = _open(source, ae_title, contexts, roles, [(evt.EVT_C_STORE, on_store)])
        answers = association.send_c_get(wanted, StudyRootQueryRetrieveInformationModelGet)
    try:
        last = Dataset()
        for status, _ in answers:
            last = status
    except (RuntimeError, OSError):
        raise Unreachable("association lost") from None
    finally:
        _close(association)
    if last.get("Status") != 0x0000 or last.get("NumberOfFailedSuboperations"):
        told = "no answer" if "Status" not in last else f"status 0x{int(last.Status):04X}"
        failed = last.get("NumberOfFailedSuboperations") or 0
        raise Unreachable(f"C-{source.retrieve.upper()}: {told}, {failed} images failed")


def _open(
    source: DimseSource, ae_title: str, contexts: list[Any], roles: Any = (), handlers: Any = ()
) -> Association:
    association = open_association(source.peer, ae_title, contexts, roles=roles, handlers=handlers)
    if not association.is_established:
        raise Unreachable("query and retrieve are not supported by the source")
    return association


def _find(association: Association, query: Dataset) -> Iterator[Dataset]:
    try:
        for status, item in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            if "Status" not in status:
                raise Unreachable("no answer to C-FIND")
            if status.Status in _PENDING and item is not None:
                yield item
            elif status.Status != 0x0000:
                raise Unreachable(f"C-FIND: status 0x{int(status.Status):04X}")
    except (RuntimeError, OSError, ValueError):
        raise Unreachable("C-FIND: not possible on this association") from None


def _close(association: Association) -> None:
    if association.is_established:
        association.release()
