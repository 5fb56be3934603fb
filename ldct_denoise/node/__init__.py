"""A DICOM node: receives series, denoises them by rules, sends the derived series on.

::

    storage_scp ──▶ spool: incoming ──▶ ready ──▶ outgoing ──▶ (deleted)
                       completion       worker     deliver └──▶ dead-letter

Every transition inside the spool is one rename on disk. Work that a killed node had begun is repeated at the next
start, with the same UIDs.
"""
