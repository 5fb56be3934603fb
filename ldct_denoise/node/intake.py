"""Store images in the spool, from wherever they come: C-STORE, C-GET or WADO-RS."""

from __future__ import annotations

import logging

from ldct_denoise.errors import InputError, OutputError
from ldct_denoise.io.dicom.instance import read_instance_uids
from ldct_denoise.node.completion import Completion
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.spool import Spool

log = logging.getLogger("ldct_denoise.node")

#: C-STORE status (PS3.4 B.2.3).
SUCCESS, OUT_OF_RESOURCES, IDENTIFIER_MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000


class Intake:
    """Stores images and counts them.

    Parameters
    ----------
    spool : Spool
    completion : Completion
        Learns which association brought which series.
    counters : Counters
    """

    def __init__(self, spool: Spool, completion: Completion, counters: Counters) -> None:
        self._spool, self._completion, self._counters = spool, completion, counters

    def store(
        self,
        data: bytes,
        association: int,
        caller: tuple[str, str],
        *,
        announced_uid: str = "",
        is_urgent: bool = False,
    ) -> int:
        """Store an image; success means that it is safe on disk.

        Parameters
        ----------
        data : bytes
            The DICOM file.
        association : int
            Number of the transfer that brings it; see :meth:`transfer_ended`.
        caller : tuple of (str, str)
            AE title and address of the peer that has it.
        announced_uid : str
            SOP Instance UID that the image must have; empty for any.
        is_urgent : bool
            Whether its series goes first.

        Returns
        -------
        int
            C-STORE status.
        """
        try:
            uids = read_instance_uids(data)
            if announced_uid and uids.sop_uid != announced_uid:
                return self._refuse(IDENTIFIER_MISMATCH, "other SOP Instance UID than announced")
            key = self._spool.receive(uids, data)
            if is_urgent:
                self._spool.memory.mark_urgent(key)
        except InputError as error:
            log.warning("%s", error)
            return self._refuse(CANNOT_UNDERSTAND, "header")
        except OutputError as error:
            log.error("%s", error)
            return self._refuse(OUT_OF_RESOURCES, "no room")
        except Exception as error:  # a hostile caller must not end the thread of its transfer
            log.error("an image was refused: %s", type(error).__name__)
            return self._refuse(CANNOT_UNDERSTAND, "error")
        self._completion.image_received(key, association, caller)
        self._counters.add("images_received")
        return SUCCESS

    def transfer_ended(self, association: int, is_complete: bool) -> None:
        """Register the end of a transfer; after one that was complete, a series needs a shorter wait."""
        self._completion.association_ended(association, is_complete)

    def _refuse(self, status: int, reason: str) -> int:
        self._counters.add("images_refused", reason=reason)
        return status
