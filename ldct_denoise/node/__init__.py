"""A DICOM node beside the PACS: receives series, denoises them by rules, sends the derived series on.

::

    receive ──▶ spool: incoming ──▶ ready ──▶ outgoing ──▶ (sent)
                  receive, watch      work      send    └──▶ dead-letter

Every arrow inside the spool is one rename on disk; what a killed node was doing is done again, with the same UIDs.
"""
